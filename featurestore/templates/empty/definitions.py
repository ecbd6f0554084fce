"""Your definitions. `fs plan` says what they would change, `fs apply` makes them the ones in force.

from featurestore import BatchSource, Entity, FeatureService, FeatureView, Parquet, count, days, mean

customer = Entity("customer", key="customer_id")

orders = BatchSource("orders", batch=Parquet("data/orders/*.parquet"), event_time="ordered_at")

customer_orders = FeatureView(
    "customer_orders",
    entity=customer,
    source=orders,
    features=[count().over(days(7), days(30)), mean("amount").over(days(30))],
)

model = FeatureService("model", features=[customer_orders])
"""
