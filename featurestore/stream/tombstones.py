"""Tile records of entities that were erased: a tile that holds an event of before that is left out as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from featurestore.compile.erased import key_digest
from featurestore.evaluate.partials import Array
from featurestore.ir import Erased, View
from featurestore.layout import Layout
from featurestore.online.codec import NEVER
from featurestore.stream.letters import span_of
from featurestore.stream.tile_records import Upserts

KNOWN = 1_000_000
"""Keys whose digests are remembered."""

ERASED = "erased"
"""Why there is a hole: what came after the erasure lay in one tile with what came before."""


class Tombstones:
    """Those of one view's entity."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.tell(None)

    def tell(self, erased: Erased | None) -> None:
        """Says which entities are erased now."""
        self._erased = erased
        self._moments = dict(erased.keys) if erased is not None else {}
        self._known: dict[tuple[int | str, ...], int] = {}

    def without(
        self, layout: Layout, upserts: Sequence[Upserts]
    ) -> tuple[list[Upserts], Counter[tuple[int, str]], int]:
        """The records that count; holes by start and reason, where newer events went as well; and how many records went."""
        holes: Counter[tuple[int, str]] = Counter()
        if not self._moments:
            return list(upserts), holes, 0
        kept, gone = [], 0
        span = span_of(layout)
        for one in upserts:
            before = self._before(one.keys)
            newest = one.number == len(layout.levels)
            out = (one.last_at if newest else one.first_at) < before
            gone += int(out.sum())
            mixed = out & (one.last_at >= before)
            for at in one.records.rows["tile"][mixed].tolist() if not newest else ():
                holes[at - at % span, ERASED] += 1
            some = one if not out.any() else one.some(np.flatnonzero(~out))
            # What an erased entity did before is not known any more.
            first = np.maximum(some.first_at, before[~out])
            if len(some):
                kept.append(replace(some, first_at=first))
        return kept, holes, gone

    def _before(self, keys: Sequence[Array]) -> Array:
        """The moment of before which nothing of a record's entity counts."""
        assert self._erased is not None
        rows = list(zip(*(k.tolist() for k in keys), strict=True))
        if len(self._known) > KNOWN:
            self._known.clear()
        known, salt = self._known, self._erased.salt
        out = np.empty(len(rows), np.int64)
        for i, row in enumerate(rows):
            at = known.get(row)
            if at is None:
                at = known[row] = self._moments.get(key_digest(salt, row), NEVER)
            out[i] = at
        return out


__all__ = ["ERASED", "Tombstones"]
