"""How far the writers of a view have put its topics into the online store: kept in the store itself, beside what they wrote.

A store that loses its newest writes loses the newest positions with them, so what a position says was applied is there. Each
bears a number of its own, and is replaced only over the one its writer has seen: of two who hold one partition for theirs,
and after a store stepped back, one is told so (see `docs/decisions`).
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from featurestore.online.codec import Codec
from featurestore.online.store import OnlineStore

POSITION = b"w"
"""What the keys of positions have where those of values have `BASE` or `HEAD`."""

TILES, LETTERS = b"t", b"d"

KINDS = (TILES, LETTERS)
"""The topics that a writer reads."""

OWNER = "flink "
"""What the owner of a stream that writers feed begins with; then comes the name that Kafka gives to the tile topic."""

T = TypeVar("T")

_MAGIC = b"FSP1\0\0\0\0"


@dataclass(frozen=True)
class Position:
    """A partition of a topic as far as it is in the store: everything before `offset`. Times are UTC microseconds.

    `topic` is the name that Kafka gives to the topic itself, so that one made anew is told apart; `end` where the partition
    ended when its writer last looked; `at` when that was, `applied_at` when something was last written. `writer` says which
    process it is, `erasures` which tombstones it knows and `store` how the store called itself. `counts` are those of all
    writers so far; `holes` count what was left out, by the start of its range of time and the reason.
    """

    topic: str
    offset: int
    end: int = 0
    at: int = 0
    applied_at: int = 0
    writer: str = ""
    erasures: int = 0
    store: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    holes: Counter[tuple[int, str]] = field(default_factory=Counter)
    number: int = -1
    """What `Positions.save` compares; -1 of one that is not in the store."""

    @property
    def lag(self) -> int:
        return max(self.end - self.offset, 0)

    def to_bytes(self) -> bytes:
        said = {k: v for k, v in vars(self).items() if k != "number"}
        said["holes"] = [[start, reason, rows] for (start, reason), rows in self.holes.items()]
        return _MAGIC + self.number.to_bytes(8, "little") + json.dumps(said).encode()

    @staticmethod
    def from_bytes(raw: bytes) -> Position:
        said = json.loads(raw[16:])
        said["counts"] = Counter(said["counts"])
        said["holes"] = Counter({(start, reason): rows for start, reason, rows in said["holes"]})
        return Position(**said, number=int.from_bytes(raw[8:16], "little"))


class Positions:
    """The positions of one view's topics."""

    def __init__(self, store: OnlineStore, codec: Codec) -> None:
        self._store, self._prefix = store, codec.prefix + POSITION

    def load(self, kind: bytes, partitions: Sequence[int]) -> dict[int, Position]:
        """Those that are there."""
        values = self._store.read([self._key(kind, p) for p in partitions])
        return {p: Position.from_bytes(v) for p, v in zip(partitions, values, strict=True) if v is not None}

    def every(self, kind: bytes) -> dict[int, Position]:
        """All of a topic, by partition."""
        lead = self._prefix + kind
        return {
            int.from_bytes(key[len(lead) :], "big"): Position.from_bytes(value)
            for key, value in self._store.scan(lead)
        }

    def save(
        self, kind: bytes, moved: Mapping[int, Position], before: Mapping[int, Position]
    ) -> dict[int, Position | None]:
        """Puts positions over those that were there before; what is there now, None where another writer put its own."""
        named = {p: replace(m, number=secrets.randbits(63)) for p, m in moved.items()}
        items = [(self._key(kind, p), m.to_bytes()) for p, m in named.items()]
        expected = [None if before[p].number < 0 else before[p].number for p in named]
        done = self._store.replace(items, expected)
        return {p: m if ok else None for (p, m), ok in zip(named.items(), done, strict=True)}

    def forget(self) -> None:
        """Forgets all of them: the topics are read again from their beginning."""
        self._store.delete_prefix(self._prefix)

    def _key(self, kind: bytes, partition: int) -> bytes:
        return self._prefix + kind + partition.to_bytes(4, "big")


def in_order(store: OnlineStore) -> bool:
    """Whether a store that loses writes loses the newest ones. The servers of a cluster lose each their own."""
    from featurestore.online.redis_cluster import ClusterStore

    return not isinstance(store, ClusterStore)


def summed(counts: Iterable[Mapping[T, int]]) -> Counter[T]:
    """Counts of all partitions together."""
    total: Counter[T] = Counter()
    for one in counts:
        total.update(one)
    return total


__all__ = ["KINDS", "LETTERS", "OWNER", "POSITION", "TILES", "Position", "Positions", "in_order", "summed"]
