"""One captured row: what was served, what is computed now, why they differ, and the events that made it in each engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from featurestore.consistency.captured import Column, Drawn, of_request
from featurestore.consistency.causes import LATE
from featurestore.consistency.records import CAUSES, Cause
from featurestore.consistency.run import Checked, Judged, judged, plain
from featurestore.consistency.scene import NEVER, Known, Lookup, Scene
from featurestore.evaluate.finish import Cells
from featurestore.ir import View
from featurestore.status import Status
from featurestore.time import moment_text

ROWS: Final = 10
"""Rows of a request that are shown, unless one is named."""


@dataclass(frozen=True, slots=True)
class Value:
    """One feature: as served (with its status), as computed now, and of what had arrived by the moment asked for alone.

    `cause` is None where the served value is the one computed now; `note` says what shows the cause.
    """

    feature: str
    served: Any
    status: str
    now: Any
    arrived: Any
    cause: Cause | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Counted:
    """One event that a view looked at for the row: its columns, when it happened and when it arrived (µs).

    `at_rest` is whether batch has it, `pushed` whether the log of its source does; `served` whether it counted in what was
    served, as far as that is known: `yes`, `not yet` (it arrived later), `late` (too late for the stream, or for what was
    materialised), `after` (the moment asked for).
    """

    happened: int
    arrived: int
    columns: Mapping[str, Any]
    at_rest: bool
    pushed: bool
    served: str


@dataclass(frozen=True, slots=True)
class Made:
    """The events of one view for the row, the newest first: `events` are at most as many as asked for, of `count`.

    `watermark` is up to when the view was complete when the row was served; None when nothing had been written.
    """

    view: str
    key: Mapping[str, Any]
    watermark: int | None
    count: int
    events: tuple[Counted, ...]


@dataclass(frozen=True, slots=True)
class Why:
    """One captured row, value by value, with the events behind it; moments in microseconds."""

    row_id: str
    service: str
    asked: int
    served_at: int
    degraded: bool
    values: tuple[Value, ...]
    made: tuple[Made, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "row_id": self.row_id,
            "service": self.service,
            "asked": moment_text(self.asked),
            "served_at": moment_text(self.served_at),
            "degraded": self.degraded,
            "values": [{n: getattr(v, n) for n in Value.__slots__} for v in self.values],
            "views": [
                {
                    "view": m.view,
                    "key": dict(m.key),
                    "watermark": moment_text(m.watermark),
                    "events": m.count,
                    "shown": [_event(e) for e in m.events],
                }
                for m in self.made
            ],
        }

    def __str__(self) -> str:
        said = [f"{self.row_id} of {self.service}, asked for {moment_text(self.asked)}"]
        for v in self.values:
            cause = "" if v.cause is None else f"  {v.cause}: {v.note or CAUSES[v.cause]}"
            said.append(f"  {v.feature}: served {v.served!r} ({v.status}), now {v.now!r}{cause}")
        return "\n".join(said)


def _event(event: Counted) -> dict[str, Any]:
    return {
        "happened": moment_text(event.happened),
        "arrived": moment_text(event.arrived),
        "columns": dict(event.columns),
        "at_rest": event.at_rest,
        "pushed": event.pushed,
        "served": event.served,
    }


def why(checked: Checked, request: str, *, limit: int) -> list[Why]:
    """The rows of a request, or the one of a row id; of each view at most `limit` events.

    Raises NotFound where nothing of the kind was captured, or by a version that the registry does not know.
    """
    done: list[Why] = []
    with checked.known() as known:
        for group in of_request(checked.log, checked.service, request):
            if group.schema.fingerprint not in checked.meanings:
                checked.unknown(group.schema.fingerprint)
            some = range(min(group.rows, ROWS - len(done)))
            done += [_row(known, checked, group.take(np.array([i])), limit) for i in some]
    return done


def _row(known: Known, checked: Checked, row: Drawn, limit: int) -> Why:
    found = judged(known, checked, row)
    scene = Scene.of(known, row, checked.meanings[row.schema.fingerprint])
    arrived = scene.under(LATE[0], scene.now())
    return Why(
        row.row_ids[0],
        scene.meaning.reference,
        int(row.asked[0]),
        int(row.instants("served_at")[0]),
        bool(row.table.column("degraded")[0].as_py()),
        tuple(_values(found, arrived)),
        tuple(_made(scene, found, limit)),
    )


def _values(found: Judged, arrived: Mapping[str, Cells]) -> Iterator[Value]:
    for name, dtype in found.types.items():
        cause = found.causes[name][0]
        then = arrived.get(name)
        yield Value(
            name,
            plain(found.served[name], dtype, 0),
            Status(int(found.rows.statuses(name)[0])).name,
            plain(found.now[name], dtype, 0),
            None if then is None else plain(Column(then.values, then.valid), dtype, 0),
            cause or None,
            found.notes.get((name, 0), ""),
        )


def _made(scene: Scene, found: Judged, limit: int) -> Iterator[Made]:
    for place, lookup in enumerate(scene.lookups):
        view = lookup.view
        if view.source.event_time is None:
            continue
        columns, spine = dict(lookup.pairs), scene.rows.spine
        key = {columns[k.name]: spine.column(columns[k.name])[0].as_py() for k in view.keys}
        seen = scene.seen(view.name)
        asked, mark = int(seen.asked[0]), int(seen.mark[0])
        cut, made = int(seen.cut[0]), int(seen.made[0])
        rows, count = scene.events(place).listed(scene.keys(lookup), seen, limit)
        lateness = view.source.lateness if view.source.stream is not None else None
        bound = _known_until(lookup, found, mark, asked)
        events = []
        for row in rows:
            happened, came = row["__t"], row["__arrived"]
            own = {n: v for n, v in row.items() if not n.startswith("__") and n not in _of_time(view)}
            served = "yes"
            if happened >= asked:
                served = "after"
            elif came > bound or row["__filed"] > int(seen.served[0]):
                served = "not yet"
            elif lateness is not None and (came > made if happened < cut else came - happened > lateness):
                served = "late"
            events.append(Counted(happened, came, own, row["__rest"], row["__pushed"], served))
        yield Made(view.name, key, None if mark == NEVER else mark, count, tuple(events))


def _known_until(lookup: Lookup, found: Judged, mark: int, asked: int) -> int:
    """Up to when what had arrived is in what was served: by the watermark, or by what explains the values.

    In a replay of the past a watermark may say more than was there.
    """
    names = {r.output for r in lookup.reads}
    cuts = [cut for (name, _), cut in found.cuts.items() if name in names]
    late = any(found.causes[n][0] == "late_event" for n in names & found.causes.keys())
    return min([mark, *(cut - 1 for cut in cuts), *([asked] if late else [])])


def _of_time(view: View) -> set[str | None]:
    return {view.source.event_time, view.source.arrival_time}


__all__ = ["Counted", "Made", "Value", "Why", "why"]
