"""What a registry holds, as frozen records. Instants are UTC microseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from featurestore.ir import Plan, Service, View, service_fingerprint


@dataclass(frozen=True, slots=True)
class Revision:
    """One applied plan. Number 0 is the empty plan that every registry begins with, at no time."""

    number: int = 0
    created_at: int | None = None
    author: str = ""
    description: str = ""
    plan: Plan = field(default_factory=Plan)


@dataclass(frozen=True, slots=True)
class RevisionSummary:
    """A revision without its plan."""

    number: int
    created_at: int
    author: str
    description: str


@dataclass(frozen=True, slots=True)
class ServiceVersion:
    """One version of a service and all it needs to be read: `views` are whole, sources included, by name.

    `first_served_at` is None until it has served; from then on the definition never changes. A retired
    version is no longer found by the bare name, and still is by its number.
    """

    version: int
    fingerprint: str
    service: Service
    views: tuple[View, ...]
    first_served_at: int | None = None
    retired: bool = False

    @property
    def name(self) -> str:
        return self.service.name

    @property
    def reference(self) -> str:
        """`delay@2`."""
        return f"{self.name}@{self.version}"

    @property
    def has_served(self) -> bool:
        return self.first_served_at is not None

    def view(self, name: str) -> View:
        return next(v for v in self.views if v.name == name)


def version_of(plan: Plan, name: str, version: int) -> ServiceVersion:
    """The service of a plan under a version number, with the views it reads."""
    service = plan.service(name)
    views = {r.view: plan.view(r.view) for r in service.reads}
    frozen = tuple(view for _, view in sorted(views.items()))
    return ServiceVersion(version, service_fingerprint(service, views), service, frozen)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what when. `details` are plain JSON values."""

    at: int
    who: str
    what: str
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CertificateEntry:
    """How one verification of a view ended. `fingerprint` is the view's, so it holds for whatever means the same.

    `outcome` is `certified` for a pass; `details` are plain JSON values.
    """

    fingerprint: str
    view: str
    made_at: int
    who: str
    cells: int
    outcome: str
    details: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        return self.outcome == "certified"
