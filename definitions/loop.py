"""A week of flights as it happens: pushed, served, kept, labelled on arrival, learnt from every night.

    python definitions/loop.py [--days N] [--home DIR]

Departures and arrivals are pushed hour by hour in the order they happened. Each flight is served at the hour that begins with or
before its scheduled departure; what was served is kept. Every night a model is trained on the flights that have landed since: one
further, one from scratch. At the end every served vector is compared with the training value of its moment.

Exit status: 0 when they are equal but for the order of adding up, 1 when one differs otherwise, 2 when it could not be run.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prepare import PreparationError, prepare

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from featurestore import FeatureStore
    from featurestore.consistency import LoggedReport

HERE = Path(__file__).parent
SERVICE = "delay_live"
START = datetime(2013, 2, 11, tzinfo=UTC)  # a Monday
HOUR = timedelta(hours=1)
EVERYTHING = 1_000_000  # rows to compare: more than there are in a week
SOURCES = {"departures": "departed_at", "arrivals": "arrived_at"}
KEYS = ("carrier", "origin", "dest")
ASKED = ("scheduled_hour", "distance")


@dataclass
class Night:
    """What a night's training gave: the model, rows, and how well the model of the night before had ranked them (AUC)."""

    day: date
    model: str
    rows: int
    before: float | None


