"""What is kept of the captured rows of one schema, in figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featurestore.capture.log import Folder, stats_of
from featurestore.log.eventlog import EventLog, LogStats


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """The rows of one service and fingerprint: `rows` in all, `logged_rows` of them not yet in Parquet.

    `damaged_rows` were set aside, their bytes in `bad_files`; `last_at` (µs) is when the last row was appended.
    """

    service: str
    fingerprint: str
    rows: int
    files: int
    file_bytes: int
    logged_rows: int
    segments: int
    log_bytes: int
    damaged_rows: int
    bad_files: tuple[Path, ...]
    last_at: int | None


def status_of(folder: Folder) -> SchemaStatus:
    """Looks at headers alone. What is damaged in the log is set aside, as a reader would. Raises CaptureError and LogError."""
    manifest = folder.manifest()
    with folder.open() as log:
        stats = stats_of(log)
        waiting = _rows_from(log, stats, manifest.end)
    compacted = sum(p.rows for p in manifest.parts)
    return SchemaStatus(
        folder.schema.service,
        folder.schema.fingerprint,
        compacted + waiting,
        len(manifest.files),
        sum((folder.path / f).stat().st_size for f in manifest.files),
        waiting,
        stats.segments,
        stats.bytes,
        stats.skipped,
        stats.bad_files,
        stats.last_appended_at,
    )


def _rows_from(log: EventLog, stats: LogStats, position: int) -> int:
    """Rows from an offset on that are there: neither set aside nor erased."""
    if not stats.skipped and not stats.erased:
        return stats.end - max(position, stats.start)
    rows = 0
    while (batch := log.read(position)).next_offset != position:
        rows, position = rows + batch.table.num_rows, batch.next_offset
    return rows
