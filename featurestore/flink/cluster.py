"""The clusters that jobs run in: one for all of them, of this machine or anywhere, or one of this machine for each.

A cluster of this machine is a JobManager and a TaskManager as processes, started when they are not there. One of a job's own
(Flink's application mode) is started with the job, and its JobManager plans what it runs.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from featurestore.errors import FlinkError, FlinkUnavailable
from featurestore.flink.place import Place, java, reason, submit
from featurestore.flink.rest import Rest
from featurestore.processes import Process, remember, remembered, spawn, write_whole

START_SECONDS: Final = 120.0

_OPENED = (
    "java.util", "java.lang", "java.nio", "java.time", "java.net", "java.io", "java.util.concurrent",
    "java.util.concurrent.atomic", "java.lang.reflect", "java.text", "sun.net.util",
)  # fmt: skip

JOB_MANAGER, TASK_MANAGER = "jobmanager", "taskmanager"

_SESSION = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_APPLICATION = "org.apache.flink.container.entrypoint.StandaloneApplicationClusterEntryPoint"
_TASKS = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
_MAIN = "featurestore.flink.Application"

SLOTS: Final = 8
"""Slots of the one TaskManager, by parallelism 1: a job of one view takes as many as it is parallel."""

LOG4J = """rootLogger.level = WARN
rootLogger.appenderRef.console.ref = Console
appender.console.name = Console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %-5p %c{1} %m%n
"""


def rest_of(place: Place, name: str) -> Rest:
    """The REST server of the cluster that a job runs in. Raises FlinkError for one of this machine that was never started."""
    if not place.local:
        return Rest(place.cluster)
    port = _port(place.home(name))
    if port is None:
        raise FlinkError("no local Flink cluster was started here\n  fs stream start")
    return Rest(f"http://127.0.0.1:{port}")


def states(place: Place, names: Iterable[str]) -> dict[str, str]:
    """What the clusters of jobs know: the state of each job, by its id. Raises FlinkUnavailable where one for all is silent."""
    if not place.application:
        return rest_of(place, "").jobs()
    found: dict[str, str] = {}
    for name in names:
        if JOB_MANAGER in processes(place, name):
            try:
                found |= rest_of(place, name).jobs()
            except FlinkUnavailable:  # it is only just starting
                continue
    return found


def ensure(place: Place, names: Iterable[str] = ()) -> list[str]:
    """Has the cluster run that jobs are handed to, and the TaskManagers of those that have their own; what had to be started.

    Waits until a cluster of this machine can take a job.
    """
    if not place.local:
        rest_of(place, "").ask("/overview")
        return []
    if place.application:
        return [started for name in names for started in _tasks_again(place.home(name))]
    started = _start_missing(place)
    if started:
        _wait(place, rest_of(place, ""))
    return started


def run(place: Place, name: str, job: Mapping[str, Any]) -> str:
    """Hands a compiled job to the cluster, or starts one with it; the id it has there. Raises FlinkError."""
    if not place.application:
        return submit(place, job)
    home, number = place.home(name), uuid.uuid4().hex
    _end(home)
    _configure(home)
    write_whole(home.folder / "job.json", json.dumps(job))
    there = {JOB_MANAGER: _start(home, JOB_MANAGER, number)}
    remember(_pids(home), there)
    there[TASK_MANAGER] = _start(home, TASK_MANAGER)
    remember(_pids(home), there)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if number in states(place, [name]):
            return number
        if not there[JOB_MANAGER].alive():
            text = (home.folder / "log" / f"{JOB_MANAGER}.log").read_text(errors="replace")
            raise FlinkError(f"Flink refused the job\n  {reason(text[text.rfind(number) :])}")
        time.sleep(0.2)
    raise FlinkError(
        f"the cluster of job {name} did not start within {START_SECONDS:.0f} s\n  see {home.folder / 'log'}"
    )


def ended(place: Place, name: str) -> None:
    """Ends the cluster that a job had of its own, once the job is stopped."""
    if place.application:
        _end(place.home(name))


def down(place: Place) -> None:
    """Ends all processes of clusters of this machine. What they keep in checkpoints stays."""
    folders = (place.folder / "applications").glob("*") if place.application else ()
    for home in [place.home(folder.name) for folder in folders] or [place]:
        _end(home)


def processes(place: Place, name: str = "") -> dict[str, Process]:
    """The processes that are alive of the cluster of this machine that a job runs in."""
    return remembered(_pids(place.home(name)))


def _end(home: Place) -> None:
    for process in remembered(_pids(home)).values():
        process.end()
    remember(_pids(home), {})


def _tasks_again(home: Place) -> list[str]:
    """Starts the TaskManager anew beside a JobManager that goes on; one that is gone is started with its job."""
    there = remembered(_pids(home))
    if JOB_MANAGER not in there or TASK_MANAGER in there:
        return []
    there[TASK_MANAGER] = _start(home, TASK_MANAGER)
    remember(_pids(home), there)
    return [TASK_MANAGER]


def _start_missing(place: Place) -> list[str]:
    there = remembered(_pids(place))
    missing = [name for name in (JOB_MANAGER, TASK_MANAGER) if name not in there]
    if not missing:
        return []
    # A TaskManager finds a JobManager again by itself: the ports stay what they were.
    if not (_conf(place) / "config.yaml").exists() or (JOB_MANAGER in missing and TASK_MANAGER in missing):
        _configure(place)
    for name in missing:
        there[name] = _start(place, name)
        remember(_pids(place), there)
    return missing


def _start(place: Place, name: str, job: str = "") -> Process:
    """Starts one process of a cluster; the JobManager of one that is a `job`'s own with that id."""
    conf = _conf(place)
    words = [_TASKS] if name == TASK_MANAGER else [_SESSION]
    if job:
        words = [_APPLICATION, "--job-classname", _MAIN, "--job-id", job]
    heap = 768 if name == JOB_MANAGER else place.memory_mb + 256
    argv = [
        java(), f"-Xmx{heap}m", "-XX:+UseSerialGC", "-XX:MaxDirectMemorySize=512m",
        *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED),
        f"-Dlog4j.configurationFile={conf / 'log4j.properties'}", "-cp", f"{place.jars}/*", *words,
        "--configDir", str(conf), *([str(place.folder / "job.json")] if job else []),
    ]  # fmt: skip
    env = os.environ | {"FLINK_CONF_DIR": str(conf)}
    return spawn(argv, place.folder / "log" / f"{name}.log", cwd=place.folder, env=env)


