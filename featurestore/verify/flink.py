"""The engine `flink`: the view's compiled job over the sample's events, its tiles put into heads as a writer does, and read.

The moments as of which a store is written are one more part of the key: what is known by each goes through one job, side by side,
since planning a job costs more than running it over a sample. Nothing else of the view changes, and that part of the key is gone
before the tiles are put in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from featurestore.compile.flink_batch import Output, batch_wire, job_file, unread_output
from featurestore.compile.flink_job import Job, job_of
from featurestore.compile.reference import Event
from featurestore.config import Config
from featurestore.errors import FlinkError, MaterializeError, Unsupported
from featurestore.expr import Column
from featurestore.flink.place import LOCAL, checked, place_of
from featurestore.flink.rows import latest_records, output_sql, tile_records
from featurestore.flink_batches import Driver
from featurestore.ir import Key, Location, View
from featurestore.layout import Layout, layout_of
from featurestore.online.codec import Codec, codec_of
from featurestore.online.state import StreamState, stream_name
from featurestore.online_records import key_columns
from featurestore.serving import Reader
from featurestore.stream.apply import Heads
from featurestore.stream.tile_records import Upserts
from featurestore.stream.upserts import Now
from featurestore.types import Int64
from featurestore.verify.engines import Answers, Engine, Flink, Gap, Question, World, read_answers, register
from featurestore.verify.replay import streamed
from featurestore.verify.tables import as_arrow

EPOCH = 1
"""The job's only start."""


@contextmanager
def flink_here(config: Config | None) -> Iterator[Flink]:
    """Flink on this machine, whatever cluster the project's own jobs run on; or why it is not there."""
    if config is None:
        yield Flink(None, "no project says where Flink is")
        return
    here = replace(config, flink={**config.flink, "cluster": LOCAL})
    try:
        checked(place_of(here))
    except FlinkError as error:
        yield Flink(None, str(error))
        return
    with Driver(here) as driver:
        yield Flink(driver)


def _why_not(world: World) -> Gap | None:
    try:
        _job(world.view, Location("parquet", "events"))
    except Unsupported as error:
        return Gap(str(error), never=True)
    flink = world.lab.flink
    return Gap(flink.why_not) if flink.driver is None else None


def _by_flink(world: World, questions: Sequence[Question]) -> list[Answers]:
    ends = sorted({q.known_until for q in questions})
    view = streamed(world.view, f"flink-{world.lab.number()}")
    layout = layout_of(view)
    codec = codec_of(view, layout)
    tables = _made(world, ends)
    heads, reader = Heads(world.lab.store, view), Reader(world.lab.store, world.service, {view.name: view})
    done: list[Answers] = [{}] * len(questions)
    for turn, end in enumerate(ends):
        heads.apply(_upserts(view, layout, codec, tables, end, turn), Now(EPOCH, clock=end))
        state = StreamState("verify", end, None, end)
        world.lab.store.set_metas({stream_name(codec): state.to_bytes()})
        read_answers(world, reader, questions, end, done)
    return done


# ── the job ─────────────────────────────────────────────────────────────────────────────────────────────────


def keyed_by_cut(view: View) -> tuple[View, str]:
    """The view with one more part of its key, the last: the moment by which events are known, and its column in the source."""
    name = "known until"
    while name in view.source.schema:
        name += " "
    source = replace(view.source, columns=(*view.source.columns, (name, Int64)))
    return replace(view, keys=(*view.keys, Key(name, Int64, Column(name))), source=source), name


def known_by(world: World, ends: Sequence[int]) -> list[tuple[Event, int]]:
    """The events that are known by each end."""
    time = world.view.source.event_time
    assert time is not None

    def known(event: Event, end: int) -> bool:
        at = event[time]
        return not isinstance(at, int) or at < end

    return [(event, end) for end in ends for event in world.events if known(event, end)]


def _job(view: View, location: Location) -> tuple[Job, list[Output]]:
    """The job of the view keyed by cut, and what is to be written of it."""
    keyed, _ = keyed_by_cut(view)
    keyed = replace(keyed, source=replace(keyed.source, location=location))
    job = job_of(keyed, batch_wire(keyed, location.path), mode="batch")
    outputs = [Output(str(query.level), query.sql, query.columns) for query in job.queries]
    return job, [*outputs, unread_output(job)]


def _made(world: World, ends: Sequence[int]) -> list[tuple[int, pa.Table]]:
    """The rows that the job makes of the events known by each end, with the section of heads that they go to."""
    lab = world.lab
    driver = lab.flink.driver
    assert driver is not None
    folder = lab.root / f"flink-{lab.number()}"
    given, made = folder / "in", folder / "out"
    given.mkdir(parents=True)
    _write(world, ends, given / "events.parquet")
    job, outputs = _job(world.view, Location("parquet", given.as_uri()))
    driver.run(job_file(job, outputs, made.as_uri()), folder)
    *wanted, unread = outputs
    (found,) = lab.con.execute(output_sql(made, unread)).fetchall() or [(0, None)]
    if found[0]:
        raise MaterializeError(
            f"{found[0]:,} rows of source '{world.view.source.name}' are no events to Flink\n  one of them: {found[1]}"
        )
    levels = len(layout_of(world.view).levels)
    return [
        (min(query.level, levels), lab.con.sql(output_sql(made, output)).to_arrow_table())
        for query, output in zip(job.queries, wanted, strict=True)
    ]


def _write(world: World, ends: Sequence[int], path: Path) -> None:
    rows = known_by(world, ends)
    columns = {n: as_arrow([event[n] for event, _ in rows], dtype) for n, dtype in world.view.source.columns}
    columns[keyed_by_cut(world.view)[1]] = pa.array([end for _, end in rows], pa.int64())
    pq.write_table(pa.table(columns), path)


# ── its rows as a writer takes them ─────────────────────────────────────────────────────────────────────────


def _upserts(
    view: View, layout: Layout, codec: Codec, tables: Sequence[tuple[int, pa.Table]], end: int, turn: int
) -> list[Upserts]:
    """The tiles and newest rows of what is known by `end`, the `turn`th of the moments."""
    cut = f"k{len(view.keys)}"
    found = []
    for number, table in tables:
        rows = table.filter(pc.equal(table.column(cut), end))
        newest = number == len(layout.levels)
        section, whose = codec.sections[number], np.arange(len(rows))
        records = (
            latest_records(layout, section, rows)
            if newest
            else tile_records(layout.levels[number], section, rows, whose)
        )
        came = np.zeros(len(rows), np.int64) if newest else rows.column("rows").to_numpy()
        first, last = (rows.column(c).to_numpy() for c in ("first_at", "last_at"))
        marks = np.uint64(EPOCH << 32) | came.astype("<u8")
        turns = np.full(len(rows), turn, np.int64)
        found.append(
            Upserts(number, key_columns(view, rows), records, marks, came, first, last, offsets=turns)
        )
    return found


register(
    Engine(
        "flink",
        "The compiled job on a Flink of this machine, in batch mode; its tiles put into LMDB as a writer does, and read.",
        "written",
        _by_flink,
        asked_for=True,
        why_not=_why_not,
    )
)
