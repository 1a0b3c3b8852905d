"""Kills a process at a named point of its program, from outside: ``armed`` puts this folder first on its PYTHONPATH.

A point is a file in ``$BHASHA_TRAP/armed``, named by a real function, a side of it, and if need be by who must have
called it: ``fl_server.journal.commit after``, ``fl_client.memory.complete before in fl_server.journal.commit``. Whoever
comes there first takes the file away, so that it fires once and what starts next lives on, says so in ``fired``, and
kills itself; where the file names a supervisor's pid, all that runs below that goes with it, as in a power cut.

The functions of ``$BHASHA_TRAP/points`` are led here when their module is loaded, no sooner, imported or run as a
program. A function stays the object that it was, with other code, so it does not matter who holds it since when.
Python imports this file in every process that it starts, so it knows nothing but the standard library.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from functools import reduce
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

FOLDER = Path(os.environ.get("BHASHA_TRAP", ""))
POINTS = FOLDER / "points"
CALLS: dict[str, Any] = {}  # by MODULE.NAME, what a function's other code calls
PASSED: Counter[str] = Counter()  # how often this process came to an armed point
OTHER = "def other(*a, **k): return __import__('sitecustomize').CALLS[{!r}](*a, **k)"


def module_of(function: str) -> str:
    """Return the module of a function, or of the method of a class, that is named in full."""
    parts = function.split(".")
    return ".".join(part for part in parts[:-1] if not part[:1].isupper())


class Loader(SourceFileLoader):
    """Loads a module and leads its functions here once they are made; nothing is kept as bytecode."""

    def get_code(self, fullname: str) -> CodeType:
        """Return the module's code with one line more, before what it does when it is the program."""
        path = self.get_filename(fullname)
        tree = ast.parse(self.get_data(path), path)
        line = ast.parse(f"__import__('sitecustomize').lead({fullname!r}, globals())").body
        at = len(tree.body) - ("__main__" in ast.dump(tree.body[-1]))
        tree.body[at:at] = line
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


class Finder:
    """Finds the modules that have points."""

    def __init__(self, names: list[str]) -> None:
        self.functions = {
            module_of(name): [n for n in names if module_of(n) == module_of(name)] for name in names
        }

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return how a module is loaded, None where that is no matter of ours."""
        spec = PathFinder.find_spec(name, path, target) if name in self.functions else None
        if spec is not None and spec.origin:
            spec.loader = Loader(name, spec.origin)
        return spec


def lead(module: str, names: dict[str, Any]) -> None:
    """Lead the functions of a module that was just made through ``passed``."""
    for name in FINDER.functions[module]:
        first, *rest = name.removeprefix(module + ".").split(".")
        function = inspect.unwrap(reduce(getattr, rest, names[first]))
        CALLS[name] = around(
            name,
            FunctionType(
                function.__code__,
                function.__globals__,
                function.__name__,
                function.__defaults__,
                function.__closure__,
            ),
            function.__kwdefaults__,
        )
        made: dict[str, Any] = {}
        exec(OTHER.format(name), made)
        function.__code__ = made["other"].__code__
        function.__defaults__ = function.__kwdefaults__ = None


def around(name: str, function: FunctionType, keywords: dict[str, Any] | None) -> Any:
    """Return a function that tells ``passed`` when it begins and when it has ended well."""
    function.__kwdefaults__ = keywords

    async def awaited(*given: Any, **named: Any) -> Any:
        passed(name, "before", given)
        found = await function(*given, **named)
        passed(name, "after", given)
        return found

    def called(*given: Any, **named: Any) -> Any:
        passed(name, "before", given)
        found = function(*given, **named)
        passed(name, "after", given)
        return found

    return awaited if inspect.iscoroutinefunction(function) else called


def passed(name: str, side: str, given: tuple[Any, ...]) -> None:
    """Look whether this point is armed, and fire once it was passed often enough."""
    for token in (FOLDER / "armed").glob(f"{name} {side}*"):
        words = token.name.split(" ")  # NAME SIDE, or NAME SIDE in CALLER
        if len(words) == 2 or called_by(words[3]):
            PASSED[token.name] += 1
            with suppress(FileNotFoundError):  # another process was quicker
                fire(token, [one for one in given if isinstance(one, int)])


def called_by(name: str) -> bool:
    """Return whether a function, named in full, is being called."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        of = getattr(frame.f_globals.get("__spec__"), "name", "")
        if f"{of}.{frame.f_code.co_qualname}" == name:
            return True
    return False


def fire(token: Path, given: list[int]) -> None:
    """Take the token and end this process, or all below a supervisor; raises ``FileNotFoundError`` if it is taken."""
    asked = json.loads(token.read_text())
    if PASSED[token.name] <= asked["skip"]:
        return
    token.rename(FOLDER / "taken" / token.name)
    note = {"at": time.time(), "pid": os.getpid(), "program": sys.argv, "given": given}
    part = FOLDER / "taken" / "told"
    part.write_text(json.dumps(note))
    part.rename(FOLDER / "fired" / token.name)
    supervisor = asked["supervisor"]
    for pid in [*below(supervisor), supervisor] if supervisor else []:
        if pid != os.getpid():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def below(pid: int) -> list[int]:
    """Return the processes that descend from one."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


if POINTS.is_file():
    FINDER = Finder(POINTS.read_text().splitlines())
    sys.meta_path.insert(0, FINDER)  # type: ignore[arg-type]
