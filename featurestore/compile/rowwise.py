"""Expressions in plain Python, one row at a time: slow and obvious, what the engines are compared with."""

from __future__ import annotations

import datetime as dt
import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import assert_never

from featurestore.expr import FUNCTIONS, Call, Case, Cast, Column, Expr, Literal, Typed, Value, elaborate
from featurestore.expr.casts import DATE_TEXT, DOUBLE_TEXT, INTEGER_TEXT, TIMESTAMP_TEXT, decimal_text_pattern
from featurestore.expr.literals import (
    EPOCH,
    INT_BOUNDS,
    MAX_DATE,
    MAX_TIMESTAMP,
    MIN_DATE,
    MIN_TIMESTAMP,
    decimal_text,
    to_float32,
)
from featurestore.time import DAY, HOUR, MINUTE, SECOND
from featurestore.types import (
    Bool,
    Date,
    DecimalType,
    DType,
    Float32,
    ListType,
    String,
    Timestamp,
    VectorType,
    is_float,
    is_integer,
)

Row = Mapping[str, Value | None]


class Settled(dict[str, DType]):
    """A schema that remembers the types it has settled, for expressions that are asked for again and again."""

    def __init__(self, schema: Mapping[str, DType]) -> None:
        super().__init__(schema)
        self._typed: dict[Expr, Typed] = {}

    def typed(self, node: Expr) -> Typed:
        found = self._typed.get(node)
        if found is None:
            found = self._typed[node] = elaborate(node, self)
        return found


def evaluate(node: Expr, row: Row, schema: Mapping[str, DType]) -> Value | None:
    """The value of `node` in a row of clean physical values; None is NULL.

    Raises ExprError when it is not well typed over `schema`, KeyError when the row lacks a column.
    """
    return _value(schema.typed(node) if isinstance(schema, Settled) else elaborate(node, schema), row)


def evaluator(
    node: Expr, schema: Mapping[str, DType], *, on_demand: bool = False
) -> Callable[[Row], Value | None]:
    """`evaluate` for many rows: the types are settled once.

    With `on_demand`, the functions are admitted that only on-demand expressions may use; a row holds what `as_of()` is under
    `AS_OF`. `exp` and its kin are Python's own, which may be another double than the evaluator's by a few last bits.
    """
    typed = elaborate(node, schema, on_demand=on_demand)
    return lambda row: _value(typed, row)


def constant(typed: Typed) -> Value | None:
    """What a tree without columns gives in every row."""
    return _value(typed, {})


AS_OF = "as_of()"
"""The name under which a row holds the moment asked for."""


def clean(value: Value | None, dtype: DType) -> Value | None:
    """A raw physical value of a source as expressions want it.

    Numbers that are not finite, integers and decimals that do not fit, and times outside the years 1 to 9999
    become NULL; −0 becomes 0. Lists and vectors stay as they are.
    """
    if isinstance(dtype, ListType | VectorType):
        return value
    match value:
        case None:
            return None
        case float():
            finite = value + 0.0 if math.isfinite(value) else None
            return to_float32(finite) if finite is not None and dtype == Float32 else finite
        case bool() | str():
            return value
        case int():
            return value if _fits(value, dtype) else None
        case _:
            assert_never(value)


def _power(digits: int) -> int:
    return int(10**digits)


def _fits(value: int, dtype: DType) -> bool:
    if isinstance(dtype, DecimalType):
        return abs(value) < _power(dtype.precision)
    if dtype == Timestamp:
        return MIN_TIMESTAMP <= value <= MAX_TIMESTAMP
    if dtype == Date:
        return MIN_DATE <= value <= MAX_DATE
    low, high = INT_BOUNDS[dtype]  # type: ignore[index]  # the two integer types remain
    return low <= value <= high


def _value(typed: Typed, row: Row) -> Value | None:
    match typed.node:
        case Column(name):
            return row[name]
        case Literal(value, _):
            return value
        case Cast():
            (arg,) = typed.args
            inner = _value(arg, row)
            return None if inner is None else clean(_cast(inner, arg.dtype, typed.dtype), typed.dtype)
        case Case():
            *pairs, otherwise = typed.args
            for condition, branch in zip(pairs[::2], pairs[1::2], strict=True):
                if _value(condition, row) is True:
                    return _value(branch, row)
            return _value(otherwise, row)
        case Call("as_of", ()):
            return row[AS_OF]
        case Call(function, _):
            args = [_value(arg, row) for arg in typed.args]
            if FUNCTIONS[function].strict and None in args:
                return None
            if function in _TYPED:
                return clean(_TYPED[function](typed, *args), typed.dtype)
            if function in ROUNDED:
                return clean(_rounded_off(ROUNDED[function], args), typed.dtype)
            return clean(_PLAIN[function](*args), typed.dtype)
        case _:
            assert_never(typed.node)


