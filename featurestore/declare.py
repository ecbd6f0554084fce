"""What a user writes: plain values with explicit names, each remembering the line it was written on.

Nothing is checked here beyond what Python itself refuses; `lower` reads the whole folder and reports every mistake at once.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, overload

from featurestore.errors import Where
from featurestore.expr import Column, Expression, Operand, col, columns_of, describe
from featurestore.scale import Scale
from featurestore.time import Duration, Lifetime, days, hours, lifetime
from featurestore.types import DType

_PACKAGE = str(Path(__file__).parent)


def _here() -> Where:
    """The line outside this package that is being executed."""
    frame = sys._getframe(1)  # noqa: SLF001  inspect.stack() reads source files and costs milliseconds
    while frame.f_back is not None and (
        frame.f_code.co_filename.startswith(_PACKAGE) or frame.f_code.co_filename == "<string>"
    ):
        frame = frame.f_back
    return Where(frame.f_code.co_filename, frame.f_lineno)


def _where() -> Any:
    return field(default_factory=_here, compare=False, repr=False, kw_only=True)


Input = str | Expression


# ---------------------------------------------------------------------------------------------------- where rows lie


@dataclass(frozen=True)
class Parquet:
    """Parquet files: a path or glob, relative to the folder of `fs.toml`."""

    path: str


@dataclass(frozen=True)
class Csv:
    """CSV files with a header: a path or glob, relative to the folder of `fs.toml`."""

    path: str


@dataclass(frozen=True)
class Json:
    """Files of newline-delimited JSON objects: a path or glob, relative to the folder of `fs.toml`."""

    path: str


@dataclass(frozen=True)
class Delta:
    """A Delta Lake table; wants DuckDB's `delta` extension."""

    path: str


@dataclass(frozen=True)
class Iceberg:
    """An Iceberg table; wants DuckDB's `iceberg` extension."""

    table: str


@dataclass(frozen=True)
class Sql:
    """A query on another database: `postgresql://…` or `sqlite:///…`. The rows of `query` are the source."""

    dsn: str
    query: str


@dataclass(frozen=True)
class Files:
    """A directory that event files arrive in."""

    dir: str


@dataclass(frozen=True)
class Kafka:
    """A topic of events."""

    topic: str
    bootstrap: str = "${KAFKA_BOOTSTRAP}"
    format: Literal["json", "avro"] = "json"
    properties: Mapping[str, str] = field(default_factory=dict)


At = Parquet | Csv | Json | Delta | Iceberg | Sql
Wire = Files | Kafka


# ------------------------------------------------------------------------------------------------ entities and sources


class _Shown:
    """A declaration is a small table in a notebook."""

    def _repr_html_(self) -> str:
        from featurestore.declared import declaration_html

        return declaration_html(self)


@dataclass(frozen=True)
class Entity(_Shown):
    """Who features are about: a name and its join keys. The types of the keys come from the sources.

    `key` names one join key, `keys` several; exactly one of the two is given.
    """

    name: str
    key: str | None = None
    keys: tuple[str, ...] = ()
    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()
    line: Where = _where()

    @property
    def join_keys(self) -> tuple[str, ...]:
        return (self.key,) if self.key is not None else tuple(self.keys)


class _Steps:
    """What batch and stream sources share: columns by name, filtering and widening."""

    def where(self, condition: Expression) -> Derived:
        """The events for which `condition` is true (NULL is not)."""
        return Derived(self, (condition,))  # type: ignore[arg-type]

    def with_columns(self, **columns: Expression) -> Derived:
        """The same events with more columns."""
        return Derived(self, (columns,))  # type: ignore[arg-type]

    def __getitem__(self, column: str) -> Expression:
        return col(column)


@dataclass(frozen=True)
class BatchSource(_Shown, _Steps):
    """Events (or, without `event_time`, static rows) in files or a table.

    Without `columns` they are inferred from the files and pinned when applied. `tiebreak` columns, then `event_id`, order
    events of one microsecond; `event_id` also marks duplicates.
    """

    name: str
    batch: At
    event_time: str | None = None
    columns: Mapping[str, DType] | None = None
    arrival_time: str | None = None
    event_id: str | None = None
    tiebreak: Sequence[str] = ()
    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()
    expectations: Sequence[object] = ()
    line: Where = _where()


