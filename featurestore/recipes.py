"""How kept statistics are made again, and which of their partitions have to be.

A recipe lies beside the statistics it is about. What changes the data behind a partition (an erasure, a repair) marks it; whoever
makes it again takes the mark away, unless a newer one was set meanwhile.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from featurestore.capture.log import locked
from featurestore.errors import StatisticsError
from featurestore.statistics import Statistics


@dataclass(frozen=True, slots=True)
class Spine:
    """A file of rows that a training set was made of: what was asked for, and how large and how old the file was."""

    path: str
    timestamp: str
    asked: str
    size: int
    modified: int

    @classmethod
    def of(cls, path: str | Path, timestamp: str, asked: str) -> Self:
        """A file as it is now. Raises StatisticsError where there is none."""
        file = Path(path).absolute()
        try:
            found = file.stat()
        except OSError as error:
            raise StatisticsError(f"spine {path}: {error.strerror}") from error
        return cls(str(file), timestamp, asked, found.st_size, found.st_mtime_ns)

    def changed(self) -> str | None:
        """Why the rows are not those of then; None while they are."""
        try:
            now = Spine.of(self.path, self.timestamp, self.asked)
        except StatisticsError as error:
            return str(error)
        return None if now == self else f"spine {self.path} is another file than it was made of"


@dataclass(frozen=True, slots=True)
class Mark:
    """A partition whose data changed: `id` is of this mark alone."""

    id: str
    why: str


@dataclass(frozen=True)
class Recipe:
    """What statistics were made of: spines, moments at which the online store was read, or the capture log.

    `spans` are of time that a stream was followed for; they and moments are by partition. `cursor` is how far the log was read,
    `meaning` the fingerprint of the service then. `whole` is whether that is all. `digest` is of the statistics' bytes.
    """

    spines: tuple[Spine, ...] = ()
    moments: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    spans: Mapping[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    cursor: Mapping[str, int] | None = None
    meaning: str = ""
    whole: bool = False
    stale: Mapping[int, Mark] = field(default_factory=dict)
    digest: str = ""

    def and_also(self, other: Recipe) -> Recipe:
        """The recipe of both together."""
        moments = dict(self.moments)
        for start, more in other.moments.items():
            moments[start] = (*moments.get(start, ()), *more)
        spans = dict(self.spans)
        for start, some in other.spans.items():
            spans[start] = (*spans.get(start, ()), *some)
        whole = self.whole and other.whole and self.cursor is None and other.cursor is None
        return Recipe((*self.spines, *other.spines), moments, spans, None, "", whole, self.stale)

    @property
    def reached(self) -> int | None:
        """Until when a stream was followed; None where it never was."""
        return max((end for some in self.spans.values() for _, end in some), default=None)

    def to_json(self) -> dict[str, Any]:
        return {
            "spines": [{n: getattr(s, n) for n in Spine.__slots__} for s in self.spines],
            "moments": {str(start): list(m) for start, m in self.moments.items()},
            "spans": {str(start): [list(s) for s in some] for start, some in self.spans.items()},
            "cursor": self.cursor,
            "meaning": self.meaning,
            "whole": self.whole,
            "stale": {str(start): [m.id, m.why] for start, m in self.stale.items()},
            "digest": self.digest,
        }

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        return cls(
            tuple(Spine(**s) for s in said["spines"]),
            {int(start): tuple(m) for start, m in said["moments"].items()},
            {int(s): tuple((a, b) for a, b in some) for s, some in said.get("spans", {}).items()},
            said["cursor"],
            said["meaning"],
            said["whole"],
            {int(start): Mark(*m) for start, m in said["stale"].items()},
            said["digest"],
        )


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Nobody else changes what is kept in the folder of these statistics meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent):
        yield


def read(path: Path) -> Recipe:
    """The recipe of the statistics in a file. One that says nothing of how they are made where that is not known.

    So it is where statistics were kept without a recipe, or a process was killed between writing the two: marks stay.
    """
    try:
        found = Recipe.from_json(json.loads(_beside(path).read_bytes()))
    except FileNotFoundError:
        return Recipe()
    except (ValueError, KeyError, TypeError) as error:
        raise StatisticsError(
            f"{_beside(path)}: no recipe: {error}\n  remove it, and make them again"
        ) from error
    if path.exists() and found.digest != _digest(path.read_bytes()):
        return Recipe(stale=found.stale)
    return found


def write(path: Path, statistics: Statistics, recipe: Recipe) -> Path:
    """Puts statistics and their recipe in the place of those that lie there."""
    raw = statistics.to_bytes()
    _replace(_beside(path), json.dumps(replace(recipe, digest=_digest(raw)).to_json()).encode())
    return _replace(path, raw)


def mark(path: Path, why: str, starts: Collection[int]) -> int:
    """Marks partitions of the statistics in a file; how many of these there are."""
    if not path.exists() or not starts:
        return 0
    with changing(path):
        recipe = read(path)
        marks = {start: Mark(secrets.token_hex(8), why) for start in starts}
        raw = path.read_bytes()
        known = replace(recipe, stale={**recipe.stale, **marks}, digest=_digest(raw))
        _replace(_beside(path), json.dumps(known.to_json()).encode())
    return len(marks)


def _beside(path: Path) -> Path:
    return path.with_suffix(".recipe.json")


def _digest(raw: bytes) -> str:
    return sha256(raw).hexdigest()


def _replace(path: Path, raw: bytes) -> Path:
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    partial.write_bytes(raw)
    return partial.replace(path)


__all__ = ["Mark", "Recipe", "Spine", "changing", "mark", "read", "write"]
