"""Processes that outlive the command that started them: found again by number and time of start, so never another's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

STOP_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Process:
    """A process of this machine: its number, and when it started, in ticks since the machine did."""

    pid: int
    started: int

    def alive(self) -> bool:
        return _started(self.pid) == self.started

    def end(self, patience: float = STOP_SECONDS) -> None:
        """Asks it to end, and kills it when it does not."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self.alive():
                return
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return
            deadline = time.monotonic() + patience
            while self.alive() and time.monotonic() < deadline:
                time.sleep(0.05)


def process(pid: int) -> Process:
    """The process that has this number now."""
    return Process(pid, _started(pid) or 0)


def spawn(
    argv: Sequence[str], log: Path, *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Process:
    """Starts a process of its own session; what it prints is appended to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        child = subprocess.Popen(  # noqa: S603  (no shell; the words are the caller's)
            list(argv), cwd=cwd, env=None if env is None else dict(env), stdin=subprocess.DEVNULL, stdout=out,
            stderr=out, start_new_session=True,
        )  # fmt: skip
    _CHILDREN.append(child)
    return Process(child.pid, _started(child.pid) or 0)


_CHILDREN: list[subprocess.Popen[bytes]] = []
"""Kept so that those that end are waited for: one nobody waits for counts as alive."""


def _started(pid: int) -> int | None:
    """When a process started; None where there is none, or it has ended."""
    for child in _CHILDREN:
        child.poll()
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def remembered(file: Path) -> dict[str, Process]:
    """The processes that a file tells of, by name; those that have ended are left out."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    found = {name: Process(*place) for name, place in told.items()}
    return {name: process for name, process in found.items() if process.alive()}


def remember(file: Path, processes: Mapping[str, Process]) -> None:
    """Writes the file anew, as a whole or not at all."""
    write_whole(file, json.dumps({name: [p.pid, p.started] for name, p in processes.items()}))


def write_whole(file: Path, text: str) -> None:
    """A file's new content: all of it, or what it had, whenever this is killed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(f".{os.getpid()}.new")
    with new.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    new.replace(file)
