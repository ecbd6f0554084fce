"""What a read of definitions that were not applied is made of: things out of a notebook, and names of things in files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

from featurestore import declare as d
from featurestore.errors import NotFound

Item = str | d.FeatureView | d.ViewOn | d.FeatureRef | d.OnDemand
Asked = Item | d.FeatureService | Sequence[Item]

Load = Callable[[], Sequence[d.Declaration]]


def declarations_of(asked: Asked, load: Load) -> tuple[d.FeatureService, list[d.Declaration]]:
    """The service that `asked` is, and all that has to be lowered for it.

    A name, `view` or `view:feature`, is looked up among what is asked for beside it, then in the files that `load` reads.
    What on-demand features read is looked up so too. A thing at hand stands for whatever the files say under its name; two
    different ones of one name stay two, and lowering says so. Raises NotFound for a view that is nowhere.
    """
    load = cache(load)  # two loads make two of each thing
    if isinstance(asked, d.FeatureService):
        service, given = asked, d.declarations_in([*asked.features, *asked.labels])
    else:
        single = isinstance(asked, str | d.FeatureView | d.ViewOn | d.FeatureRef | d.OnDemand)
        items: list[Any] = [asked] if single else list(asked)  # type: ignore[arg-type]
        given = d.declarations_in(items)
        service = d.FeatureService("selection", [_item(i, given, load) for i in items])
    kept = _once(given)
    for more in (
        d.declarations_in([*service.features, *service.labels]),
        _read_on_demand(service, given, load),
    ):
        taken = {_title(x) for x in kept}
        kept += [x for x in more if _title(x) not in taken]
    return service, [*kept, service]


def _item(item: Any, given: Iterable[d.Declaration], load: Load) -> Any:
    if not isinstance(item, str):
        return item
    name, _, feature = item.partition(":")
    views = {v.name: v for v in given if isinstance(v, d.FeatureView)}
    if name not in views:
        views = {v.name: v for v in load() if isinstance(v, d.FeatureView)} | views
    if name not in views:
        raise NotFound("feature view", name, views)
    return views[name][feature] if feature else views[name]


def _read_on_demand(
    service: d.FeatureService, given: Iterable[d.Declaration], load: Load
) -> list[d.Declaration]:
    """The views and request sources of the files that on-demand features read: an expression has their names alone."""
    columns: set[str] = set()
    for item in service.features:
        if isinstance(item, d.OnDemand):
            columns |= item.columns
    views = {c.partition("[")[0].partition(".")[0] for c in columns if "." in c}
    asked = {c for c in columns if "." not in c}
    at_hand = {v.name for v in given if isinstance(v, d.FeatureView)}
    if not asked and views <= at_hand:
        return []
    wanted = [v for v in load() if isinstance(v, d.FeatureView) and v.name in views - at_hand]
    requests = [r for r in load() if isinstance(r, d.RequestSource) and asked & set(r.columns)]
    return d.declarations_in([*wanted, *requests])


def _once(given: Iterable[d.Declaration]) -> list[d.Declaration]:
    """Without entities and sources that a cell run again has made again just the same."""
    kept: list[d.Declaration] = []
    for x in given:
        plain = isinstance(x, d.Entity | d.BatchSource | d.StreamSource | d.RequestSource)
        if not (plain and any(type(k) is type(x) and k == x for k in kept)):
            kept.append(x)
    return kept


def _title(x: d.Declaration) -> tuple[str, str]:
    kind = "source" if isinstance(x, d.BatchSource | d.StreamSource) else type(x).__name__
    return kind, x.name
