"""The join of rows with one view's events, or with all that a service reads: keys and moments in, cells out.

DuckDB filters events and sorts them by entity and time, on disk if need be; chunks of whole entities are reduced in NumPy
(`evaluate.point_in_time`). Training sets read features through it, and labels what happened after.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from featurestore.compile.events import EventColumns
from featurestore.compile.point_in_time import numbered_keys_sql, sorted_events_sql
from featurestore.compile.sources import Connection
from featurestore.evaluate.arrow import arrow_type
from featurestore.evaluate.finish import Cells
from featurestore.evaluate.on_demand import compiled, compute
from featurestore.evaluate.partials import Array, Mask
from featurestore.evaluate.point_in_time import ONE_ROW, Asked, Work, cells_of
from featurestore.expr import Column, infer
from featurestore.ir import Feature, Read, Service, View
from featurestore.layout import layout_of
from featurestore.spine import keys_of, request_of
from featurestore.types import Date, ListType, Timestamp, VectorType

BATCH_EVENTS = 1 << 18
"""Events fetched from DuckDB at a time."""

CHUNK_EVENTS = 1 << 20
"""Events worked on at a time, more when one entity alone has more."""

WORKERS = 4
"""Chunks reduced at the same time, at most; no more than DuckDB has threads."""


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
        parts = [keys_of(spine, columns[k.name], k.dtype, f"feature view '{name}'") for k in view.keys]
        cells = view_cells(
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


Keys = Sequence[tuple[Array, Mask | None]]


def view_cells(
    con: Connection,
    root: Path,
    view: View,
    features: Sequence[Feature],
    keys: Keys,
    asked: Array,
    *,
    statuses: bool = False,
    lag: int | None = None,
    known: int | None = None,
) -> dict[str, Cells]:
    """The cells of some features of a view, by name, for keys and moments (microseconds).

    Of what was known at each moment with `lag`; of what had arrived by one moment for all rows with `known`.
    """
    if view.source.event_time is None:
        asked = np.ones(len(asked), np.int64)  # a static source is visible always: its rows are at 0
    spine = _numbered(con, keys, asked)
    work, columns, settled = _work(view, features, lag)
    empty = cells_of(work, _no_events(work), ONE_ROW)
    outputs = {f.name: _spread(empty[f.name], len(asked)) for f in features}
    if len(spine.rid):
        start = None if statuses or view.source.event_time is None else _reach(view, features, spine)
        end = int(spine.q.max())
        events = sorted_events_sql(
            con, view, columns, "spine_keys", root, settled=settled, start=start, end=end, known=known
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
    if len(keys) == 1 and keys[0][0].dtype != object and (one := _by_code(con, keys[0][0], asked, rows)):
        return one
    columns = {"rid": pa.array(rows), "q": pa.array(asked[rows])}
    for i, (values, _) in enumerate(keys):
        columns[f"k{i}"] = pa.array(values[rows], pa.string() if values.dtype == object else pa.int64())
    con.register("spine_rows", pa.table(columns))
    number, rows_sql = numbered_keys_sql(len(keys), "spine_rows", "spine_keys")
    con.execute(number)
    table = con.sql(rows_sql).to_arrow_table()
    con.unregister("spine_rows")
    return Asked(*(table.column(c).to_numpy() for c in ("rid", "k", "q")))


def _by_code(con: Connection, key: Array, asked: Array, rows: Array) -> Asked | None:
    """`_numbered` for one whole number as the key: with the moment as one number it sorts in half the time.

    None where the two have no room in 63 bits.
    """
    if not len(rows):
        return None
    key, asked = key[rows].astype(np.int64, copy=False), asked[rows]
    (low, high), (first, last) = ((int(a.min()), int(a.max())) for a in (key, asked))
    bits = (last - first).bit_length()
    if (high - low).bit_length() + bits > 63:
        return None
    code = (key - low) << bits
    code |= asked - first
    order = np.argsort(code)
    code = code[order]
    q = (code & ((1 << bits) - 1)) + first
    code >>= bits
    starts = np.concatenate([[True], code[1:] != code[:-1]])
    numbers = {"k": np.arange(int(starts.sum()), dtype=np.int32), "k0": code[starts] + low}
    con.register("spine_rows", pa.table(numbers))
    con.execute("CREATE OR REPLACE TEMP TABLE spine_keys AS SELECT k, k0 FROM spine_rows")
    con.unregister("spine_rows")
    return Asked(rows[order], np.cumsum(starts, dtype=np.int32) - np.int32(1), q)


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


__all__ = ["Keys", "enrich", "service_cells", "view_cells"]
