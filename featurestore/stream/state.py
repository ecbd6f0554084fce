"""What a stream keeps of one view: whole tiles of each entity, the ids it has seen, what it set aside, and how far it read.

All of it changes in one transaction per micro-batch, on disk when that ends. Whatever happens, the next start goes on from
there: an event is in the tiles if and only if the position is past it. The values that the last transaction touched are
named in it, so that a start publishes them again.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from featurestore.errors import StreamConflict
from featurestore.ir import View, digest
from featurestore.online.codec import NEVER, Codec
from featurestore.online.lmdb import LmdbStore
from featurestore.online.store import COUNTER_OFFSET, HEADER_SIZE
from featurestore.stream.intake import bucket_of

ENTITY, SEEN, DEAD, HOLE, TOUCHED = b"e", b"s", b"d", b"h", b"t"

LIMIT = 1 << 40
"""The size that the state may grow to, in bytes. It is a bound of the address space, and takes no room by itself."""


@dataclass
class Meta:
    """The small part of a state. `positions` is how far each feed was read; times are microseconds.

    `cut` is where base ends, as far as the stream knows: what lies before was forgotten. Ids are remembered of events from
    `seen_from` on. `settled`: heads that others wrote are gone.

    `basis` is what the tiles were begun with: "" nothing yet, `log` nothing else, `batch` with what batch held from the cut
    to `batch_until`, `filling` while that goes on. `whole`: base and heads together hold all that ever was.
    """

    owner: str
    meaning: str
    positions: dict[str, Any] = field(default_factory=dict)
    clock: int = NEVER
    since: int | None = None
    cut: int = NEVER
    seen_from: int = NEVER
    batch: int = 0
    dead: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    settled: bool = False
    basis: str = ""
    batch_until: int = NEVER
    whole: bool = False
    identity: str = ""

    def to_bytes(self) -> bytes:
        return json.dumps({**vars(self), "counts": dict(self.counts)}).encode()

    @staticmethod
    def from_bytes(raw: bytes) -> Meta:
        read = json.loads(raw)
        return Meta(**{**read, "counts": Counter(read["counts"])})


@dataclass(frozen=True, slots=True)
class DeadEvent:
    """An event that was set aside: its number, where it lay, why, when (µs), and the event as it came.

    `table` has it as one row, if it had the shape of an event. `replayed` is where the log or topic ended before it may
    have been appended again, None if nobody tried.
    """

    number: int
    place: str
    reason: str
    at: int
    event: Mapping[str, Any]
    table: pa.Table | None = None
    replayed: Any = None

    def to_bytes(self) -> bytes:
        said: dict[str, Any] = {"place": self.place, "reason": self.reason, "at": self.at}
        said["replayed"] = self.replayed
        said["event"] = json.loads(json.dumps(self.event, default=str))
        if self.table is not None:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, self.table.schema) as writer:
                writer.write_table(self.table)
            said["row"] = base64.b64encode(sink.getvalue()).decode()
        return json.dumps(said).encode()

    @staticmethod
    def from_bytes(number: int, raw: bytes) -> DeadEvent:
        said = json.loads(raw)
        table = None
        if "row" in said:
            table = pa.ipc.open_stream(base64.b64decode(said["row"])).read_all()
        return DeadEvent(
            number, said["place"], said["reason"], said["at"], said["event"], table, said["replayed"]
        )


def meaning_of(view: View, events: str = "log") -> str:
    """Changes with whatever decides which events a stream applies, and is no part of what is stored; `events`: where they are."""
    source = view.source
    place = None if source.stream is None else [source.stream.kind, source.stream.path]
    elsewhere = [] if events == "log" else [events]
    return digest([source.name, place, source.lateness, source.arrival_time, source.event_id, *elsewhere])


def directory_of(root: Path, view: View, codec: Codec) -> Path:
    """Where the stream's state of a view lies; another layout of what is stored lies elsewhere."""
    return root / ".fs" / "stream" / f"{view.name}-{codec.prefix.hex()}"


class Shelf:
    """What was set aside of a view, and how far its stream is, for whoever asks while the stream runs or does not."""

    def __init__(self, directory: Path) -> None:
        self._store = LmdbStore(directory / "state", LIMIT)

    @classmethod
    def open(cls, directory: Path) -> Self | None:
        """None where no stream has been."""
        return cls(directory) if (directory / "state").is_dir() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store.close()

    def meta(self) -> Meta | None:
        """How far the stream is; None if it has not begun."""
        raw = self._store.get_meta("stream")
        return None if raw is None else Meta.from_bytes(raw)

    def dead(self) -> Iterator[DeadEvent]:
        """The events set aside, the oldest first."""
        for key, raw in self._store.scan(DEAD):
            yield DeadEvent.from_bytes(int.from_bytes(key[1:], "big"), raw)

    def keep(self, dead: DeadEvent) -> None:
        """Writes an event that was set aside over what was said of it before."""
        self._store.write([(_dead_key(dead.number), dead.to_bytes())])

    def forget(self, number: int) -> None:
        """Forgets an event that was set aside."""
        self._store.delete([_dead_key(number)])

    def erase(self, key: bytes, dead: Sequence[int]) -> int:
        """Forgets an entity, and events that were set aside; how many entities there were. For whoever holds the state."""
        raw = self._store.read([TOUCHED])[0]
        if raw is not None and key in (touched := list(_parts(raw))):
            self._store.write([(TOUCHED, _joined(k for k in touched if k != key))])
        found = sum(value is not None for value in self._store.read([ENTITY + key]))
        self._store.delete([ENTITY + key, *map(_dead_key, dead)])
        return found


