"""`fs log`: the capture log."""

from __future__ import annotations

import json
import signal
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import click

from featurestore.cli.complete import readable_names, services
from featurestore.cli.output import moment_text, print_json, print_table, size_text
from featurestore.cli.project import Settings, command, shared_options

if TYPE_CHECKING:
    from featurestore.capture.returned import What
    from featurestore.capture_topic import Fetched

RETURNED: Final[tuple[What, ...]] = ("predictions", "labels")


@click.group("log", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@shared_options
@click.pass_context
def log_command(ctx: click.Context, /, **options: Any) -> None:
    """What was served and captured, and what came back of it."""
    ctx.obj = Settings.of(options, ctx.find_object(Settings))


@command("status")
def status_command(settings: Settings) -> None:
    """How many rows are kept, by service and by the fingerprint of what they mean, and what was shed or damaged."""
    with settings.store() as store:
        capture = store.capture
        kept, writers = capture.status(), capture.writers()
        logs = {what: capture.returned(what) for what in RETURNED}
        back = {what: (log.counts(), log.damaged()) for what, log in logs.items()}
    if settings.json:
        rows = [{**asdict(s), "last_at": moment_text(s.last_at)} for s in kept]
        for row in rows:
            row["bad_files"] = [str(f) for f in row["bad_files"]]
        returned: dict[str, dict[str, int]] = {
            what: {
                "kept": t.rows,
                "changed": t.changed,
                "unknown": t.unknown,
                "early": t.early,
                "damaged": damaged,
            }
            for what, (t, damaged) in back.items()
        }
        print_json({"schemas": rows, "processes": asdict(writers), **returned})
        return
    print_table(
        ("service", "fingerprint", "rows", "in Parquet", "files", "size", "in the log", "damaged", "last"),
        [
            (
                s.service,
                s.fingerprint[:8],
                s.rows,
                s.rows - s.logged_rows,
                s.files,
                size_text(s.file_bytes + s.log_bytes),
                s.logged_rows,
                s.damaged_rows,
                moment_text(s.last_at),
            )
            for s in kept
        ],
    )
    lost = [f"{n:,} {w}" for n, w in ((writers.shed, "shed"), (writers.failed, "failed")) if n]
    if lost:
        click.echo(f"of {writers.offered:,} rows served: {', '.join(lost)}")
    for what, (taken, damaged) in back.items():
        if taken.rows or damaged:
            bad = f"; {damaged:,} were damaged, and can be sent again" if damaged else ""
            click.echo(
                f"{what}: {taken.rows:,} kept, {taken.changed:,} of them later versions; "
                f"{taken.unknown:,} of rows unknown then, {taken.early:,} before their request{bad}"
            )


@command("compact")
@click.argument("service", required=False, shell_complete=readable_names)
def compact_command(settings: Settings, service: str | None) -> None:
    """Move what the log holds into Parquet files by day, and remove what is past its retention.

    Others may serve and read meanwhile; killed at any moment, each row is still read once. Default: all services.
    """
    with settings.store() as store, settings.progress("compacting"):
        done = store.capture.compact(service)
    if settings.json:
        print_json({"compacted": [asdict(d) for d in done]})
        return
    print_table(
        ("service", "fingerprint", "rows", "files", "size", "removed"),
        [(d.service, d.fingerprint[:8], d.rows, d.files, size_text(d.bytes), d.removed) for d in done],
    )


@command("lag")
@click.argument("service", shell_complete=services)
@click.option(
    "--quantile",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="0.5 is the lag that half of the rows had, 1 the worst.",
)
@click.option("--start", metavar="TIME", help="Requests from this moment on.")
@click.option("--end", metavar="TIME", help="Requests before this moment.")
def lag_command(
    settings: Settings, service: str, quantile: float, start: str | None, end: str | None
) -> None:
    """How far behind the events of each source a service was when it served, by its captured rows.

    It is what `fs dataset --knowledge arrived --lag fitted` trains with: the age of the watermark, and the way of an event to
    its arrival where the source does not name arrivals.
    """
    with settings.store() as store:
        found = store.lags(service, quantile=quantile, start=start, end=end)
    if settings.json:
        print_json({"service": service, "quantile": quantile, "lags": [f.to_json() for f in found.values()]})
        return
    print_table(
        ("source", "rows", "lag", "watermark", "under way", "median", "p95", "most"),
        [
            (f.source, f.rows, *map(str, (f.lag, f.behind, f.under_way, f.median, f.p95, f.most)))
            for f in found.values()
        ],
    )


@command("fetch")
@click.option("--follow", is_flag=True, help="Go on until interrupted.")
@click.option(
    "--every",
    type=click.FloatRange(min=0.01),
    metavar="SECONDS",
    help="With --follow, between two looks (1).",
)
def fetch_command(settings: Settings, follow: bool, every: float | None) -> None:
    """Bring what was captured to a Kafka topic into the capture log, from where the last fetch ended, and end.

    With `sink = "kafka"` in `[capture]`, those who serve write to the topic alone. Killed at any moment, each row is there once.
    """
    if follow:
        _follow(settings, every or 1.0)
        return
    if every is not None:
        raise click.UsageError("--every is of --follow: give that too")
    with settings.store() as store, settings.progress("fetching"):
        done = store.capture.fetch()
    _show_fetched(settings, done)


def _follow(settings: Settings, seconds: float) -> None:
    """Fetches until interrupted; a line for each time that rows came, and for each time that no broker answered."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with settings.store() as store:
        for done in store.capture.follow(stop.wait, seconds):
            if isinstance(done, Exception):
                click.echo(f"{click.style('no answer:', fg='red')} {done}", err=True)
            elif settings.json and (done.records or done.again):
                click.echo(json.dumps(asdict(done)))  # a line each
            elif done.records or done.again:
                _show_fetched(settings, done)


def _show_fetched(settings: Settings, done: Fetched) -> None:
    if settings.json:
        print_json(asdict(done))
        return
    again = f"; {done.again:,} came again" if done.again else ""
    click.echo(f"{done.rows:,} rows of {done.records:,} records{again}")


for one in (status_command, compact_command, lag_command, fetch_command):
    log_command.add_command(one)
