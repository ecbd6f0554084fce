"""Transactions over SQLite and PostgreSQL: all in which the two differ, and nothing else.

Each transaction has a connection of its own, so a database may be used from any thread, and on both sides of
a fork.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

from featurestore.errors import ConfigError, RegistryCorrupt, RegistryError

if TYPE_CHECKING:
    import sqlite3

    import psycopg

PATIENCE_SECONDS = 30
"""How long a transaction waits for another one's lock."""

EXAMPLES = (
    "sqlite:///.fs/registry.db (below the folder of fs.toml), sqlite:////absolute/path "
    "or postgresql://user@host/database"
)
_LOCK = 0x66735F7265676973  # the advisory lock that writers of a PostgreSQL registry take: "fs_regis"


@dataclass(frozen=True, slots=True)
class Transaction:
    """Statements with `?` for each value, inside one transaction."""

    execute: Callable[[str, Sequence[object]], Any]

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        return list(self.execute(sql, values).fetchall())

    def run(self, sql: str, *values: object) -> int:
        """Execute a statement; how many rows it touched."""
        return int(self.execute(sql, values).rowcount)


class Database(Protocol):
    """Where a registry is kept. `place` hides the password; `exclusive`: nobody else has tables there."""

    @property
    def place(self) -> str: ...

    @property
    def exclusive(self) -> bool: ...

    def reading(self) -> AbstractContextManager[Transaction | None]:
        """A transaction that sees one moment and writes nothing; None where there is nothing to read."""
        ...

    def writing(self) -> AbstractContextManager[Transaction]:
        """The one transaction that writes; others wait. Commits at its end, not after an exception."""
        ...

    def tables(self, transaction: Transaction) -> frozenset[str]:
        """The names of the tables there are."""
        ...


