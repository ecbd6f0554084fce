"""The ledger: what was materialised of which view, from which inputs; what is missing; and who is writing now.

It lies in the registry's database, in three tables. A *unit* is a view's range of time: PENDING while it is written, DONE, or
FAILED; one that a killed process left is PENDING without a living lease. A *hole* is a range in which what is served lacks
something that is known to exist. A *lease* is held by the one process that writes a view.

All of it goes by what is stored: the view's key prefix in one online store. Another definition is another view.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from featurestore.errors import AlreadyRunning, MaterializeError, RegistryCorrupt, RegistryError
from featurestore.ir import View
from featurestore.layout import storage_fingerprint
from featurestore.registry import Registry
from featurestore.registry.connection import Transaction, way_out
from featurestore.time import SECOND, floor, moment_text

PENDING, DONE, FAILED = "PENDING", "DONE", "FAILED"

LEASE_SECONDS = 120.0
"""How long a process on another machine may be silent before its lease is taken for abandoned."""

BEAT_SECONDS = 20.0
"""How often a process says that it still writes."""


@dataclass(frozen=True, slots=True)
class Hole:
    """A range of event time, end exclusive, in which `rows` events are missing from what is served, and why.

    `rows` is the total so far, not what came since the last report.
    """

    start: int
    end: int
    reason: str
    rows: int


@dataclass(frozen=True, slots=True)
class HoleEntry:
    """A hole of a view as the ledger keeps it; `closed_at` None while it is open. Instants in microseconds."""

    view: str
    start: int
    end: int
    reason: str
    rows: int
    opened_at: int
    closed_at: int | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """A view's range of time and how writing it went. `start` None is the beginning.

    `number` grows with every unit and every report of a hole, so it says what came first, whatever clocks say. `heads` is
    false where a stream owns the heads. `inputs` and `checkpoint` are JSON, "" where there is none; `run` is the number that
    the values written bear; `identity` is the store's, which changes when it loses what it held.
    """

    number: int
    view: str
    start: int | None
    end: int
    cut: int
    heads: bool
    status: str
    inputs: str
    identity: str
    checkpoint: str
    run: int
    entities: int
    started_at: int
    finished_at: int | None
    who: str
    reason: str
    error: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """A unit to begin."""

    start: int | None
    end: int
    cut: int
    heads: bool
    inputs: str
    identity: str
    who: str
    reason: str


_UNIT = (
    "SELECT number, name, start_at, end_at, cut, heads, status, inputs, identity, checkpoint, run, entities, "
    "started_at, finished_at, who, reason, error FROM fs_units WHERE store = ? AND prefix = ? "
)
_HOLE = "SELECT prefix, name, start_at, end_at, reason, lines, opened_at, closed_at FROM fs_holes WHERE store = ? "


@dataclass(frozen=True)
class Ledger:
    """The ledger of one online store, `store` its URL without secrets. Safe to share between threads and over a fork.

    Every method raises RegistryError when the database refuses or does not answer.
    """

    registry: Registry
    store: str
    clock: Callable[[], int] = field(default=lambda: time.time_ns() // 1000, compare=False)

    # --- holes ----------------------------------------------------------------------------------------

    def report_holes(self, view: View, holes: Iterable[Hole]) -> None:
        """Says what is missing. The same again changes nothing, a total below the one known neither.

        A greater total than the one known opens the hole again, and only what begins afterwards can close it.
        """
        given = list(holes)
        with self.registry.reading("fs_holes") as transaction:
            sql = "SELECT start_at, end_at, reason, lines FROM fs_holes WHERE store = ? AND prefix = ?"
            rows = [] if transaction is None else transaction.rows(sql, self.store, _prefix(view))
        known = {tuple(place): lines for *place, lines in rows}
        more = [h for h in given if h.rows > known.get((h.start, h.end, h.reason), -1)]
        if more:  # a stream says the same again and again: that writes nothing
            with self.registry.writing() as transaction:
                for hole in more:
                    self._report(transaction, view, hole)

    def _report(self, transaction: Transaction, view: View, hole: Hole) -> None:
        place = (self.store, _prefix(view), hole.start, hole.end, hole.reason)
        same = "store = ? AND prefix = ? AND start_at = ? AND end_at = ? AND reason = ?"
        known = transaction.rows(f"SELECT lines, closed_at FROM fs_holes WHERE {same}", *place)  # noqa: S608
        if known and known[0][0] >= hole.rows:
            return
        seen, now = _next(transaction), self.clock()
        if not known:
            transaction.run(
                "INSERT INTO fs_holes (store, prefix, name, start_at, end_at, reason, lines, seen, opened_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                self.store,
                _prefix(view),
                view.name,
                hole.start,
                hole.end,
                hole.reason,
                hole.rows,
                seen,
                now,
            )
            return
        changed = "lines = ?, seen = ?, closed_at = NULL, closed_by = NULL"
        if known[0][1] is not None:
            changed += f", opened_at = {now:d}"
        transaction.run(f"UPDATE fs_holes SET {changed} WHERE {same}", hole.rows, seen, *place)  # noqa: S608

    def holes(self, views: Iterable[View] | None = None, *, closed: bool = False) -> list[HoleEntry]:
        """The open holes of views, or of all that were ever reported; with `closed` those that were closed as well.

        By view and start.
        """
        names = None if views is None else {_prefix(v): v.name for v in views}
        with self.registry.reading("fs_holes") as transaction:
            rows = [] if transaction is None else transaction.rows(_HOLE, self.store)
        found = [
            HoleEntry(name if names is None else names[prefix], *rest)
            for prefix, name, *rest in rows
            if names is None or prefix in names
        ]
        kept = [h for h in found if closed or h.closed_at is None]
        return sorted(kept, key=lambda h: (h.view, h.start, h.end, h.reason))

    # --- units ----------------------------------------------------------------------------------------

    def latest(self, view: View) -> Unit | None:
        """The newest unit of a view, however it ended."""
        return next(iter(self.history(view, 1)), None)

    def done(self, view: View) -> Unit | None:
        """The newest unit of a view that is DONE: what is served."""
        with self.registry.reading("fs_units") as transaction:
            sql = _UNIT + "AND status = ? ORDER BY number DESC LIMIT 1"
            rows = [] if transaction is None else transaction.rows(sql, self.store, _prefix(view), DONE)
        return _unit(rows[0]) if rows else None

    def unfinished(self, views: Iterable[View]) -> list[Unit]:
        """The newest unit of each view that has one which is not DONE: being written, failed, or left by a killed process."""
        found = [(v, self.latest(v)) for v in views]
        return [unit for _, unit in found if unit is not None and unit.status != DONE]

    def history(self, view: View, limit: int | None = None) -> list[Unit]:
        """The units of a view, newest first, at most `limit` (None is all): what was written when, by whom and why."""
        with self.registry.reading("fs_units") as transaction:
            if transaction is None:
                return []
            sql = _UNIT + "ORDER BY number DESC LIMIT ?"
            rows = transaction.rows(sql, self.store, _prefix(view), 2**62 if limit is None else limit)
        return [_unit(row) for row in rows]

    def running(self, view: View) -> str | None:
        """Who is writing the view now, in words; None when nobody is."""
        with self.registry.reading("fs_leases") as transaction:
            rows = [] if transaction is None else self._lease_rows(transaction, view)
        return _said(*rows[0][:3]) if rows and _alive(rows[0][0], rows[0][3], self.clock()) else None

    def corrupt(self, what: str) -> RegistryCorrupt:
        """The error for a text of the ledger that cannot be read."""
        return RegistryCorrupt(f"registry {self.registry.place}: {what}\n  {way_out(self.registry.database)}")

    # --- writing --------------------------------------------------------------------------------------

    @contextmanager
    def lease(self, view: View, who: str) -> Iterator[Lease]:
        """The right to write a view, held until the block ends. Raises AlreadyRunning while a living process holds it."""
        lease = Lease(self, view, json.dumps([*_process(), secrets.token_hex(8)]))
        with self.registry.writing() as transaction:
            now = self.clock()
            for owner, name, since, heartbeat in self._lease_rows(transaction, view):
                if _alive(owner, heartbeat, now):
                    raise AlreadyRunning(
                        f"view '{view.name}' is being written by {_said(owner, name, since)}\n"
                        "  wait until it has ended, or end it: the next run goes on where it was"
                    )
            transaction.run("DELETE FROM fs_leases WHERE store = ? AND prefix = ?", self.store, _prefix(view))
            transaction.run(
                "INSERT INTO fs_leases (store, prefix, name, owner, who, since, heartbeat) VALUES (?, ?, ?, ?, ?, ?, ?)",
                self.store,
                _prefix(view),
                view.name,
                lease.owner,
                who,
                now,
                now,
            )
        with lease:
            yield lease

    def _lease_rows(self, transaction: Transaction, view: View) -> list[tuple[Any, ...]]:
        sql = "SELECT owner, who, since, heartbeat FROM fs_leases WHERE store = ? AND prefix = ?"
        return transaction.rows(sql, self.store, _prefix(view))


@dataclass
class Lease:
    """The right to write one view. A thread says every `BEAT_SECONDS` that it is still wanted.

    Each method that writes checks first that it is still held, and raises MaterializeError when another process took it.
    """

    ledger: Ledger
    view: View
    owner: str
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._beats, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join()
        with self.ledger.registry.writing() as transaction:
            transaction.run("DELETE FROM fs_leases WHERE owner = ?", self.owner)

    def begin(self, wanted: Wanted) -> Unit:
        """A new unit, PENDING; what a process left that no longer lives is FAILED from here on."""
        with self._held() as transaction:
            transaction.run(
                "UPDATE fs_units SET status = ?, finished_at = ?, error = ? "
                "WHERE store = ? AND prefix = ? AND status = ?",
                FAILED,
                self.ledger.clock(),
                "the process that wrote it ended; it was begun anew",
                self.ledger.store,
                _prefix(self.view),
                PENDING,
            )
            number = _next(transaction)
            transaction.run(
                "INSERT INTO fs_units (number, store, prefix, name, start_at, end_at, cut, heads, status, inputs, "
                "identity, checkpoint, run, entities, started_at, who, reason, error) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '', 0, 0, ?, ?, ?, '')",
                number,
                self.ledger.store,
                _prefix(self.view),
                self.view.name,
                wanted.start,
                wanted.end,
                wanted.cut,
                int(wanted.heads),
                PENDING,
                wanted.inputs,
                wanted.identity,
                self.ledger.clock(),
                wanted.who,
                wanted.reason,
            )
        unit = self.ledger.latest(self.view)
        assert unit is not None
        return unit

    def go_on(self, unit: Unit) -> None:
        """Takes up a unit that did not end."""
        with self._held() as transaction:
            transaction.run(
                "UPDATE fs_units SET status = ?, error = '', finished_at = NULL WHERE number = ?",
                PENDING,
                unit.number,
            )

    def save(self, unit: Unit, checkpoint: str, run: int) -> None:
        """How far a unit has come: everything up to the checkpoint is in the store."""
        with self._held() as transaction:
            sql = "UPDATE fs_units SET checkpoint = ?, run = ? WHERE number = ?"
            transaction.run(sql, checkpoint, run, unit.number)

    def fail(self, unit: Unit, error: BaseException) -> None:
        """A unit that ended in an exception. Its checkpoint stays for the next run."""
        said = f"{type(error).__name__}: {error}".strip().removesuffix(":").replace("\0", "")
        text = said.encode("utf-8", "replace").decode("utf-8")
        with self._held() as transaction:
            sql = "UPDATE fs_units SET status = ?, finished_at = ?, error = ? WHERE number = ?"
            transaction.run(sql, FAILED, self.ledger.clock(), text, unit.number)

    def finish(
        self, unit: Unit, run: int, entities: int, repaired: Sequence[Hole], until: int
    ) -> list[HoleEntry]:
        """A unit that is DONE. Closes the holes before `until` that it covers and that were reported before it began.

        `repaired` are holes that nobody reported because only this run noticed them. Returns all that were closed.
        """
        ledger, prefix = self.ledger, _prefix(self.view)
        with self._held() as transaction:
            now = ledger.clock()
            transaction.run(
                "UPDATE fs_units SET status = ?, finished_at = ?, run = ?, entities = ?, checkpoint = '' WHERE number = ?",
                DONE,
                now,
                run,
                entities,
                unit.number,
            )
            # What older units read is of no use any more, and may be long.
            sql = "UPDATE fs_units SET inputs = '', checkpoint = '' WHERE store = ? AND prefix = ? AND number < ?"
            transaction.run(sql, ledger.store, prefix, unit.number)
            same = "store = ? AND prefix = ? AND start_at = ? AND end_at = ? AND reason = ?"
            for hole in repaired:  # what was repaired before under the same name counts no more
                place = (ledger.store, prefix, hole.start, hole.end, hole.reason)
                transaction.run(f"DELETE FROM fs_holes WHERE {same}", *place)  # noqa: S608
                ledger._report(transaction, self.view, hole)  # noqa: SLF001  in the same transaction
            ours = {(h.start, h.end, h.reason) for h in repaired}
            closed = []
            sql = "SELECT start_at, end_at, reason, lines, opened_at, seen FROM fs_holes "
            sql += "WHERE store = ? AND prefix = ? AND closed_at IS NULL"
            for start, end, reason, lines, opened_at, seen in transaction.rows(sql, ledger.store, prefix):
                covered = end <= until and (unit.start is None or unit.start <= start)
                if not (covered and (seen < unit.number or (start, end, reason) in ours)):
                    continue
                transaction.run(
                    f"UPDATE fs_holes SET closed_at = ?, closed_by = ? WHERE {same}",  # noqa: S608
                    now,
                    unit.number,
                    ledger.store,
                    prefix,
                    start,
                    end,
                    reason,
                )
                closed.append(HoleEntry(self.view.name, start, end, reason, lines, opened_at, now))
        return sorted(closed, key=lambda h: (h.start, h.end, h.reason))

    def move(self, unit: Unit, end: int) -> None:
        """A DONE unit of which no value changes until a later end."""
        with self._held() as transaction:
            sql = "UPDATE fs_units SET end_at = ?, finished_at = ? WHERE number = ?"
            transaction.run(sql, end, self.ledger.clock(), unit.number)

    @contextmanager
    def _held(self) -> Iterator[Transaction]:
        with self.ledger.registry.writing() as transaction:
            sql = "UPDATE fs_leases SET heartbeat = ? WHERE owner = ?"
            if transaction.run(sql, self.ledger.clock(), self.owner) != 1:
                raise MaterializeError(
                    f"another process has taken view '{self.view.name}' over: this one was silent for too long\n"
                    "  the other one writes all of it; run again to be sure"
                )
            yield transaction

    def _beats(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                with self._held():
                    pass
            except (MaterializeError, RegistryError):
                continue  # whoever writes next meets the same, and says so


# --- words and processes --------------------------------------------------------------------------


def _unit(row: Sequence[Any]) -> Unit:
    values = [*row]
    values[5] = bool(values[5])
    return Unit(*values)


def _prefix(view: View) -> str:
    return storage_fingerprint(view)[:14]


def _next(transaction: Transaction) -> int:
    """A number greater than any given to a unit or a report before."""
    ((number,),) = transaction.rows(
        "SELECT COALESCE(MAX(n), 0) + 1 FROM (SELECT MAX(number) AS n FROM fs_units "
        "UNION ALL SELECT MAX(seen) AS n FROM fs_holes) AS numbers"
    )
    return int(number)


def _process() -> tuple[str, str, int, str]:
    """This process: host, what its process numbers count in, its number, and when it began."""
    pid = os.getpid()
    return socket.gethostname(), _machine(), pid, _began(pid)


def _machine() -> str:
    """Names a running machine, or the container whose processes can be looked at; where nothing says, the host."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _began(pid: int) -> str:
    """When a process began, in the machine's own count; "" when there is none, "?" where nothing says."""
    try:
        # The second field is the program's name in brackets and may hold anything.
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        state, *fields = text.rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]  # ended, and not yet asked after by who started it
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "?"
    return "?"


def _alive(owner: str, heartbeat: int, now: int) -> bool:
    """Whether who holds a lease still lives: known for a process of this machine, else by how long it has been silent."""
    _, machine, pid, began, _ = json.loads(owner)
    if machine == _machine():
        return bool(_began(pid) == began)
    return bool(now - heartbeat < LEASE_SECONDS * 1e6)


def _said(owner: str, who: str, since: int) -> str:
    host, _, pid, *_ = json.loads(owner)
    return f"{who} on {host}, process {pid}, since {moment_text(floor(since, SECOND))}"
