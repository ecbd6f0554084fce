"""The embedded stream in the background: one process a project, that outlives the command that started it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from featurestore.config import Config
from featurestore.errors import StreamConflict
from featurestore.processes import Process, remember, remembered, spawn

NAME = "stream"


def running(config: Config) -> Process | None:
    """The process that runs the project's streams in the background, None when there is none."""
    return remembered(_file(config)).get(NAME)


def start(config: Config, select: str | Sequence[str] | None) -> Process:
    """Runs `fs stream run` in the background. Raises StreamConflict when that is done already."""
    there = running(config)
    if there is not None:
        raise StreamConflict(
            f"process {there.pid} runs the streams of this project already\n  `fs stream stop` ends it"
        )
    words = [sys.executable, "-m", "featurestore.cli", "-C", str(config.root.resolve()), "--quiet"]
    words += ["--env", config.environment] if config.environment else []
    words += ["stream", "run", "--engine", "embedded"]
    for one in [select] if isinstance(select, str) else select or ():
        words += ["--select", one]
    process = spawn(words, _file(config).parent / "stream.log")
    remember(_file(config), {NAME: process})
    return process


def stop(config: Config) -> Process | None:
    """Ends it, once what it took is published; None when none ran."""
    there = running(config)
    if there is not None:
        there.end()
    remember(_file(config), {})
    return there


def _file(config: Config) -> Path:
    return config.root / ".fs" / "stream" / "background.json"
