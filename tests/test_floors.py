"""Imports point down the floors of docs/architecture.md, those inside functions too; and the table names every module."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "featurestore"


def floors() -> dict[str, tuple[int, str]]:
    """Each module or package of the table below `featurestore`, with its floor and what that is called."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition("## Floors")[2].partition("\n## ")[0]
    found: dict[str, tuple[int, str]] = {}
    for number, name, modules in re.findall(r"^\| (\d) (\w+) \| (.*?) \|", table, re.MULTILINE):
        outer = re.sub(r"\([^)]*\)", "", modules)  # what is in brackets lies in the package before it
        for module in re.findall(r"`([\w/]+)`", outer):
            assert module not in found, f"{module} is on two floors"
            found[module.rstrip("/")] = int(number), name
    return found


def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


FLOORS, MODULES = floors(), modules()


def floor_of(module: str) -> tuple[int, str]:
    """A module's floor: that of its first part below the package."""
    return FLOORS[module.split(".")[1]]


def imports(path: Path, module: str) -> Iterator[tuple[int, str]]:
    """Line and module of everything of ours that a file imports, wherever it does so."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            # `from featurestore import ir` imports a module, `from featurestore.ir import View` one too
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            known = next((m for m in _prefixes(name) if m in MODULES), None)
            if known is not None and known != "featurestore":
                yield node.lineno, known


def _prefixes(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:i]) for i in range(len(parts), 0, -1))


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.count(".")))
def test_imports_point_down(module: str) -> None:
    floor, side = floor_of(module)
    wrong = []
    for line, other in imports(MODULES[module], module):
        below, its = floor_of(other)
        if below > floor or (below == floor and its != side):
            wrong.append(
                f"{module.replace('.', '/')}.py:{line} ({floor} {side}) imports {other} ({below} {its})"
            )
    assert wrong == []


def test_the_table_names_every_module_and_no_other() -> None:
    there = {m.split(".")[1] for m in MODULES if m.count(".")}
    assert set(FLOORS) == there


def test_what_is_named_inside_a_package_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for package, inside in re.findall(r"`(\w+)/` \(([^)]*)\)", text):
        for name in re.findall(r"`(\w+)`", inside):
            assert f"featurestore.{package}.{name}" in MODULES, f"{package}/{name}"


def test_an_import_upwards_is_seen_inside_a_function(tmp_path: Path) -> None:
    file = tmp_path / "words.py"
    file.write_text(
        "def f():\n    from featurestore.store import FeatureStore\n    import featurestore.cli.app\n"
    )
    assert list(imports(file, "featurestore.types")) == [
        (2, "featurestore.store"),
        (3, "featurestore.cli.app"),
    ]
    file.write_text(
        "from featurestore import ir, declare as d\nfrom featurestore.expr import col\nimport numpy\n"
    )
    found = [name for _, name in imports(file, "featurestore.types")]
    assert found == ["featurestore.ir", "featurestore.declare", "featurestore.expr"]
