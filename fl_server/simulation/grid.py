"""LocalGrid: the real ServerApp and ClientApp on one machine, over Flower's ``Grid``.

In one process a message waits until it is pulled; then its silo's ClientApp runs, on the base that is already warm.
With a pool several silos work at once. The order in which silos answer can be shuffled by a seed, and must not matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fl_client.config import Scalar
from fl_server.simulation.pool import Pool, several

RUN_ID = 1


class LocalGrid(Grid):
    """A grid whose nodes are simulated silos, numbered from 1; with a pool, the installed ClientApp answers there."""

    def __init__(
        self,
        client: ClientApp,
        nodes: int,
        run_config: dict[str, Scalar],
        order: int | None = None,
        pool: Pool | None = None,
    ) -> None:
        identify()
        self._client = client
        self._pool = pool
        self._futures: dict[str, Future[Any]] = {}
        self._contexts = {
            node: Context(
                run_id=RUN_ID,
                node_id=node,
                node_config={"partition-id": node - 1, "num-partitions": nodes},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for node in range(1, nodes + 1)
        }
        self._waiting: dict[str, Message] = {}
        self._pushed = 0
        self._shuffle = None if order is None else np.random.default_rng(order)
        self._turn: list[str] = []

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
        keys = []
        for message in messages:
            self._pushed += 1
            keys.append(f"message-{self._pushed}")
            if self._pool is None:
                self._waiting[keys[-1]] = message
            else:
                context = self._contexts[message.metadata.dst_node_id]
                self._futures[keys[-1]] = self._pool.submit(answer, message, context)
        self._turn = list(keys)
        if self._shuffle is not None:
            self._shuffle.shuffle(self._turn)
        return keys

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return a reply that is there; without a pool, run the silo whose turn it is if it is asked for."""
        if self._pool is not None:
            done = [key for key in message_ids if self._futures[key].done()]
            return [self._futures.pop(key).result() for key in done]
        if not self._turn or self._turn[0] not in set(message_ids):
            return []
        message = self._waiting.pop(self._turn.pop(0))
        context = self._contexts[message.metadata.dst_node_id]
        return [self._client(message, context)]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push messages and return all replies."""
        keys = list(self.push_messages(messages))
        return [reply for _ in keys for reply in self.pull_messages(keys)]


def answer(message: Message, context: Context) -> Message:
    """Return the reply of this installation's ClientApp, in a process of a pool."""
    from fl_client.app import app
    from fl_server.simulation.study import quiet

    identify()
    quiet()
    return app(message, context)


def identify() -> None:
    """Tell Flower which run this process belongs to; without it no message can be made."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = RUN_ID, 1, 1


def run(
    server: ServerApp,
    client: ClientApp,
    nodes: int,
    run_config: dict[str, Scalar],
    order: int | None = None,
    processes: int = 1,
    pool: Pool | None = None,
) -> None:
    """Run a ServerApp against ``nodes`` ClientApps until it ends: in this process, in several, or in a pool's."""
    context = Context(
        run_id=RUN_ID, node_id=0, node_config={}, state=RecordDict(), run_config=dict(run_config)
    )
    with several(1 if pool else processes) as own:
        server(LocalGrid(client, nodes, run_config, order, pool or own), context)
