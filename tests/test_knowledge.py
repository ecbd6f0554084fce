"""`knowledge="arrived"`: what may be asked, what is written down of it, and large sets against plain SQL."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import featurestore as fs
from featurestore import FeatureStore
from featurestore.datasets.diff import diff
from featurestore.datasets.manifest import load
from featurestore.errors import FeatureStoreError, NotFound, RequestError
from featurestore.evaluate import point_in_time
from featurestore.evaluate.known import Known
from featurestore.time import DAY, HOUR, MINUTE, SECOND, hours
from tests.test_cli import fs as run
from tests.test_cli import fs_json as run_json

T0 = 1_709_280_000 * SECOND  # 2024-03-01T08:00
INSTANT = pa.timestamp("us", tz="UTC")
DEFINITIONS = """
from featurestore import BatchSource, Entity, FeatureService, FeatureView, Parquet, count, hours, latest, sum

who = Entity("who", key="k")
payments = BatchSource("payments", Parquet("payments.parquet"), "at", arrival_time="arrived")
visits = BatchSource("visits", Parquet("visits.parquet"), "at")
people = BatchSource("people", Parquet("people.parquet"))
paid = FeatureView("paid", who, payments, [sum("x").over(hours(1)), latest("x").named("x")])
seen = FeatureView("seen", who, visits, [count().over(hours(1)).named("visits")])
about = FeatureView("about", who, people, [latest("age")])
both = FeatureService("both", features=[paid, seen, about])
"""


def instants(*at: int | None) -> pa.Array:
    return pa.array([None if t is None else T0 + t for t in at], INSTANT)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Of "a": payments of 1, 10 and 100, 50, 30 and 10 minutes ago, which took 5, 45 and 5 minutes to arrive; visits then too."""
    at = [-50 * MINUTE, -30 * MINUTE, -10 * MINUTE]
    arrived = [-45 * MINUTE, 15 * MINUTE, -5 * MINUTE]
    keys = ["a"] * 3
    pq.write_table(
        pa.table({"k": keys, "at": instants(*at), "arrived": instants(*arrived), "x": [1, 10, 100]}),
        tmp_path / "payments.parquet",
    )
    pq.write_table(pa.table({"k": keys, "at": instants(*at)}), tmp_path / "visits.parquet")
    pq.write_table(pa.table({"k": ["a"], "age": [40]}), tmp_path / "people.parquet")
    pq.write_table(SPINE, tmp_path / "spine.parquet")
    (tmp_path / "definitions.py").write_text(DEFINITIONS, encoding="utf-8")
    (tmp_path / "fs.toml").write_text('[project]\nname = "knowledge"\n', encoding="utf-8")
    return tmp_path


SPINE = pa.table({"k": ["a"], "event_timestamp": instants(0)})

ASKED: dict[str, tuple[Mapping[str, Any], tuple[int | None, int | None, int, int]]] = {
    "all that is known today": ({}, (111, 100, 3, 40)),
    "what had arrived": ({"knowledge": "arrived"}, (101, 100, 3, 40)),
    "a lag of nothing": ({"knowledge": "arrived", "lag": timedelta(0)}, (101, 100, 3, 40)),
    "one lag for all": ({"knowledge": "arrived", "lag": timedelta(minutes=20)}, (1, 1, 2, 40)),
    "a lag as long as it takes": ({"knowledge": "arrived", "lag": timedelta(minutes=5)}, (101, 100, 3, 40)),
    "and just longer": ({"knowledge": "arrived", "lag": timedelta(minutes=5, microseconds=1)}, (1, 1, 3, 40)),
    "in a duration of ours": ({"knowledge": "arrived", "lag": hours(2)}, (None, None, 0, 40)),
    "of one source": ({"knowledge": "arrived", "lag": {"visits": timedelta(minutes=20)}}, (101, 100, 2, 40)),
    "of two sources": (
        {"knowledge": "arrived", "lag": {"visits": timedelta(0), "payments": hours(1)}},
        (None, None, 3, 40),
    ),
    "of a static source": ({"knowledge": "arrived", "lag": {"people": hours(1)}}, (101, 100, 3, 40)),
}


@pytest.mark.parametrize("asked", ASKED)
def test_what_may_be_asked(asked: str, project: Path) -> None:
    options, want = ASKED[asked]
    with FeatureStore(project) as store:
        (row,) = store.get_historical_features(SPINE, "both", **options).to_arrow().to_pylist()
    assert tuple(row[n] for n in ("x_sum_1h", "x", "visits", "age")) == want


