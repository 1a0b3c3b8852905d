"""What a study will send, before anyone has spent time on it.

Bytes follow from the adapter's shapes, the strategy and the codec itself, which encodes a vector of that size here.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
from safetensors.numpy import save

from fl_client import spec
from fl_client.config import Study
from fl_server import config
from fl_server.encoded import encoded
from strategies import adapter as algebra
from strategies import broadcast, product
from strategies import survey as surveys
from strategies.adapter import Layout
from strategies.merged import A, B
from strategies.strategy import Strategy


class Trip(NamedTuple):
    """Bytes of arrays that one silo receives and sends in a round, or in a study."""

    down: int
    up: int


class Leg(NamedTuple):
    """Bytes of one silo's round: down to train, up, down and up in a second pass, down to be scored."""

    start: int
    up: int
    asked: int
    answer: int
    score: int


def trips(
    study: Study, strategy: Strategy, tensors: Layout, silos: int = 1, most: int = 0
) -> list[Trip]:
    """Return what one silo of so many receives and sends in each round, as the report counts it.

    Of a part that is merged into the base, and of what is sent in two passes, the most that it can come to. ``most`` is
    what its line may carry of an update, 0 for no limit; raises ``ValueError`` where the least update is larger.
    """
    each = legs(study, strategy, tensors, silos, most)
    return [Trip(leg.start + leg.asked + leg.score, leg.up + leg.answer) for leg in each]


def legs(
    study: Study, strategy: Strategy, tensors: Layout, silos: int = 1, most: int = 0
) -> list[Leg]:
    """Return the same message by message."""
    shared = {n: s for n, s in tensors.items() if strategy.scope(n) != "silo"}
    shared |= {own: shared[name] for own, name in strategy.beside(shared).items()}
    changed = {n: s for n, s in shared.items() if strategy.changed(n, 1)}
    merged: Layout = {}
    schedule = spec.build(study.schedule, "schedule")
    trained = scored = sent_down(changed, study.broadcast)
    found = []
    for number in range(1, study.rounds + 1):
        sent = {n: s for n, s in shared.items() if strategy.sent(n, number)}
        before = trained
        travel = {n: s for n, s in sent.items() if algebra.part(n) not in strategy.restarts}
        grown = merged_part(strategy, shared, number, silos)
        if travel.keys() - changed.keys() or grown != merged:
            changed, merged = changed | travel, grown
            trained = sent_down(changed | merged, study.broadcast)
            own = {n: s for n, s in changed.items() if n in tensors}
            scored = sent_down(own | merged, study.broadcast)
        # What is trained next goes out at the start of the round, what came of it goes out to be scored.
        score = scored if config.scored(study, schedule, number) else 0
        found.append(Leg(before, *exchanged(study, strategy, sent, silos, most), score))
    return found


def ahead(strategy: Strategy, tensors: Layout) -> Trip:
    """Return what one silo receives and sends before round 1: what a survey found, to score it, and its sketches."""
    if strategy.survey is None:
        return Trip(0, 0)
    shared = {n: s for n, s in tensors.items() if strategy.scope(n) != "silo"}
    found = {n: s for n, s in shared.items() if strategy.changed(n, 1)}
    return Trip(blob(found), blob(surveys.sketched(strategy.survey, shared)))


def exchanged(
    study: Study, strategy: Strategy, sent: Layout, silos: int, most: int = 0
) -> tuple[int, int, int]:
    """Return what a silo sends, is then asked, and answers, if all silos merge; the last two are 0 in one pass."""
    if strategy.passes is None:
        return encoded(algebra.size(sent), study.codec, most), 0, 0
    size = strategy.passes.size([study.model.rank] * silos)
    both = strategy.passes.layouts(sent, size)
    asked = {module + product.B: both[0][module + product.B] for module in product.modules(sent)}
    up, answer = (encoded(algebra.size(own), study.codec, most // 2) if own else 0 for own in both)
    return up, blob(asked) if asked else 0, answer


def merged_part(strategy: Strategy, shared: Layout, rounds: int, silos: int) -> Layout:
    """Return the largest shapes that the merged part can have after so many rounds, by name."""
    found: Layout = {}
    for module in product.modules(shared) if strategy.mutates_base else []:
        (rank, n), (m, _) = shared[module + product.A], shared[module + product.B]
        most = min(rounds * strategy.growth(rank, silos), m, n)
        found |= {module + A: (most, n), module + B: (m, most)} if most else {}
    return found


def once(study: Study, strategy: Strategy, tensors: Layout, silos: int = 1) -> Trip:
    """Return what travels once: each silo receives the released adapter, one silo sends the first one."""
    shared = {n: s for n, s in tensors.items() if strategy.scope(n) != "silo"}
    moved = {n: s for n, s in shared.items() if strategy.changed(n, study.rounds + 1)}
    moved |= merged_part(strategy, shared, study.rounds, silos)
    return Trip(blob(moved) if moved else 0, blob(shared))


def sent_down(shapes: Layout, codec: str) -> int:
    """Return the bytes of tensors of these shapes as silos are sent them; control variates go whole."""
    chain = spec.codec(codec)
    if not shapes or broadcast.whole(chain):
        return blob(shapes) if shapes else 0
    zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    wire = broadcast.encode(algebra.trained(zeros), chain, 0, 1)
    return len(save(wire | algebra.controls(zeros)))


def blob(shapes: Layout) -> int:
    """Return the bytes of a safetensors blob of float32 tensors of these shapes."""
    header, at = {}, 0
    for name in sorted(shapes):
        end = at + 4 * algebra.size({name: shapes[name]})
        header[name] = {"dtype": "F32", "shape": shapes[name], "data_offsets": [at, end]}
        at = end
    written = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-written // 8) * 8 + at
