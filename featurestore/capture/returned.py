"""What comes back of served rows: predictions of models, and labels. Appended to a log of their own, on disk when they are taken.

The same value twice is taken once. A different one for the same row and name is the next version of it: both are kept, and
the newest is what a reader gets, by the order in which they came, whatever clocks said. What is of no known row is kept as
well, for its row may still be on its way; it is counted, and joins when the row is there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, assert_never

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.capture.known import Index, digest_of
from featurestore.capture.log import CaptureLog, append, opened, read_on, stats_of
from featurestore.errors import RequestError
from featurestore.evaluate.partials import Mask
from featurestore.log.eventlog import APPENDED_AT, OFFSET, EventLog
from featurestore.log.events import arrow_schema
from featurestore.types import Bool, DType, Float64, Int64, String, Timestamp

What = Literal["predictions", "labels"]

COLUMNS: Final[Mapping[str, DType]] = {
    "row_id": String,
    "name": String,
    "version": String,
    "kind": String,
    "number": Float64,
    "whole": Int64,
    "text": String,
    "at": Timestamp,
    "change": Int64,
    "unknown": Bool,
    "early": Bool,
}
"""`name` is a label's, or a model's, which has a `version` too. `kind` says which of `number`, `whole` and `text` it is."""

BATCH: Final = 65_536


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of values that came back: `new`, the `same` again, or `changed` (the next version of what was there).

    Among the new and the changed, `unknown` are of rows that nothing was captured of, and `early` say a moment before their
    request's. All but the same are kept.
    """

    rows: int = 0
    new: int = 0
    same: int = 0
    changed: int = 0
    unknown: int = 0
    early: int = 0

    def __add__(self, other: Taken) -> Taken:
        return Taken(*(getattr(self, n) + getattr(other, n) for n in Taken.__slots__))


@dataclass(frozen=True, slots=True)
class Came:
    """One value that came back, checked: for the same row, name and version two are the same iff `digest` is."""

    row_id: str
    name: str
    version: str
    kind: str
    number: float | None
    whole: int | None
    text: str | None

    @property
    def digest(self) -> bytes:
        return digest_of(self.kind, self.number, self.whole, self.text)


class Returned:
    """The predictions or labels of one capture log; may be shared between threads and processes."""

    def __init__(self, log: CaptureLog, what: What) -> None:
        self._log, self._what = log, what
        self._directory = log.path / what

    def _open(self) -> EventLog:
        return opened(self._directory, COLUMNS)

    def take(self, row_ids: Any, values: Any, name: str, version: str, at: Any, now: int) -> Taken:
        """Keeps values of rows, on disk when it returns; `at` is a moment (µs) for all, one for each, or None: `now`.

        Raises RequestError for what does not fit, with nothing kept, and LogError where the disk refuses.
        """
        came = _checked(self._what, row_ids, values, name, version)
        moments = _moments(at, len(came), now)
        done = Taken()
        with self._open() as log:
            for low in range(0, len(came), BATCH):
                done += self._take(log, came[low : low + BATCH], moments[low : low + BATCH], now)
        return done

    def _take(self, log: EventLog, came: Sequence[Came], moments: Sequence[int], now: int) -> Taken:
        with Index(self._log).use() as index:
            index.follow(self._what, log)
            asked = index.asked_at([c.row_id for c in came])
            numbers = index.numbered(self._what, [(c.name, c.version, c.row_id, c.digest) for c in came])
            unknown = [a is None for a in asked]
            early = [a is not None and at < a for a, at in zip(asked, moments, strict=True)]
            kept = [i for i, number in enumerate(numbers) if number]
            if kept:
                columns = {
                    "row_id": [came[i].row_id for i in kept],
                    "name": [came[i].name for i in kept],
                    "version": [came[i].version for i in kept],
                    "kind": [came[i].kind for i in kept],
                    "number": [came[i].number for i in kept],
                    "whole": [came[i].whole for i in kept],
                    "text": [came[i].text for i in kept],
                    "at": pa.array([moments[i] for i in kept], pa.int64()).view(pa.timestamp("us", tz="UTC")),
                    "change": [numbers[i] for i in kept],
                    "unknown": [unknown[i] for i in kept],
                    "early": [early[i] for i in kept],
                }
                # Before the index is: what it knows is on disk. Killed in between, it follows when it is used again.
                done = append(log, pa.table(columns, schema=arrow_schema(COLUMNS)), now)
                index.followed(self._what, done.last_offset + 1)
        return Taken(
            len(came),
            sum(n == 1 for n in numbers),
            sum(n == 0 for n in numbers),
            sum(n > 1 for n in numbers),
            sum(unknown[i] for i in kept),
            sum(early[i] for i in kept),
        )

    def read(self, after: int = 0, size: int = BATCH) -> Iterator[tuple[pa.Table, int]]:
        """Everything that came, older versions too, in order from an offset on; with the offset to go on from."""
        if not self._directory.is_dir():
            return
        with self._open() as log:
            yield from read_on(log, max(after, log.start()), size)

    def damaged(self) -> int:
        """How many values were damaged on the disk, and set aside. Those can be sent again."""
        if not self._directory.is_dir():
            return 0
        with self._open() as log:
            for _ in read_on(log, log.start()):
                pass
            return stats_of(log).skipped

    def newest(self) -> pa.Table:
        """The newest value of each row, name and version: COLUMNS and `received_at`, in the order they came."""
        tables = [table for table, _ in self.read()]
        if not tables:
            wanted = arrow_schema({**COLUMNS, OFFSET: Int64, APPENDED_AT: Timestamp})
            return wanted.empty_table().drop_columns([OFFSET]).rename_columns({APPENDED_AT: "received_at"})
        table = pa.concat_tables(tables)
        last = table.group_by(["row_id", "name", "version"]).aggregate([(OFFSET, "max")])[f"{OFFSET}_max"]
        table = table.filter(pc.is_in(table[OFFSET], value_set=last.combine_chunks()))
        return table.drop_columns([OFFSET]).rename_columns({APPENDED_AT: "received_at"})

    def counts(self) -> Taken:
        """What was kept, over all time; `same` were not, and are not counted here."""
        done = Taken()
        for table, _ in self.read():
            first = pc.sum(pc.equal(table["change"], 1)).as_py() or 0
            unknown, early = (pc.sum(table[n]).as_py() or 0 for n in ("unknown", "early"))
            done += Taken(table.num_rows, first, 0, table.num_rows - first, unknown, early)
        return done

    def erase(self, row_ids: Sequence[str]) -> int:
        """Removes what came back of rows; how many values that were."""
        if not self._directory.is_dir() or not row_ids:
            return 0
        wanted = pa.array(row_ids, pa.string())

        def which(table: pa.Table) -> Mask:
            return np.asarray(pc.is_in(table["row_id"], value_set=wanted))

        with self._open() as log:
            gone = log.erase(which)
        with Index(self._log).use() as index:
            index.forget(row_ids)
        return gone


