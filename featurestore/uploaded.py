"""Labels that came back to captured rows: looked up by row id, by what had come to pass at a moment.

A value may be an object with `value`, `source` and `confidence`: who says so, and how sure. A plain value is one of source
`uploaded`. Where a service computes a label of the same name, what came back stands in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.capture.log import CaptureLog
from featurestore.capture.returned import Returned, values_of
from featurestore.errors import DatasetError, NotFound
from featurestore.evaluate.arrow import arrow_type
from featurestore.evaluate.partials import Array
from featurestore.ir import Label
from featurestore.labels import state_column
from featurestore.status import LabelState
from featurestore.types import DType

UPLOADED, COMPUTED = "uploaded", "computed"


@dataclass(frozen=True)
class Upload:
    """The values of one name that came back, by row id: the newest of each."""

    name: str
    ids: pa.Array
    values: pa.Array
    sources: pa.Array
    confidence: pa.Array

    def of(self, row_ids: pa.ChunkedArray) -> Array:
        """Where the value of each row is, -1 where none came back."""
        found = pc.index_in(row_ids, value_set=self.ids)
        at: Array = pc.fill_null(found, -1).to_numpy()
        return at


def uploads(
    log: CaptureLog, names: Sequence[str] | None, labels: Sequence[Label], as_of: int | None
) -> dict[str, Upload]:
    """What had come back by a moment (µs; None is all), by name: of `names`, or of those that labels are computed of.

    Where there is neither, all that came back. Raises NotFound for a name that is neither, DatasetError for values that are
    not of a label's type.
    """
    table = Returned(log, "labels").newest()
    there = sorted(set(table["name"].to_pylist()))
    types = {x.name: x.dtype for x in labels}
    wanted = list(names) if names is not None else list(types) or there
    for name in wanted:
        if name not in there and name not in types:
            raise NotFound("label", name, {*there, *types})
    if as_of is not None:
        table = table.filter(pc.less_equal(table["at"].cast(pa.int64()), as_of))
    found = {}
    for name in wanted:
        mine = table.filter(pc.equal(table["name"], name))
        if mine.num_rows or name not in types:
            found[name] = _upload(name, mine, types.get(name))
    return found


def _upload(name: str, table: pa.Table, dtype: DType | None) -> Upload:
    given = [v if isinstance(v, dict) and "value" in v else {"value": v} for v in values_of(table)]
    plain = [v["value"] for v in given]
    try:
        values = pa.array(plain, None if dtype is None else arrow_type(dtype))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        if dtype is None and len({type(v) for v in plain if v is not None} - {int, float}) == 0:
            values = pa.array([None if v is None else float(v) for v in plain], pa.float64())
        else:
            wanted = "of one type" if dtype is None else f"{dtype!r}, as the label that is computed"
            raise DatasetError(
                f"what came back as '{name}' is not {wanted}: {error}\n  give the ones that are not another name"
            ) from error
    return Upload(
        name,
        table["row_id"].combine_chunks(),
        values,
        pa.array([str(v.get("source") or UPLOADED) for v in given], pa.string()),
        pa.array(
            [None if v.get("confidence") is None else float(v["confidence"]) for v in given], pa.float64()
        ),
    )


def joined(
    upload: Upload, row_ids: pa.ChunkedArray, computed: tuple[pa.Array, Array] | None
) -> tuple[dict[str, pa.Array], Array]:
    """The columns of a label that came back, over the values and states that were computed, if they were; and the states."""
    at = upload.of(row_ids)
    rows, place = len(at), pa.array(np.where(at >= 0, at, 0))
    here = pa.array(at >= 0)

    def taken(values: pa.Array) -> pa.Array:
        return values.take(place) if len(values) else pa.nulls(rows, values.type)

    if computed is None:
        own, state = pa.nulls(rows, upload.values.type), np.full(rows, LabelState.IMMATURE, np.int8)
        source = pa.nulls(rows, pa.string())
    else:
        own, state = computed
        told = pa.array(state == LabelState.MATURE)
        source = pc.if_else(told, pa.repeat(COMPUTED, rows), pa.nulls(rows, pa.string()))
    state = np.where(at >= 0, np.int8(LabelState.MATURE), state)
    name, nobody = upload.name, pa.nulls(rows, pa.float64())
    columns = {
        name: pc.if_else(here, taken(upload.values), own),
        f"{name}__state": state_column(state),
        f"{name}__source": pc.if_else(here, taken(upload.sources), source),
        f"{name}__confidence": pc.if_else(here, taken(upload.confidence), nobody),
    }
    return columns, state


__all__ = ["COMPUTED", "UPLOADED", "Upload", "joined", "uploads"]
