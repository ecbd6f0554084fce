"""A Flink cluster of this machine: a JobManager and a TaskManager as processes, started when they are not there."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Final

from featurestore.errors import FlinkError
from featurestore.flink.place import Place, java
from featurestore.flink.rest import Rest
from featurestore.processes import Process, remember, remembered, spawn, write_whole

START_SECONDS: Final = 120.0

_OPENED = (
    "java.util", "java.lang", "java.nio", "java.time", "java.net", "java.io", "java.util.concurrent",
    "java.util.concurrent.atomic", "java.lang.reflect", "java.text", "sun.net.util",
)  # fmt: skip

JOB_MANAGER, TASK_MANAGER = "jobmanager", "taskmanager"

_CLASSES = {
    JOB_MANAGER: "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint",
    TASK_MANAGER: "org.apache.flink.runtime.taskexecutor.TaskManagerRunner",
}

SLOTS: Final = 8
"""Slots of the one TaskManager, by parallelism 1: a job of one view takes as many as it is parallel."""

LOG4J = """rootLogger.level = WARN
rootLogger.appenderRef.console.ref = Console
appender.console.name = Console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %-5p %c{1} %m%n
"""


def rest_of(place: Place) -> Rest:
    """The REST server of the place. Raises FlinkError for a local cluster that was never started."""
    if not place.local:
        return Rest(place.cluster)
    port = _port(place)
    if port is None:
        raise FlinkError("no local Flink cluster was started here\n  fs stream start")
    return Rest(f"http://127.0.0.1:{port}")


def ensure(place: Place) -> tuple[Rest, list[str]]:
    """The REST server, and which processes of a local cluster had to be started. Waits until it can take a job."""
    if not place.local:
        rest = Rest(place.cluster)
        rest.ask("/overview")
        return rest, []
    started = _start_missing(place)
    rest = rest_of(place)
    if started:
        _wait(place, rest)
    return rest, started


def down(place: Place) -> None:
    """Ends the processes of a local cluster. What they keep in checkpoints stays."""
    for process in remembered(_pids(place)).values():
        process.end()
    remember(_pids(place), {})


def processes(place: Place) -> dict[str, Process]:
    """The processes of a local cluster that are alive."""
    return remembered(_pids(place))


def _start_missing(place: Place) -> list[str]:
    there = remembered(_pids(place))
    missing = [name for name in (JOB_MANAGER, TASK_MANAGER) if name not in there]
    if not missing:
        return []
    if JOB_MANAGER in missing and TASK_MANAGER in there:
        # A TaskManager finds a JobManager again by itself; the ports stay what they were.
        pass
    if not (_conf(place) / "config.yaml").exists() or (JOB_MANAGER in missing and TASK_MANAGER in missing):
        _configure(place)
    for name in missing:
        there[name] = _start(place, name)
        remember(_pids(place), there)
    return missing


def _start(place: Place, name: str) -> Process:
    conf = _conf(place)
    heap = 768 if name == JOB_MANAGER else place.memory_mb + 256
    argv = [
        java(), f"-Xmx{heap}m", "-XX:+UseSerialGC", "-XX:MaxDirectMemorySize=512m",
        *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED),
        f"-Dlog4j.configurationFile={conf / 'log4j.properties'}", "-cp", f"{place.jars}/*", _CLASSES[name],
        "--configDir", str(conf),
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
        "heartbeat.interval": 1000,
        "heartbeat.timeout": 8000,
    }
    for name in ("upload", "tmp", "log"):
        (place.folder / name).mkdir(parents=True, exist_ok=True)
    write_whole(
        _conf(place) / "config.yaml", "".join(f"{name}: {value}\n" for name, value in settings.items())
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
