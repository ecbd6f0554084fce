"""A folder of definitions: finds its files, runs them, and lowers what they declare."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featurestore.config import Config
from featurestore.declare import Declaration, declarations_in
from featurestore.errors import DefinitionError, Problem, Where
from featurestore.ir import Plan
from featurestore.lower import SchemaOf, lower
from featurestore.policy import Policies, policies_in


def load_plan(config: Config, schema_of: SchemaOf) -> Plan:
    """The plan of the project's definitions. Raises DefinitionError with every mistake of every file."""
    return lower(load_declarations(config), schema_of)


def load_declarations(config: Config) -> list[Declaration]:
    """What the files declare. A file that does not run is a problem at its line; the others are still read."""
    return declarations_in(_values(config))


def load_policies(config: Config) -> Policies:
    """The monitors and triggers of the files. Raises DefinitionError with every mistake in them."""
    return policies_in(_values(config))


def _values(config: Config) -> list[object]:
    """The values of all files' modules."""
    files = definition_files(config)
    if not files:
        globs = ", ".join(config.definitions)
        raise DefinitionError([Problem(f"no definitions in {config.root}", None, (f"looked for {globs}",))])
    values: list[object] = []
    problems: list[Problem] = []
    with _importable(config.root):
        for file in files:
            try:
                values += vars(_run(file, config.root)).values()
            except Exception as error:  # noqa: BLE001  whatever a user's file raises is a problem at its line
                problems.append(_problem(error, file, config.root))
    if problems:
        raise DefinitionError(sorted(set(problems), key=str))
    return values


def definition_files(config: Config) -> list[Path]:
    """The files to load, sorted; hidden folders and names that begin with `_` or `test_` are left out."""
    found = {path for glob in config.definitions for path in config.root.glob(glob) if path.suffix == ".py"}
    return sorted(p for p in found if not _skipped(p.relative_to(config.root)))


def _skipped(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts) or path.name.startswith("test_")


def _run(file: Path, root: Path) -> object:
    name = ".".join(file.relative_to(root).with_suffix("").parts)
    known = sys.modules.get(name)
    if known is not None:
        if getattr(known, "__file__", None) in (str(file), str(file.resolve())):
            return known
        name = f"definitions.{name}"  # a file may be called time.py and hide nothing
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def _importable(root: Path) -> Iterator[None]:
    """Lets definition files import each other, and forgets them afterwards so that the next load reads them anew."""
    before = dict(sys.modules)
    bytecode = sys.dont_write_bytecode
    sys.path.insert(0, str(root.resolve()))
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(root.resolve()))
        sys.dont_write_bytecode = bytecode
        inside = str(root.resolve())
        for name, module in list(sys.modules.items()):
            if before.get(name) is module:
                continue
            if str(getattr(module, "__file__", None) or "").startswith((inside, str(root))):
                del sys.modules[name]
                if name in before:
                    sys.modules[name] = before[name]


def _problem(error: Exception, file: Path, root: Path) -> Problem:
    if isinstance(error, SyntaxError) and error.filename is not None:
        return Problem(f"not Python: {error.msg}", Where(error.filename, error.lineno or 0))
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if f.filename.startswith((str(root), str(root.resolve())))
    ]
    line = Where(frames[-1].filename, frames[-1].lineno or 0) if frames else Where(str(file), 0)
    head, *rest = (str(error) or type(error).__name__).splitlines()
    what = head if type(error).__module__.startswith("featurestore") else f"{type(error).__name__}: {head}"
    return Problem(what, line, tuple(rest))
