"""Whatever holds events, as one Arrow table of a source's columns: exact, or an error that names the row and the column.

A column converts whole where Arrow does it exactly; where it does not, value by value, and `_value` is the rule that both
follow. A value may change its clothes (an int32 to int64, ISO 8601 text to an instant), never itself.
"""

from __future__ import annotations

import datetime as dt
import decimal
import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import EventError, nearest
from featurestore.evaluate.arrow import arrow_type
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
    Scalar,
    String,
    Timestamp,
    VectorType,
)

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_BITS = {Int64: 63, Int32: 31}
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_EXACT = decimal.Context(prec=200)
_FLOAT_DIGITS = 15  # every decimal of so many comes back from a double as it was
_SHOWN = 5

# Python types that Arrow converts to a column type just as `_value` does, or refuses.
_PLAIN: dict[DType, frozenset[type]] = {
    String: frozenset({str}),
    Int64: frozenset({int}),
    Int32: frozenset({int}),
    Float64: frozenset({float}),
    Bool: frozenset({bool}),
    Timestamp: frozenset({dt.datetime}),
    Date: frozenset({dt.date}),
}


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that does not fit: its row in what was given (from 0), what is wrong, and the event as it came."""

    row: int
    column: str | None
    reason: str
    event: Mapping[str, Any]

    def __str__(self) -> str:
        column = "" if self.column is None else f", column '{self.column}'"
        return f"row {self.row}{column}: {self.reason}"


class _Refused(ValueError):
    """This value cannot be one of the column's type."""


def arrow_schema(schema: Mapping[str, DType]) -> pa.Schema:
    """The Arrow schema of a source's events, in declared order."""
    return pa.schema([(name, arrow_type(dtype)) for name, dtype in schema.items()])


def events_table(rows: Any, schema: Mapping[str, DType]) -> pa.Table:
    """Events as an Arrow table with exactly the columns of `schema`, in its order.

    `rows` is Arrow, a pandas or polars frame, anything with the Arrow C stream, or a sequence of mappings whose keys are
    the columns. Naive times are UTC, nanoseconds are floored to microseconds, whole numbers widen, ISO 8601 text is a time
    or a date; NaN stays NaN, but pandas' NaN is its NULL. A decimal comes from a decimal, a whole number, text, or, in a
    mapping, from a float of up to 15 digits; digits that do not fit are refused, never rounded.

    Raises EventError, naming column and row, if a column is missing, unknown or of another type, or a value does not fit.
    """
    table, dead = events_table_lenient(rows, schema)
    if dead:
        shown = [str(letter) for letter in dead[1:_SHOWN]]
        more = [f"and {len(dead) - _SHOWN} more"] if len(dead) > _SHOWN else []
        raise EventError("\n  ".join([str(dead[0]), *shown, *more]), row=dead[0].row, column=dead[0].column)
    return table


def events_table_lenient(rows: Any, schema: Mapping[str, DType]) -> tuple[pa.Table, list[DeadLetter]]:
    """`events_table` of the events that fit, in their order, and the others as dead letters by row.

    A frame or table whose very columns do not fit raises EventError: none of its events could be kept.
    """
    if isinstance(rows, Sequence) and not isinstance(rows, str | bytes):
        return _from_mappings(rows, schema)
    table, from_pandas = _as_table(rows)
    return conform(table, schema, loose=from_pandas)


def conform(
    table: pa.Table, schema: Mapping[str, DType], *, text: bool = False, loose: bool = False
) -> tuple[pa.Table, list[DeadLetter]]:
    """`events_table_lenient` of an Arrow table.

    `text`: values of any type may be written as text, as in CSV. `loose`: whole floats are whole numbers, as in pandas,
    where a column of whole numbers with a NULL is of floats.
    """
    wanted = arrow_schema(schema)
    if table.schema.equals(wanted):
        return table, []
    _check_names(table.column_names, schema)
    table = table.select(list(schema))
    columns: list[pa.ChunkedArray | pa.Array] = []
    bad: dict[int, tuple[str, str]] = {}
    for name, dtype in schema.items():
        column = _plain(table.column(name))
        if not _may_hold(column.type, dtype, text=text, loose=loose):
            raise EventError(
                f"column '{name}' is {column.type}, which is not {dtype!r}\n  {_works(dtype)}", column=name
            )
        columns.append(_converted(column, name, dtype, text, loose, bad))
    return _without_bad(pa.table(columns, schema=wanted), bad, list(range(table.num_rows)), _slices(table))


