"""The online store in a Redis Cluster: a batch of entities is spread over its servers, one round trip to each.

The keys on the wire bear a hash tag, one of `TAGS`, made of the bytes after a key's eighth: so base and head of an entity,
whose keys differ in the eighth alone, lie on one slot and are read at one moment, and the keys of a batch that share a tag
are one command. Where each slot lies is asked of the cluster, and asked again when a server says that it has moved.
"""

from __future__ import annotations

import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import numpy as np
from redis.crc import key_slot

from featurestore.errors import ConfigError, OnlineStoreError, StoreUnavailable
from featurestore.online.redis import (
    CHUNK,
    CLUSTERED,
    READ_TIMEOUT,
    REPLACE,
    Elsewhere,
    RedisStore,
    address_of,
    escaped,
    packed,
    prefix_of,
    so_far,
)
from featurestore.online.store import (
    COUNTER_OFFSET,
    HEADER_SIZE,
    MAX_KEY,
    StoreSize,
    StoreUrl,
    seconds,
)
from featurestore.online.values import Asked, Values

TAGS: Final = 1024
"""Hash tags that keys are spread over: the most servers that could share them, and the most commands of a batch."""

PAUSE_SECONDS: Final = 0.05
WRITTEN: Final = 4096
"""Items that are spread over the servers at a time."""

T = TypeVar("T")


def open_cluster(url: StoreUrl, base_dir: Path) -> ClusterStore:
    """The store that `redis+cluster://host:port,host:port` names: some of its servers. Nothing is sent before the first call."""
    del base_dir
    return ClusterStore(url)


class _Server(RedisStore):
    """One server of a cluster. Keys are all that they are on the wire."""

    def __init__(self, url: StoreUrl, host: str, port: int) -> None:
        super().__init__(*address_of(url, host, port), prefix=b"")
        self._data = b""

    def _head(self, length: int) -> bytes:
        return b"\r\n$%d\r\n" % length

    def slots(self) -> list[Any]:
        """What `CLUSTER SLOTS` says."""
        said: list[Any] = self._readers.ask_one(packed(b"CLUSTER", b"SLOTS"))
        return said

    def mget(self, groups: Sequence[Sequence[bytes]], timeout: float | None) -> Values:
        """The values of keys, each group of one slot."""
        commands = [packed(b"MGET", *keys) for keys in groups]
        return self._exchange(commands, [len(keys) for keys in groups], timeout)

    def ask(self, commands: Iterable[bytes], *, reading: bool = False) -> list[Any]:
        """The replies to commands, which change something unless `reading`."""
        return (self._readers if reading else self._writers).ask(commands)

    def pages(self, pattern: bytes) -> Iterator[list[bytes]]:
        """The keys that match, a page at a time."""
        return self._matching(pattern)

    def used(self, keys: Sequence[bytes]) -> list[int]:
        """The bytes that each key takes with its value, of those that are there."""
        measured = self._readers.ask(packed(b"MEMORY", b"USAGE", key) for key in keys)
        return [used for used in measured if used is not None]


