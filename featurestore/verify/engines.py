"""The engines that are compared with the reference: an open set, one entry each.

An engine is asked `Question`s about a `World`: a view over a few events of its own. Each gets the events in the form it
takes in real use, so what is compared is the road that values really go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.compile.reference import Answer, Event, Value, answers_at
from featurestore.compile.rowwise import Settled, clean, evaluate
from featurestore.compile.sampling import used
from featurestore.compile.sources import Connection, connect
from featurestore.evaluate.arrow import arrow_type
from featurestore.evaluate.finish import Cells
from featurestore.expr import columns_of
from featurestore.flink_batches import Driver
from featurestore.ir import Location, Read, Service, View
from featurestore.joining import enrich
from featurestore.materialize import materialize_view
from featurestore.online.store import OnlineStore, open_store
from featurestore.serving import Reader
from featurestore.status import Status
from featurestore.types import String
from featurestore.verify.replay import Replay, laboratory
from featurestore.verify.tables import as_arrow

Key = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """One entity at one moment, in microseconds; events at or after `known_until` have not happened yet.

    `why` says in words what is special about the moment.
    """

    key: Key
    asked: int
    known_until: int
    why: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Flink:
    """A driver that runs jobs on this machine, or why there is none."""

    driver: Driver | None
    why_not: str = ""


@dataclass(frozen=True)
class Lab:
    """What engines may use: a folder that goes away, a DuckDB, an online store of its own, and Flink where it is."""

    root: Path
    con: Connection
    flink: Flink
    _stack: ExitStack
    _kept: dict[str, Any] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=count)

    @property
    def store(self) -> OnlineStore:
        """An LMDB store in the folder, opened when it is first wanted."""
        if "store" not in self._kept:
            self._kept["store"] = self._stack.enter_context(open_store("lmdb://online", self.root))
        store: OnlineStore = self._kept["store"]
        return store

    def number(self) -> int:
        """A number that this lab has not given yet."""
        return next(self._numbers)


NO_FLINK = Flink(None, "it was not looked for")


@contextmanager
def lab(
    memory_limit: str | None = None, threads: int | None = None, flink: Flink = NO_FLINK
) -> Iterator[Lab]:
    """A lab; all of it is gone afterwards."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(TemporaryDirectory(prefix="fs-verify-")))
        con = connect(memory_limit, threads, root / "spill")
        stack.callback(con.close)
        yield Lab(root, con, flink, stack)


@dataclass(frozen=True)
class World:
    """A view over events of its own, which lie in one Parquet file of the lab. `service` reads all its features."""

    lab: Lab
    view: View
    service: Service
    events: tuple[Event, ...]

    @cached_property
    def by_key(self) -> dict[Key, list[Event]]:
        """The events of each entity, as the reference tells whose they are."""
        source = self.view.source
        schema = Settled(source.schema)
        read = sorted(frozenset().union(*(columns_of(k.value) for k in self.view.keys)))
        found: dict[Key, list[Event]] = {}
        for event in self.events:
            row = {c: clean(event[c], schema[c]) for c in read}
            found.setdefault(tuple(evaluate(k.value, row, schema) for k in self.view.keys), []).append(event)
        return found

    def known(self, key: Key, until: int | None) -> list[Event]:
        """An entity's events before a moment; all of them of a static source, or when `until` is None."""
        mine, time = self.by_key.get(key, []), self.view.source.event_time
        if time is None or until is None:
            return mine
        return [e for e in mine if (at := e[time]) is not None and not isinstance(at, str) and at < until]

    def times(self, key: Key) -> list[int]:
        """When the entity's events were, by the raw rows: also of those that a filter leaves out."""
        time = self.view.source.event_time
        return (
            []
            if time is None
            else sorted(at for e in self.known(key, None) if isinstance(at := e[time], int))
        )

    def columns_of(self, keys: Sequence[Key]) -> dict[str, list[Value]]:
        """Keys as the columns of a request or a spine."""
        return {k.name: [key[i] for key in keys] for i, k in enumerate(self.view.keys)}


def nobody(view: View) -> Key:
    """A key that no event has."""
    return tuple("nobody there" if k.dtype == String else -2_000_000_011 for k in view.keys)


def world(lab: Lab, view: View, events: Sequence[Event]) -> World:
    """`view` over these events (physical values, raw: they are cleaned by whoever reads them)."""
    path = f"events-{lab.number()}.parquet"
    source = replace(
        view.source,
        location=Location("parquet", path),
        columns=tuple((c, view.source.schema[c]) for c in used(view)),
    )
    columns = {n: as_arrow([e[n] for e in events], t) for n, t in source.columns}
    pq.write_table(pa.table(columns), lab.root / path)
    keys = tuple((k.name, k.name) for k in view.keys)
    reads = tuple(Read(view.name, f.name, f.name, keys, f.dtype) for f in view.features)
    return World(lab, replace(view, source=source), Service("verify", reads), tuple(events))


