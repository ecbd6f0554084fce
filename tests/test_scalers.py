"""Scalers: the same bits in training, online, in NumPy and in SQL; what is fitted, refitted, pinned and refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import FeatureStore, scale
from featurestore.cli import main
from featurestore.errors import DefinitionError, NotFound, ScalerError, ServiceImmutable
from featurestore.registry import open_registry
from featurestore.registry.scalers import scaler as kept_scaler
from featurestore.statistics import Keep, Summary
from featurestore.statistics.scalers import FITTED, KINDS, FeatureScaler, Scaler, fit, scaled
from featurestore.types import Float64

NUMBERS = {"clip": (-1.0, 2.5)}
DOUBLES = st.floats(allow_nan=False, allow_infinity=False)
CON = duckdb.connect(config={"threads": 1})
NOON = datetime(2024, 3, 4, 12, tzinfo=UTC)


def fitted(kind: str, values: Sequence[float]) -> FeatureScaler:
    summary = Summary({"x": Float64}, Keep(order=2, quantiles=800))
    summary.update({"x": pa.array(values, pa.float64())})
    return fit(kind, NUMBERS.get(kind, ()), summary["x"])


def bits(values: Any) -> list[int]:
    return np.ascontiguousarray(values, np.float64).view(np.uint64).tolist()


# ------------------------------------------------------------------------------------------------------------ the numbers


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(
    sample=st.lists(DOUBLES, max_size=40),
    asked=st.lists(DOUBLES, min_size=1, max_size=12),
    order=st.randoms(),
)
def test_rows_scaled_together_apart_or_beside_other_columns_have_the_same_bits(
    kind: str, sample: list[float], asked: list[float], order: Any
) -> None:
    one = fitted(kind, sample)
    column = np.array([*asked, *sample])
    alone = [scaled(np.array([[x]]), None, [one]) for x in column]
    values, known = scaled(column[:, None], None, [one])
    beside = [fitted(k, sample) for k in order.sample(KINDS, len(KINDS))]
    wide, wide_known = scaled(np.repeat(column[:, None], len(beside) + 1, axis=1), None, [one, *beside])

    assert bits(values[:, 0]) == bits([v[0, 0] for v, _ in alone]) == bits(wide[:, 0])
    assert known[:, 0].tolist() == [bool(k[0, 0]) for _, k in alone] == wide_known[:, 0].tolist()
    assert np.isfinite(values).all()
    assert not np.signbit(values[values == 0]).any()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(sample=st.lists(DOUBLES, max_size=30), asked=st.lists(DOUBLES | st.none(), min_size=1, max_size=20))
def test_sql_gives_the_same_doubles(kind: str, sample: list[float], asked: list[float | None]) -> None:
    scaler = Scaler("svc", 1, ("x",), (fitted(kind, sample),))
    rows = pa.table({"x": pa.array([*asked, *sample], pa.float64())})
    said = CON.sql(scaler.to_sql("rows")).to_arrow_table()["x"]
    values = rows["x"].to_numpy(zero_copy_only=False)
    want, known = scaled(values[:, None], None, scaler.features)
    assert np.asarray(said.is_valid()).tolist() == known[:, 0].tolist()
    got = said.fill_null(0.0).to_numpy()
    if kind == "log1p":
        np.testing.assert_array_max_ulp(got, want[:, 0], maxulp=2)
    else:
        assert bits(got) == bits(want[:, 0])


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=200, unique=True))
def test_what_each_kind_does_to_what_it_was_fitted_on(values: list[float]) -> None:
    column = np.array(values)[:, None]
    of = {kind: scaled(column, None, [fitted(kind, values)])[0][:, 0] for kind in KINDS}
    spread = np.std(values)
    if spread > 1e-6 * np.abs(values).max():
        assert abs(of["standard"].mean()) < 1e-6
        assert of["standard"].std() == pytest.approx(1.0)
    assert (of["minmax"].min(), of["minmax"].max()) == (0.0, 1.0)
    order = np.argsort(values)
    assert (np.diff(of["rank"][order]) >= 0).all()
    assert 0.0 <= of["rank"].min() <= of["rank"].max() <= 1.0
    exact = np.argsort(order) / len(values)
    assert np.abs(of["rank"] - exact).max() <= 1 / len(values) + 1 / 100
    assert of["clip"].min() >= -1.0
    assert of["clip"].max() <= 2.5
    inside = np.array(values) > -1
    np.testing.assert_allclose(of["log1p"][inside], np.log1p(np.array(values)[inside]), rtol=1e-14)


def test_the_reference_of_others() -> None:
    from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

    values = np.random.default_rng(3).normal(5, 3, 701)
    column = values[:, None]
    for kind, peer in (
        ("standard", StandardScaler()),
        ("minmax", MinMaxScaler()),
        ("robust", RobustScaler()),
    ):
        ours, _ = scaled(column, None, [fitted(kind, values.tolist())])
        np.testing.assert_allclose(ours, peer.fit_transform(column), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", FITTED)
@pytest.mark.parametrize(
    ("values", "said", "at_seven"),
    [
        ([], "no value to fit", {"rank": 0.5, "else": 7.0}),
        ([None, None], "no value to fit", {"rank": 0.5, "else": 7.0}),
        ([float("nan"), float("inf")], "no value to fit", {"rank": 0.5, "else": 7.0}),
        ([7.0, 7.0, 7.0], "constant (7)", {"rank": 0.5, "else": 0.0}),
        ([7.0], "constant (7)", {"rank": 0.5, "else": 0.0}),
        ([0.0, -0.0], "constant (0)", {"rank": 1.0, "else": 7.0}),
    ],
)
def test_without_a_spread_the_scaler_is_defined_and_says_so(
    kind: str, values: list[float | None], said: str, at_seven: dict[str, float]
) -> None:
    one = fitted(kind, values)  # type: ignore[arg-type]
    assert said in one.warning
    out, known = scaled(np.array([[7.0]]), None, [one])
    assert known.all()
    assert out[0, 0] == at_seven.get(kind, at_seven["else"])


def test_a_middle_half_of_one_value_and_a_range_beyond_a_double_are_said() -> None:
    assert "no spread to divide by" in fitted("robust", [1.0, 5.0, 5.0, 5.0, 5.0, 9.0]).warning
    assert "no spread to divide by" in fitted("minmax", [-1.7e308, 1.7e308]).warning
    assert "no value to fit" in fitted("standard", [-1.7e308, 1.7e308]).warning


def test_what_has_no_scaled_value_is_null() -> None:
    values = np.array([[-1.0], [-2.0], [np.nan], [np.inf], [3.0]])
    out, known = scaled(
        values, np.array([[True], [True], [True], [True], [False]]), [FeatureScaler("x", "log1p")]
    )
    assert not known.any()
    assert out.tolist() == [[0.0]] * 5


def test_transform_takes_the_tensor_and_nothing_else() -> None:
    scaler = Scaler("svc", 3, ("a", "flag", "b"), (fitted("standard", [0.0, 2.0]),))
    scaler = Scaler("svc", 3, ("x", "flag", "b"), scaler.features)
    out = scaler.transform(np.array([[3.0, 1.0, 9.0], [np.nan, 0.0, 8.0]], np.float32))
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, [[2.0, 1.0, 9.0], [np.nan, 0.0, 8.0]])
    assert scaler.constants == {"x": {"kind": "standard", "mean": 1.0, "stddev": 1.0}}
    with pytest.raises(ScalerError, match="3 columns"):
        scaler.transform(np.zeros((2, 2)))


@given(sample=st.lists(DOUBLES, max_size=30))
def test_json_gives_an_equal_scaler_back(sample: list[float]) -> None:
    import json

    features = tuple(fitted(kind, sample) for kind in KINDS)
    scaler = Scaler("svc", 2, ("x",), features, 7, 5, 1)
    assert Scaler.from_json(json.loads(json.dumps(scaler.to_json()))) == scaler


# ------------------------------------------------------------------------------------------------------------ the project

PROJECT = """
from featurestore import *
from featurestore import scale

