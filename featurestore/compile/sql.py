"""Expressions as SQL: one walk for every dialect, and the two doors through which text enters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import assert_never

from featurestore.compile import rowwise
from featurestore.errors import Unsupported
from featurestore.expr import (
    Call,
    Case,
    Cast,
    Column,
    Expr,
    Literal,
    Typed,
    Value,
    columns_of,
    describe,
    elaborate,
)
from featurestore.types import DType


@dataclass(frozen=True, slots=True)
class Site:
    """One node about to be said: its arguments in SQL, in the types they have there, and the type wanted."""

    node: Expr
    args: tuple[str, ...]
    types: tuple[DType, ...]
    result: DType

    def constant(self, index: int) -> int:
        """The value of an argument that the function's type rule holds to be an integer constant."""
        assert isinstance(self.node, Call)
        literal = self.node.args[index]
        assert isinstance(literal, Literal)
        assert isinstance(literal.value, int)
        return literal.value


Leaf = Callable[[Site], str]


@dataclass(frozen=True, slots=True)
class Dialect:
    """Where an engine's SQL differs. A leaf that cannot say something raises Unsupported; none guesses.

    A leaf returns one SQL expression in parentheses or call form, safe to stand anywhere. For clean arguments
    (see `clean_sql`) it never raises at run time, and its result is clean. A value of each type has the SQL
    type that `type_name` gives; a Timestamp there has no zone and is UTC.
    """

    name: str
    quote: str
    type_name: Callable[[DType], str]
    literal: Callable[[Value, DType], str]
    functions: Mapping[str, Leaf]
    cast: Leaf
    clean: Callable[[str, DType], str]
    folded: frozenset[DType] = frozenset()
    """Types of which constant expressions are computed here, since the engine would compute them otherwise than those of rows."""


def ident(name: str, dialect: Dialect) -> str:
    """A name as a quoted identifier. Raises Unsupported for a name with a NUL character, or none at all."""
    if not name or "\0" in name:
        raise Unsupported(
            f"{dialect.name} SQL", f"name a thing {name!r}", "at least one character, none of them NUL"
        )
    quote = dialect.quote
    return f"{quote}{name.replace(quote, quote * 2)}{quote}"


def literal(value: Value | None, dtype: DType, dialect: Dialect) -> str:
    """A constant, physical value and type, as SQL of exactly that type; None is a typed NULL."""
    if value is None:
        return f"CAST(NULL AS {dialect.type_name(dtype)})"
    if isinstance(value, str) and "\0" in value:
        raise Unsupported(f"{dialect.name} SQL", f"write the text {value!r}", "text without NUL characters")
    return dialect.literal(value, dtype)


def quoted(text: str) -> str:
    """A text constant between single quotes; for leaves, whose `literal` begins here."""
    return "'" + text.replace("'", "''") + "'"


def expr_sql(node: Expr, schema: Mapping[str, DType], dialect: Dialect) -> str:
    """`node` over rows with these columns, as one SQL expression of the type that `infer` gives.

    The columns must be clean (`clean_sql`). Raises ExprError when it is not well typed, Unsupported when the
    dialect has no leaf.
    """
    return _say(elaborate(node, schema), dialect)


def clean_sql(sql: str, dtype: DType, dialect: Dialect) -> str:
    """A raw column of a source as expressions want it.

    NaN, infinities, and times outside the years 1 to 9999 become NULL, −0 becomes 0. `sql` may stand twice in
    the result.
    """
    return dialect.clean(sql, dtype)


def _say(typed: Typed, dialect: Dialect) -> str:
    if typed.dtype in dialect.folded and not columns_of(typed.node):
        return literal(rowwise.constant(typed), typed.dtype, dialect)
    match typed.node:
        case Column(name):
            return ident(name, dialect)
        case Literal(value, _):
            return literal(value, typed.dtype, dialect)
        case Cast():
            return dialect.cast(_site(typed, dialect))
        case Case():
            parts = _site(typed, dialect).args
            whens = zip(parts[:-1:2], parts[1::2], strict=True)
            said = " ".join(f"WHEN {condition} THEN {value}" for condition, value in whens)
            return f"(CASE {said} ELSE {parts[-1]} END)"
        case Call(function, _):
            leaf = dialect.functions.get(function)
            if leaf is None:
                have = ", ".join(sorted(dialect.functions))
                raise Unsupported(f"{dialect.name} SQL", f"say {describe(typed.node)}: no {function}", have)
            return leaf(_site(typed, dialect))
        case _:
            assert_never(typed.node)


def _site(typed: Typed, dialect: Dialect) -> Site:
    args = tuple(_say(arg, dialect) for arg in typed.args)
    return Site(typed.node, args, tuple(arg.dtype for arg in typed.args), typed.dtype)
