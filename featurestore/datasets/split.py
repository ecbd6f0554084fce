"""Splits and samples: parts of a training set by time, by group or at random, that come out the same every time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.compile.sources import Connection, connect
from featurestore.datasets.chance import below, column_of, of_positions, of_values
from featurestore.datasets.rows import Streamed, reread
from featurestore.errors import DatasetError
from featurestore.evaluate.partials import Array
from featurestore.spine import times_of
from featurestore.time import Duration, Moment, moment

if TYPE_CHECKING:
    from featurestore.datasets.twins import Twins
    from featurestore.training import TrainingSet

By = Literal["time", "group", "random"]
Choose = Callable[[Connection, pa.Table, int], Array]
"""Of a table of spine rows, the first of which has this number: which part each row is in, -1 for none."""


class Splits(Mapping[str, "TrainingSet"]):
    """Training sets by name, in order. Each computes its rows when it is read, and only its own."""

    def __init__(self, parts: Mapping[str, TrainingSet]) -> None:
        self._parts = dict(parts)

    def __getitem__(self, name: str) -> TrainingSet:
        if name not in self._parts:
            raise KeyError(f"no part '{name}'; there is {', '.join(self._parts)}")
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __repr__(self) -> str:
        return f"Splits({', '.join(self._parts)})"

    def to_parquet(self, directory: str | Path) -> dict[str, list[Path]]:
        """Writes each part, manifest and all, into a folder of its name below `directory`."""
        return {name: part.to_parquet(Path(directory) / name) for name, part in self._parts.items()}

    def near_duplicates(
        self, columns: Sequence[str] | None = None, *, tolerance: float = 1e-6, examples: int = 5
    ) -> Twins:
        """Rows of one part that have a twin in another; see `featurestore.datasets.twins.near_duplicates`."""
        from featurestore.datasets.twins import near_duplicates

        return near_duplicates(self._parts, columns, tolerance=tolerance, examples=examples)


def split(
    training: TrainingSet,
    by: By,
    fractions: Mapping[str, float] | Sequence[float] | None = None,
    *,
    at: Moment | Sequence[Moment] | None = None,
    gap: timedelta | Duration | None = None,
    column: str | None = None,
    columns: Sequence[str] | None = None,
    seed: int = 0,
) -> Splits:
    """Parts of a training set; what `TrainingSet.split` says."""
    if by not in ("time", "group", "random"):
        raise DatasetError(
            f'a split by {by!r} is not offered\n  there is by="time", by="group" and by="random"'
        )
    given = {"at": at, "gap": gap, "column": column, "columns": columns}
    takes = {"time": ("at", "gap"), "group": ("column",), "random": ("columns",)}[by]
    for name, value in given.items():
        if value is not None and name not in takes:
            raise DatasetError(f'{name}= means nothing to a split by="{by}"\n  it takes {", ".join(takes)}')
    if by == "time":
        return _by_time(training, fractions, at, gap)
    named = _fractions(fractions)
    if by == "group" and column is None:
        raise DatasetError(
            'a split by="group" needs the column whose groups stay together\n  column="customer"'
        )
    values = [column] if column is not None else list(columns or ())
    if values:
        _known(training, values)
    edges = np.cumsum(list(named.values()))[:-1]
    salt = _salt(training.spine, seed)

    def choose(con: Connection, table: pa.Table, first: int) -> Array:
        numbers = of_values(con, table, values, salt) if values else of_positions(first, table.num_rows, salt)
        part = np.zeros(table.num_rows, np.int64)
        for edge in edges:
            part += ~below(numbers, float(edge))
        return part

    said = {"by": by, "fractions": named, "seed": seed} | ({"columns": values} if values else {})
    return _parts(training, list(named), choose, said)


def sample(
    training: TrainingSet,
    fraction: float | Mapping[Any, float] | None = None,
    *,
    n: int | None = None,
    by: str | None = None,
    seed: int = 0,
    weight: str = "weight",
) -> TrainingSet:
    """Some of the rows, with their weights; what `TrainingSet.sample` says."""
    if (fraction is None) == (n is None):
        raise DatasetError("a sample takes either a fraction of the rows or n of them")
    if n is not None and (isinstance(n, bool) or n < 1):
        raise DatasetError(f"n={n!r} is not a number of rows\n  give 1 or more")
    if isinstance(fraction, Mapping):
        if by is None:
            raise DatasetError('fractions by value need the column that has the values\n  by="label"')
        for value, share in fraction.items():
            _share(share, f"the fraction of {value!r}")
    elif fraction is not None:
        _share(fraction, "fraction")
    tables = reread(training.config, training.spine)
    names = _schema(training).names
    taken = {*names, *(name for name, _ in training.service.columns)}
    if weight in taken:
        raise DatasetError(
            f"there is a column '{weight}' already\n  give the weights another name: weight=\"…\""
        )
    if by is not None:
        _known(training, [by])
    salt = _salt(training.spine, seed)
    strata = None if by is None and n is None else _Strata.of(tables, by, n, fraction, salt)

    def rows() -> Iterator[pa.RecordBatch]:
        first = 0
        for table in tables():
            numbers = of_positions(first, table.num_rows, salt)
            if strata is None:
                assert isinstance(fraction, float | int)
                kept, weights = below(numbers, fraction), np.full(table.num_rows, 1.0 / fraction)
            else:
                kept, weights = strata.keep(table, numbers, first)
            first += table.num_rows
            weighted = table.append_column(pa.field(weight, pa.float64()), pa.array(weights))
            yield from weighted.filter(pa.array(kept)).to_batches()

    schema = _schema(training).append(pa.field(weight, pa.float64()))
    shares = {str(k): v for k, v in fraction.items()} if isinstance(fraction, Mapping) else fraction
    said = {"sample": {"fraction": shares, "n": n, "by": by, "seed": seed}, "of": _base(training.spine)}
    return replace(training, spine=Streamed(schema, rows, said))


@dataclass(frozen=True)
class _Strata:
    """For each value of a column (or for all rows): how many rows there are, how many are kept, the last number kept."""

    by: str | None
    values: Mapping[Any, int]
    last: list[tuple[int, int]]
    weights: Array

    @staticmethod
    def of(
        tables: Callable[[], Iterator[pa.Table]],
        by: str | None,
        n: int | None,
        fraction: float | Mapping[Any, float] | None,
        salt: str,
    ) -> _Strata:
        values: dict[Any, int] = {}
        codes, numbers, first = [], [], 0
        for table in tables():
            codes.append(_codes(table, by, values, grow=True))
            numbers.append(of_positions(first, table.num_rows, salt))
            first += table.num_rows
        code, number = np.concatenate(codes), np.concatenate(numbers)
        order = np.lexsort((number, code))
        sizes = np.bincount(code, minlength=len(values))
        starts = np.concatenate([[0], np.cumsum(sizes)])
        last, weights = [], []
        if isinstance(fraction, Mapping) and (unknown := [v for v in fraction if v not in values]):
            raise DatasetError(
                f"no row has {unknown[0]!r} in column '{by}'\n  there is {', '.join(map(repr, values))}"
            )
        for value, i in values.items():
            size = int(sizes[i])
            if size == 0:
                continue  # there are no rows at all
            if n is not None:
                count = min(n, size)
            else:
                share = fraction.get(value, 1.0) if isinstance(fraction, Mapping) else fraction
                assert share is not None
                count = max(1, round(share * size))
            row = int(order[starts[i] + count - 1])
            last.append((int(number[row]), row))
            weights.append(size / count)
        return _Strata(by, values, last, np.array(weights, np.float64))

    def keep(self, table: pa.Table, numbers: Array, first: int) -> tuple[Array, Array]:
        """Which rows are kept, and the weight of each."""
        if table.num_rows == 0:
            return np.zeros(0, np.bool_), np.zeros(0)
        code = _codes(table, self.by, dict(self.values), grow=False)
        number = np.array([n for n, _ in self.last], np.uint64)[code]
        row = np.array([r for _, r in self.last], np.int64)[code]
        here = np.arange(first, first + table.num_rows)
        return (numbers < number) | ((numbers == number) & (here <= row)), self.weights[code]


def _codes(table: pa.Table, by: str | None, values: dict[Any, int], *, grow: bool) -> Array:
    if by is None:
        values.setdefault(None, 0)
        return np.zeros(table.num_rows, np.int64)
    column = column_of(table, by)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    found = pc.unique(column).to_pylist()
    if grow:
        for value in found:
            values.setdefault(value, len(values))
    if not found:
        return np.zeros(0, np.int64)
    index = pc.index_in(column, pa.array(found, column.type), skip_nulls=False).to_numpy()
    codes: Array = np.array([values[v] for v in found], np.int64)[index]
    return codes


def _share(value: object, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise DatasetError(f"{what} is {value!r}\n  give more than 0, and 1 at most")


# ------------------------------------------------------------------------------------------------------------------ time


def _by_time(
    training: TrainingSet,
    fractions: Mapping[str, float] | Sequence[float] | None,
    at: Moment | Sequence[Moment] | None,
    gap: timedelta | Duration | None,
) -> Splits:
    if (at is None) == (fractions is None):
        raise DatasetError('a split by="time" takes either at=, the moments to cut at, or fractions')
    embargo = _microseconds(gap)
    if at is not None:
        cuts = [moment(m) for m in ([at] if isinstance(at, datetime | str | int) else at)]
        if not cuts or any(b <= a for a, b in pairwise(cuts)):
            raise DatasetError("at= names moments to cut at, each after the one before")
        names = _names(len(cuts) + 1)
    else:
        named = _fractions(fractions)
        names, cuts = list(named), _moments(training, list(named.values()))
    edges = np.array(cuts, np.int64)

    def choose(con: Connection, table: pa.Table, first: int) -> Array:
        times = times_of(table, training.timestamp, first)
        part = np.searchsorted(edges, times, "right")
        late = np.searchsorted(edges - embargo, times, "right") > part
        return np.where(late, -1, part)

    said = {"by": "time", "at": cuts, "gap": embargo}
    return _parts(training, names, choose, said)


def _moments(training: TrainingSet, shares: Sequence[float]) -> list[int]:
    """The moments with about these shares of the rows before them; rows of one moment stay together."""
    times, first = [], 0
    for table in reread(training.config, training.spine)():
        times.append(times_of(table, training.timestamp, first))
        first += table.num_rows
    ordered = np.sort(np.concatenate(times))
    if len(ordered) == 0:
        raise DatasetError("there are no rows to split\n  at= cuts at moments of your own")
    places = [
        min(math.ceil(share * len(ordered) - 1e-9), len(ordered) - 1) for share in np.cumsum(shares)[:-1]
    ]
    cuts = [int(ordered[p]) for p in places]
    if any(b <= a for a, b in pairwise([int(ordered[0]), *cuts])):
        raise DatasetError(
            "these fractions leave a part without rows: too many rows have one and the same time\n"
            "  cut at moments of your own with at="
        )
    return cuts


def _microseconds(gap: timedelta | Duration | None) -> int:
    if gap is None:
        return 0
    size = gap.microseconds if isinstance(gap, Duration) else gap // timedelta(microseconds=1)
    if size < 0:
        raise DatasetError(f"gap={gap} is less than nothing")
    return size


# ----------------------------------------------------------------------------------------------------------------- parts


def _fractions(given: Mapping[str, float] | Sequence[float] | None) -> dict[str, float]:
    if given is None:
        raise DatasetError('name the fractions: {"train": 0.8, "test": 0.2}')
    named = dict(given) if isinstance(given, Mapping) else dict(zip(_names(len(given)), given, strict=True))
    if len(named) < 2:
        raise DatasetError("a split has at least two parts")
    for name, share in named.items():
        _share(share, f"the fraction of '{name}'")
        if not name.replace("_", "").replace("-", "").isalnum():
            raise DatasetError(f"{name!r} is not a name for a part: it becomes the name of a folder")
    total = math.fsum(named.values())
    if abs(total - 1.0) > 1e-9:
        raise DatasetError(f"the fractions add up to {total:.10g}, not to 1")
    return {name: float(share) for name, share in named.items()}


def _names(parts: int) -> list[str]:
    if parts == 2:
        return ["train", "test"]
    if parts == 3:
        return ["train", "validation", "test"]
    return [f"part{i}" for i in range(parts)]


def _parts(training: TrainingSet, names: Sequence[str], choose: Choose, said: Mapping[str, Any]) -> Splits:
    tables = reread(training.config, training.spine)
    schema = _schema(training)

    def rows_of(number: int) -> Callable[[], Iterator[pa.RecordBatch]]:
        def rows() -> Iterator[pa.RecordBatch]:
            first = 0
            con = connect()
            try:
                for table in tables():
                    kept = choose(con, table, first) == number
                    first += table.num_rows
                    yield from table.filter(pa.array(kept)).to_batches()
            finally:
                con.close()

        return rows

    return Splits(
        {
            name: replace(
                training,
                spine=Streamed(
                    schema, rows_of(i), {"split": {**said, "part": name}, "of": _base(training.spine)}
                ),
            )
            for i, name in enumerate(names)
        }
    )


def _schema(training: TrainingSet) -> pa.Schema:
    if isinstance(training.spine, pa.Table | pa.RecordBatch | Streamed):
        return training.spine.schema
    tables = reread(training.config, training.spine)()
    try:
        return next(tables).schema
    finally:
        tables.close()  # type: ignore[attr-defined]


def _known(training: TrainingSet, names: Sequence[str]) -> None:
    empty = _schema(training).empty_table()
    for name in names:
        column_of(empty, name)


def _salt(spine: object, seed: int) -> str:
    """A part of a part draws other numbers than the whole did, or the second draw would say nothing new."""
    depth, said = 0, getattr(spine, "said", None)
    while isinstance(said, Mapping) and "of" in said:
        depth, said = depth + 1, said["of"]
    return f"{seed}/{depth}"


def _base(spine: object) -> Any:
    if isinstance(spine, str | Path):
        return str(spine)
    said = getattr(spine, "said", None)
    return said if said is not None else type(spine).__name__
