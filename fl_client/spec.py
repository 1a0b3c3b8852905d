"""A part of a study is named as the call it is: ``"fedprox(mu=0.01)"``.

A spec is parsed with ``ast`` and takes literals only. Its name must be a file in the matching folder of this
installation, found by walking that folder; nothing else is ever imported, whatever arrives over the wire.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from typing import Any, NamedTuple

from fl_client.config import ConfigError
from strategies.codecs.codec import Chain, chain

FOLDERS = {
    "strategy": ("strategies", "Strategy"),
    "weights": ("strategies.weights", "Weight"),
    "outer": ("strategies.outer", "Outer"),
    "guard": ("strategies.guards", "Guard"),
    "codec": ("strategies.codecs", "Codec"),
    "task": ("tasks", "Task"),
    "partition": ("tasks.partitions", "Partition"),
    "schedule": ("strategies.schedules", "Schedule"),
    "parallel": ("fl_client.parallel", "Parallel"),
}


LONGEST = 500  # characters of a spec
TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
}


class Call(NamedTuple):
    """A parsed spec: a name and its literal arguments."""

    name: str
    positional: tuple[Any, ...]
    named: dict[str, Any]


class SpecError(ConfigError):
    """A spec that does not parse or names nothing, in one plain sentence."""


def parse(text: str, kind: str) -> list[Call]:
    """Return the calls of a spec, several where they are chained by ``|``."""
    if len(text) > LONGEST:
        raise SpecError(f"{kind} is {len(text)} characters long; a spec has {LONGEST} at most")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise SpecError(
            f"{kind}={text!r} does not parse; write it as a call, {_example(kind)}"
        ) from None
    calls: list[ast.expr] = []
    while isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.BitOr):
        calls.insert(0, tree.right)
        tree = tree.left
    return [_call(node, text, kind) for node in [tree, *calls]]


def build(text: str, kind: str) -> Any:
    """Return what the spec's factory makes; raises ``SpecError`` in plain words."""
    calls = parse(text, kind)
    if len(calls) != 1:
        raise SpecError(f"{kind}={text!r} chains {len(calls)} parts; {kind} takes one")
    return make(calls[0], kind)


def codec(text: str) -> Chain:
    """Return the codec chain of a spec such as ``"topk(0.05) | int8()"``."""
    return chain([make(call, "codec") for call in parse(text, "codec")])


def make(call: Call, kind: str) -> Any:
    """Return what the factory named by ``call`` makes with its arguments."""
    known = factories(kind)
    if call.name not in known:
        near = get_close_matches(call.name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise SpecError(f"unknown {kind} {call.name!r}; {hint}known: {', '.join(known)}")
    factory = known[call.name]
    try:
        given = inspect.signature(factory).bind(*call.positional, **call.named).arguments
    except TypeError as error:
        shown = inspect.signature(factory).replace(return_annotation=inspect.Signature.empty)
        raise SpecError(f"{kind} {call.name}: {error}; it takes {call.name}{shown}") from None
    for name, value in given.items():
        wanted = factory.__annotations__[name]
        if not isinstance(value, TYPES[wanted]) or (isinstance(value, bool) and wanted != "bool"):
            raise SpecError(f"{kind} {call.name}: {name}={value!r} should be {wanted}")
    try:
        return factory(*call.positional, **call.named)
    except (ValueError, TypeError) as error:
        raise SpecError(f"{kind} {call.name}: {error}") from None


@cache
def factories(kind: str) -> dict[str, Callable[..., Any]]:
    """Return the factories of a kind by name: files of its folder with a function of the file's own name."""
    package, returns = FOLDERS[kind]
    found: dict[str, Callable[..., Any]] = {}
    folder = importlib.import_module(package)
    for entry in pkgutil.iter_modules(folder.__path__):
        factory = getattr(importlib.import_module(f"{package}.{entry.name}"), entry.name, None)
        if inspect.isfunction(factory) and factory.__annotations__.get("return") == returns:
            found[entry.name] = factory
    return found


def _example(kind: str) -> str:
    known = sorted(factories(kind))
    return f"for example {known[0]}()" if known else "name(option=value)"


def _literal(node: ast.expr) -> Any:
    return math.inf if isinstance(node, ast.Name) and node.id == "inf" else ast.literal_eval(node)


def _call(node: ast.expr, text: str, kind: str) -> Call:
    if isinstance(node, ast.Name):
        return Call(node.id, (), {})
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise SpecError(f"{kind}={text!r} is no call; write {_example(kind)}")
    try:
        positional = tuple(_literal(value) for value in node.args)
        named = {str(k.arg): _literal(k.value) for k in node.keywords if k.arg}
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise SpecError(f"{kind}={text!r} may hold only plain numbers, texts and lists") from None
    names = [k.arg for k in node.keywords]
    twice = sorted({str(name) for name in names if name and names.count(name) > 1})
    if twice:
        raise SpecError(f"{kind}={text!r} gives {twice[0]} twice")
    if None in names:
        raise SpecError(f"{kind}={text!r} may not unpack options with **")
    return Call(node.func.id, positional, named)
