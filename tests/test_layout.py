"""What a view keeps: slots that are shared, levels that are hops, and a prefix that changes when what is stored does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pytest

from featurestore import declare as d
from featurestore import ir
from featurestore.aggregates import AGGREGATES, Count, Sum
from featurestore.declare import declarations_in
from featurestore.expr import Column, col
from featurestore.layout import layout_of, storage_fingerprint
from featurestore.lower import lower
from featurestore.time import DAY, HOUR, MINUTE, days, hours, lifetime, minutes
from featurestore.types import Decimal, DType, Float64, Int64, String, Timestamp
from tests.parity.engines import declared

COLUMNS: Mapping[str, DType] = {
    "k": String, "at": Timestamp, "in": Timestamp, "x": Int64, "y": Float64, "price": Decimal(12, 2), "id": String, "v": Int64,
}  # fmt: skip


def view_of(
    *features: d.Aggregation, source: dict[str, Any] | None = None, where: Any = None, **more: Any
) -> ir.View:
    options: dict[str, Any] = {"event_time": "at", "columns": COLUMNS, **(source or {})}
    made: Any = d.BatchSource(
        options.pop("name", "events"), batch=d.Parquet(options.pop("path", "e.parquet")), **options
    )
    made = made if where is None else made.where(where)
    name = more.pop("name", "v")
    view = d.FeatureView(name, d.Entity("who", key="k"), made, features, **more)
    return lower(declarations_in([view]), declared).views[0]


def test_equal_partials_are_one_slot() -> None:
    layout = layout_of(
        view_of(
            d.sum("x").over(hours(1)), d.mean("x").over(hours(1), minutes(50)), d.count("x").over(hours(1))
        )
    )
    (level,) = layout.levels
    assert {s.reduction for s in level.slots} == {Count(Column("x")), Sum(Column("x"))}
    assert layout.parts["x_mean_1h"] == layout.parts["x_mean_50m"]
    assert layout.parts["x_mean_1h"]["total"] == layout.parts["x_sum_1h"]["total"]
    assert level.reach == HOUR


def test_another_filter_or_input_is_another_slot() -> None:
    positive = d.sum("x").over(hours(1)).where(col("x") > 0).named("p")
    layout = layout_of(view_of(d.sum("x").over(hours(1)), positive, d.sum("y").over(hours(1))))
    assert len(layout.levels[0].slots) == 3


def test_each_hop_is_a_level_from_fine_to_coarse() -> None:
    layout = layout_of(view_of(d.count().over(days(30), hours(1), lifetime), d.latest("x")))
    assert [(level.hop, level.reach, level.lifetime) for level in layout.levels] == [
        (5 * MINUTE, HOUR, False),
        (DAY, 30 * DAY, True),
    ]
    assert [c.value for c in layout.latest] == [Column("x")]


@pytest.mark.parametrize(
    ("features", "grid"),
    [
        ([d.latest("x")], 1),
        ([d.count().over(hours(1))], 5 * MINUTE),
        ([d.count().over(hours(1), days(30))], DAY),
        ([d.count().over(minutes(70), hop=minutes(7)), d.sum("x").over(hours(2), hop=hours(1))], 7 * HOUR),
    ],
)
def test_the_cut_lies_on_every_hop(features: list[d.Aggregation], grid: int) -> None:
    assert layout_of(view_of(*features)).grid == grid


def test_every_partial_of_every_aggregate_has_its_slot() -> None:
    specs = [
        d.Aggregation(name, xs, params=tuple((n, p.low) for n, p in aggregate.params.items()))
        .over(hours(1))
        .named(f"{name}_{i}")
        for name, aggregate in AGGREGATES.items()
        for i, xs in enumerate(product(COLUMNS, repeat=aggregate.inputs))
        if not isinstance(aggregate.accepts(tuple(COLUMNS[x] for x in xs)), str)
    ]
    view = view_of(*specs)
    layout = layout_of(view)
    slots = {s.name: s for s in layout.levels[0].slots}
    for feature in view.features:
        parts = layout.parts[feature.name]
        assert set(parts) == set(feature.partials)
        assert all(type(slots[s].reduction) is type(feature.partials[p]) for p, s in parts.items())


# --------------------------------------------------------------------------------------------------- what a prefix is of

BASIC = (d.sum("x").over(hours(1)), d.last("x").over(hours(1)), d.latest("y"))


@dataclass(frozen=True)
class Edit:
    """An edit of the basic view, and whether what is stored becomes other."""

    name: str
    make: Callable[[], ir.View]
    stored: bool


EDITS = [
    Edit("the order of features", lambda: view_of(*reversed(BASIC)), stored=False),
    Edit("the name of the view", lambda: view_of(*BASIC, name="w"), stored=False),
    Edit("the name of the source", lambda: view_of(*BASIC, source={"name": "s"}), stored=False),
    Edit("the name of a feature", lambda: view_of(BASIC[0].named("s"), *BASIC[1:]), stored=False),
    Edit("a default", lambda: view_of(BASIC[0].default(0), *BASIC[1:]), stored=False),
    Edit("an owner", lambda: view_of(*BASIC, owner="me", tags=["a"], description="x"), stored=False),
    Edit(
        "a shorter window of the same hop",
        lambda: view_of(*BASIC, d.sum("x").over(minutes(50))),
        stored=False,
    ),
    Edit(
        "an aggregate of partials already kept",
        lambda: view_of(*BASIC, d.sum("x").over(minutes(55)).named("t")),
        stored=False,
    ),
    Edit(
        "a column that nobody reads",
        lambda: view_of(*BASIC, source={"columns": {**COLUMNS, "z": Int64}}),
        stored=False,
    ),
    Edit("a longer window", lambda: view_of(*BASIC, d.sum("x").over(hours(2))), stored=True),
    Edit("another partial", lambda: view_of(*BASIC, d.max("x").over(hours(1))), stored=True),
    Edit("another hop", lambda: view_of(BASIC[0].over(hours(1), hop=minutes(1)), *BASIC[1:]), stored=True),
    Edit("another latest column", lambda: view_of(*BASIC, d.latest("price")), stored=True),
    Edit("a filter of the source", lambda: view_of(*BASIC, where=col("x") > 0), stored=True),
    Edit("a filter of a feature", lambda: view_of(BASIC[0].where(col("x") > 0), *BASIC[1:]), stored=True),
    Edit("another file", lambda: view_of(*BASIC, source={"path": "f.parquet"}), stored=True),
    Edit("a tiebreak", lambda: view_of(*BASIC, source={"tiebreak": ("v",)}), stored=True),
    Edit("an event id", lambda: view_of(*BASIC, source={"event_id": "id"}), stored=True),
    Edit("another event time", lambda: view_of(*BASIC, source={"event_time": "in"}), stored=True),
    Edit(
        "the type of a column",
        lambda: view_of(*BASIC, source={"columns": {**COLUMNS, "y": Int64}}),
        stored=True,
    ),
    Edit(
        "a lifetime on a kept hop",
        lambda: view_of(*BASIC, d.sum("x").over(lifetime, hop=minutes(5))),
        stored=True,
    ),
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda e: e.name)
def test_the_prefix_changes_exactly_when_what_is_stored_does(edit: Edit) -> None:
    assert (storage_fingerprint(edit.make()) != storage_fingerprint(view_of(*BASIC))) is edit.stored


def test_a_ttl_is_no_part_of_what_is_stored() -> None:
    plain = view_of(d.latest("x"))
    assert storage_fingerprint(replace(plain, ttl=HOUR)) == storage_fingerprint(plain)
    assert ir.view_fingerprint(replace(plain, ttl=HOUR)) != ir.view_fingerprint(plain)


def test_a_tiebreak_that_decides_nothing_is_no_part_of_what_is_stored() -> None:
    sums = (d.sum("x").over(hours(1)),)
    assert storage_fingerprint(view_of(*sums, source={"tiebreak": ("v",)})) == storage_fingerprint(
        view_of(*sums)
    )
