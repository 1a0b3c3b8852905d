"""A silo's machine: its gateway, its SuperNode and its worker as one program that waits, asks, and may die anywhere.

The files are written by the real functions; how the calls of a SuperNode and a gateway follow one another is repeated
here, for what they stand in is sockets.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import Any

from fl_client import audit, fleet, messages, parcels
from fl_client.config import ConfigError
from fl_client.gateway import upload
from fl_client.gateway.trip import PATH, Trip
from fl_client.parcels import INBOX, OUTBOX, Parcel
from fl_client.workers import Result
from fl_server.simulation.faults import inbox, worker
from fl_server.simulation.faults import study as studies
from fl_server.simulation.faults.disk import Disk, Killed
from fl_server.simulation.faults.gateway import Anew, Call, Over
from fl_server.simulation.faults.hub import Hub
from fl_server.simulation.faults.network import Network
from fl_server.simulation.faults.study import Shape
from fl_server.simulation.faults.superlink import Work, announced
from fl_server.simulation.faults.watch import Watch

LOG = logging.getLogger("bhasha_fl.silo")
STEP_S, IDLE_S, BACK_S = 5.0, 3.0, 20.0
Life = Generator[Call | float, Any, None]


class Silo:
    """One machine. ``seen`` is what it did; ``sent`` are the bytes that went onto the line."""

    def __init__(self, name: str, shape: Shape, disk: Disk, network: Network, hub: Hub) -> None:
        self.name, self._shape, self.disk = name, shape, disk
        self._network, self._hub = network, hub
        self._life: Life | None = None
        self._lives = 0
        self.seen = Watch()
        self.kills: list[tuple[float, str]] = []
        self.sent = self.longest = 0

    def start(self) -> None:
        """Start the machine, after whatever ended it."""
        self.disk.revive()
        self._lives += 1
        self.seen.heard(self._network.now())
        self._life = self._lived()
        self._go_on(self._lives, None)

    @property
    def lives(self) -> bool:
        """Whether anything runs here."""
        return self._life is not None

    def kill(self, kind: str) -> None:
        """Kill all that runs here, if anything does."""
        if self._life is None:
            return
        try:
            self.disk.die(kind)
        except Killed:
            self._died()

    def _died(self) -> None:
        self.kills.append((self._network.now(), self.disk.dead))
        self._ended()

    def _ended(self) -> None:
        self.seen.ended(self._network.now())
        self._life, self._lives = None, self._lives + 1
        self._network.after(BACK_S, self.start)

    def _go_on(self, life: int, value: Any) -> None:
        if self._life is None or life != self._lives:
            return
        try:
            wants = self._life.send(value)
        except (Killed, StopIteration):
            self._died()
            return
        except (Anew, OSError, ConfigError):  # or the disk is full: it ends and is started again
            self._ended()
            return
        if isinstance(wants, float):
            self._network.after(wants, lambda: self._go_on(life, None))
        else:
            self._ask(life, wants)

    def _ask(self, life: int, call: Call) -> None:
        self.seen.heard(self._network.now())
        self.longest = max(self.longest, len(call.body))
        try:
            self._recorded(call)
        except Killed:
            self._died()
            return
        except OSError:  # nothing leaves that is not in the record
            self._network.after(IDLE_S, lambda: self._go_on(life, None))
            return
        self.sent += len(call.body)
        arrives = call._replace(body=call.body[: self._network.torn(len(call.body))])
        self._network.ask(
            self.name,
            lambda: self._hub.answer(self.name, arrives),
            lambda answer: self._go_on(life, answer),
        )

    def _recorded(self, call: Call) -> None:
        if call.body:
            audit.append(self.disk.folder, audit.entry(call.path, call.body, "tried"))

    def _lived(self) -> Life:
        audit.check(self.disk.folder)
        yield from self._said(Call(fleet.ACTIVATE, {}))
        while True:
            pulled: Work | bool = yield from self._said(Call(fleet.PULL_MESSAGES, {}))
            if isinstance(pulled, bool):
                yield IDLE_S
                continue
            try:
                yield from self._worked(pulled)
            except Over:
                continue

    def _said(self, call: Call) -> Generator[Call | float, Any, Any]:
        """Ask until there is an answer, and return it; raises ``Over`` where the run is."""
        while True:
            answer = yield call
            if isinstance(answer, Over | Anew):
                raise answer
            if answer is not None:
                return answer
            yield IDLE_S

    def _worked(self, pulled: Work) -> Life:
        offer, torn = messages.offer_of(pulled.message.content), self._network.torn
        if offer:
            yield from inbox.fetched(self.disk.folder, pulled.run, offer, self._said, torn)
        yield from self._said(Call(fleet.CONFIRM, {"message": pulled.id}))
        reply = yield from self._answered(pulled, offer.parcel if offer else None)
        if reply.parcel:
            yield from self._brought(pulled.run, reply.parcel)
        yield from self._replied(pulled, reply)

    def _answered(
        self, pulled: Work, parcel: Parcel | None
    ) -> Generator[Call | float, Any, Result]:
        if pulled.message.metadata.message_type == "query":
            card = {"silo": self.name, "languages": studies.COUNTS, "base": studies.BASE}
            return Result({}, {}, card)
        order, received = messages.read_order(pulled.message)
        try:
            if parcel:
                received = parcels.read(self.disk.folder / INBOX, parcel)
            asked = (self.name, self.disk.folder, self._shape, order, received)
            for done in worker.answer(pulled.message.metadata.message_type, *asked):
                if isinstance(done, Result):
                    self.seen.durable()
                    return done
                self.seen.did(done)
                yield STEP_S
        except OSError:
            raise
        except Exception as error:  # its code is all that leaves
            LOG.error("%s failed: %s", self.name, error)
        return Result({}, {}, {"fault": "internal"})

    def _brought(self, run: int, parcel: Parcel) -> Life:
        """Bring an update, as ``upload.send`` does."""
        trip = Trip(run, parcel, "tried", "", self.disk.folder / OUTBOX)
        named = {"run": run, "parcel": parcel}
        if not upload.sound(trip):
            return
        while True:
            held = yield from self._said(Call(PATH, named))
            if held == parcel.bytes:
                return
            rest = trip.file.read_bytes()[held:]
            taken = yield Call(PATH, named | {"at": held}, rest)
            if taken == 0 and not upload.sound(trip):
                return

    def _replied(self, pulled: Work, reply: Result) -> Life:
        """Announce a reply and bring its objects, as a SuperNode does."""
        name, content, body = announced(pulled, reply)
        while True:
            wanted, session = yield from self._said(Call(fleet.PUSH_MESSAGES, {}, body))
            if not wanted:
                return
            named = {"run": pulled.run, "session": session, "object": name}
            if (yield Call(fleet.PUSH_OBJECT, named, content)) is True:
                return
            yield IDLE_S
