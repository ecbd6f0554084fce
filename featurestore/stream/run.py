"""The stream of a project: every view that reads a stream source, in one process, until it is told to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from featurestore.config import Config
from featurestore.erasures import erasures, newest
from featurestore.errors import BrokerUnavailable, NotFound, StoreUnavailable, Unsupported
from featurestore.ir import Plan, Source, View
from featurestore.layout import layout_of
from featurestore.ledger import Hole
from featurestore.online.codec import NEVER, codec_of
from featurestore.online.state import load_stream
from featurestore.online.store import OnlineStore
from featurestore.registry import Registry
from featurestore.selection import select_views
from featurestore.stream.feeds import feeds_of
from featurestore.stream.inbox import open_inbox
from featurestore.stream.state import DeadEvent, Shelf, directory_of
from featurestore.stream.view import Step, ViewStream

LOOK_SECONDS = 1.0
"""How often the registry is asked whether something else was applied."""

IDLE_SECONDS = 0.02
"""How long a stream waits for events where there were none."""

LONGEST_SECONDS = 5.0
"""How long a stream waits, at most, before it tries a store again that did not answer."""


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One view's stream: how far it is. Times are UTC microseconds, None where nothing is known.

    `lag` is how many events wait; `clock` the moment up to which what arrived is in the values; `since` what they are
    complete from; `said_at` when the stream last said so. `counts` are events by what became of them, `dead` those set aside
    that are still there.
    """

    view: str
    source: str
    lag: int | None
    clock: int | None
    since: int | None
    said_at: int | None
    counts: Mapping[str, int]
    dead: int


def streamed_views(plan: Plan, select: str | Sequence[str] | None = None) -> list[View]:
    """The views of a plan that read a stream source. Raises NotFound when none does, or `select` picks none of them."""
    views = [v for v in select_views(plan, select) if v.source.stream is not None]
    if not views:
        known = [v.name for v in plan.views if v.source.stream is not None]
        what = select if isinstance(select, str) else ", ".join(select or ["*"])
        raise NotFound("view of a stream source", what, known, "what is applied")
    return views


def stream_source(plan: Plan, name: str) -> Source:
    """The source of a plan that events may be pushed to. Raises NotFound, and Unsupported for one that is at rest alone."""
    known = {s.name: s for s in plan.sources}
    if name not in known:
        raise NotFound("source", name, known)
    if known[name].stream is None:
        raise Unsupported(
            f"source '{name}'",
            "take pushed events: it is a BatchSource",
            "a StreamSource, or a new file of the batch",
        )
    return known[name]


