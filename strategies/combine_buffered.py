"""What does not fit a buffered schedule, and what fits only there: rules of ``combine.py``.

There an update may have been trained on the adapter of some commits ago, and a silo may be in one commit twice or not
at all. What only adds changes of the same numbers can take that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from strategies.guards.guard import keep_all
from strategies.parts import PROBES, Parts, Refusal

WAIT = "or let silos wait for each other with schedule='sync()'"


def late_updates_need_one_basis(parts: Parts) -> Refusal | None:
    """C30: numbers that mean something else, or others that are trained, from commit to commit."""
    strategy = parts.strategy
    turns = any(strategy.sent(name, 1) != strategy.sent(name, 2) for name in PROBES)
    if not parts.buffered or not (strategy.restarts or strategy.mutates_base or turns):
        return None
    return Refusal(
        "C30",
        "what a silo trains changes its meaning with every commit, so an update that comes late fits nothing",
        f"choose strategy='fedavg()' or 'ffa()', {WAIT}",
    )


def late_updates_add_up(parts: Parts) -> Refusal | None:
    """C34: a merge that needs the adapter which each update started from."""
    strategy = parts.strategy
    elsewhere = strategy.local.own_rows or strategy.mutates_base  # C34 below, C30
    if not parts.buffered or strategy.reduction == "sum" or elsewhere:
        return None
    return Refusal(
        "C34",
        "the strategy merges what adapters became, and updates of a buffer began from several of them",
        f"choose strategy='fedavg()', {WAIT}",
    )


def a_commit_goes_the_share_of_whole_updates(parts: Parts) -> Refusal | None:
    """C34 again: rows divided by who sent them, where a commit goes as far as its silos weigh among all."""
    if not parts.buffered or not parts.strategy.local.own_rows:
        return None
    return Refusal(
        "C34",
        "a commit goes as far as its silos weigh among all of a group, and a row is that of the silos with the token",
        f"choose strategy='fedavg()', {WAIT}",
    )


def nobody_waits_for_a_second_pass(parts: Parts) -> Refusal | None:
    """C35: rounds in two passes, where nobody waits for the mean of the first."""
    if not parts.buffered or not parts.strategy.passes:
        return None
    return Refusal(
        "C35",
        "the strategy asks all silos of a round twice, and here there is no round in which all of them are",
        f"choose strategy='fedavg()', {WAIT}",
    )


def controls_need_everyone(parts: Parts) -> Refusal | None:
    """C32 again: control variates, whose mean is over all silos in step."""
    if not parts.buffered or not parts.strategy.controls:
        return None
    return Refusal(
        "C32",
        "a control variate is right for the commit in which it was sent, and updates of a buffer come commits later",
        f"choose strategy='fedprox()', {WAIT}",
    )


def tracking_needs_everyone(parts: Parts) -> Refusal | None:
    """C66 again: the mean of what the hub believes of all silos, of whom only some are in a commit, or one twice."""
    if not parts.buffered or not parts.codec.tracks:
        return None
    return Refusal(
        "C66",
        "with ef21() the hub adds how all silos' updates changed, each once in a round, and a buffer holds other sets",
        f"choose a codec without ef21(), such as 'topk(0.05) | int8()', {WAIT}",
    )


def guard_needs_one_adapter(parts: Parts) -> Refusal | None:
    """C48: a guard over updates that began from several adapters."""
    if not parts.buffered or parts.guard.judge is keep_all:
        return None
    return Refusal(
        "C48",
        "a guard compares by how much updates move one adapter, and those of a buffer began from several",
        f"choose guard='none()', {WAIT}",
    )


def weights_do_not_follow_losses(parts: Parts) -> Refusal | None:
    """C17 again: a weight by losses, where silos are not scored as they train."""
    if not parts.buffered or parts.weights.needs == "counts":
        return None
    return Refusal(
        "C17",
        "the weight follows losses, and a buffered study scores only before the first commit and after the last",
        f"weigh by text with weights='bytes()', {WAIT}",
    )


def delayed_momentum_needs_a_buffer(parts: Parts) -> Refusal | None:
    """C31: a step spread over several commits, where each round already is the mean over silos."""
    if parts.buffered or not parts.outer.delays:
        return None
    return Refusal(
        "C31",
        "delayed momentum spreads one step over several commits of a buffer, and here each round is a whole step",
        "choose outer='nesterov()', or let nobody wait with schedule='buffered()'",
    )


def shares_of_a_step_stay_shares(parts: Parts) -> Refusal | None:
    """C31 again: an optimizer that divides steps by their size, where a commit is to go its share of one."""
    if not parts.buffered or not parts.outer.rescales:
        return None
    return Refusal(
        "C31",
        "a commit goes its silos' share of a step, and this optimizer divides by the size of steps, the share with it",
        f"choose outer='delayed_nesterov()' or 'mean()', {WAIT}",
    )


RULES: Iterable[Callable[[Parts], Refusal | None]] = (
    late_updates_need_one_basis,
    late_updates_add_up,
    a_commit_goes_the_share_of_whole_updates,
    nobody_waits_for_a_second_pass,
    controls_need_everyone,
    tracking_needs_everyone,
    guard_needs_one_adapter,
    weights_do_not_follow_losses,
    delayed_momentum_needs_a_buffer,
    shares_of_a_step_stay_shares,
)
