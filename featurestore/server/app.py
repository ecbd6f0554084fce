"""The application of one worker: what is slow to answer is FastAPI's, what is fast goes ahead of it (`front`)."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from featurestore.config import load_config
from featurestore.errors import FeatureStoreError, NotFound, RequestError
from featurestore.online.store import StoreUrl, open_store
from featurestore.registry import open_registry
from featurestore.registry.keys import Keys
from featurestore.server import health, metrics, oip
from featurestore.server.access import Access
from featurestore.server.catalog import Catalog, Served
from featurestore.server.front import Front
from featurestore.server.logs import say, set_up
from featurestore.server.openapi import describe
from featurestore.server.refusals import WrongMethod
from featurestore.server.settings import Settings
from featurestore.serving.trouble import Breaker

TICK = 0.1
"""Seconds between two looks at how far behind the worker is."""


@dataclass(frozen=True, slots=True)
class Application:
    """What each worker makes its application of; it can be sent to another process."""

    folder: str
    environment: str | None
    settings: Settings

    def __call__(self) -> Front:
        set_up()
        return build(self)


def build(made_of: Application) -> Front:
    """The application: nothing is opened before it starts."""
    settings = made_of.settings
    config = load_config(Path(made_of.folder), made_of.environment)
    store = open_store(config.online_url, config.root)
    registry = open_registry(config.registry_url, config.root)
    catalog = Catalog(registry, store, Breaker())
    access = Access(needed=settings.needs_keys, rate=settings.requests_per_second)
    keys = Keys(registry)
    front = Front(settings, catalog, access, embedded=StoreUrl.parse(config.online_url).scheme == "lmdb")
    state: dict[str, Any] = {"health": health.Health(), "at": -1.0}

    def poll() -> None:
        if catalog.poll():
            say(
                "loaded",
                revision=catalog.state.revision,
                services=sorted(catalog.state.newest),
                pid=os.getpid(),
            )
        if access.needed:
            access.keys = keys.active()

    async def polling() -> None:
        while True:
            await asyncio.sleep(settings.poll_ms / 1000)
            try:
                await asyncio.to_thread(poll)
            except FeatureStoreError as error:
                say("registry", level=logging.ERROR, error=str(error).splitlines()[0])

    async def ticking() -> None:
        while True:
            due = time.monotonic() + TICK
            await asyncio.sleep(TICK)
            front.lag = max(time.monotonic() - due, 0.0)
            metrics.LAG.set(front.lag)
            metrics.IN_FLIGHT.set(front.in_flight)
            metrics.BREAKER.set(catalog.breaker.is_open)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(poll)
        tasks = [asyncio.create_task(polling()), asyncio.create_task(ticking())]
        yield
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        front.close()
        store.close()

    async def looked() -> health.Health:
        """At most one look a second, however many probes there are."""
        if time.monotonic() - state["at"] > 1.0 or catalog.breaker.is_open:
            state["at"] = time.monotonic()
            state["health"] = await health.look(catalog, settings.timeout_ms / 1000)
        found: health.Health = state["health"]
        return found

    api = FastAPI(title="featurestore", lifespan=lifespan, redoc_url=None)
    api.openapi = lambda: describe(catalog, needs_keys=settings.needs_keys)  # type: ignore[method-assign]

    @api.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> Response:
        path = request.url.path[:200]
        typed = (
            WrongMethod(f"{path} is not asked with {request.method}")
            if error.status_code == 405
            else NotFound("route", path, ())
            if error.status_code == 404
            else RequestError(str(error.detail))
        )
        return _refused(front, request, typed, dict(error.headers or {}))

    @api.exception_handler(FeatureStoreError)
    async def known(request: Request, error: FeatureStoreError) -> Response:
        return _refused(front, request, error, {})

    @api.get("/health")
    async def alive() -> Response:
        return _json({"status": "ok"})

    @api.get("/v2/health/live")
    async def live() -> Response:
        return _json({"live": True})

    @api.get("/ready")
    async def ready() -> Response:
        found = await looked()
        said = {"ready": found.ready, "problems": found.problems}
        if not settings.needs_keys:  # who has no key learns no names
            said |= {
                "services": {n: p for n, p in found.services.items() if p},
                "freshness_seconds": found.freshness,
            }
        return _json(said, 200 if found.ready else 503)

    @api.get("/v2/health/ready")
    async def v2_ready() -> Response:
        found = await looked()
        return _json({"ready": found.ready}, 200 if found.ready else 503)

    @api.get("/metrics")
    async def figures() -> Response:
        text, kind = await asyncio.to_thread(metrics.exposition)
        return Response(text, media_type=kind)

    @api.get("/v2")
    async def server_metadata() -> Response:
        from importlib.metadata import version

        said = {
            "name": "featurestore",
            "version": version("featurestore"),
            "extensions": ["binary_tensor_data"],
        }
        return _json(said)

    @api.get("/v2/models/{service}")
    @api.get("/v2/models/{service}/versions/{number}")
    async def model_metadata(request: Request, service: str, number: str | None = None) -> Response:
        served = found(request, service, number)
        return _json(oip.metadata(served, catalog.versions_of(served.name)))

    @api.get("/v2/models/{service}/ready")
    @api.get("/v2/models/{service}/versions/{number}/ready")
    async def model_ready(request: Request, service: str, number: str | None = None) -> Response:
        served = found(request, service, number)
        now = await looked()
        problems = [*now.problems, *now.services.get(served.name, ())]
        said = {"name": served.name, "ready": not problems, "problems": problems}
        return _json(said, 503 if problems else 200)

    def found(request: Request, service: str, number: str | None) -> Served:
        access.allow(request.scope["fs.key"], "read", service.partition("@")[0])
        return catalog.get(service, number)

    # These are answered by the front; here they stand for whoever asks with another method.
    for path in (
        "/get-online-features",
        "/v2/models/{service}/infer",
        "/v2/models/{service}/versions/{number}/infer",
        "/features/{service}",
    ):
        api.add_api_route(path, _unknown, methods=["POST"])

    front.rest = api
    return front


async def _unknown(request: Request) -> Response:
    """A path of the front's that names no service it could: `/features/a@b`."""
    raise NotFound("feature service", request.url.path.rpartition("/")[2][:200], ())


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")


def _refused(front: Front, request: Request, error: FeatureStoreError, headers: dict[str, str]) -> Response:
    status, fields, body = front.refused(error, request.scope["fs.request_id"], "other")
    headers |= {k.decode(): v.decode() for k, v in fields}
    return Response(body, status, headers)
