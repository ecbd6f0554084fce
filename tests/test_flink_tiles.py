"""Tiles made by Flink, cell by cell those that DuckDB and NumPy make of the same events."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from featurestore import declare as d
from featurestore.aggregates import Moments, Params, Sum
from featurestore.compile import rowwise
from featurestore.compile.events import EventColumns
from featurestore.compile.flink_job import Mode, Query, files_wire, job_of
from featurestore.compile.newest import newest_sql
from featurestore.compile.sources import Connection, connect
from featurestore.compile.tiles import tile_events_sql, tiles_sql
from featurestore.evaluate.arrow import to_physical
from featurestore.evaluate.inputs import Inputs, carried
from featurestore.evaluate.ragged import by_tile
from featurestore.expr import col
from featurestore.ir import View
from featurestore.layout import Level, Slot, layout_of
from featurestore.online_records import _slot_fields
from featurestore.time import DAY, HOUR, Duration, duration_text
from featurestore.types import Date, DecimalType, DType, Float32, Int64, Timestamp, is_float
from tests.flink_cluster import Flink
from tests.generators import COLUMNS, FITS, cases
from tests.parity.cases import Case
from tests.parity.engines import EPOCH, World, pythonic, world_of

GENERATE = (
    Phase.explicit,
    Phase.reuse,
    Phase.generate,
)  # each example is a job: shrinking would take many minutes
pytestmark = [pytest.mark.flink, pytest.mark.slow]

Cells = dict[tuple[Any, ...], dict[str, Any]]
"""The fields of each tile, by key and start of the tile; of each entity's newest row, by key."""


@pytest.fixture(scope="module")
def con() -> Iterator[Connection]:
    connection = connect(threads=1)
    yield connection
    connection.close()


# ── in Flink ────────────────────────────────────────────────────────────────────────────────────────────────


def payload(event: Mapping[str, Any], schema: Mapping[str, DType]) -> str:
    """An event as it comes over the wire."""
    written: dict[str, Any] = {}
    for name, dtype in schema.items():
        value = pythonic(event[name], dtype)
        if value is not None and dtype == Timestamp:
            value = (EPOCH + timedelta(microseconds=event[name])).isoformat()
        elif value is not None and (dtype == Date or isinstance(dtype, DecimalType)):
            value = str(value)
        written[name] = value
    return json.dumps(written, ensure_ascii=False)


class Given(Protocol):
    """What a job is made of."""

    @property
    def view(self) -> View: ...

    @property
    def events(self) -> Sequence[Mapping[str, Any]]: ...


def in_flink(flink: Flink, worlds: Sequence[Given], mode: Mode) -> list[dict[str, Cells]]:
    """The rows of each query of each world's job; all are one query, so the jobs are of the same settings but for state."""
    statements: dict[str, None] = {
        "CREATE TEMPORARY SYSTEM FUNCTION fs_json AS 'featurestore.flink.Collected$Json'": None
    }
    parts: list[str] = []
    settings: dict[str, str] = {}
    queries: list[tuple[Given, Query]] = []
    for i, world in enumerate(worlds):
        path = flink.path(".events")
        schema = world.view.source.schema
        path.write_text("".join(f"{payload(event, schema)}\n" for event in world.events))
        job = job_of(replace(world.view, name=f"v{i}"), files_wire(path.as_uri()), mode=mode)
        settings |= job.settings
        statements |= dict.fromkeys([*job.functions, *(step.sql for step in job.statements)])
        for query in job.queries:
            parts.append(as_json(len(queries), query))
            queries.append((world, query))
    # Small batches, so that what was made in one is merged with what was made in another.
    batches = {"table.exec.mini-batch.size": "7"} if mode == "streaming" else {}
    (rows,) = flink.run([(" UNION ALL ".join(parts), 2)], statements, settings={**settings, **batches})
    found: list[dict[str, Cells]] = [{} for _ in worlds]
    for number, (world, query) in enumerate(queries):
        cells = [(json.loads(r["k"]), json.loads(r["v"])) for r in rows if r["q"] == number]
        found[worlds.index(world)][query.name] = {tuple(k.values()): v for k, v in cells}
    return found


