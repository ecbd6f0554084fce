"""The engines a case is asked of. All read one plan, lowered from real declarations over one Parquet file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import count as numbers
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import declare as d
from featurestore import ir
from featurestore.compile.reference import answers
from featurestore.compile.sources import Connection
from featurestore.config import Config
from featurestore.declare import declarations_in
from featurestore.evaluate.arrow import arrow_type
from featurestore.lower import lower
from featurestore.materialize import materialize_view
from featurestore.online.store import OnlineStore
from featurestore.serving import Reader
from featurestore.status import Status
from featurestore.training import TrainingSet
from featurestore.types import Date, DecimalType, DType, ListType, MapType, Timestamp
from featurestore.verify.replay import Replay
from tests.parity.cases import Case, instant

Key = tuple[Any, ...]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_numbers = numbers()


@dataclass(frozen=True)
class Answer:
    """A value as Python has it (Decimal, datetime in UTC, date), and its status."""

    value: Any
    status: Status


@dataclass(frozen=True)
class World:
    """A case made real: its rows in a Parquet file of its own, and the plan of its declarations."""

    case: Case
    root: Path
    events: Sequence[Mapping[str, Any]]
    service: ir.Service
    view: ir.View

    @property
    def output(self) -> str:
        """The column of the feature that the case is about: the first of the view."""
        return self.service.reads[0].output

    @property
    def dtype(self) -> DType:
        return self.service.reads[0].dtype


def world_of(case: Case, root: Path) -> World:
    """Writes the case's rows and lowers its declarations."""
    path = f"case{next(_numbers)}.parquet"
    schema = {**case.keys, **({} if case.static else {"at": Timestamp}), **case.columns}
    rows = [case.row(r) for r in case.rows]
    write(root / path, rows, {**schema, **case.unread}, case.stored)
    source: Any = d.BatchSource(
        "events",
        batch=d.Parquet(path),
        event_time=None if case.static else "at",
        columns=schema,
        tiebreak=case.tiebreak,
        event_id=case.event_id,
        arrival_time=case.arrival_time,
    )
    if case.reshape is not None:
        source = case.reshape(source)
    names = tuple(case.keys)
    entity = d.Entity("who", keys=names)
    view = d.FeatureView("view", entity, source, [case.feature, *case.beside], ttl=case.ttl)
    plan = lower(declarations_in([d.FeatureService("svc", [view])]), declared)
    events = [{n: physical(r.get(n), t) for n, t in schema.items()} for r in rows]
    return World(case, root, events, plan.service("svc"), plan.view("view"))


def declared(source: d.BatchSource | d.StreamSource) -> Mapping[str, DType]:
    """The columns of a source that declares them."""
    assert source.columns is not None
    return source.columns


def write(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    schema: Mapping[str, DType],
    stored: Mapping[str, pa.DataType],
) -> None:
    """Rows as a Parquet file, in the types of `schema` unless `stored` has another for a column."""
    columns = {}
    for name, dtype in schema.items():
        values = [r.get(name) for r in rows]
        if dtype == Timestamp:
            values = [None if v is None else instant(v) for v in values]
            columns[name] = pa.array(values, pa.int64()).cast(arrow_type(dtype))
        else:
            columns[name] = pa.array(values, arrow_type(dtype))
        if name in stored:
            columns[name] = columns[name].cast(stored[name])
    pq.write_table(pa.table(columns), path)


def micros(when: datetime) -> int:
    """A moment in microseconds since 1970."""
    return (when - EPOCH) // timedelta(microseconds=1)


def physical(value: Any, dtype: DType) -> Any:
    """A Python value as engines pass it on."""
    if value is None:
        return None
    if dtype == Timestamp:
        return micros(value) if isinstance(value, datetime) else instant(value)
    if dtype == Date:
        return (value - date(1970, 1, 1)).days
    if isinstance(dtype, DecimalType):
        return int(Decimal(value).scaleb(dtype.scale))
    if isinstance(dtype, ListType):
        return [physical(v, dtype.item) for v in value]
    return value


def pythonic(value: Any, dtype: DType) -> Any:
    """A physical value as Python has it."""
    if value is None:
        return None
    if dtype == Timestamp:
        return EPOCH + timedelta(microseconds=value)
    if dtype == Date:
        return date(1970, 1, 1) + timedelta(days=value)
    if isinstance(dtype, DecimalType):
        return Decimal(value).scaleb(-dtype.scale)
    if isinstance(dtype, ListType):
        return [pythonic(v, dtype.item) for v in value]
    if isinstance(dtype, MapType):
        return {pythonic(k, dtype.key): n for k, n in value.items()}
    return value


