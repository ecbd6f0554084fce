"""Where alerts go: `[alerts.channels.NAME]` of `fs.toml`, checked when it is read, and filled in only when something is sent.

What is secret is written `${VARIABLE}`: the text is kept as it stands, so that no settings, log or error ever hold the value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from featurestore.errors import nearest

KINDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "log": {},
    "webhook": {"url": str, "token": str},
    "slack": {"url": str},
    "smtp": {
        "host": str,
        "port": int,
        "user": str,
        "password": str,
        "from": str,
        "to": (str, list),
        "tls": str,
    },
    "alertmanager": {"url": str, "token": str},
}
NEEDED = {
    "webhook": ("url",),
    "slack": ("url",),
    "smtp": ("host", "from", "to"),
    "alertmanager": ("url",),
    "log": (),
}
COMMON: dict[str, type | tuple[type, ...]] = {"kind": str, "hours": str, "days": str, "timezone": str}
SECRET = {("webhook", "token"), ("slack", "url"), ("smtp", "password"), ("alertmanager", "token")}
TLS = ("starttls", "tls", "none")

_VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}\Z")
_HOURS = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)\Z")
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True)
class Hours:
    """When a channel may be used: from and until in minutes of the day, on days 0 (Monday) to 6. It may pass midnight."""

    start: int
    end: int
    days: frozenset[int]
    zone: tzinfo = UTC

    def open(self, at: datetime) -> bool:
        local = at.astimezone(self.zone)
        minute = local.hour * 60 + local.minute
        if self.start <= self.end:
            return local.weekday() in self.days and self.start <= minute < self.end
        began = local if minute >= self.start else local - timedelta(days=1)
        return began.weekday() in self.days and (minute >= self.start or minute < self.end)


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel: its settings as they are written, `${VARIABLE}` and all."""

    name: str
    kind: str = "log"
    settings: tuple[tuple[str, Any], ...] = ()
    hours: Hours | None = None

    def opens(self, now: int) -> int:
        """The earliest moment from `now` on, in microseconds, at which it may be used: to the minute."""
        if self.hours is None:
            return now
        at = datetime.fromtimestamp(now / 1e6, UTC)
        if self.hours.open(at):
            return now
        at = at.replace(second=0, microsecond=0)
        for _ in range(8 * 24 * 60):
            at += timedelta(minutes=1)
            if self.hours.open(at):
                return int(at.timestamp() * 1e6)
        return now


LOG = Channel("log")


def channels_of(raw: Mapping[str, Any]) -> tuple[dict[str, Channel], list[tuple[str, str, tuple[str, ...]]]]:
    """The channels of a table of tables, and what is wrong with them: channel, what, and what would work."""
    found: dict[str, Channel] = {"log": LOG}
    problems = []
    for name, values in raw.items():
        wrong = list(_mistakes(values)) if isinstance(values, Mapping) else [("is no table", ())]
        problems += [(name, what, help) for what, help in wrong]
        if not wrong:
            settings = tuple((k, v) for k, v in values.items() if k not in COMMON)
            found[name] = Channel(name, values["kind"], settings, _hours(values))
    return found, problems


def _mistakes(values: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    kind = values.get("kind")
    if kind not in KINDS:
        yield f"is of no kind '{kind}'", tuple(nearest(str(kind), KINDS))
        return
    known = COMMON | KINDS[kind]
    for key, value in values.items():
        if key not in known:
            yield f"has no setting '{key}'", tuple(nearest(key, known))
        elif not isinstance(value, known[key]) or isinstance(value, bool):
            yield f"has a '{key}' that is not of the right type", ()
        elif (kind, key) in SECRET and not _VARIABLE.match(str(value)):
            yield (
                f"holds its {key} in the open",
                (f'write {key} = "${{VARIABLE}}", and set it in the environment',),
            )
    for key in NEEDED[kind]:
        if key not in values:
            yield f"lacks '{key}'", ()
    if values.get("tls", TLS[0]) not in TLS:
        yield f"has no tls '{values['tls']}'", tuple(nearest(str(values["tls"]), TLS))
    try:
        _hours(values)
    except ValueError as error:
        yield str(error), ()


def _hours(values: Mapping[str, Any]) -> Hours | None:
    if "hours" not in values and "days" not in values:
        return None
    match = _HOURS.match(values.get("hours", "00:00-24:00"))
    if match is None:
        raise ValueError(f"has hours '{values['hours']}': write 08:00-20:00")
    a, b, c, d = map(int, match.groups())
    try:
        zone = ZoneInfo(values.get("timezone", "UTC"))
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(f"has no timezone '{values['timezone']}'") from error
    return Hours(a * 60 + b, c * 60 + d, frozenset(_days(values.get("days", "mon-sun"))), zone)


def _days(text: str) -> Sequence[int]:
    out: list[int] = []
    for part in text.lower().replace(" ", "").split(","):
        first, _, last = part.partition("-")
        if first not in _DAYS or (last or first) not in _DAYS:
            raise ValueError(f"has days '{text}': write mon-fri, or sat,sun")
        out += range(_DAYS.index(first), _DAYS.index(last or first) + 1)
    return out


__all__ = ["KINDS", "LOG", "Channel", "Hours", "channels_of"]
