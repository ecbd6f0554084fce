"""`FeatureStore`, the object users know: a thin face, each method one verb of the floor below."""

from __future__ import annotations

import asyncio
import getpass
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from featurestore import declare as d
from featurestore import flink, ir, planning, profiles, refreshing, stream
from featurestore.asked import Asked, declarations_of
from featurestore.backfill import Asked as AskedFor
from featurestore.backfill import Backfilled, backfill, missing
from featurestore.bootstrap import meanings_of
from featurestore.capture.returned import values_of
from featurestore.capturing import Capturing, recorder_of
from featurestore.comparing import Comparison, Contender, Predict, compare
from featurestore.compile.programs import Program, programs
from featurestore.compile.sources import Connection, connect, engine_errors, inspect, row_count, source_sql
from featurestore.config import load_config
from featurestore.consistency import Checked, FittedLag, LoggedReport, Why, fitted_lags, verify_logged, why
from featurestore.consistency.captured import Meaning, meanings_by_fingerprint
from featurestore.continual import Batch, Consumer, batches, consumers
from featurestore.continual import State as Consumed
from featurestore.datasets.entities import known_entities, moments_of
from featurestore.datasets.leakage import Leakage, leakage
from featurestore.datasets.manifest import Reproduction, reproduce
from featurestore.drift.verdicts import DriftReport, Limits
from featurestore.erase import entity_of, erase, plans_of
from featurestore.erasures import Receipt, erasures, receipts
from featurestore.errors import (
    EventError,
    MaterializeError,
    NotFound,
    RequestError,
    ScalerError,
    SourceError,
    Unsupported,
)
from featurestore.expectations import Expectation
from featurestore.flink_batches import Driver, FlinkBatches
from featurestore.functions import bound
from featurestore.inputs import Inputs, look
from featurestore.knowledge import Knowledge, Lag, lags_of
from featurestore.labels import Immature, versions
from featurestore.labels import check as check_labels
from featurestore.labels import checked as checked_immature
from featurestore.ledger import HoleEntry, Ledger, Unit
from featurestore.log.eventlog import Pruned, Skipped
from featurestore.log.files import read_file
from featurestore.logged import Logged
from featurestore.lower import location_of, lower
from featurestore.materialize import Progress
from featurestore.monitor import drifting, results
from featurestore.monitor.alerts import AlertState, acknowledged, snoozed
from featurestore.monitor.loop import Loop
from featurestore.monitor.report import report_of
from featurestore.monitor.run import Ran, alerts_of, change_alerts, evaluate_triggers
from featurestore.monitor.run import run as run_monitors
from featurestore.monitor.triggers import Evaluation
from featurestore.online.store import StoreUrl, open_store
from featurestore.policy import Policies
from featurestore.recipes import Recipe, Spine
from featurestore.registry import Registry, Revision, ServiceVersion, open_registry
from featurestore.registry.alerts import Triggered, history
from featurestore.registry.scalers import scaler as kept_scaler
from featurestore.repo import load_declarations, load_policies
from featurestore.scaling import (
    Refit,
    fit_scaler,
    pin,
    pinned,
    refit_scaler,
    renamed,
    rows_of,
    scaler_of_entry,
)
from featurestore.selection import select_views, select_views_and_services
from featurestore.serving import OnlineFeatures, Reader, Rows
from featurestore.serving.trouble import Breaker, SteadyReader, reader_of
from featurestore.statistics import Statistics
from featurestore.statistics.scalers import Scaler
from featurestore.stream import background
from featurestore.stream.inbox import Inbox, Pushed, open_inbox
from featurestore.stream.writers import Writer
from featurestore.stream.written import WriterStatus, written
from featurestore.streamed import happened
from featurestore.streamed import written as written_entities
from featurestore.time import HOUR, Duration, Moment, floor, moment
from featurestore.training import TrainingSet
from featurestore.types import DType
from featurestore.upgrading import Doing, made_ahead
from featurestore.validation import verbs as validating
from featurestore.validation.admitting import admit
from featurestore.validation.keep import load as kept_validations
from featurestore.validation.served import of_served
from featurestore.verdicts import Validation
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
        self._readers: dict[str, Reader | SteadyReader] = {}
        self._inboxes: dict[ir.Source, Inbox] = {}
        self._breaker = Breaker()
        self._scalers: dict[str, Scaler] = {}
        self._recorder = recorder_of(self.config, _now)
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the online store, once what was served is captured, and of brokers. The next call opens them again."""
        self._recorder.close()
        with self._lock:
            for inbox in self._inboxes.values():
                inbox.close()
            self._inboxes.clear()
            if self._online is not None:
                self._online.close()
            self._online = None
            self._readers.clear()
            self._scalers.clear()

    # ------------------------------------------------------------------------------------------ definitions and plan

    def definitions(self) -> ir.Plan:
        """What the definitions mean, applied or not. Raises DefinitionError with every mistake in them."""
        return self._lower(load_declarations(self.config))

    def plan(self) -> planning.ChangePlan:
        """What applying the definitions would change, and what that costs."""
        desired = self.definitions()
        with self._duckdb() as con:
            return planning.plan(self.registry, desired, lambda s: row_count(con, s, self.config.root))

    def apply(
        self,
        plan: planning.ChangePlan | None = None,
        *,
        who: str | None = None,
        verified: bool = False,
        at_once: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> Revision:
        """Executes exactly `plan`, or the plan of now. Raises PlanConflict if somebody applied in between.

        A view whose Flink job runs here and changes is made ready beside what is served first: its base, its job, its values
        until they have all that came, a comparison with batch (StreamError where it is not that); `say` is told of each. That
        may take minutes; `at_once` leaves it out, and what is read is what the new version has so far.

        With `verified`, raises Unverified when the newest verification of a view's meaning is no pass, or there is none.
        """
        change = self.plan() if plan is None else plan
        return self._in_force(change, who=who, verified=verified, at_once=at_once, say=say)[0]

    def _in_force(
        self,
        change: planning.ChangePlan,
        *,
        who: str | None = None,
        verified: bool = False,
        at_once: bool = False,
        say: Callable[[str], None],
    ) -> tuple[Revision, list[flink.Upgraded]]:
        if verified:
            must_be_verified(self.registry, change.desired)
        done = [] if at_once else made_ahead(self._doing(), change, say)
        revision = planning.apply(self.registry, change, who or _user(), _now())
        with self._lock:
            self._readers.clear()
            self._scalers.clear()
        if done:
            flink.switched(self.config, done, say)
        return revision, done

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

        So too what services compute on demand, for requests made up. Of the definitions, or else of what is `applied`. `names`
        are views, services, `tag:…` or `owner:…`. How it ended is kept in the registry with the fingerprints. Raises NotFound,
        SourceError, FunctionError, and FlinkError where Flink is asked and a job fails.
        """
        plan = self.registry.current().plan if applied else self.definitions()
        views, found = select_views_and_services(plan, names)
        if not views and not found:
            raise NotFound("feature view", "*", (), "the registry" if applied else "the definitions")
        by_name = {v.name: v for v in plan.views}
        services = [(bound(s, lambda: load_declarations(self.config)), by_name) for s in found if s.on_demand]
        done = verify(
            views,
            self.config.root,
            sample=sample,
            seed=seed,
            made_at=_now(),
            engines=engines,
            services=services,
            config=self.config,
            progress=progress,
        )
        keep(self.registry, done, who or _user())
        return done

    # ----------------------------------------------------------------------------------------------------- expectations

    def validate(
        self,
        name: str | None = None,
        rows: Any = None,
        *,
        expectations: Sequence[Expectation] | None = None,
        engine: str = "duckdb",
        start: Moment | None = None,
        end: Moment | None = None,
        applied: bool = False,
        keep: bool = True,
        who: str | None = None,
        at: Moment | None = None,
    ) -> Validation:
        """Judges a source, a view or a service by what is expected of it, or by `expectations`; or any `rows` by these.

        A source by its rows from `start` to `end` (exclusive), a view by its values of now for every known entity, a service by
        what it served and kept; or all of them by `rows`: Arrow, a frame, a list of dicts, a path. `engine` is `duckdb`, `gx`
        (Great Expectations) or `statistics`, which reads what is kept and no rows. `at` is the moment ages are taken at, now by
        default. The outcome is kept, unless `keep` is false.
        """
        asked = self._validating(engine, start, end, who, kept=keep, at=at)
        with self._duckdb() as con:
            plan = self._expecting(name, applied=applied)
            return validating.validate(con, self.config, plan, name, rows, expectations, asked)

    def suggest_expectations(
        self,
        name: str | None = None,
        rows: Any = None,
        *,
        start: Moment | None = None,
        end: Moment | None = None,
        applied: bool = False,
    ) -> tuple[Expectation, ...]:
        """What could be expected of rows like those of a source or view, or like `rows`: a proposal to read and to edit."""
        asked = self._validating("duckdb", start, end, None)
        with self._duckdb() as con:
            plan = self._expecting(name, applied=applied)
            return validating.suggested(con, self.config, plan, name, rows, asked)

    def validations(self, name: str | None = None, *, since: Moment | None = None) -> list[Validation]:
        """What was judged before, of one name or all, from a moment on; the newest first."""
        return kept_validations(self.config, name, None if since is None else moment(since))

    def served_validation(self, service: str) -> Validation:
        """What this process saw of the vectors it served, by what the service expects of each. Kept nowhere.

        One read in sixteen is looked at, and every one for what is to block.
        """
        return of_served(self._reader(service), _now())

    def expecting(self, *, applied: bool = False) -> list[str]:
        """The sources, views and services of which something is expected."""
        return validating.expecting(self.registry.current().plan if applied else self.definitions())

    def _expecting(self, name: str | None, *, applied: bool) -> ir.Plan:
        if name is None:
            return ir.Plan()
        return self.registry.current().plan if applied else self.definitions()

    def _validating(
        self,
        engine: str,
        start: Moment | None,
        end: Moment | None,
        who: str | None,
        *,
        kept: bool = True,
        at: Moment | None = None,
    ) -> validating.Asked:
        now = _now() if at is None else moment(at)
        low, high = (None if m is None else moment(m) for m in (start, end))

        def served(service: ir.Service, low: int | None, high: int | None) -> Any:
            return self.get_logged_features(service.name, labelled=False, start=low, end=high).to_arrow()

        values = partial(self._values, at=now)
        return validating.Asked(now, who or _user(), values, served, engine, low, high, kept)

    def _values(self, view: ir.View, *, at: int) -> Any:
        """The features of a view at a moment, of every entity known then."""
        known = self.spine(view.entity, at=at)
        return self.get_historical_features(known, [view.name]).to_arrow()

    # -------------------------------------------------------------------------------------------------- batch to online

    def materialize(
        self,
        start: Moment | None = None,
        end: Moment | None = None,
        select: str | Sequence[str] | None = None,
        progress: Progress | None = None,
        *,
        replace: bool = False,
        reason: str = "",
        who: str | None = None,
        engine: Literal["duckdb", "flink"] = "duckdb",
    ) -> list[Backfilled]:
        """Writes the applied views to the online store, as of `end` (exclusive, now by default), where something is new.

        `start` leaves out what came before. `select` names views, services, `tag:…` or `owner:…`. With `replace`, which wants
        a `reason`, a view is made anew whatever is known of it: with `start`, as far as it is served already, to repair what
        lies between `start` and `end`; without, as of `end`, even an earlier one.

        `engine` makes the tiles: DuckDB here, or Flink, as a job in batch mode over the source's files.

        What is expected of sources and views is judged first. What was stopped goes on where it was. Raises, with nothing
        written, ExpectationFailed where that is to block, and SourceError when a source is gone, empty, or no longer what was
        applied; AlreadyRunning while somebody else writes a view; WouldStepBack for an end before what the stream of a view
        has handed over.
        """
        if replace and not reason.strip():
            raise MaterializeError(
                "replacing what is served wants a reason\n  say why: --reason TEXT, or reason=…"
            )
        views = self._applied(select)
        asked = AskedFor(
            _now() if end is None else moment(end),
            end is not None,
            None if start is None else moment(start),
            replace,
            reason,
            who or _user(),
        )
        root, done = self.config.root, []
        seen: dict[str, Inputs | None] = {}
        if replace:
            self._mark_repaired(views, asked)
        with engine_errors(), self._duckdb() as con, Driver(self.config) as driver:
            batches = None if engine == "duckdb" else FlinkBatches(self.config.offline / "flink", driver)
            for view in views:
                _must_hold_rows(con, view, root)
            admit(con, self.config, views, partial(self._values, at=asked.end), now=_now(), who=asked.who)
            for view in views:
                name = view.source.name
                one, seen[name] = backfill(
                    con,
                    self._store(),
                    self.ledger,
                    view,
                    root,
                    asked,
                    seen=seen.get(name),
                    progress=progress,
                    batches=batches,
                )
                done.append(one)
        if replace:
            self._mark_repaired(views, asked)  # again: a refresh in between has read what was there before
        with self._lock:
            for reader in self._readers.values():
                reader.forget()
        return done

    def _mark_repaired(self, views: Sequence[ir.View], asked: AskedFor) -> None:
        """Kept statistics of what was computed from the events between two moments are to be made again."""
        why = f"repaired: {asked.reason}"
        services = [v.service for v in self.registry.services()]
        for view in views:
            readers = [s.name for s in services if any(r.view == view.name for r in s.reads)]
            windows = [f.window for f in view.features]
            # Lifetimes and latest values remember an event for good.
            bounded = [w.size + w.hop for w in windows if w is not None and w.size is not None]
            end = asked.end + max(bounded, default=0) if len(bounded) == len(windows) else None
            profiles.mark(
                self.config,
                [view.name, *readers],
                ("training", "materialized", "stream"),
                why,
                start=asked.start,
                end=end,
            )

    @property
    def ledger(self) -> Ledger:
        """What was materialised into this project's online store, and what is missing there."""
        return Ledger(self.registry, str(StoreUrl.parse(self.config.online_url)))

    def holes(self, select: str | Sequence[str] | None = None) -> list[HoleEntry]:
        """Ranges in which what is served lacks something: reported by streams, or left by files that came, changed or went.

        By view and start. The next `materialize` closes them. Writes nothing.
        """
        with engine_errors(), self._duckdb() as con:
            return missing(con, self.ledger, self._applied(select), self.config.root)

    def unfinished(self, select: str | Sequence[str] | None = None) -> list[Unit]:
        """The views' materialisations that did not end: being written now, failed, or left by a killed process."""
        return self.ledger.unfinished(self._applied(select))

    def writer(self, view: str) -> str | None:
        """Who is materialising a view now, in words; None when nobody is."""
        return self.ledger.running(self._applied(view)[0])

    # -------------------------------------------------------------------------------------------------- stream to online

    def push(self, source: str, rows: Any, *, at: Moment | None = None) -> Pushed:
        """Gives events to the log or topic of a stream source, all of them or none; they are kept there when it returns.

        `rows` is Arrow, a pandas or polars frame, a list of dicts, or the path of a file. They arrive now, or, in a replay of
        the past, `at` a moment, which in a log never steps back. Raises NotFound, EventError, LogError and BrokerError.
        """
        found = self._stream_source(source)
        if isinstance(rows, str | Path):
            rows, dead = read_file(Path(rows), found.schema)
            if dead:
                raise EventError(
                    "\n  ".join([f"{len(dead)} events do not fit; nothing was pushed", *map(str, dead[:5])]),
                    row=dead[0].row,
                    column=dead[0].column,
                )
        with self._lock:
            if found not in self._inboxes:
                self._inboxes[found] = open_inbox(self.config, found)
            inbox = self._inboxes[found]
        return inbox.append(rows, _now() if at is None else moment(at))

    def run_stream(
        self,
        select: str | Sequence[str] | None = None,
        *,
        engine: str | None = None,
        once: bool = False,
        stop: threading.Event | None = None,
        reset: bool = False,
        take_over: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> int:
        """Turns pushed events into online values until `stop` is set, or, with `once`, until none is left; how many came.

        Of the applied views of stream sources, or those that `select` picks. `reset` forgets the stream's own state and
        starts from what the log holds; `take_over` owns views that another stream, gone for good, had owned. Raises NotFound,
        StreamConflict, OutageTooLong, LogCorrupt and BrokerError.
        """
        if (engine or self.config.stream_engine) == "flink":
            return self._run_jobs(select, once=once, stop=stop or threading.Event(), fresh=reset, say=say)
        with (
            engine_errors(),
            stream.Stream(
                self.config,
                self.registry,
                self._store(),
                select,
                fresh=reset,
                take_over=take_over,
                report=self.ledger.report_holes,
                say=say,
            ) as running,
        ):
            return running.run(stop, once=once)

    def _run_jobs(
        self,
        select: str | Sequence[str] | None,
        *,
        once: bool,
        stop: threading.Event,
        fresh: bool,
        say: Callable[[str], None],
    ) -> int:
        """Jobs of Flink until `stop` is set; then each ends with a savepoint."""
        if once:
            raise Unsupported(
                "a job of Flink",
                "end when nothing is left",
                "--engine embedded, or fs materialize --engine flink",
            )
        online = self._store()
        flink.start(
            self.config, self.registry, online, select, _now(), fresh=fresh, say=say, background=False
        )
        try:
            flink.supervise(self.config, self.registry, online, stop, _now, select=select, say=say)
        finally:
            flink.stop(self.config, self.registry, select, _now(), say=say)
        return sum(status.counts.get("records", 0) for status in self.job_status(select))

    def supervise_stream(self, stop: threading.Event, *, say: Callable[[str], None] = lambda _: None) -> None:
        """Keeps the jobs that `start_stream` began running until `stop` is set, or none is left. Raises StreamConflict."""
        flink.supervise(self.config, self.registry, self._store(), stop, _now, say=say)

    def start_stream(
        self,
        select: str | Sequence[str] | None = None,
        *,
        engine: str | None = None,
        fresh: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Has streams run in the background, from where they were, until `stop_stream`.

        With the engine `flink` each view is a job; one that runs already is left alone. `fresh` begins jobs anew: what batch
        holds is materialised, and they read from the first event that base does not have. Raises FlinkError,
        JobOutageTooLong, BrokerError, NotFound, and StreamConflict.
        """
        if self._engine(engine) == "flink":
            if fresh:
                self._heal(select)
            flink.start(self.config, self.registry, self._store(), select, _now(), fresh=fresh, say=say)
        else:
            say(f"process {background.start(self.config, select).pid} runs the streams")

    def _heal(self, select: str | Sequence[str] | None) -> None:
        """Has batch take over what jobs that were away missed, as far as it holds it."""
        views = flink.topic_views(self.registry.current().plan, select)
        flink.must_not_run(self.config, views)
        flink.let_batch_pass(self._store(), views, _now())
        try:
            self.materialize(select=[view.name for view in views])
        finally:
            flink.begin_behind(self._store(), views, _now())

    def pause_stream(
        self,
        select: str | Sequence[str] | None = None,
        *,
        engine: str | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Stops streams for a while: jobs of Flink with a savepoint each, from which `start_stream` goes on."""
        if self._engine(engine) == "flink":
            flink.pause(self.config, self.registry, select, _now(), say=say)
        else:
            self.stop_stream(select, engine=engine, say=say)

    def stop_stream(
        self,
        select: str | Sequence[str] | None = None,
        *,
        engine: str | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Stops streams: jobs of Flink with a savepoint each; when none is left, also writers and a local cluster end."""
        if self._engine(engine) == "flink":
            flink.stop(self.config, self.registry, select, _now(), say=say)
        elif (ended := background.stop(self.config)) is not None:
            say(f"process {ended.pid} has ended")
        else:
            say("no stream runs in the background")

    def restart_stream(
        self,
        select: str | Sequence[str] | None = None,
        *,
        engine: str | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Stops streams and starts them from where they were."""
        if self._engine(engine) == "flink":
            flink.restart(self.config, self.registry, self._store(), select, _now(), say=say)
        else:
            self.stop_stream(select, engine=engine, say=say)
            self.start_stream(select, engine=engine, say=say)

    def upgrade_stream(
        self,
        select: str | Sequence[str] | None = None,
        *,
        engine: str | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> list[flink.Upgraded]:
        """Brings changed definitions into force as `apply` does, and starts the jobs of what is applied and has none.

        The views whose job changed. The embedded stream takes up by itself what is applied.
        """
        if self._engine(engine) != "flink":
            say("a stream that runs takes up what is applied by itself")
            return []
        change = self.plan()
        done = self._in_force(change, say=say)[1] if not change.is_empty else []
        flink.upgrade(self.config, self.registry, self._store(), select, _now(), say=say)
        return done

    def _doing(self) -> Doing:
        return Doing(
            self.config,
            self.registry,
            self._store,
            self.definitions,
            self._base_of,
            lambda entity, at: self.spine(entity, at=at),
            lambda view, keys, at: self.get_online_features([view], keys, at=at, capture=False).to_arrow(),
            lambda view, spine: self.get_historical_features(spine, [view]).to_arrow(),
        )

    def _base_of(self, view: ir.View) -> None:
        """Materialises a view that is not applied yet, up to what batch surely has: the rest comes by its topic."""
        with engine_errors(), self._duckdb() as con:
            there = look(con, view.source, self.config.root)
            if there is not None and there.last is None:
                return  # batch has nothing
            end = _now() - (view.source.lateness or 0)
            end = end if there is None or there.last is None else min(end, there.last + 1)
            backfill(
                con,
                self._store(),
                self.ledger,
                view,
                self.config.root,
                AskedFor(end, named=True, who=_user()),
            )

    def job_status(self, select: str | Sequence[str] | None = None) -> list[flink.JobStatus]:
        """How far the Flink job of each view is, whether it runs or not."""
        return flink.job_statuses(self.config, self.registry.current().plan, self._store(), select)

    def job_dead_letters(
        self, select: str | Sequence[str] | None = None
    ) -> list[tuple[str, flink.DeadLetter]]:
        """The newest events that Flink jobs set aside, with the view, the oldest first."""
        views = [v for v in stream.streamed_views(self.registry.current().plan, select) if v.source.stream]
        return [(v.name, letter) for v in views for letter in flink.dead_letters(v)]

    def replay_job_dead_letters(
        self, view: str, places: Sequence[str] | None = None
    ) -> list[flink.DeadLetter]:
        """Gives events that a Flink job set aside to their topic again, as if they had arrived now; those that were."""
        (found,) = stream.streamed_views(self.registry.current().plan, view)
        return flink.replay(found, places)

    def _engine(self, engine: str | None) -> str:
        return engine or self.config.stream_engine

    def write_stream(
        self,
        select: str | Sequence[str] | None = None,
        *,
        once: bool = False,
        stop: threading.Event | None = None,
        reset: bool = False,
        take_over: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> int:
        """Puts the tiles of Flink jobs from their topics into the online store, in as many processes as are wanted.

        Until `stop` is set, or, with `once`, until nothing is left; how many records came. `reset` reads the topics from their
        beginning; `take_over` owns views that another stream, gone for good, had owned. Raises NotFound, TopicNotFound,
        StreamConflict, OutageTooLong and BrokerError.
        """
        options: dict[str, Any] = {"report": self.ledger.report_holes, "say": say}
        writer = Writer(
            self.config, self.registry, self._store(), select, take_over=take_over, reset=reset, **options
        )
        return writer.run(stop, once=once)

    def written(self, select: str | Sequence[str] | None = None) -> list[WriterStatus]:
        """How far the writers of views are that Flink jobs feed, whether they run or not."""
        views = stream.streamed_views(self.registry.current().plan, select)
        return [written(self._store(), view) for view in views if view.source.stream.kind == "kafka"]  # type: ignore[union-attr]

    def stream_status(self) -> list[stream.StreamStatus]:
        """How far the stream of each view is, whether it runs or not."""
        return list(stream.statuses(self.config, self.registry.current().plan, self._store()))

    def dead_letters(self, select: str | Sequence[str] | None = None) -> list[tuple[str, stream.DeadEvent]]:
        """The events that streams set aside, with the view, the oldest first."""
        views = stream.streamed_views(self.registry.current().plan, select)
        return [(view.name, dead) for view in views for dead in stream.dead_events(self.config, view)]

    def replay_dead_letters(self, view: str, numbers: Sequence[int] | None = None) -> list[stream.DeadEvent]:
        """Gives events that were set aside to their log or topic again, as if they had arrived now; those that were."""
        (found,) = stream.streamed_views(self.registry.current().plan, view)
        return stream.replay(self.config, found, numbers, _now())

    def event_logs(self, source: str | None = None, *, check: bool = False) -> list[stream.LogStatus]:
        """The log of each stream source, or of one: what it holds, how far streams read it, and what of it is damaged.

        `check` reads all events and compares their checksums. Raises NotFound.
        """
        plan = self.registry.current().plan
        one = None if source is None else self._stream_source(source)
        sources = [s for s in plan.sources if s.stream is not None] if one is None else [one]
        return list(stream.log_statuses(self.config, sources, plan.views, check=check))

    def skip_log(self, source: str, offset: int) -> Skipped:
        """Sets damaged bytes of a source's log aside, at the offset where LogCorrupt says that reading stops.

        The events in them are lost to streams, and stay counted; all others keep their offsets. Raises LogError where
        nothing is damaged.
        """
        return stream.skip_damage(self.config, self._stream_source(source), offset)

    def prune_log(
        self,
        source: str,
        *,
        before: int | None = None,
        older_than: timedelta | Duration | None = None,
        force: bool = False,
    ) -> Pruned:
        """Removes old events from the start of a source's log, in whole segments.

        Events below offset `before` go, those pushed longer ago than `older_than`, or those of both. Raises LogUnread where
        a stream has not read them, unless `force`.
        """
        found, views = self._stream_source(source), self.registry.current().plan.views
        age = None if older_than is None else _microseconds(older_than)
        least = None if age is None else _now() - age
        return stream.prune_log(self.config, found, views, before=before, older_than=least, force=force)

    # ---------------------------------------------------------------------------------------------------------- erasure

    def erase(
        self,
        entity: str | d.Entity,
        key: Mapping[str, int | str],
        *,
        reason: str = "",
        who: str | None = None,
        wait: float = 30.0,
    ) -> Receipt:
        """Erases one entity: what came before now never counts again, and what is stored of it is deleted.

        Waits up to `wait` seconds for streams and materialisations that run. A receipt that is not `done` says what waits:
        the same again finishes it. Raises NotFound for an unknown entity or join key, RequestError for half a key.
        """
        name = entity if isinstance(entity, str) else entity.name
        self._recorder.flush(wait)
        done = erase(
            self.config,
            self.registry,
            self.ledger,
            self._store(),
            name,
            key,
            who=who or _user(),
            reason=reason,
            now=_now(),
            patience=wait,
        )
        with self._lock:
            self._readers.clear()  # some remember values
        return done

    def join_keys(self, entity: str) -> dict[str, DType]:
        """The join keys of an entity that was ever applied, with their types. Raises NotFound."""
        return dict(entity_of(plans_of(self.registry), entity).keys)

    def receipts(self) -> list[Receipt]:
        """What became of every erasure, the newest first. The keys themselves were not kept."""
        return receipts(self.registry)

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
        context: Mapping[str, Any] | None = None,
    ) -> OnlineFeatures:
        """Feature vectors for entity rows: a dict of columns (scalars broadcast) or a list of row dicts.

        `at` replays a past moment: exact when nothing newer was written, else the status says INEXACT. `timeout` is in
        seconds; a service's `deadline` bounds it. A service that declares `capture=` is captured, unless `capture` is False
        here; `context` is columns of the caller's to keep beside (a model, an arm, positions): one value, or one for each row.
        """
        reader = self._reader(service)
        if not scaled:
            return reader.get(entities, None, request, timeout, at=at, capture=capture, context=context)
        scaler = self._pinned(service)
        result = reader.read(entities, None if at is None else moment(at), timeout, request)
        return reader.hand_out(result, scaler, capture=capture, context=context)

    async def get_online_features_async(
        self,
        service: Asked,
        entities: Rows,
        *,
        request: Rows | None = None,
        at: Moment | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        scaled: bool = False,
        capture: bool = True,
        context: Mapping[str, Any] | None = None,
    ) -> OnlineFeatures:
        """`get_online_features` without blocking the event loop: what is asked in one tick is one read of the store."""
        scaler = await asyncio.to_thread(self._pinned, service) if scaled else None
        reader = (
            self._reader(service) if self._known(service) else await asyncio.to_thread(self._reader, service)
        )
        if scaler is None:
            return await reader.get_async(
                entities, None, request, timeout, at=at, capture=capture, context=context
            )
        result = await reader.get_async(entities, None, request, timeout, at=at, capture=False)
        return reader.hand_out(result, scaler, capture=capture, context=context)

    @property
    def capture(self) -> Capturing:
        """What was served, as it was kept, and what comes back of it."""
        return Capturing(self.config, self._recorder, _now, self._retention)

    def reader(self, service: Asked) -> Reader | SteadyReader:
        """What reads one service, resolved once: `reader.get(keys)` costs little more than the store.

        It stays with the version it was made of, whatever is applied afterwards, and may be shared between threads.
        """
        return self._reader(service)

    def get_historical_features(
        self,
        spine: Any,
        service: Asked,
        *,
        timestamp: str = "event_timestamp",
        knowledge: Knowledge = "corrected",
        lag: Lag | Mapping[str, Lag] | Literal["fitted"] | None = None,
        scaled: bool = False,
        statuses: bool = False,
        full_names: bool = False,
        labelled: bool = True,
        as_of: Moment | None = None,
        immature: Immature = "drop",
        bootstrap_from_log: bool = False,
    ) -> TrainingSet:
        """A point-in-time training set: for each spine row the values as of its `timestamp`, in the spine's order.

        `spine` is Arrow, pandas, polars, a DuckDB relation or a path, with the service's keys. `full_names` names every
        feature `view__feature`. Nothing is computed before the set is read.

        A service with labels has them after its features, by what is known `as_of` a moment, now by default: `NAME`,
        `NAME__state` (MATURE, IMMATURE or CENSORED), and `is_mature`. Rows whose label is not mature are left out;
        `immature="keep"` keeps them, without a value. With `labelled=False` it is as if the service had none.

        With `bootstrap_from_log` a cell that was served is what was served: of the captured row with the spine's `row_id`, or
        else with its keys, moment and request columns. Holes are filled as ever, and `GROUP__from` says for each view and
        on-demand feature: log (all was served), backfill, or default (backfilled, of no event).

        With `knowledge="arrived"` an event counts only from its arrival on (its time, where the source names no arrival), or a
        `lag` later: one for all sources, or by source; `"fitted"` is what captured rows say of an applied service (see `lags`).
        Static sources are visible always. Raises RequestError for a lag that is negative or without `"arrived"`, NotFound for
        that of a source the service does not read.
        """
        found, views, version = self._resolve(service)
        labels = self._labels_of(service, found) if labelled else ()
        check_labels(labels, None if as_of is None else moment(as_of), immature, found.name)
        if bootstrap_from_log and (scaled or statuses or full_names or version is None):
            raise RequestError(
                "what was served is taken for features of an applied service as they are\n"
                "  leave out bootstrap_from_log, or scaled, statuses and full_names"
            )
        sources = {views[r.view].source.name for r in found.reads}
        if lag == "fitted":
            lag = self._fitted(service, version, sources)
        lags = lags_of(knowledge, lag, sources)
        scaler = self._scaler_of(service, version) if scaled else None
        if full_names:
            named = _fully_named(found)
            names = [(a, b) for (a, _), (b, _) in zip(found.columns, named.columns, strict=True)]
            scaler = None if scaler is None else renamed(scaler, names)
            found = named
        return TrainingSet(
            self.config,
            found,
            views,
            spine,
            timestamp,
            statuses=statuses,
            full_names=full_names,
            knowledge=knowledge,
            lag=lags,
            reference=None if version is None else version.reference,
            scaler=scaler,
            labels=labels,
            as_of=(_now() if as_of is None else moment(as_of)) if labels else None,
            immature=immature,
            bootstrap_from_log=bootstrap_from_log,
        )

    def get_logged_features(
        self,
        service: str,
        *,
        labelled: bool = True,
        labels: Sequence[str] | None = None,
        as_of: Moment | None = None,
        immature: Immature = "drop",
        start: Moment | None = None,
        end: Moment | None = None,
    ) -> Logged:
        """What was served, as rows to train on: one for each captured row of a service, read when it is asked for.

        Features are those of the service as it is now, bit for bit as they went out; NULL in rows that were served when a
        feature meant something else. Labels are as in `get_historical_features`, by what is known `as_of` a moment, now by
        default; what came back of a row (`store.capture.labels`) stands in the place of a computed label of its name. `labels`
        names those that are wanted: by default the service's, or, where it has none, all that came back. `start` and `end`
        (exclusive) bound the moments asked for. A label's key that is no key of the service is looked for in the request and
        in the context that was told at serving. Raises NotFound.
        """
        found, views, version = self._resolve(service)
        if version is None:
            raise NotFound("applied feature service", service, [v.name for v in self.registry.services()])
        own = self._labels_of(service, found) if labelled else ()
        low, high = (None if m is None else moment(m) for m in (start, end))
        return Logged(
            self.config,
            self.capture.log,
            found,
            views,
            meanings_of(self.registry, found.name),
            own if labels is None else tuple(x for x in own if x.name in labels),
            _now() if as_of is None else moment(as_of),
            checked_immature(immature),
            low,
            high,
            erasures(self.registry),
            labelled,
            None if labels is None else tuple(labels),
        )

    def compare(
        self,
        first: str,
        second: str,
        *,
        sample: int = 10_000,
        start: Moment | None = None,
        end: Moment | None = None,
        predict: Predict | tuple[Predict, Predict] | None = None,
    ) -> Comparison:
        """Two versions of a service (`"delay@1"`, `"delay@2"`) on the captured requests of the first: what differs by feature.

        Both are computed for the same requests from the same events. With `predict`, a function of a table of features (or one
        for each version), their predictions are compared too. `start` and `end` (exclusive) bound the requests; up to `sample`
        of them are drawn. Raises NotFound, RequestError when nothing was captured.
        """
        models = predict if isinstance(predict, tuple) else (predict, predict)
        logged = self.get_logged_features(first, labelled=False, start=start, end=end)
        one, two = (
            Contender(name, *self._resolve(name)[:2], model)
            for name, model in zip((first, second), models, strict=True)
        )
        return compare(self.config, logged, one, two, sample=sample)

    def verify_logged(
        self,
        service: str,
        *,
        sample: int = 1_000,
        start: Moment | None = None,
        end: Moment | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> LoggedReport:
        """Captured rows of a service beside the training values of their moments: what differs by feature, and why.

        Up to `sample` rows are drawn by a hash of their ids, whose moment lies from `start` to before `end`. Of a version
        (`"delay@2"`) its own rows; of a bare name those of all versions, and what a feature means otherwise today differs by its
        definition. Raises NotFound.
        """
        checked, version = self._checked(service)
        fingerprint = version.fingerprint if "@" in service else None
        low, high = (None if m is None else moment(m) for m in (start, end))
        return verify_logged(
            checked, sample=sample, fingerprint=fingerprint, start=low, end=high, progress=progress
        )

    def why(self, service: str, request: str, *, limit: int = 20) -> list[Why]:
        """The captured rows of a request, or the one of a row id: value by value, why it is not what is computed now.

        With the events that made it, at most `limit` of each view. Raises NotFound.
        """
        return why(self._checked(service)[0], request, limit=limit)

    def lags(
        self,
        service: str,
        *,
        quantile: float = 0.5,
        start: Moment | None = None,
        end: Moment | None = None,
    ) -> dict[str, FittedLag]:
        """How far behind the events of each source a service was when it served, by its captured rows: lags to train with.

        `quantile` 0.5 is how it mostly was, 1.0 the worst; `start` and `end` (exclusive) bound the rows' moments. Raises NotFound
        where nothing was captured.
        """
        checked, _ = self._checked(service)
        low, high = (None if m is None else moment(m) for m in (start, end))
        return fitted_lags(
            self.config,
            checked.log,
            checked.service,
            checked.meanings,
            quantile=quantile,
            start=low,
            end=high,
        )

    def _fitted(
        self, service: Asked, version: ServiceVersion | None, sources: set[str]
    ) -> dict[str, timedelta]:
        """The lag of each of `sources` that captured rows tell one of."""
        if version is None or not isinstance(service, str):
            raise RequestError(
                'lag="fitted" is fitted to what an applied service has served and captured\n'
                "  name an applied service, or give a length"
            )
        return {name: one.lag for name, one in self.lags(service).items() if name in sources}

    def _checked(self, service: str) -> tuple[Checked, ServiceVersion]:
        """What a look at captured rows needs. Raises NotFound for what was not applied."""
        found, views, version = self._resolve(service)
        if version is None:
            raise NotFound("applied feature service", service, [v.name for v in self.registry.services()])
        meanings = meanings_by_fingerprint(self.registry, found.name, lambda: load_declarations(self.config))
        checked = Checked(
            self.config,
            self.capture.log,
            self.ledger,
            erasures(self.registry),
            found.name,
            Meaning(version.reference, found, views),
            meanings,
            lambda number: self._kept_scaler(found.name, number),
        )
        return checked, version

    def _kept_scaler(self, service: str, number: int) -> Scaler | None:
        try:
            return Scaler.from_json(kept_scaler(self.registry, service, number).scaler)
        except ScalerError:
            return None

    def training_batches(
        self,
        service: str,
        consumer: str,
        *,
        size: int = 512,
        as_of: Moment | None = None,
        labels: Sequence[str] | None = None,
        stateless: bool = False,
        architecture: int | None = None,
    ) -> Generator[Batch, None, None]:
        """The captured rows that have matured since a consumer's last commit, in the order they were served, `size` at a time.

        `batch.commit()` makes a batch, and those before it, taken for good; what was not committed comes again, whatever was
        killed. Consumers are independent. `stateless` begins anew from the first row: a model trained from scratch. Each round
        has its number, `batch.lineage`, as V1.2.12: the architecture, the second training from scratch, and twelve rounds on
        top. Raises ConsumerBusy while another process reads for the consumer, NotFound, RequestError without any label.
        """
        now = _now() if as_of is None else moment(as_of)
        logged = self.get_logged_features(service, labels=labels, as_of=now)
        names = logged.label_names
        if not names:
            raise RequestError(
                f"'{logged.service.name}' has no label, and none came back yet\n"
                "  give it one: FeatureService(…, label=Label(…)), or store.capture.labels(…)"
            )
        return batches(
            Consumer(self.config.offline / "consumers", logged.service.name, consumer),
            logged.read,
            size=size,
            as_of=now,
            features=dict(logged.columns),
            labels=names,
            versions=[v.reference for v in versions(logged.labels, now)],
            service=self.registry.service(service).reference,
            fingerprint=ir.service_fingerprint(logged.service, logged.views),
            stateless=stateless,
            architecture=architecture,
        )

    def consumers(self, service: str) -> dict[str, Consumed]:
        """How far each consumer of a service is, by name, with the rounds that it trained."""
        return consumers(self.config.offline / "consumers", self._resolve(service)[0].name)

    def reproduce(self, manifest: str | Path, out: str | Path, *, spine: Any = None) -> Reproduction:
        """Makes a written training set again in `out`, from its folder or `_manifest.json`, and says what has changed.

        Its rows are read from the set's own files; `spine` gives them where these are gone.
        """
        return reproduce(self.config, manifest, out, spine)

    def leakage(
        self,
        training: TrainingSet | str | Path,
        label: str | None = None,
        *,
        threshold: float = 0.95,
        rows: int = 200_000,
    ) -> Leakage:
        """What of a training set, or of the folder of one, may know its own answer; `str()` of it is for reading.

        Looked for are values that could be known only after the row's moment, columns that alone predict a label (the set's
        own, or the column `label`) with a score of at least `threshold` out of 1, and features that read a label's source.
        """
        return leakage(self.config, training, label, threshold=threshold, rows=rows)

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
        step = None if every is None else _microseconds(every)
        moments = moments_of(instants[0], instants[1], instants[2], step)
        erased = erasures(self.registry)
        plan = replace(plan, views=tuple(map(erased.honoured, plan.views)))
        with self._duckdb() as con:
            rows = known_entities(con, plan, name, self.config.root, moments, timestamp)
        return rows.to_arrow() if at is not None else rows

    # ---------------------------------------------------------------------------------------------- statistics, scalers

    def statistics(self, name: str, *, origin: str | None = None) -> Statistics:
        """What is kept of a service or view, of an `origin` (training, materialized, served, stream) or the first there is.

        Raises StatisticsError when nothing is.
        """
        return profiles.load(self.config, name, origin)

    def keep_statistics(
        self,
        name: str,
        statistics: Statistics,
        *,
        origin: str = "training",
        add: bool = False,
        spine: str | Path | None = None,
        timestamp: str = "event_timestamp",
        at: Moment | None = None,
    ) -> Path:
        """Keeps `training.statistics()`, say, as those of a service or view; with `add`, merged with what is kept of the origin.

        `spine` (the file of a training set's rows) and `at` (the moment of `materialized_statistics`) say what they were made of:
        then a partition whose data changes is made again, see `refresh_statistics`. The file that lies there. Raises
        StatisticsError when the two do not merge.
        """
        recipe = Recipe()
        if spine is not None:
            recipe = Recipe(spines=(Spine.of(spine, timestamp, name),), whole=True)
        elif at is not None:
            q = moment(at)
            recipe = Recipe(moments={floor(q, statistics.every.microseconds): (q,)}, whole=True)
        return profiles.save(self.config, name, origin, statistics, add=add, recipe=recipe)

    def served_statistics(self, service: str, *, hourly: bool = False) -> Statistics:
        """What a service served, out of the capture log, by day (or hour) of the moments asked for; kept as origin `served`.

        Only what was captured since the last time is read, whether that was kept by day or by hour. Raises NotFound for a service
        that captured nothing.
        """
        self.capture.flush()
        refreshing.follow(self.config, service, self._data(), every=Duration(HOUR) if hourly else None)
        return profiles.load(self.config, service, "served")

    def streamed_statistics(self, view: str, *, at: Moment | None = None) -> Statistics:
        """What a stream wrote of a view, by day; kept as origin `stream`: a row for each entity that had an event.

        Each time the entities whose newest event came since the last time (the first: since midnight, UTC) are read, as they
        are at that moment, now by default. Raises Unsupported for a view that no stream feeds.
        """
        found = self._applied_view(view)
        if found.source.stream is None:
            raise Unsupported(
                f"view '{view}'",
                "be followed: its source has no stream",
                "materialized_statistics (--materialized)",
            )
        refreshing.follow_stream(self.config, view, self._data(at))
        return profiles.load(self.config, view, "stream")

    def refresh_statistics(self, name: str) -> list[refreshing.Refreshed]:
        """Brings what is kept of a service or view up to its data, each origin that is kept.

        What was served, or written by a stream, since is added. Partitions whose data changed (an erasure, a repair by
        `materialize(replace=True)`) are made again, exactly, and the others stay as they are. What cannot be made again says
        why. Raises StatisticsError when nothing is kept.
        """
        origins = profiles.kept(self.config, name)
        if not origins:
            profiles.load(self.config, name)
        self.capture.flush()
        data, added = self._data(), 0
        if "stream" in origins:
            added = refreshing.follow_stream(self.config, name, data).rows
        done = [refreshing.refresh(self.config, name, origin, data) for origin in origins]
        return [replace(one, rows=added) if one.origin == "stream" else one for one in done]

    def stale_statistics(self, name: str) -> dict[str, dict[int, str]]:
        """The partitions of what is kept that have to be made again: by origin, where each begins (µs), and why."""
        return profiles.stale(self.config, name)

    def _data(self, now: Moment | None = None) -> refreshing.Data:
        def logged(service: str, start: int | None, end: int | None) -> Logged:
            return self.get_logged_features(service, labelled=False, start=start, end=end)

        def training(asked: str, rows: Any, timestamp: str) -> TrainingSet:
            return self.get_historical_features(rows, asked, timestamp=timestamp)

        def materialized(view: str, at: int) -> Statistics:
            made, exact = self._materialized(view, at)
            if exact:
                return made
            rows = self.spine(self._applied_view(view).entity, at=at, timestamp="asked_at")
            return self.get_historical_features(rows, [view], timestamp="asked_at").statistics()

        def streamed(view: str, start: int, end: int) -> Statistics:
            found = self._applied_view(view)
            keys = written_entities(self._store(), found, start, end)
            return self._read_all(found, keys, end)[0]

        def replayed(view: str, start: int, end: int) -> Statistics:
            found = self._applied_view(view)
            honoured = erasures(self.registry).honoured(found)
            with engine_errors(), self._duckdb() as con:
                rows = happened(con, honoured, self.config.root, start, end, timestamp="asked_at")
            return self.get_historical_features(rows, [view], timestamp="asked_at").statistics()

        q = _now() if now is None else moment(now)
        return refreshing.Data(training, logged, materialized, streamed, replayed, q)

    def materialized_statistics(self, view: str, *, at: Moment | None = None) -> Statistics:
        """What the online store gives at a moment (now by default) for every known entity of an applied view."""
        return self._materialized(view, _now() if at is None else moment(at))[0]

    def _materialized(self, view: str, q: int) -> tuple[Statistics, bool]:
        """And whether the store still holds what it held at that moment."""
        found = self._applied_view(view)
        return self._read_all(found, self.spine(found.entity, at=q).select([k.name for k in found.keys]), q)

    def _read_all(self, view: ir.View, keys: Any, q: int) -> tuple[Statistics, bool]:
        columns = {f.name: f.dtype for f in view.features}
        return profiles.of_materialized(
            columns, keys, lambda k: self.get_online_features([view.name], k, at=q), q
        )

    def _applied_view(self, view: str) -> ir.View:
        plan = self.registry.current().plan
        found = next((v for v in plan.views if v.name == view), None)
        if found is None:
            raise NotFound("applied feature view", view, [v.name for v in plan.views])
        return found

    def drift(
        self,
        name: str,
        baseline: str | None = None,
        *,
        window: str | None = None,
        by: str | None = None,
        at: Moment | None = None,
        origin: str | None = None,
        hourly: bool = False,
        limits: Limits | None = None,
    ) -> DriftReport:
        """Whether a window of values looks like a baseline: of the kept statistics of a service or view, else of a source's rows.

        `baseline` is `training` (where there is one), `before`, `previous 28d`, `season 8` or `A..B`; `window` is `7d`, `6h` or
        `A..B`, by default one partition, up to `at` or the end of what there is. `by` is a column whose values are slices.
        Raises StatisticsError, NotFound and SourceError; what could not be judged is in the report, with the reason.
        """
        if profiles.kept(self.config, name) and by is None:
            return drifting.drift_of_statistics(
                self.config, name, baseline=baseline, window=window, origin=origin, at=at, limits=limits
            )
        plan = self.registry.current().plan
        if name not in {n.name for group in (plan.sources, plan.views, plan.services) for n in group}:
            plan = self.definitions()
        if name in [s.name for s in plan.services]:
            profiles.load(self.config, name, origin)
            raise drifting.no_slices(name)
        source = drifting.source_named(plan, name)
        with engine_errors(), self._duckdb() as con:
            return drifting.drift_of_source(
                con,
                self.config.root,
                source,
                baseline=baseline,
                window=window,
                by=by,
                every=Duration(HOUR) if hourly else None,
                at=at,
                limits=limits,
            )

    def monitor(
        self,
        names: Sequence[str] = (),
        *,
        at: Moment | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> Ran:
        """One pass over the monitors of the definitions: looks, keeps what it found, tells whom it concerns, sets triggers off.

        `names` picks monitors; without, those whose time has come. `at` is the moment, now by default. What cannot be judged is a
        finding. Raises NotFound and DefinitionError.
        """
        now = _now() if at is None else moment(at)
        with engine_errors():
            return run_monitors(
                self.config,
                self.registry,
                self.policies(),
                now,
                names=names,
                loop=self._loop(now),
                validate=lambda name, start, end: self.validate(
                    name, start=start, end=end, applied=True, who="monitor", at=now
                ),
                data=self._data(now),
                say=say,
            )

    def triggers(
        self, *, at: Moment | None = None, dry_run: bool = False
    ) -> tuple[list[Evaluation], list[Triggered]]:
        """Whether a trigger of the definitions is due, by what monitors found last; runs what is, once, unless `dry_run`."""
        now = _now() if at is None else moment(at)
        return evaluate_triggers(
            self.config, self.registry, self.policies(), now, dry_run=dry_run, loop=self._loop(now)
        )

    def _loop(self, now: int) -> Loop:
        """How monitors read what was served and what came of it, as of a moment."""

        def logged(service: str, start: int | None, end: int | None, *, labelled: bool) -> Any:
            known = labelled and bool(self.registry.service(service).service.labels)
            as_of = now if known else None
            rows = self.get_logged_features(service, labelled=known, as_of=as_of, start=start, end=end)
            return rows.to_arrow()

        def returned(what: Literal["predictions", "labels"]) -> tuple[Any, list[Any]]:
            table = self.capture.returned(what).newest()
            return table, values_of(table)

        return Loop(logged, returned, lambda name: self.registry.service(name).service.labels)

    def trigger_history(self) -> Sequence[Triggered]:
        """When triggers went off, why, and how that ended: the newest first."""
        return history(self.registry)

    def policies(self) -> Policies:
        """The monitors and triggers that the definitions hold. Raises DefinitionError."""
        return load_policies(self.config)

    def monitoring(self, *, since: Moment | None = None) -> Any:
        """What monitors found, as an Arrow table, the oldest first. The files lie below `monitoring` in the offline folder."""
        return results.read(self.config, since=None if since is None else moment(since))

    def monitoring_report(self, *, since: Moment | None = None) -> str:
        """What monitors found as one HTML page, complete in itself."""
        services = self.registry.current().plan.services
        return report_of(self.config.name, services, self.monitoring(since=since), self.alerts(), _now())

    def alerts(self) -> list[AlertState]:
        """Every alert that is kept: what fires first, then what is pending, then what is over."""
        return alerts_of(self.registry)

    def acknowledge(self, *alerts: str, who: str | None = None) -> list[AlertState]:
        """Takes note of alerts, by id or title: they are told no more until they are over. Raises NotFound."""
        name = who or _user()
        return change_alerts(self.registry, alerts, lambda a: acknowledged(a, name), _now())

    def snooze(
        self, *alerts: str, length: timedelta | Duration, at: Moment | None = None
    ) -> list[AlertState]:
        """Keeps alerts quiet for a while, by id or title. Raises NotFound."""
        now = _now() if at is None else moment(at)
        until = now + _microseconds(length)
        return change_alerts(self.registry, alerts, lambda a: snoozed(a, until), now)

    def scaler(self, service: str, version: int | None = None) -> Scaler:
        """The scaler that a service (`"delay"` is its newest version) is pinned to, or its scaler `version`.

        Raises NotFound for a service that was not applied, ScalerError when there is no such scaler.
        """
        found = self.registry.service(service)
        if version is None:
            return pinned(self.registry, found)
        return scaler_of_entry(kept_scaler(self.registry, found.name, version), found)

    def fit_scaler(self, service: str, rows: TrainingSet | str | Path, *, who: str | None = None) -> Scaler:
        """Fits a scaler on a training set of the service, or the folder of one: its next version, pinned to nothing yet."""
        found = self.registry.service(service)
        return fit_scaler(self.registry, found, rows_of(rows, found), who=who or _user(), at=_now())

    def refit_scaler(
        self,
        service: str,
        rows: TrainingSet | str | Path,
        *,
        basis: int | None = None,
        who: str | None = None,
    ) -> Refit:
        """Merges the rows that came after those of a scaler (`basis`; by default the pinned one) into a new version of it."""
        found = self.registry.service(service)
        return refit_scaler(self.registry, found, rows_of(rows, found), basis, who=who or _user(), at=_now())

    def pin_scaler(
        self, service: str, version: int, *, replace: bool = False, who: str | None = None
    ) -> Scaler:
        """Makes a scaler the one that `scaled=True` uses for a version of a service. Other processes take it up when they start.

        Raises ServiceImmutable for a version that has served with another one, unless `replace`.
        """
        found = self.registry.service(service)
        done = pin(self.registry, found, version, replace=replace, who=who or _user(), at=_now())
        with self._lock:
            self._scalers.clear()
        return done

    # ---------------------------------------------------------------------------------------------------------- inside

    def _stream_source(self, name: str) -> ir.Source:
        """The applied stream source of this name, or else that of the definitions."""
        plan = self.registry.current().plan
        if name not in [s.name for s in plan.sources]:
            plan = self.definitions()
        return stream.stream_source(plan, name)

    def _applied(self, select: str | Sequence[str] | None) -> list[ir.View]:
        views = select_views(self.registry.current().plan, select)
        if not views:
            raise NotFound("applied feature view", "*", (), "the registry; run `fs apply` first")
        return views

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

    def _known(self, asked: Asked) -> bool:
        return isinstance(asked, str) and asked in self._readers

    def _reader(self, asked: Asked) -> Reader | SteadyReader:
        name = asked if isinstance(asked, str) else None
        if name is not None and (found := self._readers.get(name)) is not None:
            return found
        with self._lock:
            if name is not None and name in self._readers:
                return self._readers[name]
            service, views, version = self._resolve(asked)
            served = None if version is None else partial(self._mark_served, version)
            tap = None if version is None else self._recorder.tap(service, views, version.version)
            reader = reader_of(self._store(), service, views, self._breaker, served, tap)
            if name is not None:
                self._readers[name] = reader
            return reader

    def _retention(self, service: str) -> int | None:
        """How long (µs) what the newest version of a service captures is kept; for good where nobody says."""
        try:
            said = self.registry.service(service).service.capture
        except NotFound:
            return None
        return None if said is None else said.retention

    def _mark_served(self, version: ServiceVersion) -> None:
        self.registry.mark_served(version.name, version.version, _now(), version.fingerprint)

    def _pinned(self, asked: Asked) -> Scaler:
        """The scaler of what is asked for."""
        if isinstance(asked, str):
            with self._lock:
                if asked in self._scalers:
                    return self._scalers[asked]
        _, _, version = self._resolve(asked)
        scaler = self._scaler_of(asked, version)
        if isinstance(asked, str):
            with self._lock:
                self._scalers[asked] = scaler
        return scaler

    def _scaler_of(self, asked: Asked, version: ServiceVersion | None) -> Scaler:
        """The scaler of a version, looked up once. Raises ScalerError for what was not applied: nothing is pinned to it."""
        if version is None:
            raise ScalerError(
                f"{asked!r} was not applied, so no scaler is pinned to it\n  apply it, or scaled=False"
            )
        with self._lock:
            if version.reference not in self._scalers:
                self._scalers[version.reference] = pinned(self.registry, version)
            return self._scalers[version.reference]

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
            return bound(service, lambda: load_declarations(self.config)), views, version
        wanted, declarations = declarations_of(asked, lambda: load_declarations(self.config))
        plan = self._lower(declarations)
        return plan.service(wanted.name), {v.name: v for v in plan.views}, None

    def _labels_of(self, asked: Asked, service: ir.Service) -> tuple[ir.Label, ...]:
        """The labels of what is asked for: of an applied service, whatever its version, as they are in force."""
        if isinstance(asked, str) and ":" not in asked:
            plan = self.registry.current().plan
            if service.name not in {s.name for s in plan.services}:
                plan = self.definitions() if "@" not in asked else plan
            return plan.labels_of(service.name)
        if not service.labels:
            return ()
        _, declarations = declarations_of(asked, lambda: load_declarations(self.config))
        return self._lower(declarations).labels_of(service.name)


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
    rows = row_count(con, source, root)
    if rows == 0 or (rows is None and not con.execute(f"{select} LIMIT 1").fetchall()):
        raise SourceError(
            f"source '{source.name}' is empty: {source.location.path} holds no rows\n"
            f"  view '{view.name}' keeps what it has; put rows there, or leave the view out with a selection"
        )


def _microseconds(length: timedelta | Duration) -> int:
    return length // timedelta(microseconds=1) if isinstance(length, timedelta) else length.microseconds


def _now() -> int:
    return time.time_ns() // 1000


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
