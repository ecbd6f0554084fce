"""What is expected of rows, as plain records: one spec that every engine judges by. `expect` has the words that make them.

A check says what holds; an `Expectation` says of which rows, how far, how bad it is when it fails, and what is done then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, assert_never

from featurestore.errors import Where
from featurestore.expr import Expr, columns_of, describe
from featurestore.time import duration_text
from featurestore.types import DType

Value = bool | int | float | str
"""A constant as it was written. A moment or a day is ISO text."""

Action = Literal["warn", "quarantine", "block"]
Severity = Literal["info", "warning", "critical"]
ACTIONS: tuple[Action, ...] = ("warn", "quarantine", "block")
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")

MEASURES = ("min", "max", "mean", "median", "std", "quantile", "distinct", "null_share")
"""What `Measure` takes of a column. `std` divides by n - 1; `quantile` and `median` lie between the two nearest values."""


@dataclass(frozen=True, slots=True)
class NotNull:
    """The column is not NULL. NaN and infinities are NULL, as everywhere."""

    column: str


@dataclass(frozen=True, slots=True)
class OfType:
    """The column has this type."""

    column: str
    dtype: DType


@dataclass(frozen=True, slots=True)
class Matches:
    """The pattern is found in the text. `^…$` asks for the whole of it."""

    column: str
    pattern: str


@dataclass(frozen=True, slots=True)
class InSet:
    """The value is one of these."""

    column: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Between:
    """`lo <= value <= hi`; None is no bound."""

    column: str
    lo: Value | None = None
    hi: Value | None = None


@dataclass(frozen=True, slots=True)
class Greater:
    """`column > other`, or `>=`."""

    column: str
    other: str
    or_equal: bool = False


@dataclass(frozen=True, slots=True)
class Unique:
    """No two rows have the same values in all of these columns. A row with a NULL among them is nobody's copy."""

    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition in DuckDB's SQL over the row's columns. Where it is NULL it says nothing."""

    sql: str


@dataclass(frozen=True, slots=True)
class Measure:
    """One number about a column, within bounds; see MEASURES. `rank` is that of a quantile."""

    of: str
    column: str
    lo: Value | None = None
    hi: Value | None = None
    rank: float | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """How large a share of the values that are not NULL is this one."""

    column: str
    value: Value
    lo: float | None = None
    hi: float | None = None


@dataclass(frozen=True, slots=True)
class RowCount:
    lo: int | None = None
    hi: int | None = None


@dataclass(frozen=True, slots=True)
class Fresh:
    """The newest moment of the column is no older than this many microseconds. A source has its event time by default."""

    within: int
    column: str | None = None


@dataclass(frozen=True, slots=True)
class Schema:
    """The columns there are, with their types; None is what the source was applied with.

    `ordered`: in this order. `closed`: and no others.
    """

    columns: tuple[tuple[str, DType], ...] | None = None
    ordered: bool = False
    closed: bool = True


RowCheck = NotNull | Matches | InSet | Between | Greater | Condition
"""Judged row by row: what fails can be put aside, and `mostly` says how many may."""

Check = RowCheck | OfType | Unique | Measure | Share | RowCount | Fresh | Schema


@dataclass(frozen=True, slots=True)
class Expectation:
    """A check, of the rows for which `where` is true (all by default).

    `mostly` is the share of rows that has to hold, of those that say anything. `on_failure`: `warn` tells, `quarantine` also
    puts the rows that fail aside, `block` stops before anything is written or served.
    """

    check: Check
    mostly: float = 1.0
    where: Expr | None = None
    on_failure: Action = "warn"
    severity: Severity = "critical"
    label: str = ""
    line: Where | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """What it is called: its own name, or what it says."""
        return self.label or self.text

    @property
    def text(self) -> str:
        """One line that says what is expected."""
        said = check_text(self.check)
        if self.mostly < 1.0:
            said += f" for {self.mostly:.10g} of the rows"
        return said if self.where is None else f"{said} where {describe(self.where)}"

    @property
    def kind(self) -> str:
        """The word that makes it, as `not_null` or `mean_between`."""
        return check_kind(self.check)

    @property
    def by_row(self) -> bool:
        """Whether each row is judged by itself."""
        return isinstance(self.check, RowCheck)


def columns_read(check: Check) -> tuple[str, ...]:
    """The columns that a check names; those of an SQL condition are not known."""
    match check:
        case Greater(column, other):
            return (column, other)
        case Unique(columns):
            return columns
        case Fresh(column=column):
            return () if column is None else (column,)
        case Condition() | RowCount() | Schema():
            return ()
        case NotNull() | OfType() | Matches() | InSet() | Between() | Measure() | Share():
            return (check.column,)
        case _:
            assert_never(check)


def reads(expectation: Expectation) -> frozenset[str]:
    """The columns that it and its `where` name."""
    where = frozenset[str]() if expectation.where is None else columns_of(expectation.where)
    return where | frozenset(columns_read(expectation.check))


def can_watch(expectation: Expectation) -> bool:
    """Whether it can be judged on a vector as it goes out: SQL cannot, nor what takes many rows."""
    return isinstance(expectation.check, NotNull | Between | InSet | Matches | Greater)


_KINDS: dict[type, str] = {
    NotNull: "not_null",
    OfType: "of_type",
    Matches: "matches",
    InSet: "in_set",
    Between: "between",
    Greater: "greater",
    Unique: "unique",
    Condition: "sql",
    Share: "share_between",
    RowCount: "row_count",
    Fresh: "fresh",
    Schema: "schema",
}


def check_kind(check: Check) -> str:
    """The word that makes a check."""
    return f"{check.of}_between" if isinstance(check, Measure) else _KINDS[type(check)]


def check_text(check: Check) -> str:
    """A check in words."""
    match check:
        case NotNull(column):
            return f"{column} is not null"
        case OfType(column, dtype):
            return f"{column} is {dtype!r}"
        case Matches(column, pattern):
            return f"{column} matches {pattern!r}"
        case InSet(column, values):
            shown = ", ".join(map(repr, values[:8])) + (", …" if len(values) > 8 else "")
            return f"{column} in {{{shown}}}"
        case Between(column, lo, hi):
            return f"{column} {bounds_text(lo, hi)}"
        case Greater(column, other, or_equal):
            return f"{column} {'>=' if or_equal else '>'} {other}"
        case Unique(columns):
            return f"{', '.join(columns)} unique"
        case Condition(sql):
            return f"sql: {sql}"
        case Measure(of, column, lo, hi, rank):
            what = f"quantile {rank:g}" if rank is not None else of.replace("_", " ")
            return f"{what} of {column} {bounds_text(lo, hi)}"
        case Share(column, value, lo, hi):
            return f"share of {column} = {value!r} {bounds_text(lo, hi)}"
        case RowCount(lo, hi):
            return f"row count {bounds_text(lo, hi)}"
        case Fresh(within, column):
            return f"newest {column or 'event time'} within {duration_text(within)}"
        case Schema(columns, ordered, closed):
            names = "as applied" if columns is None else ", ".join(f"{n} {t!r}" for n, t in columns)
            return f"columns {names}{', in this order' if ordered else ''}{'' if closed else ', or more'}"
        case _:
            assert_never(check)


def bounds_text(lo: Value | None, hi: Value | None) -> str:
    """Bounds in words."""
    if lo is None or hi is None:
        return "anything" if lo is hi else f"<= {hi}" if lo is None else f">= {lo}"
    return f"between {lo} and {hi}"


def is_number(value: object) -> bool:
    """A finite number, which a boolean is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


__all__ = [
    "ACTIONS",
    "MEASURES",
    "SEVERITIES",
    "Action",
    "Between",
    "Check",
    "Condition",
    "Expectation",
    "Fresh",
    "Greater",
    "InSet",
    "Matches",
    "Measure",
    "NotNull",
    "OfType",
    "RowCheck",
    "RowCount",
    "Schema",
    "Severity",
    "Share",
    "Unique",
    "Value",
    "bounds_text",
    "can_watch",
    "check_kind",
    "check_text",
    "columns_read",
    "is_number",
    "reads",
]
