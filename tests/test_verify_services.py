"""Verification of what services compute on demand, and of sources with lists: what passes, and what is caught how small."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from featurestore.errors import FunctionChanged, FunctionError, Unverified
from featurestore.ir import service_fingerprint
from featurestore.verify import services
from featurestore.verify.services import Asking, ServiceWorld

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)

PROJECT = """
import numpy as np
import featurestore as fs
from featurestore import *

card = Entity("card", key="card_id")
link = Entity("link", keys=("card_id", "shop"))
purchases = BatchSource("purchases", batch=Parquet("purchases.parquet"), event_time="at")
spend = FeatureView("spend", entity=card, source=purchases, features=[
    count().over(hours(1)), mean("amount").over(days(7)), mean("amount").over(hours(1)).default(-1.0),
])
visits = FeatureView("visits", entity=link, source=purchases, features=[
    last("amount").over(days(1)), last_k("amount", 2).over(days(7)),
])
newest = FeatureView("newest", entity=card, source=purchases, ttl=days(2), features=[latest("at"), latest("shop")])
checkout = RequestSource("checkout", columns={
    "price": Float64, "small": Float32, "items": Int64, "few": Int32, "shop_now": String, "cash": Decimal(8, 2), "day": Date,
    "seen": Timestamp, "flag": Bool,
})

ratio = OnDemand("ratio", checkout["price"] / spend["amount_mean_7d"], default=1.0)
idle = OnDemand("idle", seconds_between(newest["at"], as_of()))
before_default = OnDemand("before_default", spend["amount_mean_1h"].is_null())
friend = OnDemand("friend", spend.on(card_id="friend_id")["count_1h"] + spend["count_1h"] * checkout["few"])
curve = OnDemand("curve", fs.exp(fs.ln(checkout["price"]) * 0.5) - fs.tanh(checkout["small"]) + fs.pow(checkout["items"], 0.5))
total = OnDemand("total", checkout["cash"] * checkout["items"])
none = visits["amount_last_2_7d"].is_null()
many = OnDemand("many", when(checkout["flag"]).then(visits["amount_last_1d"]).otherwise(when(none).then(1.0).otherwise(0.0)))
when_seen = OnDemand("when_seen", coalesce(checkout["seen"], newest["at"], as_of()) + days(1))
words = OnDemand("words", concat(checkout["shop_now"], "/", newest["shop"], checkout["day"].year().cast(String)))


@fs.python(inputs=[checkout["price"], spend["amount_mean_7d"]], dtype=Float64)
def excess(price, usual):
    return price.values - usual.values


over = OnDemand("over", excess, default=0.0)
svc = FeatureService("svc", features=[
    ratio, idle, before_default, friend, curve, total, many, when_seen, words, over, spend,
], tags=("checked",), max_staleness=hours(1))
twice = OnDemand("twice", checkout["items"] * 2)
asked_alone = FeatureService("asked_alone", features=[twice])
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "fs.toml").write_text('[project]\nname = "cards"\n', encoding="utf-8")
    (tmp_path / "cards.py").write_text(PROJECT, encoding="utf-8")
    generator = np.random.default_rng(7)
    rows = 300
    at = [NOON - timedelta(seconds=int(s)) for s in generator.integers(1, 10 * 86_400, rows)]
    table = pa.table(
        {
            "card_id": generator.integers(0, 12, rows),
            "at": pa.array(at, pa.timestamp("us", tz="UTC")),
            "amount": [None if i % 17 == 0 else i / 8 for i in range(rows)],
            "shop": [None if i % 13 == 0 else f"s{i % 3}" for i in range(rows)],
        }
    )
    pq.write_table(table, tmp_path / "purchases.parquet")
    return tmp_path


def test_what_a_service_computes_is_certified_in_training_and_online(root: Path) -> None:
    with FeatureStore(root) as store:
        done = store.verify("svc", sample=5)
        assert done.passed, [v.counterexample for v in done.verdicts]
        assert [(v.kind, v.view) for v in done.verdicts] == [
            ("view", "newest"), ("view", "spend"), ("view", "visits"), ("service", "svc"),
        ]  # fmt: skip
        verdict = done.verdicts[-1]
        classes = {t.feature: t.parity for t in verdict.tallies}
        assert classes["curve"] == "close"
        assert classes["over"] == "python"
        assert classes["words"] == classes["newest.shop"] == "exact"
        assert {t.engine for t in verdict.tallies} == {"duckdb", "online"}
        assert all(t.cells >= services.ROWS for t in verdict.tallies)
        again = store.verify("svc", sample=5)
        assert again.verdicts[-1].tallies == verdict.tallies


