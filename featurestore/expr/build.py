"""What a user writes: `col("amount") * 2 > lit(5)`, `when(…).then(…).otherwise(…)`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn

from featurestore.expr.literals import literal_of
from featurestore.expr.nodes import Call, Case, Cast, Column, Expr
from featurestore.expr.text import describe
from featurestore.time import Duration
from featurestore.types import DType


class Expression:
    """An expression under construction. It has no type until it meets the columns of a source.

    In an operator or argument a plain Python value is a constant, text included: `col("a") == "b"` compares
    column a with the text b. `==` builds an expression; to compare two expressions, compare their `.node`.
    """

    __slots__ = ("node",)
    __hash__ = None  # type: ignore[assignment]  # == builds an expression, so no dict could find one again

    def __init__(self, node: Expr) -> None:
        self.node = node

    def __repr__(self) -> str:
        return f"<{describe(self.node)}>"

    def __bool__(self) -> NoReturn:
        raise TypeError(
            f"{describe(self.node)} has no truth until it meets a row: use & | ~ instead of and, or, not, "
            "in parentheses: (a > 0) & (b > 0); and .between(low, high) instead of low <= a <= high"
        )

    def __iter__(self) -> NoReturn:
        raise TypeError(f"{describe(self.node)} is one expression, not several")

    def __contains__(self, item: object) -> NoReturn:
        raise TypeError("use .is_in([…]) or .contains(…) instead of in")

    # ── operators ──

    def __add__(self, other: object) -> Expression:
        if isinstance(other, Duration):
            return self._call("shift", other.microseconds)
        return self._call("add", other)

    def __radd__(self, other: object) -> Expression:
        if isinstance(other, Duration):
            return self + other
        return as_expr(other)._call("add", self)

    def __sub__(self, other: object) -> Expression:
        if isinstance(other, Duration):
            return self._call("shift", -other.microseconds)
        return self._call("sub", other)

    def __rsub__(self, other: object) -> Expression:
        return as_expr(other)._call("sub", self)

    def __mul__(self, other: object) -> Expression:
        return self._call("mul", other)

    def __rmul__(self, other: object) -> Expression:
        return as_expr(other)._call("mul", self)

    def __truediv__(self, other: object) -> Expression:
        """Always Float64; NULL when the divisor is zero."""
        return self._call("div", other)

    def __rtruediv__(self, other: object) -> Expression:
        return as_expr(other)._call("div", self)

    def __floordiv__(self, other: object) -> Expression:
        """Integers only, rounded down; NULL when the divisor is zero."""
        return self._call("floordiv", other)

    def __rfloordiv__(self, other: object) -> Expression:
        return as_expr(other)._call("floordiv", self)

    def __mod__(self, other: object) -> Expression:
        """Integers only, with the sign of the divisor; NULL when the divisor is zero."""
        return self._call("mod", other)

    def __rmod__(self, other: object) -> Expression:
        return as_expr(other)._call("mod", self)

    def __neg__(self) -> Expression:
        return self._call("neg")

    def __eq__(self, other: object) -> Expression:  # type: ignore[override]
        return self._call("eq", other)

    def __ne__(self, other: object) -> Expression:  # type: ignore[override]
        return self._call("ne", other)

    def __lt__(self, other: object) -> Expression:
        return self._call("lt", other)

    def __le__(self, other: object) -> Expression:
        return self._call("le", other)

    def __gt__(self, other: object) -> Expression:
        return self._call("gt", other)

    def __ge__(self, other: object) -> Expression:
        return self._call("ge", other)

    def __and__(self, other: object) -> Expression:
        return self._call("and", other)

    def __rand__(self, other: object) -> Expression:
        return as_expr(other)._call("and", self)

    def __or__(self, other: object) -> Expression:
        return self._call("or", other)

    def __ror__(self, other: object) -> Expression:
        return as_expr(other)._call("or", self)

    def __invert__(self) -> Expression:
        return self._call("not")

    # ── NULL, membership, types ──

    def is_null(self) -> Expression:
        """Whether it is NULL; never NULL itself."""
        return self._call("is_null")

    def is_not_null(self) -> Expression:
        """Whether it is not NULL; never NULL itself."""
        return self._call("is_not_null")

    def fill_null(self, value: object) -> Expression:
        """`value` where this is NULL."""
        return self._call("coalesce", value)

    def is_in(self, values: Iterable[object]) -> Expression:
        """Whether it equals one of the constants; NULL stays NULL. No constants at all: False, or NULL."""
        items = list(values)
        return self._call("is_in", *items) if items else self._call("ne", self)

    def between(self, low: object, high: object) -> Expression:
        """`low <= this <= high`, both ends included."""
        return (self >= low) & (self <= high)

    def cast(self, dtype: DType) -> Expression:
        """As another type; NULL where the value has no place there. `docs/expressions.md` lists the casts."""
        return Expression(Cast(self.node, dtype))

    # ── numbers ──

    def abs(self) -> Expression:
        """Without its sign."""
        return self._call("abs")

    def round(self, digits: int = 0) -> Expression:
        """Rounded to `digits` (0 to 9) after the point, half away from zero."""
        return self._call("round", digits)

    def floor(self) -> Expression:
        """The greatest whole number not above; a float stays a float."""
        return self._call("floor")

    def ceil(self) -> Expression:
        """The least whole number not below; a float stays a float."""
        return self._call("ceil")

    # ── text ──

    def lower(self) -> Expression:
        """Letters A to Z as a to z; no other letter changes."""
        return self._call("lower")

    def upper(self) -> Expression:
        """Letters a to z as A to Z; no other letter changes."""
        return self._call("upper")

    def length(self) -> Expression:
        """The number of code points."""
        return self._call("length")

    def substring(self, start: int, n: int) -> Expression:
        """Code points `[start, start + n)`, from 0 as in a slice; what is not there is left out."""
        return self._call("substring", start, n)

    def starts_with(self, text: object) -> Expression:
        """Whether it begins with `text`; the empty text begins everything."""
        return self._call("starts_with", text)

    def ends_with(self, text: object) -> Expression:
        """Whether it ends with `text`."""
        return self._call("ends_with", text)

    def contains(self, text: object) -> Expression:
        """Whether `text` occurs in it, letter by letter (no pattern)."""
        return self._call("contains", text)

    def concat(self, *others: object) -> Expression:
        """This text and the others, one after another; NULL if any is NULL."""
        return self._call("concat", *others)

    # ── time, always UTC ──

    def year(self) -> Expression:
        """The year of a Timestamp or Date."""
        return self._call("year")

    def month(self) -> Expression:
        """1 to 12, of a Timestamp or Date."""
        return self._call("month")

    def day(self) -> Expression:
        """1 to 31, of a Timestamp or Date."""
        return self._call("day")

    def hour(self) -> Expression:
        """0 to 23, of a Timestamp."""
        return self._call("hour")

    def minute(self) -> Expression:
        """0 to 59, of a Timestamp."""
        return self._call("minute")

    def day_of_week(self) -> Expression:
        """Monday 1 to Sunday 7, of a Timestamp or Date."""
        return self._call("day_of_week")

    def epoch_seconds(self) -> Expression:
        """Seconds since 1970 of a Timestamp, Float64 with the fraction."""
        return self._call("epoch_seconds")

    def _call(self, function: str, *others: object) -> Expression:
        return Expression(Call(function, (self.node, *(as_expr(other).node for other in others))))


def as_expr(value: object) -> Expression:
    """An expression as it is; any other value as a constant. Text is a constant too, not a column name.

    Raises TypeError or ValueError for what cannot be a constant.
    """
    if isinstance(value, Expression):
        return value
    if isinstance(value, When | Then):
        raise TypeError(
            "a when(…).then(…) is not finished: end it with .otherwise(value), or .otherwise(None)"
        )
    if isinstance(value, Operand):
        return value.expression
    return Expression(literal_of(value))


class Operand:
    """What is no expression, and stands for one beside an operator: an aggregate in the value of a label."""

    __slots__ = ()

    @property
    def expression(self) -> Expression:
        """The expression that it stands for."""
        raise NotImplementedError

    def __add__(self, other: object) -> Expression:
        return self.expression + other

    def __radd__(self, other: object) -> Expression:
        return as_expr(other) + self.expression

    def __sub__(self, other: object) -> Expression:
        return self.expression - other

    def __rsub__(self, other: object) -> Expression:
        return as_expr(other) - self.expression

    def __mul__(self, other: object) -> Expression:
        return self.expression * other

    def __rmul__(self, other: object) -> Expression:
        return as_expr(other) * self.expression

    def __truediv__(self, other: object) -> Expression:
        return self.expression / other

    def __rtruediv__(self, other: object) -> Expression:
        return as_expr(other) / self.expression

    def __neg__(self) -> Expression:
        return -self.expression

    def __lt__(self, other: object) -> Expression:
        return self.expression < other

    def __le__(self, other: object) -> Expression:
        return self.expression <= other

    def __gt__(self, other: object) -> Expression:
        return self.expression > other

    def __ge__(self, other: object) -> Expression:
        return self.expression >= other

    def __and__(self, other: object) -> Expression:
        return self.expression & other

    def __or__(self, other: object) -> Expression:
        return self.expression | other

    def __invert__(self) -> Expression:
        return ~self.expression

    def is_null(self) -> Expression:
        """Whether it is NULL; never NULL itself."""
        return self.expression.is_null()

    def is_not_null(self) -> Expression:
        """Whether it is not NULL; never NULL itself."""
        return self.expression.is_not_null()

    def fill_null(self, value: object) -> Expression:
        """`value` where this is NULL."""
        return self.expression.fill_null(value)


def column_or_expression(value: object) -> Expression:
    """The input of an aggregate: text names a column; anything else is as in `as_expr`."""
    return col(value) if isinstance(value, str) else as_expr(value)


def col(name: str) -> Expression:
    """The column of that name."""
    if not isinstance(name, str):
        raise TypeError(f"a column is named by text, not by {name!r}: for a constant write lit({name!r})")
    return Expression(Column(name))


def lit(value: object, dtype: DType | None = None) -> Expression:
    """A constant; `dtype` where the natural one is not meant: `lit(0, Decimal(12, 2))`, `lit(None, Float64)`.

    Raises TypeError or ValueError for what is no constant, or not exactly one of `dtype`.
    """
    return Expression(literal_of(value, dtype))


@dataclass(frozen=True, slots=True)
class When:
    """A condition that waits for `.then(value)`."""

    done: tuple[tuple[Expr, Expr], ...]
    condition: Expr

    def then(self, value: object) -> Then:
        """The value where the condition is true."""
        return Then((*self.done, (self.condition, as_expr(value).node)))


@dataclass(frozen=True, slots=True)
class Then:
    """Conditions with their values, that wait for another `.when(…)` or for `.otherwise(…)`."""

    done: tuple[tuple[Expr, Expr], ...]

    def when(self, condition: Expression) -> When:
        """One more condition, asked where none before was true."""
        return When(self.done, as_expr(condition).node)

    def otherwise(self, value: object) -> Expression:
        """The value where no condition was true (NULL is not true); None is NULL."""
        return Expression(Case(self.done, as_expr(value).node))


def when(condition: Expression) -> When:
    """`when(col("x") > 0).then("gain").otherwise("loss")`."""
    return When((), as_expr(condition).node)


def coalesce(*values: object) -> Expression:
    """The first that is not NULL."""
    return _call("coalesce", values)


def least(*values: object) -> Expression:
    """The least; NULLs are skipped, all NULL is NULL."""
    return _call("least", values)


def greatest(*values: object) -> Expression:
    """The greatest; NULLs are skipped, all NULL is NULL."""
    return _call("greatest", values)


def concat(*values: object) -> Expression:
    """Texts, one after another; NULL if any is NULL."""
    return _call("concat", values)


def hash_bucket(value: object, n: int) -> Expression:
    """A bucket from 0 to `n` − 1 for a String or an integer, the same in every engine and forever.

    The first 15 hexadecimal digits of the MD5 of its UTF-8 text (an integer in decimal), modulo `n`.
    """
    if isinstance(value, str):
        raise TypeError(f"the bucket of the text {value!r} is the same in every row: write col({value!r})")
    return _call("hash_bucket", (value, n))


def seconds_between(start: object, end: object) -> Expression:
    """Seconds from `start` to `end`, Float64 with the fraction, negative when `end` is earlier."""
    return _call("seconds_between", (start, end))


def _call(function: str, values: tuple[object, ...]) -> Expression:
    return Expression(Call(function, tuple(as_expr(value).node for value in values)))


def exp(value: object) -> Expression:
    """The exponential, e to the power of `value`. On-demand expressions only."""
    return _call("exp", (value,))


def ln(value: object) -> Expression:
    """The natural logarithm; NULL unless above zero. On-demand expressions only."""
    return _call("ln", (value,))


def log10(value: object) -> Expression:
    """The decimal logarithm; NULL unless above zero. On-demand expressions only."""
    return _call("log10", (value,))


def sqrt(value: object) -> Expression:
    """The square root; NULL below zero. On-demand expressions only."""
    return _call("sqrt", (value,))


def pow(base: object, exponent: object) -> Expression:
    """`base` to the power of `exponent`. On-demand expressions only."""
    return _call("pow", (base, exponent))


def sin(value: object) -> Expression:
    """The sine of radians. On-demand expressions only."""
    return _call("sin", (value,))


def cos(value: object) -> Expression:
    """The cosine of radians. On-demand expressions only."""
    return _call("cos", (value,))


def tanh(value: object) -> Expression:
    """The hyperbolic tangent. On-demand expressions only."""
    return _call("tanh", (value,))


def as_of() -> Expression:
    """The time the value is asked for. On-demand expressions only."""
    return Expression(Call("as_of", ()))
