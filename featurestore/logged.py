"""What was served, as rows to train on: one for each captured row, with what came of it.

A feature is taken from the log where the row was served by the same meaning: a version whose column of that name is made of the
same things. Elsewhere it is NULL; no value comes under the name of another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.capture.log import ROW_ID, CaptureLog, Cursor, Rows
from featurestore.capture.schema import FEATURE, KEY, REQUEST
from featurestore.compile.duckdb import DUCKDB, type_name
from featurestore.compile.sources import Connection, connect, engine_errors
from featurestore.compile.sql import literal
from featurestore.config import Config
from featurestore.continual import Captured
from featurestore.erasures import Erasures
from featurestore.evaluate.arrow import arrow_type, from_physical
from featurestore.evaluate.partials import Array
from featurestore.ir import Label, Service, View, column_meanings, service_fingerprint
from featurestore.labels import IS_MATURE, Immature, keys, state_column, states, values
from featurestore.log.eventlog import OFFSET
from featurestore.spine import times_of
from featurestore.status import LabelState
from featurestore.types import DType, Int64, String
from featurestore.uploaded import Upload, joined, uploads

MOMENT = "event_timestamp"
"""The column of the moment a row was asked at."""

CHUNK = 1 << 19
"""Captured rows that are labelled together: the events of a label are read once for each."""

Meanings = Mapping[str, Mapping[str, str]]
"""By fingerprint of a version that has served, what each of its columns means."""


@dataclass(frozen=True)
class Logged:
    """The captured rows of a service, read when they are asked for, in the order they were kept.

    Columns are `row_id`, the moment, the version that served, keys, request columns, context, the service's features, then
    the labels as `get_historical_features` has them. Rows of erased entities are not looked at here: erasing removes them.
    """

    config: Config
    log: CaptureLog
    service: Service
    views: Mapping[str, View]
    meanings: Meanings
    labels: tuple[Label, ...] = ()
    as_of: int | None = None
    immature: Immature = "drop"
    start: int | None = None
    end: int | None = None
    erased: Erasures | None = None
    labelled: bool = True
    names: tuple[str, ...] | None = None
    """The labels that are wanted; None is those of the service, or, where it has none, all that came back."""
    left_out: Counter[str] = field(default_factory=Counter, compare=False)

    @property
    def columns(self) -> tuple[tuple[str, DType], ...]:
        """The features, with their types."""
        return self.service.columns

    @property
    def label_names(self) -> list[str]:
        """The labels that rows have: those that are computed, then those that came back alone."""
        return list(dict.fromkeys([*(x.name for x in self.labels), *self._uploads()]))

    def _uploads(self) -> dict[str, Upload]:
        return uploads(self.log, self.names, self.labels, self.as_of) if self.labelled else {}

    def tables(self) -> Iterator[pa.Table]:
        """The rows, some at a time."""
        for some in self.read({}):
            table = some.table.drop_columns([OFFSET])
            if IS_MATURE in table.column_names and self.immature == "drop":
                self.left_out.update(_states_of(table))
                table = table.filter(pa.array(some.mature))
            yield table

    def batches(self, size: int = 65_536) -> Iterator[pa.RecordBatch]:
        """The rows in order, at most `size` at a time."""
        for table in self.tables():
            yield from table.to_batches(max_chunksize=size)

    def to_arrow(self) -> pa.Table:
        """All rows as one Arrow table."""
        return pa.concat_tables(self.tables())

    def to_pandas(self) -> Any:
        """All rows as a pandas frame."""
        return self.to_arrow().to_pandas()

    def to_polars(self) -> Any:
        """All rows as a polars frame."""
        import polars as pl

        return pl.from_arrow(self.to_arrow())

    def read(self, after: Cursor) -> Iterator[Captured]:
        """Rows from a cursor on with their labels, those that are not mature too: what a consumer reads."""
        with engine_errors(), ExitStack() as stack:
            self.config.offline.mkdir(parents=True, exist_ok=True)
            con = connect(self.config.memory_limit, self.config.threads, self.config.offline / "spill")
            stack.callback(con.close)
            given, came = False, self._uploads()
            for rows in self.log.read(
                self.service.name, after=after, start=self.start, end=self.end, size=CHUNK
            ):
                given = True
                yield self._labelled(con, rows, came)
            if not given:
                empty = _empty(self.service, self.views, self.wanted_context)
                yield Captured("", *self._with_labels(con, empty, came), cursor=dict(after))

    @property
    def wanted_context(self) -> dict[str, DType]:
        """What of the callers' context becomes columns: what the service declares, and the keys of its labels."""
        known = {column for r in self.service.reads for _, column in r.keys} | {
            n for n, _ in self.service.request
        }
        declared = dict(self.service.capture.context) if self.service.capture is not None else {}
        own = {k.name: k.dtype for x in self.labels for k in x.view.keys if k.name not in known}
        return {**declared, **own}

    def _labelled(self, con: Connection, rows: Rows, came: Mapping[str, Upload]) -> Captured:
        table = self._table(con, rows)
        return Captured(rows.schema.fingerprint, *self._with_labels(con, table, came), cursor=rows.cursor)

    def _table(self, con: Connection, rows: Rows) -> pa.Table:
        schema, stored = rows.schema, rows.table
        columns: dict[str, Any] = {ROW_ID: stored.column(ROW_ID), MOMENT: stored.column("at")}
        columns["version"] = stored.column("version")
        columns |= {name: stored.column(KEY + name) for name, _ in schema.keys}
        columns |= {name: stored.column(REQUEST + name) for name, _ in schema.request}
        wanted = {n: t for n, t in self.wanted_context.items() if n not in columns}
        columns |= _context(con, stored.column("context"), wanted)
        same = self.same(schema.fingerprint)
        types = dict(schema.features)
        for name, dtype in self.service.columns:
            if name in same and types.get(name) == dtype:
                columns[name] = stored.column(FEATURE + name)
            else:
                columns[name] = pa.nulls(stored.num_rows, arrow_type(dtype))
        columns[OFFSET] = stored.column(OFFSET)
        return pa.table(columns)

    def same(self, fingerprint: str) -> set[str]:
        """The columns that mean what they mean today, of rows that were served under a fingerprint."""
        if fingerprint == service_fingerprint(self.service, self.views):
            return {n for n, _ in self.service.columns}
        then, now = self.meanings.get(fingerprint, {}), column_meanings(self.service, self.views)
        return {n for n, meaning in now.items() if then.get(n) == meaning}

    def _with_labels(
        self, con: Connection, table: pa.Table, came: Mapping[str, Upload]
    ) -> tuple[pa.Table, Any, Any]:
        """The rows with their label columns; which are mature, and which never will be."""
        mature = np.ones(table.num_rows, np.bool_)
        lost = ~mature
        if not self.labels and not came:
            return table, mature, lost
        columns: dict[str, Any] = {}
        for label in self.labels:
            one = label if self.erased is None else replace(label, view=self.erased.honoured(label.view))
            own, state = self._computed(con, table, one)
            if label.name in came:
                more, state = joined(came[label.name], table.column(ROW_ID), (own, state))
                columns |= more
            else:
                columns |= {label.name: own, f"{label.name}__state": state_column(state)}
            mature &= state == LabelState.MATURE
            if label.observed != "last_event":  # else the source may go on
                lost |= state == LabelState.CENSORED
        for name, upload in came.items():
            if name not in columns:
                more, state = joined(upload, table.column(ROW_ID), None)
                columns |= more
                mature &= state == LabelState.MATURE
        for name, column in columns.items():
            table = table.append_column(name, column)
        return table.append_column(IS_MATURE, pa.array(mature)), mature, lost

    def _computed(self, con: Connection, table: pa.Table, label: Label) -> tuple[pa.Array, Array]:
        assert self.as_of is not None
        asked, parts, root = times_of(table, MOMENT), keys(label, table), self.config.root
        state = states(con, root, label, parts, asked, self.as_of)
        found, valid = values(con, root, label, parts, asked, state, self.as_of)
        return from_physical(found, valid, label.dtype), state


