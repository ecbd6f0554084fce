"""Erasure: who was erased never comes back, whatever is read again, pushed again or killed; nobody else changes by a bit."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import featurestore as fs
from featurestore import FeatureStore, erasures
from featurestore.compile.erased import digest_sql, key_digest
from featurestore.compile.sources import connect
from featurestore.doctor import examine
from featurestore.errors import NotFound, RequestError
from featurestore.layout import layout_of
from featurestore.log.eventlog import OFFSET, EventLog
from featurestore.online.codec import codec_of
from featurestore.registry import open_registry
from featurestore.status import Status
from featurestore.stream.state import Shelf, directory_of, lock_state
from tests.services import RedisServer

ROOT = Path(__file__).parent.parent

DEFINITIONS = """
import featurestore as fs
from featurestore import days, hours

purchases = fs.StreamSource(
    "purchases", batch=fs.Parquet("data/*.parquet"), stream=fs.Kafka("purchases", bootstrap="nowhere"),
    event_time="at", event_id="id", columns={
        "card_id": fs.String, "a": fs.String, "b": fs.String, "shop": fs.Int64, "at": fs.Timestamp, "id": fs.String,
        "amount": fs.Int64,
    },
)
profiles = fs.BatchSource("profiles", fs.Parquet("profiles.parquet"))
card = fs.Entity("card", key="card_id")
spend = fs.FeatureView("spend", card, purchases, [
    fs.count().over(hours(1), days(1)), fs.sum("amount").over(days(1)), fs.last_k("amount", 3).over(days(1)),
    fs.latest("amount"),
])
profile = fs.FeatureView("profile", card, profiles, [fs.latest("limit")])
pairs = fs.FeatureView("pairs", fs.Entity("pair", keys=("a", "b")), purchases, [fs.count().over(days(1)).named("pair_count")])
shops = fs.FeatureView("shops", fs.Entity("shop", key="shop"), purchases, [fs.sum("amount").over(days(1)).named("shop_sum")])
everything = fs.FeatureService("everything", [spend, profile, pairs, shops])
spending = fs.FeatureService("spending", [spend])
"""
CARDS = ("a", "b", "secret-card-0001", "é")
SECRET = {"card_id": "secret-card-0001"}
SCHEMA = pa.schema(
    {
        "card_id": pa.string(),
        "a": pa.string(),
        "b": pa.string(),
        "shop": pa.int64(),
        "at": pa.timestamp("us", tz="UTC"),
        "id": pa.string(),
        "amount": pa.int64(),
    }
)


@dataclass
class Project:
    """A project in a folder: three purchases of each card in the last half hour, at rest and not pushed yet."""

    root: Path
    store: FeatureStore
    now: datetime

    def events(self, minutes: float = 0, cards: tuple[str, ...] = CARDS) -> pa.Table:
        rows = []
        for n, card in enumerate(cards):
            for i in range(3):
                at = self.now + timedelta(minutes=minutes - 20 + n + 5 * i)
                pair = [("a", "bc"), ("ab", "c"), ("", "abc")][i]
                row = {"card_id": card, "a": pair[0], "b": pair[1], "shop": n, "at": at, "amount": 10 * n + i}
                rows.append({**row, "id": f"{n} {i} {minutes}"})
        return pa.Table.from_pylist(rows, SCHEMA)

    def read(self, *cards: str, feature: str = "count_1d") -> list[Any]:
        at = datetime.now(UTC) + timedelta(minutes=1)
        given = {"card_id": list(cards), "a": "a", "b": "bc", "shop": 0}
        return list(self.store.get_online_features("everything", given, at=at).to_dict()[feature])

    def online(self) -> dict[bytes, bytes]:
        """Everything in the online store."""
        return dict(self.store._store().scan(b""))

    def erase(self, **options: Any) -> erasures.Receipt:
        return self.store.erase("card", SECRET, **options)

    def training(self, *cards: str) -> pa.Table:
        at = datetime.now(UTC)
        spine = pa.table({"card_id": list(cards), "event_timestamp": [at] * len(cards)})
        return self.store.get_historical_features(spine, "spending", statuses=True).to_arrow()


@pytest.fixture(params=["lmdb", "redis"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    url = "lmdb://.fs/online"
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("fresh_redis")
        url = server.url
    yield from made(tmp_path, url)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Project]:
    yield from made(tmp_path, "lmdb://.fs/online")


def made(root: Path, url: str) -> Iterator[Project]:
    (root / "fs.toml").write_text(f'[offline]\nthreads = 1\n[online]\nurl = "{url}"\n')
    (root / "definitions.py").write_text(DEFINITIONS)
    (root / "data").mkdir()
    with FeatureStore(root) as store:
        done = Project(root, store, datetime.now(UTC))
        pq.write_table(done.events(), root / "data" / "one.parquet")
        pq.write_table(pa.table({"card_id": CARDS, "limit": [1, 2, 3, 4]}), root / "profiles.parquet")
        store.apply()
        yield done


# ---------------------------------------------------------------------------------------------------------------- the key


@pytest.mark.parametrize(
    "parts", [("a", "bc"), ("ab", "c"), ("", "abc"), ("é\0'", "🂡" * 300), ("1:a", "2:b")], ids=repr
)
def test_sql_and_python_make_the_same_of_a_key(local: Project, parts: tuple[str, str]) -> None:
    view = local.store.registry.current().plan.view("pairs")
    with connect() as con:
        con.register("rows", pa.table({"a": [parts[0]], "b": [parts[1]]}))
        ((found,),) = con.execute(f"SELECT {digest_sql(view, 'salt')} FROM rows").fetchall()
    assert found == key_digest("salt", parts)


@pytest.mark.parametrize("number", [0, -1, 7, -(1 << 63), (1 << 63) - 1])
def test_sql_and_python_make_the_same_of_a_number(local: Project, number: int) -> None:
    view = local.store.registry.current().plan.view("shops")
    with connect() as con:
        con.register("rows", pa.table({"shop": [number]}))
        ((found,),) = con.execute(f"SELECT {digest_sql(view, 'salt')} FROM rows").fetchall()
    assert found == key_digest("salt", [number])


# -------------------------------------------------------------------------------------------------------------------- batch


def test_an_erased_entity_is_gone_and_does_not_come_back_by_batch(project: Project) -> None:
    store = project.store
    store.materialize()
    assert project.read("secret-card-0001", "a") == [3, 3]
    before, spine = project.online(), store.spine("card", at=datetime.now(UTC)).column("card_id").to_pylist()
    receipt = project.erase(reason="asked by letter")
    assert receipt.done
    assert receipt.waits == ()
    assert {(d.place, d.what, d.count) for d in receipt.deleted} >= {("view profile", "online values", 1)}
    after = project.online()
    assert {k: after[k] for k in after} == {k: v for k, v in before.items() if k in after}
    gone = before.keys() - after.keys()
    assert gone
    assert all(key.endswith(b"secret-card-0001") for key in gone)
    assert not any(key.endswith(b"secret-card-0001") for key in after)

    assert [m.outcome for m in store.materialize()] == ["unchanged"] * 4
    store.materialize(replace=True, reason="again")
    assert project.read("secret-card-0001", "a") == [0, 3]
    assert project.read("secret-card-0001", "a", feature="limit") == [None, 1]
    assert not any(key.endswith(b"secret-card-0001") for key in project.online())

    training = project.training("secret-card-0001", "a")
    assert training.column("count_1d").to_pylist() == [0, 3]
    assert training.column("amount__status").to_pylist() == [Status.NOT_FOUND.name, Status.PRESENT.name]
    assert sorted(spine) == sorted(CARDS)
    assert sorted(store.spine("card", at=datetime.now(UTC)).column("card_id").to_pylist()) == ["a", "b", "é"]


def test_what_comes_after_counts_again(local: Project) -> None:
    receipt = local.erase()
    later = local.events(25, ("secret-card-0001",))
    late = later.set_column(
        4, "at", pa.array([datetime.now(UTC) + timedelta(seconds=i) for i in range(3)], SCHEMA[4].type)
    )
    pq.write_table(late, local.root / "data" / "two.parquet")
    soon = datetime.now(UTC) + timedelta(minutes=1)
    local.store.materialize(end=soon)
    assert local.read("secret-card-0001") == [3]
    spine = pa.table({"card_id": ["secret-card-0001"], "event_timestamp": [soon]})
    assert local.store.get_historical_features(spine, "spending").to_arrow()["count_1d"].to_pylist() == [3]
    again = local.erase()
    assert again.id != receipt.id
    assert local.read("secret-card-0001") == [0]


def test_keys_that_run_together_are_told_apart(local: Project) -> None:
    store = local.store
    store.materialize()
    assert store.erase("pair", {"b": "bc", "a": "a"}).done
    store.materialize(replace=True, reason="again")
    at = datetime.now(UTC) + timedelta(minutes=1)
    given = {"card_id": "a", "a": ["a", "ab", ""], "b": ["bc", "c", "abc"], "shop": 0}
    assert store.get_online_features("everything", given, at=at).to_dict()["pair_count"] == [0, 4, 4]


def test_a_view_as_it_was_before_is_erased_too(local: Project) -> None:
    local.store.materialize()
    definitions = local.root / "definitions.py"
    definitions.write_text(
        DEFINITIONS.replace("fs.count().over(hours(1), days(1))", "fs.count().over(days(1), days(2))")
    )
    with FeatureStore(local.root) as store:
        store.apply()
        store.materialize()
        assert sum(key.endswith(b"secret-card-0001") for key in local.online()) >= 3
        store.erase("card", SECRET)
    assert not any(key.endswith(b"secret-card-0001") for key in local.online())


def test_sql_is_as_it_was_where_nobody_was_erased(local: Project) -> None:
    plan = local.store.registry.current().plan
    local.store.erase("shop", {"shop": 3})
    now = erasures.erasures(local.store.registry)
    assert now.honoured(plan.view("spend")) is plan.view("spend")
    shops = now.honoured(plan.view("shops"))
    assert shops.erased is not None
    assert shops == plan.view("shops")


# ------------------------------------------------------------------------------------------------------------------- stream


def test_a_stream_that_stands_still_forgets(project: Project) -> None:
    store = project.store
    store.push("purchases", project.events())
    store.run_stream(once=True)
    assert project.read("secret-card-0001", "a", feature="amount_sum_1d") == [63, 3]
    others = {k: v for k, v in project.online().items() if not k.endswith(b"secret-card-0001")}
    receipt = project.erase()
    assert receipt.done
    found = {(d.place, d.what): d.count for d in receipt.deleted}
    assert found["view spend", "stream state"] == 1
    assert found["view spend", "online values"] == 1
    assert found["log of purchases", "events"] == 3
    assert {s.what.partition(",")[0] for s in receipt.stays if s.until} == {
        "digests of the ids of its events"
    }
    assert project.online() == others
    store.run_stream(once=True)
    assert project.read("secret-card-0001", "a", feature="amount_sum_1d") == [None, 3]

    store.push("purchases", project.events())  # all of it comes again
    store.run_stream(once=True)
    counts = {s.view: s.counts for s in store.stream_status()}
    assert counts["spend"]["erased"] == 3
    assert counts["shops"].get("erased", 0) == 0
    assert project.read("secret-card-0001", "a", feature="amount_sum_1d") == [None, 3]
    store.run_stream(once=True, reset=True)  # a replay of the whole log
    assert project.read("secret-card-0001", "a", feature="amount_sum_1d") == [None, 3]
    assert store.materialize()
    assert project.read("secret-card-0001", "a", feature="amount_sum_1d") == [None, 3]

    rows = project.events(0, ("secret-card-0001",)).to_pylist()
    store.push("purchases", [{**row, "at": datetime.now(UTC), "id": f"new {row['id']}"} for row in rows])
    store.run_stream(once=True)
    assert project.read("secret-card-0001", feature="count_1d") == [3]


def test_a_running_stream_picks_it_up_and_does_not_publish_it_again(project: Project) -> None:
    store = project.store
    store.push("purchases", project.events())
    stop = threading.Event()
    running = threading.Thread(target=lambda: store.run_stream(stop=stop))
    running.start()
    try:
        wait_for(lambda: project.read("secret-card-0001") == [3])
        receipt = project.erase()
        assert receipt.done
        assert ("view spend", "stream state") in {(d.place, d.what) for d in receipt.deleted}
        store.push("purchases", replaced(project.events(), "id", "again"))
        wait_for(lambda: project.read("a") == [6])
        assert project.read("secret-card-0001") == [0]
        assert not any(key.endswith(b"secret-card-0001") for key in project.online())
    finally:
        stop.set()
        running.join()
    store.run_stream(once=True)
    assert project.read("secret-card-0001") == [0]


def test_a_stream_of_another_process_picks_it_up(local: Project) -> None:
    store = local.store
    store.push("purchases", local.events())
    command = [sys.executable, "-m", "featurestore.cli", "stream", "run", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    stream = subprocess.Popen(command, cwd=local.root, env=environment)
    try:
        wait_for(lambda: local.read("secret-card-0001") == [3])
        assert local.erase().done
        store.push("purchases", replaced(local.events(), "id", "again"))
        wait_for(lambda: local.read("a") == [6])
        assert local.read("secret-card-0001") == [0]
        stream.kill()  # at any moment: the next one brings nothing back either
        stream.wait()
        store.run_stream(once=True)
        assert not any(key.endswith(b"secret-card-0001") for key in local.online())
    finally:
        stream.kill()
        stream.wait()


def test_a_stream_that_dies_while_it_forgets_goes_on(local: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    store = local.store
    store.push("purchases", local.events())
    store.run_stream(once=True)

    def died(*_: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Shelf, "erase", died)
        with pytest.raises(KeyboardInterrupt):
            local.erase()
        with pytest.raises(KeyboardInterrupt):
            store.run_stream(once=True)
    assert [r.done for r in store.receipts()] == [False]
    store.run_stream(once=True)
    assert not any(key.endswith(b"secret-card-0001") for key in local.online())
    assert local.erase().done


def test_a_stream_that_does_not_answer_is_said_to_wait(local: Project) -> None:
    store = local.store
    store.push("purchases", local.events())
    store.run_stream(once=True)
    view = store.registry.current().plan.view("spend")
    folder = directory_of(local.root, view, codec_of(view, layout_of(view)))
    fd = lock_state(folder, view)  # as a stream has it
    try:
        receipt = local.erase(wait=0.1)
        assert not receipt.done
        assert receipt.waits == (
            "the stream of view 'spend' has not forgotten it yet; run the same erasure again",
        )
        assert [r.done for r in store.receipts()] == [False]
    finally:
        os.close(fd)
    store.run_stream(once=True)  # it finds the order before it publishes anything
    with Shelf(folder) as shelf:
        assert not list(shelf._store.scan(b"esecret-card"))
    again = local.erase()
    assert again.done
    assert again.id == receipt.id
    assert [r.done for r in store.receipts()] == [True]
    assert list(folder.glob("erase-*.json")) == []


def test_what_a_stream_of_others_has_not_read_stays_until_it_has(local: Project) -> None:
    store = local.store
    store.run_stream(once=True)
    store.push("purchases", local.events())
    store.run_stream("spend", once=True)  # the streams of shops and pairs have not read anything
    receipt = local.erase(wait=0.1)
    assert not receipt.done
    assert receipt.waits[0].startswith(
        "3 events in the log of source 'purchases' are new to the stream of view '"
    )
    assert local.read("secret-card-0001") == [0]
    store.run_stream(once=True)
    assert local.erase().done
    assert len(log_of(local).read(0).table) == 9
    at = datetime.now(UTC) + timedelta(minutes=1)
    given = {"card_id": "a", "a": "a", "b": "bc", "shop": [0, 1, 2, 3]}
    read = store.get_online_features("everything", given, at=at).to_dict()
    assert read["shop_sum"] == [3, 33, 63, 93]


def test_a_stream_elsewhere_is_said_to_wait(local: Project) -> None:
    store = local.store
    store.push("purchases", local.events())
    store.run_stream(once=True)
    (local.root / ".fs/stream").rename(local.root / "elsewhere")
    receipt = local.erase()
    assert not receipt.done
    assert receipt.waits[0].startswith("the stream of view 'spend' keeps its state in another folder")
    checks = {c.subject: c for c in examine(local.root, None, time.time_ns() // 1000, "1")}
    assert checks[f"erasure {receipt.id}"].way_out[0] == receipt.waits[0]
    (local.root / "elsewhere").rename(local.root / ".fs/stream")
    assert local.erase().done
    assert not any(
        c.subject.startswith("erasure") for c in examine(local.root, None, time.time_ns() // 1000, "1")
    )
    store.run_stream(once=True)
    assert not any(key.endswith(b"secret-card-0001") for key in local.online())


def test_dead_letters_go_too(local: Project) -> None:
    store = local.store
    rows = local.events().to_pylist()
    wrong = [{**row, "at": datetime.now(UTC) + timedelta(days=1), "id": f"x{row['id']}"} for row in rows]
    store.push("purchases", wrong)
    store.run_stream(once=True)
    assert len(store.dead_letters("spend")) == 12
    receipt = local.erase()
    assert ("view spend", "dead letters", 3) in {(d.place, d.what, d.count) for d in receipt.deleted}
    left = store.dead_letters("spend")
    assert len(left) == 9
    assert all(dead.event["card_id"] != "secret-card-0001" for _, dead in left)
    assert all(e["card_id"] != "secret-card-0001" for e in log_of(local).read(0).table.to_pylist())


# ---------------------------------------------------------------------------------------------------------------------- log


def log_of(project: Project) -> EventLog:
    return EventLog.open(
        project.root / ".fs/log/purchases", project.store.registry.current().plan.view("spend").source.schema
    )


@pytest.mark.parametrize("rows", [10, 4_000], ids=["plain", "compressed"])
def test_rows_leave_a_log_and_offsets_stay(tmp_path: Path, rows: int) -> None:
    schema = {"k": fs.String, "x": fs.Int64}
    with EventLog.open(tmp_path, schema, segment_bytes=4096) as log:
        for part in range(5):
            log.append([{"k": f"key-{i % 10}", "x": part * rows + i} for i in range(rows)], at=1000 + part)
        whole = log.read(0, 10**6).table
        ahead = EventLog.open(tmp_path, schema)
        assert ahead.end() == 5 * rows
        gone = log.erase(lambda table: table.column("k").to_numpy() == "key-3")
        assert gone == rows // 2
        for reader in (log, ahead, EventLog.open(tmp_path, schema)):
            left = reader.read(0, 10**6)
            assert left.table.to_pylist() == [e for e in whole.to_pylist() if e["k"] != "key-3"]
            assert (left.next_offset, left.skipped, reader.end()) == (5 * rows, 0, 5 * rows)
            assert reader.read(3, 1).table.column(OFFSET).to_pylist() == [4]
        assert log.check() == ()
        stats = log.stats()
        assert (stats.erased, stats.skipped, stats.end) == (gone, 0, 5 * rows)
        assert log.erase(lambda table: table.column("k").to_numpy() == "key-3") == 0
        assert ahead.append([{"k": "new", "x": 1}], at=2000).first_offset == 5 * rows
        assert log.append([{"k": "new", "x": 2}], at=2000).first_offset == 5 * rows + 1
        assert log.read(5 * rows).table.column("x").to_pylist() == [1, 2]
        if rows == 10:
            assert not any(b"key-3" in path.read_bytes() for path in tmp_path.iterdir())


def test_others_append_and_read_while_rows_leave(tmp_path: Path) -> None:
    schema = {"k": fs.Int64}
    stop, failed = threading.Event(), list[BaseException]()
    appended = 0

    def write() -> None:
        nonlocal appended
        with EventLog.open(tmp_path, schema, segment_bytes=2000) as log:
            while not stop.is_set():
                log.append([{"k": appended % 7}], at=appended)
                appended += 1

    def read() -> None:
        with EventLog.open(tmp_path, schema, segment_bytes=2000) as log:
            offset = 0
            while not (stop.is_set() and offset >= log.end()):
                batch = log.read(offset, 50)
                for row in batch.table.to_pylist():
                    assert row["k"] == row[OFFSET] % 7
                offset = batch.next_offset

    def caught(work: Any) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=caught, args=(work,)) for work in (write, read)]
    for thread in threads:
        thread.start()
    removed = 0
    with EventLog.open(tmp_path, schema) as log:
        for _ in range(5):
            time.sleep(0.1)
            removed += log.erase(lambda table: table.column("k").to_numpy() == 3)
        stop.set()
        for thread in threads:
            thread.join()
        assert failed == []
        removed += log.erase(lambda table: table.column("k").to_numpy() == 3)
        left = log.read(0, 10**6)
    assert removed == (appended + 3) // 7
    assert left.next_offset == appended
    assert left.table.column(OFFSET).to_pylist() == [i for i in range(appended) if i % 7 != 3]


# ------------------------------------------------------------------------------------------------------------------- killed

KILLED = """
import os, signal, sys
from featurestore import FeatureStore
from featurestore.erase import erase

