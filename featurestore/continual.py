"""Continual training: the rows that have matured since a consumer's last commit, each once.

A consumer reads the capture log in order, and keeps what it read and could not take yet: rows whose label is not mature. What
it keeps is the log's cursor and the offsets of these rows, in one file that a commit replaces whole. So a batch is committed or
it is not, whatever is killed, and what was not committed comes again.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from featurestore.errors import ConsumerBusy, ConsumerError, CursorMoved
from featurestore.evaluate.partials import Array
from featurestore.ir import digest
from featurestore.log.eventlog import OFFSET, replace_file
from featurestore.types import is_tensor

STATE: Final = "state.arrow"
ROUNDS: Final = 1_000
"""Rounds that a consumer's history holds; the oldest are forgotten."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")


@dataclass(frozen=True, slots=True)
class Lineage:
    """Which model a round makes: an architecture, trained anew for the `stateless`-th time, and since then `stateful` times on.

    >>> str(Lineage(1, 2, 12))
    'V1.2.12'
    """

    architecture: int = 1
    stateless: int = 0
    stateful: int = 0

    def __str__(self) -> str:
        return f"V{self.architecture}.{self.stateless}.{self.stateful}"


@dataclass(frozen=True, slots=True)
class Round:
    """One round of training, as a manifest of what was committed of it. `done` says that all there was is.

    `since` and `until` are cursors of the log, `digest` is of the places of all rows in the order they were taken, so two
    rounds with one digest learnt from the same rows. Moments in microseconds.
    """

    lineage: Lineage
    began_at: int
    as_of: int
    rows: int = 0
    batches: int = 0
    done: bool = False
    since: Mapping[str, int] = field(default_factory=dict)
    until: Mapping[str, int] = field(default_factory=dict)
    labels: Sequence[str] = ()
    service: str = ""
    fingerprint: str = ""
    digest: str = ""


@dataclass(frozen=True)
class State:
    """What a consumer has committed. `waiting` are the offsets, by fingerprint, of rows read and not taken yet."""

    cursor: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, Array] = field(default_factory=dict)
    rounds: tuple[Round, ...] = ()
    taken: int = 0
    """Rows in committed batches, since the consumer began or began anew."""
    censored: int = 0
    """Rows that will never have a label: passed over."""

    @property
    def lineage(self) -> Lineage:
        return self.rounds[-1].lineage if self.rounds else Lineage()


@dataclass(frozen=True, slots=True)
class Captured:
    """Some captured rows of one fingerprint with their labels, as `read` gives them.

    `table` has the columns a batch has, and the log's `__offset`; `mature` are those that can be taken, `lost` those that never
    can. `cursor` is where to go on after them.
    """

    fingerprint: str
    table: pa.Table
    mature: Array
    lost: Array
    cursor: Mapping[str, int]


Read = Callable[[Mapping[str, int]], Iterator[Captured]]


class Batch:
    """Matured rows, at most as many as asked for: keys, moment, features as served, labels."""

    def __init__(
        self, table: pa.Table, features: Sequence[str], labels: Sequence[str], taking: _Taking, number: int
    ) -> None:
        self.table, self._features, self._labels = table, features, labels
        self._taking, self.number = taking, number

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def round(self) -> Round:
        """The round it is of, with what was committed of that so far."""
        return self._taking.now

    @property
    def lineage(self) -> Lineage:
        """Which model is trained with it."""
        return self.round.lineage

    @property
    def manifest(self) -> dict[str, Any]:
        """What it is, as plain values to keep beside a model: its round's, and its own number and rows."""
        return {
            **asdict(self.round),
            "lineage": str(self.lineage),
            "batch": self.number,
            "batch_rows": len(self),
        }

    @property
    def committed(self) -> bool:
        """Whether it is taken for good."""
        return self._taking.committed >= self.number

    @property
    def row_ids(self) -> list[str]:
        """What predictions and labels of these rows are told by."""
        found: list[str] = self.table.column("row_id").to_pylist()
        return found

    def to_arrow(self) -> pa.Table:
        """The rows as one Arrow table."""
        return self.table

    def to_pandas(self) -> Any:
        """The rows as a pandas frame."""
        return self.table.to_pandas()

    def to_numpy(self, dtype: str = "float32") -> Array:
        """The numbers among the features, as an online read gives them: (rows, features), NULL is NaN."""
        out = np.full((len(self), len(self._features)), np.nan, dtype)
        for i, name in enumerate(self._features):
            column = self.table.column(name).cast(pa.float64(), safe=False)
            out[:, i] = column.to_numpy()
        return out

    def label(self, name: str | None = None) -> Array:
        """The values of one label, by default the first."""
        chosen = self._labels[0] if name is None else name
        found: Array = self.table.column(chosen).to_numpy()
        return found

    def commit(self) -> None:
        """Makes it, and every batch before it, taken for good: on disk when this returns. Once more changes nothing.

        Raises CursorMoved when the consumer was committed elsewhere since.
        """
        if not self.committed:
            self._taking.commit(self.number)


