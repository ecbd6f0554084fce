"""Values as a store gave them for a batch of keys: all bytes end to end, without a Python object for each value.

And keys as a reader asks for them: lists of bytes, or for keys of one length one array of all their bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

KeyRows = Sequence[bytes] | Array
"""Store keys: a sequence of bytes, or (keys, bytes of a key) uint8, C-contiguous."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Keys of one kind. Each `together` keys in a row are of one entity: a store reads them at one moment."""

    keys: KeyRows
    together: int = 1

    def __len__(self) -> int:
        return len(self.keys)

    def listed(self) -> Sequence[bytes]:
        """The keys as bytes, one object for each."""
        if not isinstance(self.keys, np.ndarray):
            return self.keys
        rows: list[bytes] = self.keys.view(f"V{self.keys.shape[1]}")[:, 0].tolist() if len(self.keys) else []
        return rows


class Values:
    """Of each key its value, or that there is none.

    Value `i` is `lengths[i]` bytes of `data`, which is uint8, from `offsets[i]` on; a length of -1 says that there is none.
    `width` is the length of every value where none is missing, all are of this length and lie end to end from the beginning
    of `data`; else None.
    """

    __slots__ = ("_lengths", "_offsets", "count", "data", "width")

    def __init__(
        self,
        data: Array,
        count: int,
        *,
        width: int | None = None,
        lengths: Array | None = None,
        offsets: Array | None = None,
    ) -> None:
        self.data, self.count, self.width = data, count, width
        self._lengths, self._offsets = lengths, offsets

    @staticmethod
    def of(values: Sequence[bytes | None]) -> Values:
        """The same of bytes, None where there is no value."""
        count = len(values)
        first = values[0] if count else None
        if first is not None and None not in values:
            data = np.frombuffer(b"".join(values), np.uint8)  # type: ignore[arg-type]
            if set(map(len, values)) == {len(first)}:  # type: ignore[arg-type]
                return Values(data, count, width=len(first))
            return Values(data, count, lengths=np.fromiter(map(len, values), np.int64, count))  # type: ignore[arg-type]
        lengths = np.array([-1 if v is None else len(v) for v in values], np.int64)
        return Values(np.frombuffer(b"".join(filter(None, values)), np.uint8), count, lengths=lengths)

    def __len__(self) -> int:
        return self.count

    @property
    def lengths(self) -> Array:
        if self._lengths is None:
            assert self.width is not None
            self._lengths = np.full(self.count, self.width, np.int64)
        return self._lengths

    @property
    def offsets(self) -> Array:
        if self._offsets is None:
            taken = np.maximum(self.lengths, 0)
            self._offsets = np.cumsum(taken) - taken
        return self._offsets

    def part(self, start: int, stop: int, step: int = 1) -> Values:
        """The values `start:stop:step`, of the same bytes."""
        if start == 0 and stop == self.count and step == 1:
            return self
        if self.width is not None and step == 1:
            return Values(self.data[start * self.width : stop * self.width], stop - start, width=self.width)
        lengths, offsets = self.lengths[start:stop:step], self.offsets[start:stop:step]
        count, width = len(lengths), int(lengths[0]) if len(lengths) else -1
        if width > 0 and bool((lengths == width).all()):
            first = int(offsets[0])
            if bool((offsets == np.arange(first, first + count * width, width)).all()):
                return Values(self.data[first : first + count * width], count, width=width)
        return Values(self.data, count, lengths=lengths, offsets=offsets)

    def without(self, missing: Sequence[int]) -> Values:
        """The same without some of the values."""
        if not len(missing):
            return self
        lengths = self.lengths.copy()
        lengths[missing] = -1
        return Values(self.data, self.count, lengths=lengths, offsets=self.offsets)