card = Entity("card", key="card_id")
source = BatchSource("purchases", batch=Parquet("data/purchases.parquet"), event_time="at",
    columns={"card_id": Int64, "at": Timestamp, "amount": Float64, "cents": Int64, "price": Decimal(9, 2),
             "big": Bool, "shop": String})
spend = FeatureView("spend", entity=card, source=source, features=[
    count().over(days(1)).named("n"), mean("cents").over(days(1)).named("avg"), latest("price"),
    latest("big"), latest("shop"), latest("amount").named("raw")])
checkout = RequestSource("checkout", columns={"asked": Float64})
ratio = OnDemand("ratio", checkout["asked"] / spend["avg"])
fraud = FeatureService("fraud", features=[spend, ratio], scale=SCALE)
"""


def project(folder: Path, how: str = "scale.standard()") -> Path:
    (folder / "data").mkdir(exist_ok=True)
    (folder / "fs.toml").write_text('[project]\nname = "cards"\n', encoding="utf-8")
    (folder / "defs.py").write_text(PROJECT.replace("SCALE", how), encoding="utf-8")
    rng = np.random.default_rng(11)
    n = 400
    amount = rng.lognormal(3, 1, n)
    rows = pa.table(
        {
            "card_id": rng.integers(0, 12, n),
            "at": pa.array([NOON + timedelta(minutes=int(m)) for m in np.sort(rng.integers(0, 4000, n))]),
            "amount": pa.array(amount, mask=rng.random(n) < 0.1),
            "cents": pa.array(np.round(100 * amount).astype(np.int64), mask=rng.random(n) < 0.1),
            "price": pa.array(np.round(amount, 2)).cast(pa.decimal128(9, 2), safe=False),
            "big": pa.array(amount > 30),
            "shop": pa.array([f"s{i % 3}" for i in range(n)]),
        }
    )
    pq.write_table(rows, folder / "data" / "purchases.parquet")
    return folder


def spine(first: int = 0, last: int = 3000, n: int = 150, seed: int = 5) -> pa.Table:
    rng = np.random.default_rng(seed)
    at = [NOON + timedelta(minutes=int(m)) for m in np.sort(rng.integers(first, last, n))]
    return pa.table(
        {"card_id": rng.integers(0, 13, n), "event_timestamp": at, "asked": rng.lognormal(2, 1, n)}
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    how = '{"n": scale.log1p(), "avg": scale.standard(), "price": scale.robust(), "raw": scale.rank(), "ratio": scale.minmax()}'
    with FeatureStore(project(tmp_path, how)) as found:
        found.apply(who="me")
        yield found


def test_training_and_serving_scale_to_the_same_bits(store: FeatureStore) -> None:
    first = store.fit_scaler("fraud", store.get_historical_features(spine(), "fraud"), who="me")
    assert (first.version, first.rows) == (1, 150)
    store.pin_scaler("fraud@1", 1, who="me")
    end = NOON + timedelta(minutes=3500)
    store.materialize(end=end)
    cards = list(range(13))
    asked = [1.0 + c for c in cards]
    rows = pa.table({"card_id": cards, "event_timestamp": [end] * 13, "asked": asked})
    training = store.get_historical_features(rows, "fraud", scaled=True, statuses=True).to_arrow()
    raw = store.get_online_features("fraud", {"card_id": cards}, request={"asked": asked}, at=end)
    online = store.get_online_features(
        "fraud", {"card_id": cards}, request={"asked": asked}, at=end, scaled=True
    )

    assert online.names == raw.names
    for i, name in enumerate(online.names):
        column = training[name].combine_chunks()
        assert column.equals(online.to_arrow()[name].combine_chunks()), name
        assert np.asarray(column.is_valid()).tolist() == online.mask[:, i].tolist()
        assert training[f"{name}__status"].to_pylist() == [
            s.name for s in map(_status, online.statuses[:, i].tolist())
        ]
    transformed = store.scaler("fraud").transform(raw.to_numpy("float64"))
    assert bits(transformed) == bits(online.to_numpy("float64"))
    assert online.to_numpy().dtype == np.float32
    kinds = {name: str(t) for name, t in zip(training.schema.names, training.schema.types, strict=True)}
    assert kinds["n"] == kinds["price"] == "double"
    assert (kinds["big"], kinds["shop"]) == ("bool", "string")
    full = store.get_historical_features(rows, "fraud", scaled=True, full_names=True).to_arrow()
    assert full["spend__avg"].combine_chunks().equals(training["avg"].combine_chunks())


def test_a_scaler_in_use_that_counts_what_was_erased_since_is_said(
    store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["-C", str(store.config.root)]

    def said() -> tuple[list[Any], list[str]]:
        capsys.readouterr()
        assert main([*place, "scaler", "show", "fraud", "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)["outdated"]
        main([*place, "doctor", "--json"])
        checks = json.loads(capsys.readouterr().out)["checks"]
        return shown, [c["text"] for c in checks if c["subject"] == "scaling of fraud@1"]

    def fitted() -> int:
        return store.fit_scaler("fraud", store.get_historical_features(spine(), "fraud")).version

    store.erase("card", {"card_id": 1})
    store.pin_scaler("fraud@1", fitted())
    assert said() == ([], []), "fitted after it"
    store.erase("card", {"card_id": 2})
    store.erase("card", {"card_id": 3})
    text = "scaler 1 is of rows from before 2 entities were erased, which it may count"
    assert said() == ([{"pinned_to": "fraud@1", "scaler": 1, "erased": 2}], [text])
    assert main([*place, "scaler", "show", "fraud"]) == 0
    assert f"fraud@1: {text}: `fs scaler fit fraud@1 --spine FILE` on rows of now" in capsys.readouterr().out
    later = store.get_historical_features(spine(3000, 3900), "fraud")
    store.pin_scaler("fraud@1", store.refit_scaler("fraud", later).scaler.version, replace=True)
    assert said()[0] == [{"pinned_to": "fraud@1", "scaler": 2, "erased": 2}], (
        "a refit goes on from the old rows"
    )
    store.pin_scaler("fraud@1", fitted(), replace=True)
    assert said() == ([], [])


def _status(code: int) -> Any:
    from featurestore.status import Status

    return Status(code)


@settings(max_examples=30)
@given(values=st.lists(st.lists(DOUBLES | st.none(), min_size=5, max_size=5), min_size=1, max_size=6))
def test_random_vectors_are_scaled_alike_by_both_roads(values: list[list[float | None]]) -> None:
    from featurestore.evaluate.finish import Cells
    from featurestore.ir import Read, Service
    from featurestore.serving.result import Block, OnlineFeatures, TensorColumns
    from featurestore.serving.scaled import scaled_features
    from featurestore.training import scaled_cells

    names = ("standard", "minmax", "robust", "rank", "log1p")
    sample = [v for row in values for v in row if v is not None]
    features = tuple(FeatureScaler(k, k, fitted(k, sample).numbers) for k in names)
    scaler = Scaler("svc", 1, names, features)
    valid = np.array([[v is not None for v in row] for row in values])
    matrix = np.array([[0.0 if v is None else v + 0.0 for v in row] for row in values])
    status = np.where(valid, 0, 4).astype(np.uint8)
    service = Service("svc", tuple(Read("v", n, n, (("k", "k"),), Float64) for n in names))
    types = (Float64,) * 5
    block = Block(np.arange(5), matrix, valid, status)
    read = OnlineFeatures(
        service, names, types, len(values), (block,), (), {}, 0, TensorColumns.of(names, types)
    )
    online = scaled_features(read, scaler)
    cells = {n: Cells(matrix[:, j], valid[:, j], status[:, j]) for j, n in enumerate(names)}
    training = scaled_cells(cells, dict(zip(names, types, strict=True)), scaler)
    tensor = online.to_numpy("float64")
    for j, name in enumerate(names):
        assert online.mask[:, j].tolist() == training[name].valid.tolist()
        want = np.where(training[name].valid, training[name].values, np.nan)
        assert bits(tensor[:, j]) == bits(want)
    assert bits(scaler.transform(read.to_numpy("float64"))) == bits(tensor)


def test_a_refit_takes_in_what_came_since_and_nothing_twice(store: FeatureStore) -> None:
    old, new = spine(0, 2000, 300, 1), spine(2500, 3900, 200, 2)
    store.fit_scaler("fraud", store.get_historical_features(old, "fraud"))
    both = pa.concat_tables([old, new])
    done = store.refit_scaler("fraud", store.get_historical_features(both, "fraud"))
    anew = store.fit_scaler("fraud", store.get_historical_features(both, "fraud"))

    assert (done.scaler.version, done.scaler.basis, anew.version) == (2, 1, 3)
    assert (done.rows, done.known, done.scaler.rows) == (200, 300, 500)
    assert done.scaler.until == anew.until
    for a, b in zip(done.scaler.features, anew.features, strict=True):
        assert a.numbers == pytest.approx(b.numbers, rel=1e-12)
    moves = {m.feature: m for m in done.moves}
    assert moves["n"].most == 0.0  # nothing is fitted
    assert moves["avg"].most is not None
    assert moves["avg"].most > 0
    again = store.refit_scaler("fraud", store.get_historical_features(both, "fraud"), basis=2)
    assert (again.rows, again.known) == (0, 500)
    assert again.scaler.features == done.scaler.features


def test_a_scaler_is_fitted_on_the_folder_of_a_training_set(store: FeatureStore, tmp_path: Path) -> None:
    training = store.get_historical_features(spine(), "fraud")
    training.to_parquet(tmp_path / "set")
    one, two = store.fit_scaler("fraud", training), store.fit_scaler("fraud", tmp_path / "set")
    assert one.features == two.features
    assert "spine" in kept_scaler(store.registry, "fraud", 2).fitted_on
    store.pin_scaler("fraud", 1)
    scaled_set = store.get_historical_features(spine(), "fraud", scaled=True)
    scaled_set.to_parquet(tmp_path / "scaled")
    assert store.reproduce(tmp_path / "scaled", tmp_path / "again").identical
    for source in (scaled_set, tmp_path / "scaled"):
        with pytest.raises(ScalerError, match="scaled"):
            store.fit_scaler("fraud", source)


def test_a_version_that_served_keeps_its_scaler(store: FeatureStore) -> None:
    training = store.get_historical_features(spine(), "fraud")
    for _ in range(2):
        store.fit_scaler("fraud", training)
    store.pin_scaler("fraud", 1)
    store.pin_scaler("fraud", 2)  # it has not served yet
    store.materialize(end=NOON + timedelta(minutes=3500))
    store.get_online_features("fraud", {"card_id": [1]}, request={"asked": [1.0]}, scaled=True)
    with pytest.raises(ServiceImmutable, match="--replace"):
        store.pin_scaler("fraud@1", 1)
    assert store.scaler("fraud").version == 2
    assert store.pin_scaler("fraud@1", 1, replace=True).version == 1
    assert store.scaler("fraud@1").version == 1
    assert store.scaler("fraud", 2).version == 2


def test_what_is_not_there_is_said_with_the_way_to_it(store: FeatureStore) -> None:
    with pytest.raises(ScalerError, match=r"pinned to no scaler\n.*fs scaler fit"):
        store.get_online_features("fraud", {"card_id": [1]}, request={"asked": [1.0]}, scaled=True)
    with pytest.raises(ScalerError, match="pinned to no scaler"):
        store.get_historical_features(spine(), "fraud", scaled=True)
    with pytest.raises(ScalerError, match=r"no scaler 4 .*\n.*none yet"):
        store.pin_scaler("fraud", 4)
    with pytest.raises(ScalerError, match="not applied"):
        store.get_historical_features(spine(), ["spend:n"], scaled=True)
    with pytest.raises(NotFound, match="fraud"):
        store.fit_scaler("frod", store.get_historical_features(spine(), "fraud"))
    with pytest.raises(ScalerError, match="no rows"):
        store.fit_scaler("fraud", store.get_historical_features(spine().slice(0, 0), "fraud"))


def test_another_scaling_is_another_version_of_a_service_that_served(
    store: FeatureStore, tmp_path: Path
) -> None:
    store.fit_scaler("fraud", store.get_historical_features(spine(), "fraud"))
    store.pin_scaler("fraud", 1)
    store.materialize(end=NOON + timedelta(minutes=3500))
    store.get_online_features("fraud", {"card_id": [1]}, request={"asked": [1.0]}, scaled=True)
    project(tmp_path, "scale.standard()")
    (change,) = store.plan().changes
    assert change.effect == "state-compatible"
    assert any("scale of avg" in r or "scale of n" in r for r in change.reasons)
    store.apply()
    assert store.registry.service("fraud").reference == "fraud@2"
    assert store.scaler("fraud@1").version == 1
    with pytest.raises(ScalerError, match="scales others"):
        store.pin_scaler("fraud@2", 1)
    assert store.fit_scaler("fraud", store.get_historical_features(spine(), "fraud")).by_feature.keys() == {
        "n", "avg", "price", "raw", "ratio",
    }  # fmt: skip


def test_a_service_without_scaling_has_no_scaler(tmp_path: Path) -> None:
    with FeatureStore(project(tmp_path, "None")) as store:
        store.apply()
        with pytest.raises(ScalerError, match="names no scaling"):
            store.fit_scaler("fraud", store.get_historical_features(spine(), "fraud"))
        with pytest.raises(ScalerError, match="names no scaling"):
            store.get_historical_features(spine(), "fraud", scaled=True)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ('"standard"', "which is no scaler"),
        ('{"avg": 3}', "which is no scaler"),
        ('{"agv": scale.standard()}', "did you mean 'avg'"),
        ('{"shop": scale.standard()}', "which is String"),
        ('{"avg": scale.clip(3, 1)}', "lo <= hi"),
        ('{"avg": scale.clip(0, float("nan"))}', "lo <= hi"),
        ('{"avg": scale.clip("a", 1)}', "lo <= hi"),
    ],
)
def test_mistakes_in_a_definition_are_said(tmp_path: Path, how: str, said: str) -> None:
    with FeatureStore(project(tmp_path, how)) as store, pytest.raises(DefinitionError, match=said):
        store.definitions()


def test_the_postgres_registry_keeps_scalers_too(fresh_postgres: str, tmp_path: Path) -> None:
    project(tmp_path)
    (tmp_path / "fs.toml").write_text(
        f'[project]\nname = "cards"\n[registry]\nurl = "{fresh_postgres}"\n', encoding="utf-8"
    )
    with FeatureStore(tmp_path) as store:
        store.apply()
        done = store.fit_scaler("fraud", store.get_historical_features(spine(), "fraud"))
        store.pin_scaler("fraud", 1)
        assert store.scaler("fraud") == done
    assert kept_scaler(open_registry(fresh_postgres, tmp_path), "fraud", 1).version == 1


def test_kinds_are_values() -> None:
    assert scale.clip(0, 1) == scale.clip(0, 1)
    assert str(scale.clip(0, 1)) == "clip(0, 1)"
