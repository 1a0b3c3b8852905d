"""What stands in for Flower's SuperLink: a run, its messages, its replies. A run that ended is over for everyone."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

from fl_client import fleet, messages, parcels
from fl_client.workers import Result


class Work(NamedTuple):
    """A message as a silo is given it."""

    run: int
    id: str
    message: Any


class Superlink:
    """Flower as both sides see it; nodes are numbered from 1 by ``names``."""

    def __init__(self, names: Iterable[str]) -> None:
        self._silos = dict(enumerate(names, 1))
        self.run = self._count = 0
        self._begin()

    def begin(self) -> int:
        """Begin a run in place of the one before, of which nothing stays; return its number."""
        self.run += 1
        self._begin()
        return self.run

    def _begin(self) -> None:
        self._queues: dict[str, deque[Work]] = {name: deque() for name in self._silos.values()}
        self._sent: dict[str, Any] = {}
        self._replies: dict[str, Any] = {}

    def node(self, silo: str) -> int:
        """Return a silo's node."""
        return next(node for node, name in self._silos.items() if name == silo)

    def push_messages(self, pushed: Iterable[Any]) -> list[str]:
        """Take the hub's messages; return their keys. Nobody is asked to score: nothing durable hangs on it."""
        keys = []
        for message in pushed:
            silo, said = self._silos[message.metadata.dst_node_id], message.metadata
            if said.message_type not in ("query", "train", "train.second"):
                keys.append("")
                continue
            self._count += 1
            key = f"message-{self._count}"
            self._sent[key] = message
            self._queues[silo].append(Work(self.run, key, message))
            keys.append(key)
        return keys

    def pull_messages(self, keys: Iterable[str]) -> list[Any]:
        """Return the replies that are there."""
        return [self._replies.pop(key) for key in keys if key in self._replies]

    def next(self, silo: str) -> Work | None:
        """Give a silo its next message, once."""
        return self._queues[silo].popleft() if self._queues[silo] else None

    def given(self, key: str) -> Work | None:
        """Return a message of this run that was given out."""
        return Work(self.run, key, self._sent[key]) if key in self._sent else None

    def take(self, content: bytes) -> None:
        """Take a silo's reply. A second one to the same message changes nothing."""
        said = json.loads(content)
        message = self._sent.get(said["answers"])
        if message is None or said["answers"] in self._replies:
            return
        if "fault" in said["facts"]:
            reply = messages.fault(message, said["facts"]["fault"])
        else:
            parcel = parcels.parse(said["parcel"]) if said["parcel"] else None
            reply = messages.answer(message, said["metrics"], said["facts"], None, parcel)
        self._replies[said["answers"]] = reply

    def carried(self, work: Work) -> bytes:
        """Return the answer in which a message travels to its silo."""
        said = work.message.metadata
        metadata = {
            "run_id": work.run,
            "message_id": work.id,
            "message_type": said.message_type,
            "group_id": said.group_id,
            "created_at": said.created_at,
            "ttl": said.ttl,
        }
        tree = {"object_id": "0" * 64}
        return fleet.answering(
            fleet.PULL_MESSAGES, messages_list=[{"metadata": metadata}], message_object_trees=[tree]
        )


def announced(work: Work, reply: Result) -> tuple[str, bytes, bytes]:
    """Return a reply as its one object, by its name, and the body that announces it."""
    words = {"facts": reply.facts, "metrics": reply.metrics, "parcel": str(reply.parcel or "")}
    content = json.dumps(words | {"answers": work.id}, sort_keys=True).encode()
    name = hashlib.sha256(content).hexdigest()
    said = {
        "run_id": work.run,
        "message_id": name,
        "reply_to_message_id": work.id,
        "group_id": work.message.metadata.group_id,
    }
    tree = {"object_id": name}
    body = fleet.asking(
        fleet.PUSH_MESSAGES, messages_list=[{"metadata": said}], message_object_trees=[tree]
    )
    return name, content, body
