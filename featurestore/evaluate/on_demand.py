"""On-demand features: computed when asked for, by one code over training rows and online reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from featurestore.evaluate.expressions import Program, compile_expression
from featurestore.evaluate.finish import Cells
from featurestore.evaluate.partials import Array, Mask
from featurestore.evaluate.python import FunctionProgram, function_program
from featurestore.expr.literals import MAX_DATE, MAX_TIMESTAMP, MIN_DATE, MIN_TIMESTAMP
from featurestore.ir import OnDemand, PythonFunction, Service
from featurestore.status import Status
from featurestore.types import Date, DecimalType, DType, Timestamp, is_float, numpy_dtype

Column = tuple[Array, Mask | None]

_RANGE: dict[DType, tuple[int, int]] = {
    Timestamp: (MIN_TIMESTAMP, MAX_TIMESTAMP),
    Date: (MIN_DATE, MAX_DATE),
}


@dataclass(frozen=True, slots=True)
class Computed:
    """An on-demand feature ready to run."""

    feature: OnDemand
    program: Program | FunctionProgram


def compiled(service: Service) -> tuple[Computed, ...]:
    """The service's on-demand features, types settled once. Raises FunctionError for a function that is not at hand."""
    schema = schema_of(service)
    return tuple(Computed(o, _program(o, schema)) for o in service.on_demand)


def schema_of(service: Service) -> dict[str, DType]:
    """The columns that on-demand features of a service may read: of the request, and hidden ones."""
    return dict(service.request) | {r.output: r.dtype for r in service.reads if r.hidden}


def _program(feature: OnDemand, schema: Mapping[str, DType]) -> Program | FunctionProgram:
    if isinstance(feature.expression, PythonFunction):
        return function_program(feature, feature.expression, schema)
    return compile_expression(feature.expression, schema)


def compute(
    features: Sequence[Computed],
    inputs: Mapping[str, Cells],
    request: Mapping[str, Column],
    rows: int,
    as_of: Array | int,
) -> dict[str, Cells]:
    """The cells of each on-demand feature, by name.

    `inputs` are the hidden reads; their defaults are taken back first. A value made of one that is INEXACT or STALE is
    so too. `as_of` is the moment asked for in microseconds, one for all rows or one for each.
    """
    before = {name: (c.values, _before_default(c)) for name, c in inputs.items()}
    done = {}
    for one in features:
        columns = {n: before[n] if n in before else request[n] for n in one.program.columns}
        values, valid = one.program.evaluate(columns, rows, as_of)
        used = [inputs[n].status for n in one.program.columns if n in inputs]
        done[one.feature.name] = _settled(one.feature, values, valid, used)
    return done


def _before_default(cells: Cells) -> Mask:
    stood_in = (cells.status == Status.DEFAULT) | (cells.status == Status.OVERFLOW)
    valid: Mask = cells.valid & ~stood_in
    return valid


def _settled(feature: OnDemand, values: Array, valid: Mask, inputs: Sequence[Array]) -> Cells:
    status = np.where(valid, np.uint8(Status.PRESENT), np.uint8(Status.NULL))
    for doubt in (Status.STALE, Status.INEXACT):
        for given in inputs:
            status[valid & (given == doubt)] = doubt
    dtype = numpy_dtype(feature.dtype)
    filled = np.array(values, dtype)
    if feature.default is not None:
        filled[~valid] = feature.default
        status[~valid] = Status.DEFAULT
        valid = np.ones_like(valid)
    return Cells(filled, valid, status)


def cleaned(values: Array, valid: Mask | None, dtype: DType) -> Column:
    """A request column as expressions want it: what is not finite, or out of range, is NULL; −0 is 0."""
    ok = np.ones(len(values), np.bool_) if valid is None else valid
    if is_float(dtype):
        finite = np.isfinite(values)
        ok = ok & finite
        values = np.where(ok, values, 0) + values.dtype.type(0)
    elif dtype in _RANGE:
        low, high = _RANGE[dtype]
        ok = ok & (values >= low) & (values <= high)
        values = np.where(ok, values, 0).astype(values.dtype)
    elif isinstance(dtype, DecimalType):
        bound = 10**dtype.precision
        ok = ok & (values < bound) & (values > -bound)
        values = np.where(ok, values, 0)
    return values, ok
