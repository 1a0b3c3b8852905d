"""A grid in virtual time: silos take messages one after another, and the clock jumps from one event to the next.

As in a real federation a late silo goes on with what it has begun, a parcel that a silo holds is not fetched again, one
that the hub has let go of cannot be fetched, and what is not answered within a month is answered by Flower, with an
error.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

from fl_client import messages
from fl_client.messages import TTL_S, Order
from fl_client.parcels import Offer, Parcel
from fl_server.simulation.profiles import Place
from fl_server.simulation.standins import Bill
from strategies import adapter as algebra
from strategies.adapter import Adapter
from strategies.schedules.schedule import Closes

KEPT = 3  # commits that a parcel which was laid out outlives, this one included


class Posted(NamedTuple):
    """A message on its way to a silo: its key, when it was sent, and after how many commits."""

    key: str
    message: Any
    sent: float
    commits: int

    @property
    def node(self) -> int:
        """The silo's node."""
        return int(self.message.metadata.dst_node_id)


class Errand(NamedTuple):
    """What a silo does for one message: when it was asked, took it up, had worked, and is done."""

    silo: str
    kind: str
    round: int
    asked: float
    began: float
    worked: float
    done: float
    bill: Bill
    line_s: float  # of its transfers, were nothing to hold them up


class VirtualGrid:
    """The way to silos that stand somewhere in virtual time; nodes are numbered from 1 by ``places``."""

    def __init__(
        self,
        places: Mapping[str, Place],
        bill: Callable[[str, str, Order], Bill],
        answer: Callable[[str, Any], Any],
    ) -> None:
        self._silos = dict(enumerate(places, 1))
        self._places, self._bill, self._answer = places, bill, answer
        self.down = lambda _, content: messages.size(content)
        self.roomy = lambda: True
        self._now, self._count = 0.0, 0
        self._queues: dict[int, deque[Posted]] = {node: deque() for node in self._silos}
        self._at_work: dict[int, tuple[Posted, Errand]] = {}
        self._held: dict[str, set[str]] = {silo: set() for silo in places}
        self._open: dict[str, Posted] = {}
        self._replies: dict[str, Any] = {}
        self._over: Callable[[float], bool] | None = None
        self.asked: list[tuple[str, int, str, float]] = []  # kind, round, silo, when
        self.heard: set[tuple[str, str, float]] = set()  # kind, silo, when it was asked
        self.errands: list[Errand] = []
        self.commits: list[float] = []

    def now(self) -> float:
        """Return the virtual time."""
        return self._now

    def watched(self, closes: Closes) -> Closes:
        """Return the same rule, whose last question the grid knows: so it need not look every two seconds."""

        def rule(asked: int, answered: int, waiting: int, elapsed: float) -> bool:
            began = self._now - elapsed
            self._over = lambda at: closes(asked, answered, waiting, at - began)
            return closes(asked, answered, waiting, elapsed)

        return rule

    def get_node_ids(self) -> list[int]:
        """Return the nodes of all silos."""
        return list(self._silos)

    def newcomers(self, known: Collection[int]) -> list[int]:
        """Return nothing: all were there as the study began."""
        return []

    def names(self) -> dict[int, str]:
        """Return the silos by node."""
        return self._silos

    def push_messages(self, messages: Iterable[Any]) -> list[str]:
        """Send messages; a silo that is idle takes its own at once. Nobody waits for its answers to earlier ones."""
        pushed = list(messages)
        nodes = {message.metadata.dst_node_id for message in pushed}
        self._over, keys = None, []
        self._open = {key: own for key, own in self._open.items() if own.node not in nodes}
        for message in pushed:
            self._count += 1
            node, kind = message.metadata.dst_node_id, message.metadata.message_type
            posted = Posted(f"message-{self._count}", message, self._now, len(self.commits))
            keys.append(posted.key)
            self._open[posted.key] = posted
            self._queues[node].append(posted)
            self.asked.append((kind, int(message.metadata.group_id), self._silos[node], self._now))
            self._take(node)
        return keys

    def begin_anew(self) -> None:
        """Forget what no silo has taken up yet, as a new run of Flower's does; what is at work goes on."""
        for queue in self._queues.values():
            queue.clear()

    def pull_messages(self, message_ids: Iterable[str]) -> list[Any]:
        """Return the replies that are there."""
        return [self._replies.pop(key) for key in message_ids if key in self._replies]

    def wait(self, seconds: float) -> None:
        """Turn the clock to the next event, or to the first look, every so many seconds, at which the round closes."""
        news = [errand.done for _, errand in self._at_work.values()]
        news += [posted.sent + TTL_S for posted in self._open.values()]
        began, over = self._now, self._over
        looks = max(1, math.ceil((min(news) - began) / seconds))
        if over is not None:
            early = range(1, looks)
            looks = 1 + bisect_left(early, True, key=lambda look: over(began + look * seconds))
        self._now = min(*news, began + looks * seconds)
        self._arrive()

    def _arrive(self) -> None:
        for node, (posted, errand) in list(self._at_work.items()):
            if errand.done <= self._now:
                del self._at_work[node]
                if self._open.pop(posted.key, None):
                    self.heard.add((errand.kind, errand.silo, errand.asked))
                    self._replies[posted.key] = self._answer(errand.silo, posted.message)
                self._take(node)
        for key, posted in list(self._open.items()):
            if posted.sent + TTL_S <= self._now:
                del self._open[key]
                self._replies[key] = messages.fault(posted.message, "internal")

    def _take(self, node: int) -> None:
        queue = self._queues[node]
        while queue and node not in self._at_work:
            posted = queue.popleft()
            if self._now < posted.sent + TTL_S and len(self.commits) < posted.commits + KEPT:
                errand = self._errand(self._silos[node], posted)
                self._at_work[node] = posted, errand
                self.errands.append(errand)

    def _errand(self, silo: str, posted: Posted) -> Errand:
        order, kind = messages.read_order(posted.message)[0], posted.message.metadata.message_type
        bill, offer = self._bill(silo, kind, order), messages.offer_of(posted.message.content)
        if offer is not None and offer.parcel.sha256 in self._held[silo]:
            bill = bill._replace(down=0)
        elif offer is not None:
            self._held[silo].add(offer.parcel.sha256)
        place = self._places[silo]
        own, number = place.profile, int(posted.message.metadata.group_id)
        received = place.received(self._now + own.latency_s, bill.down)
        worked = place.worked(received, bill.work_s)
        done = place.sent(worked, bill.up) + own.latency_s
        line = bill.down / own.downlink_bytes_s + bill.up / own.uplink_bytes_s + 2 * own.latency_s
        return Errand(silo, kind, number, posted.sent, self._now, worked, done, bill, line)

    def refused(self) -> dict[int, str]:
        """Return nothing: no silo refuses."""
        return {}

    def restarted(self) -> set[int]:
        """Return nothing: a power cut holds work up, and it goes on."""
        return set()

    def lay_out(self, arrays: Adapter, kind: Hashable = None) -> Offer | None:
        """Return the parcel of arrays, by which the same ones are known again."""
        return Offer(Parcel(algebra.sha256(arrays), 0)) if arrays else None

    def collect(self, node: int, parcel: Parcel) -> Adapter:
        """Refuse: updates of a few numbers stand in their messages."""
        raise ValueError("no silo of a rehearsal brings a parcel")

    def settle(self) -> None:
        """Note when a round was committed."""
        self.commits.append(self._now)
