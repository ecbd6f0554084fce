"""The online read: feature vectors for many entities, as of now or of a past moment, in one round trip.

A `Reader` resolves a service once: which views, which keys, which columns of which records. A read then builds keys, asks
the store once, decodes each view's values as arrays, and merges and finishes them with the code that training uses.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from featurestore.errors import RequestError, nearest
from featurestore.evaluate.finish import Cells, finish, settle
from featurestore.evaluate.partials import Array, Mask, Partial, merge_tiles
from featurestore.evaluate.ranges import GatheredRanges
from featurestore.ir import Feature, Read, Service, View
from featurestore.layout import Layout, Level, layout_of
from featurestore.materialize import ViewState, load_states
from featurestore.online.codec import (
    BASE,
    HEAD,
    NEVER,
    NOBODY,
    Codec,
    Decoded,
    Section,
    codec_of,
    decode,
    entity_keys,
)
from featurestore.online.store import OnlineStore
from featurestore.status import Status
from featurestore.types import DType, Int64, is_tensor, numpy_dtype

Rows = Mapping[str, Any] | Sequence[Mapping[str, Any]]

STATE_SECONDS = 1.0
"""How long a reader trusts what the store said of a view as a whole (its watermark) before it asks again."""


@dataclass(frozen=True)
class OnlineFeatures:
    """Feature vectors: one row for each entity row asked for, one column for each feature, in service order.

    `mask` is true where a value is present (after defaults); `statuses` holds `Status` codes; both are (rows, features).
    `freshness` maps each view to the seconds between its watermark and the moment asked for, None if never materialised;
    `ages` is (rows, features) int64, the milliseconds since the entity's newest event in the feature's view, -1 if none.
    `at` is the moment asked for, in microseconds.
    """

    service: Service
    names: tuple[str, ...]
    dtypes: tuple[DType, ...]
    cells: tuple[Cells, ...]
    mask: Mask
    statuses: Array
    ages: Array
    freshness: Mapping[str, float | None]
    at: int
    request_id: str

    def __len__(self) -> int:
        return len(self.mask)

    @property
    def row_ids(self) -> list[str]:
        """What predictions and labels of each row refer to."""
        return [f"{self.request_id}-{i}" for i in range(len(self.mask))]

    @cached_property
    def tensor_names(self) -> tuple[str, ...]:
        """The columns of the tensor: the numeric and boolean features, in service order."""
        return tuple(n for n, t in zip(self.names, self.dtypes, strict=True) if is_tensor(t))

    def to_numpy(self, dtype: str = "float32") -> Array:
        """(rows, numeric and boolean features) C-contiguous `float32` or `float64`; NULL is NaN.

        Raises RequestError when no feature of the service is a number.
        """
        if dtype not in ("float32", "float64"):
            raise RequestError(f"a tensor of {dtype} is not offered\n  there is float32 and float64")
        chosen = [i for i, t in enumerate(self.dtypes) if is_tensor(t)]
        if not chosen:
            raise RequestError(
                f"service '{self.service.name}' has no numeric feature to make a tensor of\n"
                "  read it with to_dict() or to_arrow(), or encode texts in the definition: hash_bucket(x, n)"
            )
        return _tensor(self, chosen, np.dtype(dtype))

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
        """Values by feature as Python objects, None for NULL."""
        return {name: column.to_pylist() for name, column in zip(self.names, self._arrow(), strict=True)}

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


def _tensor(result: OnlineFeatures, chosen: Sequence[int], dtype: np.dtype[Any]) -> Array:
    out = np.empty((len(result.mask), len(chosen)), dtype)
    for j, i in enumerate(chosen):
        kind = result.dtypes[i]
        scale = getattr(kind, "scale", 0)
        out[:, j] = result.cells[i].values / 10.0**scale if scale else result.cells[i].values
    mask = result.mask if len(chosen) == result.mask.shape[1] else result.mask[:, chosen]
    if not mask.all():
        out[~mask] = np.nan
    return out


# ------------------------------------------------------------------------------------------------------------- the reader


@dataclass(frozen=True)
class _Group:
    """One view looked up by one set of columns: what is read of it and where that goes."""

    view: View
    layout: Layout
    codec: Codec
    columns: tuple[str, ...]
    reads: tuple[tuple[int, Feature], ...]
    heads: bool

    @property
    def latest(self) -> list[tuple[int, Feature]]:
        return [(i, f) for i, f in self.reads if f.window is None]

    @property
    def windowed(self) -> list[tuple[int, Feature]]:
        return [(i, f) for i, f in self.reads if f.window is not None]


class Reader:
    """A service resolved against an online store; cheap to call, safe to share between threads."""

    def __init__(
        self,
        store: OnlineStore,
        service: Service,
        views: Mapping[str, View],
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self.store, self.service, self._clock = store, service, clock
        self._groups = _groups(service.reads, views)
        self._names = tuple(r.output for r in service.reads)
        self._dtypes = tuple(r.dtype for r in service.reads)
        self._codecs = {g.view.name: g.codec for g in self._groups}
        self._key_types = {c: k.dtype for g in self._groups for c, k in zip(g.columns, g.view.keys, strict=True)}
        self._states: dict[str, ViewState] = {}
        self._states_at = -STATE_SECONDS

    @property
    def key_columns(self) -> tuple[str, ...]:
        """The columns a request has to hold."""
        return tuple(self._key_types)

    def forget(self) -> None:
        """Makes the next read ask for the views' watermarks again."""
        self._states_at = -STATE_SECONDS

    def read(self, entities: Rows, at: int | None = None, timeout: float | None = None) -> OnlineFeatures:
        """The vectors of `entities`: a dict of columns (scalars broadcast) or a list of row dicts.

        `at` is the moment in microseconds, now by default. Raises RequestError for what does not fit the service,
        StoreUnavailable when the store does not answer within `timeout` seconds.
        """
        q = self._clock() if at is None else at
        columns, rows = _columns(entities, self._key_types, self.service.name)
        states = self._view_states()
        plans = [_lookup(g, columns, rows) for g in self._groups]
        keys = [k for plan in plans for k in plan.keys]
        raw = self.store.read(keys, timeout)
        cells: list[Cells | None] = [None] * len(self._names)
        ages = np.empty((rows, len(self._names)), np.int64)
        taken = 0
        for group, plan in zip(self._groups, plans, strict=True):
            values = raw[taken : taken + len(plan.keys)]
            taken += len(plan.keys)
            stale = _stale(group, states.get(group.view.name), q, self.service.max_staleness)
            self._fill(group, plan, values, q, stale, cells, ages)
        done = tuple(c for c in cells if c is not None)
        mask = np.empty((rows, len(done)), np.bool_)
        statuses = np.empty((rows, len(done)), np.uint8)
        for i, cell in enumerate(done):
            mask[:, i], statuses[:, i] = cell.valid, cell.status
        fresh = {g.view.name: _freshness(states.get(g.view.name), q) for g in self._groups}
        return OnlineFeatures(
            self.service, self._names, self._dtypes, done, mask, statuses, ages, fresh, q, uuid.uuid4().hex
        )

    def _view_states(self) -> dict[str, ViewState]:
        now = time.monotonic()
        if now - self._states_at >= STATE_SECONDS:
            self._states = load_states(self.store, self._codecs)
            self._states_at = now
        return self._states

    def _fill(
        self,
        group: _Group,
        plan: _Lookup,
        values: Sequence[bytes | None],
        q: int,
        stale: Callable[[Feature], bool],
        cells: list[Cells | None],
        ages: Array,
    ) -> None:
        decoded = decode(group.codec, values, plan.key_bytes)
        entities = _Entities(group, decoded, q)
        for i, cell in entities.cells():
            feature = dict(group.reads)[i]
            if stale(feature):
                cell.status[cell.status == Status.PRESENT] = Status.STALE
            cells[i] = _rows_of(cell, plan)
        age = np.where(entities.found, np.maximum(q - entities.last_at, 0) // 1000, -1)
        ages[:, [i for i, _ in group.reads]] = age[plan.rows][:, None]


def _groups(reads: Sequence[Read], views: Mapping[str, View]) -> list[_Group]:
    found: dict[tuple[str, tuple[tuple[str, str], ...]], list[tuple[int, Feature]]] = {}
    for i, read in enumerate(reads):
        found.setdefault((read.view, read.keys), []).append((i, views[read.view].feature(read.feature)))
    groups = []
    for (name, keys), features in found.items():
        view = views[name]
        layout = layout_of(view)
        columns = dict(keys)
        ordered = tuple(columns[k.name] for k in view.keys)
        # Without levels and without a stream there is no head: the latest row is all in base.
        heads = bool(layout.levels) or view.source.stream is not None
        groups.append(_Group(view, layout, codec_of(view, layout), ordered, tuple(features), heads))
    return groups


def _stale(group: _Group, state: ViewState | None, q: int, limit: int | None) -> Callable[[Feature], bool]:
    """Whether a feature read at `q` is stale: the view's watermark is too old, or its window reaches before what is kept."""
    late = limit is not None and (state is None or q - state.end > limit)
    since = None if state is None else state.start

    def stale(feature: Feature) -> bool:
        if late or since is None or feature.window is None:
            return late
        window = feature.window
        return window.size is None or q - q % window.hop - window.size < since

    return stale


def _freshness(state: ViewState | None, q: int) -> float | None:
    return None if state is None else max(q - state.end, 0) / 1e6


# ----------------------------------------------------------------------------------------------------------------- requests


@dataclass(frozen=True)
class _Lookup:
    """The store keys of one group: for each distinct entity base (and head); and which entity each row asks for.

    A key with a NULL part is an unknown entity: it has a store key that nothing is ever written under.
    """

    keys: list[bytes]
    key_bytes: list[bytes] | None
    rows: Array


def _columns(entities: Rows, types: Mapping[str, DType], service: str) -> tuple[dict[str, list[Any]], int]:
    """The key columns as lists of one length."""
    if isinstance(entities, Mapping):
        given: dict[str, Any] = dict(entities)
    else:
        rows = list(entities)
        given = {name: [row.get(name) for row in rows] for name in {k for row in rows for k in row}}
        if not rows:
            given = {name: [] for name in types}
    for name in given:
        if name not in types:
            raise RequestError("\n  ".join([f"service '{service}' has no key '{name}'", *nearest(name, types)]))
    for name in types:
        if name not in given:
            wanted = ", ".join(types)
            raise RequestError(f"key '{name}' of service '{service}' is missing\n  a request holds {wanted}")
    lists = {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in given.items()}
    lists = {n: v.to_pylist() if hasattr(v, "to_pylist") else v for n, v in lists.items()}
    lists = {n: v.to_list() if hasattr(v, "to_list") else v for n, v in lists.items()}
    lengths = {n: len(v) for n, v in lists.items() if isinstance(v, list | tuple)}
    if len(set(lengths.values())) > 1:
        raise RequestError(f"key columns have different lengths: {', '.join(f'{n} {k}' for n, k in lengths.items())}")
    count = next(iter(lengths.values()), 1)
    spread = {n: list(v) if isinstance(v, list | tuple) else [v] * count for n, v in lists.items()}
    for name, values in spread.items():
        _check(name, values, types[name], service)
    return spread, count


def _check(name: str, values: Sequence[Any], dtype: DType, service: str) -> None:
    wanted = int if dtype == Int64 else str
    kinds = set(map(type, values)) - {wanted, type(None)}
    if kinds:
        row, wrong = next((i, v) for i, v in enumerate(values) if type(v) in kinds)
        raise RequestError(
            f"key '{name}' of service '{service}' is {wrong!r} in row {row}, and it is declared {dtype}"
        )
    if dtype == Int64 and any(v is not None and not -(2**63) <= v < 2**63 for v in values):
        raise RequestError(f"key '{name}' of service '{service}' holds a number of more than 64 bits")


def _lookup(group: _Group, columns: Mapping[str, list[Any]], rows: int) -> _Lookup:
    parts = [columns[c] for c in group.columns]
    tuples = parts[0] if len(parts) == 1 else list(zip(*parts, strict=True))
    numbers: dict[Any, int] = {}
    row_of = [numbers.setdefault(t, len(numbers)) for t in tuples]
    distinct: list[Any] = list(numbers)
    nobody = {i for i, key in enumerate(distinct) if _has_null(key)} if any(None in p for p in parts) else set()
    for i in nobody:
        distinct[i] = _blank(group)
    ends, raw = entity_keys(group.view, group.codec, _arrays(group, distinct))
    roles = (BASE, HEAD) if group.heads else (BASE,)
    prefix = group.codec.prefix
    keys = [prefix + role + end for end in ends for role in roles]
    for i in nobody:
        keys[i * len(roles) : (i + 1) * len(roles)] = [prefix + NOBODY] * len(roles)
    if raw is not None and len(roles) == 2:
        raw = [r for r in raw for _ in roles]
    return _Lookup(keys, raw, np.array(row_of, np.int64))


def _has_null(key: Any) -> bool:
    return key is None or (isinstance(key, tuple) and None in key)


def _blank(group: _Group) -> Any:
    """A key to hash in place of one that has a NULL part; the outcome is not used."""
    blank = tuple(0 if k.dtype == Int64 else "" for k in group.view.keys)
    return blank if len(blank) > 1 else blank[0]


def _arrays(group: _Group, distinct: Sequence[Any]) -> list[Array]:
    columns = [distinct] if len(group.view.keys) == 1 else list(zip(*distinct, strict=True)) or [()] * len(group.view.keys)
    out = []
    for key, values in zip(group.view.keys, columns, strict=True):
        if key.dtype == Int64:
            out.append(np.array(values, np.int64))
        else:
            texts = np.empty(len(values), object)
            texts[:] = list(values)
            out.append(texts)
    return out


def _rows_of(cell: Cells, plan: _Lookup) -> Cells:
    """From cells of distinct entities to cells of rows."""
    return Cells(cell.values[plan.rows], cell.valid[plan.rows], cell.status[plan.rows])


# ------------------------------------------------------------------------------------------------------------------ merging


class _Entities:
    """The decoded values of a group's distinct entities at one moment: which rows each window merges, and what comes out."""

    def __init__(self, group: _Group, decoded: Decoded, q: int) -> None:
        self.group, self.decoded, self.q = group, decoded, q
        step = 2 if group.heads else 1
        header = decoded.header
        self._step = step
        exists = header["magic"] != 0
        first = np.where(exists, header["first_at"], np.iinfo(np.int64).max)
        last = np.where(exists, header["last_at"], NEVER)
        self.first_at = first if step == 1 else np.minimum(first[::2], first[1::2])
        self.last_at = last if step == 1 else np.maximum(last[::2], last[1::2])
        static = group.view.source.event_time is None
        self.found = exists if static else self.first_at < q
        self.newer = np.zeros(len(self.found), np.bool_) if static else self.found & (self.last_at >= q)

    def cells(self) -> list[tuple[int, Cells]]:
        """Each feature's cells by its place in the service."""
        out: list[tuple[int, Cells]] = []
        if self.group.latest:
            out += self._latest()
        for number, level in enumerate(self.group.layout.levels):
            mine = [(i, f) for i, f in self.group.windowed if f.window is not None and f.window.hop == level.hop]
            if mine:
                out += self._level(number, level, mine)
        return out

    # -- latest values

    def _latest(self) -> list[tuple[int, Cells]]:
        group, q = self.group, self.q
        number = len(group.codec.sections) - 1
        section = group.codec.sections[number]
        rows, ends = self.decoded.rows[number], self.decoded.ends[number]
        count = np.diff(ends, prepend=0)
        record = np.where(count > 0, ends - 1, -1)
        inexact = np.zeros(len(self.found), np.bool_)
        if group.view.source.event_time is not None:
            seen = _taken(rows["at"], record, NEVER)
            visible = (record >= 0) & (seen < q)
            hidden = (record >= 0) & ~visible
            record = np.where(visible, record, -1)
            if self._step == 2:
                inexact = hidden[::2] | hidden[1::2]
                record = np.where(record[1::2] >= 0, record[1::2], record[::2])
            else:
                inexact = hidden
        elif self._step == 2:
            record = record[::2]
        has = record >= 0
        expired = None
        if group.view.ttl is not None and group.view.source.event_time is not None:
            expired = has & (_taken(rows["at"], record, NEVER) < q - group.view.ttl)
        ok = has if expired is None else has & ~expired
        cells = []
        for i, feature in group.latest:
            name = group.layout.parts[feature.name]["v"]
            values = self._field(section, number, name)
            bits = _bit(rows, section.bits[name])
            dtype = numpy_dtype(feature.dtype)
            if len(rows):
                safe = np.where(has, record, 0)
                got, valid = values[safe], bits[safe] & ok
            else:
                got, valid = np.zeros(len(has), dtype), ok
            cell = settle(feature, got, valid, self.found, expired=expired)
            cells.append((i, _mark(cell, inexact)))
        return cells

    def _field(self, section: Section, number: int, name: str) -> Array:
        if name in section.strings:
            return self.decoded.text(section, number, name)
        kind, column = section.places[name]
        values: Array = self.decoded.rows[number][kind][:, column]
        return values

    # -- windows

    def _level(self, number: int, level: Level, features: Sequence[tuple[int, Feature]]) -> list[tuple[int, Cells]]:
        section, rows = self.group.codec.sections[number], self.decoded.rows[number]
        first, end, rows_kept = self._bounds(number, rows)
        if rows_kept is not None:
            rows = rows[rows_kept]
        tiles = rows["tile"]
        seek = _Seek(tiles, first, end)
        stop = seek(self.q)
        here = self.q - self.q % level.hop
        open_tile = np.zeros(len(first), np.bool_)
        if here < self.q:
            at_open = (stop > first) & (_taken(tiles, np.where(stop > first, stop - 1, -1), NEVER) == here)
            open_tile = at_open & self.newer
        columns = {s.name: self._slot(section, number, rows, rows_kept, s.name, [f.name for f in s.fields]) for s in level.slots}
        base_kept = self._kept_from(level)
        out = []
        by_size: dict[int | None, list[tuple[int, Feature]]] = {}
        for i, f in features:
            assert f.window is not None
            by_size.setdefault(f.window.size, []).append((i, f))
        for size, group in by_size.items():
            start = first if size is None else np.minimum(seek(here - size), stop)
            ranges = GatheredRanges(start, stop, len(tiles))
            pruned = base_kept > (self.q if size is None else here - size)
            inexact = open_tile | (pruned & self.found)
            merged: dict[str, Partial] = {}
            for i, feature in group:
                parts = self.group.layout.parts[feature.name]
                for name in parts.values():
                    if name not in merged:
                        slot = next(s for s in level.slots if s.name == name)
                        merged[name] = merge_tiles(slot, columns[name], ranges)
                cell = finish(feature, {p: merged[n] for p, n in parts.items()}, self.found)
                out.append((i, _mark(cell, inexact)))
        return out

    def _bounds(self, number: int, rows: Array) -> tuple[Array, Array, Array | None]:
        """Where each entity's tiles begin and end; and, if head holds tiles that base has taken over, which rows remain."""
        ends = self.decoded.ends[number]
        starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        if self._step == 1:
            return starts, ends, None
        cut = self.decoded.header["cut"][::2]
        exists = self.decoded.header["magic"][::2] != 0
        counts = ends[1::2] - starts[1::2]
        if not counts.any() or not len(rows):
            return starts[::2], ends[1::2], None
        heads = np.repeat(starts[1::2], counts) + _within(counts)
        limit = np.repeat(np.where(exists, cut, NEVER), counts)
        covered = rows["tile"][heads] < limit
        if not covered.any():
            return starts[::2], ends[1::2], None
        keep = np.ones(len(rows), np.bool_)
        keep[heads[covered]] = False
        before = np.concatenate([[0], np.cumsum(keep)])
        return before[starts[::2]], before[ends[1::2]], np.flatnonzero(keep)

    def _kept_from(self, level: Level) -> Array:
        """The moment before which tiles of this level were pruned, per entity; long ago where nothing was."""
        header = self.decoded.header[:: self._step]
        kept = header["cut"] - level.reach if level.reach is not None else header["cut"]
        return np.where(header["magic"] != 0, np.maximum(kept, header["kept_from"]), NEVER)

    def _slot(
        self, section: Section, number: int, rows: Array, kept: Array | None, slot: str, fields: Sequence[str]
    ) -> Partial:
        partial: Partial = {}
        for name in fields:
            values = self._field(section, number, f"{slot}_{name}")
            partial[name] = values if kept is None else values[kept]
        if slot in section.bits:
            partial["valid"] = _bit(rows, section.bits[slot])
        return partial


class _Seek:
    """Finds, for each entity, its first tile at or after a moment."""

    def __init__(self, tiles: Array, first: Array, end: Array) -> None:
        self._tiles, self._first, self._end = tiles, first, end

    def __call__(self, moment: int) -> Array:
        before = np.concatenate([[0], np.cumsum(self._tiles < moment)])
        found: Array = self._first + before[self._end] - before[self._first]
        return found


def _within(counts: Array) -> Array:
    """0…c-1 for each count c, one after another."""
    starts = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) - np.repeat(starts, counts)


def _taken(values: Array, index: Array, missing: int) -> Array:
    if not len(values):
        return np.full(len(index), missing, np.int64)
    return np.where(index >= 0, values[np.where(index >= 0, index, 0)], missing)


def _bit(rows: Array, bit: int) -> Mask:
    if not len(rows):
        return np.zeros(0, np.bool_)
    return (rows["null"][:, bit // 64] >> np.uint64(bit % 64) & np.uint64(1)).astype(np.bool_)


def _mark(cell: Cells, inexact: Mask) -> Cells:
    """INEXACT where a value is present all the same."""
    if inexact.any():
        cell.status[inexact & (cell.status == Status.PRESENT)] = Status.INEXACT
    return cell
