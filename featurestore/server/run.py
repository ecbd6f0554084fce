"""`fs serve`: binds, then serves with one worker or several until it is told to stop, and lets answers finish."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import stat
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import FrameType

import uvicorn
from uvicorn.supervisors import Multiprocess

from featurestore.config import load_config
from featurestore.errors import ConfigError
from featurestore.registry import open_registry
from featurestore.registry.keys import Keys
from featurestore.server.app import Application
from featurestore.server.protocol import PatientProtocol
from featurestore.server.settings import Settings

BACKLOG = 2048
WORKER_SECONDS = 60
"""For a worker to say that it lives. It cannot while it imports, which on a busy machine takes longer than uvicorn's five."""


def serve(folder: Path, environment: str | None, settings: Settings, announce: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT. `announce` gets the URL once it is bound.

    Raises ConfigError when the place is taken, or when it can be reached from elsewhere and there is no key.
    """
    config = load_config(folder, environment)
    if settings.needs_keys and not Keys(open_registry(config.registry_url, config.root)).active():
        raise ConfigError(
            f"{settings.host} can be reached from elsewhere, and there is no key\n"
            "  make one with `fs key add NAME`, or serve on 127.0.0.1 or --uds"
        )
    with ExitStack() as stack:
        listening = stack.enter_context(_bound(settings))
        if settings.uds is not None:
            stack.callback(Path(settings.uds).unlink, missing_ok=True)
        if settings.workers > 1:
            folder_of_metrics = stack.enter_context(tempfile.TemporaryDirectory(prefix="fs-metrics-"))
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder_of_metrics
        options = uvicorn.Config(
            Application(str(folder), environment, settings),
            factory=True,
            http=PatientProtocol,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            date_header=False,
            workers=settings.workers,
            timeout_worker_healthcheck=WORKER_SECONDS,
            backlog=BACKLOG,
            timeout_keep_alive=settings.keep_alive_seconds,
            timeout_graceful_shutdown=settings.drain_seconds,
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
            ssl_ca_certs=settings.tls_client_ca,
            ssl_cert_reqs=ssl.CERT_REQUIRED if settings.tls_client_ca else ssl.CERT_NONE,
        )
        announce(_url(settings, listening))
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGTERM, _heard)
            stack.callback(signal.signal, signal.SIGTERM, before)
        if settings.workers > 1:
            Multiprocess(options, [listening]).run()
        else:
            uvicorn.Server(options).run([listening])


def _heard(number: int, frame: FrameType | None) -> None:
    """Uvicorn raises the signal that ended it once more; by then all is done, and the exit status is 0."""


def _bound(settings: Settings) -> socket.socket:
    place = settings.uds or f"{settings.host}:{settings.port}"
    try:
        if settings.uds is not None:
            return _unix(Path(settings.uds))
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        made = socket.socket(family)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((settings.host, settings.port))
        made.listen(BACKLOG)  # who comes before a worker is up waits, rather than being turned away
        made.set_inheritable(True)
    except OSError as error:
        raise ConfigError(
            f"cannot serve on {place}: {error.strerror or error}\n  give another --port or --uds"
        ) from error
    return made


def _unix(path: Path) -> socket.socket:
    """A socket for this user and group; one that nobody listens on any more is taken over."""
    made = socket.socket(socket.AF_UNIX)
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        try:
            made.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        made.close()
        made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    path.chmod(0o660)
    made.listen(BACKLOG)
    made.set_inheritable(True)
    return made


def _url(settings: Settings, listening: socket.socket) -> str:
    if settings.uds is not None:
        return settings.url
    return replace(settings, port=listening.getsockname()[1]).url
