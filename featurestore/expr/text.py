"""Expressions as text: short for people, canonical JSON for the registry."""

from __future__ import annotations

from typing import Any, assert_never

from featurestore.expr.functions import FUNCTIONS
from featurestore.expr.literals import literal_text
from featurestore.expr.nodes import Call, Case, Cast, Column, Expr, Literal
from featurestore.time import Duration
from featurestore.types import Date, Float32, Float64, String, Timestamp, type_from_json, type_to_json

_METHODS = frozenset(
    {"is_null", "is_not_null", "lower", "upper", "length", "abs", "floor", "ceil", "round"}
) | {
    *("substring", "starts_with", "ends_with", "contains"),
    *("year", "month", "day", "hour", "minute", "day_of_week", "epoch_seconds"),
}


def describe(node: Expr) -> str:
    """One line that reads like the definition, columns by their bare names: `(amount * 1.2) > fee`.

    For people, not for reading back: see `to_json`.
    """
    match node:
        case Column(name):
            return name
        case Literal(value, dtype):
            text = literal_text(value, dtype)
            return f"'{text}'" if value is not None and dtype in (String, Timestamp, Date) else text
        case Cast(arg, dtype):
            return f"{_tight(arg)}.cast({dtype!r})"
        case Case(whens, otherwise):
            steps = ".".join(f"when({describe(c)}).then({describe(v)})" for c, v in whens)
            return f"{steps}.otherwise({describe(otherwise)})"
        case Call(function, args):
            return _describe_call(function, args)
        case _:
            assert_never(node)


def _describe_call(function: str, args: tuple[Expr, ...]) -> str:
    known = FUNCTIONS.get(function)
    if known and known.infix and len(args) == 2:
        return f"{_tight(args[0])} {known.infix} {_tight(args[1])}"
    match function, args:
        case ("not", (arg,)):
            return f"~{_tight(arg)}"
        case ("neg", (arg,)):
            return f"-{_tight(arg)}"
        case ("shift", (arg, Literal(int() as microseconds))) if microseconds:
            sign = "+" if microseconds > 0 else "-"
            return f"{_tight(arg)} {sign} {Duration(abs(microseconds))}"
        case ("is_in", (arg, *items)):
            return f"{_tight(arg)}.is_in([{', '.join(map(describe, items))}])"
        case (_, (arg, *rest)) if function in _METHODS:
            return f"{_tight(arg)}.{function}({', '.join(map(describe, rest))})"
        case _:
            return f"{function}({', '.join(map(describe, args))})"


def _tight(node: Expr) -> str:
    """In parentheses when it holds an operator."""
    text = describe(node)
    function = FUNCTIONS.get(node.function) if isinstance(node, Call) else None
    loose = function is not None and (function.infix is not None or function.name in ("not", "neg", "shift"))
    return f"({text})" if loose else text


def to_json(node: Expr) -> dict[str, Any]:
    """The canonical JSON form, which `from_json` reads back to an equal node.

    Constants are in their physical form beside their type (a Timestamp as integer microseconds, a Decimal
    unscaled); floats are text, so that no JSON library can touch a bit of them.
    """
    match node:
        case Column(name):
            return {"column": name}
        case Literal(value, dtype):
            written = repr(value) if isinstance(value, float) else value
            return {"literal": written, "type": None if dtype is None else type_to_json(dtype)}
        case Call(function, args):
            return {"call": function, "args": [to_json(arg) for arg in args]}
        case Cast(arg, dtype):
            return {"cast": to_json(arg), "type": type_to_json(dtype)}
        case Case(whens, otherwise):
            pairs = [[to_json(condition), to_json(value)] for condition, value in whens]
            return {"case": pairs, "otherwise": to_json(otherwise)}
        case _:
            assert_never(node)


def from_json(obj: Any) -> Expr:
    """The node that `to_json` wrote. Raises ValueError, naming the part, for anything it did not."""
    match obj:
        case {"column": str(name), **rest} if not rest:
            return Column(name)
        case {"literal": value, "type": str() | None as written, **rest} if not rest:
            dtype = None if written is None else type_from_json(written)
            return Literal(
                float(value) if dtype in (Float64, Float32) and value is not None else value, dtype
            )
        case {"call": str(function), "args": list(args), **rest} if not rest:
            return Call(function, tuple(map(from_json, args)))
        case {"cast": arg, "type": str(written), **rest} if not rest:
            return Cast(from_json(arg), type_from_json(written))
        case {"case": list(whens), "otherwise": otherwise, **rest} if not rest:
            pairs = tuple((from_json(condition), from_json(value)) for condition, value in whens)
            return Case(pairs, from_json(otherwise))
        case _:
            raise ValueError(f"not an expression: {obj!r}")