WRONG: dict[str, tuple[Mapping[str, Any], type[FeatureStoreError], str]] = {
    "another kind of knowledge": ({"knowledge": "arived"}, RequestError, "did you mean 'arrived'"),
    "a lag of what is known today": ({"lag": hours(1)}, RequestError, 'add knowledge="arrived"'),
    "lags of what is known today": ({"lag": {"visits": hours(1)}}, RequestError, 'add knowledge="arrived"'),
    "a negative lag": (
        {"knowledge": "arrived", "lag": timedelta(-1)},
        RequestError,
        "the lag is negative(.|\n)*give zero or more",
    ),
    "a negative lag of a source": (
        {"knowledge": "arrived", "lag": {"visits": timedelta(-1)}},
        RequestError,
        "the lag of source 'visits' is negative",
    ),
    "a number": ({"knowledge": "arrived", "lag": 3600}, RequestError, "3600, which is no length of time"),
    "longer than time": (
        {"knowledge": "arrived", "lag": timedelta.max},
        RequestError,
        "longer than all time",
    ),
    "a source that is not read": (
        {"knowledge": "arrived", "lag": {"vists": hours(1)}},
        NotFound,
        "no source 'vists' in what this training set reads(.|\n)*did you mean 'visits'",
    ),
}


@pytest.mark.parametrize("asked", WRONG)
def test_what_may_not_be_asked_is_said(asked: str, project: Path) -> None:
    options, kind, says = WRONG[asked]
    with FeatureStore(project) as store, pytest.raises(kind, match=says):
        store.get_historical_features(SPINE, "both", **options)


def test_a_source_of_the_project_that_the_service_does_not_read_has_no_lag(project: Path) -> None:
    with FeatureStore(project) as store, pytest.raises(NotFound, match="there is visits"):
        store.get_historical_features(SPINE, "seen:visits", knowledge="arrived", lag={"people": hours(1)})


def test_the_manifest_remembers_and_the_set_is_made_again(project: Path) -> None:
    with FeatureStore(project) as store:
        asked = store.get_historical_features(SPINE, "both", knowledge="arrived", lag={"visits": hours(1)})
        asked.to_parquet(project / "arrived")
        said = load(project / "arrived").content
        assert said["parameters"]["knowledge"] == "arrived"
        assert said["parameters"]["lag"] == {"visits": HOUR}
        again = store.reproduce(project / "arrived", project / "again")
        assert (again.identical, again.changes) == (True, ())
        store.get_historical_features(SPINE, "both").to_parquet(project / "corrected")
    assert load(project / "corrected").content["service"] == said["service"]
    found = diff(project / "arrived", project / "corrected")
    assert not found.same
    assert any("parameters.knowledge" in line for line in found.to_json()["manifest"])


def test_splits_and_samples_keep_what_was_asked(project: Path) -> None:
    spine = pa.table({"k": ["a"] * 2, "event_timestamp": instants(0, 20 * MINUTE)})
    with FeatureStore(project) as store:
        whole = store.get_historical_features(spine, "both", knowledge="arrived")
        parts = whole.split("time", at=T0 + MINUTE)
        sums = [p.to_arrow()["x_sum_1h"].to_pylist() for p in parts.values()]
        assert sums == [[101], [110]]
        assert whole.sample(1.0).to_arrow()["x_sum_1h"].to_pylist() == [101, 110]


def test_the_command_asks_alike(project: Path) -> None:
    run(project, "apply", "--yes")
    given = ("dataset", "both", "--spine", "spine.parquet", "--knowledge", "arrived")

    def row(out: str, *lags: str) -> dict[str, Any]:
        run_json(project, *given, "--out", out, *lags)
        values: dict[str, Any] = pq.read_table(project / out).to_pylist()[0]
        return values

    assert row("a")["x_sum_1h"] == 101
    assert row("b", "--lag", "20m")["x_sum_1h"] == 1
    assert row("c", "--lag", "0s")["x_sum_1h"] == 101
    both = row("d", "--lag", "visits=20m", "--lag", "payments=2h")
    assert (both["x_sum_1h"], both["visits"]) == (None, 2)
    assert load(project / "d").content["parameters"]["lag"] == {"payments": 2 * HOUR, "visits": 20 * MINUTE}
    assert run_json(project, "dataset", "reproduce", "d", "--out", "e")["identical"] is True


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("--knowledge", "known"), 2, "'known' is not one of 'corrected', 'arrived'"),
        (("--lag", "1h"), 1, 'add knowledge="arrived"'),
        (("--knowledge", "arrived", "--lag", "soon"), 2, "--lag soon is no length of time"),
        (("--knowledge", "arrived", "--lag", "visits=soon"), 2, "--lag soon is no length of time"),
        (("--knowledge", "arrived", "--lag", "1h", "--lag", "2h"), 2, "give one length for all sources"),
        (("--knowledge", "arrived", "--lag", "visits=1h", "--lag", "visits=2h"), 2, "each source once"),
        (("--knowledge", "arrived", "--lag", "-1h"), 1, "negative"),
        (("--knowledge", "arrived", "--lag", "vists=1h"), 1, "did you mean 'visits'"),
    ],
)
def test_the_command_says_what_is_wrong(
    project: Path, arguments: tuple[str, ...], status: int, says: str
) -> None:
    done = run(
        project,
        "dataset",
        "both",
        "--spine",
        "spine.parquet",
        "--out",
        "out",
        *arguments,
        status=status,
    )
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project / "out").exists()