@dataclass(frozen=True)
class StreamSource(_Shown, _Steps):
    """One logical event source in its two places: at rest (`batch`) and on the wire (`stream`)."""

    name: str
    batch: At
    stream: Wire
    event_time: str
    columns: Mapping[str, DType]
    arrival_time: str | None = None
    event_id: str | None = None
    tiebreak: Sequence[str] = ()
    lateness: Duration = field(default_factory=lambda: hours(1))
    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()
    expectations: Sequence[object] = ()
    line: Where = _where()


@dataclass(frozen=True)
class Derived(_Steps):
    """A source after `where` and `with_columns`: the steps so far, in order."""

    base: BatchSource | StreamSource | Derived
    steps: tuple[Expression | Mapping[str, Expression], ...]
    line: Where = _where()


AnySource = BatchSource | StreamSource | Derived


# ------------------------------------------------------------------------------------------------------------ features


@dataclass(frozen=True)
class Aggregation(Operand):
    """An aggregate of inputs: `.over(…)` windows, for the rows `.where(…)`, with a `.default(…)`, `.named(…)`.

    In the value of a label it is an operand: `count() > 0`, `sum("amount") / count()`.
    """

    aggregate: str
    inputs: tuple[Input, ...] = ()
    windows: tuple[Duration | Lifetime, ...] = ()
    hop: Duration | None = None
    condition: Expression | None = None
    fallback: bool | int | float | str | None = None
    label: str | None = None
    params: tuple[tuple[str, int | float], ...] = ()
    line: Where = _where()

    def over(self, *windows: Duration | Lifetime, hop: Duration | None = None) -> Aggregation:
        """One feature for each window. Without `hop` each window has the default one."""
        return replace(self, windows=windows, hop=hop)

    def where(self, condition: Expression) -> Aggregation:
        """Only the events for which `condition` is true (NULL is not). Conditions add up."""
        both = condition if self.condition is None else self.condition & condition
        return replace(self, condition=both)

    def default(self, value: bool | int | float | str) -> Aggregation:
        """The value in place of NULL, in training and serving alike."""
        return replace(self, fallback=value)

    def named(self, name: str) -> Aggregation:
        """The whole name with one window, the stem with several."""
        return replace(self, label=name)

    @property
    def expression(self) -> Expression:
        """This aggregate as part of an expression."""
        return Expression(AggregateColumn(str(self), self))

    def __eq__(self, other: object) -> Any:
        """Whether two declarations say the same; beside a constant or an expression, an expression."""
        if isinstance(other, Aggregation):
            return str(self) == str(other) and (self.windows, self.hop, self.label) == (
                other.windows,
                other.hop,
                other.label,
            )
        return (
            self.expression == other if isinstance(other, int | float | str | Expression) else NotImplemented
        )

    def __ne__(self, other: object) -> Any:
        same = self.__eq__(other)
        return ~same if isinstance(same, Expression) else same if same is NotImplemented else not same

    def __hash__(self) -> int:
        return hash((str(self), self.windows, self.hop, self.label))

    def __str__(self) -> str:
        inputs = [x if isinstance(x, str) else describe(x.node) for x in self.inputs]
        text = f"{self.aggregate}({', '.join([*inputs, *(f'{n}={v}' for n, v in self.params)])})"
        if self.condition is not None:
            text += f".where({describe(self.condition.node)})"
        return text if self.fallback is None else f"{text}.default({self.fallback!r})"


@dataclass(frozen=True, slots=True)
class AggregateColumn(Column):
    """An aggregate where an expression has a column. Its text is its name: two that say the same are one."""

    spec: Aggregation = field(compare=False, repr=False)


def count(x: Input | None = None) -> Aggregation:
    """How many events, or how many with a non-null `x`. 0 of none."""
    return Aggregation("count", () if x is None else (x,))


def sum(x: Input) -> Aggregation:
    """The sum of `x`. NULL of none; whole numbers exactly, or NULL with status OVERFLOW past 64 bits."""
    return Aggregation("sum", (x,))


def mean(x: Input) -> Aggregation:
    """The mean of `x` as Float64. NULL of none."""
    return Aggregation("mean", (x,))


def min(x: Input) -> Aggregation:
    """The least `x`. NULL of none."""
    return Aggregation("min", (x,))


def max(x: Input) -> Aggregation:
    """The greatest `x`. NULL of none."""
    return Aggregation("max", (x,))


def var_pop(x: Input) -> Aggregation:
    """The variance of `x`, divided by n. NULL of none."""
    return Aggregation("var_pop", (x,))


