"""What a change costs: rows and bytes to read once, bytes to keep online."""

from __future__ import annotations

from collections.abc import Iterable

from featurestore import ir
from featurestore.layout import Layout, layout_of
from featurestore.planning.records import Cost
from featurestore.types import DType, VectorType, numpy_dtype

_VARIABLE_BYTES = 16  # a short text, or an offset and a few letters

_RECORD_BYTES = 8  # where a record of a tile or of a latest row says when it was


def cost_of(view: ir.View, rows: int | None) -> Cost:
    """What materialising a view anew costs, when its source has that many rows."""
    source = view.source
    columns = view.reads | set(view.order) | {c for c in (source.event_time, source.arrival_time) if c}
    width = sum(_width(source.schema[c]) for c in columns)
    return Cost(rows, None if rows is None else rows * width, online_bytes(view))


def online_bytes(view: ir.View) -> int:
    """What the online store keeps for one entity at most: a record for every tile a window can need.

    An estimate: texts count as 16 bytes, headers are left out. A tile without events has no record.
    """
    layout = layout_of(view)
    latest = _record(_width(c.dtype) for c in layout.latest) if layout.latest else 0
    return latest + sum(_level_bytes(layout, hop) for hop in (level.hop for level in layout.levels))


def _level_bytes(layout: Layout, hop: int) -> int:
    level = layout.level(hop)
    widths = [
        _VARIABLE_BYTES if f.dtype.hasobject else f.dtype.itemsize
        for slot in level.slots
        for f in slot.fields
    ]
    tiles = 1 if level.reach is None else level.reach // hop + 1
    return _record(widths) * (tiles + (1 if level.lifetime else 0))


def _record(widths: Iterable[int]) -> int:
    widths = list(widths)
    return _RECORD_BYTES + sum(widths) + (len(widths) + 7) // 8


def _width(dtype: DType) -> int:
    """The bytes of a value: its physical width; a text or list counts as 16."""
    if isinstance(dtype, VectorType):
        return 4 * dtype.size
    physical = numpy_dtype(dtype)
    return _VARIABLE_BYTES if physical.hasobject else physical.itemsize