def as_json(number: int, query: Query) -> str:
    """A query's rows as its number, its key and its other columns as texts."""
    names = list(query.columns)

    def text(some: Sequence[str]) -> str:
        kinds = ", ".join(f"`{name}` {query.columns[name]}" for name in some)
        return f"fs_json(CAST(ROW({', '.join(f'`{n}`' for n in some)}) AS ROW<{kinds}>))"

    keys, values = names[: query.keys], names[query.keys :]
    return f"SELECT {number} AS q, {text(keys)} AS k, {text(values)} AS v FROM ({query.sql})"


# ── in DuckDB and NumPy ─────────────────────────────────────────────────────────────────────────────────────


def plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def tiles_in_duckdb(con: Connection, world: World, level: Level) -> Cells:
    view = world.view
    table = con.sql(tiles_sql(con, view, level, world.root)).to_arrow_table()
    keys = [to_physical(table.column(f"k{i}"), k.dtype)[0].tolist() for i, k in enumerate(view.keys)]
    names = list(zip(*keys, table.column("tile").to_pylist(), strict=True))
    cells: Cells = {name: {} for name in names}
    for field in ("rows", "first_at", "last_at"):
        for name, value in zip(names, table.column(field).to_pylist(), strict=True):
            cells[name][field] = value
    for slot in level.slots:
        if slot.ragged:
            continue
        fields, valid = _slot_fields(slot, table)
        known = fields.get("known")
        for field, values in fields.items():
            for i, name in enumerate(names):
                there = valid is None or bool(valid[i])
                there = there and (field != "v" or known is None or bool(known[i]))
                cells[name][f"{slot.name}_{field}"] = plain(values[i]) if there else None
    ragged(con, world, level, cells)
    return cells


def ragged(con: Connection, world: World, level: Level, cells: Cells) -> None:
    slots = [slot for slot in level.slots if slot.ragged]
    if not slots:
        return
    view, columns = world.view, EventColumns(world.view)
    events = con.sql(tile_events_sql(con, view, level, world.root, columns)).to_arrow_table()
    keys = [to_physical(events.column(f"k{i}"), k.dtype)[0].tolist() for i, k in enumerate(view.keys)]
    times = to_physical(events.column("t"), Int64)[0]
    starts = (times - times % level.hop).tolist()
    names = list(cells)
    numbers = {name: i for i, name in enumerate(names)}
    tile = np.array([numbers[name] for name in zip(*keys, starts, strict=True)], np.int64)
    inputs = Inputs(columns.names, view, events)
    for slot in slots:
        x, keep = inputs.of(slot)
        assert x is not None
        made = by_tile(slot, x, keep, times, tile, len(names))
        ends = made.pop("ends").tolist()
        for field, values in made.items():
            for name, lo, hi in zip(names, [0, *ends], ends, strict=False):
                items = values[lo:hi]
                cells[name][f"{slot.name}_{field}"] = (
                    items.view(np.int64) if items.dtype == np.uint64 else items
                ).tolist()


def newest_in_duckdb(con: Connection, world: World) -> Cells:
    view, layout = world.view, layout_of(world.view)
    table = con.sql(newest_sql(con, view, layout.latest, world.root)).to_arrow_table()
    keys = [to_physical(table.column(f"k{i}"), k.dtype)[0].tolist() for i, k in enumerate(view.keys)]
    cells: Cells = {name: {} for name in zip(*keys, strict=True)}
    columns = [("first_at", Int64), ("last_at", Int64), *((c.name, carried(c.dtype)) for c in layout.latest)]
    for field, dtype in columns:
        values, valid = to_physical(table.column(field), dtype)
        for i, cell in enumerate(cells.values()):
            cell[field] = plain(values[i]) if valid is None or valid[i] else None
    return cells


# ── compared ────────────────────────────────────────────────────────────────────────────────────────────────


