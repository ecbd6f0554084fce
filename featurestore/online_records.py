"""Answers of tile SQL as records of the online store: what materialisation and the embedded stream both encode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.aggregates import MaxBy, MinBy, Moments
from featurestore.evaluate.arrow import limbs, to_physical
from featurestore.evaluate.inputs import Inputs, carried
from featurestore.evaluate.partials import Array
from featurestore.evaluate.ragged import by_tile
from featurestore.expr import Expr
from featurestore.ir import View
from featurestore.layout import Layout, Level, Slot
from featurestore.online.codec import FOLD, PLACE, Records, Section
from featurestore.types import Float64, Int64, String


def key_columns(view: View, table: pa.Table) -> list[Array]:
    """The join keys of rows with `k0…`, as physical values."""
    return [to_physical(table.column(f"k{i}"), k.dtype)[0] for i, k in enumerate(view.keys)]


def owners(view: View, table: pa.Table, entities: Sequence[Array]) -> Array:
    """For each row, sorted by key, the number of its entity; -1 if it is none of them, which happens when files change."""
    if not len(table):
        return np.zeros(0, np.int64)
    keys = key_columns(view, table)
    starts = np.ones(len(table), np.bool_)
    starts[1:] = np.logical_or.reduce([k[1:] != k[:-1] for k in keys])
    distinct = [k[starts] for k in keys]
    if len(keys) == 1 and view.keys[0].dtype == Int64:
        near = np.minimum(np.searchsorted(entities[0], distinct[0]), len(entities[0]) - 1)
        owner = np.where(entities[0][near] == distinct[0], near, -1)
    else:
        numbers = {key: i for i, key in enumerate(zip(*(e.tolist() for e in entities), strict=True))}
        owner = np.array(
            [numbers.get(key, -1) for key in zip(*(d.tolist() for d in distinct), strict=True)], np.int64
        )
    whose: Array = owner[np.cumsum(starts) - 1]
    return whose


def tile_rows(level: Level, section: Section, table: pa.Table) -> tuple[Array, dict[str, Array]]:
    """Tiles as `tiles_sql` gives them, as rows of their section, without what has any number of items; and their strings."""
    rows = np.zeros(len(table), section.dtype)
    rows["tile"] = table.column("tile").to_numpy()
    strings: dict[str, Array] = {}
    for slot in (s for s in level.slots if not s.ragged):
        fields, valid = _slot_fields(slot, table)
        for name, values in fields.items():
            if f"{slot.name}_{name}" in section.strings:
                strings[f"{slot.name}_{name}"] = values
            else:
                kind, column = section.places[f"{slot.name}_{name}"]
                rows[kind][:, column] = values
        if valid is not None:
            set_bits(rows, section.bits[slot.name], valid)
    return rows, strings


def tile_items(
    view: View,
    level: Level,
    names: Mapping[Expr, str],
    folded: int,
    events: pa.Table,
    owner: Array,
    who: Array,
    tiles: Array,
) -> dict[str, dict[str, Array]]:
    """The partials of ragged slots for records of entities `who` and `tiles`, of the events that these are made of.

    `events` are as `tile_events_sql` gives them, `names` its columns, `owner` whose they are; those before `folded` belong to
    the fold. Where `events` have a place, items have it as well.
    """
    t = to_physical(events.column("t"), Int64)[0]
    tile = np.where(t < folded, FOLD, t - t % level.hop)
    # Entity and tile as one number. An event without a record came after the records were made: it is left out.
    some = np.unique(tiles)
    place = np.searchsorted(some, tile)
    known = (owner >= 0) & (place < len(some))
    known[known] = some[place[known]] == tile[known]
    codes = who * len(some) + np.searchsorted(some, tiles)
    record = np.searchsorted(codes, owner * len(some) + place)
    known &= record < len(codes)
    known[known] = codes[record[known]] == (owner * len(some) + place)[known]
    if not known.all():
        rows = np.flatnonzero(known)
        events, t, record = events.take(pa.array(rows)), t[rows], record[rows]
    inputs = Inputs(names, view, events)
    places = to_physical(events.column(PLACE), String)[0] if PLACE in events.column_names else None
    items = {}
    for slot in (s for s in level.slots if s.ragged):
        x, keep = inputs.of(slot)
        assert x is not None
        items[slot.name] = by_tile(slot, x, keep, t, record, len(who), places)
    return items


def set_bits(rows: Array, bit: int, valid: Array) -> None:
    """Sets one of the null bits of rows where `valid`."""
    rows["null"][:, bit // 64] |= valid.astype("<u8") << np.uint64(bit % 64)


def _slot_fields(slot: Slot, table: pa.Table) -> tuple[dict[str, Array], Array | None]:
    """A slot's fields as its tile SQL gave them, by field name, and where it is not null (None for counts)."""
    column = {
        c: table.column(c).combine_chunks() for c in table.column_names if c.startswith(f"{slot.name}_")
    }
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
        n, shift = physical("n", Int64)[0], physical("shift", Float64)[0]
        sums = [physical(f"s{k}", Float64)[0] for k in range(1, slot.reduction.order + 1)]
        return _moments(n, shift, *sums), None
    if f"{slot.name}_n" in column:
        return {"n": physical("n", Int64)[0]}, None
    if f"{slot.name}_s" in column:
        s, valid = physical("s", Float64)
        return {"s": s, "c": np.zeros(rows)}, valid
    assert slot.dtype is not None
    v, valid = physical("v", carried(slot.dtype))
    place = {PLACE: physical(PLACE, String)[0]} if f"{slot.name}_{PLACE}" in column else {}
    if isinstance(slot.reduction, MinBy | MaxBy):
        assert slot.by is not None
        by, ranked = physical("by", carried(slot.by))
        return {"by": by, "at": physical("at", Int64)[0], "known": valid, "v": v, **place}, ranked
    fields = {"v": v, **place}
    if f"{slot.name}_at" in column:
        fields["at"] = physical("at", Int64)[0]
    return fields, valid


