"""What a training set may know: all that is known today, or only what had arrived at each row's own moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Literal, get_args

from featurestore.errors import NotFound, RequestError, nearest
from featurestore.expr.literals import MAX_TIMESTAMP, MIN_TIMESTAMP
from featurestore.time import Duration

Knowledge = Literal["corrected", "arrived"]
Lag = timedelta | Duration

_LONGEST = MAX_TIMESTAMP - MIN_TIMESTAMP


def lags_of(knowledge: str, lag: Lag | Mapping[str, Lag] | None, sources: Iterable[str]) -> dict[str, int]:
    """The lag of each of `sources` that has one, in microseconds; empty without a lag.

    Raises RequestError for a kind of knowledge that there is not, for a lag without `"arrived"`, and for one that is
    negative or no length of time; NotFound for the lag of a source that is not among `sources`.
    """
    kinds = get_args(Knowledge)
    if knowledge not in kinds:
        near = nearest(str(knowledge), kinds)
        raise RequestError("\n  ".join([f"knowledge={knowledge!r} is no kind of knowledge", *near]))
    if lag is None:
        return {}
    if knowledge != "arrived":
        raise RequestError(
            f'a lag says how long after its arrival an event is known, and knowledge="{knowledge}" does not ask\n'
            '  add knowledge="arrived", or leave the lag out'
        )
    names = sorted(set(sources))
    if not isinstance(lag, Mapping):
        return dict.fromkeys(names, _microseconds(lag, "the lag"))
    for name in lag:
        if name not in names:
            raise NotFound("source", str(name), names, "what this training set reads")
    return {name: _microseconds(lag[name], f"the lag of source '{name}'") for name in sorted(lag)}


def _microseconds(lag: object, what: str) -> int:
    if isinstance(lag, Duration):
        length = lag.microseconds
    elif isinstance(lag, timedelta):
        length = lag // timedelta(microseconds=1)
    else:
        raise RequestError(
            f"{what} is {lag!r}, which is no length of time\n  give hours(1) or timedelta(hours=1)"
        )
    if length < 0:
        raise RequestError(
            f"{what} is negative, {lag}: nothing is known before it arrives\n  give zero or more"
        )
    if length > _LONGEST:
        raise RequestError(f"{what} is {lag}, longer than all time there is\n  give less than 9,999 years")
    return length
