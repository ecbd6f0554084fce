"""Erasing from what a stream keeps: an order lies in the state's folder until it was carried out.

Only the process that feeds a view may change its state. Whoever erases puts an order there, and takes the state over if no
stream has it; else the stream finds the order within a second, or when it starts, before it publishes anything. An order
holds the key, as the state itself does, and goes when it is carried out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from featurestore.compile.erased import of_key
from featurestore.compile.sources import connect
from featurestore.errors import SourceError, StreamConflict
from featurestore.expr import Column
from featurestore.ir import View
from featurestore.log.eventlog import replace_file
from featurestore.online.codec import HEAD, Codec, entity_keys
from featurestore.online.store import OnlineStore
from featurestore.stream.state import DeadEvent, Shelf, lock_state

_ORDER, _DONE = "erase-", ".done"


@dataclass(frozen=True, slots=True)
class Order:
    """To erase the entity of a key once the stream knows the tombstone `number`. `parts` are those of the view's key."""

    folder: Path
    number: int
    parts: tuple[int | str, ...]

    @property
    def path(self) -> Path:
        return self.folder / f"{_ORDER}{self.number}.json"

    @property
    def outcome(self) -> Path:
        return self.folder / f"{_ORDER}{self.number}{_DONE}"

    def place(self) -> None:
        """Puts it where the stream looks. It is on disk then."""
        replace_file(self.path, [json.dumps(self.parts).encode()])

    def taken(self) -> Forgotten | None:
        """What a stream forgot, once it has carried the order out."""
        try:
            forgotten = Forgotten(**json.loads(self.outcome.read_bytes()))
        except FileNotFoundError:
            return None
        self.outcome.unlink(missing_ok=True)
        return forgotten


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How many entities, dead letters and heads were there."""

    states: int = 0
    dead: int = 0
    heads: int = 0


def orders(folder: Path) -> list[Order]:
    """The orders that wait in a state's folder, the oldest first."""
    found = []
    for name in os.listdir(folder):  # noqa: PTH208 (once a second; no Path for each name)
        number = name.removeprefix(_ORDER).removesuffix(".json")
        if name == f"{_ORDER}{number}.json" and number.isdecimal():
            parts = json.loads((folder / name).read_bytes())
            found.append(Order(folder, int(number), tuple(parts)))
    return sorted(found, key=lambda order: order.number)


def carry_out(order: Order, view: View, codec: Codec, online: OnlineStore) -> Forgotten:
    """Forgets an entity: its head, then its state and dead letters. For whoever holds the state.

    Killed in the middle, it is carried out again, as the order stays until the end.
    """
    keys, _ = entity_keys(view, [[part] for part in order.parts])
    heads = online.delete([codec.prefix + HEAD + keys[0]])
    with Shelf(order.folder) as shelf:
        dead = [d.number for d in _of(view, order.parts, list(shelf.dead()))]
        states = shelf.erase(keys[0], dead)
    forgotten = Forgotten(states, len(dead), heads)
    replace_file(order.outcome, [json.dumps(asdict(forgotten)).encode()])
    order.path.unlink(missing_ok=True)
    return forgotten


def carry_out_alone(order: Order, view: View, codec: Codec, online: OnlineStore) -> Forgotten | None:
    """Carries an order out where no stream has the state; None where one has."""
    with suppress(StreamConflict):
        fd = lock_state(order.folder, view)
        try:
            if order.path.exists():
                carry_out(order, view, codec, online)
            return order.taken() or Forgotten()
        finally:
            os.close(fd)
    return None


def held(folder: Path, view: View) -> bool:
    """Whether a stream has the state now."""
    with suppress(StreamConflict):
        os.close(lock_state(folder, view))
        return False
    return True


def _of(view: View, parts: Sequence[int | str], dead: Sequence[DeadEvent]) -> list[DeadEvent]:
    """The dead letters of an entity. One that has not the shape of an event goes by its key columns, as texts."""
    shapes: dict[str, list[DeadEvent]] = {}
    for letter in dead:
        shapes.setdefault("" if letter.table is None else str(letter.table.schema), []).append(letter)
    found = []
    with connect() as con:
        for shape, letters in shapes.items():
            try:
                tables = [d.table for d in letters if d.table is not None]
                same = of_key(con, view, pa.concat_tables(tables), parts).tolist() if shape else None
            except SourceError:  # it came before the source had these columns
                same = None
            if same is None:
                same = [_named(view, letter.event) == [str(part) for part in parts] for letter in letters]
            found += [letter for letter, mine in zip(letters, same, strict=True) if mine]
    return found


def _named(view: View, event: Mapping[str, Any]) -> list[str]:
    """The key that an event names, where it is made of plain columns."""
    return [str(event.get(k.value.name)) for k in view.keys if isinstance(k.value, Column)]
