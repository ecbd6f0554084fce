"""Why a value is what it is: one status for each cell, the first that holds in the order of this list."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """`PRESENT` is 0, so an array of zeros is the common case. The meaning of each is SEMANTICS' section on rows."""

    PRESENT = 0
    OVERFLOW = 1
    """A whole number that does not fit its type; the value is NULL."""
    DEFAULT = 2
    """The value was NULL, and the feature's default stands in."""
    EXPIRED = 3
    """The latest event is older than the view's ttl."""
    NOT_FOUND = 4
    """The view has no event of this entity before the moment asked for."""
    NULL = 5
    """There were events, and the value is NULL all the same."""
    INEXACT = 6
    """A read in the past of a store that holds newer events, or no longer keeps what it would need."""
    STALE = 7
    """The view's watermark is older than the service allows, or the store does not reach back far enough."""


class LabelState(IntEnum):
    """Whether a row has its label yet. Only a mature one has a value: another is no negative."""

    MATURE = 0
    IMMATURE = 1
    """It is too early: the range, or the time that late events are given, is not over."""
    CENSORED = 2
    """It will never be known: the row has no key, its entity was erased, or the source ends inside the range."""
