"""The verb of drift: finds what to look at by a name, picks window and baseline, compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from featurestore import ir, profiles
from featurestore.baselines import Baseline, Before, Training, parse_baseline
from featurestore.compile.sources import Connection
from featurestore.config import Config
from featurestore.datasets.card import declared
from featurestore.datasets.manifest import load
from featurestore.drift.compare import compare, compare_slices, schema_changes
from featurestore.drift.rows import compare_rows
from featurestore.drift.verdicts import DriftReport, Limits
from featurestore.drift.windows import Chosen, choose
from featurestore.errors import DatasetError, NotFound, RequestError, StatisticsError
from featurestore.monitor.observe import Observed, of_source
from featurestore.statistics import Statistics
from featurestore.time import Duration, Moment

LIVE = ("served", "stream", "materialized")
"""Origins of what a model reads now, the nearest to it first."""


def kept(config: Config, name: str, origin: str | None = None) -> tuple[Statistics, str]:
    """What is kept of what a service or view gives now, else of its training set; and which origin that is."""
    there = profiles.kept(config, name)
    chosen = origin or next((o for o in (*LIVE, "training") if o in there), None)
    return profiles.load(config, name, chosen), chosen or ""


def drift_of_statistics(
    config: Config,
    name: str,
    *,
    baseline: str | None = None,
    window: str | None = None,
    origin: str | None = None,
    at: Moment | None = None,
    limits: Limits | None = None,
) -> DriftReport:
    """A window of the statistics that are kept of a service or view beside a baseline. Raises StatisticsError for none."""
    now, chosen = kept(config, name, origin)
    training = profiles.load(config, name, "training") if "training" in profiles.kept(config, name) else None
    if chosen == "training":
        training = now
    wanted: Baseline = Training() if training is not None and chosen != "training" else Before()
    if baseline is not None:
        wanted = parse_baseline(baseline)
    picked = choose(now, wanted, window, at=at, training=training)
    return _report(picked, limits, (f"{chosen} statistics of '{name}'",))


def drift_of_observed(
    observed: Observed,
    *,
    baseline: str | None = None,
    window: str | None = None,
    at: Moment | None = None,
    limits: Limits | None = None,
    said: str = "",
) -> DriftReport:
    """The same of rows that were read now, whole or slice by slice."""
    wanted = Before() if baseline is None else parse_baseline(baseline)
    if isinstance(wanted, Training):
        raise StatisticsError(
            "a source has no training set to be compared with\n  give before, previous 28d, season 8, or A..B"
        )
    picked = choose(observed.whole, wanted, window, at=at)
    notes = tuple(n for n in (said, *observed.notes) if n)
    if not observed.slices:
        return replace(_report(picked, limits, notes), schema=observed.schema)
    parts = {n: choose(s, wanted, window, at=picked.span[1]) for n, s in observed.slices.items()}
    report = compare_slices(
        {n: p.baseline for n, p in parts.items()},
        {n: p.window for n, p in parts.items()},
        limits,
        windows={n: p.windows for n, p in parts.items()},
    )
    return replace(
        report,
        schema=observed.schema,
        window=picked.window_said,
        baseline=picked.baseline_said,
        notes=(*notes, *report.notes),
        span=picked.span,
    )


def _report(picked: Chosen, limits: Limits | None, notes: tuple[str, ...]) -> DriftReport:
    report = compare(picked.baseline, picked.window, limits, windows=picked.windows)
    said = picked.window_said, picked.baseline_said
    return replace(report, window=said[0], baseline=said[1], notes=notes, span=picked.span)


def source_named(plan: ir.Plan, name: str) -> ir.Source:
    """The source of this name, or that of the view of this name. Raises NotFound."""
    found = {v.name: v.source for v in plan.views} | {s.name: s for s in plan.sources}
    if name not in found:
        known = [*found, *(s.name for s in plan.services)]
        raise NotFound("feature service, view or source", name, known)
    return found[name]


def drift_of_source(
    con: Connection,
    root: Path,
    source: ir.Source,
    *,
    baseline: str | None = None,
    window: str | None = None,
    by: str | None = None,
    every: Duration | None = None,
    at: Moment | None = None,
    limits: Limits | None = None,
) -> DriftReport:
    """A window of a source's rows beside those before it, read now."""
    observed = of_source(con, source, root, every=every, by=by)
    said = f"rows of source '{source.name}'"
    return drift_of_observed(observed, baseline=baseline, window=window, at=at, limits=limits, said=said)


def drift_of_sets(
    window: str | Path, baseline: str | Path, *, by: str | None = None, limits: Limits | None = None
) -> DriftReport:
    """Two training sets, by their rows: the tests on samples, and one on all numbers together. Raises DatasetError."""
    before, after = _rows(baseline, by), _rows(window, by)
    types = [{f.name: declared(f.type) for f in side.schema} for side in (after, before)]
    columns = types[0] | types[1]  # a type that changed is told against that of the baseline
    if by is not None:
        columns.pop(by, None)
    report = compare_rows(before, after, columns, limits, by=by)
    schema = tuple(schema_changes(types[1], types[0]))
    return replace(report, schema=schema, window=str(window), baseline=str(baseline))


def _rows(folder: str | Path, by: str | None) -> Any:
    """The features of a training set's folder, or all columns of a Parquet file; with the column of slices."""
    path = Path(folder)
    if path.suffix == ".parquet" and path.is_file():
        table = pq.read_table(path)
    else:
        manifest = load(path)
        schema = pq.read_schema(manifest.parts[0])
        aside = {str(manifest.content["parameters"]["timestamp"])}
        aside |= {n for n in schema.names if n.endswith("__status")}
        aside |= {n for n in manifest.spine_columns if n != by}
        table = pq.read_table(manifest.parts, columns=[n for n in schema.names if n not in aside])
    if by is not None and by not in table.schema.names:
        raise DatasetError(f"{folder} has no column '{by}'")
    return table


def limits_of(
    effect: float | None = None,
    alpha: float | None = None,
    min_rows: int | None = None,
    tests: Sequence[str] = (),
    *,
    usual: bool = True,
) -> Limits:
    """Limits with what was said in place of the defaults."""
    given: dict[str, Any] = {"effect": effect, "alpha": alpha, "min_rows": min_rows}
    more: dict[str, Any] = {"tests": tuple(tests)} if tests else {}
    return Limits(**{k: v for k, v in given.items() if v is not None}, **more, usual=usual)


def no_slices(name: str) -> RequestError:
    """Why kept statistics cannot be looked at by slice."""
    return RequestError(
        f"the statistics that are kept of '{name}' are of all rows together\n"
        "  slices are of rows: of a source or view, of training sets (`fs drift DIR --baseline DIR --by COLUMN`), "
        "or of what a service logged"
    )


__all__ = [
    "LIVE",
    "drift_of_observed",
    "drift_of_sets",
    "drift_of_source",
    "drift_of_statistics",
    "kept",
    "limits_of",
    "no_slices",
    "source_named",
]
