"""A small project that is served by a real `fs serve` process, and plain HTTP to ask it with."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import FeatureStore

PATIENCE_SECONDS = 90.0

DEFINITIONS = """
from featurestore import *

user = Entity("user", key="user_id")
shop = Entity("shop", key="shop")
events = BatchSource(
    "events", batch=Parquet("events.parquet"), event_time="at",
    columns={"user_id": Int64, "shop": String, "at": Timestamp, "amount": Float64, "n": Int64,
             "price": Decimal(12, 2), "day": Date, "flag": Bool},
)
spend = FeatureView("spend", entity=user, source=events, features=[
    count().over(days(1), days(7)), mean("amount").over(days(7)), sum("n").over(days(7)),
    latest("shop"), latest("price"), latest("day"), latest("flag"), latest("at"), last_k("n", 3).over(days(7)),
])
shops = FeatureView("shops", entity=shop, source=events, features=[
    latest("amount").default(-1.0), count().over(days(1)),
])
asked = RequestSource("asked", columns={"price_now": Float64})
ratio = OnDemand("ratio", asked["price_now"] / spend["amount_mean_7d"], default=1.0)
buy = FeatureService("buy", features=[spend, shops.on(prefix="shop_"), ratio])
plain = FeatureService("plain", features=[shops])
"""

NOW = datetime(2024, 3, 1, 12, tzinfo=UTC)
ROWS = 200


def rows() -> pa.Table:
    """Events of 20 users and 5 shops, every ten minutes up to NOW."""
    n = range(ROWS)
    return pa.table(
        {
            "user_id": pa.array([i % 20 for i in n], pa.int64()),
            "shop": [f"s{i % 5}" for i in n],
            "at": pa.array(
                [NOW - timedelta(minutes=10 * (ROWS - i)) for i in n], pa.timestamp("us", tz="UTC")
            ),
            "amount": [i / 4 for i in n],
            "n": pa.array(n, pa.int64()),
            "price": pa.array([Decimal(i) / 4 for i in n], pa.decimal128(12, 2)),
            "day": pa.array([NOW.date()] * ROWS, pa.date32()),
            "flag": [i % 3 == 0 for i in n],
        }
    )


def project(folder: Path, settings: str = "", definitions: str = DEFINITIONS) -> Path:
    """A folder with events and definitions, applied and materialised."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows(), folder / "events.parquet")
    (folder / "shop.py").write_text(definitions, encoding="utf-8")
    (folder / "fs.toml").write_text(f'[project]\nname = "shop"\n{settings}\n', encoding="utf-8")
    with FeatureStore(folder) as store:
        store.apply()
        store.materialize(end=NOW)
    return folder


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """A running `fs serve`."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return ("127.0.0.1" if parts.hostname == "0.0.0.0" else parts.hostname), parts.port

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, path, raw, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def post(
        self, path: str, body: bytes | Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> Answer:
        return self.ask("POST", path, body, headers)

    def raw(self, sent: bytes, wait: float = PATIENCE_SECONDS) -> bytes:
        """All that comes back for these bytes until the server hangs up."""
        with socket.create_connection(self.address, wait) as connection:
            connection.sendall(sent)
            parts = []
            while data := connection.recv(65536):
                parts.append(data)
        return b"".join(parts)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)


@contextmanager
def serving(folder: Path, *options: str, log: Path | None = None) -> Iterator[Server]:
    """`fs serve` on a free port, once it is alive. When it stops of itself, what it said is in the error."""
    place = folder / "serve.log" if log is None else log
    given = [] if "--uds" in options else ["--port", "0"]
    argv = [
        sys.executable,
        "-m",
        "featurestore.cli",
        "--project",
        str(folder),
        "serve",
        *given,
        "--json",
        *options,
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with place.open("wb") as said:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=said, env=environment)
    try:
        assert process.stdout is not None
        announced = b""
        while not announced.rstrip().endswith(b"}"):
            line = process.stdout.readline()
            assert line, f"fs serve stopped: {place.read_text()}"
            announced += line
        server = Server(json.loads(announced)["url"], process, place)
        wait_until(lambda: b"startup complete" in place.read_bytes() or process.poll() is not None)
        assert process.poll() is None, place.read_text()
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()


def wait_until(true: Any, seconds: float = PATIENCE_SECONDS) -> None:
    """Looks until it is so."""
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it did not come about"
        time.sleep(0.05)


def columns(said: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The values of an answer in Feast's shape, by name."""
    return {n: r["values"] for n, r in zip(said["metadata"]["feature_names"], said["results"], strict=True)}


def binary(inputs: Sequence[tuple[str, str, bytes, int]], **more: Any) -> tuple[bytes, dict[str, str]]:
    """A request with binary tensors: name, datatype, bytes and rows of each."""
    tensors = [
        {"name": n, "datatype": d, "shape": [k], "parameters": {"binary_data_size": len(raw)}}
        for n, d, raw, k in inputs
    ]
    head = json.dumps({"inputs": tensors, **more}).encode()
    return head + b"".join(raw for _, _, raw, _ in inputs), {
        "Inference-Header-Content-Length": str(len(head))
    }
