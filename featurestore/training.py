"""Point-in-time training sets: one row out for each row in, in order, every value as of the row's own moment.

Latest values are one as-of join in DuckDB. Windows are reduced in NumPy from events that DuckDB has sorted by entity and
time: for a row asked at `q`, a window is the range of its entity's events from `tail(q)` to `q`, and one kernel reduces
all ranges of all rows at once. The spine is worked on in slices, so neither it nor the events have to fit in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.aggregates import ordered
from featurestore.compile.events import EventColumns
from featurestore.compile.point_in_time import latest_sql, sorted_events_sql
from featurestore.compile.sources import Connection, connect
from featurestore.config import Config
from featurestore.errors import SpineError
from featurestore.evaluate.arrow import arrow_type, from_physical, to_physical
from featurestore.evaluate.finish import Cells, finish, settle
from featurestore.evaluate.partials import Array, Mask, Partial, reduce_events
from featurestore.evaluate.ranges import OverlappingRanges
from featurestore.expr import Expr
from featurestore.ir import Feature, Read, Service, View
from featurestore.layout import Layout, Slot, layout_of
from featurestore.spine import keys_of, spine_batches, times_of
from featurestore.status import Status
from featurestore.types import Date, Int32, Int64, Timestamp, numpy_dtype

CHUNK_EVENTS = 1 << 21
"""Events worked on at a time, more when one entity alone has more."""

WORKERS = 2
"""Chunks reduced at the same time."""

SLICE_BYTES = 1 << 29
"""Spine and features held for one slice of the spine."""


@dataclass(frozen=True)
class TrainingSet:
    """A training set: spine columns first, then the service's columns; computed when it is read, slice by slice.

    NULLs stay NULL in Arrow, pandas and polars. With `statuses`, each feature has a column `<name>__status` besides.
    """

    config: Config
    service: Service
    views: Mapping[str, View]
    spine: Any
    timestamp: str
    statuses: bool = False

    def batches(self, size: int = 65_536) -> Iterator[pa.RecordBatch]:
        """The rows in order, at most `size` at a time."""
        for table in self.tables():
            yield from table.to_batches(max_chunksize=size)

    def tables(self) -> Iterator[pa.Table]:
        """The rows in order, as tables as large as one slice of the spine."""
        with ExitStack() as stack:
            con = connect(self.config.memory_limit, self.config.threads, self.config.offline / "spill")
            stack.callback(con.close)
            rows = max(1, SLICE_BYTES // (64 + 24 * len(self.service.reads)))
            for table in spine_batches(con, self.spine, rows):
                yield self._enriched(con, table)

    def to_arrow(self) -> pa.Table:
        """All rows as one Arrow table."""
        return pa.concat_tables(self.tables())

    def to_pandas(self) -> Any:
        """All rows as a pandas frame; columns that hold NULLs keep them apart from NaN."""
        return self.to_arrow().to_pandas()

    def to_polars(self) -> Any:
        """All rows as a polars frame."""
        import polars as pl

        return pl.from_arrow(self.to_arrow())

    def to_parquet(self, directory: str | Path) -> list[Path]:
        """Writes one Parquet file for each slice into `directory`; complete files only, in the order of the spine.

        Raises FileExistsError if the directory holds Parquet files already.
        """
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        if any(target.glob("*.parquet")):
            raise FileExistsError(f"{target} holds Parquet files already\n  give an empty folder")
        written = []
        for number, table in enumerate(self.tables()):
            partial = target / f".part-{number:05d}.tmp"
            pq.write_table(table, partial)
            written.append(partial.rename(target / f"part-{number:05d}.parquet"))
        return written

    def _enriched(self, con: Connection, spine: pa.Table) -> pa.Table:
        taken = set(spine.column_names)
        for read in self.service.reads:
            if read.output in taken:
                raise SpineError(
                    f"the spine has a column '{read.output}', and so has service '{self.service.name}'\n"
                    "  rename the spine's column, or prefix the feature: view.on(…, prefix=\"…\")"
                )
        asked = times_of(spine, self.timestamp)
        reads = self.service.reads
        cells = enrich(con, self.config.root, reads, self.views, spine, asked, statuses=self.statuses)
        columns = {name: spine.column(name) for name in spine.column_names}
        for read in self.service.reads:
            cell = cells[read.output]
            columns[read.output] = pa.chunked_array([from_physical(cell.values, cell.valid, read.dtype)])
        if self.statuses:
            names = pa.array([s.name for s in Status])
            for read in self.service.reads:
                codes = pa.array(cells[read.output].status.view(np.int8))
                columns[f"{read.output}__status"] = pa.chunked_array([pa.DictionaryArray.from_arrays(codes, names)])
        return pa.table(columns)


def enrich(
    con: Connection,
    root: Path,
    reads: Sequence[Read],
    views: Mapping[str, View],
    spine: pa.Table,
    asked: Array,
    *,
    statuses: bool = False,
) -> dict[str, Cells]:
    """The cells of every read for every spine row, by output name. `asked` is each row's moment in microseconds.

    Without `statuses` only events that some window can reach are read, so NOT_FOUND cannot be told from NULL.
    """
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], list[Read]] = {}
    for read in reads:
        groups.setdefault((read.view, read.keys), []).append(read)
    done: dict[str, Cells] = {}
    for (name, keys), group in groups.items():
        view = views[name]
        columns = {k: c for k, c in keys}
        features = {r.feature: view.feature(r.feature) for r in group}
        parts = [keys_of(spine, columns[k.name], k.dtype, name) for k in view.keys]
        cells = _view_cells(con, root, view, list(features.values()), parts, asked, statuses=statuses)
        done.update({r.output: cells[r.feature] for r in group})
    return done


Keys = Sequence[tuple[Array, Mask | None]]


def _view_cells(
    con: Connection,
    root: Path,
    view: View,
    features: Sequence[Feature],
    keys: Keys,
    asked: Array,
    *,
    statuses: bool,
) -> dict[str, Cells]:
    known = np.ones(len(asked), np.bool_)
    for _, valid in keys:
        if valid is not None:
            known &= valid
    layout = layout_of(view)
    con.register("spine_rows", _spine_table(keys, known, asked))
    con.execute("CREATE OR REPLACE TEMP TABLE spine AS SELECT * FROM spine_rows")
    con.unregister("spine_rows")
    latest = [f for f in features if f.window is None]
    windowed = [f for f in features if f.window is not None]
    cells: dict[str, Cells] = {}
    if latest:
        cells |= _latest(con, root, view, layout, latest, asked)
    if windowed:
        cells |= _windows(con, root, view, layout, windowed, asked, everything=statuses)
    con.execute("DROP TABLE spine")
    return cells


def _spine_table(keys: Keys, known: Mask, asked: Array) -> pa.Table:
    """`rid`, `q`, `k0…` of the rows whose key is whole."""
    rows = np.flatnonzero(known)
    columns = {"rid": pa.array(rows), "q": pa.array(asked[rows])}
    for i, (values, _) in enumerate(keys):
        columns[f"k{i}"] = pa.array(values[rows], pa.string() if values.dtype == object else pa.int64())
    return pa.table(columns)


# ---------------------------------------------------------------------------------------------------------- latest values


def _latest(
    con: Connection, root: Path, view: View, layout: Layout, features: Sequence[Feature], asked: Array
) -> dict[str, Cells]:
    needed = {layout.parts[f.name]["v"] for f in features}
    slots = tuple(s for s in layout.latest if s.name in needed)
    sql = latest_sql(con, view, slots, "spine", root)
    rows = len(asked)
    at = np.zeros(rows, np.int64)
    found = np.zeros(rows, np.bool_)
    values = {s.name: np.zeros(rows, numpy_dtype(s.dtype)) for s in slots}
    valid = {s.name: np.zeros(rows, np.bool_) for s in slots}
    for batch in con.sql(sql).to_arrow_reader(1 << 18):
        rid = batch.column("rid").to_numpy()
        times, has = to_physical(batch.column("found_at"), Int64)
        at[rid] = times
        found[rid] = True if has is None else has
        for slot in slots:
            got, ok = to_physical(batch.column(slot.name), slot.dtype)
            values[slot.name][rid] = got
            valid[slot.name][rid] = True if ok is None else ok
    expired = found & (at < asked - view.ttl) if view.ttl is not None and view.source.event_time else None
    cells = {}
    for feature in features:
        name = layout.parts[feature.name]["v"]
        ok = valid[name] & found if expired is None else valid[name] & found & ~expired
        cells[feature.name] = settle(feature, values[name], ok, found, expired=expired)
    return cells


# ---------------------------------------------------------------------------------------------------------------- windows


def _windows(
    con: Connection,
    root: Path,
    view: View,
    layout: Layout,
    features: Sequence[Feature],
    asked: Array,
    *,
    everything: bool,
) -> dict[str, Cells]:
    con.execute(
        "CREATE OR REPLACE TEMP TABLE spine_keys AS "
        "SELECT (row_number() OVER () - 1)::INTEGER AS k, * FROM (SELECT DISTINCT COLUMNS('k[0-9]+') FROM spine)"
    )
    same = ", ".join(f"k{i}" for i in range(len(view.keys)))
    sql = f"SELECT rid, k, q FROM spine JOIN spine_keys USING ({same}) ORDER BY k, q"
    spine = _Spine(*(con.sql(sql).to_arrow_table().column(c).to_numpy() for c in ("rid", "k", "q")))
    job = _job(view, layout, features)
    empty = _reduced(job, _no_events(job), _Spine.one_row())
    outputs = {f.name: _spread(empty[f.name], len(asked)) for f in features}
    if len(spine.rid) == 0:
        return outputs
    sizes = [f.window.size + f.window.hop for f in features if f.window is not None and f.window.size is not None]
    endless = any(f.window is not None and f.window.size is None for f in features)
    start = None if endless or everything else int(spine.q.min()) - max(sizes)
    ties = any(ordered(s.reduction) for slots in job.slots.values() for s in slots)
    events = sorted_events_sql(
        con, view, job.columns, "spine_keys", root, ordered=ties, start=start, end=int(spine.q.max())
    )
    reader = con.sql(events).to_arrow_reader(1 << 18)
    # NumPy releases the GIL in what takes long, so two chunks at a time use two cores while DuckDB feeds them.
    with ThreadPoolExecutor(WORKERS) as pool:
        running: list[Future[None]] = []
        for chunk in _chunks(reader):
            running.append(pool.submit(_fill, outputs, job, chunk, spine))
            if len(running) > WORKERS:
                running.pop(0).result()
        for future in running:
            future.result()
    return outputs


@dataclass(frozen=True)
class _Spine:
    """Spine rows sorted by dense key number and moment asked for: row numbers, key numbers, moments."""

    rid: Array
    k: Array
    q: Array

    @staticmethod
    def one_row() -> _Spine:
        """A row that no event concerns."""
        return _Spine(np.zeros(1, np.int64), np.zeros(1, np.int32), np.zeros(1, np.int64))

    def of_keys(self, first: int, last: int) -> _Spine:
        """The rows whose key numbers are `first` to `last`, inclusive."""
        a, b = np.searchsorted(self.k, first, "left"), np.searchsorted(self.k, last, "right")
        return _Spine(self.rid[a:b], self.k[a:b], self.q[a:b])


@dataclass(frozen=True)
class _Job:
    """What the window kernel needs to know, decided once for a view and a slice: slots by hop, columns they are made of."""

    view: View
    layout: Layout
    features: Sequence[Feature]
    columns: EventColumns
    slots: Mapping[int, tuple[Slot, ...]]


def _job(view: View, layout: Layout, features: Sequence[Feature]) -> _Job:
    columns = EventColumns(view)
    slots: dict[int, tuple[Slot, ...]] = {}
    for level in layout.levels:
        mine = [f for f in features if f.window is not None and f.window.hop == level.hop]
        used = {name for f in mine for name in layout.parts[f.name].values()}
        slots[level.hop] = tuple(s for s in level.slots if s.name in used)
        for slot in slots[level.hop]:
            for node in (slot.reduction.arg, slot.where):
                if node is not None:
                    columns.add(node)
    return _Job(view, layout, features, columns, slots)


def _no_events(job: _Job) -> pa.Table:
    columns = {"k": pa.array([], pa.int32()), "t": pa.array([], pa.int64())}
    for node, name in job.columns.names.items():
        dtype = job.columns.dtype(node)
        columns[name] = pa.array([], pa.int64() if dtype in (Timestamp, Date) else arrow_type(dtype))
    return pa.table(columns)


def _spread(one: Cells, rows: int) -> Cells:
    return Cells(one.values.repeat(rows), one.valid.repeat(rows), one.status.repeat(rows))


def _chunks(reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """Events sorted by key, cut between keys into tables of about CHUNK_EVENTS rows."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in reader:
        held.append(batch)
        rows += batch.num_rows
        if rows < CHUNK_EVENTS or batch.num_rows == 0:
            continue
        k = batch.column("k").to_numpy()
        cut = int(np.searchsorted(k, k[-1], "left"))
        if cut == 0 and held[0].column("k")[0].as_py() == k[-1]:
            continue  # one key fills all that is held
        if cut == 0 and len(held) > 1 and held[-2].column("k")[-1].as_py() == k[-1]:
            continue  # the last key began in an earlier batch
        yield pa.Table.from_batches([*held[:-1], batch.slice(0, cut)])
        held, rows = [batch.slice(cut)], batch.num_rows - cut
    if rows:
        yield pa.Table.from_batches(held)


