"""One pass over everything that is watched: look, keep what was found, move the alerts on, tell, and set triggers off."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from featurestore import retrain
from featurestore.baselines import parse_length
from featurestore.channels import Channel
from featurestore.check import Drift, Rows, Schema
from featurestore.compile.sources import connect
from featurestore.config import Config
from featurestore.errors import ConfigError, FeatureStoreError, NotFound
from featurestore.ir import Plan
from featurestore.monitor import exported, outbox, results
from featurestore.monitor.alerts import COOLDOWN, AlertState, advance, forgotten
from featurestore.monitor.findings import Finding, State
from featurestore.monitor.health import Health, health
from featurestore.monitor.looking import Surroundings, Validate, look
from featurestore.monitor.loop import Loop, labelled_moments
from featurestore.monitor.triggers import RAN, Evaluation, Facts, evaluate, set_off
from featurestore.policy import Alert, Monitor, Policies
from featurestore.refreshing import Data, keep_up
from featurestore.registry import Registry
from featurestore.registry.alerts import Triggered, changing, history, kept_alerts
from featurestore.time import DAY, HOUR, Duration, moment_text

KEPT = 90 * DAY
"""How long resolved alerts and delivered messages are kept."""

PRODUCT = Monitor(
    "featurestore",
    on="featurestore",
    checks=(),
    alerts=(
        Alert("delivery", "critical", channels=("log",)),
        Alert("retraining", "warning", channels=("log",)),
    ),
    description="What a run has to say of itself.",
)


@dataclass(frozen=True, slots=True)
class Ran:
    """What a pass did. `skipped` are monitors whose time had not come; `remarks` what is wrong with the settings.

    `standing` is what monitors that were not looked at in this pass found when they last were.
    """

    at: int
    findings: tuple[Finding, ...]
    alerts: tuple[AlertState, ...]
    health: tuple[Health, ...]
    delivered: outbox.Delivered
    evaluations: tuple[Evaluation, ...]
    triggered: tuple[Triggered, ...]
    skipped: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    standing: tuple[Finding, ...] = ()

    @property
    def firing(self) -> list[AlertState]:
        return [a for a in self.alerts if a.state == "firing"]

    def to_json(self) -> dict[str, Any]:
        return {
            "at": moment_text(self.at),
            "health": [h.to_json() for h in self.health],
            "alerts": [a.to_json() for a in self.alerts if a.state != "resolved"],
            "findings": [f.to_json() for f in self.findings],
            "delivered": self.delivered.sent,
            "not_delivered": list(self.delivered.failed),
            "triggers": [e.to_json() for e in self.evaluations],
            "triggered": [
                {"trigger": t.title, "reasons": list(t.reasons), "outcome": t.outcome} for t in self.triggered
            ],
            "skipped": list(self.skipped),
            "remarks": list(self.remarks),
        }


def run(
    config: Config,
    registry: Registry,
    policies: Policies,
    now: int,
    *,
    names: Sequence[str] = (),
    loop: Loop | None = None,
    validate: Validate | None = None,
    data: Data | None = None,
    send: outbox.Send | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Ran:
    """One pass at a moment. `names` picks monitors, whenever they ran last; without, those whose time has come.

    With `data`, statistics that are kept are brought up to it first. Raises NotFound for a name that no monitor has; what
    cannot be looked at is a finding.
    """
    chosen, skipped = _chosen(config, policies.monitors, names, now)
    plan = registry.current().plan
    behind = [] if data is None else keep_up(config, data, _captured(plan, chosen))
    found: dict[str, list[Finding]] = {}
    with closing(connect(config.memory_limit, config.threads, config.offline / "spill")) as con:
        past = results.read(config, since=now - 31 * DAY)
        around = Surroundings(config, plan, con, now, past, loop, validate)
        try:
            for monitor in chosen:
                say(monitor.name)
                found[monitor.name] = look(around, monitor)
        finally:
            around.close()
    found[PRODUCT.name] = _of_itself(registry, now)
    findings = [f for own in found.values() for f in own]
    results.keep(config, findings, now)
    results.join_days(config, now)
    cooldown = parse_length(config.alerts["cooldown"]) if "cooldown" in config.alerts else COOLDOWN
    runbooks = config.alerts.get("runbooks", "docs/runbooks")
    states, remarks = _tell(
        registry, config.channels, [*chosen, PRODUCT], policies, found, now, cooldown, runbooks
    )
    delivered = outbox.deliver(registry, config.channels, now, *([send] if send else []))
    firing = [s for s in states if s.state == "firing"]
    facts = Facts(findings, firing, _labelled(loop, policies))
    evaluations, triggered = set_off(registry, config, policies.triggers, facts, now)
    standing = _standing(past, {m.name for m in policies.monitors} - found.keys())
    ran = Ran(
        now,
        tuple(findings),
        tuple(states),
        tuple(health(plan.services, [*findings, *standing], states)),
        delivered,
        tuple(evaluations),
        tuple(triggered),
        tuple(skipped),
        (*behind, *remarks),
        tuple(standing),
    )
    exported.write(ran, config.monitored)
    return ran


def _captured(plan: Plan, monitors: Sequence[Monitor]) -> dict[str, Duration | None]:
    """The services among what is watched that log what they serve, by the partitions that their windows want."""
    found: dict[str, Duration | None] = {}
    logging = {s.name for s in plan.services if s.capture is not None}
    for monitor in monitors:
        if monitor.watched in logging and any(isinstance(c, Drift | Schema | Rows) for c in monitor.checks):
            window = monitor.window_text
            fine = window is not None and ".." not in window and parse_length(window) % DAY
            found[monitor.watched] = Duration(HOUR) if fine else found.get(monitor.watched)
    return found


def _chosen(
    config: Config, monitors: Sequence[Monitor], names: Sequence[str], now: int
) -> tuple[list[Monitor], list[str]]:
    if names:
        known = {m.name: m for m in monitors}
        for name in names:
            if name not in known:
                raise NotFound("monitor", name, known, "the definitions")
        return [known[n] for n in dict.fromkeys(names)], []
    last: dict[str, int] = {}
    if any(m.every is not None for m in monitors):
        for row in results.read(config, since=now - 31 * DAY).select(["monitor", "run_at"]).to_pylist():
            last[row["monitor"]] = int(row["run_at"].timestamp() * 1e6)
    due = [
        m
        for m in monitors
        if m.every is None or m.name not in last or now - last[m.name] >= m.every.microseconds
    ]
    return due, [m.name for m in monitors if m not in due]


def _of_itself(registry: Registry, now: int) -> list[Finding]:
    """What the product says of itself: messages that do not get through, retrainings that went wrong."""
    name = PRODUCT.name
    stuck = outbox.stuck(registry, now)
    channels = sorted({w.channel for w in stuck})
    found = [
        Finding(name, name, "delivery", c, "bad", next(w.error for w in reversed(stuck) if w.channel == c),
                {"waiting": float(sum(w.channel == c for w in stuck))})
        for c in channels
    ]  # fmt: skip
    known = {a["subject"] for a in kept_alerts(registry) if a["condition"] == "delivery"}
    found += [
        Finding(name, name, "delivery", c, "ok", "messages get through")
        for c in sorted(known - set(channels))
    ]
    newest: dict[str, Triggered] = {}
    for one in history(registry):
        newest.setdefault(one.title, one)
    for title, one in newest.items():
        if one.ended_at is not None or one.outcome:
            state: State = "ok" if one.outcome == RAN else "bad"
            models = (one.service,)
            found.append(
                Finding(name, name, "retraining", title, state, one.outcome or "runs", models=models)
            )
    return found


def _tell(
    registry: Registry,
    channels: Mapping[str, Channel],
    monitors: Sequence[Monitor],
    policies: Policies,
    found: Mapping[str, Sequence[Finding]],
    now: int,
    cooldown: int,
    runbooks: str,
) -> tuple[list[AlertState], list[str]]:
    """Moves the alerts on and writes what is to be told of it, in one transaction."""
    remarks: list[str] = []
    with changing(registry) as changes:
        before = {a["id"]: AlertState.from_json(a) for a in changes.alerts()}
        states = dict(before)
        for monitor in monitors:
            states, told = advance(
                states, monitor, found[monitor.name], now, cooldown=cooldown, runbooks=runbooks
            )
            remarks += outbox.post(changes, told, channels, now)
        states |= forgotten(states, [*policies.monitors, PRODUCT], now)
        for key, state in states.items():
            if before.get(key) != state:
                changes.put_alert(state.to_json(), now)
        for key in before.keys() - states.keys():
            changes.drop_alert(key)
        changes.forget_before(now - KEPT)
    return list(states.values()), list(dict.fromkeys(remarks))


def evaluate_triggers(
    config: Config,
    registry: Registry,
    policies: Policies,
    now: int,
    *,
    dry_run: bool = False,
    loop: Loop | None = None,
) -> tuple[list[Evaluation], list[Triggered]]:
    """Triggers alone, judged by what the newest run of each monitor found; with `dry_run` nothing goes off."""
    facts = Facts(
        _newest(config, now),
        [a for a in alerts_of(registry) if a.state == "firing"],
        _labelled(loop, policies),
    )
    if not dry_run:
        return set_off(registry, config, policies.triggers, facts, now)
    past = history(registry)
    own = {t.title: [p for p in past if p.title == t.title] for t in policies.triggers}
    return [evaluate(config, t, facts, own[t.title], now) for t in policies.triggers], []


def _labelled(loop: Loop | None, policies: Policies) -> dict[str, list[int]]:
    """When the labelled rows of each service came, for triggers that ask; nothing of one whose log cannot be read."""
    out: dict[str, list[int]] = {}
    if loop is None:
        return out
    for trigger in policies.triggers:
        if trigger.min_rows or any(isinstance(r, retrain.Rows) for r in trigger.reasons):
            try:
                out[trigger.of] = labelled_moments(loop, trigger.of)
            except FeatureStoreError:
                continue  # then how many there are is not known, and the trigger says so
    return out


def _newest(config: Config, now: int) -> list[Finding]:
    """The findings of the newest run of each monitor."""
    rows = results.read(config, since=now - 31 * DAY).to_pylist()
    last = {row["monitor"]: row["run_at"] for row in rows}
    return [results.finding_of(row) for row in rows if row["run_at"] == last[row["monitor"]]]


def _standing(past: pa.Table, monitors: Collection[str]) -> list[Finding]:
    """What each of some monitors found in its newest run."""
    out: list[Finding] = []
    for name in sorted(monitors):
        own = past.filter(pc.equal(past["monitor"], name))
        newest = own.filter(pc.equal(own["run_at"], pc.max(own["run_at"])))
        out += map(results.finding_of, newest.to_pylist())
    return out


def change_alerts(
    registry: Registry, names: Sequence[str], change: Callable[[AlertState], AlertState], now: int
) -> list[AlertState]:
    """Changes the alerts of these ids, beginnings of ids, or titles: those that are pending or firing. Raises NotFound."""
    with changing(registry) as changes:
        known = [AlertState.from_json(a) for a in changes.alerts()]
        live = [a for a in known if a.state != "resolved"]
        done = []
        for name in names:
            mine = [
                a
                for a in live
                if name in (a.key, a.title, a.monitor) or (len(name) >= 4 and a.key.startswith(name))
            ]
            if not mine:
                raise NotFound("alert that is pending or firing", name, [a.key for a in live])
            done += [change(a) for a in mine]
        for state in done:
            changes.put_alert(state.to_json(), now)
    return done


def watch(
    once: Callable[[], Ran],
    wait: Callable[[float], bool],
    every: float,
    say: Callable[[Ran | FeatureStoreError], None],
) -> None:
    """Passes one after another until `wait`, which waits so many seconds, says that it is over.

    A pass that fails is said so, and the next one runs all the same.
    """
    while True:
        try:
            say(once())
        except ConfigError:
            raise
        except FeatureStoreError as error:
            say(error)
        if wait(every):
            return


def alerts_of(registry: Registry) -> list[AlertState]:
    """Every alert that is kept: firing first, then pending, then resolved, each by time."""
    order = {"firing": 0, "pending": 1, "resolved": 2}
    known = [AlertState.from_json(a) for a in kept_alerts(registry)]
    return sorted(known, key=lambda a: (order[a.state], a.since, a.key))


__all__ = ["PRODUCT", "Ran", "alerts_of", "change_alerts", "evaluate_triggers", "run", "watch"]
