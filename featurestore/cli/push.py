"""`fs push`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from featurestore.cli.complete import all_names
from featurestore.cli.output import moment_text, print_json
from featurestore.cli.project import Settings, command

if TYPE_CHECKING:
    from featurestore.stream.inbox import Pushed


@command("push")
@click.argument("source", shell_complete=all_names)
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
def push_command(settings: Settings, source: str, file: str) -> None:
    """Give the events of a file to the log or topic of a stream source.

    FILE is Parquet, CSV with a header, or JSON with an object a line, as its name ends. All of it is taken or, when an event
    does not fit, nothing; it is on disk, or acknowledged by the broker, when the command ends.
    """
    with settings.store() as store, settings.progress(f"pushing {Path(file).name}"):
        done = store.push(source, Path(file))
    if settings.json:
        from featurestore.stream.inbox import pushed_json

        print_json({"source": source, **pushed_json(done), "appended_at": moment_text(done.appended_at)})
        return
    if not done.rows:
        click.echo(f"{file} holds no event; nothing was pushed")
        return
    click.echo(f"{done.rows:,} events {_where(done)} of '{source}'")


def _where(done: Pushed) -> str:
    from featurestore.log.eventlog import Appended

    if isinstance(done, Appended):
        return f"at offsets {done.first_offset:,} to {done.last_offset:,}"
    runs = [f"{first:,} to {last:,} in partition {number}" for number, (first, last) in done.offsets.items()]
    return f"at offsets {', '.join(runs)} of the topic"
