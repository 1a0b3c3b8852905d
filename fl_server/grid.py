"""The way to the silos as the rounds see it, and the plain one: any grid of Flower's, asked every so often."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Any, Protocol

from fl_client import messages
from fl_client.messages import Content
from fl_client.parcels import Offer, Parcel
from strategies.adapter import Adapter


class Grid(Protocol):
    """What the rounds need of the way to the silos; ``federation.py`` makes it of Flower's ``Grid``."""

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes that are there."""

    def newcomers(self, known: Collection[int]) -> Iterable[int]:
        """Return the nodes of silos that are there and not among those that are ``known``."""

    def push_messages(self, messages: Iterable[Any]) -> Iterable[str]:
        """Send messages; return a key for each, empty where it could not be sent."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Any]:
        """Return the replies that are there for these keys."""

    def wait(self, seconds: float) -> None:
        """Return when there may be news, at the latest after so many seconds."""

    def now(self) -> float:
        """Return the seconds on the clock by which rounds are timed; in a rehearsal it is not the wall's."""

    def names(self) -> dict[int, str]:
        """Return the names under which nodes are on the roster; empty where there is none."""

    def refused(self) -> dict[int, str]:
        """Return the codes of nodes whose own gateway refuses this study."""

    def restarted(self) -> set[int]:
        """Return the nodes that started anew since they were last asked."""

    def lay_out(self, arrays: Adapter, kind: Hashable = None) -> Offer | None:
        """Return the parcel as which arrays travel to silos; None where they travel in the message, or are none.

        Silos of one ``kind`` are sent one adapter after the other; None is for what follows on nothing.
        """

    def down(self, silo: str, content: Content) -> int:
        """Return the bytes that cross a silo's line for the arrays of a message which it is sent now."""

    def collect(self, node: int, parcel: Parcel) -> Adapter:
        """Return the arrays of a parcel that a silo brought; raises ``ValueError``."""

    def settle(self) -> None:
        """Let go of the parcels of a round that is committed."""

    def roomy(self) -> bool:
        """Return whether the disk on which parcels lie has room for those of another round."""


class Polled:
    """Any other grid of Flower's, asked every so often."""

    def __init__(self, grid: Any, every_s: float = 0.05) -> None:
        self._grid, self._every_s = grid, every_s
        self.now = time.monotonic
        self.get_node_ids = grid.get_node_ids
        self.push_messages = grid.push_messages
        self.pull_messages = grid.pull_messages

    def wait(self, seconds: float) -> None:
        """Wait until it is time to ask again, or until a grid that can tell says that there is something."""
        pause: Callable[[float], None] = getattr(self._grid, "wait", time.sleep)
        pause(min(seconds, self._every_s))

    def newcomers(self, known: Collection[int]) -> Iterable[int]:
        """Return nothing: who is not there as a study begins is not waited for."""
        return ()

    def refused(self) -> dict[int, str]:
        """Return nothing: no gateway stands between."""
        return {}

    def restarted(self) -> set[int]:
        """Return nothing: whether a silo started anew is not known."""
        return set()

    def names(self) -> dict[int, str]:
        """Return nothing: silos are who they say they are."""
        return {}

    def lay_out(self, arrays: Adapter, kind: Hashable = None) -> Offer | None:
        """Return nothing: arrays travel in the message."""
        return None

    def down(self, silo: str, content: Content) -> int:
        """Return the bytes of the message's arrays."""
        return messages.size(content)

    def collect(self, node: int, parcel: Parcel) -> Adapter:
        """Refuse: no parcel ever comes."""
        raise ValueError("parcels come through a gateway, and none stands between")

    def settle(self) -> None:
        """Do nothing: there are no parcels."""

    def roomy(self) -> bool:
        """Return true: there are no parcels."""
        return True
