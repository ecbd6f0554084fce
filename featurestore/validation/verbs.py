"""The verb: finds what a name is and what is expected of it, gets its rows or its statistics, and has them judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from featurestore import ir, profiles
from featurestore.compile.sources import Connection
from featurestore.config import Config
from featurestore.errors import NotFound, RequestError
from featurestore.expectations import Expectation, Fresh, Schema
from featurestore.fitting import malformed
from featurestore.time import floor
from featurestore.validation.keep import keep
from featurestore.validation.rows import Rows, rows_of_source, rows_of_table
from featurestore.validation.run import ENGINES, nothing_at_hand, validate_rows, validate_statistics
from featurestore.validation.suggest import suggest
from featurestore.verdicts import Kind, Validation

Thing = ir.Source | ir.View | ir.Service


@dataclass(frozen=True)
class Asked:
    """What a run is asked for. `start` and `end` (µs) bound event time.

    `values` gives a view's features of now, `served` what a service gave, as tables.
    """

    now: int
    who: str
    values: Callable[[ir.View], Any]
    served: Callable[[ir.Service, int | None, int | None], Any]
    engine: str = "duckdb"
    start: int | None = None
    end: int | None = None
    kept: bool = True


def thing_named(plan: ir.Plan, name: str) -> tuple[Kind, Thing]:
    """The source, view or service of this name. Raises NotFound."""
    groups: tuple[tuple[Kind, Sequence[Thing]], ...] = (
        ("view", plan.views),
        ("service", plan.services),
        ("source", plan.sources),
    )
    for kind, group in groups:
        for thing in group:
            if thing.name == name:
                return kind, thing
    raise NotFound("source, view or service", name, [t.name for _, group in groups for t in group])


def expecting(plan: ir.Plan) -> list[str]:
    """The names of all that expects something: sources, then views, then services."""
    things: list[Thing] = [*plan.sources, *plan.views, *plan.services]
    return [t.name for t in things if t.expectations]


def validate(
    con: Connection,
    config: Config,
    plan: ir.Plan,
    name: str | None,
    rows: Any,
    expectations: Sequence[Expectation] | None,
    asked: Asked,
) -> Validation:
    """Judges what a name stands for, or `rows`, by `expectations` or those that are declared; kept, unless asked not to.

    Raises NotFound, RequestError for what is asked wrongly, SourceError for rows that cannot be read, and StatisticsError where
    none are kept.
    """
    if asked.engine not in ENGINES:
        raise RequestError(f"there is no engine '{asked.engine}'\n  give {', '.join(ENGINES)}")
    if name is None:
        kind: Kind = "table"
        thing = None
        if rows is None or expectations is None:
            raise RequestError("what to judge is not said\n  give a name, or rows with expectations")
    else:
        kind, thing = thing_named(plan, name)
    expected = _filled(thing, expectations if expectations is not None else _declared(thing))
    done = _run(con, config, kind, thing, name or "table", rows, expected, asked)
    if asked.kept and done.verdicts:
        keep(config, done)
    return done


def suggested(
    con: Connection, config: Config, plan: ir.Plan, name: str | None, rows: Any, asked: Asked
) -> tuple[Expectation, ...]:
    """A suite proposed from the rows of a name, or from `rows`."""
    thing = None if name is None else thing_named(plan, name)[1]
    found = _rows(con, config, thing, rows, asked)
    if isinstance(found, str):
        raise RequestError(f"there is nothing to propose expectations from: {found}")
    return suggest(found, thing.event_time if isinstance(thing, ir.Source) else None, asked.now)


def _declared(thing: Thing | None) -> Sequence[Expectation]:
    return () if thing is None else thing.expectations


def _filled(thing: Thing | None, expectations: Sequence[Expectation]) -> tuple[Expectation, ...]:
    """With the event time and the columns that are left open, of a source. Raises RequestError for what is no expectation."""
    found = []
    for one in expectations:
        if not isinstance(one, Expectation):
            raise RequestError(f'{one!r} is no expectation\n  write expect.not_null("carrier")')
        if (wrong := malformed(one)) is not None:
            raise RequestError(f"{one.name}: {wrong}")
        match thing, one.check:
            case ir.Source(event_time=str() as at), Fresh(within, None):
                found.append(replace(one, check=Fresh(within, at)))
            case ir.Source(columns=columns), Schema(None, ordered, closed):
                found.append(replace(one, check=Schema(columns, ordered, closed)))
            case _:
                found.append(one)
    return tuple(found)


def _run(
    con: Connection,
    config: Config,
    kind: Kind,
    thing: Thing | None,
    name: str,
    rows: Any,
    expected: Sequence[Expectation],
    asked: Asked,
) -> Validation:
    if asked.engine == "statistics":
        if rows is not None:
            raise RequestError(
                "the engine 'statistics' reads no rows\n  leave them out, or give duckdb or gx"
            )
        kept = profiles.load(config, name)
        start, end = _partitions(asked, kept.every.microseconds)
        return validate_statistics(
            name, kind, kept, expected, now=asked.now, start=start, end=end, who=asked.who
        )
    found = _rows(con, config, thing, rows, asked)
    if isinstance(found, str):
        return nothing_at_hand(name, kind, expected, found, now=asked.now, engine=asked.engine, who=asked.who)
    return validate_rows(name, kind, found, expected, now=asked.now, engine=asked.engine, who=asked.who)


def _partitions(asked: Asked, step: int) -> tuple[int | None, int | None]:
    """Bounds where partitions begin: what they cut is in."""
    start = None if asked.start is None else floor(asked.start, step)
    return start, None if asked.end is None else -floor(-asked.end, step)


def _rows(con: Connection, config: Config, thing: Thing | None, rows: Any, asked: Asked) -> Rows | str:
    """The rows to judge; why there are none."""
    bounded = asked.start is not None or asked.end is not None
    if rows is not None:
        if bounded:
            raise RequestError("rows that are given are judged as they are\n  leave the bounds of time out")
        return rows_of_table(con, rows, config.root)
    match thing:
        case ir.Source():
            return rows_of_source(con, thing, config.root, asked.start, asked.end)
        case ir.View():
            if bounded:
                raise RequestError(
                    f"view '{thing.name}' is judged by its values of now\n  leave the bounds of time out"
                )
            return rows_of_table(con, asked.values(thing), config.root)
        case ir.Service():
            if thing.capture is None:
                return "the service keeps nothing of what it serves: give rows, or the engine 'statistics'"
            return rows_of_table(con, asked.served(thing, asked.start, asked.end), config.root)
        case None:
            raise RequestError("there are no rows to judge")


__all__ = ["Asked", "expecting", "suggested", "thing_named", "validate"]
