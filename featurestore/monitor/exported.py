"""The same monitors for Prometheus and Grafana: figures of a run, recording rules and alerts, a dashboard.

Every metric that a rule or panel names is one that the server or `textfile` exports; a test holds them together.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.check import Objective
from featurestore.conditions import CONDITIONS
from featurestore.monitor.alerts import default_alerts
from featurestore.policy import Monitor, Policies, parse_when
from featurestore.time import SECOND

if TYPE_CHECKING:
    from featurestore.monitor.run import Ran

METRICS = {
    "fs_monitor_last_run_seconds": "When monitors ran last, in seconds since 1970.",
    "fs_monitor_finding": "1 for what is bad, 0 for what is well, -1 for what could not be judged.",
    "fs_monitor_effect": "How far a feature is from its baseline, like a shift by so many standard deviations.",
    "fs_alert_firing": "How many subjects an alert fires for.",
    "fs_error_budget_left": "Of the error that an objective allows, the share that is left; below 0 it is overdrawn.",
    "fs_service_health": "2 healthy, 1 needs a look, 0 failing, -1 not watched.",
    "fs_undelivered": "Messages that could not be delivered in this run.",
}
_HEALTH = {"healthy": 2, "needs a look": 1, "failing": 0, "not watched": -1}
_STATE = {"bad": 1, "ok": 0, "unknown": -1}
_BURNS = ((14.4, "5m", "1h", "2m", "critical"), (6.0, "30m", "6h", "15m", "warning"))
"""Multi-window burn rates, as the SRE workbook has them for a budget of 30 days."""


def textfile(ran: Ran) -> str:
    """The figures of a run as Prometheus reads them: for the text file collector of a node exporter."""
    samples: dict[str, list[tuple[dict[str, str], float]]] = {name: [] for name in METRICS}
    samples["fs_monitor_last_run_seconds"].append(({}, ran.at / SECOND))
    samples["fs_undelivered"].append(({}, float(len(ran.delivered.failed))))
    for f in (*ran.findings, *ran.standing):
        labels = {"monitor": f.monitor, "on": f.on, "condition": f.condition, "subject": f.subject}
        samples["fs_monitor_finding"].append((labels, _STATE[f.state]))
        if "effect" in f.figures:
            samples["fs_monitor_effect"].append((labels, f.figures["effect"]))
        if "budget" in f.figures:
            samples["fs_error_budget_left"].append(
                ({"service": f.on, "objective": f.condition}, f.figures["budget"])
            )
    firing: dict[tuple[str, str, str], int] = {}
    for a in ran.alerts:
        key = (a.monitor, a.title, a.severity)
        firing[key] = firing.get(key, 0) + (a.state == "firing")
    for (monitor, alert, severity), count in sorted(firing.items()):
        samples["fs_alert_firing"].append(({"monitor": monitor, "alert": alert, "severity": severity}, count))
    for h in ran.health:
        samples["fs_service_health"].append(({"service": h.service}, _HEALTH[h.word]))
    return "".join(_exposed(name, samples[name]) for name in METRICS)


def write(ran: Ran, path: Path) -> Path:
    """Puts the figures of a run into a file, in the place of those that are there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    partial.write_text(textfile(ran), encoding="utf-8")
    return partial.replace(path)


