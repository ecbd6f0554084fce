"""How things are printed: aligned tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Any

import click

from featurestore.time import DAY, HOUR, MINUTE, SECOND, moment_text


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain))


def _plain(value: object) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value)  # a Decimal: all its digits


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]], indent: str = "") -> None:
    """Columns as wide as what is in them, numbers to the right, None as `-`. Nothing is cut off."""
    cells = [[_cell(v) for v in row] for row in rows]
    numeric = [bool(cells) and all(_is_number(row[i]) for row in cells) for i in range(len(headers))]
    widths = [max(len(h), *(len(row[i]) for row in cells), 0) for i, h in enumerate(headers)]

    def line(row: Sequence[str]) -> str:
        parts = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)]
        return f"{indent}{'  '.join(parts)}".rstrip()

    click.echo(click.style(line(headers), bold=True))
    for row in cells:
        click.echo(line(row))


def print_fields(pairs: Iterable[tuple[str, object]]) -> None:
    """`name  value` lines, aligned; what is None or empty is left out."""
    kept = [(name, _cell(value)) for name, value in pairs if value not in (None, "", ())]
    width = max((len(name) for name, _ in kept), default=0)
    for name, value in kept:
        click.echo(f"{click.style(name.ljust(width), dim=True)}  {value}")


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "true" if value else "false"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.10g}"
        case datetime():
            return value.isoformat()
        case _:
            return str(value)


def text_of(value: object) -> str | None:
    """A value of a feature as one cell; None is None. Floats with all their digits."""
    if value is None or isinstance(value, str):
        return value
    return repr(value) if isinstance(value, float) else str(value)


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.replace(",", "").replace(".", "").replace("e", "").strip("+-").isdigit()


def age_text(seconds: float | None) -> str | None:
    """How long ago, in the two largest units: `3d 4h`, `12m 5s`, `0.3s`."""
    if seconds is None:
        return None
    if seconds < 10:
        return f"{seconds:.1f}s"
    left = int(seconds) * SECOND
    parts: list[str] = []
    for size, unit in ((DAY, "d"), (HOUR, "h"), (MINUTE, "m"), (SECOND, "s")):
        count, left = divmod(left, size)
        if count and len(parts) < 2:
            parts.append(f"{count}{unit}")
        elif parts:
            break
    return " ".join(parts)


def size_text(count: float) -> str:
    """Bytes in the unit that reads best: `1.4 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


__all__ = ["age_text", "moment_text", "print_fields", "print_json", "print_table", "size_text", "text_of"]
