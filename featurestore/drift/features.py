"""One feature beside its baseline: the tests, written once for kept statistics and for rows at hand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from featurestore.drift import effects as e
from featurestore.drift.seen import Seen
from featurestore.drift.verdicts import FeatureDrift, Limits, Test

SHOWN = 3
"""Categories named in a line."""

FISHER_BELOW = 25
"""Expected counts under which the exact test of two shares is asked."""


def feature_drift(base: Seen, now: Seen, limits: Limits) -> FeatureDrift:
    """All tests of one feature; which of them fail is decided later, together with those of all others."""
    rows = (base.rows, now.rows)
    why = _cannot(base, now, limits)
    if why:
        return FeatureDrift(now.name, "not judged", (), rows, why)
    found = list(tests(base, now, limits))
    notes = list(_odd(base, now, limits))
    if not found:
        return FeatureDrift(now.name, "not judged", (), rows, "; ".join(notes) or "nothing to compare")
    return FeatureDrift(
        now.name, "stable", tuple(found), rows, "; ".join(notes), _detectable(base, now, limits)
    )


def _cannot(base: Seen, now: Seen, limits: Limits) -> str:
    """Why nothing at all can be said; empty when something can."""
    for side, of in ((base, "baseline"), (now, "window")):
        if not side.rows:
            return f"the {of} is empty"
        if side.unread == side.rows:
            return f"no row of the {of} could be read: {side.why}"
        if side.read < limits.min_rows:
            return f"{side.read:,} rows in the {of}: {limits.min_rows:,} are needed"
    return ""


def _odd(base: Seen, now: Seen, limits: Limits) -> Iterator[str]:
    for side, of in ((base, "baseline"), (now, "window")):
        if side.unread:
            yield f"{side.unread:,} rows of the {of} could not be read: {side.why}"
        if not side.n:
            all_null = side.nulls == side.read
            yield (
                f"the {of} is all NULL: only that was compared"
                if all_null
                else f"the {of} has no finite value"
            )
        elif side.n < limits.min_rows:
            yield f"{side.n:,} values in the {of}, {limits.min_rows:,} are needed: only what is missing was compared"
    if base.n >= limits.min_rows <= now.n:
        if base.kind == "instant":
            yield "instants move with time: only what is missing was compared"
        elif base.kind == "number" and base.variance == 0:
            yield "constant in the baseline"


def tests(base: Seen, now: Seen, limits: Limits) -> Iterator[Test]:
    """The tests that these two can be put to."""
    if base.nulls or now.nulls or min(base.n, now.n) < limits.min_rows or base.kind == "instant":
        yield _shares("missing", base.nulls, base.read, now.nulls, now.read, "NULL")  # else a test too many
    if base.strange or now.strange:
        strange = base.read - base.nulls, now.read - now.nulls
        yield _shares("not finite", base.strange, strange[0], now.strange, strange[1], "NaN or infinite")
    if min(base.n, now.n) < limits.min_rows or base.kind == "instant":
        return
    if base.kind == "share":
        ones = [round((s.mean or 0.0) * s.n) for s in (base, now)]
        yield _shares("share", ones[0], base.n, ones[1], now.n, "true")
        return
    shift = _mean(base, now)
    if shift is not None:
        yield shift
    if base.kind == "category":
        yield from _categories(base, now)
        if base.steps is not None and now.steps is not None:
            lengths = next(_distances(base.steps, now.steps, base))
            yield replace(lengths, said=f"lengths: {lengths.said}")
    elif base.steps is not None and now.steps is not None:
        yield from _distances(base.steps, now.steps, base)


# ------------------------------------------------------------------------------------------------------------- numbers


def _mean(base: Seen, now: Seen) -> Test | None:
    if base.mean is None or now.mean is None or not base.variance or now.variance is None:
        return None
    effect = (now.mean - base.mean) / math.sqrt(base.variance)
    length = " length" if base.kind == "category" else ""
    said = f"mean{length} {base.mean:.4g} → {now.mean:.4g} ({effect:+.2f} sd)"
    error = math.sqrt(1 / base.n + 1 / now.n)
    return Test("mean", effect, mean_significance(base, now), said, now.mean - base.mean, error=error)


def mean_significance(base: Seen, now: Seen) -> float:
    """Of Welch's t-test, with Hall's (1992) correction for skewness, without which a long tail looks significant.

    The window's variance counts as no less than the baseline's: a few rows of a long tail often lack the tail, and look calm.
    """
    stats: Any = e.special()
    spread = [base.variance or 0.0, max(base.variance or 0.0, now.variance or 0.0)]
    parts = [v / max(s.n - 1, 1) for v, s in zip(spread, (base, now), strict=True)]
    error = math.sqrt(sum(parts))
    if not error or not math.isfinite(error):
        return 0.0 if base.mean != now.mean else 1.0
    assert base.mean is not None
    assert now.mean is not None
    t = (now.mean - base.mean) / error
    third = 0.0
    for side, sign in ((now, 1.0), (base, -1.0)):
        third += sign * (side.skewness or 0.0) * ((side.variance or 0.0) ** 1.5) / side.n**2
    a = third / error**3
    t += a * t * t / 3 + a * a * t**3 / 27 + a / 6
    freedom = error**4 / sum(p * p / max(s.n - 1, 1) for p, s in zip(parts, (base, now), strict=True))
    return float(2 * stats.t.sf(abs(t), max(freedom, 1.0)))


def _distances(base: e.Steps, now: e.Steps, of: Seen) -> Iterator[Test]:
    """Distances of two distributions. What they are is told; effect and significance are of what is surely apart.

    Sketches of the same rows differ by as much as both may be wrong: without that taken off, a calm feature has an effect.
    """
    stats: Any = e.special()
    margin = base.error + now.error
    pairs = base.n * now.n / (base.n + now.n)
    distance = e.kolmogorov_smirnov(base, now)
    surely = max(distance - margin, 0.0)
    p = float(stats.kstwobign.sf(math.sqrt(pairs) * surely))
    said = f"distributions {distance:.3f}{f' ± {margin:.3f}' if margin else ''} apart"
    yield Test("ks", e.of_distance(surely), p, said, distance)
    shares = e.binned(base, now)
    if len(shares[0]) < 2:
        return
    index, divergence = e.psi(*shares, base.n, now.n), e.jensen_shannon(*shares)
    sure = _shrunk(*shares, margin)
    sure_index, sure_divergence = e.psi(*sure, base.n, now.n), e.jensen_shannon(*sure)
    chance = float(stats.chi2.sf(sure_index * pairs, len(shares[0]) - 1))
    yield Test("psi", e.of_psi(sure_index), chance, f"PSI {index:.3f}", index)
    chance = float(stats.chi2.sf(8 * sure_divergence * pairs, len(shares[0]) - 1))
    effect = e.of_jensen_shannon(sure_divergence)
    yield Test("js", effect, chance, f"Jensen–Shannon {divergence:.4f}", divergence)
    moved = e.wasserstein(base, now)
    if of.variance:
        # No null distribution is known for it on sketches, so it borrows that of the distance.
        effect = e.wasserstein(base, now, margin) / math.sqrt(of.variance)
        yield Test("wasserstein", effect, p, f"values moved by {moved:.4g} on average", moved)


def _shrunk(base: Any, now: Any, margin: float) -> tuple[Any, Any]:
    """The shares moved towards each other by as much as the sketches may be wrong: what is surely apart."""
    apart = now - base
    sure = np.sign(apart) * np.maximum(np.abs(apart) - margin, 0.0)
    moved = np.clip(base + sure, 0.0, None)
    return base, moved / moved.sum()


def _detectable(base: Seen, now: Seen, limits: Limits) -> float | None:
    """The shift that nine in ten such windows would show, at the strictest level a feature alone has to meet."""
    if min(base.n, now.n) < limits.min_rows or base.kind in ("instant", "share"):
        return None
    return (4.0 + 1.28) * math.sqrt(1 / base.n + 1 / now.n)


# -------------------------------------------------------------------------------------------------------------- shares


def _shares(name: str, before: int, of_before: int, after: int, of_after: int, what: str) -> Test:
    p, q = (before / of_before if of_before else 0.0), (after / of_after if of_after else 0.0)
    said = f"{what} {_percent(p)} → {_percent(q)}"
    return Test(name, e.of_shares(p, q), two_shares(before, of_before, after, of_after), said, q - p)


def two_shares(before: int, of_before: int, after: int, of_after: int) -> float:
    """Whether two shares differ: Fisher's exact test where counts are small, else the test of two proportions."""
    stats: Any = e.special()
    if not of_before or not of_after or before + after in (0, of_before + of_after):
        return 1.0
    pooled = (before + after) / (of_before + of_after)
    least = min(of_before, of_after) * min(pooled, 1 - pooled)
    if least < FISHER_BELOW:
        return float(stats.fisher_exact([[before, of_before - before], [after, of_after - after]])[1])
    error = math.sqrt(pooled * (1 - pooled) * (1 / of_before + 1 / of_after))
    return float(2 * stats.norm.sf(abs(before / of_before - after / of_after) / error))


