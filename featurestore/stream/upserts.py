"""Whole tiles put into the heads of the online store: for many entities at once, in the bytes that readers read.

A head that is made of tile records bears, behind what readers know, a *mark* for each of its tiles: the epoch of the job in
the high half of a word and the number of source rows in the low one. A tile is replaced by one of an equal or a greater mark
alone. So within an epoch its rows never fall, an older epoch never comes back, and any replay ends where the first reading did.
The newest row has two words: its epoch, and its place in the topic, which decides between rows of one moment.

Where all that came are tiles that a head has, and nothing in it has a varying width, the words are changed in place; else it is
encoded anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featurestore.evaluate.partials import Array, Mask
from featurestore.evaluate.ragged import joined
from featurestore.ir import View
from featurestore.layout import Layout
from featurestore.online.codec import (
    HEADER,
    NEVER,
    Codec,
    Decoded,
    Records,
    Section,
    decode,
    encode,
    entity_keys,
)
from featurestore.stream.merge import take
from featurestore.stream.state import counter_of
from featurestore.stream.tile_records import Upserts
from featurestore.time import floor

FIRST = np.int64(2**63 - 1)


@dataclass(frozen=True)
class Part:
    """What is put into one section: at most one record of an owner and tile, sorted, with its mark.

    Of newest rows `offsets` are their places in the topic.
    """

    records: Records
    marks: Array
    offsets: Array

    def some(self, kept: Array, owner: Array) -> Part:
        """Some of it, under other owners."""
        records = take(self.records, kept)
        records = Records(owner, records.rows, records.strings, records.items)
        return Part(records, self.marks[kept], self.offsets[kept])


@dataclass(frozen=True)
class Batch:
    """Upserts by entity: store keys without their lead, what hashed ones stand for, bounds of events, and each section's part."""

    keys: Sequence[bytes]
    hashed: Sequence[bytes] | None
    first_at: Array
    last_at: Array
    parts: Sequence[Part]

    def __len__(self) -> int:
        return len(self.keys)

    def some(self, entities: Array) -> Batch:
        """That of some entities, in ascending order."""
        number = np.full(len(self.keys), -1, np.int64)
        number[entities] = np.arange(len(entities))
        parts = []
        for part in self.parts:
            owner = number[part.records.owner]
            kept = np.flatnonzero(owner >= 0)
            parts.append(part.some(kept, owner[kept]))
        wanted = entities.tolist()
        hashed = None if self.hashed is None else [self.hashed[i] for i in wanted]
        keys = [self.keys[i] for i in wanted]
        return Batch(keys, hashed, self.first_at[entities], self.last_at[entities], parts)


@dataclass(frozen=True, slots=True)
class Now:
    """What decides how heads are written at a moment: whose they are, where base ends, how far the stream is; and what goes.

    Times are NEVER where nothing is known.
    """

    run: int
    cut: int = NEVER
    clock: int = NEVER

    @property
    def kept_from(self) -> int:
        """The moment that stands in a head's header: what its windows reached then is in it."""
        return max(self.cut, self.clock)

    def least(self, layout: Layout, number: int) -> int:
        """The first tile of a level that stays: base has not taken it over, and a window reaches it."""
        level = layout.levels[number]
        if level.reach is None or level.lifetime or self.clock == NEVER:
            return self.cut
        return max(self.cut, floor(self.clock, level.hop) - level.reach)


@dataclass(frozen=True)
class Written:
    """Values to write over those of the counters `before`; `entities` are their numbers in the batch.

    So many tiles were `refused`: they would have lost rows.
    """

    entities: Array
    values: Sequence[bytes]
    before: Sequence[int | None]
    refused: int


# ── a batch


