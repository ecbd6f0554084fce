"""Whether the capture log is whole and keeps what is served: a look that changes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.capture.log import CaptureLog, Folder
from featurestore.capture.returned import COLUMNS
from featurestore.errors import CaptureError, LogError, NotFound
from featurestore.log.eventlog import EventLog, segment_offsets
from featurestore.log.segment import Segment, Torn, file_name

LEAST_FREE: Final = 1 << 30
MOST_LOGGED: Final = 1 << 30
"""Bytes in segments from which on a compaction is due."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; `way_out` says what to do where it is wrong."""

    subject: str
    state: Literal["ok", "wrong"]
    text: str
    way_out: tuple[str, ...] = ()


def findings(log: CaptureLog) -> Iterator[Finding]:
    """What is to say of a capture log; nothing of one that is not there yet. Segments are read to their end."""
    if not log.path.is_dir():
        return
    free = shutil.disk_usage(log.path).free
    if free < LEAST_FREE:
        yield Finding(
            "capture disk",
            "wrong",
            f"{free / 1e9:,.2f} GB are free where {log.path} lies: soon rows wait, and are shed",
            ("make room", "`fs log compact` makes files of segments, and removes what is past its retention"),
        )
    for service in log.services():
        try:
            folders = log.folders(service)
        except NotFound:
            continue
        except CaptureError as error:
            yield _wrong(f"captured {service}", error)
            continue
        for folder in folders:
            yield _folder(folder)
    for what in ("predictions", "labels"):
        if (log.path / what).is_dir():
            with closing(EventLog.open(log.path / what, COLUMNS)) as events:
                yield _segments(f"captured {what}", events, "")


def _folder(folder: Folder) -> Finding:
    schema = folder.schema
    subject = f"captured {schema.service} {schema.fingerprint[:8]}"
    try:
        manifest = folder.manifest()
        for part in manifest.parts:
            rows = sum(pq.ParquetFile(folder.path / f).metadata.num_rows for f in part.files)
            if rows != part.rows:
                text = f"{part.rows:,} rows of offsets {part.first} to {part.end} are to be in files, and {rows:,} are"
                return Finding(subject, "wrong", text, (f"restore {folder.path} from a backup",))
        kept = f"{sum(p.rows for p in manifest.parts):,} rows in {len(manifest.files)} files, "
    except (CaptureError, OSError, pa.ArrowException) as error:
        return _wrong(subject, error)
    if not (folder.path / "log").is_dir():
        return Finding(subject, "ok", f"{kept}none in segments")
    with folder.open() as events:
        return _segments(subject, events, kept, compacted=manifest.end)


def _segments(subject: str, events: EventLog, kept: str, compacted: int = 0) -> Finding:
    try:
        damaged = events.check()
        if damaged:
            head, *_ = str(damaged[0]).splitlines()
            return Finding(
                subject,
                "wrong",
                head,
                ("`fs log status` sets the damaged bytes aside; the rows around them are read",),
            )
        stats = events.stats()
    except (LogError, OSError) as error:
        return _wrong(subject, error)
    torn = torn_bytes(events.directory)
    text = f"{kept}{max(stats.end - max(compacted, stats.start), 0):,} in {stats.segments} segments"
    if torn:
        text += f"; {torn:,} bytes of an append that did not end, which the next one cuts off"
    if stats.bad_files:
        names = ", ".join(f.name for f in stats.bad_files)
        return Finding(
            subject,
            "wrong",
            f"{text}; {stats.skipped:,} rows were damaged and set aside",
            (f"look at the disk; once that is settled, move away {names} in {events.directory}",),
        )
    if kept and stats.bytes > MOST_LOGGED:
        return Finding(
            subject,
            "wrong",
            f"{text} of {stats.bytes / 1e9:,.1f} GB",
            ("`fs log compact` makes files of them",),
        )
    return Finding(subject, "ok", text)


def torn_bytes(directory: Path) -> int:
    """Bytes behind the last whole append of a log."""
    names = segment_offsets(directory)
    if not names:
        return 0
    with closing(Segment(directory / file_name(names[-1]))) as segment:
        position = segment.start
        for found in segment.frames(position, segment.first_offset):
            if isinstance(found, Torn):
                return segment.size() - position
            position = found[0].end if isinstance(found, tuple) else position
        return max(segment.size() - position, 0)


def _wrong(subject: str, error: BaseException) -> Finding:
    head, *rest = str(error).splitlines() or [type(error).__name__]
    return Finding(subject, "wrong", head, tuple(line.strip() for line in rest if line.strip()))
