"""What is done about rows before they are materialised: judged, put aside, or everything stopped before it is written.

A block stops on what failed, not on what could not be judged: that is kept, and told by `fs validate --history`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import ir
from featurestore.compile.duckdb import DUCKDB
from featurestore.compile.sources import Connection, put_aside_sql, quarantining, source_sql
from featurestore.compile.sql import literal
from featurestore.config import Config
from featurestore.errors import ExpectationFailed
from featurestore.types import String
from featurestore.validation.keep import keep
from featurestore.validation.rows import rows_of_source, rows_of_table
from featurestore.validation.run import validate_rows
from featurestore.verdicts import Validation

REASON = "put_aside_because"
"""The column that says why a row was put aside."""


def admit(
    con: Connection,
    config: Config,
    views: Sequence[ir.View],
    values: Callable[[ir.View], Any],
    *,
    now: int,
    who: str,
) -> list[Validation]:
    """Judges the sources of views, then the values that the views are about to have; what was found is kept.

    `values` gives a view's features as they would be written. Rows that a source puts aside are written below the offline
    folder. Raises ExpectationFailed, with all that failed, before anything is written online.
    """
    sources = {v.source.name: v.source for v in views}.values()
    done = [_source(con, config, source, now, who) for source in sources if source.expectations]
    _stop(done)
    for view in views:
        if view.expectations:
            rows = rows_of_table(con, values(view), config.root)
            found = validate_rows(
                view.name, "view", rows, view.expectations, now=now, where="materialize", who=who
            )
            keep(config, found)
            done.append(found)
    _stop(done)
    return done


def _source(con: Connection, config: Config, source: ir.Source, now: int, who: str) -> Validation:
    rows = rows_of_source(con, source, config.root)
    found = validate_rows(
        source.name, "source", rows, source.expectations, now=now, where="materialize", who=who
    )
    keep(config, found)
    if quarantining(source):
        _put_aside(con, config, source)
    return found


def put_aside(config: Config, source: str) -> Path:
    """Where the rows lie that the last materialisation put aside of a source."""
    return config.offline / "quarantine" / f"{source}.parquet"


def _put_aside(con: Connection, config: Config, source: ir.Source) -> None:
    """Writes the rows that are left out, with the reason, in the place of those of the last time."""
    everything = source_sql(con, replace(source, expectations=()), list(source.schema), config.root)
    aside = quarantining(source)
    tests = [put_aside_sql(e, source.schema) for e in aside]
    said = ", ".join(
        f"CASE WHEN {test} THEN {literal(e.name, String, DUCKDB)} END"
        for e, test in zip(aside, tests, strict=True)
    )
    sql = f"SELECT *, concat_ws('; ', {said}) AS {REASON} FROM ({everything}) WHERE {' OR '.join(tests)}"  # noqa: S608
    path = put_aside(config, source.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    reader = con.sql(sql).to_arrow_reader()
    with pq.ParquetWriter(partial, pa.schema(list(reader.schema))) as writer:
        for batch in reader:
            writer.write_batch(batch)
    partial.replace(path)


def _stop(validations: Iterable[Validation]) -> None:
    for found in validations:
        if found.blocking:
            raise failed(found)


def failed(found: Validation) -> ExpectationFailed:
    """The error for a validation that blocks."""
    lines = [f"{v.expectation.name}: {v.why}" for v in found.blocking]
    return ExpectationFailed(
        f"{found.kind} '{found.name}'",
        lines,
        f'nothing was written; `fs validate {found.name}` shows it, and without on_failure="block" it would only be told',
    )


__all__ = ["REASON", "admit", "failed", "put_aside"]
