"""Predictions and labels come back: the same once, what differs as the next version, nothing lost, each with an outcome."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from featurestore import FeatureStore
from featurestore.capture.returned import Returned, Taken, values_of
from featurestore.errors import RequestError
from tests.test_capture import NOW, ask, project


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("returned"))


@pytest.fixture
def store(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FeatureStore]:
    monkeypatch.setenv("FS_CAPTURE_PATH", str(tmp_path / "capture"))
    with FeatureStore(made) as opened:
        yield opened


def newest(store: FeatureStore, what: Any) -> dict[str, Any]:
    table = store.capture.returned(what).newest()
    return dict(zip(table["row_id"].to_pylist(), values_of(table), strict=True))


def test_predictions_of_a_batch_come_back(store: FeatureStore) -> None:
    read = ask(store, 1, 2, 3)
    took = store.capture.predictions(read.row_ids, np.array([0.1, 0.2, 0.3]), model="delay", version="1.2.12")
    assert took == Taken(rows=3, new=3)
    table = store.capture.returned("predictions").newest()
    assert set(zip(table["name"].to_pylist(), table["version"].to_pylist(), strict=True)) == {
        ("delay", "1.2.12")
    }
    assert newest(store, "predictions") == dict(zip(read.row_ids, [0.1, 0.2, 0.3], strict=True))


def test_the_same_again_is_taken_once(store: FeatureStore) -> None:
    read = ask(store, 1, 2)
    for want in (Taken(2, new=2), Taken(2, same=2)):
        assert store.capture.labels(read.row_ids, [True, False], name="late", at=NOW) == want
    assert newest(store, "labels") == dict(zip(read.row_ids, [True, False], strict=True))
    assert store.capture.returned("labels").counts() == Taken(2, new=2)


def test_another_value_is_the_next_version_and_both_are_kept(store: FeatureStore) -> None:
    row = ask(store, 1).row_ids
    later, before = NOW + timedelta(hours=1), NOW - timedelta(hours=1)
    assert store.capture.labels(row, [1], name="late", at=later) == Taken(1, new=1)
    assert store.capture.labels(row, [0], name="late", at=before) == Taken(
        1, changed=1, early=1
    )  # a clock stepped back
    assert newest(store, "labels") == {row[0]: 0}
    ((table, _),) = store.capture.returned("labels").read()
    assert (table["whole"].to_pylist(), table["change"].to_pylist()) == ([1, 0], [1, 2])
    assert store.capture.labels(row, [1], name="late", at=later) == Taken(1, changed=1)
    assert newest(store, "labels") == {row[0]: 1}


def test_names_and_versions_are_told_apart(store: FeatureStore) -> None:
    row = ask(store, 1).row_ids
    for name in ("click", "completion"):
        assert store.capture.labels(row, [1], name=name).new == 1
    for version in ("1", "2"):
        assert store.capture.predictions(row, [0.5], model="m", version=version).new == 1


def test_what_is_of_no_known_row_is_kept_and_counted(store: FeatureStore) -> None:
    read = ask(store, 1)
    store.capture.flush()
    wanted = [read.row_ids[0], "nobody-0", f"{read.request_id}-7"]
    assert store.capture.labels(wanted, [1, 2, 3], name="late", at=NOW) == Taken(3, new=3, unknown=2)
    assert newest(store, "labels") == dict(zip(wanted, [1, 2, 3], strict=True))


VALUES = [
    ("numbers", [1.5, 2.0, None], [1.5, 2.0, None]),
    ("whole numbers past 2^53", [2**53 + 1, -3, 0], [2**53 + 1, -3, 0]),
    ("texts", ["a", "", None], ["a", "", None]),
    ("NaN is NULL", [float("nan"), 0.0, -0.0], [None, 0.0, 0.0]),
    ("a row of scores each", np.array([[0.25, 0.75]] * 3), [[0.25, 0.75]] * 3),
    ("Arrow", pa.array([True, None, False]), [True, None, False]),
]


@pytest.mark.parametrize(("given", "want"), [v[1:] for v in VALUES], ids=[v[0] for v in VALUES])
def test_values_come_back_as_they_were(tmp_path: Path, given: Any, want: list[Any]) -> None:
    from featurestore.capture import CaptureLog

    returned = Returned(CaptureLog(tmp_path), "predictions")
    returned.take(["r-0", "r-1", "r-2"], given, "m", "", None, 0)
    back = values_of(returned.newest())
    assert [(type(v), v) for v in back] == [(type(v), v) for v in want]


@pytest.mark.parametrize(
    ("row_ids", "values", "more", "says"),
    [
        (["a-0", "a-1"], [1], {}, "1 values came for 2 row ids"),
        (["a"], [1], {}, "row id 'a' of label 0 is none"),
        (["a-0"], [object()], {}, "label 0 is <object"),
        (["a-0"], [[float("inf")]], {}, "label 0 cannot be kept"),
        (["a-0"], [1], {"name": ""}, "a label has a name"),
        (["a-0"], [1], {"at": [NOW, NOW]}, "2 moments came for 1 row ids"),
    ],
)
def test_what_does_not_fit_is_refused_whole(
    store: FeatureStore, row_ids: Any, values: Any, more: Any, says: str
) -> None:
    with pytest.raises(RequestError, match=says):
        store.capture.labels(row_ids, values, **{"name": "late", **more})
    assert newest(store, "labels") == {}


def test_a_lost_index_is_made_again(store: FeatureStore, tmp_path: Path) -> None:
    row = ask(store, 1).row_ids
    store.capture.labels(row, [1], name="late", at=NOW)
    for file in (tmp_path / "capture").glob("index.sqlite*"):
        file.unlink()
    assert store.capture.labels(row, [0], name="late", at=NOW).unknown == 0  # known from the rows
    assert newest(store, "labels") == {row[0]: 0}


def test_an_erased_entity_leaves_the_log_and_what_came_back_of_it(tmp_path: Path) -> None:
    """From Parquet and from segments alike; all other rows and their values stay."""
    with FeatureStore(project(tmp_path)) as store:
        reads = [ask(store, 1, 2), ask(store, 2, 3)]
        store.capture.flush()
        store.capture.compact()
        reads += [ask(store, 2), ask(store, 4, 2)]
        ids = [row for read in reads for row in read.row_ids]
        store.capture.labels(ids, list(range(7)), name="late")
        receipt = store.erase("card", {"card_id": 2}, reason="asked for")
        deleted = {d.what: d.count for d in receipt.deleted if d.place == "capture log"}
        assert (receipt.done, deleted) == (True, {"rows that were served": 4, "predictions and labels": 4})
        left = [ids[i] for i in (0, 3, 5)]
        rows = [r for part in store.capture.rows("pay") for r in part.table["row_id"].to_pylist()]
        assert rows == left
        assert newest(store, "labels") == dict(zip(left, [0, 3, 5], strict=True))
        assert store.capture.labels(left, [0, 3, 5], name="late").same == 3
        for file in (tmp_path / ".fs/capture").rglob("*.segment"):
            assert reads[2].row_ids[0].encode() not in file.read_bytes()
