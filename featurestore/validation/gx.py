"""Expectations as suites of Great Expectations 1.x, on a pandas frame: its checkpoint judges, its result document is kept.

Everything is in memory: an ephemeral context, no files, no network, no telemetry. Of what differs from other engines:

* a batch is judged for each `where`, whose rows DuckDB picks, and conditions in SQL come as a column of booleans;
* an expectation that raises is reported by the library as failed: here it could not be evaluated, and says why;
* the quantile expectation reports NumPy's booleans, on which the library's own checkpoint breaks (1.24): they are turned into
  Python's, by a subclass.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from importlib import import_module
from typing import Any, assert_never

import duckdb

from featurestore.compile.duckdb import DUCKDB
from featurestore.compile.expectations import condition_sql, where_sql
from featurestore.compile.sql import ident
from featurestore.errors import Unsupported
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
from featurestore.expr import Expr
from featurestore.fitting import constant
from featurestore.types import Bool, Date, DecimalType, DType, String, Timestamp, is_float, is_integer
from featurestore.validation.judging import nothing, numbers, unjudged
from featurestore.validation.pushed_down import cannot, first_line
from featurestore.validation.rows import Rows
from featurestore.verdicts import Verdict

EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  frames hold naive times, which are UTC throughout

_TYPE_NAMES: dict[DType, str] = {
    String: "str",
    Bool: "bool",
    Timestamp: "datetime64",
}


class _CannotSay(ValueError):
    """What the library has no expectation for; the text says which."""


def judge(rows: Rows, expectations: Sequence[Expectation], now: int) -> tuple[tuple[Verdict, ...], Any]:
    """A verdict for each expectation, in order, and the library's result documents as JSON values.

    Raises Unsupported when the library is not installed.
    """
    library()
    said: dict[int, Verdict] = {}
    batches: dict[tuple[Expr | None, bool], list[int]] = {}
    documents = []
    for i, one in enumerate(expectations):
        why = cannot(one, rows.types, rows.unread)
        if why is None:
            batches.setdefault((one.where, isinstance(one.check, Condition)), []).append(i)
        else:
            said[i] = unjudged(one, why)
    for places in batches.values():
        verdicts, document = _Batch(rows, {i: expectations[i] for i in places}, now).run()
        said |= verdicts
        documents.append(document)
    return tuple(said[i] for i in range(len(expectations))), documents


@cache
def library() -> Any:
    """`great_expectations.expectations`, with telemetry off. Raises Unsupported when it is not installed."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    with _quiet():
        try:
            import great_expectations.expectations as gxe
        except ImportError as error:
            raise Unsupported(
                "this installation", "run Great Expectations", "pip install 'featurestore[expectations]'"
            ) from error
    return gxe


@contextmanager
def _quiet() -> Iterator[None]:
    """The library warns of what concerns its authors: modules of Python's that will go, its own fields."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@cache
def _quantile() -> Any:
    """The library's quantile expectation, whose outcome JSON can hold."""
    gxe = library()

    class ExpectColumnQuantileToBeBetween(gxe.ExpectColumnQuantileValuesToBeBetween):  # type: ignore[misc,name-defined]
        """Quantiles within bounds, linear between the two nearest values."""

        def _validate(self, *args: Any, **kwargs: Any) -> Any:
            found = super()._validate(*args, **kwargs)
            found["success"] = bool(found["success"])
            details = found["result"]["details"]
            details["success_details"] = [bool(v) for v in details["success_details"]]
            return found

    return ExpectColumnQuantileToBeBetween


# ------------------------------------------------------------------------------------------------------------- one batch