# ----------------------------------------------------------------------------------------------------------- many events


def test_what_arrives_in_order_has_no_holes() -> None:
    """However late: then a set of what had arrived costs what one of what is known today does."""
    known = Known(np.array([5, 5, 9, 12, 30], np.int64))
    moments = np.array([1, 6, 10, 31], np.int64)
    ends = known.ends(moments)
    assert ends.tolist() == [0, 2, 3, 5]
    assert known.hidden(moments, ends) is None


def test_a_hole_is_an_event_that_a_later_one_overtook() -> None:
    known = Known(np.array([5, 20, 7, 8, 30], np.int64))
    moments = np.array([6, 8, 9, 20, 21, 40], np.int64)
    ends = known.ends(moments)
    assert ends.tolist() == [1, 3, 4, 4, 4, 5]
    hidden = known.hidden(moments, ends)
    assert hidden is not None
    assert (hidden.events.tolist(), hidden.first.tolist(), hidden.last.tolist()) == ([1], [1], [4])


SIZES: list[tuple[str, int | None, int]] = [
    ("10m", 10 * MINUTE, MINUTE),
    ("6h", 6 * HOUR, 5 * MINUTE),
    ("1d", DAY, HOUR),
    ("lifetime", None, DAY),
]
AGGREGATES = {
    "n": (fs.count(), "count(x.t) FILTER ({})"),
    "total": (fs.sum("v"), "sum(v) FILTER ({})"),
    "least": (fs.min("v"), "min(v) FILTER ({})"),
    "spread": (fs.var_pop("f"), "var_pop(f) FILTER ({})"),
    "kinds": (fs.count_distinct("c", k=64), "count(DISTINCT c) FILTER ({})"),
    "firsts": (fs.first_k("i", 3), "(list(i ORDER BY x.t, i) FILTER ({}))[1:3]"),
    "lasts": (fs.last_k("i", 3), "(list(i ORDER BY x.t, i) FILTER ({}))[-3:]"),
    "most": (fs.largest_k("v", 2), "(list(v ORDER BY v DESC) FILTER ({}))[1:2]"),
    "tally": (fs.histogram("c"), "histogram(c) FILTER ({})"),
    "at_most": (fs.max_by("i", "v"), "arg_max(i, (v, -x.t, -i)) FILTER ({})"),
}
"""What a window is of, and the same in SQL over a condition."""


