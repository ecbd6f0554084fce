"""Expressions over NumPy columns: the one evaluator of on-demand features, in training and in serving.

A program is a list of steps, made once: types, constants and common parts are settled then, so that a request
of one row pays for array operations alone. The bits of a value depend on its inputs alone, never on how many
rows it came with or where it lay among them: every step is made of operations that IEEE 754 or integer
arithmetic defines to the last bit (the functions that no standard defines so are in `elementary.py`).

Inside, a NULL's value is whatever the steps left there; it becomes zero (None for text) at the end. Cells are
as long as the rows, or of length one where they are the same for all rows.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import operator
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, assert_never

import numpy as np

from featurestore.evaluate import elementary
from featurestore.evaluate.partials import Array, Mask
from featurestore.expr import Call, Case, Cast, Column, Expr, Literal, Typed, Value, elaborate
from featurestore.expr.casts import DATE_TEXT, DOUBLE_TEXT, INTEGER_TEXT, TIMESTAMP_TEXT, decimal_text_pattern
from featurestore.expr.literals import EPOCH, INT_BOUNDS, MAX_TIMESTAMP, MIN_TIMESTAMP, decimal_text
from featurestore.time import DAY, HOUR, MINUTE
from featurestore.types import (
    Bool,
    Date,
    DecimalType,
    DType,
    Float32,
    Float64,
    Int64,
    String,
    Timestamp,
    is_float,
    is_integer,
    numpy_dtype,
)

Valid = Mask | None
"""Which values are not NULL; None is all of them."""

Cell = tuple[Array, Valid]
Columns = Mapping[str, tuple[Array, Valid]]
Run = Callable[..., Cell]
"""A step's work: the cells of its arguments, one after the other, to its own."""


@dataclass(frozen=True, slots=True)
class _Step:
    target: int
    args: tuple[int, ...]
    run: Run


@dataclass(frozen=True, slots=True)
class Program:
    """An expression ready to be evaluated, as often as you like and from any thread.

    `dtype` is the type of its values, `columns` are the names of the columns it reads, `needs_as_of` says whether
    it asks for the time.
    """

    dtype: DType
    columns: frozenset[str]
    needs_as_of: bool
    _cells: tuple[Cell | None, ...]
    _inputs: tuple[tuple[int, str], ...]
    _times: int | None
    _steps: tuple[_Step, ...]
    _result: int

    def evaluate(self, columns: Columns, rows: int, as_of: Array | int | None = None) -> tuple[Array, Mask]:
        """Value and mask of each of `rows` rows, in order; what lies under a NULL is zero, None for text and lists.

        `columns` has physical values (docs/architecture.md), clean as a source's are: floats finite and without −0,
        times in the years 1 to 9999. A mask of None means that nothing is NULL; values under NULL may be anything.
        Each column has `rows` values, or one that holds for all rows. `as_of` is microseconds UTC, for all rows or for each.
        The result may share memory with an input; write to neither.

        Raises KeyError for a column that is missing, ValueError for one of another length, and for an `as_of` that is
        needed and None.
        """
        cells: list[Any] = list(self._cells)
        for index, name in self._inputs:
            cells[index] = columns[name]
            if len(cells[index][0]) not in (1, rows):
                raise ValueError(f"column '{name}' has {len(cells[index][0])} values for {rows} rows")
        if self._times is not None:
            if as_of is None:
                raise ValueError("the expression asks for as_of(): pass the time the value is asked for")
            cells[self._times] = np.atleast_1d(np.asarray(as_of, np.int64)), None
        with np.errstate(all="ignore"):
            for step in self._steps:
                cells[step.target] = step.run(*[cells[index] for index in step.args])
            return _settled(cells[self._result], self.dtype, rows)


def compile_expression(node: Expr, schema: Mapping[str, DType], *, on_demand: bool = True) -> Program:
    """The program of `node` over columns of these types; `on_demand` admits the functions only these may use.

    Raises ExprError with every mistake, as `infer` does. Lists and vectors may be chosen among and asked for NULL;
    any other function of them is such a mistake.
    """
    compiler = _Compiler()
    typed = elaborate(node, schema, on_demand=on_demand)
    result = compiler.place(typed)
    names = dict(compiler.inputs)
    return Program(
        dtype=typed.dtype,
        columns=frozenset(names.values()),
        needs_as_of=compiler.times is not None,
        _cells=tuple(compiler.cells),
        _inputs=tuple(compiler.inputs),
        _times=compiler.times,
        _steps=tuple(compiler.steps),
        _result=result,
    )


