"""From declarations to a plan: every mistake found and reported at once, each with its line and what would work."""

from __future__ import annotations

import decimal
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, assert_never

from featurestore import declare as d
from featurestore import ir
from featurestore.aggregates import AGGREGATES
from featurestore.errors import DefinitionError, Problem, SourceError, Where, nearest
from featurestore.expr import (
    Column,
    Expr,
    ExprError,
    Expression,
    col,
    columns_of,
    describe,
    infer,
    substitute,
)
from featurestore.functions import Untold, told
from featurestore.lower_expectations import lower_expectations
from featurestore.lower_label import labels_of_service, lower_label
from featurestore.scale import Scale
from featurestore.time import Duration, Lifetime, default_hop, duration_text
from featurestore.types import (
    Bool,
    DecimalType,
    DType,
    Float32,
    Int32,
    Int64,
    ListType,
    Scalar,
    String,
    Timestamp,
    VectorType,
    is_float,
    is_integer,
    is_numeric,
)

Schema = Mapping[str, DType]
SchemaOf = Callable[[d.BatchSource | d.StreamSource], Schema]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_KEY_TYPES = (Int64, Int32, String)


def lower(declarations: Sequence[d.Declaration], schema_of: SchemaOf) -> ir.Plan:
    """The plan that the declarations mean.

    `schema_of` gives the columns of a source that declares none. Raises DefinitionError with all problems, in the order
    of files and lines.
    """
    return Lowering(schema_of).plan(declarations)


