"""What every online store does with bytes, and how a URL becomes a store.

A store maps keys to values and knows nothing of either, except that a value begins with 16 bytes of header: 4
of magic and layout, 4 of flags, and 8 of a little-endian write counter, which is what `OnlineStore.replace`
compares. Beside the data lie a few small named values, *metas*, in a key space of their own.

A new store is a file in this package and an entry in `STORES`; it passes
`tests/test_online_store_contract.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar
from urllib.parse import unquote

from featurestore.errors import ConfigError, nearest
from featurestore.online.values import Asked, Values

MAX_KEY: Final = 511
"""The longest key in bytes, in every store. A key has at least one byte."""

COUNTER_OFFSET: Final = 8
"""Where in a value the write counter begins: a little-endian unsigned integer of 8 bytes."""

HEADER_SIZE: Final = 16
"""The bytes that every value begins with, the counter last among them."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoreSize:
    """How much a store holds: keys of data, without metas, and the bytes they take (in Redis an estimate)."""

    keys: int
    bytes: int


class OnlineStore(Protocol):
    """Bytes by key, for many readers and writers at once.

    Keys are 1 to `MAX_KEY` bytes, any bytes; values are `bytes`, any bytes. A store may be used from several
    threads and, opened before a fork, on both sides of it. Whatever fails raises an `OnlineStoreError`:
    `StoreUnavailable` when there was no answer, `StoreFull` when nothing more fits, `StoreCorrupt` when what
    lies there is no store.
    """

    def read(self, keys: Sequence[bytes], timeout: float | None = None) -> list[bytes | None]:
        """The value of each key in the order of `keys`, None where there is none; a key may come twice.

        One round trip. `timeout` is in seconds from now; an embedded store never waits and ignores it.
        """
        ...

    def fetch(self, asked: Sequence[Asked], timeout: float | None = None) -> list[Values]:
        """`read` for whoever takes values as arrays: of each batch of keys its values, all in one round trip.

        The keys of a batch that stand `together` are read at one moment.
        """
        ...

    def write(self, items: Iterable[tuple[bytes, bytes]], metas: Mapping[str, bytes] | None = None) -> int:
        """Put every item, over what was there, and return how many came; of a repeated key the last stays.

        LMDB: all of it, metas included, or nothing. Redis: chunks, each whole or not at all, and the metas
        after the last one; a failure says how many items are in, and writing them again is harmless.
        """
        ...

    def replace(self, items: Sequence[tuple[bytes, bytes]], expected: Sequence[int | None]) -> list[bool]:
        """Put each item whose stored counter is the expected one; None expects that there is no such key.

        The comparison and the put are one step, so of two writers who expect the same counter one gets True
        and the other False. Items are taken in order. The counter in the new value is the caller's to raise.
        A failure says how many items were decided before it (none, in LMDB).
        """
        ...

    def delete(self, keys: Sequence[bytes]) -> int:
        """Remove keys; returns how many there were."""
        ...

    def delete_prefix(self, prefix: bytes) -> int:
        """Remove every data key that begins with `prefix`; returns how many there were."""
        ...

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Every item whose key begins with `prefix` and that is there from start to end of the scan.

        Not a snapshot: what is written meanwhile may be seen or not. LMDB goes in the order of keys. Redis
        has no order, and may repeat a key if keys are removed meanwhile.
        """
        ...

    def count(self, prefix: bytes) -> int:
        """How many data keys begin with `prefix`; exact while nobody writes. Walks them."""
        ...

    def get_meta(self, name: str) -> bytes | None:
        """A named value; None when it was never set."""
        ...

    def set_metas(self, metas: Mapping[str, bytes]) -> None:
        """Set named values, all of them in one step."""
        ...

    def size(self) -> StoreSize:
        """Keys and bytes. Redis walks its keys, and measures a sample of them."""
        ...

    def identity(self) -> str:
        """A text that changes when the store lost what it held, or may have; compare it with the last one."""
        ...

    def doctor(self) -> list[str]:
        """What is wrong, or soon will be, one sentence each with the way out; empty when all is well."""
        ...

    def close(self) -> None:
        """Let go of files and connections. Anything but closing again is an error from here on."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


