"""What a reader saw of the vectors it gave, as a validation like any other."""

from __future__ import annotations

from featurestore.expectations import can_watch
from featurestore.serving import Reader
from featurestore.serving.trouble import SteadyReader
from featurestore.validation.judging import judged, unjudged
from featurestore.validation.run import definition_of, new_run
from featurestore.verdicts import Validation, Verdict


def of_served(reader: Reader | SteadyReader, now: int) -> Validation:
    """The verdicts so far; of what one vector does not tell, none."""
    watch, service = reader.watch, reader.service
    watched = {} if watch is None else {w.expectation.name: w for w in watch.watched}
    verdicts: list[Verdict] = []
    for one in service.expectations:
        if not can_watch(one):
            verdicts.append(unjudged(one, f"one vector does not tell: `fs validate {service.name}` can"))
            continue
        seen = watched[one.name]
        facts = {"rows": seen.considered, "considered": seen.considered, "unexpected": seen.unexpected}
        verdicts.append(judged(one, facts, dict(service.columns), now))
    rows = max((w.considered for w in watched.values()), default=0)
    expected = service.expectations
    return Validation(
        service.name,
        "service",
        "served",
        now,
        rows,
        tuple(verdicts),
        definition_of(expected),
        "served",
        "",
        new_run(now),
    )


__all__ = ["of_served"]
