"""Point-in-time training sets: one row out for each row in, in order, every value as of the row's own moment.

The spine is worked on in slices, and each is joined by `joining`, so neither it nor the events have to fit in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from featurestore.bootstrap import Bootstrap, groups
from featurestore.compile.sources import Connection, connect, engine_errors
from featurestore.config import Config
from featurestore.erasures import Erasures, erasures
from featurestore.errors import RequestError, SpineError
from featurestore.evaluate.arrow import from_physical
from featurestore.evaluate.finish import Cells
from featurestore.ir import Label, Service, View
from featurestore.joining import service_cells
from featurestore.knowledge import Knowledge
from featurestore.labels import Immature, Labelling, column_names, labelled, told
from featurestore.registry import open_registry
from featurestore.spine import spine_batches, times_of
from featurestore.statistics import Keep, Statistics
from featurestore.statistics.scalers import Scaler, as_doubles, scaled
from featurestore.status import Status
from featurestore.time import Duration
from featurestore.types import DType, Float64

if TYPE_CHECKING:
    from featurestore.datasets.split import Splits

SLICE_BYTES = 1 << 30
"""Spine and features held for one slice of the spine."""


@dataclass(frozen=True)
class TrainingSet:
    """A training set: spine columns first, then the service's columns; computed when it is read, slice by slice.

    NULLs stay NULL in Arrow, pandas and polars. With `statuses`, each feature has a column `<name>__status` besides.
    `reference` is the applied version of the service, if it is one; `full_names` says that its names were asked for in full.
    Events of erased entities are left out: by `erased`, or by what the registry says when the set is read.
    With `labels` (known as of `as_of`, in microseconds) each has columns `NAME`, NULL unless it is mature, and `NAME__state`, and
    `is_mature` says whether all are; rows where one is not are left out unless `immature="keep"`.
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
    labels: tuple[Label, ...] = ()
    as_of: int | None = None
    immature: Immature = "drop"
    bootstrap_from_log: bool = False
    """Whether cells that were served are taken from the capture log; `GROUP__from` says of each group where it comes from."""

    @property
    def columns(self) -> tuple[tuple[str, DType], ...]:
        """The features, with the types they come out in."""
        by = {} if self.scaler is None else self.scaler.by_feature
        return tuple((name, Float64 if name in by else dtype) for name, dtype in self.service.columns)

    @property
    def label_columns(self) -> list[str]:
        """What comes after the features: of each label its value and its state, then whether all are mature."""
        return column_names(self.labels)

    @property
    def provenance_columns(self) -> list[str]:
        """What says where the cells of each group come from, if they do not all come from the same place."""
        return list(groups(self.service)) if self.bootstrap_from_log else []

    def batches(self, size: int = 65_536) -> Iterator[pa.RecordBatch]:
        """The rows in order, at most `size` at a time."""
        for table in self.tables():
            yield from table.to_batches(max_chunksize=size)

    def tables(self, left_out: Counter[str] | None = None) -> Iterator[pa.Table]:
        """The rows in order, as tables as large as one slice of the spine. `left_out` counts those that are not mature."""
        erased = self.erasures_now() if self.erased is None else self.erased
        views = {name: erased.honoured(view) for name, view in self.views.items()}
        labelling = self._labelling(erased, Counter() if left_out is None else left_out)
        log = Bootstrap.of(self.config, self.service, self.views) if self.bootstrap_from_log else None
        with engine_errors(), ExitStack() as stack:
            self.config.offline.mkdir(parents=True, exist_ok=True)
            con = connect(self.config.memory_limit, self.config.threads, self.config.offline / "spill")
            stack.callback(con.close)
            done = 0
            rows = spine_batches(con, self.spine, self.rows_of_a_slice)
            if labelling is not None:
                rows = told(
                    con,
                    self.config.root,
                    labelling,
                    map(self._named_apart, rows),
                    self.timestamp,
                    self.rows_of_a_slice,
                )
            for table in rows:
                yield self._enriched(con, table, done, views, labelling, log)
                done += table.num_rows

    def _labelling(self, erased: Erasures, left_out: Counter[str]) -> Labelling | None:
        if not self.labels:
            return None
        if self.as_of is None:
            raise RequestError(
                f"'{self.service.name}' has labels, and it is not said as of when\n  as_of=…, a moment"
            )
        labels = [replace(x, view=erased.honoured(x.view)) for x in self.labels]
        return Labelling(labels, self.as_of, self.immature, left_out)

    def _named_apart(self, spine: pa.Table) -> pa.Table:
        """The rows, none of whose columns has the name of one that is made. Raises SpineError."""
        taken = set(spine.column_names)
        labels = {n: f"label '{x.name}'" for x in self.labels for n in (x.name, f"{x.name}__state")}
        for name in (*(n for n, _ in self.service.columns), *self.provenance_columns, *self.label_columns):
            if name in taken:
                whose = labels.get(name, f"service '{self.service.name}'")
                raise SpineError(
                    f"the spine has a column '{name}', and so has {whose}\n"
                    '  rename the spine\'s column, or prefix the feature: view.on(…, prefix="…")'
                )
        return spine

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

    def _enriched(
        self,
        con: Connection,
        spine: pa.Table,
        first: int,
        views: Mapping[str, View],
        labelling: Labelling | None,
        log: Bootstrap | None,
    ) -> pa.Table:
        if labelling is None:
            self._named_apart(spine)
        asked = times_of(spine, self.timestamp, first)
        lags = {v.source.name: self.lag.get(v.source.name, 0) for v in views.values()}
        cells = service_cells(
            con,
            self.config.root,
            self.service,
            views,
            spine,
            asked,
            statuses=self.statuses or log is not None,
            lags=lags if self.knowledge == "arrived" else None,
        )
        if self.scaler is not None:
            cells |= scaled_cells(cells, dict(self.service.columns), self.scaler)
        own = set(self.label_columns)
        columns = {name: spine.column(name) for name in spine.column_names if name not in own}
        for name, dtype in self.columns:
            cell = cells[name]
            columns[name] = pa.chunked_array([from_physical(cell.values, cell.valid, dtype)])
        if self.statuses:
            words = pa.array([s.name for s in Status])
            for name, _ in self.service.columns:
                codes = pa.array(cells[name].status.view(np.int8))
                columns[f"{name}__status"] = pa.chunked_array([pa.DictionaryArray.from_arrays(codes, words)])
        if log is not None:
            columns = log.filled(con, spine, asked, columns, cells)
        if labelling is not None:
            columns |= labelled(con, self.config.root, labelling, spine, asked)
        return pa.table(columns)


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
