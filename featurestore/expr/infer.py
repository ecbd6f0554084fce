"""Types of expressions: every mistake at once, and the tree with its implicit casts made explicit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from featurestore.errors import FeatureStoreError, Problem, nearest
from featurestore.expr.casts import cast_problem
from featurestore.expr.functions import FUNCTIONS, Argument, Function, Mismatch, common_type
from featurestore.expr.literals import MAX_DIGITS
from featurestore.expr.nodes import Call, Case, Cast, Column, Expr, Literal
from featurestore.expr.text import describe
from featurestore.types import Bool, DecimalType, DType, Float64, is_integer


class ExprError(FeatureStoreError, ValueError):
    """An expression that means nothing: all that is wrong with it. A caller adds the line to each problem."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("\n\n".join(map(str, problems)))


@dataclass(frozen=True, slots=True)
class Typed:
    """A well-typed node. `args` are its children, already cast to the types the node wants.

    So a walk that computes needs no type rules: under a `Call("add")` of `Float64` all `args` are `Float64`.
    A `Case` has condition, value, condition, value, …, otherwise.
    """

    node: Expr
    dtype: DType
    args: tuple[Typed, ...] = ()


def infer(node: Expr, schema: Mapping[str, DType], *, on_demand: bool = False) -> DType:
    """The type of `node` over rows with these columns; `on_demand` admits the functions only these may use.

    Raises ExprError with all problems: unknown columns and functions, types that do not fit.
    """
    return elaborate(node, schema, on_demand=on_demand).dtype


def elaborate(node: Expr, schema: Mapping[str, DType], *, on_demand: bool = False) -> Typed:
    """The typed tree of `node`. Raises ExprError as `infer` does."""
    check = _Check(schema, on_demand, [])
    typed = check.visit(node)
    if typed is None or check.problems:
        raise ExprError(tuple(dict.fromkeys(check.problems)))
    return typed