@dataclass
class Lowering:
    """One load: what was found so far, and what was wrong with it."""

    schema_of: SchemaOf
    problems: list[Problem] = field(default_factory=list)
    schemas: dict[str, Schema | None] = field(default_factory=dict)

    def plan(self, declarations: Sequence[d.Declaration]) -> ir.Plan:
        entities = [x for x in declarations if isinstance(x, d.Entity)]
        sources = [x for x in declarations if isinstance(x, d.BatchSource | d.StreamSource)]
        views = [x for x in declarations if isinstance(x, d.FeatureView)]
        services = [x for x in declarations if isinstance(x, d.FeatureService)]
        requests = [x for x in declarations if isinstance(x, d.RequestSource)]
        computed = [x for x in declarations if isinstance(x, d.OnDemand)]
        labels = [x for x in declarations if isinstance(x, d.Label)]
        for kind, named in (
            ("request source", requests),
            ("on-demand feature", computed),
            ("entity", entities),
            ("source", sources),
            ("feature view", views),
            ("label", labels),
            ("feature service", services),
        ):
            self._names(kind, [(x.name, x.line) for x in named])
        for entity in entities:
            self._entity(entity)
        lowered_sources = {s.name: self._source(s) for s in sources}
        lowered_views = {v.name: self._view(v, lowered_sources) for v in views}
        request = self._request(requests)
        on_demand = {o.name: self._on_demand(o, lowered_views, request) for o in computed}
        lowered_labels = {x.name: lower_label(self, x, lowered_sources) for x in labels}
        lowered_services = [self._service(s, lowered_views, on_demand, lowered_labels) for s in services]
        about: list[tuple[d.FeatureView | d.Label, ir.View | None]]
        about = [(v, lowered_views[v.name]) for v in views]
        about += [(x, None if (y := lowered_labels[x.name]) is None else y.view) for x in labels]
        lowered_entities = [self._typed_entity(e, about) for e in entities]
        if self.problems:
            raise DefinitionError(sorted(set(self.problems), key=_by_line))
        return ir.Plan(
            entities=_sorted(lowered_entities),
            sources=_sorted(lowered_sources.values()),
            views=_sorted(lowered_views.values()),
            services=_sorted(lowered_services),
            labels=_sorted(lowered_labels.values()),
        )

    def about(self, x: d.Label) -> ir.About:
        return _about(x)

    def wrong(self, line: Where, what: str, *help: str) -> None:
        self.problems.append(Problem(what, line, help))

    def _names(self, kind: str, named: Sequence[tuple[str, Where]]) -> None:
        seen: dict[str, Where] = {}
        for name, line in named:
            if not isinstance(name, str) or not _NAME.match(name) or "__" in name:
                self.wrong(
                    line,
                    f"{kind} name {name!r} is not a name",
                    "a name is letters, digits and single underscores, and begins with a letter",
                )
            if name in seen:
                self.wrong(line, f"{kind} '{name}' is declared twice", f"the first is at {seen[name]}")
            seen.setdefault(name, line)

    # ------------------------------------------------------------------------------------------ entities and sources

    def _entity(self, entity: d.Entity) -> None:
        if (entity.key is None) == (not entity.keys):
            self.wrong(
                entity.line,
                f"entity '{entity.name}' needs its join key",
                'give key="card_id", or keys=("origin", "dest") for several; one of the two',
            )
        if len(set(entity.join_keys)) != len(entity.join_keys):
            self.wrong(entity.line, f"entity '{entity.name}' names a join key twice")

    def _typed_entity(
        self, entity: d.Entity, about: Sequence[tuple[d.FeatureView | d.Label, ir.View | None]]
    ) -> ir.Entity | None:
        """The entity with the types its views and labels give its keys, which have to agree."""
        types: dict[str, tuple[DType, str]] = {}
        for view, plan in about:
            if view.entity is not entity or plan is None:
                continue
            who = f"{'label' if isinstance(view, d.Label) else 'feature view'} '{view.name}'"
            for key in plan.keys:
                known, by = types.setdefault(key.name, (key.dtype, who))
                if known != key.dtype:
                    self.wrong(
                        view.line,
                        f"join key '{key.name}' of entity '{entity.name}' has two types",
                        f"{by} reads {known}, {who} reads {key.dtype}",
                        "cast one of them with source.with_columns(…)",
                    )
        keys = tuple((k, types[k][0]) for k in entity.join_keys if k in types)
        return ir.Entity(entity.name, keys, _about(entity))

    def _schema(self, source: d.BatchSource | d.StreamSource) -> Schema | None:
        if source.name not in self.schemas:
            try:
                self.schemas[source.name] = (
                    source.columns if source.columns is not None else self.schema_of(source)
                )
            except SourceError as error:
                head, *rest = str(error).splitlines()
                self.wrong(source.line, f"source '{source.name}': {head}", *(line.strip() for line in rest))
                self.schemas[source.name] = None
        return self.schemas[source.name]

    def _source(self, source: d.BatchSource | d.StreamSource) -> ir.Source | None:
        schema = self._schema(source)
        if schema is None:
            return None
        before = len(self.problems)
        self._secrets(source)
        for role in ("event_time", "arrival_time"):
            column = getattr(source, role)
            why = f"source '{source.name}' has it as {role}"
            if column is None or not self._column(source.line, column, schema, why):
                continue
            if schema[column] != Timestamp:
                self.wrong(
                    source.line,
                    f"{role} '{column}' of source '{source.name}' is {schema[column]}, not Timestamp",
                    "declare it so in columns={…}, or write the files with a timestamp type",
                )
        for column in [*source.tiebreak, *([source.event_id] if source.event_id else [])]:
            self._column(source.line, column, schema, f"source '{source.name}' orders events by it")
        if source.event_time is None and source.arrival_time is not None:
            self.wrong(
                source.line,
                f"source '{source.name}' has an arrival time but no event time",
                "name the event_time, or drop arrival_time: a static source is visible always",
            )
        event_time = source.event_time
        who, declared = f"source '{source.name}'", source.expectations
        expected = lower_expectations(self, source.line, who, declared, schema, event_time=event_time)
        if len(self.problems) > before:
            return None
        stream, lateness = None, None
        if isinstance(source, d.StreamSource):
            stream, lateness = location_of(source.stream), source.lateness.microseconds
        return ir.Source(
            name=source.name,
            location=location_of(source.batch),
            columns=tuple(sorted(schema.items())),
            event_time=source.event_time,
            arrival_time=source.arrival_time,
            event_id=source.event_id,
            tiebreak=tuple(source.tiebreak),
            stream=stream,
            lateness=lateness,
            about=_about(source),
            expectations=expected,
        )

    def _secrets(self, source: d.BatchSource | d.StreamSource) -> None:
        """A plan is kept in the registry and shown to people: what logs in belongs into the environment."""
        places = [source.batch, *([source.stream] if isinstance(source, d.StreamSource) else [])]
        for name, text in (option for at in places for option in location_of(at).options):
            login = re.match(r"[a-z0-9+]+://[^/@]*:([^/@]*)@", text)
            secret = text if re.search(r"passw|secret|token|sasl.jaas", name) else login[1] if login else None
            if secret and "${" not in secret:
                self.wrong(
                    source.line,
                    f"source '{source.name}' has a password written out in {name.removeprefix('property.')}",
                    "put it into the environment and name it there: ${VARIABLE}",
                )

    def _column(self, line: Where, name: str, schema: Schema, why: str) -> bool:
        if name in schema:
            return True
        self.wrong(
            line,
            f"unknown column '{name}'",
            f"{why}, but there is {', '.join(sorted(schema))}",
            *(h for h in nearest(name, schema) if h.startswith("did")),
        )
        return False

    # ------------------------------------------------------------------------------------------------------- views

    def _view(self, view: d.FeatureView, sources: Mapping[str, ir.Source | None]) -> ir.View | None:
        before = len(self.problems)
        who = f"feature view '{view.name}'"
        scoped = self.scoped(view.line, who, view.source, sources)
        if scoped is None:
            return None
        source, scope, kept = scoped
        keys = [self.key(view.line, who, view.entity.name, name, scope) for name in view.entity.join_keys]
        features = [f for spec in view.features for f in self.features(view.line, who, spec, scope, source)]
        self._feature_names(view, features)
        columns = {k.name: k.dtype for k in keys if k} | {f.name: f.dtype for _, f in features}
        expected = lower_expectations(self, view.line, who, view.expectations, columns, stored=False)
        if view.ttl is not None and any(f.window is not None for _, f in features):
            self.wrong(
                view.line,
                f"{who} has a ttl, and windows, which forget by themselves",
                "put latest(…) values with a ttl into a view of their own",
            )
        if not features and not view.features:
            self.wrong(
                view.line, f"{who} has no features", "give it at least one, such as count().over(days(7))"
            )
        if len(self.problems) > before:
            return None
        ttl = None if view.ttl is None else view.ttl.microseconds
        return ir.View(
            name=view.name,
            entity=view.entity.name,
            keys=tuple(k for k in keys if k),
            source=source,
            features=tuple(f for _, f in features),
            filter=kept,
            ttl=ttl,
            about=_about(view),
            expectations=expected,
        )

    def scoped(
        self, line: Where, who: str, given: d.AnySource, sources: Mapping[str, ir.Source | None]
    ) -> tuple[ir.Source, Scope, Expr | None] | None:
        """The source, the columns that `who` may name, and the filter of all its steps; None where the source is broken."""
        steps, base = _steps(given)
        source = sources.get(base.name)
        if source is None:
            return None
        scope = Scope(dict(source.schema), {})
        filters: list[Expr] = []
        for step in steps:
            if isinstance(step, Expression):
                why = f"{who} filters source '{source.name}' by it"
                condition = self._expression(line, step, scope, why)
                if condition is not None and self._is_bool(line, condition, scope, f"the filter of {who}"):
                    filters.append(substitute(condition, scope.derived))
                continue
            new: dict[str, tuple[Expr, DType]] = {}
            for name, expression in step.items():
                node = self._expression(line, expression, scope, f"{who} reads column '{name}' made of it")
                if node is not None:
                    new[name] = (substitute(node, scope.derived), infer(node, scope.schema))
            scope = scope.wider(new)
        both = filters[0] if filters else None
        for more in filters[1:]:
            assert both is not None
            both = (Expression(both) & Expression(more)).node
        return source, scope, both

    def key(self, line: Where, who: str, entity: str, name: str, scope: Scope) -> ir.Key | None:
        if not self._column(line, name, scope.schema, f"{who} looks entity '{entity}' up by it"):
            return None
        dtype = scope.schema[name]
        if dtype not in _KEY_TYPES:
            self.wrong(
                line,
                f"join key '{name}' of {who} is {dtype}",
                "a join key is Int64, Int32 or String; cast it with source.with_columns(…)",
            )
            return None
        return ir.Key(name, Int64 if is_integer(dtype) else dtype, substitute(Column(name), scope.derived))

    def features(
        self, line: Where, who: str, spec: d.Aggregation, scope: Scope, source: ir.Source
    ) -> Iterable[tuple[Where, ir.Feature]]:
        """The features that an aggregate with its windows is, each with its line."""
        if not isinstance(spec, d.Aggregation):
            self.wrong(
                line,
                f"{who} holds {spec!r}, which is not a feature",
                'features are written as count().over(days(7)) or latest("seats")',
            )
            return
        aggregate = spec.aggregate
        inputs: list[Expr] = []
        for x in spec.inputs:
            node = self._expression(spec.line, x, scope, f"{who} takes the {aggregate} of it")
            if node is None:
                return
            inputs.append(node)
        types = tuple(infer(x, scope.schema) for x in inputs)
        dtype = self._result(spec, types, who) if self._params(spec, who) else None
        condition = self._condition(spec, scope, who)
        if dtype is None or not self._shape(spec, source, who):
            return
        stem = self._stem(spec, inputs, who)
        if stem is None:
            return
        default = self._default(spec.line, spec.fallback, dtype)
        folded = tuple(substitute(x, scope.derived) for x in inputs)
        where = None if condition is None else substitute(condition, scope.derived)
        if aggregate == ir.LATEST:
            yield spec.line, ir.Feature(stem, aggregate, folded, types, dtype, None, None, default)
            return
        for window in spec.windows:
            lowered = self._window(spec, window)
            if lowered is None:
                continue
            whole = spec.label is not None and len(spec.windows) == 1
            text = "lifetime" if lowered.size is None else duration_text(lowered.size)
            name = stem if whole else f"{stem}_{text}"
            yield (
                spec.line,
                ir.Feature(name, aggregate, folded, types, dtype, lowered, where, default, spec.params),
            )

    def _result(self, spec: d.Aggregation, types: tuple[DType, ...], who: str) -> DType | None:
        if spec.aggregate == ir.LATEST:
            (x,) = types
            item = x.item if isinstance(x, ListType) else x
            scalar = item == String or not isinstance(AGGREGATES["last"].accepts((item,)), str)
            if scalar or isinstance(x, VectorType):
                return x
            self.wrong(
                spec.line,
                f"{who} keeps the latest of a {x}",
                "latest takes scalars, strings, lists of these, and vectors",
            )
            return None
        result = AGGREGATES[spec.aggregate].accepts(types)
        if isinstance(result, str):
            self.wrong(
                spec.line,
                f"{who} takes the {spec.aggregate} of {', '.join(map(repr, types))}",
                f"{spec.aggregate} takes {result}",
            )
            return None
        return result

    def _params(self, spec: d.Aggregation, who: str) -> bool:
        """Whether the parameters are what the aggregate takes."""
        known = {} if spec.aggregate == ir.LATEST else AGGREGATES[spec.aggregate].params
        wrong = [(n, v) for n, v in spec.params if n not in known or not known[n].fits(v)]
        for name, value in wrong:
            works = f"{name} is {known[name]}" if name in known else f"it takes {', '.join(known) or 'none'}"
            self.wrong(spec.line, f"{who}: {spec.aggregate} with {name}={value!r}", works)
        return not wrong

    def _shape(self, spec: d.Aggregation, source: ir.Source, who: str) -> bool:
        """Whether windows, filters and the kind of source fit the kind of feature."""
        if spec.aggregate == ir.LATEST:
            if spec.windows:
                self.wrong(
                    spec.line,
                    f"{who}: latest(…) has no window",
                    "drop .over(…), and bound its age by ttl= of the view; last(…).over(…) is the windowed one",
                )
            if spec.condition is not None:
                self.wrong(
                    spec.line,
                    f"{who}: latest(…) has no filter of its own",
                    "filter the source: source.where(…), in a view of its own",
                )
            return not spec.windows and spec.condition is None
        if source.event_time is None:
            self.wrong(
                spec.line,
                f"{who}: {spec.aggregate} needs events, and source '{source.name}' is static",
                "name its event_time, or read it by latest(…)",
            )
            return False
        if not spec.windows:
            self.wrong(
                spec.line, f"{who}: {spec.aggregate} has no window", "add .over(days(7)) or .over(lifetime)"
            )
            return False
        return True

    def _window(self, spec: d.Aggregation, window: Duration | Lifetime) -> ir.Window | None:
        hop = None if spec.hop is None else spec.hop.microseconds
        if isinstance(window, Lifetime):
            return ir.Window(None, hop if hop is not None else default_hop(10 * 86_400_000_000))
        if not isinstance(window, Duration):
            self.wrong(
                spec.line, f"{window!r} is not a window", "a window is days(7), hours(1), … or lifetime"
            )
            return None
        size = window.microseconds
        chosen = hop if hop is not None else default_hop(size)
        if size % chosen:
            fits = [h for h in (chosen, default_hop(size)) if size % h == 0]
            works = f"hop={duration_text(fits[0])} divides it" if fits else "name a hop that divides it"
            self.wrong(
                spec.line,
                f"a window of {window} is not a whole number of hops of {duration_text(chosen)}",
                works,
            )
            return None
        return ir.Window(size, chosen)

    def _stem(self, spec: d.Aggregation, inputs: Sequence[Expr], who: str) -> str | None:
        if spec.label is not None:
            if _NAME.match(spec.label) and "__" not in spec.label:
                return spec.label
            self.wrong(
                spec.line,
                f"{spec.label!r} is not a name",
                "a name is letters, digits and single underscores, and begins with a letter",
            )
            return None
        if not inputs:
            return spec.aggregate
        names = [x.name for x in inputs if isinstance(x, Column)]
        if len(names) == len(inputs):
            if spec.aggregate == ir.LATEST:
                return names[0]
            return "_".join([names[0], AGGREGATES[spec.aggregate].label_of(spec.params), *names[1:]])
        self.wrong(
            spec.line, f"{who}: the {spec.aggregate} of {describe(inputs[0])} needs a name", 'add .named("…")'
        )
        return None

    def _default(
        self, line: Where, value: bool | int | float | str | None, dtype: DType
    ) -> bool | int | float | str | None:
        bits = 31 if dtype == Int32 else 63
        match value:
            case None:
                return None
            case bool() if dtype == Bool:
                return value
            case bool():
                pass
            case int() if is_integer(dtype) and -(2**bits) <= value < 2**bits:
                return value
            case int() | float() if is_float(dtype) and abs(value) <= _largest(dtype):
                return float(value) + 0.0
            case int() | float() if (
                isinstance(dtype, DecimalType) and (digits := _unscaled(value, dtype)) is not None
            ):
                return digits
            case str() if dtype == String:
                return value
            case _:
                pass
        self.wrong(line, f"default {value!r} does not fit a {dtype}", f"give a {dtype}, or no default")
        return None

    def _condition(self, spec: d.Aggregation, scope: Scope, who: str) -> Expr | None:
        if spec.condition is None:
            return None
        node = self._expression(spec.line, spec.condition, scope, f"{who} filters the {spec.aggregate} by it")
        if node is None or not self._is_bool(
            spec.line, node, scope, f"the filter of {spec.aggregate} in {who}"
        ):
            return None
        return node

    def _expression(self, line: Where, x: d.Input, scope: Scope, why: str) -> Expr | None:
        """The node of a column name or expression when it is well typed, else None after reporting."""
        if isinstance(x, str):
            if not self._column(line, x, scope.schema, why):
                return None
            x = col(x)
        if not isinstance(x, Expression):
            self.wrong(
                line,
                f"{x!r} is neither a column name nor an expression",
                'write "amount" or col("amount") * 2',
            )
            return None
        missing = [c for c in sorted(columns_of(x.node)) if c not in scope.schema]
        for name in missing:
            self._column(line, name, scope.schema, why)
        if missing:
            return None
        try:
            infer(x.node, scope.schema)
        except ExprError as error:
            for problem in error.problems:
                head, *rest = str(problem).splitlines()
                self.wrong(line, head, *(r.strip() for r in rest), why)
            return None
        return x.node

    def _is_bool(self, line: Where, node: Expr, scope: Scope, what: str) -> bool:
        dtype = infer(node, scope.schema)
        if dtype == Bool:
            return True
        self.wrong(line, f"{what} is {dtype}, not Bool", 'compare it with something: col("amount") > 0')
        return False

    def _feature_names(self, view: d.FeatureView, features: Sequence[tuple[Where, ir.Feature]]) -> None:
        seen: dict[str, Where] = {}
        for line, feature in features:
            if feature.name in seen:
                self.wrong(
                    line,
                    f"feature view '{view.name}' has two features named '{feature.name}'",
                    f"the first is at {seen[feature.name]}",
                    'tell them apart with .named("…")',
                )
            seen.setdefault(feature.name, line)

    # ---------------------------------------------------------------------------------------------------- services

    def _request(self, sources: Sequence[d.RequestSource]) -> dict[str, DType]:
        """The columns that requests may hold. Two sources that share a column mean the same one."""
        columns: dict[str, DType] = {}
        for source in sources:
            for name, dtype in source.columns.items():
                if columns.setdefault(name, dtype) != dtype:
                    self.wrong(
                        source.line,
                        f"request column '{name}' is {dtype} in '{source.name}', and {columns[name]} elsewhere",
                        "a request holds it once: give one of them another name",
                    )
                if not _NAME.match(name) or "__" in name:
                    self.wrong(
                        source.line,
                        f"{name!r} is not a name for a request column",
                        "a name is letters, digits and single underscores, and begins with a letter",
                    )
                if not isinstance(dtype, Scalar | DecimalType):
                    self.wrong(source.line, f"request column '{name}' is {dtype}", "a request holds scalars")
        return columns

    def _on_demand(
        self, feature: d.OnDemand, views: Mapping[str, ir.View | None], request: Schema
    ) -> _Computed | None:
        """An on-demand feature with what it reads; None after reporting what is wrong with it."""
        who = f"on-demand feature '{feature.name}'"
        python = feature.expression if isinstance(feature.expression, d.PythonFunction) else None
        parts = [feature.expression] if python is None else [*python.inputs]
        nodes = [part.node for part in parts if isinstance(part, Expression)]
        if len(nodes) < len(parts):
            wrong = next(part for part in parts if not isinstance(part, Expression))
            self.wrong(
                feature.line if python is None else python.line,
                f"{who} {'is' if python is None else 'takes'} {wrong!r}, not an expression",
                'write checkout["amount"] / card_spend["amount_mean_7d"]',
            )
            return None
        reads: dict[str, ir.Read] = {}
        asked: dict[str, DType] = {}
        before = len(self.problems)
        for name in sorted(feature.columns):
            if "." in name:
                read = self._input(feature, name, views)
                if read is not None:
                    reads[name] = read
            elif name in request:
                asked[name] = request[name]
            else:
                self._column(feature.line, name, request, f"{who} takes it from the request")
        if len(self.problems) > before:
            return None
        if any(r is _BROKEN for r in reads.values()):
            return None
        schema = {**asked, **{name: r.dtype for name, r in reads.items()}}
        types: list[DType] = []
        for part in nodes:
            try:
                types.append(infer(part, schema, on_demand=True))
            except ExprError as error:
                for problem in error.problems:
                    head, *rest = str(problem).splitlines()
                    self.wrong(feature.line, head, *(r.strip() for r in rest), f"in {who}")
        if len(self.problems) > before:
            return None
        if python is None:
            node: Expr | ir.PythonFunction | None = nodes[0]
            dtype = types[0]
        else:
            node, dtype = self._function(python, types, who), python.dtype
        if node is None:
            return None
        default = self._default(feature.line, feature.default, dtype)
        return _Computed(ir.OnDemand(feature.name, node, dtype, default), tuple(reads.values()), asked)

    def _function(
        self, python: d.PythonFunction, types: Sequence[DType], who: str
    ) -> ir.PythonFunction | None:
        name = getattr(python.function, "__name__", repr(python.function))
        if not isinstance(python.dtype, Scalar | DecimalType) or (
            isinstance(python.dtype, DecimalType) and python.dtype.precision > 18
        ):
            self.wrong(
                python.line, f"python function '{name}' of {who} gives {python.dtype}", "it gives scalars"
            )
            return None
        try:
            return told(python, types)
        except Untold as error:
            self.wrong(python.line, f"python function '{name}' of {who} {error.what}", error.works)
            return None

    def _input(self, feature: d.OnDemand, name: str, views: Mapping[str, ir.View | None]) -> ir.Read | None:
        """The hidden read that a column of an on-demand expression stands for."""
        match = _REFERENCE.match(name)
        assert match is not None
        view_name, columns, inner = match[1], match[2] or "", match[3]
        if view_name not in views:
            self.wrong(
                feature.line,
                f"on-demand feature '{feature.name}' reads feature view '{view_name}', which no file declares",
                *nearest(view_name, views),
            )
            return None
        view = views[view_name]
        if view is None:
            return _BROKEN  # its own problems are reported where it stands
        on = dict(pair.split("=", 1) for pair in columns.split(",") if pair)
        features = {f.name: f for f in view.features}
        joined = [k.name for k in view.keys]
        for key in on:
            if key not in joined:
                self.wrong(
                    feature.line, f"feature view '{view_name}' has no join key '{key}'", *nearest(key, joined)
                )
        if inner not in features:
            self.wrong(
                feature.line,
                f"feature view '{view_name}' has no feature '{inner}'",
                *nearest(inner, features),
            )
            return None
        keys = tuple((k, on.get(k, k)) for k in joined)
        return ir.Read(view_name, inner, name, keys, features[inner].dtype, hidden=True)

    def _service(
        self,
        service: d.FeatureService,
        views: Mapping[str, ir.View | None],
        on_demand: Mapping[str, _Computed | None],
        labels: Mapping[str, ir.Label | None],
    ) -> ir.Service | None:
        before = len(self.problems)
        who = f"feature service '{service.name}'"
        capture = self._capture(service, who)
        learnt = labels_of_service(self, service, labels)
        if service.on_unavailable not in ("fail", "last_known", "default"):
            self.wrong(
                service.line,
                f"{who} has on_unavailable={service.on_unavailable!r}",
                "there is 'fail', 'last_known' and 'default'",
            )
        if service.deadline is not None and service.deadline.microseconds <= 0:
            self.wrong(
                service.line, f"{who} has a deadline that is over at once", "give it at least a millisecond"
            )
        reads: list[tuple[str, ir.Read]] = []
        computed: list[_Computed] = []
        order: list[int | str] = []
        for item in service.features:
            count = len(reads)
            match item:
                case d.FeatureView():
                    reads += self._reads(service, item.on(), views)
                case d.ViewOn():
                    reads += self._reads(service, item, views)
                case d.FeatureRef(on=on):
                    reads += self._reads(service, on, views)
                case d.OnDemand(name=name):
                    found = on_demand.get(name)
                    if found is None:
                        continue  # its own problems are reported where it stands
                    computed.append(found)
                    order.append(name)
                case _:
                    self.wrong(
                        service.line,
                        f"{who} reads {item!r}, which is neither a view nor a feature of one",
                        'give views, view["feature"] or view.on(key="column")',
                    )
            order += range(count, len(reads))
        if not service.features:
            self.wrong(service.line, f"{who} reads nothing", "give it at least one view")
        named = _output_names(reads)
        outputs = [named[i].output if isinstance(i, int) else i for i in order]
        for name in sorted({*outputs} & {*learnt}):
            self.wrong(
                service.line,
                f"{who} has a column '{name}', and a label of that name",
                "give the label another name",
            )
        for name, count in _counts(outputs).items():
            if count > 1:
                self.wrong(
                    service.line,
                    f"{who} reads two columns named '{name}'",
                    'tell them apart with view.on(…, prefix="…")',
                )
        if len(self.problems) > before or not outputs:
            return None
        hidden = {r.output: r for c in computed for r in c.reads}
        asked = {name: dtype for c in computed for name, dtype in c.request.items()}
        joined = {column for r in (*named, *hidden.values()) for _, column in r.keys}
        for name in sorted(joined & asked.keys()):
            self.wrong(
                service.line,
                f"{who} has '{name}' both as a join key and as a request column",
                'look the view up by another column: view.on(key="column")',
            )
            return None
        types = {r.output: r.dtype for r in named} | {c.feature.name: c.feature.dtype for c in computed}
        columns = {name: types[name] for name in outputs}
        scale = self._scale(service, columns)
        expected = lower_expectations(
            self, service.line, who, service.expectations, columns, stored=False, vectors=True
        )
        if scale is None or len(self.problems) > before:
            return None
        stale = None if service.max_staleness is None else service.max_staleness.microseconds
        return ir.Service(
            name=service.name,
            reads=(*named, *(r for _, r in sorted(hidden.items()))),
            max_staleness=stale,
            about=_about(service),
            on_demand=tuple(c.feature for c in computed),
            request=tuple(sorted(asked.items())),
            order=tuple(outputs) if computed else (),
            scale=scale,
            deadline=None if service.deadline is None else service.deadline.microseconds,
            on_unavailable=service.on_unavailable,
            expectations=expected,
            labels=learnt,
            capture=capture,
        )

    def _capture(self, service: d.FeatureService, who: str) -> ir.Capture | None:
        said = service.capture
        if said is None:
            return None
        before = len(self.problems)
        if not isinstance(said, d.Capture):
            self.wrong(service.line, f"{who} has capture={said!r}", "give capture=Capture(sample=1.0)")
            return None
        if not 0 < said.sample <= 1:
            self.wrong(
                service.line, f"{who} captures a fraction of {said.sample!r}", "it is above 0 and at most 1"
            )
        if said.by not in ("entity", "request"):
            self.wrong(service.line, f"{who} captures by={said.by!r}", "there is 'entity' and 'request'")
        if said.retention is not None and said.retention.microseconds <= 0:
            self.wrong(service.line, f"{who} keeps what it captures for no time", "give a retention, or None")
        if len(self.problems) > before:
            return None
        kept = None if said.retention is None else said.retention.microseconds
        return ir.Capture(float(said.sample), said.by, kept, tuple(sorted(said.context.items())))

    def _scale(
        self, service: d.FeatureService, columns: Mapping[str, DType]
    ) -> tuple[ir.Scaling, ...] | None:
        """How each column that is to be scaled is, in the order of columns; None when something is wrong with it."""
        who, before = f"feature service '{service.name}'", len(self.problems)
        numeric = [name for name, dtype in columns.items() if is_numeric(dtype)]
        asked = service.scale
        if isinstance(asked, Scale):
            asked = dict.fromkeys(numeric, asked)
        if not isinstance(asked, Mapping | None) or any(
            not isinstance(s, Scale) for s in (asked or {}).values()
        ):
            self.wrong(
                service.line,
                f"{who} is scaled by {service.scale!r}, which is no scaler",
                'give scale.standard(), or one for each feature: {"amount_mean_7d": scale.robust()}',
            )
            return None
        for name, scaler in (asked or {}).items():
            if name not in columns:
                self._column(service.line, name, columns, f"{who} scales it")
            elif name not in numeric:
                self.wrong(
                    service.line, f"{who} scales '{name}', which is {columns[name]}", "numbers can be scaled"
                )
            if not _rising(scaler.numbers):
                self.wrong(
                    service.line, f"{who} scales '{name}' by {scaler}", "write clip(lo, hi) with lo <= hi"
                )
        if len(self.problems) > before:
            return None
        chosen = {name: (asked or {})[name] for name in columns if name in (asked or {})}
        return tuple(ir.Scaling(n, s.kind, tuple(map(float, s.numbers))) for n, s in chosen.items())

    def _reads(
        self, service: d.FeatureService, item: d.ViewOn, views: Mapping[str, ir.View | None]
    ) -> list[tuple[str, ir.Read]]:
        view = views.get(item.view.name)
        if view is None:
            return []  # the view's own problems are reported where it stands
        joined = [k.name for k in view.keys]
        for name, _ in item.columns:
            if name not in joined:
                self.wrong(
                    item.line, f"feature view '{view.name}' has no join key '{name}'", *nearest(name, joined)
                )
        keys = tuple((k, dict(item.columns).get(k, k)) for k in joined)
        features = {f.name: f for f in view.features}
        chosen = item.features if item.features is not None else tuple(features)
        for name in chosen:
            if name not in features:
                self.wrong(
                    item.line, f"feature view '{view.name}' has no feature '{name}'", *nearest(name, features)
                )
        return [
            (item.prefix, ir.Read(view.name, name, item.prefix + name, keys, features[name].dtype))
            for name in chosen
            if name in features
        ]


