"""Served vectors as captured rows: many reads of one service as one Arrow table, bit for bit what was handed out."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from featurestore.capture.schema import FEATURE, KEY, REQUEST, SCALED, CapturedSchema
from featurestore.errors import RequestError
from featurestore.evaluate.arrow import arrow_type, from_physical
from featurestore.evaluate.partials import Array, Mask
from featurestore.evaluate.ragged import hashes
from featurestore.ir import Capture
from featurestore.log.events import arrow_schema
from featurestore.serving.request import Column
from featurestore.serving.result import Block, OnlineFeatures
from featurestore.types import DType, Float32, Float64, Int64, Timestamp

_FLOATS: Final = {Float32: np.dtype(np.float32), Float64: np.dtype(np.float64)}

TABLE_ROWS: Final = 65_536
"""A table holds no more rows of several reads than this."""


class Served(NamedTuple):
    """One read that went out. `keys` and `request` are copies: the caller's own arrays may be used again."""

    result: OnlineFeatures
    request_id: str
    served_at: int
    keys: Mapping[str, Column]
    request: Mapping[str, tuple[Array, Mask | None]]
    degraded: bool = False
    context: Mapping[str, Any] | None = None
    scaled: OnlineFeatures | None = None
    scaler: int | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """What all rows of one version of a service have in common."""

    schema: CapturedSchema
    version: int
    capture: Capture


def served(
    result: OnlineFeatures,
    served_at: int,
    request_id: str | None = None,
    degraded: bool = False,  # noqa: FBT002  positions are quicker, and each read pays for it
    context: Mapping[str, Any] | None = None,
    scaled: OnlineFeatures | None = None,
    scaler: int | None = None,
) -> Served:
    """A read as it is handed to the recorder. Raises RequestError for context that does not fit the rows."""
    asked = result.asked
    assert asked is not None, "a read knows what was asked"
    if context:
        context = _fitting(context, result.rows)
    keys = {}
    for name, column in asked.columns.items():
        keys[name] = column.copy() if type(column) is np.ndarray else column
    given = {n: (v.copy(), valid) for n, (v, valid) in asked.asked.items()} if asked.asked else _NOTHING
    return Served(
        result,
        request_id or result.request_id,
        served_at,
        keys,
        given,
        degraded,
        context or None,
        scaled,
        scaler,
    )


_NOTHING: Final[Mapping[str, tuple[Array, Mask | None]]] = {}


def _fitting(context: Mapping[str, Any], rows: int) -> Mapping[str, Any]:
    for name, value in context.items():
        if isinstance(value, list | tuple | np.ndarray) and len(value) != rows:
            raise RequestError(
                f"context '{name}' has {len(value)} values for {rows} rows\n  give one value, or one for each row"
            )
    return dict(context)


def tables(kind: Kind, reads: Sequence[Served]) -> Iterator[tuple[pa.Table, int]]:
    """The rows of reads that are sampled, by what their arrays look like, and how many there were before sampling."""
    alike: dict[Any, list[Served]] = {}
    for read in reads:
        scaled = None if read.scaled is None else (_layout(read.scaled), read.scaler)
        alike.setdefault((_layout(read.result), scaled), []).append(read)
    for group in alike.values():
        some: list[Served] = []
        rows = 0
        for read in group:
            if some and rows + read.result.rows > TABLE_ROWS:
                yield _table(kind, some), rows
                some, rows = [], 0
            some.append(read)
            rows += read.result.rows
        yield _table(kind, some), rows


def _layout(result: OnlineFeatures) -> tuple[tuple[bytes, str], ...]:
    return tuple([(b.places.tobytes(), b.dtype.str) for b in result.blocks])


