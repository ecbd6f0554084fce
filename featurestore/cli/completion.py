"""`fs completion`."""

from __future__ import annotations

import click

from featurestore.cli.output import print_json
from featurestore.cli.project import Settings, command


@command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(settings: Settings, shell: str) -> None:
    """The script that lets a shell complete what you type: commands, options, and names of views and services.

    \b
    bash   echo 'eval "$(fs completion bash)"' >> ~/.bashrc
    zsh    echo 'eval "$(fs completion zsh)"' >> ~/.zshrc
    fish   fs completion fish > ~/.config/fish/completions/fs.fish
    """  # noqa: D301  \b keeps click from joining lines
    from click.shell_completion import get_completion_class

    from featurestore.cli.app import cli

    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(cli, {}, "fs", "_FS_COMPLETE").source()
    if settings.json:
        print_json({"shell": shell, "script": script})
    else:
        click.echo(script)
