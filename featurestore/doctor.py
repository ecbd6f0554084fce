"""The doctor: one project looked over from its settings to its stored bytes, and nothing changed.

Each check that cannot be made because an earlier one failed is said to be unknown, never fine.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

from featurestore import ir, planning
from featurestore.capture.health import findings
from featurestore.capture.log import CaptureLog
from featurestore.capture_topic import cluster_of_captured
from featurestore.compile.sources import Connection, connect, inspect, row_count, source_sql
from featurestore.config import Config, load_config
from featurestore.erasures import receipts
from featurestore.errors import FeatureStoreError, NotFound
from featurestore.flink.status import job_statuses
from featurestore.layout import layout_of
from featurestore.lower import location_of
from featurestore.online.codec import BASE, HEADER, MAGIC, Codec, codec_of
from featurestore.online.state import ViewState, load_complete, load_states
from featurestore.online.store import OnlineStore, open_store
from featurestore.registry import Registry, open_registry
from featurestore.repo import load_plan
from featurestore.scaling import outdated
from featurestore.serving.recorder import noted
from featurestore.stream import kafka
from featurestore.stream.feeds import in_topic

LEAST_FREE = 1 << 30
"""Bytes that a disk should have left: below this the next materialisation may not fit."""

_LIBRARIES = ("duckdb", "pyarrow", "numpy", "lmdb", "redis", "click", "rich")

OLD_CHECKPOINT = 600_000_000
"""Microseconds: a job makes one every few seconds, and where there is none for so long something is wrong."""

RECENT = 86_400_000_000
"""Microseconds: what became of rows is told of processes that served since."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. `way_out` says what to do when it is wrong."""

    subject: str
    state: Literal["ok", "wrong", "unknown"]
    text: str
    way_out: tuple[str, ...] = ()


def examine(root: Path, environment: str | None, now: int, version: str) -> list[Check]:
    """Every check of the project at `root`, in the order in which to mend things. `now` is in UTC microseconds."""
    checks = [_versions(version)]
    config = _tried(
        checks, "fs.toml", lambda: load_config(root, environment), lambda c: str(c.root / "fs.toml")
    )
    if config is None:
        return checks
    checks.append(_disk(config))
    with closing(connect(config.memory_limit, config.threads, config.offline / "spill")) as con:
        desired = _tried(
            checks,
            "definitions",
            lambda: load_plan(config, lambda s: inspect(con, location_of(s.batch), config.root)),
            _counted,
        )
        registry = _tried(checks, "registry", lambda: _intact(config), _revision_text)
        applied = None if registry is None else registry.current().plan
        if registry is not None and desired is not None:
            checks.append(_in_step(registry, desired))
        checks += [] if registry is None else [*_erasures(registry), *_scalers(registry)]
        plan = applied or desired
        checks += [] if plan is None else [_source(con, s, config.root) for s in plan.sources]
        checks += [] if plan is None else [_topic(s) for s in plan.sources if in_topic(config, s)]
    checks += _online(config, applied, now)
    checks += _capture(config, now)
    return checks


def _tried(checks: list[Check], subject: str, work: Callable[[], T], say: Callable[[T], str]) -> T | None:
    """What `work` gives, with a check that says so; None with a check that says why not."""
    try:
        done = work()
    except (FeatureStoreError, OSError) as error:
        checks.append(_wrong(subject, error))
        return None
    checks.append(Check(subject, "ok", say(done)))
    return done


def _wrong(subject: str, error: BaseException) -> Check:
    head, *rest = str(error).splitlines() or [type(error).__name__]
    return Check(subject, "wrong", head, tuple(line.strip() for line in rest if line.strip()))


def _versions(version: str) -> Check:
    libraries = [f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES]
    return Check(
        "versions",
        "ok",
        ", ".join([f"featurestore {version}", f"Python {platform.python_version()}", *libraries]),
    )


def _disk(config: Config) -> Check:
    free = shutil.disk_usage(config.root).free
    text = f"{free / 1e9:,.1f} GB are free where {config.root} lies"
    if free >= LEAST_FREE:
        return Check("disk", "ok", text)
    return Check(
        "disk",
        "wrong",
        text,
        (f"make room: {LEAST_FREE / 1e9:.1f} GB or more; old files in {config.offline} may go",),
    )


def _counted(plan: ir.Plan) -> str:
    counts = {
        "entities": plan.entities,
        "sources": plan.sources,
        "views": plan.views,
        "services": plan.services,
    }
    return ", ".join(f"{len(things)} {name}" for name, things in counts.items())


# ------------------------------------------------------------------------------------------------------------ the registry


def _intact(config: Config) -> Registry:
    """The registry, once all that a read or an apply can need was read from it."""
    registry = open_registry(config.registry_url, config.root)
    registry.current()
    registry.services()
    for summary in registry.history():
        registry.revision(summary.number)
    registry.audit()
    return registry


