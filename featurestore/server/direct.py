"""Reads whose head was seen before, byte for byte, answered as they come in: no parser, no task, no message of ASGI.

A client sends the same request line and headers again and again, and before its tensors the same JSON. Whatever is new to
this worker, comes in pieces, or has to wait goes the whole way (`protocol`, `front`), which gives the same answer.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from featurestore.errors import DeadlineExceeded, NotFound, StoreUnavailable
from featurestore.server import oip
from featurestore.server.asking import Head
from featurestore.server.catalog import Served
from featurestore.server.routes import Route, route_of

if TYPE_CHECKING:
    from featurestore.server.front import Front

HEADS: Final = 256
HEAD_BYTES: Final = 4096
"""Of request lines and headers that are known at a time."""

Reply = tuple[int, list[tuple[bytes, bytes]], oip.Chunks]

_END: Final = b"\r\n\r\n"
_VARYING: Final = frozenset(
    {b"content-encoding", b"expect", b"transfer-encoding", b"upgrade", b"x-request-id"}
)
"""Headers that change how a request is read, or differ from one to the next."""


@dataclass(frozen=True, slots=True)
class Known:
    """A request line and its headers, understood once, and what the path names.

    `body` bytes follow them, of which the first `json` are JSON.
    """

    route: Route
    served: Served
    headers: dict[bytes, bytes]
    body: int
    json: int


class Direct:
    """What one worker answers at once."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._known: dict[bytes, Known] = {}
        self._state = front.catalog.state

    def learn(self, data: bytes, path: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """`data` was one POST with nothing before or after it, on a connection that is kept."""
        end = data.find(_END) + len(_END)
        fields = dict(headers)
        body, json = fields.get(b"content-length", b""), fields.get(b"inference-header-content-length", b"")
        if (
            end > HEAD_BYTES
            or not (body.isdigit() and int(body) == len(data) - end <= self._front.settings.max_body_bytes)
            or not (json.isdigit() and len(json) <= 12)
            or not _VARYING.isdisjoint(fields)
        ):
            return
        route = None if b"?" in path or b"%" in path else route_of(path.decode("latin-1"))
        if route is None or route.name is None or route.form != "oip":
            return
        try:
            served = self._front.catalog.get(route.name, route.version)
        except NotFound:
            return
        if len(self._known) >= HEADS or self._state is not self._front.catalog.state:
            self._forget()
        self._known[data[:end]] = Known(route, served, fields, int(body), int(json))

    def _forget(self) -> None:
        self._known.clear()
        self._state = self._front.catalog.state

    def answer(self, data: bytes, client: Any) -> bytes | None:
        """The whole answer to a request; None if it goes the whole way, and then nothing of it was done."""
        began = time.perf_counter()
        end = data.find(_END) + len(_END)
        known = self._known.get(data[:end])
        if known is None or len(data) - end != known.body:
            return None
        front = self._front
        if self._state is not front.catalog.state:  # another version may be the newest
            self._forget()
            return None
        tensors = end + known.json
        head = known.served.heads.get(data[end:tensors])
        if head is None or not self._waits_for_nothing(known.served, head):
            return None
        request_id = front.new_request_id()
        try:
            key = front.access.enter(known.headers, client)
            front.access.allow(key, "read", known.route.name)
            reply = self._read(known, head, data, tensors, request_id, began)
            if reply is None:
                return None
        except Exception as error:  # noqa: BLE001  the edge: every request has an answer
            status, fields, body = front.refused(error, request_id, known.route.label)
            reply = status, fields, [body]
        status, fields, parts = reply
        front.answered(known.route, status, request_id, began)
        return _written(status, fields, parts, request_id)

    def _waits_for_nothing(self, served: Served, head: Head) -> bool:
        """Whether all that is still to be done for a request can be done now."""
        front = self._front
        rows = head.tensors[0][3] if head.tensors else 0
        if not served.marked or front.lag > front.max_lag or front.traces is not None:
            return False
        if front.in_flight >= front.settings.max_in_flight or rows > front.settings.max_rows:
            return False
        if not front.embedded and (head.timeout is not None or front.access.counts):
            return False  # a server of values may have to be asked twice
        return front.is_inline(served, rows, front.timeout)

    def _read(
        self, known: Known, head: Head, data: bytes, at: int, request_id: str, began: float
    ) -> Reply | None:
        """The answer; None if a server of values was not quick this time. Raises what a read raises."""
        front, served = self._front, known.served
        started = time.perf_counter()
        numbers = oip.numbers(head, data, at)
        if numbers is not None and front.embedded and served.tap is None and served.reader.has_rows:
            decoded = time.perf_counter()
            floats = _floats(served, numbers)
            if floats is not None:
                read = time.perf_counter()
                parts = oip.encode_rows(floats, head)
                ended = time.perf_counter()
                times = (decoded - started, read - decoded, ended - read, ended - began)
                values = head.numbers * len(served.tensor)
                served.meters.note_present(known.route.label, head.numbers, values, times)
                return 200, oip.fields(len(parts[0])), parts
        ask = oip.again(head, data, at, served, front.settings.max_rows)
        decoded = time.perf_counter()
        try:
            _, left = front.left(ask.timeout, began)
            result = front.read_inline(ask, left)
        except (StoreUnavailable, DeadlineExceeded):
            served.meters.failed()
            raise
        if result is None:
            return None
        status, fields, body = front.reply(
            known.route, result, ask, request_id, {}, (began, started, decoded)
        )
        return status, fields, [body]


def _floats(served: Served, numbers: Any) -> bytes | memoryview | None:
    """The tensor of entities whose values are plain; None where it takes a whole read to say what they are."""
    if isinstance(numbers, int):
        return served.reader.row(numbers)
    found = served.reader.rows(numbers)
    return None if found is None else found.data


def _written(status: int, fields: list[tuple[bytes, bytes]], body: oip.Chunks, request_id: str) -> bytes:
    """An answer as it goes over the line."""
    size = 0
    for part in body:
        size += part.nbytes if isinstance(part, memoryview) else len(part)
    parts = [STATUS_LINE[status]]
    for name, value in fields:
        parts += (name, b": ", value, b"\r\n")
    parts.append(b"content-length: %d\r\nx-request-id: %b\r\n\r\n" % (size, request_id.encode()))
    return b"".join([*parts, *body])
