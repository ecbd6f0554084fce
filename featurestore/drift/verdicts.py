"""What a comparison says: tests with size and significance, a verdict for each feature, all features judged together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from featurestore.errors import RequestError, nearest

Verdict = Literal["drifted", "stable", "not judged"]

JUDGING = ("mean", "ks", "categories", "new values", "gone values", "missing", "not finite", "share")
"""The tests that decide by default."""

WEIGHT = {"mean": 4.0}
"""How much more than the others a test counts where all are judged together."""

TOLD = ("psi", "js", "wasserstein", "cvm")
"""The tests that are told beside them, and decide where `Limits(tests=…)` names them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What counts as drift: an effect of at least `effect`, with a share of at most `alpha` of false calls.

    `effect` is told on the scale of `drift.effects`: like a shift by so many standard deviations. `min_rows` are needed on both
    sides. `usual` asks besides that the effect is beyond what windows of the baseline show among themselves, where it has at
    least `min_windows`: more than `spread` robust standard deviations above their median. `effects` are thresholds of single
    features. `tests` are those that decide.
    """

    effect: float = 0.1
    alpha: float = 0.01
    min_rows: int = 100
    usual: bool = True
    min_windows: int = 8
    spread: float = 4.0
    effects: Mapping[str, float] = field(default_factory=dict)
    tests: tuple[str, ...] = JUDGING

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1 or self.effect < 0 or self.min_rows < 2:
            raise RequestError(
                f"limits of drift: 0 < alpha < 1, effect >= 0 and min_rows >= 2, not alpha={self.alpha}, "
                f"effect={self.effect}, min_rows={self.min_rows}"
            )
        known = (*JUDGING, *TOLD)
        for name in self.tests:
            if name not in known:
                raise RequestError("\n  ".join([f"no test of drift '{name}'", *nearest(name, known)]))

    def effect_of(self, feature: str) -> float:
        return self.effects.get(feature, self.effect)


@dataclass(frozen=True, slots=True)
class Test:
    """One test of one feature. `effect` has a sign where there is a direction; `p` is how often chance alone would do as much.

    `p` None: the test has a size and no significance, and never decides. `usual` is the effect that the baseline's own
    windows reach. `adjusted` is `p` after Benjamini and Hochberg over all tests that were judged together.
    """

    __test__ = False  # no test of pytest's

    name: str
    effect: float
    p: float | None
    said: str
    value: float | None = None
    usual: float | None = None
    adjusted: float | None = None
    fails: bool = False
    error: float = 0.0
    """The standard error of the effect: so much is given to it where it nearly reaches its threshold."""

    def to_json(self) -> dict[str, Any]:
        return {
            "test": self.name,
            "effect": _plain(self.effect),
            "p": _plain(self.p),
            "adjusted_p": _plain(self.adjusted),
            "usual_effect": _plain(self.usual),
            "value": _plain(self.value),
            "drifted": self.fails,
            "said": self.said,
        }


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """What is said of one feature; `why` says what could not be judged, or what is odd.

    `detectable` is the least shift of its mean that so many rows would show, in standard deviations.
    """

    feature: str
    verdict: Verdict
    tests: tuple[Test, ...]
    rows: tuple[int, int]
    why: str = ""
    detectable: float | None = None
    slice: str | None = None

    @property
    def worst(self) -> Test | None:
        """The failing test of the greatest effect, else the deciding one of the greatest effect."""
        failing = [t for t in self.tests if t.fails] or [t for t in self.tests if t.p is not None]
        return max(failing, key=lambda t: abs(t.effect), default=None)

    @property
    def effect(self) -> float:
        return 0.0 if self.worst is None else abs(self.worst.effect)

    @property
    def said(self) -> str:
        """One line: what moved, or why nothing can be said."""
        if self.verdict == "not judged":
            return self.why
        failing = sorted((t for t in self.tests if t.fails), key=lambda t: (t.name != "mean", -abs(t.effect)))
        return "; ".join(t.said for t in failing[:2]) if failing else self.why

    def to_json(self) -> dict[str, Any]:
        return {
            "feature": self.feature,
            "slice": self.slice,
            "verdict": self.verdict,
            "why": self.why,
            "said": self.said,
            "effect": _plain(self.effect),
            "detectable": _plain(self.detectable),
            "rows": list(self.rows),
            "tests": [t.to_json() for t in self.tests],
        }


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """A column that is new, gone, or of another type."""

    column: str
    change: Literal["added", "removed", "type"]
    said: str


@dataclass(frozen=True, slots=True)
class Volume:
    """How many rows came, beside what windows of the baseline hold: their median, and the range that is usual."""

    rows: int
    median: float
    low: float
    high: float

    @property
    def odd(self) -> bool:
        return not self.low <= self.rows <= self.high

    @property
    def said(self) -> str:
        return f"{self.rows:,} rows; usual are {max(self.low, 0):,.0f} to {self.high:,.0f}"


@dataclass(frozen=True, slots=True)
class DriftReport:
    """What a window is beside its baseline, feature by feature. `window` and `baseline` are in words."""

    features: tuple[FeatureDrift, ...]
    schema: tuple[SchemaChange, ...] = ()
    volume: Volume | None = None
    window: str = ""
    baseline: str = ""
    notes: tuple[str, ...] = ()
    span: tuple[int, int] | None = None
    """From when until when the window reaches, in microseconds; None of rows without time."""

    @property
    def drifted(self) -> tuple[FeatureDrift, ...]:
        return tuple(f for f in self.features if f.verdict == "drifted")

    @property
    def not_judged(self) -> tuple[FeatureDrift, ...]:
        return tuple(f for f in self.features if f.verdict == "not judged")

    @property
    def share(self) -> float | None:
        """The share of the features that could be judged which drifted."""
        judged = len(self.features) - len(self.not_judged)
        return len(self.drifted) / judged if judged else None

    @property
    def verdict(self) -> Verdict:
        if self.drifted or self.schema or (self.volume is not None and self.volume.odd):
            return "drifted"
        return "stable" if len(self.not_judged) < len(self.features) else "not judged"

    def __getitem__(self, feature: str) -> FeatureDrift:
        return next(f for f in self.features if f.feature == feature)

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "window": self.window,
            "baseline": self.baseline,
            "drifted": [f.feature for f in self.drifted],
            "not_judged": {f.feature: f.why for f in self.not_judged},
            "share": _plain(self.share),
            "schema": [{"column": c.column, "change": c.change, "said": c.said} for c in self.schema],
            "volume": None
            if self.volume is None
            else {
                "rows": self.volume.rows,
                "median": self.volume.median,
                "low": self.volume.low,
                "high": self.volume.high,
                "odd": self.volume.odd,
            },
            "features": [f.to_json() for f in self.features],
            "notes": list(self.notes),
        }


def benjamini_hochberg(values: Sequence[float]) -> list[float]:
    """Each p-value adjusted, so that calling those up to a limit true is wrong in no more than that share of what is called.

    Benjamini and Hochberg (1995).

    >>> [round(p, 3) for p in benjamini_hochberg([0.01, 0.04, 0.03, 0.5])]
    [0.04, 0.053, 0.053, 0.5]
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    out, least = [1.0] * len(values), 1.0
    for rank in range(len(order), 0, -1):
        place = order[rank - 1]
        least = min(least, values[place] * len(values) / rank)
        out[place] = least
    return out


