"""Baselines as they are written: what a window of values is laid beside."""

from __future__ import annotations

import re
from dataclasses import dataclass

from featurestore.errors import RequestError
from featurestore.time import DAY, HOUR, MINUTE, moment

WEEK = 7 * DAY

_UNITS = {"m": MINUTE, "h": HOUR, "d": DAY, "w": WEEK}


@dataclass(frozen=True, slots=True)
class Training:
    """All rows of the training set that is kept of the service."""


@dataclass(frozen=True, slots=True)
class Between:
    """The rows from `start` until before `end`."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Before:
    """All that came before the window: it grows."""


@dataclass(frozen=True, slots=True)
class Previous:
    """As long before the window; None is as long as the window."""

    length: int | None = None


@dataclass(frozen=True, slots=True)
class Season:
    """The same time of so many earlier periods: for hours of a week, the same hours of the weeks before."""

    periods: int
    period: int = WEEK


Baseline = Training | Between | Before | Previous | Season

FORMS = "training, before, previous, 'previous 28d', 'season 8' (weeks), 2013-01-01..2013-02-01"


def parse_length(text: str) -> int:
    """Microseconds of `90m`, `6h`, `7d`, `2w`.

    >>> parse_length("2w") == parse_length("14d")
    True
    """
    match = re.fullmatch(r"\s*(\d+)\s*([mhdw])\s*", text)
    if match is None or not int(match[1]):
        raise RequestError(f"'{text}' is no length of time\n  write 90m, 6h, 7d or 2w")
    return int(match[1]) * _UNITS[match[2]]


def parse_baseline(text: str) -> Baseline:
    """A baseline as it is written in definitions and on the command line.

    >>> parse_baseline("previous 28d"), parse_baseline("season 8")
    (Previous(length=2419200000000), Season(periods=8, period=604800000000))
    """
    word, _, rest = text.strip().partition(" ")
    if ".." in text:
        return Between(*between(text))
    match word, rest.strip():
        case "training", "":
            return Training()
        case "before" | "cumulative", "":
            return Before()
        case "previous", more:
            return Previous(parse_length(more) if more else None)
        case "season" | "seasonal", more:
            if not more:
                return Season(8)
            if re.fullmatch(r"\d+", more) and int(more):
                return Season(int(more))
            if match := re.fullmatch(r"(\d+)\s*x\s*(\d+[hdw])", more):
                return Season(int(match[1]), parse_length(match[2]))
        case _:
            pass
    raise RequestError(f"'{text}' is no baseline\n  write {FORMS}")


def between(text: str) -> tuple[int, int]:
    first, _, last = text.strip().partition("..")
    start, end = moment(first), moment(last)
    if start >= end:
        raise RequestError(f"'{text}' ends before it begins")
    return start, end


__all__ = [
    "Baseline",
    "Before",
    "Between",
    "Previous",
    "Season",
    "Training",
    "between",
    "parse_baseline",
    "parse_length",
]
