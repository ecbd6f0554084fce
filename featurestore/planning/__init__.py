"""What would change and what it costs, as a record; and then exactly that.

`diff` compares the plan in force with the one wanted, `apply` commits a `ChangePlan` and never looks at
definitions again. What a change means is decided by fingerprints alone; the words beside it are for people.
"""

from __future__ import annotations

from dataclasses import asdict, replace

from featurestore import ir
from featurestore.errors import PlanConflict, RegistryError, ServiceImmutable
from featurestore.planning.cost import online_bytes
from featurestore.planning.diff import diff, feature_digest
from featurestore.planning.records import Action, Change, ChangePlan, Class, Cost, Draft, Kind, RowsOf
from featurestore.planning.words import render, summary
from featurestore.registry import Registry, Revision, ServiceVersion, version_of


def plan(registry: Registry, desired: ir.Plan, rows_of: RowsOf) -> ChangePlan:
    """What applying `desired` to this registry would do."""
    current = registry.current()
    return diff(current, registry.services(), desired, rows_of)


def apply(registry: Registry, change_plan: ChangePlan, who: str, at: int) -> Revision:
    """Makes the plan's own `desired` the next revision, at `at` (UTC microseconds), or nothing at all.

    An empty plan writes nothing. A blocked one raises ServiceImmutable when it would break a service that has
    served, else RegistryError, with every reason. PlanConflict when somebody applied since the plan was made.
    """
    if change_plan.blocked:
        breaks = any(c.effect == "breaking" for c in change_plan.changes)
        raise (ServiceImmutable if breaks else RegistryError)("\n\n".join(change_plan.blocked))
    if change_plan.is_empty:
        current = registry.current()
        if current.number != change_plan.base_revision:
            raise PlanConflict(
                f"registry {registry.place} is at revision {current.number}, and this was planned for "
                f"revision {change_plan.base_revision}\n  plan again"
            )
        return current
    return registry.commit(
        change_plan.base_revision,
        change_plan.desired,
        [_version(change_plan.desired, draft) for draft in change_plan.drafts],
        [asdict(change) for change in change_plan.changes],
        who,
        at,
        retire=change_plan.retired,
        description=summary(change_plan),
    )


def _version(desired: ir.Plan, draft: Draft) -> ServiceVersion:
    version = version_of(desired, draft.service, draft.version)
    if version.fingerprint != draft.fingerprint:
        raise RegistryError(
            f"{version.reference} means something else to this version of featurestore than to the one that "
            "planned it\n  plan again"
        )
    return version


def readable(version: ServiceVersion, current: ir.Plan) -> tuple[ir.Service, dict[str, ir.View]]:
    """A version of a service, pointed at what is materialised today, and the views it reads by name.

    A read goes to the feature of the plan in force that means the same, whatever its view is called now and
    whatever else that view holds. Outputs and their order are the version's own. When the plan lacks the
    meaning of a read, all of it is as it was frozen: that can happen to retired versions alone.
    """
    now: dict[str, list[tuple[ir.View, str]]] = {}
    for view in current.views:
        for feature in view.features:
            now.setdefault(feature_digest(view, feature.name), []).append((view, feature.name))
    reads, views = [], {}
    for read in version.service.reads:
        same = now.get(feature_digest(version.view(read.view), read.feature), [])
        if not same:
            return version.service, {v.name: v for v in version.views}
        view, name = min(same, key=lambda found: (found[0].name, found[1]) != (read.view, read.feature))
        reads.append(replace(read, view=view.name, feature=name))
        views[view.name] = view
    return replace(version.service, reads=tuple(reads)), views


__all__ = [
    "Action",
    "Change",
    "ChangePlan",
    "Class",
    "Cost",
    "Draft",
    "Kind",
    "RowsOf",
    "apply",
    "diff",
    "online_bytes",
    "plan",
    "readable",
    "render",
    "summary",
]
