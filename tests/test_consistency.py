"""What was served beside what training has: every difference is made to happen, and has to be told for what it is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from featurestore.cli.app import main

DEFINITIONS = """
import featurestore as fs
from featurestore import Capture, count, days, hours, last_k, latest, mean, minutes

card = fs.Entity("card", key="card_id")
shop = fs.Entity("shop", key="shop")
purchases = fs.StreamSource(
    "purchases", fs.Parquet("purchases.parquet"), fs.Kafka("purchases"), event_time="at", event_id="id",
    columns={"id": fs.Int64, "card_id": fs.Int64, "at": fs.Timestamp, "amount": fs.Float64}, lateness=hours(1),
)
visits = fs.BatchSource("visits", fs.Parquet("visits/*.parquet"), "visited_at")
limits = fs.BatchSource("limits", fs.Parquet("limits.parquet"))

spend = fs.FeatureView("spend", card, purchases, [
    count().over(hours(6)), mean("amount").over(days(1)), last_k("amount", 3).over(days(1)).named("last"),
    fs.sum("amount").over(hours(1)).default(0.0),
])
traffic = fs.FeatureView("traffic", shop, visits, [count().over(hours(6)).named("visits_6h")])
terms = fs.FeatureView("terms", card, limits, [latest("limit")])
ask = fs.RequestSource("ask", {"price": fs.Float64})
against = fs.OnDemand("against", ask["price"] / spend["amount_mean_1d"])
credit = fs.FeatureService("credit", [spend, traffic, terms, against], capture=Capture())
"""

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
SPEND = ["count_6h", "amount_mean_1d", "last", "amount_sum_1h", "against"]


def minutes(n: float) -> timedelta:
    return timedelta(minutes=n)


Row = Mapping[str, Any]


class Project:
    """A project whose card events are pushed and lie at rest as well, and whose visits and limits are materialised."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "visits").mkdir()
        (root / "fs.toml").write_text('[project]\nname = "cards"\n[offline]\nthreads = 1\n', encoding="utf-8")
        (root / "definitions.py").write_text(DEFINITIONS, encoding="utf-8")
        self.events: list[Row] = []
        self.rest([])
        self.visits("first", [(1, NOON - minutes(40)), (1, NOON - minutes(200)), (2, NOON - minutes(5))])
        self.limits({7: 100, 8: 200})
        self.store = FeatureStore(root)
        self.store.apply()

    def rest(self, more: list[Row]) -> None:
        """Puts events at rest besides those that are there."""
        self.events += more
        columns = {
            "id": pa.int64(),
            "card_id": pa.int64(),
            "at": pa.timestamp("us", "UTC"),
            "amount": pa.float64(),
        }
        table = pa.Table.from_pylist([dict(e) for e in self.events], pa.schema(list(columns.items())))
        pq.write_table(table, self.root / "purchases.parquet")

    def visits(self, name: str, rows: list[tuple[int, datetime]]) -> None:
        columns = {"shop": [str(s) for s, _ in rows], "visited_at": [at for _, at in rows]}
        pq.write_table(pa.table(columns), self.root / "visits" / f"{name}.parquet")

    def limits(self, rows: Mapping[int, int]) -> None:
        columns = {"card_id": list(rows), "limit": list(rows.values())}
        pq.write_table(pa.table(columns), self.root / "limits.parquet")

    def happen(self, number: int, card: int, at: datetime, amount: float, *, pushed: datetime) -> None:
        """An event, pushed at a moment; at rest as well."""
        event = {"id": number, "card_id": card, "at": at, "amount": amount}
        self.store.push("purchases", [event], at=pushed)
        self.rest([event])

    def serve(self, at: datetime, cards: list[int] | None = None) -> str:
        """Serves cards with shop 1; the id of the request."""
        cards = cards or [7, 8]
        rows = self.store.get_online_features(
            "credit",
            {"card_id": cards, "shop": ["1"] * len(cards)},
            request={"price": [50.0] * len(cards)},
            at=at,
        )
        self.store.capture.flush()
        return rows.request_id

    def causes(self, **options: Any) -> dict[str, dict[str, int]]:
        """The causes that there are, by feature."""
        report = self.store.verify_logged("credit", **options)
        return {f.feature: {str(c): n for c, n in f.causes.items()} for f in report.features if f.differing}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """Cards 7 and 8 bought something before noon; all of it was applied, and everything materialised as of noon."""
    made = Project(tmp_path)
    before = [
        (1, 7, NOON - minutes(300), 0.1),
        (2, 7, NOON - minutes(90), 0.2),
        (3, 7, NOON - minutes(30), 0.7),
        (4, 8, NOON - minutes(20), 1.1),
    ]
    for number, card, at, amount in before:
        made.happen(number, card, at, amount, pushed=at + minutes(1))
    made.store.materialize(end=NOON)
    made.store.run_stream(once=True)
    yield made
    made.store.close()


def test_what_was_served_as_training_has_it_differs_nowhere(project: Project) -> None:
    project.serve(NOON)
    report = project.store.verify_logged("credit")
    assert (report.rows, report.cells, report.differing) == (2, 14, 0)
    assert report.same
    assert report.passed
    assert {f.feature: (f.smape, f.edits) for f in report.features} == {
        "count_6h": (0.0, None),
        "amount_mean_1d": (0.0, None),
        "last": (None, 0.0),
        "amount_sum_1h": (0.0, None),
        "visits_6h": (0.0, None),
        "limit": (0.0, None),
        "against": (0.0, None),
    }


