"""What a monitor looks at: plain values for `Monitor(checks=[…])`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from featurestore.time import Duration, days, minutes


@dataclass(frozen=True, slots=True)
class Drift:
    """Features beside the monitor's baseline; `by` slice by slice. The other fields are those of `drift.Limits`."""

    features: tuple[str, ...] = ()
    by: str | None = None
    effect: float = 0.1
    alpha: float = 0.01
    min_rows: int = 100
    usual: bool = True
    effects: Mapping[str, float] = field(default_factory=dict)
    tests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Schema:
    """Columns as planned."""


@dataclass(frozen=True, slots=True)
class Rows:
    """As many rows as usual."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """What is served, or the newest event of a source, is no older than `within`; None is the service's `max_staleness`."""

    within: Duration | None = None


@dataclass(frozen=True, slots=True)
class Expectations:
    """The expectations that were declared hold."""


@dataclass(frozen=True, slots=True)
class Skew:
    """What was served looks like what was trained on."""

    effect: float = 0.1
    alpha: float = 0.01
    min_rows: int = 100


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions look as in the baseline, are not stuck for `stuck`, and keep `diversity` of the baseline's entropy."""

    effect: float = 0.1
    alpha: float = 0.01
    min_rows: int = 100
    stuck: Duration = field(default_factory=lambda: minutes(10))
    diversity: float = 0.5


@dataclass(frozen=True, slots=True)
class Quality:
    """Predictions beside labels, as these come: `accuracy` and `log_loss` bounds, `drop` from the baseline; `by` slices."""

    label: str | None = None
    accuracy: float | None = None
    log_loss: float | None = None
    calibration: float | None = None
    drop: float = 0.05
    by: str | None = None
    min_rows: int = 100


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels are shared out as in the baseline."""

    label: str | None = None
    effect: float = 0.1
    alpha: float = 0.01
    min_rows: int = 100


@dataclass(frozen=True, slots=True)
class Objective:
    """A promise of a service: a share `of` of reads within `latency`, a share `availability` answered, over a period."""

    latency: Duration | None = None
    of: float = 0.99
    availability: float | None = None
    freshness: Duration | None = None
    over: Duration = field(default_factory=lambda: days(30))


Check = Drift | Schema | Rows | Fresh | Expectations | Skew | Predictions | Quality | Labels | Objective


def drift(
    *features: str,
    by: str | None = None,
    effect: float = 0.1,
    alpha: float = 0.01,
    min_rows: int = 100,
    usual: bool = True,
    effects: Mapping[str, float] | None = None,
    tests: Sequence[str] = (),
) -> Drift:
    """Whether features look like the monitor's baseline: all, or those named. `tests` decide in place of the default ones."""
    return Drift(features, by, effect, alpha, min_rows, usual, dict(effects or {}), tuple(tests))


def schema() -> Schema:
    """Whether columns are there, and of the types that were planned."""
    return Schema()


def rows() -> Rows:
    """Whether as many rows came as in the windows of the baseline."""
    return Rows()


def fresh(within: Duration | None = None) -> Fresh:
    """Whether what is served is no older than this; None is the service's own `max_staleness`."""
    return Fresh(within)


def expectations() -> Expectations:
    """Whether the declared expectations hold."""
    return Expectations()


def skew(*, effect: float = 0.1, alpha: float = 0.01, min_rows: int = 100) -> Skew:
    """Whether the served log looks like the training set."""
    return Skew(effect, alpha, min_rows)


def predictions(
    *,
    effect: float = 0.1,
    alpha: float = 0.01,
    min_rows: int = 100,
    stuck: Duration | None = None,
    diversity: float = 0.5,
) -> Predictions:
    """Whether predictions are spread as in the baseline, not stuck, and as diverse."""
    return Predictions(effect, alpha, min_rows, stuck or minutes(10), diversity)


def quality(
    label: str | None = None,
    *,
    accuracy: float | None = None,
    log_loss: float | None = None,
    calibration: float | None = None,
    drop: float = 0.05,
    by: str | None = None,
    min_rows: int = 100,
) -> Quality:
    """Whether predictions are as good as they were, by the labels that have come."""
    return Quality(label, accuracy, log_loss, calibration, drop, by, min_rows)


def labels(
    label: str | None = None, *, effect: float = 0.1, alpha: float = 0.01, min_rows: int = 100
) -> Labels:
    """Whether labels are shared out as in the baseline."""
    return Labels(label, effect, alpha, min_rows)


def objective(
    *,
    latency: Duration | None = None,
    of: float = 0.99,
    availability: float | None = None,
    freshness: Duration | None = None,
    over: Duration | None = None,
) -> Objective:
    """A promise of a service, and its error budget over a period (30 days)."""
    return Objective(latency, of, availability, freshness, over or days(30))


DEFAULT: Sequence[Check] = (Schema(), Rows(), Drift(), Expectations())
"""What a monitor looks at that names no checks."""

__all__ = [
    "DEFAULT",
    "Check",
    "Drift",
    "Expectations",
    "Fresh",
    "Labels",
    "Objective",
    "Predictions",
    "Quality",
    "Rows",
    "Schema",
    "Skew",
    "drift",
    "expectations",
    "fresh",
    "labels",
    "objective",
    "predictions",
    "quality",
    "rows",
    "schema",
    "skew",
]