class _Compiler:
    """Gives each distinct part of a tree a place, in the order of evaluation; parts without columns are computed here."""

    def __init__(self) -> None:
        self.places: dict[Hashable, int] = {}
        self.cells: list[Cell | None] = []
        self.inputs: list[tuple[int, str]] = []
        self.times: int | None = None
        self.steps: list[_Step] = []

    def place(self, typed: Typed) -> int:
        """Where the part's values will be found; parts that are the same share a place."""
        if isinstance(typed.node, Call) and typed.node.function == "is_in" and _is_wide(typed.args[0].dtype):
            typed = _narrowed(typed)
        args = tuple(map(self.place, typed.args))
        key = (_label(typed), typed.dtype, args)
        if key not in self.places:
            self.places[key] = len(self.cells)
            self.cells.append(None)
            self._fill(self.places[key], typed, args)
        return self.places[key]

    def _fill(self, index: int, typed: Typed, args: tuple[int, ...]) -> None:
        match typed.node:
            case Column(name):
                self.inputs.append((index, name))
            case Literal(value, _):
                self.cells[index] = _constant(value, typed.dtype)
            case Call("as_of", _):
                self.times = index
            case Call() | Cast() | Case():
                run = _run(typed)
                known = [self.cells[arg] for arg in args]
                if any(cell is None for cell in known):
                    self.steps.append(_Step(index, args, run))
                else:
                    with np.errstate(all="ignore"):
                        self.cells[index] = run(*known)
            case _:
                assert_never(typed.node)


def _label(typed: Typed) -> Hashable:
    """What tells a node from others with the same type and arguments."""
    match typed.node:
        case Column(name):
            return "column", name
        case Literal(value, _):
            return "literal", value
        case Call(function, _):
            return "call", function, tuple(arg.dtype for arg in typed.args)
        case Cast():
            return "cast", typed.args[0].dtype
        case Case():
            return "case"
        case _:
            assert_never(typed.node)


def _constant(value: Value | None, dtype: DType) -> Cell:
    values = np.zeros(1, numpy_dtype(dtype))
    if value is None:
        return values, np.zeros(1, np.bool_)
    if _is_wide(dtype):
        value = max(-_FAR, min(_FAR, int(value)))
    values[0] = value
    return values, None


def _settled(cell: Cell, dtype: DType, rows: int) -> tuple[Array, Mask]:
    values, valid = cell
    if len(values) != rows:
        values = np.repeat(values, rows)
    if valid is None:
        valid = np.ones(rows, np.bool_)
    else:
        if len(valid) != rows:
            valid = np.repeat(valid, rows)
        if values.dtype == object:
            values = values.copy()
            values[~valid] = None
        else:
            values = np.where(valid, values, values.dtype.type(0))
    return (values + values.dtype.type(0) if is_float(dtype) else values), valid


# ── NULL ────────────────────────────────────────────────────────────────────────────────────────────────────


def _both(a: Valid, b: Valid) -> Valid:
    if a is None:
        return b
    return a if b is None else a & b


def _strict(kernel: Callable[..., Array], ok: Callable[..., Valid] | None = None) -> Run:
    """NULL where an argument is, or where `ok`, given the result and the arguments, is false."""

    def one(a: Cell) -> Cell:
        values = kernel(a[0])
        return values, a[1] if ok is None else _both(a[1], ok(values, a[0]))

    def two(a: Cell, b: Cell) -> Cell:
        values = kernel(a[0], b[0])
        valid = _both(a[1], b[1])
        return values, valid if ok is None else _both(valid, ok(values, a[0], b[0]))

    return lambda *cells: one(*cells) if len(cells) == 1 else two(*cells)


