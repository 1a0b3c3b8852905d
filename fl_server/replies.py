"""What silos reply to training: which update counts, what the record holds of it, and why others do not."""

from __future__ import annotations

import logging
import math
from typing import Any

from fl_client import messages, metrics
from fl_client.messages import Reply
from fl_server.silos import Silo
from strategies import budget
from strategies.accumulate import LIMIT, within
from strategies.adapter import Adapter, Layout, size, unflatten
from strategies.codecs.codec import Chain, Key

LOG = logging.getLogger("bhasha_fl.hub")
HOW = (("cohort", int), ("apart", str))  # how a simulated silo trained


class Refused(ValueError):
    """A reply that is not counted, and why."""


def check(
    silo: Silo, reply: Reply, expected: Layout, number: int, codec: Chain, seed: int
) -> Adapter:
    """Return the update of a reply, decoded; raises ``Refused`` on anything but what was asked for."""
    if reply.code:
        raise Refused(messages.CODES[reply.code])
    said: dict[str, Any] = {"silo": silo.name, "round": number}
    if {key: reply.facts.get(key) for key in said} != said:
        raise Refused(
            f"it answers for {reply.facts.get('silo')!r}, round {reply.facts.get('round')!r}"
        )
    try:
        vector = codec.read(reply.arrays, size(expected), Key(seed, number, silo.name))
    except ValueError as error:
        raise Refused(str(error)) from error
    if not within(vector):
        raise Refused(f"it holds NaN or a number beyond {LIMIT:g}")
    return unflatten(vector, expected)


def note(silo: Silo, reply: Reply, number: int) -> dict[str, Any]:
    """Return what a round's record holds of a reply that was counted."""
    ranks = metrics.by_rank(reply.metrics)
    noted: dict[str, Any] = {"loss": reply.metrics.get("loss"), "up": reply.bytes, "ranks": ranks}
    noted |= {key: said for key, kind in HOW if type(said := reply.facts.get(key)) is kind}
    if "codec_reset" in reply.metrics:
        LOG.warning("round %d: the codec of %s began without a residual", number, silo.name)
        noted["codec_reset"] = True
    behind = reply.metrics.get("left_behind", math.nan)
    return noted | {"left_behind": behind} if behind >= 0 else noted


def chosen(codec: Chain, reply: Reply, expected: Layout) -> dict[str, Any]:
    """Return which share of the numbers a counted reply holds and in how many bits, where silos choose that."""
    if not any(link.choices for link in codec.links):
        return {}
    count = size(expected)
    density, bits = budget.shared(codec.sent(reply.arrays, count), count)
    return {"density": density, "bits": bits}


def unheard(asked: list[Silo], notes: dict[str, dict[str, Any]]) -> list[str]:
    """Return in words why the update of each silo that has none is missing: refused, or never sent."""
    why = [f"{name}: {own['refused']}" for name, own in sorted(notes.items()) if "refused" in own]
    silent = sorted({silo.name for silo in asked} - set(notes))
    return why + ([f"no answer from {', '.join(silent)}"] if silent else [])
