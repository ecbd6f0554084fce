"""API keys, hashed at rest: who may read which services, write, or administer.

A key is `fs_<id>_<secret>`. The registry keeps its id and the SHA-256 of the whole, never the secret: that has 256 random
bits, so a slow hash would add nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from featurestore.errors import NotFound, RegistryCorrupt, RegistryError
from featurestore.registry.registry import Registry

Role = Literal["read", "write", "admin"]
ROLES: Final[tuple[Role, ...]] = ("read", "write", "admin")
"""Each may do what those before it may: read features, write, administer."""

TABLE: Final = "fs_keys"
_COLUMNS: Final = (
    "id TEXT PRIMARY KEY, hash TEXT NOT NULL, name TEXT NOT NULL, role TEXT NOT NULL, services TEXT NOT NULL, "
    "created_at BIGINT NOT NULL, created_by TEXT NOT NULL, revoked_at BIGINT"
)
_SHAPE: Final = re.compile(r"fs_([0-9a-f]{12})_[A-Za-z0-9_-]{43}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key; its secret is not. `services` empty is every service. Instants are UTC microseconds."""

    id: str
    hash: str
    name: str
    role: Role
    services: tuple[str, ...]
    created_at: int
    created_by: str
    revoked_at: int | None = None

    def __repr__(self) -> str:
        return f"Key({self.id!r}, role={self.role!r}, services={self.services!r})"

    def may(self, role: Role, service: str | None = None) -> bool:
        """Whether the key covers `role` on a service (None: on no service in particular)."""
        if ROLES.index(self.role) < ROLES.index(role):
            return False
        return service is None or not self.services or service in self.services


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one project. Every method raises RegistryError when the registry refuses."""

    registry: Registry

    def add(self, name: str, role: Role, services: Sequence[str], who: str, at: int) -> tuple[Key, str]:
        """A new key and its text, which is not kept and cannot be shown again.

        `services` are bare names; empty is every service. Raises NotFound for a service that was never applied.
        """
        known = {v.name for v in self.registry.services()}
        for service in services:
            if service not in known:
                raise NotFound("applied feature service", service, known)
        identity = secrets.token_hex(6)
        text = f"fs_{identity}_{secrets.token_urlsafe(32)}"
        key = Key(identity, hash_of(text), name, role, tuple(dict.fromkeys(services)), at, who)
        with self.registry.writing() as transaction:
            transaction.run(f"CREATE TABLE IF NOT EXISTS {TABLE} ({_COLUMNS})")
            transaction.run(
                f"INSERT INTO {TABLE} (id, hash, name, role, services, created_at, created_by, revoked_at) "  # noqa: S608  a constant
                "VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
                key.id,
                key.hash,
                key.name,
                key.role,
                json.dumps(key.services),
                at,
                who,
            )
        return key, text

    def revoke(self, identity: str, at: int) -> Key:
        """Ends a key, by its id or the one name it has; again is free. Raises NotFound, and RegistryError for a name of two."""
        known = self.all()
        mine = [k for k in known if k.id == identity] or [
            k for k in known if k.name == identity and k.revoked_at is None
        ]
        if not mine:
            raise NotFound("key", identity, [k.id for k in known if k.revoked_at is None])
        if len(mine) > 1:
            raise RegistryError(
                f"{len(mine)} keys are named '{identity}'\n  give an id: {', '.join(k.id for k in mine)}"
            )
        (key,) = mine
        if key.revoked_at is None:
            with self.registry.writing() as transaction:
                transaction.run(f"UPDATE {TABLE} SET revoked_at = ? WHERE id = ?", at, key.id)  # noqa: S608  a constant
        return next(k for k in self.all() if k.id == key.id)

    def all(self) -> list[Key]:
        """Every key, revoked ones included, oldest first."""
        with self.registry.reading() as transaction:
            if transaction is None or TABLE not in self.registry.database.tables(transaction):
                return []
            rows = transaction.rows(
                f"SELECT id, hash, name, role, services, created_at, created_by, revoked_at FROM {TABLE} "  # noqa: S608  a constant
                "ORDER BY created_at, id"
            )
        return [self._key(*row) for row in rows]

    def active(self) -> dict[str, Key]:
        """The keys that open something, by id."""
        return {k.id: k for k in self.all() if k.revoked_at is None}

    def _key(
        self,
        identity: str,
        hash: str,
        name: str,
        role: str,
        services: str,
        at: int,
        who: str,
        revoked: int | None,
    ) -> Key:
        found = next((r for r in ROLES if r == role), None)
        try:
            names = tuple(json.loads(services))
        except ValueError:
            names = (None,)
        if found is None or not all(isinstance(n, str) for n in names):
            raise RegistryCorrupt(
                f"registry {self.registry.place}: key {identity} is not what was written\n  revoke it"
            )
        return Key(identity, hash, name, found, names, at, who, revoked)


def hash_of(text: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(text.encode()).hexdigest()


_NOBODY: Final = hash_of("")


def match(text: str, keys: Mapping[str, Key]) -> Key | None:
    """The key that `text` is, or None. The time it takes does not depend on how much of a secret is right."""
    shape = _SHAPE.match(text)
    key = keys.get(shape[1]) if shape is not None else None
    same = hmac.compare_digest(hash_of(text), _NOBODY if key is None else key.hash)
    return key if same else None


def scoped(key: Key | None, services: Iterable[str]) -> list[str]:
    """Those of `services` that a key covers; all of them where nobody asks for keys."""
    return [s for s in services if key is None or not key.services or s in key.services]
