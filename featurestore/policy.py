"""Monitors, alerts and triggers as a user writes them, in definitions beside what they watch.

They are no part of the plan: what a feature means does not change with who is told about it. Nothing is applied; a run reads
them from the files.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from featurestore.baselines import parse_baseline, parse_length
from featurestore.check import DEFAULT, Check
from featurestore.conditions import CONDITIONS
from featurestore.declare import BatchSource, FeatureService, FeatureView, StreamSource, _where
from featurestore.errors import DefinitionError, FeatureStoreError, Problem, Where, nearest
from featurestore.retrain import Drifted, Due, Every, Performance, Rows
from featurestore.time import Duration

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")

Watched = FeatureService | FeatureView | BatchSource | StreamSource | str


@dataclass(frozen=True, slots=True)
class When:
    """A condition, and for what its figures are compared with; without a comparison, whatever the check calls bad."""

    condition: str
    figure: str | None = None
    comparison: str | None = None
    bound: float | None = None

    def holds(self, *, bad: bool, figures: Mapping[str, float]) -> bool | None:
        """Whether the alert's condition holds; None where the figure is not known."""
        if self.figure is None or self.comparison is None or self.bound is None:
            return bad
        value = figures.get(self.figure)
        return None if value is None else bool(_COMPARISONS[self.comparison](value, self.bound))


_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_WHEN = re.compile(r"\s*([a-z-]+)(?:\.([a-z_]+)\s*(>=|<=|>|<)\s*([-+0-9.e]+))?\s*\Z")


def parse_when(text: str) -> When:
    """`drift`, or `drift.share >= 0.2`. Raises ValueError that says what would work.

    >>> parse_when("drift.share >= 0.2")
    When(condition='drift', figure='share', comparison='>=', bound=0.2)
    """
    match = _WHEN.match(text)
    if match is None:
        raise ValueError(
            f"'{text}' is no condition\n  write one, such as 'drift', or compare: 'drift.share >= 0.2'"
        )
    name, figure, comparison, bound = match.groups()
    if name not in CONDITIONS:
        raise ValueError("\n  ".join([f"no condition '{name}'", *nearest(name, CONDITIONS)]))
    if figure is None:
        return When(name)
    known = CONDITIONS[name].figures
    if figure not in known:
        raise ValueError(
            "\n  ".join([f"condition '{name}' has no figure '{figure}'", *nearest(figure, known)])
        )
    return When(name, figure, comparison, float(bound))


@dataclass(frozen=True)
class Alert:
    """Who is told of what. `when` is a condition (`drift`, or `drift.share >= 0.2`) that has to last `lasting` first.

    While it lasts, it is told again after `cooldown` (none is the project's); it is over when it has been well for `settle`.
    `channels` are names of `[alerts.channels.…]` in fs.toml, or `log`. `subjects` are globs of what it is about, all by default.
    """

    when: str
    severity: Severity = "warning"
    lasting: Duration | None = None
    channels: Sequence[str] = ("log",)
    runbook: str | None = None
    name: str | None = None
    cooldown: Duration | None = None
    settle: Duration | None = None
    subjects: Sequence[str] = ("*",)
    line: Where = _where()

    @property
    def title(self) -> str:
        return self.name or self.when


@dataclass(frozen=True)
class Monitor:
    """What is looked at of a service, view or source, over which window beside which baseline, and who is told.

    `window` is a length of whole partitions (days, or hours where it is shorter than a day); `baseline` as in `fs drift`. `every`
    is how often it runs at most; None is whenever `fs monitor run` does. Without `alerts`, each condition is told to the log.
    """

    name: str
    on: Watched
    window: Duration | str | None = None
    every: Duration | None = None
    baseline: str | None = None
    checks: Sequence[Check] = DEFAULT
    alerts: Sequence[Alert] = ()
    description: str = ""
    owner: str = ""
    line: Where = _where()

    @property
    def watched(self) -> str:
        """The name of what is watched."""
        return self.on if isinstance(self.on, str) else self.on.name

    @property
    def window_text(self) -> str | None:
        return None if self.window is None else str(self.window)


