"""Replies of Redis to MGET, read from the socket and laid end to end: no Python object for each value.

Values of one length, and misses, come in runs, and each run is checked and copied by one NumPy call. Whatever is no plain
array of texts (an error, a push, another protocol) is `Unexpected`, with the bytes that were read: the redis package's own
parser then says what it is.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from featurestore.online.values import Array, Values

FIRST_BUFFER: Final = 1 << 18
NIL: Final = b"$-1\r\n"
_HEAD: Final = 24
"""Bytes that hold any header: a letter, a number of 64 bits, and the end of the line."""


class Unexpected(Exception):  # noqa: N818
    """The reply is no plain array of texts; `unread` are the bytes from the first reply on that was not taken."""

    def __init__(self, unread: bytes) -> None:
        super().__init__("not a plain array of texts")
        self.unread = unread


class Replies:
    """Reads replies of known numbers of values, one after another, into one array.

    `counts` says how many values each reply holds, `taken` how many replies came. `buffer` may be used again afterwards;
    it is another one if the first was too small.
    """

    def __init__(self, counts: Sequence[int], buffer: bytearray) -> None:
        self.buffer = buffer
        self._bytes = np.frombuffer(buffer, np.uint8)
        self._begin = self._end = 0  # what was read and not taken
        self._counts = counts
        self.taken = 0
        self._out = np.empty(0, np.uint8)
        self._filled = 0
        self._runs: list[tuple[int, int]] = []  # how many values, and of what length

    def receive(self, read_into: Callable[[memoryview], int]) -> None:
        """Takes the next reply. Raises Unexpected; what `read_into` raises; EOFError at the end of the stream."""
        count = self._counts[self.taken]
        wanted = 0
        while True:
            have = self._end - self._begin
            if have and (
                have >= wanted or self.buffer[self._end - 2 : self._end] == b"\r\n"
            ):  # a reply that is whole ends so
                done, wanted = self._take(count)
                if done:
                    self.taken += 1
                    return
            self._read(read_into, wanted)

    def values(self) -> Values:
        """All values that came. Call it once, after the last reply."""
        total = sum(self._counts)
        data = self._out[: self._filled]
        if len({length for _, length in self._runs}) == 1 and self._runs[0][1] >= 0:
            return Values(data, total, width=self._runs[0][1])
        sizes, lengths = np.array(self._runs, np.int64).T
        return Values(data, total, lengths=np.repeat(lengths, sizes))

    def _read(self, read_into: Callable[[memoryview], int], wanted: int) -> None:
        room = max(wanted - (self._end - self._begin), 1 << 14)
        if len(self.buffer) - self._end < room:
            unread = self.buffer[self._begin : self._end]
            if len(unread) + room > len(self.buffer):
                self.buffer = bytearray(2 * (len(unread) + room))
                self._bytes = np.frombuffer(self.buffer, np.uint8)
            self.buffer[: len(unread)] = unread
            self._begin, self._end = 0, len(unread)
        came = read_into(memoryview(self.buffer)[self._end :])
        if not came:
            raise EOFError
        self._end += came

    def _take(self, count: int) -> tuple[bool, int]:
        """Takes a reply of `count` values if it is whole; else how many bytes it has at least."""
        buffer, end = self.buffer, self._end
        at = self._begin
        head = b"*%d\r\n" % count
        if not buffer.startswith(head, at):
            if head.startswith(buffer[at:end]):
                return False, len(head) + count * len(NIL)
            raise self._unexpected()
        at += len(head)
        runs: list[tuple[int, int, int, int]] = []  # where the first header is, how many, how long, header's length
        left = count
        while left:
            line = buffer.find(b"\r\n", at, at + _HEAD)
            if line < 0 or line + 2 > end:
                if end - at >= _HEAD:
                    raise self._unexpected()
                return False, end - self._begin + left * len(NIL) - (end - at)
            if buffer[at] != 0x24:  # $
                raise self._unexpected()
            header = bytes(buffer[at : line + 2])
            length = -1 if header == NIL else _number(header)
            if length is None:
                raise self._unexpected()
            stride = len(header) + length + 2 if length >= 0 else len(NIL)
            possible = min(left, (end - at) // stride)
            if not possible:
                return False, at - self._begin + stride + (left - 1) * len(NIL)
            alike = 1
            if possible > 1 and buffer.startswith(header, at + stride):
                alike = self._alike(at, header, stride, possible)
            runs.append((at, alike, length, len(header)))
            at += alike * stride
            left -= alike
        if at > end:
            return False, at - self._begin
        self._copy(runs, count)
        self._begin = at
        return True, 0

    def _alike(self, at: int, header: bytes, stride: int, possible: int) -> int:
        """How many values from here on have this header, of those that are `possible`."""
        rows = self._bytes[at : at + possible * stride].reshape(possible, stride)
        same = rows[:, : len(header)] == np.frombuffer(header, np.uint8)
        if same.all():
            return possible
        return int(same.all(axis=1).argmin())

    def _copy(self, runs: Sequence[tuple[int, int, int, int]], count: int) -> None:
        size = sum(alike * length for _, alike, length, _ in runs if length > 0)
        self._make_room(size, count)
        filled, out = self._filled, self._out
        target, source = memoryview(out), memoryview(self.buffer)
        for at, alike, length, head in runs:
            if length > 0:
                end = filled + alike * length
                if alike == 1:
                    target[filled:end] = source[at + head : at + head + length]
                else:
                    stride = head + length + 2
                    rows = self._bytes[at : at + alike * stride].reshape(alike, stride)
                    out[filled:end].reshape(alike, length)[:] = rows[:, head : head + length]
                filled = end
            self._runs.append((alike, length))
        self._filled = filled

    def _make_room(self, size: int, count: int) -> None:
        if self._filled + size <= len(self._out):
            return
        rest = sum(self._counts[self.taken + 1 :])
        capacity = self._filled + size + size * rest // count
        out = np.empty(capacity, np.uint8)
        out[: self._filled] = self._out[: self._filled]
        self._out = out

    def _unexpected(self) -> Unexpected:
        return Unexpected(bytes(self.buffer[self._begin : self._end]))


def _number(header: bytes) -> int | None:
    digits = header[1:-2]
    return int(digits) if digits.isdigit() else None


def socket_of(connection: Any) -> tuple[socket.socket, Any] | None:
    """The socket of a connection of the redis package and the parser behind it; None if it is not as we know it."""
    parser = getattr(connection, "_parser", None)
    reader, sock = getattr(parser, "_reader", None), getattr(connection, "_sock", None)
    if sock is None or not (hasattr(reader, "feed") and hasattr(reader, "has_data")):
        return None
    return None if reader.has_data() else (sock, reader)
