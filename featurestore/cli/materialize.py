"""`fs materialize` and `fs holes`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

import click

from featurestore.cli.complete import readable_names
from featurestore.cli.failures import ERROR, OK
from featurestore.cli.output import moment_text, print_json, print_table, size_text
from featurestore.cli.project import Settings, command

if TYPE_CHECKING:
    from featurestore.ledger import HoleEntry, Unit


@command("materialize")
@click.option(
    "--start",
    metavar="TIME",
    help="Leave out what happened before; with --replace, repair from here on. Default: the beginning.",
)
@click.option("--end", metavar="TIME", help="Features as of this moment, exclusive. Default: now.")
@click.option(
    "--select",
    multiple=True,
    metavar="WHAT",
    shell_complete=readable_names,
    help="A view, a service, tag:NAME or owner:NAME; may be given again. Default: every view.",
)
@click.option("--replace", is_flag=True, help="Make it anew whatever is known of it. Wants --reason.")
@click.option("--reason", default="", metavar="TEXT", help="Why; kept in the ledger.")
@click.option(
    "--engine",
    type=click.Choice(["duckdb", "flink"]),
    default="duckdb",
    help="What makes the tiles: DuckDB here, or a Flink job in batch mode. Default: duckdb.",
)
def materialize_command(
    settings: Settings,
    start: str | None,
    end: str | None,
    select: tuple[str, ...],
    replace: bool,
    reason: str,
    engine: Literal["duckdb", "flink"],
) -> None:
    """Write the applied features to the online store, as of a moment, where something is new.

    Times are ISO 8601, in UTC unless they say otherwise. Writing twice writes the same; what was stopped goes on.
    """
    began = time.monotonic()
    with settings.store() as store, settings.progress("materializing") as say:
        done = store.materialize(
            start,
            end,
            list(select) or None,
            progress=lambda view, n: say(f"{view}  {n:,} entities"),
            replace=replace,
            reason=reason,
            engine=engine,
        )
    seconds = time.monotonic() - began
    if settings.json:
        views = [
            {
                "view": m.view,
                "outcome": m.outcome,
                "entities": m.entities,
                "bytes": m.bytes,
                "start": moment_text(m.start),
                "end": moment_text(m.end),
                "closed": [_hole(h) for h in m.closed],
            }
            for m in done
        ]
        print_json({"views": views, "seconds": round(seconds, 3)})
        return
    rows = [
        (m.view, m.outcome, m.entities, size_text(m.bytes), moment_text(m.start), moment_text(m.end))
        for m in done
    ]
    print_table(("view", "outcome", "entities", "written", "from", "as of"), rows)
    for hole in (h for m in done for h in m.closed):
        settings.note(
            f"closed in {hole.view}: {hole.reason}, {moment_text(hole.start)} to {moment_text(hole.end)}"
        )
    settings.note(f"{sum(m.entities for m in done):,} entities in {seconds:.1f} s")


@command("holes")
@click.option(
    "--select",
    multiple=True,
    metavar="WHAT",
    shell_complete=readable_names,
    help="A view, a service, tag:NAME or owner:NAME; may be given again. Default: every view.",
)
def holes_command(settings: Settings, select: tuple[str, ...]) -> int:
    """Where what is served lacks events that are known to exist, and which materializations did not end.

    Exit status 1 when there is any. Changes nothing; `fs materialize` repairs both.
    """
    with settings.store() as store:
        holes, units = store.holes(list(select) or None), store.unfinished(list(select) or None)
        running = {u.number: store.writer(u.view) for u in units}
    status = ERROR if holes or units else OK
    if settings.json:
        print_json(
            {"holes": [_hole(h) for h in holes], "unfinished": [_unit(u, running[u.number]) for u in units]}
        )
        return status
    if holes:
        rows = [
            (h.view, h.reason, moment_text(h.start), moment_text(h.end), h.rows, moment_text(h.opened_at))
            for h in holes
        ]
        print_table(("view", "hole", "from", "to", "events", "since"), rows)
    for unit in units:
        click.echo(f"{unit.view}: as of {moment_text(unit.end)}, {_how(unit, running[unit.number])}")
    if status == OK:
        settings.note("no holes, and nothing unfinished")
    else:
        settings.note("`fs materialize` repairs holes and goes on with what did not end")
    return status


def _hole(hole: HoleEntry) -> dict[str, Any]:
    return {
        "view": hole.view,
        "reason": hole.reason,
        "start": moment_text(hole.start),
        "end": moment_text(hole.end),
        "events": hole.rows,
        "opened_at": moment_text(hole.opened_at),
    }


def _unit(unit: Unit, running: str | None) -> dict[str, Any]:
    return {
        "view": unit.view,
        "status": unit.status,
        "start": moment_text(unit.start),
        "end": moment_text(unit.end),
        "started_at": moment_text(unit.started_at),
        "who": unit.who,
        "reason": unit.reason or None,
        "error": unit.error or None,
        "running": running,
    }


def _how(unit: Unit, running: str | None) -> str:
    if running is not None:
        return f"being written by {running}"
    began = f"begun {moment_text(unit.started_at)} by {unit.who}"
    return f"FAILED, {began}: {unit.error}" if unit.error else f"stopped in the middle, {began}"