@dataclass(frozen=True)
class _Computed:
    """An on-demand feature, the hidden reads it takes, and the request columns."""

    feature: ir.OnDemand
    reads: tuple[ir.Read, ...]
    request: Mapping[str, DType]


_BROKEN = ir.Read("", "", "", (), Int64)
"""Stands for a read of a view that has problems of its own."""

_REFERENCE = re.compile(r"([^.\[]+)(?:\[([^\]]*)\])?\.(.+)\Z")
"""How an on-demand expression names a feature; see `declare.FeatureRef`."""


@dataclass(frozen=True)
class Scope:
    """The columns an expression may name: their types, and what the derived ones are made of."""

    schema: dict[str, DType]
    derived: dict[str, Expr]

    def wider(self, new: Mapping[str, tuple[Expr, DType]]) -> Scope:
        types = {name: dtype for name, (_, dtype) in new.items()}
        nodes = {name: node for name, (node, _) in new.items()}
        return Scope({**self.schema, **types}, {**self.derived, **nodes})


def _steps(
    source: d.AnySource,
) -> tuple[list[Expression | Mapping[str, Expression]], d.BatchSource | d.StreamSource]:
    steps: list[Expression | Mapping[str, Expression]] = []
    while isinstance(source, d.Derived):
        steps[:0] = source.steps
        source = source.base
    return steps, source


