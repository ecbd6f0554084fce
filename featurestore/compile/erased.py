"""What stands for the key of an erased entity, in Python and in SQL, and the condition that its events are told by.

A tombstone holds no key. It holds the SHA-256 of a salt and of the parts of the key as texts, each behind its length in
bytes, so that no two keys run together. The same value is made by the database for every row that is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from featurestore.compile.duckdb import DUCKDB
from featurestore.compile.sources import Connection, source_sql
from featurestore.compile.sql import expr_sql, ident, literal
from featurestore.evaluate.partials import Mask
from featurestore.expr import columns_of
from featurestore.ir import Erased, Location, View
from featurestore.types import String


def key_digest(salt: str, parts: Sequence[int | str]) -> str:
    """What stands for a key, as 64 hex digits.

    >>> key_digest("s", ["a", "bc"]) == key_digest("s", ["ab", "c"])
    False
    >>> key_digest("s", [7]) == hashlib.sha256(b"s1:7").hexdigest()
    True
    """
    texts = [str(part).encode("utf-8", "surrogatepass") for part in parts]
    return hashlib.sha256(salt.encode() + b"".join(b"%d:%b" % (len(t), t) for t in texts)).hexdigest()


def digest_sql(view: View, salt: str) -> str:
    """The same of a row, over the source's columns."""
    parts = [literal(salt, String, DUCKDB)]
    for key in view.keys:
        text = f"CAST({expr_sql(key.value, view.source.schema, DUCKDB)} AS VARCHAR)"
        parts += [f"strlen({text})", "':'", text]
    return f"sha256(concat({', '.join(parts)}))"


def erased_sql(con: Connection, view: View, erased: Erased) -> str:
    """Whether a row is of an erased entity and of before it was erased, over the source's columns.

    A row of a static source is, whenever it came; so is one whose time is not known.
    """
    same = f"__digest = {digest_sql(view, erased.salt)}"
    at = view.source.event_time
    if at is not None:
        same += f" AND (epoch_us({ident(at, DUCKDB)}) < __before OR {ident(at, DUCKDB)} IS NULL)"
    return f"EXISTS (SELECT 1 FROM {_table(con, erased)} WHERE {same})"


def of_key(con: Connection, view: View, table: pa.Table, parts: Sequence[int | str]) -> Mask:
    """Which rows of a table with the source's columns are of a key. Raises SourceError when the columns it needs are gone."""
    source = view.source
    wanted = sorted(frozenset().union(*(columns_of(key.value) for key in view.keys)))
    con.register("__of_key", table)
    over = replace(source, location=Location("table", "__of_key"))
    rows = source_sql(con, over, wanted, Path())
    same = " AND ".join(
        f"({expr_sql(key.value, source.schema, DUCKDB)}) IS NOT DISTINCT FROM {literal(part, key.dtype, DUCKDB)}"
        for key, part in zip(view.keys, parts, strict=True)
    )
    found = con.sql(f"SELECT {same} AS same FROM ({rows})").to_arrow_table().column("same")
    con.unregister("__of_key")
    mask: Mask = found.to_numpy().astype(np.bool_)
    return mask


def _table(con: Connection, erased: Erased) -> str:
    """The tombstones as a table, which every cursor of the connection sees."""
    name = f"erased_{hashlib.sha256(repr(erased).encode()).hexdigest()[:32]}"
    # All of it is fetched: what is left of a result keeps relations of the connection from being read.
    if not con.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = ?", [name]).fetchall():
        rows = {"__digest": [d for d, _ in erased.keys], "__before": [at for _, at in erased.keys]}
        con.register(
            f"{name}_rows", pa.table(rows, pa.schema([("__digest", pa.string()), ("__before", pa.int64())]))
        )
        con.execute(f"CREATE TABLE {name} AS SELECT * FROM {name}_rows")
        con.unregister(f"{name}_rows")
    return name


__all__ = ["digest_sql", "erased_sql", "key_digest", "of_key"]
