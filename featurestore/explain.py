"""A view in words: what each feature computes, the picture of its window, what is kept for it, and the programs it becomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from featurestore.aggregates import AGGREGATES, inputs_of
from featurestore.compile.programs import ENGINES, Program
from featurestore.errors import NotFound, Unsupported
from featurestore.expr import describe
from featurestore.ir import Feature, Label, OnDemand, Plan, PythonFunction, Service, View
from featurestore.layout import Layout, Slot, layout_of
from featurestore.picture import meaning, picture
from featurestore.time import HOUR, duration_text, tail

SAMPLE = 1_736_944_496_789_012
"""2025-01-15T12:34:56.789012Z: on no edge of any hop that people write."""


@dataclass(frozen=True, slots=True)
class Explained:
    """One feature: as it could be written, what that means, its window at a moment with made-up events, what it is made of.

    `parts` are pairs of a partial of the aggregate and the slot that holds it, as `1h/p0`; of a latest value `newest/v0`.
    """

    view: str
    feature: str
    dtype: str
    written: str
    means: tuple[str, ...]
    picture: tuple[str, ...]
    parts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """One slot that a view keeps: on which level, of what, and for which features."""

    level: str
    slot: str
    holds: str
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SideBySide:
    """One program in every engine: its text, or why there is none."""

    name: str
    about: str
    engines: tuple[tuple[str, str | None, str], ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """All of one view, or of one of its features."""

    view: str
    about: tuple[str, ...]
    features: tuple[Explained, ...]
    levels: tuple[tuple[str, str], ...]
    kept: tuple[Kept, ...]
    programs: tuple[SideBySide, ...]


@dataclass(frozen=True, slots=True)
class Computed:
    """One on-demand feature: as it could be written, what that means, and, of a Python function, its text."""

    service: str
    feature: str
    dtype: str
    written: str
    means: tuple[str, ...]
    source: str | None


def computed(plan: Plan, name: str) -> list[Computed]:
    """The on-demand features called `name`, or `SERVICE.name`, each once."""
    found: dict[OnDemand, Computed] = {}
    for service in plan.services:
        for feature in service.on_demand:
            if name in (feature.name, f"{service.name}.{feature.name}") and feature not in found:
                found[feature] = _computed(service, feature)
    return list(found.values())


def _computed(service: Service, feature: OnDemand) -> Computed:
    function = feature.expression if isinstance(feature.expression, PythonFunction) else None
    asked = sorted(feature.columns & {name for name, _ in service.request})
    read = sorted(feature.columns - set(asked))
    lines = ["Computed at the moment of asking, for training rows and online reads by the same code."]
    lines += [f"Of the request it takes {', '.join(asked)}."] if asked else []
    lines += [f"It reads {', '.join(read)}, before their defaults."] if read else []
    if function is not None:
        lines.append(
            "A Python function computes it: no other engine can, and nothing proves what it does. Known by its text and version."
        )
        lines += [f"It takes {n} from around it: {v.splitlines()[0]}." for n, v in function.captured]
    if feature.default is not None:
        lines.append(f"Where it is NULL, {feature.default!r} stands in, with the status DEFAULT.")
    source = None if function is None else function.source
    return Computed(service.name, feature.name, repr(feature.dtype), feature.text, tuple(lines), source)


def labelled(plan: Plan, name: str) -> list[Computed]:
    """The label called `name`, as `computed` says an on-demand feature."""
    return [_labelled(x) for x in plan.labels if x.name == name]


def _labelled(label: Label) -> Computed:
    view, horizon = label.view, duration_text(label.horizon)
    start = f"ts + {duration_text(label.gap)}" if label.gap else "ts"
    whole = duration_text(label.gap + label.horizon)
    lines = [
        f"For a row at ts: over the events of its {view.entity}, by {', '.join(label.keys)}, in source '{view.source.name}'.",
        f"Those count with {start} <= {view.source.event_time} < ts + {whole}, a range of {horizon}.",
    ]
    if view.filter is not None:
        lines.append(f"Only events for which {describe(view.filter)} is true; NULL is not.")
    lines.append(
        f"Mature once it is ts + {duration_text(label.delay)}; until then it is no value, and no negative."
    )
    if label.matures == "first_event":
        lines.append("Mature too as soon as one event of the range has arrived.")
    if label.observed == "last_event":
        lines.append("Censored where the range ends after the last event of the source.")
    return Computed("", label.name, repr(label.dtype), label.text, tuple(lines), None)


def explain(
    plan: Plan, name: str, programs_of: Callable[[str, str], Sequence[Program]], asked: int = SAMPLE
) -> list[Explanation]:
    """What `name` means: a view, `VIEW:FEATURE`, or a feature in whichever views have it.

    `programs_of` gives the programs of a view in an engine. `asked` is the moment of the pictures, in microseconds. Raises
    NotFound, but for the names of on-demand features and labels: see `computed` and `labelled`.
    """
    found = []
    for view in plan.views:
        features = [f for f in view.features if name in (view.name, f.name, f"{view.name}:{f.name}")]
        if features:
            found.append(_explanation(view, features, programs_of, asked))
    if not found and not computed(plan, name) and not labelled(plan, name):
        known = {v.name for v in plan.views} | {f.name for v in plan.views for f in v.features}
        raise NotFound("feature view, feature or label", name, known | {x.name for x in plan.labels})
    return found


def _explanation(
    view: View,
    features: Sequence[Feature],
    programs_of: Callable[[str, str], Sequence[Program]],
    asked: int,
) -> Explanation:
    layout = layout_of(view)
    names = {f.name for f in features}
    kept = [k for k in _kept(view, layout) if names & set(k.features)]
    return Explanation(
        view.name,
        tuple(_about(view)),
        tuple(_explained(view, layout, f, asked) for f in features),
        tuple((name, words) for name, words in _levels(layout) if any(k.level == name for k in kept)),
        tuple(kept),
        tuple(_programs(view.name, programs_of)),
    )


def _about(view: View) -> list[str]:
    source = view.source
    keys = ", ".join(
        k.name if describe(k.value) == k.name else f"{k.name} = {describe(k.value)}" for k in view.keys
    )
    lines = [
        f"One row for each {view.entity}, by {keys}, from source '{source.name}' ({source.location.path})."
    ]
    if source.event_time is None:
        lines.append("The source has no event time: every row is visible at every moment.")
    else:
        lines.append(
            f"An event counts from just after its time, `{source.event_time}`: strictly before the moment asked for."
        )
    if source.event_id is not None:
        lines.append(
            f"Events of one key and time that share `{source.event_id}` are copies: one of them counts."
        )
    if view.filter is not None:
        lines.append(f"Only events for which {describe(view.filter)} is true; NULL is not.")
    if view.order:
        lines.append(
            f"Of events at one moment the one that comes last by {', '.join(view.order)} is the newest."
        )
    return lines


def _explained(view: View, layout: Layout, feature: Feature, asked: int) -> Explained:
    drawn = (
        []
        if view.source.event_time is None
        else picture(feature, _made_up(view, feature, asked), asked, view.ttl)
    )
    level = "newest" if feature.window is None else duration_text(feature.window.hop)
    parts = tuple((part, f"{level}/{slot}") for part, slot in layout.parts[feature.name].items())
    return Explained(
        view.name,
        feature.name,
        repr(feature.dtype),
        meaning(feature),
        tuple(_means(view, feature)),
        tuple(drawn),
        parts,
    )


def _means(view: View, feature: Feature) -> list[str]:
    window = feature.window
    of = ", ".join(map(describe, feature.inputs))
    if window is None:
        lines = [f"The value of {of} in the newest event, also when it is NULL."]
        if view.ttl is not None:
            lines.append(
                f"An event more than {duration_text(view.ttl)} old has expired: the value is NULL then."
            )
    else:
        aggregate = AGGREGATES[feature.aggregate]
        lines = [f"{aggregate.doc.rstrip('.')}{f'; the input is {of}' if of else ''}."]
        if window.size is None:
            lines.append("Over all events before the moment asked for.")
        else:
            size, hop = duration_text(window.size), duration_text(window.hop)
            lines.append(
                f"Over the last {size}. The window ends exactly at the moment asked for; its start moves in steps of {hop}, "
                f"so it is at least {size} long, and shorter than {size} + {hop}."
            )
        if feature.where is not None:
            lines.append(f"Only events for which {describe(feature.where)} is true; NULL is not.")
        lines.append(f"Over no events it is {'NULL' if aggregate.empty is None else aggregate.empty}.")
    if feature.default is not None:
        lines.append(f"Where it is NULL, {feature.default!r} stands in, with the status DEFAULT.")
    return lines


def _made_up(view: View, feature: Feature, asked: int) -> list[int]:
    """Events that show where a window begins and ends."""
    window = feature.window
    if window is None:
        age = view.ttl if view.ttl is not None else HOUR
        return [asked - age - age // 8, asked - age // 2, asked - age // 3, asked]
    if window.size is None:
        return [asked - 9 * HOUR, asked - 5 * HOUR, asked - HOUR, asked]
    start = tail(asked, window.size, window.hop)
    size = asked - start
    return [start - size // 10, start, start + size // 4, start + size // 2, asked - size // 20, asked]


def _levels(layout: Layout) -> list[tuple[str, str]]:
    found = []
    for level in layout.levels:
        hop = duration_text(level.hop)
        words = [] if level.reach is None else [f"tiles of {hop}, kept for {duration_text(level.reach)}"]
        words += ["one fold of all that is older"] if level.lifetime else []
        found.append((hop, " and ".join(words)))
    if layout.latest:
        found.append(("newest", "the newest event of each entity"))
    return found


def _kept(view: View, layout: Layout) -> list[Kept]:
    found = []
    for level in layout.levels:
        mine = [f for f in view.features if f.window is not None and f.window.hop == level.hop]
        for slot in level.slots:
            users = tuple(f.name for f in mine if slot.name in layout.parts[f.name].values())
            found.append(Kept(duration_text(level.hop), slot.name, _holds(slot), users))
    for latest in layout.latest:
        users = tuple(
            f.name for f in view.features if f.window is None and layout.parts[f.name]["v"] == latest.name
        )
        found.append(Kept("newest", latest.name, describe(latest.value), users))
    return found


def _holds(slot: Slot) -> str:
    reduction = slot.reduction
    kind = type(reduction).__name__.lower()
    of = "events" if reduction.arg is None else ", ".join(map(describe, inputs_of(reduction)))
    own = [(f.name, getattr(reduction, f.name)) for f in fields(reduction) if f.name not in ("arg", "by")]
    of += "".join(f", {name} = {value}" for name, value in own)
    where = "" if slot.where is None else f", where {describe(slot.where)}"
    return f"{kind} of {of}{where}"


def _programs(view: str, programs_of: Callable[[str, str], Sequence[Program]]) -> list[SideBySide]:
    """Each program of the engines that have it, in the order of the first; an engine that is not built says so."""
    texts: dict[str, dict[str, Program]] = {}
    missing: dict[str, str] = {}
    for engine in ENGINES:
        try:
            texts[engine] = {p.name: p for p in programs_of(view, engine)}
        except Unsupported as error:
            missing[engine] = str(error).splitlines()[0]
    named = {name: program for found in texts.values() for name, program in found.items()}
    return [
        SideBySide(
            name,
            program.about,
            tuple(
                (engine, own.sql, "")
                if (own := texts.get(engine, {}).get(name)) is not None
                else (engine, None, missing.get(engine, "no program of this kind"))
                for engine in ENGINES
            ),
        )
        for name, program in named.items()
    ]