# ------------------------------------------------------------------------------------------------------------ the engines

Asked = Literal["each", "written"]

Answers = dict[str, Answer]
"""Every feature's answer to one question, by name."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Why an engine cannot be asked: it is not here, or it has no way to say such a view and `never` will be asked for it."""

    reason: str
    never: bool = False


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine, and how it is asked.

    "each": it knows all events, and is asked as of any moment. "written": it is written as of a few moments, and asked then
    and later while nothing new has come. One that is to be `asked_for` is asked where it is named, or the project runs on it.
    `why_not` says of a world why it cannot be asked, None where it can.
    """

    name: str
    doc: str
    asked: Asked
    ask: Callable[[World, Sequence[Question]], list[Answers]]
    asked_for: bool = False
    why_not: Callable[[World], Gap | None] = lambda _: None


ENGINES: dict[str, Engine] = {}


def register(engine: Engine) -> Engine:
    """Adds an engine to those that a verification asks."""
    assert engine.name not in ENGINES, f"{engine.name} is registered twice"
    ENGINES[engine.name] = engine
    return engine


def by_reference(world: World, questions: Sequence[Question]) -> list[Answers]:
    """What is right: plain Python over the entity's events."""
    groups: dict[tuple[Key, int | None], list[int]] = {}
    for i, q in enumerate(questions):
        groups.setdefault((q.key, None if q.known_until >= q.asked else q.known_until), []).append(i)
    done: list[Answers] = [{}] * len(questions)
    for (key, until), places in groups.items():
        events = world.known(key, until)
        found = answers_at(world.view, events, key, [questions[i].asked for i in places])
        for i, answer in zip(places, found, strict=True):
            done[i] = answer
    return done


def _by_training(world: World, questions: Sequence[Question]) -> list[Answers]:
    spine: dict[str, pa.Array] = {}
    keys = world.columns_of([q.key for q in questions])
    for k in world.view.keys:
        spine[k.name] = pa.array(keys[k.name], arrow_type(k.dtype))
    asked = np.array([q.asked for q in questions], np.int64)
    views = {world.view.name: world.view}
    cells = enrich(
        world.lab.con, world.lab.root, world.service.reads, views, pa.table(spine), asked, statuses=True
    )
    return _rows(cells, len(questions))


def _by_reading(world: World, questions: Sequence[Question]) -> list[Answers]:
    done: list[Answers] = [{}] * len(questions)
    for end in dict.fromkeys(q.known_until for q in questions):
        materialize_view(world.lab.con, world.lab.store, world.view, world.lab.root, end=end)
        reader = Reader(world.lab.store, world.service, {world.view.name: world.view})
        read_answers(world, reader, questions, end, done)
    return done


def read_answers(
    world: World, reader: Reader, questions: Sequence[Question], end: int, done: list[Answers]
) -> None:
    """Asks a store that is written as of `end` the questions that are meant for it; the answers go into `done`."""
    mine = [i for i, q in enumerate(questions) if q.known_until == end]
    for asked in dict.fromkeys(questions[i].asked for i in mine):
        places = [i for i in mine if questions[i].asked == asked]
        online = reader.read(world.columns_of([questions[i].key for i in places]), at=asked)
        cells = dict(zip(online.names, online.cells, strict=True))
        for i, row in zip(places, _rows(cells, len(places)), strict=True):
            done[i] = row


def _by_streaming(world: World, questions: Sequence[Question]) -> list[Answers]:
    if world.view.source.event_time is None:
        return _by_reading(world, questions)
    done: list[Answers] = [{}] * len(questions)
    ends = sorted({q.known_until for q in questions})
    name = f"verify-{world.lab.number()}"
    with Replay(laboratory(world.lab.root), world.view, world.events, world.lab.store, name) as replay:
        reader = Reader(world.lab.store, world.service, {world.view.name: replay.view})
        for end in ends:
            replay.until(end)
            read_answers(world, reader, questions, end, done)
    return done


def _rows(cells: Mapping[str, Cells], rows: int) -> list[Answers]:
    done: list[Answers] = [{} for _ in range(rows)]
    for name, cell in cells.items():
        columns = (cell.values.tolist(), cell.valid.tolist(), cell.status.tolist())
        for row, value, valid, status in zip(done, *columns, strict=True):
            row[name] = Answer(value if valid else None, Status(status))
    return done


register(
    Engine(
        "duckdb",
        "The training join: DuckDB finds and sorts events, NumPy reduces them.",
        "each",
        _by_training,
    )
)
register(
    Engine(
        "online",
        "Materialised into LMDB, read back: at the moment of writing and later.",
        "written",
        _by_reading,
    )
)
register(
    Engine(
        "stream",
        "Played through the embedded stream in micro-batches, in any order, and read from LMDB.",
        "written",
        _by_streaming,
    )
)
