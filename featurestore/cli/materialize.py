"""`fs materialize`."""

from __future__ import annotations

import time

import click

from featurestore.cli.complete import readable_names
from featurestore.cli.output import moment_text, print_json, print_table, size_text
from featurestore.cli.project import Settings, command


@command("materialize")
@click.option("--start", metavar="TIME", help="Leave out what happened before. Default: the beginning.")
@click.option("--end", metavar="TIME", help="Features as of this moment, exclusive. Default: now.")
@click.option(
    "--select",
    multiple=True,
    metavar="WHAT",
    shell_complete=readable_names,
    help="A view, a service, tag:NAME or owner:NAME; may be given again. Default: every view.",
)
def materialize_command(
    settings: Settings, start: str | None, end: str | None, select: tuple[str, ...]
) -> None:
    """Write the applied features to the online store, as of a moment.

    Times are ISO 8601, in UTC unless they say otherwise. Writing twice writes the same.
    """
    began = time.monotonic()
    with settings.store() as store, settings.progress("materializing") as say:
        done = store.materialize(
            start, end, list(select) or None, progress=lambda view, n: say(f"{view}  {n:,} entities")
        )
    seconds = time.monotonic() - began
    if settings.json:
        views = [
            {
                "view": m.view,
                "entities": m.entities,
                "bytes": m.bytes,
                "start": moment_text(m.start),
                "end": moment_text(m.end),
            }
            for m in done
        ]
        print_json({"views": views, "seconds": round(seconds, 3)})
        return
    rows = [(m.view, m.entities, size_text(m.bytes), moment_text(m.start), moment_text(m.end)) for m in done]
    print_table(("view", "entities", "size", "from", "as of"), rows)
    settings.note(f"{sum(m.entities for m in done):,} entities in {seconds:.1f} s")
