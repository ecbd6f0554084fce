"""`fs stream log`: what the logs hold, and removing old events, but none that a stream has still to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from featurestore.cli.app import main
from featurestore.errors import LogUnread
from featurestore.log import EventLog
from featurestore.store import FeatureStore
from featurestore.stream.feeds import log_directory
from tests.test_stream import DEFINITIONS, ago


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project whose log of twelve events lies in segments of about one."""
    (tmp_path / "fs.toml").write_text("[offline]\nthreads = 1\n")
    (tmp_path / "definitions.py").write_text(DEFINITIONS.format(more='fs.sum("x").over(fs.days(1))'))
    with FeatureStore(tmp_path) as store:
        store.apply()
        source = store.registry.current().plan.sources[0]
        with EventLog.open(log_directory(store.config, source), source.schema, segment_bytes=100) as log:
            for i in range(12):
                log.append([ago(60 - i)], at=1_000_000 * i)
    return tmp_path


def fs(root: Path, capfd: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> Any:
    capfd.readouterr()
    assert main([*arguments, "-C", str(root), "--json"]) == status
    return json.loads(capfd.readouterr().out)


def test_what_streams_have_still_to_read_stays(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    prune = "stream", "log", "prune", "events", "--before", "5"
    error = fs(root, capfd, *prune, status=1)["error"]
    assert error["type"] == "LogUnread"
    assert "before offset 5; nothing was removed\n  view 'v' has read none\n" in error["message"]
    fs(root, capfd, "stream", "run", "--once")
    assert fs(root, capfd, *prune)["start"] == 5
    assert fs(root, capfd, *prune)["segments"] == 0
    with FeatureStore(root) as store:
        store.push("events", [ago(5) for _ in range(40)])
        (log,) = store.event_logs("events")
        assert log.stats is not None
        assert (log.stats.start, log.stats.end, dict(log.read), log.damage) == (5, 52, {"v": 12}, ())
        with EventLog.open(
            log_directory(store.config, store.registry.current().plan.sources[0]), {}
        ) as other:
            assert other.end() == 52
        store.push("events", [ago(4)])
        assert store.prune_log("events", before=12).start <= 12, "all that was read may go"


def test_force_removes_what_was_not_read_and_the_stream_says_so(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with FeatureStore(root) as store, pytest.raises(LogUnread) as unread:
        store.prune_log("events", before=5)
    assert unread.value.views == ("v",)
    done = fs(root, capfd, "stream", "log", "prune", "events", "--older-than", "1s", "--force")
    assert (done["segments"], done["start"]) == (11, 11)
    assert fs(root, capfd, "stream", "run", "--once")["events"] == 1
    assert fs(root, capfd, "stream", "log", "prune", "events", status=2)["error"]["type"] == "UsageError"
    assert fs(root, capfd, "stream", "log", "status", "nothing", status=1)["error"]["type"] == "NotFound"


def test_a_log_that_nobody_wrote_is_listed_and_not_made(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    directory = root / ".fs" / "log"
    directory.rename(root / "away")
    (log,) = fs(root, capfd, "stream", "log", "status")["logs"]
    assert log == {"source": "events", "read": {"v": None}, "damage": []}
    assert not directory.exists()
    assert main(["stream", "log", "status", "-C", str(root)]) == 0
