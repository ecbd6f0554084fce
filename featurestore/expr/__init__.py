"""The expression language: its `nodes`, how a user writes them (`build`), what fits (`functions`, `infer`).

How it is computed is elsewhere: `compile/sql.py` for the engines, `compile/rowwise.py` for the reference,
`evaluate/expressions.py` over NumPy columns.
`docs/expressions.md` lists every operator and function with its types, NULLs and overflow.
"""

from featurestore.expr.build import (
    Expression,
    Operand,
    as_expr,
    as_of,
    coalesce,
    col,
    column_or_expression,
    concat,
    cos,
    exp,
    greatest,
    hash_bucket,
    least,
    lit,
    ln,
    log10,
    pow,
    seconds_between,
    sin,
    sqrt,
    tanh,
    when,
)
from featurestore.expr.functions import FUNCTIONS, Function
from featurestore.expr.infer import ExprError, Typed, elaborate, infer
from featurestore.expr.nodes import Call, Case, Cast, Column, Expr, Literal, Value, columns_of, substitute
from featurestore.expr.text import describe, from_json, to_json

__all__ = [
    "FUNCTIONS",
    "Call",
    "Case",
    "Cast",
    "Column",
    "Expr",
    "ExprError",
    "Expression",
    "Function",
    "Literal",
    "Operand",
    "Typed",
    "Value",
    "as_expr",
    "as_of",
    "coalesce",
    "col",
    "column_or_expression",
    "columns_of",
    "concat",
    "cos",
    "describe",
    "elaborate",
    "exp",
    "from_json",
    "greatest",
    "hash_bucket",
    "infer",
    "least",
    "lit",
    "ln",
    "log10",
    "pow",
    "seconds_between",
    "sin",
    "sqrt",
    "substitute",
    "tanh",
    "to_json",
    "when",
]