def database_at(url: str, base_dir: Path) -> Database:
    """The database a URL names, not opened yet. ConfigError when it is no URL, or its driver is missing."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "sqlite":
        if not rest.startswith("/") or rest == "/":
            raise ConfigError(f"registry URL '{url}' names no file\n  write {EXAMPLES}")
        return Sqlite((base_dir / rest[1:]).absolute())
    if separator and scheme in ("postgresql", "postgres"):
        return Postgres(url)
    raise ConfigError(f"registry URL '{masked(url)}' is none that a registry can be at\n  write {EXAMPLES}")


# --- SQLite ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sqlite:
    """One file. Its folder and itself are made by the first write."""

    path: Path

    @property
    def place(self) -> str:
        return str(self.path)

    @property
    def exclusive(self) -> bool:
        return True

    @contextmanager
    def reading(self) -> Iterator[Transaction | None]:
        with self._named():
            there = self.path.exists()
        if not there:
            yield None
            return
        # Opened for writing all the same: after a crash it is the next reader who rolls the journal back.
        with self._transaction("rw", "BEGIN") as transaction:
            yield transaction

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        with self._named():
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._transaction("rwc", "BEGIN IMMEDIATE") as transaction:
            yield transaction

    def tables(self, transaction: Transaction) -> frozenset[str]:
        found = transaction.rows("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        return frozenset(name for (name,) in found if not name.startswith("sqlite_"))

    @contextmanager
    def _transaction(self, mode: str, begin: str) -> Iterator[Transaction]:
        with self._named(), closing(self._connect(mode)) as connection:
            try:
                connection.execute(begin)
                yield Transaction(connection.execute)
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def _connect(self, mode: str) -> sqlite3.Connection:
        import sqlite3

        uri = f"{self.path.as_uri()}?mode={mode}"
        return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=PATIENCE_SECONDS)

    @contextmanager
    def _named(self) -> Iterator[None]:
        import sqlite3

        try:
            yield
        except sqlite3.Error as error:
            raise self._error(error) from error
        except OSError as error:
            raise RegistryError(f"registry {self.place}: {error.strerror or error}") from error

    def _error(self, error: sqlite3.Error) -> RegistryError:
        name = getattr(error, "sqlite_errorname", "")
        head = f"registry {self.place}: {error}"
        if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            return RegistryCorrupt(f"{head}\n  {way_out(self)}")
        if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
            return RegistryError(f"{head}\n  nothing was written; make room on the disk and try again")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return RegistryError(
                f"{head}\n  somebody else has been writing for {PATIENCE_SECONDS} s; try again"
            )
        if name == "SQLITE_ERROR":  # no such table, no such column
            return RegistryCorrupt(f"{head}\n  {way_out(self)}")
        return RegistryError(f"{head}\n  it has to be a file in a folder that can be written")


# --- PostgreSQL -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Postgres:
    """Tables in the schema that the connection meets first. Writers take turns by an advisory lock."""

    url: str = field(repr=False)

    def __post_init__(self) -> None:
        try:
            import psycopg  # noqa: F401  its absence is to be known before anything is touched
        except ImportError as error:
            raise ConfigError(
                f"registry {self.place} wants psycopg\n  pip install 'featurestore[postgres]'"
            ) from error

    @property
    def place(self) -> str:
        return masked(self.url)

    @property
    def exclusive(self) -> bool:
        return False

    @contextmanager
    def reading(self) -> Iterator[Transaction | None]:
        with self._transaction("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY") as transaction:
            yield transaction

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        with self._transaction("BEGIN ISOLATION LEVEL READ COMMITTED") as transaction:
            transaction.rows("SELECT set_config('lock_timeout', ?, true)", f"{PATIENCE_SECONDS}s")
            transaction.rows("SELECT pg_advisory_xact_lock(?)", _LOCK)
            yield transaction

    def tables(self, transaction: Transaction) -> frozenset[str]:
        sql = "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
        return frozenset(name for (name,) in transaction.rows(sql))

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Transaction]:
        import psycopg

        connection = self._connect()

        def execute(sql: str, values: Sequence[object]) -> psycopg.Cursor[Any]:
            return connection.execute(sql.replace("?", "%s").encode(), values or None)

        try:
            with closing(connection):
                connection.execute(begin.encode())
                try:
                    yield Transaction(execute)
                    connection.execute("COMMIT")
                finally:
                    if not connection.closed and connection.info.transaction_status:
                        connection.execute("ROLLBACK")
        except psycopg.Error as error:
            raise self._error(error) from error

    def _connect(self) -> psycopg.Connection[Any]:
        import psycopg
        from psycopg.conninfo import conninfo_to_dict

        try:
            patience = conninfo_to_dict(self.url).get("connect_timeout", PATIENCE_SECONDS)
            return psycopg.connect(self.url, autocommit=True, connect_timeout=patience)
        except psycopg.Error as error:
            # Not chained: the driver may quote the URL, password included.
            text = " ".join(without_secrets(str(error), self.url).split())
            raise RegistryError(
                f"registry {self.place}: {text}\n  is the server up, and the URL right? "
                "characters such as @ / : in a password are written %40 %2F %3A"
            ) from None

    def _error(self, error: psycopg.Error) -> RegistryError:
        from psycopg import errors

        head = f"registry {self.place}: {' '.join(str(error).split())}"
        match error:
            case (
                errors.UndefinedTable()
                | errors.UndefinedColumn()
                | errors.DataCorrupted()
                | errors.IndexCorrupted()
            ):
                return RegistryCorrupt(f"{head}\n  {way_out(self)}")
            case errors.DiskFull():
                return RegistryError(
                    f"{head}\n  nothing was written; make room on the server's disk and try again"
                )
            case errors.LockNotAvailable():
                return RegistryError(
                    f"{head}\n  somebody else has been writing for {PATIENCE_SECONDS} s; try again"
                )
            case errors.InsufficientPrivilege() | errors.ReadOnlySqlTransaction():
                return RegistryError(
                    f"{head}\n  this needs a user who may write, and the first time create tables"
                )
            case _:
                return RegistryError(f"{head}\n  it was written whole or not at all; `fs plan` shows which")


# --- words ----------------------------------------------------------------------------------------


def way_out(database: Database) -> str:
    """What to do about a registry that cannot be read."""
    moved = "move the file away" if database.exclusive else "use another database or schema"
    return (
        f"restore it from a backup; or {moved} and `fs apply` again: definitions are in your files, "
        "and only the history, the audit log and the served versions would begin anew"
    )


def masked(url: str) -> str:
    """A URL with `***` for its password.

    >>> masked("postgresql://fs:s3cr@t@db/registry?sslmode=require")
    'postgresql://fs:***@db/registry?sslmode=require'
    """
    hidden = re.sub(r"(://[^:/?@]*):.*@", r"\1:***@", url, count=1, flags=re.DOTALL)
    return re.sub(r"((?:^|[?&\s])(?:ssl)?password=)[^&\s]*", r"\1***", hidden, flags=re.IGNORECASE)


def without_secrets(text: str, url: str) -> str:
    """`text` without the password of `url`, nor a part of it that a wrong `@` or `/` may have split off."""
    found = re.findall(r"://[^:/?@]*:(.*)@", url, flags=re.DOTALL)
    found += re.findall(r"[?&\s](?:ssl)?password=([^&\s]*)", url, flags=re.IGNORECASE)
    secrets = {
        part for whole in found for part in [whole, unquote(whole), *re.split(r"[@/:?#]", whole)] if part
    }
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
