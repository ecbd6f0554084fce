"""The server as others see it: our own client, and clients that nobody changed for it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from featurestore import FeatureStore
from featurestore.client import Client
from featurestore.errors import (
    ConfigError,
    DeadlineExceeded,
    NotFound,
    RequestError,
    ServerUnavailable,
    TooLarge,
)
from tests.served import NOW, Server, project, serving
from tests.services import missing

ROOT = Path(__file__).parent.parent
KEYS: dict[str, list[Any]] = {"user_id": [1, 7, 99], "shop": ["s1", "nowhere", "s4"]}
ASKED = {"price_now": [3.0, 4.0, 5.0]}
FEAST = "feast==0.67.0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("clients") / "shop")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving(folder) as running:
        yield running
        assert [line for line in running.lines() if line["event"] == "fault"] == []


@pytest.fixture(scope="module")
def truth(folder: Path) -> Any:
    with FeatureStore(folder) as store:
        return store.get_online_features("buy", KEYS, request=ASKED, at=NOW)


# ------------------------------------------------------------------------------------------------------------ our client


def test_the_client_gives_what_the_sdk_gives(server: Server, truth: Any) -> None:
    with Client(server.url, timeout=60) as client:
        got = client.get_online_features("buy", KEYS, request=ASKED, at=NOW, typed=True)
        assert np.array_equal(got.to_numpy(), truth.to_numpy(), equal_nan=True)
        assert got.columns == truth.tensor_names
        assert (got.service, got.version, got.degraded, len(got)) == ("buy", 1, False, 3)
        want = {
            n: [float(v) if n == "price" and v is not None else v for v in vs]
            for n, vs in truth.to_dict().items()
        }
        assert got.to_dict() == want
        assert got.to_arrow().column_names == list(truth.names)
        assert got.to_arrow()["at"].type == truth.to_arrow()["at"].type
        assert got.values.flags.writeable
        assert np.from_dlpack(got).shape == (3, len(truth.tensor_names))
        rows = [{"user_id": u, "shop": s} for u, s in zip(*KEYS.values(), strict=True)]
        again = client.get_online_features("buy@1", rows, request=ASKED, at=int(NOW.timestamp() * 1e6))
        assert np.array_equal(again.values, got.values, equal_nan=True)
        assert np.array_equal(again.mask, got.mask)
        one = client.get_online_features("plain", {"shop": "s1"}, at=NOW.isoformat())
        many = client.get_online_features("plain", {"shop": np.array(["s1", "s1"])}, at=NOW)
        assert one.values.tolist() == many.values[:1].tolist()
        with pytest.raises(RequestError, match="typed=True"):
            one.to_dict()


def test_many_at_once_without_blocking(server: Server) -> None:
    async def ask(client: Client) -> list[float]:
        reads = [
            client.get_online_features_async("plain", {"shop": [f"s{i % 5}"]}, at=NOW) for i in range(20)
        ]
        return [float(r.values[0, 0]) for r in await asyncio.gather(*reads)]

    with Client(server.url, timeout=60) as client:
        first = asyncio.run(ask(client))
        assert asyncio.run(ask(client)) == first  # another loop: connections of the one before are let go
        assert first == [
            float(client.get_online_features("plain", {"shop": [f"s{i % 5}"]}, at=NOW).values[0, 0])
            for i in range(20)
        ]


def test_the_client_imports_no_engine(server: Server) -> None:
    code = """
import sys
from featurestore.client import Client
with Client(sys.argv[1], timeout=60) as client:
    assert client.get_online_features("plain", {"shop": ["s1"]}).to_numpy().shape == (1, 2)
