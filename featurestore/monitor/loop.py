"""What was served, what models made of it, and what came of that: skew, predictions, labels, quality."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, assert_never

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore import check as c
from featurestore import profiles
from featurestore.baselines import Before, parse_baseline
from featurestore.config import Config
from featurestore.datasets.card import declared
from featurestore.drift import streams
from featurestore.drift.compare import compare
from featurestore.drift.features import two_shares
from featurestore.drift.verdicts import DriftReport, Limits
from featurestore.drift.windows import Chosen, choose
from featurestore.errors import StatisticsError, nearest
from featurestore.evaluate.ranges import Array
from featurestore.monitor.findings import Finding
from featurestore.monitor.reports import Make, drift_findings
from featurestore.statistics import Statistics, Summary
from featurestore.time import MINUTE, Duration, floor

MOMENT = "event_timestamp"
ROW = "row_id"
SURE = 0.01
"""How seldom chance may explain what is called a loss of quality."""

Logged = c.Skew | c.Predictions | c.Quality | c.Labels


@dataclass(frozen=True)
class Loop:
    """How the log of a project is read, its features and labels and what came back by row.

    `logged(service, start, end, labelled)` gives rows with `row_id` and the moment they were asked at; `returned` the newest of
    the predictions or labels that were told; `labels` the names of the labels a service declares.
    """

    logged: Callable[..., pa.Table]
    returned: Callable[[Literal["predictions", "labels"]], tuple[pa.Table, list[Any]]]
    labels: Callable[[str], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Asked:
    """What of the log is looked at: a service, a window of so long up to `now`, and the baseline beside it."""

    service: str
    length: int
    every: int
    window: str | None
    baseline: str | None
    now: int


def look_at_log(loop: Loop, config: Config, asked: Asked, check: Logged, finding: Make) -> Iterator[Finding]:
    """The findings of a check of what was logged. Raises StatisticsError for what cannot be judged."""
    match check:
        case c.Skew():
            yield from _skew(loop, config, asked, check, finding)
        case c.Predictions():
            yield from _predictions(loop, asked, check, finding)
        case c.Quality():
            yield from _quality(loop, asked, check, finding)
        case c.Labels():
            yield from _labels(loop, asked, check, finding)
        case _:
            assert_never(check)


# ---------------------------------------------------------------------------------------------------------------- skew


def _skew(loop: Loop, config: Config, asked: Asked, check: c.Skew, finding: Make) -> Iterator[Finding]:
    end = floor(asked.now, asked.every)
    span = (end - asked.length, end)
    rows = loop.logged(asked.service, *span, labelled=False)
    training = profiles.load(config, asked.service, "training").total()
    served = Summary(training.columns)
    served.update(rows)
    limits = Limits(check.effect, check.alpha, check.min_rows)
    report = compare(training, served, limits)
    report = DriftReport(report.features, report.schema, None, "", "", (), span)
    yield from drift_findings(report, (), finding, "skew")


# --------------------------------------------------------------------------------------------------- labels, predictions


def _chosen(asked: Asked, name: str, values: pa.ChunkedArray, times: Array) -> Chosen:
    """A window of one column beside its baseline."""
    found = Statistics({name: declared(values.type)}, every=Duration(asked.every))
    found.update({name: values}, times)
    baseline = Before() if asked.baseline is None else parse_baseline(asked.baseline)
    return choose(found, baseline, asked.window, at=floor(asked.now, asked.every))


def _compared(asked: Asked, name: str, values: pa.ChunkedArray, times: Array, limits: Limits) -> DriftReport:
    chosen = _chosen(asked, name, values, times)
    report = compare(chosen.baseline, chosen.window, limits, windows=chosen.windows)
    return DriftReport(report.features, (), report.volume, "", "", (), chosen.span)


def _labels(loop: Loop, asked: Asked, check: c.Labels, finding: Make) -> Iterator[Finding]:
    truth = _truth(loop, asked.service, check.label)
    if not truth.num_rows:
        raise StatisticsError(f"no labels of '{asked.service}' have come yet")
    limits = Limits(check.effect, check.alpha, check.min_rows)
    newest = int(_times(truth).max()) + asked.every  # labels come late: the window is of those that are there
    late = Asked(**{**_fields(asked), "now": min(asked.now, floor(newest, asked.every))})
    report = _compared(late, "label", truth["label"], _times(truth), limits)
    yield from drift_findings(report, (), finding, "label-shift")


def _fields(asked: Asked) -> dict[str, Any]:
    return {n: getattr(asked, n) for n in Asked.__slots__}


def _predictions(loop: Loop, asked: Asked, check: c.Predictions, finding: Make) -> Iterator[Finding]:
    answers = _answers(loop, asked.service)
    if not answers.num_rows:
        raise StatisticsError(
            f"no predictions of '{asked.service}' were told\n  store.capture.predictions(…) keeps them"
        )
    limits = Limits(check.effect, check.alpha, check.min_rows)
    for model in sorted(set(answers["model"].to_pylist())):
        own = answers.filter(pc.equal(answers["model"], model))
        own = own.filter(pc.less(own["at"], asked.now))
        times = _times(own, "at")
        named = partial(_named, finding, model)
        report = _compared(asked, model, own["prediction"], times, limits)
        yield from drift_findings(report, (), finding, "prediction-drift")
        still = streams.stuck(times.tolist(), own["prediction"].to_pylist(), check.stuck.microseconds)
        figures = {"minutes": still.lasted / MINUTE, "predictions": float(still.answers)}
        said = f"the last {still.answers:,} answers, over {still.lasted / MINUTE:.0f} minutes, are all {still.value!r}"
        yield named(
            "stuck-output", "bad" if still.stuck else "ok", said if still.stuck else "answers differ", figures
        )
        yield from _diversity(asked, check, own["prediction"], times, named)


def _named(
    finding: Make, model: str, condition: str, state: str, said: str, figures: Mapping[str, float]
) -> Finding:
    return finding(condition, model, state, said, figures)


def _diversity(
    asked: Asked, check: c.Predictions, values: pa.ChunkedArray, times: Array, named: Callable[..., Finding]
) -> Iterator[Finding]:
    """The entropy of the window's answers beside that of a stretch of the baseline of as many answers."""
    end = floor(asked.now, asked.every)
    inside = (times >= end - asked.length) & (times < end)
    before = times < end - asked.length
    if min(int(inside.sum()), int(before.sum())) < check.min_rows:
        return
    column = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_floating(column.type):
        numbers = column.to_numpy(zero_copy_only=False)
        edges = np.unique(np.quantile(numbers[before][np.isfinite(numbers[before])], np.arange(1, 20) / 20))
        sides = [streams.into_bins(numbers[side], edges) for side in (before, inside)]
    else:
        sides = [column.filter(pa.array(side)).to_pylist() for side in (before, inside)]
    was, now = (streams.diversity(side) for side in sides)
    if not was.entropy:
        return
    covered = streams.coverage(sides[1], sides[0])
    figures = {"entropy": now.entropy / was.entropy, "coverage": covered if covered is not None else 0.0}
    said = (
        f"entropy is {figures['entropy']:.0%} of what it was; {figures['coverage']:.0%} of the values given before came; "
        f"the most frequent takes {now.top:.0%} ({was.top:.0%} before)"
    )
    yield named("diversity", "bad" if figures["entropy"] < check.diversity else "ok", said, figures)


