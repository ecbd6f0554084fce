"""The whole line on real flights: definitions, a training set, a model, online reads that equal its rows, and the loop closed.

    python definitions/demo.py [--fast] [--home DIR]

Exit status: 0 when every value read online equals its training row, 1 when one differs, 2 when it could not
be run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loop import replayed
from prepare import PreparationError, prepare

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from rich.console import Console

HERE = Path(__file__).parent
SERVICE = "delay"
SCHEDULE = ("carrier", "origin", "dest", "distance", "scheduled_hour", "weekday")  # known without any feature
KEYS = ("carrier", "origin", "dest", "tailnum")

# Deviations, and sums of fractions, depend on the order of additions: within 1e-9. All else to the last bit.
CLOSE = ("stddev", "precip_sum")
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Story:
    """Which flights train, and which later ones test. `until` leaves out the events from that day on."""

    start: datetime
    split: datetime
    end: datetime
    until: date | None = None
    days: int = 7
    """Of the loop."""


YEAR = Story(
    datetime(2013, 2, 1, tzinfo=UTC), datetime(2013, 10, 1, tzinfo=UTC), datetime(2014, 1, 2, tzinfo=UTC)
)
MONTH = Story(
    datetime(2013, 2, 1, tzinfo=UTC),
    datetime(2013, 2, 22, tzinfo=UTC),
    datetime(2013, 3, 1, tzinfo=UTC),
    until=date(2013, 3, 1),
    days=2,
)


@dataclass
class Narrator:
    """Says what is being done while it is done, and how long it took."""

    console: Console
    step: int = 0
    started: float = field(default_factory=time.perf_counter)

    @contextmanager
    def doing(self, what: str) -> Iterator[list[str]]:
        """A spinner while the block runs, then the time it took and the lines that it appended."""
        self.step += 1
        result: list[str] = []
        started = time.perf_counter()
        with self.console.status(f"{what} …"):
            yield result
        took = time.perf_counter() - started
        self.console.print(f"[bold]{self.step}. {what}[/]  [dim]{took:.1f} s[/]", highlight=False)
        for line in result:
            self.console.print(f"   {line}", highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--fast", action="store_true", help="two months of flights, in a folder of its own")
    parser.add_argument("--home", type=Path, help="run in a copy of the definitions in this folder")
    options = parser.parse_args(arguments)

    from rich.console import Console

    from featurestore.errors import FeatureStoreError

    console = Console()
    try:
        with _home(options.home, temporary=options.fast) as home:
            return run(home, MONTH if options.fast else YEAR, Narrator(console))
    except (PreparationError, FeatureStoreError) as error:
        console.print(f"[bold red]error:[/] {type(error).__name__}")
        console.print(str(error), markup=False, highlight=False)
    except ModuleNotFoundError as error:
        if error.name != "sklearn":
            raise
        console.print(
            "[bold red]error:[/] the demo needs scikit-learn\n  install it:  pip install scikit-learn"
        )
    return 2


@contextmanager
def _home(chosen: Path | None, *, temporary: bool) -> Iterator[Path]:
    """The folder to run in: this one, or one with a copy of the definitions."""
    if chosen is None and not temporary:
        yield HERE
        return
    with tempfile.TemporaryDirectory(prefix="flights-") as scratch:
        home = chosen or Path(scratch)
        home.mkdir(parents=True, exist_ok=True)
        for name in ("fs.toml", "flights.py"):
            shutil.copyfile(HERE / name, home / name)
        yield home


def run(home: Path, story: Story, narrator: Narrator) -> int:
    """Runs the whole line in `home`, and returns the exit status."""
    with narrator.doing("Flights, turned into events") as result:
        report = prepare(home / "data", story.until)
        rows = report["rows"]
        result.append(
            ", ".join(f"{rows[name]:,} {name}" for name in ("departures", "cancellations", "arrivals"))
        )

    from featurestore import FeatureStore

    store = FeatureStore(home)
    with narrator.doing("Definitions, planned and applied") as result:
        plan = store.plan()
        store.apply()
        result.extend(str(plan).splitlines())

    spine, unlabelled = _spine(home, story)
    with narrator.doing("A training set, each row as of its scheduled departure") as result:
        training = store.get_historical_features(spine, SERVICE, timestamp="scheduled_at").to_arrow()
        features = [name for name in training.column_names if name not in spine.column_names]
        result.append(f"{training.num_rows:,} rows x {len(features)} features")
        result.append(f"{unlabelled:,} cancelled or diverted flights have no label and are left out")

    with narrator.doing("A model, trained on the past and scored on what came after") as result:
        scores, tenths = _score(training, features, story)
        result.append(f"trained before {story.split:%d %B}, tested from then on")
    _print_scores(narrator.console, scores, tenths)

    moment, flights = _busy_moment(training, story)
    with narrator.doing(f"The online store, as it stands at {moment:%Y-%m-%d %H:%M} UTC") as result:
        store.materialize(end=moment)
        result.append("materialised up to that moment")
    with narrator.doing("An online read for the flights leaving at that moment") as result:
        keys = {key: flights[key].to_pylist() for key in KEYS}
        began = time.perf_counter()
        online = store.get_online_features(SERVICE, keys, at=moment)
        took = time.perf_counter() - began
        tensor = online.to_numpy()
        result.append(f"{tensor.shape[0]} flights, {tensor.shape[1]} numbers each, in {took * 1000:.1f} ms")

    served = online.to_arrow()
    verdicts = [_compare(name, flights[name], served) for name in features]
    wrong = [verdict.name for verdict in verdicts if verdict.outcome == DIFFERENT]
    if not _tensor_is_what_was_served(tensor, served, features):
        wrong.append("the tensor")
    _print_verdicts(narrator.console, verdicts, flights, served)
    doing = f"{story.days} days as they happen: pushed, served, kept, labelled on arrival, learnt from every night"
    with narrator.doing(doing) as result:
        week = replayed(home / "data", story.days)
        result.extend(week.lines())
    wrong += [f"{name} (in the loop)" for name in week.wrong]
    return _conclude(narrator, verdicts, wrong, flights, home)


def _spine(home: Path, story: Story) -> tuple[pa.Table, int]:
    """The labelled flights of the story, and how many had no label."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    flights = pq.read_table(home / "data" / "spine.parquet")
    inside = pc.and_(
        pc.greater_equal(flights["scheduled_at"], _instant(story.start, flights)),
        pc.less(flights["scheduled_at"], _instant(story.end, flights)),
    )
    flights = flights.filter(inside)
    return flights.filter(pc.is_valid(flights["late"])), flights["late"].null_count


