"""Which partials a view keeps on which level: decided here, read by the tile SQL, the training kernel and the codec.

A level is one hop. On it, equal partials of different features (the sum of `sum` and of `mean`, under the same filter)
are one slot. Slots are sorted by their canonical text, so the order in which features were written changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from featurestore.aggregates import (
    Distinct,
    Field,
    FirstK,
    Frequencies,
    Largest,
    LastK,
    MaxBy,
    MinBy,
    Moments,
    Ragged,
    Reduction,
    Smallest,
    bind,
    fields,
    has_null_bit,
    ordered,
)
from featurestore.expr import Expr, infer, to_json
from featurestore.ir import LATEST, Feature, View, canonical, digest, feature_meaning
from featurestore.types import DType, type_to_json

LAYOUT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Slot:
    """One partial: a reduction over an expression of the rows for which `where` is true.

    `dtype` is the type of the input, None for a count of rows; `by` that of what it goes by, if it does.
    """

    name: str
    reduction: Reduction
    where: Expr | None
    dtype: DType | None
    by: DType | None = None

    @property
    def fields(self) -> tuple[Field, ...]:
        return fields(self.reduction, self.dtype, self.by)

    @property
    def ragged(self) -> bool:
        """Whether a partial holds any number of items: then `fields` are those of an item."""
        return isinstance(self.reduction, Ragged)

    @property
    def has_null_bit(self) -> bool:
        return has_null_bit(self.reduction)


@dataclass(frozen=True, slots=True)
class Level:
    """The tiles of one hop. `reach` is the longest window on it in microseconds, None when one is a lifetime."""

    hop: int
    slots: tuple[Slot, ...]
    reach: int | None
    lifetime: bool


@dataclass(frozen=True, slots=True)
class LatestSlot:
    """One column of the latest row."""

    name: str
    value: Expr
    dtype: DType


@dataclass(frozen=True, slots=True)
class Layout:
    """All a view keeps: its levels from fine to coarse, and the columns of its latest row.

    `parts[feature]` maps the partials of the feature's aggregate to slots of its level (or, for a latest value, the name
    `v` to a column of the latest row).
    """

    levels: tuple[Level, ...]
    latest: tuple[LatestSlot, ...]
    parts: Mapping[str, Mapping[str, str]] = field(compare=False, hash=False)

    @property
    def grid(self) -> int:
        """The microseconds a cut between base and head is a multiple of: every tile lies on one side of it.

        The coarsest hop where the hops nest, their least common multiple where not, 1 for latest values alone.
        """
        return math.lcm(*(level.hop for level in self.levels))

    def level(self, hop: int) -> Level:
        return next(level for level in self.levels if level.hop == hop)


def layout_of(view: View) -> Layout:
    """The layout of a view's features."""
    schema = view.source.schema
    by_hop: dict[int, dict[str, tuple[Reduction, Expr | None]]] = {}
    latest: dict[str, Expr] = {}
    uses: dict[str, dict[str, str]] = {}
    for feature in view.features:
        if feature.window is None:
            text = canonical(to_json(feature.inputs[0]))
            latest[text] = feature.inputs[0]
            uses[feature.name] = {"v": text}
            continue
        level = by_hop.setdefault(feature.window.hop, {})
        uses[feature.name] = {}
        for part, reduction in _partials(feature).items():
            text = _slot_text(reduction, feature.where)
            level[text] = (reduction, feature.where)
            uses[feature.name][part] = text
    levels = []
    names: dict[tuple[int | None, str], str] = {}
    for hop, slots in sorted(by_hop.items()):
        made = []
        for i, text in enumerate(sorted(slots)):
            reduction, where = slots[text]
            dtype = None if reduction.arg is None else infer(reduction.arg, schema)
            by = infer(reduction.by, schema) if isinstance(reduction, MinBy | MaxBy) else None
            made.append(Slot(f"p{i}", reduction, where, dtype, by))
            names[hop, text] = f"p{i}"
        windows = [f.window for f in view.features if f.window is not None and f.window.hop == hop]
        sizes = [w.size for w in windows if w.size is not None]
        endless = any(w.size is None for w in windows)
        levels.append(Level(hop, tuple(made), max(sizes, default=None), endless))
    columns = []
    for i, text in enumerate(sorted(latest)):
        columns.append(LatestSlot(f"v{i}", latest[text], infer(latest[text], schema)))
        names[None, text] = f"v{i}"
    parts = {
        f.name: {part: names[f.window.hop if f.window else None, text] for part, text in uses[f.name].items()}
        for f in view.features
    }
    return Layout(tuple(levels), tuple(columns), parts)


def storage_fingerprint(view: View) -> str:
    """Names what is stored for a view: another source, filter, key, partial or level is another prefix in the store.

    Finishing, defaults, windows that fit into kept tiles, ttl and names of features are no part of it.
    """
    layout = layout_of(view)
    first = feature_meaning(view, view.features[0])
    meaning = {
        k: first[k] for k in ("location", "stream", "lateness", "filter", "keys", "event_time", "event_id")
    }
    # Which copy of an event stays, and which of two at one moment is last, decides what is in a record.
    ties = bool(layout.latest) or any(ordered(s.reduction) for level in layout.levels for s in level.slots)
    order = view.order if ties else ()
    meaning["arrival_time"] = view.source.arrival_time if view.source.event_id or view.source.stream else None
    # The types of what is read decide how wide it is.
    schema = view.source.schema
    meaning["types"] = [[c, type_to_json(schema[c])] for c in sorted(view.reads | set(order))]
    slots = [
        [[level.hop, level.lifetime, level.reach], [_slot_text(s.reduction, s.where) for s in level.slots]]
        for level in layout.levels
    ]
    latest = [canonical(to_json(c.value)) for c in layout.latest]
    return digest(
        {
            "version": LAYOUT_VERSION,
            "order": list(order),
            "slots": slots,
            "latest": latest,
            **meaning,
        }
    )


def _partials(feature: Feature) -> dict[str, Reduction]:
    assert feature.aggregate != LATEST
    inputs = dict(zip(("x", "by"), feature.inputs, strict=False))
    return {part: bind(r, inputs) for part, r in feature.partials.items()}


def _slot_text(reduction: Reduction, where: Expr | None) -> str:
    arg = None if reduction.arg is None else to_json(reduction.arg)
    more: list[object] = []
    match reduction:
        case MinBy(by=by) | MaxBy(by=by):
            more = [to_json(by)]
        case Moments(order=order) if order != 2:
            more = [order]
        case FirstK(k=k) | LastK(k=k) | Largest(k=k) | Smallest(k=k) | Distinct(k=k):
            more = [k]
        case Frequencies(bound=bound):
            more = [bound]
        case _:
            pass
    return canonical([type(reduction).__name__, arg, None if where is None else to_json(where), *more])
