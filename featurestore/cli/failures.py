"""What becomes of an error: a message and an exit status; a traceback only for what nobody expected."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from featurestore.errors import DefinitionError, FeatureStoreError

OK, ERROR, CHANGES, USAGE, INTERRUPTED, PIPE = 0, 1, 2, 2, 130, 141
"""Exit statuses; PIPE is what a shell gives a program whose reader has gone."""


def explain(error: BaseException, *, as_json: bool) -> int:
    """Says what went wrong, on stdout as JSON if asked for, and gives the exit status."""
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case BrokenPipeError():
            return gone_away()
        case SystemExit():
            return error.code if isinstance(error.code, int) else OK if error.code is None else ERROR
        case click.Abort() | KeyboardInterrupt():
            return interrupted()
        case click.ClickException():
            _say(error, _usage_text(error), as_json=as_json, head="usage")
            return USAGE
        case FeatureStoreError() | OSError():
            _say(error, _text(error), as_json=as_json)
            return ERROR
        case _ if (typed := _of_the_engine(error)) is not None:
            _say(typed, str(typed), as_json=as_json)
            return ERROR
        case _:
            traceback.print_exception(error)
            report = "this is a fault of featurestore: please report it with all of the above and `fs doctor --json`"
            if as_json:
                _print_error(error, str(error), report=report)
            click.echo(f"\n{report}", err=True)
            return ERROR


@contextmanager
def noticing_interrupts() -> Iterator[list[int]]:
    """Yields a list that each Ctrl-C adds to: libraries turn a KeyboardInterrupt into errors of their own, or lose it."""
    seen: list[int] = []

    def notice(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield seen  # somebody else's business
        return
    signal.signal(signal.SIGINT, notice)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


def interrupted() -> int:
    """Says that Ctrl-C was heard; the exit status."""
    click.echo("\ninterrupted", err=True)
    return INTERRUPTED


def gone_away() -> int:
    """Whoever read the output has gone: the exit status, after seeing to it that Python does not complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE


def _of_the_engine(error: BaseException) -> FeatureStoreError | None:
    """What DuckDB raises about files and memory, typed; DuckDB is loaded then, and not before."""
    if not type(error).__module__.lstrip("_").startswith("duckdb"):
        return None
    import duckdb

    from featurestore.compile.sources import engine_error

    return engine_error(error) if isinstance(error, duckdb.Error) else None


def _text(error: FeatureStoreError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror is not None:
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{error.strerror}"
    return str(error) or type(error).__name__


def _usage_text(error: click.ClickException) -> str:
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    way_out = "" if ctx is None else f"\n  `{ctx.command_path} --help` shows how it is used"
    return f"{error.format_message()}{way_out}"


def _say(error: BaseException, text: str, *, as_json: bool, head: str = "error") -> None:
    if as_json:
        _print_error(error, text)
        return
    red = click.style(f"{head}:", fg="red", bold=True)
    click.echo(f"{red} {text}", err=True, color=False if "NO_COLOR" in os.environ else None)


def _print_error(error: BaseException, text: str, **more: str) -> None:
    from featurestore.cli.output import print_json

    said: dict[str, Any] = {"type": type(error).__name__, "message": text, **more}
    if isinstance(error, DefinitionError):
        said["problems"] = [
            {
                "what": p.what,
                "file": p.where.file if p.where else None,
                "line": p.where.line if p.where else None,
                "help": list(p.help),
            }
            for p in error.problems
        ]
    print_json({"error": said})
