"""What is known of each job: one small file a job, written whole, so that whoever is killed leaves the truth behind."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from featurestore.errors import StreamConflict
from featurestore.flink.place import Place, local_folder
from featurestore.processes import write_whole

State = Literal["running", "paused", "stopped", "retired"]

MARGIN: Final = 60_000_000
"""Microseconds: of two places to go on from that are so close in time the savepoint is taken."""


@dataclass(frozen=True, slots=True)
class Record:
    """A view's job: `name` is the consumer group and what its topics begin with, `epoch` counts its fresh starts.

    `state` is what is wanted; `job` the id it has in the cluster; `since` (UTC microseconds) from where on a fresh start reads
    the topic, None from its beginning. `savepoint` and `checkpoint` are where it can go on from, with their times. `cluster` is
    where it was submitted.
    """

    view: str
    name: str
    epoch: int
    state: State
    job: str | None = None
    since: int | None = None
    savepoint: str | None = None
    savepoint_at: int = 0
    checkpoint: str | None = None
    checkpoint_at: int = 0
    failure: str | None = None
    ahead: bool = False
    """Whether it is of a version that is not applied yet."""
    fresh_at: int = 0
    """When its last fresh start was: no checkpoint of before counts."""

    @property
    def newest(self) -> tuple[str, int] | None:
        """The newest place to go on from, and of when it is."""
        if self.savepoint is not None and self.savepoint_at + MARGIN >= self.checkpoint_at:
            return self.savepoint, self.savepoint_at
        return None if self.checkpoint is None else (self.checkpoint, self.checkpoint_at)


def load(place: Place) -> dict[str, Record]:
    """Every job's record, by its name."""
    found = {}
    for file in sorted(_folder(place).glob("*.json")):
        record = Record(**json.loads(file.read_text(encoding="utf-8")))
        found[record.name] = record
    return found


def save(place: Place, record: Record) -> Record:
    """Writes a record anew."""
    write_whole(_folder(place) / f"{record.name}.json", json.dumps(asdict(record), indent=1))
    return record


def found_checkpoint(place: Place, name: str) -> tuple[str, int] | None:
    """The newest complete checkpoint that lies in a local folder, and of when it is (UTC microseconds)."""
    folder = local_folder(place.of_job(name, "checkpoints"))
    if folder is None:
        return None
    times = {file: file.stat().st_mtime_ns // 1000 for file in folder.glob("*/chk-*/_metadata")}
    if not times:
        return None
    newest = max(times, key=lambda file: times[file])
    return newest.parent.as_uri(), times[newest]


@contextmanager
def locked(place: Place) -> Iterator[None]:
    """The right to change jobs: whoever is second waits."""
    place.folder.mkdir(parents=True, exist_ok=True)
    with (place.folder / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def supervising(place: Place) -> Iterator[None]:
    """The right to keep jobs running, until the process ends. Raises StreamConflict when another has it."""
    place.folder.mkdir(parents=True, exist_ok=True)
    with (place.folder / "supervisor").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StreamConflict(
                f"process {supervisor(place) or 'unknown'} keeps these jobs running already\n  `fs stream stop` ends it"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def supervisor(place: Place) -> int | None:
    """The process that keeps the jobs running, None when there is none."""
    try:
        with (place.folder / "supervisor").open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                text = file.read().strip()
                return int(text) if text else None
    except FileNotFoundError:
        pass
    return None


def _folder(place: Place) -> Path:
    return place.folder / "jobs"
