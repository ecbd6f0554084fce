"""Python functions of on-demand features: what stands for their meaning, and how a plan that was kept finds them again.

A plan holds a function's text and never runs it. Who serves what was applied loads the definitions and takes the function
from there, if it is still the one that was applied.
"""

from __future__ import annotations

import ast
import datetime as dt
import dis
import inspect
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, get_args

import numpy as np

from featurestore import declare as d
from featurestore import ir
from featurestore.declare import source_of
from featurestore.errors import DefinitionError, FunctionChanged
from featurestore.types import DType

_CONSTANTS = (
    bool,
    int,
    float,
    str,
    bytes,
    Decimal,
    dt.datetime,
    dt.date,
    dt.timedelta,
    type(None),
    *get_args(DType),
)
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


class Untold(Exception):
    """Something about a function that cannot stand in a plan: what is wrong, and what would work."""

    def __init__(self, what: str, works: str) -> None:
        self.what, self.works = what, works
        super().__init__(what)


def told(given: d.PythonFunction, types: Sequence[Any]) -> ir.PythonFunction:
    """The function as a plan says it. Raises Untold for one whose meaning its text does not hold."""
    function = _plain(given.function, given.source)
    assert given.source is not None
    if type(given.version) is not int or given.version < 1:
        raise Untold(f"has version {given.version!r}", "a version is a whole number from 1 on")
    parameters = inspect.signature(function).parameters.values()
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if any(p.kind not in plain or p.default is not p.empty for p in parameters):
        raise Untold("has parameters with defaults, or by name alone", "one plain parameter for each input")
    if not given.inputs:
        raise Untold("has no inputs", 'name the columns it takes: inputs=[checkout["price"]]')
    if len(parameters) != len(given.inputs):
        raise Untold(
            f"takes {len(parameters)} columns, and has {len(given.inputs)} inputs", "one for each input"
        )
    captured = tuple(sorted(_captured(function, "", {function})))
    inputs = tuple(i.node for i in given.inputs)
    return ir.PythonFunction(
        function.__name__, inputs, tuple(types), given.source, given.version, captured, call=function
    )


def bound(service: ir.Service, declarations: Callable[[], Iterable[d.Declaration]]) -> ir.Service:
    """A service whose Python functions are at hand, taken from the definitions; these are loaded only if it needs any.

    Raises FunctionChanged when the definitions cannot be loaded, or hold no such function as was applied: it says what differs.
    """
    if all(_at_hand(o) for o in service.on_demand):
        return service
    try:
        features = [x for x in declarations() if isinstance(x, d.OnDemand)]
    except DefinitionError as error:
        needs = ", ".join(f"'{o.name}'" for o in service.on_demand if not _at_hand(o))
        raise FunctionChanged(
            f"service '{service.name}' computes {needs} by Python functions, and the definitions that hold them do not load\n"
            f"  {str(error).splitlines()[0]}"
        ) from error
    return replace(service, on_demand=tuple(_found(service, o, features) for o in service.on_demand))


def _at_hand(feature: ir.OnDemand) -> bool:
    return not isinstance(feature.expression, ir.PythonFunction) or feature.expression.call is not None


def _found(service: ir.Service, feature: ir.OnDemand, declared: Sequence[d.OnDemand]) -> ir.OnDemand:
    function = feature.expression
    if not isinstance(function, ir.PythonFunction) or function.call is not None:
        return feature
    differs = ["no file declares an on-demand feature of this name with a Python function"]
    for other in declared:
        if not isinstance(other.expression, d.PythonFunction):
            continue
        try:
            now = told(other.expression, function.input_types)
        except Untold as error:
            if other.name == feature.name:
                differs = [f"{other.expression.line}: it {error.what}"]
            continue
        if now.identity == function.identity:
            return replace(feature, expression=replace(function, call=now.call))
        if other.name == feature.name:
            differs = [f"{other.expression.line}: {what}" for what in _differences(function, now)]
    raise FunctionChanged(
        "\n  ".join(
            [
                f"on-demand feature '{feature.name}' of service '{service.name}' is not as it was applied in the definitions",
                *differs,
                "apply the definitions as they are now (`fs plan` says what changes), or put back what was applied",
            ]
        )
    )


def _differences(was: ir.PythonFunction, now: ir.PythonFunction) -> Iterator[str]:
    if was.version != now.version:
        yield f"its version was {was.version} and is {now.version}"
    if was.source != now.source:
        lines = zip(was.source.splitlines(), now.source.splitlines(), strict=False)
        first = next(((a, b) for a, b in lines if a != b), None)
        yield (
            "its text is longer or shorter"
            if first is None
            else f"its text had {first[0].strip()!r}, and has {first[1].strip()!r}"
        )
    before, after = dict(was.captured), dict(now.captured)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield f"'{name}', which it takes from around it, was {_short(before.get(name))} and is {_short(after.get(name))}"


