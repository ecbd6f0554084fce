"""The bytes of an entity in the online store: encoded and decoded for many entities at once.

A value is, little-endian and in multiples of 8 bytes:

    header      64 bytes, `HEADER`
    key         for a key that was hashed: its bytes, padded
    counts      one uint32 for each section: the view's levels from fine to coarse, then the latest row
    sections    that many records of the section's fixed width, sorted by tile; the fold of a lifetime comes first,
                as the tile `FOLD`
    side        strings, one after another; a record holds offset and length

Decoding a batch joins the values and reads each section as one array: no Python object per record or feature.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.errors import StoreCorrupt
from featurestore.ir import View
from featurestore.layout import Layout, Level, storage_fingerprint
from featurestore.types import DType, Int64, String, numpy_dtype

Array = npt.NDArray[Any]

MAGIC = 0x31_53_46_56  # b"VFS1"
FOLD = -(2**63)
NEVER = -(2**63)

HEADER = np.dtype(
    [
        ("magic", "<u4"),
        ("key", "<u4"),  # bytes of the key that follows the header, 0 for an integer key
        ("counter", "<u8"),  # raised by every write of the value
        ("plan", "<u8"),  # the first half of the view's storage fingerprint
        ("cut", "<i8"),  # base: holds what lies before; head: begins here
        ("first_at", "<i8"),  # event time of the entity's first event here
        ("last_at", "<i8"),  # and of its last
        ("kept_from", "<i8"),  # tiles that begin before were pruned, of every level
        ("side", "<u4"),  # offset of the side section
        ("spare", "<u4"),
    ]
)
assert HEADER.itemsize == 64

BASE, HEAD, NOBODY = b"b", b"h", b"n"


@dataclass(frozen=True)
class Section:
    """One kind of record: `tile` (or, in the latest row, `at`), `null` words, then groups of equal type side by side.

    `places[slot_field]` says in which group and column a field lies; `bits[slot]` is the slot's place among the null
    bits (1 = not null).
    """

    dtype: np.dtype[Any]
    places: Mapping[str, tuple[str, int]]
    bits: Mapping[str, int]
    strings: tuple[str, ...]


@dataclass(frozen=True)
class Codec:
    """How one view's values are laid out, and under which keys they lie."""

    prefix: bytes
    plan: int
    hashed: bool
    sections: tuple[Section, ...]

    @property
    def counts_size(self) -> int:
        return -(-4 * len(self.sections) // 8) * 8


def codec_of(view: View, layout: Layout) -> Codec:
    """The codec of a view. The prefix, 7 bytes, changes with anything that changes what is stored."""
    fingerprint = bytes.fromhex(storage_fingerprint(view))
    hashed = len(view.keys) > 1 or view.keys[0].dtype == String
    sections = [_tile_section(level) for level in layout.levels]
    sections.append(_section("at", [(c.name, [(c.name, c.dtype)], True) for c in layout.latest]))
    return Codec(fingerprint[:7], int.from_bytes(fingerprint[:8], "little"), hashed, tuple(sections))


def _tile_section(level: Level) -> Section:
    slots = []
    for slot in level.slots:
        text = slot.dtype == String
        names = [
            (f"{slot.name}_{f.name}", String if text and f.name == "v" else f.dtype) for f in slot.fields
        ]
        slots.append((slot.name, names, slot.has_null_bit))
    return _section("tile", slots)


def _section(time: str, slots: Sequence[tuple[str, list[tuple[str, Any]], bool]]) -> Section:
    groups: dict[str, list[str]] = {}
    bits: dict[str, int] = {}
    strings = []
    for slot, names, nullable in slots:
        if nullable:
            bits[slot] = len(bits)
        for name, dtype in names:
            kind = _stored(dtype)
            if kind == "text":
                strings.append(name)
                kind = "<u8"  # offset in the low half, length in the high one
            groups.setdefault(kind, []).append(name)
    words = -(-len(bits) // 64)
    fields: list[Any] = [(time, "<i8")] + ([("null", "<u8", (words,))] if words else [])
    places = {}
    for kind, names in sorted(groups.items(), key=lambda g: -np.dtype(g[0]).itemsize):
        fields.append((kind, kind, (len(names),)))
        places |= {name: (kind, i) for i, name in enumerate(names)}
    size = np.dtype(fields).itemsize
    if size % 8:
        fields.append(("pad", "V1", (8 - size % 8,)))
    return Section(np.dtype(fields), places, bits, tuple(strings))


def _stored(dtype: DType | np.dtype[Any]) -> str:
    if dtype == String:
        return "text"
    raw = dtype if isinstance(dtype, np.dtype) else numpy_dtype(dtype)
    return "|b1" if raw == np.bool_ else raw.newbyteorder("<").str


# -------------------------------------------------------------------------------------------------------------------- keys


def key_bytes(view: View, parts: Sequence[Any]) -> bytes:
    """The bytes that stand for one entity before hashing: each part with its length, so parts cannot run together.

    >>> # ("a", "bc") and ("ab", "c") differ
    """
    out = []
    for key, part in zip(view.keys, parts, strict=True):
        raw = int(part).to_bytes(8, "little", signed=True) if key.dtype == Int64 else str(part).encode()
        out.append(len(raw).to_bytes(4, "little") + raw)
    return b"".join(out)


def entity_keys(view: View, codec: Codec, columns: Sequence[Array]) -> tuple[list[bytes], list[bytes] | None]:
    """For each entity the end of its store key, and, when that is a hash, the bytes that were hashed.

    `columns` holds one array per join key, in the order of the view's keys, without NULLs.
    """
    if not codec.hashed:
        raw = np.ascontiguousarray(columns[0], "<i8").tobytes()
        return [raw[i : i + 8] for i in range(0, len(raw), 8)], None
    if len(columns) == 1:
        texts = [str(v).encode() for v in columns[0].tolist()]
        whole = [len(t).to_bytes(4, "little") + t for t in texts]
    else:
        whole = [key_bytes(view, parts) for parts in zip(*(c.tolist() for c in columns), strict=True)]
    return [hashlib.blake2b(w, digest_size=16).digest() for w in whole], whole


# ---------------------------------------------------------------------------------------------------------------- encoding


@dataclass(frozen=True)
class Records:
    """The records of one section for many entities: sorted by entity and tile, `owner` the entity's number."""

    owner: Array
    rows: Array
    strings: Mapping[str, Array]


def encode(
    codec: Codec, header: Array, sections: Sequence[Records], keys: Sequence[bytes] | None
) -> list[bytes]:
    """The values of entities 0…n-1. `header` holds `cut`, `first_at`, `last_at`, `kept_from` and `counter`; the rest is
    filled in here. `keys` are the hashed keys' own bytes."""
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
    texts, sizes = _place_strings(codec, sections, n)
    total = side + -(-sizes // 8) * 8
    offsets = np.cumsum(total) - total
    words = np.zeros(int(total.sum()) // 8, "<u8")
    head = np.zeros(n, HEADER)
    for name in ("cut", "first_at", "last_at", "kept_from", "counter"):
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
    whole = words.tobytes()
    ends = (offsets + total).tolist()
    values = [whole[a:b] for a, b in zip(offsets.tolist(), ends, strict=True)]
    if keys is not None or texts is not None:
        values = [
            _with_bytes(
                v, keys[i] if keys is not None else b"", texts[i] if texts is not None else b"", int(s)
            )
            for i, (v, s) in enumerate(zip(values, side.tolist(), strict=True))
        ]
    return values


def _with_bytes(value: bytes, key: bytes, text: bytes, side: int) -> bytes:
    if not text:
        return value[:64] + key + value[64 + len(key) :]
    return value[:64] + key + value[64 + len(key) : side] + text + value[side + len(text) :]


def _place_strings(codec: Codec, sections: Sequence[Records], n: int) -> tuple[list[bytes] | None, Array]:
    """Puts offsets and lengths of strings into their records; the side section of each entity and its length."""
    if not any(s.strings for s in codec.sections):
        return None, np.zeros(n, np.int64)
    side: list[list[bytes]] = [[] for _ in range(n)]
    used = [0] * n
    for section, records in zip(codec.sections, sections, strict=True):
        for name in section.strings:
            kind, column = section.places[name]
            into = records.rows[kind][:, column]
            for row, (owner, text) in enumerate(
                zip(records.owner.tolist(), records.strings[name].tolist(), strict=True)
            ):
                raw = b"" if text is None else text.encode()
                into[row] = used[owner] | len(raw) << 32
                side[owner].append(raw)
                used[owner] += len(raw)
    return [b"".join(s) for s in side], np.array(used, np.int64)


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


@dataclass(frozen=True)
class Decoded:
    """Many values: a header for each (zeros, `magic` 0, where there is none), and each section's records, value by value.

    `ends[section][i]` is the number of records of values 0…i, so value `i` has records `ends[i-1]` to `ends[i]`.
    """

    header: Array
    rows: Sequence[Array]
    ends: Sequence[Array]
    side: Sequence[memoryview | None]

    def text(self, section: Section, number: int, name: str) -> Array:
        """The strings of one field of a section, one for each record; "" where it is NULL."""
        kind, column = section.places[name]
        cells = self.rows[number][kind][:, column].tolist()
        owners = np.repeat(np.arange(len(self.header)), np.diff(self.ends[number], prepend=0)).tolist()
        out = np.empty(len(cells), object)
        for row, (cell, owner) in enumerate(zip(cells, owners, strict=True)):
            view = self.side[owner]
            offset, length = cell & 0xFFFFFFFF, cell >> 32
            out[row] = str(view[offset : offset + length], "utf-8") if view is not None else ""
        return out


def decode(codec: Codec, values: Sequence[bytes | None], keys: Sequence[bytes] | None) -> Decoded:
    """Decodes values of one view. A value whose stored key is another entity's counts as absent.

    Raises StoreCorrupt for bytes that are no value of this view's layout.
    """
    n = len(values)
    present = [v for v in values if v is not None]
    texts = any(s.strings for s in codec.sections)
    if len(present) == n and n:
        if keys is not None:
            present, where = _checked_keys(values, keys)
        else:
            where = None
    else:
        present, where = _checked_keys(values, keys)
    lengths = {len(v) for v in present}
    sections = codec.sections
    if len(lengths) == 1 and lengths != {0}:
        header, counts, rows = _decode_equal(codec, present, lengths.pop())
    else:
        header, counts, rows = _decode_varied(codec, present)
    if present and not (np.all(header["magic"] == MAGIC) and np.all(header["plan"] == codec.plan)):
        raise StoreCorrupt(
            "a stored value is not of this view's layout\n  `fs materialize` writes it anew; `fs doctor` looks at the rest"
        )
    side: list[memoryview | None] = []
    if texts:
        side = [memoryview(v)[s:] for v, s in zip(present, header["side"].tolist(), strict=True)]
    if where is not None:
        header, counts, side = _spread(header, counts, side, where, n)
    ends = [np.cumsum(counts[:, i], dtype=np.int64) for i in range(len(sections))]
    return Decoded(header, rows, ends, side)


def _checked_keys(values: Sequence[bytes | None], keys: Sequence[bytes] | None) -> tuple[list[bytes], Array]:
    if keys is None:
        kept = [(i, v) for i, v in enumerate(values) if v is not None]
    else:
        kept = [
            (i, v)
            for i, (v, k) in enumerate(zip(values, keys, strict=True))
            if v is not None and v.startswith(k, 64)
        ]
    return [v for _, v in kept], np.array([i for i, _ in kept], np.int64)


def _decode_equal(codec: Codec, present: Sequence[bytes], length: int) -> tuple[Array, Array, list[Array]]:
    """Values of one length: where all have the same counts too, sections are strided views of one buffer."""
    _at_least(length, 64 + codec.counts_size)
    if length % 8:
        raise StoreCorrupt(f"a stored value has {length} bytes, which is not a multiple of 8")
    grid = np.frombuffer(b"".join(present), np.uint8).reshape(len(present), length)
    header = np.ascontiguousarray(grid[:, :64]).view(HEADER)[:, 0]
    key = -(-int(header["key"][0]) // 8) * 8
    begin = 64 + key
    _at_least(length, begin + codec.counts_size)
    same = bool((header["key"] == header["key"][0]).all())
    counts = np.ascontiguousarray(grid[:, begin : begin + 4 * len(codec.sections)]).view("<u4")
    if not same or not bool((counts == counts[0]).all()):
        return _decode_varied(codec, present)
    rows = []
    at = begin + codec.counts_size
    for section, count in zip(codec.sections, counts[0].tolist(), strict=True):
        size = count * section.dtype.itemsize
        _at_least(length, at + size)
        block = np.ascontiguousarray(grid[:, at : at + size])
        rows.append(block.reshape(-1).view(section.dtype))
        at += size
    return header, counts, rows


def _decode_varied(codec: Codec, present: Sequence[bytes]) -> tuple[Array, Array, list[Array]]:
    lengths = [len(v) for v in present]
    for length in lengths:
        _at_least(length, 64 + codec.counts_size)
    header = np.frombuffer(b"".join([v[:64] for v in present]), HEADER)
    begins = (64 + -(-header["key"].astype(np.int64) // 8) * 8).tolist()
    size = 4 * len(codec.sections)
    for length, begin in zip(lengths, begins, strict=True):
        _at_least(length, begin + codec.counts_size)
    raw = b"".join([v[b : b + size] for v, b in zip(present, begins, strict=True)])
    counts = np.frombuffer(raw, "<u4").reshape(len(present), len(codec.sections))
    widths = np.array([s.dtype.itemsize for s in codec.sections], np.int64)
    ends = np.array(begins, np.int64)[:, None] + codec.counts_size + np.cumsum(counts * widths, axis=1)
    if len(present) and bool((ends[:, -1] > np.array(lengths)).any()):
        raise StoreCorrupt("a stored value is shorter than its counts say")
    rows = []
    for i, section in enumerate(codec.sections):
        stops = ends[:, i].tolist()
        starts = (ends[:, i] - counts[:, i] * widths[i]).tolist()
        joined = b"".join([v[a:b] for v, a, b in zip(present, starts, stops, strict=True)])
        rows.append(np.frombuffer(joined, section.dtype))
    return header, counts, rows


def _spread(
    header: Array, counts: Array, side: Sequence[memoryview | None], where: Array, n: int
) -> tuple[Array, Array, list[memoryview | None]]:
    whole = np.zeros(n, HEADER)
    whole[where] = header
    all_counts = np.zeros((n, counts.shape[1]), np.int64)
    all_counts[where] = counts
    sides: list[memoryview | None] = [None] * n
    for i, view in zip(where.tolist(), side, strict=False):
        sides[i] = view
    return whole, all_counts, sides


def _at_least(length: int, wanted: int) -> None:
    if length < wanted:
        raise StoreCorrupt(f"a stored value has {length} bytes where at least {wanted} belong")
