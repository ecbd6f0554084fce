"""What came of judging rows: a verdict for each expectation. `failed` is one thing, `not_evaluated` another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from featurestore.expectations import Expectation
from featurestore.time import moment_text

Outcome = Literal["passed", "failed", "not_evaluated"]
Kind = Literal["source", "view", "service", "table"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an engine says of one expectation.

    `observed` is what was seen (a number, a share, a moment as text), `considered` how many rows say anything, `unexpected` how
    many of them fail; None is unknown. `examples` are a few values or rows that fail. `why` says why it could not be judged, or
    what was wrong.
    """

    expectation: Expectation
    outcome: Outcome
    observed: bool | int | float | str | None = None
    considered: int | None = None
    unexpected: int | None = None
    examples: tuple[str, ...] = ()
    why: str = ""

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"

    @property
    def failed(self) -> bool:
        return self.outcome == "failed"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        e = self.expectation
        return {
            "expectation": e.name,
            "check": e.kind,
            "text": e.text,
            "outcome": self.outcome,
            "severity": e.severity,
            "on_failure": e.on_failure,
            "observed": self.observed,
            "considered": self.considered,
            "unexpected": self.unexpected,
            "examples": list(self.examples),
            "why": self.why,
        }


@dataclass(frozen=True, slots=True)
class Validation:
    """One run over the rows of `name`, at a moment (µs), by an engine: `duckdb`, `gx`, `statistics`, `stream` or `served`.

    `definition` is the digest of the expectations, `where` what occasioned it: `validate`, `materialize`, `stream`, `served`.
    `document` is the engine's own result as JSON, where it has one.
    """

    name: str
    kind: Kind
    engine: str
    at: int
    rows: int | None
    verdicts: tuple[Verdict, ...]
    definition: str
    where: str = "validate"
    who: str = ""
    run: str = ""
    seconds: float = 0.0
    document: Any = None

    @property
    def failed(self) -> tuple[Verdict, ...]:
        return tuple(v for v in self.verdicts if v.failed)

    @property
    def not_evaluated(self) -> tuple[Verdict, ...]:
        return tuple(v for v in self.verdicts if v.outcome == "not_evaluated")

    @property
    def passed(self) -> bool:
        """Whether every expectation was judged, and none failed."""
        return all(v.passed for v in self.verdicts)

    @property
    def blocking(self) -> tuple[Verdict, ...]:
        """What failed of that which is to block."""
        return tuple(v for v in self.failed if v.expectation.on_failure == "block")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, the engine's own document left out."""
        return {
            "name": self.name,
            "kind": self.kind,
            "engine": self.engine,
            "at": moment_text(self.at),
            "where": self.where,
            "who": self.who,
            "run": self.run,
            "definition": self.definition,
            "rows": self.rows,
            "passed": self.passed,
            "failed": len(self.failed),
            "not_evaluated": len(self.not_evaluated),
            "seconds": round(self.seconds, 3),
            "verdicts": [v.to_json() for v in self.verdicts],
        }


__all__ = ["Kind", "Outcome", "Validation", "Verdict"]
