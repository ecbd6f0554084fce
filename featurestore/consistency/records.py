"""What is said of served values: by feature, and why each difference is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from featurestore.time import moment_text

Cause = Literal[
    "float_order",
    "sketch",
    "late_event",
    "stale_stream",
    "stale_batch",
    "own_event",
    "inexact",
    "default",
    "definition",
    "external",
    "unexplained",
]

CAUSES: Final[Mapping[Cause, str]] = {
    "float_order": "the same events, added in another order: within 1e-9 of their size",
    "sketch": "an approximation, within twice its stated error",
    "late_event": "an event arrived after the request, or too late for the stream",
    "stale_stream": "events had arrived that the stream had not applied yet",
    "stale_batch": "events were there that had not been materialised, or that the batch source still lacks",
    "own_event": "an event of the row's own moment, or of after it, was counted",
    "inexact": "a read of the past, of a store that could not tell: it keeps what is newer",
    "default": "the default was served in the place of a value",
    "definition": "the feature means something else now",
    "external": "the source, or what a Python function takes from outside, is not what it was",
    "unexplained": "none of these",
}
"""Why a served value differs from the one that a training set has, in words. Each difference has the first that holds."""


@dataclass(frozen=True, slots=True)
class Example:
    """One cell that differs: what was served, what is computed now (plain values), why, and what shows it."""

    row_id: str
    served: Any
    now: Any
    cause: Cause
    note: str = ""


@dataclass(frozen=True, slots=True)
class FeatureConsistency:
    """One feature over all rows compared. `nulls` are the cells that have a value on one side alone.

    `smape` is the mean of 2|a - b| / (|a| + |b|) where both are numbers; `edits` the mean number of items to insert, remove or
    replace where both are lists (or maps: entries that are not the same). None where there is no such pair.
    """

    feature: str
    cells: int
    differing: int
    nulls: int
    smape: float | None
    edits: float | None
    causes: Mapping[Cause, int]
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True)
class LoggedReport:
    """What came of comparing captured rows with training values of their moments. `start` and `end` (µs) bound the rows.

    `left_out` counts rows that could not be compared, by why.
    """

    service: str
    rows: int
    start: int | None
    end: int | None
    features: tuple[FeatureConsistency, ...]
    left_out: Mapping[str, int]
    sample: int
    seconds: float

    @property
    def cells(self) -> int:
        return sum(f.cells for f in self.features)

    @property
    def differing(self) -> int:
        return sum(f.differing for f in self.features)

    @property
    def causes(self) -> dict[Cause, int]:
        """How many cells differ for each cause that there is."""
        found: Counter[Cause] = Counter()
        for feature in self.features:
            found.update(feature.causes)
        return {cause: found[cause] for cause in CAUSES if found[cause]}

    @property
    def unexplained(self) -> int:
        return self.causes.get("unexplained", 0)

    @property
    def passed(self) -> bool:
        """Whether something was compared, and every difference has a cause."""
        return self.cells > 0 and not self.unexplained

    @property
    def same(self) -> bool:
        """Whether something was compared, and nothing differs."""
        return self.cells > 0 and not self.differing

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "service": self.service,
            "passed": self.passed,
            "same": self.same,
            "rows": self.rows,
            "cells": self.cells,
            "differing": self.differing,
            "unexplained": self.unexplained,
            "causes": dict(self.causes),
            "start": moment_text(self.start),
            "end": moment_text(self.end),
            "sample": self.sample,
            "left_out": dict(self.left_out),
            "features": [_feature(f) for f in self.features],
            "seconds": round(self.seconds, 3),
        }

    def summary(self) -> str:
        """One line."""
        if not self.cells:
            return "nothing was compared"
        said = ", ".join(f"{n:,} {cause}" for cause, n in self.causes.items())
        differing = f"{self.differing:,} differ ({said})" if self.differing else "all equal"
        return (
            f"{self.cells:,} served values of {self.rows:,} rows compared with the training values of their moments: "
            f"{differing}, {self.unexplained:,} unexplained"
        )

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield self.summary()
        for f in self.features:
            for example in f.examples:
                note = f" ({example.note})" if example.note else ""
                yield f"{f.feature} of {example.row_id}: {example.served!r}, now {example.now!r}: {example.cause}{note}"


def _feature(f: FeatureConsistency) -> dict[str, Any]:
    return {
        "feature": f.feature,
        "cells": f.cells,
        "differing": f.differing,
        "nulls": f.nulls,
        "smape": f.smape,
        "edits": f.edits,
        "causes": dict(f.causes),
        "examples": [
            {"row_id": e.row_id, "served": e.served, "now": e.now, "cause": e.cause, "note": e.note}
            for e in f.examples
        ],
    }


__all__ = ["CAUSES", "Cause", "Example", "FeatureConsistency", "LoggedReport"]
