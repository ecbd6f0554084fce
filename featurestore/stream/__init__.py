"""The embedded stream: events of a source, micro-batch by micro-batch, as the heads of the online store."""

from featurestore.stream.logs import LogStatus, log_statuses, prune_log, skip_damage
from featurestore.stream.run import (
    Stream,
    StreamStatus,
    dead_events,
    replay,
    statuses,
    stream_source,
    streamed_views,
)
from featurestore.stream.state import DeadEvent

__all__ = [
    "DeadEvent",
    "LogStatus",
    "Stream",
    "StreamStatus",
    "dead_events",
    "log_statuses",
    "prune_log",
    "replay",
    "skip_damage",
    "statuses",
    "stream_source",
    "streamed_views",
]
