"""Point-in-time training sets: one row out for each row in, in order, every value as of the row's own moment.

DuckDB filters events and sorts them by entity and time, on disk if need be; chunks of whole entities are reduced in NumPy
(`evaluate.point_in_time`). The spine is worked on in slices, so neither it nor the events have to fit in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from featurestore.compile.events import EventColumns
from featurestore.compile.point_in_time import numbered_keys_sql, sorted_events_sql
from featurestore.compile.sources import Connection, connect, engine_errors
from featurestore.config import Config
from featurestore.erasures import Erasures, erasures
from featurestore.errors import SpineError
from featurestore.evaluate.arrow import arrow_type, from_physical
from featurestore.evaluate.finish import Cells
from featurestore.evaluate.on_demand import compiled, compute
from featurestore.evaluate.partials import Array, Mask
from featurestore.evaluate.point_in_time import ONE_ROW, Asked, Work, cells_of
from featurestore.expr import Column, infer
from featurestore.ir import Feature, Read, Service, View
from featurestore.knowledge import Knowledge
from featurestore.layout import layout_of
from featurestore.registry import open_registry
from featurestore.spine import keys_of, request_of, spine_batches, times_of
from featurestore.statistics import Keep, Statistics
from featurestore.statistics.scalers import Scaler, as_doubles, scaled
from featurestore.status import Status
from featurestore.time import Duration
from featurestore.types import Date, DType, Float64, ListType, Timestamp, VectorType

if TYPE_CHECKING:
    from featurestore.datasets.split import Splits

BATCH_EVENTS = 1 << 18
"""Events fetched from DuckDB at a time."""

CHUNK_EVENTS = 1 << 20
"""Events worked on at a time, more when one entity alone has more."""

WORKERS = 4
"""Chunks reduced at the same time, at most; no more than DuckDB has threads."""

SLICE_BYTES = 1 << 30
"""Spine and features held for one slice of the spine."""


@dataclass(frozen=True)
class TrainingSet:
    """A training set: spine columns first, then the service's columns; computed when it is read, slice by slice.

    NULLs stay NULL in Arrow, pandas and polars. With `statuses`, each feature has a column `<name>__status` besides.
    `reference` is the applied version of the service, if it is one; `full_names` says that its names were asked for in full.
    Events of erased entities are left out: by `erased`, or by what the registry says when the set is read.
    With `knowledge="arrived"` an event counts from when it was known; `lag` has the microseconds from an event's arrival until
    then, by source, 0 for one that it does not name.
    """

    config: Config
    service: Service
    views: Mapping[str, View]
    spine: Any
    timestamp: str
    statuses: bool = False
    full_names: bool = False
    knowledge: Knowledge = "corrected"
    lag: Mapping[str, int] = field(default_factory=dict)
    reference: str | None = None
    slice_rows: int | None = None
    erased: Erasures | None = None
    scaler: Scaler | None = None
    """What the features are scaled by, if they are."""

    @property
    def columns(self) -> tuple[tuple[str, DType], ...]:
        """The features, with the types they come out in."""
        by = {} if self.scaler is None else self.scaler.by_feature
        return tuple((name, Float64 if name in by else dtype) for name, dtype in self.service.columns)

    def batches(self, size: int = 65_536) -> Iterator[pa.RecordBatch]:
        """The rows in order, at most `size` at a time."""
        for table in self.tables():
            yield from table.to_batches(max_chunksize=size)

    def tables(self) -> Iterator[pa.Table]:
        """The rows in order, as tables as large as one slice of the spine."""
        erased = self.erasures_now() if self.erased is None else self.erased
        views = {name: erased.honoured(view) for name, view in self.views.items()}
        with engine_errors(), ExitStack() as stack:
            self.config.offline.mkdir(parents=True, exist_ok=True)
            con = connect(self.config.memory_limit, self.config.threads, self.config.offline / "spill")
            stack.callback(con.close)
            done = 0
            for table in spine_batches(con, self.spine, self.rows_of_a_slice):
                yield self._enriched(con, table, done, views)
                done += table.num_rows

    def erasures_now(self) -> Erasures:
        """Who is erased, by the project's registry."""
        return erasures(open_registry(self.config.registry_url, self.config.root))

    @property
    def rows_of_a_slice(self) -> int:
        """How many rows of the spine are worked on at a time."""
        return self.slice_rows or max(1, SLICE_BYTES // (64 + 24 * len(self.service.reads)))

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
        """Writes one Parquet file for each slice into `directory`, in the order of the spine, and `_manifest.json` last.

        The manifest says what the set was made of: `store.reproduce(directory, out)` makes it again. Raises
        FileExistsError if the directory holds Parquet files already.
        """
        from featurestore.datasets.manifest import write

        return write(self, directory)

    def statistics(self, *, every: Duration | None = None, keep: Keep | None = None) -> Statistics:
        """Statistics of the features by partitions of the rows' moments, a day (UTC) by default; computes the set once."""
        found = Statistics(dict(self.columns), every=every, keep=keep)
        for batch in self.batches():
            found.update(batch, self.timestamp)
        return found

    def split(
        self,
        by: Literal["time", "group", "random"],
        fractions: Mapping[str, float] | Sequence[float] | None = None,
        *,
        at: datetime | str | int | Sequence[datetime | str | int] | None = None,
        gap: timedelta | Duration | None = None,
        column: str | None = None,
        columns: Sequence[str] | None = None,
        seed: int = 0,
    ) -> Splits:
        """Training sets of parts of the rows, by name; each computes its own rows when it is read.

        - `by="time"` cuts at the moments `at` (a row at the moment is after it), or so that about these `fractions` of the
          rows are in each part. Rows in the last `gap` before a cut are in no part: their outcome was not known at the cut.
        - `by="group"` keeps the rows of one value of `column` together. `fractions` are of values, by a hash with `seed`.
        - `by="random"` goes by the row's number, or, with `columns`, by their values, hashed with `seed`.

        Groups and rows stay where they are when others are added. Parts of two are `train` and `test`, of three `train`,
        `validation` and `test`, unless `fractions` names them. Raises DatasetError for what cannot be split so.
        """
        from featurestore.datasets.split import split

        return split(self, by, fractions, at=at, gap=gap, column=column, columns=columns, seed=seed)

    def sample(
        self,
        fraction: float | Mapping[Any, float] | None = None,
        *,
        n: int | None = None,
        by: str | None = None,
        seed: int = 0,
        weight: str = "weight",
    ) -> TrainingSet:
        """Some of the rows, in order, with a column `weight`: for how many rows of the whole set each one stands.

        `fraction` keeps each row by a hash of its number with `seed`; `n` keeps that many. With `by`, so for the rows of each
        value of that column alone: `fraction` of them (at least one), `n` of them, or, with a mapping, the fraction of each
        value (all of a value not named). These, and `n`, read the spine once at once, and keep 24 bytes for each row.
        """
        from featurestore.datasets.split import sample

        return sample(self, fraction, n=n, by=by, seed=seed, weight=weight)

    def _repr_html_(self) -> str:
        from featurestore.datasets.preview import training_html

        return training_html(self)

    def _enriched(self, con: Connection, spine: pa.Table, first: int, views: Mapping[str, View]) -> pa.Table:
        taken = set(spine.column_names)
        for name, _ in self.service.columns:
            if name in taken:
                raise SpineError(
                    f"the spine has a column '{name}', and so has service '{self.service.name}'\n"
                    '  rename the spine\'s column, or prefix the feature: view.on(…, prefix="…")'
                )
        asked = times_of(spine, self.timestamp, first)
        lags = {v.source.name: self.lag.get(v.source.name, 0) for v in views.values()}
        cells = service_cells(
            con,
            self.config.root,
            self.service,
            views,
            spine,
            asked,
            statuses=self.statuses,
            lags=lags if self.knowledge == "arrived" else None,
        )
        if self.scaler is not None:
            cells |= scaled_cells(cells, dict(self.service.columns), self.scaler)
        columns = {name: spine.column(name) for name in spine.column_names}
        for name, dtype in self.columns:
            cell = cells[name]
            columns[name] = pa.chunked_array([from_physical(cell.values, cell.valid, dtype)])
        if self.statuses:
            words = pa.array([s.name for s in Status])
            for name, _ in self.service.columns:
                codes = pa.array(cells[name].status.view(np.int8))
                columns[f"{name}__status"] = pa.chunked_array([pa.DictionaryArray.from_arrays(codes, words)])
        return pa.table(columns)


def service_cells(
    con: Connection,
    root: Path,
    service: Service,
    views: Mapping[str, View],
    spine: pa.Table,
    asked: Array,
    *,
    statuses: bool = False,
    lags: Mapping[str, int] | None = None,
) -> dict[str, Cells]:
    """`enrich` for all that a service reads, hidden or not, and what it computes on demand, by name."""
    cells = enrich(con, root, service.reads, views, spine, asked, statuses=statuses, lags=lags)
    if service.on_demand:
        request = {n: request_of(spine, n, t, service.name) for n, t in service.request}
        cells |= compute(compiled(service), cells, request, len(asked), asked)
    return cells


def enrich(
    con: Connection,
    root: Path,
    reads: Sequence[Read],
    views: Mapping[str, View],
    spine: pa.Table,
    asked: Array,
    *,
    statuses: bool = False,
    lags: Mapping[str, int] | None = None,
) -> dict[str, Cells]:
    """The cells of every read for every spine row, by output name. `asked` is each row's moment in microseconds.

    Without `statuses` only events that some window can reach are read, so NOT_FOUND cannot be told from NULL. With `lags`,
    the microseconds from arrival until an event is known, by source, only events count that were known at the row's moment.
    """
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], list[Read]] = {}
    for read in reads:
        groups.setdefault((read.view, read.keys), []).append(read)
    done: dict[str, Cells] = {}
    for (name, keys), group in groups.items():
        view = views[name]
        columns = dict(keys)
        features = {r.feature: view.feature(r.feature) for r in group}
        parts = [keys_of(spine, columns[k.name], k.dtype, name) for k in view.keys]
        cells = _view_cells(
            con,
            root,
            view,
            list(features.values()),
            parts,
            asked,
            statuses=statuses,
            lag=None if lags is None else lags[view.source.name],
        )
        done.update({r.output: cells[r.feature] for r in group})
    return done


