"""Rows that are read again each time they are asked for: what a split, a sample or an entity's moments are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from featurestore.compile.sources import Connection, connect
from featurestore.config import Config
from featurestore.errors import DatasetError
from featurestore.spine import spine_batches

READ_ROWS = 1 << 17
"""Rows of a spine that are looked at together."""


@dataclass(frozen=True)
class Streamed:
    """A table whose rows are made when they are read, and again each time. Anything that reads the Arrow C stream reads it.

    `said` is how the rows came about, as plain JSON values.
    """

    schema: pa.Schema
    make: Callable[[], Iterable[pa.RecordBatch]] = field(repr=False)
    said: Any = None

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows in order."""
        yield from self.make()

    def reader(self) -> pa.RecordBatchReader:
        """The rows in order, as an Arrow reader."""
        return pa.RecordBatchReader.from_batches(self.schema, self.batches())

    def to_arrow(self) -> pa.Table:
        """All rows as one Arrow table."""
        return pa.Table.from_batches(self.batches(), self.schema)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.reader().__arrow_c_stream__(requested_schema)


def reread(config: Config, spine: Any) -> Callable[[], Iterator[pa.Table]]:
    """A spine as tables of READ_ROWS rows, as often as it is called. Raises DatasetError for rows that come once only."""
    if isinstance(spine, pa.RecordBatchReader | Iterator):
        raise DatasetError(
            "these rows can be read only once, and a split or a sample reads them several times\n"
            "  give a table, a frame, or the path of a file"
        )

    def tables() -> Iterator[pa.Table]:
        con: Connection = connect(config.memory_limit, config.threads, config.offline / "spill")
        try:
            yield from spine_batches(con, spine, READ_ROWS)
        finally:
            con.close()

    return tables
