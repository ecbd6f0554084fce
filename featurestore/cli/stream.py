"""`fs stream`."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from featurestore.cli.complete import all_names, readable_names
from featurestore.cli.failures import ERROR, OK
from featurestore.cli.length import length_of
from featurestore.cli.output import age_text, moment_text, print_json, print_table, size_text
from featurestore.cli.project import Settings, command, shared_options

if TYPE_CHECKING:
    from featurestore.flink import DeadLetter, JobStatus
    from featurestore.stream import LogStatus, StreamStatus


@click.group("stream", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@shared_options
@click.pass_context
def stream_command(ctx: click.Context, /, **options: Any) -> None:
    """Keep online values fresh from the events that are pushed."""
    ctx.obj = Settings.of(options, ctx.find_object(Settings))


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
@click.option(
    "--reset", is_flag=True, help="Forget the stream's state: start from what the log or topic holds."
)
@click.option("--take-over", is_flag=True, help="Own views that another stream, gone for good, had owned.")
@click.option("--join", is_flag=True, hidden=True, help="Only keep running what `start` began.")
def run_command(
    settings: Settings,
    engine: str | None,
    once: bool,
    select: tuple[str, ...],
    reset: bool,
    take_over: bool,
    join: bool,
) -> None:
    """Turn pushed events into online values, until interrupted.

    One process feeds a view. Killed at any moment, the next run goes on where it was: no event is lost or counted twice.
    With --engine flink: the jobs of the views, kept running; interrupted, each ends with a savepoint.
    """
    stop = threading.Event()
    if not once:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    began = time.monotonic()
    with settings.store() as store:
        names = list(select) or None
        if join:
            store.supervise_stream(stop, say=click.echo)
            return
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


@command("write")
@click.option("--once", is_flag=True, help="Put in what is there, then end.")
@click.option(
    "--select",
    multiple=True,
    metavar="WHAT",
    shell_complete=readable_names,
    help="A view, a service, tag:NAME or owner:NAME; may be given again. Default: every view of a Kafka topic.",
)
@click.option(
    "--reset", is_flag=True, help="Read the tile topics from their beginning, whatever was lost of them."
)
@click.option("--take-over", is_flag=True, help="Own views that another stream, gone for good, had owned.")
def write_command(
    settings: Settings, once: bool, select: tuple[str, ...], reset: bool, take_over: bool
) -> None:
    """Put the tiles of Flink jobs from their topics into the online store, until interrupted.

    Any number of processes share the work: run as many as are wanted. One that is killed loses nothing, and the others go on.
    """
    stop = threading.Event()
    if not once:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    began = time.monotonic()
    with settings.store() as store:
        came = store.write_stream(
            list(select) or None, once=once, stop=stop, reset=reset, take_over=take_over, say=settings.note
        )
        told = store.written(list(select) or None)
    took = time.monotonic() - began
    if settings.json:
        print_json({"records": came, "seconds": round(took, 3), "views": [asdict(s) for s in told]})
        return
    settings.note(f"{came:,} tile records in {took:.1f} s")
    rows = [
        (s.view, s.lag, *(s.counts.get(n, 0) for n in ("records", "heads", "refused", "late"))) for s in told
    ]
    print_table(("view", "waiting", "records", "heads", "refused", "late"), rows)


_ENGINE = click.option(
    "--engine", type=click.Choice(["embedded", "flink"]), help="Default: [stream] engine in fs.toml."
)
_SELECT = click.option(
    "--select",
    multiple=True,
    metavar="WHAT",
    shell_complete=readable_names,
    help="A view, a service, tag:NAME or owner:NAME; may be given again. Default: every view of a stream.",
)


@command("start")
@_ENGINE
@_SELECT
@click.option(
    "--fresh",
    is_flag=True,
    help="Begin jobs anew, from the first event that materialised values do not have.",
)
def start_command(settings: Settings, engine: str | None, select: tuple[str, ...], fresh: bool) -> None:
    """Have streams run in the background, from where they were. What runs already is left alone."""
    with settings.store() as store:
        store.start_stream(list(select) or None, engine=engine, fresh=fresh, say=settings.note)
    _done(settings, "started", select)


@command("pause")
@_ENGINE
@_SELECT
def pause_command(settings: Settings, engine: str | None, select: tuple[str, ...]) -> None:
    """Stop jobs with a savepoint each, for a while: writers and cluster stay. `start` goes on."""
    with settings.store() as store:
        store.pause_stream(list(select) or None, engine=engine, say=settings.note)
    _done(settings, "paused", select)


@command("stop")
@_ENGINE
@_SELECT
def stop_command(settings: Settings, engine: str | None, select: tuple[str, ...]) -> None:
    """Stop streams, jobs of Flink with a savepoint each. When none is left, writers and a local cluster end as well."""
    with settings.store() as store:
        store.stop_stream(list(select) or None, engine=engine, say=settings.note)
    _done(settings, "stopped", select)


@command("restart")
@_ENGINE
@_SELECT
def restart_command(settings: Settings, engine: str | None, select: tuple[str, ...]) -> None:
    """Stop streams and start them from where they were."""
    with settings.store() as store:
        store.restart_stream(list(select) or None, engine=engine, say=settings.note)
    _done(settings, "restarted", select)


@command("upgrade")
@_ENGINE
@_SELECT
def upgrade_command(settings: Settings, engine: str | None, select: tuple[str, ...]) -> None:
    """Bring changed definitions into force without a gap: what is served is served until the new is complete.

    For each view whose job changes: its base, a job beside the old one, values until they have all that came, a comparison with
    batch. Then the definitions are applied, and old jobs end. What is applied already is taken up as it is.
    """
    with settings.store() as store:
        done = store.upgrade_stream(list(select) or None, engine=engine, say=settings.note)
    if settings.json:
        print_json({"done": "upgraded", "select": list(select), "views": [asdict(u) for u in done]})


def _done(settings: Settings, what: str, select: Sequence[str]) -> None:
    if settings.json:
        print_json({"done": what, "select": list(select)})


@command("status")
@_ENGINE
def status_command(settings: Settings, engine: str | None) -> None:
    """How far the stream of each view is, and what became of its events."""
    with settings.store() as store:
        if (engine or store.config.stream_engine) == "flink":
            _jobs(settings, store.job_status())
            return
        told = store.stream_status()
    if settings.json:
        print_json({"views": [asdict(s) for s in told]})
        return
    _table(told)


def _jobs(settings: Settings, told: Sequence[JobStatus]) -> None:
    if settings.json:
        print_json({"views": [asdict(s) for s in told]})
        return
    now = time.time_ns() // 1000

    def ago(at: int | None) -> str | None:
        return None if at is None else age_text(max(now - at, 0) / 1e6)

    rows = [
        (
            s.view, s.wanted, s.state, s.restarts, s.lag, s.waiting, ago(s.clock), ago(s.checkpoint_at),
            None if s.checkpoint_bytes is None else size_text(s.checkpoint_bytes),
            sum(s.counts.get(n, 0) for n in _REASONS), s.counts.get("late", 0), len(s.writers),
        )
        for s in told
    ]  # fmt: skip
    print_table(
        ("view", "wanted", "job", "restarts", "waiting", "tiles waiting", "behind", "checkpoint", "size",
         "dead letters", "late", "writers"),
        rows,
    )  # fmt: skip
    for s in told:
        if s.failure is not None:
            click.echo(f"\n{s.view}: {s.failure}")


_REASONS = ("unreadable", "no event time", "no key", "of the future", "unequal copy")


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
        if store.config.stream_engine == "flink":
            _letters(settings, store.job_dead_letters(view))
            return
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


def _letters(settings: Settings, dead: Sequence[tuple[str, DeadLetter]]) -> None:
    if settings.json:
        letters = [
            {
                "view": name,
                "number": d.place,
                "at": moment_text(d.at),
                "reason": d.reason,
                "detail": d.detail,
                "event": d.event,
            }
            for name, d in dead
        ]
        print_json({"dead_letters": letters})
        return
    print_table(
        ("view", "number", "at", "reason", "detail"),
        [(name, d.place, moment_text(d.at), d.reason, d.detail) for name, d in dead],
    )


def _numbers(given: Sequence[str]) -> list[int] | None:
    wrong = [g for g in given if not g.isdecimal()]
    if wrong:
        raise click.UsageError(
            f"'{wrong[0]}' is no number of a dead letter; `fs stream dead-letters list` has them"
        )
    return list(map(int, given)) or None


@command("replay")
@click.argument("view", shell_complete=readable_names)
@click.argument("numbers", nargs=-1, metavar="[NUMBER...]")
def replay_command(settings: Settings, view: str, numbers: tuple[str, ...]) -> None:
    """Give events that were set aside to their log or topic again, as if they had arrived now. Default: all of the view's."""
    with settings.store() as store:
        done: list[Any]
        names: list[Any]
        if store.config.stream_engine == "flink":
            done = store.replay_job_dead_letters(view, numbers or None)
            names = [d.place for d in done]
        else:
            done = store.replay_dead_letters(view, _numbers(numbers))
            names = [d.number for d in done]
    if settings.json:
        print_json({"view": view, "replayed": names})
        return
    click.echo(f"{len(done):,} events appended again")