def scaled_cells(cells: Mapping[str, Cells], dtypes: Mapping[str, DType], scaler: Scaler) -> dict[str, Cells]:
    """The cells of the features that a scaler scales, as doubles. A value that has no scaled one is NULL."""
    out = {}
    for one in scaler.features:
        cell = cells[one.feature]
        values, known = scaled(
            as_doubles(cell.values, dtypes[one.feature])[:, None], cell.valid[:, None], [one]
        )
        lost = cell.valid & ~known[:, 0]
        status = np.where(lost, np.uint8(Status.NULL), cell.status) if lost.any() else cell.status
        out[one.feature] = Cells(values[:, 0], known[:, 0], status)
    return out


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
    lag: int | None,
) -> dict[str, Cells]:
    if view.source.event_time is None:
        asked = np.ones(len(asked), np.int64)  # a static source is visible always: its rows are at 0
    spine = _numbered(con, keys, asked)
    work, columns, settled = _work(view, features, lag)
    empty = cells_of(work, _no_events(work), ONE_ROW)
    outputs = {f.name: _spread(empty[f.name], len(asked)) for f in features}
    if len(spine.rid):
        start = None if statuses or view.source.event_time is None else _reach(view, features, spine)
        events = sorted_events_sql(
            con, view, columns, "spine_keys", root, settled=settled, start=start, end=int(spine.q.max())
        )
        ((threads,),) = con.execute("SELECT current_setting('threads')").fetchall()
        chunks = _chunks(_even(con.sql(events).to_arrow_reader(BATCH_EVENTS)))
        _fill_all(outputs, work, chunks, spine, min(int(threads), WORKERS))
    con.execute("DROP TABLE spine_keys")
    return outputs


