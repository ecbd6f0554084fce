"""Erasure: one entity taken out of everything that the store keeps, and a receipt of what was done and what was not.

The tombstone comes first: from there on no event of before it counts, whoever reads. Then streams are told, what is stored is
deleted, and logs are rewritten. Killed anywhere, the same erasure asked for again finishes it; asked for twice, it is harmless.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from featurestore import profiles, recipes
from featurestore.capture.log import CaptureLog
from featurestore.compile.erased import of_key
from featurestore.compile.sources import Connection, connect
from featurestore.config import Config
from featurestore.erase_captured import erase_captured
from featurestore.erasures import Deleted, Receipt, Stays, bury, keep
from featurestore.errors import AlreadyRunning, CaptureError, LogError, NotFound, RequestError, SourceError
from featurestore.evaluate.partials import Array, Mask
from featurestore.ir import Entity, Plan, Source, View
from featurestore.layout import layout_of
from featurestore.ledger import Ledger
from featurestore.log.eventlog import APPENDED_AT, BAD_SUFFIX, OFFSET
from featurestore.online.codec import BASE, HEAD, Codec, codec_of, entity_keys
from featurestore.online.state import load_states, load_stream, state_name
from featurestore.online.store import OnlineStore
from featurestore.registry import Registry
from featurestore.stream.erasing import Forgotten, Order, carry_out_alone, held
from featurestore.stream.feeds import LogFeed, log_directory, open_log
from featurestore.stream.intake import retention_of
from featurestore.stream.positions import OWNER, TILES, Positions
from featurestore.stream.state import Shelf, directory_of
from featurestore.types import is_integer
from featurestore.validation.admitting import put_aside
from featurestore.validation.keep import folder

PATIENCE_SECONDS = 30.0
"""How long an erasure waits for a stream that runs, or for somebody who is writing a view."""

WRITER_SECONDS = 15.0
"""A writer that was silent for longer is taken to have ended: it learns of erasures before it goes on."""

_AGAIN = "run the same erasure again"


def erase(
    config: Config,
    registry: Registry,
    ledger: Ledger,
    online: OnlineStore,
    entity: str,
    key: Mapping[str, int | str],
    *,
    who: str,
    reason: str = "",
    now: int,
    patience: float = PATIENCE_SECONDS,
    step: Callable[[str], None] = lambda _: None,
) -> Receipt:
    """Erases an entity as of `now` (µs) from all views it ever had here, and keeps a receipt.

    `step` is told what was just done. Raises NotFound for an unknown entity or join key, RequestError for a key that is not
    whole or of a wrong type; then nothing was done. What the registry, a store or a log raises ends it in the middle.
    """
    plans = plans_of(registry)
    found = entity_of(plans, entity)
    whole = _checked(found, key)
    views = _views(plans, found, whole)
    receipt = bury(registry, entity, whole, at=now, who=who, reason=reason)
    step("tombstone")
    work = _Work(config, ledger, online, receipt, step, time.monotonic() + patience)
    names = readers_of(plans, [kept.view.name for kept in views])
    work.statistics(names)
    work.streams(views)
    for kept in views:
        work.values(kept)
    work.logs(registry.current().plan, views)
    work.captured(registry, whole)
    work.put_aside(views)
    work.statistics(names)  # again: a refresh in between has read what was there before
    done = replace(
        receipt,
        done=not work.waits,
        deleted=tuple(work.deleted),
        stays=(*_stays(config, receipt, plans, views), *_stale(config, names)),
        waits=tuple(work.waits),
    )
    keep(registry, done)
    step("receipt")
    return done


@dataclass(frozen=True)
class _Kept:
    """A view that the entity has, or had: where its values lie, and the key as the view has it."""

    view: View
    codec: Codec
    parts: tuple[int | str, ...]

    @property
    def keys(self) -> list[bytes]:
        """The store keys of base and head."""
        lead = self.codec.prefix
        columns = [np.array([part], np.int64 if isinstance(part, int) else object) for part in self.parts]
        return entity_keys(self.view, columns, lead + BASE, lead + HEAD)[0]


@dataclass
class _InLog:
    """Which rows of a log are of the entity, and of before it was erased, by time or arrival; those from `limit` on stay.

    `unread` counts them. Rows are of the entity by any of the keys that its views make of them.
    """

    con: Connection
    kept: Sequence[_Kept]
    erased_at: int
    limit: int | None
    unread: int = 0

    def __call__(self, table: pa.Table) -> Mask:
        source = self.kept[0].view.source
        assert source.event_time is not None
        times = table.column(source.event_time).cast(pa.int64())
        appended = table.column(APPENDED_AT).cast(pa.int64())
        before = pc.fill_null(pc.less(times, self.erased_at), fill_value=True)
        old = pc.or_(pc.less(appended, self.erased_at), before)
        gone = np.zeros(len(table), np.bool_)
        for one in self.kept:
            gone |= of_key(self.con, one.view, table, one.parts)
        gone &= np.asarray(old)
        if self.limit is not None:
            unread = gone & (table.column(OFFSET).to_numpy() >= self.limit)
            self.unread += int(unread.sum())
            gone &= ~unread
        return gone


@dataclass
class _Work:
    """What was done of an erasure so far, and what waits. `deadline` is by the monotonic clock."""

    config: Config
    ledger: Ledger
    online: OnlineStore
    receipt: Receipt
    step: Callable[[str], None]
    deadline: float
    deleted: list[Deleted] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    streamed: list[_Kept] = field(default_factory=list)

    def streams(self, views: Sequence[_Kept]) -> None:
        """Has streams forget the entity: those that run do it themselves."""
        told = []
        for kept in views:
            folder = directory_of(self.config.root, kept.view, kept.codec)
            here = _owner(folder)
            if here is not None:
                order = Order(folder, self.receipt.number, kept.parts)
                order.place()
                told.append((kept, order))
            said = load_stream(self.online, kept.codec)
            if said is not None and said.owner.startswith(OWNER):
                self._writers(kept)
            elif said is not None and said.owner != here:
                self.waits.append(
                    f"the stream of view '{kept.view.name}' keeps its state in another folder, or on another machine; "
                    f"{_AGAIN} there"
                )
        self.step("told")
        for kept, order in told:
            forgotten = self._forgotten(kept, order)
            name = kept.view.name
            if forgotten is None:
                self.waits.append(f"the stream of view '{name}' has not forgotten it yet; {_AGAIN}")
                continue
            self.streamed.append(kept)
            self._deleted(f"view {name}", "stream state", forgotten.states)
            self._deleted(f"view {name}", "dead letters", forgotten.dead)
            self._deleted(f"view {name}", "online values", forgotten.heads)
        self.step("forgotten")

    def _writers(self, kept: _Kept) -> None:
        """Waits until the writers of a Flink job's tiles know the tombstone: what they put in from then on is without it."""
        positions = Positions(self.online, kept.codec)
        while True:
            now = time.time_ns() // 1000
            running = [p for p in positions.every(TILES).values() if now - p.at < WRITER_SECONDS * 1e6]
            if all(p.erasures >= self.receipt.number for p in running):
                return
            if time.monotonic() > self.deadline:
                self.waits.append(f"the writers of view '{kept.view.name}' do not know of it yet; {_AGAIN}")
                return
            time.sleep(0.1)

    def _forgotten(self, kept: _Kept, order: Order) -> Forgotten | None:
        while True:
            done = order.taken() or carry_out_alone(order, kept.view, kept.codec, self.online)
            if done is not None or time.monotonic() > self.deadline:
                return done
            time.sleep(0.05)

    def values(self, kept: _Kept) -> None:
        """Deletes base and head, while nobody writes the view. A head that a stream owns is the stream's to delete."""
        view = kept.view
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(self.ledger.lease(view, self.receipt.who))
                    break
                except AlreadyRunning as error:
                    if time.monotonic() > self.deadline:
                        self.waits.append(f"{str(error).splitlines()[0]}; {_AGAIN} when it has ended")
                        return
                    time.sleep(0.2)
            base, head = kept.keys
            count = self.online.delete([base] if kept in self.streamed else [base, head])
            self.step("deleted")
            state = load_states(self.online, {"": kept.codec}).get("")
            if count and state is not None:
                fewer = replace(state, entities=max(0, state.entities - 1))
                self.online.set_metas({state_name(kept.codec): fewer.to_bytes()})
        self._deleted(f"view {view.name}", "online values", count)

    def logs(self, plan: Plan, views: Sequence[_Kept]) -> None:
        """Takes the entity's rows out of the local logs of its sources, once streams of other entities have read them."""
        for source, mine in _by_source(views).items():
            if not log_directory(self.config, source).is_dir():
                continue
            others = [
                v for v in plan.views if v.source.name == source.name and v.entity != self.receipt.entity
            ]
            count = 0
            try:
                with connect() as con, open_log(self.config, source) as log:
                    while True:
                        limit, slow, running = self._read_up_to(others)
                        found = _InLog(con, mine, self.receipt.erased_at, limit)
                        count += log.erase(found)
                        if not found.unread or not running or time.monotonic() > self.deadline:
                            break
                        time.sleep(0.2)
            except LogError as error:
                self.waits.append(f"the log of source '{source.name}': {error}; then {_AGAIN}")
                continue
            self._deleted(f"log of {source.name}", "events", count)
            if found.unread:
                self.waits.append(
                    f"{found.unread} events in the log of source '{source.name}' are new to the stream of view '{slow}'; "
                    f"{_AGAIN} when it has read them"
                )
            self.step("log")

    def captured(self, registry: Registry, key: Mapping[str, int | str]) -> None:
        """Takes what was served of the entity out of the capture log, and what came back of it."""
        log = CaptureLog(self.config.capture)
        if not log.services():
            return
        # What other processes served just before the tombstone is on disk a moment later.
        time.sleep(2 * self.config.capture_linger_ms / 1000)
        try:
            rows, returned = erase_captured(
                log, registry.services(), self.receipt.entity, key, self.receipt.erased_at, self._touched
            )
        except (LogError, CaptureError) as error:
            self.waits.append(f"the capture log: {error}; then {_AGAIN}")
            return
        self._deleted("capture log", "rows that were served", rows)
        self._deleted("capture log", "predictions and labels", returned)
        self.step("captured")

    def statistics(self, names: Sequence[str]) -> None:
        """Marks kept statistics that rows of the entity may be counted in: those of served rows are marked as these go."""
        profiles.mark(self.config, names, ("training", "materialized", "stream"), self._why)
        self.step("marked")

    @property
    def _why(self) -> str:
        return f"erasure {self.receipt.id}"

    def _touched(self, service: str, moments: Array) -> None:
        profiles.mark(self.config, [service], ("served",), self._why, moments=moments)

    def put_aside(self, views: Sequence[_Kept]) -> None:
        """Takes its rows out of those that expectations put aside."""
        for source in {kept.view.source.name: kept.view.source for kept in views}.values():
            path = put_aside(self.config, source.name)
            if not path.exists():
                continue
            table = pq.read_table(path)
            gone = np.zeros(len(table), np.bool_)
            try:
                with connect() as con:
                    for kept in views:
                        if kept.view.source.name == source.name:
                            gone |= of_key(con, kept.view, table, kept.parts)
            except SourceError as error:  # put aside when the source had other columns
                self.waits.append(f"rows put aside in {path}: {error}\n  remove the file; then {_AGAIN}")
                continue
            if gone.any():
                partial = path.with_suffix(".tmp")
                pq.write_table(table.filter(pa.array(~gone)), partial)
                partial.replace(path)
            self._deleted(f"rows put aside of {source.name}", "rows", int(gone.sum()))
        self.step("put aside")

    def _read_up_to(self, views: Sequence[View]) -> tuple[int | None, str, bool]:
        """The offset that streams of views have all read to (None: no stream), the slowest view, and if that one runs."""
        least: int | None = None
        slow, running = "", False
        for view in views:
            folder = directory_of(self.config.root, view, codec_of(view, layout_of(view)))
            shelf = Shelf.open(folder)
            if shelf is None:
                continue
            with shelf:
                meta = shelf.meta()
            read = 0 if meta is None else int(meta.positions.get(LogFeed.name, 0))
            if least is None or read < least:
                least, slow, running = read, view.name, held(folder, view)
        return least, slow, running

    def _deleted(self, place: str, what: str, count: int) -> None:
        if not count:
            return
        for i, known in enumerate(self.deleted):
            if (known.place, known.what) == (place, what):
                self.deleted[i] = replace(known, count=known.count + count)
                return
        self.deleted.append(Deleted(place, what, count))


