"""The routes that read features, answered ahead of FastAPI's machinery, which has the rest.

One request: who asks, is there room, the body, what it asks for, the read, the answer. Each step raises the error that it
means; `refusals` makes answers of them.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import parse_qs

from featurestore.errors import (
    DeadlineExceeded,
    FeatureStoreError,
    Overloaded,
    RegistryError,
    RequestError,
    StoreUnavailable,
    TooLarge,
)
from featurestore.registry.keys import Key
from featurestore.server import arrow, feast, metrics, oip
from featurestore.server.access import Access
from featurestore.server.asking import Ask, at_of, context_of, timeout_of
from featurestore.server.catalog import Catalog, Served
from featurestore.server.direct import Direct
from featurestore.server.logs import LOG, say
from featurestore.server.refusals import Endless, NoKey, RateExceeded, refusal
from featurestore.server.routes import Route, route_of
from featurestore.server.settings import Settings
from featurestore.server.traces import Traces
from featurestore.serving import OnlineFeatures
from featurestore.serving.trouble import Degraded

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

INLINE_ROWS: Final = 1000
"""Up to so many rows are read where the request is handled; a thread would cost more than the read."""

INLINE_SECONDS: Final = 0.002
"""A server of values that takes longer is read in threads for a while: others wait for what is read inline."""

INLINE_PATIENCE: Final = 0.02
"""So long a read may at most keep the others waiting, before it is asked anew in a thread."""

INLINE_PAUSE: Final = 1.0
"""Seconds for which a server that was slow is read in threads."""

PASSED_OVER: Final = 8
"""Times the largest body that is taken: so much is read past, since most clients look for an answer when all is sent."""

THREADS: Final = 8
OPEN: Final = frozenset({"/health", "/ready", "/v2/health/live", "/v2/health/ready"})
"""What probes ask, key or no key; it says nothing of what is served."""

_JSON: Final = (b"content-type", b"application/json")
_ARROW: Final = (b"content-type", arrow.CONTENT_TYPE)
_CLOSE: Final = (b"connection", b"close")
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9_.:-]{1,128}\Z")


class Disconnected(Exception):
    """The client has gone before its request was whole."""


class Front:
    """The ASGI application of one worker."""

    def __init__(self, settings: Settings, catalog: Catalog, access: Access, *, embedded: bool) -> None:
        self.settings, self.catalog, self.access = settings, catalog, access
        self.rest: App = _nothing
        self.direct = Direct(self)
        self.traces = Traces.from_environment()
        self.in_flight, self.lag = 0, 0.0
        self.embedded = embedded
        self._pool = ThreadPoolExecutor(THREADS, "read")
        self._routes: dict[str, Route] = {}
        self._counted: dict[tuple[str, int], int] = {}
        self._ids, self._number = secrets.token_hex(10), itertools.count()
        self._inline_from = 0.0
        self.max_lag = settings.max_lag_ms / 1000
        self.timeout = settings.timeout_ms / 1000

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.rest(scope, receive, send)
            return
        path = scope["path"]
        route = None
        if scope["method"] == "POST":
            route = self._routes.get(path) or route_of(path)
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id")
        request_id = (
            given.decode() if given is not None and _REQUEST_ID.match(given) else self.new_request_id()
        )
        if route is None:
            await self._other(scope, receive, send, headers, request_id)
            return
        began = time.perf_counter()
        label, reply = route.label, None
        try:
            reply = await self._answer(route, scope, receive, headers, request_id, began)
        except Disconnected:
            self.count(label, 499)
            return
        except Exception as error:  # noqa: BLE001  the edge: every request has an answer
            reply = self.refused(error, request_id, label)
        status, fields, body = reply
        await _send(send, status, fields, body, request_id)
        self.answered(route, status, request_id, began)

    def new_request_id(self) -> str:
        return f"{self._ids}{next(self._number):012x}"

    def answered(self, route: Route, status: int, request_id: str, began: float) -> None:
        self.count(route.label, status)
        if self.settings.log_requests:
            say(
                "request",
                request_id=request_id,
                route=route.label,
                service=route.name,
                status=status,
                ms=(time.perf_counter() - began) * 1000,
            )

    # --- one read ---------------------------------------------------------------------------------

    async def _answer(
        self,
        route: Route,
        scope: Scope,
        receive: Receive,
        headers: dict[bytes, bytes],
        request_id: str,
        began: float,
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        key = self.access.enter(headers, scope.get("client"))
        if self.lag > self.max_lag:
            metrics.SHED.labels("lag").inc()
            raise Overloaded(f"this server is {self.lag:.1f} s behind")
        served = None
        if route.name is not None:
            self.access.allow(key, "read", route.name)
            served = self.catalog.get(route.name, route.version)
            self._routes[scope["path"]] = route
        body = await self._body(receive, headers)
        if self.in_flight >= self.settings.max_in_flight:
            metrics.SHED.labels("in_flight").inc()
            raise Overloaded(f"{self.in_flight} requests are being answered, which is all at a time")
        self.in_flight += 1
        try:
            started = time.perf_counter()
            ask = self._decode(route, served, body, scope, headers, key)
            decoded = time.perf_counter()
            try:
                if self.traces is None:
                    result = await self._read(ask, began)
                else:
                    with self.traces.span(headers, ask.served.reference, ask.rows, request_id):
                        result = await self._read(ask, began)
            except (StoreUnavailable, DeadlineExceeded):
                ask.served.meters.failed()
                raise
            return self.reply(route, result, ask, request_id, _query(scope), (began, started, decoded))
        finally:
            self.in_flight -= 1

    def reply(
        self,
        route: Route,
        result: OnlineFeatures,
        ask: Ask,
        request_id: str,
        query: Mapping[str, str],
        times: tuple[float, float, float],
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """What was read as an answer, captured and noted. `times`: when it was begun, at hand, and understood."""
        began, started, decoded = times
        read = time.perf_counter()
        degraded = type(result) is Degraded
        reply = self._encode(route, result, ask, request_id, query, degraded=degraded)
        if ask.served.tap is not None:
            ask.served.tap.offer(
                result, request_id=ask.id or request_id, degraded=degraded, context=ask.context
            )
        ended = time.perf_counter()
        ask.served.meters.note(
            route.label,
            result,
            decoded - started,
            read - decoded,
            ended - read,
            ended - began,
            degraded=degraded,
        )
        return reply

    async def _body(self, receive: Receive, headers: dict[bytes, bytes]) -> bytes:
        """The whole body. The protocol ends the wait for a slow one; here its size is bounded."""
        most = self.settings.max_body_bytes
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > most:
            kind = TooLarge if length.isdigit() and int(length) <= PASSED_OVER * most else Endless
            raise kind(f"a body of {length.decode('latin-1')[:20]} bytes, and this server takes {most}")
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        body: bytes = message.get("body", b"")
        if not message.get("more_body"):
            return body
        parts, size = [body], len(body)
        while message.get("more_body"):
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most:
                raise Endless(f"a body of more than {most} bytes")
        return b"".join(parts)

    def _decode(
        self,
        route: Route,
        served: Served | None,
        body: bytes,
        scope: Scope,
        headers: dict[bytes, bytes],
        key: Key | None,
    ) -> Ask:
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise RequestError("the body is compressed\n  send it as it is")
        most = self.settings.max_rows
        if served is None:
            said = feast.parse(body)
            self._allow_feast(key, said)
            return feast.decode(said, feast.target(said, self.catalog), most)
        if route.form == "oip":
            return oip.decode(body, headers.get(b"inference-header-content-length"), served, most)
        ask = arrow.decode(body, served, most, self.settings.max_body_bytes)
        query = _query(scope)
        ask.at, ask.timeout = at_of(query.get("at")), timeout_of(query.get("timeout"))
        ask.context = context_of(query.get("context"))
        return ask

    def _allow_feast(self, key: Key | None, said: dict[str, Any]) -> None:
        """A key for some services reads those, and the features of views that they read."""
        service = said.get("feature_service")
        if not self.access.needed or key is None or not key.services:
            return self.access.allow(key, "read")
        if isinstance(service, str):
            return self.access.allow(key, "read", service.partition("@")[0])
        open_to = frozenset[tuple[str, str]]().union(*(self.catalog.reads_of(s) for s in key.services))
        for reference in said.get("features") or ():
            view, _, feature = str(reference).partition(":")
            if (view, feature) not in open_to:
                self.access.allow(key, "read", str(reference)[:200])
        return None

    async def _read(self, ask: Ask, began: float) -> OnlineFeatures:
        served = ask.served
        if not served.marked:
            served = ask.served = await self._marked(served)
        limit, left = self.left(ask.timeout, began)
        read = served.reader.read
        if self.is_inline(served, ask.rows, left):
            result = self.read_inline(ask, left)
            if result is not None:
                return result
            left = limit - (time.perf_counter() - began)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(left + 0.005):
                return await loop.run_in_executor(self._pool, read, ask.entities, ask.at, left, ask.request)
        except TimeoutError as error:
            instead = served.reader.without_store(ask.entities, ask.at, ask.request)
            if instead is not None:
                return instead
            raise DeadlineExceeded(f"the store did not answer within {limit * 1000:.0f} ms") from error
        except StoreUnavailable as error:
            if time.perf_counter() - began >= limit:
                raise DeadlineExceeded(f"the store did not answer within {limit * 1000:.0f} ms") from error
            raise

    def left(self, timeout: float | None, began: float) -> tuple[float, float]:
        """The seconds that a request has, and those it has left. Raises DeadlineExceeded when there are none."""
        limit = self.timeout if timeout is None else min(timeout, self.timeout)
        left = limit - (time.perf_counter() - began)
        if left <= 0:
            raise DeadlineExceeded(f"{limit * 1000:.0f} ms were over before the store was asked")
        return limit, left

    def is_inline(self, served: Served, rows: int, left: float) -> bool:
        """Whether so many rows are read where the request is handled: of this machine, or of what has been quick lately."""
        if rows > INLINE_ROWS or self.embedded:
            return rows <= INLINE_ROWS
        quick = time.perf_counter() >= self._inline_from
        return quick and left > INLINE_PATIENCE and served.reader.knows_views

    def read_inline(self, ask: Ask, left: float) -> OnlineFeatures | None:
        """A read that others wait for; None if a server of values was not quick this time."""
        if self.embedded:
            return ask.served.reader.read(ask.entities, ask.at, left, ask.request)
        started = time.perf_counter()
        try:
            result = ask.served.reader.read(ask.entities, ask.at, INLINE_PATIENCE, ask.request)
        except StoreUnavailable:
            self._inline_from = time.perf_counter() + INLINE_PAUSE
            return None
        if type(result) is Degraded:
            self._inline_from = time.perf_counter() + INLINE_PAUSE
            return None
        ended = time.perf_counter()
        if ended - started > INLINE_SECONDS:
            self._inline_from = ended + INLINE_PAUSE
        return result

    async def _marked(self, served: Served) -> Served:
        """Tells the registry that a version serves, before its first value goes out: from then on it cannot change."""
        now = time.time_ns() // 1000
        for last in (False, True):
            try:
                await asyncio.to_thread(
                    self.catalog.registry.mark_served, served.name, served.version, now, served.fingerprint
                )
                break
            except RegistryError:  # replaced since it was loaded: take the new one up
                if last or not await asyncio.to_thread(self.catalog.poll):
                    raise
                served = self.catalog.get(served.name, str(served.version))
        served.marked = True
        return served

    def _encode(
        self,
        route: Route,
        result: OnlineFeatures,
        ask: Ask,
        request_id: str,
        query: Mapping[str, str],
        *,
        degraded: bool,
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        if route.form == "oip":
            body, head = oip.encode(result, ask, degraded=degraded)
            if head is None:
                return 200, [_JSON], body
            return 200, oip.fields(head), body
        if route.form == "feast":
            return 200, [_JSON], feast.encode(result, ask, request_id, degraded=degraded)
        statuses = query.get("statuses") == "true"
        return 200, [_ARROW], arrow.encode(result, ask, request_id, statuses=statuses, degraded=degraded)

    # --- the rest ---------------------------------------------------------------------------------

    async def _other(
        self, scope: Scope, receive: Receive, send: Send, headers: dict[bytes, bytes], request_id: str
    ) -> None:
        """FastAPI's routes: the same door, the same refusals, and a request id on each answer."""
        started = False

        async def named(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self.count("other", message["status"])
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            scope["fs.request_id"] = request_id
            scope["fs.key"] = None
            if scope["path"] not in OPEN:
                scope["fs.key"] = self.access.enter(headers, scope.get("client"))
            await self.rest(scope, receive, named)
        except Exception as error:
            if started:
                raise
            status, fields, body = self.refused(error, request_id, "other")
            await _send(send, status, fields, body, request_id)
            self.count("other", status)

    def refused(
        self, error: BaseException, request_id: str, route: str
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """The answer to what went wrong; refusals for want of a right are audited, and faults of ours logged whole."""
        status, fields, body = refusal(error, request_id)
        if not isinstance(error, FeatureStoreError):
            LOG.error("fault", exc_info=error, extra={"fields": {"request_id": request_id, "route": route}})
        elif status in (401, 403):
            reason = "no key" if isinstance(error, NoKey) else "not allowed"
            metrics.REFUSED.labels(reason).inc()
            say(
                "refused",
                level=logging.WARNING,
                audit=True,
                reason=reason,
                caller=getattr(error, "caller", ""),
                request_id=request_id,
                route=route,
            )
        elif isinstance(error, RateExceeded):
            metrics.SHED.labels("rate").inc()
        elif status >= 500 and not isinstance(error, Overloaded):
            first = str(error).splitlines()[0]
            say(
                "failed",
                level=logging.ERROR,
                type=type(error).__name__,
                error=first,
                request_id=request_id,
                route=route,
            )
        fields = [_JSON, *fields]
        if isinstance(error, Endless):
            fields.append(_CLOSE)
        return status, fields, body

    def count(self, route: str, status: int) -> None:
        self._counted[route, status] = self._counted.get((route, status), 0) + 1

    def put(self) -> None:
        """What was counted since the last time, where Prometheus sees it."""
        counted, self._counted = self._counted, {}
        for (route, status), count in counted.items():
            metrics.REQUESTS.labels(route, str(status)).inc(count)
        metrics.IN_FLIGHT.set(self.in_flight)
        metrics.put_all()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _query(scope: Scope) -> dict[str, str]:
    raw = scope.get("query_string", b"")
    if not raw:
        return {}
    try:
        return {k: v[-1] for k, v in parse_qs(raw.decode("latin-1"), max_num_fields=20).items()}
    except ValueError as error:
        raise RequestError("the query has more than 20 fields") from error


async def _send(
    send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes, request_id: str
) -> None:
    headers.append((b"content-length", b"%d" % len(body)))
    headers.append((b"x-request-id", request_id.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    raise RequestError("nothing is served yet")
