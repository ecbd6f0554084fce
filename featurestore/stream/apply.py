"""Upserts put into a view's heads in the online store: read, merged, and written over what was read, until all are in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from featurestore.errors import StreamError
from featurestore.ir import View
from featurestore.layout import layout_of
from featurestore.online.codec import HEAD, NEVER, codec_of
from featurestore.online.store import OnlineStore
from featurestore.stream.tile_records import Upserts
from featurestore.stream.upserts import Batch, Now, batch_of, merged

ENTITIES = 20_000
"""Entities merged at a time: what is held of them does not grow with a batch."""

TRIES = 20


class Heads:
    """The heads of one view, for whoever puts tiles into them. Several may at once: none undoes what another did."""

    def __init__(self, store: OnlineStore, view: View) -> None:
        self.store, self.view = store, view
        self.layout = layout_of(view)
        self.codec = codec_of(view, self.layout)
        self.lead = self.codec.prefix + HEAD

    def apply(self, upserts: Sequence[Upserts], now: Now) -> Counter[str]:
        """Puts tiles in; how many `upserts` there were, `refused` ones, and `heads` written.

        Raises what the store raises; then some are in, and all may be put in again.
        """
        told: Counter[str] = Counter(upserts=sum(map(len, upserts)))
        kept = [self._ahead(u, now) for u in upserts]
        kept = [u for u in kept if len(u)]
        told["behind"] = told["upserts"] - sum(map(len, kept))
        if not kept:
            return told
        batch = batch_of(self.view, self.codec, kept)
        for start in range(0, len(batch), ENTITIES):
            whole = start == 0 and len(batch) <= ENTITIES
            part = batch if whole else batch.some(np.arange(start, min(start + ENTITIES, len(batch))))
            told.update(self._put(part, now))
        return told

    def _ahead(self, upserts: Upserts, now: Now) -> Upserts:
        """Without what base has taken over."""
        if now.cut == NEVER:
            return upserts
        newest = upserts.number == len(self.layout.levels)
        time = upserts.records.rows["at" if newest else "tile"]
        ahead = time >= now.cut
        return upserts if ahead.all() else upserts.some(np.flatnonzero(ahead))

    def _put(self, batch: Batch, now: Now) -> Counter[str]:
        told: Counter[str] = Counter()
        for _ in range(TRIES):
            there = self.store.read([self.lead + key for key in batch.keys])
            done = merged(self.layout, self.codec, batch, there, now)
            told["refused"] += done.refused
            names = done.entities.tolist()
            items = [(self.lead + batch.keys[i], v) for i, v in zip(names, done.values, strict=True)]
            put = np.array(self.store.replace(items, done.before), np.bool_)
            told["heads"] += int(put.sum())
            if put.all():
                return told
            lost = np.sort(done.entities[~put])
            told["lost"] += len(lost)
            batch = batch.some(lost)
        raise StreamError(
            f"{len(batch)} heads of view '{self.view.name}' change under their writer again and again\n"
            "  does something else write to the same store?"
        )


__all__ = ["Heads"]
