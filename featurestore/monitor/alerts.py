"""The life of an alert: pending while its condition has not lasted, firing, resolved; and what of it is told to whom.

Pure functions of what is known, what was found, and the moment: a run that was killed and starts again comes to the same alerts,
and to notifications of the same ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from featurestore.conditions import CONDITIONS
from featurestore.monitor.findings import Finding, identity
from featurestore.policy import Alert, Monitor, Severity, parse_when
from featurestore.time import DAY, moment_text

Life = Literal["pending", "firing", "resolved"]
Event = Literal["firing", "resolved"]

COOLDOWN = DAY
"""How long after it was told a lasting alert is told again, where nothing else is said."""


@dataclass(frozen=True, slots=True)
class AlertState:
    """One alert about one subject. Instants in microseconds: `since` its condition holds, `fired` and `told` last, `well` since.

    `muted_until`: snoozed. `acked`: by whom; it is told no more before it is resolved.
    """

    key: str
    monitor: str
    on: str
    title: str
    condition: str
    subject: str
    severity: Severity
    state: Life
    since: int
    said: str
    fired: int | None = None
    told: int | None = None
    well: int | None = None
    resolved: int | None = None
    muted_until: int | None = None
    acked: str | None = None
    models: tuple[str, ...] = ()
    runbook: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.key,
            "monitor": self.monitor,
            "on": self.on,
            "alert": self.title,
            "condition": self.condition,
            "subject": self.subject,
            "severity": self.severity,
            "state": self.state,
            "since": self.since,
            "said": self.said,
            "fired": self.fired,
            "told": self.told,
            "well": self.well,
            "resolved": self.resolved,
            "muted_until": self.muted_until,
            "acked": self.acked,
            "models": list(self.models),
            "runbook": self.runbook,
        }

    @staticmethod
    def from_json(said: Mapping[str, Any]) -> AlertState:
        named = {"id": "key", "alert": "title"}
        values = {named.get(k, k): v for k, v in said.items()}
        return AlertState(**values | {"models": tuple(said["models"])})


@dataclass(frozen=True, slots=True)
class Notification:
    """One message: an alert that began or ended, for all its subjects at once. The same `id` is the same message."""

    id: str
    event: Event
    monitor: str
    on: str
    title: str
    condition: str
    severity: Severity
    since: int
    at: int
    subjects: tuple[tuple[str, str], ...]
    """What it is about, and what is said of each."""
    models: tuple[str, ...]
    next_step: str
    runbook: str
    channels: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "event": self.event,
            "monitor": self.monitor,
            "on": self.on,
            "alert": self.title,
            "condition": self.condition,
            "severity": self.severity,
            "since": moment_text(self.since),
            "at": moment_text(self.at),
            "subjects": [{"subject": s, "said": t} for s, t in self.subjects],
            "models": list(self.models),
            "next_step": self.next_step,
            "runbook": self.runbook,
        }


def default_alerts(monitor: Monitor) -> tuple[Alert, ...]:
    """The alerts of a monitor: its own, else one to the log for each condition."""
    return tuple(monitor.alerts) or tuple(Alert(name, line=monitor.line) for name in CONDITIONS)


def advance(
    known: Mapping[str, AlertState],
    monitor: Monitor,
    findings: Iterable[Finding],
    now: int,
    *,
    cooldown: int = COOLDOWN,
    runbooks: str = "docs/runbooks",
) -> tuple[dict[str, AlertState], list[Notification]]:
    """The alerts of a monitor after a run, and what is to be told; `known` are those before it, by key.

    A finding that is unknown leaves its alert as it is: neither does it begin nor end.
    """
    states = dict(known)
    told: list[Notification] = []
    found = list(findings)
    for alert in default_alerts(monitor):
        when = parse_when(alert.when)
        changed: dict[Event, list[AlertState]] = {"firing": [], "resolved": []}
        wait = cooldown if alert.cooldown is None else alert.cooldown.microseconds
        link = alert.runbook or f"{runbooks.rstrip('/')}/{when.condition}.md"
        for finding in found:
            if finding.condition != when.condition or not _concerns(alert, finding):
                continue
            key = identity(monitor.name, alert.title, finding.condition, finding.subject)
            holds = None
            if finding.state != "unknown":
                holds = when.holds(bad=finding.state == "bad", figures=finding.figures)
            before = states.get(key)
            after, event = _step(before, alert, finding, key, holds, now, wait, link)
            if after is None:
                states.pop(key, None)
                continue
            states[key] = after
            if event is not None:
                changed[event].append(after)
        for kind, group in changed.items():
            if group:
                told.append(_notification(alert, kind, group, now))
    return states, told


def _concerns(alert: Alert, finding: Finding) -> bool:
    return any(fnmatchcase(finding.subject, glob) for glob in alert.subjects)


def _step(
    before: AlertState | None,
    alert: Alert,
    finding: Finding,
    key: str,
    holds: bool | None,
    now: int,
    cooldown: int,
    runbook: str,
) -> tuple[AlertState | None, Event | None]:
    """What becomes of one alert: the state after, and what of it is to be told."""
    if holds is None:
        return before, None
    lasting = 0 if alert.lasting is None else alert.lasting.microseconds
    if not holds:
        return _well(before, alert, now)
    began = before is None or before.state == "resolved"
    state = AlertState(
        key,
        finding.monitor,
        finding.on,
        alert.title,
        finding.condition,
        finding.subject,
        alert.severity,
        "pending",
        now,
        finding.said,
        told=None if before is None else before.told,
        muted_until=None if before is None else before.muted_until,
        models=finding.models,
        runbook=runbook,
    )
    if not began and before is not None:
        state = replace(
            before,
            said=finding.said,
            well=None,
            severity=alert.severity,
            models=finding.models,
            runbook=runbook,
        )
    if state.state == "pending" and now - state.since >= lasting:
        state = replace(state, state="firing", fired=now)
    if state.state != "firing" or state.acked is not None:
        return state, None
    if state.muted_until is not None and now < state.muted_until:
        return state, None
    # Once it was told it keeps still for the cool-down, also when it went away in between and came back.
    if state.told is not None and now - state.told < cooldown:
        return state, None
    return replace(state, told=now), "firing"


def _well(before: AlertState | None, alert: Alert, now: int) -> tuple[AlertState | None, Event | None]:
    if before is None or before.state == "resolved":
        return before, None
    if before.state == "pending":
        return None, None
    settle = 0 if alert.settle is None else alert.settle.microseconds
    since = before.well if before.well is not None else now
    if now - since < settle:
        return replace(before, well=since), None
    after = replace(before, state="resolved", resolved=now, well=since, acked=None)
    # Whoever was never told that it began is not told that it is over.
    heard = before.told is not None and before.fired is not None and before.told >= before.fired
    return after, "resolved" if heard else None


def _notification(alert: Alert, event: Event, group: Sequence[AlertState], now: int) -> Notification:
    ordered = sorted(group, key=lambda s: s.subject)
    first = ordered[0]
    moments = [s.told if event == "firing" else s.resolved for s in ordered]
    return Notification(
        identity(
            first.monitor, alert.title, event, [(s.subject, m) for s, m in zip(ordered, moments, strict=True)]
        ),
        event,
        first.monitor,
        first.on,
        alert.title,
        first.condition,
        alert.severity,
        min(s.since for s in ordered),
        now,
        tuple((s.subject, s.said) for s in ordered),
        tuple(sorted({m for s in ordered for m in s.models})),
        CONDITIONS[first.condition]
        .next_step.replace("NAME", first.on)
        .replace("SERVICE", (first.models or (first.on,))[0]),
        first.runbook or "",
        tuple(dict.fromkeys(alert.channels)),
    )


def forgotten(
    states: Mapping[str, AlertState], monitors: Iterable[Monitor], now: int
) -> dict[str, AlertState]:
    """The alerts of monitors and alerts that are no longer written: over, and told to nobody."""
    written = {(m.name, a.title) for m in monitors for a in default_alerts(m)}
    return {
        key: replace(s, state="resolved", resolved=now)
        for key, s in states.items()
        if (s.monitor, s.title) not in written and s.state != "resolved"
    }


def acknowledged(state: AlertState, who: str) -> AlertState:
    """The same, told no more before it is resolved."""
    return replace(state, acked=who)


def snoozed(state: AlertState, until: int) -> AlertState:
    """The same, told to nobody until then."""
    return replace(state, muted_until=until)


__all__ = [
    "COOLDOWN",
    "AlertState",
    "Notification",
    "acknowledged",
    "advance",
    "default_alerts",
    "forgotten",
    "snoozed",
]