def _per_row(function: Callable[..., Any], dtype: DType) -> Run:
    """A Python function of each row without NULLs among the arguments; None from it is NULL."""
    physical = numpy_dtype(dtype)

    def run(*cells: Cell) -> Cell:
        valid: Valid = None
        for _, mask in cells:
            valid = _both(valid, mask)
        rows = max(len(values) for values, _ in cells)
        arrays = [values if len(values) == rows else np.repeat(values, rows) for values, _ in cells]
        if any(len(values) == 0 for values, _ in cells):
            return np.zeros(0, physical), np.zeros(0, np.bool_)
        if valid is not None and len(valid) != rows:
            valid = np.repeat(valid, rows)
        chosen = arrays if valid is None else [array[valid] for array in arrays]
        results = list(map(function, *[array.tolist() for array in chosen]))
        done = np.zeros(len(results), np.bool_)
        done[:] = [result is not None for result in results]
        if not done.all():
            results = [0 if result is None else result for result in results]
        some = np.empty(len(results), physical)
        some[:] = results
        if valid is None:
            return some, None if done.all() else done
        values, kept = np.zeros(rows, physical), np.zeros(rows, np.bool_)
        values[valid], kept[valid] = some, done
        return values, kept

    return run


def _true(cell: Cell) -> Mask:
    values, valid = cell
    return values if valid is None else values & valid


def _false(cell: Cell) -> Mask:
    values, valid = cell
    return ~values if valid is None else ~values & valid


def _and(a: Cell, b: Cell) -> Cell:
    if a[1] is None and b[1] is None:
        return a[0] & b[0], None
    true = _true(a) & _true(b)
    return true, true | _false(a) | _false(b)


def _or(a: Cell, b: Cell) -> Cell:
    if a[1] is None and b[1] is None:
        return a[0] | b[0], None
    true = _true(a) | _true(b)
    return true, true | (_false(a) & _false(b))


def _is_null(a: Cell) -> Cell:
    return (np.zeros(1, np.bool_) if a[1] is None else ~a[1]), None


def _is_not_null(a: Cell) -> Cell:
    return (np.ones(1, np.bool_) if a[1] is None else a[1]), None


def _coalesce(*cells: Cell) -> Cell:
    values, valid = cells[0]
    for other, there in cells[1:]:
        if valid is None:
            break
        values = np.where(valid, values, other)
        valid = None if there is None else valid | there
    return values, valid


def _case(*cells: Cell) -> Cell:
    values, valid = cells[-1]
    for condition, (value, there) in zip(cells[-3::-2], cells[-2::-2], strict=True):
        true = _true(condition)
        values = np.where(true, value, values)
        if valid is not None or there is not None:
            valid = np.where(true, True if there is None else there, True if valid is None else valid)
    return values, valid


def _extreme(less: Run, *, greatest: bool) -> Run:
    """The least or greatest of what is not NULL."""

    def pair(a: Cell, b: Cell) -> Cell:
        better = _true(less(a, b) if greatest else less(b, a))
        if a[1] is not None:
            better = better | ~a[1]
        if b[1] is not None:
            better = better & b[1]
        valid = None if a[1] is None or b[1] is None else a[1] | b[1]
        return np.where(better, b[0], a[0]), valid

    def run(*cells: Cell) -> Cell:
        best = cells[0]
        for cell in cells[1:]:
            best = pair(best, cell)
        return best

    return run


# ── numbers ─────────────────────────────────────────────────────────────────────────────────────────────────

_MIN = -(2**63)
_FAR = 4 * 10**18
"""Beyond every Decimal of 18 digits, and no sum of it with one leaves 64 bits.

Where Decimals meet they may take more digits than 64 bits have. All that can come of such a value is a sum without room,
or a comparison with a value that has room; for both it is enough to say that it is this far out.
"""


def _is_wide(dtype: DType) -> bool:
    return isinstance(dtype, DecimalType) and dtype.precision > 18


def _finite(values: Array, *_: Array) -> Valid:
    return np.isfinite(values)


def _digits(precision: int) -> Callable[..., Valid]:
    most = 10**precision - 1
    return lambda values, *_: (values <= most) & (values >= -most)


def _no_carry(values: Array, a: Array, b: Array) -> Valid:
    """A 64-bit sum has another sign than both its terms only if it wrapped."""
    return ((a ^ values) & (b ^ values)) >= 0


def _no_borrow(values: Array, a: Array, b: Array) -> Valid:
    return ((a ^ b) & (a ^ values)) >= 0


