"""Alerts, what is still to be told, and what triggers did, in the registry: tables of their own, made by the first that is kept.

An alert's new state and the messages about it are written in one transaction: killed before it, a run has said nothing; killed
after it, the messages are there, and the next run delivers them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from featurestore.registry.connection import Transaction
from featurestore.registry.registry import Registry

_TABLES = {
    "fs_alerts": "id TEXT PRIMARY KEY, state TEXT NOT NULL, changed_at BIGINT NOT NULL, details TEXT NOT NULL",
    "fs_outbox": "id TEXT NOT NULL, channel TEXT NOT NULL, made_at BIGINT NOT NULL, not_before BIGINT NOT NULL, "
    "attempts BIGINT NOT NULL, leased_until BIGINT NOT NULL, delivered_at BIGINT, given_up_at BIGINT, "
    "error TEXT NOT NULL, message TEXT NOT NULL, PRIMARY KEY (id, channel)",
    "fs_triggered": "id TEXT PRIMARY KEY, title TEXT NOT NULL, service TEXT NOT NULL, at BIGINT NOT NULL, "
    "reasons TEXT NOT NULL, action TEXT NOT NULL, attempts BIGINT NOT NULL, leased_until BIGINT NOT NULL, "
    "ended_at BIGINT, outcome TEXT NOT NULL",
}


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that one channel has still to be given, or was."""

    id: str
    channel: str
    made_at: int
    not_before: int
    attempts: int
    delivered_at: int | None
    given_up_at: int | None
    error: str
    message: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Triggered:
    """One time that a trigger went off: why, what was done, and how that ended (`ended_at` None: not yet)."""

    id: str
    title: str
    service: str
    at: int
    reasons: tuple[str, ...]
    action: tuple[str, ...]
    attempts: int
    ended_at: int | None
    outcome: str


@contextmanager
def changing(registry: Registry) -> Iterator[Changes]:
    """The one transaction that changes alerts; others wait for it."""
    with registry.database.writing() as transaction:
        there = registry.database.tables(transaction)
        for table, columns in _TABLES.items():
            if table not in there:
                transaction.run(f"CREATE TABLE {table} ({columns})")
        yield Changes(transaction)


