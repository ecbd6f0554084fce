"""The verbs of scalers: fit one on a training set, refit it with what came since, pin it to a version of a service."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.datasets.manifest import load
from featurestore.erasures import erasures
from featurestore.errors import ScalerError, ServiceImmutable
from featurestore.evaluate.arrow import to_physical
from featurestore.registry import Registry, ServiceVersion
from featurestore.registry.scalers import ScalerEntry, keep_scaler, pin_scaler, pins, scaler, scalers
from featurestore.statistics.scalers import FITTED, Scaler, fit, scaled
from featurestore.statistics.summary import Keep, Summary
from featurestore.training import TrainingSet
from featurestore.types import Timestamp, is_tensor

KEEP = Keep(order=2, quantiles=800, distinct=None, frequent=None)
"""What a scaler's statistics hold: ranks are right to 0.35 %."""

PROBES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""The quantiles of all rows at which a refit is compared with what it was fitted from."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows to fit on: unscaled, with the service's features; `timestamp` is the column that says when they were.

    `said` is where they come from, for whoever asks later.
    """

    batches: Iterable[pa.RecordBatch] = field(repr=False)
    timestamp: str
    said: str


@dataclass(frozen=True, slots=True)
class Move:
    """What a refit did to one feature. `most` is the greatest change of a scaled value, over quantiles of all rows together."""

    feature: str
    kind: str
    before: tuple[float, ...]
    after: tuple[float, ...]
    most: float | None


@dataclass(frozen=True, slots=True)
class Refit:
    """A scaler fitted on what was known and what came since. `rows` are new; `known` came before and were left out."""

    scaler: Scaler
    before: Scaler
    rows: int
    known: int
    moves: tuple[Move, ...]


@dataclass(frozen=True, slots=True)
class Outdated:
    """A scaler in use that counts entities which were erased since it was fitted; a refit would count them on."""

    reference: str
    scaler: int
    fitted_at: int
    erased: int

    @property
    def said(self) -> str:
        some = "an entity was" if self.erased == 1 else f"{self.erased:,} entities were"
        return f"scaler {self.scaler} is of rows from before {some} erased, which it may count"

    @property
    def way_out(self) -> str:
        return (
            f"`fs scaler fit {self.reference} --spine FILE` on rows of now, then `fs scaler pin {self.reference} N`; "
            "a refit goes on from the old rows"
        )


def outdated(registry: Registry, service: str | None = None) -> list[Outdated]:
    """The scalers that versions of services (one service's, or all) are pinned to and that rest on data erased since.

    A refitted scaler is as old as the one that it began with.
    """
    found = erasures(registry)
    out: list[Outdated] = []
    if not found.number:
        return out
    for version in registry.services():
        if version.retired or service not in (None, version.name):
            continue
        number = pins(registry, version.name).get(version.version)
        if number is None:
            continue
        kept = {entry.version: entry for entry in scalers(registry, version.name)}
        first = number
        while (basis := kept[first].scaler["basis"]) is not None and basis in kept:
            first = basis
        fitted_at = kept[first].made_at
        entities = {view.entity for view in version.views} & found.by_entity.keys()
        erased = sum(at > fitted_at for entity in entities for _, at in found.by_entity[entity].keys)
        if erased:
            out.append(Outdated(version.reference, number, fitted_at, erased))
    return out


def rows_of(source: TrainingSet | str | Path, version: ServiceVersion) -> Rows:
    """The rows of a training set, or of the folder of one. Raises ScalerError when they are of another service, or scaled."""
    if isinstance(source, TrainingSet):
        said, scaled_by, timestamp = source.reference, source.scaler, source.timestamp
        if said != version.reference:
            raise ScalerError(
                f"a scaler of {version.reference} is fitted on rows of it, not of {said or source.service.name}"
            )
        if scaled_by is not None or source.full_names:
            raise ScalerError("a scaler is fitted on a set with scaled=False and full_names=False")
        spine = source.spine
        from_where = str(spine) if isinstance(spine, str | Path) else f"rows of a {type(spine).__name__}"
        return Rows(source.batches(), timestamp, from_where)
    manifest = load(source)
    content = manifest.content
    if content["service"]["fingerprint"] != version.fingerprint:
        raise ScalerError(
            f"{source} is a training set of {content['service']['version'] or content['service']['name']}, "
            f"and not of what {version.reference} is"
        )
    parameters = content["parameters"]
    if content.get("scaler") is not None or parameters["full_names"]:
        raise ScalerError(f"{source} holds scaled values, or full names\n  write it with neither")
    batches = (b for part in manifest.parts for b in pq.ParquetFile(part).iter_batches(65_536))
    return Rows(
        batches,
        parameters["timestamp"],
        f"{source}, {content['rows']:,} rows, spine {content['spine']['digest']}",
    )


def fit_scaler(registry: Registry, version: ServiceVersion, rows: Rows, *, who: str, at: int) -> Scaler:
    """Fits each feature that the service scales, and keeps the scaler as the next version. It is pinned to nothing yet.

    Raises ScalerError when the service scales nothing, or there are no rows.
    """
    _must_scale(version)
    summary = Summary(_columns(version), KEEP)
    until, _, _ = _feed(summary, rows, None)
    return _keep(registry, version, summary, until, None, rows.said, who, at)


def refit_scaler(
    registry: Registry, version: ServiceVersion, rows: Rows, basis: int | None, *, who: str, at: int
) -> Refit:
    """Merges rows that came after those of a scaler into its statistics, fits again, and keeps it as the next version.

    `basis` is that scaler's version, the pinned one by default, else the newest. Rows of times it knows are left out and
    counted: merged again they would count twice. Nothing old is read again. Raises ScalerError for a scaler of rows without
    times, or of other features.
    """
    _must_scale(version)
    old = scaler(registry, version.name, _chosen(registry, version) if basis is None else basis)
    before = Scaler.from_json(old.scaler)
    summary = Summary.from_bytes(old.statistics)
    if before.until is None:
        raise ScalerError(
            f"scaler {before.version} is of no rows with a time, so nothing came after\n  fit anew"
        )
    if summary.columns != _columns(version):
        raise ScalerError(
            f"scaler {before.version} is of other features than {version.reference} scales\n  `fs scaler fit {version.name}`"
        )
    until, taken, known = _feed(summary, rows, before.until)
    after = _keep(registry, version, summary, until or before.until, before.version, rows.said, who, at)
    return Refit(after, before, taken, known, tuple(_moves(before, after, summary)))


def pin(
    registry: Registry, version: ServiceVersion, number: int, *, replace: bool = False, who: str, at: int
) -> Scaler:
    """Pins a scaler to a version of a service: `scaled=True` gives its numbers from now on.

    Raises ScalerError when it is of other features than the service scales, ServiceImmutable when the version has served with
    another scaler: readers would get other numbers under one name. `replace` does it all the same.
    """
    _must_scale(version)
    found = scaler_of_entry(scaler(registry, version.name, number), version)
    known = pins(registry, version.name).get(version.version)
    if known not in (None, number) and version.has_served and not replace:
        raise ServiceImmutable(
            f"{version.reference} has served, and is pinned to scaler {known}: pinned to {number} it would give other numbers\n"
            "  change scale= or a feature to make a new version, or pin with --replace (replace=True)"
        )
    pin_scaler(registry, version.name, version.version, number, who=who, at=at)
    return found


def pinned(registry: Registry, version: ServiceVersion) -> Scaler:
    """The scaler that a version of a service is pinned to. Raises ScalerError when it is to none."""
    _must_scale(version)
    number = pins(registry, version.name).get(version.version)
    if number is None:
        newest = max((e.version for e in scalers(registry, version.name)), default=None)
        first = f"`fs scaler fit {version.reference} --spine FILE`, then " if newest is None else ""
        raise ScalerError(
            f"{version.reference} is pinned to no scaler\n  {first}`fs scaler pin {version.reference} {newest or 1}`"
        )
    return scaler_of_entry(scaler(registry, version.name, number), version)


def scaler_of_entry(entry: ScalerEntry, version: ServiceVersion) -> Scaler:
    """A kept scaler, for a version of its service. Raises ScalerError when it scales other features, or in another way."""
    found = Scaler.from_json(entry.scaler)
    wanted = [(s.column, s.kind) for s in version.service.scale]
    given = [s.numbers for s in version.service.scale if s.kind not in FITTED]
    numbers = [s.numbers for s in found.features if s.kind not in FITTED]
    if (
        [(s.feature, s.kind) for s in found.features] != wanted
        or numbers != given
        or found.columns != _tensor(version)
    ):
        raise ScalerError(
            f"scaler {entry.version} was fitted for {entry.fitted_for}, and {version.reference} scales others, or otherwise"
            f"\n  `fs scaler fit {version.reference}`"
        )
    return found


def _must_scale(version: ServiceVersion) -> None:
    if not version.service.scale:
        raise ScalerError(
            f"{version.reference} names no scaling\n  write FeatureService(…, scale=scale.standard()) and `fs apply`"
        )


def _chosen(registry: Registry, version: ServiceVersion) -> int:
    number = pins(registry, version.name).get(version.version)
    newest = max((e.version for e in scalers(registry, version.name)), default=0)
    return newest if number is None else number


def _columns(version: ServiceVersion) -> dict[str, Any]:
    types = dict(version.service.columns)
    return {s.column: types[s.column] for s in version.service.scale}


def _tensor(version: ServiceVersion) -> tuple[str, ...]:
    return tuple(name for name, dtype in version.service.columns if is_tensor(dtype))


def _feed(summary: Summary, rows: Rows, after: int | None) -> tuple[int | None, int, int]:
    """Takes in the rows later than `after` (None: all). The last moment of them; how many were taken, and how many not."""
    until, taken, known = None, 0, 0
    for batch in rows.batches:
        if not batch.num_rows:
            continue
        moments, valid = to_physical(batch.column(rows.timestamp), Timestamp)
        dated = moments if valid is None else moments[valid]
        if after is not None:
            new = moments > after if valid is None else (moments > after) & valid
            known += int(len(new) - new.sum())
            batch = batch.filter(pa.array(new))  # noqa: PLW2901
            dated = moments[new]
        if len(dated):
            until = max(int(dated.max()), until if until is not None else int(dated.max()))
        summary.update(batch)
        taken += batch.num_rows
    return until, taken, known


def _keep(
    registry: Registry,
    version: ServiceVersion,
    summary: Summary,
    until: int | None,
    basis: int | None,
    said: str,
    who: str,
    at: int,
) -> Scaler:
    if not summary.rows:
        raise ScalerError(f"there are no rows to fit the scaler of {version.reference} on")
    features = tuple(fit(s.kind, s.numbers, summary[s.column]) for s in version.service.scale)
    found = Scaler(version.name, 0, _tensor(version), features, summary.rows, until, basis)
    # Through its own text, so that what is used now is what will be read.
    said_scaler = json.loads(json.dumps(found.to_json(), allow_nan=False))
    entry = ScalerEntry(version.name, 0, version.reference, at, who, said, said_scaler, summary.to_bytes())
    return Scaler.from_json(said_scaler).numbered(keep_scaler(registry, entry))


def _moves(before: Scaler, after: Scaler, summary: Summary) -> Iterable[Move]:
    for old, new in zip(before.features, after.features, strict=True):
        probes = summary[old.feature].quantiles(PROBES)
        most = None
        if probes:
            column = np.array(probes)[:, None]
            (was, known), (now, also) = (scaled(column, None, [s]) for s in (old, new))
            both = known & also
            most = float(np.abs(now - was)[both].max()) if both.any() else None
        yield Move(old.feature, old.kind, old.numbers, new.numbers, most)


def renamed(found: Scaler, names: Sequence[tuple[str, str]]) -> Scaler:
    """The scaler with its features under other names: pairs of the old and the new."""
    from dataclasses import replace

    new = dict(names)
    features = tuple(replace(s, feature=new[s.feature]) for s in found.features)
    return replace(found, features=features, columns=tuple(new[c] for c in found.columns))


__all__ = [
    "Move",
    "Outdated",
    "Refit",
    "Rows",
    "fit_scaler",
    "outdated",
    "pin",
    "pinned",
    "refit_scaler",
    "renamed",
    "rows_of",
    "scaler_of_entry",
]
