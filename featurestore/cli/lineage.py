"""`fs lineage`."""

from __future__ import annotations

from typing import Any

import click

from featurestore.cli.complete import all_names
from featurestore.cli.output import print_json
from featurestore.cli.project import Settings, command


@command("lineage")
@click.argument("name", shell_complete=all_names)
@click.option("--definitions", is_flag=True, help="The definitions, whatever is applied.")
def lineage_command(settings: Settings, name: str, definitions: bool) -> None:
    """Where a column comes from, and what is made of it: columns of sources, features, columns of services.

    NAME is SOURCE.COLUMN, VIEW:FEATURE, SERVICE.COLUMN, the column alone, or a source, view or service: then each of its
    columns. In brackets stands what one column is to the next.
    """
    from featurestore.lineage import lineage, plain

    with settings.store() as store:
        applied = not definitions and store.registry.current().number > 0
        plan = store.registry.current().plan if applied else store.definitions()
    whole = lineage(plan)
    found = [
        {**plain(n), "from": whole.tree(n, "up"), "to": whole.tree(n, "down")} for n in whole.found(name)
    ]
    if settings.json:
        print_json({"found": found})
        return
    for number, node in enumerate(found):
        gap = "\n" if number else ""
        click.echo(gap + click.style(_text(node), bold=True))
        for direction, words in (("from", "made of"), ("to", "goes into")):
            if node[direction]:
                click.echo(f"  {words}")
                _tree(node[direction], direction, "    ")


def _tree(nodes: list[dict[str, Any]], direction: str, indent: str) -> None:
    for node in nodes:
        click.echo(f"{indent}{_text(node)}  [{', '.join(node['roles'])}]")
        _tree(node[direction], direction, indent + "  ")


def _text(node: dict[str, Any]) -> str:
    joint = ":" if node["kind"] == "feature" else "."
    where = f"  ({node['where']})" if "where" in node else ""
    return f"{node['kind']} {node['owner']}{joint}{node['name']}{where}"
