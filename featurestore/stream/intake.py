"""What becomes of each event that arrives: applied, or left out for a reason that every replay finds again.

Late is what the record itself says (`arrival - event_time > lateness`), never when it happened to be read. What is left out
is counted; what cannot be of use to anybody as it is becomes a dead letter; and where events were left out that batch will
count, there is a hole, which the next materialisation mends.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.compile.duckdb import DUCKDB
from featurestore.compile.erased import digest_sql
from featurestore.compile.events import key_names
from featurestore.compile.sources import Connection, source_sql
from featurestore.compile.sql import expr_sql, ident
from featurestore.evaluate.arrow import to_physical
from featurestore.evaluate.partials import Array, Mask
from featurestore.expr.literals import MAX_TIMESTAMP, MIN_TIMESTAMP
from featurestore.ir import View
from featurestore.layout import layout_of
from featurestore.online.codec import entity_keys
from featurestore.stream.expected import Expected
from featurestore.stream.feeds import arrivals
from featurestore.stream.taken import Taken
from featurestore.time import DAY, HOUR, MINUTE, SECOND
from featurestore.types import Bool, Int64

ARRIVED = "arrived"
"""The name under which a connection holds the events of a micro-batch."""

SKEW = 5 * MINUTE
"""How far an event may be stamped after it arrived: clocks differ. Beyond it, it is from the future."""

BUCKET = 10 * SECOND
"""Ids of events are remembered, and forgotten, by so much of event time."""


def retention_of(view: View) -> int:
    """For how long ids of events are remembered, in microseconds of event time behind the stream's clock."""
    assert view.source.lateness is not None
    return view.source.lateness + (10 * MINUTE if view.source.arrival_time is None else DAY)


@dataclass
class Judged:
    """A micro-batch, judged. `kept` says which events are applied; `holes` counts those left out by where they belong.

    `dead` is the place, reason and row of each event set aside; `seen` what to remember of ids; `clock` the greatest arrival,
    `since` the least (both None of no events).
    """

    kept: Mask
    counts: Counter[str] = field(default_factory=Counter)
    holes: Counter[tuple[int, str]] = field(default_factory=Counter)
    dead: list[tuple[str, str, int]] = field(default_factory=list)
    seen: list[tuple[bytes, bytes]] = field(default_factory=list)
    clock: int | None = None
    since: int | None = None


