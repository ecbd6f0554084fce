"""A display on stderr for what takes longer than two seconds, when somebody is watching."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE_SECONDS = 2.0


@contextmanager
def progress(what: str, *, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Yields a function that is told how far it has got. Silent with `quiet`, and when stderr is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    display = _Display(what)
    timer = threading.Timer(PATIENCE_SECONDS, display.show)
    timer.daemon = True
    timer.start()
    try:
        yield display.say
    finally:
        timer.cancel()
        display.hide()


class _Display:
    """A spinner, what is being done, how far, and for how long; shown once patience has run out."""

    def __init__(self, what: str) -> None:
        self._what, self._how_far = what, ""
        self._lock = threading.Lock()
        self._shown: tuple[Any, Any] | None = None
        self._over = False

    def show(self) -> None:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        with self._lock:
            if self._over:
                return
            columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._shown = bar, bar.add_task(self._text())
            bar.start()

    def say(self, how_far: str) -> None:
        with self._lock:
            self._how_far = how_far
            if self._shown is not None:
                bar, task = self._shown
                bar.update(task, description=self._text())

    def hide(self) -> None:
        with self._lock:
            self._over = True
            if self._shown is not None:
                self._shown[0].stop()

    def _text(self) -> str:
        return f"{self._what}  {self._how_far}".rstrip()
