"""Records of Avro as they may come: by the schema that is derived from the columns, by others, and broken ones."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any

from fastavro import parse_schema, schemaless_writer

from featurestore.compile.avro import derived_schema
from featurestore.types import DType, Float32, Int32, List, Vector
from tests.flink_columns import SCHEMA

MORE: dict[str, DType] = {**SCHEMA, "i": Int32, "f": Float32, "l": List(SCHEMA["a"]), "v": Vector(2)}
NONE: dict[str, Any] = dict.fromkeys(MORE)
NOON = dt.datetime(2024, 3, 10, 12, 0, 0, 500_001, tzinfo=dt.UTC)
ONE: dict[str, Any] = {
    "a": 2**62, "x": 0.5, "s": "é\U00010000", "p": True, "m": decimal.Decimal("-1.25"), "t": NOON,
    "d": dt.date(1969, 12, 31), "i": -(2**31), "f": 0.25, "l": [1, None], "v": [1.0, -2.5],
}  # fmt: skip

GIVEN = {
    "type": "record", "name": "Purchase", "fields": [
        {"name": "extra", "type": {"type": "map", "values": "long"}, "default": {}},
        {"name": "a", "type": ["int", "null", "string"]},
        {"name": "x", "type": ["float", "long", "null", {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 1}]},
        {"name": "s", "type": [{"type": "enum", "name": "E", "symbols": ["A", "B"]}, "long", "bytes",
                               {"type": "string", "logicalType": "uuid"}]},
        {"name": "p", "type": ["boolean", "int"]},
        {"name": "m", "type": [{"type": "fixed", "name": "F", "size": 4, "logicalType": "decimal", "precision": 9, "scale": 3},
                               "string", "double", "long", "null"]},
        {"name": "t", "type": [{"type": "long", "logicalType": "timestamp-millis"}, "string", "null",
                               {"type": "int", "logicalType": "date"}]},
        {"name": "d", "type": [{"type": "int", "logicalType": "date"}, "string", "null", "boolean",
                               {"type": "long", "logicalType": "local-timestamp-micros"}]},
    ],
}  # fmt: skip
"""A topic's own schema: other types, more fields, each a union of what does and does not fit its column."""


def written(schema: Any, event: dict[str, Any]) -> bytes:
    raw = BytesIO()
    schemaless_writer(raw, parse_schema(schema), event)
    return raw.getvalue()


def avro_cases() -> Iterator[tuple[dict[str, str], dict[str, DType], list[bytes]]]:
    """Properties of a topic, columns, and payloads."""
    derived = derived_schema(MORE, "t")
    good = written(derived, ONE)
    edges = [{**NONE, "x": x, "f": x} for x in (float("nan"), float("inf"), -0.0, 1e300, 5e-324)]
    edges += [{**NONE, "m": decimal.Decimal(m)} for m in ("0", "9999999999.99", "-0.01")]
    edges += [
        {**NONE, "t": t}
        for t in (dt.datetime(1, 1, 1, tzinfo=dt.UTC), dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC))
    ]
    yield {}, MORE, [
        good, written(derived, NONE), *(written(derived, e) for e in edges),
        b"", good[:-1], good + b"\x00", b"\x04" + good[1:], b"{}", b"\xff" * 40,
        good.replace("é".encode(), b"\xc3\x28"),
        written({**derived, "fields": derived["fields"][:7]}, ONE),
    ]  # fmt: skip
    plain = derived_schema(SCHEMA, "t")
    raw = {"type": "record", "name": "R", "fields": [
        {"name": n, "type": ["null", {"Timestamp": "long", "Date": "int"}.get(repr(t), plain["fields"][i]["type"][1])]}
        for i, (n, t) in enumerate(SCHEMA.items())
    ]}  # fmt: skip
    none = dict.fromkeys(SCHEMA)
    times = [
        {**none, "t": t}
        for t in (2**62, -(2**62), 253402300800000000, 253402300799999999, -62135596800000001)
    ]
    days = [{**none, "d": d} for d in (2932896, 2932897, -719162, -719163, 2**31 - 1)]
    big = {**none, "m": decimal.Decimal(10) ** 10}
    wide = json.loads(json.dumps(raw).replace('"precision": 12', '"precision": 20'))
    yield {}, SCHEMA, [*(written(raw, e) for e in (*times, *days)), written(wide, big)]
    head = struct.pack(">bI", 0, 70000)
    one = written(plain, {**none, "a": 5})
    yield {"avro.schema.id": "70000"}, SCHEMA, [
        head + one, one, struct.pack(">bI", 0, 7) + one, b"\x01" + head[1:] + one, b"\x00", head, b"",
    ]  # fmt: skip
    base: dict[str, Any] = {"a": 7, "x": 1.5, "s": "A", "p": True, "m": None, "t": None, "d": None}
    mixed: list[dict[str, Any]] = [
        {}, {"a": None}, {"a": "7"}, {"x": ("long", 2**53)}, {"x": ("long", 2**53 + 1)}, {"x": decimal.Decimal("1.5")},
        {"s": 5}, {"s": ("bytes", b"b")}, {"s": ("string", "2f1b6f3e-0d0c-4a52-9f2e-0d8a1a0e6c11")}, {"p": 1},
        {"m": decimal.Decimal("1.250")}, {"m": decimal.Decimal("1.255")}, {"m": ("string", "12.5")}, {"m": ("string", "1.255")},
        {"m": ("double", 0.3)}, {"m": ("double", 0.1 + 0.2)}, {"m": ("long", 10**10)}, {"m": ("long", 12)},
        {"t": ("long", NOON.replace(microsecond=123000))}, {"t": ("string", "2024-03-10T12:00:00.5+01:00")},
        {"t": ("string", "no")}, {"t": ("int", dt.date(2024, 2, 29))},
        {"d": ("int", dt.date(2024, 2, 29))}, {"d": ("string", "2024-02-29")},
        {"d": ("string", "2023-02-29")}, {"d": ("boolean", True)},
        {"d": ("long", dt.datetime(2024, 2, 29))},  # noqa: DTZ001
    ]  # fmt: skip
    yield (
        {"avro.schema": json.dumps(GIVEN)},
        SCHEMA,
        [written(GIVEN, {**base, "extra": {"y": 1}, **m}) for m in mixed],
    )
