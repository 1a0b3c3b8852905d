"""A lot: messages to silos that are worked for together, the work on it in whatever process, and its way to another.

A process of this machine takes a lot as it is. Flower carries one message at a time, so there a lot travels as one
message that holds the records of all, and so do the replies.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import Future

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

from fl_client import app as installed
from fl_client.config import Scalar

RUN_ID = 1
Asked = tuple[Message, Context]
Replies = Future[list[Message]]  # to a lot


def identify() -> None:
    """Tell Flower which run this process belongs to, unless it knows; without it no message can be made."""
    try:
        _ = TaskIdentity.run_id
    except RuntimeError:
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = RUN_ID, 1, 1


def seat(node: int, nodes: int, run_config: dict[str, Scalar]) -> Context:
    """Return all that says which of ``nodes`` simulated silos, numbered from 1, a ClientApp answers for."""
    return Context(
        run_id=RUN_ID,
        node_id=node,
        node_config={"partition-id": node - 1, "num-partitions": nodes},
        state=RecordDict(),
        run_config=dict(run_config),
    )


def answer(asked: list[Asked], together: bool) -> list[Message]:
    """Return the replies of this installation's ClientApp, in a process that only works."""
    from fl_server.simulation.study import quiet

    identify()
    quiet()
    return answers(installed.app, asked, together)


def answers(client: ClientApp, asked: list[Asked], together: bool) -> list[Message]:
    """Return the replies to a lot of messages, of silos that train together or of a client by itself."""
    return installed.together(asked) if together else [client(*one) for one in asked]


def packed(asked: list[Asked], together: bool) -> RecordDict:
    """Return a lot as the content of one message."""
    seats = [(m.metadata.message_type, m.metadata.group_id, c.node_id) for m, c in asked]
    _, first = asked[0]
    nodes, study = first.node_config["num-partitions"], first.run_config
    told = {"seats": seats, "nodes": nodes, "study": study, "together": together}
    content = joined(message.content for message, _ in asked)
    content["lot"] = ConfigRecord({"json": json.dumps(told)})
    return content


def opened(content: RecordDict) -> tuple[list[Asked], bool]:
    """Return the lot that was packed, and whether its silos train together."""
    told = json.loads(str(content.config_records["lot"]["json"]))
    parts = parted(content, len(told["seats"]))
    asked = [
        (
            Message(part, dst_node_id=node, message_type=kind, group_id=group),
            seat(node, told["nodes"], told["study"]),
        )
        for part, (kind, group, node) in zip(parts, told["seats"], strict=True)
    ]
    return asked, told["together"]


def joined(contents: Iterable[RecordDict]) -> RecordDict:
    """Return the records of several messages as those of one, each named after the number of its message."""
    return RecordDict(
        {
            f"{number}/{name}": record
            for number, content in enumerate(contents)
            for name, record in content.items()
        }
    )


def parted(content: RecordDict, count: int) -> list[RecordDict]:
    """Return the contents of the ``count`` messages that were joined."""
    found = [RecordDict() for _ in range(count)]
    for named, record in content.items():
        number, _, name = named.partition("/")
        if name:
            found[int(number)][name] = record
    return found