def _output_names(reads: Sequence[tuple[str, ir.Read]]) -> list[ir.Read]:
    """`feature`, or `view__feature` when two views of the service would share the name."""
    owners: dict[str, set[str]] = {}
    for _, read in reads:
        owners.setdefault(read.output, set()).add(read.view)
    return [
        read
        if len(owners[read.output]) == 1
        else ir.Read(read.view, read.feature, f"{read.view}__{read.output}", read.keys, read.dtype)
        for _, read in reads
    ]


def _largest(dtype: DType) -> float:
    """The largest number that is finite in this type of float."""
    return (2.0 - 2.0**-23) * 2.0**127 if dtype == Float32 else sys.float_info.max


def _unscaled(value: int | float, dtype: DecimalType) -> int | None:
    """The digits of a number as it is written, None when the type has no room for them."""
    if not math.isfinite(value):
        return None
    digits = decimal.Decimal(repr(value)).scaleb(dtype.scale)
    return int(digits) if digits == int(digits) and abs(digits) < 10**dtype.precision else None


def _rising(numbers: Sequence[object]) -> bool:
    """Whether these are finite numbers, none less than the one before it."""
    finite = [n for n in numbers if isinstance(n, int | float) and math.isfinite(n)]
    return len(finite) == len(numbers) and finite == sorted(finite)


