"""`_manifest.json`: what a training set was made of and how, and the same set made again from it.

The manifest is written last, so a folder without one is not finished. It has no clock in it: the same set made twice has
the same manifest.
"""

from __future__ import annotations

import base64
import json
import os
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import ir
from featurestore.compile.sources import Connection, connect, location_sql
from featurestore.config import Config, expand
from featurestore.datasets.digests import RowsDigest, file_digest
from featurestore.datasets.rows import Streamed
from featurestore.erasures import Erasures
from featurestore.errors import DatasetError, SourceError
from featurestore.functions import bound
from featurestore.labels import versions
from featurestore.repo import load_declarations
from featurestore.statistics.scalers import Scaler
from featurestore.status import LabelState

if TYPE_CHECKING:
    from featurestore.training import TrainingSet

MANIFEST = "_manifest.json"
"""Who reads a folder as one Parquet table (Arrow, pandas, Spark) passes over names that begin with an underscore."""

FORMAT = 1
PARQUET: Mapping[str, Any] = {
    "compression": "snappy",
    "version": "2.6",
    "data_page_version": "1.0",
    "row_group_size": 1 << 20,
}
"""How parts are written: with one version of Arrow the same rows are the same bytes."""

_NOT_PARAMETERS = frozenset(
    {"config", "service", "views", "spine", "reference", "slice_rows", "scaler", "erased", "labels"}
)
_AGAIN = "`TrainingSet.to_parquet(dir)` and `fs dataset` write one"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest that was read: `folder` is where it lies, `content` its JSON without the seal."""

    folder: Path
    content: Mapping[str, Any]

    @property
    def parts(self) -> list[Path]:
        """The Parquet files, in order."""
        return [self.folder / part["file"] for part in self.content["parts"]]

    @property
    def spine_columns(self) -> list[str]:
        return list(self.content["spine"]["columns"])


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A set made again. `identical`: every file has the bytes it had; `same_values`: every row has the values it had.

    `changes` says what is not as it was (an input file, a version), whether or not it made a difference.
    """

    directory: Path
    parts: tuple[Path, ...]
    identical: bool
    same_values: bool
    changes: tuple[str, ...]


# ---------------------------------------------------------------------------------------------------------------- write


def write(training: TrainingSet, directory: str | Path) -> list[Path]:
    """Writes the set: a Parquet file for each slice of the spine, then the manifest. The files, in order.

    Raises FileExistsError when the folder holds Parquet files already, SourceError when an input changes meanwhile.
    """
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    if any(target.glob("*.parquet")) or (target / MANIFEST).exists():
        raise FileExistsError(f"{target} holds Parquet files already\n  give an empty folder")
    root = training.config.root
    erased = training.erasures_now()
    training = replace(training, slice_rows=training.rows_of_a_slice, erased=erased)
    read = {**training.views, **{f"label {x.name}": x.view for x in training.labels}}
    before = inputs(read, root)
    left_out: Counter[str] = Counter()
    spine_digest, parts, written, schema = RowsDigest(), [], [], pa.schema([])
    own = len(training.service.columns) * (2 if training.statuses else 1)
    own += len(training.provenance_columns) + len(training.label_columns)
    for number, rows in enumerate(training.tables(left_out)):
        table = rows.combine_chunks()
        schema = table.schema
        spine_digest.add(table.select(schema.names[: len(schema) - own]))
        path = target / f"part-{number:05d}.parquet"
        partial = path.with_name(f".{path.name}.tmp")
        pq.write_table(table, partial, **PARQUET)
        values = RowsDigest()
        values.add(table)
        parts.append(
            {
                "file": path.name,
                "rows": table.num_rows,
                "bytes": partial.stat().st_size,
                "digest": file_digest(partial),
                "rows_digest": values.hexdigest(),
            }
        )
        written.append(partial.rename(path))
    if _stamps(before, root) != _stamps(inputs(read, root, digests=False), root):
        raise SourceError("a source changed while it was read\n  make the set again in a new folder")
    if training.erasures_now().number != erased.number:
        raise SourceError("an entity was erased while the set was made\n  make it again in a new folder")
    spine_schema = pa.schema(list(schema)[: len(schema) - own])
    content = _content(training, before, spine_schema, spine_digest.hexdigest(), schema, parts)
    if training.labels:
        content["labels"] = _labels(training, left_out)
    _write_last(target / MANIFEST, content)
    return written


