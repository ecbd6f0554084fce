"""`fs push`."""

from __future__ import annotations

from pathlib import Path

import click

from featurestore.cli.complete import all_names
from featurestore.cli.output import moment_text, print_json
from featurestore.cli.project import Settings, command


@command("push")
@click.argument("source", shell_complete=all_names)
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
def push_command(settings: Settings, source: str, file: str) -> None:
    """Append the events of a file to the log of a stream source.

    FILE is Parquet, CSV with a header, or JSON with an object a line, as its name ends. All of it is appended or, when an
    event does not fit, nothing; it is on disk when the command ends.
    """
    with settings.store() as store, settings.progress(f"pushing {Path(file).name}"):
        done = store.push(source, Path(file))
    if settings.json:
        said = {"source": source, "rows": done.rows, "first_offset": done.first_offset}
        print_json({**said, "last_offset": done.last_offset, "appended_at": moment_text(done.appended_at)})
        return
    if not done.rows:
        click.echo(f"{file} holds no event; nothing was pushed")
        return
    click.echo(f"{done.rows:,} events at offsets {done.first_offset:,} to {done.last_offset:,} of '{source}'")
