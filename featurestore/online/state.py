"""What an online store says of a view as a whole, among its metas: the range of time it is complete for, its cut, its run.

Materialisation writes the `ViewState`; a stream that owns the view's head writes the `StreamState`.
"""

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


@dataclass(frozen=True, slots=True)
class StreamState:
    """What the stream that owns a view's head says of itself; instants in microseconds.

    `clock` is up to where what arrived was applied, `since` from where on its head is complete (None: from the beginning),
    `updated_at` when it said so, by its own clock.
    """

    owner: str
    clock: int
    since: int | None
    updated_at: int

    def to_bytes(self) -> bytes:
        return json.dumps([self.owner, self.clock, self.since, self.updated_at]).encode()

    @staticmethod
    def from_bytes(raw: bytes) -> StreamState:
        return StreamState(*json.loads(raw))


@dataclass(frozen=True, slots=True)
class Complete:
    """The range of event time that base and head together are complete for; `start` None is the beginning."""

    start: int | None
    end: int


def state_name(codec: Codec) -> str:
    """The name under which a view's state lies among the store's metas."""
    return f"view:{codec.prefix.hex()}"


def runs_name(codec: Codec) -> str:
    """The name under which the number of the last run lies, finished or not."""
    return f"run:{codec.prefix.hex()}"


def stream_name(codec: Codec) -> str:
    """The name under which the state of the stream that owns a view's head lies."""
    return f"stream:{codec.prefix.hex()}"


def load_stream(store: OnlineStore, codec: Codec) -> StreamState | None:
    """The state of the stream that owns a view's head; None where materialisation writes the head as well."""
    raw = store.get_meta(stream_name(codec))
    return None if raw is None else StreamState.from_bytes(raw)


def complete(state: ViewState | None, stream: StreamState | None) -> Complete | None:
    """What base and head hold together; None where neither was ever written."""
    if stream is None:
        return None if state is None else Complete(state.start, state.end)
    if state is None:
        return Complete(stream.since, stream.clock)
    # Where the base ends before the head is complete, there is a gap, and only what comes after it counts.
    whole = stream.since is None or state.cut >= stream.since
    start = state.start if whole else stream.since
    return Complete(start, max(state.end, stream.clock))


def load_complete(store: OnlineStore, codecs: Mapping[str, Codec]) -> dict[str, Complete]:
    """What the store holds of each view, by name; views that were never written are left out."""
    states = load_states(store, codecs)
    found = {name: complete(states.get(name), load_stream(store, codec)) for name, codec in codecs.items()}
    return {name: range_ for name, range_ in found.items() if range_ is not None}


def load_states(store: OnlineStore, codecs: Mapping[str, Codec]) -> dict[str, ViewState]:
    """The state of each materialised view, by name."""
    raw = {name: store.get_meta(state_name(codec)) for name, codec in codecs.items()}
    return {name: ViewState.from_bytes(r) for name, r in raw.items() if r is not None}
