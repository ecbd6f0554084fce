"""What a Flink job looks like, a small piece for each idea, and what is refused. That it is right is the parity tests' matter."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from featurestore import declare as d
from featurestore.aggregates import AGGREGATES as KNOWN
from featurestore.compile.flink import FLINK, JAVA
from featurestore.compile.flink_job import (
    AGGREGATES,
    Job,
    files_wire,
    job_of,
    kafka_steps,
    topic_prefix,
    wire_of,
)
from featurestore.compile.programs import programs
from featurestore.compile.sql import expr_sql
from featurestore.declare import declarations_in
from featurestore.errors import Unsupported
from featurestore.expr import Expression, col, lit, when
from featurestore.expr.functions import row_functions
from featurestore.ir import View
from featurestore.lower import lower
from featurestore.time import days, hours, minutes
from featurestore.types import Bool, Decimal, DType, Float64, Int64, List, String, Timestamp
from tests import flink_records, flink_vectors
from tests.flink_cluster import STREAMING
from tests.parity.engines import declared

COLUMNS: dict[str, DType] = {
    "card": String, "id": String, "at": Timestamp, "amount": Decimal(12, 2), "shop": String, "x": Float64,
}  # fmt: skip


def view_of(*features: d.Aggregation, **source: Any) -> View:
    given = {
        "event_id": "id",
        "lateness": minutes(10),
        "stream": d.Kafka("purchases"),
        "columns": COLUMNS,
        **source,
    }
    events = d.StreamSource("purchases", batch=d.Parquet("x.parquet"), event_time="at", **given)
    view = d.FeatureView(
        "spend", d.Entity("card", key="card"), events.where(col("amount") > 0), list(features)
    )
    return lower(declarations_in([d.FeatureService("svc", [view])]), declared).view("spend")


def job(*features: d.Aggregation, **source: Any) -> Job:
    view = view_of(*features, **source)
    return job_of(view, wire_of(view))


def step(job: Job, name: str) -> str:
    return next(s.sql for s in job.statements if s.name == name)


def said(expression: Expression, **schema: DType) -> str:
    return expr_sql(expression.node, schema, FLINK)


@pytest.mark.parametrize(
    ("expression", "schema", "want"),
    [
        (col("a") + 1, {"a": Int64}, "fs_add_int(`a`, CAST(1 AS BIGINT))"),
        (col("a") / 2, {"a": Int64}, "fs_div(CAST(`a` AS DOUBLE), CAST(2.0E0 AS DOUBLE))"),
        (col("m") * col("m"), {"m": Decimal(12, 2)}, "fs_mul_decimal(fs_widen(`m`, 0), fs_widen(`m`, 0), 18)"),
        (col("s") < "b", {"s": String}, "(fs_compare(`s`, CAST('b' AS STRING)) < 0)"),
        (col("a").is_in([1, 2]), {"a": Int64}, "(`a` IN (CAST(1 AS BIGINT), CAST(2 AS BIGINT)))"),
        (col("t").year(), {"t": Timestamp}, "fs_year(fs_day_of(`t`))"),
        (col("s").cast(Int64), {"s": String}, "fs_read_int(`s`, '[+-]?[0-9]{1,30}')"),
        (when(col("p")).then("x").otherwise(None), {"p": Bool},
         "(CASE WHEN `p` THEN CAST('x' AS STRING) ELSE CAST(NULL AS STRING) END)"),
        (lit("it's"), {}, "CAST('it''s' AS STRING)"),
        (col("a`b").is_null(), {"a`b": Int64}, "(`a``b` IS NULL)"),
    ],
)  # fmt: skip
def test_an_expression_in_flink(expression: Expression, schema: dict[str, DType], want: str) -> None:
    assert said(expression, **schema) == want


def test_every_row_function_has_a_leaf() -> None:
    assert set(FLINK.functions) == set(row_functions())


def test_every_function_of_a_job_is_a_class_of_the_project() -> None:
    java = STREAMING / "java" / "src" / "main" / "java" / "featurestore" / "flink"
    for name in (*JAVA.values(), *AGGREGATES.values()):
        file, _, inner = name.removeprefix("featurestore.flink.").partition("$")
        declared = f"public static class {inner} extends" if inner else f"public class {file} extends"
        assert declared in (java / f"{file}.java").read_text(), name


def test_a_tile_is_an_updating_group_by_of_key_and_tile() -> None:
    (tiles,) = job(d.count().over(hours(1))).queries
    assert (tiles.name, tiles.keys, tiles.level) == ("tiles 5m", 2, 0)
    assert tiles.sql == (
        "SELECT k0, `tile`, `all`.`rows count - - n` AS `rows`, `all`.`first_at min:BIGINT 0 - v` AS `first_at`, "
        "`all`.`last_at max:BIGINT 0 - v` AS `last_at`, `all`.`p0 count - - n` AS `p0_n` FROM (SELECT k0, `tile`, "
        "fs_partials('rows count - -; first_at min:BIGINT 0 -; last_at max:BIGINT 0 -; p0 count - -', `t`) AS `all` FROM "
        "(SELECT *, fs_tile(`t`, 300000000) AS `tile` FROM `spend events`) GROUP BY k0, `tile`)"
    )
    assert list(tiles.columns) == ["k0", "tile", "rows", "first_at", "last_at", "p0_n"]


def test_newest_rows_are_made_where_latest_values_are_asked_for() -> None:
    (newest,) = job(d.latest("shop")).queries
    assert (newest.name, newest.keys, newest.level) == ("newest", 1, 255)
    assert newest.sql.endswith("GROUP BY k0)")
    assert list(newest.columns) == ["k0", "first_at", "last_at", "v0"]


def test_all_tiles_of_a_view_go_into_one_topic() -> None:
    view = view_of(d.count().over(hours(1), days(7)), d.latest("shop"))
    steps = {s.name: s.sql for s in kafka_steps(job_of(view, wire_of(view)), epoch=3, partitions=8)}
    outs = [sql for name, sql in steps.items() if name.endswith(" out") and name != "dead letters out"]
    assert len(outs) == 3
    for level, sql in zip(("0", "1", "255"), outs, strict=True):
        assert f"'connector' = 'fs-tiles', 'topic' = '{topic_prefix(view)}.tiles'" in sql
        assert f"'topic.partitions' = '8', 'level' = '{level}', 'keys' = '1', 'epoch' = '3')" in sql
    assert "PRIMARY KEY (`k0`, `tile`) NOT ENFORCED" in outs[0]


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ({}, "'scan.startup.mode' = 'earliest-offset'"),
        ({"since": 1_700_000_000_000_000},
         "'scan.startup.mode' = 'timestamp', 'scan.startup.timestamp-millis' = '1700000000000'"),
        ({"offsets": {1: 7, 0: 42}}, ("'scan.startup.mode' = 'specific-offsets', "
         "'scan.startup.specific-offsets' = 'partition:0,offset:42;partition:1,offset:7'")),
    ],
)  # fmt: skip
def test_a_job_begins_where_it_is_told(given: dict[str, Any], want: str) -> None:
    view = view_of(d.count().over(hours(1)))
    payloads = step(job_of(view, wire_of(view, **given)), "payloads")
    assert want in payloads
    assert f"'properties.group.id' = '{topic_prefix(view)}'" in payloads


@pytest.mark.parametrize(
    ("feature", "want"),
    [
        (d.sum("amount"), "p0 sum_int 1 -', `t`, x0) AS `all`"),
        (d.sum("x"), "p0 sum_double 1 -', `t`, x0) AS `all`"),
        (d.max("x").where(col("shop") == "a"), "p0 max:DOUBLE 1 2', `t`, x0, x1) AS `all`"),
        (d.var_pop("amount"), "p0 moments2 1 -', `t`, fs_decimal_to_double(x0, 2)) AS `all`"),
        (d.last("shop"), "fs_last(x0, `t`, `o`) AS `p0`"),
        (d.max_by("shop", "amount"), "fs_max_by(x0, x1, `t`, `o`) AS `p0`"),
        (d.count_distinct("shop"), "fs_distinct(fs_hash(x0), "),
        (d.quantile("x", 0.5), "fs_frequencies(fs_bucket(CAST(x0 AS DOUBLE)), 2147483647) AS `p0`"),
    ],
)
def test_a_partial_in_flink(feature: d.Aggregation, want: str) -> None:
    assert want in job(feature.over(hours(1))).queries[0].sql


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_every_aggregate_has_its_functions(name: str) -> None:
    feature = getattr(d, name)
    given = {"min_by": ("shop", "x"), "max_by": ("shop", "x"), "quantile": ("x", 0.5)}.get(name, ("x",))
    given = (*given, 2) if name.endswith("_k") or name == "most_frequent" else given
    made = job(feature(*given).over(hours(1)))
    called = {name for name in (*JAVA, *AGGREGATES) if any(f"{name}(" in q.sql for q in made.queries)}
    assert called <= {ddl.split()[4] for ddl in made.functions}


def test_an_event_is_judged_by_its_own_record() -> None:
    judged = step(job(d.count().over(hours(1))), "judged")
    assert "WHEN `#stamped` - `at` > 600000000 THEN 'late'" in judged
    assert "WHEN `at` - `#stamped` > 300000000 THEN 'of the future'" in judged
    arrived = job(d.count().over(hours(1)), columns={**COLUMNS, "came": Timestamp}, arrival_time="came")
    assert "WHEN `came` - `at` > 600000000 THEN 'late'" in step(arrived, "judged")


def test_in_batch_nothing_is_late_and_the_first_copy_is_that_of_every_engine() -> None:
    batch = job_of(view_of(d.count().over(hours(1))), files_wire("file:///events"), mode="batch")
    assert "'late'" not in step(batch, "judged")
    assert "ORDER BY `amount` ASC NULLS FIRST, `card` ASC NULLS FIRST)" in step(batch, "events")
    assert batch.settings["execution.runtime-mode"] == "batch"


def test_copies_are_told_apart_by_key_time_and_id() -> None:
    once = job(d.sum("x").over(hours(1)))
    assert step(once, "copies").endswith(
        "AS SELECT * FROM fs_once(input => TABLE `spend candidates` PARTITION BY (`#event`), uid => 'spend')"
    )
    assert (
        "SELECT (CASE WHEN `id` IS NOT NULL THEN fs_content(`amount`, `card`, `x`) END) AS `#content`, "
        "fs_order_key(`#k0`, `#t`, `id`) AS `#event`, " in step(once, "candidates")
    )
    assert step(once, "events").endswith("FROM `spend copies` WHERE NOT `#unequal`")
    assert "'unequal copy' AS `reason`" in once.dead_letters
    without = job(d.count().over(hours(1)), event_id=None)
    assert [s.name for s in without.statements] == ["payloads", "decoded", "judged", "events"]
    assert "unequal" not in without.dead_letters


def test_updates_come_in_batches() -> None:
    assert job(d.count().over(hours(1))).settings["table.exec.mini-batch.enabled"] == "true"


def test_state_is_kept_for_hop_lateness_and_outage() -> None:
    view = view_of(d.count().over(days(10)))
    kept = days(1).microseconds + minutes(10).microseconds + hours(2).microseconds
    settings = job_of(view, wire_of(view), outage=hours(2).microseconds).settings
    assert settings["table.exec.state.ttl"] == f"{kept // 1000} ms"


def test_properties_and_variables_reach_the_topic_as_they_are() -> None:
    topic = d.Kafka("t", bootstrap="${BROKERS}", properties={"security.protocol": "SSL"})
    made = job(d.count().over(hours(1)), stream=topic)
    outs = [s.sql for s in kafka_steps(made) if s.name.endswith(" out")]
    assert len(outs) == 2
    for sql in (step(made, "payloads"), *outs):
        assert "'properties.bootstrap.servers' = '${BROKERS}'" in sql
        assert "'properties.security.protocol' = 'SSL'" in sql


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            {"stream": d.Kafka("t", format="avro", properties={"schema.registry.url": "x"})},
            "ask a schema registry",
        ),
        ({"stream": d.Files("events")}, "read source 'purchases'"),
        ({"columns": {**COLUMNS, "#x": Int64}}, "read a column called '#x'"),
    ],
)
def test_what_a_job_cannot_do_is_refused(source: dict[str, Any], message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        job(d.count().over(hours(1)), **source)


def test_a_topic_of_avro_differs_by_the_function_that_reads_it_alone() -> None:
    def text(wire: d.Kafka) -> str:
        return "\n".join(s.sql for s in job(d.count().over(hours(1)), stream=wire).statements)

    framed = {"avro.schema.id": "3", "security.protocol": "SSL"}
    json_text, avro_text = text(d.Kafka("t")), text(d.Kafka("t", format="avro", properties=framed))
    assert "fs_json_event(`payload`, '[[" in json_text
    assert "fs_avro_event(`payload`, '{" in avro_text
    assert '"number": 3}' in avro_text
    assert "'properties.security.protocol' = 'SSL'" in avro_text
    assert "properties.avro" not in avro_text, "what is ours is no property of a client"


def test_a_list_that_nobody_reads_may_come_along() -> None:
    assert "List(Float64)" in step(
        job(d.count().over(hours(1)), columns={**COLUMNS, "more": List(Float64)}), "decoded"
    )


def test_a_static_source_has_no_job() -> None:
    view = view_of(d.count().over(hours(1)))
    static = replace(view, source=replace(view.source, event_time=None))
    with pytest.raises(Unsupported, match="static source"):
        job_of(static, files_wire("file:///events"))


def test_programs_are_the_statements_of_a_job_in_order(tmp_path: Path) -> None:
    with duckdb.connect() as con:
        found = programs(con, view_of(d.count().over(hours(1))), tmp_path, "flink")
    names = [program.name for program in found]
    assert names[:5] == ["settings", "functions", "payloads", "decoded", "judged"]
    assert names[-2:] == ["tiles 5m", "dead letters"]
    assert all(p.sql.startswith("INSERT INTO `spend ") for p in found[-2:])


@pytest.mark.parametrize("vectors", [flink_vectors, flink_records], ids=["partials", "records"])
def test_vectors_are_what_python_makes(vectors: Any) -> None:
    """What JUnit holds Java to. `python -m tests.flink_vectors` and `tests.flink_records` write it anew."""
    assert json.loads(vectors.FILE.read_text()) == json.loads(vectors.text())


@pytest.mark.parametrize("record", flink_records.RECORDS, ids=lambda record: record[0])
def test_a_record_is_read_as_it_was_written(record: Any) -> None:
    _, columns, _, level, epoch, row = record
    value = flink_records.value_of(columns, level, epoch, row)
    assert list(flink_records.read(value, columns).values()) == row


@pytest.mark.flink
@pytest.mark.slow
def test_flink_plans_the_whole_job_and_reads_everything_once(flink: Any, tmp_path: Path) -> None:
    """As `fs compile --json` prints it and as the driver reads it; no broker is asked."""
    features = [
        d.count().over(hours(1)),
        d.sum("amount").over(days(7)),
        d.last("shop").over(days(7)),
        d.latest("shop"),
    ]
    with duckdb.connect() as con:
        found = programs(
            con, view_of(*features, stream=d.Kafka("t", bootstrap="localhost:1")), tmp_path, "flink"
        )
    plan = flink.plan({"engine": "flink", "programs": [asdict(p) for p in found]})
    executed = plan[plan.index("== Optimized Execution Plan ==") :]
    assert (
        executed.count("fs_json_event(")
        == executed.count("ProcessTableFunction(")
        == executed.count("TableSourceScan(")
        == 1
    )
    assert executed.count("Sink(") == 4


# ── the driver's reading of a job file, which needs no Flink ────────────────────────────────────────────────


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[dict[str, Any]], Any]:
    """`fsflink.job.Job.read` of a file of this content."""
    monkeypatch.syspath_prepend(STREAMING)
    job = importlib.import_module("fsflink.job")

    def file(content: dict[str, Any]) -> Any:
        path = tmp_path / "job.json"
        path.write_text(json.dumps(content))
        return job.Job.read(path)

    return file


def compiled(view: View, root: Path) -> dict[str, Any]:
    with duckdb.connect() as con:
        return {"engine": "flink", "programs": [asdict(p) for p in programs(con, view, root, "flink")]}


def test_the_driver_tells_settings_statements_and_inserts_apart(
    read: Callable[[dict[str, Any]], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "a:1,b's:2")
    job = read(compiled(view_of(d.count().over(hours(1))), tmp_path))
    assert job.settings["execution.runtime-mode"] == "streaming"
    assert not job.batch
    assert all(s.startswith("CREATE TEMPORARY ") for s in job.statements)
    assert len(job.inserts) == 2
    assert any("'properties.bootstrap.servers' = 'a:1,b''s:2'" in s for s in job.statements)


def test_the_driver_refuses_what_is_no_job(
    read: Callable[[dict[str, Any]], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP", raising=False)
    one = compiled(view_of(d.count().over(hours(1))), tmp_path)
    with pytest.raises(ValueError, match=r"\$\{KAFKA_BOOTSTRAP\} is not set"):
        read(one)
    two = {**one, "programs": [*one["programs"], {**one["programs"][0], "view": "other"}]}
    with pytest.raises(ValueError, match="it is of other, spend: a job is of one view"):
        read(two)
    with pytest.raises(ValueError, match="it was compiled for duckdb: add --engine flink"):
        read({"engine": "duckdb", "programs": []})
    with pytest.raises(ValueError, match="is no job file"):
        read({"no": "job"})
