"""A first definition for a file: which column says when, which says who, and features that can be made of the rest.

A guess to be read and mended, so it is made from names, types and counts alone, and every part of it is said.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import duckdb

from featurestore.compile.duckdb import DUCKDB
from featurestore.compile.sources import Connection, connect, inspect, location_sql
from featurestore.compile.sql import ident
from featurestore.errors import SourceError
from featurestore.ir import Location
from featurestore.types import DType, Int32, Int64, String, Timestamp, is_numeric

_TIMES = ("event_timestamp", "event_time", "timestamp", "time", "ts", "datetime", "occurred_at", "created_at")
_ID = re.compile(r"(^|_)(id|key|code|no|number|uuid)$", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_MOST = 8  # features of a first definition: enough to see how they are written


@dataclass(frozen=True, slots=True)
class Guess:
    """The text of `definitions.py`, what was guessed, and the commands that come next."""

    definitions: str
    said: tuple[str, ...]
    next_steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Facts:
    """What was seen of a file: the types of its columns, rows, and how many values of each column differ."""

    columns: dict[str, DType]
    rows: int
    distinct: dict[str, int]


def guess(file: Path, root: Path) -> Guess:
    """A source, view and service for `file`, in a project at `root`.

    Raises SourceError when the file is no Parquet or CSV, is empty, or has no column that could be a join key.
    """
    kind = "csv" if file.suffix.lower() in (".csv", ".tsv") else "parquet"
    location = Location(kind, str(file.resolve()))
    with closing(connect()) as con:
        try:
            facts = _facts(con, location, root)
            time = _time(facts)
            key, event_id = _key(facts, static=time is None), None
            if key is None:
                known = ", ".join(f"{n} {t!r}" for n, t in facts.columns.items())
                raise SourceError(
                    f"{file}: no column could be a join key: a whole number or a text that repeats\n  it has {known}"
                )
            event_id = _event_id(facts, key) if time is not None else None
            sample = _sample(con, location, root, time, key)
        except duckdb.Error as error:
            raise SourceError(f"cannot read {file}\n  {str(error).splitlines()[0]}") from error
    return _written(file, root, kind, facts, (time, key, event_id), sample)


def _facts(con: Connection, location: Location, root: Path) -> _Facts:
    columns = inspect(con, location, root)
    if not columns:
        raise SourceError(f"{location.path} has no column of a type that a feature can hold")
    counted = ", ".join(f"count(DISTINCT {ident(c, DUCKDB)})" for c in columns)
    found = con.execute(f"SELECT count(*), {counted} FROM {location_sql(con, location, root)}").fetchone()  # noqa: S608
    assert found is not None
    rows, *distinct = found
    if not rows:
        raise SourceError(f"{location.path} holds no rows\n  there is nothing to guess from")
    return _Facts(columns, rows, dict(zip(columns, distinct, strict=True)))


def _time(facts: _Facts) -> str | None:
    """The event time: a timestamp, a well-known name before others."""
    found = [c for c, t in facts.columns.items() if t == Timestamp]
    return min(
        found, key=lambda c: _TIMES.index(c.lower()) if c.lower() in _TIMES else len(_TIMES), default=None
    )


def _key(facts: _Facts, *, static: bool) -> str | None:
    """The join key, of the whole numbers and texts: of each pool the one with most values.

    Events repeat their key, so a column called an id that repeats, else a text that repeats, else anything that does. A
    static table has a row for each entity, so any that is called an id.
    """
    possible = [c for c, t in facts.columns.items() if t in (Int64, Int32, String) and facts.distinct[c]]
    repeat = [c for c in possible if 1 < facts.distinct[c] < facts.rows]
    named = [c for c in possible if _ID.search(c)]
    texts = [c for c in repeat if facts.columns[c] == String]
    pools = [named] if static else []
    pools += [[c for c in named if c in repeat], texts, repeat, named, possible]
    pool: list[str] = next((p for p in pools if p), [])
    return max(pool, key=lambda c: facts.distinct[c], default=None)


def _event_id(facts: _Facts, key: str) -> str | None:
    """A column called an id in which no value comes twice."""
    unique = (c for c in facts.columns if c != key and facts.distinct[c] == facts.rows and _ID.search(c))
    return next(unique, None)


def _sample(
    con: Connection, location: Location, root: Path, time: str | None, key: str
) -> tuple[object, str | None]:
    """A key to ask for, the newest in the file, and the whole second after it."""
    table, who = location_sql(con, location, root), ident(key, DUCKDB)
    if time is None:
        found = con.execute(f"SELECT {who}, NULL FROM {table} WHERE {who} IS NOT NULL LIMIT 1").fetchone()  # noqa: S608
    else:
        at = ident(time, DUCKDB)
        after = f"strftime(date_trunc('second', {at}::TIMESTAMP) + INTERVAL 1 SECOND, '%Y-%m-%dT%H:%M:%S')"
        known = f"{who} IS NOT NULL AND {at} IS NOT NULL"
        newest = f"SELECT {who}, {after} FROM {table} WHERE {known} ORDER BY {at} DESC LIMIT 1"  # noqa: S608
        found = con.execute(newest).fetchone()
    if found is None:
        raise SourceError(f"{location.path}: no row has both a key ({key}) and a time ({time})")
    return found[0], found[1]


def _written(
    file: Path,
    root: Path,
    kind: str,
    facts: _Facts,
    roles: tuple[str | None, str, str | None],
    sample: tuple[object, str | None],
) -> Guess:
    time, key, event_id = roles
    inside = file.resolve().is_relative_to(root.resolve())
    path = os.path.relpath(file.resolve(), root.resolve()) if inside else str(file.resolve())
    source = _name(file.stem)
    entity = _name(re.sub(r"_(id|key|code|no|number|uuid)$", "", key, flags=re.IGNORECASE))
    view = f"{entity}_{source}" if entity != source else f"{entity}_features"
    rest = [c for c in facts.columns if c not in (time, key, event_id)]
    features = list(_windowed(facts, rest) if time is not None else _latest(facts, rest))[:_MOST]
    if not features:
        features = [f"latest({_quoted(key)})"] if time is None else []
    used = sorted(
        {"BatchSource", "Entity", "FeatureService", "FeatureView", kind.capitalize()} | _words(features)
    )
    roles_text = "".join(
        f"    {role}={_quoted(column)},\n"
        for role, column in (("event_time", time), ("event_id", event_id))
        if column
    )
    lines = "".join(f"        {feature},\n" for feature in features)
    text = f'''"""Features from {file.name}. A first guess: change what is wrong."""

from featurestore import {", ".join(used)}

{entity} = Entity("{entity}", key={_quoted(key)})

{source}_events = BatchSource(
    "{source}",
    batch={kind.capitalize()}({_quoted(path)}),
{roles_text})

{view} = FeatureView(
    "{view}",
    entity={entity},
    source={source}_events,
    features=[
{lines}    ],
)

{source}_service = FeatureService("{source}", features=[{view}])
'''
    when = f"event time is '{time}'" if time else "no timestamp, so the source is static"
    said = [f"join key is '{key}': {facts.distinct[key]:,} values in {facts.rows:,} rows", when]
    said += [f"event id is '{event_id}': no value comes twice"] if event_id else []
    asked, moment = sample
    end, at = (f" --end {moment}", f" --at {moment}") if moment else ("", "")
    steps = ("fs apply --yes", f"fs materialize{end}", f"fs get {source} {shlex.quote(f'{key}={asked}')}{at}")
    return Guess(text, tuple(said), steps)


def _windowed(facts: _Facts, columns: Sequence[str]) -> Iterator[str]:
    yield "count().over(days(1), days(7))"
    for column in columns:
        dtype = facts.columns[column]
        if is_numeric(dtype):
            yield f"mean({_quoted(column)}).over(days(7), days(30)){_named(column, 'mean')}"
        elif dtype == String:
            yield f"last({_quoted(column)}).over(days(30)){_named(column, 'last')}"


def _latest(facts: _Facts, columns: Sequence[str]) -> Iterator[str]:
    for column in columns:
        if is_numeric(facts.columns[column]) or facts.columns[column] == String:
            yield f"latest({_quoted(column)}){_named(column, '')}"


def _named(column: str, aggregate: str) -> str:
    """A name of its own where the column's is none."""
    if _NAME.match(column) and "__" not in column:
        return ""
    return f'.named("{"_".join(filter(None, (_name(column), aggregate)))}")'


def _words(features: Sequence[str]) -> set[str]:
    return {word for f in features for word in re.findall(r"(?:^|[ (])(count|mean|last|latest|days)\(", f)}


def _quoted(text: str) -> str:
    """A text as Python writes it, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def _name(text: str) -> str:
    """A name that definitions accept, made of any text."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_").lower()
    return name if name[:1].isalpha() else f"x_{name}".rstrip("_")
