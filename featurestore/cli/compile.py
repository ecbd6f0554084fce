"""`fs compile`."""

from __future__ import annotations

from dataclasses import asdict

import click

from featurestore.cli.complete import readable_names
from featurestore.cli.output import print_json
from featurestore.cli.project import Settings, command


@command("compile")
@click.argument("name", shell_complete=readable_names)
@click.option(
    "--engine",
    type=click.Choice(["duckdb", "flink"]),
    default="duckdb",
    show_default=True,
    help="The engine to compile for. Flink reads a topic of JSON events.",
)
@click.option("--definitions", is_flag=True, help="The definitions, whatever is applied.")
def compile_command(settings: Settings, name: str, engine: str, definitions: bool) -> None:
    """The SQL that a view becomes.

    NAME is a view, or a service: then each of its views. Prints the tiles of each level, the newest row of each
    entity, and the events of a training join. `$start` and `$end` stand for event time in microseconds. For Flink it
    prints the statements of a whole job; with --json the driver in `streaming/` submits it.
    """
    with settings.store() as store:
        applied = not definitions and store.registry.current().number > 0
        found = store.programs(name, engine, applied=applied)
    if settings.json:
        print_json({"engine": engine, "programs": [asdict(p) for p in found]})
        return
    for number, program in enumerate(found):
        gap = "\n" if number else ""
        head = f"{gap}-- {program.view}: {program.name}\n-- {program.about}"
        click.echo(click.style(head, dim=True))
        click.echo(f"{program.sql};")
