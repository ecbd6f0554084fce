"""A store that stops answering: deadlines, the breaker, what a service gives instead, and how it all comes back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from featurestore import FeatureStore
from featurestore.errors import StoreUnavailable
from featurestore.serving.trouble import Breaker, Degraded
from featurestore.status import Status
from tests.served import DEFINITIONS, NOW, columns, project, serving, wait_until
from tests.services import directory, missing, redis_command, started

FEAST = "/get-online-features"
PROMISES = (
    DEFINITIONS
    + """
last = FeatureService("last", features=[spend, shops.on(prefix="shop_"), ratio], deadline=seconds(1), on_unavailable="last_known")
given = FeatureService("given", features=[shops, spend["count_1d"]], on_unavailable="default")
quick = FeatureService("quick", features=[shops], deadline=seconds(1))
"""
)
ASKED = {"user_id": [1, 2], "shop": ["s1", "s2"], "price_now": [1.0, 2.0]}


@contextmanager
def paused(port: int) -> Iterator[None]:
    """A Redis that takes connections and answers nothing."""
    with redis.Redis(port=port) as client:
        info: Any = client.info("server")
    os.kill(info["process_id"], signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(info["process_id"], signal.SIGCONT)


@pytest.fixture
def own_redis() -> Iterator[int]:
    """A Redis of this test's own: it may be stopped."""
    binary = shutil.which("redis-server") or missing("redis-server", package="redis-server")
    with directory("fs-redis-") as home, started(lambda port: redis_command(binary, home, port)) as port:
        yield port


def settings(port: int) -> str:
    return f'[online]\nurl = "redis://127.0.0.1:{port}/0"\n[server]\npoll_ms = 100\ntimeout_ms = 1500\n'


def test_the_sdk_keeps_what_a_service_promises(own_redis: int, tmp_path: Path) -> None:
    folder = project(tmp_path / "shop", settings(own_redis), PROMISES)
    keys = {n: ASKED[n] for n in ("user_id", "shop")}
    request = {"price_now": ASKED["price_now"]}
    with FeatureStore(folder) as store:
        known = store.get_online_features("last", keys, request=request, at=NOW)
        assert not isinstance(known, Degraded)
        with paused(own_redis):
            again = store.get_online_features("last", keys, request=request, at=NOW)
            assert isinstance(again, Degraded)
            assert again.to_dict() == known.to_dict()
            assert set(again.statuses.ravel().tolist()) == {Status.STALE}
            others = {"user_id": [1, 9], "shop": ["s1", "s2"]}
            part = store.get_online_features("last", others, request=request, at=NOW)
            assert part.to_dict()["count_1d"] == [known.to_dict()["count_1d"][0], None]
            assert part.to_dict()["ratio"] == [known.to_dict()["ratio"][0], 1.0]
            assert part.statuses[1, part.names.index("ratio")] == Status.DEFAULT
            given = store.get_online_features("given", keys, at=NOW)
            assert given.to_dict() == {
                "amount": [-1.0, -1.0],
                "shops__count_1d": [None, None],
                "spend__count_1d": [None, None],
            }
            assert given.statuses.tolist() == [[Status.DEFAULT, Status.STALE, Status.STALE]] * 2
            began = time.monotonic()
            with pytest.raises(StoreUnavailable):
                store.get_online_features("quick", {"shop": ["s1"]})
            assert time.monotonic() - began < 5
        wait_until(
            lambda: not isinstance(store.get_online_features("last", keys, request=request, at=NOW), Degraded)
        )