@dataclass
class _Batch:
    """The rows of one `where`, and what is expected of them."""

    rows: Rows
    expectations: Mapping[int, Expectation]
    now: int

    def run(self) -> tuple[dict[int, Verdict], Any]:
        said: dict[int, Verdict] = {}
        frame = self._frame(said)
        made: dict[int, list[Any]] = {}
        for i, one in self.expectations.items():
            if i in said:
                continue
            try:
                with _quiet():
                    made[i] = self._made(i, one)
            except _CannotSay as error:
                said[i] = unjudged(one, f"Great Expectations cannot: {error}")
            except Exception as error:  # noqa: BLE001  pydantic's, of whichever version the library brings
                said[i] = unjudged(one, f"Great Expectations refuses it: {first_line(error)}")
        results, document = _checked(frame, made)
        for i in made:
            said[i] = self._verdict(frame, self.expectations[i], results[i])
        return said, document

    def _frame(self, said: dict[int, Verdict]) -> Any:
        """The rows as pandas holds them; a condition in SQL that breaks is said."""
        first = next(iter(self.expectations.values()))
        select = [_frame_sql(name, dtype) for name, dtype in self.rows.types.items()]
        where = where_sql(first, self.rows.types)
        base = f"FROM {self.rows.relation} AS t WHERE {where}"
        for i, one in self.expectations.items():
            if not isinstance(one.check, Condition):
                continue
            try:
                said_sql = f"({condition_sql(one.check.sql)})"
                self.rows.con.execute(f"SELECT count({said_sql}) {base}").fetchall()
                select.append(f"CAST({said_sql} AS BOOLEAN) AS {_condition_name(i)}")
            except (duckdb.Error, ValueError) as error:
                said[i] = unjudged(one, f"the engine cannot: {first_line(error)}")
        table = self.rows.con.sql(f"SELECT {', '.join(select) or '1 AS one'} {base}").to_arrow_table()
        return _to_pandas(table)

    def _made(self, place: int, one: Expectation) -> list[Any]:
        """What the library has to check for one expectation."""
        gxe, check = library(), one.check
        shared = {"meta": {"place": place, "expectation": one.name}, "severity": one.severity}
        rows = shared | {"mostly": one.mostly}
        types = self.rows.types
        match check:
            case NotNull(column):
                return [gxe.ExpectColumnValuesToNotBeNull(column=column, **rows)]
            case OfType(column, dtype):
                return [gxe.ExpectColumnValuesToBeOfType(column=column, type_=_type_name(dtype), **shared)]
            case Matches(column, pattern):
                return [gxe.ExpectColumnValuesToMatchRegex(column=column, regex=pattern, **rows)]
            case InSet(column, values):
                listed = [_plain(v, types[column]) for v in values]
                return [gxe.ExpectColumnValuesToBeInSet(column=column, value_set=listed, **rows)]
            case Between(column, lo, hi):
                return [
                    gxe.ExpectColumnValuesToBeBetween(column=column, **_bounds(lo, hi, types[column]), **rows)
                ]
            case Greater(column, other, or_equal):
                pair = {"column_A": column, "column_B": other, "or_equal": or_equal}
                skip = {"ignore_row_if": "either_value_is_missing"}
                return [gxe.ExpectColumnPairValuesAToBeGreaterThanB(**pair, **skip, **rows)]
            case Unique((column,)):
                return [gxe.ExpectColumnValuesToBeUnique(column=column, **rows)]
            case Unique(columns):
                skip = {"ignore_row_if": "any_value_is_missing"}
                return [gxe.ExpectCompoundColumnsToBeUnique(column_list=list(columns), **skip, **rows)]
            case Condition():
                return [
                    gxe.ExpectColumnValuesToBeInSet(column=_condition_name(place), value_set=[True], **rows)
                ]
            case Share(column, value, lo, hi):
                listed = [_plain(value, types[column])]
                least = gxe.ExpectColumnValuesToBeInSet(
                    column=column, value_set=listed, mostly=_share(lo, 0.0), **shared
                )
                if hi is None:
                    return [least]
                most = gxe.ExpectColumnValuesToNotBeInSet(
                    column=column, value_set=listed, mostly=1.0 - _share(hi, 1.0), **shared
                )
                return [least, most]
            case Measure():
                return [_measure(check, types[check.column], shared)]
            case RowCount(lo, hi):
                return [gxe.ExpectTableRowCountToBeBetween(min_value=lo, max_value=hi, **shared)]
            case Fresh(within, column):
                least = EPOCH + timedelta(microseconds=self.now - within)
                return [gxe.ExpectColumnMaxToBeBetween(column=column, min_value=least, **shared)]
            case Schema():
                return _schema(check, shared)
            case _:
                assert_never(check)

    def _verdict(self, frame: Any, one: Expectation, results: Sequence[Mapping[str, Any]]) -> Verdict:
        broken = [t for r in results if (t := trouble(r)) is not None]
        check = one.check
        if isinstance(check, Measure | Fresh):
            considered = int(frame[check.column].notna().sum())
            if not considered and not (
                isinstance(check, Measure) and check.of == "null_share" and len(frame)
            ):
                return unjudged(one, nothing({"rows": len(frame)}))
        if broken:
            return unjudged(one, f"Great Expectations could not: {broken[0]}")
        passed = all(bool(r["success"]) for r in results)
        result = results[0].get("result", {})
        if one.by_row or isinstance(check, Unique | Share):
            return _of_rows(one, result, passed=passed)
        observed = _observed(check, result)
        if observed is None and isinstance(check, Measure):
            return unjudged(one, "too few values to take it of")
        why = "" if passed else _why(check, results, observed)
        return Verdict(one, "passed" if passed else "failed", observed, why=why)


