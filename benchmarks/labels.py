"""The label join: rows as they were captured, each with what happened in the hours after, against a plain DuckDB range join.

    python benchmarks/labels.py [--quick] [--memory 4GB] [--repeat N]

10 million rows and 10 million events of a million entities over 90 days (`--quick`: a tenth of all). The peer joins on the
entity with the range as a condition, and groups by row; with the hour of both in the join too, so that a row meets the events
near it alone. The faster of the two counts. Every contender reads Parquet, gives the same labels, which is checked first, and
ends with an Arrow table, in a process of its own, under the same `--memory`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _common import machine, measure, race, ratios, verdict
from _data import DAYS, START, folder

import featurestore.declare as fs
from featurestore import ir
from featurestore.compile.sources import connect
from featurestore.labels import Labelling, labelled, told
from featurestore.lower import lower
from featurestore.spine import spine_batches, times_of
from featurestore.time import DAY, HOUR, MINUTE, Duration, hours, minutes
from featurestore.training import SLICE_BYTES
from featurestore.types import Float64, Int64, Timestamp

GAP, HORIZON = 5 * MINUTE, 12 * HOUR
COLUMNS = {"entity_id": Int64, "happened_at": Timestamp, "amount": Float64}
AS_OF = START * 1_000_000 + 100 * DAY
VALUES = {"happened": fs.count() > 0, "spent": fs.sum("amount")}


def data(rows: int) -> tuple[Path, Path]:
    """The Parquet files of the rows and of the events, made if they are not there yet."""
    found = []
    for kind, seed in (("captured", 41), ("outcomes", 42)):
        path = folder() / f"{kind}_{rows}.parquet"
        found.append(path)
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(seed)
        at = np.sort(START * 1_000_000 + random.integers(0, DAYS * DAY, rows))
        columns: dict[str, Any] = {"entity_id": random.integers(0, rows // 10, rows)}
        name = "ts" if kind == "captured" else "happened_at"
        columns[name] = pa.array(at, pa.timestamp("us"))
        if kind == "captured":
            columns = {"row": np.arange(rows), **columns}
        else:
            columns["amount"] = np.round(random.lognormal(3, 1.2, rows), 2)
        pq.write_table(pa.table(columns), path.with_suffix(".tmp"), compression="zstd")
        path.with_suffix(".tmp").rename(path)
    return found[0], found[1]


def label(value: str, events: Path) -> ir.Label:
    source = fs.BatchSource("outcomes", fs.Parquet(str(events)), "happened_at", COLUMNS)
    entity = fs.Entity("entity", key="entity_id")
    lengths: dict[str, Duration] = {"gap": minutes(GAP // MINUTE), "horizon": hours(HORIZON // HOUR)}
    made = fs.Label("label", source, entity, VALUES[value], **lengths)
    (found,) = lower(fs.declarations_in([made]), lambda _: COLUMNS).labels
    return found


def ours(value: str, rows: int, memory: str) -> pa.Table:
    captured, events = data(rows)
    by = Labelling([label(value, events)], AS_OF)
    con = connect(memory, spill=folder() / "spill")
    size = SLICE_BYTES // 88  # as a training set of one feature does
    done = []
    for table in told(con, folder(), by, spine_batches(con, captured, size), "ts", size):
        found = dict(labelled(con, folder(), by, table, times_of(table, "ts")))
        done.append(table.append_column("label", found["label"]))
    return pa.concat_tables(done)


def plain(value: str, rows: int, memory: str, *, hour: bool) -> pa.Table:
    import duckdb

    captured, events = data(rows)
    agg = "count(e.happened_at) > 0" if value == "happened" else "sum(e.amount)"
    inside = f"e.happened_at >= r.ts + to_microseconds({GAP}) AND e.happened_at < r.ts + to_microseconds({GAP + HORIZON})"
    select = f"SELECT r.row, any_value(r.entity_id) AS entity_id, any_value(r.ts) AS ts, {agg} AS label"
    left = f"'{captured}' r"
    right, on = f"'{events}' e", f"r.entity_id = e.entity_id AND {inside}"
    if hour:
        # A row meets the half days that its range lies in, which are two at most.
        step = f"epoch_us(ts) // {HORIZON}"
        left = f"(SELECT *, unnest([({step}), ({step}) + 1]) AS slot FROM '{captured}') r"
        right = f"(SELECT *, (epoch_us(happened_at) - {GAP}) // {HORIZON} AS slot FROM '{events}') e"
        on += " AND r.slot = e.slot"
    con = duckdb.connect(
        config={
            "memory_limit": memory,
            "temp_directory": str(folder() / "spill"),
            "preserve_insertion_order": False,
        }
    )
    found: pa.Table = con.sql(
        f"{select} FROM {left} LEFT JOIN {right} ON {on} GROUP BY r.row"
    ).to_arrow_table()
    return found


def contend(name: str, value: str, rows: int, memory: str) -> pa.Table:
    return ours(value, rows, memory) if name == "ours" else plain(value, rows, memory, hour=name == "near")


def compared(memory: str) -> None:
    """That all give the same labels, row by row. Raises SystemExit."""
    for value in VALUES:
        tables = {n: contend(n, value, 100_000, memory).sort_by("row") for n in ("ours", "plain", "near")}
        want = tables["plain"]["label"]
        for name, found in tables.items():
            same = found["label"].null_count == want.null_count and np.allclose(
                np.nan_to_num(found["label"].to_numpy().astype(float)),
                np.nan_to_num(want.to_numpy().astype(float)),
            )
            if not same or found.num_rows != 100_000:
                raise SystemExit(f"{name} gives other labels of '{value}' than the plain join")
    print("the same labels of 100,000 rows from every contender\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--alone", nargs=4)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--memory", default="4GB")
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    if options.alone:
        import duckdb  # noqa: F401
        import pandas as pd  # noqa: F401  Arrow imports it with the first array it makes; neither is what is measured

        name, value, rows, memory = options.alone
        measure(lambda: (contend(name, value, int(rows), memory).num_rows, ""))
        return
    rows = 1_000_000 if options.quick else 10_000_000
    print(machine("duckdb", "numpy", "pyarrow"))
    print(f"{rows:,} rows, {rows:,} events, {rows // 10:,} entities, memory {options.memory}\n")
    data(rows)
    compared(options.memory)
    for value, said in VALUES.items():
        print(f"{value}: {said}")
        found = race(
            __file__,
            {n: (n, value, str(rows), options.memory) for n in ("ours", "plain", "near")},
            options.repeat,
        )
        best = min((found["plain"], found["near"]), key=lambda f: f.cpu)
        wall, cpu = ratios(found["ours"], best)
        verdict(f"label join over the faster plain one ({value})", wall, 2.0, 1.0, cpu=cpu)


if __name__ == "__main__":
    sys.exit(main())
