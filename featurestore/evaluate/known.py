"""What had arrived: of an entity's events before a moment, those that were known at it.

Events lie in the order of entity and time. At a moment, an entity's known events end at some event, after which none is
known. Most before it are known; the others, which later events overtook on their way, are *holes*. A window is what lies
between its holes: ranges of events like any other, whose partials are merged as those of tiles are. So nothing is ever
subtracted, every aggregate is right that merges, and what arrives in order, however late, has no holes and costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from featurestore.evaluate import ragged
from featurestore.evaluate.partials import Array, Mask, Partial, merge_tiles
from featurestore.evaluate.ranges import GatheredRanges
from featurestore.layout import Slot


def known_at(arrival: Array, arrived: Mask | None, times: Array, lag: int) -> Array:
    """`time.known_at` of each event: `arrived` says which have an arrival, None that all do."""
    since = arrival if arrived is None else np.where(arrived, arrival, times)
    known: Array = np.maximum(since + lag, times + 1)
    return known


class Known:
    """When each event became known, as a whole number that grows with entity and moment; events in order of entity and time."""

    def __init__(self, at: Array) -> None:
        self.at = at
        self._least = np.minimum.accumulate(at[::-1])[::-1]  # of an event and all that follow
        self._overtaken = np.flatnonzero(at[:-1] > self._least[1:])

    def ends(self, moments: Array) -> Array:
        """One past the last event that is known before each of `moments`; the entity's first event where none is."""
        return np.searchsorted(self._least, moments, "left")

    def hidden(self, moments: Array, ends: Array) -> Hidden | None:
        """The holes of rows asked at `moments`, which rise, and whose known events end at `ends`. None when there are none."""
        if not len(ends):
            return None
        a, b = np.searchsorted(self._overtaken, [0, ends[-1]], "left")
        events = self._overtaken[a:b]
        first = np.searchsorted(ends, events, "right")  # the first row whose end lies after the event
        asked = np.append(moments, np.iinfo(moments.dtype).max)
        some = np.flatnonzero(asked[first] <= self.at[events])
        events, first = events[some], first[some]
        last = np.searchsorted(moments, self.at[events], "right")
        return Hidden(events, first, last) if len(events) else None


@dataclass(frozen=True)
class Hidden:
    """Events, and the rows for which each is a hole: from `first` on, before `last`."""

    events: Array
    first: Array
    last: Array

    @property
    def total(self) -> int:
        """How many holes all rows have together."""
        return int((self.last - self.first).sum())


class Gaps:
    """What lies between the holes of rows: for each row, after each hole, the events up to the next one or to the row's end.

    `lo` and `hi` are these ranges of events, row by row and in order, without those that hold nothing.
    """

    def __init__(self, hidden: Hidden, ends: Array) -> None:
        sizes = hidden.last - hidden.first
        rows = ragged.runs(hidden.first, sizes)
        holes = (rows << 32) | np.repeat(hidden.events, sizes)
        holes.sort()
        rows, events = holes >> 32, holes & 0xFFFFFFFF
        self._holes, self._events = holes, events
        self._stops = np.searchsorted(rows, np.arange(len(ends)), "right")
        hi = np.append(events[1:], 0)
        last = np.flatnonzero(np.append(rows[1:] != rows[:-1], True))
        hi[last] = ends[rows[last]]
        some = hi > events + 1
        self.lo, self.hi = events[some] + 1, hi[some]
        self._before = np.concatenate([[0], np.cumsum(some)])

    @property
    def events(self) -> int:
        """Events in all gaps together."""
        return int((self.hi - self.lo).sum())

    def cut(self, lo: Array, ends: Array) -> tuple[Array, Rest]:
        """For windows that begin at `lo`, one for each row: where the first hole ends each, and the gaps that follow."""
        first = np.searchsorted(self._holes, (np.arange(len(lo)) << 32) | lo, "left")
        cut = first < self._stops
        hi = np.where(cut, self._events[np.minimum(first, len(self._events) - 1)], ends)
        rows = np.flatnonzero(cut)
        return hi, Rest(rows, self._before[first[rows]], self._before[self._stops[rows]], len(self.lo))


@dataclass(frozen=True)
class Rest:
    """What follows the first hole of some windows: which windows, and the gaps `[lo, hi)` of each, of so many `gaps`."""

    windows: Array
    lo: Array
    hi: Array
    gaps: int

    @staticmethod
    def of(spans: Sequence[Rest], rows: int) -> Rest:
        """Those of windows of several spans, each over `rows` rows, one span after another."""
        return Rest(
            np.concatenate([rest.windows + i * rows for i, rest in enumerate(spans)]),
            np.concatenate([rest.lo for rest in spans]),
            np.concatenate([rest.hi for rest in spans]),
            spans[0].gaps,
        )

    def join(self, slot: Slot, begun: Partial, gaps: Partial) -> Partial:
        """The partials of windows whole: `begun` up to their first hole, joined with those of their gaps."""
        if slot.ragged:
            return ragged.continued(slot, begun, gaps, self.windows, self.lo, self.hi)
        if not len(self.windows):
            return begun
        ranges, which = self._shared
        after = merge_tiles(slot, gaps, ranges)
        both = {}
        for name, values in begun.items():
            both[name] = np.empty(2 * len(which), values.dtype)
            both[name][0::2], both[name][1::2] = values[self.windows], after[name][which]
        joined = merge_tiles(slot, both, self._pairs)
        whole = {name: values.copy() for name, values in begun.items()}  # others may look at these values too
        for name, values in whole.items():
            values[self.windows] = joined[name]
        return whole

    @cached_property
    def _shared(self) -> tuple[GatheredRanges, Array]:
        """Windows of several sizes often have all their gaps in common: each different range of gaps, and which is whose."""
        lo, first, which = np.unique(self.lo, return_index=True, return_inverse=True)
        return GatheredRanges(lo, self.hi[first], self.gaps), which

    @cached_property
    def _pairs(self) -> GatheredRanges:
        first = np.arange(0, 2 * len(self.windows), 2)
        return GatheredRanges(first, first + 2, 2 * len(self.windows))
