"""Which rows are looked at, and beside which: windows and baselines over statistics kept by partitions of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from featurestore.baselines import (
    Baseline,
    Before,
    Between,
    Previous,
    Season,
    Training,
    between,
    parse_baseline,
    parse_length,
)
from featurestore.errors import StatisticsError
from featurestore.statistics import Statistics, Summary
from featurestore.time import Moment, duration_text, floor, moment, moment_text

MOST_WINDOWS = 60
"""Windows of a baseline that are compared among themselves: the latest."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A window and its baseline: their statistics, and the windows that the baseline consists of. Both said in words."""

    window: Summary
    baseline: Summary
    windows: tuple[Summary, ...]
    span: tuple[int, int]
    window_said: str
    baseline_said: str


def window_span(statistics: Statistics, window: str | None, at: Moment | None = None) -> tuple[int, int]:
    """From when until when a window reaches: `7d` is the last seven days up to `at`, or up to the end of what is kept.

    None is one partition. Only whole partitions: `at` inside one leaves it out, as it is still growing.
    """
    step = statistics.every.microseconds
    if window is not None and ".." in window:
        start, end = between(window)
        return floor(start, step), -floor(-end, step)
    starts = statistics.starts
    if at is None and not starts:
        raise StatisticsError("these statistics hold no rows that have a time\n  a window needs them")
    end = starts[-1] + step if at is None else floor(moment(at), step)
    length = step if window is None else parse_length(window)
    if length % step:
        raise StatisticsError(
            f"a window of {duration_text(length)} is none of whole partitions of {statistics.every}\n"
            f"  give a multiple of {statistics.every}"
        )
    return end - length, end


def choose(
    statistics: Statistics,
    baseline: Baseline,
    window: str | None = None,
    *,
    at: Moment | None = None,
    training: Statistics | None = None,
) -> Chosen:
    """The window of `statistics`, and the baseline beside it; `training` is what `Training()` stands for.

    Where the window reaches into what the baseline would hold, the baseline ends before it. Raises StatisticsError.
    """
    start, end = window_span(statistics, window, at)
    length = end - start
    step = statistics.every.microseconds
    now = statistics.window(start, end)
    source = statistics
    match baseline:
        case Training():
            if training is None:
                raise StatisticsError(
                    "no statistics of a training set are kept\n  `fs stats NAME --spine FILE` makes and keeps them"
                )
            source, spans = training, [(_first(training), _last(training))]
            said = "the training set"
            if training is statistics:
                spans = [(_first(training), start)]
                said = f"the training set before {moment_text(start)}"
            whole = training.total() if training is not statistics else training.window(*spans[0])
            pieces = _pieces(source, spans, length)
            return Chosen(now, whole, pieces, (start, end), _said(start, end), said)
        case Between():
            first, last = floor(baseline.start, step), -floor(-baseline.end, step)
            spans, said = [(first, last)], _said(first, last)
        case Before():
            first = min(_first(statistics), start)
            spans, said = [(first, start)], f"all before, from {moment_text(first)}"
        case Previous():
            first = start - (baseline.length or length)
            spans, said = [(floor(first, step), start)], _said(floor(first, step), start)
        case Season():
            if baseline.period % step or length > baseline.period:
                raise StatisticsError(
                    f"a season of {duration_text(baseline.period)} does not fit a window of {duration_text(length)} "
                    f"of partitions of {statistics.every}"
                )
            shifts = range(1, baseline.periods + 1)
            spans = [(start - k * baseline.period, end - k * baseline.period) for k in reversed(shifts)]
            said = (
                f"the same time of the {baseline.periods} periods of {duration_text(baseline.period)} before"
            )
        case _:
            assert_never(baseline)
    parts = [source.window(a, b) for a, b in spans if a < b]
    whole = Summary.merged(source.columns, source.keep, parts)
    pieces = _pieces(source, spans, length)
    return Chosen(now, whole, pieces, (start, end), _said(start, end), said)


def _pieces(statistics: Statistics, spans: Sequence[tuple[int, int]], length: int) -> tuple[Summary, ...]:
    """The baseline cut into windows as long as the one that is looked at, those without rows left out."""
    out: list[Summary] = []
    for first, last in spans:
        end = last
        while end - length >= first and len(out) < MOST_WINDOWS:
            piece = statistics.window(end - length, end)
            if piece.rows:
                out.append(piece)
            end -= length
    return tuple(out)


def _first(statistics: Statistics) -> int:
    return statistics.starts[0] if statistics.starts else 0


def _last(statistics: Statistics) -> int:
    return statistics.starts[-1] + statistics.every.microseconds if statistics.starts else 0


def _said(start: int, end: int) -> str:
    return f"{moment_text(start)} to {moment_text(end)}"


__all__ = [
    "Baseline",
    "Before",
    "Between",
    "Chosen",
    "Previous",
    "Season",
    "Training",
    "choose",
    "parse_baseline",
    "parse_length",
    "window_span",
]
