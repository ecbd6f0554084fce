"""The nodes of an expression: five frozen records, compared and hashed by structure, and walks over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from featurestore.types import DType

Value = int | float | bool | str
"""A physical value as in `docs/architecture.md`: a Timestamp is microseconds, a Decimal is unscaled."""


@dataclass(frozen=True, slots=True)
class Column:
    """The value of a column of the row at hand."""

    name: str


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant in its physical form. None is NULL; only NULL may have no type, as a branch of a `Case`."""

    value: Value | None
    dtype: DType | None


@dataclass(frozen=True, slots=True)
class Call:
    """A function of the registry `FUNCTIONS`, operators included: `a + b` is `Call("add", (a, b))`."""

    function: str
    args: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Cast:
    """`arg` as another type; NULL where the value has no place there."""

    arg: Expr
    dtype: DType


@dataclass(frozen=True, slots=True)
class Case:
    """The value beside the first condition that is true (NULL is not), else `otherwise`."""

    whens: tuple[tuple[Expr, Expr], ...]
    otherwise: Expr


Expr = Column | Literal | Call | Cast | Case


def children(node: Expr) -> tuple[Expr, ...]:
    """The nodes directly below: for a `Case` condition, value, condition, value, …, otherwise."""
    match node:
        case Column() | Literal():
            return ()
        case Call(_, args):
            return args
        case Cast(arg, _):
            return (arg,)
        case Case(whens, otherwise):
            return (*(part for when in whens for part in when), otherwise)
        case _:
            assert_never(node)


def columns_of(node: Expr) -> frozenset[str]:
    """The names of the columns that `node` reads."""
    if isinstance(node, Column):
        return frozenset({node.name})
    return frozenset[str]().union(*map(columns_of, children(node)))


def substitute(node: Expr, mapping: Mapping[str, Expr]) -> Expr:
    """`node` with each column that `mapping` names replaced by its expression; other columns stay.

    What is put in is not looked at again, so `{"x": Column("x") + 1}` is no loop.
    """
    match node:
        case Column(name):
            return mapping.get(name, node)
        case Literal():
            return node
        case Call(function, args):
            return Call(function, tuple(substitute(arg, mapping) for arg in args))
        case Cast(arg, dtype):
            return Cast(substitute(arg, mapping), dtype)
        case Case(whens, otherwise):
            pairs = tuple((substitute(c, mapping), substitute(v, mapping)) for c, v in whens)
            return Case(pairs, substitute(otherwise, mapping))
        case _:
            assert_never(node)