def _table(kind: Kind, reads: Sequence[Served]) -> pa.Table:
    """Reads whose results lie in blocks alike, as the rows of one table."""
    schema, lengths = kind.schema, np.array([r.result.rows for r in reads], np.int64)
    of = np.repeat(np.arange(len(reads)), lengths)
    take = pa.array(of)
    columns: dict[str, Any] = {
        "request_id": pa.array([r.request_id for r in reads], pa.string()).take(take),
        "row": pa.array(
            np.arange(len(of), dtype=np.int32)
            - np.repeat((np.cumsum(lengths) - lengths).astype(np.int32), lengths)
        ),
        "at": _instants([r.result.at for r in reads], lengths),
        "served_at": _instants([r.served_at for r in reads], lengths),
        "version": pa.repeat(pa.scalar(kind.version, pa.int64()), len(of)),
        "sample": pa.repeat(float(kind.capture.sample), len(of)),
        "degraded": pa.array(np.array([r.degraded for r in reads])[of]),
        "watermarks": _watermarks(reads, take),
        "context": _context(reads, take),
        "statuses": _statuses([r.result for r in reads], len(of)),
        "scaler": pa.repeat(pa.scalar(reads[0].scaler, pa.int64()), len(of)),
    }
    for name, dtype in schema.keys:
        columns[KEY + name] = _keys([r.keys[name] for r in reads], dtype)
    for name, dtype in schema.request:
        parts = [r.request[name] for r in reads]
        columns[REQUEST + name] = _cells([v for v, _ in parts], [m for _, m in parts], dtype)
    names = [n for n, _ in schema.features]
    for name, column in _features([r.result for r in reads], names).items():
        columns[FEATURE + name] = column
    if reads[0].scaled is not None:
        scaled = _features([r.scaled for r in reads if r.scaled is not None], names, schema.scaled)
        columns |= {SCALED + name: column for name, column in scaled.items()}
    stored = arrow_schema(schema.columns)
    whole = [columns[f.name] if f.name in columns else pa.nulls(len(of), f.type) for f in stored]
    table = pa.table(whole, schema=stored)
    kept = _sampled(kind, reads, of)
    return table if kept is None else table.filter(pa.array(kept))


def _instants(moments: Sequence[int], lengths: Array) -> pa.Array:
    return pa.array(np.repeat(np.array(moments, np.int64), lengths)).view(arrow_type(Timestamp))


def _watermarks(reads: Sequence[Served], take: pa.Array) -> pa.Array:
    """Nearly always the same of all reads: each is written once."""
    known: dict[tuple[tuple[str, int | None], ...], str] = {}
    texts = []
    for read in reads:
        mine = tuple(read.result.watermarks.items())
        if mine not in known:
            known[mine] = json.dumps(dict(mine))
        texts.append(known[mine])
    if len(known) == 1:
        return pa.repeat(texts[0], len(take))
    return pa.array(texts, pa.string()).take(take)


def _context(reads: Sequence[Served], take: pa.Array) -> pa.Array:
    if all(r.context is None for r in reads):
        return pa.nulls(len(take), pa.string())
    texts: list[str | None] = []
    for read in reads:
        if read.context is None:
            texts += [None] * read.result.rows
            continue
        by_row = {n: v for n, v in read.context.items() if isinstance(v, list | tuple | np.ndarray)}
        same = {n: v for n, v in read.context.items() if n not in by_row}
        if not by_row:
            texts += [_json(same)] * read.result.rows
        else:
            texts += [
                _json({**same, **{n: v[i] for n, v in by_row.items()}}) for i in range(read.result.rows)
            ]
    return pa.array(texts, pa.string())


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dt.date):
        return value.isoformat()
    return str(value)


def _statuses(results: Sequence[OnlineFeatures], rows: int) -> pa.Array:
    """A digit for each feature, as texts of one length."""
    width = len(results[0].names)
    if all(b.status is None for r in results for b in r.blocks):
        return pa.repeat("0" * width, rows)
    codes = np.full((rows, width), ord("0"), np.uint8)
    for j, first in enumerate(results[0].blocks):
        mine = first.places < width
        status = _end_to_end([_or(r.blocks[j].status, r.blocks[j], 0, np.uint8) for r in results])
        codes[:, first.places[mine]] += status[:, mine]
    ends = pa.py_buffer(np.arange(0, (rows + 1) * width, max(width, 1), dtype=np.int32)[: rows + 1].tobytes())
    return pa.Array.from_buffers(pa.string(), rows, [None, ends, pa.py_buffer(codes.tobytes())])


