"""The DuckDB dialect: the leaves of the expression language. Quirks are those of DuckDB 2.0.

Left to itself DuckDB raises on integer overflow and on integer division by zero, gives infinity for `1 / 0`,
truncates `//` and `%`, rounds a cast from double to integer, and reads far more text as numbers than we do.
Every leaf here is total: it gives NULL where the language says NULL, whatever the session's settings are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from featurestore.compile.sql import Dialect, Leaf, Site, quoted
from featurestore.errors import Unsupported
from featurestore.expr import Call, Literal, Value, describe
from featurestore.expr.casts import DATE_TEXT, DOUBLE_TEXT, INTEGER_TEXT, TIMESTAMP_TEXT, decimal_text_pattern
from featurestore.expr.literals import (
    MAX_DATE,
    MAX_TIMESTAMP,
    MIN_DATE,
    MIN_TIMESTAMP,
    decimal_text,
    literal_text,
)
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
    String: "VARCHAR",
    Int64: "BIGINT",
    Int32: "INTEGER",
    Float64: "DOUBLE",
    Float32: "FLOAT",
    Bool: "BOOLEAN",
    Timestamp: "TIMESTAMP",
    Date: "DATE",
}


def type_name(dtype: DType) -> str:
    """The SQL type a value of `dtype` has in DuckDB."""
    match dtype:
        case Scalar():
            return _TYPES[dtype]
        case DecimalType(precision, scale):
            return f"DECIMAL({precision}, {scale})"
        case ListType(item):
            return f"{type_name(item)}[]"
        case VectorType(size):
            return f"FLOAT[{size}]"
        case MapType(key, value):
            return f"MAP({type_name(key)}, {type_name(value)})"
        case _:
            assert_never(dtype)


def _literal(value: Value, dtype: DType) -> str:
    text = literal_text(value, dtype)
    if dtype == String:
        return quoted(text)
    if dtype == Bool:
        return text.upper()
    if dtype in (Timestamp, Date):
        return f"{type_name(dtype)} '{text}'"
    if dtype == Float64:  # an exponent makes it a DOUBLE; without one it would be a DECIMAL
        return f"({text if 'e' in text else text + 'e0'})"
    return f"CAST({text if is_integer(dtype) else quoted(text)} AS {type_name(dtype)})"


INLINE = 60
"""Up to this many characters a value is written wherever it is needed; DuckDB computes it once anyway."""


def once(value: str, body: Callable[[str], str]) -> str:
    """`body` of a value that stands in it more than once, written out once.

    Copies would double the text, and the planner's work, with every level of nesting. `body` may mention
    nothing but the name it is given: the name is the same at every level. Where it is not inlined it costs
    about 7 ns a row.
    """
    if len(value) <= INLINE:
        return body(value)
    return f"(list_transform([{value}], lambda v: {body('v')}))[1]"


def _both(a: str, b: str, body: Callable[[str, str], str]) -> str:
    """`once` for two values of one type."""
    if len(a) + len(b) <= INLINE:
        return body(a, b)
    return f"(list_transform([[{a}, {b}]], lambda v: {body('v[1]', 'v[2]')}))[1]"


def finite(value: str) -> str:
    """A double as the language wants it: NULL for NaN and infinities, 0 for −0."""
    return once(value, lambda v: f"(CASE WHEN isfinite({v}) THEN {v} + 0e0 END)")


def _within(value: str, dtype: DType, low: int, high: int) -> str:
    ends = f"{_literal(low, dtype)} AND {_literal(high, dtype)}"
    return once(value, lambda v: f"(CASE WHEN {v} BETWEEN {ends} THEN {v} END)")


def _clean(value: str, dtype: DType) -> str:
    if dtype == Float64:
        return finite(value)
    if dtype == Float32:
        return once(value, lambda v: f"(CASE WHEN isfinite({v}) THEN {v} + CAST(0 AS FLOAT) END)")
    if dtype == Timestamp:
        return _within(value, dtype, MIN_TIMESTAMP, MAX_TIMESTAMP)
    if dtype == Date:
        return _within(value, dtype, MIN_DATE, MAX_DATE)
    return value


# ── arithmetic ──────────────────────────────────────────────────────────────────────────────────────────────


def _huge(value: str) -> str:
    return f"CAST({value} AS HUGEINT)"


def _fit(value: str, dtype: DType) -> str:
    return f"TRY_CAST({value} AS {type_name(dtype)})"


def _arithmetic(operator: str) -> Leaf:
    """128 bits hold any sum, difference or product of two 64-bit integers; the cast back says NULL."""

    def leaf(site: Site) -> str:
        a, b = site.args
        if site.result == Int64:
            return _fit(f"{_huge(a)} {operator} {_huge(b)}", Int64)
        if site.result == Float64:
            return finite(f"({a} {operator} {b})")
        return _fit(f"{a} {operator} {b}", site.result)

    return leaf


def _mul(site: Site) -> str:
    a, b = site.args
    if isinstance(site.types[0], DecimalType):
        return _fit(f"{_wide(a, site.types[0])} * {b}", site.result)
    return _arithmetic("*")(site)


def _wide(value: str, dtype: DecimalType) -> str:
    """A decimal in 128 bits: of two decimals in 64 bits the product is in 64 bits too, and raises."""
    return f"CAST({value} AS DECIMAL(19, {dtype.scale}))" if dtype.precision < 19 else value


def _divide(site: Site) -> str:
    return finite(f"({site.args[0]} / {site.args[1]})")


_SHIFT = 2**63


def _positive(site: Site) -> bool:
    """Whether the divisor is a constant above zero: then 64 bits are enough, and twenty times as fast."""
    assert isinstance(site.node, Call)
    match site.node.args[1]:
        case Literal(int() as value):
            return value > 0
        case _:
            return False


def _floordiv(site: Site) -> str:
    """`a + 2^63 * b` has the sign of b (or is zero), so truncation rounds down; 127 bits hold it."""
    a, b = site.args
    if _positive(site):
        return once(a, lambda v: f"({v} // {b} - CASE WHEN {v} % {b} < 0 THEN 1 ELSE 0 END)")
    shift = _huge(str(_SHIFT))

    def body(a: str, b: str) -> str:
        divisor = _huge(f"NULLIF({b}, 0)")
        return _fit(f"({_huge(a)} + {shift} * {divisor}) // {divisor} - {shift}", Int64)

    return _both(a, b, body)


def _mod(site: Site) -> str:
    """The truncated remainder plus b has the sign of b, so its remainder does."""
    a, b = site.args
    if _positive(site):
        return once(a, lambda v: f"(CASE WHEN {v} % {b} < 0 THEN {v} % {b} + {b} ELSE {v} % {b} END)")

    def body(a: str, b: str) -> str:
        divisor = _huge(f"NULLIF({b}, 0)")
        return f"CAST(({_huge(a)} % {divisor} + {divisor}) % {divisor} AS BIGINT)"

    return _both(a, b, body)


def _neg(site: Site) -> str:
    (a,) = site.args
    if site.result == Int64:
        return _fit(f"- {_huge(a)}", Int64)
    if site.result == Float64:
        return f"(0e0 - {a})"  # not -x, which makes −0 of 0
    return _fit(f"- ({a})", site.result)


def _abs(site: Site) -> str:
    (a,) = site.args
    return _fit(f"abs({_huge(a) if site.result == Int64 else a})", site.result)


def _away(value: str, power: str) -> str:
    """|value| * power rounded half up, with the sign of value: a whole double, or an infinity."""
    up = f"floor(abs({value}) * {power} + 5e-1)"
    return f"(CASE WHEN {value} < 0e0 THEN 0e0 - {up} ELSE {up} END)"


def _round(site: Site) -> str:
    a, digits = site.args[0], site.constant(1)
    if site.result == Float64:
        power = f"1e{digits}"
        return finite(once(a, lambda v: f"({_away(v, power)} / {power})"))
    return a if site.result == site.types[0] else _fit(a, site.result)


def _whole(function: str) -> Leaf:
    def leaf(site: Site) -> str:
        (a,) = site.args
        if site.result == Int64:
            return a
        if site.result == Float64:
            return f"({function}({a}) + 0e0)"  # ceil(-0.5) is −0
        return _fit(f"{function}({a})", site.result)

    return leaf


# ── the rest ────────────────────────────────────────────────────────────────────────────────────────────────


def _infix(operator: str) -> Leaf:
    return lambda site: f"({site.args[0]} {operator} {site.args[1]})"


def _call(function: str) -> Leaf:
    return lambda site: f"{function}({', '.join(site.args)})"


def _is_in(site: Site) -> str:
    value, *items = site.args
    return f"({value} IN ({', '.join(items)}))"


_LOWER, _UPPER = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _ascii_case(function: str, before: str, after: str) -> Leaf:
    """DuckDB's own function where all is ASCII; beyond, it knows Unicode, in a version of its own."""

    def body(v: str) -> str:
        rest = f"translate({v}, '{before}', '{after}')"
        return f"(CASE WHEN strlen({v}) = length({v}) THEN {function}({v}) ELSE {rest} END)"

    return lambda site: once(site.args[0], body)


