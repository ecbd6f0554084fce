"""What went out scaled, beside what its scaler makes of the raw values that were captured with it: bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from featurestore.capture.schema import SCALED
from featurestore.consistency.captured import Column, Drawn, column_of
from featurestore.evaluate.partials import Array, Mask
from featurestore.statistics.scalers import Scaler, as_doubles, scaled
from featurestore.types import Float64

Scalers = Callable[[int], Scaler | None]
"""The scaler of a version, None where the registry has none of it."""


@dataclass(frozen=True, slots=True)
class Rescaled:
    """One feature, in the rows at `places`: as it went out scaled, and as its scaler has it of the raw value."""

    places: Array
    served: Column
    again: Column

    @property
    def differs(self) -> Mask:
        bits, same = (x.values.view(np.int64) for x in (self.served, self.again))
        apart: Mask = (self.served.valid != self.again.valid) | (self.served.valid & (bits != same))
        return apart


@dataclass
class Found:
    """By feature what is to be compared; `unknown` rows were scaled by a scaler that the registry does not have."""

    features: dict[str, list[Rescaled]] = field(default_factory=dict)
    unknown: int = 0


def rescaled(rows: Drawn, scalers: Scalers) -> Found:
    """Scales the raw values of rows again, each by the version that scaled it."""
    found = Found()
    versions = rows.table.column("scaler").to_pylist()
    for version in sorted({v for v in versions if v is not None}):
        places = np.flatnonzero(np.array([v == version for v in versions], np.bool_))
        scaler = scalers(version)
        if scaler is None:
            found.unknown += len(places)
            continue
        some, types = rows.take(places), dict(rows.schema.features)
        raw = [some.values(s.feature, types[s.feature]) for s in scaler.features]
        doubles = [as_doubles(c.values, types[s.feature]) for c, s in zip(raw, scaler.features, strict=True)]
        values, valid = scaled(
            np.stack(doubles, axis=1), np.stack([c.valid for c in raw], axis=1), scaler.features
        )
        for j, one in enumerate(scaler.features):
            served = column_of(some.table.column(SCALED + one.feature), Float64)
            again = Column(np.ascontiguousarray(values[:, j]), np.ascontiguousarray(valid[:, j]))
            found.features.setdefault(one.feature, []).append(Rescaled(places, served, again))
    return found


__all__ = ["Found", "Rescaled", "Scalers", "rescaled"]
