"""A report of drift as findings, one for each feature or slice of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from featurestore.drift.verdicts import DriftReport, FeatureDrift
from featurestore.errors import StatisticsError
from featurestore.monitor.findings import Finding, State

Make = Callable[..., Finding]
"""Makes a finding of a monitor: condition, subject, state, what is said, figures, and the bounds of the window."""


def drift_findings(
    report: DriftReport, features: tuple[str, ...], finding: Make, condition: str = "drift"
) -> Iterator[Finding]:
    """A finding for each feature, or each of a slice. Raises StatisticsError when none could be judged."""
    chosen = [f for f in report.features if not features or f.feature in features]
    missing = sorted(set(features) - {f.feature for f in report.features})
    for name in missing:
        yield finding(
            condition, name, "unknown", "there is no such feature in the window and the baseline both"
        )
    if chosen and all(f.verdict == "not judged" for f in chosen):
        reasons = sorted({f.why for f in chosen})
        raise StatisticsError(f"no feature could be judged: {'; '.join(reasons[:3])}")
    share = report.share or 0.0
    for f in chosen:
        said = f.said or ("as usual" if f.worst is None else f"as usual: {f.worst.said}")
        figures = _figures(f, share, len(report.drifted))
        yield finding(condition, _subject(f), _state(f), said, figures, report.span)


def _subject(f: FeatureDrift) -> str:
    return f.feature if f.slice is None else f"{f.feature} of {f.slice}"


def _state(f: FeatureDrift) -> State:
    states: dict[str, State] = {"drifted": "bad", "stable": "ok", "not judged": "unknown"}
    return states[f.verdict]


def _figures(f: FeatureDrift, share: float, drifted: int) -> dict[str, float]:
    found = {"effect": f.effect, "share": share, "features": float(drifted)}
    if f.worst is not None and f.worst.adjusted is not None:
        found["p"] = f.worst.adjusted
    return found


def schema_findings(report: DriftReport, finding: Make) -> Iterator[Finding]:
    """One for each column that changed; one for the whole when none did."""
    for change in report.schema:
        yield finding("schema", change.column, "bad", change.said, None, report.span)
    for f in report.features:
        if "could not be read" in f.why or "could be read" in f.why:
            yield finding("schema", f.feature, "bad", f.why)
        else:
            yield finding("schema", f.feature, "ok", "as planned")


__all__ = ["Make", "drift_findings", "schema_findings"]
