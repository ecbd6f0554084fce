"""What went out scaled is what the scaler of the time makes of what was served raw: every bit, or it is said."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from featurestore import FeatureStore
from featurestore.consistency import LoggedReport
from tests.test_scalers import NOON, PROJECT, project, spine

SCALED = ("n", "avg", "price", "raw", "ratio")
END = NOON + timedelta(minutes=3500)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    """Thirteen cards, served raw once and scaled by two scalers, of which the second is pinned later."""
    how = "{" + ", ".join(f'"{n}": scale.{k}()' for n, k in zip(SCALED, KINDS, strict=True)) + "}"
    project(tmp_path)
    captured = PROJECT.replace("scale=SCALE", f"scale={how}, capture=Capture()")
    (tmp_path / "defs.py").write_text(captured, encoding="utf-8")
    with FeatureStore(tmp_path) as store:
        store.apply()
        store.fit_scaler("fraud", store.get_historical_features(spine(), "fraud"))
        store.fit_scaler("fraud", store.get_historical_features(spine(seed=6), "fraud"))
        store.materialize(end=END)
        serve(store, scaled=False)
        for version in (1, 2):
            store.pin_scaler("fraud@1", version, replace=True)
            serve(store, scaled=True)
        store.capture.flush()
        yield store


KINDS = ("log1p", "standard", "robust", "rank", "minmax")


def serve(store: FeatureStore, **how: Any) -> None:
    cards = list(range(13))  # nobody knows the last
    store.get_online_features("fraud", {"card_id": cards}, request={"asked": [1.0] * 13}, at=END, **how)


def tampered(store: FeatureStore, column: str, change: Any) -> None:
    """Captures the rows once more, with other values in a column."""
    (rows,) = list(store.capture.rows("fraud"))
    table = rows.table.drop_columns(["row_id", "__offset", "__appended_at"])
    new = [None if v is None else change(v) for v in table[column].to_pylist()]
    for name, values in ((column, new), ("request_id", [f"t{i}" for i in range(table.num_rows)])):
        kind = table.schema.field(name).type
        table = table.set_column(table.column_names.index(name), name, pa.array(values, kind))
    (folder,) = store.capture.log.folders("fraud")
    with folder.open() as log:
        log.append(table, 1)


def scaled_cells(report: LoggedReport) -> dict[str, tuple[int, int]]:
    return {f.feature: (f.cells, f.differing) for f in report.features if f.feature.startswith("scaled:")}


def test_every_scaled_value_follows_from_the_raw_one_by_the_scaler_of_its_time(store: FeatureStore) -> None:
    report = store.verify_logged("fraud")
    assert report.rows == 39
    assert scaled_cells(report) == {f"scaled:{name}": (26, 0) for name in SCALED}
    assert report.same, str(report)


def test_a_scaled_value_of_another_last_bit_is_unexplained(store: FeatureStore) -> None:
    tampered(store, "scaled:avg", lambda v: math.nextafter(v, math.inf))
    report = store.verify_logged("fraud")
    differing = {name for name, (_, count) in scaled_cells(report).items() if count}
    assert differing == {"scaled:avg"}
    (avg,) = (f for f in report.features if f.feature == "scaled:avg")
    assert avg.causes == {"unexplained": avg.differing}
    assert 0 < avg.differing <= 26
    assert avg.examples[0].row_id.startswith("t")
    assert not report.passed


def test_rows_of_a_scaler_that_nobody_knows_are_counted(store: FeatureStore) -> None:
    tampered(store, "scaler", lambda _: 9)
    report = store.verify_logged("fraud")
    assert report.passed
    ((why, rows),) = report.left_out.items()
    assert ("scaler" in why, rows) == (True, 26)
    assert scaled_cells(report) == {f"scaled:{name}": (26, 0) for name in SCALED}
