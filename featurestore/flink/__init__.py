"""Streaming jobs on Flink: where it runs, what runs there, and how it is kept running."""

from featurestore.flink.control import pause, restart, start, stop, upgrade
from featurestore.flink.letters import DeadLetter, dead_letters, replay
from featurestore.flink.status import JobStatus, job_statuses
from featurestore.flink.supervise import supervise

__all__ = [
    "DeadLetter",
    "JobStatus",
    "dead_letters",
    "job_statuses",
    "pause",
    "replay",
    "restart",
    "start",
    "stop",
    "supervise",
    "upgrade",
]
