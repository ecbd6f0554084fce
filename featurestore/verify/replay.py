"""Events played through the embedded stream as they would have come: from a log, in micro-batches, up to a moment."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa

from featurestore.compile.reference import Event
from featurestore.config import Config
from featurestore.evaluate.arrow import arrow_type
from featurestore.ir import Location, View
from featurestore.online.store import OnlineStore
from featurestore.stream.feeds import open_log
from featurestore.stream.view import ViewStream
from featurestore.verify.tables import as_arrow

EVER = 1 << 60
"""A lateness that no event outlives: what is late is left out of a stream, and in batch."""


def streamed(view: View, name: str) -> View:
    """The view over a stream of its own: nothing is late, and what comes first in the log arrived first."""
    source = view.source
    return replace(
        view,
        source=replace(source, name=name, stream=Location("kafka", name), lateness=EVER, arrival_time=None),
    )


class Replay:
    """One view's events, played in any order that leaves copies of an event as they arrived."""

    def __init__(
        self,
        config: Config,
        view: View,
        events: Sequence[Event],
        store: OnlineStore,
        name: str,
        seed: int = 0,
    ) -> None:
        self.view = streamed(view, name)
        self._chance = random.Random(seed)  # noqa: S311 (no secret)
        source = self.view.source
        time = source.event_time
        assert time is not None
        self._time = time
        mixed: dict[object, float] = {}
        places = []
        for number, event in enumerate(events):
            same = number if source.event_id is None else (event[time], event[source.event_id])
            turn = mixed.setdefault(same, self._chance.random())
            copy = tuple((event[c] is not None, event[c]) for c in view.copy_order if c in event)
            places.append((turn, copy if source.event_id is not None else (), number))
        self._waiting = [events[number] for _, _, number in sorted(places)]
        config = replace(config, stream_events="log")  # of its own, wherever the project's events are
        self._log = open_log(config, source)
        self._now = 0
        self._stream = ViewStream(config, self.view, store, whole=True, clock=lambda: self._now)

    def until(self, end: int) -> None:
        """Plays the events of before `end` that were not played yet."""
        self._now = end
        ready: list[Event] = []
        waiting: list[Event] = []
        for event in self._waiting:
            at = event[self._time]
            (waiting if isinstance(at, int) and at >= end else ready).append(event)
        self._waiting = waiting
        while ready:
            size = self._chance.randint(1, max(1, len(ready)))
            part, ready = ready[:size], ready[size:]
            self._log.append(self._table(part), at=end)
            self._stream.advance()
        while self._stream.advance():
            pass
        self._stream.settle()

    def _table(self, events: Sequence[Event]) -> pa.Table:
        columns = {n: as_arrow([e[n] for e in events], t) for n, t in self.view.source.columns}
        return pa.table(columns, schema=pa.schema([(n, arrow_type(t)) for n, t in self.view.source.columns]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self._log.close()


def laboratory(root: Path) -> Config:
    """Settings of a stream in a folder of its own."""
    return Config(root, "verify", threads=1)
