"""The online read: feature vectors for many entities, as of now or of a past moment, in one round trip.

A `Reader` resolves a service once. A read then builds keys, asks the store once, decodes each view's values as arrays,
and merges and finishes them with the code that training uses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from featurestore.errors import RequestError
from featurestore.evaluate.on_demand import Column, compiled, compute
from featurestore.evaluate.partials import Array
from featurestore.ir import Feature, Service, View
from featurestore.online.codec import decode
from featurestore.online.state import Complete, load_complete
from featurestore.online.store import OnlineStore
from featurestore.online.values import Values
from featurestore.serving.entities import Entities
from featurestore.serving.expected import watch_of
from featurestore.serving.group import Group, groups_of
from featurestore.serving.packed import packed_of
from featurestore.serving.plain import Plain, plain_of
from featurestore.serving.recorder import Tap
from featurestore.serving.request import Request, Rows, key_columns_of, lookup, request_columns_of
from featurestore.serving.result import Block, OnlineFeatures, Seen, TensorColumns, buffer_of
from featurestore.serving.scaled import scaled_features
from featurestore.serving.together import Together
from featurestore.statistics.scalers import Scaler
from featurestore.time import Moment, moment
from featurestore.types import Int64

STATE_SECONDS = 1.0
"""How long a reader trusts what the store said of a view as a whole (its watermark) before it asks again."""


class Reader:
    """A service resolved against an online store; cheap to call, safe to share between threads."""

    def __init__(
        self,
        store: OnlineStore,
        service: Service,
        views: Mapping[str, View],
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
        served: Callable[[], None] | None = None,
        tap: Tap | None = None,
    ) -> None:
        """`served` is called before the first value goes out; `tap` takes what goes out."""
        self._tap, self.watch = tap, watch_of(service)
        self.store, self.service, self._clock, self._served = store, service, clock, served
        self._together = Together(self)
        # Columns of the service come first; what is read for on-demand features alone has places behind them.
        columns = service.columns
        hidden = [r.output for r in service.reads if r.hidden]
        self._place = {name: i for i, name in enumerate([*(n for n, _ in columns), *hidden])}
        self._groups = groups_of(service.reads, views, self._place)
        self._plain = [plain_of(g, len(columns)) for g in self._groups]
        self._names, self._dtypes = tuple(n for n, _ in columns), tuple(t for _, t in columns)
        self._columns = TensorColumns.of(self._names, self._dtypes)
        self._hidden, self._on_demand = hidden, compiled(service)
        self._request_types = dict(service.request)
        self._codecs = {g.view.name: g.codec for g in self._groups}
        self._key_types = {
            c: k.dtype for g in self._groups for c, k in zip(g.columns, g.view.keys, strict=True)
        }
        one = list(self._key_types.items())
        self._number = one[0][0] if len(one) == 1 and one[0][1] == Int64 and not service.request else None
        self._packed = packed_of(store, service, self._groups, self._plain)
        self._states: dict[str, Complete] = {}
        self._states_at = -STATE_SECONDS

    @property
    def key_columns(self) -> tuple[str, ...]:
        """The columns a request has to hold."""
        return tuple(self._key_types)

    @property
    def knows_views(self) -> bool:
        """Whether a read now asks for values alone, and not for the views' watermarks before."""
        return time.monotonic() - self._states_at < STATE_SECONDS

    def forget(self) -> None:
        """Makes the next read ask for the views' watermarks again."""
        self._states_at = -STATE_SECONDS

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
        """The vectors of entities: a dict of columns (scalars broadcast), a list of row dicts, or the values of the one key.

        `out` is filled with the tensor as `OnlineFeatures.into` says. `request` holds the request columns of the same rows,
        `timeout` is in seconds, `at` the moment, now by default. A read of a captured service is kept, with the columns of
        `context` (one value, or one for each row), unless `capture` is False. Raises RequestError for what does not fit it,
        before the store is asked, and StoreUnavailable when it does not answer in time.
        """
        asked = self.prepare(keys, request)
        buffer = None if out is None else self.buffer(out, asked)
        result = self.answer(asked, None if at is None else moment(at), timeout)
        if buffer is not None:
            result.fill(buffer)
        if capture and self._tap is not None:
            self._tap.offer(result, context=context)
        return result

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
        """`get` for an event loop, which it does not block: what is asked in one tick of the loop is one read of the store."""
        asked = self.prepare(keys, request)
        buffer = None if out is None else self.buffer(out, asked)
        result = await self._together.answer(asked, None if at is None else moment(at), timeout)
        if buffer is not None:
            result.fill(buffer)
        if capture and self._tap is not None:
            self._tap.offer(result, context=context)
        return result

    def hand_out(
        self,
        result: OnlineFeatures,
        scaler: Scaler,
        *,
        capture: bool = True,
        context: Mapping[str, Any] | None = None,
        degraded: bool = False,
    ) -> OnlineFeatures:
        """A read of this reader, scaled; captured as it was and as it goes out."""
        scaled = scaled_features(result, scaler)
        if capture and self._tap is not None:
            self._tap.offer(result, context=context, degraded=degraded, scaled=scaled, scaler=scaler.version)
        return scaled

    def read(
        self,
        entities: Rows,
        at: int | None = None,
        timeout: float | None = None,
        request: Rows | None = None,
    ) -> OnlineFeatures:
        """`get` at a moment in microseconds, not captured."""
        return self.answer(self.prepare(entities, request), at, timeout)

    def buffer(self, out: Any, asked: Request) -> Any:
        """`out` as an array that the tensor of a request fits in. Raises RequestError."""
        return buffer_of(out, (asked.rows, len(self._columns.names)), self.service.name)

    def prepare(self, keys: Any, request: Rows | None = None) -> Request:
        """Keys and request columns, checked; raises RequestError."""
        if (
            self._number is not None
            and not request
            and isinstance(keys, np.ndarray)
            and keys.dtype == np.int64
            and keys.ndim == 1
        ):
            return Request({self._number: keys}, len(keys), {})
        given = self._named(keys)
        columns, rows = key_columns_of(given, self._key_types, self.service.name)
        if not self._request_types and not request:
            return Request(columns, rows, {})
        return Request(
            columns, rows, request_columns_of(request or {}, self._request_types, rows, self.service.name)
        )

    def _named(self, keys: Any) -> Rows:
        if isinstance(keys, Mapping) or (
            isinstance(keys, list | tuple) and keys and isinstance(keys[0], Mapping)
        ):
            return keys
        if len(self._key_types) == 1:
            listed = hasattr(keys, "__len__") and not isinstance(keys, str)
            return {next(iter(self._key_types)): keys if listed else [keys]}
        if isinstance(keys, list | tuple) and not keys:
            return keys
        raise RequestError(
            f"service '{self.service.name}' has the keys {', '.join(self._key_types)}, and values came without their names\n"
            "  give a dict of columns or a list of row dicts"
        )

    def answer(self, request: Request, at: int | None = None, timeout: float | None = None) -> OnlineFeatures:
        """The vectors of a prepared request, at a moment in microseconds, now by default.

        Raises ExpectationFailed where they are not as the service expects, and that is to block.
        """
        q = self._clock() if at is None else at
        states = self._view_states()
        plans = [lookup(g, request.columns) for g in self._groups]
        raw = self.store.fetch([plan.keys for plan in plans], timeout)
        blocks: list[Block] = []
        seen: list[Seen] = []
        fresh: dict[str, float | None] = {}
        marks: dict[str, int | None] = {}
        for group, plain, plan, values in zip(self._groups, self._plain, plans, raw, strict=True):
            view, rows = group.view, plan.rows
            state = states.get(view.name)
            stale = _stale(state, q, self.service.max_staleness)
            fresh[view.name] = _freshness(state, q)
            marks[view.name] = None if state is None else state.end
            mine, met = self._read(group, plain, values, plan.key_bytes, q, stale)
            blocks += mine if rows is None else [b.rows(rows) for b in mine]
            if view.source.event_time is not None:  # what is static has no age
                seen.append(met if rows is None else met.rows(rows))
        if self._on_demand:
            blocks = self._with_on_demand(blocks, request.asked, request.rows, q)
        if self._served is not None:
            self._served()
            self._served = None
        result = OnlineFeatures(
            self.service,
            self._names,
            self._dtypes,
            request.rows,
            tuple(blocks),
            tuple(seen),
            fresh,
            q,
            self._columns,
            marks,
            request,
        )
        if self.watch is not None:
            self.watch.look(result)
        return result

    @property
    def has_rows(self) -> bool:
        """Whether `row` and `rows` may give anything."""
        return self._packed is not None and self._number is not None and self._served is None

    def row(self, number: int) -> bytes | None:
        """The tensor of the entity with this key now, as bytes of float32, each value present and the service's own.

        None where it takes a whole `read` to say what its values are.
        """
        assert self._packed is not None
        return self._packed.row(number, self._clock(), self._view_states())

    def rows(self, numbers: Array) -> Array | None:
        """`row` of many entities: (rows, features) of float32. None for a store that cannot say whether it has changed."""
        assert self._packed is not None
        return self._packed.rows(numbers, self._clock(), self._view_states())

    def _read(
        self,
        group: Group,
        plain: Plain | None,
        values: Values,
        known: list[bytes] | None,
        q: int,
        stale: Callable[[Feature], bool],
    ) -> tuple[list[Block], Seen]:
        """What a group's distinct entities have at `q`. `known`: their keys where hashes stand for them."""
        heads = group.heads and bool((values.lengths[1::2] > 0).any())
        if group.heads and not heads:  # nobody has a head: bases alone are decoded, mostly as one grid
            values, known = values.part(0, len(values), 2), None if known is None else known[::2]
        if plain is not None and not heads and known is None:
            simple = plain.blocks(values, q, stale)
            if simple is not None:
                return simple[0], Seen(group.places, None, simple[1])
        read = Entities(group, decode(group.codec, values, known), q, heads=heads)
        return read.blocks(stale), Seen(group.places, read.found, read.last_at)

    def _with_on_demand(
        self, blocks: Sequence[Block], request: Mapping[str, Column], rows: int, q: int
    ) -> list[Block]:
        """The service's own columns: those read, and those computed of what was read and asked."""
        count = len(self._names)
        hidden = {
            place - count: cells for block in blocks for place, cells in block.cells() if place >= count
        }
        inputs = {name: hidden[i] for i, name in enumerate(self._hidden)}
        kept = [block.until(count) for block in blocks]
        for name, cell in compute(self._on_demand, inputs, request, rows, q).items():
            place = np.array([self._place[name]])
            kept.append(Block(place, cell.values[:, None], cell.valid[:, None], cell.status[:, None]))
        return [block for block in kept if len(block.places)]

    def _view_states(self) -> dict[str, Complete]:
        now = time.monotonic()
        if now - self._states_at >= STATE_SECONDS:
            self._states = load_complete(self.store, self._codecs)
            self._states_at = now
        return self._states


def _stale(state: Complete | None, q: int, limit: int | None) -> Callable[[Feature], bool]:
    """Whether a feature read at `q` is stale: the view's watermark is too old, or its window reaches before what is kept."""
    late = limit is not None and (state is None or q - state.end > limit)
    since = None if state is None else state.start

    def stale(feature: Feature) -> bool:
        if late or since is None or feature.window is None:
            return late
        window = feature.window
        return window.size is None or q - q % window.hop - window.size < since

    return stale


def _freshness(state: Complete | None, q: int) -> float | None:
    return None if state is None else max(q - state.end, 0) / 1e6
