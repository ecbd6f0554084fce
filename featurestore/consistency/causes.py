"""Why served values differ from what is computed now: guesses about what was known, each tried out on the events.

A guess that gives the served value explains it. Where none does, what the row or the source says of itself may: that it was
served in the place of a value, or that the files are no longer what they were. What is left is unexplained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from featurestore.consistency.captured import Column
from featurestore.consistency.events import Events
from featurestore.consistency.records import Cause
from featurestore.consistency.scene import SCALE, Guess, Scene, bound_of, close_of
from featurestore.evaluate.finish import Cells
from featurestore.evaluate.partials import Array, Mask
from featurestore.ir import OnDemand, Read
from featurestore.status import Status
from featurestore.time import moment_text
from featurestore.types import DType, Float32, is_float, is_integer
from featurestore.verify.compare import CLOSE

AHEAD, LAST = 48, 16
"""Of each row and view, so many arrivals behind the watermark, and before the moment asked for, are tried as what was known."""

TOGETHER = 4_000_000
"""Pairs of a row and an event of its key that are looked at together, or one row."""

BEFORE = "e.__t < s.q"

LATE = (
    Guess("what had arrived by the moment asked for", f"e.__rest AND {BEFORE} AND e.__arrived <= s.q"),
    Guess("the files that were there", f"e.__rest AND {BEFORE} AND e.__filed <= s.served"),
    Guess(
        "what had arrived, without what was late for the stream",
        f"e.__rest AND {BEFORE} AND e.__arrived <= s.q AND {{ontime}}",
    ),
    Guess(
        "what had arrived, without what was late for the stream and not materialised",
        f"e.__rest AND {BEFORE} AND e.__arrived <= s.q AND {{kept}}",
    ),
    Guess(
        "what had been materialised before the cut, and what had arrived in time behind it",
        f"e.__rest AND {BEFORE} AND e.__arrived <= s.q AND {{based}}",
    ),
)
STALE = (
    Guess("what had arrived by the watermark", f"e.__rest AND {BEFORE} AND e.__arrived <= s.mark"),
    Guess(
        "what had arrived by the watermark, in time",
        f"e.__rest AND {BEFORE} AND e.__arrived <= s.mark AND {{ontime}}",
    ),
    Guess(
        "what had arrived by the watermark, in time or materialised",
        f"e.__rest AND {BEFORE} AND e.__arrived <= s.mark AND {{kept}}",
    ),
    Guess(
        "what had been materialised before the cut, and what had arrived by the watermark behind it",
        f"e.__rest AND {BEFORE} AND e.__arrived <= s.mark AND {{based}}",
    ),
    Guess("what had happened by the watermark", f"e.__rest AND {BEFORE} AND e.__t < s.mark"),
    Guess(
        "what had happened by the watermark, in the files that were there",
        f"e.__rest AND {BEFORE} AND e.__t < s.mark AND e.__filed <= s.served",
    ),
)
LACKING = (
    Guess(
        "what was pushed and is not at rest, too",
        f"(e.__rest OR NOT e.__there) AND {BEFORE} AND e.__arrived <= s.q",
    ),
    Guess(
        "what was pushed by the watermark and is not at rest, too",
        f"(e.__rest OR NOT e.__there) AND {BEFORE} AND e.__arrived <= s.mark AND {{ontime}}",
    ),
)
_PUSHED = f"((e.__rest AND e.__t < s.cut) OR (NOT e.__rest AND e.__t >= s.cut)) AND {BEFORE}"
PUSHED = (
    Guess("events as they were pushed", f"{_PUSHED} AND e.__arrived <= s.q AND {{ontime}}"),
    Guess(
        "events as they were pushed by the watermark", f"{_PUSHED} AND e.__arrived <= s.mark AND {{ontime}}"
    ),
)
OWN = "e.__rest OR (NOT e.__there AND e.__t >= s.q)"
NEWER = Guess(
    "a newer event had taken its place",
    "(e.__rest OR NOT e.__there) AND e.__t >= s.q AND e.__t < s.mark AND e.__arrived <= s.served",
    "s.q - 1",
)
SAME = Guess("the same events", f"e.__rest AND {BEFORE}")


@dataclass
class Explained:
    """The causes of the cells of some rows by column, "" where nothing differs (or is not known yet), with what shows them."""

    rows: int
    causes: dict[str, Array] = field(default_factory=dict)
    notes: dict[tuple[str, int], str] = field(default_factory=dict)
    cuts: dict[tuple[str, int], int] = field(default_factory=dict)
    """Of cells that lack what had arrived last: from which moment (µs) on."""

    def say(self, column: str, places: Array, cause: Cause, note: str) -> None:
        self.causes[column][places] = cause
        for place in places.tolist():
            self.notes[column, place] = note


def explained(
    scene: Scene, served: Mapping[str, Column], now: Mapping[str, Cells], differs: Mapping[str, Mask]
) -> Explained:
    """The cause of every cell that differs: `differs` says which, by column. `now` are the cells of today."""
    return _Search(scene, served, now, differs).run()


class _Search:
    def __init__(
        self,
        scene: Scene,
        served: Mapping[str, Column],
        now: Mapping[str, Cells],
        differs: Mapping[str, Mask],
    ) -> None:
        self.scene, self.served, self.now = scene, served, now
        self.left = {name: mask.copy() for name, mask in differs.items()}
        self.done = Explained(scene.rows.rows)
        for name in differs:
            self.done.causes[name] = np.full(scene.rows.rows, "", object)
        service = scene.meaning.service
        self.types = dict(service.columns)
        self.reads: dict[str, Read] = {r.output: r for r in service.reads if not r.hidden}
        self.on_demand: dict[str, OnDemand] = {o.name: o for o in service.on_demand}

    def run(self) -> Explained:
        self._degraded()
        for cause, guess in self._guesses():
            self._try(cause, guess)
        self._inexact()  # before anything is supposed that the store did not say of itself
        self._try_arrivals()
        self._told()
        return self.done

    def _guesses(self) -> Iterator[tuple[Cause | None, Guess]]:
        """In the order in which they are tried; without a cause the watermark was behind, and it depends on the column."""
        yield "float_order", SAME
        arrive = self._anything(lambda events: events.knows_arrivals)
        filed = self._anything(lambda events: events.filed)
        told: list[tuple[Cause | None, Guess]] = [("late_event", g) for g in LATE]
        for cause, guess in told + [(None, g) for g in STALE]:
            if (arrive or "__arrived" not in guess.condition) and (filed or "__filed" not in guess.condition):
                yield cause, guess
        if self._anything(lambda events: events.pushed):
            for guess in LACKING:
                yield "stale_batch", guess
            for guess in PUSHED:
                yield "external", guess
        yield (
            "own_event",
            Guess(
                "with the event of its own moment",
                f"({OWN}) AND e.__t <= s.q",
                "least(e.__t, s.q - 1)",
            ),
        )
        for hop in sorted({f.window.hop for k in self.scene.lookups for f in k.features if f.window}):
            end = f"s.q - ((s.q % {hop}) + {hop}) % {hop} + {hop}"
            yield (
                "own_event",
                Guess(
                    "with the events up to the end of the open tile",
                    f"({OWN}) AND e.__t < {end}",
                    "least(e.__t, s.q - 1)",
                ),
            )

    def _anything(self, holds: Callable[[Events], bool]) -> bool:
        """Whether something holds for the events of any view; of no view when nothing is left to explain."""
        if not len(self._unsettled(list(self.left))):
            return False
        return any(holds(self.scene.events(i)) for i in self._timed)

    # ----------------------------------------------------------------------------------------------------------------- steps

    def _degraded(self) -> None:
        """Rows that were served while the store did not answer."""
        degraded = np.asarray(self.scene.rows.table.column("degraded").combine_chunks()).astype(np.bool_)
        if not degraded.any():
            return
        for name, left in self.left.items():
            stood_in = self.scene.rows.statuses(name) == Status.DEFAULT
            self._settle(name, left & degraded & stood_in, "default", "the store did not answer")
            self._settle(
                name, left & degraded, self._stale(name), "the store did not answer: what was known last"
            )

    def _try(self, cause: Cause | None, guess: Guess) -> None:
        columns = [c for c in self.left if self.left[c].any() and (guess is not SAME or self._adds_up(c))]
        for places in self._portions(self._unsettled(columns)):
            found = self.scene.take(places).under(guess, _taken(self.now, places))
            for name in columns:
                mask = np.zeros(self.done.rows, np.bool_)
                mask[places[self._matches(name, places, found)]] = True
                self._settle(name, mask, self._stale(name) if cause is None else cause, guess.words)

    def _try_arrivals(self) -> None:
        """The store may have known a little more than its watermark, which is asked for once a second."""
        for places in self._portions(self._unsettled(list(self.left)), AHEAD + LAST):
            self._try_arrivals_of(places)

    @cached_property
    def _sizes(self) -> Array:
        """How many events each row may have to do with."""
        sizes = np.ones(self.done.rows, np.int64)
        for place in self._timed:
            sizes += self.scene.events(place).sizes(self.scene.keys(self.scene.lookups[place]))
        return sizes

    @cached_property
    def _timed(self) -> list[int]:
        """The lookups of views with times."""
        lookups = enumerate(self.scene.lookups)
        return [i for i, lookup in lookups if lookup.view.source.event_time is not None]

    def _portions(self, places: Array, times: int = 1) -> Iterator[Array]:
        """The places, some at a time."""
        if len(places):
            number = np.cumsum(self._sizes[places] * times) // TOGETHER
            yield from np.split(places, np.flatnonzero(np.diff(number)) + 1)

    def _try_arrivals_of(self, places: Array) -> None:
        scene = self.scene.take(places)
        moments: list[set[int]] = [set() for _ in places]
        for number, lookup in enumerate(scene.lookups):
            # Of what could not be read there are no arrivals to try.
            if lookup.view.source.event_time is not None and not scene.events(number).unread:
                seen, keys = scene.seen(lookup.view.name), scene.keys(lookup)
                for mine, new in zip(
                    moments, scene.events(number).arrivals(keys, seen, AHEAD, LAST), strict=True
                ):
                    mine.update(new)
        of = np.repeat(np.arange(len(places)), [len(m) for m in moments])
        if not len(of):
            return
        mark = np.array([m for mine in moments for m in sorted(mine, reverse=True)], np.int64)
        again = places[of]
        for applied in ("{ontime}", "{based}"):
            some = f"(e.__rest OR NOT e.__there) AND {BEFORE} AND e.__arrived < s.mark AND {applied}"
            self._up_to(scene.take(of), again, mark, Guess("", some))

    def _up_to(self, scene: Scene, again: Array, mark: Array, guess: Guess) -> None:
        """Settles cells of the rows at `again` that had seen what arrived before `mark`, and applied as `guess` says."""
        found = scene.under(guess, _taken(self.now, again), mark)
        for name in [c for c in self.left if self.left[c].any()]:
            same = self._matches(name, again, found)
            # Of several moments that give the value, the last: nearest to what the store said of itself.
            cut = dict(zip(again[same][::-1].tolist(), mark[same][::-1].tolist(), strict=True))
            for place, moment in cut.items():
                if self.left[name][place]:
                    self.done.cuts[name, place] = moment
                    self._settle_one(
                        name, place, self._stale(name), f"what had arrived before {moment_text(moment)}"
                    )

    def _inexact(self) -> None:
        """Reads of the past that the store could not tell: it said so, or newer events had taken the place of the value."""
        rows = self.scene.rows
        for name, left in self.left.items():
            mine = left & (rows.statuses(name) == Status.INEXACT)
            self._settle(name, mine, "inexact", "served as INEXACT")
        gone = {n: left & ~self.served[n].valid & self._ahead(n) for n, left in self.left.items()}
        for places in self._portions(np.flatnonzero(np.logical_or.reduce(list(gone.values())))):
            found = self.scene.take(places).under(NEWER, _taken(self.now, places))
            for name, mask in gone.items():
                newer = np.zeros(self.done.rows, np.bool_)
                newer[places[found[name].valid]] = True
                self._settle(name, mask & newer, "inexact", NEWER.words)

    def _ahead(self, name: str) -> Mask:
        """In which rows a view of a column was complete up to after the moment asked for."""
        ahead = np.zeros(self.done.rows, np.bool_)
        views = self.scene.views_of(name)
        if all(self.scene.views[v].source.event_time is not None for v in views):
            for view in views:
                ahead |= self.scene.marks[view] > self.scene.rows.asked
        return ahead

    def _told(self) -> None:
        """What rows and sources say of themselves."""
        for name in self.left:
            feature = self.on_demand.get(name)
            views = [self.scene.views[v] for v in self.scene.views_of(name)]
            left = self.left[name]
            if any(v.source.event_time is None for v in views):
                self._settle(name, left, "external", "a source without times is as it is now")
            if feature is not None and feature.is_python:
                self._settle(name, left, "external", "a Python function gives another value now")
            for view in views:
                for unit in {u.number: u for u in self.scene.in_force(view.name) if u is not None}.values():
                    mine = np.array([u == unit for u in self.scene.in_force(view.name)], np.bool_)
                    for change in self.scene.known.changes(view, unit):
                        touched = change.touches(self.scene.rows.asked, self.scene.reach(name, view.name))
                        self._settle(name, left & mine & touched, "external", change.words)
            status = self.scene.rows.statuses(name)
            self._settle(name, left & (status == Status.STALE), self._stale(name), "served as STALE")
            self._settle(name, left & self._within_bound(name), "sketch", "within twice the stated error")
            self._settle(name, left & (status == Status.DEFAULT), "default", "served as DEFAULT")
            self._settle(name, left.copy(), "unexplained", self._unread(name))

    # --------------------------------------------------------------------------------------------------------------- details

    def _settle(self, name: str, mask: Mask, cause: Cause, note: str) -> None:
        places = np.flatnonzero(mask & self.left[name])
        if len(places):
            self.done.say(name, places, cause, note)
            self.left[name][places] = False

    def _settle_one(self, name: str, place: int, cause: Cause, note: str) -> None:
        self.done.say(name, np.array([place]), cause, note)
        self.left[name][place] = False

    def _unsettled(self, columns: list[str]) -> Array:
        if not columns:
            return np.zeros(0, np.int64)
        return np.flatnonzero(np.logical_or.reduce([self.left[c] for c in columns]))

    def _stale(self, name: str) -> Cause:
        views = [self.scene.views[v] for v in self.scene.views_of(name)]
        return "stale_stream" if any(v.source.stream is not None for v in views) else "stale_batch"

    def _adds_up(self, name: str) -> bool:
        """Whether a column may differ by the order of adding up."""
        if not is_float(self.types[name]):
            return False
        if name in self.reads:
            read = self.reads[name]
            return close_of(self.scene.views[read.view].feature(read.feature))
        inputs = [r for r in self.scene.meaning.service.reads if r.output in self.on_demand[name].columns]
        return any(close_of(self.scene.views[r.view].feature(r.feature)) for r in inputs)

    def _matches(self, name: str, places: Array, found: Mapping[str, Cells]) -> Mask:
        """Which of the rows at `places` have the served value under a guess."""
        got, want = self.served[name].take(places), found[name]
        same = ~differing(got, Column(want.values, want.valid))
        if self._adds_up(name):
            same |= _close(got, want, self._scale(name, want, found), self.types[name])
        return same

    def _scale(self, name: str, want: Cells, found: Mapping[str, Cells]) -> Array:
        own = np.where(want.valid, np.abs(want.values), 0).astype(np.float64)
        if name in self.reads:
            read = self.reads[name]
            feature = self.scene.views[read.view].feature(read.feature)
            if feature.aggregate in ("skew", "kurtosis"):
                return np.maximum(own, 1.0)
            scale = found.get(SCALE + name)
            return own if scale is None else np.maximum(own, np.where(scale.valid, scale.values, 0))
        for read in self.scene.meaning.service.reads:
            if read.output in self.on_demand[name].columns and (
                is_float(read.dtype) or is_integer(read.dtype)
            ):
                cell = found[read.output]
                own = np.maximum(own, np.where(cell.valid, np.abs(cell.values), 0))
        return own

    def _unread(self, name: str) -> str:
        """What could not be looked at of the events of a column."""
        views = self.scene.views_of(name)
        mine = [i for i in self._timed if self.scene.lookups[i].view.name in views]
        return next((said for i in mine if (said := self.scene.events(i).unread)), "")

    def _within_bound(self, name: str) -> Mask:
        """Which cells are within twice the stated error of what is computed now."""
        rows = self.done.rows
        read = self.reads.get(name)
        if read is None:
            return np.zeros(rows, np.bool_)
        feature = self.scene.views[read.view].feature(read.feature)
        bound = bound_of(feature)
        if bound is None:
            return np.zeros(rows, np.bool_)
        got, want = self.served[name], self.now[name]
        both = got.valid & want.valid
        a, b = (np.where(both, x.values, 0).astype(np.float64) for x in (got, want))
        near: Mask = both & (np.abs(a - b) <= 2 * bound * np.maximum(np.abs(a), np.abs(b)))
        if feature.aggregate == "count_distinct":
            near &= np.maximum(a, b) > int(dict(feature.params)["k"])
        return near


def differing(a: Column, b: Column) -> Mask:
    """Which cells are not the same: one is NULL and the other is not, or the values differ."""
    if object not in (a.values.dtype, b.values.dtype):
        apart: Mask = (a.valid != b.valid) | (a.valid & b.valid & (a.values != b.values))
        return apart
    found = np.zeros(len(a.valid), np.bool_)
    for i, (x, y) in enumerate(zip(a.values.tolist(), b.values.tolist(), strict=True)):
        one, other = a.valid[i], b.valid[i]
        found[i] = one != other or bool(one and not alike(x, y))
    return found


def alike(a: object, b: object) -> bool:
    """Whether two values are the same, item by item."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(np.asarray(a), np.asarray(b))
    return bool(a == b)


def _close(got: Column, want: Cells, scale: Array, dtype: DType) -> Mask:
    both = got.valid & want.valid
    a, b = (np.where(both, x.values, 0).astype(np.float64) for x in (got, want))
    limit = max(CLOSE, 2.0**-23) if dtype == Float32 else CLOSE
    near: Mask = both & (np.abs(a - b) <= limit * scale)
    return near


def _taken(cells: Mapping[str, Cells], places: Array) -> dict[str, Cells]:
    return {n: Cells(c.values[places], c.valid[places], c.status[places]) for n, c in cells.items()}


__all__ = ["LATE", "Explained", "alike", "differing", "explained"]
