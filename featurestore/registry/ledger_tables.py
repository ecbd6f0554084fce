"""The tables of the ledger, `featurestore/ledger.py`: they lie in the registry's database and are made with its own."""

from __future__ import annotations

LEDGER = {
    "fs_units": "number BIGINT PRIMARY KEY, store TEXT NOT NULL, prefix TEXT NOT NULL, name TEXT NOT NULL, "
    "start_at BIGINT, end_at BIGINT NOT NULL, cut BIGINT NOT NULL, heads BIGINT NOT NULL, "
    "status TEXT NOT NULL, inputs TEXT NOT NULL, identity TEXT NOT NULL, checkpoint TEXT NOT NULL, "
    "run BIGINT NOT NULL, entities BIGINT NOT NULL, started_at BIGINT NOT NULL, finished_at BIGINT, "
    "who TEXT NOT NULL, reason TEXT NOT NULL, error TEXT NOT NULL",
    "fs_holes": "store TEXT NOT NULL, prefix TEXT NOT NULL, name TEXT NOT NULL, start_at BIGINT NOT NULL, "
    "end_at BIGINT NOT NULL, reason TEXT NOT NULL, lines BIGINT NOT NULL, seen BIGINT NOT NULL, "
    "opened_at BIGINT NOT NULL, closed_at BIGINT, closed_by BIGINT, "
    "PRIMARY KEY (store, prefix, start_at, end_at, reason)",
    "fs_leases": "store TEXT NOT NULL, prefix TEXT NOT NULL, name TEXT NOT NULL, owner TEXT NOT NULL, "
    "who TEXT NOT NULL, since BIGINT NOT NULL, heartbeat BIGINT NOT NULL, PRIMARY KEY (store, prefix)",
}