@dataclass(frozen=True, slots=True)
class _Check:
    schema: Mapping[str, DType]
    on_demand: bool
    problems: list[Problem]

    def visit(self, node: Expr) -> Typed | None:
        """The typed node, or None after noting what is wrong in it."""
        match node:
            case Column(name):
                return self._column(node, name)
            case Literal(_, dtype):
                if dtype is None:
                    self._wrong("a NULL here has no type", "give it one: lit(None, Float64)")
                    return None
                return Typed(node, dtype)
            case Call(function, args):
                known = self._function(node, function)
                typed = [self.visit(arg) for arg in args]
                done = [arg for arg in typed if arg is not None]
                return self._call(node, known, done) if known and len(done) == len(typed) else None
            case Cast(arg, dtype):
                inner = self.visit(arg)
                return self._cast(node, inner, dtype) if inner else None
            case Case():
                return self._case(node)
            case _:
                assert_never(node)

    def _wrong(self, what: str, *help: str) -> None:
        self.problems.append(Problem(what, help=help))

    def _column(self, node: Column, name: str) -> Typed | None:
        dtype = self.schema.get(name)
        if dtype is None:
            self._wrong(f"unknown column '{name}'", *nearest(name, self.schema))
            return None
        if isinstance(dtype, DecimalType) and dtype.precision > MAX_DIGITS:
            self._wrong(
                f"column '{name}' is {dtype!r}: expressions keep {MAX_DIGITS} digits",
                f"declare the column as Decimal({MAX_DIGITS}, {min(dtype.scale, MAX_DIGITS)}) or Float64",
            )
            return None
        return Typed(node, dtype)

    def _function(self, node: Call, name: str) -> Function | None:
        function = FUNCTIONS.get(name)
        allowed = [f.name for f in FUNCTIONS.values() if f.row or self.on_demand]
        if function is None:
            self._wrong(f"unknown function '{name}'", *nearest(name, allowed))
            return None
        least, most = function.arity
        if len(node.args) < least or (most is not None and len(node.args) > most):
            wanted = (
                str(least) if least == most else f"at least {least}" if most is None else f"{least} to {most}"
            )
            self._wrong(f"{function.form} takes {wanted} arguments, not {len(node.args)}")
            return None
        if not function.row and not self.on_demand:
            self._wrong(
                f"{describe(node)}: {name} is for on-demand expressions only",
                "a row runs in several engines, and "
                + ("has no time it is asked for" if name == "as_of" else "their last bits of it differ"),
                "use it in an OnDemand over the features",
            )
            return None
        return function

    def _call(self, node: Call, function: Function, args: list[Typed]) -> Typed | None:
        try:
            signature = function.rule([Argument(arg.dtype, arg.node) for arg in args])
        except Mismatch as mismatch:
            self._wrong(
                f"{describe(node)}: {function.infix or function.name} {mismatch.what}", *mismatch.help
            )
            return None
        cast = tuple(coerce(arg, dtype) for arg, dtype in zip(args, signature.args, strict=True))
        return Typed(node, signature.result, cast)

    def _cast(self, node: Cast, arg: Typed, dtype: DType) -> Typed | None:
        if isinstance(dtype, DecimalType) and dtype.precision > MAX_DIGITS:
            self._wrong(f"{describe(node)}: a Decimal in an expression has at most {MAX_DIGITS} digits")
            return None
        problem = cast_problem(arg.dtype, dtype)
        if problem:
            what, help = problem
            self._wrong(f"{describe(node)}: {what}", help)
            return None
        return arg if arg.dtype == dtype else Typed(node, dtype, (arg,))

    def _case(self, node: Case) -> Typed | None:
        conditions = [self._condition(condition) for condition, _ in node.whens]
        branches = [*(value for _, value in node.whens), node.otherwise]
        untyped = [isinstance(branch, Literal) and branch.dtype is None for branch in branches]
        values = [
            None if null else self.visit(branch) for branch, null in zip(branches, untyped, strict=True)
        ]
        if not node.whens:
            self._wrong(
                f"{describe(node)}: needs at least one condition", "write when(…).then(…).otherwise(…)"
            )
            return None
        if all(untyped):
            self._wrong(
                f"{describe(node)}: is NULL in every case, of no type", "give one: lit(None, Float64)"
            )
            return None
        found = [value for value in values if value is not None]
        checked = [condition for condition in conditions if condition is not None]
        if len(found) + sum(untyped) < len(values) or len(checked) < len(conditions):
            return None
        try:
            common = common_type([Argument(value.dtype, value.node) for value in found])
        except Mismatch as mismatch:
            self._wrong(f"{describe(node)}: {mismatch.what}", *mismatch.help)
            return None
        filled = [coerce(v, common) if v else Typed(Literal(None, common), common) for v in values]
        pairs = [part for pair in zip(checked, filled, strict=False) for part in pair]
        return Typed(node, common, (*pairs, filled[-1]))

    def _condition(self, node: Expr) -> Typed | None:
        typed = self.visit(node)
        if typed is not None and typed.dtype != Bool:
            self._wrong(
                f"{describe(node)}: a condition is Bool, not {typed.dtype!r}",
                "compare it with something, as in x > 0",
            )
            return None
        return typed


def coerce(typed: Typed, dtype: DType) -> Typed:
    """`typed` as `dtype`: itself, a constant rewritten, or with a cast around it."""
    if typed.dtype == dtype:
        return typed
    match typed.node:
        case Literal(int() as value) if is_integer(typed.dtype) and dtype == Float64:
            return Typed(Literal(float(value), Float64), Float64)
        case Literal(int() as value) if is_integer(typed.dtype) and isinstance(dtype, DecimalType):
            unscaled = value * 10**dtype.scale
            kept = unscaled if abs(unscaled) < 10**dtype.precision else None
            return Typed(Literal(kept, dtype), dtype)
        case _:
            return Typed(Cast(typed.node, dtype), dtype, (typed,))