def test_names_select_services_and_one_without_views_can_be_read(root: Path) -> None:
    with FeatureStore(root) as store:
        assert [v.view for v in store.verify("tag:checked", sample=1).verdicts] == ["svc"]
        assert [v.view for v in store.verify("asked_alone", sample=1).verdicts] == ["asked_alone"]
        assert [v.kind for v in store.verify("spend", sample=1).verdicts] == ["view"]
        everything = store.verify(sample=1)
        assert [v.view for v in everything.verdicts if v.kind == "service"] == ["asked_alone", "svc"]
        assert everything.passed


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        ("price.values - np.mean(usual.values)", 2),
        ("np.cumsum(np.where(usual.valid, usual.values, 0))", 2),
        ("np.random.default_rng().random(len(price))", 1),
        ("np.full(len(price), len(price) > 30, float)", 31),
        ("np.sort(price.values)", 2),
    ],
)
def test_a_function_that_looks_at_other_rows_is_caught_with_few_of_them(
    root: Path, body: str, rows: int
) -> None:
    text = PROJECT.replace("price.values - usual.values", body)
    assert text != PROJECT
    (root / "cards.py").write_text(text, encoding="utf-8")
    with FeatureStore(root) as store:
        done = store.verify("svc", sample=3)
        assert not done.passed
        assert [v.outcome for v in done.verdicts] == [*["certified"] * 3, "disagreement"]
        found = done.verdicts[-1].counterexample
        assert found is not None
        assert (found.kind, found.feature) == ("service", "over")
        assert found.columns[-2:] == (found.engine, "alone")
        assert {"card_id", "price", "spend.amount_mean_7d", "asked"} <= set(found.columns)
        assert len(found.rows) == rows
        assert found.minimal
        assert any(row[-1] != row[-2] for row in found.rows)
        assert found.to_csv().count("\n") == rows + 1
        assert {t.feature for t in done.verdicts[-1].tallies if t.differing} == {"over"}


def test_a_function_that_raises_says_so_at_its_line(root: Path) -> None:
    text = PROJECT.replace("return price.values", "assert len(price) > 1\n    return price.values")
    (root / "cards.py").write_text(text, encoding="utf-8")
    with (
        FeatureStore(root) as store,
        pytest.raises(FunctionError, match=r"cards.py:\d+: .*raised AssertionError"),
    ):
        store.verify("svc", sample=1)


