"""Labels: laws over random events, and labelled sets from a project's definitions to a manifest and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import featurestore as fs
from featurestore import FeatureStore, ir
from featurestore.cli.app import main
from featurestore.compile.reference import label_answer
from featurestore.config import Config
from featurestore.datasets.card import card
from featurestore.datasets.diff import diff
from featurestore.datasets.manifest import load
from featurestore.declare import declarations_in
from featurestore.errors import DefinitionError, RequestError, SpineError
from featurestore.lower import lower
from featurestore.status import LabelState
from featurestore.time import MINUTE
from featurestore.training import TrainingSet

# -------------------------------------------------------------------------------------------------------------------- laws

COLUMNS = {"k": fs.Int64, "at": fs.Timestamp, "arrived": fs.Timestamp, "x": fs.Int64}
SPAN = 60
"""Minutes in which events and rows lie; the labels' lengths are minutes too, so that edges meet."""

Event = dict[str, Any]
_files = count()


def plan_of(label: dict[str, Any]) -> ir.Plan:
    entity = fs.Entity("who", key="k")
    source = fs.BatchSource("events", fs.Parquet("events*.parquet"), "at", COLUMNS, arrival_time="arrived")
    said: dict[str, Any] = {n: label[n] for n in ("value", "matures", "observed")}
    said |= {n: fs.minutes(label[n]) for n in ("gap", "horizon", "lateness") if label[n]}
    made = fs.Label("label", source, entity, **said)
    view = fs.FeatureView("view", entity, source, [fs.count().over(fs.hours(1))])
    return lower(declarations_in([fs.FeatureService("svc", [view], label=made)]), lambda _: COLUMNS)


VALUES = [fs.count() > 0, fs.sum("x"), fs.last("x"), fs.max("x") - fs.min("x"), fs.count_distinct("x") + 1]

labels = st.fixed_dictionaries(
    {
        "value": st.sampled_from(VALUES),
        "gap": st.integers(0, 5),
        "horizon": st.integers(1, 20),
        "lateness": st.integers(0, 5),
        "matures": st.sampled_from(["horizon", "first_event"]),
        "observed": st.sampled_from(["as_of", "last_event"]),
    }
)


@st.composite
def events(draw: st.DrawFn, least: int = 0, most: int = 12) -> list[Event]:
    found = []
    for _ in range(draw(st.integers(least, most))):
        at = draw(st.integers(0, SPAN)) * MINUTE
        late = draw(st.none() | st.integers(0, 30))
        arrived = None if late is None else at + late * MINUTE
        found.append(
            {"k": draw(st.integers(0, 2)), "at": at, "arrived": arrived, "x": draw(st.integers(-3, 3))}
        )
    return found


rows = st.lists(
    st.tuples(st.integers(0, 3) | st.none(), st.integers(0, SPAN).map(lambda m: m * MINUTE)), max_size=8
)


def joined(
    plan: ir.Plan, happened: Sequence[Event], asked: Sequence[tuple[int | None, int]], as_of: int, root: Path
) -> list[tuple[Any, LabelState]]:
    """The labels of a training set over these events: one for each row, in order."""
    for old in root.glob("events*.parquet"):
        old.unlink()
    times = pa.timestamp("us", tz="UTC")
    schema = pa.schema([("k", pa.int64()), ("at", times), ("arrived", times), ("x", pa.int64())])
    pq.write_table(pa.Table.from_pylist(list(happened), schema), root / f"events{next(_files)}.parquet")
    spine = pa.table(
        {"k": pa.array([k for k, _ in asked], pa.int64()), "ts": pa.array([t for _, t in asked], times)}
    )
    made = TrainingSet(
        Config(root, "laws", threads=1),
        plan.service("svc"),
        {v.name: v for v in plan.views},
        spine,
        "ts",
        labels=plan.labels,
        as_of=as_of,
        immature="keep",
    ).to_arrow()
    assert made.num_rows == len(asked)
    assert made["k"].to_pylist() == [k for k, _ in asked]
    return [(row["label"], LabelState[row["label__state"]]) for row in made.to_pylist()]


