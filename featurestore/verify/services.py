"""What a service computes on demand, in training and read online, compared with plain Python: row by row, request by request.

The features that go in are compared with the reference engine as they were looked up, by whatever columns. What comes out is
compared with what plain Python makes of the very inputs that the engine had. A Python function is its own reference: it is
called for each row alone, and a batch has to give the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.compile.reference import Answer, Value
from featurestore.compile.rowwise import AS_OF, ROUNDED, Row, clean, evaluator
from featurestore.errors import FeatureStoreError
from featurestore.evaluate.arrow import arrow_type
from featurestore.evaluate.finish import Cells
from featurestore.evaluate.on_demand import schema_of
from featurestore.evaluate.python import function_program
from featurestore.expr import Call, Expr
from featurestore.expr.literals import INT_BOUNDS, MAX_DATE, MAX_TIMESTAMP, MIN_DATE, MIN_TIMESTAMP
from featurestore.expr.nodes import children
from featurestore.ir import OnDemand, PythonFunction, Read, Service, View, service_fingerprint
from featurestore.joining import service_cells
from featurestore.materialize import materialize_view
from featurestore.picture import meaning
from featurestore.serving import Reader
from featurestore.status import Status
from featurestore.time import DAY
from featurestore.types import (
    Bool,
    Date,
    DecimalType,
    DType,
    Float32,
    Int32,
    Int64,
    String,
    Timestamp,
    is_float,
    is_integer,
    numpy_dtype,
)
from featurestore.verify.compare import parity_of, same, scale_of
from featurestore.verify.engines import Key, Lab, Question, World, by_reference, nobody, world
from featurestore.verify.moments import candidates, chosen
from featurestore.verify.records import Class, Counterexample, Said, Tally, Verdict
from featurestore.verify.sampling import Sample, draw
from featurestore.verify.shrink import Patience, fewer, simpler
from featurestore.verify.tables import as_arrow
from featurestore.verify.words import text

ROWS = 300
"""Rows of the training set that is made of a service."""

CUTS, LATER, READ_ROWS = 3, 3, 40
"""Moments as of which its views are written, moments of reading for each, and rows of each read."""

TRIES, SHRINK_SECONDS = 200, 20.0

Pairs = tuple[tuple[str, str], ...]
"""Join keys of a view, each with the column that it is looked up by."""


@dataclass(frozen=True)
class Asking:
    """One row asked for: its keys, what its request says (raw physical values), and when."""

    keys: Mapping[str, Value]
    request: Mapping[str, Value]
    asked: int
    known_until: int
    why: str


@dataclass(frozen=True)
class ServiceWorld:
    """A service over views that have few events of their own."""

    lab: Lab
    service: Service
    worlds: Mapping[str, World]

    @cached_property
    def views(self) -> dict[str, View]:
        return {name: one.view for name, one in self.worlds.items()}

    @cached_property
    def lookups(self) -> list[tuple[str, Pairs]]:
        """The views with the columns that they are looked up by."""
        return list(dict.fromkeys((r.view, r.keys) for r in self.service.reads))

    @cached_property
    def key_types(self) -> dict[str, DType]:
        """The key columns of a row."""
        types: dict[str, DType] = {}
        for name, pairs in self.lookups:
            of = {k.name: k.dtype for k in self.views[name].keys}
            types |= {column: of[key] for key, column in pairs}
        return types

    @property
    def inputs(self) -> tuple[Read, ...]:
        return tuple(r for r in self.service.reads if r.hidden)


Answered = list[dict[str, Answer]]
"""For each row the answers by name: what was read, before its default, and what was computed."""

Road = Callable[[ServiceWorld, Sequence[Asking]], Answered]


def verify_service(
    place: Lab,
    service: Service,
    views: Mapping[str, View],
    root: Path,
    *,
    sample: int,
    seed: int,
    engines: Sequence[str],
) -> Verdict:
    """The verdict on what a service computes on demand; of `engines` those that know services are asked.

    `views` are all it reads, by name, with their sources below `root`. `empty` when it reads views, and none has an event.
    """
    began = time.monotonic()
    mine = {name: views[name] for name in sorted({r.view for r in service.reads})}
    drawn = {name: draw(place.con, view, root, sample, seed) for name, view in mine.items()}
    verdict = Verdict(
        service.name,
        service_fingerprint(service, views),
        "empty",
        sum(len(s.keys) for s in drawn.values()),
        sum(s.shortened for s in drawn.values()),
        sum(len(s.events) for s in drawn.values()),
        0,
        (),
        0.0,
        kind="service",
    )
    if mine and not any(s.events for s in drawn.values()):
        return verdict
    # How old a watermark may be is not asked of a training set.
    needed = tuple(r for r in service.reads if r.hidden)
    alone = replace(service, reads=needed, order=(), max_staleness=None)
    here = ServiceWorld(place, alone, {n: world(place, v, drawn[n].events) for n, v in mine.items()})
    random = Random(f"{seed} {service.name}")  # noqa: S311  a sample, no secret
    making = _Making(here, drawn, random)
    asked = {"duckdb": list(making.each()), "online": list(making.written())}
    tallies, found = check_service(here, {n: rows for n, rows in asked.items() if n in engines})
    return replace(
        verdict,
        outcome="disagreement"
        if any(t.differing for t in tallies)
        else "certified"
        if tallies
        else "unchecked",
        moments=sum(len(asked[n]) for n in engines if n in asked),
        tallies=tuple(tallies),
        counterexample=found,
        seconds=time.monotonic() - began,
    )


def check_service(
    here: ServiceWorld, asked: Mapping[str, Sequence[Asking]]
) -> tuple[list[Tally], Counterexample | None]:
    """Asks each road its rows; what was compared, and a counterexample if anything differs."""
    tallies: list[Tally] = []
    first: tuple[str, _Judge, int] | None = None
    for name, rows in asked.items():
        got = ROADS[name](here, rows)
        for judge in _judges(here):
            wrong = judge.wrong(rows, got)
            tallies.append(Tally(judge.name, name, judge.parity, len(rows), len(wrong)))
            if wrong and first is None:
                first = name, judge, wrong[0]
    if first is None:
        return tallies, None
    name, judge, row = first
    return tallies, _counterexample(here, name, judge, asked[name], row)


# ------------------------------------------------------------------------------------------------------------- the roads


def _by_training(here: ServiceWorld, rows: Sequence[Asking]) -> Answered:
    spine = {c: pa.array([r.keys[c] for r in rows], arrow_type(t)) for c, t in here.key_types.items()}
    spine |= {c: as_arrow([r.request[c] for r in rows], t) for c, t in here.service.request}
    asked = np.array([r.asked for r in rows], np.int64)
    table = pa.table(spine) if spine else pa.table({"row": np.arange(len(rows))})
    place = here.lab
    cells = service_cells(place.con, place.root, here.service, here.views, table, asked, statuses=True)
    return _answers(cells, len(rows))


def _by_reading(here: ServiceWorld, rows: Sequence[Asking]) -> Answered:
    done: Answered = [{}] * len(rows)
    shown = tuple(replace(r, hidden=False) for r in here.service.reads)
    inputs = replace(here.service, reads=shown, on_demand=(), request=())
    for end in sorted({r.known_until for r in rows}):
        for view in here.views.values():
            materialize_view(here.lab.con, here.lab.store, view, here.lab.root, end=end)
        computing, reading = (Reader(here.lab.store, s, here.views) for s in (here.service, inputs))
        for places in _reads_of(here, rows, end):
            asked = rows[places[0]].asked
            keys = {c: [rows[i].keys[c] for i in places] for c in here.key_types}
            request = {c: as_arrow([rows[i].request[c] for i in places], t) for c, t in here.service.request}
            online = computing.read(keys, asked, None, request)
            cells = dict(zip(online.names, online.cells, strict=True))
            if here.inputs:
                read = reading.read(keys, asked)
                cells |= dict(zip(read.names, read.cells, strict=True))
            for i, row in zip(places, _answers(cells, len(places)), strict=True):
                done[i] = row
    return done


def _reads_of(here: ServiceWorld, rows: Sequence[Asking], end: int) -> list[list[int]]:
    """The rows written as of `end` that are read together: those of one moment. Without keys a read is of one row."""
    found: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        if row.known_until == end:
            found.setdefault(row.asked if here.key_types else i, []).append(i)
    return list(found.values())


def _answers(cells: Mapping[str, Cells], rows: int) -> Answered:
    done: Answered = [{} for _ in range(rows)]
    for name, cell in cells.items():
        columns = (cell.values.tolist(), cell.valid.tolist(), cell.status.tolist())
        for row, value, valid, status in zip(done, *columns, strict=True):
            row[name] = Answer(value if valid else None, Status(status))
    return done


ROADS: dict[str, Road] = {"duckdb": _by_training, "online": _by_reading}
"""How services are asked, by the name of the engine."""


# ------------------------------------------------------------------------------------------------------------- the reference


@dataclass(frozen=True)
class _Judge:
    """One column: what it means, and which of the answers are not what they have to be."""

    name: str
    means: str
    dtype: DType
    parity: Class
    expected: Callable[[Sequence[Asking], Answered], list[Answer]]
    agrees: Callable[[Asking, Mapping[str, Answer], Answer, Answer], bool]

    def wrong(self, rows: Sequence[Asking], got: Answered) -> list[int]:
        """The places of the rows whose answer differs."""
        want = self.expected(rows, got)
        return [
            i
            for i, (row, given) in enumerate(zip(rows, got, strict=True))
            if not self.agrees(row, given, given[self.name], want[i])
        ]


def _judges(here: ServiceWorld) -> Iterator[_Judge]:
    for read in here.inputs:
        yield _of_input(here, read)
    for feature in here.service.on_demand:
        yield _of_computed(here, feature)


def _of_input(here: ServiceWorld, read: Read) -> _Judge:
    one = here.worlds[read.view]
    feature = one.view.feature(read.feature)
    columns = dict(read.keys)

    def question(row: Asking) -> Question:
        key: Key = tuple(row.keys[columns[k.name]] for k in one.view.keys)
        return Question(key, row.asked, row.known_until, row.why)

    def expected(rows: Sequence[Asking], got: Answered) -> list[Answer]:
        return [a[feature.name] for a in by_reference(one, [question(r) for r in rows])]

    def agrees(row: Asking, given: Mapping[str, Answer], got: Answer, want: Answer) -> bool:
        return same(parity_of(feature), got, want, lambda: scale_of(one, feature, question(row), want))

    return _Judge(
        read.output, f"{read.view}:{meaning(feature)}", read.dtype, parity_of(feature), expected, agrees
    )


def _of_computed(here: ServiceWorld, feature: OnDemand) -> _Judge:
    schema = schema_of(here.service)
    values = _alone(feature, schema)

    def before(row: Asking, given: Mapping[str, Answer]) -> Row:
        """What the feature is made of, in this row: clean values, as they are before their defaults."""
        found: dict[str, Any] = {AS_OF: row.asked}
        for name in feature.columns:
            if name in row.request:
                found[name] = clean(row.request[name], schema[name])
            else:
                stood_in = given[name].status in (Status.DEFAULT, Status.OVERFLOW)
                found[name] = None if stood_in else given[name].value
        return found

    def expected(rows: Sequence[Asking], got: Answered) -> list[Answer]:
        return [_settled(feature, values(before(r, g)), g) for r, g in zip(rows, got, strict=True)]

    def agrees(row: Asking, given: Mapping[str, Answer], got: Answer, want: Answer) -> bool:
        return same(
            "close" if loose else "exact", got, want, lambda: _size(feature, before(row, given), schema)
        )

    loose = not isinstance(feature.expression, PythonFunction) and _calls(
        feature.expression
    ) & ROUNDED.keys() - {"sqrt"}
    parity: Class = "python" if feature.is_python else "close" if loose else "exact"
    return _Judge(feature.name, feature.text, feature.dtype, parity, expected, agrees)


def _alone(feature: OnDemand, schema: Mapping[str, DType]) -> Callable[[Row], Any]:
    """The value of a row by itself, None for NULL: in plain Python, or by calling the Python function for this row alone."""
    if not isinstance(feature.expression, PythonFunction):
        return evaluator(feature.expression, schema, on_demand=True)
    program = function_program(feature, feature.expression, schema)

    def called(row: Row) -> Any:
        columns = {name: _one(row[name], schema[name]) for name in program.columns}
        values, valid = program.evaluate(columns, 1, int(row[AS_OF]))  # type: ignore[arg-type]
        return values.tolist()[0] if valid[0] else None

    return called


def _one(value: Any, dtype: DType) -> tuple[Any, Any]:
    column = np.zeros(1, numpy_dtype(dtype)) if numpy_dtype(dtype).kind != "O" else np.full(1, None)
    if value is not None:
        column[0] = value
    return column, np.array([value is not None])


def _settled(feature: OnDemand, value: Any, given: Mapping[str, Answer]) -> Answer:
    if value is None:
        if feature.default is not None:
            return Answer(feature.default, Status.DEFAULT)
        return Answer(None, Status.NULL)
    found = {given[name].status for name in feature.columns if name in given}
    doubt = next((s for s in (Status.INEXACT, Status.STALE) if s in found), Status.PRESENT)
    return Answer(value, doubt)


def _calls(node: Expr) -> set[str]:
    own = {node.function} if isinstance(node, Call) else set()
    return own.union(*map(_calls, children(node)))


def _size(feature: OnDemand, row: Row, schema: Mapping[str, DType]) -> float:
    """The largest number on the way to a value: what its last bits are measured by."""
    assert not isinstance(feature.expression, PythonFunction)

    def sizes(node: Expr) -> Iterator[float]:
        value = evaluator(node, schema, on_demand=True)(row)
        if isinstance(value, int | float):
            yield abs(float(value))
        for child in children(node):
            yield from sizes(child)

    return max(sizes(feature.expression), default=0.0)


# ------------------------------------------------------------------------------------------------------------- what is asked


class _Making:
    """Rows to ask for: entities that exist, and some that do not, at moments that matter, with requests that bite."""

    def __init__(self, here: ServiceWorld, drawn: Mapping[str, Sample], random: Random) -> None:
        self.here, self.random = here, random
        self.pools = {name: [*s.keys, nobody(here.views[name])] for name, s in drawn.items()}
        self.typical: dict[DType, list[Value]] = {}
        for name, one in drawn.items():
            schema = here.views[name].source.schema
            for column, dtype in schema.items():
                seen = dict.fromkeys(
                    v for e in one.events[:200] if isinstance(v := e[column], int | float | str)
                )
                self.typical.setdefault(dtype, []).extend(list(seen)[:20])

    def each(self) -> Iterator[Asking]:
        """Rows at moments of their own, all events known."""
        for number in range(ROWS):
            keys, view, key = self._keys()
            moment, why = self._moment(view, key)
            if self.here.key_types and number % 20 == 19:
                keys[self.random.choice(list(keys))] = None
            yield Asking(keys, self._request(number, moment), moment, moment, why)

    def written(self) -> Iterator[Asking]:
        """Rows at a few moments: views are written as of some, and read then and later."""
        everything: dict[str, dict[int, str]] = {}
        for name, pool in self.pools.items():
            for key in pool[:5]:
                for kind, found in candidates(
                    self.here.views[name], self._times(name, key), self.random
                ).items():
                    everything.setdefault(kind, {}).update(found)
        if not everything:
            everything = {"random": {self._moment("", ())[0]: "a random moment"}}
        number = 0
        for end, words in sorted(chosen(everything, CUTS, self.random).items()):
            later = {k: {m: w for m, w in found.items() if m > end} for k, found in everything.items()}
            moments = {end: words} | chosen({k: m for k, m in later.items() if m}, LATER - 1, self.random)
            for moment, why in sorted(moments.items()):
                said = why if moment == end else f"{why}; written as of {words}"
                for _ in range(READ_ROWS):
                    yield Asking(self._keys()[0], self._request(number, moment), moment, end, said)
                    number += 1

    def _keys(self) -> tuple[dict[str, Value], str, Key]:
        """Key columns of a row that fit as many lookups as they can, and the view and key that were chosen first."""
        keys: dict[str, Value] = {}
        lookups = list(self.here.lookups)
        self.random.shuffle(lookups)
        focus: tuple[str, Key] | None = None
        for name, pairs in lookups:
            column_of = dict(pairs)
            columns = [column_of[k.name] for k in self.here.views[name].keys]
            pool = self.pools[name]
            fits = [k for k in pool if all(keys.get(c, v) == v for c, v in zip(columns, k, strict=True))]
            key = self.random.choice(fits or pool)
            for column, value in zip(columns, key, strict=True):
                keys.setdefault(column, value)
            focus = focus or (name, key)
        return {c: keys[c] for c in self.here.key_types}, *(focus or ("", ()))

    def _times(self, view: str, key: Key) -> list[int]:
        return self.here.worlds[view].times(key)

    def _moment(self, view: str, key: Key) -> tuple[int, str]:
        if not view:
            return self.random.randint(0, 20_000 * DAY), "a random moment"
        kinds = candidates(self.here.views[view], self._times(view, key), self.random)
        found = kinds[self.random.choice(sorted(kinds))]
        return self.random.choice(sorted(found.items()))

    def _request(self, number: int, asked: int) -> dict[str, Value]:
        """A request: typical values at first, then each column now and then NULL, at a boundary, or typical."""
        return {
            name: self.random.choice(
                self._usual(dtype, asked)
                if number % 3 == 0
                else _edges(dtype, asked) or self._usual(dtype, asked)
            )
            for name, dtype in self.here.service.request
        }

    def _usual(self, dtype: DType, asked: int) -> list[Value]:
        """Values of this type that the sources hold, where they hold any."""
        return self.typical.get(dtype) or _edges(dtype, asked)


def _edges(dtype: DType, asked: int) -> list[Value]:
    """What request columns of a type may hold that has bitten others: NULL, boundaries, and a few plain values."""
    if is_float(dtype):
        largest = float(np.finfo(np.float32 if dtype == Float32 else np.float64).max)
        return [
            None,
            0.0,
            -0.0,
            1.0,
            -1.0,
            0.5,
            100.0,
            float("nan"),
            float("inf"),
            -largest,
            largest,
            2.0**-140,
        ]
    if is_integer(dtype):
        low, high = INT_BOUNDS[Int32 if dtype == Int32 else Int64]
        return [None, 0, 1, -1, 7, low, high, min(high, 2**53 + 1)]
    if isinstance(dtype, DecimalType):
        most = int(10**dtype.precision) - 1
        return [None, 0, 1, -1, int(10**dtype.scale) % (most + 1), most, -most]
    if dtype == Bool:
        return [None, True, False]
    if dtype == Timestamp:
        return [None, 0, -1, asked, asked - 1, asked + 1, asked - DAY, MIN_TIMESTAMP, MAX_TIMESTAMP]
    if dtype == Date:
        return [None, 0, -1, asked // DAY, MIN_DATE, MAX_DATE]
    assert dtype == String
    return [None, "", "a", "Z", "é", "\U00010000", "long " * 30]


# ------------------------------------------------------------------------------------------------------------ counterexamples


def _counterexample(
    here: ServiceWorld, engine: str, judge: _Judge, rows: Sequence[Asking], first: int
) -> Counterexample:
    """The disagreement with as few rows asked for together as show it."""
    road, patience = ROADS[engine], Patience(TRIES, SHRINK_SECONDS)

    def wrong(some: Sequence[Asking]) -> bool:
        try:
            return bool(some) and bool(judge.wrong(some, road(here, some)))
        except FeatureStoreError:
            return False  # another mistake than the one that is looked for

    read_with = [r for r in rows if r.known_until == rows[first].known_until and r.asked == rows[first].asked]
    start = next((some for some in ([rows[first]], read_with, rows) if wrong(some)), None)
    kept = fewer(start, wrong, patience) if start is not None else list(rows)
    if start is not None:
        plain = list(kept)
        requests = simpler(
            [row.request for row in plain],
            lambda some: wrong([replace(r, request=q) for r, q in zip(plain, some, strict=True)]),
            patience,
            dict(here.service.request),
            frozenset(),
        )
        kept = [replace(r, request=q) for r, q in zip(plain, requests, strict=True)]
    got = road(here, kept)
    at = next(iter(judge.wrong(kept, got)), 0)
    want = judge.expected(kept, got)
    schema = dict(here.key_types) | schema_of(here.service)
    shown = {
        c: t for c, t in schema.items() if c in here.key_types or judge.name == c or c in _reads(here, judge)
    }

    def cell(row: Asking, given: Mapping[str, Answer], column: str) -> Value:
        if column in given:
            return given[column].value  # type: ignore[return-value]  # lists are shown too
        return row.keys[column] if column in row.keys else row.request[column]

    table = [
        (
            *(text(cell(r, g, c), t) for c, t in shown.items()),
            text(r.asked, Timestamp),
            text(g[judge.name].value, judge.dtype),
            text(w.value, judge.dtype),
        )
        for r, g, w in zip(kept, got, want, strict=True)
    ]
    row = kept[at]
    said = (("reference", want[at]), (engine, got[at][judge.name]))
    return Counterexample(
        view=here.service.name,
        feature=judge.name,
        means=judge.means,
        engine=engine,
        key=dict(row.keys),
        asked=row.asked,
        known_until=row.known_until,
        why=row.why,
        columns=(*shown, "asked", engine, "alone" if judge.parity == "python" else "reference"),
        rows=tuple(table),
        picture=(),
        said=tuple(Said(name, text(a.value, judge.dtype) or "NULL", a.status) for name, a in said),
        minimal=start is not None,
        kind="service",
    )


def _reads(here: ServiceWorld, judge: _Judge) -> frozenset[str]:
    return next((o.columns for o in here.service.on_demand if o.name == judge.name), frozenset())
