"""What was served, as rows to train on: values bit for bit, labels as they mature, batches that survive a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from featurestore.cli.app import main
from featurestore.errors import DatasetError, NotFound, RequestError

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


def test_batches_come_as_they_mature_and_once(
    project: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
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
    last = said["trainer"].rounds[-1]
    assert (last.labels, last.service) == (("clicked@2024-03-01T13:00:00Z",), "ranking@1")
    assert last.fingerprint == project.registry.service("ranking").fingerprint
    assert batch.manifest["lineage"] == "V1.1.1"
    assert batch.manifest["digest"] == last.digest != said["trainer"].rounds[0].digest
    shown = ["consumers", "ranking", "--project", str(project.config.root)]
    assert main(shown) == 0
    assert "V1.1.1" in capsys.readouterr().out
    assert main([*shown, "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["consumers"].values()
    assert (one["taken"], one["waiting"], len(one["rounds"])) == (40, 0, 2)


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


# ---------------------------------------------------------------------------------------------------------------- bootstrap


def spine(visitors: list[int], **more: list[object]) -> dict[str, list[object]]:
    moments: list[object] = [NOON] * len(visitors)
    rows: dict[str, list[object]] = {"visitor_id": list(visitors), "event_timestamp": moments}
    rows |= {"session_id": [f"s{v}" for v in visitors], "position": [v % 5 for v in visitors]}
    return rows | more


def other_prices(store: FeatureStore) -> None:
    """The source as it is after a correction: what was served is no longer what a backfill gives."""
    path = store.config.root / "clicks.parquet"
    table = pq.read_table(path)
    prices = pa.array([100.0 + i for i in range(table.num_rows)])
    pq.write_table(table.set_column(table.column_names.index("price"), "price", prices), path)


def test_a_bootstrapped_set_has_what_was_served_and_fills_the_holes(
    project: FeatureStore, tmp_path: Path
) -> None:
    served = serve(project, 0, 5)
    other_prices(project)
    rows = spine([3, 0, 7, 99])
    made = project.get_historical_features(
        rows, "ranking", as_of=NOON + timedelta(hours=2), bootstrap_from_log=True
    )
    found = made.to_arrow()
    plain = project.get_historical_features(rows, "ranking", as_of=NOON + timedelta(hours=2)).to_arrow()
    assert found.column_names == [
        *rows,
        *("count_1h", "price_mean_6h", "position_1"),
        *("activity__from", "position_1__from"),
        *("clicked", "clicked__state", "is_mature"),
    ]
    assert found["activity__from"].to_pylist() == ["log", "log", "backfill", "default"]
    assert found["position_1__from"].to_pylist() == ["log", "log", "backfill", "backfill"]
    price = found["price_mean_6h"].to_pylist()
    assert price[:2] == [served["price_mean_6h"][3], served["price_mean_6h"][0]]
    assert price[2:] == plain["price_mean_6h"].to_pylist()[2:]
    assert price[0] != plain["price_mean_6h"].to_pylist()[0]
    assert found["clicked"].to_pylist() == [True, True, False, False]
    made.to_parquet(tmp_path / "set")
    again = project.reproduce(tmp_path / "set", tmp_path / "again")
    assert again.identical


def test_a_row_is_found_by_its_id_or_by_all_that_was_asked(project: FeatureStore) -> None:
    serve(project, 0, 5)
    ids = project.get_logged_features("ranking", labelled=False).to_arrow()
    by_visitor = dict(zip(ids["visitor_id"].to_pylist(), ids["row_id"].to_pylist(), strict=True))

    def places(rows: dict[str, list[object]]) -> list[str]:
        made = project.get_historical_features(rows, "ranking", labelled=False, bootstrap_from_log=True)
        return made.to_arrow()["activity__from"].to_pylist()

    assert places(spine([1, 2], row_id=[by_visitor[1], "unknown-0"])) == ["log", "backfill"]
    asked_otherwise = spine([1, 2]) | {"position": [1, 4]}
    assert places(asked_otherwise) == ["log", "backfill"]
    later = spine([1]) | {"event_timestamp": [NOON + timedelta(microseconds=1)]}
    assert places(later) == ["backfill"]


def test_a_feature_that_was_not_served_yet_is_backfilled_beside_those_that_were(
    project: FeatureStore,
) -> None:
    serve(project, 0, 2)
    longer = 'slow = fs.FeatureView("slow", visitor, clicks, [mean("price").over(hours(3))])\nranking'
    text = DEFINITIONS.replace("ranking", longer, 1).replace("position],", "position, slow],")
    (project.config.root / "definitions.py").write_text(text, encoding="utf-8")
    project.apply()
    found = project.get_historical_features(
        spine([1]), "ranking", labelled=False, bootstrap_from_log=True
    ).to_arrow()
    assert (found["activity__from"][0].as_py(), found["slow__from"][0].as_py()) == ("log", "backfill")
    assert found["price_mean_3h"].null_count == 0


def test_what_cannot_be_bootstrapped_is_refused(project: FeatureStore) -> None:
    refused: list[Any] = [{"statuses": True}, {"full_names": True}]
    for wrong in refused:
        with pytest.raises(RequestError, match="bootstrap_from_log"):
            project.get_historical_features(spine([1]), "ranking", bootstrap_from_log=True, **wrong)
    nothing = project.get_historical_features(
        spine([1]), "ranking", labelled=False, bootstrap_from_log=True
    ).to_arrow()
    assert nothing["activity__from"].to_pylist() == ["backfill"]  # nothing was captured yet


# --------------------------------------------------------------------------------------------------------------- comparison

TRIAL = """
import featurestore as fs
from definitions import clicks, page, position, visitor
from featurestore import count, hours, mean

