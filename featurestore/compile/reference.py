"""The reference engine: what a value is, in plain Python. Slow, obvious and right; every other engine is compared to it.

It shares with the others the plan and the words (window arithmetic, type names), and nothing that computes: sums are
Python integers, moments are exact fractions, and every question reads all events anew.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, assert_never

from featurestore.aggregates import (
    AGGREGATES,
    Buckets,
    Count,
    Distinct,
    Estimate,
    Finish,
    First,
    FirstK,
    Frequencies,
    Items,
    Kurtosis,
    Largest,
    Last,
    LastK,
    MaxBy,
    Maximum,
    MinBy,
    Minimum,
    Moments,
    MostFrequent,
    Part,
    Quantile,
    Ratio,
    Reduction,
    Root,
    Skewness,
    Smallest,
    Sum,
    Tally,
    Variance,
)
from featurestore.compile.rowwise import AS_OF, Settled, clean, evaluate, evaluator
from featurestore.expr import Column, Expr
from featurestore.ir import LATEST, Feature, Label, Source, View
from featurestore.status import LabelState, Status
from featurestore.time import inside, known_at
from featurestore.types import (
    Bool,
    DecimalType,
    DType,
    Float32,
    ListType,
    VectorType,
    is_float,
    is_integer,
)

Value = bool | int | float | str | None
Result = Value | list[Any] | dict[Any, int]
Event = Mapping[str, Value]
"""One event: physical values (see the architecture page) by source column; a list is a Python list of them."""


_OVERFLOW: dict[Any, int] = {}
"""In place of a value that is more than may be."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A value after its default, and its status. The mask is `value is not None`."""

    value: Result
    status: Status


def answers(
    view: View, events: Sequence[Event], key: Sequence[Value], asked: int, lag: int | None = None
) -> dict[str, Answer]:
    """Every feature of `view` for one entity at one moment (microseconds), by feature name.

    Of all events before the moment; with a `lag` (microseconds, also 0), of those that were known at it.
    """
    (one,) = answers_at(view, events, key, [asked], lag)
    return one


def answers_at(
    view: View,
    events: Sequence[Event],
    key: Sequence[Value],
    moments: Sequence[int],
    lag: int | None = None,
) -> list[dict[str, Answer]]:
    """`answers` at several moments: the entity's events are found and put in order once."""
    schema = Settled(view.source.schema)
    mine = entity_events(view, events, key)
    done = []
    for asked in moments:
        visible = [e for e in mine if _before(view, e, asked) and _known(view, e, asked, lag)]
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


def _known(view: View, event: Event, asked: int, lag: int | None) -> bool:
    """Whether what was known when it was asked includes an event; without a `lag` all that is known today does."""
    if lag is None or view.source.event_time is None:
        return True
    at = event[view.source.event_time]
    arrival = event[view.source.arrival_time] if view.source.arrival_time is not None else None
    assert isinstance(at, int)
    assert arrival is None or isinstance(arrival, int)
    return known_at(arrival, at, lag) <= asked


def label_answer(
    label: Label, events: Sequence[Event], key: Sequence[Value], asked: int, as_of: int
) -> tuple[Result, LabelState]:
    """The label of a row of one entity at one moment, by what is known as of another (microseconds), and its state.

    The value is None unless it is mature. Erasures are not looked at.
    """
    view, source = label.view, label.view.source
    if any(part is None for part in key):
        return None, LabelState.CENSORED
    schema = Settled(source.schema)
    known = [
        e for e in events if _happened(source, e, schema) < as_of and _arrived(source, e, schema) <= as_of
    ]
    start, end = asked + label.gap, asked + label.gap + label.horizon
    rows = [e for e in entity_events(view, known, key) if start <= _happened(source, e, schema) < end]
    last = max((_happened(source, e, schema) for e in known), default=None)
    if not (label.matures == "first_event" and rows):
        if as_of < end + label.lateness:
            return None, LabelState.IMMATURE
        if label.observed == "last_event" and (last is None or last < end):
            return None, LabelState.CENSORED
    found: dict[str, Any] = {}
    for feature in view.features:
        of = [e for e in rows if feature.where is None or evaluate(feature.where, e, schema) is True]
        found[feature.name] = _settled(feature, *_aggregated(feature, of, source, schema), found=True).value
    types = {f.name: f.dtype for f in view.features}
    value = evaluator(label.value, types, on_demand=True)({**found, AS_OF: asked})
    return value, LabelState.MATURE


