"""What a way of training together is. Building one needs no Torch; joining a team does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from strategies.adapter import Adapter

if TYPE_CHECKING:
    from fl_client.config import Train
    from fl_client.gauge import Gauge
    from fl_client.model import Warm
    from fl_client.optimizer import Optimizer


def nothing() -> None:
    """Do nothing."""


def always(done: int, last: bool) -> bool:
    """The ranks meet after every step."""
    return True


def no_state() -> Adapter:
    """Nothing is kept beside the adapter and its moments."""
    return {}


def no_memory(state: Adapter) -> None:
    """There is nothing to take up again."""


class Team(NamedTuple):
    """The ranks at work on one round.

    ``model`` is what runs forward; inside ``quiet()`` a backward exchanges nothing; ``gather()`` makes each gradient
    that of the whole batch. ``due(done, last)`` says whether the ranks meet after so many steps of the round, and after
    ``meet()`` all hold the same. ``state`` and ``load`` are for step checkpoints, ``close`` ends it. Where ``apart``, a
    rank steps by its own share between two meetings.
    """

    model: Any
    quiet: Callable[[], AbstractContextManager[Any]] = nullcontext
    gather: Callable[[], None] = nothing
    due: Callable[[int, bool], bool] = always
    meet: Callable[[], None] = nothing
    state: Callable[[], Adapter] = no_state
    load: Callable[[Adapter], None] = no_memory
    close: Callable[[], None] = nothing
    apart: bool = False


class Parallel(NamedTuple):
    """``join(made, used, options, gauge)`` makes the team; where ``sharded``, no rank holds the whole base."""

    join: Callable[[Warm, Optimizer, Train, Gauge], Team]
    sharded: bool = False
