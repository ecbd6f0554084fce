"""What partials are of some values, as `evaluate/` makes them: the Java functions of `streaming/` are held to the same.

`python -m tests.flink_vectors` writes the file that JUnit reads; a test says when it is no longer what is made here.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from featurestore.aggregates import (
    Buckets,
    Distinct,
    FirstK,
    Frequencies,
    Largest,
    LastK,
    MaxBy,
    MinBy,
    Moments,
    Reduction,
    Smallest,
    Sum,
)
from featurestore.aggregates.reductions import BY, First, Last, X
from featurestore.compile.avro import schema_of
from featurestore.declare import Kafka
from featurestore.errors import EventError
from featurestore.evaluate.partials import Array, By, reduce_events
from featurestore.evaluate.ragged import buckets, hashes
from featurestore.evaluate.ranges import GatheredRanges
from featurestore.layout import Slot
from featurestore.log.events import events_table
from featurestore.log.payloads import Format, events_of, format_of
from featurestore.lower import location_of
from featurestore.types import (
    Bool,
    Date,
    DecimalType,
    DType,
    Float64,
    Int64,
    ListType,
    String,
    Timestamp,
    VectorType,
)
from tests.flink_avro import avro_cases
from tests.flink_columns import SCHEMA

FILE = Path(__file__).parents[1] / "streaming" / "java" / "src" / "test" / "resources" / "vectors.json"

WHOLES = [0, 1, -1, 5, 5, 2**53 + 1, 2**63 - 1, -(2**63), 2**62, 7]
DOUBLES = [0.0, 1.5, -2.25, 1e9, 1e9 + 1e-3, 1e9 - 1e-3, 1e15, 0.1, 0.1, 5e-324]
CLOSE = [1e9 + i * 1e-3 for i in range(20)]
TEXTS = ["", "a", "b", "Z", "é", "\uffff", "\U00010000", "a", "long " * 10, "b"]
TRUTHS = [True, False, True]
"""Values of each type; in a stream they come at these times, two at each, in this order."""

PAYLOADS: list[str] = [
    '{"a": 1, "x": 0.5, "s": "é", "p": true, "m": "1.25", "t": "2024-03-10T12:00:00.5+01:00", "d": "1969-12-31"}',
    '{"a": null, "x": null, "s": null, "p": null, "m": null, "t": null, "d": null}',
    '{"a": 2, "x": 1, "s": "", "p": false, "m": 1, "t": "2024-03-10", "d": "2024-02-29"}',
    '{"a": 9223372036854775807, "x": 9007199254740992, "s": "x", "p": false, "m": 1.25, "t": "2024-03-10 12:00", "d": null}',
    '{"a": 9223372036854775808, "x": 1, "s": "x", "p": false, "m": 1, "t": null, "d": null}',
    '{"a": 1, "x": 9007199254740993, "s": "x", "p": false, "m": 1, "t": null, "d": null}',
    '{"a": 1, "x": NaN, "s": "x", "p": false, "m": -9999999999.99, "t": null, "d": null}',
    '{"a": 1, "x": 1, "s": "x", "p": false, "m": 10000000000, "t": null, "d": null}',
    '{"a": 1, "x": 1, "s": "x", "p": false, "m": "1.255", "t": null, "d": null}',
    '{"a": 1, "x": 1, "s": "x", "p": false, "m": "1.250", "t": null, "d": null}',
    '{"a": 1, "x": 1, "s": "x", "p": false, "m": 0.30000000000000004, "t": null, "d": null}',
    '{"a": 1, "x": 1, "s": "x", "p": false, "m": "twelve", "t": null, "d": null}',
    '{"a": 1.0, "x": 1, "s": "x", "p": false, "m": 1, "t": null, "d": null}',
    '{"a": "1", "x": 1, "s": "x", "p": false, "m": 1, "t": null, "d": null}',
    '{"a": true, "x": 1, "s": "x", "p": false, "m": 1, "t": null, "d": null}',
    '{"a": 1, "x": "1", "s": "x", "p": false, "m": 1, "t": null, "d": null}',
    '{"a": 1, "x": 1, "s": 5, "p": false, "m": 1, "t": null, "d": null}',
    '{"a": 1, "x": 1, "s": "\\ud800", "p": false, "m": 1, "t": null, "d": null}',
    '{"a": 1, "x": 1, "s": "x", "p": 1, "m": 1, "t": null, "d": null}',
    '{"a": 1, "x": 1, "s": "x", "p": true, "m": 1, "t": 1710072000000000, "d": null}',
    '{"a": 1, "x": 1, "s": "x", "p": true, "m": 1, "t": "yesterday", "d": null}',
    '{"a": 1, "x": 1, "s": "x", "p": true, "m": 1, "t": "2024-02-30T00:00:00", "d": null}',
    '{"a": 1, "x": 1, "s": "x", "p": true, "m": 1, "t": null, "d": "2023-02-29"}',
    '{"a": 1, "x": 1, "s": "x", "p": true, "m": 1, "t": null}',
    '{"a": 1, "x": 1, "s": "x", "p": true, "m": 1, "t": null, "d": null, "more": 1}',
    '{"a": 1, "x": 1, "s": "x", "p": true, "m": 1, "t": "0001-01-01T00:00:00+01:00", "d": null}',
    '{"a": 1, "x": 1e400, "s": "x", "p": true, "m": 1, "t": "2024-03-10T12:00:00.1234567Z", "d": null}',
    "[1, 2]",
    "7",
]
"""Events as they may come over the wire; what is not JSON at all is refused by whoever reads JSON."""


def slot(reduction: Reduction, dtype: DType, by: DType | None = None) -> Slot:
    return Slot("p0", reduction, None, dtype, by)


def plain(value: Any) -> Any:
    """As JSON has it: unsigned words as the signed ones of the same bits, for Java has no others."""
    if isinstance(value, np.ndarray):
        return [plain(v) for v in value]
    if isinstance(value, np.uint64):
        return int(value.astype(np.int64))
    return value.item() if isinstance(value, np.generic) else value


def partial(reduction: Reduction, dtype: DType, values: list[Any]) -> dict[str, Any]:
    """The one partial of all values: of the `i`-th, which came at `i // 2`; what it goes by is `by_of`."""
    kind = {Int64: np.int64, Float64: np.float64, Bool: np.bool_, String: object}[dtype]  # type: ignore[index]
    x: Array = np.array(values, kind)
    times = np.arange(len(x)) // 2
    by = np.array(by_of(len(x)), np.int64)
    ranges = GatheredRanges(np.array([0]), np.array([len(x)]), len(x))
    made = reduce_events(slot(reduction, dtype, Int64), x, None, times, ranges, By(by, None))
    ends = made.pop("ends", None)
    made.pop("valid", None)
    return {name: plain(column) if ends is not None else plain(column[0]) for name, column in made.items()}


def by_of(count: int) -> list[int]:
    return [(i * 3) % 5 for i in range(count)]


def partials() -> list[dict[str, Any]]:
    """Function, type, arguments after the value, values and what comes out."""
    out: list[dict[str, Any]] = []

    def add(function: str, reduction: Reduction, dtype: DType, values: list[Any], *more: int) -> None:
        want = partial(reduction, dtype, values)
        out.append({"function": function, "type": repr(dtype), "more": more, "values": values, "want": want})

    add("SumInt", Sum(X), Int64, WHOLES)
    add("SumInt", Sum(X), Int64, [2**63 - 1] * 5)
    add("SumInt", Sum(X), Int64, [-(2**63)] * 5)
    for values in (DOUBLES[:4], [v for v in DOUBLES if abs(v) < 10]):
        add("SumDouble", Sum(X), Float64, values)
    for order in (2, 3, 4):
        for values in (CLOSE, DOUBLES, [3.5] * 7, [1.0]):
            add(f"Moments{order}", Moments(X, order), Float64, values)
    kinds: list[tuple[DType, list[Any]]] = [
        (Int64, WHOLES),
        (Float64, DOUBLES),
        (String, TEXTS),
        (Bool, TRUTHS),
    ]
    for dtype, values in kinds:
        add("First", First(X), dtype, values)
        add("Last", Last(X), dtype, values)
        add("MinBy", MinBy(X, BY), dtype, values)
        add("MaxBy", MaxBy(X, BY), dtype, values)
        add("Frequencies", Frequencies(X, 3), dtype, values, 4)
        add("Distinct", Distinct(X, 16), dtype, values, 17)
        for k in (1, 3):
            add("FirstK", FirstK(X, k), dtype, values, k)
            add("LastK", LastK(X, k), dtype, values, k)
            if dtype != String:
                add("Largest", Largest(X, k), dtype, values, k)
                add("Smallest", Smallest(X, k), dtype, values, k)
    add("Buckets", Buckets(X), Float64, DOUBLES, 2**31 - 1)
    return out


def words() -> dict[str, Any]:
    """Hashes and buckets of single values."""
    found: dict[str, Any] = {"hashes": [], "buckets": []}
    for kind, values in ((np.int64, WHOLES), (np.float64, DOUBLES), (np.bool_, TRUTHS), (object, TEXTS)):
        found["hashes"] += zip(values, plain(hashes(np.array(values, kind))), strict=True)
    doubles = [*DOUBLES, *(-x for x in DOUBLES), 1e300, 2.2250738585072014e-308]
    found["buckets"] = list(zip(doubles, plain(buckets(np.array(doubles))), strict=True))
    return found


def events() -> list[list[Any]]:
    """Payloads and the physical values of their columns, None for one that is refused."""
    return [[payload, read(payload)] for payload in PAYLOADS]


def avro() -> list[dict[str, Any]]:
    """For each way to write Avro what Java is told of it, and records with the values of their columns."""
    out = []
    for properties, schema, payloads in avro_cases():
        wire = location_of(Kafka("t", format="avro", properties=properties))
        form = format_of(wire, schema)
        text, number = schema_of(wire, schema)
        spec = {"columns": [[n, repr(t)] for n, t in schema.items()], "schema": text, "number": number}
        out.append({"spec": spec, "events": [[p.hex(), avro_values(p, form, schema)] for p in payloads]})
    return out


def avro_values(payload: bytes, form: Format, schema: dict[str, DType]) -> list[Any] | None:
    table, _, dead = events_of([payload], form, schema)
    return None if dead else physical_values(table, schema)


def read(payload: str) -> list[Any] | None:
    try:
        return physical_values(events_table([json.loads(payload)], SCHEMA), SCHEMA)
    except EventError:
        return None


def physical_values(table: Any, schema: dict[str, DType]) -> list[Any]:
    values: list[Any] = []
    for name, dtype in schema.items():
        column = table.column(name)
        if isinstance(dtype, ListType | VectorType):
            values.append(None if column[0].as_py() is None else True)
            continue
        column = (
            column.cast("int64") if dtype == Timestamp else column.cast("int32") if dtype == Date else column
        )
        value = column[0].as_py()
        if value is not None and isinstance(dtype, DecimalType):
            value = int(value.scaleb(dtype.scale))
        elif isinstance(value, float) and not math.isfinite(value):
            value = str(value)
        values.append(value)
    return values


def text() -> str:
    vectors = {
        "partials": partials(),
        **words(),
        "columns": [[name, repr(dtype)] for name, dtype in SCHEMA.items()],
        "events": events(),
        "avro": avro(),
    }
    return json.dumps(vectors, indent=1) + "\n"


if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(text())
