"""Cells of many spine rows at once, from events sorted by entity and time.

For a row asked at `q`, a window is the range of its entity's events from `tail(q)` to `q`, and the latest value is the
row before `q`: two binary searches. One kernel reduces the ranges of all windows over a column together, so a column is
scanned once however many windows read it. Ties of time are put in order here, where few rows have one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.aggregates import Moments, Reduction, Sum, inputs_of, ordered
from featurestore.evaluate.arrow import to_physical
from featurestore.evaluate.finish import Cells, finish, settle
from featurestore.evaluate.inputs import Inputs, carried
from featurestore.evaluate.known import Gaps, Known, Rest, known_at
from featurestore.evaluate.partials import Array, Mask, Partial, reduce_events
from featurestore.evaluate.ragged import Lifted, Windows, lift
from featurestore.evaluate.ranges import OverlappingRanges
from featurestore.expr import Expr
from featurestore.ir import Feature, View
from featurestore.layout import LatestSlot, Layout, Slot
from featurestore.types import Int32, Int64, is_float, numpy_dtype

PIECE = 1 << 18
"""Spine rows reduced at a time: a window's answers for each are held until the row is finished."""

RAGGED_PIECE = 1 << 13
"""The same where a window's answer is any number of items until the row is finished: bounded with what a row may hold."""

HOLES = 1 << 21
"""Events that were not known yet, of all rows that are worked on at a time; of ragged windows the events between them."""

Span = tuple[int | None, int]
"""Size and hop of a window."""


@dataclass(frozen=True)
class Asked:
    """Spine rows sorted by dense key number and moment: row numbers, key numbers, moments in microseconds."""

    rid: Array
    k: Array
    q: Array

    def of_keys(self, first: int, last: int) -> Asked:
        """The rows whose key numbers are `first` to `last`, inclusive."""
        a, b = np.searchsorted(self.k, first, "left"), np.searchsorted(self.k, last, "right")
        return self._cut(int(a), int(b))

    def halves(self) -> tuple[Asked, Asked]:
        middle = len(self.rid) // 2
        return self._cut(0, middle), self._cut(middle, len(self.rid))

    def pieces(self, size: int) -> Iterable[Asked]:
        for at in range(0, len(self.rid), size):
            yield self._cut(at, at + size)

    def _cut(self, start: int, stop: int) -> Asked:
        return Asked(self.rid[start:stop], self.k[start:stop], self.q[start:stop])


ONE_ROW = Asked(np.zeros(1, np.int64), np.zeros(1, np.int32), np.zeros(1, np.int64))


@dataclass(frozen=True)
class Work:
    """What is computed of a view's events, decided once.

    A table of events has `k` (Int32, dense key number), `t` (Int64, microseconds), and under `names` the value of each
    expression; it is sorted by both. `ties` are the names of columns that put events of one key and time in order, empty
    when the table has them in order already. `copies` are the columns that tell copies of an event (the first, its id) and
    which of them came first, empty when there are none left. With `lag` (microseconds, also 0) events count from when they
    were known, by the column `arrival` or else their time; None is as soon as they have happened.
    """

    view: View
    layout: Layout
    features: Sequence[Feature]
    names: Mapping[Expr, str]
    ties: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    lag: int | None = None
    arrival: str | None = None

    def slots(self) -> list[Slot]:
        """The slots that the windowed features read, on all levels."""
        found = {}
        for feature in self.features:
            for slot in self.parts(feature).values():
                found[_meaning(slot)] = slot
        return list(found.values())

    def inputs(self) -> list[Expr]:
        """What values are made of: one column of events each."""
        nodes = [
            node
            for s in self.slots()
            for node in (*inputs_of(s.reduction), *([s.where] if s.where is not None else []))
        ]
        nodes += [self.column(f).value for f in self.features if f.window is None]
        return list(dict.fromkeys(nodes))

    @property
    def sequential(self) -> bool:
        """Whether windows depend on the order of ties: `first` and `last` in their value, sums of floats in their last bit."""
        return any(
            ordered(s.reduction)
            or isinstance(s.reduction, Moments)
            or (isinstance(s.reduction, Sum) and s.dtype is not None and is_float(s.dtype))
            for s in self.slots()
        )

    def parts(self, feature: Feature) -> dict[str, Slot]:
        """The slots a windowed feature is made of, by the names its aggregate has for them."""
        if feature.window is None:
            return {}
        slots = {s.name: s for s in self.layout.level(feature.window.hop).slots}
        return {part: slots[name] for part, name in self.layout.parts[feature.name].items()}

    def column(self, feature: Feature) -> LatestSlot:
        """The column a latest value is read from."""
        name = self.layout.parts[feature.name]["v"]
        return next(c for c in self.layout.latest if c.name == name)


