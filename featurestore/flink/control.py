"""Starting, pausing, stopping and upgrading jobs.

What is wanted is written first, then done: whoever is killed in between is followed by the supervisor, or by the next command.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from featurestore.compile.flink_job import SKEW, job_of, kafka_steps, topic_prefix, wire_of
from featurestore.config import Config
from featurestore.errors import (
    FlinkError,
    JobOutageTooLong,
    NotFound,
    Unsupported,
)
from featurestore.flink.cluster import down, ended, ensure, rest_of, run, states
from featurestore.flink.place import Place, checked, place_of
from featurestore.flink.records import Record, found_checkpoint, load, locked, save, supervisor
from featurestore.flink.rest import LIVE, Rest
from featurestore.ir import Plan, View
from featurestore.layout import layout_of
from featurestore.online.codec import codec_of
from featurestore.online.state import load_states
from featurestore.online.store import OnlineStore
from featurestore.processes import process, remembered, spawn
from featurestore.registry import Registry
from featurestore.stream import kafka
from featurestore.stream.run import streamed_views

RUNNING_SECONDS: Final = 90.0
"""How long a job has until all of it runs."""

Say = Callable[[str], None]
Select = str | Sequence[str] | None


def topic_views(plan: Plan, select: Select) -> list[View]:
    """The views of a plan that a Flink job can feed. Raises NotFound when `select` picks none."""
    views = [
        v
        for v in streamed_views(plan, select)
        if v.source.stream is not None and v.source.stream.kind == "kafka"
    ]
    if not views:
        raise NotFound("view of a Kafka topic", str(select or "*"), (), "what is applied")
    return views


def start(
    config: Config, registry: Registry, online: OnlineStore, select: Select, now: int, *, fresh: bool, say: Say,
    background: bool = True,
) -> list[Record]:  # fmt: skip
    """Has the jobs of views run, from where they were, and somebody keep them running. What runs already is left alone.

    `fresh` forgets where they were: a new epoch from the first event that base does not have. Raises FlinkError and
    BrokerError for what is not there, JobOutageTooLong where a job's state is too old to go on from.
    """
    place = checked(place_of(config))
    views = topic_views(registry.current().plan, select)
    for view in views:
        must_be_there(view)
    online.identity()
    with locked(place):
        for name in ensure(place, load(place)):
            say(f"the local {name} was started")
        records = [started_job(place, online, view, now, fresh=fresh, say=say) for view in views]
    if background and supervisor(place) is None:
        words = [sys.executable, "-m", "featurestore.cli", "-C", str(config.root.resolve()), "--quiet"]
        words += ["--env", config.environment] if config.environment else []
        spawn(
            [*words, "stream", "run", "--engine", "flink", "--join"], place.folder / "log" / "supervisor.log"
        )
    return records


def started_job(place: Place, online: OnlineStore, view: View, now: int, *, fresh: bool, say: Say) -> Record:
    """One view's job, running: as it is, from where it was, or from its beginning."""
    name = topic_prefix(view)
    old = load(place).get(name)
    if old is not None and _lives(place, old):
        if fresh:
            raise FlinkError(
                f"the job of view '{view.name}' runs\n  stop it first: fs stream stop --select {view.name}"
            )
        return save(place, replace(old, state="running"))
    if old is None or fresh:
        record = Record(
            view.name,
            name,
            1 if old is None else old.epoch + 1,
            "running",
            since=_since(online, view),
            fresh_at=now,
        )
    else:
        record = replace(_with_newest(place, old), state="running", failure=None)
    resumed = record.newest
    if resumed is not None and now - resumed[1] > place.outage:
        raise JobOutageTooLong(view.name, (now - resumed[1]) / 1e6, place.outage / 1e6)
    if resumed is None and old is not None and not fresh:
        # It ended before its first checkpoint: nothing of it is kept, and what it wrote may be ahead of what it writes now.
        record = replace(record, epoch=record.epoch + 1)
    save(place, record)
    _dead_letter_topic(view, place)
    job = run(place, name, _compiled(place, view, record))
    record = save(place, replace(record, job=job))
    _must_run(rest_of(place, name), view, job)
    say(f"the job of view '{view.name}' runs" + ("" if resumed is None else f", from {resumed[0]}"))
    return record


