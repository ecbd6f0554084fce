"""How a service's features are scaled: the kinds that `FeatureService(scale=…)` takes. `fs scaler` binds the numbers.

One for all numeric features, or one for each: `scale={"amount_mean_7d": scale.standard()}`; what is not named stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """One way to scale a feature. `numbers` are those the definition gives; all others are fitted."""

    kind: str
    numbers: tuple[float, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(map(repr, self.numbers))})"


def standard() -> Scale:
    """`(x - mean) / stddev`, of the population."""
    return Scale("standard")


def minmax() -> Scale:
    """`(x - min) / (max - min)`: 0 to 1 on what it was fitted on, beyond it for what is beyond."""
    return Scale("minmax")


def robust() -> Scale:
    """`(x - median) / (p75 - p25)`."""
    return Scale("robust")


def rank() -> Scale:
    """The share of fitted values below `x`, half of those equal to it included: 0 to 1, linear between percentiles."""
    return Scale("rank")


def log1p() -> Scale:
    """`ln(1 + x)`; NULL for `x` of -1 and less. Nothing is fitted."""
    return Scale("log1p")


def clip(lo: float, hi: float) -> Scale:
    """`x`, but no less than `lo` and no more than `hi`. Nothing is fitted."""
    return Scale("clip", (lo, hi))


__all__ = ["Scale", "clip", "log1p", "minmax", "rank", "robust", "standard"]