print(*sorted({"duckdb", "pyarrow", "lmdb", "redis", "pandas", "fastapi", "uvicorn"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, server.url], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_the_client_raises_what_the_server_says(server: Server) -> None:
    with Client(server.url, timeout=60) as client:
        with pytest.raises(NotFound, match="did you mean 'plain'"):
            client.get_online_features("plan", {"shop": ["s1"]})
        with pytest.raises(NotFound, match="plain@1"):
            client.get_online_features("plain@4", {"shop": ["s1"]})
        for entities, piece in (
            ({"shp": ["s1"]}, "'shop'"),
            ({"shop": [1]}, "is a text"),
            ({}, "needs shop"),
            ({"shop": [None]}, "None"),
        ):
            with pytest.raises(RequestError, match=piece):
                client.get_online_features("plain", entities)
        for wrong in (1.5, "1", 2**70, None):
            with pytest.raises(RequestError, match="user_id"):
                client.get_online_features(
                    "buy", {"user_id": [wrong], "shop": "s1"}, request={"price_now": 1.0}
                )
        with pytest.raises(RequestError, match="different lengths"):
            client.get_online_features(
                "buy", {"user_id": [1], "shop": ["a", "b"]}, request={"price_now": 1.0}
            )
        with pytest.raises(RequestError, match="row 1"):
            client.get_online_features("plain", [{"shop": "a"}, {}])
        with pytest.raises(TooLarge):
            client.get_online_features("plain", {"shop": ["a long name" * 20] * 90_000})
        with pytest.raises(DeadlineExceeded):
            client.get_online_features("plain", {"shop": ["s1"]}, timeout=1e-6)


def test_the_client_comes_back_after_a_restart_and_says_when_nobody_is_there(
    folder: Path, tmp_path: Path
) -> None:
    with serving(folder, log=tmp_path / "first") as first:
        client = Client(first.url, timeout=60)
        assert len(client.get_online_features("plain", {"shop": ["s1"]})) == 1
        port = str(first.address[1])
        first.stop()
    with pytest.raises(ServerUnavailable):
        client.get_online_features("plain", {"shop": ["s1"]})
    with pytest.raises(ServerUnavailable):
        asyncio.run(client.get_online_features_async("plain", {"shop": ["s1"]}))
    with serving(folder, "--port", port, log=tmp_path / "second"):
        assert len(client.get_online_features("plain", {"shop": ["s1"]})) == 1
    client.close()


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://h/path", "unix://", "http://key@host"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError):
        Client(url)


def test_torch_shares_memory(server: Server) -> None:
    torch = pytest.importorskip("torch")
    with Client(server.url, timeout=60) as client:
        got = client.get_online_features("plain", {"shop": ["s1"]})
        tensor = got.to_torch()
        assert tensor.data_ptr() == got.values.ctypes.data
        assert tensor.dtype == torch.float32
        assert got.to_torch(torch.device("cpu")).data_ptr() == tensor.data_ptr()
        assert got.to_torch("meta").shape == tensor.shape


@pytest.mark.slow
def test_the_page_on_the_server_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs/server.md").read_text(encoding="utf-8")
    folder = tmp_path / "shop"
    for arguments in (
        ["init", str(folder)],
        ["-C", str(folder), "apply", "--yes"],
        ["-C", str(folder), "materialize"],
    ):
        subprocess.run(
            [sys.executable, "-m", "featurestore.cli", *arguments], cwd=ROOT, check=True, capture_output=True
        )
    with serving(folder) as server:
        python = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        names: dict[str, Any] = {}
        exec(python[0].replace("http://127.0.0.1:6566", server.url), names)
        assert names["vectors"].to_numpy().shape == (2, 9)
        assert names["typed"].to_dict()["tier"] != [None]
        names["client"].close()
        exec(python[1], names)
        curl = shutil.which("curl") or missing("curl", package="curl")
        commands = re.findall(r"```\n(curl .*?)```", page, re.DOTALL)
        assert len(commands) == 3
        for command in commands:
            line = command.replace("http://127.0.0.1:6566", server.url).replace("curl", curl, 1)
            said = json.loads(subprocess.run(["bash", "-c", line], check=True, capture_output=True).stdout)
            assert "error" not in said


# ------------------------------------------------------------------------------------------------- what nobody changed


def test_tritonclient_reads_features(server: Server, truth: Any) -> None:
    triton = pytest.importorskip("tritonclient.http")
    host, port = server.address
    with triton.InferenceServerClient(f"{host}:{port}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("buy")
        assert client.get_server_metadata()["name"] == "featurestore"
        about = client.get_model_metadata("buy", "1")
        assert [t["name"] for t in about["inputs"]] == ["user_id", "shop", "price_now"]
        for binary in (True, False):
            inputs = [
                triton.InferInput("user_id", [3, 1], "INT64"),
                triton.InferInput("shop", [3], "BYTES"),
                triton.InferInput("price_now", [3], "FP64"),
            ]
            inputs[0].set_data_from_numpy(
                np.array(KEYS["user_id"], np.int64).reshape(3, 1), binary_data=binary
            )
            inputs[1].set_data_from_numpy(np.array(KEYS["shop"], object), binary_data=binary)
            inputs[2].set_data_from_numpy(np.array(ASKED["price_now"]), binary_data=binary)
            names = ("features", "mask", "age_ms", "shop")
            outputs = [triton.InferRequestedOutput(n, binary_data=binary) for n in names]
            got = client.infer(
                "buy", inputs, model_version="1", outputs=outputs, request_id="r7",
                timeout=5_000_000, parameters={"at": NOW.isoformat()},
            )  # fmt: skip
            assert got.get_response()["id"] == "r7"
            numbers = [i for i, n in enumerate(truth.names) if n in truth.tensor_names]
            values = got.as_numpy("features").astype(np.float32)
            assert np.array_equal(values, truth.to_numpy(), equal_nan=True)
            assert np.array_equal(got.as_numpy("mask").astype(bool), truth.mask[:, numbers])
            assert np.array_equal(got.as_numpy("age_ms"), truth.ages[:, numbers])
            text = [t.decode() if isinstance(t, bytes) else t for t in got.as_numpy("shop").tolist()]
            assert text == [v or "" for v in truth.to_dict()["shop"]]
        with pytest.raises(
            triton.InferenceServerException if hasattr(triton, "InferenceServerException") else Exception,
            match="no feature service 'nope'",
        ):
            client.get_model_metadata("nope")


FEAST_READS = """
import json, sys, tempfile, pathlib
from datetime import timedelta
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.infra.online_stores.remote import RemoteOnlineStoreConfig
from feast.types import Float64, Int64

root = pathlib.Path(tempfile.mkdtemp())
config = RepoConfig(project="p", provider="local", registry=str(root / "registry.db"), entity_key_serialization_version=3,
                    online_store=RemoteOnlineStoreConfig(type="remote", path=sys.argv[1]))
store = FeatureStore(config=config)
shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
view = FeatureView(name="shops", entities=[shop], ttl=timedelta(days=9999),
                   schema=[Field(name="amount", dtype=Float64), Field(name="count_1d", dtype=Int64)],
                   source=FileSource(path=sys.argv[2], timestamp_field="at"))
store.apply([shop, view])
got = store.get_online_features(features=["shops:amount", "shops:count_1d"], entity_rows=[{"shop": "s1"}, {"shop": "nowhere"}])
print("ANSWER" + json.dumps(got.to_dict()))
"""


@pytest.fixture(scope="session")
def feast_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python with Feast, in an environment of its own: Feast pins packages that this product has newer."""
    given = os.environ.get("FEAST_PYTHON")
    if given is not None:
        return given
    home = tmp_path_factory.mktemp("feast") / "env"
    uv = str(ROOT / "scripts" / "uv")
    for argv in ([uv, "venv", "--python", sys.executable, str(home)],
                 [uv, "pip", "install", "--python", str(home / "bin" / "python"), FEAST]):  # fmt: skip
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=280)
        if done.returncode:
            return missing(
                f"{FEAST} ({done.stderr.strip().splitlines()[-1][:200]})", package="feast, through uv"
            )
    return str(home / "bin" / "python")


@pytest.mark.slow
def test_feast_s_own_remote_store_reads_features(server: Server, folder: Path, feast_python: str) -> None:
    argv = [feast_python, "-c", FEAST_READS, server.url, str(folder / "events.parquet")]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"FEAST_USAGE": "False"}
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=280, env=environment, cwd="/"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    got = json.loads(done.stdout.partition("ANSWER")[2])
    with FeatureStore(folder) as store:
        want = store.get_online_features("plain", {"shop": ["s1", "nowhere"]}).to_dict()
    assert got["shop"] == ["s1", "nowhere"]
    assert got["amount"] == want["amount"]
    assert got["count_1d"] == want["count_1d"]


# ---------------------------------------------------------------------------------------------------- the OpenAPI document


@pytest.mark.slow
def test_what_the_document_says_is_so(server: Server) -> None:
    """Requests made from the document, right and wrong: no fault, and only statuses and bodies that it names."""
    document = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    found: list[Any] = list(document.get_all_operations())
    # It makes no Arrow streams; those are fuzzed on their own. Nothing here takes events.
    operations = [o for o in (f.ok() for f in found) if not o.path.startswith(("/features", "/events"))]
    assert len(operations) >= 15
    for operation in operations:
        _try(operation)


def _try(operation: Any) -> None:
    checks = [status_code_conformance, content_type_conformance, response_schema_conformance]
    if "ready" not in operation.path:  # which may well say 503
        checks.append(not_a_server_error)

    @settings(
        max_examples=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    @given(case=operation.as_strategy())
    def conforms(case: Any) -> None:
        case.validate_response(case.call(), checks=checks)

    conforms()