@settings(max_examples=60)
@given(labels, events(), rows, st.integers(0, 100).map(lambda m: m * MINUTE))
def test_the_join_labels_every_row_as_the_reference_does(
    tmp_path_factory: pytest.TempPathFactory, label: Any, happened: Any, asked: Any, as_of: int
) -> None:
    plan = plan_of(label)
    root = tmp_path_factory.getbasetemp() / "labels"
    root.mkdir(exist_ok=True)
    want = [label_answer(plan.labels[0], happened, [k], t, as_of) for k, t in asked]
    assert joined(plan, happened, asked, as_of, root) == want


@given(labels, events(), events(least=1), rows, st.integers(0, 100).map(lambda m: m * MINUTE))
def test_no_event_outside_its_range_changes_a_label(
    label: Any, happened: list[Event], more: list[Event], asked: Any, as_of: int
) -> None:
    found = plan_of({**label, "observed": "as_of"}).labels[0]
    for key, t in asked:
        start, end = t + found.gap, t + found.gap + found.horizon
        outside = [e for e in more if not start <= e["at"] < end]
        before = label_answer(found, happened, [key], t, as_of)
        assert label_answer(found, [*happened, *outside], [key], t, as_of) == before


@given(labels, events(), events(least=1), rows, st.integers(0, 100).map(lambda m: m * MINUTE))
def test_what_comes_after_the_moment_changes_no_label_of_then(
    label: Any, happened: list[Event], more: list[Event], asked: Any, as_of: int
) -> None:
    found = plan_of(label).labels[0]
    later = [e for e in more if max(e["at"] + 1, e["arrived"] or 0) > as_of]
    for key, t in asked:
        before = label_answer(found, happened, [key], t, as_of)
        assert label_answer(found, [*happened, *later], [key], t, as_of) == before


@given(labels, events(), rows, st.integers(0, 100), st.integers(0, 100))
def test_a_mature_label_stays_when_everything_arrives_in_time(
    label: Any, happened: list[Event], asked: Any, first: int, second: int
) -> None:
    """Events that arrive within the lateness can no longer change what the horizon has matured."""
    found = plan_of({**label, "matures": "horizon", "observed": "as_of"}).labels[0]
    punctual = [{**e, "arrived": min(e["arrived"] or 0, e["at"] + found.lateness)} for e in happened]
    once, again = sorted((first * MINUTE, second * MINUTE))
    for key, t in asked:
        before = label_answer(found, punctual, [key], t, once)
        if before[1] is LabelState.MATURE:
            assert label_answer(found, punctual, [key], t, again) == before


# --------------------------------------------------------------------------------------------------------------- a project

DEFINITIONS = """
import featurestore as fs
from featurestore import count, hours, minutes

visitor = fs.Entity("visitor", key="visitor_id")
clicks = fs.BatchSource("clicks", fs.Parquet("clicks.parquet"), "clicked_at", arrival_time="arrived_at")
activity = fs.FeatureView("activity", visitor, clicks, [count().over(hours(1))])
clicked = fs.Label("clicked", clicks, visitor, count() > 0, hours(1), gap=minutes(1), lateness=minutes(10))
spent = fs.Label("spent", clicks, visitor, fs.sum("price").fill_null(0.0), hours(2), matures="first_event")
ranking = fs.FeatureService("ranking", [activity], label=[clicked, spent])
plain = fs.FeatureService("plain", [activity])
"""
SPINE_COLUMNS = ["visitor_id", "event_timestamp"]


def noon(hour: int = 12, minute: int = 0) -> datetime:
    return datetime(2024, 3, 1, hour, minute, tzinfo=UTC)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[FeatureStore]:
    (tmp_path / "fs.toml").write_text('[project]\nname = "clicks"\n', encoding="utf-8")
    (tmp_path / "definitions.py").write_text(DEFINITIONS, encoding="utf-8")
    happened = [noon(11, 50), noon(12, 20), noon(12, 50), noon(14)]
    clicks = {
        "visitor_id": [1, 1, 2, 1],
        "clicked_at": happened,
        "arrived_at": [happened[0], happened[1], noon(15), happened[3]],  # the third is hours late
        "price": [1.0, 2.0, 4.0, 8.0],
    }
    pq.write_table(pa.table(clicks), tmp_path / "clicks.parquet")
    with FeatureStore(tmp_path) as store:
        store.apply(who="me")
        yield store