# ------------------------------------------------------------------------------------------------------------- quality


def _quality(loop: Loop, asked: Asked, check: c.Quality, finding: Make) -> Iterator[Finding]:
    answers = _answers(loop, asked.service)
    if not answers.num_rows:
        raise StatisticsError(
            f"no predictions of '{asked.service}' were told\n  store.capture.predictions(…) keeps them"
        )
    truth = _truth(loop, asked.service, check.label)
    pairs = answers.join(truth.drop_columns([MOMENT]), ROW, join_type="inner")
    if not pairs.num_rows:
        raise StatisticsError(
            f"no prediction of '{asked.service}' has a label yet: {answers.num_rows:,} predictions, {truth.num_rows:,} labels"
        )
    if check.by is not None:
        pairs = pairs.join(_slices(loop, asked.service, check.by), ROW, join_type="left outer")
    for model in sorted(set(pairs["model"].to_pylist())):
        own = pairs.filter(pc.equal(pairs["model"], model)).sort_by(MOMENT)
        covered = own.num_rows / int(pc.sum(pc.equal(answers["model"], model)).as_py())
        yield from _of_model(asked, check, model, own, covered, finding)


def _of_model(
    asked: Asked, check: c.Quality, model: str, pairs: pa.Table, covered: float, finding: Make
) -> Iterator[Finding]:
    times = _times(pairs)
    p, y = (np.asarray(pairs[n].to_pylist(), object) for n in ("prediction", "label"))
    p, y = _plain(p), _plain(y)
    end = (
        floor(int(times.max()), asked.every) + asked.every
    )  # labels come late: the window is of those that are there
    inside = times >= end - asked.length
    slices: dict[str, Array] = {"": np.ones(len(p), bool)}
    if check.by is not None:
        names = np.asarray([str(v) for v in pairs[check.by].to_pylist()], object)
        slices |= {str(n): names == n for n in sorted(set(names.tolist()))}
    for name, mine in slices.items():
        now, was = (streams.quality(p[mine & side], y[mine & side]) for side in (inside, ~inside))
        subject = model if not name else f"{model} of {name}"
        span = (end - asked.length, end)
        if now.rows < check.min_rows:
            said = f"{now.rows:,} labelled rows in the window: {check.min_rows:,} are needed"
            yield finding("quality", subject, "unknown", said, None, span)
            continue
        why = list(_worse(check, now, was, p[mine], y[mine], inside[mine]))
        figures = now.to_json()
        told = ", ".join(f"{k.replace('_', ' ')} {v:.3f}" for k, v in figures.items())
        said = f"{'; '.join(why) or 'as good as it was'} ({told}; {now.rows:,} rows, {covered:.0%} of predictions have labels)"
        yield finding("quality", subject, "bad" if why else "ok", said, figures, span)


