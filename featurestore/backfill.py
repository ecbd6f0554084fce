"""Materialisation by the ledger: what there is to do for a view, who does it, and where a stopped run goes on.

Nothing is written when no file came, changed or went since the last run and no event falls between its end and the new one.
Otherwise all of the view is rewritten from what batch holds today: a value never depends on what lay in the store before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from featurestore.compile.sources import Connection
from featurestore.erasures import erasures, unfinished
from featurestore.errors import MaterializeError, WouldStepBack
from featurestore.inputs import Inputs, look, noticed
from featurestore.ir import View
from featurestore.layout import layout_of
from featurestore.ledger import DONE, HoleEntry, Lease, Ledger, Unit, Wanted
from featurestore.materialize import Batches, Checkpoint, Materialized, Progress, materialize_view
from featurestore.online.codec import NEVER, Codec, codec_of
from featurestore.online.state import StreamState, ViewState, load_states, load_stream, runs_name, state_name
from featurestore.online.store import OnlineStore
from featurestore.time import floor, moment_text

SAVE_SECONDS = 1.0
"""How often at most a run keeps how far it has come: what a killed run loses."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a materialisation was asked for: instants in microseconds, `end` exclusive.

    `named` is false where nobody said an end, and `end` is now. With `replace` and a `start`, the range from `start` to
    `end` is to be made anew and the view stays as long as it is; without a `start`, the view is made anew, as of `end` if one
    was named, even an earlier one.
    """

    end: int
    named: bool
    start: int | None = None
    replace: bool = False
    reason: str = ""
    who: str = "unknown"


@dataclass(frozen=True, slots=True)
class Backfilled:
    """What was done for one view: `outcome` is `written`, `resumed` or, where nothing had to be, `unchanged`.

    `entities` are those the store holds, `bytes` what was written. `noticed` are the holes that changed files left since the
    last run, among the `closed`.
    """

    view: str
    outcome: str
    entities: int
    bytes: int
    start: int | None
    end: int
    cut: int
    closed: tuple[HoleEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class _Target:
    start: int | None
    end: int
    cut: int


def backfill(
    con: Connection,
    store: OnlineStore,
    ledger: Ledger,
    view: View,
    root: Path,
    asked: Asked,
    *,
    seen: Inputs | None = None,
    progress: Progress | None = None,
    step: Callable[[str], None] | None = None,
    batches: Batches | None = None,
) -> tuple[Backfilled, Inputs | None]:
    """Brings one view to where it was asked to be; and what its source's files are, to be `seen` by the next view of it.

    Raises AlreadyRunning, WouldStepBack and MaterializeError, and what reading and writing raise: the unit is FAILED then,
    and the next run goes on behind what it wrote. `step` is told what was just done. `batches` makes what is
    written: DuckDB, if nobody does.
    """
    layout = layout_of(view)
    codec = codec_of(view, layout)
    with ledger.lease(view, asked.who) as lease:
        # Read once the lease is held: who erases takes it too, so that nobody writes by older tombstones afterwards.
        view = erasures(ledger.registry).honoured(view)
        afresh = asked.replace or unfinished(ledger.registry, view.entity)
        last, done = ledger.latest(view), ledger.done(view)
        before = None if done is None else _inputs(ledger, done)
        inputs = look(con, view.source, root, seen or before)
        state = load_states(store, {view.name: codec}).get(view.name)
        stream = load_stream(store, codec)
        target = asked_for = _target(view, layout.grid, asked, state, stream, inputs)
        place = _Place(store, ledger, lease, view, codec, stream, inputs, store.identity())
        if done is not None and last == done and not afresh and _same(before, inputs):
            kept = place.untouched(done, state, target)
            if kept is not None:
                return kept, inputs
        checkpoint = None
        if last is not None and last.status != DONE and not afresh:
            checkpoint, target = place.where_stopped(last, asked, target)
        wanted = Wanted(
            target.start,
            target.end,
            target.cut,
            stream is None,
            "" if inputs is None else inputs.to_text(),
            place.identity,
            asked.who,
            asked.reason,
        )
        if checkpoint is not None and last is not None:
            unit = last
            lease.go_on(unit)
        else:
            unit = lease.begin(wanted)
        try:
            written = materialize_view(
                con,
                store,
                view,
                root,
                start=target.start,
                end=target.end,
                progress=progress,
                heads=unit.heads,
                resume=checkpoint,
                save=place.saving(unit),
                step=step,
                batches=batches,
            )
            place.must_be_whole()
        except BaseException as error:
            lease.fail(unit, error)
            raise
        late = []
        if done is not None and before is not None and inputs is not None:
            late = noticed(before, inputs, done.start, done.end)
        closed = lease.finish(unit, written.run, written.entities, late, target.end)
        if step is not None:
            step("unit done")
        made = _outcome(written, "written" if checkpoint is None else "resumed", closed)
        if target.end < asked_for.end:  # what was resumed ends where it was begun for; now it may move on
            done, state = ledger.done(view), load_states(store, {view.name: codec}).get(view.name)
            assert done is not None
            moved = place.untouched(done, state, asked_for)
            made = made if moved is None else replace(made, end=moved.end)
        return made, inputs


def _outcome(done: Materialized, outcome: str, closed: Sequence[HoleEntry]) -> Backfilled:
    return Backfilled(
        done.view, outcome, done.entities, done.bytes, done.start, done.end, done.cut, tuple(closed)
    )


@dataclass(frozen=True)
class _Place:
    """A view in its store, while its lease is held."""

    store: OnlineStore
    ledger: Ledger
    lease: Lease
    view: View
    codec: Codec
    stream: StreamState | None
    inputs: Inputs | None
    identity: str

    def untouched(self, done: Unit, state: ViewState | None, target: _Target) -> Backfilled | None:
        """What is served, if it is what another run would make; its end moves along with the one asked for."""
        if state is None or self.inputs is None or self.ledger.holes([self.view]):
            return None
        served = (state.run, state.start, state.end, state.cut)
        if served != (done.run, done.start, done.end, done.cut) or state.start != target.start:
            return None
        if self._run() != done.run or self.identity != done.identity or done.heads != (self.stream is None):
            return None
        if target.end > state.end:
            timed = self.view.source.event_time is not None
            later = timed and self.inputs.last is not None and self.inputs.last >= state.end
            if later or self.stream is not None:
                return None
            # No event lies between the two ends: every tile and latest row stays, whatever the cut.
            moved = replace(state, end=target.end)
            self.lease.move(done, target.end)
            self.store.set_metas({state_name(self.codec): moved.to_bytes()})
            state = moved
        elif target.end < state.end or (self.stream is not None and target.cut != state.cut):
            return None
        return Backfilled(self.view.name, "unchanged", state.entities, 0, state.start, state.end, state.cut)

    def where_stopped(self, unit: Unit, asked: Asked, target: _Target) -> tuple[Checkpoint | None, _Target]:
        """Where a unit that did not end can go on, and as of when; None when it has to begin anew."""
        if not unit.checkpoint or self.inputs is None or unit.heads != (self.stream is None):
            return None, target
        if self.identity != unit.identity or self._run() != unit.run or unit.start != target.start:
            return None, target
        if not _same(_inputs(self.ledger, unit), self.inputs):
            return None, target
        if (unit.end, unit.cut) != (target.end, target.cut):
            # Nobody named an end. As of the unit's own it is as good, if no event came to pass since.
            timed = self.view.source.event_time is not None
            later = timed and self.inputs.last is not None and self.inputs.last >= unit.end
            if asked.named or unit.end > target.end or (later and self.stream is None):
                return None, target
        try:
            role, key, entities, size = json.loads(unit.checkpoint)
            checkpoint = Checkpoint(unit.run, role, tuple(key), entities, size)
        except (ValueError, TypeError) as error:
            raise self.ledger.corrupt(f"the checkpoint of view '{self.view.name}': {error}") from error
        return checkpoint, _Target(unit.start, unit.end, unit.cut)

    def saving(self, unit: Unit) -> Callable[[Checkpoint], None]:
        """Keeps how far the run has come, now and then; ends it where a stream has taken over the heads meanwhile."""
        saved_at = -SAVE_SECONDS
        roles: set[str] = set()

        def save(checkpoint: Checkpoint) -> None:
            nonlocal saved_at
            if unit.heads and load_stream(self.store, self.codec) is not None:
                raise MaterializeError(
                    f"a stream began to write view '{self.view.name}' meanwhile\n  run again: its heads are the stream's now"
                )
            now = time.monotonic()
            if checkpoint.role in roles and now - saved_at < SAVE_SECONDS:
                return
            roles.add(checkpoint.role)
            saved_at = now
            text = json.dumps([checkpoint.role, checkpoint.key, checkpoint.entities, checkpoint.bytes])
            self.lease.save(unit, text, checkpoint.run)

        return save

    def must_be_whole(self) -> None:
        """Raises MaterializeError when the store lost what it held while it was written to."""
        if self.store.identity() != self.identity:
            raise MaterializeError(
                f"the online store was restarted or emptied while view '{self.view.name}' was written\n  run again"
            )

    def _run(self) -> int | None:
        taken = self.store.get_meta(runs_name(self.codec))
        return None if taken is None else int(taken)


def _target(
    view: View,
    grid: int,
    asked: Asked,
    state: ViewState | None,
    stream: StreamState | None,
    inputs: Inputs | None,
) -> _Target:
    """From when to when the view is to be made. Raises WouldStepBack."""
    if asked.replace and state is None:
        raise MaterializeError(
            f"view '{view.name}' was never materialized as it is defined now\n  without --replace it is, from the beginning"
        )
    if asked.replace and state is not None and (asked.start is not None or not asked.named):
        end = state.end if stream is None else state.cut
        return _Target(state.start, end, floor(end, grid))
    start = state.start if asked.replace and state is not None else asked.start
    if stream is None:
        return _Target(start, asked.end, floor(asked.end, grid))
    if stream.clock == NEVER and state is None:
        raise MaterializeError(
            f"the stream of view '{view.name}' has not said yet how far it is, so nobody knows where its base may end\n"
            "  run again once `fs stream status` says how fresh it is"
        )
    # What is newer than its lateness may still come to the stream, and what batch does not hold only the stream does.
    limit = stream.clock - (view.source.lateness or 0)
    held = None if inputs is None else inputs.last
    if not asked.named and held is not None:
        limit = min(limit, held + 1 if stream.since is None else max(held + 1, stream.since))
    cut = floor(min(asked.end, limit), grid)
    if state is not None and cut < state.cut and not asked.replace:
        if asked.named:
            raise _back(view, cut, state.cut)
        cut = state.cut
    return _Target(start, cut, cut)


def _back(view: View, end: int, served: int) -> WouldStepBack:
    return WouldStepBack(
        f"view '{view.name}' is served as of {moment_text(served)}, and this would take it back to {moment_text(end)}, "
        "of which its stream keeps nothing\n"
        "  leave --end out or name a later one; to go back all the same, add --replace and a --reason"
    )


def _inputs(ledger: Ledger, unit: Unit) -> Inputs | None:
    if not unit.inputs:
        return None
    try:
        return Inputs.from_text(unit.inputs)
    except (ValueError, TypeError) as error:
        raise ledger.corrupt(f"the inputs of view '{unit.view}': {error}") from error


def _same(before: Inputs | None, now: Inputs | None) -> bool:
    return before is not None and now is not None and before.same(now)


def missing(con: Connection, ledger: Ledger, views: Sequence[View], root: Path) -> list[HoleEntry]:
    """The open holes of views, and those that files left which came, changed or went since the last run. Writes nothing.

    Raises SourceError and EngineError for files that cannot be read.
    """
    found = ledger.holes(views)
    for view in views:
        done = ledger.done(view)
        before = None if done is None else _inputs(ledger, done)
        if done is None or before is None:
            continue
        inputs = look(con, view.source, root, before)
        if inputs is None:
            continue
        now = ledger.clock()
        found += [
            HoleEntry(view.name, h.start, h.end, h.reason, h.rows, now)
            for h in noticed(before, inputs, done.start, done.end)
        ]
    return sorted(found, key=lambda h: (h.view, h.start, h.end, h.reason))
