"""What is answered as it comes in is answered as ever: the same bytes, the same counts, the same refusals.

Each request is sent without a request id, which after the first time is answered at once, and with one, which goes the
whole way.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn

from featurestore import FeatureStore
from featurestore.registry import open_registry
from featurestore.registry.keys import Keys
from featurestore.server.app import Application
from featurestore.server.front import Front
from featurestore.server.protocol import PatientProtocol
from featurestore.server.settings import Settings
from featurestore.serving import packed
from tests.served import PATIENCE_SECONDS, binary, wait_until

DEFINITIONS = """
from featurestore import *

thing = Entity("thing", key="id")
source = BatchSource("numbers", Parquet("numbers.parquet"), event_time="ts",
                     columns={"ts": Timestamp, "id": Int64, "a": Float32, "b": Float32, "big": Float64, "t": String})
numbers = FeatureView("numbers", thing, source, [latest("a"), latest("b")])
aged = FeatureView("aged", thing, source, [latest("a").default(-1.0), latest("b")], ttl=days(3))
mixed = FeatureView("mixed", thing, source, [latest("a"), latest("big"), latest("t"), count().over(days(7))])
services = [
    FeatureService("numbers", [numbers]),
    FeatureService("turned", [numbers["b"], numbers["a"]]),
    FeatureService("part", [numbers["b"]]),
    FeatureService("aged", [aged]),
    FeatureService("late", [numbers], max_staleness=seconds(1)),
    FeatureService("known", [numbers], on_unavailable="last_known"),
    FeatureService("mixed", [mixed, numbers.on(prefix="n_")]),
]
"""
SERVICES = ("numbers", "turned", "part", "aged", "late", "known", "mixed")
FIRST_ID = -3


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are kept from the first read on."""
    monkeypatch.setattr(packed, "LASTING", 0.0)


def project(folder: Path) -> Path:
    """Entities -3 to 36: one with NULL, one with -0, one of NaN, one seen long ago, and many of the plain sort."""
    folder.mkdir(parents=True)
    now = datetime.now(UTC)
    ids = list(range(FIRST_ID, 37))
    a: list[float | None] = [i / 8 for i in ids]
    b: list[float | None] = [-i / 3 for i in ids]
    ts = [now - timedelta(hours=1)] * len(ids)
    a[ids.index(5)] = None
    a[ids.index(6)], b[ids.index(6)] = -0.0, 0.0
    b[ids.index(7)] = float("nan")
    ts[ids.index(8)] = now - timedelta(days=9)
    table = pa.table(
        {
            "ts": pa.array(ts, pa.timestamp("us", tz="UTC")),
            "id": pa.array(ids, pa.int64()),
            "a": pa.array(a, pa.float32()),
            "b": pa.array(b, pa.float32()),
            "big": pa.array([i * 1e10 for i in ids], pa.float64()),
            "t": [f"t{i}" for i in ids],
        }
    )
    pq.write_table(table, folder / "numbers.parquet")
    (folder / "numbers.py").write_text(DEFINITIONS, encoding="utf-8")
    (folder / "fs.toml").write_text('[project]\nname = "direct"\n', encoding="utf-8")
    with FeatureStore(folder) as store:
        store.apply()
        store.materialize(end=now)
    return folder


@dataclass
class Running:
    """A server in this process, on a real socket. `taken` says of each request whether it was answered at once."""

    front: Front
    port: int
    taken: list[bool] = field(default_factory=list)

    @contextmanager
    def line(self) -> Iterator[Line]:
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE_SECONDS) as connection:
            yield Line(self, connection)