class Intake:
    """Judges the events of one view's micro-batches, which a connection holds as `ARRIVED`."""

    def __init__(self, con: Connection, view: View, root: Path) -> None:
        """`view` is over the location `ARRIVED`, which holds the source's columns, at least one batch without rows."""
        source = view.source
        assert source.event_time is not None
        assert source.lateness is not None
        self._con, self._view = con, view
        self.lateness = source.lateness
        grid = layout_of(view).grid
        self._span = -(-HOUR // grid) * grid
        self.retention = retention_of(view)
        self._identified = source.event_id is not None
        schema = source.schema
        compared = sorted({*view.reads, *source.tiebreak})
        wanted = {*compared, source.event_time}
        select = [f"{expr_sql(k.value, schema, DUCKDB)} AS k{i}" for i, k in enumerate(view.keys)]
        select.append(f"epoch_us({ident(source.event_time, DUCKDB)}) AS t")
        if source.arrival_time is not None:
            wanted.add(source.arrival_time)
            select.append(f"epoch_us({ident(source.arrival_time, DUCKDB)}) AS a")
        if view.filter is not None:
            select.append(f"{expr_sql(view.filter, schema, DUCKDB)} AS kept")
        if source.event_id is not None:
            wanted.add(source.event_id)
            columns = ", ".join(ident(c, DUCKDB) for c in compared)
            select.append(f"CAST({ident(source.event_id, DUCKDB)} AS VARCHAR) AS id")
            select.append(f"hash(ROW({columns})) AS content")
        if view.erased is not None:
            select.append(f"{digest_sql(view, view.erased.salt)} AS digest")
        self._expected = Expected(view.source.name, source.expectations)
        if self._expected:
            wanted.update(schema)  # a condition in SQL may read any column
            select += self._expected.select(schema)
        events = source_sql(con, source, sorted(wanted), root)
        self._sql = f"SELECT {', '.join(select)} FROM ({events})"  # noqa: S608

    def judge(
        self,
        taken: Taken,
        now: int,
        cut: int,
        seen_from: int,
        batch_until: int,
        remembered: Callable[[Sequence[bytes]], Sequence[bytes | None]],
    ) -> Judged:
        """Judges what was taken. `cut` is where base ends, `seen_from` from when on ids are remembered, by `remembered`.

        Events of up to `batch_until` were taken from batch when the stream began: those with an id are known by it.
        Raises ExpectationFailed where what the source expects of an event is to block.
        """
        view = self._view
        table = self._con.sql(self._sql).to_arrow_table()
        count = len(table)
        done = Judged(np.ones(count, np.bool_))
        done.counts["events"] = count
        times, timed = _numbers(table, "t")
        timed &= (times >= MIN_TIMESTAMP) & (times <= MAX_TIMESTAMP)
        declared, known = _numbers(table, "a") if "a" in table.column_names else (None, None)
        arrived = arrivals(declared, known, taken.appended_at, times)
        soonest = np.minimum(arrived if taken.appended_at is None else taken.appended_at, now)
        future = timed & ((times > arrived + SKEW) | (np.maximum(times, arrived) > soonest + SKEW))

        erased = self._erased(table, times, timed)
        timely = timed & ~future
        found = self._expected.judge(table) if self._expected and not taken.batch else None

        def out(which: Mask, name: str) -> Mask:
            hit = done.kept & which
            done.counts[name] += int(hit.sum())
            done.kept &= ~which
            return hit

        if erased is not None:
            out(erased, "erased")
        self._dead(done, taken, out(~timed, "untimed"), "there is no event time of the years 1 to 9999")
        ahead = f"it is stamped more than {SKEW // SECOND} seconds after it arrived"
        self._dead(done, taken, out(future, "future"), ahead)
        if found is not None:
            for failing, reason in found.aside:
                self._dead(done, taken, out(failing, "quarantined"), reason)
            done.counts["unexpected"] += found.unexpected
        if timely.any():
            done.clock, done.since = int(arrived[timely].max()), int(arrived[timely].min())
        if view.filter is not None:
            kept, valid = to_physical(table.column("kept"), Bool)
            out(~(kept if valid is None else kept & valid), "filtered")
        null = np.zeros(count, np.bool_)
        for name in key_names(view):
            null |= np.asarray(table.column(name).is_null())
        out(null, "null_key")
        if not taken.batch:
            self._left_out(done, times, out(arrived - times > self.lateness, "late"), "late")
            if not self._identified:
                out(times <= batch_until, "batched")
        if self._identified:
            self._left_out(done, times, out(times < seen_from, "expired"), "expired")
            self._once(done, taken, table, times, remembered)
        # Base has taken these over, and may or may not know them; the head forgets what it holds below the cut.
        self._left_out(done, times, out(times < cut, "behind"), "behind")
        done.counts["applied"] = int(done.kept.sum())
        return done

    def _erased(self, table: pa.Table, times: Array, timed: Mask) -> Mask | None:
        """Which events are of an erased entity and of before it was erased, or of no known time; see `compile.erased`."""
        if self._view.erased is None:
            return None
        digests, moments = zip(*self._view.erased.keys, strict=True)
        place = pc.index_in(table.column("digest"), value_set=pa.array(digests, pa.string()))
        there = np.asarray(place.is_valid())
        before = np.asarray(moments, np.int64)[place.fill_null(0).to_numpy()]
        mask: Mask = there & (~timed | (times < before))
        return mask

    def _left_out(self, done: Judged, times: Array, which: Mask, reason: str) -> None:
        if not which.any():
            return
        mine = times[which]
        starts, counts = np.unique(mine - mine % self._span, return_counts=True)
        for start, rows in zip(starts.tolist(), counts.tolist(), strict=True):
            done.holes[start, reason] += rows

    def hole(self, start: int) -> tuple[int, int]:
        """The range of event time that a hole at `start` stands for."""
        return start, start + self._span

    def _dead(self, done: Judged, taken: Taken, which: Mask, reason: str) -> None:
        done.dead += [(taken.places[i], reason, i) for i in np.flatnonzero(which).tolist()]

    def _once(
        self,
        done: Judged,
        taken: Taken,
        table: pa.Table,
        times: Array,
        remembered: Callable[[Sequence[bytes]], Sequence[bytes | None]],
    ) -> None:
        """Leaves out copies of events that came before: equal ones are dropped, others are dead letters."""
        ids = table.column("id")
        rows = np.flatnonzero(done.kept & np.asarray(ids.is_valid()))
        if not len(rows):
            return
        some = table.take(pa.array(rows))
        columns = [
            to_physical(some.column(n), k.dtype)[0]
            for n, k in zip(key_names(self._view), self._view.keys, strict=True)
        ]
        keys, hashed = entity_keys(self._view, columns)
        if hashed is not None:
            keys = [h or k for k, h in zip(keys, hashed, strict=True)]
        content = [c.to_bytes(8, "little") for c in some.column("content").to_pylist()]
        marks = [
            _mark(key, at, text)
            for key, at, text in zip(keys, times[rows].tolist(), some.column("id").to_pylist(), strict=True)
        ]
        before = dict(zip(marks, remembered(marks), strict=True))
        new: dict[bytes, bytes] = {}
        for row, mark, mine in zip(rows.tolist(), marks, content, strict=True):
            first = before[mark]
            if first is None:
                before[mark] = new[mark] = mine
                continue
            done.kept[row] = False
            if first == mine:
                done.counts["duplicate"] += 1
            else:
                done.counts["unequal"] += 1
                reason = "another event of this key, time and id came before, with other values"
                done.dead.append((taken.places[row], reason, row))
        done.seen = list(new.items())


def bucket_of(at: int) -> bytes:
    """The first bytes of what is remembered of events of this time; they sort as times do."""
    return (at // BUCKET + (1 << 39)).to_bytes(5, "big")


def _mark(key: bytes, at: int, text: str) -> bytes:
    raw = len(key).to_bytes(4, "little") + key + at.to_bytes(8, "little", signed=True) + text.encode()
    return bucket_of(at) + hashlib.blake2b(raw, digest_size=12).digest()


def _numbers(table: pa.Table, name: str) -> tuple[Array, Mask]:
    values, valid = to_physical(table.column(name), Int64)
    return values, np.ones(len(values), np.bool_) if valid is None else valid
