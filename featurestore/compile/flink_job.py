"""A view as a Flink job: raw events in, tiles out, in one text of SQL statements.

Tiles are an updating GROUP BY of key and tile, never a window function: those drop late events and cannot fire early. Whether
an event is late is a predicate on its own record, so every replay agrees. What SQL lacks (order by event time, moments,
distinct, buckets, frequencies) is a Java function of `streaming/java`, whose states are those of `evaluate/`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, assert_never

from featurestore.aggregates import (
    Buckets,
    Count,
    Distinct,
    First,
    FirstK,
    Frequencies,
    Largest,
    Last,
    LastK,
    MaxBy,
    Maximum,
    MinBy,
    Minimum,
    Moments,
    Smallest,
    Sum,
    inputs_of,
    ordered,
)
from featurestore.compile.avro import schema_of
from featurestore.compile.flink import FLINK, JAVA, type_name
from featurestore.compile.sql import clean_sql, expr_sql, ident, quoted
from featurestore.errors import Unsupported
from featurestore.expr import Expr, infer
from featurestore.ir import View
from featurestore.layout import Layout, Level, Slot, layout_of, storage_fingerprint
from featurestore.time import DAY, MINUTE, duration_text
from featurestore.types import (
    DecimalType,
    DType,
    ListType,
    MapType,
    Scalar,
    VectorType,
    is_float,
    type_to_json,
)

AGGREGATES = {
    f"fs_{name}": f"featurestore.flink.{java}"
    for name, java in {
        "json_event": "Events$JsonEvent",
        "avro_event": "AvroEvents$AvroEvent",
        "content": "Items$Content",
        "once": "Copies",
        "order_key": "Items$OrderKey",
        "hash": "Items$Hash",
        "bucket": "Items$Bucket",
        "partials": "Partials",
        "first": "Ordered$First",
        "last": "Ordered$Last",
        "min_by": "Ordered$MinBy",
        "max_by": "Ordered$MaxBy",
        "first_k": "Ordered$FirstK",
        "last_k": "Ordered$LastK",
        "largest": "Ordered$Largest",
        "smallest": "Ordered$Smallest",
        "distinct": "Ordered$Distinct",
        "frequencies": "Ordered$Frequencies",
    }.items()
}
"""The functions of a job besides those of its expressions."""

NEWEST = 255
"""The level of newest rows in a tile topic."""

SKEW = 5 * MINUTE
"""How far after its arrival an event may be stamped, in microseconds; beyond, it is a dead letter: no future closes a tile."""

OUTAGE = DAY
"""The longest outage, in microseconds, after which a job still holds the state that a tile needs."""

Mode = Literal["streaming", "batch"]


@dataclass(frozen=True, slots=True)
class Wire:
    """Where raw events come from: options of a Flink table of payloads; `stamped`: a record has Kafka's timestamp.

    `avro` is the schema of records of Avro, and its number in a registry where they say it; None: JSON.
    """

    options: Mapping[str, str]
    stamped: bool = False
    avro: tuple[str, int | None] | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One statement of a job, and what it is for."""

    name: str
    about: str
    sql: str


@dataclass(frozen=True, slots=True)
class Query:
    """Rows of a job: `keys` first columns say which row one is, later rows replace earlier ones."""

    name: str
    about: str
    sql: str
    keys: int
    columns: Mapping[str, str]
    """Names and SQL types, in order."""
    level: int
    """Which of the layout's levels its tiles are of, NEWEST for newest rows."""


@dataclass(frozen=True)
class Job:
    """A view's job up to its queries: settings, what they read from, the queries, and what is not counted and why.

    Functions apart, all names begin with that of the view: jobs of several views may share a session.
    """

    view: View
    settings: Mapping[str, str]
    functions: tuple[str, ...]
    statements: tuple[Step, ...]
    queries: tuple[Query, ...]
    dead_letters: str
    """SELECT of `reason`, `detail`, `event_time` (microseconds or NULL) and `payload`."""


