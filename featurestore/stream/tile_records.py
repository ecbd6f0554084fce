"""Tile records of a Flink job, decoded many at a time: see `docs/tile-records.md`.

All records of a level become one array; texts and lists are gathered from their tails, without an object for each record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from featurestore.aggregates import MaxBy, MinBy
from featurestore.compile.flink_job import NEWEST, Query
from featurestore.errors import StreamError
from featurestore.evaluate.partials import Array
from featurestore.evaluate.ragged import runs
from featurestore.ir import View
from featurestore.layout import Layout, Slot
from featurestore.online.codec import Codec, Records, Section

VERSION, LAST = 1, 31
"""The version that is read; what begins with more than the last that may come is something else altogether."""


@dataclass(frozen=True)
class Upserts:
    """Tiles of one level, or newest rows, in the order in which they came; `number` is the section they belong to.

    `keys` are the columns of the view's key. Of two records of a tile the one with the greater `marks` counts, of equal ones
    the later: the epoch in the high half, the number of source rows in the low one (of a newest row 0). `offsets` are their
    places in the topic, `first_at` and `last_at` the bounds of their events.
    """

    number: int
    keys: Sequence[Array]
    records: Records
    marks: Array
    rows: Array
    first_at: Array
    last_at: Array
    offsets: Array

    def __len__(self) -> int:
        return len(self.marks)

    def some(self, kept: Array) -> Upserts:
        """Some of them, in the order of `kept`."""
        from featurestore.stream.merge import take

        columns = (self.marks, self.rows, self.first_at, self.last_at, self.offsets)
        keys = [k[kept] for k in self.keys]
        return Upserts(self.number, keys, take(self.records, kept), *(c[kept] for c in columns))


class Decoder:
    """Decodes the records of one view's tile topic."""

    def __init__(self, view: View, layout: Layout, codec: Codec, queries: Sequence[Query]) -> None:
        """`queries` are those of the view's job."""
        self._shapes: dict[int, _Shape] = {}
        for query in queries:
            newest = query.level == NEWEST
            number = len(layout.levels) if newest else query.level
            slots = () if newest else layout.levels[number].slots
            self._shapes[query.level] = _Shape(
                number, query, len(view.keys), codec.sections[number], slots, newest=newest
            )

    def decode(self, values: Sequence[bytes], offsets: Array) -> tuple[list[Upserts], int]:
        """The records of each level that came, and how many are no records of this view.

        Raises StreamError for records of a version that is not known here.
        """
        lengths = np.fromiter(map(len, values), np.int64, len(values))
        if not len(values):
            return [], 0
        data = np.frombuffer(b"".join(values) + bytes(8), np.uint8)
        starts = np.cumsum(lengths) - lengths
        head = data[np.minimum(starts[:, None] + np.arange(2), len(data) - 1)]
        ok = lengths >= 8
        newer = ok & (head[:, 0] > VERSION) & (head[:, 0] <= LAST)
        if newer.any():
            raise StreamError(
                f"the tile topic holds records of version {int(head[newer, 0].max())}, and this release reads version {VERSION}\n"
                "  run the writer of the release that the job is of"
            )
        ok &= head[:, 0] == VERSION
        found, read = [], 0
        for level, shape in self._shapes.items():
            mine = np.flatnonzero(ok & (head[:, 1] == level) & (lengths >= shape.width * 8))
            if len(mine):
                read += len(mine)
                found.append(shape.decode(data, starts[mine], lengths[mine], offsets[mine]))
        return found, len(values) - read


