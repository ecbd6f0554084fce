"""Killed while it prunes or sets damage aside, with writers and readers at work, a log loses and doubles nothing."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from featurestore.errors import LogCorrupt, LogPruned
from featurestore.log import EventLog
from featurestore.log.segment import SUFFIX
from featurestore.types import DType, Float64, String
from tests.forks import Forks, forks

SCHEMA: dict[str, DType] = {"card": String, "amount": Float64}

KEEPER = """
# Keeps a log: what to do, the directory, an offset, and before which of its calls of the operating system to be killed
# (0: none; less: after so many milliseconds).
import os, signal
from pathlib import Path
from featurestore.log import EventLog
from featurestore.types import Float64, String

def work(what, directory, offset, kill):
    left = kill

    def counted(call):
        def wrapped(*given, **named):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*given, **named)
        return wrapped

    log = EventLog.open(Path(directory), {"card": String, "amount": Float64}, segment_bytes=900)
    if kill > 0:
        os.fsync, Path.unlink, Path.replace, Path.open = map(counted, (os.fsync, Path.unlink, Path.replace, Path.open))
    if kill < 0:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, -kill / 1000)
    log.prune(before_offset=offset) if what == "prune" else log.skip(offset)
"""

WRITER = """
# Appends two events at a time, each saying its own offset, and says how far it came.
import sys, time
from pathlib import Path
from featurestore.log import EventLog
from featurestore.types import Float64, String

log = EventLog.open(Path(sys.argv[1]), {"card": String, "amount": Float64}, segment_bytes=900)
while True:
    end = log.end()
    done = log.append([{"card": "x" * 20, "amount": float(end + i)} for i in range(2)], at=time.time_ns() // 1000)
    print(done.last_offset, flush=True)
    time.sleep(0.005)
"""


@dataclass
class Kept:
    """A log with a writing process and a reading thread; `wrong` is whatever they met that should not be."""

    directory: Path
    keeper: Forks
    acknowledged: int = -1
    read: int = 0
    lost: set[int] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def keep(self, what: str, offset: int, kill: int) -> int:
        """Prunes or skips in a process that is killed; its exit status."""
        return self.keeper.run(what, str(self.directory), offset, kill)

    def hear(self, writer: subprocess.Popen[str]) -> None:
        assert writer.stdout is not None
        for line in writer.stdout:
            self.acknowledged = int(line)

    def follow(self) -> None:
        """Reads on and on: every event has the offset that it says itself, and none is left out but the lost."""
        with EventLog.open(self.directory, SCHEMA) as log:
            while not self.stop.is_set():
                try:
                    batch = log.read(self.read, 7)
                except LogPruned as pruned:
                    self.read = pruned.start
                    continue
                except LogCorrupt:
                    time.sleep(0.01)
                    continue
                self.look(batch.table["__offset"].to_pylist(), batch.table["amount"].to_pylist(), self.read)
                self.read = batch.next_offset
                if not len(batch.table):
                    time.sleep(0.002)

    def look(self, offsets: list[int], amounts: list[float], start: int) -> None:
        if amounts != [float(o) for o in offsets]:
            self.wrong.append(f"{offsets} says {amounts}")
        whole = [o for o in range(start, offsets[-1] + 1 if offsets else start) if o not in self.lost]
        if [o for o in offsets if o not in self.lost] != whole:
            self.wrong.append(f"from {start}: {offsets}")

    def check(self, least: int = 0) -> None:
        """All that was acknowledged is there once, from `least` on at the latest; and the reader saw nothing else."""
        acknowledged = self.acknowledged
        with EventLog.open(self.directory, SCHEMA) as log:
            start = offset = log.start()
            assert start <= least
            found: list[int] = []
            while (batch := log.read(offset)).next_offset > offset:
                found += batch.table["__offset"].to_pylist()
                self.look(batch.table["__offset"].to_pylist(), batch.table["amount"].to_pylist(), offset)
                offset = batch.next_offset
            assert offset > acknowledged
            assert found == [o for o in range(start, offset) if o not in self.lost]
            assert log.check() == ()
        assert self.wrong == []

    @property
    def segments(self) -> list[Path]:
        return sorted(self.directory.glob(f"*{SUFFIX}"))

    def damage(self, *, header: bool) -> int:
        """Damages a segment that is full, in its header or the payload of its second append; where reading stops."""
        self.until(lambda: len(self.segments) > 3)
        segment = self.segments[-3]
        raw = bytearray(segment.read_bytes())
        first = int(segment.stem)
        frames = [i for i in range(len(raw)) if raw[i : i + 4] == b"FRM1"]
        raw[20 if header else frames[1] + 100] ^= 0xFF
        if not header:
            self.lost |= {first + 2, first + 3}
        # In place, as bytes rot: who has the file open sees it.
        with segment.open("r+b") as file:
            file.write(raw)
        return first if header else first + 2

    def until(self, true: object) -> None:
        assert callable(true)
        end = time.monotonic() + 60
        while not true():
            assert time.monotonic() < end, "it never came true"
            time.sleep(0.01)

    def grow(self, segments: int) -> None:
        """Waits until so many segments more are there."""
        last = int(self.segments[-1].stem) if self.segments else -1
        self.until(lambda: sum(int(s.stem) > last for s in self.segments) >= segments)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    pipe = subprocess.PIPE
    with (
        forks(KEEPER) as keeper,
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=pipe, text=True) as writer,
    ):
        log = Kept(tmp_path, keeper)
        threads = [threading.Thread(target=log.hear, args=[writer]), threading.Thread(target=log.follow)]
        for thread in threads:
            thread.start()
        try:
            log.grow(4)
            yield log
        finally:
            log.stop.set()
            writer.kill()
            for thread in threads:
                thread.join()
    log.check(least=1 << 62)


def test_killed_at_every_step_of_a_prune(kept: Kept) -> None:
    for step in count(1):
        kept.grow(2)
        keep = int(kept.segments[-2].stem)
        status = kept.keep("prune", keep, step)
        kept.check(least=keep)
        if status == 0:
            break
        assert status == -9
        assert kept.keep("prune", keep, 0) == 0
        kept.check(least=keep)
        assert int(kept.segments[0].stem) == keep
    assert step > 3, "a segment, another one and the directory"


@pytest.mark.parametrize("header", [False, True], ids=["a payload", "a header"])
def test_killed_at_every_step_of_a_skip(kept: Kept, header: bool) -> None:
    for step in count(1):
        kept.grow(2)
        offset = kept.damage(header=header)
        status = kept.keep("skip", offset, step)
        if status == 0:
            break
        assert status == -9
        with EventLog.open(kept.directory, SCHEMA) as log:
            left = log.check()
        # Either nothing was done yet, or all of it: then there is nothing to skip.
        assert [e.offset for e in left] in ([], [offset])
        assert kept.keep("skip", offset, 0) == (0 if left else 1)
        kept.check()
    assert step > 5, "the bytes set aside, and the segment in their place"
    kept.check()
    with EventLog.open(kept.directory, SCHEMA) as log:
        assert log.stats().skipped == len(kept.lost)


def test_killed_at_random(kept: Kept, kills: int) -> None:
    draw = random.Random(11)
    for number in range(kills):
        kept.grow(1)
        kill = -draw.choice([1, 1, 2, 3, 5, 20])
        if number % 2:
            keep = int(draw.choice(kept.segments).stem)
            kept.keep("prune", keep, kill)
        else:
            offset = kept.damage(header=draw.random() < 0.3)
            if kept.keep("skip", offset, kill) != 0:
                kept.keep("skip", offset, 0)
        kept.check(least=int(kept.segments[0].stem))
