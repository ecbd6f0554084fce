"""`fs key add|list|revoke`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from featurestore.cli.complete import services
from featurestore.cli.output import moment_text, print_fields, print_json, print_table
from featurestore.cli.project import Settings, command, shared_options

if TYPE_CHECKING:
    from featurestore.registry.keys import Key, Keys


@click.group("key", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@shared_options
@click.pass_context
def key_command(ctx: click.Context, /, **options: Any) -> None:
    """Keys for the server: who may read which services, write, or administer."""
    ctx.obj = Settings.of(options, ctx.find_object(Settings))


@command("add")
@click.argument("name")
@click.option(
    "--role", type=click.Choice(["read", "write", "admin"]), default="read", show_default=True,
    help="What it may do; each role may do what those before it may.",
)  # fmt: skip
@click.option(
    "--service", "-s", "scope", multiple=True, shell_complete=services, metavar="NAME",
    help="Only this service; may be given again. Default: every service.",
)  # fmt: skip
def add_command(settings: Settings, name: str, role: str, scope: tuple[str, ...]) -> None:
    """Make a key. It is shown this once: the registry keeps its hash alone.

    NAME says whose it is.
    """
    from featurestore.registry.keys import ROLES

    key, text = _keys(settings).add(name, next(r for r in ROLES if r == role), scope, _who(), _now())
    if settings.json:
        print_json({**_as_json(key), "key": text})
        return
    click.echo(text)
    settings.note(
        f"key {key.id} for {name}: {role}, {', '.join(scope) or 'every service'}; it is not shown again"
    )


@command("list")
@click.option("--all", "every", is_flag=True, help="Revoked ones too.")
def list_command(settings: Settings, every: bool) -> None:
    """The keys there are, without their secrets."""
    keys = [k for k in _keys(settings).all() if every or k.revoked_at is None]
    if settings.json:
        print_json({"keys": [_as_json(k) for k in keys]})
        return
    rows = [
        (
            k.id,
            k.name,
            k.role,
            ", ".join(k.services) or "every service",
            moment_text(k.created_at),
            moment_text(k.revoked_at),
        )
        for k in keys
    ]
    print_table(("id", "name", "role", "services", "made", "revoked"), rows)


@command("revoke")
@click.argument("key", metavar="ID")
def revoke_command(settings: Settings, key: str) -> None:
    """End a key, by its id or name. Servers notice within a second or so."""
    gone = _keys(settings).revoke(key, _now())
    if settings.json:
        print_json(_as_json(gone))
        return
    print_fields([("key", gone.id), ("name", gone.name), ("revoked", moment_text(gone.revoked_at))])


for _one in (add_command, list_command, revoke_command):
    key_command.add_command(_one)


def _keys(settings: Settings) -> Keys:
    from featurestore.registry import open_registry
    from featurestore.registry.keys import Keys

    config = settings.config()
    return Keys(open_registry(config.registry_url, config.root))


def _as_json(key: Key) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role,
        "services": list(key.services),
        "created_at": moment_text(key.created_at),
        "created_by": key.created_by,
        "revoked_at": moment_text(key.revoked_at),
    }


def _now() -> int:
    return time.time_ns() // 1000


def _who() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
