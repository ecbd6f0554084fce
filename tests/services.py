"""Real servers for tests: a Redis and a PostgreSQL of our own, on free ports, gone when the session ends.

Nothing is shared with servers that already run on the machine. Each pytest worker starts its own, on first
use. Where a server is not installed its tests are skipped, and the summary says so loudly; under CI=true they
fail.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import psycopg
import pytest
import redis
from psycopg import sql

__all__ = [
    "PostgresServer",
    "RedisServer",
    "fresh_postgres",
    "fresh_redis",
    "postgres_server",
    "postgres_url",
    "redis_cluster",
    "redis_server",
    "redis_unix_url",
    "redis_url",
]

MISSING = "MISSING: "  # begins the reason of a skip that conftest repeats in the summary
STARTS = 5  # a free port can be taken before the server binds it
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A running Redis without persistence; it refuses writes when full (`noeviction`)."""

    url: str
    unix_url: str


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running PostgreSQL cluster; `url` names a superuser and the empty database `postgres`."""

    url: str
    unix_url: str

    def database_url(self, name: str) -> str:
        """The URL of another database of this cluster."""
        return f"{self.url.rpartition('/')[0]}/{name}"


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One Redis for the session: who shares it chooses keys of their own, or takes `fresh_redis`."""
    binary = shutil.which("redis-server") or missing("redis-server", package="redis-server")
    with directory("fs-redis-") as home, started(lambda port: redis_command(binary, home, port)) as port:
        yield RedisServer(f"redis://127.0.0.1:{port}/0", f"unix://{home}/redis.sock")


@pytest.fixture(scope="session")
def redis_url(redis_server: RedisServer) -> str:
    """`redis://127.0.0.1:PORT/0`."""
    return redis_server.url


@pytest.fixture(scope="session")
def redis_unix_url(redis_server: RedisServer) -> str:
    """`unix:///…/redis.sock`: the same server as `redis_url`."""
    return redis_server.unix_url


@pytest.fixture
def fresh_redis(redis_server: RedisServer) -> RedisServer:
    """The session's Redis, emptied."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`redis+cluster://127.0.0.1:PORT,…` of a cluster of three servers without replicas."""
    binary = shutil.which("redis-server") or missing("redis-server", package="redis-server")
    with ExitStack() as stack:
        ports = []
        for _ in range(3):
            home = stack.enter_context(directory("fs-cluster-"))
            ports.append(stack.enter_context(started(partial(cluster_command, binary, home))))
        join(ports)
        yield "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in ports)


def join(ports: Sequence[int]) -> None:
    """Makes one cluster of servers, each with as many of the slots as the others."""
    each = -(-16384 // len(ports))
    clients: list[Any] = [redis.Redis(host="127.0.0.1", port=port) for port in ports]
    bus = clients[0].config_get("cluster-port")["cluster-port"]
    try:
        for number, client in enumerate(clients):
            client.execute_command(
                "CLUSTER ADDSLOTSRANGE", number * each, min((number + 1) * each, 16384) - 1
            )
            client.execute_command("CLUSTER MEET", "127.0.0.1", ports[0], bus)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(
            c.cluster("INFO")["cluster_state"] != "ok" or len(c.cluster("NODES")) < len(ports)
            for c in clients
        ):
            assert time.monotonic() < deadline, "the cluster did not come to be"
            time.sleep(0.05)
    finally:
        for client in clients:
            client.close()


def cluster_command(binary: str, home: Path, port: int) -> Command:
    plain = redis_command(binary, home, port)
    options = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
    return Command([*plain.argv, *options], plain.log, plain.answers)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One cluster for the session: who shares it chooses names of their own, or takes `fresh_postgres`."""
    binaries = postgres_binaries() or missing("initdb and postgres", package="postgresql")
    with directory("fs-postgres-", owner=postgres_owner()) as home:
        initialise(binaries, home)
        with started(lambda port: postgres_command(binaries, home, port)) as port:
            yield PostgresServer(
                f"postgresql://postgres@127.0.0.1:{port}/postgres",
                f"postgresql://postgres@/postgres?host={home}&port={port}",
            )


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PostgresServer) -> str:
    """`postgresql://postgres@127.0.0.1:PORT/postgres`."""
    return postgres_server.url


@pytest.fixture
def fresh_postgres(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database of its own."""
    name = sql.Identifier(f"t_{uuid.uuid4().hex}")
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
        yield postgres_server.database_url(name.as_string().strip('"'))
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@dataclass(frozen=True, slots=True)
class Command:
    """What starts a server in the foreground, and how to see that it answers."""

    argv: Sequence[str]
    log: Path
    answers: Callable[[], bool]


def redis_command(binary: str, home: Path, port: int) -> Command:
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "unixsocket": str(home / "redis.sock"),
        "save": "",
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
        "dir": str(home),
    }
    argv = [*tied(), binary, *(word for key, value in options.items() for word in (f"--{key}", value))]

    def answers() -> bool:
        try:
            with redis.Redis(host="127.0.0.1", port=port) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    return Command(argv, home / "log", answers)


