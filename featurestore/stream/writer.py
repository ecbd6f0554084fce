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
import zlib
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from featurestore.compile.flink_job import job_of, topic_prefix, wire_of
from featurestore.config import Config
from featurestore.erasures import Erasures
from featurestore.errors import (
    BrokerError,
    BrokerUnavailable,
    OutageTooLong,
    RegistryError,
    StoreFull,
    StoreUnavailable,
    StreamConflict,
    StreamError,
    TopicNotFound,
)
from featurestore.ir import View
from featurestore.ledger import Hole
from featurestore.online.codec import NEVER
from featurestore.online.state import StreamState, load_states, load_stream, stream_name
from featurestore.online.store import OnlineStore
from featurestore.stream import kafka
from featurestore.stream.apply import Heads
from featurestore.stream.arrivals import arrival_of
from featurestore.stream.clock import Clock, first_stamp
from featurestore.stream.letters import left_out, span_of
from featurestore.stream.positions import LETTERS, OWNER, TILES, Position, Positions, summed
from featurestore.stream.tile_records import Decoder
from featurestore.stream.tombstones import Tombstones
from featurestore.stream.upserts import Now
from featurestore.time import MINUTE, SECOND

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

TICK_SECONDS = 1.0
"""How often the clock is looked at."""

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

_KINDS = (TILES, LETTERS)


@dataclass(frozen=True, slots=True)
class WriterStatus:
    """How far the writers of a view are. Times are UTC microseconds, None where nothing was written yet.

    `lag` counts records of the tile topic that wait, `writers` are the processes that hold its partitions, `said_at` is when
    the one that was silent the longest last said something. `counts` are of all writers so far: `records` and `upserts` that
    came, `heads` written, `refused` tiles that would have lost rows, tiles `behind` the cut, `unreadable` records, and the dead
    letters of the job by reason.
    """

    view: str
    lag: int
    writers: tuple[str, ...]
    said_at: int | None
    applied_at: int | None
    counts: Mapping[str, int]


def written(online: OnlineStore, view: View) -> WriterStatus:
    """How far the writers of a view are, whether they run or not."""
    positions = Positions(online, Heads(online, view).codec)
    tiles, letters = (positions.every(kind) for kind in _KINDS)
    counts = summed(p.counts for p in (*tiles.values(), *letters.values()))
    return WriterStatus(
        view.name,
        sum(p.lag for p in tiles.values()),
        tuple(sorted({p.writer for p in tiles.values()})),
        min((p.at for p in tiles.values()), default=None),
        max((p.applied_at for p in tiles.values()), default=None) or None,
        dict(counts),
    )


