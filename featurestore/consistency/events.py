"""The events that captured rows may have seen: from where they lie at rest and from the log of what was pushed, with arrivals.

What a row saw is a condition on these: then its values are those of the events that it holds for, made by the code that makes
training sets. So a guess about what a store knew when it answered is tried out, and proves itself by the value it gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from featurestore.compile.duckdb import DUCKDB
from featurestore.compile.erased import erased_sql
from featurestore.compile.sampling import used
from featurestore.compile.sources import Connection, source_sql
from featurestore.compile.sql import expr_sql, ident
from featurestore.config import Config
from featurestore.consistency.pushed import pushed_events
from featurestore.errors import BrokerError
from featurestore.evaluate.finish import Cells
from featurestore.evaluate.partials import Array
from featurestore.expr import Column
from featurestore.inputs import Inputs
from featurestore.ir import Feature, Key, Location, View
from featurestore.joining import Keys, view_cells
from featurestore.log.eventlog import APPENDED_AT
from featurestore.types import Int64, Timestamp

NEVER: Final = -(1 << 62)
"""Before all time: the watermark of a view that nothing was written of."""

ROW: Final = "__row"


@dataclass(frozen=True)
class Seen:
    """What is known of each row, for one view, of when it was served; moments in microseconds.

    `asked` is the moment asked for, `served` when it was, `mark` up to when the store said it was complete; `cut` up to where
    materialisation had written what was served, and `made` as of when.
    """

    asked: Array
    served: Array
    mark: Array
    cut: Array
    made: Array


class Events:
    """The events of one view for some keys. They lie in a table of the connection for as long as that is open.

    `__rest` says whether an event lies at rest, `__pushed` whether it is in the log; `__there`, of one in the log, whether it
    lies at rest as well. `__arrived` is when it arrived: as the source says, else when it was pushed, else its own time.
    `__filed` is when the file it lies in was written, of a file that came after `before`; else it was there always. `unread`
    says why it is not known what was pushed, "" where it is.
    """

    def __init__(
        self,
        con: Connection,
        config: Config,
        view: View,
        keys: Keys,
        name: str,
        *,
        start: int | None,
        end: int,
        before: Inputs | None = None,
        now: Inputs | None = None,
    ) -> None:
        """`view` honours erasures; `start` and `end` bound event time. `before` and `now` are the files of the source."""
        assert view.source.event_time is not None
        self._con, self.view, self.name, self._root = con, view, name, config.root
        self._columns = used(view)
        self._numbers = 0
        self._keys_table(keys)
        bounds = f"{self._time} < {end}" + (f" AND {self._time} >= {start}" if start is not None else "")
        rest = source_sql(con, view.source, self._columns, config.root)
        con.execute(f"CREATE OR REPLACE TEMP TABLE {name}_rest AS {self._mine(rest, bounds)}")
        self.unread = ""
        self.pushed = self._read_log(config, start, bounds)
        self.filed = self._note_new_files(config.root, before, now, bounds)
        con.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {self._together()}")

    @property
    def _time(self) -> str:
        assert self.view.source.event_time is not None
        return f"epoch_us({ident(self.view.source.event_time, DUCKDB)})"

    def _keys_table(self, keys: Keys) -> None:
        columns: dict[str, Any] = {}
        known = np.ones(len(keys[0][0]), np.bool_)
        for _, valid in keys:
            known &= True if valid is None else valid
        for i, (values, _) in enumerate(keys):
            kind = pa.string() if values.dtype == object else pa.int64()
            columns[f"k{i}"] = pa.array(values[known], kind)
        self._con.register("some_keys", pa.table(columns))
        self._con.execute(
            f"CREATE OR REPLACE TEMP TABLE {self.name}_keys AS SELECT DISTINCT * FROM some_keys"
        )
        self._con.unregister("some_keys")

    def _mine(self, rows: str, bounds: str) -> str:
        """Of some rows of the source those of the keys, and of no erased entity; their key columns beside."""
        view, schema = self.view, self.view.source.schema
        keys = [f"{expr_sql(k.value, schema, DUCKDB)} AS __k{i}" for i, k in enumerate(view.keys)]
        where = [bounds]
        if view.erased is not None:
            where.append(f"NOT {erased_sql(self._con, view, view.erased)}")
        inner = f"SELECT *, {', '.join(keys)} FROM ({rows}) WHERE {' AND '.join(f'({w})' for w in where)}"
        same = " AND ".join(f"e.__k{i} = s.k{i}" for i in range(len(view.keys)))
        return f"SELECT e.* FROM ({inner}) e SEMI JOIN {self.name}_keys s ON {same}"

    def _read_log(self, config: Config, start: int | None, bounds: str) -> bool:
        """Puts what was pushed into a table, if anything was; whether it was."""
        con, source, table = self._con, self.view.source, f"{self.name}_log"
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT *, 0::BIGINT AS __appended FROM {self.name}_rest LIMIT 0"
        )
        names = ", ".join(ident(c, DUCKDB) for c in self._columns)
        some = False
        try:
            for batch in pushed_events(config, source, start):
                some = True
                con.register("log_rows", batch)
                pushed = source_sql(
                    con,
                    replace(
                        source,
                        location=Location("table", "log_rows"),
                        columns=(*source.columns, (APPENDED_AT, Timestamp)),
                        expectations=(),
                    ),
                    [*self._columns, APPENDED_AT],
                    config.root,
                )
                mine = self._mine(pushed, bounds)
                keys = ", ".join(f"__k{i}" for i in range(len(self.view.keys)))
                con.execute(
                    f"INSERT INTO {table} SELECT {names}, {keys}, epoch_us({ident(APPENDED_AT, DUCKDB)}) FROM ({mine})"
                )
                con.unregister("log_rows")
        except BrokerError as error:
            self.unread = f"what was pushed to '{source.name}' is not known: {str(error).splitlines()[0]}"
        return some

    @property
    def _identity(self) -> list[str]:
        """The columns by which an event at rest is known again in the log."""
        source = self.view.source
        if source.event_id is not None and source.event_time is not None:
            return [ident(c, DUCKDB) for c in (source.event_id, source.event_time)]
        return [ident(c, DUCKDB) for c in self._columns]

    def _note_new_files(self, root: Path, before: Inputs | None, now: Inputs | None, bounds: str) -> bool:
        """Puts what came in new files into a table, by what tells events apart, with when each was written; whether any came."""
        con, source = self._con, self.view.source
        names = ", ".join(self._identity)
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE {self.name}_new AS SELECT {names}, 0::BIGINT AS __filed FROM {self.name}_rest LIMIT 0"
        )
        new = {} if before is None or now is None else {**now.by_path}
        for path in before.by_path if before is not None else ():
            new.pop(path, None)
        for path, file in new.items():
            one = replace(source, location=replace(source.location, path=path))
            mine = self._mine(source_sql(con, one, self._columns, root), bounds)
            con.execute(f"INSERT INTO {self.name}_new SELECT {names}, {file.mtime_ns // 1000} FROM ({mine})")
        return bool(new)

    def _together(self) -> str:
        source, name = self.view.source, self.name
        columns = [ident(c, DUCKDB) for c in self._columns]
        keys = [f"__k{i}" for i in range(len(self.view.keys))]
        same = " AND ".join(f"e.{c} IS NOT DISTINCT FROM o.{c}" for c in self._identity)
        own = (
            f"epoch_us(e.{ident(source.arrival_time, DUCKDB)})" if source.arrival_time is not None else "NULL"
        )
        told = ", ".join(f"e.{c}" for c in (*columns, *keys))
        at = f"epoch_us(e.{ident(source.event_time or '', DUCKDB)})"
        once = ", ".join(self._identity)
        logged = f"SELECT {once}, min(__appended) AS a FROM {name}_log GROUP BY {once}"
        filed = f"SELECT {once}, min(__filed) AS f FROM {name}_new GROUP BY {once}"
        rest = f"SELECT DISTINCT {once} FROM {name}_rest"
        again = same.replace("o.", "n.")
        return (
            f"SELECT {told}, {at} AS __t, coalesce({own}, o.a, {at}) AS __arrived, coalesce(n.f, {NEVER}) AS __filed, "
            f"true AS __rest, o.a IS NOT NULL AS __pushed, true AS __there "
            f"FROM {name}_rest e LEFT JOIN ({logged}) o ON {same} LEFT JOIN ({filed}) n ON {again} "
            f"UNION ALL BY NAME "
            f"SELECT {told}, {at} AS __t, coalesce({own}, e.__appended) AS __arrived, {NEVER}::BIGINT AS __filed, "
            f"false AS __rest, true AS __pushed, o.__is IS NOT NULL AS __there "
            f"FROM {name}_log e LEFT JOIN (SELECT *, true AS __is FROM ({rest})) o ON {same}"
        )

    # ------------------------------------------------------------------------------------------------------------- asked

    def rows_sql(self, keys: Keys, seen: Seen, table: str) -> None:
        """Makes a table of rows: their number `n`, keys `k0…`, and what is known of them."""
        columns: dict[str, Any] = {"n": np.arange(len(seen.asked))}
        for i, (values, valid) in enumerate(keys):
            kind = pa.string() if values.dtype == object else pa.int64()
            columns[f"k{i}"] = pa.array(values, kind, mask=None if valid is None else ~valid)
        columns |= {"q": seen.asked, "served": seen.served, "mark": seen.mark}
        columns |= {"cut": seen.cut, "made": seen.made}
        self._con.register("asked_rows", pa.table(columns))
        self._con.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT * FROM asked_rows")
        self._con.unregister("asked_rows")

    def _joined(self) -> str:
        same = " AND ".join(f"e.__k{i} = s.k{i}" for i in range(len(self.view.keys)))
        return f"{self.name} e JOIN {self.name}_asked s ON {same}"

    def cells(
        self,
        features: Sequence[Feature],
        keys: Keys,
        seen: Seen,
        condition: str,
        moment: str | None = None,
    ) -> dict[str, Cells]:
        """The cells of features for rows, each of the events for which `condition` holds: SQL over an event `e`, a row `s`.

        `moment` stands in the place of an event's time, where that is to be another.
        """
        self.rows_sql(keys, seen, f"{self.name}_asked")
        source, schema = self.view.source, self.view.source.schema
        at = source.event_time
        told = [
            f"make_timestamp({moment})::{_type(self._con, self.name, c)} AS {ident(c, DUCKDB)}"
            if c == at and moment is not None
            else f"e.{ident(c, DUCKDB)}"
            for c in self._columns
        ]
        sizes = [None if f.window is not None and f.window.size is None else self._size(f) for f in features]
        reach = None if None in sizes else max((s for s in sizes if s is not None), default=0)
        near = "" if reach is None else f" AND e.__t >= s.q - {reach}"
        self._con.execute(
            f"CREATE OR REPLACE TEMP TABLE {self.name}_try AS SELECT {', '.join(told)}, s.n AS {ROW} "
            f"FROM {self._joined()} WHERE ({condition}){near}"
        )
        columns = (*((c, schema[c]) for c in self._columns), (ROW, Int64))
        own = replace(
            source,
            location=Location("table", f"{self.name}_try"),
            columns=columns,
            stream=None,
            expectations=(),
        )
        view = replace(
            self.view,
            source=own,
            keys=(*self.view.keys, Key(ROW, Int64, Column(ROW))),
            features=tuple(features),
            erased=None,
        )
        numbers = np.arange(len(seen.asked))
        return view_cells(self._con, self._root, view, features, [*keys, (numbers, None)], seen.asked)

    def _size(self, feature: Feature) -> int | None:
        if feature.window is None:
            return self.view.ttl
        return None if feature.window.size is None else feature.window.size + feature.window.hop

    def listed(self, keys: Keys, seen: Seen, limit: int) -> tuple[list[dict[str, Any]], int]:
        """The newest events of the first row, as plain rows with their own columns and `__…`; and how many there are."""
        self.rows_sql(keys, seen, f"{self.name}_asked")
        told = ", ".join(f"e.{ident(c, DUCKDB)}" for c in self._columns)
        more = "e.__t, e.__arrived, e.__rest, e.__pushed, e.__there, e.__filed"
        view, schema = self.view, self.view.source.schema
        keep = "true" if view.filter is None else f"({expr_sql(view.filter, schema, DUCKDB)})"
        rows = f"SELECT * FROM {self.name} WHERE {keep} AND (__rest OR NOT __there)"
        joined = self._joined().replace(f"{self.name} e", f"({rows}) e", 1)
        where = "s.n = 0 AND e.__t <= greatest(s.q, s.mark)"
        found = self._con.sql(
            f"SELECT {told}, {more} FROM {joined} WHERE {where} ORDER BY e.__t DESC LIMIT {limit}"
        ).to_arrow_table()
        ((count,),) = self._con.execute(f"SELECT count(*) FROM {joined} WHERE {where}").fetchall()
        return found.to_pylist(), int(count)

    @property
    def knows_arrivals(self) -> bool:
        """Whether some event may have arrived at another moment than its own."""
        return self.view.source.arrival_time is not None or self.pushed

    def sizes(self, keys: Keys) -> Array:
        """How many events the key of each row has, whatever the row sees of them."""
        places = ", ".join(f"__k{i} AS k{i}" for i in range(len(keys)))
        same = ", ".join(f"k{i}" for i in range(len(keys)))
        columns: dict[str, Any] = {"n": np.arange(len(keys[0][0]))}
        for i, (values, valid) in enumerate(keys):
            kind = pa.string() if values.dtype == object else pa.int64()
            columns[f"k{i}"] = pa.array(values, kind, mask=None if valid is None else ~valid)
        self._con.register("sized_rows", pa.table(columns))
        counts = f"SELECT {places}, count(*) AS c FROM {self.name} GROUP BY ALL"
        rows = f"SELECT n, coalesce(c, 0) AS c FROM sized_rows LEFT JOIN ({counts}) USING ({same}) ORDER BY n"
        found: Array = self._con.sql(rows).to_arrow_table().column("c").to_numpy()
        self._con.unregister("sized_rows")
        return found

    def arrivals(self, keys: Keys, seen: Seen, first: int, last: int) -> list[list[int]]:
        """For each row moments, up to the one asked for, when an event of before that arrived.

        The `first` ones behind the watermark, where a store is that knew a little more than it said, and the `last` of all.
        """
        self.rows_sql(keys, seen, f"{self.name}_asked")
        every = "list_sort(list(DISTINCT e.__arrived))"
        behind = "list_sort(coalesce(list(DISTINCT e.__arrived) FILTER (e.__arrived > s.mark), []))"
        rows = self._con.execute(
            f"SELECT s.n, {behind}[:{first}] || {every}[-{last}:] FROM {self._joined()} "
            f"WHERE e.__t < s.q AND e.__arrived <= s.q GROUP BY s.n"
        ).fetchall()
        found: list[list[int]] = [[] for _ in seen.asked]
        for n, moments in rows:
            found[n] = moments
        return found


def _type(con: Connection, table: str, column: str) -> str:
    ((kind,),) = con.execute(
        "SELECT data_type FROM duckdb_columns() WHERE table_name = ? AND column_name = ?", [table, column]
    ).fetchall()
    return str(kind)
