"""Compaction: captured rows from the log into Parquet by day, once each, with readers and writers running.

Files are written first, then the manifest that names them, then the log is pruned. Whatever is killed in between, a row is
read from the one place that the manifest says; files that it does not name are removed by the next compaction.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.capture.log import Folder, Manifest, Part, locked, part_rows, set_aside
from featurestore.errors import CaptureError, LogCorrupt
from featurestore.evaluate.partials import Mask
from featurestore.log.eventlog import OFFSET, EventLog, sync_directory
from featurestore.time import DAY

PART_ROWS: Final = 1 << 20
"""A part holds no more rows than this: it is what a reader has in memory at a time."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """What one compaction did to the rows of one schema. `removed` rows were past their retention."""

    service: str
    fingerprint: str
    rows: int
    files: int
    bytes: int
    removed: int = 0


def compact(folder: Folder, now: int, *, retention: int | None = None) -> Compacted:
    """Moves what the log holds into Parquet files by the day (UTC) they were served on; after `retention` (µs) a day goes.

    Raises CaptureError when the disk refuses; what was there then is read as before.
    """
    before = None if retention is None else (now - retention) // DAY * DAY
    with locked(folder.path):
        manifest = folder.manifest()
        _remove_strangers(folder, manifest)
        with folder.open() as log:
            try:
                rows = files = size = 0
                for part in _parts(folder, log, manifest.end):
                    manifest = Manifest((*manifest.parts, part), part.end)
                    folder.write_manifest(manifest)
                    rows, files = rows + part.rows, files + len(part.files)
                    size += sum((folder.path / f).stat().st_size for f in part.files)
                manifest = _merged(folder, manifest)
                removed = 0 if before is None else _expire(folder, manifest, before)
                # The log keeps its last segment; what of it is in files by now is not read from it.
                log.prune(before_offset=manifest.end)
            except OSError as error:
                raise CaptureError(
                    f"{folder.path}: not compacted: {error.strerror or error}\n  make room, then compact again"
                ) from error
    return Compacted(folder.schema.service, folder.schema.fingerprint, rows, files, size, removed)


def _parts(folder: Folder, log: EventLog, position: int) -> Iterator[Part]:
    while True:
        tables: list[pa.Table] = []
        first, count = position, 0
        while count < PART_ROWS:
            try:
                batch = log.read(position, min(65_536, PART_ROWS - count))
            except LogCorrupt as error:
                set_aside(log, error)
                continue
            if batch.next_offset == position:
                break
            position, count = batch.next_offset, count + batch.table.num_rows
            tables.append(batch.table)
        if position == first:
            return
        yield _written(folder, pa.concat_tables(tables), first, position)


def _written(folder: Folder, table: pa.Table, first: int, end: int) -> Part:
    """A part of these rows, its files on disk under their names."""
    at = np.asarray(table.column("at").cast(pa.int64()))
    days = np.asarray(table.column("served_at").cast(pa.int64())) // DAY
    files = []
    for day in np.unique(days).tolist():
        name = f"day={np.datetime64(day, 'D')}"
        (folder.path / name).mkdir(exist_ok=True)
        path = folder.path / name / f"{first:020d}-{end:020d}.parquet"
        _write(path, table.filter(pa.array(days == day)))
        files.append(f"{name}/{path.name}")
    bounds = (int(at.min()), int(at.max())) if len(at) else (None, None)
    return Part(first, end, tuple(files), table.num_rows, *bounds)


def _write(path: Path, table: pa.Table) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            pq.write_table(table, file, compression="zstd", compression_level=3, row_group_size=1 << 17)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def _merged(folder: Folder, manifest: Manifest) -> Manifest:
    """Small parts beside each other as one: a log that is compacted every minute does not end in a thousand files."""
    groups: list[list[Part]] = []
    for part in manifest.parts:
        small = part.rows < PART_ROWS // 2
        if groups and small and sum(p.rows for p in groups[-1]) + part.rows <= PART_ROWS:
            groups[-1].append(part)
        else:
            groups.append([part])
    # Four at least: a row is rewritten a few times in its life, not at each compaction.
    if not any(len(g) >= 4 for g in groups):
        return manifest
    parts: list[Part] = []
    for group in groups:
        if len(group) < 4:
            parts += group
            continue
        tables = [part_rows(folder, part, part.first) for part in group]
        parts.append(_written(folder, pa.concat_tables(tables), group[0].first, group[-1].end))
    merged = Manifest(tuple(parts), manifest.end)
    folder.write_manifest(merged)
    _remove_strangers(folder, merged)
    return merged


def _expire(folder: Folder, manifest: Manifest, before: int) -> int:
    """Removes the files of days before an instant; how many rows were in them."""
    kept, removed = [], 0
    for part in manifest.parts:
        files = [f for f in part.files if int(np.datetime64(f[4:14], "D").astype(np.int64)) * DAY >= before]
        gone = [f for f in part.files if f not in files]
        rows = sum(pq.ParquetFile(folder.path / f).metadata.num_rows for f in gone)
        removed += rows
        kept.append(replace(part, files=tuple(files), rows=part.rows - rows))
    if removed:
        now = Manifest(tuple(p for p in kept if p.files), manifest.end)
        folder.write_manifest(now)
        _remove_strangers(folder, now)
    return removed


def erase_rows(folder: Folder, which: Callable[[pa.Table], Mask]) -> int:
    """Removes the rows that `which` says of tables as they are stored, from log and files; how many there were.

    Readers may go on meanwhile. The offsets of other rows stay as they are.
    """
    removed = 0
    with locked(folder.path):
        manifest, parts = folder.manifest(), list[Part]()

        def in_log(table: pa.Table) -> Mask:
            nonlocal removed
            gone = which(table)
            # The log's last segment may hold what is in files by now: that goes too, and is counted there.
            removed += int((gone & (table.column(OFFSET).to_numpy() >= manifest.end)).sum())
            return gone

        with folder.open() as log:
            log.erase(in_log)
        for part in manifest.parts:
            table = part_rows(folder, part, part.first)
            gone = which(table)
            if gone.any():
                removed += int(gone.sum())
                part = _written(folder, table.filter(pa.array(~gone)), part.first, part.end)  # noqa: PLW2901
            parts.append(part)
        if tuple(parts) != manifest.parts:
            manifest = Manifest(tuple(parts), manifest.end)
            folder.write_manifest(manifest)
        _remove_strangers(folder, manifest)
    return removed


def _remove_strangers(folder: Folder, manifest: Manifest) -> None:
    """Files that no part names: left by a compaction that was killed, or merged into others."""
    for path in folder.path.glob("day=*/*.parquet*"):
        if f"{path.parent.name}/{path.name}" not in manifest.files:
            path.unlink(missing_ok=True)
