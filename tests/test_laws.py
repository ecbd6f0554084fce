"""Laws: what holds for every declaration and all events."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore import ir
from featurestore.aggregates import (
    AGGREGATES,
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
)
from featurestore.aggregates.reductions import BY, X
from featurestore.compile.reference import answers
from featurestore.compile.sources import Connection, connect
from featurestore.config import Config
from featurestore.evaluate import point_in_time, ragged
from featurestore.evaluate.finish import finish
from featurestore.evaluate.partials import By, Partial, merge_tiles, reduce_events
from featurestore.evaluate.ranges import GatheredRanges, OverlappingRanges
from featurestore.ir import Feature
from featurestore.layout import Slot, layout_of, storage_fingerprint
from featurestore.materialize import materialize_view
from featurestore.online.store import OnlineStore, open_store
from featurestore.serving import Reader
from featurestore.status import Status
from featurestore.time import floor, inside, known_at
from featurestore.types import DType, Float64, Int64, String, numpy_dtype
from featurestore.verify.replay import Replay
from tests.generators import arriving, cases, everybody, moments
from tests.parity.cases import Case, instant
from tests.parity.engines import Key, World, entities_of, pythonic, training_set, world_of

Cell = tuple[Any, Status]
Table = dict[tuple[Key, int], dict[str, Cell]]
"""For each key and moment every feature's value and status."""

