"""A million rows by twenty columns, fifteen expectations: DuckDB in one pass, and Great Expectations on pandas.

python benchmarks/validation.py [--rows 1000000] [--rounds 5]

Both judge the same rows, which lie in memory: an Arrow table for the one, a pandas frame made beforehand for the other. Both
give the same verdicts, or the benchmark fails. Times are processor time and wall time, the best of rounds in turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _common import machine, verdict

from featurestore import expect
from featurestore.compile.sources import connect
from featurestore.statistics import Statistics
from featurestore.time import moment
from featurestore.types import Float64
from featurestore.validation import gx, on_statistics, pushed_down
from featurestore.validation.rows import rows_of_table

EXPECTATIONS = [
    expect.schema(closed=False, columns={"f1": Float64}),
    expect.row_count(1),
    expect.not_null("f0", mostly=0.95),
    expect.not_null("uid"),
    expect.of_type("f1", Float64),
    expect.matches("zip", r"^\d{5}$"),
    expect.in_set("cat", ["red", "green", "blue", "black"]),
    expect.min_between("f2", -40, 0),
    expect.max_between("f2", 0, 40),
    expect.median_between("f4", 3.5, 4.5),
    expect.mean_between("f5", 4.5, 5.5),
    expect.std_between("f6", 0.5, 4.0),
    expect.quantile_between("f7", 0.95, 7, 11),
    expect.greater("a", "b"),
    expect.unique("uid"),
]


def table(rows: int) -> pa.Table:
    """Ten columns of floats, one with NULLs; four of integers; a pair, a category, a code, an id, a time."""
    rng = np.random.default_rng(7)
    columns: dict[str, Any] = {f"f{i}": rng.normal(i, 1 + i / 10, rows) for i in range(10)}
    columns["f0"] = pa.array(columns["f0"], mask=rng.random(rows) < 0.02)
    columns |= {f"i{i}": rng.integers(0, 10 ** (i + 2), rows) for i in range(4)}
    columns["b"] = rng.random(rows)
    columns["a"] = columns["b"] + 0.5
    columns["cat"] = pa.array(np.array(["red", "green", "blue", "black"])[rng.integers(0, 4, rows)])
    columns["zip"] = pa.array(np.char.zfill(rng.integers(0, 100_000, rows).astype("U5"), 5))
    columns["uid"] = rng.permutation(rows)
    columns["ts"] = pa.array(rng.integers(0, 10**15, rows), pa.timestamp("us"))
    return pa.table(columns)


def best(
    rounds: int, works: dict[str, Callable[[], Any]]
) -> tuple[dict[str, tuple[float, float]], dict[str, Any]]:
    """Processor seconds and wall seconds of the best round of each, taken in turns, and what came of the last."""
    found: dict[str, tuple[float, float]] = {}
    results: dict[str, Any] = {}
    for _ in range(rounds):
        for name, work in works.items():
            wall, cpu = time.perf_counter(), time.process_time()
            results[name] = work()
            took = time.process_time() - cpu, time.perf_counter() - wall
            found[name] = tuple(map(min, took, found.get(name, took)))  # type: ignore[assignment]
    return found, results


def main() -> None:
    """Prints a line for each engine, and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    print(machine("duckdb", "great_expectations", "pandas"))
    rows, now = table(asked.rows), moment("2026-01-01")
    print(f"{rows.num_rows:,} rows x {rows.num_columns} columns, {len(EXPECTATIONS)} expectations")
    con = connect()
    relation = rows_of_table(con, rows, Path())
    # The library alone: the frame is made beforehand, and its context and suite count, as they do for whoever runs it.
    batch = gx._Batch(relation, dict(enumerate(EXPECTATIONS)), now)  # noqa: SLF001  the parts that are timed
    frame = batch._frame({})  # noqa: SLF001

    def library() -> Any:
        made = {i: batch._made(i, one) for i, one in enumerate(EXPECTATIONS)}  # noqa: SLF001
        return gx._checked(frame, made)  # noqa: SLF001

    library()  # once, to import and warm up
    kept = Statistics(relation.types)
    kept.update(rows)
    duck, alone, made, quick = (
        "DuckDB, over the Arrow table",
        "Great Expectations, frame made beforehand",
        "Great Expectations, frame made each time",
        "kept statistics, no row read",
    )
    times, results = best(
        asked.rounds,
        {
            duck: lambda: pushed_down.judge(relation, EXPECTATIONS, now),
            alone: library,
            made: lambda: gx.judge(relation, EXPECTATIONS, now),
            quick: lambda: on_statistics.judge(kept, EXPECTATIONS, now),
        },
    )
    print(f"{'engine':44} {'cpu s':>8} {'wall s':>8} {'x DuckDB cpu':>13} {'wall':>6}")
    for name, (cpu, wall) in times.items():
        print(f"{name:44} {cpu:8.3f} {wall:8.3f} {cpu / times[duck][0]:13.2f} {wall / times[duck][1]:6.2f}")
    verdict(
        "frame made beforehand, processor time", times[alone][0] / times[duck][0], 5, 20, more_is_better=True
    )
    verdict("frame made beforehand, clock", times[alone][1] / times[duck][1], 5, 20, more_is_better=True)
    by_sql, by_gx = results[duck], results[made][0]
    assert [v.outcome for v in by_sql] == [v.outcome for v in by_gx], [
        (a.expectation.name, a.outcome, b.outcome, b.why) for a, b in zip(by_sql, by_gx, strict=True)
    ]
    told = sum(v.outcome != "not_evaluated" for v in results[quick])
    print(f"same verdicts of both: {len(by_sql)}; kept statistics tell {told} of them")


if __name__ == "__main__":
    main()
