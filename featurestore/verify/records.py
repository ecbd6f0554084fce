"""What a verification found: a certificate, or the smallest events over which two engines differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from featurestore.aggregates.record import Parity
from featurestore.status import Status

Outcome = Literal["certified", "disagreement", "empty", "unchecked"]
"""`empty`: the source holds no event of any entity, so nothing was compared. `unchecked`: an engine that was asked for is not
here, or none that was asked for can say such a view. Neither is a pass."""


Class = Parity | Literal["python"]
"""How close answers have to be. `python`: a Python function, whose batches are compared with their rows one by one."""

Kind = Literal["view", "service"]


@dataclass(frozen=True, slots=True)
class Tally:
    """How often one engine was asked for one feature, and how often its answer was not the reference's."""

    feature: str
    engine: str
    parity: Class
    cells: int
    differing: int


@dataclass(frozen=True, slots=True)
class Unchecked:
    """An engine that was not asked, and why."""

    engine: str
    reason: str


@dataclass(frozen=True, slots=True)
class Said:
    """What one engine answers: the value in words, and its status."""

    engine: str
    value: str
    status: Status


@dataclass(frozen=True, slots=True)
class Counterexample:
    """The smallest input found on which an engine and the reference differ.

    `columns` are those of the source that the view uses, `rows` the events that are left, values in words (None is NULL).
    `asked` and `known_until` are microseconds: events from `known_until` on had not happened when the store was written.
    Of a service, which `view` names then, `rows` are those asked for, with what was read for them and what came out.
    `minimal` False: the disagreement did not come again with fewer events, so these are all of the sample.
    """

    view: str
    feature: str
    means: str
    engine: str
    key: Mapping[str, Any]
    asked: int
    known_until: int
    why: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | None, ...], ...]
    picture: tuple[str, ...]
    said: tuple[Said, ...]
    minimal: bool
    kind: Kind = "view"

    def to_csv(self) -> str:
        """The events (of a service the rows asked for) as CSV with a header; a NULL is an empty field, an empty text is `""`."""

        def line(fields: Iterable[str | None]) -> str:
            return ",".join("" if f is None else '"' + f.replace('"', '""') + '"' for f in fields) + "\n"

        return line(self.columns) + "".join(map(line, self.rows))


@dataclass(frozen=True, slots=True)
class Verdict:
    """One view, or what one service computes on demand (`view` is its name then): what was compared, and how it ended.

    `shortened` entities had more events than were taken.
    """

    view: str
    fingerprint: str
    outcome: Outcome
    entities: int
    shortened: int
    events: int
    moments: int
    tallies: tuple[Tally, ...]
    seconds: float
    counterexample: Counterexample | None = None
    kind: Kind = "view"
    unchecked: tuple[Unchecked, ...] = ()

    @property
    def cells(self) -> int:
        return sum(t.cells for t in self.tallies)

    @property
    def differing(self) -> int:
        return sum(t.differing for t in self.tallies)


@dataclass(frozen=True, slots=True)
class Certificate:
    """The verdicts on some views and services, and all it takes to get them again. `made_at` in microseconds."""

    verdicts: tuple[Verdict, ...]
    sample: int
    seed: int
    engines: tuple[str, ...]
    versions: Mapping[str, str]
    made_at: int
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every view and service was compared, and no cell differed."""
        return bool(self.verdicts) and all(v.outcome == "certified" for v in self.verdicts)

    @property
    def cells(self) -> int:
        return sum(v.cells for v in self.verdicts)

    def details(self, verdict: Verdict) -> dict[str, Any]:
        """What is kept of one verdict, as plain JSON values."""
        return {
            "sample": self.sample,
            "seed": self.seed,
            "engines": list(self.engines),
            "versions": dict(self.versions),
            "entities": verdict.entities,
            "shortened": verdict.shortened,
            "events": verdict.events,
            "moments": verdict.moments,
            "cells": [
                {
                    "feature": t.feature,
                    "engine": t.engine,
                    "class": t.parity,
                    "cells": t.cells,
                    "differing": t.differing,
                }
                for t in verdict.tallies
            ],
            "unchecked": [{"engine": u.engine, "reason": u.reason} for u in verdict.unchecked],
            "seconds": round(verdict.seconds, 3),
            "counterexample": None if verdict.counterexample is None else _plain(verdict.counterexample),
        }


def _plain(found: Counterexample) -> dict[str, Any]:
    return {
        "feature": found.feature,
        "engine": found.engine,
        "key": dict(found.key),
        "asked": found.asked,
        "known_until": found.known_until,
        "why": found.why,
        "columns": list(found.columns),
        "rows": [list(row) for row in found.rows],
        "said": [{"engine": s.engine, "value": s.value, "status": s.status.name} for s in found.said],
        "minimal": found.minimal,
    }
