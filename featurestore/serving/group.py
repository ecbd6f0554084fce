"""A service resolved against layouts: which views, which keys, which columns of which records, decided once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from featurestore.evaluate.partials import Array
from featurestore.ir import Feature, Read, View
from featurestore.layout import Layout, layout_of
from featurestore.online.codec import BASE, HEAD, Codec, codec_of, whole_numbers


@dataclass(frozen=True)
class Table:
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
class Kind:
    """Features of one level that differ by their window alone: they are merged and finished together.

    `windows` says for each which of the level's sizes its window has, `feature` is any of them.
    """

    feature: Feature
    features: tuple[Feature, ...]
    parts: Mapping[str, str]
    windows: Array
    places: Array


@dataclass(frozen=True)
class Group:
    """One view looked up by one set of columns: what is read of it and where that goes."""

    view: View
    layout: Layout
    codec: Codec
    columns: tuple[str, ...]
    places: Array
    tables: tuple[Table, ...]
    windowed: tuple[tuple[int, Feature], ...]
    sizes: Mapping[int, tuple[int | None, ...]]
    """Of each level the sizes of windows that are read, the longest first; None is a lifetime."""
    kinds: Mapping[int, tuple[Kind, ...]]
    fields: Mapping[tuple[int, str], tuple[tuple[str, str], ...]]
    heads: bool
    numbers: bool

    @cached_property
    def leads(self) -> tuple[bytes, ...]:
        """What the store keys of an entity begin with."""
        return tuple(self.codec.prefix + role for role in ((BASE, HEAD) if self.heads else (BASE,)))


def groups_of(reads: Sequence[Read], views: Mapping[str, View], place: Mapping[str, int]) -> list[Group]:
    """The reads by view and lookup. `place` is where each output goes."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], list[tuple[int, Feature]]] = {}
    for read in reads:
        feature = views[read.view].feature(read.feature)
        found.setdefault((read.view, read.keys), []).append((place[read.output], feature))
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
        kinds = _kinds(layout, windowed)
        groups.append(
            Group(
                view, layout, codec, ordered, places, tables, windowed, *kinds, _fields(layout), heads,
                whole_numbers(view),
            )
        )  # fmt: skip
    return groups


def _kinds(
    layout: Layout, windowed: Sequence[tuple[int, Feature]]
) -> tuple[dict[int, tuple[int | None, ...]], dict[int, tuple[Kind, ...]]]:
    """The sizes and the kinds of features of each level that is read."""
    sizes: dict[int, tuple[int | None, ...]] = {}
    kinds: dict[int, tuple[Kind, ...]] = {}
    for number, level in enumerate(layout.levels):
        mine = [(i, f, f.window) for i, f in windowed if f.window is not None and f.window.hop == level.hop]
        if not mine:
            continue
        distinct = {w.size for _, _, w in mine}
        sizes[number] = tuple(sorted(distinct, key=lambda size: -math.inf if size is None else -size))
        alike: dict[Feature, list[tuple[int, Feature, int | None]]] = {}
        for i, f, w in mine:
            alike.setdefault(replace(f, name="", window=None), []).append((i, f, w.size))
        kinds[number] = tuple(
            Kind(
                some[0][1],
                tuple(f for _, f, _ in some),
                layout.parts[some[0][1].name],
                np.array([sizes[number].index(size) for _, _, size in some]),
                np.array([i for i, _, _ in some]),
            )
            for some in alike.values()
        )
    return sizes, kinds


def _fields(layout: Layout) -> dict[tuple[int, str], tuple[tuple[str, str], ...]]:
    """For each slot of each level its fields, and what they are called in a record."""
    return {
        (number, slot.name): tuple((f.name, f"{slot.name}_{f.name}") for f in slot.fields)
        for number, level in enumerate(layout.levels)
        for slot in level.slots
    }


def _tables(layout: Layout, codec: Codec, features: Sequence[tuple[int, Feature]]) -> tuple[Table, ...]:
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
        tables.append(Table(kind, columns, bits // 64, shifts, full, places, tuple(f for _, f in mine), text))
    return tuple(tables)