def judged(found: Iterable[FeatureDrift], limits: Limits) -> tuple[FeatureDrift, ...]:
    """All features and slices judged together: an effect past its threshold, and significant among all of them.

    The test of means has four times the weight of the others (Genovese, Roeder and Wasserman, 2006): it sees the least shifts,
    and they share out what is left of `alpha` for changes that are large anyway.
    """
    features = list(found)
    deciding = [
        (i, j)
        for i, f in enumerate(features)
        if f.verdict != "not judged"
        for j, t in enumerate(f.tests)
        if t.p is not None and t.name in limits.tests
    ]
    weights = [WEIGHT.get(features[i].tests[j].name, 1.0) for i, j in deciding]
    average = sum(weights) / len(weights) if weights else 1.0
    weighed = [
        min((features[i].tests[j].p or 0.0) * average / w, 1.0)
        for (i, j), w in zip(deciding, weights, strict=True)
    ]
    adjusted = benjamini_hochberg(weighed)
    tests = [list(f.tests) for f in features]
    for (i, j), p in zip(deciding, adjusted, strict=True):
        test = tests[i][j]
        floor = max(limits.effect_of(features[i].feature), test.usual or 0.0)
        enough = abs(test.effect) + test.error >= floor
        tests[i][j] = replace(test, adjusted=p, fails=enough and p <= limits.alpha)
    out = []
    for feature, own in zip(features, tests, strict=True):
        verdict = feature.verdict
        if verdict != "not judged":
            verdict = "drifted" if any(t.fails for t in own) else "stable"
        out.append(replace(feature, verdict=verdict, tests=tuple(own)))
    return tuple(out)


def _plain(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


__all__ = [
    "JUDGING",
    "TOLD",
    "DriftReport",
    "FeatureDrift",
    "Limits",
    "SchemaChange",
    "Test",
    "Verdict",
    "Volume",
    "benjamini_hochberg",
    "judged",
]
