"""Events as the bytes of a record, in each format: what is written is read, and what is no event is said to be none."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import struct
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore import declare as d
from featurestore.errors import ConfigError, EventError, Unsupported
from featurestore.log.events import events_table
from featurestore.log.payloads import Format, events_of, format_of, payloads_of
from featurestore.lower import location_of
from featurestore.types import Decimal, DType, Int32
from tests.flink_avro import GIVEN, MORE, ONE, avro_cases
from tests.flink_columns import SCHEMA


def format(kind: Any, schema: dict[str, DType] = MORE, **properties: str) -> Format:
    named = {name.replace("_", "."): value for name, value in properties.items()}
    return format_of(location_of(d.Kafka("t", format=kind, properties=named)), schema)


FLOATS = st.floats(width=32) | st.just(-0.0)
VALUES = {
    "a": st.integers(-(2**63), 2**63 - 1), "x": st.floats() , "s": st.text(), "p": st.booleans(),
    "m": st.decimals(-(10**9), 10**9, places=2), "t": st.datetimes(timezones=st.just(dt.UTC)), "d": st.dates(),
    "i": st.integers(-(2**31), 2**31 - 1), "f": FLOATS, "l": st.lists(st.none() | st.integers(-9, 9)),
    "v": st.lists(FLOATS, min_size=2, max_size=2),
}  # fmt: skip
EVENTS = st.lists(
    st.fixed_dictionaries({name: st.none() | values for name, values in VALUES.items()}), max_size=4
)


@pytest.mark.parametrize("kind", ["json", "avro", "framed"])
@given(events=EVENTS)
def test_what_is_written_is_read_again(kind: str, events: list[dict[str, Any]]) -> None:
    form = format("avro", avro_schema_id="7") if kind == "framed" else format(kind)
    table = events_table(events, MORE)
    payloads = payloads_of(table, form)
    read, rows, dead = events_of(payloads, form, MORE)
    assert dead == []
    assert rows == list(range(len(events)))
    assert json.dumps(read.to_pylist(), default=str) == json.dumps(
        table.to_pylist(), default=str
    )  # NaN is NaN


@pytest.mark.parametrize("kind", ["json", "avro"])
@given(payload=st.binary(max_size=60))
def test_any_bytes_are_an_event_or_a_dead_letter(kind: str, payload: bytes) -> None:
    table, rows, dead = events_of([payload], format(kind), MORE)
    assert len(table) + len(dead) == 1
    assert len(rows) == len(table)


@given(st.data())
def test_a_record_with_a_few_other_bytes_is_one_or_none(data: st.DataObject) -> None:
    form = format("avro")
    payload = bytearray(form.write(ONE))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    table, _, dead = events_of([bytes(payload)], form, MORE)
    assert len(table) + len(dead) == 1


def test_bad_ones_lie_among_good_ones_where_they_were() -> None:
    form = format("json", SCHEMA)
    good = form.write(ONE)
    table, rows, dead = events_of(
        [b"{", good, b"[]", good, b"[" * 100_000, b'{"a": 1' + b"0" * 5000 + b"}"], form, SCHEMA
    )
    assert (len(table), rows, [letter.row for letter in dead]) == (2, [1, 3], [0, 2, 4, 5])
    assert dead[0].reason.startswith("not JSON")
    assert dead[0].event == {"payload": "{"}


def test_a_topic_may_have_a_schema_of_its_own() -> None:
    *_, (properties, schema, payloads) = avro_cases()
    form = format("avro", schema, avro_schema=properties["avro.schema"])
    table, _, _ = events_of(payloads[:1], form, schema)
    assert table.to_pylist()[0]["s"] == "A"


def test_a_schema_that_would_change_a_value_refuses_the_event() -> None:
    schema: dict[str, DType] = {"a": Int32, "m": Decimal(12, 2)}
    said = {"type": "record", "name": "R", "fields": [
        {"name": "a", "type": "float"}, {"name": "m", "type": ["null", "double"]}, {"name": "z", "type": "int", "default": 3},
    ]}  # fmt: skip
    form = format("avro", schema, avro_schema=json.dumps(said))
    row = {"a": 5, "m": None}
    assert events_of([form.write(row)], form, schema)[2][0].reason == "5.0 is not Int32"
    with pytest.raises(EventError, match=r"column 'a': 'avro\.schema' makes 16777216\.0 of 16777217"):
        form.write({**row, "a": 2**24 + 1})
    with pytest.raises(EventError, match=r"does not fit 'avro\.schema'"):
        form.write({**row, "a": None})


def test_a_record_of_another_schema_is_no_event() -> None:
    form = format("avro", avro_schema_id="70000")
    payload = form.write(ONE)
    assert payload[:5] == struct.pack(">bI", 0, 70000)
    other = struct.pack(">bI", 0, 8) + payload[5:]
    reasons = [letter.reason for letter in events_of([other, payload[5:], payload], form, MORE)[2]]
    assert reasons == [
        "not Avro: it is of schema 8, and those of this topic are of 70000",
        "not Avro: no number of a schema comes before the record",
    ]


@pytest.mark.parametrize(
    ("properties", "schema", "error", "message"),
    [
        ({"schema_registry_url": "x"}, SCHEMA, Unsupported, r"ask a schema registry\n  what works: properties="),
        ({"avro_schema_id": "one"}, SCHEMA, ConfigError, "'avro.schema.id' is 'one'"),
        ({"avro_schema": "{"}, SCHEMA, ConfigError, "is no Avro schema of a record"),
        ({"avro_schema": '{"type": "record", "name": "R", "fields": [{"name": "i"}]}'}, {"i": Int32}, ConfigError, "no Avro"),
        ({"avro_schema": '{"type": "enum", "fields": []}'}, SCHEMA, ConfigError, "of a enum"),
        ({"avro_schema": json.dumps(GIVEN)}, MORE, ConfigError, "has no field for column 'i'"),
        ({}, {"a b": Int32}, Unsupported, "hold a column 'a b' as Avro"),
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_is_refused(
    properties: dict[str, str], schema: dict[str, DType], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        format("avro", schema, **properties)


def test_a_time_that_no_text_can_say_is_refused() -> None:
    table = pa.table({"t": pa.array([2**62], pa.timestamp("us", "UTC"))})
    with pytest.raises(EventError, match="outside the years 1 to 9999"):
        payloads_of(table, format("json", {"t": SCHEMA["t"]}))


def test_a_decimal_keeps_its_digits() -> None:
    for kind in ("json", "avro"):
        form = format(kind, {"m": Decimal(18, 4)})
        one = {"m": decimal.Decimal("-99999999999999.9999")}
        assert events_of([form.write(one)], form, {"m": Decimal(18, 4)})[0].to_pylist() == [one]