@dataclass(frozen=True, slots=True)
class Changes:
    """What may be done inside the transaction of `changing`."""

    transaction: Transaction

    def alerts(self) -> list[Mapping[str, Any]]:
        """Every alert, as its plain JSON."""
        return [
            json.loads(text) for (text,) in self.transaction.rows("SELECT details FROM fs_alerts ORDER BY id")
        ]

    def put_alert(self, alert: Mapping[str, Any], at: int) -> None:
        self.transaction.run("DELETE FROM fs_alerts WHERE id = ?", alert["id"])
        sql = "INSERT INTO fs_alerts (id, state, changed_at, details) VALUES (?, ?, ?, ?)"
        self.transaction.run(sql, alert["id"], alert["state"], at, json.dumps(alert))

    def drop_alert(self, identity: str) -> None:
        self.transaction.run("DELETE FROM fs_alerts WHERE id = ?", identity)

    def post(
        self, identity: str, channel: str, message: Mapping[str, Any], now: int, not_before: int
    ) -> bool:
        """Puts a message among those to be told; False when it is there already: the same message is told once."""
        known = "SELECT 1 FROM fs_outbox WHERE id = ? AND channel = ?"
        if self.transaction.rows(known, identity, channel):
            return False
        sql = (
            "INSERT INTO fs_outbox (id, channel, made_at, not_before, attempts, leased_until, delivered_at, given_up_at, "
            "error, message) VALUES (?, ?, ?, ?, 0, 0, NULL, NULL, '', ?)"
        )
        self.transaction.run(sql, identity, channel, now, not_before, json.dumps(message))
        return True

    def due(self, now: int, lease: int, most: int) -> list[Waiting]:
        """Messages whose time has come and that nobody else is delivering; they are this caller's until `now + lease`."""
        rows = self.transaction.rows(
            f"{_WAITING} WHERE delivered_at IS NULL AND given_up_at IS NULL AND not_before <= ? AND leased_until <= ? "
            "ORDER BY made_at, id, channel LIMIT ?",
            now,
            now,
            most,
        )
        found = [_waiting(row) for row in rows]
        for one in found:
            sql = "UPDATE fs_outbox SET leased_until = ? WHERE id = ? AND channel = ?"
            self.transaction.run(sql, now + lease, one.id, one.channel)
        return found

    def delivered(self, one: Waiting, now: int) -> None:
        sql = (
            "UPDATE fs_outbox SET delivered_at = ?, attempts = attempts + 1, leased_until = 0, error = '' "
            "WHERE id = ? AND channel = ?"
        )
        self.transaction.run(sql, now, one.id, one.channel)

    def failed(self, one: Waiting, error: str, again: int | None, now: int) -> None:
        """Notes why it did not go, and when it is tried again; None is never."""
        sql = (
            "UPDATE fs_outbox SET attempts = attempts + 1, leased_until = 0, error = ?, not_before = ?, given_up_at = ? "
            "WHERE id = ? AND channel = ?"
        )
        given_up = now if again is None else None
        self.transaction.run(sql, error, again or one.not_before, given_up, one.id, one.channel)

    def forget_before(self, moment: int) -> None:
        """Lets go of messages that were delivered or given up before a moment, and of alerts resolved before it."""
        self.transaction.run(
            "DELETE FROM fs_outbox WHERE delivered_at < ? OR given_up_at < ?", moment, moment
        )
        self.transaction.run("DELETE FROM fs_alerts WHERE state = 'resolved' AND changed_at < ?", moment)

    def triggered(self, title: str | None = None) -> list[Triggered]:
        """When triggers went off, the newest first."""
        where, values = ("", ()) if title is None else (" WHERE title = ?", (title,))
        return [
            _triggered(row)
            for row in self.transaction.rows(f"{_TRIGGERED}{where} ORDER BY at DESC, id", *values)
        ]

    def put_triggered(self, one: Triggered, leased_until: int) -> None:
        self.transaction.run("DELETE FROM fs_triggered WHERE id = ?", one.id)
        sql = (
            "INSERT INTO fs_triggered (id, title, service, at, reasons, action, attempts, leased_until, ended_at, outcome) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        )
        self.transaction.run(
            sql,
            one.id,
            one.title,
            one.service,
            one.at,
            json.dumps(one.reasons),
            json.dumps(one.action),
            one.attempts,
            leased_until,
            one.ended_at,
            one.outcome,
        )

    def lease_of(self, identity: str) -> int:
        """Until when somebody is running what a trigger asked for."""
        rows = self.transaction.rows("SELECT leased_until FROM fs_triggered WHERE id = ?", identity)
        return int(rows[0][0]) if rows else 0


_WAITING = "SELECT id, channel, made_at, not_before, attempts, delivered_at, given_up_at, error, message FROM fs_outbox"
_TRIGGERED = "SELECT id, title, service, at, reasons, action, attempts, ended_at, outcome FROM fs_triggered"


def kept_alerts(registry: Registry) -> list[Mapping[str, Any]]:
    """Every alert, as its plain JSON; none before the first run."""
    return [
        json.loads(text)
        for (text,) in _rows(registry, "fs_alerts", "SELECT details FROM fs_alerts ORDER BY id")
    ]


def outbox(registry: Registry) -> Sequence[Waiting]:
    """Every message that is kept, the oldest first."""
    return [
        _waiting(row) for row in _rows(registry, "fs_outbox", f"{_WAITING} ORDER BY made_at, id, channel")
    ]


def history(registry: Registry) -> Sequence[Triggered]:
    """When triggers went off, the newest first."""
    return [_triggered(row) for row in _rows(registry, "fs_triggered", f"{_TRIGGERED} ORDER BY at DESC, id")]


def _rows(registry: Registry, table: str, sql: str) -> list[tuple[Any, ...]]:
    with registry.database.reading() as transaction:
        if transaction is None or table not in registry.database.tables(transaction):
            return []
        return transaction.rows(sql)


def _waiting(row: tuple[Any, ...]) -> Waiting:
    identity, channel, made, not_before, attempts, delivered, given_up, error, message = row
    return Waiting(
        identity, channel, made, not_before, attempts, delivered, given_up, error, json.loads(message)
    )


def _triggered(row: tuple[Any, ...]) -> Triggered:
    identity, title, service, at, reasons, action, attempts, ended_at, outcome = row
    told = tuple(json.loads(reasons)), tuple(json.loads(action))
    return Triggered(identity, title, service, at, *told, attempts, ended_at, outcome)


__all__ = ["Changes", "Triggered", "Waiting", "changing", "history", "kept_alerts", "outbox"]
