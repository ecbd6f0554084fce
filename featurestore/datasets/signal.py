"""How well one column alone tells another: a number from 0 to 1, cheap enough to ask of every column."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.evaluate.partials import Array

LEAST = 30
"""Rows with a label, below which nothing is said."""

CLASSES = 20
"""Values of a label that are classes; of more, a number is cut into as many steps."""

STEPS = 64
"""Into how many steps of equal size a number is cut that is to tell classes apart."""

MOST = 0.1
"""Distinct values for each row, beyond which a text names rows and tells nothing."""


def strength(column: pa.ChunkedArray, label: pa.ChunkedArray) -> float | None:
    """How well `column` tells `label`; None where there is too little to say.

    Where the label has two values and the column is a number: twice the distance of the area under the curve from a half, of
    the rows that have the column; else the share of the label's entropy that the column's values, or steps, tell. Whether
    the column is NULL counts in either case: the better of both.
    """
    known = np.asarray(label.is_valid())
    if int(known.sum()) < LEAST or pa.types.is_nested(column.type):
        return None
    classes = _classes(label.filter(pa.array(known)))
    if classes is None or len(np.unique(classes)) < 2:
        return None
    column = column.filter(pa.array(known))
    there = np.asarray(column.is_valid())
    two = len(np.unique(classes)) == 2
    scores = [_area(there.astype(np.float64), classes) if two else _told(there.astype(np.int64), classes)]
    numbers = numbers_of(column)
    if two and numbers is not None:
        scores.append(_area(numbers[there], classes[there]))
    else:
        codes = _steps(numbers, there) if numbers is not None else _codes(column)
        if codes is not None:
            scores.append(_told(codes, classes))
    return max(s for s in scores if s is not None) if any(s is not None for s in scores) else None


_NUMBERS = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)


def numbers_of(column: pa.ChunkedArray) -> Array | None:
    """A column as doubles, 0 where it is NULL; None for what is no number, no time and no truth."""
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        column = column.cast(pa.timestamp("us", getattr(kind, "tz", None))).cast(pa.int64())
    elif not any(f(kind) for f in _NUMBERS):
        return None
    values: Array = pc.fill_null(column.cast(pa.float64(), safe=False), 0.0).to_numpy()
    return values


def _classes(label: pa.ChunkedArray) -> Array | None:
    numbers = numbers_of(label)
    if numbers is None:
        codes = _codes(label)
        return codes if codes is not None and len(np.unique(codes)) <= CLASSES else None
    values = np.unique(numbers)
    if len(values) <= CLASSES:
        return np.searchsorted(values, numbers)
    return _steps(numbers, np.ones(len(numbers), np.bool_), CLASSES)


def _codes(column: pa.ChunkedArray) -> Array | None:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    encoded = column.combine_chunks().dictionary_encode("encode")
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    if len(encoded.dictionary) > max(MOST * len(column), CLASSES):
        return None
    codes: Array = encoded.indices.to_numpy(zero_copy_only=False)
    return codes


def _steps(numbers: Array, there: Array, steps: int = STEPS) -> Array:
    """The step of each number, 0 where there is none."""
    codes = np.zeros(len(numbers), np.int64)
    if there.any():
        edges = np.unique(np.quantile(numbers[there], np.linspace(0, 1, steps + 1)[1:-1]))
        codes[there] = 1 + np.searchsorted(edges, numbers[there], "right")
    return codes


def _area(values: Array, classes: Array) -> float | None:
    """Twice the distance from a half of the area under the curve; ties count half (Mann and Whitney)."""
    ones = classes == classes.max() if len(classes) else np.zeros(0, np.bool_)
    n, m = int(ones.sum()), int((~ones).sum())
    if min(n, m) == 0 or n + m < LEAST:
        return None
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes)
    middle = ends - (sizes - 1) / 2
    above = float(middle[group][ones].sum()) - n * (n + 1) / 2
    return abs(2 * above / (n * m) - 1)


def _told(codes: Array, classes: Array) -> float | None:
    """The share of the classes' entropy that the codes tell, less what as many codes tell by chance (Miller and Madow)."""
    _, codes = np.unique(codes, return_inverse=True)
    _, classes = np.unique(classes, return_inverse=True)
    table = np.zeros((int(codes.max()) + 1, int(classes.max()) + 1))
    np.add.at(table, (codes, classes), 1)
    n = table.sum()
    p, rows, columns = table / n, table.sum(1, keepdims=True) / n, table.sum(0, keepdims=True) / n
    inside = p > 0
    told = float((p[inside] * np.log(p[inside] / (rows * columns)[inside])).sum())
    entropy = -float((columns[columns > 0] * np.log(columns[columns > 0])).sum())
    chance = (table.shape[0] - 1) * (table.shape[1] - 1) / (2 * n)
    return None if entropy == 0 else min(1.0, max(0.0, (told - chance) / entropy))


__all__ = ["numbers_of", "strength"]
