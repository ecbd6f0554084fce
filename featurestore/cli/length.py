"""Lengths of time as people write them in options."""

from __future__ import annotations

from datetime import timedelta

import click

_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}


def length_of(option: str, text: str) -> timedelta:
    """What `7d`, `12h`, `30m` or `10s` stands for. Raises UsageError, naming the option.

    >>> length_of("--gap", "1.5h")
    datetime.timedelta(seconds=5400)
    """
    try:
        return timedelta(**{_UNITS[text[-1:]]: float(text[:-1])})
    except (KeyError, ValueError, OverflowError) as error:
        raise click.UsageError(f"{option} {text} is no length of time: write 7d, 12h, 30m or 10s") from error
