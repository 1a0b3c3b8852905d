"""One rank of a silo's worker group: ``python -m fl_client.rank SILO``, as torch elastic starts it.

Rank 0 serves the silo's socket and tells the others which work they share. The base stays loaded from one job to the
next. SIGTERM means: keep a checkpoint at the next step and leave; a rank that trains nothing leaves at once.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings
from functools import partial
from pathlib import Path
from typing import NoReturn

from fl_client import frames, outbox, parcels, posted, pulse, ranks, spec, verdict, workers
from fl_client.checkpoint import Left
from fl_client.config import ConfigError
from fl_client.messages import Fault
from fl_client.workers import Job, Kind, Result

LOG = logging.getLogger("bhasha_fl.group")
LEFT = 128 + signal.SIGTERM  # the exit code of a rank that was asked to leave
GRACE_S = 12.0  # for the step that runs; whoever asked kills after 15 seconds
_training = threading.Event()


def main(folder: Path) -> NoReturn:
    """Work for the silo in ``folder`` until asked to leave; never returns."""
    _follow_parent()
    _listen_for_signals()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    _warm_up()
    ranks.join()
    pulse.beat_beside(f".{os.environ.get('LOCAL_RANK', '0')}")
    if not ranks.first():
        logging.getLogger().setLevel(logging.WARNING)  # what all ranks say is said once
    LOG.info("rank %d of %d is ready", ranks.rank(), ranks.world())
    try:
        if ranks.first():
            serve(folder)
        else:
            follow(folder)
    except Left as error:
        LOG.info("rank %d: %s", ranks.rank(), error)
        _exit(LEFT)
    except Exception:
        LOG.exception("rank %d ends", ranks.rank())
        _exit(1)


def serve(folder: Path) -> NoReturn:
    """Take jobs from the silo's socket one after the other, as rank 0."""
    number = 0
    with frames.listen(frames.socket(folder)) as listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(frames.STALLED_S)
                try:
                    kind, job = frames.job(frames.receive(connection))
                except (OSError, ValueError) as error:  # or someone looked whether it is there
                    LOG.info("no job came: %s", error)
                    continue
                try:
                    job = _received(folder, job)
                except ValueError as error:
                    _answer(connection, frames.of_error(Fault("malformed", str(error))))
                    continue
                held = _finished(folder, kind, job)
                if held is not None:
                    _answer(connection, frames.of_result(held))
                    continue
                if together(kind, job):
                    number += 1
                    ranks.spread(frames.of_job(kind, job))
                answer, goes_on = _work(folder, kind, job, number)
                _answer(connection, answer)
                if not goes_on:
                    _exit(1)  # with the listener, so that nobody finds it still there
            _training.clear()


def _received(folder: Path, job: Job) -> Job:
    """Return a job with the arrays of its parcel; raises ``ValueError`` where that is gone or damaged."""
    if job.parcel is None:
        return job
    return job._replace(received=parcels.read(folder / parcels.INBOX, job.parcel), parcel=None)


def _finished(folder: Path, kind: Kind, job: Job) -> Result | None:
    """Return what was answered to the same training before; its update goes on its way again."""
    held = outbox.find(folder / parcels.OUTBOX, outbox.key(job)) if kind == "fit" else None
    if held is not None and held.parcel is not None:
        LOG.info("round %d was trained before and is sent again", job.order.round)
        posted.say(folder, held.parcel)
    return held


def _posted(folder: Path, kind: Kind, job: Job, found: Result) -> Result:
    """Return a result whose arrays lie in the outbox, durable; the same training is then answered from there."""
    if not ranks.first() or not found.arrays:
        return found
    key = outbox.key(job) if kind == "fit" else ""
    return outbox.keep(folder / parcels.OUTBOX, key, found, partial(posted.say, folder))


def follow(folder: Path) -> NoReturn:
    """Take part in the jobs that rank 0 shares."""
    number = 0
    while True:
        kind, job = frames.job(ranks.spread(b""))
        number += 1
        _, goes_on = _work(folder, kind, job, number)
        _training.clear()
        if not goes_on:
            _exit(1)


def together(kind: Kind, job: Job) -> bool:
    """Return whether all ranks do this work: training, and where the base is sharded all that needs it."""
    if ranks.world() == 1 or kind in {"gradient", "fit", "rail"}:
        return ranks.world() > 1
    try:
        return kind not in {"count", "second"} and bool(
            spec.build(job.study.train.parallel, "parallel").sharded
        )
    except ConfigError:  # the work itself says it
        return False


def _work(folder: Path, kind: Kind, job: Job, number: int) -> tuple[bytes, bool]:
    """Return what to answer and whether to go on; raises ``Left``. Training counts as such until it is answered."""
    job = job._replace(place=job.place._replace(silo=str(folder)))
    if kind in {"fit", "rail"}:
        _training.set()
    end = verdict.attempt(lambda: _posted(folder, kind, job, workers.here(kind, job)))
    if together(kind, job):
        return verdict.settle(number, end)
    return end.answer, end.state != verdict.BROKEN


def _answer(connection: socket.socket, answer: bytes) -> None:
    if answer:
        try:
            connection.settimeout(None)
            frames.send(connection, answer)
        except OSError as error:
            LOG.info("nobody waits for the answer any more: %s", error)


def _warm_up() -> None:
    """Import all that a job needs, without bars and notices."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    importlib.import_module("fl_client.work")
    importlib.import_module("transformers.utils.logging").disable_progress_bar()


def _listen_for_signals() -> None:
    """Let SIGTERM and SIGINT reach a thread, also while the main one waits inside Torch for the next job."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    threading.Thread(target=_leave, args=(reading,), daemon=True).start()


def _leave(reading: int) -> None:
    os.read(reading, 1)
    ranks.leave()
    until = time.monotonic() + GRACE_S
    while _training.is_set() and time.monotonic() < until:
        time.sleep(0.05)  # training raises Left at its next step and ends this process
    _exit(LEFT)


def _follow_parent() -> None:
    """Ask Linux for a SIGTERM when the launcher dies, however it does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _exit(code: int) -> NoReturn:
    """End this process now: what other ranks wait for will not come, and files are written whole or not at all."""
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
