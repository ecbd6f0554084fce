"""A folder that event files arrive in, read once each, in a stable order, at a position that the caller keeps.

A file is known by its name, size, time of change and inode, and, where these differ, by a digest of all its bytes. The
position is plain JSON: kept in the same transaction as what was made of the events, it makes every event count once.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from types import TracebackType
from typing import Any, Final, Self

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from featurestore.errors import EventError, LogCorrupt, LogError, nearest
from featurestore.log.events import DeadLetter, arrow_schema, conform, events_table_lenient, tables
from featurestore.time import SECOND
from featurestore.types import DType

SETTLE: Final = 2 * SECOND
SUFFIXES: Final = {
    "parquet": (".parquet", ".pq"),
    "csv": (".csv", ".csv.gz"),
    "json": (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz", ".ndjson.gz"),
}
UNFINISHED: Final = (".tmp", ".part", ".partial", ".inprogress", ".crdownload", ".swp", "~")
_STEP = 65_536


@dataclass(frozen=True, slots=True)
class _Known:
    """What a position keeps of a file. `rows` were taken; `digest` is None while it is being read."""

    size: int
    mtime_ns: int
    inode: int
    rows: int
    digest: str | None

    def as_json(self) -> list[Any]:
        return [self.size, self.mtime_ns, self.inode, self.rows, self.digest]


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """A file that was read, wholly or in part, and has other bytes now (`gone`: none). Its `rows` read stay as they are."""

    name: str
    rows: int
    gone: bool = False

    def __str__(self) -> str:
        what = "is gone before it was read to its end" if self.gone else "was changed after it was read"
        return f"{self.name} {what}: {self.rows} rows of it were taken, and nothing else will be"


@dataclass(frozen=True, slots=True)
class FileBatch:
    """Events of one file in its order, those that do not fit, and the position after them.

    `file` is None when no file was ready. Rows of dead letters count from the file's first event. `changed` lists files
    found changed since the last call, once each; `waiting` those that are still being written.
    """

    table: pa.Table
    dead: tuple[DeadLetter, ...]
    position: Mapping[str, Any]
    file: str | None = None
    changed: tuple[ChangedFile, ...] = ()
    waiting: tuple[str, ...] = ()


def read_file(path: Path, schema: Mapping[str, DType]) -> tuple[pa.Table, list[DeadLetter]]:
    """All events of one file, of the kind that its name ends like, and those that do not fit, by row.

    Raises LogError for a file of no known kind, LogCorrupt for one that cannot be read, EventError for one whose columns are
    not the source's.
    """
    kind = next((k for k, ends in SUFFIXES.items() if path.name.endswith(ends)), None)
    if kind is None:
        known = ", ".join(end for ends in SUFFIXES.values() for end in ends)
        raise LogError(f"{path}: what kind of file is this?\n  a name ends in one of {known}")
    reading = "give a whole file"
    try:
        opened = _Open(path, kind, schema, (path.name, (0, 0, 0), 0))
    except OSError as error:
        raise LogError(f"{path}: {error.strerror}\n  {reading}") from error
    good: list[pa.Table] = []
    dead: list[DeadLetter] = []
    try:
        end = False
        while not end:
            table, refused, _, end = opened.take(_STEP)
            good.append(table)
            dead += refused
    except (EventError, LogCorrupt):
        raise
    except (pa.ArrowException, OSError, EOFError, ValueError) as error:
        raise LogCorrupt(
            path, 0, None, f"not a whole {kind} file: {str(error).splitlines()[0]}", reading
        ) from error
    finally:
        opened.close()
    return tables(good, schema), dead


class FilesFeed:
    """Event files of one kind (`parquet`, `csv` with a header, `json` with an object a line) in one directory.

    Files whose name starts with `.` or `_` or ends like an unfinished download, and files of other suffixes, are left
    alone. A file is ready when it has not changed for `settle` microseconds. `None` is the position before all files.
    """

    def __init__(
        self, directory: Path, kind: str, schema: Mapping[str, DType], *, settle: int = SETTLE
    ) -> None:
        if kind not in SUFFIXES:
            raise LogError(f"files of kind '{kind}' cannot be read\n  there is {', '.join(SUFFIXES)}")
        self.directory, self.kind, self.schema, self.settle = directory, kind, dict(schema), settle
        self._seen: dict[str, tuple[tuple[int, int, int], int]] = {}
        self._open: _Open | None = None

    def read(self, position: Mapping[str, Any] | None, at: int, limit_rows: int = _STEP) -> FileBatch:
        """The next events after `position`: at most `limit_rows`, of one file. `at` is the time now in UTC microseconds.

        Files come by time of change, then name. Raises LogCorrupt for a file that cannot be read as what it should be
        (`skip` goes on without it), EventError for one whose columns are not the source's.
        """
        if limit_rows < 1:
            raise LogError("limit_rows is at least 1")
        files = _files(position)
        now = self._listed()
        changed = [*self._compare(files, now)]
        ready, waiting = self._ready(files, now, at)
        if not ready:
            return FileBatch(self._none(), (), _position(files), None, tuple(changed), waiting)
        name = ready[0]
        identity = now[name]
        known = files.get(name)
        done = 0 if known is None else known.rows
        table, dead, rows, end = self._take(name, identity, done, limit_rows)
        if end:
            self.close()
        digest = _digest(self.directory / name) if end else None
        if self._identity(name) != identity:
            # Half of what was read may be of another file: nothing of it counts, and the next call looks anew.
            self.close()
            return FileBatch(self._none(), (), _position(files), None, tuple(changed), (*waiting, name))
        files[name] = _Known(*identity, done + rows, digest)
        return FileBatch(table, tuple(dead), _position(files), name, tuple(changed), waiting)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file that is half read, if one is; reading on opens it again."""
        if self._open is not None:
            self._open.close()
        self._open = None

    def skip(self, position: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
        """The position that counts the file `name` as read: the way out when it cannot be."""
        files, there = _files(position), self._identity(name)
        if there is None:
            raise LogError(f"{self.directory}: there is no file '{name}'")
        self.close()
        known = files.get(name)
        files[name] = _Known(*there, 0 if known is None else known.rows, _digest(self.directory / name))
        return _position(files)

    def compact(self, position: Mapping[str, Any]) -> Mapping[str, Any]:
        """The position without files that are gone. Should one come back by its name, it is read again."""
        now = self._listed()
        return _position({name: known for name, known in _files(position).items() if name in now})

    # ── which file

    def _listed(self) -> dict[str, tuple[int, int, int]]:
        try:
            names = sorted(path.name for path in self.directory.iterdir())
        except OSError as error:
            raise LogError(
                f"{self.directory}: {error.strerror}\n  event files are looked for in this directory"
            ) from error
        found = {}
        for name in names:
            if (
                name.startswith((".", "_"))
                or name.endswith(UNFINISHED)
                or not name.endswith(SUFFIXES[self.kind])
            ):
                continue
            identity = self._identity(name)
            if identity is not None:
                found[name] = identity
        return found

    def _identity(self, name: str) -> tuple[int, int, int] | None:
        try:
            stat = (self.directory / name).stat()
        except FileNotFoundError:
            return None
        return (stat.st_size, stat.st_mtime_ns, stat.st_ino) if S_ISREG(stat.st_mode) else None

    def _compare(
        self, files: dict[str, _Known], now: Mapping[str, tuple[int, int, int]]
    ) -> Iterator[ChangedFile]:
        """Files that are not what was read; `files` takes over what they are now, so that each is told once."""
        moved = {(k.size, k.mtime_ns, k.inode): name for name, k in files.items() if name not in now}
        for name, identity in now.items():
            if name not in files and identity in moved:
                files[name] = files.pop(moved[identity])  # renamed
        for name, known in list(files.items()):
            there = now.get(name)
            if there is None:
                if known.digest is None:
                    files[name] = _Known(known.size, known.mtime_ns, known.inode, known.rows, "")
                    yield ChangedFile(name, known.rows, gone=True)
                continue
            if there == (known.size, known.mtime_ns, known.inode) or known.digest == "":
                continue
            digest = _digest(self.directory / name)
            files[name] = _Known(*there, known.rows, digest)
            if digest != known.digest:
                yield ChangedFile(name, known.rows)

    def _ready(
        self, files: Mapping[str, _Known], now: Mapping[str, tuple[int, int, int]], at: int
    ) -> tuple[list[str], tuple[str, ...]]:
        half = [name for name, known in files.items() if known.digest is None and name in now]
        if half:
            return half, ()
        ready: list[str] = []
        waiting: list[str] = []
        for name, identity in now.items():
            if name in files:
                continue
            # By the file's own clock, or, where that runs ahead, by how long it was seen unchanged.
            before, since = self._seen.get(name, (None, at))
            since = since if before == identity else at
            self._seen[name] = (identity, since)
            still = max(at - identity[1] // 1000, at - since)
            (ready if still >= self.settle else waiting).append(name)
        self._seen = {name: seen for name, seen in self._seen.items() if name in now and name not in files}
        return sorted(ready, key=lambda name: (now[name][1], name)), tuple(waiting)

    # ── what is in it

    def _none(self) -> pa.Table:
        return arrow_schema(self.schema).empty_table()

    def _take(
        self, name: str, identity: tuple[int, int, int], done: int, limit: int
    ) -> tuple[pa.Table, list[DeadLetter], int, bool]:
        """Rows of a file from `done` on: those that fit, the others, how many both are, and whether it ends there."""
        path = self.directory / name
        try:
            if self._open is None or self._open.at != (name, identity, done):
                self.close()
                self._open = _Open(path, self.kind, self.schema, (name, identity, done))
            return self._open.take(limit)
        except (EventError, LogCorrupt):
            self.close()
            raise
        except (pa.ArrowException, OSError, EOFError, ValueError) as error:
            self.close()
            reason = f"not a whole {self.kind} file: {str(error).splitlines()[0]}"
            raise LogCorrupt(
                path, 0, None, reason, f"FilesFeed.skip(position, {name!r}) goes on without it"
            ) from error


class _Open:
    """A file that is being read, as raw parts: Arrow tables, or, of JSON, lists of objects and of lines that are none."""

    def __init__(
        self, path: Path, kind: str, schema: Mapping[str, DType], at: tuple[str, tuple[int, int, int], int]
    ) -> None:
        self.at, self._schema, self._kind = at, schema, kind
        self._file: Any = gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # noqa: SIM115 (closed by close)
        self._parts = {"parquet": self._parquet, "csv": self._csv, "json": self._json}[kind]()
        self._rest: Any = []
        self._row, self._before = 0, at[2]

    def close(self) -> None:
        self._file.close()

    def take(self, limit: int) -> tuple[pa.Table, list[DeadLetter], int, bool]:
        name, identity, done = self.at
        good: list[pa.Table] = []
        dead: list[DeadLetter] = []
        rows = 0
        while rows < limit and self._fill():
            raw, self._rest = _split(self._rest, limit - rows)
            table, refused = self._converted(raw)
            good.append(table)
            dead += [DeadLetter(done + rows + d.row, d.column, d.reason, d.event) for d in refused]
            rows += len(raw)
        self.at = (name, identity, done + rows)
        # Looks one part ahead: a file that ends with these rows is done with them.
        return tables(good, self._schema), dead, rows, not self._fill()

    def _fill(self) -> bool:
        while not len(self._rest):
            part = next(self._parts, None)
            if part is None:
                return False
            known = max(0, min(len(part), self._before - self._row))
            self._row += len(part)
            self._rest = _split(part, known)[1]
        return True

    def _converted(self, raw: Any) -> tuple[pa.Table, list[DeadLetter]]:
        if self._kind != "json":
            return conform(raw, self._schema, text=self._kind == "csv")
        # As in a batch read of the same file: a key that is not there is NULL, one that nobody declared is not read.
        rows = [{n: row.get(n) for n in self._schema} if isinstance(row, dict) else row for row in raw]
        table, dead = events_table_lenient(rows, self._schema)
        return table, [DeadLetter(d.row, d.column, d.reason, _event(raw[d.row])) for d in dead]

    def _columns(self, names: Sequence[str]) -> list[str]:
        missing = next((name for name in self._schema if name not in names), None)
        if missing is not None:
            has = f"{self.at[0]} has {', '.join(names)}"
            near = [h for h in nearest(missing, names) if h.startswith("did")]
            raise EventError("\n  ".join([f"column '{missing}' is missing", has, *near]), column=missing)
        return list(self._schema)

    def _parquet(self) -> Iterator[pa.Table]:
        file = pq.ParquetFile(self._file)
        for batch in file.iter_batches(_STEP, columns=self._columns(file.schema_arrow.names)):
            yield pa.Table.from_batches([batch]).select(list(self._schema))

    def _csv(self) -> Iterator[pa.Table]:
        head = self._file.readline()
        names = next(csv.reader([head.decode("utf-8-sig")]), [])
        self._file.seek(0)
        columns = self._columns(names)
        options = pa.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=columns,
            null_values=[""],
            strings_can_be_null=True,
        )
        parse = pa.csv.ParseOptions(newlines_in_values=True)
        for batch in pa.csv.open_csv(self._file, parse_options=parse, convert_options=options):
            yield pa.Table.from_batches([batch])

    def _json(self) -> Iterator[list[Any]]:
        if self._file.read(1) == b"[":
            self._file.seek(0)
            yield json.load(self._file)
            return
        self._file.seek(0)
        while lines := self._file.readlines(1 << 20):
            yield [_parsed(line) for line in lines if line.strip()]


def _split(raw: Any, at: int) -> tuple[Any, Any]:
    if isinstance(raw, list):
        return raw[:at], raw[at:]
    return raw.slice(0, at), raw.slice(at)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return line.decode("utf-8", "replace").rstrip("\n")


def _event(row: Any) -> Mapping[str, Any]:
    return row if isinstance(row, dict) else {"line": row}


def _files(position: Mapping[str, Any] | None) -> dict[str, _Known]:
    return {name: _Known(*values) for name, values in (position or {}).items()}


def _position(files: Mapping[str, _Known]) -> dict[str, Any]:
    return {name: known.as_json() for name, known in files.items()}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
