"""Floor 0: time and errors."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore import errors
from featurestore.errors import DefinitionError, FeatureStoreError, NotFound, Problem, Where, nearest
from featurestore.time import (
    DAY,
    HOPS,
    HOUR,
    MINUTE,
    SECOND,
    Duration,
    days,
    default_hop,
    floor,
    hours,
    inside,
    minutes,
    seconds,
    tail,
)

INSTANTS = st.integers(-(10**17), 10**17)
HOPS_WITH_TIMES = st.tuples(st.sampled_from(HOPS), st.integers(1, 400))


@dataclass(frozen=True, slots=True)
class Visible:
    """Whether an event counts; all times in minutes since 1970."""

    name: str
    event: int
    asked: int
    size: int | None
    hop: int
    want: bool


VISIBLE = [
    Visible("an event at the moment of asking is not yet known", 60, 60, 60, 5, want=False),
    Visible("an event just before the moment of asking counts", 59, 60, 60, 5, want=True),
    Visible("an event exactly one window old is still inside", 0, 60, 60, 5, want=True),
    Visible("an event older than the window is outside", -1, 60, 60, 5, want=False),
    Visible("between hop edges the tail waits", 0, 64, 60, 5, want=True),
    Visible("at the hop edge the tail moves", 4, 65, 60, 5, want=False),
    Visible("the event on the new tail is inside", 5, 65, 60, 5, want=True),
    Visible("before 1970 the tail is on the hop grid too", -70, -7, 60, 5, want=True),
    Visible("before 1970 what is older is outside", -71, -7, 60, 5, want=False),
    Visible("a lifetime has no tail", -(10**9), 60, None, 5, want=True),
    Visible("a lifetime does not see the moment of asking", 60, 60, None, 5, want=False),
]


@pytest.mark.parametrize("case", VISIBLE, ids=lambda case: case.name)
def test_who_is_inside_a_window(case: Visible) -> None:
    assert inside(case.event, case.asked, case.size, case.hop) == case.want


@given(asked=INSTANTS, window=HOPS_WITH_TIMES)
def test_a_window_reaches_at_least_its_size_back_and_less_than_a_hop_more(
    asked: int, window: tuple[int, int]
) -> None:
    hop, times = window
    assert hop * times <= asked - tail(asked, hop * times, hop) < hop * times + hop


@given(instant=INSTANTS, hop=st.sampled_from(HOPS))
def test_a_floor_is_on_the_grid_and_never_after_the_instant(instant: int, hop: int) -> None:
    start = floor(instant, hop)
    assert start % hop == 0
    assert start <= instant < start + hop


@given(asked=INSTANTS, later=st.integers(0, 10**12), window=HOPS_WITH_TIMES)
def test_a_tail_never_moves_back(asked: int, later: int, window: tuple[int, int]) -> None:
    hop, times = window
    assert tail(asked, hop * times, hop) <= tail(asked + later, hop * times, hop)


@pytest.mark.parametrize(
    ("size", "want"),
    [
        pytest.param(30 * DAY, DAY, id="thirty days step by a day"),
        pytest.param(7 * DAY, HOUR, id="seven days step by an hour: a day is more than a tenth"),
        pytest.param(DAY, HOUR, id="a day steps by an hour"),
        pytest.param(HOUR, 5 * MINUTE, id="an hour steps by five minutes"),
        pytest.param(61 * MINUTE, MINUTE, id="sixty-one minutes step by a minute: five does not divide them"),
        pytest.param(10 * SECOND, SECOND, id="ten seconds step by a second"),
        pytest.param(SECOND, SECOND, id="a second steps by itself"),
    ],
)
def test_the_hop_of_a_window_that_names_none(size: int, want: int) -> None:
    assert default_hop(size) == want


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        pytest.param(hours(24), "1d", id="twenty-four hours are a day"),
        pytest.param(hours(36), "36h", id="a day and a half is said in hours"),
        pytest.param(minutes(90), "90m", id="an hour and a half is said in minutes"),
        pytest.param(seconds(1), "1s", id="a second"),
        pytest.param(seconds(0.000001), "1us", id="the shortest of all"),
    ],
)
def test_the_text_of_a_duration(duration: Duration, text: str) -> None:
    assert str(duration) == text


def test_equal_lengths_are_equal_durations_whatever_unit_they_were_said_in() -> None:
    assert days(1) == hours(24) == minutes(1440) == seconds(86400)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: days(0), id="no time at all"),
        pytest.param(lambda: hours(-1), id="less than none"),
        pytest.param(lambda: seconds(0.0000005), id="half a microsecond"),
    ],
)
def test_what_is_not_a_duration_is_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=r"longer than zero|whole number of microseconds"):
        make()


def test_a_load_reports_every_mistake_with_its_line_and_what_would_work() -> None:
    amount = tuple(nearest("amonut", ["amount", "card"]))
    misspelt = Problem("unknown column 'amonut'", Where("views/spend.py", 14), amount)
    error = DefinitionError([misspelt, Problem("no entity", Where("views/spend.py", 0))])
    assert str(error) == (
        "views/spend.py:14: unknown column 'amonut'\n  did you mean 'amount'?\n\nviews/spend.py: no entity"
    )


@pytest.mark.parametrize(
    ("known", "help_line"),
    [
        pytest.param(["delay", "fraud"], "did you mean 'delay'?", id="the nearest name"),
        pytest.param(["fraud", "churn"], "there is churn, fraud", id="all names when none is near"),
        pytest.param([], "there is none yet", id="nothing to choose from"),
    ],
)
def test_a_wrong_name_is_answered_with_right_ones(known: list[str], help_line: str) -> None:
    assert str(NotFound("service", "dleay", known)) == f"no service 'dleay'\n  {help_line}"


def test_every_error_a_user_can_meet_is_in_the_tree() -> None:
    raised = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)]
    assert raised
    assert all(issubclass(c, FeatureStoreError) for c in raised)
    assert all(c.__name__ in (errors.__doc__ or "") for c in raised)