def _from_mappings(rows: Sequence[Any], schema: Mapping[str, DType]) -> tuple[pa.Table, list[DeadLetter]]:
    names = frozenset(schema)
    dead: list[DeadLetter] = []
    kept: list[int] = []
    for at, row in enumerate(rows):
        if isinstance(row, Mapping) and row.keys() == names:
            kept.append(at)
        else:
            dead.append(_misshapen(at, row, schema))
    whole = [rows[at] for at in kept]
    bad: dict[int, tuple[str, str]] = {}
    columns = [
        _from_values([row[name] for row in whole], name, dtype, text=False, loose=False, bad=bad)
        for name, dtype in schema.items()
    ]
    table, refused = _without_bad(
        pa.table(columns, schema=arrow_schema(schema)), bad, kept, whole.__getitem__
    )
    return table, sorted([*dead, *refused], key=lambda letter: letter.row)


def _misshapen(at: int, row: Any, schema: Mapping[str, DType]) -> DeadLetter:
    if not isinstance(row, Mapping):
        return DeadLetter(
            at, None, f"an event is a mapping of columns, not {type(row).__name__}", {"event": row}
        )
    missing = [name for name in schema if name not in row]
    if missing:
        given = [str(name) for name in row if name not in schema]
        near = [h for h in nearest(missing[0], given) if h.startswith("did")]
        hint = (
            f" ({near[0].replace('did you mean', 'it has')[:-1]})"
            if near
            else " (write null where there is none)"
        )
        return DeadLetter(at, missing[0], f"the column is missing{hint}", row)
    extra = next(name for name in row if name not in schema)
    return DeadLetter(at, str(extra), "the source has no such column", row)


def _check_names(given: Sequence[str], schema: Mapping[str, DType]) -> None:
    twice = next((name for name in given if given.count(name) > 1), None)
    if twice is not None:
        raise EventError(f"column '{twice}' is there twice", column=twice)
    for name in schema:
        if name not in given:
            near = [h for h in nearest(name, given) if h.startswith("did")]
            has = f"the events have {', '.join(given) or 'no column'}"
            raise EventError("\n  ".join([f"column '{name}' is missing", has, *near]), column=name)
    for name in given:
        if name not in schema:
            has = f"the source has {', '.join(schema)}"
            raise EventError(f"column '{name}' is not one of the source\n  {has}", column=name)


def _as_table(rows: Any) -> tuple[pa.Table, bool]:
    if isinstance(rows, pa.Table):
        return rows, False
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows]), False
    if type(rows).__module__.partition(".")[0] == "pandas":
        try:
            return pa.Table.from_pandas(rows, preserve_index=False), True
        except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError) as error:
            raise EventError(f"the pandas frame cannot be read: {error}") from error
    if hasattr(rows, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(rows).read_all(), False
    raise EventError(
        f"events cannot be a {type(rows).__name__}\n"
        "  give an Arrow table, a pandas or polars frame, or a list of dicts"
    )


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without the forms that only Arrow sees: dictionaries, views, extension types, nanoseconds."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if isinstance(kind, pa.UuidType):
        return pa.chunked_array(
            [pa.array([None if v is None else str(v) for v in column.to_pylist()], pa.string())]
        )
    if isinstance(kind, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type)
        kind = column.type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.string())
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        # A nanosecond past the microsecond is still before the next, so this is a floor.
        return pc.floor_temporal(column, unit="microsecond").cast(pa.timestamp("us", tz=kind.tz))
    return column


