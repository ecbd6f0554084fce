"""Value types: what a column holds, and the one physical form it travels in between engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Scalar:
    """A type without parameters. `Timestamp` is UTC microseconds, `Date` is days since 1970."""

    name: str

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class DecimalType:
    """A decimal of `precision` digits, `scale` of them after the point."""

    precision: int
    scale: int

    def __post_init__(self) -> None:
        if not (1 <= self.precision <= 38 and 0 <= self.scale <= self.precision):
            raise ValueError(
                f"Decimal({self.precision}, {self.scale}): precision is 1 to 38, scale 0 to precision"
            )

    def __repr__(self) -> str:
        return f"Decimal({self.precision}, {self.scale})"


@dataclass(frozen=True, slots=True)
class ListType:
    """A list of one type; its order is part of its value."""

    item: DType

    def __repr__(self) -> str:
        return f"List({self.item!r})"


@dataclass(frozen=True, slots=True)
class VectorType:
    """A list of exactly `size` float32: an embedding."""

    size: int

    def __repr__(self) -> str:
        return f"Vector({self.size})"


@dataclass(frozen=True, slots=True)
class MapType:
    """Values by key; keys differ, and their order is no part of its value."""

    key: DType
    value: DType

    def __repr__(self) -> str:
        return f"Map({self.key!r}, {self.value!r})"


DType = Scalar | DecimalType | ListType | VectorType | MapType

String = Scalar("String")
Int64 = Scalar("Int64")
Int32 = Scalar("Int32")
Float64 = Scalar("Float64")
Float32 = Scalar("Float32")
Bool = Scalar("Bool")
Timestamp = Scalar("Timestamp")
Date = Scalar("Date")

SCALARS = {t.name: t for t in (String, Int64, Int32, Float64, Float32, Bool, Timestamp, Date)}

Decimal = DecimalType
List = ListType
Vector = VectorType
Map = MapType

_NUMPY: dict[Scalar, npt.DTypeLike] = {
    String: object,
    Int64: np.int64,
    Int32: np.int32,
    Float64: np.float64,
    Float32: np.float32,
    Bool: np.bool_,
    Timestamp: np.int64,
    Date: np.int32,
}


def numpy_dtype(dtype: DType) -> np.dtype[Any]:
    """The NumPy form of a value of this type; strings, lists, vectors and maps are objects."""
    match dtype:
        case Scalar():
            return np.dtype(_NUMPY[dtype])
        case DecimalType():
            return np.dtype(np.int64)
        case ListType() | VectorType() | MapType():
            return np.dtype(object)
        case _:
            assert_never(dtype)


def is_integer(dtype: DType) -> bool:
    """Int64 or Int32."""
    return dtype in (Int64, Int32)


def is_float(dtype: DType) -> bool:
    """Float64 or Float32."""
    return dtype in (Float64, Float32)


def is_numeric(dtype: DType) -> bool:
    """A number that arithmetic is defined on."""
    return is_integer(dtype) or is_float(dtype) or isinstance(dtype, DecimalType)


def is_tensor(dtype: DType) -> bool:
    """Whether a feature of this type is a column of the tensor: numeric and boolean scalars."""
    return is_numeric(dtype) or dtype == Bool


def type_to_json(dtype: DType) -> str:
    """The canonical text of a type, which `type_from_json` reads back."""
    return repr(dtype)


def type_from_json(text: str) -> DType:
    """The type a canonical text names.

    >>> type_from_json("List(Decimal(12, 2))") == List(Decimal(12, 2))
    True
    """
    if text in SCALARS:
        return SCALARS[text]
    head, _, rest = text.partition("(")
    inner = rest[:-1]
    if rest.endswith(")"):
        if head == "Decimal":
            precision, scale = inner.split(",")
            return DecimalType(int(precision), int(scale))
        if head == "List":
            return ListType(type_from_json(inner))
        if head == "Vector":
            return VectorType(int(inner))
        if head == "Map":
            key, _, value = inner.rpartition(", ")  # what is counted by key is a scalar
            return MapType(type_from_json(key), type_from_json(value))
    raise ValueError(f"not a type: {text!r}")
