"""What is to be told is written with the alert it is about, and told afterwards: at least once, whatever is killed in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from featurestore.channels import LOG, Channel
from featurestore.monitor.alerts import Notification
from featurestore.monitor.sending import NotDelivered, send
from featurestore.registry import Registry
from featurestore.registry.alerts import Changes, Waiting, changing, outbox
from featurestore.time import DAY, HOUR, MINUTE, SECOND

LEASE = 2 * MINUTE
"""How long one run has to deliver what it took up, before another takes it for killed."""

FIRST_WAIT, LONGEST_WAIT, PATIENCE = 30 * SECOND, HOUR, 7 * DAY
"""After a failure: the first wait, which doubles up to the longest; after so long it is given up."""

MOST = 200
"""Messages a run delivers at most."""

Send = Callable[[Channel, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Delivered:
    """What became of the messages whose time had come."""

    sent: int
    failed: tuple[str, ...]


def post(
    changes: Changes, notifications: Iterable[Notification], channels: Mapping[str, Channel], now: int
) -> list[str]:
    """Writes messages for their channels, inside the transaction that changes the alerts; what is wrong with channels.

    Hours hold back what is not critical. A channel that is not written in `fs.toml` is said so, and the log is told instead.
    """
    wrong = []
    for note in notifications:
        message = note.to_json()
        for name in note.channels:
            channel = channels.get(name)
            if channel is None:
                wrong.append(
                    f"alert '{note.title}' goes to channel '{name}', which fs.toml does not have: told to the log"
                )
                channel = LOG
            opens = now if note.severity == "critical" else channel.opens(now)
            changes.post(note.id, channel.name, message, now, opens)
    return wrong


def deliver(registry: Registry, channels: Mapping[str, Channel], now: int, send: Send = send) -> Delivered:
    """Gives every message whose time has come to its channel. One that fails waits, and is tried again by a later run.

    Whoever is killed between sending and noting it sends again: receivers tell copies by `id`.
    """
    with changing(registry) as changes:
        due = changes.due(now, LEASE, MOST)
    sent, failed = 0, []
    for one in due:
        try:
            send(_channel(channels, one.channel), one.message)
        except NotDelivered as error:
            failed.append(str(error))
            with changing(registry) as changes:
                changes.failed(one, str(error), _again(one, now), now)
            continue
        sent += 1
        with changing(registry) as changes:
            changes.delivered(one, now)
    return Delivered(sent, tuple(failed))


def _channel(channels: Mapping[str, Channel], name: str) -> Channel:
    if name not in channels:
        raise NotDelivered(f"channel '{name}' is no longer in fs.toml")
    return channels[name]


def _again(one: Waiting, now: int) -> int | None:
    if now - one.made_at > PATIENCE:
        return None
    return int(now + min(FIRST_WAIT * 2**one.attempts, LONGEST_WAIT))


def stuck(registry: Registry, now: int) -> list[Waiting]:
    """Messages that failed, and have waited for an hour, or were given up in the last day."""
    out = []
    for one in outbox(registry):
        if one.delivered_at is not None or not one.error:
            continue
        if (one.given_up_at is None and now - one.made_at >= HOUR) or (
            one.given_up_at is not None and now - one.given_up_at < DAY
        ):
            out.append(one)
    return out


__all__ = ["Delivered", "deliver", "post", "stuck"]
