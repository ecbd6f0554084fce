"""`POST /events/{source}`: events in, for those who have no Kafka client at hand.

The body is JSON, a list of objects or an object a line (`application/x-ndjson`), or an Arrow stream. All of it is in the log or
topic of the source when the answer goes out, or, when an event does not fit, none of it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response

from featurestore.config import Config
from featurestore.errors import RequestError, TooLarge
from featurestore.ir import Plan, Source
from featurestore.server.arrow import CONTENT_TYPE
from featurestore.stream import stream_source
from featurestore.stream.inbox import Inbox, Pushed, open_inbox, pushed_json

LINES = "application/x-ndjson"


class Events:
    """The logs and topics of stream sources, opened when they are first written to."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._inboxes: dict[Source, Inbox] = {}
        self._lock = threading.Lock()

    def append(self, plan: Plan, name: str, rows: Any) -> Pushed:
        """Gives events to an applied stream source. Raises NotFound, Unsupported, EventError, LogError and BrokerError."""
        source = stream_source(plan, name)
        with self._lock:
            if source not in self._inboxes:
                self._inboxes[source] = open_inbox(self._config, source)
            inbox = self._inboxes[source]
        return inbox.append(rows, time.time_ns() // 1000)

    def close(self) -> None:
        for inbox in self._inboxes.values():
            inbox.close()


def add_routes(api: FastAPI, worker: Any) -> None:
    """`worker` has `settings`, `access`, `catalog` and `events`."""

    @api.post("/events/{source}")
    async def events(request: Request, source: str) -> Response:
        worker.access.allow(request.scope["fs.key"], "write")
        rows = _rows(
            await body_of(request, worker.settings.max_body_bytes), request.headers.get("content-type", "")
        )
        plan = worker.catalog.state.plan
        done = await asyncio.to_thread(worker.events.append, plan, source, rows)
        said = {"source": source, **pushed_json(done), "appended_at": done.appended_at}
        return Response(orjson.dumps(said), 200, media_type="application/json")


async def body_of(request: Request, most: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise TooLarge(f"a body of more than {most} bytes\n  send the events in parts")
        parts.append(part)
    return b"".join(parts)


def _rows(body: bytes, kind: str) -> Any:
    kind = kind.partition(";")[0].strip().lower()
    if kind == CONTENT_TYPE.decode():
        import pyarrow as pa

        try:
            return pa.ipc.open_stream(body).read_all()
        except (pa.ArrowException, OSError, OverflowError, ValueError) as error:
            raise RequestError(f"the body is no Arrow stream: {str(error).splitlines()[0]}") from error
    try:
        if kind == LINES:
            return [orjson.loads(line) for line in body.splitlines() if line.strip()]
        rows = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the body is not JSON: {error}") from error
    if isinstance(rows, dict):
        rows = rows.get("events", [rows])
    if not isinstance(rows, list):
        raise RequestError("events are a list of objects, or an object a line as application/x-ndjson")
    return rows