def _substring(site: Site) -> str:
    return f"substring({site.args[0]}, {site.constant(1) + 1}, {site.constant(2)})"


def _hash_bucket(site: Site) -> str:
    text = site.args[0] if site.types[0] == String else f"CAST({site.args[0]} AS VARCHAR)"
    return f"(CAST('0x' || left(md5({text}), 15) AS BIGINT) % {site.args[1]})"


def _shift(site: Site) -> str:
    microseconds = site.constant(1)
    low, high = MIN_TIMESTAMP - microseconds, MAX_TIMESTAMP - microseconds
    return once(
        f"epoch_us({site.args[0]})",
        lambda v: f"make_timestamp(CASE WHEN {v} BETWEEN {low} AND {high} THEN {v} + {microseconds} END)",
    )


def _seconds_between(site: Site) -> str:
    start, end = site.args
    return f"(CAST(epoch_us({end}) - epoch_us({start}) AS DOUBLE) / 1e6)"


FUNCTIONS: dict[str, Leaf] = {
    "add": _arithmetic("+"),
    "sub": _arithmetic("-"),
    "mul": _mul,
    "div": _divide,
    "floordiv": _floordiv,
    "mod": _mod,
    "eq": _infix("="),
    "ne": _infix("<>"),
    "lt": _infix("<"),
    "le": _infix("<="),
    "gt": _infix(">"),
    "ge": _infix(">="),
    "and": _infix("AND"),
    "or": _infix("OR"),
    "not": lambda site: f"(NOT {site.args[0]})",
    "neg": _neg,
    "abs": _abs,
    "round": _round,
    "floor": _whole("floor"),
    "ceil": _whole("ceil"),
    "is_null": lambda site: f"({site.args[0]} IS NULL)",
    "is_not_null": lambda site: f"({site.args[0]} IS NOT NULL)",
    "is_in": _is_in,
    "coalesce": _call("coalesce"),
    "least": _call("least"),  # skips NULLs, as we do
    "greatest": _call("greatest"),
    "lower": _ascii_case("lower", _UPPER, _LOWER),
    "upper": _ascii_case("upper", _LOWER, _UPPER),
    "length": _call("length"),
    "substring": _substring,
    "starts_with": _call("starts_with"),
    "ends_with": _call("suffix"),
    "contains": _call("contains"),
    "concat": lambda site: f"({' || '.join(site.args)})",  # concat() would skip NULLs
    "hash_bucket": _hash_bucket,
    "year": _call("year"),
    "month": _call("month"),
    "day": _call("day"),
    "day_of_week": _call("isodow"),
    "hour": _call("hour"),
    "minute": _call("minute"),
    "epoch_seconds": lambda site: f"(CAST(epoch_us({site.args[0]}) AS DOUBLE) / 1e6)",
    "seconds_between": _seconds_between,
    "shift": _shift,
}


