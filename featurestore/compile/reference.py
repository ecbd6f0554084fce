"""The reference engine: what a value is, in plain Python. Slow, obvious and right; every other engine is compared to it.

It shares with the others the plan and the words (window arithmetic, type names), and nothing that computes: sums are
Python integers, moments are exact fractions, and every question reads all events anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, assert_never

from featurestore.aggregates import (
    AGGREGATES,
    Count,
    Finish,
    First,
    Last,
    Maximum,
    Minimum,
    Moments,
    Part,
    Ratio,
    Reduction,
    Root,
    Sum,
    Variance,
)
from featurestore.compile.rowwise import Settled, clean, evaluate
from featurestore.expr import Column, Expr
from featurestore.ir import LATEST, Feature, View
from featurestore.status import Status
from featurestore.time import inside
from featurestore.types import Bool, DecimalType, DType, is_float, is_integer

Value = bool | int | float | str | None
Event = Mapping[str, Value]
"""One event: physical values (see the architecture page) by source column."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A value after its default, and its status. The mask is `value is not None`."""

    value: Value
    status: Status


def answers(view: View, events: Sequence[Event], key: Sequence[Value], asked: int) -> dict[str, Answer]:
    """Every feature of `view` for one entity at one moment (microseconds), by feature name."""
    (one,) = answers_at(view, events, key, [asked])
    return one


def answers_at(
    view: View, events: Sequence[Event], key: Sequence[Value], moments: Sequence[int]
) -> list[dict[str, Answer]]:
    """`answers` at several moments: the entity's events are found and put in order once."""
    schema = Settled(view.source.schema)
    mine = entity_events(view, events, key)
    done = []
    for asked in moments:
        visible = [e for e in mine if _before(view, e, asked)]
        done.append(
            {
                f.name: _settled(f, *_value(view, f, visible, asked, schema), bool(visible))
                for f in view.features
            }
        )
    return done


def _before(view: View, event: Event, asked: int) -> bool:
    if view.source.event_time is None:
        return True
    at = event[view.source.event_time]
    assert isinstance(at, int)
    return at < asked


def entity_events(view: View, events: Sequence[Event], key: Sequence[Value]) -> list[Event]:
    """The entity's events, cleaned, filtered, without duplicates, in the order that decides ties."""
    schema, source = Settled(view.source.schema), view.source
    mine: list[Event] = []
    for raw in events:
        event: Event = {name: clean(raw.get(name), dtype) for name, dtype in schema.items()}
        if source.event_time is not None and event[source.event_time] is None:
            continue
        if view.filter is not None and evaluate(view.filter, event, schema) is not True:
            continue
        parts = [evaluate(k.value, event, schema) for k in view.keys]
        if any(p is None for p in parts) or parts != list(key):
            continue
        mine.append(event)
    mine.sort(key=lambda e: _rank(view, e))
    if source.event_id is None:
        return mine
    kept: dict[tuple[Value, Value], Event] = {}
    for event in sorted(mine, key=lambda e: [_comparable(e[c]) for c in view.copy_order]):
        at = event[source.event_time] if source.event_time is not None else None
        kept.setdefault((at, event[source.event_id]), event)
    # An event without an id is nobody's copy.
    return [e for e in mine if e[source.event_id] is None or any(e is k for k in kept.values())]


def _rank(view: View, event: Event) -> tuple[Any, ...]:
    first = [event[view.source.event_time]] if view.source.event_time is not None else []
    return (*first, *(_comparable(event[c]) for c in view.order))


def _comparable(value: Value) -> tuple[Any, ...]:
    """NULL is least, strings go by their UTF-8 bytes, false is less than true."""
    if value is None:
        return (0,)
    return (1, value.encode() if isinstance(value, str) else value)


