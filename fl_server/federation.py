"""Flower's grid behind the hub gateway: silos by their names, a signal when a reply is there, asking again."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from fl_client import messages
from fl_client.messages import Content
from fl_client.parcels import Parcel
from fl_server import queue
from fl_server.freight import Freight
from fl_server.gateway.client import AGAIN_S, Away, Gateway, Heard
from fl_server.queue import Ticket
from strategies.adapter import Adapter

LOG = logging.getLogger("bhasha_fl.hub")
JOIN_S = 600.0  # how long a study waits for the rest of its silos; for the first of them as long as it takes
LOOK_S = 30.0  # between two looks for what the gateway does not announce
PATIENCE_S = 300.0  # how long a study waits for a gateway that is started again


class Federation:
    """What the rounds ask through: Flower's grid, whose nodes are the silos of one study."""

    def __init__(
        self, grid: Any, gateway: Gateway, run: int, names: list[str], freight: Freight
    ) -> None:
        self._grid, self._gateway, self._run, self._names = grid, gateway, run, names
        self.lay_out, self.settle, self._freight = freight.lay_out, freight.settle, freight
        self.roomy = freight.roomy
        self.now = time.monotonic
        self._heard = Heard()
        self._answered: set[str] = set()
        self._blind = False  # ask for all: Flower may have errors to tell
        self._looked = time.monotonic()
        self._starts: dict[int, int] = {}

    def get_node_ids(self) -> list[int]:
        """Return the nodes of the study's silos once all are there, after ``JOIN_S`` those of whoever is."""
        until = time.monotonic() + JOIN_S
        while True:
            known = self._gateway.status()
            there = [name for name in self._names if known.get(name, {}).get("connected")]
            missing = [name for name in self._names if name not in there]
            if not missing or there and time.monotonic() > until:
                break
            LOG.info("waiting for %s", ", ".join(missing))
            self.wait(5)
        if missing:
            LOG.warning("the study goes on without %s until they come", ", ".join(missing))
        return _nodes(there, known)

    def newcomers(self, known: Collection[int]) -> list[int]:
        """Return the nodes of the study's silos that are there and not ``known``."""
        told = self._gateway.status()
        there = [name for name in self._names if told.get(name, {}).get("connected")]
        return [node for node in _nodes(there, told) if node not in known]

    def names(self) -> dict[int, str]:
        """Return the names of the study's silos by node, connected or not: who left is still who it was."""
        known = self._gateway.status()
        return {
            int(known[name]["node_id"]): name
            for name in self._names
            if known.get(name, {}).get("node_id")
        }

    def push_messages(self, messages: Iterable[Any]) -> Iterable[str]:
        """Send messages and wake the silos' pulls."""
        pushed = list(messages)
        starts = self._activations()
        for message in pushed:
            node = message.metadata.dst_node_id
            self._starts[node] = starts.get(node, 0)
        keys = list(self._grid.push_messages(pushed))
        self._gateway.kick()
        return keys

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Any]:
        """Return the replies that are there for these keys. Only what is whole is asked for: else Flower waits."""
        whole = [key for key in message_ids if self._blind or key in self._answered]
        replies: Iterable[Any] = self._grid.pull_messages(whole) if whole else []
        return replies

    def wait(self, seconds: float) -> None:
        """Return when something has come in, at the latest after so many seconds."""
        try:
            heard, answered = self._gateway.news(self._heard, seconds)
            now = time.monotonic()
            if heard.process != self._heard.process:  # it may be about to end a delivery
                self._looked = now
            self._blind = now - self._looked > LOOK_S
            self._looked = now if self._blind else self._looked
            self._heard = heard
            self._answered.update(answered)
        except Away as error:
            LOG.warning("%s", error)
            time.sleep(AGAIN_S)

    def refused(self) -> dict[int, str]:
        """Return the code with which a silo's own gateway refused this run, by node."""
        known = self._gateway.status()
        return {
            int(row["node_id"]): row["refused"][str(self._run)]
            for name, row in known.items()
            if name in self._names and str(self._run) in row.get("refused", {})
        }

    def restarted(self) -> set[int]:
        """Return the nodes that started anew since they were last sent a message: what they held may be lost."""
        now = self._activations()
        return {node for node, before in self._starts.items() if now.get(node, before) > before}

    def down(self, silo: str, content: Content) -> int:
        """Return the bytes of a message's arrays that a silo fetches, given what it was sent before."""
        offer = messages.offer_of(content)
        return self._freight.down(silo, offer) if offer else messages.size(content)

    def collect(self, node: int, parcel: Parcel) -> Adapter:
        """Return the arrays of a parcel that a silo brought; raises ``ValueError``."""
        silo = self.names().get(node)
        if silo is None:
            raise ValueError(f"node {node} is no silo of this study")
        return self._freight.collect(silo, parcel)

    def _activations(self) -> dict[int, int]:
        known = self._gateway.status()
        return {
            int(row["node_id"]): int(row["activations"])
            for row in known.values()
            if row.get("node_id")
        }


def _nodes(names: list[str], known: dict[str, dict[str, Any]]) -> list[int]:
    return sorted(int(known[name]["node_id"]) for name in names)


def join(grid: Any, hub: Path, run: int, ticket: Ticket, late: int = 1) -> Federation:
    """Return the way to the silos of a hub's study, after its signed form was laid out for them.

    Silos may be ``late`` by so many rounds and still find what they were sent.
    """
    gateway = Gateway(hub, PATIENCE_S)
    gateway.register(run, (queue.folder(hub, ticket.name) / "signed.json").read_bytes())
    return Federation(grid, gateway, run, list(ticket.silos), Freight(hub, late))
