"""From the plan in force to the one wanted: every change, its effect, and what refuses it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from featurestore import ir
from featurestore.layout import storage_fingerprint
from featurestore.planning.cost import cost_of
from featurestore.planning.records import Change, ChangePlan, Class, Cost, Draft, Kind, RowsOf
from featurestore.planning.words import (
    differences,
    entity_words,
    feature_count,
    label_words,
    lookup_text,
    meaning_words,
    said,
    service_words,
    source_words,
    time_text,
    view_words,
)
from featurestore.registry import Revision, ServiceVersion, version_of
from featurestore.types import is_integer, is_tensor

FLOAT32_WHOLE = 2**24
"""The whole numbers up to here are float32 numbers too."""

_WEIGHT: tuple[Class, ...] = ("metadata only", "state-compatible", "backfill")

_Named = TypeVar("_Named", ir.Entity, ir.Source, ir.View, ir.Label, ir.Service)


def diff(
    current: Revision, versions: Sequence[ServiceVersion], desired: ir.Plan, rows_of: RowsOf
) -> ChangePlan:
    """What leads from `current` to `desired`. Pure: the same arguments give the same plan.

    `versions` are all versions of services that the registry knows, retired ones included.
    """
    return _Diff(current, versions, desired, _once(rows_of)).plan()


@dataclass(frozen=True)
class _ServiceDiff:
    """What becomes of one service. `broken` are the features whose meaning `served` does not let change."""

    change: Change | None
    draft: Draft | None = None
    warnings: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()
    broken: frozenset[tuple[str, str]] = frozenset()
    served: str = ""


@dataclass(frozen=True)
class _Diff:
    current: Revision
    versions: Sequence[ServiceVersion]
    desired: ir.Plan
    rows_of: RowsOf

    def plan(self) -> ChangePlan:
        names = _names(self.current.plan.services, self.desired.services)
        services = [s for s in map(self._service, names) if s is not None]
        broken = {feature: s.served for s in services for feature in s.broken}
        own = [s.change for s in services if s.change]
        return ChangePlan(
            base_revision=self.current.number,
            desired=self.desired,
            changes=(
                *self._entities(),
                *self._sources(),
                *self._views(broken),
                *self._labels(),
                *own,
            ),
            drafts=tuple(s.draft for s in services if s.draft),
            retired=tuple(c.name for c in own if c.action == "removed"),
            warnings=(*(w for s in services for w in s.warnings), *_warnings(self.desired, self.rows_of)),
            blocked=(*_dangling(self.desired), *(b for s in services for b in s.blocked)),
        )

    def _entities(self) -> Iterator[Change]:
        for old, new in _pairs(self.current.plan.entities, self.desired.entities):
            if new is None and old is not None:
                yield Change("entity", old.name, "removed", "removed", ())
            elif old is None and new is not None:
                yield Change("entity", new.name, "added", "new", ())
            elif old is not None and new is not None and old != new:
                views = _pairs(self.current.plan.views, self.desired.views)
                moved = any(a and b and b.entity == new.name and a.keys != b.keys for a, b in views)
                effect: Class = "backfill" if moved else "metadata only"
                yield _edit("entity", new.name, effect, entity_words(old, new))

    def _sources(self) -> Iterator[Change]:
        for old, new in _pairs(self.current.plan.sources, self.desired.sources):
            if new is None and old is not None:
                yield Change("source", old.name, "removed", "removed", ())
            elif old is None and new is not None:
                yield Change("source", new.name, "added", "new", ())
            elif old is not None and new is not None and old != new:
                moves = [_moved_to(v, new) for v in self.current.plan.views if v.source.name == new.name]
                heaviest: Class = max(moves, key=_WEIGHT.index, default="metadata only")
                yield _edit("source", new.name, heaviest, source_words(old, new))

    def _views(self, broken: Mapping[tuple[str, str], str]) -> Iterator[Change]:
        """`broken` names, for a view and a feature whose meaning may not change, who has served it."""
        for old, new in _pairs(self.current.plan.views, self.desired.views):
            if new is None and old is not None:
                yield Change("view", old.name, "removed", "removed", (feature_count(old),))
            elif old is None and new is not None:
                count = (feature_count(new),)
                yield Change("view", new.name, "added", "new", count, self._backfill_of(new))
            elif old is not None and new is not None:
                change = self._view(old, new)
                readers = sorted({by for (view, _), by in broken.items() if view == new.name})
                if change is not None and readers:
                    why = (*change.reasons, f"read by {', '.join(readers)}")
                    change = replace(change, effect="breaking", reasons=why)
                if change is not None:
                    yield change

    def _labels(self) -> Iterator[Change]:
        """Nothing is stored of a label: one that means something else is another version of it, in sets made from now on."""
        for old, new in _pairs(self.current.plan.labels, self.desired.labels):
            if new is None and old is not None:
                yield Change("label", old.name, "removed", "removed", ())
            elif old is None and new is not None:
                yield Change("label", new.name, "added", "new", (new.text,))
            elif old is not None and new is not None and old != new:
                same = ir.label_fingerprint(old) == ir.label_fingerprint(new)
                effect: Class = "metadata only" if same else "state-compatible"
                if not same or replace(old, view=new.view) != new or old.view.entity != new.view.entity:
                    yield _edit("label", new.name, effect, label_words(old, new))

    def _view(self, old: ir.View, new: ir.View) -> Change | None:
        if ir.view_fingerprint(old) == ir.view_fingerprint(new):
            if replace(old, source=new.source) == new and old.source.name == new.source.name:
                return None
            return _edit("view", new.name, "metadata only", view_words(old, new))
        if storage_fingerprint(old) == storage_fingerprint(new):
            return _edit("view", new.name, "state-compatible", view_words(old, new))
        return _edit("view", new.name, "backfill", view_words(old, new), self._backfill_of(new))

    def _service(self, name: str) -> _ServiceDiff | None:
        mine = [v for v in self.versions if v.name == name]
        live = sorted((v for v in mine if not v.retired), key=lambda v: v.version)
        served = next((v for v in reversed(live) if v.has_served), None)
        new = next((s for s in self.desired.services if s.name == name), None)
        if new is None:
            warnings = () if served is None else (_no_more(served),)
            return _ServiceDiff(Change("service", name, "removed", "removed", ()), warnings=warnings)
        if any(_missing(self.desired, read) for read in new.reads):
            return None  # `_dangling` refuses it
        after = 1 + max((v.version for v in mine), default=0)
        if not live:
            change = Change("service", name, "added", "new", (f"{len(new.columns)} columns",))
            return _ServiceDiff(change, self._draft(name, after))
        newest = live[-1]
        draft = self._draft(name, after if newest is served else newest.version)
        if draft.fingerprint == newest.fingerprint:
            old = next((s for s in self.current.plan.services if s.name == name), newest.service)
            words = service_words(old, new)
            return None if old == new else _ServiceDiff(_edit("service", name, "metadata only", words))
        return self._edited(newest if served is None else served, new, draft)

    def _edited(self, old: ServiceVersion, new: ir.Service, draft: Draft) -> _ServiceDiff:
        """A service unlike `old`, the newest version of it that has served, or else the newest."""
        breaks, harmless, broken = _service_edits(old, new, self.desired)
        words = said([*breaks, *harmless])
        if not old.has_served:
            return _ServiceDiff(_edit("service", new.name, "state-compatible", words), draft)
        if breaks:
            change = _edit("service", new.name, "breaking", words)
            return _ServiceDiff(change, None, (), (_refusal(old, breaks, draft),), broken, old.reference)
        stays = f"becomes {new.name}@{draft.version}; {old.reference} stays as it was served"
        return _ServiceDiff(_edit("service", new.name, "state-compatible", (*words, stays)), draft)

    def _draft(self, name: str, version: int) -> Draft:
        return Draft(name, version, version_of(self.desired, name, version).fingerprint)

    def _backfill_of(self, view: ir.View) -> Cost:
        return cost_of(view, self.rows_of(view.source))


def _edit(kind: Kind, name: str, effect: Class, reasons: tuple[str, ...], cost: Cost | None = None) -> Change:
    return Change(kind, name, "changed", effect, reasons, cost)


def _moved_to(view: ir.View, source: ir.Source) -> Class:
    """What becomes of a view when its source becomes this one and nothing else changes."""
    schema = source.schema
    if any(c not in schema for c in view.reads):
        return "backfill"
    moved = replace(view, source=source)
    if storage_fingerprint(moved) != storage_fingerprint(view):
        return "backfill"
    return "metadata only" if ir.view_fingerprint(moved) == ir.view_fingerprint(view) else "state-compatible"


def _service_edits(
    old: ServiceVersion, new: ir.Service, desired: ir.Plan
) -> tuple[list[str], list[str], frozenset[tuple[str, str]]]:
    """What breaks a reader of the old columns, what does not, and the features of views that break it."""
    before, after = _columns_of(old.service), _columns_of(new)
    breaks, broken = [], set()
    for name, was in before.items():
        now = after.get(name)
        words = [f"column {name} removed"] if now is None else _column_edits(old, was, new, now, desired)
        breaks += words
        for read in _made_of(old.service, was):
            if words and _differs(old.view(read.view), read, desired):
                broken.add((read.view, read.feature))
    breaks += [
        f"a request has to hold {name} too" for name in _wanted(new) if name not in _wanted(old.service)
    ]
    kept, order = [n for n in before if n in after], [n for n in after if n in before]
    if kept != order:
        breaks.append(f"columns reordered {', '.join(kept)} -> {', '.join(order)}")
    last = max((i for i, name in enumerate(after) if name in before), default=-1)
    added = [(i, name) for i, name in enumerate(after) if name not in before]
    breaks += [f"column {name} put before {list(after)[last]}" for i, name in added if i < last]
    harmless = [f"column {name} appended" for i, name in added if i > last]
    promised, promises = (
        {
            "max_staleness": time_text(s.max_staleness),
            "deadline": time_text(s.deadline),
            "on_unavailable": s.on_unavailable,
            **_scales(s),
        }
        for s in (old.service, new)
    )
    return breaks, [*harmless, *differences(promised, promises)], frozenset(broken)


def _scales(service: ir.Service) -> dict[str, str]:
    """How each column is scaled, for those who ask for it."""
    return {
        f"scale of {s.column}": f"{s.kind}({', '.join(f'{n:g}' for n in s.numbers)})" for s in service.scale
    }


Column = ir.Read | ir.OnDemand


def _columns_of(service: ir.Service) -> dict[str, Column]:
    """The columns of a service by name, in order."""
    found: dict[str, Column] = {r.output: r for r in service.reads if not r.hidden}
    found |= {o.name: o for o in service.on_demand}
    return {name: found[name] for name, _ in service.columns}


def _made_of(service: ir.Service, column: Column) -> list[ir.Read]:
    """The reads behind a column: itself, or the hidden ones that an on-demand expression takes."""
    if isinstance(column, ir.Read):
        return [column]
    return [r for r in service.reads if r.hidden and r.output in column.columns]


def _wanted(service: ir.Service) -> list[str]:
    """What a request has to hold: join keys, then request columns."""
    keys = dict.fromkeys(column for r in service.reads for _, column in r.keys)
    return [*keys, *(name for name, _ in service.request)]


def _column_edits(
    old: ServiceVersion, was: Column, service: ir.Service, now: Column, desired: ir.Plan
) -> list[str]:
    if isinstance(was, ir.Read) and isinstance(now, ir.Read):
        return _read_edits(old, was, desired, now)
    name = was.output if isinstance(was, ir.Read) else was.name
    if isinstance(was, ir.Read) or isinstance(now, ir.Read):
        return [f"column {name}: {_kind(was)} -> {_kind(now)}"]
    words = [*differences(_on_demand_parts(was), _on_demand_parts(now))]
    inputs = {r.output: r for r in _made_of(service, now)}
    for read in _made_of(old.service, was):
        if read.output in inputs:
            words += _read_edits(old, read, desired, inputs[read.output])
    return [f"column {name}: {', '.join(dict.fromkeys(words))}"] if words else []


def _kind(column: Column) -> str:
    return "stored" if isinstance(column, ir.Read) else "on demand"


def _on_demand_parts(feature: ir.OnDemand) -> dict[str, str]:
    default = "" if feature.default is None else repr(feature.default)
    parts = {"expression": feature.text, "type": repr(feature.dtype), "default": default}
    if isinstance(feature.expression, ir.PythonFunction):
        captured = "\n".join(f"{name} = {value}" for name, value in feature.expression.captured)
        parts |= {
            "function": ir.digest(feature.expression.source)[:8],
            "what it captures": ir.digest(captured)[:8],
        }
    return parts


def _read_edits(old: ServiceVersion, was: ir.Read, desired: ir.Plan, now: ir.Read) -> list[str]:
    words = [*differences({"type": repr(was.dtype)}, {"type": repr(now.dtype)})]
    words += differences({"looked up by": lookup_text(was)}, {"looked up by": lookup_text(now)})
    before, after = old.view(was.view), desired.view(now.view)
    if feature_digest(before, was.feature) != feature_digest(after, now.feature):
        words += said(meaning_words(before, was.feature, after, now.feature))
    return [f"column {was.output}: {', '.join(dict.fromkeys(words))}"] if words else []


def _differs(frozen: ir.View, read: ir.Read, desired: ir.Plan) -> bool:
    """Whether a view is still there, and a feature of it is gone or means something else."""
    view = next((v for v in desired.views if v.name == read.view), None)
    if view is None:
        return False
    return not _has(view, read.feature) or feature_digest(view, read.feature) != feature_digest(
        frozen, read.feature
    )


def _refusal(served: ServiceVersion, breaks: Sequence[str], draft: Draft) -> str:
    assert served.first_served_at is not None
    since = datetime.fromtimestamp(served.first_served_at // 1_000_000, UTC).isoformat()
    lines = [
        f"feature service '{served.name}' may not change: {served.reference} has served since {since}",
        *(f"- {b}" for b in breaks),
        "what works: leave columns and features as they are, and append the new one under a name of its own:",
        f"the service becomes {served.name}@{draft.version}",
        "or declare a service of another name beside this one",
        f"or retire '{served.name}': apply without it; applied later it is {served.name}@{draft.version}",
    ]
    return "\n  ".join(lines)


def _no_more(served: ServiceVersion) -> str:
    return (
        f"feature service '{served.name}' has served and is retired: its bare name becomes an error, and "
        f"{served.reference} stays on record"
    )


def _missing(plan: ir.Plan, read: ir.Read) -> bool:
    view = next((v for v in plan.views if v.name == read.view), None)
    return view is None or not _has(view, read.feature)


def _has(view: ir.View, feature: str) -> bool:
    return any(f.name == feature for f in view.features)


def _dangling(plan: ir.Plan) -> Iterator[str]:
    """What is read and not there, with who reads it. Definitions loaded together never have such."""
    entities, sources = {e.name for e in plan.entities}, {s.name for s in plan.sources}
    for view in plan.views:
        if view.entity not in entities:
            yield f"entity '{view.entity}' is gone, and feature view '{view.name}' is still about it"
        if view.source.name not in sources:
            yield f"source '{view.source.name}' is gone, and feature view '{view.name}' still reads it"
    for label in plan.labels:
        if label.view.entity not in entities:
            yield f"entity '{label.view.entity}' is gone, and label '{label.name}' is still about it"
        if label.view.source.name not in sources:
            yield f"source '{label.view.source.name}' is gone, and label '{label.name}' still reads it"
    views = {v.name for v in plan.views}
    readers: dict[str, dict[str, None]] = {}
    for service in plan.services:
        for read in (r for r in service.reads if _missing(plan, r)):
            feature = f"feature '{read.feature}' of view '{read.view}'"
            gone = feature if read.view in views else f"feature view '{read.view}'"
            readers.setdefault(gone, {})[service.name] = None
    for gone, names in readers.items():
        yield f"{gone} is gone, and still read by feature service {', '.join(map(repr, names))}"


def _warnings(plan: ir.Plan, rows_of: RowsOf) -> Iterator[str]:
    for source in plan.sources:
        readers = [v.name for v in plan.views if v.source.name == source.name]
        if source.event_time is None and readers:
            yield (
                f"source '{source.name}' is static: {', '.join(readers)} can see what was not yet known "
                "at the moment asked for; name its event_time if it has one"
            )
    for service in plan.services:
        reads = [r for r in service.reads if not _missing(plan, r)]
        if not any(is_tensor(r.dtype) for r in reads):
            yield f"feature service '{service.name}' reads no numbers: asking for it as a tensor is an error"
        numbers = [r for r in reads if is_integer(r.dtype)]
        large = [r.output for r in numbers if not _is_small(plan.view(r.view), r, rows_of)]
        if large:
            yield (
                f"feature service '{service.name}' reads whole numbers ({', '.join(large)}): past "
                f'{FLOAT32_WHOLE:,} a float32 tensor rounds them; dtype="float64" does not'
            )


def _is_small(view: ir.View, read: ir.Read, rows_of: RowsOf) -> bool:
    """Whether this is a count of so few rows that float32 holds it exactly."""
    rows = rows_of(view.source)
    return view.feature(read.feature).aggregate == "count" and rows is not None and rows <= FLOAT32_WHOLE


def feature_digest(view: ir.View, feature: str) -> str:
    return ir.digest(ir.feature_meaning(view, view.feature(feature)))


def _names(*groups: Sequence[_Named]) -> list[str]:
    return sorted({node.name for group in groups for node in group})


def _pairs(old: Sequence[_Named], new: Sequence[_Named]) -> list[tuple[_Named | None, _Named | None]]:
    """What was and what will be under each name, sorted by name."""
    before, after = {n.name: n for n in old}, {n.name: n for n in new}
    return [(before.get(name), after.get(name)) for name in _names(old, new)]


def _once(rows_of: RowsOf) -> RowsOf:
    """Asks once per source: the answer may mean opening many files."""
    known: dict[str, int | None] = {}

    def rows(source: ir.Source) -> int | None:
        if source.name not in known:
            known[source.name] = rows_of(source)
        return known[source.name]

    return rows
