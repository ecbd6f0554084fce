"""A suite proposed from data: what holds of these rows with some room, for a person to read, edit and keep."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from featurestore.compile.duckdb import DUCKDB
from featurestore.compile.sql import ident, literal
from featurestore.expectations import (
    Between,
    Expectation,
    Fresh,
    InSet,
    Matches,
    Measure,
    NotNull,
    RowCount,
    Schema,
    Unique,
)
from featurestore.time import DAY, HOUR
from featurestore.types import Bool, DType, Scalar, String, Timestamp, is_integer, is_numeric
from featurestore.validation.rows import Rows

CATEGORIES = 25
"""Up to so many distinct texts are taken for a set."""

SHAPES = (r"^\d+$", r"^[A-Z]+$", r"^[a-z]+$", r"^[A-Z0-9]+$", r"^[A-Za-z]+$", r"^[A-Za-z0-9_-]+$")
"""Patterns that are tried on texts, the closest first."""


def suggest(rows: Rows, event_time: str | None = None, now: int | None = None) -> tuple[Expectation, ...]:
    """What could be expected of rows like these: nothing that these rows themselves fail. Nothing of no rows."""
    facts = _facts(rows)
    count = facts["rows"]
    if not count:
        return ()
    return (
        Expectation(Schema(tuple(rows.types.items()))),
        Expectation(RowCount(int(_down(count / 2)), int(_up(count * 2))), severity="warning"),
        *_fresh(facts, rows, event_time, now),
        *(one for name, dtype in rows.types.items() for one in _of_column(name, dtype, facts[name], count)),
    )


def _facts(rows: Rows) -> dict[str, Any]:
    """One pass: for each column what is known of it."""
    select = ["count(*) AS rows"]
    names = {name: i for i, name in enumerate(rows.types)}
    for name, dtype in rows.types.items():
        i, x = names[name], ident(name, DUCKDB)
        select.append(f"count({x}) AS known_{i}")
        if not isinstance(dtype, Scalar) and not is_numeric(dtype):
            continue
        select.append(f"count(DISTINCT {x}) AS distinct_{i}")
        if is_numeric(dtype):
            number = f"CAST({x} AS DOUBLE)"
            select += [f"min({number}) AS lo_{i}", f"max({number}) AS hi_{i}"]
            select += [f"avg({number}) AS mean_{i}", f"stddev_samp({number}) AS std_{i}"]
        elif dtype == String:
            select += [
                f"bool_and(regexp_matches({x}, {literal(p, String, DUCKDB)})) AS shape{j}_{i}"
                for j, p in enumerate(SHAPES)
            ]
            select += [f"min(length({x})) AS short_{i}", f"max(length({x})) AS long_{i}"]
        elif dtype == Timestamp:
            select += [f"max(epoch_us({x})) AS last_{i}", f"min(epoch_us({x})) AS first_{i}"]
    table = rows.con.sql(f"SELECT {', '.join(select)} FROM {rows.relation} AS t").to_arrow_table()  # noqa: S608
    (found,) = table.to_pylist()
    out: dict[str, Any] = {"rows": found["rows"]}
    for name, i in names.items():
        out[name] = {k.rpartition("_")[0]: v for k, v in found.items() if k.endswith(f"_{i}")}
        few = rows.types[name] == String and 0 < out[name].get("distinct", 0) <= CATEGORIES
        if few:
            x = ident(name, DUCKDB)
            sql = f"SELECT DISTINCT {x} FROM {rows.relation} AS t WHERE {x} IS NOT NULL ORDER BY 1"  # noqa: S608
            out[name]["values"] = [v for (v,) in rows.con.execute(sql).fetchall()]
    return out


def _fresh(
    facts: dict[str, Any], rows: Rows, event_time: str | None, now: int | None
) -> Iterator[Expectation]:
    if event_time is None or event_time not in rows.types or facts[event_time].get("last") is None:
        return
    span = facts[event_time]["last"] - facts[event_time]["first"]
    usual = max(2 * span // max(facts["rows"], 1), HOUR)
    age = 0 if now is None else max(now - facts[event_time]["last"], 0)
    if age <= 30 * DAY:  # of what ended long ago, age says nothing
        yield Expectation(Fresh(-(-max(usual, 2 * age) // HOUR) * HOUR, event_time), severity="warning")


def _of_column(name: str, dtype: DType, facts: dict[str, Any], rows: int) -> Iterator[Expectation]:
    known = facts["known"]
    nulls = (rows - known) / rows
    if not nulls:
        yield Expectation(NotNull(name))
    elif nulls < 0.5:
        yield Expectation(NotNull(name), mostly=math.floor((1 - 1.5 * nulls) * 100) / 100 or 0.01)
    if not known:
        return
    if known > 1 and facts.get("distinct") == known and (dtype == String or is_integer(dtype)):
        yield Expectation(Unique((name,)))
    if is_numeric(dtype):
        yield from _of_numbers(name, dtype, facts)
    elif dtype == String:
        yield from _of_texts(name, facts, known)
    elif dtype == Bool and facts["distinct"] == 2:
        yield Expectation(Measure("distinct", name, 2, 2), severity="warning")


def _of_numbers(name: str, dtype: DType, facts: dict[str, Any]) -> Iterator[Expectation]:
    lo, hi, mean, std = (facts[k] for k in ("lo", "hi", "mean", "std"))
    if lo is None or not all(map(math.isfinite, (lo, hi, mean))):
        return
    room = max((hi - lo) * 0.1, abs(hi) * 0.05, 1.0 if is_integer(dtype) else 0.0)
    least = 0 if 0 <= lo <= room else _down(lo - room)  # what is never negative stays so
    yield Expectation(Between(name, least, _up(hi + room)))
    if std is not None and math.isfinite(std) and std > 0 and facts["distinct"] > CATEGORIES:
        yield Expectation(
            Measure("mean", name, _down(mean - std / 2), _up(mean + std / 2)), severity="warning"
        )
        yield Expectation(Measure("std", name, _down(std / 2), _up(std * 2)), severity="warning")


def _of_texts(name: str, facts: dict[str, Any], known: int) -> Iterator[Expectation]:
    if "values" in facts and facts["distinct"] <= max(known // 2, 1):
        yield Expectation(InSet(name, tuple(facts["values"])))
        return
    shape = next((p for j, p in enumerate(SHAPES) if facts[f"shape{j}"]), None)
    if shape is not None:
        same = facts["short"] == facts["long"]
        yield Expectation(Matches(name, shape.replace("+", f"{{{facts['short']}}}") if same else shape))


def _down(value: float) -> int | float:
    return _rounded(value, math.floor)


def _up(value: float) -> int | float:
    return _rounded(value, math.ceil)


def _rounded(value: float, to: Any) -> int | float:
    """Two digits that count, away from what was seen; a whole number where it is one."""
    if not value:
        return 0
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    found = to(value / unit) * unit
    if abs(found) >= 10 and unit >= 1:
        return int(found)
    return float(f"{found:.3g}")


__all__ = ["CATEGORIES", "suggest"]
