"""A request, whatever its form: whose features, as of when, within what time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import orjson

from featurestore.errors import RequestError, TooLarge, nearest
from featurestore.server.catalog import Served
from featurestore.time import moment

FAR: Final = 253_402_300_800_000_000
"""Microseconds: the year 10000, beyond which no moment is asked for."""


@dataclass(slots=True)
class Head:
    """The JSON before binary tensors, understood once: a client sends the same one again and again.

    `tensors` are name, datatype, size and rows; `reply` is the JSON of the answer, once it is known.
    """

    tensors: tuple[tuple[str, str, int, int], ...]
    at: int | None
    timeout: float | None
    id: str
    outputs: list[tuple[str, bool]]
    context: Mapping[str, Any] | None = None
    reply: bytes | None = None
    numbers: int = field(init=False)
    """How many entities it asks for by a whole number, as of now, for values and whether they are there; 0 for all else."""

    def __post_init__(self) -> None:
        rows = self.tensors[0][3] if len(self.tensors) == 1 and self.tensors[0][1] == "INT64" else 0
        plain = all(binary and name in ("features", "mask") for name, binary in self.outputs)
        self.numbers = rows if plain and self.at is None and self.timeout is None else 0


@dataclass(slots=True)
class Ask:
    """What is read: `entities` and `request` are columns of one length. `timeout` is in seconds."""

    served: Served
    entities: dict[str, Any]
    request: dict[str, Any]
    rows: int
    at: int | None = None
    timeout: float | None = None
    id: str = ""
    outputs: list[tuple[str, bool]] = field(default_factory=list)
    context: Mapping[str, Any] | None = None
    head: Head | None = None


def ask_of(served: Served, columns: Mapping[str, Any], max_rows: int) -> Ask:
    """Columns as keys and request columns. Raises RequestError for unknown and missing ones, TooLarge for too many rows."""
    entities = {}
    request = {}
    rows = -1
    for name, values in columns.items():
        if name in served.keys:
            entities[name] = values
        elif name in served.asked:
            request[name] = values
        else:
            known = [*served.keys, *served.asked]
            raise RequestError(
                "\n  ".join(
                    [f"{served.reference} has no key or request column '{name}'", *nearest(name, known)]
                )
            )
        if rows >= 0 and len(values) != rows:
            raise RequestError(f"column '{name}' has {len(values)} rows, and another has {rows}")
        rows = len(values)
    if len(entities) + len(request) < len(served.keys) + len(served.asked):
        missing = [n for n in (*served.keys, *served.asked) if n not in columns]
        raise RequestError(f"{served.reference} also needs {', '.join(missing)}")
    if rows > max_rows:
        raise TooLarge(f"{rows} rows in one request, and this server reads {max_rows}\n  ask in parts")
    return Ask(served, entities, request, max(rows, 0))


def at_of(value: Any) -> int | None:
    """A moment that was sent, in microseconds. Raises RequestError."""
    if value is None:
        return None
    if isinstance(value, str) and value.lstrip("-").isdigit() and len(value) < 20:
        value = int(value)
    at = moment(value)
    if not -FAR < at < FAR:
        raise RequestError(f"{at} microseconds since 1970 is no moment of a calendar")
    return at


def timeout_of(value: Any, *, unit: float = 1.0) -> float | None:
    """A time limit that was sent, in seconds. Raises RequestError."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value * unit < 3600:
        raise RequestError("the timeout is a positive number, of less than an hour")
    return float(value * unit)


def context_of(value: Any) -> Mapping[str, Any] | None:
    """What a caller tells beside, to be captured with the rows: an object, or its JSON. Raises RequestError."""
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise RequestError(f"the context is not JSON: {error}") from error
    if value is not None and not isinstance(value, dict):
        raise RequestError("the context is an object: a value for each name, or a list with one for each row")
    return value


def texts_of(values: Any) -> list[str]:
    """Bytes as text. Raises RequestError for what is not UTF-8."""
    try:
        return [v.decode() for v in values]
    except UnicodeDecodeError as error:
        raise RequestError(f"a text is not UTF-8: {error.reason} at byte {error.start}") from error


def whole(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(values)
