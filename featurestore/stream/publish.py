"""Heads of the online store, made of a stream's state: only their one owner writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from featurestore.errors import StreamError
from featurestore.evaluate.partials import Array
from featurestore.online.codec import HEAD, Codec, Decoded, Records, Section, decode, encode, written_by
from featurestore.online.store import OnlineStore
from featurestore.stream.state import counter_of

KEYS = 10_000
"""Heads removed at a time."""

TRIES = 10


@dataclass(frozen=True)
class Heads:
    """Entities to publish: keys, what hashed ones stand for, headers, records, and the counters of what was there before."""

    keys: Sequence[bytes]
    hashed: Sequence[bytes] | None
    header: Array
    sections: Sequence[Records]
    before: Sequence[int | None]


class Publisher:
    """Writes heads: `codec` is the state's, `plain` that of readers, `run` stands in the headers of the stream's own."""

    def __init__(self, store: OnlineStore, codec: Codec, plain: Codec, run: int) -> None:
        self._store, self._codec, self._plain, self._run = store, codec, plain, run

    def records(self, decoded: Decoded) -> list[Records]:
        """The records of decoded values, section by section, to be changed."""
        out = []
        for number, section in enumerate(self._codec.sections):
            owner = decoded.owners(number)
            strings = {name: decoded.text(section, number, name) for name in section.strings}
            items = {}
            if section.items:
                places = decoded.places(number)
                items = {slot: decoded.items(number, slot, places, owner) for slot in section.items}
            out.append(Records(owner, decoded.rows[number], strings, items))
        return out

    def publish(self, heads: Heads) -> None:
        """Writes heads over those whose counters are the ones before, and looks again at the others."""
        plain = [
            _plain(section, mine, records)
            for section, mine, records in zip(
                self._codec.sections, self._plain.sections, heads.sections, strict=True
            )
        ]
        values = encode(self._plain, heads.header, plain, heads.hashed)
        lead = self._plain.prefix + HEAD
        items = [(lead + key, value) for key, value in zip(heads.keys, values, strict=True)]
        expected = list(heads.before)
        for _ in range(TRIES):
            done = self._store.replace(items, expected)
            left = [item for item, ok in zip(items, done, strict=True) if not ok]
            if not left:
                return
            there = self._store.read([key for key, _ in left])
            # One that is there already came from an earlier try; any other is a leftover, or a store's loss.
            items, expected = [], []
            for item, old in zip(left, there, strict=True):
                if not self._newer(old, item[1]):
                    items.append(item)
                    expected.append(counter_of(old))
            if not items:
                return
        raise StreamError(
            f"{len(items)} heads change under the stream that owns them\n  does another stream write to the same store?"
        )

    def again(self, keys: Sequence[bytes], values: Sequence[bytes | None]) -> None:
        """Publishes entities anew from their values in the state."""
        some = [(k, v) for k, v in zip(keys, values, strict=True) if v is not None]
        if not some:
            return None
        decoded = decode(self._codec, [v for _, v in some], None)
        hashed = None
        if decoded.header["key"].any():
            sizes = decoded.header["key"].tolist()
            hashed = [v[64 : 64 + size] for (_, v), size in zip(some, sizes, strict=True)]
        mine = [k for k, _ in some]
        lead = self._plain.prefix + HEAD
        there = self._store.read([lead + k for k in mine])
        stale = [
            i
            for i, (old, value) in enumerate(zip(there, (v for _, v in some), strict=True))
            if not self._newer(old, value)
        ]
        if len(stale) < len(mine):
            return self.again([mine[i] for i in stale], [some[i][1] for i in stale]) if stale else None
        self.publish(Heads(mine, hashed, decoded.header, self.records(decoded), list(map(counter_of, there))))
        return None

    def remove_others(self) -> None:
        """Removes heads that this stream did not write."""
        gone: list[bytes] = []
        for key, value in self._store.scan(self._plain.prefix + HEAD):
            if written_by(value) != self._run:
                gone.append(key)
            if len(gone) == KEYS:
                self._store.delete(gone)
                gone = []
        self._store.delete(gone)

    def _newer(self, there: bytes | None, mine: bytes) -> bool:
        """Whether a stored value is this stream's own, and no older than `mine`."""
        if there is None or written_by(there) != self._run:
            return False
        old, new = counter_of(there), counter_of(mine)
        return old is not None and new is not None and old >= new


def _plain(section: Section, plain: Section, records: Records) -> Records:
    """Records without the places that only a merge asks for."""
    if section.dtype == plain.dtype and not section.items:
        return records
    rows = np.zeros(len(records.rows), plain.dtype)
    for name in ("tile", "at", "null"):
        if name in (plain.dtype.names or ()):
            rows[name] = records.rows[name]
    for name, (kind, column) in plain.places.items():
        held, place = section.places[name]
        rows[kind][:, column] = records.rows[held][:, place]
    strings = {name: records.strings[name] for name in plain.strings}
    items: Mapping[str, Mapping[str, Array]] = {
        slot: {
            name: column
            for name, column in columns.items()
            if name == "ends" or f"{slot}_{name}" in plain.items[slot].places
        }
        for slot, columns in records.items.items()
    }
    return Records(records.owner, rows, strings, items)
