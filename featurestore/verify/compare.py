"""Whether two answers are the same, by the class of agreement that the feature's aggregate promises."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from featurestore.aggregates import AGGREGATES
from featurestore.aggregates.record import Parity
from featurestore.compile.reference import Answer, entity_events
from featurestore.compile.rowwise import Settled, evaluate
from featurestore.ir import Feature
from featurestore.status import Status
from featurestore.time import inside
from featurestore.verify.engines import Question, World

CLOSE = 1e-9
"""What a `close` feature may differ by, of its scale."""

_OF_NO_UNIT = frozenset({"skew", "kurtosis"})
"""Numbers about the shape of a distribution: what is 0 for a normal one is measured by 1."""

_GONE = frozenset({Status.EXPIRED, Status.NOT_FOUND})
"""A store may let go of keys that expired: these two are one."""


def parity_of(feature: Feature) -> Parity:
    """The class of agreement of a feature; a latest value is exact."""
    return "exact" if feature.window is None else AGGREGATES[feature.aggregate].parity(feature.input_types)


def same(parity: Parity, got: Answer, want: Answer, scale: Callable[[], float]) -> bool:
    """Whether an answer is what it has to be: its status, whether there is a value, and the value.

    `scale` is asked for only where the bits differ and may. What is `approx` is near the truth, and the same number
    everywhere: it is compared as what is exact.
    """
    if got.status is not want.status and not {got.status, want.status} <= _GONE:
        return False
    if _identical(got.value, want.value):
        return True
    if parity != "close" or not isinstance(got.value, float) or not isinstance(want.value, float):
        return False
    return abs(got.value - want.value) <= CLOSE * scale()


def _identical(got: Any, want: Any) -> bool:
    if isinstance(got, list | tuple) and isinstance(want, list | tuple):
        return len(got) == len(want) and all(map(_identical, got, want))
    if type(got) is not type(want) or got != want:
        return False
    return not isinstance(want, float) or math.copysign(1, got) == math.copysign(1, want)


def scale_of(world: World, feature: Feature, question: Question, want: Answer) -> float:
    """What closeness is measured by: the sum of absolute values for a sum, their mean for a mean, else the value itself."""
    window = feature.window
    if feature.aggregate not in ("sum", "mean") or window is None:
        own = abs(want.value) if isinstance(want.value, int | float) else 0.0
        return max(1.0, own) if feature.aggregate in _OF_NO_UNIT else own
    view = world.view
    schema, time = Settled(view.source.schema), view.source.event_time
    assert time is not None
    sizes = []
    for event in entity_events(view, world.known(question.key, question.known_until), question.key):
        at = event[time]
        assert isinstance(at, int)
        if not inside(at, question.asked, window.size, window.hop):
            continue
        if feature.where is not None and evaluate(feature.where, event, schema) is not True:
            continue
        value = evaluate(feature.inputs[0], event, schema)
        if isinstance(value, int | float):
            sizes.append(abs(value))
    try:
        total = math.fsum(sizes)
    except OverflowError:
        return math.inf  # the sum itself is past the largest double
    return total / max(1, len(sizes)) if feature.aggregate == "mean" else total
