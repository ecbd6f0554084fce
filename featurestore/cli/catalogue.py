"""`fs list` and `fs show`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from featurestore.cli.complete import all_names
from featurestore.cli.output import moment_text, print_fields, print_json, print_table
from featurestore.cli.project import Settings, command
from featurestore.errors import NotFound
from featurestore.time import duration_text

if TYPE_CHECKING:
    from featurestore import ir
    from featurestore.registry import ServiceVersion
    from featurestore.store import FeatureStore

KINDS = ("entities", "sources", "views", "features", "labels", "services")


@command("list")
@click.argument("kind", required=False, type=click.Choice(KINDS))
@click.option("--definitions", is_flag=True, help="The definitions, whatever is applied.")
def list_command(settings: Settings, kind: str | None, definitions: bool) -> None:
    """Entities, sources, views, features, labels and services, as applied.

    Before the first `fs apply`, and with --definitions, as defined.
    """
    with settings.store() as store:
        shown, plan = _plan(store, settings, definitions=definitions)
        versions = {} if definitions else _newest(store)
    tables: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "entities": lambda: [_entity_row(e) for e in plan.entities],
        "sources": lambda: [_source_row(s) for s in plan.sources],
        "views": lambda: [_view_row(v) for v in plan.views],
        "features": lambda: [{"view": v.name, **_feature_row(f)} for v in plan.views for f in v.features],
        "labels": lambda: [_label_row(x) for x in plan.labels],
        "services": lambda: [_service_row(s, versions.get(s.name)) for s in plan.services],
    }
    chosen = [kind] if kind else [k for k in KINDS if k != "features" and (plan.labels or k != "labels")]
    if settings.json:
        print_json({"from": shown, **{k: tables[k]() for k in ([kind] if kind else KINDS)}})
        return
    for number, name in enumerate(chosen):
        rows = tables[name]()
        if not kind:
            click.echo(f"{chr(10) if number else ''}{click.style(name, fg='cyan', bold=True)}")
        _print_rows(rows, indent="" if kind else "  ")


@command("show")
@click.argument("name", shell_complete=all_names)
@click.option("--definitions", is_flag=True, help="The definitions, whatever is applied.")
def show_command(settings: Settings, name: str, definitions: bool) -> None:
    """All there is to know about an entity, source, view, feature, label or service.

    A feature is named VIEW:FEATURE, or FEATURE alone; a version of a service SERVICE@2.
    """
    with settings.store() as store:
        shown, plan = _plan(store, settings, definitions=definitions)
        versions = [] if definitions else store.registry.services()
    found = list(_found(name, plan, versions))
    if not found:
        known = [x.name for group in _groups(plan) for x in group]
        features = [f.name for v in plan.views for f in v.features] + [o.name for o in _on_demand(plan)]
        raise NotFound(
            "entity, source, view, feature, label or service",
            name,
            {*known, *features} if features else known,
            shown,
        )
    if settings.json:
        print_json({"from": shown, "found": found})
        return
    for number, thing in enumerate(found):
        if number:
            click.echo()
        _print_thing(thing)


# ----------------------------------------------------------------------------------------------------------- what is shown


def _plan(store: FeatureStore, settings: Settings, *, definitions: bool) -> tuple[str, ir.Plan]:
    """What to show, and the words for where it comes from."""
    revision = store.registry.current()
    if definitions or revision.number == 0:
        if not definitions:
            settings.note(
                "nothing is applied yet: these are the definitions; `fs apply` makes them the ones in force"
            )
        return "the definitions", store.definitions()
    return f"revision {revision.number}", revision.plan


def _newest(store: FeatureStore) -> dict[str, ServiceVersion]:
    return {v.name: v for v in store.registry.services() if not v.retired}


def _found(name: str, plan: ir.Plan, versions: Sequence[ServiceVersion]) -> Iterator[dict[str, Any]]:
    """Everything of that name, as plain values."""
    bare, at, number = name.partition("@")
    view_name, colon, feature_name = name.partition(":")
    for entity in plan.entities:
        if entity.name == name:
            views = [v.name for v in plan.views if v.entity == name]
            labels = [x.name for x in plan.labels if x.view.entity == name]
            said = {"views": views, "labels": labels, **_about(entity.about)}
            yield {"kind": "entity", **_entity_row(entity), **said}
    for source in plan.sources:
        if source.name == name:
            yield {"kind": "source", **_source(source, plan)}
    for view in plan.views:
        if view.name == name:
            yield {"kind": "view", **_view(view, plan)}
        for feature in view.features:
            if feature.name == name or (colon and (view.name, feature.name) == (view_name, feature_name)):
                yield {"kind": "feature", "view": view.name, **_feature(view, feature, plan)}
    for asked in _on_demand(plan):
        if asked.name == name:
            services = [s.name for s in plan.services if any(o.name == name for o in s.on_demand)]
            yield {"kind": "on-demand feature", **_computed(asked), "services": services}
    for label in plan.labels:
        if label.name == name:
            yield {"kind": "label", **_label(label, plan)}
    mine = [v for v in versions if v.name == bare]
    if at:
        for version in mine:
            if str(version.version) == number:
                yield {"kind": "service", **_service(version.service), "versions": [_version_row(version)]}
        return
    for service in plan.services:
        if service.name == name:
            yield {"kind": "service", **_service(service), "versions": [_version_row(v) for v in mine]}


def _groups(plan: ir.Plan) -> tuple[Sequence[Any], ...]:
    return plan.entities, plan.sources, plan.views, plan.labels, plan.services


def _about(about: ir.About) -> dict[str, Any]:
    return {"description": about.description, "owner": about.owner, "tags": list(about.tags)}


def _entity_row(entity: ir.Entity) -> dict[str, Any]:
    keys = [{"name": name, "type": repr(dtype)} for name, dtype in entity.keys]
    return {"name": entity.name, "keys": keys, "description": entity.about.description}


def _location(location: ir.Location) -> str:
    from featurestore.registry import masked

    return masked(f"{location.kind} {location.path}")


def _source_row(source: ir.Source) -> dict[str, Any]:
    mode = "stream" if source.stream else "batch" if source.event_time else "static"
    where = _location(source.location)
    return {
        "name": source.name,
        "mode": mode,
        "where": where,
        "event_time": source.event_time,
        "columns": len(source.columns),
    }


def _source(source: ir.Source, plan: ir.Plan) -> dict[str, Any]:
    return {
        **_source_row(source),
        "stream": None if source.stream is None else _location(source.stream),
        "lateness": None if source.lateness is None else duration_text(source.lateness),
        "arrival_time": source.arrival_time,
        "event_id": source.event_id,
        "tiebreak": list(source.tiebreak),
        "columns": [{"name": name, "type": repr(dtype)} for name, dtype in source.columns],
        "views": [v.name for v in plan.views if v.source.name == source.name],
        "labels": [x.name for x in plan.labels if x.view.source.name == source.name],
        **_about(source.about),
    }


def _view_row(view: ir.View) -> dict[str, Any]:
    return {
        "name": view.name,
        "entity": view.entity,
        "source": view.source.name,
        "features": len(view.features),
        "ttl": None if view.ttl is None else duration_text(view.ttl),
        "description": view.about.description,
    }


def _view(view: ir.View, plan: ir.Plan) -> dict[str, Any]:
    from featurestore.expr import describe

    return {
        **_view_row(view),
        "keys": [{"name": k.name, "type": repr(k.dtype), "is": describe(k.value)} for k in view.keys],
        "filter": None if view.filter is None else describe(view.filter),
        "reads": sorted(view.reads),
        "ties_broken_by": list(view.order),
        "features": [_feature_row(f) for f in view.features],
        "services": [s.name for s in plan.services if any(r.view == view.name for r in s.reads)],
        **_about(view.about),
    }


def _feature_row(feature: ir.Feature) -> dict[str, Any]:
    from featurestore.expr import describe

    window = feature.window
    return {
        "feature": feature.name,
        "type": repr(feature.dtype),
        "aggregate": feature.aggregate,
        "of": ", ".join(map(describe, feature.inputs)) or None,
        "window": None
        if window is None
        else "lifetime"
        if window.size is None
        else duration_text(window.size),
        "hop": None if window is None else duration_text(window.hop),
        "where": None if feature.where is None else describe(feature.where),
        "default": feature.default,
    }


def _feature(view: ir.View, feature: ir.Feature, plan: ir.Plan) -> dict[str, Any]:
    services = [
        s.name
        for s in plan.services
        if any((r.view, r.feature) == (view.name, feature.name) for r in s.reads)
    ]
    return {
        **_feature_row(feature),
        "entity": view.entity,
        "source": view.source.name,
        "partials": _partials(view, feature),
        "services": services,
    }


def _partials(view: ir.View, feature: ir.Feature) -> list[str]:
    """What is kept per tile for a windowed feature: `Sum(amount)`."""
    from featurestore.aggregates import inputs_of
    from featurestore.expr import describe
    from featurestore.layout import layout_of

    if feature.window is None:
        return []
    layout = layout_of(view)
    kept = set(layout.parts[feature.name].values())
    slots = [slot for slot in layout.level(feature.window.hop).slots if slot.name in kept]
    args = [", ".join(map(describe, inputs_of(s.reduction))) for s in slots]
    return [f"{type(s.reduction).__name__}({arg})" for s, arg in zip(slots, args, strict=True)]


def _on_demand(plan: ir.Plan) -> list[ir.OnDemand]:
    return list(dict.fromkeys(o for s in plan.services for o in s.on_demand))


def _computed(feature: ir.OnDemand) -> dict[str, Any]:
    from featurestore import ir

    shown: dict[str, Any] = {
        "name": feature.name,
        "type": repr(feature.dtype),
        "is": feature.text,
        "of": sorted(feature.columns),
        "default": feature.default,
    }
    function = feature.expression
    if isinstance(function, ir.PythonFunction):
        shown |= {
            "marked": "a Python function: no other engine can compute it",
            "captured": [f"{name} = {value.splitlines()[0]}" for name, value in function.captured],
            "source": function.source,
        }
    return shown


def _label_row(label: ir.Label) -> dict[str, Any]:
    return {
        "name": label.name,
        "type": repr(label.dtype),
        "is": label.text,
        "entity": label.view.entity,
        "source": label.view.source.name,
        "gap": duration_text(label.gap) if label.gap else None,
        "horizon": duration_text(label.horizon),
        "lateness": duration_text(label.lateness) if label.lateness else None,
        "matures": label.matures,
        "description": label.about.description,
    }


def _label(label: ir.Label, plan: ir.Plan) -> dict[str, Any]:
    from featurestore import ir
    from featurestore.expr import describe

    view = label.view
    return {
        **_label_row(label),
        "observed": label.observed,
        "keys": [{"name": k.name, "type": repr(k.dtype), "is": describe(k.value)} for k in view.keys],
        "filter": None if view.filter is None else describe(view.filter),
        "reads": sorted(view.reads),
        "fingerprint": ir.label_fingerprint(label),
        "services": [s.name for s in plan.services if label.name in s.labels],
        **_about(label.about),
    }


def _service_row(service: ir.Service, version: ServiceVersion | None) -> dict[str, Any]:
    return {
        "name": service.name,
        "version": None if version is None else version.version,
        "columns": len(service.columns),
        "keys": list(dict.fromkeys(column for r in service.reads for _, column in r.keys)),
        "served_since": None if version is None else moment_text(version.first_served_at),
        "description": service.about.description,
    }


def _service(service: ir.Service) -> dict[str, Any]:
    return {
        "name": service.name,
        "keys": list(dict.fromkeys(column for r in service.reads for _, column in r.keys)),
        "request": {name: repr(dtype) for name, dtype in service.request},
        "labels": list(service.labels),
        "max_staleness": None if service.max_staleness is None else duration_text(service.max_staleness),
        "scale": {s.column: f"{s.kind}({', '.join(f'{n:g}' for n in s.numbers)})" for s in service.scale},
        "columns": [_column(service, name, repr(dtype)) for name, dtype in service.columns],
        **_about(service.about),
    }


def _column(service: ir.Service, name: str, dtype: str) -> dict[str, Any]:
    """A column of a service: the feature it reads, or the expression it is computed by; `by` marks a Python function."""
    computed = next((o for o in service.on_demand if o.name == name), None)
    if computed is not None:
        made_by = "python" if computed.is_python else ""
        return {"column": name, "type": dtype, "feature": computed.text, "keys": {}, "by": made_by}
    read = next(r for r in service.reads if r.output == name and not r.hidden)
    return {
        "column": name,
        "type": dtype,
        "feature": f"{read.view}:{read.feature}",
        "keys": dict(read.keys),
        "by": "",
    }


def _version_row(version: ServiceVersion) -> dict[str, Any]:
    return {
        "version": version.reference,
        "columns": len(version.service.columns),
        "served_since": moment_text(version.first_served_at),
        "retired": version.retired,
        "fingerprint": version.fingerprint,
    }


# ------------------------------------------------------------------------------------------------------------- for people


def _print_rows(rows: Sequence[dict[str, Any]], indent: str = "") -> None:
    """A table; columns that are empty in every row are left out."""
    if not rows:
        click.echo(f"{indent}none")
        return
    kept = [name for name in rows[0] if any(row[name] not in (None, "", [], {}) for row in rows)]
    headers = [name.replace("_", " ") for name in kept]
    print_table(headers, [[_said(row[name]) for name in kept] for row in rows], indent)


def _said(value: Any) -> Any:
    match value:
        case "":
            return None
        case list():
            return ", ".join(str(_said(v)) for v in value) or None
        case {"name": name, "type": dtype, "is": text}:
            return f"{name} {dtype}" if text == name else f"{name} {dtype} = {text}"
        case {"name": name, "type": dtype}:
            return f"{name} {dtype}"
        case dict():
            return ", ".join(k if k == v else f"{k} = {v}" for k, v in value.items()) or None
        case _:
            return value


def _print_thing(thing: dict[str, Any]) -> None:
    tables = {
        k: v for k, v in thing.items() if isinstance(v, list) and v and isinstance(v[0], dict) and k != "keys"
    }
    head = f"{thing['kind']} {thing.get('name') or thing['view'] + ':' + thing['feature']}"
    click.echo(click.style(head, fg="cyan", bold=True))
    left_out = (
        ("kind", "name", "feature", "source")
        if thing["kind"] == "on-demand feature"
        else ("kind", "name", "feature")
    )
    rest = [(k, v) for k, v in thing.items() if k not in tables and k not in left_out]
    print_fields((k.replace("_", " "), _said(v)) for k, v in rest)
    for name, rows in tables.items():
        click.echo(f"\n{click.style(name, bold=True)}")
        _print_rows(rows, "  ")
    if thing["kind"] == "on-demand feature" and "source" in thing:
        click.echo(f"\n{click.style('source', bold=True)}")
        for line in thing["source"].splitlines():
            click.echo(f"  {line}".rstrip())