def _of_rows(one: Expectation, result: Mapping[str, Any], *, passed: bool) -> Verdict:
    rows, unexpected = int(result["element_count"]), int(result["unexpected_count"])
    considered = rows - int(result.get("missing_count") or 0)
    if isinstance(one.check, NotNull):
        considered = rows
    if not considered:
        alone = isinstance(one.check, Condition) and rows
        return unjudged(one, "no row says anything" if alone else nothing({"rows": rows}))
    share = (considered - unexpected) / considered
    if isinstance(one.check, Share):
        return Verdict(
            one,
            "passed" if passed else "failed",
            share,
            considered,
            why="" if passed else f"it is {share:.6g}",
        )
    shown = dict.fromkeys(map(str, result.get("partial_unexpected_list") or ()))
    if isinstance(one.check, NotNull | Condition):
        shown = {}
    why = "" if passed else f"{unexpected:,} of {considered:,} rows fail"
    return Verdict(
        one, "passed" if passed else "failed", share, considered, unexpected, tuple(shown)[:5], why
    )


def _observed(check: object, result: Mapping[str, Any]) -> Any:
    value: Any = result.get("observed_value")
    if isinstance(value, dict):
        (value,) = value["values"]
    if isinstance(check, Measure) and check.of == "null_share" and value is not None:
        value = 1.0 - float(value)
    if isinstance(check, Schema):
        return f"{len(value)} columns" if isinstance(value, list) else value
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, date):
        return value.isoformat() + ("Z" if isinstance(value, datetime) else "")
    return None if value is None or value != value else value  # noqa: PLR0124  NaN, or pandas' NaT


def _why(check: object, results: Sequence[Mapping[str, Any]], observed: Any) -> str:
    if not isinstance(check, Schema):
        return f"it is {observed}"
    return "; ".join(
        f"{r['expectation_config']['type']}: {json.dumps(r['result'].get('details') or r['result'].get('observed_value'))}"
        for r in results
        if not r["success"]
    )


def trouble(result: Mapping[str, Any]) -> str | None:
    """What an expectation raised, which the library reports as a failure, in either of its two shapes; None when nothing."""
    info = result.get("exception_info") or {}
    found = [info, *(v for v in info.values() if isinstance(v, dict))]
    for one in found:
        if one.get("raised_exception"):
            return (str(one.get("exception_message") or "it raised").splitlines() or ["it raised"])[0]
    return None


def _measure(check: Measure, dtype: DType, shared: Mapping[str, Any]) -> Any:
    gxe = library()
    if check.of == "null_share":
        lo, hi = numbers(check)
        known = {"min_value": None if hi is None else 1.0 - hi, "max_value": None if lo is None else 1.0 - lo}
        return gxe.ExpectColumnProportionOfNonNullValuesToBeBetween(column=check.column, **known, **shared)
    if check.of == "quantile":
        ranges = {"quantiles": [check.rank], "value_ranges": [[check.lo, check.hi]]}
        return _quantile()(
            column=check.column, quantile_ranges=ranges, allow_relative_error="linear", **shared
        )
    word = {"std": "Stdev", "distinct": "UniqueValueCount"}.get(check.of, check.of.capitalize())
    made = getattr(gxe, f"ExpectColumn{word}ToBeBetween")
    bounds = {"min_value": check.lo, "max_value": check.hi}
    if check.of in ("min", "max"):
        bounds = _bounds(check.lo, check.hi, dtype)
    return made(column=check.column, **bounds, **shared)


