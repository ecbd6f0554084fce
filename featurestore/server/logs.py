"""Structured logs: one JSON object a line, on stderr. What a caller sends is never written there, nor any secret."""

from __future__ import annotations

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

import orjson

LOG = logging.getLogger("featurestore.server")


def say(event: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """One line: when, how grave, what happened, and what there is to know of it."""
    if LOG.isEnabledFor(level):
        LOG.log(level, event, extra={"fields": fields})


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        said: dict[str, Any] = {"at": at, "level": record.levelname.lower(), "event": record.getMessage()}
        said |= getattr(record, "fields", {})
        if record.exc_info:
            said["trace"] = "".join(traceback.format_exception(*record.exc_info))
        return orjson.dumps(said, default=str).decode()


def set_up() -> None:
    """Sends this package's and uvicorn's lines to stderr, as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in (
        ("featurestore.server", logging.INFO),
        ("uvicorn.error", logging.INFO),
        ("uvicorn.access", 60),
    ):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
