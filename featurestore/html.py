"""Small HTML tables for notebooks. All text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

ROWS = 10
"""Rows shown of many."""

_WIDTH = 300


def grid(title: str, headers: Sequence[object], rows: Iterable[Sequence[object]], note: str = "") -> str:
    """An HTML table with a caption; None is shown as a dash, a long text cut."""
    head = "".join(f"<th>{_cell(h)}</th>" for h in headers)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(v)}</td>' for v in row)}</tr>" for row in rows)
    caption = f'<caption style="text-align:left"><b>{_cell(title)}</b></caption>'
    below = f"<div><small>{_cell(note)}</small></div>" if note else ""
    return f"<div><table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}</div>"


def words(value: Any) -> str:
    """A setting in words: things by their names."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {v}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(words, value))
    name = getattr(value, "name", None)
    return name if isinstance(name, str) else str(value)


def shown(value: object) -> str:
    """A value as text; None as a dash."""
    return "–" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _cell(value: object) -> str:
    text = shown(value)
    return escape(text if len(text) <= _WIDTH else f"{text[:_WIDTH]}…")
