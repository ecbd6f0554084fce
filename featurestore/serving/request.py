"""A request: its columns checked and of one length, and the store keys that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from featurestore.errors import RequestError, nearest
from featurestore.evaluate.on_demand import cleaned
from featurestore.evaluate.partials import Array, Mask
from featurestore.online.codec import NOBODY, entity_key_rows, entity_keys, number_keys, number_name
from featurestore.online.values import Asked
from featurestore.serving.group import Group
from featurestore.types import Bool, DType, Float64, Int64, String

Rows = Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""A dict of columns (scalars are the same in every row) or a list of row dicts."""

Column = Array | Sequence[Any]
"""The values of one key column: int64 without NULL, or anything in a list."""


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked, checked: key columns of one length, and request columns with where they are not NULL (None: everywhere)."""

    columns: Mapping[str, Column]
    rows: int
    asked: Mapping[str, tuple[Array, Mask | None]]

    @staticmethod
    def joined(requests: Sequence[Request]) -> Request:
        """The rows of several requests to one service, one after another."""
        first = requests[0]
        columns = {name: _end_to_end([r.columns[name] for r in requests]) for name in first.columns}
        asked = {}
        for name, (_, some) in first.asked.items():
            parts = [r.asked[name] for r in requests]
            everywhere = some is None and all(valid is None for _, valid in parts)
            masks = [np.ones(len(v), np.bool_) if valid is None else valid for v, valid in parts]
            asked[name] = (
                np.concatenate([v for v, _ in parts]),
                None if everywhere else np.concatenate(masks),
            )
        return Request(columns, sum(r.rows for r in requests), asked)


def _end_to_end(parts: Sequence[Column]) -> Column:
    if all(isinstance(p, np.ndarray) for p in parts):
        return np.concatenate(parts)
    return [value for part in parts for value in (part.tolist() if isinstance(part, np.ndarray) else part)]


@dataclass(frozen=True, slots=True)
class Lookup:
    """The store keys of one group: for each distinct entity base (and head); and which entity each row asks for.

    `rows` None: each row asks for its own. A key with a NULL part is an unknown entity: it has a store key that nothing is
    ever written under.
    """

    keys: Asked
    key_bytes: list[bytes] | None
    rows: Array | None


def key_columns_of(entities: Rows, types: Mapping[str, DType], service: str) -> tuple[dict[str, Column], int]:
    """The key columns, checked and of one length."""
    if isinstance(entities, Mapping):
        given: Mapping[str, Any] = entities
    else:
        given = _by_name(entities, types, service)
    for name in given:
        if name not in types:
            raise RequestError(
                "\n  ".join([f"service '{service}' has no key '{name}'", *nearest(name, types)])
            )
    for name in types:
        if name not in given:
            wanted = ", ".join(types)
            raise RequestError(f"key '{name}' of service '{service}' is missing\n  a request holds {wanted}")
    columns = {name: _listed(value) for name, value in given.items()}
    lengths = {n: len(v) for n, v in columns.items() if isinstance(v, list | tuple | np.ndarray)}
    if len(set(lengths.values())) > 1:
        raise RequestError(
            f"key columns have different lengths: {', '.join(f'{n} {k}' for n, k in lengths.items())}"
        )
    count = next(iter(lengths.values()), 1)
    spread = {n: v if n in lengths else [v] * count for n, v in columns.items()}
    return {name: _checked(name, values, types[name], service) for name, values in spread.items()}, count


def request_columns_of(
    request: Rows, types: Mapping[str, DType], rows: int, service: str
) -> dict[str, tuple[Array, Mask | None]]:
    """The request columns as clean physical values, one for each row; a scalar is the same in all."""
    import pyarrow as pa

    from featurestore.evaluate.arrow import arrow_type, to_physical

    given = request if isinstance(request, Mapping) else _by_name(request, types, service)
    for name in given:
        if name not in types:
            raise RequestError(
                "\n  ".join([f"service '{service}' has no request column '{name}'", *nearest(name, types)])
            )
    columns = {}
    for name, dtype in types.items():
        if name not in given:
            raise RequestError(
                f"request column '{name}' of service '{service}' is missing\n"
                f"  give request={{{', '.join(repr(n) for n in types)}: …}}"
            )
        value = _listed(given[name])
        values = value if isinstance(value, list | tuple | np.ndarray) else [value] * rows
        if len(values) != rows:
            raise RequestError(f"request column '{name}' has {len(values)} values for {rows} rows of keys")
        plain = _plain(values, dtype)
        if plain is not None:
            columns[name] = cleaned(*plain, dtype)
            continue
        try:
            given_as = pa.array(values)
            # Text is never taken for a number, nor a number for text: a cast would try.
            alike = pa.types.is_null(given_as.type) or pa.types.is_string(given_as.type) == (dtype == String)
            fits = given_as.cast(arrow_type(dtype)) if alike else pa.array(values, pa.null())
            columns[name] = cleaned(*to_physical(fits, dtype), dtype)
        except (pa.ArrowException, OverflowError) as error:
            raise RequestError(
                f"request column '{name}' of service '{service}' is declared {dtype}: {str(error).splitlines()[0]}"
            ) from error
    return columns


_PLAIN: Final[Mapping[DType, tuple[type, Any]]] = {
    Float64: (float, np.float64),
    Int64: (int, np.int64),
    Bool: (bool, np.bool_),
    String: (str, object),
}


def _plain(values: Any, dtype: DType) -> tuple[Array, Mask | None] | None:
    """Values of just the type that is declared, as most are; None for others, which Arrow looks at. It takes a while to load."""
    kind = _PLAIN.get(dtype)
    if kind is None or isinstance(values, np.ndarray) or set(map(type, values)) != {kind[0]}:
        return None
    try:
        return np.array(values, kind[1]), None
    except OverflowError:
        return None


def _by_name(
    rows: Sequence[Mapping[str, Any]], types: Mapping[str, DType], service: str
) -> dict[str, list[Any]]:
    """Row dicts as columns. Every row has to say each key: one left out is a slip more often than a NULL."""
    names = list(dict.fromkeys(name for row in rows for name in row)) if rows else list(types)
    for number, row in enumerate(rows if set(names) <= types.keys() else ()):
        for name in names:
            if name not in row:
                raise RequestError(
                    f"row {number} for service '{service}' has no '{name}', which other rows have\n"
                    "  give None where it is unknown"
                )
    return {name: [row.get(name) for row in rows] for name in names}


def _listed(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, np.ndarray):
        return value if value.ndim == 1 and value.dtype.kind in "iu" else value.tolist()
    for way in ("to_pylist", "to_list"):
        if hasattr(value, way):
            return getattr(value, way)()
    return value


def _checked(name: str, values: Any, dtype: DType, service: str) -> Column:
    if isinstance(values, np.ndarray):
        if dtype == Int64 and np.can_cast(values.dtype, np.int64):
            return values.astype(np.int64, copy=False)
        values = values.tolist()
    wanted = int if dtype == Int64 else str
    kinds = set(map(type, values))
    if not kinds <= {wanted, type(None)}:
        row, wrong = next((i, v) for i, v in enumerate(values) if type(v) not in (wanted, type(None)))
        raise RequestError(
            f"key '{name}' of service '{service}' is {wrong!r} in row {row}, and it is declared {dtype}"
        )
    if dtype != Int64:
        return values  # type: ignore[no-any-return]
    try:
        if type(None) not in kinds:
            return np.array(values, np.int64)
        np.array([v for v in values if v is not None], np.int64)
    except OverflowError as error:
        raise RequestError(
            f"key '{name}' of service '{service}' holds a number of more than 64 bits"
        ) from error
    return values  # type: ignore[no-any-return]


def lookup(group: Group, columns: Mapping[str, Column]) -> Lookup:
    parts = [columns[c] for c in group.columns]
    if group.numbers and len(parts) == 1 and isinstance(parts[0], np.ndarray):
        if len(parts[0]) == 1:
            name = number_name(int(parts[0][0]))
            return Lookup(Asked([lead + name for lead in group.leads], len(group.leads)), None, None)
        distinct, rows = _distinct(parts[0])
        return Lookup(Asked(number_keys([distinct], group.leads), len(group.leads)), None, rows)
    return _lookup_listed(group, parts, group.leads)


def _distinct(numbers: Array) -> tuple[Array, Array | None]:
    """The distinct ones, and which of them each is; all of them and None where no number comes twice."""
    if len(numbers) < 2:
        return numbers, None
    ordered = np.sort(numbers)
    if np.logical_and.reduce(ordered[1:] != ordered[:-1]):
        return numbers, None
    return np.unique(numbers, return_inverse=True)


def _lookup_listed(group: Group, parts: Sequence[Column], leads: Sequence[bytes]) -> Lookup:
    lists = [p.tolist() if isinstance(p, np.ndarray) else p for p in parts]
    tuples = lists[0] if len(parts) == 1 else list(zip(*lists, strict=True))
    rows, distinct = None, tuples
    numbers = dict.fromkeys(tuples)
    if len(numbers) < len(tuples):
        distinct = list(numbers)
        numbers = {key: i for i, key in enumerate(distinct)}
        rows = np.array([numbers[t] for t in tuples], np.int64)
    nobody = [i for i, key in enumerate(distinct) if _has_null(key)] if any(None in p for p in lists) else []
    if nobody:
        distinct = list(distinct)
        for i in nobody:
            distinct[i] = _blank(group)
    whole = parts if rows is None and not nobody else _by_column(group, distinct)
    if not nobody:
        keys, raw = entity_key_rows(group.view, whole, *leads)
        return Lookup(Asked(keys, len(leads)), raw, rows)
    listed, raw = entity_keys(group.view, whole, *leads)
    for i in nobody:
        listed[i * len(leads) : (i + 1) * len(leads)] = [group.codec.prefix + NOBODY] * len(leads)
    return Lookup(Asked(listed, len(leads)), raw, rows)


def _has_null(key: Any) -> bool:
    return key is None or (isinstance(key, tuple) and None in key)


def _blank(group: Group) -> Any:
    """A key in place of one that has a NULL part; the outcome is not used."""
    blank = tuple(0 if k.dtype == Int64 else "" for k in group.view.keys)
    return blank if len(blank) > 1 else blank[0]


def _by_column(group: Group, distinct: Sequence[Any]) -> list[Column]:
    if len(group.view.keys) == 1:
        return [distinct]
    return list(zip(*distinct, strict=True)) or [()] * len(group.view.keys)
