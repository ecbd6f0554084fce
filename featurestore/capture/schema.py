"""The columns of captured rows: one schema for each service and fingerprint, written before its first row.

A row is kept under the fingerprint of what it means, never under a name alone: after a change of a definition the same name
has another schema, in another folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from featurestore.ir import Service, View, service_fingerprint
from featurestore.types import (
    Bool,
    DType,
    Float64,
    Int32,
    Int64,
    String,
    Timestamp,
    type_from_json,
    type_to_json,
)

COMMON: Final[Mapping[str, DType]] = {
    "request_id": String,
    "row": Int32,
    "at": Timestamp,
    "served_at": Timestamp,
    "version": Int64,
    "sample": Float64,
    "degraded": Bool,
    "watermarks": String,
    "context": String,
    "statuses": String,
    "scaler": Int64,
}
"""The columns that every captured row has.

`row` is its number in the request; `at` the moment the vector is of, `served_at` when it went out; `sample` the fraction that
was kept; `watermarks` a JSON object of each view's (µs); `context` one of what the caller told; `statuses` a digit for each
feature; `scaler` the version that scaled it, NULL where it went out as it was.
"""

KEY, REQUEST, FEATURE, SCALED = "key:", "request:", "feature:", "scaled:"


@dataclass(frozen=True, slots=True)
class CapturedSchema:
    """What the rows of one service and fingerprint hold: names with types, in order.

    `keys` are the join keys as requests name them, `request` the request columns, `features` the service's columns, `scaled`
    those of them that have a scaled value beside their own.
    """

    service: str
    fingerprint: str
    keys: tuple[tuple[str, DType], ...]
    request: tuple[tuple[str, DType], ...]
    features: tuple[tuple[str, DType], ...]
    scaled: tuple[str, ...] = ()

    @staticmethod
    def of(service: Service, views: Mapping[str, View]) -> CapturedSchema:
        keys: dict[str, DType] = {}
        for read in service.reads:
            types = {k.name: k.dtype for k in views[read.view].keys}
            keys |= {column: types[key] for key, column in read.keys if column not in keys}
        return CapturedSchema(
            service.name,
            service_fingerprint(service, views),
            tuple(keys.items()),
            service.request,
            service.columns,
            tuple(s.column for s in service.scale),
        )

    @property
    def columns(self) -> dict[str, DType]:
        """The columns as they are stored: the common ones, then `key:…`, `request:…`, `feature:…` and `scaled:…`."""
        return {
            **COMMON,
            **{KEY + n: t for n, t in self.keys},
            **{REQUEST + n: t for n, t in self.request},
            **{FEATURE + n: t for n, t in self.features},
            **{SCALED + n: Float64 for n in self.scaled},
        }

    def to_json(self) -> dict[str, Any]:
        def typed(columns: tuple[tuple[str, DType], ...]) -> list[list[str]]:
            return [[name, type_to_json(dtype)] for name, dtype in columns]

        return {
            "service": self.service,
            "fingerprint": self.fingerprint,
            "keys": typed(self.keys),
            "request": typed(self.request),
            "features": typed(self.features),
            "scaled": list(self.scaled),
        }

    @staticmethod
    def from_json(text: str) -> CapturedSchema:
        """What `to_json` gave, as text. Raises ValueError for anything else."""
        said = json.loads(text)
        try:
            keys, request, features = (
                tuple((name, type_from_json(t)) for name, t in said[part])
                for part in ("keys", "request", "features")
            )
            return CapturedSchema(
                said["service"], said["fingerprint"], keys, request, features, tuple(said["scaled"])
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the schema of captured rows: {error}") from error