@pytest.mark.parametrize(("lag", "holes"), [(0, 1 << 21), (MINUTE, 1 << 21), (0, 500)])
def test_many_events_that_arrive_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lag: int, holes: int
) -> None:
    """A few busy entities and many quiet ones; one event in twenty arrives hours late, and some before they happened."""
    monkeypatch.setattr(point_in_time, "HOLES", holes)
    random, n, rows = np.random.default_rng(8), 4000, 300
    at = T0 + random.integers(0, 2 * 86_400, n) * SECOND
    delay = random.exponential(60, n) + np.where(random.random(n) < 0.05, random.exponential(9000, n), 0)
    delay -= np.where(random.random(n) < 0.1, 900, 5)
    keys = np.where(random.random(n) < 0.8, random.integers(0, 3, n), random.integers(3, 300, n))
    events = pa.table(
        {
            "k": keys,
            "at": pa.array(at, INSTANT),
            "arrived": pa.array(at + (delay * 1e6).astype(np.int64), INSTANT, mask=random.random(n) < 0.02),
            "i": np.arange(n),
            "v": random.integers(-50, 50, n),
            "f": random.normal(0, 1, n),
            "c": random.integers(0, 20, n),
        }
    )
    pq.write_table(events, tmp_path / "events.parquet")
    asked = T0 + random.integers(0, 2 * 86_400, rows) * SECOND
    who = np.where(random.random(rows) < 0.8, random.integers(0, 3, rows), random.integers(3, 310, rows))
    spine = pa.table({"k": who, "event_timestamp": pa.array(asked, INSTANT), "row": np.arange(rows)})
    (tmp_path / "fs.toml").write_text('[project]\nname = "many"\n', encoding="utf-8")
    source = fs.BatchSource(
        "events", fs.Parquet("events.parquet"), "at", arrival_time="arrived", tiebreak=("i",)
    )
    features = [
        aggregate.over(
            fs.lifetime if size is None else fs.time.Duration(size), hop=fs.time.Duration(hop)
        ).named(f"{name}_{word}")
        for word, size, hop in SIZES
        for name, (aggregate, _) in AGGREGATES.items()
    ]
    view = fs.FeatureView("v", fs.Entity("who", key="k"), source, [*features, fs.latest("i")])
    with FeatureStore(tmp_path) as store:
        got = store.get_historical_features(
            spine, view, knowledge="arrived", lag=timedelta(microseconds=lag)
        ).to_arrow()
    select = []
    for word, size, hop in SIZES:
        inside = "x.t IS NOT NULL" if size is None else f"x.t >= s.t - s.t % {hop} - {size}"
        select += [f"{sql.format(inside)} AS {name}_{word}" for name, (_, sql) in AGGREGATES.items()]
    con = duckdb.connect()
    con.register("spine", spine)
    con.register("events", events)
    want = con.sql(
        f"""SELECT s.row, {", ".join(select)}, arg_max(x.i, (x.t, x.i)) AS i
        FROM (SELECT row, k, epoch_us(event_timestamp) AS t FROM spine) s LEFT JOIN
            (SELECT *, epoch_us("at") AS t, epoch_us(coalesce(arrived, "at")) AS came FROM events) x
        ON s.k = x.k AND x.t < s.t AND greatest(came + {lag}, x.t + 1) <= s.t GROUP BY s.row, s.t ORDER BY s.row"""
    ).to_arrow_table()
    for name in want.column_names[1:]:
        ours, theirs = (table[name].to_pylist(maps_as_pydicts="strict") for table in (got, want))
        for row, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert same(a, b), (name, row, a, b)


def same(got: Any, want: Any) -> bool:
    """Equal, or nearly; SQL has NULL for an empty list or map."""
    if isinstance(got, float) and want is not None:
        return abs(got - want) <= 1e-9 * abs(want)
    return bool(got == want or (not got and want is None))


def test_arrivals_of_all_times_in_many_entities(tmp_path: Path) -> None:
    """Moments of ten thousand years and the number of an entity do not fit into 63 bits together."""
    year_1, year_9999, keys = -62_135_596_800 * SECOND, 253_370_764_800 * SECOND, list(range(20))
    parts = [(0, year_1, 1), (MINUTE, year_9999, 10), (2 * MINUTE, T0 + 10 * MINUTE, 100)]
    columns = [(k, T0 + at, arrived, x) for k in keys for at, arrived, x in parts]
    k, at, arrived, x = zip(*columns, strict=True)
    events = {"k": k, "at": pa.array(at, INSTANT), "arrived": pa.array(arrived, INSTANT), "x": x}
    pq.write_table(pa.table(events), tmp_path / "events.parquet")
    (tmp_path / "fs.toml").write_text('[project]\nname = "ages"\n', encoding="utf-8")
    source = fs.BatchSource("events", fs.Parquet("events.parquet"), "at", arrival_time="arrived")
    view = fs.FeatureView(
        "v", fs.Entity("who", key="k"), source, [fs.sum("x").over(hours(1)).named("total"), fs.latest("x")]
    )
    moments = [1, 5 * MINUTE, 10 * MINUTE - 1, 10 * MINUTE]
    asked = [(k, m) for k in keys for m in moments]
    spine = pa.table({"k": [k for k, _ in asked], "event_timestamp": instants(*(m for _, m in asked))})
    with FeatureStore(tmp_path) as store:
        got = store.get_historical_features(spine, view, knowledge="arrived").to_arrow()
    assert got["total"].to_pylist() == [1, 1, 1, 101] * 20
    assert got["x"].to_pylist() == [1, 1, 1, 100] * 20