def _happened(source: Source, event: Event, schema: Mapping[str, DType]) -> float:
    assert source.event_time is not None
    at = clean(event.get(source.event_time), schema[source.event_time])
    assert at is None or isinstance(at, int)
    return math.inf if at is None else at


def _arrived(source: Source, event: Event, schema: Mapping[str, DType]) -> float:
    if source.arrival_time is None:
        return -math.inf
    at = clean(event.get(source.arrival_time), schema[source.arrival_time])
    assert at is None or isinstance(at, int)
    return -math.inf if at is None else at


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


def _comparable(value: Any) -> tuple[Any, ...]:
    """NULL is least, strings go by their UTF-8 bytes, false is less than true.

    Lists go by their first item that differs, else the shorter is less; in them NaN is more than any number, NULL more still.
    """
    if value is None:
        return (0,)
    if isinstance(value, list):
        return (1, [_item(v) for v in value])
    return (1, value.encode() if isinstance(value, str) else value)


def _item(value: Any) -> tuple[Any, ...]:
    if value is None:
        return (3,)
    if isinstance(value, float) and math.isnan(value):
        return (2,)
    return _comparable(value)


def _whole(value: Any, dtype: DType) -> Any:
    """A list is NULL with any of its items that is NULL or not finite, and -0 in it is 0."""
    if value is None or not isinstance(dtype, ListType | VectorType):
        return value
    items = [clean(v, dtype.item if isinstance(dtype, ListType) else Float32) for v in value]
    return None if None in items else items


def _value(
    view: View, feature: Feature, visible: Sequence[Event], asked: int, schema: Mapping[str, DType]
) -> tuple[Result, Status]:
    if feature.aggregate == LATEST:
        if not visible:
            return None, Status.NOT_FOUND
        newest = visible[-1]
        if view.ttl is not None and view.source.event_time is not None:
            at = newest[view.source.event_time]
            assert isinstance(at, int)
            if at < asked - view.ttl:
                return None, Status.EXPIRED
        value = _whole(evaluate(feature.inputs[0], newest, schema), feature.dtype)
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
        rows.append(event)
    return _aggregated(feature, rows, view.source, schema)


def _aggregated(
    feature: Feature, events: Sequence[Event], source: Source, schema: Mapping[str, DType]
) -> tuple[Result, Status]:
    """The aggregate of these events, in order, before its default."""
    assert source.event_time is not None
    rows = []
    for event in events:
        row: dict[str, Value] = {"at": event[source.event_time]}
        for name, node in zip(("x", "by"), feature.inputs, strict=False):
            row[name] = evaluate(node, event, schema)
        rows.append(row)
    aggregate = AGGREGATES[feature.aggregate]
    result = _finish(aggregate.finish_of(feature.params), feature.partials, rows, feature)
    if result is not None and _overflows(result, feature.dtype):
        return None, Status.OVERFLOW
    return result, Status.PRESENT if result is not None else Status.NULL


def _settled(feature: Feature, value: Result, status: Status, found: bool) -> Answer:
    if status is Status.OVERFLOW:
        return Answer(feature.default, status)
    if value is None and feature.default is not None:
        return Answer(feature.default, Status.DEFAULT)
    if not found and status is not Status.EXPIRED:
        return Answer(value, Status.NOT_FOUND)
    return Answer(value, status)


def _finish(
    finish: Finish, partials: Mapping[str, Reduction], rows: Sequence[Event], feature: Feature
) -> Result:
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
        case Skewness(name):
            return _shape(partials[name], rows, feature, 3)
        case Kurtosis(name):
            return _shape(partials[name], rows, feature, 4)
        case Items(name):
            return _listed(partials[name], rows)
        case Estimate(name, k):
            return _estimate(
                [_hash(v, feature.input_types[0]) for v in _inputs(_arg(partials[name]), rows)], k
            )
        case Quantile(name, p):
            return _quantile(_inputs(_arg(partials[name]), rows), feature.input_types[0], p)
        case MostFrequent(name, k, bound):
            tally = _tally(_inputs(_arg(partials[name]), rows))
            frequent = sorted(tally, key=lambda v: (-tally[v], v))[:k]
            return frequent if len(tally) <= bound else _OVERFLOW
        case Tally(name, bound):
            tally = _tally(_inputs(_arg(partials[name]), rows))
            return tally if len(tally) <= bound else _OVERFLOW
        case Root(of):
            variance = _finish(of, partials, rows, feature)
            assert variance is None or isinstance(variance, float)
            return None if variance is None else math.sqrt(variance)
        case _:
            assert_never(finish)


