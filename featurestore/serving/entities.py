"""Decoded values of entities at one moment: the latest rows, and the tiles that each window merges."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from featurestore.evaluate.finish import finish, finish_present, settle, settle_block
from featurestore.evaluate.partials import Array, Mask, Partial, merge_tiles
from featurestore.evaluate.ranges import GatheredRanges
from featurestore.ir import Feature
from featurestore.layout import Level, Slot
from featurestore.online.codec import NEVER, Decoded
from featurestore.serving.group import Group, Kind, Table
from featurestore.serving.result import Block
from featurestore.status import Status


class Entities:
    """The decoded values of a group's distinct entities at one moment: which rows each window merges, and what comes out.

    With `heads` the values are base and head of each entity in turn, else bases alone.
    """

    def __init__(self, group: Group, decoded: Decoded, q: int, *, heads: bool) -> None:
        self.group, self.decoded, self.q = group, decoded, q
        step = 2 if heads else 1
        header = decoded.header
        self._step = step
        first, last = header["first_at"], header["last_at"]
        exists = None if decoded.alike is not None else header["magic"] != 0
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
        for number, kinds in self.group.kinds.items():
            with np.errstate(all="ignore"):
                out += self._level(number, self.group.layout.levels[number], kinds, stale)
        return out

    # -- latest values

    def _latest(self) -> Iterator[tuple[Table, Block]]:
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
        if self._step == 1 and decoded.single(number):
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
            record = self._base_or_head(rows, record[::2], record[1::2])
        return rows, record, hidden if hidden.any() else None

    def _base_or_head(self, rows: Array, base: Array, head: Array) -> Array:
        """The head's row, but for one from before the cut: base has taken that time over, and may know better."""
        cut = np.where(self.decoded.header["magic"][::2] != 0, self.decoded.header["cut"][::2], NEVER)
        outdated = (base >= 0) & (_taken(rows["at"], head, NEVER) < cut)
        return np.where((head >= 0) & ~outdated, head, base)

    def _texts(
        self,
        table: Table,
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
        self, number: int, level: Level, kinds: Sequence[Kind], stale: Callable[[Feature], bool]
    ) -> Iterator[Block]:
        """The blocks of each kind of feature. All windows of an entity are merged side by side, the longest first."""
        places = self.decoded.places(number)
        first, end, kept = self._bounds(number, places)
        if kept is not None:
            places = places[kept]
        tiles = self._field(number, "tile", places, kept)
        seek = _Seek(tiles, first, end)
        stop = seek.until(self.q)
        here = self.q - self.q % level.hop
        sizes = self.group.sizes[number]
        tails = np.array([NEVER if size is None else here - size for size in sizes])
        start = np.minimum(seek(tails), stop[:, None])
        ranges = GatheredRanges(start.reshape(-1), np.repeat(stop, len(sizes)), len(tiles))
        all_valid = self._null_free(number, places, kept)
        inexact = self._inexact(level, tiles, first, stop, here, tails)
        whole = all_valid and inexact is None and bool(self.found.all()) and bool(ranges.lengths.all())
        found = np.repeat(self.found, len(sizes))
        slots = {s.name: s for s in level.slots}
        merged: dict[str, Partial] = {}
        for kind in kinds:
            for name in kind.parts.values():
                if name not in merged:
                    column = self._slot(number, slots[name], places, kept, all_valid=all_valid)
                    merged[name] = merge_tiles(slots[name], column, ranges)
            mine = {p: merged[n] for p, n in kind.parts.items()}
            shape = (len(stop), len(sizes))
            if whole and (values := finish_present(kind.feature, mine)) is not None:
                block = Block(kind.places, values.reshape(shape)[:, kind.windows], None, None)
            else:
                cell = finish(kind.feature, mine, found)
                if inexact is not None:
                    cell.status[inexact.reshape(-1) & (cell.status == Status.PRESENT)] = Status.INEXACT
                values, valid, status = (
                    x.reshape(shape)[:, kind.windows] for x in (cell.values, cell.valid, cell.status)
                )
                block = Block(kind.places, values, valid, status)  # type: ignore[arg-type]  # told apart by place
            old = np.array([stale(f) for f in kind.features])
            yield block if not old.any() else _staled(block, old)

    def _inexact(
        self, level: Level, tiles: Array, first: Array, stop: Array, here: int, tails: Array
    ) -> Mask | None:
        """Which windows may lack something, (entities, windows): tiles were pruned, or the open one holds later events."""
        begins = np.where(tails == NEVER, self.q, tails)
        inexact: Mask = (self._kept_from(level)[:, None] > begins) & self.found[:, None]
        if here < self.q and self.newer.any():
            some = stop > first
            open_tile = some & (_taken(tiles, np.where(some, stop - 1, -1), NEVER) == here)
            inexact |= (open_tile & self.newer)[:, None]
        return inexact if inexact.any() else None

    def _field(self, number: int, name: str, places: Array, kept: Array | None) -> Array:
        """One field of the records that are kept."""
        if kept is None and self.decoded.alike is not None:
            return self.decoded.column(number, name)
        return self.decoded.field(number, name, places)

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
        kept = np.where((header["magic"] != 0) & (header["first_at"] < kept), kept, NEVER)
        if self._step == 1 or level.reach is None or level.lifetime:
            return kept
        # A stream says when it wrote a head, and keeps what its windows reached then.
        head = self.decoded.header[1::2]
        reached = head["cut"] - head["cut"] % level.hop - level.reach
        pruned = (head["magic"] != 0) & (head["first_at"] < reached)
        both: Array = np.maximum(kept, np.where(pruned, reached, NEVER))
        return both

    def _slot(
        self, number: int, slot: Slot, places: Array, kept: Array | None, *, all_valid: bool
    ) -> Partial:
        section = self.group.codec.sections[number]
        partial: Partial = {}
        if slot.ragged:
            owners = self.decoded.owners(number)
            return self.decoded.items(number, slot.name, places, owners if kept is None else owners[kept])
        for field, name in self.group.fields[number, slot.name]:
            if name in section.strings:
                texts = self.decoded.text(section, number, name)
                partial[field] = texts if kept is None else texts[kept]
            else:
                partial[field] = self._field(number, name, places, kept)
        if slot.has_null_bit and not all_valid:
            bit = section.bits[slot.name]
            words = self.decoded.field(number, "null", places + bit // 64)
            partial["valid"] = (words >> np.uint64(bit % 64) & np.uint64(1)).astype(np.bool_)
        return partial

    def _null_free(self, number: int, places: Array, kept: Array | None) -> bool:
        """Whether no partial of these tiles is null."""
        bits = len(self.group.codec.sections[number].bits)
        if not 0 < bits <= 64:
            return False
        null = self._field(number, "null", places, kept)
        return not len(null) or int(np.bitwise_and.reduce(null)) == (1 << bits) - 1


class _Seek:
    """Finds, for each entity, its first tile at or after moments: by halving, all entities and moments at once."""

    def __init__(self, tiles: Array, first: Array, end: Array) -> None:
        self._tiles, self._first, self._end = tiles, first[:, None], end[:, None]
        self._most = int((end - first).max(initial=0))

    def until(self, moment: int) -> Array:
        """The places for one moment: mostly the ends, as nothing is newer."""
        end = self._end[:, 0]
        if len(self._tiles):
            # Of an entity without tiles this looks at another one's: then it may only be slower.
            newest = self._tiles.take(np.maximum(end, 1) - 1)
            if (newest < moment).all():
                return end
        return self(np.array([moment]))[:, 0]

    def __call__(self, moments: Array) -> Array:
        """The places, (entities, moments)."""
        place = np.repeat(self._first, len(moments), axis=1)
        if not len(self._tiles):
            return place
        # As above; and an entity without tiles has one place alone, which is right in any case.
        oldest = self._tiles.take(self._first[:, 0], mode="clip")
        if int(oldest.min()) >= int(moments.max()):
            return place
        step = 1 << self._most.bit_length() >> 1
        while step:
            further = place + step
            before = (further <= self._end) & (self._tiles.take(further - 1, mode="clip") < moments)
            place += step * before
            step >>= 1
        return place


def _within(counts: Array) -> Array:
    """0…c-1 for each count c, one after another."""
    starts = np.cumsum(counts) - counts
    numbers: Array = np.arange(int(counts.sum())) - np.repeat(starts, counts)
    return numbers


def _taken(values: Array, index: Array, missing: int) -> Array:
    if not len(values):
        return np.full(len(index), missing, np.int64)
    return np.where(index >= 0, values[np.where(index >= 0, index, 0)], missing)


def _bit(rows: Array, bit: int) -> Mask:
    if not len(rows):
        return np.zeros(0, np.bool_)
    return (rows["null"][:, bit // 64] >> np.uint64(bit % 64) & np.uint64(1)).astype(np.bool_)


def _valid(rows: Array, table: Table) -> Mask | None:
    """Which values of a table are not NULL, (rows, features); None if all are."""
    null = rows["null"]
    if ((null & table.all_valid) == table.all_valid).all():
        return None
    return (null[:, table.words] >> table.shifts & np.uint64(1)).astype(np.bool_)


def _marked(block: Block, inexact: Mask | None) -> Block:
    """INEXACT where a value is present all the same."""
    if inexact is None:
        return block
    status = np.zeros(block.values.shape, np.uint8) if block.status is None else block.status
    status[inexact[:, None] & (status == Status.PRESENT)] = Status.INEXACT
    return Block(block.places, block.values, block.valid, status)


def _staled(block: Block, stale: bool | Mask) -> Block:
    """STALE where a value is present, if `stale`, which may differ by feature."""
    if stale is False:
        return block
    status = np.zeros(block.values.shape, np.uint8) if block.status is None else block.status
    status[(status == Status.PRESENT) & stale] = Status.STALE
    return Block(block.places, block.values, block.valid, status)