def _schema(check: Schema, shared: Mapping[str, Any]) -> list[Any]:
    gxe = library()
    if check.columns is None:
        raise _CannotSay("which columns is not said")
    names = [n for n, _ in check.columns]
    if check.ordered and not check.closed:
        raise _CannotSay("the order of some columns among others")
    made = [gxe.ExpectTableColumnsToMatchSet(column_set=names, exact_match=check.closed, **shared)]
    if check.ordered:
        made.append(gxe.ExpectTableColumnsToMatchOrderedList(column_list=names, **shared))
    return made + [
        gxe.ExpectColumnValuesToBeOfType(column=n, type_=_type_name(t), **shared) for n, t in check.columns
    ]


# --------------------------------------------------------------------------------------------------------- the library


def _checked(frame: Any, made: Mapping[int, list[Any]]) -> tuple[dict[int, list[Any]], Any]:
    """The results by place, and the document of the checkpoint that made them."""
    if not made:
        return {}, {"success": True, "results": [], "statistics": {}}
    gx: Any = import_module("great_expectations")

    with _quiet():
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        asset = context.data_sources.add_pandas("rows").add_dataframe_asset("rows")
        batch = asset.add_batch_definition_whole_dataframe("rows")
        listed = [one for each in made.values() for one in each]
        suite = context.suites.add(gx.ExpectationSuite(name="featurestore", expectations=listed))
        validation = gx.ValidationDefinition(name="featurestore", data=batch, suite=suite)
        checkpoint = gx.Checkpoint(
            name="featurestore",
            validation_definitions=[context.validation_definitions.add(validation)],
            result_format={"result_format": "SUMMARY"},
        )
        outcome = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": frame})
        (done,) = outcome.run_results.values()
        document = json.loads(json.dumps(done.to_json_dict(), default=str))
    found: dict[int, list[Any]] = {i: [] for i in made}
    for raw in done.results:
        told = {
            "success": bool(raw.success),
            "result": raw.result,
            "exception_info": raw.exception_info,
            "expectation_config": {"type": raw.expectation_config.type},
        }
        found[raw.expectation_config.meta["place"]].append(told)
    return found, document


def _type_name(dtype: DType) -> str:
    if dtype in _TYPE_NAMES:
        return _TYPE_NAMES[dtype]
    if is_integer(dtype) or is_float(dtype):
        return repr(dtype).lower()
    raise _CannotSay(f"pandas has no type of its own for {dtype!r}")


def _plain(value: Value, dtype: DType) -> Any:
    """A constant as a frame holds values of this type."""
    found: Any = constant(value, dtype).value
    if dtype == Timestamp:
        return EPOCH + timedelta(microseconds=found)
    if dtype == Date:
        return EPOCH.date() + timedelta(days=found)
    return found


def _bounds(lo: Value | None, hi: Value | None, dtype: DType) -> dict[str, Any]:
    if dtype == String:
        raise _CannotSay("texts between others")
    return {
        "min_value": None if lo is None else _plain(lo, dtype),
        "max_value": None if hi is None else _plain(hi, dtype),
    }


def _share(value: float | None, default: float) -> float:
    return min(max(default if value is None else float(value), 0.0), 1.0)


def _frame_sql(name: str, dtype: DType) -> str:
    column = ident(name, DUCKDB)
    return f"CAST({column} AS DOUBLE) AS {column}" if isinstance(dtype, DecimalType) else column


def _condition_name(place: int) -> str:
    return f"condition_{place}"


def _to_pandas(table: Any) -> Any:
    """A frame in which a column with NULLs keeps its type."""
    import pandas as pd  # type: ignore[import-untyped]
    import pyarrow as pa

    nullable = {
        pa.int64(): pd.Int64Dtype(),
        pa.int32(): pd.Int32Dtype(),
        pa.bool_(): pd.BooleanDtype(),
    }
    kept = {
        name: nullable[table.schema.field(name).type]
        for name in table.column_names
        if table.schema.field(name).type in nullable and table[name].null_count
    }
    frame = table.to_pandas(types_mapper=None, ignore_metadata=True, integer_object_nulls=True)
    for name, dtype in kept.items():
        frame[name] = table[name].to_pandas(types_mapper={table.schema.field(name).type: dtype}.get)
    return frame


__all__ = ["judge", "library", "trouble"]
