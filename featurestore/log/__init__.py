"""Events on their way in: the append-only log of a source, folders that event files arrive in, and one conversion."""

from __future__ import annotations

from featurestore.log.eventlog import Appended, Batch, EventLog, LogStats, Pruned, Skipped
from featurestore.log.events import DeadLetter, arrow_schema, events_table, events_table_lenient
from featurestore.log.files import ChangedFile, FileBatch, FilesFeed

__all__ = [
    "Appended",
    "Batch",
    "ChangedFile",
    "DeadLetter",
    "EventLog",
    "FileBatch",
    "FilesFeed",
    "LogStats",
    "Pruned",
    "Skipped",
    "arrow_schema",
    "events_table",
    "events_table_lenient",
]
