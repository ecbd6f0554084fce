"""The server against a bare ASGI ping in the same run: requests a second and processor time of each request.

    python benchmarks/server.py [--store lmdb|redis] [--seconds S] [--rounds N] [--connections 8] [--writes W] [--no-feast]

Makes a project of 20 float features and 20,000 entities in a temporary folder, serves it with one worker, and asks over
prebuilt requests on kept connections, one closed loop each: as many different ones as ask for each entity three times. With
`--writes` something is written to the store so many times a second, which makes the server forget what it read. The ping is
an ASGI function behind the same uvicorn; `read` is the SDK's read of as many rows in process. Contenders take turns in each
round; ratios are taken within a round. `feast serve` joins, its online store in a Redis of our own, unless `--no-feast` (see
`_feast.py`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _common import machine, verdict
from _feast import environment, feast_python
from _feast import prepare as prepare_feast

from featurestore.store import FeatureStore

KNOWN, FEATURES = 20_000, 20
END = 1_700_000_000_000_000
ROWS = (1, 100, 1000)

DEFINITIONS = """
import featurestore as fs

columns = {"ts": fs.Timestamp, "id": fs.Int64, **{f"f{i}": fs.Float32 for i in range(20)}}
source = fs.BatchSource("numbers", fs.Parquet("numbers.parquet"), event_time="ts", columns=columns)
numbers = fs.FeatureView("numbers", fs.Entity("thing", key="id"), source, [fs.latest(f"f{i}") for i in range(20)])
service = fs.FeatureService("numbers", [numbers])
"""

Contender = tuple[int, int, Sequence[bytes]]
"""The process and the port that are asked, and the requests in turn."""

JSON = b"content-type: application/json\r\n"

PING = """
import sys, socket, uvicorn
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
sock = socket.socket(); sock.bind(("127.0.0.1", 0)); sock.listen(2048)
print(sock.getsockname()[1], flush=True)
config = uvicorn.Config(app, lifespan="off", ws="none", log_config=None, access_log=False, date_header=False,
                        server_header=False, proxy_headers=False)
