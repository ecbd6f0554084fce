"""Materialisation: a view's past, as tiles and latest rows, written to the online store.

Everything before the cut goes into an entity's base value, everything from the cut to the end of the range into its head,
the open tile included. Writing twice writes the same; entities that no longer have any event are removed.

Queries answer in the order of keys and are read side by side, a stretch of entities at a time; while one stretch is
written the next is encoded. What is held does not grow with the number of entities.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from featurestore.aggregates import MaxBy, MinBy, Moments
from featurestore.compile.events import EventColumns, key_names
from featurestore.compile.newest import newest_sql
from featurestore.compile.sources import Connection
from featurestore.compile.tiles import tile_events_sql, tiles_sql
from featurestore.evaluate.arrow import limbs, to_physical
from featurestore.evaluate.inputs import Inputs, carried
from featurestore.evaluate.partials import Array
from featurestore.evaluate.ragged import by_tile
from featurestore.expr import Expr
from featurestore.ir import View
from featurestore.layout import Layout, Level, Slot, layout_of
from featurestore.online.codec import (
    BASE,
    FOLD,
    HEAD,
    HEADER,
    NEVER,
    Codec,
    Records,
    Section,
    codec_of,
    encode,
    entity_keys,
    written_by,
)
from featurestore.online.store import OnlineStore
from featurestore.time import floor
from featurestore.types import Float64, Int64, String

ENTITIES = 50_000
"""Entities encoded and written at a time."""

TILES = 100_000
"""Tiles fetched at a time."""

REMOVED = 10_000
"""Keys removed at a time."""

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
    run: int
    """Counts the materialisations of the view; its values bear the number of the one that wrote them."""

    def to_bytes(self) -> bytes:
        return json.dumps([self.start, self.end, self.cut, self.entities, self.run]).encode()

    @staticmethod
    def from_bytes(raw: bytes) -> ViewState:
        return ViewState(*json.loads(raw))


def state_name(codec: Codec) -> str:
    """The name under which a view's state lies among the store's metas."""
    return f"view:{codec.prefix.hex()}"


def _runs_name(codec: Codec) -> str:
    """The name under which the number of the last run lies, finished or not."""
    return f"run:{codec.prefix.hex()}"


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
    # The number is taken before anything is written: what a run that failed left behind is never taken for this one's.
    taken = store.get_meta(_runs_name(codec))
    run = 1 if taken is None else int(taken) + 1
    store.set_metas({_runs_name(codec): b"%d" % run})
    size = 0
    written = dict.fromkeys((BASE, HEAD), 0)
    sides = ((BASE, start, cut), (HEAD, cut if start is None else max(cut, start), end))
    with _Writer(store) as writer:
        for role, first, last in sides:
            if role == HEAD and first is not None and first >= last:
                continue
            for batch in _batches(con, view, layout, codec, root, role=role, start=first, end=last):
                values = encode(codec, batch.header(cut, run), batch.sections, batch.key_bytes)
                writer.write(list(zip(batch.keys, values, strict=True)))
                size += sum(map(len, values))
                written[role] += len(values)
                if progress is not None:
                    progress(view.name, max(written.values()))
    if taken is not None:
        for role, _, _ in sides:
            _remove_others(store, codec.prefix + role, run)
    total = max(written.values())
    store.set_metas({state_name(codec): ViewState(start, end, cut, total, run).to_bytes()})
    return Materialized(view.name, total, size, start, end, cut)


class _Writer:
    """Writes to a store in a thread of its own, one stretch behind. What fails is raised by the next call."""

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, "materialize")
        self._pending: Future[int] | None = None

    def write(self, items: list[tuple[bytes, bytes]]) -> None:
        self._settle()
        self._pending = self._thread.submit(self._store.write, items)

    def _settle(self) -> None:
        if self._pending is not None:
            self._pending.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self._settle()


def _remove_others(store: OnlineStore, prefix: bytes, run: int) -> None:
    """Removes the values that an earlier run wrote and this one did not: of entities without an event."""
    gone: list[bytes] = []
    for key, value in store.scan(prefix):
        if written_by(value) != run & 0xFFFFFFFF:
            gone.append(key)
        if len(gone) == REMOVED:
            store.delete(gone)
            gone = []
    store.delete(gone)


@dataclass(frozen=True)
class _Batch:
    """Entities to encode: store keys, bounds of their events, and their records."""

    keys: list[bytes]
    key_bytes: list[bytes] | None
    first_at: Array
    last_at: Array
    sections: Sequence[Records]

    def header(self, cut: int, run: int) -> Array:
        header = np.zeros(len(self.keys), HEADER)
        header["cut"], header["counter"], header["kept_from"] = cut, run, NEVER
        header["run"] = run & 0xFFFFFFFF
        header["first_at"], header["last_at"] = self.first_at, self.last_at
        return header


class _Rows:
    """The rows of a query that is sorted by key, taken a stretch at a time."""

    def __init__(self, con: Connection, sql: str, keys: int, size: int) -> None:
        self._cursor = con.cursor()  # a connection has one open answer
        self._cursor.execute("SET TimeZone = 'UTC'")
        self._reader = self._cursor.sql(sql).to_arrow_reader(size)
        self._batches = iter(self._reader)
        self._keys = [f"k{i}" for i in range(keys)]
        self._held: pa.RecordBatch | None = None

    def stretches(self) -> Iterator[pa.Table]:
        """All rows, some thousands at a time."""
        for batch in self._batches:
            if batch.num_rows:
                yield pa.Table.from_batches([batch])

    def up_to(self, key: tuple[Any, ...]) -> pa.Table:
        """The rows that were not taken yet and whose key is not greater than `key`."""
        taken = []
        while (held := self._held if self._held is not None else next(self._batches, None)) is not None:
            stop = self._past(held, key)
            taken.append(held.slice(0, stop))
            self._held = held.slice(stop) if stop < held.num_rows else None
            if self._held is not None:
                break
        return pa.Table.from_batches(taken, self._reader.schema)

    def _past(self, batch: pa.RecordBatch, key: tuple[Any, ...]) -> int:
        columns = [batch.column(name) for name in self._keys]
        return bisect_right(
            range(batch.num_rows), key, key=lambda row: tuple(c[row].as_py() for c in columns)
        )


def _batches(
    con: Connection,
    view: View,
    layout: Layout,
    codec: Codec,
    root: Path,
    *,
    role: bytes,
    start: int | None,
    end: int,
) -> Iterator[_Batch]:
    """Base: from `start` (None is the beginning) to the cut, which is its `end`; head: what comes from the cut on."""
    static = view.source.event_time is None
    sql = newest_sql(con, view, layout.latest, root, start=start, end=None if static else end)
    levels = [
        _level_rows(con, view, level, root, base=role == BASE, start=start, end=end)
        for level in layout.levels
    ]
    for newest in _Rows(con, sql, len(view.keys), ENTITIES).stretches():
        keys = _key_columns(view, newest)
        last = tuple(newest.column(f"k{i}")[-1].as_py() for i in range(len(view.keys)))
        sections = [
            _tile_records(view, level, section, [rows.up_to(last) for rows in parts.tiles], keys, parts, last)
            for level, section, parts in zip(layout.levels, codec.sections, levels, strict=False)
        ]
        sections.append(_latest_records(layout, codec.sections[-1], newest))
        first_at, last_at = (newest.column(c).to_numpy() for c in ("first_at", "last_at"))
        yield _Batch(*entity_keys(view, keys, codec.prefix + role), first_at, last_at, sections)


@dataclass(frozen=True)
class _LevelRows:
    """The tiles of a level, the fold of a lifetime before the others; and the events that ragged slots are made of.

    Of these `names` has the columns, and those before `folded` belong to the fold.
    """

    tiles: list[_Rows]
    events: _Rows | None
    names: Mapping[Expr, str]
    folded: int


def _level_rows(
    con: Connection, view: View, level: Level, root: Path, *, base: bool, start: int | None, end: int
) -> _LevelRows:
    parts = []
    kept = start
    if base:
        kept = end if level.reach is None else end - level.reach
        kept = kept if start is None else max(start, kept)
        if level.lifetime:
            fold = tiles_sql(con, view, level, root, start=start, end=kept, whole=True)
            order = ", ".join(key_names(view))
            parts.append(f"SELECT * REPLACE ({FOLD + 1} - 1 AS tile) FROM ({fold}) ORDER BY {order}")  # noqa: S608
    if not base or level.reach is not None:
        parts.append(tiles_sql(con, view, level, root, start=kept, end=end))
    tiles = [_Rows(con, sql, len(view.keys), TILES) for sql in parts]
    if not any(slot.ragged for slot in level.slots):
        return _LevelRows(tiles, None, {}, NEVER)
    columns = EventColumns(view)
    folds = base and level.lifetime
    events = tile_events_sql(con, view, level, root, columns, start=start if folds else kept, end=end)
    folded = kept if folds and kept is not None else NEVER
    return _LevelRows(tiles, _Rows(con, events, len(view.keys), TILES), columns.names, folded)


def _key_columns(view: View, table: pa.Table) -> list[Array]:
    return [to_physical(table.column(f"k{i}"), k.dtype)[0] for i, k in enumerate(view.keys)]


def _owners(view: View, table: pa.Table, entities: Sequence[Array]) -> Array:
    """For each row, sorted by key, the number of its entity; -1 if it is none of them, which happens when files change."""
    if not len(table):
        return np.zeros(0, np.int64)
    keys = _key_columns(view, table)
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
    owners: Array = owner[np.cumsum(starts) - 1]
    return owners


def _tile_records(
    view: View,
    level: Level,
    section: Section,
    tables: Sequence[pa.Table],
    entities: Sequence[Array],
    level_rows: _LevelRows,
    last: tuple[Any, ...],
) -> Records:
    """Tiles as records, sorted by entity and tile."""
    who = np.concatenate([_owners(view, t, entities) for t in tables])
    table = pa.concat_tables(tables, promote_options="permissive")
    if len(tables) > 1 or (len(who) and who.min() < 0):
        order = np.argsort(who, kind="stable")  # what comes first stays first: the fold, then tiles by time
        order = order[who[order] >= 0]
        table, who = table.take(pa.array(order)), who[order]
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
            _set_bits(rows, section.bits[slot.name], valid)
    if level_rows.events is None:
        return Records(who, rows, strings)
    events = level_rows.events.up_to(last)
    return Records(who, rows, strings, _items(view, level, level_rows, events, entities, who, rows["tile"]))


def _items(
    view: View,
    level: Level,
    level_rows: _LevelRows,
    events: pa.Table,
    entities: Sequence[Array],
    who: Array,
    tiles: Array,
) -> dict[str, dict[str, Array]]:
    """The partials of ragged slots for records of entities `who` and `tiles`, of the events that these are made of."""
    owner = _owners(view, events, entities)
    t = to_physical(events.column("t"), Int64)[0]
    tile = np.where(t < level_rows.folded, FOLD, t - t % level.hop)
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
    inputs = Inputs(level_rows.names, view, events)
    items = {}
    for slot in (s for s in level.slots if s.ragged):
        x, keep = inputs.of(slot)
        assert x is not None
        items[slot.name] = by_tile(slot, x, keep, t, record, len(who))
    return items


def _set_bits(rows: Array, bit: int, valid: Array) -> None:
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
    if isinstance(slot.reduction, MinBy | MaxBy):
        assert slot.by is not None
        by, ranked = physical("by", carried(slot.by))
        return {"by": by, "at": physical("at", Int64)[0], "known": valid, "v": v}, ranked
    fields = {"v": v}
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


def _latest_records(layout: Layout, section: Section, newest: pa.Table) -> Records:
    count = len(newest) if layout.latest else 0
    rows = np.zeros(count, section.dtype)
    strings: dict[str, Array] = {}
    if count:
        rows["at"] = newest.column("last_at").to_numpy()
        for slot in layout.latest:
            values, valid = to_physical(newest.column(slot.name), carried(slot.dtype))
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
