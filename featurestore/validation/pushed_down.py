"""Expectations judged by DuckDB: one pass over the rows takes every aggregate; what fails is then looked at once more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import duckdb

from featurestore.compile.duckdb import DUCKDB
from featurestore.compile.expectations import aggregates, copies_sql, examples_sql, spanned
from featurestore.compile.sources import Connection
from featurestore.compile.sql import ident
from featurestore.expectations import Expectation, Unique
from featurestore.fitting import malformed, misfit
from featurestore.types import DType
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
    spans = _spans(rows, expectations)
    for i, one in enumerate(expectations):
        found = cannot(one, rows.types, rows.unread)
        if found is not None:
            said[i] = unjudged(one, found)
            continue
        try:
            wanted[i] = aggregates(one, rows.types, spans)
        except ValueError as error:
            said[i] = unjudged(one, str(error))
    for i, facts in _facts(rows, wanted).items():
        one = expectations[i]
        if isinstance(facts, str):
            said[i] = unjudged(one, facts)
            continue
        verdict = judged(one, _whole(rows, one, facts), rows.types, now)
        said[i] = _with_examples(rows, verdict, examples) if verdict.failed else verdict
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


def _spans(rows: Rows, expectations: Sequence[Expectation]) -> dict[str, tuple[int, int]]:
    """Least and greatest of the whole numbers whose distinct values are counted: a look that costs next to nothing."""
    fit = [e for e in expectations if cannot(e, rows.types, rows.unread) is None]
    columns = list(dict.fromkeys(c for e in fit if (c := spanned(e, rows.types)) is not None))
    if not columns:
        return {}
    names = [ident(c, DUCKDB) for c in columns]
    select = ", ".join(f"min({x}), max({x})" for x in names)
    ends = _one(rows.con, f"SELECT {select} FROM {rows.relation} AS t")  # noqa: S608
    pairs = zip(columns, zip(ends[::2], ends[1::2], strict=True), strict=True)
    return {c: (lo, hi) for c, (lo, hi) in pairs if lo is not None}


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


def _whole(rows: Rows, expectation: Expectation, facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """The facts with how many rows have a copy, which a single pass does not tell."""
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