def _no_wrap(values: Array, a: Array, b: Array) -> Valid:
    """A wrapped product is off by a multiple of 2^64; the product in doubles by less than 2^13 where it matters."""
    near: Mask = np.abs(a.astype(np.float64) * b.astype(np.float64) - values.astype(np.float64)) < 2.0**62
    return near


def _arithmetic(ufunc: Callable[..., Array], fits: Callable[..., Valid], typed: Typed) -> Run:
    if is_float(typed.dtype):
        return _strict(ufunc, _finite)
    if not isinstance(typed.dtype, DecimalType):
        return _strict(ufunc, fits)
    room = _digits(typed.dtype.precision)
    if ufunc is np.multiply:
        return _strict(ufunc, lambda values, a, b: _both(fits(values, a, b), room(values)))
    return _strict(ufunc, room)


def _whole_division(ufunc: Callable[..., Array], typed: Typed) -> Run:
    match typed.args[1].node:
        case Literal(int() as divisor, _) if divisor > 0:
            return _strict(ufunc)
        case _ if ufunc is np.remainder:
            return _strict(ufunc, lambda _values, _a, b: b != 0)
        case _:
            return _strict(ufunc, lambda _values, a, b: (b != 0) & ((a != _MIN) | (b != -1)))


def _signed(ufunc: Callable[..., Array], typed: Typed) -> Run:
    if typed.dtype == Int64:
        return _strict(ufunc, lambda _values, a: a != _MIN)
    return _strict(ufunc)


def _away(values: Array, power: float) -> Array:
    """|values| * power rounded half up, with the sign of values: whole doubles, or infinities."""
    up = np.floor(np.abs(values) * power + 0.5)
    return np.where(values < 0, -up, up)


def _rounded(values: Array, unit: int) -> Array:
    """Decimals over `unit`, half away from zero."""
    up = (2 * np.abs(values) + unit) // (2 * unit)
    return np.where(values < 0, -up, up)


def _cut(values: Array, unit: int) -> Array:
    """Decimals over `unit`, without what is after the point."""
    down = np.abs(values) // unit
    return np.where(values < 0, -down, down)


def _round(typed: Typed) -> Run:
    source, digits = typed.args[0].dtype, _integer(typed.args[1])
    if is_float(typed.dtype):
        power = 10.0**digits
        return _first(_strict(lambda a: _away(a, power) / power, _finite))
    if isinstance(source, DecimalType) and digits < source.scale:
        unit = 10 ** (source.scale - digits)
        return _first(_strict(lambda a: _rounded(a, unit)))
    return _first(_same)


