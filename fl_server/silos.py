"""The silos of a study: who they are, and how they are asked."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, NamedTuple

from fl_client import messages
from fl_client.config import ConfigError
from fl_client.messages import Content, Order, Reply
from fl_server.grid import Grid
from strategies.schedules.schedule import Closes
from strategies.weights.weight import Counts

LOG = logging.getLogger("bhasha_fl.hub")
WAIT_S = 2.0  # the longest wait for news before deadlines are looked at again
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
CARD_S = 600.0
# Flower's errors 3 to 5 and 8: it has a message, a reply or the node no more, or the silo's process died at its work.
LOST = frozenset({3, 4, 5, 8})
TRIES = 3  # times a silo is asked again where that was lost, before it counts as failed


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


def introduce(grid: Grid) -> list[Silo]:
    """Return the silos that are there, by name; raises ``ConfigError`` where names clash or bases differ."""
    nodes = sorted(grid.get_node_ids())
    found = []
    content = messages.order(Order())
    for node, reply in _exchange(grid, "query", {n: content for n in nodes}, _all_within(CARD_S)):
        if reply.code:
            raise ConfigError(f"a silo could not join: {messages.CODES[reply.code]}")
        found.append(_silo(node, reply, grid.names().get(node)))
    names = [silo.name for silo in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not found:
        raise ConfigError(f"two silos are named {twice[0]}" if twice else "no silo answered")
    if len({silo.base for silo in found}) > 1:
        raise ConfigError("the silos hold different base models; each must hold the study's")
    return sorted(found, key=lambda silo: silo.name)


def _silo(node: int, reply: Reply, known: str | None) -> Silo:
    try:
        rows = {str(lang): Counts(*map(int, row)) for lang, row in reply.facts["languages"].items()}
        name, base = str(reply.facts["silo"]), str(reply.facts["base"])
        silo = Silo(node, name, rows, base, int(reply.facts.get("rank", 0)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"a silo introduced itself in a way that cannot be read: {error!r}"
        ) from None
    if not NAME.fullmatch(silo.name) or not rows or min(map(min, rows.values())) < 0:
        raise ConfigError(
            f"a silo introduced itself as {silo.name!r} with {rows}; it cannot take part"
        )
    if known is not None and silo.name != known:
        raise ConfigError(f"silo {known} introduced itself as {silo.name!r}; it cannot take part")
    return silo


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
    for node, reply in _exchange(grid, kind, first, closes or _all_within(float("inf")), more):
        answer = {"kind": "answer", "silo": by_node[node].name, "code": reply.code}
        LOG.debug("%s answered", by_node[node].name, extra={"event": answer})
        out.pop(by_node[node].name, None)
        yield by_node[node], reply


def _exchange(
    grid: Grid,
    kind: str,
    contents: dict[int, Content],
    closes: Closes,
    again: Callable[[], dict[int, Content]] = dict,
) -> Iterator[tuple[int, Reply]]:
    waiting, unknown = _push(grid, kind, contents)
    began, answered = grid.now(), 0
    anew: set[int] = set()
    tries: Counter[int] = Counter()
    while not closes(len(contents), answered, len(waiting) + len(unknown), grid.now() - began):
        before, send = answered, dict[int, Content]()
        for node, reply in chain(unknown, _arrived(grid, waiting)):
            if reply.code == "lost" and tries[node] < TRIES:
                LOG.info("what node %d was asked is lost, and asked again", node)
                tries[node] += 1
                send[node] = contents[node]
                continue
            answered += 1
            yield node, reply
        send |= again()
        contents = contents | send
        idle = not send and answered == before
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
                yield node, _with_arrays(grid, node, _taken(message))
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


def _with_arrays(grid: Grid, node: int, reply: Reply) -> Reply:
    if reply.parcel is None:
        return reply
    try:
        arrays = grid.collect(node, reply.parcel)
        LOG.info("node %d brought %.1f MB", node, reply.bytes / 1e6)
        return reply._replace(arrays=arrays)
    except ValueError as error:
        LOG.error("an update cannot be read: %s", error)
        return _failed("malformed")


def _all_within(seconds: float) -> Closes:
    return lambda asked, answered, waiting, elapsed: waiting == 0 or elapsed >= seconds
