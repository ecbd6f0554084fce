"""`fs explain`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from featurestore.cli.complete import readable_names
from featurestore.cli.output import moment_text, print_json, print_table
from featurestore.cli.project import Settings, command

if TYPE_CHECKING:
    from featurestore.compile.programs import Program
    from featurestore.explain import Computed, Explanation


@command("explain")
@click.argument("name", shell_complete=readable_names)
@click.option("--at", metavar="TIME", help="The moment of the pictures. Default: one in the middle of a hop.")
@click.option("--no-programs", is_flag=True, help="Without the SQL.")
@click.option("--definitions", is_flag=True, help="The definitions, whatever is applied.")
def explain_command(
    settings: Settings, name: str, at: str | None, no_programs: bool, definitions: bool
) -> None:
    """What a view or a feature computes: in words, as a picture of its window, what is kept, and as programs.

    NAME is a view, VIEW:FEATURE, a feature in whichever views have it, or an on-demand feature. The events in a
    picture are made up: they show where the window begins and ends.
    """
    from featurestore.explain import SAMPLE, computed, explain, labelled
    from featurestore.time import moment

    with settings.store() as store:
        applied = not definitions and store.registry.current().number > 0
        plan = store.registry.current().plan if applied else store.definitions()

        def programs_of(view: str, engine: str) -> list[Program]:
            return [] if no_programs else store.programs(view, engine, applied=applied)

        asked = SAMPLE if at is None else moment(at)
        found = explain(plan, name, programs_of, asked)
    on_demand, labels = computed(plan, name), labelled(plan, name)
    if settings.json:
        print_json(
            {
                "at": moment_text(asked),
                "views": [asdict(e) for e in found],
                "on_demand": [asdict(c) for c in on_demand],
                "labels": [asdict(c) for c in labels],
            }
        )
        return
    for number, one in enumerate(found):
        if number:
            click.echo()
        _show(one)
    for number, feature in enumerate((*on_demand, *labels)):
        if number or found:
            click.echo()
        _show_computed(feature)


def _show_computed(one: Computed) -> None:
    click.echo(f"{click.style(one.feature, bold=True)}  {one.dtype}  =  {one.written}")
    for line in one.means:
        click.echo(f"  {line}")
    if one.source is not None:
        click.echo()
        for line in one.source.splitlines():
            click.echo(f"    {line}".rstrip())


def _show(one: Explanation) -> None:
    click.echo(click.style(f"view {one.view}", fg="cyan", bold=True))
    for line in one.about:
        click.echo(f"  {line}")
    for feature in one.features:
        click.echo(f"\n{click.style(feature.feature, bold=True)}  {feature.dtype}  =  {feature.written}")
        for line in feature.means:
            click.echo(f"  {line}")
        for line in feature.picture:
            click.echo(f"    {line}")
        click.echo(f"  made of {', '.join(f'{part} = {slot}' for part, slot in feature.parts)}")
    click.echo(f"\n{click.style('kept', bold=True)}")
    for level, words in one.levels:
        click.echo(f"  {level}: {words}")
    print_table(
        ("slot", "holds", "for"),
        [(f"{k.level}/{k.slot}", k.holds, ", ".join(k.features)) for k in one.kept],
        "  ",
    )
    for program in one.programs:
        click.echo(f"\n{click.style(program.name, bold=True)}  {program.about}")
        for engine, sql, why in program.engines:
            if sql is None:
                click.echo(f"  -- {engine}: {why}")
                continue
            click.echo(f"  -- {engine}")
            for line in f"{sql};".splitlines():
                click.echo(f"  {line}")