# --- what there is ---------------------------------------------------------------------------------


def plans_of(registry: Registry) -> list[Plan]:
    """Every plan that was ever applied, the newest first: what an older one wrote may still be stored."""
    return [registry.revision(summary.number).plan for summary in registry.history()]


def readers_of(plans: Sequence[Plan], views: Sequence[str]) -> list[str]:
    """Views, and the services that ever read one of them."""
    services = (s for plan in plans for s in plan.services)
    return list(dict.fromkeys([*views, *(s.name for s in services if any(r.view in views for r in s.reads))]))


def entity_of(plans: Sequence[Plan], name: str) -> Entity:
    """The newest entity of a name. Raises NotFound."""
    known: dict[str, Entity] = {}
    for plan in plans:
        for entity in plan.entities:
            known.setdefault(entity.name, entity)
    if name not in known:
        raise NotFound("entity", name, known, "what was ever applied")
    return known[name]


def _checked(entity: Entity, key: Mapping[str, int | str]) -> dict[str, int | str]:
    """The key in the order of the entity's join keys. Raises NotFound and RequestError."""
    names = [name for name, _ in entity.keys]
    for name in key:
        if name not in names:
            raise NotFound("join key", name, names, f"entity '{entity.name}'")
    whole: dict[str, int | str] = {}
    for name, dtype in entity.keys:
        if name not in key:
            wanted = " ".join(f"{n}=…" for n in names)
            raise RequestError(f"join key '{name}' is missing\n  entity '{entity.name}' has {wanted}")
        value = key[name]
        number = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not (number if is_integer(dtype) else isinstance(value, str)):
            raise RequestError(f"join key '{name}' is {dtype}, and {value!r} is not")
        if number and not -(1 << 63) <= int(value) < 1 << 63:
            raise RequestError(f"join key '{name}' is {dtype}, and {value!r} does not fit")
        whole[name] = int(value) if number else str(value)
    return whole


