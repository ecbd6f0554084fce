"""Avro records as events, and back.

A payload is one bare record, or, where `avro.schema.id` says under which number a registry has the schema, a record behind a zero
byte and that number in four. No registry is asked: a record of another schema is no event.
"""

from __future__ import annotations

import json
import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from featurestore.compile.avro import schema_of
from featurestore.errors import ConfigError, EventError, Unsupported
from featurestore.ir import Location
from featurestore.log.notevent import NotAnEvent
from featurestore.types import DType

_HEAD = struct.Struct(">bI")

# What fastavro raises of bytes that are no record of the schema.
_UNREADABLE = (
    EOFError,
    ValueError,
    IndexError,
    KeyError,
    OverflowError,
    TypeError,
    MemoryError,
    ArithmeticError,
)


@dataclass(frozen=True, slots=True)
class Avro:
    """Events as Avro records. Fields of a given schema that are no columns are left out."""

    schema: Mapping[str, DType]
    parsed: Any
    number: int | None
    given: bool

    @staticmethod
    def of(wire: Location, schema: Mapping[str, DType]) -> Avro:
        """The format of a topic; see `schema_of`."""
        text, number = schema_of(wire, schema)
        given = "property.avro.schema" in dict(wire.options)
        try:
            from fastavro import parse_schema
            from fastavro.schema import SchemaParseException, UnknownType
        except ImportError as error:
            raise Unsupported(
                "this installation", "read Avro", "pip install 'featurestore[kafka]'"
            ) from error
        try:
            return Avro(schema, parse_schema(json.loads(text)), number, given)
        except (SchemaParseException, UnknownType, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"topic '{wire.path}': 'avro.schema' is no Avro schema: {error}") from error

    def read(self, payload: bytes) -> dict[str, Any]:
        from fastavro import schemaless_reader

        start = 0
        if self.number is not None:
            if len(payload) < _HEAD.size or payload[0] != 0:
                raise NotAnEvent("not Avro: no number of a schema comes before the record")
            number = _HEAD.unpack_from(payload)[1]
            if number != self.number:
                raise NotAnEvent(
                    f"not Avro: it is of schema {number}, and those of this topic are of {self.number}"
                )
            start = _HEAD.size
        raw = BytesIO(payload)
        raw.seek(start)
        try:
            event: Any = schemaless_reader(raw, self.parsed, None)
        except _UNREADABLE as error:
            raise NotAnEvent(f"not Avro: {str(error) or type(error).__name__}") from error
        if raw.tell() != len(payload):
            raise NotAnEvent("not Avro: there is more behind the record")
        return {name: event[name] for name in self.schema}

    def write(self, event: Mapping[str, Any]) -> bytes:
        from fastavro import schemaless_writer

        raw = BytesIO()
        if self.number is not None:
            raw.write(_HEAD.pack(0, self.number))
        try:
            schemaless_writer(raw, self.parsed, {name: event[name] for name in self.schema})
        except _UNREADABLE as error:
            raise EventError(f"an event does not fit 'avro.schema': {error}") from error
        payload = raw.getvalue()
        if not self.given:
            return payload
        for name, value in self.read(payload).items():
            # A given schema may hold less: milliseconds, a float.
            if (str(value) if isinstance(value, uuid.UUID) else value) != event[name] and value == value:  # noqa: PLR0124 (NaN)
                raise EventError(
                    f"column '{name}': 'avro.schema' makes {value!r} of {event[name]!r}", column=name
                )
        return payload
