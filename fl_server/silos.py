"""The silos of a study, and how they are asked: what comes back as it comes, and again what was lost on the way."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, NamedTuple

from fl_client import messages
from fl_client.checks.check import size
from fl_client.messages import Content, Reply
from fl_server.grid import Grid
from strategies.schedules.schedule import Closes
from strategies.weights.weight import Counts

LOG = logging.getLogger("bhasha_fl.hub")
WAIT_S = 2.0  # the longest wait for news before deadlines are looked at again
# Flower's errors 3 to 5 and 8: it has a message, a reply or the node no more, or the silo's process died at its work.
LOST = frozenset({3, 4, 5, 8})
TRIES = 3  # times a silo is asked again where that was lost, before it counts as failed
LOST_S = 30.0  # between two of them; the first is at once


class Silo(NamedTuple):
    """One silo, as it introduced itself when the study began."""

    node: int
    name: str
    counts: dict[str, Counts]
    base: str
    rank: int = 0  # of its LoRA pairs, where it is below the study's

    @property
    def language(self) -> str:
        """The language of most of its bytes."""
        return max(sorted(self.counts), key=lambda lang: self.counts[lang].bytes)


Again = Callable[[], list[tuple[Silo, Content]]]


def ask(
    grid: Grid,
    kind: str,
    contents: list[tuple[Silo, Content]],
    closes: Closes | None = None,
    again: Again | None = None,
) -> Iterator[tuple[Silo, Reply]]:
    """Send each silo its message and yield replies as they come, one in memory at a time, until ``closes`` says so.

    When all that has come is taken, silos are sent what ``again`` returns: a silo may be asked on and on.
    """
    by_node: dict[int, Silo] = {}
    out: dict[str, None] = {}

    def pushed(contents: list[tuple[Silo, Content]]) -> dict[int, Content]:
        by_node.update({silo.node: silo for silo, _ in contents})
        out.update({silo.name: None for silo, _ in contents})
        if contents:
            event = {"kind": "ask", "what": kind, "silos": list(out)}
            LOG.debug("asked for %s", kind, extra={"event": event})
        return {silo.node: content for silo, content in contents}

    first, more = pushed(contents), (lambda: pushed(again())) if again else dict
    for node, reply in exchange(grid, kind, first, closes or all_within(float("inf")), more):
        answer = {"kind": "answer", "silo": by_node[node].name, "code": reply.code}
        LOG.debug("%s answered", by_node[node].name, extra={"event": answer})
        out.pop(by_node[node].name, None)
        if reply.parcel is not None and not reply.code:
            LOG.info("%s brought %s", by_node[node].name, size(reply.bytes))
        yield by_node[node], reply


def exchange(
    grid: Grid,
    kind: str,
    contents: dict[int, Content],
    closes: Closes,
    again: Callable[[], dict[int, Content]] = dict,
) -> Iterator[tuple[int, Reply]]:
    """Send each node its message and yield the replies as ``ask`` does, by node."""
    waiting, unknown = _push(grid, kind, contents)
    began, heard, answered = grid.now(), 0, 0
    anew: set[int] = set()
    tries: Counter[int] = Counter()
    lost: dict[int, float] = {}  # whom to ask again, and when
    while not closes(
        len(contents), answered, len(waiting) + len(unknown) + len(lost), grid.now() - began
    ):
        before = heard
        for node, reply in chain(unknown, _arrived(grid, waiting)):
            if reply.code == "lost" and tries[node] < TRIES and node not in dict(unknown):
                LOG.info("what node %d was asked is lost, and asked again", node)
                lost[node] = grid.now() + tries[node] * LOST_S
                tries[node] += 1
                continue
            heard, answered = heard + 1, answered + (not reply.code)
            yield node, reply
        send = {node: contents[node] for node, due in lost.items() if due <= grid.now()}
        lost = {node: due for node, due in lost.items() if node not in send}
        send |= again()
        contents = contents | send
        idle = not send and heard == before
        if idle:
            send = {node: contents[node] for node in anew & set(waiting.values())}
            if send:
                LOG.info("%d silos started anew and are asked again", len(send))
        kept = {key: node for key, node in waiting.items() if node not in send}
        pushed, unknown = _push(grid, kind, send)
        waiting = kept | pushed
        if idle:
            anew = grid.restarted()  # asked again after a look for what they sent before that
            grid.wait(WAIT_S)


def _push(
    grid: Grid, kind: str, contents: dict[int, Content]
) -> tuple[dict[str, int], list[tuple[int, Reply]]]:
    """Send; return the nodes by the keys of what was sent, and those that are not known any more, as failed."""
    nodes = list(contents)
    sent = [messages.to(n, kind, contents[n], messages.round_of(contents[n], kind)) for n in nodes]
    keys = list(zip(grid.push_messages(sent) if sent else [], nodes, strict=True))
    unknown = [(node, _failed("lost")) for key, node in keys if not key]
    return {key: node for key, node in keys if key}, unknown


def _failed(code: str) -> Reply:
    return Reply({}, {}, {}, code, 0)


def _arrived(grid: Grid, waiting: dict[str, int]) -> Iterator[tuple[int, Reply]]:
    for key in list(waiting):
        for message in grid.pull_messages([key]):
            node = waiting.pop(key, None)
            if node is not None:
                yield node, collected(grid, node, _taken(message))
    refused = grid.refused()
    for key, node in list(waiting.items()):
        if node in refused:
            del waiting[key]
            yield node, _failed(refused[node])


def _taken(message: Any) -> Reply:
    """Return a reply and empty its message: Flower's records are circles, which hold their arrays for long."""
    if message.has_error() and message.error.code in LOST:
        return _failed("lost")
    reply = messages.read_reply(message)
    for record in message.content.array_records.values() if message.has_content() else ():
        record.clear()
    return reply


def collected(grid: Grid, node: int, reply: Reply) -> Reply:
    """Return a reply with the arrays of its parcel, if it has one; as failed where they cannot be read."""
    if reply.parcel is None:
        return reply
    try:
        return reply._replace(arrays=grid.collect(node, reply.parcel))
    except ValueError as error:
        LOG.error("an update cannot be read: %s", error)
        return _failed("malformed")


def after_last(rule: Closes, rounds: int = 1) -> Closes:
    """Return a rule for that many rounds, with the time counted from the last answer.

    From the last answer, because the silos of a simulation answer one after the other.
    """
    heard, at_s = 0, 0.0

    def closes(asked: int, answered: int, waiting: int, elapsed_s: float) -> bool:
        nonlocal heard, at_s
        if answered > heard:
            heard, at_s = answered, elapsed_s
        return rule(asked, answered, waiting, (elapsed_s - at_s) / rounds)

    return closes


def all_within(seconds: float) -> Closes:
    """Return the rule that waits for everyone, at most so many seconds."""
    return lambda asked, answered, waiting, elapsed: waiting == 0 or elapsed >= seconds