def _fill(outputs: Mapping[str, Cells], job: _Job, events: pa.Table, spine: _Spine) -> None:
    """Reduces one chunk and writes its rows; chunks hold different keys, so different rows."""
    k = events.column("k")
    mine = spine.of_keys(k[0].as_py(), k[-1].as_py())
    for name, cells in _reduced(job, events, mine).items():
        output = outputs[name]
        output.values[mine.rid] = cells.values
        output.valid[mine.rid] = cells.valid
        output.status[mine.rid] = cells.status


def _reduced(job: _Job, events: pa.Table, spine: _Spine) -> dict[str, Cells]:
    """The cells of every feature for spine rows whose events are all in `events` (or are none)."""
    k, _ = to_physical(events.column("k"), Int32)
    t, _ = to_physical(events.column("t"), Int64)
    clock = _Clock(k, t, spine)
    first, end = clock.position(None), clock.position(spine.q)
    found = end > first
    inputs = _Inputs(job.columns, events)
    by_window: dict[tuple[int | None, int], list[Feature]] = {}
    for feature in job.features:
        assert feature.window is not None
        by_window.setdefault((feature.window.size, feature.window.hop), []).append(feature)
    cells: dict[str, Cells] = {}
    for (size, hop), features in by_window.items():
        start = first if size is None else clock.position(spine.q - spine.q % hop - size)
        ranges = OverlappingRanges(start, end, len(t))
        merged: dict[str, Partial] = {}
        for slot in job.slots[hop]:
            if any(slot.name in job.layout.parts[f.name].values() for f in features):
                merged[slot.name] = reduce_events(slot, *inputs.of(slot), t, ranges)
        for feature in features:
            parts = {part: merged[name] for part, name in job.layout.parts[feature.name].items()}
            cells[feature.name] = finish(feature, parts, found)
    return cells


