"""JSON in the shape that Feast's feature server speaks, so that its clients read from here unchanged."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import orjson

from featurestore.errors import RequestError
from featurestore.evaluate.arrow import from_physical
from featurestore.server.asking import Ask, ask_of, at_of, context_of, timeout_of
from featurestore.server.catalog import Catalog, Served
from featurestore.serving import OnlineFeatures
from featurestore.status import Status
from featurestore.types import Bool, DecimalType, DType, ListType, MapType, String, is_float, is_integer

NEVER: Final = "1970-01-01T00:00:00Z"
_GONE: Final = {
    Status.NOT_FOUND: "NOT_FOUND",
    Status.EXPIRED: "OUTSIDE_MAX_AGE",
}
"""What Feast calls a value that is not there; the rest is NULL_VALUE, and whatever is there is PRESENT."""


def parse(body: bytes) -> dict[str, Any]:
    """The request as an object. Raises RequestError."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the request is not JSON: {error}") from error
    if not isinstance(said, dict):
        raise RequestError('a request is an object: {"feature_service": …, "entities": {…}}')
    return said


def target(said: dict[str, Any], catalog: Catalog) -> Served:
    """What is asked for: a service, or features by `view:feature`. Raises RequestError and NotFound."""
    service, references = said.get("feature_service"), said.get("features")
    if service is not None:
        if not isinstance(service, str):
            raise RequestError('"feature_service" is not a text')
        return catalog.get(service)
    if not isinstance(references, list) or not references or not all(isinstance(r, str) for r in references):
        raise RequestError('give "feature_service", or "features" as a list of "view:feature"')
    if len(references) > 10_000:
        raise RequestError(f"{len(references)} features are asked for, and 10000 are the most")
    return catalog.select(references, full_names=said.get("full_feature_names") is True)


def decode(said: dict[str, Any], served: Served, max_rows: int) -> Ask:
    """The entity columns, and request columns among them, as Feast has it. Raises RequestError, TooLarge."""
    entities = said.get("entities")
    if not isinstance(entities, dict) or not all(isinstance(v, list) for v in entities.values()):
        raise RequestError('"entities" is an object with a list of values for each key')
    ask = ask_of(served, entities, max_rows)
    ask.at = at_of(said.get("at"))
    ask.timeout = timeout_of(said.get("timeout"))
    ask.context = context_of(said.get("context"))
    return ask


def encode(result: OnlineFeatures, ask: Ask, request_id: str, *, degraded: bool) -> bytes:
    """Join keys first, then features: values, Feast's statuses and the time of the newest event by row."""
    served = ask.served
    names = list(served.keys)
    present, never = ["PRESENT"] * result.rows, [NEVER] * result.rows
    columns: list[dict[str, Any]] = [
        {"values": ask.entities[n], "statuses": present, "event_timestamps": never} for n in names
    ]
    times = _times(result)
    mask, statuses = result.mask, result.statuses
    stale = []
    for i, (name, dtype) in enumerate(served.columns.items()):
        valid = mask[:, i]
        there = bool(valid.all())
        status = statuses[:, i]
        if (status == Status.STALE).any():
            stale.append(name)
        columns.append(
            {
                "values": _values(result, i, dtype, there=there),
                "statuses": present
                if there
                else [
                    "PRESENT" if v else _GONE.get(Status(s), "NULL_VALUE")
                    for v, s in zip(valid.tolist(), status.tolist(), strict=True)
                ],
                "event_timestamps": times.get(i, never),
            }
        )
    said: dict[str, Any] = {
        "feature_names": [*names, *served.columns],
        "service": served.reference,
        "request_id": request_id,
    }
    if stale:
        said["stale"] = stale
    if degraded:
        said["degraded"] = True
    answer = {"metadata": said, "results": columns}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS, default=str)


def _times(result: OnlineFeatures) -> dict[int, list[str]]:
    """The newest event's time of each row as text, by the place of the feature; one list for all features of a view."""
    found: dict[int, list[str]] = {}
    for seen in result.seen:
        known = seen.last_at if seen.found is None else np.where(seen.found, seen.last_at, 0)
        last = known.astype("datetime64[us]")
        text = np.char.add(np.datetime_as_string(last), "Z").tolist()
        found |= dict.fromkeys(seen.places.tolist(), text)
    return found


def _values(result: OnlineFeatures, place: int, dtype: DType, *, there: bool) -> Any:
    cells = result.cells[place]
    if dtype == String:
        return [v if ok else None for v, ok in zip(cells.values.tolist(), cells.valid.tolist(), strict=True)]
    if isinstance(dtype, DecimalType):
        raw: Any = cells.values / 10.0**dtype.scale
    elif is_integer(dtype) or is_float(dtype) or dtype == Bool:
        raw = cells.values
    else:
        nested = isinstance(dtype, ListType | MapType)
        column = from_physical(np.ascontiguousarray(cells.values), cells.valid, dtype)
        return column.to_pylist(maps_as_pydicts="strict") if nested else column.to_pylist()
    if there:
        return np.ascontiguousarray(raw)
    return [v if ok else None for v, ok in zip(raw.tolist(), cells.valid.tolist(), strict=True)]
