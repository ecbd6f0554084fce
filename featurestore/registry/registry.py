"""The registry: one line of revisions, numbered without gaps, and the versions of services they brought.

A registry that is not there yet reads as revision 0, the empty plan. The first commit makes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featurestore import ir
from featurestore.errors import NotFound, PlanConflict, RegistryCorrupt, RegistryError, ServiceImmutable
from featurestore.registry.connection import Database, Transaction, database_at, way_out
from featurestore.registry.erasure_tables import ERASURES
from featurestore.registry.ledger_tables import LEDGER
from featurestore.registry.records import (
    AuditEntry,
    CertificateEntry,
    Revision,
    RevisionSummary,
    ServiceVersion,
)

SCHEMA_VERSION = 4

_SCHEMA = {
    "fs_registry": "schema_version BIGINT NOT NULL, current_revision BIGINT NOT NULL",
    "fs_revisions": "number BIGINT PRIMARY KEY, created_at BIGINT NOT NULL, author TEXT NOT NULL, "
    "description TEXT NOT NULL, plan TEXT NOT NULL, digest TEXT NOT NULL",
    "fs_service_versions": "service TEXT NOT NULL, version BIGINT NOT NULL, fingerprint TEXT NOT NULL, "
    "definition TEXT NOT NULL, digest TEXT NOT NULL, first_served_at BIGINT, retired BIGINT NOT NULL, "
    "PRIMARY KEY (service, version)",
    "fs_audit": "number BIGINT PRIMARY KEY, at BIGINT NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL, "
    "details TEXT NOT NULL",
    "fs_certificates": "number BIGINT PRIMARY KEY, fingerprint TEXT NOT NULL, name TEXT NOT NULL, "
    "made_at BIGINT NOT NULL, who TEXT NOT NULL, cells BIGINT NOT NULL, outcome TEXT NOT NULL, "
    "details TEXT NOT NULL, digest TEXT NOT NULL",
    **LEDGER,
    **ERASURES,
}
_SINCE = {2: ("fs_certificates",), 3: tuple(LEDGER), 4: tuple(ERASURES)}
"""The tables that a layout has and the one before it had not: the first write makes them."""

_CERTIFICATES = (
    "SELECT fingerprint, name, made_at, who, cells, outcome, details, digest FROM fs_certificates "
)
_HISTORY = "SELECT number, created_at, author, description FROM fs_revisions ORDER BY number DESC LIMIT ?"
_ALL_VERSIONS = (
    "SELECT service, version, fingerprint, definition, digest, first_served_at, retired "
    "FROM fs_service_versions ORDER BY service, version"
)
_ONE_VERSION = (
    "SELECT service, version, fingerprint, definition, digest, first_served_at, retired "
    "FROM fs_service_versions WHERE service = ? AND version = ?"
)


def open_registry(url: str, base_dir: Path) -> Registry:
    """The registry at `sqlite:///relative/path`, `sqlite:////absolute/path` or `postgresql://…`.

    A relative path is below `base_dir`. Nothing is read or made yet. Raises ConfigError when the URL is none,
    or names a database whose driver is not installed. Every method of the registry raises RegistryError when
    the database refuses or does not answer, and RegistryCorrupt when what lies there is no registry.
    """
    return Registry(database_at(url, base_dir))


@dataclass(frozen=True)
class Registry:
    """What was applied. Safe to share between threads and to keep over a fork: a call is a transaction."""

    database: Database
    _served: set[tuple[str, int, str | None]] = field(default_factory=set, repr=False, compare=False)

    @property
    def place(self) -> str:
        """The file or URL, without its password."""
        return self.database.place

    # --- reading --------------------------------------------------------------------------------------

    def current(self) -> Revision:
        """The revision in force; number 0 and an empty plan before the first."""
        with self._reading() as (transaction, current):
            if transaction is None or current == 0:
                return Revision()
            return self._revision(transaction, current)

    def revision(self, number: int) -> Revision:
        """One revision with its plan. Raises NotFound."""
        with self._reading() as (transaction, current):
            if transaction is not None and 0 < number <= current:
                return self._revision(transaction, number)
            if number == 0:
                return Revision()
            raise NotFound("revision", str(number), (), f"{self.place}, which is at revision {current}")

    def history(self, limit: int | None = None) -> list[RevisionSummary]:
        """The revisions, newest first, at most `limit` of them (None is all)."""
        with self._reading() as (transaction, _):
            if transaction is None:
                return []
            rows = transaction.rows(_HISTORY, _limit(limit))
            return [RevisionSummary(*row) for row in rows]

    def audit(self, limit: int | None = None) -> list[AuditEntry]:
        """Who did what, newest first, at most `limit` entries (None is all)."""
        with self._reading() as (transaction, _):
            if transaction is None:
                return []
            sql = "SELECT at, who, what, details FROM fs_audit ORDER BY number DESC LIMIT ?"
            return [
                AuditEntry(at, who, what, self._json(details, "its audit log"))
                for at, who, what, details in transaction.rows(sql, _limit(limit))
            ]

    def services(self) -> list[ServiceVersion]:
        """Every version of every service, retired ones included, by name and version."""
        with self._reading() as (transaction, _):
            if transaction is None:
                return []
            return [self._version(row) for row in transaction.rows(_ALL_VERSIONS)]

    def service(self, name: str, version: int | None = None) -> ServiceVersion:
        """A version of a service: `"delay"` is the newest in force, `"delay@2"` or `version=2` that one.

        Raises NotFound with the nearest name, or with the versions there are.
        """
        bare, _, asked = name.partition("@")
        if asked and version is None:
            if not asked.isdecimal():
                raise NotFound("version", asked, (), f"'{name}': a version is a whole number, as in {bare}@1")
            version = int(asked)
        with self._reading() as (transaction, _):
            sql = "SELECT service, version, retired FROM fs_service_versions ORDER BY service, version"
            known = [] if transaction is None else transaction.rows(sql)
            retired = [f"{bare}@{v}" for service, v, gone in known if service == bare and gone]
            mine = [v for service, v, gone in known if service == bare and not (version is None and gone)]
            if transaction is None or not mine:
                where = f"force; {', '.join(retired)} can still be read" if retired else ""
                raise NotFound("feature service", bare, {s for s, _, gone in known if not gone}, where)
            if version is not None and version not in mine:
                every = [f"{bare}@{v}" for v in mine]
                raise NotFound("version", str(version), every, f"feature service '{bare}'")
            (row,) = transaction.rows(_ONE_VERSION, bare, mine[-1] if version is None else version)
            return self._version(row)

    def certificate(self, fingerprint: str) -> CertificateEntry | None:
        """The newest verification of a view with this fingerprint; None when there was none."""
        with self._reading() as (transaction, _):
            if transaction is None or "fs_certificates" not in self.database.tables(transaction):
                return None  # written by an older featurestore
            sql = f"{_CERTIFICATES} WHERE fingerprint = ? ORDER BY number DESC LIMIT 1"
            rows = transaction.rows(sql, fingerprint)
            if not rows:
                return None
            ((_, view, at, who, cells, outcome, text, digest),) = rows
            details = self._sealed(text, digest, f"the certificate of view '{view}'")
            return CertificateEntry(fingerprint, view, at, who, cells, outcome, details)

    # --- writing --------------------------------------------------------------------------------------

    def mark_served(self, name: str, version: int, at: int, fingerprint: str | None = None) -> None:
        """Records that a version begins to serve at `at`; only the first call counts, repeats are free.

        Call it before the first value goes out. With the `fingerprint` of what was loaded it is sure that
        just this was served: RegistryError when the version was replaced since. Raises NotFound.
        """
        mark = (name, version, fingerprint)
        if mark in self._served:
            return
        known = self.service(name, version)
        if fingerprint in (None, known.fingerprint) and not known.has_served:
            with self._writing() as (transaction, _):
                transaction.run(
                    "UPDATE fs_service_versions SET first_served_at = ? "
                    "WHERE service = ? AND version = ? AND fingerprint = ? AND first_served_at IS NULL",
                    at,
                    name,
                    version,
                    fingerprint or known.fingerprint,
                )
            known = self.service(name, version)
        if fingerprint not in (None, known.fingerprint):
            raise RegistryError(
                f"registry {self.place}: {known.reference} was replaced after it was loaded\n  load it again"
            )
        self._served.add(mark)

    def commit(
        self,
        expected_revision: int,
        plan: ir.Plan,
        service_versions: Sequence[ServiceVersion],
        changes: Sequence[Any],
        who: str,
        at: int,
        *,
        retire: Sequence[str] = (),
        description: str = "",
    ) -> Revision:
        """Makes `plan` the next revision: all of it, or after an exception or a crash nothing.

        `service_versions` are added, or take the place of the same version that has not served; every
        version of the services named in `retire` is retired. `changes` (plain JSON) go to the audit log.
        Raises PlanConflict when the registry is no longer at `expected_revision`, and ServiceImmutable when
        a version to replace has served meanwhile.
        """
        number = expected_revision + 1
        with self._writing() as (transaction, current):
            if current != expected_revision:
                raise PlanConflict(self._conflict(transaction, expected_revision, current))
            text = ir.canonical(ir.to_json(plan))
            transaction.run(
                "INSERT INTO fs_revisions (number, created_at, author, description, plan, digest) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                number,
                at,
                who,
                description,
                text,
                ir.digest(text),
            )
            for version in service_versions:
                self._put(transaction, version)
            for name in retire:
                transaction.run("UPDATE fs_service_versions SET retired = 1 WHERE service = ?", name)
            self._log(transaction, at, who, "apply", {"revision": number, "changes": list(changes)})
            transaction.run("UPDATE fs_registry SET current_revision = ?", number)
        return Revision(number, at, who, description, plan)

    def certify(self, entries: Sequence[CertificateEntry]) -> None:
        """Keeps how verifications ended, each newer than what was kept of its fingerprint before; all of them or none."""
        with self._writing() as (transaction, _):
            for entry in entries:
                ((number,),) = transaction.rows("SELECT COALESCE(MAX(number), 0) + 1 FROM fs_certificates")
                details = ir.canonical(dict(entry.details))
                transaction.run(
                    "INSERT INTO fs_certificates "
                    "(number, fingerprint, name, made_at, who, cells, outcome, details, digest) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    number,
                    entry.fingerprint,
                    entry.view,
                    entry.made_at,
                    entry.who,
                    entry.cells,
                    entry.outcome,
                    details,
                    ir.digest(details),
                )

    def _put(self, transaction: Transaction, version: ServiceVersion) -> None:
        key = (version.name, version.version)
        known = transaction.rows(
            "SELECT first_served_at FROM fs_service_versions WHERE service = ? AND version = ?", *key
        )
        if known and known[0][0] is not None:
            raise ServiceImmutable(
                f"registry {self.place}: {version.reference} has served since this was planned\n  plan again"
            )
        transaction.run("DELETE FROM fs_service_versions WHERE service = ? AND version = ?", *key)
        text = ir.canonical(
            {"service": ir.to_json(version.service), "views": [ir.to_json(v) for v in version.views]}
        )
        transaction.run(
            "INSERT INTO fs_service_versions "
            "(service, version, fingerprint, definition, digest, first_served_at, retired) "
            "VALUES (?, ?, ?, ?, ?, NULL, 0)",
            *key,
            version.fingerprint,
            text,
            ir.digest(text),
        )

    def _log(self, transaction: Transaction, at: int, who: str, what: str, details: object) -> None:
        ((number,),) = transaction.rows("SELECT COALESCE(MAX(number), 0) + 1 FROM fs_audit")
        transaction.run(
            "INSERT INTO fs_audit (number, at, who, what, details) VALUES (?, ?, ?, ?, ?)",
            number,
            at,
            who,
            what,
            ir.canonical(details),
        )

    def _conflict(self, transaction: Transaction, expected: int, current: int) -> str:
        head = f"registry {self.place} is at revision {current}, and this was planned for revision {expected}"
        newer = transaction.rows("SELECT author FROM fs_revisions WHERE number = ?", current)
        by = f"{newer[0][0]} applied revision {current} in between; " if newer and current > expected else ""
        return f"{head}\n  {by}nothing was written: plan again"

    # --- what else is kept here -----------------------------------------------------------------------

    @contextmanager
    def reading(self, table: str | None = None) -> Iterator[Transaction | None]:
        """A transaction that reads one of the tables, or the registry itself; None where there is none yet."""
        with self._reading() as (transaction, _):
            known = table is None or (transaction is not None and table in self.database.tables(transaction))
            yield transaction if known else None

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """The one transaction that writes, tables made."""
        with self._writing() as (transaction, _):
            yield transaction

    # --- what lies there ------------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[tuple[Transaction | None, int]]:
        """A transaction and the number of the current revision; None and 0 when there is no registry yet."""
        with self.database.reading() as transaction:
            if transaction is None or not self._exists(transaction):
                yield None, 0
            else:
                yield transaction, self._current(transaction)

    @contextmanager
    def _writing(self) -> Iterator[tuple[Transaction, int]]:
        """The one transaction that writes, tables made, and the number of the current revision."""
        try:
            with self.database.writing() as transaction:
                if not self._exists(transaction):
                    for table, columns in _SCHEMA.items():
                        transaction.run(f"CREATE TABLE {table} ({columns})")
                    transaction.run(
                        "INSERT INTO fs_registry (schema_version, current_revision) VALUES (?, 0)",
                        SCHEMA_VERSION,
                    )
                current = self._current(transaction)
                self._bring_up(transaction)
                yield transaction, current
        except UnicodeEncodeError as error:
            raise RegistryError(
                f"registry {self.place} cannot keep {error.object!r}: {error.reason}"
            ) from error

    def _exists(self, transaction: Transaction) -> bool:
        tables = self.database.tables(transaction)
        if "fs_registry" in tables:
            return True
        strange = tables if self.database.exclusive else tables & _SCHEMA.keys()
        if strange:
            raise RegistryCorrupt(
                f"registry {self.place} holds something else: {', '.join(sorted(strange))}\n"
                "  name another place in [registry] url of fs.toml"
            )
        return False

    def _current(self, transaction: Transaction) -> int:
        rows = transaction.rows("SELECT schema_version, current_revision FROM fs_registry")
        if len(rows) != 1 or not all(isinstance(n, int) for n in rows[0]):
            raise self._corrupt("its table fs_registry", "does not hold one row of two numbers")
        ((schema, current),) = rows
        if not 1 <= schema <= SCHEMA_VERSION:
            raise RegistryCorrupt(
                f"registry {self.place} has layout {schema}, and this featurestore knows {SCHEMA_VERSION}\n"
                "  use the version of featurestore that wrote it, or a newer one"
            )
        return int(current)

    def _bring_up(self, transaction: Transaction) -> None:
        """Makes what an older layout lacks. What is there stays as it is."""
        ((schema,),) = transaction.rows("SELECT schema_version FROM fs_registry")
        for layout in range(schema + 1, SCHEMA_VERSION + 1):
            for table in _SINCE[layout]:
                transaction.run(f"CREATE TABLE {table} ({_SCHEMA[table]})")
        if schema < SCHEMA_VERSION:
            transaction.run("UPDATE fs_registry SET schema_version = ?", SCHEMA_VERSION)

    def _revision(self, transaction: Transaction, number: int) -> Revision:
        rows = transaction.rows(
            "SELECT created_at, author, description, plan, digest FROM fs_revisions WHERE number = ?", number
        )
        what = f"revision {number}"
        if not rows:
            raise self._corrupt(what, "is missing")
        ((created_at, author, description, text, digest),) = rows
        plan = self._node(self._sealed(text, digest, what), what)
        if not isinstance(plan, ir.Plan):
            raise self._corrupt(what, "is not a plan")
        return Revision(number, created_at, author, description, plan)

    def _version(self, row: tuple[Any, ...]) -> ServiceVersion:
        name, version, fingerprint, text, digest, first_served_at, retired = row
        what = f"{name}@{version}"
        value = self._sealed(text, digest, what)
        if not isinstance(value, dict) or value.keys() != {"service", "views"}:
            raise self._corrupt(what, "is not a service and its views")
        service, views = self._node(value["service"], what), self._node(value["views"], what)
        return ServiceVersion(version, fingerprint, service, views, first_served_at, bool(retired))

    def _sealed(self, text: str, digest: str, what: str) -> Any:
        value = self._json(text, what)
        if ir.digest(text) != digest:
            raise self._corrupt(what, "is not what was written: its digest differs")
        return value

    def _json(self, text: str, what: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, TypeError) as error:
            raise self._corrupt(what, f"is not JSON: {error}") from error

    def _node(self, value: Any, what: str) -> Any:
        try:
            return ir.from_json(value)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise self._corrupt(what, f"does not parse: {type(error).__name__} {error}") from error

    def _corrupt(self, what: str, how: str) -> RegistryCorrupt:
        return RegistryCorrupt(f"registry {self.place}: {what} {how}\n  {way_out(self.database)}")


def _limit(limit: int | None) -> int:
    return 2**62 if limit is None else limit
