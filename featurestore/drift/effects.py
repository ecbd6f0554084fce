"""How far two distributions are apart, all on one scale: that of Cohen's d.

An effect of 0.1 is what a shift by a tenth of a standard deviation does to a normal distribution, whatever it was
measured by. So one threshold serves a mean, a distance of distributions, a share of NULLs and the shares of categories.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from featurestore.errors import Unsupported
from featurestore.evaluate.ranges import Array

_NORMAL = NormalDist()
BINS = 10
"""Of PSI and Jensen–Shannon: tenths of the baseline."""


def special() -> object:
    """scipy.stats, or an error that says how to get it."""
    try:
        import scipy.stats
    except ImportError as error:
        raise Unsupported(
            "this installation", "judge drift without scipy", "pip install 'featurestore[monitoring]'"
        ) from error
    return scipy.stats


@dataclass(frozen=True, slots=True)
class Steps:
    """A distribution as steps: rising values and the share of rows at each. `error` is how far a rank may be off."""

    values: Array
    shares: Array
    n: float
    error: float = 0.0

    @staticmethod
    def of(values: Array, weights: Array | None = None, error: float = 0.0) -> Steps:
        """Of finite values in any order, each standing for `weights` rows (one by default)."""
        order = np.argsort(values, kind="stable")
        counts = np.ones(len(values)) if weights is None else weights[order]
        total = float(counts.sum())
        return Steps(values[order], counts / total if total else counts, total, error)

    def up_to(self, points: Array) -> Array:
        """The share of rows at or below each point."""
        running = np.concatenate([[0.0], np.cumsum(self.shares)])
        out: Array = running[np.searchsorted(self.values, points, "right")]
        return out

    def quantiles(self, ranks: Array) -> Array:
        running = np.cumsum(self.shares)
        places = np.searchsorted(running, ranks * running[-1], "left")
        out: Array = self.values[np.minimum(places, len(self.values) - 1)]
        return out


def kolmogorov_smirnov(a: Steps, b: Steps) -> float:
    """The greatest distance of the two cumulative distributions, 0 to 1."""
    points = np.concatenate([a.values, b.values])
    return float(np.abs(a.up_to(points) - b.up_to(points)).max(initial=0.0))


def wasserstein(a: Steps, b: Steps, margin: float = 0.0) -> float:
    """The area between the two cumulative distributions, in the unit of the values; beyond a `margin` of rank alone."""
    points = np.sort(np.concatenate([a.values, b.values]))
    between = np.abs(a.up_to(points[:-1]) - b.up_to(points[:-1]))
    return float((np.maximum(between - margin, 0.0) * np.diff(points)).sum())


def binned(base: Steps, now: Steps) -> tuple[Array, Array]:
    """The shares of both in tenths of the baseline; of few distinct values, in as many bins as can be told apart."""
    edges = np.unique(base.quantiles(np.arange(1, BINS) / BINS))
    up_to = [np.concatenate([[0.0], s.up_to(edges), [1.0]]) for s in (base, now)]
    shares = [np.clip(np.diff(u), 0.0, None) for u in up_to]  # a difference of sums may be a hair below 0
    some = (shares[0] > 0) | (shares[1] > 0)
    return shares[0][some], shares[1][some]


def smoothed(shares: Array, n: float) -> Array:
    """Shares of which none is 0: as if half a row more lay in each bin."""
    counts = shares * n + 0.5
    out: Array = counts / counts.sum()
    return out


def psi(base: Array, now: Array, n_base: float, n_now: float) -> float:
    """The population stability index of two rows of shares."""
    p, q = smoothed(base, n_base), smoothed(now, n_now)
    return float(((q - p) * np.log(q / p)).sum())


def jensen_shannon(base: Array, now: Array) -> float:
    """The Jensen–Shannon divergence in nats: 0 of equal shares, ln 2 of shares that have nothing in common."""
    some = (base > 0) | (now > 0)
    base, now = base[some], now[some]
    middle = (base + now) / 2
    half = [np.where(s > 0, s * np.log(np.where(s > 0, s, 1) / middle), 0.0).sum() for s in (base, now)]
    return float(sum(half) / 2)


# ---------------------------------------------------------------------------------------------------- onto one scale


def of_distance(distance: float) -> float:
    """A Kolmogorov–Smirnov distance: the shift of a normal distribution that makes it.

    >>> round(of_distance(0.0596), 2), of_distance(0.0)
    (0.15, 0.0)
    """
    return 2 * _NORMAL.inv_cdf((1 + min(distance, 1 - 1e-9)) / 2) if distance else 0.0


def of_psi(value: float) -> float:
    """A PSI: it is the square of the shift for a normal distribution."""
    return math.sqrt(max(value, 0.0))


def of_jensen_shannon(value: float) -> float:
    """A Jensen–Shannon divergence: an eighth of the square of a small shift."""
    return math.sqrt(8 * max(value, 0.0))


def of_shares(before: float, after: float) -> float:
    """Two shares of rows: Cohen's h, in which 0 against 1 % is as telling as 50 against 60 %.

    >>> round(of_shares(0.5, 0.6), 2), round(of_shares(0.0, 0.01), 2)
    (0.2, 0.2)
    """
    return 2 * math.asin(math.sqrt(min(max(after, 0.0), 1.0))) - 2 * math.asin(
        math.sqrt(min(max(before, 0.0), 1.0))
    )


def of_categories(before: Mapping[object, float], after: Mapping[object, float]) -> float:
    """Shares by category: for two categories near a half, Cohen's h; 2 of categories that have nothing in common."""
    total = 0.0
    for name in before.keys() | after.keys():
        p, q = before.get(name, 0.0), after.get(name, 0.0)
        total += (p - q) ** 2 / ((p + q) / 2) if p + q else 0.0
    return math.sqrt(total)


__all__ = [
    "Steps",
    "binned",
    "jensen_shannon",
    "kolmogorov_smirnov",
    "of_categories",
    "of_distance",
    "of_jensen_shannon",
    "of_psi",
    "of_shares",
    "psi",
    "smoothed",
    "special",
    "wasserstein",
]
