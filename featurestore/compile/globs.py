"""Regular expressions that a GLOB says as well, which DuckDB decides in half the time: fixed sequences of letters and classes."""

from __future__ import annotations

import re
from typing import Final

LONGEST: Final = 64
"""Characters that a sequence has, at most."""

_ATOM: Final = re.compile(
    r"(\\d|\[(?:[A-Za-z0-9](?:-[A-Za-z0-9])?)+\]|[A-Za-z0-9_ /:,@#%&=;<>~'\"-])(?:\{([0-9]{1,2})\})?"
)


def glob_of(pattern: str) -> str | None:
    r"""The GLOB that holds of the same texts in which the pattern is found; None where there is none, or it is not plain.

    >>> glob_of(r"^[A-Z]{2}-\d{3}$"), glob_of("^UA"), glob_of("a+")
    ('[A-Z][A-Z]-[0-9][0-9][0-9]', 'UA*', None)
    """
    inner = pattern.removeprefix("^")
    lead = "*" if inner == pattern else ""
    body = inner.removesuffix("$")
    tail = "*" if body == inner else ""
    parts, place = list[str](), 0
    while place < len(body):
        atom = _ATOM.match(body, place)
        if atom is None or not all(lo <= hi for lo, hi in re.findall(r"(\w)-(\w)", atom[1])):
            return None
        parts += [atom[1].replace("\\d", "[0-9]")] * int(atom[2] or 1)
        place = atom.end()
    return f"{lead}{''.join(parts)}{tail}" if 0 < len(parts) <= LONGEST else None


__all__ = ["LONGEST", "glob_of"]