class ViewWriter:
    """One view's writer. `run` goes on until it is stopped; between batches nothing is half done."""

    def __init__(
        self,
        config: Config,
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
        self._take_over, self._reset = take_over, reset
        self._heads = Heads(online, view)
        self._codec = self._heads.codec
        self._decoder = Decoder(view, self._heads.layout, self._codec, queries)
        self._positions = Positions(online, self._codec)
        self._tombstones = Tombstones(view)
        self._erasures = Erasures()
        self.tell(Erasures() if erased is None else erased)
        self._arrival = arrival_of(view.source)
        prefix = topic_prefix(view)
        self.topics = {TILES: f"{prefix}.tiles", LETTERS: f"{prefix}.dead-letters"}
        self.group = prefix
        self._cluster = kafka.cluster_of(view.source.stream)
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._consumer: Consumer | None = None
        self._ids: dict[bytes, str] = {}
        self._mark, self._cut, self._proven = 0, NEVER, NEVER
        self._states: dict[tuple[bytes, int], Position] = {}
        """Of each partition held what is in the store."""
        self._next: dict[tuple[bytes, int], Position] = {}
        """Of those that moved since, what is to be said."""
        self._ended: set[tuple[bytes, int]] = set()
        self._committed: deque[tuple[float, dict[tuple[bytes, int], int]]] = deque()
        self._failure: BaseException | None = None
        self._since: int | None = None
        self._holes_said = True
        self._identity = ""
        self._said_at = self._looked_at = self._committed_at = self._tick_at = -1e9
        self._retry = True
        self.records = 0

    @property
    def _now(self) -> Now:
        return Now(self._mark, self._cut, self._proven)

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
        stop = stop or threading.Event()
        self._retry = not once
        self._stop = stop
        try:
            if not self._begin(stop, once=once):
                return 0
            ticking = threading.Thread(target=self._ticks, args=(stop,), name="clock", daemon=True)
            self._done = threading.Event()
            ticking.start()
            try:
                self._loop(stop, once=once)
            finally:
                self._done.set()
                ticking.join()
            self._save(now=True)
            if once:
                self._tick_at_end()
        finally:
            self._close()
        return self.records

    def _loop(self, stop: threading.Event, *, once: bool) -> None:
        assert self._consumer is not None
        began = time.monotonic()
        while not stop.is_set():
            with kafka.typed(self._cluster):
                messages = self._consumer.consume(RECORDS, WAIT_SECONDS)
            if self._failure is not None:
                raise self._failure
            self._take(messages)
            self._look()
            self._save(now=once and not messages)
            self._commit()
            if once and (
                self._at_the_end() or (not self._states and time.monotonic() - began > ALONE_SECONDS)
            ):
                return

    def _begin(self, stop: threading.Event, *, once: bool) -> bool:
        """Joins the group once the tile topic is there; False if it was stopped before."""
        # One whose owner is plainly another's is refused before anything is waited for.
        self._patiently(lambda: self._must_be_ours(None))
        pause = 0.1
        while not stop.is_set():
            try:
                admin = kafka.admin(self._cluster)
                there = kafka.topics(admin, self._cluster)
                if self.topics[TILES] in there:
                    self._ids = {
                        kind: kafka.topic_id(admin, self._cluster, topic)
                        for kind, topic in self.topics.items()
                        if topic in there
                    }
                    self._patiently(self._own)
                    break
                why: Exception = TopicNotFound(self.topics[TILES], self._cluster.bootstrap, there)
            except BrokerUnavailable as error:
                why = error
            if once:
                raise why
            self._say(f"view '{self.view.name}': waiting for the topic of its job's tiles\n  {why}")
            stop.wait(pause)
            pause = min(2 * pause, LONGEST_SECONDS)
        else:
            return False
        self._consumer = kafka.consumer(
            self._cluster,
            group_id=f"{self.group}.writer",
            partition_assignment_strategy="cooperative-sticky",
            session_timeout_ms=SESSION_MS,
            max_poll_interval_ms=1_800_000,  # a store that is away holds all writers up alike
            heartbeat_interval_ms=SESSION_MS // 5,
            topic_metadata_refresh_interval_ms=10_000,
            fetch_queue_backoff_ms=20,
            fetch_wait_max_ms=200,
            queued_max_messages_kbytes=32_768,
        )
        with kafka.typed(self._cluster):
            self._consumer.subscribe(
                list(self.topics.values()),
                on_assign=self._assigned,
                on_revoke=self._revoked,
                on_lost=self._lost,
            )
        return True

    def _close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    # ── whose it is

    def _must_be_ours(self, owner: str | None) -> StreamState | None:
        found = load_stream(self._online, self._codec)
        if found is None or self._take_over:
            return found
        if found.owner == owner or (owner is None and found.owner.startswith(OWNER)):
            return found
        ago = (self._clock() - found.updated_at) / SECOND
        raise StreamConflict(
            f"view '{self.view.name}' is fed by another stream, which last said so {ago:,.0f} seconds ago\n"
            "  stop it; or, if it is gone for good, run this one with --take-over"
        )

    def _own(self) -> None:
        """Says that this stream owns the view's heads: all writers of one tile topic are one owner."""
        owner = self._owner = f"{OWNER}{self._ids[TILES]}"
        found = self._must_be_ours(owner)
        # High, so that no materialisation ever bears the same number.
        self._mark = 1 << 31 | zlib.crc32(owner.encode()) & 0x7FFFFFFF
        if self._reset:
            self._positions.forget()
        if found is not None and found.owner == owner:
            self._since = found.since
        else:
            # What was removed from the source before the job began, it never read.
            assert self.view.source.stream is not None
            self._since = self._removed_until(self.view.source.stream.path)
        self._identity = self._online.identity()
        self._look_at_base()
        self._say_state(NEVER if found is None else found.clock)
        self._step("owned")

    def _removed_until(self, topic: str) -> int | None:
        """When the first record of a topic was written that is still there, if some before it were removed; None if none was."""
        admin = kafka.admin(self._cluster)
        numbers = kafka.partitions(admin, self._cluster, topic)
        starts = kafka.offsets(admin, self._cluster, topic, numbers, first=True)
        stamps = [self._first_stamp(topic, n, start) for n, start in starts.items() if start]
        return max(stamps, default=None)

    def _first_stamp(self, topic: str, number: int, start: int) -> int:
        reader = kafka.consumer(self._cluster)
        try:
            found = first_stamp(reader, topic, number, start)
        finally:
            reader.close()
        return self._clock() if found is None else found

    def _say_state(self, clock: int, *, afresh: bool = False) -> None:
        """The clock never steps back, but for a moment where two say it (less is as true), and `afresh`, after a loss."""
        found = load_stream(self._online, self._codec)
        if found is not None and not afresh:
            clock = max(clock, found.clock)
        said = StreamState(self._owner, clock, self._since, self._clock())
        self._online.set_metas({stream_name(self._codec): said.to_bytes()})
        self._proven = max(self._proven, clock)

    # ── partitions come and go

    def _kind(self, topic: str | None) -> bytes:
        return TILES if topic == self.topics[TILES] else LETTERS

    def _assigned(self, consumer: Consumer, parts: list[TopicPartition]) -> None:
        try:
            for kind in _KINDS:
                mine = [p for p in parts if self._kind(p.topic) == kind]
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
            place = self._kind(part.topic), part.partition
            self._states.pop(place, None)
            self._next.pop(place, None)
            self._ended.discard(place)

    def _places(self, kind: bytes, numbers: list[int]) -> dict[int, int]:
        """Where to read on: behind what is in the store. Raises OutageTooLong where that was removed from the topic."""
        topic = self.topics[kind]
        admin = kafka.admin(self._cluster)
        name = kafka.topic_id(admin, self._cluster, topic)
        if self._ids.setdefault(kind, name) != name:
            if kind == TILES:
                raise StreamError(
                    f"topic '{topic}' was made anew under its writer\n"
                    "  start it again, with --take-over if this is the view's job now"
                )
            self._ids[kind] = name
        starts = kafka.offsets(admin, self._cluster, topic, numbers, first=True)
        ends = kafka.offsets(admin, self._cluster, topic, numbers)
        there = self._positions.load(kind, numbers)
        found = {}
        for number in numbers:
            position = there.get(number)
            start, end = starts[number], ends[number]
            at = start
            if position is not None and self._holds(position, kind) and position.offset <= end:
                at = position.offset
                if at < start and kind == TILES:
                    self._removed(number, start, at)
                    at = start
                at = max(at, start)
            elif start and kind == TILES:
                self._removed(number, start, None)
            before = position or Position(self._ids[kind], at)
            self._states[kind, number] = replace(before, topic=self._ids[kind], offset=at, end=end)
            self._next[kind, number] = self._states[kind, number]
            self._ended.discard((kind, number))
            found[number] = at
        if kind == LETTERS:
            self._holes_said = False  # what was counted and not reported
        return found

    def _holds(self, position: Position, kind: bytes) -> bool:
        """Whether what a position says was put in is there: it is of this topic, and of a store that loses both or none."""
        if position.topic != self._ids[kind]:
            return False
        return in_order(self._online) or position.store == self._identity

    def _removed(self, number: int, start: int, stopped: int | None) -> None:
        """Records before `start` are gone. That is well where base has all that they were made of; else it is said.

        Raises OutageTooLong for a writer that had `stopped` before it, unless it was told to go on.
        """
        until = self._first_stamp(self.topics[TILES], number, start)
        if self._cut != NEVER and self._cut >= until + SKEW:
            return
        if stopped is not None and not self._reset:
            place = f"the topic of its tiles, partition {number},"
            raise OutageTooLong(stopped, start, place, "fs stream write --reset")
        self._since = until if self._since is None else max(self._since, until)
        self._say_state(NEVER)
        self._say(
            f"view '{self.view.name}': older tiles were removed from their topic; `fs materialize` fills in what is missing"
        )

    # ── records

    def _take(self, messages: Sequence[Message]) -> None:
        tiles, letters, others = [], [], []
        for message in messages:
            if message.error() is not None:
                others.append(message)
            elif self._kind(message.topic()) == TILES:
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
            place = self._kind(message.topic()), message.partition() or 0
            offset = message.offset()
            at = self._next.get(place) or self._states.get(place)
            if at is not None and offset is not None and offset >= at.offset:
                self._ended.add(place)
                self._move(place, offset, Counter(), end=offset)
            return
        if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._MAX_POLL_EXCEEDED):  # noqa: SLF001
            return  # no dead letter yet: it is looked for again; or the group gave it up: it joins anew
        if error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 (what was to be read was removed)
            self._go_back(self._kind(message.topic()), [message.partition() or 0])
            return
        typed = kafka.error_of(error, self._cluster, message.topic())
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
        counts.update(self._heads.apply(upserts, self._now))
        self._step("applied")
        self.records += len(messages)
        numbers = np.unique(places)
        for i, number in enumerate(numbers.tolist()):
            mine = places == number
            told = Counter(records=int(mine.sum()))
            if i == 0:
                told.update(counts)
            self._move((TILES, number), int(offsets[mine].max()) + 1, told, holes=holes if i == 0 else None)
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
            self._move((LETTERS, number), end, counts, holes=holes)
        self._holes_said = False

    def _move(
        self,
        place: tuple[bytes, int],
        offset: int,
        counts: Counter[str],
        *,
        end: int | None = None,
        holes: Counter[tuple[int, str]] | None = None,
    ) -> None:
        """What will be said of a partition: unless it went to another writer meanwhile."""
        if place not in self._states:
            return
        was = self._next.get(place, self._states[place])
        if end is None:
            self._ended.discard(place)
        applied = self._clock() if counts else was.applied_at
        self._next[place] = replace(
            was,
            offset=offset,
            end=max(was.end, offset) if end is None else end,
            applied_at=applied,
            counts=was.counts + counts,
            holes=was.holes + holes if holes else was.holes,
        )

    def _at_the_end(self) -> bool:
        return any(kind == TILES for kind, _ in self._states) and self._ended >= self._states.keys()

    # ── what is said

    def _save(self, *, now: bool) -> None:
        """Says in the store how far it is. What another writer said meanwhile, or a store forgot, stands: reads on from there."""
        at = time.monotonic()
        quiet = not any(p.offset != self._states[k].offset for k, p in self._next.items())
        if not now and at - self._said_at < (LOOK_SECONDS if quiet else SAVE_SECONDS):
            return
        if not self._states:
            return
        self._said_at = at
        moment = self._clock()
        for kind in _KINDS:
            mine = {n: self._next.get((k, n), p) for (k, n), p in self._states.items() if k == kind}
            if not mine:
                continue
            moved = {
                n: replace(
                    p, at=moment, writer=self._name, erasures=self._erasures.number, store=self._identity
                )
                for n, p in mine.items()
            }
            before = {n: self._states[kind, n] for n in mine}
            done = self._patiently(partial(self._positions.save, kind, moved, before))
            self._step("saved")
            lost = [n for n, p in done.items() if p is None]
            for n, p in done.items():
                if p is not None:
                    self._states[kind, n] = p
                    self._next.pop((kind, n), None)
            if lost:
                self._go_back(kind, lost)
        self._committed.append((at, {k: p.offset for k, p in self._states.items()}))
        self._tell_holes()

    def _go_back(self, kind: bytes, numbers: list[int]) -> None:
        """The store has not the positions that this writer put there: it reads on from those that it has."""
        assert self._consumer is not None
        self._step("stepped back")
        offsets = self._patiently(lambda: self._places(kind, numbers))
        for number in numbers:
            place = kind, number
            counts = Counter(rewound=1)
            self._move(place, offsets[number], counts)
            self._seek(kind, number, offsets[number])
        self._committed.clear()

    def _seek(self, kind: bytes, number: int, offset: int) -> None:
        """Reads a partition on from an offset; one that went to another writer meanwhile is dropped."""
        from confluent_kafka import TopicPartition

        assert self._consumer is not None
        topic = self.topics[kind]
        for _ in range(50):
            with kafka.typed(self._cluster):
                held = {(p.topic, p.partition) for p in self._consumer.assignment()}
            if (topic, number) not in held:
                self._states.pop((kind, number), None)
                self._next.pop((kind, number), None)
                return
            try:
                with kafka.typed(self._cluster):
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
        every = summed_holes(self._positions.every(kind) for kind in _KINDS)
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
                TopicPartition(self.topics[k], n, o) for (k, n), o in old.items() if (k, n) in self._states
            ]
            self._consumer.commit(offsets=mine, asynchronous=True)

    # ── what may have changed

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        self._patiently(self._look_at_base)
        self._patiently(self._look_at_stream)
        identity = self._patiently(self._online.identity)
        if identity != self._identity:
            self._identity = identity
            self._say(
                f"the online store was restarted or emptied: view '{self.view.name}' is put in from what it still says on"
            )
            if not in_order(self._online):
                self._patiently(partial(self._say_state, NEVER, afresh=True))
            for kind in _KINDS:
                mine = [n for k, n in self._states if k == kind]
                if mine:
                    self._go_back(kind, mine)

    def _look_at_base(self) -> None:
        base = load_states(self._online, {"": self._codec}).get("")
        self._cut = NEVER if base is None else base.cut

    def _look_at_stream(self) -> None:
        """Learns the clock that another writer has moved. Raises StreamConflict where another stream has taken over."""
        found = load_stream(self._online, self._codec)
        if found is None:
            self._say_state(NEVER)
        elif found.owner != self._owner:
            self._take_over = False
            self._must_be_ours(self._owner)
        else:
            self._proven = max(self._proven, found.clock)

    # ── the clock

    def _ticks(self, stop: threading.Event) -> None:
        """Moves the stream's clock, while this writer holds the first partition of the tiles."""
        clock = None
        try:
            while not (stop.is_set() or self._done.is_set()):
                self._done.wait(TICK_SECONDS)
                if (TILES, 0) not in self._states:
                    continue
                try:
                    clock = clock or self._new_clock()
                    self._tick(clock)
                except (BrokerUnavailable, TopicNotFound, StoreUnavailable, StoreFull) as error:
                    self._say(f"view '{self.view.name}': how fresh it is cannot be said: {error}")
        except BaseException as error:  # noqa: BLE001  (a thread: the loop raises it)
            self._failure = error
        finally:
            if clock is not None:
                clock.close()

    def _new_clock(self) -> Clock:
        return Clock(self.view, self.group, self.topics[TILES], self._positions, self._arrival, self._clock)

    def _tick(self, clock: Clock) -> bool:
        proven = clock.tick()
        if proven is not None:
            self._say_state(proven)
            self._step("said")
        return proven is not None

    def _tick_at_end(self) -> None:
        """With `once`: what was just put in may be proven now."""
        clock = self._new_clock()
        try:
            if not self._tick(clock):
                self._tick(clock)
        finally:
            clock.close()

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


def in_order(store: OnlineStore) -> bool:
    """Whether a store that loses writes loses the newest ones. The servers of a cluster lose each their own."""
    from featurestore.online.redis_cluster import ClusterStore

    return not isinstance(store, ClusterStore)


def summed_holes(found: Any) -> Counter[tuple[int, str]]:
    """The holes of all partitions together."""
    total: Counter[tuple[int, str]] = Counter()
    for positions in found:
        for position in positions.values():
            total.update(position.holes)
    return total


__all__ = ["ViewWriter", "WriterStatus", "written"]
