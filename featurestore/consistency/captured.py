"""Captured rows to look at, and by which version of a service they were served."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore import declare as d
from featurestore.capture.log import ROW_ID, CaptureLog
from featurestore.capture.schema import FEATURE, KEY, REQUEST, CapturedSchema
from featurestore.errors import FunctionChanged, NotFound
from featurestore.evaluate.arrow import to_physical
from featurestore.evaluate.partials import Array, Mask
from featurestore.evaluate.ragged import hashes
from featurestore.functions import bound
from featurestore.ir import PythonFunction, Service, View, column_meanings
from featurestore.planning import readable
from featurestore.registry import Registry
from featurestore.types import DType, MapType


@dataclass(frozen=True)
class Drawn:
    """Captured rows of one schema, as they are stored, with `row_id`."""

    schema: CapturedSchema
    table: pa.Table

    @property
    def rows(self) -> int:
        return int(self.table.num_rows)

    @property
    def row_ids(self) -> list[str]:
        found: list[str] = self.table.column(ROW_ID).to_pylist()
        return found

    @property
    def asked(self) -> Array:
        """The moment of each row, in microseconds."""
        return self.instants("at")

    def instants(self, column: str) -> Array:
        found: Array = self.table.column(column).cast(pa.int64()).to_numpy()
        return found

    @property
    def spine(self) -> pa.Table:
        """Keys and request columns under the names that the service knows them by."""
        columns = {n: self.table.column(KEY + n) for n, _ in self.schema.keys}
        columns |= {n: self.table.column(REQUEST + n) for n, _ in self.schema.request}
        return pa.table(columns) if columns else pa.table({"row": np.arange(self.rows)})

    def values(self, name: str, dtype: DType) -> Column:
        """What was served of a feature."""
        return column_of(self.table.column(FEATURE + name), dtype)

    def statuses(self, name: str) -> Array:
        """The `Status` of a feature in each row."""
        place = [n for n, _ in self.schema.features].index(name)
        digits = pc.utf8_slice_codeunits(self.table.column("statuses"), place, place + 1)
        return np.asarray(digits.cast(pa.int8()))

    def take(self, places: Array) -> Drawn:
        return replace(self, table=self.table.take(pa.array(places)))


@dataclass(frozen=True, slots=True)
class Column:
    """Values in physical form (lists and maps as Python has them), and which are not NULL."""

    values: Array
    valid: Mask

    def take(self, places: Array) -> Column:
        return Column(self.values[places], self.valid[places])


def column_of(column: pa.ChunkedArray, dtype: DType) -> Column:
    if isinstance(dtype, MapType):
        listed = column.to_pylist()
        valid = np.array([x is not None for x in listed], np.bool_)
        return Column(
            np.fromiter((None if x is None else dict(x) for x in listed), object, len(listed)), valid
        )
    values, known = to_physical(column, dtype)
    return Column(values, np.ones(len(values), np.bool_) if known is None else known)


def drawn(
    log: CaptureLog,
    service: str,
    sample: int,
    *,
    fingerprint: str | None = None,
    start: int | None = None,
    end: int | None = None,
) -> list[Drawn]:
    """Up to `sample` of the captured rows whose moment lies in [start, end): those with the least hashes of their ids.

    The same ones every time, in whatever order they come. Raises NotFound where nothing was captured of the service.
    """
    kept: dict[str, tuple[CapturedSchema, pa.Table, Array]] = {}
    for rows in log.read(service, fingerprint=fingerprint, start=start, end=end):
        if not rows.table.num_rows:
            continue
        own = hashes(np.array(rows.table.column(ROW_ID).to_pylist(), object))
        mine, table = rows.schema.fingerprint, rows.table
        if mine in kept:
            _, before, known = kept[mine]
            table, own = pa.concat_tables([before, table]), np.concatenate([known, own])
        kept[mine] = rows.schema, table, own
        if sum(len(h) for _, _, h in kept.values()) > 2 * sample + 65_536:
            kept = _least(kept, sample)
    return [Drawn(schema, table) for schema, table, _ in _least(kept, sample).values()]


def _least(
    kept: Mapping[str, tuple[CapturedSchema, pa.Table, Array]], sample: int
) -> dict[str, tuple[CapturedSchema, pa.Table, Array]]:
    every = np.concatenate([h for _, _, h in kept.values()]) if kept else np.zeros(0, np.uint64)
    if len(every) <= sample:
        return dict(kept)
    most = np.partition(every, sample - 1)[sample - 1]
    found = {}
    for name, (schema, table, own) in kept.items():
        mine = own <= most
        if mine.any():
            found[name] = schema, table.filter(pa.array(mine)), own[mine]
    return found


def of_request(log: CaptureLog, service: str, request: str) -> list[Drawn]:
    """The captured rows of a request, or the one row of a row id. Raises NotFound when there is none."""
    found = []
    for rows in log.read(service):
        table = rows.table
        mine = pc.or_(pc.equal(table.column("request_id"), request), pc.equal(table.column(ROW_ID), request))
        some = table.filter(mine)
        if some.num_rows:
            found.append(Drawn(rows.schema, some))
    if not found:
        raise NotFound("captured request", request, (), f"what was captured of '{service}'")
    return found


# ------------------------------------------------------------------------------------------------------------- by what version


@dataclass(frozen=True)
class Meaning:
    """A version of a service, as it can be computed now. `lost` are columns whose Python function is not there any more."""

    reference: str
    service: Service
    views: Mapping[str, View]
    lost: frozenset[str] = frozenset()

    @property
    def meanings(self) -> dict[str, str]:
        return column_meanings(self.service, self.views)

    @property
    def types(self) -> dict[str, DType]:
        return dict(self.service.columns)


def meanings_by_fingerprint(
    registry: Registry, service: str, declarations: Callable[[], Iterable[d.Declaration]]
) -> dict[str, Meaning]:
    """Every version that there ever was of a service, by its fingerprint."""
    current = registry.current().plan
    found = {}
    for version in registry.services():
        if version.name == service:
            own, views = readable(version, current)
            found[version.fingerprint] = _computable(version.reference, own, views, declarations)
    return found


def _computable(
    reference: str,
    service: Service,
    views: Mapping[str, View],
    declarations: Callable[[], Iterable[d.Declaration]],
) -> Meaning:
    try:
        return Meaning(reference, bound(service, declarations), views)
    except FunctionChanged:
        kept = tuple(o for o in service.on_demand if not isinstance(o.expression, PythonFunction))
        lost = frozenset(o.name for o in service.on_demand) - {o.name for o in kept}
        order = tuple(n for n, _ in service.columns if n not in lost)
        return Meaning(reference, replace(service, on_demand=kept, order=order), views, lost)


__all__ = ["Column", "Drawn", "Meaning", "column_of", "drawn", "meanings_by_fingerprint", "of_request"]
