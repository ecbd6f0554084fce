"""Servers show what the monitors found beside their own figures: the error budgets of objectives above all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from featurestore import FeatureStore
from tests.served import DEFINITIONS, NOW, Server, project, serving

MONITORS = """
from featurestore import Monitor, check, days, seconds

promises = Monitor("promises", on=plain, checks=[check.objective(latency=seconds(10), of=0.99, availability=0.999)])
ages = Monitor("ages", on=buy, checks=[check.fresh(within=days(9))])
"""


def families(server: Server) -> dict[str, Any]:
    text = server.ask("GET", "/metrics").body.decode()
    found = [f.name for f in text_string_to_metric_families(text)]
    assert len(found) == len(set(found))
    return {f.name: f for f in text_string_to_metric_families(text)}


def read(server: Server, times: int) -> None:
    for _ in range(times):
        server.post("/get-online-features", {"feature_service": "plain", "entities": {"shop": ["s1"]}})


def passed(folder: Path, minute: int, *names: str) -> None:
    with FeatureStore(folder) as store:
        store.monitor(names, at=int(NOW.timestamp() * 1e6) + minute * 60_000_000)


def test_error_budgets_stand_among_the_figures_of_the_server(tmp_path: Path) -> None:
    folder = project(tmp_path / "shop", definitions=DEFINITIONS + MONITORS)
    settings = folder / "fs.toml"
    with serving(folder) as server:
        assert "fs_error_budget_left" not in families(server)
        settings.write_text(
            settings.read_text(encoding="utf-8") + f'[alerts]\nmetrics = "{server.url}/metrics"\n',
            encoding="utf-8",
        )
        for minute in (1, 2):
            read(server, 3)
            passed(folder, minute)
        seen = families(server)
        left = {s.labels["objective"]: s.value for s in seen["fs_error_budget_left"].samples}
        assert left == {"latency": 1.0, "availability": 1.0}
        assert {s.labels["service"] for s in seen["fs_error_budget_left"].samples} == {"plain"}
        assert {s.labels["service"]: s.value for s in seen["fs_service_health"].samples} == {
            "buy": 2,
            "plain": 2,
        }
        (when,) = seen["fs_monitor_last_run_seconds"].samples
        assert when.value == NOW.timestamp() + 120
        passed(folder, 3, "ages")  # what the other monitor found stands
        seen = families(server)
        assert {s.labels["objective"] for s in seen["fs_error_budget_left"].samples} == set(left)
        assert {s.labels["service"]: s.value for s in seen["fs_service_health"].samples} == {
            "buy": 2,
            "plain": 2,
        }
        assert "fs_rows" in seen
