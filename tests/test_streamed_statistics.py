"""Statistics of what a stream wrote: each entity that had an event since the last time counts once, as it was then."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import featurestore as fs
from featurestore import FeatureStore, ir, profiles, recipes
from featurestore.cli import main
from featurestore.errors import StoreCorrupt, Unsupported
from featurestore.lower import lower
from featurestore.online.codec import key_bytes, key_parts
from featurestore.statistics import Statistics
from featurestore.time import DAY, moment

DEFINITIONS = """
import featurestore as fs

card = fs.Entity("card", key="card_id")
purchases = fs.StreamSource(
    "purchases", batch=fs.Parquet("purchases/*.parquet"), stream=fs.Kafka("purchases"), event_time="at",
    event_id="id", arrival_time="at", lateness=fs.hours(1),
    columns={"card_id": fs.String, "id": fs.String, "at": fs.Timestamp, "amount": fs.Float64},
)
spend = fs.FeatureView("spend", card, purchases, [fs.count().over(fs.days(2)), fs.sum("amount").over(fs.days(2))])
static = fs.FeatureView("static", card, fs.BatchSource("cards", fs.Parquet("cards.parquet"), "at"), [fs.latest("kind")])
fraud = fs.FeatureService("fraud", [spend])
"""

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
SCHEMA = pa.schema(
    {"card_id": pa.string(), "id": pa.string(), "at": pa.timestamp("us", "UTC"), "amount": pa.float64()}
)


def bought(card: str, hours: float, amount: float) -> dict[str, Any]:
    at = NOON + timedelta(hours=hours)
    return {"card_id": card, "id": f"{card}{hours}", "at": at, "amount": amount}


FIRST = [bought("a", -3, 5.0), bought("b", -2, 7.0), bought("a", -1, 1.0)]
SECOND = [bought("b", 1, 100.0), bought("c", 2, 20.0)]
NEXT_DAY = [bought("d", 20, 2.0)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    (tmp_path / "fs.toml").write_text('[project]\nname = "cards"\n[offline]\nthreads = 1\n', encoding="utf-8")
    (tmp_path / "definitions.py").write_text(DEFINITIONS, encoding="utf-8")
    at = pa.array([NOON], pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"card_id": ["a"], "at": at, "kind": ["x"]}), tmp_path / "cards.parquet")
    (tmp_path / "purchases").mkdir()
    with FeatureStore(tmp_path) as made:
        made.apply()
        yield made


def take(store: FeatureStore, events: list[dict[str, Any]], *, rest: bool = True) -> None:
    """Events through the stream, and, once the day is over, where they lie at rest."""
    store.push("purchases", events)
    store.run_stream(once=True)
    if rest:
        path = store.config.root / "purchases" / f"{events[0]['id']}.parquet"
        pq.write_table(pa.Table.from_pylist(events, SCHEMA), path)


def seen(found: Statistics) -> dict[int, tuple[int, float | None, float | None]]:
    """By day: how many rows, the mean count, the greatest sum."""
    return {
        start: (part.rows, part["count_2d"].average, part["amount_sum_2d"].maximum) for start, part in found
    }


def day(offset: int) -> int:
    return moment(NOON) // DAY * DAY + offset * DAY


def test_each_entity_that_had_an_event_since_the_last_time_counts_once(store: FeatureStore) -> None:
    take(store, FIRST)
    assert seen(store.streamed_statistics("spend", at=NOON)) == {day(0): (2, 1.5, 7.0)}
    assert seen(store.streamed_statistics("spend", at=NOON)) == {day(0): (2, 1.5, 7.0)}, "nothing came"
    take(store, SECOND)
    found = store.streamed_statistics("spend", at=NOON + timedelta(hours=3))
    assert seen(found) == {day(0): (4, 1.5, 107.0)}  # a and b; then b and c
    take(store, NEXT_DAY)
    found = store.streamed_statistics("spend", at=NOON + timedelta(hours=21))
    assert seen(found) == {day(0): (4, 1.5, 107.0), day(1): (1, 1.0, 2.0)}
    assert seen(store.statistics("spend", origin="stream")) == seen(found)
    with pytest.raises(Unsupported, match="no stream"):
        store.streamed_statistics("static")


def test_after_an_erasure_a_day_is_made_again_of_what_lies_at_rest(store: FeatureStore) -> None:
    take(store, FIRST)
    store.streamed_statistics("spend", at=NOON)
    take(store, SECOND)
    store.streamed_statistics("spend", at=NOON + timedelta(hours=3))
    store.erase("card", {"card_id": "b"})
    assert list(store.stale_statistics("spend")["stream"]) == [day(0)]
    (done,) = store.refresh_statistics("spend")
    assert "are in the stream alone" in done.waits[day(0)], (
        "the newest event at rest is older than the last reading"
    )
    take(store, NEXT_DAY)
    (done,) = store.refresh_statistics("spend")
    assert done.rebuilt == (day(0),)
    assert store.stale_statistics("spend") == {}
    assert seen(store.statistics("spend", origin="stream"))[day(0)] == (2, 1.5, 20.0)  # a; then c


def test_a_monitor_follows_what_was_once_followed_and_drift_is_of_it(store: FeatureStore) -> None:
    file = store.config.root / "definitions.py"
    more = 'import featurestore as fs\nwatch = fs.Monitor("watch", on="spend", checks=[fs.check.drift(min_rows=2)])\n'
    file.write_text(DEFINITIONS + more, encoding="utf-8")
    take(store, FIRST)
    store.streamed_statistics("spend", at=NOON)
    take(store, NEXT_DAY)
    assert store.monitor(at=NOON + timedelta(hours=21)).remarks == ()
    assert store.statistics("spend", origin="stream").starts == [day(0), day(1)]
    report = store.drift("spend", at=NOON + timedelta(hours=36))
    assert report.notes == ("stream statistics of 'spend'",)


def test_another_meaning_begins_anew_and_unknown_progress_adds_nothing_twice(store: FeatureStore) -> None:
    take(store, FIRST)
    store.streamed_statistics("spend", at=NOON)
    path = profiles.path_of(store.config, "spend", "stream")
    path.with_suffix(".recipe.json").unlink()  # as if killed between the two
    assert recipes.read(path).reached is None
    take(store, SECOND)
    found = store.streamed_statistics("spend", at=NOON + timedelta(hours=3))
    assert seen(found) == {day(0): (2, 1.5, 7.0)}
    take(store, NEXT_DAY)
    found = store.streamed_statistics("spend", at=NOON + timedelta(hours=21))
    assert found.starts == [day(0), day(1)]
    file = store.config.root / "definitions.py"
    file.write_text(DEFINITIONS.replace("fs.count().over(fs.days(2)), ", ""), encoding="utf-8")
    with FeatureStore(store.config.root) as other:
        other.apply()
        other.run_stream(once=True)
        found = other.streamed_statistics("spend", at=NOON + timedelta(hours=22))
    assert list(found.columns) == ["amount_sum_2d"]


def test_the_command_follows_and_shows(store: FeatureStore, capsys: pytest.CaptureFixture[str]) -> None:
    take(store, FIRST)
    place = ["--project", str(store.config.root)]
    assert main([*place, "--json", "stats", "spend", "--stream", "--at", NOON.isoformat()]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [(f["feature"], f["rows"]) for f in said["features"]] == [("count_2d", 2), ("amount_sum_2d", 2)]


KEYS = {"n": fs.Int64, "text": fs.String}


def view_of(*keys: str) -> ir.View:
    source = fs.BatchSource(
        "s", fs.Parquet("s.parquet"), "at", columns={**KEYS, "m": fs.Int64, "at": fs.Timestamp}
    )
    entity = fs.Entity("e", keys=keys)
    view = fs.FeatureView("v", entity, source, [fs.count().over(fs.days(1))])
    return lower([entity, source, view], lambda _: {}).views[0]


@given(n=st.integers(-(2**63), 2**63 - 1), m=st.integers(-(2**63), 2**63 - 1), text=st.text(max_size=300))
def test_the_parts_of_a_key_come_back(n: int, m: int, text: str) -> None:
    values: dict[str, int | str] = {"n": n, "m": m, "text": text}
    for keys in (("n",), ("text",), ("n", "m"), ("text", "n"), ("n", "text")):
        parts = tuple(values[k] for k in keys)
        assert key_parts(view_of(*keys), key_bytes(view_of(*keys), parts)) == parts


def test_bytes_that_are_no_key_are_said() -> None:
    for view, raw in (
        (view_of("n"), b"1234"),
        (view_of("text"), b"\xff"),
        (view_of("text", "n"), b"\x05\0\0\0ab"),
    ):
        with pytest.raises(StoreCorrupt, match=r"does not decode|at least"):
            key_parts(view, raw)
