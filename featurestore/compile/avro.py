"""The Avro schema of a topic's events: derived from the source's columns, or given by `avro.schema`.

| column | Avro, each in a union with null |
| --- | --- |
| `Int64`, `Int32` | `long`, `int` |
| `Float64`, `Float32` | `double`, `float` |
| `Bool`, `String` | `boolean`, `string` |
| `Timestamp` | `long`, `timestamp-micros` |
| `Date` | `int`, `date` |
| `Decimal(p, s)` | `bytes`, `decimal` of that precision and scale |
| `List(t)`, `Vector(n)` | `array` of what `t` is or null, of `float` |
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from featurestore.config import expand
from featurestore.errors import ConfigError, Unsupported, nearest
from featurestore.ir import Location
from featurestore.types import (
    Bool,
    Date,
    DecimalType,
    DType,
    Float32,
    Float64,
    Int32,
    Int64,
    ListType,
    MapType,
    String,
    Timestamp,
    VectorType,
)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN = {Int64: "long", Int32: "int", Float64: "double", Float32: "float", Bool: "boolean", String: "string"}


def derived_schema(schema: Mapping[str, DType], where: str) -> dict[str, Any]:
    """The Avro schema of events with these columns. Raises Unsupported, naming `where`, for a column Avro cannot name."""
    for name in schema:
        if not _NAME.fullmatch(name):
            raise Unsupported(where, f"hold a column '{name}' as Avro", "letters, digits and _ in names")
    fields = [
        {"name": name, "type": ["null", _avro_type(dtype)], "default": None} for name, dtype in schema.items()
    ]
    return {"type": "record", "name": "Event", "namespace": "featurestore", "fields": fields}


def _avro_type(dtype: DType) -> Any:
    match dtype:
        case DecimalType():
            kind = {"type": "bytes", "logicalType": "decimal"}
            return {**kind, "precision": dtype.precision, "scale": dtype.scale}
        case ListType():
            return {"type": "array", "items": ["null", _avro_type(dtype.item)]}
        case VectorType():
            return {"type": "array", "items": "float"}
        case MapType():
            raise AssertionError("a source holds no maps")
        case _ if dtype == Timestamp:
            return {"type": "long", "logicalType": "timestamp-micros"}
        case _ if dtype == Date:
            return {"type": "int", "logicalType": "date"}
        case _:
            return _PLAIN[dtype]


def schema_of(wire: Location, schema: Mapping[str, DType]) -> tuple[str, int | None]:
    """The Avro schema of a topic's events as text, and its number in a registry if records say it.

    Raises ConfigError for one that is no record of the source's columns, and Unsupported for a registry that is to be asked.
    """
    where = f"topic '{wire.path}'"
    properties = {k.removeprefix("property."): v for k, v in wire.options if k.startswith("property.")}
    if "schema.registry.url" in properties:
        raise Unsupported(
            where,
            "ask a schema registry",
            'properties={"avro.schema": the schema, "avro.schema.id": its number in the registry}',
        )
    number = properties.get("avro.schema.id")
    if number is not None and not number.isdecimal():
        raise ConfigError(f"{where}: 'avro.schema.id' is {number!r}, which is no number of a schema")
    given = properties.get("avro.schema")
    if given is None:
        text = json.dumps(derived_schema(schema, where), separators=(",", ":"))
    else:
        text = expand(given)
        _must_hold(text, schema, where)
    return text, None if number is None else int(number)


def _must_hold(text: str, schema: Mapping[str, DType], where: str) -> None:
    try:
        told = json.loads(text)
        fields = [field["name"] for field in told["fields"]] if told["type"] == "record" else None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{where}: 'avro.schema' is no Avro schema of a record: {error}") from error
    if fields is None:
        raise ConfigError(f"{where}: 'avro.schema' is of a {told['type']}, and an event is a record")
    for name in schema:
        if name not in fields:
            help = "\n  ".join(nearest(name, fields))
            raise ConfigError(f"{where}: 'avro.schema' has no field for column '{name}'\n  {help}")
