"""The writer: a Flink job's tiles from their Kafka topic into the heads of the online store, for readers that know no difference.

Any number of writers share a view: they are one consumer group, and the partitions of one that is killed go to the others. Each
puts what it read into the store and only then says so, in the store itself (see `positions`); what it had not said yet is read
again, and changes nothing. The group's own offsets trail by a minute or more: nobody starts from them, they are for who watches.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from featurestore.compile.flink_job import job_of, wire_of
from featurestore.erasures import Erasures
from featurestore.errors import (
    BrokerError,
    BrokerUnavailable,
    OutageTooLong,
    RegistryError,
    StoreFull,
    StoreUnavailable,
    TopicNotFound,
)
from featurestore.ir import View
from featurestore.ledger import Hole
from featurestore.online.codec import NEVER
from featurestore.online.store import OnlineStore
from featurestore.stream import kafka
from featurestore.stream.apply import Heads
from featurestore.stream.arrivals import arrival_of
from featurestore.stream.clock import Clock, Ticking
from featurestore.stream.held import Held, Place
from featurestore.stream.letters import left_out, span_of
from featurestore.stream.ownership import Ownership
from featurestore.stream.positions import KINDS, LETTERS, TILES, Position, Positions, in_order, summed
from featurestore.stream.tile_records import Decoder
from featurestore.stream.tile_topics import TileTopics
from featurestore.stream.tombstones import Tombstones
from featurestore.stream.written import WriterStatus, written
from featurestore.time import MINUTE

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message, TopicPartition

RECORDS = 20_000
"""Records of one batch, at most."""

WAIT_SECONDS = 0.02
"""How long a writer waits for records where there were none."""

SAVE_SECONDS = 0.2
"""How often a writer says how far it is: what one that is killed leaves to be put in again."""

LOOK_SECONDS = 1.0
"""How often a writer looks for a new base, new tombstones, and whether the store is still the one it wrote to."""

COMMIT_SECONDS = 10.0
TRAIL_SECONDS = 60.0
"""How far the offsets of the group trail what was put in."""

SESSION_MS = 10_000
"""After so many milliseconds of silence a writer's partitions go to the others."""

LONGEST_SECONDS = 5.0
"""How long a writer waits, at most, before it tries a store again that did not answer."""

ALONE_SECONDS = 30.0
"""How long `once` waits for a partition that others may hold."""

SKEW = 5 * MINUTE
"""How far after its arrival an event may be stamped."""

Step = Callable[[str], None]
Report = Callable[[View, Sequence[Hole]], None]
T = TypeVar("T")