def _content(
    training: TrainingSet,
    read: list[dict[str, Any]],
    spine_schema: pa.Schema,
    spine_digest: str,
    schema: pa.Schema,
    parts: list[dict[str, Any]],
) -> dict[str, Any]:
    service = training.service
    views = {name: training.views[name] for name in sorted({r.view for r in service.reads})}
    named = [f.name for f in fields(training) if f.name not in _NOT_PARAMETERS]
    about = ir.About()
    entities = [v.entity for v in (*views.values(), *(x.view for x in training.labels))]
    return {
        "format": FORMAT,
        "service": {
            "name": service.name,
            "version": training.reference,
            "fingerprint": ir.service_fingerprint(service, views),
        },
        "views": {name: ir.view_fingerprint(view) for name, view in views.items()},
        **({} if training.scaler is None else {"scaler": training.scaler.to_json()}),
        "parameters": {n: getattr(training, n) for n in named},
        "spine": {
            "columns": spine_schema.names,
            "rows": sum(p["rows"] for p in parts),
            "digest": spine_digest,
            "from": _said(training.spine),
            "schema": base64.b64encode(spine_schema.serialize().to_pybytes()).decode(),
        },
        "erased": {} if training.erased is None else training.erased.said(entities),
        "inputs": [{k: v for k, v in i.items() if k != "stamps"} for i in read],
        "work": {"slice_rows": training.rows_of_a_slice} | _constants(),
        "made_with": made_with(),
        "rows": sum(p["rows"] for p in parts),
        "columns": [{"name": f.name, "type": str(f.type)} for f in schema],
        "parts": parts,
        "plan": ir.to_json(
            ir.Plan(
                views=tuple(views.values()),
                services=(replace(service, about=about),),
                labels=training.labels,
            )
        ),
    }


def _labels(training: TrainingSet, left_out: Mapping[str, int]) -> dict[str, Any]:
    """Which version of each label the set holds, and how many rows had none that is mature."""
    assert training.as_of is not None
    return {
        "versions": {
            v.name: {"version": v.reference, "fingerprint": v.fingerprint, "id": v.id}
            for v in versions(training.labels, training.as_of)
        },
        "columns": training.label_columns,
        "left_out": {s.name: left_out.get(s.name, 0) for s in LabelState if s is not LabelState.MATURE},
    }


def _constants() -> dict[str, Any]:
    """What decides in which order floats are added up, besides the plan."""
    from featurestore import joining
    from featurestore.evaluate import point_in_time, ranges

    return {
        "batch_events": joining.BATCH_EVENTS,
        "chunk_events": joining.CHUNK_EVENTS,
        "piece_rows": point_in_time.PIECE,
        "block_rows": ranges.BLOCK,
        "parquet": dict(PARQUET),
    }


def made_with() -> dict[str, str]:
    """The versions that a value's last bit, or a file's bytes, may depend on."""
    try:
        own = metadata.version("featurestore")
    except metadata.PackageNotFoundError:
        own = "unknown"
    return {
        "featurestore": own,
        "python": platform.python_version(),
        "duckdb": duckdb.__version__,
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
        "machine": platform.machine(),
    }


def _said(spine: object) -> Any:
    """Where the rows came from, for a reader: they are made again from the set itself."""
    if isinstance(spine, str | Path):
        return str(spine)
    said = getattr(spine, "said", None)
    return said if said is not None else type(spine).__name__


