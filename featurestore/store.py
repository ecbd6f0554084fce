"""`FeatureStore`, the object users know: a thin face, each method one verb of the floor below."""

from __future__ import annotations

import asyncio
import getpass
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from featurestore import declare as d
from featurestore import ir, planning
from featurestore.asked import Asked, declarations_of
from featurestore.compile.programs import Program, programs
from featurestore.compile.sources import Connection, connect, engine_errors, inspect, row_count, source_sql
from featurestore.config import load_config
from featurestore.datasets.entities import known_entities, moments_of
from featurestore.datasets.manifest import Reproduction, reproduce
from featurestore.errors import NotFound, SourceError, Unsupported
from featurestore.lower import location_of, lower
from featurestore.materialize import Materialized, Progress, materialize_view
from featurestore.online.store import open_store
from featurestore.registry import Registry, Revision, ServiceVersion, open_registry
from featurestore.repo import load_declarations
from featurestore.selection import select_views
from featurestore.serving import OnlineFeatures, Reader, Rows
from featurestore.serving.trouble import Breaker, SteadyReader, reader_of
from featurestore.time import Duration, Moment, moment
from featurestore.training import TrainingSet
from featurestore.verify import Certificate, keep, must_be_verified, verify


class FeatureStore:
    """One project: a folder with `fs.toml` and definitions, its registry and its online store.

    `environment` takes the overrides of `[env.NAME]`. Nothing is opened before it is needed; `close()` or a `with` block
    lets go of what was.
    """

    def __init__(self, folder: str | Path = "definitions", environment: str | None = None) -> None:
        self.config = load_config(Path(folder), environment)
        self.registry: Registry = open_registry(self.config.registry_url, self.config.root)
        self._online: Any = None
        self._readers: dict[str, tuple[Reader | SteadyReader, ServiceVersion | None]] = {}
        self._breaker = Breaker()
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the online store. The next call opens it again."""
        with self._lock:
            if self._online is not None:
                self._online.close()
            self._online = None
            self._readers.clear()

    # ------------------------------------------------------------------------------------------ definitions and plan

    def definitions(self) -> ir.Plan:
        """What the definitions mean, applied or not. Raises DefinitionError with every mistake in them."""
        return self._lower(load_declarations(self.config))

    def plan(self) -> planning.ChangePlan:
        """What applying the definitions would change, and what that costs."""
        desired = self.definitions()
        with self._duckdb() as con:
            return planning.plan(
                self.registry, desired, lambda s: row_count(con, s.location, self.config.root)
            )

    def apply(
        self, plan: planning.ChangePlan | None = None, *, who: str | None = None, verified: bool = False
    ) -> Revision:
        """Executes exactly `plan`, or the plan of now. Raises PlanConflict if somebody applied in between.

        With `verified`, raises Unverified when the newest verification of a view's meaning is no pass, or there is none.
        """
        change = self.plan() if plan is None else plan
        if verified:
            must_be_verified(self.registry, change.desired)
        revision = planning.apply(self.registry, change, who or _user(), _now())
        with self._lock:
            self._readers.clear()
        return revision

    def service(self, asked: Asked) -> tuple[ir.Service, Mapping[str, ir.View]]:
        """What a read of `asked` reads: the service, and the views it reads by name."""
        service, views, _ = self._resolve(asked)
        return service, views

    def programs(self, name: str, engine: str = "duckdb", *, applied: bool = True) -> list[Program]:
        """The programs that the view `name`, or each view of the service `name`, becomes in an engine.

        Of what is applied, or else of the definitions. Raises NotFound, and Unsupported for an engine that is not there.
        """
        plan = self.registry.current().plan if applied else self.definitions()
        with self._duckdb() as con:
            return [
                program
                for view in select_views(plan, name)
                for program in programs(con, view, self.config.root, engine)
            ]

    def verify(
        self,
        names: str | Sequence[str] | None = None,
        *,
        sample: int = 20,
        seed: int = 0,
        engines: Sequence[str] | None = None,
        applied: bool = False,
        who: str | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Certificate:
        """Whether every engine gives what the reference says, on `sample` real entities of each view and the odd ones.

        Of the definitions, or else of what is `applied`. `names` are views, services, `tag:…` or `owner:…`. How it ended is
        kept in the registry with the views' fingerprints. Raises NotFound, SourceError and Unsupported.
        """
        plan = self.registry.current().plan if applied else self.definitions()
        views = select_views(plan, names)
        if not views:
            raise NotFound("feature view", "*", (), "the registry" if applied else "the definitions")
        done = verify(
            views,
            self.config.root,
            sample=sample,
            seed=seed,
            made_at=_now(),
            engines=engines,
            memory_limit=self.config.memory_limit,
            threads=self.config.threads,
            progress=progress,
        )
        keep(self.registry, done, who or _user())
        return done

    # -------------------------------------------------------------------------------------------------- batch to online

    def materialize(
        self,
        start: Moment | None = None,
        end: Moment | None = None,
        select: str | Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> list[Materialized]:
        """Writes the applied views to the online store, as of `end` (exclusive, now by default).

        `start` leaves out what came before. `select` names views, services, `tag:…` or `owner:…`. Raises SourceError, with
        nothing written, when a source is gone, empty, or no longer what was applied.
        """
        plan = self.registry.current().plan
        views = select_views(plan, select)
        if not views:
            raise NotFound("applied feature view", "*", (), "the registry; run `fs apply` first")
        first = None if start is None else moment(start)
        last = _now() if end is None else moment(end)
        root = self.config.root
        with engine_errors(), self._duckdb() as con:
            for view in views:
                _must_hold_rows(con, view, root)
            done = [
                materialize_view(con, self._store(), view, root, start=first, end=last, progress=progress)
                for view in views
            ]
        with self._lock:
            for reader, _ in self._readers.values():
                reader.forget()
        return done

    # ------------------------------------------------------------------------------------------------------------ reads

    def get_online_features(
        self,
        service: Asked,
        entities: Rows,
        *,
        request: Rows | None = None,
        at: Moment | None = None,
        timeout: float | None = None,
        scaled: bool = False,
        capture: bool = True,
    ) -> OnlineFeatures:
        """Feature vectors for entity rows: a dict of columns (scalars broadcast) or a list of row dicts.

        `at` replays a past moment: exact when nothing newer was written, else the status says INEXACT. `timeout` is in
        seconds; a service's `deadline` bounds it. `capture` has no effect on a service that declares none.
        """
        if scaled:
            raise Unsupported("this version", "scale features", "scale=None, and a scaler of the model's own")
        reader, version = self._reader(service)
        result = reader.read(entities, None if at is None else moment(at), timeout, request)
        if version is not None:
            self.registry.mark_served(version.name, version.version, _now(), version.fingerprint)
        return result

    async def get_online_features_async(
        self, service: Asked, entities: Rows, **options: Any
    ) -> OnlineFeatures:
        """`get_online_features` without blocking the event loop."""
        return await asyncio.to_thread(self.get_online_features, service, entities, **options)

    def get_historical_features(
        self,
        spine: Any,
        service: Asked,
        *,
        timestamp: str = "event_timestamp",
        knowledge: Literal["corrected", "arrived"] = "corrected",
        lag: timedelta | Mapping[str, timedelta] | None = None,
        scaled: bool = False,
        statuses: bool = False,
        full_names: bool = False,
    ) -> TrainingSet:
        """A point-in-time training set: for each spine row the values as of its `timestamp`, in the spine's order.

        `spine` is Arrow, pandas, polars, a DuckDB relation or a path, with the service's keys. `full_names` names every
        feature `view__feature`. Nothing is computed before the set is read.
        """
        if knowledge != "corrected" or lag is not None:
            raise Unsupported(
                "this version", "ask what had arrived at a moment", 'knowledge="corrected" without a lag'
            )
        if scaled:
            raise Unsupported(
                "this version", "scale features", "scaled=False, and a scaler of the model's own"
            )
        found, views, version = self._resolve(service)
        if full_names:
            found = _fully_named(found)
        return TrainingSet(
            self.config,
            found,
            views,
            spine,
            timestamp,
            statuses=statuses,
            full_names=full_names,
            reference=None if version is None else version.reference,
        )

    def reproduce(self, manifest: str | Path, out: str | Path, *, spine: Any = None) -> Reproduction:
        """Makes a written training set again in `out`, from its folder or `_manifest.json`, and says what has changed.

        Its rows are read from the set's own files; `spine` gives them where these are gone.
        """
        return reproduce(self.config, manifest, out, spine)

    def spine(
        self,
        entity: str | d.Entity,
        *,
        at: Moment | None = None,
        start: Moment | None = None,
        end: Moment | None = None,
        every: timedelta | Duration | None = None,
        timestamp: str = "event_timestamp",
    ) -> Any:
        """Every entity known at a moment, to predict for all of them: join keys and the moment, as an Arrow table.

        With `start`, `end` (exclusive) and `every`, the entities known at each of these moments, as rows that are made when
        they are read. An entity is known from its first event on, in any view of it; one that has no event yet is not.
        """
        name = entity if isinstance(entity, str) else entity.name
        plan = self.registry.current().plan
        if name not in [e.name for e in plan.entities]:
            plan = self.definitions()
        instants = [None if m is None else moment(m) for m in (at, start, end)]
        if isinstance(every, timedelta):
            step: int | None = every // timedelta(microseconds=1)
        else:
            step = None if every is None else every.microseconds
        moments = moments_of(instants[0], instants[1], instants[2], step)
        with self._duckdb() as con:
            rows = known_entities(con, plan, name, self.config.root, moments, timestamp)
        return rows.to_arrow() if at is not None else rows

    # ---------------------------------------------------------------------------------------------------------- inside

    @contextmanager
    def _duckdb(self) -> Any:
        con = connect(self.config.memory_limit, self.config.threads, self.config.offline / "spill")
        try:
            yield con
        finally:
            con.close()

    def _lower(self, declarations: Sequence[d.Declaration]) -> ir.Plan:
        with self._duckdb() as con:
            return lower(declarations, lambda s: inspect(con, location_of(s.batch), self.config.root))

    def _store(self) -> Any:
        with self._lock:
            if self._online is None:
                self._online = open_store(self.config.online_url, self.config.root)
            return self._online

    def _reader(self, asked: Asked) -> tuple[Reader | SteadyReader, ServiceVersion | None]:
        name = asked if isinstance(asked, str) else None
        with self._lock:
            if name is not None and name in self._readers:
                return self._readers[name]
            service, views, version = self._resolve(asked)
            found = reader_of(self._store(), service, views, self._breaker), version
            if name is not None:
                self._readers[name] = found
            return found

    def _resolve(self, asked: Asked) -> tuple[ir.Service, Mapping[str, ir.View], ServiceVersion | None]:
        """What is asked for as a service and its views; with the applied version when it is a name that was applied."""
        if isinstance(asked, str) and ":" not in asked:
            try:
                version = self.registry.service(asked)
            except NotFound:
                if "@" in asked:
                    raise  # definitions have no versions
                plan = self.definitions()
                known = [s.name for s in plan.services]
                if asked not in known:
                    raise NotFound("feature service", asked, known) from None
                return plan.service(asked), {v.name: v for v in plan.views}, None
            service, views = planning.readable(version, self.registry.current().plan)
            return service, views, version
        wanted, declarations = declarations_of(asked, lambda: load_declarations(self.config))
        plan = self._lower(declarations)
        return plan.service(wanted.name), {v.name: v for v in plan.views}, None


def _fully_named(service: ir.Service) -> ir.Service:
    """Features of views are `view__feature`; those computed on demand are of no view, and keep their names."""
    new = {
        r.output: r.output if r.output.startswith(f"{r.view}__") else f"{r.view}__{r.output}"
        for r in service.reads
        if not r.hidden
    }
    reads = tuple(r if r.hidden else replace(r, output=new[r.output]) for r in service.reads)
    return replace(service, reads=reads, order=tuple(new.get(name, name) for name in service.order))


def _must_hold_rows(con: Connection, view: ir.View, root: Path) -> None:
    """SourceError when the view's source cannot be read as planned, or is empty: that would take away what is served."""
    source = view.source
    select = source_sql(con, source, sorted(view.reads), root)
    rows = row_count(con, source.location, root)
    if rows == 0 or (rows is None and not con.execute(f"{select} LIMIT 1").fetchall()):
        raise SourceError(
            f"source '{source.name}' is empty: {source.location.path} holds no rows\n"
            f"  view '{view.name}' keeps what it has; put rows there, or leave the view out with a selection"
        )


def _now() -> int:
    return time.time_ns() // 1000


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
