"""Differences in words, for people. What a difference means is decided elsewhere, by fingerprints."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

from featurestore import ir
from featurestore.expectations import Expectation
from featurestore.expr import Expr, Literal, describe
from featurestore.html import grid
from featurestore.planning.records import Action, Change, ChangePlan, Cost
from featurestore.registry import masked
from featurestore.time import duration_text
from featurestore.types import DType

_SECRET = re.compile("password|secret|token|jaas|credential", re.IGNORECASE)


def render(change_plan: ChangePlan) -> list[str]:
    """The plan as lines of plain text: what changes, then warnings, then what refuses it."""
    if change_plan.is_empty and not change_plan.blocked:
        lines = ["nothing would change"]
    else:
        lines = [_line(change) for change in change_plan.changes]
    lines += [f"warning: {w}" for w in change_plan.warnings]
    return lines + [f"refused: {b}" for b in change_plan.blocked]


def summary(change_plan: ChangePlan) -> str:
    """One line: `2 added, 1 changed`."""
    counts = {a: sum(c.action == a for c in change_plan.changes) for a in get_args(Action)}
    return ", ".join(f"{n} {action}" for action, n in counts.items() if n)


def _line(change: Change) -> str:
    marks = {"added": "+", "removed": "-", "changed": "~"}
    mark = {"metadata only": "=", "breaking": "!"}.get(change.effect, marks[change.action])
    said = [*change.reasons, *_cost_words(change.cost)]
    return f"{mark} {change.kind} {change.name}  {change.effect}{': ' if said else ''}{'; '.join(said)}"


def _cost_words(cost: Cost | None) -> Iterator[str]:
    if cost is None:
        return
    rows = "an unknown number of" if cost.rows is None else f"{cost.rows:,}"
    size = "" if cost.bytes is None else f" (about {_size(cost.bytes)})"
    yield f"backfill of {rows} rows{size}"
    if cost.online_bytes is not None:
        yield f"at most {_size(cost.online_bytes)} online per entity"


def _size(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" or n >= 100 else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:,.1f} TB"


def said(reasons: Sequence[str]) -> tuple[str, ...]:
    """The reasons, never none: two ways to write one thing differ in their plans alone."""
    return tuple(dict.fromkeys(reasons)) or ("written otherwise",)


def feature_count(view: ir.View) -> str:
    count = len(view.features)
    return "1 feature" if count == 1 else f"{count} features"


def entity_words(old: ir.Entity, new: ir.Entity) -> tuple[str, ...]:
    keys = differences({"join keys": _keys(old.keys)}, {"join keys": _keys(new.keys)})
    return said([*keys, *differences(_about(old.about), _about(new.about))])


def source_words(old: ir.Source, new: ir.Source) -> tuple[str, ...]:
    parts = differences(_source_parts(old), _source_parts(new))
    expected = expectation_words(old.expectations, new.expectations)
    return said([*parts, *_columns(old, new), *expected, *differences(_about(old.about), _about(new.about))])


def service_words(old: ir.Service, new: ir.Service) -> tuple[str, ...]:
    """The differences of two services that give the same columns."""
    before, after = (
        {r.output: f"{r.view}.{r.feature}" for r in s.reads} | {"labels": ", ".join(s.labels)}
        for s in (old, new)
    )
    expected = expectation_words(old.expectations, new.expectations)
    return said([*differences(before, after), *expected, *differences(_about(old.about), _about(new.about))])


def expectation_words(old: Sequence[Expectation], new: Sequence[Expectation]) -> Iterator[str]:
    """What is expected, no longer expected, or expected otherwise."""
    before, after = ({e.name: e for e in es} for es in (old, new))
    yield from (f"expects {name} ({e.on_failure})" for name, e in after.items() if name not in before)
    yield from (f"no longer expects {name}" for name in before if name not in after)
    for name in (n for n in after if n in before and before[n] != after[n]):
        was, now = (
            {"what": e.text, "on failure": e.on_failure, "severity": e.severity}
            for e in (before[name], after[name])
        )
        yield from differences(was, now, of=f"expectation '{name}'")


def label_words(old: ir.Label, new: ir.Label) -> tuple[str, ...]:
    """Every difference of two labels of one name."""
    before, after = (_label_parts(label) for label in (old, new))
    words = [*differences(before, after), *differences(_about(old.about), _about(new.about))]
    inside = view_words(old.view, new.view) if not words else ()
    return said([*words, *inside])


def _label_parts(label: ir.Label) -> dict[str, str]:
    view = _view_parts(label.view)
    return {
        "value": label.text,
        "type": repr(label.dtype),
        "gap": time_text(label.gap or None),
        "horizon": time_text(label.horizon),
        "lateness": time_text(label.lateness or None),
        "matures": label.matures,
        "observed": label.observed,
        **{k: view[k] for k in ("entity", "source", "join keys", "filter")},
    }


def view_words(old: ir.View, new: ir.View) -> tuple[str, ...]:
    """Every difference of two views of one name."""
    words = [*differences(_view_parts(old), _view_parts(new))]
    before, after = {f.name: f for f in old.features}, {f.name: f for f in new.features}
    words += [f"feature {name} added" for name in after if name not in before]
    words += [f"feature {name} removed" for name in before if name not in after]
    for name in (n for n in after if n in before):
        words += differences(_feature_parts(before[name]), _feature_parts(after[name]), of=name)
        words += _hidden_words(old, before[name], new, after[name])
    if [n for n in before if n in after] != [n for n in after if n in before]:
        words.append("order of features")
    words += expectation_words(old.expectations, new.expectations)
    return said([*words, *differences(_about(old.about), _about(new.about))])


def meaning_words(old: ir.View, old_feature: str, new: ir.View, new_feature: str) -> list[str]:
    """Every difference in what two features mean."""
    unnamed = ("entity", "source")
    before, after = (({k: v for k, v in _view_parts(x).items() if k not in unnamed}) for x in (old, new))
    words = [*differences(before, after)]
    a, b = old.feature(old_feature), new.feature(new_feature)
    return [*words, *differences(_feature_parts(a), _feature_parts(b)), *_hidden_words(old, a, new, b)]


def _hidden_words(old: ir.View, old_feature: ir.Feature, new: ir.View, new_feature: ir.Feature) -> list[str]:
    """What changes a feature that nobody touched: types of columns, and the columns that break ties."""
    before, after = ir.feature_meaning(old, old_feature), ir.feature_meaning(new, new_feature)
    types, now = dict(before["columns"]), dict(after["columns"])
    words = [f"column {c} {types[c]} -> {now[c]}" for c in types if c in now and types[c] != now[c]]
    was_order, order = ", ".join(before["order"]), ", ".join(after["order"])
    return [*words, *differences({"ties broken by": was_order}, {"ties broken by": order})]


def _view_parts(view: ir.View) -> dict[str, str]:
    return {
        "entity": view.entity,
        "source": view.source.name,
        **{k: v for k, v in _source_parts(view.source).items() if k != "tiebreak"},
        "join keys": ", ".join(f"{k.name} {k.dtype!r} = {describe(k.value)}" for k in view.keys),
        "filter": _expr(view.filter),
        "ttl": time_text(view.ttl),
    }


def _feature_parts(feature: ir.Feature) -> dict[str, str]:
    window = feature.window
    return {
        "aggregate": feature.aggregate,
        "input": ", ".join(map(describe, feature.inputs)),
        "filter": _expr(feature.where),
        "window": "" if window is None else "lifetime" if window.size is None else duration_text(window.size),
        "hop": "" if window is None else duration_text(window.hop),
        "default": "" if feature.default is None else describe(Literal(feature.default, feature.dtype)),
        "type": repr(feature.dtype),
    }


def _source_parts(source: ir.Source) -> dict[str, str]:
    return {
        "location": _location(source.location),
        "stream": "" if source.stream is None else _location(source.stream),
        "lateness": time_text(source.lateness),
        "event time": source.event_time or "",
        "arrival time": source.arrival_time or "",
        "event id": source.event_id or "",
        "tiebreak": ", ".join(source.tiebreak),
    }


def _columns(old: ir.Source, new: ir.Source) -> Iterator[str]:
    before, after = old.schema, new.schema
    yield from (f"column {c} added" for c in after if c not in before)
    yield from (f"column {c} removed" for c in before if c not in after)
    yield from _retyped(before, after)


def _retyped(before: Mapping[str, DType], after: Mapping[str, DType]) -> Iterator[str]:
    same = [c for c in before if c in after]
    yield from (f"column {c} {before[c]!r} -> {after[c]!r}" for c in same if before[c] != after[c])


def _about(about: ir.About) -> dict[str, str]:
    return {"description": about.description, "owner": about.owner, "tags": ", ".join(about.tags)}


def differences(old: Mapping[str, str], new: Mapping[str, str], of: str = "") -> Iterator[str]:
    """`what of whom old -> new` for each entry that differs; empty text is said as none."""
    for what in dict.fromkeys([*old, *new]):
        was, now = old.get(what, ""), new.get(what, "")
        if was != now:
            yield f"{what}{' of ' if of else ''}{of} {was or 'none'} -> {now or 'none'}"


def _location(location: ir.Location) -> str:
    shown = [(k, "***" if _SECRET.search(k) else v) for k, v in location.options]
    options = " ".join(f"{k}={v}" for k, v in shown)
    return masked(f"{location.kind} {location.path} {options}".rstrip())


def _expr(node: Expr | None) -> str:
    return "" if node is None else describe(node)


def time_text(microseconds: int | None) -> str:
    return "" if microseconds is None else duration_text(microseconds)


def _keys(keys: Sequence[tuple[str, DType]]) -> str:
    return ", ".join(f"{name} {dtype!r}" for name, dtype in keys)


def lookup_text(read: ir.Read) -> str:
    return ", ".join(f"{key} = {column}" for key, column in read.keys)


def plan_html(plan: ChangePlan) -> str:
    """Every change, what it does, and what stops it."""
    rows = [(c.action, c.kind, c.name, c.effect, "; ".join(c.reasons)) for c in plan.changes]
    title = "nothing would change" if plan.is_empty else f"plan on revision {plan.base_revision}"
    table = grid(title, ("", "kind", "name", "effect", "why"), rows)
    for head, lines in (("cannot be applied", plan.blocked), ("warnings", plan.warnings)):
        table += grid(head, ("",), ((line,) for line in lines)) if lines else ""
    return table
