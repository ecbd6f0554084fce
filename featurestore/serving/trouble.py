"""Reads that keep a promise while the store is in trouble: a deadline, a breaker, and what is given instead of an answer.

A service says `deadline=` and `on_unavailable=`. With `fail` a read raises; with `last_known` it is made of what this
process last saw of each entity; with `default` of declared defaults. What is made so says so: STALE, or DEFAULT.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from itertools import islice
from typing import Any, Final

import numpy as np

from featurestore.errors import ExpectationFailed, StoreUnavailable
from featurestore.evaluate.partials import Array, Mask
from featurestore.ir import Service, View
from featurestore.online.store import OnlineStore
from featurestore.online.values import Asked, Values
from featurestore.serving.expected import Watch
from featurestore.serving.reader import Reader
from featurestore.serving.recorder import Tap
from featurestore.serving.request import Request, Rows
from featurestore.serving.result import Block, OnlineFeatures
from featurestore.serving.scaled import scaled_features
from featurestore.statistics.scalers import Scaler
from featurestore.status import Status
from featurestore.time import Moment, moment
from featurestore.types import DType

REMEMBERED_BYTES: Final = 64 << 20
"""What one service remembers of values that it may have to give again; the oldest go first."""

PATIENCE: Final = 0.05
"""Seconds: a read that gave the store less than this and got no answer says nothing of the store."""


class Breaker:
    """Stops asking a store that does not answer: after `failures` in a row for `pause` seconds, then one read tries.

    With each try that fails the pause doubles, up to five times its length. Safe to share between threads.
    """

    def __init__(
        self, failures: int = 5, pause: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit, self._pause, self._clock = failures, pause, clock
        self._failed, self._until = 0, 0.0
        self._lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether reads are turned away just now."""
        return self._failed >= self._limit and self._clock() < self._until

    @property
    def has_failed(self) -> bool:
        """Whether the last read of the store did."""
        return self._failed > 0

    def enter(self) -> None:
        """Raises StoreUnavailable while it is open. After the pause one caller gets through, and decides for all."""
        if self._failed < self._limit:
            return
        with self._lock:
            now = self._clock()
            if self._failed >= self._limit:
                if now < self._until:
                    raise StoreUnavailable(
                        f"the online store did not answer {self._failed} times in a row: not asked again for "
                        f"{self._until - now:.1f} s"
                    )
                self._until = now + self._length()

    def succeeded(self) -> None:
        if self._failed:
            with self._lock:
                self._failed = 0

    def failed(self) -> None:
        with self._lock:
            self._failed += 1
            self._until = self._clock() + self._length()

    def _length(self) -> float:
        return self._pause * min(2.0 ** min(max(self._failed - self._limit, 0), 3), 5.0)


class Degraded(OnlineFeatures):
    """Vectors that were made without the store's answer: each cell is STALE, DEFAULT or OVERFLOW."""


