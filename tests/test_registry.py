"""The registry: the same behaviour in SQLite and PostgreSQL, and what becomes of it when things go wrong."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from featurestore import ir
from featurestore.errors import (
    ConfigError,
    NotFound,
    PlanConflict,
    RegistryCorrupt,
    RegistryError,
    ServiceImmutable,
)
from featurestore.expr import Column
from featurestore.registry import (
    SCHEMA_VERSION,
    Registry,
    Revision,
    ServiceVersion,
    masked,
    open_registry,
    version_of,
)
from featurestore.types import Float64, String, Timestamp

ROOT = Path(__file__).parent.parent
NOON = 1_750_000_000_000_000


def a_plan(
    description: str = "", *, default: float | None = None, services: tuple[str, ...] = ("delay",)
) -> ir.Plan:
    source = ir.Source(
        "departures",
        ir.Location("parquet", "data/*.parquet"),
        (("carrier", String), ("delay", Float64), ("left_at", Timestamp)),
        event_time="left_at",
    )
    entity = ir.Entity("carrier", (("carrier", String),))
    feature = ir.Feature(
        "delay_mean_1h",
        "mean",
        (Column("delay"),),
        (Float64,),
        Float64,
        ir.Window(3_600_000_000, 300_000_000),
        default=default,
    )
    about = ir.About(description)
    view = ir.View(
        "delays", "carrier", (ir.Key("carrier", String, Column("carrier")),), source, (feature,), about=about
    )
    read = ir.Read("delays", feature.name, feature.name, (("carrier", "carrier"),), Float64)
    return ir.Plan((entity,), (source,), (view,), tuple(ir.Service(name, (read,)) for name in services))


def put(registry: Registry, expected: int = 0, plan: ir.Plan | None = None, version: int = 1) -> Revision:
    plan = a_plan() if plan is None else plan
    versions = [version_of(plan, s.name, version) for s in plan.services]
    return registry.commit(expected, plan, versions, [{"kind": "view"}], "ada", NOON + expected)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/deep/below/registry.db"
    found: str = request.getfixturevalue("fresh_postgres")
    return found


@pytest.fixture
def registry(url: str, tmp_path: Path) -> Registry:
    return open_registry(url, tmp_path)


# --- both databases -------------------------------------------------------------------------------------


def test_an_absent_registry_reads_as_the_empty_revision_0_and_is_not_made(
    registry: Registry, tmp_path: Path
) -> None:
    assert registry.current() == Revision(0, None, "", "", ir.Plan())
    assert registry.history() == []
    assert registry.audit() == []
    assert registry.services() == []
    with pytest.raises(NotFound, match="there is none yet"):
        registry.service("delay")
    with pytest.raises(NotFound):
        registry.mark_served("delay", 1, NOON)
    assert list(tmp_path.iterdir()) == []


def test_what_is_committed_is_read_back_whole(registry: Registry, url: str, tmp_path: Path) -> None:
    plan = a_plan("naïve “quotes” and a null \0 and 🛫")
    made = registry.commit(
        0, plan, [version_of(plan, "delay", 1)], [{"kind": "view"}], "ada", NOON, description="first"
    )
    assert made == Revision(1, NOON, "ada", "first", plan)
    again = open_registry(url, tmp_path)
    assert again.current() == made == again.revision(1)
    assert again.revision(0).plan == ir.Plan()
    assert again.service("delay") == version_of(plan, "delay", 1)
    assert again.service("delay").view("delays").source.schema["delay"] == Float64
    (entry,) = again.audit()
    assert (entry.at, entry.who, entry.what) == (NOON, "ada", "apply")
    assert entry.details == {"revision": 1, "changes": [{"kind": "view"}]}


def test_history_and_audit_are_newest_first_and_bounded(registry: Registry) -> None:
    for n in range(4):
        put(registry, n, a_plan(str(n)))
    assert [r.number for r in registry.history()] == [4, 3, 2, 1]
    assert [r.number for r in registry.history(2)] == [4, 3]
    assert [e.details["revision"] for e in registry.audit(3)] == [4, 3, 2]
    assert registry.revision(2).plan == a_plan("1")
    with pytest.raises(NotFound, match="at revision 4"):
        registry.revision(9)


def test_a_commit_on_an_older_revision_conflicts_and_writes_nothing(registry: Registry) -> None:
    put(registry)
    with pytest.raises(
        PlanConflict, match=r"at revision 1.*planned for revision 0\n  ada applied revision 1"
    ):
        put(registry, 0, a_plan("other"))
    with pytest.raises(PlanConflict, match="at revision 1"):
        put(registry, 5, a_plan("other"))
    assert registry.current().plan == a_plan()
    assert len(registry.history()) == len(registry.audit()) == 1


def test_a_service_is_found_by_name_by_number_and_by_reference(registry: Registry) -> None:
    put(registry)
    put(registry, 1, a_plan(default=0.0), version=2)
    assert registry.service("delay").version == 2
    assert registry.service("delay", 1).version == registry.service("delay@1").version == 1
    assert [v.reference for v in registry.services()] == ["delay@1", "delay@2"]


@pytest.mark.parametrize(
    ("name", "version", "says"),
    [
        ("dely", None, "no feature service 'dely'\n  did you mean 'delay'?"),
        ("delay", 7, "no version '7' in feature service 'delay'\n  there is delay@1"),
        ("delay@7", None, "no version '7' in feature service 'delay'\n  there is delay@1"),
        ("delay@x", None, "no version 'x' in 'delay@x': a version is a whole number, as in delay@1"),
    ],
)
def test_a_wrong_service_is_answered_with_the_right_ones(
    registry: Registry, name: str, version: int | None, says: str
) -> None:
    put(registry)
    with pytest.raises(NotFound) as caught:
        registry.service(name, version)
    assert str(caught.value).startswith(says)


def test_a_retired_service_is_found_by_its_number_alone(registry: Registry) -> None:
    put(registry, plan=a_plan(services=("delay", "other")))
    registry.commit(1, a_plan(services=("other",)), [], [], "ada", NOON, retire=["delay"])
    with pytest.raises(NotFound, match="delay@1 can still be read\n  there is other"):
        registry.service("delay")
    assert registry.service("delay@1").retired
    assert [v.reference for v in registry.services() if not v.retired] == ["other@1"]


def test_serving_is_marked_once_and_remembered(registry: Registry, url: str, tmp_path: Path) -> None:
    put(registry)
    assert not registry.service("delay").has_served
    registry.mark_served("delay", 1, NOON + 5)
    registry.mark_served("delay", 1, NOON + 9)
    other = open_registry(url, tmp_path)
    other.mark_served("delay", 1, NOON + 11, fingerprint=registry.service("delay").fingerprint)
    assert registry.service("delay").first_served_at == NOON + 5
    started = time.perf_counter()
    for _ in range(1000):
        registry.mark_served("delay", 1, NOON + 13)
    assert time.perf_counter() - started < 0.1


def test_a_version_that_has_not_served_is_replaced_and_one_that_has_is_not(registry: Registry) -> None:
    put(registry)
    old = registry.service("delay")
    put(registry, 1, a_plan(default=0.0))
    new = registry.service("delay")
    assert new.version == 1
    assert new.fingerprint != old.fingerprint
    with pytest.raises(RegistryError, match="delay@1 was replaced after it was loaded"):
        registry.mark_served("delay", 1, NOON, fingerprint=old.fingerprint)
    registry.mark_served("delay", 1, NOON, fingerprint=new.fingerprint)
    with pytest.raises(ServiceImmutable, match="delay@1 has served since this was planned"):
        put(registry, 2, a_plan(default=1.0))
    assert registry.current().number == 2
    assert registry.service("delay") == replace(new, first_served_at=NOON)


@pytest.mark.parametrize("at_once", [8])
def test_of_many_threads_that_apply_at_once_exactly_one_wins(
    url: str, tmp_path: Path, registry: Registry, at_once: int
) -> None:
    def attempt(n: int) -> int:
        ready.wait()
        try:
            return put(open_registry(url, tmp_path), revision, a_plan(f"by {n}")).number
        except PlanConflict:
            return -1

    for revision in (0, 1):  # the first time they make the tables as well
        ready = threading.Barrier(at_once)
        with ThreadPoolExecutor(at_once) as pool:
            numbers = list(pool.map(attempt, range(at_once)))
        assert sorted(numbers) == [-1] * (at_once - 1) + [revision + 1]
    assert len(registry.history()) == len(registry.audit()) == 2


APPLY = """
import sys, time
from pathlib import Path
from featurestore.errors import PlanConflict
from featurestore.registry import open_registry
from tests.test_registry import a_plan, put
print("ready", flush=True)
sys.stdin.readline()
try:
    print(put(open_registry(sys.argv[1], Path(".")), 0, a_plan(sys.argv[2])).number)
