"""`--select`: which views a verb works on."""

from __future__ import annotations

from collections.abc import Sequence

from featurestore.errors import NotFound
from featurestore.ir import Plan, Service, View


def select_views(plan: Plan, select: str | Sequence[str] | None) -> list[View]:
    """The views of a plan that any of the selectors picks, each once, by name; all of them without a selector.

    A selector is a view's name, a service's name (the views it reads), `tag:…` or `owner:…`. Raises NotFound for one that
    picks nothing.
    """
    if select is None:
        return list(plan.views)
    chosen: set[str] = set()
    for selector in [select] if isinstance(select, str) else select:
        picked = _picked(plan, selector)
        if not picked:
            known = [v.name for v in plan.views] + [s.name for s in plan.services]
            raise NotFound("view or service", selector, known)
        chosen |= picked
    return [v for v in plan.views if v.name in chosen]


def select_services(plan: Plan, select: str | Sequence[str] | None) -> list[Service]:
    """The services of a plan that any of the selectors names, by name, `tag:…` or `owner:…`; all of them without a selector."""
    if select is None:
        return list(plan.services)
    wanted = {select} if isinstance(select, str) else set(select)
    return [
        s
        for s in plan.services
        if wanted & {s.name, f"owner:{s.about.owner}", *(f"tag:{tag}" for tag in s.about.tags)}
    ]


def _picked(plan: Plan, selector: str) -> set[str]:
    kind, colon, value = selector.partition(":")
    if colon and kind == "tag":
        return {v.name for v in plan.views if value in v.about.tags}
    if colon and kind == "owner":
        return {v.name for v in plan.views if v.about.owner == value}
    services = {r.view for s in plan.services if s.name == selector for r in s.reads}
    return services | {v.name for v in plan.views if v.name == selector}
