"""A relay to a server, whose connections can be cut and turned away."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing resets."""


class Relay:
    """Passes on what comes to `port`. `accepted` counts connections, those turned away too."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.accepted = 0
        self._turn_away = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, turn_away: int) -> None:
        """Resets all connections that there are, and so many of those that come next."""
        self._turn_away = turn_away
        made, self._open = self._open, []
        for one in made:
            _reset(one)

    def close(self) -> None:
        self._listener.close()
        self.cut(1 << 30)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                mine, _ = self._listener.accept()
                self.accepted += 1
                if self._turn_away > 0:
                    self._turn_away -= 1
                    _reset(mine)
                    continue
                its = socket.create_connection(("127.0.0.1", self._to))
                self._open += [mine, its]
                for one, other in ((mine, its), (its, mine)):
                    threading.Thread(target=_pass, args=(one, other), daemon=True).start()


def _reset(one: socket.socket) -> None:
    with suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        one.shutdown(socket.SHUT_RDWR)
    one.close()


def _pass(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(1 << 16):
            other.sendall(data)
    with suppress(OSError):
        other.shutdown(socket.SHUT_WR)


@contextmanager
def relay(to: int) -> Iterator[Relay]:
    made = Relay(to)
    try:
        yield made
    finally:
        made.close()
