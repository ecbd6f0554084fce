"""Real flights, two thirds of them at rest and the rest pushed: what is read online is what training says, before and after a
base is published under the stream.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from tests.test_kafka import topic_of

PREPARE = Path(__file__).parent.parent / "definitions" / "prepare.py"

DEFINITIONS = """
import featurestore as fs
from featurestore import col

carrier = fs.Entity("carrier", key="carrier")
route = fs.Entity("route", keys=("origin", "dest"))
departures = fs.StreamSource(
    "departures", batch=fs.Parquet("rest/*.parquet"), stream=fs.Kafka("TOPIC", bootstrap="BROKERS", format="FORMAT"),
    event_time="departed_at", arrival_time="departed_at", event_id="id",
    columns={"carrier": fs.String, "origin": fs.String, "dest": fs.String, "departed_at": fs.Timestamp, "id": fs.Int64,
             "dep_delay": fs.Float64},
)
windows = fs.hours(1), fs.days(1), fs.days(7)
features = [
    fs.count().over(*windows), fs.mean("dep_delay").over(*windows), fs.stddev_samp("dep_delay").over(fs.days(7)),
    fs.count().where(col("dep_delay") > 15).over(fs.days(1)).named("late"), fs.last("dest").over(fs.days(7)),
    fs.last_k("dep_delay", k=5).over(fs.days(7)), fs.count_distinct("dest", k=64).over(fs.days(7)),
    fs.quantile("dep_delay", p=0.9).over(fs.days(7)), fs.most_frequent("dest", k=3).over(fs.days(7)),
    fs.count().over(fs.lifetime), fs.latest("dep_delay"),
]
service = fs.FeatureService("all", [
    fs.FeatureView("of_carrier", carrier, departures, features), fs.FeatureView("of_route", route, departures, features),
])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "way", ["log", *(pytest.param(form, marks=pytest.mark.kafka) for form in ("json", "avro"))]
)
def test_flights_that_are_pushed_are_read_as_training_says(
    tmp_path: Path, way: str, request: pytest.FixtureRequest
) -> None:
    topic, brokers = "departures", "nowhere"
    if way != "log":
        brokers = request.getfixturevalue("kafka_address")
        topic = topic_of(brokers, 3, retention_ms="-1")  # they arrive in 2013
    command = [sys.executable, str(PREPARE), "--out", str(tmp_path / "data"), "--until", "2013-02-01"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    flights = pq.read_table(tmp_path / "data" / "departures.parquet").sort_by("departed_at")
    columns = ["carrier", "origin", "dest", "departed_at", "dep_delay"]
    flights = flights.select(columns).append_column("id", pa.array(range(len(flights)), pa.int64()))
    at = flights.column("departed_at").cast(pa.timestamp("us")).cast(pa.timestamp("us", tz="UTC"))
    flights = flights.set_column(3, "departed_at", at)
    flights = flights.set_column(4, "dep_delay", flights.column("dep_delay").cast(pa.float64()))
    cut = datetime(2013, 1, 20, 13, 30, tzinfo=UTC)
    before = pc.less(flights.column("departed_at"), pa.scalar(cut))
    rest, live = flights.filter(before), flights.filter(pc.invert(before))
    events = "log" if way == "log" else "kafka"
    (tmp_path / "fs.toml").write_text(f'[offline]\nthreads = 1\n[stream]\nevents = "{events}"\n')
    said = {"TOPIC": topic, "BROKERS": brokers, "FORMAT": way.replace("log", "json")}
    text = DEFINITIONS
    for name, value in said.items():
        text = text.replace(name, value)
    (tmp_path / "flights.py").write_text(text)
    (tmp_path / "rest").mkdir()
    pq.write_table(rest, tmp_path / "rest" / "1.parquet")
    asked = flights.column("departed_at")[-1].as_py() + timedelta(minutes=7)
    entities = (
        flights.group_by(["carrier", "origin", "dest"]).aggregate([]).select(["carrier", "origin", "dest"])
    )
    spine = entities.append_column(
        "event_timestamp", pa.array([asked] * len(entities), pa.timestamp("us", tz="UTC"))
    )
    with FeatureStore(tmp_path) as store:
        store.apply()
        store.materialize(end=cut)
        for start in range(0, len(live), 1000):
            store.push("departures", live.slice(start, 1000), at=asked)
        assert store.run_stream(once=True) >= len(live)
        assert [s.counts["applied"] for s in store.stream_status()] == [len(live)] * 2
        pq.write_table(live, tmp_path / "rest" / "2.parquet")
        training = store.get_historical_features(spine, "all").to_arrow()
        for base in (None, asked - timedelta(days=3)):
            if base is not None:  # under the stream, which then forgets what base has taken over
                assert [m.cut for m in store.materialize(end=base)] == [_day(base)] * 2
                store.run_stream(once=True)
            online = store.get_online_features("all", entities.to_pydict(), at=asked).to_dict()
            for name, values in online.items():
                wanted = training.column(name).to_pylist(maps_as_pydicts="strict")
                if "mean" in name or "stddev" in name:  # the order of summation may show
                    assert [v is None for v in values] == [v is None for v in wanted], name
                    got, want = ([v for v in column if v is not None] for column in (values, wanted))
                    assert got == pytest.approx(want, rel=1e-9), name
                else:
                    assert values == wanted, name


def _day(moment: datetime) -> int:
    return int(moment.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()) * 1_000_000
