"""An index beside the capture log: which requests there are, and what came back of which rows."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Final

import pyarrow as pa

from featurestore.capture.log import CaptureLog
from featurestore.errors import CaptureError

FILE: Final = "index.sqlite"

_TABLES = """
CREATE TABLE IF NOT EXISTS requests (id TEXT PRIMARY KEY, rows INTEGER, at INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS newest (what TEXT, name TEXT, version TEXT, row_id TEXT, digest BLOB, number INTEGER,
                                   PRIMARY KEY (what, row_id, name, version)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS progress (what TEXT PRIMARY KEY, said TEXT) WITHOUT ROWID;
"""


class Index:
    """The index of one capture log, brought up to date inside `use`. Any number of processes; one at a time has it."""

    def __init__(self, log: CaptureLog) -> None:
        self._log = log

    @contextmanager
    def use(self) -> Iterator[Use]:
        """The index, up to date with the captured rows. What is noted is kept when the block ends well."""
        self._log.path.mkdir(parents=True, exist_ok=True)
        try:
            with closing(sqlite3.connect(self._log.path / FILE, timeout=60, isolation_level=None)) as con:
                con.execute("PRAGMA journal_mode=WAL")
                con.execute("PRAGMA synchronous=NORMAL")
                con.executescript(_TABLES)
                con.execute("BEGIN IMMEDIATE")
                try:
                    use = Use(con)
                    use.catch_up(self._log)
                    yield use
                except BaseException:
                    con.execute("ROLLBACK")
                    raise
                con.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise CaptureError(
                f"{self._log.path / FILE}: {error}\n  it is an index alone: remove it, and it is made again"
            ) from error


class Use:
    """The index while one has it."""

    def __init__(self, con: sqlite3.Connection) -> None:
        self._con = con

    def catch_up(self, log: CaptureLog) -> None:
        """Takes up the requests that were captured since."""
        for service in log.services():
            what = f"rows of {service}"
            before = self.said(what) or {}
            for rows in log.read(service, after=before, columns=["request_id", "row", "at"]):
                found = rows.table.group_by("request_id").aggregate([("row", "max"), ("at", "min")])
                at = found["at_min"].cast(pa.int64())
                requests = zip(
                    found["request_id"].to_pylist(), found["row_max"].to_pylist(), at.to_pylist(), strict=True
                )
                self._con.executemany(
                    "INSERT INTO requests VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE SET "
                    "rows = max(rows, ?2), at = min(at, ?3)",
                    requests,
                )
                self.say(what, dict(rows.cursor))

    def said(self, what: str) -> dict[str, int] | None:
        """How far something was taken up."""
        row = self._con.execute("SELECT said FROM progress WHERE what = ?", (what,)).fetchone()
        return None if row is None else json.loads(row[0])

    def say(self, what: str, position: dict[str, int]) -> None:
        """Notes how far something was taken up."""
        self._con.execute("INSERT OR REPLACE INTO progress VALUES (?, ?)", (what, json.dumps(position)))

    def asked_at(self, row_ids: Sequence[str]) -> list[int | None]:
        """The moment (µs) of each row's request; None for a row of which nothing was captured."""
        one = self._con.cursor()
        found: dict[str, tuple[int, int] | None] = {}
        moments: list[int | None] = []
        for row_id in row_ids:
            request, _, number = row_id.rpartition("-")
            if request not in found:
                found[request] = one.execute(
                    "SELECT rows, at FROM requests WHERE id = ?", (request,)
                ).fetchone()
            known = found[request]
            whole = number.isascii() and number.isdecimal() and len(number) < 10
            moments.append(known[1] if known is not None and whole and int(number) <= known[0] else None)
        return moments

    def numbered(self, what: str, values: Sequence[tuple[str, str, str, str]]) -> list[int]:
        """Of each (name, version, row id, value): the number of its different value, from 1; 0 for the same again."""
        numbers = []
        for name, version, row_id, value in values:
            digest = hashlib.blake2b(value.encode(), digest_size=16).digest()
            key = (what, row_id, name, version)
            found = self._con.execute(
                "SELECT digest, number FROM newest WHERE what = ? AND row_id = ? AND name = ? AND version = ?",
                key,
            ).fetchone()
            if found is not None and found[0] == digest:
                numbers.append(0)
                continue
            number = 1 if found is None else found[1] + 1
            self._con.execute(
                "INSERT OR REPLACE INTO newest VALUES (?, ?, ?, ?, ?, ?)",
                (what, name, version, row_id, digest, number),
            )
            numbers.append(number)
        return numbers

    def forget(self, row_ids: Sequence[str]) -> None:
        """Rows that were erased: nothing is known of what came back of them."""
        self._con.executemany("DELETE FROM newest WHERE row_id = ?", [(r,) for r in row_ids])
