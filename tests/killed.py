"""Materialisations that are killed: `python -m tests.killed`, with a JSON list of project, end, step and count on each line.

Each runs in a process of its own, forked from one that has imported everything, and says `ready PID`; at the count-th time
that the step was just done it ends itself with SIGKILL (at the step `-` never). Then comes `ended STATUS`.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from featurestore import FeatureStore, backfill, materialize
from featurestore.backfill import Asked
from featurestore.backfill import backfill as run
from featurestore.time import moment

SMALL = 7
"""Entities in a stretch: few, so that there are many."""


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(project: str, end: str, step: str, count: int) -> None:
    materialize.ENTITIES, backfill.SAVE_SECONDS = SMALL, 0.0
    left = count

    def kill(done: str) -> None:
        nonlocal left
        left -= done == step
        if done == step and left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with FeatureStore(project) as store, store._duckdb() as con:
        online = store._store()
        say(f"ready {os.getpid()}")
        for view in store.registry.current().plan.views:
            asked = Asked(moment(end), named=True)
            run(con, online, store.ledger, view, store.config.root, asked, step=kill)


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if not child:
            try:
                main(*json.loads(line))
            except BaseException:  # noqa: BLE001  the other side sees the status
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        say(f"ended {os.waitstatus_to_exitcode(status)}")
