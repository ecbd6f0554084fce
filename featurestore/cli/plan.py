"""`fs plan` and `fs apply`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featurestore.cli.failures import CHANGES, ERROR, OK
from featurestore.cli.output import moment_text, print_json
from featurestore.cli.project import Settings, command

if TYPE_CHECKING:
    from featurestore.planning import ChangePlan

_COLOURS = {"+": "green", "-": "red", "!": "red", "~": "yellow", "warning": "yellow", "refused": "red"}


@command("plan")
@click.option(
    "--out", type=click.Path(dir_okay=False), metavar="FILE", help="Save the plan, for `fs apply FILE`."
)
def plan_command(settings: Settings, out: str | None) -> int:
    """What applying the definitions would change, and what that costs.

    Exit status: 0 when nothing would change, 2 when something would, 1 when it cannot be applied.
    """
    with settings.store() as store:
        change = store.plan()
    if out is not None:
        Path(out).write_text(change.to_json(), encoding="utf-8")
    if settings.json:
        print_json(_as_json(change))
    else:
        _show(change)
        if out is not None:
            settings.note(f"saved; `fs apply {out}` does exactly this")
        elif not change.is_empty and not change.blocked:
            settings.note("`fs apply` does exactly this")
    return ERROR if change.blocked else OK if change.is_empty else CHANGES


@command("apply")
@click.argument("plan", required=False, type=click.Path(exists=True, dir_okay=False))
@click.option("--yes", "-y", is_flag=True, help="Without asking.")
@click.option("--verified", is_flag=True, help="Only if `fs verify` has passed every view as it is.")
@click.option(
    "--at-once",
    is_flag=True,
    help="Switch views of running Flink jobs before their new versions are complete.",
)
def apply_command(settings: Settings, plan: str | None, yes: bool, verified: bool, at_once: bool) -> int:
    """Make the definitions the ones in force: all of them, or nothing.

    With PLAN, a file from `fs plan --out`, exactly that and nothing newer. Asks first; without a terminal to ask at,
    it needs --yes. A view whose Flink job runs gets its new one beside it first: what is served is served until the
    new is complete and agrees with batch.
    """
    with settings.store() as store:
        change = store.plan() if plan is None else _saved(Path(plan))
        if not settings.json and not (settings.quiet and yes):
            _show(change)
        if not (change.is_empty or change.blocked or yes) and not _agreed(settings):
            return ERROR
        revision = store.apply(change, verified=verified, at_once=at_once, say=settings.note)
    if settings.json:
        done = {
            "revision": revision.number,
            "author": revision.author,
            "applied_at": moment_text(revision.created_at),
        }
        print_json({**_as_json(change), **done})
    elif change.is_empty:
        settings.note(f"still at revision {revision.number}")
    else:
        click.echo(f"applied: revision {revision.number}")
        if any(c.cost is not None for c in change.changes):
            settings.note("`fs materialize` writes the new features to the online store")
    return OK


def _saved(path: Path) -> ChangePlan:
    from featurestore.errors import RegistryError
    from featurestore.planning import ChangePlan

    try:
        return ChangePlan.from_json(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise RegistryError(f"{path}: not a saved plan\n  `fs plan --out FILE` writes one") from error


def _agreed(settings: Settings) -> bool:
    if not sys.stdin.isatty():
        text = (
            "nothing was applied: there is no terminal to ask at\n  `fs apply --yes` applies without asking"
        )
        if settings.json:
            print_json({"error": {"type": "Unconfirmed", "message": text}})
        else:
            click.echo(text, err=True)
        return False
    if click.confirm("apply this?", err=True):
        return True
    click.echo("nothing was applied", err=True)
    return False


def _show(change: ChangePlan) -> None:
    from featurestore.planning import render

    for line in render(change):
        mark = line.partition(" ")[0].rstrip(":")
        click.echo(click.style(line, fg=_COLOURS[mark]) if mark in _COLOURS else line)


def _as_json(change: ChangePlan) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "base_revision": change.base_revision,
        "changes": json.loads(json.dumps([asdict(c) for c in change.changes])),
        "service_versions": {d.service: d.version for d in change.drafts},
        "warnings": list(change.warnings),
        "blocked": list(change.blocked),
    }
