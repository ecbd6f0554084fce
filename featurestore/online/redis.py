"""The online store in Redis or Valkey: many machines, one round trip for a batch of entities.

Commands are packed here and replies come from the redis package's connections and parser, which leaves no
Python per key where keys have one length. Keys of one store share a short prefix: `fs:` data, `fs.` metas,
`fs!` its identity. A large batch goes as pipelined chunks, so that other clients get their turn between them.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from pathlib import Path
from socket import socket
from types import TracebackType
from typing import Any, Final, NoReturn, Self, TypeVar
from urllib.parse import unquote, urlsplit

import numpy as np
from redis import exceptions
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection

from featurestore.errors import ConfigError, OnlineStoreError, StoreFull, StoreUnavailable
from featurestore.online.resp import FIRST_BUFFER, Buffer, Replies, Unexpected, at_once, socket_of
from featurestore.online.store import (
    COUNTER_OFFSET,
    HEADER_SIZE,
    MAX_KEY,
    StoreSize,
    StoreUrl,
    seconds,
)
from featurestore.online.values import Array, Asked, Values
from featurestore.retries import RetryBudget

CHUNK: Final = 512
"""Keys in one MGET or MSET: one MGET of 10,000 keeps all other clients waiting for milliseconds."""

REPLACE_CHUNK: Final = 500
CHUNK_BYTES: Final = 4 << 20
"""A chunk of larger values has fewer of them."""

IN_FLIGHT: Final = 16
"""Commands sent before the first reply is awaited."""

SCAN_COUNT: Final = 1000
SAMPLE: Final = 200

READ_TIMEOUT: Final = 2.0
CONNECT_TIMEOUT: Final = 1.0
WRITE_TIMEOUT: Final = 15.0
"""Seconds a write waits for an answer: an append-only file that syncs can hold a server back for some."""

# `want` is empty for a key that must be absent. SET NX decides that; a value without a whole header never
# matches.
REPLACE: Final = f"""
local done = {{}}
for i = 1, #KEYS do
  local want, put = ARGV[2 * i - 1], false
  if want == '' then
    put = redis.call('SET', KEYS[i], ARGV[2 * i], 'NX')
  elseif redis.call('GETRANGE', KEYS[i], {COUNTER_OFFSET}, {HEADER_SIZE - 1}) == want then
    put = redis.call('SET', KEYS[i], ARGV[2 * i])
  end
  done[i] = put and '1' or '0'
