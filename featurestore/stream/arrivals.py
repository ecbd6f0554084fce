"""When the event of a topic's record arrived: as it declares itself, else when Kafka says the record was written."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import pyarrow as pa

from featurestore.ir import Source
from featurestore.log.events import events_table_lenient
from featurestore.stream.clock import stamp

if TYPE_CHECKING:
    from confluent_kafka import Message


def arrival_of(source: Source) -> Callable[[Message], int | None]:
    """What says in microseconds when a record's event arrived."""
    column = source.arrival_time
    if column is None:
        return stamp

    def declared(message: Message) -> int | None:
        try:
            event = json.loads(message.value() or b"")
        except ValueError:
            return stamp(message)
        table, _ = events_table_lenient([event], source.schema)
        if not len(table):
            return stamp(message)
        found = table.column(column).cast(pa.int64())[0].as_py()
        return stamp(message) if found is None else int(found)

    return declared


__all__ = ["arrival_of"]