def _counts(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts


def location_of(at: d.At | d.Wire) -> ir.Location:
    """Where a declared place lies, as the plan says it."""
    match at:
        case d.Parquet(path=path):
            return ir.Location("parquet", path)
        case d.Csv(path=path):
            return ir.Location("csv", path)
        case d.Json(path=path):
            return ir.Location("json", path)
        case d.Delta(path=path):
            return ir.Location("delta", path)
        case d.Iceberg(table=table):
            return ir.Location("iceberg", table)
        case d.Sql(dsn=dsn, query=query):
            return ir.Location("sql", query, (("dsn", dsn),))
        case d.Files(dir=directory):
            return ir.Location("files", directory)
        case d.Kafka(topic=topic, bootstrap=bootstrap, format=fmt, properties=properties):
            options = {
                "bootstrap": bootstrap,
                "format": fmt,
                **{f"property.{k}": v for k, v in properties.items()},
            }
            return ir.Location("kafka", topic, tuple(sorted(options.items())))
        case _:
            assert_never(at)


def _about(
    x: d.Entity | d.BatchSource | d.StreamSource | d.FeatureView | d.Label | d.FeatureService,
) -> ir.About:
    return ir.About(x.description, x.owner, tuple(t for t in x.tags if t))


_Named = TypeVar("_Named", ir.Entity, ir.Source, ir.View, ir.Label, ir.Service)


def _sorted(nodes: Iterable[_Named | None]) -> tuple[_Named, ...]:
    return tuple(sorted((n for n in nodes if n is not None), key=lambda n: n.name))


def _by_line(problem: Problem) -> tuple[str, int, str]:
    return (problem.where.file, problem.where.line, problem.what) if problem.where else ("", 0, problem.what)