def _worse(
    check: c.Quality, now: streams.Quality, was: streams.Quality, p: Array, y: Array, inside: Array
) -> Iterator[str]:
    """What of the quality is too bad: beyond a bound, or surely worse than the baseline by `drop`."""
    bounds = (
        ("accuracy", check.accuracy, -1),
        ("log_loss", check.log_loss, 1),
        ("calibration", check.calibration, 1),
    )
    for name, bound, sign in bounds:
        value = getattr(now, name)
        if bound is not None and value is not None and (value - bound) * sign > 0:
            yield f"{name.replace('_', ' ')} {value:.3f} is {'below' if sign < 0 else 'above'} {bound:.3f}"
    if was.rows >= check.min_rows and now.accuracy is not None and was.accuracy is not None:
        lost = was.accuracy - now.accuracy
        right = round(was.accuracy * was.rows), round(now.accuracy * now.rows)
        if lost >= check.drop and two_shares(right[0], was.rows, right[1], now.rows) <= SURE:
            yield f"accuracy {was.accuracy:.3f} → {now.accuracy:.3f}"
    if was.log_loss is not None and now.log_loss is not None and was.rows >= check.min_rows:
        losses = streams.losses(p, y)
        before, after = losses[~inside], losses[inside]
        error = float(np.sqrt(before.var() / len(before) + after.var() / len(after)))
        risen = float(after.mean() - before.mean())
        if was.log_loss and risen / was.log_loss >= check.drop and error and risen / error > SURELY:
            yield f"log loss {was.log_loss:.3f} → {now.log_loss:.3f}"
    errors = streams.errors_of(p, y)
    found = [x for x in streams.changes(errors.tolist(), worse_only=True) if inside[x.place]]
    if found and found[-1].after - found[-1].before >= check.drop:
        yield f"errors rose from {found[-1].before:.3f} to {found[-1].after:.3f} (ADWIN)"


SURELY = 3.0
"""Standard errors beyond which a mean loss has surely risen."""


# ------------------------------------------------------------------------------------------------------------ the rows


