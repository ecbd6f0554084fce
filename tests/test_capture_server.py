"""Every route that serves vectors captures them, under the id that the answer has; what comes back is kept by its routes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from featurestore import FeatureStore
from featurestore.capture.returned import values_of
from featurestore.client import Client
from featurestore.errors import AccessDenied, RequestError
from tests.served import Server, serving
from tests.test_capture import by_id, captured, project

SERVICE = "taken = FeatureService('taken', features=[newest], capture=Capture())\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.test_capture import DEFINITIONS

    return project(tmp_path_factory.mktemp("served"), DEFINITIONS + SERVICE)


@pytest.fixture(scope="module")
def server(made: Path) -> Iterator[Server]:
    with serving(made) as running:
        yield running


def rows_when(made: Path, row_ids: list[str]) -> dict[str, dict[str, Any]]:
    """The captured rows, once those are there."""
    from tests.served import wait_until

    with FeatureStore(made) as store:

        def there() -> bool:
            return bool(list((made / ".fs/capture/rows").glob("service=taken/*/log/*.segment"))) and set(
                row_ids
            ) <= set(captured(store, "taken")["row_id"].to_pylist())

        wait_until(there)
        return by_id(captured(store, "taken"))


def test_all_routes_capture_what_they_serve(server: Server, made: Path) -> None:
    asked = {"feature_service": "taken", "entities": {"card_id": [1, 2]}, "context": {"arm": "a"}}
    feast = server.post("/get-online-features", asked)
    inputs = {"inputs": [{"name": "card_id", "shape": [1], "datatype": "INT64", "data": [3]}], "id": "mine"}
    named = server.post("/v2/models/taken/infer", inputs)
    sink = pa.BufferOutputStream()
    table = pa.table({"card_id": pa.array([4], pa.int64())})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    arrow = server.post("/features/taken", sink.getvalue().to_pybytes(), {"X-Request-Id": "given"})
    assert [a.status for a in (feast, named, arrow)] == [200] * 3
    one = feast.headers["x-request-id"]
    rows = rows_when(made, [f"{one}-0", f"{one}-1", "mine-0", "given-0"])
    assert [rows[r]["key:card_id"] for r in (f"{one}-0", f"{one}-1", "mine-0", "given-0")] == [1, 2, 3, 4]
    assert rows[f"{one}-1"]["context"] == '{"arm": "a"}'
    served = pa.ipc.open_stream(arrow.body).read_all().to_pylist()[0]
    assert {n: rows["given-0"][f"feature:{n}"] for n in served} == served


def test_the_client_sends_what_came_of_rows(server: Server, made: Path) -> None:
    with Client(server.url) as client:
        vectors = client.get_online_features("taken", {"card_id": [5, 6]}, context={"position": [2, 1]})
        rows_when(made, vectors.row_ids)
        done = client.predictions(vectors.row_ids, [0.5, 0.25], model="m", version="3")
        assert done == {"rows": 2, "new": 2, "same": 0, "changed": 0, "unknown": 0, "early": 0}
        assert client.predictions(vectors.row_ids, [0.5, 0.75], model="m", version="3")["changed"] == 1
        assert client.labels([*vectors.row_ids, "nobody-0"], [1, 0, 1], name="late")["unknown"] == 1
        with pytest.raises(RequestError, match="1 values came for 2 row ids"):
            client.labels(vectors.row_ids, [1], name="late")
    with FeatureStore(made) as store:
        newest = store.capture.returned("predictions").newest()
        back = dict(zip(newest["row_id"].to_pylist(), values_of(newest), strict=True))
        assert [back[r] for r in vectors.row_ids] == [0.5, 0.75]


def test_labels_come_as_an_arrow_stream_too(server: Server) -> None:
    sink = pa.BufferOutputStream()
    table = pa.table({"row_id": ["x-0", "x-1"], "value": [True, False]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    kind = {"Content-Type": "application/vnd.apache.arrow.stream"}
    done = server.post("/capture/labels?name=paid", sink.getvalue().to_pybytes(), kind)
    assert (done.status, done.json()["new"]) == (200, 2)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/capture/labels", {"row_ids": ["a-0"]}),
        ("/capture/labels", {"row_ids": ["a-0"], "values": [1]}),
        ("/capture/labels", {"row_ids": ["a-0"], "values": [1], "name": 3}),
        ("/capture/predictions", {"row_ids": ["a-0"], "values": [1], "name": "late"}),
        ("/capture/predictions", {"row_ids": "a-0", "values": [1], "model": "m"}),
        ("/get-online-features", {"feature_service": "taken", "entities": {"card_id": [1]}, "context": [1]}),
        (
            "/get-online-features",
            {"feature_service": "taken", "entities": {"card_id": [1]}, "context": {"a": [1, 2]}},
        ),
    ],
)
def test_what_does_not_fit_is_a_400(server: Server, path: str, body: dict[str, Any]) -> None:
    answer = server.post(path, body)
    assert (answer.status, answer.json()["type"]) == (400, "RequestError")


def test_what_came_back_wants_a_key_that_may_write(made: Path, tmp_path: Path) -> None:
    def key(*options: str) -> str:
        command = [
            sys.executable,
            "-m",
            "featurestore.cli",
            "-C",
            str(made),
            "key",
            "add",
            *options,
            "--json",
        ]
        return str(json.loads(subprocess.check_output(command))["key"])

    reads, writes = key("reader"), key("writer", "--role", "write")
    with serving(made, "--host", "0.0.0.0", log=tmp_path / "log") as server:
        url = f"http://127.0.0.1:{server.address[1]}"
        with Client(url, key=reads) as client, pytest.raises(AccessDenied):
            client.labels(["a-0"], [1], name="late")
        with Client(url, key=writes) as client:
            assert client.labels(["b-0"], [1], name="late")["new"] == 1


def test_the_command_line_adds_labels_and_says_what_is_kept(
    server: Server, made: Path, tmp_path: Path
) -> None:
    def fs(*arguments: str) -> Any:
        command = [sys.executable, "-m", "featurestore.cli", "-C", str(made), *arguments, "--json"]
        return json.loads(subprocess.check_output(command))

    with Client(server.url) as client:
        vectors = client.get_online_features("taken", {"card_id": [7, 8]})
    rows_when(made, vectors.row_ids)
    file = tmp_path / "came.csv"
    lines = [f"{r},{i},2026-01-06T00:00:00Z" for i, r in enumerate(vectors.row_ids)]
    file.write_text("\n".join(["row_id,delay,when", *lines]) + "\n")
    done = fs("labels", "add", str(file), "--name", "delay", "--value", "delay", "--at", "when")
    assert (done["new"], done["unknown"]) == (2, 0)
    compacted = {c["service"]: c for c in fs("log", "compact")["compacted"]}
    assert compacted["taken"]["rows"] >= 2
    told = fs("log", "status")
    assert next(s for s in told["schemas"] if s["service"] == "taken")["logged_rows"] == 0
    assert told["labels"]["kept"] >= 2


def test_prometheus_sees_what_became_of_rows(server: Server, made: Path) -> None:
    answer = server.post("/get-online-features", {"feature_service": "taken", "entities": {"card_id": [1]}})
    rows_when(made, [f"{answer.headers['x-request-id']}-0"])
    from tests.served import wait_until

    wait_until(lambda: b'fs_capture_rows_total{outcome="kept"}' in server.ask("GET", "/metrics").body)
