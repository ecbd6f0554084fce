"""Materialisation: a view's past, as tiles and latest rows, written to the online store.

Everything before the cut goes into an entity's base value, everything from the cut to the end of the range into its head,
the open tile included. Writing twice writes the same; entities that no longer have any event are removed.

Queries answer in the order of keys and are read side by side, a stretch of entities at a time; while one stretch is
written the next is encoded. What is held does not grow with the number of entities.

A run that was stopped can go on behind the last entity that it wrote. When to do so is for the ledger (`backfill`) to say.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa

from featurestore.compile.events import EventColumns, key_names
from featurestore.compile.newest import newest_sql
from featurestore.compile.sources import Connection
from featurestore.compile.tiles import tile_events_sql, tiles_sql
from featurestore.evaluate.partials import Array
from featurestore.expr import Call, Expr, Literal
from featurestore.ir import View
from featurestore.layout import Layout, Level, layout_of
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
from featurestore.online.state import ViewState, load_states, runs_name, state_name
from featurestore.online.store import OnlineStore
from featurestore.online_records import key_columns, latest_records, owners, tile_items, tile_rows
from featurestore.time import floor

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
    run: int = 0
    """The number that the values written bear."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a run has come: in `role` every entity up to `key` is in the store, `()` being none; so are all earlier roles.

    `entities` are those written in each role, `bytes` the bytes of all.
    """

    run: int
    role: str
    key: tuple[int | str, ...] = ()
    entities: Mapping[str, int] = field(default_factory=dict)
    bytes: int = 0


ROLES = {"base": BASE, "head": HEAD}


def materialize_view(
    con: Connection,
    store: OnlineStore,
    view: View,
    root: Path,
    *,
    end: int,
    start: int | None = None,
    progress: Progress | None = None,
    heads: bool = True,
    resume: Checkpoint | None = None,
    save: Callable[[Checkpoint], None] | None = None,
    step: Callable[[str], None] | None = None,
    batches: Batches | None = None,
) -> Materialized:
    """Writes a view as of `end` (microseconds, exclusive). With `start`, as if nothing had happened before it.

    Without `heads`, bases alone, and `end` has to be a cut. `resume` goes on where a run of the same inputs, `start`, `end`
    and `heads` was stopped. `save` is told how far the run has come, at the beginning of each role and whenever a stretch is
    in the store; what it raises ends the run. `step` is told what was just done. `batches` makes
    what is written; by default DuckDB does.
    """
    layout = layout_of(view)
    codec = codec_of(view, layout)
    cut = floor(end, layout.grid)
    say = step or (lambda _: None)
    # The number is taken before anything is written: what a run that failed left behind is never taken for this one's.
    taken = store.get_meta(runs_name(codec))
    run = resume.run if resume is not None else 1 if taken is None else int(taken) + 1
    store.set_metas({runs_name(codec): b"%d" % run})
    say("number taken")
    size = 0 if resume is None else resume.bytes
    written = dict.fromkeys(ROLES, 0) | dict({} if resume is None else resume.entities)
    sides = {"base": (start, cut), "head": (cut if start is None else max(cut, start), end)}
    before = load_states(store, {view.name: codec}).get(view.name)
    roles = ["base", "head"] if heads else ["base"]
    if before is not None and before.cut > cut:
        roles.reverse()  # a cut that steps back uncovers what is between: heads have to hold it first
    todo = roles if resume is None else roles[roles.index(resume.role) :]
    with _Writer(store) as writer:
        for role in todo:
            behind = resume.key if resume is not None and resume.role == role else ()
            if save is not None:
                save(Checkpoint(run, role, behind, dict(written), size))
            first, last = sides[role]
            if role == "head" and first is not None and first >= last:
                continue
            rest = _behind(view, behind)
            made = (batches or _batches)(
                con, rest, layout, codec, root, role=ROLES[role], start=first, end=last
            )
            for batch in made:
                values = encode(codec, batch.header(cut, run), batch.sections, batch.key_bytes)
                size += sum(map(len, values))
                written[role] += len(values)
                done = Checkpoint(run, role, batch.last_key, dict(written), size)
                writer.write(list(zip(batch.keys, values, strict=True)), done, save)
                if progress is not None:
                    progress(view.name, max(written.values()))
                say(f"{role} stretch")
            writer.settle()
            say(f"{role} written")
    if taken is not None:
        for role in roles:
            _remove_others(store, codec.prefix + ROLES[role], run)
            say(f"{role} swept")
    total = max(written.values())
    store.set_metas({state_name(codec): ViewState(start, end, cut, total, run).to_bytes()})
    say("state set")
    return Materialized(view.name, total, size, start, end, cut, run)


def _behind(view: View, key: Sequence[int | str]) -> View:
    """The view of the entities that come after `key` in the order of keys; all of it for `()`."""
    if not key:
        return view
    pairs = [(k.value, Literal(part, k.dtype)) for k, part in zip(view.keys, key, strict=True)]
    cases: list[Expr] = [
        reduce(
            lambda both, one: Call("and", (one, both)),
            [Call("eq", pair) for pair in pairs[:i]],
            Call("gt", pairs[i]),
        )
        for i in range(len(pairs))
    ]
    later = reduce(lambda one, other: Call("or", (one, other)), cases)
    return replace(view, filter=later if view.filter is None else Call("and", (view.filter, later)))


class _Writer:
    """Writes to a store in a thread of its own, one stretch behind. What fails is raised by the next call."""

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, "materialize")
        self._pending: tuple[Future[int], Checkpoint, Callable[[Checkpoint], None] | None] | None = None

    def write(
        self,
        items: list[tuple[bytes, bytes]],
        done: Checkpoint,
        save: Callable[[Checkpoint], None] | None,
    ) -> None:
        """Hands a stretch over; `save` is told `done` by the call that finds it in the store."""
        self.settle()
        self._pending = (self._thread.submit(self._store.write, items), done, save)

    def settle(self) -> None:
        """Returns when what was handed over is in the store."""
        if self._pending is None:
            return
        (future, done, save), self._pending = self._pending, None
        future.result()
        if save is not None:
            save(done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self.settle()


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
class Batch:
    """Entities to encode: store keys, bounds of their events, and their records."""

    keys: list[bytes]
    key_bytes: list[bytes] | None
    first_at: Array
    last_at: Array
    sections: Sequence[Records]
    last_key: tuple[int | str, ...]

    def header(self, cut: int, run: int) -> Array:
        header = np.zeros(len(self.keys), HEADER)
        header["cut"], header["counter"], header["kept_from"] = cut, run, NEVER
        header["run"] = run & 0xFFFFFFFF
        header["first_at"], header["last_at"] = self.first_at, self.last_at
        return header


class Rows:
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


class Batches(Protocol):
    """Makes a view's entities, in the order of keys: bases from `start` (None: the beginning) to `end`, or heads."""

    def __call__(
        self,
        con: Connection,
        view: View,
        layout: Layout,
        codec: Codec,
        root: Path,
        *,
        role: bytes,
        start: int | None,
        end: int,
    ) -> Iterator[Batch]: ...


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
) -> Iterator[Batch]:
    """Base: from `start` (None is the beginning) to the cut, which is its `end`; head: what comes from the cut on."""
    static = view.source.event_time is None
    sql = newest_sql(con, view, layout.latest, root, start=start, end=None if static else end)
    levels = [
        _level_rows(con, view, level, root, base=role == BASE, start=start, end=end)
        for level in layout.levels
    ]
    for newest in Rows(con, sql, len(view.keys), ENTITIES).stretches():
        keys = key_columns(view, newest)
        last = tuple(newest.column(f"k{i}")[-1].as_py() for i in range(len(view.keys)))
        sections = [
            _tile_records(view, level, section, [rows.up_to(last) for rows in parts.tiles], keys, parts, last)
            for level, section, parts in zip(layout.levels, codec.sections, levels, strict=False)
        ]
        sections.append(latest_records(layout, codec.sections[-1], newest))
        first_at, last_at = (newest.column(c).to_numpy() for c in ("first_at", "last_at"))
        yield Batch(*entity_keys(view, keys, codec.prefix + role), first_at, last_at, sections, last)


