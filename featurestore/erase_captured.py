"""An erased entity's rows leave the capture log, and what came back of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.capture.compact import erase_rows
from featurestore.capture.log import CaptureLog, Folder
from featurestore.capture.returned import Returned, What
from featurestore.capture.schema import KEY, CapturedSchema
from featurestore.evaluate.partials import Array, Mask
from featurestore.registry import ServiceVersion

KINDS: Sequence[What] = ("predictions", "labels")

Key = Mapping[str, int | str]


@dataclass
class _OfEntity:
    """Which captured rows were asked for by the key, before `erased_at`, by any of the columns that may hold it."""

    lookups: Sequence[Mapping[str, str]]
    key: Key
    erased_at: int
    touched: Callable[[Array], None]
    row_ids: list[str] = field(default_factory=list)

    def __call__(self, table: pa.Table) -> Mask:
        gone = np.zeros(len(table), np.bool_)
        for columns in self.lookups:
            mine = np.ones(len(table), np.bool_)
            for name, column in columns.items():
                held = table.column(KEY + column)
                wanted = pa.scalar(self.key[name]).cast(held.type)
                mine &= np.asarray(pc.fill_null(pc.equal(held, wanted), fill_value=False))
            gone |= mine
        served = table.column("served_at").cast(pa.int64())
        gone &= np.asarray(pc.less(served, self.erased_at))
        chosen = table.filter(pa.array(gone))
        if chosen.num_rows:
            self.touched(chosen.column("at").cast(pa.int64()).to_numpy())
        requests, rows = chosen.column("request_id").to_pylist(), chosen.column("row").to_pylist()
        self.row_ids += [f"{r}-{i}" for r, i in zip(requests, rows, strict=True)]
        return gone


def erase_captured(
    log: CaptureLog,
    versions: Sequence[ServiceVersion],
    entity: str,
    key: Key,
    erased_at: int,
    touched: Callable[[str, Array], None] = lambda *_: None,
) -> tuple[int, int]:
    """Removes an entity's rows of before a moment (µs), and what came back of them; how many of each.

    `touched` is told of a service the moments that its rows were asked at, before they go and when they are gone. Raises
    LogError and CaptureError; the same again finishes it.
    """
    rows, row_ids = 0, list[str]()
    for service in log.services():
        moments: list[Array] = []

        def going(at: Array, service: str = service, moments: list[Array] = moments) -> None:
            moments.append(at)
            touched(service, at)

        for folder in log.folders(service):
            found = _OfEntity(_lookups(folder, versions, entity, key), key, erased_at, going)
            if found.lookups:
                rows += erase_rows(folder, found)
                row_ids += found.row_ids
        if moments:
            touched(service, np.concatenate(moments))
    returned = sum(Returned(log, kind).erase(row_ids) for kind in KINDS) if row_ids else 0
    return rows, returned


def _lookups(
    folder: Folder, versions: Sequence[ServiceVersion], entity: str, key: Key
) -> list[Mapping[str, str]]:
    """The columns of requests that hold the entity's key, each way that a version of this meaning looks it up."""
    schema = folder.schema
    found: dict[tuple[tuple[str, str], ...], Mapping[str, str]] = {}
    for version in versions:
        if (version.name, version.fingerprint) == (schema.service, schema.fingerprint):
            entities = {view.name: view.entity for view in version.views}
            for read in version.service.reads:
                columns = dict(read.keys)
                if (
                    entities[read.view] == entity
                    and columns.keys() == key.keys()
                    and _fits(schema, columns, key)
                ):
                    found[read.keys] = columns
    return list(found.values())


def _fits(schema: CapturedSchema, columns: Mapping[str, str], key: Key) -> bool:
    """Whether the key can stand in these columns: those of an older definition may be of another type."""
    types = dict(schema.keys)
    return all(
        column in types and isinstance(key[name], str) == (types[column].name == "String")  # type: ignore[union-attr]
        for name, column in columns.items()
    )


__all__ = ["erase_captured"]
