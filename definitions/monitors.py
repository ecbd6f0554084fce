"""What is watched of the flights: storms, the timetable, weather reports that do not come."""

from flights import arrivals, cancellations, delay, departures, weather

from featurestore import Alert, Monitor, Trigger, check, days, retrain

QUIET = days(3)  # a storm of several days is told once

# Delays of a day that moved by more than half a standard deviation, beyond what the four weeks before did among themselves.
storms = Monitor(
    "storms",
    on=departures,
    window=days(1),
    baseline="previous 28d",
    checks=[check.drift("dep_delay", effect=0.5)],
    alerts=[Alert("drift", severity="warning", cooldown=QUIET)],
)

# Days on which eight times as many flights were cancelled as usual.
grounded = Monitor(
    "grounded",
    on=cancellations,
    window=days(1),
    baseline="previous 28d",
    checks=[check.rows()],
    alerts=[Alert("row-count.ratio >= 8", severity="critical", cooldown=QUIET, name="grounded")],
)

# Where flights go and who flies them, by weeks: places that nobody flew to for ten weeks, and shares that moved.
timetable = Monitor(
    "timetable",
    on=departures,
    window=days(7),
    baseline="previous 70d",
    every=days(7),
    checks=[
        check.schema(),
        check.rows(),
        check.drift("dest", effect=0.03, tests=["new values"]),
        check.drift("carrier", "origin", effect=0.1, usual=False),
    ],
    alerts=[
        Alert("schema", severity="critical"),
        Alert("drift", severity="info"),
        Alert("row-count", severity="info"),
    ],
)

# Reports that did not come: fewer than four of five hours.
reports = Monitor(
    "weather reports",
    on=weather,
    window=days(1),
    baseline="previous 28d",
    checks=[check.schema(), check.rows()],
    alerts=[
        Alert("schema", severity="critical"),
        Alert("row-count.ratio <= 0.8", severity="critical", cooldown=QUIET, name="weather is missing"),
    ],
)

on_time = Monitor(
    "arrivals are fresh", on=arrivals, checks=[check.fresh(within=days(1))], alerts=[Alert("freshness")]
)

again = Trigger(
    delay,
    when=[retrain.every(days(90)), retrain.drift(share=0.5)],
    run=["echo", "train again"],
    cooldown=days(30),
)