def spine() -> dict[str, list[Any]]:
    return {"visitor_id": [1, 2, 3, None, 1], "event_timestamp": [*[noon()] * 4, noon(13, 30)]}


def test_a_labelled_set_has_values_and_states(project: FeatureStore) -> None:
    found = project.get_historical_features(spine(), "ranking", as_of=noon(14), immature="keep").to_arrow()
    assert found.column_names == [
        *SPINE_COLUMNS,
        "count_1h",
        "clicked",
        "clicked__state",
        "spent",
        "spent__state",
        "is_mature",
    ]
    assert found["clicked"].to_pylist() == [True, False, False, None, None]
    assert found["clicked__state"].to_pylist() == ["MATURE"] * 3 + ["CENSORED", "IMMATURE"]
    assert found["spent"].to_pylist() == [2.0, 0.0, 0.0, None, None]
    assert found["is_mature"].to_pylist() == [True, True, True, False, False]


def test_rows_that_are_not_mature_are_left_out_by_default(project: FeatureStore) -> None:
    found = project.get_historical_features(spine(), "ranking", as_of=noon(14)).to_arrow()
    assert found["visitor_id"].to_pylist() == [1, 2, 3]
    assert found["is_mature"].to_pylist() == [True] * 3
    assert project.get_historical_features(spine(), "ranking", as_of=noon()).to_arrow().num_rows == 0


def test_a_later_moment_is_another_version_of_the_label(project: FeatureStore) -> None:
    known = [
        project.get_historical_features(spine(), "ranking", as_of=at).to_arrow()["clicked"].to_pylist()[1]
        for at in (noon(14), noon(15))
    ]
    assert known == [False, True]  # the click that arrived at three


def test_without_labels_a_service_with_some_is_as_any_other(project: FeatureStore) -> None:
    found = project.get_historical_features(spine(), "ranking", labelled=False).to_arrow()
    assert found.equals(project.get_historical_features(spine(), "plain").to_arrow())
    with pytest.raises(RequestError, match="'plain' has no label"):
        project.get_historical_features(spine(), "plain", as_of=noon())
    with pytest.raises(RequestError, match="there is 'drop' and 'keep'"):
        project.get_historical_features(spine(), "ranking", immature="negative")  # type: ignore[arg-type]


def test_a_label_at_hand_needs_no_apply(project: FeatureStore) -> None:
    visitor = fs.Entity("visitor", key="visitor_id")
    clicks = fs.BatchSource("clicks", fs.Parquet("clicks.parquet"), "clicked_at")
    activity = fs.FeatureView("activity", visitor, clicks, [fs.count().over(fs.hours(1))])
    often = fs.Label("often", clicks, visitor, fs.count(), fs.hours(3))
    trial = fs.FeatureService("trial", [activity], label=often)
    found = project.get_historical_features(spine(), trial, as_of=noon(17)).to_arrow()
    assert found["often"].to_pylist() == [2, 1, 0, 1]


def test_a_spine_without_the_labels_key_or_with_its_name_is_refused(project: FeatureStore) -> None:
    rows = spine()
    with pytest.raises(SpineError, match="a column 'clicked', and so has label 'clicked'"):
        project.get_historical_features({**rows, "clicked": [True] * 5}, "ranking").to_arrow()
    del rows["visitor_id"]
    with pytest.raises(SpineError, match=r"a join key of label 'clicked'(.|\n)*labelled=False"):
        project.get_historical_features(rows, "ranking").to_arrow()