def _write_last(path: Path, content: Mapping[str, Any]) -> None:
    sealed = {**content, "seal": ir.digest(content)}
    partial = path.with_name(f".{path.name}.tmp")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(sealed, file, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


# --------------------------------------------------------------------------------------------------------------- inputs


def inputs(views: Mapping[str, ir.View], root: Path, *, digests: bool = True) -> list[dict[str, Any]]:
    """What lies where the views read: files with bytes and digest, or the digest of a query's rows.

    `checked` is None where a change would not be noticed (remote files are known by size, tables of a lake not at all).
    """
    places: dict[tuple[str, str], ir.Location] = {}
    for view in views.values():
        places.setdefault(
            (view.source.name, ir.canonical(ir.to_json(view.source.location))), view.source.location
        )
    con = connect()
    try:
        return [
            {
                "source": name,
                "kind": place.kind,
                "path": place.path,
                **_found(con, place, root, digests=digests),
            }
            for (name, _), place in sorted(places.items())
        ]
    finally:
        con.close()


def _found(con: Connection, place: ir.Location, root: Path, *, digests: bool) -> dict[str, Any]:
    if place.kind == "sql":
        return {"checked": "rows", "digest": _query_digest(con, place, root) if digests else None}
    if place.kind not in ("parquet", "csv", "json"):
        return {"checked": None}
    location_sql(con, place, root)  # raises SourceError when nothing is there
    path = expand(place.path)
    if "://" in path and not path.startswith("file://"):
        rows = con.execute("SELECT filename, size FROM read_blob(?) ORDER BY ALL", [path]).fetchall()
        return {"checked": "size", "files": [{"path": name, "bytes": size} for name, size in rows]}
    full = path.removeprefix("file://") if "://" in path else str(root / path)
    files, stamps = [], []
    for file in _files(con, full):
        stat = file.stat()
        name = os.path.relpath(file, root) if file.is_relative_to(root) else str(file)
        stamps.append((name, stat.st_size, stat.st_mtime_ns))
        digest = {"digest": file_digest(file)} if digests else {}
        files.append({"path": name, "bytes": stat.st_size, **digest})
    return {"checked": "digest", "files": files, "stamps": stamps}


def _files(con: Connection, pattern: str) -> list[Path]:
    if Path(pattern).is_dir():
        return sorted(p for p in Path(pattern).rglob("*") if p.is_file())
    return [
        Path(name) for (name,) in con.execute("SELECT file FROM glob(?) ORDER BY file", [pattern]).fetchall()
    ]


def _query_digest(con: Connection, place: ir.Location, root: Path) -> str:
    digest = RowsDigest()
    digest.add(con.sql(f"FROM {location_sql(con, place, root)} ORDER BY ALL").to_arrow_table())
    return digest.hexdigest()


def _stamps(read: list[dict[str, Any]], root: Path) -> list[Any]:
    return [i.get("stamps") for i in read]


# ----------------------------------------------------------------------------------------------------------------- read


def load(path: str | Path) -> Manifest:
    """The manifest at `path`, a file or the folder of a set. Raises DatasetError when there is none, or it was edited."""
    place = Path(path)
    file = place / MANIFEST if place.is_dir() else place
    try:
        sealed = json.loads(file.read_text(encoding="utf-8"))
        content = {k: v for k, v in sealed.items() if k != "seal"}
        number, seal = content["format"], sealed["seal"]
    except FileNotFoundError as error:
        raise DatasetError(
            f"{place} has no {MANIFEST}: it is no training set, or not a whole one\n  {_AGAIN}"
        ) from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DatasetError(f"{file} is not a manifest: {type(error).__name__} {error}\n  {_AGAIN}") from error
    if number != FORMAT:
        raise DatasetError(f"{file} has format {number}, and this version reads {FORMAT}")
    if seal != ir.digest(content):
        raise DatasetError(f"{file} was edited after it was written: its seal differs\n  {_AGAIN}")
    return Manifest(file.parent, content)


def broken_parts(manifest: Manifest) -> list[str]:
    """What is wrong with the files of a set, a sentence each: gone, or of other bytes than were written."""
    wrong = []
    for path, part in zip(manifest.parts, manifest.content["parts"], strict=True):
        if not path.is_file():
            wrong.append(f"{part['file']} is gone")
        elif path.stat().st_size != part["bytes"] or file_digest(path) != part["digest"]:
            wrong.append(f"{part['file']} was changed after it was written")
    known = {part["file"] for part in manifest.content["parts"]}
    extra = sorted(p.name for p in manifest.folder.glob("*.parquet") if p.name not in known)
    return wrong + [f"{name} is not of this set" for name in extra]


# ---------------------------------------------------------------------------------------------------------- make again


def reproduce(config: Config, path: str | Path, out: str | Path, spine: Any = None) -> Reproduction:
    """Makes the set of a manifest again in `out`. Its rows are those in the set's own files, or `spine`.

    Raises DatasetError when that cannot be tried: the manifest or the rows are not what was written, or an input is gone.
    """
    old = load(path)
    content, notes = old.content, list[str]()
    if spine is None:
        notes = broken_parts(old)
        spine = _rows_of(old, notes)
    training = training_of(config, old, spine)
    try:
        written = write(training, out)
    except SourceError as error:
        said = "\n  ".join(str(error).splitlines())
        raise DatasetError(f"{old.folder} cannot be made again\n  {said}") from error
    new = load(out)
    if new.content["spine"]["digest"] != content["spine"]["digest"]:
        notes.append("the rows of the spine are not those the set was made of")
    notes += _erased_since(content, new.content, training.erasures_now())
    return Reproduction(
        Path(out),
        tuple(written),
        _each(old, "digest") == _each(new, "digest"),
        _each(old, "rows_digest") == _each(new, "rows_digest"),
        (*notes, *changes(content, new.content)),
    )


def training_of(config: Config, manifest: Manifest, spine: Any) -> TrainingSet:
    """The training set that a manifest describes, over the rows `spine`. Raises DatasetError for one of another version."""
    from featurestore.training import TrainingSet

    content = manifest.content
    plan = ir.from_json(content["plan"])
    known = {f.name for f in fields(TrainingSet)}
    parameters = content["parameters"]
    if strange := sorted(parameters.keys() - known):
        raise DatasetError(
            f"{manifest.folder / MANIFEST} names parameter '{strange[0]}', which this version does not know"
        )
    return TrainingSet(
        config=config,
        service=bound(plan.services[0], lambda: load_declarations(config)),
        views={v.name: v for v in plan.views},
        spine=spine,
        reference=content["service"]["version"],
        slice_rows=content["work"]["slice_rows"],
        scaler=None if content.get("scaler") is None else Scaler.from_json(content["scaler"]),
        labels=plan.labels,
        **parameters,
    )


def _erased_since(old: Mapping[str, Any], new: Mapping[str, Any], erased: Erasures) -> list[str]:
    """Who was erased after a set was made, a sentence for each entity: the one reason for a set not to come out the same."""
    said = []
    for entity, now in new["erased"].items():
        count = erased.since(entity, old.get("erased", {}).get(entity, {}).get("number", 0))
        if count:
            many = "entity was" if count == 1 else "entities were"
            said.append(
                f"{count} {many} erased from '{entity}' since: the newest receipt is {now['receipt']}"
            )
    return said


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What is not the same in inputs, versions and ways of working, a sentence each."""
    said = []
    for name, now in new["made_with"].items():
        was = old["made_with"].get(name)
        if was != now:
            said.append(f"{name} was {was} and is {now}")
    for name, now in new["work"].items():
        was = old["work"].get(name)
        if was != now:
            said.append(f"this version works with {name} {now}; the set was made with {was}")
    before, after = _files_of(old), _files_of(new)
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            said.append(f"input {name} is gone")
        elif name not in before:
            said.append(f"input {name} is new")
        elif before[name] != after[name]:
            said.append(f"input {name} has changed: {_sized(before[name])}, now {_sized(after[name])}")
    return said


def _files_of(content: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for read in content["inputs"]:
        if "files" in read:
            found.update({file["path"]: file for file in read["files"]})
        elif read["checked"]:
            found[f"{read['source']} (the rows of its query)"] = read
    return found


def _sized(file: Mapping[str, Any]) -> str:
    size = f"{file['bytes']:,} bytes" if "bytes" in file else "rows"
    return f"{size} of digest {file['digest'][:12]}" if file.get("digest") else size


def _each(manifest: Manifest, what: str) -> list[str]:
    return [part[what] for part in manifest.content["parts"]]


def _rows_of(manifest: Manifest, notes: list[str]) -> Streamed:
    """The rows that were enriched, out of the set's own files."""
    said = manifest.content["spine"]
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(said["schema"])))
    parts = [p for p in manifest.parts if p.is_file()]

    def batches() -> Iterator[pa.RecordBatch]:
        for path in parts:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(columns=schema.names):
                    table = pa.Table.from_batches([batch]).select(schema.names).cast(schema)
                    yield from table.to_batches()

    if notes:  # files that were not touched need no second look
        digest = RowsDigest()
        try:
            for batch in batches():
                digest.add(pa.Table.from_batches([batch]))
            whole = len(parts) == len(manifest.parts) and digest.hexdigest() == said["digest"]
        except (pa.ArrowException, OSError, KeyError):
            whole = False
        if not whole:
            raise DatasetError(
                "\n  ".join(
                    [
                        f"{manifest.folder} is not what was written, so its rows cannot be enriched again",
                        *notes,
                        f"give the rows themselves with spine=…; they came from {json.dumps(said['from'])}",
                    ]
                )
            )
    return Streamed(schema, batches, said["from"])


__all__ = [
    "Manifest",
    "Reproduction",
    "broken_parts",
    "changes",
    "inputs",
    "load",
    "made_with",
    "reproduce",
    "training_of",
    "write",
]