EXAMPLES = settings(max_examples=15, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=int(os.environ.get("LAWS", "100")), suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("laws")


@pytest.fixture(scope="module")
def con() -> Iterator[Connection]:
    connection = connect(threads=1)
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def store(root: Path) -> Iterator[OnlineStore]:
    with open_store("lmdb://online", root) as opened:
        yield opened


# -------------------------------------------------------------------------------------------- all engines, everything


def by_reference(world: World, asked: Sequence[tuple[Key, int]], before: int | None = None) -> Table:
    """With `before`, as if nothing had happened from then on."""
    events = [e for e in world.events if before is None or (e["at"] is not None and e["at"] < before)]
    types = {f.name: f.dtype for f in world.view.features}
    return {
        (key, at): {
            name: (pythonic(answer.value, types[name]), answer.status)
            for name, answer in answers(world.view, events, key, at, world.case.lag).items()
        }
        for key, at in asked
    }


def by_training(world: World, asked: Sequence[tuple[Key, int]], *, statuses: bool = True) -> Table:
    rows = training_set(Config(world.root, "laws", threads=1), world, asked, statuses=statuses).to_arrow()
    done: Table = {}
    for pair, row in zip(asked, rows.to_pylist(maps_as_pydicts="strict"), strict=True):
        done[pair] = {
            r.feature: (row[r.output], Status[row[f"{r.output}__status"]] if statuses else Status.PRESENT)
            for r in world.service.reads
        }
    return done


def by_reading(world: World, store: OnlineStore, asked: Sequence[tuple[Key, int]]) -> Table:
    reader = Reader(store, world.service, {world.view.name: world.view})
    done: Table = {}
    for at in {at for _, at in asked}:
        keys = [key for key, moment in asked if moment == at]
        online = reader.read(entities_of(world, keys), at=at)
        columns = online.to_dict()
        for row, key in enumerate(keys):
            done[key, at] = {
                r.feature: (columns[r.output][row], Status(int(online.statuses[row, i])))
                for i, r in enumerate(world.service.reads)
            }
    return done


def assert_equal(world: World, got: Table, want: Table, *, statuses: bool = True) -> None:
    for pair, cells in want.items():
        for name, (value, status) in cells.items():
            feature = world.view.feature(name)
            found, said = got[pair][name]
            where = f"{name} of {pair}: {feature}\n got {found!r} {said.name}, want {value!r} {status.name}"
            assert not statuses or said == status, where
            assert agrees(world, feature, pair, found, value), where


def agrees(world: World, feature: Feature, pair: tuple[Key, int], got: Any, want: Any) -> bool:
    """Equal, of the same sign when zero; or, where the order of summation may show, within 1e-9 of the scale."""
    if type(got) is not type(want):
        return False
    # What is approximate is so by its definition: all engines say the same.
    exact = feature.window is None or AGGREGATES[feature.aggregate].parity(feature.input_types) != "close"
    if exact or want is None:
        return bool(got == want) and (
            not isinstance(want, float) or math.copysign(1, got) == math.copysign(1, want)
        )
    return abs(got - want) <= 1e-9 * scale_of(world, feature, pair, want)


def scale_of(world: World, feature: Feature, pair: tuple[Key, int], want: float) -> float:
    """What closeness is measured by: the sum of absolute values for sums and means, else the value itself."""
    if feature.aggregate not in ("sum", "mean"):
        return abs(want) + (feature.aggregate in ("skew", "kurtosis"))
    (key, at), window = pair, feature.window
    assert window is not None
    column = feature.inputs[0].name  # type: ignore[union-attr]  # random features take plain columns
    mine = [e for e in world.events if tuple(e[n] for n in world.case.keys) == key]
    mine = [e for e in mine if e["at"] is not None and inside(e["at"], at, window.size, window.hop)]
    values = [abs(v) for e in mine if (v := e[column]) is not None and math.isfinite(v)]
    return sum(values)


@given(case=cases(), others=st.lists(moments(0), max_size=3))
@EXAMPLES
def test_a_training_set_is_what_the_reference_says(root: Path, case: Case, others: list[int]) -> None:
    check_training(root, case, others)


@pytest.mark.slow
@given(case=cases(events=60), others=st.lists(moments(0), max_size=3))
@MANY
def test_many_training_sets_are_what_the_reference_says(root: Path, case: Case, others: list[int]) -> None:
    check_training(root, case, others)


def check_training(root: Path, case: Case, others: list[int]) -> None:
    world = world_of(case, root)
    times = {instant(case.at), *others, *(r["at"] for r in map(case.row, case.rows[:3]))}
    asked = [(key, at) for key in everybody(case) for at in sorted(times)]
    want = by_reference(world, asked)
    assert_equal(world, by_training(world, asked), want)
    assert_equal(world, by_training(world, asked, statuses=False), want, statuses=False)


@given(case=arriving(cases()), others=st.lists(moments(0), max_size=3))
@EXAMPLES
def test_a_training_set_of_what_had_arrived_is_what_the_reference_says(
    root: Path, case: Case, others: list[int]
) -> None:
    check_arrived(root, case, others)


@pytest.mark.slow
@given(case=arriving(cases(events=60)), others=st.lists(moments(0), max_size=3))
@MANY
def test_many_training_sets_of_what_had_arrived_are_what_the_reference_says(
    root: Path, case: Case, others: list[int]
) -> None:
    check_arrived(root, case, others)


def check_arrived(root: Path, case: Case, others: list[int]) -> None:
    """Asked when events became known as well, and just before, however many holes are worked on at a time."""
    assert case.lag is not None
    rows = list(map(case.row, case.rows[:5]))
    edges = [known_at(r.get("arrived") if case.arrival_time else None, r["at"], case.lag) for r in rows]
    before, point_in_time.HOLES = point_in_time.HOLES, 3
    try:
        check_training(root, case, [*others, *edges, *(at - 1 for at in edges)])
    finally:
        point_in_time.HOLES = before
    check_training(root, case, [*others, *edges])


@given(case=cases(), later=st.lists(st.integers(0, 3 * 86_400_000_000), max_size=2))
@EXAMPLES
def test_an_online_read_is_the_training_row(
    root: Path, con: Connection, store: OnlineStore, case: Case, later: list[int]
) -> None:
    check_online(root, con, store, case, later)


@pytest.mark.slow
@given(case=cases(events=60), later=st.lists(st.integers(0, 3 * 86_400_000_000), max_size=2))
@MANY
def test_many_online_reads_are_the_training_rows(
    root: Path, con: Connection, store: OnlineStore, case: Case, later: list[int]
) -> None:
    check_online(root, con, store, case, later)


def check_online(root: Path, con: Connection, store: OnlineStore, case: Case, later: list[int]) -> None:
    """Materialised as of any moment: read then, and read later while nothing new was written."""
    world = world_of(case, root)
    end = instant(case.at)
    materialize_view(con, store, world.view, world.root, end=end)
    asked = [(key, end + more) for key in everybody(case) for more in {0, *later}]
    assert_equal(world, by_reading(world, store, asked), by_reference(world, asked, before=end))
    now = [(key, end) for key in everybody(case)]
    assert_equal(world, by_reading(world, store, now), by_training(world, now))


@given(case=cases(), back=st.lists(st.integers(0, 2 * 86_400_000_000), min_size=1, max_size=3))
@EXAMPLES
def test_a_read_in_the_past_is_exact_or_says_that_it_is_not(
    root: Path, con: Connection, store: OnlineStore, case: Case, back: list[int]
) -> None:
    world = world_of(case, root)
    end = instant(case.at)
    materialize_view(con, store, world.view, world.root, end=end)
    asked = [(key, end - less) for key in everybody(case) for less in set(back)]
    got = by_reading(world, store, asked)
    want = by_reference(world, asked)
    for pair, cells in got.items():
        for name, (value, status) in cells.items():
            if status is Status.PRESENT:
                assert agrees(world, world.view.feature(name), pair, value, want[pair][name][0]), (pair, name)


@given(case=cases(), later=st.lists(st.integers(0, 3 * 86_400_000_000), max_size=2), seed=st.integers(0, 99))
@EXAMPLES
def test_what_was_streamed_is_the_training_row(
    root: Path, con: Connection, store: OnlineStore, case: Case, later: list[int], seed: int
) -> None:
    check_stream(root, con, store, case, later, seed)


@pytest.mark.slow
@given(
    case=cases(events=60),
    later=st.lists(st.integers(0, 3 * 86_400_000_000), max_size=2),
    seed=st.integers(0, 99),
)
@MANY
def test_much_that_was_streamed_is_the_training_rows(
    root: Path, con: Connection, store: OnlineStore, case: Case, later: list[int], seed: int
) -> None:
    check_stream(root, con, store, case, later, seed)


def check_stream(
    root: Path, con: Connection, store: OnlineStore, case: Case, later: list[int], seed: int
) -> None:
    """Played in micro-batches, in any order, up to a few moments: read at each and later, and in the past."""
    world = world_of(case, root)
    end = instant(case.at)
    stops = sorted({end - 7_200_000_000, end, *(end + more for more in later)})
    config = Config(world.root, "laws", threads=1)
    with Replay(config, world.view, world.events, store, f"s{next(_streams)}", seed) as replay:
        played = replace(world, view=replay.view)
        for stop in stops:
            replay.until(stop)
            asked = [(key, at) for key in everybody(case) for at in (stop, stop + 3_600_000_000)]
            assert_equal(world, by_reading(played, store, asked), by_reference(world, asked, before=stop))
            past = [(key, stop - 5_400_000_000) for key in everybody(case)]
            got, want = by_reading(played, store, past), by_reference(world, past)
            for pair, cells in got.items():
                for name, (value, status) in cells.items():
                    if status is Status.PRESENT:
                        feature = world.view.feature(name)
                        assert agrees(world, feature, pair, value, want[pair][name][0]), (pair, name)


@given(
    case=cases(),
    cut=st.integers(0, 2 * 86_400_000_000),
    later=st.integers(0, 86_400_000_000),
    seed=st.integers(0, 99),
)
@EXAMPLES
def test_base_and_head_together_are_the_training_row(
    root: Path, con: Connection, store: OnlineStore, case: Case, cut: int, later: int, seed: int
) -> None:
    check_hand_over(root, con, store, case, cut, later, seed)


@pytest.mark.slow
@given(
    case=cases(events=60),
    cut=st.integers(0, 2 * 86_400_000_000),
    later=st.integers(0, 86_400_000_000),
    seed=st.integers(0, 99),
)
@MANY
def test_bases_and_heads_together_are_the_training_rows(
    root: Path, con: Connection, store: OnlineStore, case: Case, cut: int, later: int, seed: int
) -> None:
    check_hand_over(root, con, store, case, cut, later, seed)


def check_hand_over(
    root: Path, con: Connection, store: OnlineStore, case: Case, cut: int, later: int, seed: int
) -> None:
    """A base published under a stream, that read some of the events: values are right before, after, and once more is read."""
    world = world_of(case, root)
    end = instant(case.at)
    config = Config(world.root, "laws", threads=1)
    with Replay(config, world.view, world.events, store, f"s{next(_streams)}", seed) as replay:
        played = replace(world, view=replay.view)
        replay.until(end)
        base = floor(end - cut, layout_of(world.view).grid)
        materialize_view(con, store, replay.view, world.root, end=base, heads=False)
        for stop in (end, end + later):
            replay.until(stop)  # the second time the stream knows of the base, and forgets
            asked = [(key, at) for key in everybody(case) for at in (stop, stop + 3_600_000_000)]
            got = by_reading(played, store, asked)
            assert_equal(world, got, by_reference(world, asked, before=stop))


_streams = count()


@given(case=cases(), kept=st.integers(0, 86_400_000_000))
@EXAMPLES
def test_later_events_never_change_a_value(root: Path, case: Case, kept: int) -> None:
    """Neither do events of the very moment asked for."""
    at = instant(case.at)
    past = replace(
        case, rows=[r for r in map(case.row, case.rows) if r["at"] is not None and instant(r["at"]) < at]
    )
    asked = [(key, at) for key in everybody(case)]
    world = world_of(case, root)
    assert_equal(world, by_training(world, asked), by_training(world_of(past, root), asked))


@given(case=cases())
@EXAMPLES
def test_the_order_of_rows_in_a_file_changes_nothing(root: Path, case: Case) -> None:
    turned = replace(case, rows=list(reversed(case.rows)))
    asked = [(key, instant(case.at)) for key in everybody(case)]
    assert_equal(
        world_of(case, root),
        by_training(world_of(turned, root), asked),
        by_training(world_of(case, root), asked),
    )


# ---------------------------------------------------------------------------------------------------- plans and layouts


@given(case=cases(events=0))
@settings(max_examples=50)
def test_a_plan_survives_its_json(root: Path, case: Case) -> None:
    world = world_of(case, root)
    plan = ir.Plan(views=(world.view,), services=(world.service,), sources=(world.view.source,))
    again = ir.from_json(json.loads(ir.canonical(ir.to_json(plan))))
    assert again == plan
    assert ir.canonical(ir.to_json(again)) == ir.canonical(ir.to_json(plan))
    assert ir.view_fingerprint(again.views[0]) == ir.view_fingerprint(world.view)


@given(case=cases(events=0), data=st.data())
@settings(max_examples=30)
def test_the_order_of_features_is_no_part_of_what_is_stored(
    root: Path, case: Case, data: st.DataObject
) -> None:
    view = world_of(case, root).view
    shuffled = replace(view, features=tuple(data.draw(st.permutations(view.features))))
    assert storage_fingerprint(shuffled) == storage_fingerprint(view)
    assert ir.view_fingerprint(shuffled) == ir.view_fingerprint(view)
    assert layout_of(shuffled).levels == layout_of(view).levels


@given(
    event=st.integers(-(10**16), 10**16),
    ahead=st.integers(-(10**10), 10**12),
    hop=st.sampled_from([1, 7, 1_000_000, 3_600_000_000, 86_400_000_000]),
    hops=st.integers(1, 400),
)
def test_inside_a_window_is_inside_its_tiles(event: int, ahead: int, hop: int, hops: int) -> None:
    """A window is the tiles from its tail to the moment asked for, the last cut off there."""
    asked, size = event + ahead, hop * hops
    tile = floor(event, hop)
    assert inside(event, asked, size, hop) == (floor(asked, hop) - size <= tile < asked and event < asked)
    assert tile <= event < tile + hop


# ------------------------------------------------------------------------------------------------------------- partials

REDUCTIONS: list[tuple[Any, DType | None]] = [
    (Count(None), None),
    (Sum(X), Int64),
    (Sum(X), Float64),
    (Minimum(X), Int64),
    (Minimum(X), Float64),
    (Maximum(X), Int64),
    (Maximum(X), Float64),
    (Moments(X), Float64),
    (Moments(X, 3), Float64),
    (Moments(X, 4), Float64),
    (MinBy(X, BY), Int64),
    (MaxBy(X, BY), String),
    (FirstK(X, 3), Int64),
    (FirstK(X, 3), String),
    (LastK(X, 3), Float64),
    (LastK(X, 3), String),
    (Largest(X, 3), Int64),
    (Largest(X, 3), Float64),
    (Smallest(X, 3), Int64),
    (Smallest(X, 3), Float64),
    (Distinct(X, 3), Int64),
    (Distinct(X, 3), String),
    (Buckets(X), Float64),
    (Buckets(X), Int64),
    (Frequencies(X, 3), Int64),
    (Frequencies(X, 3), Float64),
    (Frequencies(X, 3), String),
    (First(X), Int64),
    (First(X), String),
    (Last(X), Int64),
    (Last(X), String),
]

WHOLES = st.integers(-5, 5) | st.sampled_from([2**62, -(2**62), 2**63 - 1, -(2**63)])
FLOATS = st.integers(-8000, 8000).map(lambda n: n / 8) | st.sampled_from([1e9, 1e9 + 2**-10, 1e9 - 2**-10])


def slot_of(reduction: Any, dtype: DType | None) -> Slot:
    return Slot("p0", reduction, None, dtype, Int64 if isinstance(reduction, MinBy | MaxBy) else None)


def inputs_of(dtype: DType | None) -> st.SearchStrategy[Any]:
    if dtype == Float64:
        return FLOATS
    return st.sampled_from(["", "a", "é"]) if dtype == String else WHOLES


@st.composite
def columns(draw: st.DrawFn, dtype: DType | None) -> list[Any]:
    return draw(st.lists(st.none() | inputs_of(dtype), min_size=1, max_size=24))


def numpy_of(dtype: DType | None) -> Any:
    return np.int64 if dtype is None else numpy_dtype(dtype)


def tiles_of(slot: Slot, values: Sequence[Any], cuts: Sequence[int]) -> Partial:
    """Partials of the values between cuts, in order: one tile each, empty ones included."""
    lo = np.array([0, *cuts])
    hi = np.array([*cuts, len(values)])
    keep = np.array([v is not None for v in values], np.bool_)
    empty = "" if slot.dtype == String else 0
    x = np.array([empty if v is None else v for v in values], numpy_of(slot.dtype))
    times = np.arange(len(values), dtype=np.int64)
    ranges = OverlappingRanges(lo, hi, len(values))
    if isinstance(slot.reduction, MinBy | MaxBy):
        return reduce_events(slot, x, None, times, ranges, By(times * 7 % 5, keep))
    return reduce_events(slot, x, keep, times, ranges)


def merged(slot: Slot, tiles: Partial, groups: Sequence[int]) -> Partial:
    count = len(next(iter(tiles.values())))
    lo, hi = np.array([0, *groups]), np.array([*groups, count])
    return merge_tiles(slot, tiles, GatheredRanges(lo, hi, count))


def cuts_of(count: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, count), max_size=6).map(sorted)