def pause(
    config: Config, registry: Registry, select: Select, now: int, *, say: Say, state: Any = "paused"
) -> list[Record]:
    """Stops jobs with a savepoint each; `restart` or `start` goes on from it. Writers and cluster stay.

    Raises FlinkError where a savepoint cannot be taken: that job goes on.
    """
    place = place_of(config)
    names = {view.name for view in topic_views(registry.current().plan, select)}
    with locked(place):
        chosen = [r for r in load(place).values() if r.view in names and r.state in ("running", "paused")]
        return [_stopped(place, record, now, state, say) for record in chosen]


def stop(config: Config, registry: Registry, select: Select, now: int, *, say: Say) -> list[Record]:
    """As `pause`; and when no job is left that should run, the supervisor, its writers and a local cluster end."""
    done = pause(config, registry, select, now, say=say, state="stopped")
    place = place_of(config)
    if not any(record.state in ("running", "paused") for record in load(place).values()):
        end(place)
    return done


def end(place: Place) -> None:
    """Ends the supervisor, the writers and a local cluster. Jobs that should run are what they were when it is started again."""
    pid = supervisor(place)
    if pid is not None and pid != os.getpid():
        process(pid).end()
    for writer in remembered(place.folder / "writers.json").values():
        writer.end()
    if place.local:
        down(place)


def restart(
    config: Config, registry: Registry, online: OnlineStore, select: Select, now: int, *, say: Say
) -> list[Record]:
    """Stops jobs with a savepoint, and starts them from it."""
    place = place_of(config)
    if any(r.state == "running" for r in load(place).values()):
        pause(config, registry, select, now, say=say)
    return start(config, registry, online, select, now, fresh=False, say=say)


def upgrade(
    config: Config, registry: Registry, online: OnlineStore, select: Select, now: int, *, say: Say
) -> list[Record]:
    """Starts the jobs of views whose definition was changed and applied, beside the old ones.

    The supervisor retires these once the new ones have caught up.
    """
    return start(config, registry, online, select, now, fresh=False, say=say)


def retire(place: Place, record: Record, say: Say) -> Record:
    """Ends a job for good. Its topics and what it wrote stay until somebody deletes them."""
    if record.job is not None and _lives(place, record):
        rest_of(place, record.name).cancel(record.job)
    ended(place, record.name)
    say(f"the job {record.name} is retired")
    return save(place, replace(record, state="retired"))


def _stopped(place: Place, record: Record, now: int, state: Any, say: Say) -> Record:
    record = save(place, replace(_with_newest(place, record), state=state))
    if record.job is not None and _lives(place, record, silent=True):
        try:
            path = rest_of(place, record.name).stop(record.job, place.of_job(record.name, "savepoints"))
        except FlinkError:
            save(place, replace(record, state="running"))
            raise
        record = replace(record, savepoint=path, savepoint_at=now)
        say(f"the job of view '{record.view}' is {state}, savepoint {path}")
    else:
        say(f"the job of view '{record.view}' did not run; it is {state}")
    ended(place, record.name)
    return save(place, replace(record, job=None))


def _lives(place: Place, record: Record, *, silent: bool = False) -> bool:
    """Whether a job goes on. Raises FlinkError where its cluster does not say, unless that may be `silent`."""
    try:
        return states(place, [record.name]).get(record.job or "") in LIVE
    except FlinkError:
        if silent:
            return False
        raise


def _with_newest(place: Place, record: Record) -> Record:
    """The record with the newest checkpoint that lies there."""
    found = found_checkpoint(place, record.name)
    if found is None or found[1] <= max(record.checkpoint_at, record.fresh_at):
        return record
    return replace(record, checkpoint=found[0], checkpoint_at=found[1])


def _since(online: OnlineStore, view: View) -> int | None:
    """From which record on a fresh start has to read: what may be of after the cut; None where there is no base."""
    state = load_states(online, {"": codec_of(view, layout_of(view))}).get("")
    return None if state is None else state.cut - SKEW


