"""Expectations in a project: declared, planned, judged by name, kept; and the page about them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import featurestore as fs
from featurestore import FeatureStore, expect, ir
from featurestore.cli import main
from featurestore.errors import DefinitionError, ExpectationFailed, NotFound, RequestError, Unsupported
from featurestore.layout import storage_fingerprint
from featurestore.validation.code import code, suite_code

ROOT = Path(__file__).parent.parent
PAGE = re.findall(r"```python\n(.*?)```", (ROOT / "docs/expectations.md").read_text("utf-8"), flags=re.DOTALL)
NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)


def purchases(**changed: Any) -> pa.Table:
    rows: dict[str, Any] = {
        "card_id": [1, 1, 2, 3],
        "at": [NOON + timedelta(minutes=m) for m in range(4)],
        "amount": [10.0, 20.0, 30.0, 5.0],
        "fee": [1.0, 0.0, 2.0, None],
        "currency": ["EUR", "EUR", "USD", "EUR"],
    }
    return pa.table(rows | changed)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project of the page."""
    (tmp_path / "data").mkdir()
    (tmp_path / "fs.toml").write_text('[project]\nname = "cards"\n', encoding="utf-8")
    (tmp_path / "cards.py").write_text(PAGE[0], encoding="utf-8")
    pq.write_table(purchases(), tmp_path / "data" / "purchases.parquet")
    return tmp_path


def test_the_page_runs(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "definitions").symlink_to(project)
    monkeypatch.chdir(project)
    names: dict[str, Any] = {"expect": expect}
    exec(compile(PAGE[1], "docs/expectations.md", "exec"), names)
    assert names["found"].passed, names["found"]
    assert [v.outcome for v in names["anything"].verdicts] == ["failed", "passed"]
    assert "passed currency in {'EUR', 'USD'}" in capsys.readouterr().out


def edited(project: Path, old: str, new: str) -> None:
    text = (project / "cards.py").read_text("utf-8")
    assert old in text
    (project / "cards.py").write_text(text.replace(old, new), encoding="utf-8")


def test_a_changed_expectation_is_metadata_only(project: Path) -> None:
    with FeatureStore(project) as store:
        store.apply()
        before = store.registry.current().plan
        edited(project, '["EUR", "USD"]', '["EUR", "USD", "CHF"]')
        edited(project, "mostly=0.5", "mostly=0.25")
        edited(project, '"amount_mean_7d", 0, 10_000)', '"amount_mean_7d", 0, 10_000, on_failure="block")')
        plan = store.plan()
        assert {(c.name, c.effect) for c in plan.changes} == {
            ("purchases", "metadata only"),
            ("spend", "metadata only"),
            ("fraud", "metadata only"),
        }
        said = " ".join(r for c in plan.changes for r in c.reasons)
        assert "expects currency in {'EUR', 'USD', 'CHF'} (warn)" in said
        assert "on failure of expectation 'amount_mean_7d between 0 and 10000' warn -> block" in said
        assert not plan.drafts
        after = plan.desired
    assert storage_fingerprint(before.view("spend")) == storage_fingerprint(after.view("spend"))
    assert ir.view_fingerprint(before.view("spend")) == ir.view_fingerprint(after.view("spend"))


def test_expectations_come_back_from_the_registry(project: Path) -> None:
    with FeatureStore(project) as store:
        store.apply()
        assert store.registry.current().plan == store.definitions()
        (source,) = store.registry.current().plan.sources
        assert len(source.expectations) == 8
        assert dict(source.expectations[0].check.columns) == source.schema  # type: ignore[union-attr, arg-type]


