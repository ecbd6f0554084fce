"""What an online read gives: values, mask, statuses and ages of many rows, in whatever form is asked for."""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.errors import RequestError
from featurestore.evaluate.finish import Cells
from featurestore.evaluate.partials import Array, Mask
from featurestore.ir import Service
from featurestore.status import Status
from featurestore.types import DType, is_tensor

if TYPE_CHECKING:
    from featurestore.serving.request import Request


class Block:
    """Features of one number type side by side (or one of another): `values` is (rows, features).

    `places` says which features of the service they are. `valid` None is everywhere, `status` None is PRESENT everywhere.
    """

    __slots__ = ("_stored", "_values", "places", "status", "valid", "whole")

    def __init__(self, places: Array, values: Array | None, valid: Mask | None, status: Array | None) -> None:
        self.places, self.valid, self.status = places, valid, status
        self._values, self._stored = values, values
        self.whole = False

    @staticmethod
    def stored(places: Array, values: Array, *, whole: bool) -> Block:
        """Values as they are stored, all of them PRESENT: what settles them waits until they are looked at.

        `whole`: they are floats, of all features of the service in its order.
        """
        block = Block(places, None, None, None)
        block._stored, block.whole = values, whole
        return block

    @property
    def values(self) -> Array:
        if self._values is None:
            assert self._stored is not None
            self._values = settled(self._stored)
        return self._values

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of `values`, which are not looked at."""
        return self._stored.dtype if self._values is None else self._values.dtype  # type: ignore[union-attr]

    @staticmethod
    def end_to_end(blocks: Sequence[Block]) -> Array:
        """The values of blocks of the same features, one after another: (features, rows), each feature side by side."""
        parts = [b._stored if b._values is None else b._values for b in blocks]  # noqa: SLF001
        first = parts[0]
        assert first is not None
        whole = np.empty((first.shape[1], sum(map(len, parts))), first.dtype)  # type: ignore[arg-type]
        np.concatenate(parts, out=whole.T)  # type: ignore[arg-type]
        if whole.dtype.kind == "f":
            np.add(whole, whole.dtype.type(0), out=whole)  # as `settled` does, all at once
        return whole

    def into(self, out: Array) -> None:
        """Puts the values of a `whole` block into (rows, features) floats."""
        stored = self._stored
        assert stored is not None
        np.add(stored, stored.dtype.type(0), out=out, casting="same_kind")

    def rows(self, rows: Array | slice) -> Block:
        """The block of some rows, which may be repeated."""
        if self._values is None and self._stored is not None:
            return Block.stored(self.places, self._stored[rows], whole=self.whole)
        valid, status = (None if x is None else x[rows] for x in (self.valid, self.status))
        return Block(self.places, self.values[rows], valid, status)

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
    """Of each row, for one view looked up by one set of columns: whether it has events, and when the newest was.

    `found` None: all have.
    """

    places: Array
    found: Mask | None
    last_at: Array

    def rows(self, rows: Array | slice) -> Seen:
        return Seen(self.places, None if self.found is None else self.found[rows], self.last_at[rows])


_ids = (secrets.token_hex(10), itertools.count())


def _ids_anew() -> None:
    global _ids  # noqa: PLW0603
    _ids = (secrets.token_hex(10), itertools.count())


os.register_at_fork(after_in_child=_ids_anew)


def new_request_id() -> str:
    """A name that no other request has: 80 bits drawn by the process, and a number."""
    own, numbers = _ids
    return f"{own}{next(numbers):012x}"


def settled(values: Array) -> Array:
    """Stored values as features have them: -0 is 0."""
    return values + 0.0 if values.dtype.kind == "f" else values


def buffer_of(out: Any, shape: tuple[int, int], service: str) -> Array:
    """The array that shares the memory of a caller's buffer; RequestError when it is not one of `shape` to write floats into."""
    array: Array
    if isinstance(out, np.ndarray):
        array = out
    else:
        try:
            array = _shared(out)
        except (TypeError, BufferError, RuntimeError, ValueError) as error:
            raise RequestError(
                f"out of service '{service}' is a {type(out).__name__} without memory that can be shared: {error}\n"
                f"  give an array of float32 or float64 {shape} in the memory of the host"
            ) from error
    flags = array.flags
    if array.shape == shape and array.dtype in _FLOATS and flags.c_contiguous and flags.writeable:
        return array
    wrong = [
        what
        for what, bad in (
            (f"of shape {array.shape}", array.shape != shape),
            (f"of {array.dtype}", array.dtype not in _FLOATS),
            ("not C-contiguous", not flags.c_contiguous),
            ("read-only", not flags.writeable),
        )
        if bad
    ]
    raise RequestError(
        f"out of service '{service}' is {' and '.join(wrong)}\n"
        f"  give a writable, C-contiguous array of float32 or float64, {shape[0]} rows by {shape[1]} features"
    )


