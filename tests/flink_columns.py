"""The columns of events that test vectors are about."""

from __future__ import annotations

from featurestore.types import Bool, Date, Decimal, DType, Float64, Int64, String, Timestamp

SCHEMA: dict[str, DType] = {
    "a": Int64, "x": Float64, "s": String, "p": Bool, "m": Decimal(12, 2), "t": Timestamp, "d": Date,
}  # fmt: skip
