"""What a notebook shows of a training set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featurestore.datasets.manifest import inputs
from featurestore.errors import FeatureStoreError
from featurestore.html import ROWS, grid

if TYPE_CHECKING:
    from featurestore.training import TrainingSet

PREVIEW_SPINE_ROWS = 10_000
PREVIEW_SOURCE_BYTES = 32 << 20
"""A training set shows its first rows when its spine is in memory and its sources are files no larger than this in all."""


def training_html(training: TrainingSet) -> str:
    """The columns with their types, and the first rows where they cost little."""
    service = training.service
    title = f"training set of {training.reference or service.name}"
    if not _is_cheap(training):
        rows = [(name, str(dtype)) for name, dtype in service.columns]
        return grid(
            title, ("feature", "type"), rows, "not computed yet: to_arrow(), batches() or to_parquet(…) does"
        )
    try:
        table = next(training.tables())
    except FeatureStoreError as error:
        return grid(title, ("feature", "type"), [(n, str(t)) for n, t in service.columns], str(error))
    headers = [f"{f.name} ({f.type})" for f in table.schema]
    shown = [list(row.values()) for row in table.slice(0, ROWS).to_pylist()]
    return grid(title, headers, shown, f"the first {len(shown)} of {table.num_rows:,} rows")


def _is_cheap(training: TrainingSet) -> bool:
    rows = getattr(training.spine, "num_rows", None)
    if not isinstance(rows, int) or rows > PREVIEW_SPINE_ROWS:
        return False
    try:
        found = inputs(training.views, training.config.root, digests=False)
    except FeatureStoreError:
        return False  # reading it will say what is wrong
    if any("files" not in read for read in found):
        return False
    return sum(int(f["bytes"]) for read in found for f in read["files"]) <= PREVIEW_SOURCE_BYTES
