"""`fs stream`."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from featurestore.cli.complete import readable_names
from featurestore.cli.output import age_text, moment_text, print_json, print_table
from featurestore.cli.project import Settings, command

if TYPE_CHECKING:
    from featurestore.stream import StreamStatus


@click.group("stream", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def stream_command() -> None:
    """Keep online values fresh from the events that are pushed."""


@command("run")
@click.option(
    "--engine", type=click.Choice(["embedded", "flink"]), help="Default: [stream] engine in fs.toml."
)
@click.option("--once", is_flag=True, help="Take what is there, then end.")
@click.option(
    "--select",
    multiple=True,
    metavar="WHAT",
    shell_complete=readable_names,
    help="A view, a service, tag:NAME or owner:NAME; may be given again. Default: every view of a stream.",
)
@click.option("--reset", is_flag=True, help="Forget the stream's state: start from what the log holds.")
@click.option("--take-over", is_flag=True, help="Own views that another stream, gone for good, had owned.")
def run_command(
    settings: Settings, engine: str | None, once: bool, select: tuple[str, ...], reset: bool, take_over: bool
) -> None:
    """Turn pushed events into online values, until interrupted.

    One process feeds a view. Killed at any moment, the next run goes on where it was: no event is lost or counted twice.
    """
    stop = threading.Event()
    if not once:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    began = time.monotonic()
    with settings.store() as store:
        names = list(select) or None
        if not once:
            settings.note("streaming; Ctrl-C ends it")
        came = store.run_stream(
            names, engine=engine, once=once, stop=stop, reset=reset, take_over=take_over, say=settings.note
        )
        told = store.stream_status()
    if settings.json:
        print_json(
            {
                "events": came,
                "seconds": round(time.monotonic() - began, 3),
                "views": [asdict(s) for s in told],
            }
        )
        return
    settings.note(f"{came:,} events in {time.monotonic() - began:.1f} s")
    _table(told)


@command("status")
def status_command(settings: Settings) -> None:
    """How far the stream of each view is, and what became of its events."""
    with settings.store() as store:
        told = store.stream_status()
    if settings.json:
        print_json({"views": [asdict(s) for s in told]})
        return
    _table(told)


def _table(told: Sequence[StreamStatus]) -> None:
    now = time.time_ns() // 1000
    rows = []
    for s in told:
        ago = None if s.clock is None else age_text(max(now - s.clock, 0) / 1e6)
        counts = [s.counts.get(n, 0) for n in ("applied", "late", "duplicate")]
        rows.append((s.view, s.source, s.lag, ago, *counts, s.dead))
    print_table(
        ("view", "source", "waiting", "behind", "applied", "late", "duplicates", "dead letters"), rows
    )


@click.group("dead-letters")
def dead_letters_group() -> None:
    """Events that were set aside: from the future, of the wrong shape, or unequal copies."""


@command("list")
@click.argument("view", required=False, shell_complete=readable_names)
def list_command(settings: Settings, view: str | None) -> None:
    """Events that were set aside, with the reason."""
    with settings.store() as store:
        dead = store.dead_letters(view)
    if settings.json:
        letters = [
            {
                "view": name,
                "number": d.number,
                "at": moment_text(d.at),
                "place": d.place,
                "reason": d.reason,
                "event": d.event,
            }
            for name, d in dead
        ]
        print_json({"dead_letters": letters})
        return
    print_table(
        ("view", "number", "at", "place", "reason"),
        [(name, d.number, moment_text(d.at), d.place, d.reason) for name, d in dead],
    )


@command("replay")
@click.argument("view", shell_complete=readable_names)
@click.argument("numbers", nargs=-1, type=int, metavar="[NUMBER...]")
def replay_command(settings: Settings, view: str, numbers: tuple[int, ...]) -> None:
    """Append events that were set aside to their log again, as if they had arrived now. Default: all of the view's."""
    with settings.store() as store:
        done = store.replay_dead_letters(view, numbers or None)
    if settings.json:
        print_json({"view": view, "replayed": [d.number for d in done]})
        return
    click.echo(f"{len(done):,} events appended again")


for part in (run_command, status_command):
    stream_command.add_command(part)
for part in (list_command, replay_command):
    dead_letters_group.add_command(part)
stream_command.add_command(dead_letters_group)
