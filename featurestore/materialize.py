"""Materialisation: a view's past, as tiles and latest rows, written to the online store.

Everything before the cut goes into an entity's base value, everything from the cut to the end of the range into its head,
the open tile included. Writing twice writes the same; entities that no longer have any event are removed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.aggregates import Moments
from featurestore.compile.newest import newest_sql
from featurestore.compile.sources import Connection
from featurestore.compile.tiles import tiles_sql
from featurestore.evaluate.arrow import limbs, to_physical
from featurestore.evaluate.partials import Array
from featurestore.ir import View
from featurestore.layout import Layout, Level, Slot, layout_of
from featurestore.online.codec import BASE, FOLD, HEAD, HEADER, NEVER, Codec, Records, Section, codec_of, encode, entity_keys
from featurestore.online.store import OnlineStore
from featurestore.time import floor
from featurestore.types import Date, Float64, Int32, Int64, String, Timestamp

ENTITIES = 100_000
"""Entities encoded and written at a time."""

Progress = Callable[[str, int], None]
"""Told the view and how many entities of it were written so far."""


@dataclass(frozen=True, slots=True)
class Materialized:
    """What was done for one view: entities written, bytes, and the range of event time now served.

    `start` None is the beginning of the source.
    """

    view: str
    entities: int
    bytes: int
    start: int | None
    end: int
    cut: int


@dataclass(frozen=True, slots=True)
class ViewState:
    """What the store says of a view as a whole: complete from `start` (None is the beginning) to `end`."""

    start: int | None
    end: int
    cut: int
    entities: int

    def to_bytes(self) -> bytes:
        return json.dumps([self.start, self.end, self.cut, self.entities]).encode()

    @staticmethod
    def from_bytes(raw: bytes) -> ViewState:
        return ViewState(*json.loads(raw))


def state_name(codec: Codec) -> str:
    """The name under which a view's state lies among the store's metas."""
    return f"view:{codec.prefix.hex()}"


def materialize_view(
    con: Connection,
    store: OnlineStore,
    view: View,
    root: Path,
    *,
    end: int,
    start: int | None = None,
    progress: Progress | None = None,
) -> Materialized:
    """Writes a view as of `end` (microseconds, exclusive). With `start`, as if nothing had happened before it."""
    layout = layout_of(view)
    codec = codec_of(view, layout)
    cut = floor(end, layout.grid)
    before = store.get_meta(state_name(codec))
    counter = 1 if before is None else 2
    written: list[set[bytes]] = [set(), set()]
    total = size = 0
    sides = ((BASE, start, cut), (HEAD, cut if start is None else max(cut, start), end))
    for i, (role, first, last) in enumerate(sides):
        if role == HEAD and first is not None and first >= last:
            continue
        parts = _read_side(con, view, layout, codec, root, base=role == BASE, start=first, end=last)
        for batch in parts.batches(ENTITIES):
            values = encode(codec, batch.header(cut, counter), batch.sections, batch.key_bytes)
            prefix = codec.prefix + role
            items = [(prefix + k, v) for k, v in zip(batch.keys, values, strict=True)]
            store.write(items)
            size += sum(map(len, values))
            if before is not None:
                written[i].update(k for k, _ in items)
            total += len(items) if role == BASE else 0
            if progress is not None:
                progress(view.name, total)
    if before is not None:
        for (role, _, _), kept in zip(sides, written, strict=True):
            gone = [k for k, _ in store.scan(codec.prefix + role) if k not in kept]
            store.delete(gone)
    store.set_metas({state_name(codec): ViewState(start, end, cut, total).to_bytes()})
    return Materialized(view.name, total, size, start, end, cut)


@dataclass(frozen=True)
class _Batch:
    """Entities to encode: store keys, bounds of their events, and their records."""

    keys: list[bytes]
    key_bytes: list[bytes] | None
    first_at: Array
    last_at: Array
    sections: Sequence[Records]

    def header(self, cut: int, counter: int) -> Array:
        header = np.zeros(len(self.keys), HEADER)
        header["cut"], header["counter"], header["kept_from"] = cut, counter, NEVER
        header["first_at"], header["last_at"] = self.first_at, self.last_at
        return header


@dataclass(frozen=True)
class _Side:
    """One side of the cut: the entities, sorted by key, and the records of each section with the entity's number."""

    view: View
    codec: Codec
    keys: list[Array]
    first_at: Array
    last_at: Array
    sections: Sequence[Records]

    def batches(self, size: int) -> Iterator[_Batch]:
        for a in range(0, len(self.first_at), size):
            b = min(a + size, len(self.first_at))
            ends, raw = entity_keys(self.view, [k[a:b] for k in self.keys])
            sections = [_cut_records(s, a, b) for s in self.sections]
            yield _Batch(ends, raw, self.first_at[a:b], self.last_at[a:b], sections)


