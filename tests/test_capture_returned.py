"""Predictions and labels come back: the same once, what differs as the next version, nothing lost, each with an outcome."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from featurestore import FeatureStore
from featurestore.capture import CaptureLog
from featurestore.capture.health import findings
from featurestore.capture.returned import Returned, Taken, What, values_of
from featurestore.cli.app import main
from featurestore.errors import CaptureError, LogError, RequestError
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
    assert store.capture.labels(row, [1], name="late", at=NOW) == Taken(1, same=1)
    assert store.capture.labels(row, [0], name="late", at=NOW) == Taken(1, changed=1)  # known from the rows
    assert newest(store, "labels") == {row[0]: 0}


def test_a_lost_log_is_begun_anew(store: FeatureStore, tmp_path: Path) -> None:
    row = ask(store, 1).row_ids
    store.capture.labels(row, [1], name="late", at=NOW)
    shutil.rmtree(tmp_path / "capture" / "labels")
    assert store.capture.labels(row, [1], name="late", at=NOW) == Taken(1, new=1)
    assert newest(store, "labels") == {row[0]: 1}


# ── what goes wrong, of labels and of predictions alike


KINDS: tuple[What, ...] = ("predictions", "labels")


@pytest.fixture(params=KINDS)
def what(request: pytest.FixtureRequest) -> What:
    kind: What = request.param
    return kind


def send(store: FeatureStore, what: What, row_ids: list[str], values: list[Any], at: Any = NOW) -> Taken:
    if what == "labels":
        return store.capture.labels(row_ids, values, name="x", at=at)
    return store.capture.predictions(row_ids, values, model="x", version="1", at=at)


def segment(store: FeatureStore, what: What) -> Path:
    (found,) = (store.config.capture / what).glob("*.segment")
    return found


def test_each_outcome_is_counted(store: FeatureStore, what: What) -> None:
    """Unknown, twice, before its request; and of what came before its row was captured: it joins."""
    row = ask(store, 1).row_ids[0]
    assert send(store, what, [row, "nobody-0"], [1, 2]) == Taken(2, new=2, unknown=1)
    assert send(store, what, [row, "nobody-0"], [1, 2]) == Taken(2, same=2)
    assert send(store, what, [row, row], [3, 3]) == Taken(2, changed=1, same=1)
    early = ask(store, 2).row_ids[0]
    assert send(store, what, [early], [4], NOW - timedelta(seconds=1)) == Taken(1, new=1, early=1)
    read = ask(store, 3, capture=False)
    assert send(store, what, read.row_ids, [5]) == Taken(1, new=1, unknown=1)
    reader = store.reader("pay")._tap  # it is captured after all: from another process, say
    assert reader is not None
    assert reader.offer(read)
    store.capture.flush()
    assert send(store, what, read.row_ids, [6]) == Taken(1, changed=1)
    assert newest(store, what) == {row: 3, "nobody-0": 2, early: 4, read.row_ids[0]: 6}
    assert store.capture.returned(what).counts() == Taken(6, new=4, changed=2, unknown=2, early=1)


def test_an_early_label_joins_its_row(store: FeatureStore) -> None:
    rows = ask(store, 1, 2).row_ids
    assert store.capture.labels(rows[:1], [True], name="late", at=NOW - timedelta(hours=1)).early == 1
    table = store.get_logged_features("pay", labels=["late"], as_of=NOW, immature="keep").to_arrow()
    joined = dict(zip(table["row_id"].to_pylist(), table["late"].to_pylist(), strict=True))
    assert joined == dict(zip(rows, [True, None], strict=True))


def test_what_came_last_is_read_whatever_clocks_say(tmp_path: Path, what: What) -> None:
    returned = Returned(CaptureLog(tmp_path), what)
    for value, now in ((1, 5_000_000), (2, 3_000_000), (3, 4_000_000)):
        assert returned.take(["r-0"], [value], "x", "", None, now).unknown == 1
    table = returned.newest()
    assert values_of(table) == [3]
    assert table["at"].cast(pa.int64()).to_pylist() == [4_000_000]
    assert table["received_at"].cast(pa.int64()).to_pylist() == [5_000_000]  # those never fall


def test_a_torn_end_is_cut_off_by_who_writes_next(store: FeatureStore, what: What) -> None:
    rows = ask(store, 1, 2).row_ids
    send(store, what, rows[:1], [1])
    whole = segment(store, what).read_bytes()
    frame = whole.index(b"FRM1")
    segment(store, what).write_bytes(whole + whole[frame : frame + 100])
    assert newest(store, what) == {rows[0]: 1}
    assert send(store, what, rows, [1, 2]) == Taken(2, new=1, same=1)
    assert newest(store, what) == dict(zip(rows, [1, 2], strict=True))
    assert store.capture.returned(what).damaged() == 0


def test_a_flipped_byte_is_counted_and_the_value_can_be_sent_again(
    store: FeatureStore, what: What, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ask(store, *range(5)).row_ids
    for i, row in enumerate(rows):
        send(store, what, [row], [i])
    data = bytearray(segment(store, what).read_bytes())
    frames = [i for i in range(len(data)) if data[i : i + 4] == b"FRM1"]
    data[frames[2] + 80] ^= 1  # in the payload
    segment(store, what).write_bytes(data)
    (told,) = (c for c in findings(store.capture.log) if c.subject == f"captured {what}")
    assert told.state == "wrong"
    asked = ["log", "status", "--json", "--project", str(store.config.root)]
    assert main(asked) == 0
    said = json.loads(capsys.readouterr().out)[what]
    assert (said["kept"], said["damaged"]) == (4, 1)
    assert newest(store, what) == {r: i for i, r in enumerate(rows) if i != 2}
    assert send(store, what, rows, list(range(5))) == Taken(5, new=1, same=4)
    assert newest(store, what) == {r: i for i, r in enumerate(rows)}


def test_on_a_full_disk_nothing_is_taken_and_nothing_lost(
    store: FeatureStore, what: What, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no room for the log, and then none for any file, the index beside it among them."""
    rows = ask(store, *range(40)).row_ids
    first = dict(zip(rows[:20], range(20), strict=True))
    assert send(store, what, rows[:20], list(range(20))).new == 20

    def no_room(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", no_room)
        with pytest.raises(LogError, match="nothing was appended: No space left"):
            send(store, what, rows, list(range(40)))
    assert newest(store, what) == first
    was, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        with pytest.raises(CaptureError, match="then send the values again"):
            send(store, what, rows, list(range(40)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, was)
    assert newest(store, what) == first
    assert send(store, what, rows, list(range(40))) == Taken(40, new=20, same=20)
    assert newest(store, what) == {r: i for i, r in enumerate(rows)}
    assert store.capture.returned(what).counts().rows == 40


SENDS = """
import sys, time
from pathlib import Path
from featurestore.capture import CaptureLog
from featurestore.capture.returned import Returned

returned = Returned(CaptureLog(Path(sys.argv[1])), sys.argv[2])
print(flush=True)
input()
done = [returned.take([f"r{i}-0", f"{sys.argv[3]}{i}-0"], [i, i], "x", "", None, i) for i in range(30)]
print(sum(d.new for d in done), sum(d.same for d in done), sum(d.changed for d in done))
"""


def test_two_processes_take_each_value_once(tmp_path: Path, what: What) -> None:
    words = [sys.executable, "-c", SENDS, str(tmp_path), what]
    with ExitStack() as stack:
        both = [
            stack.enter_context(
                subprocess.Popen([*words, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for name in "ab"
        ]
        for one in both:
            assert one.stdout is not None
            one.stdout.readline()
        for one in both:
            assert one.stdin is not None
            one.stdin.write("\n")
            one.stdin.flush()
        told = [[int(n) for n in one.communicate(timeout=120)[0].split()] for one in both]
    assert [sum(column) for column in zip(*told, strict=True)] == [90, 30, 0]
    table = Returned(CaptureLog(tmp_path), what).newest()
    assert sorted(table["row_id"].to_pylist()) == sorted(f"{n}{i}-0" for n in "rab" for i in range(30))
    assert Returned(CaptureLog(tmp_path), what).counts().rows == 90


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
