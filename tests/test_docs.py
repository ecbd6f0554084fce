"""What the README and the tutorial show is run as it stands there, on real flights."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore

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
        store.materialize(end=asked)
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
    (block,) = blocks("docs/on-demand.md")
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