def wire_of(view: View, *, since: int | None = None, offsets: Mapping[int, int] | None = None) -> Wire:
    """The topic of a view's source: from its beginning, from the records of a moment on (microseconds), or from offsets.

    `offsets` are by partition, those that are to be read first. Raises Unsupported for a source without a topic, and for
    formats that are not there.
    """
    stream = view.source.stream
    where = f"a Flink job for view '{view.name}'"
    if stream is None or stream.kind != "kafka":
        raise Unsupported(
            where, f"read source '{view.source.name}'", "a StreamSource with stream=Kafka(topic, …)"
        )
    options = dict(stream.options)
    if options["format"] not in ("json", "avro"):
        raise Unsupported(
            where, f"read events in the format '{options['format']}'", 'format="json" or "avro"'
        )
    return Wire(
        {
            "connector": "kafka",
            "topic": stream.path,
            "properties.bootstrap.servers": options["bootstrap"],
            "properties.group.id": topic_prefix(view),
            **_start(since, offsets),
            **_properties(options),
            "format": "raw",
        },
        stamped=True,
        avro=schema_of(stream, view.source.schema) if options["format"] == "avro" else None,
    )


def _start(since: int | None, offsets: Mapping[int, int] | None) -> dict[str, str]:
    if offsets is not None:
        each = ";".join(f"partition:{p},offset:{o}" for p, o in sorted(offsets.items()))
        return {"scan.startup.mode": "specific-offsets", "scan.startup.specific-offsets": each}
    if since is not None:
        return {"scan.startup.mode": "timestamp", "scan.startup.timestamp-millis": str(since // 1000)}
    return {"scan.startup.mode": "earliest-offset"}


def _properties(options: Mapping[str, str]) -> dict[str, str]:
    """What a source says of its brokers, as Flink's tables have it: for what is read and what is written alike."""
    return {
        k.replace("property.", "properties.", 1): v
        for k, v in options.items()
        if k.startswith("property.") and not k.startswith(("property.avro.", "property.schema.registry."))
    }


def topic_prefix(view: View) -> str:
    """What the topics that a view's job writes begin with; also the consumer group that it commits its offsets as."""
    return f"fs.{view.name}.{storage_fingerprint(view)[:12]}"


def files_wire(uri: str) -> Wire:
    """Files of one JSON event a line: a job over them ends."""
    return Wire({"connector": "filesystem", "path": uri, "format": "raw"})


def job_of(view: View, wire: Wire, *, mode: Mode = "streaming", outage: int = OUTAGE) -> Job:
    """The job of a view. In batch mode nothing is late, as in batch: that is what repairs a stream's late events.

    `outage` in microseconds is part of how long state is kept. Raises Unsupported for what a job cannot hold.
    """
    source = view.source
    if source.event_time is None:
        raise Unsupported(f"a Flink job for view '{view.name}'", "read a static source", "fs materialize")
    aside = [e for e in source.expectations if e.on_failure == "quarantine"]
    if aside:
        raise Unsupported(
            f"a Flink job for view '{view.name}'",
            f"put rows of source '{source.name}' aside: it expects {aside[0].name}",
            "source.where(…), which leaves them out, or the embedded stream",
        )
    reserved = [name for name in source.schema if name.startswith("#")]
    if reserved:
        raise Unsupported(
            f"a Flink job for view '{view.name}'",
            f"read a column called '{reserved[0]}'",
            "names that do not begin with #",
        )
    layout = layout_of(view)
    events = _Events(view, layout, wire, mode)
    queries = [_tiles(events, level, number) for number, level in enumerate(layout.levels)]
    if layout.latest:
        queries.append(_newest(events, layout))
    views = events.views()
    functions = _functions([*(view.sql for view in views), *(query.sql for query in queries)])
    steps = [
        Step("payloads", "Raw events, as bytes.", events.raw_ddl()),
        *(Step(v.name, v.about, f"CREATE TEMPORARY VIEW {events.name(v.name)} AS {v.sql}") for v in views),
    ]
    settings = _settings(view, layout, mode, outage)
    return Job(view, settings, tuple(functions), tuple(steps), tuple(queries), events.dead_letters())


def _functions(texts: Iterable[str]) -> list[str]:
    """The DDL of the functions of `streaming/java` that some SQL calls."""
    said = "\n".join(texts)
    return [
        f"CREATE TEMPORARY SYSTEM FUNCTION {name} AS {quoted(java)}"
        for name, java in sorted({**JAVA, **AGGREGATES}.items())
        if f"{name}(" in said
    ]


def _settings(view: View, layout: Layout, mode: Mode, outage: int) -> dict[str, str]:
    settings = {"execution.runtime-mode": mode, "table.local-time-zone": "UTC"}
    if mode == "batch":
        return settings
    hop = max((level.hop for level in layout.levels), default=0)
    kept = hop + (view.source.lateness or 0) + outage
    streamed = {
        # State that went before a late event comes would make a partial tile of it.
        "table.exec.state.ttl": f"{kept // 1000} ms",
        "execution.checkpointing.interval": "10 s",
        "pipeline.object-reuse": "true",
        # What several statements read is planned, read and kept once.
        "table.optimizer.reuse-optimize-block-with-digest-enabled": "true",
        "table.exec.mini-batch.enabled": "true",
        "table.exec.mini-batch.allow-latency": "200 ms",
        "table.exec.mini-batch.size": "20000",
        # A batch is gathered where its key is: many keys have few events each, and made into partials before they are
        # sent they would only be larger.
        "table.optimizer.agg-phase-strategy": "ONE_PHASE",
    }
    return settings | streamed


# ── events ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class _Events:
    """The events of a view, with a column for each expression that its partials read."""

    view: View
    layout: Layout
    wire: Wire
    mode: Mode
    names: dict[Expr, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        slots = [slot for level in self.layout.levels for slot in level.slots]
        for slot in slots:
            for node in (*inputs_of(slot.reduction), *([slot.where] if slot.where is not None else [])):
                self.names.setdefault(node, f"x{len(self.names)}")
        for latest in self.layout.latest:
            self.names.setdefault(latest.value, f"x{len(self.names)}")
        self.ties = any(ordered(slot.reduction) for slot in slots) or bool(self.layout.latest)

    @property
    def keys(self) -> list[str]:
        return [f"k{i}" for i in range(len(self.view.keys))]

    def name(self, part: str) -> str:
        """The name of a table or view: jobs of several views may live in one session."""
        return ident(f"{self.view.name} {part}", FLINK)

    def say(self, node: Expr) -> str:
        return expr_sql(node, self.view.source.schema, FLINK)

    def dtype(self, node: Expr) -> DType:
        return infer(node, self.view.source.schema)

    def raw_ddl(self) -> str:
        columns = ["`payload` BYTES"]
        columns += (
            ["`stamped` TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL"] if self.wire.stamped else []
        )
        return f"CREATE TEMPORARY TABLE {self.name('payloads')} ({', '.join(columns)}) WITH ({_options(self.wire.options)})"

    @property
    def parted(self) -> bool:
        """Whether copies are told apart by a function that keeps what came."""
        return self.view.source.event_id is not None and self.mode == "streaming"

    def views(self) -> list[Step]:
        once = "The events that count, once each, with all that partials are made of."
        judged = [
            Step("decoded", "Payloads as columns, or what is wrong with them; times and floats cleaned.", self.decoded()),
            Step("judged", "Keys, event time, and why an event does not count (NULL: it does).", self.judged()),
        ]  # fmt: skip
        if not self.parted:
            return [*judged, Step("events", once, self.events())]
        return [
            *judged,
            Step("candidates", "Events that count if no copy of them came, and a hash of what they say.", self.candidates()),
            Step("copies", "The first of each event, and others of its key, time and id that say something else.",
                 self.copies()),
            Step("events", once, self.first_copies()),
        ]  # fmt: skip

    def decoded(self) -> str:
        schema = self.view.source.schema
        decode, spec = self._decode()
        columns = []
        for name, dtype in schema.items():
            if isinstance(dtype, ListType | VectorType | MapType):
                continue  # its presence is all that is asked: what is read of an event is a scalar
            column = ident(name, FLINK)
            columns.append(f"{clean_sql(f'`#event`.{column}', dtype, FLINK)} AS {column}")
        stamp = ", fs_arrival(`stamped`) AS `#stamped`" if self.wire.stamped else ""
        return (
            f"SELECT {', '.join(columns)}, `#event`.`#problem` AS `#problem`, `payload` AS `#payload`{stamp} "
            f"FROM (SELECT *, {decode}(`payload`, {quoted(spec)}) AS `#event` "
            f"FROM {self.name('payloads')})"
        )

    def _decode(self) -> tuple[str, str]:
        """The function that makes an event of a payload, and what it is told of the columns."""
        columns = [[name, type_to_json(dtype)] for name, dtype in self.view.source.schema.items()]
        if self.wire.avro is None:
            return "fs_json_event", json.dumps(columns, ensure_ascii=False)
        schema, number = self.wire.avro
        told = {"columns": columns, "schema": schema, "number": number}
        return "fs_avro_event", json.dumps(told, ensure_ascii=False)

    def judged(self) -> str:
        source = self.view.source
        assert source.event_time is not None
        at = ident(source.event_time, FLINK)
        if source.arrival_time is not None:
            arrival = ident(source.arrival_time, FLINK)
        else:
            arrival = "`#stamped`" if self.wire.stamped else at
        keys = [
            f"{self.say(key.value)} AS `#{name}`" for key, name in zip(self.view.keys, self.keys, strict=True)
        ]
        return (
            f"SELECT *, {', '.join(keys)}, {at} AS `#t`, (CASE {self._verdicts(at, arrival)} END) AS `#verdict` "
            f"FROM {self.name('decoded')}"
        )

    def _verdicts(self, at: str, arrival: str) -> str:
        whens = ["WHEN `#problem` IS NOT NULL THEN 'unreadable'", f"WHEN {at} IS NULL THEN 'no event time'"]
        whens += [f"WHEN {self.say(key.value)} IS NULL THEN 'no key'" for key in self.view.keys]
        if self.mode == "streaming":
            whens.append(f"WHEN {at} - {arrival} > {SKEW} THEN 'of the future'")
            if self.view.source.lateness is not None:
                whens.append(f"WHEN {arrival} - {at} > {self.view.source.lateness} THEN 'late'")
        return " ".join(whens)

    def _inputs(self) -> list[str]:
        """All that queries read of an event, named."""
        columns = [*(f"`#{name}` AS {name}" for name in self.keys), "`#t` AS `t`"]
        columns += [f"{self.say(node)} AS {name}" for node, name in self.names.items()]
        if self.ties:
            order = ", ".join(ident(c, FLINK) for c in self.view.order)
            columns.append(
                f"{f'fs_order_key({order})' if order else 'CAST(X{0}{0} AS BYTES)'.format(chr(39))} AS `o`"
            )
        return columns

    def _kept(self) -> str:
        kept = "`#verdict` IS NULL"
        return kept if self.view.filter is None else f"{kept} AND ({self.say(self.view.filter)})"

    def events(self) -> str:
        source, select = self.view.source, ", ".join(self._inputs())
        if source.event_id is None:
            return f"SELECT {select} FROM {self.name('judged')} WHERE {self._kept()}"
        # An event without an id is nobody's copy. Two branches, one for these, would read and parse everything twice.
        event_id = ident(source.event_id, FLINK)
        own = f"(CASE WHEN {event_id} IS NULL THEN UUID() END)"
        same = ", ".join([*(f"`#{name}`" for name in self.keys), "`#t`", event_id, own])
        first = ", ".join(f"{ident(c, FLINK)} ASC NULLS FIRST" for c in self.view.copy_order)
        return (
            f"SELECT {select} FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY {same} ORDER BY {first}) AS `#copy` "
            f"FROM {self.name('judged')} WHERE {self._kept()}) WHERE `#copy` = 1"
        )

    def candidates(self) -> str:
        """`fs_once` compares the first column: NULL where an event without an id is nobody's copy."""
        source = self.view.source
        assert source.event_id is not None
        event_id = ident(source.event_id, FLINK)
        compared = ", ".join(ident(c, FLINK) for c in sorted({*self.view.reads, *source.tiebreak}))
        content = f"(CASE WHEN {event_id} IS NOT NULL THEN fs_content({compared}) END) AS `#content`"
        # One column for all of it: Flink 2.2 loses its way in a view that parts a table by several.
        shared = ", ".join([*(f"`#{name}`" for name in self.keys), "`#t`", event_id])
        select = ", ".join([content, f"fs_order_key({shared}) AS `#event`", *self._inputs(), "`#payload`"])
        return f"SELECT {select} FROM {self.name('judged')} WHERE {self._kept()}"

    def copies(self) -> str:
        call = f"input => TABLE {self.name('candidates')} PARTITION BY (`#event`), uid => {quoted(self.view.name)}"
        return f"SELECT * FROM fs_once({call})"

    def first_copies(self) -> str:
        columns = [*self.keys, "`t`", *self.names.values(), *(["`o`"] if self.ties else [])]
        return f"SELECT {', '.join(columns)} FROM {self.name('copies')} WHERE NOT `#unequal`"

    def dead_letters(self) -> str:
        letters = (
            "SELECT `#verdict` AS `reason`, `#problem` AS `detail`, `#t` AS `event_time`, `#payload` AS `payload` "
            f"FROM {self.name('judged')} WHERE `#verdict` IS NOT NULL"
        )
        if not self.parted:
            return letters
        detail = "another event of its key, time and id came before, with other values"
        return (
            f"{letters} UNION ALL SELECT 'unequal copy' AS `reason`, {quoted(detail)} AS `detail`, `t` AS `event_time`, "
            f"`#payload` AS `payload` FROM {self.name('copies')} WHERE `#unequal`"
        )


def _options(options: Mapping[str, str]) -> str:
    return ", ".join(f"{quoted(name)} = {quoted(value)}" for name, value in options.items())


# ── tiles ───────────────────────────────────────────────────────────────────────────────────────────────────


def _tiles(events: _Events, level: Level, number: int) -> Query:
    """Key, `tile` (its start in microseconds), `rows`, and the fields of each slot as `slot_field`, of a list an array."""
    keys = events.keys
    fixed = _Fixed([], ["`t`"], [], {})
    fixed.add("rows", "rows", "count", None, None, {"n": "BIGINT"})
    fixed.add("first_at", "first_at", "min:BIGINT", "`t`", None, {"v": "BIGINT"})
    fixed.add("last_at", "last_at", "max:BIGINT", "`t`", None, {"v": "BIGINT"})
    made, shown, types = [], [], {}
    for slot in level.slots:
        if isinstance(slot.reduction, _FIXED):
            _add_fixed(fixed, slot, events)
            continue
        sql, fields = _slot(slot, events)
        whole = f"`{slot.name}`"
        made.append(f"{sql} AS {whole}")
        for name, kind, part in fields:
            column = f"{slot.name}_{name}"
            shown.append(f"{whole}{part} AS `{column}`")
            types[column] = kind
    columns = {**_key_types(events), "tile": "BIGINT", **fixed.types, **types}
    inner = ", ".join([*keys, "`tile`", f"{fixed.sql()} AS `all`", *made])
    sql = (
        f"SELECT {', '.join([*keys, '`tile`', *fixed.shown, *shown])} FROM (SELECT {inner} FROM "
        f"(SELECT *, fs_tile(`t`, {level.hop}) AS `tile` FROM {events.name('events')}) GROUP BY {', '.join(keys)}, `tile`)"
    )
    hop = duration_text(level.hop)
    about = f"Partials of each entity and {hop}, whole at every change: what windows are merged from."
    return Query(f"tiles {hop}", about, sql, len(keys) + 1, columns, number)


_FIXED = (Count, Sum, Moments, Minimum, Maximum)


@dataclass(frozen=True)
class _Fixed:
    """The partials of fixed size, which one function keeps together: `Partials.java` says how they are written."""

    parts: list[str]
    arguments: list[str]
    shown: list[str]
    types: dict[str, str]

    def add(
        self,
        name: str,
        column: str,
        operation: str,
        argument: str | None,
        where: str | None,
        fields: Mapping[str, str],
    ) -> None:
        part = f"{name} {operation} {self._number(argument)} {self._number(where)}"
        self.parts.append(part)
        for field_name, kind in fields.items():
            shown = column if name == column else f"{column}{field_name}"
            self.shown.append(f"`all`.`{part} {field_name}` AS `{shown}`")
            self.types[shown] = kind

    def _number(self, argument: str | None) -> str:
        if argument is None:
            return "-"
        if argument not in self.arguments:
            self.arguments.append(argument)
        return str(self.arguments.index(argument))

    def sql(self) -> str:
        return f"fs_partials({quoted('; '.join(self.parts))}, {', '.join(self.arguments)})"


def _add_fixed(fixed: _Fixed, slot: Slot, events: _Events) -> None:
    reduction, dtype = slot.reduction, slot.dtype
    x = None if reduction.arg is None else events.names[reduction.arg]
    where = None if slot.where is None else events.names[slot.where]
    match reduction:
        case Count():
            operation, fields = "count", {"n": "BIGINT"}
        case Sum():
            assert dtype is not None
            if is_float(dtype):
                operation, fields = "sum_double", {"s": "DOUBLE", "c": "DOUBLE"}
            else:
                operation, fields = "sum_int", {"lo": "BIGINT", "hi": "BIGINT"}
        case Minimum() | Maximum():
            assert dtype is not None
            own = type_name(dtype)
            operation, fields = f"{'min' if isinstance(reduction, Minimum) else 'max'}:{own}", {"v": own}
        case Moments(order=order):
            assert x is not None
            x, operation = _double(x, dtype), f"moments{order}"
            fields = {"n": "BIGINT", "mean": "DOUBLE", "low": "DOUBLE"}
            fields |= {f"m{k}": "DOUBLE" for k in range(2, order + 1)}
        case _:
            raise AssertionError(f"{reduction} has no fixed size")
    fixed.add(slot.name, f"{slot.name}_", operation, x, where, fields)


def _key_types(events: _Events) -> dict[str, str]:
    return {
        name: type_name(events.dtype(key.value))
        for key, name in zip(events.view.keys, events.keys, strict=True)
    }


Part = tuple[str, str, str]
"""The name of a field, its SQL type, and how it is taken out of the aggregate's result."""


def _fields(**types: str) -> list[Part]:
    return [(name, kind, f".`{name}`") for name, kind in types.items()]


def _slot(slot: Slot, events: _Events) -> tuple[str, list[Part]]:
    """One aggregate for a slot of any size, and the fields of what it gives."""
    reduction, dtype = slot.reduction, slot.dtype
    assert reduction.arg is not None
    x = events.names[reduction.arg]
    only = f" FILTER (WHERE {events.names[slot.where]})" if slot.where is not None else ""
    own = "" if dtype is None else type_name(dtype)
    match reduction:
        case Count() | Sum() | Moments() | Minimum() | Maximum():
            raise AssertionError(f"{reduction} is kept with those of fixed size")
        case First() | Last():
            name = "first" if isinstance(reduction, First) else "last"
            return f"fs_{name}({x}, `t`, `o`){only}", _fields(at="BIGINT", v=own)
        case MinBy() | MaxBy():
            name = "min_by" if isinstance(reduction, MinBy) else "max_by"
            assert slot.by is not None
            by = events.names[reduction.by]
            fields = _fields(by=type_name(slot.by), at="BIGINT", known="BOOLEAN", v=own)
            return f"fs_{name}({x}, {by}, `t`, `o`){only}", fields
        case FirstK(k=k) | LastK(k=k):
            name = "first_k" if isinstance(reduction, FirstK) else "last_k"
            return f"fs_{name}({x}, `t`, `o`, {k}){only}", _fields(at="ARRAY<BIGINT>", v=f"ARRAY<{own}>")
        case Largest(k=k) | Smallest(k=k):
            name = "largest" if isinstance(reduction, Largest) else "smallest"
            return f"fs_{name}({x}, {k}){only}", _fields(v=f"ARRAY<{own}>")
        case Distinct(k=k):
            return f"fs_distinct(fs_hash({x}), {k + 1}){only}", _fields(v="ARRAY<BIGINT>")
        case Buckets():
            counted = f"fs_frequencies(fs_bucket({_double(x, dtype)}), {2**31 - 1}){only}"
            return counted, _fields(v="ARRAY<BIGINT>", n="ARRAY<BIGINT>")
        case Frequencies(bound=bound):
            return f"fs_frequencies({x}, {bound + 1}){only}", _fields(v=f"ARRAY<{own}>", n="ARRAY<BIGINT>")
        case _:
            assert_never(reduction)


def _double(x: str, dtype: DType | None) -> str:
    """The double that a moment or a bucket is made of: a decimal by one division of its digits, as everywhere."""
    if isinstance(dtype, DecimalType):
        return f"fs_decimal_to_double({x}, {dtype.scale})"
    assert isinstance(dtype, Scalar)
    return f"CAST({x} AS DOUBLE)"


def _newest(events: _Events, layout: Layout) -> Query:
    """Key, `first_at`, `last_at`, and the latest values, of the events that state remembers."""
    keys = events.keys
    times = {"first_at": "BIGINT", "last_at": "BIGINT"}
    values = {latest.name: type_name(latest.dtype) for latest in layout.latest}
    row = ", ".join(events.names[latest.value] for latest in layout.latest)
    kinds = ", ".join(f"`{name}` {kind}" for name, kind in values.items())
    last = f"fs_last(CAST(ROW({row}) AS ROW<{kinds}>), `t`, `o`) AS `last`"
    shown = [*keys, "`first_at`", "`last_at`", *(f"`last`.`v`.`{name}` AS `{name}`" for name in values)]
    made = [*keys, "MIN(`t`) AS `first_at`", "MAX(`t`) AS `last_at`", last]
    sql = (
        f"SELECT {', '.join(shown)} FROM (SELECT {', '.join(made)} FROM {events.name('events')} "
        f"GROUP BY {', '.join(keys)})"
    )
    about = "Each entity's first and last event, of those that state remembers, and the latest values."
    return Query("newest", about, sql, len(keys), {**_key_types(events), **times, **values}, NEWEST)


# ── the whole job ───────────────────────────────────────────────────────────────────────────────────────────


def kafka_steps(job: Job, *, epoch: int = 1, partitions: int | None = None) -> Iterator[Step]:
    """Everything to submit, in order: all tiles to one topic of the source's own brokers, dead letters to another.

    `epoch` numbers the fresh starts of the job: one that goes on from a checkpoint keeps its own. `partitions` is how many the
    tile topic gets where it is not there. `settings` and `functions` are several statements each, a line each.
    """
    settings = [f"SET {quoted(name)} = {quoted(value)}" for name, value in job.settings.items()]
    yield Step("settings", "How the job runs, and for how long it keeps state.", ";\n".join(settings))
    yield Step("functions", "What Flink SQL lacks: classes of streaming/java.", ";\n".join(job.functions))
    yield from job.statements
    inserts: list[Step] = []
    for query in job.queries:
        table, ddl = tiles_ddl(job.view, query, epoch=epoch, partitions=partitions)
        yield Step(f"{query.name} out", "Its place in the topic of tiles, which entities part.", ddl)
        inserts.append(Step(query.name, query.about, f"INSERT INTO {table} {query.sql}"))
    table, ddl = _dead_letters_ddl(job.view)
    yield Step("dead letters out", "The topic of what does not count, and why.", ddl)
    yield from inserts
    yield Step(
        "dead letters",
        "Events that do not count: unreadable, without key or time, of the future, late.",
        f"INSERT INTO {table} {job.dead_letters}",
    )


def _brokers(view: View) -> dict[str, str]:
    assert view.source.stream is not None
    options = dict(view.source.stream.options)
    return {"properties.bootstrap.servers": options["bootstrap"], **_properties(options)}


def tiles_ddl(view: View, query: Query, *, epoch: int, partitions: int | None = None) -> tuple[str, str]:
    """The table that a query's rows go into, quoted, and its DDL: records of one level in the view's one tile topic."""
    keys = list(query.columns)[: query.keys]
    columns = [f"{ident(name, FLINK)} {kind}" for name, kind in query.columns.items()]
    columns.append(f"PRIMARY KEY ({', '.join(ident(k, FLINK) for k in keys)}) NOT ENFORCED")
    options = {
        "connector": "fs-tiles",
        "topic": f"{topic_prefix(view)}.tiles",
        **_brokers(view),
        **({} if partitions is None else {"topic.partitions": str(partitions)}),
        "level": str(query.level),
        "keys": str(len(view.keys)),
        "epoch": str(epoch),
    }
    table = ident(f"{view.name} {query.name} out", FLINK)
    return table, f"CREATE TEMPORARY TABLE {table} ({', '.join(columns)}) WITH ({_options(options)})"


def _dead_letters_ddl(view: View) -> tuple[str, str]:
    options = {
        "connector": "kafka",
        "topic": f"{topic_prefix(view)}.dead-letters",
        **_brokers(view),
        "format": "json",
    }
    letters = "`reason` STRING, `detail` STRING, `event_time` BIGINT, `payload` BYTES"
    table = ident(f"{view.name} dead letters out", FLINK)
    return table, f"CREATE TEMPORARY TABLE {table} ({letters}) WITH ({_options(options)})"