@dataclass
class Week:
    """The numbers of the loop."""

    served: int = 0
    pushed: int = 0
    captured: int = 0
    matured: int = 0
    waiting: int = 0
    censored: int = 0
    consistency: LoggedReport | None = None
    nights: list[Night] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people."""
        found = [
            f"{self.pushed:,} departures and arrivals pushed, {self.served:,} flights served, {self.captured:,} captured",
            f"{self.matured:,} labelled and trained on, {self.waiting:,} still waiting, {self.censored:,} censored",
        ]
        for n in self.nights:
            auc = "" if n.before is None else f", ranked beforehand with an AUC of {n.before:.3f}"
            found.append(f"{n.day}: model {n.model}, {n.rows:,} flights{auc}")
        return found if self.consistency is None else [*found, self.consistency.summary()]

    @property
    def wrong(self) -> list[str]:
        """The features that were served otherwise than training has them, but for the order in which floats were added up."""
        found = self.consistency
        if found is None or not found.cells:
            return ["nothing was compared"]
        return [f.feature for f in found.features if set(f.causes) - {"float_order"}]


def replay(home: Path, days: int) -> Week:
    """Runs the loop in `home`, where `data` has been prepared."""
    from featurestore import FeatureStore

    project = home / "live"
    week = Week()
    with FeatureStore(project) as store, warnings.catch_warnings():
        warnings.simplefilter("ignore", category=FutureWarning)
        store.apply()
        store.materialize(end=START)
        events = {n: _events(home, n, c, store, days) for n, c in SOURCES.items()}
        flights = _flights(home, days)
        models = {"further": Model(), "from scratch": Model()}
        for hour in range(days * 24):
            now = START + hour * HOUR
            week.pushed += _push(store, events, now - HOUR, now)
            store.run_stream(once=True)
            week.served += _serve(store, flights, now)
            if hour and hour % 24 == 0:
                _train(store, models, now, week)
        end = START + timedelta(days=days)
        week.pushed += _push(store, events, end - HOUR, end)
        store.capture.flush()
        _train(store, models, end, week)
        said = store.consumers(SERVICE)["further"]
        week.matured, week.censored = said.taken, said.censored
        week.waiting = sum(len(rows) for rows in said.waiting.values())
        week.consistency = store.verify_logged(SERVICE, sample=EVERYTHING)
        week.captured = week.consistency.rows
    return week


# ------------------------------------------------------------------------------------------------------------- what happens


def _between(table: pa.Table, column: str, start: datetime, end: datetime) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    at = table.column(column)
    low, high = (pa.scalar(m, at.type) for m in (start, end))
    return table.filter(pc.and_(pc.greater_equal(at, low), pc.less(at, high)))


def _events(home: Path, name: str, moment: str, store: FeatureStore, days: int) -> pa.Table:
    """What a source pushes in the week, in the order it happened."""
    import pyarrow.parquet as pq

    columns = [c for c, _ in next(s for s in store.definitions().sources if s.name == name).columns]
    table = pq.read_table(home / "data" / f"{name}.parquet", columns=columns)
    return _between(table, moment, START - HOUR, START + timedelta(days=days)).sort_by(moment)


def _flights(home: Path, days: int) -> pa.Table:
    import pyarrow.parquet as pq

    flights = pq.read_table(home / "data" / "spine.parquet")
    return _between(flights, "scheduled_at", START, START + timedelta(days=days))


def _push(store: FeatureStore, events: Mapping[str, pa.Table], start: datetime, end: datetime) -> int:
    """Pushes what happened in an hour, as of its end; what had happened before the week is there already."""
    count = 0
    for name, column in SOURCES.items():
        some = _between(events[name], column, max(start, START), end)
        if some.num_rows:
            store.push(name, some, at=end)
            count += some.num_rows
    return count


def _serve(store: FeatureStore, flights: pa.Table, now: datetime) -> int:
    """Asks for the flights that are scheduled in the hour from `now` on."""
    some = _between(flights, "scheduled_at", now, now + HOUR)
    if some.num_rows:
        store.get_online_features(
            SERVICE,
            {k: some[k].to_pylist() for k in KEYS},
            request={a: some[a].to_pylist() for a in ASKED},
            at=now,
            context={"flight_id": some["flight_id"].to_pylist()},
        )
    return int(some.num_rows)


# ---------------------------------------------------------------------------------------------------------------- what is learnt


class Model:
    """A linear model of numbers that may be missing, trained batch by batch; its scale is that of the first it saw."""

    def __init__(self) -> None:
        from sklearn.linear_model import SGDClassifier

        self.inner = SGDClassifier(loss="log_loss", alpha=0.1, random_state=0)
        self.mean: Any = None
        self.spread: Any = None

    def learn(self, x: NDArray[np.float32], y: NDArray[np.bool_]) -> None:
        import numpy as np

        if self.mean is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a column that is all NULL
                self.mean, self.spread = np.nan_to_num(np.nanmean(x, 0)), np.nan_to_num(np.nanstd(x, 0))
                self.spread[self.spread == 0] = 1
        self.inner.partial_fit(self._scaled(x), y, classes=[False, True])

    def rank(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self.inner.decision_function(self._scaled(x))
        return found

    def _scaled(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        import numpy as np

        return np.clip(np.nan_to_num((x.astype(np.float64) - self.mean) / self.spread), -3, 3)


def _train(store: FeatureStore, models: dict[str, Model], now: datetime, week: Week) -> None:
    """One night: the model of the night before is judged by the new flights, then trained on them; another is begun anew."""
    store.capture.flush()
    models["from scratch"] = Model()
    for name, model in models.items():
        ranks: list[Any] = []
        truth: list[Any] = []
        rows, lineage = 0, ""
        stateless = name == "from scratch"
        knew = model.mean is not None
        batches = store.training_batches(
            SERVICE, consumer=name.replace(" ", "-"), as_of=now, stateless=stateless
        )
        for batch in batches:
            import numpy as np
            import pyarrow.compute as pc

            known = pc.is_valid(
                batch.to_arrow()["late"]
            ).to_numpy()  # cancelled and diverted flights never land
            x, y = batch.to_numpy()[known], batch.label("late")[known].astype(np.bool_)
            if knew:
                ranks.append(model.rank(x))
                truth.append(y)
            if len(y):
                model.learn(x, y)
            batch.commit()
            rows, lineage = rows + len(y), str(batch.lineage)
        week.nights.append(Night(now.date(), f"{lineage} ({name})", rows, _auc(ranks, truth)))


def _auc(ranks: Sequence[Any], truth: Sequence[Any]) -> float | None:
    import numpy as np
    from sklearn.metrics import roc_auc_score

    if not ranks or len(np.unique(np.concatenate(truth))) < 2:
        return None
    return float(roc_auc_score(np.concatenate(truth), np.concatenate(ranks)))


def replayed(data: Path, days: int) -> Week:
    """The loop over prepared data, in a folder that is gone afterwards."""
    with home_of(None) as home:
        (home / "data").symlink_to(data.resolve(), target_is_directory=True)
        return replay(home, days)


@contextmanager
def home_of(chosen: Path | None) -> Iterator[Path]:
    """A folder with the live project; one that is gone afterwards unless it was chosen."""
    with tempfile.TemporaryDirectory(prefix="flights-live-") as scratch:
        home = chosen or Path(scratch)
        home.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(home / "live" / ".fs", ignore_errors=True)
        (home / "live").mkdir(exist_ok=True)
        for name in ("fs.toml", "live.py"):
            shutil.copyfile(HERE / "live" / name, home / "live" / name)
        yield home


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--days", type=int, default=7, help="of the week from 11 February 2013 on (default: %(default)s)"
    )
    parser.add_argument("--home", type=Path, help="run in this folder, and leave what is made there")
    options = parser.parse_args(arguments)

    from featurestore.errors import FeatureStoreError

    try:
        with home_of(options.home) as home:
            prepare(home / "data", (START + timedelta(days=options.days + 1)).date())
            week = replay(home, options.days)
    except (PreparationError, FeatureStoreError) as error:
        print(f"error: {type(error).__name__}\n{error}", file=sys.stderr)
        return 2
    print("\n".join(week.lines()))
    return 1 if week.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
