"""One line for each service that whoever uses the model can read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from featurestore import ir
from featurestore.monitor.alerts import AlertState
from featurestore.monitor.findings import Finding

Word = Literal["healthy", "needs a look", "failing", "not watched"]

_PLAIN = {
    "drift": "inputs no longer look like those it learned from",
    "schema": "a column of its data has changed",
    "row-count": "far more or fewer rows came than usual",
    "label-shift": "outcomes are shared out differently",
    "prediction-drift": "its answers are spread differently",
    "skew": "what it is given differs from what it learned from",
    "quality": "its answers are worse than they were",
    "stuck-output": "it gives everyone the same answer",
    "diversity": "its answers cover ever fewer cases",
    "expectation": "rows broke what was agreed on",
    "freshness": "its data is older than promised",
    "latency": "it answers more slowly than promised",
    "availability": "it fails more often than promised",
    "not-judged": "something could not be checked",
    "retraining": "a retraining did not run well",
    "delivery": "alerts cannot be delivered",
    "watching": "nobody has looked for a while",
    "store-unreachable": "its store does not answer",
    "shedding": "it turns requests away",
}
_WELL = {
    "drift": "inputs look as usual",
    "freshness": "data is fresh",
    "latency": "answers are quick",
    "availability": "reads are answered",
    "quality": "answers are as good as they were",
    "expectation": "rows are as agreed",
    "schema": "columns are as planned",
}


@dataclass(frozen=True, slots=True)
class Health:
    """How a service is."""

    service: str
    word: Word
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        why = f" — {', '.join(self.reasons)}" if self.reasons else ""
        return f"{self.service}: {self.word}{why}"

    def to_json(self) -> dict[str, Any]:
        return {"service": self.service, "health": self.word, "reasons": list(self.reasons)}


def health(
    services: Iterable[ir.Service], findings: Sequence[Finding], alerts: Iterable[AlertState]
) -> list[Health]:
    """The health of each service: of what fires, and what was looked at and found well."""
    firing = [a for a in alerts if a.state == "firing"]
    out = []
    for service in services:
        own = [a for a in firing if service.name in a.models]
        seen = [f for f in findings if service.name in f.models]
        if own:
            word: Word = "failing" if any(a.severity == "critical" for a in own) else "needs a look"
            out.append(Health(service.name, word, tuple(_reasons(own))))
        elif not seen or all(f.state == "unknown" for f in seen):
            out.append(Health(service.name, "not watched", ()))
        else:
            out.append(Health(service.name, "healthy", tuple(_well(seen))))
    return out


def _reasons(alerts: Sequence[AlertState]) -> Iterable[str]:
    for condition in dict.fromkeys(a.condition for a in alerts):
        own = [a for a in alerts if a.condition == condition]
        names = sorted({a.subject for a in own if a.subject})
        some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        yield _PLAIN[condition] + (f" ({some})" if some else "")


def _well(findings: Sequence[Finding]) -> Iterable[str]:
    states: Mapping[str, set[str]] = {c: {f.state for f in findings if f.condition == c} for c in _WELL}
    return [
        said
        for condition, said in _WELL.items()
        if "ok" in states[condition] and "bad" not in states[condition]
    ]


__all__ = ["Health", "health"]
