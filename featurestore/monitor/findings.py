"""What a run finds: one fact about one thing, bad, well or unknown."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from featurestore.conditions import CONDITIONS

State = Literal["bad", "ok", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One condition of one subject (a feature, a view, a slice; empty is the whole) in one run of a monitor.

    `figures` are numbers that alerts may compare. `start` and `end` bound the window in microseconds.
    """

    monitor: str
    on: str
    condition: str
    subject: str
    state: State
    said: str
    figures: Mapping[str, float] = field(default_factory=dict)
    start: int | None = None
    end: int | None = None
    models: tuple[str, ...] = ()
    """The services that read it."""

    def __post_init__(self) -> None:
        assert self.condition in CONDITIONS, self.condition

    def to_json(self) -> dict[str, Any]:
        return {
            "monitor": self.monitor,
            "on": self.on,
            "condition": self.condition,
            "subject": self.subject,
            "state": self.state,
            "said": self.said,
            "figures": dict(self.figures),
            "start": self.start,
            "end": self.end,
            "models": list(self.models),
        }


def identity(*parts: object) -> str:
    """Sixteen hexadecimal digits that are the same for the same parts."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


__all__ = ["Finding", "State", "identity"]
