"""A hub's gateway without sockets: it does with the real functions what the real one's handlers do.

What it was told is on its disk; what it holds in memory is read from there when it starts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from fl_client import fleet, memory, parcels
from fl_client.gateway.trip import CONTENT, PATH
from fl_client.parcels import Parcel
from fl_server.freight import LAID_OUT
from fl_server.gateway import parcels as arrivals
from fl_server.gateway import pulls, replies, seen, spool
from fl_server.gateway.pulls import Pulls
from fl_server.gateway.replies import Session
from fl_server.gateway.seen import Seen
from fl_server.gateway.spool import Spool
from fl_server.simulation.faults.superlink import Superlink, Work

QUOTA = 1 << 30


class Over(Exception):
    """The run is over."""


class Anew(Exception):
    """The hub does not know the silo's node, so its SuperNode has to start anew."""


class Call(NamedTuple):
    """What a silo asks: its path, what it names, and its body, as much of it as came."""

    path: str
    named: dict[str, Any]
    body: bytes = b""


class Gateway:
    """A gateway while its process lives. ``told``: what silos were told is here; ``gone``: what of it was not."""

    def __init__(
        self, folder: Path, superlink: Superlink, told: set[tuple[str, Parcel]], gone: list[str]
    ) -> None:
        for name in ("seen", "spool", LAID_OUT):
            (folder / name).mkdir(exist_ok=True)
        self._folder, self._superlink, self._told = folder, superlink, told
        self.seen: Seen = seen.load(folder / "seen")
        self._spool: Spool = spool.load(folder / "spool", QUOTA)
        self._pulls: Pulls = pulls.load(folder / "spool")
        self.answered = spool.answered(folder / "spool")
        self._gone = gone

    def answer(self, silo: str, call: Call) -> Any:
        """Return the answer to a silo's call; raises ``Over``, ``Anew``, and ``OSError`` where the disk is full."""
        if call.path != fleet.ACTIVATE and not seen.of(self.seen, silo).node:
            raise Anew
        seen.hear(self.seen, silo)
        return CALLS[call.path](self, silo, call)

    def activate(self, silo: str, call: Call) -> bool:
        """A silo's programs started."""
        before = seen.of(self.seen, silo)
        node = self._superlink.node(silo)
        seen.note(self.seen, silo, node=node, left=False, activations=before.activations + 1)
        return True

    def pull(self, silo: str, call: Call) -> Work | bool:
        """Give a silo the message that it has not confirmed, else the next one."""
        held = pulls.current(self._pulls, silo)
        if held is not None and held.said.run == self._superlink.run:
            return self._superlink.given(held.said.message) or False
        pulls.drop(self._pulls, silo)
        work = self._superlink.next(silo)
        if work is not None:
            pulls.keep(self._pulls, silo, self._superlink.carried(work))
        return work or False

    def confirm(self, silo: str, call: Call) -> bool:
        """A silo has all of its message."""
        held = pulls.current(self._pulls, silo)
        if held is not None and held.said.message == call.named["message"]:
            pulls.drop(self._pulls, silo)
        return True

    def parcel(self, silo: str, call: Call) -> int | None:
        """Say how much of an update is here, or take the rest of it, as ``arrivals.held`` and ``take`` do."""
        self._goes_on(call.named["run"])
        parcel: Parcel = call.named["parcel"]
        file = parcels.path(spool.updates(self._spool.folder, silo), parcel)
        if "at" not in call.named:
            size = arrivals.standing(file, parcel, QUOTA)
            size = arrivals.kept(file, parcel) if size is None else size
        else:
            size = _taken(file, parcel, call.named["at"], call.body)
        if size == parcel.bytes:
            self._told.add((silo, parcel))
        elif (silo, parcel) in self._told:
            self._gone.append(f"{silo} was told that {parcel} is here, and it is not")
        return size

    def content(self, silo: str, call: Call) -> bytes:
        """Give an adapter that was laid out, from any byte on; nothing where it is gone."""
        self._goes_on(call.named["run"])
        file = parcels.path(self._folder / LAID_OUT, call.named["parcel"])
        return file.read_bytes()[call.named["at"] :] if file.exists() else b""

    def announce(self, silo: str, call: Call) -> tuple[list[str], str]:
        """Take the announcement of a reply, as ``pushes.announce`` does."""
        try:
            reply = fleet.reply(fleet.request(fleet.PUSH_MESSAGES, call.body))
        except ValueError:  # its line broke
            return None  # type: ignore[return-value]
        self._goes_on(reply.run)
        session = spool.announce(self._spool, silo, reply, call.body)
        wanted = session.missing if session else []
        if session and not wanted:
            self._deliver(session)
        return wanted, replies.name(silo, reply)

    def bring(self, silo: str, call: Call) -> bool:
        """Keep an object of a reply, and deliver what is whole, as ``pushes.bring`` does."""
        session = spool.find(self._spool, silo, call.named["session"])
        if session is None:
            return spool.delivered(self._spool, silo, call.named["session"])
        self._goes_on(call.named["run"])
        if not replies.store(session, call.named["object"], call.body):
            return False
        session.held[call.named["object"]] = len(call.body)
        if not session.missing:
            self._deliver(session)
        return True

    def _deliver(self, session: Session) -> None:
        replies.sync(session)
        root = session.reply.objects[-1]
        self._superlink.take((session.folder / root).read_bytes())
        spool.finish(self._spool, session)
        self.answered.append(session.reply.answers)
        replies.erase(session)

    def _goes_on(self, run: int) -> None:
        if run != self._superlink.run:
            raise Over


def _taken(file: Path, parcel: Parcel, at: int, body: bytes) -> int | None:
    if file.exists():
        return arrivals.kept(file, parcel)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = memory.part(file)
    with part.open("ab", buffering=0) as stream:
        if stream.tell() != at:
            return None
        digest = arrivals.begun(part, at)
        memory.write(stream, body)
        digest.update(body)
        return arrivals.kept(file, parcel, digest.hexdigest())


Answers = Callable[[Gateway, str, Call], Any]
CALLS: dict[str, Answers] = {
    fleet.ACTIVATE: Gateway.activate,
    fleet.PULL_MESSAGES: Gateway.pull,
    fleet.CONFIRM: Gateway.confirm,
    PATH: Gateway.parcel,
    CONTENT: Gateway.content,
    fleet.PUSH_MESSAGES: Gateway.announce,
    fleet.PUSH_OBJECT: Gateway.bring,
}
