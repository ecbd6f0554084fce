"""Expectations in a project: declared, planned, judged by name, kept; and the page about them."""

from __future__ import annotations

import json
import re
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
from featurestore.errors import DefinitionError, NotFound, RequestError
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
