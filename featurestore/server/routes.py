"""The paths that read features, and what each of them names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

Form = Literal["oip", "feast", "arrow"]

_NAME: Final = r"(?P<name>[^/@]{1,200})(?:@(?P<number>[0-9]{1,9}))?"
_ROUTES: Final = (
    (re.compile(rf"/v2/models/{_NAME}(?:/versions/(?P<version>[0-9]{{1,9}}))?/infer"), "oip"),
    (re.compile(rf"/features/{_NAME}"), "arrow"),
)


@dataclass(frozen=True, slots=True)
class Route:
    """One path to features: the form it speaks, and the service where the path names it."""

    form: Form
    label: str
    name: str | None = None
    version: str | None = None


_FEAST: Final = Route("feast", "/get-online-features")


def route_of(path: str) -> Route | None:
    """What a POST to this path reads; None if it is none of the routes here."""
    if path == "/get-online-features":
        return _FEAST
    for pattern, form in _ROUTES:
        found = pattern.fullmatch(path)
        if found is not None:
            parts = found.groupdict()
            version = parts.get("version") or parts["number"]
            if form == "oip":
                return Route("oip", "/v2/infer", parts["name"], version)
            return Route("arrow", "/features", parts["name"], version)
    return None
