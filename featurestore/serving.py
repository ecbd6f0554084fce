"""The online read: feature vectors for many entities, as of now or of a past moment, in one round trip.

A `Reader` resolves a service once: which views, which keys, which columns of which records. A read then builds keys, asks
the store once, decodes each view's values as arrays, and merges and finishes them with the code that training uses.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from featurestore.errors import RequestError, nearest
from featurestore.evaluate.finish import Cells, finish, settle, settle_block
from featurestore.evaluate.partials import Array, Mask, Partial, merge_tiles
from featurestore.evaluate.ranges import GatheredRanges
from featurestore.ir import Feature, Read, Service, View
from featurestore.layout import Layout, Level, Slot, layout_of
from featurestore.materialize import ViewState, load_states
from featurestore.online.codec import (
    BASE,
    HEAD,
    NEVER,
    NOBODY,
    Codec,
    Decoded,
    codec_of,
    decode,
    entity_keys,
)
from featurestore.online.store import OnlineStore
from featurestore.status import Status
from featurestore.types import DType, Int64, is_tensor

Rows = Mapping[str, Any] | Sequence[Mapping[str, Any]]

STATE_SECONDS = 1.0
"""How long a reader trusts what the store said of a view as a whole (its watermark) before it asks again."""


@dataclass(frozen=True, slots=True)
class Block:
    """Features of one number type side by side (or one of another): `values` is (rows, features).

    `places` says which features of the service they are. `valid` None is everywhere, `status` None is PRESENT everywhere.
    """

    places: Array
    values: Array
    valid: Mask | None
    status: Array | None


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
    `ages` is (rows, features) int64, the milliseconds since the entity's newest event in the feature's view, -1 if none.
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
        ages = np.empty((self.rows, len(self.names)), np.int64)
        for seen in self.seen:
            age = np.where(seen.found, np.maximum(self.at - seen.last_at, 0) // 1000, -1)
            ages[:, seen.places] = age[:, None]
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


# ------------------------------------------------------------------------------------------------------------- the reader


@dataclass(frozen=True)
class _Table:
    """Latest values of one number type (or one of another) that a group reads: where they lie and where they go."""

    kind: str
    columns: Array
    words: Array
    shifts: Array
    all_valid: Array
    places: Array
    features: tuple[Feature, ...]
    text: str | None


@dataclass(frozen=True)
class _Group:
    """One view looked up by one set of columns: what is read of it and where that goes."""

    view: View
    layout: Layout
    codec: Codec
    columns: tuple[str, ...]
    places: Array
    tables: tuple[_Table, ...]
    windowed: tuple[tuple[int, Feature], ...]
    fields: Mapping[tuple[int, str], tuple[tuple[str, str], ...]]
    heads: bool


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
        self._columns = TensorColumns.of(self._names, self._dtypes)
        self._codecs = {g.view.name: g.codec for g in self._groups}
        self._key_types = {
            c: k.dtype for g in self._groups for c, k in zip(g.columns, g.view.keys, strict=True)
        }
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
        plans = [_lookup(g, columns) for g in self._groups]
        keys = plans[0].keys if len(plans) == 1 else [k for plan in plans for k in plan.keys]
        raw = self.store.read(keys, timeout)
        blocks: list[Block] = []
        seen: list[Seen] = []
        taken = 0
        for group, plan in zip(self._groups, plans, strict=True):
            values = raw if len(plans) == 1 else raw[taken : taken + len(plan.keys)]
            taken += len(plan.keys)
            entities_read = _Entities(group, decode(group.codec, values, plan.key_bytes), q)
            stale = _stale(states.get(group.view.name), q, self.service.max_staleness)
            blocks += [_rows_of(b, plan.rows) for b in entities_read.blocks(stale)]
            found, last = entities_read.found, entities_read.last_at
            seen.append(
                Seen(
                    group.places,
                    *((found, last) if plan.rows is None else (found[plan.rows], last[plan.rows])),
                )
            )
        fresh = {g.view.name: _freshness(states.get(g.view.name), q) for g in self._groups}
        return OnlineFeatures(
            self.service, self._names, self._dtypes, rows, tuple(blocks), tuple(seen), fresh, q, self._columns
        )

    def _view_states(self) -> dict[str, ViewState]:
        now = time.monotonic()
        if now - self._states_at >= STATE_SECONDS:
            self._states = load_states(self.store, self._codecs)
            self._states_at = now
        return self._states


def _groups(reads: Sequence[Read], views: Mapping[str, View]) -> list[_Group]:
    found: dict[tuple[str, tuple[tuple[str, str], ...]], list[tuple[int, Feature]]] = {}
    for i, read in enumerate(reads):
        found.setdefault((read.view, read.keys), []).append((i, views[read.view].feature(read.feature)))
    groups = []
    for (name, keys), features in found.items():
        view = views[name]
        layout = layout_of(view)
        codec = codec_of(view, layout)
        columns = dict(keys)
        ordered = tuple(columns[k.name] for k in view.keys)
        # Without levels and without a stream there is no head: the latest row is all in base.
        heads = bool(layout.levels) or view.source.stream is not None
        windowed = tuple((i, f) for i, f in features if f.window is not None)
        tables = _tables(layout, codec, [(i, f) for i, f in features if f.window is None])
        places = np.array([i for i, _ in features])
        groups.append(_Group(view, layout, codec, ordered, places, tables, windowed, _fields(layout), heads))
    return groups


def _fields(layout: Layout) -> dict[tuple[int, str], tuple[tuple[str, str], ...]]:
    """For each slot of each level its fields, and what they are called in a record."""
    return {
        (number, slot.name): tuple((f.name, f"{slot.name}_{f.name}") for f in slot.fields)
        for number, level in enumerate(layout.levels)
        for slot in level.slots
    }


def _tables(layout: Layout, codec: Codec, features: Sequence[tuple[int, Feature]]) -> tuple[_Table, ...]:
    section = codec.sections[-1]
    alike: dict[tuple[str, str | None], list[tuple[int, Feature]]] = {}
    for i, feature in features:
        name = layout.parts[feature.name]["v"]
        text = name if name in section.strings else None
        alike.setdefault((section.places[name][0], text), []).append((i, feature))
    tables = []
    for (kind, text), mine in alike.items():
        names = [layout.parts[f.name]["v"] for _, f in mine]
        bits = np.array([section.bits[n] for n in names])
        full = np.zeros(section.dtype["null"].shape, np.uint64)
        np.bitwise_or.at(full, bits // 64, np.uint64(1) << (bits % 64).astype(np.uint64))
        columns = np.array([section.places[n][1] for n in names])
        shifts = (bits % 64).astype(np.uint64)
        places = np.array([i for i, _ in mine])
        tables.append(
            _Table(kind, columns, bits // 64, shifts, full, places, tuple(f for _, f in mine), text)
        )
    return tuple(tables)


def _stale(state: ViewState | None, q: int, limit: int | None) -> Callable[[Feature], bool]:
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


Column = Array | Sequence[Any]
"""The values of one key column: int64 without NULL, or anything in a list."""


@dataclass(frozen=True)
class _Lookup:
    """The store keys of one group: for each distinct entity base (and head); and which entity each row asks for.

    `rows` None: each row asks for its own. A key with a NULL part is an unknown entity: it has a store key that nothing is
    ever written under.
    """

    keys: list[bytes]
    key_bytes: list[bytes] | None
    rows: Array | None


def _columns(entities: Rows, types: Mapping[str, DType], service: str) -> tuple[dict[str, Column], int]:
    """The key columns, checked and of one length."""
    if isinstance(entities, Mapping):
        given: Mapping[str, Any] = entities
    else:
        rows = list(entities)
        given = {name: [row.get(name) for row in rows] for name in {k for row in rows for k in row}}
        if not rows:
            given = {name: [] for name in types}
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


def _lookup(group: _Group, columns: Mapping[str, Column]) -> _Lookup:
    parts = [columns[c] for c in group.columns]
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
    prefix = group.codec.prefix
    leads = [prefix + role for role in ((BASE, HEAD) if group.heads else (BASE,))]
    keys, raw = entity_keys(group.view, whole, *leads)
    for i in nobody:
        keys[i * len(leads) : (i + 1) * len(leads)] = [prefix + NOBODY] * len(leads)
    return _Lookup(keys, raw, rows)


def _has_null(key: Any) -> bool:
    return key is None or (isinstance(key, tuple) and None in key)


def _blank(group: _Group) -> Any:
    """A key in place of one that has a NULL part; the outcome is not used."""
    blank = tuple(0 if k.dtype == Int64 else "" for k in group.view.keys)
    return blank if len(blank) > 1 else blank[0]


def _by_column(group: _Group, distinct: Sequence[Any]) -> list[Column]:
    if len(group.view.keys) == 1:
        return [distinct]
    return list(zip(*distinct, strict=True)) or [()] * len(group.view.keys)


def _rows_of(block: Block, rows: Array | None) -> Block:
    """From distinct entities to the rows that ask for them."""
    if rows is None:
        return block
    valid, status = (None if x is None else x[rows] for x in (block.valid, block.status))
    return Block(block.places, block.values[rows], valid, status)


# ------------------------------------------------------------------------------------------------------------------ merging


class _Entities:
    """The decoded values of a group's distinct entities at one moment: which rows each window merges, and what comes out."""

    def __init__(self, group: _Group, decoded: Decoded, q: int) -> None:
        self.group, self.decoded, self.q = group, decoded, q
        step = 2 if group.heads else 1
        header = decoded.header
        self._step = step
        first, last = header["first_at"], header["last_at"]
        exists = None if decoded.alike else header["magic"] != 0
        if exists is not None:
            first, last = np.where(exists, first, np.iinfo(np.int64).max), np.where(exists, last, NEVER)
        self.last_at = last if step == 1 else np.maximum(last[::2], last[1::2])
        static = group.view.source.event_time is None
        if static:
            self.found = (
                np.ones(len(first), np.bool_) if exists is None else exists[::step] | exists[step - 1 :: step]
            )
            self.newer = np.zeros(len(self.found), np.bool_)
        else:
            self.found = (first if step == 1 else np.minimum(first[::2], first[1::2])) < q
            self.newer = self.found & (self.last_at >= q)

    def blocks(self, stale: Callable[[Feature], bool]) -> list[Block]:
        """What the group reads, with the statuses of this moment."""
        out = [_staled(b, stale(t.features[0])) for t, b in self._latest()] if self.group.tables else []
        for number, level in enumerate(self.group.layout.levels):
            mine = [
                (i, f) for i, f in self.group.windowed if f.window is not None and f.window.hop == level.hop
            ]
            if mine:
                out += _side_by_side(
                    [(i, _settled(c), stale(f)) for i, f, c in self._level(number, level, mine)]
                )
        return out

    # -- latest values

    def _latest(self) -> Iterator[tuple[_Table, Block]]:
        group = self.group
        number = len(group.codec.sections) - 1
        rows, record, inexact = self._newest(number)
        has = None if record is None else record >= 0
        ok, expired = has, None
        if group.view.ttl is not None and group.view.source.event_time is not None:
            at = rows["at"] if record is None else _taken(rows["at"], record, NEVER)
            fresh = at >= self.q - group.view.ttl
            if not fresh.all():
                expired = ~fresh if has is None else has & ~fresh
                ok = fresh if has is None else has & fresh
        safe = None if record is None else np.where(record >= 0, record, 0)
        for table in group.tables:
            if table.text is not None:
                yield table, self._texts(table, number, record, ok, expired, inexact)
                continue
            if record is not None and not len(rows):
                values = np.zeros((len(record), len(table.columns)), table.kind)
                valid: Mask | None = np.zeros(values.shape, np.bool_)
            else:
                values, valid = rows[table.kind], _valid(rows, table)
                if safe is not None:
                    values, valid = values[safe], None if valid is None else valid[safe]
                values = values[:, table.columns]
                if ok is not None:
                    valid = (
                        np.broadcast_to(ok[:, None], values.shape) if valid is None else valid & ok[:, None]
                    )
            settled = settle_block(table.features, values, valid, self.found, expired)
            yield table, _marked(Block(table.places, *settled), inexact)

    def _newest(self, number: int) -> tuple[Array, Array | None, Mask | None]:
        """The latest rows; which of them is each entity's at this moment (-1 if none, None: each its own); who is inexact."""
        decoded, q = self.decoded, self.q
        static = self.group.view.source.event_time is None
        if decoded.alike and self._step == 1 and decoded.counts[0, number] == 1:
            rows = decoded.rows[number]
            if static or bool((rows["at"] < q).all()):
                return rows, None, None
        rows, ends, count = decoded.rows[number], decoded.ends[number], decoded.counts[:, number]
        record = np.where(count > 0, ends - 1, -1)
        if static:
            return rows, record[:: self._step], None
        there = record >= 0
        visible = there & (_taken(rows["at"], record, NEVER) < q)
        hidden = there & ~visible
        record = np.where(visible, record, -1)
        if self._step == 2:
            hidden = hidden[::2] | hidden[1::2]
            record = np.where(record[1::2] >= 0, record[1::2], record[::2])
        return rows, record, hidden if hidden.any() else None

    def _texts(
        self,
        table: _Table,
        number: int,
        record: Array | None,
        ok: Mask | None,
        expired: Mask | None,
        inexact: Mask | None,
    ) -> Block:
        assert table.text is not None
        feature = table.features[0]
        texts = self.decoded.text(self.group.codec.sections[number], number, table.text)
        bits = _bit(self.decoded.rows[number], self.group.codec.sections[number].bits[table.text])
        record = np.arange(len(texts)) if record is None else record
        ok = np.ones(len(record), np.bool_) if ok is None else ok
        safe = np.where(record >= 0, record, 0)
        values, valid = (texts[safe], bits[safe] & ok) if len(texts) else (np.zeros(len(record), object), ok)
        cell = settle(feature, values, valid, self.found, expired=expired)
        settled = Block(table.places, cell.values[:, None], cell.valid[:, None], cell.status[:, None])
        return _marked(settled, inexact)

    # -- windows

    def _level(
        self, number: int, level: Level, features: Sequence[tuple[int, Feature]]
    ) -> Iterator[tuple[int, Feature, Cells]]:
        places = self.decoded.places(number)
        first, end, kept = self._bounds(number, places)
        if kept is not None:
            places = places[kept]
        tiles = self.decoded.field(number, "tile", places)
        seek = _Seek(tiles, first, end)
        stop = seek(self.q)
        here = self.q - self.q % level.hop
        open_tile = None
        if here < self.q and self.newer.any():
            at_open = (stop > first) & (_taken(tiles, np.where(stop > first, stop - 1, -1), NEVER) == here)
            open_tile = at_open & self.newer
        all_valid = self._null_free(number, places)
        pruned_before = self._kept_from(level)
        slots = {s.name: s for s in level.slots}
        by_size: dict[int | None, list[tuple[int, Feature]]] = {}
        for i, f in features:
            assert f.window is not None
            by_size.setdefault(f.window.size, []).append((i, f))
        columns: dict[str, Partial] = {}
        for size, group in by_size.items():
            tail = NEVER if size is None else here - size
            start = first if size is None else np.minimum(seek(tail), stop)
            ranges = GatheredRanges(start, stop, len(tiles))
            pruned = pruned_before > (self.q if size is None else tail)
            inexact = pruned & self.found
            inexact = inexact if open_tile is None else inexact | open_tile
            some_inexact = bool(inexact.any())
            merged: dict[str, Partial] = {}
            for i, feature in group:
                parts = self.group.layout.parts[feature.name]
                for name in parts.values():
                    if name not in columns:
                        columns[name] = self._slot(number, slots[name], places, kept, all_valid=all_valid)
                    if name not in merged:
                        merged[name] = merge_tiles(slots[name], columns[name], ranges)
                cell = finish(feature, {p: merged[n] for p, n in parts.items()}, self.found)
                if some_inexact:
                    cell.status[inexact & (cell.status == Status.PRESENT)] = Status.INEXACT
                yield i, feature, cell

    def _bounds(self, number: int, places: Array) -> tuple[Array, Array, Array | None]:
        """Where each entity's tiles begin and end; and, if head holds tiles that base has taken over, which remain."""
        ends = self.decoded.ends[number]
        starts = ends - self.decoded.counts[:, number]
        if self._step == 1:
            return starts, ends, None
        cut = self.decoded.header["cut"][::2]
        exists = self.decoded.header["magic"][::2] != 0
        counts = ends[1::2] - starts[1::2]
        limit = np.where(exists, cut, NEVER)
        some = np.flatnonzero(counts)
        oldest = self.decoded.field(number, "tile", places[starts[1::2][some]])
        if not (oldest < limit[some]).any():
            return starts[::2], ends[1::2], None
        heads = np.repeat(starts[1::2], counts) + _within(counts)
        covered = self.decoded.field(number, "tile", places[heads]) < np.repeat(limit, counts)
        keep = np.ones(len(places), np.bool_)
        keep[heads[covered]] = False
        before = np.concatenate([[0], np.cumsum(keep)])
        return before[starts[::2]], before[ends[1::2]], np.flatnonzero(keep)

    def _kept_from(self, level: Level) -> Array:
        """The moment before which tiles of this level were pruned, per entity; long ago where there was nothing to prune."""
        header = self.decoded.header[:: self._step]
        kept = header["cut"] - level.reach if level.reach is not None else header["cut"]
        kept = np.maximum(kept, header["kept_from"])
        return np.where((header["magic"] != 0) & (header["first_at"] < kept), kept, NEVER)

    def _slot(
        self, number: int, slot: Slot, places: Array, kept: Array | None, *, all_valid: bool
    ) -> Partial:
        section = self.group.codec.sections[number]
        partial: Partial = {}
        for field, name in self.group.fields[number, slot.name]:
            if name in section.strings:
                texts = self.decoded.text(section, number, name)
                partial[field] = texts if kept is None else texts[kept]
            else:
                partial[field] = self.decoded.field(number, name, places)
        if slot.has_null_bit and not all_valid:
            bit = section.bits[slot.name]
            words = self.decoded.field(number, "null", places + bit // 64)
            partial["valid"] = (words >> np.uint64(bit % 64) & np.uint64(1)).astype(np.bool_)
        return partial

    def _null_free(self, number: int, places: Array) -> bool:
        """Whether no partial of these tiles is null."""
        bits = len(self.group.codec.sections[number].bits)
        if not 0 < bits <= 64:
            return False
        return bool((self.decoded.field(number, "null", places) == np.uint64((1 << bits) - 1)).all())


class _Seek:
    """Finds, for each entity, its first tile at or after a moment: by halving, all entities at once."""

    def __init__(self, tiles: Array, first: Array, end: Array) -> None:
        self._tiles, self._first, self._end = tiles, first, end
        some = end > first
        self._some: Mask | None = None if some.all() else some
        self._oldest = _taken(tiles, np.where(some, first, -1), NEVER)
        self._newest = _taken(tiles, np.where(some, end - 1, -1), NEVER)

    def __call__(self, moment: int) -> Array:
        if (self._newest < moment).all():
            return self._end
        if self._some is None and (self._oldest >= moment).all():
            return self._first
        low, high = self._first, self._end
        while (open_ := low < high).any():
            middle = (low + high) >> 1
            before = open_ & (_taken(self._tiles, np.where(open_, middle, -1), NEVER) < moment)
            low = np.where(before, middle + 1, low)
            high = np.where(open_ & ~before, middle, high)
        return low


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


def _valid(rows: Array, table: _Table) -> Mask | None:
    """Which values of a table are not NULL, (rows, features); None if all are."""
    null = rows["null"]
    if ((null & table.all_valid) == table.all_valid).all():
        return None
    return (null[:, table.words] >> table.shifts & np.uint64(1)).astype(np.bool_)


def _settled(cell: Cells) -> Cells | Array:
    """The values alone where all are PRESENT."""
    return cell if cell.status.any() else cell.values


def _side_by_side(columns: Sequence[tuple[int, Cells | Array, bool]]) -> list[Block]:
    """Features of one level as blocks: those that are all PRESENT share one for each type."""
    out = []
    whole: dict[tuple[np.dtype[Any], bool], list[tuple[int, Array]]] = {}
    for i, cell, stale in columns:
        if isinstance(cell, Cells):
            block = Block(np.array([i]), cell.values[:, None], cell.valid[:, None], cell.status[:, None])
            out.append(_staled(block, stale))
        else:
            whole.setdefault((cell.dtype, stale), []).append((i, cell))
    for (_, stale), mine in whole.items():
        values = np.array([v for _, v in mine]).T
        out.append(_staled(Block(np.array([i for i, _ in mine]), values, None, None), stale))
    return out


def _marked(block: Block, inexact: Mask | None) -> Block:
    """INEXACT where a value is present all the same."""
    if inexact is None:
        return block
    status = np.zeros(block.values.shape, np.uint8) if block.status is None else block.status
    status[inexact[:, None] & (status == Status.PRESENT)] = Status.INEXACT
    return Block(block.places, block.values, block.valid, status)


def _staled(block: Block, stale: bool) -> Block:
    """STALE where a value is present, if `stale`."""
    if not stale:
        return block
    status = np.zeros(block.values.shape, np.uint8) if block.status is None else block.status
    status[status == Status.PRESENT] = Status.STALE
    return Block(block.places, block.values, block.valid, status)