class _Shape:
    """How records of one query lie, and where their columns go in the records of a section."""

    def __init__(
        self, number: int, query: Query, keys: int, section: Section, slots: Sequence[Slot], *, newest: bool
    ) -> None:
        self.number, self.section, self.slots, self.newest = number, section, slots, newest
        self.names = list(query.columns)
        self.kinds = list(query.columns.values())
        self.place = {name: 1 + i for i, name in enumerate(self.names)}
        self.keys = [(self.place[name], query.columns[name] == "STRING") for name in self.names[:keys]]
        self.nulls = 1 + len(self.names)
        self.width = self.nulls - (-len(self.names) // 64)
        wide, narrow = [], []
        for name, (kind, column) in section.places.items():
            if name in section.strings or name in section.items:
                continue
            of, at = section.fields[name]
            if of.itemsize == 8:
                wide.append((self.place[name], at // 8))
            else:
                narrow.append((self.place[name], kind, column))
        wide.append((self.place["last_at" if newest else "tile"], 0))
        self.wide = np.array(wide, np.int64).T
        self.narrow = narrow
        self.valid = self._valid_columns()

    def _valid_columns(self) -> list[tuple[int, int]]:
        """For each null bit of the section the column that says whether it is set."""
        if self.newest:
            return [(bit, self.place[name]) for name, bit in self.section.bits.items()]
        found = []
        for slot in self.slots:
            if slot.has_null_bit:
                # What goes by another input may be null itself; of the others all fields are null together.
                first = "by" if isinstance(slot.reduction, MinBy | MaxBy) else slot.fields[0].name
                found.append((self.section.bits[slot.name], self.place[f"{slot.name}_{first}"]))
        return found

    def decode(self, data: Array, starts: Array, lengths: Array, offsets: Array) -> Upserts:
        count = len(starts)
        words = self._words(data, starts, lengths)
        tails = starts + 8 * self.width
        rows = np.zeros(count, self.section.dtype)
        if count and self.section.dtype.itemsize:
            out = rows.view("<u8").reshape(count, -1)
            out[:, self.wide[1]] = words[:, self.wide[0]]
        for place, kind, column in self.narrow:
            word = words[:, place].view("<f8" if kind == "<f4" else "<i8")
            rows[kind][:, column] = word != 0 if kind == "|b1" else word
        self._set_valid(rows, words)
        strings = {n: _texts(data, tails, words[:, self.place[n]]) for n in self.section.strings}
        items = {s.name: self._items(s, data, tails, words) for s in self.slots if s.ragged}
        keys = [
            _texts(data, tails, words[:, place]) if text else words[:, place].view("<i8")
            for place, text in self.keys
        ]
        epoch = words[:, 0] >> np.uint64(32) << np.uint64(32)
        first, last = (words[:, self.place[n]].view("<i8") for n in ("first_at", "last_at"))
        came: Array = np.zeros(count, np.int64) if self.newest else words[:, self.place["rows"]].view("<i8")
        marks = epoch | np.minimum(came, 2**32 - 1).astype("<u8")
        records = Records(np.arange(count), rows, strings, items)
        return Upserts(self.number, keys, records, marks, came, first, last, offsets)

    def _words(self, data: Array, starts: Array, lengths: Array) -> Array:
        """The fixed part of each record, (records, words)."""
        size = 8 * self.width
        first = int(starts[0])
        if bool((lengths == size).all()) and bool((np.diff(starts) == size).all()):
            whole = data[first : first + size * len(starts)]
            return whole.view("<u8").reshape(len(starts), -1)
        if not (starts & 7).any():
            words = data[: len(data) // 8 * 8].view("<u8")
            return words[(starts // 8)[:, None] + np.arange(self.width)]
        return data[starts[:, None] + np.arange(size)].view("<u8")

    def _set_valid(self, rows: Array, words: Array) -> None:
        if not self.valid:
            return
        nulls = words[:, self.nulls : self.width]
        null = rows["null"]
        one = np.uint64(1)
        if not nulls.any():
            for bit, _ in self.valid:
                null[:, bit // 64] |= one << np.uint64(bit % 64)
            return
        for bit, place in self.valid:
            column = place - 1
            there = ~nulls[:, column // 64] >> np.uint64(column % 64) & one
            null[:, bit // 64] |= there << np.uint64(bit % 64)

    def _items(self, slot: Slot, data: Array, tails: Array, words: Array) -> dict[str, Array]:
        columns: dict[str, Array] = {}
        for f in slot.fields:
            word = words[:, self.place[f"{slot.name}_{f.name}"]]
            begin, size = tails + _low(word), _high(word)
            if f.dtype == object:
                texts, counts = _text_lists(data, begin, size)
                columns[f.name] = texts
            else:
                raw = data[runs(begin, size)].view("<f8" if f.dtype.kind == "f" else "<i8")
                columns[f.name] = raw.view("<u8") if f.dtype == np.uint64 else raw.astype(f.dtype)
                counts = size // 8
            columns["ends"] = np.cumsum(counts)
        return columns


def _low(words: Array) -> Array:
    return (words & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _high(words: Array) -> Array:
    return (words >> np.uint64(32)).astype(np.int64)


def _texts(data: Array, tails: Array, words: Array) -> Array:
    """The texts that words of records point to, "" where one is NULL."""
    return _strings(data, tails + _low(words), _high(words))


def _strings(data: Array, begin: Array, size: Array) -> Array:
    ends = np.zeros(len(size) + 1, np.int64)
    np.cumsum(size, out=ends[1:])
    blob = data[runs(begin, size)]
    texts = pa.LargeStringArray.from_buffers(len(size), pa.py_buffer(ends), pa.py_buffer(blob))
    out: Array = texts.to_numpy(zero_copy_only=False)
    return out


def _text_lists(data: Array, begin: Array, size: Array) -> tuple[Array, Array]:
    """The texts of lists, one after another, and how many each has."""
    some = size > 0
    counts = np.zeros(len(size), np.int64)
    counts[some] = data[begin[some][:, None] + np.arange(4)].view("<u4")[:, 0]
    lengths = data[runs(begin + 4, 4 * counts)].view("<u4").astype(np.int64)
    bodies = begin + 4 + 4 * counts
    before = np.cumsum(lengths) - lengths
    firsts = np.cumsum(counts) - counts
    whose = np.repeat(np.arange(len(size)), counts)
    within = (
        before - np.repeat(before[np.minimum(firsts, max(len(before) - 1, 0))], counts)
        if len(before)
        else before
    )
    return _strings(data, bodies[whose] + within, lengths), counts


__all__ = ["Decoder", "Upserts"]
