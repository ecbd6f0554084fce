"""What would change, as a record that can be saved, read by people, and applied later or elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from featurestore import ir
from featurestore.errors import RegistryError

Kind = Literal["entity", "source", "view", "label", "service"]

Action = Literal["added", "changed", "removed"]

Class = Literal["metadata only", "new", "backfill", "state-compatible", "breaking", "removed"]
"""What a change asks of what is stored and of who reads it.

- `metadata only`: no value can change.
- `new`: a thing that was not there.
- `backfill`: what is stored is another thing now, and is materialised anew.
- `state-compatible`: values change, and what is stored stays valid.
- `breaking`: a service that has served would read something else; refused.
- `removed`: a thing that is no longer there.
"""

RowsOf = Callable[[ir.Source], int | None]
"""How many rows a source has, as far as is known."""

FORMAT = 1

_AGAIN = "`fs plan --out FILE` writes one"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a change asks for; None is not known.

    `rows` and `bytes` are read from the source once: columns in their physical width, a text as 16 bytes.
    `online_bytes` is kept per entity, at most: every tile of every window filled.
    """

    rows: int | None
    bytes: int | None
    online_bytes: int | None


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that changes. `reasons` say which fields, in words: `hop of count_1h 1h -> 5m`.

    `cost` is None where nothing has to be read or stored.
    """

    kind: Kind
    name: str
    action: Action
    effect: Class
    reasons: tuple[str, ...]
    cost: Cost | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """The version number that a service of the plan gets, and its fingerprint when that was decided."""

    service: str
    version: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class ChangePlan:
    """All that applying would do, whole: it can be saved, read by people, and applied later or elsewhere.

    `blocked` are the reasons why it cannot be applied, all of them; `warnings` do not stop it.
    """

    base_revision: int
    desired: ir.Plan
    changes: tuple[Change, ...]
    drafts: tuple[Draft, ...] = ()
    retired: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()

    def __str__(self) -> str:
        from featurestore.planning.words import render

        return "\n".join(render(self))

    def _repr_html_(self) -> str:
        from featurestore.planning.words import plan_html

        return plan_html(self)

    @property
    def is_empty(self) -> bool:
        """Whether nothing would change."""
        return not self.changes

    def to_json(self) -> str:
        """One canonical text, sealed with its digest."""
        value = {
            "format": FORMAT,
            "base_revision": self.base_revision,
            "desired": ir.to_json(self.desired),
            "changes": [asdict(c) for c in self.changes],
            "drafts": [asdict(d) for d in self.drafts],
            "retired": self.retired,
            "warnings": self.warnings,
            "blocked": self.blocked,
        }
        return ir.canonical({"plan": value, "digest": ir.digest(value)})

    @staticmethod
    def from_json(text: str) -> ChangePlan:
        """The change plan that `to_json` wrote. Raises RegistryError when the text is none, or was edited."""
        try:
            sealed = json.loads(text)
            value = sealed["plan"]
            if value["format"] != FORMAT:
                raise RegistryError(f"the plan has format {value['format']}, not {FORMAT}\n  {_AGAIN}")
            if sealed["digest"] != ir.digest(value):
                raise RegistryError(
                    f"the plan was changed after it was saved: its digest differs\n  {_AGAIN}"
                )
            return ChangePlan(
                base_revision=value["base_revision"],
                desired=ir.from_json(value["desired"]),
                changes=tuple(_change(c) for c in value["changes"]),
                drafts=tuple(Draft(**d) for d in value["drafts"]),
                retired=tuple(value["retired"]),
                warnings=tuple(value["warnings"]),
                blocked=tuple(value["blocked"]),
            )
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise RegistryError(f"not a saved plan: {type(error).__name__} {error}\n  {_AGAIN}") from error


def _change(value: Mapping[str, Any]) -> Change:
    cost = None if value["cost"] is None else Cost(**value["cost"])
    return Change(**{**value, "reasons": tuple(value["reasons"]), "cost": cost})
