"""On-demand features: one expression, the same bits in a training row and in an online read of that moment."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import featurestore as fs
from featurestore import FeatureStore, Status
from featurestore.errors import DefinitionError, RequestError, ServiceImmutable, SpineError

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)

PROJECT = """
import featurestore as fs
from featurestore import (
    BatchSource, Decimal, Entity, FeatureService, FeatureView, Float64, Int64, OnDemand, Parquet, RequestSource, String,
    as_of, col, count, days, hours, latest, mean, seconds_between, when,
)

card = Entity("card", key="card_id")
purchases = BatchSource("purchases", batch=Parquet("purchases.parquet"), event_time="at")
spend = FeatureView("spend", entity=card, source=purchases, features=[
    count().over(hours(1)), mean("amount").over(days(7)), mean("amount").over(hours(1)).default(-1.0),
])
newest = FeatureView("newest", entity=card, source=purchases, features=[latest("at"), latest("amount"), latest("shop")])
checkout = RequestSource("checkout", columns={"price": Float64, "items": Int64, "shop_now": String, "cash": Decimal(8, 2)})

ratio = OnDemand("ratio", checkout["price"] / spend["amount_mean_7d"], default=1.0)
idle = OnDemand("idle", seconds_between(newest["at"], as_of()))
before_default = OnDemand("before_default", spend["amount_mean_1h"].is_null())
same_shop = OnDemand("same_shop", checkout["shop_now"] == newest["shop"])
log_price = OnDemand("log_price", fs.ln(checkout["price"] + 1.0))
total = OnDemand("total", checkout["cash"] * checkout["items"])
friend = OnDemand("friend", spend.on(card_id="friend_id")["count_1h"] + spend["count_1h"])

checked = FeatureService("checked", features=[
    ratio, spend, idle, before_default, same_shop, log_price, newest["amount"], total,
])
friends = FeatureService("friends", features=[friend])
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    (tmp_path / "fs.toml").write_text('[project]\nname = "cards"\n', encoding="utf-8")
    (tmp_path / "cards.py").write_text(PROJECT, encoding="utf-8")
    generator = np.random.default_rng(7)
    rows = 400
    at = [NOON - timedelta(seconds=int(s)) for s in generator.integers(1, 20 * 86_400, rows)]
    amounts = generator.integers(1, 500, rows).tolist()  # whole numbers: their means are exact
    purchases = pa.table(
        {
            "card_id": generator.integers(0, 20, rows),
            "at": pa.array(at, pa.timestamp("us", tz="UTC")),
            "amount": [None if i % 17 == 0 else a for i, a in enumerate(amounts)],
            "shop": [f"s{i % 3}" for i in range(rows)],
        }
    )
    pq.write_table(purchases, tmp_path / "purchases.parquet")
    with FeatureStore(tmp_path) as opened:
        opened.apply()
        opened.materialize(end=NOON)
        yield opened


def asked() -> dict[str, list[Any]]:
    rows = 24
    prices: list[float | None] = [10.0 * i - 5 for i in range(rows)]
    prices[3], prices[4], prices[5] = None, float("nan"), 0.0
    return {
        "card_id": [*range(rows - 1), None],
        "price": prices,
        "items": [i % 4 for i in range(rows)],
        "shop_now": [f"s{i % 2}" for i in range(rows)],
        "cash": [None if i == 7 else f"{i}.25" for i in range(rows)],
    }


def spine_of(columns: dict[str, list[Any]]) -> pa.Table:
    types = {"card_id": pa.int64(), "price": pa.float64(), "cash": pa.string()}
    table = pa.table({n: pa.array(v, types.get(n)) for n, v in columns.items()})
    cash = table["cash"].cast(pa.decimal128(8, 2))
    table = table.set_column(table.column_names.index("cash"), "cash", cash)
    return table.append_column("event_timestamp", pa.array([NOON] * len(table), pa.timestamp("us", tz="UTC")))


def read(store: FeatureStore, columns: dict[str, list[Any]]) -> Any:
    from decimal import Decimal

    request = {n: v for n, v in columns.items() if n != "card_id"}
    request["cash"] = [None if v is None else Decimal(v) for v in request["cash"]]
    return store.get_online_features("checked", {"card_id": columns["card_id"]}, request=request, at=NOON)


def test_training_and_online_give_the_same_bits(store: FeatureStore) -> None:
    columns = asked()
    training = store.get_historical_features(spine_of(columns), "checked", statuses=True).to_arrow()
    online = read(store, columns)
    assert list(online.names) == [
        "ratio", "count_1h", "amount_mean_7d", "amount_mean_1h", "idle", "before_default", "same_shop", "log_price",
        "amount", "total",
    ]  # fmt: skip
    table = online.to_arrow()
    for i, name in enumerate(online.names):
        assert table.column(name).to_pylist() == training.column(name).to_pylist(), name
        words = [Status(s).name for s in online.statuses[:, i]]
        assert words == training.column(f"{name}__status").to_pylist(), name
    assert any(v is not None for v in table.column("ratio").to_pylist())
    assert Status.DEFAULT in online.statuses[:, 0]


def test_inputs_are_read_before_their_defaults(store: FeatureStore) -> None:
    values = read(store, asked()).to_dict()
    assert values["amount_mean_1h"][20] == -1.0
    assert values["before_default"][20] is True