def _listed(reduction: Reduction, rows: Sequence[Event]) -> list[Any]:
    values = _inputs(_arg(reduction), rows)
    match reduction:
        case FirstK(k=k):
            return values[:k]
        case LastK(k=k):
            return values[-k:]
        case Largest(k=k):
            return sorted(values, reverse=True)[:k]
        case Smallest(k=k):
            return sorted(values)[:k]
        case _:
            raise AssertionError(f"{reduction} is no list")


def _estimate(hashes: Sequence[int], k: int) -> int:
    least = sorted(set(hashes))
    if len(least) <= k:
        return len(least)
    return round((k - 1) / (float(least[k - 1]) / 2.0**64))


def _hash(value: Any, dtype: DType) -> int:
    """Of a text the first 8 bytes of its MD5, the lowest first; of a number SplitMix64's finaliser over its 64 bits."""
    if isinstance(value, str):
        return int.from_bytes(hashlib.md5(value.encode(), usedforsecurity=False).digest()[:8], "little")
    bits = struct.pack("<d", value) if is_float(dtype) else struct.pack("<q", value)
    ones = 2**64 - 1
    x = (int.from_bytes(bits, "little") + 0x9E3779B97F4A7C15) & ones
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & ones
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & ones
    return x ^ (x >> 31)


def _quantile(values: Sequence[Any], dtype: DType, p: Fraction) -> float | None:
    """The middle of the bucket of the value of this rank: the doubles whose first 7 bits after the leading one are its."""
    if not values:
        return None
    scale = 10**dtype.scale if isinstance(dtype, DecimalType) else 1
    value = sorted(float(v) / scale for v in values)[max(1, math.ceil(p * len(values))) - 1]
    (bits,) = struct.unpack("<q", struct.pack("<d", abs(value)))
    (middle,) = struct.unpack("<d", struct.pack("<q", bits >> 45 << 45 | 1 << 44))
    return math.copysign(middle, value) if value else 0.0


def _tally(values: Sequence[Any]) -> dict[Any, int]:
    tally: dict[Any, int] = {}
    for value in sorted(values):
        tally[value] = tally.get(value, 0) + 1
    return tally


def _shape(reduction: Reduction, rows: Sequence[Event], feature: Feature, order: int) -> float | None:
    """The central moment of this order over the power of the spread; of order 4 what it is more than a normal's 3."""
    assert isinstance(reduction, Moments)
    values = [_exact(v, feature.input_types[0]) for v in _inputs(reduction.arg, rows)]
    if len(set(values)) < 2:
        return None
    mean = sum(values, Fraction(0)) / len(values)
    spread = sum(((v - mean) ** 2 for v in values), Fraction(0)) / len(values)
    moment = sum(((v - mean) ** order for v in values), Fraction(0)) / len(values)
    if order == 4:
        return _double(moment / spread**2 - 3)
    # sign(m) * sqrt(m^2 / s^3) rounds but twice.
    return math.copysign(math.sqrt(_double(moment**2 / spread**3)), moment)


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
        case MinBy(arg, by) | MaxBy(arg, by):
            ranked = [row for row in rows if _of(by, row) is not None]
            pick = min if isinstance(reduction, MinBy) else max
            best = pick(ranked, key=lambda row: _of(by, row), default=None)  # the first of several
            return None if best is None else _of(arg, best)
        case Moments() | FirstK() | LastK() | Largest() | Smallest() | Distinct() | Buckets() | Frequencies():
            raise AssertionError(f"{reduction} is no value by itself")
        case _:
            assert_never(reduction)


def _arg(reduction: Reduction) -> Expr:
    assert reduction.arg is not None
    return reduction.arg


def _of(arg: Expr, row: Event) -> Any:
    assert isinstance(arg, Column)
    return row[arg.name]


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


def _overflows(value: Any, dtype: DType) -> bool:
    if value is _OVERFLOW:
        return True
    if dtype == Bool or isinstance(value, str | list | dict):
        return False
    if isinstance(dtype, DecimalType):
        return bool(abs(value) >= 10**dtype.precision)
    if is_integer(dtype):
        return not -(2**63) <= value < 2**63
    return not math.isfinite(value)
