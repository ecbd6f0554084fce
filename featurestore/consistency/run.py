"""Captured rows compared with the training values of their moments, feature by feature, each difference with its cause."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import numpy as np

from featurestore.capture.log import CaptureLog
from featurestore.capture.schema import SCALED
from featurestore.compile.sources import connect, engine_errors
from featurestore.config import Config
from featurestore.consistency.captured import Column, Drawn, Meaning, drawn
from featurestore.consistency.causes import Explained, differing, explained
from featurestore.consistency.edits import edits
from featurestore.consistency.records import CAUSES, Cause, Example, FeatureConsistency, LoggedReport
from featurestore.consistency.rescaled import Found, Scalers, rescaled
from featurestore.consistency.scene import Known, Scene
from featurestore.erasures import Erasures
from featurestore.errors import NotFound
from featurestore.evaluate.arrow import from_physical
from featurestore.evaluate.finish import Cells
from featurestore.evaluate.partials import Array, Mask
from featurestore.ledger import Ledger
from featurestore.types import DType, Float64, is_tensor

EXAMPLES: Final = 3

SLICE: Final = 20_000
"""Rows computed and explained together."""


@dataclass(frozen=True)
class Checked:
    """What of a project is asked: its log, its versions of a service, and what was materialised when.

    `meanings` are all versions by fingerprint, `wanted` is the one that values are to be of today; `scalers` finds a scaler of
    the service by its version.
    """

    config: Config
    log: CaptureLog
    ledger: Ledger
    erased: Erasures
    service: str
    wanted: Meaning
    meanings: Mapping[str, Meaning]
    scalers: Scalers

    def unknown(self, fingerprint: str) -> NoReturn:
        """Raises NotFound: what served those rows cannot be computed any more."""
        raise NotFound(
            f"version of '{self.service}'", fingerprint[:12], [m.reference for m in self.meanings.values()]
        )

    @contextmanager
    def known(self) -> Iterator[Known]:
        """What is the same for all rows, with a DuckDB that is closed afterwards."""
        config = self.config
        config.offline.mkdir(parents=True, exist_ok=True)
        with engine_errors():
            con = connect(config.memory_limit, config.threads, config.offline / "spill")
            try:
                yield Known(con, config, self.ledger, self.erased)
            finally:
                con.close()


@dataclass(frozen=True)
class Judged:
    """Rows of one version with what was served, what is computed now, and why they differ, by column."""

    rows: Drawn
    types: Mapping[str, DType]
    served: Mapping[str, Column]
    now: Mapping[str, Column]
    causes: Mapping[str, Array]
    notes: Mapping[tuple[str, int], str]
    cuts: Mapping[tuple[str, int], int]


@dataclass
class _Tally:
    """What adds up of one feature."""

    cells: int = 0
    differing: int = 0
    nulls: int = 0
    pairs: int = 0
    smape: float = 0.0
    listed: int = 0
    edits: int = 0
    causes: Counter[Cause] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)

    def measure(self, served: Array, now: Array) -> None:
        """How far numbers are apart that are there on both sides."""
        a, b = (x.astype(np.float64) for x in (served, now))
        size = np.abs(a) + np.abs(b)
        apart = np.divide(2 * np.abs(a - b), size, out=np.zeros_like(size), where=size > 0)
        self.pairs += len(apart)
        self.smape += float(apart.sum())


def verify_logged(
    checked: Checked,
    *,
    sample: int,
    fingerprint: str | None = None,
    start: int | None = None,
    end: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> LoggedReport:
    """Compares up to `sample` captured rows whose moment lies in [start, end), of all versions or that of one fingerprint.

    Raises NotFound where nothing was captured of the service.
    """
    began = time.monotonic()
    left_out: Counter[str] = Counter()
    tallies: dict[str, _Tally] = {name: _Tally() for name, _ in checked.wanted.service.columns}
    rows, moments = 0, list[int]()
    with checked.known() as known:
        for group in drawn(
            checked.log, checked.service, sample, fingerprint=fingerprint, start=start, end=end
        ):
            if group.schema.fingerprint not in checked.meanings:
                left_out["served by a version that the registry does not know"] += group.rows
                continue
            for low in range(0, group.rows, SLICE):
                some = group.take(np.arange(low, min(low + SLICE, group.rows)))
                if progress is not None:
                    progress(f"rows {rows:,} to {rows + some.rows:,}")
                _add(tallies, judged(known, checked, some))
                scaled = rescaled(some, checked.scalers)
                _add_scaled(tallies, some.row_ids, scaled)
                if scaled.unknown:
                    left_out[
                        "scaled by a scaler that the registry does not know: their raw values alone are compared"
                    ] += scaled.unknown
                rows += some.rows
                moments += [int(some.asked.min()), int(some.asked.max())]
    return LoggedReport(
        checked.wanted.reference,
        rows,
        min(moments, default=None),
        max(moments, default=None),
        tuple(_told(name, tally) for name, tally in tallies.items() if tally.cells),
        dict(left_out),
        sample,
        time.monotonic() - began,
    )


def judged(known: Known, checked: Checked, rows: Drawn) -> Judged:
    """What was served of rows of one version, what is computed now, and the cause of each difference.

    A value is to be what the wanted version says today; where that means something else than what was served, and what was
    served is what its own version still says, the definition is the cause.
    """
    own = checked.meanings[rows.schema.fingerprint]
    scene = Scene.of(known, rows, own)
    cells = scene.now()
    types = dict(rows.schema.features)
    served = {name: rows.values(name, dtype) for name, dtype in types.items()}
    computed = {n: _column(cells[n]) for n in types if n not in own.lost}
    apart = {n: differing(served[n], computed[n]) for n in computed}
    wanted = dict(computed)
    causes = {name: np.full(rows.rows, "", object) for name in types}
    notes: dict[tuple[str, int], str] = {}
    changed = _changed(checked.wanted, own, types)
    if changed:
        others = Scene.of(known, rows, checked.wanted).now()
        for name in changed:
            wanted[name] = _column(others[name])
            off = differing(served[name], wanted[name])
            if name in apart:
                mine = off & ~apart[name]
                apart[name] &= off
            else:
                mine = off
            causes[name][mine] = "definition"
            notes |= {(name, int(i)): f"served by {own.reference}" for i in np.flatnonzero(mine)}
    found = _explained(scene, served, cells, apart)
    for name, mine in found.causes.items():
        causes[name] = np.where(mine != "", mine, causes[name])
    known_columns = {n: t for n, t in types.items() if n in wanted}
    return Judged(rows, known_columns, served, wanted, causes, notes | found.notes, found.cuts)


def _changed(wanted: Meaning, own: Meaning, types: Mapping[str, DType]) -> list[str]:
    """The columns that the wanted version has under another meaning, or that cannot be computed by their own any more."""
    if wanted.reference == own.reference:
        return []
    then, now, dtypes = own.meanings, wanted.meanings, wanted.types
    return [
        n for n in types if n in now and dtypes.get(n) == types[n] and (n in own.lost or now[n] != then[n])
    ]


def _explained(
    scene: Scene, served: Mapping[str, Column], cells: Mapping[str, Cells], apart: Mapping[str, Mask]
) -> Explained:
    """The causes of differences, looked for in the rows that have one."""
    rows = scene.rows.rows
    whole = Explained(rows, {name: np.full(rows, "", object) for name in apart})
    some = np.flatnonzero(np.logical_or.reduce(list(apart.values()))) if apart else np.zeros(0, np.int64)
    if not len(some):
        return whole
    part = Scene.of(scene.known, scene.rows.take(some), scene.meaning)
    now = {n: Cells(c.values[some], c.valid[some], c.status[some]) for n, c in cells.items()}
    found = explained(
        part, {n: served[n].take(some) for n in apart}, now, {n: mask[some] for n, mask in apart.items()}
    )
    for name, mine in found.causes.items():
        whole.causes[name][some] = mine
    whole.cuts |= {(name, int(some[i])): cut for (name, i), cut in found.cuts.items()}
    whole.notes |= {(name, int(some[i])): note for (name, i), note in found.notes.items()}
    return whole


def _column(cells: Cells) -> Column:
    return Column(cells.values, cells.valid)


def plain(column: Column, dtype: DType, place: int) -> Any:
    """One value as people write it."""
    return from_physical(column.values[[place]], column.valid[[place]], dtype)[0].as_py()


def _add(tallies: dict[str, _Tally], some: Judged) -> None:
    ids = some.rows.row_ids
    for name, dtype in some.types.items():
        tally = tallies.setdefault(name, _Tally())
        served, now, causes = some.served[name], some.now[name], some.causes[name]
        off = causes != ""
        tally.cells += len(off)
        tally.differing += int(off.sum())
        tally.nulls += int((served.valid != now.valid).sum())
        tally.causes.update(causes[off].tolist())
        both = served.valid & now.valid
        if served.values.dtype == object:
            pairs = zip(served.values[both].tolist(), now.values[both].tolist(), strict=True)
            listed = [edits(a, b) for a, b in pairs if not isinstance(a, str)]
            tally.listed += len(listed)
            tally.edits += sum(listed)
        elif is_tensor(dtype):
            tally.measure(served.values[both], now.values[both])
        for place in _worst(causes)[: EXAMPLES - len(tally.examples)]:
            was, is_now = (plain(x, dtype, place) for x in (served, now))
            note = some.notes.get((name, place), "")
            tally.examples.append(Example(ids[place], was, is_now, causes[place], note))


def _add_scaled(tallies: dict[str, _Tally], ids: list[str], found: Found) -> None:
    """What went out scaled, beside the raw values that are compared already: it follows from those, or nothing explains it."""
    for name, parts in found.features.items():
        tally = tallies.setdefault(SCALED + name, _Tally())
        for part in parts:
            served, again, off = part.served, part.again, part.differs
            tally.cells += len(off)
            tally.differing += int(off.sum())
            tally.nulls += int((served.valid != again.valid).sum())
            tally.causes.update(["unexplained"] * int(off.sum()))
            both = served.valid & again.valid
            tally.measure(served.values[both], again.values[both])
            for place in np.flatnonzero(off)[: EXAMPLES - len(tally.examples)].tolist():
                was, is_now = (plain(x, Float64, place) for x in (served, again))
                note = "the scaler makes another value of what was served raw"
                tally.examples.append(Example(ids[int(part.places[place])], was, is_now, "unexplained", note))


def _worst(causes: Array) -> list[int]:
    """The places of cells that differ, those that say most first: unexplained ones, then one of each cause."""
    order = {cause: -number for number, cause in enumerate(CAUSES)}
    firsts: dict[Cause, list[int]] = {}
    for place in np.flatnonzero(causes != "").tolist():
        firsts.setdefault(causes[place], []).append(place)
    kinds = sorted(firsts, key=lambda cause: order[cause])
    return [firsts[k][0] for k in kinds] + [p for k in kinds for p in firsts[k][1:EXAMPLES]]


def _told(name: str, tally: _Tally) -> FeatureConsistency:
    ordered: dict[Cause, int] = {c: tally.causes[c] for c in CAUSES if tally.causes[c]}
    return FeatureConsistency(
        name,
        tally.cells,
        tally.differing,
        tally.nulls,
        tally.smape / tally.pairs if tally.pairs else None,
        tally.edits / tally.listed if tally.listed else None,
        ordered,
        tuple(tally.examples),
    )


__all__ = ["Checked", "Judged", "judged", "plain", "verify_logged"]
