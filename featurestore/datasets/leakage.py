"""What of a training set may know its own answer: values that could be known only afterwards, or that predict too well.

The store keeps the future out of every feature by event time. What it cannot see is told here from the data: events that
reached the store after the moment they are counted at, tables without a history, and columns that were put into the spine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from featurestore.config import Config
from featurestore.datasets.manifest import load, training_of
from featurestore.datasets.signal import strength
from featurestore.errors import DatasetError, nearest
from featurestore.expr import columns_of
from featurestore.ir import Label, Service, View
from featurestore.training import TrainingSet

Level = Literal["leak", "suspect", "note"]
"""`leak`: it knows what nobody could. `suspect`: it may, and somebody should look. `note`: nothing to do."""

Kind = Literal["after", "no history", "too good", "reachable"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about one column. `share` is of the rows that were looked at, `score` how well it predicts, where it does."""

    level: Level
    kind: Kind
    column: str
    label: str | None
    what: str
    share: float | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Leakage:
    """What was found, the worst first. `rows` were looked at, `compared` of them computed again as of what had arrived.

    `scores` has for each label and column how well the column alone predicts the label, from 0 to 1.
    """

    rows: int
    compared: int
    labels: tuple[str, ...]
    findings: tuple[Finding, ...]
    scores: Mapping[str, Mapping[str, float]]

    @property
    def clean(self) -> bool:
        """Whether there is nothing but notes."""
        return all(f.level == "note" for f in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"clean": self.clean, **asdict(self)}

    def __str__(self) -> str:
        lines = [f"{f.level}: {f.column}: {f.what}" for f in self.findings]
        head = f"{self.rows:,} rows, labels {', '.join(self.labels) or 'none'}"
        return "\n".join([head, *(lines or ["nothing was found"])])


def leakage(
    config: Config,
    made: TrainingSet | str | Path,
    label: str | None = None,
    *,
    threshold: float = 0.95,
    rows: int = 200_000,
    compared: int = 2_000,
) -> Leakage:
    """Looks at a training set, or the folder of one. `label` is a column to take as one; by default the set's own labels.

    A column is suspect whose score for a label is at least `threshold`: twice the distance of its area under the curve from
    a half where the label has two values, else the share of the label's entropy that it tells. At most `rows` rows are
    scored, and the features of `compared` are computed again of what had arrived at each row's moment.
    """
    found = _opened(config, made, rows)
    labels = [label] if label is not None else [x.name for x in found.labels]
    for name in labels:
        if name not in found.table.column_names:
            raise DatasetError(
                "\n  ".join([f"the set has no column '{name}'", *nearest(name, found.table.column_names)])
            )
    scores = {name: _scores(found, name) for name in labels}
    told: list[Finding] = []
    told += _later_columns(found)
    again, of = _arrived_later(found, compared)
    told += again
    told += _without_history(found)
    told += _too_good(scores, threshold, found)
    told += _reachable(found)
    rank = {"leak": 0, "suspect": 1, "note": 2}
    told.sort(key=lambda f: (rank[f.level], -(f.share or f.score or 0.0)))
    return Leakage(found.table.num_rows, of, tuple(labels), tuple(told), scores)


# ------------------------------------------------------------------------------------------------------------ what is looked at


@dataclass(frozen=True)
class _Set:
    training: TrainingSet
    table: pa.Table
    spine: Sequence[str]

    @property
    def service(self) -> Service:
        return self.training.service

    @property
    def labels(self) -> tuple[Label, ...]:
        return self.training.labels

    @property
    def keys(self) -> set[str]:
        """The columns that say which row it is: nobody learns from them."""
        joined = {column for r in self.service.reads for _, column in r.keys}
        return joined.union(*(x.keys for x in self.labels), [self.training.timestamp])


