"""The programs a view becomes, to be read by people: what materialisation and training run, laid out, bounds as parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from featurestore.aggregates import inputs_of
from featurestore.compile.events import EventColumns
from featurestore.compile.flink_job import job_of, kafka_steps, wire_of
from featurestore.compile.newest import newest_sql
from featurestore.compile.point_in_time import sorted_events_sql
from featurestore.compile.sources import Connection
from featurestore.compile.tiles import tile_events_sql, tiles_sql
from featurestore.errors import NotFound
from featurestore.ir import View
from featurestore.layout import Layout, layout_of
from featurestore.time import duration_text

ENGINES = ("duckdb", "flink")


@dataclass(frozen=True, slots=True)
class Program:
    """One statement of a view. `$start` and `$end` in it are event time in microseconds, from (inclusive) and to (exclusive)."""

    view: str
    name: str
    about: str
    sql: str


def programs(con: Connection, view: View, root: Path, engine: str = "duckdb") -> list[Program]:
    """The programs of a view: tiles for each level, the newest row of each entity, the events of a training join.

    For Flink the statements of one job, in the order in which they are run; `settings` and `functions` are several each.
    Raises Unsupported for what Flink cannot do alike, SourceError when the source cannot be read as the plan says.
    """
    if engine not in ENGINES:
        raise NotFound("engine", engine, ENGINES)
    if engine == "flink":
        steps = kafka_steps(job_of(view, wire_of(view)))
        listed = ("settings", "functions")  # a statement a line already
        return [
            Program(view.name, s.name, s.about, s.sql if s.name in listed else lay_out(s.sql)) for s in steps
        ]
    return [Program(view.name, *named) for named in _programs(con, view, root)]


# Moments that nobody asks for, to be found again in the text.
_START, _END = -8_765_432_100_123_456, 8_765_432_100_123_457


def _programs(con: Connection, view: View, root: Path) -> Iterator[tuple[str, str, str]]:
    layout = layout_of(view)
    for level in layout.levels:
        hop = duration_text(level.hop)
        if level.reach is not None:
            reach = f"kept for {duration_text(level.reach)}"
            about = f"Partials of each entity and {hop}, {reach}: what windows are merged from."
            yield f"tiles {hop}", about, _text(tiles_sql(con, view, level, root, start=_START, end=_END))
        if any(slot.ragged for slot in level.slots):
            yield (
                f"tile events {hop}",
                "The events, in order, that partials with any number of items are made of, in NumPy.",
                _text(tile_events_sql(con, view, level, root, EventColumns(view), start=_START, end=_END)),
            )
        if level.lifetime:
            whole = tiles_sql(con, view, level, root, start=_START, end=_END, whole=True)
            yield (
                f"fold {hop}",
                "Partials of each entity over all that is older: what a lifetime begins with.",
                _text(whole),
            )
    newest = newest_sql(con, view, layout.latest, root, start=_START, end=_END)
    yield "newest", "Each entity's first and last event, and the latest values.", _text(newest)
    columns = _columns(view, layout)
    events = sorted_events_sql(con, view, columns, "spine_keys", root, settled=True, start=_START, end=_END)
    about = (
        "The events of a training set's entities, in order; `spine_keys` numbers the distinct keys of the spine. "
        "Where whole rows tie, training may leave their order to NumPy."
    )
    yield "training", about, _text(events)


def _columns(view: View, layout: Layout) -> EventColumns:
    """All that the features of a view reduce."""
    columns = EventColumns(view)
    for slot in (slot for level in layout.levels for slot in level.slots):
        for node in (*inputs_of(slot.reduction), *([slot.where] if slot.where is not None else [])):
            columns.add(node)
    for latest in layout.latest:
        columns.add(latest.value)
    return columns


def _text(sql: str) -> str:
    return lay_out(sql.replace(f"({_START})", "($start)").replace(f"({_END})", "($end)"))


# --------------------------------------------------------------------------------------------------------------- layout

_TOKEN = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|[A-Za-z_$][\w$]*|\s+|[(),]|[^\s'"`(),A-Za-z_$]+"""
)
_CLAUSES = frozenset({"WITH", "UNION", "SELECT", "FROM", "WHERE", "GROUP", "ORDER", "QUALIFY", "JOIN"})
_LONG = 100


def lay_out(sql: str) -> str:
    """The same statement with a line for each clause; queries in parentheses are indented.

    Texts and quoted names come out as they went in, and a window's ORDER BY stays where it is.

    >>> print(lay_out("SELECT a, 'FROM ' AS b FROM (SELECT 1 AS a) WHERE a > 0"))
    SELECT a, 'FROM ' AS b
    FROM (
      SELECT 1 AS a
    )
    WHERE a > 0
    """
    tokens = _TOKEN.findall(sql)
    lines: list[list[str]] = [[]]
    queries: list[bool] = [True]  # for each open parenthesis: whether it holds a query

    def new_line(depth: int) -> None:
        while lines[-1] and lines[-1][-1].isspace():
            lines[-1].pop()
        lines.append(["  " * depth])

    for number, part in enumerate(tokens):
        depth = sum(queries) - 1
        if part == "(":
            query = _word(tokens, number + 1) in {"SELECT", "WITH"}
            queries.append(query)
            lines[-1].append(part)
            if query:
                new_line(depth + 1)
        elif part == ")":
            if queries.pop():
                new_line(depth - 1)
            lines[-1].append(part)
        elif part.isspace():
            if lines[-1] and not lines[-1][-1].isspace():
                lines[-1].append(" ")
        else:
            fresh = not "".join(lines[-1]).strip()
            if part in _CLAUSES and queries[-1] and not fresh:
                new_line(depth)
            lines[-1].append(part)
    return "\n".join(_folded("".join(line)) for line in lines)


def _word(tokens: list[str], number: int) -> str:
    return next((t for t in tokens[number:] if not t.isspace()), "")


def _folded(line: str) -> str:
    """A long line, broken after commas and before ANDs that stand in no parentheses."""
    if len(line) <= _LONG:
        return line
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    parts, depth, held = [], 0, ""
    for part in _TOKEN.findall(line):
        depth += (part == "(") - (part == ")")
        if part == "AND" and depth == 0:
            parts.append(held)
            held = ""
        held += part
        if part == "," and depth == 0:
            parts.append(held)
            held = ""
    parts.append(held)
    out, current = [], ""
    for part in parts:
        if current and len(current) + len(part) > _LONG:
            out.append(current)
            current = indent + part.lstrip()
        else:
            current += part
    return "\n".join([*out, current])
