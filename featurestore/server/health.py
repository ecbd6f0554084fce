"""Whether this server should get requests: the store answers, there is a plan, and what is served is as fresh as promised."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from featurestore.errors import FeatureStoreError
from featurestore.server import metrics
from featurestore.server.catalog import Catalog, Served


@dataclass(frozen=True, slots=True)
class Health:
    """What is wrong, for the server as a whole and for each service; empty is well."""

    problems: tuple[str, ...] = ("not looked yet",)
    services: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    freshness: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """The server reaches its store and has a plan; a service of it may be stale all the same."""
        return not self.problems and not any(self.services.values())


async def look(catalog: Catalog, patience: float) -> Health:
    """Asks the store. Never raises: what goes wrong is what is told."""
    state = catalog.state
    if not state.newest:
        return Health(("no service is applied",))
    try:
        async with asyncio.timeout(patience):
            fresh = await asyncio.to_thread(catalog.freshness, time.time_ns() // 1000)
    except (FeatureStoreError, TimeoutError) as error:
        what = str(error).splitlines()[0] if str(error) else "no answer in time"
        return Health((f"online store: {what}",))
    for view, seconds in fresh.items():
        if seconds is not None:
            metrics.FRESHNESS.labels(view).set(seconds)
    problems = ("online store: not asked, it did not answer",) if catalog.breaker.is_open else ()
    return Health(problems, {n: _service(s, fresh) for n, s in state.newest.items()}, fresh)


def _service(served: Served, fresh: Mapping[str, float | None]) -> tuple[str, ...]:
    limit = served.service.max_staleness
    found = []
    for view in served.views:
        seconds = fresh.get(view)
        if seconds is None:
            found.append(f"view '{view}' was never materialized")
        elif limit is not None and seconds * 1e6 > limit:
            found.append(f"view '{view}' is {seconds:.0f} s old, and {limit / 1e6:.0f} s are allowed")
    return tuple(found)
