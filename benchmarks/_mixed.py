"""Clients of every kind, well and badly behaved, that ask one `fs serve` on this machine: what `soak.py` puts on it.

Each kind is a thread that waits for its answer before it asks again. Values that come back are compared with the data they were
made of, and refusals with what the server's page says.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

KNOWN, FEATURES = 20_000, 20
NOW = 1_700_000_000_000_000
PATIENCE = 60.0
IDLE = 30.0
"""Seconds after which a connection is not used again: the server closes those that lie idle."""

DEFINITIONS = """
import featurestore as fs

number = fs.Entity("thing", key="id")
columns = {"ts": fs.Timestamp, "id": fs.Int64, "name": fs.String, **{f"f{i}": fs.Float32 for i in range(20)}}
source = fs.BatchSource("numbers", fs.Parquet("numbers.parquet"), event_time="ts", columns=columns)
clicks = fs.StreamSource("clicks", batch=fs.Parquet("clicks/*.parquet"), stream=fs.Kafka("clicks", bootstrap="nowhere"),
                         event_time="at", columns={"id": fs.Int64, "at": fs.Timestamp, "x": fs.Float64})
numbers = fs.FeatureView("numbers", number, source, [fs.latest(f"f{i}") for i in range(20)])
named = fs.FeatureView("named", fs.Entity("name", key="name"), source,
                       [fs.latest("id"), fs.latest("f0").default(-1.0), fs.count().over(fs.days(1), fs.days(7))])
clicked = fs.FeatureView("clicked", fs.Entity("clicker", key="id"), clicks, [fs.count().over(fs.days(1))])
asked = fs.RequestSource("asked", columns={"x": fs.Float64})
editions = [fs.OnDemand(f"edition_{i}", asked["x"] + i) for i in range(EDITIONS)]

services = [
    fs.FeatureService("numbers", [numbers]),
    fs.FeatureService("kept", [numbers, named["count_1d"]], capture=fs.Capture()),
    fs.FeatureService("last", [numbers], on_unavailable="last_known", deadline=fs.seconds(5)),
    fs.FeatureService("changing", [numbers["f0"], *editions]),
    fs.FeatureService("clicks", [clicked]),
]
"""
"""`EDITIONS` is a number: each new version of `changing` has a column more, as a service that has served may only be added to."""


def definitions(editions: int) -> str:
    return DEFINITIONS.replace("EDITIONS", str(editions))


def table() -> pa.Table:
    """The rows of `numbers.parquet`; row i is of entity i, which is called `n` and i."""
    rng = np.random.default_rng(1)
    floats = {f"f{i}": rng.standard_normal(KNOWN).astype("f4") for i in range(FEATURES)}
    ts = pa.array(np.full(KNOWN, NOW - 10**6), pa.timestamp("us", tz="UTC"))
    return pa.table({"ts": ts, "id": np.arange(KNOWN), "name": [f"n{i}" for i in range(KNOWN)], **floats})


def clicks() -> pa.Table:
    """The one event that the stream's source has in files."""
    return pa.table({"id": [1], "at": pa.array([NOW - 10**6], pa.timestamp("us", tz="UTC")), "x": [1.0]})


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Line:
    """One kept connection of HTTP/1.1, made anew when the other side hangs up."""

    def __init__(self, port: int, patience: float = PATIENCE) -> None:
        self._port, self._patience = port, patience
        self._socket: socket.socket | None = None
        self._used = 0.0

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        said = "".join(f"{k}: {v}\r\n" for k, v in (headers or {}).items())
        head = f"{method} {path} HTTP/1.1\r\nhost: soak\r\n{said}content-length: {len(body)}\r\n\r\n".encode()
        return self.send(head + body)

    def send(self, raw: bytes) -> Answer:
        if time.monotonic() - self._used > IDLE:
            self.close()
        if self._socket is None:
            self._socket = connect(self._port, self._patience)
        try:
            self._socket.sendall(raw)
            answer = self._answer(self._socket)
        except OSError:
            self.close()
            raise
        self._used = time.monotonic()
        if answer.headers.get("connection") == "close":
            self.close()
        return answer

    def _answer(self, line: socket.socket) -> Answer:
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += _more(line)
        first, *fields = data[:end].decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (f.partition(":") for f in fields)}
        parts, left = [data[end + 4 :]], int(headers.get("content-length", 0)) - (len(data) - end - 4)
        while left > 0:
            parts.append(_more(line))
            left -= len(parts[-1])
        return Answer(int(first.split(" ", 2)[1]), headers, b"".join(parts))

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def connect(port: int, patience: float = PATIENCE) -> socket.socket:
    line = socket.create_connection(("127.0.0.1", port), patience)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return line