WRONG = [
    ('expect.not_null("amuont")', "there is no column 'amuont'", "did you mean 'amount'?"),
    ('expect.between("currency", 1, 2)', "1 does not compare with String", ""),
    ('expect.between("amount", 2, 1)', "nothing lies between 2 and 1", ""),
    ('expect.between("amount")', "neither bound is given", ""),
    ('expect.not_null("amount", mostly=1.5)', "mostly=1.5: a share above 0, up to 1", ""),
    ('expect.matches("currency", "(")', "the pattern '(' is none", ""),
    ('expect.matches("currency", "a(?=b)")', "looks around or back", ""),
    ('expect.row_count(1, on_failure="quarantine")', "judges no single row that could be put aside", ""),
    ('expect.row_count(1, on_failure="explode")', "there is warn, quarantine, block", ""),
    ('expect.mean_between("currency", 1)', "the mean is taken of numbers", ""),
    ('expect.not_null("amount", where=col("nobody") > 1)', "there is no column 'nobody'", ""),
    ('expect.fresh(fs.hours(1), "amount")', "age is of a Timestamp", ""),
    ("1", "which is no expectation", "expectations are written as"),
]


@pytest.mark.parametrize(("text", "what", "help"), WRONG, ids=[w[0] for w in WRONG])
def test_a_mistake_has_its_line(project: Path, text: str, what: str, help: str) -> None:
    edited(project, 'expect.row_count(3, on_failure="block")', text)
    with FeatureStore(project) as store, pytest.raises(DefinitionError) as raised:
        store.definitions()
    (problem,) = raised.value.problems
    assert what in problem.what
    assert help in " ".join(problem.help)
    assert problem.where is not None


def test_feature_values_are_not_put_aside(project: Path) -> None:
    edited(project, "mostly=0.5", 'on_failure="quarantine"')
    with FeatureStore(project) as store, pytest.raises(DefinitionError, match="no rows to put aside"):
        store.definitions()


def test_a_source_a_view_and_a_table_are_judged_and_kept(project: Path) -> None:
    with FeatureStore(project) as store:
        store.apply()
        assert store.validate("purchases", who="ann").passed
        assert store.validate("purchases", engine="gx").passed
        view = store.validate("spend")
        assert (view.kind, view.rows) == ("view", 3)
        service = store.validate("fraud")
        assert [v.outcome for v in service.verdicts] == ["not_evaluated"]
        assert "keeps nothing" in service.verdicts[0].why
        given = store.validate("fraud", {"amount_mean_7d": [1.0, None, None]})
        assert [v.outcome for v in given.verdicts] == ["failed"]
        late = store.validate("purchases", start=NOON + timedelta(minutes=2))
        assert late.rows == 2
        assert {v.expectation.kind for v in late.failed} == {"row_count", "share_between"} - {"share_between"}
        kept = store.validations("purchases")
        assert [v.who for v in kept][-1] == "ann"
        assert kept[0].verdicts == late.verdicts
        assert kept[0].definition == kept[-1].definition
        assert store.validations(since=late.at)[0].run == late.run
        with pytest.raises(NotFound, match="did you mean 'purchases'"):
            store.validate("purchase")
        with pytest.raises(RequestError, match="there is no engine 'spark'"):
            store.validate("purchases", engine="spark")
        with pytest.raises(RequestError, match="leave the bounds"):
            store.validate("spend", start=NOON)
        with pytest.raises(RequestError, match="what to judge"):
            store.validate(rows={"x": [1]})


def test_the_results_are_a_table_of_their_own(project: Path) -> None:
    import duckdb

    with FeatureStore(project) as store:
        store.validate("purchases")
        path = store.config.offline / "validations" / "*.parquet"
    rows = duckdb.connect().execute(f"SELECT outcome, count(*) FROM '{path}' GROUP BY 1").fetchall()
    assert rows == [("passed", 8)]


def test_files_that_changed_under_a_source_are_judged_all_the_same(project: Path) -> None:
    """A type that changed in mid-stream: what was expected of numbers cannot be judged of texts, and the schema fails."""
    table = purchases(amount=["10", "20", "x", "5"]).append_column("extra", pa.array([1, 2, 3, 4]))
    with FeatureStore(project) as store:
        store.apply()
        pq.write_table(table.drop_columns("fee"), project / "data" / "purchases.parquet")
        found = {v.expectation.kind: v for v in store.validate("purchases", applied=True).verdicts}
    assert found["schema"].failed
    assert (
        found["schema"].why == "column fee is gone; column amount is String, not Float64; column extra is new"
    )
    assert found["between"].outcome == found["mean_between"].outcome == "not_evaluated"
    assert "does not compare with String" in found["between"].why
    assert "there is no column 'fee'" in found["greater"].why
    assert found["in_set"].passed


