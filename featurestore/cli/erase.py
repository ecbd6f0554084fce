"""`fs erase`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from featurestore.cli.complete import all_names
from featurestore.cli.failures import ERROR, OK
from featurestore.cli.get import parsed
from featurestore.cli.output import moment_text, print_json, print_table
from featurestore.cli.project import Settings, command

if TYPE_CHECKING:
    from featurestore.erasures import Receipt
    from featurestore.store import FeatureStore


@command("erase")
@click.argument("entity", required=False, shell_complete=all_names)
@click.argument("keys", nargs=-1, metavar="KEY=VALUE...")
@click.option(
    "--reason", default="", metavar="TEXT", help="Why; kept in the receipt. Leave the key out of it."
)
@click.option("--yes", "-y", is_flag=True, help="Without asking.")
@click.option(
    "--wait",
    type=float,
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="For streams and writers that run.",
)
@click.option("--receipts", is_flag=True, help="The receipts so far instead, the newest first.")
def erase_command(
    settings: Settings,
    entity: str | None,
    keys: tuple[str, ...],
    reason: str,
    yes: bool,
    wait: float,
    receipts: bool,
) -> int:
    """Take one entity out of everything that is kept, for good: what came before now never counts again.

    Prints a receipt: what was deleted, what stays and until when, what is yours to delete. Exit status 1 when something
    still waits; the same command again finishes it. Asks first; without a terminal to ask at, it needs --yes.
    """
    with settings.store() as store:
        if receipts:
            return _list(settings, store.receipts())
        if entity is None:
            raise click.UsageError("erase whom?\n  fs erase ENTITY KEY=VALUE...")
        key = _key(store, entity, keys)
        if not yes and not _agreed(settings, entity, keys):
            return ERROR
        done = store.erase(entity, key, reason=reason, wait=wait)
    if settings.json:
        print_json(_as_json(done))
    else:
        _show(settings, done)
    return OK if done.done else ERROR


def _key(store: FeatureStore, entity: str, given: Sequence[str]) -> dict[str, Any]:
    """The key as values of the join keys' types."""
    types = store.join_keys(entity)
    key: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name in key:
            wanted = " ".join(f"{n}=…" for n in types)
            what = "is given twice" if equals else "is not KEY=VALUE"
            raise click.UsageError(f"'{name if equals else text}' {what}\n  fs erase {entity} {wanted}")
        key[name] = parsed(value, types.get(name))
    return key


def _agreed(settings: Settings, entity: str, keys: Sequence[str]) -> bool:
    if not sys.stdin.isatty():
        text = "nothing was erased: there is no terminal to ask at\n  `fs erase --yes` erases without asking"
        if settings.json:
            print_json({"error": {"type": "Unconfirmed", "message": text}})
        else:
            click.echo(text, err=True)
        return False
    if click.confirm(f"erase {entity} {' '.join(keys)} for good?", err=True):
        return True
    click.echo("nothing was erased", err=True)
    return False


def _list(settings: Settings, found: Sequence[Receipt]) -> int:
    if settings.json:
        print_json({"receipts": [_as_json(r) for r in found]})
        return OK
    rows = [(r.id, r.entity, moment_text(r.erased_at), r.who, _state(r), r.reason or None) for r in found]
    print_table(("receipt", "entity", "erased at", "by", "state", "reason"), rows)
    return OK


def _as_json(receipt: Receipt) -> dict[str, Any]:
    return {
        "receipt": receipt.id,
        "entity": receipt.entity,
        "key": None if receipt.key is None else dict(receipt.key),
        "key_digest": receipt.digest,
        "erased_at": moment_text(receipt.erased_at),
        "who": receipt.who,
        "reason": receipt.reason or None,
        "done": receipt.done,
        "deleted": [asdict(d) for d in receipt.deleted],
        "stays": [{**asdict(s), "until": moment_text(s.until)} for s in receipt.stays],
        "waits": list(receipt.waits),
    }


def _show(settings: Settings, receipt: Receipt) -> None:
    click.echo(
        f"receipt {receipt.id}: {receipt.entity} as of {moment_text(receipt.erased_at)}, {_state(receipt)}"
    )
    rows: list[tuple[object, ...]] = [(d.place, f"deleted: {d.what}", d.count, None) for d in receipt.deleted]
    rows += [
        (s.place, f"{'yours' if s.yours else 'stays'}: {s.what}", None, moment_text(s.until))
        for s in receipt.stays
    ]
    print_table(("where", "what", "count", "until"), rows)
    for waits in receipt.waits:
        click.echo(f"waits: {waits}")
    settings.note("`fs erase --receipts` lists it, without the key")


def _state(receipt: Receipt) -> str:
    return "done" if receipt.done else "not done"
