"""The common case of latest values, decided by a few comparisons: every entity there, found, fresh, and nothing NULL.

What is not so plain goes the general way (`entities`), which says what each cell is. Both give the same values.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from featurestore.evaluate.partials import Array
from featurestore.ir import Feature
from featurestore.online.codec import HEADER, MAGIC, Codec
from featurestore.online.values import Values
from featurestore.serving.group import Group, Table
from featurestore.serving.result import Block, settled

_ALL = 2**64 - 1
_FLOAT = np.dtype("<f4")
_FIRST_AT, _LAST_AT = 4, 5  # words of the header
assert HEADER.fields is not None
assert HEADER.fields["first_at"][1] == 8 * _FIRST_AT
assert HEADER.fields["last_at"][1] == 8 * _LAST_AT


@dataclass(frozen=True)
class _Columns:
    """A table of a group: at which bytes of a value its columns begin and end, which of them, and where they go."""

    begin: int
    end: int
    kind: str
    chosen: Array | None
    places: Array
    whole: bool


class Plain:
    """What the values of a group look like when they are plain, and where its columns are then."""

    def __init__(
        self, codec: Codec, tables: Sequence[Table], outputs: int, *, ttl: int | None, static: bool
    ) -> None:
        section = codec.sections[-1]
        assert section.dtype.fields is not None
        begin = 8 + codec.counts_size // 8  # the record's first word
        counts = np.zeros(codec.counts_size // 4, "<u4")
        counts[len(codec.sections) - 1] = 1
        bits = np.bitwise_or.reduce([t.all_valid for t in tables])
        self.width = 8 * begin + section.dtype.itemsize
        null = (8 * begin + section.dtype.fields["null"][1]) // 8
        same = [MAGIC, codec.plan, *counts.view("<u8").tolist()]
        self._wanted = np.array([*same, *bits.tolist()], np.uint64).tobytes()
        self._masks = np.array([*([_ALL] * len(same)), *bits.tolist()], np.uint64)
        at = (8 * begin + section.dtype.fields["at"][1]) // 8
        compared = [0, 2, *range(8, begin), *range(null, null + len(bits))]
        self._words, self._compared = np.array([*compared, _FIRST_AT, at]), len(compared)
        self._feature = tables[0].features[0]  # what has no window is stale together
        self._ttl, self._static = ttl, static
        places = np.array(compared)
        mask, wanted = np.zeros((2, self.width // 8), "<u8")
        mask[places], wanted[places] = self._masks, np.frombuffer(self._wanted, "<u8")
        # As one number: Python compares it faster than NumPy so few words.
        self._mask, self._same = (int.from_bytes(x.tobytes(), "little") for x in (mask, wanted))
        self._moments = struct.Struct(f"<{8 * _FIRST_AT}xQ{8 * (at - _FIRST_AT - 1)}xQ").unpack_from
        self._columns = []
        for table in tables:
            base, size = 8 * begin + section.dtype.fields[table.kind][1], np.dtype(table.kind).itemsize
            low, high = int(table.columns.min()), int(table.columns.max()) + 1
            chosen = None if np.array_equal(table.columns, np.arange(low, high)) else table.columns - low
            whole = np.dtype(table.kind).kind == "f" and np.array_equal(table.places, np.arange(outputs))
            self._columns.append(
                _Columns(base + low * size, base + high * size, table.kind, chosen, table.places, whole)
            )

    def blocks(
        self, values: Values, q: int, stale: Callable[[Feature], bool]
    ) -> tuple[list[Block], Array] | None:
        """The blocks of entities read at `q`, and when the last event of each was; None if they are not plain."""
        if values.width != self.width or stale(self._feature):
            return None
        if values.count == 1:
            return self._one(values.data, q)
        count, compared = values.count, self._compared
        words = values.data.view("<u8").reshape(count, -1)
        some = words.take(self._words, 1)
        if (some[:, :compared] & self._masks).tobytes() != self._wanted * count:
            return None
        if not self._static:
            moments = some.view("<i8")
            if int(np.maximum.reduce(moments[:, compared:], axis=None)) >= q:
                return None
            if self._ttl is not None and int(moments[:, -1].min()) < q - self._ttl:
                return None
        return self._stored(values.data.reshape(count, -1)), words[:, _LAST_AT].view("<i8")

    @property
    def has_row(self) -> bool:
        """Whether the features of the service are what `row` gives."""
        return len(self._columns) == 1 and self._columns[0].whole and self._columns[0].kind == "<f4"

    def row(self, value: bytes, q: int) -> bytes | None:
        """The floats of one value read at `q`, in the order of the service; None if it is not plain."""
        if len(value) != self.width or not self._is_plain(value, q):
            return None
        column = self._columns[0]
        floats = np.frombuffer(value, _FLOAT, (column.end - column.begin) // 4, column.begin)
        return settled(floats if column.chosen is None else floats[column.chosen]).tobytes()

    def kept(self, values: Values) -> tuple[Array, Array, Array, Array]:
        """Which values are plain once they count, and of those the floats as in `row` and two moments.

        Each counts after the first moment, and where it grows old, until `ttl` after the second.
        """
        if values.width == self.width:
            good, raw = np.ones(values.count, np.bool_), values.data.reshape(values.count, -1)
        else:
            good = values.lengths == self.width
            raw = values.data[values.offsets[good][:, None] + np.arange(self.width)]
        some = raw.view("<u8").take(self._words, 1)
        moments = some[:, self._compared :].view("<i8")
        alike = (some[:, : self._compared] & self._masks) == np.frombuffer(self._wanted, np.uint64)
        plain = alike.all(1) & (True if self._static else (moments >= 0).all(1))
        good[good] = plain
        column = self._columns[0]
        floats = raw[plain, column.begin : column.end].view("<f4")
        floats = settled(floats if column.chosen is None else floats[:, column.chosen])
        moments = np.zeros_like(moments[plain]) if self._static else moments[plain]
        return good, floats, moments.max(1, initial=0), moments[:, -1]

    @property
    def ttl(self) -> int | None:
        """How long ago a value may lie, in microseconds."""
        return None if self._static else self._ttl

    def _one(self, data: Array, q: int) -> tuple[list[Block], Array] | None:
        """`blocks` of one entity."""
        if not self._is_plain(data.data, q):
            return None
        last = data[8 * _LAST_AT : 8 * _LAST_AT + 8].view("<i8")
        return self._stored(data.reshape(1, -1)), last

    def _is_plain(self, value: bytes | memoryview, q: int) -> bool:
        """Whether one value is, without arrays: each call of NumPy costs as much as all these comparisons."""
        if int.from_bytes(value, "little") & self._mask != self._same:
            return False
        if self._static:
            return True
        # A moment before 1970 looks like one far ahead: the general way knows better.
        first, at = self._moments(value)
        return first < q and at < q and (self._ttl is None or at >= q - self._ttl)

    def _stored(self, raw: Array) -> list[Block]:
        blocks = []
        for column in self._columns:
            table = raw[:, column.begin : column.end].view(column.kind)
            if column.chosen is not None:
                table = table[:, column.chosen]
            blocks.append(Block.stored(column.places, table, whole=column.whole))
        return blocks


def plain_of(group: Group, outputs: int) -> Plain | None:
    """How plain values of a group look; None for what is never plain: windows and texts.

    `outputs` is how many features the service gives.
    """
    if group.windowed or not group.tables or any(t.text is not None for t in group.tables):
        return None
    static = group.view.source.event_time is None
    return Plain(group.codec, group.tables, outputs, ttl=group.view.ttl, static=static)