class Engine(Protocol):
    """Answers for some keys of a case's world, each at a moment in microseconds."""

    def ask(self, world: World, asked: Sequence[tuple[Key, int]]) -> list[Answer]:
        """The case's feature for each key and moment."""
        ...


@dataclass(frozen=True)
class Reference:
    """Plain Python over all events."""

    def ask(self, world: World, asked: Sequence[tuple[Key, int]]) -> list[Answer]:
        done = []
        for key, at in asked:
            answer = answers(world.view, world.events, key, at, world.case.lag)[
                world.service.reads[0].feature
            ]
            done.append(Answer(pythonic(answer.value, world.dtype), answer.status))
        return done


@dataclass(frozen=True)
class Training:
    """A training set: the moments are the spine's."""

    config: Config

    def ask(self, world: World, asked: Sequence[tuple[Key, int]]) -> list[Answer]:
        table = training_set(self.config, world, asked, statuses=True).to_arrow()
        values, statuses = (
            table.column(world.output + suffix).to_pylist(maps_as_pydicts="strict")
            for suffix in ("", "__status")
        )
        return [Answer(v, Status[s]) for v, s in zip(values, statuses, strict=True)]


def training_set(
    config: Config, world: World, asked: Sequence[tuple[Key, int]], *, statuses: bool
) -> TrainingSet:
    """Keys and moments as a training set, of what had arrived where the case has a lag."""
    lag = world.case.lag
    return TrainingSet(
        config,
        world.service,
        {world.view.name: world.view},
        spine_of(world, asked),
        "ts",
        statuses=statuses,
        knowledge="corrected" if lag is None else "arrived",
        lag={} if lag is None else {world.view.source.name: lag},
    )


@dataclass(frozen=True)
class Online:
    """Materialised as of the case's moment, then read back at each moment asked for."""

    con: Connection
    store: OnlineStore

    def ask(self, world: World, asked: Sequence[tuple[Key, int]]) -> list[Answer]:
        case = world.case
        end = instant(case.at if case.materialized is None else case.materialized)
        materialize_view(self.con, self.store, world.view, world.root, end=end)
        reader = Reader(self.store, world.service, {"view": world.view})
        done: list[Answer] = []
        for at in dict.fromkeys(at for _, at in asked):
            keys = [key for key, moment in asked if moment == at]
            online = reader.read(entities_of(world, keys), at=at)
            values = online.to_dict()[world.output]
            done += [Answer(v, Status(int(s))) for v, s in zip(values, online.statuses[:, 0], strict=True)]
        moments = [at for _, at in asked]
        order = sorted(range(len(asked)), key=lambda i: moments.index(moments[i]))
        return [answer for _, answer in sorted(zip(order, done, strict=True), key=lambda pair: pair[0])]


@dataclass(frozen=True)
class Streamed:
    """Played through the embedded stream up to the case's moment, then read back at each moment asked for.

    A static source has no events: it is materialised.
    """

    con: Connection
    store: OnlineStore

    def ask(self, world: World, asked: Sequence[tuple[Key, int]]) -> list[Answer]:
        case = world.case
        if case.static:
            return Online(self.con, self.store).ask(world, asked)
        end = instant(case.at if case.materialized is None else case.materialized)
        config = Config(world.root, "parity", threads=1)
        with Replay(config, world.view, world.events, self.store, f"s{next(_numbers)}") as replay:
            replay.until(end)
            reader = Reader(self.store, world.service, {"view": replay.view})
            rows = [reader.read(entities_of(world, [key]), at=at) for key, at in asked]
        return [Answer(r.to_dict()[world.output][0], Status(int(r.statuses[0, 0]))) for r in rows]


def entities_of(world: World, keys: Sequence[Key]) -> dict[str, list[Any]]:
    """Keys as columns of a request."""
    return {k.name: [key[i] for key in keys] for i, k in enumerate(world.view.keys)}


def spine_of(world: World, asked: Sequence[tuple[Key, int]]) -> pa.Table:
    """Keys and moments as a spine."""
    columns = entities_of(world, [key for key, _ in asked])
    spine = {k.name: pa.array(columns[k.name], arrow_type(k.dtype)) for k in world.view.keys}
    return pa.table({**spine, "ts": pa.array([at for _, at in asked], pa.timestamp("us", tz="UTC"))})
