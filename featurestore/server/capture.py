"""`POST /capture/predictions` and `/capture/labels`: what came of rows that were served, by their row ids.

The body is JSON, `{"row_ids": […], "values": […], "model": …}`, or an Arrow stream with the columns `row_id` and `value` (and
`at`), the rest in the query. All of it is on disk when the answer goes out, or, when something does not fit, none of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import orjson
import pyarrow as pa
from fastapi import FastAPI, Request, Response

from featurestore.capture.returned import Taken
from featurestore.errors import RequestError
from featurestore.server.arrow import CONTENT_TYPE
from featurestore.server.events import body_of


def add_routes(api: FastAPI, worker: Any) -> None:
    """`worker` has `settings`, `access` and `capture`."""

    @api.post("/capture/predictions")
    async def predictions(request: Request) -> Response:
        said = await _said(worker, request, ("model", "version"))
        return await _taken(
            lambda: worker.capture.predictions(
                said["row_ids"],
                said["values"],
                model=said.get("model"),
                version=said.get("version") or "",
                at=said.get("at"),
            )
        )

    @api.post("/capture/labels")
    async def labels(request: Request) -> Response:
        said = await _said(worker, request, ("name",))
        return await _taken(
            lambda: worker.capture.labels(
                said["row_ids"], said["values"], name=said.get("name"), at=said.get("at")
            )
        )


async def _taken(take: Callable[[], Taken]) -> Response:
    done = await asyncio.to_thread(take)
    return Response(orjson.dumps(asdict(done)), 200, media_type="application/json")


async def _said(worker: Any, request: Request, names: tuple[str, ...]) -> dict[str, Any]:
    worker.access.allow(request.scope["fs.key"], "write")
    body = await body_of(request, worker.settings.max_body_bytes)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == CONTENT_TYPE.decode():
        return {**_from_arrow(body), **{n: request.query_params.get(n) for n in names}}
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the body is not JSON: {error}") from error
    known = {"row_ids", "values", "at", *names}
    if not isinstance(said, dict) or not {"row_ids", "values"} <= said.keys() or said.keys() - known:
        raise RequestError(f"the body is an object with row_ids, values, {', '.join(names)}, and maybe at")
    if not isinstance(said["row_ids"], list) or not isinstance(said["values"], list):
        raise RequestError("row_ids and values are lists of one length")
    for name in names:
        if said.get(name) is not None and not isinstance(said[name], str):
            raise RequestError(f"{name} is {said[name]!r}, and it is a text")
    return said


def _from_arrow(body: bytes) -> dict[str, Any]:
    try:
        table = pa.ipc.open_stream(body).read_all()
    except (pa.ArrowException, OSError, OverflowError, ValueError) as error:
        raise RequestError(f"the body is no Arrow stream: {str(error).splitlines()[0]}") from error
    names = set(table.column_names)
    if not {"row_id", "value"} <= names or names - {"row_id", "value", "at"}:
        raise RequestError(
            f"the stream has the columns {', '.join(table.column_names)}\n  it wants row_id and value, and maybe at"
        )
    said = {"row_ids": table["row_id"].to_pylist(), "values": table["value"].to_pylist()}
    return {**said, "at": table["at"].to_pylist()} if "at" in names else said
