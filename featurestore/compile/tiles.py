"""Tiles by SQL: one GROUP BY over key and tile, one column for each field of each slot."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from featurestore.aggregates import (
    Buckets,
    Count,
    Distinct,
    First,
    FirstK,
    Frequencies,
    Largest,
    Last,
    LastK,
    MaxBy,
    Maximum,
    MinBy,
    Minimum,
    Moments,
    Smallest,
    Sum,
    inputs_of,
    ordered,
)
from featurestore.compile.events import (
    EventColumns,
    events_sql,
    key_names,
    order_by,
    order_names,
    order_row,
    order_text,
)
from featurestore.compile.sources import Connection
from featurestore.ir import View
from featurestore.layout import Level, Slot
from featurestore.types import Bool, DecimalType, is_float


def tiles_sql(
    con: Connection,
    view: View,
    level: Level,
    root: Path,
    *,
    start: int | None = None,
    end: int | None = None,
    whole: bool = False,
    settled: bool = False,
) -> str:
    """SELECT of `k0…`, `tile` (its start in microseconds), `rows`, and the fields of every slot, one row for each tile.

    Rows are sorted by key and tile. Slots that hold any number of items are left out: they are made of the rows of
    `tile_events_sql`. With `whole`, all events from `start` to `end` make one tile: the fold of a lifetime.

    With `settled`, copies of events were dropped before, and a slot that depends on the order of events has besides, as
    `slot_o`, the place of its event in that order: `order_text`. Such tiles can be merged with others of the same time.
    """
    inputs, filters = EventColumns(view, "x"), EventColumns(view, "w")
    fixed = [slot for slot in level.slots if not slot.ragged]
    for slot in fixed:
        for node in inputs_of(slot.reduction):
            inputs.add(node)
        if slot.where is not None:
            filters.add(slot.where)
    ties = any(ordered(s.reduction) for s in fixed)
    both = EventColumns(view, "x", {**inputs.names, **filters.names})
    events = events_sql(con, view, root, both, ordered=ties, copies=settled, start=start, end=end)
    if settled and ties:
        events = f"SELECT *, {order_text(view)} AS o FROM ({events})"
    keys = ", ".join(key_names(view))
    # A true floor, also before 1970: DuckDB's % has the sign of the dividend.
    tile = "0" if whole else f"t - ((t % {level.hop}) + {level.hop}) % {level.hop}"
    select = ["count(*) AS rows", "min(t) AS first_at", "max(t) AS last_at"]
    select += [sql for s in fixed for sql in _slot_sql(s, view, both, placed=settled)]
    shifted = [s for s in fixed if isinstance(s.reduction, Moments)]
    ctes = [f"ev AS (SELECT *, {tile} AS tile FROM ({events}))"]
    rows = "ev"
    if shifted:
        # Sums of squares are taken about a value that is among them. About 0, or a running mean in one double, a
        # variance near 1e-6 of values near 1e9 has no right digit; nor has one about an outlier that a filter left out.
        least = ", ".join(_shift_sql(s, both) for s in shifted)
        ctes[0] = f"ev AS MATERIALIZED (SELECT *, {tile} AS tile FROM ({events}))"
        ctes.append(f"least AS (SELECT {keys}, tile, {least} FROM ev GROUP BY ALL)")
        rows = f"ev JOIN least USING ({keys}, tile)"
    return (
        f"WITH {', '.join(ctes)} SELECT {keys}, tile, "
        f"{', '.join(select)} FROM {rows} GROUP BY {keys}, tile ORDER BY {keys}, tile"
    )


def tile_events_sql(
    con: Connection,
    view: View,
    level: Level,
    root: Path,
    columns: EventColumns,
    *,
    start: int | None = None,
    end: int | None = None,
    settled: bool = False,
) -> str:
    """SELECT of `k0…`, `t` and what the slots of the level that hold any number of items are made of, added to `columns`.

    Rows are sorted by key and time, and, where a slot asks for it, in the order of events; then, with `settled`, `o` is the
    place in that order.
    """
    slots = [s for s in level.slots if s.ragged]
    for slot in slots:
        for node in (*inputs_of(slot.reduction), *([slot.where] if slot.where is not None else [])):
            columns.add(node)
    ties = order_by(order_names(view)) if any(ordered(s.reduction) for s in slots) else []
    events = events_sql(con, view, root, columns, ordered=bool(ties), copies=settled, start=start, end=end)
    by = ", ".join([*key_names(view), "t"])
    place = [f"{order_text(view)} AS o"] if settled and ties else []
    return f"SELECT {', '.join([by, *columns.names.values(), *place])} FROM ({events}) ORDER BY {', '.join([by, *ties])}"


def _shift_sql(slot: Slot, columns: EventColumns) -> str:
    """What the sums of a slot of moments are about, in each tile: the least of its own values, as `slot_0`."""
    assert slot.reduction.arg is not None
    only = f" FILTER ({columns.names[slot.where]})" if slot.where is not None else ""
    return f"min({_double(columns.names[slot.reduction.arg], slot)}){only} AS {slot.name}_0"


def _slot_sql(slot: Slot, view: View, columns: EventColumns, *, placed: bool) -> list[str]:
    """The fields of one slot as aggregates, named `slot_field`. Sums of whole numbers are one 128-bit column, `slot_total`."""
    reduction = slot.reduction
    x = "" if reduction.arg is None else columns.names[reduction.arg]
    conditions = [columns.names[slot.where]] if slot.where is not None else []
    only = f" FILTER ({' AND '.join(conditions)})" if conditions else ""
    name = slot.name
    match reduction:
        case Count():
            return [f"count({x or '*'}){only} AS {name}_n"]
        case Sum():
            assert slot.dtype is not None
            if is_float(slot.dtype):
                return [f"fsum(CAST({x} AS DOUBLE)){only} AS {name}_s"]
            total = f"sum({x}){only}"
            scaled = (
                f"CAST({total} AS DECIMAL(38, {slot.dtype.scale}))"
                if isinstance(slot.dtype, DecimalType)
                else total
            )
            return [f"{scaled} AS {name}_total"]
        case Minimum():
            return [f"min({x}){only} AS {name}_v"]
        case Maximum():
            return [f"max({x}){only} AS {name}_v"]
        case Moments():
            d = f"({_double(x, slot)} - {name}_0)"
            return [
                f"count({x}){only} AS {name}_n",
                f"any_value({name}_0) AS {name}_shift",
                f"fsum({d}){only} AS {name}_s1",
                *(f"fsum({' * '.join([d] * k)}){only} AS {name}_s{k}" for k in range(2, reduction.order + 1)),
            ]
        case First() | Last():
            pick = "arg_min" if isinstance(reduction, First) else "arg_max"
            known = " AND ".join([*conditions, f"{x} IS NOT NULL"])
            by = order_row(view, order_names(view), "t")
            at = f"{'min' if isinstance(reduction, First) else 'max'}(t) FILTER ({known})"
            place = [f"{pick}(o, {by}) FILTER ({known}) AS {name}_o"] if placed else []
            return [f"{pick}({x}, {by}) FILTER ({known}) AS {name}_v", f"{at} AS {name}_at", *place]
        case MinBy() | MaxBy():
            y = columns.names[reduction.by]
            known = " AND ".join([*conditions, f"{y} IS NOT NULL"])
            # The earliest of several: what is greatest is least turned round. A row is no NULL, so a NULL `x` is kept.
            turned = y if isinstance(reduction, MinBy) else _turned(y, slot)
            rank = order_row(view, order_names(view), f"{turned}, t")
            packed = f"b := {y}, t := t, x := {x}{', o := o' if placed else ''}"
            row = f"arg_min(struct_pack({packed}), {rank}) FILTER ({known})"
            parts = [("by", "b"), ("at", "t"), ("v", "x"), *([("o", "o")] if placed else [])]
            return [f"struct_extract({row}, '{part}') AS {name}_{field}" for field, part in parts]
        case FirstK() | LastK() | Largest() | Smallest() | Distinct() | Buckets() | Frequencies():
            raise AssertionError(f"{reduction} is not made in SQL")
        case _:
            assert_never(reduction)


def _turned(y: str, slot: Slot) -> str:
    """A number that is less where `y` is greater."""
    if slot.by == Bool:
        return f"(NOT {y})"
    if slot.by is not None and (is_float(slot.by) or isinstance(slot.by, DecimalType)):
        return f"(-{y})"
    return f"(-CAST({y} AS HUGEINT))"


def _double(x: str, slot: Slot) -> str:
    """The double a moment is made of: a decimal by one division of its digits, as everywhere."""
    if isinstance(slot.dtype, DecimalType):
        digits = f"CAST({x} AS DECIMAL(38, {slot.dtype.scale})) * {10**slot.dtype.scale}"  # 18 digits would overflow
        return f"(CAST(CAST({digits} AS HUGEINT) AS DOUBLE) / {10**slot.dtype.scale})"
    return f"CAST({x} AS DOUBLE)"
