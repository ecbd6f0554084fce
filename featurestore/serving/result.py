"""What an online read gives: values, mask, statuses and ages of many rows, in whatever form is asked for."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from featurestore.errors import RequestError
from featurestore.evaluate.finish import Cells
from featurestore.evaluate.partials import Array, Mask
from featurestore.ir import Service
from featurestore.status import Status
from featurestore.types import DType, is_tensor


@dataclass(frozen=True, slots=True)
class Block:
    """Features of one number type side by side (or one of another): `values` is (rows, features).

    `places` says which features of the service they are. `valid` None is everywhere, `status` None is PRESENT everywhere.
    """

    places: Array
    values: Array
    valid: Mask | None
    status: Array | None

    def cells(self) -> Iterator[tuple[int, Cells]]:
        """Each feature of the block by its place."""
        shape = self.values.shape
        valid = np.ones(shape, np.bool_) if self.valid is None else self.valid
        status = np.full(shape, Status.PRESENT, np.uint8) if self.status is None else self.status
        for j, place in enumerate(self.places.tolist()):
            yield place, Cells(self.values[:, j], valid[:, j], status[:, j])

    def until(self, end: int) -> Block:
        """The features of the block whose place is before `end`."""
        mine = self.places < end
        if mine.all():
            return self
        valid, status = (None if x is None else x[:, mine] for x in (self.valid, self.status))
        return Block(self.places[mine], self.values[:, mine], valid, status)


@dataclass(frozen=True, slots=True)
class TensorColumns:
    """The features that are columns of the tensor, and which column each feature of the service is (None: its own number)."""

    names: tuple[str, ...]
    number: Array | None

    @staticmethod
    def of(names: Sequence[str], dtypes: Sequence[DType]) -> TensorColumns:
        kept = [is_tensor(t) for t in dtypes]
        return TensorColumns(
            tuple(n for n, k in zip(names, kept, strict=True) if k),
            None if all(kept) else np.cumsum(kept) - 1,
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """Of each row, for one view looked up by one set of columns: whether it has events, and when the newest was."""

    places: Array
    found: Mask
    last_at: Array


@dataclass(frozen=True)
class OnlineFeatures:
    """Feature vectors: one row for each entity row asked for, one column for each feature, in service order.

    `mask` is true where a value is present (after defaults); `statuses` holds `Status` codes; both are (rows, features).
    `freshness` maps each view to the seconds between its watermark and the moment asked for, None if never materialised;
    `ages` is (rows, features) int64, the milliseconds since the entity's newest event in the feature's view, -1 if there
    is none, or if the feature is static or computed on demand.
    `at` is the moment asked for, in microseconds. What was read lies in `blocks` and `seen`; the rest is made of them when
    it is first looked at.
    """

    service: Service
    names: tuple[str, ...]
    dtypes: tuple[DType, ...]
    rows: int
    blocks: tuple[Block, ...]
    seen: tuple[Seen, ...]
    freshness: Mapping[str, float | None]
    at: int
    columns: TensorColumns

    def __len__(self) -> int:
        return self.rows

    def _repr_html_(self) -> str:
        from featurestore.serving.shown import online_html

        return online_html(self)

    @cached_property
    def request_id(self) -> str:
        """A name for this read that no other has."""
        return uuid.uuid4().hex

    @cached_property
    def cells(self) -> tuple[Cells, ...]:
        """Values, presence and status by feature."""
        place = {int(p): (b, j) for b in self.blocks for j, p in enumerate(b.places)}
        parts = [place[i] for i in range(len(self.names))]
        return tuple(
            Cells(b.values[:, j], self.mask[:, i], self.statuses[:, i]) for i, (b, j) in enumerate(parts)
        )

    @cached_property
    def mask(self) -> Mask:
        mask = np.ones((self.rows, len(self.names)), np.bool_)
        for block in self.blocks:
            if block.valid is not None:
                mask[:, block.places] = block.valid
        return mask

    @cached_property
    def statuses(self) -> Array:
        statuses = np.full((self.rows, len(self.names)), Status.PRESENT, np.uint8)
        for block in self.blocks:
            if block.status is not None:
                statuses[:, block.places] = block.status
        return statuses

    @cached_property
    def ages(self) -> Array:
        ages = np.full((self.rows, len(self.names)), -1, np.int64)
        for seen in self.seen:
            age = np.where(seen.found, np.maximum(self.at - seen.last_at, 0) // 1000, -1)
            ages[:, seen.places[seen.places < len(self.names)]] = age[:, None]
        return ages

    @property
    def row_ids(self) -> list[str]:
        """What predictions and labels of each row refer to."""
        return [f"{self.request_id}-{i}" for i in range(self.rows)]

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """The columns of the tensor: the numeric and boolean features, in service order."""
        return self.columns.names

    def to_numpy(self, dtype: str = "float32") -> Array:
        """(rows, numeric and boolean features) C-contiguous `float32` or `float64`; NULL is NaN.

        Raises RequestError when no feature of the service is a number.
        """
        if dtype not in ("float32", "float64"):
            raise RequestError(f"a tensor of {dtype} is not offered\n  there is float32 and float64")
        if not self.tensor_names:
            raise RequestError(
                f"service '{self.service.name}' has no numeric feature to make a tensor of\n"
                "  read it with to_dict() or to_arrow(), or encode texts in the definition: hash_bucket(x, n)"
            )
        return _tensor(self, np.dtype(dtype))

    def __dlpack__(self, **options: Any) -> Any:
        """The tensor of `to_numpy()`, without a further copy."""
        return self.to_numpy().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def to_torch(self, device: str = "cpu") -> Any:
        """The tensor in PyTorch: shares memory on the CPU, a non-blocking copy through pinned memory elsewhere."""
        import torch

        tensor = torch.from_numpy(self.to_numpy())
        if torch.device(device).type == "cpu":
            return tensor
        return tensor.pin_memory().to(device, non_blocking=True)

    def to_dict(self) -> dict[str, list[Any]]:
        """Values by feature as Python objects, None for NULL; lists as lists, and maps as dicts."""
        columns = zip(self.names, self._arrow(), strict=True)
        return {name: column.to_pylist(maps_as_pydicts="strict") for name, column in columns}

    def to_arrow(self) -> Any:
        """An Arrow table with a column for each feature, in declared types."""
        import pyarrow as pa

        return pa.table(dict(zip(self.names, self._arrow(), strict=True)))

    def to_pandas(self) -> Any:
        """A pandas frame with a column for each feature."""
        return self.to_arrow().to_pandas()

    def to_polars(self) -> Any:
        """A polars frame with a column for each feature."""
        import polars as pl

        return pl.from_arrow(self.to_arrow())

    def _arrow(self) -> list[Any]:
        from featurestore.evaluate.arrow import from_physical

        columns = zip(self.cells, self.dtypes, strict=True)
        return [from_physical(np.ascontiguousarray(c.values), c.valid, t) for c, t in columns]


def _tensor(result: OnlineFeatures, dtype: np.dtype[Any]) -> Array:
    number = result.columns.number
    out = np.empty((result.rows, len(result.columns.names)), dtype)
    for block in result.blocks:
        places, values, valid = block.places, block.values, block.valid
        if number is not None:  # a block may hold instants or dates beside numbers of the same width
            kept = [j for j, i in enumerate(places) if is_tensor(result.dtypes[i])]
            if not kept:
                continue
            if len(kept) < len(places):
                places, values = places[kept], values[:, kept]
                valid = None if valid is None else valid[:, kept]
        scales = [getattr(result.dtypes[i], "scale", 0) for i in places] if values.dtype.kind == "i" else []
        if any(scales):
            values = values / 10.0 ** np.array(scales)
        if valid is not None:
            values = np.where(valid, values.astype(dtype, copy=False), dtype.type(np.nan))
        out[:, places if number is None else number[places]] = values
    return out
