"""Writers killed at any moment: the others, or the next, go on; nothing is lost, and no value is wrong afterwards.

`python -m tests.test_writer_kills 500` kills so often, by hand, and prints the tally.
"""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flink_broker import Broker, brokers, built
from tests.forks import Child, Forks, forks
from tests.services import RedisServer
from tests.test_writer import Project, settled, wait_for

pytestmark = [pytest.mark.flink, pytest.mark.slow]

RUN = """
# Runs a writer of a project, to its end (`once`) or on and on; killed when it comes to a step for the so-manieth time.
import os, signal
import featurestore.stream.writer as writer
from featurestore.store import FeatureStore

writer.RECORDS, writer.SAVE_SECONDS, writer.SESSION_MS = 40, 0.01, 1000

def work(root, name, number, once):
    seen = 0

    def step(done):
        nonlocal seen
        seen += done == name
        if done == name and seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    with FeatureStore(root) as store:
        view = store.registry.current().plan.view("v")
        print("running", flush=True)
        writer.ViewWriter(view, store._store(), report=store.ledger.report_holes, step=step).run(once=once)
"""

STEPS = ("owned", "assigned", "taken", "applied", "saved", "reported", "said")


@pytest.fixture(scope="module")
def quick_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that lets members of groups be given up soon."""
    built()
    with brokers(tmp_path_factory.mktemp("quick"), group_min_session_timeout_ms="500") as one:
        yield one


@pytest.fixture(params=["lmdb", pytest.param("redis", marks=pytest.mark.redis)])
def project(request: pytest.FixtureRequest, tmp_path: Path, quick_kafka: Broker) -> Iterator[Project]:
    url = "lmdb://.fs/online"
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("fresh_redis")
        url = server.url
    made = Project(tmp_path, quick_kafka.address, url)
    yield made
    made.close()


@pytest.fixture(scope="module")
def processes() -> Iterator[Forks]:
    with forks(RUN) as made:
        yield made


def start(processes: Forks, project: Project, step: str = "", number: int = 0, *, once: bool = True) -> Child:
    return processes.start(str(project.root), step, number, once)


def finish(processes: Forks, project: Project) -> None:
    """Puts in what is left, and compares every value with batch."""
    assert start(processes, project).wait() == 0
    assert settled(project)
    project.check()


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step(processes: Forks, project: Project, step: str) -> None:
    project.send(100)
    project.job.dead_letter("late", project.now)
    assert start(processes, project, step, 1).wait() == -signal.SIGKILL, "the step is there"
    project.send(50)
    assert start(processes, project, step, 2).wait() in (0, -signal.SIGKILL), "some steps come but once"
    finish(processes, project)
    assert [h.rows for h in project.store.holes() if h.reason == "late"] == [1]


def test_killed_at_random_beside_another(processes: Forks, project: Project) -> None:
    kill_at_random(processes, project, 8)


def kill_at_random(processes: Forks, project: Project, kills: int) -> None:
    """Two writers share the work; now and then one of them is killed, and another comes in its place."""
    chance = random.Random(7)
    writers = [start(processes, project, once=False) for _ in range(2)]
    try:
        for _ in range(kills):
            end = time.monotonic() + chance.random() * 1.5
            while time.monotonic() < end:
                project.send(chance.randrange(1, 30))
                if chance.random() < 0.2:
                    project.job.step_back(chance)
            gone = chance.randrange(2)
            writers[gone].kill()
            writers[gone].wait()
            writers[gone] = start(processes, project, once=False)
        wait_for(lambda: settled(project))
        assert all(w.alive for w in writers)
        project.check()
    finally:
        for one in writers:
            one.kill()
            one.wait()


def main(kills: int) -> None:
    tally: Counter[str] = Counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        brokers(Path(folder), group_min_session_timeout_ms="500") as one,
        forks(RUN) as processes,
    ):
        while tally["kills"] < kills:
            with tempfile.TemporaryDirectory() as root:
                project = Project(Path(root), one.address, "lmdb://.fs/online")
                for step in STEPS:
                    project.send(60)
                    project.job.dead_letter("late", project.now)
                    hit = start(processes, project, step, 1).wait() == -signal.SIGKILL
                    tally["kills"] += hit
                    tally[f"at {step}"] += hit
                kill_at_random(processes, project, 10)
                tally["kills"] += 10
                tally["at random"] += 10
                tally["records"] += len(project.job.log)
                project.close()
            sys.stdout.write(f"{dict(tally)}\n")
            sys.stdout.flush()
    sys.stdout.write("no value was wrong\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
