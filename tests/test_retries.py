"""What fails for a moment is asked again; what stays away is not asked twice as much."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from featurestore import FeatureStore
from featurestore.client import Client
from featurestore.errors import ServerUnavailable, StoreUnavailable
from featurestore.retries import PAUSE, RetryBudget
from tests.relay import Relay, relay
from tests.served import DEFINITIONS, project, serving
from tests.services import RedisServer

READS = {"shop": ["s1", "s2"]}


def test_a_budget_is_spent_and_comes_back() -> None:
    now = [0.0]
    budget = RetryBudget(most=2, per_second=0.5, clock=lambda: now[0])
    for _ in range(2):
        pause = budget.take()
        assert pause is not None
        assert PAUSE[0] <= pause <= PAUSE[1]
    assert budget.take() is None
    now[0] = 1.9
    assert budget.take() is None
    now[0] = 2.0
    assert budget.take() is not None
    now[0] = 1000.0  # no more than at the beginning, however long nothing was asked again
    assert [budget.take() is not None for _ in range(3)] == [True, True, False]
    assert (budget.spent, budget.refused) == (5, 3)


def test_whoever_has_no_time_left_spends_nothing() -> None:
    budget = RetryBudget()
    assert budget.take(left=0.005) is None
    assert (budget.spent, budget.refused) == (0, 0)


@pytest.fixture
def away(tmp_path: Path, fresh_redis: RedisServer) -> Iterator[tuple[Relay, FeatureStore]]:
    """A store whose Redis is behind a relay."""
    port = urlsplit(fresh_redis.url).port
    assert port is not None
    with relay(port) as between:
        toml = f'[online]\nurl = "redis://127.0.0.1:{between.port}/0"\n'
        with FeatureStore(project(tmp_path / "shop", toml, DEFINITIONS)) as store:
            yield between, store


@pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "async"])
def test_a_read_that_meets_a_store_that_is_back_at_once_succeeds(
    away: tuple[Relay, FeatureStore], asynchronous: bool
) -> None:
    between, store = away
    reader = store.reader("plain")

    def read() -> list[object]:
        got = asyncio.run(reader.get_async(READS)) if asynchronous else reader.get(READS)
        return list(got.to_dict().values())

    wanted = read()
    between.cut(turn_away=1)
    assert read() == wanted
    between.cut(turn_away=1 << 30)
    before, tries = between.accepted, 40
    for _ in range(tries):
        with pytest.raises(StoreUnavailable):
            read()
    assert tries < between.accepted - before < 1.5 * tries


def test_a_client_asks_again_and_not_for_ever(tmp_path: Path) -> None:
    with (
        serving(project(tmp_path / "shop", "", DEFINITIONS)) as server,
        relay(server.address[1]) as between,
        Client(f"http://127.0.0.1:{between.port}") as client,
    ):
        wanted = client.get_online_features("plain", READS).values.tolist()
        between.cut(turn_away=1)
        assert client.get_online_features("plain", READS).values.tolist() == wanted
        between.cut(turn_away=1)
        again = asyncio.run(client.get_online_features_async("plain", READS))
        assert again.values.tolist() == wanted
        between.cut(turn_away=1 << 30)
        before, tries = between.accepted, 40
        for _ in range(tries):
            with pytest.raises(ServerUnavailable):
                client.get_online_features("plain", READS)
        assert tries < between.accepted - before < 1.5 * tries