def _whole(typed: Typed, ufunc: Callable[..., Array], sign: int) -> Run:
    source = typed.args[0].dtype
    if is_float(source):
        return _strict(ufunc)
    if isinstance(source, DecimalType) and source.scale:
        unit = 10**source.scale
        return _strict(lambda a: sign * (sign * a // unit))
    return _same


def _same(a: Cell) -> Cell:
    return a


def _first(run: Run) -> Run:
    """`run` of the first argument; the others are constants that it holds already."""
    return lambda a, *_: run(a)


def _integer(typed: Typed) -> int:
    """The value of an argument that the function's type rule holds to be an integer constant."""
    assert isinstance(typed.node, Literal)
    assert isinstance(typed.node.value, int)
    return typed.node.value


def _compare(name: str, typed: Typed) -> Run:
    if typed.args[0].dtype == String and name not in ("eq", "ne"):  # None has no order
        return _per_row(getattr(operator, name), Bool)
    return _strict(_COMPARE[name])


_COMPARE: dict[str, Callable[..., Array]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


def _is_in(typed: Typed) -> Run:
    value, *items = typed.args
    if not items:
        return lambda a: (np.zeros(1, np.bool_), a[1])
    if value.dtype == String:
        texts = frozenset(item.node.value for item in items if isinstance(item.node, Literal))
        return _first(_per_row(texts.__contains__, Bool))
    if len(items) <= _FEW:
        return _equal_to_one
    return lambda a, *wanted: (np.isin(a[0], np.concatenate([item[0] for item in wanted])), a[1])


_FEW = 8
"""So many comparisons cost less than one search."""


def _equal_to_one(a: Cell, *items: Cell) -> Cell:
    found = a[0] == items[0][0]
    for item, _ in items[1:]:
        found |= a[0] == item[0]
    return found, a[1]


def _narrowed(typed: Typed) -> Typed:
    """`is_in` of wide Decimals in the type its value had before: an item that has no place there equals nothing."""
    value, *items = typed.args
    assert isinstance(value.dtype, DecimalType)
    exact = [_unscaled(item, value.dtype.scale) for item in items]
    if isinstance(value.node, Literal):
        return Typed(Literal(None if value.node.value is None else value.node.value in exact, Bool), Bool)
    (native,) = value.args
    unit = 10 ** (value.dtype.scale - _scale(native.dtype))
    low, high = INT_BOUNDS[Int64]
    kept = [item // unit for item in exact if item % unit == 0 and low <= item // unit <= high]
    return Typed(typed.node, Bool, (native, *(Typed(Literal(item, Int64), Int64) for item in kept)))


def _unscaled(item: Typed, scale: int) -> int:
    """A constant that is not NULL, as a whole number of 10 to minus `scale`."""
    if isinstance(item.node, Cast):
        (inner,) = item.args
        return _unscaled(inner, _scale(inner.dtype)) * int(10 ** (scale - _scale(inner.dtype)))
    return _integer(item)


def _scale(dtype: DType) -> int:
    return dtype.scale if isinstance(dtype, DecimalType) else 0


# ── text and time ───────────────────────────────────────────────────────────────────────────────────────────

_LOWER, _UPPER = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TO_LOWER, _TO_UPPER = str.maketrans(_UPPER, _LOWER), str.maketrans(_LOWER, _UPPER)


def _lower(text: str) -> str:
    return text.lower() if text.isascii() else text.translate(_TO_LOWER)


def _upper(text: str) -> str:
    return text.upper() if text.isascii() else text.translate(_TO_UPPER)


def _substring(typed: Typed) -> Run:
    start, n = map(_integer, typed.args[1:])
    return _first(_per_row(operator.itemgetter(slice(start, start + n)), String))


def _hash_bucket(typed: Typed) -> Run:
    n = _integer(typed.args[1])

    def bucket(value: int | str) -> int:
        digest = hashlib.md5(str(value).encode(), usedforsecurity=False).digest()
        return (int.from_bytes(digest[:8], "big") >> 4) % n

    return _first(_per_row(bucket, Int64))


def _shift(typed: Typed) -> Run:
    microseconds = _integer(typed.args[1])
    low, high = MIN_TIMESTAMP - microseconds, MAX_TIMESTAMP - microseconds
    return _first(_strict(lambda a: a + microseconds, lambda _values, a: (a >= low) & (a <= high)))


def _day_part(part: Callable[[Array], Array]) -> Callable[[Typed], Run]:
    """A part of a date, from days since 1970."""

    def build(typed: Typed) -> Run:
        if typed.args[0].dtype == Date:
            return _strict(lambda a: part(a.astype(np.int64)))
        return _strict(lambda a: part(a // DAY))

    return build


def _year(days: Array) -> Array:
    return days.view("M8[D]").astype("M8[Y]").view(np.int64) + 1970


def _month(days: Array) -> Array:
    return days.view("M8[D]").astype("M8[M]").view(np.int64) % 12 + 1


def _day(days: Array) -> Array:
    first = days.view("M8[D]").astype("M8[M]").astype("M8[D]").view(np.int64)
    return days - first + 1


# ── casts ───────────────────────────────────────────────────────────────────────────────────────────────────


def _cast(source: DType, target: DType) -> Run:
    """One case per kind of source; what `cast_problem` refuses never arrives."""
    if source == String:
        return _per_row(_reader(target), target)
    if target == String:
        return _per_row(_writer(source), String)
    if source == Timestamp:
        return _strict(lambda a: (a // DAY).astype(np.int32))
    if source == Date:
        return _strict(lambda a: a.astype(np.int64) * DAY)
    if target == Float32 and source != Float64:
        double, single = _cast(source, Float64), _cast(Float64, Float32)
        return lambda a: single(double(a))
    if is_float(target):
        return _to_float(source, target)
    if isinstance(target, DecimalType):
        return _to_decimal(source, target)
    return _to_integer(source, target)


def _to_float(source: DType, target: DType) -> Run:
    if isinstance(source, DecimalType) and source.scale:
        power = 10.0**source.scale
        return _strict(lambda a: a.astype(np.float64) / power)
    physical = numpy_dtype(target)
    return _strict(lambda a: a.astype(physical), _finite if target == Float32 else None)


def _to_decimal(source: DType, target: DecimalType) -> Run:
    room, scale = _digits(target.precision), _scale(source)
    if is_float(source):
        power, most = 10.0**target.scale, 10.0**target.precision
        doubled = _strict(
            lambda a: _away(a.astype(np.float64), power), lambda values, _a: np.abs(values) < most
        )
        return _then(doubled, lambda a: a.astype(np.int64))
    if target.scale < scale:
        unit = 10 ** (scale - target.scale)
        return _strict(lambda a: _rounded(a, unit), room)
    unit = 10 ** (target.scale - scale)
    if _is_wide(target):
        far = _FAR // unit
        return _strict(
            lambda a: np.where(a > far, _FAR, np.where(a < -far, -_FAR, a.astype(np.int64) * unit))
        )
    most = (10**target.precision - 1) // unit
    return _strict(lambda a: a.astype(np.int64) * unit, lambda _values, a: (a <= most) & (a >= -most))


def _to_integer(source: DType, target: DType) -> Run:
    low, high = INT_BOUNDS[target]  # type: ignore[index]  # the two integer types remain
    physical = numpy_dtype(target)
    if is_float(source):
        cut = _strict(
            lambda a: np.trunc(a.astype(np.float64)),
            lambda values, _a: (values >= low) & (values < high + 1.0),
        )
        return _then(cut, lambda a: a.astype(physical))
    unit = 10 ** _scale(source)
    whole = _strict(lambda a: _cut(a, unit)) if unit > 1 else _same
    if source == Bool or physical == np.int64:
        return _then(whole, lambda a: a.astype(physical))
    inside = _strict(lambda a: a.astype(physical), lambda _values, a: (a >= low) & (a <= high))
    return lambda a: inside(whole(a))


def _then(run: Run, kernel: Callable[[Array], Array]) -> Run:
    """`kernel` of what `run` gives; of zero where that is NULL, which may be more than `kernel` can take."""

    def after(a: Cell) -> Cell:
        values, valid = run(a)
        return kernel(values if valid is None else np.where(valid, values, values.dtype.type(0))), valid

    return after


def _writer(source: DType) -> Callable[[Any], str]:
    if source == Bool:
        return lambda value: "true" if value else "false"
    scale = _scale(source)
    return (lambda value: decimal_text(value, scale)) if scale else str


def _reader(target: DType) -> Callable[[str], Value | None]:
    """What a text spells, in the strict subset of `casts.py`; anything else is NULL."""
    if target == Bool:
        return {"true": True, "false": False}.get
    if is_float(target):
        return _float_reader(target)
    if is_integer(target):
        return _whole_reader(INTEGER_TEXT, *INT_BOUNDS[target], int)  # type: ignore[index]  # an integer type
    if isinstance(target, DecimalType):
        scale, most = target.scale, 10**target.precision - 1
        return _whole_reader(
            decimal_text_pattern(scale), -most, most, lambda text: _read_decimal(text, scale)
        )
    fits = re.compile(DATE_TEXT if target == Date else TIMESTAMP_TEXT).fullmatch
    read = _read_date if target == Date else _read_timestamp

    def reader(text: str) -> int | None:
        try:
            return read(text) if fits(text) else None
        except ValueError:  # 30 February
            return None

    return reader


def _whole_reader(
    pattern: str, low: int, high: int, read: Callable[[str], int]
) -> Callable[[str], int | None]:
    fits = re.compile(pattern).fullmatch

    def reader(text: str) -> int | None:
        if not fits(text):
            return None
        value = read(text)
        return value if low <= value <= high else None

    return reader


def _float_reader(target: DType) -> Callable[[str], float | None]:
    fits, physical = re.compile(DOUBLE_TEXT).fullmatch, numpy_dtype(target).type

    def reader(text: str) -> float | None:
        if not fits(text):
            return None
        value = float(physical(float(text)))
        return value if abs(value) < float("inf") else None

    return reader


def _read_decimal(text: str, scale: int) -> int:
    whole, _, fraction = text.partition(".")
    return int(whole + fraction.ljust(scale, "0"))


def _read_date(text: str) -> int:
    return (dt.date.fromisoformat(text) - EPOCH.date()).days


def _read_timestamp(text: str) -> int:
    return (dt.datetime.fromisoformat(text).replace(tzinfo=None) - EPOCH) // dt.timedelta(microseconds=1)


# ── every function ──────────────────────────────────────────────────────────────────────────────────────────


def _run(typed: Typed) -> Run:
    match typed.node:
        case Cast():
            return _cast(typed.args[0].dtype, typed.dtype)
        case Case():
            return _case
        case Call(function, _):
            return LEAVES[function](typed)
        case Column() | Literal():
            raise AssertionError("a column or a constant takes no step")
        case _:
            assert_never(typed.node)


def _always(run: Run) -> Callable[[Typed], Run]:
    return lambda _: run


def _ordered(*, greatest: bool) -> Callable[[Typed], Run]:
    def build(typed: Typed) -> Run:
        less = _per_row(operator.lt, Bool) if typed.dtype == String else _strict(np.less)
        return _extreme(less, greatest=greatest)

    return build


def _concat(*texts: str) -> str:
    return "".join(texts)


def _positive(_: Array, a: Array) -> Valid:
    return a > 0


LEAVES: dict[str, Callable[[Typed], Run]] = {
    "add": lambda typed: _arithmetic(np.add, _no_carry, typed),
    "sub": lambda typed: _arithmetic(np.subtract, _no_borrow, typed),
    "mul": lambda typed: _arithmetic(np.multiply, _no_wrap, typed),
    "div": _always(_strict(np.divide, _finite)),
    "floordiv": lambda typed: _whole_division(np.floor_divide, typed),
    "mod": lambda typed: _whole_division(np.remainder, typed),
    **{name: partial(_compare, name) for name in _COMPARE},
    "and": _always(_and),
    "or": _always(_or),
    "not": _always(_strict(np.logical_not)),
    "neg": lambda typed: _signed(np.negative, typed),
    "abs": lambda typed: _signed(np.abs, typed),
    "round": _round,
    "floor": lambda typed: _whole(typed, np.floor, 1),
    "ceil": lambda typed: _whole(typed, np.ceil, -1),
    "is_null": _always(_is_null),
    "is_not_null": _always(_is_not_null),
    "is_in": _is_in,
    "coalesce": _always(_coalesce),
    "least": _ordered(greatest=False),
    "greatest": _ordered(greatest=True),
    "lower": _always(_per_row(_lower, String)),
    "upper": _always(_per_row(_upper, String)),
    "length": _always(_per_row(len, Int64)),
    "substring": _substring,
    "starts_with": _always(_per_row(str.startswith, Bool)),
    "ends_with": _always(_per_row(str.endswith, Bool)),
    "contains": _always(_per_row(operator.contains, Bool)),
    "concat": _always(_per_row(_concat, String)),
    "hash_bucket": _hash_bucket,
    "year": _day_part(_year),
    "month": _day_part(_month),
    "day": _day_part(_day),
    "day_of_week": _day_part(lambda days: (days + 3) % 7 + 1),
    "hour": _always(_strict(lambda a: a % DAY // HOUR)),
    "minute": _always(_strict(lambda a: a % HOUR // MINUTE)),
    "epoch_seconds": _always(_strict(lambda a: a.astype(np.float64) / 1e6)),
    "seconds_between": _always(_strict(lambda a, b: (b - a).astype(np.float64) / 1e6)),
    "shift": _shift,
    "exp": _always(_strict(elementary.exp, _finite)),
    "ln": _always(_strict(elementary.ln, _positive)),
    "log10": _always(_strict(elementary.log10, _positive)),
    "sqrt": _always(_strict(np.sqrt, lambda _, a: a >= 0)),
    "pow": _always(_strict(elementary.power, _finite)),
    "sin": _always(_strict(elementary.sin)),
    "cos": _always(_strict(elementary.cos)),
    "tanh": _always(_strict(elementary.tanh)),
}
"""What makes the step of each function; `as_of` is an input, not a step."""