def _views(plans: Sequence[Plan], entity: Entity, key: Mapping[str, int | str]) -> list[_Kept]:
    """The views that the entity ever had, by where their values lie, the newest first."""
    found: dict[tuple[str, bytes], _Kept] = {}
    for view in (v for plan in plans for v in plan.views if v.entity == entity.name):
        parts = _parts(view, key)
        codec = codec_of(view, layout_of(view))
        if parts is not None:
            found.setdefault((view.name, codec.prefix), _Kept(view, codec, parts))
    return list(found.values())


def _parts(view: View, key: Mapping[str, int | str]) -> tuple[int | str, ...] | None:
    """The key as a view has it; None where the entity had other keys then, or the value was none."""
    if {k.name for k in view.keys} != key.keys():
        return None
    parts: list[int | str] = []
    for k in view.keys:
        value = key[k.name]
        if is_integer(k.dtype):
            if not str(value).removeprefix("-").isdecimal():
                return None
            value = int(value)
        parts.append(value if is_integer(k.dtype) else str(value))
    return tuple(parts)


def _by_source(views: Sequence[_Kept]) -> dict[Source, list[_Kept]]:
    """The views of each stream source, under its newest definition; one for each way to make a key of an event."""
    newest: dict[str, Source] = {}
    found: dict[Source, list[_Kept]] = {}
    for kept in views:
        source = kept.view.source
        if source.stream is None:
            continue
        newest.setdefault(source.name, source)
        known = found.setdefault(newest[source.name], [])
        same = [k.value for k in kept.view.keys]
        if source == newest[source.name] and same not in [[k.value for k in o.view.keys] for o in known]:
            known.append(kept)
    return found