@dataclass
class Line:
    """One kept connection."""

    server: Running
    connection: socket.socket
    left: bytes = b""

    def ask(self, request: bytes, *, at_once: bool | None = None) -> bytes:
        """The answer, head and body; `at_once` is how it has to have been answered, if that matters."""
        before = len(self.server.taken)
        self.connection.sendall(request)
        answer = self.answer()
        if at_once is not None:
            assert self.server.taken[before:] == [at_once], request
        return answer

    def answer(self) -> bytes:
        while (end := self.left.find(b"\r\n\r\n")) < 0:
            self._more()
        found = re.search(rb"\r\ncontent-length: (\d+)\r\n", self.left[: end + 2])
        assert found is not None
        whole = end + 4 + int(found[1])
        while len(self.left) < whole:
            self._more()
        answer, self.left = self.left[:whole], self.left[whole:]
        return answer

    def _more(self) -> None:
        data = self.connection.recv(1 << 16)
        assert data, "the server hung up"
        self.left += data


@contextmanager
def running(folder: Path, settings: Settings) -> Iterator[Running]:
    """`fs serve`'s application and protocol on uvicorn, in a thread of this process."""
    front = Application(str(folder), None, settings)()
    server = Running(front, 0)
    at_once = front.direct.answer

    def seen(data: bytes, client: Any) -> bytes | None:
        answer = at_once(data, client)
        server.taken.append(answer is not None)
        return answer

    front.direct.answer = seen  # type: ignore[method-assign]
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server.port = listening.getsockname()[1]
        options = uvicorn.Config(
            front, http=PatientProtocol, ws="none", log_config=None, access_log=False, server_header=False,
            date_header=False, proxy_headers=False,
        )  # fmt: skip
        made = uvicorn.Server(options)
        thread = threading.Thread(target=made.run, args=([listening],))
        thread.start()
        try:
            wait_until(lambda: made.started or not thread.is_alive())
            yield server
        finally:
            made.should_exit = True
            thread.join(PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("direct") / "numbers")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    with running(folder, Settings(poll_ms=100, max_lag_ms=10**8)) as made:
        yield made


