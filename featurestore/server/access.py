"""Who may do what: keys, scopes, and how often."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from featurestore.registry.keys import Key, Role, match
from featurestore.server.refusals import NoKey, NotAllowed, RateExceeded

CALLERS: Final = 10_000
"""Callers whose rate is known at a time; whoever was longest silent goes first."""


class Access:
    """The door. `needed` is decided when the server binds; `keys` are replaced whole when the registry is polled."""

    def __init__(self, *, needed: bool, rate: int) -> None:
        self.needed, self.keys = needed, dict[str, Key]()
        self._rate = float(rate)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def enter(self, headers: Mapping[bytes, bytes], client: Any) -> Key | None:
        """The caller's key, or None where none is needed. Raises AccessDenied, and RateExceeded for too many requests."""
        key = self._key(headers, client) if self.needed else None
        if self._rate:
            self._count(key.id if key is not None else _address(client))
        return key

    @property
    def counts(self) -> bool:
        """Whether callers have a rate."""
        return bool(self._rate)

    def allow(self, key: Key | None, role: Role, service: str | None = None) -> None:
        """Raises AccessDenied unless the key covers it. Whether the service exists makes no difference."""
        if self.needed and (key is None or not key.may(role, service)):
            what = {"read": "read", "write": "write to", "admin": "administer"}[role]
            where = "this server" if service is None else f"'{service}'"
            raise NotAllowed(f"this key may not {what} {where}", "" if key is None else key.id)

    def _key(self, headers: Mapping[bytes, bytes], client: Any) -> Key:
        given = headers.get(b"authorization")
        if given is not None and given[:7].lower() == b"bearer ":
            given = given[7:]
        elif given is None:
            given = headers.get(b"x-api-key")
        if given is None:
            raise NoKey(
                "this server wants a key\n  send it as `Authorization: Bearer fs_…`; `fs key add` makes one",
                _address(client),
            )
        key = match(given.decode("latin-1").strip(), self.keys)
        if key is None:
            raise NoKey(
                "this key opens nothing here\n  it is unknown or was revoked; `fs key list` shows those there are",
                _address(client),
            )
        return key

    def _count(self, caller: str) -> None:
        """A bucket of one second's requests for each caller, filled at the rate."""
        now = time.monotonic()
        left, at = self._buckets.pop(caller, (self._rate, now))
        left = min(self._rate, left + (now - at) * self._rate)
        self._buckets[caller] = (max(left - 1, 0.0), now)
        if len(self._buckets) > CALLERS:
            self._buckets.popitem(last=False)
        if left < 1:
            raise RateExceeded(f"more than {self._rate:.0f} requests a second", (1 - left) / self._rate)


def _address(client: Any) -> str:
    return str(client[0]) if client else ""
