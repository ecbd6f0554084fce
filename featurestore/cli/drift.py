"""`fs drift`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from featurestore.cli.complete import all_names
from featurestore.cli.failures import ERROR, OK
from featurestore.cli.output import print_json, print_table
from featurestore.cli.project import Settings, command

if TYPE_CHECKING:
    from featurestore.drift import DriftReport, FeatureDrift

_MARKS = {"drifted": "red", "stable": "green", "not judged": "yellow"}


@command("drift")
@click.argument("name", shell_complete=all_names)
@click.option(
    "--baseline",
    metavar="BASELINE",
    help="training, before, previous, 'previous 28d', 'season 8', A..B, or the folder of a training set.",
)
@click.option(
    "--window", metavar="WINDOW", help="What is looked at: 1d, 7d, 6h, or A..B. Default: one partition."
)
@click.option(
    "--by", metavar="COLUMN", help="Slice by slice: each value of this column beside its own baseline."
)
@click.option("--at", metavar="TIME", help="The end of the window. Default: the end of what there is.")
@click.option(
    "--origin", metavar="ORIGIN", help="Of kept statistics: served, stream, materialized or training."
)
@click.option("--hourly", is_flag=True, help="Of a source's rows: by hours, for windows shorter than a day.")
@click.option(
    "--effect", type=float, metavar="SD", help="How much has to move, in standard deviations. Default: 0.1."
)
@click.option(
    "--alpha", type=float, metavar="SHARE", help="False among what is called drifted, at most. Default: 0.01."
)
@click.option("--min-rows", type=int, metavar="N", help="Rows needed on both sides. Default: 100.")
@click.option(
    "--test",
    "tests",
    multiple=True,
    metavar="TEST",
    help="A test that decides, in place of the default ones.",
)
@click.option("--all", "everything", is_flag=True, help="Every feature, not only those that drifted.")
def drift_command(
    settings: Settings,
    name: str,
    baseline: str | None,
    window: str | None,
    by: str | None,
    at: str | None,
    origin: str | None,
    hourly: bool,
    effect: float | None,
    alpha: float | None,
    min_rows: int | None,
    tests: tuple[str, ...],
    everything: bool,
) -> int:
    """Whether values still look like those of a baseline.

    NAME is a service or view with statistics, a source or view whose rows are read now, or the folder of a training set.

    \b
    fs drift delay                                   served against trained on
    fs drift weather --window 7d --baseline 'season 8' --by origin
    fs drift sets/june --baseline sets/january --by carrier
    """  # noqa: D301  \b keeps click from joining lines
    from featurestore.monitor.drifting import drift_of_sets, limits_of

    limits = limits_of(effect, alpha, min_rows, tests)
    if _is_set(name):
        if baseline is None or not _is_set(baseline):
            raise click.UsageError("a training set is compared with another one: --baseline DIR")
        report = drift_of_sets(name, baseline, by=by, limits=limits)
    else:
        with settings.store() as store, settings.progress("looking at values"):
            report = store.drift(
                name, baseline, window=window, by=by, at=at, origin=origin, hourly=hourly, limits=limits
            )
    if settings.json:
        print_json({"name": name, **report.to_json()})
    else:
        show(settings, report, everything=everything)
    return ERROR if report.verdict == "drifted" else OK


def _is_set(name: str) -> bool:
    path = Path(name)
    return (path / "_manifest.json").exists() or (path.suffix == ".parquet" and path.is_file())


def show(settings: Settings, report: DriftReport, *, everything: bool = False) -> None:
    """For people: what drifted, what could not be judged and why, and a line of sum."""
    settings.note(f"window:   {report.window}\nbaseline: {report.baseline}")
    for change in report.schema:
        click.echo(f"{click.style('schema', fg='red')}  {change.said}")
    if report.volume is not None and report.volume.odd:
        click.echo(f"{click.style('rows', fg='red')}  {report.volume.said}")
    told = [f for f in report.features if everything or f.verdict != "stable"]
    order = {"drifted": 0, "not judged": 1, "stable": 2}
    told.sort(key=lambda f: (order[f.verdict], -f.effect, f.feature))
    if told:
        sliced = any(f.slice is not None for f in told)
        heads = ("feature", *(("slice",) if sliced else ()), "verdict", "effect", "p", "rows", "what")
        print_table(heads, (_row(f, sliced=sliced) for f in told))
    for note in report.notes:
        settings.note(note)
    judged = len(report.features) - len(report.not_judged)
    colour = _MARKS[report.verdict]
    summary = (
        f"{len(report.drifted)} of {judged} judged drifted, {len(report.not_judged)} could not be judged"
    )
    click.echo(f"{click.style(report.verdict, fg=colour, bold=True)}: {summary}")


def _row(f: FeatureDrift, *, sliced: bool) -> tuple[object, ...]:
    worst = f.worst
    effect = None if worst is None or f.verdict == "not judged" else f"{abs(worst.effect):.2f}"
    p = None if worst is None or worst.adjusted is None else f"{worst.adjusted:.2g}"
    rows = f"{f.rows[0]:,} / {f.rows[1]:,}"
    return (f.feature, *((f.slice,) if sliced else ()), f.verdict, effect, p, rows, f.said or "-")