def test_a_manifest_names_the_version_and_makes_the_set_again(project: FeatureStore, tmp_path: Path) -> None:
    made = project.get_historical_features(spine(), "ranking", as_of=noon(14), statuses=True)
    made.to_parquet(tmp_path / "out")
    said = load(tmp_path / "out").content
    assert said["labels"]["versions"]["clicked"]["version"] == "clicked@2024-03-01T14:00:00Z"
    assert said["labels"]["left_out"] == {"IMMATURE": 1, "CENSORED": 1}
    assert said["parameters"]["as_of"] == int(noon(14).timestamp()) * 1_000_000
    assert said["spine"]["columns"] == SPINE_COLUMNS
    again = project.reproduce(tmp_path / "out", tmp_path / "again")
    assert (again.identical, again.changes) == (True, ())
    assert diff(tmp_path / "out", tmp_path / "again").same

    later = project.get_historical_features(spine(), "ranking", as_of=noon(17), statuses=True)
    later.to_parquet(tmp_path / "later")
    found = diff(tmp_path / "out", tmp_path / "later")
    assert (found.only_in_first, found.only_in_second) == (0, 1)
    assert {c.name for c in found.columns if c.differing} == {"clicked", "spent"}
    assert any("clicked@2024-03-01T17:00:00Z" in line for line in found.manifest)

    shown = card(tmp_path / "out")
    assert (shown.features, shown.label) == (("count_1h",), "clicked")


def test_slices_of_the_spine_change_nothing(project: FeatureStore, tmp_path: Path) -> None:
    made = project.get_historical_features(spine(), "ranking", as_of=noon(14))
    small = replace(made, slice_rows=2)
    assert [t.num_rows for t in small.tables()] == [2, 1]
    assert small.to_arrow().equals(made.to_arrow())
    small.to_parquet(tmp_path / "out")
    assert project.reproduce(tmp_path / "out", tmp_path / "again").identical


def test_a_set_is_split_and_described_with_its_labels(project: FeatureStore) -> None:
    made = project.get_historical_features(spine(), "ranking", as_of=noon(17))
    parts = made.split("time", at=noon(13))
    assert [parts[n].to_arrow()["clicked"].to_pylist() for n in parts] == [[True, True, False], [True]]


def test_an_erased_entity_has_no_label_any_more(project: FeatureStore) -> None:
    project.erase("visitor", {"visitor_id": 1})
    found = project.get_historical_features(spine(), "ranking", as_of=noon(17), immature="keep").to_arrow()
    assert found["clicked__state"].to_pylist() == ["CENSORED", "MATURE", "MATURE", "CENSORED", "CENSORED"]
    assert found["clicked"].to_pylist() == [None, True, False, None, None]


def test_a_change_of_a_label_is_no_change_of_what_is_served(project: FeatureStore) -> None:
    version = project.registry.service("ranking")
    project.registry.mark_served("ranking", 1, 1, version.fingerprint)
    file = project.config.root / "definitions.py"
    file.write_text(DEFINITIONS.replace("hours(1), gap", "hours(3), gap"), encoding="utf-8")
    change = project.plan()
    assert [(c.kind, c.name, c.effect, c.reasons) for c in change.changes] == [
        ("label", "clicked", "state-compatible", ("horizon 1h -> 3h",))
    ]
    project.apply(change)
    assert project.registry.service("ranking").version == 1
    found = project.get_historical_features(spine(), "ranking@1", as_of=noon(17)).to_arrow()
    assert found["clicked"].to_pylist() == [True, True, False, True]
    file.write_text(DEFINITIONS.replace("label=[clicked, spent]", "label=clicked"), encoding="utf-8")
    project.apply()
    assert project.get_historical_features(spine(), "ranking").label_columns == [
        "clicked",
        "clicked__state",
        "is_mature",
    ]


# ------------------------------------------------------------------------------------------------------------ the command


Run = Callable[..., str]


