"""A job file: the statements that `fs compile VIEW --engine flink --json` prints, and how they are run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Collect:
    """A query that ends and the file its rows go to, one JSON object a line.

    Of rows that agree in their first `keys` columns the last stays; with 0 all stay.
    """

    sql: str
    path: str
    keys: int = 0


@dataclass(frozen=True)
class Job:
    """`statements` are run one by one (CREATE …), `inserts` together as one job, each of `collect` as a job of its own.

    `mode` is "streaming" or "batch"; `settings` are Flink's own, by name.
    """

    mode: str
    settings: Mapping[str, str] = field(default_factory=dict)
    statements: Sequence[str] = ()
    inserts: Sequence[str] = ()
    collect: Sequence[Collect] = ()

    @staticmethod
    def read(path: Path) -> Job:
        """The job in a file. Raises ValueError, naming the file, for one that is none."""
        try:
            told: dict[str, Any] = json.loads(path.read_text())
            collect = [Collect(**c) for c in told.pop("collect", [])]
            job = Job(**told, collect=collect)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is no job file: {error}") from error
        if job.mode not in ("streaming", "batch"):
            raise ValueError(f"{path}: mode is 'streaming' or 'batch', not '{job.mode}'")
        return job