def post(service: str, body: bytes, *fields: str, version: str = "HTTP/1.1") -> bytes:
    lines = [f"POST /v2/models/{service}/infer {version}", "host: x", f"content-length: {len(body)}", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def infer(service: str, ids: Sequence[int], *fields: str, **more: Any) -> bytes:
    raw = np.array(ids, "<i8").tobytes()
    body, headers = binary([("id", "INT64", raw, len(ids))], parameters={"binary_data_output": True}, **more)
    return post(service, body, *(f"{k}: {v}" for k, v in headers.items()), *fields)


def nameless(answer: bytes) -> bytes:
    """Without the id of the request."""
    return re.sub(rb'(x-request-id: |"request_id":")[A-Za-z0-9_.:-]+', rb"\1", answer)


def slow(request: bytes) -> bytes:
    """The same request with an id, which goes the whole way."""
    own = b"%032d" % 7  # as long as one that the server gives
    return request.replace(b"\r\nhost: x", b"\r\nhost: x\r\nx-request-id: " + own, 1)


def same_both_ways(line: Line, request: bytes, status: bytes = b"200") -> bytes:
    line.ask(request)
    line.ask(request)  # of the second the JSON is known as well
    quick, whole = line.ask(request, at_once=True), line.ask(slow(request), at_once=False)
    assert nameless(quick) == nameless(whole)
    assert quick[9:12] == status
    return quick


# ------------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("service", SERVICES)
def test_one_entity_whatever_its_values(server: Running, service: str) -> None:
    with server.line() as line:
        line.ask(infer(service, [1]))
        line.ask(infer(service, [1]))
        for number in [*range(FIRST_ID, 40), -(2**63), 2**63 - 1]:
            request = infer(service, [number])
            quick, whole = line.ask(request, at_once=True), line.ask(slow(request), at_once=False)
            assert nameless(quick) == nameless(whole), number


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("ids", [[], [1, 2, 3], [3, 3, 99], list(range(-5, 45)) * 4, list(range(1000))])
def test_many_entities(server: Running, service: str, ids: list[int]) -> None:
    with server.line() as line:
        same_both_ways(line, infer(service, ids))


def test_more_rows_than_are_read_inline_go_the_whole_way(server: Running) -> None:
    request = infer("numbers", range(1001))
    with server.line() as line:
        for _ in range(3):
            assert line.ask(request, at_once=False)[9:12] == b"200"


AT = "2024-03-01T12:00:00+00:00"
MORE: list[dict[str, Any]] = [
    {"id": "mine"},
    {"outputs": [{"name": "mask", "parameters": {"binary_data": True}}]},
    {"outputs": [{"name": n, "parameters": {"binary_data": True}} for n in ("mask", "features", "mask")]},
    {"outputs": [{"name": "age_ms", "parameters": {"binary_data": True}}]},
    {"outputs": [{"name": "a", "parameters": {"binary_data": True}}, {"name": "a.mask"}]},
    {"outputs": [{"name": "features"}]},
    {"parameters": {"binary_data_output": True, "at": AT}},
    {"parameters": {"binary_data_output": True, "timeout": 3_000_000}},
    {"parameters": {"binary_data_output": True, "context": {"page": "home"}}},
    {"parameters": {}},
]


@pytest.mark.parametrize("more", MORE, ids=json.dumps)
@pytest.mark.parametrize("ids", [[1], [99], [1, 5, 6]], ids=str)
def test_whatever_is_asked_beside(server: Running, more: dict[str, Any], ids: list[int]) -> None:
    raw = np.array(ids, "<i8").tobytes()
    given = {"parameters": {"binary_data_output": True}, **more}
    body, headers = binary([("id", "INT64", raw, len(ids))], **given)
    request = post("numbers", body, *(f"{k}: {v}" for k, v in headers.items()))
    with server.line() as line:
        line.ask(request)
        line.ask(request)
        answer = line.ask(request, at_once=True)
        if "age_ms" not in str(more):  # which grows from one request to the next
            assert nameless(answer) == nameless(line.ask(slow(request), at_once=False))
        assert answer[9:12] == b"200"


def test_keys_of_another_width(server: Running) -> None:
    body, headers = binary(
        [("id", "INT32", np.array([6], "<i4").tobytes(), 1)], parameters={"binary_data_output": True}
    )
    with server.line() as line:
        same_both_ways(line, post("numbers", body, *(f"{k}: {v}" for k, v in headers.items())))


def test_a_version_that_the_path_names(server: Running) -> None:
    with server.line() as line:
        assert b'"model_version":"1"' in same_both_ways(line, infer("numbers@1", [1]))
        assert b'"model_version":"1"' in same_both_ways(line, infer("numbers/versions/1", [1]))


# --------------------------------------------------------------------------------------------- what goes the whole way


def _lying(request: bytes) -> list[tuple[str, bytes]]:
    at = request.index(b"\r\n\r\n") + 4
    return [
        ("other JSON", request.replace(b'"INT64"', b'"INT32"')),
        ("other name", request.replace(b'"name": "id"', b'"name": "no"')),
        ("no JSON", request[:at] + b"x" * (len(request) - at)),
        ("unknown service", request.replace(b"/numbers/", b"/nothing/")),
        ("unknown version", request.replace(b"/numbers/", b"/numbers@7/")),
        ("another method", request.replace(b"POST ", b"PUT ", 1)),
        ("a query", request.replace(b"/infer ", b"/infer?a=b ", 1)),
        ("compressed", request.replace(b"host: x", b"host: x\r\ncontent-encoding: gzip", 1)),
        ("no length", re.sub(rb"(?i)inference-header-content-length: \d+\r\n", b"", request)),
    ]


@pytest.mark.parametrize("number", range(9))
def test_what_is_wrong_is_refused_as_ever(server: Running, number: int) -> None:
    good = infer("numbers", [1])
    name, wrong = _lying(good)[number]
    with server.line() as line:
        same_both_ways(line, good)
        first = line.ask(wrong, at_once=False)
        assert nameless(first) == nameless(line.ask(slow(wrong), at_once=False)), name
        assert nameless(first) == nameless(line.ask(wrong, at_once=False))
        same_both_ways(line, good)


def test_http_1_0_and_a_connection_that_is_to_be_closed(server: Running) -> None:
    with server.line() as line:
        same_both_ways(line, infer("numbers", [1]))
        same_both_ways(line, infer("numbers", [1], "connection: keep-alive"))
    good = infer("numbers", [1])
    for request in (infer("numbers", [1], "connection: close"), good.replace(b"HTTP/1.1", b"HTTP/1.0", 1)):
        for _ in range(3):
            with server.line() as line:
                answer = line.ask(request, at_once=False)
                assert answer[9:12] == b"200"
                assert b"connection: close" in answer
                assert line.connection.recv(1) == b""


def test_requests_in_pieces_and_several_at_once(server: Running) -> None:
    request = infer("numbers", [1])
    with server.line() as line:
        want = nameless(same_both_ways(line, request))
        for cut in (1, 30, len(request) - 9, len(request) - 1):
            line.connection.sendall(request[:cut])
            time.sleep(0.02)
            line.connection.sendall(request[cut:])
            assert nameless(line.answer()) == want
        ids = [1, 2, 6, 99]
        line.connection.sendall(b"".join(infer("numbers", [i]) for i in ids))
        together = [nameless(line.answer()) for _ in ids]
        assert together == [nameless(line.ask(infer("numbers", [i]))) for i in ids]
        assert nameless(line.ask(request, at_once=True)) == want


def test_an_answer_under_way_comes_first(server: Running) -> None:
    """A request behind one that is read in a thread is answered after it."""
    with server.line() as line:
        line.ask(infer("numbers", range(1500)))
        same_both_ways(line, infer("numbers", [1]))
        line.connection.sendall(infer("numbers", range(1500), "x-request-id: first"))
        line.connection.sendall(infer("numbers", [1]))
        assert b"x-request-id: first" in line.answer()
        assert line.answer()[9:12] == b"200"


# ------------------------------------------------------------------------------------------------------ counts, refusals


def _figures(line: Line) -> dict[str, float]:
    text = line.ask(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").decode()
    found = {}
    for name in text.splitlines():
        if name.startswith(
            ("fs_requests_total", "fs_rows", "fs_cells", "fs_request_seconds_count", "fs_stage")
        ):
            key, _, value = name.rpartition(" ")
            if "_bucket" not in key and "_sum" not in key and "other" not in key:
                found[key] = float(value)
    return found


@pytest.mark.parametrize("ids", [[1], [99], [1, 5, 99]], ids=str)
def test_what_is_counted_is_the_same(server: Running, ids: list[int]) -> None:
    request = infer("numbers", ids)

    def grown(do: Callable[[], Any]) -> dict[str, float]:
        before = _figures(line)
        do()
        return {k: v - before.get(k, 0) for k, v in _figures(line).items() if v != before.get(k, 0)}

    with server.line() as line:
        same_both_ways(line, request)
        quick = grown(lambda: [line.ask(request, at_once=True) for _ in range(7)])
        whole = grown(lambda: [line.ask(slow(request), at_once=False) for _ in range(7)])
    assert quick == whole
    assert quick['fs_requests_total{route="/v2/infer",status="200"}'] == 7
    assert quick['fs_rows_total{service="numbers"}'] == 7 * len(ids)
    assert sum(v for k, v in quick.items() if k.startswith("fs_cells")) == 7 * len(ids) * 2


def test_each_answer_has_an_id_of_its_own(server: Running) -> None:
    with server.line() as line:
        same_both_ways(line, infer("numbers", [1]))
        answers = [line.ask(infer("numbers", [1]), at_once=True) for _ in range(5)]
    assert len({re.search(rb"x-request-id: (\S+)", a)[1] for a in answers}) == 5  # type: ignore[index]


def test_who_is_turned_away_is_told_as_ever(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    request = infer("numbers", [1])
    with server.line() as line:
        same_both_ways(line, request)
        for name, value in (("in_flight", 10_000), ("max_lag", -1.0)):
            monkeypatch.setattr(server.front, name, value)
            refused = line.ask(request, at_once=False)
            assert refused[9:12] == b"503"
            assert b"retry-after: 1" in refused
            monkeypatch.undo()
            same_both_ways(line, request)


def test_a_store_that_is_not_asked_any_more(server: Running) -> None:
    request, breaker = infer("numbers", [1]), server.front.catalog.breaker
    with server.line() as line:
        same_both_ways(line, request)
        for _ in range(7):
            breaker.failed()
        quick, whole = line.ask(request, at_once=True), line.ask(slow(request), at_once=False)
        breaker.succeeded()
        assert quick[9:12] == whole[9:12] == b"503"
        alike = [re.sub(rb"again for [0-9.]{3} s", b"again", nameless(a)) for a in (quick, whole)]
        assert alike[0] == alike[1]
        same_both_ways(line, request)


def test_more_requests_than_allowed(folder: Path) -> None:
    with running(folder, Settings(requests_per_second=20, max_lag_ms=10**8)) as server, server.line() as line:
        request = infer("numbers", [1])
        answers = [line.ask(request) for _ in range(400)]
        assert {a[9:12] for a in answers} == {b"200", b"429"}
        refused = next(
            a for a, taken in zip(answers, server.taken, strict=True) if taken and a[9:12] == b"429"
        )
        assert b"retry-after: 1" in refused
        assert b'"type":"Overloaded"' in refused


def test_keys_are_looked_at_each_time(tmp_path: Path) -> None:
    folder = project(tmp_path / "numbers")
    keys = Keys(open_registry(f"sqlite:///{folder}/.fs/registry.db", folder))
    now = time.time_ns() // 1000
    with running(folder, Settings(host="0.0.0.0", poll_ms=100, max_lag_ms=10**8)) as server:
        _, reader = keys.add("reader", "read", ["numbers"], "test", now)
        _, other = keys.add("other", "read", ["aged"], "test", now)
        wait_until(lambda: len(server.front.access.keys) == 2)
        with server.line() as line:
            mine, others = (infer("numbers", [1], f"authorization: Bearer {k}") for k in (reader, other))
            same_both_ways(line, mine)
            same_both_ways(line, others, b"403")
            same_both_ways(line, infer("numbers", [1]), b"401")
            keys.revoke("reader", now)
            wait_until(lambda: len(server.front.access.keys) == 1)
            same_both_ways(line, mine, b"401")


def test_a_new_version_and_new_values_are_served_on_kept_connections(tmp_path: Path) -> None:
    folder = project(tmp_path / "numbers")
    with running(folder, Settings(poll_ms=100, max_lag_ms=10**8)) as server, server.line() as line:
        request, pinned = infer("numbers", [1]), infer("numbers@1", [1])
        first = same_both_ways(line, request)
        assert b'"model_version":"1"' in first
        text = DEFINITIONS.replace(
            'FeatureService("numbers", [numbers])', 'FeatureService("numbers", [numbers, mixed["big"]])'
        )
        (folder / "numbers.py").write_text(text, encoding="utf-8")
        with FeatureStore(folder) as store:
            store.apply()
        wait_until(lambda: b'"model_version":"2"' in line.ask(request))
        assert b'"shape":[1,3]' in same_both_ways(line, request)
        assert same_both_ways(line, pinned).rpartition(b"}")[2] == first.rpartition(b"}")[2]
        table = pq.read_table(folder / "numbers.parquet")
        moved = table.set_column(
            table.column_names.index("b"), "b", pa.array([9.5] * len(table), pa.float32())
        )
        pq.write_table(moved, folder / "numbers.parquet")
        with FeatureStore(folder) as store:
            store.materialize(end=datetime.now(UTC))
        got = same_both_ways(line, request)
        assert np.frombuffer(got[-15:-3], np.float32).tolist() == [0.125, 9.5, 1e10]


def test_rows_that_are_kept_go_with_a_change_of_the_store(tmp_path: Path) -> None:
    folder = project(tmp_path / "numbers")
    with running(folder, Settings(max_lag_ms=10**8)) as server, server.line() as line:
        request, other = infer("numbers", [1, 2, 1]), infer("turned", [4, 3])
        for asked in (request, other):
            same_both_ways(line, asked)
        for value in (9.5, 11.0):
            table = pq.read_table(folder / "numbers.parquet")
            place = table.column_names.index("b")
            table = table.set_column(place, "b", pa.array([value] * len(table), pa.float32()))
            pq.write_table(table, folder / "numbers.parquet")
            with FeatureStore(folder) as store:
                store.materialize(end=datetime.now(UTC))
            assert (
                np.frombuffer(line.ask(request, at_once=True)[-30:-6], np.float32)[1::2].tolist()
                == [value] * 3
            )
            assert np.frombuffer(same_both_ways(line, other)[-20:-4], np.float32)[::2].tolist() == [value] * 2


def test_rows_are_kept_once_the_store_has_stayed_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, now = project(tmp_path / "numbers"), 100.0
    monkeypatch.setattr(packed, "LASTING", 0.5)
    monkeypatch.setattr("featurestore.serving.packed.time.monotonic", lambda: now)
    with FeatureStore(folder) as store:
        reader: Any = store.reader("numbers")
        ids = np.array([1, 2, 1])

        def again(after: float) -> Any:
            nonlocal now
            now += after
            return reader.rows(ids)

        assert again(0) is None
        assert again(0.4) is None
        assert again(0.2).tolist() == [[a / 8, np.float32(-a / 3)] for a in ids.tolist()]
        store.materialize(end=datetime.now(UTC))
        assert again(10) is None, "it was written to since the last look"
        assert again(0.6) is not None


def test_values_that_grow_old_while_they_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = project(tmp_path / "numbers")
    with running(folder, Settings(max_lag_ms=10**8)) as server, server.line() as line:
        reader = server.front.catalog.get("aged").reader.reader
        now = time.time_ns() // 1000
        moments = [0, 3600, 2 * 86_400, 3 * 86_400 - 3700, 3 * 86_400, 10, 0]
        for seconds in moments:  # also back again
            monkeypatch.setattr(reader, "_clock", lambda ahead=seconds: now + ahead * 1_000_000)
            for ids in ([1], [1, 2, 3], list(range(30))):
                got = same_both_ways(line, infer("aged", ids))
                present = got[-2 * len(ids) :]
                assert (b"\0" in present) == (seconds == 3 * 86_400 or 8 in ids or 5 in ids)


def test_what_was_answered_at_once_keeps_a_connection(server: Running) -> None:
    """The timer of an idle connection is not set anew for each answer: when it rings it looks."""

    class Loop:
        now = 100.0
        later: list[tuple[float, Any]] = []  # noqa: RUF012

        def time(self) -> float:
            return self.now

        def call_later(self, seconds: float, do: Any) -> Any:
            self.later.append((seconds, do))
            return None

    class Transport:
        closed = False

        def is_closing(self) -> bool:
            return self.closed

        def close(self) -> None:
            self.closed = True

    protocol: Any = object.__new__(PatientProtocol)
    protocol.loop, protocol.transport, protocol.timeout_keep_alive = Loop(), Transport(), 75
    protocol._answered_at = 60.0
    protocol.timeout_keep_alive_handler()
    assert not protocol.transport.closed
    assert [seconds for seconds, _ in protocol.loop.later] == [35.0]
    protocol.loop.now = 135.5
    protocol.timeout_keep_alive_handler()
    assert protocol.transport.closed
