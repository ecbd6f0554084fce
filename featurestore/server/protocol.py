"""HTTP/1.1 by httptools, with patience that ends: for a request to arrive, for a first byte, and for endless headers."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from featurestore.server.direct import Direct
from featurestore.server.settings import Settings

HEAD_BYTES: Final = 64 << 10
"""Of a request line and its headers together."""

_SAID: Final = {
    400: (b"Bad Request", "RequestError", "this is not HTTP/1.1"),
    408: (b"Request Timeout", "DeadlineExceeded", "the request did not arrive whole in time"),
    431: (b"Request Header Fields Too Large", "TooLarge", f"the headers have more than {HEAD_BYTES} bytes"),
}


class PatientProtocol(HttpToolsProtocol):
    """A timer runs only while part of a request is there: one that arrives in one piece costs nothing.

    One whose head was seen before is answered at once (`direct`) where nothing else is under way on the connection.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        settings = getattr(self.config.app, "settings", None) or Settings()
        self._patience = settings.receive_seconds
        self._partial = self._in_head = False
        self._head = 0
        self._timer: asyncio.TimerHandle | None = None
        self._direct: Direct | None = getattr(self.app, "direct", None)
        self._answered_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self._calm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        direct = self._direct
        alone = direct is not None and self._nothing_under_way()
        if direct is not None and alone:
            answer = direct.answer(data, self.client)
            if answer is not None:
                self.transport.write(answer)
                self.server_state.total_requests += 1
                self._answered_at = self.loop.time()
                return
        super().data_received(data)
        if direct is not None and alone and self._is_kept():
            direct.learn(data, self.url, self.headers)
        if not self._partial:
            if self._timer is not None:
                self._calm()
            return
        if self._in_head:
            self._head += len(data)
            if self._head > HEAD_BYTES:
                self._refuse(431)
        if self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(self._patience, self._refuse, 408)

    def on_message_begin(self) -> None:
        self._partial = self._in_head = True
        self._head = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._partial = False
        super().on_message_complete()

    def _nothing_under_way(self) -> bool:
        cycle: Any = self.cycle  # none yet, before the first request
        return (
            not self._partial
            and (cycle is None or cycle.response_complete)
            and not self.flow.write_paused
            and not self.transport.is_closing()
            and not self.server_state.default_headers
        )

    def _is_kept(self) -> bool:
        """Whether the last request was whole, and its connection is for more like it."""
        cycle: Any = self.cycle
        return (
            not self._partial
            and cycle is not None
            and cycle.keep_alive
            and cycle.scope["method"] == "POST"
            and not self.parser.should_upgrade()
        )

    def timeout_keep_alive_handler(self) -> None:
        """Hangs up, unless a request was answered since the timer was set: then it waits for the rest."""
        left = self._answered_at + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        self._partial = False
        self._refuse(400)

    def _calm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: int) -> None:
        """Says why, unless an answer has begun or its body is read past, and hangs up."""
        self._calm()
        if self.transport.is_closing():
            return
        cycle: Any = self.cycle  # none yet, before the first headers are whole
        begun = cycle is not None and cycle.response_started
        passed_over = self._partial and not self._in_head
        if not begun or (cycle.response_complete and not passed_over):
            phrase, name, message = _SAID[status]
            body = orjson.dumps({"error": message, "type": name, "request_id": ""})
            self.transport.write(
                b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
                % (status, phrase, len(body), body)
            )
        self.transport.close()
