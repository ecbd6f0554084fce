"""Will this flight arrive more than 15 minutes late? Asked while the day goes on, and learnt from every day.

Departures and arrivals are streams: at rest in `../data`, and pushed as they happen. A flight's label is its own arrival.
"""

from featurestore import (
    Capture,
    Entity,
    FeatureService,
    FeatureView,
    Int64,
    Kafka,
    Label,
    OnDemand,
    Parquet,
    RequestSource,
    StreamSource,
    String,
    Timestamp,
    col,
    count,
    days,
    first,
    hours,
    mean,
    stddev_samp,
)

LATE = 15  # minutes

carrier = Entity("carrier", key="carrier")
airport = Entity("airport", key="airport")
route = Entity("route", keys=("origin", "dest"))
flight = Entity("flight", key="flight_id")

departures = StreamSource(
    "departures",
    batch=Parquet("../data/departures.parquet"),
    stream=Kafka("departures"),
    event_time="departed_at",
    event_id="flight_id",
    columns={
        "flight_id": String,
        "departed_at": Timestamp,
        "carrier": String,
        "origin": String,
        "dest": String,
        "dep_delay": Int64,
    },
    lateness=hours(1),
)

arrivals = StreamSource(
    "arrivals",
    batch=Parquet("../data/arrivals.parquet"),
    stream=Kafka("arrivals"),
    event_time="arrived_at",
    event_id="flight_id",
    columns={
        "flight_id": String,
        "arrived_at": Timestamp,
        "carrier": String,
        "origin": String,
        "dest": String,
        "arr_delay": Int64,
    },
    lateness=hours(1),
)

carrier_delays = FeatureView(
    "carrier_delays",
    entity=carrier,
    source=departures,
    features=[
        count().over(hours(1), days(1)),
        mean("dep_delay").over(hours(1), hours(6), days(7)),
        count().where(col("dep_delay") > LATE).over(hours(6)).named("late_6h"),
    ],
)

airport_departures = FeatureView(
    "airport_departures",
    entity=airport,
    source=departures.with_columns(airport=col("origin")),
    features=[
        count().over(hours(1)),
        mean("dep_delay").over(hours(1), hours(3)),
        count().where(col("dep_delay") > LATE).over(hours(1)).named("late_1h"),
    ],
)

route_arrivals = FeatureView(
    "route_arrivals",
    entity=route,
    source=arrivals,
    features=[
        count().over(days(7)).named("route_flights_7d"),
        mean("arr_delay").over(days(1), days(7)).named("route_delay"),
        stddev_samp("arr_delay").over(days(7)).named("route_spread_7d"),
    ],
)

schedule = RequestSource("schedule", columns={"scheduled_hour": Int64, "distance": Int64})
hour = OnDemand("hour", schedule["scheduled_hour"])
miles = OnDemand("miles", schedule["distance"])

# Known as soon as it has landed. A flight that has not after a day was cancelled or diverted: mature, and NULL.
late = Label(
    "late", arrivals, flight, value=first("arr_delay") > LATE, horizon=days(1), matures="first_event"
)

delay_live = FeatureService(
    "delay_live",
    features=[
        carrier_delays,
        airport_departures.on(airport="origin", prefix="origin_"),
        route_arrivals,
        hour,
        miles,
    ],
    label=late,
    capture=Capture(context={"flight_id": String}),  # a label is looked up by it, and no feature reads it
)