def _owner(folder: Path) -> str | None:
    """Who owns the state in a folder; None where no stream has been."""
    shelf = Shelf.open(folder)
    if shelf is None:
        return None
    with shelf:
        meta = shelf.meta()
        return "" if meta is None else meta.owner


def _stays(
    config: Config, receipt: Receipt, plans: Sequence[Plan], views: Sequence[_Kept]
) -> Iterator[Stays]:
    """What is not deleted: for how long it stays, or whose it is to delete."""
    sources = {kept.view.source.name: kept.view.source for kept in reversed(views)}
    for source in sources.values():
        place = source.location
        yield Stays(f"source {source.name}", f"its rows in {place.kind} {place.path}: left out", yours=True)
        if source.stream is not None:
            wire = f"its events in {source.stream.kind} {source.stream.path}: left out"
            yield Stays(f"source {source.name}", wire, yours=True)
        for bad in sorted(log_directory(config, source).glob(f"*{BAD_SUFFIX}")):
            yield Stays(f"log of {source.name}", f"damaged bytes, set aside in {bad.name}", yours=True)
    for kept in views:
        topic = kept.view.source.stream
        if topic is not None and topic.kind == "kafka":
            what = "tiles and dead letters in topics of a Flink job, if it has one: left out, until the topics' retention"
            yield Stays(f"view {kept.view.name}", what, yours=True)
        if (
            kept.view.source.event_id is not None
            and directory_of(config.root, kept.view, kept.codec).is_dir()
        ):
            until = receipt.erased_at + retention_of(kept.view)
            what = "digests of the ids of its events, until the stream has passed this"
            yield Stays(f"view {kept.view.name}", what, until)
    for bad in sorted(config.capture.rglob(f"*{BAD_SUFFIX}")):
        yield Stays("capture log", f"damaged bytes, set aside in {bad.name}", yours=True)
    if config.capture_sink == "kafka":
        yield Stays("captured rows", f"in topic {config.capture_topic}", yours=True)
    kind = config.online_url.partition("://")[0]
    if kind == "lmdb":
        yield Stays("online store", "freed pages, until they are written over")
    else:
        yield Stays(
            "online store", "copies: replicas until they follow, append-only and snapshot files", yours=True
        )
    if any(s.on_unavailable == "last_known" for plan in plans for s in plan.services):
        what = "the memory of processes that serve last known values, until they read the key again or end"
        yield Stays("servers", what, yours=True)
    yield Stays("training sets", "written before: their rows, and the values in them", yours=True)
    yield Stays("scalers", "fitted before: what was counted in them, see `fs doctor`", yours=True)


def _stale(config: Config, names: Sequence[str]) -> Iterator[Stays]:
    """The kept statistics that it is still counted in, and what takes it out of them."""
    for name in names:
        for origin, marked in profiles.stale(config, name).items():
            known = origin == "served" or recipes.read(profiles.path_of(config, name, origin)).whole
            by = (
                f"until the next `fs monitor run` or `fs stats {name} --refresh`"
                if known
                else "until they are made again: what they were made of is not known"
            )
            yield Stays(
                f"statistics of {name}", f"{len(marked)} partitions of {origin} rows, {by}", yours=not known
            )
    if folder(config).is_dir():
        yield Stays(
            "validations", "kept before: values that are shown as examples of what failed", yours=True
        )
    yield Stays("other entities", "values that its events are counted in")


__all__ = ["PATIENCE_SECONDS", "entity_of", "erase", "plans_of"]
