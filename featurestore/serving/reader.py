"""The online read: feature vectors for many entities, as of now or of a past moment, in one round trip.

A `Reader` resolves a service once. A read then builds keys, asks the store once, decodes each view's values as arrays,
and merges and finishes them with the code that training uses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from featurestore.evaluate.on_demand import Column, compiled, compute
from featurestore.evaluate.partials import Array
from featurestore.ir import Feature, Service, View
from featurestore.online.codec import decode
from featurestore.online.state import ViewState, load_states
from featurestore.online.store import OnlineStore
from featurestore.serving.entities import Entities
from featurestore.serving.group import groups_of
from featurestore.serving.request import Rows, key_columns_of, lookup, request_columns_of
from featurestore.serving.result import Block, OnlineFeatures, Seen, TensorColumns

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
    ) -> None:
        self.store, self.service, self._clock = store, service, clock
        # Columns of the service come first; what is read for on-demand features alone has places behind them.
        columns = service.columns
        hidden = [r.output for r in service.reads if r.hidden]
        self._place = {name: i for i, name in enumerate([*(n for n, _ in columns), *hidden])}
        self._groups = groups_of(service.reads, views, self._place)
        self._names, self._dtypes = tuple(n for n, _ in columns), tuple(t for _, t in columns)
        self._columns = TensorColumns.of(self._names, self._dtypes)
        self._hidden, self._on_demand = hidden, compiled(service)
        self._request_types = dict(service.request)
        self._codecs = {g.view.name: g.codec for g in self._groups}
        self._key_types = {
            c: k.dtype for g in self._groups for c, k in zip(g.columns, g.view.keys, strict=True)
        }
        self._states: dict[str, ViewState] = {}
        self._states_at = -STATE_SECONDS

    @property
    def key_columns(self) -> tuple[str, ...]:
        """The columns a request has to hold."""
        return tuple(self._key_types)

    def forget(self) -> None:
        """Makes the next read ask for the views' watermarks again."""
        self._states_at = -STATE_SECONDS

    def read(
        self,
        entities: Rows,
        at: int | None = None,
        timeout: float | None = None,
        request: Rows | None = None,
    ) -> OnlineFeatures:
        """The vectors of `entities`: a dict of columns (scalars broadcast) or a list of row dicts.

        `request` holds the request columns of the same rows. `at` is the moment in microseconds, now by default. Raises
        RequestError for what does not fit the service, StoreUnavailable when the store does not answer within `timeout`
        seconds.
        """
        q = self._clock() if at is None else at
        columns, rows = key_columns_of(entities, self._key_types, self.service.name)
        asked: Mapping[str, Column] = {}
        if self._request_types or request:
            asked = request_columns_of(request or {}, self._request_types, rows, self.service.name)
        states = self._view_states()
        plans = [lookup(g, columns) for g in self._groups]
        raw = self.store.fetch([plan.keys for plan in plans], timeout)
        blocks: list[Block] = []
        seen: list[Seen] = []
        for group, plan, values in zip(self._groups, plans, raw, strict=True):
            known = plan.key_bytes
            heads = group.heads and bool((values.lengths[1::2] > 0).any())
            if group.heads and not heads:  # nobody has a head: bases alone are decoded, mostly as one grid
                values, known = values.part(0, len(values), 2), None if known is None else known[::2]
            entities_read = Entities(group, decode(group.codec, values, known), q, heads=heads)
            stale = _stale(states.get(group.view.name), q, self.service.max_staleness)
            blocks += [rows_of(b, plan.rows) for b in entities_read.blocks(stale)]
            if group.view.source.event_time is not None:  # what is static has no age
                found, last = entities_read.found, entities_read.last_at
                seen.append(
                    Seen(
                        group.places,
                        *((found, last) if plan.rows is None else (found[plan.rows], last[plan.rows])),
                    )
                )
        if self._on_demand:
            blocks = self._with_on_demand(blocks, asked, rows, q)
        fresh = {g.view.name: _freshness(states.get(g.view.name), q) for g in self._groups}
        return OnlineFeatures(
            self.service, self._names, self._dtypes, rows, tuple(blocks), tuple(seen), fresh, q, self._columns
        )

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

    def _view_states(self) -> dict[str, ViewState]:
        now = time.monotonic()
        if now - self._states_at >= STATE_SECONDS:
            self._states = load_states(self.store, self._codecs)
            self._states_at = now
        return self._states


def _stale(state: ViewState | None, q: int, limit: int | None) -> Callable[[Feature], bool]:
    """Whether a feature read at `q` is stale: the view's watermark is too old, or its window reaches before what is kept."""
    late = limit is not None and (state is None or q - state.end > limit)
    since = None if state is None else state.start

    def stale(feature: Feature) -> bool:
        if late or since is None or feature.window is None:
            return late
        window = feature.window
        return window.size is None or q - q % window.hop - window.size < since

    return stale


def _freshness(state: ViewState | None, q: int) -> float | None:
    return None if state is None else max(q - state.end, 0) / 1e6


def rows_of(block: Block, rows: Array | None) -> Block:
    """From distinct entities to the rows that ask for them."""
    if rows is None:
        return block
    valid, status = (None if x is None else x[rows] for x in (block.valid, block.status))
    return Block(block.places, block.values[rows], valid, status)
