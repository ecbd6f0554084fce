"""What is kept of statistics, the card of a training set, and the commands `fs stats` and `fs scaler`."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from featurestore.cli import main
from featurestore.datasets.card import card
from featurestore.errors import DatasetError, NotFound, StatisticsError
from featurestore.statistics import Summary
from featurestore.time import DAY
from tests.test_scalers import NOON, project, spine


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An applied project with a written training set `set`, rows to ask about in `spine.parquet`, and values online."""
    folder = project(tmp_path_factory.mktemp("cards"))
    rows = spine(0, 3000, 400)
    late = pc.if_else(pc.greater(rows["asked"], 8), True, False)
    rows = rows.append_column(
        "late", pc.if_else(pc.less(rows["asked"], 2), pa.scalar(None, pa.bool_()), late)
    )
    pq.write_table(rows, folder / "spine.parquet")
    pq.write_table(
        spine(3100, 3900, 80, 9).append_column("late", pa.array([True] * 80)), folder / "later.parquet"
    )
    with FeatureStore(folder) as store:
        store.apply()
        store.materialize(end=NOON + timedelta(minutes=3500))
        store.get_historical_features(rows, "fraud").to_parquet(folder / "set")
    return folder


@pytest.fixture
def fs(place: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str, status: int = 0) -> str:
        capsys.readouterr()
        assert main(["-C", str(place), *arguments]) == status, capsys.readouterr().err
        said = capsys.readouterr()
        return said.out if status == 0 else said.err

    return run


# ---------------------------------------------------------------------------------------------------------------- keeping


