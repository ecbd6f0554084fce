"""`fs why`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from featurestore.cli.complete import services
from featurestore.cli.output import moment_text, print_fields, print_json, print_table, text_of
from featurestore.cli.project import Settings, command

if TYPE_CHECKING:
    from featurestore.consistency import Made, Why


@command("why")
@click.argument("service", shell_complete=services)
@click.argument("request_id")
@click.option(
    "--limit", type=click.IntRange(0), default=20, show_default=True, help="Events of each view, at most."
)
def why_command(settings: Settings, service: str, request_id: str, limit: int) -> None:
    """Why what was served is not, or is, what is computed now: value by value, with the events that made it.

    REQUEST_ID is of a captured request, or of one row of it, as 5f…-3. Of a request up to ten rows are shown.
    """
    with settings.store() as store, settings.progress("computing the row again"):
        found = store.why(service, request_id, limit=limit)
    if settings.json:
        print_json({"rows": [one.to_json() for one in found]})
        return
    for number, one in enumerate(found):
        if number:
            click.echo()
        _show(one)


def _show(one: Why) -> None:
    print_fields(
        [
            ("row", one.row_id),
            ("service", one.service),
            ("asked for", moment_text(one.asked)),
            ("served at", moment_text(one.served_at)),
            ("degraded", "the store did not answer" if one.degraded else None),
        ]
    )
    click.echo()
    print_table(
        ("feature", "served", "status", "now", "as arrived", "cause", "by"),
        [
            (
                v.feature,
                text_of(v.served),
                v.status,
                text_of(v.now),
                text_of(v.arrived),
                v.cause or "same",
                v.note or None,
            )
            for v in one.values
        ],
    )
    for made in one.made:
        click.echo()
        _show_events(made)


def _show_events(made: Made) -> None:
    key = ", ".join(f"{k}={v}" for k, v in made.key.items())
    mark = (
        "nothing was written" if made.watermark is None else f"complete up to {moment_text(made.watermark)}"
    )
    shown = (
        f"{made.count:,}"
        if made.count == len(made.events)
        else f"{len(made.events):,} newest of {made.count:,}"
    )
    click.echo(f"{click.style(made.view, bold=True)} of {key}, {mark}, events: {shown}")
    if not made.events:
        return
    columns = list(made.events[0].columns)
    print_table(
        ("happened", "arrived", *columns, "batch", "pushed", "served"),
        [
            (
                moment_text(e.happened),
                moment_text(e.arrived),
                *(text_of(e.columns[c]) for c in columns),
                "yes" if e.at_rest else "no",
                "yes" if e.pushed else "no",
                e.served,
            )
            for e in made.events
        ],
        "  ",
    )