end
return table.concat(done)
""".strip().encode()

MOST_BUFFER: Final = 16 << 20
"""A larger buffer for replies is not kept for the next read."""

T = TypeVar("T")

_Connection = Any
"""A connection of the redis package, which types little of it."""


def open_redis(url: StoreUrl, base_dir: Path) -> RedisStore:
    """The store that `url` names. Nothing is sent before the first call."""
    return RedisStore(*_address(url), prefix=prefix_of(url))


def prefix_of(url: StoreUrl) -> bytes:
    """What the keys of the store at this URL begin with."""
    return url.option("prefix", _prefix, b"fs")


class Elsewhere(OnlineStoreError):
    """A server of a cluster that does not have the slot of a key: `address` has it, now or (`asking`) for this once.

    Without an address it is being moved: ask again.
    """

    def __init__(self, message: str, address: tuple[str, int] | None = None, *, asking: bool = False) -> None:
        super().__init__(message)
        self.address, self.asking = address, asking


class RedisStore:
    """`OnlineStore` in one Redis database.

    `connect` makes a connection of the redis package that is not yet connected, given how many seconds it may
    wait; `name` is how errors call the server, and `prefix` keeps stores in one database apart.
    """

    def __init__(self, connect: Callable[[float | None], _Connection], name: str, *, prefix: bytes) -> None:
        self.name = name
        self._prefix = prefix
        self._data = prefix + b":"
        # The head of every data key on the wire, by its length: "$<bytes>" of prefix and key, and the prefix.
        self._heads = [b"\r\n$%d\r\n%b" % (len(self._data) + n, self._data) for n in range(MAX_KEY + 1)]
        self._buffers: deque[Buffer] = deque()
        retries = RetryBudget()
        self._readers = _Lane(lambda: connect(None), name, retries, again=True)
        self._writers = _Lane(lambda: connect(WRITE_TIMEOUT), name, retries, again=False)

    def __repr__(self) -> str:
        return f"RedisStore({self.name!r}, prefix={self._prefix.decode()!r})"

    def read(self, keys: Sequence[bytes], timeout: float | None = None) -> list[bytes | None]:
        if not keys:
            return []
        if len(keys) <= CHUNK:
            return self._readers.ask_one(_mget(len(keys), self._wire(keys)), timeout)  # type: ignore[no-any-return]
        commands = [
            _mget(len(keys[at : at + CHUNK]), self._wire(keys[at : at + CHUNK]))
            for at in range(0, len(keys), CHUNK)
        ]
        replies = self._readers.ask(commands, timeout)
        return [value for reply in replies for value in reply]

    def fetch(self, asked: Sequence[Asked], timeout: float | None = None) -> list[Values]:
        if len(asked) == 1 and asked[0].together == 1 and 0 < len(asked[0]) <= CHUNK:
            keys = asked[0].keys
            wire = self._wire_rows(keys, 1) if isinstance(keys, np.ndarray) else self._wire(keys)
            return [self._exchange([_mget(len(keys), wire)], [len(keys)], timeout)]
        parts = [part for batch in asked for part in self._parts(batch)]
        if not parts:
            return [Values.of([]) for _ in asked]
        values = self._exchange(*_commands(parts), timeout)
        out, at = [], 0
        for batch in asked:
            mine = values.part(at, at + len(batch))
            out.append(mine if batch.together == 1 else _side_by_side(mine, batch.together))
            at += len(batch)
        return out

    def _exchange(self, commands: Sequence[bytes], counts: Sequence[int], timeout: float | None) -> Values:
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = Buffer(FIRST_BUFFER)
        replies = self._readers.exchange(commands, counts, buffer, timeout)
        if isinstance(replies, Values):
            self._buffers.append(buffer)
            return replies
        values, buffer = replies.values(), replies.buffer
        if buffer.size <= MOST_BUFFER:
            self._buffers.append(buffer)
        return values

    def write(self, items: Iterable[tuple[bytes, bytes]], metas: Mapping[str, bytes] | None = None) -> int:
        sizes: list[int] = []
        replies: list[Any] = []
        try:
            self._writers.ask(self._msets(items, sizes), replies=replies)
        except OnlineStoreError as error:
            so_far(error, f"{sum(sizes[: len(replies)])} items are written; all may be written again")
        if metas:
            self.set_metas(metas)
        return sum(sizes)

    def replace(self, items: Sequence[tuple[bytes, bytes]], expected: Sequence[int | None]) -> list[bool]:
        sizes: list[int] = []
        replies: list[Any] = []
        try:
            self._writers.ask(self._replaces(items, expected, sizes), replies=replies)
        except OnlineStoreError as error:
            so_far(error, f"{sum(sizes[: len(replies)])} items are decided, others may be: read them again")
        return [answer == 0x31 for reply in replies for answer in reply]

    def delete(self, keys: Sequence[bytes]) -> int:
        chunks = (keys[at : at + CHUNK] for at in range(0, len(keys), CHUNK))
        commands = (packed(b"UNLINK", *(self._data + key for key in chunk)) for chunk in chunks)
        return sum(self._writers.ask(commands))

    def delete_prefix(self, prefix: bytes) -> int:
        return sum(self.delete(keys) for keys in self._pages(prefix))

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        for keys in self._pages(prefix):
            yield from (
                (key, value) for key, value in zip(keys, self.read(keys), strict=True) if value is not None
            )

    def count(self, prefix: bytes) -> int:
        return sum(map(len, self._pages(prefix)))

    def get_meta(self, name: str) -> bytes | None:
        return self._readers.ask_one(packed(b"GET", self._meta_key(name)))  # type: ignore[no-any-return]

    def set_metas(self, metas: Mapping[str, bytes]) -> None:
        if metas:
            parts = [part for name, value in metas.items() for part in (self._meta_key(name), value)]
            self._writers.ask_one(packed(b"MSET", *parts))

    def size(self) -> StoreSize:
        keys = 0
        sample: list[bytes] = []
        for page in self._pages(b""):
            keys += len(page)
            sample += page[: max(0, SAMPLE - len(sample))]
        commands = [packed(b"MEMORY", b"USAGE", self._data + key) for key in sample]
        measured = [used for used in self._readers.ask(commands) if used is not None]
        return StoreSize(keys, keys * sum(measured) // max(1, len(measured)))

    def identity(self) -> str:
        key, fresh = self._prefix + b"!", secrets.token_hex(8).encode()
        commands = [packed(b"SET", key, fresh, b"NX"), packed(b"GET", key), packed(b"INFO", b"server")]
        _, generation, server = self._writers.ask(commands)
        return f"{_info(server)['run_id']}-{generation.decode()}"

    def run_id(self) -> str:
        """A name that the server took when it started."""
        return _info(self._readers.ask_one(packed(b"INFO", b"server")))["run_id"]

    def doctor(self) -> list[str]:
        try:
            facts = _info(self._readers.ask_one(packed(b"INFO")))
        except OnlineStoreError as error:
            return [str(error)]
        return [f"{self.name}: {problem}" for problem in _problems(facts)]

    def close(self) -> None:
        self._readers.close()
        self._writers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- commands

    def _parts(self, asked: Asked) -> Iterator[tuple[int, bytes]]:
        """The keys on the wire in parts of at most `CHUNK`, and how many each has.

        Of a part the first keys of all entities come first, then the second ones: alike replies are then side by side.
        """
        keys, together = asked.keys, asked.together
        most = CHUNK // together * together
        for at in range(0, len(keys), most):
            part = keys[at : at + most]
            if isinstance(part, np.ndarray):
                yield len(part), self._wire_rows(part, together)
            else:
                turned = part if together == 1 else [k for i in range(together) for k in part[i::together]]
                yield len(part), self._wire(turned)

    def _wire_rows(self, keys: Array, together: int) -> bytes:
        head = self._head(keys.shape[1])
        if len(keys) == 1:
            return head + keys.tobytes()
        begin = len(head)
        wire = np.empty((len(keys), begin + keys.shape[1]), np.uint8)
        wire[:, :begin] = np.frombuffer(head, np.uint8)
        if together == 1:
            wire[:, begin:] = keys
        else:
            for i in range(together):
                wire[i * len(keys) // together : (i + 1) * len(keys) // together, begin:] = keys[i::together]
        return wire.tobytes()

    def _wire(self, keys: Sequence[bytes]) -> bytes:
        if len(keys) == 1:
            return self._head(len(keys[0])) + keys[0]
        lengths = set(map(len, keys))
        if len(lengths) == 1:
            head = self._head(lengths.pop())
            return head + head.join(keys)
        return b"".join([self._head(len(key)) + key for key in keys])

    def _msets(self, items: Iterable[tuple[bytes, bytes]], sizes: list[int]) -> Iterator[bytes]:
        """MSET commands over all items; `sizes` gets how many items each has, before it is given out."""
        rows = iter(items)
        while chunk := list(islice(rows, CHUNK)):
            values = list(map(itemgetter(1), chunk))
            most = max(1, CHUNK_BYTES // max(1, *map(len, values)))
            for at in range(0, len(chunk), most):
                part = chunk[at : at + most]
                sizes.append(len(part))
                yield self._mset(part)

    def _mset(self, rows: Sequence[tuple[bytes, bytes]]) -> bytes:
        start = b"*%d\r\n$4\r\nMSET" % (2 * len(rows) + 1)
        lengths = {(len(key), len(value)) for key, value in rows}
        if len(lengths) == 1:
            key_length, value_length = lengths.pop()
            head = self._head(key_length)
            between = b"\r\n$%d\r\n" % value_length
            return b"%b%b%b\r\n" % (start, head, head.join(map(between.join, rows)))
        parts = [b"%b%b\r\n$%d\r\n%b" % (self._head(len(key)), key, len(value), value) for key, value in rows]
        return b"%b%b\r\n" % (start, b"".join(parts))

    def _head(self, length: int) -> bytes:
        if not 0 < length <= MAX_KEY:
            raise OnlineStoreError(f"{self.name}: a key must have 1 to {MAX_KEY} bytes, not {length}")
        return self._heads[length]

    def _replaces(
        self, items: Sequence[tuple[bytes, bytes]], expected: Sequence[int | None], sizes: list[int]
    ) -> Iterator[bytes]:
        """Commands that replace all items; `sizes` gets how many each has, before it is given out.

        The script is sent with each: a server that lost it, in a row of commands, would answer none of them.
        """
        wants = [b"" if want is None else _counter_bytes(want) for want in expected]
        rows = list(zip(items, wants, strict=True))
        for chunk in _chunked(rows):
            sizes.append(len(chunk))
            keys = self._wire([key for (key, _), _ in chunk])
            arguments = b"".join(
                [b"\r\n$%d\r\n%b\r\n$%d\r\n%b" % (len(want), want, len(v), v) for (_, v), want in chunk]
            )
            start = b"*%d\r\n$4\r\nEVAL\r\n$%d\r\n%b\r\n" % (3 + 3 * len(chunk), len(REPLACE), REPLACE)
            count = b"%d" % len(chunk)
            yield b"%b$%d\r\n%b%b%b\r\n" % (start, len(count), count, keys, arguments)

    def _pages(self, prefix: bytes) -> Iterator[list[bytes]]:
        """The data keys that begin with `prefix`, a page at a time, without the store's own prefix."""
        skip = len(self._data)
        for found in self._matching(escaped(self._data + prefix) + b"*"):
            yield [key[skip:] for key in found]

    def _matching(self, pattern: bytes) -> Iterator[list[bytes]]:
        """The keys that match, whole, a page at a time."""
        cursor = b"0"
        while True:
            command = packed(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", str(SCAN_COUNT).encode())
            cursor, found = self._readers.ask_one(command)
            if found:
                yield found
            if cursor == b"0":
                return

    def _meta_key(self, name: str) -> bytes:
        return self._prefix + b"." + name.encode()


# --- connections ----------------------------------------------------------------------------------


class _Lane:
    """Connections of one kind, each lent to one thread at a time; the last one given back is lent first.

    With `again`, what a dropped connection left unanswered is asked once more over a new one: for reads
    alone. Without it a connection is looked at before it is used, so that one that died while idle fails no
    write. What cannot be asked since a connection is turned away or cut is tried once more, within `retries`: a read, and
    whatever was not yet asked at all.
    """

    def __init__(
        self, connect: Callable[[], _Connection], name: str, retries: RetryBudget, *, again: bool
    ) -> None:
        self._connect = connect
        self._name = name
        self._retries = retries
        self._again = again
        self._idle: deque[_Connection] = deque()
        self._process = os.getpid()
        self._closed = False

    def ask_one(self, command: bytes, timeout: float | None = None) -> Any:
        """The reply to one command, within `timeout` seconds."""

        def exchange(connection: _Connection, deadline: float | None) -> Any:
            connection.send_packed_command((command,))
            if deadline is None:
                return connection.read_response()
            return connection.read_response(timeout=self._left(deadline))

        return self._talk(exchange, timeout)

    def ask(
        self, commands: Iterable[bytes], timeout: float | None = None, replies: list[Any] | None = None
    ) -> list[Any]:
        """The replies to all commands, in order.

        They are put into `replies` as they come, which tells after an error how far this went. Sends ahead of
        the replies; takes a command from `commands` only when it is about to send it.
        """
        came: list[Any] = [] if replies is None else replies

        return self._talk(lambda c, deadline: self._converse(c, commands, deadline, came), timeout)

    def _converse(
        self,
        connection: _Connection,
        commands: Iterable[bytes],
        deadline: float | None,
        came: list[Any],
    ) -> list[Any]:
        came.clear()

        def receive() -> None:
            left = {} if deadline is None else {"timeout": self._left(deadline)}
            came.append(connection.read_response(**left))

        waiting = 0
        for command in commands:
            if waiting == IN_FLIGHT:
                receive()
                waiting -= 1
            connection.send_packed_command((command,))
            waiting += 1
        for _ in range(waiting):
            receive()
        return came

    def exchange(
        self, commands: Sequence[bytes], counts: Sequence[int], buffer: Buffer, timeout: float | None
    ) -> Replies | Values:
        """The replies to MGETs of `counts` keys: read from the socket, or by the redis package's parser if unexpected."""
        if len(commands) == 1:
            quick = self._quick(commands[0], counts, buffer, timeout)
            if quick is not None:
                return quick

        def exchange(connection: _Connection, deadline: float | None) -> Replies | Values:
            found = socket_of(connection)
            if found is not None:
                sock, parser = found
                replies = Replies(counts, buffer)
                try:
                    self._read_all(sock, commands, replies, deadline)
                    return replies
                except Unexpected as other:  # most likely an error: read as one, it is raised here
                    parser.feed(other.unread)
                    for _ in range(min(replies.taken + IN_FLIGHT, len(commands)) - replies.taken):
                        connection.read_response()
                except EOFError:
                    raise exceptions.ConnectionError("Connection closed by server.") from None
                except TimeoutError:
                    raise exceptions.TimeoutError("Timeout reading from socket") from None
                except OSError as error:
                    raise exceptions.ConnectionError(str(error)) from error
                finally:
                    if deadline is not None and connection.is_connected:
                        sock.settimeout(connection.socket_timeout)
            came = self._converse(connection, commands, deadline, [])
            return Values.of([value for reply in came for value in reply])

        return self._talk(exchange, timeout)

    def _quick(
        self, command: bytes, counts: Sequence[int], buffer: Buffer, timeout: float | None
    ) -> Replies | Values | None:
        """`exchange` of one command over a connection that was used before; None where the general way has to ask (again)."""
        if self._process != os.getpid() or self._closed:
            return None
        try:
            connection = self._idle.pop()
        except IndexError:
            return None
        deadline = None if timeout is None else time.monotonic() + timeout
        found = socket_of(connection)
        whole: Replies | Values | None = None
        try:
            if found is not None and _waits(found[0]):
                came = at_once(found[0], command, counts[0], buffer)
                if isinstance(came, Values):
                    whole = came
                else:
                    whole = Replies(counts, buffer, came)
                    whole.receive(self._reading(found[0], deadline))
                    if deadline is not None:
                        found[0].settimeout(connection.socket_timeout)
        except TimeoutError:
            connection.disconnect()
            raise _typed(exceptions.TimeoutError("Timeout reading from socket"), self._name) from None
        except (Unexpected, EOFError, OSError):
            connection.disconnect()
            return None
        except BaseException:
            connection.disconnect()
            raise
        self._idle.append(connection)
        return whole

    def _read_all(
        self, sock: socket, commands: Sequence[bytes], replies: Replies, deadline: float | None
    ) -> None:
        read_into = self._reading(sock, deadline)
        if deadline is not None:
            sock.settimeout(self._left(deadline))
        sock.sendall(commands[0] if len(commands) == 1 else b"".join(commands[:IN_FLIGHT]))
        for number in range(len(commands)):
            replies.receive(read_into)
            if number + IN_FLIGHT < len(commands):
                sock.sendall(commands[number + IN_FLIGHT])

    def _reading(self, sock: socket, deadline: float | None) -> Callable[[memoryview], int]:
        if deadline is None:
            return sock.recv_into

        def read_into(room: memoryview) -> int:
            sock.settimeout(self._left(deadline))
            return sock.recv_into(room)

        return read_into

    def _talk(self, exchange: Callable[[_Connection, float | None], T], timeout: float | None) -> T:
        deadline = None if timeout is None else time.monotonic() + timeout
        again, patient = self._again, True
        while True:
            try:
                connection, used = self._borrow(deadline)
            except StoreUnavailable as error:
                if not (patient and _cut(error.__cause__) and self._wait(deadline)):
                    raise
                patient = False
                continue
            try:
                reply = exchange(connection, deadline)
            except exceptions.ConnectionError as error:
                connection.disconnect()
                if used and again:
                    self._forget()  # whatever cut this connection has most likely cut the others
                    again = False
                elif self._again and patient and _cut(error) and self._wait(deadline):
                    patient = False
                else:
                    raise _typed(error, self._name) from error
            except exceptions.RedisError as error:
                connection.disconnect()
                raise _typed(error, self._name) from error
            except BaseException:  # unread replies would answer the next question
                connection.disconnect()
                raise
            else:
                self._give_back(connection)
                return reply

    def _wait(self, deadline: float | None) -> bool:
        """Waits a moment, before what failed is done again; false where that is not to be."""
        pause = self._retries.take(None if deadline is None else deadline - time.monotonic())
        if pause is None:
            return False
        time.sleep(pause)
        return True

    def _borrow(self, deadline: float | None) -> tuple[_Connection, bool]:
        """A connection, and whether it was used before."""
        if self._process != os.getpid():  # the idle ones are the parent's
            self._idle, self._process = deque(), os.getpid()
        if self._closed:
            raise OnlineStoreError(f"{self._name}: the online store was closed\n  open it again")
        try:
            connection = self._idle.pop()
        except IndexError:
            return self._new(deadline), False
        if self._again or _alive(connection):
            return connection, True
        connection.disconnect()
        return self._new(deadline), False

    def _new(self, deadline: float | None) -> _Connection:
        connection = self._connect()
        usual = connection.socket_timeout, connection.socket_connect_timeout
        try:
            if deadline is not None:
                left = self._left(deadline)
                connection.socket_timeout, connection.socket_connect_timeout = (
                    min(left, most) for most in usual
                )
            connection.connect()
        except exceptions.RedisError as error:
            raise _typed(error, self._name) from error
        connection.socket_timeout, connection.socket_connect_timeout = usual
        connection.update_current_socket_timeout(-1)  # that is, back to `socket_timeout`
        return connection

    def _give_back(self, connection: _Connection) -> None:
        if self._closed:
            connection.disconnect()
        else:
            self._idle.append(connection)

    def _forget(self) -> None:
        while self._idle:
            try:
                self._idle.pop().disconnect()
            except IndexError:
                return

    def _left(self, deadline: float) -> float:
        left = deadline - time.monotonic()
        if left <= 0:
            raise StoreUnavailable(f"{self._name}: no answer before the deadline")
        return left

    def close(self) -> None:
        self._closed = True
        self._forget()


def _waits(sock: socket) -> bool:
    """Whether a socket is one of the system itself, and one that reading never blocks but for its timeout."""
    return type(sock) is socket and sock.gettimeout() is not None


def _mget(count: int, wire: bytes) -> bytes:
    return b"*%d\r\n$4\r\nMGET%b\r\n" % (count + 1, wire)


def _counter_bytes(counter: int) -> bytes:
    return counter.to_bytes(HEADER_SIZE - COUNTER_OFFSET, "little")


_Wanted = tuple[tuple[bytes, bytes], bytes]
"""Key, value, and the counter that has to be there as bytes, none for a key that must be absent."""


def _chunked(rows: Sequence[_Wanted]) -> Iterator[Sequence[_Wanted]]:
    """Rows in chunks of at most `REPLACE_CHUNK`, or of fewer where values are large."""
    for at in range(0, len(rows), REPLACE_CHUNK):
        chunk = rows[at : at + REPLACE_CHUNK]
        most = max(1, CHUNK_BYTES // max(1, *(len(value) for (_, value), _ in chunk)))
        for begin in range(0, len(chunk), most):
            yield chunk[begin : begin + most]


def _commands(parts: Sequence[tuple[int, bytes]]) -> tuple[list[bytes], list[int]]:
    """MGETs over parts of keys on the wire, in their order and none with more than `CHUNK`; and how many keys each has."""
    commands, counts = [], []
    at = 0
    while at < len(parts):
        end, count = at + 1, parts[at][0]
        while end < len(parts) and count + parts[end][0] <= CHUNK:
            count += parts[end][0]
            end += 1
        keys = b"".join(wire for _, wire in parts[at:end])
        commands.append(_mget(count, keys))
        counts.append(count)
        at = end
    return commands, counts


def _side_by_side(values: Values, together: int) -> Values:
    """Values in the order that they were asked for, from the order of `_parts`."""
    count, most = len(values), CHUNK // together * together
    whole = count // most * most
    order = np.empty(count, np.int64)
    numbers = np.arange(count)
    for part, size in ((slice(0, whole), most), (slice(whole, count), count - whole)):
        if size:
            turned = numbers[part].reshape(-1, together, size // together).transpose(0, 2, 1)
            order[part] = turned.reshape(-1)
    return Values(values.data, count, lengths=values.lengths[order], offsets=values.offsets[order])


def _alive(connection: _Connection) -> bool:
    """Whether an idle connection is open and has nothing to say, which it should not."""
    try:
        return not connection.can_read()
    except exceptions.RedisError:
        return False


# --- addresses ------------------------------------------------------------------------------------

_COMMON: Final = ("prefix", "timeout", "connect_timeout", "username", "password")
_TLS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


@dataclass(frozen=True, slots=True)
class _Server:
    """Where a server is and who we are there; `name` is all of it that may be shown."""

    kind: Callable[..., _Connection]
    where: Mapping[str, Any]
    name: str
    database: int
    user: str | None
    password: str | None = field(repr=False)


def address_of(url: StoreUrl, host: str, port: int) -> tuple[Callable[[float | None], _Connection], str]:
    """As `_address`, for one server of the cluster that a URL names."""
    user = url.place.rpartition("@")[0]
    place = f"{user}{'@' if user else ''}{f'[{host}]' if ':' in host else host}:{port}"
    return _address(StoreUrl("redis", place, url.options))


def _address(url: StoreUrl) -> tuple[Callable[[float | None], _Connection], str]:
    """What makes a connection to the server of a URL, and what to call that server."""
    server = _unix(url) if url.scheme == "unix" else _tcp(url)
    settings = {
        **server.where,
        **{option: url.options[option] for option in _TLS if option in url.options},
        "db": server.database,
        "username": server.user or None,
        "password": server.password or None,
        "socket_connect_timeout": url.option("connect_timeout", seconds, CONNECT_TIMEOUT),
        "socket_read_size": 65536,
        "protocol": 2,  # version 3 gains nothing here and costs two more round trips to connect
        "driver_info": None,
    }
    usual = url.option("timeout", seconds, READ_TIMEOUT)
    return (lambda wait: server.kind(**settings, socket_timeout=max(usual, wait or 0.0))), server.name


def _unix(url: StoreUrl) -> _Server:
    url.only(*_COMMON, "db")
    path = unquote(url.place)
    if not path.startswith("/"):
        raise ConfigError(f"{url}: names no socket from the root\n  write unix:///run/redis.sock?db=0")
    database = url.option("db", _database, 0)
    name = f"unix://{path}?db={database}"
    user, password = url.options.get("username"), url.options.get("password")
    connection: Callable[..., _Connection] = UnixDomainSocketConnection
    return _Server(connection, {"path": path}, name, database, user, password)


def _tcp(url: StoreUrl) -> _Server:
    url.only(*_COMMON, *(_TLS if url.scheme == "rediss" else ()))
    try:
        parts = urlsplit(f"//{url.place}")
        host, port = parts.hostname or "localhost", parts.port or 6379
        database = _database("#" if parts.fragment else parts.path.strip("/") or "0")
    except ValueError:
        # What is wrong may be a password with a slash in it, and the cause would quote it.
        raise ConfigError(
            f"{url}: not a host, a port and a database\n"
            f"  write {url.scheme}://user:password@host:6379/0\n"
            "  in the password, write / @ : # ? as %2F %40 %3A %23 %3F"
        ) from None
    name = f"{url.scheme}://{f'[{host}]' if ':' in host else host}:{port}/{database}"
    user = unquote(parts.username) if parts.username else url.options.get("username")
    password = unquote(parts.password) if parts.password else url.options.get("password")
    kind = SSLConnection if url.scheme == "rediss" else Connection
    return _Server(kind, {"host": host, "port": port}, name, database, user, password)


def _database(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"'{text}' is not the number of a database")
    return int(text)


def _prefix(text: str) -> bytes:
    if not (0 < len(text) <= 16 and text.isascii() and text.isalnum()):
        raise ValueError(
            f"'{text}' is not 1 to 16 letters and digits; two to four are best, every key carries them"
        )
    return text.encode()


# --- replies and errors ---------------------------------------------------------------------------


CLUSTERED: Final = "this server is one of a cluster"
CLUSTER: Final = f"{CLUSTERED}: write redis+cluster://host:port"


def _cut(error: BaseException | None) -> bool:
    """Whether a connection was turned away or broke: what another one may mend at once."""
    return isinstance(error, exceptions.ConnectionError) and not isinstance(
        error, exceptions.BusyLoadingError
    )


def _typed(error: exceptions.RedisError, name: str) -> OnlineStoreError:
    """The redis package's error as one of ours. Server texts hold no password, and neither does `name`."""
    text = str(error)
    match error:
        case (
            exceptions.AuthenticationError()
            | exceptions.AuthorizationError()
            | exceptions.NoPermissionError()
        ):
            return OnlineStoreError(f"{name}: the server refused this user: {text}\n  see ACL LIST there")
        case exceptions.TimeoutError():
            return StoreUnavailable(
                f"{name}: no answer in time: {text}\n  is it overloaded, or ?timeout= too short?"
            )
        case exceptions.BusyLoadingError():
            return StoreUnavailable(f"{name}: it is still loading its data\n  try again shortly")
        case exceptions.ConnectionError():
            return StoreUnavailable(f"{name}: {text}\n  is it running there? try: redis-cli -u {name} ping")
        case exceptions.AskError():  # MovedError is one
            asking = not isinstance(error, exceptions.MovedError)
            place = (error.host or name.removeprefix("redis://").rpartition(":")[0], error.port)
            return Elsewhere(f"{name}: {text}\n  {CLUSTER}", place, asking=asking)
        case exceptions.TryAgainError() | exceptions.ClusterDownError():
            return Elsewhere(f"{name}: {text}\n  {CLUSTER}")
        case exceptions.ClusterCrossSlotError() | exceptions.ClusterError():
            return OnlineStoreError(f"{name}: {text}\n  {CLUSTER}")
        case exceptions.ReadOnlyError():
            return OnlineStoreError(f"{name}: this server is a read-only replica\n  name the primary")
        case _:
            return _typed_by_text(error, text, name)


def _typed_by_text(error: exceptions.RedisError, text: str, name: str) -> OnlineStoreError:
    if isinstance(error, exceptions.OutOfMemoryError) or "OOM " in text:
        return StoreFull(
            f"{name}: maxmemory is reached; what was there is untouched\n  raise it, or remove views"
        )
    if "NOAUTH" in text or "WRONGPASS" in text:
        return OnlineStoreError(
            f"{name}: the server wants a password\n  write redis://user:password@host:port/db"
        )
    if "MISCONF" in text:
        return StoreFull(
            f"{name}: the server cannot save to its disk and refuses writes\n  make room there: {text}"
        )
    return OnlineStoreError(f"{name}: {text}")


def so_far(error: OnlineStoreError, what: str) -> NoReturn:
    """Raises the error again, with how far things went."""
    raise type(error)(f"{error}\n  {what}") from error


def packed(*parts: bytes) -> bytes:
    """A command on the wire."""
    return b"".join([b"*%d\r\n" % len(parts), *(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)])


def escaped(prefix: bytes) -> bytes:
    r"""A pattern that matches these very bytes.

    >>> escaped(b"a*[\\")
    b'a\\*\\[\\\\'
    """
    return re.sub(rb"([*?\[\]\\^-])", rb"\\\1", prefix)


def _info(reply: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in reply.decode("utf-8", "replace").splitlines())
    return {name: value for name, _, value in lines}


def _problems(facts: Mapping[str, str]) -> Iterator[str]:
    policy, limit = facts.get("maxmemory_policy", "noeviction"), int(facts.get("maxmemory", 0))
    if policy != "noeviction":
        yield f"maxmemory-policy is {policy}, which drops features silently; it should be noeviction"
    if limit and int(facts["used_memory"]) > 0.9 * limit:
        yield f"{int(facts['used_memory']) / limit:.0%} of maxmemory is in use; soon writes will be refused"
    if facts.get("role") == "slave":
        yield "this server is a read-only replica; name the primary"
    if facts.get("cluster_enabled") == "1":
        yield CLUSTER
    for name in ("rdb_last_bgsave_status", "aof_last_write_status"):
        if facts.get(name, "ok") != "ok":
            yield f"{name} is {facts[name]}: the server cannot save to its disk and may refuse writes"