def _states_of(table: pa.Table) -> Counter[str]:
    """How many rows are left out, by the first of their labels' states that is not MATURE."""
    found: Counter[str] = Counter()
    taken = np.zeros(table.num_rows, np.bool_)
    for name in (n for n in table.column_names if n.endswith("__state")):
        said = np.asarray(table.column(name).cast(pa.string()))
        for one in (LabelState.IMMATURE, LabelState.CENSORED):
            mine = ~taken & (said == one.name)
            found[one.name] += int(mine.sum())
            taken |= mine
    return found


def _context(
    con: Connection, column: pa.ChunkedArray, wanted: Mapping[str, DType]
) -> dict[str, pa.ChunkedArray]:
    """Columns out of what callers told, which is a JSON object in each row; NULL where it says nothing that fits."""
    if not wanted:
        return {}
    con.register("captured_context", pa.table({"context": column}))
    try:
        select = []
        for i, (name, dtype) in enumerate(wanted.items()):
            path = literal('$."' + name.replace('"', '\\"') + '"', String, DUCKDB)
            select.append(f"TRY_CAST(json_extract_string(context, {path}) AS {type_name(dtype)}) AS c{i}")
        found = con.sql(f"SELECT {', '.join(select)} FROM captured_context").to_arrow_table()  # noqa: S608
    finally:
        con.unregister("captured_context")
    return {
        name: found.column(f"c{i}").cast(arrow_type(dtype)) for i, (name, dtype) in enumerate(wanted.items())
    }


def _empty(service: Service, views: Mapping[str, View], context: Mapping[str, DType]) -> pa.Table:
    types = {k.name: k.dtype for r in service.reads for k in views[r.view].keys}
    joined = {column: types[key] for r in service.reads for key, column in r.keys}
    whole: dict[str, DType] = {ROW_ID: String}
    schema = [(n, arrow_type(t)) for n, t in whole.items()]
    schema += [(MOMENT, pa.timestamp("us", tz="UTC")), ("version", pa.int64())]
    more = {**joined, **dict(service.request), **context, **dict(service.columns), OFFSET: Int64}
    return pa.schema([*schema, *((n, arrow_type(t)) for n, t in more.items())]).empty_table()


__all__ = ["Logged", "Meanings"]