def test_as_of_is_the_moment_asked_for(store: FeatureStore) -> None:
    columns = asked()
    first = read(store, columns).to_dict()["idle"]
    request = {"price": 1.0, "items": 1, "shop_now": "s0", "cash": None}
    later = NOON + timedelta(seconds=90)
    cards = {"card_id": columns["card_id"]}
    second = store.get_online_features("checked", cards, request=request, at=later).to_dict()["idle"]
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None]
    assert len(pairs) > 10
    assert all(b - a == pytest.approx(90) for a, b in pairs)


def test_a_null_of_the_request_is_a_null_and_nan_is_one_too(store: FeatureStore) -> None:
    online = read(store, asked())
    values = online.to_dict()
    assert values["log_price"][3] is None
    assert values["log_price"][4] is None
    assert values["log_price"][5] == 0.0
    assert values["log_price"][0] is None  # the logarithm of a negative number


def test_the_tensor_holds_numbers_of_both_kinds(store: FeatureStore) -> None:
    online = read(store, asked())
    assert online.tensor_names == tuple(online.names)
    tensor = online.to_numpy()
    assert tensor.shape == (24, 10)
    assert np.isnan(tensor[~online.mask]).all()
    assert (online.ages[:, 0] == -1).all()  # what is computed has no age


def test_a_view_looked_up_by_another_column_can_be_computed_with(store: FeatureStore) -> None:
    online = store.get_online_features("friends", {"card_id": [1, 2], "friend_id": [2, 1]}, at=NOON).to_dict()
    assert online["friend"][0] == online["friend"][1]
    spine = pa.table(
        {"card_id": [1, 2], "friend_id": [2, 1], "t": pa.array([NOON] * 2, pa.timestamp("us", tz="UTC"))}
    )
    training = store.get_historical_features(spine, "friends", timestamp="t").to_arrow()
    assert training.column("friend").to_pylist() == online["friend"]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({}, "request column 'cash' of service 'checked' is missing"),
        ({"price": 1.0, "items": 1, "shop_now": "x", "cash": None, "prise": 2}, "no request column 'prise'"),
        (
            {"price": "dear", "items": 1, "shop_now": "x", "cash": None},
            "'price' of service 'checked' is declared Float64",
        ),
        ({"price": 1.0, "items": [1, 2], "shop_now": "x", "cash": None}, "'items' has 2 values for 1 rows"),
        (
            {"price": 1.0, "items": "1", "shop_now": "x", "cash": None},
            "'items' of service 'checked' is declared Int64",
        ),
        (
            {"price": 1.0, "items": 1.5, "shop_now": "x", "cash": None},
            "'items' of service 'checked' is declared Int64",
        ),
    ],
)
def test_a_request_that_does_not_fit_is_refused(
    store: FeatureStore, request_: dict[str, Any], says: str
) -> None:
    with pytest.raises(RequestError, match=says):
        store.get_online_features("checked", {"card_id": [1]}, request=request_, at=NOON)


def test_a_spine_without_a_request_column_is_refused(store: FeatureStore) -> None:
    spine = spine_of(asked()).drop_columns(["price"])
    with pytest.raises(SpineError, match="no column 'price', a request column of service 'checked'"):
        store.get_historical_features(spine, "checked").to_arrow()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('fs.OnDemand("x", checkout["prise"] / 2)', "unknown column 'prise'"),
        ('fs.OnDemand("x", spend["amount_mean_8d"] / 2)', "no feature 'amount_mean_8d'"),
        ('fs.OnDemand("x", checkout["price"] + checkout["shop_now"])', "in on-demand feature 'x'"),
        ('fs.OnDemand("x", checkout["price"] > 1, default="yes")', "default 'yes' does not fit a Bool"),
        ('fs.OnDemand("x", 3)', "on-demand feature 'x' is 3, not an expression"),
        ('fs.OnDemand("ratio", checkout["price"])', "on-demand feature 'ratio' is declared twice"),
        (
            'fs.RequestSource("other", columns={"price": fs.Int64})',
            "request column 'price' is Int64 in 'other'",
        ),
        ('fs.RequestSource("other", columns={"a.b": fs.Int64})', "'a.b' is not a name for a request column"),
        (
            'fs.FeatureService("s", features=[fs.OnDemand("y", fs.col("card_id") + 1), spend])',
            "unknown column 'card_id'",
        ),
    ],
)
def test_mistakes_in_definitions_have_their_line(store: FeatureStore, line: str, says: str) -> None:
    file = store.config.root / "cards.py"
    file.write_text(f"{PROJECT}\nmore = {line}\n", encoding="utf-8")
    with pytest.raises(DefinitionError, match=says) as refused:
        store.plan()
    assert f"cards.py:{PROJECT.count(chr(10)) + 2}" in str(refused.value)


def test_a_served_expression_may_not_change_and_another_may_be_appended(store: FeatureStore) -> None:
    read(store, asked())
    file = store.config.root / "cards.py"
    file.write_text(PROJECT.replace("+ 1.0)", "+ 2.0)"), encoding="utf-8")
    plan = store.plan()
    assert "column log_price: expression" in "\n".join(plan.blocked)
    with pytest.raises(ServiceImmutable):
        store.apply(plan)
    appended = PROJECT.replace('newest["amount"], total,', 'newest["amount"], total, extra,').replace(
        "checked = ", 'extra = OnDemand("extra", checkout["price"] * 2.0)\nchecked = '
    )
    file.write_text(appended, encoding="utf-8")
    assert not store.plan().blocked
    store.apply()
    assert store.service("checked")[0].columns[-1] == ("extra", fs.Float64)


def test_a_plan_with_on_demand_features_survives_its_registry(store: FeatureStore) -> None:
    assert store.registry.current().plan == store.definitions()
    assert store.plan().is_empty