def test_an_event_that_arrived_after_the_request_is_late(project: Project) -> None:
    project.serve(NOON)
    project.happen(5, 7, NOON - minutes(10), 3.0, pushed=NOON + minutes(20))
    found = project.causes()
    assert found == {name: {"late_event": 1} for name in SPEND}


def test_an_event_too_late_for_the_stream_is_late_once_it_has_arrived_too(project: Project) -> None:
    project.happen(5, 7, NOON - minutes(100), 3.0, pushed=NOON + minutes(1))  # lateness is an hour
    project.happen(6, 8, NOON + minutes(2), 9.0, pushed=NOON + minutes(3))
    project.store.run_stream(once=True)
    project.serve(NOON + minutes(5))
    found = project.causes()
    assert found == {n: {"late_event": 1} for n in ("count_6h", "amount_mean_1d", "last", "against")}


def test_a_stream_that_stopped_is_stale(project: Project) -> None:
    project.happen(5, 7, NOON + minutes(1), 3.0, pushed=NOON + minutes(2))
    project.serve(NOON + minutes(5))  # no stream ran
    assert project.causes() == {name: {"stale_stream": 1} for name in SPEND}
    assert project.store.verify_logged("credit").passed


def test_a_materialisation_that_stopped_is_stale(project: Project) -> None:
    project.visits("first", [(1, NOON - minutes(40)), (1, NOON - minutes(200)), (1, NOON + minutes(1))])
    project.store.materialize(select="traffic", end=NOON, replace=True, reason="the file as it is")
    project.serve(NOON + minutes(5))
    assert project.causes() == {"visits_6h": {"stale_batch": 2}}


def test_a_view_that_was_never_written_is_stale(tmp_path: Path) -> None:
    made = Project(tmp_path)
    made.serve(NOON)
    assert made.causes() == {"visits_6h": {"stale_batch": 2}, "limit": {"external": 2}}
    made.store.close()


def test_a_file_that_came_later_holds_late_events(project: Project) -> None:
    project.serve(NOON)
    project.visits("second", [(1, NOON - minutes(30))])
    assert project.causes() == {"visits_6h": {"late_event": 2}}


def test_events_that_were_pushed_and_are_not_at_rest_make_batch_stale(project: Project) -> None:
    event = {"id": 5, "card_id": 7, "at": NOON + minutes(1), "amount": 3.0}
    project.store.push("purchases", [event], at=NOON + minutes(2))
    project.store.run_stream(once=True)
    project.serve(NOON + minutes(5))
    assert project.causes() == {name: {"stale_batch": 1} for name in SPEND}
    project.rest([event])
    assert project.causes() == {}


def test_a_source_that_was_changed_is_external(project: Project) -> None:
    project.happen(5, 7, NOON + minutes(1), 3.0, pushed=NOON + minutes(2))
    project.store.run_stream(once=True)
    project.serve(NOON + minutes(5))
    project.events = [{**e, "amount": 4.0} if e["id"] == 5 else e for e in project.events]
    project.rest([])
    project.limits({7: 100, 8: 300})
    project.visits("first", [(1, NOON - minutes(40))])
    changed = {n: {"external": 1} for n in SPEND if n != "count_6h"}
    assert project.causes() == {**changed, "visits_6h": {"external": 2}, "limit": {"external": 1}}


def test_a_definition_that_changed_is_told_apart_from_events(project: Project) -> None:
    project.serve(NOON)
    path = project.root / "definitions.py"
    credit = "\ncredit = "
    # a service that has served is retired, and comes back as another version
    path.write_text(DEFINITIONS.partition(credit)[0], encoding="utf-8")
    project.store.apply()
    path.write_text(DEFINITIONS.replace('last_k("amount", 3)', 'last_k("amount", 2)'), encoding="utf-8")
    project.store.apply()
    assert project.causes() == {"last": {"definition": 1}}  # the other card bought once
    assert project.store.verify_logged("credit@1").same
    project.happen(5, 8, NOON - minutes(10), 3.0, pushed=NOON + minutes(20))
    found = project.causes()
    assert found.pop("last") == {"late_event": 1, "definition": 1}
    assert found == {n: {"late_event": 1} for n in SPEND if n != "last"}


def test_an_event_of_the_moment_itself_is_named(project: Project) -> None:
    at = NOON + minutes(1)
    project.happen(5, 7, at, 3.0, pushed=at)
    project.store.run_stream(once=True)
    project.serve(at)  # the caller publishes first, and asks as of the event
    found = project.causes()
    assert set(found) <= set(SPEND)
    assert found["count_6h"] == {"own_event": 1}


def test_a_value_that_nothing_explains_is_unexplained(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.serve(NOON)
    (rows,) = list(project.store.capture.rows("credit"))
    table = rows.table.drop_columns(["row_id", "__offset", "__appended_at"])
    place = table.column_names.index("feature:count_6h")
    wrong = pa.array([v + 1 for v in table.column(place).to_pylist()], pa.int64())
    ids = pa.array(["tampered"] * table.num_rows)
    table = table.set_column(place, "feature:count_6h", wrong)
    table = table.set_column(table.column_names.index("request_id"), "request_id", ids)
    (folder,) = project.store.capture.log.folders("credit")
    with folder.open() as log:
        log.append(table, 1)
    report = project.store.verify_logged("credit")
    assert report.causes == {"unexplained": 2}
    assert not report.passed
    asked = ["verify", "--logged", "credit", "--project", str(project.root)]
    assert main(asked) == 1
    shown = capsys.readouterr().out
    assert "unexplained" in shown
    assert "tampered-0" in shown
    assert main([*asked, "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["passed"], said["causes"]) == (False, {"unexplained": 2})
