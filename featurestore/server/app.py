"""The application of one worker: what is slow to answer is FastAPI's, what is fast goes ahead of it (`front`)."""

from __future__ import annotations

import asyncio
import gc
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

from featurestore.capturing import Capturing, recorder_of
from featurestore.cli.version import version
from featurestore.config import load_config
from featurestore.errors import CaptureError, FeatureStoreError, NotFound, RequestError
from featurestore.functions import bound
from featurestore.online.store import StoreUrl, open_store
from featurestore.registry import open_registry
from featurestore.registry.keys import Keys
from featurestore.repo import load_declarations
from featurestore.server import capture, events, health, metrics, oip
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


READS = (
    "/get-online-features",
    "/v2/models/{service}/infer",
    "/v2/models/{service}/versions/{number}/infer",
    "/features/{service}",
)


@dataclass(frozen=True, slots=True)
class Application:
    """What each worker makes its application of; it can be sent to another process."""

    folder: str
    environment: str | None
    settings: Settings

    def __call__(self) -> Front:
        set_up()
        return build(self)


class Worker:
    """What one process serves with, and what it does beside answering: looks for news, and at itself."""

    def __init__(self, made_of: Application) -> None:
        self.settings = made_of.settings
        config = load_config(Path(made_of.folder), made_of.environment)
        self.monitored = config.monitored
        registry = open_registry(config.registry_url, config.root)
        self.store = open_store(config.online_url, config.root)
        self.recorder = recorder_of(config, _now)
        self.capture = Capturing(config, self.recorder, _now, lambda _: None)
        self.catalog = Catalog(
            registry,
            self.store,
            Breaker(),
            lambda s: bound(s, lambda: load_declarations(config)),
            self.recorder,
        )
        self.events = events.Events(config)
        self.access = Access(needed=self.settings.needs_keys, rate=self.settings.requests_per_second)
        embedded = StoreUrl.parse(config.online_url).scheme == "lmdb"
        self.front = Front(self.settings, self.catalog, self.access, embedded=embedded)
        self._keys = Keys(registry)
        self._health, self._looked = health.Health(), -1.0

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(self.poll)
        gc.collect()
        gc.freeze()  # what is loaded by now stays: no use in walking it again and again
        tasks = [asyncio.create_task(self._polling()), asyncio.create_task(self._ticking())]
        yield
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self.front.close()
        self.events.close()
        try:
            await asyncio.to_thread(self.recorder.close)
        except CaptureError as error:
            say("capture", level=logging.ERROR, error=str(error))
        self.store.close()
        gc.unfreeze()  # or DuckDB's extension takes what is not collected at the end for a leak, and says so on stderr

    def poll(self) -> None:
        """Takes up new versions and keys. Raises RegistryError."""
        if self.catalog.poll():
            state = self.catalog.state
            say("loaded", revision=state.revision, services=sorted(state.newest), pid=os.getpid())
        if self.access.needed:
            self.access.keys = self._keys.active()

    async def _polling(self) -> None:
        while True:
            await asyncio.sleep(self.settings.poll_ms / 1000)
            try:
                await asyncio.to_thread(self.poll)
            except FeatureStoreError as error:
                say("registry", level=logging.ERROR, error=str(error).splitlines()[0])

    async def _ticking(self) -> None:
        while True:
            due = time.monotonic() + TICK
            await asyncio.sleep(TICK)
            self.front.lag = max(time.monotonic() - due, 0.0)
            metrics.LAG.set(self.front.lag)
            self.front.put()
            metrics.BREAKER.set(self.catalog.breaker.is_open)
            metrics.put_capture(self.recorder.counts())

    async def health(self) -> health.Health:
        """At most one look a second, however many probes there are."""
        if time.monotonic() - self._looked > 1.0 or self.catalog.breaker.is_open:
            self._looked = time.monotonic()
            self._health = await health.look(self.catalog, self.settings.timeout_ms / 1000)
        return self._health

    def served(self, request: Request, service: str, number: str | None) -> Served:
        """What a path names, for a caller who may read it. Raises AccessDenied and NotFound."""
        self.access.allow(request.scope["fs.key"], "read", service.partition("@")[0])
        return self.catalog.get(service, number)