class Stream:
    """Runs the streams of views. Nothing is half done between two micro-batches, and nothing is lost if it is killed in one."""

    def __init__(
        self,
        config: Config,
        registry: Registry,
        online: OnlineStore,
        select: str | Sequence[str] | None = None,
        *,
        fresh: bool = False,
        take_over: bool = False,
        report: Callable[[View, Sequence[Hole]], None] | None = None,
        say: Callable[[str], None] = lambda _: None,
        step: Step = lambda _: None,
    ) -> None:
        """`report` is told of holes, `say` of what a person may want to know. Raises NotFound and StreamConflict."""
        self._config, self._registry, self._online, self._select = config, registry, online, select
        self._take_over, self._report, self._say, self._step = take_over, report, say, step
        self._streams: dict[str, ViewStream] = {}
        self._looked_at = time.monotonic()
        revision = registry.current()
        self._revision = revision.number
        self._erasures = erasures(registry)
        try:
            for view in streamed_views(revision.plan, select):
                self._open(view, fresh=fresh)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of everything. What was taken is kept."""
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()

    def run(self, stop: threading.Event | None = None, *, once: bool = False) -> int:
        """Takes events until `stop` is set, or, with `once`, until none is left; how many came.

        A store or broker that does not answer is tried again, unless `once`. Raises OutageTooLong and LogCorrupt, after which
        the stream goes on from where it was once that is mended.
        """
        stop = stop or threading.Event()
        came, pause = 0, 0.1
        while not stop.is_set():
            try:
                taken = sum(stream.advance() for stream in list(self._streams.values()))
                pause = 0.1
            except (StoreUnavailable, BrokerUnavailable) as error:
                if once:
                    raise
                who = "the online store" if isinstance(error, StoreUnavailable) else "Kafka"
                self._say(f"{who} does not answer; trying again in {pause:.1f} s\n  {error}")
                stop.wait(pause)
                pause = min(2 * pause, LONGEST_SECONDS)
                continue
            came += taken
            if once and not taken:
                break
            self._reload()
            if not taken:
                self._wait(stop)
        for stream in self._streams.values():
            stream.settle()
        return came

    def _wait(self, stop: threading.Event) -> None:
        first = next(iter(self._streams.values()), None)
        if first is None:
            stop.wait(LOOK_SECONDS)
        else:
            first.wait(IDLE_SECONDS)

    def _open(self, view: View, *, fresh: bool = False) -> None:
        self._streams[view.name] = ViewStream(
            self._config,
            view,
            self._online,
            fresh=fresh,
            take_over=self._take_over,
            erased=self._erasures,
            report=self._report,
            step=self._step,
        )

    def _reload(self) -> None:
        """Takes up what was erased or applied meanwhile: a changed view is built anew, beside the one that is read until then."""
        if time.monotonic() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = time.monotonic()
        if newest(self._registry) != self._erasures.number:
            self._erasures = erasures(self._registry)
            for stream in self._streams.values():
                stream.tell(self._erasures)
        revision = self._registry.current()
        if revision.number == self._revision:
            return
        self._revision = revision.number
        wanted = {v.name: v for v in revision.plan.views if v.source.stream is not None}
        if self._select is not None:
            wanted = {n: v for n, v in wanted.items() if n in self._streams}
        for name in [n for n in self._streams if n not in wanted]:
            self._say(f"view '{name}' is no longer applied: its stream ends")
            self._streams.pop(name).close()
        for name, view in wanted.items():
            running = self._streams.get(name)
            if running is not None and running.view == view:
                continue
            if running is not None:
                self._streams.pop(name).close()
            self._say(f"view '{name}' was {'changed' if running is not None else 'added'}: its stream starts")
            self._open(view)


def statuses(config: Config, plan: Plan, online: OnlineStore) -> Iterator[StreamStatus]:
    """How far the stream of each view is; a view whose stream never ran has no clock."""
    for view in streamed_views(plan):
        codec = codec_of(view, layout_of(view))
        with ExitStack() as stack:
            shelf = Shelf.open(directory_of(config.root, view, codec))
            meta = None if shelf is None else stack.enter_context(shelf).meta()
            dead = 0 if shelf is None else sum(1 for _ in shelf.dead())
            said = load_stream(online, codec)
            lags: list[int] = []
            for feed in feeds_of(config, view.source):
                stack.callback(feed.close)
                try:
                    lag = feed.lag(None if meta is None else meta.positions.get(feed.name))
                except BrokerUnavailable:
                    lag = None  # the rest is known all the same; `fs doctor` says what is wrong
                lags += [] if lag is None else [lag]
            clock = None if said is None or said.clock == NEVER else said.clock
            yield StreamStatus(
                view.name,
                view.source.name,
                sum(lags) if lags else None,
                clock,
                None if said is None else said.since,
                None if said is None else said.updated_at,
                {} if meta is None else dict(meta.counts),
                dead,
            )


def dead_events(config: Config, view: View) -> list[DeadEvent]:
    """The events of a view that were set aside, the oldest first."""
    shelf = Shelf.open(directory_of(config.root, view, codec_of(view, layout_of(view))))
    if shelf is None:
        return []
    with shelf:
        return list(shelf.dead())


def replay(config: Config, view: View, numbers: Sequence[int] | None, now: int) -> list[DeadEvent]:
    """Gives events that were set aside to their log or topic again, as if they had arrived now; those that were.

    All of them, or those of these numbers. An event is given once, should this be killed and run again. Those that never
    had the shape of an event stay where they are. Raises NotFound for a number that is not there.
    """
    shelf = Shelf.open(directory_of(config.root, view, codec_of(view, layout_of(view))))
    if shelf is None:
        return []
    done = []
    with shelf, closing(open_inbox(config, view.source)) as inbox:
        kept = {dead.number: dead for dead in shelf.dead()}
        for number in numbers if numbers is not None else sorted(kept):
            if number not in kept:
                raise NotFound("dead letter", str(number), map(str, kept), f"view '{view.name}'")
            dead = kept[number]
            if dead.table is None:
                continue
            events = dead.table.select(list(view.source.schema))
            if dead.replayed is None:
                dead = replace(dead, replayed=inbox.end())
                shelf.keep(dead)
                inbox.append(events, now)
            elif not inbox.holds(events.to_pylist()[0], dead.replayed):
                inbox.append(events, now)
            shelf.forget(number)
            done.append(dead)
    return done
