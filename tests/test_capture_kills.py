"""Processes that capture are killed, at each step and at any moment: what was acknowledged is there, once, and as it was served.

`python -m tests.test_capture_kills 200` kills so often, by hand, and prints the tally and how many acknowledged rows are lost.
"""

from __future__ import annotations

import json
import os
import queue
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from featurestore import FeatureStore
from featurestore.capture.returned import values_of
from tests.capture_killed import STEPS
from tests.test_capture import DEFINITIONS, captured, project

LOUD = 'loud = FeatureService("loud", features=[newest], capture=Capture(retention=None))\n'
LONGEST = 0.4
"""Seconds after which a process that has not come to its step is killed from outside."""


class Victims:
    """A process that runs one after another of those that are killed, and what they said."""

    def __init__(self, path: Path) -> None:
        words = [sys.executable, "-m", "tests.capture_killed", str(path)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("gone\n")

    def start(self, *what: Any) -> int:
        """The process id of the next one, once it is ready."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        line = self._lines.get(timeout=60)
        assert line.startswith("ready "), line
        return int(line.split()[1])

    def told(self, pid: int, patience: float) -> tuple[list[list[str]], int]:
        """What it said until it was killed, by itself or after so many seconds by us, and its status."""
        said: list[list[str]] = []
        deadline = time.monotonic() + patience
        killed = False
        while True:
            try:
                line = self._lines.get(timeout=60 if killed else max(deadline - time.monotonic(), 0.001))
            except queue.Empty:
                assert not killed, "it was killed, and said nothing of it"
                killed = True
                os.kill(pid, signal.SIGKILL)
                continue
            if line.startswith("ended "):
                return said, int(line.split()[1])
            assert line != "gone\n"
            if line.endswith("\n"):  # what was cut off was not said
                said.append(line.split())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@contextmanager
def victims(path: Path, count: int) -> Iterator[list[Victims]]:
    made = [Victims(path) for _ in range(count)]
    try:
        yield made
    finally:
        for one in made:
            one.close()


class Told:
    """What was acknowledged, and how it was come to."""

    def __init__(self) -> None:
        self.kept: dict[str, int] = {}
        self.labelled: set[str] = set()
        self.tally: Counter[str] = Counter()

    def add(self, said: list[list[str]]) -> None:
        for what, *words in said:
            if what == "kept":
                self.kept |= {r: int(c) for r, c in zip(words[::2], words[1::2], strict=True)}
            else:
                assert what == "labelled"
                self.labelled |= set(words)


def kill(some: list[Victims], told: Told, role: str, step: str, count: int, seed: int) -> None:
    """One process is killed at a step, or soon, while another serves beside it; that one is killed afterwards."""
    chance = random.Random(seed)
    beside = some[1].start("serve", "-", 1, seed + 1)
    pid = some[0].start(role, step, count, seed)
    for one, its, patience in ((some[0], pid, LONGEST * chance.random()), (some[1], beside, 0.05)):
        said, status = one.told(its, LONGEST if one is some[0] and step != "-" else patience)
        assert status == -signal.SIGKILL
        told.add(said)
        told.tally["kills"] += 1
    told.tally[f"{role}, {step if step != '-' else 'any moment'}"] += 1


def lost(path: Path, told: Told) -> int:
    """Acknowledged rows and labels that are not there, once all that was captured is found to be what it was."""
    with FeatureStore(path) as store:
        table = captured(store, "loud")
        want = store.get_online_features("loud", {"card_id": list(range(25))}, capture=False).to_dict()
        for row in table.to_pylist():
            assert {n: row[f"feature:{n}"] for n in want} == {
                n: v[row["key:card_id"]] for n, v in want.items()
            }
        ids = table["row_id"].to_pylist()
        assert len(set(ids)) == len(ids), "no row is there twice"
        cards = dict(zip(ids, table["key:card_id"].to_pylist(), strict=True))
        gone = sum(cards.get(row_id) != card for row_id, card in told.kept.items())
        if told.labelled:
            newest = store.capture.returned("labels").newest()
            labels = dict(zip(newest["row_id"].to_pylist(), values_of(newest), strict=True))
            gone += sum(labels.get(row_id) != told.kept[row_id] for row_id in told.labelled)
        assert not any(s.damaged_rows for s in store.capture.status()), "a kill damages nothing"
        return gone


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("killed"), DEFINITIONS + LOUD)


@pytest.fixture(scope="module")
def some(made: Path) -> Iterator[list[Victims]]:
    with victims(made, 2) as both:
        yield both


@pytest.mark.parametrize(("role", "step"), [(r, s) for r, steps in STEPS.items() for s in steps])
def test_nothing_acknowledged_is_lost(made: Path, some: list[Victims], role: str, step: str) -> None:
    told = Told()
    kill(some, told, role, step, 2, seed=5)
    assert told.tally["kills"] == 2
    assert lost(made, told) == 0


def test_killed_at_any_moment(made: Path, some: list[Victims]) -> None:
    told = Told()
    for seed in range(2):
        kill(some, told, "serve", "-", 1, seed)
    assert told.kept
    assert lost(made, told) == 0


def main(kills: int) -> None:
    told, chance = Told(), random.Random(3)
    steps = [(r, s) for r, steps in STEPS.items() for s in (*steps, "-")]
    with ExitStack() as stack:
        path = project(Path(stack.enter_context(tempfile.TemporaryDirectory())), DEFINITIONS + LOUD)
        some = stack.enter_context(victims(path, 2))
        while told.tally["kills"] < kills:
            role, step = steps[told.tally["kills"] // 2 % len(steps)]
            kill(some, told, role, step, chance.randrange(1, 12), chance.randrange(1 << 30))
        gone = lost(path, told)
        shown = {**told.tally, "acknowledged rows": len(told.kept), "labels": len(told.labelled)}
        sys.stdout.write(f"{shown}\nacknowledged rows and labels lost: {gone}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
