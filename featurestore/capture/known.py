"""An index beside the capture log: which requests there are, and what came back of which rows."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import repeat
from typing import Final

import pyarrow as pa

from featurestore.capture.log import CaptureLog, read_on, set_aside
from featurestore.errors import CaptureError, LogCorrupt
from featurestore.log.eventlog import BAD_SUFFIX, EventLog

FILE: Final = "index.sqlite"

_TABLES = """
CREATE TABLE IF NOT EXISTS requests (id TEXT PRIMARY KEY, rows INTEGER, at INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS newest (what TEXT, name TEXT, version TEXT, row_id TEXT, digest BLOB, number INTEGER,
                                   PRIMARY KEY (what, row_id, name, version)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS progress (what TEXT PRIMARY KEY, said TEXT) WITHOUT ROWID;
"""


_OUTSIDE: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
}
"""Errors of the disk or of company, with the index itself in order."""


def digest_of(kind: str, number: float | None, whole: int | None, text: str | None) -> bytes:
    """Two values that came back are the same iff these are."""
    said = json.dumps([kind, None if number is None else number.hex(), whole, text])
    return hashlib.blake2b(said.encode(), digest_size=16).digest()


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
            works = "it is an index alone: remove it, and it is made again"
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _OUTSIDE:
                works = "make room or wait for who has it, then send the values again: what is kept by then is taken once"
            raise CaptureError(f"{self._log.path / FILE}: {error}\n  {works}") from error


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

    def follow(self, what: str, log: EventLog) -> None:
        """Takes up the values that came back since; all of them anew where the index is new, or some were damaged meanwhile.

        So a value that is not to be read any more is not taken for one that is there, when it is sent again.
        """
        before = self.said(f"values of {what}")
        known = dict(before or {"end": 0, "damaged": -1})
        while True:
            try:
                beyond = known["end"] > log.end()  # of a log that was removed, or is an older copy
            except LogCorrupt as error:
                set_aside(log, error)
                continue
            damaged = _damaged(log)
            if beyond or known["damaged"] != damaged:
                self._con.execute("DELETE FROM newest WHERE what = ?", (what,))
                known = {"end": 0, "damaged": damaged}
            for table, end in read_on(log, max(known["end"], log.start())):
                self._took(what, table)
                known["end"] = end
            if known["damaged"] == _damaged(log):
                break
        if known != before:
            self.say(f"values of {what}", known)

    def _took(self, what: str, table: pa.Table) -> None:
        columns = [table[n].to_pylist() for n in ("row_id", "name", "version", "change")]
        told = [table[n].to_pylist() for n in ("kind", "number", "whole", "text")]
        digests = (digest_of(*value) for value in zip(*told, strict=True))
        self._con.executemany(
            "INSERT OR REPLACE INTO newest (what, row_id, name, version, number, digest) VALUES (?, ?, ?, ?, ?, ?)",
            zip(repeat(what), *columns, digests, strict=False),
        )

    def followed(self, what: str, end: int) -> None:
        """Notes that what lies before an offset of the log of values is known."""
        known = self.said(f"values of {what}") or {}
        self.say(f"values of {what}", {**known, "end": end})

    def numbered(self, what: str, values: Sequence[tuple[str, str, str, bytes]]) -> list[int]:
        """Of each (name, version, row id, digest): the number of its different value, from 1; 0 for the same again."""
        numbers = []
        for name, version, row_id, digest in values:
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


def _damaged(log: EventLog) -> int:
    """How often damaged bytes were set aside."""
    return sum(1 for _ in log.directory.glob(f"*{BAD_SUFFIX}"))
