"""Tile records in heads: however they are split, repeated or read again, the heads end up the same, and read as batch does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from featurestore.compile.flink_job import Query, files_wire, job_of
from featurestore.compile.sources import Connection, connect
from featurestore.ir import Location
from featurestore.layout import layout_of
from featurestore.materialize import materialize_view
from featurestore.online.codec import HEAD, codec_of
from featurestore.online.lmdb import LmdbStore
from featurestore.online.store import OnlineStore
from featurestore.serving import Reader
from featurestore.stream.tile_records import Decoder
from featurestore.stream.upserts import Now, batch_of, merged
from tests.generators import cases, everybody
from tests.parity.cases import instant
from tests.parity.engines import World, entities_of, world_of
from tests.tile_job import Record, records_of

GENERATE = (Phase.explicit, Phase.reuse, Phase.generate)
RUN = 0x80000001


@pytest.fixture(scope="module")
def con() -> Any:
    connection = connect(threads=1)
    yield connection
    connection.close()


def queries_of(world: World) -> Sequence[Query]:
    return job_of(world.view, files_wire("file:///nowhere")).queries


def log_of(con: Connection, world: World, steps: int, epoch: int = 1) -> list[Record]:
    """What a job writes that reads a world's events in so many steps: each time all that changed."""
    path = world.root / world.view.source.location.path
    table = pq.read_table(path)
    log: list[Record] = []
    said: dict[bytes, bytes] = {}
    for step in range(1, steps + 1):
        pq.write_table(table.slice(0, len(table) * step // steps), path)
        now = records_of(con, world, queries_of(world), epoch)
        log += [(k, v) for k, v in now.items() if said.get(k) != v]
        said = now
    return log


class Head:
    """The heads of a view in a store, written batch by batch."""

    def __init__(self, store: OnlineStore, world: World) -> None:
        self.store, self.view, self.layout = store, world.view, layout_of(world.view)
        self.codec = codec_of(self.view, self.layout)
        self.decoder = Decoder(self.view, self.layout, self.codec, queries_of(world))
        self.refused = 0

    def apply(self, records: Sequence[Record], first: int, now: Now | None = None) -> None:
        upserts, wrong = self.decoder.decode([v for _, v in records], np.arange(first, first + len(records)))
        assert wrong == 0
        if not upserts:
            return
        batch = batch_of(self.view, self.codec, upserts)
        lead = self.codec.prefix + HEAD
        there = self.store.read([lead + k for k in batch.keys])
        done = merged(self.layout, self.codec, batch, there, now or Now(RUN, clock=-(2**62)))
        self.refused += done.refused
        items = [(lead + batch.keys[i], v) for i, v in zip(done.entities.tolist(), done.values, strict=True)]
        assert all(self.store.replace(items, done.before))

    def content(self) -> dict[bytes, tuple[Any, ...]]:
        """All of each head but how often it was written."""
        return {key: (value[:8], value[16:]) for key, value in self.store.scan(self.codec.prefix + HEAD)}


def read(store: OnlineStore, world: World) -> dict[str, Any]:
    streamed = replace(world.view, source=replace(world.view.source, stream=Location("kafka", "nowhere")))
    reader = Reader(store, world.service, {"view": streamed})
    keys = everybody(world.case)
    return reader.read(entities_of(world, keys), at=instant(world.case.at)).to_dict()


def close(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return a == b or bool(np.isclose(a, b, rtol=1e-9, atol=1e-9, equal_nan=True))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(close, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(close(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


@settings(max_examples=25, deadline=None, phases=GENERATE, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_split_and_replay_ends_in_the_same_heads(
    con: Connection, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root: Path = tmp_path_factory.mktemp("upserts")
    case = data.draw(cases())
    world = world_of(replace(case, rows=[r for r in case.rows if case.row(r)["at"] is not None]), root)
    log = log_of(con, world, data.draw(st.integers(1, 3)))
    with (
        LmdbStore(root / "whole", 1 << 30) as whole,
        LmdbStore(root / "split", 1 << 30) as split,
        LmdbStore(root / "batch", 1 << 30) as batch,
    ):
        once, many = Head(whole, world), Head(split, world)
        once.apply(log, 0)
        at = 0
        while at < len(log):
            upto = data.draw(st.integers(at + 1, len(log)))
            many.apply(log[at:upto], at)
            at = upto
            if data.draw(st.booleans()):  # its writer was killed, and another goes on from a position before
                at = data.draw(st.integers(0, at))
                if data.draw(st.booleans()):
                    many.apply(log[:at], 0)
        many.apply(log, 0)
        assert many.content() == once.content()
        materialize_view(con, batch, world.view, world.root, end=2**52)
        got, want = read(whole, world), read(batch, world)
        assert close(got, want), f"{got}\n{want}"