uvicorn.Server(config).run([sock])
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--store", choices=("lmdb", "redis"), default="lmdb")
    arguments.add_argument("--seconds", type=float, default=1.0)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--connections", type=int, default=8)
    arguments.add_argument("--writes", type=float, default=0.0)
    arguments.add_argument("--no-feast", action="store_true")
    given = arguments.parse_args()
    python = None if given.no_feast else feast_python()
    print(machine("uvicorn", "fastapi", "numpy"))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fs-server-")))
        port = stack.enter_context(redis()) if given.store == "redis" or python is not None else 0
        url = f"redis://127.0.0.1:{port}/0" if given.store == "redis" else "lmdb://.fs/online"
        prepare(folder, url)
        contenders: dict[str, Contender] = {}
        ping, at = stack.enter_context(running([sys.executable, "-c", PING], folder / "ping.log"))
        contenders["ping"] = (ping, at, [post("/ping", b"")])
        argv = [sys.executable, "-m", "featurestore.cli", "-C", str(folder), "serve", "--port", "0", "--json"]
        ours, at = stack.enter_context(running(argv, folder / "serve.log"))
        rng = np.random.default_rng(0)
        for n in ROWS:
            asked = [binary(rng.integers(0, KNOWN, n)) for _ in range(min(3 * KNOWN // n, 5000))]
            contenders[f"binary N={n}"] = (ours, at, asked)
        entities = {"id": rng.integers(0, KNOWN, 100).tolist()}
        body = json.dumps({"feature_service": "numbers", "entities": entities}).encode()
        contenders["JSON N=100"] = (ours, at, [post("/get-online-features", body, JSON)])
        if python is not None:
            peer, at = stack.enter_context(feast(python, folder, port))
            names = [f"numbers:f{i}" for i in range(FEATURES)]
            body = json.dumps({"features": names, "entities": entities}).encode()
            contenders["feast serve JSON N=100"] = (peer, at, [post("/get-online-features", body, JSON)])
        for process, at, requests in contenders.values():
            load(process, at, requests, given.connections, 0.5)
        if given.writes:
            stack.enter_context(writing(url, folder, given.writes))
        with FeatureStore(folder) as store:
            reads = {n: in_process(store, rng.integers(0, KNOWN, n)) for n in ROWS}
        race(contenders, reads, given)


def race(
    contenders: dict[str, Contender],
    reads: dict[int, Callable[[], float]],
    given: argparse.Namespace,
) -> None:
    """Rounds of all contenders in turns; prints medians, and ratios within a round."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    alone: dict[int, list[float]] = {n: [] for n in ROWS}
    for _ in range(given.rounds):
        for name, (process, at, requests) in contenders.items():
            rate, seconds = load(process, at, requests, given.connections, given.seconds)
            rates[name].append(rate)
            cpu[name].append(seconds)
        for n, read in reads.items():
            alone[n].append(read())
    written = f", {given.writes:g} writes a second" if given.writes else ""
    print(f"{given.store}, {given.connections} connections, one worker, {given.rounds} rounds{written}")
    for name in contenders:
        times = statistics.median(a / b for a, b in zip(cpu[name], cpu["ping"], strict=True))
        print(
            f"  {name:<24}{statistics.median(rates[name]):9,.0f} requests/s  "
            f"cpu {statistics.median(cpu[name]) * 1e6:9.1f} us  {times:6.2f}x ping"
        )
    for n in ROWS:
        read = statistics.median(alone[n])
        print(f"  read N={n:<5} in process    cpu {read * 1e6:9.1f} us")
    peer = "feast serve JSON N=100"
    if peer in rates:
        for name, must, reach in (("binary N=100", 40, 100), ("JSON N=100", 10, 30)):
            times = statistics.median(a / b for a, b in zip(rates[name], rates[peer], strict=True))
            work = statistics.median(b / a for a, b in zip(cpu[name], cpu[peer], strict=True))
            what = f"{name}: requests/s over those of {peer}"
            verdict(what, times, must, reach, cpu=work, more_is_better=True)


def prepare(folder: Path, url: str) -> None:
    rng = np.random.default_rng(1)
    columns = {f"f{i}": rng.standard_normal(KNOWN).astype("f4") for i in range(FEATURES)}
    ts = pa.array(np.full(KNOWN, END - 10**6), pa.timestamp("us", tz="UTC"))
    pq.write_table(pa.table({"ts": ts, "id": np.arange(KNOWN), **columns}), folder / "numbers.parquet")
    (folder / "numbers.py").write_text(DEFINITIONS, encoding="utf-8")
    (folder / "fs.toml").write_text(f'[online]\nurl = "{url}"\n', encoding="utf-8")
    with FeatureStore(folder) as store:
        store.apply()
        store.materialize(end=END)


def post(path: str, body: bytes, headers: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n%b" % (
        path.encode(), headers, len(body), body
    )  # fmt: skip


def binary(ids: np.ndarray) -> bytes:
    raw = ids.astype("<i8").tobytes()
    tensor = {
        "name": "id",
        "datatype": "INT64",
        "shape": [len(ids)],
        "parameters": {"binary_data_size": len(raw)},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return post(
        "/v2/models/numbers/infer", head + raw, b"inference-header-content-length: %d\r\n" % len(head)
    )


def in_process(store: FeatureStore, ids: np.ndarray) -> Callable[[], float]:
    """Processor seconds of one read, the tensor made."""

    def run() -> float:
        calls = max(20, 3000 // len(ids))
        began = time.process_time()
        for _ in range(calls):
            store.get_online_features("numbers", {"id": ids}).to_numpy()
        return (time.process_time() - began) / calls

    run()
    return run


def load(
    process: int, port: int, requests: Sequence[bytes], connections: int, seconds: float
) -> tuple[float, float]:
    """Requests a second, and processor seconds of the server for each."""
    watch, next_one = selectors.DefaultSelector(), itertools.cycle(requests).__next__
    lines = []
    for _ in range(connections):
        line = socket.create_connection(("127.0.0.1", port))
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        state = {"left": 0}
        watch.register(line, selectors.EVENT_READ, state)
        lines.append(line)
    before, began, done = used(process), time.perf_counter(), 0
    for line in lines:
        line.sendall(next_one())
    while time.perf_counter() - began < seconds or done < connections:
        for key, _ in watch.select():
            line, state = key.fileobj, key.data
            data = line.recv(1 << 20)
            if not data:
                raise SystemExit(f"the server hung up at {requests[0][:60]!r}")
            if state["left"] == 0:
                head = data.find(b"\r\n\r\n")
                if not data.startswith(b"HTTP/1.1 200") or head < 0:
                    raise SystemExit(data[:2000].decode())
                at = data.find(b"\r\ncontent-length:")
                state["left"] = int(data[at + 17 : data.find(b"\r", at + 2)]) + head + 4
            state["left"] -= len(data)
            if state["left"] == 0:
                done += 1
                line.sendall(next_one())
    took, cpu = time.perf_counter() - began, used(process) - before
    for line in lines:
        line.close()
    return done / took, cpu / done


@contextmanager
def writing(url: str, folder: Path, times: float) -> Iterator[None]:
    """Something nobody reads is written so many times a second, by another process."""
    code = (
        "import sys, time; from pathlib import Path; from featurestore.online.store import open_store\n"
        "with open_store(sys.argv[1], Path(sys.argv[2])) as store:\n"
        "    while True: store.write([(b'nothing', b'')]); time.sleep(1 / float(sys.argv[3]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, url, str(folder), str(times)])
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def used(process: int) -> float:
    """Processor seconds of a process so far, its children's as well."""
    total = 0.0
    for stat in [Path(f"/proc/{process}/stat"), *(Path(f"/proc/{c}/stat") for c in children(process))]:
        fields = stat.read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def children(process: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@contextmanager
def running(argv: list[str], log: Path) -> Iterator[tuple[int, int]]:
    """A server that says its port (or its URL as JSON) on stdout: its process and port."""
    with log.open("w") as errors:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        said = ""
        while not said.strip().isdigit() and not said.rstrip().endswith("}"):
            line = process.stdout.readline()
            if not line:
                raise SystemExit(log.read_text())
            said += line
        said = said.strip()
        yield process.pid, int(said if said.isdigit() else json.loads(said)["url"].rpartition(":")[2])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@contextmanager
def redis() -> Iterator[int]:
    binary = shutil.which("redis-server")
    if binary is None:
        raise SystemExit("redis-server is not installed")
    port = free_port()
    process = subprocess.Popen(
        [binary, "--port", str(port), "--save", "", "--bind", "127.0.0.1"], stdout=subprocess.DEVNULL
    )
    try:
        answering(port)
        yield port
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def feast(python: Path, folder: Path, redis_port: int) -> Iterator[tuple[int, int]]:
    repo = folder / "feast"
    prepare_feast(python, repo, redis_port, folder / "numbers.parquet")
    port = free_port()
    with (folder / "feast.log").open("w") as log:
        argv = [
            str(python.parent / "feast"),
            "-c",
            str(repo),
            "serve",
            "--port",
            str(port),
            "--no-access-log",
        ]
        process = subprocess.Popen(argv, stdout=log, stderr=log, env=environment(), start_new_session=True)
    try:
        answering(port)
        yield process.pid, port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def answering(port: int) -> None:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"nothing answers on port {port}")


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


if __name__ == "__main__":
    main()
