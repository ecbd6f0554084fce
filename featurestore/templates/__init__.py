"""What `fs init` writes. A template is a package here: its files as they are, and a module `data` that makes the rows."""

from __future__ import annotations

import importlib
from importlib import resources
from pathlib import Path

from featurestore.errors import ConfigError

TEMPLATES = {
    "purchases": ("definitions.py", "fs.toml", "README.md"),
    "empty": ("definitions.py", "fs.toml", "README.md"),
}
"""Each template's files, as they lie beside its `__init__.py`."""


def write_files(template: str, folder: Path, extra: dict[str, str] | None = None) -> list[Path]:
    """Writes a template's files into `folder`, and those in `extra` (name to text) in place of or besides them.

    Raises ConfigError, with nothing written, when one of them is there already.
    """
    texts = {
        name: resources.files(f"{__name__}.{template}").joinpath(name).read_text("utf-8")
        for name in TEMPLATES[template]
    }
    texts |= extra or {}
    there = [name for name in texts if (folder / name).exists()]
    if there:
        raise ConfigError(f"{folder}: there is a {there[0]} already\n  name a new folder: `fs init DIR`")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in texts.items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def write_data(template: str, folder: Path, until: int) -> list[Path]:
    """Writes the template's rows below `folder/data`, the last just before `until` (UTC microseconds); nothing for `empty`."""
    if template == "empty":
        return []
    module = importlib.import_module(f"{__name__}.{template}.data")
    written: list[Path] = module.write(folder / "data", until)
    return written
