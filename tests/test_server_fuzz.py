"""Requests that were good, changed at random: an answer or an exact refusal, never a fault, and nobody else notices.

By hand, as long as you like: `python -m tests.test_server_fuzz 100000`.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.served import NOW, Server, binary, project, serving

KINDS = {200, 400, 404, 405, 408, 413, 431}
SETTINGS = "[server]\nreceive_seconds = 3\n"
AT = int(NOW.timestamp() * 1_000_000)
seen: Counter[str] = Counter()
Check = Callable[[Server, st.DataObject], None]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = project(tmp_path_factory.mktemp("fuzz") / "shop", SETTINGS)
    with serving(folder) as running:
        yield running
        assert [line for line in running.lines() if line["event"] == "fault"] == []


def tensors(rows: int = 3) -> list[tuple[str, str, bytes, int]]:
    shops = b"".join(b"\2\0\0\0s%d" % (i % 5) for i in range(rows))
    return [
        ("user_id", "INT64", np.arange(rows, dtype="<i8").tobytes(), rows),
        ("shop", "BYTES", shops, rows),
        ("price_now", "FP64", np.arange(rows, dtype="<f8").tobytes(), rows),
    ]


# ----------------------------------------------------------------------------------------------------------------- bodies


def binary_frames(server: Server, data: st.DataObject) -> None:
    body, headers = binary(tensors(), parameters={"binary_data_output": True})
    raw = bytearray(body)
    length = int(headers["Inference-Header-Content-Length"])
    for _ in range(data.draw(st.integers(1, 4))):
        match data.draw(st.sampled_from(["flip", "cut", "grow", "length"])):
            case "flip" if raw:
                raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
            case "cut":
                del raw[data.draw(st.integers(0, len(raw))) :]
            case "grow":
                raw += data.draw(st.binary(max_size=20))
            case _:
                length = data.draw(st.integers(-2, len(raw) + 5))
    answer = server.post("/v2/models/buy/infer", bytes(raw), {"Inference-Header-Content-Length": str(length)})
    assert answer.status in (200, 400, 413), answer.body
    if answer.status != 200:
        assert answer.json()["type"] in ("RequestError", "TooLarge")
    seen[f"frame {answer.status}"] += 1


def arrow_streams(server: Server, data: st.DataObject) -> None:
    table = pa.table({"shop": ["s1", "s2"]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    body = bytearray(sink.getvalue().to_pybytes())
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    answer = server.post("/features/plain", bytes(body))
    assert answer.status in (200, 400, 413), answer.body
    seen[f"Arrow {answer.status}"] += 1


# --------------------------------------------------------------------------------------------------------------- the wire


def request(number: int) -> bytes:
    """One of a few requests, good ones and two that are to be refused; their heads come again, as a client's do."""
    if number == 0:
        return b"GET /v2/models/buy HTTP/1.1\r\nhost: x\r\n\r\n"
    if number == 1:
        body = json.dumps({"feature_service": "plain", "entities": {"shop": ["s1"]}, "at": AT}).encode()
        return b"POST /get-online-features HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (
            len(body),
            body,
        )
    path = "nope" if number == 2 else "buy"
    given = tensors(number)
    if number == 3:
        given[0] = ("user_id", "INT64", b"\0" * 7, 3)
    body, headers = binary(given, parameters={"binary_data_output": True, "at": AT})
    length = headers["Inference-Header-Content-Length"]
    head = (
        f"POST /v2/models/{path}/infer HTTP/1.1\r\nhost: x\r\ninference-header-content-length: {length}\r\n"
    )
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def answers(said: bytes) -> Iterator[tuple[int, bytes]]:
    """The answers in what came back, each without what names the request; they have to fill it."""
    while said:
        head, end, rest = said.partition(b"\r\n\r\n")
        assert end, said[:300]
        first, *fields = head.split(b"\r\n")
        status = re.fullmatch(rb"HTTP/1\.1 (\d{3}) [A-Za-z ]+", first)
        assert status is not None, first
        length = next(int(f.partition(b":")[2]) for f in fields if f.lower().startswith(b"content-length:"))
        assert len(rest) >= length, (first, length, len(rest))
        yield int(status[1]), re.sub(rb'"request_id":"[^"]*"', b"", rest[:length])
        said = rest[length:]


