"""Labels: what came of each row, as of a moment, and whether that is known yet.

A label is an aggregate over a range after the row's moment. A window that moves by 1 µs and ends at the range's end is this
range, so the join of training sets computes it (`joining`), with the same events in the same order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from featurestore.compile.duckdb import DUCKDB
from featurestore.compile.erased import digest_sql
from featurestore.compile.events import known_sql
from featurestore.compile.sources import Connection, source_sql
from featurestore.compile.sql import ident
from featurestore.errors import RequestError, SpineError
from featurestore.evaluate.arrow import from_physical
from featurestore.evaluate.expressions import compile_expression
from featurestore.evaluate.partials import Array, Mask
from featurestore.expr import Column
from featurestore.ir import Feature, Key, Label, digest, label_fingerprint
from featurestore.joining import Keys, view_cells
from featurestore.spine import keys_of, times_of
from featurestore.status import LabelState
from featurestore.time import moment_text
from featurestore.types import Int64

Immature = Literal["drop", "keep"]
"""What becomes of rows without a mature label: they are left out, or stay with `is_mature` false and no value."""

IS_MATURE = "is_mature"

_NEVER = np.iinfo(np.int64).min


def check(labels: Sequence[Label], as_of: int | None, immature: str, service: str) -> None:
    """Raises RequestError for what cannot be asked of a service with these labels."""
    checked(immature)
    if not labels and (as_of is not None or immature != "drop"):
        raise RequestError(
            f"'{service}' has no label, so nothing of it matures\n"
            "  give it one: FeatureService(…, label=Label(…)), or leave out as_of and immature"
        )


def checked(immature: str) -> Immature:
    """`immature`, when it is one of the two. Raises RequestError."""
    if immature not in ("drop", "keep"):
        raise RequestError(f"immature={immature!r} is not offered\n  there is 'drop' and 'keep'")
    return immature  # type: ignore[return-value]


def column_names(labels: Sequence[Label]) -> list[str]:
    """The columns that labels add: for each its value and its state, and at last whether all are mature."""
    return [n for x in labels for n in (x.name, f"{x.name}__state")] + ([IS_MATURE] if labels else [])


@dataclass(frozen=True, slots=True)
class Version:
    """A label as of a moment: made again as of a later one, it is another version."""

    name: str
    as_of: int
    fingerprint: str

    @property
    def reference(self) -> str:
        """`late@2013-06-01T00:00:00Z`."""
        return f"{self.name}@{moment_text(self.as_of)}"

    @property
    def id(self) -> str:
        """Tells it from the label of any other definition or moment."""
        return digest({"name": self.name, "as_of": self.as_of, "fingerprint": self.fingerprint})


def versions(labels: Sequence[Label], as_of: int) -> tuple[Version, ...]:
    """The versions that labels are in a set made as of a moment."""
    return tuple(Version(x.name, as_of, label_fingerprint(x)) for x in labels)


# ----------------------------------------------------------------------------------------------------------- is it known


@dataclass(frozen=True)
class Labelling:
    """What rows are labelled with: labels whose erased entities are honoured, and the moment of what is known (µs)."""

    labels: Sequence[Label]
    as_of: int
    immature: Immature = "drop"
    left_out: Counter[str] = field(default_factory=Counter)
    """Rows that were left out so far, by the state of the first of their labels that is not mature."""


def told(
    con: Connection, root: Path, by: Labelling, spine: Iterable[pa.Table], timestamp: str, size: int
) -> Iterator[pa.Table]:
    """The rows, `size` at a time, with a column `NAME__state` for each label, and without those that are to be dropped.

    They are dropped before anything is computed of them, so a set that is made again of the rows that stayed is made alike.
    """
    return _resliced(_told(con, root, by, spine, timestamp), size)


def _told(
    con: Connection, root: Path, by: Labelling, spine: Iterable[pa.Table], timestamp: str
) -> Iterator[pa.Table]:
    done = 0
    for rows in spine:
        table, asked = rows, times_of(rows, timestamp, done)
        keep = np.ones(rows.num_rows, np.bool_)
        for label in by.labels:
            state = states(con, root, label, keys(label, rows), asked, by.as_of)
            for one in (LabelState.IMMATURE, LabelState.CENSORED):
                if by.immature == "drop" and (count := int((keep & (state == one)).sum())):
                    by.left_out[one.name] += count
            keep &= state == LabelState.MATURE
            table = table.append_column(f"{label.name}__state", state_column(state))
        done += rows.num_rows
        yield table if by.immature == "keep" or keep.all() else table.filter(pa.array(keep))


def _resliced(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    held: list[pa.Table] = []
    rows, given = 0, False
    for table in tables:
        held.append(table)
        rows += table.num_rows
        while rows >= size:
            whole = pa.concat_tables(held)
            yield whole.slice(0, size)
            held, rows, given = [whole.slice(size)], rows - size, True
    if rows or not given:
        yield pa.concat_tables(held)


def keys(label: Label, spine: pa.Table) -> Keys:
    """The columns of the rows that say whose events count. Raises SpineError for one that is missing."""
    try:
        return [keys_of(spine, k.name, k.dtype, f"label '{label.name}'") for k in label.view.keys]
    except SpineError as error:
        raise SpineError(f"{error}\n  or make the set without its labels: labelled=False") from error


def states(con: Connection, root: Path, label: Label, parts: Keys, asked: Array, as_of: int) -> Array:
    """Whether each row's label is known as of a moment (µs): codes of `LabelState`."""
    end = asked + (label.gap + label.horizon)
    found = np.where(end + label.lateness <= as_of, LabelState.MATURE, LabelState.IMMATURE).astype(np.int8)
    if label.observed == "last_event":
        found[(found == LabelState.MATURE) & (end > _reach(con, root, label, as_of))] = LabelState.CENSORED
    if label.matures == "first_event":
        early = np.flatnonzero(found != LabelState.MATURE)
        if len(early):
            some = [(v[early], None if ok is None else ok[early]) for v, ok in parts]
            found[early[_any_event(con, root, label, some, asked[early], as_of)]] = LabelState.MATURE
    found[~_whole(parts, len(asked))] = LabelState.CENSORED
    if label.view.erased is not None and len(asked):
        found[_erased_at(con, label, parts) > asked + label.gap] = LabelState.CENSORED
    return found


