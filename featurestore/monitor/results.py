"""What runs found, kept as Parquet below the offline folder: a file for each run, those of a past day joined into one.

`duckdb.sql("SELECT … FROM '.fs/offline/monitoring/findings/*.parquet'")` reads all of it, in any tool.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from featurestore.config import Config
from featurestore.monitor.findings import Finding
from featurestore.time import DAY, floor, moment_text

SCHEMA = pa.schema(
    [
        ("run_at", pa.timestamp("us", "UTC")),
        ("monitor", pa.string()),
        ("on", pa.string()),
        ("condition", pa.string()),
        ("subject", pa.string()),
        ("state", pa.string()),
        ("said", pa.string()),
        ("figures", pa.string()),
        ("window_start", pa.timestamp("us", "UTC")),
        ("window_end", pa.timestamp("us", "UTC")),
        ("models", pa.list_(pa.string())),
    ]
)


def folder(config: Config) -> Path:
    """Where the files lie."""
    return config.offline / "monitoring" / "findings"


def keep(config: Config, findings: Sequence[Finding], now: int) -> Path | None:
    """Keeps the findings of a run; None when there are none. A run of the same moment takes the place of one that is there."""
    if not findings:
        return None
    rows = [
        {
            "run_at": now,
            "monitor": f.monitor,
            "on": f.on,
            "condition": f.condition,
            "subject": f.subject,
            "state": f.state,
            "said": f.said,
            "figures": json.dumps(dict(f.figures), allow_nan=False),
            "window_start": f.start,
            "window_end": f.end,
            "models": list(f.models),
        }
        for f in findings
    ]
    return _write(
        folder(config), f"run-{moment_text(now).replace(':', '')}", pa.Table.from_pylist(rows, SCHEMA)
    )


def join_days(config: Config, now: int) -> int:
    """Joins the runs of each day that is over into one file; how many files went.

    Whoever is killed between writing the one and removing the others leaves rows twice: `read` leaves copies out.
    """
    days: dict[str, list[Path]] = {}
    today = moment_text(floor(now, DAY))[:10]
    for path in sorted(folder(config).glob("run-*.parquet")):
        day = path.name[4:14]
        if day != today:
            days.setdefault(day, []).append(path)
    gone = 0
    for day, paths in days.items():
        whole = folder(config) / f"day-{day}.parquet"
        before = [whole] if whole.exists() else []
        _write(
            folder(config),
            f"day-{day}",
            _once(pa.concat_tables([pq.read_table(p) for p in [*before, *paths]])),
        )
        for path in paths:
            path.unlink()
            gone += 1
    return gone


def read(config: Config, *, since: int | None = None, monitors: Iterable[str] = ()) -> pa.Table:
    """The findings that are kept, the oldest first."""
    first = "" if since is None else moment_text(since)[:10]
    paths = [p for p in sorted(folder(config).glob("*.parquet")) if p.name.partition("-")[2][:10] >= first]
    table = _once(
        pa.concat_tables([pq.read_table(p, schema=SCHEMA) for p in paths]) if paths else SCHEMA.empty_table()
    )
    if since is not None:
        table = table.filter(pc.greater_equal(table["run_at"], pa.scalar(since, SCHEMA.field("run_at").type)))
    names = list(monitors)
    return table.filter(pc.is_in(table["monitor"], pa.array(names, pa.string()))) if names else table


def finding_of(row: Mapping[str, Any]) -> Finding:
    """A row of `read` as the finding that it was."""
    span = [None if row[n] is None else int(row[n].timestamp() * 1e6) for n in ("window_start", "window_end")]
    return Finding(
        row["monitor"],
        row["on"],
        row["condition"],
        row["subject"],
        row["state"],
        row["said"],
        json.loads(row["figures"]),
        span[0],
        span[1],
        tuple(row["models"]),
    )


def _once(table: pa.Table) -> pa.Table:
    keys = ["run_at", "monitor", "condition", "subject"]
    order = table.append_column("row", pa.array(range(table.num_rows), pa.int64()))
    firsts = order.group_by(keys, use_threads=False).aggregate([("row", "min")])["row_min"]
    return table.take(pa.array(sorted(firsts.to_pylist()), pa.int64())).sort_by("run_at")


def _write(where: Path, name: str, table: pa.Table) -> Path:
    where.mkdir(parents=True, exist_ok=True)
    partial = where / f".{name}.{os.getpid()}.tmp"
    pq.write_table(table, partial)
    return partial.replace(where / f"{name}.parquet")


__all__ = ["SCHEMA", "finding_of", "folder", "join_days", "keep", "read"]