except PlanConflict:
    print("conflict")
"""


def child(code: str, *args: str, **options: Any) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        cwd=ROOT,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        **options,
    )


def test_of_several_processes_that_apply_at_once_exactly_one_wins(registry: Registry, url: str) -> None:
    children = [child(APPLY, url, f"by {n}") for n in range(3)]
    for process in children:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in children:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = sorted(process.communicate(timeout=60)[0].strip() for process in children)
    assert said == ["1", "conflict", "conflict"]
    assert registry.current().number == len(registry.audit()) == 1


def test_readers_see_whole_revisions_while_others_write(registry: Registry, url: str, tmp_path: Path) -> None:
    put(registry)
    done = threading.Event()

    def read() -> int:
        mine, seen = open_registry(url, tmp_path), 0
        while not done.is_set():
            now = mine.current()
            assert now.plan.views[0].about.description == ("" if now.number == 1 else str(now.number - 1))
            seen += 1
        return seen

    with ThreadPoolExecutor(1) as pool:
        reads = pool.submit(read)
        for n in range(1, 15):
            put(registry, n, a_plan(str(n)))
        done.set()
        assert reads.result() > 0


def test_text_that_is_not_unicode_is_refused_whole(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="cannot keep"):
        put(registry, plan=a_plan("half \ud800 of a letter"))
    assert registry.current().number == 0


KILLED = """
import os, sys
from pathlib import Path
from featurestore.registry import connection, open_registry
from tests.test_registry import a_plan, put