root, name, number = sys.argv[1], sys.argv[2], int(sys.argv[3])

def step(done):
    global number
    number -= done == name
    if done == name and number == 0:
        os.kill(os.getpid(), signal.SIGKILL)

with FeatureStore(root) as store:
    key = {"card_id": "secret-card-0001"}
    erase(store.config, store.registry, store.ledger, store._store(), "card", key, who="t", now=%d, step=step)
"""


@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("tombstone", 1),
        ("told", 1),
        ("forgotten", 1),
        ("deleted", 1),
        ("deleted", 2),
        ("log", 1),
        ("receipt", 1),
    ],
)
def test_killed_anywhere_the_same_again_finishes_it(local: Project, step: str, number: int) -> None:
    store = local.store
    store.materialize()
    store.push("purchases", local.events())
    store.run_stream(once=True)
    others = {k: v for k, v in local.online().items() if not k.endswith(b"secret-card-0001")}
    program = KILLED % (time.time_ns() // 1000)
    done = subprocess.run(
        [sys.executable, "-c", program, str(local.root), step, str(number)],
        cwd=ROOT,
        check=False,
        env=os.environ,
    )
    assert done.returncode == -signal.SIGKILL, "the step is there"
    begun = store.receipts()[0]
    assert begun.done == (step == "receipt")

    store.run_stream(once=True)  # whoever works on meanwhile brings nothing back
    store.materialize()
    if step != "tombstone":  # what a stream has is its own until it is told
        assert local.read("secret-card-0001", "a") == [0, 3]
    receipt = local.erase()
    assert receipt.done
    assert (receipt.id == begun.id) == (step != "receipt")
    store.run_stream(once=True)
    assert not any(key.endswith(b"secret-card-0001") for key in local.online())
    assert local.online().keys() == others.keys()
    assert all(e["card_id"] != "secret-card-0001" for e in log_of(local).read(0).table.to_pylist())
    view = store.registry.current().plan.view("spend")
    with Shelf(directory_of(local.root, view, codec_of(view, layout_of(view)))) as shelf:
        assert not any(b"secret-card" in key + value for key, value in shelf._store.scan(b""))


def test_nobody_materializes_by_older_tombstones(local: Project) -> None:
    store = local.store
    store.materialize()
    view = store.registry.current().plan.view("spend")
    with store.ledger.lease(view, "somebody"):
        receipt = local.erase(wait=0.1)
        assert not receipt.done
        assert "view 'spend' is being written by somebody" in receipt.waits[0]
    written = {m.view for m in store.materialize() if m.outcome == "written"}
    assert written == {"spend", "profile"}
    assert local.read("secret-card-0001") == [0]
    assert local.erase().done


# ------------------------------------------------------------------------------------------------------------------ records


def test_the_registry_holds_no_key(local: Project) -> None:
    local.store.materialize()
    local.erase(reason="a letter")
    for path in (local.root / ".fs").glob("registry.db*"):
        assert b"secret-card" not in path.read_bytes()
    (kept,) = local.store.receipts()
    assert (kept.key, kept.reason, kept.done) == (None, "a letter", True)


def test_tombstones_and_receipts_in_postgres(postgres_url: str, tmp_path: Path) -> None:
    registry = open_registry(postgres_url, tmp_path)
    assert erasures.erasures(registry) == erasures.Erasures()
    assert erasures.newest(registry) == 0
    first = erasures.bury(registry, "card", {"k": "a"}, at=10, who="me", reason="é")
    again = erasures.bury(registry, "card", {"k": "a"}, at=5, who="me", reason="")
    assert (again.id, again.digest, again.erased_at, again.number) == (first.id, first.digest, 10, 2)
    assert erasures.unfinished(registry, "card")
    deleted = (erasures.Deleted("view v", "online values", 2),)
    kept = replace(again, done=True, deleted=deleted, stays=(erasures.Stays("x", "y", 7),), waits=("w",))
    erasures.keep(registry, kept)
    other = erasures.bury(registry, "shop", {"k": "a"}, at=11, who="me", reason="")
    assert other.digest != first.digest
    assert erasures.receipts(registry) == [replace(other, key=None), kept]
    now = erasures.erasures(registry)
    assert now.number == erasures.newest(registry) == 3
    assert now.by_entity["card"].keys == ((first.digest, 10),)
    assert (now.since("card", 1), now.since("card", 2), now.since("nobody", 0)) == (1, 0, 0)
    assert not erasures.unfinished(registry, "card")


def test_a_registry_of_before_is_read_and_brought_up(local: Project) -> None:
    with sqlite3.connect(local.root / ".fs/registry.db") as db:
        db.execute("DROP TABLE fs_tombstones")
        db.execute("DROP TABLE fs_receipts")
        db.execute("UPDATE fs_registry SET schema_version = 3")
    assert local.training("a").column("count_1d").to_pylist() == [3]
    assert local.store.receipts() == []
    assert local.erase().done


def test_what_cannot_be_meant_is_refused_before_anything_is_done(local: Project) -> None:
    store = local.store
    with pytest.raises(NotFound, match="did you mean 'card'"):
        store.erase("cart", SECRET)
    with pytest.raises(NotFound, match="did you mean 'card_id'"):
        store.erase("card", {"cardid": "a"})
    with pytest.raises(RequestError, match="join key 'b' is missing"):
        store.erase("pair", {"a": "x"})
    with pytest.raises(RequestError, match="join key 'shop' is Int64"):
        store.erase("shop", {"shop": "1"})
    with pytest.raises(RequestError, match="does not fit"):
        store.erase("shop", {"shop": 1 << 63})
    assert store.receipts() == []


# ------------------------------------------------------------------------------------------------------------ training sets


def test_a_set_made_again_says_who_was_erased_since(local: Project) -> None:
    at = datetime.now(UTC)
    spine = pa.table({"card_id": list(CARDS), "event_timestamp": [at] * 4})
    local.erase()
    local.store.get_historical_features(spine, "spending").to_parquet(local.root / "first")
    manifest = json.loads((local.root / "first/_manifest.json").read_text())
    assert manifest["erased"]["card"]["count"] == 1
    same = local.store.reproduce(local.root / "first", local.root / "same")
    assert same.identical
    assert same.changes == ()
    local.store.erase("shop", {"shop": 0})
    receipt = local.store.erase("card", {"card_id": "a"})
    again = local.store.reproduce(local.root / "first", local.root / "again")
    assert not again.same_values
    assert again.changes == (f"1 entity was erased from 'card' since: the newest receipt is {receipt.id}",)
    values = pq.read_table(local.root / "again").column("count_1d").to_pylist()
    assert values == [0, 3, 0, 3]


# ---------------------------------------------------------------------------------------------------------------- command


def run(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "featurestore.cli", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command,
        cwd=root,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command(local: Project) -> None:
    local.store.materialize()
    refused = run(local.root, "erase", "card", "card_id=secret-card-0001")
    assert refused.returncode == 1
    assert "no terminal" in refused.stderr
    assert run(local.root, "erase", "cart", "card_id=a", "--yes").returncode == 1
    assert run(local.root, "erase", "card", "card_id").returncode == 2
    assert run(local.root, "erase").returncode == 2
    done = run(
        local.root, "erase", "card", "card_id=secret-card-0001", "--yes", "--reason", "letter", "--json"
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["done"], said["key"], said["reason"]) == (True, SECRET, "letter")
    assert {s["place"] for s in said["stays"] if s["yours"]} >= {"source purchases", "source profiles"}
    shown = run(local.root, "erase", "shop", "shop=2", "-y")
    assert shown.returncode == 0, shown.stderr
    assert "deleted: online values" in shown.stdout
    listed = json.loads(run(local.root, "erase", "--receipts", "--json").stdout)["receipts"]
    assert [(r["entity"], r["key"]) for r in listed] == [("shop", None), ("card", None)]
    assert said["receipt"] in run(local.root, "erase", "--receipts").stdout


# -------------------------------------------------------------------------------------------------------------------- words


def wait_for(true: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def replaced(table: pa.Table, column: str, lead: str) -> pa.Table:
    values = pa.array([f"{lead} {value}" for value in table.column(column).to_pylist()])
    return table.set_column(table.schema.get_field_index(column), column, values)
