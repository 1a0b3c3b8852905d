"""What does not fit a codec, on the way up and on the way down: rules of ``combine.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from strategies import broadcast
from strategies.guards.guard import keep_all
from strategies.parts import PROBES, Parts, Refusal


def narrow_codec_must_come_last(parts: Parts) -> Refusal | None:
    """C52: a codec after one whose values are no longer float32."""
    if not any(link.narrows for link in parts.codec.links[:-1]):
        return None
    return Refusal(
        "C52",
        "a codec that narrows numbers (float16, bfloat16, int8, int4, int2, qsgd) is followed by another",
        "put the narrowing codec last, as in 'topk(0.05) | int8()'",
    )


def sparsifier_only_once(parts: Parts) -> Refusal | None:
    """C53: two links that leave coordinates out, each with an error feedback of its own."""
    if sum(link.chosen is not None for link in parts.codec.links) < 2:
        return None
    return Refusal(
        "C53",
        "the codec chain chooses coordinates twice (topk, randk)",
        "use one topk() or randk() with the product of both densities",
    )


def feedback_needs_a_codec_that_contracts(parts: Parts) -> Refusal | None:
    """C54: error feedback around rounding so coarse that what is left out grows from round to round."""
    if not parts.codec.feedback or all(link.contracts for link in parts.codec.links):
        return None
    return Refusal(
        "C54",
        "two bits rounded by lot err by more than the update itself, and error feedback sends the error again",
        "let topk() or randk() be followed by int2(), int4() or qsgd(bits=4)",
    )


def codec_memory_needs_the_same_tensors(parts: Parts) -> Refusal | None:
    """C54: error feedback where one round sends other tensors than the next."""
    sent = [{name for name in PROBES if parts.strategy.sent(name, r)} for r in (1, 2)]
    if sent[0] == sent[1] or not parts.codec.feedback:
        return None
    return Refusal(
        "C54",
        "the strategy sends other tensors from round to round, so what the codec holds back is never sent",
        "choose a codec without error feedback, such as int8(), or strategy='ffa()'",
    )


def own_rows_stay_apart(parts: Parts) -> Refusal | None:
    """C57: a codec that makes numbers where a silo sends none, where these say that its text has the token."""
    blurs = parts.codec.tracks or not all(link.keeps_zeros for link in parts.codec.links)
    if not parts.strategy.local.own_rows or not blurs:
        return None
    return Refusal(
        "C57",
        "the strategy reads from the rows that a silo sends which tokens its text has, and the codec blurs that: it "
        "sends changes of updates, or two bits for a zero too",
        "choose a codec in which zeros stay zeros, such as 'topk(0.05) | int4()' or bfloat16(), or strategy='fedavg()'",
    )


def tracked_updates_are_plain_sums(parts: Parts) -> Refusal | None:
    """C66: changes of updates, where the hub needs the updates themselves, or weighs them anew each round."""
    strategy = parts.strategy
    elsewhere = strategy.local.own_rows or strategy.controls  # C57, C56
    plain = strategy.reduction == "sum" and not strategy.mutates_base
    steady = parts.weights.needs == "counts" and parts.guard.judge is keep_all
    if not parts.codec.tracks or elsewhere or plain and steady:
        return None
    return Refusal(
        "C66",
        "with ef21() the hub sees by how much updates change, and goes on with a mean of which it knows no part",
        "choose strategy='fedavg()', weights='bytes()' and guard='none()', or a codec without ef21()",
    )


def broadcast_leaves_nothing_out(parts: Parts) -> Refusal | None:
    """C64: silos that would begin from an adapter most of which is zero."""
    if not parts.broadcast.feedback:
        return None
    return Refusal(
        "C64",
        "the codec of broadcast= leaves coordinates out, and silos begin from the adapter itself, not from a change",
        "choose broadcast='bfloat16()' or 'int8()'; what silos send back may be sparse",
    )


def broadcast_narrows_last(parts: Parts) -> Refusal | None:
    """C52 again, for the way down."""
    if not any(link.narrows for link in parts.broadcast.links[:-1]):
        return None
    return Refusal(
        "C52",
        "in broadcast= a codec that narrows numbers is followed by another",
        "give one codec, as in broadcast='bfloat16()'",
    )


def products_need_the_same_start(parts: Parts) -> Refusal | None:
    """C65: sums of products that are exact only where hub and silos begin from the same numbers."""
    strategy = parts.strategy
    if broadcast.whole(parts.broadcast) or not (strategy.mutates_base or strategy.passes):
        return None
    return Refusal(
        "C65",
        "the strategy's sum of products is exact only where silos begin from the very numbers that the hub holds",
        "set broadcast='float32()', or choose strategy='flexlora()'",
    )


RULES: Iterable[Callable[[Parts], Refusal | None]] = (
    narrow_codec_must_come_last,
    sparsifier_only_once,
    feedback_needs_a_codec_that_contracts,
    codec_memory_needs_the_same_tensors,
    own_rows_stay_apart,
    tracked_updates_are_plain_sums,
    broadcast_leaves_nothing_out,
    broadcast_narrows_last,
    products_need_the_same_start,
)