@click.group("log")
def log_group() -> None:
    """The logs that pushed events lie in: what they hold, what is damaged, what may go."""


@command("status")
@click.argument("source", required=False, shell_complete=all_names)
@click.option("--check", is_flag=True, help="Read every event, and compare checksums.")
def log_status_command(settings: Settings, source: str | None, check: bool) -> int:
    """What the log of each stream source holds, and how far each view's stream has read it.

    Exit status 1 when something is damaged: it says the command that sets it aside.
    """
    with settings.store() as store:
        logs = store.event_logs(source, check=check)
    damaged = any(log.damage for log in logs)
    if settings.json:
        print_json({"logs": [_log_json(log) for log in logs]})
        return ERROR if damaged else OK
    print_table(_LOG_COLUMNS, map(_log_row, logs))
    for error in (error for log in logs for error in log.damage):
        click.echo(f"\n{error}")
    return ERROR if damaged else OK


_LOG_COLUMNS = (
    *("source", "start", "end", "segments", "size", "appends", "clamped", "skipped", "bad files"),
    *("last append", "read"),
)


def _log_row(log: LogStatus) -> tuple[object, ...]:
    read = ", ".join(f"{name}: {'-' if at is None else f'{at:,}'}" for name, at in log.read.items())
    s = log.stats
    if s is None:
        return log.source, *[None] * 9, read or None
    figures = s.start, s.end, s.segments, size_text(s.bytes), s.appends, s.clamped, s.skipped
    return log.source, *figures, len(s.bad_files), _moment(s.last_appended_at), read or None


