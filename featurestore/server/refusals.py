"""From an error to an answer: one status for each type, and one shape of body for all."""

from __future__ import annotations

import math
from typing import Final

import orjson

from featurestore.errors import (
    AccessDenied,
    BrokerError,
    CaptureError,
    DeadlineExceeded,
    EventError,
    ExpectationFailed,
    FeatureStoreError,
    LogError,
    NotFound,
    Overloaded,
    RegistryError,
    RequestError,
    ServingError,
    StoreUnavailable,
    TooLarge,
    Unsupported,
)

Headers = list[tuple[bytes, bytes]]

MESSAGE: Final = 2000
"""Characters of a message that go out; a wrong value quoted in it may be of any length."""


class Refused(AccessDenied):
    """A refusal that is audited: `caller` is the id of a key, which is no secret, or an address."""

    def __init__(self, message: str, caller: str) -> None:
        super().__init__(message)
        self.caller = caller


class NoKey(Refused):
    """Nobody said who they are, or not in a way that is known here."""


class NotAllowed(Refused):
    """A key that is known, and does not cover what was asked for."""


class SlowClient(ServingError):
    """A body did not come in time."""


class WrongMethod(ServingError):
    """A route that exists, asked in a way that it does not know."""


class Endless(TooLarge):
    """A body that is not waited for: who sends it is answered, and hung up on."""


class RateExceeded(Overloaded):
    """More requests a second than one caller has."""


STATUS: Final[tuple[tuple[type[FeatureStoreError], int], ...]] = (
    (NoKey, 401),
    (AccessDenied, 403),
    (NotFound, 404),
    (WrongMethod, 405),
    (SlowClient, 408),
    (TooLarge, 413),
    (RateExceeded, 429),
    (Overloaded, 503),
    (DeadlineExceeded, 504),
    (StoreUnavailable, 503),
    (BrokerError, 503),
    (RegistryError, 503),
    (ExpectationFailed, 503),
    (RequestError, 400),
    (EventError, 400),
    (Unsupported, 400),
    (LogError, 503),
    (CaptureError, 503),
)
"""The first that an error is; what is none of these is a 500."""

PUBLIC: Final = {
    NoKey: "AccessDenied",
    NotAllowed: "AccessDenied",
    Endless: "TooLarge",
    RateExceeded: "Overloaded",
    SlowClient: "DeadlineExceeded",
    WrongMethod: "RequestError",
}


def status_of(error: BaseException) -> int:
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def refusal(error: BaseException, request_id: str) -> tuple[int, Headers, bytes]:
    """Status, headers and body: `{"error": message, "type": name, "request_id": …}`. A fault of ours says nothing of itself."""
    status = status_of(error)
    if isinstance(error, FeatureStoreError):
        name, message = PUBLIC.get(type(error), type(error).__name__), str(error)[:MESSAGE]
    else:
        name, message = "InternalError", "the server failed; its log has more under this request id"
    said = {"error": message, "type": name, "request_id": request_id}
    headers: Headers = []
    if isinstance(error, Overloaded):
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after))))
    elif status == 503:
        headers.append((b"retry-after", b"1"))
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="featurestore"'))
    return status, headers, orjson.dumps(said)
