"""From declarations to a plan: each kind of mistake with its line and what would work, and all of them at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from featurestore import declare as d
from featurestore import ir
from featurestore.declare import declarations_in
from featurestore.errors import DefinitionError, SourceError, Where
from featurestore.expr import col
from featurestore.layout import storage_fingerprint
from featurestore.lower import lower
from featurestore.time import DAY, HOUR, MINUTE, days, hours, lifetime, minutes
from featurestore.types import Decimal, DType, Float64, Int32, Int64, String, Timestamp

PRELUDE = """\
from featurestore import *
from featurestore import declare as fs
columns = {"k": String, "n": Int32, "amount": Float64, "at": Timestamp, "good": Bool, "price": Decimal(12, 2),
           "wide": Decimal(30, 2), "tags": List(String)}
who = Entity("who", key="k")
src = BatchSource("events", batch=Parquet("events.parquet"), event_time="at", columns=columns)
static = BatchSource("static", batch=Parquet("static.parquet"), columns=columns)
week = count().over(days(7))
"""


@dataclass(frozen=True)
class Mistake:
    """Definitions after the prelude; the line with `# here` is wrong, in the words `what`, and `help` is among the help."""

    name: str
    text: str
    what: str
    help: str


def view(features: str, source: str = "src", more: str = "") -> str:
    return f'v = FeatureView("v", who, {source}, [\n    {features},\n]{more})'


MISTAKES = [
    Mistake(
        "an unknown column has the nearest right one",
        view('sum("amonut").over(days(7))  # here'),
        "unknown column 'amonut'",
        "did you mean 'amount'?",
    ),
    Mistake(
        "an unknown column far from all others has all of them",
        view('sum("zzz").over(days(7))  # here'),
        "unknown column 'zzz'",
        "feature view 'v' takes the sum of it, but there is amount, at, good, k, n, price, tags, wide",
    ),
    Mistake(
        "an unknown column inside an expression",
        view('sum(col("amonut") * 2).over(days(7)).named("twice")  # here'),
        "unknown column 'amonut'",
        "did you mean 'amount'?",
    ),
    Mistake(
        "an unknown column in a filter",
        view('sum("amount").over(days(7)).where(col("amonut") > 2)  # here'),
        "unknown column 'amonut'",
        "did you mean 'amount'?",
    ),
    Mistake(
        "an expression of the wrong types",
        view('sum(col("k") * 2).over(days(7)).named("twice")  # here'),
        "*",
        "feature view 'v' takes the sum of it",
    ),
    Mistake(
        "a filter that is no condition",
        view('sum("amount").over(days(7)).where(col("amount"))  # here'),
        "the filter of sum in feature view 'v' is Float64, not Bool",
        'compare it with something: col("amount") > 0',
    ),
    Mistake(
        "a source's filter that is no condition",
        'v = FeatureView("v", who, src.where(col("amount")), [week])  # here',
        "the filter of feature view 'v' is Float64, not Bool",
        'compare it with something: col("amount") > 0',
    ),
    Mistake(
        "an aggregate of a type it does not take",
        view('sum("k").over(days(7))  # here'),
        "feature view 'v' takes the sum of String",
        "sum takes numbers",
    ),
    Mistake(
        "a decimal too wide to sum",
        view('sum("wide").over(days(7))  # here'),
        "column 'wide' is Decimal(30, 2): expressions keep 18 digits",
        "declare the column as Decimal(18, 2) or Float64",
    ),
    Mistake(
        "the least of texts",
        view('fs.min("k").over(days(7))  # here'),
        "feature view 'v' takes the min of String",
        "min takes numbers, timestamps, dates and booleans",
    ),
    Mistake(
        "the greatest by a text",
        view('fs.max_by("amount", "k").over(days(7))  # here'),
        "feature view 'v' takes the max_by of Float64, String",
        "max_by takes a scalar or string, by numbers, timestamps, dates or booleans",
    ),
    Mistake(
        "a list of lists",
        view('fs.last_k("tags", 3).over(days(7))  # here'),
        "feature view 'v' takes the last_k of List(String)",
        "last_k takes scalars and strings",
    ),
    Mistake(
        "the largest texts",
        view('fs.largest_k("k", 3).over(days(7))  # here'),
        "feature view 'v' takes the largest_k of String",
        "largest_k takes numbers, timestamps, dates and booleans",
    ),
    Mistake(
        "a list of nothing",
        view('fs.last_k("amount", 0).over(days(7))  # here'),
        "feature view 'v': last_k with k=0",
        "k is a whole number from 1 to 10000",
    ),
    Mistake(
        "a rank that is a percentage",
        view('fs.quantile("amount", 95).over(days(7))  # here'),
        "feature view 'v': quantile with p=95",
        "p is a number of at most 6 decimals from 0 to 1",
    ),
    Mistake(
        "a rank of too many digits",
        view('fs.quantile("amount", 1 / 3).over(days(7))  # here'),
        "feature view 'v': quantile with p=0.3333333333333333",
        "p is a number of at most 6 decimals from 0 to 1",
    ),
    Mistake(
        "a bound that is no number",
        view('fs.histogram("k", bound="many").over(days(7))  # here'),
        "feature view 'v': histogram with bound='many'",
        "bound is a whole number from 1 to 100000",
    ),
    Mistake(
        "a default in place of a list",
        view('fs.last_k("k", 3).over(days(7)).default("none")  # here'),
        "default 'none' does not fit a List(String)",
        "give a List(String), or no default",
    ),
    Mistake(
        "an input that is neither column nor expression",
        view("sum(3).over(days(7))  # here"),
        "3 is neither a column name nor an expression",
        'write "amount" or col("amount") * 2',
    ),
    Mistake(
        "a feature that is none",
        'v = FeatureView("v", who, src, ["amount"])  # here',
        "feature view 'v' holds 'amount', which is not a feature",
        'features are written as count().over(days(7)) or latest("seats")',
    ),
    Mistake(
        "an aggregate without a window",
        view('mean("amount")  # here'),
        "feature view 'v': mean has no window",
        "add .over(days(7)) or .over(lifetime)",
    ),
    Mistake(
        "a latest value with a window",
        view('latest("amount").over(days(7))  # here'),
        "feature view 'v': latest(…) has no window",
        "drop .over(…), and bound its age by ttl= of the view; last(…).over(…) is the windowed one",
    ),
    Mistake(
        "a latest value with a filter",
        view('latest("amount").where(col("good"))  # here'),
        "feature view 'v': latest(…) has no filter of its own",
        "filter the source: source.where(…), in a view of its own",
    ),
    Mistake(
        "a window its hop does not divide",
        view("count().over(minutes(50), hop=minutes(7))  # here"),
        "a window of 50m is not a whole number of hops of 7m",
        "hop=5m divides it",
    ),
    Mistake(
        "a window shorter than a second",
        view("count().over(seconds(0.3))  # here"),
        "a window of 300000us is not a whole number of hops of 1s",
        "name a hop that divides it",
    ),
    Mistake(
        "a window that is a number",
        view("count().over(7)  # here"),
        "7 is not a window",
        "a window is days(7), hours(1), … or lifetime",
    ),
    Mistake(
        "windows over a static source",
        view("week", source="static").replace("week,", "count().over(days(7)),  # here"),
        "feature view 'v': count needs events, and source 'static' is static",
        "name its event_time, or read it by latest(…)",
    ),
    Mistake(
        "an expression without a name",
        view('sum(col("amount") * 2).over(days(7))  # here'),
        "feature view 'v': the sum of amount * 2 needs a name",
        'add .named("…")',
    ),
    Mistake(
        "a name that is none",
        view('sum("amount").over(days(7)).named("7 days")  # here'),
        "'7 days' is not a name",
        "a name is letters, digits and single underscores, and begins with a letter",
    ),
    Mistake(
        "a name with two underscores",
        view('sum("amount").over(days(7)).named("a__b")  # here'),
        "'a__b' is not a name",
        "a name is letters, digits and single underscores, and begins with a letter",
    ),
    Mistake(
        "two features of one name",
        view('sum("amount").over(days(7)),\n    sum("amount").over(days(7)).where(col("good"))  # here'),
        "feature view 'v' has two features named 'amount_sum_7d'",
        'tell them apart with .named("…")',
    ),
    Mistake(
        "a default of another type",
        view('sum("n").over(days(7)).default("none")  # here'),
        "default 'none' does not fit a Int64",
        "give a Int64, or no default",
    ),
    Mistake(
        "a boolean default of a number",
        view('sum("n").over(days(7)).default(True)  # here'),
        "default True does not fit a Int64",
        "give a Int64, or no default",
    ),
    Mistake(
        "a default that is no number",
        view('mean("n").over(days(7)).default(float("nan"))  # here'),
        "default nan does not fit a Float64",
        "give a Float64, or no default",
    ),
    Mistake(
        "a default of a 32-bit number that is too large",
        view('latest("n").default(2**31)  # here'),
        "default 2147483648 does not fit a Int32",
        "give a Int32, or no default",
    ),
    Mistake(
        "a default of a decimal with too many places",
        view('latest("price").default(0.125)  # here'),
        "default 0.125 does not fit a Decimal(12, 2)",
        "give a Decimal(12, 2), or no default",
    ),
    Mistake(
        "a default of a decimal with too many digits",
        view('latest("price").default(10**12)  # here'),
        "default 1000000000000 does not fit a Decimal(12, 2)",
        "give a Decimal(12, 2), or no default",
    ),
    Mistake(
        "a default of a decimal that is infinite",
        view('latest("price").default(float("inf"))  # here'),
        "default inf does not fit a Decimal(12, 2)",
        "give a Decimal(12, 2), or no default",
    ),
    Mistake(
        "a ttl on windows",
        'v = FeatureView("v", who, src, [week], ttl=days(1))  # here',
        "feature view 'v' has a ttl, and windows, which forget by themselves",
        "put latest(…) values with a ttl into a view of their own",
    ),
    Mistake(
        "a view of nothing",
        'v = FeatureView("v", who, src, [])  # here',
        "feature view 'v' has no features",
        "give it at least one, such as count().over(days(7))",
    ),
    Mistake(
        "a join key that the source does not have",
        'someone = Entity("someone", key="card")\nv = FeatureView("v", someone, src, [week])  # here',
        "unknown column 'card'",
        "feature view 'v' looks entity 'someone' up by it, but there is amount, at, good, k, n, price, tags, wide",
    ),
    Mistake(
        "a join key of a type that is none",
        'someone = Entity("someone", key="amount")\nv = FeatureView("v", someone, src, [week])  # here',
        "join key 'amount' of feature view 'v' is Float64",
        "a join key is Int64, Int32 or String; cast it with source.with_columns(…)",
    ),
    Mistake(
        "a join key of two types",
        'a = FeatureView("a", who, src, [week])\n'
        'b = FeatureView("b", who, src.with_columns(k=col("n").cast(Int64)), [week])  # here',
        "join key 'k' of entity 'who' has two types",
        "feature view 'a' reads String, feature view 'b' reads Int64",
    ),
    Mistake(
        "an entity without a key",
        'nobody = Entity("nobody")  # here',
        "entity 'nobody' needs its join key",
        'give key="card_id", or keys=("origin", "dest") for several; one of the two',
    ),
    Mistake(
        "an entity with a key twice",
        'twice = Entity("twice", keys=("a", "a"))  # here',
        "entity 'twice' names a join key twice",
        "",
    ),
    Mistake(
        "two views of one name",
        'a = FeatureView("v", who, src, [week])\nb = FeatureView("v", who, src, [week])  # here',
        "feature view 'v' is declared twice",
        "the first is at ",
    ),
    Mistake(
        "a name of a view that is none",
        'v = FeatureView("my view", who, src, [week])  # here',
        "feature view name 'my view' is not a name",
        "a name is letters, digits and single underscores, and begins with a letter",
    ),
    Mistake(
        "an event time that does not exist",
        's = BatchSource("s", batch=Parquet("s.parquet"), event_time="att", columns=columns)  # here',
        "unknown column 'att'",
        "did you mean 'at'?",
    ),
    Mistake(
        "an event time that is no time",
        's = BatchSource("s", batch=Parquet("s.parquet"), event_time="n", columns=columns)  # here',
        "event_time 'n' of source 's' is Int32, not Timestamp",
        "declare it so in columns={…}, or write the files with a timestamp type",
    ),
    Mistake(
        "a tiebreak that does not exist",
        's = BatchSource("s", batch=Parquet("s.parquet"), event_time="at", columns=columns, tiebreak=("m",))  # here',
        "unknown column 'm'",
        "source 's' orders events by it, but there is amount, at, good, k, n, price, tags, wide",
    ),
    Mistake(
        "an arrival without an event time",
        's = BatchSource("s", batch=Parquet("s.parquet"), arrival_time="at", columns=columns)  # here',
        "source 's' has an arrival time but no event time",
        "name the event_time, or drop arrival_time: a static source is visible always",
    ),
    Mistake(
        "a source whose file is missing",
        's = BatchSource("s", batch=Parquet("nothing.parquet"))  # here',
        "source 's': no file matches nothing.parquet",
        "a path is relative to the folder of fs.toml",
    ),
    Mistake(
        "a service of nothing",
        'x = FeatureService("x", [])  # here',
        "feature service 'x' reads nothing",
        "give it at least one view",
    ),
    Mistake(
        "a service of something else",
        'x = FeatureService("x", [week])  # here',
        "*",
        'give views, view["feature"] or view.on(key="column")',
    ),
    Mistake(
        "a feature that the view does not have",
        'v = FeatureView("v", who, src, [week])\nx = FeatureService("x", [v["count_7days"]])  # here',
        "feature view 'v' has no feature 'count_7days'",
        "did you mean 'count_7d'?",
    ),
    Mistake(
        "a join key that the view does not have",
        'v = FeatureView("v", who, src, [week])\nx = FeatureService("x", [v.on(key="dest")])  # here',
        "feature view 'v' has no join key 'key'",
        "there is k",
    ),
    Mistake(
        "a view read twice under one name",
        'v = FeatureView("v", who, src, [week])\nx = FeatureService("x", [v, v.on(k="other")])  # here',
        "feature service 'x' reads two columns named 'count_7d'",
        'tell them apart with view.on(…, prefix="…")',
    ),
    Mistake(
        "what is no expectation",
        'v = FeatureView("v", who, src, [week])\nx = FeatureService("x", [v], expectations=[1])  # here',
        "feature service 'x' expects 1, which is no expectation",
        'expectations are written as expect.not_null("carrier") or expect.between("dep_delay", -60, 1500)',
    ),
    Mistake(
        "a way to do without the store that there is not",
        'v = FeatureView("v", who, src, [week])\nx = FeatureService("x", [v], on_unavailable="guess")  # here',
        "feature service 'x' has on_unavailable='guess'",
        "there is 'fail', 'last_known' and 'default'",
    ),
]


def load(text: str, file: Path) -> ir.Plan:
    """The plan of the definitions in `text`, as if they stood in `file`."""
    module: dict[str, Any] = {}
    exec(compile(PRELUDE + text, str(file), "exec"), module)
    return lower(declarations_in(module.values()), schema_of)


def schema_of(source: d.BatchSource | d.StreamSource) -> Mapping[str, DType]:
    path = getattr(source.batch, "path", "")
    raise SourceError(f"no file matches {path}\n  looked in .\n  a path is relative to the folder of fs.toml")


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.name)
def test_a_mistake_has_its_line_and_what_would_work(mistake: Mistake, tmp_path: Path) -> None:
    file = tmp_path / "views.py"
    with pytest.raises(DefinitionError) as caught:
        load(mistake.text, file)
    lines = (PRELUDE + mistake.text).splitlines()
    (here,) = [n for n, line in enumerate(lines, 1) if "# here" in line]
    (problem,) = caught.value.problems
    assert problem.where == Where(str(file), here)
    assert mistake.what in ("*", problem.what)
    assert any(line.startswith(mistake.help) for line in (*problem.help, ""))


def test_all_mistakes_are_reported_at_once_in_the_order_of_lines(tmp_path: Path) -> None:
    alone = [m for m in MISTAKES if "v = FeatureView(" in m.text and m.text.count("FeatureView(") == 1]
    texts = [m.text.replace('"v"', f'"v{i}"').replace("'v'", f"'v{i}'") for i, m in enumerate(alone)]
    texts = [re.sub(r"\b(v|x|someone)\b(?= =|,|\[|\.|\])", rf"\g<1>{i}", t) for i, t in enumerate(texts)]
    texts = [t.replace('Entity("someone"', f'Entity("someone{i}"') for i, t in enumerate(texts)]
    texts = [t.replace('FeatureService("x"', f'FeatureService("x{i}"') for i, t in enumerate(texts)]
    with pytest.raises(DefinitionError) as caught:
        load("\n".join(texts), tmp_path / "views.py")
    lines = (PRELUDE + "\n".join(texts)).splitlines()
    assert [p.where.line for p in caught.value.problems if p.where] == [
        n for n, x in enumerate(lines, 1) if "# here" in x
    ]
    assert len(caught.value.problems) == len(alone) > 25


def test_the_latest_of_lists_in_a_list_is_refused(tmp_path: Path) -> None:
    deep = """
