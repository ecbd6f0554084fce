"""The bytes of an entity in the online store: encoded and decoded for many entities at once.

A value is, little-endian and in multiples of 8 bytes:

    header      64 bytes, `HEADER`
    key         for a key that is too long to stand for itself and was hashed: its bytes, padded
    counts      one uint32 for each section: the view's levels from fine to coarse, then the latest row
    sections    that many records of the section's fixed width, sorted by tile; the fold of a lifetime comes first,
                as the tile `FOLD`
    side        first the items of partials that have any number of them, of fixed width, then strings, one after another;
                a record holds offset and count (or length), an item likewise of its string
    marks       of a head that was written from tile records: words that only their writer reads, see `stream.upserts`

Decoding a batch joins the values and reads each section as one array: no Python object per record or feature.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.aggregates import ordered
from featurestore.errors import StoreCorrupt
from featurestore.ir import View
from featurestore.layout import Layout, Level, storage_fingerprint
from featurestore.online.values import KeyRows, Values
from featurestore.types import DType, Int64, ListType, String, VectorType, numpy_dtype

Array = npt.NDArray[Any]

MAGIC = 0x31_53_46_56  # b"VFS1"
FOLD = -(2**63)
NEVER = -(2**63)

HEADER = np.dtype(
    [
        ("magic", "<u4"),
        ("key", "<u4"),  # bytes of the key that follows the header, 0 for a key that was not hashed
        ("counter", "<u8"),  # raised by every write of the value
        ("plan", "<u8"),  # the first half of the view's storage fingerprint
        ("cut", "<i8"),  # base: holds what lies before; head: begins here
        ("first_at", "<i8"),  # event time of the entity's first event here
        ("last_at", "<i8"),  # and of its last
        ("kept_from", "<i8"),  # tiles that begin before were pruned, of every level
        ("side", "<u4"),  # offset of the side section
        ("run", "<u4"),  # of the materialisation that wrote it, modulo 2^32
    ]
)
assert HEADER.itemsize == 64

PLACE = "o"

BASE, HEAD, NOBODY = b"b", b"h", b"n"

RAW_KEY = 128
"""Bytes of an entity's key that stand in the store's key as they are; of a longer one its hash does."""

_HASHED = (
    b"\xff"  # begins no UTF-8, and no composite key of `RAW_KEY` bytes, whose first part would be too long
)


@dataclass(frozen=True)
class Section:
    """One kind of record: `tile` (or, in the latest row, `at`), `null` words, then groups of equal type side by side.

    `places[slot_field]` says in which group and column a field lies; `bits[slot]` is the slot's place among the null
    bits (1 = not null). `items[slot]` says what an item of a slot is that has any number of them; the record's own field is
    then the slot's name.
    """

    dtype: np.dtype[Any]
    places: Mapping[str, tuple[str, int]]
    bits: Mapping[str, int]
    strings: tuple[str, ...]
    items: Mapping[str, Section] = field(default_factory=dict)
    packed: Mapping[str, ListType | VectorType] = field(default_factory=dict)
    """Those of `strings` that hold lists or vectors, and their types."""

    @cached_property
    def fields(self) -> Mapping[str, tuple[np.dtype[Any], int]]:
        """The type of each field and the byte at which it begins in a record; `tile`, `at` and `null` are called so."""
        assert self.dtype.fields is not None
        whole = {
            name: (of[0].base, of[1])
            for name, of in self.dtype.fields.items()
            if name in ("tile", "at", "null")
        }
        groups = {name: (self.dtype.fields[kind], column) for name, (kind, column) in self.places.items()}
        return whole | {
            n: (of[0].base, of[1] + column * of[0].base.itemsize) for n, (of, column) in groups.items()
        }


@dataclass(frozen=True)
class Codec:
    """How one view's values are laid out, and under which keys they lie."""

    prefix: bytes
    plan: int
    sections: tuple[Section, ...]

    @cached_property
    def widths(self) -> Array:
        """The words that a record of each section takes."""
        return np.array([s.dtype.itemsize // 8 for s in self.sections], np.int64)

    @cached_property
    def counts_size(self) -> int:
        return -(-4 * len(self.sections) // 8) * 8

    @cached_property
    def same_words(self) -> Array:
        """The words that values of the same counts have in common: magic, plan, and the counts."""
        return np.array([0, 2, *range(8, 8 + self.counts_size // 8)])


def codec_of(view: View, layout: Layout, *, placed: bool = False) -> Codec:
    """The codec of a view. The prefix, 7 bytes, changes with anything that changes what is stored.

    With `placed`, whatever depends on the order of events has a field more, `PLACE`: that of its event among those of its
    time, without which partials of one time cannot be merged. That is for those who merge them, not for readers.
    """
    fingerprint = bytes.fromhex(storage_fingerprint(view))
    sections = [_tile_section(level, placed=placed) for level in layout.levels]
    latest: list[_Named] = [(c.name, [(c.name, c.dtype)], True) for c in layout.latest]
    if placed and latest:
        latest.append((PLACE, [(PLACE, String)], False))
    sections.append(_section("at", latest))
    return Codec(fingerprint[:7], int.from_bytes(fingerprint[:8], "little"), tuple(sections))


def _tile_section(level: Level, *, placed: bool) -> Section:
    slots: list[_Named] = []
    items = {}
    for slot in level.slots:
        names: list[tuple[str, Any]] = [
            (f"{slot.name}_{f.name}", String if f.dtype == object else f.dtype) for f in slot.fields
        ]
        if placed and ordered(slot.reduction):
            names.append((f"{slot.name}_{PLACE}", String))
        if slot.ragged:
            items[slot.name] = _section(None, [(slot.name, names, False)])
            names = [(slot.name, np.dtype(np.uint64))]  # offset in the low half, count in the high one
        slots.append((slot.name, names, slot.has_null_bit))
    return replace(_section("tile", slots), items=items)


_Named = tuple[str, list[tuple[str, Any]], bool]
"""A slot, its fields with their types, and whether it has a null bit."""


def _section(time: str | None, slots: Sequence[_Named]) -> Section:
    groups: dict[str, list[str]] = {}
    bits: dict[str, int] = {}
    strings = []
    packed = {}
    for slot, names, nullable in slots:
        if nullable:
            bits[slot] = len(bits)
        for name, dtype in names:
            kind = _stored(dtype)
            if kind == "text":
                strings.append(name)
                if isinstance(dtype, ListType | VectorType):
                    packed[name] = dtype
                kind = "<u8"  # offset in the low half, length in the high one
            groups.setdefault(kind, []).append(name)
    words = -(-len(bits) // 64)
    fields: list[Any] = [(time, "<i8")] if time is not None else []
    fields += [("null", "<u8", (words,))] if words else []
    places: dict[str, tuple[str, int]] = {}
    for kind, members in sorted(groups.items(), key=lambda g: -np.dtype(g[0]).itemsize):
        fields.append((kind, kind, (len(members),)))
        places |= {name: (kind, i) for i, name in enumerate(members)}
    size = np.dtype(fields).itemsize
    if size % 8:
        fields.append(("pad", "V1", (8 - size % 8,)))
    return Section(np.dtype(fields), places, bits, tuple(strings), packed=packed)


def _stored(dtype: DType | np.dtype[Any]) -> str:
    if dtype == String or isinstance(dtype, ListType | VectorType):
        return "text"
    raw = dtype if isinstance(dtype, np.dtype) else numpy_dtype(dtype)
    return "|b1" if raw == np.bool_ else raw.newbyteorder("<").str


# -------------------------------------------------------------------------------------------------------------------- keys


def key_bytes(view: View, parts: Sequence[Any]) -> bytes:
    """The bytes that stand for one entity. Of a composite key each part comes with its length, so that no two run together.

    Whole numbers alone need none: each has 8 bytes, which sort as the numbers do, so that a sorted view is written in the
    order of its store keys.
    """
    if all(key.dtype == Int64 for key in view.keys):
        return b"".join(map(number_name, map(int, parts)))
    if len(parts) == 1:
        return _text(parts[0])
    out = []
    for key, part in zip(view.keys, parts, strict=True):
        raw = int(part).to_bytes(8, "little", signed=True) if key.dtype == Int64 else _text(part)
        out.append(len(raw).to_bytes(4, "little") + raw)
    return b"".join(out)


def key_parts(view: View, raw: bytes) -> tuple[int | str, ...]:
    """The values of the join keys that `key_bytes` made these bytes of. StoreCorrupt when it made them of none."""
    try:
        if all(key.dtype == Int64 for key in view.keys):
            return tuple(int(n) - (1 << 63) for n in np.frombuffer(raw, ">u8", len(view.keys)))
        if len(view.keys) == 1:
            return (raw.decode("utf-8", "surrogatepass"),)
        out: list[int | str] = []
        for key in view.keys:
            size = int.from_bytes(raw[:4], "little")
            part, raw = raw[4 : 4 + size], raw[4 + size :]
            _at_least(len(part), size)
            whole = int.from_bytes(part, "little", signed=True) if key.dtype == Int64 else None
            out.append(part.decode("utf-8", "surrogatepass") if whole is None else whole)
    except ValueError as error:
        raise StoreCorrupt(f"a key of view '{view.name}' does not decode: {error}") from error
    return tuple(out)


def number_name(number: int) -> bytes:
    """The bytes that stand for a whole number of 64 bits; they sort as the numbers do."""
    return (number + (1 << 63)).to_bytes(8, "big")


def entity_keys(
    view: View, columns: Sequence[Array | Sequence[Any]], *leads: bytes
) -> tuple[list[bytes], list[bytes] | None]:
    """The store keys of entities, one for each of `leads` (b"" alone by default), an entity's own side by side.

    `leads` have one length, a multiple of 8. `columns` holds the values of each join key, in the order of the view's
    keys, without NULLs. Besides, for each key the bytes that a hash in it stands for, b"" where none does; None when no key
    holds a hash.
    """
    keys, raw = entity_key_rows(view, columns, *leads)
    if isinstance(keys, np.ndarray):
        listed: list[bytes] = keys.reshape(-1).view(f"V{keys.shape[1]}").tolist()
        return listed, raw
    return list(keys), raw


def whole_numbers(view: View) -> bool:
    """Whether the view's keys are whole numbers alone, and few enough to stand for themselves."""
    return all(key.dtype == Int64 for key in view.keys) and 8 * len(view.keys) <= RAW_KEY


def entity_key_rows(
    view: View, columns: Sequence[Array | Sequence[Any]], *leads: bytes
) -> tuple[KeyRows, list[bytes] | None]:
    """`entity_keys`, with keys of whole numbers as one array."""
    leads = leads or (b"",)
    if whole_numbers(view):
        return number_keys(columns, leads), None
    if len(columns) == 1:
        whole = list(map(_text, columns[0]))
    else:
        whole = [key_bytes(view, parts) for parts in zip(*columns, strict=True)]
    if max(map(len, whole), default=0) <= RAW_KEY:
        return [lead + w for w in whole for lead in leads], None
    long = [w if len(w) > RAW_KEY else b"" for w in whole]
    ends = [
        _HASHED + hashlib.blake2b(x, digest_size=16).digest() if x else w
        for w, x in zip(whole, long, strict=True)
    ]
    return [lead + e for e in ends for lead in leads], [x for x in long for _ in leads]


def number_keys(columns: Sequence[Array | Sequence[Any]], leads: tuple[bytes, ...]) -> Array:
    """`entity_key_rows` of whole numbers."""
    words = _lead_words(leads)
    width = words.shape[1]
    if len(columns) == len(leads) == 1:
        one = np.empty((len(columns[0]), width + 1), "<i8")
        one[:, :width] = words
        one[:, width] = (np.asarray(columns[0], np.int64) ^ _SIGN).byteswap()
        return one.view(np.uint8)
    out = np.empty((len(columns[0]), len(leads), width + len(columns)), "<i8")
    out[:, :, :width] = words
    for i, column in enumerate(columns):
        out[:, :, width + i] = (np.asarray(column, np.int64) ^ _SIGN).byteswap()[:, None]
    return out.reshape(-1, width + len(columns)).view(np.uint8)


@lru_cache(maxsize=1024)
def _lead_words(leads: tuple[bytes, ...]) -> Array:
    return np.frombuffer(b"".join(leads), "<i8").reshape(len(leads), -1)


_SIGN = np.int64(-(1 << 63))


def _text(part: str) -> bytes:
    return part.encode("utf-8", "surrogatepass")  # half a surrogate pair is no text that a source can hold


def written_by(value: bytes) -> int:
    """The run of the materialisation that wrote a value, modulo 2^32."""
    return int.from_bytes(value[60:64], "little")


# ---------------------------------------------------------------------------------------------------------------- encoding


@dataclass(frozen=True)
class Records:
    """The records of one section for many entities: sorted by entity and tile, `owner` the entity's number."""

    owner: Array
    rows: Array
    strings: Mapping[str, Array]
    items: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    """Of slots with any number of items: `ends`, for each record where its items end, and the columns of all items."""


def encode(
    codec: Codec,
    header: Array,
    sections: Sequence[Records],
    keys: Sequence[bytes] | None,
    marks: tuple[Array, Array] | None = None,
) -> list[bytes]:
    """The values of entities 0…n-1.

    `header` holds `cut`, `first_at`, `last_at`, `kept_from`, `counter` and `run`; the rest is filled in here. `keys` are
    the hashed keys' own bytes, b"" for a key that was not hashed. `marks` are how many words come at the end of each value,
    and all of these.
    """
    n = len(header)
    counts = np.stack([np.bincount(s.owner, minlength=n) for s in sections], axis=1).astype("<u4")
    lengths = np.array([len(k) for k in keys], np.int64) if keys is not None else np.zeros(n, np.int64)
    padded = -(-lengths // 8) * 8
    start = 64 + padded + codec.counts_size
    widths = np.array([s.dtype.itemsize for s in codec.sections], np.int64)
    begins = start[:, None] + np.cumsum(
        np.concatenate([np.zeros((n, 1), np.int64), counts * widths], axis=1), axis=1
    )
    side = begins[:, -1]
    texts, sizes = _place_side(codec, sections, n)
    own = total = side + -(-sizes // 8) * 8
    if marks is not None:
        total = own + 8 * marks[0]
    offsets = np.cumsum(total) - total
    words = np.zeros(int(total.sum()) // 8, "<u8")
    if marks is not None:
        words[_runs((offsets + own) // 8, marks[0])] = marks[1]
    if texts is not None:
        words.view(np.uint8)[_runs(offsets + side, sizes)] = texts
    head = np.zeros(n, HEADER)
    for name in ("cut", "first_at", "last_at", "kept_from", "counter", "run"):
        head[name] = header[name]
    head["magic"], head["plan"], head["key"], head["side"] = MAGIC, codec.plan, lengths, side
    _scatter(words, offsets, head)
    block = np.zeros((n, codec.counts_size // 4), "<u4")
    block[:, : len(sections)] = counts
    _scatter(words, offsets + 64 + padded, block.view("<u8"))
    for i, section in enumerate(sections):
        if len(section.owner):
            first = np.cumsum(counts[:, i], dtype=np.int64) - counts[:, i]
            rank = np.arange(len(section.owner)) - first[section.owner]
            _scatter(words, (offsets + begins[:, i])[section.owner] + rank * widths[i], section.rows)
    values = _split(words, offsets, total)
    if keys is not None and lengths.any():
        values = [v[:64] + k + v[64 + len(k) :] for v, k in zip(values, keys, strict=True)]
    return values


def _split(words: Array, offsets: Array, total: Array) -> list[bytes]:
    values: list[bytes]
    if len(total) and bool((total == total[0]).all()):
        values = words.view(f"V{int(total[0])}").tolist()
        return values
    whole = words.tobytes()
    return [whole[a:b] for a, b in zip(offsets.tolist(), (offsets + total).tolist(), strict=True)]


@dataclass
class _Runs:
    """Bytes of one field that go into side sections: whose each run is, where it lies in `blob`, and how long it is.

    `counts` is what a record says of its run besides where it is; `target` the field of the records.
    """

    owner: Array
    starts: Array
    lengths: Array
    counts: Array
    target: Array
    blob: Array


def _place_side(codec: Codec, sections: Sequence[Records], n: int) -> tuple[Array | None, Array]:
    """The side sections, entity by entity, and the length of each. Puts offsets into records and items.

    Items come first: their width is a multiple of 8 bytes, so that each lies on one.
    """
    both = list(zip(codec.sections, sections, strict=True))
    items: list[_Runs] = []
    strings: list[_Runs] = []
    for section, records in both:
        for slot, inner in section.items.items():
            made, rows = _item_runs(section, inner, records, slot)
            items.append(made)
            counts = np.diff(records.items[slot]["ends"], prepend=0)
            owner = np.repeat(records.owner, counts)
            for name in inner.strings:
                column = records.items[slot][name.removeprefix(f"{slot}_")]
                strings.append(_string_runs(inner, rows, owner, name, column))
        strings += [
            _string_runs(section, records.rows, records.owner, name, records.strings[name])
            for name in section.strings
        ]
    runs = [*items, *strings]
    if not runs:
        return None, np.zeros(n, np.int64)
    owner = np.concatenate([r.owner for r in runs])
    length = np.concatenate([r.lengths for r in runs])
    order = np.argsort(owner, kind="stable")
    sizes = np.bincount(owner, length, n).astype(np.int64)
    placed = np.cumsum(length[order]) - length[order]
    within = np.empty_like(placed)
    within[order] = placed - (np.cumsum(sizes) - sizes)[owner[order]]
    at = 0
    for run in runs:
        run.target[:] = within[at : at + len(run.owner)] | run.counts << 32
        at += len(run.owner)
    bases = np.cumsum([0, *(len(r.blob) for r in runs[:-1])])
    start = np.concatenate([r.starts + base for r, base in zip(runs, bases.tolist(), strict=True)])
    return np.concatenate([r.blob for r in runs])[_runs(start[order], length[order])], sizes


def _string_runs(section: Section, rows: Array, owner: Array, name: str, column: Array) -> _Runs:
    import pyarrow as pa

    if name in section.packed:
        texts = pa.array([pack(v, section.packed[name]) for v in column], pa.large_binary())
    else:
        texts = pa.array(column, pa.large_string())
    ends = (
        np.frombuffer(texts.buffers()[1], np.int64)[: len(texts) + 1] if len(texts) else np.zeros(1, np.int64)
    )
    blob = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
    kind, place = section.places[name]
    lengths = np.diff(ends)
    return _Runs(owner, ends[:-1], lengths, lengths, rows[kind][:, place], blob)


def _item_runs(section: Section, inner: Section, records: Records, slot: str) -> tuple[_Runs, Array]:
    """The items of one slot, and the same as rows: their strings are to be put in yet."""
    columns = records.items[slot]
    ends = columns["ends"]
    rows = np.zeros(int(ends[-1]) if len(ends) else 0, inner.dtype)
    for name, (kind, place) in inner.places.items():
        if name not in inner.strings:
            rows[kind][:, place] = columns[name.removeprefix(f"{slot}_")]
    counts = np.diff(ends, prepend=0).astype(np.int64)
    width = inner.dtype.itemsize
    kind, place = section.places[slot]
    target = records.rows[kind][:, place]
    blob = rows.view(np.uint8)
    return _Runs(records.owner, (ends - counts) * width, counts * width, counts, target, blob), rows


def _runs(starts: Array, lengths: Array) -> Array:
    """The whole numbers from each start on, as many as its length, one run after another."""
    index = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    index += np.arange(len(index))
    return index


def _scatter(words: Array, at: Array, rows: Array) -> None:
    """Writes fixed-width rows to byte offsets that are multiples of 8."""
    if not len(rows):
        return
    raw = np.ascontiguousarray(rows).view("<u8").reshape(len(rows), -1)
    step = np.diff(at)
    if len(at) == 1 or bool((step == step[0]).all()):
        a, gap = int(at[0]) // 8, int(step[0]) // 8 if len(step) else raw.shape[1]
        target = np.lib.stride_tricks.as_strided(words[a:], raw.shape, (gap * 8, 8), writeable=True)
        target[:] = raw
        return
    words[(at // 8)[:, None] + np.arange(raw.shape[1])] = raw


# ---------------------------------------------------------------------------------------------------------------- decoding


class Decoded:
    """Many values: a header for each (zeros, `magic` 0, where there is none), and where each section's records lie.

    `words` is all of it, as unsigned numbers of 8 bytes. `counts` and `starts` are (values, sections): how many records,
    and the word at which the first begins; `origins` is the word at which a value begins. `alike`: the values are all there,
    of one length and their counts the same; then it says at which word of a value each section begins.
    """

    def __init__(
        self,
        codec: Codec,
        words: Array,
        size: int,
        values: Values,
        *,
        alike: Array | None = None,
        varied: tuple[Array, Array, Array, Array] | None = None,
    ) -> None:
        self.codec, self.words, self.size, self.alike = codec, words, size, alike
        self._values, self._varied = values, varied

    @cached_property
    def header(self) -> Array:
        if self._varied is not None:
            return self._varied[0]
        return self.grid[:, :8].view(HEADER)[:, 0]

    @cached_property
    def grid(self) -> Array:
        """(values, words of a value), where they are alike."""
        return self.words.reshape(self.size, -1)

    @cached_property
    def counts(self) -> Array:
        if self._varied is not None:
            return self._varied[1]
        return self.grid[:, 8:].view("<u4")[:, : len(self.codec.sections)].astype(np.int64)

    @cached_property
    def origins(self) -> Array:
        if self._varied is not None:
            return self._varied[3]
        return np.arange(0, len(self.words), self.grid.shape[1])

    @cached_property
    def starts(self) -> Array:
        if self._varied is not None:
            return self._varied[2]
        assert self.alike is not None
        return self.origins[:, None] + self.alike

    @cached_property
    def side(self) -> list[memoryview | None]:
        """Where a value's strings are; None where there is no value."""
        data, sides = self._values.data.data, self.header["side"].tolist()
        places = zip(self._values.offsets.tolist(), self._values.lengths.tolist(), sides, strict=True)
        return [data[at + side : at + length] if length >= 0 else None for at, length, side in places]

    @cached_property
    def ends(self) -> list[Array]:
        """For each section and value `i` the number of records of values 0…i: its own are `ends[i-1]` to `ends[i]`."""
        return [np.cumsum(self.counts[:, i], dtype=np.int64) for i in range(self.counts.shape[1])]

    def places(self, number: int) -> Array:
        """The word at which each record of a section begins, value by value."""
        width = self.codec.sections[number].dtype.itemsize // 8
        counts, ends = self.counts[:, number], self.ends[number]
        places = np.repeat(self.starts[:, number] - (ends - counts) * width, counts)
        places += np.arange(0, len(places) * width, width)
        return places

    def field(self, number: int, name: str, places: Array) -> Array:
        """One field (not a string) of the records that begin at `places`; `tile` and `at` are called so."""
        dtype, offset = self.codec.sections[number].fields[name]
        values = self.words.view(dtype)
        return values[offset // dtype.itemsize :].take(
            places if dtype.itemsize == 8 else places * (8 // dtype.itemsize)
        )

    def column(self, number: int, name: str) -> Array:
        """One field (not a string) of all records of a section, value by value; for values that are alike."""
        assert self.alike is not None
        section = self.codec.sections[number]
        dtype, offset = section.fields[name]
        begin, width = int(self.alike[number]), section.dtype.itemsize
        count = int(self.words[8:].view("<u4")[number])
        raw = self.grid.view(dtype)
        each = 8 // dtype.itemsize
        block = raw[:, begin * each : begin * each + count * width // dtype.itemsize]
        first = offset // dtype.itemsize
        return block[:, first :: width // dtype.itemsize].reshape(-1)

    @cached_property
    def rows(self) -> list[Array]:
        """Each section's records, value by value."""
        return [self._rows(i) for i in range(self.counts.shape[1])]

    def _rows(self, number: int) -> Array:
        dtype = self.codec.sections[number].dtype
        if self.alike is not None and self.single(number):
            begin = int(self.alike[number])
            return self.grid[:, begin : begin + dtype.itemsize // 8].view(dtype)[:, 0]
        places = self.places(number)
        if not len(places):
            return np.zeros(0, dtype)
        return self.words[places[:, None] + np.arange(dtype.itemsize // 8)].view(dtype)[:, 0]

    def single(self, number: int) -> bool:
        """Whether the values are alike, and each has one record of this section."""
        return self.alike is not None and int(self.words[8:].view("<u4")[number]) == 1

    def owners(self, number: int) -> Array:
        """The value that each record of a section is of."""
        return np.repeat(np.arange(len(self.header)), self.counts[:, number])

    def items(self, number: int, slot: str, places: Array, owners: Array) -> dict[str, Array]:
        """The items of a slot, of the records that begin at `places`, in the values `owners`: `ends` and their columns."""
        inner = self.codec.sections[number].items[slot]
        pointers = self.field(number, slot, places)
        counts = (pointers >> np.uint64(32)).astype(np.int64)
        width = inner.dtype.itemsize // 8
        side = self.origins[owners] + self.header["side"][owners].astype(np.int64) // 8
        starts = side + (pointers & np.uint64(0xFFFFFFFF)).astype(np.int64) // 8
        if len(starts) and int((starts + counts * width).max()) > len(self.words):
            raise _short()
        rows = self.words[_runs(starts, counts * width)].view(inner.dtype)
        columns: dict[str, Array] = {"ends": np.cumsum(counts)}
        for name, (kind, place) in inner.places.items():
            column = rows[kind][:, place]
            if name in inner.strings:
                column = self._texts(column, np.repeat(owners, counts))
            columns[name.removeprefix(f"{slot}_")] = column
        return columns

    def text(self, section: Section, number: int, name: str) -> Array:
        """The strings (or lists) of one field of a section, one for each record; an empty one where it is NULL."""
        kind, column = section.places[name]
        pointers, owners = self.rows[number][kind][:, column], self.owners(number)
        if name not in section.packed:
            return self._texts(pointers, owners)
        dtype = section.packed[name]
        lists = (unpack(raw, dtype) for raw in self._pieces(pointers, owners))
        return np.fromiter(lists, np.dtype(object), len(pointers))

    def _texts(self, pointers: Array, values: Array) -> Array:
        out = np.empty(len(pointers), object)
        out[:] = [str(raw, "utf-8") for raw in self._pieces(pointers, values)]
        return out

    def _pieces(self, pointers: Array, values: Array) -> Iterator[memoryview]:
        """The bytes of the side section that each pointer of a value means."""
        side = self.side
        for cell, owner in zip(pointers.tolist(), values.tolist(), strict=True):
            view = side[owner]
            at = cell & 0xFFFFFFFF
            yield _NOTHING if view is None else view[at : at + (cell >> 32)]


def decode(codec: Codec, values: Values | Sequence[bytes | None], keys: Sequence[bytes] | None) -> Decoded:
    """Decodes values of one view. A value whose stored key is another entity's counts as absent.

    `keys` holds for each the bytes that a hash stands for, as `entity_keys` gives them. Raises StoreCorrupt for bytes that
    are no value of this view's layout.
    """
    if not isinstance(values, Values):
        values = Values.of(values)
    if keys is None and (alike := _decode_alike(codec, values)) is not None:
        return alike
    return _decode_varied(codec, values if keys is None else values.without(_strangers(values, keys)))


def _foreign() -> StoreCorrupt:
    return StoreCorrupt(
        "a stored value is not of this view's layout\n  `fs materialize` writes it anew; `fs doctor` looks at the rest"
    )


def _strangers(values: Values, keys: Sequence[bytes]) -> list[int]:
    """The values that are there and hold another key than the one that was hashed."""
    data = values.data.data
    places = zip(values.offsets.tolist(), values.lengths.tolist(), keys, strict=True)
    return [
        i
        for i, (at, length, key) in enumerate(places)
        if key and length >= 0 and (length < 64 + len(key) or data[at + 64 : at + 64 + len(key)] != key)
    ]


def _decode_alike(codec: Codec, values: Values) -> Decoded | None:
    """Values that all are there, unhashed, with the same counts: strided views of one buffer. None if they are not so."""
    length, words = values.width, 8 + codec.counts_size // 8
    if length is None or length % 8 or length < 8 * words or not values.count:
        return None
    grid = values.data.view("<u8").reshape(values.count, -1)
    first = grid[0]
    if int(first[0]) != MAGIC:
        return None
    if values.count > 1:
        same = codec.same_words
        if not (grid[:, same] == first[same]).all():
            return None
    if int(first[2]) != codec.plan:
        raise _foreign()
    taken = first[8:words].view("<u4")[: len(codec.sections)] * codec.widths
    ends = words + np.cumsum(taken)
    _at_least(length, 8 * int(ends[-1]))
    return Decoded(codec, grid.reshape(-1), len(grid), values, alike=ends - taken)


def _decode_varied(codec: Codec, values: Values) -> Decoded:
    n, lengths = len(values), values.lengths
    there = lengths >= 0
    everyone = bool(there.all())
    short = lengths if everyone else lengths[there]
    _at_least(int(short.min(initial=64 + codec.counts_size)), 64 + codec.counts_size)
    if (short & 7).any() or len(values.data) % 8:
        raise StoreCorrupt("a stored value's bytes are not a multiple of 8")
    offsets = values.offsets // 8
    if not everyone:
        offsets = np.where(there, offsets, 0)
    words = values.data.view("<u8")
    sections = len(codec.sections)
    if not len(words):
        none = np.zeros((n, sections), np.int64)
        return Decoded(codec, words, n, values, varied=(np.zeros(n, HEADER), none, none, offsets))
    header = words[offsets[:, None] + _HEADER_WORDS].view(HEADER)[:, 0]
    if not everyone:
        header[~there] = np.zeros((), HEADER)
    right = (header["magic"] == MAGIC) & (header["plan"] == codec.plan)
    begins = 64 + -(-header["key"].astype(np.int64) // 8) * 8
    if ((begins + codec.counts_size > lengths) & there).any():
        raise _short()
    at = (offsets + begins // 8)[:, None] + np.arange(codec.counts_size // 8)
    if not everyone:
        at[~there] = 0
    counts = words[at].view("<u4")[:, :sections].astype(np.int64)
    if not everyone:
        counts[~there] = 0
    ends = (begins // 8)[:, None] + codec.counts_size // 8 + np.cumsum(counts * codec.widths, axis=1)
    if ((8 * ends[:, -1] > lengths) & there).any():
        raise _short()
    if not (right | ~there).all():
        raise _foreign()
    starts = offsets[:, None] + ends - counts * codec.widths
    return Decoded(codec, words, n, values, varied=(header, counts, starts, offsets))


_HEADER_WORDS = np.arange(8)

_NOTHING = memoryview(b"")


def pack(value: Any, dtype: ListType | VectorType) -> bytes:
    """A list or vector as bytes: its items one after another, of strings as JSON; nothing for NULL."""
    if not isinstance(value, list | np.ndarray):
        return b""
    if isinstance(dtype, VectorType):
        return np.asarray(value, "<f4").tobytes()
    if dtype.item == String:
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return np.array(value, numpy_dtype(dtype.item).newbyteorder("<")).tobytes()


def unpack(raw: memoryview, dtype: ListType | VectorType) -> Any:
    """The value that `pack` made bytes of; an empty one of none."""
    if isinstance(dtype, VectorType):
        return np.frombuffer(raw, "<f4").copy()
    if dtype.item == String:
        return json.loads(bytes(raw)) if len(raw) else []
    return np.frombuffer(raw, numpy_dtype(dtype.item).newbyteorder("<")).tolist()


def _short() -> StoreCorrupt:
    return StoreCorrupt("a stored value is shorter than its counts say")


def _at_least(length: int, wanted: int) -> None:
    if length < wanted:
        raise StoreCorrupt(f"a stored value has {length} bytes where at least {wanted} belong")
