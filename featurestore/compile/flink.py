"""The Flink dialect: the leaves of the expression language. Quirks are those of Flink 2.2.

In a job a value has the physical form of `docs/architecture.md`: a Timestamp is a BIGINT of microseconds, a Date an INT of
days, a Decimal a BIGINT of its unscaled digits. So no session zone, no precision of a TIMESTAMP and no rule for the scale of
a product has a say.

Left to itself Flink wraps an integer that overflows, saturates a cast, makes NULL of GREATEST when one argument is, cuts
UPPER of a letter that grows, and fails the job on the division of two constants by zero. Its planner computes constants,
and rewrites `x + 0`. So what its SQL has no total form for is a function of our own in Java, named here; only comparison,
logic, CASE and || are Flink's.
"""

from __future__ import annotations

from typing import assert_never

from featurestore.compile.sql import Dialect, Leaf, Site, quoted
from featurestore.errors import Unsupported
from featurestore.expr import Value, describe
from featurestore.expr.casts import DATE_TEXT, DOUBLE_TEXT, INTEGER_TEXT, TIMESTAMP_TEXT, decimal_text_pattern
from featurestore.expr.literals import MAX_DATE, MAX_DIGITS, MAX_TIMESTAMP, MIN_DATE, MIN_TIMESTAMP
from featurestore.types import (
    Bool,
    Date,
    DecimalType,
    DType,
    Float32,
    Float64,
    Int32,
    Int64,
    ListType,
    MapType,
    Scalar,
    String,
    Timestamp,
    VectorType,
    is_float,
    is_integer,
)

_TYPES = {
    String: "STRING",
    Int64: "BIGINT",
    Int32: "INT",
    Float64: "DOUBLE",
    Float32: "FLOAT",
    Bool: "BOOLEAN",
    Timestamp: "BIGINT",
    Date: "INT",
}

_PACKAGE = "featurestore.flink"
JAVA = {
    f"fs_{name}": f"{_PACKAGE}.{java}"
    for name, java in {
        "add_int": "Numbers$AddInt",
        "sub_int": "Numbers$SubInt",
        "mul_int": "Numbers$MulInt",
        "floordiv": "Numbers$FloorDiv",
        "mod": "Numbers$Mod",
        "neg_int": "Numbers$NegInt",
        "abs_int": "Numbers$AbsInt",
        "add_double": "Numbers$AddDouble",
        "sub_double": "Numbers$SubDouble",
        "mul_double": "Numbers$MulDouble",
        "div": "Numbers$Div",
        "neg_double": "Numbers$NegDouble",
        "abs_double": "Numbers$AbsDouble",
        "floor_double": "Numbers$FloorDouble",
        "ceil_double": "Numbers$CeilDouble",
        "round_double": "Numbers$RoundDouble",
        "finite": "Numbers$Finite",
        "finite_float": "Numbers$FiniteFloat",
        "constant_float": "Numbers$ConstantFloat",
        "within": "Numbers$Within",
        "add_decimal": "Numbers$AddDecimal",
        "sub_decimal": "Numbers$SubDecimal",
        "mul_decimal": "Numbers$MulDecimal",
        "round_decimal": "Numbers$RoundDecimal",
        "floor_decimal": "Numbers$FloorDecimal",
        "ceil_decimal": "Numbers$CeilDecimal",
        "to_int32": "Casts$ToInt32",
        "double_to_int": "Casts$DoubleToInt",
        "to_float": "Casts$ToFloat",
        "double_to_decimal": "Casts$DoubleToDecimal",
        "decimal_to_double": "Casts$DecimalToDouble",
        "decimal_to_int": "Casts$DecimalToInt",
        "rescale": "Casts$Rescale",
        "widen": "Casts$Widen",
        "decimal_text": "Casts$DecimalText",
        "read_int": "Casts$ReadInt",
        "read_double": "Casts$ReadDouble",
        "read_decimal": "Casts$ReadDecimal",
        "read_date": "Casts$ReadDate",
        "read_timestamp": "Casts$ReadTimestamp",
        "lower": "Texts$Lower",
        "upper": "Texts$Upper",
        "length": "Texts$Length",
        "substring": "Texts$Substring",
        "starts_with": "Texts$StartsWith",
        "ends_with": "Texts$EndsWith",
        "contains": "Texts$Contains",
        "hash_bucket": "Texts$HashBucket",
        "day_of": "Times$DayOf",
        "midnight_of": "Times$MidnightOf",
        "year": "Times$Year",
        "month": "Times$Month",
        "day_of_month": "Times$DayOfMonth",
        "day_of_week": "Times$DayOfWeek",
        "hour": "Times$Hour",
        "minute": "Times$Minute",
        "tile": "Times$Tile",
        "arrival": "Times$Arrival",
        "least": "Choices$Least",
        "greatest": "Choices$Greatest",
        "coalesce": "Choices$Coalesce",
        "compare": "Choices$Compare",
    }.items()
}
"""The scalar functions of `streaming/java` by the names that a job's SQL calls them by."""


