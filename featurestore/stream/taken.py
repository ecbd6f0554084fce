"""What a feed gives: events in its order, and where it was read to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from featurestore.evaluate.partials import Array
from featurestore.log.events import DeadLetter


@dataclass(frozen=True)
class Taken:
    """Events of a feed in its order: the source's columns, and for each when it was appended (µs; None: nobody knows).

    `places` says in words where each lies, `dead` are events of the wrong shape, `position` is where to read on. `batch`: they
    are batch's own, of which none is late. `skipped` counts events that somebody set aside as damaged before they were read,
    `tombstones` records of a topic that hold no event.
    """

    table: pa.Table
    appended_at: Array | None
    places: Sequence[str]
    dead: Sequence[tuple[str, DeadLetter]]
    position: Any
    batch: bool = False
    skipped: int = 0
    tombstones: int = 0