class SteadyReader:
    """A `Reader` that keeps what its service promises about time and trouble; safe to share between threads."""

    def __init__(
        self,
        store: OnlineStore,
        service: Service,
        views: Mapping[str, View],
        breaker: Breaker,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
        served: Callable[[], None] | None = None,
        tap: Tap | None = None,
    ) -> None:
        self._tap = tap
        self.service, self._views, self._breaker = service, views, breaker
        self._deadline = None if service.deadline is None else service.deadline / 1e6
        self._memory: _Memory | None = None
        self._instead: Reader | None = None
        if service.on_unavailable == "last_known":
            self._memory = _Memory(store)
        asked: Any = store if self._memory is None else self._memory
        self.reader = Reader(asked, service, views, clock, served)
        if service.on_unavailable != "fail":
            instead: Any = _Instead(self._memory)
            # What is given in place of an answer is what the service asked for, expected or not.
            self._instead = Reader(instead, replace(service, expectations=()), views, clock)

    @property
    def watch(self) -> Watch | None:
        """What looks at the vectors as they go out."""
        return self.reader.watch

    @property
    def key_columns(self) -> tuple[str, ...]:
        """The columns a request has to hold."""
        return self.reader.key_columns

    @property
    def key_types(self) -> Mapping[str, DType]:
        """The columns a request has to hold, with their types."""
        return dict(self.reader._key_types)  # noqa: SLF001  of the same package

    @property
    def knows_views(self) -> bool:
        """Whether a read now asks for values alone, and not for the views' watermarks before."""
        return self.reader.knows_views

    def forget(self) -> None:
        """Makes the next read ask for the views' watermarks again."""
        self.reader.forget()

    def read(
        self,
        entities: Rows,
        at: int | None = None,
        timeout: float | None = None,
        request: Rows | None = None,
    ) -> OnlineFeatures:
        """As `Reader.read`, within the service's deadline. Raises StoreUnavailable only where the service says `fail`."""
        asked = self.reader.prepare(entities, request)
        timeout = self._within(timeout)
        began = time.monotonic()
        try:
            self._breaker.enter()
            try:
                result = self.reader.answer(asked, at, timeout)
            except StoreUnavailable:
                self._failed(timeout, began)
                raise
            except ExpectationFailed:
                self._breaker.succeeded()  # the store answered
                raise
            self._breaker.succeeded()
            return result
        except StoreUnavailable:
            return self._or_raise(asked, at)

    @property
    def has_rows(self) -> bool:
        """Whether `row` and `rows` may give anything."""
        return self._memory is None and self.reader.has_rows

    def row(self, number: int) -> bytes | None:
        """As `Reader.row`. A store in trouble gives None: `read` says what becomes of it."""
        if self._breaker.has_failed:
            return None
        try:
            return self.reader.row(number)
        except StoreUnavailable:
            return None

    def rows(self, numbers: Array) -> Array | None:
        """As `Reader.rows`."""
        if self._breaker.has_failed:
            return None
        try:
            return self.reader.rows(numbers)
        except StoreUnavailable:
            return None

    def get(
        self,
        keys: Any,
        out: Any = None,
        request: Rows | None = None,
        timeout: float | None = None,
        *,
        at: Moment | None = None,
        capture: bool = True,
        context: Mapping[str, Any] | None = None,
    ) -> OnlineFeatures:
        """As `Reader.get`, within the service's deadline."""
        buffer = None if out is None else self.reader.buffer(out, self.reader.prepare(keys, request))
        result = self.read(keys, None if at is None else moment(at), timeout, request)
        if buffer is not None:
            result.fill(buffer)
        if capture and self._tap is not None:
            self._tap.offer(result, context=context, degraded=type(result) is Degraded)
        return result

    def hand_out(
        self,
        result: OnlineFeatures,
        scaler: Scaler,
        *,
        capture: bool = True,
        context: Mapping[str, Any] | None = None,
    ) -> OnlineFeatures:
        """As `Reader.hand_out`."""
        scaled = scaled_features(result, scaler)
        if capture and self._tap is not None:
            degraded = type(result) is Degraded
            self._tap.offer(result, context=context, degraded=degraded, scaled=scaled, scaler=scaler.version)
        return scaled

    async def get_async(
        self,
        keys: Any,
        out: Any = None,
        request: Rows | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        *,
        at: Moment | None = None,
        capture: bool = True,
        context: Mapping[str, Any] | None = None,
    ) -> OnlineFeatures:
        """As `Reader.get_async`, within the service's deadline."""
        result = await self._read_async(keys, out, request, timeout, at)
        if capture and self._tap is not None:
            self._tap.offer(result, context=context, degraded=type(result) is Degraded)
        return result

    async def _read_async(
        self,
        keys: Any,
        out: Any,
        request: Rows | None,
        timeout: float | None,  # noqa: ASYNC109
        at: Moment | None,
    ) -> OnlineFeatures:
        timeout = self._within(timeout)
        began = time.monotonic()
        try:
            self._breaker.enter()
            try:
                result = await self.reader.get_async(keys, out, request, timeout, at=at)
            except StoreUnavailable:
                self._failed(timeout, began)
                raise
            except ExpectationFailed:
                self._breaker.succeeded()  # the store answered
                raise
            self._breaker.succeeded()
            return result
        except StoreUnavailable:
            asked = self.reader.prepare(keys, request)
            instead = self._or_raise(asked, None if at is None else moment(at))
            if out is not None:
                instead.fill(self.reader.buffer(out, asked))
            return instead

    def _within(self, timeout: float | None) -> float | None:
        limit = self._deadline
        return limit if limit is not None and (timeout is None or timeout > limit) else timeout

    def _failed(self, timeout: float | None, began: float) -> None:
        given_up = timeout is not None and time.monotonic() - began >= timeout
        if not given_up or (timeout is not None and timeout >= PATIENCE):
            self._breaker.failed()

    def _or_raise(self, asked: Request, at: int | None) -> OnlineFeatures:
        """What is given instead of an answer; of a service that says `fail`, the error that is being handled."""
        if self._instead is None:
            raise  # noqa: PLE0704
        self._instead.forget()
        return self._degraded(self._instead.answer(asked, at))

    def without_store(
        self, entities: Rows, at: int | None = None, request: Rows | None = None
    ) -> Degraded | None:
        """What the service gives while the store does not answer; None where it says `fail`. Asks nobody."""
        if self._instead is None:
            return None
        self._instead.forget()
        return self._degraded(self._instead.read(entities, at, None, request))

    def _degraded(self, read: OnlineFeatures) -> Degraded:
        """`read`, without taking what is not known for what is not there."""
        hidden = {r.view for r in self.service.reads if r.hidden}
        unsure = np.zeros(read.rows, np.bool_)
        if any(self._views[name].source.event_time is None for name in hidden):
            unsure[:] = True  # what is static does not say whether it was found
        for seen in read.seen:
            if seen.found is not None:
                unsure |= ~seen.found
        blocks = tuple(self._marked(block, read.names, unsure) for block in read.blocks)
        values = {f.name: getattr(read, f.name) for f in fields(OnlineFeatures)}
        return Degraded(**{**values, "blocks": blocks})

    def _marked(self, block: Block, names: Sequence[str], unsure: Mask) -> Block:
        shape = block.values.shape
        values = block.values.copy()
        valid = np.ones(shape, np.bool_) if block.valid is None else block.valid.copy()
        status = np.zeros(shape, np.uint8) if block.status is None else block.status.copy()
        on_demand = {o.name: o.default for o in self.service.on_demand}
        read_of = {r.output: r for r in self.service.reads}
        for j, place in enumerate(block.places.tolist()):
            name = names[place]
            if name in on_demand:
                lost, default = unsure, on_demand[name]
            else:
                read = read_of[name]
                lost = status[:, j] == Status.NOT_FOUND
                default = self._views[read.view].feature(read.feature).default
            valid[lost, j] = False
            status[lost, j] = Status.STALE
            values[lost, j] = _nothing(values.dtype) if default is None else default
            if default is not None:
                valid[lost, j], status[lost, j] = True, Status.DEFAULT
        status[~np.isin(status, (Status.OVERFLOW, Status.DEFAULT))] = Status.STALE
        return Block(block.places, values, valid, status)