def _configure(place: Place) -> None:
    rest, rpc = _free_ports(2)
    settings = {
        "jobmanager.rpc.address": "127.0.0.1",
        "jobmanager.rpc.port": rpc,
        "jobmanager.bind-host": "127.0.0.1",
        "taskmanager.host": "127.0.0.1",
        "taskmanager.bind-host": "127.0.0.1",
        "rest.address": "127.0.0.1",
        "rest.bind-address": "127.0.0.1",
        "rest.port": rest,
        "rest.bind-port": rest,
        "web.upload.dir": place.folder / "upload",
        "io.tmp.dirs": place.folder / "tmp",
        "jobmanager.memory.process.size": "1200m",
        "taskmanager.cpu.cores": SLOTS,
        "taskmanager.numberOfTaskSlots": SLOTS * place.parallelism,
        "taskmanager.memory.task.heap.size": f"{place.memory_mb}m",
        "taskmanager.memory.task.off-heap.size": "0b",
        "taskmanager.memory.managed.size": "128m",
        "taskmanager.memory.network.min": "192m",
        "taskmanager.memory.network.max": "192m",
        "taskmanager.memory.framework.heap.size": "128m",
        "taskmanager.memory.framework.off-heap.size": "128m",
        "taskmanager.memory.jvm-metaspace.size": "256m",
        "taskmanager.memory.jvm-overhead.min": "192m",
        "taskmanager.memory.jvm-overhead.max": "192m",
        # Of a job's own cluster: a savepoint's answer is waited for, and then it is ended.
        "execution.shutdown-on-application-finish": "false",
        "heartbeat.interval": 1000,
        "heartbeat.timeout": 8000,
    }
    for name in ("upload", "tmp", "log"):
        (place.folder / name).mkdir(parents=True, exist_ok=True)
    write_whole(
        _conf(place) / "config.yaml",
        "".join(f"{name}: {value}\n" for name, value in settings.items()),
    )
    write_whole(_conf(place) / "log4j.properties", LOG4J)


def _wait(place: Place, rest: Rest) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if rest.alive() and rest.slots() > 0:
            return
        gone = {JOB_MANAGER, TASK_MANAGER} - remembered(_pids(place)).keys()
        if gone:
            name = gone.pop()
            log = place.folder / "log" / f"{name}.log"
            last = log.read_text(errors="replace").splitlines()[-5:] if log.exists() else []
            raise FlinkError(
                "\n  ".join([f"the local {name} ended as soon as it was started, see {log}", *last])
            )
        time.sleep(0.2)
    raise FlinkError(
        f"the local Flink cluster did not start within {START_SECONDS:.0f} s\n  see {place.folder / 'log'}"
    )


def _conf(place: Place) -> Path:
    return place.folder / "conf"


def _pids(place: Place) -> Path:
    return place.folder / "cluster.json"


def _port(place: Place) -> int | None:
    try:
        lines = (_conf(place) / "config.yaml").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    return next(int(line.rpartition(" ")[2]) for line in lines if line.startswith("rest.port: "))


def _free_ports(count: int) -> list[int]:
    socks = [socket.socket() for _ in range(count)]
    try:
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in socks]
    finally:
        for sock in socks:
            sock.close()
