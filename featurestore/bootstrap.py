"""A training set of what was served: each cell from the capture log where it was, from a backfill where it was not.

A row is found in the log by its `row_id`, if the spine has one, or by its keys, its moment and its request columns; of several
it is the one that was kept last. A cell is taken from it where it was served by the same meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.capture.log import ROW_ID, CaptureLog
from featurestore.capture.schema import FEATURE, KEY, REQUEST
from featurestore.compile.sources import Connection
from featurestore.config import Config
from featurestore.errors import NotFound
from featurestore.evaluate.arrow import arrow_type
from featurestore.evaluate.finish import Cells
from featurestore.evaluate.partials import Array, Mask
from featurestore.ir import Service, View, column_meanings
from featurestore.registry import Registry, open_registry
from featurestore.status import Status

LOG, BACKFILL, DEFAULT = "log", "backfill", "default"
"""Where the cells of a group come from: all were served; at least one was computed; all were, and of no event."""


def groups(service: Service) -> dict[str, list[str]]:
    """The columns that are computed together, under the name of their column of provenance: `VIEW__from`, `ON_DEMAND__from`."""
    lookups: dict[str, dict[tuple[tuple[str, str], ...], list[str]]] = {}
    for read in service.reads:
        if not read.hidden:
            lookups.setdefault(read.view, {}).setdefault(read.keys, []).append(read.output)
    found: dict[str, list[str]] = {}
    for view, by_keys in lookups.items():
        for pairs, columns in by_keys.items():
            by = "_".join(column for _, column in pairs)
            found[f"{view}__from" if len(by_keys) == 1 else f"{view}_{by}__from"] = columns
    return found | {f"{o.name}__from": [o.name] for o in service.on_demand}


def meanings_of(registry: Registry, service: str) -> dict[str, dict[str, str]]:
    """What each column means, by the fingerprint of each version of a service that there ever was."""
    mine = [v for v in registry.services() if v.name == service]
    return {v.fingerprint: column_meanings(v.service, {x.name: x for x in v.views}) for v in mine}


@dataclass(frozen=True)
class Bootstrap:
    """The log of a service, and what its columns mean today."""

    log: CaptureLog
    service: Service
    views: Mapping[str, View]
    meanings: Mapping[str, Mapping[str, str]]

    @staticmethod
    def of(config: Config, service: Service, views: Mapping[str, View]) -> Bootstrap:
        registry = open_registry(config.registry_url, config.root)
        return Bootstrap(CaptureLog(config.capture), service, views, meanings_of(registry, service.name))

    def filled(
        self,
        con: Connection,
        spine: pa.Table,
        asked: Array,
        columns: dict[str, Any],
        cells: Mapping[str, Cells],
    ) -> dict[str, Any]:
        """The columns with the cells that were served in their place, and the columns of provenance."""
        served, covers = self._served(asked)
        found = self._found(con, spine, asked, served)
        done = dict(columns)
        taken: dict[str, Mask] = {}
        for name, dtype in self.service.columns:
            covered = np.array([name in covers[c] for c in range(len(covers))], np.bool_)
            number = served.column("__schema").to_numpy()
            mask = found >= 0
            mask[mask] = covered[number[found[mask]]]
            taken[name] = mask
            if mask.any():
                there = served.column(FEATURE + name).take(pa.array(np.where(mask, found, 0)))
                kind = arrow_type(dtype)
                own = pa.chunked_array(done[name]) if isinstance(done[name], list) else done[name]
                done[name] = pc.if_else(pa.array(mask), there.cast(kind), own.cast(kind))
        for name, members in groups(self.service).items():
            whole = np.logical_and.reduce([taken[m] for m in members])
            some = np.logical_or.reduce([taken[m] for m in members])
            nothing = np.logical_and.reduce([_of_nothing(cells[m]) for m in members]) & ~some
            code = np.where(whole, 0, np.where(nothing, 2, 1)).astype(np.int8)
            done[name] = pa.DictionaryArray.from_arrays(pa.array(code), pa.array([LOG, BACKFILL, DEFAULT]))
        return done

    def _served(self, asked: Array) -> tuple[pa.Table, list[set[str]]]:
        """The rows of the log in the time of the spine, and which columns each schema (`__schema`) has of today's."""
        now = column_meanings(self.service, self.views)
        types = dict(self.service.columns)
        tables, covers, numbers = [], list[set[str]](), dict[str, int]()
        low, high = (int(asked.min()), int(asked.max()) + 1) if len(asked) else (0, 0)
        try:
            reads = list(self.log.read(self.service.name, start=low, end=high))
        except NotFound:
            reads = []  # nothing was captured of it yet: all is backfilled
        for rows in reads:
            mine = rows.schema.fingerprint
            if mine not in numbers:
                then, stored = self.meanings.get(mine, {}), dict(rows.schema.features)
                numbers[mine] = len(covers)
                covers.append(
                    {n for n, m in now.items() if then.get(n) == m and stored.get(n) == types.get(n)}
                )
            kept = [ROW_ID, "at", *(KEY + c for c in self._keys())]
            kept += [REQUEST + n for n, _ in self.service.request]
            table = rows.table
            columns = {n: table.column(n) for n in kept if n in table.column_names}
            for name, dtype in self.service.columns:
                here = name in covers[numbers[mine]]
                columns[FEATURE + name] = (
                    table.column(FEATURE + name) if here else pa.nulls(len(table), arrow_type(dtype))
                )
            columns["__schema"] = pa.repeat(pa.scalar(numbers[mine], pa.int64()), len(table))
            tables.append(pa.table(columns))
        if not tables:
            empty = {ROW_ID: pa.array([], pa.string()), "at": pa.array([], pa.timestamp("us", tz="UTC"))}
            return pa.table({**empty, "__schema": pa.array([], pa.int64())}), [set()]
        return pa.concat_tables(tables, promote_options="default"), covers

    def _keys(self) -> list[str]:
        return list(dict.fromkeys(column for r in self.service.reads for _, column in r.keys))

    def _found(self, con: Connection, spine: pa.Table, asked: Array, served: pa.Table) -> Array:
        """The row of the log for each row of the spine, -1 where there is none."""
        same = [KEY + c for c in self._keys()] + [REQUEST + n for n, _ in self.service.request]
        by_id = ROW_ID in spine.column_names
        if not served.num_rows or (not by_id and any(n not in served.column_names for n in same)):
            return np.full(len(asked), -1, np.int64)
        left: dict[str, Any] = {"n": np.arange(len(asked)), "at": asked}
        right: dict[str, Any] = {"i": np.arange(served.num_rows), "at": served.column("at").cast(pa.int64())}
        if by_id:
            left["c0"], right["c0"] = spine.column(ROW_ID), served.column(ROW_ID)
        else:
            for i, name in enumerate(same):
                left[f"c{i}"] = spine.column(name.partition(":")[2])
                right[f"c{i}"] = served.column(name)
        con.register("spine_side", pa.table(left))
        con.register("log_side", pa.table(right))
        try:
            on = [f"s.c{i} IS NOT DISTINCT FROM l.c{i}" for i in range(len(left) - 2)]
            on += ["s.at = l.at"] if not by_id else []
            found = con.sql(
                "SELECT s.n, max(l.i) AS i FROM spine_side s JOIN log_side l "  # noqa: S608  names made here
                f"ON {' AND '.join(on)} GROUP BY s.n"
            ).to_arrow_table()
        finally:
            con.unregister("spine_side")
            con.unregister("log_side")
        out = np.full(len(asked), -1, np.int64)
        out[found.column("n").to_numpy()] = found.column("i").to_numpy()
        return out


def _of_nothing(cells: Cells) -> Mask:
    """Where a value is what it is of no event."""
    mask: Mask = (cells.status == Status.NOT_FOUND) | (cells.status == Status.DEFAULT)
    return mask


__all__ = ["BACKFILL", "DEFAULT", "LOG", "Bootstrap", "groups", "meanings_of"]