# ── casts ───────────────────────────────────────────────────────────────────────────────────────────────────


def _cast(site: Site) -> str:
    """One case per kind of source; what `cast_problem` refuses never arrives."""
    (value,), (source,), target = site.args, site.types, site.result
    if target == Float32 and source != Float64:
        value, source = _cast_to(value, source, Float64, site), Float64
    return _cast_to(value, source, target, site)


def _cast_to(value: str, source: DType, target: DType, site: Site) -> str:
    if source == target:
        return value
    if source == String:
        return _read(value, target, site)
    if source == Float64 and target == Float32:
        return f"({_fit(value, Float32)} + CAST(0 AS FLOAT))"  # a small negative number becomes −0
    if is_float(source):
        return _from_double(value, target)
    if isinstance(source, DecimalType):
        return _from_decimal(value, source, target)
    return _fit(value, target)


def _from_double(value: str, target: DType) -> str:
    if isinstance(target, DecimalType):
        whole = once(value, lambda v: _fit(_away(v, f"1e{target.scale}"), Int64))
        unit = f"CAST('{decimal_text(1, target.scale)}' AS DECIMAL({target.scale + 1}, {target.scale}))"
        return _fit(f"CAST({whole} AS DECIMAL(19, 0)) * {unit}", target)
    return _fit(f"trunc({value})" if is_integer(target) else value, target)


def _from_decimal(value: str, source: DecimalType, target: DType) -> str:
    if is_integer(target):
        return _fit(f"trunc({value})", target)
    if target == String:  # DECIMAL(1, 1) would be written .5, without its zero
        return _fit(_wide(value, source), String)
    if target == Float64 and source.precision > 15:
        # beyond 2^53 DuckDB adds the doubles of both sides of the point; we divide the unscaled integer once
        power = f"CAST(1{'0' * source.scale} AS DECIMAL({source.scale + 1}, 0))"
        unscaled = f"CAST({_wide(value, source)} * {power} AS BIGINT)"
        return f"(CAST({unscaled} AS DOUBLE) / 1e{source.scale})"
    return _fit(value, target)


def _read(value: str, target: DType, site: Site) -> str:
    """Text as a value. What the pattern does not match is '' and so NULL."""
    if target == Bool:
        return f"(CASE {value} WHEN 'true' THEN TRUE WHEN 'false' THEN FALSE END)"
    if isinstance(target, DecimalType):
        pattern = decimal_text_pattern(target.scale)
    else:
        patterns = {
            Int64: INTEGER_TEXT,
            Int32: INTEGER_TEXT,
            Float64: DOUBLE_TEXT,
            Timestamp: TIMESTAMP_TEXT,
            Date: DATE_TEXT,
        }
        if not isinstance(target, Scalar) or target not in patterns:
            raise Unsupported(
                "duckdb SQL", f"say {describe(site.node)}", "Int64, Float64, Decimal, Timestamp"
            )
        pattern = patterns[target]
    read = _fit(f"regexp_extract({value}, {quoted(f'^(?:{pattern})$')})", target)
    return finite(read) if target == Float64 else read


DUCKDB = Dialect(
    name="duckdb",
    quote='"',
    type_name=type_name,
    literal=_literal,
    functions=FUNCTIONS,
    cast=_cast,
    clean=_clean,
)
