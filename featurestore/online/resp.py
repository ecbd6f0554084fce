"""Replies of Redis to MGET, read from the socket and laid end to end: no Python object for each value.

Values of one length, and misses, come in runs, and each run is checked and copied by one NumPy call. Whatever is no plain
array of texts (an error, a push, another protocol) is `Unexpected`, with the bytes that were read: the redis package's own
parser then says what it is.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from featurestore.online.values import Array, Values

FIRST_BUFFER: Final = 1 << 18
NIL: Final = b"$-1\r\n"
SPIN_SECONDS: Final = 100e-6 if len(os.sched_getaffinity(0)) > 1 else 0.0
"""How long a reply is looked for again and again before its thread sleeps: waking up takes longer than a small reply.

On one processor that would keep the server itself waiting.
"""

_HEAD: Final = 24
"""Bytes that hold any header: a letter, a number of 64 bits, and the end of the line."""


class Unexpected(Exception):
    """The reply is no plain array of texts; `unread` are the bytes from the first reply on that was not taken."""

    def __init__(self, unread: bytes) -> None:
        super().__init__("not a plain array of texts")
        self.unread = unread


class Buffer:
    """Room for what was read and not yet taken; used again for the next read."""

    __slots__ = ("array", "room", "size", "view")

    def __init__(self, size: int) -> None:
        self.size = size
        self.room = bytearray(size)
        self.array = np.frombuffer(self.room, np.uint8)
        self.view = memoryview(self.room)


def at_once(sock: socket.socket, command: bytes, count: int, buffer: Buffer) -> Values | int:
    """Sends an MGET of `count` keys, and takes its reply if it is there within a moment, whole, and of values of one length.

    Else how many bytes of it came, which lie at the beginning of `buffer`. The socket is of the kind that does not block: one
    with a timeout. Raises what writing and reading raise, and EOFError.
    """
    fd = sock.fileno()
    try:
        sent = os.write(fd, command)
    except BlockingIOError:
        sent = 0
    if sent < len(command):
        sock.sendall(command[sent:])
    came, until, rooms = 0, 0.0, [buffer.view]
    while True:
        try:
            more = os.readv(fd, rooms)
        except BlockingIOError:
            now = time.perf_counter()
            if not until:
                until = now + SPIN_SECONDS
            elif now > until:
                return came
            continue
        if not more:
            raise EOFError
        came += more
        values = _uniform(buffer, count, came)
        if values is not None:
            return values
        if came == buffer.size:
            return came
        rooms = [buffer.view[came:]]


def _uniform(buffer: Buffer, count: int, end: int) -> Values | None:
    """The values of a reply that is whole, if all have one length."""
    room = buffer.room
    head = b"*%d\r\n$" % count
    line = room.find(b"\r\n", len(head), len(head) + _HEAD)
    digits = room[len(head) : line]
    if line < 0 or not room.startswith(head) or not digits.isdigit():
        return None
    length, at = int(digits), len(head) - 1
    own = line + 2 - at  # the bytes of a value's header
    stride = own + length + 2
    if end != at + count * stride:
        return None
    if count == 1:
        return Values(buffer.array[line + 2 : end - 2].copy(), 1, width=length)
    rows = buffer.array[at:end].reshape(count, stride)
    if rows[:, :own].tobytes() != bytes(room[at : line + 2]) * count:
        return None
    return Values(rows[:, own : own + length].copy().reshape(-1), count, width=length)


class Replies:
    """Reads replies of known numbers of values, one after another, into one array.

    `counts` says how many values each reply holds, `taken` how many replies came. `buffer` may be used again afterwards;
    it is another one if the first was too small.
    """

    __slots__ = (
        "_at", "_begin", "_counts", "_end", "_filled", "_left", "_out", "_runs", "_taking", "_whole", "buffer", "taken"
    )  # fmt: skip

    def __init__(self, counts: Sequence[int], buffer: Buffer, came: int = 0) -> None:
        """`came` bytes of the replies are in the buffer."""
        self.buffer = buffer
        self.taken = 0
        self._counts = counts
        self._begin, self._end = 0, came  # what was read and not taken
        self._taking: list[tuple[int, int, int, int]] = []  # of a reply: where its runs are, see `_take`
        self._at = self._left = (
            0  # where the next value begins, after those, and how many are to come; 0 before the first
        )
        self._out: Array | None = None
        self._filled = 0
        self._runs: list[tuple[int, int]] = []  # how many values, and of what length
        self._whole: Values | None = None

    def receive(self, read_into: Callable[[memoryview], int]) -> None:
        """Takes the next reply. Raises Unexpected; what `read_into` raises; EOFError at the end of the stream."""
        count = self._counts[self.taken]
        wanted = 0
        while True:
            end = self._end
            if end > self._begin and (
                end >= wanted or self.buffer.room[end - 2 : end] == b"\r\n"  # a reply that is whole ends so
            ):
                wanted = self._take(count)
                if not wanted:
                    self.taken += 1
                    return
            wanted += self._read(read_into, wanted)

    def values(self) -> Values:
        """All values that came. Call it once, after the last reply."""
        if self._whole is not None:
            return self._whole
        total = sum(self._counts)
        data = np.empty(0, np.uint8) if self._out is None else self._out[: self._filled]
        if len({length for _, length in self._runs}) == 1 and self._runs[0][1] >= 0:
            return Values(data, total, width=self._runs[0][1])
        sizes, lengths = np.array(self._runs, np.int64).T
        return Values(data, total, lengths=np.repeat(lengths, sizes))

    def _read(self, read_into: Callable[[memoryview], int], wanted: int) -> int:
        """Reads what is there; gives how far everything moved, which is towards the beginning or not at all."""
        buffer, begin, end = self.buffer, self._begin, self._end
        moved = 0
        if buffer.size - end < max(wanted - end, 1 << 14):
            unread = bytes(buffer.view[begin:end])
            size = len(unread) + max(wanted - end, 1 << 14)
            if size > buffer.size:
                buffer = self.buffer = Buffer(2 * size)
            buffer.view[: len(unread)] = unread
            moved, self._begin, self._end = -begin, 0, len(unread)
            self._at += moved
            self._taking = [(at + moved, *more) for at, *more in self._taking]  # type: ignore[misc]
        came = read_into(buffer.view[self._end :])
        if not came:
            raise EOFError
        self._end += came
        return moved

    def _take(self, count: int) -> int:
        """Takes a reply of `count` values if it is whole: 0. Else where it ends if what is missing is like the last value."""
        room, end = self.buffer.room, self._end
        if not self._left:
            head = b"*%d\r\n" % count
            if not room.startswith(head, self._begin):
                if head.startswith(room[self._begin : end]):
                    return self._begin + len(head) + count * len(NIL)
                raise self._unexpected()
            self._at, self._left = self._begin + len(head), count
        at, left, runs = self._at, self._left, self._taking
        while left:
            line = room.find(b"\r\n", at, min(at + _HEAD, end))
            if line < 0:
                if end - at >= _HEAD:
                    raise self._unexpected()
                self._at, self._left = at, left
                return at + left * len(NIL)
            header = bytes(room[at : line + 2])
            length = -1 if header == NIL else _number(header)
            if length is None:
                raise self._unexpected()
            stride = len(header) + length + 2 if length >= 0 else len(NIL)
            possible = min(left, (end - at) // stride)
            if not possible:
                self._at, self._left = at, left
                return at + left * stride
            alike = 1
            if possible > 1 and room.startswith(header, at + stride):
                alike = self._alike(at, header, stride, possible)
            runs.append((at, alike, length, len(header)))
            at += alike * stride
            left -= alike
        self._copy(runs, count)
        self._begin, self._left, self._taking = at, 0, []
        return 0

    def _alike(self, at: int, header: bytes, stride: int, possible: int) -> int:
        """How many values from here on have this header, of those that are `possible`."""
        rows = self.buffer.array[at : at + possible * stride].reshape(possible, stride)
        headers = rows[:, : len(header)]
        if headers.tobytes() == header * possible:
            return possible
        return int((headers == np.frombuffer(header, np.uint8)).all(axis=1).argmin())

    def _copy(self, runs: Sequence[tuple[int, int, int, int]], count: int) -> None:
        array = self.buffer.array
        if len(runs) == len(self._counts) == 1 and runs[0][2] >= 0:
            at, alike, length, head = runs[0]
            stride = head + length + 2
            if alike == 1:
                data = array[at + head : at + head + length].copy()
            else:
                rows = array[at : at + alike * stride].reshape(alike, stride)
                data = rows[:, head : head + length].copy().reshape(-1)
            self._whole = Values(data, count, width=length)
            return
        filled = self._filled
        out = self._room(sum(alike * length for _, alike, length, _ in runs if length > 0), count)
        target, source = memoryview(out), self.buffer.view  # type: ignore[arg-type]
        for at, alike, length, head in runs:
            if length > 0:
                end = filled + alike * length
                if alike == 1:
                    target[filled:end] = source[at + head : at + head + length]
                else:
                    stride = head + length + 2
                    rows = array[at : at + alike * stride].reshape(alike, stride)
                    out[filled:end].reshape(alike, length)[:] = rows[:, head : head + length]
                filled = end
            self._runs.append((alike, length))
        self._filled = filled

    def _room(self, size: int, count: int) -> Array:
        """Where the values of this reply go, and most likely those of the rest."""
        filled = self._filled
        if self._out is None or filled + size > len(self._out):
            rest = sum(self._counts[self.taken + 1 :])
            out = np.empty(filled + size + size * rest // count, np.uint8)
            if self._out is not None:
                out[:filled] = self._out[:filled]
            self._out = out
        return self._out

    def _unexpected(self) -> Unexpected:
        return Unexpected(bytes(self.buffer.view[self._begin : self._end]))


def _number(header: bytes) -> int | None:
    digits = header[1:-2]
    return int(digits) if header[0] == 0x24 and digits.isdigit() else None  # $


def socket_of(connection: Any) -> tuple[socket.socket, Any] | None:
    """The socket of a connection of the redis package and the reader behind its parser; None if it is not as we know it."""
    reader = getattr(getattr(connection, "_parser", None), "_reader", None)
    sock = getattr(connection, "_sock", None)
    if sock is None or reader is None or not (hasattr(reader, "feed") and hasattr(reader, "has_data")):
        return None
    return None if reader.has_data() else (sock, reader)
