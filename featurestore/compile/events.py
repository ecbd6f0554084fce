"""The events of a view as one SELECT: what tiles, training joins and materialisation all read from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from featurestore.compile.duckdb import DUCKDB
from featurestore.compile.erased import erased_sql
from featurestore.compile.sources import Connection, source_sql
from featurestore.compile.sql import expr_sql, ident
from featurestore.expr import Expr, columns_of, infer
from featurestore.expr.literals import MAX_TIMESTAMP, MIN_TIMESTAMP
from featurestore.ir import Source, View
from featurestore.types import (
    Bool,
    Date,
    DecimalType,
    DType,
    Float32,
    Float64,
    ListType,
    String,
    Timestamp,
    VectorType,
)


@dataclass
class EventColumns:
    """Columns to select of a view's events: equal expressions share one. Values come out physical, decimals as such."""

    view: View
    prefix: str = "x"
    names: dict[Expr, str] = field(default_factory=dict)

    def add(self, node: Expr) -> str:
        """The name under which the value of `node` is selected."""
        return self.names.setdefault(node, f"{self.prefix}{len(self.names)}")

    def dtype(self, node: Expr) -> DType:
        return infer(node, self.view.source.schema)

    def select(self) -> list[str]:
        return [f"{physical_sql(node, self.view)} AS {name}" for node, name in self.names.items()]


def physical_sql(node: Expr, view: View) -> str:
    """An expression over the source's columns, instants and dates as whole numbers."""
    schema = view.source.schema
    text = expr_sql(node, schema, DUCKDB)
    dtype = infer(node, schema)
    if dtype == Timestamp:
        return f"epoch_us({text})"
    return f"({text} - DATE '1970-01-01')::INTEGER" if dtype == Date else text


def key_names(view: View) -> list[str]:
    """The names of the key columns in the SELECT of `events_sql`."""
    return [f"k{i}" for i in range(len(view.keys))]


def order_names(view: View) -> list[str]:
    """The names of the columns that break ties, in order."""
    return [f"o{i}" for i in range(len(view.order))]


def order_row(view: View, names: Sequence[str], time: str | None) -> str:
    """A ROW that compares as the order of events does. NULL is least, said by a flag before each column."""
    parts = [time] if time is not None else []
    for name in names:
        parts += [f"{name} IS NOT NULL", name]
    return f"ROW({', '.join(parts)})"


def order_text(view: View) -> str:
    """The place of an event among those of its time, for whoever meets the others later.

    It is a text that sorts, by its UTF-8 bytes, as the columns that break ties do.
    """
    schema = view.source.schema
    parts = {c: _sorting_text(name, schema[c]) for name, c in zip(order_names(view), view.order, strict=True)}
    event_id = view.source.event_id
    if event_id is not None:  # what comes after an id decides nothing, unless there is none
        at = view.order.index(event_id) + 1
        after = ", ".join(parts[c] for c in view.order[at:])
        parts = {c: parts[c] for c in view.order[:at]}
        if after:
            parts[""] = f"CASE WHEN {order_names(view)[at - 1]} IS NULL THEN concat({after}) ELSE '' END"
    return f"concat({', '.join(parts.values())})" if parts else "''"


def _sorting_text(x: str, dtype: DType) -> str:
    """`0` for NULL, else `1` and a text that is no prefix of another's and sorts as values of this type do."""
    return f"CASE WHEN {x} IS NULL THEN '0' ELSE '1' || {_value_text(x, dtype)} END"


def _value_text(x: str, dtype: DType) -> str:
    match dtype:
        case DecimalType(scale=scale):
            return _number_text(f"CAST(CAST({x} AS DECIMAL(38, {scale})) * {10**scale} AS HUGEINT)")
        case ListType(item=item):
            return _list_text(x, item)
        case VectorType():
            return _list_text(f"{x}::FLOAT[]", Float32)
        case _ if dtype == Bool:
            return f"CAST({x} AS TINYINT)::VARCHAR"
        case _ if dtype == String:
            # The end is less than any character: those that are as low are moved up behind it.
            low = f"replace({x}, chr(1), chr(1) || chr(3))"
            return f"replace({low}, chr(0), chr(1) || chr(2)) || chr(1) || chr(1)"
        case _ if dtype == Timestamp:
            return _number_text(f"epoch_us({x})::HUGEINT")
        case _ if dtype == Date:
            return _number_text(f"({x} - DATE '1970-01-01')::HUGEINT")
        case _ if dtype in (Float64, Float32):
            return _double_text(f"CAST({x} AS DOUBLE)")
        case _:
            return _number_text(f"CAST({x} AS HUGEINT)")