deep = BatchSource("deep", Parquet("x"), event_time="at", columns={"at": Timestamp, "k": Int64, "x": List(List(Int64))})
v = FeatureView("v", who, deep, [latest("x")])
"""
    with pytest.raises(DefinitionError, match="keeps the latest of a List") as caught:
        load(deep, tmp_path / "views.py")
    assert "latest takes scalars, strings, lists of these, and vectors" in str(caught.value)


def test_a_message_reads_as_an_editor_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DefinitionError) as caught:
        load(view('mean("amonut").over(days(7))'), tmp_path / "views.py")
    assert str(caught.value) == (
        "views.py:10: unknown column 'amonut'\n"
        "  feature view 'v' takes the mean of it, but there is amount, at, good, k, n, price, tags, wide\n"
        "  did you mean 'amount'?"
    )


# ------------------------------------------------------------------------------------------------------- what is right

COLUMNS: Mapping[str, DType] = {
    "k": String,
    "k2": Int32,
    "x": Int64,
    "y": Float64,
    "price": Decimal(12, 2),
    "at": Timestamp,
}


def plan_of(*features: d.Aggregation, reshape: Any = None, **view: Any) -> ir.View:
    source: Any = d.BatchSource("events", batch=d.Parquet("e.parquet"), event_time="at", columns=COLUMNS)
    source = source if reshape is None else reshape(source)
    entity = view.pop("entity", d.Entity("who", key="k"))
    made = d.FeatureView("v", entity, source, features, **view)
    return lower(declarations_in([made]), schema_of).views[0]


def test_defaults_are_kept_as_values_are() -> None:
    view = plan_of(
        d.latest("price").default(1.1), d.latest("k2").default(-(2**31)), d.latest("y").default(3),
        d.latest("k").default(""), d.latest("x").default(2**63 - 1),
    )  # fmt: skip
    assert [f.default for f in view.features] == [110, -(2**31), 3.0, "", 2**63 - 1]
    assert isinstance(view.features[2].default, float)


def test_names_of_features() -> None:
    view = plan_of(
        d.count().over(hours(1), hours(24)),
        d.mean("x").over(days(7), minutes(90)),
        d.sum("y").over(lifetime),
        d.sum("x").over(hours(1)).named("late"),
        d.max("x").over(hours(1), days(7)).named("peak"),
        d.latest("y"),
        d.latest(col("x") * 2).named("twice"),
    )
    assert [f.name for f in view.features] == [
        "count_1h", "count_1d", "x_mean_7d", "x_mean_90m", "y_sum_lifetime", "late", "peak_1h", "peak_7d", "y", "twice",
    ]  # fmt: skip


def test_parameters_are_in_names() -> None:
    view = plan_of(
        *(
            spec.over(days(7))
            for spec in (
                d.last_k("x", 3),
                d.largest_k("y", 10),
                d.quantile("y", 0.95),
                d.quantile("y", 0.999),
                d.quantile("y", 1),
                d.most_frequent("k"),
                d.count_distinct("k"),
                d.histogram("k"),
                d.max_by("x", "y"),
            )
        )
    )
    assert [f.name for f in view.features] == [
        "x_last_3_7d", "y_largest_10_7d", "y_p95_7d", "y_p99_9_7d", "y_p100_7d", "k_most_frequent_1_7d",
        "k_count_distinct_7d", "k_histogram_7d", "x_max_by_y_7d",
    ]  # fmt: skip


def test_parameters_are_part_of_what_a_feature_means() -> None:
    one, other, again = (plan_of(d.last_k("x", k).over(days(7)).named("f")) for k in (3, 4, 3))
    assert ir.view_fingerprint(one) == ir.view_fingerprint(again) != ir.view_fingerprint(other)
    assert storage_fingerprint(one) == storage_fingerprint(again) != storage_fingerprint(other)
    low, high = (plan_of(d.quantile("x", p).over(days(7)).named("f")) for p in (0.5, 0.9))
    assert ir.view_fingerprint(low) != ir.view_fingerprint(high)
    assert storage_fingerprint(low) == storage_fingerprint(high)  # the same buckets


def test_windows_have_their_hops() -> None:
    view = plan_of(d.count().over(days(30), hours(1), lifetime), d.sum("x").over(minutes(70), hop=minutes(7)))
    assert [(f.window.size, f.window.hop) for f in view.features if f.window] == [
        (30 * DAY, DAY),
        (HOUR, 5 * MINUTE),
        (None, DAY),
        (70 * MINUTE, 7 * MINUTE),
    ]


def test_types_of_features() -> None:
    view = plan_of(
        d.count().over(hours(1)), d.sum("x").over(hours(1)), d.sum("y").over(hours(1)), d.sum("price").over(hours(1)),
        d.mean("price").over(hours(1)), d.last("k").over(hours(1)), d.latest("k2"), d.max("at").over(hours(1)),
    )  # fmt: skip
    assert [f.dtype for f in view.features] == [
        Int64, Int64, Float64, Decimal(18, 2), Float64, String, Int32, Timestamp,
    ]  # fmt: skip


def test_two_ways_to_write_one_meaning_are_one_plan() -> None:
    twice = col("x") * 2
    derived = plan_of(d.sum("z").over(hours(1)).named("s"), reshape=lambda s: s.with_columns(z=twice))
    direct = plan_of(d.sum(twice).over(hours(1)).named("s"))
    assert derived == direct
    split = plan_of(d.sum("x").over(hours(1)), reshape=lambda s: s.where(col("x") > 0).where(col("y") < 1))
    whole = plan_of(d.sum("x").over(hours(1)), reshape=lambda s: s.where((col("x") > 0) & (col("y") < 1)))
    assert split == whole


def test_a_filter_sees_the_columns_before_it() -> None:
    view = plan_of(
        d.sum("x").over(hours(1)),
        reshape=lambda s: s.where(col("x") > 0).with_columns(x=col("x") + 1).where(col("x") > 5),
    )
    first, second = col("x") > 0, col("x") + 1 > 5
    assert view.filter == (first & second).node
    assert view.features[0].inputs == ((col("x") + 1).node,)


def test_a_32_bit_key_is_an_integer_key() -> None:
    view = plan_of(d.count().over(hours(1)), entity=d.Entity("who", keys=("k2", "k")))
    assert [(k.name, k.dtype) for k in view.keys] == [("k2", Int64), ("k", String)]


def test_columns_of_a_service_keep_their_order_and_are_told_apart() -> None:
    source = d.BatchSource("events", batch=d.Parquet("e.parquet"), event_time="at", columns=COLUMNS)
    who = d.Entity("who", key="k")
    a = d.FeatureView("a", who, source, [d.count().over(hours(1)), d.sum("x").over(hours(1))])
    b = d.FeatureView("b", who, source, [d.count().over(hours(1))])
    service = d.FeatureService(
        "svc", [b, a["x_sum_1h", "count_1h"], a.on(k="other", prefix="other_")["x_sum_1h"]]
    )
    plan = lower(declarations_in([service]), schema_of)
    assert [(r.output, r.keys) for r in plan.services[0].reads] == [
        ("b__count_1h", (("k", "k"),)),
        ("x_sum_1h", (("k", "k"),)),
        ("a__count_1h", (("k", "k"),)),
        ("other_x_sum_1h", (("k", "other"),)),
    ]
    assert [v.name for v in plan.views] == ["a", "b"]
    assert [s.name for s in plan.sources] == ["events"]
    assert [e.keys for e in plan.entities] == [(("k", String),)]