def values_of(table: pa.Table) -> list[Any]:
    """The values of `newest` or `read`, as they were given: a list or object as what its JSON says."""
    kinds, numbers, wholes, texts = (table[n].to_pylist() for n in ("kind", "number", "whole", "text"))
    return [_value(*parts) for parts in zip(kinds, numbers, wholes, texts, strict=True)]


def _value(kind: str, number: float | None, whole: int | None, text: str | None) -> Any:
    if kind == "float":
        return number
    if kind in ("int", "bool"):
        return bool(whole) if kind == "bool" else whole
    return json.loads(text) if kind == "json" and text is not None else text


def _checked(what: What, row_ids: Any, values: Any, name: Any, version: str) -> list[Came]:
    match what:
        case "labels":
            said = "label"
        case "predictions":
            said = "prediction"
        case _:
            assert_never(what)
    ids, given = _listed(row_ids), _listed(values)
    if isinstance(row_ids, str):
        ids, given = [row_ids], [values] if not isinstance(values, list | tuple | np.ndarray) else given
    if not isinstance(name, str) or not name:
        raise RequestError(f"a {said} has a name\n  give {'name=' if what == 'labels' else 'model='}")
    if len(ids) != len(given):
        raise RequestError(f"{len(given)} values came for {len(ids)} row ids\n  give one {said} for each row")
    wrong = next((i for i, r in enumerate(ids) if not isinstance(r, str) or "-" not in r), None)
    if wrong is not None:
        raise RequestError(
            f"row id {ids[wrong]!r} of {said} {wrong} is none\n  a row id is one of `online.row_ids`: REQUEST_ID-NUMBER"
        )
    return [
        Came(i, name, version, *_typed(v, said, n)) for n, (i, v) in enumerate(zip(ids, given, strict=True))
    ]


def _listed(given: Any) -> Sequence[Any]:
    for way in ("to_pylist", "to_list", "tolist"):
        if hasattr(given, way):
            found = getattr(given, way)()
            return found if isinstance(found, list) else [found]
    return list(given) if isinstance(given, list | tuple) else [given]


def _typed(value: Any, said: str, number: int) -> tuple[str, float | None, int | None, str | None]:
    value = value.item() if isinstance(value, np.generic) else value
    match value:
        case None:
            return "null", None, None, None
        case bool():
            return "bool", None, int(value), None
        case int() if -(2**63) <= value < 2**63:
            return "int", None, value, None
        case float() if not math.isfinite(value):
            return "null", None, None, None
        case float():
            return "float", value + 0.0, None, None
        case str():
            return "text", None, None, value
        case list() | tuple() | dict() | np.ndarray():
            plain = value.tolist() if isinstance(value, np.ndarray) else value
            try:
                return "json", None, None, json.dumps(plain, allow_nan=False, sort_keys=True)
            except (TypeError, ValueError) as error:
                raise RequestError(f"{said} {number} cannot be kept: {error}") from error
        case _:
            raise RequestError(
                f"{said} {number} is {value!r}, a {type(value).__name__}\n  give numbers, texts, booleans, or lists of them"
            )


def _moments(at: Any, rows: int, now: int) -> list[int]:
    if at is None or isinstance(at, int):
        return [now if at is None else at] * rows
    if len(at) != rows:
        raise RequestError(f"{len(at)} moments came for {rows} row ids\n  give one for all, or one for each")
    return list(at)
