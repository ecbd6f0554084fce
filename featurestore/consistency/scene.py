"""Captured rows of one version of a service, ready to be computed again under any guess about what was known."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from featurestore.aggregates import AGGREGATES
from featurestore.compile.sources import Connection
from featurestore.config import Config
from featurestore.consistency.captured import Drawn, Meaning
from featurestore.consistency.events import NEVER, Events, Seen
from featurestore.erasures import Erasures
from featurestore.evaluate.finish import Cells
from featurestore.evaluate.on_demand import compiled, compute
from featurestore.evaluate.partials import Array, Mask
from featurestore.expr.nodes import Call
from featurestore.inputs import Inputs, look
from featurestore.ir import Feature, Read, View, view_fingerprint
from featurestore.joining import Keys, service_cells
from featurestore.ledger import DONE, Ledger, Unit
from featurestore.spine import keys_of, request_of
from featurestore.time import moment_text
from featurestore.types import is_float

Pairs = tuple[tuple[str, str], ...]

SCALE = "scale of "
"""Before the name of a feature: the sum, or mean, of the absolute values that it adds up."""

HOPS = 1 << 42
"""More than any hop: how far behind the moment asked for an event may lie that a read of the past still counted."""


@dataclass(frozen=True, slots=True)
class Guess:
    """What may have been known: SQL over an event `e` and a row `s`. `moment` is an event's time where that moves.

    `{ontime}` stands for: not left out by the stream as late, or materialised when it had arrived; `{kept}` for the same, had
    everything been materialised that lies before the cut; `{based}` for what is read: before the cut what was materialised, and
    what the stream applied behind it.
    """

    words: str
    condition: str
    moment: str | None = None


@dataclass(frozen=True)
class Lookup:
    """A view, looked up by some columns of a row, with what is read of it."""

    view: View
    pairs: Pairs
    reads: tuple[Read, ...]

    @property
    def features(self) -> list[Feature]:
        return list(dict.fromkeys(self.view.feature(r.feature) for r in self.reads))


@dataclass(frozen=True, slots=True)
class Change:
    """A file that is not what it was, in words. Its events, before and now, are of `first` to `last` (µs); None where unknown."""

    words: str
    first: int | None = None
    last: int | None = None

    def touches(self, asked: Array, reach: int | None) -> Mask:
        """Whether it may hold events of the time that counts at each moment: `reach` before it, or all before it."""
        if self.first is None or self.last is None:
            return np.ones(len(asked), np.bool_)
        found: Mask = asked > self.first
        return found if reach is None else found & (asked - reach <= self.last)


@dataclass
class Known:
    """What is the same for all rows: the connection, what was materialised of each view and when, and its files now."""

    con: Connection
    config: Config
    ledger: Ledger
    erased: Erasures
    _units: dict[str, list[Unit]] = field(default_factory=dict)
    _files: dict[str, Inputs | None] = field(default_factory=dict)
    tables: Iterator[int] = field(default_factory=itertools.count)

    def units(self, view: View) -> list[Unit]:
        """What was materialised of a view, the newest first."""
        key = view_fingerprint(view)
        if key not in self._units:
            done = self.ledger.history(view)
            self._units[key] = [u for u in done if u.status == DONE and u.finished_at is not None]
        return self._units[key]

    def files(self, view: View) -> Inputs | None:
        """What the files of a view's source are now; None where that cannot be known."""
        key = view_fingerprint(view)
        if key not in self._files:
            self._files[key] = look(self.con, view.source, self.config.root)
        return self._files[key]

    def changes(self, view: View, unit: Unit | None) -> Iterator[Change]:
        """Files of a view's source that are not as they were when a unit was written."""
        now, then = self.files(view), files_then(unit)
        if now is None or then is None:
            return
        for path in sorted(then.by_path.keys() | now.by_path.keys()):
            old, new = then.by_path.get(path), now.by_path.get(path)
            if old is not None and new is not None:
                if old.same(new):
                    continue
                words = f"{path} was written again at {moment_text(new.mtime_ns // 1000)}"
            else:
                words = f"{path} came" if old is None else f"{path} is gone"
            there = [f for f in (old, new) if f is not None]
            if any(f.first is None or f.last is None for f in there):
                yield Change(words)
            else:
                yield Change(words, min(f.first or 0 for f in there), max(f.last or 0 for f in there))


