"""A changed view made ready beside the one that is served: its base, its job, its heads, before anybody reads them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from featurestore.compile.flink_job import topic_prefix
from featurestore.config import Config
from featurestore.erasures import Erasures
from featurestore.errors import FlinkError, StreamError
from featurestore.flink.cluster import ensure
from featurestore.flink.control import Say, must_be_there, retire, started_job
from featurestore.flink.place import checked, place_of
from featurestore.flink.records import load, locked, save
from featurestore.ir import Plan, View
from featurestore.layout import layout_of
from featurestore.online.codec import codec_of
from featurestore.online.state import load_stream
from featurestore.online.store import OnlineStore
from featurestore.stream.writer import ViewWriter

CATCH_UP_SECONDS = 3600.0
"""How long a new version may take until all that came before the upgrade began is in its values."""


@dataclass(frozen=True, slots=True)
class Upgraded:
    """A view whose new version is served now: the names of its jobs, and how many cells were compared with batch."""

    view: str
    old: str
    new: str
    compared: int


def changed(config: Config, applied: Plan, desired: Plan) -> list[tuple[View, str]]:
    """Views that get another job, and the name of the one that runs for them now."""
    records = load(place_of(config))
    running = {record.name for record in records.values() if record.state == "running"}
    before = {v.name: topic_prefix(v) for v in applied.views if topic_prefix(v) in running}
    if not before:
        return []
    streamed = [v for v in desired.views if v.source.stream is not None and v.source.stream.kind == "kafka"]
    return [(v, before[v.name]) for v in streamed if v.name in before and before[v.name] != topic_prefix(v)]


def made_ready(
    config: Config, view: View, online: OnlineStore, erased: Erasures, clock: Callable[[], int], say: Say,
    seconds: float = CATCH_UP_SECONDS,
) -> None:  # fmt: skip
    """Starts the job of a view that is not applied, behind its base, and writes its heads until they have all that came by now.

    What was `erased` stays out. Killed, it is called again. Raises FlinkError where the job does not run or does not catch up.
    """
    place, began = checked(place_of(config)), clock()
    must_be_there(view)
    with locked(place):
        ensure(place, load(place))
        fresh = load(place).get(topic_prefix(view)) is None
        record = started_job(place, online, view, began, fresh=fresh, say=say)
        save(place, replace(record, ahead=True))
    stop, failures = threading.Event(), list[BaseException]()

    def write() -> None:
        try:
            ViewWriter(view, online, erased=erased, say=say).run(stop)
        except BaseException as error:  # noqa: BLE001  (a thread: it is raised below)
            failures.append(error)

    thread = threading.Thread(target=write, name=f"writer {view.name}")
    thread.start()
    try:
        _caught_up(view, online, began, failures, seconds)
    finally:
        stop.set()
        thread.join()


def _caught_up(
    view: View, online: OnlineStore, until: int, failures: list[BaseException], seconds: float
) -> None:
    codec = codec_of(view, layout_of(view))
    deadline = time.monotonic() + seconds
    while (said := load_stream(online, codec)) is None or said.clock < until:
        if failures:
            raise failures[0]
        if time.monotonic() > deadline:
            raise FlinkError(
                f"the new job of view '{view.name}' has not caught up within {seconds:.0f} s; what was served is served\n"
                "  run `fs stream upgrade` again: it goes on from there"
            )
        time.sleep(0.2)


def must_agree(view: View, compared: int, differing: int) -> None:
    """Raises StreamError where the new version is not what batch makes of its definition."""
    if differing:
        raise StreamError(
            f"view '{view.name}': {differing:,} of {compared:,} cells of its new version are not batch's; nothing was switched\n"
            f"  `fs verify {view.name}` looks for the smallest case"
        )


def switched(config: Config, done: list[Upgraded], say: Say) -> None:
    """New versions are what is applied now: their jobs are kept running, those of the old ones end."""
    place = place_of(config)
    with locked(place):
        ensure(place, load(place))
        for one in done:
            records = load(place)
            save(place, replace(records[one.new], ahead=False))
            if one.old in records and records[one.old].state != "retired":
                retire(place, records[one.old], say)


__all__ = ["Upgraded", "changed", "made_ready", "must_agree", "switched"]