def _cut_records(records: Records, a: int, b: int) -> Records:
    i, j = np.searchsorted(records.owner, [a, b], "left")
    return Records(records.owner[i:j] - a, records.rows[i:j], {n: t[i:j] for n, t in records.strings.items()})


def _read_side(
    con: Connection,
    view: View,
    layout: Layout,
    codec: Codec,
    root: Path,
    *,
    base: bool,
    start: int | None,
    end: int,
) -> _Side:
    """`base`: from `start` (None is the beginning) to the cut, which is its `end`; else what comes from the cut on."""
    static = view.source.event_time is None
    newest = con.sql(newest_sql(con, view, layout.latest, root, start=start, end=None if static else end)).to_arrow_table()
    keys = [to_physical(newest.column(f"k{i}"), k.dtype)[0] for i, k in enumerate(view.keys)]
    numbers = _numbers(view, newest)
    sections = []
    for level, section in zip(layout.levels, codec.sections, strict=False):
        tables = []
        kept = start
        if base:
            reach = None if level.reach is None else end - level.reach
            kept = end if reach is None else reach
            kept = kept if start is None else max(start, kept)
            if level.lifetime:
                sql = tiles_sql(con, view, level, root, start=start, end=kept, whole=True)
                fold = con.sql(sql).to_arrow_table()
                tables.append(fold.set_column(fold.column_names.index("tile"), "tile", pa.array([FOLD] * len(fold), pa.int64())))
        if not base or level.reach is not None:
            tables.append(con.sql(tiles_sql(con, view, level, root, start=kept, end=end)).to_arrow_table())
        sections.append(_tile_records(view, level, section, tables, numbers))
    sections.append(_latest_records(layout, codec.sections[-1], newest))
    first_at, last_at = (newest.column(c).to_numpy() for c in ("first_at", "last_at"))
    return _Side(view, codec, keys, first_at, last_at, sections)


def _numbers(view: View, newest: pa.Table) -> pa.Table:
    names = [f"k{i}" for i in range(len(view.keys))]
    return newest.select(names).append_column("owner", pa.array(np.arange(len(newest)), pa.int64()))


def _tile_records(view: View, level: Level, section: Section, tables: Sequence[pa.Table], numbers: pa.Table) -> Records:
    """Tiles as records, sorted by entity and tile."""
    if not tables:
        return Records(np.zeros(0, np.int64), np.zeros(0, section.dtype), {n: np.zeros(0, object) for n in section.strings})
    table = pa.concat_tables(tables, promote_options="permissive")
    names = [f"k{i}" for i in range(len(view.keys))]
    owner = table.select(names).append_column("row", pa.array(np.arange(len(table)), pa.int64()))
    joined = owner.join(numbers, names, join_type="inner")
    row, who = joined.column("row").to_numpy(), joined.column("owner").to_numpy()
    tile = table.column("tile").to_numpy()
    order = np.lexsort((tile[row], who))
    table, who = table.take(pa.array(row[order])), who[order]
    rows = np.zeros(len(table), section.dtype)
    rows["tile"] = table.column("tile").to_numpy()
    strings: dict[str, Array] = {}
    for slot in level.slots:
        fields, valid = _slot_fields(slot, table)
        for name, values in fields.items():
            if f"{slot.name}_{name}" in section.strings:
                strings[f"{slot.name}_{name}"] = values
            else:
                kind, column = section.places[f"{slot.name}_{name}"]
                rows[kind][:, column] = values
        if valid is not None:
            _set_bits(rows, section.bits[slot.name], valid)
    return Records(who, rows, strings)


