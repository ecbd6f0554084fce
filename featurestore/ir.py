"""The plan: what definitions mean, frozen, in canonical JSON, with a fingerprint for each meaning.

Expressions in a plan are written over the source's own columns: `where` and `with_columns` of a source are folded into
them, so two ways to write one meaning are one plan. Times are integer microseconds.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, get_args

from featurestore import expectations as e
from featurestore.aggregates import AGGREGATES, Params, Reduction, ordered
from featurestore.expectations import Expectation
from featurestore.expr import Column, Expr, columns_of, describe, substitute
from featurestore.expr import from_json as expr_from_json
from featurestore.expr import to_json as expr_to_json
from featurestore.types import (
    DecimalType,
    DType,
    ListType,
    MapType,
    Scalar,
    VectorType,
    type_from_json,
    type_to_json,
)

LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Location:
    """Where rows lie: `kind` is parquet, csv, json, delta, iceberg, sql, files or kafka; `path` a glob, table or topic.

    Text may hold `${VARIABLE}`, which is read from the environment when rows are read, never before.
    """

    kind: str
    path: str
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class About:
    """What is said of a thing without changing a value: it takes no part in fingerprints."""

    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entity:
    """Who features are about. `keys` are the join keys with their types, in declared order."""

    name: str
    keys: tuple[tuple[str, DType], ...]
    about: About = About()


@dataclass(frozen=True, slots=True)
class Source:
    """One logical table of events, or, without `event_time`, a static one."""

    name: str
    location: Location
    columns: tuple[tuple[str, DType], ...]
    event_time: str | None = None
    arrival_time: str | None = None
    event_id: str | None = None
    tiebreak: tuple[str, ...] = ()
    stream: Location | None = None
    lateness: int | None = None
    about: About = About()
    expectations: tuple[Expectation, ...] = ()
    """What is expected of its rows. It takes no part in fingerprints."""

    @property
    def schema(self) -> dict[str, DType]:
        return dict(self.columns)


@dataclass(frozen=True, slots=True)
class Window:
    """`size` and `hop` in microseconds; size None is a lifetime."""

    size: int | None
    hop: int


@dataclass(frozen=True, slots=True)
class Key:
    """One join key of a view and the expression that gives it for an event."""

    name: str
    dtype: DType
    value: Expr


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature: an aggregate over a window, or, with `window` None, the latest value of its one input."""

    name: str
    aggregate: str
    inputs: tuple[Expr, ...]
    input_types: tuple[DType, ...]
    dtype: DType
    window: Window | None = None
    where: Expr | None = None
    default: bool | int | float | str | None = None
    params: Params = ()

    @property
    def partials(self) -> Mapping[str, Reduction]:
        """The partials of a windowed feature, over the placeholders of its aggregate."""
        return AGGREGATES[self.aggregate].partials_of(self.params)


@dataclass(frozen=True, slots=True)
class Erased:
    """Entities that were erased: pairs of what stands for a key, made with `salt` (see `compile.erased`), and when (µs).

    Their events of before that moment never count; of a static source, none do.
    """

    salt: str
    keys: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class View:
    """Features of one entity from one source. Features are in declared order; `ttl` in microseconds."""

    name: str
    entity: str
    keys: tuple[Key, ...]
    source: Source
    features: tuple[Feature, ...]
    filter: Expr | None = None
    ttl: int | None = None
    about: About = About()
    expectations: tuple[Expectation, ...] = ()
    """What is expected of its features' values."""
    erased: Erased | None = field(default=None, compare=False, repr=False)
    """What has to be left out of its events now. No part of what the view means, nor of the plan as JSON."""

    def feature(self, name: str) -> Feature:
        return next(f for f in self.features if f.name == name)

    @property
    def order(self) -> tuple[str, ...]:
        """The columns that break ties of event time: tiebreak, event id, then what the view reads, by name.

        What comes after the event id is for events without one, which are nobody's copies.
        """
        source = self.source
        named = tuple(dict.fromkeys([*source.tiebreak, *([source.event_id] if source.event_id else [])]))
        return (*named, *sorted(self.reads - {*named, source.event_time}))

    @property
    def copy_order(self) -> tuple[str, ...]:
        """Which copy of an event stays, should they differ: the one that arrived first, else the least of what is read.

        Copies that differ in a tiebreak alone fall differently among other events of their moment, so it is compared too.
        """
        arrived = self.source.arrival_time
        first = [arrived] if arrived is not None else []
        return tuple(dict.fromkeys([*first, *sorted(self.reads), *self.source.tiebreak]))

    @property
    def reads(self) -> frozenset[str]:
        """The source columns whose values this view's features, filter and keys are made of."""
        exprs = [key.value for key in self.keys]
        exprs += [self.filter] if self.filter is not None else []
        for f in self.features:
            exprs += [*f.inputs, *([f.where] if f.where is not None else [])]
        return frozenset().union(*(columns_of(e) for e in exprs))