registry = open_registry(sys.argv[1], Path("."))
run = connection.Transaction.run

def run_and_die(self, sql, *values):
    touched = run(self, sql, *values)
    if sql.startswith(sys.argv[2]):
        os.kill(os.getpid(), 9)
    return touched

connection.Transaction.run = run_and_die
put(registry, int(sys.argv[3]), a_plan("x" * 20_000_000))   # larger than the page cache: it is on disk already
"""


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE fs_audit", "INSERT INTO fs_service", "UPDATE fs_registry SET current"]
)
def test_killed_in_the_middle_of_a_transaction_nothing_is_half_written(
    registry: Registry, url: str, statement: str, tmp_path: Path
) -> None:
    before = 0 if statement.startswith("CREATE") else put(registry).number
    process = child(KILLED, url, statement, str(before))
    _, error = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, error
    if url.startswith("sqlite") and not statement.startswith("CREATE"):
        assert list(tmp_path.rglob("registry.db-journal")), "the kill came before anything was on disk"
    assert registry.current().number == len(registry.history()) == len(registry.audit()) == before
    assert put(registry, before, a_plan("after")).number == before + 1
    assert registry.current().plan == a_plan("after")


# --- URLs -----------------------------------------------------------------------------------------------


def test_a_relative_sqlite_path_is_below_the_base_folder(tmp_path: Path) -> None:
    put(open_registry("sqlite:///.fs/a %20?b#c.db", tmp_path))
    assert (tmp_path / ".fs" / "a %20?b#c.db").is_file()


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "mysql://u:hush@h/d", "registry.db", "sqlite:a.db", ""]
)
def test_a_url_that_is_none_is_refused_with_one_that_is(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"write sqlite:///.fs/registry.db") as caught:
        open_registry(url, tmp_path)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://fs:hush@db:5432/r", "postgresql://fs:***@db:5432/r"),
        ("postgresql://fs:hu/s@h@db/r", "postgresql://fs:***@db/r"),
        ("postgresql://fs@db/r?password=hush&x=1", "postgresql://fs@db/r?password=***&x=1"),
        ("postgresql://fs@db/r", "postgresql://fs@db/r"),
        ("postgresql://fs@/r?host=/run&sslpassword=hush", "postgresql://fs@/r?host=/run&sslpassword=***"),
    ],
)
def test_passwords_are_masked(url: str, shown: str, tmp_path: Path) -> None:
    assert masked(url) == shown
    registry = open_registry(url, tmp_path)
    assert registry.place == shown
    assert "hush" not in repr(registry)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://fs:hushhush@127.0.0.1:1/r",
        "postgresql://fs:hu@shhush@127.0.0.1:1/r",
        "postgresql://fs:hu/shhush@127.0.0.1:1/r",
        "postgresql://fs:hush%zz@127.0.0.1:1/r",
        "postgresql://127.0.0.1:1/r?password=hushhush&nonsense=1",
    ],
)
def test_a_server_that_does_not_answer_is_named_without_its_password(url: str, tmp_path: Path) -> None:
    with pytest.raises(RegistryError) as caught:
        open_registry(f"{url}{'&' if '?' in url else '?'}connect_timeout=2", tmp_path).current()
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_without_psycopg_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"pip install 'featurestore\[postgres\]'"):
        open_registry("postgresql://fs:hush@db/r", tmp_path)


def test_drivers_are_imported_when_they_are_needed() -> None:
    code = "import featurestore.registry, sys; print({'sqlite3', 'psycopg'} & sys.modules.keys())"
    assert child(code).communicate(timeout=60)[0] == "set()\n"


# --- what lies there is no registry ---------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    registry = open_registry("sqlite:///registry.db", tmp_path)
    put(registry)
    put(registry, 1, a_plan("y" * 50_000))
    return tmp_path / "registry.db"


def tampered(*statements: str) -> Callable[[Path], None]:
    def tamper(file: Path) -> None:
        with sqlite3.connect(file) as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()

    return tamper


def something_else(file: Path) -> None:
    file.unlink(missing_ok=True)
    tampered("CREATE TABLE accounts (name TEXT)")(file)


CORRUPT: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file that is not SQLite": (lambda f: f.write_bytes(b"PAR1" * 5000), "file is not a database"),
    "a file cut in half": (lambda f: os.truncate(f, f.stat().st_size // 2), "malformed"),
    "a file cut within a page": (lambda f: os.truncate(f, 5000), "malformed|not a database"),
    "a file with a hole of zeros": (
        lambda f: f.write_bytes(f.read_bytes()[:4096] + bytes(f.stat().st_size - 4096)),
        "malformed",
    ),
    "a database of somebody else": (something_else, "holds something else: accounts"),
    "a newer layout": (
        tampered("UPDATE fs_registry SET schema_version = 99"),
        f"has layout 99, and this .* knows {SCHEMA_VERSION}",
    ),
    "no current revision": (tampered("DELETE FROM fs_registry"), "does not hold one row"),
    "a pointer that is no number": (
        tampered("UPDATE fs_registry SET current_revision = 'x'"),
        "one row of two numbers",
    ),
    "a pointer to nothing": (
        tampered("UPDATE fs_registry SET current_revision = 7"),
        "revision 7 is missing",
    ),
    "a table that is gone": (tampered("DROP TABLE fs_revisions"), "no such table"),
    "a column that is gone": (tampered("ALTER TABLE fs_revisions DROP COLUMN plan"), "no such column"),
    "a plan that is not JSON": (tampered("UPDATE fs_revisions SET plan = '{'"), "revision 2 is not JSON"),
    "a plan that is NULL": (
        tampered(
            "ALTER TABLE fs_revisions RENAME TO old",
            "CREATE TABLE fs_revisions AS SELECT number, created_at, author, description, NULL plan, digest FROM old",
        ),
        "revision 2 is not JSON",
    ),
    "a plan that was edited": (
        tampered("UPDATE fs_revisions SET plan = replace(plan, 'delays', 'delayz')"),
        "its digest differs",
    ),
}


@pytest.mark.parametrize("case", CORRUPT)
def test_what_cannot_be_read_is_said_with_the_file_and_the_way_out(file: Path, case: str) -> None:
    damage, says = CORRUPT[case]
    damage(file)
    registry = open_registry(f"sqlite:///{file}", Path())
    with pytest.raises(RegistryCorrupt, match=says) as caught:
        registry.current()
    head, *way_out = str(caught.value).splitlines()
    assert str(file) in head
    assert any(word in way_out[0] for word in ("backup", "another place", "version of featurestore"))


def test_a_plan_that_parses_as_json_and_not_as_a_plan_is_corrupt(file: Path) -> None:
    for text in ('{"node":"Whatever"}', '{"node":"Plan","x":1}', "[]", '{"node":"About"}', "7"):
        with sqlite3.connect(file) as connection:
            connection.execute("UPDATE fs_revisions SET plan = ?, digest = ?", (text, ir.digest(text)))
        connection.close()
        with pytest.raises(RegistryCorrupt, match=r"revision 2 (does not parse|is not a plan)"):
            open_registry(f"sqlite:///{file}", Path()).current()


def test_a_service_definition_that_was_edited_is_corrupt(file: Path) -> None:
    tampered("UPDATE fs_service_versions SET definition = '{}'")(file)
    with pytest.raises(RegistryCorrupt, match="delay@1 is not what was written"):
        open_registry(f"sqlite:///{file}", Path()).service("delay")


def test_nothing_is_written_into_what_is_no_registry(tmp_path: Path) -> None:
    file = tmp_path / "registry.db"
    something_else(file)
    before = file.read_bytes()
    with pytest.raises(RegistryCorrupt):
        put(open_registry(f"sqlite:///{file}", tmp_path))
    assert file.read_bytes() == before


def test_an_empty_file_is_a_registry_that_begins(tmp_path: Path) -> None:
    (tmp_path / "registry.db").touch()
    registry = open_registry("sqlite:///registry.db", tmp_path)
    assert registry.current().number == 0
    assert put(registry).number == 1


@pytest.mark.postgres
def test_tables_of_others_in_a_postgres_database_are_left_alone(fresh_postgres: str, tmp_path: Path) -> None:
    with psycopg.connect(fresh_postgres) as connection:
        connection.execute("CREATE TABLE accounts (name TEXT)")
    registry = open_registry(fresh_postgres, tmp_path)
    assert registry.current().number == 0
    assert put(registry).number == 1
    with psycopg.connect(fresh_postgres) as connection:
        connection.execute("DROP TABLE fs_audit")
        connection.execute("UPDATE fs_registry SET schema_version = 99")
    with pytest.raises(RegistryCorrupt, match="has layout 99"):
        registry.current()
    with psycopg.connect(fresh_postgres) as connection:
        connection.execute("DROP TABLE fs_registry")
    with pytest.raises(
        RegistryCorrupt,
        match="holds something else: fs_certificates, fs_holes, fs_leases, fs_receipts, fs_revisions",
    ):
        registry.current()


@pytest.mark.postgres
def test_a_postgres_user_without_rights_is_told_so(fresh_postgres: str, tmp_path: Path) -> None:
    with psycopg.connect(fresh_postgres) as connection:
        connection.execute("DROP ROLE IF EXISTS guest")
        connection.execute("CREATE ROLE guest LOGIN PASSWORD 'hush'")
        connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    guest = open_registry(fresh_postgres.replace("postgres@", "guest:hush@"), tmp_path)
    with pytest.raises(RegistryError, match="a user who may write") as caught:
        put(guest)
    assert "hush" not in str(caught.value)
    assert guest.current().number == 0


# --- disks ----------------------------------------------------------------------------------------------


def test_a_full_database_refuses_and_keeps_what_it_had(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    registry = open_registry(f"sqlite:///{file}", tmp_path)
    before = registry.current()
    connect = sqlite3.connect

    def bounded(*args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **options)
        connection.execute("PRAGMA max_page_count = 1")  # SQLite takes as many as there are
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", bounded)
        with pytest.raises(
            RegistryError, match=r"database or disk is full\n  nothing was written; make room"
        ):
            put(registry, 2, a_plan("z" * 1_000_000))
    assert registry.current() == before
    assert put(registry, 2, a_plan("small")).number == 3


FULL = """
import resource, signal, sys
from pathlib import Path
from featurestore.errors import RegistryError
from featurestore.registry import open_registry
from tests.test_registry import a_plan, put
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    put(open_registry(sys.argv[1], Path(".")), int(sys.argv[2]), a_plan("z" * 20_000_000))
except RegistryError as error:
    print(error)