class _Clock:
    """Where moments fall among events sorted by key and time: one binary search over both in a single number."""

    def __init__(self, k: Array, t: Array, spine: _Spine) -> None:
        self._base = k[0] if len(k) else 0
        self._low = int(t.min()) if len(t) else 0
        span = (int(t.max()) if len(t) else 0) - self._low + 2
        self._bits = span.bit_length()
        keys = int(k[-1] - self._base) + 1 if len(k) else 1
        self._ranks: Array | None = None
        if self._bits + keys.bit_length() > 62:
            # So many keys over so long a time do not fit into 63 bits: ranks of times do.
            self._ranks = np.unique(t)
            self._bits = (len(self._ranks) + 1).bit_length()
        self._codes = self._key(k) | self._time(t)
        self._spine = self._key(spine.k)

    def position(self, moments: Array | None) -> Array:
        """The index of the first event of each spine row's key at or after its moment; None is the key's first event."""
        codes = self._spine if moments is None else self._spine | self._time(moments)
        return np.searchsorted(self._codes, codes, "left")

    def _key(self, k: Array) -> Array:
        return (k.astype(np.int64) - self._base) << self._bits

    def _time(self, t: Array) -> Array:
        if self._ranks is not None:
            return np.searchsorted(self._ranks, t, "left")
        return np.clip(t, self._low, self._low + (1 << self._bits) - 1) - self._low


class _Inputs:
    """The inputs and masks of slots over one chunk; what several slots read is converted once."""

    def __init__(self, columns: EventColumns, events: pa.Table) -> None:
        self._columns, self._events = columns, events
        self._arrays: dict[str, tuple[Array, Mask | None]] = {}
        self._masks: dict[tuple[Expr | None, Expr | None], Mask | None] = {}

    def of(self, slot: Slot) -> tuple[Array | None, Mask | None]:
        """The values of the slot's input and which rows count: not NULL, and its filter true."""
        arg, where = slot.reduction.arg, slot.where
        x, valid = self._column(arg) if arg is not None else (None, None)
        if (arg, where) not in self._masks:
            keep = valid
            if where is not None:
                condition, known = self._column(where)
                keep = condition if known is None else condition & known
                keep = keep if valid is None else keep & valid
            self._masks[arg, where] = keep
        return x, self._masks[arg, where]

    def _column(self, node: Expr) -> tuple[Array, Mask | None]:
        name = self._columns.names[node]
        if name not in self._arrays:
            dtype = self._columns.dtype(node)
            physical = Int64 if dtype == Timestamp else Int32 if dtype == Date else dtype
            self._arrays[name] = to_physical(self._events.column(name), physical)
        return self._arrays[name]
