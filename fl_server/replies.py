"""What silos reply: which updates and scores count, what the record holds of them, and why others do not."""

from __future__ import annotations

import logging
from typing import Any

from fl_client import messages, metrics
from fl_client.messages import Reply
from fl_client.metrics import CANDIDATES
from fl_server.silos import Silo
from strategies import budget
from strategies.accumulate import LIMIT, within
from strategies.adapter import Adapter, Layout, size, unflatten
from strategies.codecs.codec import Chain, Key
from strategies.scope import CODE

LOG = logging.getLogger("bhasha_fl.hub")
MOST = 1e15  # of a number that is told of held-out text or of work: sums of so many are finite, and whole to the byte
MANY = 1 << 20  # more silos than any machine trains at once
Scores = dict[str, dict[str, float]]


class Refused(ValueError):
    """A reply that is not counted, and why: in few words, for they go into the record, and a silo may choose them."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{why:.300}")


def check(
    silo: Silo, reply: Reply, expected: Layout, number: int, codec: Chain, seed: int
) -> Adapter:
    """Return the update of a reply, decoded; raises ``Refused`` on anything but what was asked for."""
    if reply.code:
        raise Refused(messages.CODES[reply.code])
    said: dict[str, Any] = {"silo": silo.name, "round": number}
    if {key: reply.facts.get(key) for key in said} != said:
        raise Refused(
            f"it answers for {reply.facts.get('silo')!r:.100}, round {reply.facts.get('round')!r:.100}"
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
    told = {name: number for name, number in reply.metrics.items() if abs(number) <= MOST}
    ranks = metrics.by_rank(told)
    noted: dict[str, Any] = {"loss": told.get("loss"), "up": reply.bytes, "ranks": ranks}
    noted |= _how(reply.facts)
    if "codec_reset" in reply.metrics:
        lost = "what both sides know of its updates (a residual, control variates)"
        LOG.warning("round %d: %s no longer held %s, and began without", number, silo.name, lost)
        noted["codec_reset"] = True
    behind = told.get("left_behind", -1.0)
    return noted | {"left_behind": behind} if behind >= 0 else noted


def _how(facts: dict[str, Any]) -> dict[str, Any]:
    """Return how a simulated silo says that it trained; what cannot be so, or cannot be written down, is left out."""
    cohort, apart = facts.get("cohort"), facts.get("apart")
    sound = type(cohort) is int and 0 < cohort < MANY
    noted: dict[str, Any] = {"cohort": cohort} if sound else {}
    # What is printable is no half of a letter, which no file in UTF-8 can hold.
    return noted | {"apart": apart[:100]} if type(apart) is str and apart.isprintable() else noted


def chosen(codec: Chain, reply: Reply, expected: Layout) -> dict[str, Any]:
    """Return which share of the numbers a counted reply holds and in how many bits, where silos choose that."""
    if not any(link.choices for link in codec.links):
        return {}
    count = size(expected)
    density, bits = budget.shared(codec.sent(reply.arrays, count), count)
    return {"density": density, "bits": bits}


def scores(reply: Reply, what: str) -> Scores:
    """Return by language what ``what`` reaches on held-out text; raises ``Refused`` where the numbers are no scores.

    A silo may hold out text in a language in which it has none to train on, so it need not have said that it has it.
    """
    if reply.code:
        raise Refused(messages.CODES[reply.code])
    found = metrics.by_language(reply.metrics, what)
    for lang, row in found.items():
        told = all(abs(number) <= MOST for number in row.values())  # NaN is not
        costs = row.get("bits", -1.0) >= 0 and row.get("bytes", 0.0) >= 1
        if not (CODE.fullmatch(lang) and told and costs):
            raise Refused(f"it tells no scores of {what!r} in {lang[:20]!r}: {str(row)[:100]}")
    return found


def final(reply: Reply) -> dict[str, Any]:
    """Return what each candidate of a silo reaches on test text, and which it serves; raises ``Refused``."""
    found: dict[str, Any] = {what: scores(reply, what) for what in CANDIDATES}
    served, rate = (reply.facts.get(key) for key in ("served", "alone_lr"))
    if served not in ([what for what in CANDIDATES if found[what]] or CANDIDATES):
        raise Refused(f"it serves {str(served)[:20]!r}, of which it tells no scores")
    if not (rate is None or type(rate) in (int, float) and abs(rate) <= MOST):
        raise Refused("the learning rate at which it trained alone is no number")
    share = reply.metrics.get("blend_share")
    if not (served != "blend" if share is None else 0 <= share <= 1):
        raise Refused(f"of its blend {share!r} is what all trained")
    return found | {"served": served, "alone_lr": rate, "blend_share": share}


def unheard(asked: list[Silo], notes: dict[str, dict[str, Any]]) -> list[str]:
    """Return in words why the update of each silo that has none is missing: refused, or never sent."""
    why = [f"{name}: {own['refused']}" for name, own in sorted(notes.items()) if "refused" in own]
    silent = sorted({silo.name for silo in asked} - set(notes))
    return why + ([f"no answer from {', '.join(silent)}"] if silent else [])
