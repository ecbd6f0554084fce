"""The newest row of each entity, and when its first and last events were: what the online store holds besides tiles."""

from __future__ import annotations

from pathlib import Path

from featurestore.compile.events import EventColumns, events_sql, key_names, order_names, order_text
from featurestore.compile.sources import Connection
from featurestore.ir import View
from featurestore.layout import LatestSlot


def newest_sql(
    con: Connection,
    view: View,
    columns: tuple[LatestSlot, ...],
    root: Path,
    *,
    start: int | None = None,
    end: int | None = None,
    settled: bool = False,
) -> str:
    """SELECT of `k0…`, `first_at`, `last_at` and `v0…`, one row for each entity with an event from `start` to `end`.

    A static source has times of 0. Sorted by key. With `settled`, copies of events were dropped before, and `o` is the place
    of the newest event in the order of events.
    """
    wanted = EventColumns(view, "v")
    for column in columns:
        wanted.add(column.value)
    keys = ", ".join(key_names(view))
    values = "".join(f", {wanted.names[c.value]} AS {c.name}" for c in columns)
    ties = [f"{name} DESC NULLS LAST" for name in order_names(view)]
    one = f" QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {', '.join(ties)}) = 1" if ties else ""
    if view.source.event_time is None:
        events = events_sql(con, view, root, wanted, ordered=True)
        return f"SELECT {keys}, 0::BIGINT AS first_at, 0::BIGINT AS last_at{values} FROM ({events}){one} ORDER BY {keys}"
    bounds = f"SELECT {keys}, min(t) AS first_at, max(t) AS last_at FROM ev GROUP BY {keys}"
    if not columns:
        events = events_sql(
            con, view, root, EventColumns(view), ordered=False, copies=settled, start=start, end=end
        )
        return f"WITH ev AS ({events}) {bounds} ORDER BY {keys}"
    # Only rows of an entity's last microsecond are put in the order of events: sorting all of them took 40 times longer.
    events = events_sql(con, view, root, wanted, ordered=True, copies=settled, start=start, end=end)
    place = f", {order_text(view)} AS o" if settled else ""
    same = " AND ".join(f"ev.{k} = m.{k}" for k in key_names(view))
    chosen = ", ".join(f"ev.{k}" for k in key_names(view))
    picked = f" QUALIFY row_number() OVER (PARTITION BY {chosen} ORDER BY {', '.join(f'ev.{t}' for t in ties)}) = 1"
    return (
        f"WITH ev AS ({events}), m AS ({bounds}) SELECT {chosen}, m.first_at, m.last_at{values}{place} "
        f"FROM ev JOIN m ON {same} AND ev.t = m.last_at{picked if ties else ''} ORDER BY {chosen}"
    )