def cells_of(work: Work, events: pa.Table, asked: Asked) -> dict[str, Cells]:
    """The cells of every feature, by name, for rows whose entities' events are all in `events` (or are none)."""
    chunk = Chunk(work, events, asked)
    size = RAGGED_PIECE if any(slot.ragged for slot in work.slots()) else PIECE
    pieces = [chunk.cells(piece) for piece in asked.pieces(size)]
    if len(pieces) == 1:
        return pieces[0]
    return {name: _joined([piece[name] for piece in pieces]) for name in (pieces[0] if pieces else ())}


class Chunk:
    """The events of some entities, ties in order, ready for rows of these entities."""

    def __init__(self, work: Work, events: pa.Table, asked: Asked) -> None:
        k, _ = to_physical(events.column("k"), Int32)
        t, _ = to_physical(events.column("t"), Int64)
        clock = _Clock(k, t, asked)
        codes = clock.codes
        known = _known_at(work, events, t)
        everywhere = work.sequential
        if work.copies or (work.ties and everywhere):
            rows = _tied(codes)
            if len(rows):
                kept = _without_copies(events, codes, rows, work)
                kept = _in_order(kept, rows, events, codes, work) if everywhere else kept
                if everywhere:
                    events = events.select(
                        [work.names[node] for node in work.inputs()]
                    )  # what only breaks ties has done so
                events, t, codes = events.take(pa.array(kept)), t[kept], codes[kept]
                k, known = k[kept], None if known is None else known[kept]
        self._ties = () if everywhere else work.ties
        self._lifted: dict[_Meaning, Lifted] = {}
        self._tiles: dict[int, tuple[Array, Array]] = {}
        self._tiled: dict[tuple[_Meaning, int], Windows] = {}
        self._work, self._events, self._t, self._codes, self._clock = work, events, t, codes, clock
        self._inputs = Inputs(work.names, work.view, events)
        self._arrivals = _Clock(k, known, asked) if known is not None else None
        self._known = Known(self._arrivals.codes) if self._arrivals is not None else None

    def cells(self, asked: Asked) -> dict[str, Cells]:
        first = self._position(asked, None)
        moments, gaps = _NO_MOMENTS, None
        if self._known is None or self._arrivals is None:
            end = self._position(asked, asked.q)
        else:
            moments = self._arrivals.code(
                asked.k, asked.q + 1
            )  # what became known at the very moment was known
            end = self._known.ends(moments)
            windowed = any(f.window is not None for f in self._work.features)
            hidden = self._known.hidden(moments, end) if windowed else None
            if hidden is not None:
                if hidden.total > HOLES and len(asked.q) > 1:
                    return self._by_halves(asked)
                gaps = Gaps(hidden, end)
                ragged = any(slot.ragged for slot in self._work.slots())
                if ragged and gaps.events > HOLES and len(asked.q) > 1:
                    return self._by_halves(asked)
        found = end > first
        latest = [f for f in self._work.features if f.window is None]
        return self._windowed(asked, first, end, found, gaps) | (
            self._latest(asked, latest, end, found, moments) if latest else {}
        )

    def _by_halves(self, asked: Asked) -> dict[str, Cells]:
        a, b = (self.cells(half) for half in asked.halves())
        return {name: _joined([a[name], b[name]]) for name in a}

    def _position(self, asked: Asked, moments: Array | None) -> Array:
        """The index of the first event of each row's key at or after its moment; None is the key's first event."""
        return np.searchsorted(self._codes, self._clock.code(asked.k, moments), "left")

    # -------------------------------------------------------------------------------------------------------- windows

    def _windowed(
        self, asked: Asked, first: Array, end: Array, found: Mask, gaps: Gaps | None
    ) -> dict[str, Cells]:
        work, starts = self._work, dict[Span, Array]()
        stops, rests = dict[Span, Array](), dict[Span, Rest]()
        readers: dict[_Meaning, tuple[Slot, set[Span]]] = {}
        for feature in work.features:
            if feature.window is None:
                continue
            size, hop = span = feature.window.size, feature.window.hop
            if span not in starts:
                tail = first if size is None else self._position(asked, asked.q - asked.q % hop - size)
                starts[span], stops[span] = tail, end if self._known is None else np.maximum(end, tail)
                if gaps is not None:
                    stops[span], rests[span] = gaps.cut(tail, stops[span])
            for slot in work.parts(feature).values():
                readers.setdefault(_meaning(slot), (slot, set()))[1].add(span)
        ranges: dict[tuple[Span, ...], _Counted] = {}
        merged: dict[tuple[_Meaning, Span], Partial] = {}
        rest_of: dict[tuple[Span, ...], Rest] = {}
        for meaning, (slot, wanted) in readers.items():
            spans = tuple(s for s in starts if s in wanted)
            x, keep = self._inputs.of(slot)
            if slot.ragged:
                assert x is not None
                between: Partial | None = None
                for span in spans:
                    windows = self._windows(meaning, slot, span[1], x, keep)
                    begun = windows.merge(starts[span], stops[span])
                    if gaps is not None:
                        between = windows.merge(gaps.lo, gaps.hi) if between is None else between
                        begun = rests[span].join(slot, begun, between)
                    merged[meaning, span] = begun
                continue
            if spans not in ranges:
                lo, hi = ([of[s] for s in spans] for of in (starts, stops))
                if gaps is not None:
                    lo, hi = [*lo, gaps.lo], [*hi, gaps.hi]
                    rest_of[spans] = Rest.of([rests[s] for s in spans], len(end))
                ranges[spans] = _Counted(np.concatenate(lo), np.concatenate(hi), len(self._t))
            partial = reduce_events(slot, x, keep, self._t, ranges[spans], self._inputs.by(slot))
            if gaps is not None:
                partial = rest_of[spans].join(slot, *_cut(partial, len(end) * len(spans)))
            for i, span in enumerate(spans):
                rows = slice(i * len(end), (i + 1) * len(end))
                merged[meaning, span] = {field: values[rows] for field, values in partial.items()}
        cells = {}
        for feature in work.features:
            if feature.window is not None:
                span = feature.window.size, feature.window.hop
                parts = {part: merged[_meaning(s), span] for part, s in work.parts(feature).items()}
                cells[feature.name] = finish(feature, parts, found)
        return cells

    def _windows(self, meaning: _Meaning, slot: Slot, hop: int, x: Array, keep: Mask | None) -> Windows:
        """The slot over tiles of this hop, made once."""
        if meaning not in self._lifted:
            self._lifted[meaning] = lift(slot, x, keep, self._t)
        if hop not in self._tiles:
            tile = self._t - self._t % hop
            keys = self._clock.keys_of(self._codes)
            begins = np.ones(len(tile), np.bool_)
            begins[1:] = (tile[1:] != tile[:-1]) | (keys[1:] != keys[:-1])
            starts = np.flatnonzero(begins)
            self._tiles[hop] = starts, keys[starts]
        if (meaning, hop) not in self._tiled:
            self._tiled[meaning, hop] = Windows(slot, self._lifted[meaning], *self._tiles[hop])
        return self._tiled[meaning, hop]

    # -------------------------------------------------------------------------------------------------- latest values

    def _latest(
        self, asked: Asked, features: Sequence[Feature], end: Array, found: Mask, moments: Array
    ) -> dict[str, Cells]:
        rows = np.flatnonzero(found)
        index = end[rows] - 1
        if self._ties:
            index = self._greatest(index, moments[rows] if self._known is not None else moments)
        view = self._work.view
        fresh = np.ones(len(asked.q), np.bool_)
        if view.ttl is not None and view.source.event_time is not None:
            fresh[rows] = self._t[index] >= asked.q[rows] - view.ttl
        where = pa.array(index)
        taken: dict[str, tuple[Array, Mask]] = {}
        cells = {}
        for feature in features:
            column = self._work.column(feature)
            if column.name not in taken:
                values = np.zeros(len(asked.q), numpy_dtype(column.dtype))
                valid = np.zeros(len(asked.q), np.bool_)
                found_values = _whole(self._events.column(self._work.names[column.value])).take(where)
                got, known = to_physical(found_values, carried(column.dtype))
                values[rows], valid[rows] = got, True if known is None else known
                taken[column.name] = values, valid
            values, valid = taken[column.name]
            expired = found & ~fresh if view.ttl is not None else None
            cells[feature.name] = settle(feature, values, valid & fresh, found, expired=expired)
        return cells

    def _greatest(self, index: Array, moments: Array) -> Array:
        """Of the events that share key and time with each of `index`, the one that is last in the order of events.

        Of those before it, which are all there are; or, where knowledge counts, of those known before `moments`.
        """
        codes, known = self._codes, self._known
        tied = (index > 0) & (codes[np.maximum(index - 1, 0)] == codes[index])
        ends = np.unique(index[tied] if known is None else self._end_of_tie(index[tied]))
        if len(ends) == 0:
            return index
        starts = np.searchsorted(codes, codes[ends], "left")
        sizes = ends - starts + 1
        stops = np.cumsum(sizes)
        rows = np.repeat(starts - (stops - sizes), sizes) + np.arange(stops[-1])
        ordered = rows[_sorted(self._events, rows, codes[rows], self._ties)]
        if known is None:
            index[tied] = ordered[stops - 1][np.searchsorted(ends, index[tied])]
            return index
        place = stops[np.searchsorted(ends, self._end_of_tie(index[tied]))] - 1
        moments = moments[tied]
        while len(later := np.flatnonzero(known.at[ordered[place]] >= moments)):
            place[later] -= 1  # one of them is known: that at `index`
        index[tied] = ordered[place]
        return index

    def _end_of_tie(self, index: Array) -> Array:
        """The last event that shares key and time with each of `index`."""
        return np.searchsorted(self._codes, self._codes[index], "right") - 1


