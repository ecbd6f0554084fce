"""Matured rows, each once: a consumer against a log that grows, whatever is killed in between."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.continual import Batch, Captured, Consumer, batches
from featurestore.errors import ConsumerBusy, ConsumerError, CursorMoved
from featurestore.log.eventlog import OFFSET
from featurestore.types import Bool, Float64, String

FEATURES = {"x": Float64, "place": String}
NEVER = -1
_folders = count()


@dataclass
class Log:
    """Rows as a capture log holds them: by fingerprint, each with the moment it matures at, or NEVER."""

    rows: dict[str, list[int]] = field(default_factory=dict)
    now: int = 0
    chunk: int = 3
    erased: set[tuple[str, int]] = field(default_factory=set)

    def append(self, fingerprint: str, matures_at: int) -> None:
        self.rows.setdefault(fingerprint, []).append(matures_at)

    def read(self, after: Mapping[str, int]) -> Iterator[Captured]:
        cursor = dict(after)
        for name, rows in self.rows.items():
            for low in range(cursor.get(name, 0), len(rows), self.chunk):
                offsets = np.arange(low, min(low + self.chunk, len(rows)))
                cursor[name] = int(offsets[-1]) + 1
                offsets = np.array([i for i in offsets if (name, int(i)) not in self.erased], np.int64)
                matures = np.array([rows[i] for i in offsets], np.int64)
                table = pa.table(
                    {
                        "row_id": [f"{name}-{i}" for i in offsets],
                        "x": offsets.astype(np.float64),
                        "place": ["here"] * len(offsets),
                        "late": offsets % 2 == 0,
                        OFFSET: offsets,
                    }
                )
                lost = matures == NEVER
                yield Captured(name, table, ~lost & (matures <= self.now), lost, dict(cursor))


def reading(log: Log, consumer: Consumer, size: int = 2, **more: Any) -> Generator[Batch, None, None]:
    return batches(
        consumer,
        log.read,
        size=size,
        as_of=log.now,
        features=FEATURES,
        labels=["late"],
        versions=[f"late@{log.now}"],
        **more,
    )


def filled(*matures_at: int) -> Log:
    log = Log(now=10)
    for at in matures_at:
        log.append("a", at)
    return log


def consumer(tmp_path: Path, name: str = "trainer") -> Consumer:
    return Consumer(tmp_path, "delay", name)


def test_what_matures_later_comes_later_and_once(tmp_path: Path) -> None:
    log, trainer = filled(5, 20, 7, NEVER, 30), consumer(tmp_path)
    seen = []
    for log.now in (10, 10, 25, 40):
        for batch in reading(log, trainer):
            seen.append((log.now, batch.row_ids))
            batch.commit()
    assert seen == [(10, ["a-0", "a-2"]), (25, ["a-1"]), (40, ["a-4"])]
    state = trainer.state()
    assert (state.taken, state.censored, state.cursor) == (4, 1, {"a": 5})
    assert all(not len(rows) for rows in state.waiting.values())


def test_what_was_not_committed_comes_again(tmp_path: Path) -> None:
    log = filled(1, 2, 3, 4, 5)
    first = reading(log, consumer(tmp_path))
    next(first).commit()
    assert next(first).row_ids == ["a-2", "a-3"]
    first.close()  # killed before it was committed
    assert [b.row_ids for b in reading(log, consumer(tmp_path))] == [["a-2", "a-3"], ["a-4"]]


def test_a_commit_takes_what_came_before_it(tmp_path: Path) -> None:
    log = filled(1, 2, 3, 4, 5)
    one, two, _ = reading(log, consumer(tmp_path))
    two.commit()
    assert (one.committed, two.committed) == (True, True)
    assert [b.row_ids for b in reading(log, consumer(tmp_path))] == [["a-4"]]


def test_rows_that_are_gone_are_waited_for_no_longer(tmp_path: Path) -> None:
    log, trainer = filled(1, 50, 60, 2), consumer(tmp_path)
    for batch in reading(log, trainer):
        batch.commit()
    assert trainer.state().waiting["a"].tolist() == [1, 2]
    log.erased = {("a", 1)}
    log.append("a", 3)
    for batch in reading(log, trainer):
        batch.commit()
    assert trainer.state().waiting["a"].tolist() == [2]


def test_consumers_are_independent(tmp_path: Path) -> None:
    log = filled(1, 2, 3)
    for batch in reading(log, consumer(tmp_path, "one")):
        batch.commit()
    assert [b.row_ids for b in reading(log, consumer(tmp_path, "two"))] == [["a-0", "a-1"], ["a-2"]]
    assert list(reading(log, consumer(tmp_path, "one"))) == []


def test_one_process_at_a_time_reads_for_a_consumer(tmp_path: Path) -> None:
    log = filled(1, 2, 3)
    first = reading(log, consumer(tmp_path))
    batch = next(first)
    with pytest.raises(ConsumerBusy):
        next(reading(log, consumer(tmp_path)))
    first.close()
    next(reading(log, consumer(tmp_path))).commit()
    with pytest.raises(CursorMoved):
        batch.commit()


def test_a_batch_is_arrays_for_a_model(tmp_path: Path) -> None:
    (batch,) = reading(filled(1, 2, 3), consumer(tmp_path), size=10)
    assert batch.to_numpy().tolist() == [[0.0], [1.0], [2.0]]
    assert batch.to_numpy().dtype == np.float32
    assert batch.label().tolist() == [True, False, True]
    assert batch.to_arrow().column_names == ["row_id", "x", "place", "late"]
    assert len(batch.to_pandas()) == len(batch) == 3
    assert Bool.name == "Bool"


def test_rounds_number_the_models(tmp_path: Path) -> None:
    log, trainer = filled(1, 2, 3), consumer(tmp_path)

    def train(**more: Any) -> list[str]:
        names = []
        for batch in reading(log, trainer, **more):
            batch.commit()
            names.append(str(batch.lineage))
        return names

    assert train() == ["V1.1.0"] * 2
    log.append("a", 4)
    assert train() == ["V1.1.1"]
    assert train() == []  # nothing new is no round
    log.append("b", 5)
    assert train() == ["V1.1.2"]
    assert train(stateless=True) == ["V1.2.0"] * 3
    log.append("b", 5)
    assert train(architecture=2) == ["V2.1.0"] * 3
    rounds = trainer.state().rounds
    assert [(str(r.lineage), r.rows, r.batches, r.done) for r in rounds] == [
        ("V1.1.0", 3, 2, True),
        ("V1.1.1", 1, 1, True),
        ("V1.1.2", 1, 1, True),
        ("V1.2.0", 5, 3, True),
        ("V2.1.0", 6, 3, True),
    ]
    assert (rounds[1].since, rounds[1].until) == ({"a": 3}, {"a": 4})
    assert rounds[0].labels == ("late@10",)
    assert trainer.state().taken == 6


def test_a_round_that_was_killed_goes_on(tmp_path: Path) -> None:
    log, trainer = filled(1, 2, 3), consumer(tmp_path)
    for batch in reading(log, trainer):
        batch.commit()
    anew = reading(log, trainer, stateless=True)
    next(anew).commit()
    anew.close()
    names = []
    for batch in reading(log, trainer, stateless=True):
        batch.commit()
        names.append((str(batch.lineage), batch.row_ids))
    assert names == [("V1.2.0", ["a-2"])]
    assert [r.rows for r in trainer.state().rounds] == [3, 3]


def test_names_and_files_that_are_none_are_refused(tmp_path: Path) -> None:
    for name in ("", "../up", "a b", ".hidden"):
        with pytest.raises(ConsumerError, match="no name for a consumer"):
            consumer(tmp_path, name)
    trainer = consumer(tmp_path)
    for batch in reading(filled(1), trainer):
        batch.commit()
    (trainer.path / "state.arrow").write_bytes(b"torn")
    with pytest.raises(ConsumerError, match="is not what a commit wrote"):
        trainer.state()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from("ab"), st.integers(-1, 30)),
        st.tuples(st.just("wait"), st.integers(1, 10)),
        st.tuples(st.just("train"), st.integers(0, 4), st.booleans()),
    ),
    max_size=25,
)


@settings(max_examples=150)
@given(steps, st.integers(1, 4), st.integers(1, 4))
def test_every_row_that_matures_is_committed_once(
    tmp_path_factory: pytest.TempPathFactory, done: list[Any], size: int, chunk: int
) -> None:
    """Whatever grows, matures, is read, committed or killed, in whatever order."""
    log = Log(chunk=chunk)
    root = tmp_path_factory.getbasetemp() / f"consumers{next(_folders)}"
    taken: list[str] = []
    for what, *said in [*done, ("wait", 100), ("train", 99, True)]:
        match what:
            case "append":
                log.append(said[0], said[1])
            case "wait":
                log.now += said[0]
            case _:
                made = reading(log, consumer(root), size)
                for batch, _ in zip(made, range(said[0]), strict=False):
                    if said[1]:
                        batch.commit()
                        taken += batch.row_ids
                made.close()  # a kill: the last batch that was read may not be committed
    want = [f"{n}-{i}" for n, rows in log.rows.items() for i, at in enumerate(rows) if at != NEVER]
    assert sorted(taken) == sorted(want)
    assert consumer(root).state().taken == len(want)