def _list_text(x: str, item: DType) -> str:
    """A shorter list is less than one that goes on; among items NaN is more than any number, and NULL more still."""
    nan = "WHEN isnan(i) THEN '12' " if item in (Float64, Float32) else ""
    one = f"CASE WHEN i IS NULL THEN '13' {nan}ELSE '11' || {_value_text('i', item)} END"
    return f"concat(array_to_string(list_transform({x}, lambda i: {one}), ''), '0')"


def _number_text(x: str) -> str:
    return f"lpad(({x} + 9223372036854775808)::VARCHAR, 20, '0')"


def _double_text(x: str) -> str:
    """The bits of a double: turned round below zero, else with the first one set, they sort as the numbers do."""
    bits = f"CAST({x} AS BIT)"
    return f"CASE WHEN {x} < 0 THEN (~{bits})::VARCHAR ELSE set_bit({bits}, 0, 1)::VARCHAR END"


def order_by(names: Iterable[str]) -> list[str]:
    """Sort keys for the columns that break ties."""
    return [f"{name} NULLS FIRST" for name in names]


def events_sql(
    con: Connection,
    view: View,
    root: Path,
    columns: EventColumns,
    *,
    ordered: bool,
    copies: bool = False,
    start: int | None = None,
    end: int | None = None,
    known: int | None = None,
) -> str:
    """SELECT of key columns `k0…`, event time `t` (absent for a static source), the wanted columns, and tie-breakers.

    Events without a time of the years 1 to 9999, or with a NULL part of the key are left out, as are those the view's filter
    does not keep, those of erased entities, and (unless `copies`) all but one of the copies of an event. `start` and `end`
    bound event time, end exclusive; `known` leaves out what had not arrived by then. `ordered` adds `o0…`.
    """
    source = view.source
    wanted = set(view.reads).union(*map(columns_of, columns.names))
    roles = [c for c in (source.event_time, source.event_id) if c is not None]
    wanted.update(roles)
    if ordered or source.event_id:
        wanted.update(view.order)
    if source.event_id and source.arrival_time:
        wanted.add(source.arrival_time)
    if known is not None and source.arrival_time:
        wanted.add(source.arrival_time)
    src = source_sql(con, source, sorted(wanted), root)
    keys = [f"{expr_sql(k.value, source.schema, DUCKDB)} AS k{i}" for i, k in enumerate(view.keys)]
    time = [f"epoch_us({ident(source.event_time, DUCKDB)}) AS t"] if source.event_time is not None else []
    ties = [f"{ident(c, DUCKDB)} AS o{i}" for i, c in enumerate(view.order)] if ordered else []
    where = [f"{expr_sql(k.value, source.schema, DUCKDB)} IS NOT NULL" for k in view.keys]
    if source.event_time is not None:
        at = ident(source.event_time, DUCKDB)
        where.append(f"{at} BETWEEN make_timestamp({MIN_TIMESTAMP}) AND make_timestamp({MAX_TIMESTAMP})")
        where += [f"{at} >= make_timestamp({start})"] if start is not None else []
        where += [f"{at} < make_timestamp({end})"] if end is not None else []
        where += [known_sql(source, known)] if known is not None else []
    if view.filter is not None:
        where.append(expr_sql(view.filter, source.schema, DUCKDB))
    if view.erased is not None:
        where.append(f"NOT {erased_sql(con, view, view.erased)}")
    once = f" QUALIFY {_first_copy(view)}" if source.event_id is not None and not copies else ""
    select = ", ".join([*keys, *time, *columns.select(), *ties])
    return f"SELECT {select} FROM ({src}) WHERE {' AND '.join(f'({w})' for w in where)}{once}"


def known_sql(source: Source, known: int) -> str:
    """Whether an event had happened before a moment, and had arrived by then."""
    assert source.event_time is not None
    at = ident(source.event_time, DUCKDB)
    happened = f"{at} < make_timestamp({known})"
    if source.arrival_time is None:
        return happened
    arrived = f"coalesce({ident(source.arrival_time, DUCKDB)}, {at})"
    return f"{happened} AND {arrived} <= make_timestamp({known})"


def _first_copy(view: View) -> str:
    """Copies of an event share key, time and id; the one that arrived first stays, or the least when no arrival is known.

    An event without an id is nobody's copy.
    """
    source = view.source
    assert source.event_id is not None
    same = [expr_sql(k.value, source.schema, DUCKDB) for k in view.keys]
    same += [ident(c, DUCKDB) for c in (source.event_time, source.event_id) if c is not None]
    by = order_by(ident(c, DUCKDB) for c in view.copy_order)
    first = f"row_number() OVER (PARTITION BY {', '.join(same)} ORDER BY {', '.join(by)}) = 1"
    return f"{ident(source.event_id, DUCKDB)} IS NULL OR {first}"