def var_samp(x: Input) -> Aggregation:
    """The variance of `x`, divided by n - 1. NULL of fewer than two."""
    return Aggregation("var_samp", (x,))


def stddev_pop(x: Input) -> Aggregation:
    """The square root of `var_pop`."""
    return Aggregation("stddev_pop", (x,))


def stddev_samp(x: Input) -> Aggregation:
    """The square root of `var_samp`."""
    return Aggregation("stddev_samp", (x,))


def skew(x: Input) -> Aggregation:
    """The skewness of `x`, of the population. NULL of equal values."""
    return Aggregation("skew", (x,))


def kurtosis(x: Input) -> Aggregation:
    """The excess kurtosis of `x`, of the population: 0 for a normal distribution. NULL of equal values."""
    return Aggregation("kurtosis", (x,))


def first(x: Input) -> Aggregation:
    """The first non-null `x` in the window."""
    return Aggregation("first", (x,))


def last(x: Input) -> Aggregation:
    """The last non-null `x` in the window."""
    return Aggregation("last", (x,))


def min_by(x: Input, by: Input) -> Aggregation:
    """The `x`, NULL included, of the event with the least non-null `by`; the earliest of several."""
    return Aggregation("min_by", (x, by))


def max_by(x: Input, by: Input) -> Aggregation:
    """The `x`, NULL included, of the event with the greatest non-null `by`; the earliest of several."""
    return Aggregation("max_by", (x, by))


def first_k(x: Input, k: int) -> Aggregation:
    """The first `k` non-null `x`, in the order of events. [] of none."""
    return Aggregation("first_k", (x,), params=(("k", k),))


def last_k(x: Input, k: int) -> Aggregation:
    """The last `k` non-null `x`, in the order of events: the oldest first. [] of none."""
    return Aggregation("last_k", (x,), params=(("k", k),))


def largest_k(x: Input, k: int) -> Aggregation:
    """The `k` greatest `x`, the greatest first; equal ones as often as they come. [] of none."""
    return Aggregation("largest_k", (x,), params=(("k", k),))


def smallest_k(x: Input, k: int) -> Aggregation:
    """The `k` least `x`, the least first; equal ones as often as they come. [] of none."""
    return Aggregation("smallest_k", (x,), params=(("k", k),))


def count_distinct(x: Input, k: int = 1024) -> Aggregation:
    """How many distinct `x`. 0 of none; exact up to `k`, then an estimate with a standard error of 1 / sqrt(k - 2)."""
    return Aggregation("count_distinct", (x,), params=(("k", k),))


def quantile(x: Input, p: float) -> Aggregation:
    """The `x` of rank ceil(p x n), as Float64, to within 0.4 % of itself. NULL of none."""
    return Aggregation("quantile", (x,), params=(("p", p),))


def most_frequent(x: Input, k: int = 1, bound: int = 1000) -> Aggregation:
    """The `k` most frequent `x`, the lesser first of two. [] of none; NULL, OVERFLOW past `bound` distinct values."""
    return Aggregation("most_frequent", (x,), params=(("k", k), ("bound", bound)))


def histogram(x: Input, bound: int = 1000) -> Aggregation:
    """How often each `x` comes. {} of none; NULL, status OVERFLOW past `bound` distinct values."""
    return Aggregation("histogram", (x,), params=(("bound", bound),))


def latest(x: Input) -> Aggregation:
    """The `x` of the latest event before the moment asked for, NULL included."""
    return Aggregation("latest", (x,))


# --------------------------------------------------------------------------------------------------- views and services


@dataclass(frozen=True)
class FeatureView(_Shown):
    """Features of one entity from one source. `ttl` bounds how old a latest value may be."""

    name: str
    entity: Entity
    source: AnySource
    features: Sequence[Aggregation]
    ttl: Duration | None = None
    description: str = ""
    owner: str = ""
    tags: Sequence[str] = ()
    expectations: Sequence[object] = ()
    line: Where = _where()

    def on(self, prefix: str = "", **columns: str) -> ViewOn:
        """This view looked up by other columns: `view.on(airport="dest", prefix="dest_")`.

        `columns` names, for a join key, the column of the spine or request that holds it; `prefix` goes before the
        names of the features.
        """
        return ViewOn(self, tuple(columns.items()), prefix)

    @overload
    def __getitem__(self, features: str) -> FeatureRef: ...
    @overload
    def __getitem__(self, features: tuple[str, ...]) -> ViewOn: ...
    def __getitem__(self, features: str | tuple[str, ...]) -> FeatureRef | ViewOn:
        return self.on()[features]


