"""The tensor of one entity as bytes, where a service's tensor is what one view keeps, as it is kept.

Of one row every array costs more than what it holds. What a value means is for `plain` to say; what is not plain is read
the general way (`reader`), which gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from featurestore.ir import Service
from featurestore.online.codec import number_name
from featurestore.online.state import Complete
from featurestore.online.store import OnlineStore
from featurestore.serving.expected import watch_of
from featurestore.serving.group import Group
from featurestore.serving.plain import Plain


class Packed:
    """One view with one whole number for its key, all of whose features are floats that go out as they lie there."""

    def __init__(self, store: OnlineStore, group: Group, plain: Plain, max_staleness: int | None) -> None:
        self._read, self._plain, self._limit = store.read, plain, max_staleness
        self._view, self._leads = group.view.name, group.leads

    def row(self, number: int, q: int, states: Mapping[str, Complete]) -> bytes | None:
        """float32 in service order of the entity at `q`, each of them present; None if it is not that simple."""
        if self._limit is not None:
            state = states.get(self._view)
            if state is None or q - state.end > self._limit:
                return None
        name = number_name(number)
        base, *heads = self._read([lead + name for lead in self._leads])
        if base is None or any(heads):
            return None
        return self._plain.row(base, q)


def packed_of(
    store: OnlineStore, service: Service, groups: Sequence[Group], plain: Sequence[Plain | None]
) -> Packed | None:
    """How the tensor of a service's entities is read as bytes; None where it is not what one view keeps."""
    if len(groups) != 1 or service.request or service.on_demand or watch_of(service) is not None:
        return None
    group, first = groups[0], plain[0]
    if first is None or not first.has_row or not group.numbers or len(group.columns) != 1:
        return None
    return Packed(store, group, first, service.max_staleness)
