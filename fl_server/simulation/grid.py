"""LocalGrid: the real ServerApp and ClientApp on one machine, over Flower's ``Grid``.

In one process a message waits until it is pulled; then its silo's ClientApp runs, on the base that is already warm.
With a pool several silos work at once. The order in which silos answer can be shuffled by a seed, and must not matter.

Silos that train, or score, do so in cohorts, cut by their numbers: whoever answers first, the same work together,
because the last bits of a product can depend on how many rows it has.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent import futures
from concurrent.futures import Future
from itertools import pairwise

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run

from fl_client import app as installed
from fl_client.config import Scalar
from fl_server.simulation.lot import RUN_ID, Asked, Replies, answers, identify, seat
from fl_server.simulation.pool import Crew, several


class LocalGrid(Grid):
    """A grid whose nodes are simulated silos, numbered from 1; with a pool, the installed ClientApp answers there."""

    def __init__(
        self,
        client: ClientApp,
        nodes: int,
        run_config: dict[str, Scalar],
        order: int | None = None,
        pool: Crew | None = None,
        cohort: int = 0,
    ) -> None:
        identify()
        self._client = client
        self._pool = pool
        self._cohort = cohort
        self._contexts = {node: seat(node, nodes, run_config) for node in range(1, nodes + 1)}
        self._waiting: dict[str, list[Asked]] = {}
        self._replies: dict[str, tuple[Replies, int]] = {}  # of a lot, and which of them
        self._pushed = 0
        self._shuffle = None if order is None else np.random.default_rng(order)
        self._turn: list[str] = []
        self._looked: set[str] = set()  # what was asked for since the last answer

    def set_run(self, run: Run) -> None:
        """Do nothing: a local grid serves one run."""

    @property
    def run(self) -> Run:
        """The run, which has nothing but a number here."""
        return Run.create_empty(RUN_ID)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message to one silo."""
        return Message(
            content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl
        )

    def get_node_ids(self) -> Iterable[int]:
        """Return the numbers of all silos."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages in; without a pool nothing is done until they are pulled."""
        keyed = {}
        for message in messages:
            self._pushed += 1
            keyed[f"message-{self._pushed}"] = message
        for lot in lots(keyed, self._cohort):
            asked = [(keyed[key], self._contexts[keyed[key].metadata.dst_node_id]) for key in lot]
            pool = self._pool
            together = self._cohort > 0 and _kind(asked[0][0]) in installed.TOGETHER
            replies: Replies = Future() if pool is None else pool.ask(asked, together)
            self._replies |= {key: (replies, at) for at, key in enumerate(lot)}
            self._waiting |= {} if pool else dict.fromkeys(lot, asked)
        self._turn += keyed
        self._looked.clear()
        if self._shuffle is not None:
            self._shuffle.shuffle(self._turn)
        return list(keyed)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return a reply that is there; without a pool, run the silo whose turn it is if it is asked for."""
        if self._pool is not None:
            return [self._reply(key) for key in message_ids if self._replies[key][0].done()]
        if not self._due(set(message_ids)):
            return []
        key = self._turn.pop(0)
        self._looked.clear()
        asked, (replies, _) = self._waiting.pop(key), self._replies[key]
        if not replies.done():
            together = self._cohort > 0 and _kind(asked[0][0]) in installed.TOGETHER
            replies.set_result(answers(self._client, asked, together))
        return [self._reply(key)]

    def _due(self, asked: set[str]) -> bool:
        """Return whether the first in turn is asked for; whom a whole look left out nobody waits for any more."""
        if asked <= self._looked:
            self._turn = [key for key in self._turn if key in self._looked]
        self._looked |= asked
        return bool(self._turn) and self._turn[0] in asked

    def _reply(self, key: str) -> Message:
        replies, at = self._replies.pop(key)
        return replies.result()[at]

    def wait(self, seconds: float) -> None:
        """Return when a process is through with a lot, at the latest after so many seconds."""
        at_work = {replies for replies, _ in self._replies.values() if not replies.done()}
        if at_work and self._pool is not None:
            futures.wait(at_work, seconds, futures.FIRST_COMPLETED)
        else:
            time.sleep(seconds)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push messages and return all replies."""
        keys = list(self.push_messages(messages))
        return [reply for _ in keys for reply in self.pull_messages(keys)]


def lots(keyed: dict[str, Message], cohort: int) -> list[list[str]]:
    """Return the keys of messages that are answered together: of a kind, at most ``cohort`` silos, in even lots.

    With a ``cohort`` of 0 every message is a lot.
    """
    if not cohort:
        return [[key] for key in keyed]
    order = sorted(keyed, key=lambda key: keyed[key].metadata.dst_node_id)
    found = []
    for kind in installed.TOGETHER:
        alike = [key for key in order if _kind(keyed[key]) == kind]
        count = -(-len(alike) // cohort)
        cuts = [number * len(alike) // count for number in range(count + 1)] if count else []
        found += [alike[start:stop] for start, stop in pairwise(cuts)]
    return found + [[key] for key in order if _kind(keyed[key]) not in installed.TOGETHER]


def _kind(message: Message) -> str:
    return message.metadata.message_type


def run(
    server: ServerApp,
    client: ClientApp,
    nodes: int,
    run_config: dict[str, Scalar],
    order: int | None = None,
    processes: int = 1,
    pool: Crew | None = None,
    cohort: int = 0,
) -> None:
    """Run a ServerApp against ``nodes`` ClientApps until it ends: in this process, in several, or in a pool's.

    At most ``cohort`` silos train at once; with 0, or with another app than the installed one, one at a time.
    """
    cohort = cohort if pool or processes > 1 or client is installed.app else 0
    context = Context(
        run_id=RUN_ID, node_id=0, node_config={}, state=RecordDict(), run_config=dict(run_config)
    )
    with several(1 if pool else processes) as own:
        server(LocalGrid(client, nodes, run_config, order, pool or own, cohort), context)
