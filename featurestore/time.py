"""Time: UTC instants in integer microseconds, durations as a type, and who is inside a window, once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import overload

from featurestore.errors import RequestError

MICROSECOND = 1
SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

Moment = datetime | str | int

HOPS = (DAY, HOUR, 5 * MINUTE, MINUTE, SECOND)


@dataclass(frozen=True, slots=True, order=True)
class Duration:
    """A length of time in whole microseconds, at least one.

    >>> str(days(7)), str(minutes(90)), str(seconds(0.5))
    ('7d', '90m', '500000us')
    """

    microseconds: int

    def __post_init__(self) -> None:
        if self.microseconds <= 0:
            raise ValueError(f"a duration is longer than zero, not {self.microseconds} microseconds")

    def __str__(self) -> str:
        return duration_text(self.microseconds)


@dataclass(frozen=True, slots=True)
class Lifetime:
    """All time before the moment of asking: a window without a tail."""

    def __str__(self) -> str:
        return "lifetime"


lifetime = Lifetime()


def seconds(n: float) -> Duration:
    """A duration of `n` seconds."""
    return _duration(n, SECOND)


def minutes(n: float) -> Duration:
    """A duration of `n` minutes."""
    return _duration(n, MINUTE)


def hours(n: float) -> Duration:
    """A duration of `n` hours."""
    return _duration(n, HOUR)


def days(n: float) -> Duration:
    """A duration of `n` times 24 hours, whatever a calendar says."""
    return _duration(n, DAY)


def _duration(n: float, unit: int) -> Duration:
    whole = round(n * unit)
    if whole != n * unit:
        raise ValueError(f"{n} is not a whole number of microseconds")
    return Duration(whole)


def duration_text(microseconds: int) -> str:
    """The shortest exact text: `7d`, `36h`, `5m`, `1s`, `1us`. Whole days are days, so 24 h is `1d`."""
    for size, unit in ((DAY, "d"), (HOUR, "h"), (MINUTE, "m"), (SECOND, "s")):
        if microseconds % size == 0:
            return f"{microseconds // size}{unit}"
    return f"{microseconds}us"


def default_hop(size: int) -> int:
    """The hop of a window of `size` microseconds that names none.

    The largest of 1 d, 1 h, 5 min, 1 min, 1 s that divides the window and is at most a tenth of it, else 1 s.
    """
    return next((hop for hop in HOPS if size % hop == 0 and hop * 10 <= size), SECOND)


def floor(instant: int, hop: int) -> int:
    """The start of the hop that holds `instant`: a true floor, also before 1970.

    >>> floor(-1, 10), floor(0, 10), floor(19, 10)
    (-10, 0, 10)
    """
    return instant - instant % hop


def tail(asked: int, size: int, hop: int) -> int:
    """The earliest event time inside a window of `size` asked for at `asked`. It moves in steps of `hop`."""
    return floor(asked, hop) - size


def inside(event: int, asked: int, size: int | None, hop: int) -> bool:
    """Whether an event counts: `tail(asked) <= event < asked`; `size` None is a lifetime, which has no tail.

    An event at the very moment of asking is not yet known.

    >>> inside(100, 100, 60, 10), inside(99, 100, 60, 10), inside(40, 105, 60, 10), inside(39, 105, 60, 10)
    (False, True, True, False)
    """
    return event < asked and (size is None or tail(asked, size, hop) <= event)


def known_at(arrival: int | None, event: int, lag: int) -> int:
    """When an event of time `event` became known: `lag` after it arrived, and never before it had happened.

    `arrival` None, of a source without arrivals or an event that lacks its own, is the event's time.

    >>> known_at(50, 10, 5), known_at(None, 10, 5), known_at(50, 60, 5)
    (55, 15, 61)
    """
    return max((event if arrival is None else arrival) + lag, event + 1)


def moment(value: Moment) -> int:
    """Microseconds since 1970 of an instant: a datetime or ISO text (UTC unless it says otherwise), or microseconds."""
    if isinstance(value, bool) or not isinstance(value, int | str | datetime):
        raise RequestError(
            f"{value!r} is not a moment\n  give a datetime, ISO text, or microseconds since 1970"
        )
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise RequestError(
                f"{value!r} is not a moment\n  write 2013-07-01T12:00:00, in UTC unless it says otherwise"
            ) from error
    aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    return (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


@overload
def moment_text(microseconds: int) -> str: ...
@overload
def moment_text(microseconds: None) -> None: ...
def moment_text(microseconds: int | None) -> str | None:
    """An instant as ISO 8601 in UTC, to the second where it is one: `2013-07-01T12:00:00Z`; None is None."""
    if microseconds is None:
        return None
    whole, rest = divmod(microseconds, SECOND)
    try:
        text = datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{microseconds} us"  # further away than a calendar goes
    return f"{text}.{rest:06d}Z" if rest else f"{text}Z"
