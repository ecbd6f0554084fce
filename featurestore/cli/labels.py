"""`fs labels`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from featurestore.cli.output import print_json
from featurestore.cli.project import Settings, command, shared_options


@click.group("labels", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@shared_options
@click.pass_context
def labels_command(ctx: click.Context, /, **options: Any) -> None:
    """What came of rows that were served."""
    ctx.obj = Settings.of(options, ctx.find_object(Settings))


@command("add")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--name", required=True, metavar="LABEL", help="The label's name.")
@click.option("--value", default="value", metavar="COLUMN", help="The column of the values. Default: value.")
@click.option("--at", metavar="COLUMN", help="The column that says when it came to pass. Default: now.")
def add_command(settings: Settings, file: str, name: str, value: str, at: str | None) -> None:
    """Keep labels of a file by their rows' ids.

    FILE is Parquet, CSV with a header, or JSON with an object a line, with the columns row_id and value. The same label again
    is taken once; another value is the next version of it. All of it is on disk when the command ends.
    """
    from featurestore.capturing import returned_file

    columns = returned_file(Path(file), value, at)
    with settings.store() as store, settings.progress(f"adding {Path(file).name}"):
        done = store.capture.labels(*columns[:2], name=name, at=columns[2])
    if settings.json:
        print_json({"name": name, **asdict(done)})
        return
    click.echo(
        f"{done.rows:,} labels '{name}': {done.new:,} new, {done.same:,} there already, {done.changed:,} changed; "
        f"{done.unknown:,} of rows unknown so far, {done.early:,} before their request"
    )


labels_command.add_command(add_command)
