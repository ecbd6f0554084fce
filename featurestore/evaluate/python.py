"""A Python function over columns, in place of an expression: how it is called, and what it may give back."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.errors import FunctionError, Where
from featurestore.evaluate.arrow import arrow_type, from_physical, to_physical
from featurestore.evaluate.expressions import Columns, Program, compile_expression
from featurestore.evaluate.partials import Array, Mask
from featurestore.expr.literals import MAX_DATE, MAX_TIMESTAMP, MIN_DATE, MIN_TIMESTAMP
from featurestore.ir import OnDemand, PythonFunction
from featurestore.types import (
    Bool,
    Date,
    DecimalType,
    DType,
    String,
    Timestamp,
    is_float,
    is_integer,
    numpy_dtype,
)

_RANGE: dict[DType, tuple[int, int]] = {
    Timestamp: (MIN_TIMESTAMP, MAX_TIMESTAMP),
    Date: (MIN_DATE, MAX_DATE),
}


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """One column: `values` in their physical form (see the architecture page), and `valid`, False where there is NULL.

    A value under NULL is zero, None for texts and lists. `values, valid = column` takes it apart; `len(column)` is the number
    of rows.
    """

    values: Array
    valid: Mask
    dtype: DType

    def __iter__(self) -> Iterator[Array]:
        return iter((self.values, self.valid))

    def __len__(self) -> int:
        return len(self.values)

    def to_arrow(self) -> pa.Array:
        """The column in Arrow: timestamps, dates and decimals as such, NULLs as NULLs."""
        return from_physical(self.values, self.valid, self.dtype)


@dataclass(frozen=True, slots=True)
class FunctionProgram:
    """A Python function ready to run, from any thread: what `Program` is for an expression."""

    feature: OnDemand
    function: PythonFunction
    inputs: tuple[Program, ...]

    @property
    def columns(self) -> frozenset[str]:
        """The names of the columns it reads."""
        return self.feature.columns

    def evaluate(self, columns: Columns, rows: int, as_of: Array | int | None = None) -> tuple[Array, Mask]:
        """Value and mask of each of `rows` rows, as `Program.evaluate` gives them. The function is called once.

        Of no rows it is not called. Raises FunctionError when it raises, and for an outcome of a wrong length or type.
        """
        dtype = self.feature.dtype
        if rows == 0:
            return np.empty(0, numpy_dtype(dtype)), np.empty(0, np.bool_)
        given = [
            Values(_locked(values), _locked(valid), program.dtype)
            for program in self.inputs
            for values, valid in (program.evaluate(columns, rows, as_of),)
        ]
        return self._checked(self._called(given), given, rows)

    def _called(self, given: Sequence[Values]) -> object:
        assert self.function.call is not None
        try:
            with np.errstate(all="ignore"):
                return self.function.call(*given)
        except Exception as error:
            file = self._code.co_filename
            lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
            where = Where(file, (lines[-1] if lines else None) or self._code.co_firstlineno)
            said = (str(error).splitlines() or [""])[0]
            raise FunctionError(
                f"{where}: {self._who} raised {type(error).__name__}: {said}\n"
                f"  it was called with {len(given[0])} rows of {', '.join(repr(g.dtype) for g in given)}"
            ) from error

    @property
    def _code(self) -> Any:
        return self.function.call.__code__  # type: ignore[union-attr]

    @property
    def _who(self) -> str:
        return f"python function '{self.function.name}' of on-demand feature '{self.feature.name}'"

    def _wrong(self, what: str, works: str) -> FunctionError:
        where = Where(self._code.co_filename, self._code.co_firstlineno)
        return FunctionError(f"{where}: {self._who} {what}\n  {works}")

    def _checked(self, result: object, given: Sequence[Values], rows: int) -> tuple[Array, Mask]:
        dtype = self.feature.dtype
        values, valid = self._parts(result)
        if valid is None:  # as in an expression: NULL in, NULL out
            valid = np.ones(rows, np.bool_)
            for one in given:
                valid &= one.valid
        for name, part in (("values", values), ("mask", valid)):
            if part.ndim != 1 or len(part) != rows:
                shape = len(part) if part.ndim == 1 else f"an array of shape {part.shape}"
                raise self._wrong(
                    f"gave {shape} {name} for {rows} rows",
                    "it gets all rows at once, and gives one value for each",
                )
        if valid.dtype != np.bool_:
            raise self._wrong(
                f"gave a mask of {valid.dtype}", "a mask is booleans: True where there is a value"
            )
        return self._settled(values, valid, dtype)

    def _parts(self, result: object) -> tuple[Array, Mask | None]:
        dtype = self.feature.dtype
        match result:
            case Values():
                return np.asarray(result.values), np.asarray(result.valid)
            case pa.Array() | pa.ChunkedArray():
                try:
                    found, valid = to_physical(result, dtype)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    raise self._wrong(
                        f"gave {result.type}, not {dtype}: {str(error).splitlines()[0]}",
                        f"an Arrow array of {arrow_type(dtype)} fits",
                    ) from error
                return found, np.ones(len(found), np.bool_) if valid is None else valid
            case np.ma.MaskedArray():
                return result.data, ~np.ma.getmaskarray(result)
            case np.ndarray():
                return result, None
            case tuple() if len(result) == 2:
                try:
                    return np.asarray(result[0]), np.asarray(result[1])
                except ValueError as error:
                    raise self._wrong(
                        f"gave {error}", "a pair of values and mask fits, one of each for a row"
                    ) from error
            case _:
                raise self._wrong(
                    f"gave a {type(result).__name__}",
                    "it gives a NumPy array, a pair of values and mask, Values, or an Arrow array",
                )

    def _settled(self, values: Array, valid: Mask, dtype: DType) -> tuple[Array, Mask]:
        """The values in their physical form: clean as after an expression, zero (None for texts) under NULL."""
        form = numpy_dtype(dtype)
        if dtype == String:
            return self._texts(values, valid)
        if values.dtype.kind not in _KINDS[_kind(dtype)]:
            raise self._wrong(
                f"gave {values.dtype}, not {dtype}", f"{form} fits: values.astype({form.name!r})"
            )
        if values.dtype.kind == "f":
            with np.errstate(all="ignore"):
                values = values.astype(form)
            valid = valid & np.isfinite(values)
        elif form.kind == "f":
            values = values.astype(form)
        elif form.kind == "i":
            low, high = _bounds(dtype)
            # Compared as Python's whole numbers where uint64 would wrap.
            fits = (values <= high) if values.dtype.kind == "u" else (values >= low) & (values <= high)
            valid = valid & fits
            values = np.where(valid, values, 0).astype(form)
        values = np.where(valid, values, form.type(0))
        return (values + form.type(0) if is_float(dtype) else values), valid

    def _texts(self, values: Array, valid: Mask) -> tuple[Array, Mask]:
        found = values.astype(object)
        valid = valid & np.array([v is not None for v in found.tolist()], np.bool_)
        found[~valid] = None
        for row, value in enumerate(found.tolist()):
            if value is not None and not isinstance(value, str):
                raise self._wrong(
                    f"gave a {type(value).__name__} in row {row}, not a String",
                    "an array of str and None fits",
                )
        return found, valid


_KINDS = {"float": "fiu", "whole": "iu", "bool": "b"}
"""The kinds of NumPy arrays that are taken for a type: nothing that a cast would cut."""


def _kind(dtype: DType) -> str:
    return "float" if is_float(dtype) else "bool" if dtype == Bool else "whole"


def _bounds(dtype: DType) -> tuple[int, int]:
    if isinstance(dtype, DecimalType):
        return 1 - int(10**dtype.precision), int(10**dtype.precision) - 1
    if dtype in _RANGE:
        return _RANGE[dtype]
    assert is_integer(dtype)
    limits = np.iinfo(numpy_dtype(dtype))
    return int(limits.min), int(limits.max)


def _locked(column: Array) -> Array:
    """The column as it may be handed out: nothing that others read can be written to."""
    whole = np.ascontiguousarray(column).view()
    whole.flags.writeable = False
    return whole


def function_program(
    feature: OnDemand, function: PythonFunction, schema: Mapping[str, DType]
) -> FunctionProgram:
    """The program of a Python function over columns of these types. Raises FunctionError when it is not at hand."""
    if function.call is None:
        raise FunctionError(
            f"on-demand feature '{feature.name}' is computed by the Python function '{function.name}', which is not at hand\n"
            "  load the definitions that hold it"
        )
    return FunctionProgram(feature, function, tuple(compile_expression(i, schema) for i in function.inputs))