_NO_MOMENTS = np.zeros(0, np.int64)

_Meaning = tuple[Reduction, Expr | None]


def _meaning(slot: Slot) -> _Meaning:
    """What makes slots of different levels one."""
    return slot.reduction, slot.where


def _cut(partial: Partial, ranges: int) -> tuple[Partial, Partial]:
    """The partials of the first `ranges`, and of the others."""
    return {f: v[:ranges] for f, v in partial.items()}, {f: v[ranges:] for f, v in partial.items()}


def _joined(cells: Sequence[Cells]) -> Cells:
    parts = zip(*((c.values, c.valid, c.status) for c in cells), strict=True)
    return Cells(*(np.concatenate(p) for p in parts))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array


# ------------------------------------------------------------------------------------------------------------------- ties


def _tied(codes: Array) -> Array:
    """The rows that share key and time with another."""
    same = codes[1:] == codes[:-1]
    mask = np.zeros(len(codes), np.bool_)
    mask[1:] |= same
    mask[:-1] |= same
    return np.flatnonzero(mask)


def _sorted(events: pa.Table, rows: Array, groups: Array, names: Sequence[str]) -> Array:
    """The order of `rows` by group, then by the columns `names`; NULL is least."""
    picked = (
        events.select(list(dict.fromkeys(names)))
        .take(pa.array(rows))
        .append_column("group", pa.array(groups))
    )
    keys = [("group", "ascending", "at_start"), *((n, "ascending", "at_start") for n in dict.fromkeys(names))]
    order: Array = pc.sort_indices(picked, sort_keys=keys).to_numpy().astype(np.int64)
    return order