def same_partial(slot: Slot, a: Partial, b: Partial) -> None:
    assert set(a) == set(b)
    if slot.ragged:
        assert all(a[name].tolist() == b[name].tolist() for name in a), (a, b)
        return
    valid = a.get("valid", a.get("n", np.zeros(1)) > 0) if slot.dtype is not None else np.ones(1, np.bool_)
    if "valid" in a:
        assert a["valid"].tolist() == b["valid"].tolist()
    if isinstance(slot.reduction, Moments):
        assert a["n"].tolist() == b["n"].tolist()
        for i in range(len(a["n"])):
            left, right = (Fraction(p["mean"][i]) + Fraction(p["low"][i]) for p in (a, b))
            spread = math.sqrt(a["m2"][i] / max(1, a["n"][i]))  # what a mean has to be right to
            assert abs(left - right) <= 1e-12 * spread
            assert math.isclose(a["m2"][i], b["m2"][i], rel_tol=1e-12)
            if "m3" in a:
                assert abs(a["m3"][i] - b["m3"][i]) <= 1e-11 * a["n"][i] * spread**3
            if "m4" in a:
                assert math.isclose(a["m4"][i], b["m4"][i], rel_tol=1e-11)
        return
    if "s" in a:
        assert np.allclose(a["s"] + a["c"], b["s"] + b["c"], rtol=1e-12, atol=1e-6)
        return
    for name in set(a) - {"valid"}:
        assert a[name][valid].tolist() == b[name][valid].tolist(), name


