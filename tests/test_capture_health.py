"""What `fs doctor` says of the capture log: damage, what was shed, what is due; and that it mends nothing."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from featurestore import FeatureStore
from featurestore.capture import health
from featurestore.doctor import Check, examine
from tests.test_capture import ask, captured, project


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("healthy"))


@pytest.fixture
def store(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FeatureStore]:
    """Rows in a file, and rows in a segment, one append each."""
    monkeypatch.setenv("FS_CAPTURE_PATH", str(tmp_path / "capture"))
    with FeatureStore(made) as opened:
        for card in (1, 2):
            ask(opened, card)
            opened.capture.flush()
        opened.capture.compact()
        for card in (3, 4, 5):
            ask(opened, card)
            opened.capture.flush()
        yield opened


def said(store: FeatureStore, now: int | None = None) -> dict[str, Check]:
    moment = time.time_ns() // 1000 if now is None else now
    found = examine(store.config.root, None, moment, "1")
    return {
        c.subject.split()[-1] if "pay" not in c.subject else "pay": c for c in found if "captur" in c.subject
    }


def segment(store: FeatureStore) -> Path:
    return max(store.config.capture.rglob("*.segment"))


def test_a_log_in_order_is_well(store: FeatureStore) -> None:
    found = said(store)
    assert found["pay"] == Check(
        f"captured pay {store.capture.status()[0].fingerprint[:8]}",
        "ok",
        "2 rows in 1 files, 3 in 1 segments",
    )
    assert {c.state for c in found.values()} == {"ok"}


def test_what_did_not_end_is_said_and_harmless(store: FeatureStore) -> None:
    store.close()
    data = segment(store).read_bytes()
    frame = data.index(b"FRM1")
    segment(store).write_bytes(data + data[frame : frame + 100])
    check = said(store)["pay"]
    assert check.state == "ok"
    assert "100 bytes of an append that did not end" in check.text


def test_a_flipped_byte_is_found_and_left_alone(store: FeatureStore) -> None:
    data = bytearray(segment(store).read_bytes())
    data[-200] ^= 1
    segment(store).write_bytes(data)
    check = said(store)["pay"]
    assert (check.state, check.way_out[0][:15]) == ("wrong", "`fs log status`")
    assert segment(store).read_bytes() == data
    assert captured(store, "pay").num_rows == 4  # a reader sets it aside
    assert "1 rows were damaged and set aside" in said(store)["pay"].text


def test_a_file_that_is_gone_or_cut_is_found(store: FeatureStore) -> None:
    (file,) = store.config.capture.rglob("*.parquet")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert said(store)["pay"].state == "wrong"
    file.unlink()
    assert said(store)["pay"].state == "wrong"


def test_rows_that_were_shed_are_told_for_a_day(store: FeatureStore) -> None:
    folder = store.config.capture / "processes"
    folder.mkdir(exist_ok=True)
    (folder / "1-a.json").write_text(json.dumps({"offered": 9, "kept": 7, "shed": 2}))
    check = said(store)["capture"]
    assert check.state == "wrong"
    assert check.text.endswith("2 shed")
    assert "capture" not in said(store, time.time_ns() // 1000 + 2 * 86_400_000_000)


def test_a_full_disk_and_a_compaction_that_is_due_are_said(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        free: int

    def usage(_: Any) -> Usage:
        return Usage(1 << 20)

    monkeypatch.setattr(health, "MOST_LOGGED", 100)
    monkeypatch.setattr(shutil, "disk_usage", usage)
    found = said(store)
    assert "soon rows wait, and are shed" in found["disk"].text
    assert found["pay"].way_out == ("`fs log compact` makes files of them",)
