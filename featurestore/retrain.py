"""When a model is to be trained again: plain values for `Trigger(when=[…])`. Any one of them is enough."""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.time import Duration


@dataclass(frozen=True, slots=True)
class Every:
    """So long after the last time, or after what the model was trained on ends."""

    length: Duration


@dataclass(frozen=True, slots=True)
class Rows:
    """So many labelled rows have come since the last time."""

    labelled: int


@dataclass(frozen=True, slots=True)
class Drifted:
    """A share of the features drifts, in the newest run of the service's monitors, and has for `lasting`."""

    share: float
    lasting: Duration | None = None


@dataclass(frozen=True, slots=True)
class Performance:
    """A quality alert of the service is firing, or its accuracy is below a bound."""

    accuracy: float | None = None


Due = Every | Rows | Drifted | Performance


def every(length: Duration) -> Every:
    """So long after the last time."""
    return Every(length)


def rows(labelled: int) -> Rows:
    """After so many labelled rows."""
    return Rows(labelled)


def drift(share: float = 0.2, lasting: Duration | None = None) -> Drifted:
    """When a share of the features drifts."""
    return Drifted(share, lasting)


def performance(accuracy: float | None = None) -> Performance:
    """When predictions are worse than they were, or than `accuracy`."""
    return Performance(accuracy)


__all__ = ["Drifted", "Due", "Every", "Performance", "Rows", "drift", "every", "performance", "rows"]