@pytest.fixture
def run(project: FeatureStore, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command that has to succeed; what it said."""

    def command(*arguments: str) -> str:
        assert main(["--project", str(project.config.root), *arguments]) == 0
        said = capsys.readouterr()
        return said.out + said.err

    return command


def test_the_catalogue_knows_labels(run: Run) -> None:
    (shown,) = json.loads(run("show", "clicked", "--json"))["found"]
    assert (shown["is"], shown["horizon"], shown["gap"]) == ("count() > 0", "1h", "1m")
    assert shown["services"] == ["ranking"]
    assert [x["name"] for x in json.loads(run("list", "labels", "--json"))["labels"]] == [
        "clicked",
        "spent",
    ]
    assert "label spent.value" in run("lineage", "price")
    assert "Mature once it is ts + 71m" in run("explain", "clicked")
    (service,) = json.loads(run("show", "ranking", "--json"))["found"]
    assert service["labels"] == ["clicked", "spent"]


def test_fs_dataset_writes_a_labelled_set(run: Run, tmp_path: Path) -> None:
    pq.write_table(pa.table(spine()), tmp_path / "spine.parquet")
    where = ["--spine", str(tmp_path / "spine.parquet")]
    said = run("dataset", "ranking", *where, "--out", str(tmp_path / "a"), "--as-of", "2024-03-01T14:00")
    assert "3 rows" in said
    assert "1 immature and 1 censored rows were left out" in said
    kept = ["--as-of", "2024-03-01T14:00", "--immature", "keep"]
    run("dataset", "ranking", *where, "--out", str(tmp_path / "b"), *kept)
    run("dataset", "ranking", *where, "--out", str(tmp_path / "c"), "--no-labels")
    rows = [pq.read_table(tmp_path / n).num_rows for n in "abc"]
    assert rows == [3, 5, 5]
    assert "clicked" not in pq.read_schema(tmp_path / "c" / "part-00000.parquet").names


MISTAKES = [
    ({"horizon": timedelta(0)}, "label 'label' has horizon=datetime.timedelta(0)"),
    ({"horizon": 3}, "label 'label' has horizon=3"),
    ({"gap": timedelta(days=-1)}, "label 'label' has gap=datetime.timedelta(days=-1)"),
    ({"value": True}, "label 'label' is True, which is no expression over aggregates"),
    ({"value": fs.col("x")}, "label 'label' takes 'x' of no event in particular"),
    ({"value": fs.latest("x")}, "label 'label' takes the latest of something"),
    ({"value": fs.count().over(fs.hours(1)) > 0}, "label 'label' has an aggregate with a window of its own"),
    ({"value": fs.mean("y")}, "unknown column 'y'"),
    ({"value": fs.mean("x") & fs.lit(value=True)}, "& needs Bool"),
    ({"matures": "soon"}, "label 'label' has matures='soon'"),
    ({"observed": "never"}, "label 'label' has observed='never'"),
]


@pytest.mark.parametrize(("wrong", "said"), MISTAKES, ids=[said for _, said in MISTAKES])
def test_a_mistake_has_its_line_and_what_would_work(wrong: dict[str, Any], said: str) -> None:
    right = {"value": fs.count() > 0, "gap": 1, "horizon": 5, "lateness": 2, "matures": "horizon"}
    source = fs.BatchSource("events", fs.Parquet("x"), "at", COLUMNS)
    lengths = {n: fs.minutes(5) for n in ("gap", "horizon", "lateness")}
    options: dict[str, Any] = {**right, **lengths, **wrong}
    label = fs.Label("label", source, fs.Entity("who", key="k"), **options)
    with pytest.raises(DefinitionError) as caught:
        lower(declarations_in([label]), lambda _: COLUMNS)
    (problem,) = caught.value.problems
    assert said in problem.what
    assert problem.where is not None
    assert problem.where.file == __file__
    assert problem.help


def test_fingerprints_change_with_the_meaning_alone() -> None:
    base: dict[str, Any] = {
        "value": fs.count() > 0,
        "gap": 1,
        "horizon": 5,
        "lateness": 2,
        "matures": "horizon",
    }
    base["observed"] = "as_of"
    known = ir.label_fingerprint(plan_of(base).labels[0])
    assert ir.label_fingerprint(plan_of({**base, "value": fs.count() > 0}).labels[0]) == known
    others: list[dict[str, Any]] = [
        {"value": fs.count() > 1},
        {"value": fs.count("x") > 0},
        {"gap": 2},
        {"horizon": 6},
        {"lateness": 3},
        {"matures": "first_event"},
        {"observed": "last_event"},
    ]
    found = {ir.label_fingerprint(plan_of({**base, **other}).labels[0]) for other in others}
    assert len(found | {known}) == len(others) + 1
    plan = plan_of(base)
    assert ir.from_json(ir.to_json(plan)) == plan
    assert np.int64(plan.labels[0].delay) == 8 * MINUTE
