"""The functions of the expression language, operators included: one entry each.

An entry says what the function is called, how it is written, which types it takes and gives, what it does
with NULL, and whether a row expression may use it. How it is computed is a leaf in the NumPy evaluator
(`evaluate/expressions.py`) and, for row expressions, in each dialect (`compile/duckdb.py`) and in the reference
(`compile/rowwise.py`). To add a function: an entry here, a leaf in each, a row in `docs/expressions.md`; tests
name whichever is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from featurestore.expr.literals import INT_BOUNDS, MAX_DIGITS, MAX_TIMESTAMP, MIN_TIMESTAMP
from featurestore.expr.nodes import Expr, Literal
from featurestore.types import (
    Bool,
    Date,
    DecimalType,
    DType,
    Float64,
    Int64,
    ListType,
    Scalar,
    String,
    Timestamp,
    VectorType,
    is_float,
    is_integer,
    is_numeric,
)


class Mismatch(Exception):
    """The arguments do not fit a function: what is wrong, and lines that say what would work."""

    def __init__(self, what: str, *help: str) -> None:
        super().__init__(what)
        self.what, self.help = what, help


@dataclass(frozen=True, slots=True)
class Argument:
    """What a type rule may know of an argument: its type, and the node, for those that must be constants."""

    dtype: DType
    node: Expr


@dataclass(frozen=True, slots=True)
class Signature:
    """The type each argument is cast to before the function sees it, and the type of the result.

    Inside a function a Decimal may be wider than 18 digits; a result never is.
    """

    args: tuple[DType, ...]
    result: DType


Rule = Callable[[Sequence[Argument]], Signature]


@dataclass(frozen=True, slots=True)
class Function:
    """One function. `form` shows how it is written, in the letters of its arguments.

    `arity` is the least and the greatest number of arguments (None: any number). `strict`: a NULL argument
    makes the result NULL, otherwise the leaf decides. `row`: allowed in row expressions; the others differ
    between libraries in the last bit, or have no value there, and are for on-demand expressions only.
    """

    name: str
    form: str
    doc: str
    arity: tuple[int, int | None]
    rule: Rule
    strict: bool = True
    row: bool = True
    infix: str | None = None


FUNCTIONS: dict[str, Function] = {}


def register(function: Function) -> Function:
    """Enter a function; its name must be new."""
    if function.name in FUNCTIONS:
        raise ValueError(f"there already is a function '{function.name}'")
    FUNCTIONS[function.name] = function
    return function


def row_functions() -> Mapping[str, Function]:
    """The functions that every engine has a leaf for."""
    return {name: function for name, function in FUNCTIONS.items() if function.row}


# ── type rules ──────────────────────────────────────────────────────────────────────────────────────────────


def _types(args: Sequence[Argument]) -> tuple[DType, ...]:
    return tuple(arg.dtype for arg in args)


def _names(types: Sequence[DType]) -> str:
    return " and ".join(map(repr, dict.fromkeys(types)))


def _fixed(result: DType, *wanted: DType) -> Rule:
    """Exactly these types."""

    def rule(args: Sequence[Argument]) -> Signature:
        types = _types(args)
        if types != wanted:
            raise Mismatch(f"needs {_names(wanted)}, not {_names(types)}", *_cast_help(wanted[0], types))
        return Signature(wanted, result)

    return rule


def _all(wanted: DType, result: DType) -> Rule:
    """Any number of arguments of one type."""

    def rule(args: Sequence[Argument]) -> Signature:
        return _fixed(result, *(wanted for _ in args))(args)

    return rule


def _cast_help(wanted: DType, types: Sequence[DType]) -> list[str]:
    if wanted == String and any(map(is_integer, types)):
        return ["cast it first: .cast(String)"]
    if wanted == Bool and any(map(is_numeric, types)):
        return ["compare first, as in x != 0"]
    return []


def _numbers(types: Sequence[DType]) -> None:
    if all(map(is_numeric, types)):
        return
    help = []
    if any(t in (Timestamp, Date) for t in types):
        help.append("of times there are ts + hours(1), ts - days(7) and seconds_between(a, b)")
    if String in types:
        help.append("text is joined by .concat(…) and read by .cast(Float64)")
    if Bool in types:
        help.append("a truth becomes 0 or 1 by .cast(Int64)")
    raise Mismatch(f"needs numbers, not {_names([t for t in types if not is_numeric(t)])}", *help)


def _scale(dtype: DType) -> int:
    return dtype.scale if isinstance(dtype, DecimalType) else 0


def _whole_digits(dtype: DType) -> int:
    return dtype.precision - dtype.scale if isinstance(dtype, DecimalType) else 19


def _domain(types: Sequence[DType]) -> DType:
    """The type numbers meet in: a double if any is one, a wide exact Decimal if any is one, else Int64."""
    if any(map(is_float, types)):
        return Float64
    if any(isinstance(t, DecimalType) for t in types):
        return DecimalType(38, max(map(_scale, types)))
    return Int64


def _add(args: Sequence[Argument]) -> Signature:
    types = _types(args)
    _numbers(types)
    domain = _domain(types)
    if not isinstance(domain, DecimalType):
        return Signature((domain,) * len(types), domain)
    whole = max(map(_whole_digits, types)) + 1
    return Signature((domain,) * len(types), DecimalType(min(MAX_DIGITS, whole + domain.scale), domain.scale))


def _mul(args: Sequence[Argument]) -> Signature:
    types = _types(args)
    _numbers(types)
    domain = _domain(types)
    if not isinstance(domain, DecimalType):
        return Signature((domain,) * len(types), domain)
    scale = sum(map(_scale, types))
    if scale > MAX_DIGITS:
        raise Mismatch(
            f"gives {scale} digits after the point, more than the {MAX_DIGITS} a Decimal has",
            "cast one to Float64, or to a Decimal with fewer digits after the point",
        )
    wide = tuple(t if isinstance(t, DecimalType) else DecimalType(19, 0) for t in types)
    return Signature(wide, DecimalType(MAX_DIGITS, scale))


def _divide(args: Sequence[Argument]) -> Signature:
    _numbers(_types(args))
    return Signature((Float64, Float64), Float64)


def _whole_division(args: Sequence[Argument]) -> Signature:
    types = _types(args)
    if not all(map(is_integer, types)):
        raise Mismatch(
            f"needs integers, not {_names([t for t in types if not is_integer(t)])}",
            "cast first: .cast(Int64) cuts towards zero; or divide with / and round down with .floor()",
        )
    return Signature((Int64, Int64), Int64)


def _same_number(args: Sequence[Argument]) -> Signature:
    """Number to number: integers as Int64, floats as Float64, a Decimal as it is."""
    (dtype,) = _types(args)
    _numbers([dtype])
    result = dtype if isinstance(dtype, DecimalType) else _domain([dtype])
    return Signature((result,), result)


def _to_whole(args: Sequence[Argument]) -> Signature:
    (dtype,) = _types(args)
    if isinstance(dtype, DecimalType):
        whole = min(MAX_DIGITS, dtype.precision - dtype.scale + 1) if dtype.scale else dtype.precision
        return Signature((dtype,), DecimalType(whole, 0))
    return _same_number(args)


MAX_ROUND_DIGITS = 9


def _round(args: Sequence[Argument]) -> Signature:
    dtype = args[0].dtype
    digits = _constant(args[1], "digits", 0, MAX_ROUND_DIGITS)
    _numbers([dtype])
    if isinstance(dtype, DecimalType):
        if digits >= dtype.scale:
            return Signature((dtype, Int64), dtype)
        whole = dtype.precision - dtype.scale
        return Signature((dtype, Int64), DecimalType(min(MAX_DIGITS, whole + digits + 1), digits))
    domain = _domain([dtype])
    return Signature((domain, Int64), domain)


def _constant(arg: Argument, what: str, low: int, high: int) -> int:
    match arg.node:
        case Literal(int() as value, dtype) if dtype == Int64 and low <= value <= high:
            return value
        case Literal(int() as value, dtype) if dtype == Int64:
            raise Mismatch(f"{what} must be from {low} to {high}, not {value}")
        case _:
            raise Mismatch(f"{what} must be a plain integer", f"write a number from {low} to {high}")


def _compared(args: Sequence[Argument]) -> DType:
    """The type values are compared in; a Decimal is just wide enough: most columns stay as they are."""
    types = _types(args)
    if all(map(is_numeric, types)):
        domain = _domain(types)
        if isinstance(domain, DecimalType):
            return DecimalType(max(map(_digits_needed, args)) + domain.scale, domain.scale)
        return domain
    first = types[0]
    if all(t == first for t in types) and isinstance(first, Scalar):
        return first
    help = []
    if String in types and (Timestamp in types or Date in types):
        help.append("write a time as datetime.datetime(2013, 1, 31), a date as datetime.date(2013, 1, 31)")
    elif String in types:
        help.append("text compares with text: quote the constant, or .cast(…) the column")
    if Timestamp in types and Date in types:
        help.append("cast one: .cast(Date) or .cast(Timestamp)")
    raise Mismatch(f"cannot compare {_names(types)}", *help)


def _compare(args: Sequence[Argument]) -> Signature:
    common = _compared(args)
    return Signature((common,) * len(args), Bool)


def _is_in(args: Sequence[Argument]) -> Signature:
    for arg in args[1:]:
        if not isinstance(arg.node, Literal) or arg.node.value is None:
            raise Mismatch("takes constants that are not NULL", "for NULL ask .is_null(), for columns ==")
    return _compare(args)


def common_type(args: Sequence[Argument]) -> DType:
    """The one type that holds the values of all the arguments, for functions that choose among them.

    Raises Mismatch where there is none, or none of 18 digits.
    """
    types = _types(args)
    if all(t == types[0] for t in types):
        return types[0]
    if not all(map(is_numeric, types)):
        raise Mismatch(f"cannot give {_names(types)} as one type", "make them one type with .cast(…)")
    domain = _domain(types)
    if not isinstance(domain, DecimalType):
        return domain
    whole = max(_digits_needed(arg) for arg in args)
    if whole + domain.scale > MAX_DIGITS:
        raise Mismatch(
            f"cannot give {_names(types)} as one Decimal of {MAX_DIGITS} digits",
            "cast them to one Decimal(p, s)",
        )
    return DecimalType(whole + domain.scale, domain.scale)


def _digits_needed(arg: Argument) -> int:
    match arg.node:
        case Literal(int() as value, dtype) if dtype in INT_BOUNDS:
            return len(str(abs(value)))
        case _:
            return _whole_digits(arg.dtype)


def _choose(args: Sequence[Argument]) -> Signature:
    common = common_type(args)
    return Signature((common,) * len(args), common)


def _choose_ordered(args: Sequence[Argument]) -> Signature:
    chosen = _choose(args)
    if isinstance(chosen.result, ListType | VectorType):
        raise Mismatch(f"needs values with an order, not {chosen.result!r}")
    return chosen


def _anything(result: DType) -> Rule:
    return lambda args: Signature(_types(args), result)


def _part(*, of_dates: bool) -> Rule:
    def rule(args: Sequence[Argument]) -> Signature:
        (dtype,) = _types(args)
        if dtype == Timestamp or (of_dates and dtype == Date):
            return Signature((dtype,), Int64)
        raise Mismatch(f"needs a Timestamp{' or a Date' if of_dates else ''}, not {dtype!r}")

    return rule


def _shift(args: Sequence[Argument]) -> Signature:
    if args[0].dtype != Timestamp:
        raise Mismatch(
            f"adds a duration to a Timestamp, not to {args[0].dtype!r}",
            "a Date becomes one by .cast(Timestamp)",
        )
    span = MAX_TIMESTAMP - MIN_TIMESTAMP
    _constant(args[1], "the duration in microseconds", -span, span)
    return Signature((Timestamp, Int64), Timestamp)


MAX_LENGTH = 2**31 - 1


def _substring(args: Sequence[Argument]) -> Signature:
    if args[0].dtype != String:
        raise Mismatch(f"needs String, not {args[0].dtype!r}", *_cast_help(String, [args[0].dtype]))
    _constant(args[1], "start", 0, MAX_LENGTH)
    _constant(args[2], "n", 0, MAX_LENGTH)
    return Signature((String, Int64, Int64), String)


def _hash_bucket(args: Sequence[Argument]) -> Signature:
    dtype = args[0].dtype
    _constant(args[1], "n", 1, MAX_LENGTH)
    if dtype == String:
        return Signature((String, Int64), Int64)
    if is_integer(dtype):
        return Signature((Int64, Int64), Int64)
    raise Mismatch(f"hashes String and integers, not {dtype!r}")


def _to_double(args: Sequence[Argument]) -> Signature:
    _numbers(_types(args))
    return Signature((Float64,) * len(args), Float64)


# ── the functions ───────────────────────────────────────────────────────────────────────────────────────────

_ONE, _TWO, _THREE = (1, 1), (2, 2), (3, 3)

for _name, _sign, _rule, _doc in (
    ("add", "+", _add, "Sum."),
    ("sub", "-", _add, "Difference."),
    ("mul", "*", _mul, "Product."),
    ("div", "/", _divide, "Quotient, always Float64; NULL when b is zero."),
    ("floordiv", "//", _whole_division, "Integer quotient rounded down, as in Python; NULL when b is zero."),
    ("mod", "%", _whole_division, "Remainder of //: it has the sign of b; NULL when b is zero."),
    ("eq", "==", _compare, "Equal."),
    ("ne", "!=", _compare, "Not equal."),
    ("lt", "<", _compare, "Less."),
    ("le", "<=", _compare, "Less or equal."),
    ("gt", ">", _compare, "Greater."),
    ("ge", ">=", _compare, "Greater or equal."),
):
    register(Function(_name, f"a {_sign} b", _doc, _TWO, _rule, infix=_sign))

register(
    Function(
        "and",
        "a & b",
        "Both true. False beats NULL.",
        _TWO,
        _fixed(Bool, Bool, Bool),
        strict=False,
        infix="&",
    )
)
register(
    Function(
        "or", "a | b", "One true. True beats NULL.", _TWO, _fixed(Bool, Bool, Bool), strict=False, infix="|"
    )
)
register(Function("not", "~a", "The opposite.", _ONE, _fixed(Bool, Bool)))
register(Function("neg", "-a", "With the other sign.", _ONE, _same_number))
register(Function("abs", "a.abs()", "Without its sign.", _ONE, _same_number))
register(Function("round", "a.round(digits)", "Rounded, half away from zero.", _TWO, _round))
register(Function("floor", "a.floor()", "The greatest whole number not above.", _ONE, _to_whole))
register(Function("ceil", "a.ceil()", "The least whole number not below.", _ONE, _to_whole))

register(
    Function(
        "is_null",
        "a.is_null()",
        "Whether it is NULL; never NULL itself.",
        _ONE,
        _anything(Bool),
        strict=False,
    )
)
register(
    Function("is_not_null", "a.is_not_null()", "Whether it is not NULL.", _ONE, _anything(Bool), strict=False)
)
register(Function("is_in", "a.is_in([…])", "Equal to one of the constants.", (2, None), _is_in))
register(
    Function("coalesce", "coalesce(a, b, …)", "The first that is not NULL.", (1, None), _choose, strict=False)
)
register(
    Function(
        "least",
        "least(a, b, …)",
        "The least, NULLs skipped; NULL if all are.",
        (1, None),
        _choose_ordered,
        strict=False,
    )
)
register(
    Function(
        "greatest",
        "greatest(a, b, …)",
        "The greatest, NULLs skipped; NULL if all are.",
        (1, None),
        _choose_ordered,
        strict=False,
    )
)

register(
    Function("lower", "a.lower()", "A to Z as a to z; no other letter changes.", _ONE, _fixed(String, String))
)
register(
    Function("upper", "a.upper()", "a to z as A to Z; no other letter changes.", _ONE, _fixed(String, String))
)
register(Function("length", "a.length()", "The number of code points.", _ONE, _fixed(Int64, String)))
register(
    Function(
        "substring", "a.substring(start, n)", "Code points [start, start + n), from 0.", _THREE, _substring
    )
)
register(
    Function(
        "starts_with", "a.starts_with(b)", "Whether a begins with b.", _TWO, _fixed(Bool, String, String)
    )
)
register(
    Function("ends_with", "a.ends_with(b)", "Whether a ends with b.", _TWO, _fixed(Bool, String, String))
)
register(Function("contains", "a.contains(b)", "Whether b occurs in a.", _TWO, _fixed(Bool, String, String)))
register(Function("concat", "concat(a, b, …)", "One after another.", (1, None), _all(String, String)))
register(
    Function(
        "hash_bucket",
        "hash_bucket(a, n)",
        "A bucket from 0 to n - 1, by MD5 of the text of a.",
        _TWO,
        _hash_bucket,
    )
)

register(Function("year", "a.year()", "Year, UTC.", _ONE, _part(of_dates=True)))
register(Function("month", "a.month()", "Month 1 to 12, UTC.", _ONE, _part(of_dates=True)))
register(Function("day", "a.day()", "Day of the month 1 to 31, UTC.", _ONE, _part(of_dates=True)))
register(Function("day_of_week", "a.day_of_week()", "Monday 1 to Sunday 7, UTC.", _ONE, _part(of_dates=True)))
register(Function("hour", "a.hour()", "Hour 0 to 23, UTC.", _ONE, _part(of_dates=False)))
register(Function("minute", "a.minute()", "Minute 0 to 59, UTC.", _ONE, _part(of_dates=False)))
register(
    Function(
        "epoch_seconds",
        "a.epoch_seconds()",
        "Seconds since 1970 UTC, with fraction.",
        _ONE,
        _fixed(Float64, Timestamp),
    )
)
register(
    Function(
        "seconds_between",
        "seconds_between(a, b)",
        "Seconds from a to b.",
        _TWO,
        _fixed(Float64, Timestamp, Timestamp),
    )
)
register(Function("shift", "a + hours(1)", "A Timestamp some microseconds later.", _TWO, _shift))

for _name, _doc in (
    ("exp", "e to the power of a."),
    ("ln", "Natural logarithm; NULL unless a is above zero."),
    ("log10", "Decimal logarithm; NULL unless a is above zero."),
    ("sqrt", "Square root; NULL below zero."),
    ("sin", "Sine of radians."),
    ("cos", "Cosine of radians."),
    ("tanh", "Hyperbolic tangent."),
):
    register(Function(_name, f"{_name}(a)", _doc, _ONE, _to_double, row=False))
register(Function("pow", "pow(a, b)", "a to the power of b.", _TWO, _to_double, row=False))
register(
    Function("as_of", "as_of()", "The time the value is asked for.", (0, 0), _fixed(Timestamp), row=False)
)