def magnitude(world: World, slot: Slot) -> float:
    """The sum of the absolute values that a slot could have seen: what closeness is measured by."""
    assert slot.reduction.arg is not None
    schema = world.view.source.schema
    value = rowwise.evaluator(slot.reduction.arg, schema)
    cleaned = ({n: rowwise.clean(e[n], t) for n, t in schema.items()} for e in world.events)
    scale = slot.dtype.scale if isinstance(slot.dtype, DecimalType) else 0
    return math.fsum(abs(float(v)) / 10**scale for v in map(value, cleaned) if v is not None)


def compare(world: World, level: Level, flink: Cells, duckdb: Cells) -> int:
    """How many cells there were; all alike."""
    assert flink.keys() == duckdb.keys()
    for name, want in duckdb.items():
        got = flink[name]
        assert [got[f] for f in ("rows", "first_at", "last_at")] == [
            want[f] for f in ("rows", "first_at", "last_at")
        ]
        for slot in level.slots:
            mine = {f: got[f"{slot.name}_{f}"] for f in (field.name for field in slot.fields)}
            theirs = {f: want[f"{slot.name}_{f}"] for f in mine}
            check_slot(world, slot, mine, theirs, f"{name} {slot}")
    return sum(len(cell) for cell in duckdb.values())


def check_slot(world: World, slot: Slot, got: dict[str, Any], want: dict[str, Any], where: str) -> None:
    match slot.reduction:
        case Sum() if slot.dtype is not None and is_float(slot.dtype):
            assert (got["s"] is None) == (want["s"] is None), where
            if want["s"] is not None:
                assert abs(got["s"] + got["c"] - want["s"] - want["c"]) <= 1e-9 * magnitude(world, slot), (
                    where
                )
        case Moments():
            assert got["n"] == want["n"], where
            whole = [got["mean"] + got["low"], want["mean"] + want["low"]]
            assert abs(whole[0] - whole[1]) <= 1e-9 * magnitude(world, slot), where
            scale = want["m2"]
            for k, field in enumerate(("m2", "m3", "m4"), 2):
                if field in want:
                    assert abs(got[field] - want[field]) <= 1e-9 * scale ** (k / 2), (
                        f"{where} {field} {got} {want}"
                    )
        case Sum():
            lo = None if got["lo"] is None else got["lo"] % 2**64
            assert {**got, "lo": lo} == want, where
        case _:
            same = {f: narrowed(v, slot.dtype if f == "v" else slot.by) for f, v in got.items()}
            assert same == want, f"{where}: {got}, not {want}"


def narrowed(value: Any, dtype: DType | None) -> Any:
    """JSON writes a 32-bit float in as many digits as tell it from others of 32 bits."""
    if isinstance(value, list):
        return [narrowed(v, dtype) for v in value]
    return float(np.float32(value)) if dtype == Float32 and isinstance(value, float) else value


def copied(case: Case, more: int) -> Case:
    """Without unequal copies, and with equal ones, as a stream brings them."""
    rows = [case.row(r) for r in case.rows]
    if case.event_id is not None:
        same = {
            tuple(r[n] for n in (*case.keys, "at", case.event_id)) if r[case.event_id] else i: r
            for i, r in enumerate(rows)
        }
        rows = list(same.values())
        rows += [r for r in rows[:more] if r[case.event_id]]
    return replace(case, rows=rows)