@pytest.mark.parametrize(("reduction", "dtype"), REDUCTIONS, ids=str)
@given(data=st.data())
@settings(max_examples=30)
def test_merging_is_associative(reduction: Any, dtype: DType | None, data: st.DataObject) -> None:
    """Any bracketing of tiles that are in order gives what all of them give at once."""
    slot = slot_of(reduction, dtype)
    values = data.draw(columns(dtype))
    tiles = tiles_of(slot, values, data.draw(cuts_of(len(values))))
    count = len(next(iter(tiles.values())))
    bracketed = merged(slot, merged(slot, tiles, data.draw(cuts_of(count))), [])
    same_partial(slot, bracketed, merged(slot, tiles, []))


@pytest.mark.parametrize(("reduction", "dtype"), REDUCTIONS, ids=str)
@given(data=st.data())
@settings(max_examples=30)
def test_tiling_does_not_change_a_partial(reduction: Any, dtype: DType | None, data: st.DataObject) -> None:
    """Merged tiles are the partial of all values, however they were cut; tiles of nothing are neutral."""
    slot = slot_of(reduction, dtype)
    values = data.draw(columns(dtype))
    cuts = data.draw(cuts_of(len(values)))
    same_partial(slot, merged(slot, tiles_of(slot, values, cuts), []), tiles_of(slot, values, []))
    around = sorted([0, 0, *cuts, len(values), len(values)])
    same_partial(slot, merged(slot, tiles_of(slot, values, around), []), tiles_of(slot, values, []))


