"""Will this purchase be disputed? Asked when the card is used, before the purchase itself is known."""

import featurestore as fs
from featurestore import (
    BatchSource,
    Entity,
    FeatureService,
    FeatureView,
    Parquet,
    col,
    count,
    days,
    hours,
    last,
    latest,
    mean,
)

# Who features are about.
card = Entity("card", key="card_id")
shop = Entity("shop", key="merchant")

# Where events lie, and which column says when they happened. Paths are relative to fs.toml.
purchases = BatchSource(
    "purchases",
    batch=Parquet("data/purchases.parquet"),
    event_time="occurred_at",
    event_id="purchase_id",  # the same purchase twice counts once
)

cards = BatchSource("cards", batch=Parquet("data/cards.parquet"))  # no event time: static

# Features of one entity from one source.
card_spend = FeatureView(
    "card_spend",
    entity=card,
    source=purchases,
    features=[
        count().over(hours(1), days(7)),  # count_1h, count_7d
        fs.sum("amount").over(days(1)),  # amount_sum_1d
        mean("amount").over(days(7), days(30)),  # amount_mean_7d, amount_mean_30d
        count().where(col("online")).over(days(7)).named("online_7d"),
        last("merchant").over(days(30)),  # merchant_last_30d
    ],
    description="How a card has been used lately.",
)

shop_activity = FeatureView(
    "shop_activity",
    entity=shop,
    source=purchases.where(col("amount") >= 5),
    features=[
        count().over(hours(1), days(1)).named("sales"),  # sales_1h, sales_1d
        fs.max("amount").over(days(7)),  # amount_max_7d
    ],
)

card_profile = FeatureView(
    "card_profile",
    entity=card,
    source=cards,
    features=[latest("tier").default("unknown")],
)

# What one model reads, in this order.
disputes = FeatureService("disputes", features=[card_profile, shop_activity, card_spend])
