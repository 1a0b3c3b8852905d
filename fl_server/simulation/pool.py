"""Several processes that work for simulated silos, one core each: the same bits, sooner.

They are forked from one that has imported Torch and done nothing with it. A process keeps its base warm between calls.
What silos log travels back to the parent's loggers. A process ends with its parent, even where that is killed, so
nothing trains on unseen.
"""

from __future__ import annotations

import importlib
import logging
import logging.handlers
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import wait
from typing import Any, Protocol, TypeVar

from fl_server.run import RoundFailed
from fl_server.simulation import heap
from fl_server.simulation.lot import Asked, Replies, answer

LOGGER = "bhasha_fl"
PRELOAD = "fl_server.simulation.preload"
GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # of NVIDIA, AMD, and Windows below Linux
T = TypeVar("T")


class Died(RoundFailed):
    """A process that worked for silos died or could not work: nothing that the study is about; it can go on."""


class Crew(Protocol):
    """Processes that work for silos, of this machine or of others.

    ``cores`` is by how many lots are cut, ``sharing`` how many of the processes find themselves on one GPU, if any.
    """

    cores: int
    sharing: int

    def ask(self, asked: list[Asked], together: bool) -> Replies:
        """Return the replies to come to a lot of messages."""

    def do(self, work: Callable[..., T], *arguments: Any) -> T:
        """Return what a function makes of its arguments, where Torch is; raises what it raises."""


class Pool:
    """``submit`` a call of a function that can be pickled by name; ``close`` when done, ``kill`` to break off."""

    def __init__(self, processes: int) -> None:
        heap.keep()
        self.cores = cores()  # not the processes: a seed means the same bits however many there are
        self._context = context()
        self.sharing = processes  # all of them, of this machine's first GPU
        self._lines: Any = self._context.Queue()
        self._listener = logging.handlers.QueueListener(self._lines, _Relay())
        self._listener.start()
        self._executor = self._begun()
        for _ in range(
            processes
        ):  # side by side from the start, not each when there is work for it
            self._executor.submit(_warm)

    def _begun(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self.sharing, self._context, _start, (self._lines,))

    def ask(self, asked: list[Asked], together: bool) -> Replies:
        """Return the replies to come to a lot of messages."""
        return self.submit(answer, asked, together)

    def do(self, work: Callable[..., T], *arguments: Any) -> T:
        """Return what a function makes of its arguments in one of the processes; raises what it raises."""
        made: T = self.submit(work, *arguments).result()
        return made

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Return the result to come; where processes died over earlier work, by new ones."""
        try:
            return self._executor.submit(work, *arguments)
        except BrokenProcessPool:
            self._executor = self._begun()
            return self._executor.submit(work, *arguments)

    def close(self) -> None:
        """Let the processes end by themselves; for when all work is done."""
        self._executor.shutdown(wait=True)
        self._listener.stop()
        self._lines.close()

    def kill(self) -> None:
        """End all processes at once; what they were doing is lost.

        One may die while it holds the lock of the queue of log lines, so nobody waits for that queue any more: its
        listener is a daemon thread and ends with this process.
        """
        workers = list((self._executor._processes or {}).values())
        self._executor.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.kill()


@contextmanager
def several(processes: int) -> Iterator[Pool | None]:
    """Give a pool of so many processes, none for one; they are ended afterwards, at once if it is broken off."""
    pool = Pool(processes) if processes > 1 else None
    try:
        yield pool
    except BaseException:
        if pool is not None:
            pool.kill()
        raise
    if pool is not None:
        pool.close()


Crews = Callable[[int], AbstractContextManager[Crew | None]]  # of so many processes


def cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu() -> bool:
    """Return whether this machine has a GPU, as far as its devices tell."""
    return any(map(os.path.exists, GPUS))


def context() -> Any:
    """Return how processes begin: forked from one that has imported what they need, or each by itself where it must.

    What merely looks for a GPU, as bitsandbytes does on import, cannot be forked any more.
    """
    if sys.platform != "linux" or gpu():
        return multiprocessing.get_context("spawn")
    forked = multiprocessing.get_context("forkserver")
    forked.set_forkserver_preload([PRELOAD])
    return forked


def _warm() -> None:
    importlib.import_module(PRELOAD)


class _Relay(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger(record.name).handle(record)


def _start(lines: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_leave_with, args=(parent.sentinel,), daemon=True).start()
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(logging.handlers.QueueHandler(lines))


def _leave_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
