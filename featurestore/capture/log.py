"""The capture log of a project: for each service and fingerprint an event log, and the Parquet files it was compacted into.

    rows/service=delay/fingerprint=3f…/schema.json
                                       log/…segment             what was appended, with checksums; any number of processes
                                       manifest.json            which offsets are in which files
                                       day=2026-01-31/….parquet

A row has an offset that it keeps: those below the manifest's `end` are read from Parquet, the others from the log. So each
row is read once, whatever a compaction has done meanwhile, and a cursor stays good for ever.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from featurestore.capture.schema import CapturedSchema
from featurestore.errors import CaptureConflict, CaptureError, LogCorrupt, LogError, LogPruned, NotFound
from featurestore.log.eventlog import APPENDED_AT, OFFSET, Appended, EventLog, LogStats, replace_file
from featurestore.log.events import arrow_schema
from featurestore.types import DType, Int64, Timestamp

MANIFEST: Final = "manifest.json"
SCHEMA: Final = "schema.json"
ROW_ID: Final = "row_id"

Cursor = Mapping[str, int]
"""How far a service's rows were read: for each fingerprint the offset to go on from. JSON as it is; {} is the beginning."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Captured rows of one schema, in the order they were kept: `row_id`, the columns of the schema, `__offset`, `__appended_at`.

    `cursor` is where to go on after them, for all fingerprints of the service.
    """

    schema: CapturedSchema
    table: pa.Table
    cursor: Cursor


@dataclass(frozen=True, slots=True)
class Part:
    """What one compaction wrote: the rows of offsets from `first` to before `end`, in `files` below the folder.

    `least` and `most` are bounds of the rows' `at`, in microseconds; None where there was no row.
    """

    first: int
    end: int
    files: tuple[str, ...]
    rows: int
    least: int | None = None
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """The parts in order of offsets. What is below `end` and in no part was removed."""

    parts: tuple[Part, ...] = ()
    end: int = 0

    @property
    def files(self) -> frozenset[str]:
        return frozenset(f for part in self.parts for f in part.files)


@dataclass(frozen=True, slots=True)
class Folder:
    """Where the rows of one schema lie."""

    path: Path
    schema: CapturedSchema

    def open(self) -> EventLog:
        return EventLog.open(self.path / "log", self.schema.columns, quick=True)

    def opened(self) -> EventLog:
        """The log to read from, the same each time: see `opened`."""
        return opened(self.path / "log", self.schema.columns)

    def manifest(self) -> Manifest:
        """What is in Parquet by now. Raises CaptureError where that is not known any more."""
        try:
            said = json.loads((self.path / MANIFEST).read_bytes())
            parts = tuple(Part(**{**part, "files": tuple(part["files"])}) for part in said["parts"])
            return Manifest(parts, said["end"])
        except FileNotFoundError:
            return Manifest()
        except (ValueError, KeyError, TypeError) as error:
            raise CaptureError(
                f"{self.path / MANIFEST}: not what a compaction wrote: {error}\n  restore it from a backup of the folder"
            ) from error

    def write_manifest(self, manifest: Manifest) -> None:
        parts = [{n: getattr(p, n) for n in Part.__slots__} for p in manifest.parts]
        text = json.dumps({"parts": parts, "end": manifest.end})
        replace_file(self.path / MANIFEST, [text.encode()])


class CaptureLog:
    """All captured rows of a project. Opening it makes nothing; it may be shared between threads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def services(self) -> list[str]:
        """The services that rows were captured of."""
        found = (self.path / "rows").glob("service=*")
        return sorted(unquote(p.name.removeprefix("service=")) for p in found)

    def folders(self, service: str) -> list[Folder]:
        """Where the rows of a service lie, one for each fingerprint, the oldest first.

        Raises NotFound for a service that nothing was captured of.
        """
        found = []
        for path in self._service(service).glob("fingerprint=*"):
            file = path / SCHEMA
            if file.exists():  # else it is being made
                found.append((file.stat().st_mtime_ns, path.name, Folder(path, _read_schema(file))))
        if not found:
            raise NotFound("captured service", service, self.services(), "the capture log")
        return [folder for _, _, folder in sorted(found, key=lambda f: f[:2])]

    def folder(self, schema: CapturedSchema) -> Folder:
        """Where rows of this schema are kept, made if it is not there. Raises CaptureConflict when other rows lie there."""
        path = self._service(schema.service) / f"fingerprint={quote(schema.fingerprint, safe='')}"
        file = path / SCHEMA
        if not file.exists():
            try:
                path.mkdir(parents=True, exist_ok=True)
                with locked(path):  # two processes may begin at once
                    if not file.exists():
                        replace_file(file, [json.dumps(schema.to_json(), ensure_ascii=False).encode()])
            except OSError as error:
                raise CaptureError(
                    f"{path}: {error.strerror}\n  the capture log wants a folder that it can write to"
                ) from error
        known = _read_schema(file)
        if known != schema:
            raise CaptureConflict(
                f"{file} says {known.to_json()}\n  what is served has {schema.to_json()}: its rows are not kept"
            )
        return Folder(path, schema)

    def read(
        self,
        service: str,
        *,
        after: Cursor | None = None,
        fingerprint: str | None = None,
        start: int | None = None,
        end: int | None = None,
        columns: Sequence[str] | None = None,
        size: int = 65_536,
    ) -> Iterator[Rows]:
        """The rows of a service from a cursor on, up to `size` at a time, one fingerprint after the other, each in its order.

        `start` and `end` (exclusive, µs) bound the rows' `at`; `columns` are those wanted besides `row_id`. A `Rows` may be
        empty, and says all the same how far it is. Damaged bytes are set aside. Raises NotFound for a service without rows.
        """
        cursor = dict(after or {})
        for folder in self.folders(service):
            mine = folder.schema.fingerprint
            if fingerprint in (None, mine):
                for table, position in read_folder(folder, cursor.get(mine, 0), size):
                    cursor[mine] = position
                    kept = between(table, start, end)
                    yield Rows(folder.schema, _named(kept, columns), dict(cursor))

    def _service(self, service: str) -> Path:
        return self.path / "rows" / f"service={quote(service, safe='')}"


