"""`fs doctor`."""

from __future__ import annotations

import time
from dataclasses import asdict

import click

from featurestore.cli.failures import ERROR, OK
from featurestore.cli.output import print_json
from featurestore.cli.project import Settings, command

_MARKS = {"ok": ("ok   ", "green"), "wrong": ("WRONG", "red"), "unknown": ("?    ", "yellow")}


@command("doctor")
def doctor_command(settings: Settings) -> int:
    """Whether everything is reachable, fresh and consistent, and what to do where it is not.

    Exit status 1 when something is wrong. Changes nothing.
    """
    from featurestore.cli.version import version
    from featurestore.doctor import examine

    checks = examine(settings.root(), settings.environment, time.time_ns() // 1000, version())
    fine = all(c.state == "ok" for c in checks)
    if settings.json:
        print_json({"ok": fine, "checks": [asdict(c) for c in checks]})
        return OK if fine else ERROR
    for check in checks:
        if settings.quiet and check.state == "ok":
            continue
        mark, colour = _MARKS[check.state]
        head, *rest = check.text.splitlines() or [""]
        click.echo(f"{click.style(mark, fg=colour)}  {check.subject}: {head}")
        for line in [*rest, *check.way_out]:
            click.echo(f"         {line.strip()}")
    wrong = sum(c.state == "wrong" for c in checks)
    settings.note("all is well" if fine else f"{wrong} of {len(checks)} checks found something wrong")
    return OK if fine else ERROR
