"""Events as engines pass them on, and as Arrow has them."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import pyarrow as pa

from featurestore.compile.reference import Value
from featurestore.evaluate.arrow import arrow_type
from featurestore.types import Date, DecimalType, DType, Timestamp


def as_arrow(values: Sequence[Value], dtype: DType) -> pa.Array:
    """Physical values as an Arrow column of their type."""
    if dtype == Timestamp:
        return pa.array(values, pa.int64()).cast(arrow_type(dtype))
    if dtype == Date:
        return pa.array(values, pa.int32()).cast(arrow_type(dtype))
    if isinstance(dtype, DecimalType):
        scaled = [None if v is None else Decimal(int(v)).scaleb(-dtype.scale) for v in values]
        return pa.array(scaled, arrow_type(dtype))
    return pa.array(values, arrow_type(dtype))