def _answers(loop: Loop, service: str) -> pa.Table:
    """The predictions of a service's rows: row, moment asked, model, prediction, moment told."""
    told, values = loop.returned("predictions")
    models = [
        f"{n} {v}".strip() for n, v in zip(told["name"].to_pylist(), told["version"].to_pylist(), strict=True)
    ]
    table = pa.table(
        {
            ROW: told[ROW],
            "model": pa.array(models, pa.string()),
            "prediction": _column(values),
            "at": _moments(told["at"]),
        }
    )
    rows = loop.logged(service, None, None, labelled=False).select([ROW, MOMENT])
    return table.join(_once(rows), ROW, join_type="inner").sort_by("at")


def _truth(loop: Loop, service: str, label: str | None) -> pa.Table:
    """Row, moment asked, label: of a label that the service declares, else of those that were told."""
    declared_labels = loop.labels(service)
    rows = loop.logged(service, None, None, labelled=True)
    if label in declared_labels or (label is None and declared_labels):
        name = label or declared_labels[0]
        found = rows.select([ROW, MOMENT, name]).rename_columns([ROW, MOMENT, "label"])
        return _once(found.filter(pc.is_valid(found["label"])))
    told, values = loop.returned("labels")
    names = sorted(set(told["name"].to_pylist()))
    if label is None and len(names) > 1:
        raise StatisticsError(f"labels {', '.join(names)} were told: name one, check.quality(label=…)")
    if label is not None and label not in names:
        known = [*declared_labels, *names]
        raise StatisticsError(
            "\n  ".join([f"no label '{label}' was told or declared", *nearest(label, known)])
        )
    table = pa.table({ROW: told[ROW], "name": told["name"], "label": _column(values)})
    if label is not None:
        table = table.filter(pc.equal(table["name"], label))
    found = table.drop_columns(["name"]).join(_once(rows.select([ROW, MOMENT])), ROW, join_type="inner")
    return found.filter(pc.is_valid(found["label"])).select([ROW, MOMENT, "label"])


def labelled_moments(loop: Loop, service: str) -> list[int]:
    """When the rows were asked that have a label by now, rising. Raises StatisticsError when it is not known which label."""
    return sorted(_times(_truth(loop, service, None)).tolist())


def _slices(loop: Loop, service: str, by: str) -> pa.Table:
    rows = loop.logged(service, None, None, labelled=False)
    if by not in rows.column_names:
        raise StatisticsError(
            "\n  ".join([f"rows of '{service}' have no column '{by}'", *nearest(by, rows.column_names)])
        )
    return _once(rows.select([ROW, by]))


def _once(rows: pa.Table) -> pa.Table:
    """Each row id once: the first."""
    places = rows.append_column("place", pa.array(range(rows.num_rows), pa.int64()))
    firsts = (
        places.group_by(ROW, use_threads=False).aggregate([("place", "min")])["place_min"].combine_chunks()
    )
    return rows.take(firsts)


def _column(values: list[Any]) -> pa.Array:
    """Values of one kind as a column; whatever is mixed as texts."""
    kinds = {
        bool if isinstance(v, bool) else int if isinstance(v, int) else type(v)
        for v in values
        if v is not None
    }
    if kinds <= {int, float} and float in kinds:
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    if len(kinds) == 1 and kinds <= {bool, int, str}:
        return pa.array(values)
    return pa.array([None if v is None else str(v) for v in values], pa.string())


def _plain(values: Array) -> Array:
    """Objects as numbers where they are; booleans as 0 and 1."""
    if all(isinstance(v, bool | int) for v in values.tolist()):
        return values.astype(np.int64)
    if all(isinstance(v, bool | int | float) for v in values.tolist()):
        return values.astype(np.float64)
    return np.array([str(v) for v in values.tolist()], object)


def _moments(column: Any) -> pa.Array:
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return whole.cast(pa.timestamp("us")).view(pa.int64())


def _times(table: pa.Table, name: str = MOMENT) -> Array:
    column = table[name]
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    out: Array = (whole if pa.types.is_integer(whole.type) else _moments(whole)).to_numpy(
        zero_copy_only=False
    )
    return out


__all__ = ["Asked", "Loop", "labelled_moments", "look_at_log"]
