"""What the README and the tutorial show is run as it stands there, on real flights."""

from __future__ import annotations

import importlib.util
import io
import re
import shutil
import subprocess
import sys
import tomllib
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from featurestore.channels import channels_of
from featurestore.errors import FunctionChanged
from featurestore.policy import policies_in

ROOT = Path(__file__).parent.parent
DEFINITIONS = ROOT / "definitions"


def blocks(page: str) -> list[str]:
    """The Python blocks of a page, in order."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared flights of two months and the repo's own definitions."""
    folder = tmp_path_factory.mktemp("docs") / "definitions"
    folder.mkdir()
    for name in ("flights.py", "fs.toml"):
        shutil.copy(DEFINITIONS / name, folder)
    command = [sys.executable, str(DEFINITIONS / "prepare.py"), "--out", str(folder / "data")]
    done = subprocess.run([*command, "--until", "2013-03-01"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(done.stderr)
    return folder


def test_the_first_screen_of_the_readme_runs(
    flights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition, reads = blocks("README.md")[:2]
    project = tmp_path / "definitions"
    project.mkdir()
    (project / "data").symlink_to(flights / "data")
    (project / "flights.py").write_text(definition, encoding="utf-8")
    (project / "fs.toml").write_text('[project]\nname = "readme"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    asked = datetime(2013, 2, 20, 12, tzinfo=UTC)
    spine = pa.table({"carrier": ["UA", "DL"], "event_timestamp": [asked, asked]})
    names: dict[str, Any] = {"spine": spine}
    exec(compile(reads, "README.md", "exec"), names)

    assert list(names["training"].columns[2:]) == [
        "count_1h",
        "count_1d",
        "dep_delay_mean_1d",
        "dep_delay_mean_7d",
        "late",
    ]
    assert names["training"]["count_1d"].gt(50).all()
    assert names["online"].to_numpy().shape == (2, 5)
    with FeatureStore(project) as store:
        store.materialize(end=asked, replace=True, reason="as of the moment asked")
        online = store.get_online_features("delay", {"carrier": ["UA", "DL"]}, at=asked).to_pandas()
    assert np.array_equal(online.to_numpy(), names["training"].iloc[:, 2:].to_numpy())


def test_the_tutorial_runs_block_by_block(flights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(flights)
    names: dict[str, Any] = {}
    exec(compile((flights / "flights.py").read_text(encoding="utf-8"), "flights.py", "exec"), names)
    with FeatureStore(".") as store:
        store.apply()
    for number, block in enumerate(blocks("docs/tutorial.md")):
        exec(compile(block, f"tutorial block {number}", "exec"), names)

    spine = names["spine"]
    table = names["training"].to_arrow()
    assert table.num_rows == spine.num_rows
    assert table.num_columns == spine.num_columns + 40
    assert names["ahead"].to_arrow().num_rows == spine.num_rows
    assert names["online"].to_numpy().shape == (2, 38)
    names["store"].close()


def test_the_on_demand_page_runs(tmp_path: Path) -> None:
    block, functions = blocks("docs/on-demand.md")
    (tmp_path / "data").mkdir()
    (tmp_path / "fs.toml").write_text('[project]\nname = "cards"\n', encoding="utf-8")
    (tmp_path / "cards.py").write_text(block, encoding="utf-8")
    noon = datetime(2024, 3, 1, 12, tzinfo=UTC)
    rows = {"card_id": [7, 7], "at": [noon.replace(hour=10), noon.replace(hour=11)], "amount": [10.0, 30.0]}
    pq.write_table(pa.table(rows), tmp_path / "data" / "purchases.parquet")
    with FeatureStore(tmp_path) as store:
        store.apply()
        store.materialize(end=noon)
        read = store.get_online_features(
            "fraud", {"card_id": [7, 8]}, request={"price": [50.0, 9.0]}, at=noon
        )
        assert read.to_dict() == {
            "amount_mean_7d": [20.0, None],
            "price_vs_week": [2.5, 1.0],
            "idle_seconds": [3600.0, None],
        }
    (tmp_path / "cards.py").write_text(functions, encoding="utf-8")
    with FeatureStore(tmp_path) as store:
        store.apply()
        store.materialize(end=noon)
        keys, request = {"card_id": [7, 8]}, {"price": [50.25, None]}
        priced = store.get_online_features("pricing", keys, request=request, at=noon).to_dict()
    assert priced == {"surprise": [np.arcsinh(30.25) * 1.19, 0.0], "rounding": [25.0, -1.0]}
    (tmp_path / "cards.py").write_text(functions.replace("RATE = 0.19", "RATE = 0.2"), encoding="utf-8")
    with FeatureStore(tmp_path) as store, pytest.raises(FunctionChanged) as refused:
        store.get_online_features("pricing", keys, request=request, at=noon)
    page = (ROOT / "docs/on-demand.md").read_text(encoding="utf-8")
    for line in str(refused.value).splitlines():
        assert line.rpartition("cards.py:26: ")[2].strip() in page


def test_the_page_on_materialization_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "fs.toml").write_text('[project]\nname = "cards"\n', encoding="utf-8")
    (tmp_path / "cards.py").write_text(
        "import featurestore as fs\n"
        "card = fs.Entity('card', key='card_id')\n"
        "purchases = fs.BatchSource('purchases', fs.Parquet('data/*.parquet'), 'at')\n"
        "spend = fs.FeatureView('spend', card, purchases, [fs.sum('amount').over(fs.days(1))])\n",
        encoding="utf-8",
    )

    def put(name: str, *hours: int) -> None:
        at = [datetime(2024, 3, 1, hour, tzinfo=UTC) for hour in hours]
        rows = {"card_id": [7 + i for i in range(len(at))], "at": at, "amount": [10.0] * len(at)}
        pq.write_table(pa.table(rows), tmp_path / "data" / f"{name}.parquet")

    put("first", 8, 11)
    with FeatureStore(tmp_path) as store:
        store.apply()
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"late_file": lambda: put("second", 9, 10)}
    said: list[str] = []
    names["print"] = lambda *values: said.append(" ".join(map(str, values)))
    page = blocks("docs/materialize.md")
    for block in page:
        exec(compile(block, "materialize.md", "exec"), names)
    names["store"].close()
    wanted = [line.partition(")  # ")[2] for block in page for line in block.splitlines() if "print(" in line]
    assert len(said) == len(wanted)
    for got, want in zip(said, wanted, strict=True):
        assert got.startswith(want.removesuffix("…"))


def test_the_page_on_streams_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = blocks("docs/stream.md")
    (tmp_path / "definitions.py").write_text(page[0])
    (tmp_path / "fs.toml").write_text("[offline]\nthreads = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "nowhere:9092")
    names: dict[str, Any] = {}
    for block in page[1:]:
        said = io.StringIO()
        with redirect_stdout(said):
            exec(compile(block, "stream.md", "exec"), names)
        assert said.getvalue().splitlines() == promised(block)
    names["store"].close()


def promised(block: str) -> list[str]:
    """What a block says that it prints: after a print, or in comments below it."""
    lines = []
    for line in block.splitlines():
        if line.startswith("# "):
            lines.append(line.removeprefix("# "))
        elif line.lstrip().startswith("print(") and "  # " in line:
            lines.append(line.split("  # ", 1)[1])
    return lines


def cards(path: Path, definitions: str) -> None:
    """The project of cards that pages on reading are about, materialized."""
    (path / "data").mkdir()
    (path / "fs.toml").write_text('[project]\nname = "cards"\n', encoding="utf-8")
    (path / "cards.py").write_text(definitions, encoding="utf-8")
    noon = datetime(2024, 3, 1, 12, tzinfo=UTC)
    rows = {
        "card_id": [7, 8],
        "at": [noon.replace(hour=10), noon.replace(hour=11)],
        "amount": [10.0, 30.0],
        "limit": [100.0, 200.0],
        "balance": [1.0, 2.0],
    }
    pq.write_table(pa.table(rows), path / "data" / "purchases.parquet")
    with FeatureStore(path) as store:
        store.apply()
        store.materialize(end=noon)


def test_the_page_on_capture_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    definitions, *reads = blocks("docs/capture.md")
    cards(tmp_path, definitions)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, block in enumerate(reads):
        exec(compile(block, f"capture block {number}", "exec"), names)
    kept = names["rows"].table
    assert kept["row_id"].to_pylist() == names["read"].row_ids
    assert kept["feature:limit"].to_pylist() == [100.0, 200.0]
    assert sum(rows.table.num_rows for rows in names["later"]) == 0
    names["store"].close()


def test_the_page_on_reading_online_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    definitions, *reads = blocks("docs/serving.md")
    cards(tmp_path, definitions)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, block in enumerate(reads):
        if "import torch" not in block or importlib.util.find_spec("torch") is not None:
            exec(compile(block, f"serving block {number}", "exec"), names)
    assert names["out"][:, :2].tolist() == [[200.0, 2.0], [pytest.approx(np.nan, nan_ok=True)] * 2]
    assert names["shared"][0].tolist()[:2] == [200.0, 2.0]
    assert names["table"].column_names == ["limit", "balance", "count_1h", "amount_mean_7d"]
    assert [a.to_dict()["balance"] for a in names["answers"]] == [[1.0], [2.0], [None]]
    names["store"].close()


def test_the_page_on_statistics_runs_block_by_block(
    flights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition, *rest = blocks("docs/statistics.md")
    project = tmp_path / "definitions"
    project.mkdir()
    (project / "data").symlink_to(flights / "data")
    shutil.copy(flights / "fs.toml", project)
    own = (flights / "flights.py").read_text(encoding="utf-8")
    (project / "flights.py").write_text(f"{own}\n\n{definition}", encoding="utf-8")
    monkeypatch.chdir(project)
    names: dict[str, Any] = {}
    for number, block in enumerate(rest):
        exec(compile(block, f"statistics block {number}", "exec"), names)
    assert len(names["refit"].moves) == 6


def test_the_page_on_erasure_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fs.toml").write_text('[project]\nname = "cards"\n', encoding="utf-8")
    (tmp_path / "cards.py").write_text(
        "import featurestore as fs\n"
        "card = fs.Entity('card', key='card_id')\n"
        "purchases = fs.BatchSource('purchases', fs.Parquet('purchases.parquet'), 'at')\n"
        "spend = fs.FeatureView('spend', card, purchases, [fs.sum('amount').over(fs.days(1))])\n"
        "spending = fs.FeatureService('spending', [spend])\n",
        encoding="utf-8",
    )
    at = [datetime(2024, 3, 1, hour, tzinfo=UTC) for hour in (8, 9, 11)]
    rows = {"card_id": [7, 8, 7], "at": at, "amount": [5.0, 10.0, 20.0]}
    pq.write_table(pa.table(rows), tmp_path / "purchases.parquet")
    with FeatureStore(tmp_path) as store:
        store.apply()
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    names: dict[str, Any] = {"print": lambda *values: said.append(" ".join(map(str, values)))}
    page = blocks("docs/erasure.md")
    for block in page:
        exec(compile(block, "erasure.md", "exec"), names)
    names["store"].close()
    wanted = [line.partition(")  # ")[2] for block in page for line in block.splitlines() if "print(" in line]
    assert len(said) == len(wanted)
    for got, want in zip(said, wanted, strict=True):
        assert got.startswith(want.removesuffix("…"))


def test_the_page_on_labels_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    definitions, *rest = blocks("docs/labels.md")
    (tmp_path / "fs.toml").write_text('[project]\nname = "clicks"\n', encoding="utf-8")
    (tmp_path / "clicks.py").write_text(definitions, encoding="utf-8")
    at = [datetime(2024, 3, 1, *clock, tzinfo=UTC) for clock in ((11, 50), (12, 20), (14, 0))]
    rows = {"visitor_id": [1, 1, 2], "clicked_at": at, "price": [1.0, 2.0, 4.0]}
    pq.write_table(pa.table(rows), tmp_path / "clicks.parquet")
    with FeatureStore(tmp_path) as store:
        store.apply()
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in rest:
        said = io.StringIO()
        with redirect_stdout(said):
            exec(compile(block, "labels.md", "exec"), names)
        assert said.getvalue().splitlines() == promised(block)
    names["store"].close()


def test_the_page_on_monitoring_runs() -> None:
    names: dict[str, Any] = {}
    for block in blocks("docs/monitoring.md"):
        said = io.StringIO()
        with redirect_stdout(said):
            exec(compile(block, "monitoring.md", "exec"), names)
        assert said.getvalue().splitlines() == promised(block)


def test_the_monitors_that_the_page_shows_are_right() -> None:
    page = (ROOT / "docs/monitoring.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```\n(from featurestore import Alert.*?)```", page, flags=re.DOTALL)
    names: dict[str, Any] = {"purchases": "purchases", "fraud": "fraud"}
    exec(compile(block, "monitoring.md", "exec"), names)
    found = policies_in(names.values())
    assert [m.name for m in found.monitors] == ["inputs", "promises"]
    assert [t.of for t in found.triggers] == ["fraud"]
    toml = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)[0]
    channels, wrong = channels_of(tomllib.loads(toml)["alerts"]["channels"])
    assert (set(channels), wrong) == ({"log", "oncall", "team"}, [])


def test_every_link_between_pages_leads_somewhere() -> None:
    pages = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *ROOT.glob("docs/**/*.md"),
        DEFINITIONS / "README.md",
    ]
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ]
    assert broken == []
