"""Partials that hold any number of items: the first k values, the distinct hashes, the counts by bucket.

For many groups at once a partial is a dict of columns, one entry for each item, groups one after another, and `ends`: for
each group where its items end. One operation, `compact`, makes such partials of events, and merges them: it puts the items
of each group together and keeps what its reduction keeps. It gives the same however the items were compacted before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

import numpy as np

from featurestore.aggregates import (
    Buckets,
    Distinct,
    FirstK,
    Frequencies,
    Largest,
    LastK,
    Ragged,
    Smallest,
)
from featurestore.evaluate.ranges import Array
from featurestore.layout import Slot
from featurestore.types import Bool, DecimalType

Columns = dict[str, Array]

PIECE = 1 << 20
"""Items gathered and compacted at a time."""

_BITS = 7
_SHIFT = np.uint64(52 - _BITS)
ERROR = 2.0 ** -(_BITS + 1)
"""How far the middle of a bucket is from any value in it, at most, relative to the value (2^-8, or 0.4 %)."""


# ------------------------------------------------------------------------------------------------------------ what is kept


def buckets(values: Array) -> Array:
    """The bucket of each double, an int64 that grows with the value: sign, exponent, and 7 leading bits of the fraction.

    0 is the bucket of zero. Below 2.2e-308, where doubles lose digits, buckets are 2^-1030 wide.
    """
    doubles = np.ascontiguousarray(values, np.float64)
    bits = (np.abs(doubles).view(np.uint64) >> _SHIFT).astype(np.int64) + 1
    return np.where(doubles == 0, 0, np.where(doubles < 0, -bits, bits))


def middles(bucket: Array) -> Array:
    """The double in the middle of each bucket."""
    size = np.maximum(np.abs(bucket) - 1, 0).astype(np.uint64)
    half = np.uint64(1) << (_SHIFT - np.uint64(1))
    value = ((size << _SHIFT) | half).view(np.float64)
    return np.where(bucket == 0, 0.0, np.where(bucket < 0, -value, value))


def hashes(values: Array) -> Array:
    """The 64-bit hash that counts of distinct values go by; different numbers of one type never share one.

    Of a number: the finaliser of SplitMix64 (Steele et al., 2014) over its 64 bits (of a float those of the double). Of
    a text: the first 8 bytes of the MD5 of its UTF-8, the first byte the lowest.
    """
    if values.dtype == object:
        words, codes = _words(values)
        own = [hashlib.md5(w.encode(), usedforsecurity=False).digest()[:8] for w in words.tolist()]
        return np.frombuffer(b"".join(own), "<u8").astype(np.uint64)[codes]
    bits = values.astype(np.float64 if values.dtype.kind == "f" else np.int64).view(np.uint64)
    x = bits + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def items_of(slot: Slot, x: Array, times: Array) -> Columns:
    """One item for each value of `x`, which came at `times`."""
    match slot.reduction:
        case FirstK() | LastK():
            return {"at": times, "v": x}
        case Largest() | Smallest():
            return {"v": x}
        case Distinct():
            return {"v": hashes(x)}
        case Buckets():
            doubles = x.astype(np.float64, copy=False)
            exact = doubles / 10.0**slot.dtype.scale if isinstance(slot.dtype, DecimalType) else doubles
            return {"v": buckets(exact), "n": np.ones(len(x), np.int64)}
        case Frequencies():
            return {"v": x, "n": np.ones(len(x), np.int64)}
        case _:
            raise AssertionError(f"{slot.reduction} is not ragged")


def compact(reduction: Ragged, group: Array, items: Columns, groups: int) -> Columns:
    """The partial of each of `groups` groups. `group` says which one an item is of, and does not fall.

    Of `FirstK` and `LastK` the items of a group are in the order of events. Texts are encoded before.
    """
    if isinstance(reduction, FirstK | LastK):
        ends = _ends(group, groups)
        rank = _ranks(group, ends, from_end=isinstance(reduction, LastK))
        return _kept(group, items, rank < reduction.k, groups)
    order = _by_value(group, items["v"], groups)
    group, items = group[order], {name: column[order] for name, column in items.items()}
    match reduction:
        case Smallest(k=k):
            return _kept(group, items, _ranks(group, _ends(group, groups)) < k, groups)
        case Largest(k=k):
            ends = _ends(group, groups)
            kept = _kept(group, items, _ranks(group, ends, from_end=True) < k, groups)
            return _turned(kept)
        case Distinct(k=k):
            new = _first_of_equal(group, items["v"])
            group, items = group[new], {"v": items["v"][new]}
            return _kept(group, items, _ranks(group, _ends(group, groups)) < k + 1, groups)
        case Buckets() | Frequencies():
            new = np.flatnonzero(_first_of_equal(group, items["v"]))
            n = np.add.reduceat(items["n"], new) if len(new) else items["n"]
            group, items = group[new], {"v": items["v"][new], "n": n}
            if isinstance(reduction, Buckets):
                return {"ends": _ends(group, groups), **items}
            return _kept(group, items, _ranks(group, _ends(group, groups)) < reduction.bound + 1, groups)
        case _:
            assert_never(reduction)


# ------------------------------------------------------------------------------------------------------------- of many ranges


@dataclass(frozen=True)
class Lifted:
    """Items of events: the event of each, rising; the columns, values encoded where `words` has what they stand for."""

    rows: Array
    items: Columns
    words: Array | None
    events: int

    def before(self, event: Array) -> Array:
        """How many items come before an event."""
        return event if len(self.rows) == self.events else np.searchsorted(self.rows, event, "left")


def lift(slot: Slot, x: Array, keep: Array | None, times: Array) -> Lifted:
    """The items of events: of those that count."""
    rows = np.arange(len(x)) if keep is None else np.flatnonzero(keep)
    items = items_of(slot, x[rows], times[rows])
    # Numbers from 0 on are sorted within groups many times faster than what they stand for.
    return Lifted(rows, *_encoded(slot, items, everything=True), len(x))


def over_events(slot: Slot, x: Array, keep: Array | None, times: Array, lo: Array, hi: Array) -> Columns:
    """The partial of each range of events, every event of each range gathered."""
    lifted = lift(slot, x, keep, times)
    return _merged(slot, lifted.items, lifted.words, lifted.before(lo), lifted.before(hi))


def over_tiles(slot: Slot, tiles: Columns, lo: Array, hi: Array) -> Columns:
    """The partial of each range of tiles, which are in the order of time."""
    starts = np.concatenate([[0], tiles["ends"]])
    items = {f.name: tiles[f.name] for f in slot.fields}
    return _merged(slot, *_encoded(slot, items, everything=False), starts[lo], starts[hi])


def continued(slot: Slot, begun: Columns, after: Columns, groups: Array, lo: Array, hi: Array) -> Columns:
    """The partials `begun`, those of `groups` merged with `after[lo:hi]` of each, whose events come later."""
    if not len(groups):
        return begun
    names = [f.name for f in slot.fields]
    edges, later = (np.concatenate([[0], partial["ends"]]) for partial in (begun, after))
    own = int(edges[-1])
    items, words = _encoded(slot, {n: np.concatenate([begun[n], after[n]]) for n in names}, everything=False)
    starts = np.stack([edges[groups], own + later[lo]], axis=1)
    stops = np.stack([edges[groups + 1], own + later[hi]], axis=1)
    merged = _merged(slot, items, words, starts, stops)
    first, size = edges[:-1].copy(), np.diff(edges)
    size[groups] = np.diff(merged["ends"], prepend=0)
    first[groups] = own + merged["ends"] - size[groups]
    rows = runs(first, size)
    return {"ends": np.cumsum(size), **{n: np.concatenate([begun[n], merged[n]])[rows] for n in names}}


def by_tile(
    slot: Slot,
    x: Array,
    keep: Array | None,
    times: Array,
    tile: Array,
    tiles: int,
    places: Array | None = None,
) -> Columns:
    """The partial of each tile. `tile` is that of each event, and does not fall.

    With `places`, the place of each event among those of its time, items that depend on the order of events have theirs as
    `o`.
    """
    lifted = lift(slot, x, keep, times)
    items = lifted.items
    if places is not None and isinstance(slot.reduction, FirstK | LastK):
        items = {**items, "o": places[lifted.rows]}
    return _decoded(compact(_reduction(slot), tile[lifted.rows], items, tiles), lifted.words)


def regrouped(slot: Slot, group: Array, items: Columns, groups: int) -> Columns:
    """The partial of each group, of items of partials of its parts. `group` does not fall.

    Items of `FirstK` and `LastK` are in the order of events within a group.
    """
    encoded, words = _encoded(slot, items, everything=False)
    return _decoded(compact(_reduction(slot), group, encoded, groups), words)


class Windows:
    """Ranges of events, most of which begin where a tile does, as windows do: merged from whole tiles and the events around.

    Each tile is compacted once, and so are pairs of tiles, pairs of these, and so on: a range of n tiles is at most
    2 log2(n) compacted ones and the events of its open tile.
    """

    def __init__(self, slot: Slot, lifted: Lifted, starts: Array, owner: Array) -> None:
        """`starts` are the events that tiles begin at; the first is 0, unless there is none.

        `owner` says whose each tile is: no range is of two.
        """
        self._slot, self._lifted, self._starts, self._owner = slot, lifted, starts, owner
        if isinstance(slot.reduction, FirstK | LastK):
            return
        tile = np.searchsorted(starts, lifted.rows, "right") - 1
        tiles = compact(_reduction(slot), tile, lifted.items, len(starts))
        self._levels = [tiles]
        self._lay_out()

    def merge(self, lo: Array, hi: Array) -> Columns:
        """The partial of each range of events. One that begins inside a tile takes the rest of its events one by one."""
        slot, lifted = self._slot, self._lifted
        first, last = lifted.before(lo), lifted.before(hi)
        if isinstance(slot.reduction, FirstK):
            return _run_of(lifted, first, np.minimum(last, first + slot.reduction.k))
        if isinstance(slot.reduction, LastK):
            return _run_of(lifted, np.maximum(first, last - slot.reduction.k), last)
        a, b = (np.searchsorted(self._starts, edge, "left") for edge in (lo, hi))
        edges = np.append(self._starts, lifted.events)
        cut = (edges[b] != hi) & (hi > lo)  # the last tile is open: its events are taken one by one
        b = np.where(hi > lo, np.maximum(b - cut, a), a)
        opened = lifted.before(np.where(cut, np.minimum(edges[b], hi), hi))
        whole = a  # the first tile that is not cut
        self._reach(int((b - a).max(initial=0)))
        starts, stops = [opened], [np.maximum(last, opened)]
        begun = np.minimum(edges[whole], hi)
        if bool((begun > lo).any()):
            starts.append(first)
            stops.append(lifted.before(begun))
        for level, ends in enumerate(self._ends):
            step = 1 << level
            left = (a & step != 0) & (a + step <= b)
            nodes = [np.where(left, a >> level, -1)]
            a = np.where(left, a + step, a)
            right = (b & step != 0) & (b - step >= a)
            nodes.append(np.where(right, (b >> level) - 1, -1))
            b = np.where(right, b - step, b)
            for node in nodes:
                starts.append(ends[np.maximum(node, 0)])
                stops.append(ends[node + 1])  # of no node it ends where the first begins
        return _merged(slot, self._pool, lifted.words, np.stack(starts, axis=1), np.stack(stops, axis=1))

    def _reach(self, tiles: int) -> None:
        """Compacts pairs until there is a node of half as many tiles, or more."""
        before = len(self._levels)
        while 2 << (len(self._levels) - 1) <= tiles:
            level, below = len(self._levels), self._levels[-1]
            nodes = len(self._starts) >> level
            first = np.arange(nodes) << level
            whole = self._owner[first] == self._owner[first + (1 << level) - 1]
            node = np.repeat(np.arange(len(below["ends"])), np.diff(below["ends"], prepend=0)) >> 1
            kept = np.flatnonzero(node < nodes)
            kept = kept[whole[node[kept]]]
            items = {name: column[kept] for name, column in below.items() if name != "ends"}
            self._levels.append(compact(_reduction(self._slot), node[kept], items, nodes))
        if len(self._levels) > before:
            self._lay_out()

    def _lay_out(self) -> None:
        """All items in one pool, the events' own first, and for each level where the items of its nodes end in it."""
        parts = [self._lifted.items, *self._levels]
        sizes = [len(part["v"]) for part in parts]
        bases = np.cumsum([0, *sizes[:-1]])[1:].tolist()
        levels = zip(bases, self._levels, strict=True)
        self._ends = [
            base + np.concatenate([[0, 0] if not len(x["ends"]) else [0], x["ends"]]) for base, x in levels
        ]
        self._pool = {n: np.concatenate([part[n] for part in parts]) for n in self._lifted.items}