def _numbered(con: Connection, keys: Keys, asked: Array) -> Asked:
    """The rows whose key is whole, sorted by number of key and moment; the table `spine_keys` has the numbers."""
    known = np.ones(len(asked), np.bool_)
    for _, valid in keys:
        if valid is not None:
            known &= valid
    rows = np.flatnonzero(known)
    columns = {"rid": pa.array(rows), "q": pa.array(asked[rows])}
    for i, (values, _) in enumerate(keys):
        columns[f"k{i}"] = pa.array(values[rows], pa.string() if values.dtype == object else pa.int64())
    con.register("spine_rows", pa.table(columns))
    number, rows_sql = numbered_keys_sql(len(keys), "spine_rows", "spine_keys")
    con.execute(number)
    table = con.sql(rows_sql).to_arrow_table()
    con.unregister("spine_rows")
    return Asked(*(table.column(c).to_numpy() for c in ("rid", "k", "q")))


def _work(view: View, features: Sequence[Feature], lag: int | None) -> tuple[Work, EventColumns, bool]:
    """What to compute, of which columns, and whether SQL has to settle ties and copies."""
    layout, columns = layout_of(view), EventColumns(view)
    work = Work(view, layout, features, columns.names)
    for node in work.inputs():
        columns.add(node)
    source = view.source
    # What arrives as it happens is known once it has happened, which is all that is asked for anyhow.
    if lag is not None and source.event_time is not None and (lag or source.arrival_time is not None):
        arrival = None if source.arrival_time is None else columns.add(Column(source.arrival_time))
        work = replace(work, lag=lag, arrival=arrival)
    schema = source.schema
    if not any(f.window is None for f in features) and not work.sequential and source.event_id is None:
        return work, columns, False
    told = (*view.order, *(view.copy_order if source.event_id is not None else ()))
    if any(isinstance(schema[c], ListType | VectorType) for c in told):
        return work, columns, True  # Arrow does not sort by lists
    whole_keys = {k.value for k in view.keys}  # the same for all events of an entity
    ties = tuple(columns.add(Column(c)) for c in view.order if Column(c) not in whole_keys)
    copies: tuple[str, ...] = ()
    if source.event_id is not None:
        telling = dict.fromkeys([source.event_id, *view.copy_order])
        copies = tuple(columns.add(Column(c)) for c in telling)
    return replace(work, ties=ties, copies=copies), columns, False


