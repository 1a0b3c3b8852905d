"""LocalGrid: the real ServerApp and ClientApp in one process, over Flower's ``Grid``.

A message waits until it is pulled; then its silo's ClientApp runs, on the base that is already warm. The order in
which silos answer can be shuffled by a seed, and must not matter.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fl_client.config import Scalar

RUN_ID = 1


class LocalGrid(Grid):
    """A grid whose nodes are simulated silos, numbered from 1, answering one at a time."""

    def __init__(
        self, client: ClientApp, nodes: int, run_config: dict[str, Scalar], order: int | None = None
    ) -> None:
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = RUN_ID, 1, 1
        self._client = client
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
        """Take messages in; nothing is done until they are pulled."""
        keys = []
        for message in messages:
            self._pushed += 1
            keys.append(f"message-{self._pushed}")
            self._waiting[keys[-1]] = message
        self._turn = list(keys)
        if self._shuffle is not None:
            self._shuffle.shuffle(self._turn)
        return keys

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Run the silo whose turn it is, if it is among those asked for, and return its reply."""
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


def run(
    server: ServerApp,
    client: ClientApp,
    nodes: int,
    run_config: dict[str, Scalar],
    order: int | None = None,
) -> None:
    """Run a ServerApp against ``nodes`` ClientApps in this process until it ends."""
    grid = LocalGrid(client, nodes, run_config, order)
    context = Context(
        run_id=RUN_ID, node_id=0, node_config={}, state=RecordDict(), run_config=dict(run_config)
    )
    server(grid, context)
