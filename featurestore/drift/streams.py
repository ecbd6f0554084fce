"""What is looked at one value after another: errors of a model as labels come, and answers as they are given."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from featurestore.errors import RequestError, Unsupported, nearest
from featurestore.evaluate.ranges import Array

Detector = Literal["adwin", "page-hinkley"]
DETECTORS: tuple[Detector, ...] = ("adwin", "page-hinkley")

LEAST_ANSWERS = 20
"""Answers below which a model is not called stuck, however alike they are."""


@dataclass(frozen=True, slots=True)
class Change:
    """Where a stream changed: the place at which it was noticed, and its mean before and after."""

    place: int
    before: float
    after: float


def detector(kind: Detector = "adwin", **settings: Any) -> Any:
    """One of river's detectors, which takes values by `update` and says `drift_detected`. State can be pickled.

    ADWIN (Bifet and Gavaldà, 2007) keeps a window that it cuts where both sides differ beyond chance. Page–Hinkley sums what is
    above the mean so far; its `threshold` and `delta` are in the unit of the values.
    """
    drift: Any
    try:
        from river import drift
    except ImportError as error:
        raise Unsupported(
            "this installation", "look at streams without river", "pip install 'featurestore[monitoring]'"
        ) from error
    match kind:
        case "adwin":
            return drift.ADWIN(**settings)
        case "page-hinkley":
            return drift.PageHinkley(**settings)
        case _:
            raise RequestError("\n  ".join([f"no detector '{kind}'", *nearest(str(kind), DETECTORS)]))


def changes(
    values: Iterable[float], kind: Detector = "adwin", *, worse_only: bool = False, **settings: Any
) -> list[Change]:
    """Where a stream changes: of errors (0 and 1) or losses of a model, in the order in which their labels came.

    NaN is passed over. `worse_only` leaves out changes to lower values.
    """
    looking = detector(kind, **settings)
    found: list[Change] = []
    seen: list[float] = []
    for place, value in enumerate(values):
        number = float(value)
        if math.isnan(number):
            continue
        seen.append(number)
        looking.update(number)
        if looking.drift_detected:
            cut = _cut(np.array(seen))
            change = Change(place, float(np.mean(seen[:cut])), float(np.mean(seen[cut:])))
            if not worse_only or change.after > change.before:
                found.append(change)
            seen = seen[cut:]
    return found


def _cut(values: Array) -> int:
    """Where the means before and after are furthest apart, for how many values they are of."""
    n = len(values)
    if n < 2:
        return 0
    k = np.arange(1, n)
    apart = np.abs(np.cumsum(values)[:-1] - k / n * values.sum()) / np.sqrt(k * (n - k) / n)
    return int(apart.argmax()) + 1


# ------------------------------------------------------------------------------------------------------- answers given


@dataclass(frozen=True, slots=True)
class Stuck:
    """Whether the newest answers are all the same: how many, and for how long (µs)."""

    stuck: bool
    value: Hashable
    answers: int
    lasted: int


def stuck(times: Sequence[int], answers: Sequence[Hashable], length: int) -> Stuck:
    """Whether the same answer has been given for at least `length` microseconds, in the order of `times`.

    >>> stuck([0, 5, 10], ["a", "b", "b"], 5).lasted
    5
    """
    if not len(answers):
        return Stuck(stuck=False, value=None, answers=0, lasted=0)
    order = np.argsort(np.asarray(times), kind="stable")
    last = answers[int(order[-1])]
    count = 0
    first = end = int(times[int(order[-1])])
    for place in reversed(order.tolist()):
        if answers[place] != last:
            break
        count += 1
        first = int(times[place])
    lasted = end - first
    return Stuck(stuck=lasted >= length and count >= LEAST_ANSWERS, value=last, answers=count, lasted=lasted)


@dataclass(frozen=True, slots=True)
class Diversity:
    """How varied answers are: entropy in nats, how many distinct ones, and the share that the most frequent takes."""

    entropy: float
    distinct: int
    top: float
    answers: int


def diversity(answers: Iterable[Hashable]) -> Diversity:
    """Of answers that are classes, items, or numbers already put into bins."""
    counts = Counter(answers)
    total = sum(counts.values())
    if not total:
        return Diversity(0.0, 0, 0.0, 0)
    shares = [c / total for c in counts.values()]
    return Diversity(-sum(s * math.log(s) for s in shares), len(counts), max(shares), total)


def coverage(answers: Iterable[Hashable], possible: Iterable[Hashable]) -> float | None:
    """The share of what might have been answered that was; None when nothing might."""
    every = set(possible)
    return len(every & set(answers)) / len(every) if every else None


def into_bins(values: Array, edges: Array) -> list[int]:
    """Numbers as the bins that the edges of a baseline make, so that their diversity can be told."""
    places: list[int] = np.searchsorted(edges, values[np.isfinite(values)], "right").tolist()
    return places


# -------------------------------------------------------------------------------------------------- answers and labels


@dataclass(frozen=True, slots=True)
class Quality:
    """How good predictions are beside labels. `accuracy` of classes, or of chances cut at a half; the others of chances alone.

    `calibration` is the mean distance of chance and share over ten bins of equal width, each weighing as many rows as it holds.
    """

    rows: int
    accuracy: float | None
    log_loss: float | None = None
    calibration: float | None = None

    def to_json(self) -> dict[str, float]:
        figures = {"accuracy": self.accuracy, "log_loss": self.log_loss, "calibration": self.calibration}
        return {k: v for k, v in figures.items() if v is not None}


EDGE = 1e-15
"""Chances are taken for no nearer to 0 and 1 than this, so that one sure mistake does not cost infinitely much."""


def quality(predictions: Array, labels: Array) -> Quality:
    """Of chances (floats in 0 to 1, beside labels of 0 and 1), or of classes beside classes. Pairs with a NULL are left out."""
    known = _known(predictions) & _known(labels)
    p, y = np.asarray(predictions)[known], np.asarray(labels)[known]
    if not len(p):
        return Quality(0, None)
    if not chances(p, y):
        return Quality(len(p), float((p == y).mean()))
    p, y = p.astype(np.float64), y.astype(np.float64)
    clipped = np.clip(p, EDGE, 1 - EDGE)
    loss = -(y * np.log(clipped) + (1 - y) * np.log(1 - clipped)).mean()
    places = np.minimum((p * 10).astype(int), 9)
    sizes = np.bincount(places, minlength=10)
    apart = np.abs(np.bincount(places, p, 10) - np.bincount(places, y, 10))
    return Quality(
        len(p), float(((p >= 0.5) == (y >= 0.5)).mean()), float(loss), float(apart.sum() / sizes.sum())
    )


def _known(values: Array) -> Array:
    """Which are neither None nor NaN, the one value that is not itself."""
    given = np.asarray(values)
    if given.dtype.kind == "f":
        some: Array = ~np.isnan(given)
        return some
    if given.dtype.kind != "O":
        return np.ones(len(given), bool)
    return np.array([v is not None and not (isinstance(v, float) and math.isnan(v)) for v in given], bool)


def chances(predictions: Array, labels: Array) -> bool:
    """Whether these are chances beside labels of 0 and 1."""
    if predictions.dtype.kind != "f" or labels.dtype.kind not in "fiub":
        return False
    truth = set(np.unique(labels.astype(np.float64)).tolist())
    return bool(truth <= {0.0, 1.0} and ((predictions >= 0) & (predictions <= 1)).all())


def errors_of(predictions: Array, labels: Array) -> Array:
    """The loss of each row: the distance of chance and label, or 1 where a class is wrong."""
    p, y = np.asarray(predictions), np.asarray(labels)
    if chances(p, y):
        apart: Array = np.abs(p.astype(np.float64) - y.astype(np.float64))
        return apart
    wrong: Array = (p != y).astype(np.float64)
    return wrong


def losses(predictions: Array, labels: Array) -> Array:
    """The log loss of each row, of chances."""
    p = np.clip(np.asarray(predictions, np.float64), EDGE, 1 - EDGE)
    y = np.asarray(labels, np.float64)
    out: Array = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    return out


def by_slice(slices: Sequence[Hashable], predictions: Array, labels: Array) -> Mapping[Hashable, Quality]:
    """The quality of each slice."""
    names = np.asarray(slices, object)
    return {n: quality(predictions[names == n], labels[names == n]) for n in dict.fromkeys(names.tolist())}


__all__ = [
    "DETECTORS",
    "Change",
    "Diversity",
    "Quality",
    "Stuck",
    "by_slice",
    "changes",
    "coverage",
    "detector",
    "diversity",
    "errors_of",
    "into_bins",
    "losses",
    "quality",
    "stuck",
]
