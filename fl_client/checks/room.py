"""Whether this machine has room for the base and the adapter: processors, memory, disk. Estimates, and said to be."""

from __future__ import annotations

from typing import NamedTuple

from fl_client import footprint, shapes
from fl_client.checks.check import Check, size
from fl_client.config import ConfigError, Study
from fl_client.footprint import Need, Room
from fl_client.machine import Machine, multiplies_bfloat16
from fl_client.shapes import Shape
from fl_client.silo import Settings
from strategies import adapter as algebra
from strategies.adapter import Layout

SPARE = 1_000_000_000  # bytes of disk for logs, replies on their way and what others write
KEPT = 64  # bytes on disk for each number trained: memories of rounds, a checkpoint, what is served
GPU_FREE = 0.95  # the part of a GPU that a program can have


class Sized(NamedTuple):
    """What is to be trained here, as far as memory goes."""

    shape: Shape
    tensors: Layout
    study: Study


def sized(study: Study, own: Settings, scripts: str) -> Sized:
    """Return a study's base and adapter as this silo would hold them; raises ``ConfigError``."""
    shape = shapes.read(own.base)
    return Sized(shape, shapes.adapter(shape, study.model, own.base, scripts), study)


def processors(machine: Machine) -> Check:
    """Return what training would run on, and on a CPU in which numbers."""
    if not machine.gpus:
        numbers = "bfloat16" if multiplies_bfloat16() else "float32"
        found = f"none; training runs on {machine.cpus} CPU cores, in {numbers} by default"
        return Check("GPU", True, found)
    held = [f"{gpu.name} ({size(gpu.memory_bytes)})" for gpu in machine.gpus]
    return Check("GPU", True, ", ".join(held))


def room(machine: Machine, own: Settings, running: bool) -> Room:
    """Return where this silo trains: a process a GPU, or processes that share this machine's memory."""
    wanted = 0 if own.processes == "auto" else int(own.processes)
    if machine.gpus:
        smallest = min(gpu.memory_bytes for gpu in machine.gpus)
        return Room(int(smallest * GPU_FREE), wanted or len(machine.gpus), True)
    # A silo that runs holds some of the memory itself.
    return Room(machine.memory_bytes if running else machine.free_bytes, wanted or 1, False)


def memory(what: Sized | ConfigError, where: Room) -> Check:
    """Return whether training fits into memory, and which settings of a study to lower where it does not."""
    if isinstance(what, ConfigError):
        return Check("memory", True, f"not estimated: {str(what).partition('; ')[0]}")
    need = footprint.need(*what, where)
    found = spoken(need, what, where)
    if footprint.fits(need, where):
        return Check("memory", True, found)
    changes = footprint.lower(*what, where)
    if changes is None:
        remedy = (
            "no setting makes this base fit; take a smaller base, or a machine with more memory"
        )
    else:
        remedy = f"ask for studies with {footprint.said(changes)}"
    fewer = " or fewer processes in silo.toml" if where.processes > 1 and not where.gpu else ""
    return Check("memory", False, found, remedy + fewer)


def spoken(need: Need, what: Sized, where: Room) -> str:
    """Return in words what is needed and what there is."""
    options, times = what.study, "" if where.processes == 1 else f" for each of {where.processes}"
    return (
        f"about {size(need.total)}{times} (base {size(need.base)}, rank {options.model.rank}, "
        f"{options.train.batch_size} x {options.train.length} tokens a step) of {size(where.bytes)}"
        f"{' a GPU' if where.gpu else ' here'}"
    )


def disk(what: Sized | ConfigError, machine: Machine) -> Check:
    """Return whether the disk of the silo's folder has room for what a study leaves there."""
    trained = 0 if isinstance(what, ConfigError) else algebra.size(what.tensors)
    wanted = SPARE + KEPT * trained
    found = f"{size(machine.disk_free_bytes)} free of about {size(wanted)} that studies need"
    if machine.disk_free_bytes < wanted:
        return Check("disk", False, found, "free some, or move the silo's folder to another disk")
    return Check("disk", True, found)