@dataclass(frozen=True, slots=True)
class Read:
    """One column a service reads: a view's feature under an output name.

    `keys` pairs each join key of the view with the column of the spine or request that holds it. A `hidden` read is no
    column of the service: an on-demand feature takes it, before its default.
    """

    view: str
    feature: str
    output: str
    keys: tuple[tuple[str, str], ...]
    dtype: DType
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class PythonFunction:
    """A vectorised Python function where an expression should be: the marked escape hatch.

    No other engine can compute it, and nothing proves what it does. What stands for its meaning is its `source` from `def`
    on, the declared `version`, and what it takes from around it, `captured`: names with the values of constants, the full
    names of what is imported, the source of helpers.
    """

    name: str
    inputs: tuple[Expr, ...]
    input_types: tuple[DType, ...]
    source: str
    version: int = 1
    captured: tuple[tuple[str, str], ...] = ()
    call: Callable[..., object] | None = field(default=None, compare=False, repr=False)
    """The function itself, where definitions were loaded. A plan that was kept as JSON has none, and never makes one."""

    @property
    def identity(self) -> tuple[str, int, tuple[tuple[str, str], ...]]:
        """What tells it from any other function."""
        return self.source, self.version, self.captured


@dataclass(frozen=True, slots=True)
class OnDemand:
    """A feature computed at the moment of asking, from the outputs of hidden reads, request columns and `as_of()`."""

    name: str
    expression: Expr | PythonFunction
    dtype: DType
    default: bool | int | float | str | None = None

    @property
    def columns(self) -> frozenset[str]:
        """The columns that are read for it."""
        if isinstance(self.expression, PythonFunction):
            return frozenset().union(*map(columns_of, self.expression.inputs))
        return columns_of(self.expression)

    @property
    def is_python(self) -> bool:
        """Whether it is a Python function, which no other engine can compute."""
        return isinstance(self.expression, PythonFunction)

    @property
    def text(self) -> str:
        """One line that reads like the definition; a Python function is marked as one."""
        if not isinstance(self.expression, PythonFunction):
            return describe(self.expression)
        called = ", ".join(map(describe, self.expression.inputs))
        return f"python {self.expression.name}({called}) version {self.expression.version}"


@dataclass(frozen=True, slots=True)
class Scaling:
    """How a column of a service is scaled when it is asked for scaled; see `featurestore.scale`."""

    column: str
    kind: str
    numbers: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Capture:
    """How what a service gives is kept: the fraction, drawn by `entity` or by `request`, and for how long (µs; None: for good).

    `context` names columns that callers tell beside, with their types.
    """

    sample: float = 1.0
    by: str = "entity"
    retention: int | None = None
    context: tuple[tuple[str, DType], ...] = ()


