"""What an online store says of a view as a whole, among its metas: the range of time it is complete for, its cut, its run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from featurestore.online.codec import Codec
from featurestore.online.store import OnlineStore


@dataclass(frozen=True, slots=True)
class ViewState:
    """What the store says of a view as a whole: complete from `start` (None is the beginning) to `end`."""

    start: int | None
    end: int
    cut: int
    entities: int
    run: int
    """Counts the materialisations of the view; its values bear the number of the one that wrote them."""

    def to_bytes(self) -> bytes:
        return json.dumps([self.start, self.end, self.cut, self.entities, self.run]).encode()

    @staticmethod
    def from_bytes(raw: bytes) -> ViewState:
        return ViewState(*json.loads(raw))


def state_name(codec: Codec) -> str:
    """The name under which a view's state lies among the store's metas."""
    return f"view:{codec.prefix.hex()}"


def runs_name(codec: Codec) -> str:
    """The name under which the number of the last run lies, finished or not."""
    return f"run:{codec.prefix.hex()}"


def load_states(store: OnlineStore, codecs: Mapping[str, Codec]) -> dict[str, ViewState]:
    """The state of each materialised view, by name."""
    raw = {name: store.get_meta(state_name(codec)) for name, codec in codecs.items()}
    return {name: ViewState.from_bytes(r) for name, r in raw.items() if r is not None}


@dataclass(frozen=True, slots=True)
class StreamState:
    """What the store says of the stream that owns a view's heads. Times are UTC microseconds.

    Events that arrive from now on arrived at `clock` or later; the heads are complete for what happened from `since` on;
    `updated_at` is when the stream last said so, by its own clock. `owner` is the stream's own name.
    """

    owner: str
    clock: int
    since: int
    updated_at: int

    def to_bytes(self) -> bytes:
        return json.dumps([self.owner, self.clock, self.since, self.updated_at]).encode()

    @staticmethod
    def from_bytes(raw: bytes) -> StreamState:
        return StreamState(*json.loads(raw))


def stream_name(codec: Codec) -> str:
    """The name under which the state of a view's stream lies among the store's metas."""
    return f"stream:{codec.prefix.hex()}"


def load_stream(store: OnlineStore, codec: Codec) -> StreamState | None:
    """The state of the stream that owns a view's heads, None where none does."""
    raw = store.get_meta(stream_name(codec))
    return None if raw is None else StreamState.from_bytes(raw)
