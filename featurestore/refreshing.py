"""Kept statistics follow their data: what was captured since is added, and what changed under them is made again by itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore import profiles, recipes
from featurestore.capture.log import locked
from featurestore.compile.sources import connect
from featurestore.config import Config
from featurestore.errors import FeatureStoreError, NotFound, StatisticsError
from featurestore.ir import service_fingerprint
from featurestore.log.eventlog import OFFSET
from featurestore.logged import MOMENT, Logged
from featurestore.recipes import Mark, Recipe, Spine
from featurestore.spine import spine_batches, times_of
from featurestore.statistics import Statistics, Summary
from featurestore.statistics.partitions import UNDATED
from featurestore.time import DAY, HOUR, Duration, days, floor, moment_text

BATCH_ROWS = 1 << 18
"""Rows of a spine that are looked at together."""


@dataclass(frozen=True)
class Data:
    """How the data behind statistics is read.

    `training(asked, rows, timestamp)` gives a training set, `logged(service, start, end)` captured rows without labels,
    `materialized(view, at)` statistics of the values of all entities of a view at a moment. `streamed(view, start, end)` are
    those that a stream wrote between two moments, `replayed` the same out of what lies at rest. `now` is the moment of all.
    """

    training: Callable[[str, Any, str], Any]
    logged: Callable[[str, int | None, int | None], Logged]
    materialized: Callable[[str, int], Statistics]
    streamed: Callable[[str, int, int], Statistics]
    replayed: Callable[[str, int, int], Statistics]
    now: int


@dataclass(frozen=True)
class Refreshed:
    """What became of the kept statistics of one origin. `rows` were added, `rebuilt` are partitions that were made again.

    `waits` are those that could not be, and why.
    """

    name: str
    origin: str
    rows: int = 0
    rebuilt: tuple[int, ...] = ()
    waits: Mapping[int, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        def said(start: int) -> str | None:
            return None if start == UNDATED else moment_text(start)

        return {
            "name": self.name,
            "origin": self.origin,
            "rows": self.rows,
            "rebuilt": [said(s) for s in self.rebuilt],
            "waits": [{"partition": said(s), "why": why} for s, why in self.waits.items()],
        }


def refresh(config: Config, name: str, origin: str, data: Data) -> Refreshed:
    """Makes the marked partitions of what is kept again, from the data as it is now, and leaves the others as they are.

    Raises StatisticsError when nothing of this origin is kept. What cannot be made again stays marked, with the reason.
    """
    if origin == "served":
        return follow(config, name, data)
    path = profiles.path_of(config, name, origin)
    with _alone(config, name, origin):
        found, recipe = profiles.load(config, name, origin), recipes.read(path)
        if not recipe.stale:
            return Refreshed(name, origin)
        made, waits = _made(name, origin, found, recipe, data)
        _put(path, made, recipe, waits)
    return Refreshed(name, origin, 0, tuple(made), waits)


def follow_stream(config: Config, view: str, data: Data, *, at_least: int = 0) -> Refreshed:
    """Adds the values of the entities that a stream wrote since the last time, as they are now, to what is kept of a view.

    The first time it is since midnight, UTC. Nothing is read within `at_least` microseconds of the last time. What means
    something else now begins anew.
    """
    path, now = profiles.path_of(config, view, "stream"), data.now
    with _alone(config, view, "stream"):
        recipe = recipes.read(path) if path.exists() else Recipe()
        known = profiles.load(config, view, "stream") if path.exists() else None
        first = now if known is not None else floor(now, DAY)
        start = first if recipe.reached is None else recipe.reached
        if known is not None and now - start < max(at_least, 1) and recipe.reached is not None:
            return Refreshed(view, "stream")
        new = data.streamed(view, start, now)
        if known is None or known.columns != new.columns:
            known, recipe = Statistics(new.columns, every=new.every, keep=new.keep), Recipe(whole=True)
        partition = floor(now, known.every.microseconds)
        spans = {**recipe.spans, partition: (*recipe.spans.get(partition, ()), (start, now))}
        with recipes.changing(path):
            marked = recipes.read(path).stale if path.exists() and recipe.spans else {}
            recipes.write(path, known.merge(new), replace(recipe, spans=spans, stale=marked))
    return Refreshed(view, "stream", new.total().rows)


def follow(config: Config, service: str, data: Data, *, every: Duration | None = None) -> Refreshed:
    """Takes what a service served since the last time into its kept statistics, and makes marked partitions again.

    Partitions are of the moments asked for, of a day unless `every` says otherwise. Everything is read anew where nothing is
    known of how far it went, or the service means something else now. Raises NotFound for a service that captured nothing.
    """
    path = profiles.path_of(config, service, "served")
    with _alone(config, service, "served"):
        logged = data.logged(service, None, None)
        meaning = service_fingerprint(logged.service, logged.views)
        known, recipe = (
            (None, Recipe()) if not path.exists() else (_load(config, service), recipes.read(path))
        )
        step = every or (days(1) if known is None else known.every)
        cursor: Mapping[str, int] = recipe.cursor or {}
        marked = frozenset(recipe.stale)
        if known is None or recipe.meaning != meaning or known.every != step or not recipe.whole:
            known, cursor, marked = Statistics(dict(logged.columns), every=step), {}, frozenset()
        before = known.total().rows
        for start in marked:
            known.replace(start, None)
        cursor = _take_in(logged, known, cursor, marked)
        done = Recipe(cursor=cursor, meaning=meaning, whole=True)
        with recipes.changing(path):
            left = _left(recipes.read(path), recipe, {})
            recipes.write(path, known, replace(done, stale=left))
    return Refreshed(service, "served", known.total().rows - before, tuple(sorted(marked)))


def _take_in(
    logged: Logged, found: Statistics, cursor: Mapping[str, int], marked: Collection[int]
) -> Mapping[str, int]:
    """Takes in the rows from a cursor on, and of marked partitions those before it as well; how far it went."""
    step = found.every.microseconds
    reached = dict(cursor)
    for some in logged.read({} if marked else cursor):
        table = some.table
        if marked:
            starts = table[MOMENT].cast(pa.int64()).to_numpy() // step * step
            new = table[OFFSET].to_numpy() >= cursor.get(some.fingerprint, 0)
            table = table.filter(pa.array(new | np.isin(starts, list(marked))))
        # A column that meant something else then is missing: its rows are unread, which is not NULL.
        same = logged.same(some.fingerprint)
        table = table.select([MOMENT, *(n for n in found.columns if n in same)])
        found.update(table, MOMENT)
        reached |= some.cursor
    return reached


def _load(config: Config, service: str) -> Statistics | None:
    """What is kept; None where its bytes are no statistics: they are made anew."""
    try:
        return profiles.load(config, service, "served")
    except StatisticsError:
        return None


def keep_up(config: Config, data: Data, served: Mapping[str, Duration | None]) -> list[str]:
    """Brings everything that is kept up to its data: before anybody looks at it. What of it could not be, in words.

    `served` are the services whose served rows are wanted, by partitions of at least this fineness (None: as they are).
    """
    said = []
    for service, every in served.items():
        try:
            follow(config, service, data, every=every)
        except NotFound:
            continue  # nothing was captured yet
        except (FeatureStoreError, OSError) as error:
            said.append(f"served statistics of '{service}' are not up to date: {_in_a_line(error)}")
    for name, origin in profiles.everything(config):
        try:
            if origin == "stream":
                follow_stream(config, name, data, at_least=HOUR)
            if not profiles.stale(config, name).get(origin):
                continue
            done = refresh(config, name, origin, data)
        except (FeatureStoreError, OSError) as error:
            said.append(f"{origin} statistics of '{name}' cannot be made again: {_in_a_line(error)}")
            continue
        if done.waits:
            why = " ".join(dict.fromkeys(done.waits.values()))
            said.append(f"{origin} statistics of '{name}': {len(done.waits)} partitions are stale: {why}")
    return said


def _in_a_line(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines())


# ------------------------------------------------------------------------------------------------ training, materialized


def _made(
    name: str, origin: str, found: Statistics, recipe: Recipe, data: Data
) -> tuple[dict[int, Summary | None], dict[int, str]]:
    """The marked partitions as the data has them now, and why others could not be made."""
    marked = list(recipe.stale)
    try:
        if not recipe.whole:
            raise StatisticsError("how they were made is not known: make them again")
        if origin == "materialized":
            new = _of_moments(name, found, recipe, marked, data)
        elif origin == "stream":
            new = _of_spans(name, found, recipe, marked, data)
        else:
            new = _of_spines(found, recipe.spines, marked, data)
        if new.columns != found.columns:
            raise StatisticsError("the features are others now: make them again")
    except (FeatureStoreError, OSError) as error:
        return {}, dict.fromkeys(marked, _in_a_line(error))
    return {start: new.partition(start) for start in marked}, {}


def _of_spines(
    found: Statistics, spines: Collection[Spine], marked: Collection[int], data: Data
) -> Statistics:
    """The rows of spines whose moments lie in marked partitions, computed anew."""
    out: Statistics | None = None
    for spine in spines:
        if (why := spine.changed()) is not None:
            raise StatisticsError(why)
        rows = _rows_of(spine, marked, found.every.microseconds)
        made = data.training(spine.asked, rows, spine.timestamp).statistics(
            every=found.every, keep=found.keep
        )
        out = made if out is None else out.merge(made)
    assert out is not None
    return out


def _rows_of(spine: Spine, marked: Collection[int], step: int) -> pa.Table:
    """The rows of a spine in some partitions."""
    with connect() as con:
        tables = []
        for table in spine_batches(con, spine.path, BATCH_ROWS):
            moments = times_of(table, spine.timestamp)
            tables.append(table.filter(pa.array(np.isin(moments // step * step, list(marked)))))
    return pa.concat_tables(tables)


def _of_moments(
    view: str, found: Statistics, recipe: Recipe, marked: Collection[int], data: Data
) -> Statistics:
    """What the entities of a view have at each of the moments that marked partitions were read at."""
    out = Statistics(found.columns, every=found.every, keep=found.keep)
    for start in marked:
        for at in recipe.moments[start]:
            out = out.merge(data.materialized(view, at))
    return out


def _of_spans(
    view: str, found: Statistics, recipe: Recipe, marked: Collection[int], data: Data
) -> Statistics:
    """What the entities of a view had that a stream wrote, out of what lies at rest by now."""
    out = Statistics(found.columns, every=found.every, keep=found.keep)
    for start in marked:
        for since, until in recipe.spans[start]:
            out = out.merge(data.replayed(view, since, until))
    return out


def _put(path: Path, made: Mapping[int, Summary | None], before: Recipe, waits: Mapping[int, str]) -> None:
    """Puts partitions into what is kept now, and takes their marks away."""
    with recipes.changing(path):
        now = recipes.read(path)
        if now.digest != before.digest:
            return  # somebody kept others meanwhile
        found = Statistics.from_bytes(path.read_bytes())
        for start, summary in made.items():
            found.replace(start, summary)
        recipes.write(path, found, replace(now, stale=_left(now, before, waits)))


def _left(now: Recipe, before: Recipe, waits: Mapping[int, str]) -> dict[int, Mark]:
    """The marks that stay: set since, or of what could not be made again, which says why."""
    left = {start: m for start, m in now.stale.items() if before.stale.get(start) != m}
    for start, why in waits.items():
        if start in now.stale and start not in left:
            cause = now.stale[start].why.partition("; ")[0]
            left[start] = replace(now.stale[start], why=f"{cause}; {why}")
    return left


@contextmanager
def _alone(config: Config, name: str, origin: str) -> Iterator[None]:
    """One refresh of the same statistics at a time; marking goes on meanwhile."""
    folder = profiles.path_of(config, name, origin).parent / "refreshing"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        yield


__all__ = ["Data", "Refreshed", "follow", "follow_stream", "keep_up", "refresh"]