@dataclass(frozen=True)
class _LevelRows:
    """The tiles of a level, the fold of a lifetime before the others; and the events that ragged slots are made of.

    Of these `names` has the columns, and those before `folded` belong to the fold.
    """

    tiles: list[Rows]
    events: Rows | None
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
    tiles = [Rows(con, sql, len(view.keys), TILES) for sql in parts]
    if not any(slot.ragged for slot in level.slots):
        return _LevelRows(tiles, None, {}, NEVER)
    columns = EventColumns(view)
    folds = base and level.lifetime
    events = tile_events_sql(con, view, level, root, columns, start=start if folds else kept, end=end)
    folded = kept if folds and kept is not None else NEVER
    return _LevelRows(tiles, Rows(con, events, len(view.keys), TILES), columns.names, folded)


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
    who = np.concatenate([owners(view, t, entities) for t in tables])
    table = pa.concat_tables(tables, promote_options="permissive")
    if len(tables) > 1 or (len(who) and who.min() < 0):
        order = np.argsort(who, kind="stable")  # what comes first stays first: the fold, then tiles by time
        order = order[who[order] >= 0]
        table, who = table.take(pa.array(order)), who[order]
    rows, strings = tile_rows(level, section, table)
    if level_rows.events is None:
        return Records(who, rows, strings)
    events = level_rows.events.up_to(last)
    whose = owners(view, events, entities)
    return Records(
        who,
        rows,
        strings,
        tile_items(view, level, level_rows.names, level_rows.folded, events, whose, who, rows["tile"]),
    )
