"""From a declared label to the plan's: one view of its aggregates over the range, and the value over them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from featurestore import declare as d
from featurestore import ir
from featurestore.errors import nearest
from featurestore.expr import Column, Expr, ExprError, Expression, infer, substitute
from featurestore.expr.nodes import children
from featurestore.time import MICROSECOND, Duration
from featurestore.types import DType

if TYPE_CHECKING:
    from featurestore.lower import Lowering, Scope

HOP = Duration(MICROSECOND)
"""With windows that move by the least there is, their start is exact too."""

_WORKS = 'write count() > 0, mean("arr_delay"), or sum("amount") / count()'


def lower_label(
    lowering: Lowering, label: d.Label, sources: Mapping[str, ir.Source | None]
) -> ir.Label | None:
    """The label of the plan; None after reporting what is wrong with it."""
    wrong, who, before = lowering.wrong, f"label '{label.name}'", len(lowering.problems)
    if label.matures not in ("horizon", "first_event"):
        wrong(label.line, f"{who} has matures={label.matures!r}", "there is 'horizon' and 'first_event'")
    if label.observed not in ("as_of", "last_event"):
        wrong(label.line, f"{who} has observed={label.observed!r}", "there is 'as_of' and 'last_event'")
    lengths = {name: _microseconds(getattr(label, name)) for name in ("gap", "horizon", "lateness")}
    for name, length in lengths.items():
        if length is None or length < 0 or (name == "horizon" and length == 0):
            given = getattr(label, name)
            wrong(label.line, f"{who} has {name}={given!r}", f"a {name} is a length, as hours(12)")
    if len(lowering.problems) > before:
        return None
    scoped = lowering.scoped(label.line, who, label.source, sources)
    if scoped is None:
        return None
    source, scope, kept = scoped
    if source.event_time is None:
        wrong(
            label.line,
            f"{who} is made of source '{source.name}', which is static",
            "name its event_time: a label is what happened after a moment",
        )
    keys = [lowering.key(label.line, who, label.entity.name, k, scope) for k in label.entity.join_keys]
    value: object = label.value.expression if isinstance(label.value, d.Aggregation) else label.value
    if not isinstance(value, Expression):
        wrong(label.line, f"{who} is {value!r}, which is no expression over aggregates", _WORKS)
        return None
    window = Duration(lengths["horizon"] or 1)
    features = list(_features(lowering, label, value, scope, source, window))
    if len(lowering.problems) > before:
        return None
    dtype = _dtype(lowering, label, value.node, {f.name: f.dtype for f in features})
    if dtype is None:
        return None
    view = ir.View(
        label.name, label.entity.name, tuple(k for k in keys if k), source, tuple(features), filter=kept
    )
    return ir.Label(
        name=label.name,
        view=view,
        value=_plain(value.node),
        dtype=dtype,
        horizon=lengths["horizon"] or 0,
        gap=lengths["gap"] or 0,
        lateness=lengths["lateness"] or 0,
        matures=label.matures,
        observed=label.observed,
        about=lowering.about(label),
    )


def _microseconds(length: object) -> int | None:
    """A length in microseconds: none is 0; None for what is no length. A user may write anything."""
    match length:
        case None:
            return 0
        case Duration(microseconds=microseconds):
            return microseconds
        case timedelta():
            return length // timedelta(microseconds=1)
        case _:
            return None


def _features(
    lowering: Lowering,
    label: d.Label,
    value: Expression,
    scope: Scope,
    source: ir.Source,
    window: Duration,
) -> Iterator[ir.Feature]:
    """The aggregates of the value, each once, as features whose window is the label's range."""
    who, found = f"label '{label.name}'", dict[str, d.Aggregation]()
    for column in _columns(value.node):
        if isinstance(column, d.AggregateColumn):
            found.setdefault(column.name, column.spec)
        else:
            lowering.wrong(
                label.line,
                f"{who} takes '{column.name}' of no event in particular",
                f'take an aggregate of it: last("{column.name}"), max("{column.name}")',
            )
    if not found and not any(True for _ in _columns(value.node)):
        lowering.wrong(label.line, f"{who} has no aggregate in its value", _WORKS)
    for name, spec in found.items():
        if spec.aggregate == ir.LATEST:
            lowering.wrong(
                spec.line, f"{who} takes the latest of something", "last(…) is the last of what came after"
            )
            continue
        if spec.windows or spec.hop is not None:
            lowering.wrong(
                spec.line,
                f"{who} has an aggregate with a window of its own",
                "drop .over(…): the range of a label is its gap and its horizon",
            )
            continue
        # The name it is lowered under never shows: any that is one will do.
        windowed = spec.over(window, hop=HOP).named("value")
        for _, feature in lowering.features(label.line, who, windowed, scope, source):
            yield replace(feature, name=name)


def _dtype(lowering: Lowering, label: d.Label, node: Expr, schema: Mapping[str, DType]) -> DType | None:
    try:
        return infer(node, schema, on_demand=True)
    except ExprError as error:
        for problem in error.problems:
            head, *rest = str(problem).splitlines()
            lowering.wrong(label.line, head, *(r.strip() for r in rest), f"in label '{label.name}'")
        return None


def _columns(node: Expr) -> Iterator[Column]:
    if isinstance(node, Column):
        yield node
    for child in children(node):
        yield from _columns(child)


def _plain(node: Expr) -> Expr:
    """The same over columns that hold no declaration: a plan has names alone."""
    return substitute(node, {c.name: Column(c.name) for c in _columns(node)})


def labels_of_service(
    lowering: Lowering, service: d.FeatureService, labels: Mapping[str, ir.Label | None]
) -> tuple[str, ...]:
    """The names of a service's labels, after reporting what is none, or there twice."""
    who, names = f"feature service '{service.name}'", list[str]()
    for item in service.labels:
        if not isinstance(item, d.Label):
            lowering.wrong(
                service.line,
                f"{who} has {item!r} as a label",
                "a label is Label(…), or several in a list",
                *(nearest(item, labels) if isinstance(item, str) else ()),
            )
            continue
        if item.name in names:
            lowering.wrong(service.line, f"{who} has label '{item.name}' twice", "name it once")
        names.append(item.name)
    return tuple(names)


__all__ = ["labels_of_service", "lower_label"]