# --- URLs -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A store's URL in parts. Its `str` and `repr` hide who logs in and with what."""

    scheme: str
    place: str = field(repr=False)
    """What stands between `://` and `?`, as written."""
    options: Mapping[str, str] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> StoreUrl:
        """Read `scheme://place?option=value&…`; ConfigError when it is not that."""
        scheme, separator, rest = text.partition("://")
        if not separator or not scheme:
            raise ConfigError(f"online store '{masked(text)}' is not a URL\n  write {EXAMPLES}")
        place, _, query = rest.partition("?")
        if "@" in query:  # the rest of a password with a question mark in it
            raise ConfigError(f"{masked(text)}: an @ stands after the ?\n  write ? as %3F and @ as %40")
        options = {}
        for pair in filter(None, query.split("&")):
            name, equals, value = pair.partition("=")
            if not equals:
                raise ConfigError(f"{masked(text)}: option '{name}' has no value\n  write ?{name}=…")
            options[unquote(name)] = unquote(value)
        return cls(scheme.lower(), place, options)

    def __str__(self) -> str:
        query = "&".join(
            f"{name}={value}" for name, value in self.options.items() if name not in SECRET_OPTIONS
        )
        return masked(f"{self.scheme}://{self.place}{'?' if query else ''}{query}")

    def __repr__(self) -> str:
        return f"StoreUrl({str(self)!r})"

    def only(self, *known: str) -> None:
        """ConfigError for an option that this store does not have."""
        for name in self.options:
            if name not in known:
                raise ConfigError("\n  ".join([f"{self}: no option '{name}'", *nearest(name, known)]))

    def option(self, name: str, read: Callable[[str], T], default: T) -> T:
        """An option through `read`, whose ValueError becomes a ConfigError; `default` where it is missing."""
        if name not in self.options:
            return default
        try:
            return read(self.options[name])
        except ValueError as error:
            raise ConfigError(f"{self}: option '{name}': {error}") from error


SECRET_OPTIONS: Final = frozenset({"password", "username"})


def masked(url: str) -> str:
    """A URL that may be shown: whatever stands before its last `@`, and any password option, is hidden.

    >>> masked("redis://user:s3c/ret@host:6379/0")
    'redis://***@host:6379/0'
    """
    hidden = re.sub(r"^([\w+.-]*:/*)?.*@", r"\1***@", url)
    return re.sub(r"((?:password|username)=)[^&]*", r"\1***", hidden)


def byte_size(text: str) -> int:
    """A number of bytes, as `67108864`, `64MiB` or `64MB`; ValueError otherwise.

    >>> byte_size("64MiB"), byte_size("2GB")
    (67108864, 2000000000)
    """
    match = re.fullmatch(r"(\d+)\s*(?:([kmgt])(i?)b)?", text.strip().lower())
    if match is None or not int(match[1]):
        raise ValueError(f"'{text}' is not a size; write it as 8GiB, 500MB or a number of bytes")
    power = "kmgt".index(match[2]) + 1 if match[2] else 0
    return int(match[1]) * int((1024 if match[3] else 1000) ** power)


def seconds(text: str) -> float:
    """A positive number of seconds; ValueError otherwise."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(f"'{text}' is not a positive number of seconds")
    return value


# --- the registry of stores -----------------------------------------------------------------------


def _open_lmdb(url: StoreUrl, base_dir: Path) -> OnlineStore:
    from featurestore.online.lmdb import open_lmdb

    return open_lmdb(url, base_dir)


def _open_redis(url: StoreUrl, base_dir: Path) -> OnlineStore:
    from featurestore.online.redis import open_redis

    return open_redis(url, base_dir)


def _open_cluster(url: StoreUrl, base_dir: Path) -> OnlineStore:
    from featurestore.online.redis_cluster import open_cluster

    return open_cluster(url, base_dir)


EXAMPLES: Final = (
    "lmdb://.fs/online, redis://host:6379/0, rediss://host:6379/0, unix:///run/redis.sock?db=0 "
    "or redis+cluster://host:7000,host:7001"
)

STORES: Final[dict[str, Callable[[StoreUrl, Path], OnlineStore]]] = {
    "lmdb": _open_lmdb,
    "redis": _open_redis,
    "rediss": _open_redis,
    "unix": _open_redis,
    "redis+cluster": _open_cluster,
}
"""URL scheme to what opens it, given the URL and the directory that relative paths start from."""


def open_store(url: str, base_dir: Path) -> OnlineStore:
    """The store at `url`; a relative `lmdb://` path starts at `base_dir`.

    LMDB is created where there is none. Redis is not contacted before the first call. ConfigError for a URL
    that names no store, with the schemes that do; no message ever holds a password.
    """
    parsed = StoreUrl.parse(url)
    if parsed.scheme not in STORES:
        help_lines = [*nearest(parsed.scheme, STORES), f"write {EXAMPLES}"]
        raise ConfigError("\n  ".join([f"no online store for '{parsed.scheme}://'", *help_lines]))
    return STORES[parsed.scheme](parsed, base_dir)