def _dead_key(number: int) -> bytes:
    return DEAD + number.to_bytes(8, "big")


def _hole_key(start: int, reason: str) -> bytes:
    return HOLE + (start + (1 << 63)).to_bytes(8, "big") + reason.encode()


class State:
    """The state of one view's stream in a directory. One process at a time may hold it.

    `holes` counts the events that were left out, by the start of the range of time they belong to, and reason.
    """

    def __init__(self, directory: Path, view: View, events: str = "log", *, fresh: bool = False) -> None:
        """Raises StreamConflict when another process holds it. `fresh` forgets what there is, and so does another meaning."""
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = lock_state(directory, view)
        self._store = LmdbStore(directory / "state", LIMIT)
        raw = self._store.get_meta("stream")
        found = None if raw is None else Meta.from_bytes(raw)
        self.replaced = None if found is None else found.owner
        meaning = meaning_of(view, events)
        self.holes: Counter[tuple[int, str]] = Counter()
        if fresh or found is None or found.meaning != meaning:
            self.begin(meaning)
            return
        self.meta, self.replaced = found, None
        for key, raw in self._store.scan(HOLE):
            self.holes[int.from_bytes(key[1:9], "big") - (1 << 63), key[9:].decode()] = int(raw)

    def begin(self, meaning: str) -> None:
        """Forgets everything, and goes on under another name: what was published before is somebody else's."""
        self._store.delete_prefix(b"")
        self.holes.clear()
        self.meta = Meta(uuid.uuid4().hex, meaning)
        self._store.set_metas({"stream": self.meta.to_bytes()})

    def close(self) -> None:
        self._store.close()
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ── reading

    def values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each entity, None of one that is new."""
        return self._store.read([ENTITY + k for k in keys])

    def remembered(self, marks: Sequence[bytes]) -> list[bytes | None]:
        """What was remembered under each mark."""
        return self._store.read([SEEN + m for m in marks])

    def touched(self) -> list[bytes]:
        """The entities of the last transaction that had any."""
        raw = self._store.read([TOUCHED])[0]
        return [] if raw is None else list(_parts(raw))

    def entities(self, size: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """Every entity with its value, `size` at a time."""
        rows = iter(self._store.scan(ENTITY))
        while page := [(k[1:], v) for k, v in islice(rows, size)]:
            yield page

    # ── writing

    def commit(
        self,
        meta: Meta,
        entities: Sequence[tuple[bytes, bytes]] = (),
        seen: Sequence[tuple[bytes, bytes]] = (),
        dead: Sequence[DeadEvent] = (),
        holes: Mapping[tuple[int, str], int] | None = None,
    ) -> None:
        """All of it, or nothing. It is on disk when this returns. `holes` are events more that were left out."""
        more = {place: self.holes[place] + rows for place, rows in (holes or {}).items()}
        items = [(ENTITY + k, v) for k, v in entities]
        if entities:
            items.append((TOUCHED, _joined(k for k, _ in entities)))
        items += [(SEEN + k, v) for k, v in seen]
        items += [(_dead_key(d.number), d.to_bytes()) for d in dead]
        items += [(_hole_key(start, reason), b"%d" % rows) for (start, reason), rows in more.items()]
        self._store.write(items, {"stream": meta.to_bytes()})
        self.meta = meta
        self.holes.update({place: rows - self.holes[place] for place, rows in more.items()})

    def forget_seen(self, before: int, most: int = 4) -> None:
        """Forgets ids of events of before `before`, a few stretches of time at a time."""
        for _ in range(most):
            first = next(iter(self._store.scan(SEEN)), None)
            if first is None or first[0][1:6] >= bucket_of(before):
                return
            self._store.delete_prefix(first[0][:6])


def counter_of(value: bytes | None) -> int | None:
    """The write counter of a value, None of none."""
    return None if value is None else int.from_bytes(value[COUNTER_OFFSET:HEADER_SIZE], "little")


def lock_state(directory: Path, view: View) -> int:
    """The right to change a state, as a file to close. Raises StreamConflict when another has it."""
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(fd, 32).decode() or "unknown"
        os.close(fd)
        raise StreamConflict(
            f"view '{view.name}' has a stream already, in process {holder}\n"
            "  one process feeds a view; `fs stream status` shows how far it is"
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd


def _joined(keys: Iterable[bytes]) -> bytes:
    return b"".join(len(k).to_bytes(2, "little") + k for k in keys)


def _parts(raw: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 2], "little")
        yield raw[at + 2 : at + 2 + size]
        at += 2 + size
