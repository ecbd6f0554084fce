"""HTTP/1.1 by httptools, with patience that ends: for a request to arrive, for a first byte, and for endless headers."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from featurestore.server.settings import Settings

HEAD_BYTES: Final = 64 << 10
"""Of a request line and its headers together."""

_SAID: Final = {
    400: (b"Bad Request", "RequestError", "this is not HTTP/1.1"),
    408: (b"Request Timeout", "DeadlineExceeded", "the request did not arrive whole in time"),
    431: (b"Request Header Fields Too Large", "TooLarge", f"the headers have more than {HEAD_BYTES} bytes"),
}


class PatientProtocol(HttpToolsProtocol):
    """A timer runs only while part of a request is there: one that arrives in one piece costs nothing."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        settings = getattr(self.config.app, "settings", None) or Settings()
        self._patience = settings.receive_seconds
        self._partial = self._in_head = False
        self._head = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self._calm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
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

    def send_400_response(self, msg: str) -> None:
        self._partial = False
        self._refuse(400)

    def _calm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: int) -> None:
        """Says why, unless an answer has begun, and hangs up."""
        self._calm()
        if self.transport.is_closing():
            return
        cycle: Any = self.cycle  # none yet, before the first headers are whole
        answering = cycle is not None and cycle.response_started and not cycle.response_complete
        if not answering:
            phrase, name, message = _SAID[status]
            body = orjson.dumps({"error": message, "type": name, "request_id": ""})
            self.transport.write(
                b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
                % (status, phrase, len(body), body)
            )
        self.transport.close()
