"""Kept statistics beside a baseline: every feature, the schema, and slices, judged together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median

from featurestore.drift.features import feature_drift, tests, with_usual
from featurestore.drift.seen import Seen, of_statistics
from featurestore.drift.verdicts import DriftReport, FeatureDrift, Limits, SchemaChange, Volume, judged
from featurestore.statistics import Summary
from featurestore.types import DType

SELDOM = 20
"""Rows in a usual window below which an empty one is nothing odd."""


def compare(
    baseline: Summary,
    window: Summary,
    limits: Limits | None = None,
    *,
    windows: Sequence[Summary] = (),
) -> DriftReport:
    """A window of statistics beside its baseline. `windows` are those the baseline consists of: what is usual among them.

    Features that one side alone has are changes of schema; they are not judged.
    """
    chosen = limits or Limits()
    schema = schema_changes(baseline.columns, window.columns)
    found = _features(baseline, window, chosen, windows)
    return DriftReport(judged(found, chosen), tuple(schema), volume_of(window, windows, chosen))


def volume_of(window: Summary, windows: Sequence[Summary], limits: Limits) -> Volume | None:
    """Whether as many rows came as usual: within `spread` robust deviations, and a fifth, of the baseline's windows.

    None where they are too few to say what is usual.
    """
    if len(windows) < limits.min_windows:
        return None
    counts = [w.rows for w in windows]
    middle = median(counts)
    apart = limits.spread * 1.4826 * median(abs(c - middle) for c in counts)
    room = max(apart, limits.spread * math.sqrt(middle), middle / 5)
    least = 1.0 if middle >= SELDOM else 0.0  # where few come, none may come
    return Volume(window.rows, middle, max(middle - room, least), middle + room)


def compare_slices(
    baselines: Mapping[str, Summary],
    slices: Mapping[str, Summary],
    limits: Limits | None = None,
    *,
    windows: Mapping[str, Sequence[Summary]] | None = None,
) -> DriftReport:
    """Each slice beside its own baseline, all judged together. A slice that one side alone has is said so."""
    chosen = limits or Limits()
    found: list[FeatureDrift] = []
    notes = []
    schema: dict[str, SchemaChange] = {}
    for name in sorted({*baselines, *slices}):
        if name not in baselines or name not in slices:
            here, there = ("window", "baseline") if name in slices else ("baseline", "window")
            notes.append(f"slice '{name}' is in the {here} and not in the {there}: not judged")
            continue
        base, now = baselines[name], slices[name]
        schema |= {c.column: c for c in schema_changes(base.columns, now.columns)}
        own = _features(base, now, chosen, (windows or {}).get(name, ()))
        found += [replace(f, slice=name) for f in own]
    return DriftReport(judged(found, chosen), tuple(schema.values()), notes=tuple(notes))


def schema_changes(before: Mapping[str, DType], after: Mapping[str, DType]) -> list[SchemaChange]:
    """Columns that came, went, or are of another type."""
    out = [SchemaChange(name, "removed", f"column '{name}' is gone") for name in before if name not in after]
    for name, dtype in after.items():
        if name not in before:
            out.append(SchemaChange(name, "added", f"column '{name}' is new: {dtype}"))
        elif before[name] != dtype:
            said = f"column '{name}' was {before[name]}, and is {dtype}"
            out.append(SchemaChange(name, "type", said))
    return out


def _features(
    baseline: Summary, window: Summary, limits: Limits, windows: Sequence[Summary]
) -> list[FeatureDrift]:
    out = []
    for name, dtype in window.columns.items():
        if baseline.columns.get(name) != dtype:
            continue
        base, now = of_statistics(baseline[name]), of_statistics(window[name])
        found = feature_drift(base, now, limits)
        if limits.usual and len(windows) >= limits.min_windows and found.verdict != "not judged":
            parts = [of_statistics(w[name]) for w in windows]
            found = with_usual(found, usual_effects(base, parts, limits))
        out.append(found)
    return out


def usual_effects(base: Seen, windows: Sequence[Seen], limits: Limits) -> dict[str, float]:
    """The effect of each test that windows of the baseline seldom pass: their median and `spread` robust deviations more."""
    seen: dict[str, list[float]] = {}
    for part in windows:
        if part.read >= limits.min_rows:
            for test in tests(base, part, limits):
                seen.setdefault(test.name, []).append(abs(test.effect))
    out = {}
    for name, found in seen.items():
        if len(found) >= limits.min_windows and all(map(math.isfinite, found)):
            middle = median(found)
            out[name] = middle + limits.spread * 1.4826 * median(abs(f - middle) for f in found)
    return out


__all__ = ["compare", "compare_slices", "schema_changes", "usual_effects", "volume_of"]
