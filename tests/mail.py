"""A mail server of our own on a free port, as much of SMTP as a client asks for: STARTTLS, AUTH, answers that refuse."""

from __future__ import annotations

import base64
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any


@dataclass
class MailServer:
    """Mails that were taken, with who they are from and for, who logged in, and whether the line was encrypted.

    `refuse` says what a command is answered in place of the usual.
    """

    port: int = 0
    mails: list[tuple[str, list[str], EmailMessage]] = field(default_factory=list)
    users: list[tuple[str, str]] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    refuse: dict[str, str] = field(default_factory=dict)


@contextmanager
def mail_server(
    certificate: tuple[Path, Path] | None = None, *, at_once: bool = False
) -> Iterator[MailServer]:
    """A running server. With a certificate and its key it offers STARTTLS, or speaks TLS `at_once`."""
    box = MailServer()
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):  # a client that went away
                session = _Session(box, self.request, context, at_once=at_once)
                try:
                    session.run()
                finally:
                    session.close()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        box.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield box
        server.shutdown()
        thread.join()


class _Session:
    def __init__(self, box: MailServer, line: Any, context: ssl.SSLContext | None, *, at_once: bool) -> None:
        self.box, self.context, self.secure = box, context, False
        self.line = line
        if at_once:
            self._encrypt()
        self.file = self.line.makefile("rb")

    def _encrypt(self) -> None:
        assert self.context is not None
        self.line, self.secure = self.context.wrap_socket(self.line, server_side=True), True

    def close(self) -> None:
        self.file.close()
        self.line.close()

    def say(self, text: str) -> None:
        self.line.sendall(text.encode() + b"\r\n")

    def run(self) -> None:
        self.say("220 here")
        sender, to = "", list[str]()
        while True:
            line = self.file.readline()
            if not line:
                return
            word, _, rest = line.decode().strip().partition(" ")
            word = word.upper()
            if word in self.box.refuse:
                self.say(self.box.refuse[word])
                continue
            match word:
                case "EHLO" | "HELO":
                    offers = [] if self.context is None or self.secure else ["250-STARTTLS"]
                    for offer in ("250-here", *offers, "250-AUTH PLAIN"):
                        self.say(offer)
                    self.say("250 8BITMIME")
                case "STARTTLS":
                    self.say("220 go on")
                    self.file.close()
                    self._encrypt()
                    self.file = self.line.makefile("rb")
                case "AUTH":
                    _, user, password = base64.b64decode(rest.partition(" ")[2]).decode().split("\0")
                    self.box.users.append((user, password))
                    self.say("235 welcome")
                case "MAIL":
                    sender, to = _address(rest), []
                    self.say("250 ok")
                case "RCPT":
                    to.append(_address(rest))
                    self.say("250 ok")
                case "DATA":
                    self.say("354 tell")
                    self.box.mails.append((sender, to, self._mail()))
                    self.box.encrypted.append(self.secure)
                    self.say("250 taken")
                case "QUIT":
                    self.say("221 bye")
                    return
                case _:
                    self.say("250 ok")

    def _mail(self) -> EmailMessage:
        lines = []
        while (line := self.file.readline()) not in (b".\r\n", b""):
            lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
        return message_from_bytes(b"".join(lines), policy=policy.default)


def _address(text: str) -> str:
    return text.partition("<")[2].partition(">")[0]


__all__ = ["MailServer", "mail_server"]