def _without_copies(events: pa.Table, codes: Array, rows: Array, work: Work) -> Array:
    """All rows of the table but the second and further copies of an event. `rows` are those that tie."""
    every = np.arange(len(codes))
    if not work.copies:
        return every
    order = _sorted(events, rows, codes[rows], (*work.copies, *work.ties))
    there = rows[order]
    ids = _whole(events.column(work.copies[0])).take(pa.array(there)).dictionary_encode()
    number = pc.fill_null(ids.indices, -1).to_numpy()
    again = (codes[there[1:]] == codes[there[:-1]]) & (number[1:] == number[:-1]) & (number[1:] >= 0)
    return np.delete(every, there[1:][again])


def _in_order(kept: Array, rows: Array, events: pa.Table, codes: Array, work: Work) -> Array:
    """`kept` with the rows that tie in the order of events."""
    ties = np.zeros(len(codes), np.bool_)
    ties[rows] = True
    places = np.flatnonzero(ties[kept])
    there = kept[places]
    out = kept.copy()
    out[places] = there[_sorted(events, there, codes[there], work.ties)]
    return out


def _known_at(work: Work, events: pa.Table, t: Array) -> Array | None:
    """When each event was known; None where that does not count."""
    if work.lag is None:
        return None
    if work.arrival is None:
        return known_at(t, None, t, work.lag)
    arrival, arrived = to_physical(events.column(work.arrival), Int64)
    return known_at(arrival, arrived, t, work.lag)