def exchange(
    address: tuple[str, int], raw: bytes, cuts: list[int], wanted: int | None
) -> list[tuple[int, bytes]]:
    """What comes back of bytes that are sent in pieces: so many answers, or, with None, all until the server hangs up."""
    with socket.create_connection(address, 30) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        said = b""
        with contextlib.suppress(ConnectionError):  # it may hang up before the end of what is wrong
            for low, high in zip([0, *cuts], [*cuts, len(raw)], strict=True):
                line.sendall(raw[low:high])
                if cuts:
                    time.sleep(0.001)
            if wanted is None:
                line.shutdown(socket.SHUT_WR)
            while wanted is None or _whole(said) < wanted:
                data = line.recv(1 << 16)
                if not data:
                    break
                said += data
    return list(answers(said))


def _whole(said: bytes) -> int:
    try:
        return len(list(answers(said)))
    except (AssertionError, StopIteration, RuntimeError):
        return -1


@lru_cache(maxsize=4)
def alone(address: tuple[str, int]) -> list[tuple[int, bytes]]:
    """What each request gets on a connection of its own."""
    found = [exchange(address, request(n), [], 1)[0] for n in range(8)]
    assert [status for status, _ in found] == [200, 200, 404, 400, 200, 200, 200, 200]
    return found


def requests_in_pieces(server: Server, data: st.DataObject) -> None:
    """Cut anywhere, and several at once: each has its answer, in their order."""
    numbers = data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=5))
    raw = b"".join(request(n) for n in numbers)
    cuts = sorted(data.draw(st.lists(st.integers(1, len(raw) - 1), max_size=6)))
    own = alone(server.address)
    assert exchange(server.address, raw, cuts, len(numbers)) == [own[n] for n in numbers]
    seen["whole"] += len(numbers)


def bytes_on_the_wire(server: Server, data: st.DataObject) -> None:
    """Changed anywhere: what comes back is HTTP all the same, and another client has what it always had."""
    alone(server.address)
    numbers = data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=3))
    raw = bytearray(b"".join(request(n) for n in numbers))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "text"])):
            case "flip":
                raw[at] = data.draw(st.integers(0, 255))
            case "cut":
                del raw[at : at + data.draw(st.integers(1, 20))]
            case "insert":
                raw[at:at] = data.draw(st.binary(max_size=20))
            case _:
                raw[at:at] = data.draw(st.sampled_from(TEXTS))
        if not raw:
            return
    for status, body in exchange(server.address, bytes(raw), [], None):
        assert status in KINDS, (status, body)
        if status != 200:
            assert set(json.loads(body.replace(b",}", b"}"))) >= {"error", "type"}, body
        seen[f"wire {status}"] += 1
    other = data.draw(st.sampled_from([0, 1, 4]))
    own = alone(server.address)[other]
    assert exchange(server.address, request(other), [], 1) == [own], "another client noticed"


TEXTS = (
    b"\r\n",
    b"\r\n\r\n",
    b"content-length: 5\r\n",
    b"transfer-encoding: chunked\r\n",
    b"expect: 100-continue\r\n",
    b"connection: close\r\n",
    b"upgrade: websocket\r\nconnection: upgrade\r\n",
    b"inference-header-content-length: 1\r\n",
    b"GET /health HTTP/1.0\r\n\r\n",
    b"\0",
    b"%00",
    b"?at=1",
)


CHECKS: dict[Check, int] = {
    binary_frames: 150,
    arrow_streams: 80,
    requests_in_pieces: 100,
    bytes_on_the_wire: 150,
}


def fuzzed(check: Check, server: Server, tries: int) -> None:
    @settings(max_examples=tries, suppress_health_check=list(HealthCheck), deadline=None)
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        check(server, data)

    run()


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_what_was_good_and_is_changed_is_no_fault(server: Server, check: Check) -> None:
    fuzzed(check, server, CHECKS[check])


def main(tries: int) -> None:
    with tempfile.TemporaryDirectory(prefix="fs-fuzz-") as name:
        with serving(project(Path(name) / "shop", SETTINGS)) as server:
            for check in CHECKS:
                fuzzed(check, server, tries // len(CHECKS))
                sys.stdout.write(f"{check.__name__}: {dict(sorted(seen.items()))}\n")
                seen.clear()
        faults = [line for line in server.lines() if line["event"] == "fault"]
        assert faults == []


if __name__ == "__main__":
    main(int(sys.argv[1]))
