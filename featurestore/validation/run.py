"""One run: rows or statistics, what is expected of them, by one engine; the outcome with who and when."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from featurestore import ir
from featurestore.errors import Unsupported
from featurestore.expectations import Expectation
from featurestore.statistics import Statistics
from featurestore.validation import gx, on_statistics, pushed_down
from featurestore.validation.judging import unjudged
from featurestore.validation.rows import Rows
from featurestore.verdicts import Kind, Validation, Verdict

ENGINES = ("duckdb", "gx", "statistics")


def definition_of(expectations: Sequence[Expectation]) -> str:
    """What stands for a list of expectations: changes when one of them does."""
    return ir.digest([ir.to_json(e) for e in expectations])


def validate_rows(
    name: str,
    kind: Kind,
    rows: Rows,
    expectations: Sequence[Expectation],
    *,
    now: int,
    engine: str = "duckdb",
    where: str = "validate",
    who: str = "",
) -> Validation:
    """Judges rows by DuckDB or Great Expectations. Raises Unsupported for another engine."""
    began = time.perf_counter()
    document: Any = None
    if engine == "duckdb":
        verdicts = pushed_down.judge(rows, expectations, now)
    elif engine == "gx":
        verdicts, document = gx.judge(rows, expectations, now)
    else:
        raise Unsupported(
            "this version", f"judge rows by '{engine}'", "duckdb, gx; or statistics that are kept"
        )
    ((count,),) = rows.con.execute(f"SELECT count(*) FROM {rows.relation} AS t").fetchall()  # noqa: S608
    return Validation(
        name,
        kind,
        engine,
        now,
        count,
        tuple(verdicts),
        definition_of(expectations),
        where,
        who,
        new_run(now),
        time.perf_counter() - began,
        document,
    )


def validate_statistics(
    name: str,
    kind: Kind,
    statistics: Statistics,
    expectations: Sequence[Expectation],
    *,
    now: int,
    start: int | None = None,
    end: int | None = None,
    who: str = "",
) -> Validation:
    """Judges what is kept. `start` and `end` lie where partitions begin."""
    began = time.perf_counter()
    verdicts = on_statistics.judge(statistics, expectations, now, start, end)
    whole = start is None and end is None
    rows = (statistics.total() if whole else statistics.window(start, end)).rows
    return Validation(
        name,
        kind,
        "statistics",
        now,
        rows,
        verdicts,
        definition_of(expectations),
        "validate",
        who,
        new_run(now),
        time.perf_counter() - began,
    )


def nothing_at_hand(
    name: str,
    kind: Kind,
    expectations: Sequence[Expectation],
    why: str,
    *,
    now: int,
    engine: str,
    who: str = "",
) -> Validation:
    """No rows to judge: no expectation could be evaluated, and why."""
    verdicts: tuple[Verdict, ...] = tuple(unjudged(e, why) for e in expectations)
    return Validation(
        name, kind, engine, now, None, verdicts, definition_of(expectations), "validate", who, new_run(now)
    )


def new_run(now: int) -> str:
    """A name for a run that sorts by time."""
    return f"{now:017d}-{uuid.uuid4().hex[:8]}"


__all__ = ["ENGINES", "definition_of", "new_run", "nothing_at_hand", "validate_rows", "validate_statistics"]