def _opened(config: Config, made: TrainingSet | str | Path, rows: int) -> _Set:
    if isinstance(made, TrainingSet):
        table = made.to_arrow()
        own = {*(n for n, _ in made.service.columns), *made.label_columns}
        spine = [n for n in table.column_names if n not in own and not n.endswith("__status")]
        return _Set(made, _some(table, rows), spine)
    manifest = load(made)
    every = max(1, -(-int(manifest.content["rows"]) // rows))
    parts = [pq.read_table(p) for p in manifest.parts]
    picked = pa.concat_tables([p.take(np.arange(0, p.num_rows, every)) for p in parts])
    table = picked.select(manifest.spine_columns)
    return _Set(training_of(config, manifest, table), picked, manifest.spine_columns)


def _some(table: pa.Table, rows: int) -> pa.Table:
    every = max(1, -(-table.num_rows // rows))
    return table if every == 1 else table.take(np.arange(0, table.num_rows, every))


# ------------------------------------------------------------------------------------------------------------------- after


def _later_columns(found: _Set) -> Iterator[Finding]:
    """Times in the spine that are later than the row's moment."""
    asked = found.table.column(found.training.timestamp)
    if not pa.types.is_timestamp(asked.type):
        return
    for name in found.spine:
        column = found.table.column(name)
        if name == found.training.timestamp or not pa.types.is_timestamp(column.type):
            continue
        later = (
            pc.mean(pc.greater(column.cast(asked.type, safe=False), asked).cast(pa.float64())).as_py() or 0.0
        )
        if later:
            what = f"a column of the spine that is later than the row's moment in {later:.1%} of the rows"
            yield Finding("leak", "after", name, None, what, share=later)


def _arrived_later(found: _Set, rows: int) -> tuple[list[Finding], int]:
    """Features whose value changes when only events count that had arrived at the row's moment."""
    training, told = found.training, list[Finding]()
    timed = {v.name for v in training.views.values() if v.source.arrival_time is not None}
    if training.knowledge == "arrived" or not any(r.view in timed for r in training.service.reads):
        return told, 0
    spine = _some(found.table.select(found.spine), rows)
    plain = replace(training, spine=spine, labels=(), as_of=None, scaler=None, statuses=False)
    knew = plain.to_arrow()
    then = replace(plain, knowledge="arrived", lag={}).to_arrow()
    for name, _ in training.service.columns:
        a, b = (t.column(name).to_pylist() for t in (knew, then))
        share = sum(x != y for x, y in zip(a, b, strict=True)) / max(1, len(a))
        if share:
            what = (
                f"in {share:.1%} of the rows it holds events that had not arrived at the row's moment: "
                'make the set with knowledge="arrived"'
            )
            told.append(Finding("leak", "after", name, None, what, share=share))
    return told, spine.num_rows


def _without_history(found: _Set) -> Iterator[Finding]:
    """Features of static sources: every row sees what stands there today."""
    for name, views in _made_of(found).items():
        static = sorted({v.source.name for v in views if v.source.event_time is None})
        if static:
            what = (
                f"source '{static[0]}' has no event time: it shows what is known today, at every row's moment"
            )
            yield Finding("suspect", "no history", name, None, what)


def _made_of(found: _Set) -> dict[str, list[View]]:
    """The views behind each column of the service."""
    views, hidden = found.training.views, {r.output: r for r in found.service.reads if r.hidden}
    made = {r.output: [views[r.view]] for r in found.service.reads if not r.hidden}
    for computed in found.service.on_demand:
        made[computed.name] = [views[hidden[c].view] for c in sorted(computed.columns) if c in hidden]
    return made


# -------------------------------------------------------------------------------------------------------- too good, reachable


def _scores(found: _Set, label: str) -> dict[str, float]:
    aside = found.keys | set(found.training.label_columns) | {label}
    names = [n for n in found.table.column_names if n not in aside and not n.endswith("__status")]
    answer = found.table.column(label)
    return {n: s for n in names if (s := strength(found.table.column(n), answer)) is not None}


def _too_good(scores: Mapping[str, Mapping[str, float]], threshold: float, found: _Set) -> Iterator[Finding]:
    for label, columns in scores.items():
        for name, score in columns.items():
            if score >= threshold:
                whose = "a column of the spine" if name in found.spine else "a feature"
                what = f"{whose} that alone predicts '{label}' with a score of {score:.3f} out of 1"
                yield Finding("suspect", "too good", name, label, what, score=score)


def _reachable(found: _Set) -> Iterator[Finding]:
    """Features that read the source of a label: of what was before the row alone, unless the source has no history."""
    for label in found.labels:
        source = label.view.source
        for name, views in _made_of(found).items():
            same = [v for v in views if v.source.location == source.location]
            if not same:
                continue
            if any(v.source.event_time is None for v in same):
                what = f"reads '{source.name}', of which label '{label.name}' is made, without its event time"
                yield Finding("leak", "reachable", name, label.name, what)
                continue
            if any(v.source.event_time != source.event_time for v in same):
                what = (
                    f"reads '{source.name}', of which label '{label.name}' is made, by another event time: "
                    f"'{same[0].source.event_time}', and the label by '{source.event_time}'"
                )
                yield Finding("suspect", "reachable", name, label.name, what)
                continue
            shared = sorted(_read(same) & label.view.reads)
            what = (
                f"reads '{source.name}', of which label '{label.name}' is made"
                f"{': ' + ', '.join(shared) if shared else ''}; of what was before the row alone"
            )
            yield Finding("note", "reachable", name, label.name, what)


def _read(views: Sequence[View]) -> frozenset[str]:
    exprs = [e for v in views for f in v.features for e in f.inputs]
    return frozenset[str]().union(*map(columns_of, exprs))


__all__ = ["Finding", "Leakage", "leakage"]