def build(made_of: Application) -> Front:
    """The application: the store is asked for nothing before it starts."""
    worker = Worker(made_of)
    api = FastAPI(title="featurestore", lifespan=worker.lifespan, redoc_url=None)
    api.openapi = lambda: describe(worker.catalog, needs_keys=worker.settings.needs_keys)  # type: ignore[method-assign]
    _refusals(api, worker.front)
    _probes(api, worker)
    _models(api, worker)
    events.add_routes(api, worker)
    capture.add_routes(api, worker)
    # These are answered by the front; here they stand for whoever asks with another method.
    for path in READS:
        api.add_api_route(path, _unknown, methods=["POST"])
    worker.front.rest = api
    return worker.front


def _refusals(api: FastAPI, front: Front) -> None:
    @api.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> Response:
        path = request.url.path[:200]
        typed: FeatureStoreError
        if error.status_code == 405:
            typed = WrongMethod(f"{path} is not asked with {request.method}")
        elif error.status_code == 404:
            typed = NotFound("route", path, [getattr(r, "path", "") for r in api.routes])
        else:
            typed = RequestError(str(error.detail))
        return _refused(front, request, typed, dict(error.headers or {}))

    @api.exception_handler(FeatureStoreError)
    async def known(request: Request, error: FeatureStoreError) -> Response:
        return _refused(front, request, error, {})


def _probes(api: FastAPI, worker: Worker) -> None:
    @api.get("/health")
    async def alive() -> Response:
        return _json({"status": "ok"})

    @api.get("/v2/health/live")
    async def live() -> Response:
        return _json({"live": True})

    @api.get("/ready")
    async def ready() -> Response:
        found = await worker.health()
        said: dict[str, Any] = {"ready": found.ready}
        if not worker.settings.needs_keys:  # who has no key learns no names
            troubled = {n: p for n, p in found.services.items() if p}
            said |= {"problems": found.problems, "services": troubled, "freshness_seconds": found.freshness}
        return _json(said, 200 if found.ready else 503)

    @api.get("/v2/health/ready")
    async def v2_ready() -> Response:
        found = await worker.health()
        return _json({"ready": found.ready}, 200 if found.ready else 503)

    @api.get("/metrics")
    async def figures() -> Response:
        worker.front.put()
        text, kind = await asyncio.to_thread(metrics.exposition, worker.monitored)
        return Response(text, media_type=kind)


def _models(api: FastAPI, worker: Worker) -> None:
    @api.get("/v2")
    async def server() -> Response:
        said = {"name": "featurestore", "version": version(), "extensions": ["binary_tensor_data"]}
        return _json(said)

    @api.get("/v2/models/{service}")
    @api.get("/v2/models/{service}/versions/{number}")
    async def model(request: Request, service: str, number: str | None = None) -> Response:
        served = worker.served(request, service, number)
        return _json(oip.metadata(served, worker.catalog.versions_of(served.name)))

    @api.get("/v2/models/{service}/ready")
    @api.get("/v2/models/{service}/versions/{number}/ready")
    async def model_ready(request: Request, service: str, number: str | None = None) -> Response:
        served = worker.served(request, service, number)
        now = await worker.health()
        problems = [*now.problems, *now.services.get(served.name, ())]
        said = {"name": served.name, "ready": not problems, "problems": problems}
        return _json(said, 503 if problems else 200)


async def _unknown(request: Request) -> Response:
    """A path of the front's that names no service it could: `/features/a@b`."""
    raise NotFound("feature service", request.url.path.rpartition("/")[2][:200], ())


def _now() -> int:
    return time.time_ns() // 1000


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")


def _refused(front: Front, request: Request, error: FeatureStoreError, headers: dict[str, str]) -> Response:
    status, fields, body = front.refused(error, request.scope["fs.request_id"], "other")
    headers |= {k.decode(): v.decode() for k, v in fields}
    return Response(body, status, headers)