"""


@pytest.mark.parametrize("before", [0, 2])
def test_a_file_that_may_not_grow_is_left_as_it_was(tmp_path: Path, before: int) -> None:
    registry = open_registry("sqlite:///registry.db", tmp_path)
    for n in range(before):
        put(registry, n)
    out, error = child(FULL, f"sqlite:///{tmp_path}/registry.db", str(before)).communicate(timeout=60)
    assert "nothing was written; make room on the disk" in out, error
    assert registry.current().number == len(registry.history()) == before
    assert put(registry, before).number == before + 1
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.parametrize("place", ["/proc/nowhere/registry.db", "/dev/null/registry.db", "."])
def test_a_place_where_no_file_can_be_is_named(place: str, tmp_path: Path) -> None:
    registry = open_registry(f"sqlite:///{place}", tmp_path)
    with pytest.raises(RegistryError, match="registry "):
        put(registry)
    assert isinstance(registry, Registry)


def test_a_writer_that_holds_the_lock_too_long_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("featurestore.registry.connection.PATIENCE_SECONDS", 0.1)
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(RegistryError, match="database is locked\n  somebody else has been writing"):
        put(open_registry(f"sqlite:///{file}", tmp_path), 2)
    assert isinstance(open_registry(f"sqlite:///{file}", tmp_path).service("delay"), ServiceVersion)
    holder.close()