def files_then(unit: Unit | None) -> Inputs | None:
    """The files that a unit was made of."""
    if unit is None or not unit.inputs:
        return None
    try:
        return Inputs.from_text(unit.inputs)
    except (ValueError, TypeError):
        return None  # of a source whose files are not known


@dataclass(frozen=True)
class Scene:
    """Rows of one version, and all it takes to ask what they would have been."""

    known: Known
    rows: Drawn
    meaning: Meaning
    number: int
    _events: dict[int, Events] = field(default_factory=dict)

    @staticmethod
    def of(known: Known, rows: Drawn, meaning: Meaning) -> Scene:
        return Scene(known, rows, meaning, next(known.tables))

    @cached_property
    def views(self) -> dict[str, View]:
        return {name: self.known.erased.honoured(view) for name, view in self.meaning.views.items()}

    @cached_property
    def lookups(self) -> list[Lookup]:
        found: dict[tuple[str, Pairs], list[Read]] = {}
        for read in self.meaning.service.reads:
            found.setdefault((read.view, read.keys), []).append(read)
        return [Lookup(self.views[n], pairs, tuple(reads)) for (n, pairs), reads in found.items()]

    def take(self, places: Array) -> Scene:
        """Some of the rows, or some more than once, over the same events."""
        for place, lookup in enumerate(self.lookups):
            if lookup.view.source.event_time is not None:
                self.events(place)
        return replace(self, rows=self.rows.take(places))

    def now(self) -> dict[str, Cells]:
        """What a training set has of the rows, by all that is known today."""
        known, service, rows = self.known, self.meaning.service, self.rows
        return service_cells(
            known.con, known.config.root, service, self.views, rows.spine, rows.asked, statuses=True
        )

    # ------------------------------------------------------------------------------------------------ what was known, then

    @cached_property
    def marks(self) -> dict[str, Array]:
        """The watermark of each view when each row was served; NEVER where nothing had been written."""
        texts = self.rows.table.column("watermarks").to_pylist()
        parsed = {text: json.loads(text) if text else {} for text in set(texts)}
        told = [parsed[text] for text in texts]
        names = dict.fromkeys([*self.views, *(n for one in parsed.values() for n in one)])
        found = {}
        for name in names:
            moments = [one.get(name) for one in told]
            found[name] = np.array([NEVER if m is None else m for m in moments], np.int64)
        return found

    def in_force(self, name: str) -> list[Unit | None]:
        """The unit of a view that each row was served from."""
        ends = [(u.finished_at or 0, u) for u in self.known.units(self.views[name])]
        served = self.rows.instants("served_at").tolist()
        by_moment = {at: next((u for end, u in ends if end <= at), None) for at in set(served)}
        return [by_moment[at] for at in served]

    def seen(self, name: str, mark: Array | None = None) -> Seen:
        rows, own = self.rows, self.marks[name]
        units = self.in_force(name)
        cut = np.array([NEVER if u is None else u.cut for u in units], np.int64)
        made = np.array([NEVER if u is None else u.end for u in units], np.int64)
        served = rows.instants("served_at")
        return Seen(rows.asked, served, own if mark is None else mark, cut, made)

    # --------------------------------------------------------------------------------------------------------------- guessed

    def keys(self, lookup: Lookup) -> Keys:
        columns, spine = dict(lookup.pairs), self.rows.spine
        return [
            keys_of(spine, columns[k.name], k.dtype, f"feature view '{lookup.view.name}'")
            for k in lookup.view.keys
        ]

    def events(self, place: int) -> Events:
        """The events that rows may have seen through a lookup."""
        lookup = self.lookups[place]
        if place not in self._events:
            view = lookup.view
            sizes = [
                view.ttl if f.window is None else f.window.size and f.window.size + f.window.hop
                for f in lookup.features
            ]
            reach = [s for s in sizes if s is not None]
            asked = self.rows.asked
            start = int(asked.min()) - max(reach) if len(reach) == len(sizes) else None
            end = min(int(asked.max()) + HOPS, 1 << 62)
            oldest = next(iter(reversed(self.known.units(view))), None)
            self._events[place] = Events(
                self.known.con,
                self.known.config,
                view,
                self.keys(lookup),
                f"seen_{self.number}_{place}",
                start=start,
                end=end,
                before=files_then(oldest),
                now=self.known.files(view),
            )
        return self._events[place]

    def under(self, guess: Guess, now: Mapping[str, Cells], mark: Array | None = None) -> dict[str, Cells]:
        """The cells of all that is read and computed, were a guess right; `now` are those of today, for static sources.

        Of features that add up floats also what they are measured by, under SCALE and their name. `mark` is a watermark for
        each row in the place of those that were told.
        """
        done: dict[str, Cells] = {}
        for place, lookup in enumerate(self.lookups):
            view = lookup.view
            if view.source.event_time is None:
                done |= {r.output: now[r.output] for r in lookup.reads}
                continue
            features = lookup.features
            measured = {f.name: scale_of(f) for f in features}
            lateness = view.source.lateness if view.source.stream is not None else None
            early = "true" if lateness is None else f"e.__arrived - e.__t <= {lateness}"
            words = {
                "ontime": f"({early} OR (e.__t < s.cut AND e.__arrived <= s.made))",
                "kept": f"({early} OR e.__t < s.cut)",
                "based": f"CASE WHEN e.__t < s.cut THEN e.__arrived <= s.made ELSE {early} END",
            }
            found = self.events(place).cells(
                [*features, *(f for f in measured.values() if f is not None)],
                self.keys(lookup),
                self.seen(view.name, mark),
                guess.condition.format(**words),
                guess.moment,
            )
            for read in lookup.reads:
                done[read.output] = found[read.feature]
                scale = measured[read.feature]
                if scale is not None:
                    done[SCALE + read.output] = found[scale.name]
        service = self.meaning.service
        if service.on_demand:
            spine = self.rows.spine
            request = {n: request_of(spine, n, t, service.name) for n, t in service.request}
            done |= compute(compiled(service), done, request, self.rows.rows, self.rows.asked)
        return done

    def reach(self, column: str, view: str) -> int | None:
        """How far before the moment asked for events of a view count in a column, in microseconds; None is for ever."""
        service = self.meaning.service
        one = next((o for o in service.on_demand if o.name == column), None)
        names = {column} if one is None else one.columns
        mine = [
            self.views[view].feature(r.feature) for r in service.reads if r.output in names and r.view == view
        ]
        sizes = [
            self.views[view].ttl if f.window is None else f.window.size and f.window.size + f.window.hop
            for f in mine
        ]
        known = [s for s in sizes if s is not None]
        return max(known) if known and len(known) == len(sizes) else None

    def views_of(self, column: str) -> list[str]:
        """The views that a column of the service is made of."""
        service = self.meaning.service
        one = next((o for o in service.on_demand if o.name == column), None)
        names = {column} if one is None else one.columns
        return list(dict.fromkeys(r.view for r in service.reads if r.output in names))


def scale_of(feature: Feature) -> Feature | None:
    """What the closeness of a sum or mean of floats is measured by; None for what is measured by itself."""
    if feature.window is None or feature.aggregate not in ("sum", "mean"):
        return None
    if not is_float(feature.input_types[0]):
        return None
    size = Call("abs", (feature.inputs[0],))
    return replace(feature, name=SCALE + feature.name, inputs=(size,), default=None)


def close_of(feature: Feature) -> bool:
    """Whether a feature is the same only up to the order of adding up."""
    return feature.window is not None and AGGREGATES[feature.aggregate].parity(feature.input_types) == "close"


def bound_of(feature: Feature) -> float | None:
    """The stated error of an approximation, relative to what it is of; None for what is none."""
    if feature.window is None:
        return None
    if feature.aggregate == "quantile":
        return 2.0**-8
    if feature.aggregate == "count_distinct":
        return 4 / float(np.sqrt(int(dict(feature.params)["k"]) - 2))  # four times the standard error
    return None


__all__ = ["NEVER", "SCALE", "Guess", "Known", "Lookup", "Scene", "bound_of", "close_of", "scale_of"]
