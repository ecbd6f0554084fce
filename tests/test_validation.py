"""Expectations: the three engines say the same of the same rows, or that they cannot tell."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore import expect, hours, minutes
from featurestore.compile.globs import glob_of
from featurestore.compile.sources import connect
from featurestore.expectations import Expectation
from featurestore.expr import col
from featurestore.statistics import Keep, Statistics
from featurestore.time import moment
from featurestore.types import Date, Float64, Int64, String
from featurestore.validation import columns_whole, gx, on_statistics, pushed_down
from featurestore.validation.rows import rows_of_table
from featurestore.verdicts import Outcome, Verdict

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
PASSED: Outcome = "passed"
FAILED: Outcome = "failed"
OPEN: Outcome = "not_evaluated"


@pytest.fixture(scope="module")
def con() -> Iterator[Any]:
    found = connect()
    yield found
    found.close()


def by_duckdb(con: Any, table: pa.Table, expectations: list[Expectation]) -> tuple[Verdict, ...]:
    return pushed_down.judge(rows_of_table(con, table, Path()), expectations, moment(NOON))


def by_gx(con: Any, table: pa.Table, expectations: list[Expectation]) -> tuple[Verdict, ...]:
    return gx.judge(rows_of_table(con, table, Path()), expectations, moment(NOON))[0]


def by_statistics(con: Any, table: pa.Table, expectations: list[Expectation]) -> tuple[Verdict, ...]:
    rows = rows_of_table(con, table, Path())
    kept = Statistics(rows.types, keep=Keep())
    kept.update(table, "at" if "at" in rows.types else None)
    return on_statistics.judge(kept, expectations, moment(NOON))


@dataclass(frozen=True)
class Case:
    """`open_to` are engines that cannot tell, by reason of what they are."""

    name: str
    table: dict[str, Any]
    expectation: Expectation
    want: Outcome
    open_to: str = ""


def at(*hours_: int) -> list[datetime]:
    return [NOON.replace(hour=h) for h in hours_]


X = {"x": [1, 2, 3, None]}
F = {"f": [1.0, 2.0, 4.0, None]}
ABC = {"c": ["a", "b", "b", None]}
PAIR = {"a": [2, 3, None, 5], "b": [1, 3, 4, None]}
NAN = {"f": [math.nan, math.inf, 1.0, 2.0]}
NONE = {"x": pa.array([None, None], pa.int64())}
EMPTY = {"x": pa.array([], pa.int64())}

CASES = [
    Case("a NULL fails not_null", X, expect.not_null("x"), FAILED),
    Case("a NULL rate within what is allowed holds", X, expect.not_null("x", mostly=0.75), PASSED),
    Case("NaN and infinities are NULL", NAN, expect.not_null("f", mostly=0.51), FAILED),
    Case("NaN and infinities lie within any bounds", NAN, expect.between("f", 1, 2), PASSED),
    Case("both bounds are included", X, expect.between("x", 1, 3), PASSED),
    Case("a value beyond a bound fails", X, expect.between("x", 2, 3), FAILED),
    Case("one bound may be left out", X, expect.between("x", hi=2), FAILED),
    Case("two of three hold", X, expect.between("x", 2, mostly=0.6), PASSED),
    Case("fewer than mostly fail", X, expect.between("x", 2, mostly=0.7), FAILED),
    Case("whole numbers between halves", X, expect.between("x", 0.5, 3.5), PASSED),
    Case("days between days", {"d": [date(2024, 1, 1), None]}, expect.between("d", date(2024, 1, 2)), FAILED),
    Case("moments between moments", {"t": at(3, 5)}, expect.between("t", NOON.replace(hour=3)), PASSED),
    Case("texts by their bytes", ABC, expect.between("c", "a", "b"), PASSED, "gx"),
    Case("decimals", {"p": [Decimal("1.50"), Decimal("2.50")]}, expect.between("p", Decimal("1.5"), 2.5), PASSED),
    Case("all values are in the set", ABC, expect.in_set("c", ["a", "b"]), PASSED),
    Case("one value is not in the set", ABC, expect.in_set("c", ["a"]), FAILED),
    Case("a new category within what is allowed", ABC, expect.in_set("c", ["b"], mostly=0.6), PASSED),
    Case("numbers in a set", X, expect.in_set("x", [1, 2, 3.0]), PASSED),
    Case("truth in a set", {"o": [True, None, False]}, expect.in_set("o", [True]), FAILED),
    Case("a pattern is found anywhere", ABC, expect.matches("c", "[ab]"), PASSED),
    Case("a pattern of the whole", {"c": ["12", "123"]}, expect.matches("c", r"^\d{2}$"), FAILED),
    Case("one beside the other", PAIR, expect.greater("a", "b"), FAILED, "statistics"),
    Case("no less than the other", PAIR, expect.greater("a", "b", or_equal=True), PASSED, "statistics"),
    Case("columns far apart", {"a": [9, 8], "b": [1, 7]}, expect.greater("a", "b"), PASSED),
    Case("columns far apart the wrong way", {"a": [1, 2], "b": [3, 4]}, expect.greater("a", "b"), FAILED),
    Case("no copies", X, expect.unique("x"), PASSED),
    Case("copies", ABC, expect.unique("c"), FAILED),
    Case("negative zero is a copy of zero", {"f": [0.0, -0.0]}, expect.unique("f"), FAILED),
    Case("negative zero lies at zero", {"f": [-0.0, 1.0]}, expect.min_between("f", 0, 0), PASSED),
    Case("few copies", ABC, expect.unique("c", mostly=0.3), PASSED, "statistics"),
    Case("every row of a pair of copies fails", ABC, expect.unique("c", mostly=0.4), FAILED, "statistics"),
    Case("no copies of both", PAIR | {"b": [1, 1, 1, 1]}, expect.unique("a", "b"), PASSED, "statistics"),
    Case("copies of both", {"a": [1, 1, 2], "b": ["x", "x", "x"]}, expect.unique("a", "b"), FAILED, "statistics"),
    Case("a condition in SQL", PAIR, expect.sql("a * 2 > b -- twice"), PASSED, "statistics"),
    Case("a condition in SQL that fails", PAIR, expect.sql("a + b < 6"), FAILED, "statistics"),
    Case("a type", X, expect.of_type("x", Int64), PASSED),
    Case("another type", X, expect.of_type("x", Float64), FAILED),
    Case("the type of texts", ABC, expect.of_type("c", String), PASSED),
    Case("the type of days", {"d": [date(2024, 1, 1)]}, expect.of_type("d", Date), PASSED, "gx"),
    Case("the least value", X, expect.min_between("x", 1, 1), PASSED),
    Case("the greatest value", X, expect.max_between("x", hi=2), FAILED),
    Case("the last day", {"d": [date(2024, 1, 1)]}, expect.max_between("d", date(2024, 1, 1)), PASSED),
    Case("the first moment", {"t": at(3, 5)}, expect.min_between("t", NOON.replace(hour=4)), FAILED),
    Case("the mean", F, expect.mean_between("f", 2.3, 2.4), PASSED),
    Case("the mean beyond", F, expect.mean_between("f", hi=2.3), FAILED),
    Case("the median of few", F, expect.median_between("f", 2, 2), PASSED, "statistics"),
    Case("the median beyond", F, expect.median_between("f", 5, 6), FAILED),
    Case("the spread of a sample", F, expect.std_between("f", 1.52, 1.53), PASSED),
    Case("the spread beyond", F, expect.std_between("f", hi=1.5), FAILED),
    Case("the spread of one value", {"f": [1.0]}, expect.std_between("f", 0, 9), OPEN),
    Case("a quantile between two values", F, expect.quantile_between("f", 0.75, 3, 3), PASSED, "statistics"),
    Case("a quantile beyond", F, expect.quantile_between("f", 0.9, 9), FAILED),
    Case("distinct values", ABC, expect.distinct_between("c", 2, 2), PASSED),
    Case("too many distinct values", X, expect.distinct_between("x", hi=2), FAILED),
    Case("a share of NULLs", X, expect.null_share_between("x", 0.2, 0.3), PASSED),
    Case("too few NULLs", X, expect.null_share_between("x", 0.3), FAILED),
    Case("a share of one category", ABC, expect.share_between("c", "b", 0.6, 0.7), PASSED),
    Case("too large a share", ABC, expect.share_between("c", "b", hi=0.6), FAILED),
    Case("a category that is gone", ABC, expect.share_between("c", "z", 0.01), FAILED),
    Case("a share of true", {"o": [True, False]}, expect.share_between("o", value=True, lo=0.5), PASSED),
    Case("so many rows", X, expect.row_count(4, 4), PASSED),
    Case("too many rows", X, expect.row_count(hi=3), FAILED),
    Case("no rows are too few", EMPTY, expect.row_count(1), FAILED),
    Case("fresh", {"at": at(10, 11)}, expect.fresh(hours(36), "at"), PASSED),
    Case("fresh by the hour", {"at": at(10, 11)}, expect.fresh(hours(2), "at"), PASSED, "statistics"),
    Case("not fresh", {"at": at(3)}, expect.fresh(minutes(1), "at"), FAILED, "statistics"),
    Case("the columns as wanted", X | ABC, expect.schema({"c": String, "x": Int64}), PASSED),
    Case("the columns in order", X | ABC, expect.schema({"c": String, "x": Int64}, ordered=True), FAILED),
    Case("a column that is new", X | ABC, expect.schema({"x": Int64}), FAILED),
    Case("a column that may be new", X | ABC, expect.schema({"x": Int64}, closed=False), PASSED),
    Case("a column that is gone", X, expect.schema({"x": Int64, "y": Int64}, closed=False), FAILED, "gx"),
    Case("a column of another type", X, expect.schema({"x": String}), FAILED),
    Case("only some rows", PAIR, expect.not_null("b", where=col("a") < 5), PASSED, "statistics"),
    Case("some rows counted", PAIR, expect.row_count(1, 1, where=col("a") > 3), PASSED, "statistics"),
    Case("no row of those", PAIR, expect.not_null("b", where=col("a") > 9), OPEN),
    Case("all NULL: nothing to judge", NONE, expect.between("x", 1, 2), OPEN),
    Case("all NULL is judged by not_null", NONE, expect.not_null("x"), FAILED),
    Case("all NULL: no mean", NONE, expect.mean_between("x", 1, 2), OPEN),
    Case("all NULL: nothing is unique", NONE, expect.unique("x"), OPEN),
    Case("all NULL: no share", NONE, expect.share_between("x", 1, 0), OPEN),
    Case("all NULL: how many distinct is not told", NONE, expect.distinct_between("x", 0, 1), OPEN),
    Case("no rows: nothing to judge", EMPTY, expect.not_null("x"), OPEN),
    Case("no rows: no share of NULLs", EMPTY, expect.null_share_between("x", 0), OPEN),
    Case("a column that is not there", X, expect.not_null("y"), OPEN),
    Case("texts where numbers were", ABC, expect.between("c", 1, 2), OPEN),
    Case("a mean of texts", ABC, expect.mean_between("c", 1, 2), OPEN),
    Case("a pattern in numbers", X, expect.matches("x", "1"), OPEN),
    Case("SQL that does not parse", X, expect.sql("x >"), OPEN),
    Case("SQL that is more than a condition", X, expect.sql("x > 1) , (x < 2"), OPEN),
    Case("SQL of a column that is not there", X, expect.sql("nobody > 1"), OPEN),
    Case("SQL that breaks on a row", ABC, expect.sql("CAST(c AS INTEGER) > 1"), OPEN),
    Case("one row", {"x": [5]}, expect.median_between("x", 5, 5), PASSED),
    Case("a constant column", {"x": [7, 7, 7]}, expect.std_between("x", 0, 0), PASSED),
]  # fmt: skip
ENGINES = {"duckdb": by_duckdb, "gx": by_gx, "statistics": by_statistics}


@pytest.mark.parametrize("engine", ["duckdb", "statistics", pytest.param("gx", marks=pytest.mark.slow)])
def test_every_engine_gives_the_same_verdict(engine: str, con: Any) -> None:
    """All cases in one test: each is a sentence, and those that differ are named."""
    wrong = []
    for case in CASES:
        (found,) = ENGINES[engine](con, pa.table(case.table), [case.expectation])
        want = OPEN if engine in case.open_to.split() else case.want
        if found.outcome != want:
            wrong.append(f"{case.name}: {found.outcome} ({found.why}), not {want}")
        if found.outcome != PASSED:
            assert found.why, case.name
    assert wrong == []


@pytest.mark.slow
def test_a_gap_in_an_engine_is_named_and_is_one(con: Any) -> None:
    for case in CASES:
        for engine in case.open_to.split():
            (found,) = ENGINES[engine](con, pa.table(case.table), [case.expectation])
            assert found.outcome == OPEN, (case.name, engine)


def test_one_that_breaks_takes_no_other_with_it(con: Any) -> None:
    """A condition that breaks on a row is judged by itself; the others have their one pass."""
    three = [expect.not_null("c"), expect.sql("CAST(c AS INTEGER) > 1"), expect.distinct_between("c", 2, 2)]
    for engine in (by_duckdb, by_gx):
        found = engine(con, pa.table(ABC), three)
        assert [v.outcome for v in found] == [FAILED, OPEN, PASSED]
        assert "cannot" in found[1].why


def test_what_fails_is_counted_and_shown(con: Any) -> None:
    table = pa.table({"c": ["a", "x", "x", "y", None], "n": [1, 2, 3, 4, 5]})
    (found,) = by_duckdb(con, table, [expect.in_set("c", ["a"])])
    assert (found.considered, found.unexpected, found.examples) == (4, 3, ("x", "y"))
    assert found.observed == 0.25
    (found,) = by_duckdb(con, table, [expect.unique("c")])
    assert (found.unexpected, found.examples) == (2, ("x",))
    (found,) = by_duckdb(con, table, [expect.sql("n < 5")])
    assert found.examples == ("c=NULL, n=5",)


NUMBERS = st.one_of(st.none(), st.integers(-5, 5))
TEXTS = st.one_of(st.none(), st.sampled_from(["a", "b", "ab", "", "a b", "é"]))
BOUND = st.integers(-6, 6)


@st.composite
def judged_tables(draw: st.DrawFn) -> tuple[pa.Table, list[Expectation]]:
    """Rows of two columns of numbers and one of texts, and some expectations of them."""
    rows = draw(st.integers(0, 12))
    columns = {
        "x": pa.array(draw(st.lists(NUMBERS, min_size=rows, max_size=rows)), pa.int64()),
        "y": pa.array(draw(st.lists(NUMBERS, min_size=rows, max_size=rows)), pa.float64()),
        "c": pa.array(draw(st.lists(TEXTS, min_size=rows, max_size=rows)), pa.string()),
    }
    number = st.sampled_from(["x", "y"])
    mostly = st.sampled_from([1.0, 0.9, 0.5, 0.25])
    ends = st.tuples(BOUND, BOUND).map(sorted)
    measures = [
        expect.min_between,
        expect.max_between,
        expect.mean_between,
        expect.median_between,
        expect.std_between,
        expect.distinct_between,
    ]
    one = st.one_of(
        st.builds(lambda c, m: expect.not_null(c, mostly=m), st.sampled_from(["x", "y", "c"]), mostly),
        st.builds(lambda c, e, m: expect.between(c, e[0], e[1], mostly=m), number, ends, mostly),
        st.builds(lambda v, m: expect.in_set("c", v, mostly=m), st.lists(st.sampled_from("ab"), min_size=1), mostly),
        st.builds(lambda m: expect.matches("c", "^a", mostly=m), mostly),
        st.builds(lambda o, m: expect.greater("x", "y", or_equal=o, mostly=m), st.booleans(), mostly),
        st.builds(lambda c, m: expect.unique(*c, mostly=m), st.sampled_from([("x",), ("c",), ("x", "c")]), mostly),
        st.builds(lambda f, c, e: f(c, e[0], e[1]), st.sampled_from(measures), number, ends),
        st.builds(lambda c, p, e: expect.quantile_between(c, p, *e), number, st.sampled_from([0.0, 0.25, 1.0]), ends),
        st.builds(lambda v, lo: expect.share_between("c", v, lo / 4), st.sampled_from("ab"), st.integers(0, 4)),
        st.builds(lambda e: expect.row_count(max(e[0], 0), max(e[1], 1) * 2), ends),
        st.builds(lambda b: expect.sql(f"x + {b} > y"), BOUND),
        st.builds(lambda b: expect.not_null("y", where=col("x") > b), BOUND),
    )  # fmt: skip
    return pa.table(columns), draw(st.lists(one, min_size=1, max_size=4))


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(judged_tables())
def test_engines_agree_on_random_rows(con: Any, drawn: tuple[pa.Table, list[Expectation]]) -> None:
    table, expectations = drawn
    by_sql = by_duckdb(con, table, expectations)
    for sql, lib, kept in zip(
        by_sql, by_gx(con, table, expectations), by_statistics(con, table, expectations), strict=True
    ):
        assert lib.outcome == sql.outcome, (sql, lib)
        assert kept.outcome in (sql.outcome, OPEN), (sql, kept)
        if lib.considered is not None and sql.considered is not None:
            assert (lib.considered, lib.unexpected) == (sql.considered, sql.unexpected)


# --------------------------------------------------------------------------------------------- quicker roads, same numbers


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(
        [
            r"^\d{5}$",
            "^[A-Z0-9]{2}$",
            "^UA",
            "a$",
            "b",
            r"^[a-c]x{0}\d$",
            "^a-b$",
            r"\d\d",
            "^[A-Z]{3}-[0-9a-f]{2}",
        ]
    ),
    st.text(st.sampled_from("aAbcxU0159-*?[]\n\0é٣ "), max_size=7),
)
def test_a_glob_holds_of_what_its_pattern_is_found_in(con: Any, pattern: str, text: str) -> None:
    glob = glob_of(pattern)
    assert glob is not None
    found, held = con.execute(
        "SELECT regexp_matches(?, ?), ? GLOB ?", [text, pattern, text, glob]
    ).fetchall()[0]
    assert found == held, (glob, text)


@pytest.mark.parametrize(
    "pattern",
    [
        "a+",
        "a|b",
        ".",
        "[^a]",
        "(a)",
        "a*",
        "^$",
        "",
        "[z-a]",
        "[a-]",
        "a{2,}",
        "é",
        "(?i)a",
        "\\w",
        "a\\.b",
        "x{99}",
    ],
)
def test_what_is_no_plain_sequence_stays_a_pattern(pattern: str) -> None:
    assert glob_of(pattern) is None


COLUMN = st.lists(st.one_of(st.none(), st.integers(-(1 << 62), 1 << 62), st.integers(-3, 3)), max_size=30)


@pytest.mark.parametrize("most", [columns_whole.MOST, 3], ids=["held", "left to the engine"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers=COLUMN, rank=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.95, 1.0]))
def test_a_column_as_a_whole_gives_what_the_engine_gives(
    con: Any, monkeypatch: pytest.MonkeyPatch, most: int, numbers: list[int | None], rank: float
) -> None:
    """Quantiles and distinct values, of whole numbers and of doubles, NULLs among them, near each other and far apart."""
    monkeypatch.setattr(columns_whole, "MOST", most)
    doubles = [None if v is None else v / 7 for v in numbers]
    table = pa.table({"n": pa.array(numbers, pa.int64()), "x": pa.array(doubles, pa.float64())})
    asked = [expect.quantile_between(c, rank, None, 0) for c in ("n", "x")]
    asked += [
        expect.distinct_between("n", 0, 1),
        expect.unique("n"),
        expect.median_between("x", 0, where=col("n") > 0),
    ]
    found = by_duckdb(con, table, asked)
    con.register("plain", table)
    sql = (
        f"SELECT quantile_cont(CAST(n AS DOUBLE), {rank}), quantile_cont(x, {rank}), count(DISTINCT n), count(n), "
        "quantile_cont(x, 0.5) FILTER (n > 0) FROM plain"
    )
    (want,) = con.execute(sql).fetchall()
    if not want[3]:
        assert {v.outcome for v in found} == {OPEN}
        return
    for verdict, value in zip(found[:2], want[:2], strict=True):
        assert verdict.observed == pytest.approx(value, rel=1e-15, abs=0)
    assert found[2].observed == want[2]
    assert (found[3].outcome == PASSED) == (want[2] == want[3])
    assert found[4].observed == (None if want[4] is None else pytest.approx(want[4], rel=1e-15))