def _or(array: Array | None, block: Block, fill: int, dtype: Any) -> Array:
    return np.full(block.values.shape, fill, dtype) if array is None else array


def _keys(parts: Sequence[Column], dtype: DType) -> pa.Array:
    if all(isinstance(p, np.ndarray) for p in parts):
        return pa.array(_end_to_end(parts), arrow_type(dtype))
    listed = [v for p in parts for v in (p.tolist() if isinstance(p, np.ndarray) else p)]
    return pa.array(listed, arrow_type(dtype))


def _cells(values: Sequence[Array], masks: Sequence[Mask | None], dtype: DType) -> pa.Array:
    whole = _end_to_end(values)
    valid = [np.ones(len(v), np.bool_) if m is None else m for v, m in zip(values, masks, strict=True)]
    return from_physical(whole, _end_to_end(valid), dtype)


def _features(
    results: Sequence[OnlineFeatures], names: Sequence[str], wanted: Sequence[str] | None = None
) -> dict[str, pa.Array]:
    """The columns of results that lie in blocks alike, or the `wanted` ones of them."""
    found: dict[str, pa.Array] = {}
    dtypes = results[0].dtypes
    for j, first in enumerate(results[0].blocks):
        chosen = [
            (k, place)
            for k, place in enumerate(first.places.tolist())
            if place < len(names) and (wanted is None or names[place] in wanted)
        ]
        if not chosen:
            continue
        values = np.asfortranarray(Block.end_to_end([r.blocks[j] for r in results]))
        valid = None
        if any(r.blocks[j].valid is not None for r in results):
            valid = np.asfortranarray(
                _end_to_end([_or(r.blocks[j].valid, r.blocks[j], 1, np.bool_) for r in results])
            )
        everywhere = np.ones(len(values), np.bool_)
        for k, place in chosen:
            if valid is None and values.dtype == _FLOATS.get(dtypes[place]):
                found[names[place]] = pa.array(values[:, k])
                continue
            mask = everywhere if valid is None else valid[:, k]
            found[names[place]] = from_physical(values[:, k], mask, dtypes[place])
    return found


def _end_to_end(parts: Sequence[Any]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


# --------------------------------------------------------------------------------------------------------------- sampling


def _sampled(kind: Kind, reads: Sequence[Served], of: Array) -> Mask | None:
    """Which rows are kept; None for all."""
    if kind.capture.sample >= 1.0:
        return None
    if kind.capture.by == "request":
        drawn = hashes(np.array([r.request_id for r in reads], object))[of]
    else:
        drawn = entity_hashes(
            [([v for r in reads for v in _listed(r.keys[n])], dtype) for n, dtype in kind.schema.keys]
        )
    return drawn < np.uint64(int(kind.capture.sample * 2**64))


def _listed(column: Column) -> Sequence[Any]:
    return column.tolist() if isinstance(column, np.ndarray) else column


def entity_hashes(columns: Sequence[tuple[Sequence[Any], DType]]) -> Array:
    """The 64 bits that say whether an entity is sampled: below `sample * 2^64` it is, in all its requests.

    They begin as 0; for each key column in order they become splitmix64(bits XOR hash), where `hash` is splitmix64 of a
    number, the first 8 bytes of the MD5 of a text's UTF-8 (the first the lowest), and 0 of NULL.
    """
    bits = np.zeros(len(columns[0][0]) if columns else 0, np.uint64)
    for values, dtype in columns:
        known = np.array([v is not None for v in values], np.bool_)
        some = [v for v in values if v is not None]
        own = np.zeros(len(bits), np.uint64)
        if some:
            own[known] = hashes(np.array(some, np.int64 if dtype == Int64 else object))
        bits = hashes((bits ^ own).view(np.int64))
    return bits