@dataclass(frozen=True)
class ViewOn:
    """A view, or some of its features, with the columns its join keys are looked up by."""

    view: FeatureView
    columns: tuple[tuple[str, str], ...] = ()
    prefix: str = ""
    features: tuple[str, ...] | None = None
    line: Where = _where()

    @overload
    def __getitem__(self, features: str) -> FeatureRef: ...
    @overload
    def __getitem__(self, features: tuple[str, ...]) -> ViewOn: ...
    def __getitem__(self, features: str | tuple[str, ...]) -> FeatureRef | ViewOn:
        if isinstance(features, str):
            return FeatureRef(replace(self, features=(features,)))
        return replace(self, features=tuple(features))


class FeatureRef(Expression):
    """One feature of a view: what a service may read, and what an on-demand expression may be made of.

    In an expression it is the column `view.feature`, or `view[key=column].feature` when the view is looked up by other
    columns.
    """

    __slots__ = ("on",)

    def __init__(self, on: ViewOn) -> None:
        assert on.features is not None
        columns = ",".join(f"{key}={column}" for key, column in sorted(on.columns))
        lookup = f"[{columns}]" if columns else ""
        super().__init__(Column(f"{on.view.name}{lookup}.{on.features[0]}"))
        self.on = on


@dataclass(frozen=True)
class RequestSource(_Shown):
    """Values that come with a request; in a training set they are columns of the spine."""

    name: str
    columns: Mapping[str, DType]
    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()
    line: Where = _where()

    def __getitem__(self, column: str) -> Expression:
        return col(column)


@dataclass(frozen=True, eq=False)
class PythonFunction:
    """What `@python(…)` makes of a function; called, it is the function. `source` is its text, None where there is none."""

    function: Callable[..., object]
    inputs: tuple[Expression, ...]
    dtype: DType
    version: int
    source: str | None
    line: Where = _where()

    def __call__(self, *columns: object) -> object:
        return self.function(*columns)

    def __str__(self) -> str:
        called = ", ".join(str(i) for i in self.inputs)
        return f"python {getattr(self.function, '__name__', self.function)}({called}) version {self.version}"


def python(
    *, inputs: Sequence[Expression], dtype: DType, version: int = 1
) -> Callable[[Callable[..., object]], PythonFunction]:
    """A vectorised Python function in place of an on-demand expression: for what expressions cannot say.

    The function is called once for all rows, in training and serving alike, with `Values` for each of `inputs`: request
    columns, features (before their defaults), `as_of()`, or expressions over these. It returns an array of as many values
    of `dtype`, NULL where any input is NULL; or a pair of values and a mask of what is not NULL; or `Values`, or an Arrow
    array, which say what is NULL themselves. Each row's value must depend on this row alone: `fs verify` checks that.

    What it means is known by its source and by `version` alone: raise `version` when something it calls has changed.
    """

    def made(function: Callable[..., object]) -> PythonFunction:
        return PythonFunction(function, tuple(inputs), dtype, version, source_of(function))

    return made


def source_of(function: Callable[..., object]) -> str | None:
    """A function's text from `def` on, without decorators and indentation; None where it cannot be read."""
    try:
        lines, _ = inspect.getsourcelines(function)
    except (OSError, TypeError):
        return None
    start = next((i for i, line in enumerate(lines) if line.lstrip().startswith("def ")), None)
    if start is None:
        return None
    indent = len(lines[start]) - len(lines[start].lstrip())
    return "\n".join(
        line[indent:].rstrip() if line[:indent].isspace() or not indent else line.strip()
        for line in lines[start:]
    ).rstrip()


@dataclass(frozen=True)
class OnDemand(_Shown):
    """A feature computed when it is asked for, from request columns, features and `as_of()`.

    By one expression, or by a Python function, which `@python(…)` makes. Features are taken before their defaults;
    `default` stands in where the outcome is NULL.
    """

    name: str
    expression: Expression | PythonFunction
    default: bool | int | float | str | None = None
    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()
    line: Where = _where()

    @property
    def columns(self) -> frozenset[str]:
        """What it reads: request columns, and features as `view.feature`."""
        parts = self.expression.inputs if isinstance(self.expression, PythonFunction) else (self.expression,)
        return frozenset[str]().union(*(columns_of(p.node) for p in parts if isinstance(p, Expression)))


