"""The embedded online store: one LMDB file, any number of reading processes, one writer at a time.

A commit is synced to disk before it returns, and a process killed at any moment leaves the last commit whole.
One `_Environment` per directory and process hides what LMDB asks of its callers: never open a file twice in a
process, never remap under a running transaction, never carry an environment through a fork.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, takewhile
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar
from urllib.parse import unquote

import lmdb
import lmdb.verify

from featurestore.errors import (
    ConfigError,
    OnlineStoreError,
    StoreCorrupt,
    StoreFull,
    StoreUnavailable,
)
from featurestore.online.store import COUNTER_OFFSET, HEADER_SIZE, MAX_KEY, StoreSize, StoreUrl, byte_size
from featurestore.online.values import Asked, Values

FIRST_MAP: Final = 1 << 30
"""Bytes of address space mapped at first. The file itself is only as long as what it holds."""

LIMIT: Final = 1 << 36
"""Bytes the map may grow to unless the URL says otherwise: 64 GiB."""

READERS: Final = 512
"""Read transactions at one moment, over all processes."""

LOOK_SECONDS: Final = 1.0
"""How long a reader may go on with a directory that was deleted under it."""

SCAN_PAGE: Final = 1000
VERIFY_BYTES: Final = 64 << 20
"""Up to this size the doctor checks every page."""

T = TypeVar("T")


def open_lmdb(url: StoreUrl, base_dir: Path) -> LmdbStore:
    """The store in the directory `url` names, created if it is not there."""
    url.only("map_size")
    limit = url.option("map_size", byte_size, LIMIT)
    if not url.place:
        raise ConfigError(
            "lmdb:// names no directory\n  write lmdb://.fs/online, or lmdb:///var/lib/fs from the root"
        )
    return LmdbStore(base_dir / unquote(url.place), limit)


class LmdbStore:
    """`OnlineStore` in an LMDB directory. `limit` is the size in bytes that it may not outgrow."""

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        self._environment = _Environment.share(path, limit)
        self._closed = False

    def __repr__(self) -> str:
        return f"LmdbStore({str(self._environment.path)!r})"

    def read(self, keys: Sequence[bytes], timeout: float | None = None) -> list[bytes | None]:
        return self._view(lambda txn, _: list(map(txn.get, keys)))

    def fetch(self, asked: Sequence[Asked], timeout: float | None = None) -> list[Values]:
        lists = [batch.listed() for batch in asked]
        return self._view(lambda txn, _: [Values.of(list(map(txn.get, keys))) for keys in lists])

    def moment(self) -> object:
        """Stays the same as long as nothing is written, by any process."""
        return self._view(lambda txn, opened: (opened.env, txn.id()))

    def write(self, items: Iterable[tuple[bytes, bytes]], metas: Mapping[str, bytes] | None = None) -> int:
        # LMDB is faster in the order of keys. The sort is stable: of a key that comes twice the last stays.
        rows = sorted(items, key=itemgetter(0))
        named = _named(metas or {})

        def put(txn: lmdb.Transaction[bytes], opened: _Opened) -> int:
            with txn.cursor(opened.data) as cursor:
                cursor.putmulti(rows)
            for name, value in named:
                txn.put(name, value, db=opened.meta)
            return len(rows)

        return self._change(put) if rows or named else 0

    def replace(self, items: Sequence[tuple[bytes, bytes]], expected: Sequence[int | None]) -> list[bool]:
        def put(txn: lmdb.Transaction[bytes], _: _Opened) -> list[bool]:
            return [
                (_counter(txn.get(key)) == want) and txn.put(key, value)
                for (key, value), want in zip(items, expected, strict=True)
            ]

        return self._change(put) if items else []

    def delete(self, keys: Sequence[bytes]) -> int:
        return self._change(lambda txn, _: sum(map(txn.delete, keys))) if keys else 0

    def delete_prefix(self, prefix: bytes) -> int:
        def remove(txn: lmdb.Transaction[bytes], opened: _Opened) -> int:
            removed = 0
            with txn.cursor(opened.data) as cursor:
                found = cursor.set_range(prefix)
                while found and cursor.key().startswith(prefix):
                    found = cursor.delete() and bool(cursor.key())
                    removed += 1
            return removed

        return self._change(remove)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        # In pages: a transaction held while the caller works would keep the map from growing.
        start = prefix
        while page := self._page(prefix, start):
            yield from page
            start = page[-1][0] + b"\0"

    def count(self, prefix: bytes) -> int:
        def walk(txn: lmdb.Transaction[bytes], opened: _Opened) -> int:
            if not prefix:
                return int(txn.stat(opened.data)["entries"])
            with txn.cursor(opened.data) as cursor:
                if not cursor.set_range(prefix):
                    return 0
                keys = cursor.iternext(keys=True, values=False)
                return sum(1 for _ in takewhile(lambda key: key.startswith(prefix), keys))

        return self._view(walk)

    def get_meta(self, name: str) -> bytes | None:
        key = _meta_key(name)
        return self._view(lambda txn, opened: txn.get(key, db=opened.meta))

    def set_metas(self, metas: Mapping[str, bytes]) -> None:
        self.write((), metas)

    def size(self) -> StoreSize:
        def measure(txn: lmdb.Transaction[bytes], opened: _Opened) -> StoreSize:
            return StoreSize(txn.stat(opened.data)["entries"], _bytes_in(txn, opened.data))

        return self._view(measure)

    def identity(self) -> str:
        self._must_be_open()
        self._environment.look(now=True)
        return self._view(lambda txn, opened: txn.get(_IDENTITY, b"", db=opened.meta).decode())

    def doctor(self) -> list[str]:
        try:
            return self._environment.problems()
        except OnlineStoreError as error:
            return [str(error)]

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._environment.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _page(self, prefix: bytes, start: bytes) -> list[tuple[bytes, bytes]]:
        def walk(txn: lmdb.Transaction[bytes], opened: _Opened) -> list[tuple[bytes, bytes]]:
            with txn.cursor(opened.data) as cursor:
                if not cursor.set_range(start):
                    return []
                rows = islice(cursor.iternext(), SCAN_PAGE)
                return list(takewhile(lambda row: row[0].startswith(prefix), rows))

        return self._view(walk)

    def _view(self, work: _Work[T]) -> T:
        self._must_be_open()
        return self._environment.view(work)

    def _change(self, work: _Work[T]) -> T:
        self._must_be_open()
        return self._environment.change(work)

    def _must_be_open(self) -> None:
        if self._closed:
            raise OnlineStoreError(f"{self._environment.path}: the online store was closed\n  open it again")


# --- metas and counters ---------------------------------------------------------------------------

_IDENTITY: Final = b"!"


def _meta_key(name: str) -> bytes:
    return b"." + name.encode()


def _named(metas: Mapping[str, bytes]) -> list[tuple[bytes, bytes]]:
    return [(_meta_key(name), value) for name, value in metas.items()]


def _counter(value: bytes | None) -> int | None:
    """The write counter of a stored value; None for no value, and -1, which nobody expects, for no header."""
    if value is None:
        return None
    return int.from_bytes(value[COUNTER_OFFSET:HEADER_SIZE], "little") if len(value) >= HEADER_SIZE else -1


# --- one environment per directory and process ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Opened:
    """LMDB's handles, good until the next fork, and the file they are on."""

    env: lmdb.Environment
    data: lmdb._Database
    meta: lmdb._Database
    file: tuple[int, int] | None