def _merged(slot: Slot, items: Columns, words: Array | None, starts: Array, stops: Array) -> Columns:
    """The partial of each run of items, or of each row of runs, in pieces of about `PIECE` items."""
    sizes = stops - starts
    whole = sizes if sizes.ndim == 1 else sizes.sum(axis=1)
    per_row = 1 if sizes.ndim == 1 else sizes.shape[1]
    parts = []
    for a, b in _pieces(whole):
        rows = runs(starts[a:b].reshape(-1), sizes[a:b].reshape(-1))
        group = np.repeat(np.arange((b - a) * per_row) // per_row, sizes[a:b].reshape(-1))
        parts.append(
            compact(_reduction(slot), group, {name: column[rows] for name, column in items.items()}, b - a)
        )
    return _decoded(joined(parts), words)


def _run_of(lifted: Lifted, first: Array, last: Array) -> Columns:
    rows = runs(first, last - first)
    items = {name: column[rows] for name, column in lifted.items.items()}
    return _decoded({"ends": np.cumsum(last - first), **items}, lifted.words)


def _pieces(sizes: Array) -> Iterator[tuple[int, int]]:
    """Stretches of rows that have about `PIECE` items; at least one, which may be empty."""
    ends = np.cumsum(sizes)
    a = 0
    while True:
        done = int(ends[a - 1]) if a else 0
        b = max(a + 1, int(np.searchsorted(ends, done + PIECE, "right")))
        yield a, min(b, len(sizes))
        a = b
        if a >= len(sizes):
            return


def joined(parts: Sequence[Mapping[str, Array]]) -> Columns:
    """Partials of several lists of groups as those of one, one list after another."""
    if len(parts) == 1:
        return dict(parts[0])
    out = {name: np.concatenate([p[name] for p in parts]) for name in parts[0] if name != "ends"}
    sizes = np.concatenate([np.diff(p["ends"], prepend=0) for p in parts])
    return {"ends": np.cumsum(sizes), **out}


def runs(starts: Array, lengths: Array) -> Array:
    """The whole numbers from each start on, as many as its length, one run after another."""
    index = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    index += np.arange(len(index))
    return index


# ------------------------------------------------------------------------------------------------------------ within groups


def _reduction(slot: Slot) -> Ragged:
    assert isinstance(slot.reduction, Ragged)
    return slot.reduction


def _ends(group: Array, groups: int) -> Array:
    ends: Array = np.cumsum(np.bincount(group, minlength=groups))
    return ends


def _ranks(group: Array, ends: Array, *, from_end: bool = False) -> Array:
    """The place of each item within its group, from 0 on."""
    index: Array = np.arange(len(group))
    if from_end:
        index = ends[group] - 1 - index
    else:
        index -= np.concatenate([[0], ends[:-1]])[group]
    return index


def _kept(group: Array, items: Columns, keep: Array, groups: int) -> Columns:
    if bool(keep.all()):
        return {"ends": _ends(group, groups), **items}
    return {"ends": _ends(group[keep], groups), **{name: column[keep] for name, column in items.items()}}


def _turned(partial: Columns) -> Columns:
    """Each group's items the other way round."""
    ends = partial.pop("ends")
    sizes = np.diff(ends, prepend=0)
    mirror = np.repeat(2 * ends - sizes - 1, sizes) - np.arange(int(sizes.sum()))
    return {"ends": ends, **{name: column[mirror] for name, column in partial.items()}}


def _by_value(group: Array, v: Array, groups: int) -> Array:
    """The order of items by group, then by value. Equal items may change places: nothing tells them apart but counts."""
    if v.dtype == np.bool_:
        v = v.view(np.int8)
    if v.dtype.kind == "i" and len(v):
        least = int(v.min())
        span = int(v.max()) - least + 1
        if span * groups < 2**63:
            order: Array = np.argsort(group * span + (v.astype(np.int64) - least), kind="stable")
            return order
    return np.lexsort((v, group))


def _first_of_equal(group: Array, v: Array) -> Array:
    new = np.ones(len(v), np.bool_)
    new[1:] = (v[1:] != v[:-1]) | (group[1:] != group[:-1])
    return new


def _encoded(slot: Slot, items: Columns, *, everything: bool) -> tuple[Columns, Array | None]:
    """Values as numbers in the same order, and what these stand for: texts that are sorted by, or everything that is."""
    if isinstance(slot.reduction, FirstK | LastK):
        return items, None
    v = items["v"]
    if v.dtype == object:
        words, codes = _words(v)
    elif everything and slot.dtype != Bool and not isinstance(slot.reduction, Buckets):
        words, codes = np.unique(v, return_inverse=True)
    else:
        return items, None
    return {**items, "v": codes}, words


def _decoded(partial: Columns, words: Array | None) -> Columns:
    return partial if words is None else {**partial, "v": words[partial["v"]]}


_FEW: Final = 4096
"""So many texts are sorted sooner than Arrow is loaded."""


def _words(texts: Array) -> tuple[Array, Array]:
    """The distinct texts by their UTF-8 bytes, which is also how Python sorts them, and the number of each text."""
    if len(texts) <= _FEW:
        listed = texts.tolist()
        distinct = sorted(set(listed))
        number = {word: i for i, word in enumerate(distinct)}
        return np.array(distinct, object), np.fromiter(map(number.__getitem__, listed), np.int64, len(listed))
    import pyarrow as pa  # what reads numbers alone goes without

    seen = pa.array(texts, pa.large_string()).dictionary_encode()
    found = seen.dictionary.to_pylist()
    order = sorted(range(len(found)), key=found.__getitem__)
    rank = np.empty(len(found), np.int64)
    rank[order] = np.arange(len(found))
    words = np.empty(len(found), object)
    words[:] = [found[i] for i in order]
    return words, rank[seen.indices.to_numpy()]