@dataclass(frozen=True)
class Trigger:
    """Trains a model again when one of `when` holds: `run` is a command as a list of arguments, or the URL of a webhook.

    No shell reads the command. Its environment has `FS_TRIGGER_ID`, `FS_TRIGGER_SERVICE` and `FS_TRIGGER_REASON`. It is not
    run again before `cooldown` is over, nor before `min_rows` labelled rows have come.
    """

    service: FeatureService | str
    when: Due | Sequence[Due]
    run: Sequence[str] | str
    name: str | None = None
    cooldown: Duration | None = None
    min_rows: int = 0
    line: Where = _where()

    @property
    def of(self) -> str:
        """The name of the service."""
        return self.service if isinstance(self.service, str) else self.service.name

    @property
    def title(self) -> str:
        return self.name or self.of

    @property
    def reasons(self) -> tuple[Due, ...]:
        return (
            (self.when,) if isinstance(self.when, Every | Rows | Drifted | Performance) else tuple(self.when)
        )


@dataclass(frozen=True)
class Policies:
    """All that is watched in a project."""

    monitors: tuple[Monitor, ...] = ()
    triggers: tuple[Trigger, ...] = ()


def policies_in(values: Iterable[object]) -> Policies:
    """The monitors and triggers among the values of modules, each once. Raises DefinitionError with every mistake."""
    seen: dict[int, Any] = {}
    for value in values:
        parts = value if isinstance(value, list | tuple) else [value]
        seen |= {id(v): v for v in parts if isinstance(v, Monitor | Trigger)}
    monitors = [v for v in seen.values() if isinstance(v, Monitor)]
    triggers = [v for v in seen.values() if isinstance(v, Trigger)]
    problems = [p for m in monitors for p in _mistakes(m)] + [
        p for t in triggers for p in _trigger_mistakes(t)
    ]
    for kind, names in (("monitor", [m.name for m in monitors]), ("trigger", [t.title for t in triggers])):
        twice = sorted({n for n in names if names.count(n) > 1})
        problems += [
            Problem(f"two {kind}s are named '{n}'", None, ("give one of them another name=",)) for n in twice
        ]
    if problems:
        raise DefinitionError(problems)
    return Policies(tuple(monitors), tuple(triggers))


def _mistakes(monitor: Monitor) -> Iterable[Problem]:
    try:
        if monitor.baseline is not None:
            parse_baseline(monitor.baseline)
        if monitor.window_text is not None and ".." not in monitor.window_text:
            parse_length(monitor.window_text)
    except FeatureStoreError as error:
        head, *rest = str(error).splitlines()
        yield Problem(f"monitor '{monitor.name}': {head}", monitor.line, tuple(r.strip() for r in rest))
    for alert in monitor.alerts:
        try:
            parse_when(alert.when)
        except ValueError as error:
            head, *rest = str(error).splitlines()
            yield Problem(head, alert.line, tuple(r.strip() for r in rest))
        if alert.severity not in SEVERITIES:
            help = tuple(nearest(alert.severity, SEVERITIES))
            yield Problem(f"no severity '{alert.severity}'", alert.line, help)


def _trigger_mistakes(trigger: Trigger) -> Iterable[Problem]:
    run = trigger.run
    if isinstance(run, str) and not run.startswith(("http://", "https://", "${")):
        yield Problem(
            f"trigger '{trigger.title}' runs a text, and no shell reads it",
            trigger.line,
            ('give a list of arguments: run=["python", "train.py"], or the URL of a webhook',),
        )
    elif not isinstance(run, str) and (not run or not all(isinstance(a, str) for a in run)):
        yield Problem(f"trigger '{trigger.title}' runs no list of texts", trigger.line)
    if not trigger.reasons:
        yield Problem(f"trigger '{trigger.title}' has no reason", trigger.line, ("give when=[…]",))


__all__ = [
    "SEVERITIES",
    "Alert",
    "Monitor",
    "Policies",
    "Severity",
    "Trigger",
    "When",
    "parse_when",
    "policies_in",
]
