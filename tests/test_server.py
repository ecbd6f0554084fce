"""`fs serve`, as a process of its own: every route gives what the SDK gives, and every bad request its exact refusal."""

from __future__ import annotations

import concurrent.futures
import io
import json
import re
import socket
import struct
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from tests.served import DEFINITIONS, NOW, Server, binary, columns, project, serving, wait_until

KEYS: dict[str, list[Any]] = {"user_id": [1, 7, 99], "shop": ["s1", "nowhere", "s4"]}
ASKED = {"price_now": [3.0, 4.0, 5.0]}
AT = int(NOW.timestamp() * 1_000_000)
SETTINGS = """
[server]
receive_seconds = 3
poll_ms = 100
max_in_flight = 16
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("served") / "shop", SETTINGS)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving(folder) as running:
        yield running
        assert [line for line in running.lines() if line["event"] == "fault"] == []


@pytest.fixture(scope="module")
def truth(folder: Path) -> Any:
    with FeatureStore(folder) as store:
        return store.get_online_features("buy", KEYS, request=ASKED, at=AT)


def inputs() -> list[dict[str, Any]]:
    return [
        {"name": "user_id", "shape": [3], "datatype": "INT64", "data": KEYS["user_id"]},
        {"name": "shop", "shape": [3, 1], "datatype": "BYTES", "data": [[s] for s in KEYS["shop"]]},
        {"name": "price_now", "shape": [3], "datatype": "FP64", "data": ASKED["price_now"]},
    ]


def texts(values: list[str]) -> bytes:
    return b"".join(struct.pack("<I", len(v.encode())) + v.encode() for v in values)


def tensors() -> list[tuple[str, str, bytes, int]]:
    return [
        ("user_id", "INT64", np.array(KEYS["user_id"], "<i8").tobytes(), 3),
        ("shop", "BYTES", texts(KEYS["shop"]), 3),
        ("price_now", "FP64", np.array(ASKED["price_now"], "<f8").tobytes(), 3),
    ]


# ---------------------------------------------------------------------------------------------------------- what it gives


def test_json_has_the_values_of_the_sdk_in_the_shape_of_feast(server: Server, truth: Any) -> None:
    asked = {"feature_service": "buy", "entities": {**KEYS, **ASKED}, "at": AT}
    answer = server.post("/get-online-features", asked)
    assert answer.status == 200, answer.body
    said = answer.json()
    got = columns(said)
    assert list(got) == ["user_id", "shop_id" if "shop_id" in got else "shop", *list(got)[2:]]
    want = truth.to_dict()
    results = dict(zip(said["metadata"]["feature_names"][2:], said["results"][2:], strict=True))
    for name, values in want.items():
        plain = [_plain(v) for v in values]
        assert results[name]["values"] == plain, name
        assert results[name]["statuses"] == ["NOT_FOUND" if v is None else "PRESENT" for v in values], name
        assert len(results[name]["event_timestamps"]) == 3
    assert said["metadata"]["service"] == "buy@1"
    assert answer.headers["x-request-id"] == said["metadata"]["request_id"]


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str | list):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else float(value)


def test_features_can_be_asked_by_view_and_name(server: Server) -> None:
    asked = {"features": ["shops:amount", "shops:count_1d"], "entities": {"shop": ["s1"]}, "at": AT}
    said = server.post("/get-online-features", asked).json()
    assert said["metadata"]["feature_names"] == ["shop", "amount", "count_1d"]
    full = server.post("/get-online-features", {**asked, "full_feature_names": True}).json()
    assert full["metadata"]["feature_names"] == ["shop", "shops__amount", "shops__count_1d"]
    assert full["results"] == said["results"]


def test_tensors_as_json(server: Server, truth: Any) -> None:
    outputs = [
        {"name": n} for n in ("features", "mask", "age_ms", "shop", "n_last_3_7d", "price", "shop.mask")
    ]
    asked = {"id": "r-1", "inputs": inputs(), "outputs": outputs, "parameters": {"at": NOW.isoformat()}}
    answer = server.post("/v2/models/buy/infer", asked)
    assert answer.status == 200, answer.body
    said = answer.json()
    assert (said["model_name"], said["model_version"], said["id"]) == ("buy", "1", "r-1")
    found = {o["name"]: o for o in said["outputs"]}
    numbers = [i for i, n in enumerate(truth.names) if n in truth.tensor_names]
    want = truth.to_numpy()
    assert found["features"]["shape"] == list(want.shape)
    got = np.array([np.nan if v is None else v for v in found["features"]["data"]], np.float32)
    assert np.array_equal(got.reshape(want.shape), want, equal_nan=True)
    assert found["mask"]["data"] == truth.mask[:, numbers].ravel().tolist()
    assert found["age_ms"]["data"] == truth.ages[:, numbers].ravel().tolist()
    assert found["shop"]["data"] == [v or "" for v in truth.to_dict()["shop"]]
    assert [json.loads(v) for v in found["n_last_3_7d"]["data"]] == truth.to_dict()["n_last_3_7d"]
    assert found["shop.mask"]["data"] == [True, True, False]


@pytest.mark.parametrize(
    "path", ["/v2/models/buy/infer", "/v2/models/buy/versions/1/infer", "/v2/models/buy@1/infer"]
)
def test_tensors_in_binary(server: Server, truth: Any, path: str) -> None:
    body, headers = binary(tensors(), parameters={"binary_data_output": True, "at": AT})
    answer = server.post(path, body, headers)
    assert answer.status == 200, answer.body
    at = int(answer.headers["inference-header-content-length"])
    said = json.loads(answer.body[:at])
    features, mask = said["outputs"]
    size = features["parameters"]["binary_data_size"]
    got = np.frombuffer(answer.body[at : at + size], np.float32).reshape(features["shape"])
    assert np.array_equal(got, truth.to_numpy(), equal_nan=True)
    assert mask["parameters"]["binary_data_size"] == got.size
    assert len(answer.body) == at + size + got.size


def test_a_column_of_each_type_by_name_in_binary(server: Server, truth: Any) -> None:
    names = [*truth.names, *(f"{n}.mask" for n in truth.names)]
    body, headers = binary(
        tensors(),
        outputs=[{"name": n, "parameters": {"binary_data": True}} for n in names],
        parameters={"at": AT},
    )
    answer = server.post("/v2/models/buy/infer", body, headers)
    assert answer.status == 200, answer.body
    at = int(answer.headers["inference-header-content-length"])
    sizes = {
        o["name"]: (o["datatype"], o["parameters"]["binary_data_size"])
        for o in json.loads(answer.body[:at])["outputs"]
    }
    assert sizes["n_sum_7d"] == ("INT64", 24)
    assert sizes["price"] == ("FP64", 24)
    assert sizes["day"] == ("INT32", 12)
    assert sizes["flag"] == ("BOOL", 3)
    assert sizes["at"] == ("INT64", 24)
    assert sizes["shop"][0] == "BYTES"
    assert at + sum(n for _, n in sizes.values()) == len(answer.body)


def test_arrow_in_and_out_is_the_sdk_s_own_table(server: Server, truth: Any) -> None:
    asked = pa.table({"user_id": pa.array(KEYS["user_id"], pa.int32()), "shop": KEYS["shop"], **ASKED})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, asked.schema) as writer:
        writer.write_table(asked)
    answer = server.post(f"/features/buy?at={AT}&statuses=true", sink.getvalue().to_pybytes())
    assert answer.status == 200, answer.body
    table = pa.ipc.open_stream(answer.body).read_all()
    assert table.drop_columns("statuses").replace_schema_metadata(None).equals(truth.to_arrow())
    assert table["statuses"].to_pylist() == truth.statuses.tolist()
    about = json.loads(table.schema.metadata[b"featurestore"])
    assert (about["service"], about["at"]) == ("buy@1", AT)


def test_no_rows_is_an_answer_of_no_rows(server: Server) -> None:
    asked = {"feature_service": "plain", "entities": {"shop": []}}
    assert server.post("/get-online-features", asked).json()["results"][1]["values"] == []
    body, headers = binary([("shop", "BYTES", b"", 0)], parameters={"binary_data_output": True})
    answer = server.post("/v2/models/plain/infer", body, headers)
    assert json.loads(answer.body[: int(answer.headers["inference-header-content-length"])])["outputs"][0][
        "shape"
    ] == [0, 2]


def test_a_null_key_is_an_unknown_entity(server: Server) -> None:
    asked = {"feature_service": "plain", "entities": {"shop": ["s1", None]}, "at": AT}
    said = columns(server.post("/get-online-features", asked).json())
    assert said["amount"][0] is not None
    assert said["amount"][1] == -1.0


def test_metadata_health_and_metrics(server: Server) -> None:
    about = server.ask("GET", "/v2/models/buy").json()
    assert [t["name"] for t in about["inputs"]] == ["user_id", "shop", "price_now"]
    assert about["versions"] == ["1"]
    assert server.ask("GET", "/v2").json()["extensions"] == ["binary_tensor_data"]
    for path in ("/health", "/ready", "/v2/health/live", "/v2/health/ready", "/v2/models/buy/ready", "/docs"):
        assert server.ask("GET", path).status == 200, path
    server.post("/get-online-features", {"feature_service": "plain", "entities": {"shop": ["s1", "nobody"]}})
    text = server.ask("GET", "/metrics").body.decode()
    for line in (
        'fs_request_seconds_count{route="/get-online-features",service="plain"}',
        'fs_stage_seconds_count{service="plain",stage="read"}',
        'fs_cells_total{service="plain",status="DEFAULT"}',
        'fs_cells_total{service="plain",status="NOT_FOUND"}',
        'fs_freshness_seconds{view="shops"}',
        "fs_in_flight ",
        "fs_breaker_open 0.0",
        "fs_revision 1.0",
    ):
        assert line in text, line


def test_every_example_of_the_docs_works(server: Server) -> None:
    document = server.ask("GET", "/openapi.json").json()
    said = server.ask("GET", "/nowhere").json()["error"].partition("there is ")[2]
    mounted = {re.sub("{number}", "{version}", path) for path in said.split(", ")}
    assert set(document["paths"]) == {p for p in mounted if not p.startswith(("/docs", "/openapi"))}
    tried = 0
    for path, verbs in document["paths"].items():
        for verb, route in verbs.items():
            filled = path
            for parameter in route.get("parameters", ()):
                if parameter["in"] == "path":
                    filled = filled.replace("{" + parameter["name"] + "}", parameter["example"])
            example = (
                route.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
            )
            if verb == "get" or example is not None:
                answer = server.ask(verb.upper(), filled, example)
                assert answer.status == 200, (filled, answer.body)
                tried += 1
    assert tried >= 15


def test_a_request_id_comes_back(server: Server) -> None:
    assert server.ask("GET", "/health", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    odd = server.ask("GET", "/health", headers={"X-Request-Id": "a b"}).headers["x-request-id"]
    assert odd != "a b"


# ------------------------------------------------------------------------------------------------------------- bad input

FEAST, INFER = "/get-online-features", "/v2/models/plain/infer"
GOOD = {"name": "shop", "shape": [1], "datatype": "BYTES", "data": ["s1"]}

BAD_JSON: list[tuple[str, str, bytes | dict[str, Any], int, str, str]] = [
    ("no JSON at all", FEAST, b"{nope", 400, "RequestError", "not JSON"),
    ("JSON that is no object", FEAST, b"[1]", 400, "RequestError", "object"),
    ("NaN, which is no JSON", FEAST, b'{"feature_service":"plain","entities":{"shop":[NaN]}}', 400, "RequestError", "not JSON"),
    ("text that is no UTF-8", FEAST, b'{"feature_service":"\xff"}', 400, "RequestError", "not JSON"),
    ("JSON of great depth", FEAST, b"[" * 100_000, 400, "RequestError", "not JSON"),
    ("neither service nor features", FEAST, {"entities": {}}, 400, "RequestError", "feature_service"),
    ("an unknown service", FEAST, {"feature_service": "plan", "entities": {}}, 404, "NotFound", "did you mean 'plain'?"),
    ("an unknown version", FEAST, {"feature_service": "plain@9", "entities": {}}, 404, "NotFound", "plain@1"),
    ("an unknown feature", FEAST, {"features": ["shops:amout"], "entities": {"shop": []}}, 404, "NotFound", "'amount'"),
    ("an unknown view", FEAST, {"features": ["shop:amount"], "entities": {}}, 404, "NotFound", "'shops'"),
    ("an unknown key", FEAST, {"feature_service": "plain", "entities": {"shp": ["a"]}}, 400, "RequestError", "'shop'"),
    ("a missing key", FEAST, {"feature_service": "plain", "entities": {}}, 400, "RequestError", "needs shop"),
    ("a number for a text", FEAST, {"feature_service": "plain", "entities": {"shop": [1]}},
     400, "RequestError", "declared String"),
    ("a list for a text", FEAST, {"feature_service": "plain", "entities": {"shop": [["a"]]}}, 400, "RequestError", "String"),
    ("a fraction for a whole number", FEAST, {"features": ["spend:n_sum_7d"], "entities": {"user_id": [1.5]}},
     400, "RequestError", "Int64"),
    ("more than 64 bits", FEAST, {"features": ["spend:n_sum_7d"], "entities": {"user_id": [2**80]}},
     400, "RequestError", "Int64"),
    ("64 bits without a sign", FEAST, {"features": ["spend:n_sum_7d"], "entities": {"user_id": [2**63]}},
     400, "RequestError", "64 bits"),
    ("columns of two lengths", FEAST, {"feature_service": "buy", "entities": {"user_id": [1], "shop": [], "price_now": [1]}},
     400, "RequestError", "rows"),
    ("a text for a request column", FEAST,
     {"feature_service": "buy", "entities": {"user_id": [1], "shop": ["a"], "price_now": ["x"]}},
     400, "RequestError", "price_now"),
    ("a moment that is none", FEAST, {"feature_service": "plain", "entities": {"shop": ["a"]}, "at": "soon"},
     400, "RequestError", "moment"),
    ("a moment far away", FEAST, {"feature_service": "plain", "entities": {"shop": ["a"]}, "at": 2**62},
     400, "RequestError", "calendar"),
    ("a timeout of nothing", FEAST, {"feature_service": "plain", "entities": {"shop": ["a"]}, "timeout": 0},
     400, "RequestError", "timeout"),
    ("no inputs", INFER, {}, 400, "RequestError", "inputs"),
    ("inputs that are none", INFER, {"inputs": [1]}, 400, "RequestError", "inputs"),
    ("an unknown model", "/v2/models/nope/infer", {"inputs": []}, 404, "NotFound", "nope"),
    ("an unknown version in the path", "/v2/models/plain/versions/3/infer", {"inputs": []}, 404, "NotFound", "plain@1"),
    ("a tensor without a name", INFER, {"inputs": [{**GOOD, "name": None}]}, 400, "RequestError", "name"),
    ("a tensor twice", INFER, {"inputs": [GOOD, GOOD]}, 400, "RequestError", "another has"),
    ("an unknown tensor", INFER, {"inputs": [{**GOOD, "name": "sho"}]}, 400, "RequestError", "'shop'"),
    ("a wrong datatype", INFER, {"inputs": [{**GOOD, "datatype": "INT64", "data": [1]}]}, 400, "RequestError", "BYTES"),
    ("no such datatype", INFER, {"inputs": [{**GOOD, "datatype": ["x"]}]}, 400, "RequestError", "BYTES"),
    ("a shape of three", INFER, {"inputs": [{**GOOD, "shape": [1, 1, 1]}]}, 400, "RequestError", "[N, 1]"),
    ("a shape below zero", INFER, {"inputs": [{**GOOD, "shape": [-1]}]}, 400, "RequestError", "[N, 1]"),
    ("a shape of a truth", INFER, {"inputs": [{**GOOD, "shape": [True]}]}, 400, "RequestError", "[N, 1]"),
    ("fewer values than the shape", INFER, {"inputs": [{**GOOD, "shape": [2]}]}, 400, "RequestError", "shape says 2"),
    ("a null in a tensor", INFER, {"inputs": [{**GOOD, "data": [None]}]}, 400, "RequestError", "None"),
    ("no data", INFER, {"inputs": [{"name": "shop", "shape": [1], "datatype": "BYTES"}]}, 400, "RequestError", "no data"),
    ("an unknown output", INFER, {"inputs": [GOOD], "outputs": [{"name": "amoun"}]}, 400, "RequestError", "'amount'"),
    ("outputs that are none", INFER, {"inputs": [GOOD], "outputs": 3}, 400, "RequestError", "outputs"),
    ("parameters that are none", INFER, {"inputs": [GOOD], "parameters": 3}, 400, "RequestError", "parameters"),
    ("an id that is no text", INFER, {"inputs": [GOOD], "id": 3}, 400, "RequestError", "id"),
    ("a million rows by shape", INFER, {"inputs": [{**GOOD, "shape": [1_000_000]}]}, 413, "TooLarge", "100000"),
    ("no Arrow", "/features/plain", b"nothing of the kind", 400, "RequestError", "Arrow"),
    ("no Arrow, nor anything", "/features/plain", b"", 400, "RequestError", "Arrow"),
    ("an unknown service, for Arrow", "/features/plan", b"", 404, "NotFound", "'plain'"),
    ("a path that is none", "/features/a@b", b"", 404, "NotFound", "a@b"),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD_JSON, ids=lambda c: c[0])
def test_bad_requests_are_refused_exactly(server: Server, case: Any) -> None:
    _, path, body, status, kind, piece = case
    answer = server.post(path, body)
    assert answer.status == status, answer.body
    said = answer.json()
    assert said["type"] == kind
    assert piece in said["error"], said
    assert said["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in said["error"]


BAD_BINARY: list[tuple[str, Any, Any, str]] = [
    ("a length beyond the body", lambda b, _: (b, str(len(b) + 1)), None, "Inference-Header-Content-Length"),
    ("a length below zero", lambda b, _: (b, "-1"), None, "Inference-Header-Content-Length"),
    ("a length of words", lambda b, _: (b, "ten"), None, "Inference-Header-Content-Length"),
    ("a length that cuts the JSON", lambda b, n: (b, str(n - 3)), None, "not JSON"),
    ("a tensor that breaks off", lambda b, n: (b[:-1], str(n)), None, "bytes are left"),
    ("bytes after the last", lambda b, n: (b + b"x", str(n)), None, "come after"),
    ("a size below zero", None, [("shop", "BYTES", b"", 1, -1)], "binary_data_size"),
    ("a size that is no number", None, [("shop", "BYTES", b"", 1, "4")], "binary_data_size"),
    ("a text longer than its tensor", None, [("shop", "BYTES", b"\xff\xff\xff\x7fab", 1, 6)], "breaks off"),
    ("fewer texts than rows", None, [("shop", "BYTES", b"\x01\x00\x00\x00a", 2, 5)], "2 texts"),
    ("half a length", None, [("shop", "BYTES", b"\x01\x00", 1, 2)], "breaks off"),
    ("a text that is no UTF-8", None, [("shop", "BYTES", b"\x01\x00\x00\x00\xff", 1, 5)], "UTF-8"),
]


@pytest.mark.parametrize("case", BAD_BINARY, ids=lambda c: c[0])
def test_lying_binary_requests_are_refused(server: Server, case: Any) -> None:
    _, change, tensors, piece = case
    if tensors is None:
        body, headers = binary([("shop", "BYTES", texts(["s1"]), 1)])
        length = int(headers["Inference-Header-Content-Length"])
        body, said = change(body, length)
    else:
        described = [
            {"name": n, "datatype": d, "shape": [k], "parameters": {"binary_data_size": size}}
            for n, d, _, k, size in tensors
        ]
        head = json.dumps({"inputs": described}).encode()
        body, said = head + tensors[0][2], str(len(head))
    answer = server.post(INFER, body, {"Inference-Header-Content-Length": said})
    assert answer.status == 400, answer.body
    assert answer.json()["type"] == "RequestError"
    assert piece in answer.json()["error"], answer.json()


def test_a_wrong_number_of_bytes_and_floats_for_keys(server: Server) -> None:
    asked = [("user_id", "INT64", b"\0" * 15, 2), *tensors()[1:]]
    body, headers = binary(asked)
    assert "16" in server.post("/v2/models/buy/infer", body, headers).json()["error"]
    nan = [("user_id", "FP64", np.array([np.nan, 1.0, 2.0]).tobytes(), 3), *tensors()[1:]]
    body, headers = binary(nan)
    answer = server.post("/v2/models/buy/infer", body, headers)
    assert answer.status == 400
    assert "'FP64'" in answer.json()["error"]


def test_nan_in_a_request_column_is_null(server: Server) -> None:
    changed = [*tensors()[:2], ("price_now", "FP64", np.array([np.nan, np.inf, 1.0]).tobytes(), 3)]
    body, headers = binary(changed, outputs=[{"name": "ratio"}], parameters={"at": AT})
    answer = server.post("/v2/models/buy/infer", body, headers)
    assert answer.json()["outputs"][0]["data"] == [1.0, 1.0, 1.0]


def test_a_million_rows_and_a_body_too_large(server: Server) -> None:
    body, headers = binary([("shop", "BYTES", b"\0\0\0\0" * 1_000_000, 1_000_000)])
    answer = server.post(INFER, body, headers)
    assert (answer.status, answer.json()["type"]) == (413, "TooLarge")
    large = server.post(FEAST, b" " * (20 << 20))  # who looks for an answer when all is sent has one
    assert (large.status, large.json()["type"]) == (413, "TooLarge")
    again = b"POST /get-online-features HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (17 << 20)
    last = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    said = server.raw(again + b" " * (17 << 20) + last)
    assert said.startswith(b"HTTP/1.1 413 ")
    assert said.count(b"HTTP/1.1 ") == 2
    assert said.endswith(b'{"status":"ok"}')
    with socket.create_connection(server.address, 60) as connection:
        connection.sendall(again + b" ")  # and no more: it is answered once, and let go
        said = b""
        while data := connection.recv(10_000):
            said += data
        assert said.startswith(b"HTTP/1.1 413 ")
        assert said.count(b"HTTP/1.1 ") == 1
    head = b"POST /get-online-features HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n"
    said = server.raw(head)
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b'"TooLarge"' in said
    chunked = b"POST /get-online-features HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    block = b"%x\r\n%b\r\n" % (1 << 20, b"x" * (1 << 20))
    with socket.create_connection(server.address, 60) as connection:
        connection.sendall(chunked)
        try:
            for _ in range(20):
                connection.sendall(block)
        except OSError:
            pass
        else:
            assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_million_rows_in_every_form(server: Server) -> None:
    many = {"feature_service": "plain", "entities": {"shop": ["a"] * 1_000_000}}
    arrow = stream(pa.table({"shop": pa.array(["a"] * 1_000_000)}))
    for path, body in ((FEAST, many), ("/features/plain", arrow)):
        answer = server.post(path, body)
        assert (answer.status, answer.json()["type"]) == (413, "TooLarge"), path
        assert "100000" in answer.json()["error"]


def stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


BAD_ARROW: list[tuple[str, dict[str, Any], str]] = [
    ("a column that is no key", {"shp": ["a"]}, "'shop'"),
    ("a column too few", {"shop": ["a"]}, "needs user_id"),
    ("NaN for a key of whole numbers", {"user_id": [float("nan")], "shop": ["a"], "price_now": [1.0]}, "declared Int64"),
    ("a text for a key of whole numbers", {"user_id": ["1"], "shop": ["a"], "price_now": [1.0]}, "declared Int64"),
    ("a number for a text", {"user_id": [1], "shop": [1], "price_now": [1.0]}, "declared String"),
    ("a list for a text", {"user_id": [1], "shop": [["a"]], "price_now": [1.0]}, "Arrow"),
    ("a text for a number asked for", {"user_id": [1], "shop": ["a"], "price_now": ["x"]}, "price_now"),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD_ARROW, ids=lambda c: c[0])
def test_arrow_that_does_not_fit_is_refused(server: Server, case: Any) -> None:
    _, columns_sent, piece = case
    answer = server.post("/features/buy", stream(pa.table(columns_sent)))
    assert (answer.status, answer.json()["type"]) == (400, "RequestError"), answer.body
    assert piece in answer.json()["error"], answer.json()


def test_wrong_methods_paths_and_what_is_no_http(server: Server) -> None:
    wrong = server.ask("GET", FEAST)
    assert (wrong.status, wrong.json()["type"]) == (405, "RequestError")
    nowhere = server.post("/nowhere", {})
    assert (nowhere.status, nowhere.json()["type"]) == (404, "NotFound")
    said = server.raw(b"\x16\x03\x01\x00\xff nothing\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 400 ")
    assert json.loads(said.partition(b"\r\n\r\n")[2])["type"] == "RequestError"
    assert server.raw(b"GET /health HTTP/1.1\r\n" + b"x-a: " + b"y" * 100_000).startswith(b"HTTP/1.1 431 ")
    packed = server.post(FEAST, b"\x1f\x8b", {"Content-Encoding": "gzip"})
    assert packed.status == 400


def test_slow_clients_are_let_go_and_others_are_served_meanwhile(server: Server) -> None:
    slow = []
    for sent in (
        b"",
        b"GET /health HTT",
        b"POST /get-online-features HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{",
    ):
        connection = socket.create_connection(server.address, 60)
        connection.sendall(sent)
        slow.append(connection)
    began = time.monotonic()
    assert server.post(FEAST, {"feature_service": "plain", "entities": {"shop": ["s1"]}}).status == 200
    for connection in slow[1:]:
        said = connection.recv(1000)
        assert said.startswith(b"HTTP/1.1 408 "), said
        assert b'"DeadlineExceeded"' in said
        assert time.monotonic() - began > 2
    for connection in slow:
        connection.close()


def test_clients_that_go_away_touch_nobody(server: Server) -> None:
    for cut in (1, 40, 120):
        body, headers = binary(tensors())
        head = "".join(f"{k}: {v}\r\n" for k, v in headers.items())
        whole = (
            f"POST /v2/models/buy/infer HTTP/1.1\r\nhost: x\r\n{head}content-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        with socket.create_connection(server.address, 60) as connection:
            connection.sendall(whole[:-cut])
        with socket.create_connection(server.address, 60) as connection:
            connection.sendall(whole)  # gone before the answer
    assert server.post(FEAST, {"feature_service": "plain", "entities": {"shop": ["s1"]}}).status == 200
    wait_until(lambda: b"fs_in_flight 0.0" in server.ask("GET", "/metrics").body)


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    one = b"GET /health HTTP/1.1\r\nhost: x\r\nx-request-id: r%d\r\n\r\n"
    last = b"GET /health HTTP/1.1\r\nhost: x\r\nx-request-id: r9\r\nconnection: close\r\n\r\n"
    said = server.raw(b"".join(one % i for i in range(5)) + last)
    assert [said.find(b"x-request-id: r%d" % i) for i in range(5)] == sorted(
        said.find(b"x-request-id: r%d" % i) for i in range(5)
    )
    assert said.count(b"HTTP/1.1 200") == 6


# ---------------------------------------------------------------------------------------------- versions, drain, overload


def test_versions_change_under_load_and_no_vector_mixes_two(tmp_path: Path) -> None:
    folder = project(tmp_path / "shop", SETTINGS)
    more = DEFINITIONS.replace(
        "count().over(days(1)),\n])\nasked", 'count().over(days(1)), max("amount").over(days(1)),\n])\nasked'
    )
    assert more != DEFINITIONS
    seen: dict[str, set[tuple[str, ...]]] = {}

    with serving(folder) as server:

        def ask() -> None:
            asked = {"feature_service": "plain", "entities": {"shop": ["s1", "s2"]}, "at": AT}
            answer = server.post(FEAST, asked)
            assert answer.status == 200, answer.body
            said = answer.json()["metadata"]
            seen.setdefault(said["service"], set()).add(tuple(said["feature_names"]))

        ask()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            asks = [pool.submit(ask) for _ in range(100)]
            (folder / "shop.py").write_text(more, encoding="utf-8")
            with FeatureStore(folder) as store:
                store.apply()
                store.materialize(end=NOW)
            wait_until(lambda: server.ask("GET", "/v2/models/plain").json()["versions"] == ["1", "2"])
            asks += [pool.submit(ask) for _ in range(50)]
            for done in asks:
                done.result()
        assert seen == {
            "plain@1": {("shop", "amount", "count_1d")},
            "plain@2": {("shop", "amount", "count_1d", "amount_max_1d")},
        }
        old = {"feature_service": "plain@1", "entities": {"shop": ["s1"]}, "at": AT}
        said = columns(server.post(FEAST, old).json())
        new = columns(server.post(FEAST, {**old, "feature_service": "plain"}).json())
        assert said["amount"] == new["amount"]
        assert said["count_1d"] == new["count_1d"] != [0]
        assert server.ask("GET", "/v2/models/plain/versions/1").status == 200


def test_what_is_under_way_is_finished_before_it_stops(folder: Path, tmp_path: Path) -> None:
    body = json.dumps({"feature_service": "plain", "entities": {"shop": ["s1"]}}).encode()
    head = b"POST /get-online-features HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    with serving(folder, log=tmp_path / "log") as server:
        with socket.create_connection(server.address, 60) as connection:
            connection.sendall(head + body[:5])
            time.sleep(0.2)
            server.process.terminate()
            time.sleep(0.5)
            connection.sendall(body[5:])
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert server.stop() == 0
    assert [line for line in (tmp_path / "log").read_text().splitlines() if not line.startswith("{")] == []


def test_a_unix_socket_several_workers_and_their_metrics_together(folder: Path, tmp_path: Path) -> None:
    from featurestore.client import Client

    path = Path("/tmp") / f"fs-{tmp_path.name}-{time.time_ns()}.sock"
    with serving(folder, "--uds", str(path), "--workers", "2", log=tmp_path / "log") as server:
        with Client(server.url, timeout=60) as client:
            for _ in range(20):
                client.close()  # the next may meet the other worker
                assert len(client.get_online_features("plain", {"shop": ["s1", "s2"]})) == 2
            # Each worker puts its figures there every tenth of a second.
            wait_until(lambda: 'fs_rows_total{service="plain"} 40.0' in _get_over(path, "/metrics"), 20)
        assert server.stop() == 0
    assert not path.exists()


def _get_over(path: Path, route: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(f"GET {route} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        parts = []
        while data := connection.recv(65536):
            parts.append(data)
    return b"".join(parts).decode()


def test_more_requests_a_second_than_allowed_are_told_when_to_come_back(tmp_path: Path) -> None:
    folder = project(tmp_path / "shop", "[server]\nrequests_per_second = 5")
    with serving(folder) as server:
        answers = [
            server.post(FEAST, {"feature_service": "plain", "entities": {"shop": ["s1"]}}) for _ in range(30)
        ]
        refused = [a for a in answers if a.status == 429]
        assert refused
        assert {a.status for a in answers} == {200, 429}
        assert refused[0].headers["retry-after"] == "1"
        assert refused[0].json()["type"] == "Overloaded"
        assert server.ask("GET", "/health").status == 200  # probes are not counted


# ------------------------------------------------------------------------------------------------------------ events in


def test_events_come_in_and_are_served(tmp_path: Path) -> None:
    (tmp_path / "fs.toml").write_text("[offline]\nthreads = 1\n")
    (tmp_path / "definitions.py").write_text(
        "import featurestore as fs\n"
        "events = fs.StreamSource('events', batch=fs.Parquet('e/*.parquet'), stream=fs.Kafka('e', bootstrap='nowhere'),\n"
        "    event_time='at', columns={'k': fs.String, 'at': fs.Timestamp, 'x': fs.Int64})\n"
        "still = fs.BatchSource('still', batch=fs.Parquet('s.parquet'), columns={'k': fs.String, 'y': fs.Int64})\n"
        "v = fs.FeatureView('v', fs.Entity('who', key='k'), events, [fs.sum('x').over(fs.days(1))])\n"
        "w = fs.FeatureView('w', fs.Entity('who2', key='k'), still, [fs.latest('y')])\n"
        "svc = fs.FeatureService('svc', [v])\n"
    )
    pq.write_table(pa.table({"k": ["a"], "y": [1]}), tmp_path / "s.parquet")
    with FeatureStore(tmp_path) as store:
        store.apply()
    now = datetime.now(UTC)
    row = {"k": "a", "at": now.isoformat(), "x": 2}
    with serving(tmp_path) as server:

        def post(body: Any, kind: str = "application/json", source: str = "events") -> Any:
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            answer = server.post(f"/events/{source}", raw, {"content-type": kind})
            return answer.status, answer.json()

        document = server.ask("GET", "/openapi.json").json()
        (example,) = (
            route["post"]["requestBody"]["content"]["application/json"]["example"]
            for path, route in document["paths"].items()
            if path.startswith("/events/")
        )
        assert set(example[0]) == {"k", "at", "x"}
        status, one = post([row, row])
        assert (status, one["rows"], one["last_offset"]) == (200, 2, 1)
        lines = b"\n".join(json.dumps(row).encode() for _ in range(3))
        assert post(lines, "application/x-ndjson")[1]["rows"] == 3
        table = pa.table({"k": ["b"], "at": pa.array([now], pa.timestamp("us", "UTC")), "x": [7]})
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        arrow = "application/vnd.apache.arrow.stream"
        assert post(sink.getvalue(), arrow)[1]["first_offset"] == 5
        bad = [
            ([{**row, "x": "many"}], ""),
            ([row, {"k": "a"}], ""),
            ("soon", ""),
            (b"{", ""),
            (b"ARROW1", arrow),
        ]
        for body, kind in bad:
            status, said = post(body, kind)
            assert (status, set(said)) == (400, {"error", "type", "request_id"})
        assert post([row], source="nothing")[0] == 404
        assert post([row], source="still")[0] == 400
        with FeatureStore(tmp_path) as store:
            assert store.run_stream(once=True) == 6, "what did not fit left nothing behind"
        asked = {"feature_service": "svc", "entities": {"k": ["a", "b"]}}
        read = server.post("/get-online-features", asked).json()
        assert [r["values"] for r in read["results"]][-1] == [10, 7]
