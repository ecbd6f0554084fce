"""Events as the bytes of a topic's records, and back: one format a class, all of them to the values that `events_table` makes.

What is no event comes out as a dead letter with a reason, in the row of its payload. Test vectors hold the functions that
decode payloads in a Flink job to this.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from featurestore.errors import EventError, Unsupported
from featurestore.ir import Location
from featurestore.log.avro import Avro
from featurestore.log.events import DeadLetter, events_table_lenient
from featurestore.log.notevent import NotAnEvent
from featurestore.types import Date, DecimalType, DType, Timestamp


class Format(Protocol):
    """How events of a source are written as bytes."""

    def read(self, payload: bytes) -> Any:
        """The event as a mapping of columns. Raises NotAnEvent for bytes that are none."""
        ...

    def write(self, event: Mapping[str, Any]) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Json:
    """A JSON object of the columns: instants and dates as ISO 8601 text, decimals as text."""

    schema: Mapping[str, DType]

    def read(self, payload: bytes) -> Any:
        try:
            return json.loads(payload)
        except (ValueError, RecursionError) as error:
            raise NotAnEvent(f"not JSON: {error}") from error

    def write(self, event: Mapping[str, Any]) -> bytes:
        said = {name: _plain(event[name], dtype) for name, dtype in self.schema.items()}
        return json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()


def _plain(value: Any, dtype: DType) -> Any:
    if value is None:
        return None
    if dtype == Timestamp:
        return value.astimezone(dt.UTC).replace(tzinfo=None).isoformat() + "Z"
    if dtype == Date:
        return value.isoformat()
    return str(value) if isinstance(dtype, DecimalType) else value


FORMATS: dict[str, Callable[[Location, Mapping[str, DType]], Format]] = {
    "json": lambda _, schema: Json(schema),
    "avro": Avro.of,
}
"""What makes a format of a topic and a source's columns, by what `Kafka(topic, format=…)` says."""


def format_of(wire: Location, schema: Mapping[str, DType]) -> Format:
    """The format of a topic's events. Raises Unsupported for one that is not there."""
    name = dict(wire.options).get("format", "json")
    if name not in FORMATS:
        raise Unsupported(
            f"topic '{wire.path}'", f"hold events as '{name}'", " or ".join(f'format="{f}"' for f in FORMATS)
        )
    return FORMATS[name](wire, schema)


def events_of(
    payloads: Sequence[bytes], form: Format, schema: Mapping[str, DType]
) -> tuple[pa.Table, list[int], list[DeadLetter]]:
    """The events of payloads, the row of each among them, and what is none, by row."""
    read: list[Any] = []
    rows: list[int] = []
    dead: list[DeadLetter] = []
    for row, payload in enumerate(payloads):
        try:
            read.append(form.read(payload))
            rows.append(row)
        except NotAnEvent as error:
            dead.append(DeadLetter(row, None, str(error), {"payload": _shown(payload)}))
    table, misshapen = events_table_lenient(read, schema)
    bad = {letter.row for letter in misshapen}
    dead += [DeadLetter(rows[d.row], d.column, d.reason, d.event) for d in misshapen]
    return table, [r for i, r in enumerate(rows) if i not in bad], sorted(dead, key=lambda d: d.row)


def payloads_of(table: pa.Table, form: Format) -> list[bytes]:
    """The payload of each event of a table of the source's columns. Raises EventError for what no payload can say."""
    try:
        events = table.to_pylist()
    except (ValueError, OverflowError) as error:
        raise EventError(
            f"a time is outside the years 1 to 9999, which no record can say: {error}"
        ) from error
    return [form.write(event) for event in events]


def _shown(payload: bytes) -> str:
    text = payload[:4096].decode("utf-8", "backslashreplace")
    return text if len(payload) <= 4096 else f"{text}…"
