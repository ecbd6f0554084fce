"""Changed definitions of streamed views, made ready beside what is served: base, job, values, and a comparison with batch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from featurestore import declare as d
from featurestore import flink, ir
from featurestore.compile.flink_job import topic_prefix
from featurestore.erasures import erasures
from featurestore.errors import PlanConflict
from featurestore.layout import layout_of
from featurestore.online.codec import codec_of
from featurestore.online.state import load_states
from featurestore.repo import load_declarations

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.config import Config
    from featurestore.online.store import OnlineStore
    from featurestore.planning import ChangePlan
    from featurestore.registry import Registry


@dataclass(frozen=True)
class Doing:
    """What making ready takes: the online store, opened when it is needed; the definitions that lie here; and three verbs.

    `base_of` materialises a view that is not applied yet, `online` and `training` read one view by its definition: for entities
    at a moment, and for a spine.
    """

    config: Config
    registry: Registry
    open_online: Callable[[], OnlineStore]
    definitions: Callable[[], ir.Plan]
    base_of: Callable[[ir.View], None]
    spine: Callable[[str, datetime], pa.Table]
    online: Callable[[d.FeatureView, Mapping[str, Sequence[Any]], datetime], pa.Table]
    training: Callable[[d.FeatureView, pa.Table], pa.Table]


COMPARED: Final = 200
"""Entities of a view whose values are compared before it is served."""


def made_ahead(doing: Doing, change: ChangePlan, say: Callable[[str], None]) -> list[flink.Upgraded]:
    """Makes each view ready whose Flink job runs here and would be another; nothing that is read changes.

    Raises PlanConflict for a plan that is not of the definitions that lie here or of the revision in force, StreamError where
    a new version is not what batch makes of it, FlinkError where its job does not run or does not catch up.
    """
    if change.is_empty or change.blocked:
        return []
    current = doing.registry.current()
    changed = flink.changed(doing.config, current.plan, change.desired)
    if not changed:
        return []
    if current.number != change.base_revision:
        raise PlanConflict(
            f"the registry is at revision {current.number}, and this was planned for revision {change.base_revision}\n"
            "  plan again"
        )
    _must_be_here(doing, change.desired, [view for view, _ in changed])
    online, done = doing.open_online(), []
    for view, old in changed:
        doing.base_of(view)
        flink.made_ready(
            doing.config, view, online, erasures(doing.registry), lambda: time.time_ns() // 1000, say
        )
        compared, differing = _compared(doing, online, view)
        flink.must_agree(view, compared, differing)
        say(f"view '{view.name}': {compared:,} cells of its new version are those of batch")
        done.append(flink.Upgraded(view.name, old, topic_prefix(view), compared))
    return done


def _must_be_here(doing: Doing, desired: ir.Plan, views: list[ir.View]) -> None:
    """The comparison reads by the definitions: they have to be those of the plan."""
    here = {v.name: topic_prefix(v) for v in doing.definitions().views if v.source.stream is not None}
    other = [v.name for v in views if here.get(v.name) != topic_prefix(desired.view(v.name))]
    if other:
        raise PlanConflict(
            f"view '{other[0]}' is another in the definitions than in the plan: its job cannot be made ready\n"
            "  plan again, or `fs apply PLAN --at-once`"
        )


def _compared(doing: Doing, online: OnlineStore, view: ir.View) -> tuple[int, int]:
    """Cells of a view's definition read online at its cut beside those of a training set, and how many differ."""
    asked = next(
        v for v in load_declarations(doing.config) if isinstance(v, d.FeatureView) and v.name == view.name
    )
    state = load_states(online, {"": codec_of(view, layout_of(view))}).get("")
    if state is None:
        return 0, 0
    at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=state.cut)
    spine = doing.spine(view.entity, at).slice(0, COMPARED)
    if not spine.num_rows:
        return 0, 0
    keys = {name: spine[name].to_pylist() for name in spine.column_names if name != "event_timestamp"}
    served = doing.online(asked, keys, at)
    training = doing.training(asked, spine)
    names = [n for n in served.column_names if n in training.column_names and n not in keys]
    pairs = [pair for n in names for pair in zip(served[n].to_pylist(), training[n].to_pylist(), strict=True)]
    return len(pairs), sum(not _alike(one, other) for one, other in pairs)


def _alike(one: Any, other: Any) -> bool:
    """Whether two values are the same: floats up to the order in which they were added."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)
    return bool(one == other)


__all__ = ["made_ahead"]
