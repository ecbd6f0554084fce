"""The SQL half of the training join: a view's events of the spine's entities, sorted by entity and time."""

from __future__ import annotations

from pathlib import Path

from featurestore.compile.events import EventColumns, events_sql, key_names, order_by, order_names
from featurestore.compile.sources import Connection
from featurestore.ir import View


def numbered_keys_sql(parts: int, spine: str, keys: str) -> tuple[str, str]:
    """Two statements over table `spine` (`rid`, `q`, and the key columns `k0…`, of which there are `parts`).

    The first makes temporary table `keys` with a dense number `k` (Int32) for each key; the numbers follow the order of
    keys, so that the same spine is worked on in the same order. The second gives `rid`, `k`, `q` of the spine sorted by
    `k` and `q`.
    """
    names = ", ".join(f"k{i}" for i in range(parts))
    number = (
        f"CREATE OR REPLACE TEMP TABLE {keys} AS SELECT (row_number() OVER () - 1)::INTEGER AS k, * "
        f"FROM (SELECT DISTINCT {names} FROM {spine} ORDER BY {names})"
    )
    return number, f"SELECT rid, k, q FROM {spine} JOIN {keys} USING ({names}) ORDER BY k, q"


def sorted_events_sql(
    con: Connection,
    view: View,
    columns: EventColumns,
    keys: str,
    root: Path,
    *,
    settled: bool,
    start: int | None,
    end: int,
    known: int | None = None,
) -> str:
    """SELECT `k` (dense key number of table `keys`), `t` and the wanted columns, sorted by `k` and `t`.

    `settled` sorts ties by the order of events too, and drops copies of an event: both cost more here than afterwards, where
    only rows that tie are looked at. The events of a static source are at 0. `known` leaves out what had not arrived by then.
    """
    static = view.source.event_time is None
    bounds = {} if static else {"start": start, "end": end, "known": known}
    events = events_sql(con, view, root, columns, ordered=settled, copies=not settled, **bounds)
    same = " AND ".join(f"e.{k} = s.{k}" for k in key_names(view))
    select = ["s.k", "0::BIGINT AS t" if static else "e.t", *(f"e.{n}" for n in columns.names.values())]
    ties = order_by(f"e.{o}" for o in order_names(view)) if settled else []
    by = ", ".join(["s.k", *([] if static else ["e.t"]), *ties])
    return f"SELECT {', '.join(select)} FROM ({events}) e JOIN {keys} s ON {same} ORDER BY {by}"