def _may_hold(kind: pa.DataType, dtype: DType, *, text: bool, loose: bool) -> bool:
    """Whether a column of this Arrow type can be one of `dtype`; single values may still not fit."""
    t = pa.types
    if t.is_null(kind) or (text and t.is_string(kind)):
        return True
    match dtype:
        case DecimalType():
            return bool(t.is_decimal(kind) or t.is_integer(kind) or t.is_string(kind))
        case ListType() | VectorType():
            lists = (t.is_list, t.is_large_list, t.is_fixed_size_list, t.is_list_view, t.is_large_list_view)
            item = dtype.item if isinstance(dtype, ListType) else Float32
            return any(is_(kind) for is_ in lists) and _may_hold(
                kind.value_type, item, text=False, loose=loose
            )
        case _ if dtype in (Int64, Int32):
            return bool(t.is_integer(kind) or (loose and t.is_floating(kind)))
        case _ if dtype == Float64:
            return bool(t.is_floating(kind) or t.is_integer(kind))
        case _ if dtype == Float32:
            return bool(
                (t.is_floating(kind) and kind.bit_width <= 32)
                or (t.is_integer(kind) and kind.bit_width <= 16)
            )
        case _ if dtype == String:
            return bool(t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind))
        case _ if dtype == Bool:
            return bool(t.is_boolean(kind))
        case _ if dtype == Timestamp:
            return bool(t.is_timestamp(kind) or t.is_date(kind) or t.is_string(kind))
        case _:
            assert dtype == Date
            return bool(t.is_date(kind) or t.is_string(kind))


def _works(dtype: DType) -> str:
    """What a column of this type can be made from, for a message."""
    match dtype:
        case DecimalType():
            return "give decimals, whole numbers or text: a column of floats does not say how many digits it means"
        case ListType():
            return f"give lists of {dtype.item!r}"
        case VectorType():
            return f"give lists of {dtype.size} float32"
        case MapType():
            return "a source holds no maps"
        case Scalar():
            return {
                Int64: "give whole numbers",
                Int32: "give whole numbers",
                Float64: "give numbers",
                Float32: "give float32: cast the column, so that the rounding is yours",
                String: "give text",
                Bool: "give booleans",
                Timestamp: "give timestamps or ISO 8601 text: the unit of a number is anybody's guess",
                Date: "give dates or ISO 8601 text",
            }[dtype]
        case _:
            assert_never(dtype)


def _converted(
    column: pa.ChunkedArray, name: str, dtype: DType, text: bool, loose: bool, bad: dict[int, tuple[str, str]]
) -> pa.ChunkedArray | pa.Array:
    wanted = arrow_type(dtype)
    if column.type.equals(wanted):
        return column
    try:
        quick = _cast(column, dtype, wanted)
    except pa.ArrowInvalid:
        quick = None
    if quick is not None:
        return quick
    return _from_values(column.to_pylist(), name, dtype, text=text, loose=loose, bad=bad)


def _cast(column: pa.ChunkedArray, dtype: DType, wanted: pa.DataType) -> pa.ChunkedArray | None:
    """The column cast whole where that is exact; None where only `_value` knows."""
    kind = column.type
    if pa.types.is_string(kind):
        if dtype == Timestamp:
            return _instants(column)
        if dtype in (Int64, Int32):
            plain = pc.all(pc.match_substring_regex(column, r"^-?[0-9]+$")).as_py()
            return None if plain is False else column.cast(wanted)
        return column.cast(wanted) if dtype in (Float64, Date) else None
    if isinstance(dtype, DecimalType) and pa.types.is_integer(kind):
        return None if dtype.scale > 18 else column.cast(pa.decimal128(38, dtype.scale)).cast(wanted)
    if dtype in (Int64, Int32) and pa.types.is_floating(kind):
        return None if pc.any(pc.is_nan(column)).as_py() else column.cast(wanted)
    if pa.types.is_date(kind) and dtype == Timestamp:
        return column.cast(pa.timestamp("us")).cast(wanted)
    return column.cast(wanted)