@dataclass(frozen=True, slots=True)
class Label:
    """What came of a row at `ts`: `value`, over aggregates of its entity's events in `[ts + gap, ts + gap + horizon)`.

    `view` has the source, the entity and the aggregates, as features whose windows of `horizon` and a hop of 1 µs end at
    `ts + gap + horizon`: then the window of a feature is the range of the label. `value` is over their names.
    """

    name: str
    view: View
    value: Expr
    dtype: DType
    horizon: int
    gap: int = 0
    lateness: int = 0
    matures: str = "horizon"
    """`horizon`, or `first_event`: also once one event of the range has arrived."""
    observed: str = "as_of"
    """How far the source is taken to be complete: `as_of`, or `last_event`, its own."""
    about: About = About()

    @property
    def delay(self) -> int:
        """From a row's moment until its label is mature, at the latest, in microseconds."""
        return self.gap + self.horizon + self.lateness

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns of a row that say whose events count."""
        return tuple(k.name for k in self.view.keys)

    @property
    def text(self) -> str:
        """The value, as it could be written."""
        return describe(self.value)


@dataclass(frozen=True, slots=True)
class Service:
    """What one model reads, in this order."""

    name: str
    reads: tuple[Read, ...]
    max_staleness: int | None = None
    about: About = About()
    on_demand: tuple[OnDemand, ...] = ()
    request: tuple[tuple[str, DType], ...] = ()
    order: tuple[str, ...] = ()
    """The names of the columns in order; empty is the order of the reads."""
    scale: tuple[Scaling, ...] = ()
    deadline: int | None = None
    """Microseconds within which a read answers or fails."""
    on_unavailable: str = "fail"
    """What a read gives while the store does not answer: `fail`, `last_known` or `default`."""
    capture: Capture | None = None
    """Whether, and how, what it gives is kept; no part of what it means."""
    labels: tuple[str, ...] = ()
    """What a model learns to predict, by name: no part of what is served, so of no version."""
    expectations: tuple[Expectation, ...] = ()
    """What is expected of its vectors: no part of a version either."""

    @property
    def columns(self) -> tuple[tuple[str, DType], ...]:
        """What comes out: names and types, in order."""
        found = {r.output: r.dtype for r in self.reads if not r.hidden} | {
            o.name: o.dtype for o in self.on_demand
        }
        return tuple((name, found[name]) for name in (self.order or found))


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything one folder of definitions means, by name."""

    entities: tuple[Entity, ...] = ()
    sources: tuple[Source, ...] = ()
    views: tuple[View, ...] = ()
    services: tuple[Service, ...] = ()
    labels: tuple[Label, ...] = ()

    def view(self, name: str) -> View:
        return next(v for v in self.views if v.name == name)

    def service(self, name: str) -> Service:
        return next(s for s in self.services if s.name == name)

    def labels_of(self, service: str) -> tuple[Label, ...]:
        """The labels of a service, in its order; none of a service that is not there."""
        by_name = {label.name: label for label in self.labels}
        names = [n for s in self.services if s.name == service for n in s.labels]
        return tuple(by_name[n] for n in names)


Node = (
    Location
    | About
    | Entity
    | Source
    | Window
    | Key
    | Feature
    | View
    | Read
    | PythonFunction
    | OnDemand
    | Scaling
    | Expectation
    | e.NotNull
    | e.OfType
    | e.Matches
    | e.InSet
    | e.Between
    | e.Greater
    | e.Unique
    | e.Condition
    | e.Measure
    | e.Share
    | e.RowCount
    | e.Fresh
    | e.Schema
    | Capture
    | Label
    | Service
    | Plan
)
_NODES: dict[str, type[Any]] = {c.__name__: c for c in get_args(Node)}


def to_json(node: Node) -> dict[str, Any]:
    """A node as plain JSON values; `from_json` gives an equal node back."""
    encoded = _encode(node)
    assert isinstance(encoded, dict)
    return encoded


def from_json(value: Any) -> Any:
    """The node that `to_json` wrote."""
    if isinstance(value, list):
        return tuple(from_json(v) for v in value)
    if isinstance(value, dict):
        if "expr" in value:
            return expr_from_json(value["expr"])
        if "type" in value:
            return type_from_json(value["type"])
        return _NODES[value["node"]](**{k: from_json(v) for k, v in value.items() if k != "node"})
    return value


def _encode(value: object) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case tuple():
            return [_encode(v) for v in value]
        case Scalar() | DecimalType() | ListType() | VectorType() | MapType():
            return {"type": type_to_json(value)}
        case _ if type(value).__name__ in _NODES and is_dataclass(value):
            encoded = {f.name: _encode(getattr(value, f.name)) for f in fields(value) if f.compare}
            return {"node": type(value).__name__, **encoded}
        case _:
            return {"expr": expr_to_json(value)}  # type: ignore[arg-type]


