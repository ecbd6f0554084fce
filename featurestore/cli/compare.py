"""`fs compare`."""

from __future__ import annotations

import click

from featurestore.cli.complete import services
from featurestore.cli.failures import ERROR, OK
from featurestore.cli.output import print_json
from featurestore.cli.project import Settings, command


@command("compare")
@click.argument("first", shell_complete=services)
@click.argument("second", shell_complete=services)
@click.option("--sample", type=click.IntRange(1), default=10_000, show_default=True, help="Rows, at most.")
@click.option("--start", metavar="TIME", help="Requests from this moment on.")
@click.option("--end", metavar="TIME", help="Requests before this moment.")
def compare_command(
    settings: Settings, first: str, second: str, sample: int, start: str | None, end: str | None
) -> int:
    """Two versions of a service on captured requests: what the second would have served in the place of the first.

    As fs compare delay@1 delay@2. Both are computed for the same requests, from the same events.

    Exit status: 0 when every feature that both have is equal in every row, 1 when one is not.
    """
    with settings.store() as store, settings.progress("computing both versions"):
        found = store.compare(first, second, sample=sample, start=start, end=end)
    if settings.json:
        print_json(found.to_json())
    else:
        click.echo(str(found))
    return OK if found.same else ERROR
