"""Values of random definitions over random events, by Flink and by DuckDB: aggregates of expressions, filters, all windows.

`python -m tests.test_flink_random 100000 SEED [batch|streaming]` compares at least so many cells, by hand, and prints the tally.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featurestore.compile.flink_job import files_wire, job_of
from featurestore.compile.reference import Event
from featurestore.config import Config
from featurestore.ir import View
from featurestore.layout import layout_of
from featurestore.online.codec import codec_of
from featurestore.online.state import StreamState, stream_name
from featurestore.picture import meaning
from featurestore.serving import Reader
from featurestore.stream.apply import Heads
from featurestore.stream.tile_records import Decoder, Upserts
from featurestore.stream.upserts import Now
from featurestore.verify import ENGINES, Lab, Question, World, lab, moments, world
from featurestore.verify.compare import parity_of, same, scale_of
from featurestore.verify.engines import NO_FLINK, Answers, by_reference, nobody, read_answers
from featurestore.verify.flink import flink_here, keyed_by_cut, known_by
from featurestore.verify.replay import streamed
from tests.flink_cluster import Flink
from tests.flink_records import value_of
from tests.random_cells import Drawn, Pools
from tests.test_flink_tiles import in_flink

pytestmark = [pytest.mark.flink, pytest.mark.slow]

CUTS, LATER = 6, 180
"""Moments as of which a store is written for a definition, and at which each entity is asked, all together."""

POOL = 10
"""Definitions that are made of the same expressions and rows."""

SHOWN = 20

Ask = Callable[[World, Sequence[Question]], list[Answers]]


@dataclass
class Tally:
    """Cells compared and differing, by the class of agreement: exact, close (the order of a float sum), approx (sketches)."""

    definitions: int = 0
    cells: Counter[str] = field(default_factory=Counter)
    differing: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"  {kind:7} {self.cells[kind]:>10,} cells {self.differing[kind]:>8,} differing"
            for kind in ("exact", "close", "approx")
        ]
        return "\n".join([f"{self.definitions} definitions", *lines])


def compare(place: Lab, drawn: Drawn, ask: Ask, tally: Tally, seed: str) -> None:
    """Asks Flink and DuckDB for every feature of every entity at adversarial moments."""
    here = world(place, drawn.view, drawn.events)
    keys = [*(k for k in here.by_key if None not in k), nobody(drawn.view)]
    times = {key: here.times(key) for key in keys}
    questions = moments.written(drawn.view, times, LATER, CUTS, seed)
    wanted = ENGINES["online"].ask(here, questions)
    found = ask(here, questions)
    tally.definitions += 1
    for feature in drawn.view.features:
        kind = parity_of(feature)
        tally.cells[kind] += len(questions)
        for question, got, want in zip(questions, found, wanted, strict=True):
            one, other = got[feature.name], want[feature.name]
            if same(kind, one, other, partial(scale_of, here, feature, question, other)):
                continue
            tally.differing[kind] += 1
            if len(tally.wrong) < SHOWN and not any(f" {meaning(feature)} " in w for w in tally.wrong):
                (right,) = by_reference(here, [question])
                tally.wrong.append(
                    f"seed {seed}: {kind} {meaning(feature)} of {question} is {one} in Flink, {other} in DuckDB, "
                    f"{right[feature.name]} in plain Python"
                )


# ── a stream's job ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Given:
    """What a job is made of."""

    view: View
    events: Sequence[Event]


@dataclass(frozen=True)
class Streaming:
    """The job in streaming mode, in small batches: its last tiles as records, decoded and put into heads as a writer does."""

    flink: Flink

    def __call__(self, here: World, questions: Sequence[Question]) -> list[Answers]:
        ends = sorted({q.known_until for q in questions})
        keyed, name = keyed_by_cut(here.view)
        events = tuple({**event, name: end} for event, end in known_by(here, ends))
        (cells,) = in_flink(self.flink, [Given(keyed, events)], "streaming")
        view = streamed(here.view, f"flink-{here.lab.number()}")
        upserts = self._upserts(keyed, cells)
        store = here.lab.store
        heads, reader = Heads(store, view), Reader(store, here.service, {view.name: view})
        done: list[Answers] = [{}] * len(questions)
        for end in ends:
            mine = [_of_cut(u, end) for u in upserts]
            heads.apply(mine, Now(1, clock=end))
            store.set_metas(
                {stream_name(codec_of(view, layout_of(view))): StreamState("s", end, None, end).to_bytes()}
            )
            read_answers(here, reader, questions, end, done)
        return done

    def _upserts(self, keyed: View, cells: dict[str, Any]) -> list[Upserts]:
        layout = layout_of(keyed)
        queries = job_of(keyed, files_wire("file:///events")).queries
        values = []
        for query in queries:
            kinds = list(query.columns.items())
            for name, cell in cells[query.name].items():
                rest = [_number(cell[column], kind) for column, kind in kinds[len(name) :]]
                values.append(value_of(query.columns, query.level, 1, [*name, *rest]))
        decoder = Decoder(keyed, layout, codec_of(keyed, layout), queries)
        upserts, strange = decoder.decode(values, np.arange(len(values)))
        assert strange == 0
        return upserts


def _number(value: Any, kind: str) -> Any:
    """JSON has no number for a moment that left the doubles."""
    return float(value) if kind == "DOUBLE" and value is not None else value


def _of_cut(upserts: Upserts, end: int) -> Upserts:
    """What is known by a moment, which is the last part of the key, without it."""
    *keys, cut = upserts.keys
    return replace(upserts, keys=keys).some(np.flatnonzero(cut == end))


# ── so many cells ───────────────────────────────────────────────────────────────────────────────────────────


def compare_random(root: Path, cells: int, seed: int, mode: str, *, say: Callable[[str], None]) -> Tally:
    """At least so many cells of random definitions: ten at a time are made of the same expressions and rows."""
    tally = Tally()
    began = time.monotonic()
    with ExitStack() as stack:
        here = NO_FLINK
        ask = ENGINES["flink"].ask
        if mode == "streaming":
            ask = Streaming(stack.enter_context(Flink(root)))
        else:
            here = stack.enter_context(flink_here(Config(root, "random", threads=1)))
            assert here.driver is not None, here.why_not
        pools = Pools(seed)
        while tally.cells.total() < cells:
            if tally.definitions and tally.definitions % POOL == 0:
                pools = Pools(seed + tally.definitions // POOL)
            drawn = pools.definition(alike=mode == "streaming")
            with lab(threads=1, flink=here) as place:
                compare(place, drawn, ask, tally, f"{seed}.{tally.definitions}")
            say(
                f"{time.monotonic() - began:.0f} s: {tally.cells.total():,} cells, {tally.differing.total()} differing"
            )
    return tally


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["batch", "streaming"])
def test_random_definitions_have_the_values_of_duckdb(flink: Flink, tmp_path: Path, mode: str) -> None:
    """`flink` says whether there is one."""
    tally = compare_random(tmp_path, 10_000, 5, mode, say=lambda _: None)
    assert tally.wrong == []
    assert tally.cells["exact"] > 3_000


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main() -> None:
    cells, seed, mode = [*sys.argv[1:], *["100000", "0", "batch"][len(sys.argv) - 1 :]]
    with tempfile.TemporaryDirectory(prefix="fs-random-") as folder:
        tally = compare_random(Path(folder), int(cells), int(seed), mode, say=_say)
    sys.stdout.write("\n".join([*tally.wrong, f"{mode}, seed {seed}: {tally}", ""]))
    sys.exit(1 if tally.wrong else 0)


if __name__ == "__main__":
    main()