def _percent(share: float) -> str:
    return f"{share:.1%}" if share == 0 or share >= 0.001 else f"{share:.2g}"


# ---------------------------------------------------------------------------------------------------------- categories


def _categories(base: Seen, now: Seen) -> Iterator[Test]:
    if base.counts is None or now.counts is None or not base.counts or not now.counts:
        return
    before, after = _lumped(base, now)
    p = chi_square(before, after)
    shares = [{k: v / side.n for k, v in c.items()} for c, side in ((before, base), (after, now))]
    moved = sorted(shares[0], key=lambda k: (-round(abs(shares[0][k] - shares[1][k]), 9), str(k)))[:SHOWN]
    said = ", ".join(f"{_named(k)} {_percent(shares[0][k])} → {_percent(shares[1][k])}" for k in moved)
    yield Test("categories", e.of_categories(*shares), p, said or "shares of categories")
    if not base.short:
        new = {k: c for k, c in now.counts.items() if k not in base.counts}
        if new:
            yield _arrived("new values", new, base.n, now, f"{len(new):,} new")
    if not now.short:
        gone = {k: c for k, c in base.counts.items() if k not in now.counts}
        if gone:
            yield _arrived("gone values", gone, now.n, base, f"{len(gone):,} gone")


def _arrived(name: str, only: Mapping[object, int], elsewhere: int, here: Seen, head: str) -> Test:
    """Values that one side alone has: a share of its rows, against none of the other's."""
    count = sum(only.values())
    top = sorted(only, key=lambda k: -only[k])[:SHOWN]
    share = count / here.n
    said = f"{head}: {', '.join(map(_named, top))}{', …' if len(only) > SHOWN else ''} ({_percent(share)} of rows)"
    effect = e.of_shares(0.0, share)
    p = two_shares(0, elsewhere, count, here.n)
    return Test(name, effect if name.startswith("new") else -effect, p, said, share)


