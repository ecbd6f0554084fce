"""`fs init`."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import click

from featurestore.cli.output import print_json
from featurestore.cli.project import Settings, command
from featurestore.errors import ConfigError


@dataclass(frozen=True, slots=True)
class _Begun:
    """What was written, what was assumed on the way, and what to type next."""

    files: list[Path]
    guesses: list[str]
    next_steps: list[str]


@command("init")
@click.argument("folder", required=False, metavar="[DIR]", type=click.Path(file_okay=False))
@click.option(
    "--template",
    type=click.Choice(["purchases", "empty"]),
    help="What to begin with: made-up purchases, or nothing. Default: purchases.",
)
@click.option(
    "--from",
    "source",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Begin with a Parquet or CSV file of yours: writes a source, a view and a service for it.",
)
@click.option("--until", metavar="TIME", help="When the made-up purchases end. Default: now.")
def init_command(
    settings: Settings, folder: str | None, template: str | None, source: str | None, until: str | None
) -> None:
    """A new project in DIR (here, by default), with data and definitions that work.

    Refuses a folder that is a project already, and overwrites nothing. The made-up purchases are the same for the same
    moment. With --from, what was guessed about the file is said, and written as definitions to be mended.
    """
    if template is not None and source is not None:
        raise click.UsageError("--template and --from are two ways to begin\n  give one of them")
    root = Path(folder or settings.folder or ".")
    if (root / "fs.toml").exists():
        raise ConfigError(
            f"{root}: there is a project here already\n  `fs init DIR` makes one in another folder"
        )
    begun = (
        _from_template(root, template or "purchases", until)
        if source is None
        else _from_file(root, Path(source))
    )
    away = os.path.relpath(root)
    steps = begun.next_steps if away == "." else [f"cd {away}", *begun.next_steps]
    if settings.json:
        files = [str(p) for p in begun.files]
        print_json({"folder": str(root), "files": files, "guesses": begun.guesses, "next_steps": steps})
        return
    for path in begun.files:
        click.echo(f"wrote {path}")
    for guess in begun.guesses:
        click.echo(f"guessed: {guess}")
    click.echo("\nnext:")
    for step in steps:
        click.echo(f"  {step}")


def _from_template(root: Path, template: str, until: str | None) -> _Begun:
    from featurestore.templates import write_data, write_files

    end = _moment(until)
    data = [] if template == "empty" else [root / "data"]
    if any(p.exists() for p in data):
        raise ConfigError(
            f"{root}: there is a data folder already\n  `fs init DIR` makes a project in another folder"
        )
    files = write_files(template, root)
    files += write_data(template, root, end)
    if template == "empty":
        return _Begun(files, [], ["edit definitions.py", "fs plan"])
    at = "" if until is None else f" --at {until}"
    as_of = "" if until is None else f" --end {until}"
    steps = [
        "fs apply --yes",
        f"fs materialize{as_of}",
        f"fs get disputes card_id=1001 merchant=m07{at}",
        "fs dataset disputes --spine data/spine.parquet --out training",
    ]
    return _Begun(files, [], steps)


def _from_file(root: Path, source: Path) -> _Begun:
    from featurestore.guess import guess
    from featurestore.templates import write_files

    guessed = guess(source, root)
    files = write_files("empty", root, {"definitions.py": guessed.definitions})
    return _Begun(files, list(guessed.said), list(guessed.next_steps))


def _moment(text: str | None) -> int:
    from featurestore.time import moment

    return (time.time_ns() // 1000) if text is None else moment(text)