def _revision_text(registry: Registry) -> str:
    current, versions = registry.current(), registry.services()
    if current.number == 0:
        return f"{registry.place}: nothing applied yet"
    return f"{registry.place}: revision {current.number}, {len(versions)} versions of services"


def _erasures(registry: Registry) -> list[Check]:
    """What was begun to be erased and is not done."""
    return [
        Check(
            f"erasure {receipt.id}",
            "wrong",
            f"of an entity of '{receipt.entity}', begun by {receipt.who}, is not done",
            (*receipt.waits, "run the same `fs erase` again; `fs erase --receipts` lists it"),
        )
        for receipt in receipts(registry)
        if not receipt.done
    ]


def _scalers(registry: Registry) -> list[Check]:
    """Scalers in use that count what was erased since."""
    return [Check(f"scaling of {o.reference}", "wrong", o.said, (o.way_out,)) for o in outdated(registry)]


def _in_step(registry: Registry, desired: ir.Plan) -> Check:
    """Whether the definitions are what is applied."""
    change = planning.plan(registry, desired, lambda _: None)
    if change.blocked:
        return Check("applied", "wrong", "the definitions cannot be applied", change.blocked)
    if change.is_empty:
        return Check("applied", "ok", "the definitions are the ones in force")
    text = f"the definitions are not what is applied: {planning.summary(change)}"
    return Check(
        "applied", "wrong", text, ("`fs plan` shows the difference, `fs apply` makes them the ones in force",)
    )


# -------------------------------------------------------------------------------------------------------------- sources


def _source(con: Connection, source: ir.Source, root: Path) -> Check:
    subject = f"source {source.name}"
    try:
        select = source_sql(con, source, sorted(source.schema), root)
        rows = row_count(con, source, root)
        empty = rows == 0 if rows is not None else not con.execute(f"{select} LIMIT 1").fetchall()
        more = sorted(set(inspect(con, source.location, root)) - set(source.schema))
    except FeatureStoreError as error:
        return _wrong(subject, error)
    except _duckdb_errors() as error:
        where = source.location.path
        return Check(
            subject, "wrong", f"cannot read {where}: {str(error).splitlines()[0]}", (f"write {where} anew",)
        )
    if empty:
        help = ("features of it are NULL or 0; put rows where it reads, or name another place",)
        return Check(subject, "wrong", f"{source.location.path} holds no rows", help)
    known = "" if rows is None else f"{rows:,} rows, "
    new = f"; new and not read: {', '.join(more)}" if more else ""
    return Check(subject, "ok", f"{known}{len(source.columns)} columns as planned{new}")


def _topic(source: ir.Source) -> Check:
    """Whether a broker answers and has the topic of a source, whose events go through Kafka."""
    assert source.stream is not None
    subject, topic = f"topic {source.stream.path}", source.stream.path
    try:
        cluster = kafka.cluster_of(source.stream)
        client = kafka.consumer(cluster)
        with closing(client):
            numbers = kafka.partitions(client, cluster, topic)
    except FeatureStoreError as error:
        return _wrong(subject, error)
    return Check(
        subject, "ok", f"{len(numbers)} partitions at {cluster.bootstrap}, of source '{source.name}'"
    )


def _duckdb_errors() -> type[Exception]:
    """What DuckDB raises when rows cannot be read."""
    import duckdb

    return duckdb.Error


# ------------------------------------------------------------------------------------------------------------ online store


def _online(config: Config, applied: ir.Plan | None, now: int) -> Iterator[Check]:
    try:
        store = open_store(config.online_url, config.root)
    except (FeatureStoreError, OSError) as error:
        yield _wrong("online store", error)
        return
    with store:
        found = _store_problems(store)
        yield from found or [Check("online store", "ok", "reachable and whole")]
        if applied is None:
            yield Check("views", "unknown", "what is applied cannot be read", ("mend the registry first",))
        elif not found:
            yield from _views(store, applied, now)
            if config.stream_engine == "flink":
                yield from _jobs(config, applied, store, now)


def _jobs(config: Config, plan: ir.Plan, store: OnlineStore, now: int) -> Iterator[Check]:
    """Whether the Flink job of each view runs as it should, and has a checkpoint to go on from."""
    try:
        told = job_statuses(config, plan, store)
    except NotFound:
        return
    except (FeatureStoreError, OSError) as error:
        yield _wrong("jobs", error)
        return
    if any(s.wanted == "running" for s in told) and told[0].supervisor is None:
        yield Check("jobs", "wrong", "nobody keeps them running", ("fs stream start",))
    for job in told:
        subject = f"job {job.view}"
        if job.wanted != "running":
            yield Check(subject, "ok", f"is not to run ({job.wanted})")
        elif job.state != "RUNNING":
            yield Check(
                subject, "wrong", f"is {job.state}, and should run", ("fs stream status", "fs stream start")
            )
        elif job.checkpoint_at is None or now - job.checkpoint_at > OLD_CHECKPOINT:
            yield Check(
                subject, "wrong", "has no checkpoint of the last ten minutes", ("see the logs of Flink",)
            )
        else:
            yield Check(subject, "ok", f"runs; its checkpoint is {(now - job.checkpoint_at) / 1e6:.0f} s old")


