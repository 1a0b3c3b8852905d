"""Processes of a Ray cluster that work for simulated silos, through Flower's simulation runtime: ``--engine ray``.

The rounds and their grid are those of this machine. A lot of messages goes as one message to a node of Flower's, which
is a door to the next free actor, no silo: the actor answers for all silos of the lot, with the base that it loaded
before. What they log comes back with the replies. Flower calls ``run_simulation`` deprecated, but has nothing else that
runs without a SuperLink. It feeds at most as many actors at once as Python starts threads: the cores here and 4, or 32.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from itertools import cycle
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any, NamedTuple, TypeVar

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from fl_client.messages import TTL_S
from fl_server.simulation import cluster, lot, visits
from fl_server.simulation.cluster import Room
from fl_server.simulation.lot import Asked, Replies
from fl_server.simulation.pool import LOGGER, Died

T = TypeVar("T")
EVERY_S = 0.05  # between two looks for replies
ENDED = "a Ray actor ended over its work, perhaps for lack of memory ({})"
FAILED = "a Ray actor could not do its work: {}"
GONE = "Flower's runtime ended before all work was done"
# What Ray raises where an actor is no more, as a reason of Flower's begins.
NO_MORE = "ActorDied|ActorUnavailable|NodeDied|OutOfMemory|RayActor|WorkerCrashed"
DIED = re.compile(rf"<class 'ray\.exceptions\.({NO_MORE})Error'>")
SAID = "occurred. Message:"  # in Flower's words, before those of the error itself
THEN = "Continue with --resume"


class Sent(NamedTuple):
    """A lot on its way, and the replies to come."""

    asked: list[Asked]
    together: bool
    replies: Replies


class Actors:
    """``ask`` for the replies to a lot; ``close`` when done, ``kill`` to break off. As ``pool.Pool``, on Ray."""

    def __init__(self, room: Room) -> None:
        self.cores = room.cores
        self.sharing = 1  # each actor has a GPU of its own
        self._room = room
        self._lots: Queue[Sent | None] = Queue()
        self._sent: dict[str, Sent] = {}
        self._open = Event()
        self._ended = False
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()
        self._open.wait()  # from here on this process is one of Flower's run

    def ask(self, asked: list[Asked], together: bool) -> Replies:
        """Return the replies to come."""
        sent = Sent(asked, together, Future())
        self._lots.put(sent)
        if self._ended:
            self._give_up()
        return sent.replies

    def do(self, work: Callable[..., T], *arguments: Any) -> T:
        """Return what a function makes of its arguments, here."""
        return work(*arguments)

    def close(self) -> None:
        """Let the actors end by themselves; for when all work is done."""
        self._lots.put(None)
        self._thread.join()

    def kill(self) -> None:
        """Ask for nothing more. Lots in work are finished for nothing: Flower lets nobody break them off.

        The program ends after them. To leave Ray before would keep Flower's threads waiting for ever.
        """
        self._lots.put(None)

    def _run(self) -> None:
        from flwr.simulation import run_simulation

        door = ServerApp()
        door.main()(self._serve)
        resources = {"num_cpus": self._room.cpus, "num_gpus": self._room.gpus}
        config: Any = {"client_resources": resources}
        flower = logging.getLogger("flwr")
        flower.addFilter(_shown)
        try:
            run_simulation(door, visits.app, self._room.actors, backend_config=config)
        except Exception as error:
            logging.getLogger(f"{LOGGER}.simulation").error("Flower's runtime ended: %s", error)
        finally:
            flower.removeFilter(_shown)
            self._ended = True
            self._open.set()
            self._give_up()

    def _serve(self, grid: Grid, _: Context) -> None:
        nodes = cycle(_nodes(grid, self._room.actors))
        self._open.set()
        while True:
            try:
                sent = self._lots.get(timeout=EVERY_S)
            except Empty:
                self._pull(grid)
                continue
            if sent is None:
                return
            content = lot.packed(sent.asked, sent.together)
            message = Message(content, dst_node_id=next(nodes), message_type=visits.KIND, ttl=TTL_S)
            (key,) = grid.push_messages([message])
            self._sent[key] = sent

    def _pull(self, grid: Grid) -> None:
        for reply in grid.pull_messages(list(self._sent)) if self._sent else ():
            sent = self._sent.pop(reply.metadata.reply_to_message_id)
            why = _lost(reply)
            if why:
                sent.replies.set_exception(Died(why, THEN))
            else:
                sent.replies.set_result(_replies(reply, sent.asked))

    def _give_up(self) -> None:
        left: list[Sent | None] = [self._sent.popitem()[1] for _ in list(self._sent)]
        with suppress(Empty):
            while True:
                left.append(self._lots.get_nowait())
        for sent in left:
            if sent is not None:
                sent.replies.set_exception(Died(GONE, THEN))


def _shown(line: logging.LogRecord) -> bool:
    """Return whether a user sees a line of Flower's: not that ``run_simulation``, which we call, will go."""
    return not line.getMessage().startswith("DEPRECATED FEATURE: The `run_simulation`")


def _nodes(grid: Grid, count: int) -> list[int]:
    """Return Flower's nodes once all are there: it begins them after the ServerApp."""
    pause = Event()
    while len(nodes := list(grid.get_node_ids())) < count:
        pause.wait(EVERY_S)
    return nodes


def _lost(reply: Message) -> str:
    """Return why an actor could not work for its silos, empty where it did."""
    if reply.has_error():
        reason = (reply.error.reason or "Flower does not say why").strip().removesuffix("'>")
        last = reason.strip().splitlines()[-1]  # before it stands a trace
        if DIED.match(reason):
            return ENDED.format(last)
        return FAILED.format(reason.partition(SAID)[2].strip().partition("\n")[0] or last)
    lost = reply.content.config_records.get("lost")
    return str(lost["why"]) if lost else ""


def _replies(reply: Message, asked: list[Asked]) -> list[Message]:
    """Return the replies of a lot's silos, after what they logged was told here."""
    for line in json.loads(str(reply.content.config_records["said"]["json"])):
        record = logging.makeLogRecord(line)
        logging.getLogger(record.name).handle(record)
    parts = lot.parted(reply.content, len(asked))
    return [Message(part, reply_to=each) for part, (each, _) in zip(parts, asked, strict=True)]


@contextmanager
def several(processes: int, threads: int) -> Iterator[Actors]:
    """Give the actors of a cluster, or of this machine where there is none; raises ``ConfigError``."""
    actors = Actors(cluster.join(processes, threads))
    try:
        yield actors
    except BaseException:
        actors.kill()
        raise
    actors.close()
