"""The tables of erasure, `featurestore/erasures.py`: they lie in the registry's database and are made with its own."""

from __future__ import annotations

ERASURES = {
    "fs_tombstones": "entity TEXT NOT NULL, digest TEXT NOT NULL, erased_at BIGINT NOT NULL, number BIGINT NOT NULL, "
    "salt TEXT NOT NULL, receipt TEXT NOT NULL, PRIMARY KEY (entity, digest)",
    "fs_receipts": "number BIGINT PRIMARY KEY, receipt TEXT NOT NULL, entity TEXT NOT NULL, digest TEXT NOT NULL, "
    "erased_at BIGINT NOT NULL, who TEXT NOT NULL, reason TEXT NOT NULL, done BIGINT NOT NULL, details TEXT NOT NULL",
}