def read_folder(folder: Folder, position: int, size: int = 65_536) -> Iterator[tuple[pa.Table, int]]:
    """The rows of one folder as they are stored, from an offset on, each table with the offset to go on from."""
    log = folder.opened()
    try:
        while True:
            manifest = folder.manifest()
            part = next((p for p in manifest.parts if p.end > position), None)
            if part is None:
                position = max(position, manifest.end)
            try:
                if part is not None:
                    table = part_rows(folder, part, position)
                    for low in range(0, table.num_rows, size):
                        some = table.slice(low, size)
                        yield some, some.column(OFFSET)[-1].as_py() + 1
                    position = part.end
                    continue
                batch = log.read(position, size)
            except LogCorrupt as error:
                set_aside(log, error)
                continue
            except (LogPruned, FileNotFoundError):
                if folder.manifest() == manifest:
                    raise
                continue  # compacted since the look at the manifest
            if batch.next_offset == position:
                return
            position = batch.next_offset
            yield batch.table, position
    finally:
        log.close()


_OPENED: dict[Path, EventLog] = {}
"""By directory; those that a process has to do with, a few hundred at most."""


def opened(directory: Path, columns: Mapping[str, DType]) -> EventLog:
    """The log in a directory, one for this process: what it knows of its files need not be found anew with each use.

    Safe to share between threads. Each user closes it, which leaves it to the others.
    """
    log = _OPENED.get(directory)
    if log is None or log.schema != columns or not directory.is_dir():
        if len(_OPENED) >= 256:
            _OPENED.pop(next(iter(_OPENED)), None)
        log = _OPENED[directory] = EventLog.open(directory, columns)
    return log


os.register_at_fork(after_in_child=_OPENED.clear)  # locks of the parent's threads would stay locked


def part_rows(folder: Folder, part: Part, position: int) -> pa.Table:
    """The rows of a part from an offset on, in order of offsets."""
    wanted = [*folder.schema.columns, OFFSET, APPENDED_AT]
    tables = [pq.ParquetFile(folder.path / f).read(columns=wanted) for f in part.files]
    if not tables:
        return stored_schema(folder.schema).empty_table()
    table = pa.concat_tables(tables).cast(stored_schema(folder.schema))
    if len(tables) > 1:
        table = table.sort_by(OFFSET)
    return table if position <= part.first else table.filter(pc.field(OFFSET) >= position)


def stored_schema(schema: CapturedSchema) -> pa.Schema:
    """The Arrow schema of what `read_folder` gives."""
    return arrow_schema({**schema.columns, OFFSET: Int64, APPENDED_AT: Timestamp})


def append(log: EventLog, table: pa.Table, at: int) -> Appended:
    """Appends rows, on disk when it returns; damage at the end of the log is set aside first. Raises LogError."""
    while True:
        try:
            return log.append(table, at)
        except LogCorrupt as error:
            set_aside(log, error)


def read_on(log: EventLog, position: int, size: int = 65_536) -> Iterator[tuple[pa.Table, int]]:
    """What a log holds from an offset on, each table with the offset to go on from. Damaged bytes are set aside."""
    while True:
        try:
            batch = log.read(position, size)
        except LogCorrupt as error:
            set_aside(log, error)
            continue
        if batch.next_offset == position:
            return
        position = batch.next_offset
        yield batch.table, position


def stats_of(log: EventLog) -> LogStats:
    """A log in figures; what is damaged in it is set aside, and counted."""
    while True:
        try:
            return log.stats()
        except LogCorrupt as error:
            set_aside(log, error)


def set_aside(log: EventLog, error: LogCorrupt) -> None:
    """Puts damaged bytes into a file beside the log, where they stay counted. Raises `error` where that cannot be done."""
    if error.offset is None:
        raise error
    try:
        log.skip(error.offset)
    except LogCorrupt:
        raise
    except LogError:
        return  # somebody else did


def between(table: pa.Table, start: int | None, end: int | None) -> pa.Table:
    """The rows whose `at` lies in [start, end)."""
    if start is not None:
        table = table.filter(pc.greater_equal(table.column("at").cast(pa.int64()), start))
    if end is not None:
        table = table.filter(pc.less(table.column("at").cast(pa.int64()), end))
    return table


def _named(table: pa.Table, columns: Sequence[str] | None) -> pa.Table:
    """With `row_id`, as predictions and labels say it, before the columns."""
    ids = pc.binary_join_element_wise(table.column("request_id"), table.column("row").cast(pa.string()), "-")
    chosen = table if columns is None else table.select([*columns, OFFSET, APPENDED_AT])
    return chosen.add_column(0, ROW_ID, ids)


def _read_schema(file: Path) -> CapturedSchema:
    try:
        return CapturedSchema.from_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CaptureError(
            f"{file}: not the schema of captured rows: {error}\n  restore it from a backup, or set the folder aside"
        ) from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Only one process at a time, and one thread, is inside for a folder."""
    fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
