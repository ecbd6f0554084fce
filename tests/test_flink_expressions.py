"""The expression language in Flink: what plain Python gives, to the bit.

`python -m tests.test_flink_expressions 5000 SEED` compares about so many random expressions, by hand.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featurestore.compile.flink import FLINK
from featurestore.compile.sql import clean_sql, expr_sql, ident
from featurestore.expr import Column, Expr, columns_of, describe, infer, substitute
from featurestore.types import Bool, DType, Float32, Float64, Int64
from tests.flink_cluster import Flink, FlinkError, functions
from tests.random_cells import random_expressions, random_rows
from tests.test_expressions import CASES, SCHEMA, bits, in_python

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


PACKED = 100
"""So many expressions are columns of one query: planning it costs more than running it."""


@dataclass
class Compared:
    """Values of random expressions: how many were compared, and what of it differs or does not even plan."""

    expressions: int = 0
    cells: int = 0
    wrong: list[str] = field(default_factory=list)


def compare(flink: Flink, nodes: Sequence[Expr], rows: Sequence[Mapping[str, Any]], told: Compared) -> None:
    """Asks Flink and Python for every expression over every row. Of a query that fails the halves are asked."""
    try:
        found = in_flink(flink, nodes, SCHEMA, rows)
    except FlinkError as error:
        if len(nodes) == 1:
            told.expressions += 1
            told.wrong.append(f"{describe(nodes[0])} fails\n  {str(error)[-2000:]}\n  {nodes[0]!r}")
            return
        half = len(nodes) // 2
        compare(flink, nodes[:half], rows, told)
        compare(flink, nodes[half:], rows, told)
        return
    for node, got in zip(nodes, found, strict=True):
        told.expressions += 1
        told.cells += len(got)
        for row, one, other in zip(rows, bits(got), bits(in_python(node, SCHEMA, rows)), strict=True):
            if one != other:
                used = {name: row[name] for name in sorted(columns_of(node))}
                told.wrong.append(f"{describe(node)} of {used} is {one} in Flink, not {other}\n  {node!r}")
                break


def compare_random(flink: Flink, number: int, seed: int) -> Compared:
    """So many random expressions over 40 random rows."""
    told = Compared()
    nodes, rows = random_expressions(number, seed), random_rows(40, seed)
    for start in range(0, len(nodes), PACKED):
        compare(flink, nodes[start : start + PACKED], rows, told)
        if sys.stderr.isatty() or __name__ == "__main__":
            sys.stderr.write(f"seed {seed}: {told.expressions:,} expressions, {len(told.wrong)} wrong\n")
    return told


def test_random_expressions_agree_to_the_bit(flink: Flink) -> None:
    told = compare_random(flink, 400, seed=1)
    assert told.wrong == []
    assert told.expressions > 200


def main() -> None:
    number, seed = (int(word) for word in [*sys.argv[1:], "0"][:2])
    with tempfile.TemporaryDirectory(prefix="fs-random-") as folder, Flink(Path(folder)) as flink:
        told = compare_random(flink, number, seed)
    said = f"{told.expressions:,} expressions, {told.cells:,} values compared to the bit, {len(told.wrong)} wrong; seed {seed}"
    sys.stdout.write("\n".join([*told.wrong, said, ""]))
    sys.exit(1 if told.wrong else 0)


if __name__ == "__main__":
    main()
