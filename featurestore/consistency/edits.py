"""How far two lists are apart: the fewest items to insert, remove or replace (Levenshtein, 1965)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def edits(a: Any, b: Any) -> int:
    """The edits that make one list of the other; of maps, the keys whose entries are not the same.

    Takes time of the product of the lengths, after what is alike at both ends.

    >>> edits(["a", "b", "c"], ["a", "c", "d"]), edits([1, 2], [1, 2]), edits({"x": 1, "y": 2}, {"y": 3})
    (2, 0, 2)
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return sum(k not in a or k not in b or a[k] != b[k] for k in {*a, *b})
    first, second = list(a), list(b)
    while first and second and first[0] == second[0]:
        first, second = first[1:], second[1:]
    while first and second and first[-1] == second[-1]:
        first, second = first[:-1], second[:-1]
    row = list(range(len(second) + 1))
    for i, x in enumerate(first, 1):
        corner, row[0] = row[0], i
        for j, y in enumerate(second, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (x != y))
    return row[-1]


__all__ = ["edits"]
