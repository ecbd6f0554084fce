"""The partitions that a writer holds: how far each is in the store, and what is to be said of it next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from featurestore.stream.positions import TILES, Position

Place = tuple[bytes, int]
"""Which topic, and which of its partitions."""


class Held:
    """For one thread; another may ask whether a partition is held."""

    def __init__(self) -> None:
        self._stored: dict[Place, Position] = {}
        self._moved: dict[Place, Position] = {}
        self._ended: set[Place] = set()

    def __contains__(self, place: Place) -> bool:
        return place in self._stored

    def __bool__(self) -> bool:
        return bool(self._stored)

    def numbers(self, kind: bytes) -> list[int]:
        """The partitions of a topic that are held."""
        return [n for k, n in self._stored if k == kind]

    def offsets(self) -> dict[Place, int]:
        """Up to where each is in the store."""
        return {place: position.offset for place, position in self._stored.items()}

    def begin(self, place: Place, position: Position) -> None:
        """Holds one from now on; `position` says where it is read from, and which one in the store that replaces."""
        self._stored[place] = self._moved[place] = position
        self._ended.discard(place)

    def drop(self, place: Place) -> None:
        """It went to another writer."""
        self._stored.pop(place, None)
        self._moved.pop(place, None)
        self._ended.discard(place)

    def move(
        self,
        place: Place,
        offset: int,
        counts: Counter[str],
        applied_at: int,
        holes: Counter[tuple[int, str]] | None = None,
    ) -> None:
        """Everything before `offset` is in the store. One that went to another writer meanwhile is that one's to say."""
        if place not in self._stored:
            return
        was = self._moved.get(place, self._stored[place])
        self._ended.discard(place)
        self._moved[place] = replace(
            was,
            offset=offset,
            end=max(was.end, offset),
            applied_at=applied_at,
            counts=was.counts + counts,
            holes=was.holes + holes if holes else was.holes,
        )

    def end(self, place: Place, offset: int) -> None:
        """The partition ends here, for now."""
        if place not in self._stored:
            return
        was = self._moved.get(place, self._stored[place])
        if offset >= was.offset:
            self._ended.add(place)
            self._moved[place] = replace(was, offset=offset, end=offset)

    @property
    def at_the_end(self) -> bool:
        """Whether all of them were read to their end."""
        return bool(self.numbers(TILES)) and self._ended >= self._stored.keys()

    @property
    def quiet(self) -> bool:
        """Whether nothing was put in since it was last said."""
        return all(p.offset == self._stored[place].offset for place, p in self._moved.items())

    def to_say(self, kind: bytes) -> tuple[Mapping[int, Position], Mapping[int, Position]]:
        """Of a topic's partitions what is to be said, and what it replaces."""
        before = {n: p for (k, n), p in self._stored.items() if k == kind}
        return {n: self._moved.get((kind, n), p) for n, p in before.items()}, before

    def said(self, kind: bytes, done: Mapping[int, Position | None]) -> Sequence[int]:
        """What is in the store now; gives the partitions of which another was there."""
        for number, position in done.items():
            if position is not None:
                self._stored[kind, number] = position
                self._moved.pop((kind, number), None)
        return [number for number, position in done.items() if position is None]


__all__ = ["Held", "Place"]