dear = mean("price").where(fs.col("price") > 1).over(hours(6)).named("price_mean_6h")
tried = fs.FeatureView("tried", visitor, clicks, [count().over(hours(1)), dear, count().over(hours(2))])
trial = fs.FeatureService("trial", [tried, position])
"""


def test_two_versions_are_compared_on_what_was_asked(
    project: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    served = serve(project)
    (project.config.root / "trial.py").write_text(TRIAL, encoding="utf-8")
    project.apply()
    found = project.compare("ranking@1", "trial", predict=lambda rows: rows["count_1h"].to_numpy() / 10)
    assert (found.rows, found.same) == (VISITORS, False)
    assert (found.only_in_first, found.only_in_second) == ((), ("count_2h",))
    by_name = {f.feature: f for f in found.features}
    assert {n for n, f in by_name.items() if f.differing} == {"price_mean_6h"}
    price = by_name["price_mean_6h"]
    cheap = sum(v is not None and v <= 1 for v in served["price_mean_6h"])  # type: ignore[operator]
    assert (price.differing, price.lost, price.gained, price.skewed) == (cheap, cheap, 0, 0)
    assert price.examples[0][1:] == (served["price_mean_6h"][0], None)
    assert found.predictions is not None
    assert (found.predictions.mean_absolute, found.predictions.flipped) == (0.0, 0)
    assert found.start == found.end == int(NOON.timestamp()) * 1_000_000

    few = project.compare("ranking", "trial", sample=7)
    assert few.rows == 7
    assert project.compare("ranking", "trial", sample=7).features == few.features
    assert main(["compare", "ranking@1", "ranking@1", "--project", str(project.config.root)]) == 0
    assert main(["compare", "ranking@1", "trial", "--json", "--project", str(project.config.root)]) == 1
    assert '"same": false' in capsys.readouterr().out


def test_what_was_served_otherwise_is_skew_and_no_change(project: FeatureStore) -> None:
    serve(project)
    other_prices(project)
    found = project.compare("ranking", "ranking")
    assert found.same
    assert {f.feature: f.skewed for f in found.features} == {
        "count_1h": 0,
        "price_mean_6h": VISITORS,
        "position_1": 0,
    }
    assert "had served something else than it computes now: price_mean_6h 40 rows" in str(found)


def test_nothing_captured_is_nothing_to_compare(project: FeatureStore) -> None:
    with pytest.raises(NotFound, match="captured service"):
        project.compare("ranking", "ranking")
    serve(project, 0, 3)
    with pytest.raises(RequestError, match="nothing was captured of 'ranking' in that time"):
        project.compare("ranking", "ranking", start=NOON + timedelta(days=1))
    with pytest.raises(RequestError, match=r"predictions of shape \(1,\) for 3 rows"):
        project.compare("ranking", "ranking", predict=lambda _: [1.0])


# -------------------------------------------------------------------------------------------------------- labels that came back


def test_labels_that_came_back_join_by_row_and_stand_before_the_computed_ones(project: FeatureStore) -> None:
    served = project.get_online_features(
        "ranking",
        {"visitor_id": [0, 1, 2]},
        request={"position": [0, 0, 0]},
        at=NOON,
        context={"session_id": ["s0", "s1", "s2"]},
    )
    project.capture.flush()
    hour = NOON + timedelta(hours=1)
    bought = {"value": True, "source": "till", "confidence": 0.75}
    project.capture.labels(served.row_ids[:2], [bought, False], name="bought", at=hour)
    project.capture.labels(served.row_ids[1:2], [True], name="clicked", at=hour)

    own = project.get_logged_features("ranking", as_of=hour).to_arrow()
    assert own["clicked"].to_pylist() == [True, True, False]
    assert own["clicked__source"].to_pylist() == ["computed", "uploaded", "computed"]
    assert "bought" not in own.column_names

    both = project.get_logged_features("ranking", labels=["clicked", "bought"], as_of=hour, immature="keep")
    table = both.to_arrow()
    assert both.label_names == ["clicked", "bought"]
    assert table["bought"].to_pylist() == [True, False, None]
    assert table["bought__state"].to_pylist() == ["MATURE", "MATURE", "IMMATURE"]
    assert table["bought__source"].to_pylist() == ["till", "uploaded", None]
    assert table["bought__confidence"].to_pylist() == [0.75, None, None]
    assert table["is_mature"].to_pylist() == [True, True, False]

    early = project.get_logged_features("ranking", labels=["bought"], as_of=NOON, immature="keep").to_arrow()
    assert early["bought"].null_count == 3  # it had not come to pass
    with pytest.raises(NotFound, match="no label 'bouht'"):
        project.get_logged_features("ranking", labels=["bouht"]).to_arrow()


def test_a_service_without_labels_has_those_that_came_back(project: FeatureStore) -> None:
    text = DEFINITIONS.replace("label=clicked, ", "")
    (project.config.root / "definitions.py").write_text(text, encoding="utf-8")
    project.apply()
    served = serve(project, 0, 3)
    assert len(served["count_1h"]) == 3
    rows = project.get_logged_features("ranking").to_arrow()
    assert "is_mature" not in rows.column_names
    with pytest.raises(RequestError, match="has no label, and none came back yet"):
        project.training_batches("ranking", "trainer", as_of=NOON)
    project.capture.labels(rows["row_id"].to_pylist()[:2], [1, 0.5], name="stars", at=NOON)
    (batch,) = project.training_batches("ranking", "trainer", as_of=NOON)
    assert batch.label("stars").tolist() == [1.0, 0.5]
    batch.commit()
    project.capture.labels(rows["row_id"].to_pylist()[2:], [0.25], name="stars", at=NOON)
    (batch,) = project.training_batches("ranking", "trainer", as_of=NOON)
    assert batch.label().tolist() == [0.25]


def test_values_of_another_type_than_the_label_are_refused(project: FeatureStore) -> None:
    serve(project, 0, 2)
    ids = project.get_logged_features("ranking", labelled=False).to_arrow()["row_id"].to_pylist()
    project.capture.labels(ids, ["yes", "no"], name="clicked", at=NOON)
    with pytest.raises(DatasetError, match="came back as 'clicked' is not Bool"):
        project.get_logged_features("ranking", as_of=NOON).to_arrow()
