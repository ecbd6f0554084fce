"""The writers of a project: one for each view that a Flink job feeds, in one process, until they are told to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from featurestore.config import Config
from featurestore.erasures import erasures, newest
from featurestore.errors import NotFound, RegistryError
from featurestore.ir import View
from featurestore.online.store import OnlineStore
from featurestore.registry import Registry
from featurestore.stream.run import streamed_views
from featurestore.stream.writer import Report, Step, ViewWriter

LOOK_SECONDS = 1.0
"""How often the registry is asked whether something else was applied or erased."""


class Writer:
    """The writers of all views of a project that a Flink job feeds, a thread each."""

    def __init__(
        self,
        config: Config,
        registry: Registry,
        online: OnlineStore,
        select: str | Sequence[str] | None = None,
        *,
        take_over: bool = False,
        reset: bool = False,
        report: Report | None = None,
        say: Callable[[str], None] = lambda _: None,
        step: Step = lambda _: None,
    ) -> None:
        """See `ViewWriter`. Raises NotFound where no view is picked that reads a topic."""
        self._config, self._registry, self._online, self._select = config, registry, online, select
        self._options: dict[str, Any] = {"report": report, "say": say, "step": step}
        self._first = {"take_over": take_over, "reset": reset}
        self._say = say
        self._revision = registry.current().number
        self._erasures = erasures(registry)
        self._views = _of_topics(registry, select)
        self._running: dict[str, _Running] = {}

    def run(self, stop: threading.Event | None = None, *, once: bool = False) -> int:
        """Puts in what comes until `stop` is set, or, with `once`, until nothing is left; how many records came.

        What one view's writer raises ends all. A view that is changed and applied meanwhile is taken up.
        """
        stop = stop or threading.Event()
        if once:
            return sum(self._writer(view, self._first).run(stop, once=True) for view in self._views)
        came = 0
        try:
            for view in self._views:
                self._start(view, self._first)
            while not stop.wait(LOOK_SECONDS):
                if any(r.failure is not None for r in self._running.values()):
                    break
                try:
                    came += self._reload()
                except RegistryError as error:
                    self._say(f"the registry does not answer: {error}")
        finally:
            ended = [r.end() for r in self._running.values()]
        failed = next((r.failure for r in self._running.values() if r.failure is not None), None)
        if failed is not None:
            raise failed
        return came + sum(ended)

    def _writer(self, view: View, first: Mapping[str, Any]) -> ViewWriter:
        return ViewWriter(view, self._online, erased=self._erasures, **self._options, **first)

    def _start(self, view: View, first: Mapping[str, bool]) -> None:
        self._running[view.name] = _Running(self._writer(view, first))

    def _reload(self) -> int:
        """Takes up what was erased or applied meanwhile; how many records came to writers that ended by it."""
        if newest(self._registry) != self._erasures.number:
            self._erasures = erasures(self._registry)
            for running in self._running.values():
                running.writer.tell(self._erasures)
        revision = self._registry.current()
        if revision.number == self._revision:
            return 0
        self._revision = revision.number
        known = None if self._select is None else self._running.keys()
        wanted = {
            v.name: v for v in revision.plan.views if _reads_topic(v) and (known is None or v.name in known)
        }
        came = 0
        for name, running in list(self._running.items()):
            if wanted.get(name) != running.writer.view:
                came += self._running.pop(name).end()
                self._say(f"view '{name}' was changed or is no longer applied: its writer ends")
        for name, view in wanted.items():
            if name not in self._running:
                self._say(f"view '{name}' was changed or added: its writer starts")
                self._start(view, {})
        return came


class _Running:
    """A view's writer in a thread of its own."""

    def __init__(self, writer: ViewWriter) -> None:
        self.writer = writer
        self.failure: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"writer {writer.view.name}")
        self._thread.start()

    def _run(self) -> None:
        try:
            self.writer.run(self._stop)
        except BaseException as error:  # noqa: BLE001  (a thread: `Writer.run` raises it)
            self.failure = error

    def end(self) -> int:
        self._stop.set()
        self._thread.join()
        return self.writer.records


def _reads_topic(view: View) -> bool:
    return view.source.stream is not None and view.source.stream.kind == "kafka"


def _of_topics(registry: Registry, select: str | Sequence[str] | None) -> list[View]:
    views = [v for v in streamed_views(registry.current().plan, select) if _reads_topic(v)]
    if not views:
        raise NotFound("view of a Kafka topic", "*", (), "what is applied")
    return views


__all__ = ["Writer"]
