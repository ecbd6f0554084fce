"""What a server may be told, by `[server]` of `fs.toml` and by `fs serve`, with the limits it keeps."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from featurestore.errors import ConfigError, nearest


@dataclass(frozen=True, slots=True)
class Settings:
    """One server. Limits hold for each worker; 0 turns `requests_per_second` off.

    `timeout_ms` bounds a read that names no shorter time; `max_in_flight` the reads begun and not answered, and
    `max_lag_ms` how far behind the worker may be, beyond which requests are turned away with 503. `poll_ms` is how often
    the registry is asked for new versions and keys. A request has `receive_seconds` to arrive whole.
    """

    host: str = "127.0.0.1"
    port: int = 6566
    uds: str | None = None
    workers: int = 1
    timeout_ms: int = 2000
    max_body_bytes: int = 16 << 20
    max_rows: int = 100_000
    max_in_flight: int = 64
    max_lag_ms: int = 500
    requests_per_second: int = 0
    receive_seconds: int = 10
    keep_alive_seconds: int = 75
    drain_seconds: int = 30
    poll_ms: int = 1000
    log_requests: int = 0
    tls_certificate: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None

    @staticmethod
    def of(given: Mapping[str, Any]) -> Settings:
        """Settings by name; None leaves the default. ConfigError for a value that cannot be."""
        known = {f.name for f in fields(Settings)}
        for name in given:
            if name not in known:
                raise ConfigError("\n  ".join([f"no server setting '{name}'", *nearest(name, known)]))
        made = replace(Settings(), **{k: v for k, v in given.items() if v is not None})
        for name in (
            "workers",
            "timeout_ms",
            "max_body_bytes",
            "max_rows",
            "max_in_flight",
            "max_lag_ms",
            "poll_ms",
        ):
            if getattr(made, name) < 1:
                raise ConfigError(f"'{name}' of the server is {getattr(made, name)}\n  it is at least 1")
        if not 0 <= made.port <= 65535:
            raise ConfigError(f"port {made.port} is none\n  there are 0 (any that is free) to 65535")
        if (made.tls_certificate is None) != (made.tls_key is None):
            raise ConfigError("TLS wants both tls_certificate and tls_key")
        if made.tls_client_ca is not None and made.tls_certificate is None:
            raise ConfigError("tls_client_ca asks clients for certificates, and the server has none itself")
        for name in ("tls_certificate", "tls_key", "tls_client_ca"):
            path = getattr(made, name)
            if path is not None and not Path(path).is_file():
                raise ConfigError(f"{name}: there is no file {path}")
        return made

    @property
    def needs_keys(self) -> bool:
        """Whether who is not on this machine can get here: then every request but the probes wants a key."""
        if self.uds is not None or self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True  # a name: who knows what it will stand for

    @property
    def url(self) -> str:
        if self.uds is not None:
            return f"unix://{self.uds}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.tls_certificate else ''}://{host}:{self.port}"
