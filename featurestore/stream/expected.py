"""What a source expects of each event, asked of a micro-batch before anything of it is kept.

Only what judges single rows is asked here: a few events tell no mean. They are judged in their declared types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from featurestore.compile.expectations import fails_sql, said_sql, where_sql
from featurestore.errors import ExpectationFailed
from featurestore.evaluate.arrow import to_physical
from featurestore.evaluate.partials import Mask
from featurestore.expectations import Expectation, RowCheck
from featurestore.types import Bool, DType


@dataclass(frozen=True)
class Found:
    """The events to put aside with the reason, and how many others were not as expected."""

    aside: Sequence[tuple[Mask, str]]
    unexpected: int


class Expected:
    """The expectations of one source that judge rows; false where there are none."""

    def __init__(self, source: str, expectations: Sequence[Expectation]) -> None:
        self._source = source
        self._by_row = [e for e in expectations if e.by_row]

    def __bool__(self) -> bool:
        return bool(self._by_row)

    def select(self, schema: Mapping[str, DType]) -> list[str]:
        """What a query over the events has to give: whether each says anything, and whether it fails."""
        parts = []
        for i, one in enumerate(self._by_row):
            check = one.check
            assert isinstance(check, RowCheck)
            where = where_sql(one, schema)
            parts.append(f"({where} AND {said_sql(check, schema)}) AS said_{i}")
            parts.append(f"({where} AND {fails_sql(check, schema)}) AS fails_{i}")
        return parts

    def judge(self, table: pa.Table) -> Found:
        """What becomes of the events. Raises ExpectationFailed where one is to block, before any of them is kept."""
        aside: list[tuple[Mask, str]] = []
        unexpected, blocked = 0, []
        for i, one in enumerate(self._by_row):
            fails = _mask(table, f"fails_{i}")
            count = int(fails.sum())
            if not count:
                continue
            if one.on_failure == "quarantine":
                aside.append((fails, f"it is not as expected: {one.name}"))
                continue
            unexpected += count
            considered = int(_mask(table, f"said_{i}").sum())
            if one.on_failure == "block" and (considered - count) / considered < one.mostly:
                blocked.append(f"{one.name}: {count:,} of {considered:,} events fail")
        if blocked:
            raise ExpectationFailed(
                f"what arrived of source '{self._source}'",
                blocked,
                'the stream stopped before it: mend the events, or apply the source with on_failure="quarantine"',
            )
        return Found(aside, unexpected)


def _mask(table: pa.Table, name: str) -> Mask:
    values, valid = to_physical(table.column(name), Bool)
    return values if valid is None else values & valid


__all__ = ["Expected", "Found"]
