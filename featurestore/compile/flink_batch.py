"""A view's past as one Flink job in batch mode: tiles of a range of event time, into files, as materialisation keeps them.

The job is that of `flink_job` over the source's files; the range is a part of the filter, so it is one meaning with the stream.
Rows are read as JSON events are: one that does not fit a column is not left out, it is counted, and whoever asked refuses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from featurestore.compile.flink import FLINK
from featurestore.compile.flink_job import Job, Query, Wire, job_of
from featurestore.compile.sql import ident, quoted
from featurestore.errors import Unsupported
from featurestore.expr import Call, Column, Expr, Literal
from featurestore.ir import View
from featurestore.layout import Level, layout_of
from featurestore.types import Timestamp, type_to_json

BOUNDS, UNREAD = "bounds", "unread"
"""The names of what a job writes besides the tiles of its levels, which are called by their numbers."""


@dataclass(frozen=True, slots=True)
class Output:
    """Rows of a job in a folder, as JSON a line: `columns` are names and Flink's types, in order."""

    name: str
    sql: str
    columns: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Range:
    """Events from `start` (None: the first) to `end`, for bases or for heads. `fold` is the tile of what lies before windows."""

    start: int | None
    end: int
    base: bool
    fold: int


def batch_wire(view: View, folder: str) -> Wire:
    """The files in a folder, whose names do not matter. Raises Unsupported for kinds that no job reads."""
    source = view.source
    columns = json.dumps([[name, type_to_json(dtype)] for name, dtype in source.schema.items()])
    options = {"connector": "filesystem", "path": folder}
    match source.location.kind:
        case "parquet":
            return Wire({**options, "format": "fs-parquet", "fs-parquet.columns": columns})
        case "json":
            return Wire({**options, "format": "raw"})
        case kind:
            raise Unsupported(
                f"a Flink job for view '{view.name}'",
                f"read a batch of kind '{kind}'",
                "Parquet, or JSON with an object a line; or --engine duckdb",
            )


def range_job(view: View, wire: Wire, asked: Range) -> tuple[Job, list[Output]]:
    """The job, and what is to be written of it. Raises Unsupported for what a job cannot do."""
    if view.erased is not None:
        raise Unsupported(
            f"a Flink job for view '{view.name}'",
            "leave out what was erased",
            "--engine duckdb, or files without it",
        )
    job = job_of(_within(view, asked), wire, mode="batch")
    layout = layout_of(view)
    tiles, newest = job.queries[: len(layout.levels)], job.queries[len(layout.levels) :]
    outputs = [
        Output(str(number), _kept(view, query, level, asked), query.columns)
        for number, (query, level) in enumerate(zip(tiles, layout.levels, strict=True))
    ]
    outputs.append(_bounds(view, job) if not newest else Output(BOUNDS, newest[0].sql, newest[0].columns))
    outputs.append(unread_output(job))
    return job, outputs


def unread_output(job: Job) -> Output:
    """One row: how many rows of the files are no events, and what is wrong with one of them."""
    sql = f"SELECT COUNT(*) AS `rows`, MIN(`detail`) AS `why` FROM ({job.dead_letters}) WHERE `reason` = 'unreadable'"
    return Output(UNREAD, sql, {"rows": "BIGINT", "why": "STRING"})


def job_file(job: Job, outputs: Sequence[Output], folder: str) -> dict[str, Any]:
    """What the driver of `streaming/` runs to its end; each output lies in a folder of its name below `folder`."""
    statements = [*job.functions, *(step.sql for step in job.statements)]
    inserts = []
    for output in outputs:
        table = ident(f"{job.view.name} in {output.name}", FLINK)
        columns = ", ".join(f"{ident(name, FLINK)} {kind}" for name, kind in output.columns.items())
        place = f"'connector' = 'filesystem', 'path' = {quoted(f'{folder}/{output.name}')}, 'format' = 'json'"
        statements.append(f"CREATE TEMPORARY TABLE {table} ({columns}) WITH ({place})")
        inserts.append(f"INSERT INTO {table} {output.sql}")
    return {"settings": dict(job.settings), "statements": statements, "inserts": inserts, "wait": True}


def _within(view: View, asked: Range) -> View:
    """The view of the events of a range."""
    at = view.source.event_time
    if at is None:
        raise Unsupported(f"a Flink job for view '{view.name}'", "read a static source", "--engine duckdb")
    bounds: list[Expr] = [Call("lt", (Column(at), Literal(asked.end, Timestamp)))]
    if asked.start is not None:
        bounds.append(Call("ge", (Column(at), Literal(asked.start, Timestamp))))
    both = reduce(lambda one, other: Call("and", (one, other)), bounds)
    return replace(view, filter=both if view.filter is None else Call("and", (view.filter, both)))


def _kept(view: View, query: Query, level: Level, asked: Range) -> str:
    """The tiles of a level that a base or head keeps: what no window reaches from its end is folded, or left out."""
    events = ident(f"{view.name} events", FLINK)
    own = f"fs_tile(`t`, {level.hop})"
    plain = f"(SELECT *, {own} AS `tile` FROM {events})"
    assert query.sql.count(plain) == 1, "tiles are made of a row's own time"
    if not asked.base:
        return query.sql
    kept = asked.end if level.reach is None else asked.end - level.reach
    kept = kept if asked.start is None else max(asked.start, kept)
    if level.lifetime:
        fold = f"({asked.fold + 1} - 1)"
        tile = f"(CASE WHEN `t` < CAST({kept} AS BIGINT) THEN CAST({fold} AS BIGINT) ELSE {own} END)"
        return query.sql.replace(plain, f"(SELECT *, {tile} AS `tile` FROM {events})")
    return query.sql.replace(
        plain, f"(SELECT *, {own} AS `tile` FROM {events} WHERE `t` >= CAST({kept} AS BIGINT))"
    )


def _bounds(view: View, job: Job) -> Output:
    """The entities, and when their first and last events were."""
    keys = {name: kind for name, kind in job.queries[0].columns.items() if name != "tile"}
    keys = dict(list(keys.items())[: len(view.keys)])
    names = ", ".join(keys)
    sql = (
        f"SELECT {names}, MIN(`t`) AS `first_at`, MAX(`t`) AS `last_at` FROM {ident(f'{view.name} events', FLINK)} "
        f"GROUP BY {names}"
    )
    return Output(BOUNDS, sql, {**keys, "first_at": "BIGINT", "last_at": "BIGINT"})