def type_name(dtype: DType) -> str:
    """The SQL type a value of `dtype` has in a job. Inside an expression a Decimal may have more digits than 18."""
    match dtype:
        case Scalar():
            return _TYPES[dtype]
        case DecimalType(precision, _):
            return "BIGINT" if precision <= MAX_DIGITS else "DECIMAL(38, 0)"
        case ListType() | VectorType() | MapType():
            raise Unsupported("flink SQL", f"hold a {dtype!r} in a job", "numbers, text, truths and times")
        case _:
            assert_never(dtype)


def _literal(value: Value, dtype: DType) -> str:
    if isinstance(value, str):
        return f"CAST({quoted(value)} AS STRING)"  # a bare one is a CHAR of its own length
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):  # an exponent makes it a DOUBLE; without one it would be a DECIMAL
        text = repr(value).upper()
        double = text if "E" in text else f"{text}E0"
        return f"fs_constant_float({double})" if dtype == Float32 else f"CAST({double} AS {type_name(dtype)})"
    return f"CAST({value} AS {type_name(dtype)})"


def _clean(value: str, dtype: DType) -> str:
    if dtype == Float64:
        return f"fs_finite({value})"
    if dtype == Float32:
        return f"fs_finite_float({value})"
    if dtype == Timestamp:
        return f"fs_within({value}, {MIN_TIMESTAMP}, {MAX_TIMESTAMP})"
    if dtype == Date:
        return f"fs_to_int32(fs_within({value}, {MIN_DATE}, {MAX_DATE}))"
    return value


# ── arithmetic ──────────────────────────────────────────────────────────────────────────────────────────────


def _call(function: str) -> Leaf:
    return lambda site: f"fs_{function}({', '.join(site.args)})"


def _digits(site: Site) -> int:
    assert isinstance(site.result, DecimalType)
    return site.result.precision


def _arithmetic(name: str) -> Leaf:
    def leaf(site: Site) -> str:
        a, b = site.args
        if site.result == Int64:
            return f"fs_{name}_int({a}, {b})"
        if site.result == Float64:
            return f"fs_{name}_double({a}, {b})"
        wide = (_wide(arg, dtype) for arg, dtype in zip(site.args, site.types, strict=True))
        return f"fs_{name}_decimal({', '.join(wide)}, {_digits(site)})"

    return leaf


def _wide(value: str, dtype: DType) -> str:
    """A decimal in 38 digits, as what works on two of them takes it."""
    assert isinstance(dtype, DecimalType)
    return f"fs_widen({value}, 0)" if dtype.precision <= MAX_DIGITS else value


def _sign(name: str) -> Leaf:
    """An unscaled decimal has its sign changed as a whole number has."""
    return lambda site: f"fs_{name}_{'double' if site.result == Float64 else 'int'}({site.args[0]})"


def _round(site: Site) -> str:
    a, digits = site.args[0], site.constant(1)
    if site.result == Float64:
        return f"fs_round_double({a}, {digits})"
    if site.result == site.types[0]:
        return a
    assert isinstance(site.types[0], DecimalType)
    return f"fs_round_decimal({a}, {site.types[0].scale - digits}, {_digits(site)})"


