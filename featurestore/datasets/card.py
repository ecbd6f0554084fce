"""The card of a training set: what is in it and where it comes from, for whoever is to trust a model made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from featurestore import ir
from featurestore.datasets.manifest import Manifest, broken_parts, load
from featurestore.errors import DatasetError, nearest
from featurestore.statistics import Keep, Summary
from featurestore.types import Bool, Date, DType, Float64, Int64, String, Timestamp

SLICES = 20
"""The slices that are looked at: those with most rows."""

TELLING = 3
"""Features named for each slice: those whose mean lies furthest from that of all rows."""

_SLICED = Keep(order=2, quantiles=None, distinct=None, frequent=None)


@dataclass(frozen=True, slots=True)
class Slice:
    """The rows with one value of a column. `label` is the mean of the label's numbers in them, None without a label.

    `apart` are features and how far their mean is from that of all rows, in standard deviations of all rows.
    """

    value: str
    rows: int
    label: float | None
    null_share: float
    apart: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Card:
    """What a training set is. `statistics` are of its features and its label, over all rows; `span` in microseconds."""

    folder: str
    content: Mapping[str, Any]
    statistics: Summary
    features: tuple[str, ...]
    span: tuple[int, int] | None
    label: str | None
    by: str | None
    slices: tuple[Slice, ...]
    problems: tuple[str, ...]

    @property
    def rows(self) -> int:
        return int(self.content["rows"])

    @property
    def classes(self) -> list[tuple[str, int]]:
        """The values of the label and how many rows have each, most first; `NULL` among them. Empty without a label."""
        if self.label is None:
            return []
        of = self.statistics[self.label]
        found = [(str(v), n) for v, n in of.most_frequent(SLICES)]
        if of.dtype == Bool and of.count:
            true = round((of.average or 0.0) * of.count)
            found = [("true", true), ("false", of.count - true)]
        return sorted([*found, *([("NULL", of.nulls)] if of.nulls else [])], key=lambda c: -c[1])

    @property
    def missing(self) -> list[tuple[str, float]]:
        """The features that have NULLs and the share of them, most first."""
        shares = [(name, self.statistics[name].null_share or 0.0) for name in self.features]
        return sorted(((n, s) for n, s in shares if s), key=lambda c: -c[1])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        content = self.content
        return {
            "folder": self.folder,
            "rows": self.rows,
            "features": len(self.features),
            "span": None if self.span is None else list(self.span),
            "label": self.label,
            "classes": dict(self.classes),
            "missing": dict(self.missing),
            "by": self.by,
            "slices": [
                {
                    "value": s.value,
                    "rows": s.rows,
                    "label": s.label,
                    "null_share": s.null_share,
                    "apart": dict(s.apart),
                }
                for s in self.slices
            ],
            "statistics": [f.to_json() for f in self.statistics],
            "provenance": {
                k: content[k] for k in ("service", "views", "parameters", "inputs", "made_with")
            } | {"spine": {k: content["spine"][k] for k in ("columns", "rows", "digest", "from")}},
            "scaler": content.get("scaler"),
            "problems": list(self.problems),
        }  # fmt: skip


def card(folder: str | Path, *, label: str | None = None, by: str | None = None) -> Card:
    """The card of the training set in a folder: read once, and once more with `by`, a column whose values are slices.

    `label` is the column that a model is to predict, by default the set's own label. Raises DatasetError for a folder that is
    no set, or a column it has not.
    """
    manifest = load(folder)
    content = manifest.content
    schema = pq.read_schema(manifest.parts[0]) if manifest.parts else pa.schema([])
    labels = list(content.get("labels", {}).get("columns", []))
    aside = {*manifest.spine_columns, *labels}
    features = tuple(n for n in schema.names if n not in aside and not n.endswith(("__status", "__from")))
    label = label if label is not None or not labels else labels[0]
    for name in (label, by):
        if name is not None and name not in schema.names:
            raise DatasetError(
                "\n  ".join([f"{folder} has no column '{name}'", *nearest(name, schema.names)])
            )
    told = [*features, *([label] if label is not None and label not in features else [])]
    types = {name: declared(schema.field(name).type) for name in told}
    whole = Summary(types)
    timestamp = str(content["parameters"]["timestamp"])
    span: tuple[int, int] | None = None
    counts: dict[str, int] = {}
    for batch in _batches(manifest, [*told, timestamp, *([by] if by is not None else [])]):
        whole.update(batch)
        span = _wider(span, batch.column(timestamp))
        if by is not None:
            for found in pc.value_counts(_texts(batch.column(by))).to_pylist():
                counts[found["values"]] = counts.get(found["values"], 0) + found["counts"]
    slices = () if by is None else _slices(manifest, whole, types, features, label, by, counts)
    return Card(str(folder), content, whole, features, span, label, by, slices, tuple(broken_parts(manifest)))


def _batches(manifest: Manifest, columns: list[str]) -> Any:
    for part in manifest.parts:
        with pq.ParquetFile(part) as file:
            yield from file.iter_batches(65_536, columns=list(dict.fromkeys(columns)))


def _slices(
    manifest: Manifest,
    whole: Summary,
    types: Mapping[str, DType],
    features: tuple[str, ...],
    label: str | None,
    by: str,
    counts: Mapping[str, int],
) -> tuple[Slice, ...]:
    chosen = sorted(counts, key=lambda v: (-counts[v], v))[:SLICES]
    parts = {value: Summary(types, _SLICED) for value in chosen}
    for batch in _batches(manifest, [*types, by]):
        values = _texts(batch.column(by))
        for value, part in parts.items():
            mine = batch.filter(pc.equal(values, value))
            if mine.num_rows:
                part.update(mine)
    return tuple(_slice(value, counts[value], parts[value], whole, features, label) for value in chosen)


def _slice(
    value: str, rows: int, part: Summary, whole: Summary, features: tuple[str, ...], label: str | None
) -> Slice:
    apart = []
    shares = []
    for name in features:
        mine, every = part[name], whole[name]
        shares.append(mine.null_share or 0.0)
        if mine.average is not None and every.average is not None and every.stddev:
            apart.append((name, (mine.average - every.average) / every.stddev))
    apart.sort(key=lambda pair: -math.fabs(pair[1]))
    mean = None if label is None or whole.columns[label] == String else part[label].average
    null_share = sum(shares) / len(shares) if shares else 0.0
    return Slice(value, rows, mean, null_share, tuple(apart[:TELLING]))


def _texts(column: Any) -> Any:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return pc.fill_null(pc.cast(column, pa.string()), "NULL")


def _wider(span: tuple[int, int] | None, column: Any) -> tuple[int, int] | None:
    ends = pc.min_max(column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())).as_py()
    if ends["min"] is None:
        return span
    return (
        (ends["min"], ends["max"]) if span is None else (min(span[0], ends["min"]), max(span[1], ends["max"]))
    )


def declared(kind: pa.DataType) -> DType:
    """The type of a value as statistics see it, of a column of a training set."""
    from featurestore.types import DecimalType, ListType

    if pa.types.is_boolean(kind):
        return Bool
    if pa.types.is_integer(kind):
        return Int64
    if pa.types.is_decimal(kind):
        return DecimalType(kind.precision, kind.scale)
    if pa.types.is_timestamp(kind):
        return Timestamp
    if pa.types.is_date(kind):
        return Date
    if pa.types.is_nested(kind):
        return ListType(Int64)
    return Float64 if pa.types.is_floating(kind) else String


def provenance(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Where a set comes from, as names and texts."""
    service = content["service"]
    inputs = [
        f"{i['source']} ({i['path']}{', ' + str(len(i['files'])) + ' files' if 'files' in i else ''})"
        for i in content["inputs"]
    ]
    made = ", ".join(f"{k} {v}" for k, v in content["made_with"].items())
    return [
        ("service", f"{service['version'] or service['name']}, fingerprint {service['fingerprint']}"),
        (
            "spine",
            f"{content['spine']['from']}, {content['spine']['rows']:,} rows, digest {content['spine']['digest']}",
        ),
        ("inputs", "; ".join(inputs)),
        ("made with", made),
        ("plan", ir.digest(content["plan"])),
    ]


__all__ = ["SLICES", "Card", "Slice", "card", "declared", "provenance"]
