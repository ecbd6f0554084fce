"""What of a training set may know its own answer: from the data, and from how it was made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from featurestore.cli.app import main
from featurestore.datasets.signal import strength
from featurestore.errors import DatasetError

ROWS = 400
T0 = datetime(2024, 3, 1, tzinfo=UTC)

DEFINITIONS = """
import featurestore as fs
from featurestore import count, hours, latest, mean

shop = fs.Entity("shop", key="shop_id")
sales = fs.BatchSource("sales", fs.Parquet("sales.parquet"), "sold_at", arrival_time="arrived_at")
shops = fs.BatchSource("shops", fs.Parquet("shops.parquet"))
recent = fs.FeatureView("recent", shop, sales, [mean("amount").over(hours(6))])
about = fs.FeatureView("about", shop, shops, [latest("size"), latest("verdict")])
sold = fs.Label("sold", sales, shop, count() > 0, hours(1))
rush = fs.FeatureService("rush", [recent, about], label=sold)
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[FeatureStore]:
    """Every shop is asked once at its own moment; the odd ones sell within the hour. `verdict` knows, `size` does not."""
    (tmp_path / "fs.toml").write_text('[project]\nname = "shops"\n', encoding="utf-8")
    (tmp_path / "definitions.py").write_text(DEFINITIONS, encoding="utf-8")
    random = np.random.default_rng(5)
    shops = np.arange(ROWS)
    before = [T0 + timedelta(minutes=int(m)) for m in random.integers(1, 300, ROWS)]
    sales: dict[str, Any] = {
        "shop_id": [*shops, *shops[1::2]],
        "sold_at": [*before, *[T0 + timedelta(hours=6, minutes=30)] * (ROWS // 2)],
        "amount": [*random.normal(size=ROWS), *np.ones(ROWS // 2)],
    }
    # One event in ten of before the moment arrives long after it.
    late = [t + timedelta(hours=9 if i % 10 == 0 and i < ROWS else 0) for i, t in enumerate(sales["sold_at"])]
    pq.write_table(pa.table({**sales, "arrived_at": late}), tmp_path / "sales.parquet")
    about = {"shop_id": shops, "size": random.normal(size=ROWS), "verdict": [i % 2 == 1 for i in shops]}
    pq.write_table(pa.table(about), tmp_path / "shops.parquet")
    with FeatureStore(tmp_path) as store:
        store.apply()
        yield store


def spine(**more: list[Any]) -> pa.Table:
    moment = [T0 + timedelta(hours=6)] * ROWS
    return pa.table({"shop_id": list(range(ROWS)), "event_timestamp": moment, **more})


def made(project: FeatureStore, rows: pa.Table, **options: Any) -> Any:
    return project.get_historical_features(rows, "rush", as_of=T0 + timedelta(days=2), **options)


def test_what_knows_its_answer_is_told_and_nothing_else(project: FeatureStore, tmp_path: Path) -> None:
    closed = [T0 + timedelta(hours=6 + i % 2) for i in range(ROWS)]
    sold = ["yes" if i % 2 else "no" for i in range(ROWS)]
    rows = spine(closed_at=closed, outcome=sold, noise=list(np.random.default_rng(1).normal(size=ROWS)))
    made(project, rows).to_parquet(tmp_path / "set")
    found = project.leakage(tmp_path / "set")
    assert {(f.level, f.kind, f.column) for f in found.findings} == {
        ("leak", "after", "closed_at"),
        ("leak", "after", "amount_mean_6h"),
        ("suspect", "no history", "size"),
        ("suspect", "no history", "verdict"),
        ("suspect", "too good", "closed_at"),
        ("suspect", "too good", "outcome"),
        ("suspect", "too good", "verdict"),
        ("note", "reachable", "amount_mean_6h"),
    }
    assert not found.clean
    (late,) = [f for f in found.findings if (f.kind, f.column) == ("after", "amount_mean_6h")]
    assert late.share == pytest.approx(0.1)
    assert (found.rows, found.compared, found.labels) == (ROWS, ROWS, ("sold",))
    assert found.scores["sold"]["size"] < 0.3
    assert "shop_id" not in found.scores["sold"]
    said = str(found)
    assert said.index("leak: amount_mean_6h") < said.index("suspect: verdict") < said.index("note: ")


def test_a_set_of_what_had_arrived_leaks_nothing_late(project: FeatureStore) -> None:
    found = project.leakage(made(project, spine(), knowledge="arrived"))
    assert {f.column for f in found.findings if f.kind == "after"} == set()
    assert found.compared == 0


def test_any_column_may_be_the_label(project: FeatureStore) -> None:
    rows = spine(target=[float(i % 2) for i in range(ROWS)], noise=[float(i * i % 7) for i in range(ROWS)])
    found = project.leakage(made(project, rows), "target")
    assert {f.column for f in found.findings if f.kind == "too good"} == {"verdict"}
    with pytest.raises(DatasetError, match="no column 'targt'"):
        project.leakage(made(project, rows), "targt")


def test_the_command_says_it_by_its_exit_status(
    project: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(project, spine()).to_parquet(tmp_path / "set")
    where = ["--project", str(project.config.root)]
    assert main([*where, "dataset", "leakage", str(tmp_path / "set"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["clean"] is False


# ----------------------------------------------------------------------------------------------------------------- strength

LABELS = [i % 2 == 1 for i in range(200)]


@pytest.mark.parametrize(
    ("column", "low", "high"),
    [
        pytest.param([float(x) for x in LABELS], 1, 1, id="the label itself"),
        pytest.param([-float(x) for x in LABELS], 1, 1, id="the label turned round"),
        pytest.param([None if x else 1.0 for x in LABELS], 1, 1, id="whether there is a value"),
        pytest.param(["b" if x else "a" for x in LABELS], 0.95, 1, id="a text for each"),
        pytest.param([f"row {i}" for i in range(200)], 0, 0, id="a text for each row"),
        pytest.param([i // 2 % 2 for i in range(200)], 0, 0.05, id="something else"),
        pytest.param([1.0] * 200, 0, 0, id="always the same"),
        pytest.param([None] * 200, 0, 0, id="nothing"),
    ],
)
def test_strength_of(column: list[Any], low: float, high: float) -> None:
    kind = pa.float64() if all(c is None for c in column) else None
    found = strength(pa.chunked_array([pa.array(column, kind)]), pa.chunked_array([pa.array(LABELS)]))
    assert found is not None
    assert low <= found <= high


def test_strength_of_a_number_for_a_number_and_of_too_few_rows() -> None:
    random = np.random.default_rng(2)
    x, y = random.normal(size=5_000), random.normal(size=5_000)
    for column, low, high in ((x, 0.85, 1.0), (x * x, 0.3, 0.9), (y, 0.0, 0.05)):
        found = strength(pa.chunked_array([pa.array(column)]), pa.chunked_array([pa.array(x)]))
        assert found is not None
        assert low <= found <= high
    few = pa.chunked_array([pa.array([1.0, 2.0])])
    assert strength(few, few) is None
