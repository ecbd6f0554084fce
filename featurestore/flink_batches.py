"""Materialisation whose tiles Flink makes: its answers as the records that DuckDB's answers become.

The job runs where the driver of `streaming/` runs it: in a cluster of its own process, or in one that Flink's own settings name,
which then has to see the files of the project at the same place.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from featurestore.compile.files import files_of
from featurestore.compile.flink_batch import Output, Range, batch_wire, job_file, range_job
from featurestore.compile.sources import Connection
from featurestore.config import Config, expand
from featurestore.errors import FlinkError, MaterializeError, SourceError, Unsupported
from featurestore.evaluate.partials import Array
from featurestore.flink.place import Place, checked, java, place_of, reason
from featurestore.flink.rows import latest_records, output_sql, tile_records
from featurestore.ir import View
from featurestore.layout import Layout, Level
from featurestore.materialize import ENTITIES, TILES, Batch, Rows
from featurestore.online.codec import BASE, FOLD, Codec, Records, Section, entity_keys
from featurestore.online_records import key_columns, owners


class FlinkBatches:
    """Makes the batches of `materialize_view` by Flink jobs, one for bases, one for heads; what lies between is in `folder`."""

    def __init__(self, folder: Path, driver: Driver) -> None:
        self._folder, self._driver = folder, driver

    def __call__(
        self,
        con: Connection,
        view: View,
        layout: Layout,
        codec: Codec,
        root: Path,
        *,
        role: bytes,
        start: int | None,
        end: int,
    ) -> Iterator[Batch]:
        """Raises Unsupported for what a job cannot do, MaterializeError for rows that it cannot read, FlinkError if it fails."""
        with _folder(self._folder) as folder:
            given, made = folder / "in", folder / "out"
            wire = batch_wire(view, given.as_uri())
            _gather(con, view, root, given)
            job, outputs = range_job(view, wire, Range(start, end, role == BASE, FOLD))
            self._driver.run(job_file(job, outputs, made.as_uri()), folder)
            *tiles, bounds, unread = outputs
            _must_be_read(con, view, made, unread)
            by = ", ".join(f"k{i}" for i in range(len(view.keys)))
            levels = [
                Rows(con, f"{output_sql(made, tile)} ORDER BY {by}, tile", len(view.keys), TILES)
                for tile in tiles
            ]
            newest = Rows(con, f"{output_sql(made, bounds)} ORDER BY {by}", len(view.keys), ENTITIES)
            for entities in newest.stretches():
                keys = key_columns(view, entities)
                last = tuple(entities.column(f"k{i}")[-1].as_py() for i in range(len(view.keys)))
                sections = [
                    _tiles(view, level, section, rows.up_to(last), keys)
                    for level, section, rows in zip(layout.levels, codec.sections, levels, strict=False)
                ]
                sections.append(latest_records(layout, codec.sections[-1], entities))
                first_at, last_at = (entities.column(c).to_numpy() for c in ("first_at", "last_at"))
                yield Batch(*entity_keys(view, keys, codec.prefix + role), first_at, last_at, sections, last)


@contextmanager
def _folder(parent: Path) -> Iterator[Path]:
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=parent)).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _gather(con: Connection, view: View, root: Path, folder: Path) -> None:
    """Links to the files of a source, the very ones that DuckDB would read: Flink takes a folder, and no pattern."""
    path = expand(view.source.location.path)
    if re.match(r"[a-z0-9]+://", path):
        raise Unsupported(
            f"a Flink job for view '{view.name}'",
            f"read {path}",
            "files that the project and the cluster see at the same place; or --engine duckdb",
        )
    folder.mkdir()
    files = files_of(con, str(root / path))
    if not files:
        raise SourceError(f"no file matches {path}\n  looked in {root.resolve()}")
    for number, file in enumerate(files):
        (folder / f"{number:06d}{''.join(Path(file).suffixes[-2:])}").symlink_to(Path(file).resolve())


class Driver:
    """The driver of `streaming/` in a process of its own, started with the first job and kept for the next ones."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._process: subprocess.Popen[str] | None = None

    def run(self, job: Mapping[str, Any], folder: Path) -> None:
        """Runs a job to its end. Raises FlinkError where there is no Flink, and with what it says if the job fails."""
        file = folder / "job.json"
        settings = {**job["settings"], **_where(place_of(self._config))}
        file.write_text(json.dumps({**job, "settings": settings}))
        if self._process is None:
            self._process = _started(self._config)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{file}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended: there is no answer, which is said below
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries of Java's log there too
                answer = json.loads(line)
                break
        else:
            self.close()
            raise FlinkError("the Flink driver ended without an answer\n  is there memory for a JVM?")
        if "error" in answer:
            raise FlinkError(f"the Flink job failed\n  {reason(answer['error'])}")

    def close(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _where(place: Place) -> dict[str, str]:
    """Settings that hand a job to the cluster of `[stream] cluster`; none for one inside the driver's process."""
    if place.local:
        return {}
    host, _, port = place.cluster.rpartition("://")[2].rstrip("/").partition(":")
    return {
        "execution.target": "remote",
        "rest.address": host,
        "rest.port": port or "8081",
        "parallelism.default": str(place.parallelism),
    }


def _started(config: Config) -> subprocess.Popen[str]:
    place = checked(place_of(config))
    return subprocess.Popen(  # noqa: S603 (a program of the project's own)
        [str(place.python), "-m", "fsflink", "serve"],
        cwd=place.project,
        env=os.environ | {"JAVA_HOME": str(Path(java()).resolve().parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _tiles(view: View, level: Level, section: Section, table: pa.Table, entities: Sequence[Array]) -> Records:
    return tile_records(level, section, table, owners(view, table, entities))


def _must_be_read(con: Connection, view: View, made: Path, unread: Output) -> None:
    """Raises MaterializeError where rows were left out because they could not be read: they would be missed."""
    (found,) = con.execute(output_sql(made, unread)).fetchall() or [(0, None)]
    if found[0]:
        raise MaterializeError(
            f"{found[0]:,} rows of source '{view.source.name}' are no events to Flink; nothing was written\n"
            f"  one of them: {found[1]}\n  --engine duckdb reads what is in another form"
        )
