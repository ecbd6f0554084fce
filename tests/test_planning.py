"""Plan and apply: which effect every edit has, what is refused and why, and that exactly the plan is applied."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore import declare as d
from featurestore import ir, planning
from featurestore.errors import DefinitionError, PlanConflict, RegistryError, ServiceImmutable
from featurestore.expr import col
from featurestore.layout import storage_fingerprint
from featurestore.lower import lower
from featurestore.planning import Change, ChangePlan, Class, online_bytes, render
from featurestore.registry import Registry, Revision, open_registry, version_of
from featurestore.time import Duration, Lifetime, days, hours, lifetime, minutes
from featurestore.types import Bool, Date, Decimal, DType, Float64, Int32, Int64, String, Timestamp

NOON = 1_750_000_000_000_000
COLUMNS: dict[str, DType] = {
    "carrier": String,
    "origin": String,
    "left_at": Timestamp,
    "delay": Float64,
    "seats": Int64,
    "id": String,
}


def unknown(source: ir.Source) -> int | None:
    return None


def source(**options: Any) -> d.BatchSource:
    return d.BatchSource(
        "departures",
        **{"batch": d.Parquet("data/*.parquet"), "event_time": "left_at", "columns": COLUMNS, **options},
    )


def view(at: d.AnySource | None = None, **options: Any) -> d.FeatureView:
    defaults: dict[str, Any] = {
        "entity": d.Entity("carrier", key="carrier"),
        "source": source() if at is None else at,
        "features": [
            d.count().over(hours(1)),
            d.mean("delay").over(days(1), days(7), hop=hours(1)).named("late"),
            d.last("seats").over(days(7), hop=hours(1)),
        ],
    }
    return d.FeatureView("delays", **{**defaults, **options})


def plan_of(*declared: d.Declaration) -> ir.Plan:
    """The plan of these; of several things of one name, which the functions above make anew, the first counts."""
    found: dict[tuple[type, str], d.Declaration] = {}
    for item in d.declarations_in(declared):
        found.setdefault((type(item), item.name), item)
    return lower([*found.values()], lambda _: {})


def change_of(plan: ChangePlan, kind: str, name: str) -> Change | None:
    return next((c for c in plan.changes if (c.kind, c.name) == (kind, name)), None)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry("sqlite:///registry.db", tmp_path)


def step(registry: Registry, desired: ir.Plan, *, served: str = "") -> ChangePlan:
    """Plans and applies, then lets a service serve."""
    made = planning.plan(registry, desired, unknown)
    planning.apply(registry, made, "ada", NOON)
    if served:
        registry.mark_served(served, registry.service(served).version, NOON)
    return made


# --- every edit of a view has its effect ----------------------------------------------------------------


@dataclass(frozen=True)
class Edit:
    """An edit of the view above: what it is called, and a text that the reasons hold."""

    name: str
    after: d.FeatureView
    want: Class | None
    says: str = ""
    before: d.FeatureView | None = None


LATE = [d.mean("delay").over(days(1), days(7), hop=hours(1)).named("late")]
LATEST = view(features=[d.latest("seats")], ttl=hours(1))
EVENTS = d.StreamSource(
    "departures", d.Parquet("data/*.parquet"), d.Kafka("departures"), "left_at", COLUMNS, event_id="id"
)

EDITS = [
    Edit("nothing", view(), None),
    Edit("a description", view(description="how late"), "metadata only", "description none -> how late"),
    Edit("an owner", view(owner="ops"), "metadata only", "owner none -> ops"),
    Edit("a tag", view(tags=("a", "b")), "metadata only", "tags none -> a, b"),
    Edit("the order of features", view(features=[*reversed(view().features)]), "metadata only", "order of features"),
    Edit("an unrelated column of the source", view(source(columns={**COLUMNS, "gate": String})), None),
    Edit("the description of the source", view(source(description="flights")), None),
    Edit("a hop spelled out that is the default", view(
        features=[d.count().over(hours(1), hop=minutes(5)), *view().features[1:]]), None),
    Edit("a column widened and then used is the expression itself", view(
        source().with_columns(twice=col("delay") * 2), features=[d.mean("twice").over(days(1)).named("x")]),
        None, before=view(features=[d.mean(col("delay") * 2).over(days(1)).named("x")])),
    Edit("two filters of the source are one", view(source().where(col("seats") > 1).where(col("delay") > 0)),
        None, before=view(source().where((col("seats") > 1) & (col("delay") > 0)))),
    Edit("a default", view(features=[d.count().over(hours(1)), LATE[0].default(0.0), view().features[2]]),
        "state-compatible", "default of late_1d none -> 0.0"),
    Edit("another finish of the same partials", view(features=[d.stddev_pop("delay").over(days(1)).named("x")]),
        "state-compatible", "aggregate of x var_pop -> stddev_pop",
        before=view(features=[d.var_pop("delay").over(days(1)).named("x")])),
    Edit("a window within the kept tiles",
        view(features=[d.count().over(days(3), hop=hours(1)).named("n"), d.count().over(days(7), hop=hours(1))]),
        "state-compatible", "window of n 1d -> 3d",
        before=view(features=[d.count().over(days(1), hop=hours(1)).named("n"), d.count().over(days(7), hop=hours(1))])),
    Edit("one more feature of kept partials", view(
        features=[*view().features, d.sum("delay").over(days(2), hop=hours(1))]),
        "state-compatible", "feature delay_sum_2d added"),
    Edit("a ttl", view(features=[d.latest("seats")], ttl=hours(2)), "state-compatible", "ttl 1h -> 2h", before=LATEST),
    Edit("a ttl dropped", view(features=[d.latest("seats")]), "state-compatible", "ttl 1h -> none", before=LATEST),
    Edit("a longer window", view(features=[d.count().over(hours(2), hop=minutes(5)).named("n")]), "backfill",
        "window of n 1h -> 2h", before=view(features=[d.count().over(hours(1)).named("n")])),
    Edit("a lifetime", view(features=[d.count().over(lifetime, hop=minutes(5)).named("n")]), "backfill",
        "window of n 1h -> lifetime", before=view(features=[d.count().over(hours(1)).named("n")])),
    Edit("a hop", view(features=[d.count().over(hours(1), hop=minutes(1)), *view().features[1:]]), "backfill",
        "hop of count_1h 5m -> 1m"),
    Edit("a new partial", view(features=[*view().features, d.max("delay").over(days(1))]), "backfill",
        "feature delay_max_1d added"),
    Edit("a partial dropped", view(features=view().features[:2]), "backfill", "feature seats_last_7d removed"),
    Edit("an input", view(features=[d.count().over(hours(1)), d.mean("seats").over(days(1), days(7), hop=hours(1))
        .named("late"), view().features[2]]), "backfill", "input of late_1d delay -> seats"),
    Edit("a filter of a feature", view(features=[d.count().where(col("delay") > 0).over(hours(1)), *view().features[1:]]),
        "backfill", "filter of count_1h none -> delay > 0"),
    Edit("a filter of the source", view(source().where(col("delay") > 0)), "backfill", "filter none -> delay > 0"),
    Edit("a filter moved from the features to the source",
        view(source().where(col("delay") > 0), features=[d.count().over(hours(1))]), "backfill",
        before=view(features=[d.count().where(col("delay") > 0).over(hours(1))])),
    Edit("a join key", view(entity=d.Entity("origin", key="origin")), "backfill",
        "join keys carrier String = carrier -> origin String = origin"),
    Edit("a join key computed otherwise", view(source().with_columns(carrier=col("carrier").upper())), "backfill",
        "carrier.upper()"),
    Edit("the location", view(source(batch=d.Parquet("more/*.parquet"))), "backfill",
        "location parquet data/*.parquet -> parquet more/*.parquet"),
    Edit("the type of a column that is read", view(source(columns={**COLUMNS, "seats": Int32})), "backfill",
        "column seats Int64 -> Int32"),
    Edit("the type of a column that decides nothing", view(source(columns={**COLUMNS, "origin": Int64})), None),
    Edit("the event time", view(source(event_time="flew_at", columns={**COLUMNS, "flew_at": Timestamp})), "backfill",
        "event time left_at -> flew_at"),
    Edit("a tiebreak under a last value", view(source(tiebreak=["origin"])), "backfill", "origin"),
    Edit("a tiebreak under counts alone", view(source(tiebreak=["origin"]), features=[d.count().over(hours(1))]), None,
        before=view(features=[d.count().over(hours(1))])),
    Edit("an event id", view(source(event_id="id")), "backfill", "event id none -> id"),
    Edit("an arrival time", view(source(arrival_time="at", columns={**COLUMNS, "at": Timestamp}),
        features=[d.count().over(hours(1))]), "state-compatible", "arrival time none -> at",
        before=view(source(columns={**COLUMNS, "at": Timestamp}), features=[d.count().over(hours(1))])),
    Edit("the topic of a stream", view(replace(EVENTS, stream=d.Kafka("flights"))), "backfill",
        "stream kafka departures", before=view(EVENTS)),
    Edit("the lateness of a stream", view(replace(EVENTS, lateness=hours(2))), "backfill", "lateness 1h -> 2h",
        before=view(EVENTS)),
]  # fmt: skip


@pytest.mark.parametrize("edit", EDITS, ids=lambda e: e.name)
def test_an_edit_of_a_view_has_the_effect_its_name_says(edit: Edit, registry: Registry) -> None:
    before, after = plan_of(edit.before or view()), plan_of(edit.after)
    step(registry, before)
    made = planning.plan(registry, after, unknown)
    change = change_of(made, "view", "delays")
    assert (change.effect if change else None) == edit.want
    said = "" if change is None else "; ".join(change.reasons)
    assert edit.says in said
    assert "written otherwise" not in said
    assert made.blocked == ()
    assert made.is_empty == (before == after)
    same_values = ir.view_fingerprint(before.views[0]) == ir.view_fingerprint(after.views[0])
    same_bytes = storage_fingerprint(before.views[0]) == storage_fingerprint(after.views[0])
    assert same_values == (edit.want in (None, "metadata only"))
    assert same_bytes == (edit.want != "backfill")
    assert (change is not None and change.cost is not None) == (edit.want == "backfill")
    planning.apply(registry, made, "ada", NOON)
    assert planning.plan(registry, after, unknown).is_empty


@pytest.mark.parametrize(
    ("options", "want", "says"),
    [
        ({"description": "flights"}, "metadata only", "description none -> flights"),
        ({"columns": {**COLUMNS, "gate": String}}, "metadata only", "column gate added"),
        ({"columns": {**COLUMNS, "origin": Int64}}, "metadata only", "column origin String -> Int64"),
        ({"columns": {**COLUMNS, "seats": Int32}}, "backfill", "column seats Int64 -> Int32"),
        ({"batch": d.Csv("x.csv")}, "backfill", "location parquet data/*.parquet -> csv x.csv"),
        ({"tiebreak": ["id"]}, "backfill", "tiebreak none -> id"),
    ],
)
def test_a_source_has_the_effect_of_the_views_that_read_it(
    registry: Registry, options: Mapping[str, Any], want: str, says: str
) -> None:
    step(registry, plan_of(view()))
    change = change_of(
        planning.plan(registry, plan_of(view(source(**options))), unknown), "source", "departures"
    )
    assert change is not None
    assert change.effect == want
    assert says in change.reasons


def test_secrets_in_a_source_are_not_said(registry: Registry) -> None:
    def at(word: str) -> d.FeatureView:
        kafka = d.Kafka("departures", "host:9092", properties={"sasl.password": word, "acks": word[-1]})
        return view(replace(EVENTS, batch=d.Sql(f"postgresql://u:{word}@h/db", "SELECT 1"), stream=kafka))

    with pytest.raises(DefinitionError) as refused:
        plan_of(at("hush1"))
    said = str(refused.value)
    assert "hush" not in said
    assert "source 'departures' has a password written out in dsn" in said
    assert "source 'departures' has a password written out in sasl.password" in said

    step(registry, plan_of(at("${HUSH_1}")))
    made = planning.plan(registry, plan_of(at("${HUSH_2}")), unknown)
    assert {c.effect for c in made.changes} == {"metadata only"}  # who logs in decides no value


def test_an_unread_source_and_a_renamed_one_are_told_apart(registry: Registry) -> None:
    step(registry, plan_of(view(), replace(source(), name="other")))
    renamed = view(replace(source(), name="flights"))
    made = planning.plan(registry, plan_of(renamed, replace(source(batch=d.Csv("y")), name="other")), unknown)
    assert [(c.kind, c.name, c.action, c.effect) for c in made.changes] == [
        ("source", "departures", "removed", "removed"),
        ("source", "flights", "added", "new"),
        ("source", "other", "changed", "metadata only"),
        ("view", "delays", "changed", "metadata only"),
    ]


def test_the_first_plan_is_all_new_with_what_it_costs() -> None:
    made = planning.diff(
        open_registry("sqlite:///none.db", Path("/nonexistent")).current(),
        [],
        plan_of(view(), d.FeatureService("delay", [view()])),
        lambda _: 328_521,
    )
    assert {c.effect for c in made.changes} == {"new"}
    assert render(made)[:4] == [
        "+ entity carrier  new",
        "+ source departures  new",
        "+ view delays  new: 4 features; backfill of 328,521 rows (about 13.1 MB); at most 8.5 kB online per entity",
        "+ service delay  new: 4 columns",
    ]
    change = change_of(made, "view", "delays")
    assert change is not None
    assert change.cost is not None
    assert change.cost.bytes == 328_521 * (16 + 8 + 8 + 8)  # carrier, left_at, delay, seats, and nothing else
    assert change.cost.online_bytes == 13 * (8 + 8 + 1) + 169 * (8 + 16 + 8 + 16 + 1)
    assert planning.summary(made) == "4 added"


def test_costs_that_nobody_knows_are_none() -> None:
    made = planning.diff(Revision(), [], plan_of(view()), unknown)
    change = change_of(made, "view", "delays")
    assert change is not None
    assert change.cost is not None
    assert (change.cost.rows, change.cost.bytes) == (None, None)
    assert "an unknown number of rows" in "\n".join(render(made))


def test_online_bytes_count_the_tiles_a_window_can_need() -> None:
    one_hour = plan_of(view(features=[d.count().over(hours(1))])).views[0]
    assert online_bytes(one_hour) == 13 * (8 + 8 + 1)  # twelve hops of five minutes and the open one
    latest = plan_of(view(features=[d.latest("seats"), d.latest("origin")])).views[0]
    assert online_bytes(latest) == 8 + 8 + 16 + 1


# --- services -------------------------------------------------------------------------------------------


def test_a_service_that_never_served_is_edited_in_place(registry: Registry) -> None:
    step(registry, plan_of(d.FeatureService("delay", [view()])))
    made = step(registry, plan_of(d.FeatureService("delay", [view()["late_1d"]])))
    change = change_of(made, "service", "delay")
    assert change is not None
    assert change.effect == "state-compatible"
    assert change.reasons == (
        "column count_1h removed",
        "column late_7d removed",
        "column seats_last_7d removed",
    )
    (version,) = registry.services()
    assert version.reference == "delay@1"
    assert [r.output for r in version.service.reads] == ["late_1d"]


def test_columns_appended_to_a_service_that_served_make_the_next_version(registry: Registry) -> None:
    first = plan_of(d.FeatureService("delay", [view()["late_1d"]]), view())
    step(registry, first, served="delay")
    made = step(registry, plan_of(d.FeatureService("delay", [view()["late_1d", "late_7d"]]), view()))
    change = change_of(made, "service", "delay")
    assert change is not None
    assert change.effect == "state-compatible"
    assert change.reasons == (
        "column late_7d appended",
        "becomes delay@2; delay@1 stays as it was served",
    )
    assert [r.output for r in registry.service("delay").service.reads] == ["late_1d", "late_7d"]
    assert registry.service("delay@1") == replace(version_of(first, "delay", 1), first_served_at=NOON)
    # The second has not served yet, so it is edited in place, and still held to what the first has served.
    step(registry, plan_of(d.FeatureService("delay", [view()["late_1d", "count_1h"]]), view()))
    assert [v.reference for v in registry.services()] == ["delay@1", "delay@2"]
    assert [r.output for r in registry.service("delay").service.reads] == ["late_1d", "count_1h"]
    assert planning.plan(registry, plan_of(d.FeatureService("delay", [view()["count_1h"]])), unknown).blocked


def test_max_staleness_makes_the_next_version_and_words_do_not(registry: Registry) -> None:
    step(registry, plan_of(d.FeatureService("delay", [view()])), served="delay")
    made = step(registry, plan_of(d.FeatureService("delay", [view()], owner="ops")))
    assert [(c.effect, c.reasons) for c in made.changes] == [("metadata only", ("owner none -> ops",))]
    made = step(registry, plan_of(d.FeatureService("delay", [view()], owner="ops", max_staleness=hours(1))))
    assert made.changes[0].reasons[0] == "max_staleness none -> 1h"
    assert [v.reference for v in registry.services()] == ["delay@1", "delay@2"]


def changed(**options: Any) -> d.FeatureService:
    return d.FeatureService("delay", [view(**options)["count_1h", "late_1d"]])


@dataclass(frozen=True)
class Break:
    name: str
    after: tuple[d.Declaration, ...]
    says: str
    view_too: bool


BREAKS = [
    Break("a column removed", (d.FeatureService("delay", [view()["late_1d"]]),), "column count_1h removed", False),
    Break("columns reordered", (d.FeatureService("delay", [view()["late_1d", "count_1h"]]),),
        "columns reordered count_1h, late_1d -> late_1d, count_1h", False),
    Break("a column put between", (d.FeatureService("delay", [view()["count_1h", "late_7d", "late_1d"]]),),
        "column late_7d put before late_1d", False),
    Break("a column looked up otherwise", (d.FeatureService("delay", [view().on(carrier="origin")["count_1h", "late_1d"]]),),
        "column count_1h: looked up by carrier = carrier -> carrier = origin", False),
    Break("a default", (changed(features=[d.count().over(hours(1)), LATE[0].default(0.0), view().features[2]]),),
        "column late_1d: default none -> 0.0", True),
    Break("a filter", (changed(source=source().where(col("seats") > 0)),),
        "column late_1d: filter none -> seats > 0", True),
    Break("a retyped input", (changed(source=source(columns={**COLUMNS, "delay": Decimal(9, 2)})),),
        "column late_1d: column delay Float64 -> Decimal(9, 2)", True),
    Break("a retyped column", (d.FeatureService("delay", [view(
        features=[d.count().over(hours(1)), d.max("seats").over(days(1)).named("late_1d")])["count_1h", "late_1d"]]),),
        "column late_1d: type Float64 -> Int64, aggregate mean -> max, input delay -> seats", True),
    Break("another location", (changed(source=source(batch=d.Csv("x.csv"))),),
        "column count_1h: location parquet data/*.parquet -> csv x.csv", True),
    Break("a feature removed from the view", (d.FeatureService("delay", [view(features=LATE)["late_1d"]]),),
        "column count_1h removed", True),
    Break("a view removed", (d.FeatureService("delay", [replace(view(), name="other")["late_1d"]]),),
        "column count_1h removed", False),
]  # fmt: skip


@pytest.mark.parametrize("case", BREAKS, ids=lambda b: b.name)
def test_what_breaks_a_service_that_served_is_refused_with_the_way_out(
    case: Break, registry: Registry
) -> None:
    step(registry, plan_of(view(), changed()), served="delay")
    before = registry.current(), registry.services()
    made = planning.plan(registry, plan_of(*case.after), unknown)
    change, at = change_of(made, "service", "delay"), change_of(made, "view", "delays")
    assert change is not None
    assert change.effect == "breaking"
    assert case.says in change.reasons
    if case.view_too:
        assert at is not None
        assert at.effect == "breaking"
        assert at.reasons[-1] == "read by delay@1"
    (refusal,) = made.blocked
    assert refusal.startswith(
        "feature service 'delay' may not change: delay@1 has served since 2025-06-15T15:06:40+00:00"
    )
    assert f"- {case.says}" in refusal
    assert "the service becomes delay@2" in refusal
    assert any(line.startswith("! service delay  breaking") for line in render(made))
    assert any(line.startswith("refused: ") for line in render(made))
    with pytest.raises(ServiceImmutable, match="may not change"):
        planning.apply(registry, made, "ada", NOON)
    with pytest.raises(ServiceImmutable):
        planning.apply(registry, ChangePlan.from_json(made.to_json()), "ada", NOON)
    assert (registry.current(), registry.services()) == before


@pytest.mark.parametrize("case", BREAKS, ids=lambda b: b.name)
def test_the_same_edits_pass_while_the_service_has_not_served(case: Break, registry: Registry) -> None:
    step(registry, plan_of(view(), changed()))
    step(registry, plan_of(*case.after))
    assert [v.reference for v in registry.services()] == ["delay@1"]
    assert planning.plan(registry, plan_of(*case.after), unknown).is_empty


def test_the_way_out_works_the_new_feature_beside_the_old_one(registry: Registry) -> None:
    step(registry, plan_of(view(), changed()), served="delay")
    wider = view(
        features=[*view().features, d.mean("delay").over(days(1), hop=hours(1)).named("late0").default(0.0)]
    )
    made = step(registry, plan_of(d.FeatureService("delay", [wider["count_1h", "late_1d"], wider["late0"]])))
    assert made.blocked == ()
    assert registry.service("delay").reference == "delay@2"


def test_a_service_that_served_can_be_retired_and_come_back_as_the_next_version(registry: Registry) -> None:
    step(registry, plan_of(view(), changed()), served="delay")
    made = step(registry, plan_of(view()))
    assert [(c.name, c.effect) for c in made.changes] == [("delay", "removed")]
    assert made.retired == ("delay",)
    assert any("delay@1 stays on record" in w for w in made.warnings)
    assert registry.service("delay@1").retired
    step(registry, plan_of(d.FeatureService("delay", [view()["late_7d"]])))
    assert registry.service("delay").reference == "delay@2"
    assert planning.plan(registry, plan_of(view()), unknown).warnings == ()


def test_a_view_that_a_service_still_reads_is_not_removed() -> None:
    whole = plan_of(
        view(), d.FeatureService("delay", [view()]), d.FeatureService("other", [view()["late_1d"]])
    )
    now = Revision(1, NOON, "ada", "", whole)
    without = replace(whole, views=(), entities=(), sources=())
    made = planning.diff(now, [version_of(whole, n, 1) for n in ("delay", "other")], without, unknown)
    assert made.blocked == (
        "feature view 'delays' is gone, and still read by feature service 'delay', 'other'",
    )
    fewer = plan_of(view(features=LATE)).views
    made = planning.diff(now, [], replace(whole, views=fewer), unknown)
    assert (
        "feature 'count_1h' of view 'delays' is gone, and still read by feature service 'delay'"
        in made.blocked
    )
    made = planning.diff(now, [], replace(whole, sources=(), entities=()), unknown)
    assert made.blocked == (
        "entity 'carrier' is gone, and feature view 'delays' is still about it",
        "source 'departures' is gone, and feature view 'delays' still reads it",
    )


def test_an_old_version_is_read_from_what_is_materialised_today(registry: Registry) -> None:
    step(registry, plan_of(view(), changed()), served="delay")
    wider = replace(view(features=[*view().features, d.max("seats").over(days(30))]), name="carrier_delays")
    made = step(
        registry, plan_of(d.FeatureService("delay", [wider["count_1h", "late_1d"], wider["late_7d"]]))
    )
    assert made.blocked == ()
    old, now = registry.service("delay@1"), registry.current().plan
    service, views = planning.readable(old, now)
    assert [(r.view, r.feature, r.output) for r in service.reads] == [
        ("carrier_delays", "count_1h", "count_1h"),
        ("carrier_delays", "late_1d", "late_1d"),
    ]
    assert views == {"carrier_delays": now.view("carrier_delays")}
    assert ir.service_fingerprint(service, views) == old.fingerprint


def test_a_retired_version_is_read_as_it_was_frozen(registry: Registry) -> None:
    step(registry, plan_of(view(), changed()), served="delay")
    step(registry, plan_of(view(features=[d.count().over(hours(2))])))
    old = registry.service("delay@1")
    assert planning.readable(old, registry.current().plan) == (old.service, {"delays": old.view("delays")})


# --- warnings -------------------------------------------------------------------------------------------


def test_a_static_source_that_is_read_is_warned_about(registry: Registry) -> None:
    static = view(source(event_time=None), features=[d.latest("delay")])
    (warning,) = planning.plan(registry, plan_of(static), unknown).warnings
    assert warning.startswith("source 'departures' is static: delays can see what was not yet known")
    assert planning.plan(registry, plan_of(source(event_time=None)), unknown).warnings == ()


def test_whole_numbers_that_a_float32_tensor_may_round_are_warned_about(registry: Registry) -> None:
    desired = plan_of(d.FeatureService("delay", [view()]))
    (warning,) = planning.plan(registry, desired, lambda _: 2**24 + 1).warnings
    assert "reads whole numbers (count_1h, seats_last_7d): past 16,777,216" in warning
    (warning,) = planning.plan(registry, desired, lambda _: 2**24).warnings
    assert "(seats_last_7d)" in warning


def test_a_service_without_numbers_is_warned_about(registry: Registry) -> None:
    words = view(features=[d.latest("origin")])
    (warning,) = planning.plan(registry, plan_of(d.FeatureService("where", [words])), unknown).warnings
    assert warning.startswith("feature service 'where' reads no numbers")


def test_rows_are_asked_for_once_per_source(registry: Registry) -> None:
    asked: list[str] = []

    def rows(source: ir.Source) -> int:
        asked.append(source.name)
        return 5

    planning.plan(
        registry, plan_of(view(), replace(view(), name="more"), d.FeatureService("s", [view()])), rows
    )
    assert asked == ["departures"]


# --- the record, and applying it ------------------------------------------------------------------------


def test_a_plan_that_was_saved_is_applied_as_it_was_made(registry: Registry, tmp_path: Path) -> None:
    made = planning.plan(registry, plan_of(d.FeatureService("delay", [view()])), lambda _: 7)
    file = tmp_path / "plan.json"
    file.write_text(made.to_json(), encoding="utf-8")
    again = ChangePlan.from_json(file.read_text(encoding="utf-8"))
    assert again == made
    assert again.to_json() == made.to_json()
    revision = planning.apply(registry, again, "ada", NOON)
    assert (revision.number, revision.author, revision.description) == (1, "ada", "4 added")
    assert revision.plan == made.desired == registry.current().plan
    assert registry.audit()[0].details["changes"][0]["name"] == "carrier"
    with pytest.raises(PlanConflict, match=r"at revision 1.*\n  ada applied revision 1 in between"):
        planning.apply(registry, again, "bob", NOON)


def test_applying_an_empty_plan_writes_nothing(registry: Registry) -> None:
    step(registry, plan_of(view()))
    made = planning.plan(registry, plan_of(view()), unknown)
    assert made.is_empty
    assert render(made) == ["nothing would change"]
    assert planning.apply(registry, made, "bob", NOON).number == 1
    assert len(registry.history()) == 1
    step(registry, plan_of(view(owner="ops")))
    with pytest.raises(PlanConflict, match="at revision 2"):
        planning.apply(registry, made, "bob", NOON)


def test_a_service_that_begins_to_serve_between_plan_and_apply_is_not_replaced(registry: Registry) -> None:
    step(registry, plan_of(d.FeatureService("delay", [view()])))
    made = planning.plan(registry, plan_of(d.FeatureService("delay", [view()["late_1d"]])), unknown)
    registry.mark_served("delay", 1, NOON)
    with pytest.raises(ServiceImmutable, match="has served since this was planned"):
        planning.apply(registry, made, "ada", NOON)
    assert registry.current().number == 1


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda _: "", "not a saved plan"),
        (lambda t: t[:-20], "not a saved plan"),
        (lambda _: "[]", "not a saved plan"),
        (lambda _: '{"plan": {}}', "not a saved plan"),
        (lambda t: t.replace('"new"', '"removed"'), "changed after it was saved"),
        (lambda t: t.replace('"base_revision":0', '"base_revision":1'), "changed after it was saved"),
        (lambda t: t.replace('"format":1', '"format":2'), "has format 2, not 1"),
    ],
)
def test_a_file_that_is_no_plan_is_said_to_be_none(spoil: Callable[[str], str], says: str) -> None:
    text = planning.diff(Revision(), [], plan_of(view()), unknown).to_json()
    with pytest.raises(RegistryError, match=says):
        ChangePlan.from_json(spoil(text))


# --- laws -----------------------------------------------------------------------------------------------

AGGREGATIONS = st.sampled_from(
    [d.count(), *(make("seats") for make in (d.sum, d.mean, d.min, d.max, d.last)), d.count("id")]
)
WINDOWS: st.SearchStrategy[Duration | Lifetime] = st.sampled_from([hours(1), hours(6), days(7), lifetime])
CONDITIONS = st.sampled_from([None, col("delay") > 0, col("origin") == "EWR", col("seats").is_null()])
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def features(draw: st.DrawFn) -> list[d.Aggregation]:
    made = []
    for n in range(draw(st.integers(1, 4))):
        feature = draw(AGGREGATIONS).over(draw(WINDOWS), hop=minutes(5)).named(f"f{n}")
        condition = draw(CONDITIONS)
        feature = feature if condition is None else feature.where(condition)
        whole = feature.aggregate != "mean"
        made.append(
            feature.default(draw(st.integers(-9, 9)) if whole else 0.5) if draw(st.booleans()) else feature
        )
    return made


@st.composite
def plans(draw: st.DrawFn) -> ir.Plan:
    condition = draw(CONDITIONS)
    at = source(description=draw(WORDS), tiebreak=draw(st.sampled_from([[], ["id"]])))
    made = view(
        at if condition is None else at.where(condition),
        features=draw(features()),
        tags=draw(st.lists(WORDS, max_size=2)),
    )
    service = d.FeatureService(
        "delay", [made], max_staleness=draw(st.sampled_from([None, hours(1)])), owner=draw(WORDS)
    )
    return plan_of(made, *([service] if draw(st.booleans()) else []))


@given(plans())
def test_a_plan_and_its_json_are_one(plan: ir.Plan) -> None:
    text = ir.canonical(ir.to_json(plan))
    again = ir.from_json(json.loads(text))
    assert again == plan
    assert ir.canonical(ir.to_json(again)) == text
    assert [storage_fingerprint(v) for v in again.views] == [storage_fingerprint(v) for v in plan.views]


@given(plans(), plans())
def test_two_plans_differ_exactly_when_something_would_change(old: ir.Plan, new: ir.Plan) -> None:
    versions = [version_of(old, s.name, 1) for s in old.services]
    made = planning.diff(Revision(1, NOON, "ada", "", old), versions, new, unknown)
    assert made.is_empty == (old == new)
    assert made.blocked == ()
    assert ChangePlan.from_json(made.to_json()) == made
    for change in made.changes:
        assert change.reasons or change.kind in ("entity", "source", "service")
        assert "written otherwise" not in change.reasons


@given(plans(), plans())
def test_a_service_that_served_keeps_every_column_through_whatever_is_applied(
    old: ir.Plan, new: ir.Plan
) -> None:
    versions = [replace(version_of(old, s.name, 1), first_served_at=NOON) for s in old.services]
    made = planning.diff(Revision(1, NOON, "ada", "", old), versions, new, unknown)
    for version in versions:
        if made.blocked or version.name in made.retired:
            continue
        now = new.service(version.name)
        kept = replace(version.service, reads=now.reads[: len(version.service.reads)])
        assert [r.output for r in kept.reads] == [r.output for r in version.service.reads]
        assert ir.service_fingerprint(kept, {v.name: v for v in new.views}) == version.fingerprint
        service, views = planning.readable(version, new)
        assert views == {v.name: v for v in new.views}
        assert ir.service_fingerprint(service, views) == version.fingerprint


def test_every_type_survives_the_json_of_a_plan() -> None:
    columns: dict[str, DType] = {
        "carrier": String,
        "t": Timestamp,
        "b": Bool,
        "dt": Date,
        "x": Decimal(9, 2),
        "f": Float64,
        "i": Int32,
    }
    at = d.BatchSource("s", d.Parquet("x"), "t", columns)
    kept = [
        d.latest("b").default(value=True),
        d.latest("dt"),
        d.latest("x").default(1.25),
        d.latest("f").default(1),
    ]
    plan = plan_of(view(at, features=[*kept, d.latest("i").default(3), d.latest("carrier").default("ü\0")]))
    assert ir.from_json(json.loads(ir.canonical(ir.to_json(plan)))) == plan