def _whole(name: str) -> Leaf:
    def leaf(site: Site) -> str:
        (a,), (dtype,) = site.args, site.types
        if isinstance(dtype, DecimalType):
            return f"fs_{name}_decimal({a}, {dtype.scale}, {_digits(site)})"
        return a if site.result == Int64 else f"fs_{name}_double({a})"

    return leaf


# ── the rest ────────────────────────────────────────────────────────────────────────────────────────────────


def _infix(operator: str) -> Leaf:
    return lambda site: f"({site.args[0]} {operator} {site.args[1]})"


def _ordered(operator: str) -> Leaf:
    """Flink has no order of truths, and its planner's order of text constants is that of UTF-16."""

    def leaf(site: Site) -> str:
        a, b = site.args
        if site.types[0] in (String, Bool):
            return f"(fs_compare({a}, {b}) {operator} 0)"
        return f"({a} {operator} {b})"

    return leaf


def _is_in(site: Site) -> str:
    value, *items = site.args
    return f"({value} IN ({', '.join(items)}))"


def _hash_bucket(site: Site) -> str:
    text = site.args[0] if site.types[0] == String else f"CAST({site.args[0]} AS STRING)"
    return f"fs_hash_bucket({text}, {site.args[1]})"


def _of_day(function: str) -> Leaf:
    def leaf(site: Site) -> str:
        (a,) = site.args
        return f"fs_{function}({a if site.types[0] == Date else f'fs_day_of({a})'})"

    return leaf


def _seconds(microseconds: str) -> str:
    return f"fs_div(CAST({microseconds} AS DOUBLE), 1E6)"


def _shift(site: Site) -> str:
    return f"fs_within({site.args[0]} + {site.args[1]}, {MIN_TIMESTAMP}, {MAX_TIMESTAMP})"


FUNCTIONS: dict[str, Leaf] = {
    "add": _arithmetic("add"),
    "sub": _arithmetic("sub"),
    "mul": _arithmetic("mul"),
    "div": _call("div"),
    "floordiv": _call("floordiv"),
    "mod": _call("mod"),
    "eq": _infix("="),
    "ne": _infix("<>"),
    "lt": _ordered("<"),
    "le": _ordered("<="),
    "gt": _ordered(">"),
    "ge": _ordered(">="),
    "and": _infix("AND"),
    "or": _infix("OR"),
    "not": lambda site: f"(NOT {site.args[0]})",
    "neg": _sign("neg"),
    "abs": _sign("abs"),
    "round": _round,
    "floor": _whole("floor"),
    "ceil": _whole("ceil"),
    "is_null": lambda site: f"({site.args[0]} IS NULL)",
    "is_not_null": lambda site: f"({site.args[0]} IS NOT NULL)",
    "is_in": _is_in,
    "coalesce": _call("coalesce"),
    "least": _call("least"),
    "greatest": _call("greatest"),
    "lower": _call("lower"),
    "upper": _call("upper"),
    "length": _call("length"),
    "substring": _call("substring"),
    "starts_with": _call("starts_with"),
    "ends_with": _call("ends_with"),
    "contains": _call("contains"),
    "concat": lambda site: f"({' || '.join(site.args)})",
    "hash_bucket": _hash_bucket,
    "year": _of_day("year"),
    "month": _of_day("month"),
    "day": _of_day("day_of_month"),
    "day_of_week": _of_day("day_of_week"),
    "hour": _call("hour"),
    "minute": _call("minute"),
    "epoch_seconds": lambda site: _seconds(site.args[0]),
    "seconds_between": lambda site: _seconds(f"({site.args[1]} - {site.args[0]})"),
    "shift": _shift,
}


# ── casts ───────────────────────────────────────────────────────────────────────────────────────────────────


def _cast(site: Site) -> str:
    """One case per kind of source; what `cast_problem` refuses never arrives."""
    (value,), (source,), target = site.args, site.types, site.result
    if target == Float32 and source != Float64:
        value, source = _cast_to(value, source, Float64, site), Float64
    if target == Int32 and source != Int64:
        value, source = _cast_to(value, source, Int64, site), Int64
    return _cast_to(value, source, target, site)


