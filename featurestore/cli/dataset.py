"""`fs dataset`."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import click

from featurestore.cli.complete import services
from featurestore.cli.output import print_json
from featurestore.cli.project import Settings, command


@command("dataset")
@click.argument("service", shell_complete=services)
@click.option(
    "--spine",
    required=True,
    type=click.Path(),
    metavar="FILE",
    help="The rows to enrich: Parquet or CSV with the service's keys and a moment.",
)
@click.option(
    "--out", required=True, type=click.Path(file_okay=False), metavar="DIR", help="An empty or new folder."
)
@click.option(
    "--timestamp",
    default="event_timestamp",
    show_default=True,
    metavar="COLUMN",
    help="The spine's column that says when each row is asked.",
)
@click.option("--statuses", is_flag=True, help="A column more for each feature: why a value is missing.")
def dataset_command(
    settings: Settings, service: str, spine: str, out: str, timestamp: str, statuses: bool
) -> None:
    """A point-in-time training set, written as Parquet: one row for each row of the spine, in its order.

    Each value holds what had happened strictly before the row's moment. The folder appears when all of it is written.
    """
    import pyarrow.parquet as pq

    began = time.monotonic()
    target = Path(out)
    _must_be_empty(target)
    staging = target.absolute().with_name(f".{target.absolute().name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    with settings.store() as store, settings.progress("writing the training set"):
        training = store.get_historical_features(spine, service, timestamp=timestamp, statuses=statuses)
        try:
            written = [target / p.name for p in training.to_parquet(staging)]
            staging.replace(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    seconds = time.monotonic() - began
    rows = sum(pq.read_metadata(p).num_rows for p in written)
    columns = pq.read_schema(written[0]).names
    size = sum(p.stat().st_size for p in written)
    if settings.json:
        files = [str(p) for p in written]
        print_json(
            {"rows": rows, "columns": columns, "bytes": size, "files": files, "seconds": round(seconds, 3)}
        )
        return
    features = len(training.service.columns)
    click.echo(
        f"{target}: {rows:,} rows, {len(columns)} columns, {features} of them features, in {seconds:.1f} s"
    )


def _must_be_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already, and not empty\n  name a new folder with --out")
