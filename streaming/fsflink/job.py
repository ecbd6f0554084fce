"""A job file: what `fs compile VIEW --engine flink --json` prints, or statements and queries of a check."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODE = "execution.runtime-mode"


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

    `settings` are Flink's own, by name. With `explain` the plan of the inserts is written to that file, and nothing runs.
    With `wait` they are run to their end.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    statements: Sequence[str] = ()
    inserts: Sequence[str] = ()
    collect: Sequence[Collect] = ()
    explain: str | None = None
    wait: bool = False

    @property
    def batch(self) -> bool:
        """Whether it is run to its end, over all there is."""
        return self.settings.get(MODE, "streaming") == "batch"

    @staticmethod
    def read(path: Path) -> Job:
        """The job in a file, `${VARIABLE}` in its text taken from the environment.

        Raises ValueError, naming the file, for one that is none, and for a variable that is not set.
        """
        try:
            told: dict[str, Any] = json.loads(path.read_text())
            if "programs" in told:
                return compiled(told)
            return Job(**{**told, "collect": [Collect(**c) for c in told.get("collect", [])]})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no job file: {error}") from error


def compiled(told: Mapping[str, Any]) -> Job:
    """The job of the programs that `fs compile` printed of one view: each statement is of one of three kinds."""
    if told["engine"] != "flink":
        raise ValueError(f"it was compiled for {told['engine']}: add --engine flink")
    views = sorted({program["view"] for program in told["programs"]})
    if len(views) != 1:
        raise ValueError(f"it is of {', '.join(views) or 'no view'}: a job is of one view, compile each on its own")
    settings: dict[str, str] = {}
    statements: list[str] = []
    inserts: list[str] = []
    for program in told["programs"]:
        listed = program["name"] in ("settings", "functions")
        for statement in program["sql"].split(";\n") if listed else [program["sql"]]:
            said = expanded(statement)
            if setting := re.fullmatch(r"SET '([^']*)' = '([^']*)'", said):
                settings[setting[1]] = setting[2]
            elif said.startswith("INSERT "):
                inserts.append(said)
            else:
                statements.append(said)
    return Job(settings, statements, inserts, explain=told.get("explain"))


def expanded(text: str) -> str:
    """`${VARIABLE}` from the environment."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ValueError(f"${{{match[1]}}} is not set in the environment")
        return os.environ[match[1]].replace("'", "''")

    return re.sub(r"\$\{(\w+)\}", value, text)