def batch_of(view: View, codec: Codec, upserts: Sequence[Upserts]) -> Batch:
    """Records by entity; of several of one tile the one that counts."""
    columns, owners = _entities(view, upserts)
    keys, hashed = entity_keys(view, columns)
    first = np.full(len(keys), FIRST)
    last = np.full(len(keys), NEVER)
    by_section = {u.number: (u, owner) for u, owner in zip(upserts, owners, strict=True)}
    parts = []
    for number, section in enumerate(codec.sections):
        if number not in by_section:
            none = np.zeros(0, np.int64)
            empty = {n: np.zeros(0, object) for n in section.strings}
            items = {slot: _no_items(inner, slot) for slot, inner in section.items.items()}
            records = Records(none, np.zeros(0, section.dtype), empty, items)
            parts.append(Part(records, np.zeros(0, "<u8"), none))
            continue
        came, owner = by_section[number]
        np.minimum.at(first, owner, came.first_at)
        np.maximum.at(last, owner, came.last_at)
        newest = number == len(codec.sections) - 1
        kept = _that_count(owner, came, newest=newest)
        records = take(came.records, kept)
        records = Records(owner[kept], records.rows, records.strings, records.items)
        parts.append(Part(records, came.marks[kept], came.offsets[kept]))
    return Batch(keys, hashed, first, last, parts)


def _that_count(owner: Array, came: Upserts, *, newest: bool) -> Array:
    """The record of each owner and tile that counts, sorted: the last of those with the greatest mark."""
    if newest:
        order = np.lexsort((came.last_at, came.marks, owner))
        who = owner[order]
        own: Array = order[np.append(who[1:] != who[:-1], True)]
        return own
    tile = came.records.rows["tile"]
    order = np.lexsort((came.marks, tile, owner))
    who, when = owner[order], tile[order]
    kept: Array = order[np.append((who[1:] != who[:-1]) | (when[1:] != when[:-1]), True)]
    return kept


def _entities(view: View, upserts: Sequence[Upserts]) -> tuple[list[Array], list[Array]]:
    """The key columns of the distinct entities, and of each record whose it is."""
    sizes = np.cumsum([len(u) for u in upserts])[:-1]
    columns = [np.concatenate([u.keys[i] for u in upserts]) for i in range(len(view.keys))]
    if len(columns) == 1 and columns[0].dtype != object:
        distinct, owner = np.unique(columns[0], return_inverse=True)
        return [distinct], np.split(owner, sizes)
    numbers: dict[object, int] = {}
    rows = (
        columns[0].tolist() if len(columns) == 1 else list(zip(*(c.tolist() for c in columns), strict=True))
    )
    owner = np.fromiter((numbers.setdefault(row, len(numbers)) for row in rows), np.int64, len(rows))
    first = np.full(len(numbers), len(rows))
    np.minimum.at(first, owner, np.arange(len(rows)))
    return [c[first] for c in columns], np.split(owner, sizes)


def _no_items(inner: Section, slot: str) -> dict[str, Array]:
    """The items of no records."""
    columns: dict[str, Array] = {"ends": np.zeros(0, np.int64)}
    for name, (kind, _) in inner.places.items():
        columns[name.removeprefix(f"{slot}_")] = np.zeros(0, object if name in inner.strings else kind)
    return columns


# ── merged into what was there


def merged(layout: Layout, codec: Codec, batch: Batch, there: Sequence[bytes | None], now: Now) -> Written:
    """The values of a batch's entities over those that were `there`. Entities of which nothing changes are left out."""
    decoded = decode(codec, there, batch.hashed)
    fixed = not any(s.strings or s.items for s in codec.sections) and batch.hashed is None
    marks = _Marks(codec, layout, decoded, there, now.run)
    found = [_found(decoded, number, part) for number, part in enumerate(batch.parts)]
    takes, refused = [], 0
    anew = ~marks.mine
    for number, part in enumerate(batch.parts):
        place, same = found[number]
        better = _better(decoded, marks, number, part, place, same, newest=number == len(layout.levels))
        refused += int((~better).sum())
        takes.append(better)
        if fixed:
            anew[part.records.owner[~same]] = True
    some = np.flatnonzero(anew) if fixed else np.arange(len(batch))
    written = _encoded(layout, codec, batch, there, some, takes, found, marks, decoded, now)
    if not fixed or len(some) == len(batch):
        return Written(some, written[0], written[1], refused)
    rest = np.flatnonzero(~anew)
    changed, values = _patched(codec, batch, decoded, rest, takes, found, marks, now)
    before = decoded.header["counter"][changed].tolist()
    entities = np.concatenate([some, changed])
    return Written(entities, [*written[0], *values], [*written[1], *before], refused)


