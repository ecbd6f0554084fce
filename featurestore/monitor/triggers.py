"""Retraining: whether a reason holds, and what is done then, once for each time, with the reason written down."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, assert_never

from featurestore import profiles, retrain
from featurestore.channels import Channel
from featurestore.config import Config, expand
from featurestore.errors import ConfigError
from featurestore.monitor.alerts import AlertState
from featurestore.monitor.findings import Finding, identity
from featurestore.monitor.sending import NotDelivered, send
from featurestore.policy import Trigger
from featurestore.registry import Registry
from featurestore.registry.alerts import Triggered, changing
from featurestore.time import HOUR, duration_text, moment_text

LEASE = 6 * HOUR
"""How long a command may run before another run takes it for killed, and starts it again under the same id."""

COOLDOWN = HOUR
"""Between two times of one trigger, where nothing else is said."""

MOST_ATTEMPTS = 3
TAIL = 2_000
"""Characters of what a command printed that are kept."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What reasons are judged by: findings and alerts of the run, and how many labelled rows there are up to now."""

    findings: Sequence[Finding]
    alerts: Sequence[AlertState]
    labelled: Mapping[str, Sequence[int]]
    """For each service, when its labelled rows came, rising; nothing for one whose labels are not known."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One trigger looked at: the reasons that hold, and why it does not go off all the same."""

    trigger: Trigger
    reasons: tuple[str, ...]
    unknown: tuple[str, ...]
    held_back: str
    last: Triggered | None

    @property
    def due(self) -> bool:
        return bool(self.reasons) and not self.held_back

    def to_json(self) -> dict[str, Any]:
        return {
            "trigger": self.trigger.title,
            "service": self.trigger.of,
            "due": self.due,
            "reasons": list(self.reasons),
            "unknown": list(self.unknown),
            "held_back": self.held_back,
            "last": None if self.last is None else moment_text(self.last.at),
            "outcome": None if self.last is None else self.last.outcome,
        }


def evaluate(
    config: Config, trigger: Trigger, facts: Facts, past: Sequence[Triggered], now: int
) -> Evaluation:
    """Whether a trigger is due now. `past` are the times it went off, the newest first."""
    last = past[0] if past else None
    since = last.at if last is not None else _trained_until(config, trigger.of)
    reasons, unknown = [], []
    for reason in trigger.reasons:
        holds, said = _holds(reason, trigger, facts, since, now)
        if holds:
            reasons.append(said)
        elif holds is None:
            unknown.append(said)
    return Evaluation(trigger, tuple(reasons), tuple(unknown), _held_back(trigger, facts, last, now), last)


def _trained_until(config: Config, service: str) -> int | None:
    """Where the training set ends whose statistics are kept."""
    if "training" not in profiles.kept(config, service):
        return None
    statistics = profiles.load(config, service, "training")
    return statistics.starts[-1] + statistics.every.microseconds if statistics.starts else None


def _holds(
    reason: retrain.Due, trigger: Trigger, facts: Facts, since: int | None, now: int
) -> tuple[bool | None, str]:
    """Whether a reason holds, None where that cannot be said, and a sentence."""
    match reason:
        case retrain.Every():
            if since is None:
                return True, f"every {reason.length}, and it is not known to have been trained"
            return (
                now - since >= reason.length.microseconds,
                f"{reason.length} have passed since {moment_text(since)}",
            )
        case retrain.Rows():
            if trigger.of not in facts.labelled:
                return None, f"how many labelled rows '{trigger.of}' has is not known: it logs nothing"
            came = sum(1 for at in facts.labelled[trigger.of] if since is None or at > since)
            return came >= reason.labelled, f"{came:,} labelled rows came, of {reason.labelled:,}"
        case retrain.Drifted():
            return _drifted(reason, trigger, facts, now)
        case retrain.Performance():
            return _worse(reason, trigger, facts)
        case _:
            assert_never(reason)


def _drifted(reason: retrain.Drifted, trigger: Trigger, facts: Facts, now: int) -> tuple[bool | None, str]:
    own = [f for f in facts.findings if f.condition in ("drift", "skew") and trigger.of in f.models]
    judged = [f for f in own if f.state != "unknown"]
    if not judged:
        return None, f"no monitor of '{trigger.of}' could judge its drift"
    bad = [f for f in judged if f.state == "bad"]
    share = len(bad) / len(judged)
    said = f"{len(bad)} of {len(judged)} features drift ({share:.0%}, the limit is {reason.share:.0%})"
    if share < reason.share or reason.lasting is None:
        return share >= reason.share, said
    firing = [
        a
        for a in facts.alerts
        if a.condition in ("drift", "skew") and trigger.of in a.models and a.state != "resolved"
    ]
    since = min((a.since for a in firing), default=now)
    lasted = now - since >= reason.lasting.microseconds
    return lasted, f"{said}, since {moment_text(since)}"


