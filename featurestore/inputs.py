"""What a source's files are at a moment, so that the next materialisation can tell which are new, changed or gone.

A file is known by size and time of modification, never by reading all of it. Which range of event time it holds comes from
Parquet's statistics, and where there are none, from one query over the new and changed files. Of files at a URL, of tables and
of queries nothing is known: they are read anew each time, and nobody notices what came late.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from featurestore.compile.files import bounds_of, files_of
from featurestore.compile.sources import Connection, engine_errors
from featurestore.config import expand
from featurestore.ir import Source
from featurestore.ledger import Hole


@dataclass(frozen=True, slots=True)
class File:
    """A file below or beside the project's folder. `first` and `last` are the event times of its events, None without any."""

    path: str
    size: int
    mtime_ns: int
    rows: int
    first: int | None
    last: int | None

    def same(self, other: File) -> bool:
        return (self.size, self.mtime_ns) == (other.size, other.mtime_ns)


@dataclass(frozen=True)
class Inputs:
    """The files of a source, by path."""

    files: tuple[File, ...]

    @cached_property
    def by_path(self) -> Mapping[str, File]:
        return {f.path: f for f in self.files}

    @property
    def last(self) -> int | None:
        """The time of the last event; None when there is none, or the source is static."""
        return max((f.last for f in self.files if f.last is not None), default=None)

    def same(self, other: Inputs) -> bool:
        """Whether no file came, changed or went."""
        mine, theirs = self.by_path, other.by_path
        return mine.keys() == theirs.keys() and all(f.same(theirs[p]) for p, f in mine.items())

    def to_text(self) -> str:
        rows = [[f.path, f.size, f.mtime_ns, f.rows, f.first, f.last] for f in self.files]
        return json.dumps(rows, separators=(",", ":"))

    @staticmethod
    def from_text(text: str) -> Inputs:
        """Raises ValueError or TypeError for what `to_text` did not write."""
        return Inputs(tuple(File(*row) for row in json.loads(text)))


def look(con: Connection, source: Source, root: Path, before: Inputs | None = None) -> Inputs | None:
    """What the source's files are now; None where that cannot be known. Files that are as they were `before` are not opened.

    Raises SourceError and EngineError for a file that cannot be read.
    """
    location = source.location
    if location.kind not in ("parquet", "csv", "json"):
        return None
    path = expand(location.path)
    if re.match(r"[a-z0-9]+://", path):
        return None
    known = {} if before is None else before.by_path
    kept: dict[str, File] = {}
    new: dict[str, tuple[str, int, int]] = {}
    with engine_errors():
        names = files_of(con, str(root / path))
    if not names:
        return None  # gone, or read by another rule than a pattern's
    for name in names:
        try:
            found = Path(name).stat()
        except FileNotFoundError:
            continue  # gone since it was listed
        short = os.path.relpath(name, root)
        old = known.get(short)
        if old is not None and (old.size, old.mtime_ns) == (found.st_size, found.st_mtime_ns):
            kept[short] = old
        else:
            new[name] = (short, found.st_size, found.st_mtime_ns)
    with engine_errors():
        bounds = bounds_of(con, source, root, list(new))
    for name, (short, size, mtime_ns) in new.items():
        kept[short] = File(short, size, mtime_ns, *bounds.get(name, (0, None, None)))
    return Inputs(tuple(f for _, f in sorted(kept.items())))


LATE, CHANGED, GONE = "late file", "changed file", "removed file"


def noticed(before: Inputs, now: Inputs, start: int | None, end: int) -> list[Hole]:
    """The ranges between `start` (None is the beginning) and `end` in which files hold other events than they did before.

    Of a changed file all its range is suspect. Ranges of one reason that overlap are one; `rows` is what the files hold.
    """
    touched: list[tuple[str, int, int, int]] = []
    for path in before.by_path.keys() | now.by_path.keys():
        old, new = before.by_path.get(path), now.by_path.get(path)
        if old is not None and new is not None and old.same(new):
            continue
        reason = LATE if old is None else GONE if new is None else CHANGED
        there = [f for f in (old, new) if f is not None]
        firsts, lasts = (
            [f.first for f in there if f.first is not None],
            [f.last for f in there if f.last is not None],
        )
        if not firsts or not lasts:
            continue  # no event before, none now
        low = min(firsts) if start is None else max(min(firsts), start)
        high = min(max(lasts) + 1, end)
        if low < high:
            touched.append((reason, low, high, there[-1].rows))
    holes: list[Hole] = []
    for reason, low, high, rows in sorted(touched):
        last = holes[-1] if holes else None
        if last is not None and last.reason == reason and low <= last.end:
            holes[-1] = Hole(last.start, max(last.end, high), reason, last.rows + rows)
        else:
            holes.append(Hole(low, high, reason, rows))
    return holes
