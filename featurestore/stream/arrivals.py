"""When the event of a topic's record arrived: as it declares itself, else when Kafka says the record was written."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pyarrow as pa

from featurestore.ir import Source
from featurestore.log.payloads import events_of, format_of
from featurestore.stream.clock import stamp

if TYPE_CHECKING:
    from confluent_kafka import Message


def arrival_of(source: Source) -> Callable[[Message], int | None]:
    """What says in microseconds when a record's event arrived."""
    column = source.arrival_time
    if column is None:
        return stamp

    assert source.stream is not None
    form = format_of(source.stream, source.schema)

    def declared(message: Message) -> int | None:
        table, _, _ = events_of([message.value() or b""], form, source.schema)
        found = table.column(column).cast(pa.int64())[0].as_py() if len(table) else None
        return stamp(message) if found is None else int(found)

    return declared


__all__ = ["arrival_of"]
