"""Rows of one part that another part has too, or nearly: what makes a score on a test set better than it is."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from featurestore.compile.duckdb import DUCKDB
from featurestore.compile.sources import Connection, connect
from featurestore.compile.sql import ident
from featurestore.errors import DatasetError, nearest

if TYPE_CHECKING:
    from featurestore.training import TrainingSet


@dataclass(frozen=True, slots=True)
class Pair:
    """Two parts: how many rows of the second have a twin in the first, exactly (`exact`) or at least nearly (`near`).

    `examples` are pairs of row numbers, in the first part and in the second, with the values of the second.
    """

    first: str
    second: str
    exact: int
    near: int
    examples: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Twins:
    """What was found: for each pair of parts. `rows` by part; `empty` of them have no value in any column and were left out."""

    columns: tuple[str, ...]
    tolerance: float
    rows: Mapping[str, int]
    empty: Mapping[str, int]
    pairs: tuple[Pair, ...]

    def __bool__(self) -> bool:
        return any(pair.near for pair in self.pairs)

    def __str__(self) -> str:
        lines = [
            f"{p.second}: {p.exact:,} of {self.rows[p.second]:,} rows are in {p.first} too, "
            f"{p.near:,} within a tolerance of {self.tolerance:g}"
            for p in self.pairs
        ]
        lines += [f"{name}: {n:,} rows without any value, left out" for name, n in self.empty.items() if n]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def near_duplicates(
    parts: Mapping[str, TrainingSet],
    columns: Sequence[str] | None = None,
    *,
    tolerance: float = 1e-6,
    examples: int = 5,
) -> Twins:
    """Rows with equal values in `columns` (all features by default) in more than one part, and rows with nearly equal ones.

    Numbers are near when they fall into the same step of a scale whose steps are `tolerance` wide relative to the number:
    two that are closer than that may lie on both sides of an edge, so `near` is a lower bound. NULL equals NULL. Other
    values have to be equal. The parts are written to disk once and compared there: they need not fit in memory.
    """
    if len(parts) < 2:
        raise DatasetError("twins are looked for between parts, and there are fewer than two")
    if not 0 < tolerance < 1:
        raise DatasetError(f"tolerance={tolerance!r} is not between 0 and 1")
    any_part = next(iter(parts.values()))
    names = list(columns) if columns is not None else [name for name, _ in any_part.service.columns]
    if not names:
        raise DatasetError("twins are looked for in columns, and none is named")
    config = any_part.config
    config.offline.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="twins-", dir=config.offline))
    con = connect(config.memory_limit, config.threads, folder / "spill")
    try:
        con.execute(f"ATTACH {_text(str(folder / 'twins.duckdb'))} AS twins")
        con.execute("USE twins")
        return _compare(con, parts, names, float(tolerance), examples)
    finally:
        con.close()
        shutil.rmtree(folder, ignore_errors=True)


def _compare(
    con: Connection, parts: Mapping[str, TrainingSet], names: Sequence[str], tolerance: float, examples: int
) -> Twins:
    kinds: dict[str, pa.DataType] = {}
    for number, part in enumerate(parts.values()):
        tables = part.tables()
        first = next(tables)
        for name in names:
            if name not in first.column_names:
                raise DatasetError(
                    "\n  ".join(
                        [f"the training set has no column '{name}'", *nearest(name, first.column_names)]
                    )
                )
            kinds.setdefault(name, first.schema.field(name).type)
        _store(con, number, _chain(first, tables), names)
    one = ", ".join(f"c{i}" for i in range(len(names)))
    near = ", ".join(_step(f"c{i}", kinds[name], tolerance) for i, name in enumerate(names))
    con.execute(
        f"CREATE TABLE marked AS SELECT part, row, {one}, hash({one}) AS h, "  # noqa: S608  names are c0, c1, …
        f"md5(ROW({near})::VARCHAR) AS g FROM rows WHERE coalesce({_any(len(names))})"
    )
    counts = dict(con.execute("SELECT part, count(*) FROM rows GROUP BY part").fetchall())
    full = dict(con.execute("SELECT part, count(*) FROM marked GROUP BY part").fetchall())
    pairs = [_pair(con, a, b, list(parts), names, examples) for a, b in combinations(range(len(parts)), 2)]
    rows = {name: int(counts.get(i, 0)) for i, name in enumerate(parts)}
    empty = {name: rows[name] - int(full.get(i, 0)) for i, name in enumerate(parts)}
    return Twins(tuple(names), tolerance, rows, empty, tuple(pairs))


def _store(con: Connection, number: int, tables: Iterator[pa.Table], names: Sequence[str]) -> None:
    done = 0
    for table in tables:
        columns = {f"c{i}": table.column(name) for i, name in enumerate(names)}
        con.register(
            "given", pa.table({"row": pa.array(range(done, done + table.num_rows), pa.int64()), **columns})
        )
        done += table.num_rows
        said = f"SELECT {number}::INTEGER AS part, * FROM given"  # noqa: S608  a number
        exists = con.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'rows'").fetchall() != [
            (0,)
        ]
        con.execute(f"INSERT INTO rows {said}" if exists else f"CREATE TABLE rows AS {said}")
        con.unregister("given")


def _pair(con: Connection, a: int, b: int, parts: Sequence[str], names: Sequence[str], examples: int) -> Pair:
    same = " AND ".join(f"x.c{i} IS NOT DISTINCT FROM y.c{i}" for i in range(len(names)))
    here, there = f"(FROM marked WHERE part = {a})", f"(FROM marked WHERE part = {b})"
    ((exactly,),) = con.execute(
        f"SELECT count(*) FROM {there} y SEMI JOIN {here} x ON x.h = y.h AND {same}"  # noqa: S608
    ).fetchall()
    ((nearly,),) = con.execute(
        f"SELECT count(*) FROM {there} y SEMI JOIN {here} x ON x.g = y.g"  # noqa: S608
    ).fetchall()
    shown = ", ".join(f"y.c{i} AS {ident(name, DUCKDB)}" for i, name in enumerate(names))
    found = con.sql(
        f"SELECT x.row AS first_row, y.row AS second_row, {shown} FROM {there} y JOIN "  # noqa: S608
        f"(SELECT g, min(row) AS row FROM {here} GROUP BY g) x ON x.g = y.g ORDER BY y.row LIMIT {int(examples)}"
    ).to_arrow_table()
    return Pair(parts[a], parts[b], int(exactly), int(nearly), tuple(found.to_pylist()))


def _step(column: str, kind: pa.DataType, tolerance: float) -> str:
    """The step of the scale that a number lies on; anything else as it is."""
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return column
    x = f"{column}::DOUBLE"
    step = f"round(ln(abs({x})) / {math.log1p(tolerance)!r})"
    return f"sign({x}), CASE WHEN {x} <> 0 THEN {step} END"


def _any(columns: int) -> str:
    """Whether any column has a value: `coalesce` of this is NULL, which WHERE leaves out, when none has."""
    return ", ".join(f"CASE WHEN c{i} IS NOT NULL THEN true END" for i in range(columns))


def _chain(first: pa.Table, rest: Iterator[pa.Table]) -> Iterator[pa.Table]:
    yield first
    yield from rest


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
