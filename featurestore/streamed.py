"""Which entities of a view a stream wrote, by the heads in the online store; and which had events then, by what lies at rest."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from featurestore.compile.events import EventColumns, events_sql, key_names
from featurestore.compile.sources import Connection, at_rest
from featurestore.errors import StatisticsError
from featurestore.evaluate.arrow import arrow_type
from featurestore.ir import View
from featurestore.layout import layout_of
from featurestore.online.codec import HEAD, HEADER, codec_of, key_parts
from featurestore.online.store import OnlineStore
from featurestore.time import moment_text

INSTANT = pa.timestamp("us", tz="UTC")


def written(online: OnlineStore, view: View, start: int, end: int) -> pa.Table:
    """The keys of the entities whose head's newest event lies at `start` or later, its first before `end`.

    Every head of the view is looked at, so it costs a scan.
    """
    codec = codec_of(view, layout_of(view))
    lead = codec.prefix + HEAD
    found = []
    for key, value in online.scan(lead):
        head = np.frombuffer(value[: HEADER.itemsize], HEADER)[0]
        if head["last_at"] >= start and head["first_at"] < end:
            hashed = value[HEADER.itemsize : HEADER.itemsize + int(head["key"])]
            found.append(key_parts(view, hashed or key[len(lead) :]))
    return _table(view, found)


def happened(con: Connection, view: View, root: Path, start: int, end: int, *, timestamp: str) -> pa.Table:
    """The entities with an event from `start` on, before `end`, as the source holds them at rest: a spine as of `end`.

    Raises StatisticsError where these end earlier: the rest is in the stream alone.
    """
    every = events_sql(con, view, root, EventColumns(view), ordered=False, copies=True)
    newest = None
    if at_rest(view.source, root):
        newest = con.sql(f"SELECT max(t) AS t FROM ({every})").to_arrow_table().column("t")[0].as_py()  # noqa: S608
    if newest is None or newest < end:
        known = "has none" if newest is None else f"ends at {moment_text(newest)}"
        raise StatisticsError(
            f"what source '{view.source.name}' holds at rest {known}: events up to {moment_text(end)} are in the stream alone"
        )
    names = ", ".join(key_names(view))
    some = events_sql(con, view, root, EventColumns(view), ordered=False, copies=True, start=start, end=end)
    table = con.sql(f"SELECT DISTINCT {names} FROM ({some}) ORDER BY {names}").to_arrow_table()  # noqa: S608
    asked = pa.array(np.full(table.num_rows, end)).view(INSTANT)
    return table.rename_columns([k.name for k in view.keys]).append_column(timestamp, asked)


def _table(view: View, keys: Iterable[tuple[int | str, ...]]) -> pa.Table:
    columns = list(zip(*keys, strict=True)) or [()] * len(view.keys)
    return pa.table(
        {k.name: pa.array(column, arrow_type(k.dtype)) for k, column in zip(view.keys, columns, strict=True)}
    )


__all__ = ["happened", "written"]
