"""Rows of floats that this process has read, by a whole number, for as long as the store that they are of stays as it is.

Where they lie follows from a hash in one of two tables, so that many are found by a few calls of NumPy. What finds both its
places taken drives out the one that lies in the second: a table that is too small forgets, and is never wrong.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from featurestore.evaluate.partials import Array

BYTES: Final = 32 << 20
"""Of rows and tables that are kept at most, for each service."""

_FIRST: Final = 12
"""Bits of the places in each table at the beginning."""

_MULTIPLIERS: Final = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))


class Resident:
    """`width` floats for each number, with two moments: it counts after `since`, and is as old as `at`, which is not later."""

    def __init__(self, width: int, limit: int = BYTES) -> None:
        self._width = width
        # Beside its floats a row has a number, two moments, and two places of 16 bytes in each table.
        self._most = 1 << max(limit // (4 * width + 88), 1).bit_length() - 1
        self._count = 0
        self._newest, self._oldest = -(2**63), 2**63 - 1
        self._room(_FIRST)

    def __len__(self) -> int:
        return self._count

    def clear(self) -> None:
        """Forgets all rows."""
        if self._count:
            self._count = 0
            self._newest, self._oldest = -(2**63), 2**63 - 1
            self._room(_FIRST)

    def find(self, numbers: Array) -> tuple[Array, Array | None]:
        """Where the rows of these numbers are, and which of them are there; None where all are."""
        first = self._hashed(numbers, 0)
        there = self._keys[0].take(first) == numbers
        rows = self._rows[0].take(first)
        if np.count_nonzero(there) == len(there):
            return rows, None
        others = np.logical_not(there).nonzero()[0]
        some = numbers.take(others)
        second = self._hashed(some, 1)
        found = self._keys[1].take(second) == some
        rows[others] = self._rows[1].take(second)
        if np.count_nonzero(found) == len(found):
            return rows, None
        there[others] = found
        return rows, there

    def add(self, numbers: Array, floats: Array, since: Array, at: Array) -> None:
        """Keeps rows of distinct numbers that are not there."""
        if not 0 < len(numbers) <= self._most:
            return
        if self._count + len(numbers) > self._most:
            self.clear()
        start, end = self._count, self._count + len(numbers)
        while end > len(self._floats):
            self._grow()
        self._floats[start:end], self._numbers[start:end] = floats, numbers
        self._since[start:end], self._at[start:end] = since, at
        self._newest = max(self._newest, int(since.max()))
        self._oldest = min(self._oldest, int(at.min()))
        self._count = end
        self._place(start, end)

    def floats(self, rows: Array, q: int, ttl: int | None) -> Array | None:
        """The floats of rows at `q`; None where one of them does not count then, or not any more."""
        if self._newest >= q and bool((self._since.take(rows) >= q).any()):
            return None
        if ttl is not None and self._oldest < q - ttl and bool((self._at.take(rows) < q - ttl).any()):
            return None
        return self._floats.take(rows, axis=0)

    def _room(self, bits: int) -> None:
        """Empty tables, and rows for half as many numbers as there are places in one of them."""
        self._shift = np.uint64(64 - bits)
        # A free place holds a number that does not belong there: 0, and where that does belong another.
        self._keys, self._rows = [], []
        for which in (0, 1):
            keys = np.zeros(1 << bits, np.int64)
            own = self._hashed(np.arange(64, dtype=np.int64), which)
            keys[own[0]] = int(np.flatnonzero(own != own[0])[0])
            self._keys.append(keys)
            self._rows.append(np.zeros(1 << bits, np.int64))
        if self._count == 0:
            room = 1 << (bits - 1)
            self._floats = np.empty((room, self._width), np.float32)
            self._numbers, self._since, self._at = (np.empty(room, np.int64) for _ in range(3))

    def _grow(self) -> None:
        self._floats, self._numbers, self._since, self._at = (
            np.concatenate([x, np.empty_like(x)])
            for x in (self._floats, self._numbers, self._since, self._at)
        )
        self._room(int(np.uint64(64) - self._shift) + 1)
        self._place(0, self._count)

    def _place(self, start: int, end: int) -> None:
        """Puts rows where their numbers belong: in the first table where that is free, else in the second."""
        numbers, rows = self._numbers[start:end], np.arange(start, end)
        places, keys = self._hashed(numbers, 0), self._keys[0]
        free = self._hashed(keys.take(places), 0) != places
        keys[places[free]] = numbers[free]
        mine = keys.take(places) == numbers  # not taken before, nor by another of these
        self._rows[0][places[mine]] = rows[mine]
        numbers, rows = numbers[~mine], rows[~mine]
        places, keys = self._hashed(numbers, 1), self._keys[1]
        keys[places] = numbers
        mine = keys.take(places) == numbers
        self._rows[1][places[mine]] = rows[mine]

    def _hashed(self, numbers: Array, which: int) -> Array:
        places: Array = ((numbers.view(np.uint64) * _MULTIPLIERS[which]) >> self._shift).view(np.int64)
        return places
