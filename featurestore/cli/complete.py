"""What a shell may complete with: names of what is applied, read from the registry without any of the engines."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from featurestore.cli.project import Settings
from featurestore.errors import FeatureStoreError


def _plan(ctx: click.Context) -> tuple[list[str], list[str], list[str]]:
    """The names of views, of services, and of everything; none where there is no readable project."""
    from featurestore.registry import open_registry

    options = {name: ctx.params.get(name) for name in ("project", "env", "json", "quiet")}
    outer = ctx.parent.params if ctx.parent is not None else {}
    before = Settings.of({name: outer.get(name) for name in options})
    try:
        config = Settings.of(options, before).config()
        plan = open_registry(config.registry_url, config.root).current().plan
    except FeatureStoreError:
        return [], [], []  # nothing to complete with; the command itself will say why
    views, services = [v.name for v in plan.views], [s.name for s in plan.services]
    others = [x.name for group in (plan.entities, plan.sources, plan.labels) for x in group]
    return views, services, [*views, *services, *others]


def _items(names: list[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in sorted(set(names)) if name.startswith(incomplete)]


def services(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Services."""
    return _items(_plan(ctx)[1], incomplete)


def readable_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Views and services."""
    views, services, _ = _plan(ctx)
    return _items([*views, *services], incomplete)


def all_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Entities, sources, views and services."""
    return _items(_plan(ctx)[2], incomplete)


def keys(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """`key=` for each key column of the service that was named."""
    from featurestore.registry import open_registry

    if "=" in incomplete or not ctx.params.get("service"):
        return []
    outer = ctx.parent.params if ctx.parent is not None else {}
    names = ("project", "env", "json", "quiet")
    before = Settings.of({name: outer.get(name) for name in names})
    try:
        config = Settings.of({name: ctx.params.get(name) for name in names}, before).config()
        version = open_registry(config.registry_url, config.root).service(ctx.params["service"])
    except FeatureStoreError:
        return []
    columns = {column for read in version.service.reads for _, column in read.keys}
    return _items([f"{column}=" for column in columns], incomplete)
