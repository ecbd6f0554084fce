"""What slots reduce: the columns of a table of events as arrays, and which of its rows count."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from featurestore.aggregates import MaxBy, MinBy
from featurestore.evaluate.arrow import to_physical
from featurestore.evaluate.partials import Array, By, Mask
from featurestore.expr import Expr, infer
from featurestore.ir import View
from featurestore.layout import Slot
from featurestore.types import Date, DType, Int32, Int64, Timestamp


def carried(dtype: DType) -> DType:
    """The type a value travels in: instants and dates are whole numbers already."""
    return Int64 if dtype == Timestamp else Int32 if dtype == Date else dtype


class Inputs:
    """The inputs and masks of slots over one table of events; what several slots read is converted once."""

    def __init__(self, names: Mapping[Expr, str], view: View, events: pa.Table) -> None:
        self._names, self._events = names, events
        self._schema = view.source.schema
        self._arrays: dict[str, tuple[Array, Mask | None]] = {}
        self._masks: dict[tuple[Expr | None, Expr | None], Mask | None] = {}

    def of(self, slot: Slot) -> tuple[Array | None, Mask | None]:
        """The values of the slot's input and which rows count: not NULL (what it goes by, if it does), and its filter true."""
        arg, where = slot.reduction.arg, slot.where
        x, valid = self._column(arg) if arg is not None else (None, None)
        if isinstance(slot.reduction, MinBy | MaxBy):
            arg = slot.reduction.by
            _, valid = self._column(arg)
        if (arg, where) not in self._masks:
            keep = valid
            if where is not None:
                condition, known = self._column(where)
                keep = condition if known is None else condition & known
                keep = keep if valid is None else keep & valid
            self._masks[arg, where] = keep
        return x, self._masks[arg, where]

    def by(self, slot: Slot) -> By | None:
        """What the slot goes by, if it does."""
        if not isinstance(slot.reduction, MinBy | MaxBy):
            return None
        return By(self._column(slot.reduction.by)[0], self._column(slot.reduction.arg)[1])

    def _column(self, node: Expr) -> tuple[Array, Mask | None]:
        name = self._names[node]
        if name not in self._arrays:
            self._arrays[name] = to_physical(self._events.column(name), carried(infer(node, self._schema)))
        return self._arrays[name]
