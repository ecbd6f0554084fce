"""After an outage longer than state is kept: batch takes over what the job should have done, and the job begins behind that."""

from __future__ import annotations

from collections.abc import Sequence

from featurestore.compile.flink_job import topic_prefix
from featurestore.config import Config
from featurestore.errors import FlinkError
from featurestore.flink.cluster import states
from featurestore.flink.place import place_of
from featurestore.flink.records import load
from featurestore.flink.rest import LIVE
from featurestore.ir import View
from featurestore.layout import layout_of
from featurestore.online.codec import NEVER, codec_of
from featurestore.online.state import StreamState, load_states, load_stream, stream_name
from featurestore.online.store import OnlineStore


def must_not_run(config: Config, views: Sequence[View]) -> None:
    """Raises FlinkError for a view whose job runs: it cannot be begun anew before it is stopped."""
    place = place_of(config)
    records = load(place)
    submitted = [
        (v, r) for v in views if (r := records.get(topic_prefix(v))) is not None and r.job is not None
    ]
    if not submitted:
        return
    try:
        known = states(place, [record.name for _, record in submitted])
    except FlinkError:
        return  # no cluster, no job
    for view, record in submitted:
        if known.get(record.job or "") in LIVE:
            raise FlinkError(
                f"the job of view '{view.name}' runs\n  stop it first: fs stream stop --select {view.name}"
            )


def let_batch_pass(online: OnlineStore, views: Sequence[View], now: int) -> None:
    """Has the clock of streams that were away hold no cut back any more: batch may take over all that it has."""
    for view in views:
        codec = codec_of(view, layout_of(view))
        said = load_stream(online, codec)
        if said is not None and said.clock < now:
            moved = StreamState(said.owner, now, None, now)
            online.set_metas({stream_name(codec): moved.to_bytes()})


def begin_behind(online: OnlineStore, views: Sequence[View], now: int) -> None:
    """What is served is complete up to the cut that batch has now, and no further until the job has caught up."""
    for view in views:
        codec = codec_of(view, layout_of(view))
        said, state = load_stream(online, codec), load_states(online, {"": codec}).get("")
        if said is not None:
            cut = NEVER if state is None else state.cut
            moved = StreamState(said.owner, cut, None if state is None else cut, now)
            online.set_metas({stream_name(codec): moved.to_bytes()})


__all__ = ["begin_behind", "let_batch_pass", "must_not_run"]
