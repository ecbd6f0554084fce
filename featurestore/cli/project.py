"""Which project a command works on, and the options that every command has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from featurestore.config import Config
    from featurestore.store import FeatureStore

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Settings:
    """The options that every command has, given before or after its name."""

    folder: str | None = None
    environment: str | None = None
    json: bool = False
    quiet: bool = False

    @staticmethod
    def of(options: Mapping[str, Any], outer: Settings | None = None) -> Settings:
        """What was given after the command's name, else what was given before it."""
        before = outer or Settings()
        return Settings(
            options["project"] or before.folder,
            options["env"] or before.environment,
            options["json"] or before.json,
            options["quiet"] or before.quiet,
        )

    def root(self) -> Path:
        """The folder asked for; else the nearest upward that has `fs.toml`; else `definitions`; else here."""
        if self.folder is not None:
            return Path(self.folder)
        here = Path.cwd()
        upward = next((p for p in (here, *here.parents) if (p / "fs.toml").is_file()), None)
        below = here / "definitions"
        return upward or (below if (below / "fs.toml").is_file() else here)

    def config(self) -> Config:
        """The settings of the project. Raises ConfigError."""
        from featurestore.config import load_config

        return load_config(self.root(), self.environment)

    def store(self) -> FeatureStore:
        """The project. Raises ConfigError when there is none, or its settings are wrong."""
        from featurestore.store import FeatureStore

        return FeatureStore(self.root(), self.environment)

    def note(self, text: str) -> None:
        """A remark beside what was asked for: on stderr, nothing with `--quiet`."""
        if not self.quiet:
            click.echo(text, err=True)

    def progress(self, what: str) -> AbstractContextManager[Callable[[str], None]]:
        """A display for what may take longer than two seconds; see `cli.progress`."""
        from featurestore.cli.progress import progress

        return progress(what, quiet=self.quiet)


_FOLDER = click.Path(file_okay=False)


def shared_options(function: F) -> F:
    """Adds `--project`, `--env`, `--json` and `--quiet`."""
    for option in (
        click.option("--quiet", "-q", is_flag=True, help="Only what was asked for, and errors."),
        click.option("--json", is_flag=True, help="One JSON document on stdout."),
        click.option("--env", metavar="NAME", help="With the overrides of [env.NAME] in fs.toml."),
        click.option(
            "--project",
            "-C",
            type=_FOLDER,
            metavar="DIR",
            help="The project's folder. Default: the nearest one upward with fs.toml, else ./definitions.",
        ),
    ):
        function = option(function)
    return function


def command(name: str, **attributes: Any) -> Callable[[Callable[..., int | None]], click.Command]:
    """A command of `fs`: its function takes `Settings` first, and gives the exit status (None is 0)."""

    def wrap(function: Callable[..., int | None]) -> click.Command:
        def run(**options: Any) -> int | None:
            ctx = click.get_current_context()
            settings = Settings.of(options, ctx.find_object(Settings))
            return function(settings, **{k: v for k, v in options.items() if k not in _SHARED})

        run.__doc__ = function.__doc__
        # click lists options in the reverse of the order in which they were added: those of all commands come last.
        shared_options(run)
        own = getattr(function, "__click_params__", [])
        run.__click_params__ += own  # type: ignore[attr-defined]
        settings = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
        return click.command(name, click.Command, context_settings=settings, **attributes)(run)

    return wrap


_SHARED = frozenset({"project", "env", "json", "quiet"})
