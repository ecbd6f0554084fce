"""The parity table's column `flink`: every case through a real job, finished by the evaluator that all engines share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from featurestore.compile.flink_job import files_wire, job_of
from featurestore.errors import Unsupported
from featurestore.online.store import open_store
from tests.flink_cluster import Flink
from tests.parity.aggregate_cases import AGGREGATE_CASES
from tests.parity.cases import CASES, Case, instant
from tests.parity.dialect_cases import DIALECT_CASES
from tests.parity.engines import world_of
from tests.parity.flink_engine import WORLDS, FlinkEngine, mode_of, why_not
from tests.parity.list_cases import LIST_CASES
from tests.parity.test_parity import check

pytestmark = [pytest.mark.flink, pytest.mark.slow]

TABLE = [case for case in (*CASES, *AGGREGATE_CASES, *DIALECT_CASES) if why_not(case) is None]
GROUPS = [
    some[i : i + WORLDS]
    for some in ([c for c in TABLE if mode_of(c) == mode] for mode in ("streaming", "batch"))
    for i in range(0, len(some), WORLDS)
]
"""Cases that share a job."""


@pytest.fixture(scope="module")
def engine(flink: Flink, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkEngine]:
    with open_store("lmdb://flink", tmp_path_factory.mktemp("parity")) as store:
        yield FlinkEngine(flink, store)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("cases", GROUPS, ids=lambda cases: f"{mode_of(cases[0])}: {cases[0].name} …")
def test_flink_agrees_with_every_engine(cases: list[Case], engine: FlinkEngine, tmp_path: Path) -> None:
    some = [world_of(case, tmp_path) for case in cases]
    engine.make(some)
    wrong = []
    for case, world in zip(cases, some, strict=True):
        (answer,) = engine.ask(world, [(case.key, instant(case.at))])
        try:
            check(world, answer)
        except AssertionError as error:
            wrong.append(f"{case.name}: {answer} instead of {case.want!r} ({error})")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("case", [c for c in CASES if c.static], ids=lambda case: case.name)
def test_what_no_job_can_say_is_refused_with_what_works(case: Case, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="static source"):
        job_of(world_of(case, tmp_path).view, files_wire("file:///events"))


@pytest.mark.parametrize("case", LIST_CASES, ids=lambda case: case.name)
def test_latest_lists_and_vectors_are_refused(case: Case, tmp_path: Path) -> None:
    with pytest.raises(Unsupported):
        job_of(world_of(case, tmp_path).view, files_wire("file:///events"))
