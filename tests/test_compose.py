"""`docker-compose.yml`: what it says hangs together, and listens on loopback alone. No engine is needed for that."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from featurestore.config import load_config

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docker-compose.yml"
KEYS = {
    "build", "command", "depends_on", "environment", "healthcheck", "image", "ports", "profiles", "restart",
    "stop_grace_period", "volumes",
}  # fmt: skip


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return found


def test_the_whole_path_is_there(compose: dict[str, Any]) -> None:
    wanted = {"redis", "postgres", "kafka", "jobmanager", "taskmanager", "supervisor", "writer", "server"}
    assert set(compose["services"]) == wanted
    plain = {name for name, service in compose["services"].items() if "profiles" not in service}
    assert plain == {"redis", "postgres"}


def test_services_say_nothing_that_compose_does_not_know(compose: dict[str, Any]) -> None:
    assert set(compose) <= {"services", "volumes", "x-project", "x-flink"}
    for name, service in compose["services"].items():
        assert set(service) <= KEYS, name
        assert ("image" in service) or ("build" in service), name


def test_what_is_named_is_there(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for other in service.get("depends_on", ()):
            assert other in compose["services"], name
        for other, how in dict(
            service["depends_on"] if isinstance(service.get("depends_on"), dict) else {}
        ).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in compose["services"][other]
        for mount in service.get("volumes", ()):
            source = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", mount).split(":")[0]
            assert source.startswith(".") or source in compose["volumes"], (name, mount)
        if "build" in service:
            text = (ROOT / service["build"]["dockerfile"]).read_text(encoding="utf-8")
            assert re.search(rf"^FROM \S+ AS {service['build']['target']}$", text, re.MULTILINE), name


def test_every_port_is_on_loopback(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_its_settings_are_settings_of_a_project(compose: dict[str, Any], tmp_path: Path) -> None:
    told = {k: str(v) for k, v in compose["x-project"]["environment"].items()}
    (tmp_path / "fs.toml").write_text("")
    config = load_config(tmp_path, environ=told)
    assert config.stream_engine == "flink"
    assert config.online_url == told["FS_ONLINE_URL"]
    assert config.flink == {
        "cluster": "http://jobmanager:8081",
        "checkpoints": "file:///checkpoints",
        "project": "/opt/featurestore/streaming",
        "writers": 0,
    }
    unknown = [k for k in told if k.startswith("FS_") and not re.match(r"FS_(ONLINE|REGISTRY|STREAM)_", k)]
    assert unknown == []


def test_the_image_has_the_versions_of_the_project() -> None:
    text = (ROOT / "streaming" / "Dockerfile").read_text(encoding="utf-8")
    pinned = re.search(
        r"apache-flink==([\d.]+)", (ROOT / "streaming" / "pyproject.toml").read_text(encoding="utf-8")
    )
    assert pinned is not None
    assert f"FROM flink:{pinned[1]}-" in text
