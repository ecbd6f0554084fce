"""Two training sets side by side: which rows, cells, statuses and columns differ, and what of how they were made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb

from featurestore.compile.duckdb import DUCKDB
from featurestore.compile.sources import Connection, connect
from featurestore.compile.sql import ident
from featurestore.datasets.manifest import MANIFEST, Manifest, broken_parts, load
from featurestore.errors import DatasetError, nearest

PATTERNS = 1000
"""Sets of columns that differ together, the most frequent first, among which examples are chosen."""

_NUMBERS = ("BIGINT", "INTEGER", "SMALLINT", "TINYINT", "UBIGINT", "UINTEGER", "FLOAT", "DOUBLE", "DECIMAL")
_ASIDE = frozenset({"seal", "parts", "rows", "columns", "plan"})


@dataclass(frozen=True, slots=True)
class ColumnDiff:
    """One column that both sets have, over the rows that both have.

    `lost` had a value and have none, `gained` the other way round; both count among `differing`. The greatest differences
    are of numbers that both have: `max_relative` is of the greater magnitude of the two, None where nothing differs.
    `moves` counts status changes.
    """

    name: str
    equal: int
    differing: int
    lost: int = 0
    gained: int = 0
    max_absolute: float | None = None
    max_relative: float | None = None
    moves: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class DatasetDiff:
    """What is not the same in two sets. `only_in_first` and `only_in_second` count rows.

    `examples` are as few rows as show every column that differs, with the cells of both. `schema` and `manifest` say what is
    different there, a sentence each; neither makes the rows differ by itself.
    """

    first: str
    second: str
    key: tuple[str, ...]
    matched: int
    only_in_first: int
    only_in_second: int
    columns: tuple[ColumnDiff, ...]
    schema: tuple[str, ...]
    manifest: tuple[str, ...]
    examples: tuple[Mapping[str, Any], ...]

    @property
    def same(self) -> bool:
        """Whether both hold the same columns and the same rows."""
        return not (
            self.only_in_first or self.only_in_second or self.schema or any(c.differing for c in self.columns)
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"same": self.same, **asdict(self)}

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        key = ", ".join(self.key)
        yield f"{self.matched:,} rows matched by {key}"
        for count, where in ((self.only_in_first, self.first), (self.only_in_second, self.second)):
            if count:
                yield f"{count:,} rows only in {where}"
        yield from (f"schema: {line}" for line in self.schema)
        for c in self.columns:
            if c.differing:
                yield f"{c.name}: {c.differing:,} of {c.equal + c.differing:,} cells differ{_how(c)}"
        if all(not c.differing for c in self.columns) and self.matched:
            yield "every cell of theirs is equal"
        for example in self.examples:
            cells = ", ".join(f"{n}: {a!r} | {b!r}" for n, (a, b) in example["cells"].items())
            yield f"  e.g. {', '.join(f'{k}={v}' for k, v in example['key'].items())}: {cells}"
        yield from (f"made differently: {line}" for line in self.manifest)


def _how(column: ColumnDiff) -> str:
    said = []
    if column.max_absolute is not None:
        said.append(f"by {column.max_absolute:.3g} at most")
    if column.max_relative is not None:
        said.append(f"{column.max_relative:.3g} relative")
    said += [f"{column.lost:,} became NULL"] if column.lost else []
    said += [f"{column.gained:,} are no longer NULL"] if column.gained else []
    said += [f"{move} {n:,}" for move, n in (column.moves or {}).items()]
    return f" ({', '.join(said)})" if said else ""


def diff(
    first: str | Path,
    second: str | Path,
    key: Sequence[str] | None = None,
    *,
    memory_limit: str | None = None,
    threads: int | None = None,
    spill: Path | None = None,
) -> DatasetDiff:
    """Compares two folders of Parquet files. Rows are matched by `key`, by default the spine's columns of their manifests.

    Rows that share a key are matched in their order. Values are compared as DuckDB compares them: NaN equals NaN, −0 equals
    0, NULL equals NULL. The sets need not fit in memory. Raises DatasetError when a folder is no set, a part of one is not
    what was written, or a key column is missing.
    """
    manifests = [_manifest(Path(p)) for p in (first, second)]
    con = connect(memory_limit, threads, spill)
    try:
        return _diff(con, (Path(first), Path(second)), manifests, key)
    finally:
        con.close()


def _manifest(folder: Path) -> Manifest | None:
    if not folder.exists():
        raise DatasetError(f"{folder} does not exist")
    if not folder.is_dir() or not (folder / MANIFEST).exists():
        return None
    manifest = load(folder)
    if wrong := broken_parts(manifest):
        raise DatasetError("\n  ".join([f"{folder} is not what was written", *wrong]))
    return manifest


def _diff(
    con: Connection,
    places: tuple[Path, Path],
    manifests: Sequence[Manifest | None],
    key: Sequence[str] | None,
) -> DatasetDiff:
    kinds = [_open(con, name, place) for name, place in zip("ab", places, strict=True)]
    keys = _key(key, manifests, kinds, places)
    schema = [f"column '{c}' is only in {places[0]}" for c in kinds[0] if c not in kinds[1]]
    schema += [f"column '{c}' is only in {places[1]}" for c in kinds[1] if c not in kinds[0]]
    shared = [c for c in kinds[0] if c in kinds[1]]
    schema += [
        f"column '{c}' is {kinds[0][c]} and {kinds[1][c]}" for c in shared if kinds[0][c] != kinds[1][c]
    ]
    if not schema and list(kinds[0]) != list(kinds[1]):
        schema.append("the columns stand in another order")
    columns = [c for c in shared if c not in keys]
    con.execute(_joined_sql(keys, columns))
    ((matched, left, right),) = con.execute(
        "SELECT count(*) FILTER (in_a AND in_b), count(*) FILTER (NOT in_b), count(*) FILTER (NOT in_a) FROM joined"
    ).fetchall()
    compared = [_column(con, i, c, kinds[0][c], kinds[1][c]) for i, c in enumerate(columns)]
    differing = {
        i: _differ(i, kinds[0][c.name], kinds[1][c.name]) for i, c in enumerate(compared) if c.differing
    }
    return DatasetDiff(
        str(places[0]),
        str(places[1]),
        tuple(keys),
        int(matched),
        int(left),
        int(right),
        tuple(compared),
        tuple(schema),
        tuple(_said(*manifests)),
        tuple(_examples(con, keys, columns, differing)),
    )


def _open(con: Connection, name: str, place: Path) -> dict[str, str]:
    """A view `name` of the rows with their numbers; the columns with their types."""
    files = sorted(map(str, place.glob("*.parquet"))) if place.is_dir() else [str(place)]
    if not files:
        raise DatasetError(f"{place} holds no Parquet files: it is no training set")
    try:
        listed = ", ".join("'" + f.replace("'", "''") + "'" for f in files)
        scan = f"read_parquet([{listed}], file_row_number = true, filename = true)"
        con.execute(f"CREATE TEMP VIEW {name} AS FROM {scan}")
        rows = con.execute(f"DESCRIBE {name}").fetchall()
    except duckdb.Error as error:
        raise DatasetError(f"{place} cannot be read: {str(error).splitlines()[0]}") from error
    return {column: kind for column, kind, *_ in rows if column not in ("file_row_number", "filename")}


def _key(
    key: Sequence[str] | None,
    manifests: Sequence[Manifest | None],
    kinds: Sequence[Mapping[str, str]],
    places: Sequence[Path],
) -> list[str]:
    if key is None:
        known = [set(m.spine_columns) for m in manifests if m is not None]
        if not known:
            raise DatasetError(
                "neither set has a manifest that says which columns name a row\n  name them as the key"
            )
        key = [c for c in kinds[0] if c in set.intersection(*known) and all(c in k for k in kinds)]
        if not key:
            raise DatasetError(
                "the sets share no column of a spine\n  name the columns that tell rows apart as the key"
            )
    for column in key:
        for place, kind in zip(places, kinds, strict=True):
            if column not in kind:
                raise DatasetError("\n  ".join([f"{place} has no column '{column}'", *nearest(column, kind)]))
    if not key:
        raise DatasetError("a key is at least one column")
    return list(key)


def _joined_sql(keys: Sequence[str], columns: Sequence[str]) -> str:
    """Table `joined`: key columns k0…, of each shared column both sides a0…, b0…, and which side has the row.

    Rows of one key are numbered in their order, so that the first meets the first.
    """
    named = ", ".join(f"{_id(k)} AS k{i}" for i, k in enumerate(keys))
    order = ", ".join(map(_id, keys))

    def side(name: str) -> str:
        values = "".join(f", {_id(c)} AS {name}{i}" for i, c in enumerate(columns))
        number = f"row_number() OVER (PARTITION BY {order} ORDER BY filename, file_row_number)"
        return f"(SELECT {named}{values}, {number} AS again, true AS in_{name} FROM {name})"  # noqa: S608

    on = " AND ".join(
        [*(f"l.k{i} IS NOT DISTINCT FROM r.k{i}" for i in range(len(keys))), "l.again = r.again"]
    )
    both = ", ".join(f"coalesce(l.k{i}, r.k{i}) AS k{i}" for i in range(len(keys)))
    values = "".join(f", l.a{i}, r.b{i}" for i in range(len(columns)))
    there = "l.in_a IS NOT NULL AS in_a, r.in_b IS NOT NULL AS in_b"
    rows = f"{side('a')} l FULL JOIN {side('b')} r ON {on}"
    return f"CREATE TEMP TABLE joined AS SELECT {both}, {there}{values} FROM {rows}"  # noqa: S608


def _column(con: Connection, i: int, name: str, kind: str, other: str) -> ColumnDiff:
    a, b = f"a{i}", f"b{i}"
    numbers, differ = _numbers(kind, other), _differ(i, kind, other)
    x, y = f"{a}::DOUBLE", f"{b}::DOUBLE"
    distance = f"abs({x} - {y})"
    apart = (
        f"max({distance}), max({distance} / nullif(greatest(abs({x}), abs({y})), 0))"
        if numbers
        else "NULL, NULL"
    )
    ((total, differing, lost, gained, absolute, relative),) = con.execute(
        f"SELECT count(*), count(*) FILTER ({differ}), count(*) FILTER ({differ} AND {b} IS NULL), "  # noqa: S608
        f"count(*) FILTER ({differ} AND {a} IS NULL), {apart} FROM joined WHERE in_a AND in_b"
    ).fetchall()
    moves = None
    if differing and name.endswith("__status"):
        found = con.execute(
            f"SELECT {a}::VARCHAR || ' -> ' || {b}::VARCHAR AS m, count(*) FROM joined "  # noqa: S608
            f"WHERE in_a AND in_b AND {differ} GROUP BY m ORDER BY 2 DESC, 1"
        ).fetchall()
        moves = dict(found)
    return ColumnDiff(
        name,
        total - differing,
        differing,
        lost,
        gained,
        absolute if differing else None,
        relative if differing else None,
        moves,
    )


def _numbers(kind: str, other: str) -> bool:
    return all(k.startswith(_NUMBERS) and not k.endswith("]") for k in (kind, other))


def _differ(i: int, kind: str, other: str) -> str:
    """Whether the cells of column number `i` differ; of types that do not compare, their texts."""
    as_text = "" if kind == other or _numbers(kind, other) else "::VARCHAR"
    return f"(a{i}{as_text} IS DISTINCT FROM b{i}{as_text})"


def _examples(
    con: Connection, keys: Sequence[str], columns: Sequence[str], differing: Mapping[int, str]
) -> Iterator[dict[str, Any]]:
    """Rows chosen greedily: each time one that shows the most columns that no row before it showed.

    `differing` has, for the number of each column that differs anywhere, the SQL that says where.
    """
    if not differing:
        return
    marks = ", ".join(f"CASE WHEN {where} THEN {i} END" for i, where in differing.items())
    cells = ", ".join(f"a{i}, b{i}" for i in differing)
    con.execute(
        f"CREATE TEMP TABLE differing AS SELECT *, list_filter([{marks}], lambda x: x IS NOT NULL) AS p FROM "  # noqa: S608
        f"(SELECT *, row_number() OVER (ORDER BY {', '.join(f'k{i}' for i in range(len(keys)))}) AS n FROM joined "
        "WHERE in_a AND in_b)"
    )
    patterns = con.execute(
        "SELECT p, min(n) FROM differing WHERE len(p) > 0 GROUP BY p ORDER BY count(*) DESC, 2 LIMIT ?",
        [PATTERNS],
    ).fetchall()
    left = set(differing)
    while left:
        best = max(patterns, key=lambda found: len(left & set(found[0])), default=None)
        if best is None or not left & set(best[0]):
            return
        left -= set(best[0])
        named = ", ".join(f"k{i}" for i in range(len(keys)))
        wanted = f"SELECT {named}, {cells} FROM differing WHERE n = {best[1]}"  # noqa: S608  a number
        row = [column[0].as_py() for column in con.sql(wanted).to_arrow_table().columns]
        values = dict(
            zip(differing, zip(row[len(keys) :: 2], row[len(keys) + 1 :: 2], strict=True), strict=True)
        )
        yield {
            "key": dict(zip(keys, row, strict=False)),
            "cells": {columns[i]: values[i] for i in differing if i in best[0]},
        }


def _said(first: Manifest | None, second: Manifest | None) -> Iterator[str]:
    if first is None or second is None:
        if (first is None) != (second is None):
            yield f"{'the first' if first is None else 'the second'} has no manifest"
        return
    a, b = (dict(_flat("", {k: v for k, v in m.content.items() if k not in _ASIDE})) for m in (first, second))
    for name in [*a, *(n for n in b if n not in a)]:
        if name == "spine.schema" or a.get(name) == b.get(name):
            continue
        yield f"{name} {_short(a, name)} | {_short(b, name)}"


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    match value:
        case dict() if value:
            for name, inner in value.items():
                yield from _flat(f"{prefix}.{name}" if prefix else name, inner)
        case list() if value and isinstance(value[0], dict):
            for inner in value:
                label = inner.get("path") or inner.get("source") or "?"
                yield from _flat(f"{prefix}[{label}]", inner)
        case _:
            yield prefix, value


def _short(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return "-"
    text = json.dumps(values[name], ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _id(name: str) -> str:
    return ident(name, DUCKDB)