@pytest.mark.parametrize(("reduction", "dtype"), [r for r in REDUCTIONS if slot_of(*r).ragged], ids=str)
@given(data=st.data())
@settings(max_examples=60)
def test_windows_over_tiles_are_the_events_in_them(
    reduction: Any, dtype: DType | None, data: st.DataObject
) -> None:
    """Whole tiles and the events of those cut at either end, however many are gathered at a time."""
    slot = slot_of(reduction, dtype)
    values = data.draw(columns(dtype))
    starts = sorted({0, *data.draw(cuts_of(len(values) - 1))})
    owner = np.cumsum(
        data.draw(st.lists(st.sampled_from([0, 0, 1]), min_size=len(starts), max_size=len(starts)))
    )
    begin = st.sampled_from(starts) | st.integers(0, max(len(values) - 1, 0))
    pairs = data.draw(st.lists(st.tuples(begin, st.integers(0, len(values))), max_size=9))
    lo = np.array([a for a, _ in pairs], np.int64)
    tile = np.searchsorted(starts, lo, "right") - 1
    stop = np.append(starts, len(values))[np.searchsorted(owner, owner[tile], "right")]
    hi = np.clip(np.array([b for _, b in pairs], np.int64), lo, stop)
    lo = np.append(lo, len(values))
    hi = np.append(hi, len(values))
    keep = np.array([v is not None for v in values], np.bool_)
    x = np.array([("" if dtype == String else 0) if v is None else v for v in values], numpy_of(dtype))
    times = np.arange(len(values), dtype=np.int64)
    before, ragged.PIECE = ragged.PIECE, data.draw(st.sampled_from([1, 3, 1 << 22]))
    try:
        windows = ragged.Windows(slot, ragged.lift(slot, x, keep, times), np.array(starts), owner)
        got = windows.merge(lo, hi)
    finally:
        ragged.PIECE = before
    same_partial(slot, got, reduce_events(slot, x, keep, times, OverlappingRanges(lo, hi, len(values))))


