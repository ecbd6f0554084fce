"""What was served, as rows to train on: values bit for bit, labels as they mature, batches that survive a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from featurestore.errors import NotFound

DEFINITIONS = """
import featurestore as fs
from featurestore import Capture, count, hours, mean

visitor = fs.Entity("visitor", key="visitor_id")
session = fs.Entity("session", key="session_id")
clicks = fs.BatchSource("clicks", fs.Parquet("clicks.parquet"), "clicked_at")
activity = fs.FeatureView("activity", visitor, clicks, [count().over(hours(1)), mean("price").over(hours(6))])
page = fs.RequestSource("page", {"position": fs.Int64})
position = fs.OnDemand("position_1", page["position"] + 1)
clicked = fs.Label("clicked", clicks, session, count() > 0, hours(1))
ranking = fs.FeatureService("ranking", [activity, position], label=clicked, capture=Capture())
"""

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
VISITORS = 40


@pytest.fixture
def project(tmp_path: Path) -> Iterator[FeatureStore]:
    """Visitors who clicked before noon; in the session that begins at noon, every third clicks within the hour."""
    (tmp_path / "fs.toml").write_text(
        '[project]\nname = "clicks"\n[offline]\nthreads = 1\n', encoding="utf-8"
    )
    (tmp_path / "definitions.py").write_text(DEFINITIONS, encoding="utf-8")
    before = [NOON - timedelta(minutes=1 + i) for i in range(VISITORS)]
    after = [NOON + timedelta(minutes=1 + i) for i in range(0, VISITORS, 3)]
    clicks = {
        "visitor_id": [*range(VISITORS), *range(0, VISITORS, 3)],
        "session_id": [*["old"] * VISITORS, *(f"s{i}" for i in range(0, VISITORS, 3))],
        "clicked_at": [*before, *after],
        "price": [i / 7 for i in range(VISITORS)] + [1.0] * len(after),
    }
    pq.write_table(pa.table(clicks), tmp_path / "clicks.parquet")
    with FeatureStore(tmp_path) as store:
        store.apply()
        store.materialize(end=NOON)
        yield store


def serve(store: FeatureStore, start: int = 0, stop: int = VISITORS) -> dict[str, list[object]]:
    visitors = list(range(start, stop))
    online = store.get_online_features(
        "ranking",
        {"visitor_id": visitors},
        request={"position": [v % 5 for v in visitors]},
        at=NOON,
        context={"session_id": [f"s{v}" for v in visitors]},
    )
    store.capture.flush()
    return online.to_dict()


def test_a_captured_row_is_what_was_served_and_what_came_of_it(project: FeatureStore) -> None:
    served = serve(project)
    found = project.get_logged_features("ranking", as_of=NOON + timedelta(hours=1)).to_arrow()
    assert found.column_names == [
        "row_id",
        "event_timestamp",
        "version",
        "visitor_id",
        "position",
        "session_id",
        "count_1h",
        "price_mean_6h",
        "position_1",
        "clicked",
        "clicked__state",
        "is_mature",
    ]
    for name, values in served.items():
        assert found[name].to_pylist() == values, name
    assert found["clicked"].to_pylist() == [i % 3 == 0 for i in range(VISITORS)]
    assert set(found["event_timestamp"].to_pylist()) == {NOON}


def test_rows_that_are_not_mature_are_left_out_or_kept_without_a_label(project: FeatureStore) -> None:
    serve(project)
    early = NOON + timedelta(minutes=30)
    assert project.get_logged_features("ranking", as_of=early).to_arrow().num_rows == 0
    kept = project.get_logged_features("ranking", as_of=early, immature="keep").to_arrow()
    assert kept["clicked"].null_count == kept.num_rows == VISITORS
    assert set(kept["clicked__state"].to_pylist()) == {"IMMATURE"}
    plain = project.get_logged_features("ranking", labelled=False).to_arrow()
    assert "clicked" not in plain.column_names
    with pytest.raises(NotFound):
        project.get_logged_features("rankin")


def test_a_feature_that_meant_something_else_is_null(project: FeatureStore) -> None:
    serve(project, 0, 5)
    longer = 'slow = fs.FeatureView("slow", visitor, clicks, [mean("price").over(hours(3))])\nranking'
    text = DEFINITIONS.replace("ranking", longer, 1).replace("position],", "position, slow],")
    (project.config.root / "definitions.py").write_text(text, encoding="utf-8")
    project.apply()
    project.materialize(end=NOON)
    serve(project, 5, 9)
    found = project.get_logged_features("ranking", labelled=False).to_arrow().sort_by("visitor_id")
    assert found["version"].to_pylist() == [1] * 5 + [2] * 4
    assert found["price_mean_6h"].null_count == 0  # it means what it meant
    assert [v is None for v in found["price_mean_3h"].to_pylist()] == [True] * 5 + [False] * 4


def test_batches_come_as_they_mature_and_once(project: FeatureStore) -> None:
    serve(project, 0, 30)
    hour = NOON + timedelta(hours=1)
    assert list(project.training_batches("ranking", "trainer", as_of=NOON)) == []
    sizes = []
    for batch in project.training_batches("ranking", "trainer", size=20, as_of=hour):
        assert batch.to_numpy().shape == (len(batch), 3)
        sizes.append((len(batch), int(batch.label().sum()), str(batch.lineage)))
        batch.commit()
    assert sizes == [(20, 7, "V1.1.0"), (10, 3, "V1.1.0")]
    serve(project, 30, 40)
    project.capture.compact()
    (batch,) = project.training_batches("ranking", "trainer", as_of=hour)
    assert (len(batch), str(batch.lineage)) == (10, "V1.1.1")
    batch.commit()
    (other,) = project.training_batches("ranking", "another", as_of=hour)
    assert len(other) == 40
    said = project.consumers("ranking")
    assert list(said) == ["trainer"]
    assert said["trainer"].taken == 40
    assert said["trainer"].rounds[-1].labels == ("clicked@2024-03-01T13:00:00Z",)


TRAINER = """
import sys
from featurestore import FeatureStore
with FeatureStore(sys.argv[1]) as store:
    for batch in store.training_batches("ranking", "trainer", size=3, as_of="2024-03-01T13:00:00"):
        print("read", *batch.row_ids, flush=True)
        batch.commit()
        print("took", *batch.row_ids, flush=True)
"""


@pytest.mark.slow
def test_a_trainer_that_is_killed_misses_and_repeats_nothing(project: FeatureStore) -> None:
    """Killed at every line it says, in turn: what it took is on disk, what it only read comes again."""
    serve(project)
    read: list[str] = []
    for round in range(200):
        process = subprocess.Popen(
            [sys.executable, "-c", TRAINER, str(project.config.root)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for number, line in enumerate(process.stdout):
            read += line.split()[1:] if line.startswith("took") else []
            if number == 1 + round % 4:
                os.kill(process.pid, signal.SIGKILL)
                break
        process.kill()
        process.wait()
        process.stdout.close()
        state = project.consumers("ranking").get("trainer")
        if state is not None and state.taken == VISITORS:
            break
    # What a commit has written is taken, whether or not there was time to say so; nothing is taken twice.
    state = project.consumers("ranking")["trainer"]
    assert (state.taken, sum(r.rows for r in state.rounds)) == (VISITORS, VISITORS)
    assert all(not len(rows) for rows in state.waiting.values())
    assert len(read) == len(set(read))