# ------------------------------------------------------------------------------------------------------------ what is kept


class Consumer:
    """One consumer of one service's rows: `path` is its folder."""

    def __init__(self, path: Path, service: str, name: str) -> None:
        if not _NAME.match(name):
            raise ConsumerError(
                f"{name!r} is no name for a consumer\n  letters, digits, '_', '-' and '.', a letter or digit first"
            )
        self.path, self.service, self.name = path / service / name, service, name

    def state(self) -> State:
        """What is committed; nothing of a consumer that is new. Raises ConsumerError for a file that is no state."""
        try:
            table = pa.ipc.open_file(pa.py_buffer((self.path / STATE).read_bytes())).read_all()
            said = json.loads(table.schema.metadata[b"state"])
            rounds = tuple(_round(r) for r in said["rounds"])
        except FileNotFoundError:
            return State()
        except (pa.ArrowInvalid, ValueError, KeyError, TypeError) as error:
            raise ConsumerError(
                f"{self.path / STATE} is not what a commit wrote: {error}\n"
                "  restore it, or remove the folder: the consumer then begins anew"
            ) from error
        codes = table.column("fingerprint").to_numpy()
        offsets = table.column("offset").to_numpy()
        waiting = {n: offsets[codes == i] for i, n in enumerate(said["fingerprints"])}
        return State(said["cursor"], waiting, rounds, said["taken"], said["censored"])

    def write(self, state: State) -> None:
        """Replaces what is committed, whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        names = [n for n, rows in state.waiting.items() if len(rows)]
        said = {
            "cursor": dict(state.cursor),
            "fingerprints": names,
            "rounds": [asdict(r) for r in state.rounds[-ROUNDS:]],
            "taken": state.taken,
            "censored": state.censored,
        }
        offsets = [state.waiting[n] for n in names]
        table = pa.table(
            {
                "fingerprint": np.repeat(np.arange(len(names), dtype=np.int32), [len(o) for o in offsets]),
                "offset": np.concatenate([*offsets, np.zeros(0, np.int64)]).astype(np.int64),
            }
        ).replace_schema_metadata({"state": json.dumps(said)})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        replace_file(self.path / STATE, [sink.getvalue().to_pybytes()])

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One process at a time trains for a consumer. Raises ConsumerBusy while another does."""
        self.path.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConsumerBusy(
                    f"consumer '{self.name}' of '{self.service}' is being read elsewhere\n"
                    "  wait for it, or take another name: consumers are independent"
                ) from error
            yield
        finally:
            os.close(fd)


def _round(said: Mapping[str, Any]) -> Round:
    return Round(**{**said, "lineage": Lineage(**said["lineage"]), "labels": tuple(said["labels"])})


# ---------------------------------------------------------------------------------------------------------------- batches


def batches(
    consumer: Consumer,
    read: Read,
    *,
    size: int,
    as_of: int,
    features: Mapping[str, Any],
    labels: Sequence[str],
    versions: Sequence[str],
    service: str = "",
    fingerprint: str = "",
    stateless: bool = False,
    architecture: int | None = None,
) -> Generator[Batch, None, None]:
    """Rows that are mature as of a moment and not committed yet, in the order they were captured, `size` at a time.

    A round ends with its last batch; one that was not ended goes on, the next is a new one. With `stateless` the consumer
    begins anew from the first row, once the first batch is committed; with another `architecture` too.
    """
    with consumer.alone():
        state, now = _begun(consumer.state(), as_of, versions, stateless=stateless, architecture=architecture)
        now = replace(now, service=service, fingerprint=fingerprint)
        taking = _Taking(consumer, consumer.state(), state, now)
        numbers = [n for n, dtype in features.items() if is_tensor(dtype)]
        held: list[pa.Table] = []
        rows = 0
        for some in read(_starts(state)):
            ready = taking.saw(some)
            held, rows = [*held, ready], rows + ready.num_rows
            while rows >= size:
                whole = pa.concat_tables(held, promote_options="default")
                yield taking.batch(whole.slice(0, size), numbers, labels)
                held, rows = [whole.slice(size)], rows - size
        taking.saw_all()
        if rows:
            yield taking.batch(pa.concat_tables(held, promote_options="default"), numbers, labels)
        taking.close()


def _begun(
    state: State, as_of: int, versions: Sequence[str], *, stateless: bool, architecture: int | None
) -> tuple[State, Round]:
    """The state that a round begins from, and the round: the last one, where it did not end."""
    last = state.rounds[-1] if state.rounds else None
    known = state.lineage
    wanted = known.architecture if architecture is None else architecture
    anew = stateless or wanted != known.architecture
    if last is not None and not last.done and wanted == known.architecture:
        is_stateless = last.lineage.stateful == 0
        if is_stateless == stateless or not stateless:
            return state, replace(last, as_of=as_of, labels=tuple(versions))
    if anew or last is None:
        times = known.stateless + 1 if wanted == known.architecture else 1
        lineage = Lineage(wanted, times, 0)
        return State(rounds=state.rounds), Round(lineage, as_of, as_of, labels=tuple(versions))
    lineage = replace(known, stateful=known.stateful + 1)
    return state, Round(lineage, as_of, as_of, since=dict(state.cursor), labels=tuple(versions))


