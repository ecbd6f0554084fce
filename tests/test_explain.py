"""What `fs explain` and `fs lineage` say, of made-up definitions and as commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from featurestore import FeatureStore
from featurestore.errors import NotFound, Unsupported
from featurestore.explain import SAMPLE, Explanation, explain
from featurestore.expr import Column
from featurestore.ir import Feature, Window
from featurestore.lineage import Node, lineage
from featurestore.picture import WIDTH, meaning, picture
from featurestore.templates import write_data, write_files
from featurestore.time import DAY, HOUR, MINUTE, moment, moment_text
from featurestore.types import Int64

ROOT = Path(__file__).parent.parent

ON_DEMAND = """
from featurestore import *

checkout = RequestSource("checkout", columns={"paid": Float64})
vs_week = OnDemand("vs_week", checkout["paid"] / card_spend["amount_mean_7d"])
asked = FeatureService("asked", features=[card_profile, vs_week])
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project that `fs init` writes, with an on-demand feature."""
    root = tmp_path_factory.mktemp("explain") / "shop"
    write_files("purchases", root)
    write_data("purchases", root, moment("2025-03-31T12:00:00"))
    with (root / "definitions.py").open("a") as file:
        file.write(ON_DEMAND)
    return root


@pytest.fixture(scope="module")
def store(shop: Path) -> FeatureStore:
    return FeatureStore(shop)


def explained(store: FeatureStore, name: str) -> list[Explanation]:
    return explain(
        store.definitions(), name, lambda view, engine: store.programs(view, engine, applied=False)
    )


def test_a_window_is_drawn_with_its_hops_its_tail_and_what_counts() -> None:
    feature = Feature("n", "count", (), (), Int64, Window(HOUR, 10 * MINUTE))
    noon = moment("2025-01-15T12:00:00")
    asked = noon + 5 * MINUTE
    tail = noon - HOUR
    lines = picture(feature, [tail - 1, tail, noon, asked - 1, asked, asked + 1], asked)
    events, window = lines[0].ljust(WIDTH + 8)[8:], lines[1].ljust(WIDTH + 8)[8:]
    assert events[window.index("[")] == "x"  # one at the tail counts, and hides the one just before
    assert window.count("|") == 6  # the edges after the tail, the last where the open hop begins
    assert window.rindex("|") < window.index("~") < window.index(")")
    assert events.count("x") == 3
    assert "[ 2025-01-15T11:00:00Z" in lines[2]
    assert "asked at 2025-01-15T12:05:00Z, exclusive" in lines[2]
    assert lines[3].strip() == "x 3 counted, o 3 not"


def test_a_lifetime_and_a_latest_value_are_drawn_too() -> None:
    noon = moment("2025-01-15T12:00:00")
    lifetime = Feature("n", "count", (), (), Int64, Window(None, DAY))
    assert "< the beginning" in picture(lifetime, [noon - DAY, noon], noon)[2]
    latest = Feature("x", "latest", (Column("x"),), (Int64,), Int64)
    assert picture(latest, [noon - DAY, noon - HOUR], noon)[3].strip() == "x 1 counted, o 1 not"
    assert picture(latest, [noon - DAY], noon, ttl=HOUR)[3].strip() == "x 0 counted, o 1 not"
    assert picture(lifetime, [], noon)[3].strip() == "x 0 counted, o 0 not"
    assert max(map(len, picture(lifetime, [noon - 10_000 * DAY, noon - 1], noon)[:2])) <= WIDTH + 8


def test_instants_and_features_in_words(store: FeatureStore) -> None:
    assert moment_text(0) == "1970-01-01T00:00:00Z"
    assert moment_text(-1) == "1969-12-31T23:59:59.999999Z"
    assert moment_text(10**18) == f"{10**18} us"
    view = store.definitions().view("card_spend")
    assert meaning(view.feature("online_7d")) == "count().where(online).over(7d, hop=1h)"
    assert (
        meaning(store.definitions().view("card_profile").feature("tier")) == "latest(tier).default('unknown')"
    )


def test_a_view_is_explained_feature_by_feature(store: FeatureStore) -> None:
    (one,) = explained(store, "card_spend")
    assert [f.feature for f in one.features] == [
        f.name for f in store.definitions().view("card_spend").features
    ]
    assert any("strictly before the moment asked for" in line for line in one.about)
    assert dict(one.levels) == {
        "5m": "tiles of 5m, kept for 1h",
        "1h": "tiles of 1h, kept for 7d",
        "1d": "tiles of 1d, kept for 30d",
    }
    shared = next(k for k in one.kept if k.level == "1h" and k.holds == "sum of amount")
    assert shared.features == ("amount_sum_1d", "amount_mean_7d")
    mean = next(f for f in one.features if f.feature == "amount_mean_7d")
    assert dict(mean.parts)["total"] == f"1h/{shared.slot}"
    for feature in one.features:
        assert feature.picture[3].strip().endswith("o 2 not")  # one before the tail, one at the moment itself
    assert {p.name for p in one.programs} >= {"tiles 5m", "tiles 1h", "tiles 1d", "newest", "training"}
    for program in one.programs:
        (duckdb, sql, _), (flink, nothing, why) = program.engines
        assert (duckdb, flink) == ("duckdb", "flink")
        assert sql is not None
        assert "SELECT" in sql
        assert nothing is None
        assert why.startswith("a Flink job for view 'card_spend' cannot read source")
    with pytest.raises(Unsupported):
        store.programs("card_spend", "flink", applied=False)


def test_a_feature_alone_is_explained_with_what_is_kept_for_it(store: FeatureStore) -> None:
    (one,) = explained(store, "card_spend:online_7d")
    assert [f.feature for f in one.features] == ["online_7d"]
    assert [(k.level, k.holds) for k in one.kept] == [("1h", "count of events, where online")]
    assert any("Only events for which online is true" in line for line in one.features[0].means)
    (static,) = explained(store, "tier")
    assert static.features[0].picture == ()
    assert any("every row is visible" in line for line in static.about)
    assert any("'unknown' stands in" in line for line in static.features[0].means)
    with pytest.raises(NotFound, match="did you mean 'online_7d'"):
        explained(store, "onlin_7d")


def test_lineage_goes_from_source_to_service_and_back(store: FeatureStore) -> None:
    whole = lineage(store.definitions())
    (amount,) = whole.found("purchases.amount")
    assert amount.where == "data/purchases.parquet"
    down = {(n["owner"], n["name"]): n for n in whole.tree(amount, "down")}
    assert down["card_spend", "amount_sum_1d"]["roles"] == ["value"]
    assert down["shop_activity", "sales_1h"]["roles"] == ["filter"]
    assert ("card_spend", "count_1h") not in down
    assert down["shop_activity", "amount_max_7d"]["roles"] == ["value", "filter"]
    assert [n["owner"] for n in down["card_spend", "amount_sum_1d"]["to"]] == ["disputes"]
    (column,) = whole.found("disputes.online_7d")
    (feature,) = whole.tree(column, "up")
    assert (feature["owner"], feature["name"]) == ("card_spend", "online_7d")
    assert {(n["name"], *n["roles"]) for n in feature["from"]} == {
        ("online", "condition"),
        ("card_id", "key"),
        ("occurred_at", "time"),
        ("purchase_id", "identity"),
    }


def test_lineage_of_a_column_computed_when_it_is_asked_for(store: FeatureStore) -> None:
    whole = lineage(store.definitions())
    (column,) = whole.found("asked.vs_week")
    made_of = {(n["kind"], n["name"]): n for n in whole.tree(column, "up")}
    assert made_of["request column", "paid"]["roles"] == ["request"]
    assert made_of["feature", "amount_mean_7d"]["roles"] == ["feature"]
    assert any(n["name"] == "amount" for n in made_of["feature", "amount_mean_7d"]["from"])
    (amount,) = whole.found("purchases.amount")
    mean = next(n for n in whole.tree(amount, "down") if n["name"] == "amount_mean_7d")
    assert {(n["owner"], n["name"]) for n in mean["to"]} == {
        ("disputes", "amount_mean_7d"),
        ("asked", "vs_week"),
    }


def test_lineage_by_every_kind_of_name(store: FeatureStore) -> None:
    whole = lineage(store.definitions())
    assert whole.found("card_spend:count_1h") == [Node("feature", "card_spend", "count_1h")]
    assert {n.kind for n in whole.found("count_1h")} == {"feature", "service column"}
    assert [n.name for n in whole.found("asked")] == ["tier", "vs_week"]
    assert {n.kind for n in whole.found("purchases")} == {"source column"}
    with pytest.raises(NotFound, match="did you mean 'count_1h'"):
        whole.found("count_1hh")


def test_both_as_commands(shop: Path, tmp_path: Path) -> None:
    here = Path(shutil.copytree(shop, tmp_path / "shop"))

    def fs(*arguments: str, status: int = 0) -> str:
        command = [sys.executable, "-m", "featurestore.cli", *arguments]
        environ = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=here, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    said = fs("explain", "count_1h")
    assert "count().over(1h, hop=5m)" in said
    assert "-- duckdb" in said
    assert "-- flink: a Flink job for view 'card_spend' cannot read source" in said
    short = fs("explain", "count_1h", "--no-programs", "--at", "2025-03-01T12:03:00")
    assert "asked at 2025-03-01T12:03:00Z" in short
    assert "SELECT" not in short
    found = json.loads(fs("explain", "shop_activity", "--json"))
    assert [f["feature"] for f in found["views"][0]["features"]] == ["sales_1h", "sales_1d", "amount_max_7d"]
    assert moment(found["at"]) == SAMPLE
    tree = fs("lineage", "vs_week")
    assert "request column asked request.paid  [request]" in tree
    assert "source column purchases.amount  (data/purchases.parquet)  [value]" in tree
    (column,) = json.loads(fs("lineage", "asked.vs_week", "--json"))["found"]
    assert column["to"] == []
    assert {n["kind"] for n in column["from"]} == {"feature", "request column"}
    assert "did you mean" in fs("lineage", "vs_weak", status=1)


def test_parameters_are_shown(tmp_path: Path) -> None:
    (tmp_path / "fs.toml").write_text('[project]\nname = "p"\n')
    (tmp_path / "d.py").write_text(
        "from featurestore import *\n"
        'events = BatchSource("events", batch=Parquet("e.parquet"), event_time="at",\n'
        '    columns={"k": Int64, "at": Timestamp, "x": Float64, "y": Float64})\n'
        'view = FeatureView("view", entity=Entity("who", key="k"), source=events, features=[\n'
        '    last_k("x", 3).over(hours(1)), quantile("x", 0.5).over(hours(1)), histogram("k", bound=9).over(hours(1)),\n'
        '    max_by("x", "y").over(hours(1)),\n'
        "])\n"
    )
    with FeatureStore(tmp_path) as store:
        (one,) = explain(store.definitions(), "view", lambda *_: [])
    assert [f.written.partition(".over")[0] for f in one.features] == [
        "last_k(x, k=3)", "quantile(x, p=0.5)", "histogram(k, bound=9)", "max_by(x, y)",
    ]  # fmt: skip
    holds = [k.holds for k in one.kept]
    assert any(h.startswith("lastk of x, k = 3") for h in holds), holds
    assert any(h.startswith("maxby of") and "y" in h for h in holds), holds
