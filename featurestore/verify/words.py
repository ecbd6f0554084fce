"""Physical values in words, as a counterexample shows them."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from featurestore.time import moment_text
from featurestore.types import Date, DecimalType, DType, Float32, ListType, Timestamp, VectorType


def text(value: Any, dtype: DType) -> str | None:
    """A physical value in words; None is NULL."""
    if value is None:
        return None
    if isinstance(dtype, ListType | VectorType):
        items = [text(v, dtype.item if isinstance(dtype, ListType) else Float32) for v in value]
        return f"[{', '.join('NULL' if v is None else v for v in items)}]"
    if dtype == Timestamp:
        return moment_text(int(value))
    if dtype == Date:
        try:
            return (date(1970, 1, 1) + timedelta(days=value)).isoformat()
        except OverflowError:
            return f"{value} days"
    if isinstance(dtype, DecimalType):
        return str(Decimal(value).scaleb(-dtype.scale))
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)
