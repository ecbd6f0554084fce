"""What is served: every version of every service, resolved once, and replaced whole when the registry has something new.

A request holds on to the `Served` that it began with, so no vector mixes two plans.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from featurestore import ir, planning
from featurestore.errors import FunctionChanged, NotFound, RequestError, StoreUnavailable
from featurestore.layout import layout_of
from featurestore.online.codec import Codec, codec_of
from featurestore.online.state import load_complete
from featurestore.online.store import OnlineStore
from featurestore.registry import Registry, ServiceVersion
from featurestore.server import metrics
from featurestore.server.logs import say
from featurestore.serving.recorder import Recorder, Tap
from featurestore.serving.trouble import Breaker, SteadyReader
from featurestore.types import DType, is_tensor

SELECTIONS: Final = 256
"""Lists of `view:feature` that are kept resolved; beyond that the oldest is made again when it comes back."""


@dataclass(eq=False)
class Served:
    """One version of a service, ready to be read; `version` 0 is a selection of features without a service."""

    name: str
    version: int
    fingerprint: str
    service: ir.Service
    views: Mapping[str, ir.View]
    reader: SteadyReader
    marked: bool = False
    """Whether the registry knows that it has served."""
    tap: Tap | None = None
    """Where what it gives is captured."""
    tensor: tuple[str, ...] = field(init=False)
    meters: metrics.Meters = field(init=False)

    def __post_init__(self) -> None:
        self.heads: dict[bytes, Any] = {}  # what `oip` understood of requests, by their text
        self.keys: Mapping[str, DType] = self.reader.key_types
        self.asked: Mapping[str, DType] = dict(self.service.request)
        self.columns: Mapping[str, DType] = dict(self.service.columns)
        self.tensor = tuple(n for n, t in self.columns.items() if is_tensor(t))
        self.meters = metrics.Meters(self.name if self.version else "selection")

    @property
    def reference(self) -> str:
        return f"{self.name}@{self.version}" if self.version else self.name


@dataclass(frozen=True)
class State:
    """One moment of the registry: replaced whole."""

    revision: int = -1
    plan: ir.Plan = field(default_factory=ir.Plan)
    versions: Mapping[tuple[str, int], Served] = field(default_factory=dict)
    newest: Mapping[str, Served] = field(default_factory=dict)
    codecs: Mapping[str, Codec] = field(default_factory=dict)
    served_as: Mapping[tuple[str, int], ServiceVersion] = field(default_factory=dict)


class Catalog:
    """All that can be read. `get` and `select` are for the event loop; `poll` may be called from any thread."""

    def __init__(
        self,
        registry: Registry,
        store: OnlineStore,
        breaker: Breaker,
        bind: Callable[[ir.Service], ir.Service] = lambda service: service,
        recorder: Recorder | None = None,
    ) -> None:
        """`bind` gives a service its Python functions; one whose functions cannot be had is not served."""
        self._recorder = recorder
        self.registry, self.store, self.breaker, self._bind = registry, store, breaker, bind
        self.state = State()
        self._selections: dict[tuple[int, tuple[str, ...], bool], Served] = {}
        self._lock = threading.Lock()

    def poll(self) -> bool:
        """Takes up what was applied since; whether there was anything. Raises RegistryError."""
        with self._lock:
            newest = self.registry.history(1)
            if self.state.revision == (newest[0].number if newest else 0):
                return False
            revision = self.registry.current()
            self.state = self._load(revision.number, revision.plan, self.registry.services())
            self._selections.clear()
            metrics.REVISION.set(revision.number)
            return True

    def _load(self, number: int, plan: ir.Plan, versions: Sequence[ServiceVersion]) -> State:
        before = self.state
        found: dict[tuple[str, int], Served] = {}
        newest: dict[str, Served] = {}
        for version in versions:
            service, views = planning.readable(version, plan)
            key = (version.name, version.version)
            try:
                service = self._bind(service)
            except FunctionChanged as error:
                say("not served", level=logging.ERROR, service=version.reference, error=str(error))
                continue
            old = before.versions.get(key)
            if old is not None and (old.fingerprint, old.service, old.views) == (
                version.fingerprint,
                service,
                views,
            ):
                served = old
            else:
                reader = SteadyReader(self.store, service, views, self.breaker)
                served = Served(version.name, version.version, version.fingerprint, service, views, reader)
                served.marked = version.has_served
                if self._recorder is not None:
                    served.tap = self._recorder.tap(service, views, version.version)
                _warm(reader, served)
            found[key] = served
            if not version.retired:
                newest[version.name] = served
        views_read = {v.name: v for s in newest.values() for v in s.views.values()}
        codecs = {name: codec_of(view, layout_of(view)) for name, view in views_read.items()}
        return State(number, plan, found, newest, codecs, {(v.name, v.version): v for v in versions})

    def get(self, name: str, version: str | None = None) -> Served:
        """The service `delay` (the newest in force), `delay@2`, or `delay` and version `"2"`. Raises NotFound."""
        bare, _, number = name.partition("@")
        number = number or version or ""
        state = self.state
        if not number:
            served = state.newest.get(bare)
            if served is None:
                raise NotFound("feature service", bare, state.newest)
            return served
        found = state.versions.get((bare, int(number))) if number.isdecimal() and len(number) < 10 else None
        if found is None:
            mine = [f"{n}@{v}" for n, v in state.versions if n == bare]
            if not mine:
                raise NotFound("feature service", bare, state.newest)
            raise NotFound("version", number, mine, f"feature service '{bare}'")
        return found

    def versions_of(self, name: str) -> list[int]:
        return sorted(v for n, v in self.state.versions if n == name)

    def select(self, references: Sequence[str], *, full_names: bool) -> Served:
        """A service made of `view:feature` references, of the plan in force. Raises NotFound and RequestError."""
        state = self.state
        key = (state.revision, tuple(references), full_names)
        found = self._selections.get(key)
        if found is None:
            found = self._selection(state.plan, references, full_names=full_names)
            if len(self._selections) >= SELECTIONS:
                self._selections.pop(next(iter(self._selections)))
            self._selections[key] = found
        return found

    def _selection(self, plan: ir.Plan, references: Sequence[str], *, full_names: bool) -> Served:
        views = {v.name: v for v in plan.views}
        reads: list[ir.Read] = []
        for reference in references:
            name, colon, feature = reference.partition(":")
            if name not in views:
                raise NotFound("feature view", name, views)
            features = {f.name: f for f in views[name].features}
            if colon and feature not in features:
                raise NotFound("feature", feature, features, f"feature view '{name}'")
            keys = tuple((k.name, k.name) for k in views[name].keys)
            for f in [features[feature]] if colon else features.values():
                output = f"{name}__{f.name}" if full_names else f.name
                reads.append(ir.Read(name, f.name, output, keys, f.dtype))
        outputs = [r.output for r in reads]
        twice = next((o for o in outputs if outputs.count(o) > 1), None)
        if twice is not None:
            raise RequestError(
                f"two features are named '{twice}'\n  ask with full_feature_names, and for each once"
            )
        service = ir.Service("selection", tuple(reads))
        used = {r.view: views[r.view] for r in reads}
        return Served(
            "selection",
            0,
            "",
            service,
            used,
            SteadyReader(self.store, service, used, self.breaker),
            marked=True,
        )

    def reads_of(self, name: str) -> frozenset[tuple[str, str]]:
        """The features of views that a service in force reads."""
        served = self.state.newest.get(name)
        return frozenset() if served is None else frozenset((r.view, r.feature) for r in served.service.reads)

    def freshness(self, now: int) -> dict[str, float | None]:
        """Seconds since each view that is served was complete; None if it never was. Asks the store."""
        states = load_complete(self.store, self.state.codecs)
        return {
            name: max(now - states[name].end, 0) / 1e6 if name in states else None
            for name in self.state.codecs
        }


def _warm(reader: SteadyReader, served: Served) -> None:
    """One read for nobody: what is made at the first read is made before a caller waits for it."""
    with suppress(StoreUnavailable):
        reader.read({name: [None] for name in served.keys}, request={name: [None] for name in served.asked})
