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

import featurestore as fs
from featurestore import declare
from featurestore.compile.flink_job import Query, files_wire, job_of
from featurestore.compile.sources import Connection, connect
from featurestore.ir import Location
from featurestore.layout import layout_of
from featurestore.lower import lower
from featurestore.materialize import materialize_view
from featurestore.online.codec import HEAD, codec_of
from featurestore.online.lmdb import LmdbStore
from featurestore.online.store import OnlineStore
from featurestore.serving import Reader
from featurestore.stream.tile_records import Decoder
from featurestore.stream.upserts import Now, batch_of, merged
from featurestore.types import Int64, Timestamp
from tests.flink_records import value_of
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


class Tiles:
    """Heads of a view of whole numbers by minute, put in from tiles `(key, minute, events)`."""

    def __init__(self) -> None:
        source = fs.StreamSource(
            "events",
            batch=fs.Parquet("events.parquet"),
            stream=fs.Kafka("events", bootstrap="nowhere:9092"),
            event_time="at",
            columns={"id": Int64, "at": Timestamp, "n": Int64},
        )
        asked = fs.FeatureView("v", fs.Entity("one", key="id"), source, [fs.sum("n").over(fs.minutes(10))])
        self.view = lower(declare.declarations_in([fs.FeatureService("s", [asked])]), lambda _: {}).views[0]
        (self.query,) = job_of(self.view, files_wire("file:///nowhere")).queries
        self.layout = layout_of(self.view)
        self.codec = codec_of(self.view, self.layout)
        self.decoder = Decoder(self.view, self.layout, self.codec, [self.query])

    def put(self, there: dict[bytes, bytes], tiles: Sequence[tuple[int, int, int]]) -> None:
        rows = []
        for key, minute, events in tiles:
            at = minute * 60_000_000
            known = {"k0": key, "tile": at, "rows": events, "first_at": at, "last_at": at}
            rows.append([known.get(name, events) for name in self.query.columns])
        values = [value_of(self.query.columns, self.query.level, 1, row) for row in rows]
        upserts, wrong = self.decoder.decode(values, np.arange(len(values)))
        assert wrong == 0
        batch = batch_of(self.view, self.codec, upserts)
        old = [there.get(key) for key in batch.keys]
        done = merged(self.layout, self.codec, batch, old, Now(RUN, clock=-(2**62)))
        there.update((batch.keys[i], v) for i, v in zip(done.entities.tolist(), done.values, strict=True))


def test_heads_of_many_lengths_in_one_batch() -> None:
    """Heads of one, two and three tiles: the second is changed in place, the others grow. It begins where no multiple of its
    length is, though all three together are three times as long."""
    tiles, alone, together = Tiles(), dict[bytes, bytes](), dict[bytes, bytes]()
    before = [(key, minute, 1) for key in (1, 2, 3) for minute in range(key)]
    after = [(1, 1, 1), (2, 0, 7), (3, 3, 1)]
    tiles.put(together, before)
    tiles.put(together, after)
    for tile in [*before, *after]:
        tiles.put(alone, [tile])
    assert whole(together) == whole(alone)


@pytest.mark.parametrize("seed", range(20))
def test_batches_at_random_end_as_one_tile_after_another(seed: int) -> None:
    tiles, alone, together = Tiles(), dict[bytes, bytes](), dict[bytes, bytes]()
    chance = np.random.default_rng(seed)
    for number in range(1, 7):
        size = int(chance.integers(1, 12))
        keys, minutes = chance.integers(0, 8, size).tolist(), chance.integers(0, 4, size).tolist()
        some = [(key, minute, number) for key, minute in dict.fromkeys(zip(keys, minutes, strict=True))]
        tiles.put(together, some)
        for tile in some:
            tiles.put(alone, [tile])
        assert whole(together) == whole(alone)


def whole(heads: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """All of each head but how often it was written."""
    return {key: value[:8] + value[16:] for key, value in heads.items()}
