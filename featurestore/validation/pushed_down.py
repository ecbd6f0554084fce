"""Expectations judged by DuckDB: one pass over the rows takes every aggregate. What fails is looked at once more.

Quantiles and distinct values take a whole column, which is read by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import duckdb

from featurestore.compile.expectations import aggregates, copies_sql, examples_sql, whole_column
from featurestore.compile.sources import Connection
from featurestore.expectations import Expectation, Unique
from featurestore.fitting import malformed, misfit
from featurestore.types import DType
from featurestore.validation.columns_whole import Columns
from featurestore.validation.judging import judged, unjudged
from featurestore.validation.rows import Rows
from featurestore.verdicts import Verdict

EXAMPLES = 5
"""Values that are shown of those that fail."""


def judge(
    rows: Rows, expectations: Sequence[Expectation], now: int, examples: int = EXAMPLES
) -> tuple[Verdict, ...]:
    """A verdict for each expectation, in order. Raises nothing for what a single one cannot do: that is its verdict."""
    wanted: dict[int, dict[str, str]] = {}
    said: dict[int, Verdict] = {}
    for i, one in enumerate(expectations):
        found = cannot(one, rows.types, rows.unread)
        if found is not None:
            said[i] = unjudged(one, found)
            continue
        try:
            wanted[i] = aggregates(one, rows.types)
        except ValueError as error:
            said[i] = unjudged(one, str(error))
    columns = Columns(rows)
    for i, facts in _facts(rows, wanted).items():
        one = expectations[i]
        try:
            if isinstance(facts, str):
                said[i] = unjudged(one, facts)
                continue
            verdict = judged(one, _whole(columns, one, facts), rows.types, now)
            said[i] = _with_examples(rows, verdict, examples) if verdict.failed else verdict
        except duckdb.Error as error:
            said[i] = unjudged(one, f"the engine cannot: {first_line(error)}")
    return tuple(said[i] for i in range(len(expectations)))


def cannot(expectation: Expectation, types: Mapping[str, DType], unread: Mapping[str, str]) -> str | None:
    """Why it cannot be judged on these columns; None when it can."""
    found = malformed(expectation) or misfit(expectation, types)
    for name, actual in unread.items():
        if found == f"there is no column '{name}'":
            return f"column '{name}' is {actual}, which is no type of ours"
    return found


def _facts(rows: Rows, wanted: Mapping[int, Mapping[str, str]]) -> dict[int, Mapping[str, Any] | str]:
    """What one pass over the rows tells; where it breaks, a pass for each expectation, and for those that break why."""
    asked = {i: fields for i, fields in wanted.items() if fields}
    out: dict[int, Mapping[str, Any] | str] = {i: {} for i in wanted if i not in asked}
    if not asked:
        return out
    try:
        return out | _pass(rows, asked)
    except duckdb.Error:
        for i, fields in asked.items():
            try:
                out |= _pass(rows, {i: fields})
            except duckdb.Error as error:
                out[i] = f"the engine cannot: {first_line(error)}"
    return out


def _pass(rows: Rows, asked: Mapping[int, Mapping[str, str]]) -> dict[int, Mapping[str, Any]]:
    names = list(dict.fromkeys(sql for fields in asked.values() for sql in fields.values()))
    select = ", ".join(f"{sql} AS a{i}" for i, sql in enumerate(names))
    values = _one(rows.con, f"SELECT {select} FROM {rows.relation} AS t")  # noqa: S608
    found = dict(zip(names, values, strict=True))
    return {i: {name: found[sql] for name, sql in fields.items()} for i, fields in asked.items()}


def _one(con: Connection, sql: str) -> tuple[Any, ...]:
    (row,) = con.execute(sql).fetchall()
    return tuple(row)


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _whole(columns: Columns, expectation: Expectation, facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """The facts with what a single pass does not tell: quantiles, distinct values, and how many rows have a copy."""
    rows, asked = columns.rows, whole_column(expectation, columns.rows.types)
    if asked is not None:
        name = "distinct" if isinstance(expectation.check, Unique) else "value"
        considered, found = columns.answer(asked, facts["rows"])
        facts = {**facts, "considered": considered, name: found}
    if not isinstance(expectation.check, Unique) or facts["distinct"] == facts["considered"]:
        return facts
    (copies,) = _one(rows.con, copies_sql(f"{rows.relation} AS t", expectation, rows.types))
    return {**facts, "unexpected": copies}


def _with_examples(rows: Rows, verdict: Verdict, limit: int) -> Verdict:
    sql = examples_sql(f"{rows.relation} AS t", verdict.expectation, rows.types, limit) if limit else None
    if sql is None:
        return verdict
    return replace(verdict, examples=tuple(str(x) for (x,) in rows.con.execute(sql).fetchall()))


__all__ = ["EXAMPLES", "cannot", "first_line", "judge"]