def _shared(out: Any) -> Array:
    """The memory of something that is no array of NumPy, as one."""
    if type(out).__module__.partition(".")[0] == "torch" and hasattr(out, "numpy"):
        # Its DLPack takes many times as long, and before 1.0 forbids to write.
        return np.asarray(out.numpy())
    if not hasattr(out, "__dlpack__"):
        return np.asarray(memoryview(out))
    return np.from_dlpack(out)


_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


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
    watermarks: Mapping[str, int | None] = field(default_factory=dict)
    """The moment up to which each view was complete, in microseconds."""
    asked: Request | None = None
    """The keys and request columns of the rows."""
    request_id: str = field(default_factory=new_request_id)
    """A name for this read that no other has."""

    def __len__(self) -> int:
        return self.rows

    def part(self, start: int, stop: int, asked: Request | None = None) -> OnlineFeatures:
        """The rows from `start` to before `stop`, as a read of their own, which asked for what `asked` says."""
        chosen = slice(start, stop)
        return replace(
            self,
            request_id=new_request_id(),
            asked=asked,
            rows=stop - start,
            blocks=tuple(b.rows(chosen) for b in self.blocks),
            seen=tuple(s.rows(chosen) for s in self.seen),
        )

    def _repr_html_(self) -> str:
        from featurestore.serving.shown import online_html

        return online_html(self)

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
            age = np.maximum(self.at - seen.last_at, 0) // 1000
            if seen.found is not None:
                age = np.where(seen.found, age, -1)
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
        self._must_have_numbers()
        out = np.empty((self.rows, len(self.tensor_names)), np.dtype(dtype))
        _tensor(self, out)
        return out

    def into(self, out: Any) -> Any:
        """Puts the tensor into a buffer of yours, NULL as NaN, and gives `out` back.

        `out` is (rows, numeric and boolean features) float32 or float64, C-contiguous and writable, in the memory of the host:
        a NumPy array, or what shares its memory by DLPack or as a Python buffer, as a pinned tensor of PyTorch does. Raises
        RequestError for anything else, before anything is written.
        """
        self.fill(buffer_of(out, (self.rows, len(self.columns.names)), self.service.name))
        return out

    def fill(self, array: Array) -> None:
        """`into` for what `buffer_of` gave."""
        self._must_have_numbers()
        _tensor(self, array)

    def _must_have_numbers(self) -> None:
        if not self.tensor_names:
            raise RequestError(
                f"service '{self.service.name}' has no numeric feature to make a tensor of\n"
                "  read it with to_dict() or to_arrow(), or encode texts in the definition: hash_bucket(x, n)"
            )

    def __dlpack__(self, **options: Any) -> Any:
        """The tensor of `to_numpy()`, without a further copy."""
        return self.to_numpy().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def to_torch(self, device: str = "cpu") -> Any:
        """The tensor in PyTorch: shares memory on the CPU; to CUDA a non-blocking copy through pinned memory."""
        import torch

        if device == "cpu":
            return torch.from_numpy(self.to_numpy())
        kind = torch.device(device).type
        if kind == "cuda":
            self._must_have_numbers()
            staged = torch.empty((self.rows, len(self.tensor_names)), pin_memory=True)
            return self.into(staged).to(device, non_blocking=True)
        tensor = torch.from_numpy(self.to_numpy())
        return tensor if kind == "cpu" else tensor.to(device)

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


def _tensor(result: OnlineFeatures, out: Array) -> None:
    number = result.columns.number
    for block in result.blocks:
        places, valid = block.places, block.valid
        if block.whole:
            block.into(out)
            return
        values = block.values
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
            values = np.where(valid, values.astype(out.dtype, copy=False), out.dtype.type(np.nan))
        out[:, places if number is None else number[places]] = values
