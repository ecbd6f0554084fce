"""Every label of the parity table, by the reference and by the join of training sets."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from featurestore import declare as d
from featurestore import ir
from featurestore.compile.reference import label_answer
from featurestore.config import Config
from featurestore.declare import declarations_in
from featurestore.evaluate.arrow import arrow_type
from featurestore.lower import lower
from featurestore.status import LabelState
from featurestore.training import TrainingSet
from featurestore.types import String, Timestamp
from tests.parity.cases import instant
from tests.parity.engines import declared, physical, pythonic, write
from tests.parity.label_cases import LABEL_CASES, LabelCase

_numbers = count()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("labels")


def made_real(case: LabelCase, root: Path) -> tuple[ir.Plan, list[dict[str, Any]]]:
    """The plan of the case's declarations, and its events in their physical form, which lie in a file."""
    path = f"case{next(_numbers)}.parquet"
    schema = {"k": String, "at": Timestamp, "x": case.x, **case.more}
    rows: list[dict[str, Any]] = [
        {"k": "a", "at": r[0], "x": r[1]} if isinstance(r, tuple) else {"k": "a", **r} for r in case.rows
    ]
    write(root / path, rows, schema, {})
    source: Any = d.BatchSource(
        "events",
        d.Parquet(path),
        "at",
        columns=schema,
        event_id=case.event_id,
        arrival_time=case.arrival_time,
        tiebreak=case.tiebreak,
    )
    entity = d.Entity("who", key="k")
    label = d.Label(
        "label",
        source if case.where is None else source.where(case.where),
        entity,
        case.value,
        case.horizon,
        gap=case.gap,
        lateness=case.lateness,
        matures=case.matures,
        observed=case.observed,
    )
    view = d.FeatureView("view", entity, source, [d.count().over(d.lifetime)])
    plan = lower(declarations_in([d.FeatureService("svc", [view], label=label)]), declared)
    return plan, [{n: physical(r.get(n), t) for n, t in schema.items()} for r in rows]


@pytest.mark.parametrize("case", LABEL_CASES, ids=lambda case: case.name)
def test_reference_and_join_agree(case: LabelCase, root: Path) -> None:
    plan, events = made_real(case, root)
    label = plan.labels[0]
    value, state = label_answer(label, events, [case.key], instant(case.at), instant(case.as_of))
    assert (pythonic(value, label.dtype), state) == (case.want, case.state)

    spine = {
        "k": pa.array([case.key], pa.string()),
        "ts": pa.array([instant(case.at)], arrow_type(Timestamp)),
    }
    found = TrainingSet(
        Config(root, "labels", threads=1),
        plan.service("svc"),
        {v.name: v for v in plan.views},
        pa.table(spine),
        "ts",
        labels=plan.labels,
        as_of=instant(case.as_of),
        immature="keep",
    )
    (row,) = found.to_arrow().to_pylist(maps_as_pydicts="strict")
    assert (row["label"], LabelState[row["label__state"]]) == (case.want, case.state)
    assert row["is_mature"] is (case.state is LabelState.MATURE)


def test_names_of_cases_differ() -> None:
    assert len({case.name for case in LABEL_CASES}) == len(LABEL_CASES)
