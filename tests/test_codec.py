"""The bytes of entities: encoding and decoding is the identity, and bytes that are no value say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import StoreCorrupt
from featurestore.expr import Column
from featurestore.ir import Feature, Key, Location, Source, View
from featurestore.layout import layout_of
from featurestore.online.codec import (
    BASE,
    HEADER,
    RAW_KEY,
    Codec,
    Records,
    Section,
    _section,
    codec_of,
    decode,
    encode,
    entity_keys,
    key_bytes,
)
from featurestore.types import Bool, Float32, Float64, Int32, Int64, String

TYPES = [Int64, Int32, Float64, Float32, Bool, String]
TEXTS = st.sampled_from(["", "a", "é", "日本", "x" * 300, "\U0001f600"])
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    Int64: st.integers(-(2**63), 2**63 - 1),
    Int32: st.integers(-(2**31), 2**31 - 1),
    Float64: st.floats(allow_nan=False),
    Float32: st.floats(allow_nan=False, width=32),
    Bool: st.booleans(),
    String: TEXTS,
}


@dataclass(frozen=True)
class Encoded:
    """Some entities and what was made of them."""

    codec: Codec
    header: np.ndarray
    sections: Sequence[Records]
    keys: list[bytes] | None
    values: list[bytes]


@st.composite
def sections(draw: st.DrawFn, name: str) -> Section:
    """Any number of slots, more than a word of null bits among them."""
    few = st.integers(0, 5) | st.sampled_from([63, 64, 65, 130])
    slots = [
        (f"p{i}", [(f"p{i}_v", draw(st.sampled_from(TYPES)))], draw(st.booleans()) or i > 5)
        for i in range(draw(few))
    ]
    texts = st.sampled_from(TYPES)
    items = {
        f"r{i}": _section(None, [(f"r{i}", [(f"r{i}_v", draw(texts)), (f"r{i}_n", Int64)], False)])
        for i in range(draw(st.integers(0, 2)))
    }
    counts: list[Any] = [(slot, [(slot, np.dtype(np.uint64))], False) for slot in items]
    return replace(_section(name, [*slots, *counts]), items=items)


@st.composite
def columns_of_items(draw: st.DrawFn, section: Section, slot: str, records: int) -> dict[str, np.ndarray]:
    """Any number of items for each record of a slot."""
    ends = np.cumsum(draw(st.lists(st.integers(0, 3), min_size=records, max_size=records)), dtype=np.int64)
    count = int(ends[-1]) if records else 0
    columns = {"ends": ends}
    for name, (kind, _) in section.items[slot].places.items():
        text = name in section.items[slot].strings
        dtype = object if text else np.dtype(kind)
        some = TEXTS if text else st.integers(0, 1)
        column = np.empty(count, dtype)
        column[:] = draw(st.lists(some, min_size=count, max_size=count))
        columns[name.removeprefix(f"{slot}_")] = column
    return columns


@st.composite
def records(draw: st.DrawFn, section: Section, entities: int) -> Records:
    counts = draw(st.lists(st.integers(0, 3), min_size=entities, max_size=entities))
    owner = np.repeat(np.arange(entities), counts)
    rows = np.zeros(len(owner), section.dtype)
    assert section.dtype.names is not None
    raw = np.frombuffer(draw(st.binary(min_size=rows.nbytes, max_size=rows.nbytes)), np.uint8)
    rows.view(np.uint8)[:] = raw
    if "|b1" in section.dtype.names:
        rows["|b1"] = rows["|b1"].view(np.uint8) % 2 == 1
    texts = {}
    for name in section.strings:
        texts[name] = np.empty(len(rows), object)
        texts[name][:] = draw(st.lists(TEXTS, min_size=len(rows), max_size=len(rows)))
    items = {slot: draw(columns_of_items(section, slot, len(rows))) for slot in section.items}
    return Records(owner, rows, texts, items)


@st.composite
def encoded(draw: st.DrawFn) -> Encoded:
    n = draw(st.integers(1, 5))
    made = (*draw(st.lists(sections("tile"), max_size=2)), draw(sections("at")))
    codec = Codec(b"prefix7", draw(st.integers(0, 2**64 - 1)), made)
    header = np.zeros(n, HEADER)
    for field in ("cut", "first_at", "last_at", "kept_from"):
        header[field] = draw(st.lists(VALUES[Int64], min_size=n, max_size=n))
    header["counter"] = draw(st.integers(0, 2**64 - 1))
    parts = [draw(records(s, n)) for s in made]
    keys = draw(st.none() | st.lists(st.binary(max_size=40), min_size=n, max_size=n))
    return Encoded(codec, header, parts, keys, encode(codec, header, parts, keys))


def of_records(items: Mapping[str, np.ndarray], keep: np.ndarray) -> dict[str, np.ndarray]:
    """The items of some records."""
    sizes = np.diff(items["ends"], prepend=0)
    whole = np.repeat(keep, sizes)
    kept = {name: column[whole] for name, column in items.items() if name != "ends"}
    return {"ends": np.cumsum(sizes[keep]), **kept}


def assert_items(got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray]) -> None:
    assert set(got) == set(want)
    for name, column in want.items():
        assert got[name].tolist() == column.tolist(), name


@given(case=encoded(), data=st.data())
@settings(max_examples=100)
def test_encode_then_decode_is_the_identity(case: Encoded, data: st.DataObject) -> None:
    absent = data.draw(st.sets(st.integers(0, len(case.values) - 1)))
    values = [None if i in absent else v for i, v in enumerate(case.values)]
    decoded = decode(case.codec, values, case.keys)
    present = np.array([i not in absent for i in range(len(values))])
    assert ((decoded.header["magic"] != 0) == present).all()
    for field in ("cut", "first_at", "last_at", "kept_from", "counter"):
        assert (decoded.header[field][present] == case.header[field][present]).all(), field
    for number, (section, wrote) in enumerate(zip(case.codec.sections, case.sections, strict=True)):
        kept = present[wrote.owner]
        assert np.diff(decoded.ends[number], prepend=0).tolist() == [
            int((wrote.owner[kept] == i).sum()) for i in range(len(values))
        ]
        places = decoded.places(number)
        for slot in section.items:
            got = decoded.items(number, slot, places, decoded.owners(number))
            assert_items(got, of_records(wrote.items[slot], kept))
        for name in section.places:
            if name in section.strings:
                assert decoded.text(section, number, name).tolist() == wrote.strings[name][kept].tolist()
            else:
                kind, column = section.places[name]
                want = wrote.rows[kind][kept][:, column]
                assert decoded.field(number, name, places).tobytes() == want.tobytes(), name
                assert decoded.rows[number][kind][:, column].tobytes() == want.tobytes(), name
        if section.bits:
            assert (decoded.rows[number]["null"] == wrote.rows["null"][kept]).all()


@given(case=encoded(), data=st.data())
def test_values_are_whole_words_and_do_not_depend_on_their_neighbours(
    case: Encoded, data: st.DataObject
) -> None:
    one = data.draw(st.integers(0, len(case.values) - 1))
    alone = [
        Records(
            np.zeros(int((r.owner == one).sum()), np.int64),
            r.rows[r.owner == one].copy(),
            {n: t[r.owner == one] for n, t in r.strings.items()},
            {slot: of_records(items, r.owner == one) for slot, items in r.items.items()},
        )
        for r in case.sections
    ]
    keys = None if case.keys is None else [case.keys[one]]
    assert encode(case.codec, case.header[one : one + 1], alone, keys) == [case.values[one]]
    assert all(len(v) % 8 == 0 for v in case.values)


@given(case=encoded(), data=st.data())
def test_bytes_that_are_cut_short_are_corrupt(case: Encoded, data: st.DataObject) -> None:
    """Cut anywhere before the strings; what is never silent is a value read from beyond its end."""
    whole = case.values[0]
    side = int(np.frombuffer(whole[:64], HEADER)["side"][0])
    if side <= 64:
        return
    cut = data.draw(st.integers(1, side - 1))
    keys = None if case.keys is None else case.keys[:1]
    if keys is not None and len(keys[0]) > cut - 64:
        return  # not even its key is there: another entity's value, as far as anybody can tell
    with pytest.raises(StoreCorrupt):
        decode(case.codec, [whole[:cut]], keys)


@given(case=encoded(), junk=st.binary(min_size=1, max_size=200))
def test_junk_is_corrupt(case: Encoded, junk: bytes) -> None:
    with pytest.raises(StoreCorrupt):
        decode(case.codec, [junk], None)
    with pytest.raises(StoreCorrupt):
        decode(case.codec, [case.values[0], junk], None)


@given(case=encoded())
def test_a_value_of_another_layout_is_corrupt(case: Encoded) -> None:
    other = Codec(case.codec.prefix, case.codec.plan ^ 1, case.codec.sections)
    with pytest.raises(StoreCorrupt, match="not of this view's layout"):
        decode(other, case.values, case.keys)


def test_nothing_decodes_to_nothing() -> None:
    codec = Codec(b"prefix7", 1, (_section("at", []),))
    for values in ([], [None], [None, None]):
        decoded = decode(codec, values, None)
        assert decoded.header["magic"].tolist() == [0] * len(values)
        assert [len(r) for r in decoded.rows] == [0]


# ---------------------------------------------------------------------------------------------------------------- keys


def view_of(*types: Any) -> View:
    names = [f"k{i}" for i in range(len(types))]
    source = Source("s", Location("parquet", "s.parquet"), tuple(zip(names, types, strict=True)))
    keys = tuple(Key(n, t, Column(n)) for n, t in zip(names, types, strict=True))
    return View("v", "e", keys, source, (Feature("k0", "latest", (Column("k0"),), (types[0],), types[0]),))


PARTS = {
    Int64: st.integers(-3, 3) | st.sampled_from([2**63 - 1, -(2**63)]),
    String: st.text(max_size=4) | st.sampled_from(["", "x" * RAW_KEY, "x" * (RAW_KEY + 1), "ü" * RAW_KEY]),
}
COMPOSITIONS = [(String,), (Int64,), (Int64, Int64), (String, String), (Int64, String), (Int64,) * 20]


@pytest.mark.parametrize("types", COMPOSITIONS, ids=str)
@given(data=st.data())
@settings(max_examples=60)
def test_different_entities_have_different_keys(types: tuple[Any, ...], data: st.DataObject) -> None:
    view = view_of(*types)
    entity = st.tuples(*(PARTS[t] for t in types))
    entities = data.draw(st.lists(entity, unique=True, min_size=1, max_size=8))
    columns = [
        np.array([e[i] for e in entities], object if t == String else np.int64) for i, t in enumerate(types)
    ]
    lead = codec_of(view, layout_of(view)).prefix + BASE
    ends, raw = entity_keys(view, columns, lead)
    assert len(set(ends)) == len(entities)
    assert len({key_bytes(view, e) for e in entities}) == len(entities)
    assert all(k.startswith(lead) and len(k) <= 511 for k in ends)
    assert raw is None or len(raw) == len(entities)
    alone = [entity_keys(view, [c[i : i + 1] for c in columns], lead)[0][0] for i in range(len(entities))]
    assert alone == ends


def test_several_leads_lie_side_by_side() -> None:
    view = view_of(String)
    both, _ = entity_keys(view, [np.array(["a", "b"], object)], b"12345678", b"abcdefgh")
    one, _ = entity_keys(view, [np.array(["a", "b"], object)], b"12345678")
    other, _ = entity_keys(view, [np.array(["a", "b"], object)], b"abcdefgh")
    assert both == [one[0], other[0], one[1], other[1]]
