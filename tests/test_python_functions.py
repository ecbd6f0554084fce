"""Python functions in place of on-demand expressions: one call for all rows, known by their text, never run from a registry."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import featurestore as fs
from featurestore import FeatureStore, Status, ir
from featurestore.errors import DefinitionError, FunctionChanged, FunctionError, ServiceImmutable
from featurestore.evaluate.on_demand import compiled, compute
from featurestore.functions import Untold, told

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)

PROJECT = '''
import math
import numpy as np
import pyarrow as pa
import featurestore as fs
from featurestore import *

RATE = 1.25

card = Entity("card", key="card_id")
purchases = BatchSource("purchases", batch=Parquet("purchases.parquet"), event_time="at")
spend = FeatureView("spend", entity=card, source=purchases, features=[
    mean("amount").over(days(7)), count().over(hours(1)).default(-1), last_k("amount", k=3).over(days(7)),
])
newest = FeatureView("newest", entity=card, source=purchases, features=[latest("at"), latest("shop")])
checkout = RequestSource("checkout", columns={"price": Float64, "shop_now": String, "cash": Decimal(8, 2)})


def scaled(values, by):
    return values * by


@fs.python(inputs=[checkout["price"], spend["amount_mean_7d"]], dtype=Float64, version=2)
def price_index(price, usual):
    """NULL where either is."""
    return scaled(np.sqrt(np.abs(price.values)) / usual.values, RATE)


@fs.python(inputs=[checkout["shop_now"], newest["shop"]], dtype=String)
def route(now, before):
    out = np.full(len(now), None, object)
    both = now.valid & before.valid
    out[both] = before.values[both] + ">" + now.values[both]
    return out, both


@fs.python(inputs=[as_of(), newest["at"]], dtype=Float64)
def idle_hours(asked, at):
    seconds = np.where(at.valid, (asked.values - at.values) / 1e6, -3600.0)
    return fs.Values(seconds / 3600, np.ones(len(at), bool), Float64)


@fs.python(inputs=[checkout["cash"] * 2], dtype=Decimal(10, 2))
def cash_twice(cash):
    return cash.to_arrow().cast(pa.decimal128(10, 2))


@fs.python(inputs=[spend["amount_last_3_7d"]], dtype=Int64)
def how_many(amounts):
    return np.array([0 if v is None else len(v) for v in amounts.values]), np.ones(len(amounts), bool)


def features():
    return [
        OnDemand("price_index", price_index, default=-1.0), OnDemand("route", route), OnDemand("idle_hours", idle_hours),
        OnDemand("cash_twice", cash_twice), OnDemand("how_many", how_many),
    ]


everything = features()
checked = FeatureService("checked", features=[*everything, spend["count_1h"]])
'''


def write(root: Path, text: str) -> None:
    (root / "cards.py").write_text(text, encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "fs.toml").write_text('[project]\nname = "cards"\n', encoding="utf-8")
    write(tmp_path, PROJECT)
    generator = np.random.default_rng(3)
    rows = 300
    at = [NOON - timedelta(seconds=int(s)) for s in generator.integers(1, 10 * 86_400, rows)]
    table = pa.table(
        {
            "card_id": generator.integers(0, 20, rows),
            "at": pa.array(at, pa.timestamp("us", tz="UTC")),
            "amount": [None if i % 17 == 0 else float(i) for i in range(rows)],
            "shop": [None if i % 5 == 0 else f"s{i % 3}" for i in range(rows)],
        }
    )
    pq.write_table(table, tmp_path / "purchases.parquet")
    return tmp_path


@pytest.fixture
def store(root: Path) -> Iterator[FeatureStore]:
    with FeatureStore(root) as opened:
        opened.apply()
        opened.materialize(end=NOON)
        yield opened


def request(rows: int) -> dict[str, list[Any]]:
    from decimal import Decimal

    return {
        "price": [None if i % 6 == 1 else float("nan") if i % 7 == 3 else 10.0 * i for i in range(rows)],
        "shop_now": [None if i % 4 == 0 else f"s{i % 2}" for i in range(rows)],
        "cash": [None if i == 7 else Decimal(i * 100 + 25).scaleb(-2) for i in range(rows)],
    }


def spine(cards: list[int | None]) -> pa.Table:
    asked = request(len(cards))
    return pa.table(
        {
            "card_id": pa.array(cards, pa.int64()),
            "event_timestamp": pa.array([NOON] * len(cards), pa.timestamp("us", tz="UTC")),
            "price": pa.array(asked["price"], pa.float64()),
            "shop_now": pa.array(asked["shop_now"], pa.string()),
            "cash": pa.array(asked["cash"], pa.decimal128(8, 2)),
        }
    )


CARDS: list[int | None] = [*range(23), None]


def test_training_and_online_give_the_same_bits_in_one_process_and_in_another(store: FeatureStore) -> None:
    training = store.get_historical_features(spine(CARDS), "checked", statuses=True).to_arrow()
    with FeatureStore(store.config.root) as serving:
        online = serving.get_online_features("checked", {"card_id": CARDS}, request=request(24), at=NOON)
    table = online.to_arrow()
    for i, name in enumerate(online.names):
        assert table.column(name).to_pylist() == training.column(name).to_pylist(), name
        said = [Status(s).name for s in online.statuses[:, i]]
        assert said == training.column(f"{name}__status").to_pylist(), name
    prices = training.column("price_index").to_pylist()
    assert prices.count(-1.0) > 5  # NULL in, NULL out, then the default
    assert sum(v > 0 for v in prices) > 5
    assert set(training.column("route").to_pylist()) > {None, "s1>s1"}
    assert training.column("idle_hours").to_pylist()[-1] == -1.0
    assert training.column("cash_twice").to_pylist()[2] == request(3)["cash"][2] * 2
    assert max(training.column("how_many").to_pylist()) == 3


def test_a_function_is_called_once_for_all_rows_and_never_for_none(root: Path) -> None:
    counting = PROJECT.replace('"""NULL where either is."""', "print(len(price))")
    write(root, counting)
    script = (
        "from featurestore import FeatureStore; import pyarrow as pa, sys; sys.path.insert(0, sys.argv[1]);"
        "from tests.test_python_functions import spine, request, NOON, CARDS;"
        "s = FeatureStore(sys.argv[2]); s.apply(); s.materialize(end=NOON);"
        "s.get_historical_features(spine(CARDS), 'checked').to_arrow();"
        "s.get_online_features('checked', {'card_id': CARDS}, request=request(24), at=NOON);"
        "s.get_online_features('checked', {'card_id': []}, request=request(0), at=NOON);"
        "s.get_historical_features(spine([]), 'checked').to_arrow()"
    )
    repo = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script, repo, str(root)], capture_output=True, text=True, check=False, cwd=repo
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["24", "24"]


def test_the_registry_holds_text_alone_and_what_it_says_is_never_run(store: FeatureStore) -> None:
    plan = store.registry.current().plan
    assert plan == store.definitions()
    (function,) = (o.expression for o in plan.service("checked").on_demand if o.name == "price_index")
    assert isinstance(function, ir.PythonFunction)
    assert function.call is None
    assert function.source.startswith("def price_index(price, usual):")
    assert dict(function.captured) == {
        "RATE": "1.25",
        "np": "module numpy",
        "scaled": "def scaled(values, by):\n    return values * by",
    }
    with pytest.raises(FunctionError, match="not at hand"):
        compiled(plan.service("checked"))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("np.sqrt(np.abs(", "np.cbrt(np.abs(", r"its text had .*np.sqrt.*has .*np.cbrt"),
        ("version=2", "version=3", "its version was 2 and is 3"),
        ("RATE = 1.25", "RATE = 1.5", "'RATE', which it takes from around it, was 1.25 and is 1.5"),
        ("return values * by", "return values / by", "'scaled', which it takes from around it, was"),
        ('OnDemand("price_index", price_index', 'OnDemand("other", price_index', None),
        (
            'OnDemand("price_index", price_index',
            'OnDemand("price_index", checkout["price"]',
            "no file declares",
        ),
        ("RATE = 1.25", "RATE = [1.25]", "a list that may change under it"),
        ("RATE = 1.25", "RATE = = 1.25", "the definitions that hold them do not load"),
    ],
)
def test_a_function_that_is_no_longer_the_one_applied_is_not_served(
    store: FeatureStore, old: str, new: str, says: str | None
) -> None:
    assert old in PROJECT
    write(store.config.root, PROJECT.replace(old, new))
    with FeatureStore(store.config.root) as serving:
        if says is None:  # found by what it is, whatever its name
            serving.get_online_features("checked", {"card_id": [1]}, request=request(1), at=NOON)
            return
        with pytest.raises(FunctionChanged, match=says):
            serving.get_online_features("checked", {"card_id": [1]}, request=request(1), at=NOON)
        with pytest.raises(FunctionChanged, match=says):
            serving.get_historical_features(spine([1]), "checked").to_arrow()


def test_a_served_function_may_not_change(store: FeatureStore) -> None:
    store.get_online_features("checked", {"card_id": [1]}, request=request(1), at=NOON)
    write(store.config.root, PROJECT.replace("RATE = 1.25", "RATE = 1.5"))
    plan = store.plan()
    assert "column price_index: what it captures" in "\n".join(plan.blocked)
    with pytest.raises(ServiceImmutable):
        store.apply(plan)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("RATE = 1.25", "RATE = {}", "reads 'RATE' from around it, a dict that may change under it"),
        ("RATE = 1.25", "RATE = np.array([1.25])", "reads 'RATE' from around it, a ndarray"),
        ('"""NULL where either is."""', "global RATE", "keeps 'RATE' from one call to the next"),
        ('"""NULL where either is."""', "import json", "imports in its body"),
        ("def price_index(price, usual):", "def price_index(price):", "takes 1 columns, and has 2 inputs"),
        ("def price_index(price, usual):", "def price_index(price, usual=None):", "parameters with defaults"),
        (
            "def price_index(price, usual):",
            "async def price_index(price, usual):",
            "does not return its values",
        ),
        ("def scaled(values, by):", "def scaled(values, by=2):", "calls 'scaled', which has defaults"),
        ("dtype=Float64, version=2", "dtype=Float64, version=0", "version 0"),
        ("dtype=Float64, version=2", "dtype=List(Float64)", r"gives List\(Float64\)"),
        ('inputs=[checkout["price"], spend["amount_mean_7d"]]', "inputs=[]", "has no inputs"),
        (
            'inputs=[checkout["price"], spend["amount_mean_7d"]]',
            "inputs=[1, 2]",
            "takes 1, not an expression",
        ),
        (
            'checkout["price"], spend["amount_mean_7d"]',
            'checkout["prise"], as_of()',
            "unknown column 'prise'",
        ),
        (
            'OnDemand("price_index", price_index',
            'OnDemand("price_index", fs.python(inputs=[checkout["price"]], dtype=Float64)(lambda x: x.values)',
            "is a lambda",
        ),
        ("default=-1.0", 'default="much"', "default 'much' does not fit a Float64"),
    ],
)
def test_a_function_whose_meaning_its_text_does_not_hold_is_refused(
    root: Path, old: str, new: str, says: str
) -> None:
    assert old in PROJECT
    write(root, PROJECT.replace(old, new))
    with FeatureStore(root) as store, pytest.raises(DefinitionError, match=says) as refused:
        store.plan()
    assert "cards.py:" in str(refused.value)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return np.zeros(len(x) + 1)", "gave 3 values for 2 rows"),
        ("return np.zeros((len(x), 1))", r"gave an array of shape \(2, 1\) values for 2 rows"),
        ("return np.float64(1)", "gave a float64"),
        ("return [1.0, 2.0]", "gave a list"),
        ("return x.values, x.valid[:1]", "gave 1 mask for 2 rows"),
        ("return x.values, x.values", "gave a mask of float64"),
        ("return x.values > 1", "gave bool, not Float64"),
        ("return x.values.astype(str)", "gave <U32, not Float64"),
        ("return None", "gave a NoneType"),
        ("return pa.array(['a', 'b'])", "gave string, not Float64"),
        ("x.values[0] = 1", "raised ValueError: assignment destination is read-only"),
        ("return 1 / 0", "cards.py:7: python function 'f' .* raised ZeroDivisionError"),
    ],
)
def test_what_a_function_may_not_give_names_it_and_its_line(root: Path, body: str, says: str) -> None:
    write(
        root,
        "import numpy as np\nimport pyarrow as pa\nfrom featurestore import *\nimport featurestore as fs\n"
        '@fs.python(inputs=[col("price")], dtype=Float64)\ndef f(x):\n'
        f"    {body}\n"
        'checkout = RequestSource("r", columns={"price": Float64})\n'
        + PROJECT.split("RATE = 1.25")[1].split("spend =", maxsplit=1)[0]
        + 'spend = FeatureView("spend", entity=card, source=purchases, features=[count().over(hours(1))])\n'
        'svc = FeatureService("svc", features=[OnDemand("y", f), spend])\nod = svc.features[0]\n',
    )
    with FeatureStore(root) as store:
        store.apply()
        store.materialize(end=NOON)
        with pytest.raises(FunctionError, match=says) as refused:
            store.get_online_features("svc", {"card_id": [1, 2]}, request={"price": [1.0, 2.0]}, at=NOON)
    assert "cards.py:" in str(refused.value)
    assert "'f' of on-demand feature 'y'" in str(refused.value)


# ------------------------------------------------------------------------------------------------------------ one function

X = fs.RequestSource("r", {"x": fs.Float64, "n": fs.Int64})


def service_of(function: Any) -> ir.Service:
    types = {"x": fs.Float64, "n": fs.Int64}
    feature = ir.OnDemand("y", told(function, [types[i.node.name] for i in function.inputs]), function.dtype)
    return ir.Service("s", (), on_demand=(feature,), request=tuple(sorted(types.items())))


def run(service: ir.Service, **columns: Any) -> tuple[list[Any], list[bool]]:
    given = {
        n: (np.array([0 if i is None else i for i in v]), np.array([i is not None for i in v]))
        for n, v in columns.items()
    }
    rows = len(next(iter(columns.values())))
    cells = compute(compiled(service), {}, given, rows, 0)["y"]
    return cells.values.tolist(), cells.valid.tolist()


@fs.python(inputs=[X["n"]], dtype=fs.Int32)
def narrowed(n: Any) -> Any:
    return n.values.astype(np.uint64) if (n.values > 2**60).all() else n.values


@fs.python(inputs=[X["x"]], dtype=fs.Float64)
def masked(x: Any) -> Any:
    return np.ma.masked_array(np.log(x.values), mask=x.values == 5)


@fs.python(inputs=[X["x"], X["n"]], dtype=fs.Float64)
def mixed(x: Any, n: Any) -> Any:
    return np.where(n.values > 0, x.values / n.values, -0.0)


def test_what_is_not_finite_or_does_not_fit_is_null() -> None:
    assert run(service_of(narrowed), n=[1, 2**31, -(2**31), None]) == (
        [1, 0, -(2**31), 0],
        [True, False, True, False],
    )
    assert run(service_of(narrowed), n=[2**61]) == ([0], [False])
    values, valid = run(service_of(masked), x=[1.0, 5.0, 0.0, -1.0])
    assert (values, valid) == ([0.0, 0.0, 0.0, 0.0], [True, False, False, False])
    values, valid = run(service_of(mixed), x=[1.0, 2.0, None], n=[0, 4, 4])
    assert (values, valid) == ([0.0, 0.5, 0.0], [True, True, False])
    assert str(values[0]) == "0.0"  # and not −0


NUMBERS = (
    st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, 1.0, -1.0, 5.0])
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(NUMBERS, st.none() | st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=40)
)
def test_a_batch_is_what_its_rows_are_one_by_one(rows: list[tuple[float | None, int | None]]) -> None:
    service = service_of(mixed)
    x, n = [r[0] for r in rows], [r[1] for r in rows]
    values, valid = run(service, x=x, n=n)
    alone = [run(service, x=[a], n=[b]) for a, b in rows]
    assert [v for (v,), _ in alone] == values
    assert [v for _, (v,) in alone] == valid


def test_a_function_without_text_and_other_things_that_can_be_called_are_refused() -> None:
    names: dict[str, Any] = {"fs": fs, "X": X}
    exec('@fs.python(inputs=[X["x"]], dtype=fs.Float64)\ndef f(x): return x.values', names)
    for function, says in [
        (names["f"], "no text"),
        (fs.python(inputs=[X["x"]], dtype=fs.Float64)(np.sqrt), "is an ufunc"),
        (fs.python(inputs=[X["x"]], dtype=fs.Float64)(sum), "is a builtin"),
    ]:
        with pytest.raises(Untold, match=says):
            told(function, [fs.Float64])


def test_the_marks_of_a_function(store: FeatureStore) -> None:
    def out(*words: str) -> str:
        command = [sys.executable, "-m", "featurestore.cli", "-C", str(store.config.root), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "python price_index(price, spend.amount_mean_7d) version 2" in out("show", "checked")
    shown = out("show", "price_index")
    assert "no other engine can compute it" in shown
    assert "def price_index(price, usual):" in shown
    assert "RATE = 1.25" in shown
    assert "python price_index" in out("explain", "price_index")
    assert "[feature, python]" in out("lineage", "checked.price_index")
    assert "python price_index" in fs.FeatureService("s", [fs.OnDemand("p", mixed)])._repr_html_().replace(
        "mixed", "price_index"
    )


def test_a_set_made_of_functions_is_made_again(store: FeatureStore) -> None:
    store.get_historical_features(spine(CARDS), "checked").to_parquet(store.config.root / "out")
    done = store.reproduce(store.config.root / "out", store.config.root / "again")
    assert done.identical
    write(store.config.root, PROJECT.replace("RATE = 1.25", "RATE = 2.0"))
    with pytest.raises(FunctionChanged, match="RATE"):
        store.reproduce(store.config.root / "out", store.config.root / "third")


def test_a_doctored_registry_runs_nothing(store: FeatureStore) -> None:
    path = store.config.root / ".fs" / "registry.db"
    assert path.exists(), sorted(p.name for p in path.parent.iterdir())
    with sqlite3.connect(path) as con:
        rows = con.execute("SELECT plan, digest FROM fs_revisions").fetchall()
        for plan, digest in rows:
            evil = plan.replace(
                "def price_index(price, usual):", "import os\\ndef price_index(price, usual):"
            )
            assert evil != plan
            con.execute(
                "UPDATE fs_revisions SET plan = ?, digest = ? WHERE digest = ?",
                (evil, ir.digest(evil), digest),
            )
        version = con.execute("SELECT definition FROM fs_service_versions").fetchone()[0]
        evil = version.replace("def price_index(price, usual):", "import os\\ndef price_index(price, usual):")
        con.execute("UPDATE fs_service_versions SET definition = ?, digest = ?", (evil, ir.digest(evil)))
    with (
        FeatureStore(store.config.root) as serving,
        pytest.raises(FunctionChanged, match="its text had 'import os'"),
    ):
        serving.get_online_features("checked", {"card_id": [1]}, request=request(1), at=NOON)