def _whole(parts: Keys, rows: int) -> Mask:
    whole = np.ones(rows, np.bool_)
    for _, valid in parts:
        if valid is not None:
            whole &= valid
    return whole


def _reach(con: Connection, root: Path, label: Label, as_of: int) -> int:
    """The time of the last event of the label's source, whoever's; before all time where there is none."""
    source = label.view.source
    assert source.event_time is not None
    wanted = [c for c in (source.event_time, source.arrival_time) if c is not None]
    rows = source_sql(con, source, wanted, root)
    newest = f"SELECT epoch_us(max({ident(source.event_time, DUCKDB)})) FROM ({rows})"  # noqa: S608  written through `ident`
    ((last,),) = con.execute(f"{newest} WHERE {known_sql(source, as_of)}").fetchall()
    return _NEVER if last is None else int(last)


_EVENTS = Feature("events", "count", (), (), Int64)


def _any_event(con: Connection, root: Path, label: Label, parts: Keys, asked: Array, as_of: int) -> Mask:
    """Whether one event of each row's range has arrived."""
    count = replace(_EVENTS, window=label.view.features[0].window)
    view = replace(label.view, features=(count,))
    end = asked + (label.gap + label.horizon)
    cells = view_cells(con, root, view, [count], parts, end, known=as_of)
    some: Mask = cells[count.name].values > 0
    return some


def _erased_at(con: Connection, label: Label, parts: Keys) -> Array:
    """When each row's entity was erased, in microseconds; before all time where it was not."""
    view = label.view
    assert view.erased is not None
    # The digest of a row's own columns: they have the names and types of the join keys.
    columns = tuple((k.name, k.dtype) for k in view.keys)
    own = replace(
        view,
        keys=tuple(Key(k.name, k.dtype, Column(k.name)) for k in view.keys),
        source=replace(view.source, columns=columns),
    )
    every = np.ones(len(parts[0][0]), np.bool_)
    rows = {
        k.name: from_physical(v, every if ok is None else ok, k.dtype)
        for k, (v, ok) in zip(view.keys, parts, strict=True)
    }
    con.register("label_rows", pa.table(rows))
    con.register(
        "label_erased",
        pa.table(
            {"__digest": [d for d, _ in view.erased.keys], "__before": [at for _, at in view.erased.keys]},
            pa.schema([("__digest", pa.string()), ("__before", pa.int64())]),
        ),
    )
    try:
        found = con.sql(
            f"SELECT coalesce(e.__before, {_NEVER}) AS at FROM "  # noqa: S608  the digest is written through `literal`
            f"(SELECT row_number() OVER () AS n, {digest_sql(own, view.erased.salt)} AS d FROM label_rows) r "
            "LEFT JOIN label_erased e ON e.__digest = r.d ORDER BY n"
        ).to_arrow_table()
    finally:
        con.unregister("label_rows")
        con.unregister("label_erased")
    at: Array = found.column("at").to_numpy()
    return at


# ---------------------------------------------------------------------------------------------------------- what it is


def values(
    con: Connection, root: Path, label: Label, parts: Keys, asked: Array, state: Array, as_of: int
) -> tuple[Array, Mask]:
    """The value of each row, in the label's physical type, and where it is not NULL. It is NULL unless it is mature."""
    view = label.view
    end = asked + (label.gap + label.horizon)
    cells = view_cells(con, root, view, view.features, parts, end, known=as_of)
    program = compile_expression(label.value, {f.name: f.dtype for f in view.features})
    columns: Mapping[str, Any] = {n: (c.values, c.valid) for n, c in cells.items()}
    found, valid = program.evaluate(columns, len(asked), asked)
    return found, valid & (state == LabelState.MATURE)


def labelled(
    con: Connection, root: Path, by: Labelling, rows: pa.Table, asked: Array
) -> Iterator[tuple[str, pa.Array]]:
    """The columns of `column_names` for rows that `told` gave."""
    mature = np.ones(len(asked), np.bool_)
    for label in by.labels:
        column = rows.column(f"{label.name}__state").combine_chunks()
        state = column.indices.to_numpy(zero_copy_only=False)
        mature &= state == LabelState.MATURE
        found, valid = values(con, root, label, keys(label, rows), asked, state, by.as_of)
        yield label.name, from_physical(found, valid, label.dtype)
        yield f"{label.name}__state", column
    yield IS_MATURE, pa.array(mature)


def state_column(state: Array) -> pa.DictionaryArray:
    """States as words."""
    return pa.DictionaryArray.from_arrays(pa.array(state), pa.array([s.name for s in LabelState]))


__all__ = [
    "IS_MATURE",
    "Immature",
    "Labelling",
    "Version",
    "check",
    "column_names",
    "keys",
    "labelled",
    "state_column",
    "states",
    "told",
    "values",
    "versions",
]