class _Marks:
    """The marks at the end of each value that bears them: those of `run`."""

    def __init__(
        self, codec: Codec, layout: Layout, decoded: Decoded, there: Sequence[bytes | None], run: int
    ) -> None:
        self.words = decoded.words
        self.mine: Mask = (decoded.header["magic"] != 0) & (decoded.header["run"] == run)
        self.each = np.ones(len(codec.sections), np.int64)
        self.each[-1] = 2 if layout.latest else 0
        self.sizes = decoded.counts * self.each
        lengths = np.fromiter((0 if v is None else len(v) for v in there), np.int64, len(there))
        ends = decoded.origins + lengths // 8
        behind = np.cumsum(self.sizes[:, ::-1], axis=1)[:, ::-1]
        self.starts = ends[:, None] - behind

    def of(self, number: int, owner: Array, rank: Array) -> Array:
        """Where the mark of a section's record lies: of its owner's, the one of this rank."""
        where: Array = self.starts[owner, number] + rank * self.each[number]
        return where


def _found(decoded: Decoded, number: int, part: Part) -> tuple[Array, Mask]:
    """Where each record's tile is or belongs among its owner's (by rank), and whether it is there."""
    owner = part.records.owner
    counts = decoded.counts[owner, number]
    if not len(owner):
        return np.zeros(0, np.int64), np.zeros(0, np.bool_)
    name = part.records.rows.dtype.names[0]  # type: ignore[index]
    if name == "at":  # the newest row is the only one
        return np.zeros(len(owner), np.int64), counts > 0
    wanted = part.records.rows["tile"]
    width = decoded.codec.sections[number].dtype.itemsize // 8
    starts = decoded.starts[owner, number]
    words = decoded.words.view("<i8")
    if not len(words):
        return np.zeros(len(owner), np.int64), np.zeros(len(owner), np.bool_)
    place = np.zeros(len(owner), np.int64)
    step = 1 << int(counts.max(initial=0)).bit_length() >> 1
    while step:
        further = place + step
        inside = further <= counts
        before = inside & (words.take(starts + (further - 1) * width, mode="clip") < wanted)
        place += step * before
        step >>= 1
    same = place < counts
    same &= words.take(starts + place * width, mode="clip") == wanted
    return place, same


def _better(
    decoded: Decoded, marks: _Marks, number: int, part: Part, place: Array, same: Mask, *, newest: bool
) -> Mask:
    """Which records replace what is there: those of no smaller mark; where there is nothing, all."""
    better: Mask = np.ones(len(place), np.bool_)
    owner = part.records.owner
    old = np.flatnonzero(same & marks.mine[owner])
    if not len(old):
        return better
    where = marks.of(number, owner[old], place[old])
    if not newest:
        better[old] = part.marks[old] >= marks.words[where]
        return better
    epoch, offset = marks.words[where], marks.words[where + 1].view("<i8")
    at = decoded.words.view("<i8")[decoded.starts[owner[old], number]]
    mine = part.records.rows["at"][old]
    later = (mine > at) | ((mine == at) & (part.offsets[old] >= offset))
    better[old] = (part.marks[old] > epoch) | ((part.marks[old] == epoch) & later)
    return better


