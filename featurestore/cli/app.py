"""The group of commands, its help, and what becomes of errors: exit statuses are decided here and nowhere else."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click
from click.shell_completion import CompletionItem

from featurestore.cli.failures import INTERRUPTED, OK, explain, gone_away, interrupted, noticing_interrupts
from featurestore.cli.project import Settings, shared_options


@dataclass(frozen=True, slots=True)
class Entry:
    """A command that is not imported yet: its section and line in the help, and the module that holds it."""

    section: str
    summary: str
    module: str


COMMANDS = {
    "init": Entry("Begin", "A new project, with data and definitions that work.", "init"),
    "doctor": Entry("Begin", "Whether everything is reachable, fresh and consistent.", "doctor"),
    "plan": Entry("Definitions", "What applying would change, and what it costs.", "plan"),
    "apply": Entry("Definitions", "Make the definitions the ones in force.", "plan"),
    "list": Entry("Definitions", "Entities, sources, views, features, labels, services.", "catalogue"),
    "show": Entry("Definitions", "All there is to know about one of them.", "catalogue"),
    "compile": Entry("Definitions", "The SQL that a view becomes.", "compile"),
    "explain": Entry(
        "Definitions", "What a view or feature computes, in words, pictures and SQL.", "explain"
    ),
    "lineage": Entry("Definitions", "Where a column comes from, and what is made of it.", "lineage"),
    "verify": Entry("Definitions", "Whether every engine gives the same values.", "verify"),
    "materialize": Entry("Values", "Write features to the online store.", "materialize"),
    "holes": Entry("Values", "What is missing from the online store.", "materialize"),
    "push": Entry("Values", "Append the events of a file to the log of a source.", "push"),
    "stream": Entry("Values", "Keep online values fresh from pushed events.", "stream"),
    "log": Entry("Values", "What was served and captured: status, compact, lag.", "log"),
    "labels": Entry("Values", "Labels for rows that were served.", "labels"),
    "erase": Entry("Values", "Take one entity out of everything that is kept.", "erase"),
    "get": Entry("Values", "One feature vector, read online.", "get"),
    "dataset": Entry("Values", "A point-in-time training set, written as Parquet.", "dataset"),
    "consumers": Entry("Values", "How far each trainer of a service's matured rows is.", "consumers"),
    "compare": Entry("Values", "Two versions of a service on captured requests.", "compare"),
    "why": Entry("Values", "Why a served value is what it is, and the events behind it.", "why"),
    "stats": Entry("Values", "What the values of a service, a view or a training set look like.", "stats"),
    "scaler": Entry("Values", "What a service's features are scaled by: fit, refit, pin, show.", "scaler"),
    "validate": Entry("Watching", "Whether rows are as they are expected to be.", "validate"),
    "drift": Entry("Watching", "Whether values still look like those of a baseline.", "drift"),
    "monitor": Entry("Watching", "Look at everything that is watched, tell whom it concerns.", "monitor"),
    "alerts": Entry("Watching", "What fires: list, acknowledge, snooze.", "alerts"),
    "triggers": Entry("Watching", "Whether a model is to be trained again, and why.", "triggers"),
    "serve": Entry("Serving", "Features over HTTP.", "serve"),
    "key": Entry("Serving", "Keys for the server: add, list, revoke.", "key"),
    "completion": Entry("Shell", "The script that lets a shell complete what you type.", "completion"),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports the one that is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"featurestore.cli.{COMMANDS[name].module}")
        command = getattr(module, f"{name}_command")
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            from featurestore.errors import nearest

            raise click.UsageError("\n  ".join([f"no command '{args[0]}'", *nearest(args[0], COMMANDS)]), ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # click would call it an error of ours
            raise click.exceptions.Exit(gone_away()) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            rows = [(f"{n:<{width}}", e.summary) for n, e in COMMANDS.items() if e.section == section]
            with formatter.section(section):
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [n for n in COMMANDS if n.startswith(incomplete)]
        return [CompletionItem(n, help=COMMANDS[n].summary) for n in found] + click.Command.shell_complete(
            self, ctx, incomplete
        )


EPILOG = """\b
Exit status: 0 fine, 1 an error or a finding, 2 `fs plan` found changes
or the command line is wrong, 130 interrupted.

Begin with `fs init`. `fs COMMAND --help` says more about a command."""


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
)
@click.option("--version", is_flag=True, help="Print the version.")
@shared_options
@click.pass_context
def cli(ctx: click.Context, /, version: bool, **options: Any) -> int | None:
    """Define features once; train and serve them with the same values."""
    ctx.obj = Settings.of(options)
    if "NO_COLOR" in os.environ:
        ctx.color = False
    if version:
        _print_version(ctx.obj)
        ctx.exit()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
    return None


def _print_version(settings: Settings) -> None:
    from featurestore.cli.output import print_json
    from featurestore.cli.version import version

    if settings.json:
        print_json({"featurestore": version()})
    else:
        click.echo(f"featurestore {version()}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the exit status. What it prints besides values goes to stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    with noticing_interrupts() as interrupts:
        try:
            status = cli.main(given, prog_name="fs", standalone_mode=False)
            sys.stdout.flush()
        except BaseException as error:  # noqa: BLE001  the edge of the program: every end has an exit status
            return interrupted() if interrupts else explain(error, as_json="--json" in given)
    return INTERRUPTED if interrupts else status if isinstance(status, int) else OK


__all__ = ["COMMANDS", "cli", "main"]
