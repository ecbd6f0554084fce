"""The verification itself: sample, ask everybody, compare, and shrink what differs."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from featurestore.compile.reference import Answer, Event
from featurestore.config import Config
from featurestore.errors import FeatureStoreError, NotFound
from featurestore.expr import columns_of
from featurestore.ir import Feature, Service, View, view_fingerprint
from featurestore.picture import meaning, picture
from featurestore.types import DType
from featurestore.verify import moments
from featurestore.verify.compare import parity_of, same, scale_of
from featurestore.verify.engines import (
    ENGINES,
    NO_FLINK,
    Asked,
    Engine,
    Flink,
    Lab,
    Question,
    World,
    by_reference,
    lab,
    nobody,
    world,
)
from featurestore.verify.flink import flink_here
from featurestore.verify.records import Certificate, Counterexample, Said, Tally, Unchecked, Verdict
from featurestore.verify.sampling import Sample, draw
from featurestore.verify.services import verify_service
from featurestore.verify.shrink import Patience, fewer, simpler
from featurestore.verify.words import text

MOMENTS = 40
"""Moments asked of each entity, of an engine that answers as of any."""

CUTS = 6
"""Moments as of which a store is written for a view."""

LATER = 60
"""Moments at which every entity is asked of the store, all cuts together."""

TRIES, SHRINK_SECONDS = 500, 30.0

Progress = Callable[[str], None]
"""Told the view that is being verified."""


def engines_named(names: Sequence[str] | None, also: Collection[str] = ()) -> list[Engine]:
    """The engines of these names; without names all that need not be asked for, and those of `also`. Raises NotFound."""
    for name in names or ():
        if name not in ENGINES:
            raise NotFound("engine", name, ENGINES)
    if names is None:
        return [e for e in ENGINES.values() if not e.asked_for or e.name in also]
    return [e for e in ENGINES.values() if e.name in names]


def verify(
    views: Sequence[View],
    root: Path,
    *,
    sample: int,
    seed: int,
    made_at: int,
    engines: Sequence[str] | None = None,
    services: Sequence[tuple[Service, Mapping[str, View]]] = (),
    config: Config | None = None,
    progress: Progress | None = None,
) -> Certificate:
    """Compares every engine with the reference on `sample` entities of each view, and a few that are out of the ordinary.

    Of `services`, each with its views by name, what they compute on demand is compared: Python functions have to be at hand.

    `root` is the folder of `fs.toml`, `config` what it says: of a project that streams on Flink the engine `flink` is asked too.
    The same rows, `sample` and `seed` ask the same questions. A view without a single event gets the outcome `empty`. Raises
    SourceError, NotFound for an engine, FunctionError, and FlinkError for a job that fails.
    """
    on_flink = config is not None and config.stream_engine == "flink"
    asked = engines_named(engines, also=["flink"] if on_flink else [])
    with ExitStack() as stack:
        flink = NO_FLINK
        if any(e.name == "flink" for e in asked):
            flink = stack.enter_context(flink_here(config))
        return _verified(views, root, asked, services, config, flink, progress, sample, seed, made_at)


def _verified(
    views: Sequence[View],
    root: Path,
    asked: Sequence[Engine],
    services: Sequence[tuple[Service, Mapping[str, View]]],
    config: Config | None,
    flink: Flink,
    progress: Progress | None,
    sample: int,
    seed: int,
    made_at: int,
) -> Certificate:
    limits = (None, None) if config is None else (config.memory_limit, config.threads)
    began = time.monotonic()
    verdicts = []
    for view in views:
        if progress is not None:
            progress(view.name)
        with lab(*limits, flink) as place:
            start = time.monotonic()
            whole = _whole(view)
            drawn = draw(place.con, whole, root, sample, seed)
            verdict = verify_view(place, whole, drawn, seed=seed, engines=asked)
            verdicts.append(replace(verdict, seconds=time.monotonic() - start))
    for service, mine in services:
        if progress is not None:
            progress(service.name)
        with lab(*limits) as place:
            verdicts.append(
                verify_service(
                    place,
                    replace(service, expectations=()),
                    {n: _whole(v) for n, v in mine.items()},
                    root,
                    sample=sample,
                    seed=seed,
                    engines=[e.name for e in asked],
                )
            )
    names = tuple(e.name for e in asked)
    return Certificate(tuple(verdicts), sample, seed, names, _versions(), made_at, time.monotonic() - began)


def _whole(view: View) -> View:
    """The view over all rows: those that an expectation puts aside are as good a question, put to every engine alike."""
    return replace(view, source=replace(view.source, expectations=()))


def verify_view(place: Lab, view: View, drawn: Sample, *, seed: int, engines: Sequence[Engine]) -> Verdict:
    """The verdict on one view over these events."""
    began = time.monotonic()
    verdict = Verdict(
        view.name,
        view_fingerprint(view),
        "empty",
        len(drawn.keys),
        drawn.shortened,
        len(drawn.events),
        0,
        (),
        0.0,
    )
    if not drawn.events:
        return verdict
    here = world(place, view, drawn.events)
    gaps = {e.name: gap for e in engines if (gap := e.why_not(here)) is not None}
    engines = [e for e in engines if e.name not in gaps]
    times = {key: here.times(key) for key in (*drawn.keys, nobody(view))}
    questions: dict[Asked, Sequence[Question]] = {
        "each": moments.each(view, times, MOMENTS, str(seed)),
        "written": moments.written(view, times, LATER, CUTS, str(seed)),
    }
    asked = {kind: found for kind, found in questions.items() if kind in {e.asked for e in engines}}
    tallies, found = check(here, asked, engines)
    lacking = not tallies or not all(gap.never for gap in gaps.values())
    differing = any(t.differing for t in tallies)
    return replace(
        verdict,
        outcome="disagreement" if differing else "unchecked" if lacking else "certified",
        unchecked=tuple(Unchecked(name, gap.reason) for name, gap in gaps.items()),
        moments=sum(map(len, asked.values())),
        tallies=tuple(tallies),
        counterexample=found,
        seconds=time.monotonic() - began,
    )


def check(
    here: World, questions: Mapping[Asked, Sequence[Question]], engines: Sequence[Engine]
) -> tuple[list[Tally], Counterexample | None]:
    """Asks the engines and the reference; what was compared, and a counterexample if anything differs."""
    tallies: list[Tally] = []
    wrong: list[tuple[Engine, Feature, Question]] = []
    right = {kind: by_reference(here, asked) for kind, asked in questions.items()}
    for engine in engines:
        asked = questions[engine.asked]
        got = engine.ask(here, asked)
        differing: Counter[str] = Counter()
        for feature in here.view.features:
            parity = parity_of(feature)
            for question, answers, want in zip(asked, got, right[engine.asked], strict=True):
                if not _agrees(here, feature, question, answers[feature.name], want[feature.name]):
                    differing[feature.name] += 1
                    if differing[feature.name] == 1:
                        wrong.append((engine, feature, question))
            tallies.append(Tally(feature.name, engine.name, parity, len(asked), differing[feature.name]))
    if not wrong:
        return tallies, None
    return tallies, _counterexample(here, *min(wrong, key=lambda w: w[2].asked - w[2].known_until), engines)


def _agrees(here: World, feature: Feature, question: Question, got: Answer, want: Answer) -> bool:
    return same(parity_of(feature), got, want, lambda: scale_of(here, feature, question, want))


def _versions() -> dict[str, str]:
    names = ("featurestore", "duckdb", "numpy", "pyarrow", "lmdb")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


# ---------------------------------------------------------------------------------------------------------- counterexamples


def _counterexample(
    here: World, engine: Engine, feature: Feature, question: Question, engines: Sequence[Engine]
) -> Counterexample:
    """The disagreement with as little around it as shows it."""
    alone = replace(here.view, features=(feature,))
    patience = Patience(TRIES, SHRINK_SECONDS)
    view = here.view

    def wrong_in(shape: View) -> Callable[[Sequence[Event]], bool]:
        def wrong(events: Sequence[Event]) -> bool:
            try:
                small = world(here.lab, shape, events)
                (got,) = engine.ask(small, [question])
                (want,) = by_reference(small, [question])
            except FeatureStoreError:
                return False  # another mistake than the one that is looked for
            return not _agrees(small, feature, question, got[feature.name], want[feature.name])

        return wrong

    minimal = False
    events: list[Event] = list(here.events)
    for shape in (alone, view):
        wrong = wrong_in(shape)
        if wrong(events):
            view, minimal = shape, True
            own = here.known(question.key, None)
            if len(own) < len(events) and not patience.spent() and wrong(own):
                events = own  # an engine that is slow to answer has few tries
            events = fewer(events, wrong, patience)
            schema = view.source.schema
            fixed = {view.source.event_time, *(c for k in view.keys for c in columns_of(k.value))}
            kept = frozenset(c for c in fixed if c is not None)
            events = fewer(simpler(events, wrong, patience, schema, kept), wrong, patience)
            break
    small = world(here.lab, view, events)
    said = [Said("reference", *_said(by_reference(small, [question])[0][feature.name], feature.dtype))]
    for other in engines:
        if other.asked == "each" and question.known_until < question.asked:
            continue  # it cannot be told what was not known yet
        answer = other.ask(small, [question])[0][feature.name]
        said.append(Said(other.name, *_said(answer, feature.dtype)))
    time_column = view.source.event_time
    if time_column is not None:
        events = sorted(events, key=lambda e: (e[time_column] is not None, e[time_column] or 0))
    schema = small.view.source.schema
    drawn = (
        ()
        if time_column is None
        else picture(
            feature, [t for e in events if isinstance(t := e[time_column], int)], question.asked, view.ttl
        )
    )
    return Counterexample(
        view=view.name,
        feature=feature.name,
        means=meaning(feature),
        engine=engine.name,
        key={k.name: v for k, v in zip(view.keys, question.key, strict=True)},
        asked=question.asked,
        known_until=question.known_until,
        why=question.why,
        columns=tuple(schema),
        rows=tuple(tuple(text(e[c], t) for c, t in schema.items()) for e in events),
        picture=tuple(drawn),
        said=tuple(said),
        minimal=minimal,
    )


def _said(answer: Answer, dtype: DType) -> tuple[str, Any]:
    return text(answer.value, dtype) or "NULL", answer.status