def test_statistics_that_are_kept_answer_without_rows(project: Path) -> None:
    with FeatureStore(project) as store:
        store.apply()
        store.materialize(end=NOON + timedelta(hours=1))
        made = store.materialized_statistics("spend", at=NOON + timedelta(hours=1))
        store.keep_statistics("spend", made, origin="materialized")
        found = store.validate("spend", engine="statistics")
        assert found.passed
        assert found.rows == 3


def test_a_suggestion_holds_of_its_rows_and_reads_back(project: Path) -> None:
    with FeatureStore(project) as store:
        found = store.suggest_expectations("purchases")
        assert store.validate("purchases", expectations=found, keep=False).passed
    kinds = {e.kind for e in found}
    assert {"schema", "row_count", "not_null", "between", "in_set"} <= kinds
    back = eval("[" + suite_code(found).partition("[")[2].rstrip(","), {"expect": expect, "fs": fs})
    assert tuple(back) == found
    assert code(expect.fresh(fs.hours(36), "at")) == "expect.fresh(fs.hours(36), 'at')"


@pytest.fixture
def run(project: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(*arguments: str, status: int = 0) -> str:
        capsys.readouterr()
        found = main(["-C", str(project), "validate", *arguments])
        said = capsys.readouterr()
        assert found == status, said.err + said.out
        return said.out

    return call


def test_the_command_says_what_holds_by_its_exit_status(project: Path, run: Callable[..., str]) -> None:
    assert "8 passed" in run("purchases")
    out = run(status=3)  # all: nothing the service gave is kept
    assert "not evaluated amount_mean_7d is not null" in out
    pq.write_table(purchases(currency=["EUR", "YEN", "YEN", "EUR"]), project / "data" / "purchases.parquet")
    out = run("purchases", status=1)
    assert "failed currency in {'EUR', 'USD'}: 2 of 4 rows fail" in out
    assert "such as YEN" in out
    said = json.loads(run("purchases", "--json", "--engine", "gx", status=1))
    assert said[0]["failed"] == 1
    edited(
        project,
        'expect.in_set("currency", ["EUR", "USD"])',
        'expect.in_set("currency", ["EUR"], severity="info")',
    )
    run("purchases", "--no-keep")  # what is there for information fails nothing


def test_the_command_suggests_and_remembers(project: Path, run: Callable[..., str], tmp_path: Path) -> None:
    assert "expect.in_set('currency', ['EUR', 'USD'])" in run("purchases", "--suggest")
    run(
        "purchases",
        "--engine",
        "gx",
        "--document",
        str(tmp_path / "gx.json"),
        "--html",
        str(tmp_path / "p.html"),
    )
    (document, _) = json.loads((tmp_path / "gx.json").read_text("utf-8"))[0]
    assert {"success", "statistics", "results"} <= document.keys()
    html = (tmp_path / "p.html").read_text("utf-8")
    assert "currency in {&#x27;EUR&#x27;, &#x27;USD&#x27;}" in html
    assert "http" not in html
    assert "purchases" in run("--history")
    assert len(json.loads(run("--history", "--json"))) == 1


def test_great_expectations_reaches_for_no_network(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with FeatureStore(project) as store:
        assert store.validate("purchases", engine="gx").passed


# ---------------------------------------------------------------------------------------------------------------- actions


def mean_of(store: FeatureStore, card: int) -> Any:
    at = NOON + timedelta(hours=1)
    return store.get_online_features("fraud", {"card_id": [card]}, at=at).to_dict()["amount_mean_7d"][0]


def trained(store: FeatureStore, card: int) -> Any:
    spine = pa.table({"card_id": [card], "event_timestamp": [NOON + timedelta(hours=1)]})
    return store.get_historical_features(spine, "fraud").to_arrow()["amount_mean_7d"][0].as_py()


def test_rows_put_aside_count_nowhere_and_are_kept_with_the_reason(project: Path) -> None:
    edited(project, '["EUR", "USD"])', '["EUR", "USD"], on_failure="quarantine", name="known currency")')
    rows = purchases(currency=["EUR", "YEN", "USD", None], amount=[10.0, 999.0, 30.0, 5.0])
    pq.write_table(rows, project / "data" / "purchases.parquet")
    with FeatureStore(project) as store:
        store.apply()
        store.materialize(end=NOON + timedelta(hours=1))
        assert mean_of(store, 1) == trained(store, 1) == 10.0
        assert mean_of(store, 3) == 5.0  # NULL says nothing
        aside = pq.read_table(store.config.offline / "quarantine" / "purchases.parquet").to_pylist()
        assert [(r["amount"], r["put_aside_because"]) for r in aside] == [(999.0, "known currency")]
        (kept,) = [v for v in store.validations("purchases") if v.where == "materialize"]
        assert "known currency" in [v.expectation.name for v in kept.failed]
        assert store.verify("spend", sample=3).passed


def test_rows_put_aside_are_erased_with_their_entity(project: Path) -> None:
    edited(project, '["EUR", "USD"])', '["EUR", "USD"], on_failure="quarantine")')
    rows = purchases(currency=["YEN", "EUR", "YEN", "EUR"])
    pq.write_table(rows, project / "data" / "purchases.parquet")
    with FeatureStore(project) as store:
        store.apply()
        store.materialize(end=NOON + timedelta(hours=1))
        done = store.erase("card", {"card_id": 2}, reason="asked to")
        assert [(d.place, d.count) for d in done.deleted if "put aside" in d.place] == [
            ("rows put aside of purchases", 1)
        ]
        assert "validations" in [s.place for s in done.stays]
        aside = pq.read_table(store.config.offline / "quarantine" / "purchases.parquet")
        assert aside["card_id"].to_pylist() == [1]


def test_a_block_stops_before_anything_is_written(project: Path) -> None:
    with FeatureStore(project) as store:
        store.apply()
        store.materialize(end=NOON + timedelta(hours=1))
        pq.write_table(purchases(amount=[99.0] * 4).slice(0, 2), project / "data" / "purchases.parquet")
        with pytest.raises(ExpectationFailed, match=r"source 'purchases'.*\n.*row count >= 3: it is 2"):
            store.materialize(end=NOON + timedelta(hours=1))
        assert mean_of(store, 1) == 15.0
        assert store.validations("purchases")[0].blocking


def test_a_block_on_the_values_of_a_view_stops_too(project: Path) -> None:
    edited(project, "10_000)],", '25, on_failure="block")],')
    with FeatureStore(project) as store:
        store.apply()
        with pytest.raises(ExpectationFailed, match="amount_mean_7d between 0 and 25: 1 of 3 rows fail"):
            store.materialize(end=NOON + timedelta(hours=1))
        assert mean_of(store, 1) is None
        assert store.validations("spend")[0].verdicts[0].examples == ("30.0",)


def test_what_could_not_be_judged_blocks_nothing(project: Path) -> None:
    edited(project, "10_000)],", '25, on_failure="block", where=col("card_id") > 9)],')
    with FeatureStore(project) as store:
        store.apply()
        store.materialize(end=NOON + timedelta(hours=1))
        assert mean_of(store, 1) == 15.0
        assert store.validations("spend")[0].not_evaluated


STREAM = """
import featurestore as fs
from featurestore import col, expect

events = fs.StreamSource(
    "events", batch=fs.Parquet("events/*.parquet"), stream=fs.Kafka("events", bootstrap="nowhere"), event_time="at",
    columns={"k": fs.String, "at": fs.Timestamp, "x": fs.Int64},
    expectations=[
        expect.between("x", 0, 100, on_failure="quarantine"),
        expect.not_null("x"),
        expect.sql("x <> 13", on_failure="block", mostly=0.5),
        expect.row_count(1000),
    ],
)
v = fs.FeatureView("v", fs.Entity("who", key="k"), events, [fs.sum("x").over(fs.days(1))])
svc = fs.FeatureService("svc", [v])
"""


def test_a_stream_puts_aside_counts_and_stops(tmp_path: Path) -> None:
    (tmp_path / "fs.toml").write_text('[project]\nname = "s"\n', encoding="utf-8")
    (tmp_path / "definitions.py").write_text(STREAM, encoding="utf-8")
    now = datetime.now(UTC)

    def push(store: FeatureStore, *values: int | None) -> None:
        store.push("events", [{"k": "a", "at": now - timedelta(minutes=1), "x": x} for x in values])

    with FeatureStore(tmp_path) as store:
        store.apply()
        push(store, 1, 2, 1000, None)
        store.run_stream(once=True)
        assert store.get_online_features("svc", {"k": ["a"]}).to_dict() == {"x_sum_1d": [3]}
        ((_, dead),) = store.dead_letters()
        assert "it is not as expected: x between 0 and 100" in dead.reason
        assert dead.event["x"] == 1000
        (status,) = store.stream_status()
        assert (status.counts["quarantined"], status.counts["unexpected"]) == (1, 1)
        push(store, 5, 13)  # half of them is enough
        store.run_stream(once=True)
        assert store.get_online_features("svc", {"k": ["a"]}).to_dict() == {"x_sum_1d": [21]}
        push(store, 7, 13, 13)
        with pytest.raises(ExpectationFailed, match=r"x <> 13 for 0\.5 of the rows: 2 of 3 events fail"):
            store.run_stream(once=True)
        assert store.get_online_features("svc", {"k": ["a"]}).to_dict() == {"x_sum_1d": [21]}
        text = (
            (tmp_path / "definitions.py")
            .read_text("utf-8")
            .replace('on_failure="block", mostly=0.5', 'on_failure="quarantine"')
        )
        (tmp_path / "definitions.py").write_text(text, encoding="utf-8")
        store.apply()
        store.run_stream(once=True)
        assert store.get_online_features("svc", {"k": ["a"]}).to_dict() == {"x_sum_1d": [28]}


def test_flink_does_not_pretend_to_put_aside(tmp_path: Path) -> None:
    (tmp_path / "fs.toml").write_text('[project]\nname = "s"\n', encoding="utf-8")
    (tmp_path / "definitions.py").write_text(STREAM, encoding="utf-8")
    with (
        FeatureStore(tmp_path) as store,
        pytest.raises(Unsupported, match="put rows of source 'events' aside"),
    ):
        store.programs("v", "flink", applied=False)


def served(project: Path, *expectations: str) -> FeatureStore:
    edited(project, 'expect.not_null("amount_mean_7d", mostly=0.5)', ", ".join(expectations))
    store = FeatureStore(project)
    store.apply()
    store.materialize(end=NOON + timedelta(hours=1))
    return store


def read(store: FeatureStore, *cards: int) -> list[Any]:
    at = NOON + timedelta(hours=1)
    return store.get_online_features("fraud", {"card_id": list(cards)}, at=at).to_dict()["amount_mean_7d"]


def test_served_vectors_are_looked_at_and_told(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    with served(
        project, 'expect.between("amount_mean_7d", 0, 20)', 'expect.mean_between("amount_mean_7d", 0, 1)'
    ) as store:
        assert read(store, 1, 2, 3) == [15.0, 30.0, 5.0]
        assert (
            "service fraud is not as expected: amount_mean_7d between 0 and 20: 1 of 3 rows fail"
            in caplog.text
        )
        for _ in range(15):
            read(store, 1)
        between, mean = store.served_validation("fraud").verdicts
        assert (between.outcome, between.considered, between.unexpected) == (
            "failed",
            3,
            1,
        )  # one read in sixteen
        assert mean.outcome == "not_evaluated"
        read(store, 1)
        assert store.served_validation("fraud").verdicts[0].considered == 4


ROWS = [
    ('expect.not_null("amount_mean_7d", on_failure="block")', (1, 2), (1, 99)),
    ('expect.between("amount_mean_7d", 0, 20, on_failure="block")', (1, 99), (1, 2)),
    ('expect.between("amount_mean_7d", 0, 20, mostly=0.5, on_failure="block")', (1, 2), (2, 2, 1)),
    ('expect.in_set("amount_mean_7d", [15, 5.0], on_failure="block")', (1, 3), (2,)),
    ('expect.not_null("amount_mean_7d", where=col("amount_mean_7d") > 0, on_failure="block")', (1, 99), ()),
]


@pytest.mark.parametrize(("expectation", "good", "bad"), ROWS, ids=[r[0] for r in ROWS])
def test_a_block_gives_a_typed_error_in_place_of_vectors(
    project: Path, expectation: str, good: tuple[int, ...], bad: tuple[int, ...]
) -> None:
    with served(project, expectation) as store:
        for _ in range(3):
            assert len(read(store, *good)) == len(good)
        if bad:
            with pytest.raises(ExpectationFailed, match="what service 'fraud' would give is not as expected"):
                read(store, *bad)
        assert len(read(store, *good)) == len(good)


def test_texts_and_pairs_are_judged_as_they_are_served(tmp_path: Path) -> None:
    (tmp_path / "fs.toml").write_text('[project]\nname = "t"\n', encoding="utf-8")
    (tmp_path / "definitions.py").write_text(
        """
import featurestore as fs
from featurestore import expect, latest

src = fs.BatchSource("src", fs.Parquet("s.parquet"), event_time="at")
v = fs.FeatureView("v", fs.Entity("e", key="k"), src, [latest("c"), latest("a"), latest("b")])
svc = fs.FeatureService("svc", [v], deadline=fs.seconds(5), expectations=[
    expect.matches("c", "^[A-Z]+$", on_failure="block"), expect.greater("a", "b", on_failure="block"),
])
""",
        encoding="utf-8",
    )
    rows = {"k": [1, 2, 3], "at": [NOON] * 3, "c": ["AB", "ab", None], "a": [2, 2, 1], "b": [1, 1, 2]}
    pq.write_table(pa.table(rows), tmp_path / "s.parquet")
    at = NOON + timedelta(hours=1)
    with FeatureStore(tmp_path) as store:
        store.apply()
        store.materialize(end=at)
        assert len(store.get_online_features("svc", {"k": [1, 9]}, at=at)) == 2
        with pytest.raises(ExpectationFailed, match="c matches"):
            store.get_online_features("svc", {"k": [2]}, at=at)
        with pytest.raises(ExpectationFailed, match="a > b: 1 of 2 rows fail"):
            store.get_online_features("svc", {"k": [1, 3]}, at=at)


def test_what_one_request_does_not_tell_cannot_block_it(project: Path) -> None:
    for expectation in ('expect.mean_between("amount_mean_7d", 0, 1', 'expect.sql("amount_mean_7d > 0"'):
        text = (project / "cards.py").read_text("utf-8")
        edited(
            project, 'expect.not_null("amount_mean_7d", mostly=0.5)', f'{expectation}, on_failure="block")'
        )
        with (
            FeatureStore(project) as store,
            pytest.raises(DefinitionError, match="is not told by one request"),
        ):
            store.definitions()
        (project / "cards.py").write_text(text, encoding="utf-8")


@pytest.mark.slow
def test_a_suite_that_holds_in_january_finds_the_breaks_of_the_year(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "definitions"
    folder.mkdir()
    for name in ("flights.py", "fs.toml"):
        shutil.copy(ROOT / "definitions" / name, folder)
    command = [sys.executable, str(ROOT / "definitions" / "prepare.py"), "--out", str(folder / "data")]
    subprocess.run(command, check=True, capture_output=True)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(PAGE[2], "docs/expectations.md", "exec"), names)
    delays = ["mean delay", "one in ten over an hour late"]
    assert names["broken"] == {
        ("2013-06", "departures"): delays,
        ("2013-07", "departures"): delays,
        ("2013-12", "departures"): ["mean delay"],
        ("2013-12", "weather"): ["pressure is reported"],
    }
