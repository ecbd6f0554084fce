"""A feature as people write it, and its window as they draw it: events on a line of hops, the tail, the moment asked for."""

from __future__ import annotations

from collections.abc import Sequence

from featurestore.expr import describe
from featurestore.ir import Feature
from featurestore.time import SECOND, duration_text, floor, moment_text, tail

WIDTH = 72
"""Characters of the line."""


def meaning(feature: Feature) -> str:
    """A feature as it could be written: `last_k(amount, k=3).where(online).over(1h, hop=5m)`."""
    inputs = [*map(describe, feature.inputs), *(f"{name}={value}" for name, value in feature.params)]
    text = f"{feature.aggregate}({', '.join(inputs)})"
    if feature.where is not None:
        text += f".where({describe(feature.where)})"
    if feature.window is not None:
        size = "lifetime" if feature.window.size is None else duration_text(feature.window.size)
        text += f".over({size}, hop={duration_text(feature.window.hop)})"
    if feature.default is not None:
        text += f".default({feature.default!r})"
    return text


def picture(feature: Feature, times: Sequence[int], asked: int, ttl: int | None = None) -> list[str]:
    """Lines that show which of the events at `times` a feature counts when it is asked for at `asked` (microseconds).

    `x` is an event that counts, `o` one that does not; where several fall on one character, one that counts is shown. The
    last line names the marks.
    """
    window = feature.window
    before = sorted(t for t in times if t < asked)
    if window is None:
        start = None if ttl is None else asked - ttl
        counted = [t for t in before[-1:] if start is None or t >= start]
    else:
        start = None if window.size is None else tail(asked, window.size, window.hop)
        counted = [t for t in before if start is None or t >= start]
    first = start if start is not None else min(before, default=asked - (window.hop if window else SECOND))
    left, right = min([first, *before[-1:]]), asked
    span = max(right - left, 1)
    left -= span // 8
    right += span // 24
    span = right - left

    def place(moment: int) -> int:
        return min(WIDTH - 1, max(0, (moment - left) * (WIDTH - 1) // span))

    marks = [" "] * WIDTH
    for t in times:
        if left <= t <= right and t not in counted:
            marks[place(t)] = "o"
    for t in counted:
        marks[place(t)] = "x"
    lines = [f"events  {''.join(marks).rstrip()}"]
    rule = [" "] * WIDTH
    start_at = place(first)
    end_at = place(asked)
    for i in range(start_at, end_at):
        rule[i] = "-"
    if window is not None:
        edges = (floor(asked, window.hop) - first) // window.hop
        if edges <= (end_at - start_at) // 2:  # else there is no room for every hop
            for edge in range(floor(first, window.hop), asked, window.hop):
                if edge >= first:
                    rule[place(edge)] = "|"
        for i in range(place(floor(asked, window.hop)) + 1, end_at):
            rule[i] = "~"
    rule[start_at] = "[" if start is not None else "<"
    rule[end_at] = ")"
    lines.append(f"window  {''.join(rule).rstrip()}")
    lines.append(f"        {_legend(feature, first if start is not None else None, asked)}")
    outside = len(times) - len(counted)
    lines.append(f"        x {len(counted)} counted, o {outside} not")
    return lines


def _legend(feature: Feature, start: int | None, asked: int) -> str:
    parts = [f"[ {moment_text(start)}" if start is not None else "< the beginning"]
    if feature.window is not None:
        edge = floor(asked, feature.window.hop)
        if edge != asked:
            parts.append(f"~ since the hop edge {moment_text(edge)}")
    return ", ".join([*parts, f") asked at {moment_text(asked)}, exclusive"])