def _worse(reason: retrain.Performance, trigger: Trigger, facts: Facts) -> tuple[bool | None, str]:
    own = [
        f
        for f in facts.findings
        if f.condition == "quality" and trigger.of in f.models and f.state != "unknown"
    ]
    if not own:
        return None, f"how good '{trigger.of}' is, is not known: no labels were looked at"
    found = [f.figures["accuracy"] for f in own if "accuracy" in f.figures]
    if reason.accuracy is not None and found and min(found) < reason.accuracy:
        return True, f"accuracy {min(found):.3f} is below {reason.accuracy:.3f}"
    bad = [f for f in own if f.state == "bad"]
    return bool(bad), bad[0].said if bad else "as good as it was"


def _held_back(trigger: Trigger, facts: Facts, last: Triggered | None, now: int) -> str:
    if last is not None:
        if last.ended_at is None:
            return f"the last time, {moment_text(last.at)}, has not ended"
        rest = COOLDOWN if trigger.cooldown is None else trigger.cooldown.microseconds
        if now - last.at < rest:
            return f"it went off at {moment_text(last.at)}, and keeps still for {duration_text(rest)}"
    if trigger.min_rows:
        if trigger.of not in facts.labelled:
            return f"{trigger.min_rows:,} labelled rows are needed, and how many there are is not known"
        came = sum(1 for at in facts.labelled[trigger.of] if last is None or at > last.at)
        if came < trigger.min_rows:
            return f"{came:,} labelled rows have come, {trigger.min_rows:,} are needed"
    return ""


# --------------------------------------------------------------------------------------------------------- going off


Run = Callable[[Trigger, Triggered], str]


def set_off(
    registry: Registry,
    config: Config,
    triggers: Sequence[Trigger],
    facts: Facts,
    now: int,
    run: Run | None = None,
) -> tuple[list[Evaluation], list[Triggered]]:
    """Looks at every trigger and runs those that are due; what each said, and those that went off.

    That one goes off is written before anything runs. What was killed in between is run again by a later run, under the same id.
    """
    evaluations, claimed = [], []
    with changing(registry) as changes:
        for trigger in triggers:
            past = changes.triggered(trigger.title)
            lost = next((t for t in past if t.ended_at is None and changes.lease_of(t.id) <= now), None)
            if lost is not None:
                again = replace(lost, attempts=lost.attempts + 1)
                changes.put_triggered(again, now + LEASE)
                claimed.append((trigger, again))
                past = [again if t.id == again.id else t for t in past]
            evaluation = evaluate(config, trigger, facts, past, now)
            evaluations.append(evaluation)
            if evaluation.due:
                action = (trigger.run,) if isinstance(trigger.run, str) else tuple(trigger.run)
                name = identity(trigger.title, now)
                one = Triggered(name, trigger.title, trigger.of, now, evaluation.reasons, action, 1, None, "")
                changes.put_triggered(one, now + LEASE)
                claimed.append((trigger, one))
    done = []
    for trigger, one in claimed:
        outcome = (run or _run)(trigger, one)
        retried = outcome.startswith(NOT_SENT) and one.attempts < MOST_ATTEMPTS
        ended = replace(one, ended_at=None if retried else now, outcome=outcome)
        with changing(registry) as changes:
            changes.put_triggered(ended, now if retried else 0)
        done.append(ended)
    return evaluations, done


RAN, NOT_SENT = "ran well", "not delivered"


def _run(trigger: Trigger, one: Triggered) -> str:
    """Runs a command, or tells a webhook; how that ended."""
    if isinstance(trigger.run, str):
        message = {
            "id": one.id,
            "trigger": one.title,
            "service": one.service,
            "at": moment_text(one.at),
            "reasons": list(one.reasons),
            "event": "firing",
            "severity": "info",
            "on": one.service,
            "alert": "retraining is due",
            "subjects": [{"subject": "", "said": r} for r in one.reasons],
            "monitor": one.title,
            "models": [one.service],
            "since": moment_text(one.at),
            "next_step": f"train '{one.service}' again",
            "runbook": "",
        }
        try:
            send(Channel(f"trigger {one.title}", "webhook", (("url", trigger.run),)), message)
        except NotDelivered as error:
            return f"{NOT_SENT}: {error}"
        return RAN
    try:
        arguments = [expand(a) for a in trigger.run]
    except ConfigError as error:
        return f"could not be run: {str(error).splitlines()[0]}"
    told = {
        "FS_TRIGGER_ID": one.id,
        "FS_TRIGGER_SERVICE": one.service,
        "FS_TRIGGER_REASON": "; ".join(one.reasons),
    }
    try:
        done = subprocess.run(  # noqa: S603  a list of arguments out of the project's own definitions, and no shell
            arguments,
            env={**os.environ, **told},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=LEASE / 1e6,
        )
    except subprocess.TimeoutExpired:
        return f"was stopped: it ran longer than {duration_text(LEASE)}"
    except OSError as error:
        return f"could not be run: {error.strerror or error}"
    if done.returncode == 0:
        return RAN
    tail = done.stdout.decode(errors="replace")[-TAIL:].strip()
    return f"exit status {done.returncode}{f': {tail}' if tail else ''}"


__all__ = ["RAN", "Evaluation", "Facts", "evaluate", "set_off"]