def _instant(moment: datetime, table: pa.Table) -> pa.Scalar:
    import pyarrow as pa

    return pa.scalar(moment, table.schema.field("scheduled_at").type)


def _busy_moment(training: pa.Table, story: Story) -> tuple[datetime, pa.Table]:
    """The scheduled departure after 2 pm in New York that most tested flights share, and these flights."""
    import pyarrow.compute as pc

    after = training.filter(
        pc.and_(
            pc.greater_equal(training["scheduled_at"], _instant(story.split, training)),
            pc.greater_equal(training["scheduled_hour"], 14),
        )
    )
    counted = after.group_by("scheduled_at").aggregate([([], "count_all")])
    busiest = counted.sort_by([("count_all", "descending"), ("scheduled_at", "ascending")])["scheduled_at"][0]
    moment: datetime = busiest.as_py()
    return moment, training.filter(pc.equal(training["scheduled_at"], busiest)).combine_chunks()


# ------------------------------------------------------------------------------------------------ the model


@dataclass(frozen=True)
class Score:
    """How good probabilities were on flights that came later. AUC: higher is better; the other two: lower."""

    name: str
    auc: float
    log_loss: float
    brier: float


def _score(
    training: pa.Table, features: Sequence[str], story: Story
) -> tuple[list[Score], tuple[float, float]]:
    """Scores by base rate, schedule, and all; and the share late in the safest and in the riskiest tenth."""
    import numpy as np
    import pyarrow.compute as pc

    # Where cores are shared, threads that spin while they wait cost more than they bring. Read on import.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

    past = pc.less(training["scheduled_at"], _instant(story.split, training)).to_numpy()
    late = training["late"].to_numpy()

    def scored(name: str, chances: NDArray[np.float64]) -> Score:
        truth = late[~past]
        return Score(
            name, roc_auc_score(truth, chances), log_loss(truth, chances), brier_score_loss(truth, chances)
        )

    always = np.full(int((~past).sum()), late[past].mean())
    schedule = _chances(training, SCHEDULE, past, late)
    everything = _chances(training, (*SCHEDULE, *features), past, late)
    ranked = late[~past][np.argsort(everything, kind="stable")]
    tenth = len(ranked) // 10
    scores = [
        scored(f"always {always[0]:.0%}", always),
        scored("the schedule alone", schedule),
        scored("the schedule and the features", everything),
    ]
    return scores, (float(ranked[:tenth].mean()), float(ranked[-tenth:].mean()))


