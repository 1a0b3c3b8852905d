"""What a study without rounds has asked and taken since its last commit, durably: a hub that died goes on from there.

Each silo's order is on disk before it is sent, and each answer whose update lies at the hub before its silo is asked
again: after a death what has come is taken anew from the disk, in the same order, and who is at work is asked for the
very same, which it may have finished. Answers that carry their arrays themselves are not kept, but asked for again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fl_client import parcels
from fl_client.memory import write_whole
from fl_client.messages import Reply
from fl_server import record
from fl_server.visits import Visit

FILE = "journal/intake.jsonl"


class Asked(NamedTuple):
    """What a silo is at work on: the commit that its adapter is of, its own count, its steps, and since when."""

    after: int
    own: Visit
    steps: int
    began: float | None  # None where it was asked by a hub that died: how long it took is not known

    @property
    def visit(self) -> int:
        """The silo's own count of its trainings."""
        return self.own.visit

    def seconds(self, now: float) -> float:
        """Return how long the silo has been at work, 0 where that is not known."""
        return 0.0 if self.began is None else round(now - self.began, 3)


class Taken(NamedTuple):
    """An answer that came: whose, after which commit, to what, after how long, and the bytes it had been sent."""

    silo: str
    commit: int
    asked: Asked
    seconds: float
    down: int
    reply: Reply


class Intake(NamedTuple):
    """What was asked last of each silo, and what was taken after one commit, in the order of arrival."""

    asked: dict[str, Asked]
    taken: list[Taken]


def read(folder: Path, commit: int) -> Intake:
    """Return what a run's folder holds of the time after a commit; nothing of what comes after a damaged line."""
    asked: dict[str, Asked] = {}
    taken = []
    for line in record.sound(folder / FILE):
        if line is None:
            break
        work = Asked(line["after"], Visit(*line["own"]), line["steps"], None)
        if "reply" not in line:
            asked[line["silo"]] = work
        elif line["commit"] == commit:
            said = line["reply"]
            parcel = parcels.parse(said["parcel"]) if said["parcel"] else None
            reply = Reply({}, said["metrics"], said["facts"], said["code"], said["bytes"], parcel)
            found = Taken(line["silo"], commit, work, line["seconds"], line["down"], reply)
            taken.append(found)
    return Intake(asked, taken)


def write(folder: Path, intake: Intake) -> None:
    """Keep this alone, durably."""
    lines = [*_asked(intake.asked), *(_taken(one) for one in intake.taken)]
    (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
    write_whole(folder / FILE, record.written(lines))


def ask(folder: Path, asked: Mapping[str, Asked]) -> None:
    """Note, durably, what silos are about to be asked."""
    record.add(folder / FILE, _asked(asked))


def take(folder: Path, taken: Taken) -> None:
    """Note, durably, what came, where it can be taken from disk again."""
    if taken.reply.parcel or taken.reply.code:
        record.add(folder / FILE, [_taken(taken)])


def _asked(asked: Mapping[str, Asked]) -> list[record.Line]:
    return [{"silo": name} | _work(one) for name, one in asked.items()]


def _taken(taken: Taken) -> record.Line:
    reply = taken.reply
    said: dict[str, Any] = {
        "metrics": reply.metrics,
        "facts": reply.facts,
        "code": reply.code,
        "bytes": reply.bytes,
        "parcel": str(reply.parcel or ""),
    }
    times = {"seconds": taken.seconds, "down": taken.down, "commit": taken.commit}
    return {"silo": taken.silo, "reply": said} | times | _work(taken.asked)


def _work(asked: Asked) -> record.Line:
    return {"after": asked.after, "own": [*asked.own], "steps": asked.steps}