# ── casts ───────────────────────────────────────────────────────────────────────────────────────────────────


def _cast(value: Value, source: DType, target: DType) -> Value | None:
    """The value before `clean` has its say about range."""
    if isinstance(value, str):
        return _read(value, target)
    if target == String:
        return _written(value, source)
    if source == Timestamp:
        return int(value) // DAY
    if source == Date:
        return int(value) * DAY
    scale = source.scale if isinstance(source, DecimalType) else 0
    if is_float(target):
        return float(value) / _power(scale) if scale else float(value)
    if isinstance(target, DecimalType):
        return _to_decimal(value, scale, target.scale)
    if isinstance(value, float):
        return math.trunc(value)
    return _cut(int(value), _power(scale))


def _to_decimal(value: Value, scale: int, wanted: int) -> int | None:
    if isinstance(value, float):
        return _away(value, 10.0**wanted)
    if wanted >= scale:
        return int(value) * _power(wanted - scale)
    return _rounded(int(value), _power(scale - wanted))


def _cut(value: int, unit: int) -> int:
    """`value / unit` without what is after the point."""
    return value // unit if value >= 0 else -(-value // unit)


def _rounded(value: int, unit: int) -> int:
    """`value / unit`, half away from zero."""
    up = (2 * abs(value) + unit) // (2 * unit)
    return up if value >= 0 else -up


def _away(value: float, power: float) -> int | None:
    """|value| * power rounded half up in doubles, with the sign of value; None when that is not finite."""
    scaled = abs(value) * power + 0.5
    if math.isinf(scaled):
        return None
    return -math.floor(scaled) if value < 0 else math.floor(scaled)


def _written(value: Value, source: DType) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return decimal_text(int(value), source.scale if isinstance(source, DecimalType) else 0)


def _read(text: str, target: DType) -> Value | None:
    """What the text spells, in the strict subset of `casts.py`; anything else is NULL."""
    if target == Bool:
        return {"true": True, "false": False}.get(text)
    if is_integer(target):
        return int(text) if re.fullmatch(INTEGER_TEXT, text) else None
    if is_float(target):
        return float(text) if re.fullmatch(DOUBLE_TEXT, text) else None
    if isinstance(target, DecimalType):
        return _read_decimal(text, target.scale)
    try:
        if target == Date:
            day = dt.date.fromisoformat(text) if re.fullmatch(DATE_TEXT, text) else None
            return (day - EPOCH.date()).days if day else None
        moment = dt.datetime.fromisoformat(text) if re.fullmatch(TIMESTAMP_TEXT, text) else None
        return (moment.replace(tzinfo=None) - EPOCH) // dt.timedelta(microseconds=1) if moment else None
    except ValueError:  # 30 February
        return None


def _read_decimal(text: str, scale: int) -> int | None:
    if not re.fullmatch(decimal_text_pattern(scale), text):
        return None
    whole, _, fraction = text.partition(".")
    return int(whole + fraction.ljust(scale, "0"))


# ── functions ───────────────────────────────────────────────────────────────────────────────────────────────


def _div(a: float, b: float) -> float | None:
    return a / b if b else None


def _floordiv(a: int, b: int) -> int | None:
    return a // b if b else None


def _mod(a: int, b: int) -> int | None:
    return a % b if b else None


def _ordered(value: Value) -> Value | bytes:
    """What a value is ordered by: text by its UTF-8 bytes."""
    return value.encode() if isinstance(value, str) else value


def _less(a: Value, b: Value) -> bool:
    return _ordered(a) < _ordered(b)  # type: ignore[operator]  # both of one type


def _and(*values: bool | None) -> bool | None:
    if False in values:
        return False
    return None if None in values else True


def _or(*values: bool | None) -> bool | None:
    if True in values:
        return True
    return None if None in values else False


