"""Keeping jobs running: what should run and does not is started again, from the newest checkpoint."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from featurestore.compile.flink_job import topic_prefix
from featurestore.config import Config
from featurestore.errors import FeatureStoreError, FlinkUnavailable, JobOutageTooLong, RegistryError
from featurestore.flink.cluster import ensure, rest_of, states
from featurestore.flink.control import Say, Select, retire, started_job, topic_views
from featurestore.flink.place import Place, checked, place_of
from featurestore.flink.records import Record, load, locked, save, supervising
from featurestore.flink.rest import LIVE
from featurestore.ir import View
from featurestore.online.store import OnlineStore
from featurestore.processes import Process, remember, remembered, spawn
from featurestore.registry import Registry
from featurestore.stream.writer import written

LOOK_SECONDS: Final = 1.0
LONGEST_SECONDS: Final = 30.0
"""How long a job that fails again and again is left alone, at most."""


def supervise(
    config: Config, registry: Registry, online: OnlineStore, stop: threading.Event, clock: Callable[[], int], *,
    select: Select = None, say: Say = lambda _: None,
) -> None:  # fmt: skip
    """Keeps the jobs that should run running, and their writers, until `stop` is set or none is left that should.

    Raises StreamConflict when another process does so already.
    """
    place = checked(place_of(config))
    with supervising(place):
        watch = _Watch(config, place, registry, online, clock, select, say)
        while not stop.is_set():
            if not watch.look():
                break
            stop.wait(LOOK_SECONDS)
        watch.end_writers()


class _Watch:
    """One look after another at what should run."""

    def __init__(
        self, config: Config, place: Place, registry: Registry, online: OnlineStore, clock: Callable[[], int],
        select: Select, say: Say,
    ) -> None:  # fmt: skip
        self._config, self._place, self._registry, self._online = config, place, registry, online
        self._clock, self._select, self._say = clock, select, say
        self._writers = remembered(self._writer_file)
        self._pause: dict[str, float] = {}
        self._again_at: dict[str, float] = {}

    @property
    def _writer_file(self) -> Path:
        return self._place.folder / "writers.json"

    def look(self) -> bool:
        """Starts again what is gone. False when nothing is left that should run."""
        with locked(self._place):
            if not any(r.state in ("running", "paused") for r in load(self._place).values()):
                return False
            try:
                for name in ensure(self._place, load(self._place)):
                    self._say(f"the local {name} was gone and was started again")
                self._jobs()
            except FlinkUnavailable as error:
                self._say(str(error))
            except RegistryError as error:
                self._say(f"the registry does not answer: {error}")
        self._keep_writers()
        return True

    def _jobs(self) -> None:
        views = {topic_prefix(v): v for v in topic_views(self._registry.current().plan, self._select)}
        records = load(self._place)
        known = states(self._place, records)
        mine = {r.view for r in records.values() if r.state == "running"}
        for name, view in views.items():
            record = records.get(name)
            if record is None and view.name in mine:
                self._say(f"view '{view.name}' was changed: its new job starts beside the old one")
                self._start(view)
            elif record is not None and record.state == "running":
                if record.job is not None and known.get(record.job) in LIVE:
                    self._note_checkpoint(record)
                else:
                    self._say(
                        f"the job of view '{view.name}' is gone ({known.get(record.job or '', 'unknown')})"
                    )
                    self._start(view)
        applied = {view.name for view in views.values()}
        for name, record in records.items():
            if record.state == "running" and name not in views and not record.ahead:
                new = next((v for v in views.values() if v.name == record.view), None)
                if record.view not in applied or (new is not None and self._caught_up(new)):
                    retire(self._place, record, self._say)

    def _start(self, view: View) -> None:
        """Starts a job, unless it failed a moment ago."""
        name = topic_prefix(view)
        if time.monotonic() < self._again_at.get(name, 0.0):
            return
        try:
            started_job(self._place, self._online, view, self._clock(), fresh=False, say=self._say)
            self._pause.pop(name, None)
        except FlinkUnavailable:
            raise
        except FeatureStoreError as error:
            record = load(self._place).get(name)
            if record is not None:
                state = "stopped" if isinstance(error, JobOutageTooLong) else record.state
                save(self._place, replace(record, failure=str(error), state=state))
            wait = self._pause[name] = min(2 * self._pause.get(name, LOOK_SECONDS), LONGEST_SECONDS)
            self._again_at[name] = time.monotonic() + wait
            self._say(f"the job of view '{view.name}' could not be started: {error}")

    def _note_checkpoint(self, record: Record) -> None:
        """Keeps in mind where the job could go on from, for when the cluster forgets."""
        assert record.job is not None
        newest = rest_of(self._place, record.name).checkpoint(record.job)
        if newest is not None and newest.at > record.checkpoint_at:
            save(self._place, replace(record, checkpoint=newest.path, checkpoint_at=newest.at, failure=None))

    def _caught_up(self, view: View) -> bool:
        """Whether a new version has put in all that waits, and said so lately."""
        status = written(self._online, view)
        recent = status.said_at is not None and self._clock() - status.said_at < 60_000_000
        return recent and status.lag == 0 and bool(status.counts.get("records"))

    def _keep_writers(self) -> None:
        self._writers = {name: p for name, p in self._writers.items() if p.alive()}
        for number in range(self._place.writers):
            name = str(number)
            if name not in self._writers:
                self._writers[name] = self._writer()
                self._say(f"writer {name} was started")
        remember(self._writer_file, self._writers)

    def _writer(self) -> Process:
        words = [sys.executable, "-m", "featurestore.cli", "-C", str(self._config.root.resolve()), "--quiet"]
        words += ["--env", self._config.environment] if self._config.environment else []
        words += ["stream", "write"]
        for one in [self._select] if isinstance(self._select, str) else self._select or ():
            words += ["--select", one]
        return spawn(words, self._place.folder / "log" / "writer.log")

    def end_writers(self) -> None:
        """Ends the writers: all that they took is kept."""
        for process in self._writers.values():
            process.end()
        remember(self._writer_file, {})
