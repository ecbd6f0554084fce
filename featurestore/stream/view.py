"""The stream of one view: a micro-batch is judged, made into tiles by the SQL that batch uses, merged, kept, and published."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.compile.duckdb import DUCKDB
from featurestore.compile.events import EventColumns
from featurestore.compile.newest import newest_sql
from featurestore.compile.sources import Connection, at_rest, connect, source_sql
from featurestore.compile.sql import ident
from featurestore.compile.tiles import tile_events_sql, tiles_sql
from featurestore.config import Config
from featurestore.erasures import Erasures
from featurestore.errors import StreamConflict
from featurestore.evaluate.partials import Array
from featurestore.ir import Location, View
from featurestore.layout import Level, layout_of
from featurestore.ledger import Hole
from featurestore.log.events import arrow_schema
from featurestore.online.codec import HEADER, NEVER, Records, codec_of, decode, encode, entity_keys
from featurestore.online.state import StreamState, load_states, load_stream, stream_name
from featurestore.online.store import OnlineStore
from featurestore.online_records import key_columns, latest_records, owners, tile_items, tile_rows
from featurestore.stream.erasing import carry_out, orders
from featurestore.stream.feeds import Feed, feeds_of, in_topic
from featurestore.stream.intake import ARRIVED, Intake, Judged
from featurestore.stream.merge import merge_latest, merge_tiles, take
from featurestore.stream.publish import Heads, Publisher
from featurestore.stream.state import DeadEvent, Meta, State, counter_of, directory_of
from featurestore.stream.taken import Taken
from featurestore.time import SECOND, floor

ROWS = 1 << 17
"""Events of one micro-batch, at most."""

SAID_SECONDS = 0.5
"""How often a stream says how far it is."""

LOOKED_SECONDS = 1.0
"""How often a stream looks for a new base, and at whether the online store is still the one it wrote to."""

ACCEPTED = "accepted"

Step = Callable[[str], None]
"""Told the name of each step when it is done: a test may stop there."""


class ViewStream:
    """One view's stream. `advance` takes what is there, a micro-batch at a time; between calls nothing is half done."""

    def __init__(
        self,
        config: Config,
        view: View,
        online: OnlineStore,
        *,
        fresh: bool = False,
        take_over: bool = False,
        whole: bool = False,
        erased: Erasures | None = None,
        report: Callable[[View, Sequence[Hole]], None] | None = None,
        step: Step = lambda _: None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """Raises StreamConflict when another stream feeds the view; `take_over` says that it is gone for good.

        `whole` says that the log holds all events that there ever were. `erased` are the tombstones to begin with; `tell` says
        which have come since.
        """
        self.view, self._online, self._clock, self._step, self._report = view, online, clock, step, report
        self._whole, self._root = whole, config.root
        self._erasures = Erasures() if erased is None else erased
        self.layout = layout_of(view)
        self._codec = codec_of(view, self.layout, placed=True)
        self._plain = codec_of(view, self.layout)
        where = "kafka" if in_topic(config, view.source) else "log"
        self._state = State(directory_of(config.root, view, self._codec), view, where, fresh=fresh)
        try:
            self._own(take_over=take_over or fresh)
            self._feeds: list[Feed] = feeds_of(config, view.source)
            self._con: Connection = connect(config.memory_limit, config.threads, config.offline / "spill")
            self._prepare(config)
        except BaseException:
            self._state.close()
            raise
        self._publisher = Publisher(online, self._codec, self._plain, self._run)
        self._said_at = self._looked_at = self._ordered_at = -1e9
        self._unpublished = True

    @property
    def meta(self) -> Meta:
        """How far the stream is."""
        return self._state.meta

    @property
    def _run(self) -> int:
        """What stands in a head's header to say whose it is."""
        return int(self.meta.owner[:8], 16)

    def close(self) -> None:
        """Lets go of files. What was taken is kept and published."""
        for feed in self._feeds:
            feed.close()
        self._con.close()
        self._state.close()

    def wait(self, seconds: float) -> None:
        """Waits until something may have come, for at most so long."""
        self._feeds[0].wait(self.meta.positions.get(self._feeds[0].name), seconds)

    def lag(self) -> int | None:
        """How many events wait, as far as that is known."""
        lags = [feed.lag(self.meta.positions.get(feed.name)) for feed in self._feeds]
        known = [lag for lag in lags if lag is not None]
        return sum(known) if known else None

    # ── what happens

    def tell(self, erased: Erasures) -> None:
        """Says which entities are erased now: from here on what comes of them is left out."""
        self._erasures = erased
        self._judge_by(erased)

    def advance(self) -> int:
        """Takes what is there, at most one micro-batch of each feed; the number of events that came."""
        self._forget_erased()
        if self.meta.basis in ("", "filling"):
            self._begin()
        if self._unpublished:
            self._publish_again()
        self._look()
        came = 0
        for feed in self._feeds:
            taken = feed.read(self.meta.positions.get(feed.name), self._clock(), ROWS)
            if taken is not None:
                self._step("taken")
                came += self._apply(feed, taken)
        if not came:
            self._rest()
        if not self.meta.settled and came < ROWS:
            self._settle_heads()
        self._say(now=False)
        return came

    def settle(self) -> None:
        """Ends: publishes what was not, and says how far the stream is."""
        if self._unpublished:
            self._publish_again()
        self._say(now=True)

    def _apply(self, feed: Feed | None, taken: Taken) -> int:
        """One micro-batch of a feed; of None, of batch."""
        now = self._clock()
        read = {} if feed is None else {feed.name: taken.position}
        meta = replace(self.meta, positions={**self.meta.positions, **read})
        meta.counts = meta.counts.copy()
        meta.batch += 1
        self._hold(ARRIVED, taken.table)
        judged = self._intake.judge(
            taken, now, meta.cut, meta.seen_from, meta.batch_until, self._state.remembered
        )
        dead = self._dead(meta, taken, judged, now) if feed is not None else []
        meta.counts.update(judged.counts if feed is not None else {"from_batch": judged.counts["applied"]})
        meta.counts["malformed"] += len(taken.dead)
        meta.counts["skipped"] += taken.skipped
        meta.counts["tombstone"] += taken.tombstones
        if judged.clock is not None and feed is not None:
            meta.clock = max(meta.clock, judged.clock)
        if judged.since is not None and feed is not None:
            meta.since = judged.since if meta.since is None else min(meta.since, judged.since)
        accepted = taken.table if judged.kept.all() else taken.table.filter(pa.array(judged.kept))
        if len(accepted):
            self._hold(ACCEPTED, accepted)
            merged = self._merged(meta)
            values = encode(self._codec, merged.header, merged.sections, merged.hashed)
            self._step("merged")
            self._unpublished = True
            entities = list(zip(merged.keys, values, strict=True))
            self._state.commit(meta, entities, judged.seen, dead, judged.holes)
            self._step("committed")
            if meta.settled:
                self._publisher.publish(merged)
                self._step("published")
            self._unpublished = False
        else:
            self._state.commit(meta, (), judged.seen, dead, judged.holes)
            self._step("committed")
        self._tell_holes(judged.holes)
        return len(taken.table) + len(taken.dead) + taken.tombstones

    def _begin(self) -> None:
        """Begins with what batch holds from the cut of its base on: that was in heads which are this stream's now.

        Killed in between, it begins anew: files may be others by then.
        """
        view, con = self.view, self._con
        if self.meta.basis == "filling":
            self._state.begin(self.meta.meaning)
            self._own(take_over=True)
            self._publisher = Publisher(self._online, self._codec, self._plain, self._run)
            self._unpublished = True
        base = load_states(self._online, {"": self._plain}).get("")
        if base is None:
            self._state.commit(replace(self.meta, basis="log"))
            return
        self._state.commit(replace(self.meta, basis="filling", cut=base.cut))
        self._step("filling")
        until = NEVER
        if at_rest(view.source, self._root):
            time_column = ident(view.source.event_time or "", DUCKDB)
            rows = source_sql(con, view.source, list(view.source.schema), self._root)
            now = f"{time_column} < make_timestamp({self._clock()})"
            taken = con.cursor()  # the programs of a micro-batch run on the connection itself meanwhile
            taken.execute("SET TimeZone = 'UTC'")
            newest = f"SELECT epoch_us(max({time_column})) AS t FROM ({rows}) WHERE {now}"  # noqa: S608
            found = taken.sql(newest).to_arrow_table().column("t")[0].as_py()
            until = NEVER if found is None else int(found)
            since = f"{time_column} >= make_timestamp({base.cut})"
            reader = taken.sql(f"SELECT * FROM ({rows}) WHERE {now} AND {since}").to_arrow_reader(ROWS)  # noqa: S608
            schema = arrow_schema(view.source.schema)
            for batch in reader:
                table = pa.Table.from_batches([batch]).cast(schema)
                self._apply(None, Taken(table, None, ["batch"] * len(table), (), None, batch=True))
        whole = self._feeds[0].whole()
        self._state.commit(replace(self.meta, basis="batch", batch_until=until, whole=whole))
        self._step("filled")

    def _merged(self, meta: Meta) -> Heads:
        """The entities of the accepted events, as they are now."""
        newest = self._con.sql(self._newest).to_arrow_table()
        columns = key_columns(self.view, newest)
        keys, hashed = entity_keys(self.view, columns)
        before = self._state.values(keys)
        decoded = decode(self._codec, before, hashed)
        old = decoded.header
        header = np.zeros(len(keys), HEADER)
        new = old["magic"] == 0
        first, last = (newest.column(c).to_numpy() for c in ("first_at", "last_at"))
        header["first_at"] = np.where(new, first, np.minimum(old["first_at"], first))
        header["last_at"] = np.where(new, last, np.maximum(old["last_at"], last))
        header["counter"], header["run"] = old["counter"] + 1, self._run
        header["cut"], header["kept_from"] = max(meta.clock, meta.cut), NEVER
        there = self._publisher.records(decoded)
        sections = []
        for number, (level, sql) in enumerate(zip(self.layout.levels, self._tiles, strict=True)):
            section = self._codec.sections[number]
            merged = merge_tiles(
                level, section, there[number], self._tile_records(number, level, sql, columns)
            )
            sections.append(self._remaining(level, merged, meta))
        latest = latest_records(self.layout, self._codec.sections[-1], newest)
        latest = merge_latest(self._codec.sections[-1], there[-1], latest)
        sections.append(_of(latest, latest.rows["at"] >= meta.cut) if self.layout.latest else latest)
        return Heads(keys, hashed, header, sections, list(map(counter_of, before)))

    def _tile_records(self, number: int, level: Level, sql: str, columns: Sequence[Array]) -> Records:
        section = self._codec.sections[number]
        table = self._con.sql(sql).to_arrow_table()
        who = owners(self.view, table, columns)
        rows, strings = tile_rows(level, section, table)
        if number not in self._events:
            return Records(who, rows, strings)
        events_sql, names = self._events[number]
        events = self._con.sql(events_sql).to_arrow_table()
        whose = owners(self.view, events, columns)
        items = tile_items(self.view, level, names, NEVER, events, whose, who, rows["tile"])
        return Records(who, rows, strings, items)

    def _remaining(self, level: Level, records: Records, meta: Meta) -> Records:
        """The tiles that base has not taken over and that a window still reaches."""
        least = meta.cut
        if level.reach is not None and not level.lifetime and meta.clock != NEVER:
            least = max(least, floor(meta.clock, level.hop) - level.reach)
        return _of(records, records.rows["tile"] >= least)

    def _dead(self, meta: Meta, taken: Taken, judged: Judged, now: int) -> list[DeadEvent]:
        dead: list[DeadEvent] = []
        for place, letter in taken.dead:
            dead.append(DeadEvent(meta.dead + len(dead), place, letter.reason, now, letter.event))
        for place, reason, row in judged.dead:
            one = taken.table.slice(row, 1).combine_chunks()
            dead.append(DeadEvent(meta.dead + len(dead), place, reason, now, one.to_pylist()[0], one))
        meta.dead += len(dead)
        return dead

    def sql_only(self, batches: Iterable[pa.Table]) -> float:
        """The seconds that the programs alone take over micro-batches, of which nothing is kept: a floor to measure against."""
        began = time.perf_counter()
        for batch in batches:
            self._hold(ACCEPTED, batch)
            for sql in (self._newest, *self._tiles, *(sql for sql, _ in self._events.values())):
                self._con.sql(sql).to_arrow_table()
        return time.perf_counter() - began

    def _forget_erased(self) -> None:
        """Carries out orders to erase, looked for once in a while: before anything is published, and after `tell`."""
        now = time.monotonic()
        if now - self._ordered_at < LOOKED_SECONDS:
            return
        found = orders(self._state.directory)
        known = [order for order in found if order.number <= self._erasures.number]
        for order in known:
            carry_out(order, self.view, self._plain, self._online)
            self._step("erased")
        self._ordered_at = now if known == found else -1e9

    # ── publishing

    def _publish_again(self) -> None:
        """Publishes what the last transaction touched, and everything if the online store lost what it held."""
        meta = self.meta
        if meta.settled:
            identity = self._online.identity()
            if meta.identity != identity:
                self._publish_all()
                self._state.commit(replace(meta, identity=identity))
                self._step("rebuilt")
            else:
                keys = self._state.touched()
                self._publisher.again(keys, self._state.values(keys))
        self._tell_holes(self._state.holes)
        self._unpublished = False

    def _publish_all(self) -> None:
        for page in self._state.entities(10_000):
            self._publisher.again([k for k, _ in page], [v for _, v in page])

    def _settle_heads(self) -> None:
        """The first publication, when the stream has caught up: until then what was there before is right as of its moment.

        Heads that others wrote, and that this stream has no events for, go.
        """
        identity = self._online.identity()
        self._publish_all()
        self._step("published")
        self._publisher.remove_others()
        self._state.commit(replace(self.meta, settled=True, identity=identity))
        self._step("settled")

    def _look(self) -> None:
        """Looks, once in a while, for a base that has taken over, and whether the online store is still the same."""
        now = time.monotonic()
        if now - self._looked_at < LOOKED_SECONDS:
            return
        self._looked_at = now
        if self.meta.settled and self._online.identity() != self.meta.identity:
            self._publish_again()
            self._said_at = -1e9
        base = load_states(self._online, {"": self._plain}).get("")
        if base is not None and self.meta.basis == "log" and self._feeds[0].whole():
            # The first base: what batch holds behind its cut is in no head yet.
            self._state.commit(replace(self.meta, basis="filling"))
            self._begin()
        elif base is not None and base.cut > self.meta.cut:
            self._state.commit(replace(self.meta, cut=base.cut))
        seen_from = self.meta.clock - self._intake.retention
        if self.view.source.event_id is not None and seen_from > self.meta.seen_from + 10 * SECOND:
            self._state.commit(replace(self.meta, seen_from=seen_from))
            self._state.forget_seen(seen_from)

    def _rest(self) -> None:
        """Nothing came: everything that arrived until a moment ago was read."""
        meta = self.meta
        source = self.view.source
        if source.arrival_time is None and (source.stream is None or source.stream.kind != "files"):
            meta = replace(meta, clock=max(meta.clock, self._clock() - SECOND))
        self._state.meta = meta

    def _say(self, *, now: bool) -> None:
        if not self.meta.settled or (not now and time.monotonic() - self._said_at < SAID_SECONDS):
            return
        self._said_at = time.monotonic()
        meta = self.meta
        at = self._clock()
        said = StreamState(meta.owner, meta.clock, self._since(at), at)
        self._online.set_metas({stream_name(self._plain): said.to_bytes()})
        self._step("said")

    def _tell_holes(self, places: Iterable[tuple[int, str]]) -> None:
        """Reports holes with the number of events left out so far; what was said before does no harm."""
        holes = [
            Hole(*self._intake.hole(start), reason, self._state.holes[start, reason])
            for start, reason in places
        ]
        if self._report is not None and holes:
            self._report(self.view, holes)

    def _own(self, *, take_over: bool) -> None:
        """Says in the online store that this stream owns the view's heads. Raises StreamConflict if another does."""
        found = load_stream(self._online, self._plain)
        mine = {self.meta.owner, self._state.replaced}
        if found is not None and found.owner not in mine and not take_over:
            ago = (self._clock() - found.updated_at) / SECOND
            raise StreamConflict(
                f"view '{self.view.name}' is fed by another stream, which last said so {ago:,.0f} seconds ago\n"
                "  stop it; or, if it is gone for good, run this one with --take-over"
            )
        at = self._clock()
        # Until the stream has caught up, what is read is what was there before.
        since = self._since(at)
        if not self.meta.settled:
            base = load_states(self._online, {"": self._plain})
            since = found.since if found is not None else None if base else since
        clock = self.meta.clock if found is None else max(self.meta.clock, found.clock)
        said = StreamState(self.meta.owner, clock, since, at)
        self._online.set_metas({stream_name(self._plain): said.to_bytes()})

    def _since(self, now: int) -> int | None:
        """From when on the heads are complete: what happened before the log's first event arrived may be in none of it."""
        if self._whole or self.meta.whole:
            return None
        return now if self.meta.since is None else self.meta.since

    # ── programs

    def _prepare(self, config: Config) -> None:
        """The SQL of every micro-batch: it is the same each time."""
        view, root = self.view, config.root
        none = arrow_schema(view.source.schema).empty_table()
        self._hold(ARRIVED, none)
        self._hold(ACCEPTED, none)
        self._judge_by(self._erasures)
        accepted = _over(view, ACCEPTED)
        self._newest = newest_sql(self._con, accepted, self.layout.latest, root, settled=True)
        self._tiles = [
            tiles_sql(self._con, accepted, level, root, settled=True) for level in self.layout.levels
        ]
        self._events: dict[int, tuple[str, Any]] = {}
        for number, level in enumerate(self.layout.levels):
            if any(slot.ragged for slot in level.slots):
                columns = EventColumns(accepted)
                sql = tile_events_sql(self._con, accepted, level, root, columns, settled=True)
                self._events[number] = sql, columns.names

    def _judge_by(self, erased: Erasures) -> None:
        self._intake = Intake(self._con, _over(erased.honoured(self.view), ARRIVED), self._root)

    def _hold(self, name: str, table: pa.Table) -> None:
        self._con.register(name, table)


def _over(view: View, name: str) -> View:
    """The view over rows that the connection holds."""
    return replace(view, source=replace(view.source, location=Location("table", name)))


def _of(records: Records, kept: Array) -> Records:
    return records if kept.all() else take(records, np.flatnonzero(kept))
