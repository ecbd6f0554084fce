"""What one on-demand expression costs, against the bare NumPy operations in the same run.

    python benchmarks/expressions.py

A ratio with a guard, `when(n > 0).then(amount / mean).otherwise(1.0)`, for 1, 100 and 100,000 rows, 5 % of each column
NULL; beside it the same division and choice by hand, which knows no NULL and no overflow. Then single nodes, and the
functions that `elementary.py` computes beside NumPy's own, whose last bits differ between processors.
Each figure is the best of many runs: microseconds for the whole call.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
from _common import machine

from featurestore.evaluate.expressions import Columns, compile_expression
from featurestore.expr import as_of, col, exp, ln, pow, seconds_between, sin, tanh, when
from featurestore.types import DType, Float64, Int64, String, Timestamp

SCHEMA: dict[str, DType] = {
    "amount": Float64, "mean": Float64, "n": Int64, "m": Int64, "name": String, "at": Timestamp,
}  # fmt: skip
SIZES = (1, 100, 100_000)


def best(work: Callable[[], object], rows: int) -> float:
    """Microseconds."""
    times = []
    for _ in range(15 if rows > 10_000 else 300):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times) * 1e6


def columns_of(rows: int) -> Columns:
    random = np.random.default_rng(7)
    values = {
        "amount": random.uniform(0.5, 100, rows),
        "mean": random.uniform(0.5, 100, rows),
        "n": random.integers(0, 9, rows),
        "m": random.integers(1, 9, rows),
        "name": np.array([f"n{i}" for i in random.integers(0, 1000, rows)], object),
        "at": random.integers(0, 10**15, rows),
    }
    return {name: (column, random.random(rows) >= 0.05) for name, column in values.items()}


def bare(columns: Columns) -> object:
    amount, mean, n = (columns[name][0] for name in ("amount", "mean", "n"))
    return np.where(n > 0, amount / mean, 1.0)


def main() -> None:
    print(machine("numpy"))
    amount, mean, n = col("amount"), col("mean"), col("n")
    ratio = when(n > 0).then(amount / mean).otherwise(1.0)
    expressions = {
        "the ratio": ratio,
        "amount / mean": amount / mean,
        "n + m": n + col("m"),
        "n * m": n * col("m"),
        "n // m": n // col("m"),
        "amount > mean": amount > mean,
        "at.year()": col("at").year(),
        "seconds_between(at, as_of())": seconds_between(col("at"), as_of()),
        "name == 'n5'": col("name") == "n5",
        "name.upper()": col("name").upper(),
        "exp(amount)": exp(amount),
        "ln(amount)": ln(amount),
        "sin(amount)": sin(amount),
        "tanh(amount)": tanh(amount),
        "pow(amount, 1.7)": pow(amount, 1.7),
    }
    peers: dict[str, Callable[[Columns], object]] = {
        "the ratio": bare,
        "exp(amount)": lambda c: np.exp(c["amount"][0]),
        "ln(amount)": lambda c: np.log(c["amount"][0]),
        "sin(amount)": lambda c: np.sin(c["amount"][0]),
        "tanh(amount)": lambda c: np.tanh(c["amount"][0]),
        "pow(amount, 1.7)": lambda c: np.power(c["amount"][0], 1.7),
    }
    data = {rows: columns_of(rows) for rows in SIZES}
    print(f"{'µs for rows:':<32}" + "".join(f"{rows:>12,}" for rows in SIZES) + "     bare NumPy")
    for name, expression in expressions.items():
        program = compile_expression(expression.node, SCHEMA)
        ours = [best(partial(program.evaluate, data[rows], rows, 10**15), rows) for rows in SIZES]
        theirs = [best(partial(peers[name], data[rows]), rows) for rows in SIZES] if name in peers else []
        print(f"{name:<32}" + "".join(f"{t:12,.1f}" for t in ours) + "".join(f"{t:12,.1f}" for t in theirs))


if __name__ == "__main__":
    main()
