"""The ledger: runs that are killed anywhere and run again, files that come late, holes, leases; on real databases and stores."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

import featurestore.backfill as backfill_module
from featurestore import FeatureStore, ledger, materialize
from featurestore.errors import AlreadyRunning, MaterializeError, SourceError, WouldStepBack
from featurestore.layout import layout_of
from featurestore.ledger import DONE, FAILED, PENDING, Hole, Ledger
from featurestore.online.codec import BASE, HEAD, HEADER, codec_of, encode
from featurestore.online.state import StreamState, load_states, stream_name
from featurestore.registry import SCHEMA_VERSION, open_registry
from featurestore.status import Status
from featurestore.time import HOUR, MINUTE, moment
from tests.services import RedisServer

ROOT = Path(__file__).parent.parent
NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)

DEFINITIONS = """
import featurestore as fs
from featurestore import days, hours, lifetime, minutes

columns = {"card": fs.Int64, "city": fs.String, "shop": fs.Int64, "at": fs.Timestamp, "x": fs.Float64, "n": fs.Int64}
payments = fs.StreamSource(
    "payments", batch=fs.Parquet("data/*.parquet"), stream=fs.Kafka("payments"), event_time="at",
    lateness=minutes(30), columns=columns,
)
spend = fs.FeatureView("spend", fs.Entity("card", key="card"), payments, [
    fs.sum("n").over(hours(1), days(1), lifetime, hop=minutes(5)), fs.mean("x").over(hours(6)),
    fs.last_k("n", 3).over(days(2), hop=hours(1)),
    fs.latest("n"),
])
places = fs.FeatureView("places", fs.Entity("place", keys=("city", "shop")), payments.where(fs.col("n") > 1), [
    fs.count().over(hours(1), days(1)), fs.latest("x"), fs.last("card").over(days(1)),
])
everything = fs.FeatureService("everything", features=[spend, places])
"""
CARDS, CITIES, SHOPS = 40, ("ab", "é", "", "z" * 200), 6


class Runner:
    """Runs materialisations in processes of their own, one after another."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.killed"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def begin(self, root: Path, end: datetime, step: str = "-", count: int = 1) -> int:
        """Begins one; the number of its process."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([str(root), end.isoformat(), step, count]) + "\n")
        self._process.stdin.flush()
        word, pid = self._said()
        assert word == "ready"
        return int(pid)

    def ended(self) -> int:
        """How the one that was begun ended."""
        word, status = self._said()
        assert word == "ended"
        return int(status)

    def _said(self) -> list[str]:
        assert self._process.stdout is not None
        return self._process.stdout.readline().split()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@pytest.fixture(scope="session")
def runner() -> Iterator[Runner]:
    made = Runner()
    yield made
    made.close()


@dataclass
class Project:
    """A project with files of events."""

    root: Path

    def open(self) -> FeatureStore:
        return FeatureStore(self.root)

    def file(
        self, name: str, start: datetime, hours: float, rows: int, seed: int, cards: int = CARDS
    ) -> None:
        """A file of made-up events between two moments."""
        rng = np.random.default_rng(seed)
        first = moment(start)
        at = np.sort(rng.integers(first, first + int(hours * HOUR), rows))
        table = pa.table(
            {
                "card": rng.integers(-3, cards, rows),
                "city": pa.array([CITIES[i] for i in rng.integers(0, len(CITIES), rows)]),
                "shop": rng.integers(0, SHOPS, rows),
                "at": pa.array(at, pa.timestamp("us", "UTC")),
                "x": rng.normal(size=rows),
                "n": rng.integers(0, 9, rows),
            }
        )
        (self.root / "data").mkdir(exist_ok=True)
        pq.write_table(table, self.root / "data" / f"{name}.parquet")

    def check(self, at: datetime, *, statuses: bool = True) -> None:
        """Every online value at a moment is the training value."""
        keys = [
            {"card": card, "city": CITIES[card % len(CITIES)], "shop": card // len(CITIES) % SHOPS}
            for card in range(-3, CARDS + 3)
        ]
        spine = pa.table(
            {k: [row[k] for row in keys] for k in keys[0]}
            | {"event_timestamp": pa.array([at] * len(keys), pa.timestamp("us", "UTC"))}
        )
        with self.open() as store:
            online = store.get_online_features("everything", keys, at=at)
            training = store.get_historical_features(spine, "everything", statuses=True).to_arrow()
        for i, (name, values) in enumerate(online.to_dict().items()):
            wanted = training.column(name).to_pylist()
            for row, (got, want) in enumerate(zip(values, wanted, strict=True)):
                same = got == want or (
                    isinstance(got, float) and got == pytest.approx(want, rel=1e-9, abs=1e-9)
                )
                assert same, (name, keys[row], got, want)
            if statuses:
                names = training.column(f"{name}__status").to_pylist()
                assert [Status(int(s)).name for s in online.statuses[:, i]] == names, name

    def killed(self, runner: Runner, end: datetime, step: str, count: int = 1) -> None:
        """A run in a process of its own that is killed at a step."""
        runner.begin(self.root, end, step, count)
        assert runner.ended() == -9


Make = Callable[..., Project]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(online: str = "lmdb://.fs/online", registry: str = "sqlite:///.fs/registry.db") -> Project:
        project = Project(tmp_path / "project")
        project.root.mkdir()
        settings = f'[project]\nname = "p"\n[registry]\nurl = "{registry}"\n[online]\nurl = "{online}"\n'
        (project.root / "fs.toml").write_text(settings, encoding="utf-8")
        (project.root / "definitions.py").write_text(DEFINITIONS, encoding="utf-8")
        project.file("first", NOON - timedelta(hours=40), 40, 600, 1)
        with project.open() as store:
            store.apply()
        return project

    return made


@pytest.fixture
def project(make: Make) -> Project:
    return make()


@pytest.fixture(params=["lmdb", pytest.param("redis", marks=pytest.mark.slow)])
def anywhere(request: pytest.FixtureRequest, make: Make) -> Project:
    """A project on each online store; the ledger of the second is in PostgreSQL."""
    if request.param == "lmdb":
        return make()
    server: RedisServer = request.getfixturevalue("fresh_redis")
    return make(server.url, request.getfixturevalue("fresh_postgres"))


def outcomes(done: Sequence[Any]) -> list[str]:
    return [d.outcome for d in done]


def content(store: FeatureStore, view: str) -> dict[bytes, bytes]:
    """All values of a view, without what counts the runs that wrote them."""
    found = store.registry.current().plan.view(view)
    prefix = codec_of(found, layout_of(found)).prefix
    out = {}
    for role in (BASE, HEAD):
        for key, value in store._store().scan(prefix + role):
            header = np.frombuffer(value[:64], HEADER).copy()
            header["counter"] = header["run"] = 0
            out[key] = header.tobytes() + value[64:]
    return out


# ----------------------------------------------------------------------------------------------------------------- killed


STEPS = [
    ("number taken", 1), ("base stretch", 1), ("base stretch", 4), ("base written", 2), ("head stretch", 1),
    ("head stretch", 3), ("head written", 1), ("base swept", 1), ("head swept", 2), ("state set", 1), ("unit done", 1),
]  # fmt: skip
LATER = NOON + timedelta(hours=5, minutes=31, seconds=7)


@pytest.mark.parametrize("step", STEPS, ids=lambda s: f"{s[0]} {s[1]}")
def test_a_run_killed_at_a_step_and_run_again(
    anywhere: Project, runner: Runner, step: tuple[str, int]
) -> None:
    """Over what an earlier run wrote, with files that came and went meanwhile."""
    with anywhere.open() as store:
        store.materialize(end=NOON + timedelta(minutes=20))
    anywhere.file("second", NOON + timedelta(minutes=30), 5, 300, 2)
    anywhere.file("first", NOON - timedelta(hours=40), 40, 600, 1, cards=CARDS - 9)  # some cards are gone
    anywhere.killed(runner, LATER, *step)
    with anywhere.open() as store:
        unfinished = store.unfinished()
        assert [u.status for u in unfinished] in ([PENDING], [])
        assert unfinished or step[0] == "unit done"
        done = store.materialize(end=LATER)
        assert store.unfinished() == []
        assert store.holes() == []
        again = store.materialize(end=LATER)
        assert outcomes(again) == ["unchanged", "unchanged"]
    if step[0] not in ("number taken", "unit done"):
        assert "resumed" in outcomes(done)
    anywhere.check(LATER)


def test_a_resumed_run_writes_what_a_whole_one_does_and_only_the_rest(
    project: Project, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.killed(runner, LATER, "base stretch", 4)
    monkeypatch.setattr(materialize, "ENTITIES", 7)
    wrote: list[int] = []
    whole = encode

    def counting(codec: Any, header: Any, *more: Any) -> list[bytes]:
        wrote.append(len(header))
        return whole(codec, header, *more)

    monkeypatch.setattr(materialize, "encode", counting)
    with project.open() as store:
        (done, *_) = store.materialize(end=LATER, select="places")
        resumed = content(store, "places")
        rest = sum(wrote)
        store.materialize(end=LATER, select="places", replace=True, reason="to compare")
        assert content(store, "places") == resumed
        assert done.outcome == "resumed"
        assert done.entities == len(CITIES) * SHOPS
        assert rest < sum(wrote) - rest  # the second run wrote all


def test_kills_at_random(project: Project, runner: Runner) -> None:
    rng = random.Random(3)
    runner.begin(project.root, LATER)
    began = time.monotonic()
    assert runner.ended() == 0
    took = time.monotonic() - began
    statuses = []
    for turn in range(10):
        project.file(f"more{turn}", NOON - timedelta(hours=20), 20, 50, 100 + turn)
        end = LATER + timedelta(minutes=turn + 1)
        pid = runner.begin(project.root, end)
        time.sleep(rng.uniform(0, took))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        statuses.append(runner.ended())
        with project.open() as store:
            store.materialize(end=end)
            assert store.unfinished() == []
        project.check(end)
    assert -9 in statuses


def test_a_killed_run_of_no_named_end_goes_on_as_of_its_own(project: Project, runner: Runner) -> None:
    """Nobody named an end: what is left is done as of the end that was begun for, which then moves on."""
    project.killed(runner, LATER, "base stretch", 4)
    with project.open() as store:
        before = time.time_ns() // 1000
        done = store.materialize()
        assert "resumed" in outcomes(done)
        assert all(d.end >= before for d in done)
    project.check(datetime.now(UTC))


def test_a_killed_run_begins_anew_when_its_inputs_changed(project: Project, runner: Runner) -> None:
    project.killed(runner, LATER, "base stretch", 4)
    project.file("second", NOON - timedelta(hours=2), 1, 40, 8)
    with project.open() as store:
        assert outcomes(store.materialize(end=LATER)) == ["written", "written"]
        view = store.registry.current().plan.view("places")
        new, old = store.ledger.history(view)
        assert (new.status, old.status) == (DONE, FAILED)
        assert "begun anew" in old.error
    project.check(LATER)


def test_a_killed_run_begins_anew_when_the_store_lost_what_it_held(
    make: Make, runner: Runner, fresh_redis: RedisServer
) -> None:
    import redis

    project = make(fresh_redis.url)
    project.killed(runner, LATER, "base stretch", 4)
    with redis.Redis.from_url(fresh_redis.url) as client:
        client.flushall()
    with project.open() as store:
        assert outcomes(store.materialize(end=LATER)) == ["written", "written"]
        with redis.Redis.from_url(fresh_redis.url) as client:
            client.flushall()
        assert outcomes(store.materialize(end=LATER)) == ["written", "written"]
    project.check(LATER)


def test_a_run_that_failed_says_why_and_the_next_goes_on(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(materialize, "ENTITIES", 7)
    monkeypatch.setattr(backfill_module, "SAVE_SECONDS", 0.0)

    class Stopped(Exception):
        pass

    def stop(view: str, entities: int) -> None:
        if entities > 15:
            raise Stopped("the disk is full")

    with project.open() as store:
        with pytest.raises(Stopped):
            store.materialize(end=LATER, select="spend", progress=stop)
        (unit,) = store.unfinished()
        assert (unit.view, unit.status, unit.error) == ("spend", FAILED, "Stopped: the disk is full")
        assert store.writer("spend") is None
        assert outcomes(store.materialize(end=LATER)) == ["written", "resumed"]
    project.check(LATER)


# ------------------------------------------------------------------------------------------------------------ nothing new


def test_nothing_new_is_not_written_again(anywhere: Project) -> None:
    with anywhere.open() as store:
        assert outcomes(store.materialize(end=LATER)) == ["written", "written"]
        before = content(store, "spend")
        first = store.materialize(end=LATER)
        assert outcomes(first) == ["unchanged", "unchanged"]
        assert [d.bytes for d in first] == [0, 0]
        later = LATER + timedelta(days=1, minutes=7)
        moved = store.materialize(end=later)
        assert outcomes(moved) == ["unchanged", "unchanged"]
        assert [d.end for d in moved] == [moment(later)] * 2
        assert content(store, "spend") == before
        assert store.get_online_features(
            "everything", {"card": 1, "city": "ab", "shop": 1}, at=later
        ).freshness == {
            "spend": 0.0,
            "places": 0.0,
        }
    anywhere.check(later)


def test_an_end_that_moves_over_events_takes_them_in(project: Project) -> None:
    with project.open() as store:
        store.materialize(end=NOON - timedelta(hours=3))
        assert outcomes(store.materialize(end=NOON)) == ["written", "written"]
    project.check(NOON)


def test_what_another_hand_wrote_is_written_again(project: Project) -> None:
    with project.open() as store, store._duckdb() as con:
        store.materialize(end=LATER)
        view = store.registry.current().plan.view("spend")
        materialize.materialize_view(con, store._store(), view, project.root, end=moment(NOON))
        assert outcomes(store.materialize(end=LATER)) == ["unchanged", "written"]
    project.check(LATER)


def test_an_end_before_the_one_served_is_what_was_asked_for(project: Project) -> None:
    with project.open() as store:
        store.materialize(end=LATER)
        assert outcomes(store.materialize(end=NOON)) == ["written", "written"]
        project.check(NOON)
        store.materialize(end=LATER)
        with pytest.raises(MaterializeError, match="wants a reason"):
            store.materialize(end=NOON, replace=True)
        done = store.materialize(end=NOON, replace=True, reason="a clock that was wrong", who="ann")
        assert [d.end for d in done] == [moment(NOON)] * 2
        view = store.registry.current().plan.view("spend")
        unit = store.ledger.latest(view)
        assert unit is not None
        assert (unit.reason, unit.who, unit.status) == ("a clock that was wrong", "ann", DONE)
    project.check(NOON)


@pytest.mark.parametrize("stop_after", [20, 60, 10_000])
def test_a_step_back_that_was_stopped_is_made_good(
    project: Project, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    monkeypatch.setattr(materialize, "ENTITIES", 7)
    monkeypatch.setattr(backfill_module, "SAVE_SECONDS", 0.0)
    wrote = 0

    class Stopped(Exception):
        pass

    def stop(view: str, entities: int) -> None:
        nonlocal wrote
        wrote += 7
        if wrote > stop_after:
            raise Stopped

    project.file("second", NOON, 5, 300, 2)
    with project.open() as store:
        store.materialize(end=LATER, select="spend")
        back = NOON + timedelta(minutes=40)
        try:
            store.materialize(end=back, select="spend", replace=True, reason="x", progress=stop)
        except Stopped:
            assert outcomes(store.materialize(end=LATER)) == ["written", "written"]
            project.check(LATER)
            return
        assert stop_after == 10_000
        store.materialize(end=back)
    project.check(back)


# ------------------------------------------------------------------------------------------------------------- late files


def test_a_late_file_is_a_hole_until_the_next_run(anywhere: Project) -> None:
    with anywhere.open() as store:
        store.materialize(end=NOON)
        assert store.holes() == []
        anywhere.file("late", NOON - timedelta(hours=9), 2, 30, 5)
        anywhere.file("new", NOON + timedelta(hours=1), 2, 30, 6)  # of a time that was not served yet
        holes = store.holes("spend")
        (hole,) = holes
        assert (hole.view, hole.reason, hole.rows) == ("spend", "late file", 30)
        assert moment(NOON - timedelta(hours=9)) <= hole.start < hole.end <= moment(NOON - timedelta(hours=7))
        assert len(store.holes()) == 2
        done = store.materialize(end=NOON)
        assert outcomes(done) == ["written", "written"]
        assert [(c.reason, c.start, c.end) for c in done[1].closed] == [(hole.reason, hole.start, hole.end)]
        assert store.holes() == []
        kept = store.ledger.holes(closed=True)
        assert len(kept) == 2
        assert all(h.closed_at is not None for h in kept)
    anywhere.check(NOON)


def test_a_file_that_changed_or_went_is_a_hole_each_time(project: Project) -> None:
    with project.open() as store:
        for turn in range(2):
            project.file("more", NOON - timedelta(hours=4), 1, 20, turn)
            store.materialize(end=NOON)
            project.file("more", NOON - timedelta(hours=4), 1, 20, turn + 7)
            assert {h.reason for h in store.holes()} == {"changed file"}
            assert [c.reason for c in store.materialize(end=NOON)[0].closed] == ["changed file"]
            (project.root / "data" / "more.parquet").unlink()
            assert {h.reason for h in store.holes()} == {"removed file"}
            assert [c.reason for c in store.materialize(end=NOON)[0].closed] == ["removed file"]
    project.check(NOON)


@pytest.mark.parametrize("kind", ["csv", "json", "parquet without statistics"])
def test_files_without_statistics_are_read_for_their_times(tmp_path: Path, kind: str) -> None:
    suffix = kind.split(maxsplit=1)[0]
    reader = {"csv": "Csv", "json": "Json", "parquet": "Parquet"}[suffix]
    (tmp_path / "data").mkdir()

    def put(name: str, *hours: int) -> None:
        at = [NOON.replace(hour=h) for h in hours]
        table = pa.table({"k": [1] * len(at), "at": pa.array(at, pa.timestamp("us")), "n": [1] * len(at)})
        path = tmp_path / "data" / f"{name}.{suffix}"
        if suffix == "csv":
            pacsv.write_csv(table, path)
        elif suffix == "json":
            rows = [f'{{"k": 1, "at": "{a:%Y-%m-%d %H:%M:%S}", "n": 1}}\n' for a in at]
            path.write_text("".join(rows), encoding="utf-8")
        else:
            pq.write_table(table, path, write_statistics=False)

    (tmp_path / "fs.toml").write_text('[project]\nname = "p"\n', encoding="utf-8")
    (tmp_path / "d.py").write_text(
        "import featurestore as fs\n"
        f"source = fs.BatchSource('s', fs.{reader}('data/*.{suffix}'), event_time='at',\n"
        "    columns={'k': fs.Int64, 'at': fs.Timestamp, 'n': fs.Int64})\n"
        "view = fs.FeatureView('v', fs.Entity('k', key='k'), source, [fs.count().over(fs.lifetime)])\n"
        "service = fs.FeatureService('svc', features=[view])\n",
        encoding="utf-8",
    )
    put("one", 1, 2)
    with FeatureStore(tmp_path) as store:
        store.apply()
        store.materialize(end=NOON)
        put("two", 4, 5, 6)
        (hole,) = store.holes()
        assert (hole.start, hole.rows) == (moment(NOON.replace(hour=4)), 3)
        assert hole.end == moment(NOON.replace(hour=6)) + 1
        assert outcomes(store.materialize(end=NOON)) == ["written"]
        assert outcomes(store.materialize(end=NOON)) == ["unchanged"]
        assert store.get_online_features("svc", {"k": 1}, at=NOON).to_dict() == {"count_lifetime": [5]}


def test_a_query_is_run_anew_each_time(tmp_path: Path) -> None:
    """Of a query nothing says whether its rows are the same."""
    import sqlite3

    with sqlite3.connect(tmp_path / "rows.db") as db:
        db.execute("CREATE TABLE rows (k INTEGER, n INTEGER)")
        db.execute("INSERT INTO rows VALUES (1, 2)")
    db.close()
    (tmp_path / "fs.toml").write_text('[project]\nname = "p"\n', encoding="utf-8")
    (tmp_path / "d.py").write_text(
        "import featurestore as fs\n"
        f"source = fs.BatchSource('s', fs.Sql('sqlite:///{tmp_path}/rows.db', 'SELECT k, n FROM rows'),\n"
        "    columns={'k': fs.Int64, 'n': fs.Int64})\n"
        "view = fs.FeatureView('v', fs.Entity('k', key='k'), source, [fs.latest('n')])\n",
        encoding="utf-8",
    )
    with FeatureStore(tmp_path) as store:
        store.apply()
        assert outcomes(store.materialize(end=NOON)) == ["written"]
        assert outcomes(store.materialize(end=NOON)) == ["written"]
        assert store.holes() == []


# ---------------------------------------------------------------------------------------------------------------- replace


def test_a_range_is_replaced_and_the_view_stays_as_long_as_it_was(project: Project) -> None:
    with project.open() as store:
        first = store.materialize(end=LATER)
        start, end = NOON - timedelta(hours=5), NOON - timedelta(hours=4)
        view = store.registry.current().plan.view("spend")
        store.ledger.report_holes(view, [Hole(moment(start), moment(end), "late", 3)])
        assert len(store.holes()) == 1
        done = store.materialize(start, end, "spend", replace=True, reason="ticket 17")
        assert [(d.start, d.end, d.cut) for d in done] == [(None, first[1].end, first[1].cut)]
        assert [c.reason for c in done[0].closed] == ["late"]
        assert store.holes() == []
        unit = store.ledger.latest(view)
        assert unit is not None
        assert (unit.reason, unit.end) == ("ticket 17", moment(LATER))
    project.check(LATER)


def test_nothing_can_be_replaced_that_was_never_there(project: Project) -> None:
    with project.open() as store, pytest.raises(MaterializeError, match="never materialized"):
        store.materialize(NOON, LATER, replace=True, reason="x")


# ------------------------------------------------------------------------------------------------------- holes of a stream


def test_holes_are_totals_and_close_when_a_run_began_after_they_were_reported(anywhere: Project) -> None:
    with anywhere.open() as store:
        view = store.registry.current().plan.view("spend")
        start = moment(NOON) - HOUR

        def report(rows: int, end: int = start + MINUTE) -> None:
            store.ledger.report_holes(view, [Hole(start, end, "late", rows)])

        def opened() -> list[int]:
            return [h.rows for h in store.ledger.holes([view])]

        report(3)
        report(3)
        assert opened() == [3]
        report(5)
        report(4)  # a stream that was started again counts up to the same
        assert opened() == [5]
        store.materialize(end=NOON)
        assert opened() == []
        report(5)
        assert opened() == []
        report(6)
        assert opened() == [6]
        assert outcomes(store.materialize(end=NOON)) == ["unchanged", "written"]
        assert opened() == []

        def during(name: str, entities: int) -> None:
            report(9)

        store.materialize(end=NOON, select="spend", replace=True, reason="x", progress=during)
        assert opened() == [9]  # it was reported after the run began
        store.materialize(end=NOON)
        assert opened() == []
        report(1, moment(NOON) + HOUR)
        store.materialize(end=NOON)
        assert opened() == [1]  # it reaches further than what is served


def test_holes_of_many_writers_at_once(anywhere: Project) -> None:
    with anywhere.open() as store:
        view = store.registry.current().plan.view("spend")

        def report(number: int) -> None:
            for rows in range(1, 6):
                store.ledger.report_holes(
                    view, [Hole(h, h + 1, "late", rows) for h in range(number, number + 3)]
                )

        threads = [threading.Thread(target=report, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [(h.start, h.rows) for h in store.ledger.holes()] == [(n, 5) for n in range(6)]


# ----------------------------------------------------------------------------------------------------------------- leases


def test_of_two_runs_of_a_view_the_second_is_refused(anywhere: Project) -> None:
    with anywhere.open() as store:
        view = store.registry.current().plan.view("spend")
        refused: list[str] = []

        def meanwhile(name: str, entities: int) -> None:
            with anywhere.open() as other:
                assert (said := other.writer("spend")) is not None
                assert f"process {os.getpid()}" in said
                with pytest.raises(AlreadyRunning, match=r"view 'spend' is being written by .* process"):
                    other.materialize(end=LATER, select="spend")
            refused.append(name)

        store.materialize(end=LATER, select="spend", progress=meanwhile)
        assert refused
        assert store.ledger.running(view) is None


def test_a_lease_of_another_machine_holds_until_it_is_silent(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with project.open() as store:
        view = store.registry.current().plan.view("spend")
        monkeypatch.setattr(ledger, "_machine", lambda: "another")
        with store.ledger.lease(view, "ann"):
            monkeypatch.undo()
            with pytest.raises(AlreadyRunning, match="ann on"):
                store.materialize(end=NOON, select="spend")
            late = replace(
                store.ledger, clock=lambda: time.time_ns() // 1000 + int(ledger.LEASE_SECONDS * 1e6) + 1
            )
            with late.lease(view, "bob"):
                assert "bob" in (store.ledger.running(view) or "")


def test_a_run_whose_lease_was_taken_ends(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(materialize, "ENTITIES", 7)
    monkeypatch.setattr(backfill_module, "SAVE_SECONDS", 0.0)

    def steal(name: str, entities: int) -> None:
        with store.registry.writing() as transaction:
            transaction.run("DELETE FROM fs_leases")

    with project.open() as store:
        with pytest.raises(MaterializeError, match="another process has taken"):
            store.materialize(end=NOON, select="spend", progress=steal)
        store.materialize(end=NOON)
    project.check(NOON)


def test_many_processes_at_once_leave_right_values(project: Project) -> None:
    """Each is refused or runs; whoever is last finds nothing left to do, or does it."""
    with project.open() as store:
        store.materialize(end=NOON)
    project.file("second", NOON + timedelta(minutes=1), 5, 200, 3)
    runners = [Runner() for _ in range(3)]
    for one in runners:
        one.begin(project.root, LATER)
    statuses = [one.ended() for one in runners]
    assert 0 in statuses
    assert set(statuses) <= {0, 1}
    for one in runners:
        one.close()
    with project.open() as store:
        store.materialize(end=LATER)
        assert store.unfinished() == []
    project.check(LATER)


def test_a_process_that_ended_holds_no_lease() -> None:
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    assert ledger._began(ended.pid) == ""
    zombie = subprocess.Popen([sys.executable, "-c", "pass"])
    deadline = time.monotonic() + 30
    while ledger._began(zombie.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ledger._began(zombie.pid) == ""
    zombie.wait()
    assert ledger._began(os.getpid())


# ---------------------------------------------------------------------------------------------------- under a stream


@dataclass
class Streamed:
    """A project over whose views a stream says that it runs."""

    project: Project
    store: FeatureStore

    def says(self, clock: datetime, since: datetime) -> None:
        state = StreamState("s", moment(clock), moment(since), moment(clock))
        for view in self.store.registry.current().plan.views:
            name = stream_name(codec_of(view, layout_of(view)))
            self.store._store().set_metas({name: state.to_bytes()})

    def state(self, view: str = "spend") -> Any:
        found = self.store.registry.current().plan.view(view)
        return load_states(self.store._store(), {view: codec_of(found, layout_of(found))}).get(view)

    def heads(self) -> int:
        plan = self.store.registry.current().plan
        prefixes = [codec_of(v, layout_of(v)).prefix for v in plan.views]
        return sum(self.store._store().count(p + HEAD) for p in prefixes)


@pytest.fixture
def streamed(project: Project) -> Iterator[Streamed]:
    with project.open() as store:
        yield Streamed(project, store)


def test_under_a_stream_bases_alone_are_written_up_to_its_clock_less_lateness(streamed: Streamed) -> None:
    project, store = streamed.project, streamed.store
    project.file("second", NOON, 4, 200, 3)
    clock = NOON + timedelta(hours=2, minutes=47)
    streamed.says(clock, NOON)
    done = store.materialize()
    assert [d.end for d in done] == [d.cut for d in done]
    assert done[1].cut == moment(NOON + timedelta(hours=2))  # 14:17 on the grid of an hour
    assert done[0].cut == moment(NOON + timedelta(hours=2))
    assert streamed.heads() == 0
    assert outcomes(store.materialize()) == ["unchanged", "unchanged"]
    fresh = store.get_online_features("everything", {"card": 1, "city": "ab", "shop": 1}, at=clock).freshness
    assert fresh == {"spend": 0.0, "places": 0.0}
    project.check(NOON + timedelta(hours=2))


def test_heads_are_left_alone_under_a_stream(streamed: Streamed) -> None:
    streamed.store.materialize(end=NOON - timedelta(minutes=10))
    there = streamed.heads()
    assert there
    streamed.project.file("second", NOON, 4, 200, 3)
    streamed.says(NOON + timedelta(hours=3), NOON - timedelta(minutes=10))
    streamed.store.materialize()
    assert streamed.heads() == there
    assert streamed.state().cut == moment(NOON + timedelta(hours=2))


def test_base_never_claims_what_batch_does_not_hold(streamed: Streamed) -> None:
    """The stream is hours ahead of the newest file: up to that file, and no further."""
    streamed.says(NOON + timedelta(hours=9), NOON - timedelta(hours=20))
    _, other = streamed.store.materialize()
    last = pq.read_table(streamed.project.root / "data" / "first.parquet").column("at").to_pylist()[-1]
    assert other.cut == moment(last) // HOUR * HOUR
    done = streamed.store.materialize(
        end=NOON + timedelta(hours=7)
    )  # whoever names an end says that batch is whole
    assert [d.cut for d in done] == [moment(NOON + timedelta(hours=7))] * 2


def test_a_cut_never_steps_back_under_a_stream(streamed: Streamed) -> None:
    store = streamed.store
    store.materialize(end=NOON)
    streamed.says(NOON + timedelta(minutes=1), NOON)
    streamed.project.file("late", NOON - timedelta(hours=3), 1, 10, 3)
    assert [d.cut for d in store.materialize()] == [moment(NOON)] * 2  # made anew, no further back
    with pytest.raises(WouldStepBack):
        store.materialize(end=NOON - timedelta(hours=2))
    done = store.materialize(end=NOON - timedelta(hours=2), replace=True, reason="the stream is made anew")
    assert [d.cut for d in done] == [moment(NOON - timedelta(hours=2))] * 2


def test_a_stream_that_begins_meanwhile_ends_the_run(
    streamed: Streamed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(materialize, "ENTITIES", 7)

    def begins(name: str, entities: int) -> None:
        streamed.says(NOON, NOON)

    with pytest.raises(MaterializeError, match="a stream began to write view"):
        streamed.store.materialize(end=NOON - timedelta(minutes=7), progress=begins)
    assert streamed.heads() == 0
    assert outcomes(streamed.store.materialize()) == ["written", "written"]


def test_the_newest_row_is_the_heads_only_from_the_cut_on(project: Project) -> None:
    """A head that was left behind a base knows an older row than the base does."""
    with project.open() as store:
        store.materialize(end=NOON - timedelta(minutes=10))
        streamed = Streamed(project, store)
        project.file("second", NOON - timedelta(minutes=9), 5, 400, 3)
        streamed.says(NOON + timedelta(hours=5), NOON - timedelta(minutes=10))
        store.materialize(end=NOON + timedelta(hours=4))
        assert streamed.heads()
    project.check(NOON + timedelta(hours=4))


# -------------------------------------------------------------------------------------------------------------- the tables


def test_an_older_registry_reads_as_an_empty_ledger_and_is_brought_up(tmp_path: Path) -> None:
    import sqlite3

    registry = open_registry("sqlite:///r.db", tmp_path)
    with registry.writing():
        pass
    with sqlite3.connect(tmp_path / "r.db") as db:
        for table in ("fs_units", "fs_holes", "fs_leases", "fs_tombstones", "fs_receipts"):
            db.execute(f"DROP TABLE {table}")
        db.execute("UPDATE fs_registry SET schema_version = 2")
    db.close()
    kept = Ledger(registry, "lmdb://x")
    assert kept.holes() == []
    assert kept.holes([]) == []
    with registry.writing() as transaction:
        assert transaction.rows("SELECT schema_version FROM fs_registry") == [(SCHEMA_VERSION,)]
        assert transaction.rows("SELECT count(*) FROM fs_units") == [(0,)]


def test_a_ledger_knows_one_store(project: Project) -> None:
    with project.open() as store:
        view = store.registry.current().plan.view("spend")
        other = Ledger(store.registry, "lmdb:///elsewhere")
        other.report_holes(view, [Hole(1, 2, "late", 1)])
        assert store.ledger.holes() == []
        assert [h.view for h in other.holes()] == ["spend"]


def test_a_source_that_is_gone_is_said_and_leaves_no_unit(project: Project) -> None:
    with project.open() as store:
        (project.root / "data" / "first.parquet").unlink()
        with pytest.raises(SourceError):
            store.materialize(end=NOON)
        assert store.unfinished() == []
