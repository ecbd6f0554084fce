"""What was served beside what training has: every difference is made to happen, and has to be told for what it is."""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from featurestore.cli.app import main
from featurestore.consistency.edits import edits
from featurestore.datasets.manifest import load
from featurestore.errors import NotFound, RequestError, StoreUnavailable
from featurestore.serving.trouble import SteadyReader
from featurestore.status import Status

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


def micros(at: datetime) -> int:
    return int(at.timestamp()) * 1_000_000


def tampered(project: Project, column: str, values: Any) -> None:
    """Captures the rows that there are once more, as `tampered-0…`, with other values in a column."""
    (rows,) = list(project.store.capture.rows("credit"))
    table = rows.table.drop_columns(["row_id", "__offset", "__appended_at"])
    for name, new in ((column, values), ("request_id", pa.array(["tampered"] * table.num_rows))):
        table = table.set_column(table.column_names.index(name), table.schema.field(name), new)
    (folder,) = project.store.capture.log.folders("credit")
    with folder.open() as log:
        log.append(table, 1)


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


def test_a_file_that_was_written_again_explains_what_it_may_have_held_and_no_more(project: Project) -> None:
    project.visits("old", [(1, NOON - timedelta(days=10))])
    project.store.materialize(select="traffic", end=NOON, replace=True, reason="another file")
    project.serve(NOON)
    tampered(project, "feature:visits_6h", pa.array([9, 9], pa.int64()))
    project.visits("old", [(1, NOON - timedelta(days=10)), (1, NOON - timedelta(days=9))])
    assert project.causes() == {"visits_6h": {"unexplained": 2}}  # no event of the last six hours was in it
    project.visits("first", [(1, NOON - minutes(40)), (1, NOON - minutes(200))])
    report = project.store.verify_logged("credit")
    assert report.causes == {"external": 2}
    (visits,) = (f for f in report.features if f.differing)
    assert visits.examples[0].note.startswith("visits/first.parquet was written again at ")


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
    served = rows.table.column("feature:count_6h").to_pylist()
    tampered(project, "feature:count_6h", pa.array([v + 1 for v in served], pa.int64()))
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


