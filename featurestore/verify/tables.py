"""Events as engines pass them on, and as Arrow has them."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.compile.reference import Value
from featurestore.evaluate.arrow import arrow_type
from featurestore.types import Date, DecimalType, DType, Float32, ListType, Timestamp, VectorType


def as_arrow(values: Sequence[Value], dtype: DType) -> pa.Array:
    """Physical values as an Arrow column of their type."""
    if dtype == Timestamp:
        return pa.array(values, pa.int64()).cast(arrow_type(dtype))
    if dtype == Date:
        return pa.array(values, pa.int32()).cast(arrow_type(dtype))
    if isinstance(dtype, ListType | VectorType):
        lists: list[Any] = list(values)
        flat = [v for one in lists if one is not None for v in one]
        items = as_arrow(flat, dtype.item if isinstance(dtype, ListType) else Float32)
        ends = np.cumsum([0, *(0 if one is None else len(one) for one in lists)])
        offsets = pa.array(ends, pa.int32(), mask=np.array([*(one is None for one in lists), False]))
        return pa.ListArray.from_arrays(offsets, items).cast(arrow_type(dtype))
    if isinstance(dtype, DecimalType):
        scaled = [None if v is None else Decimal(int(v)).scaleb(-dtype.scale) for v in values]
        return pa.array(scaled, arrow_type(dtype))
    return pa.array(values, arrow_type(dtype))
