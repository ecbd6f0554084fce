"""False alarms and detections of drift, and of changes in streams of errors.

    python benchmarks/drift.py [--fast]

Fifty features of 10,000 rows a window, kept as statistics (KLL, k = 200), beside a training set of 100,000 rows, at default
limits. Seeds begin at 20,000; those used while the defaults were chosen lie below. `mixed` features are a fifth each normal,
lognormal (sigma 1.5), t with 2.2 degrees of freedom, Poisson and rare events. Streams: a decision tree, trained on the first
3,000 rows of a concept and frozen, meets another concept after 6,000; a detection is the first alarm after the change. The peer
in the same run is raw p-values below 0.05, without a size and without adjustment.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np
from _common import machine, verdict
from river.datasets import synth
from scipy import stats
from sklearn.tree import DecisionTreeClassifier

from featurestore.drift import Limits, compare
from featurestore.drift.streams import changes
from featurestore.statistics import Keep, Summary
from featurestore.types import DType, Float64

FEATURES, ROWS, TRAINED = 50, 10_000, 100_000
COLUMNS: dict[str, DType] = {f"f{i}": Float64 for i in range(FEATURES)}
SEED = 20_000

Matrix = np.ndarray


def normal(seed: int, rows: int) -> Matrix:
    return np.random.default_rng(seed).normal(size=(rows, FEATURES))


def mixed(seed: int, rows: int) -> Matrix:
    rng = np.random.default_rng(seed)
    kinds: list[Callable[[], Matrix]] = [
        lambda: rng.normal(size=rows),
        lambda: rng.lognormal(0, 1.5, rows),
        lambda: rng.standard_t(2.2, rows),
        lambda: rng.poisson(1.5, rows),
        lambda: rng.random(rows) < 0.03,
    ]
    return np.column_stack([kinds[j % 5]() for j in range(FEATURES)]).astype(float)


def kept(matrix: Matrix) -> Summary:
    found = Summary(COLUMNS, Keep(distinct=None, frequent=None))
    found.add(matrix)
    return found


def false_alarms(windows: int) -> None:
    for name, draw, rows in (("normal", normal, ROWS), ("mixed", mixed, ROWS), ("mixed", mixed, 1_000)):
        trained = draw(SEED, TRAINED)
        base, ordered = kept(trained), np.sort(trained, axis=0)
        ours = raw = 0
        for w in range(windows):
            matrix = draw(SEED + 1 + w, rows)
            ours += bool(compare(base, kept(matrix)).drifted)
            raw += any(
                stats.ks_2samp(ordered[:, j], matrix[:, j], method="asymp").pvalue < 0.05
                for j in range(FEATURES)
            )
        print(
            f"  {name:<8}{rows:>7,} rows a window: {ours} of {windows} windows with an alarm; raw p < 0.05: {raw}"
        )
        verdict(f"false alarms, {name}, {rows:,} rows, of {windows} windows", ours, 5, 2, unit="windows")


def detections(tries: int) -> None:
    for trained in (TRAINED, 2 * ROWS, ROWS):
        for shift, limits, within in (
            (0.15, Limits(), 1),
            (0.06, Limits(effect=0.05), 3),
            (0.06, Limits(effect=0.05), 1),
        ):
            seen = 0
            for k in range(tries):
                base = kept(normal(SEED + 40_000 + k, trained))
                for w in range(within):
                    matrix = normal(SEED + 50_000 + k * within + w, ROWS)
                    matrix[:, 7] += shift
                    if any(f.feature == "f7" for f in compare(base, kept(matrix), limits).drifted):
                        seen += 1
                        break
            print(
                f"  {shift} sd in 1 of {FEATURES}, {trained:,} rows trained: seen in {seen} of {tries} within {within}"
            )
            if trained == ROWS and within == 3:
                print(f"  the best test there is would see {most(shift, trained, within * ROWS):.1%} of them")
            elif within == 3 or shift == 0.15:
                verdict(
                    f"{shift} sd within {within}",
                    seen / tries,
                    0.95,
                    1.0,
                    unit="of tries",
                    more_is_better=True,
                )


def most(shift: float, trained: int, rows: int, alpha: float = 0.01) -> float:
    """The power of the most powerful unbiased test of a mean that moved, its spread known, with all rows of the windows together.

    One test for each feature, adjusted for all: no other spends fewer false alarms. No threshold of size is asked besides.
    """
    error = np.sqrt(1 / trained + 1 / rows)
    needed = stats.norm.isf(alpha / FEATURES / 2)
    return float(stats.norm.sf(needed - shift / error))


# ------------------------------------------------------------------------------------------------------------- streams

BEFORE, AFTER, LEARNT = 6_000, 6_000, 3_000
CONCEPTS: dict[str, tuple[Callable[[int], object], Callable[[int], object]]] = {
    "SEA 2 to 3": (
        lambda s: synth.SEA(variant=2, seed=s, noise=0.05),
        lambda s: synth.SEA(variant=3, seed=s, noise=0.05),
    ),
    "Agrawal 0 to 3": (
        lambda s: synth.Agrawal(classification_function=0, seed=s),
        lambda s: synth.Agrawal(classification_function=3, seed=s),
    ),
    "Agrawal 2 to 5": (
        lambda s: synth.Agrawal(classification_function=2, seed=s),
        lambda s: synth.Agrawal(classification_function=5, seed=s),
    ),
    "Hyperplane": (
        lambda s: synth.Hyperplane(n_features=5, seed=s, noise_percentage=0.05),
        lambda s: synth.Hyperplane(n_features=5, seed=s + 7_000, noise_percentage=0.05),
    ),
}


def rows_of(stream: object, count: int) -> tuple[Matrix, Matrix]:
    pairs: Iterator[tuple[dict[str, float], int]] = stream.take(count)  # type: ignore[attr-defined]
    read = [([float(v) for v in x.values()], int(y)) for x, y in pairs]
    return np.array([x for x, _ in read]), np.array([y for _, y in read])


def errors(first: object, second: object) -> Matrix:
    """The errors of a model that learnt the first concept, over the rest of it and then the second."""
    x, y = rows_of(first, BEFORE)
    x2, y2 = rows_of(second, AFTER)
    model = DecisionTreeClassifier(max_depth=6, random_state=0).fit(x[:LEARNT], y[:LEARNT])
    return np.concatenate([model.predict(x[LEARNT:]) != y[LEARNT:], model.predict(x2) != y2]).astype(float)


def streams(tries: int) -> None:
    place = BEFORE - LEARNT
    for name, (first, second) in CONCEPTS.items():
        found, false, moved, delays = 0, 0, 0, []
        for k in range(tries):
            seed = SEED + 100 + k
            wrong = errors(first(seed), second(seed + 500))
            if wrong[place:].mean() - wrong[:place].mean() < 0.05:
                continue  # nothing to find: the concepts happen to agree
            moved += 1
            alarms = [c.place for c in changes(wrong)]
            false += any(a < place for a in alarms)
            after = [a - place for a in alarms if a >= place]
            found += bool(after)
            delays += after[:1]
        middle = f"{np.median(delays):,.0f}" if delays else "-"
        print(
            f"  {name:<16} errors moved in {moved} of {tries}; found in {found}, after {middle} rows (median); "
            f"false alarms in {false}"
        )
        verdict(f"{name} found", found / max(moved, 1), 0.95, 1.0, unit="of streams", more_is_better=True)
    false = 0
    for k in range(40):
        first, _ = CONCEPTS[list(CONCEPTS)[k % len(CONCEPTS)]]
        wrong = (
            errors(first(SEED + 900 + k), first(SEED + 1_900 + k))
            if "Hyper" not in list(CONCEPTS)[k % 4]
            else flat(k)
        )
        false += bool(changes(wrong))
    verdict("false alarms in 40 streams without a change", false, 1, 0, unit="streams")


def flat(k: int) -> Matrix:
    """One Hyperplane throughout: another seed would be another concept."""
    x, y = rows_of(synth.Hyperplane(n_features=5, seed=SEED + 900 + k, noise_percentage=0.05), BEFORE + AFTER)
    model = DecisionTreeClassifier(max_depth=6, random_state=0).fit(x[:LEARNT], y[:LEARNT])
    return (model.predict(x[LEARNT:]) != y[LEARNT:]).astype(float)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fast", action="store_true", help="a fifth of the windows and streams")
    share = 5 if parser.parse_args().fast else 1
    print(machine("numpy", "scipy", "river", "datasketches"))
    print("False alarms")
    false_alarms(100 // share)
    print("Detections")
    detections(40 // share)
    print("Streams of errors")
    streams(40 // share)


if __name__ == "__main__":
    main()
