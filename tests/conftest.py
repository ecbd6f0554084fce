"""What all tests share: real servers, Hypothesis' settings, and a summary that hides nothing."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from hypothesis import settings

from tests.flink_broker import kafka_address, kafka_server, own_kafka
from tests.flink_cluster import flink
from tests.services import (
    MISSING,
    fresh_postgres,
    fresh_redis,
    postgres_server,
    postgres_url,
    redis_cluster,
    redis_server,
    redis_unix_url,
    redis_url,
)

__all__ = [
    "flink",
    "fresh_postgres",
    "fresh_redis",
    "kafka_address",
    "kafka_server",
    "own_kafka",
    "postgres_server",
    "postgres_url",
    "redis_cluster",
    "redis_server",
    "redis_unix_url",
    "redis_url",
]

# No JVM here lives long enough to earn back what its better compiler costs: with the quick one alone the tests of Flink take
# three quarters of the processor time.
os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")

# No deadline: a shared machine may stop for a second. In CI the same examples every time.
settings.register_profile(
    "shared", deadline=None, print_blob=True, derandomize=os.environ.get("CI") == "true"
)
settings.load_profile("shared")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills",
        type=int,
        metavar="N",
        help="how often each test that kills at random does so (few by default)",
    )


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """How often to kill at random: enough to hit, unless more was asked for."""
    asked: int | None = request.config.getoption("--kills")
    return asked or 12


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever asks for a server's fixture is marked with the server: `-m "not redis and not postgres and not kafka"`."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        for server in ("redis", "postgres", "kafka"):
            if (
                f"{server}_server" in fixtures
                or f"{server}_cluster" in fixtures
                or f"own_{server}" in fixtures
            ):
                item.add_marker(server)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Repeats what was not there, with the number of tests that it cost."""
    reasons = [str(report.longrepr[2]) for report in terminalreporter.getreports("skipped")]
    lost = Counter(reason.partition(MISSING)[2] for reason in reasons if MISSING in reason)
    if lost:
        terminalreporter.section("NOT TESTED: parts that are not installed", red=True, bold=True)
        for what, tests in sorted(lost.items()):
            terminalreporter.line(f"{tests} tests skipped: no {what}", red=True)
