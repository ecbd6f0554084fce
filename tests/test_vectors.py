"""Embeddings and lists as features: from a file to training rows, online reads and tensors over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from tests.served import binary, serving

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
SIZE, ITEMS = 48, 300
DEFINITIONS = f"""
import featurestore as fs

item = fs.Entity("item", key="id")
columns = {{"id": fs.Int64, "at": fs.Timestamp, "taste": fs.Vector({SIZE}), "tags": fs.List(fs.String), "price": fs.Float32}}
made = fs.BatchSource("made", fs.Parquet("made.parquet"), event_time="at", columns=columns)
items = fs.FeatureView("items", item, made, [fs.latest("taste"), fs.latest("tags"), fs.latest("price")])
service = fs.FeatureService("items", [items])
"""


@pytest.fixture(scope="module")
def taste() -> np.ndarray:
    return np.random.default_rng(7).normal(size=(ITEMS, SIZE)).astype(np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, taste: np.ndarray) -> Iterator[FeatureStore]:
    folder = tmp_path_factory.mktemp("vectors")
    (folder / "fs.toml").write_text("")
    (folder / "items.py").write_text(DEFINITIONS)
    older = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(ITEMS * SIZE, np.float32)), SIZE)
    newer = pa.FixedSizeListArray.from_arrays(pa.array(taste.reshape(-1)), SIZE)
    rows = {
        "id": [*range(ITEMS)] * 2,
        "at": [NOON - timedelta(hours=2)] * ITEMS + [NOON - timedelta(minutes=i % 50 + 1) for i in range(ITEMS)],
        "taste": pa.chunked_array([older, newer]),
        "tags": [None] * ITEMS + [[f"t{j}" for j in range(i % 4)] for i in range(ITEMS)],
        "price": np.arange(2 * ITEMS, dtype=np.float32),
    }  # fmt: skip
    pq.write_table(pa.table(rows), folder / "made.parquet")
    with FeatureStore(folder) as store:
        store.apply()
        store.materialize(end=NOON)
        yield store


def test_an_embedding_read_online_has_the_bits_of_its_training_row(
    store: FeatureStore, taste: np.ndarray
) -> None:
    ids = [5, 299, 12345, 0]
    online = store.get_online_features("items", {"id": ids}, at=NOON).to_arrow()
    spine = pa.table({"id": ids, "ts": pa.array([NOON] * 4, pa.timestamp("us", tz="UTC"))})
    training = store.get_historical_features(spine, "items", timestamp="ts").to_arrow()
    assert online.schema.field("taste").type == pa.list_(pa.float32(), SIZE)
    for name in ("taste", "tags", "price"):
        assert online[name].combine_chunks().equals(training[name].combine_chunks())
    assert np.array_equal(np.array(online["taste"].to_pylist()[0], np.float32), taste[5])
    assert online["taste"].to_pylist()[2] is None
    assert online["tags"].to_pylist() == [["t0"], ["t0", "t1", "t2"], None, []]


def test_the_tensor_is_of_the_numbers_alone(store: FeatureStore) -> None:
    online = store.get_online_features("items", {"id": [1, 2]}, at=NOON)
    assert online.tensor_names == ("price",)
    assert online.to_numpy().tolist() == [[301.0], [302.0]]
    assert online.mask.tolist() == [[True, True, True]] * 2


def test_a_past_moment_has_the_vector_of_then_in_training_alone(store: FeatureStore) -> None:
    then = NOON - timedelta(hours=1)
    spine = pa.table({"id": [1], "ts": pa.array([then], pa.timestamp("us", tz="UTC"))})
    training = store.get_historical_features(spine, "items", timestamp="ts").to_arrow()
    assert training["taste"].to_pylist() == [[0.0] * SIZE]


def test_an_embedding_comes_as_one_tensor_over_http(store: FeatureStore, taste: np.ndarray) -> None:
    ids = np.array([3, 12345, 4])
    body, headers = binary(
        [("id", "INT64", ids.tobytes(), 3)],
        outputs=[{"name": "taste", "parameters": {"binary_data": True}}],
        parameters={"at": NOON.isoformat()},
    )
    with serving(store.config.root) as server:
        answer = server.post("/v2/models/items/infer", body, headers)
        assert answer.status == 200, answer.body
        at = int(answer.headers["inference-header-content-length"])
        (output,) = json.loads(answer.body[:at])["outputs"]
        assert (output["datatype"], output["shape"]) == ("FP32", [3, SIZE])
        matrix = np.frombuffer(answer.body[at:], np.float32).reshape(3, SIZE)
        assert np.array_equal(matrix[[0, 2]], taste[[3, 4]])
        assert np.isnan(matrix[1]).all()
