"""Processes that capture, or compact, until they are killed: `python -m tests.capture_killed PROJECT`.

Each line on standard input is a JSON list of role (`serve` or `compact`), step, count and seed. Each runs in a process of its
own, forked from one that has imported everything, and says `ready PID`; at the count-th time that it is about to do the step (a
call of the system) it ends itself with SIGKILL; `half` is a write of which half is done. What it has been told is kept for good
it says as `kept ROW-ID VALUE …` and `labelled ROW-ID …`. Then comes `ended STATUS`.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from featurestore import FeatureStore
from featurestore.capture.log import Folder
from featurestore.log.eventlog import EventLog

SMALL = 8_000
"""Bytes of a segment: few, so that there are many."""

STEPS = {
    "serve": ("pwritev", "half", "fsync", "synced", "replace"),
    "compact": ("fsync", "synced", "replace", "unlink"),
}
"""Steps of each role; `synced` is when a sync was just done."""


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def arm(step: str, count: int) -> None:
    """Has this process killed at the count-th time of the step."""
    left = count

    def reached() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    name = {"half": "pwritev", "synced": "fsync"}.get(step, step)
    if name == "-":
        return
    real: Callable[..., Any] = getattr(os, name)

    def call(*given: Any, **named: Any) -> Any:
        if not reached():
            return real(*given, **named)
        if step == "half":
            fd, parts, offset = given
            data = b"".join(parts)
            real(fd, [data[: len(data) // 2]], offset)
        elif step == "synced":
            real(*given, **named)
        die()
        return None

    setattr(os, name, call)


def serve(store: FeatureStore, chance: random.Random) -> None:
    """Serves, and says what is acknowledged; now and then a label comes back."""
    while True:
        cards = [chance.randrange(25) for _ in range(chance.randrange(1, 60))]
        read = store.get_online_features("loud", {"card_id": np.array(cards)})
        if chance.random() < 0.3:
            store.get_online_features("loud", {"card_id": [1]})  # one more, flushed with it or lost with it
        store.capture.flush()
        say(" ".join(["kept", *(f"{r} {c}" for r, c in zip(read.row_ids, cards, strict=True))]))
        if chance.random() < 0.2:
            store.capture.labels(read.row_ids, cards, name="card")
            say(" ".join(["labelled", *read.row_ids]))


def main(project: str, role: str, step: str, count: int, seed: int) -> None:
    Folder.open = lambda self: EventLog.open(  # type: ignore[method-assign]
        self.path / "log", self.schema.columns, segment_bytes=SMALL
    )
    with FeatureStore(project) as store:
        say(f"ready {os.getpid()}")
        if role == "serve":
            store.get_online_features("loud", {"card_id": [1]}, capture=False)
            arm(step, count)
            serve(store, random.Random(seed))
        arm(step, count)
        while True:
            store.capture.compact()


def warm(project: str) -> None:
    """Imports what is imported when it is needed: a process that is killed soon has no time for that."""
    importlib.import_module("pandas")  # pyarrow looks at it
    with FeatureStore(project) as store:
        store.get_online_features("loud", {"card_id": [1]}, capture=False)
        store.capture.compact()


if __name__ == "__main__":
    warm(sys.argv[1])
    for line in sys.stdin:
        child = os.fork()
        if not child:
            try:
                main(sys.argv[1], *json.loads(line))
            except BaseException as error:  # noqa: BLE001  the other side sees the status
                sys.stderr.write(f"{error}\n")
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        say(f"ended {os.waitstatus_to_exitcode(status)}")
