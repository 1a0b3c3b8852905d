"""A hub's machine: its gateway, a SuperLink, and the rounds, which may die by themselves or all together.

The rounds, their way to the silos, the journal, the freight and the spool are the real ones. The gateway's calls come
without sockets, and do with the real functions what its handlers do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fl_client import fleet, memory, parcels
from fl_client.gateway.trip import CONTENT, PATH
from fl_client.parcels import Parcel
from fl_server.freight import LAID_OUT
from fl_server.gateway import parcels as arrivals
from fl_server.gateway import pulls, replies, seen, spool
from fl_server.gateway.client import Away
from fl_server.simulation.faults.disk import Disk, Killed
from fl_server.simulation.faults.network import Network
from fl_server.simulation.faults.superlink import Superlink, Work

BACK_S = 15.0  # after which what died is started again
QUOTA = 1 << 30


class Over(Exception):
    """The run is over."""


class Anew(Exception):
    """The hub does not know the silo's node, so its SuperNode has to start anew."""


class Kept(NamedTuple):
    """What the gateway holds in memory, as read from its disk."""

    spool: spool.Spool
    pulls: pulls.Pulls
    seen: seen.Seen


class Hub:
    """One machine. ``acknowledged`` are the updates that silos were told are here; ``gone`` those that were not."""

    def __init__(self, disk: Disk, network: Network, superlink: Superlink) -> None:
        self.disk, self._network, self.superlink = disk, network, superlink
        self._kept: Kept | None = None
        self._answered: list[str] = []
        self.kills: list[str] = []
        self.acknowledged: set[tuple[str, Parcel]] = set()
        self.gone: list[str] = []

    @property
    def up(self) -> bool:
        """Whether the gateway answers."""
        return self._kept is not None

    def start(self) -> None:
        """Start the gateway on what is on its disk."""
        for name in ("seen", "spool", LAID_OUT):
            (self.disk.folder / name).mkdir(exist_ok=True)
        here = self.disk.folder / "spool"
        known = seen.load(self.disk.folder / "seen")
        self._answered = []
        self._kept = Kept(spool.load(here, QUOTA), pulls.load(here), known)

    def down(self) -> None:
        """Let the gateway end; what it held in memory is gone."""
        self._kept = None

    def answer(self, silo: str, path: str, named: dict[str, Any], body: bytes) -> Any:
        """Return the gateway's answer to a silo's call, None where there is none, ``Over`` and ``Anew`` as values."""
        if self._kept is None:
            return None
        if path != fleet.ACTIVATE and not seen.of(self._kept.seen, silo).node:
            return Anew()
        try:
            return CALLS[path](self, self._kept, silo, named, body)
        except Over as over:
            return over
        except OSError:  # 507: the disk is full
            return None
        except Killed:
            if self.disk.dead == "power":
                raise
            self.ended()
            return None

    def ended(self) -> None:
        """Have the gateway started again after it was killed alone."""
        self.kills.append(self.disk.dead)
        self.disk.revive()
        self.down()
        self._network.after(BACK_S, self._again)

    def _again(self) -> None:
        if not self.up and not self.disk.dead:
            try:
                self.start()
            except Killed:
                if self.disk.dead == "power":
                    raise
                self.ended()

    def activate(self, kept: Kept, silo: str, named: dict[str, Any], body: bytes) -> bool:
        """A silo's programs started."""
        before = seen.of(kept.seen, silo)
        node = self.superlink.node(silo)
        seen.note(kept.seen, silo, node=node, left=False, activations=before.activations + 1)
        seen.hear(kept.seen, silo)
        return True

    def pull(self, kept: Kept, silo: str, named: dict[str, Any], body: bytes) -> Work | bool:
        """Give a silo the message that it has not confirmed, else the next one."""
        seen.hear(kept.seen, silo)
        held = pulls.current(kept.pulls, silo)
        if held is not None and held.said.run == self.superlink.run:
            return self.superlink.given(held.said.message) or False
        pulls.drop(kept.pulls, silo)
        work = self.superlink.next(silo)
        if work is not None:
            pulls.keep(kept.pulls, silo, self.superlink.carried(work))
        return work or False

    def confirm(self, kept: Kept, silo: str, named: dict[str, Any], body: bytes) -> bool:
        """A silo has all of its message."""
        held = pulls.current(kept.pulls, silo)
        if held is not None and held.said.message == named["message"]:
            pulls.drop(kept.pulls, silo)
        return True

    def parcel(self, kept: Kept, silo: str, named: dict[str, Any], body: bytes) -> int | None:
        """Say how much of an update is here, or take the rest of it, as ``arrivals.held`` and ``take`` do."""
        seen.hear(kept.seen, silo)
        self._goes_on(named["run"])
        parcel: Parcel = named["parcel"]
        file = parcels.path(spool.updates(kept.spool.folder, silo), parcel)
        if "at" not in named:
            size = arrivals.standing(file, parcel)
            size = arrivals.kept(file, parcel) if size is None else size
        else:
            size = _taken(file, parcel, named["at"], body)
        if size == parcel.bytes:
            self.acknowledged.add((silo, parcel))
        elif (silo, parcel) in self.acknowledged:
            self.gone.append(f"{silo} was told that {parcel} is here, and it is not")
        return size

    def content(self, kept: Kept, silo: str, named: dict[str, Any], body: bytes) -> bytes:
        """Give an adapter that was laid out, from any byte on; nothing where it is gone."""
        self._goes_on(named["run"])
        file = parcels.path(self.disk.folder / LAID_OUT, named["parcel"])
        return file.read_bytes()[named["at"] :] if file.exists() else b""

    def announce(
        self, kept: Kept, silo: str, named: dict[str, Any], body: bytes
    ) -> tuple[list[str], str]:
        """Take the announcement of a reply, as ``pushes.announce`` does."""
        try:
            reply = fleet.reply(fleet.request(fleet.PUSH_MESSAGES, body))
        except ValueError:  # its line broke
            return None  # type: ignore[return-value]
        self._goes_on(reply.run)
        session = spool.announce(kept.spool, silo, reply, body)
        wanted = session.missing if session else []
        if session and not wanted:
            self._deliver(kept, session)
        return wanted, replies.name(silo, reply)

    def bring(self, kept: Kept, silo: str, named: dict[str, Any], body: bytes) -> bool:
        """Keep an object of a reply, and deliver what is whole, as ``pushes.bring`` does."""
        session = spool.find(kept.spool, silo, named["session"])
        if session is None:
            return spool.delivered(kept.spool, silo, named["session"])
        self._goes_on(named["run"])
        if not replies.store(session, named["object"], body):
            return False
        session.held[named["object"]] = len(body)
        if not session.missing:
            self._deliver(kept, session)
        return True

    def _deliver(self, kept: Kept, session: replies.Session) -> None:
        replies.sync(session)
        root = session.reply.objects[-1]
        self.superlink.take((session.folder / root).read_bytes())
        spool.finish(kept.spool, session)
        self._answered.append(session.reply.answers)
        replies.erase(session)

    def _goes_on(self, run: int) -> None:
        if run != self.superlink.run:
            raise Over

    # What the hub's own programs ask of the gateway, as ``fl_server.gateway.client.Gateway`` does.

    def status(self) -> dict[str, dict[str, Any]]:
        """Return what is known of each silo, once the gateway answers."""
        self._network.until(lambda: self.up, 300.0)
        if self._kept is None:
            raise Away("the gateway does not run")
        return {name: seen.row(silo) for name, silo in self._kept.seen.silos.items()}

    def kick(self) -> None:
        """Do nothing: silos ask every few seconds."""

    def news(self, since: int, seconds: float) -> tuple[int, list[str]]:
        """Return the count of replies, and the messages answered since; as soon as there are more."""
        self._network.until(lambda: len(self._answered) > since or not self.up, seconds)
        if not self.up:
            raise Away("the gateway does not run")
        return len(self._answered), self._answered[since:]


def _taken(file: Any, parcel: Parcel, at: int, body: bytes) -> int | None:
    if file.exists():
        return parcel.bytes
    file.parent.mkdir(parents=True, exist_ok=True)
    part = memory.part(file)
    with part.open("ab", buffering=0) as stream:
        if stream.tell() != at:
            return None
        digest = arrivals.begun(part, at)
        memory.write(stream, body)
        digest.update(body)
        return arrivals.kept(file, parcel, digest.hexdigest())


Answers = Callable[[Hub, Kept, str, dict[str, Any], bytes], Any]
CALLS: dict[str, Answers] = {
    fleet.ACTIVATE: Hub.activate,
    fleet.PULL_MESSAGES: Hub.pull,
    fleet.CONFIRM: Hub.confirm,
    PATH: Hub.parcel,
    CONTENT: Hub.content,
    fleet.PUSH_MESSAGES: Hub.announce,
    fleet.PUSH_OBJECT: Hub.bring,
}