# ---------------------------------------------------------------------------------------------------------------- columns


class _Counted(OverlappingRanges):
    """Ranges that count a mask once, however many reductions ask."""

    def __init__(self, lo: Array, hi: Array, n: int) -> None:
        super().__init__(lo, hi, n)
        self._counts: dict[int, tuple[Array, Array]] = {}

    def reduce(self, ufunc: np.ufunc, values: Array, identity: Any) -> Array:
        if ufunc is not np.add or values.dtype != np.bool_:
            return super().reduce(ufunc, values, identity)
        if id(values) not in self._counts:  # the mask is held, so that its id stays its own
            self._counts[id(values)] = values, super().reduce(ufunc, values, identity)
        return self._counts[id(values)][1]


class _Clock:
    """Key and time of each event as one sorted whole number, so that a binary search finds a moment of a key."""

    def __init__(self, k: Array, t: Array, asked: Asked) -> None:
        keys = [int(a[i]) for a in (k, asked.k) if len(a) for i in (0, -1)]
        self._base = min(keys, default=0)
        self._low = int(t.min()) if len(t) else 0
        high = int(t.max()) if len(t) else 0
        self._ranks: Array | None = None
        self._bits = max(1, (high - self._low + 1).bit_length())
        if (max(keys, default=0) - self._base).bit_length() + self._bits > 62:
            # Centuries of events over many keys do not fit into 63 bits: ranks of times do.
            self._ranks = np.unique(t)
            self._bits = (len(self._ranks) + 1).bit_length()
        self.codes = self.code(k, t)

    def code(self, k: Array, moments: Array | None) -> Array:
        """The numbers of moments of keys; None is the beginning of time."""
        key = (k.astype(np.int64) - self._base) << self._bits
        return key if moments is None else key | self._time(moments)

    def keys_of(self, codes: Array) -> Array:
        """Numbers that differ as the keys of codes do."""
        return codes >> self._bits

    def _time(self, t: Array) -> Array:
        if self._ranks is not None:
            return np.searchsorted(self._ranks, t, "left")
        return np.clip(t, self._low, self._low + (1 << self._bits) - 1) - self._low
