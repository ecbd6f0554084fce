"""A compiled job between real topics: what it writes is what DuckDB makes of the same events."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from featurestore import declare as d
from featurestore.compile.flink_job import Query, job_of, topic_prefix, wire_of
from featurestore.compile.programs import programs
from featurestore.compile.sources import Connection, connect
from featurestore.declare import declarations_in
from featurestore.layout import layout_of
from featurestore.lower import lower
from featurestore.time import HOUR, SECOND, hours, minutes
from featurestore.types import DType, Float64, Int64, String, Timestamp
from tests.flink_broker import JARS, broker
from tests.flink_cluster import BUILT, Flink, with_options
from tests.flink_records import key_of, partition_of, read
from tests.parity.cases import Case
from tests.parity.engines import World, declared, physical, write
from tests.services import MISSING
from tests.test_flink_tiles import Cells, compare, payload, tiles_in_duckdb

pytestmark = [pytest.mark.flink, pytest.mark.slow]

COLUMNS: dict[str, DType] = {
    "card": String, "id": String, "at": Timestamp, "came": Timestamp, "amount": Int64, "x": Float64, "shop": String,
}  # fmt: skip
START = 1_700_000_000 * SECOND
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Topics:
    """A driver of its own, whose jobs end with it, and the address of a broker."""

    flink: Flink
    address: str

    def send(self, topic: str, lines: Sequence[str]) -> None:
        """Writes a record for each line."""
        path = self.flink.path(".lines")
        path.write_text("".join(f"{line}\n" for line in lines))
        tables = {
            "lines": {"connector": "filesystem", "path": path.as_uri(), "format": "raw"},
            "topic": {
                "connector": "kafka",
                "topic": topic,
                "properties.bootstrap.servers": self.address,
                "format": "raw",
            },
        }
        statements = [
            f"CREATE TEMPORARY TABLE `{name}` (payload BYTES) WITH ({with_options(some)})"
            for name, some in tables.items()
        ]
        self.flink.submit(
            {
                "statements": statements,
                "inserts": ["INSERT INTO `topic` SELECT payload FROM `lines`"],
                "wait": True,
            }
        )

    def _bounded(self, topic: str, **more: str) -> str:
        options = {
            "connector": "kafka",
            "topic": topic,
            "properties.bootstrap.servers": self.address,
            "scan.startup.mode": "earliest-offset",
            "scan.bounded.mode": "latest-offset",
            **more,
        }
        return f"WITH ({with_options(options)})"

    def records(self, topic: str) -> list[tuple[int, bytes, bytes]]:
        """The partition, key and value of each record of a topic, in the order of its partition."""
        columns = (
            "`key` BYTES, `value` BYTES, `partition` INT METADATA VIRTUAL, `offset` BIGINT METADATA VIRTUAL"
        )
        formats = {
            "key.format": "raw", "key.fields": "key", "value.format": "raw", "value.fields-include": "EXCEPT_KEY",
        }  # fmt: skip
        table = f"CREATE TEMPORARY TABLE `records` ({columns}) {self._bounded(topic, **formats)}"
        (rows,) = self.flink.run([("SELECT * FROM `records`", 0)], [table])
        rows.sort(key=lambda row: row["offset"])
        return [(row["partition"], octets(row["key"]), octets(row["value"])) for row in rows]

    def letters(self, topic: str) -> list[dict[str, Any]]:
        """The dead letters of a topic."""
        columns = "`reason` STRING, `detail` STRING, `event_time` BIGINT, `payload` BYTES"
        table = f"CREATE TEMPORARY TABLE `letters` ({columns}) {self._bounded(topic, format='json')}"
        (rows,) = self.flink.run([("SELECT * FROM `letters`", 0)], [table])
        return rows


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topics]:
    if not (BUILT.exists() and JARS.is_dir()):
        pytest.skip(f"{MISSING}Flink and a broker: make -C streaming")
    folder = tmp_path_factory.mktemp("kafka")
    with broker(folder) as address, Flink(folder) as flink:
        yield Topics(flink, address)


@pytest.fixture(scope="module")
def con() -> Iterator[Connection]:
    connection = connect(threads=1)
    yield connection
    connection.close()


def events(first: int, count: int) -> list[dict[str, Any]]:
    """Events of a few cards over some hours; each id once."""
    return [
        {
            "card": f"c{i % 5}",
            "id": f"e{i}",
            "at": START + (i * 7919 % (6 * 3600)) * SECOND,
            "came": START + (i * 7919 % (6 * 3600)) * SECOND + (i % 9) * SECOND,
            "amount": i * 1_000_003 % 1000 - 500 + 2**40 * (i % 3),
            "x": (i % 17) / 8 + 1e6,
            "shop": None if i % 4 == 0 else f"s{i % 7}",
        }
        for i in range(first, first + count)
    ]


def test_tiles_of_a_topic_are_those_of_duckdb(topics: Topics, con: Connection, tmp_path: Path) -> None:
    features = [
        d.count().over(hours(1)),
        d.sum("amount").over(hours(1), hours(20)),
        d.var_pop("x").over(hours(1)),
        d.last("shop").over(hours(20)),
        d.count_distinct("shop").over(hours(20)),
    ]
    source = d.StreamSource(
        "purchases", batch=d.Parquet("events.parquet"), stream=d.Kafka("purchases", bootstrap=topics.address),
        event_time="at", arrival_time="came", event_id="id", lateness=minutes(10), columns=COLUMNS,
    )  # fmt: skip
    entity = d.Entity("card", key="card")
    declarations = declarations_in(
        [d.FeatureService("svc", [d.FeatureView("spend", entity, source, features)])]
    )
    plan = lower(declarations, declared)
    view = plan.view("spend")

    good = events(0, 400)
    late = {**events(1000, 1)[0], "came": START + 12 * HOUR}
    future = {**events(1001, 1)[0], "came": START - HOUR}
    keyless = {**events(1002, 1)[0], "card": None}
    lines = [payload(e, COLUMNS) for e in [*good[:300], *good[:20], late, future, keyless]]
    lines += [
        "not json",
        '{"card": "c1"}',
        lines[0].replace('"e0"', "5"),
        lines[0].replace("{", '{"more": 1, ', 1),
    ]
    lines += [
        payload({**good[3], "amount": 7}, COLUMNS),
        payload({**good[4], "at": 253_402_300_799 * SECOND}, COLUMNS),
    ]
    topics.send("purchases", lines)
    topics.flink.submit(
        {"engine": "flink", "programs": [asdict(p) for p in programs(con, view, tmp_path, "flink")]}
    )
    topics.send("purchases", [payload(e, COLUMNS) for e in good[300:]])

    world = World(Case("kafka", [], "13:00", features[0], None), tmp_path, good, plan.service("svc"), view)
    rows = [{n: physical(e[n], t) if t != Timestamp else e[n] for n, t in COLUMNS.items()} for e in good]
    write(tmp_path / "events.parquet", rows, COLUMNS, {})
    queries = job_of(view, wire_of(view)).queries
    wants = [tiles_in_duckdb(con, world, level) for level in layout_of(view).levels]
    total = sum(cell["rows"] for want in wants for cell in want.values())

    def arrived() -> list[Cells]:
        return tiles_of(topics.records(f"{topic_prefix(view)}.tiles"), queries)

    got = wait_until(
        arrived, lambda tiles: sum(c["rows"] for cells in tiles for c in cells.values()) >= total
    )
    for level, cells, want in zip(layout_of(view).levels, got, wants, strict=True):
        compare(world, level, cells, want)
    letters = topics.letters(f"{topic_prefix(view)}.dead-letters")
    assert sorted(letter["reason"] for letter in letters) == sorted(
        ["late", "of the future", "of the future", "no key", "unequal copy", *["unreadable"] * 4]
    )
    details = {letter["detail"] for letter in letters if letter["reason"] == "unreadable"}
    assert "column 'id': 5 is not String" in details
    assert "column 'more': the source has no such column" in details
    assert any(detail.startswith("not JSON") for detail in details)


def octets(signed: Sequence[int]) -> bytes:
    """Bytes as Java counts them."""
    return bytes(b & 0xFF for b in signed)


def tiles_of(records: Sequence[tuple[int, bytes, bytes]], queries: Sequence[Query]) -> list[Cells]:
    """The tiles of each level, the last record of each; an entity lies in one partition, where Kafka's own hash puts it."""
    found: list[Cells] = [{} for _ in queries]
    partitions = 1 + max((partition for partition, _, _ in records), default=0)
    for partition, key, value in records:
        assert partition == partition_of(key, partitions)
        query = queries[value[1]]
        row = read(value, query.columns)
        assert key == key_of(query.columns, query.keys - 1, query.level, list(row.values()))
        found[query.level][row.pop("k0"), row.pop("tile")] = row
    return found


def wait_until(read: Any, done: Any) -> Any:
    """What is read once it is done, or what it was when patience ended."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = read()
        if done(found) or time.monotonic() > deadline:
            return found
        time.sleep(1)