def test_a_server_whose_store_hangs(own_redis: int, tmp_path: Path) -> None:
    folder = project(tmp_path / "shop", settings(own_redis), PROMISES)
    with serving(folder) as server:
        asked = {"feature_service": "last", "entities": ASKED}
        good = server.post(FEAST, asked)
        assert good.status == 200
        assert server.ask("GET", "/ready").status == 200
        with paused(own_redis):
            began = time.monotonic()
            answer = server.post(
                FEAST, {"feature_service": "plain", "entities": {"shop": ["s1"]}, "timeout": 0.2}
            )
            assert answer.status in (503, 504), answer.body
            assert answer.json()["type"] in ("DeadlineExceeded", "StoreUnavailable")
            assert time.monotonic() - began < 10
            assert server.ask("GET", "/health").status == 200
            wait_until(lambda: server.post(FEAST, asked).status == 200)
            stale = server.post(FEAST, asked).json()
            assert stale["metadata"]["degraded"] is True
            assert columns(stale) == columns(good.json())
            assert "count_1d" in stale["metadata"]["stale"]
            tensors = {"inputs": [{"name": "shop", "shape": [1], "datatype": "BYTES", "data": ["s1"]},
                                  {"name": "user_id", "shape": [1], "datatype": "INT64", "data": [1]}]}  # fmt: skip
            given = server.post("/v2/models/given/infer", tensors)
            assert given.json()["parameters"] == {"degraded": True}

            def refused_at_once() -> bool:
                began = time.monotonic()
                answer = server.post(FEAST, {"feature_service": "plain", "entities": {"shop": ["s1"]}})
                return answer.status == 503 and time.monotonic() - began < 0.5

            wait_until(refused_at_once)
            ready = server.ask("GET", "/ready")
            assert ready.status == 503
            assert ready.json()["problems"]
            assert server.ask("GET", "/v2/models/plain/ready").status == 503
        wait_until(
            lambda: (
                server.post(FEAST, {"feature_service": "plain", "entities": {"shop": ["s1"]}}).status == 200
            )
        )
        wait_until(lambda: server.ask("GET", "/ready").status == 200)
        assert "degraded" not in server.post(FEAST, asked).json()["metadata"]
        text = server.ask("GET", "/metrics").body.decode()
        assert 'fs_degraded_total{service="last"}' in text


def test_more_reads_than_there_is_room_for_are_turned_away_at_once(own_redis: int, tmp_path: Path) -> None:
    import concurrent.futures

    folder = project(tmp_path / "shop", settings(own_redis) + "max_in_flight = 3\n")
    asked = {"feature_service": "plain", "entities": {"shop": ["s1"]}}
    with serving(folder) as server:
        assert server.post(FEAST, asked).status == 200
        with paused(own_redis), concurrent.futures.ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: server.post(FEAST, asked), range(12)))
        shed = [a for a in answers if a.json()["type"] == "Overloaded"]
        assert shed
        assert {a.status for a in shed} == {503}
        assert all("retry-after" in a.headers for a in shed)
        wait_until(lambda: server.post(FEAST, asked).status == 200)


def test_a_service_that_is_too_old_is_not_ready(tmp_path: Path) -> None:
    definitions = DEFINITIONS + 'old = FeatureService("old", features=[shops], max_staleness=hours(1))\n'
    folder = project(tmp_path / "shop", "", definitions)
    with serving(folder) as server:
        ready = server.ask("GET", "/ready")
        assert ready.status == 503
        assert "3600 s are allowed" in ready.json()["services"]["old"][0]
        assert server.ask("GET", "/v2/models/old/ready").status == 503
        assert server.ask("GET", "/v2/models/plain/ready").status == 200


def test_the_breaker_opens_lets_one_try_and_closes() -> None:
    now = [0.0]
    breaker = Breaker(failures=2, pause=1.0, clock=lambda: now[0])
    breaker.enter()
    breaker.failed()
    breaker.enter()
    breaker.failed()
    assert breaker.is_open
    with pytest.raises(StoreUnavailable, match="2 times in a row"):
        breaker.enter()
    now[0] = 1.5
    breaker.enter()  # one tries
    with pytest.raises(StoreUnavailable):
        breaker.enter()  # the others wait for how that ends
    breaker.succeeded()
    breaker.enter()
    assert not breaker.is_open


def test_each_read_is_a_span_of_the_callers_trace() -> None:
    """In a process of its own: a tracer provider can be set once."""
    code = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from featurestore.server.traces import Traces

assert Traces.from_environment() is None
kept = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(kept))
trace.set_tracer_provider(provider)
traces = Traces.from_environment()
caller = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
with traces.span({b"traceparent": caller, b"authorization": b"Bearer fs_secret"}, "plain@1", 3, "r1"):
    pass
(span,) = kept.get_finished_spans()
assert f"{span.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
assert dict(span.attributes) == {"fs.service": "plain@1", "fs.rows": 3, "fs.request_id": "r1"}
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
