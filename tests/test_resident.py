"""Rows that are kept beside the store: what is found is what was kept last, and what does not fit is forgotten, never wrong."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.evaluate.partials import Array
from featurestore.online.store import open_store
from featurestore.serving.resident import Resident
from tests.served import wait_until

WIDTH = 3
NUMBERS = st.lists(
    st.one_of(st.integers(-5, 5), st.sampled_from([-(2**63), 2**63 - 1]), st.integers(-(2**63), 2**63 - 1)),
    max_size=40,
    unique=True,
)


def floats_of(numbers: Array) -> Array:
    """What the rows of numbers hold, so that each can be told from any other."""
    base = numbers.view(np.uint64) % np.uint64(1 << 20)
    return np.stack([base, base + np.uint64(1), numbers.view(np.uint64) >> np.uint64(44)], 1).astype(
        np.float32
    )


def keep(table: Resident, numbers: Array, since: int = 10, at: int = 10) -> None:
    table.add(numbers, floats_of(numbers), np.full(len(numbers), since), np.full(len(numbers), at))


def found(table: Resident, numbers: Array) -> Array:
    """Which numbers are there; what is there has to be their own."""
    rows, there = table.find(numbers)
    mask = np.ones(len(numbers), np.bool_) if there is None else there
    got = table.floats(rows[mask], 100, None)
    assert got is not None
    assert np.array_equal(got, floats_of(numbers[mask]))
    return mask


@settings(max_examples=300, deadline=None)
@given(batches=st.lists(NUMBERS, max_size=6), asked=NUMBERS)
def test_what_was_kept_is_found_and_nothing_else(batches: list[list[int]], asked: list[int]) -> None:
    table, known = Resident(WIDTH), set[int]()
    for batch in batches:
        new = [n for n in batch if n not in known]
        keep(table, np.array(new, np.int64))
        known |= set(new)
    mine = [*asked, *known, *asked]
    # So few numbers hardly ever meet in both tables; those that do are read anew.
    there = found(table, np.array(mine, np.int64))
    assert not [n for n, is_there in zip(mine, there, strict=True) if is_there and n not in known]
    assert sum(there) >= sum(n in known for n in mine) - 4


@pytest.mark.parametrize(
    "make",
    [
        lambda n: np.arange(n) - n // 2,
        lambda n: np.arange(n) << 32,
        lambda n: np.arange(n) * 1_000_003,
        lambda n: np.random.default_rng(1).integers(-(2**63), 2**63 - 1, n),
    ],
    ids=["dense", "high bits", "strided", "random"],
)
def test_a_table_that_grows_still_has_nearly_all(make: Callable[[int], Array]) -> None:
    numbers = np.unique(make(50_000).astype(np.int64))
    table = Resident(WIDTH)
    for part in np.array_split(numbers, 97):
        keep(table, part)
        assert found(table, part).mean() > 0.8
    assert len(table) == len(numbers)
    there = found(table, numbers)
    assert there.mean() > 0.95
    for _ in range(3):  # whoever was driven out comes back
        keep(table, numbers[~there])
        there = found(table, numbers)
    assert there.mean() > 0.9
    assert not found(table, numbers[:1000] ^ np.int64(1 << 62)).any()


def test_a_full_table_begins_anew() -> None:
    table = Resident(WIDTH, 100 * 1000)
    for start in range(0, 20_000, 500):
        numbers = np.arange(start, start + 500)
        keep(table, numbers)
        assert found(table, numbers).mean() > 0.8
        assert len(table) <= 1000
    table.clear()
    assert len(table) == 0
    assert not found(table, np.arange(20_000)).any()
    keep(table, np.arange(20_000))  # more than it ever holds
    assert not found(table, np.arange(20_000)).any()


def test_rows_count_from_one_moment_on_and_grow_old_after_another() -> None:
    table = Resident(WIDTH)
    for number, (since, at) in enumerate([(5, 5), (50, 20), (30, 30)]):
        keep(table, np.array([number]), since, at)

    def there(numbers: list[int], q: int, ttl: int | None = None) -> bool:
        rows, missing = table.find(np.array(numbers))
        assert missing is None
        return table.floats(rows, q, ttl) is not None

    assert there([0, 1, 2], 51)
    assert not there([0, 1, 2], 50)  # what happens at the very moment is not known yet
    assert there([0, 2], 50)
    assert there([0, 0, 2], 31)
    assert not there([2], 30)
    assert there([0, 1, 2], 60, 55)
    assert not there([0, 1, 2], 61, 55)
    assert there([1, 2], 61, 55)
    assert not there([1], 76, 55)


def test_the_moment_of_a_store_is_another_after_a_commit_of_any_process(tmp_path: Path) -> None:
    with open_store(f"lmdb://{tmp_path}/kept", tmp_path) as store:
        store.write([(b"a", b"1")])
        before = store.moment()  # type: ignore[attr-defined]
        assert store.read([b"a"]) == [b"1"]
        assert store.moment() == before  # type: ignore[attr-defined]
        code = (
            "import sys; from pathlib import Path; from featurestore.online.store import open_store\n"
            "with open_store(sys.argv[1], Path()) as store: store.write([(b'a', b'2')])"
        )
        subprocess.run([sys.executable, "-c", code, f"lmdb://{tmp_path}/kept"], check=True)
        after = store.moment()  # type: ignore[attr-defined]
        assert after != before
        assert store.read([b"a"]) == [b"2"]
        shutil.rmtree(tmp_path / "kept")  # a new one in its place may count the same commits
        wait_until(lambda: store.read([b"a"]) == [None])
        store.write([(b"a", b"3")])
        assert store.moment() not in (before, after)  # type: ignore[attr-defined]
