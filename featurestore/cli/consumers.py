"""`fs consumers`."""

from __future__ import annotations

from dataclasses import asdict

import click

from featurestore.cli.complete import services
from featurestore.cli.output import moment_text, print_json, print_table
from featurestore.cli.project import Settings, command


@command("consumers")
@click.argument("service", shell_complete=services)
def consumers_command(settings: Settings, service: str) -> None:
    """How far each consumer of a service's matured rows is: what it took, what waits for a label, which model it trains.

    Consumers are what store.training_batches(SERVICE, consumer=NAME) is called with.
    """
    with settings.store() as store:
        found = store.consumers(service)
    if settings.json:
        said = {
            name: {
                "lineage": str(state.lineage),
                "taken": state.taken,
                "waiting": sum(len(rows) for rows in state.waiting.values()),
                "censored": state.censored,
                "rounds": [{**asdict(r), "lineage": str(r.lineage)} for r in state.rounds],
            }
            for name, state in found.items()
        }
        print_json({"service": service, "consumers": said})
        return
    if not found:
        click.echo(f"nobody has trained on what '{service}' served")
        return
    print_table(
        ("consumer", "model", "taken", "waiting", "censored", "last round as of", "its rows", "done"),
        [
            (
                name,
                str(state.lineage),
                f"{state.taken:,}",
                f"{sum(len(rows) for rows in state.waiting.values()):,}",
                f"{state.censored:,}",
                moment_text(state.rounds[-1].as_of) if state.rounds else None,
                f"{state.rounds[-1].rows:,}" if state.rounds else None,
                "yes" if state.rounds and state.rounds[-1].done else "no",
            )
            for name, state in found.items()
        ],
    )
