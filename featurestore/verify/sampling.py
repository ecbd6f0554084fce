"""Which entities a verification asks about, and their events: real ones, drawn from the view's source by a seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurestore.compile.duckdb import DUCKDB, type_name
from featurestore.compile.reference import Event
from featurestore.compile.sources import Connection, location_sql, source_sql
from featurestore.compile.sql import clean_sql, expr_sql, ident, quoted
from featurestore.errors import Unsupported
from featurestore.evaluate.arrow import to_physical
from featurestore.ir import View
from featurestore.types import Date, DecimalType, ListType, Timestamp, VectorType
from featurestore.verify.engines import Key, used

EVENTS = 150
"""Events taken of one entity, at most: a stretch without gaps."""

ODD = 2
"""Entities taken for each thing that sets them apart."""


@dataclass(frozen=True)
class Sample:
    """Entities and their events, as raw physical values. `shortened` entities have more events than were taken."""

    keys: tuple[Key, ...]
    events: tuple[Event, ...]
    shortened: int


def draw(con: Connection, view: View, root: Path, size: int, seed: int) -> Sample:
    """`size` entities drawn by the hash of their key, and besides the busiest, the sparsest, and those with events at one
    moment, NULLs and copies; with their events, also those that the view's filter leaves out.

    The same rows and seed give the same sample. No entity at all gives an empty one. Raises SourceError when the source is
    gone or no longer what the plan says.
    """
    source, columns = view.source, used(view)
    schema = source.schema
    for name in columns:
        if isinstance(schema[name], ListType | VectorType):
            raise Unsupported(
                "verification", f"sample view '{view.name}': column '{name}' is {schema[name]}", "columns of single values"
            )
    source_sql(con, source, columns, root)  # raises what is wrong with the source
    keys = [f"k{i}" for i in range(len(view.keys))]
    by_key = ", ".join(keys)
    key_text = f"concat_ws(chr(31), {', '.join(f'CAST({k} AS VARCHAR)' for k in keys)})"
    con.execute(f"CREATE OR REPLACE TEMP VIEW sampled_rows AS {_rows(con, view, columns, root)}")  # noqa: S608
    con.execute(f"CREATE OR REPLACE TEMP TABLE sampled_keys AS {_keys(view, keys, key_text, size, seed)}")  # noqa: S608
    raw = [f"r{i}" for i in range(len(columns))]
    ties = f"count(*) OVER (PARTITION BY {by_key}, t) > 1 OR " if source.event_time is not None else ""
    order = ", ".join(["t", *raw] if source.event_time is not None else raw)
    rows = con.sql(
        f"""
        WITH mine AS (
            SELECT s.*, {ties}{_any_null(columns)} AS odd,
                   row_number() OVER (PARTITION BY {by_key} ORDER BY {order}) AS number,
                   count(*) OVER (PARTITION BY {by_key}) AS many
            FROM sampled_rows s SEMI JOIN sampled_keys USING ({by_key})
        ), centres AS (
            SELECT {by_key}, coalesce(arg_min(number, draw) FILTER (WHERE odd), arg_min(number, draw)) AS centre
            FROM (SELECT *, md5(concat({seed}, number, chr(31), {key_text})) AS draw FROM mine) GROUP BY ALL
        )
        SELECT {by_key}, many, {", ".join(raw)}
        FROM mine JOIN centres USING ({by_key})
        WHERE number > greatest(0, least(centre - {EVENTS // 2}, many - {EVENTS}))
          AND number <= greatest(0, least(centre - {EVENTS // 2}, many - {EVENTS})) + {EVENTS}
        ORDER BY md5(concat({seed}, chr(31), {key_text}, chr(31), number))
        """  # noqa: S608
    ).to_arrow_table()
    found: dict[Key, int] = {}
    for row in rows.select([*keys, "many"]).to_pylist():
        found[tuple(row[k] for k in keys)] = row["many"]
    values = {name: _physical(rows.column(r), schema[name]) for name, r in zip(columns, raw, strict=True)}
    events = tuple(dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True))
    return Sample(tuple(sorted(found, key=repr)), events, sum(many > EVENTS for many in found.values()))


def _rows(con: Connection, view: View, columns: list[str], root: Path) -> str:
    """The source's rows that have a whole key and a time: `k0…`, `t`, and the raw columns in their types as `r0…`."""
    source = view.source
    schema = source.schema
    raw = [f"CAST({ident(c, DUCKDB)} AS {type_name(schema[c])}) AS r{i}" for i, c in enumerate(columns)]
    clean = [f"{clean_sql(f'r{i}', schema[c], DUCKDB)} AS {ident(c, DUCKDB)}" for i, c in enumerate(columns)]
    keys = [f"{expr_sql(k.value, schema, DUCKDB)} AS k{i}" for i, k in enumerate(view.keys)]
    time = [] if source.event_time is None else [f"epoch_us({ident(source.event_time, DUCKDB)}) AS t"]
    whole = [f"k{i} IS NOT NULL" for i in range(len(keys))] + ["t IS NOT NULL"] * len(time)
    inner = f"SELECT {', '.join(raw)} FROM {location_sql(con, source.location, root)}"
    cleaned = f"SELECT *, {', '.join(clean)} FROM ({inner})"
    named = ", ".join(f"r{i}" for i in range(len(columns)))
    return f"SELECT * FROM (SELECT {', '.join([*keys, *time])}, {named} FROM ({cleaned})) WHERE {' AND '.join(whole)}"


def _keys(view: View, keys: list[str], key_text: str, size: int, seed: int) -> str:
    """The keys to take."""
    source = view.source
    by_key = ", ".join(keys)
    facts = ["count(*) AS many", f"count(*) FILTER (WHERE {_any_null(used(view))}) AS nulls"]
    wanted = ["draw", f"{_far('many')}, draw", "many, draw", f"{_far('nulls')}, draw"]
    if source.event_time is not None:
        facts.append("count(*) - count(DISTINCT t) AS ties")
        wanted.append(f"{_far('ties')}, draw")
    if source.event_id is not None:
        number = used(view).index(source.event_id)
        at = "t, " if source.event_time is not None else ""
        facts.append(f"count(*) - count(DISTINCT ({at}r{number})) AS copies")
        wanted.append(f"{_far('copies')}, draw")
    facts.append(f"md5(concat({quoted(str(seed))}, chr(31), {key_text})) AS draw")
    picks = [
        f"(SELECT {by_key} FROM facts ORDER BY {order} LIMIT {size if number == 0 else ODD})"
        for number, order in enumerate(wanted)
    ]
    return f"WITH facts AS (SELECT {by_key}, {', '.join(facts)} FROM sampled_rows GROUP BY ALL) {' UNION '.join(picks)}"


def _far(name: str) -> str:
    return f"{name} DESC"


def _any_null(columns: list[str]) -> str:
    return "(" + " OR ".join(f"r{i} IS NULL" for i in range(len(columns))) + ")"


def _physical(column: Any, dtype: Any) -> list[Any]:
    """Raw values as the reference takes them: floats may be NaN or infinite."""
    if dtype in (Timestamp, Date) or isinstance(dtype, DecimalType):
        values, valid = to_physical(column, dtype)
        return [v if valid is None or valid[i] else None for i, v in enumerate(values.tolist())]
    return list(column.to_pylist())

