"""Every choice with every other: refused with a code, a reason and an alternative, or it runs as the hub runs it.

Refusals are walked over the full product. Two rounds are run for every strategy with every guard and codec, weights
and optimizers taking turns; with every weight and every optimizer too, codecs one by one, in the slow tests.
"""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from fl_client import spec
from fl_server import broadcast, merge
from fl_server import cohort as cohorts
from fl_server.journal import State
from fl_server.silos import Silo
from strategies.adapter import flatten, initial, layout, part, size, unflatten
from strategies.codecs.codec import Key, chain
from strategies.combine import Cohort, Parts, refusals
from strategies.weights.weight import Counts, total

A, B = "q.lora_A.weight", "q.lora_B.weight"
A_MERGED, B_MERGED = "q.lora_A.merged", "q.lora_B.merged"
TOKENS = "e.trainable_tokens_delta"
SHAPES = {A: (2, 5), B: (4, 2), TOKENS: (3, 4)}
START = {name: initial(name, shape, 1) for name, shape in SHAPES.items()}
SILOS = [Silo(k, f"s{k}", {"as": Counts(k, 9 * k, 8 * k, 3 * k)}, "") for k in range(1, 8)]
COHORT = Cohort({silo.name: "as" for silo in SILOS}, tuple(SHAPES))
STRATEGIES, GUARDS, OUTERS, WEIGHTS, CODECS = (
    [factory() for factory in spec.factories(kind).values()]
    for kind in ("strategy", "guard", "outer", "weights", "codec")
)
CHAINS = [(link,) for link in CODECS] + list(itertools.permutations(CODECS, 2))


def encoded(parts, names, number, feedback):
    """Return what each silo's update is when it has travelled."""
    shapes = layout({n: START[n] for n in names})
    arrived = {}
    for silo in SILOS:
        draw = np.random.default_rng([number, silo.node])
        update = {n: draw.normal(0, 0.1, s).astype(np.float32) for n, s in shapes.items()}
        memory = feedback.get(silo.name, parts.codec.init(size(shapes)))
        key = Key(1, number, silo.name)
        wire, feedback[silo.name] = parts.codec.encode(flatten(update), memory, key)
        arrived[silo.name] = unflatten(parts.codec.decode(wire, size(shapes), key), shapes)
    return arrived


def two_rounds(parts):
    """Run two rounds with the hub's own merge; return what a silo then holds and what was sent at all."""
    cohort = cohorts.gather(SILOS, parts.strategy, sorted(SHAPES))
    groups = cohorts.renewed(cohorts.start(cohort, START), parts.strategy, 1, 1)
    outer = {g: parts.outer.init(a) for g, a in groups.items()}
    state = State(0, groups, outer, {g: parts.strategy.init(a) for g, a in groups.items()})
    raw = {silo.name: parts.weights.of(total(silo.counts)) for silo in SILOS}
    feedback, sent = {}, set()
    for number in (1, 2):
        names = [n for n in sorted(SHAPES) if parts.strategy.sent(n, number)]
        merged = merge.empty(parts, state)
        for silo, update in encoded(parts, names, number, feedback).items():
            weight = raw[silo] / max(raw.values())
            merged = merge.add(merged, parts, cohort.groups[silo], silo, weight, update)
        state, _ = merge.close(merged, parts, state)
        renewed = cohorts.renewed(state.adapter, parts.strategy, 1, number + 1)
        state = state._replace(adapter=renewed)
        sent |= set(names)
    held = broadcast.groups(parts.strategy, state)
    return cohorts.adapter_of(cohort, SILOS[0], held, parts.strategy), sent


def runs(parts):
    held, sent = two_rounds(parts)
    merged = {name: held.pop(name) for name in list(held) if part(name) == "merged"}
    for name, x in (held | merged).items():
        assert (x.shape, x.dtype) == (SHAPES.get(name, x.shape), np.dtype(np.float32))
        assert np.isfinite(x).all()
    start = parts.strategy.renewed(START, 1, 3)
    moved = {name for name, x in held.items() if np.any(x != start[name])}
    again = {name for name in sent if part(name) in parts.strategy.restarts}
    assert sent and moved <= sent - again
    # of tensors as small as these randk(0.05) sends one number, which may move no product
    assert moved == sent - again or parts.codec.feedback
    if parts.strategy.restarts:
        assert (merged[B_MERGED] @ merged[A_MERGED]).any()


def test_every_refusal_of_the_full_product_has_a_code_a_reason_and_an_alternative():
    refused, works, seen = 0, 0, set()
    for strategy, weights, outer, guard, codec in itertools.product(
        STRATEGIES, WEIGHTS, OUTERS, GUARDS, [chain(links) for links in CHAINS]
    ):
        found = refusals(Parts(strategy, weights, outer, codec, guard), COHORT)
        seen.update(found)
        refused, works = refused + bool(found), works + (not found)
    assert refused > 1000 and works > 1000
    for refusal in seen:
        assert re.fullmatch(r"C\d\d", refusal.code)
        assert len(refusal.reason.split()) > 4 and len(refusal.instead.split()) > 4


def test_what_is_not_refused_runs_for_two_rounds(strategy):
    method = strategy()
    turns, ran = itertools.cycle(itertools.product(WEIGHTS, OUTERS)), 0
    for guard, links in itertools.product(GUARDS, CHAINS):
        parts = Parts(method, *next(turns), chain(links), guard)
        if not refusals(parts, COHORT):
            runs(parts)
            ran += 1
    assert ran


@pytest.mark.slow
def test_what_is_not_refused_runs_with_every_weight_and_every_optimizer(strategy):
    method = strategy()
    for guard, link, weights, outer in itertools.product(GUARDS, CODECS, WEIGHTS, OUTERS):
        links = (link,)
        parts = Parts(method, weights, outer, chain(links), guard)
        if not refusals(parts, COHORT):
            runs(parts)