def _log_json(log: LogStatus) -> dict[str, Any]:
    said: dict[str, Any] = {"source": log.source}
    if log.stats is not None:
        said |= asdict(log.stats) | {"last_appended_at": _moment(log.stats.last_appended_at)}
    damage = [
        {"file": e.file, "position": e.position, "offset": e.offset, "reason": e.reason} for e in log.damage
    ]
    return said | {"read": dict(log.read), "damage": damage}


def _moment(at: int | None) -> str | None:
    return None if at is None else moment_text(at)


@command("skip")
@click.argument("source", shell_complete=all_names)
@click.argument("offset", type=click.IntRange(min=0))
def log_skip_command(settings: Settings, source: str, offset: int) -> None:
    """Set damaged bytes aside, so that streams go on after them.

    OFFSET is where the error says that reading stopped. The bytes are kept in a .bad file beside the log, and the events in
    them are counted as skipped; every other event keeps its offset.
    """
    with settings.store() as store:
        done = store.skip_log(source, offset)
    if settings.json:
        print_json({"source": source, **asdict(done)})
        return
    click.echo(f"{done.rows:,} offsets from {done.first_offset:,} on of '{source}' set aside in {done.file}")


@command("prune")
@click.argument("source", shell_complete=all_names)
@click.option(
    "--older-than", metavar="LENGTH", help="Events pushed longer ago than this: 7d, 12h, 30m or 10s."
)
@click.option("--before", type=click.IntRange(min=0), metavar="OFFSET", help="Events below this offset.")
@click.option(
    "--force", is_flag=True, help="Even events that a stream has not read: it stops, and wants --reset."
)
def log_prune_command(
    settings: Settings, source: str, older_than: str | None, before: int | None, force: bool
) -> None:
    """Remove old events from the start of a log. Whole segments go, those with no event that is to stay."""
    if older_than is None and before is None:
        raise click.UsageError("prune what? give --older-than LENGTH, --before OFFSET, or both")
    age = None if older_than is None else length_of("--older-than", older_than)
    with settings.store() as store:
        done = store.prune_log(source, before=before, older_than=age, force=force)
    if settings.json:
        print_json({"source": source, **asdict(done)})
        return
    segments = f"{done.segments:,} segment{'' if done.segments == 1 else 's'}"
    click.echo(
        f"{segments} of '{source}' removed, {size_text(done.bytes)}; it starts at offset {done.start:,}"
    )


for part in (
    run_command,
    start_command,
    status_command,
    pause_command,
    stop_command,
    restart_command,
    upgrade_command,
    write_command,
):
    stream_command.add_command(part)
for part in (list_command, replay_command):
    dead_letters_group.add_command(part)
for part in (log_status_command, log_skip_command, log_prune_command):
    log_group.add_command(part)
stream_command.add_command(dead_letters_group)
stream_command.add_command(log_group)