def _moments(n: Array, shift: Array, s1: Array, s2: Array, *more: Array) -> dict[str, Array]:
    """Moments from sums about a shift inside the data: `mean + low` is the mean in two doubles (Dekker's two-sum)."""
    some = n > 0
    delta = np.divide(s1, n, out=np.zeros(len(n)), where=some)
    shift = np.where(some, shift, 0.0)
    mean = shift + delta
    part = mean - shift
    low = (shift - (mean - part)) + (delta - part)
    m2 = np.maximum(s2 - s1 * delta, 0.0)
    moments = {"n": n, "mean": mean, "low": low, "m2": np.where(some, m2, 0.0)}
    if more:
        moments["m3"] = np.where(some, more[0] - delta * (3 * s2 - 2 * delta * s1), 0.0)
    if len(more) > 1:
        m4 = more[1] - delta * (4 * more[0] - delta * (6 * s2 - 3 * delta * s1))
        moments["m4"] = np.where(some, np.maximum(m4, 0.0), 0.0)
    return moments


def latest_records(layout: Layout, section: Section, newest: pa.Table) -> Records:
    """The latest rows of entities 0…n-1, one for each row of `newest_sql`."""
    count = len(newest) if layout.latest else 0
    rows = np.zeros(count, section.dtype)
    strings: dict[str, Array] = {}
    if count:
        rows["at"] = newest.column("last_at").to_numpy()
        for slot in layout.latest:
            values, valid = to_physical(newest.column(slot.name), carried(slot.dtype))
            if slot.name in section.strings:
                strings[slot.name] = values
            else:
                kind, column = section.places[slot.name]
                rows[kind][:, column] = values
            set_bits(rows, section.bits[slot.name], np.ones(count, np.bool_) if valid is None else valid)
        if PLACE in section.strings:
            strings[PLACE] = to_physical(newest.column(PLACE), String)[0]
    return Records(np.arange(count), rows, strings)
