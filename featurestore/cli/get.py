"""`fs get`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from featurestore.cli.complete import keys as complete_keys
from featurestore.cli.complete import services
from featurestore.cli.output import age_text, moment_text, print_json, print_table
from featurestore.cli.project import Settings, command

if TYPE_CHECKING:
    from featurestore import ir
    from featurestore.serving import OnlineFeatures
    from featurestore.types import DType

_WHOLE = re.compile(r"[+-]?\d{1,30}\Z", re.ASCII)


@command("get")
@click.argument("service", shell_complete=services)
@click.argument("keys", nargs=-1, metavar="KEY=VALUE...", shell_complete=complete_keys)
@click.option(
    "--at", metavar="TIME", help="As of a past moment; the status says when that is not exact. Default: now."
)
@click.option("--scaled", is_flag=True, help="By the scaler that the service is pinned to.")
def get_command(
    settings: Settings, service: str, keys: tuple[str, ...], at: str | None, scaled: bool
) -> None:
    """One feature vector, read online, with the reason for every missing value.

    A key given again asks for one more row; keys given once hold for all rows. Request columns are given like keys.
    SERVICE may name a version: delay@2.

    \b
    fs get delay carrier=UA carrier=DL origin=EWR dest=SFO tailnum=N14228
    """  # noqa: D301  \b keeps click from joining lines
    with settings.store() as store:
        found, views = store.service(service)
        given = _entities(keys, found, views)
        request = {name: given.pop(name) for name, _ in found.request if name in given}
        result = store.get_online_features(service, given, request=request, at=at, scaled=scaled)
    if settings.json:
        print_json(_as_json(result, found, views))
    else:
        _show(settings, result, found, views)


def _entities(given: Sequence[str], service: ir.Service, views: Mapping[str, ir.View]) -> dict[str, Any]:
    """Columns of keys: a list where a key was given again. Numbers where the key is one."""
    types = dict(service.request) | {
        column: next(k.dtype for k in views[read.view].keys if k.name == key)
        for read in service.reads
        for key, column in read.keys
    }
    columns: dict[str, list[Any]] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            wanted = " ".join(f"{column}=…" for column in types)
            raise click.UsageError(f"'{text}' is not KEY=VALUE\n  fs get {service.name} {wanted}")
        columns.setdefault(name, []).append(parsed(value, types.get(name)))
    return {name: values if len(values) > 1 else values[0] for name, values in columns.items()}


def parsed(text: str, dtype: DType | None) -> Any:
    """A value as its type wants it where the text can be read so; else the text, for the store to refuse."""
    from datetime import date, datetime
    from decimal import Decimal, InvalidOperation

    from featurestore.types import Bool, Date, DecimalType, Timestamp, is_float, is_integer

    try:
        if dtype is not None and is_integer(dtype):
            return int(text) if _WHOLE.match(text) else text
        if dtype is not None and is_float(dtype):
            return float(text)
        if isinstance(dtype, DecimalType):
            return Decimal(text)
        if dtype == Timestamp:
            return datetime.fromisoformat(text)
        if dtype == Date:
            return date.fromisoformat(text)
    except (ValueError, InvalidOperation):
        return text
    return {"true": True, "false": False}.get(text, text) if dtype == Bool else text


def _rows(
    result: OnlineFeatures, service: ir.Service, views: Mapping[str, ir.View]
) -> list[list[dict[str, Any]]]:
    """For each row its features, in order."""
    from featurestore.status import Status

    values = list(result.to_dict().items())
    read = {r.output: r.view for r in service.reads}
    rows = []
    for i in range(len(result)):
        row = []
        for j, (name, column) in enumerate(values):
            age = int(result.ages[i, j])
            row.append(
                {
                    "feature": name,
                    "value": _texted(column[i]),
                    "status": Status(int(result.statuses[i, j])).name,
                    "age_seconds": None if age < 0 else age / 1000,
                    "view": read.get(name),
                }
            )
        rows.append(row)
    return rows


def _texted(value: Any) -> Any:
    """A map's keys as text, as JSON has them."""
    return {str(k): v for k, v in value.items()} if isinstance(value, dict) else value


def _as_json(result: OnlineFeatures, service: ir.Service, views: Mapping[str, ir.View]) -> dict[str, Any]:
    return {
        "service": service.name,
        "at": moment_text(result.at),
        "rows": [
            {"row_id": name, "features": {f.pop("feature"): f for f in row}}
            for name, row in zip(result.row_ids, _rows(result, service, views), strict=True)
        ],
        "freshness_seconds": dict(result.freshness),
    }


def _show(
    settings: Settings, result: OnlineFeatures, service: ir.Service, views: Mapping[str, ir.View]
) -> None:
    for number, row in enumerate(_rows(result, service, views)):
        if len(result) > 1:
            click.echo(f"{chr(10) if number else ''}row {number + 1}")
        lines = [
            (
                f["feature"],
                f["value"],
                f["status"],
                age_text(f["age_seconds"]),
                age_text(result.freshness[f["view"]]),
            )
            for f in row
        ]
        print_table(("feature", "value", "status", "last event", "materialized"), lines)
    settings.note(f"as of {moment_text(result.at)}; the last two columns are how long before")
    never = sorted(view for view, seconds in result.freshness.items() if seconds is None)
    if never:
        settings.note(f"never materialized: {', '.join(never)}; `fs materialize` does")
