"""Kept statistics follow their data: what is served is added by time, what was erased or repaired is made again by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore, profiles, recipes
from featurestore.cli import main
from featurestore.errors import NotFound, StatisticsError
from featurestore.logged import Logged
from featurestore.statistics import Statistics, Summary
from featurestore.time import DAY, HOUR, moment

DEFINITIONS = """
import featurestore as fs
from featurestore import Alert, Capture, Monitor, check, count, days, hours, mean

visitor = fs.Entity("visitor", key="visitor_id")
clicks = fs.BatchSource("clicks", fs.Parquet("clicks.parquet"), "clicked_at")
activity = fs.FeatureView("activity", visitor, clicks, [count().over(hours(6)), mean("price").over(hours(6))])
ranking = fs.FeatureService("ranking", [activity], capture=Capture())
served = Monitor(
    "served", on=ranking, window=days(1), baseline="training", checks=[check.drift(min_rows=30)],
    alerts=[Alert("drift", channels=["log"])],
)
"""

FIRST = datetime(2024, 3, 1, 12, tzinfo=UTC)
DAYS = 4
VISITORS = 60


def clicks(price: float = 1.0) -> pa.Table:
    """On each of four days every visitor clicks once in the morning, for a price of its own."""
    rows = [(v, FIRST + timedelta(days=d, minutes=-1 - v)) for d in range(DAYS) for v in range(VISITORS)]
    return pa.table(
        {
            "visitor_id": [v for v, _ in rows],
            "clicked_at": [at for _, at in rows],
            "price": [price + v / 10 for v, _ in rows],
        }
    )


def noon(day: int) -> datetime:
    return FIRST + timedelta(days=day)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    (tmp_path / "fs.toml").write_text(
        '[project]\nname = "clicks"\n[offline]\nthreads = 1\n', encoding="utf-8"
    )
    (tmp_path / "definitions.py").write_text(DEFINITIONS, encoding="utf-8")
    pq.write_table(clicks(), tmp_path / "clicks.parquet")
    with FeatureStore(tmp_path) as made:
        made.apply()
        yield made


def serve(store: FeatureStore, day: int, visitors: int = VISITORS) -> None:
    """What every visitor has at noon of a day, materialised until then."""
    store.materialize(end=noon(day))
    store.get_online_features("ranking", {"visitor_id": list(range(visitors))}, at=noon(day))
    store.capture.flush()


def plain(summary: Summary | None) -> Any:
    """What of a summary no random number is in."""
    assert summary is not None
    return [(f.rows, f.nulls, f.count, f.average, f.variance, f.minimum, f.maximum) for f in summary]


def by_day(found: Statistics) -> dict[int, Any]:
    return {start: plain(part) for start, part in found}


def start_of(day: int) -> int:
    return moment(noon(day)) // DAY * DAY


def test_what_is_served_is_added_by_day_and_nothing_is_read_twice(store: FeatureStore) -> None:
    with pytest.raises(NotFound):
        store.served_statistics("ranking")
    serve(store, 0)
    assert by_day(store.served_statistics("ranking")).keys() == {start_of(0)}
    store.served_statistics("ranking")  # nothing came
    for day in (1, 2):
        serve(store, day, 10 * day)
    log = store.capture.log
    before = recipes.read(profiles.path_of(store.config, "ranking", "served")).cursor
    assert before == {f.schema.fingerprint: VISITORS for f in log.folders("ranking")}
    found = store.served_statistics("ranking")
    assert [part["count_6h"].rows for _, part in found] == [VISITORS, 10, 20]
    whole = Statistics(found.columns)
    whole.update(store.get_logged_features("ranking", labelled=False).to_arrow(), "event_timestamp")
    assert by_day(found) == by_day(whole)
    store.capture.compact()  # rows move from the log into files: none comes twice
    assert by_day(store.served_statistics("ranking")) == by_day(whole)
    hourly = store.served_statistics("ranking", hourly=True)
    assert hourly.starts == [moment(noon(d)) // HOUR * HOUR for d in range(3)]
    assert plain(hourly.total()) == plain(whole.total())


def test_a_service_that_means_something_else_is_read_anew(store: FeatureStore) -> None:
    serve(store, 0)
    store.served_statistics("ranking")
    file = store.config.root / "definitions.py"
    more = 'mean("price").over(hours(6)), fs.max("price")'
    file.write_text(DEFINITIONS.replace('mean("price")', more), encoding="utf-8")
    with FeatureStore(store.config.root) as other:
        other.apply()
        serve(other, 1)
        found = other.served_statistics("ranking")
        assert list(found.columns) == ["count_6h", "price_mean_6h", "price_max_6h"]
        old, new = (part for _, part in found)
        assert old["count_6h"].count == new["count_6h"].count == VISITORS
        assert (old["price_max_6h"].unread, old["price_max_6h"].nulls) == (VISITORS, 0), (
            "what was not served is no NULL"
        )
        assert new["price_max_6h"].count == VISITORS


def test_an_erasure_marks_the_days_it_touched_and_they_are_made_again_exactly(store: FeatureStore) -> None:
    for day in range(3):
        serve(store, day, VISITORS if day != 1 else 5)
    before = by_day(store.served_statistics("ranking"))
    receipt = store.erase("visitor", {"visitor_id": 40})
    assert receipt.done
    assert store.stale_statistics("ranking")["served"].keys() == {start_of(0), start_of(2)}
    assert [(s.place, s.yours) for s in receipt.stays if s.place.startswith("statistics of")] == [
        ("statistics of ranking", False)
    ]
    (done,) = store.refresh_statistics("ranking")
    assert (done.origin, done.rows, done.rebuilt, done.waits) == (
        "served",
        -2,
        (start_of(0), start_of(2)),
        {},
    )
    assert store.stale_statistics("ranking") == {}
    after = by_day(store.statistics("ranking", origin="served"))
    assert after[start_of(1)] == before[start_of(1)]
    rows = store.get_logged_features("ranking", labelled=False).to_arrow()
    whole = Statistics(store.statistics("ranking").columns)
    whole.update(rows, "event_timestamp")
    assert after == by_day(whole)
    assert after != before
    serve(store, 3, 7)
    assert store.served_statistics("ranking").total().rows == rows.num_rows + 7


def test_rows_that_come_while_days_are_made_again_count_once(store: FeatureStore) -> None:
    serve(store, 0)
    store.served_statistics("ranking")
    store.erase("visitor", {"visitor_id": 3})
    serve(store, 0, 20)  # of the marked day, after what was read
    found = store.served_statistics("ranking")
    assert found.total().rows == VISITORS - 1 + 20
    assert store.served_statistics("ranking").total().rows == VISITORS - 1 + 20


def training(store: FeatureStore) -> Path:
    """Statistics of a training set out of a file, kept with their file."""
    path = store.config.root / "spine.parquet"
    rows = [(v, noon(d)) for d in range(DAYS) for v in range(VISITORS)]
    pq.write_table(pa.table({"visitor_id": [v for v, _ in rows], "asked": [at for _, at in rows]}), path)
    made = store.get_historical_features(path, "ranking", timestamp="asked").statistics()
    store.keep_statistics("ranking", made, spine=path, timestamp="asked")
    return path


def of_now(store: FeatureStore, path: Path) -> dict[int, Any]:
    return by_day(store.get_historical_features(path, "ranking", timestamp="asked").statistics())


def test_a_repair_makes_the_days_of_a_training_set_again_that_it_reaches(store: FeatureStore) -> None:
    store.materialize(end=noon(3))
    path = training(store)
    before = by_day(store.statistics("ranking"))
    mended = clicks().to_pandas()
    wrong = (mended["clicked_at"] > noon(1) - timedelta(hours=3)) & (mended["clicked_at"] < noon(1))
    mended.loc[wrong, "price"] += 100
    pq.write_table(pa.Table.from_pandas(mended, preserve_index=False), store.config.root / "clicks.parquet")
    # The six hours after the repaired ones reach into the day after.
    repaired = (noon(1) - timedelta(hours=3), noon(1) + timedelta(hours=6))
    store.materialize(*repaired, replace=True, reason="prices of the second day")
    marked = store.stale_statistics("ranking")["training"]
    assert marked == dict.fromkeys((start_of(1), start_of(2)), "repaired: prices of the second day")
    (done,) = store.refresh_statistics("ranking")
    assert done.rebuilt == (start_of(1), start_of(2))
    after = by_day(store.statistics("ranking"))
    assert after == of_now(store, path)
    assert {start for start in after if after[start] != before[start]} == {start_of(1)}


def test_an_erasure_takes_an_entity_out_of_training_and_materialized_statistics(store: FeatureStore) -> None:
    at = noon(3)
    store.materialize(end=at)
    path = training(store)
    made = store.materialized_statistics("activity", at=at)
    store.keep_statistics("activity", made, origin="materialized", at=at)
    assert made.total()["count_6h"].count == VISITORS
    store.erase("visitor", {"visitor_id": 59})  # of the greatest price
    assert store.stale_statistics("ranking")["training"].keys() == {start_of(d) for d in range(DAYS)}
    assert store.monitor(at=at + timedelta(days=1)).remarks == ()
    assert store.stale_statistics("ranking") == store.stale_statistics("activity") == {}
    found = store.statistics("ranking")
    assert by_day(found) == of_now(store, path)
    assert found.total()["price_mean_6h"].maximum == pytest.approx(1 + 5.8)
    online = store.statistics("activity", origin="materialized").total()["count_6h"]
    assert online.count == VISITORS - 1


def test_values_of_a_past_moment_are_made_again_from_history(store: FeatureStore) -> None:
    at = noon(1)
    store.materialize(end=at)
    made = store.materialized_statistics("activity", at=at)
    store.keep_statistics("activity", made, origin="materialized", at=at)
    store.materialize(end=noon(3))  # the store holds newer values by now
    store.erase("visitor", {"visitor_id": 0})
    (done,) = store.refresh_statistics("activity")
    assert done.rebuilt == (start_of(1),)
    now = store.statistics("activity").total()["count_6h"]
    assert (now.count, now.average) == (VISITORS - 1, made.total()["count_6h"].average)


def test_what_cannot_be_made_again_stays_marked_and_says_why(store: FeatureStore) -> None:
    store.materialize(end=noon(3))
    path = training(store)
    pq.write_table(pq.read_table(path).slice(0, 100), path)
    kept = by_day(store.statistics("ranking"))
    store.erase("visitor", {"visitor_id": 1})
    (done,) = store.refresh_statistics("ranking")
    assert done.rebuilt == ()
    assert set(done.waits) == {start_of(d) for d in range(DAYS)}
    assert "is another file than it was made of" in done.waits[start_of(0)]
    assert by_day(store.statistics("ranking")) == kept
    store.refresh_statistics("ranking")
    (why,) = set(store.stale_statistics("ranking")["training"].values())
    assert why.startswith("erasure ")
    assert why.count("another file") == 1
    assert any("4 partitions are stale" in r for r in store.monitor(at=noon(4)).remarks)
    made = store.get_historical_features(path, "ranking", timestamp="asked").statistics()
    store.keep_statistics("ranking", made)
    assert store.stale_statistics("ranking") == {}, "what is kept anew is of the data there is"
    receipt = store.erase("visitor", {"visitor_id": 2})
    said = [s for s in receipt.stays if s.place == "statistics of ranking"]
    assert [s.yours for s in said] == [True]
    assert "is not known" in said[0].what
    with pytest.raises(StatisticsError, match="no statistics"):
        store.refresh_statistics("activity")


def test_a_mark_that_is_set_while_days_are_made_again_stays(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(store, 0)
    store.served_statistics("ranking")
    store.erase("visitor", {"visitor_id": 9})
    reading = Logged.read

    def read(logged: Logged, after: Any) -> Any:
        profiles.mark(store.config, ["ranking"], ("served",), "erasure of another")
        yield from reading(logged, after)

    with monkeypatch.context() as patch:
        patch.setattr(Logged, "read", read)
        store.served_statistics("ranking")
    assert list(store.stale_statistics("ranking")["served"].values()) == ["erasure of another"]
    store.refresh_statistics("ranking")
    assert store.stale_statistics("ranking") == {}


def test_a_process_killed_between_statistics_and_recipe_reads_all_anew(store: FeatureStore) -> None:
    serve(store, 0)
    found = store.served_statistics("ranking")
    path = profiles.path_of(store.config, "ranking", "served")
    beside = path.with_suffix(".recipe.json")
    of_before = beside.read_bytes()
    serve(store, 1, 12)
    want = store.served_statistics("ranking").total().rows
    beside.write_bytes(of_before)  # as if the newer one had not been written
    assert store.served_statistics("ranking").total().rows == want == found.total().rows + 12
    path.write_bytes(b"\x00cut")
    assert store.served_statistics("ranking").total().rows == want


def test_drift_of_what_is_served_beside_training_is_found_by_day_and_told_once(
    store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    training(store)
    for day in (1, 2):
        serve(store, day)
    calm = store.monitor(at=start_of(3))
    assert [f.state for f in calm.findings if f.condition == "drift"] == ["ok", "ok"]
    pq.write_table(clicks(price=9.0), store.config.root / "clicks.parquet")
    serve(store, 3)
    moved = store.monitor(at=start_of(4))
    assert [(a.subject, a.state) for a in moved.firing] == [("price_mean_6h", "firing")]
    later = store.monitor(at=start_of(4) + HOUR)
    assert [ran.delivered.sent for ran in (calm, moved, later)] == [0, 1, 0]
    root = str(store.config.root)
    capsys.readouterr()
    assert main(["-C", root, "stats", "ranking", "--served", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["rows"], said["stale"]) == (3 * VISITORS, {})
    asked = ["drift", "ranking", "--window", "1d", "--baseline", "training", "--min-rows", "30", "--json"]
    assert main(["-C", root, *asked]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [f["feature"] for f in report["features"] if f["verdict"] == "drifted"] == ["price_mean_6h"]


def test_the_command_says_what_is_stale_and_makes_it_again(
    store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(store.config.root)
    store.materialize(end=noon(3))
    training(store)
    spine = str(store.config.root / "spine.parquet")
    assert main(["-C", root, "stats", "ranking", "--spine", spine, "--timestamp", "asked"]) == 0
    store.erase("visitor", {"visitor_id": 5})
    capsys.readouterr()
    assert main(["-C", root, "stats", "ranking"]) == 0
    assert "4 partitions of training rows are stale (erasure " in capsys.readouterr().out
    assert main(["-C", root, "stats", "ranking", "--refresh", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["stale"] == {}
    assert [len(r["rebuilt"]) for r in said["refreshed"]] == [DAYS]
