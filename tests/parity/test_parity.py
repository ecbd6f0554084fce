"""One behaviour, one row, every engine."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from featurestore.aggregates import AGGREGATES
from featurestore.compile.sources import Connection, connect
from featurestore.config import Config
from featurestore.declare import latest
from featurestore.errors import DefinitionError
from featurestore.online.store import open_store
from featurestore.status import Status
from tests.parity.aggregate_cases import AGGREGATE_CASES
from tests.parity.cases import CASES, Case, instant
from tests.parity.dialect_cases import DIALECT_CASES, REFUSED
from tests.parity.engines import Answer, Engine, Online, Reference, Streamed, Training, World, world_of
from tests.parity.knowledge_cases import KNOWLEDGE_CASES
from tests.parity.list_cases import LIST_CASES

ENGINES = ["reference", "duckdb", "lmdb", "stream", pytest.param("redis", marks=pytest.mark.redis)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parity")


@pytest.fixture(scope="module")
def worlds(root: Path) -> dict[str, World]:
    """Made once, asked of every engine."""
    return {}


@pytest.fixture(scope="module")
def con() -> Iterator[Connection]:
    connection = connect(threads=1)
    yield connection
    connection.close()


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, root: Path, con: Connection) -> Iterator[Engine]:
    match request.param:
        case "reference":
            yield Reference()
        case "duckdb":
            yield Training(Config(root, "parity", threads=1))
        case "lmdb":
            with open_store("lmdb://online", root) as store:
                yield Online(con, store)
        case "stream":
            with open_store("lmdb://streamed", root) as store:
                yield Streamed(con, store)
        case _:
            with open_store(request.getfixturevalue("redis_server").url, root) as store:
                yield Online(con, store)


@pytest.fixture(autouse=True)
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The zone that the process lives in while a case runs: no value may depend on it."""
    case = getattr(request.node, "callspec", None) and request.node.callspec.params.get("case")
    if case is None or case.zone is None:
        yield
        return
    with monkeypatch.context() as patch:
        patch.setenv("TZ", case.zone)
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    "case", [*CASES, *AGGREGATE_CASES, *DIALECT_CASES, *LIST_CASES], ids=lambda case: case.name
)
def test_every_engine_agrees(case: Case, engine: Engine, root: Path, worlds: dict[str, World]) -> None:
    if case.name not in worlds:
        worlds[case.name] = world_of(case, root)
    world = worlds[case.name]
    (answer,) = engine.ask(world, [(case.key, instant(case.at))])
    check(world, answer)


@pytest.mark.parametrize("case", KNOWLEDGE_CASES, ids=lambda case: case.name)
def test_engines_agree_on_what_had_arrived(case: Case, root: Path, worlds: dict[str, World]) -> None:
    world = worlds[case.name] = world_of(case, root)
    for engine in (Reference(), Training(Config(root, "parity", threads=1))):
        (answer,) = engine.ask(world, [(case.key, instant(case.at))])
        check(world, answer)


@pytest.mark.parametrize("what", REFUSED)
def test_what_dialects_do_not_say_alike_is_refused_as_it_is_loaded(what: str, root: Path) -> None:
    expression, dtype, words = REFUSED[what]
    with pytest.raises(DefinitionError, match=words):
        world_of(Case(what, [], "13:00", latest(expression).named("y"), None, x=dtype), root)


def check(world: World, answer: Answer) -> None:
    """The value as the aggregate's parity class demands, and the status."""
    case, feature = world.case, world.view.features[0]
    assert answer.status is case.want_status, answer
    exact = feature.window is None or AGGREGATES[feature.aggregate].parity(feature.input_types) != "close"
    want: Any = float(case.want) if isinstance(case.want, Fraction) else case.want
    if exact or want is None:
        assert same(answer.value, want), f"{answer.value!r} is not {want!r}"
        return
    assert isinstance(answer.value, float)
    scale = abs(Fraction(case.want)) if case.scale is None else Fraction(case.scale)
    assert abs(Fraction(answer.value) - Fraction(case.want)) <= Fraction(1, 10**9) * scale, answer


def same(a: Any, b: Any) -> bool:
    """Equal, of one type, and of one sign when zero."""
    if type(a) is not type(b) or a != b:
        return False
    return not isinstance(a, float) or math.copysign(1.0, a) == math.copysign(1.0, b)


def test_names_of_cases_are_sentences_and_differ() -> None:
    names = [case.name for case in (*CASES, *AGGREGATE_CASES, *DIALECT_CASES, *KNOWLEDGE_CASES)]
    assert len(set(names)) == len(names)


# What needs more than one question of a world.


def several() -> Case:
    from featurestore.declare import sum
    from featurestore.time import hours

    return Case(
        "several keys and moments",
        rows=[{"k": k, "at": f"12:{i}0", "x": 10**i} for i in range(4) for k in ("a", "b")]
        + [{"k": None, "at": "12:30", "x": 7}],
        at="13:00",
        feature=sum("x").over(hours(1)),
        want=None,
    )


def test_repeated_rows_each_get_their_answer(engine: Engine, root: Path) -> None:
    asked = [((k,), instant("13:00")) for k in ("b", "a", "nobody", "a", None, "a", "b")]
    found, lost = Answer(1111, Status.PRESENT), Answer(None, Status.NOT_FOUND)
    assert engine.ask(world_of(several(), root), asked) == [found, found, lost, found, lost, found, found]


def test_moments_in_any_order_keep_their_rows(engine: Engine, root: Path) -> None:
    times = ("13:20", "13:10", "13:00", "13:10", "13:35")
    asked = [(("a",), instant(t)) for t in times]
    wants = [Answer(v, Status.PRESENT) for v in (1100, 1110, 1111, 1110)] + [Answer(None, Status.NULL)]
    assert engine.ask(world_of(several(), root), asked) == wants


def test_no_rows_asked_for_give_none(engine: Engine, root: Path) -> None:
    assert engine.ask(world_of(several(), root), []) == []