def _nothing(dtype: np.dtype[Any]) -> Any:
    return None if dtype.kind == "O" else np.zeros((), dtype)


class _Memory:
    """A store that remembers what was read of it, in bytes as they lay there."""

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self.values: dict[bytes, bytes | None] = {}
        self.metas: dict[str, bytes | None] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def read(self, keys: Sequence[bytes], timeout: float | None = None) -> list[bytes | None]:
        values = self._store.read(keys, timeout)
        with self._lock:
            for key, value in zip(keys, values, strict=True):
                self._bytes += _size(key, value) - self._forget(key)
                self.values[key] = value
            while self._bytes > REMEMBERED_BYTES and self.values:
                for key in list(islice(self.values, 256)):
                    self._bytes -= self._forget(key)
        return values

    def fetch(self, asked: Sequence[Asked], timeout: float | None = None) -> list[Values]:
        return _fetched(self, asked, timeout)

    def _forget(self, key: bytes) -> int:
        return _size(key, self.values.pop(key)) if key in self.values else 0

    def get_meta(self, name: str) -> bytes | None:
        self.metas[name] = found = self._store.get_meta(name)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def _size(key: bytes, value: bytes | None) -> int:
    return len(key) + (0 if value is None else len(value)) + 150  # of Python's own


class _Instead:
    """What stands in for a store that does not answer: what was remembered, or nothing."""

    def __init__(self, memory: _Memory | None) -> None:
        self._memory = memory

    def read(self, keys: Sequence[bytes], timeout: float | None = None) -> list[bytes | None]:
        known = {} if self._memory is None else self._memory.values
        return [known.get(key) for key in keys]

    def fetch(self, asked: Sequence[Asked], timeout: float | None = None) -> list[Values]:
        return _fetched(self, asked, timeout)

    def get_meta(self, name: str) -> bytes | None:
        return None if self._memory is None else self._memory.metas.get(name)


def _fetched(store: _Memory | _Instead, asked: Sequence[Asked], timeout: float | None) -> list[Values]:
    """`OnlineStore.fetch` of a store that remembers keys one by one: one read of all of them."""
    listed = [list(a.listed()) for a in asked]
    values = iter(store.read([key for keys in listed for key in keys], timeout))
    return [Values.of(list(islice(values, len(keys)))) for keys in listed]


def reader_of(
    store: OnlineStore,
    service: Service,
    views: Mapping[str, View],
    breaker: Breaker,
    served: Callable[[], None] | None = None,
    tap: Tap | None = None,
) -> Reader | SteadyReader:
    """The reader a service asks for: a plain one where it promises nothing about trouble."""
    if service.deadline is None and service.on_unavailable == "fail":
        return Reader(store, service, views, served=served, tap=tap)
    return SteadyReader(store, service, views, breaker, served=served, tap=tap)
