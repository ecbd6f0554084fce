"""Scalers in the registry: numbered versions for each service, and which of them a version of the service is pinned to.

Two tables of their own, made by the first scaler that is kept.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featurestore import ir
from featurestore.errors import RegistryCorrupt, ScalerError
from featurestore.registry.connection import Transaction, way_out
from featurestore.registry.registry import Registry

_TABLES = {
    "fs_scalers": "service TEXT NOT NULL, version BIGINT NOT NULL, fitted_for TEXT NOT NULL, made_at BIGINT NOT NULL, "
    "who TEXT NOT NULL, fitted_on TEXT NOT NULL, scaler TEXT NOT NULL, digest TEXT NOT NULL, statistics TEXT NOT NULL, "
    "PRIMARY KEY (service, version)",
    "fs_scaler_pins": "service TEXT NOT NULL, service_version BIGINT NOT NULL, scaler BIGINT NOT NULL, at BIGINT NOT NULL, "
    "who TEXT NOT NULL, PRIMARY KEY (service, service_version)",
}


@dataclass(frozen=True, slots=True)
class ScalerEntry:
    """One scaler as it is kept. `fitted_for` is the version of the service (`delay@1`), `fitted_on` says of which rows.

    `scaler` is its plain JSON, `statistics` the stored summary that a refit goes on from.
    """

    service: str
    version: int
    fitted_for: str
    made_at: int
    who: str
    fitted_on: str
    scaler: Mapping[str, Any]
    statistics: bytes


def keep_scaler(registry: Registry, entry: ScalerEntry) -> int:
    """Keeps a scaler as the next version of its service's, whatever version it says; the number it got."""
    with registry.database.writing() as transaction:
        _make_tables(registry, transaction)
        sql = "SELECT COALESCE(MAX(version), 0) + 1 FROM fs_scalers WHERE service = ?"
        ((number,),) = transaction.rows(sql, entry.service)
        text = ir.canonical({**entry.scaler, "version": number})
        transaction.run(
            "INSERT INTO fs_scalers "
            "(service, version, fitted_for, made_at, who, fitted_on, scaler, digest, statistics) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            entry.service,
            number,
            entry.fitted_for,
            entry.made_at,
            entry.who,
            entry.fitted_on,
            text,
            ir.digest(text),
            base64.b64encode(entry.statistics).decode(),
        )
    return int(number)


def scalers(registry: Registry, service: str) -> list[ScalerEntry]:
    """All scalers of a service, by version."""
    with registry.database.reading() as transaction:
        if transaction is None or "fs_scalers" not in registry.database.tables(transaction):
            return []
        rows = transaction.rows(
            "SELECT service, version, fitted_for, made_at, who, fitted_on, scaler, digest, statistics "
            "FROM fs_scalers WHERE service = ? ORDER BY version",
            service,
        )
    return [_entry(registry, row) for row in rows]


def scaler(registry: Registry, service: str, version: int) -> ScalerEntry:
    """One of them. Raises ScalerError with those there are."""
    found = {entry.version: entry for entry in scalers(registry, service)}
    if version not in found:
        have = (
            f"there is {', '.join(map(str, found))}"
            if found
            else f"there is none yet: `fs scaler fit {service}`"
        )
        raise ScalerError(f"no scaler {version} of service '{service}'\n  {have}")
    return found[version]


def pins(registry: Registry, service: str) -> dict[int, int]:
    """For each version of a service that is pinned, the version of its scaler."""
    with registry.database.reading() as transaction:
        if transaction is None or "fs_scaler_pins" not in registry.database.tables(transaction):
            return {}
        sql = "SELECT service_version, scaler FROM fs_scaler_pins WHERE service = ? ORDER BY service_version"
        return dict(transaction.rows(sql, service))


def pin_scaler(
    registry: Registry, service: str, service_version: int, version: int, *, who: str, at: int
) -> None:
    """Pins a version of a service to a version of its scaler, in place of what it was pinned to."""
    with registry.database.writing() as transaction:
        _make_tables(registry, transaction)
        key = (service, service_version)
        transaction.run("DELETE FROM fs_scaler_pins WHERE service = ? AND service_version = ?", *key)
        transaction.run(
            "INSERT INTO fs_scaler_pins (service, service_version, scaler, at, who) VALUES (?, ?, ?, ?, ?)",
            *key,
            version,
            at,
            who,
        )


def _make_tables(registry: Registry, transaction: Transaction) -> None:
    there = registry.database.tables(transaction)
    for table, columns in _TABLES.items():
        if table not in there:
            transaction.run(f"CREATE TABLE {table} ({columns})")


def _entry(registry: Registry, row: tuple[Any, ...]) -> ScalerEntry:
    service, version, fitted_for, made_at, who, fitted_on, text, digest, statistics = row
    if ir.digest(text) != digest:
        raise RegistryCorrupt(
            f"registry {registry.place}: scaler {version} of '{service}' is not what was written: its digest differs"
            f"\n  {way_out(registry.database)}"
        )
    said = json.loads(text)
    return ScalerEntry(
        service, version, fitted_for, made_at, who, fitted_on, said, base64.b64decode(statistics)
    )


__all__ = ["ScalerEntry", "keep_scaler", "pin_scaler", "pins", "scaler", "scalers"]
