"""Where engines are likely to differ: at events, at edges of hops, where events leave windows, and a microsecond beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from featurestore.expr.literals import MAX_TIMESTAMP, MIN_TIMESTAMP
from featurestore.ir import View
from featurestore.layout import layout_of
from featurestore.time import DAY, SECOND, duration_text, floor
from featurestore.verify.engines import Key, Question

YEAR = 365 * DAY
_BESIDE = ((-1, "1 us before "), (0, ""), (1, "1 us after "))


def candidates(view: View, times: Sequence[int], random: Random) -> dict[str, dict[int, str]]:
    """Moments to ask for one entity, by kind; each with words that say what it is. `times` are those of its events."""
    kinds: dict[str, dict[int, str]] = {}
    windows = {f.window for f in view.features if f.window is not None}
    grid = layout_of(view).grid
    reach = max([w.size or 0 for w in windows] + [view.ttl or 0, SECOND])

    def add(kind: str, moment: int, words: str) -> None:
        for delta, beside in _BESIDE:
            if MIN_TIMESTAMP < moment + delta < MAX_TIMESTAMP:
                kinds.setdefault(kind, {}).setdefault(moment + delta, f"{beside}{words}")

    for t in sorted(set(times)):
        add("event", t, "an event")
        for window in sorted(windows, key=lambda w: (w.size or 0, w.hop)):
            hop = duration_text(window.hop)
            add(f"hop {hop}", floor(t, window.hop), f"an edge of the {hop} hop")
            add(f"hop {hop}", floor(t, window.hop) + window.hop, f"an edge of the {hop} hop")
            if window.size is not None:
                name = duration_text(window.size)
                leaves = floor(t, window.hop) + window.hop + window.size
                add(f"tail {name}", leaves, f"an event leaves the {name} window")
                add(f"age {name}", t + window.size, f"an event is {name} old")
                add(f"age {name}", t + window.size + window.hop, f"an event is {name} and a hop of {hop} old")
        if view.ttl is not None:
            add("ttl", t + view.ttl, f"an event is as old as the ttl, {duration_text(view.ttl)}")
        if grid > 1:
            add("cut", floor(t, grid), "a cut between past and open tile")
    first, last = (min(times), max(times)) if times else (0, DAY)
    add("ends", first, "the first event")
    add("ends", first - reach, "long before the first event")
    add("ends", last + 1, "the last event is in")
    add("ends", last + reach + DAY, "everything has left")
    add("ends", last + YEAR, "a year after the last event")
    for _ in range(8):
        moment = random.randint(first - reach // 4, last + reach + reach // 4)
        kinds.setdefault("random", {}).setdefault(moment, "a random moment")
    return kinds


def chosen(kinds: Mapping[str, Mapping[int, str]], size: int, random: Random) -> dict[int, str]:
    """At most `size` of the moments, taken from each kind in turn."""
    decks = []
    for kind in sorted(kinds):
        deck = sorted(kinds[kind].items())
        random.shuffle(deck)
        decks.append(deck)
    taken: dict[int, str] = {}
    while decks and len(taken) < size:
        for deck in decks:
            moment, words = deck.pop()
            if len(taken) < size:
                taken.setdefault(moment, words)
        decks = [deck for deck in decks if deck]
    return taken


def each(view: View, times: Mapping[Key, Sequence[int]], size: int, seed: str) -> list[Question]:
    """Questions for an engine that knows all events: `size` moments for each entity."""
    asked = []
    for key, mine in times.items():
        random = Random(f"{seed} {view.name} {key!r}")  # noqa: S311  a sample, no secret
        found = chosen(candidates(view, mine, random), size, random)
        asked += [Question(key, moment, moment, words) for moment, words in sorted(found.items())]
    return asked


def written(
    view: View, times: Mapping[Key, Sequence[int]], size: int, cuts: int, seed: str
) -> list[Question]:
    """Questions for an engine that is written as of a few moments: every entity is asked at `size` moments in all.

    The first of each is the moment of writing itself.
    """
    random = Random(f"{seed} {view.name}")  # noqa: S311  a sample, no secret
    everything: dict[str, dict[int, str]] = {}
    for mine in times.values():
        for kind, moments in candidates(view, mine, random).items():
            everything.setdefault(kind, {}).update(moments)
    ends = chosen({k: m for k, m in everything.items() if not k.startswith("age")}, cuts, random)
    asked = []
    for end, words in sorted(ends.items()):
        later = {k: {m: w for m, w in moments.items() if m > end} for k, moments in everything.items()}
        later = {k: m for k, m in later.items() if m}
        found = {end: words} | chosen(later, max(1, size // cuts) - 1, random)
        for key in times:
            for moment, why in sorted(found.items()):
                said = why if moment == end else f"{why}; written as of {words}"
                asked.append(Question(key, moment, end, said))
    return asked
