"""What a notebook shows of feature vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featurestore.html import ROWS, grid, shown
from featurestore.status import Status

if TYPE_CHECKING:
    from featurestore.serving.result import OnlineFeatures


def online_html(result: OnlineFeatures) -> str:
    """Values, and in brackets the status of what is not simply present."""
    columns = list(result.to_dict().values())
    rows = []
    for i in range(min(len(result), ROWS)):
        codes = [Status(int(code)) for code in result.statuses[i]]
        values = [shown(column[i]) for column in columns]
        said = [v if s == Status.PRESENT else f"{v} [{s.name}]" for v, s in zip(values, codes, strict=True)]
        rows.append([i, *said])
    return grid(f"{result.service.name}: {len(result):,} rows", ("", *result.names), rows)
