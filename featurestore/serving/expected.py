"""What a service expects of its vectors, looked at as they go out: told of some reads, and of every one where it is to block.

Only what judges single rows is looked at here, in NumPy; DuckDB is not on the path of a read.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from featurestore.errors import ExpectationFailed
from featurestore.evaluate.expressions import Program, compile_expression
from featurestore.evaluate.partials import Mask
from featurestore.expectations import Between, Expectation, Greater, InSet, Matches, NotNull, can_watch
from featurestore.expr import Expression, col
from featurestore.expr.nodes import Literal
from featurestore.fitting import constant
from featurestore.ir import Service
from featurestore.serving.result import OnlineFeatures
from featurestore.types import DType

EVERY = 16
"""Of so many reads one is looked at, where nothing is to block; the first is."""

TOLD_SECONDS = 60.0
"""How often at most one expectation that fails is written to the log."""

_log = logging.getLogger("featurestore.expectations")

Fails = Callable[[OnlineFeatures], tuple[Mask, Mask]]
"""Of each row, whether it says anything, and whether it fails."""


@dataclass
class Watched:
    """One expectation, and what was seen of it so far."""

    expectation: Expectation
    fails: Fails = field(repr=False)
    considered: int = 0
    unexpected: int = 0
    told_at: float = -1e9

    def look(self, result: OnlineFeatures) -> str | None:
        """Counts a read in; what is wrong with it, if more fails than may."""
        said, fails = self.fails(result)
        considered, unexpected = int(said.sum()), int((said & fails).sum())
        self.considered += considered
        self.unexpected += unexpected
        if not unexpected or (considered - unexpected) / considered >= self.expectation.mostly:
            return None
        return f"{self.expectation.name}: {unexpected:,} of {considered:,} rows fail"


class Watch:
    """The expectations of a service, for one reader. Safe to share between threads."""

    def __init__(self, service: Service) -> None:
        columns = dict(service.columns)
        self.service = service.name
        self.watched = [Watched(e, _fails(e, columns)) for e in service.expectations if can_watch(e)]
        self._strict = [w for w in self.watched if w.expectation.on_failure == "block"]
        self._others = [w for w in self.watched if w.expectation.on_failure != "block"]
        self._reads, self._lock = 0, threading.Lock()
        self.looked = 0

    def look(self, result: OnlineFeatures) -> None:
        """Looks at a read. Raises ExpectationFailed where what fails is to block; else it is counted, and told in the log."""
        with self._lock:
            some = self._reads % EVERY == 0
            self._reads += 1
            if not some and not self._strict:
                return
            self.looked += 1
            blocked = [said for w in self._strict if (said := w.look(result)) is not None]
            for one in self._others if some else ():
                said = one.look(result)
                now = time.monotonic()
                if said is not None and now - one.told_at > TOLD_SECONDS:
                    one.told_at = now
                    _log.warning("service %s is not as expected: %s", self.service, said)
        if blocked:
            raise ExpectationFailed(
                f"what service '{self.service}' would give",
                blocked,
                "ask again later; the expectation of the service says what to do",
            )


def watch_of(service: Service) -> Watch | None:
    """What looks at the vectors of a service; None where it expects nothing that a row tells."""
    found = Watch(service)
    return found if found.watched else None


def _fails(expectation: Expectation, columns: dict[str, DType]) -> Fails:
    """How rows are judged: by the evaluator of on-demand expressions, which training uses too."""
    check = expectation.check
    where = None if expectation.where is None else compile_expression(expectation.where, columns)
    match check:
        case NotNull(column):
            place = list(columns).index(column)
            return _within(where, lambda r: (np.ones(len(r), np.bool_), ~r.cells[place].valid))
        case Matches(column, pattern):
            place, found = list(columns).index(column), re.compile(pattern)
            return _within(where, lambda r: _matched(r, place, found))
        case Between(column, lo, hi):
            parts = [(col(column) >= Expression(_literal(lo, columns[column])))] if lo is not None else []
            parts += [(col(column) <= Expression(_literal(hi, columns[column])))] if hi is not None else []
            return _within(where, _program(parts, columns))
        case InSet(column, values):
            parts = [col(column) == Expression(_literal(v, columns[column])) for v in values]
            either = parts[0]
            for one in parts[1:]:
                either = either | one
            return _within(where, _program([either], columns))
        case Greater(column, other, or_equal):
            both = col(column) >= col(other) if or_equal else col(column) > col(other)
            return _within(where, _program([both], columns))
        case _:
            raise AssertionError(check)  # `can_watch` let it through


def _literal(value: bool | int | float | str, dtype: DType) -> Literal:
    return constant(value, dtype)


def _matched(result: OnlineFeatures, place: int, pattern: re.Pattern[str]) -> tuple[Mask, Mask]:
    cell = result.cells[place]
    found = [bool(ok) and pattern.search(v) is None for v, ok in zip(cell.values, cell.valid, strict=True)]
    return cell.valid, np.array(found, np.bool_)


def _program(conditions: Sequence[Expression], columns: dict[str, DType]) -> Fails:
    """All conditions hold; a row for which that is not known says nothing."""
    both = conditions[0]
    for one in conditions[1:]:
        both = both & one
    program = compile_expression(both.node, columns)

    def judge(result: OnlineFeatures) -> tuple[Mask, Mask]:
        holds, known = _run(program, result)
        return known, ~holds

    return judge


def _run(program: Program, result: OnlineFeatures) -> tuple[Mask, Mask]:
    names = {n: i for i, n in enumerate(result.names)}
    cells = {n: (result.cells[names[n]].values, result.cells[names[n]].valid) for n in program.columns}
    values, valid = program.evaluate(cells, len(result), result.at)
    return values, valid


def _within(where: Program | None, judge: Fails) -> Fails:
    """The same of those rows for which `where` is true."""
    if where is None:
        return judge

    def some(result: OnlineFeatures) -> tuple[Mask, Mask]:
        holds, known = _run(where, result)
        said, fails = judge(result)
        return said & holds & known, fails

    return some


__all__ = ["EVERY", "Watch", "Watched", "watch_of"]