def _starts(state: State) -> dict[str, int]:
    """Where to read from: the first row that waits, or else where reading ended."""
    first = {n: int(rows.min()) for n, rows in state.waiting.items() if len(rows)}
    return {n: min(end, first.get(n, end)) for n, end in state.cursor.items()}


class _Taking:
    """One reading of the log: what was seen so far, and what of it was given out and committed."""

    def __init__(self, consumer: Consumer, kept: State, start: State, now: Round) -> None:
        self._consumer, self._kept, self._start, self.now = consumer, kept, start, now
        self._before = {n: set(rows.tolist()) for n, rows in start.waiting.items()}
        self._waiting = {n: set(rows) for n, rows in self._before.items()}
        self._met: dict[str, set[int]] = {}
        self._cursor = dict(start.cursor)
        self._censored = start.censored
        self._taken = start.taken
        self._whole = False
        self.committed, self._numbers = 0, 0
        self._given: dict[int, dict[str, list[int]]] = {}

    def saw(self, some: Captured) -> pa.Table:
        """Those of the rows that can be taken now."""
        offsets = some.table.column(OFFSET).to_numpy()
        before = self._start.cursor.get(some.fingerprint, 0)
        waiting = self._before.get(some.fingerprint, set())
        self._met.setdefault(some.fingerprint, set()).update(waiting.intersection(offsets.tolist()))
        new = (offsets >= before) | np.isin(offsets, np.fromiter(waiting, np.int64, len(waiting)))
        self._waiting.setdefault(some.fingerprint, set()).update(offsets[new & ~some.lost].tolist())
        lost = offsets[new & some.lost]
        self._censored += len(lost)
        self._waiting[some.fingerprint] -= set(lost.tolist())
        self._cursor = {
            n: max(end, self._cursor.get(n, 0)) for n, end in {**self._cursor, **some.cursor}.items()
        }
        mature = some.table.filter(pa.array(new & some.mature))
        return mature.append_column("__fingerprint", pa.repeat(some.fingerprint, mature.num_rows))

    def saw_all(self) -> None:
        """Says that the log was read to its end: rows that waited and are not there any more were erased, or too old."""
        self._whole = True
        for name, rows in self._before.items():
            self._waiting[name] -= rows - self._met.get(name, set())

    def batch(self, table: pa.Table, features: Sequence[str], labels: Sequence[str]) -> Batch:
        own: dict[str, list[int]] = {}
        for name, offset in zip(
            table.column("__fingerprint").to_pylist(), table.column(OFFSET).to_pylist(), strict=True
        ):
            own.setdefault(name, []).append(offset)
        self._numbers += 1
        self._given[self._numbers] = own
        rows = table.drop_columns([OFFSET, "__fingerprint"])
        return Batch(rows, features, labels, self, self._numbers)

    def commit(self, number: int) -> None:
        """Makes the batches up to this one taken."""
        if self._consumer.state().rounds != self._kept.rounds:
            raise CursorMoved(
                f"consumer '{self._consumer.name}' was committed elsewhere since this batch was read\n"
                "  read again: what was not committed comes again"
            )
        done = [self._given.pop(n) for n in sorted(self._given) if n <= number]
        for own in done:
            for name, offsets in own.items():
                self._waiting[name] -= set(offsets)
        rows = sum(len(offsets) for own in done for offsets in own.values())
        self._taken += rows
        self.now = replace(
            self.now,
            rows=self.now.rows + rows,
            batches=self.now.batches + len(done),
            until=dict(self._cursor),
            digest=digest([self.now.digest, *done]),
        )
        self._write()
        self.committed = number

    def close(self) -> None:
        """After the last batch: the round is done when all of it was committed."""
        if self._whole and not self._given and self.now.batches:
            self.now = replace(self.now, done=True)
            self._write()

    def _write(self) -> None:
        began = [r for r in self._kept.rounds if r.lineage != self.now.lineage]
        waiting = {n: np.array(sorted(rows), np.int64) for n, rows in self._waiting.items()}
        state = State(dict(self._cursor), waiting, (*began, self.now), self._taken, self._censored)
        self._consumer.write(state)
        self._kept = self._consumer.state()


def consumers(path: Path, service: str) -> dict[str, State]:
    """What each consumer of a service has committed, by name."""
    found = sorted((path / service).glob(f"*/{STATE}"))
    return {f.parent.name: Consumer(path, service, f.parent.name).state() for f in found}


__all__ = ["Batch", "Captured", "Consumer", "Lineage", "Read", "Round", "State", "batches", "consumers"]