def _compiled(place: Place, view: View, record: Record) -> dict[str, Any]:
    """The job file: the programs that `fs compile` prints, with what says where it runs and goes on from."""
    wire = wire_of(view, since=record.since)
    # Dead letters are given back in transactions: one that was given up never counts.
    wire = replace(wire, options={**wire.options, "properties.isolation.level": "read_committed"})
    job = job_of(view, wire, outage=place.outage)
    settings = {
        **job.settings,
        **({} if place.application else _session(rest_of(place, record.name))),
        "pipeline.name": f"{view.name} ({record.name}, epoch {record.epoch})",
        "parallelism.default": str(place.parallelism),
        "execution.checkpointing.dir": place.of_job(record.name, "checkpoints"),
        "execution.checkpointing.savepoint-dir": place.of_job(record.name, "savepoints"),
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "execution.checkpointing.num-retained": "3",
        "execution.checkpointing.interval": f"{place.checkpoint_seconds} s",
        "restart-strategy.type": place.restart,
        **(_BACKOFF if place.restart == "exponential-delay" else {}),
    }
    if record.newest is not None:
        settings["execution.state-recovery.path"] = record.newest[0]
    steps = kafka_steps(replace(job, settings=settings), epoch=record.epoch, partitions=place.partitions)
    return {
        "engine": "flink",
        "programs": [{"view": view.name, "name": s.name, "about": s.about, "sql": s.sql} for s in steps],
    }


def _session(rest: Rest) -> dict[str, str]:
    """Where a cluster is that a job is handed to."""
    host, _, port = rest.url.rpartition("://")[2].partition(":")
    return {
        "execution.target": "remote",
        "rest.address": host,
        "rest.port": port.rstrip("/") or "8081",
    }


_BACKOFF = {
    "restart-strategy.exponential-delay.initial-backoff": "1 s",
    "restart-strategy.exponential-delay.max-backoff": "20 s",
}


def must_be_there(view: View) -> None:
    """Raises BrokerUnavailable, or TopicNotFound with the nearest names."""
    wire = view.source.stream
    assert wire is not None
    if wire.kind != "kafka":
        raise Unsupported(f"view '{view.name}'", "run on Flink", "a StreamSource with stream=Kafka(topic, …)")
    cluster = kafka.cluster_of(wire)
    client = kafka.admin(cluster)
    kafka.partitions(client, cluster, wire.path)


def _dead_letter_topic(view: View, place: Place) -> None:
    """Makes the topic of dead letters where it is not there: not every cluster makes topics when they are written to."""
    wire = view.source.stream
    assert wire is not None
    cluster = kafka.cluster_of(wire)
    client = kafka.admin(cluster)
    name = f"{topic_prefix(view)}.dead-letters"
    if name in kafka.topics(client, cluster):
        return
    from confluent_kafka.cimpl import NewTopic

    with kafka.typed(cluster, client, name):
        asked = client.create_topics([NewTopic(name, num_partitions=min(place.partitions, 4))])
        asked[name].result(kafka.PATIENCE_SECONDS)


def _must_run(rest: Rest, view: View, job: str) -> None:
    """Waits until every part of a job runs. Raises FlinkError with what it failed of: an incompatible savepoint, say."""
    deadline = time.monotonic() + RUNNING_SECONDS
    while time.monotonic() < deadline:
        told = rest.ask(f"/jobs/{job}")
        state = told["state"]
        if state == "RUNNING" and all(part["status"] == "RUNNING" for part in told["vertices"]):
            return
        if state not in LIVE or state == "RESTARTING":
            failure = rest.failure(job)
            if state in LIVE:
                rest.cancel(job)
            raise FlinkError(
                f"the job of view '{view.name}' did not start: {failure}\n"
                "  where its savepoint does not fit the definition: fs stream start --fresh, after fs materialize"
            )
        time.sleep(0.2)
    raise FlinkError(
        f"the job of view '{view.name}' does not run after {RUNNING_SECONDS:.0f} s: {rest.failure(job) or 'no failure told'}\n"
        "  are there enough slots? `fs stream status` shows its state"
    )


__all__ = [
    "end",
    "must_be_there",
    "pause",
    "restart",
    "retire",
    "start",
    "started_job",
    "stop",
    "topic_views",
    "upgrade",
]
