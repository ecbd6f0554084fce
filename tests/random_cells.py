"""Random expressions and definitions over random events, for engines to be compared on: everything follows from a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from featurestore import declare as d
from featurestore.aggregates import AGGREGATES, Params
from featurestore.expr import Expr, ExprError, Expression, col, infer
from featurestore.expr.literals import MAX_DATE, MAX_TIMESTAMP, MIN_DATE, MIN_TIMESTAMP
from featurestore.ir import View
from featurestore.lower import lower
from featurestore.time import DAY, HOUR, MINUTE, SECOND, Duration, lifetime
from featurestore.types import Bool, Date, DType, Int64, String, Timestamp
from tests.generators import KEYS, NOON, SIZES
from tests.parity.engines import declared
from tests.test_expressions import KINDS, ROWS, SCHEMA, expressions

Row = Mapping[str, Any]

COLUMNS: dict[str, DType] = {**SCHEMA, "at": Timestamp, "id": String, "version": Int64}
"""Columns of events besides their keys."""


def well_typed(node: Expr, schema: Mapping[str, DType] = SCHEMA) -> bool:
    """A decimal may need too many digits."""
    try:
        infer(node, schema)
    except ExprError:
        return False
    return True


def _drawn(strategy: st.SearchStrategy[Any], number: int, seed: int) -> list[Any]:
    found: list[Any] = []

    @seeded(seed)
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def keep(one: Any) -> None:
        found.append(one)

    keep()
    return found


def random_expressions(number: int, seed: int, depth: int = 3) -> list[Expr]:
    """About so many well-typed expressions of columns of `SCHEMA`, no two the same."""
    kind = st.sampled_from(KINDS).flatmap(lambda kind: expressions(kind, depth))
    nodes = [e.node for e in _drawn(kind, number, seed)]
    return list({repr(node): node for node in nodes if well_typed(node)}.values())


def random_rows(number: int, seed: int) -> list[Row]:
    """At most so many rows of `SCHEMA`, as raw physical values."""
    found = [row for rows in _drawn(ROWS, number, seed) for row in rows]
    random.Random(seed).shuffle(found)
    return found[:number]


@dataclass(frozen=True)
class Drawn:
    """A view, and events of it as raw physical values."""

    view: View
    events: list[dict[str, Any]]


class Pools:
    """What definitions and events are made of, and the chance that picks."""

    def __init__(self, seed: int, size: int = 400) -> None:
        self.chance = random.Random(seed)
        self.nodes = random_expressions(size, seed)
        self.rows = random_rows(size, seed)
        self.by_type: dict[DType, list[Expr]] = {}
        for node in [*self.nodes, *(col(name).node for name in SCHEMA for _ in range(5))]:
            self.by_type.setdefault(infer(node, SCHEMA), []).append(node)

    def definition(self, features: int = 16, events: int = 120, *, alike: bool = False) -> Drawn:
        """A view of so many features over about so many events.

        `alike`: copies of an event are equal, as a stream wants them.
        """
        chance = self.chance
        keys = chance.choice(KEYS)
        names = {name: f"key {name}" for name in keys}
        schema = {**{names[name]: dtype for name, (dtype, _) in keys.items()}, **COLUMNS}
        event_id = chance.choice([None, "id"])
        source: Any = d.BatchSource(
            "events",
            batch=d.Parquet("events.parquet"),
            event_time="at",
            columns=schema,
            tiebreak=chance.choice([(), ("version",), ("version", "y")]),
            event_id=event_id,
        )
        if chance.random() < 0.3:
            source = source.where(self._of(Bool))
        made = [self._feature(i) for i in range(features)]
        entity = d.Entity("who", keys=tuple(names.values()))
        view = d.FeatureView("view", entity, source, made)
        plan = lower(d.declarations_in([d.FeatureService("svc", [view])]), declared)
        parts = {names[name]: values for name, (_, values) in keys.items()}
        return Drawn(plan.view("view"), self._events(parts, events, event_id, alike=alike))

    def _of(self, *dtypes: DType) -> Expression:
        return Expression(self.chance.choice([n for t in dtypes for n in self.by_type.get(t, [])]))

    def _feature(self, number: int) -> d.Aggregation:
        chance, name = self.chance, f"w{number}"
        if chance.random() < 0.15:
            return d.latest(Expression(chance.choice(self.nodes))).named(name)
        aggregate = AGGREGATES[chance.choice(sorted(AGGREGATES))]
        inputs = self._inputs(aggregate.name)
        spec = d.Aggregation(aggregate.name, inputs, params=self._params(aggregate.name))
        if aggregate.name == "count" and chance.random() < 0.5:
            spec = d.count()
        if chance.random() < 0.15:
            spec = spec.over(lifetime)
        else:
            size = chance.choice(SIZES)
            hops = [None, *(Duration(size // n) for n in (1, 2, 10, 60) if size % n == 0)]
            spec = spec.over(Duration(size), hop=chance.choice(hops))
        if chance.random() < 0.4:
            spec = spec.where(self._of(Bool))
        return spec.named(name)

    def _inputs(self, name: str) -> tuple[Any, ...]:
        aggregate = AGGREGATES[name]
        types = sorted(self.by_type, key=repr)
        while True:
            some = tuple(self.chance.choice(types) for _ in range(aggregate.inputs))
            if not isinstance(aggregate.accepts(some), str):
                return tuple(self._of(t) for t in some)

    def _params(self, name: str) -> Params:
        few = self.chance.randint(1, 4)
        if name in ("first_k", "last_k", "largest_k", "smallest_k"):
            return (("k", few),)
        if name == "count_distinct":
            return (("k", 16),)
        if name == "quantile":
            return (("p", self.chance.choice([0, 0.05, 0.5, 0.95, 0.999, 1])),)
        if name == "most_frequent":
            return (("k", few), ("bound", self.chance.randint(1, 40)))
        return (("bound", self.chance.randint(1, 40)),) if name == "histogram" else ()

    def _events(
        self, parts: Mapping[str, Sequence[Any]], number: int, event_id: str | None, *, alike: bool
    ) -> list[dict[str, Any]]:
        chance = self.chance
        origin = chance.choice([NOON, NOON, 0, -3 * DAY])
        steps = [0, 1, SECOND, MINUTE, 5 * MINUTE, 7 * MINUTE, HOUR, DAY]
        events: list[dict[str, Any]] = []
        for i in range(number):
            at = origin + chance.randint(-40, 6) * chance.choice(steps) + chance.choice([-1, 0, 0, 1])
            event = dict(chance.choice(self.rows))
            event |= {
                name: chance.choice([*values, *values, *values, None]) for name, values in parts.items()
            }
            event |= {"at": chance.choice([at] * 30 + [None]), "version": chance.choice([None, 0, 1, 2])}
            event["id"] = chance.choice([f"e{i}" if alike else f"e{i % 30}", None])
            events.append(_speakable(event))
        if event_id is not None or not alike:
            events += [dict(e) for e in chance.sample(events, number // 8)]
        chance.shuffle(events)
        return events


def _speakable(event: dict[str, Any]) -> dict[str, Any]:
    """The event without times and days of no year from 1 to 9999: to Flink a row that holds one is no event."""
    for name, dtype in COLUMNS.items():
        value = event[name]
        if dtype == Timestamp and value is not None and not MIN_TIMESTAMP <= value <= MAX_TIMESTAMP:
            event[name] = None
        if dtype == Date and value is not None and not MIN_DATE <= value <= MAX_DATE:
            event[name] = None
    return event


__all__ = ["COLUMNS", "Drawn", "Pools", "random_expressions", "random_rows", "well_typed"]
