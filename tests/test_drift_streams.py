"""Streams: where errors change, answers that stand still or grow alike, and how good predictions are beside their labels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river.datasets import synth
from sklearn.metrics import accuracy_score, log_loss
from sklearn.tree import DecisionTreeClassifier

from featurestore import check, profiles
from featurestore.check import Check
from featurestore.config import Config
from featurestore.drift.streams import (
    by_slice,
    changes,
    coverage,
    detector,
    diversity,
    into_bins,
    quality,
    stuck,
)
from featurestore.errors import RequestError, StatisticsError
from featurestore.monitor.findings import Finding
from featurestore.monitor.loop import Asked, Loop, labelled_moments, look_at_log
from featurestore.statistics import Statistics
from featurestore.time import DAY, HOUR, MINUTE, minutes
from featurestore.types import Float64


def bernoulli(seed: int, *parts: tuple[int, float]) -> list[float]:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.random(n) < p for n, p in parts]).astype(float).tolist()


def test_a_stream_whose_errors_rise_is_seen_and_one_that_stays_is_not() -> None:
    found = changes(bernoulli(70, (3_000, 0.2), (2_000, 0.4)))
    assert found
    assert 3_000 <= found[0].place < 3_600
    assert found[0].before < 0.25 < found[0].after
    assert sum(bool(changes(bernoulli(80 + k, (4_000, 0.2)))) for k in range(5)) == 0


def test_what_gets_better_is_left_out_where_only_worse_matters() -> None:
    better = bernoulli(71, (3_000, 0.4), (2_000, 0.1))
    assert changes(better)
    assert changes(better, worse_only=True) == []


def test_page_hinkley_is_there_as_well_and_no_other() -> None:
    assert changes(bernoulli(72, (3_000, 0.1), (2_000, 0.6)), "page-hinkley")
    with pytest.raises(RequestError, match="did you mean 'adwin'"):
        detector("adwim")  # type: ignore[arg-type]


def test_nothing_known_is_passed_over() -> None:
    assert changes([math.nan] * 100) == []
    assert changes([]) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "concept", [("SEA", "variant", 2, 3), ("Agrawal", "classification_function", 0, 3)], ids=lambda c: c[0]
)
def test_a_concept_that_changed_is_found_in_the_errors_of_a_model_that_learnt_the_old_one(
    concept: tuple[str, str, int, int],
) -> None:
    name, setting, old, new = concept
    for seed in (30_001, 30_002, 30_003):
        parts = []
        for value, shift in ((old, 0), (new, 500)):
            stream: Any = getattr(synth, name)(**{setting: value}, seed=seed + shift)
            rows = [([float(v) for v in x.values()], y) for x, y in stream.take(4_000)]
            parts.append((np.array([x for x, _ in rows]), np.array([y for _, y in rows])))
        (x, y), (x2, y2) = parts
        model = DecisionTreeClassifier(max_depth=6, random_state=0).fit(x[:2_000], y[:2_000])
        wrong = np.concatenate([model.predict(x[2_000:]) != y[2_000:], model.predict(x2) != y2]).astype(float)
        assert wrong[2_000:].mean() > wrong[:2_000].mean() + 0.05, "else there is nothing to find"
        places = [c.place for c in changes(wrong.tolist())]
        assert places
        assert places[0] >= 2_000


# ------------------------------------------------------------------------------------------------------- answers given


def test_the_same_answer_for_ten_minutes_is_stuck_and_few_answers_are_not() -> None:
    times = [k * MINUTE // 2 for k in range(60)]
    same = stuck(times, [1.0] * 30 + [2.0] * 30, 10 * MINUTE)
    assert (same.stuck, same.value, same.answers) == (True, 2.0, 30)
    assert not stuck(times, [1.0] * 30 + [2.0] * 29 + [3.0], 10 * MINUTE).stuck
    assert not stuck([0, HOUR], ["a", "a"], 10 * MINUTE).stuck
    assert not stuck([], [], MINUTE).stuck
    assert stuck(times[::-1], [2.0] * 30 + [1.0] * 30, 10 * MINUTE).answers == 30


def test_diversity_is_greatest_where_all_come_alike() -> None:
    assert math.isclose(diversity("abcd").entropy, math.log(4))
    assert (diversity("aaaa").entropy, diversity("aaab").top, diversity("").answers) == (0.0, 0.75, 0)
    assert coverage("aab", "abcd") == 0.5
    assert coverage("aab", "") is None
    assert into_bins(np.array([0.1, 0.5, np.nan, 0.9]), np.array([0.4, 0.8])) == [0, 1, 2]


# -------------------------------------------------------------------------------------------------- answers and labels


@given(st.lists(st.tuples(st.floats(0.01, 0.99), st.booleans()), min_size=2, max_size=60))
def test_the_quality_of_chances_is_that_of_scikit_learn(pairs: list[tuple[float, bool]]) -> None:
    p, y = np.array([a for a, _ in pairs]), np.array([float(b) for _, b in pairs])
    found = quality(p, y)
    assert found.accuracy is not None
    assert found.log_loss is not None
    assert math.isclose(found.accuracy, accuracy_score(y, p >= 0.5))
    assert math.isclose(found.log_loss, log_loss(y, p, labels=[0.0, 1.0]), rel_tol=1e-9)
    assert 0 <= (found.calibration or 0) <= 1


def test_chances_that_are_right_on_average_are_calibrated_and_those_that_are_not_are_not() -> None:
    rng = np.random.default_rng(1)
    p = rng.random(20_000)
    y = (rng.random(20_000) < p).astype(float)
    assert (quality(p, y).calibration or 1) < 0.02
    assert (quality(p**3, y).calibration or 0) > 0.1


def test_classes_have_an_accuracy_alone_and_pairs_without_a_label_are_left_out() -> None:
    found = quality(np.array(["a", "b", None, "c"], object), np.array(["a", "c", "a", None], object))
    assert (found.rows, found.accuracy, found.log_loss) == (2, 0.5, None)
    assert quality(np.array([]), np.array([])).accuracy is None
    halves = by_slice(["x", "x", "y"], np.array([1, 0, 1]), np.array([1, 1, 1]))
    assert {k: v.accuracy for k, v in halves.items()} == {"x": 0.5, "y": 1.0}


# ------------------------------------------------------------------------------------------------------ checks of a log


def loop_of(
    *, bad_from: int = 10**9, shift_from: int = 10**9, same_from: int = 10**9, days: int = 20, rows: int = 200
) -> Loop:
    """Twenty days of a served feature, predictions of it, and labels; from some day on one of them is no longer what it was."""
    rng = np.random.default_rng(5)
    day = np.repeat(np.arange(days), rows)
    at = day * DAY + np.tile(np.arange(rows) * (DAY // rows), days)
    x = rng.normal(0, 1, len(day)) + 1.0 * (day >= shift_from)
    chance = 1 / (1 + np.exp(-3 * x))
    truth = rng.random(len(day)) < np.where(day >= bad_from, 1 - chance, chance)
    answered = np.where(day >= same_from, 0.5, chance)
    ids = [f"r{k}-0" for k in range(len(day))]
    shop = np.where(np.arange(len(day)) % 2 == 0, "north", "south")
    served = pa.table(
        {"row_id": ids, "event_timestamp": pa.array(at, pa.timestamp("us", "UTC")), "x": x, "shop": shop}
    )

    def logged(service: str, start: int | None, end: int | None, *, labelled: bool) -> pa.Table:
        chosen = (at >= (start if start is not None else 0)) & (at < (end if end is not None else 10**18))
        return served.filter(pa.array(chosen))

    def returned(what: str) -> tuple[pa.Table, list[Any]]:
        values = answered.tolist() if what == "predictions" else truth.tolist()
        names = ["risk" if what == "predictions" else "late"] * len(ids)
        versions = ["1" if what == "predictions" else ""] * len(ids)
        table = {
            "row_id": ids,
            "name": names,
            "version": versions,
            "at": pa.array(at + 1, pa.timestamp("us", "UTC")),
        }
        return pa.table(table), values

    return Loop(logged, returned, lambda _: ())


def looked(loop: Loop, one: Check, folder: Path, *, day: int = 20) -> dict[tuple[str, str], Finding]:
    config = Config(folder, "x")
    training = Statistics({"x": Float64})
    training.update({"x": np.random.default_rng(6).normal(0, 1, 5_000)}, 0)
    profiles.save(config, "risk", "training", training)

    def finding(
        condition: str, subject: str, state: Any, said: str, figures: Any = None, span: Any = None
    ) -> Finding:
        return Finding("m", "risk", condition, subject, state, said, figures or {})

    asked = Asked("risk", DAY, DAY, "1d", "before", day * DAY)
    return {(f.condition, f.subject): f for f in look_at_log(loop, config, asked, one, finding)}  # type: ignore[arg-type]


def test_what_was_served_is_held_against_what_was_trained_on(tmp_path: Path) -> None:
    assert looked(loop_of(), check.skew(), tmp_path)["skew", "x"].state == "ok"
    found = looked(loop_of(shift_from=19), check.skew(), tmp_path)["skew", "x"]
    assert (found.state, found.figures["effect"] > 0.8) == ("bad", True)
    with pytest.raises(StatisticsError, match="the window is empty"):
        looked(loop_of(), check.skew(), tmp_path, day=40)


def test_a_concept_that_turned_is_seen_in_quality_by_slice_and_inputs_stay_as_they_were(
    tmp_path: Path,
) -> None:
    well = looked(loop_of(), check.quality(by="shop"), tmp_path)
    assert {k[1]: f.state for k, f in well.items()} == {
        "risk 1": "ok",
        "risk 1 of north": "ok",
        "risk 1 of south": "ok",
    }
    found = looked(loop_of(bad_from=19), check.quality(by="shop", min_rows=50), tmp_path)
    assert {f.state for f in found.values()} == {"bad"}
    said = found["quality", "risk 1"].said
    assert "accuracy 0.8" in said
    assert "log loss" in said
    assert "100% of predictions have labels" in said
    bound = looked(loop_of(), check.quality(accuracy=0.99), tmp_path)["quality", "risk 1"]
    assert (bound.state, "is below 0.990" in bound.said) == ("bad", True)


def test_predictions_that_moved_stand_still_or_grow_alike(tmp_path: Path) -> None:
    well = looked(loop_of(), check.predictions(stuck=minutes(30)), tmp_path)
    assert {f.state for f in well.values()} == {"ok"}
    moved = looked(loop_of(shift_from=19), check.predictions(), tmp_path)
    assert moved["prediction-drift", "risk 1"].state == "bad"
    still = looked(loop_of(same_from=19), check.predictions(), tmp_path)
    assert still["stuck-output", "risk 1"].state == "bad"
    assert "are all 0.5" in still["stuck-output", "risk 1"].said
    assert still["diversity", "risk 1"].state == "bad"


def test_labels_that_are_shared_out_otherwise_are_a_shift(tmp_path: Path) -> None:
    assert looked(loop_of(), check.labels(), tmp_path)["label-shift", "label"].state == "ok"
    shifted = looked(loop_of(shift_from=19), check.labels("late"), tmp_path)["label-shift", "label"]
    assert (shifted.state, "true 5" in shifted.said) == ("bad", True)
    with pytest.raises(StatisticsError, match="did you mean 'late'"):
        looked(loop_of(), check.labels("lat"), tmp_path)
    with pytest.raises(StatisticsError, match="did you mean 'shop'"):
        looked(loop_of(), check.quality(by="shp"), tmp_path)


def test_labelled_rows_are_counted_for_triggers() -> None:
    assert len(labelled_moments(loop_of(days=2), "risk")) == 400
