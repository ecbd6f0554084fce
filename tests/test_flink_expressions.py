"""The expression language in Flink: what plain Python gives, to the bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from featurestore.compile.flink import FLINK
from featurestore.compile.sql import clean_sql, expr_sql, ident
from featurestore.expr import Column, Expr, ExprError, infer, substitute
from featurestore.types import Bool, DType, Float32, Float64, Int64
from tests.flink_cluster import Flink, functions
from tests.test_expressions import CASES, KINDS, ROWS, SCHEMA, bits, expressions, in_python

GENERATE = (
    Phase.explicit,
    Phase.reuse,
    Phase.generate,
)  # each example is a job: shrinking would take many minutes
pytestmark = [pytest.mark.flink, pytest.mark.slow]


def in_flink(
    flink: Flink, nodes: Sequence[Expr], schema: Mapping[str, DType], rows: Sequence[Mapping[str, Any]]
) -> list[list[Any]]:
    """The values of each node in each raw row, cleaned on the way in: all nodes are columns of one query."""
    table = flink.table(
        "rows", {"row number": Int64, **schema}, [{"row number": i, **r} for i, r in enumerate(rows)]
    )
    cleaned = ", ".join(
        f"{clean_sql(ident(name, FLINK), dtype, FLINK)} AS {ident(name, FLINK)}"
        for name, dtype in schema.items()
    )
    values = ", ".join(f"{expr_sql(node, schema, FLINK)} AS v{i}" for i, node in enumerate(nodes))
    query = f"SELECT `row number`, {values} FROM (SELECT `row number`, {cleaned} FROM `rows`)"
    (found,) = flink.run([(query, 0)], [*functions(), table])
    found.sort(key=lambda row: row["row number"])
    return [[_typed(row[f"v{i}"], infer(node, schema)) for row in found] for i, node in enumerate(nodes)]


def _typed(value: Any, dtype: DType) -> Any:
    """A truth must be one. A 32-bit float is written in as many digits as tell it from others of 32 bits."""
    if value is None:
        return None
    assert isinstance(value, bool) == (dtype == Bool)
    if dtype == Float32:
        return float(np.float32(value))
    return float(value) if dtype == Float64 else value


def test_every_sentence_holds_in_flink(flink: Flink) -> None:
    schema: dict[str, DType] = {}
    row: dict[str, Any] = {}
    nodes = []
    for i, case in enumerate(CASES):
        names = {name: f"{name} {i}" for name, _, _ in case.columns}
        schema |= {names[name]: dtype for name, dtype, _ in case.columns}
        row |= {names[name]: value for name, _, value in case.columns}
        nodes.append(substitute(case.expression.node, {old: Column(new) for old, new in names.items()}))
    found = [values[0] for values in in_flink(flink, nodes, schema, [row])]
    wrong = [
        f"{case.name}: {got!r}, not {case.want!r}"
        for case, got in zip(CASES, found, strict=True)
        if bits([got]) != bits([case.want])
    ]
    assert not wrong, "\n".join(wrong)


def _typed_right(node: Expr) -> bool:
    try:
        infer(node, SCHEMA)
    except ExprError:
        return False
    return True


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), phases=GENERATE)
@given(st.data())
def test_random_expressions_agree_to_the_bit(flink: Flink, data: st.DataObject) -> None:
    kind = st.sampled_from(KINDS).flatmap(lambda kind: expressions(kind, 3))
    drawn = data.draw(st.lists(kind, min_size=50, max_size=50))
    nodes = [e.node for e in drawn if _typed_right(e.node)]
    rows = [row for _ in range(8) for row in data.draw(ROWS)]
    found = in_flink(flink, nodes, SCHEMA, rows)
    for node, got in zip(nodes, found, strict=True):
        assert bits(got) == bits(in_python(node, SCHEMA, rows)), node
