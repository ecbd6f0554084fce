"""Tombstones and receipts: who was erased and when, and what was done about it. They lie in the registry's database.

A tombstone is an entity, what stands for a key (`compile.erased`: a salted digest, never the key) and a moment. There is one
for a key, with the newest moment. A receipt is of one erasure; one that is not done waits for the same erasure to be asked
for again.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from featurestore.compile.erased import key_digest
from featurestore.errors import RegistryCorrupt
from featurestore.ir import Erased, View
from featurestore.registry import Registry
from featurestore.registry.connection import way_out


@dataclass(frozen=True, slots=True)
class Deleted:
    """What was deleted in one place, and how many of it."""

    place: str
    what: str
    count: int


@dataclass(frozen=True, slots=True)
class Stays:
    """What was not deleted: `until` when (µs; None: until somebody does it), `yours` if nobody but the user can."""

    place: str
    what: str
    until: int | None = None
    yours: bool = False


@dataclass(frozen=True)
class Receipt:
    """What became of an erasure. `key` is as it was given, None in a receipt that was kept: the key is not.

    Events of before `erased_at` (µs) never count. `waits` says what could not be done yet, empty once it is `done`.
    """

    id: str
    number: int
    entity: str
    digest: str
    erased_at: int
    who: str
    reason: str = ""
    done: bool = False
    key: Mapping[str, int | str] | None = field(default=None, compare=False)
    deleted: tuple[Deleted, ...] = ()
    stays: tuple[Stays, ...] = ()
    waits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Erasures:
    """The tombstones of a moment. `number` grows with every change of them; 0 is none."""

    number: int = 0
    by_entity: Mapping[str, Erased] = field(default_factory=dict)
    numbers: Mapping[str, Sequence[int]] = field(default_factory=dict)
    receipts: Mapping[str, str] = field(default_factory=dict)

    def honoured(self, view: View) -> View:
        """The view without the events that were erased; the view itself where none of its entity were."""
        erased = self.by_entity.get(view.entity)
        return view if erased == view.erased else replace(view, erased=erased)

    def since(self, entity: str, number: int) -> int:
        """How many entities were erased, or erased again, after change `number`."""
        return sum(n > number for n in self.numbers.get(entity, ()))

    def said(self, entities: Iterable[str]) -> dict[str, dict[str, int | str]]:
        """Those of some entities as JSON: how many, the newest change, and its receipt."""
        return {
            e: {
                "count": len(self.numbers[e]),
                "number": max(self.numbers[e]),
                "receipt": self.receipts[e],
            }
            for e in sorted(set(entities) & self.numbers.keys())
        }


def newest(registry: Registry) -> int:
    """The number of the newest change of tombstones; 0 before the first."""
    with registry.reading("fs_tombstones") as transaction:
        if transaction is None:
            return 0
        ((number,),) = transaction.rows("SELECT COALESCE(MAX(number), 0) FROM fs_tombstones")
        return int(number)


def erasures(registry: Registry) -> Erasures:
    """The tombstones as they are now."""
    with registry.reading("fs_tombstones") as transaction:
        sql = "SELECT entity, digest, erased_at, number, salt, receipt FROM fs_tombstones ORDER BY number"
        rows = [] if transaction is None else transaction.rows(sql)
    keys: dict[str, list[tuple[str, int]]] = {}
    numbers: dict[str, list[int]] = {}
    salts, receipts = {}, {}
    for entity, digest, erased_at, number, salt, receipt in rows:
        keys.setdefault(entity, []).append((digest, erased_at))
        numbers.setdefault(entity, []).append(number)
        salts[entity], receipts[entity] = _salted(salt, entity), receipt
    by_entity = {e: Erased(salts[e], tuple(found)) for e, found in keys.items()}
    return Erasures(rows[-1][3] if rows else 0, by_entity, numbers, receipts)


def bury(
    registry: Registry, entity: str, key: Mapping[str, int | str], *, at: int, who: str, reason: str
) -> Receipt:
    """Sets a tombstone as of `at` (µs), never an earlier one than there is, and begins a receipt.

    `key` has its parts in the order of the entity's join keys. One that is not done goes on under its own id.
    """
    with registry.writing() as transaction:
        salts = transaction.rows("SELECT salt FROM fs_tombstones LIMIT 1")
        salt = salts[0][0] if salts else secrets.token_hex(16)
        digest = key_digest(_salted(salt, entity), list(key.values()))
        ((number,),) = transaction.rows(
            "SELECT COALESCE(MAX(n), 0) + 1 FROM (SELECT MAX(number) AS n FROM fs_tombstones "
            "UNION ALL SELECT MAX(number) AS n FROM fs_receipts) AS numbers"
        )
        before = transaction.rows(
            "SELECT erased_at FROM fs_tombstones WHERE entity = ? AND digest = ?", entity, digest
        )
        begun = transaction.rows(
            "SELECT receipt FROM fs_receipts WHERE entity = ? AND digest = ? AND done = 0", entity, digest
        )
        made = Receipt(
            begun[0][0] if begun else secrets.token_hex(8),
            number,
            entity,
            digest,
            max([at, *(moment for (moment,) in before)]),
            who,
            reason,
            key=dict(key),
        )
        same = "entity = ? AND digest = ?"
        transaction.run(f"DELETE FROM fs_tombstones WHERE {same}", entity, digest)  # noqa: S608
        transaction.run(f"DELETE FROM fs_receipts WHERE {same} AND done = 0", entity, digest)  # noqa: S608
        transaction.run(
            "INSERT INTO fs_tombstones (entity, digest, erased_at, number, salt, receipt) VALUES (?, ?, ?, ?, ?, ?)",
            entity,
            digest,
            made.erased_at,
            number,
            salt,
            made.id,
        )
        transaction.run(
            "INSERT INTO fs_receipts (number, receipt, entity, digest, erased_at, who, reason, done, details) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?)",
            number,
            made.id,
            entity,
            digest,
            made.erased_at,
            who,
            reason,
            _details(made),
        )
    return made


def keep(registry: Registry, receipt: Receipt) -> None:
    """Writes what became of an erasure."""
    with registry.writing() as transaction:
        sql = "UPDATE fs_receipts SET done = ?, details = ? WHERE number = ?"
        transaction.run(sql, int(receipt.done), _details(receipt), receipt.number)


def receipts(registry: Registry) -> list[Receipt]:
    """Every receipt, the newest first, without the keys."""
    with registry.reading("fs_receipts") as transaction:
        sql = (
            "SELECT receipt, number, entity, digest, erased_at, who, reason, done, details FROM fs_receipts "
            "ORDER BY number DESC"
        )
        rows = [] if transaction is None else transaction.rows(sql)
    found = []
    for id, number, entity, digest, erased_at, who, reason, done, details in rows:
        try:
            said = json.loads(details)
            deleted = tuple(Deleted(**d) for d in said["deleted"])
            stays = tuple(Stays(**s) for s in said["stays"])
            waits = tuple(said["waits"])
        except (ValueError, KeyError, TypeError) as error:
            raise RegistryCorrupt(
                f"registry {registry.place}: receipt {id} does not parse: {error}\n  {way_out(registry.database)}"
            ) from error
        found.append(
            Receipt(
                id,
                number,
                entity,
                digest,
                erased_at,
                who,
                reason,
                done=bool(done),
                deleted=deleted,
                stays=stays,
                waits=waits,
            )
        )
    return found


def unfinished(registry: Registry, entity: str) -> bool:
    """Whether an erasure of this entity was begun and is not done: something of it may still be stored."""
    with registry.reading("fs_receipts") as transaction:
        sql = "SELECT 1 FROM fs_receipts WHERE entity = ? AND done = 0 LIMIT 1"
        return transaction is not None and bool(transaction.rows(sql, entity))


def _salted(salt: str, entity: str) -> str:
    return f"{salt} {entity} "


def _details(receipt: Receipt) -> str:
    said = {
        "deleted": [asdict(d) for d in receipt.deleted],
        "stays": [asdict(s) for s in receipt.stays],
        "waits": list(receipt.waits),
    }
    return json.dumps(said, ensure_ascii=False)


__all__ = [
    "Deleted",
    "Erasures",
    "Receipt",
    "Stays",
    "bury",
    "erasures",
    "keep",
    "newest",
    "receipts",
    "unfinished",
]
