"""How far the writers of a view are, for whoever asks while they run or do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from featurestore.ir import View
from featurestore.layout import layout_of
from featurestore.online.codec import codec_of
from featurestore.online.store import OnlineStore
from featurestore.stream.positions import KINDS, TILES, Positions, summed


@dataclass(frozen=True, slots=True)
class WriterStatus:
    """How far the writers of a view are. Times are UTC microseconds, None where nothing was written yet.

    `lag` counts records of the tile topic that wait, `writers` are the processes that hold its partitions, `said_at` is when
    the one that was silent the longest last said something. `counts` are of all writers so far: `records` and `upserts` that
    came, `heads` written, `refused` tiles that would have lost rows, tiles `behind` the cut, `unreadable` records, and the dead
    letters of the job by reason.
    """

    view: str
    lag: int
    writers: tuple[str, ...]
    said_at: int | None
    applied_at: int | None
    counts: Mapping[str, int]


def written(online: OnlineStore, view: View) -> WriterStatus:
    """How far the writers of a view are, whether they run or not."""
    positions = Positions(online, codec_of(view, layout_of(view)))
    found = {kind: positions.every(kind) for kind in KINDS}
    tiles = found[TILES].values()
    return WriterStatus(
        view.name,
        sum(p.lag for p in tiles),
        tuple(sorted({p.writer for p in tiles})),
        min((p.at for p in tiles), default=None),
        max((p.applied_at for p in tiles), default=None) or None,
        dict(summed(p.counts for one in found.values() for p in one.values())),
    )


__all__ = ["WriterStatus", "written"]