@pytest.mark.parametrize(
    "reduction", [Largest(X, 3), Smallest(X, 3), Distinct(X, 5), Buckets(X), Frequencies(X, 4)], ids=str
)
def test_long_windows_over_tiles_are_the_events_in_them(reduction: Any) -> None:
    """Hundreds of tiles of several entities, some without an item."""
    random = np.random.default_rng(3)
    slot, n = slot_of(reduction, Int64), 3000
    starts = np.unique(np.append(random.integers(0, n, 700), 0))
    owner = np.sort(random.integers(0, 4, len(starts)))
    x, keep, times = random.integers(-50, 50, n), random.random(n) < 0.4, np.arange(n)
    windows = ragged.Windows(slot, ragged.lift(slot, x, keep, times), starts, owner)
    for most in (3, 40, 700):  # what reached less far before is reached further now
        tile = random.integers(0, len(starts), 500)
        lo = np.minimum(starts[tile] + random.choice([0, 0, 1, 2], 500), n - 1)
        tile = np.searchsorted(starts, lo, "right") - 1
        last = np.append(starts, n)[np.searchsorted(owner, owner[tile], "right")]
        far = np.append(starts, n)[np.minimum(tile + random.integers(0, most, 500), len(starts))]
        hi = np.clip(far + random.integers(-3, 4, 500), lo, last)
        got = windows.merge(lo, hi)
        same_partial(slot, got, reduce_events(slot, x, keep, times, OverlappingRanges(lo, hi, n)))