def _lumped(base: Seen, now: Seen) -> tuple[dict[object, int], dict[object, int]]:
    """Counts of the categories of which enough are expected on both sides; all others are one."""
    assert base.counts is not None
    assert now.counts is not None
    total = base.n + now.n
    kept = []
    for value in base.counts.keys() | now.counts.keys():
        both = base.counts.get(value, 0) + now.counts.get(value, 0)
        # Where counts are short, a value that is missing on one side may still have come that often.
        if both * min(base.n, now.n) / total >= 5 and both > base.short + now.short:
            kept.append(value)
    out = []
    for side in (base, now):
        assert side.counts is not None
        counts = {k: side.counts.get(k, 0) for k in kept}
        rest = side.n - sum(counts.values())
        out.append(counts | ({OTHERS: rest} if rest else {}))
    if (OTHERS in out[0]) != (OTHERS in out[1]):
        for counts in out:
            counts.setdefault(OTHERS, 0)
    return out[0], out[1]


class _Others:
    """The categories that are too rare to be told apart."""

    def __str__(self) -> str:
        return "all others"


OTHERS = _Others()


def chi_square(before: Mapping[object, int], after: Mapping[object, int]) -> float:
    """Whether two rows of counts are of the same shares: the chi-square test."""
    stats: Any = e.special()
    table = np.array([[before[k], after[k]] for k in before], np.float64)
    table = table[table.sum(axis=1) > 0]
    if len(table) < 2:
        return 1.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return float(stats.chi2.sf(((table - expected) ** 2 / expected).sum(), len(table) - 1))


def _named(value: object) -> str:
    return str(value) if value is OTHERS else f"'{value}'"


def with_usual(found: FeatureDrift, usual: Mapping[str, float]) -> FeatureDrift:
    """The same, with the effect that each test shows among the baseline's own windows."""
    return replace(found, tests=tuple(replace(t, usual=usual.get(t.name)) for t in found.tests))


__all__ = ["chi_square", "feature_drift", "mean_significance", "tests", "two_shares", "with_usual"]