class ClusterStore:
    """`OnlineStore` in a Redis Cluster."""

    def __init__(self, url: StoreUrl) -> None:
        url.only("prefix", "timeout", "connect_timeout", "username", "password")
        self.name = str(url).partition("?")[0]
        self._url, self._prefix = url, prefix_of(url)
        self._timeout = url.option("timeout", seconds, READ_TIMEOUT)
        self._leads = [b"%b:{%03x}" % (self._prefix, tag) for tag in range(TAGS)]
        self._meta_lead = self._prefix + b".{m}"
        self._slots = [key_slot(lead) for lead in self._leads]
        self._servers: dict[str, _Server] = {}
        self._first = [self._server(*_host_and_port(url, part)) for part in _parts_of(url)]
        self._owners: list[_Server] = []
        self._closed = False

    def __repr__(self) -> str:
        return f"ClusterStore({self.name!r}, prefix={self._prefix.decode()!r})"

    # --- reading

    def read(self, keys: Sequence[bytes], timeout: float | None = None) -> list[bytes | None]:
        if not keys:
            return []
        values = self._fetch(keys, timeout)
        raw, offsets, lengths = values.data.tobytes(), values.offsets.tolist(), values.lengths.tolist()
        return [raw[at : at + n] if n >= 0 else None for at, n in zip(offsets, lengths, strict=True)]

    def fetch(self, asked: Sequence[Asked], timeout: float | None = None) -> list[Values]:
        listed = [batch.listed() for batch in asked]
        keys = [key for batch in listed for key in batch]
        if not keys:
            return [Values.of([]) for _ in asked]
        values = self._fetch(keys, timeout)
        out, at = [], 0
        for batch in listed:
            out.append(values.part(at, at + len(batch)))
            at += len(batch)
        return out

    def _fetch(self, keys: Sequence[bytes], timeout: float | None) -> Values:
        names, tags = self._names(keys)
        return self._steadily(
            lambda left: self._spread(names, tags, left),
            lambda: Values.of([self._alone(name, packed(b"GET", name), reading=True) for name in names]),
            timeout,
        )

    def _spread(self, names: Sequence[bytes], tags: Sequence[int], timeout: float | None) -> Values:
        """One round trip to each server that has some of the keys, and the values in the order of `names`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        places: list[int] = []
        found: list[Values] = []
        for server, groups in self._by_server(tags).items():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise StoreUnavailable(f"{self.name}: no answer before the deadline")
            cut = [group[at : at + CHUNK] for group in groups for at in range(0, len(group), CHUNK)]
            found.append(server.mget([[names[i] for i in part] for part in cut], left))
            places += [i for part in cut for i in part]
        return _in_order(found, np.argsort(places))

    # --- writing

    def write(self, items: Iterable[tuple[bytes, bytes]], metas: Mapping[str, bytes] | None = None) -> int:
        done, rows = 0, iter(items)
        while chunk := list(islice(rows, WRITTEN)):
            names, tags = self._names([key for key, _ in chunk])
            values = [value for _, value in chunk]
            try:
                self._put(names, tags, values)
            except OnlineStoreError as error:
                so_far(
                    error, f"{done} items are written, of {len(chunk)} more some; all may be written again"
                )
            done += len(chunk)
        if metas:
            self.set_metas(metas)
        return done

    def _put(self, names: Sequence[bytes], tags: Sequence[int], values: Sequence[bytes]) -> None:
        def together(_: float | None) -> None:
            for server, groups in self._by_server(tags).items():
                server.ask(
                    packed(b"MSET", *(part for i in group for part in (names[i], values[i])))
                    for group in groups
                )

        def alone() -> None:
            for name, value in zip(names, values, strict=True):
                self._alone(name, packed(b"SET", name, value))

        self._steadily(together, alone)

    def replace(self, items: Sequence[tuple[bytes, bytes]], expected: Sequence[int | None]) -> list[bool]:
        if not items:
            return []
        names, tags = self._names([key for key, _ in items])
        values = [value for _, value in items]
        wants = [b"" if w is None else w.to_bytes(HEADER_SIZE - COUNTER_OFFSET, "little") for w in expected]
        done = [False] * len(items)
        try:
            for server, groups in self._by_server(tags).items():
                commands = [
                    packed(
                        *(b"EVAL", REPLACE, b"%d" % len(group), *(names[i] for i in group)),
                        *(part for i in group for part in (wants[i], values[i])),
                    )
                    for group in groups
                ]
                for group, answer in zip(groups, server.ask(commands), strict=True):
                    for i, one in zip(group, answer, strict=True):
                        done[i] = one == 0x31
        except (Elsewhere, StoreUnavailable) as error:
            self._owners = []
            raise StoreUnavailable(
                f"{error}\n  some of {len(items)} items are decided and some are not: read them again"
            ) from error
        return done

    def delete(self, keys: Sequence[bytes]) -> int:
        names, tags = self._names(keys)

        def unlink(_: float | None) -> int:
            gone = 0
            for server, groups in self._by_server(tags).items():
                gone += sum(server.ask(packed(b"UNLINK", *(names[i] for i in group)) for group in groups))
            return gone

        return self._steadily(unlink, lambda: sum(int(self._alone(n, packed(b"UNLINK", n))) for n in names))

    def delete_prefix(self, prefix: bytes) -> int:
        return sum(self.delete(keys) for keys in self._pages(prefix))

    # --- walking

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        for keys in self._pages(prefix):
            yield from ((k, v) for k, v in zip(keys, self.read(keys), strict=True) if v is not None)

    def count(self, prefix: bytes) -> int:
        return sum(map(len, self._pages(prefix)))

    def _pages(self, prefix: bytes) -> Iterator[list[bytes]]:
        skip = len(self._leads[0])
        pattern = b"%b:{???}%b*" % (self._prefix, escaped(prefix))
        for server in self._primaries():
            for page in server.pages(pattern):
                yield [name[skip:] for name in page]

    # --- the store as a whole

    def get_meta(self, name: str) -> bytes | None:
        key = self._meta_lead + name.encode()
        found: bytes | None = self._alone(key, packed(b"GET", key), reading=True)
        return found

    def set_metas(self, metas: Mapping[str, bytes]) -> None:
        if metas:
            parts = [
                part for name, value in metas.items() for part in (self._meta_lead + name.encode(), value)
            ]
            self._alone(self._meta_lead, packed(b"MSET", *parts))

    def size(self) -> StoreSize:
        keys = 0
        measured: list[int] = []
        for server in self._primaries():
            sample: list[bytes] = []
            for page in server.pages(self._prefix + b":{???}*"):
                keys += len(page)
                sample += page[: max(0, CHUNK - len(sample))]
            measured += server.used(sample)
        return StoreSize(keys, keys * sum(measured) // max(1, len(measured)))

    def identity(self) -> str:
        return "+".join(sorted(server.run_id() for server in self._primaries())) + self._generation()

    def _generation(self) -> str:
        """A mark that the store made itself, and that is gone with its data."""
        key = self._meta_lead + b"!"
        fresh = time.time_ns().to_bytes(8, "big").hex().encode()
        self._alone(key, packed(b"SET", key, fresh, b"NX"))
        found: bytes = self._alone(key, packed(b"GET", key))
        return f"-{found.decode()}"

    def doctor(self) -> list[str]:
        try:
            found = [problem for server in self._primaries() for problem in server.doctor()]
            return [problem for problem in found if CLUSTERED not in problem]
        except OnlineStoreError as error:
            return [str(error)]

    def close(self) -> None:
        self._closed = True
        for server in self._servers.values():
            server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- where things lie

    def _names(self, keys: Sequence[bytes]) -> tuple[list[bytes], list[int]]:
        """Keys as they are on the wire, and the tag of each."""
        for key in keys:
            if not 0 < len(key) <= MAX_KEY:
                raise OnlineStoreError(f"{self.name}: a key must have 1 to {MAX_KEY} bytes, not {len(key)}")
        tags = [zlib.crc32(key[8:]) % TAGS for key in keys]
        leads = self._leads
        return [leads[tag] + key for tag, key in zip(tags, keys, strict=True)], tags

    def _by_server(self, tags: Sequence[int]) -> dict[_Server, list[list[int]]]:
        """Which places have which tag, by the server that has the tag's slot."""
        owners = self._known()
        groups: dict[int, list[int]] = defaultdict(list)
        for place, tag in enumerate(tags):
            groups[tag].append(place)
        found: dict[_Server, list[list[int]]] = defaultdict(list)
        for tag, places in groups.items():
            found[owners[self._slots[tag]]].append(places)
        return found

    def _primaries(self) -> list[_Server]:
        return list(dict.fromkeys(self._known()))

    def _known(self) -> list[_Server]:
        """The server of each slot, asked of the first server that answers."""
        if self._closed:
            raise OnlineStoreError(f"{self.name}: the online store was closed\n  open it again")
        if self._owners:
            return self._owners
        failed: OnlineStoreError | None = None
        for server in dict.fromkeys([*self._first, *self._servers.values()]):
            try:
                self._owners = self._read_slots(server)
            except OnlineStoreError as error:
                failed = error
            else:
                return self._owners
        assert failed is not None
        raise failed

    def _read_slots(self, server: _Server) -> list[_Server]:
        own_host = server.name.removeprefix("redis://").rpartition(":")[0].strip("[]")
        owners: list[_Server | None] = [None] * 16384
        for first, last, (host, port, *_), *_replicas in server.slots():
            owner = self._server(host.decode() or own_host, int(port))
            owners[first : last + 1] = [owner] * (last + 1 - first)
        if None in owners:
            raise StoreUnavailable(
                f"{self.name}: {owners.count(None)} of its slots have no server\n  see CLUSTER INFO there"
            )
        return owners  # type: ignore[return-value]

    def _server(self, host: str, port: int) -> _Server:
        address = f"{host}:{port}"
        if address not in self._servers:
            self._servers[address] = _Server(self._url, host, port)
        return self._servers[address]

    def _steadily(
        self, do: Callable[[float | None], T], slowly: Callable[[], T], timeout: float | None = None
    ) -> T:
        """Does what may be done twice; once more where slots have moved since, and key by key while they are moving."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for _ in range(2):
            try:
                return do(None if deadline is None else max(deadline - time.monotonic(), 1e-3))
            except Elsewhere:
                self._owners = []
            except StoreUnavailable:
                if not self._owners:
                    raise
                self._owners = []  # a replica may have taken a server's place
        return slowly()

    def _alone(self, name: bytes, command: bytes, *, reading: bool = False) -> Any:
        """The reply to a command about one key, which may be given twice, wherever the slot is just now."""
        moved: OnlineStoreError | None = None
        server, asking = self._known()[key_slot(name)], False
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline:
            commands = [packed(b"ASKING"), command] if asking else [command]
            try:
                return server.ask(commands, reading=reading)[-1]
            except StoreUnavailable:  # a replica may have taken its place
                self._owners = []
                if self._known()[key_slot(name)] is server:
                    raise
                server, asking = self._known()[key_slot(name)], False
            except Elsewhere as error:
                moved = error
                if error.address is None:
                    time.sleep(PAUSE_SECONDS)
                    continue
                if not error.asking:
                    self._owners = []
                server, asking = self._server(*error.address), error.asking
        raise StoreUnavailable(f"{self.name}: a slot was moving for {self._timeout:g} s: {moved}") from moved


def _parts_of(url: StoreUrl) -> list[str]:
    return [part for part in url.place.rpartition("@")[2].split(",") if part]


def _host_and_port(url: StoreUrl, part: str) -> tuple[str, int]:
    host, _, port = part.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise ConfigError(
            f"{url}: not hosts and ports of a cluster's servers\n  write redis+cluster://user:password@host:7000,host:7001"
        )
    return host.strip("[]"), int(port)


def _in_order(found: Sequence[Values], order: Any) -> Values:
    """Values of several replies as one, in another order."""
    total = sum(len(values) for values in found)
    data = found[0].data if len(found) == 1 else np.concatenate([values.data for values in found])
    widths = {values.width for values in found}
    if len(widths) == 1 and None not in widths:
        width = widths.pop()
        return Values(data.reshape(total, -1)[order].reshape(-1), total, width=width)
    begins = np.cumsum([0, *(len(values.data) for values in found[:-1])])
    lengths = np.concatenate([values.lengths for values in found])
    offsets = np.concatenate([values.offsets + at for values, at in zip(found, begins, strict=True)])
    return Values(data, total, lengths=lengths[order], offsets=offsets[order])