@pytest.mark.parametrize("mode", ["streaming", "batch"])
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), phases=GENERATE)
@given(data=st.data())
def test_random_tiles_are_those_of_duckdb(
    flink: Flink, con: Connection, tmp_path_factory: pytest.TempPathFactory, mode: Mode, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("tiles")
    drawn = [data.draw(cases()) for _ in range(6)]
    if mode == "streaming":
        drawn = [copied(case, more=5) for case in drawn]
    worlds = [world_of(case, root) for case in drawn]
    for world, cells in zip(worlds, in_flink(flink, worlds, mode), strict=True):
        check_world(con, world, cells)


def check_world(con: Connection, world: World, cells: dict[str, Cells]) -> int:
    layout = layout_of(world.view)
    checked = 0
    for level in layout.levels:
        checked += compare(
            world, level, cells[f"tiles {duration_text(level.hop)}"], tiles_in_duckdb(con, world, level)
        )
    if not layout.latest:
        assert "newest" not in cells
        return checked
    newest = newest_in_duckdb(con, world)
    types = {c.name: c.dtype for c in layout.latest}
    got = {k: {f: narrowed(v, types.get(f)) for f, v in cell.items()} for k, cell in cells["newest"].items()}
    assert got == newest
    return checked + sum(map(len, newest.values()))


SLOTS = 20
"""So many aggregates in one job: Flink compiles each wide row into one class, slower and slower."""

CELLS = 25_000

POOLS: Mapping[str, list[Any]] = {
    "x": [None, *range(-5, 6), 2**53, 2**53 + 1, 2**62, -(2**62), 2**63 - 1, -(2**63)],
    "small": [None, *range(-5, 6), 2**31 - 1, -(2**31)],
    "f": [
        None,
        math.nan,
        math.inf,
        -0.0,
        0.1,
        1e9,
        1e9 + 1e-3,
        1e9 - 1e-3,
        1e15,
        *(n / 8 for n in range(-9, 9)),
    ],
    "g": [None, math.inf, *(n / 8 for n in range(-9, 9))],
    "flag": [None, True, False],
    "text": [None, "", "a", "b", "Z", "é", "\uffff", "\U00010000", "long " * 30],
    "price": [None, *(Decimal(n).scaleb(-2) for n in (0, 1, -1, 250, -250, 10**12 - 1, 1 - 10**12))],
    "seen": [None, -1, 0, 1, 10**15, -(10**15)],
    "day": [None, *(date(1970, 1, 1) + timedelta(n) for n in (-1000, -1, 0, 30000))],
    "version": [None, 0, 1, 2],
    "id": [None, *(f"e{i}" for i in range(40))],
}


@pytest.mark.parametrize(("event_id", "half"), [(None, 0), (None, 1), ("id", 0)])
def test_many_cells_of_every_aggregate_are_those_of_duckdb(
    flink: Flink, con: Connection, tmp_path: Path, event_id: str | None, half: int
) -> None:
    """Every aggregate of every column it takes, over a month before and after 1970; with ids, every other of them."""
    random = np.random.default_rng(7)
    features: list[d.Aggregation] = []
    for name, fits in sorted(FITS.items()):
        some = (
            fits
            if len(fits) <= len(COLUMNS)
            else [fits[i] for i in random.choice(len(fits), 8, replace=False)]
        )
        for columns in some:
            params: dict[str, Params] = {
                "count_distinct": (("k", 16),),
                "quantile": (("p", 0.5),),
                "histogram": (("bound", 3),),
                "most_frequent": (("k", 2), ("bound", 3)),
            }
            given: Params = (("k", 2),) if name.endswith("_k") else params.get(name, ())
            spec = d.Aggregation(name, columns, params=given).over(Duration(DAY), hop=Duration(6 * HOUR))
            if random.random() < 0.3:
                spec = spec.where(col("flag"))
            features.append(spec.named(f"w{len(features)}"))
    features = features[half::2]
    rows = [
        {"k": f"k{random.integers(6)}", "at": int(random.integers(-15 * DAY, 15 * DAY) // HOUR * HOUR)}
        | {name: pool[random.integers(len(pool))] for name, pool in POOLS.items()}
        for _ in range(500)
    ]
    more = {n: t for n, t in COLUMNS.items() if n != "x"}
    checked = 0
    for part in range(0, len(features), SLOTS):
        first, *beside = features[part : part + SLOTS]
        case = Case("many", rows, "13:00", first, None, beside=beside, more=more, event_id=event_id)
        world = world_of(copied(case, more=100), tmp_path)
        (found,) = in_flink(flink, [world], "streaming")
        checked += check_world(con, world, found)
    assert checked > CELLS
