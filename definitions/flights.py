"""Will this flight arrive more than 15 minutes late? Asked at its scheduled departure from New York, in 2013.

`prepare.py` writes what the sources read. Delays are whole minutes, negative when early; all times are UTC.
"""

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
    lifetime,
    mean,
    stddev_samp,
)

LATE = 15  # minutes

# ------------------------------------------------------------------------------------------------- entities

carrier = Entity("carrier", key="carrier", description="An airline, by its two-letter code.")
airport = Entity("airport", key="airport", description="An airport, by its three-letter code.")
route = Entity("route", keys=("origin", "dest"), description="From one airport to another.")
aircraft = Entity("aircraft", key="tailnum", description="One machine, by the number on its tail.")

# -------------------------------------------------------------------------------------------------- sources

departures = BatchSource(
    "departures",
    batch=Parquet("data/departures.parquet"),
    event_time="departed_at",
    event_id="flight_id",
    description="A flight has left its gate. Cancelled flights never do.",
)

cancellations = BatchSource(
    "cancellations",
    batch=Parquet("data/cancellations.parquet"),
    event_time="cancelled_at",
    event_id="flight_id",
    description="A flight did not leave. When that was decided is unknown: taken as its scheduled time.",
)

arrivals = BatchSource(
    "arrivals",
    batch=Parquet("data/arrivals.parquet"),
    event_time="arrived_at",
    event_id="flight_id",
    description="A flight has reached its gate. Diverted flights are not in here.",
)

weather = BatchSource(
    "weather",
    batch=Parquet("data/weather.parquet"),
    event_time="known_at",
    description="One report per New York airport and hour, known from the end of its hour.",
)

planes = BatchSource(
    "planes",
    batch=Parquet("data/planes.parquet"),
    description="What the registry of aircraft says. Static: it has no history, so every row sees the same.",
)

# ---------------------------------------------------------------------------------------------------- views

carrier_delays = FeatureView(
    "carrier_delays",
    entity=carrier,
    source=departures,
    features=[
        count().over(hours(1), days(1), days(7)),  # count_1h, count_1d, count_7d
        mean("dep_delay").over(hours(1), hours(6), days(1), days(7)),  # dep_delay_mean_1h, …
        fs.max("dep_delay").over(days(1)),  # dep_delay_max_1d
        stddev_samp("dep_delay").over(days(7)),  # dep_delay_stddev_samp_7d
        count().where(col("dep_delay") > LATE).over(days(1)).named("late_1d"),
    ],
    description="How an airline is doing on its way out.",
)

carrier_arrivals = FeatureView(
    "carrier_arrivals",
    entity=carrier,
    source=arrivals,
    features=[mean("arr_delay").over(hours(3), days(1))],  # arr_delay_mean_3h, arr_delay_mean_1d
    description="How an airline is doing at the other end.",
)

airport_departures = FeatureView(
    "airport_departures",
    entity=airport,
    source=departures.with_columns(airport=col("origin")),
    features=[
        count().over(hours(1)),
        mean("dep_delay").over(hours(1), hours(3), days(1)),
        count().where(col("dep_delay") > LATE).over(hours(1)).named("late_1h"),
    ],
    description="How an airport is coping right now.",
)

airport_cancellations = FeatureView(
    "airport_cancellations",
    entity=airport,
    source=cancellations.with_columns(airport=col("origin")),
    features=[count().over(hours(6), days(1)).named("cancelled")],  # cancelled_6h, cancelled_1d
)

airport_arrivals = FeatureView(
    "airport_arrivals",
    entity=airport,
    source=arrivals.with_columns(airport=col("dest")),
    features=[mean("arr_delay").over(hours(3), days(1))],
    description="How late flights from New York have been getting in here lately.",
)

airport_weather = FeatureView(
    "airport_weather",
    entity=airport,
    source=weather,
    features=[
        latest("temp"),  # °F
        latest("wind_speed"),  # mph
        latest("wind_gust"),  # mph; mostly NULL: no gusts
        latest("precip"),  # inches in the hour
        latest("visib"),  # miles
        latest("pressure"),  # millibar
    ],
    ttl=hours(3),  # an older report says nothing about now
    description="The last weather report.",
)

airport_rain = FeatureView(
    "airport_rain",
    entity=airport,
    source=weather,
    features=[fs.sum("precip").over(hours(6))],  # precip_sum_6h
)

route_delays = FeatureView(
    "route_delays",
    entity=route,
    source=arrivals,
    features=[
        count().over(days(30)).named("route_flights_30d"),
        mean("arr_delay").over(days(7), days(30)).named("route_delay"),  # route_delay_7d, route_delay_30d
        stddev_samp("arr_delay").over(days(30)).named("route_delay_stddev_30d"),
    ],
    description="What is usual from here to there.",
)

aircraft_flights = FeatureView(
    "aircraft_flights",
    entity=aircraft,
    source=arrivals,
    features=[
        last("arr_delay").over(days(2)),  # arr_delay_last_2d
        last("dest").over(days(7)),  # dest_last_7d, a string
        count()
        .over(hours(6), days(1), lifetime)
        .named("flights"),  # flights_6h, flights_1d, flights_lifetime
    ],
    description="What this machine did before. Only flights out of New York are recorded.",
)

aircraft_model = FeatureView(
    "aircraft_model",
    entity=aircraft,
    source=planes,
    features=[
        latest("seats"),
        latest("year"),
        latest("manufacturer").default("unknown"),  # a string
    ],
)

# -------------------------------------------------------------------------------------------------- service

delay = FeatureService(
    "delay",
    features=[
        carrier_delays,
        carrier_arrivals,
        airport_departures.on(airport="origin", prefix="origin_"),
        airport_cancellations.on(airport="origin", prefix="origin_"),
        airport_weather.on(airport="origin", prefix="origin_"),
        airport_rain.on(airport="origin", prefix="origin_"),
        airport_arrivals.on(airport="dest", prefix="dest_"),
        route_delays,
        aircraft_flights,
        aircraft_model,
    ],
    description="More than 15 minutes late on arrival? Asked at scheduled departure.",
)