def test_a_wrong_evaluation_is_caught_with_one_row(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = services.ROADS["online"]

    def wrong(here: ServiceWorld, rows: Sequence[Asking]) -> Any:
        found = right(here, rows)
        for row in found:
            if row["total"].value == 0:
                row["total"] = replace(row["total"], value=1)
        return found

    monkeypatch.setitem(services.ROADS, "online", wrong)
    with FeatureStore(root) as store:
        found = store.verify("svc", sample=3).verdicts[-1].counterexample
    assert found is not None
    assert (found.feature, found.engine, len(found.rows)) == ("total", "online", 1)
    assert [s.value for s in found.said] == ["0.00", "0.01"]
    assert "cash * items" in found.means


def test_a_wrong_lookup_is_caught(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = services.ROADS["duckdb"]

    def swapped(here: ServiceWorld, rows: Sequence[Asking]) -> Any:
        found = right(here, rows)
        for row in found:
            row["spend[card_id=friend_id].count_1h"] = row["spend.count_1h"]
        return found

    monkeypatch.setitem(services.ROADS, "duckdb", swapped)
    with FeatureStore(root) as store:
        verdict = store.verify("svc", sample=4, engines=["duckdb"]).verdicts[-1]
    differing = {t.feature for t in verdict.tallies if t.differing}
    assert "spend[card_id=friend_id].count_1h" in differing


def test_apply_asks_for_services_too_and_applied_functions_are_loaded(root: Path) -> None:
    with FeatureStore(root) as store:
        plan = store.definitions()
        with pytest.raises(Unverified, match="service 'svc' was never verified"):
            store.apply(verified=True)
        store.verify(sample=2)
        store.apply(verified=True)
        views = {v.name: v for v in plan.views}
        kept = store.registry.certificate(service_fingerprint(plan.service("svc"), views))
        assert kept is not None
        assert kept.passed
        assert store.verify("svc", sample=2, applied=True).passed
    (root / "cards.py").write_text(PROJECT.replace("price.values - usual", "price.values + usual"))
    with FeatureStore(root) as store:
        with pytest.raises(FunctionChanged, match="its text had"):
            store.verify("svc", sample=2, applied=True)
        with pytest.raises(Unverified, match="service 'svc' was never verified as it is now"):
            store.apply(verified=True)


def test_a_source_without_events_is_no_pass(root: Path) -> None:
    pq.write_table(pq.read_table(root / "purchases.parquet").slice(0, 0), root / "purchases.parquet")
    with FeatureStore(root) as store:
        done = store.verify("svc", sample=2)
    assert done.verdicts[-1].outcome == "empty"
    assert not done.passed


def test_the_command_prints_rows_and_services(root: Path) -> None:
    (root / "cards.py").write_text(PROJECT.replace("price.values - usual", "np.sort(price.values) + usual"))

    def fs(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "featurestore.cli", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = fs("verify", "svc", "--sample", "2")
    assert done.returncode == 1, done.stderr
    assert "service svc" in done.stdout
    assert "svc.over differs in duckdb" in done.stdout
    assert "python excess(price, spend.amount_mean_7d) version 1" in done.stdout
    said = json.loads(fs("--json", "verify", "svc", "--sample", "2").stdout)
    assert [s["service"] for s in said["services"]] == ["svc"]
    assert {c["class"] for c in said["services"][0]["cells"]} == {"exact", "close", "python"}


LISTS = """
from featurestore import *

who = Entity("who", key="k")
events = BatchSource("events", batch=Parquet("events.parquet"), event_time="at", tiebreak=("nums",), columns={
    "k": Int64, "at": Timestamp, "x": Float64, "tags": List(String), "nums": List(Float64), "days": List(Date),
    "prices": List(Decimal(8, 2)), "vec": Vector(2),
})
newest = FeatureView("newest", entity=who, source=events.where(col("tags").is_not_null()), features=[
    latest("x"), latest(col("vec").is_null()).named("no_vector"),
    latest(coalesce(col("days"), col("days")).is_null()).named("no_days"),
])
windowed = FeatureView("windowed", entity=who, source=events, features=[
    last("x").over(hours(3)), count().where(col("vec").is_null()).over(hours(2)),
    first(when(col("prices").is_null()).then(col("x")).otherwise(-1.0)).over(days(1)).named("first_price"),
])
"""


def test_lists_and_vectors_are_held_and_ordered_as_the_engines_order_them(tmp_path: Path) -> None:
    generator = np.random.default_rng(7)
    rows = 300

    def some(*values: Any) -> list[Any]:
        return [values[i] for i in generator.integers(0, len(values), rows)]

    at = [NOON - timedelta(hours=int(h)) for h in generator.integers(1, 30, rows)]  # many of one moment
    nan, inf = float("nan"), float("inf")
    columns = {
        "k": generator.integers(0, 4, rows),
        "at": pa.array(at, pa.timestamp("us", tz="UTC")),
        "x": [float(i) for i in range(rows)],
        "tags": pa.array(
            some(None, [], ["a"], ["a", "b"], ["a", None], [None], ["Z"], ["é"]), pa.list_(pa.string())
        ),
        "nums": pa.array(
            some(None, [], [1.0], [nan], [None], [1.0, 2.0], [-0.0], [0.0], [inf]), pa.list_(pa.float64())
        ),
        "days": pa.array(some(None, [date(2024, 1, 1)], []), pa.list_(pa.date32())),
        "prices": pa.array(
            some(None, [Decimal("1.25")], [Decimal("-1.25"), None]), pa.list_(pa.decimal128(8, 2))
        ),
        "vec": pa.array(some(None, [1.0, 2.0], [0.0, nan]), pa.list_(pa.float32(), 2)),
    }
    pq.write_table(pa.table(columns), tmp_path / "events.parquet")
    (tmp_path / "fs.toml").write_text('[project]\nname = "lists"\n', encoding="utf-8")
    (tmp_path / "lists.py").write_text(LISTS, encoding="utf-8")
    with FeatureStore(tmp_path) as store:
        done = store.verify(sample=4)
    assert done.passed, [v.counterexample for v in done.verdicts]
    assert done.cells > 1000


def test_a_counterexample_shows_lists() -> None:
    from featurestore.types import List, String, Vector
    from featurestore.verify.words import text

    assert text(["a", None], List(String)) == "[a, NULL]"
    assert text([1.0, 2.5], Vector(2)) == "[1.0, 2.5]"
