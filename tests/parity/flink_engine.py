"""The engine `flink`: a case's events through its job, the tiles through the writer's merge, and read back as any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from featurestore.compile.flink_job import Mode, files_wire, job_of
from featurestore.layout import layout_of
from featurestore.online.codec import codec_of
from featurestore.online.state import StreamState, stream_name
from featurestore.online.store import OnlineStore
from featurestore.serving import Reader
from featurestore.status import Status
from featurestore.stream.apply import Heads
from featurestore.stream.tile_records import Decoder
from featurestore.stream.upserts import Now
from featurestore.verify.replay import streamed
from tests.flink_cluster import Flink
from tests.flink_records import value_of
from tests.parity.cases import Case, instant
from tests.parity.engines import Answer, Key, World, entities_of
from tests.test_flink_tiles import Cells, in_flink

WORLDS = 20
"""Cases in one job: planning it costs more than running it."""


def why_not(case: Case) -> str | None:
    """Why a case cannot be asked of a job."""
    if case.static:
        return "never: a static source has no events, and so no job"
    return None


def mode_of(case: Case) -> Mode:
    """A stream takes copies to be equal; where a case has unequal ones, which of them stays is decided in batch."""
    return "streaming" if case.event_id is None else "batch"


@dataclass
class FlinkEngine:
    """Asks many worlds at once; `ask` reads what was made."""

    flink: Flink
    store: OnlineStore

    def make(self, worlds: Sequence[World]) -> None:
        """Has the jobs of worlds of one mode run, and their tiles put into the store."""
        seen = [replace(w, events=self._before(w)) for w in worlds]
        for world, cells in zip(seen, in_flink(self.flink, seen, mode_of(seen[0].case)), strict=True):
            self._put(world, cells)

    def _before(self, world: World) -> list[Any]:
        end = _end(world.case)
        time = world.view.source.event_time
        assert time is not None
        return [e for e in world.events if e[time] is None or e[time] < end]

    def _put(self, world: World, cells: dict[str, Cells]) -> None:
        view, end = self._view(world), _end(world.case)
        layout = layout_of(view)
        codec = codec_of(view, layout)
        queries = job_of(world.view, files_wire("file:///events")).queries
        values = [
            value_of(q.columns, q.level, 1, [*name, *(cell[c] for c in list(q.columns)[len(name) :])])
            for q in queries
            for name, cell in cells[q.name].items()
        ]
        decoder = Decoder(view, layout, codec, queries)
        upserts, strange = decoder.decode(values, np.arange(len(values)))
        assert strange == 0
        Heads(self.store, view).apply(upserts, Now(1, clock=end))
        self.store.set_metas({stream_name(codec): StreamState("parity", end, None, end).to_bytes()})

    def _view(self, world: World) -> Any:
        return streamed(world.view, f"flink{world.view.source.location.path}")

    def ask(self, world: World, asked: Sequence[tuple[Key, int]]) -> list[Answer]:
        reader = Reader(self.store, world.service, {"view": self._view(world)})
        rows = [reader.read(entities_of(world, [key]), at=at) for key, at in asked]
        return [Answer(r.to_dict()[world.output][0], Status(int(r.statuses[0, 0]))) for r in rows]


def _end(case: Case) -> int:
    return instant(case.at if case.materialized is None else case.materialized)
