"""SQL that draws entities and their events from a source by a seed: the same rows and seed give the same sample."""

from __future__ import annotations

from pathlib import Path

from featurestore.compile.duckdb import DUCKDB, type_name
from featurestore.compile.events import key_names
from featurestore.compile.sources import Connection, location_sql
from featurestore.compile.sql import clean_sql, expr_sql, ident
from featurestore.ir import View

ODD = 2
"""Entities taken for each thing that sets them apart."""


def used(view: View) -> list[str]:
    """The columns of its source that can decide a value of the view, in the source's order."""
    source = view.source
    roles = {source.event_time, source.event_id, source.arrival_time, *view.order, *view.copy_order}
    return [name for name, _ in source.columns if name in view.reads | roles]


def raw_names(view: View) -> list[str]:
    """The names under which the used columns are selected as they lie in the source."""
    return [f"r{i}" for i in range(len(used(view)))]


def sampled_rows_sql(con: Connection, view: View, root: Path) -> str:
    """The source's rows that have a whole key and a time: `k0…`, `t`, and the used columns in their types as `r0…`."""
    source, columns = view.source, used(view)
    schema = source.schema
    raw = [
        f"CAST({ident(c, DUCKDB)} AS {type_name(schema[c])}) AS {r}"
        for r, c in zip(raw_names(view), columns, strict=True)
    ]
    clean = [
        f"{clean_sql(r, schema[c], DUCKDB)} AS {ident(c, DUCKDB)}"
        for r, c in zip(raw_names(view), columns, strict=True)
    ]
    keys = [f"{expr_sql(k.value, schema, DUCKDB)} AS k{i}" for i, k in enumerate(view.keys)]
    time = [] if source.event_time is None else [f"epoch_us({ident(source.event_time, DUCKDB)}) AS t"]
    whole = [f"{name} IS NOT NULL" for name in [*key_names(view), *("t" for _ in time)]]
    inner = f"SELECT {', '.join(raw)} FROM {location_sql(con, source.location, root)}"
    named = ", ".join([*keys, *time, *raw_names(view)])
    return f"SELECT * FROM (SELECT {named} FROM (SELECT *, {', '.join(clean)} FROM ({inner}))) WHERE {' AND '.join(whole)}"


def sampled_keys_sql(view: View, size: int, seed: int) -> str:
    """Keys of `sampled_rows`: `size` by the hash of the key, and some for each thing that sets them apart."""
    source = view.source
    by_key = ", ".join(key_names(view))
    facts = ["count(*) AS many", f"count(*) FILTER (WHERE {_any_null(view)}) AS nulls"]
    wanted = ["draw", "many DESC, draw", "many, draw", "nulls DESC, draw"]
    if source.event_time is not None:
        facts.append("count(*) - count(DISTINCT t) AS ties")
        wanted.append("ties DESC, draw")
    if source.event_id is not None:
        event_id = raw_names(view)[used(view).index(source.event_id)]
        at = "t, " if source.event_time is not None else ""
        facts.append(f"count(*) - count(DISTINCT ({at}{event_id})) AS copies")
        wanted.append("copies DESC, draw")
    facts.append(f"md5(concat({seed}, chr(31), {_key_text(view)})) AS draw")
    picks = [
        f"(SELECT {by_key} FROM facts ORDER BY {order} LIMIT {ODD if number else size})"
        for number, order in enumerate(wanted)
    ]
    return f"WITH facts AS (SELECT {by_key}, {', '.join(facts)} FROM sampled_rows GROUP BY ALL) {' UNION '.join(picks)}"


def sampled_events_sql(view: View, events: int, seed: int) -> str:
    """The events of `sampled_keys`, in no order that means anything: of each key a stretch of at most `events`.

    The stretch lies around an event that has a NULL, or another at its moment, where there is one. `many` is how many
    events the key has in all.
    """
    by_key, text = ", ".join(key_names(view)), _key_text(view)
    raw = raw_names(view)
    timed = view.source.event_time is not None
    ties = f"count(*) OVER (PARTITION BY {by_key}, t) > 1 OR " if timed else ""
    order = ", ".join(["t", *raw] if timed else raw)
    first = f"greatest(0, least(centre - {events // 2}, many - {events}))"
    return f"""
        WITH mine AS (
            SELECT s.*, {ties}{_any_null(view)} AS odd,
                   row_number() OVER (PARTITION BY {by_key} ORDER BY {order}) AS number,
                   count(*) OVER (PARTITION BY {by_key}) AS many
            FROM sampled_rows s SEMI JOIN sampled_keys USING ({by_key})
        ), centres AS (
            SELECT {by_key}, coalesce(arg_min(number, draw) FILTER (WHERE odd), arg_min(number, draw)) AS centre
            FROM (SELECT *, md5(concat({seed}, number, chr(31), {text})) AS draw FROM mine) GROUP BY ALL
        )
        SELECT {by_key}, many, {", ".join(raw)}
        FROM mine JOIN centres USING ({by_key})
        WHERE number > {first} AND number <= {first} + {events}
        ORDER BY md5(concat({seed}, chr(31), {text}, chr(31), number))
        """


def _key_text(view: View) -> str:
    return f"concat_ws(chr(31), {', '.join(f'CAST({k} AS VARCHAR)' for k in key_names(view))})"


def _any_null(view: View) -> str:
    return "(" + " OR ".join(f"{r} IS NULL" for r in raw_names(view)) + ")"
