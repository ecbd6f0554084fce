"""Validations where they are kept: a Parquet file for each run, a row for each verdict, below the offline folder.

DuckDB reads them as they lie: `SELECT … FROM '.fs/offline/validations/*.parquet'`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import ir
from featurestore.config import Config
from featurestore.verdicts import Validation, Verdict

SCHEMA = pa.schema(
    {
        "run": pa.string(),
        "name": pa.string(),
        "kind": pa.string(),
        "engine": pa.string(),
        "at": pa.timestamp("us", "UTC"),
        "occasion": pa.string(),
        "who": pa.string(),
        "definition": pa.string(),
        "rows": pa.int64(),
        "seconds": pa.float64(),
        "place": pa.int32(),
        "expectation": pa.string(),
        "check": pa.string(),
        "spec": pa.string(),
        "severity": pa.string(),
        "on_failure": pa.string(),
        "outcome": pa.string(),
        "observed": pa.string(),
        "observed_number": pa.float64(),
        "considered": pa.int64(),
        "unexpected": pa.int64(),
        "examples": pa.list_(pa.string()),
        "why": pa.string(),
    }
)
"""`observed` is JSON, `observed_number` the same where it is a number; `spec` is the expectation as the plan has it."""


def folder(config: Config) -> Path:
    """Where validations are kept."""
    return config.offline / "validations"


def keep(config: Config, validation: Validation) -> Path:
    """Keeps a validation whole or not at all; the file that lies there."""
    rows = [_row(validation, place, v) for place, v in enumerate(validation.verdicts)]
    path = folder(config) / f"{validation.run}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), partial)
    return partial.replace(path)


def load(config: Config, name: str | None = None, since: int | None = None) -> list[Validation]:
    """What was kept, of one name or all, from a moment (µs) on; the newest first."""
    tables = [pq.read_table(path) for path in sorted(folder(config).glob("*.parquet"))]
    rows = itertools.chain.from_iterable(t.to_pylist() for t in tables)
    found = [_validation(list(each)) for _, each in itertools.groupby(rows, key=lambda r: r["run"])]
    kept = [v for v in found if (name is None or v.name == name) and (since is None or v.at >= since)]
    return sorted(kept, key=lambda v: (v.at, v.run), reverse=True)


def _row(validation: Validation, place: int, verdict: Verdict) -> dict[str, Any]:
    e, v = verdict.expectation, validation
    number = isinstance(verdict.observed, int | float)
    return {
        "run": v.run,
        "name": v.name,
        "kind": v.kind,
        "engine": v.engine,
        "at": v.at,
        "occasion": v.where,
        "who": v.who,
        "definition": v.definition,
        "rows": v.rows,
        "seconds": v.seconds,
        "place": place,
        "expectation": e.name,
        "check": e.kind,
        "spec": ir.canonical(ir.to_json(e)),
        "severity": e.severity,
        "on_failure": e.on_failure,
        "outcome": verdict.outcome,
        "observed": json.dumps(verdict.observed),
        "observed_number": float(verdict.observed or 0.0) if number else None,
        "considered": verdict.considered,
        "unexpected": verdict.unexpected,
        "examples": list(verdict.examples),
        "why": verdict.why,
    }


def _validation(rows: Iterable[dict[str, Any]]) -> Validation:
    listed = sorted(rows, key=lambda r: r["place"])
    first = listed[0]
    verdicts = tuple(
        Verdict(
            ir.from_json(json.loads(r["spec"])),
            r["outcome"],
            json.loads(r["observed"]),
            r["considered"],
            r["unexpected"],
            tuple(r["examples"] or ()),
            r["why"],
        )
        for r in listed
    )
    return Validation(
        first["name"],
        first["kind"],
        first["engine"],
        round(first["at"].timestamp() * 1_000_000),
        first["rows"],
        verdicts,
        first["definition"],
        first["occasion"],
        first["who"],
        first["run"],
        first["seconds"],
    )


__all__ = ["SCHEMA", "folder", "keep", "load"]