def _patched(
    codec: Codec,
    batch: Batch,
    decoded: Decoded,
    entities: Array,
    takes: Sequence[Mask],
    found: Sequence[tuple[Array, Mask]],
    marks: _Marks,
    now: Now,
) -> tuple[Array, list[bytes]]:
    """Those of `entities` that change, and their values: words put over those that were there."""
    words = decoded.words.copy()
    wanted = np.zeros(len(batch), np.bool_)
    wanted[entities] = True
    changed = np.zeros(len(batch), np.bool_)
    for number, (part, better, (place, _)) in enumerate(zip(batch.parts, takes, found, strict=True)):
        owner = part.records.owner
        kept = np.flatnonzero(better & wanted[owner])
        if not len(kept):
            continue
        owner = owner[kept]
        width = codec.sections[number].dtype.itemsize // 8
        new = part.records.rows.view("<u8").reshape(len(part.records.rows), width)[kept]
        at = (decoded.starts[owner, number] + place[kept] * width)[:, None] + np.arange(width)
        mark = marks.of(number, owner, place[kept])
        differs = (words[at] != new).any(axis=1) | (words[mark] != part.marks[kept])
        words[at] = new
        words[mark] = part.marks[kept]
        if marks.each[number] == 2:
            offsets = part.offsets[kept].view("<u8")
            differs |= words[mark + 1] != offsets
            words[mark + 1] = offsets
        changed[owner[differs]] = True
    numbers = words.view("<i8")
    old = decoded.origins[entities]
    first = np.minimum(numbers[old + 4], batch.first_at[entities])
    last = np.maximum(numbers[old + 5], batch.last_at[entities])
    changed[entities] |= (first != numbers[old + 4]) | (last != numbers[old + 5])
    moved = np.flatnonzero(changed[entities])
    entities, old = entities[moved], old[moved]
    numbers[old + 1] += 1
    numbers[old + 3] = np.maximum(numbers[old + 3], now.kept_from)
    numbers[old + 4], numbers[old + 5] = first[moved], last[moved]
    ends = marks.starts[entities, 0] + marks.sizes[entities].sum(axis=1)
    sizes = ends - old
    if len(entities) and bool((sizes == sizes[0]).all()):
        width = int(sizes[0])
        whole = (
            words.reshape(-1, width)[old // width]
            if len(words) % width == 0 and not (old % width).any()
            else words[old[:, None] + np.arange(width)]
        )
        return entities, np.ascontiguousarray(whole).view(f"V{8 * width}")[:, 0].tolist()
    raw = words.tobytes()
    pairs = zip((8 * old).tolist(), (8 * ends).tolist(), strict=True)
    return entities, [raw[a:b] for a, b in pairs]


def _encoded(
    layout: Layout,
    codec: Codec,
    batch: Batch,
    there: Sequence[bytes | None],
    entities: Array,
    takes: Sequence[Mask],
    found: Sequence[tuple[Array, Mask]],
    marks: _Marks,
    decoded: Decoded,
    now: Now,
) -> tuple[list[bytes], list[int | None]]:
    """The values of some entities, encoded anew, and the counters that they replace."""
    n = len(entities)
    before = [counter_of(there[i]) for i in entities.tolist()]
    if not n:
        return [], []
    number_of = np.full(len(batch), -1, np.int64)
    number_of[entities] = np.arange(n)
    old = decoded.header[entities]
    new = old["magic"] == 0
    header = np.zeros(n, HEADER)
    first, last = batch.first_at[entities], batch.last_at[entities]
    header["first_at"] = np.where(new, first, np.minimum(old["first_at"], first))
    header["last_at"] = np.where(new, last, np.maximum(old["last_at"], last))
    header["counter"] = [0 if c is None else c + 1 for c in before]
    # A head says that it lacks nothing that a window reached at its cut: before the first is known, at its first event.
    header["cut"] = now.kept_from if now.kept_from != NEVER else header["first_at"]
    header["cut"] = np.where(new, header["cut"], np.maximum(old["cut"], header["cut"]))
    header["run"], header["kept_from"] = now.run, NEVER
    sections, owners, words = [], [], []
    for number, part in enumerate(batch.parts):
        records, own = _joined(
            codec, layout, decoded, marks, number, number_of, part, takes[number], found[number], now
        )
        sections.append(records)
        if marks.each[number]:
            owners.append(np.repeat(records.owner, int(marks.each[number])))
            words.append(own.reshape(-1))
    owner, all_words = np.concatenate(owners), np.concatenate(words)
    order = np.argsort(owner, kind="stable")
    counts = np.bincount(owner, minlength=n)
    hashed = None if batch.hashed is None else [batch.hashed[i] for i in entities.tolist()]
    return encode(codec, header, sections, hashed, (counts, all_words[order])), before


def _joined(
    codec: Codec,
    layout: Layout,
    decoded: Decoded,
    marks: _Marks,
    number: int,
    number_of: Array,
    part: Part,
    better: Mask,
    found: tuple[Array, Mask],
    now: Now,
) -> tuple[Records, Array]:
    """One section's records of the entities that have a number, old and new, and their marks."""
    section = codec.sections[number]
    newest = number == len(layout.levels)
    place, same = found
    # The records that are there, in the order of entities.
    counts = decoded.counts[:, number] * (number_of >= 0)
    first = np.cumsum(counts) - counts
    whose = np.repeat(np.arange(len(counts)), counts)
    rank = np.arange(len(whose)) - first[whose]
    places = decoded.starts[whose, number] + rank * (section.dtype.itemsize // 8)
    rows = _rows(decoded, section.dtype, places)
    each = int(marks.each[number])
    mine = marks.mine[whose]
    old_marks = np.zeros((len(whose), each), "<u8")
    if each and mine.any():
        where = marks.of(number, whose[mine], rank[mine])
        old_marks[mine] = marks.words[where[:, None] + np.arange(each)]
    strings = {
        name: decoded._texts(rows[section.places[name][0]][:, section.places[name][1]], whose)  # noqa: SLF001 (of some)
        for name in section.strings
    }
    items = {slot: decoded.items(number, slot, places, whose) for slot in section.items}
    old = Records(number_of[whose], rows, strings, items)
    # What came: over records that are there, or between them.
    kept = np.flatnonzero(better & (number_of[part.records.owner] >= 0))
    came = part.some(kept, number_of[part.records.owner[kept]])
    new_marks = came.marks[:, None]
    if newest:
        new_marks = np.stack([came.marks, came.offsets.view("<u8")], axis=1)[:, :each]
    at = first[part.records.owner[kept]] + place[kept]
    over = same[kept]
    index = np.arange(len(whose))
    index[at[over]] = len(whose) + np.flatnonzero(over)
    index = np.insert(index, at[~over], len(whose) + np.flatnonzero(~over))
    both = _both(old, came.records)
    every = np.concatenate([old_marks, new_marks])
    time = both.rows[section.dtype.names[0]] if section.dtype.names else None
    least = now.cut if newest else now.least(layout, number)
    if time is not None and least != NEVER and len(index):
        index = index[time[index] >= least]
    if not len(every):
        return both, every
    return take(both, index), every[index]


def _both(old: Records, new: Records) -> Records:
    strings = {name: np.concatenate([column, new.strings[name]]) for name, column in old.strings.items()}
    items = {slot: joined([columns, new.items[slot]]) for slot, columns in old.items.items()}
    return Records(
        np.concatenate([old.owner, new.owner]), np.concatenate([old.rows, new.rows]), strings, items
    )


def _rows(decoded: Decoded, dtype: np.dtype[np.void], places: Array) -> Array:
    if not len(places) or not dtype.itemsize:
        return np.zeros(len(places), dtype)
    return decoded.words[places[:, None] + np.arange(dtype.itemsize // 8)].view(dtype)[:, 0]


__all__ = ["Batch", "Now", "Written", "batch_of", "merged"]
