"""What becomes of a job that did not end well on every rank: what its silo is told, and whether the group goes on.

Where all ranks came to the same plain end, as when the loss is no number on all of them, the group goes on. Where one
failed alone the others hang in a step that will never end, and only a new start of all helps.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

from fl_client import frames, gauge, ranks
from fl_client.checkpoint import Left
from fl_client.config import ConfigError
from fl_client.messages import Fault

LOG = logging.getLogger("bhasha_fl.group")
DONE, BROKEN = "done", "broken"
LOOK_S = 0.1
PATIENCE_S = 5.0  # how long rank 0 waits for word from the others, and these for its verdict


class End(NamedTuple):
    """How a job ended on this rank: what to answer, and ``done``, ``broken`` or the code of a plain fault."""

    answer: bytes
    state: str


def attempt(work: Callable[[], Any]) -> End:
    """Do a piece of work and return how it ended; raises ``Left``."""
    try:
        with gauge.memory():
            return End(frames.of_result(work()), DONE)
    except Left:
        raise
    except Fault as error:
        return End(frames.of_error(error), error.code)
    except ConfigError as error:
        return End(frames.of_error(error), "refused")
    except MemoryError as error:
        return End(frames.of_error(Fault("out_of_memory", str(error))), "out_of_memory")
    except Exception as error:
        LOG.exception("rank %d failed", ranks.rank())
        return End(frames.of_error(Fault("internal", type(error).__name__)), BROKEN)


def settle(number: int, end: End) -> tuple[bytes, bool]:
    """Return what the silo is told of job ``number`` (nothing: it shall ask again), and whether the group goes on."""
    if ranks.world() == 1:
        return end.answer, end.state != BROKEN
    notes = ranks.notes()
    notes.set(f"{number}/{ranks.rank()}", end.state)
    if end.state == DONE:
        return end.answer, True
    if not ranks.first():
        return b"", _word(f"{number}/verdict", time.monotonic() + PATIENCE_S) is not None
    until = time.monotonic() + PATIENCE_S
    states = [_word(f"{number}/{r}", until) for r in range(1, ranks.world())]
    if end.state != BROKEN and not {None, DONE, BROKEN} & set(states):
        notes.set(f"{number}/verdict", "on")
        return end.answer, True
    return _told(end, states), False


def _word(key: str, until: float) -> str | None:
    """Return a note once it is there, or nothing: when time is up, or this rank is asked to leave as others ended."""
    while True:
        over = ranks.leaving() or time.monotonic() >= until
        try:
            ranks.notes().wait([key], timedelta(seconds=LOOK_S))
        except RuntimeError:  # Torch's own timeout is one
            if over:
                return None
        else:
            return bytes(ranks.notes().get(key)).decode()


def _told(end: End, states: list[str | None]) -> bytes:
    """Return the answer of rank 0 where it knows why, else that of the rank that does, else nothing."""
    plain = [s for s in states if s not in {None, DONE, BROKEN, "refused"}]
    if end.state != BROKEN:
        return end.answer
    if plain:
        return frames.of_error(Fault(str(plain[0]), "on another rank"))
    return b"" if None in states else end.answer
