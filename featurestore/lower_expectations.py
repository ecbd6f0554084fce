"""From declared expectations to the plan's: what is left open is filled in, and what cannot be judged is reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from featurestore.errors import Where, nearest
from featurestore.expectations import Expectation, Fresh, Schema, can_watch, reads
from featurestore.fitting import malformed, misfit
from featurestore.types import DType

if TYPE_CHECKING:
    from featurestore.lower import Lowering

_WORKS = 'expectations are written as expect.not_null("carrier") or expect.between("dep_delay", -60, 1500)'


def lower_expectations(
    lowering: Lowering,
    line: Where,
    who: str,
    given: Sequence[object],
    schema: Mapping[str, DType],
    *,
    event_time: str | None = None,
    stored: bool = True,
    vectors: bool = False,
) -> tuple[Expectation, ...]:
    """The expectations of `who`, whose rows have these columns; problems are reported.

    `event_time` is what `fresh` means where it names no column. Without `stored` the rows are feature values: none can be put
    aside. `vectors` are judged as they go out: what one request does not tell cannot block it.
    """
    found: list[Expectation] = []
    for one in given:
        if not isinstance(one, Expectation):
            lowering.wrong(line, f"{who} expects {one!r}, which is no expectation", _WORKS)
            continue
        at = one.line or line
        filled = _filled(one, schema, event_time)
        wrong = malformed(filled) or misfit(filled, schema)
        if wrong is None and not stored and one.on_failure == "quarantine":
            wrong = "on_failure='quarantine': feature values have no rows to put aside; put it on the source, or block"
        if wrong is None and vectors and one.on_failure == "block" and not can_watch(one):
            wrong = f"on_failure='block': {one.kind} is not told by one request, and SQL is not run on the path of a read"
        if wrong is None:
            found.append(filled)
            continue
        unknown = [name for name in sorted(reads(filled)) if name not in schema]
        hints = [h for name in unknown for h in nearest(name, schema)]
        lowering.wrong(at, f"{who} expects {one.name}: {wrong}", *hints)
    names = [e.name for e in found]
    for one in found:
        if names.count(one.name) > 1 and one is found[names.index(one.name)]:
            lowering.wrong(
                one.line or line, f"{who} expects '{one.name}' twice", "drop one, or give it a name="
            )
    return tuple(found)


def _filled(one: Expectation, schema: Mapping[str, DType], event_time: str | None) -> Expectation:
    match one.check:
        case Fresh(within, None) if event_time is not None:
            return replace(one, check=Fresh(within, event_time))
        case Schema(None, ordered, closed):
            return replace(one, check=Schema(tuple(schema.items()), ordered, closed))
        case _:
            return one