def _coalesce(*values: Value | None) -> Value | None:
    return next((value for value in values if value is not None), None)


def _least(*values: Value | None) -> Value | None:
    return min((value for value in values if value is not None), key=_ordered, default=None)


def _greatest(*values: Value | None) -> Value | None:
    return max((value for value in values if value is not None), key=_ordered, default=None)


def _ascii(text: str, first: str, shift: int) -> str:
    return "".join(chr(ord(c) + shift) if first <= c <= chr(ord(first) + 25) else c for c in text)


def _hash_bucket(value: int | str, n: int) -> int:
    digest = hashlib.md5(str(value).encode(), usedforsecurity=False).hexdigest()
    return int(digest[:15], 16) % n


def _day(typed: Typed, value: int) -> dt.date:
    days = value if typed.args[0].dtype == Date else value // DAY
    return EPOCH.date() + dt.timedelta(days=days)


def _round(typed: Typed, value: float, digits: int) -> Value | None:
    source, target = typed.args[0].dtype, typed.dtype
    if is_float(target):
        power = 10.0**digits
        whole = _away(value, power)
        return None if whole is None else float(whole) / power
    if isinstance(source, DecimalType) and digits < source.scale:
        return _rounded(int(value), _power(source.scale - digits))
    return value


def _floor(typed: Typed, value: float) -> Value:
    source = typed.args[0].dtype
    if isinstance(source, DecimalType):
        return int(value) // _power(source.scale)
    return float(math.floor(value)) if is_float(source) else value


def _ceil(typed: Typed, value: float) -> Value:
    source = typed.args[0].dtype
    if isinstance(source, DecimalType):
        return -(-int(value) // _power(source.scale))
    return float(math.ceil(value)) if is_float(source) else value


_TYPED: dict[str, Callable[..., Value | None]] = {
    "round": _round,
    "floor": _floor,
    "ceil": _ceil,
    "year": lambda typed, value: _day(typed, value).year,
    "month": lambda typed, value: _day(typed, value).month,
    "day": lambda typed, value: _day(typed, value).day,
    "day_of_week": lambda typed, value: _day(typed, value).isoweekday(),
}
"""Functions that look at the types of their arguments; they take the typed node first."""

_PLAIN: dict[str, Callable[..., Value | None]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": _div,
    "floordiv": _floordiv,
    "mod": _mod,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": _less,
    "le": lambda a, b: not _less(b, a),
    "gt": lambda a, b: _less(b, a),
    "ge": lambda a, b: not _less(a, b),
    "and": _and,
    "or": _or,
    "not": lambda a: not a,
    "neg": lambda a: -a,
    "abs": abs,
    "is_null": lambda a: a is None,
    "is_not_null": lambda a: a is not None,
    "is_in": lambda a, *items: a in items,
    "coalesce": _coalesce,
    "least": _least,
    "greatest": _greatest,
    "lower": lambda a: _ascii(a, "A", 32),
    "upper": lambda a: _ascii(a, "a", -32),
    "length": len,
    "substring": lambda a, start, n: a[start : start + n],
    "starts_with": lambda a, b: a.startswith(b),
    "ends_with": lambda a, b: a.endswith(b),
    "contains": lambda a, b: b in a,
    "concat": lambda *parts: "".join(parts),
    "hash_bucket": _hash_bucket,
    "hour": lambda a: a % DAY // HOUR,
    "minute": lambda a: a % HOUR // MINUTE,
    "epoch_seconds": lambda a: float(a) / SECOND,
    "seconds_between": lambda a, b: float(b - a) / SECOND,
    "shift": lambda a, microseconds: a + microseconds,
}

ROUNDED: dict[str, Callable[..., float]] = {
    "exp": math.exp,
    "ln": math.log,
    "log10": math.log10,
    "sqrt": math.sqrt,
    "pow": math.pow,
    "sin": math.sin,
    "cos": math.cos,
    "tanh": math.tanh,
}
"""The functions of on-demand expressions alone; libraries differ in their last bits, but for those of `sqrt`."""


def _rounded_off(function: Callable[..., float], args: Sequence[Value | None]) -> float | None:
    try:
        return function(*args)
    except (ValueError, OverflowError):  # no real number, or none that is finite
        return None


LEAVES = frozenset(_PLAIN) | frozenset(_TYPED)
"""The functions this engine has: every row function of the registry."""