_Work = Callable[["lmdb.Transaction[bytes]", _Opened], T]


class _Gate:
    """Lets in many readers, or one change of the map: that pulls the memory away from running transactions.

    Writers need not pass: they hold the environment's `_writing`, and so does whoever shuts the gate.
    """

    def __init__(self) -> None:
        self._lock = (
            threading.Lock()
        )  # entered by itself: by way of the condition it takes four times as long
        self._changed = threading.Condition(self._lock)
        self._inside = 0
        self._alone = False

    def __enter__(self) -> None:
        with self._lock:
            while self._alone:
                self._changed.wait()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._alone and not self._inside:
                self._changed.notify_all()

    def shut(self) -> None:
        """Wait until nobody is inside, and let nobody in until `open`."""
        with self._changed:
            while self._alone:
                self._changed.wait()
            self._alone = True
            while self._inside:
                self._changed.wait()

    def open(self) -> None:
        with self._changed:
            self._alone = False
            self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        self.shut()
        try:
            yield
        finally:
            self.open()


class _Environment:
    """The one LMDB environment that this process has on a directory, shared by every store on it."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.limit = limit
        self._users = 1
        self._opened: _Opened | None = None
        self._next_look = 0.0
        self._locks()

    def _locks(self) -> None:
        self._gate = _Gate()
        self._writing = threading.Lock()

    # Locks are taken in this order: _REGISTRY, _writing, the gate.

    @classmethod
    def share(cls, path: Path, limit: int) -> _Environment:
        path = Path(os.path.realpath(path))
        with _REGISTRY:
            environment = _ENVIRONMENTS.get(path)
            if environment is None:
                environment = cls(path, limit)
                with environment._writing:
                    environment._reopen()
                _ENVIRONMENTS[path] = environment
            else:
                environment._users += 1
            environment.limit = max(environment.limit, limit)
            return environment

    def leave(self) -> None:
        with _REGISTRY:
            self._users -= 1
            if not self._users:
                del _ENVIRONMENTS[self.path]
                with self._writing, self._gate.alone():
                    self._drop()

    def view(self, work: _Work[T]) -> T:
        """What `work` makes of one read transaction."""
        self.look()
        checked = False
        while True:
            try:
                with self._gate:
                    if (opened := self._opened) is not None:
                        txn = opened.env.begin(opened.data)
                        try:
                            return work(txn, opened)
                        finally:
                            txn.commit()  # after an error too: `abort` waits for a moment without other readers
                with self._writing:
                    self._reopen()
            except lmdb.MapResizedError:
                with self._writing:
                    self._adopt()
            except lmdb.ReadersFullError as error:
                if checked:
                    raise self._error(error) from error
                checked = self._forget_dead_readers()
            except lmdb.Error as error:
                raise self._error(error) from error

    def change(self, work: _Work[T]) -> T:
        """What `work` makes of one write transaction, committed and synced; `work` may run more than once."""
        with self._writing:
            self._look_and_reopen()
            while True:
                try:
                    opened = self._must_have()
                    txn = opened.env.begin(opened.data, write=True)
                    try:
                        result = work(txn, opened)
                        txn.commit()
                    except BaseException:
                        # lmdb 3.0's abort waits for a moment when no thread reads, which may never come by itself.
                        with self._gate.alone():
                            txn.abort()
                        raise
                    return result
                except lmdb.MapFullError as error:
                    self._grow(error)
                except lmdb.MapResizedError:
                    self._adopt()
                except lmdb.Error as error:
                    if isinstance(error, lmdb.PanicError):
                        with self._gate.alone():
                            self._drop()
                    raise self._error(error) from error

    def look(self, *, now: bool = False) -> None:
        """Notice, once a second or `now`, that the directory was deleted; then take the one in its place."""
        if now or time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            if self._lost():
                with self._writing:
                    self._look_and_reopen()

    def problems(self) -> list[str]:
        """What the doctor has to say. Holds writers back while it checks the pages of a small store."""
        with self._writing:
            self._look_and_reopen()
            try:
                opened = self._must_have()
                with opened.env.begin(write=True) as txn:
                    opened.env.reader_check()
                    used = _bytes_in(txn, opened.data) + _bytes_in(txn, opened.meta)
                    return [*self._room(used), *self._damage()]
            except lmdb.Error as error:
                raise self._error(error) from error

    def _room(self, used: int) -> Iterator[str]:
        if used > 0.8 * self.limit:
            yield (
                f"{self.path}: {used / self.limit:.0%} of the limit of {self.limit} bytes is in use; "
                f"raise it with lmdb://…?map_size={_mebibytes(2 * self.limit)}"
            )
        free = shutil.disk_usage(self.path).free
        if free < max(used // 10, 64 << 20):
            yield f"{self.path}: {free >> 20} MiB are left on this disk; a large write may not fit"

    def _damage(self) -> Iterator[str]:
        if self._data_file.stat().st_size <= VERIFY_BYTES:
            try:
                for problem in _damage(self.path)[:5]:
                    yield f"{self.path}: {problem}; {_REBUILD}"
            except lmdb.verify.VerifyError as error:
                yield f"{self.path}: {error}; {_REBUILD}"

    @property
    def _data_file(self) -> Path:
        return self.path / "data.mdb"

    def _must_have(self) -> _Opened:
        assert self._opened is not None  # `_writing` is held, and only its holder opens or drops
        return self._opened

    def _lost(self) -> bool:
        opened = self._opened
        return opened is None or _file_id(self._data_file) != opened.file

    def _look_and_reopen(self) -> None:
        """Call with `_writing` held."""
        if self._lost():
            self._reopen()

    def _reopen(self) -> None:
        """Call with `_writing` held. Opens the directory, made if need be, unless that was just done."""
        with self._gate.alone():
            if not self._users:
                raise OnlineStoreError(f"{self.path}: the online store was closed\n  open it again")
            if not self._lost():
                return
            self._drop()
            try:
                self._opened = _open(self.path, min(FIRST_MAP, self.limit))
            except (lmdb.Error, lmdb.verify.VerifyError, OSError) as error:
                raise self._error(error) from error

    def _drop(self) -> None:
        """Call alone."""
        if self._opened is not None:
            self._opened.env.close()
            self._opened = None

    def _grow(self, full: lmdb.Error) -> None:
        """Double the map, up to the limit. Call with `_writing` held."""
        with self._gate.alone():
            env = self._must_have().env
            size = env.info()["map_size"]
            if size >= self.limit:
                raise StoreFull(
                    f"{self.path}: the batch does not fit into {self.limit} bytes; nothing was written\n"
                    f"  raise the limit: lmdb://…?map_size={_mebibytes(2 * self.limit)}, or remove old views"
                ) from full
            env.set_mapsize(min(2 * size, self.limit))

    def _adopt(self) -> None:
        """Take over the size that another process gave to the map. Call with `_writing` held."""
        with self._gate.alone():
            if self._opened is not None:
                self._opened.env.set_mapsize(0)

    def _forget_dead_readers(self) -> bool:
        with self._gate:
            if self._opened is not None:
                self._opened.env.reader_check()
        return True

    def _error(self, error: Exception) -> OnlineStoreError:
        match error:
            case lmdb.BadValsizeError():
                return OnlineStoreError(
                    f"{self.path}: a key must have 1 to {MAX_KEY} bytes; nothing was written"
                )
            case lmdb.TxnFullError():
                return StoreFull(
                    f"{self.path}: the batch is too large for one transaction\n  write it in smaller ones"
                )
            case lmdb.ReadersFullError():
                return StoreUnavailable(
                    f"{self.path}: {READERS} read transactions are running\n  use fewer processes or threads"
                )
            case lmdb.VersionMismatchError() | lmdb.LockError():
                return OnlineStoreError(
                    f"{self.path}: {error}\n  another version of LMDB has it open: end that first"
                )
            case _:
                return self._other_error(error)

    def _other_error(self, error: Exception) -> OnlineStoreError:
        if isinstance(error, _CORRUPT):
            return StoreCorrupt(f"{self.path}: the online store is damaged: {error}\n  {_REBUILD}")
        code = error.errno if isinstance(error, OSError) else getattr(error, "code", 0)
        # LMDB reports a write that was cut short, as on a disk that has just filled up, as an I/O error.
        if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            return StoreFull(
                f"{self.path}: the disk is full, over its quota, or failing ({error}); nothing was written\n"
                "  make room and write again"
            )
        if code in (errno.EACCES, errno.EPERM, errno.EROFS):
            return OnlineStoreError(
                f"{self.path}: no permission to use this directory ({error})\n"
                "  readers write too, to the lock file: chown the directory, or name another one"
            )
        if isinstance(error, OSError):
            return OnlineStoreError(
                f"{self.path}: {error.strerror}\n  name a directory that can be made: lmdb://PATH"
            )
        return OnlineStoreError(f"{self.path}: {error}")

    # A fork: the child may use nothing of the parent's, so no transaction may be there for it to inherit.

    def before_fork(self) -> None:
        self._writing.acquire()
        self._gate.shut()

    def after_fork_in_parent(self) -> None:
        self._gate.open()
        self._writing.release()

    def after_fork_in_child(self) -> None:
        self._locks()
        self._drop()  # as no transaction runs, this touches the child alone; the next use opens it again


_REBUILD: Final = "delete the directory and materialise again"

_CORRUPT: Final = (
    lmdb.verify.VerifyError,
    lmdb.InvalidError,
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.BadTxnError,
    lmdb.IncompatibleError,
    lmdb.NotFoundError,
)


def _open(path: Path, map_size: int) -> _Opened:
    path.mkdir(parents=True, exist_ok=True)
    env = lmdb.open(str(path), map_size=map_size, max_dbs=2, max_readers=READERS)
    try:
        _check_length(env, path)
        opened = _Opened(env, env.open_db(b"data"), env.open_db(b"meta"), _file_id(path / "data.mdb"))
        with env.begin(opened.meta) as txn:
            named = txn.get(_IDENTITY) is not None
        if not named:
            with env.begin(opened.meta, write=True) as txn:
                txn.put(_IDENTITY, secrets.token_hex(8).encode(), overwrite=False)
        return opened
    except BaseException:
        env.close()
        raise


def _check_length(env: lmdb.Environment, path: Path) -> None:
    """Refuse a file that lost its end: reading behind it would kill the process with SIGBUS.

    A file may rightly end before the last page that LMDB counted, when those pages are free: so a short one
    is walked before it is judged.
    """
    size = (path / "data.mdb").stat().st_size
    if size and size < (env.info()["last_pgno"] + 1) * env.stat()["psize"]:
        problems = _damage(path)
        if problems:
            raise lmdb.verify.VerifyError(problems[0])


def _bytes_in(txn: lmdb.Transaction[bytes], database: lmdb._Database) -> int:
    stat = txn.stat(database)
    return (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]) * stat["psize"]


def _damage(path: Path) -> list[str]:
    """What is wrong with the pages of the file, one text each; VerifyError when it is no LMDB file at all."""
    problems: list[str] = lmdb.verify.verify(str(path))  # type: ignore[no-untyped-call]
    return problems


def _mebibytes(size: int) -> str:
    return f"{max(1, size >> 20)}MiB"


def _file_id(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


_REGISTRY = threading.Lock()
_ENVIRONMENTS: dict[Path, _Environment] = {}


def _before_fork() -> None:
    _REGISTRY.acquire()
    for environment in _ENVIRONMENTS.values():
        environment.before_fork()


def _after_fork_in_parent() -> None:
    for environment in _ENVIRONMENTS.values():
        environment.after_fork_in_parent()
    _REGISTRY.release()


def _after_fork_in_child() -> None:
    for environment in _ENVIRONMENTS.values():
        environment.after_fork_in_child()
    _REGISTRY.release()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
