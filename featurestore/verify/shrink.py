"""From a disagreement to the smallest one: fewer events first, then simpler values.

Dropping is delta debugging (Zeller and Hildebrandt, 2002): halves, quarters, … down to single events.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from featurestore.compile.reference import Event, Value
from featurestore.types import DType, ListType, String, VectorType, is_float

Thing = TypeVar("Thing")

Wrong = Callable[[Sequence[Event]], bool]
"""Whether the disagreement is still there with these events."""


class Patience:
    """How often, and for how many seconds, a shrinking may try."""

    def __init__(self, tries: int, seconds: float) -> None:
        self._left, self._until = tries, time.monotonic() + seconds

    def spent(self) -> bool:
        """Counts one try; whether there was none left."""
        self._left -= 1
        return self._left < 0 or time.monotonic() > self._until


def fewer(
    events: Sequence[Thing], wrong: Callable[[Sequence[Thing]], bool], patience: Patience
) -> list[Thing]:
    """Events (or other things) of which none can be left out without the disagreement going away, as long as patience lasts."""
    kept = list(events)
    if wrong([]):
        return []
    parts = 2
    while len(kept) >= 2:
        size = max(1, len(kept) // parts)
        for start in range(0, len(kept), size):
            rest = kept[:start] + kept[start + size :]
            if patience.spent():
                return kept
            if rest and wrong(rest):
                kept = rest
                parts = max(2, parts - 1)
                break
        else:
            if size == 1:
                return kept
            parts = min(len(kept), parts * 2)
    return kept


def simpler(
    events: Sequence[Event], wrong: Wrong, patience: Patience, schema: dict[str, DType], fixed: frozenset[str]
) -> list[Event]:
    """The same events with values as plain as they can be. Columns in `fixed` keep theirs."""
    kept = [dict(e) for e in events]
    for i in range(len(kept)):
        for name in (n for n in schema if n not in fixed):
            for value in _plainer(kept[i][name], schema[name]):
                if patience.spent():
                    return list(kept)
                tried = {**kept[i], name: value}
                if wrong([*kept[:i], tried, *kept[i + 1 :]]):
                    kept[i] = tried
                    break
    return list(kept)


def _plainer(value: Value, dtype: DType) -> Iterator[Value]:
    """Values to try in place of one, the plainest first."""
    if value is None:
        return
    yield None
    if isinstance(dtype, ListType | VectorType):
        return
    if dtype == String:
        assert isinstance(value, str)
        yield from (t for t in ("", "a", value[:1]) if len(t) < len(value))
    elif is_float(dtype):
        yield from (x for x in (0.0, 1.0, float(int(value)) if abs(value) < 1e15 else value) if x != value)  # type: ignore[arg-type]
    elif not isinstance(value, bool):
        assert isinstance(value, int)
        yield from (n for n in (0, 1, 2, value // 10) if n != value and abs(n) < abs(value))