@dataclass(frozen=True)
class Capture:
    """Log and wait: what a service gives is kept as it was served, to be trained on when labels have come.

    `sample` is the fraction that is kept: of entities, each with all its requests or none, or of requests. `context` names
    columns that callers tell beside (a model, the arm of an experiment, a position, a propensity), with their types; others
    may be told, too.
    """

    sample: float = 1.0
    by: Literal["entity", "request"] = "entity"
    retention: Duration | None = days(90)
    context: Mapping[str, DType] = field(default_factory=dict)


@dataclass(frozen=True)
class Label(_Shown):
    """What came of a row: an expression over aggregates of the events of its entity after the row's moment.

    The events with `ts + gap <= event time < ts + gap + horizon` count, for a row at `ts`. The label is mature once
    `lateness` has gone by since the horizon's end; with `matures="first_event"` also as soon as one such event has arrived.
    `observed` says how far the source is taken to be complete: up to the moment the set is made as of, or only up to its
    last event; a row whose horizon ends after that is censored.
    """

    name: str
    source: AnySource
    entity: Entity
    value: Expression | Aggregation
    horizon: Duration | timedelta
    gap: Duration | timedelta | None = None
    lateness: Duration | timedelta | None = None
    matures: Literal["horizon", "first_event"] = "horizon"
    observed: Literal["as_of", "last_event"] = "as_of"
    description: str = ""
    owner: str = ""
    tags: Sequence[str] = ()
    line: Where = _where()


@dataclass(frozen=True)
class FeatureService(_Shown):
    """What one model reads, in this order. Immutable once it has served; an edit becomes the next version.

    `label` is what the model learns to predict, one or several: no part of what is served.
    """

    name: str
    features: Sequence[FeatureView | ViewOn | FeatureRef | OnDemand]
    label: Label | Sequence[Label] | None = None
    scale: Scale | Mapping[str, Scale] | None = None
    capture: Capture | None = None
    expectations: Sequence[object] = ()
    max_staleness: Duration | None = None
    deadline: Duration | None = None
    on_unavailable: Literal["fail", "last_known", "default"] = "fail"
    description: str = ""
    owner: str = ""
    tags: Sequence[str] = ()
    line: Where = _where()

    @property
    def labels(self) -> tuple[object, ...]:
        """What was given as `label`, as several."""
        if self.label is None:
            return ()
        return tuple(self.label) if isinstance(self.label, list | tuple) else (self.label,)


Declaration = (
    Entity | BatchSource | StreamSource | RequestSource | FeatureView | OnDemand | Label | FeatureService
)


def declarations_in(values: Iterable[object]) -> list[Declaration]:
    """The declarations among values of a module, each once, with the sources and entities that views refer to."""
    found: dict[int, Declaration] = {}

    def add(value: object) -> None:
        match value:
            case Entity() | BatchSource() | StreamSource() | RequestSource() | OnDemand():
                found.setdefault(id(value), value)
            case Derived(base=base):
                add(base)
            case FeatureView(entity=entity, source=source) | Label(entity=entity, source=source):
                add(entity)
                add(source)
                found.setdefault(id(value), value)
            case FeatureRef():
                add(value.on)
            case ViewOn(view=view):
                add(view)
            case FeatureService(features=features):
                for item in (*features, *value.labels):
                    add(item)
                found.setdefault(id(value), value)
            case list() | tuple():
                for item in value:
                    add(item)
            case _:
                pass

    for value in values:
        add(value)
    return list(found.values())


__all__ = [
    "AggregateColumn",
    "Aggregation",
    "AnySource",
    "At",
    "BatchSource",
    "Capture",
    "Csv",
    "Declaration",
    "Delta",
    "Derived",
    "Entity",
    "FeatureRef",
    "FeatureService",
    "FeatureView",
    "Files",
    "Iceberg",
    "Json",
    "Kafka",
    "Label",
    "OnDemand",
    "Parquet",
    "PythonFunction",
    "RequestSource",
    "Sql",
    "StreamSource",
    "ViewOn",
    "Wire",
    "count",
    "count_distinct",
    "declarations_in",
    "first",
    "first_k",
    "histogram",
    "kurtosis",
    "largest_k",
    "last",
    "last_k",
    "latest",
    "lifetime",
    "max",
    "max_by",
    "mean",
    "min",
    "min_by",
    "most_frequent",
    "python",
    "quantile",
    "skew",
    "smallest_k",
    "source_of",
    "stddev_pop",
    "stddev_samp",
    "sum",
    "var_pop",
    "var_samp",
]
