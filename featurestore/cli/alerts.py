"""`fs alerts list`, `ack` and `snooze`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from featurestore.cli.failures import ERROR, OK
from featurestore.cli.output import moment_text, print_json, print_table
from featurestore.cli.project import Settings, command, shared_options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from featurestore.monitor.alerts import AlertState


@command("list")
@click.option("--all", "everything", is_flag=True, help="Those that are over as well.")
def list_command(settings: Settings, everything: bool) -> int:
    """What fires, since when, and what waits to be told. Exit status 1 when something fires."""
    from featurestore.registry.alerts import outbox

    with settings.store() as store:
        found = [a for a in store.alerts() if everything or a.state != "resolved"]
        waiting = [w for w in outbox(store.registry) if w.delivered_at is None]
    if settings.json:
        messages = [
            {
                "id": w.id,
                "channel": w.channel,
                "since": moment_text(w.made_at),
                "attempts": w.attempts,
                "next": moment_text(w.not_before),
                "given_up": w.given_up_at is not None,
                "error": w.error,
            }
            for w in waiting
        ]
        print_json({"alerts": [a.to_json() for a in found], "waiting": messages})
    else:
        _table(found)
        for w in waiting:
            settings.note(
                f"not delivered to '{w.channel}' after {w.attempts} attempts: {w.error or 'its time has not come'}"
            )
        if not found:
            settings.note("nothing fires")
    return ERROR if any(a.state == "firing" for a in found) else OK


def _table(found: Iterable[AlertState]) -> None:
    rows = [
        (
            a.key[:8],
            _state(a),
            a.severity,
            a.on,
            a.title,
            a.subject or "-",
            moment_text(a.since),
            ", ".join(a.models) or "-",
            a.said,
        )
        for a in found
    ]
    if rows:
        print_table(("id", "state", "severity", "on", "alert", "subject", "since", "models", "what"), rows)


def _state(alert: AlertState) -> str:
    if alert.acked is not None:
        return f"{alert.state}, acked by {alert.acked}"
    if alert.muted_until is not None and alert.state != "resolved":
        return f"{alert.state}, quiet until {moment_text(alert.muted_until)}"
    return alert.state


@command("ack")
@click.argument("names", nargs=-1, required=True, metavar="ALERT…")
@click.option("--who", metavar="NAME", help="Who takes care of it. Default: you.")
def ack_command(settings: Settings, names: tuple[str, ...], who: str | None) -> None:
    """Take note of alerts: they are told no more until they are over. ALERT is an id, or the name of an alert or monitor."""
    with settings.store() as store:
        found = store.acknowledge(*names, who=who)
    _changed(settings, found)


@command("snooze")
@click.argument("names", nargs=-1, required=True, metavar="ALERT…")
@click.option("--for", "length", required=True, metavar="LENGTH", help="How long: 30m, 4h, 2d.")
def snooze_command(settings: Settings, names: tuple[str, ...], length: str) -> None:
    """Keep alerts quiet for a while. ALERT is an id, or the name of an alert or monitor."""
    from featurestore.baselines import parse_length
    from featurestore.time import Duration

    with settings.store() as store:
        found = store.snooze(*names, length=Duration(parse_length(length)))
    _changed(settings, found)


def _changed(settings: Settings, found: list[AlertState]) -> None:
    if settings.json:
        print_json({"alerts": [a.to_json() for a in found]})
    else:
        _table(found)


@click.group("alerts", context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@shared_options
@click.pass_context
def alerts_command(ctx: click.Context, /, **options: object) -> None:
    """What fires: list, acknowledge, snooze."""
    ctx.obj = Settings.of(options, ctx.find_object(Settings))


for _command in (list_command, ack_command, snooze_command):
    alerts_command.add_command(_command)
