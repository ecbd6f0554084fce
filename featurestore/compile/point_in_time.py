"""The training join in SQL: latest values by one as-of join, and the sorted events that windows are reduced from.

The rows to enrich are a table `{spine}` with `rid` (BIGINT, 0…), `q` (BIGINT, microseconds) and the key columns `k0…`.
"""

from __future__ import annotations

from pathlib import Path

from featurestore.compile.events import EventColumns, events_sql, key_names, order_by, order_names, order_row
from featurestore.compile.sources import Connection
from featurestore.ir import View
from featurestore.layout import LatestSlot


def latest_sql(con: Connection, view: View, columns: tuple[LatestSlot, ...], spine: str, root: Path) -> str:
    """SELECT `rid`, `found_at` (event time of the row found, NULL if none), `v0…` for every spine row, in any order.

    Ties of event time are broken by the whole order of events: an as-of join on time alone would pick any of them.
    """
    wanted = EventColumns(view, "v")
    for column in columns:
        wanted.add(column.value)
    values = ", ".join(f"e.{wanted.names[c.value]} AS {c.name}" for c in columns)
    same = " AND ".join(f"s.{k} = e.{k}" for k in key_names(view))
    ties = order_names(view)
    if view.source.event_time is None:
        events = events_sql(con, view, root, wanted, ordered=True)
        keys = ", ".join(key_names(view))
        newest = f"row_number() OVER (PARTITION BY {keys} ORDER BY {', '.join(_descending(ties))}) = 1"
        return (
            f"SELECT s.rid, CASE WHEN e.k0 IS NOT NULL THEN 0 END AS found_at, {values} "
            f"FROM {spine} s LEFT JOIN (SELECT * FROM ({events}) QUALIFY {newest}) e ON {same}"
        )
    (last,) = con.execute(f"SELECT max(q) FROM {spine}").fetchone() or (None,)
    events = events_sql(con, view, root, wanted, ordered=True, end=last)
    if not ties:
        asof = "s.q > e.t"
    else:
        # (q, least of everything) > (t, …) holds exactly when t < q: equal times fall to the flags, and false > x never holds.
        least = ", ".join("false, NULL" for _ in ties)
        asof = f"ROW(s.q, {least}) > {order_row(view, [f'e.{o}' for o in ties], 'e.t')}"
    return f"SELECT s.rid, e.t AS found_at, {values} FROM {spine} s ASOF LEFT JOIN ({events}) e ON {same} AND {asof}"


def sorted_events_sql(
    con: Connection, view: View, columns: EventColumns, keys: str, root: Path, *, ordered: bool, start: int | None, end: int
) -> str:
    """SELECT `k` (dense key number of table `keys`), `t` and the wanted columns, sorted by key and order of events."""
    events = events_sql(con, view, root, columns, ordered=ordered, start=start, end=end)
    same = " AND ".join(f"e.{k} = s.{k}" for k in key_names(view))
    names = ", ".join(f"e.{n}" for n in columns.names.values())
    ties = ", ".join(["", *order_by(f"e.{o}" for o in order_names(view))]) if ordered else ""
    extra = f", {names}" if names else ""
    return f"SELECT s.k, e.t{extra} FROM ({events}) e JOIN {keys} s ON {same} ORDER BY s.k, e.t{ties}"


def _descending(names: list[str]) -> list[str]:
    return [f"{name} DESC NULLS LAST" for name in names] or ["1"]
