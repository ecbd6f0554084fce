"""`fs dataset`, and `diff`, `reproduce` and `leakage` of sets that were written."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from featurestore.cli.complete import services
from featurestore.cli.failures import ERROR, OK
from featurestore.cli.length import length_of
from featurestore.cli.output import print_json, size_text
from featurestore.cli.project import Settings, command

if TYPE_CHECKING:
    from featurestore.knowledge import Knowledge
    from featurestore.labels import Immature
    from featurestore.training import TrainingSet

_OUT = click.option(
    "--out", required=True, type=click.Path(file_okay=False), metavar="DIR", help="An empty or new folder."
)


@command("dataset")
@click.argument("service", shell_complete=services)
@click.option(
    "--spine",
    required=True,
    type=click.Path(),
    metavar="FILE",
    help="The rows to enrich: Parquet or CSV with the service's keys and a moment.",
)
@_OUT
@click.option(
    "--timestamp",
    default="event_timestamp",
    show_default=True,
    metavar="COLUMN",
    help="The spine's column that says when each row is asked.",
)
@click.option(
    "--knowledge",
    type=click.Choice(["corrected", "arrived"]),
    default="corrected",
    show_default=True,
    help="All that is known today, or only what had arrived at each row's moment.",
)
@click.option(
    "--lag",
    multiple=True,
    metavar="[SOURCE=]LENGTH",
    help="Of --knowledge arrived: how long after its arrival an event is known, as 1h; of one source, as purchases=1h; or "
    "fitted, as captured rows say (fs log lag).",
)
@click.option(
    "--as-of",
    metavar="TIME",
    help="Of a service with labels: the moment by whose knowledge rows are labelled. Default: now.",
)
@click.option(
    "--immature",
    type=click.Choice(["drop", "keep"]),
    default="drop",
    show_default=True,
    help="What becomes of rows whose label is not mature: kept, they have none, and is_mature says so.",
)
@click.option("--no-labels", is_flag=True, help="Without the labels of the service.")
@click.option(
    "--bootstrap-from-log",
    is_flag=True,
    help="Take each cell that was served as it was served, and fill the holes.",
)
@click.option("--statuses", is_flag=True, help="A column more for each feature: why a value is missing.")
@click.option("--scaled", is_flag=True, help="By the scaler that the service is pinned to.")
@click.option(
    "--split",
    type=click.Choice(["time", "group", "random"]),
    help="Parts in folders of their own, by time, by the values of a column, or at random.",
)
@click.option(
    "--fractions", metavar="F,F[,F]", help="Of --split: the size of each part, as 0.8,0.2. They sum to 1."
)
@click.option("--at", metavar="TIME[,TIME]", help="Of --split time: the moments to cut at.")
@click.option("--gap", metavar="LENGTH", help="Of --split time: leave out this much before each cut, as 12h.")
@click.option("--column", metavar="COLUMN", help="Of --split group: the column whose values stay together.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of --split group and random.")
def write_command(
    settings: Settings,
    service: str,
    spine: str,
    out: str,
    timestamp: str,
    knowledge: Knowledge,
    lag: tuple[str, ...],
    as_of: str | None,
    immature: Immature,
    no_labels: bool,
    bootstrap_from_log: bool,
    statuses: bool,
    scaled: bool,
    split: str | None,
    fractions: str | None,
    at: str | None,
    gap: str | None,
    column: str | None,
    seed: int,
) -> None:
    """A point-in-time training set, written as Parquet: one row for each row of the spine, in its order.

    Each value holds what had happened strictly before the row's moment; with --knowledge arrived, what was known of it then.
    A service with labels has what came of each row after its features, as far as that is known --as-of a moment.
    The folder appears when all of it is written, with
    a manifest that says what it was made of.

    \b
    fs dataset diff A B              what differs between two sets
    fs dataset reproduce DIR --out   make a set again from its manifest
    fs dataset leakage DIR           what of a set may know its own answer
    """  # noqa: D301  \b keeps click from joining lines
    began = time.monotonic()
    asked = {"fractions": fractions, "at": at, "gap": gap, "column": column}
    if split is None and any(asked.values()):
        raise click.UsageError("--fractions, --at, --gap and --column say how to --split: name that too")
    lags = _lags(lag)
    with settings.store() as store, settings.progress("writing the training set"):
        training = store.get_historical_features(
            spine,
            service,
            timestamp=timestamp,
            knowledge=knowledge,
            lag=lags,
            statuses=statuses,
            scaled=scaled,
            labelled=not no_labels,
            as_of=as_of,
            immature=immature,
            bootstrap_from_log=bootstrap_from_log,
        )
        with _staged(Path(out)) as (staging, target):
            written = _parts(training, split, asked, seed)(staging)
    done = {
        name: _measured(target / name, [target / name / p.name for p in files])
        for name, files in written.items()
    }
    seconds = round(time.monotonic() - began, 3)
    features = len(training.service.columns)
    if settings.json:
        whole = done.get("") or {"parts": done}
        print_json({**whole, "seconds": seconds})
        return
    for name, part in done.items():
        click.echo(
            f"{target / name}: {part['rows']:,} rows, {len(part['columns'])} columns, {features} of them features, "
            f"{size_text(part['bytes'])}"
        )
        if any(part["left_out"].values()):
            settings.note(_left_out(part["left_out"]))
    settings.note(f"in {seconds:.1f} s")


def _left_out(counts: Mapping[str, int]) -> str:
    said = " and ".join(f"{n:,} {state.lower()}" for state, n in counts.items() if n)
    many = "row was" if sum(counts.values()) == 1 else "rows were"
    return f"{said} {many} left out: their label is not known as of that moment; --immature keep keeps them"


def _parts(
    training: TrainingSet, by: str | None, asked: Mapping[str, str | None], seed: int
) -> Callable[[Path], dict[str, list[Path]]]:
    """What writes the set into a folder, or its parts into folders below; "" is the name of the whole set."""
    if by is None:
        return lambda folder: {"": training.to_parquet(folder)}
    options: dict[str, Any] = {"seed": seed}
    if asked["fractions"] is not None:
        try:
            options["fractions"] = [float(f) for f in asked["fractions"].split(",")]
        except ValueError as error:
            raise click.UsageError(
                f"--fractions {asked['fractions']} are no numbers: write 0.8,0.2"
            ) from error
    if asked["at"] is not None:
        options["at"] = asked["at"].split(",")
    if asked["gap"] is not None:
        options["gap"] = length_of("--gap", asked["gap"])
    if asked["column"] is not None:
        options["column"] = asked["column"]
    return training.split(by, **options).to_parquet  # type: ignore[arg-type]


def _lags(given: tuple[str, ...]) -> timedelta | dict[str, timedelta] | Literal["fitted"] | None:
    """What `--lag` says, once for all sources or for one each time."""
    if not given:
        return None
    if given == ("fitted",):
        return "fitted"
    if len(given) == 1 and "=" not in given[0]:
        return length_of("--lag", given[0])
    lags: dict[str, timedelta] = {}
    for text in given:
        name, _, length = text.rpartition("=")
        if not name or name in lags:
            raise click.UsageError(
                f"--lag {text}: give one length for all sources, or each source once: --lag purchases=1h"
            )
        lags[name] = length_of("--lag", length)
    return lags


def _measured(folder: Path, files: list[Path]) -> dict[str, Any]:
    import pyarrow.parquet as pq

    from featurestore.datasets.manifest import load

    labels = load(folder).content.get("labels", {})
    return {
        "left_out": labels.get("left_out", {}),
        "rows": sum(pq.read_metadata(p).num_rows for p in files),
        "columns": pq.read_schema(files[0]).names,
        "bytes": sum(p.stat().st_size for p in files),
        "files": [str(p) for p in files],
    }


@contextmanager
def _staged(target: Path) -> Iterator[tuple[Path, Path]]:
    """A folder to write into that becomes `target` when all is written, and is gone when something went wrong."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} is there already, and not empty\n  name a new folder with --out")
    staging = target.absolute().with_name(f".{target.absolute().name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        yield staging, target
        staging.replace(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@command("diff")
@click.argument("first", type=click.Path())
@click.argument("second", type=click.Path())
@click.option(
    "--key",
    metavar="COLUMN[,COLUMN]",
    help="The columns that tell rows apart. Default: the columns of the spine, which the manifests name.",
)
def diff_command(settings: Settings, first: str, second: str, key: str | None) -> int:
    """What differs between two training sets: rows, cells, statuses, columns, and how they were made.

    Exit status: 0 when all rows are the same, 1 when some differ (or a set cannot be read).
    """
    from featurestore.datasets.diff import diff

    found = diff(first, second, None if key is None else key.split(","))
    if settings.json:
        print_json(_finite(found.to_json()))
    else:
        click.echo(str(found))
    return OK if found.same else ERROR


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: their names."""
    match value:
        case float() if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124  NaN
            return str(value)
        case Mapping():
            return {k: _finite(v) for k, v in value.items()}
        case list() | tuple():
            return [_finite(v) for v in value]
        case _:
            return value


@command("reproduce")
@click.argument("folder", metavar="DIR", type=click.Path())
@_OUT
@click.option(
    "--spine", type=click.Path(), metavar="FILE", help="The rows, where the set's own files are gone."
)
def reproduce_command(settings: Settings, folder: str, out: str, spine: str | None) -> int:
    """Make a training set again from its manifest, and say whether it came out the same, and what has changed.

    Exit status: 0 when every file has the bytes it had, 1 when one has not, or it cannot be made.
    """
    with (
        settings.store() as store,
        settings.progress("making the training set again"),
        _staged(Path(out)) as (staging, _),
    ):
        done = store.reproduce(folder, staging, spine=spine)
    if settings.json:
        said = {"identical": done.identical, "same_values": done.same_values, "changes": list(done.changes)}
        print_json({**said, "files": [str(Path(out) / p.name) for p in done.parts]})
    else:
        same = "with the same values, in other bytes" if done.same_values else "with other values"
        click.echo(f"{out}: {'the same, bit for bit' if done.identical else same}")
        for line in done.changes:
            click.echo(f"  {line}")
        if not done.same_values:
            settings.note(f"`fs dataset diff {folder} {out}` shows which")
    return OK if done.identical else ERROR


@command("leakage")
@click.argument("folder", metavar="DIR", type=click.Path())
@click.option(
    "--label", metavar="COLUMN", help="A column that is to be predicted. Default: the labels of the set."
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.95,
    show_default=True,
    help="A column that alone predicts a label with this score is suspect.",
)
def leakage_command(settings: Settings, folder: str, label: str | None, threshold: float) -> int:
    """What of a training set may know its own answer.

    Values that could be known only after the row's moment, columns that alone predict a label too well, and features that
    read a label's source.

    Exit status: 0 when there is nothing but notes, 1 when there is more.
    """
    with settings.store() as store, settings.progress("looking at the training set"):
        found = store.leakage(folder, label, threshold=threshold)
    if settings.json:
        print_json(found.to_json())
    else:
        click.echo(str(found))
    return OK if found.clean else ERROR


class _Dataset(click.Command):
    """`fs dataset SERVICE`, and beside it the commands that work on sets already written."""

    commands: Mapping[str, click.Command] = {
        "diff": diff_command,
        "leakage": leakage_command,
        "reproduce": reproduce_command,
    }

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if args and args[0] in self.commands:
            return self.commands[args[0]].make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


dataset_command = _Dataset(
    "dataset",
    callback=write_command.callback,
    params=write_command.params,
    help=write_command.help,
    context_settings=write_command.context_settings,
)
