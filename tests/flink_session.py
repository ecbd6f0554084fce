"""A Flink session cluster of real processes, to be killed and started again: a job manager, a task manager, jobs of a folder.

A job manager alone forgets its jobs when it ends: who starts it anew submits them again, from the newest checkpoint.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from featurestore.compile.programs import programs
from featurestore.compile.sources import Connection
from featurestore.ir import View
from tests.flink_cluster import PYTHON, STREAMING
from tests.services import free_port, tied

LIB = STREAMING / "build" / "lib"
ENTRY = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
TASKS = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
PATIENCE_SECONDS = 120.0


@dataclass
class Session:
    """A cluster in a folder, and one job of it. `settings` are the job's, besides those of `fs compile`."""

    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    heap: str = "512m"
    rest: int = field(default_factory=free_port)
    rpc: int = field(default_factory=free_port)
    manager: subprocess.Popen[bytes] | None = None
    tasks: subprocess.Popen[bytes] | None = None
    job: str = ""

    def configure(self) -> None:
        told = {
            "jobmanager.rpc.address": "127.0.0.1",
            "jobmanager.rpc.port": self.rpc,
            "jobmanager.bind-host": "127.0.0.1",
            "rest.address": "127.0.0.1",
            "rest.port": self.rest,
            "rest.bind-address": "127.0.0.1",
            "rest.bind-port": self.rest,
            "taskmanager.host": "127.0.0.1",
            "taskmanager.bind-host": "127.0.0.1",
            "taskmanager.numberOfTaskSlots": 2,
            "taskmanager.cpu.cores": 2.0,
            "taskmanager.memory.task.heap.size": self.heap,
            "taskmanager.memory.task.off-heap.size": "0",
            "taskmanager.memory.managed.size": "64m",
            "taskmanager.memory.framework.heap.size": "128m",
            "taskmanager.memory.framework.off-heap.size": "128m",
            "taskmanager.memory.network.min": "64m",
            "taskmanager.memory.network.max": "64m",
            "taskmanager.memory.jvm-metaspace.size": "256m",
            "taskmanager.memory.jvm-overhead.min": "192m",
            "taskmanager.memory.jvm-overhead.max": "192m",
            "heartbeat.interval": "1000",
            "heartbeat.timeout": "6000",
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": 1000,
            "restart-strategy.fixed-delay.delay": "500 ms",
            "execution.checkpointing.dir": (self.folder / "checkpoints").as_uri(),
            "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
            "execution.checkpointing.num-retained": 3,
        }
        lines = "".join(f"{name}: {json.dumps(value)}\n" for name, value in told.items())
        (self.folder / "config.yaml").write_text(lines)

    def _java(self, kind: str, *options: str) -> subprocess.Popen[bytes]:
        words = [
            *tied(),
            "java",
            *options,
            "-XX:+UseSerialGC",
            "-cp",
            f"{LIB}/*",
            kind,
            "--configDir",
            str(self.folder),
        ]
        opens = ("java.base/java.util", "java.base/java.lang", "java.base/java.time")
        words[-5:-5] = [word for one in opens for word in ("--add-opens", f"{one}=ALL-UNNAMED")]
        with (self.folder / f"{kind.rpartition('.')[2]}.log").open("ab") as log:
            return subprocess.Popen(words, cwd=self.folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def start_manager(self) -> None:
        """Starts the job manager, and waits until it answers."""
        self.manager = self._java(ENTRY, "-Xmx384m", "-XX:TieredStopAtLevel=1")
        self.wait(lambda: self.get("/overview") is not None)

    def start_tasks(self) -> None:
        """Starts the task manager."""
        heap = 128 + int(self.heap.removesuffix("m"))
        self.tasks = self._java(TASKS, f"-Xmx{heap}m", "-XX:MaxDirectMemorySize=256m")

    def submit(self, con: Connection, view: View, *, epoch: int = 1) -> None:
        """Hands the view's job over: from its newest checkpoint, if it has one."""
        programs_ = [asdict(p) for p in programs(con, view, self.folder, "flink")]
        more = {
            **self.settings,
            "execution.target": "remote",
            "rest.address": "127.0.0.1",
            "rest.port": str(self.rest),
            "parallelism.default": "2",
        }
        newest = self.newest_checkpoint()
        if newest is not None:
            more["execution.state-recovery.path"] = newest.as_uri()
        settings = next(p for p in programs_ if p["name"] == "settings")
        settings["sql"] += "".join(f";\nSET '{name}' = '{value}'" for name, value in more.items())
        path = self.folder / "job.json"
        path.write_text(json.dumps({"engine": "flink", "programs": programs_}))
        done = subprocess.run(
            [str(PYTHON), "-m", "fsflink", "submit", str(path)],
            cwd=STREAMING,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        self.job = json.loads(done.stdout.splitlines()[-1])["job"]

    def newest_checkpoint(self) -> Path | None:
        """The newest checkpoint that was completed, of whatever job."""
        found = [p.parent for p in (self.folder / "checkpoints").glob("*/chk-*/_metadata")]
        return max(found, key=lambda p: (p / "_metadata").stat().st_mtime, default=None)

    def kill_manager(self) -> None:
        assert self.manager is not None
        self.manager.kill()
        self.manager.wait()

    def kill_tasks(self) -> None:
        assert self.tasks is not None
        self.tasks.kill()
        self.tasks.wait()

    def get(self, path: str) -> Any:
        """What the job manager says, None where it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.rest}{path}", timeout=5) as answer:
                return json.load(answer)
        except (urllib.error.URLError, OSError, ValueError):
            return None

    def running(self) -> bool:
        """Whether all tasks of the job run."""
        told = self.get(f"/jobs/{self.job}")
        return told is not None and all(v["status"] == "RUNNING" for v in told["vertices"])

    def wait(self, done: Any) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not done():
            assert time.monotonic() < deadline, f"see the logs in {self.folder}"
            time.sleep(0.1)


@contextmanager
def session(folder: Path, **options: Any) -> Iterator[Session]:
    """A cluster that runs."""
    one = Session(folder, **options)
    one.configure()
    try:
        one.start_manager()
        one.start_tasks()
        yield one
    finally:
        for process in (one.tasks, one.manager):
            if process is not None:
                process.kill()
                process.wait()


def processor_seconds(pid: int) -> float:
    """How much processor a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
