"""Where pushed events of a source go, and dead letters go back to: its local log, or its topic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from featurestore.config import Config
from featurestore.errors import Unsupported
from featurestore.ir import Source
from featurestore.log.eventlog import Appended, EventLog
from featurestore.stream.feeds import in_topic, naming_the_way_out, open_log
from featurestore.stream.topic import Sent, TopicInbox

Pushed = Appended | Sent
"""Both have `rows` and `appended_at`; a log has one run of offsets, a topic one for each partition."""


class Inbox(Protocol):
    """What takes events, and can say later whether it has one."""

    def append(self, events: Any, at: int) -> Pushed:
        """Takes events as of `at`, all of them or none. They are kept when it returns. Raises EventError."""
        ...

    def end(self) -> Any:
        """Where it ends now."""
        ...

    def holds(self, event: Mapping[str, Any], since: Any) -> bool:
        """Whether it has an event behind what once was its end."""
        ...

    def close(self) -> None: ...


class LogInbox:
    """The local log of a source."""

    def __init__(self, log: EventLog, source: str) -> None:
        self._log, self._source = log, source

    def append(self, events: Any, at: int) -> Appended:
        with naming_the_way_out(self._source):
            return self._log.append(events, at)

    def end(self) -> int:
        with naming_the_way_out(self._source):
            return self._log.end()

    def holds(self, event: Mapping[str, Any], since: int) -> bool:
        names = list(event)
        with naming_the_way_out(self._source):
            while (batch := self._log.read(since)).next_offset > since:
                if event in batch.table.select(names).to_pylist():
                    return True
                since = batch.next_offset
        return False

    def close(self) -> None:
        self._log.close()


def open_inbox(config: Config, source: Source) -> Inbox:
    """Where the events of a source go. Raises ConfigError and BrokerError for a topic that cannot be spoken to.

    Under engine `flink` a source without a topic takes none: nobody would read them.
    """
    if in_topic(config, source):
        return TopicInbox(source)
    if config.stream_engine == "flink":
        raise Unsupported(
            f"source '{source.name}' under [stream] engine = 'flink'",
            "take pushed events: no job reads a local log",
            "stream=Kafka(topic, …), or the embedded engine",
        )
    return LogInbox(open_log(config, source), source.name)


def pushed_json(done: Pushed) -> dict[str, Any]:
    """What became of a push, for a reader of JSON."""
    match done:
        case Appended():
            first, last = done.first_offset, done.last_offset
            return {"rows": done.rows, "first_offset": first, "last_offset": last}
        case Sent():
            return {"rows": done.rows, "offsets": {str(n): list(o) for n, o in done.offsets.items()}}