def _exposed(name: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> str:
    lines = [f"# HELP {name} {METRICS[name]}", f"# TYPE {name} gauge"]
    for labels, value in samples:
        said = ",".join(f"{k}={_quoted(v)}" for k, v in labels.items())
        lines.append(f"{name}{f'{{{said}}}' if said else ''} {value:.10g}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


# --------------------------------------------------------------------------------------------------------------- rules


def rules(policies: Policies, runbooks: str = "docs/runbooks") -> dict[str, Any]:
    """Rule groups for Prometheus: of the servers, of objectives, and of whatever monitors found."""
    groups = [
        {"name": "featurestore-servers", "rules": list(_servers(runbooks))},
        {"name": "featurestore-monitors", "rules": list(_monitors(policies, runbooks))},
    ]
    objectives = [
        r
        for m in policies.monitors
        for c in m.checks
        if isinstance(c, Objective)
        for r in _objective(m, c, runbooks)
    ]
    if objectives:
        groups.insert(1, {"name": "featurestore-objectives", "rules": objectives})
    return {"groups": groups}


def _alert(
    name: str, expression: str, lasting: str, severity: str, said: str, runbooks: str, **labels: str
) -> dict[str, Any]:
    condition = CONDITIONS[name]
    return {
        "alert": "".join(part.capitalize() for part in name.split("-")),
        "expr": expression,
        "for": lasting,
        "labels": {"severity": severity, "condition": name, **labels},
        "annotations": {
            "summary": said,
            "description": f"It fires when {condition.means}. Next step: {condition.next_step}.",
            "runbook_url": f"{runbooks.rstrip('/')}/{name}.md",
        },
    }


def _servers(runbooks: str) -> Iterator[dict[str, Any]]:
    yield _alert(
        "store-unreachable",
        "max by (instance) (fs_breaker_open) == 1",
        "1m",
        "critical",
        "{{ $labels.instance }} does not ask its store, which does not answer",
        runbooks,
    )
    yield _alert(
        "shedding",
        "sum by (instance, reason) (rate(fs_shed_total[5m])) > 0",
        "5m",
        "warning",
        "{{ $labels.instance }} turns away {{ $value }} requests a second ({{ $labels.reason }})",
        runbooks,
    )


def _objective(monitor: Monitor, objective: Objective, runbooks: str) -> Iterator[dict[str, Any]]:
    service = _quoted(monitor.watched)
    goals = []
    if objective.availability is not None:
        bad = f"sum(rate(fs_read_failures_total{{service={service}}}[WINDOW]))"
        good = f"sum(rate(fs_request_seconds_count{{service={service}}}[WINDOW]))"
        goals.append(("availability", objective.availability, f"{bad} / ({bad} + {good})"))
    if objective.latency is not None:
        le = f"{objective.latency.microseconds / SECOND:.10g}"
        within = f'sum(rate(fs_request_seconds_bucket{{service={service},le="{le}"}}[WINDOW]))'
        every = f"sum(rate(fs_request_seconds_count{{service={service}}}[WINDOW]))"
        goals.append(("latency", objective.of, f"1 - {within} / {every}"))
    for name, target, ratio in goals:
        allowed = f"{1 - target:.10g}"
        labels = {"service": monitor.watched, "objective": name}
        for window in sorted({w for burn in _BURNS for w in burn[1:3]} | {"30d"}):
            yield {
                "record": f"fs:error_ratio:rate{window}",
                "expr": ratio.replace("WINDOW", window),
                "labels": labels,
            }
        chosen = f'{{service={service},objective="{name}"}}'
        yield {
            "record": "fs:error_budget_left:ratio30d",
            "expr": f"1 - fs:error_ratio:rate30d{chosen} / {allowed}",
            "labels": labels,
        }
        for burn, short, long, lasting, severity in _BURNS:
            limit = f"{burn * (1 - target):.10g}"
            expression = f"fs:error_ratio:rate{short}{chosen} > {limit} and fs:error_ratio:rate{long}{chosen} > {limit}"
            said = f"{monitor.watched}: its error budget for {name} goes {burn:g} times faster than allowed"
            yield _alert(name, expression, lasting, severity, said, runbooks, service=monitor.watched)


def _monitors(policies: Policies, runbooks: str) -> Iterator[dict[str, Any]]:
    waits = [m.every.microseconds for m in policies.monitors if m.every is not None]
    most = max(2 * max(waits, default=0) / SECOND, 7200)
    yield _alert(
        "watching",
        f"time() - fs_monitor_last_run_seconds > {most:.0f} or absent(fs_monitor_last_run_seconds)",
        "5m",
        "warning",
        "monitors have not run when they should have",
        runbooks,
    )
    yield _alert("delivery", "fs_undelivered > 0", "1h", "critical", "alerts cannot be delivered", runbooks)
    for monitor in policies.monitors:
        for alert in default_alerts(monitor):
            condition = parse_when(alert.when).condition
            labels = f"monitor={_quoted(monitor.name)},alert={_quoted(alert.title)}"
            yield _alert(
                condition,
                f"sum(fs_alert_firing{{{labels}}}) > 0",
                "0s",  # it has lasted already when a run says that it fires
                alert.severity,
                f"{monitor.watched}: {alert.title}, by monitor '{monitor.name}'",
                runbooks,
                monitor=monitor.name,
            )


def rules_yaml(found: Mapping[str, Any]) -> str:
    """Rules as YAML: mappings and lists by indentation, texts as JSON has them, which YAML reads alike."""
    return "# Made by `fs monitor rules` of the monitors in the definitions; edit those.\n" + "".join(
        _yaml(found, 0)
    )


def _yaml(value: Any, depth: int) -> Iterator[str]:
    pad = "  " * depth
    if isinstance(value, Mapping):
        for key, one in value.items():
            if isinstance(one, Mapping | list):
                yield f"{pad}{key}:\n"
                yield from _yaml(one, depth + 1)
            else:
                yield f"{pad}{key}: {json.dumps(one, ensure_ascii=False)}\n"
        return
    for one in value:
        first, *rest = list(_yaml(one, depth + 1))
        yield f"{pad}- {first.lstrip()}"
        yield from rest


# ----------------------------------------------------------------------------------------------------------- dashboard


def dashboard(project: str, policies: Policies) -> dict[str, Any]:
    """A dashboard for Grafana: services at the top, then what is served, then data and alerts."""
    objectives = [m.watched for m in policies.monitors if any(isinstance(c, Objective) for c in m.checks)]
    panels = [
        _stat("Health", "fs_service_health", "{{service}}", 0, 0, mappings=_HEALTH),
        _stat("Alerts that fire", "sum by (severity) (fs_alert_firing)", "{{severity}}", 8, 0),
        _stat(
            "Error budget left",
            "fs_error_budget_left",
            "{{service}} {{objective}}",
            16,
            0,
            unit="percentunit",
        ),
        _lines(
            "Reads a second",
            "sum by (service) (rate(fs_request_seconds_count[5m]))",
            "{{service}}",
            0,
            6,
            "reqps",
        ),
        _lines(
            "99 % are answered within",
            "histogram_quantile(0.99, sum by (service, le) (rate(fs_request_seconds_bucket[5m])))",
            "{{service}}",
            12,
            6,
            "s",
        ),
        _lines(
            "Failed reads a second",
            "sum by (service) (rate(fs_read_failures_total[5m]))",
            "{{service}}",
            0,
            14,
            "reqps",
        ),
        _lines("How old what is served is", "max by (view) (fs_freshness_seconds)", "{{view}}", 12, 14, "s"),
        _lines(
            "Values that are not present",
            'sum by (service, status) (rate(fs_cells_total{status!="PRESENT"}[5m]))',
            "{{service}} {{status}}",
            0,
            22,
            "short",
        ),
        _lines("Drift, in standard deviations", "fs_monitor_effect", "{{on}} {{subject}}", 12, 22, "short"),
        _lines("Stages of a read, on average", _STAGES, "{{stage}}", 0, 30, "s"),
        _lines(
            "Requests turned away", "sum by (reason) (rate(fs_shed_total[5m]))", "{{reason}}", 12, 30, "reqps"
        ),
    ]
    if objectives:
        panels.append(
            _lines(
                "Error budget over 30 days",
                "fs:error_budget_left:ratio30d",
                "{{service}} {{objective}}",
                0,
                38,
                "percentunit",
            )
        )
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    return {
        "title": f"Feature store: {project}",
        "uid": f"fs-{project}"[:40],
        "tags": ["featurestore"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "1m",
        "time": {"from": "now-24h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "panels": panels,
    }


_STAGES = (
    "sum by (stage) (rate(fs_stage_seconds_sum[5m])) / sum by (stage) (rate(fs_stage_seconds_count[5m]))"
)


def _panel(
    kind: str, title: str, expression: str, legend: str, x: int, y: int, w: int, h: int, unit: str
) -> dict[str, Any]:
    return {
        "type": kind,
        "title": title,
        "gridPos": {"x": x, "y": y, "w": w, "h": h},
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "targets": [{"refId": "A", "expr": expression, "legendFormat": legend}],
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
    }


def _stat(
    title: str,
    expression: str,
    legend: str,
    x: int,
    y: int,
    unit: str = "short",
    mappings: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    panel = _panel("stat", title, expression, legend, x, y, 8, 6, unit)
    if mappings:
        colours = {2: "green", 1: "orange", 0: "red", -1: "text"}
        options = {str(v): {"text": n, "color": colours[v]} for n, v in mappings.items()}
        panel["fieldConfig"]["defaults"]["mappings"] = [{"type": "value", "options": options}]
    return panel


def _lines(title: str, expression: str, legend: str, x: int, y: int, unit: str) -> dict[str, Any]:
    return _panel("timeseries", title, expression, legend, x, y, 12, 8, unit)


def expressions(found: Mapping[str, Any] | Sequence[Any]) -> Iterator[str]:
    """Every expression in rules or a dashboard."""
    if isinstance(found, Mapping):
        for key, value in found.items():
            if key == "expr":
                yield str(value)
            elif not isinstance(value, str):
                yield from expressions(value)
    elif isinstance(found, list | tuple):
        for value in found:
            yield from expressions(value)


__all__ = ["METRICS", "dashboard", "expressions", "rules", "rules_yaml", "textfile"]