class ViewWriter:
    """One view's writer. `run` goes on until it is stopped; between batches nothing is half done."""

    def __init__(
        self,
        view: View,
        online: OnlineStore,
        *,
        erased: Erasures | None = None,
        take_over: bool = False,
        reset: bool = False,
        report: Report | None = None,
        say: Callable[[str], None] = lambda _: None,
        step: Step = lambda _: None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """`report` is told of holes, `say` of what a person may want to know, `step` what was just done.

        Raises Unsupported for a view that no Flink job can have, StreamConflict when another stream feeds it; `take_over` says
        that this one is gone for good. `reset` reads the topics from their beginning, whatever was lost of them.
        """
        queries = job_of(view, wire_of(view)).queries
        assert view.source.stream is not None
        self.view, self._online = view, online
        self._report, self._say, self._step, self._clock = report, say, step, clock
        self._reset = reset
        self._heads = Heads(online, view)
        codec = self._heads.codec
        self._decoder = Decoder(view, self._heads.layout, codec, queries)
        self._positions, self._held = Positions(online, codec), Held()
        self._owns = Ownership(online, view, codec, clock, take_over=take_over)
        self.topics = TileTopics(view, clock)
        self._tombstones = Tombstones(view)
        self._erasures = Erasures()
        self.tell(Erasures() if erased is None else erased)
        self._arrival = arrival_of(view.source)
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._consumer: Consumer | None = None
        self._committed: deque[tuple[float, dict[Place, int]]] = deque()
        self._failure: BaseException | None = None
        self._holes_said = True
        self._identity = ""
        self._said_at = self._looked_at = self._committed_at = -1e9
        self._retry, self._stop = True, threading.Event()
        self.records = 0

    def tell(self, erased: Erasures) -> None:
        """Says which entities are erased now: from here on what comes of them is left out."""
        self._erasures = erased
        self._tombstones.tell(erased.honoured(self.view).erased)

    # ── running

    def run(self, stop: threading.Event | None = None, *, once: bool = False) -> int:
        """Puts in what comes until `stop` is set, or, with `once`, until nothing is left; how many records came.

        A store or a broker that does not answer is tried again, unless `once`. Raises TopicNotFound (with `once`),
        StreamConflict, OutageTooLong, StreamError, and BrokerError for what waiting does not mend.
        """
        self._retry, self._stop = not once, stop or threading.Event()
        try:
            if not self._begin(once=once):
                return 0
            with Ticking(self.clock, lambda: (TILES, 0) in self._held, self._proven, self._say) as ticking:
                self._loop(ticking, once=once)
            self._save(now=True)
            if once:
                self._prove()
        finally:
            if self._consumer is not None:
                self._consumer.close()
                self._consumer = None
        return self.records

    def _loop(self, ticking: Ticking, *, once: bool) -> None:
        assert self._consumer is not None
        began = time.monotonic()
        while not self._stop.is_set():
            with kafka.typed(self.topics.cluster):
                messages = self._consumer.consume(RECORDS, WAIT_SECONDS)
            failure = self._failure or ticking.failure
            if failure is not None:
                raise failure
            self._take(messages)
            self._look()
            self._save(now=once and not messages)
            self._commit()
            alone = not self._held and time.monotonic() - began > ALONE_SECONDS
            if once and (self._held.at_the_end or alone):
                return

    def _begin(self, *, once: bool) -> bool:
        """Joins the group once the tile topic is there; False if it was stopped before."""
        # One whose owner is plainly another's is refused before anything is waited for.
        self._patiently(self._owns.check)
        pause = 0.1
        while not self._stop.is_set():
            try:
                self.topics.find()
                break
            except (TopicNotFound, BrokerUnavailable) as error:
                if once:
                    raise
                self._say(f"view '{self.view.name}': waiting for the topic of its job's tiles\n  {error}")
            self._stop.wait(pause)
            pause = min(2 * pause, LONGEST_SECONDS)
        else:
            return False
        self._patiently(self._own)
        self._consumer = kafka.consumer(
            self.topics.cluster,
            group_id=f"{self.topics.group}.writer",
            partition_assignment_strategy="cooperative-sticky",
            session_timeout_ms=SESSION_MS,
            max_poll_interval_ms=1_800_000,  # a store that is away holds all writers up alike
            heartbeat_interval_ms=SESSION_MS // 5,
            topic_metadata_refresh_interval_ms=10_000,
            fetch_queue_backoff_ms=20,
            fetch_wait_max_ms=200,
            queued_max_messages_kbytes=32_768,
        )
        with kafka.typed(self.topics.cluster):
            self._consumer.subscribe(
                list(self.topics.names.values()),
                on_assign=self._assigned,
                on_revoke=self._revoked,
                on_lost=self._lost,
            )
        return True

    def _own(self) -> None:
        if self._reset:
            self._positions.forget()
        self._identity = self._online.identity()
        self._owns.own(self.topics.ids[TILES], self.topics.removed_until)
        self._step("owned")

    # ── partitions come and go

    def _assigned(self, consumer: Consumer, parts: list[TopicPartition]) -> None:
        try:
            for kind in KINDS:
                mine = [p for p in parts if self.topics.kind(p.topic) == kind]
                if not mine:
                    continue
                offsets = self._patiently(partial(self._places, kind, [p.partition for p in mine]))
                for part in mine:
                    part.offset = offsets[part.partition]
            consumer.incremental_assign(parts)
            self._step("assigned")
        except BaseException as error:  # noqa: BLE001  (a callback: the loop raises it)
            self._failure = error

    def _revoked(self, _: Consumer, parts: list[TopicPartition]) -> None:
        """Says how far they are, for whoever gets them."""
        try:
            self._save(now=True)
        except BaseException as error:  # noqa: BLE001  (a callback: the loop raises it)
            self._failure = error
        self._lost(_, parts)

    def _lost(self, _: Consumer, parts: list[TopicPartition]) -> None:
        for part in parts:
            self._held.drop((self.topics.kind(part.topic), part.partition))

    def _places(self, kind: bytes, numbers: list[int]) -> dict[int, int]:
        """Where to read on: behind what is in the store. Raises OutageTooLong where that was removed from the topic."""
        bounds = self.topics.bounds(kind, numbers)
        there = self._positions.load(kind, numbers)
        found = {}
        for number, (start, end) in bounds.items():
            position = there.get(number)
            stopped = None
            if position is not None and self._says_so(position, kind) and position.offset <= end:
                stopped = position.offset
            at = start if stopped is None else max(stopped, start)
            if kind == TILES and start > (stopped or 0):
                self._removed(number, start, stopped)
            before = position or Position(self.topics.ids[kind], at)
            self._held.begin((kind, number), replace(before, topic=self.topics.ids[kind], offset=at, end=end))
            found[number] = at
        if kind == LETTERS:
            self._holes_said = False  # what was counted and not reported
        return found

    def _says_so(self, position: Position, kind: bytes) -> bool:
        """Whether what a position says was put in is there: it is of this topic, and of a store that loses both or none."""
        if position.topic != self.topics.ids[kind]:
            return False
        return in_order(self._online) or position.store == self._identity

    def _removed(self, number: int, start: int, stopped: int | None) -> None:
        """Records before `start` are gone. That is well where base has all that they were made of; else it is said.

        Raises OutageTooLong for a writer that had `stopped` before it, unless it was told to go on.
        """
        until = self.topics.first_stamp(self.topics.names[TILES], number, start)
        if self._owns.cut != NEVER and self._owns.cut >= until + SKEW:
            return
        if stopped is not None and not self._reset:
            place = f"the topic of its tiles, partition {number},"
            raise OutageTooLong(stopped, start, place, "fs stream write --reset")
        self._owns.incomplete_until(until)
        self._say(
            f"view '{self.view.name}': older tiles were removed from their topic; `fs materialize` fills in what is missing"
        )

    # ── records

    def _take(self, messages: Sequence[Message]) -> None:
        tiles, letters, others = [], [], []
        for message in messages:
            if message.error() is not None:
                others.append(message)
            elif self.topics.kind(message.topic()) == TILES:
                tiles.append(message)
            else:
                letters.append(message)
        if tiles:
            self._step("taken")
            self._patiently(lambda: self._take_tiles(tiles))
        if letters:
            self._take_letters(letters)
        for message in others:
            self._meet(message)

    def _meet(self, message: Message) -> None:
        """An end, or an error."""
        from confluent_kafka import KafkaError

        error = message.error()
        assert error is not None
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
            self._held.end(
                (self.topics.kind(message.topic()), message.partition() or 0), message.offset() or 0
            )
            return
        if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._MAX_POLL_EXCEEDED):  # noqa: SLF001
            return  # no dead letter yet: it is looked for again; or the group gave it up: it joins anew
        if error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 (what was to be read was removed)
            self._go_back(self.topics.kind(message.topic()), [message.partition() or 0])
            return
        typed = kafka.error_of(error, self.topics.cluster, message.topic())
        if not isinstance(typed, BrokerUnavailable):
            raise typed
        if not self._retry:
            raise typed
        self._say(str(typed))

    def _take_tiles(self, messages: Sequence[Message]) -> None:
        values = [m.value() for m in messages]
        places = np.fromiter((m.partition() for m in messages), np.int64, len(messages))
        offsets = np.fromiter((m.offset() for m in messages), np.int64, len(messages))
        there = [v for v in values if v is not None]
        known = offsets if len(there) == len(values) else offsets[[v is not None for v in values]]
        upserts, wrong = self._decoder.decode(there, known)
        counts = Counter(unreadable=wrong + len(values) - len(there))
        upserts, holes, gone = self._tombstones.without(self._heads.layout, upserts)
        counts["erased"] += gone
        counts.update(self._heads.apply(upserts, self._owns.now))
        self._step("applied")
        self.records += len(messages)
        numbers = np.unique(places)
        for i, number in enumerate(numbers.tolist()):
            mine = places == number
            told = Counter(records=int(mine.sum()))
            if i == 0:
                told.update(counts)
            end = int(offsets[mine].max()) + 1
            self._held.move((TILES, number), end, told, self._clock(), holes if i == 0 else None)
        if holes:
            self._holes_said = False

    def _take_letters(self, messages: Sequence[Message]) -> None:
        by_part: dict[int, list[Message]] = {}
        for message in messages:
            by_part.setdefault(message.partition(), []).append(message)  # type: ignore[arg-type]
        span = span_of(self._heads.layout)
        for number, mine in by_part.items():
            counts, holes = left_out([m.value() for m in mine], span)
            end = max(m.offset() or 0 for m in mine) + 1
            self._held.move((LETTERS, number), end, counts, self._clock(), holes)
        self._holes_said = False

    # ── what is said

    def _save(self, *, now: bool) -> None:
        """Says in the store how far it is. What another writer said meanwhile, or a store forgot, stands: reads on from there."""
        at = time.monotonic()
        often = LOOK_SECONDS if self._held.quiet else SAVE_SECONDS
        if not self._held or (not now and at - self._said_at < often):
            return
        self._said_at = at
        mine: dict[str, Any] = {
            "at": self._clock(),
            "writer": self._name,
            "erasures": self._erasures.number,
            "store": self._identity,
        }
        for kind in KINDS:
            to_say, before = self._held.to_say(kind)
            if not to_say:
                continue
            moved = {n: replace(p, **mine) for n, p in to_say.items()}
            done = self._patiently(partial(self._positions.save, kind, moved, before))
            self._step("saved")
            lost = self._held.said(kind, done)
            if lost:
                self._go_back(kind, lost)
        self._committed.append((at, self._held.offsets()))
        self._tell_holes()

    def _go_back(self, kind: bytes, numbers: Sequence[int]) -> None:
        """The store has not the positions that this writer put there: it reads on from those that it has."""
        assert self._consumer is not None
        self._step("stepped back")
        offsets = self._patiently(partial(self._places, kind, list(numbers)))
        for number, offset in offsets.items():
            self._held.move((kind, number), offset, Counter(rewound=1), self._clock())
            self._seek(kind, number, offset)
        self._committed.clear()

    def _seek(self, kind: bytes, number: int, offset: int) -> None:
        """Reads a partition on from an offset; one that went to another writer meanwhile is dropped."""
        from confluent_kafka import TopicPartition

        assert self._consumer is not None
        topic, cluster = self.topics.names[kind], self.topics.cluster
        for _ in range(50):
            with kafka.typed(cluster):
                held = {(p.topic, p.partition) for p in self._consumer.assignment()}
            if (topic, number) not in held:
                self._held.drop((kind, number))
                return
            try:
                with kafka.typed(cluster):
                    self._consumer.seek(TopicPartition(topic, number, offset))
                return
            except BrokerError:  # it was only just assigned
                self._stop.wait(0.1)
        raise BrokerUnavailable(
            f"topic '{topic}', partition {number}: it cannot be read on from offset {offset}"
        )

    def _tell_holes(self) -> None:
        """Reports what was left out; what was reported before does no harm."""
        if self._holes_said or self._report is None:
            return
        every = summed(p.holes for kind in KINDS for p in self._positions.every(kind).values())
        span = span_of(self._heads.layout)
        holes = [Hole(start, start + span, reason, rows) for (start, reason), rows in every.items()]
        try:
            self._report(self.view, holes)
        except RegistryError as error:
            if not self._retry:
                raise
            self._say(f"the registry does not take holes: {error}")
            return
        self._holes_said = True
        self._step("reported")

    def _commit(self) -> None:
        """Commits to Kafka what was in the store a minute ago."""
        assert self._consumer is not None
        now = time.monotonic()
        if now - self._committed_at < COMMIT_SECONDS:
            return
        self._committed_at = now
        old = None
        while self._committed and now - self._committed[0][0] > TRAIL_SECONDS:
            old = self._committed.popleft()[1]
        if old:
            from confluent_kafka import TopicPartition

            mine = [
                TopicPartition(self.topics.names[place[0]], place[1], offset)
                for place, offset in old.items()
                if place in self._held
            ]
            self._consumer.commit(offsets=mine, asynchronous=True)

    # ── what may have changed

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        self._patiently(self._owns.look)
        identity = self._patiently(self._online.identity)
        if identity == self._identity:
            return
        self._identity = identity
        self._say(
            f"the online store was restarted or emptied: view '{self.view.name}' is put in from what it still says on"
        )
        if not in_order(self._online):
            self._patiently(partial(self._owns.say, NEVER, afresh=True))
        for kind in KINDS:
            mine = self._held.numbers(kind)
            if mine:
                self._go_back(kind, mine)

    def clock(self) -> Clock:
        """What proves how far the stream is."""
        topics = self.topics
        return Clock(
            self.view, topics.group, topics.names[TILES], self._positions, self._arrival, self._clock
        )

    def _proven(self, moment: int) -> None:
        self._owns.say(moment)
        self._step("said")

    def _prove(self) -> None:
        """With `once`: what was just put in may be proven now."""
        with closing(self.clock()) as clock:
            moment = clock.tick() or clock.tick()
        if moment is not None:
            self._proven(moment)

    # ── patience

    def _patiently(self, work: Callable[[], T]) -> T:
        """What `work` makes, tried again while the store or the broker does not answer, or has no room."""
        pause = 0.05
        while True:
            try:
                result = work()
            except (StoreUnavailable, StoreFull, BrokerUnavailable) as error:
                if not self._retry or self._stop.is_set():
                    raise
                self._say(f"trying again in {pause:.1f} s\n  {error}")
                self._stop.wait(pause)
                pause = min(2 * pause, LONGEST_SECONDS)
                continue
            return result


__all__ = ["ViewWriter", "WriterStatus", "written"]
