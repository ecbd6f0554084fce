"""`fs scaler fit`, `refit`, `pin` and `show`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from featurestore.cli.complete import services
from featurestore.cli.output import moment_text, print_fields, print_json, print_table
from featurestore.cli.project import Settings, command, shared_options

if TYPE_CHECKING:
    from featurestore.statistics.scalers import Scaler
    from featurestore.store import FeatureStore

_ROWS = (
    click.option(
        "--spine", type=click.Path(), metavar="FILE", help="A training set of these rows: Parquet or CSV."
    ),
    click.option(
        "--dataset", type=click.Path(), metavar="DIR", help="A training set that `fs dataset` wrote."
    ),
    click.option(
        "--timestamp",
        default="event_timestamp",
        show_default=True,
        metavar="COLUMN",
        help="Of --spine: when rows are asked.",
    ),
)


def _rows(function: Any) -> Any:
    for option in reversed(_ROWS):
        function = option(function)
    return function


def _source(store: FeatureStore, service: str, spine: str | None, dataset: str | None, timestamp: str) -> Any:
    if (spine is None) == (dataset is None):
        raise click.UsageError("name the rows: --spine FILE, or --dataset DIR")
    return dataset if spine is None else store.get_historical_features(spine, service, timestamp=timestamp)


@command("fit")
@click.argument("service", shell_complete=services)
@_rows
def fit_command(
    settings: Settings, service: str, spine: str | None, dataset: str | None, timestamp: str
) -> None:
    """Fit a new version of a service's scaler on a training set. `fs scaler pin` makes it the one that is used."""
    with settings.store() as store, settings.progress("fitting"):
        found = store.fit_scaler(service, _source(store, service, spine, dataset, timestamp))
    if settings.json:
        print_json(found.to_json())
        return
    _show(found)
    settings.note(f"`fs scaler pin {service} {found.version}` makes it the one that scaled=True uses")


@command("refit")
@click.argument("service", shell_complete=services)
@_rows
@click.option(
    "--basis",
    type=int,
    metavar="N",
    help="The version to go on from. Default: the pinned one, else the newest.",
)
def refit_command(
    settings: Settings,
    service: str,
    spine: str | None,
    dataset: str | None,
    timestamp: str,
    basis: int | None,
) -> None:
    """Merge the rows that came after those of a scaler into a new version of it, and show what would move.

    What is known is not read again: rows of times that the scaler has seen are left out, and counted.
    """
    with settings.store() as store, settings.progress("fitting"):
        done = store.refit_scaler(service, _source(store, service, spine, dataset, timestamp), basis=basis)
    moves = [
        {
            "feature": m.feature,
            "kind": m.kind,
            "before": list(m.before),
            "after": list(m.after),
            "most": m.most,
        }
        for m in done.moves
    ]
    if settings.json:
        print_json({**done.scaler.to_json(), "new_rows": done.rows, "known_rows": done.known, "moves": moves})
        return
    click.echo(
        f"scaler {done.scaler.version} of {service}: {done.before.rows:,} rows of scaler {done.before.version}, "
        f"and {done.rows:,} that came since"
    )
    if done.known:
        click.echo(f"  {done.known:,} rows were known, and left out")
    rows = [
        (m.feature, m.kind, _said(m.before), _said(m.after), None if m.most is None else f"{m.most:.4g}")
        for m in done.moves
    ]
    print_table(("feature", "kind", "before", "after", "a value moves by at most"), rows)
    _warn(done.scaler.warnings)
    settings.note(f"nothing uses it yet: `fs scaler pin {service} {done.scaler.version}`")


@command("pin")
@click.argument("service", shell_complete=services)
@click.argument("version", type=int)
@click.option("--replace", is_flag=True, help="Even if the service's version has served with another one.")
def pin_command(settings: Settings, service: str, version: int, replace: bool) -> None:
    """Make VERSION of the scaler the one that a version of a service (delay@1; delay is the newest) is scaled by."""
    with settings.store() as store:
        reference = store.registry.service(service).reference
        store.pin_scaler(service, version, replace=replace)
    if settings.json:
        print_json({"service": reference, "scaler": version})
    else:
        click.echo(f"{reference} is scaled by scaler {version}")


@command("show")
@click.argument("service", shell_complete=services)
@click.option("--version", type=int, metavar="N", help="This version. Default: the pinned one.")
@click.option("--sql", is_flag=True, help="The scaler as DuckDB SQL.")
def show_command(settings: Settings, service: str, version: int | None, sql: bool) -> None:
    """The scalers of a service, which of its versions are pinned to them, and the numbers of one."""
    from featurestore.registry.scalers import pins, scalers
    from featurestore.scaling import outdated

    with settings.store() as store:
        found = store.registry.service(service)
        kept = scalers(store.registry, found.name)
        pinned = pins(store.registry, found.name)
        number = pinned.get(found.version) if version is None else version
        one = None if number is None else store.scaler(service, number)
        old = outdated(store.registry, found.name)
    if sql:
        click.echo((one or store.scaler(service)).to_sql())
        return
    rows = [
        {
            "scaler": e.version,
            "pinned_to": [f"{found.name}@{v}" for v, n in pinned.items() if n == e.version],
            "rows": e.scaler["rows"],
            "until": moment_text(e.scaler["until"]),
            "basis": e.scaler["basis"],
            "fitted_for": e.fitted_for,
            "fitted_on": e.fitted_on,
            "made_at": moment_text(e.made_at),
            "who": e.who,
        }
        for e in kept
    ]
    if settings.json:
        before = [{"pinned_to": o.reference, "scaler": o.scaler, "erased": o.erased} for o in old]
        print_json({"scalers": rows, "shown": None if one is None else one.to_json(), "outdated": before})
        return
    if not rows:
        click.echo(f"none yet: `fs scaler fit {service} --spine FILE`")
        return
    lines = [[", ".join(v) or None if isinstance(v, list) else v for v in row.values()] for row in rows]
    print_table([name.replace("_", " ") for name in rows[0]], lines)
    if one is not None:
        click.echo()
        _show(one)
    _warn(f"{o.reference}: {o.said}: {o.way_out}" for o in old)


def _show(scaler: Scaler) -> None:
    click.echo(click.style(f"scaler {scaler.version} of {scaler.service}", fg="cyan", bold=True))
    print_fields([("rows", scaler.rows), ("until", moment_text(scaler.until))])
    print_table(
        ("feature", "kind", "numbers"), [(s.feature, s.kind, _said(s.numbers)) for s in scaler.features]
    )
    _warn(scaler.warnings)


def _warn(warnings: Iterable[str]) -> None:
    for line in warnings:
        click.echo(f"  {line}")


def _said(numbers: tuple[float, ...]) -> str:
    """All of a few numbers; of many the ends and the middle."""
    if len(numbers) <= 3:
        return ", ".join(f"{n:.6g}" for n in numbers)
    middle = numbers[len(numbers) // 2]
    return f"{numbers[0]:.6g} … {middle:.6g} … {numbers[-1]:.6g}"


@click.group("scaler", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@shared_options
@click.pass_context
def scaler_command(ctx: click.Context, /, **options: Any) -> None:
    """What a service's features are scaled by: fitted on a training set, numbered, pinned to a version of the service."""
    ctx.obj = Settings.of(options, ctx.find_object(Settings))


for one in (fit_command, refit_command, pin_command, show_command):
    scaler_command.add_command(one)
