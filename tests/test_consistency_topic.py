"""Events that go through a topic and name no arrivals: their records are stamped, and say what had come when a row was served."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from tests.services import free_port
from tests.test_kafka import topic_of

pytestmark = pytest.mark.kafka

DEFINITIONS = """
import featurestore as fs

paid = fs.StreamSource(
    "paid", fs.Parquet("paid.parquet"), fs.Kafka("{topic}", bootstrap="${{BROKERS}}"), event_time="at", event_id="id",
    columns={{"id": fs.Int64, "card": fs.Int64, "at": fs.Timestamp}}, lateness=fs.hours(1),
)
card = fs.Entity("card", key="card")
spend = fs.FeatureView("spend", card, paid, [fs.count().over(fs.hours(6)).named("n")])
credit = fs.FeatureService("credit", [spend], capture=fs.Capture())
"""

Event = dict[str, Any]


def rest(root: Path, events: list[Event]) -> None:
    columns = [("id", pa.int64()), ("card", pa.int64()), ("at", pa.timestamp("us", "UTC"))]
    pq.write_table(pa.Table.from_pylist(events, pa.schema(columns)), root / "paid.parquet")


def test_a_late_record_of_a_topic_is_known_by_its_stamp(
    tmp_path: Path, kafka_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)  # brokers soon remove what is stamped years ago

    def event(number: int, ago: float) -> Event:
        return {"id": number, "card": 7, "at": now - timedelta(minutes=ago)}

    monkeypatch.setenv("BROKERS", kafka_address)
    (tmp_path / "fs.toml").write_text(
        '[offline]\nthreads = 1\n[stream]\nevents = "kafka"\n', encoding="utf-8"
    )
    text = DEFINITIONS.format(topic=topic_of(kafka_address))
    (tmp_path / "definitions.py").write_text(text, encoding="utf-8")
    events = [event(1, 90), event(2, 30)]
    rest(tmp_path, events)
    with FeatureStore(tmp_path) as store:
        store.apply()
        for one, ago in zip(events, (89, 29), strict=True):
            store.push("paid", [one], at=now - timedelta(minutes=ago))
        store.materialize(end=now)
        read = store.get_online_features("credit", {"card": [7]}, at=now)
        store.capture.flush()
        assert read.to_dict() == {"n": [2]}
        assert store.verify_logged("credit").same

        tampered(store, 9)
        with monkeypatch.context() as away:
            away.setenv("BROKERS", f"127.0.0.1:{free_port()}")
            blind = store.verify_logged("credit")
        assert blind.causes == {"unexplained": 1}
        (example,) = blind.features[0].examples
        assert example.note.startswith("what was pushed to 'paid' is not known: no Kafka broker answers")

        late = event(3, 60)  # between those that had come
        store.push("paid", [late], at=now + timedelta(minutes=1))
        rest(tmp_path, [*events, late])
        report = store.verify_logged("credit")
        assert report.causes == {"late_event": 1, "external": 1}, str(report)
        told = {e.row_id: (e.cause, e.note) for e in report.features[0].examples}
        assert told[read.row_ids[0]] == ("late_event", "what had arrived by the moment asked for")
        assert told["tampered-0"][1].startswith("paid.parquet was written again at ")


def tampered(store: FeatureStore, value: int) -> None:
    """Captures the row once more, as `tampered-0`, with another value."""
    (rows,) = list(store.capture.rows("credit"))
    table = rows.table.drop_columns(["row_id", "__offset", "__appended_at"])
    for name, new in (("feature:n", value), ("request_id", "tampered")):
        column = pa.array([new], table.schema.field(name).type)
        table = table.set_column(table.column_names.index(name), name, column)
    (folder,) = store.capture.log.folders("credit")
    with folder.open() as log:
        log.append(table, 1)