def postgres_command(binaries: Path, home: Path, port: int) -> Command:
    options = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": str(home),
        "shared_buffers": "16MB",
        "fsync": "off",
        "full_page_writes": "off",
        "synchronous_commit": "off",
    }
    settings = [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
    argv = [*tied(postgres_owner()), str(binaries / "postgres"), "-D", str(home / "data"), *settings]

    def answers() -> bool:
        try:
            psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres", connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    return Command(argv, home / "log", answers)


def initialise(binaries: Path, home: Path) -> None:
    options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
    argv = [*tied(postgres_owner()), str(binaries / "initdb"), "-D", str(home / "data"), *options]
    done = subprocess.run(
        argv, cwd=home, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.fail(f"initdb failed\n{done.stdout}{done.stderr}")


@contextmanager
def started(command_on: Callable[[int], Command]) -> Iterator[int]:
    """Runs a server on a free port, yields the port once it answers, and stops it afterwards."""
    command = command_on(0)
    for port in (free_port() for _ in range(STARTS)):
        command = command_on(port)
        with command.log.open("w") as log:
            process = subprocess.Popen(
                command.argv, cwd=command.log.parent, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            if wait_until(command.answers, process):
                yield port
                return
        finally:
            stop(process)
    pytest.fail(f"{command.argv} did not start\n{command.log.read_text()}")


def wait_until(answers: Callable[[], bool], process: subprocess.Popen[bytes]) -> bool:
    """Whether the server answered before it died or our patience ended."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if answers():
            return process.poll() is None
        time.sleep(0.02)
    return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGINT is a fast, clean shutdown for both servers."""
    process.send_signal(2)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def tied(user: str | None = None) -> list[str]:
    """Words before a command: run it as `user`, and let it end with us even when we are killed."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return [] if user is None else missing("setpriv, to leave root for PostgreSQL", package="util-linux")
    identity = [] if user is None else [f"--reuid={user}", f"--regid={user}", "--init-groups"]
    return [setpriv, *identity, "--pdeathsig=INT"]


def postgres_owner() -> str | None:
    """PostgreSQL refuses to run as root; Debian's package made this user for it."""
    return "postgres" if os.geteuid() == 0 else None


def postgres_binaries() -> Path | None:
    """The folder of the newest PostgreSQL that holds both `initdb` and `postgres`."""
    debian = sorted(Path("/usr/lib/postgresql").glob("[0-9]*/bin"), key=lambda f: float(f.parent.name))
    on_path = shutil.which("initdb")
    folders = [*reversed(debian), *([Path(on_path).resolve().parent] if on_path else [])]
    return next((f for f in folders if (f / "initdb").exists() and (f / "postgres").exists()), None)


@contextmanager
def directory(prefix: str, owner: str | None = None) -> Iterator[Path]:
    """A folder every user can enter, with a short path: that of a Unix socket holds at most 107 bytes."""
    home = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    try:
        if owner is not None:
            shutil.chown(home, owner, owner)
        yield home
    finally:
        shutil.rmtree(home)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def missing(what: str, package: str) -> NoReturn:
    reason = f"{MISSING}{what} (as root: apt-get install {package})"
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}; under CI=true nothing may be missing", pytrace=False)
    pytest.skip(reason)
