"""Streaming jobs on Flink: where it runs, what runs there, and how it is kept running."""

from featurestore.flink.ahead import Upgraded, changed, made_ready, must_agree, switched
from featurestore.flink.cluster import rest_of
from featurestore.flink.control import pause, restart, start, stop, topic_views, upgrade
from featurestore.flink.heal import begin_behind, let_batch_pass, must_not_run
from featurestore.flink.letters import DeadLetter, dead_letters, replay
from featurestore.flink.place import Place, checked, place_of
from featurestore.flink.records import Record, load, supervisor
from featurestore.flink.status import JobStatus, job_statuses
from featurestore.flink.supervise import supervise

__all__ = [
    "DeadLetter",
    "JobStatus",
    "Place",
    "Record",
    "Upgraded",
    "begin_behind",
    "changed",
    "checked",
    "dead_letters",
    "job_statuses",
    "let_batch_pass",
    "load",
    "made_ready",
    "must_agree",
    "must_not_run",
    "pause",
    "place_of",
    "replay",
    "rest_of",
    "restart",
    "start",
    "stop",
    "supervise",
    "supervisor",
    "switched",
    "topic_views",
    "upgrade",
]
