"""The page on model servers, against a real `fs serve`; Triton and Ray are stood in for by what the examples use of them."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from featurestore.client import Client
from tests.served import Server, serving

ROOT = Path(__file__).parent.parent
PYTORCH, TRITON, RAY = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs/model-servers.md").read_text(encoding="utf-8"), re.DOTALL
)
KEYS: dict[str, Any] = {"card_id": [1001, 1002], "merchant": ["m07", "m07"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models") / "shop"
    for words in (
        ["init", str(folder)],
        ["-C", str(folder), "apply", "--yes"],
        ["-C", str(folder), "materialize"],
    ):
        argv = [sys.executable, "-m", "featurestore.cli", *words]
        subprocess.run(argv, cwd=ROOT, check=True, capture_output=True)
    with serving(folder) as running:
        yield running


@pytest.fixture(scope="module")
def truth(server: Server) -> np.ndarray:
    with Client(server.url, timeout=60) as client:
        return client.get_online_features("disputes", KEYS).to_numpy()


def names_of(page: str, **modules: ModuleType) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        names: dict[str, Any] = {}
        exec(page, names)
    return names


@pytest.mark.slow
def test_a_model_of_pytorch(server: Server, truth: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(truth.shape[1], 1)
    scorer = names_of(PYTORCH)["Scorer"](server.url, model)
    want = model(torch.nan_to_num(torch.from_numpy(truth))).flatten().tolist()
    assert scorer(KEYS["card_id"], KEYS["merchant"]) == want
    scorer.client.close()


class Tensor:
    """As Triton's: a name, and an array that is C-contiguous."""

    def __init__(self, name: str, values: np.ndarray) -> None:
        assert values.flags.c_contiguous
        self.name, self._values = name, values

    def as_numpy(self) -> np.ndarray:
        return self._values


class Response:
    def __init__(self, output_tensors: list[Tensor] | None = None, error: Any = None) -> None:
        self.outputs, self.error = {t.name: t.as_numpy() for t in output_tensors or ()}, error


@pytest.mark.slow
def test_a_python_backend_of_triton(server: Server, truth: np.ndarray) -> None:
    utils: Any = ModuleType("triton_python_backend_utils")
    utils.Tensor, utils.InferenceResponse, utils.TritonError = Tensor, Response, str
    utils.get_input_tensor_by_name = lambda request, name: request[name]
    model = names_of(TRITON, triton_python_backend_utils=utils)["TritonPythonModel"]()
    model.initialize({"model_config": json.dumps({"parameters": {"url": {"string_value": server.url}}})})
    merchants = np.array([[m.encode()] for m in KEYS["merchant"]], object)
    cards = np.array(KEYS["card_id"], np.int64).reshape(2, 1)
    good = {"card_id": Tensor("card_id", cards), "merchant": Tensor("merchant", merchants)}
    bad = {**good, "merchant": Tensor("merchant", merchants[:1])}
    first, second = model.execute([good, bad])
    assert np.array_equal(first.outputs["features"], truth, equal_nan=True)
    assert first.outputs["mask"].shape == truth.shape
    assert "different lengths" in second.error
    model.finalize()


@pytest.mark.slow
def test_a_deployment_of_ray_serve(server: Server, truth: np.ndarray) -> None:
    ray: Any = ModuleType("ray")
    ray.serve = ModuleType("ray.serve")
    ray.serve.deployment, ray.serve.batch = lambda made: made, lambda **_: lambda method: method
    deployed = names_of(RAY, ray=ray)["Features"](server.url)
    rows = [dict(zip(KEYS, values, strict=True)) for values in zip(*KEYS.values(), strict=True)]
    got = asyncio.run(deployed(rows))
    assert np.array_equal(np.array(got, np.float32), truth, equal_nan=True)
    deployed.client.close()
