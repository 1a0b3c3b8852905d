"""The walk: every method file of ``strategies/`` and ``tasks/`` is one row of every battery here.

A method file is a module that holds a function of its own name, annotated to return the folder's
type. A test that asks for ``strategy``, ``codec``, ... runs once for every such factory.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import pkgutil

import strategies.codecs
import strategies.guards
import strategies.outer
import strategies.weights
import tasks.partitions
from strategies.codecs.codec import Codec
from strategies.guards.guard import Guard
from strategies.outer.outer import Outer
from strategies.strategy import Strategy
from strategies.weights.weight import Weight
from tasks.partitions.partition import Partition
from tasks.task import Task


def modules(package):
    """Return the modules that lie directly in a package."""
    found = pkgutil.iter_modules(package.__path__)
    return [importlib.import_module(f"{package.__name__}.{m.name}") for m in found if not m.ispkg]


def method(module, returns):
    """Return the factory that a module is named after, or None where it has none of this type."""
    factory = getattr(module, module.__name__.rpartition(".")[2], None)
    if not inspect.isfunction(factory):
        return None
    given = inspect.get_annotations(factory, eval_str=True).get("return")
    return factory if given == returns else None


def walk(package, returns):
    """Return all factories of a folder; a folder without any is an error, not an empty battery."""
    found = [factory for module in modules(package) if (factory := method(module, returns))]
    assert found, f"no method file in {package.__name__}"
    return found


ROWS = {
    "strategy": walk(strategies, Strategy),
    "codec": walk(strategies.codecs, Codec),
    "outer": walk(strategies.outer, Outer),
    "guard": walk(strategies.guards, Guard),
    "weight": walk(strategies.weights, Weight),
    "task": walk(tasks, Task),
    "partition": walk(tasks.partitions, Partition),
}
ROWS["factory"] = list(itertools.chain(*ROWS.values()))
ROWS["tempered"] = [f for f in ROWS["weight"] if "temperature" in inspect.signature(f).parameters]
ROWS["watchful"] = [f for f in ROWS["guard"] if f() != Guard()]
ROWS["discarding"] = [f for f in ROWS["guard"] if f().discards]
SPARSE = [f for f in ROWS["codec"] if f().biased and not f().narrows]
NARROW = [f for f in ROWS["codec"] if f().narrows]
ROWS["links"] = [(f,) for f in SPARSE] + list(itertools.product(SPARSE, NARROW))
# (module, type) of the folders that hold methods and the file of their type, nothing else
ROWS["member"] = [
    (module, returns)
    for package, returns, home in (
        (strategies.codecs, Codec, "codec"),
        (strategies.guards, Guard, "guard"),
        (strategies.outer, Outer, "outer"),
        (strategies.weights, Weight, "weight"),
        (tasks.partitions, Partition, "partition"),
    )
    for module in modules(package)
    if not module.__name__.endswith(f".{home}")
]


def name(row):
    """Return the id of a row: its function's name, or several joined as in a chain."""
    if isinstance(row, tuple):
        return "|".join(part.__name__ for part in row if hasattr(part, "__name__"))
    return row.__name__


def pytest_generate_tests(metafunc):
    for kind, found in ROWS.items():
        if kind in metafunc.fixturenames:
            metafunc.parametrize(kind, found, ids=name)
