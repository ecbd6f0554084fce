"""`fs monitor run`, `watch`, `report`, `rules` and `dashboard`."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from featurestore.cli.failures import ERROR, OK
from featurestore.cli.output import moment_text, print_json, print_table
from featurestore.cli.project import Settings, command, shared_options

if TYPE_CHECKING:
    from featurestore.errors import FeatureStoreError
    from featurestore.monitor.run import Ran

_COLOURS = {"healthy": "green", "needs a look": "yellow", "failing": "red", "not watched": None}


@command("run")
@click.argument("names", nargs=-1, metavar="[MONITOR]…")
@click.option("--at", metavar="TIME", help="As of this moment. Default: now.")
@click.option(
    "--textfile", type=click.Path(dir_okay=False), metavar="FILE", help="Write metrics for Prometheus here."
)
def run_command(settings: Settings, names: tuple[str, ...], at: str | None, textfile: str | None) -> int:
    """One pass: look at everything that is watched, keep what was found, tell whom it concerns.

    For any scheduler. Exit status 1 when an alert is firing.
    """
    with settings.store() as store, settings.progress("looking") as say:
        ran = store.monitor(names, at=at, say=say)
    if textfile is not None:
        _write_metrics(ran, Path(textfile))
    if settings.json:
        print_json(ran.to_json())
    else:
        _show(settings, ran)
    return ERROR if ran.firing else OK


@command("watch")
@click.option(
    "--every", default="5m", show_default=True, metavar="LENGTH", help="Between two passes: 30m, 1h."
)
@click.option(
    "--textfile", type=click.Path(dir_okay=False), metavar="FILE", help="Write metrics for Prometheus here."
)
def watch_command(settings: Settings, every: str, textfile: str | None) -> None:
    """Passes one after another, until interrupted. A pass that fails is said so, and the next one runs."""
    from featurestore.baselines import parse_length
    from featurestore.monitor.run import watch

    seconds = parse_length(every) / 1e6
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    def told(done: Ran | FeatureStoreError) -> None:
        if isinstance(done, Exception):
            click.echo(f"{click.style('this pass failed:', fg='red')} {done}", err=True)
            return
        if textfile is not None:
            _write_metrics(done, Path(textfile))
        if settings.json:
            print_json(done.to_json())
        else:
            click.echo(click.style(moment_text(done.at), dim=True))
            _show(settings, done)

    with settings.store() as store:
        watch(store.monitor, stop.wait, seconds, told)


def _write_metrics(ran: Ran, path: Path) -> None:
    from featurestore.monitor.exported import write

    write(ran, path)


def _show(settings: Settings, ran: Ran) -> None:
    for health in ran.health:
        colour = _COLOURS[health.word]
        name, _, rest = str(health).partition(": ")
        click.echo(
            f"{click.style(name, bold=True)}: {click.style(health.word, fg=colour)}{rest.removeprefix(health.word)}"
        )
    live = [a for a in ran.alerts if a.state != "resolved"]
    if live:
        rows = [
            (a.key[:8], a.state, a.severity, a.on, a.title, a.subject or "-", moment_text(a.since), a.said)
            for a in live
        ]
        click.echo()
        print_table(("id", "state", "severity", "on", "alert", "subject", "since", "what"), rows)
    unjudged = [f for f in ran.findings if f.condition == "not-judged" and f.state == "bad"]
    for finding in unjudged:
        settings.note(f"monitor '{finding.monitor}' could not judge {finding.subject}: {finding.said}")
    for one in ran.triggered:
        click.echo(f"trigger '{one.title}' went off: {'; '.join(one.reasons)}. It {one.outcome or 'runs'}")
    for failure in (*ran.delivered.failed, *ran.remarks):
        settings.note(failure)
    if ran.skipped:
        settings.note(f"not due yet: {', '.join(ran.skipped)}")


@command("report")
@click.option(
    "--out", default="report.html", show_default=True, type=click.Path(dir_okay=False), metavar="FILE"
)
@click.option("--since", metavar="TIME", help="From when on findings are drawn. Default: all that is kept.")
def report_command(settings: Settings, out: str, since: str | None) -> None:
    """One HTML file, complete in itself, of what monitors found: for a colleague."""
    with settings.store() as store, settings.progress("drawing"):
        text = store.monitoring_report(since=since)
    Path(out).write_text(text, encoding="utf-8")
    if settings.json:
        print_json({"report": out, "bytes": len(text)})
    else:
        click.echo(out)


@command("rules")
def rules_command(settings: Settings) -> None:
    """Rules for Prometheus, out of the monitors of the definitions: recording rules and alerts, as YAML."""
    from featurestore.monitor.exported import rules, rules_yaml

    with settings.store() as store:
        found = rules(store.policies(), store.config.alerts.get("runbooks", "docs/runbooks"))
    if settings.json:
        print_json(found)
    else:
        click.echo(rules_yaml(found), nl=False)


@command("dashboard")
def dashboard_command(settings: Settings) -> None:
    """A dashboard for Grafana, out of the same: JSON to import."""
    from featurestore.monitor.exported import dashboard

    with settings.store() as store:
        print_json(dashboard(store.config.name, store.policies()))


@click.group("monitor", context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@shared_options
@click.pass_context
def monitor_command(ctx: click.Context, /, **options: object) -> None:
    """Watch data, models and servers: one pass, pass after pass, a report, rules for Prometheus."""
    ctx.obj = Settings.of(options, ctx.find_object(Settings))


for _command in (run_command, watch_command, report_command, rules_command, dashboard_command):
    monitor_command.add_command(_command)
