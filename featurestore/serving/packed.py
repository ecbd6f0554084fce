"""The tensor of entities as bytes, where a service's tensor is what one view keeps, as it is kept.

Of one row every array costs more than what it holds; and of many the store's answer, a value for each key, costs more than all
the rest, so rows are kept as long as the store stays as it is. What a value means is for `plain` to say; what is not plain is
read the general way (`reader`), which gives the same bytes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final, Protocol, runtime_checkable

import numpy as np

from featurestore.evaluate.partials import Array
from featurestore.ir import Service
from featurestore.online.codec import number_keys, number_name
from featurestore.online.state import Complete
from featurestore.online.store import OnlineStore
from featurestore.online.values import Asked
from featurestore.serving.expected import watch_of
from featurestore.serving.group import Group
from featurestore.serving.plain import Plain
from featurestore.serving.resident import Resident

LASTING: Final = 0.5
"""Seconds that a store has to stay as it is before rows are kept: one that is written all the time gives nothing back for it."""


@runtime_checkable
class Momentary(Protocol):
    """A store that can say whether it has changed, for less than it takes to read it."""

    def moment(self) -> object:
        """Stays the same as long as nothing is written, by any process."""


class Packed:
    """One view with one whole number for its key, all of whose features are floats that go out as they lie there."""

    def __init__(
        self, store: OnlineStore, group: Group, plain: Plain, width: int, max_staleness: int | None
    ) -> None:
        self._store, self._plain, self._limit = store, plain, max_staleness
        self._moment_of = store.moment if isinstance(store, Momentary) else None
        self._view, self._leads = group.view.name, group.leads
        self._width = width
        self._kept: Resident | None = None
        self._moment: object = None
        self._since = 0.0
        self._using = threading.Lock()

    def row(self, number: int, q: int, states: Mapping[str, Complete]) -> bytes | None:
        """float32 in service order of the entity at `q`, each of them present; None if it is not that simple."""
        if self._is_late(q, states):
            return None
        name = number_name(number)
        base, *heads = self._store.read([lead + name for lead in self._leads])
        if base is None or any(heads):
            return None
        return self._plain.row(base, q)

    def rows(self, numbers: Array, q: int, states: Mapping[str, Complete]) -> Array | None:
        """`row` of many entities, which may come twice: (rows, features), as of one moment of the store."""
        moment_of = self._moment_of
        if moment_of is None or self._is_late(q, states) or not self._using.acquire(blocking=False):
            return None
        try:
            moment, kept, now = moment_of(), self._kept, time.monotonic()
            if kept is None:
                kept = self._kept = Resident(self._width)
            if moment != self._moment:
                self._moment, self._since = moment, now
                kept.clear()
            if now - self._since < LASTING:
                return None
            rows, there = kept.find(numbers)
            if there is not None:
                if not self._keep(kept, numbers[~there]) or moment_of() != moment:
                    return None
                rows, there = kept.find(numbers)
            return None if there is not None else kept.floats(rows, q, self._plain.ttl)
        finally:
            self._using.release()

    def _keep(self, kept: Resident, numbers: Array) -> bool:
        """Reads entities and keeps those that are plain; whether all of them are."""
        distinct = np.unique(numbers)
        (values,) = self._store.fetch([Asked(number_keys([distinct], self._leads), len(self._leads))])
        headless = values.lengths[1::2] <= 0 if len(self._leads) > 1 else None
        good, floats, since, at = self._plain.kept(values.part(0, len(values), len(self._leads)))
        if headless is not None:
            mine = headless[good]
            floats, since, at = floats[mine], since[mine], at[mine]
            good &= headless
        kept.add(distinct[good], floats, since, at)
        return bool(good.all())

    def _is_late(self, q: int, states: Mapping[str, Complete]) -> bool:
        """Whether the view as a whole is older than the service allows."""
        if self._limit is None:
            return False
        state = states.get(self._view)
        return state is None or q - state.end > self._limit


def packed_of(
    store: OnlineStore, service: Service, groups: Sequence[Group], plain: Sequence[Plain | None]
) -> Packed | None:
    """How the tensor of a service's entities is read as bytes; None where it is not what one view keeps."""
    if len(groups) != 1 or service.request or service.on_demand or watch_of(service) is not None:
        return None
    group, first = groups[0], plain[0]
    if first is None or not first.has_row or not group.numbers or len(group.columns) != 1:
        return None
    return Packed(store, group, first, len(service.columns), service.max_staleness)