def _short(text: str | None) -> str:
    if text is None:
        return "not there"
    return text if len(text) <= 60 and "\n" not in text else "another text"


# ------------------------------------------------------------------------------------------------- what a function is made of


def _plain(function: object, source: str | None) -> FunctionType:
    """A function whose text is all of it. Raises Untold for anything else that can be called."""
    if not isinstance(function, FunctionType) or function.__name__ == "<lambda>":
        raise Untold(f"is {_kind(function)}", "a plain function: def name(column): …")
    if hasattr(function, "__wrapped__"):
        raise Untold("is wrapped by another decorator, which its text does not show", "a plain function")
    if (
        inspect.iscoroutinefunction(function)
        or inspect.isgeneratorfunction(function)
        or inspect.isasyncgenfunction(function)
    ):
        raise Untold("does not return its values at once", "a plain function that returns an array")
    if source is None:
        raise Untold("has no text that can be read", "write it in a file, or in a notebook's cell")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            raise Untold("imports in its body, unseen until it is called", "import at the top of the file")
        if isinstance(node, ast.Global | ast.Nonlocal):
            raise Untold(
                f"keeps '{node.names[0]}' from one call to the next",
                "values that depend on the row's inputs alone",
            )
    return function


def _captured(function: FunctionType, path: str, seen: set[FunctionType]) -> Iterator[tuple[str, str]]:
    """What a function and its helpers take from around them: names, and what stands for each."""
    inside = inspect.getclosurevars(function).nonlocals
    for name in sorted(_free(function.__code__)):
        if name in inside:
            value = inside[name]
        elif name in function.__globals__:
            value = function.__globals__[name]
        else:
            continue  # a builtin, or a name that is not there: calling it will say so
        yield from _named(f"{path}{name}", value, seen)


def _named(path: str, value: object, seen: set[FunctionType]) -> Iterator[tuple[str, str]]:
    if isinstance(value, d.PythonFunction):
        value = value.function
    if _is_constant(value):
        yield path, repr(value)
    elif isinstance(value, ModuleType):
        if not _is_installed(value.__name__, getattr(value, "__file__", None)):
            raise Untold(
                f"reads module '{value.__name__}', whose text it does not show",
                f"import from it what is needed: from {value.__name__} import …",
            )
        yield path, f"module {value.__name__}"
    elif isinstance(value, FunctionType) and not _is_installed(value.__module__, value.__code__.co_filename):
        if value in seen:
            return
        seen.add(value)
        source = source_of(value)
        try:
            helper = _plain(value, source)
        except Untold as error:
            raise Untold(f"calls '{path}', which {error.what}", error.works) from None
        assert source is not None
        if helper.__defaults__ or helper.__kwdefaults__:
            raise Untold(
                f"calls '{path}', which has defaults that its text may not show", "give it every argument"
            )
        yield path, source
        yield from _captured(helper, f"{path}.", seen)
    elif isinstance(value, FunctionType | BuiltinFunctionType | type | np.ufunc) and _is_imported(value):
        yield path, f"{getattr(value, '__module__', None) or 'numpy'}.{value.__name__}"
    else:
        raise Untold(
            f"reads '{path}' from around it, {_kind(value)} that may change under it",
            "constants (numbers, texts, times, tuples of these), modules and functions can be told; "
            "make it inside the function, or an input",
        )


def _is_constant(value: object) -> bool:
    if type(value) is tuple:
        return all(map(_is_constant, value))
    return type(value) in _CONSTANTS


def _is_imported(value: Any) -> bool:
    """Whether it comes from an installed module, whose releases are not ours to follow."""
    if isinstance(value, np.ufunc | BuiltinFunctionType):
        return True
    try:
        return _is_installed(value.__module__, inspect.getfile(value))
    except (TypeError, OSError):
        return getattr(value, "__module__", None) == "builtins"


def _is_installed(module: str | None, file: str | None) -> bool:
    """Whether a module is a library's, this one included: known by name, not by text."""
    ours = module is not None and module.partition(".")[0] == "featurestore"
    return ours or file is None or file.startswith((*_INSTALLED, "<frozen"))


def _free(code: CodeType) -> set[str]:
    """The names that code, and the code inside it, takes from around it; not those of attributes."""
    found = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    found |= set(code.co_freevars)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _free(constant)
    return found


def _kind(value: object) -> str:
    name = type(value).__name__
    return (
        "a lambda"
        if getattr(value, "__name__", "") == "<lambda>"
        else f"a{'n' if name[0] in 'aeiou' else ''} {name}"
    )
