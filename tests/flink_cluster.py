"""Flink for tests: a JVM of the streaming project's own environment, kept for the session, and queries over JSON lines."""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Self

import pytest

from featurestore.compile.flink import FLINK, JAVA, type_name
from featurestore.compile.sql import ident, literal
from featurestore.types import DType, String
from tests.services import missing

STREAMING = Path(__file__).parents[1] / "streaming"
PYTHON = STREAMING / ".venv" / "bin" / "python"
BUILT = STREAMING / "build" / "lib" / "featurestore-flink.jar"


class FlinkError(Exception):
    """What Flink said of a job."""


@dataclass
class Flink:
    """One driver process; each job is a file it is told of. Jobs run at parallelism 2 unless settings say otherwise."""

    folder: Path
    settings: Mapping[str, str] = field(
        default_factory=lambda: {"parallelism.default": "2", "table.local-time-zone": "America/New_York"}
    )
    _numbers: Any = field(default_factory=count)

    def __enter__(self) -> Self:
        with (self.folder / "flink.log").open("w") as log:
            self._driver = subprocess.Popen(
                [PYTHON, "-m", "fsflink", "serve"],
                cwd=STREAMING,
                env={
                    **os.environ,
                    "JAVA_TOOL_OPTIONS": f"{os.environ.get('JAVA_TOOL_OPTIONS', '')} -XX:+UseSerialGC -Xmx3g",
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._driver.stdin is not None
        assert self._driver.stdout is not None
        self._driver.stdin.close()
        try:
            self._driver.wait(30)
        except subprocess.TimeoutExpired:
            self._driver.kill()
            self._driver.wait()
        self._driver.stdout.close()

    def path(self, suffix: str) -> Path:
        """A file of its own."""
        return self.folder / f"{next(self._numbers)}{suffix}"

    def run(
        self,
        queries: Sequence[tuple[str, int]],
        statements: Iterable[str] = (),
        *,
        settings: Mapping[str, str] | None = None,
    ) -> list[list[dict[str, Any]]]:
        """The rows of each query; of those that agree in as many first columns as it says the last, 0 says all."""
        outs = [self.path(".out") for _ in queries]
        job = {
            "settings": {**self.settings, **(settings or {})},
            "statements": list(statements),
            "collect": [
                {"sql": sql, "keys": keys, "path": str(out)}
                for (sql, keys), out in zip(queries, outs, strict=True)
            ],
        }
        file = self.path(".json")
        file.write_text(json.dumps(job))
        self._ask(file)
        # Not splitlines(): text may hold a line separator of Unicode's.
        return [[json.loads(line) for line in out.read_text().split("\n") if line] for out in outs]

    def submit(self, job: Mapping[str, Any]) -> None:
        """Has a job run, `wait` in it says to its end, else until the driver ends."""
        file = self.path(".json")
        file.write_text(json.dumps(job))
        self._ask(file)

    def plan(self, compiled: Mapping[str, Any]) -> str:
        """What Flink would do for the programs that `fs compile` prints."""
        file, out = self.path(".json"), self.path(".out")
        file.write_text(json.dumps({**compiled, "explain": str(out)}))
        self._ask(file)
        return out.read_text()

    def _ask(self, file: Path) -> None:
        assert self._driver.stdin is not None
        assert self._driver.stdout is not None
        self._driver.stdin.write(f"{file}\n")
        self._driver.stdin.flush()
        answer = json.loads(self._driver.stdout.readline())
        if "error" in answer:
            raise FlinkError(answer["error"])

    def table(self, name: str, schema: Mapping[str, DType], rows: Iterable[Mapping[str, Any]]) -> str:
        """Writes rows of physical values, as they are, and gives the DDL of a table of them."""
        path = self.path(".jsonl")
        path.write_text("".join(json.dumps({k: _written(v) for k, v in row.items()}) + "\n" for row in rows))
        columns = ", ".join(f"{ident(n, FLINK)} {type_name(t)}" for n, t in schema.items())
        options = {"connector": "filesystem", "path": path.as_uri(), "format": "json"}
        return f"CREATE TEMPORARY TABLE {ident(name, FLINK)} ({columns}) WITH ({with_options(options)})"


def with_options(options: Mapping[str, str]) -> str:
    return ", ".join(f"'{k}' = {_quoted(v)}" for k, v in options.items())


def _quoted(text: str) -> str:
    return literal(text, String, FLINK).removeprefix("CAST(").removesuffix(" AS STRING)")


def _written(value: Any) -> Any:
    """JSON has no NaN and no infinity: Java reads them from text."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def functions() -> list[str]:
    """The DDL of every scalar function."""
    return [f"CREATE TEMPORARY SYSTEM FUNCTION {name} AS '{java}'" for name, java in JAVA.items()]


@pytest.fixture(scope="session")
def flink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flink]:
    """Flink, kept for the session."""
    if not (PYTHON.exists() and BUILT.exists()):
        missing("Flink, built by make -C streaming", package="openjdk-17-jdk-headless maven")
    with Flink(tmp_path_factory.mktemp("flink")) as driver:
        yield driver