def test_statistics_of_a_training_set_are_kept_and_merged(place: Path) -> None:
    with FeatureStore(place) as store:
        training = store.get_historical_features(str(place / "spine.parquet"), "fraud")
        made = training.statistics()
        table = training.to_arrow()
        assert made.total()["n"].count == 400
        assert made.total()["avg"].nulls == table["avg"].null_count
        assert made.total()["shop"].most_frequent(1)[0][0] in ("s0", "s1", "s2")
        days = {m.value // DAY * DAY for m in table["event_timestamp"]}
        assert made.starts == sorted(days)
        store.keep_statistics("fraud", made)
        assert store.statistics("fraud").to_bytes() == made.to_bytes()
        store.keep_statistics("fraud", made, add=True)
        assert store.statistics("fraud", origin="training").total().rows == 800
        with pytest.raises(StatisticsError, match=r"of origin 'stream'.*\n.*there is training"):
            store.statistics("fraud", origin="stream")
        with pytest.raises(StatisticsError, match=r"no statistics.*\n.*fs stats nobody"):
            store.statistics("nobody")
        with pytest.raises(StatisticsError, match="not of 'elsewhere'"):
            store.keep_statistics("fraud", made, origin="elsewhere")


def test_bytes_that_were_cut_are_said_with_their_file(place: Path) -> None:
    with FeatureStore(place) as store:
        made = store.get_historical_features(spine(), ["spend:n"]).statistics()
        path = store.keep_statistics("cut", made)
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(StatisticsError, match=r"cut\.training\.fsstats"):
            store.statistics("cut")


def test_statistics_of_what_is_materialized(place: Path) -> None:
    at = NOON + timedelta(minutes=3500)
    with FeatureStore(place) as store:
        made = store.materialized_statistics("spend", at=at)
        known = store.spine("card", at=at)
        rows = store.get_historical_features(known, ["spend"]).to_arrow()
        assert made.total().rows == known.num_rows
        want = Summary(made.columns)
        want.update(rows)
        for one, two in zip(want, made.total(), strict=True):
            assert (one.count, one.minimum, one.maximum) == (two.count, two.minimum, two.maximum)
            assert one.average == pytest.approx(two.average)
        with pytest.raises(NotFound, match="spend"):
            store.materialized_statistics("spent")


# -------------------------------------------------------------------------------------------------------------------- card


def test_the_card_says_what_is_in_a_set_and_where_it_comes_from(place: Path) -> None:
    found = card(place / "set", label="late", by="shop")
    table = pq.read_table(place / "set")
    assert (found.rows, found.features) == (400, ("n", "avg", "price", "big", "shop", "raw", "ratio"))
    assert dict(found.classes) == {
        {True: "true", False: "false", None: "NULL"}[c["values"].as_py()]: c["counts"].as_py()
        for c in pc.value_counts(table["late"])
    }
    assert dict(found.missing)["avg"] == table["avg"].null_count / 400
    ends = pc.min_max(table["event_timestamp"].cast(pa.int64())).as_py()
    assert found.span == (ends["min"], ends["max"])
    assert sum(s.rows for s in found.slices) == 400
    one = next(s for s in found.slices if s.value == "s1")
    mine = table.filter(pc.equal(table["shop"], "s1"))
    assert one.label == pytest.approx(pc.mean(mine["late"].cast(pa.int64())).as_py())
    assert len(one.apart) == 3
    assert found.problems == ()
    said = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert said["provenance"]["service"]["version"] == "fraud@1"
    assert said["provenance"]["inputs"][0]["files"]


def test_a_set_that_is_none_and_columns_it_has_not(place: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no training set"):
        card(tmp_path)
    with pytest.raises(DatasetError, match="did you mean 'late'"):
        card(place / "set", label="lat")
    with FeatureStore(place) as store:
        store.get_historical_features(spine().slice(0, 0), "fraud").to_parquet(tmp_path / "empty")
    empty = card(tmp_path / "empty", label="asked", by="shop")
    assert (empty.rows, empty.span, empty.slices, empty.classes) == (0, None, (), [])
    assert empty.statistics["n"].verdicts == ("no rows: nothing can be judged",)


# --------------------------------------------------------------------------------------------------------------- commands


def test_fs_stats_makes_keeps_and_shows(fs: Any, place: Path) -> None:
    said = fs("stats", "fraud", "--spine", str(place / "spine.parquet"))
    assert "characters" in said
    assert "ratio" in said
    whole = json.loads(fs("stats", "fraud", "--json"))
    assert whole["rows"] == 400
    first = json.loads(fs("stats", "fraud", "--json", "--end", "2024-03-05"))
    rest = json.loads(fs("stats", "fraud", "--json", "--start", "2024-03-05"))
    assert first["rows"] + rest["rows"] == 400
    assert 0 < first["rows"] < 400
    one = fs("stats", "fraud", "--feature", "avg")
    assert "█" in one
    assert "by partition" in one
    detail = json.loads(fs("stats", "fraud", "--feature", "n", "--json"))
    assert sum(p["rows"] for p in detail["partitions"]) == 400
    assert (
        json.loads(fs("stats", "fraud", "--spine", str(place / "later.parquet"), "--add", "--json"))["rows"]
        == 480
    )
    at = "2024-03-06T22:20:00Z"
    read = json.loads(fs("stats", "spend", "--materialized", "--at", at, "--json"))
    assert read["features"][0]["rows"] == 12
    assert "did you mean 'avg'" in fs("stats", "fraud", "--feature", "agv", status=1)
    assert "fs stats spent --spine FILE" in fs("stats", "spent", status=1)
    assert "are of the folder" in fs("stats", "fraud", "--label", "late", status=2)


def test_fs_stats_shows_the_card_of_a_folder(fs: Any, place: Path) -> None:
    said = fs("stats", str(place / "set"), "--label", "late", "--by", "shop")
    for part in ("400", "fraud@1", "label late", "by shop", "digest"):
        assert part in said
    assert json.loads(fs("stats", str(place / "set"), "--json"))["rows"] == 400
    assert "█" in fs("stats", str(place / "set"), "--feature", "raw")


def test_fs_scaler_from_fit_to_pin(fs: Any, place: Path) -> None:
    assert "none yet" in fs("scaler", "show", "fraud")
    assert "name the rows" in fs("scaler", "fit", "fraud", status=2)
    fit = json.loads(fs("scaler", "fit", "fraud", "--dataset", str(place / "set"), "--json"))
    assert (fit["version"], fit["rows"]) == (1, 400)
    assert "fraud@1 is scaled by scaler 1" in fs("scaler", "pin", "fraud@1", "1")
    refit = json.loads(fs("scaler", "refit", "fraud", "--spine", str(place / "later.parquet"), "--json"))
    assert (refit["version"], refit["basis"], refit["new_rows"], refit["rows"]) == (2, 1, 80, 480)
    again = fs("scaler", "refit", "fraud", "--spine", str(place / "spine.parquet"), "--basis", "1")
    assert "400 rows were known" in again
    shown = fs("scaler", "show", "fraud")
    assert "fraud@1" in shown
    assert "standard" in shown
    assert " AS DOUBLE)" in fs("scaler", "show", "fraud", "--sql")
    vector = json.loads(
        fs("get", "fraud", "card_id=1", "asked=3", "--at", "2024-03-06T22:20:00Z", "--scaled", "--json")
    )
    raw = json.loads(fs("get", "fraud", "card_id=1", "asked=3", "--at", "2024-03-06T22:20:00Z", "--json"))
    mean, spread = (fit["features"][0][2][i] for i in (0, 1))
    plain, scaled = (v["rows"][0]["features"]["n"]["value"] for v in (raw, vector))
    assert scaled == (plain - mean) / spread
    fs(
        "dataset",
        "fraud",
        "--spine",
        str(place / "spine.parquet"),
        "--out",
        str(place / "scaled"),
        "--scaled",
    )
    assert card(place / "scaled").content["scaler"]["version"] == 1
    everything = json.loads(fs("scaler", "show", "fraud", "--version", "2", "--json"))
    assert [s["pinned_to"] for s in everything["scalers"]] == [["fraud@1"], [], []]
    assert everything["shown"]["version"] == 2
    assert "no scaler 9" in fs("scaler", "pin", "fraud", "9", status=1)
