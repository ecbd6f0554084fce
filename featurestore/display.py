"""What a notebook shows: small HTML tables of definitions, plans, training sets and feature vectors. All text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featurestore.planning.records import ChangePlan
    from featurestore.serving import OnlineFeatures
    from featurestore.training import TrainingSet

ROWS = 10
"""Rows shown of many."""

PREVIEW_SPINE_ROWS = 10_000
PREVIEW_SOURCE_BYTES = 32 << 20
"""A training set shows its first rows when its spine is in memory and its sources are files no larger than this in all."""

_WIDTH = 300
_ASIDE = frozenset({"name", "line", "label", "features"})


def grid(title: str, headers: Sequence[object], rows: Iterable[Sequence[object]], note: str = "") -> str:
    """An HTML table with a caption; None is shown as a dash, a long text cut."""
    head = "".join(f"<th>{_cell(h)}</th>" for h in headers)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(v)}</td>' for v in row)}</tr>" for row in rows)
    caption = f'<caption style="text-align:left"><b>{_cell(title)}</b></caption>'
    below = f"<div><small>{_cell(note)}</small></div>" if note else ""
    return f"<div><table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}</div>"


def declaration_html(value: Any) -> str:
    """An entity, a source, a view or a service: what was said of it, and its features."""
    title = f"{type(value).__name__} {value.name}"
    said = [(f.name, getattr(value, f.name)) for f in fields(value) if f.name not in _ASIDE]
    table = grid(title, ("", ""), ((n, _words(v)) for n, v in said if v not in (None, "", (), [], {})))
    features = getattr(value, "features", None)
    if features is None:
        return table
    return table + grid("features", ("", "of", "over", "where", "default"), map(_feature, features))


def plan_html(plan: ChangePlan) -> str:
    """Every change, what it does, and what stops it."""
    rows = [(c.action, c.kind, c.name, c.effect, "; ".join(c.reasons)) for c in plan.changes]
    title = "nothing would change" if plan.is_empty else f"plan on revision {plan.base_revision}"
    table = grid(title, ("", "kind", "name", "effect", "why"), rows)
    for head, lines in (("cannot be applied", plan.blocked), ("warnings", plan.warnings)):
        table += grid(head, ("",), ((line,) for line in lines)) if lines else ""
    return table


def training_html(training: TrainingSet) -> str:
    """The columns with their types, and the first rows where they cost little."""
    from featurestore.errors import FeatureStoreError

    service = training.service
    title = f"training set of {training.reference or service.name}"
    if not _is_cheap(training):
        rows = [(name, str(dtype)) for name, dtype in service.columns]
        return grid(
            title, ("feature", "type"), rows, "not computed yet: to_arrow(), batches() or to_parquet(…) does"
        )
    try:
        table = next(training.tables())
    except FeatureStoreError as error:
        return grid(title, ("feature", "type"), [(n, str(t)) for n, t in service.columns], str(error))
    headers = [f"{f.name} ({f.type})" for f in table.schema]
    shown = [list(row.values()) for row in table.slice(0, ROWS).to_pylist()]
    return grid(title, headers, shown, f"the first {len(shown)} of {table.num_rows:,} rows")


def online_html(result: OnlineFeatures) -> str:
    """Values, and in brackets the status of what is not simply present."""
    from featurestore.status import Status

    columns = list(result.to_dict().values())
    rows = []
    for i in range(min(len(result), ROWS)):
        codes = [Status(int(code)) for code in result.statuses[i]]
        values = [_value(column[i]) for column in columns]
        said = [v if s == Status.PRESENT else f"{v} [{s.name}]" for v, s in zip(values, codes, strict=True)]
        rows.append([i, *said])
    return grid(f"{result.service.name}: {len(result):,} rows", ("", *result.names), rows)


def _is_cheap(training: TrainingSet) -> bool:
    from featurestore.datasets.manifest import inputs
    from featurestore.errors import FeatureStoreError

    rows = getattr(training.spine, "num_rows", None)
    if not isinstance(rows, int) or rows > PREVIEW_SPINE_ROWS:
        return False
    try:
        found = inputs(training.views, training.config.root, digests=False)
    except FeatureStoreError:
        return False  # reading it will say what is wrong
    if any("files" not in read for read in found):
        return False
    return sum(int(f["bytes"]) for read in found for f in read["files"]) <= PREVIEW_SOURCE_BYTES


def _feature(item: Any) -> tuple[object, ...]:
    from featurestore import declare as d

    match item:
        case d.Aggregation():
            every = "" if item.hop is None else f" every {item.hop}"
            windows = ", ".join(map(str, item.windows)) + every
            where = None if item.condition is None else str(item.condition)
            return item.label or item.aggregate, _words(item.inputs), windows, where, item.fallback
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


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {v}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value))
    name = getattr(value, "name", None)
    return name if isinstance(name, str) else str(value)


def _value(value: object) -> str:
    return "–" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _cell(value: object) -> str:
    text = _value(value)
    return escape(text if len(text) <= _WIDTH else f"{text[:_WIDTH]}…")
