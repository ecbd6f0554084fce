"""Tiles of a micro-batch merged into the tiles that were there: pair by pair, each of an entity and a tile.

Partials are merged as everywhere, with one thing more: what depends on the order of events bears the place of its event
(`o`, see `compile.events.order_text`), so that events of one microsecond fall into the same order in however many batches
they came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import assert_never

import numpy as np

from featurestore.aggregates import (
    Buckets,
    Count,
    Distinct,
    First,
    FirstK,
    Frequencies,
    Largest,
    Last,
    LastK,
    MaxBy,
    Maximum,
    MinBy,
    Minimum,
    Moments,
    Smallest,
    Sum,
)
from featurestore.evaluate.partials import Array, Mask
from featurestore.evaluate.ragged import joined, regrouped, runs
from featurestore.evaluate.ranges import merge_moments, two_sum
from featurestore.layout import Level, Slot
from featurestore.online.codec import PLACE, Records, Section

Items = Mapping[str, Array]


def merge_tiles(level: Level, section: Section, old: Records, new: Records) -> Records:
    """Both together, sorted by owner and tile. Each has at most one record of an owner and tile, and is sorted."""
    if not len(new.rows):
        return old
    a, b, fresh = _matched(old, new)
    rows = np.concatenate([old.rows, new.rows[fresh]])
    owner = np.concatenate([old.owner, new.owner[fresh]])
    strings = {n: np.concatenate([c, new.strings[n][fresh]]) for n, c in old.strings.items()}
    for slot in level.slots:
        if not slot.ragged and len(a):
            _Pair(slot, section, rows, strings, a, new, b).merge()
    order = np.lexsort((rows["tile"], owner))
    items = {
        slot.name: _merged_items(slot, old, new, a, b, fresh, order) for slot in level.slots if slot.ragged
    }
    return Records(owner[order], rows[order], {n: c[order] for n, c in strings.items()}, items)


def merge_latest(section: Section, old: Records, new: Records) -> Records:
    """The newest row of each owner, of both."""
    if not len(new.rows):
        return old
    place = np.searchsorted(old.owner, new.owner)
    there = place < len(old.owner)
    there[there] = old.owner[place[there]] == new.owner[there]
    a, b = place[there], np.flatnonzero(there)
    newer = _later(
        old.rows["at"][a], old.strings[PLACE][a], new.rows["at"][b], new.strings[PLACE][b], ties=False
    )
    rows = np.concatenate([old.rows, new.rows[~there]])
    strings = {n: np.concatenate([c, new.strings[n][~there]]) for n, c in old.strings.items()}
    rows[a[newer]] = new.rows[b[newer]]
    for name, column in strings.items():
        column[a[newer]] = new.strings[name][b[newer]]
    owner = np.concatenate([old.owner, new.owner[~there]])
    order = np.argsort(owner, kind="stable")
    return Records(owner[order], rows[order], {n: c[order] for n, c in strings.items()})


def take(records: Records, kept: Array) -> Records:
    """Some of the records, in the order of `kept`."""
    items = {slot: _take_items(columns, kept) for slot, columns in records.items.items()}
    strings = {n: c[kept] for n, c in records.strings.items()}
    return Records(records.owner[kept], records.rows[kept], strings, items)


def _matched(old: Records, new: Records) -> tuple[Array, Array, Array]:
    """Rows of both that are of one owner and tile, and the rows of `new` that are of none of `old`."""
    tiles = np.unique(np.concatenate([old.rows["tile"], new.rows["tile"]]))
    codes = [r.owner * len(tiles) + np.searchsorted(tiles, r.rows["tile"]) for r in (old, new)]
    place = np.searchsorted(codes[0], codes[1])
    there = place < len(codes[0])
    there[there] = codes[0][place[there]] == codes[1][there]
    return place[there], np.flatnonzero(there), np.flatnonzero(~there)


class _Pair:
    """One slot of records `a` of `rows`, which take in those of records `b` of `new`."""

    def __init__(
        self,
        slot: Slot,
        section: Section,
        rows: Array,
        strings: dict[str, Array],
        a: Array,
        new: Records,
        b: Array,
    ) -> None:
        self.slot, self.section = slot, section
        self.rows, self.strings, self.a, self.new, self.b = rows, strings, a, new, b

    def merge(self) -> None:
        match self.slot.reduction:
            case Count():
                self._put("n", self._mine("n") + self._other("n"))
            case Sum():
                self._sum()
            case Minimum():
                self._pick(np.asarray(self._other("v") < self._mine("v"), np.bool_))
            case Maximum():
                self._pick(np.asarray(self._other("v") > self._mine("v"), np.bool_))
            case Moments():
                names = [f.name for f in self.slot.fields]
                merged = merge_moments(
                    tuple(map(self._mine, names)), tuple(map(self._other, names)), maybe_empty=True
                )
                for name, values in zip(names, merged, strict=True):
                    self._put(name, values)
            case First():
                self._pick(~self._after(ties=True))
            case Last():
                self._pick(self._after(ties=False))
            case MinBy() | MaxBy():
                mine, other = self._mine("by"), self._other("by")
                less = isinstance(self.slot.reduction, MinBy)
                better = np.asarray(other < mine if less else other > mine, np.bool_)
                same = np.asarray(other == mine, np.bool_)
                self._pick(better | (same & ~self._after(ties=True)))
            case FirstK() | LastK() | Largest() | Smallest() | Distinct() | Buckets() | Frequencies():
                raise AssertionError(f"{self.slot.reduction} is merged by its items")
            case _:
                assert_never(self.slot.reduction)

    def _sum(self) -> None:
        mine, other = self._valid(self.rows, self.a), self._valid(self.new.rows, self.b)

        def both(name: str) -> tuple[Array, Array]:  # a sum of nothing is null, whatever its fields hold
            a, b = self._mine(name), self._other(name)
            return np.where(mine, a, a.dtype.type(0)), np.where(other, b, b.dtype.type(0))

        if any(f.name == "s" for f in self.slot.fields):
            s, rest = two_sum(*both("s"))
            self._put("s", s)
            self._put("c", np.add(*both("c")) + rest)
        else:
            a, b = both("lo")
            carry = (a + b) < a
            self._put("lo", a + b)
            self._put("hi", np.add(*both("hi")) + carry)
        self._set(mine | other)

    def _pick(self, better: Mask) -> None:
        """Takes the other's fields where they are better, or mine are null; null stays out."""
        mine, other = self._valid(self.rows, self.a), self._valid(self.new.rows, self.b)
        chosen = other & (better | ~mine)
        a, b = self.a[chosen], self.b[chosen]
        for name in self._names():
            if name in self.strings:
                self.strings[name][a] = self.new.strings[name][b]
            else:
                kind, column = self.section.places[name]
                self.rows[kind][a, column] = self.new.rows[kind][b, column]
        self._set(mine | other)

    def _after(self, *, ties: bool) -> Mask:
        """Where the other's event comes after mine; `ties` for one and the same place."""
        name = f"{self.slot.name}_{PLACE}"
        places = self.strings[name][self.a], self.new.strings[name][self.b]
        return _later(self._mine("at"), places[0], self._other("at"), places[1], ties=ties)

    def _names(self) -> Iterator[str]:
        own = f"{self.slot.name}_"
        return (n for n in self.section.places if n.startswith(own) and n.removeprefix(own) in _FIELDS)

    def _mine(self, name: str) -> Array:
        return self._column(self.rows, self.strings, self.a, name)

    def _other(self, name: str) -> Array:
        return self._column(self.new.rows, self.new.strings, self.b, name)

    def _column(self, rows: Array, strings: Mapping[str, Array], at: Array, name: str) -> Array:
        full = f"{self.slot.name}_{name}"
        if full in strings:
            return strings[full][at]
        kind, column = self.section.places[full]
        values: Array = rows[kind][at, column]
        return values

    def _put(self, name: str, values: Array) -> None:
        kind, column = self.section.places[f"{self.slot.name}_{name}"]
        self.rows[kind][self.a, column] = values

    def _valid(self, rows: Array, at: Array) -> Mask:
        bit = self.section.bits[self.slot.name]
        words = rows["null"][at, bit // 64]
        valid: Mask = (words >> np.uint64(bit % 64) & np.uint64(1)).astype(np.bool_)
        return valid

    def _set(self, valid: Mask) -> None:
        bit = self.section.bits[self.slot.name]
        self.rows["null"][self.a, bit // 64] |= valid.astype("<u8") << np.uint64(bit % 64)


_FIELDS = frozenset({"v", "at", "by", "known", PLACE})


def _later(at: Array, place: Array, other_at: Array, other_place: Array, *, ties: bool) -> Mask:
    later: Mask = other_at > at
    same = np.flatnonzero(other_at == at)
    for i, mine, other in zip(same.tolist(), place[same].tolist(), other_place[same].tolist(), strict=True):
        # Of what is null there is no place, and its answer is not looked at.
        a, b = mine or "", other or ""
        later[i] = b > a or (ties and a == b)
    return later


# --------------------------------------------------------------------------------------------------------- ragged partials


def _merged_items(
    slot: Slot, old: Records, new: Records, a: Array, b: Array, fresh: Array, order: Array
) -> dict[str, Array]:
    """The items of the merged records, in their order."""
    mine, other = old.items[slot.name], new.items[slot.name]
    pairs = _compacted(slot, _take_items(mine, a), _take_items(other, b))
    parts = [mine, _take_items(other, fresh), pairs]
    # Records of `old` that were merged take their items from the pairs.
    row = np.arange(len(old.rows) + len(fresh))
    row[a] = len(row) + np.arange(len(a))
    return _take_items(joined(parts), row[order])


def _compacted(slot: Slot, mine: Items, other: Items) -> dict[str, Array]:
    groups = len(mine["ends"])
    both = joined([mine, other])
    group = np.repeat(np.concatenate([np.arange(groups)] * 2), np.diff(both.pop("ends"), prepend=0))
    if isinstance(slot.reduction, FirstK | LastK):
        _, place = np.unique(both[PLACE], return_inverse=True)
        order = np.lexsort((place, both["at"], group))
    else:
        order = np.argsort(group, kind="stable")
    return regrouped(slot, group[order], {n: c[order] for n, c in both.items()}, groups)


def _take_items(columns: Items, rows: Array) -> dict[str, Array]:
    """The items of some records, in the order of `rows`."""
    ends = columns["ends"]
    sizes = np.diff(ends, prepend=0)
    index = runs((ends - sizes)[rows], sizes[rows])
    return {"ends": np.cumsum(sizes[rows]), **{n: c[index] for n, c in columns.items() if n != "ends"}}