def _instants(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Texts as instants; those without Z or an offset are UTC. Raises ArrowInvalid if one is not plain ISO 8601."""
    zoned = pc.match_substring_regex(column, r"(Z|[+-]\d\d:?\d\d)$")
    aware = pc.if_else(zoned, column, pc.binary_join_element_wise(column, pa.scalar("Z"), ""))
    return aware.cast(pa.timestamp("us", tz="UTC"))


def _from_values(
    values: list[Any], name: str, dtype: DType, *, text: bool, loose: bool, bad: dict[int, tuple[str, str]]
) -> pa.Array:
    """A column of Python values. What does not fit is NULL, and in `bad` by row, unless that row is there already."""
    wanted = arrow_type(dtype)
    kinds = set(map(type, values)) - {type(None)}
    try:
        if kinds <= _PLAIN.get(dtype, frozenset()):
            return pa.array(values, wanted)
        if dtype == Timestamp and kinds == {str}:
            return _instants(pa.array(values, pa.string()))
    except (pa.ArrowException, OverflowError, UnicodeError, ValueError):
        pass  # one of them does not fit: which one, the loop below says
    out: list[Any] = []
    for row, value in enumerate(values):
        try:
            out.append(None if value is None else _value(value, dtype, text=text, loose=loose))
        except _Refused as refused:
            bad.setdefault(row, (name, str(refused)))
            out.append(None)
    return pa.array(out, wanted)


def _value(value: Any, dtype: DType, *, text: bool, loose: bool) -> Any:
    """One value as Arrow takes it for `dtype`, or _Refused. `value` is not None."""
    if isinstance(value, np.generic):
        value = value.astype("datetime64[us]").item() if isinstance(value, np.datetime64) else value.item()
    written = isinstance(value, str)
    if written and text and dtype not in (String, Timestamp, Date) and not isinstance(dtype, DecimalType):
        value = _from_text(value, dtype)
    match dtype:
        case DecimalType():
            return _decimal(value, dtype)
        case ListType():
            return [
                None if v is None else _value(v, dtype.item, text=False, loose=loose)
                for v in _items(value, dtype)
            ]
        case VectorType():
            items = _items(value, dtype)
            if len(items) != dtype.size:
                raise _Refused(f"a list of {len(items)}, and {dtype!r} has {dtype.size}")
            return [None if v is None else _value(v, Float32, text=False, loose=loose) for v in items]
        case MapType():
            raise _Refused("a source holds no maps")
        case Scalar():
            return _scalar(value, dtype, loose=loose)
        case _:
            assert_never(dtype)


def _scalar(value: Any, dtype: Scalar, *, loose: bool) -> Any:
    if dtype in _BITS:
        if loose and isinstance(value, float):
            if math.isnan(value):
                return None
            value = int(value) if value.is_integer() else value
        if not isinstance(value, int) or isinstance(value, bool):
            raise _refused(value, dtype)
        if not -(1 << _BITS[dtype]) <= value < 1 << _BITS[dtype]:
            raise _Refused(f"{value} is outside {dtype!r}")
        return value
    if dtype in (Float64, Float32):
        return _float(value, dtype)
    if dtype == Bool:
        if not isinstance(value, bool):
            raise _refused(value, dtype)
        return value
    if dtype == String:
        if isinstance(value, uuid.UUID):
            return str(value)
        if not isinstance(value, str):
            raise _refused(value, dtype)
        try:
            value.encode()
        except UnicodeError as error:
            raise _Refused(f"{_shown(value)} is not valid text") from error
        return value
    if dtype == Timestamp:
        return _instant(value)
    assert dtype == Date
    if isinstance(value, str):
        try:
            return dt.date.fromisoformat(value)
        except ValueError as error:
            raise _refused(value, dtype) from error
    if not isinstance(value, dt.date) or isinstance(value, dt.datetime):
        raise _refused(value, dtype)
    return value


def _float(value: Any, dtype: Scalar) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _refused(value, dtype)
    if isinstance(value, int):
        if abs(value) > 1 << 53:
            raise _Refused(f"{value} has more digits than {dtype!r}")
        return float(value)
    if dtype == Float32 and math.isfinite(value) and abs(value) > _FLOAT32_MAX:
        raise _Refused(f"{value} is outside {dtype!r}")
    return float(value)


def _instant(value: Any) -> dt.datetime:
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError as error:
            raise _refused(value, Timestamp) from error
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        value = dt.datetime(value.year, value.month, value.day)  # noqa: DTZ001 (naive is UTC, below)
    if not isinstance(value, dt.datetime) or value != value:  # noqa: PLR0124 (NaT)
        raise _refused(value, Timestamp)
    aware = value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value
    try:
        # By way of the difference: an instant of the year 10000 in UTC has no datetime of its own.
        return _EPOCH + dt.timedelta(microseconds=(aware - _EPOCH) // dt.timedelta(microseconds=1))
    except OverflowError as error:
        raise _Refused(f"{value} is outside the years 1 to 9999") from error


def _decimal(value: Any, dtype: DecimalType) -> decimal.Decimal:
    if isinstance(value, bool) or not isinstance(value, decimal.Decimal | int | float | str):
        raise _refused(value, dtype)
    try:
        number = decimal.Decimal(repr(value) if isinstance(value, float) else value)
    except decimal.InvalidOperation as error:
        raise _refused(value, dtype) from error
    if not number.is_finite():
        raise _refused(value, dtype)
    if isinstance(value, float) and len(number.as_tuple().digits) > _FLOAT_DIGITS:
        raise _Refused(f"{value} is a float of more digits than it can vouch for: write the decimal as text")
    if number.adjusted() >= dtype.precision - dtype.scale and number:
        raise _Refused(f"{_shown(value)} has too many digits before the point for {dtype!r}")
    scaled = number.quantize(decimal.Decimal(1).scaleb(-dtype.scale), context=_EXACT)
    if scaled != number:
        raise _Refused(f"{_shown(value)} has more than {dtype.scale} digits after the point")
    return scaled


def _items(value: Any, dtype: DType) -> Sequence[Any]:
    if isinstance(value, np.ndarray):
        return list(value)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise _refused(value, dtype)
    return value


def _from_text(value: str, dtype: DType) -> Any:
    try:
        if "_" in value or value != value.strip():
            raise _refused(value, dtype)
        if dtype in _BITS:
            return int(value)
        if dtype in (Float64, Float32):
            return float(value)
        if dtype == Bool:
            return {"true": True, "false": False}[value.lower()]
    except (ValueError, KeyError) as error:
        raise _refused(value, dtype) from error
    raise _refused(value, dtype)


def _refused(value: Any, dtype: DType) -> _Refused:
    return _Refused(f"{_shown(value)} is not {dtype!r}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _without_bad(
    table: pa.Table, bad: Mapping[int, tuple[str, str]], rows: Sequence[int], event: Any
) -> tuple[pa.Table, list[DeadLetter]]:
    """The rows that fit; `rows` are their numbers in what was given, `event(i)` the row as it came."""
    if not bad:
        return table, []
    dead = [DeadLetter(rows[i], *bad[i], event(i)) for i in sorted(bad)]
    keep = np.ones(table.num_rows, np.bool_)
    keep[list(bad)] = False
    return table.filter(pa.array(keep)), dead


def _slices(table: pa.Table) -> Any:
    def event(row: int) -> Mapping[str, Any]:
        return dict(table.slice(row, 1).to_pylist()[0])

    return event


def tables(parts: Iterable[pa.Table], schema: Mapping[str, DType]) -> pa.Table:
    """The parts one after the other, each column in one piece; an empty table of `schema` for none."""
    return pa.concat_tables([arrow_schema(schema).empty_table(), *parts]).combine_chunks()
