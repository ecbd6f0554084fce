"""What a notebook shows of a declaration."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from featurestore import declare as d
from featurestore.html import grid, words

_ASIDE = frozenset({"name", "line", "label", "features"})


def declaration_html(value: Any) -> str:
    """An entity, a source, a view or a service: what was said of it, and its features."""
    title = f"{type(value).__name__} {value.name}"
    said = [(f.name, getattr(value, f.name)) for f in fields(value) if f.name not in _ASIDE]
    table = grid(title, ("", ""), ((n, words(v)) for n, v in said if v not in (None, "", (), [], {})))
    features = getattr(value, "features", None)
    if features is None:
        return table
    return table + grid("features", ("", "of", "over", "where", "default"), map(_feature, features))


def _feature(item: Any) -> tuple[object, ...]:
    match item:
        case d.Aggregation():
            every = "" if item.hop is None else f" every {item.hop}"
            windows = ", ".join(map(str, item.windows)) + every
            where = None if item.condition is None else str(item.condition)
            return item.label or item.aggregate, words(item.inputs), windows, where, item.fallback
        case d.FeatureView():
            return item.name, "all features", None, None, None
        case d.FeatureRef():
            return _feature(item.on)
        case d.ViewOn():
            chosen = ", ".join(item.features) if item.features else "all features"
            by = ", ".join(f"{key} from {column}" for key, column in item.columns)
            return item.view.name, chosen, by or None, None, None
        case d.OnDemand():
            return item.name, str(item.expression), "on demand", None, item.default
        case _:
            return str(item), None, None, None, None