def _cast_to(value: str, source: DType, target: DType, site: Site) -> str:
    if source == target:
        return value
    if source == String:
        return _read(value, target, site)
    if isinstance(source, DecimalType):
        return _from_decimal(value, source, target, site)
    if source == Float32:
        value, source = f"CAST({value} AS DOUBLE)", Float64
        if target == Float64:
            return value
    match source, target:
        case (_, DecimalType(precision, scale)) if source == Float64:
            return f"fs_double_to_decimal({value}, {scale}, {precision})"
        case (_, DecimalType()) if is_integer(source):
            return _from_decimal(f"CAST({value} AS BIGINT)", DecimalType(19, 0), target, site)
        case _ if target == String:
            return _chosen(value, "true", "false", String) if source == Bool else f"CAST({value} AS STRING)"
        case _ if source == Bool:
            return _chosen(value, 1, 0, target)
        case _ if source == Float64:
            return f"fs_{'to_float' if target == Float32 else 'double_to_int'}({value})"
        case _ if is_float(target) or (source, target) == (Int32, Int64):
            return f"CAST({value} AS {type_name(target)})"
        case _ if target == Int32:
            return f"fs_to_int32({value})"
        case _ if (source, target) == (Timestamp, Date):
            return f"fs_day_of({value})"
        case _ if (source, target) == (Date, Timestamp):
            return f"fs_midnight_of({value})"
        case _:
            raise _unsupported(site)


def _chosen(truth: str, yes: Value, no: Value, dtype: DType) -> str:
    return f"(CASE WHEN {truth} THEN {_literal(yes, dtype)} WHEN NOT {truth} THEN {_literal(no, dtype)} END)"


def _from_decimal(value: str, source: DecimalType, target: DType, site: Site) -> str:
    """Of a decimal of 19 digits, which a whole number is, only what holds them is asked."""
    if isinstance(target, DecimalType):
        if target.precision > MAX_DIGITS and target.scale >= source.scale:
            return f"fs_widen({value}, {target.scale - source.scale})"
        return f"fs_rescale({value}, {source.scale}, {target.scale}, {target.precision})"
    if target == Int64:
        return f"fs_decimal_to_int({value}, {source.scale})"
    if target == Float64:
        return f"fs_decimal_to_double({value}, {source.scale})"
    if target == String:
        return f"fs_decimal_text({value}, {source.scale})"
    raise _unsupported(site)


def _read(value: str, target: DType, site: Site) -> str:
    """Text as a value, where a pattern matches all of it."""
    if target == Bool:
        words = ((_literal(word, String), word.upper()) for word in ("true", "false"))
        said = " ".join(f"WHEN {value} = {word} THEN {truth}" for word, truth in words)
        return f"(CASE {said} END)"
    if isinstance(target, DecimalType):
        pattern = quoted(decimal_text_pattern(target.scale))
        return f"fs_read_decimal({value}, {pattern}, {target.scale}, {target.precision})"
    readers = {
        Int64: ("read_int", INTEGER_TEXT),
        Float64: ("read_double", DOUBLE_TEXT),
        Timestamp: ("read_timestamp", TIMESTAMP_TEXT),
        Date: ("read_date", DATE_TEXT),
    }
    if not isinstance(target, Scalar) or target not in readers:
        raise _unsupported(site)
    name, pattern = readers[target]
    return f"fs_{name}({value}, {quoted(pattern)})"


def _unsupported(site: Site) -> Unsupported:
    return Unsupported("flink SQL", f"say {describe(site.node)}", "Int64, Float64, Decimal, Timestamp")


FLINK = Dialect(
    name="flink",
    quote="`",
    type_name=type_name,
    literal=_literal,
    functions=FUNCTIONS,
    cast=_cast,
    clean=_clean,
    # What its planner computes as a FLOAT it keeps in seven digits, one or two fewer than tell all of them apart: constants are
    # computed here, and kept from it by `fs_constant_float`.
    folded=frozenset({Float32}),
)
