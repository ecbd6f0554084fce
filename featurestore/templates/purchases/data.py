"""Sixty days of made-up purchases: the same rows for the same moment, whatever the machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CARDS, MERCHANTS, PURCHASES, ASKED = 200, 40, 20_000, 2_000
MINUTES = 60 * 24 * 60


def write(folder: Path, until: int) -> list[Path]:
    """Writes `purchases`, `cards` and `spine`, all before `until` (UTC microseconds); the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    # Whole numbers only: how these are drawn is the same in every version of NumPy.
    draw = np.random.Generator(np.random.PCG64(20_240_229)).integers
    card = np.minimum(
        draw(0, CARDS, PURCHASES), draw(0, CARDS, PURCHASES)
    )  # some cards are busier than others
    seconds = np.sort(draw(60, MINUTES * 60, PURCHASES))[::-1]
    cents = draw(100, 12_000, PURCHASES) * draw(1, 6, PURCHASES)
    merchant = draw(0, MERCHANTS, PURCHASES)
    online = draw(0, 10, PURCHASES) < 4
    purchases = pa.table(
        {
            "purchase_id": pa.array(np.arange(PURCHASES) + 1),
            "card_id": pa.array(card + 1001),
            "merchant": pa.array([f"m{m:02d}" for m in merchant.tolist()]),
            "amount": pa.array([f"{c // 100}.{c % 100:02d}" for c in cents.tolist()]).cast(
                pa.decimal128(12, 2)
            ),
            "online": pa.array(online),
            "occurred_at": pa.array(until - seconds * 1_000_000, pa.timestamp("us", tz="UTC")),
        }
    )
    cards = pa.table(
        {
            "card_id": pa.array(np.arange(CARDS) + 1001),
            "tier": pa.array([("basic", "gold", "black")[t] for t in draw(0, 3, CARDS).tolist()]),
            "opened_on": pa.array(
                (until // 86_400_000_000 - draw(100, 2_000, CARDS)).astype(np.int32), pa.date32()
            ),
        }
    )
    chosen = np.sort(draw(PURCHASES // 2, PURCHASES, ASKED))
    asked = purchases.take(pa.array(chosen)).rename_columns(
        ["purchase_id", "card_id", "merchant", "amount", "online", "event_timestamp"]
    )
    risky = (cents[chosen] > 30_000) & online[chosen]
    asked = asked.append_column("disputed", pa.array(risky ^ (draw(0, 20, ASKED) == 0)))
    written = []
    for name, table in (("purchases", purchases), ("cards", cards), ("spine", asked)):
        path = folder / f"{name}.parquet"
        pq.write_table(table, path)
        written.append(path)
    return written
