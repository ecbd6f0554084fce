"""From what is known of rows to a verdict: the one place that says when an expectation holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, assert_never

from featurestore.expectations import (
    Between,
    Condition,
    Expectation,
    Fresh,
    Greater,
    InSet,
    Matches,
    Measure,
    NotNull,
    OfType,
    RowCount,
    Schema,
    Share,
    Unique,
    Value,
)
from featurestore.expr.literals import date_text
from featurestore.fitting import constant
from featurestore.time import DAY, HOUR, MINUTE, SECOND, duration_text, moment_text
from featurestore.types import Date, DType, Timestamp
from featurestore.verdicts import Outcome, Verdict

Facts = Mapping[str, Any]
"""What is known of the rows, by the names of `compile.expectations.aggregates`."""


def unjudged(expectation: Expectation, why: str, **seen: Any) -> Verdict:
    """It could not be judged, and why."""
    return Verdict(expectation, "not_evaluated", why=why, **seen)


def judged(expectation: Expectation, facts: Facts, schema: Mapping[str, DType], now: int) -> Verdict:
    """What the facts say. `schema` has the columns in the order they lie in; `now` is the moment ages are taken at."""
    check = expectation.check
    match check:
        case NotNull() | Matches() | InSet() | Between() | Greater() | Condition():
            return _rows(expectation, facts)
        case Unique():
            if not facts["considered"]:
                return unjudged(expectation, nothing(facts))
            if facts["distinct"] == facts["considered"]:
                return _rows(expectation, {**facts, "unexpected": 0})
            return _rows(expectation, facts)
        case Share(_, _, lo, hi):
            if not facts["considered"]:
                return unjudged(expectation, nothing(facts))
            return measured(expectation, facts["hits"] / facts["considered"], lo, hi, facts["considered"])
        case Measure():
            return _measure(expectation, check, facts, schema[check.column])
        case RowCount(lo, hi):
            return measured(expectation, facts["rows"], lo, hi, facts["rows"])
        case Fresh(within):
            return _fresh(expectation, within, facts, now)
        case OfType(column, dtype):
            return _typed(expectation, column, dtype, schema)
        case Schema():
            return _schema(expectation, check, schema)
        case _:
            assert_never(check)


def nothing(facts: Facts) -> str:
    """Why no row says anything."""
    rows = facts["rows"]
    return "no rows" if not rows else f"NULL in all of {rows:,} rows: no value to judge"


def enough(considered: int, unexpected: int, mostly: float) -> bool:
    """Whether a share of `mostly` holds."""
    return (considered - unexpected) / considered >= mostly


def _rows(expectation: Expectation, facts: Facts) -> Verdict:
    considered, unexpected = facts["considered"], facts["unexpected"]
    if not considered:
        why = nothing(facts) if not isinstance(expectation.check, Condition) else "no row says anything"
        return unjudged(expectation, why)
    held = enough(considered, unexpected, expectation.mostly)
    share = (considered - unexpected) / considered
    why = "" if held else f"{unexpected:,} of {considered:,} rows fail"
    return Verdict(expectation, "passed" if held else "failed", share, considered, unexpected, why=why)


def measured(
    expectation: Expectation,
    value: float | None,
    lo: float | None,
    hi: float | None,
    considered: int | None,
    shown: Any = None,
) -> Verdict:
    """Whether a number lies within bounds. `shown` is how it reads, itself by default."""
    if value is None:
        return unjudged(expectation, "too few values to take it of", considered=considered)
    held = (lo is None or value >= lo) and (hi is None or value <= hi)
    outcome: Outcome = "passed" if held else "failed"
    said = value if shown is None else shown
    return Verdict(expectation, outcome, said, considered, why="" if held else f"it is {_text(said)}")


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _measure(expectation: Expectation, check: Measure, facts: Facts, dtype: DType) -> Verdict:
    rows, considered = facts["rows"], facts["considered"]
    if check.of == "null_share":
        if not rows:
            return unjudged(expectation, "no rows")
        return measured(expectation, (rows - considered) / rows, *numbers(check), rows)
    if not considered:
        return unjudged(expectation, nothing(facts))
    if check.of in ("min", "max") and dtype in (Timestamp, Date):
        lo, hi = (None if v is None else physical(v, dtype) for v in (check.lo, check.hi))
        return measured(expectation, facts["value"], lo, hi, considered, shown(facts["value"], dtype))
    return measured(expectation, facts["value"], *numbers(check), considered)


def numbers(check: Measure) -> tuple[float | None, float | None]:
    """The bounds of a measure that is a number."""
    return check.lo, check.hi  # type: ignore[return-value]  # `fitting.misfit` refuses others


def physical(value: Value, dtype: DType) -> Any:
    """A constant as the column holds it."""
    return constant(value, dtype).value


def shown(value: int, dtype: DType) -> str:
    """A physical moment or day as people write it."""
    return moment_text(value) if dtype == Timestamp else date_text(value)


def _fresh(expectation: Expectation, within: int, facts: Facts, now: int) -> Verdict:
    newest = facts["newest"]
    if newest is None:
        return unjudged(expectation, nothing(facts))
    held = newest >= now - within
    why = "" if held else f"the newest is {_age(now - newest)} old"
    outcome: Outcome = "passed" if held else "failed"
    return Verdict(expectation, outcome, moment_text(newest), facts["rows"], why=why)


def _age(microseconds: int) -> str:
    """In the largest unit of which it is two or more: nobody reads microseconds of days."""
    for size in (DAY, HOUR, MINUTE):
        if microseconds >= 2 * size:
            return duration_text(microseconds // size * size)
    return duration_text(microseconds // SECOND * SECOND)


def _typed(expectation: Expectation, column: str, dtype: DType, schema: Mapping[str, DType]) -> Verdict:
    found = schema.get(column)
    if found is None:
        return Verdict(expectation, "failed", None, why=f"there is no column '{column}'")
    held = found == dtype
    return Verdict(
        expectation, "passed" if held else "failed", repr(found), why="" if held else f"it is {found!r}"
    )


def _schema(expectation: Expectation, check: Schema, schema: Mapping[str, DType]) -> Verdict:
    if check.columns is None:
        return unjudged(expectation, "which columns is not said, and there is no source to say it")
    wrong = schema_differences(check.columns, schema, ordered=check.ordered, closed=check.closed)
    seen = f"{len(schema)} columns"
    return Verdict(expectation, "failed" if wrong else "passed", seen, why="; ".join(wrong))


def schema_differences(
    wanted: Sequence[tuple[str, DType]], found: Mapping[str, DType], *, ordered: bool, closed: bool
) -> list[str]:
    """What tells the columns found from those wanted, in words."""
    want = dict(wanted)
    said = [f"column {name} is gone" for name in want if name not in found]
    said += [
        f"column {n} is {found[n]!r}, not {t!r}" for n, t in want.items() if n in found and found[n] != t
    ]
    if closed:
        said += [f"column {name} is new" for name in found if name not in want]
    kept, order = [n for n in found if n in want], [n for n in want if n in found]
    if ordered and kept != order:
        said.append(f"the order is {', '.join(kept)}")
    return said


__all__ = [
    "Facts",
    "enough",
    "judged",
    "measured",
    "nothing",
    "numbers",
    "physical",
    "schema_differences",
    "shown",
    "unjudged",
]