def _capture(config: Config, now: int) -> Iterator[Check]:
    """Whether what is served is kept, and what was kept is whole."""
    log = CaptureLog(config.capture)
    try:
        for one in findings(log):
            yield Check(one.subject, one.state, one.text, one.way_out)
    except (FeatureStoreError, OSError) as error:
        yield _wrong("capture", error)
    counts = noted(log.path, now - RECENT)
    if counts.offered:
        lost = [f"{n:,} {w}" for n, w in ((counts.shed, "shed"), (counts.failed, "failed")) if n]
        help = (
            "shed: the disk or the broker was slower than what was served; `buffer_rows` in [capture] bridges longer",
            "failed: the log of the process that served says why",
        )
        text = f"{counts.kept:,} of {counts.offered:,} rows kept, by processes that served in the last day"
        said = f"{text}; {', '.join(lost)}" if lost else text
        yield Check("capture", "wrong" if lost else "ok", said, help if lost else ())
    if config.capture_sink == "kafka":
        yield _captured_topic(config)


def _captured_topic(config: Config) -> Check:
    """Whether a broker answers and has the topic that rows are captured to."""
    subject = f"topic {config.capture_topic}"
    try:
        cluster = cluster_of_captured(config)
        with closing(kafka.consumer(cluster)) as client:
            numbers = kafka.partitions(client, cluster, config.capture_topic)
    except FeatureStoreError as error:
        return _wrong(subject, error)
    return Check(subject, "ok", f"{len(numbers)} partitions at {cluster.bootstrap}, of captured rows")


def _store_problems(store: OnlineStore) -> list[Check]:
    try:
        return [Check("online store", "wrong", problem) for problem in store.doctor()]
    except (FeatureStoreError, OSError) as error:
        return [_wrong("online store", error)]


def _views(store: OnlineStore, plan: ir.Plan, now: int) -> Iterator[Check]:
    codecs = {v.name: codec_of(v, layout_of(v)) for v in plan.views}
    try:
        states, held = load_states(store, codecs), load_complete(store, codecs)
    except (FeatureStoreError, ValueError, TypeError) as error:
        yield Check(
            "views",
            "wrong",
            f"the store does not say what it holds: {error}",
            ("`fs materialize` writes it anew",),
        )
        return
    for view in plan.views:
        state = states.get(view.name)
        end = held[view.name].end if state is not None else 0
        yield _view(store, view, codecs[view.name], state, end, _limit(plan, view.name), now)


def _limit(plan: ir.Plan, view: str) -> int | None:
    """The least staleness that a service which reads the view puts up with, in microseconds."""
    limits = [s.max_staleness for s in plan.services if any(r.view == view for r in s.reads)]
    return min((limit for limit in limits if limit is not None), default=None)


def _view(
    store: OnlineStore,
    view: ir.View,
    codec: Codec,
    state: ViewState | None,
    end: int,
    limit: int | None,
    now: int,
) -> Check:
    subject = f"view {view.name}"
    again = (f"`fs materialize --select {view.name}` writes it",)
    if state is None:
        return Check(subject, "wrong", "never materialized as it is defined now", again)
    try:
        sample = list(islice(store.scan(codec.prefix + BASE), 1))
    except FeatureStoreError as error:
        return _wrong(subject, error)
    if state.entities and not sample:
        return Check(subject, "wrong", f"{state.entities:,} entities were written and none is there", again)
    if not all(_of_this_plan(codec, value) for _, value in sample):
        return Check(subject, "wrong", "what is stored is not of this definition", again)
    age = max(now - end, 0) / 1e6
    text = f"{state.entities:,} entities, as of {_ago(age)} ago"
    if limit is not None and age * 1e6 > limit:
        return Check(subject, "wrong", f"{text}; a service allows {_ago(limit / 1e6)}", again)
    return Check(subject, "ok", text)


def _of_this_plan(codec: Codec, value: bytes) -> bool:
    """Whether a stored value says of itself that it is of this view's layout."""
    if len(value) < HEADER.itemsize:
        return False
    import numpy as np

    header = np.frombuffer(value, HEADER, 1)[0]
    return bool(header["magic"] == MAGIC and header["plan"] == codec.plan)


def _ago(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


__all__: Sequence[str] = ["Check", "examine"]