def test_why_shows_one_row_and_the_events_behind_it(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.happen(5, 7, NOON - minutes(100), 3.0, pushed=NOON + minutes(1))  # too late for the stream
    project.store.run_stream(once=True)
    request = project.serve(NOON + minutes(5))
    project.happen(6, 7, NOON - minutes(10), 5.0, pushed=NOON + minutes(20))
    seven, eight = project.store.why("credit", request)
    assert (seven.row_id, eight.row_id) == (f"{request}-0", f"{request}-1")
    assert all(v.cause is None for v in eight.values)
    by_name = {v.feature: v for v in seven.values}
    count = by_name["count_6h"]
    assert (count.served, count.arrived, count.now, count.cause) == (3, 4, 5, "late_event")
    assert by_name["last"].served == [0.1, 0.2, 0.7]
    assert by_name["visits_6h"].cause is None
    spend, traffic = seven.made  # limits have no times
    assert (spend.view, spend.key, spend.count) == ("spend", {"card_id": 7}, 5)
    assert (traffic.key, traffic.count) == ({"shop": "1"}, 2)
    told = {e.columns["id"]: (e.at_rest, e.pushed, e.served) for e in spend.events}
    assert told == {
        6: (True, True, "not yet"),
        5: (True, True, "late"),
        3: (True, True, "yes"),
        2: (True, True, "yes"),
        1: (True, True, "yes"),
    }
    (one,) = project.store.why("credit", f"{request}-0", limit=2)
    assert [e.columns["id"] for e in one.made[0].events] == [6, 3]
    assert one.made[0].count == 5
    with pytest.raises(NotFound, match="captured request"):
        project.store.why("credit", "nobody")
    asked = ["why", "credit", request, "--project", str(project.root)]
    assert main([*asked, "--limit", "2"]) == 0
    shown = capsys.readouterr().out
    assert "late_event" in shown
    assert "2 newest of 5" in shown
    assert main([*asked, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["rows"][0]["values"][0]["cause"] == "late_event"
    assert main(["why", "credit", "nobody", "--project", str(project.root)]) == 1


def test_a_default_in_the_place_of_a_value_is_named(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = DEFINITIONS.replace("capture=Capture()", 'capture=Capture(), on_unavailable="default"')
    (project.root / "definitions.py").write_text(text, encoding="utf-8")
    project.store.apply()

    def silent(*_: object, **__: object) -> object:
        raise StoreUnavailable("the store does not answer")

    reader = project.store.reader("credit")
    assert isinstance(reader, SteadyReader)
    with monkeypatch.context() as patched:
        patched.setattr(reader.reader.store, "fetch", silent)
        project.serve(NOON)
    found = project.causes()
    assert found.pop("amount_sum_1h") == {"default": 2}
    assert {n for one in found.values() for n in one} <= {"stale_stream", "stale_batch"}
    assert set(found) == {*SPEND, "visits_6h", "limit"} - {"amount_sum_1h"}


def test_the_order_of_adding_up_is_no_event(project: Project) -> None:
    """Floats whose sum depends on the order: the captured value is that of another order."""
    project.serve(NOON)
    (rows,) = list(project.store.capture.rows("credit"))
    served = rows.table.column("feature:amount_mean_1d").to_pylist()
    tampered(project, "feature:amount_mean_1d", pa.array([math.nextafter(v, 9) for v in served]))
    found = project.causes()
    assert found == {"amount_mean_1d": {"float_order": 2}}


def test_a_store_that_knew_more_than_it_said_is_stale(project: Project) -> None:
    """The watermark is asked for once a second: some of what came after it was served already."""
    project.happen(5, 7, NOON + minutes(1), 3.0, pushed=NOON + minutes(2))
    project.store.run_stream(once=True)
    project.happen(6, 7, NOON + minutes(3), 4.0, pushed=NOON + minutes(4))
    project.serve(NOON + minutes(5))
    old = json.dumps({"spend": micros(NOON), "traffic": micros(NOON), "terms": micros(NOON)})
    tampered(project, "watermarks", pa.array([old] * 2))
    found = project.causes()
    assert found["count_6h"] == {"stale_stream": 2}  # of the row as it was, and of the one that says less


def test_rows_of_a_version_that_nobody_knows_are_left_out(project: Project, tmp_path: Path) -> None:
    project.serve(NOON)
    folder = project.store.capture.log.folders("credit")[0]
    other = replace(folder.schema, fingerprint="f" * 64)
    with project.store.capture.log.folder(other).open() as log:
        (rows,) = list(project.store.capture.rows("credit"))
        log.append(rows.table.drop_columns(["row_id", "__offset", "__appended_at"]), 1)
    report = project.store.verify_logged("credit")
    assert (report.rows, report.same) == (2, True)
    assert list(report.left_out.values()) == [2]


def test_a_sample_is_the_same_rows_every_time_and_bounded_in_time(project: Project) -> None:
    for n in range(20):
        project.serve(NOON + minutes(n))
    some = project.store.verify_logged("credit", sample=7)
    assert some.rows == 7
    assert project.store.verify_logged("credit", sample=7).features == some.features
    early = project.store.verify_logged("credit", end=NOON + minutes(5))
    assert (early.rows, early.end) == (10, micros(NOON + minutes(4)))
    late = project.store.verify_logged("credit", start=NOON + minutes(15))
    assert (late.rows, late.start) == (10, micros(NOON + minutes(15)))
    assert not project.store.verify_logged("credit", start=NOON + minutes(60)).passed
    with pytest.raises(NotFound):
        project.store.verify_logged("credi")


def test_a_lag_is_fitted_and_trained_with(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    for n in (
        4,
        6,
        8,
    ):  # materialised as of noon, and read minutes later; the last event was applied at 11:41
        project.serve(NOON + minutes(n))
    lags = project.store.lags("credit")
    assert set(lags) == {"purchases", "visits"}
    visits = lags["visits"]
    assert (visits.rows, visits.lag, visits.most) == (6, minutes(6), minutes(8))
    purchases = lags["purchases"]
    assert purchases.under_way == minutes(1)  # each was pushed a minute after it had happened
    assert purchases.lag == purchases.behind + minutes(1)
    assert project.store.lags("credit", quantile=1)["visits"].lag == minutes(8)
    spine = {"card_id": [7], "shop": ["1"], "event_timestamp": [NOON], "price": [1.0]}
    made = project.store.get_historical_features(spine, "credit", knowledge="arrived", lag="fitted")
    assert {n: timedelta(microseconds=us) for n, us in made.lag.items()} == {
        n: f.lag for n, f in lags.items()
    }
    assert made.to_arrow()["visits_6h"].to_pylist() == [2]
    with pytest.raises(RequestError, match="arrived"):
        project.store.get_historical_features(spine, "credit", lag="fitted")
    with pytest.raises(RequestError, match="applied service"):
        project.store.get_historical_features(spine, ["traffic"], knowledge="arrived", lag="fitted")
    with pytest.raises(RequestError, match="quantile"):
        project.store.lags("credit", quantile=2)
    asked = ["log", "lag", "credit", "--project", str(project.root)]
    assert main(asked) == 0
    assert "0:06:00" in capsys.readouterr().out
    assert main([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lags"][1]["lag"] == 360.0
    pq.write_table(pa.table(spine), project.root / "spine.parquet")
    out = project.root / "set"
    written = ["dataset", "credit", "--spine", str(project.root / "spine.parquet"), "--out", str(out)]
    assert main([*written, "--knowledge", "arrived", "--lag", "fitted", "--project", str(project.root)]) == 0
    assert load(out).content["parameters"]["lag"]["visits"] == 360_000_000


@pytest.mark.parametrize(
    ("a", "b", "fewest"),
    [
        ([], [], 0),
        ([1], [], 1),
        ([1, 2, 3], [2, 3, 4], 2),
        ("kitten", "sitting", 3),
        ({"x": 1}, {"x": 2, "y": 1}, 2),
    ],
)
def test_edits_are_the_fewest(a: Any, b: Any, fewest: int) -> None:
    assert edits(a, b) == edits(b, a) == fewest


def test_what_is_looked_at_in_portions_has_the_same_causes(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.happen(5, 7, NOON + minutes(1), 3.0, pushed=NOON + minutes(2))
    for n in range(5):
        project.serve(NOON + minutes(3 + n))
    project.happen(6, 8, NOON - minutes(10), 3.0, pushed=NOON + minutes(20))
    whole = project.causes()
    assert whole["count_6h"] == {"late_event": 5, "stale_stream": 5}
    monkeypatch.setattr("featurestore.consistency.causes.TOGETHER", 20)
    monkeypatch.setattr("featurestore.consistency.run.SLICE", 3)
    assert project.causes() == whole


MORE = """
import featurestore as fs
from definitions import card, purchases
from featurestore import Capture, count_distinct, days, quantile

rough = fs.FeatureView("rough", card, purchases, [
    quantile("amount", 0.5).over(days(1)).named("middle"), count_distinct("id").over(days(1)).named("ids"),
])
bids = fs.FeatureService("bids", [rough], capture=Capture())
"""


def test_an_approximation_within_its_error_is_a_sketch_and_more_is_not(tmp_path: Path) -> None:
    made = Project(tmp_path)
    (tmp_path / "more.py").write_text(MORE, encoding="utf-8")
    (tmp_path / "fs.toml").write_text('[project]\nname = "cards"\n', encoding="utf-8")
    made.store.apply()
    for number in range(4):
        made.happen(number, 7, NOON - minutes(10 + number), 10.0, pushed=NOON - minutes(5))
    made.store.materialize(end=NOON)
    made.store.run_stream(once=True)
    made.store.get_online_features("bids", {"card_id": [7]}, at=NOON)
    made.store.capture.flush()
    for number, times in enumerate((1 + 2**-8, 1.1)):
        (rows, *_) = list(made.store.capture.rows("bids"))
        table = rows.table.drop_columns(["row_id", "__offset", "__appended_at"]).slice(0, 1)
        value = table.column("feature:middle")[0].as_py() * times
        for name, new in (("feature:middle", [value]), ("request_id", [f"other{number}"])):
            place = table.column_names.index(name)
            table = table.set_column(place, table.schema.field(name), pa.array(new))
        (folder,) = made.store.capture.log.folders("bids")
        with folder.open() as log:
            log.append(table, 1)
    report = made.store.verify_logged("bids")
    assert {f.feature: {str(c): n for c, n in f.causes.items()} for f in report.features} == {
        "middle": {"sketch": 1, "unexplained": 1},
        "ids": {},
    }
    made.store.close()


@pytest.mark.slow
def test_a_stream_that_runs_while_features_are_read_leaves_nothing_unexplained(tmp_path: Path) -> None:
    """Events come out of order, some too late, and are read a moment later: much differs, all of it for a reason."""
    made, chance = Project(tmp_path), random.Random(1)
    events: list[Row] = []

    def push(count: int, late: float) -> None:
        rows = [
            {
                "id": len(events) + i,
                "card_id": chance.randrange(20),
                "at": datetime.now(UTC) - timedelta(seconds=chance.random() * late),
                "amount": chance.random(),
            }
            for i in range(count)
        ]
        made.store.push("purchases", rows)
        events.extend(rows)

    push(300, late=3 * 3600)
    made.rest(list(events))
    at_rest = len(events)
    made.store.materialize()
    stop = threading.Event()
    stream = threading.Thread(target=lambda: made.store.run_stream(stop=stop))
    stream.start()
    try:
        for _ in range(150):
            push(chance.randrange(1, 6), late=chance.choice([0, 0.5, 5, 600, 7200]))
            cards = [chance.randrange(22) for _ in range(5)]
            shops, price = ["1"] * len(cards), [1.0] * len(cards)
            made.store.get_online_features(
                "credit", {"card_id": cards, "shop": shops}, request={"price": price}
            )
            time.sleep(0.02)
    finally:
        stop.set()
        stream.join()
    made.store.capture.flush()
    made.rest(events[at_rest:])
    report = made.store.verify_logged("credit")
    assert (report.rows, report.unexplained) == (750, 0), str(report)
    assert report.differing > 100
    assert set(report.causes) <= {"late_event", "stale_stream", "float_order"}, str(report)
    assert made.store.lags("credit")["purchases"].most < timedelta(minutes=5)
    made.store.close()


FUNCTION = """
import time

import featurestore as fs
from definitions import ask, traffic

@fs.python(inputs=[ask["price"]], dtype=fs.Float64)
def later(price):
    return price.values + time.time()

clock = fs.OnDemand("clock", later)
clocks = fs.FeatureService("clocks", [traffic, clock], capture=fs.Capture())
"""


def test_a_function_that_takes_from_outside_is_external_and_one_that_is_gone_is_a_definition(
    project: Project,
) -> None:
    path = project.root / "more.py"
    path.write_text(FUNCTION, encoding="utf-8")
    project.store.apply()
    project.store.get_online_features("clocks", {"shop": ["1"]}, request={"price": [1.0]}, at=NOON)
    project.store.capture.flush()
    report = project.store.verify_logged("clocks")
    assert {f.feature: {str(c): n for c, n in f.causes.items()} for f in report.features} == {
        "visits_6h": {},
        "clock": {"external": 1},
    }
    # The service comes back with a function of another text under the same name.
    path.write_text("", encoding="utf-8")
    project.store.apply()
    path.write_text(FUNCTION.replace("time.time()", "1"), encoding="utf-8")
    project.store.apply()
    (found,) = (f for f in project.store.verify_logged("clocks").features if f.feature == "clock")
    assert (found.causes, found.examples[0].now) == ({"definition": 1}, 2.0)
    assert found.examples[0].note == "served by clocks@1"


PAST = """
import featurestore as fs
from definitions import card, purchases
from featurestore import Capture, count, hours, latest

newest = fs.FeatureView("newest", card, purchases, [latest("amount").named("newest"), count().over(hours(1)).named("bought")])
past = fs.FeatureService("past", [newest], capture=Capture())
"""


def test_a_read_of_the_past_that_the_store_could_not_tell_is_inexact(tmp_path: Path) -> None:
    """Of the newest values it keeps one: what stood there before is not to be had from it. Of a window it says INEXACT."""
    made = Project(tmp_path)
    (tmp_path / "more.py").write_text(PAST, encoding="utf-8")
    made.store.apply()
    for number, minute in enumerate((90, 30)):
        at = NOON - minutes(minute)
        made.happen(number, 7, at, 1.0 + number, pushed=at + minutes(1))
    made.store.materialize(end=NOON - minutes(120))
    made.store.run_stream(once=True)
    for minute, newest, status in ((60, None, Status.NULL), (0, 2.0, Status.PRESENT)):
        online = made.store.get_online_features("past", {"card_id": [7]}, at=NOON - minutes(minute))
        assert (online.to_dict()["newest"], online.statuses[0, 0]) == ([newest], status)
    made.store.capture.flush()
    report = made.store.verify_logged("past")
    assert {f.feature: {str(c): n for c, n in f.causes.items()} for f in report.features} == {
        "newest": {"inexact": 1},
        "bought": {},
    }
    assert report.features[0].examples[0].note == "a newer event had taken its place"
    (rows,) = list(made.store.capture.rows("past"))
    table = rows.table.drop_columns(["row_id", "__offset", "__appended_at"]).slice(0, 1)
    for name, value in (("statuses", f"0{Status.INEXACT:d}"), ("feature:bought", 7), ("request_id", "other")):
        new = pa.array([value], table.schema.field(name).type)
        table = table.set_column(table.column_names.index(name), name, new)
    (folder,) = made.store.capture.log.folders("past")
    with folder.open() as log:
        log.append(table, 1)
    assert made.store.verify_logged("past").causes == {"inexact": 3}
    made.store.close()