def _chances(
    training: pa.Table, columns: Sequence[str], past: NDArray[np.bool_], late: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """The chance of being late of each later flight, by a model that saw the earlier ones only."""
    import numpy as np
    import pyarrow as pa
    from sklearn.ensemble import HistGradientBoostingClassifier

    texts = [pa.types.is_string(training.schema.field(name).type) for name in columns]
    inputs = np.column_stack([_numbers(training[name], past) for name in columns])
    model = HistGradientBoostingClassifier(
        max_iter=150, learning_rate=0.08, categorical_features=texts, random_state=2013
    )
    model.fit(inputs[past], late[past])
    chances: NDArray[np.float64] = model.predict_proba(inputs[~past])[:, 1]
    return chances


def _numbers(column: pa.ChunkedArray, past: NDArray[np.bool_]) -> NDArray[np.float64]:
    """A column as doubles, NaN for NULL. A text becomes its number among the 250 commonest of the past."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string(column.type):
        counted = column.filter(pa.array(past)).drop_null().value_counts()
        common = pc.sort_indices(counted.field("counts"), [("", "descending")])[:250]
        column = pc.index_in(column, value_set=counted.field("values").take(common))
    numbers: NDArray[np.float64] = column.cast(pa.float64()).to_numpy()
    return numbers


def _print_scores(console: Console, scores: Sequence[Score], tenths: tuple[float, float]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table("what the model sees", title="more than 15 minutes late on arrival", box=SIMPLE_HEAD)
    for measure in ("AUC", "log loss", "Brier"):
        table.add_column(measure, justify="right")
    for score in scores:
        table.add_row(score.name, f"{score.auc:.3f}", f"{score.log_loss:.3f}", f"{score.brier:.3f}")
    console.print(table)
    console.print(
        f"   Of the tenth it thought safest {tenths[0]:.0%} were late, of the riskiest {tenths[1]:.0%}.",
        highlight=False,
    )


# ----------------------------------------------------------------------------------------------- the parity

IDENTICAL, NEAR, DIFFERENT = "identical", "within 1e-9", "DIFFERENT"


@dataclass(frozen=True)
class Verdict:
    """One feature, trained against served: the outcome, and the first row that differs."""

    name: str
    outcome: str
    row: int | None = None


def _compare(name: str, trained: pa.ChunkedArray, served: pa.Table) -> Verdict:
    """Types, NULLs and values; floats by their bits, those in `CLOSE` within `TOLERANCE` of their size."""
    import numpy as np
    import pyarrow as pa

    if (
        name not in served.column_names
        or served[name].type != trained.type
        or len(served[name]) != len(trained)
    ):
        return Verdict(name, DIFFERENT)
    ours, theirs = trained.combine_chunks(), served[name].combine_chunks()
    pairs = list(zip(_bits(ours), _bits(theirs), strict=True))
    unequal = [row for row, (a, b) in enumerate(pairs) if a != b]
    if not unequal:
        return Verdict(name, IDENTICAL)
    if (
        pa.types.is_floating(trained.type)
        and any(mark in name for mark in CLOSE)
        and ours.is_valid() == theirs.is_valid()
    ):
        a, b = (np.asarray(x.drop_null(), dtype=np.float64) for x in (ours, theirs))
        if np.all(np.abs(a - b) <= TOLERANCE * np.maximum(np.abs(a), np.abs(b))):
            return Verdict(name, NEAR)
    return Verdict(name, DIFFERENT, unequal[0])


def _bits(values: pa.Array) -> list[Any]:
    """Values that are equal only when the bits are: -0.0 is not 0.0. None for NULL."""
    import pyarrow as pa

    if pa.types.is_float64(values.type):
        values = values.view(pa.int64())
    elif pa.types.is_float32(values.type):
        values = values.view(pa.int32())
    return list(values.to_pylist())


def _tensor_is_what_was_served(tensor: NDArray[Any], served: pa.Table, features: Sequence[str]) -> bool:
    """Whether the tensor holds the numeric values in service order as float32, with NaN for NULL."""
    import numpy as np
    import pyarrow as pa

    numeric = [name for name in features if not pa.types.is_string(served.schema.field(name).type)]
    columns = [served[name].cast(pa.float64()).to_numpy().astype(np.float32) for name in numeric]
    return tensor.dtype == np.float32 and np.array_equal(tensor, np.column_stack(columns), equal_nan=True)


def _print_verdicts(
    console: Console, verdicts: Sequence[Verdict], flights: pa.Table, served: pa.Table
) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    example = f"{flights['carrier'][0]} {flights['flight'][0]} {flights['origin'][0]}-{flights['dest'][0]}"
    title = f"{flights.num_rows} flights, in training and online; the values are those of {example}"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("feature", no_wrap=True)
    table.add_column("training", justify="right")
    table.add_column("online", justify="right")
    table.add_column("NULL", justify="right")
    table.add_column("all flights", no_wrap=True)
    for verdict in verdicts:
        row = verdict.row or 0
        online = _text(served[verdict.name][row]) if verdict.name in served.column_names else "absent"
        table.add_row(
            verdict.name,
            _text(flights[verdict.name][row]),
            online,
            str(flights[verdict.name].null_count or ""),
            verdict.outcome,
            style="bold red" if verdict.outcome == DIFFERENT else None,
        )
    console.print(table)


def _text(value: pa.Scalar) -> str:
    plain = value.as_py()
    if plain is None:
        return "–"
    return f"{plain:.4g}" if isinstance(plain, float) else str(plain)


def _conclude(
    narrator: Narrator, verdicts: Sequence[Verdict], wrong: Sequence[str], flights: pa.Table, home: Path
) -> int:
    console = narrator.console
    took = time.perf_counter() - narrator.started
    if wrong:
        console.print(f"[bold red]NOT EQUAL:[/] {', '.join(wrong)} differ between training and serving.")
        console.print(
            "If something newer than this moment was materialised here before, remove "
            f"{os.path.relpath(home / '.fs')} and run again.",
            highlight=False,
        )
        return 1
    near = sum(verdict.outcome == NEAR for verdict in verdicts)
    bits = len(verdicts) - near
    rest = f", and {near} within 1e-9 (sums of fractions)" if near else ""
    console.print(
        f"[bold green]EQUAL:[/] {bits} of {len(verdicts)} features are the same in training and serving, bit "
        f"for bit{rest}, for all {flights.num_rows} flights. {took:.0f} s in all.",
        highlight=False,
    )
    first = {key: flights[key][0].as_py() for key in KEYS}
    if home == HERE:
        console.print(
            "\nNext, in the folder definitions/:\n"
            "  fs list features\n"
            "  fs show carrier_delays\n"
            f"  fs get {SERVICE} {' '.join(f'{key}={value}' for key, value in first.items())}\n"
            "Then change a window in flights.py and see what `fs plan` says. docs/tutorial.md goes on.",
            highlight=False,
            markup=False,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
