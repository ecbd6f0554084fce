"""Dead letters of a Flink job: how many there are of each reason, and which ranges of time lack an event that came too late."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

from featurestore.layout import Layout
from featurestore.time import HOUR

LATE = "late"


def span_of(layout: Layout) -> int:
    """How long a hole is, in microseconds: at least an hour, and whole tiles of every level."""
    return -(-HOUR // layout.grid) * layout.grid


def left_out(letters: Iterable[bytes | None], span: int) -> tuple[Counter[str], Counter[tuple[int, str]]]:
    """Of dead letters how many there are of each reason, and of late ones by the range they belong to, and reason.

    A job that was restarted may write a letter twice: then it counts twice.
    """
    counts: Counter[str] = Counter()
    holes: Counter[tuple[int, str]] = Counter()
    for letter in letters:
        try:
            said = json.loads(letter or b"")
            reason, at = str(said["reason"]), said.get("event_time")
        except (ValueError, KeyError, TypeError, AttributeError):
            counts["unreadable letters"] += 1
            continue
        counts[reason] += 1
        if reason == LATE and isinstance(at, int):
            holes[at - at % span, LATE] += 1
    return counts, holes


__all__ = ["LATE", "left_out", "span_of"]
