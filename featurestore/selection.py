"""`--select`: which views, and which services, a verb works on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from featurestore.errors import NotFound
from featurestore.ir import Plan, Service, View


def select_views(plan: Plan, select: str | Sequence[str] | None) -> list[View]:
    """The views of a plan that any of the selectors picks, each once, by name; all of them without a selector.

    A selector is a view's name, a service's name (the views it reads), `tag:…` or `owner:…`. Raises NotFound for one that
    picks nothing.
    """
    if select is None:
        return list(plan.views)
    picked = {selector: _views(plan, selector) for selector in _several(select)}
    return _chosen(plan, picked, picked)


def select_views_and_services(
    plan: Plan, select: str | Sequence[str] | None
) -> tuple[list[View], list[Service]]:
    """`select_views`, and the services of those names, tags and owners. A selector may pick one kind alone."""
    if select is None:
        return list(plan.views), list(plan.services)
    views = {selector: _views(plan, selector) for selector in _several(select)}
    services = {selector: _services(plan, selector) for selector in views}
    named = set().union(*services.values())
    either = {selector: views[selector] | services[selector] for selector in views}
    return _chosen(plan, views, either), [s for s in plan.services if s.name in named]


def _several(select: str | Sequence[str]) -> Iterable[str]:
    return [select] if isinstance(select, str) else select


def _chosen(plan: Plan, views: dict[str, set[str]], found: dict[str, set[str]]) -> list[View]:
    for selector, names in found.items():
        if not names:
            known = [v.name for v in plan.views] + [s.name for s in plan.services]
            raise NotFound("view or service", selector, known)
    chosen = set().union(*views.values())
    return [v for v in plan.views if v.name in chosen]


def _views(plan: Plan, selector: str) -> set[str]:
    services = {r.view for s in plan.services if s.name == selector for r in s.reads}
    return services | {v.name for v in plan.views if _picks(selector, v)}


def _services(plan: Plan, selector: str) -> set[str]:
    return {s.name for s in plan.services if _picks(selector, s)}


def _picks(selector: str, thing: View | Service) -> bool:
    kind, colon, value = selector.partition(":")
    if colon and kind == "tag":
        return value in thing.about.tags
    if colon and kind == "owner":
        return thing.about.owner == value
    return thing.name == selector