def _set_bits(rows: Array, bit: int, valid: Array) -> None:
    rows["null"][:, bit // 64] |= valid.astype("<u8") << np.uint64(bit % 64)


def _slot_fields(slot: Slot, table: pa.Table) -> tuple[dict[str, Array], Array | None]:
    """A slot's fields as its tile SQL gave them, by field name, and where it is not null (None for counts)."""
    column = {c: table.column(c).combine_chunks() for c in table.column_names if c.startswith(f"{slot.name}_")}
    rows = len(table)

    def physical(name: str, dtype: Any) -> tuple[Array, Array]:
        values, valid = to_physical(column[f"{slot.name}_{name}"], dtype)
        return values, np.ones(rows, np.bool_) if valid is None else valid

    if f"{slot.name}_total" in column:
        total = column[f"{slot.name}_total"]
        total = pa.concat_arrays(total.chunks) if isinstance(total, pa.ChunkedArray) else total
        lo, hi = limbs(total)
        return {"lo": lo, "hi": hi}, np.asarray(total.is_valid())
    if isinstance(slot.reduction, Moments):
        n, shift, s1, s2 = (physical(c, Int64 if c == "n" else Float64)[0] for c in ("n", "shift", "s1", "s2"))
        return _moments(n, shift, s1, s2), None
    if f"{slot.name}_n" in column:
        return {"n": physical("n", Int64)[0]}, None
    if f"{slot.name}_s" in column:
        s, valid = physical("s", Float64)
        return {"s": s, "c": np.zeros(rows)}, valid
    assert slot.dtype is not None
    dtype = Int64 if slot.dtype == Timestamp else Int32 if slot.dtype == Date else slot.dtype
    v, valid = physical("v", dtype)
    fields = {"v": v}
    if f"{slot.name}_at" in column:
        fields["at"] = physical("at", Int64)[0]
    return fields, valid


def _moments(n: Array, shift: Array, s1: Array, s2: Array) -> dict[str, Array]:
    """Moments from sums about a shift inside the data: `mean + low` is the mean in two doubles (Dekker's two-sum)."""
    some = n > 0
    delta = np.divide(s1, n, out=np.zeros(len(n)), where=some)
    shift = np.where(some, shift, 0.0)
    mean = shift + delta
    part = mean - shift
    low = (shift - (mean - part)) + (delta - part)
    m2 = np.maximum(s2 - s1 * delta, 0.0)
    return {"n": n, "mean": mean, "low": low, "m2": np.where(some, m2, 0.0)}


def _latest_records(layout: Layout, section: Section, newest: pa.Table) -> Records:
    count = len(newest) if layout.latest else 0
    rows = np.zeros(count, section.dtype)
    strings: dict[str, Array] = {}
    if count:
        rows["at"] = newest.column("last_at").to_numpy()
        for slot in layout.latest:
            dtype = Int64 if slot.dtype == Timestamp else Int32 if slot.dtype == Date else slot.dtype
            values, valid = to_physical(newest.column(slot.name), dtype)
            if slot.dtype == String:
                strings[slot.name] = values
            else:
                kind, column = section.places[slot.name]
                rows[kind][:, column] = values
            _set_bits(rows, section.bits[slot.name], np.ones(count, np.bool_) if valid is None else valid)
    return Records(np.arange(count), rows, strings)


def load_states(store: OnlineStore, codecs: Mapping[str, Codec]) -> dict[str, ViewState]:
    """The state of each materialised view, by name."""
    raw = {name: store.get_meta(state_name(codec)) for name, codec in codecs.items()}
    return {name: ViewState.from_bytes(r) for name, r in raw.items() if r is not None}
