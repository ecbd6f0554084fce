"""How far the jobs are: what Flink, Kafka and the online store say of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from featurestore.compile.flink_job import topic_prefix
from featurestore.config import Config
from featurestore.errors import BrokerError, FlinkError
from featurestore.flink.cluster import rest_of, states
from featurestore.flink.control import Select, topic_views
from featurestore.flink.place import place_of
from featurestore.flink.records import load, supervisor
from featurestore.flink.rest import Checkpoint
from featurestore.ir import Plan, View
from featurestore.layout import layout_of
from featurestore.online.codec import NEVER, codec_of
from featurestore.online.state import load_stream
from featurestore.online.store import OnlineStore
from featurestore.stream import kafka
from featurestore.stream.writer import written


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One view's job. Times are UTC microseconds, None where nothing is known.

    `wanted` is what was last asked for, `state` what Flink says (UNKNOWN where it does not answer, NONE where it has no such
    job). `lag` is how many events of the source's topic the job has not committed, `waiting` how many tile records wait for a
    writer; `clock` the moment up to which all that arrived can be read. `counts` are of writers, and dead letters by reason.
    """

    view: str
    source: str
    name: str
    wanted: str
    state: str
    epoch: int
    job: str | None
    restarts: int | None
    lag: int | None
    waiting: int
    writers: tuple[str, ...]
    clock: int | None
    checkpoint_at: int | None
    checkpoint_bytes: int | None
    savepoint: str | None
    failure: str | None
    supervisor: int | None
    counts: Mapping[str, int] = field(default_factory=dict)


def job_statuses(config: Config, plan: Plan, online: OnlineStore, select: Select = None) -> list[JobStatus]:
    """Each view's job, whether it runs or not; also those that a changed definition is about to retire."""
    place = place_of(config)
    records = load(place)
    pid = supervisor(place)
    try:
        known: dict[str, str] | None = states(place, records)
    except FlinkError:
        known = None
    found = []
    for view in topic_views(plan, select):
        record = records.get(topic_prefix(view))
        job = None if record is None else record.job
        state = "NONE"
        restarts, checkpoint, failure = None, None, None if record is None else record.failure
        if job is not None:
            state = "UNKNOWN" if known is None else known.get(job, "NONE")
            if record is not None and known is not None and job in known:
                rest = rest_of(place, record.name)
                restarts, checkpoint = rest.restarts(job), rest.checkpoint(job)
                failure = rest.failure(job) if state != "RUNNING" else failure
        told = written(online, view)
        stream = load_stream(online, codec_of(view, layout_of(view)))
        found.append(
            JobStatus(
                view.name,
                view.source.name,
                topic_prefix(view),
                "nothing" if record is None else record.state,
                state,
                0 if record is None else record.epoch,
                job,
                restarts,
                lag_of(view),
                told.lag,
                told.writers,
                None if stream is None or stream.clock == NEVER else stream.clock,
                *_newest(checkpoint, None if record is None else record.checkpoint_at or None),
                None if record is None else record.savepoint,
                failure,
                pid,
                dict(told.counts),
            )
        )
    return found


def _newest(checkpoint: Checkpoint | None, remembered: int | None) -> tuple[int | None, int | None]:
    return (remembered, None) if checkpoint is None else (checkpoint.at, checkpoint.bytes)


def lag_of(view: View) -> int | None:
    """How many events a view's job has not committed, None where the broker does not say."""
    wire = view.source.stream
    assert wire is not None
    try:
        cluster = kafka.cluster_of(wire)
        client = kafka.admin(cluster)
        numbers = kafka.partitions(client, cluster, wire.path)
        ends = kafka.offsets(client, cluster, wire.path, numbers)
        firsts = kafka.offsets(client, cluster, wire.path, numbers, first=True)
        committed = kafka.committed(cluster, topic_prefix(view), wire.path, numbers)
    except BrokerError:
        return None
    return sum(max(ends[n] - max(committed.get(n, 0), firsts[n]), 0) for n in numbers)


__all__ = ["JobStatus", "job_statuses", "lag_of"]