def _value(
    view: View, feature: Feature, visible: Sequence[Event], asked: int, schema: Mapping[str, DType]
) -> tuple[Value, Status]:
    if feature.aggregate == LATEST:
        if not visible:
            return None, Status.NOT_FOUND
        newest = visible[-1]
        if view.ttl is not None and view.source.event_time is not None:
            at = newest[view.source.event_time]
            assert isinstance(at, int)
            if at < asked - view.ttl:
                return None, Status.EXPIRED
        value = evaluate(feature.inputs[0], newest, schema)
        return value, Status.PRESENT if value is not None else Status.NULL
    assert feature.window is not None
    assert view.source.event_time is not None
    rows = []
    for event in visible:
        at = event[view.source.event_time]
        assert isinstance(at, int)
        if not inside(at, asked, feature.window.size, feature.window.hop):
            continue
        if feature.where is not None and evaluate(feature.where, event, schema) is not True:
            continue
        row: dict[str, Value] = {"at": at}
        for name, node in zip(("x", "by"), feature.inputs, strict=False):
            row[name] = evaluate(node, event, schema)
        rows.append(row)
    aggregate = AGGREGATES[feature.aggregate]
    value = _finish(aggregate.finish, dict(aggregate.partials), rows, feature)
    if value is not None and _overflows(value, feature.dtype):
        return None, Status.OVERFLOW
    return value, Status.PRESENT if value is not None else Status.NULL


def _settled(feature: Feature, value: Value, status: Status, found: bool) -> Answer:
    if status is Status.OVERFLOW:
        return Answer(feature.default, status)
    if value is None and feature.default is not None:
        return Answer(feature.default, Status.DEFAULT)
    if not found and status is not Status.EXPIRED:
        return Answer(value, Status.NOT_FOUND)
    return Answer(value, status)


def _finish(
    finish: Finish, partials: Mapping[str, Reduction], rows: Sequence[Event], feature: Feature
) -> Value:
    match finish:
        case Part(name):
            return _reduced(partials[name], rows, feature)
        case Ratio(top, bottom):
            total, n = (
                _reduced(partials[top.name], rows, feature),
                _reduced(partials[bottom.name], rows, feature),
            )
            assert isinstance(n, int)
            if total is None or n == 0:
                return None
            assert isinstance(total, int | float)
            dtype = feature.input_types[0]
            scale = 10**dtype.scale if isinstance(dtype, DecimalType) else 1
            return _double(total) / _double(n * scale)
        case Variance(name, ddof):
            reduction = partials[name]
            assert isinstance(reduction, Moments)
            values = [_exact(v, feature.input_types[0]) for v in _inputs(reduction.arg, rows)]
            if len(values) <= ddof:
                return None
            mean = sum(values, Fraction(0)) / len(values)
            return _double(sum(((v - mean) ** 2 for v in values), Fraction(0)) / (len(values) - ddof))
        case Root(of):
            variance = _finish(of, partials, rows, feature)
            assert variance is None or isinstance(variance, float)
            return None if variance is None else math.sqrt(variance)
        case _:
            assert_never(finish)


def _reduced(reduction: Reduction, rows: Sequence[Event], feature: Feature) -> Value:
    match reduction:
        case Count(arg):
            return len(rows) if not feature.inputs or arg is None else len(_inputs(arg, rows))
        case Sum(arg):
            values: list[Any] = _inputs(arg, rows)
            if not values:
                return None
            if not is_float(feature.input_types[0]):
                return int(sum(values))
            try:
                return math.fsum(values) + 0.0
            except OverflowError:
                return math.inf
        case Minimum(arg):
            least: Value = min(_inputs(arg, rows), default=None)
            return least
        case Maximum(arg):
            greatest: Value = max(_inputs(arg, rows), default=None)
            return greatest
        case First(arg):
            earliest: Value = next(iter(_inputs(arg, rows)), None)
            return earliest
        case Last(arg):
            newest: Value = next(reversed(_inputs(arg, rows)), None)
            return newest
        case Moments():
            raise AssertionError("moments finish as a variance")
        case _:
            assert_never(reduction)


def _inputs(arg: Expr, rows: Sequence[Event]) -> list[Any]:
    assert isinstance(arg, Column)
    return [row[arg.name] for row in rows if row[arg.name] is not None]


def _exact(value: bool | int | float, dtype: DType) -> Fraction:
    """The double a moment is computed of, exactly."""
    return Fraction(value / 10**dtype.scale if isinstance(dtype, DecimalType) else float(value))


def _double(value: int | float | Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _overflows(value: bool | int | float | str, dtype: DType) -> bool:
    if dtype == Bool or isinstance(value, str):
        return False
    if isinstance(dtype, DecimalType):
        return bool(abs(value) >= 10**dtype.precision)
    if is_integer(dtype):
        return not -(2**63) <= value < 2**63
    return not math.isfinite(value)
