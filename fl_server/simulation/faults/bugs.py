"""Bugs that a protocol like this can have, each a small change of one real function, to show that trials find them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.numpy import save

from fl_client import audit, checkpoint, memory, outbox
from fl_client.parcels import Parcel
from fl_server import commit, intake, journal, passes, record, silos
from fl_server.gateway import parcels as arrivals


class Bug(NamedTuple):
    """Whose function is changed, and what makes the wrong one of the real one."""

    owner: Any
    function: str
    change: Callable[[Any], Callable[..., Any]]


@contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """Have this bug while the context is open."""
    real = getattr(bug.owner, bug.function)
    setattr(bug.owner, bug.function, bug.change(real))
    try:
        yield
    finally:
        setattr(bug.owner, bug.function, real)


def _named_only(real: Any) -> Callable[..., Any]:
    return lambda target: memory.part(target).replace(target)


def _folder_not_synced(real: Any) -> Callable[..., Any]:
    def complete(target: Path) -> None:
        with memory.part(target).open("rb") as stream:
            os.fsync(stream.fileno())
        memory.part(target).replace(target)

    return complete


def _said_early(real: Any) -> Callable[..., Any]:
    def kept(file: Path, parcel: Parcel, sha256: str = "") -> int:
        part = memory.part(file)
        size = part.stat().st_size
        if size == parcel.bytes:
            part.replace(file)
        return size

    return kept


def _old_goes_first(real: Any) -> Callable[..., Any]:
    def commit(folder: Path, state: journal.State, kept: set[int]) -> None:
        for file in folder.glob("round-*"):
            file.unlink()
        real(folder, state, kept)

    return commit


def _a_round_behind(real: Any) -> Callable[..., Any]:
    def recall(folder: Path, number: int | None = None) -> journal.State | None:
        held = real(folder, number)
        return held if held is None else held._replace(round=max(held.round - 1, 0))

    return recall


def _settled_first(real: Any) -> Callable[..., Any]:
    def keep(run: Any, *others: Any) -> None:
        run.grid.settle()
        real(run, *others)

    return keep


def _not_durable(real: Any) -> Callable[..., Any]:
    def append(folder: Path, line: Any) -> None:
        for name in (record.FILE, record.COPY):
            with (folder / name).open("ab") as stream:
                stream.write(record.written([line]))

    return append


def _twice(real: Any) -> Callable[..., Any]:
    def arrived(grid: Any, waiting: Any) -> Iterator[Any]:
        for node, reply in real(grid, waiting):
            yield node, reply
            if grid.restarted():
                yield node, reply

    return arrived


def _forgotten(real: Any) -> Callable[..., Any]:
    def keep(folder: Path, *others: Any) -> Any:
        kept = real(folder, *others)
        (folder / outbox.FILE).unlink()
        return kept

    return keep


def _remembered_late(real: Any) -> Callable[..., Any]:
    def keep(home: Path, number: int, arrays: Any, *others: Any) -> None:
        memory.path(home, number).parent.mkdir(parents=True, exist_ok=True)
        memory.path(home, number).write_bytes(save(arrays))

    return keep


def _only_the_last(real: Any) -> Callable[..., Any]:
    def keep(home: Path, number: int, *others: Any) -> None:
        real(home, number, *others)
        for old in [n for n in memory.rounds(home) if n < number]:
            memory.path(home, old).unlink()

    return keep


def _own_trace(real: Any) -> Callable[..., Any]:
    return lambda home, before, lost: real(home, before + 1, lost)


def _unrecorded(real: Any) -> Callable[..., Any]:
    def append(folder: Path, entry: Any) -> None:
        with (folder / audit.FILE).open("a") as stream:
            stream.write(json.dumps(entry._asdict()) + "\n")

    return append


def _made_once(real: Any) -> Callable[..., Any]:
    first: dict[str, Any] = {}

    def bases(passes: Any, cohort: Any, sketches: dict[str, Any], weights: Any) -> dict[str, Any]:
        if not sketches.keys() < first.keys():
            first.clear()
            first.update(real(passes, cohort, sketches, weights))
        return {name: first[name] for name in sketches}

    return bases


def _forgetful(real: Any) -> Callable[..., Any]:
    return lambda *given: intake.Intake({}, [])


def _nothing(real: Any) -> Callable[..., Any]:
    return lambda *given: None


BUGS = {
    "a file is put in place without an fsync": Bug(memory, "complete", _named_only),
    "a folder is not synced after a rename": Bug(memory, "complete", _folder_not_synced),
    "no step checkpoint is kept": Bug(checkpoint, "keep", _nothing),
    "any round goes on from a step checkpoint": Bug(checkpoint, "round_key", lambda _: lambda *given: "round"),
    "an update is acknowledged before it is durable, and unread": Bug(arrivals, "kept", _said_early),
    "the journal lets go of the last round before it has the next": Bug(journal, "commit", _old_goes_first),
    "a study resumes a round behind": Bug(journal, "recall", _a_round_behind),
    "updates go before their round is committed": Bug(commit, "keep", _settled_first),
    "the record is not durable when its round is": Bug(record, "append", _not_durable),
    "what was recorded and not committed stays": Bug(record, "rewind", _nothing),
    "a reply counts twice after a silo started anew": Bug(silos, "_arrived", _twice),
    "the outbox forgets what the hub has not settled": Bug(outbox, "keep", _forgotten),
    "the outbox answers whatever is asked": Bug(outbox, "key", lambda _: lambda job: job.study.name),
    "a silo's memory is not durable when its update is": Bug(memory, "keep", _remembered_late),
    "a silo remembers its last round alone": Bug(memory, "keep", _only_the_last),
    "a round that is asked again begins with what it left": Bug(memory, "agreed", _own_trace),
    "a first mean stays though a silo of it is lost": Bug(passes, "bases", _made_once),
    "a hub that died asks anew whoever was at work": Bug(intake, "read", _forgetful),
    "what came is not kept before its silo is asked again": Bug(intake, "take", _nothing),
    "the record of what left a silo is not durable": Bug(audit, "append", _unrecorded),
}  # fmt: skip
