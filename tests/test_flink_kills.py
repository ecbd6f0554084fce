"""Kafka, Flink, writers and Redis as real processes, each killed at random moments under load: every value is right afterwards.

`python -m tests.test_flink_kills 50` kills so often, by hand, and prints the tally.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from featurestore.online.lmdb import LmdbStore
from featurestore.stream.apply import Heads
from featurestore.stream.tile_records import Decoder
from featurestore.stream.upserts import Now
from tests.flink_broker import Broker, brokers, built
from tests.flink_cluster import BUILT
from tests.flink_session import Session, session
from tests.forks import Forks, forks
from tests.services import MISSING
from tests.test_writer import KeptRedis, Project, wait_for
from tests.test_writer_kills import RUN, start
from tests.tile_job import records_of_job

pytestmark = [pytest.mark.flink, pytest.mark.slow]

VICTIMS = ("task manager", "writer", "redis", "broker", "job manager")


class Everything:
    """The whole road, and what was sent down it."""

    def __init__(self, root: Path, processes: Forks, broker: Broker, flink: Session, kept: KeptRedis) -> None:
        self.processes, self.broker, self.flink, self.redis = processes, broker, flink, kept
        self.project = Project(root, broker.address, f"redis://127.0.0.1:{kept.port}/0")
        flink.submit(self.project.con, self.project.view)
        flink.wait(flink.running)
        self.writers = [start(self.processes, self.project, once=False) for _ in range(2)]
        self.chance = random.Random(11)

    def send(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.project.job.events_only([self.project.event() for _ in range(self.chance.randrange(1, 200))])
            time.sleep(0.02)

    def kill(self, victim: str) -> None:
        """Kills one, goes on under load, and brings it back as whoever watches it does."""
        match victim:
            case "task manager":
                self.flink.kill_tasks()
                self.flink.start_tasks()
            case "job manager":
                self.flink.kill_manager()
                self.send(1)
                self.flink.start_manager()
                self.flink.submit(self.project.con, self.project.view)
            case "writer":
                gone = self.chance.randrange(2)
                self.writers[gone].kill()
                self.writers[gone].wait()
                self.send(1)
                self.writers[gone] = start(self.processes, self.project, once=False)
            case "redis":
                self.redis.kill()
                self.send(1)
                self.redis.start()
            case "broker":
                self.broker.kill()
                time.sleep(self.chance.random() * 2)
                self.broker.start()
            case _:
                raise AssertionError(victim)

    def recovered(self) -> float:
        """How many seconds it takes until everything that was sent is readable."""
        began = time.monotonic()
        wait_for(self.caught_up, 180)
        return time.monotonic() - began

    def caught_up(self) -> bool:
        try:
            return self.project.caught_up()
        except Exception:  # noqa: BLE001  (Redis is coming back)
            return False

    def check(self) -> None:
        """Every value is that of batch, and every tile that of DuckDB, over all that was sent."""
        self.project.job.write_batch()
        self.project.check()
        assert all(writer.alive for writer in self.writers), "the others go on"
        with tempfile.TemporaryDirectory() as folder, LmdbStore(Path(folder), 1 << 30) as store:
            view = self.project.view
            queries, records = records_of_job(self.project.job)
            heads = Heads(store, view)
            upserts, wrong = Decoder(view, heads.layout, heads.codec, queries).decode(
                records, offsets(len(records))
            )
            assert wrong == 0
            heads.apply(upserts, Now(1 << 31))
            want = {key: value[64:-8] for key, value in store.scan(heads.lead)}
            got = {key: value[64:-8] for key, value in self.project.online.scan(heads.lead)}
            assert got == want, (
                "behind the header, and before the place of the newest row, a head is its tiles"
            )

    def close(self) -> None:
        for writer in self.writers:
            writer.kill()
            writer.wait()
        self.project.close()


def offsets(count: int) -> Any:
    import numpy as np

    return np.arange(count)


@contextmanager
def everything(root: Path) -> Iterator[Everything]:
    folders = {name: root / name for name in ("kafka", "flink", "redis", "project")}
    for folder in folders.values():
        folder.mkdir()
    with ExitStack() as stack:
        processes = stack.enter_context(forks(RUN))
        broker = stack.enter_context(brokers(folders["kafka"], group_min_session_timeout_ms="500"))
        settings = {"execution.checkpointing.interval": "1 s", "execution.checkpointing.min-pause": "500 ms"}
        flink = stack.enter_context(session(folders["flink"], settings=settings))
        kept = KeptRedis(folders["redis"])
        kept.start()
        stack.callback(kept.kill)
        all_ = Everything(folders["project"], processes, broker, flink, kept)
        stack.callback(all_.close)
        yield all_


@pytest.mark.timeout(900)
def test_each_part_killed_once_under_load(tmp_path: Path) -> None:
    built()
    if not BUILT.exists() or shutil.which("redis-server") is None:
        pytest.skip(f"{MISSING}Flink and redis-server (make -C streaming)")
    with everything(tmp_path) as road:
        for victim in VICTIMS:
            road.send(road.chance.random() * 3)
            road.kill(victim)
        road.send(1)
        road.recovered()
        road.check()


def main(kills: int) -> None:
    tally: Counter[str] = Counter()
    slowest: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, everything(Path(folder)) as road:
        for number in range(kills):
            victim = VICTIMS[number % len(VICTIMS)] if number < len(VICTIMS) else road.chance.choice(VICTIMS)
            road.send(road.chance.random() * 3)
            road.kill(victim)
            road.send(0.2)
            took = road.recovered()
            road.check()
            tally[victim] += 1
            slowest[victim] = max(took, slowest.get(victim, 0.0))
            said = ", ".join(f"{v} {n} (slowest {slowest[v]:.1f} s)" for v, n in tally.items())
            sys.stdout.write(
                f"{number + 1} kills, {len(road.project.job.events):,} events, all right: {said}\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