def _no_events(work: Work) -> pa.Table:
    columns = {"k": pa.array([], pa.int32()), "t": pa.array([], pa.int64())}
    for node, name in work.names.items():
        dtype = infer(node, work.view.source.schema)
        columns[name] = pa.array([], pa.int64() if dtype in (Timestamp, Date) else arrow_type(dtype))
    return pa.table(columns)


def _spread(one: Cells, rows: int) -> Cells:
    return Cells(one.values.repeat(rows), one.valid.repeat(rows), one.status.repeat(rows))


def _reach(view: View, features: Sequence[Feature], spine: Asked) -> int | None:
    """The earliest moment that any feature of any row reaches back to; None if there is no end to it."""
    back = [
        view.ttl if f.window is None else f.window.size and f.window.size + f.window.hop for f in features
    ]
    sizes = [size for size in back if size is not None]
    return int(spine.q.min()) - max(sizes) if len(sizes) == len(back) else None


def _fill_all(
    outputs: Mapping[str, Cells], work: Work, chunks: Iterable[pa.Table], spine: Asked, workers: int
) -> None:
    # NumPy and Arrow release the GIL in what takes long, so chunks side by side use cores while DuckDB feeds them.
    with ThreadPoolExecutor(workers) as pool:
        running: deque[Future[None]] = deque()
        for chunk in chunks:
            running.append(pool.submit(_fill, outputs, work, chunk, spine))
            if len(running) > workers:
                running.popleft().result()
        for future in running:
            future.result()


def _even(reader: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows, BATCH_EVENTS at a time whatever DuckDB gives.

    It gives fewer at the seams of a sort, whose places depend on its threads; and where chunks end, floats add up otherwise.
    """
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in reader:
        start = 0
        while start < batch.num_rows:
            part = batch.slice(start, BATCH_EVENTS - rows)
            start += part.num_rows
            rows += part.num_rows
            held.append(part)
            if rows == BATCH_EVENTS:
                yield held[0] if len(held) == 1 else pa.concat_batches(held)
                held, rows = [], 0
    if held:
        yield held[0] if len(held) == 1 else pa.concat_batches(held)


def _chunks(reader: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
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


def _fill(outputs: Mapping[str, Cells], work: Work, events: pa.Table, spine: Asked) -> None:
    """Reduces one chunk and writes its rows; chunks hold different keys, so different rows."""
    k = events.column("k")
    mine = spine.of_keys(k[0].as_py(), k[-1].as_py())
    for name, cells in cells_of(work, events, mine).items():
        output = outputs[name]
        output.values[mine.rid] = cells.values
        output.valid[mine.rid] = cells.valid
        output.status[mine.rid] = cells.status