@given(value=st.floats(2.3e-308, 1.7e308) | st.floats(-1.7e308, -2.3e-308))
def test_a_bucket_is_near_all_its_values(value: float) -> None:
    (middle,) = ragged.middles(ragged.buckets(np.array([value])))
    assert abs(Fraction(middle) - Fraction(value)) <= Fraction(ragged.ERROR) * abs(Fraction(value))


@given(a=st.floats(allow_nan=False, allow_infinity=False), b=st.floats(allow_nan=False, allow_infinity=False))
def test_buckets_are_in_the_order_of_values(a: float, b: float) -> None:
    first, second = ragged.buckets(np.array([a, b])).tolist()
    assert first <= second if a <= b else first >= second


@given(n=st.integers(0, 5000), seed=st.integers(0, 1000))
@settings(max_examples=50)
def test_an_estimate_of_distinct_values_is_near(n: int, seed: int) -> None:
    """Exact up to k; past it within 5 standard errors."""
    slot = slot_of(Distinct(X, 256), Int64)
    x = np.arange(n, dtype=np.int64) * 1_000_003 + seed
    one = OverlappingRanges(np.array([0]), np.array([n]), n)
    feature = replace(
        ONE_WINDOW, aggregate="count_distinct", params=(("k", 256),), inputs=(X,), input_types=(Int64,)
    )
    cells = finish(feature, {"v": reduce_events(slot, x, None, x, one)}, np.ones(1, np.bool_))
    assert abs(int(cells.values[0]) - n) <= (0 if n <= 256 else 5 * n / math.sqrt(254))


ONE_WINDOW = Feature("f", "count", (), (), Int64, ir.Window(None, 1))


@pytest.mark.parametrize(("reduction", "dtype"), REDUCTIONS, ids=str)
def test_merging_nothing_is_the_neutral_element(reduction: Any, dtype: DType | None) -> None:
    slot = slot_of(reduction, dtype)
    tiles = tiles_of(slot, [None, None], [1])
    nothing = merge_tiles(slot, tiles, GatheredRanges(np.array([1]), np.array([1]), 2))
    if slot.ragged:
        assert nothing["ends"].tolist() == [0]
        return
    assert not nothing.get("valid", np.zeros(1)).any()
    assert nothing.get("n", np.zeros(1)).tolist() == [0]
