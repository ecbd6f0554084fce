"""`fs triggers`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from featurestore.cli.failures import ERROR, OK
from featurestore.cli.output import moment_text, print_json, print_table
from featurestore.cli.project import Settings, command

if TYPE_CHECKING:
    from featurestore.registry.alerts import Triggered


@command("triggers")
@click.option("--dry-run", is_flag=True, help="Say what is due, and run nothing.")
@click.option("--history", "past", is_flag=True, help="When triggers went off, why, and how that ended.")
@click.option("--at", metavar="TIME", help="As of this moment. Default: now.")
def triggers_command(settings: Settings, dry_run: bool, past: bool, at: str | None) -> int:
    """Whether a model is to be trained again, and why; runs what is due, once.

    Judged by what the newest pass of `fs monitor run` found. Exit status 1 when what was run did not end well.
    """
    from featurestore.monitor.triggers import RAN

    with settings.store() as store:
        if past:
            return _history(settings, store.trigger_history())
        with settings.progress("looking"):
            evaluations, done = store.triggers(at=at, dry_run=dry_run)
    if settings.json:
        told = [
            {"id": t.id, "trigger": t.title, "reasons": list(t.reasons), "outcome": t.outcome} for t in done
        ]
        print_json({"triggers": [e.to_json() for e in evaluations], "triggered": told})
    else:
        rows = [
            (
                e.trigger.title,
                "due" if e.due else "held back" if e.reasons else "not due",
                "; ".join(e.reasons) or "-",
                e.held_back or "-",
            )
            for e in evaluations
        ]
        if rows:
            print_table(("trigger", "state", "why", "held back"), rows)
        else:
            settings.note("the definitions hold no Trigger")
        for e in evaluations:
            for said in e.unknown:
                settings.note(f"trigger '{e.trigger.title}': {said}")
        for t in done:
            click.echo(f"{t.title} went off, {t.id}: it {t.outcome or 'runs'}")
    return ERROR if any(t.outcome not in (RAN, "") for t in done) else OK


def _history(settings: Settings, found: Sequence[Triggered]) -> int:
    if settings.json:
        print_json(
            [
                {
                    "id": t.id,
                    "trigger": t.title,
                    "service": t.service,
                    "at": moment_text(t.at),
                    "reasons": list(t.reasons),
                    "action": list(t.action),
                    "outcome": t.outcome,
                }
                for t in found
            ]
        )
        return OK
    rows = [(t.id[:8], t.title, moment_text(t.at), "; ".join(t.reasons), t.outcome or "runs") for t in found]
    print_table(("id", "trigger", "at", "why", "outcome"), rows)
    return OK
