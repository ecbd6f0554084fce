"""Killed at any step of `apply`, a registry is at the old revision or at the new one, whole, and the next apply works."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import ir
from featurestore.registry import open_registry
from featurestore.store import FeatureStore
from tests.forks import Forks, forks

DEFINITIONS = """
import featurestore as fs

who = fs.Entity("who", key="k")
events = fs.BatchSource(
    "events", batch=fs.Parquet("events.parquet"), event_time="at", columns={{"k": fs.Int64, "at": fs.Timestamp, "x": fs.Int64}}
)
v = fs.FeatureView("v", who, events, [fs.count().over(fs.hours({number})), fs.sum("x").over(fs.days(1))])
kept = fs.FeatureService("kept", [v])
changing = fs.FeatureService("s{number}", [v])
"""

APPLIER = """
# Applies a project: its folder, and what is to kill it: after so many statements of the commit and its end, or, below 0, after
# so many microseconds from its begin on (0: nothing does).
import os, signal
import psycopg  # here, and not in each child
from featurestore.registry import Registry, connection
from featurestore.store import FeatureStore

def work(root, kill):
    left, commit, transaction = kill, Registry.commit, connection.Transaction
    run, rows = transaction.run, transaction.rows

    def count():
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(call):
        def wrapped(*given):
            done = call(*given)
            count()
            return done
        return wrapped

    def committed(*given, **named):
        if kill > 0:
            transaction.run, transaction.rows = counted(run), counted(rows)
        elif kill < 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process at once, as a kill does
            signal.setitimer(signal.ITIMER_REAL, -kill / 1e6)
        done = commit(*given, **named)
        if kill > 0:
            count()
        signal.setitimer(signal.ITIMER_REAL, 0)
        return done

    Registry.commit = committed
    with FeatureStore(root) as store:
        store.apply()
"""


@dataclass
class Applied:
    """A project whose applies are killed; `plans` are those that were applied, by revision."""

    root: Path
    url: str
    applier: Forks
    plans: list[ir.Plan]
    number: int = 0

    def change(self) -> None:
        """Other definitions: a view of another window, a service that has it, one that goes and one that comes."""
        self.number += 1
        (self.root / "definitions.py").write_text(DEFINITIONS.format(number=self.number))

    def apply(self, kill: int) -> int:
        """Applies in a process that is killed; its exit status."""
        return self.applier.run(str(self.root), kill)

    def check(self) -> bool:
        """The registry is whole, at the old or the new revision; whether it is at the new one."""
        with FeatureStore(self.root) as store:
            desired = store.definitions()
        registry = open_registry(self.url, self.root)  # as whoever comes next
        current = registry.current()
        new = current.number == len(self.plans)
        if new:
            self.plans.append(desired)
        assert current.plan == self.plans[-1]
        assert [registry.revision(n).plan for n in range(len(self.plans))] == self.plans
        made = [r.number for r in registry.history()]
        assert made == [e.details["revision"] for e in registry.audit()] == list(range(current.number, 0, -1))
        versions = registry.services()
        assert {v.name for v in versions if not v.retired} == {s.name for s in current.plan.services}
        for service in current.plan.services:
            assert registry.service(service.name).view("v") == current.plan.view("v")
        return new

    def go_on(self) -> None:
        """The next apply works, whatever became of the last."""
        with FeatureStore(self.root) as store:
            revision = store.apply()
            assert revision.number == (
                len(self.plans) if store.definitions() != self.plans[-1] else len(self.plans) - 1
            )
        self.check()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def applied(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Applied]:
    url = "sqlite:///.fs/registry.db"
    if request.param == "postgres":
        url = request.getfixturevalue("fresh_postgres")
    (tmp_path / "fs.toml").write_text(f'[offline]\nthreads = 1\n[registry]\nurl = "{url}"\n')
    pq.write_table(
        pa.table({"k": [1], "at": [datetime(2024, 5, 1, tzinfo=UTC)], "x": [1]}), tmp_path / "events.parquet"
    )
    with forks(APPLIER) as applier:
        yield Applied(tmp_path, url, applier, [ir.Plan()])


def test_killed_at_every_step(applied: Applied) -> None:
    applied.change()
    for step in count(1):  # of the first commit, which makes the tables
        status = applied.apply(step)
        assert status in (0, -signal.SIGKILL)
        if applied.check():
            applied.change()
            break
    first, last = step, False
    assert len(applied.plans) == 2
    for step in count(1):
        status = applied.apply(step)
        new = applied.check()
        if status == 0:
            break
        assert status == -signal.SIGKILL
        applied.go_on()
        applied.change()
        last = new
    assert last, "the last kill came after the commit"
    assert 5 < step < first, "the tables are made once"


def test_killed_at_random(applied: Applied, kills: int) -> None:
    draw = random.Random(3)
    ended: list[tuple[int, bool]] = []
    for _ in range(kills):
        applied.change()
        status = applied.apply(-draw.randrange(1, 12_000))
        ended.append((status, applied.check()))
        applied.go_on()
    assert all(status in (0, -signal.SIGKILL, -signal.SIGALRM) for status, _ in ended)
    assert any(status for status, _ in ended), "some kills hit"
    assert all(new for status, new in ended if status == 0), "what was acknowledged is there"