def canonical(value: Any) -> str:
    """The one text of a JSON value: keys sorted, no spaces, no ASCII escapes, shortest floats."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """32 hex digits of the canonical text."""
    return hashlib.blake2b(canonical(value).encode(), digest_size=16).hexdigest()


def feature_meaning(view: View, feature: Feature) -> Mapping[str, Any]:
    """All that decides the values of one feature, and nothing that does not: the feature's fingerprint is its digest."""
    source = view.source
    schema = source.schema
    ties = feature.window is None or any(map(ordered, feature.partials.values()))
    exprs = [*feature.inputs, *(e for e in (feature.where, view.filter) if e), *(k.value for k in view.keys)]
    read = frozenset().union(*map(columns_of, exprs))
    marked = {
        "event_time": source.event_time,
        "event_id": source.event_id,
        "arrival_time": source.arrival_time,
    }
    order = view.order if ties else ()
    columns = sorted(read | set(order) | {c for c in marked.values() if c})
    return {
        "location": _place(source.location),
        "stream": None if source.stream is None else _place(source.stream),
        "lateness": source.lateness if source.stream else None,
        "columns": [[c, type_to_json(schema[c])] for c in columns],
        **marked,
        "order": list(order),
        "filter": _encode(view.filter),
        "keys": [_encode(k) for k in view.keys],
        "aggregate": feature.aggregate,
        **({"params": _encode(feature.params)} if feature.params else {}),
        "inputs": _encode(feature.inputs),
        "where": _encode(feature.where),
        "window": _encode(feature.window),
        "ttl": view.ttl if feature.window is None else None,
        "default": feature.default,
        "dtype": _encode(feature.dtype),
    }


def _place(location: Location) -> Any:
    """What a location says of the rows that lie there. How to get at them (brokers, certificates, who logs in) may change."""
    options = dict(location.options)
    said = {"format": options["format"]} if "format" in options else {}
    if "dsn" in options:
        said["dsn"] = re.sub(r"//[^/@]*@", "//", options["dsn"])
    return [location.kind, location.path, said]


def view_fingerprint(view: View) -> str:
    """Changes exactly when a value of the view can: not with names of files, order of features, owners or comments."""
    return digest({f.name: digest(feature_meaning(view, f)) for f in view.features})


def label_fingerprint(label: Label) -> str:
    """Changes exactly when a label can: with its value, its range, or when it counts as known."""
    view = label.view
    inputs: dict[str, Expr] = {f.name: Column(digest(feature_meaning(view, f))) for f in view.features}
    return digest(
        {
            "value": _encode(substitute(label.value, inputs)),
            "dtype": type_to_json(label.dtype),
            "range": [label.gap, label.horizon, label.lateness],
            "matures": label.matures,
            "observed": label.observed,
        }
    )


def column_meanings(service: Service, views: Mapping[str, View]) -> dict[str, str]:
    """What each column of a service means, by name: equal exactly where a value is made of the same things."""
    of = {
        r.output: digest(
            [
                [list(k) for k in r.keys],
                digest(feature_meaning(views[r.view], views[r.view].feature(r.feature))),
            ]
        )
        for r in service.reads
    }
    inputs: dict[str, Expr] = {r.output: Column(of[r.output]) for r in service.reads if r.hidden}
    asked = dict(service.request)
    computed = {
        o.name: digest(
            [
                _encode(_read_from(o.expression, inputs)),
                type_to_json(o.dtype),
                o.default,
                [[c, type_to_json(asked[c])] for c in sorted(o.columns) if c in asked],
            ]
        )
        for o in service.on_demand
    }
    return {**{r.output: of[r.output] for r in service.reads if not r.hidden}, **computed}


def service_fingerprint(service: Service, views: Mapping[str, View]) -> str:
    """Changes exactly when a vector of the service can: its columns, their order, or the meaning of one."""
    meanings = {
        r.output: [
            [list(k) for k in r.keys],
            digest(feature_meaning(views[r.view], views[r.view].feature(r.feature))),
        ]
        for r in service.reads
    }
    reads = [[r.output, *meanings[r.output]] for r in service.reads if not r.hidden]
    said: dict[str, Any] = {"reads": reads, "max_staleness": service.max_staleness}
    if service.deadline is not None:
        said["deadline"] = service.deadline
    if service.on_unavailable != "fail":
        said["on_unavailable"] = service.on_unavailable
    if service.on_demand:
        inputs: dict[str, Expr] = {
            r.output: Column(digest(meanings[r.output])) for r in service.reads if r.hidden
        }
        said["order"] = list(service.order)
        said["request"] = [[name, type_to_json(dtype)] for name, dtype in service.request]
        said["on_demand"] = [
            [o.name, _encode(_read_from(o.expression, inputs)), type_to_json(o.dtype), o.default]
            for o in service.on_demand
        ]
    if service.scale:
        said["scale"] = [[s.column, s.kind, list(s.numbers)] for s in service.scale]
    return digest(said)


def _read_from(expression: Expr | PythonFunction, inputs: Mapping[str, Expr]) -> Expr | PythonFunction:
    if isinstance(expression, PythonFunction):
        return replace(expression, inputs=tuple(substitute(i, inputs) for i in expression.inputs))
    return substitute(expression, inputs)