def _more(line: socket.socket) -> bytes:
    data = line.recv(1 << 18)
    if not data:
        raise ConnectionResetError("the server hung up")
    return data


@dataclass
class Load:
    """All clients together. `wrong` is what should not have come back; the run ends with it."""

    port: int
    data: pa.Table
    pace: float = 1.0
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.matrix = np.stack([self.data[f"f{i}"].to_numpy() for i in range(FEATURES)], axis=1)
        self._threads: list[threading.Thread] = []

    def begin(self) -> None:
        for name, (rate, kind) in KINDS.items():
            thread = threading.Thread(
                target=self._run, args=(name, rate * self.pace, kind), name=name, daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def end(self) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _run(self, name: str, rate: float, kind: Callable[[Load, Line, random.Random], str]) -> None:
        rng, line = random.Random(name), Line(self.port)
        while not self.stop.is_set():
            try:
                said = kind(self, line, rng)
            except OSError as error:
                said = f"lost: {type(error).__name__}"
                self.wrong.append(f"{name}: {error!r}")
            except (AssertionError, ValueError, KeyError, pa.ArrowException) as error:
                said = "wrong"
                self.wrong.append(f"{name}: {error!r}"[:2000])
            self.counts[name, said] += 1
            self.stop.wait(rng.expovariate(rate))
        line.close()


# ------------------------------------------------------------------------------------------------------------- who asks well


def fine(answer: Answer, *wanted: int) -> str:
    """The status in words; who is turned away for want of room or time is no mistake, and is counted."""
    if answer.status in (503, 504) and answer.json()["type"] in ("Overloaded", "DeadlineExceeded"):
        return "turned away"
    assert answer.status in (wanted or (200,)), f"{answer.status}: {answer.body[:500]!r}"
    return str(answer.status)


def some(rng: random.Random) -> np.ndarray[Any, Any]:
    return np.array([rng.randrange(KNOWN) for _ in range(rng.choice((1, 10, 100)))], "<i8")


def tensor(
    ids: np.ndarray[Any, Any], *, identity: str = "", rows: int | None = None, size: int | None = None
) -> Any:
    """Headers and body of a binary request; `rows` and `size` may lie."""
    about = {"name": "id", "datatype": "INT64", "shape": [len(ids) if rows is None else rows]}
    about["parameters"] = {"binary_data_size": ids.nbytes if size is None else size}
    said = {
        "inputs": [about],
        "parameters": {"binary_data_output": True},
        **({"id": identity} if identity else {}),
    }
    head = json.dumps(said).encode()
    return head + ids.tobytes(), {"inference-header-content-length": str(len(head))}


def binary(load: Load, line: Line, rng: random.Random) -> str:
    ids = some(rng)
    service = rng.choice(("numbers", "numbers", "last"))
    identity = rng.choice(("", f"r{rng.randrange(10**9)}"))
    body, headers = tensor(ids, identity=identity)
    answer = line.ask("POST", f"/v2/models/{service}/infer", body, headers)
    said = fine(answer)
    if said == "200":
        at = int(answer.headers["inference-header-content-length"])
        got = np.frombuffer(answer.body, "<f4", len(ids) * FEATURES, at).reshape(len(ids), FEATURES)
        assert np.array_equal(got, load.matrix[ids]), "binary values are not those of the data"
    return said


def json_tensors(load: Load, line: Line, rng: random.Random) -> str:
    ids = some(rng).tolist()
    asked = {"inputs": [{"name": "id", "shape": [len(ids)], "datatype": "INT64", "data": ids}]}
    asked |= {"outputs": [{"name": n} for n in ("f0", "features", "age_ms")]}
    answer = line.ask("POST", "/v2/models/numbers/infer", json.dumps(asked).encode())
    said = fine(answer)
    if said == "200":
        got = np.array(answer.json()["outputs"][0]["data"], "f4")
        assert np.array_equal(got, load.matrix[ids, 0]), "JSON tensors are not those of the data"
    return said


def feast(load: Load, line: Line, rng: random.Random) -> str:
    ids = some(rng).tolist()
    asked = {"feature_service": "numbers", "entities": {"id": ids}}
    answer = line.ask("POST", "/get-online-features", json.dumps(asked).encode())
    said = fine(answer)
    if said == "200":
        got = np.array(answer.json()["results"][1]["values"], "f4")
        assert np.array_equal(got, load.matrix[ids, 0]), "JSON values are not those of the data"
    return said


def selection(load: Load, line: Line, rng: random.Random) -> str:
    """Features by name: ever new lists of them, more than are kept resolved."""
    names = rng.sample(range(FEATURES), rng.randrange(1, FEATURES))
    ids = some(rng).tolist()
    asked = {"features": [f"numbers:f{i}" for i in names], "entities": {"id": ids}}
    answer = line.ask("POST", "/get-online-features", json.dumps(asked).encode())
    said = fine(answer)
    if said == "200":
        got = np.array(answer.json()["results"][1]["values"], "f4")
        assert np.array_equal(got, load.matrix[ids, names[0]]), "selected values are not those of the data"
    return said


def arrow(load: Load, line: Line, rng: random.Random) -> str:
    ids = some(rng)
    sink = pa.BufferOutputStream()
    asked = pa.table({"id": ids})
    with pa.ipc.new_stream(sink, asked.schema) as writer:
        writer.write_table(asked)
    answer = line.ask("POST", "/features/numbers?statuses=true", sink.getvalue().to_pybytes())
    said = fine(answer)
    if said == "200":
        got = pa.ipc.open_stream(answer.body).read_all()["f3"].to_numpy()
        assert np.array_equal(got, load.matrix[ids, 3]), "Arrow values are not those of the data"
    return said


def kept(load: Load, line: Line, rng: random.Random) -> str:
    """Rows that are captured; now and then a prediction of theirs comes back."""
    ids = some(rng).tolist()
    asked = {"feature_service": "kept", "entities": {"id": ids, "name": [f"n{i}" for i in ids]}}
    asked |= {"context": {"page": rng.randrange(100)}}
    answer = line.ask("POST", "/get-online-features", json.dumps(asked).encode())
    said = fine(answer)
    if said == "200" and rng.random() < 0.2:
        request = answer.json()["metadata"]["request_id"]
        rows = {"row_ids": [f"{request}-{i}" for i in range(len(ids))], "values": [0.5] * len(ids)}
        back = line.ask("POST", "/capture/predictions", json.dumps({**rows, "model": "m"}).encode())
        return f"prediction {fine(back)}"
    return said


def events(load: Load, line: Line, rng: random.Random) -> str:
    now = datetime.now(UTC).isoformat()
    rows = [{"id": rng.randrange(KNOWN), "at": now, "x": rng.random()} for _ in range(10)]
    return fine(
        line.ask("POST", "/events/clicks", json.dumps(rows).encode(), {"content-type": "application/json"})
    )


def probes(load: Load, line: Line, rng: random.Random) -> str:
    path = rng.choice(
        ("/health", "/ready", "/metrics", "/openapi.json", "/v2/models/numbers", "/v2/models/kept/ready")
    )
    answer = line.ask("GET", path)
    if answer.status == 503 and "ready" in path and not answer.json().get("ready", True):
        return "not ready"  # its store did not answer in time: for who is starved that is so
    return fine(answer)


# -------------------------------------------------------------------------------------------------------- who asks badly


def bad(load: Load, line: Line, rng: random.Random) -> str:
    """Each gets the refusal that it should, on a connection that goes on."""
    wanted, path, body, headers = rng.choice(_refused(rng))
    return fine(line.ask("POST", path, body, headers), wanted)


def _refused(rng: random.Random) -> list[tuple[int, str, bytes, dict[str, str]]]:
    name, ids = f"x{rng.randrange(10**9)}", np.arange(10, dtype="<i8")
    read, infer = "/get-online-features", "/v2/models/numbers/infer"
    cut = tensor(ids)[0][: rng.randrange(1, 60)]

    def said(**asked: Any) -> bytes:
        return json.dumps({"entities": {"id": [1]}, **asked}).encode()

    return [
        (400, read, b'{"feature_service": "num' + name.encode(), {}),
        (400, read, said(feature_service="numbers", entities={"id": [float("nan")]}), {}),
        (400, read, b"[" * 50_000, {}),
        (400, read, said(feature_service="numbers", entities={name: [1]}), {}),
        (400, read, said(feature_service="numbers", entities={"id": ["one"]}), {}),
        (404, read, said(feature_service=name), {}),
        (404, read, said(features=[f"numbers:{name}"]), {}),
        (400, infer, *tensor(ids, rows=11)),
        (400, infer, *tensor(ids, size=81)),
        (413, infer, *tensor(ids, rows=1_000_000)),
        (400, infer, cut, {"inference-header-content-length": "99"}),
        (400, infer, tensor(ids)[0], {"inference-header-content-length": "-1"}),
        (404, f"/v2/models/{name}/infer", *tensor(ids)),
        (404, "/v2/models/numbers/versions/77/infer", *tensor(ids)),
        (400, "/features/numbers", rng.randbytes(200), {}),
        (404, f"/features/{name}", b"", {}),
        (404, f"/{name}", b"", {}),
        (405, "/health", b"", {}),
        (404, f"/events/{name}", b"[]", {}),
        (400, "/events/clicks", json.dumps([{"id": name}]).encode(), {}),
        (400, "/capture/predictions", b'{"row_ids": 3}', {}),
    ]


def large(load: Load, line: Line, rng: random.Random) -> str:
    """More bytes than are taken; the refusal may be lost with the rest of a body that nobody reads."""
    try:
        return fine(line.ask("POST", "/get-online-features", b" " * ((16 << 20) + 1)), 413)
    except OSError:
        return "hung up"


def nonsense(load: Load, line: Line, rng: random.Random) -> str:
    """What is no HTTP, and headers without an end."""
    with connect(load.port) as one:
        raw = rng.choice(
            (b"\x16\x03\x01" + rng.randbytes(40) + b"\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000)
        )
        with contextlib.suppress(OSError):
            one.sendall(raw)
        with contextlib.suppress(ConnectionResetError):
            return one.recv(100)[9:12].decode("latin-1") or "hung up"
    return "reset"


def gone(load: Load, line: Line, rng: random.Random) -> str:
    """A client that goes away: before its request is whole, or before the answer is there."""
    body, headers = tensor(some(rng))
    said = "".join(f"{k}: {v}\r\n" for k, v in headers.items())
    path = rng.choice(("numbers", "kept", "last"))
    raw = (
        f"POST /v2/models/{path}/infer HTTP/1.1\r\nhost: soak\r\n{said}content-length: {len(body)}\r\n\r\n".encode()
        + body
    )
    with connect(load.port) as one:
        one.sendall(raw[: rng.randrange(len(raw))] if rng.random() < 0.5 else raw * rng.choice((1, 3)))
    return "gone"


def slow(load: Load, line: Line, rng: random.Random) -> str:
    """A byte now and then, until it is let go."""
    with connect(load.port) as one:
        one.settimeout(0.2)
        one.sendall(b"POST /get-online-features HTTP/1.1\r\nhost: soak\r\ncontent-length: 1000\r\n\r\n")
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and not load.stop.is_set():
            try:
                one.sendall(b" ")
                data = one.recv(1000)
            except TimeoutError:
                continue
            except OSError:
                return "reset"
            said = data[9:12].decode("latin-1")
            assert said in ("408", "503"), data[:100]
            return said.replace("503", "turned away")
    return "stopped"


KINDS: dict[str, tuple[float, Callable[[Load, Line, random.Random], str]]] = {
    "binary": (60.0, binary),
    "JSON tensors": (15.0, json_tensors),
    "Feast": (25.0, feast),
    "selection": (15.0, selection),
    "Arrow": (15.0, arrow),
    "captured": (20.0, kept),
    "events": (2.0, events),
    "probes": (2.0, probes),
    "bad": (30.0, bad),
    "large": (0.05, large),
    "nonsense": (3.0, nonsense),
    "gone": (10.0, gone),
    "slow": (5.0, slow),
}
"""Requests a second of each kind, at most: it waits for an answer, and as long as that between two on the average."""
