"""One monitor looked at: each of its checks, made into findings. What cannot be judged is a finding too, never an exception."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, assert_never

import pyarrow as pa

from featurestore import check as c
from featurestore import ir, profiles
from featurestore.baselines import Previous, Season, parse_baseline, parse_length
from featurestore.compile.duckdb import DUCKDB
from featurestore.compile.sources import Connection, engine_errors, source_sql
from featurestore.compile.sql import ident
from featurestore.config import Config
from featurestore.drift.verdicts import JUDGING, DriftReport, Limits
from featurestore.errors import FeatureStoreError, StatisticsError
from featurestore.layout import layout_of
from featurestore.monitor import objectives
from featurestore.monitor.drifting import drift_of_observed, drift_of_statistics
from featurestore.monitor.findings import Finding, State
from featurestore.monitor.loop import Asked, Logged, Loop, look_at_log
from featurestore.monitor.observe import Observed, of_source
from featurestore.monitor.reports import Make, drift_findings, schema_findings
from featurestore.online.codec import codec_of
from featurestore.online.state import load_complete
from featurestore.online.store import OnlineStore, open_store
from featurestore.policy import Monitor
from featurestore.time import DAY, HOUR, SECOND, Duration, floor, moment_text
from featurestore.validation.keep import load as kept_validations
from featurestore.verdicts import Validation, Verdict

Validate = Callable[[str, int | None, int | None], Validation]
"""Judges a source, view or service by what is expected of it, its rows between two moments."""


@dataclass
class Surroundings:
    """What a run has to look at. `results` are what earlier runs found."""

    config: Config
    plan: ir.Plan
    con: Connection
    now: int
    results: pa.Table
    loop: Loop | None = None
    validate: Validate | None = None
    _read: dict[tuple[str, int, str | None, int | None], Observed] = field(default_factory=dict)
    _metrics: list[Any] | None = None
    _online: OnlineStore | None = None

    def observed(self, source: ir.Source, every: int, by: str | None, back: int | None) -> Observed:
        """The rows of a source from `back` before now on (None: all), read once in a run for all that ask alike."""
        key = (source.name, every, by, back)
        if key not in self._read:
            end = floor(self.now, every)
            start = None if back is None else floor(end - back, every)
            with engine_errors():
                self._read[key] = of_source(
                    self.con, source, self.config.root, start=start, end=end, every=Duration(every), by=by
                )
        return self._read[key]

    def metrics(self) -> list[Any]:
        """What the servers say of themselves, asked once in a run. Raises StatisticsError."""
        if self._metrics is None:
            url = self.config.alerts.get("metrics")
            if not url:
                raise StatisticsError(
                    'no server is asked for its metrics\n  set metrics = "http://host:6566/metrics" in [alerts] of fs.toml'
                )
            self._metrics = objectives.scrape(url)
        return self._metrics

    def online(self) -> OnlineStore:
        if self._online is None:
            self._online = open_store(self.config.online_url, self.config.root)
        return self._online

    def close(self) -> None:
        if self._online is not None:
            self._online.close()

    def models(self, name: str) -> tuple[str, ...]:
        """The services that read a view or the views of a source; a service is its own."""
        views = {v.name for v in self.plan.views if name in (v.name, v.source.name)}
        return tuple(
            s.name for s in self.plan.services if s.name == name or any(r.view in views for r in s.reads)
        )


def look(around: Surroundings, monitor: Monitor) -> list[Finding]:
    """What a monitor finds now."""
    found: list[Finding] = []
    finding = partial(_finding, monitor, around.models(monitor.watched))
    for check in monitor.checks:
        name = type(check).__name__.lower()
        try:
            found += _findings(around, monitor, check, finding)
            found.append(finding("not-judged", name, "ok", "could be judged"))
        except (FeatureStoreError, OSError) as error:
            said = " ".join(line.strip() for line in str(error).splitlines())
            found.append(finding("not-judged", name, "bad", said or type(error).__name__))
    return _once(found)


def _once(found: list[Finding]) -> list[Finding]:
    """The worst of findings about the same thing."""
    worst: dict[tuple[str, str], Finding] = {}
    order = {"bad": 0, "unknown": 1, "ok": 2}
    for one in found:
        key = (one.condition, one.subject)
        if key not in worst or order[one.state] < order[worst[key].state]:
            worst[key] = one
    return list(worst.values())


def _finding(
    monitor: Monitor,
    models: tuple[str, ...],
    condition: str,
    subject: str,
    state: State,
    said: str,
    figures: Mapping[str, float] | None = None,
    span: tuple[int, int] | None = None,
) -> Finding:
    start, end = span or (None, None)
    return Finding(
        monitor.name, monitor.watched, condition, subject, state, said, figures or {}, start, end, models
    )


def _findings(around: Surroundings, monitor: Monitor, check: c.Check, finding: Make) -> Iterator[Finding]:
    match check:
        case c.Drift():
            limits = Limits(
                check.effect,
                check.alpha,
                check.min_rows,
                check.usual,
                effects=dict(check.effects),
                tests=check.tests or JUDGING,
            )
            report = _report(around, monitor, limits, check.by)
            yield from drift_findings(report, check.features, finding)
        case c.Schema():
            report = _report(around, monitor, Limits(), None)
            yield from schema_findings(report, finding)
        case c.Rows():
            report = _report(around, monitor, Limits(), None)
            if report.volume is None:
                raise StatisticsError(
                    "the baseline has too few windows to say how many rows are usual: 8 are needed"
                )
            volume = report.volume
            figures = {
                "rows": float(volume.rows),
                "ratio": volume.rows / volume.median if volume.median else 0.0,
            }
            yield finding("row-count", "", "bad" if volume.odd else "ok", volume.said, figures, report.span)
        case c.Fresh():
            yield from _fresh(around, monitor, check, finding)
        case c.Objective():
            yield from _objective(around, monitor, check, finding)
        case c.Expectations():
            yield from _expectations(around, monitor, finding)
        case c.Skew() | c.Predictions() | c.Quality() | c.Labels():
            yield from _logged(around, monitor, check, finding)
        case _:
            assert_never(check)


# --------------------------------------------------------------------------------------------------------------- drift


def _report(around: Surroundings, monitor: Monitor, limits: Limits, by: str | None) -> DriftReport:
    """The window of a monitor beside its baseline."""
    name, window = monitor.watched, monitor.window_text
    length = DAY if window is None or ".." in window else parse_length(window)
    every = DAY if length % DAY == 0 else HOUR
    if name in {s.name for s in around.plan.services}:
        at = None if window is not None and ".." in window else _end(around, name, every)
        return drift_of_statistics(
            around.config, name, baseline=monitor.baseline, window=window, at=at, limits=limits
        )
    source = _source(around.plan, name)
    back = None if window is not None and ".." in window else _back(monitor.baseline, length)
    observed = around.observed(source, every, by, back)
    return drift_of_observed(
        observed, baseline=monitor.baseline, window=window, at=floor(around.now, every), limits=limits
    )


def _back(baseline: str | None, length: int) -> int | None:
    """How far back a window of this length and its baseline reach; None is as far as there is anything."""
    match parse_baseline(baseline or "before"):
        case Previous() as previous:
            return length + (previous.length or length)
        case Season() as season:
            return length + season.periods * season.period
        case _:
            return None


def _end(around: Surroundings, name: str, every: int) -> int | None:
    """The end of the window of kept statistics: now, but for a training set, which is looked at as far as it goes."""
    there = profiles.kept(around.config, name)
    return floor(around.now, every) if set(there) & {"served", "stream"} else None


def _source(plan: ir.Plan, name: str) -> ir.Source:
    found = {v.name: v.source for v in plan.views} | {s.name: s for s in plan.sources}
    if name not in found:
        raise StatisticsError(
            f"nothing that was applied is named '{name}'\n  `fs apply` makes definitions the ones in force"
        )
    return found[name]


# ----------------------------------------------------------------------------------------------- freshness, objectives


def _fresh(around: Surroundings, monitor: Monitor, check: c.Fresh, finding: Make) -> Iterator[Finding]:
    name, plan = monitor.watched, around.plan
    views = [v for v in plan.views if v.name == name]
    limit = None if check.within is None else check.within.microseconds
    for service in plan.services:
        if service.name == name:
            views = [v for v in plan.views if any(r.view == v.name for r in service.reads)]
            limit = limit if limit is not None else service.max_staleness
    if not views:
        source = _source(plan, name)
        yield _aged(finding, name, _newest(around, source), limit, around.now)
        return
    codecs = {v.name: codec_of(v, layout_of(v)) for v in views}
    held = load_complete(around.online(), codecs)
    for view in views:
        if view.source.event_time is None:
            continue  # static: it has no age
        end = held[view.name].end if view.name in held else None
        yield _aged(finding, view.name, end, limit, around.now)


def _aged(finding: Make, subject: str, end: int | None, limit: int | None, now: int) -> Finding:
    if limit is None:
        raise StatisticsError(
            "nothing says how fresh it has to be\n  check.fresh(within=…), or max_staleness of the service"
        )
    if end is None:
        return finding("freshness", subject, "bad", "nothing is there: never materialized, or no rows")
    age = max(now - end, 0)
    said = f"as of {moment_text(end)}: {_long(age)} old, and {_long(limit)} were promised"
    return finding("freshness", subject, "bad" if age > limit else "ok", said, {"seconds": age / SECOND})


def _newest(around: Surroundings, source: ir.Source) -> int | None:
    """The event time of the newest row before now."""
    if source.event_time is None:
        raise StatisticsError(f"source '{source.name}' has no event time, so no age")
    with engine_errors():
        select = source_sql(around.con, source, [source.event_time], around.config.root)
        time = ident(source.event_time, DUCKDB)
        sql = (
            f"SELECT epoch_us(max({time})) FROM ({select}) WHERE {time} <= make_timestamp(CAST(? AS BIGINT))"  # noqa: S608  `ident`
        )
        found = around.con.execute(sql, [around.now]).fetchone()
    return None if found is None or found[0] is None else int(found[0])


def _long(microseconds: int) -> str:
    for size, unit in ((DAY, "days"), (HOUR, "hours"), (60 * SECOND, "minutes")):
        if microseconds >= 2 * size:
            return f"{microseconds / size:.0f} {unit}"
    return f"{microseconds / SECOND:.0f} seconds"


def _objective(
    around: Surroundings, monitor: Monitor, check: c.Objective, finding: Make
) -> Iterator[Finding]:
    if check.freshness is not None:
        yield from _fresh(around, monitor, c.Fresh(check.freshness), finding)
    if check.latency is None and check.availability is None:
        return
    now = objectives.counted(around.metrics(), monitor.watched, check)
    since = around.now - check.over.microseconds
    goals: list[tuple[str, float, float, float | None]] = []
    if check.availability is not None:
        goals.append(("availability", check.availability, now.answered + now.failed, now.failed))
    if check.latency is not None:
        slow = None if now.within is None else now.answered - now.within
        goals.append(("latency", check.of, now.answered, slow))
    for condition, target, total, bad in goals:
        if bad is None:
            yield finding(
                condition,
                "",
                "unknown",
                f"the servers count no reads within {check.latency}: see `fs_request_seconds`",
            )
            continue
        counters = {"total": total, "bad": bad}
        past = {n: objectives.counters_of(around.results, monitor.name, condition, n) for n in counters}
        series = {n: [*past[n], (around.now, counters[n])] for n in counters}
        left = objectives.budget(series["total"], series["bad"], target, since)
        if left is None:
            yield finding(condition, "", "unknown", "no reads between two runs yet", counters)
            continue
        figures = {**counters, "budget": left.left, "burn": left.burn}
        wrong = left.left <= 0 or left.burn >= objectives.FAST_BURN
        what = "failed" if condition == "availability" else f"took longer than {check.latency}"
        said = (
            f"{left.bad:,.0f} of {left.total:,.0f} reads {what}: {max(left.left, 0):.0%} of the error "
            f"that {target:.3%} allows over {check.over} is left"
        )
        yield finding(condition, "", "bad" if wrong else "ok", said, figures)


# ------------------------------------------------------------------------------------------ what was recorded elsewhere


def _expectations(around: Surroundings, monitor: Monitor, finding: Make) -> Iterator[Finding]:
    """The verdicts of the window, and of what was judged elsewhere since a day before: at ingest, materialisation, serving."""
    name, plan = monitor.watched, around.plan
    of_rows = {n.name: n.expectations for group in (plan.sources, plan.services) for n in group}
    expected = {v.name: v.expectations for v in plan.views} | of_rows
    if not expected.get(name) or around.validate is None:
        return
    start = end = None
    if name in of_rows:
        window = monitor.window_text
        length = DAY if window is None or ".." in window else parse_length(window)
        end = floor(around.now, DAY if length % DAY == 0 else HOUR)
        start = end - length
    newest: dict[str, Validation] = {}
    for one in reversed(kept_validations(around.config, name, around.now - DAY)):
        if one.where != "validate" and one.at <= around.now:
            newest[one.where] = one
    for done in [*newest.values(), around.validate(name, start, end)]:
        for verdict in done.verdicts:
            yield _verdict(finding, done, verdict)


def _verdict(finding: Make, done: Validation, verdict: Verdict) -> Finding:
    states: dict[str, State] = {"passed": "ok", "failed": "bad", "not_evaluated": "unknown"}
    where = "" if done.where == "validate" else f" (at {done.where})"
    figures = {}
    if verdict.unexpected is not None:
        figures["failed"] = float(verdict.unexpected)
        if verdict.considered:
            figures["share"] = verdict.unexpected / verdict.considered
    text, name = verdict.expectation.text, verdict.expectation.name
    said = [] if text == name else [text]
    if verdict.unexpected is not None and not verdict.failed:
        said.append(f"{verdict.unexpected:,} of {verdict.considered or 0:,} rows fail")
    said.append(verdict.why or verdict.outcome.replace("_", " "))
    told = "; ".join(said) + where
    return finding("expectation", name, states[verdict.outcome], told, figures)


def _logged(around: Surroundings, monitor: Monitor, check: Logged, finding: Make) -> Iterator[Finding]:
    name, window = monitor.watched, monitor.window_text
    service = next((s for s in around.plan.services if s.name == name), None)
    if service is None:
        raise StatisticsError(f"'{name}' is no service that was applied, and services alone are logged")
    if around.loop is None or service.capture is None:
        raise StatisticsError(
            f"service '{name}' logs nothing\n  FeatureService(…, capture=Capture()) keeps what it serves"
        )
    length = DAY if window is None or ".." in window else parse_length(window)
    every = DAY if length % DAY == 0 else HOUR
    asked = Asked(name, length, every, window, monitor.baseline, around.now)
    yield from look_at_log(around.loop, around.config, asked, check, finding)


__all__ = ["Surroundings", "look"]
