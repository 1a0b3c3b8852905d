"""Every choice with every other: refused with a code, a reason and an alternative, or it runs as the hub runs it.

Refusals are walked over the full product, and where two codecs follow one another, over every such pair with every
strategy and guard, weights and optimizers taking turns. Two rounds are run for every strategy with every guard and
codec, weights and optimizers taking turns; with every weight and every optimizer too, codecs one by one, in the slow
tests.
"""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from fl_client import spec
from fl_server import broadcast, merge, passes
from fl_server import cohort as cohorts
from fl_server.journal import State
from fl_server.silos import Silo
from strategies.adapter import add, flatten, initial, layout, part, pick, size, unflatten
from strategies.codecs.codec import Key, chain
from strategies.combine import Cohort, Parts, refusals
from strategies.ffa import ffa
from strategies.outer.mean import mean
from strategies.weights.uniform import uniform
from strategies.weights.weight import Counts, total

A, B = "q.lora_A.weight", "q.lora_B.weight"
CORE = "q.lora_B.core"
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


def start_of(strategy):
    """Return the adapter that a study of this strategy begins with."""
    start = START | ({CORE: initial(CORE, (2, 2), 1)} if strategy.domain == "core" else {})
    return strategy.survey.found({}, start, "1") if strategy.survey else start


def travelled(parts, sent, number, feedback):
    """Return what silos send, by silo, as it is when it has travelled."""
    arrived = {}
    for silo, update in sent.items():
        shapes, key = layout(update), Key(1, number, silo)
        memory = feedback.get(silo, parts.codec.init(size(shapes)))
        wire, feedback[silo] = parts.codec.encode(flatten(update), memory, key)
        arrived[silo] = unflatten(parts.codec.decode(wire, size(shapes), key), shapes)
    return arrived


def updates(start, names, number):
    """Return what each silo's training changed."""
    shapes = layout({n: start[n] for n in names})
    draws = {silo.name: np.random.default_rng([number, silo.node]) for silo in SILOS}
    return {
        silo: {n: draw.normal(0, 0.1, s).astype(np.float32) for n, s in shapes.items()}
        for silo, draw in draws.items()
    }


def in_two_passes(parts, cohort, state, sent, weights, columns):
    """Return what comes of what silos changed where they are asked twice."""
    two, number, feedback = parts.strategy.passes, state.round + 1, {}
    starts = {
        silo.name: pick(cohorts.adapter_of(cohort, silo, state.adapter, parts.strategy), SHAPES)
        for silo in SILOS
    }
    held = {silo: two.held(starts[silo], update) for silo, update in sent.items()}
    first = {
        silo: pick(x, [TOKENS]) | two.first(held[silo], columns, "k") for silo, x in sent.items()
    }
    first = travelled(parts, first, number, feedback)
    begun = {silo: two.first(start, columns, "k") for silo, start in starts.items()}
    sketches = {silo: add(pick(first[silo], begun[silo]), begun[silo]) for silo in first}
    asked = passes.bases(two, cohort, sketches, weights)
    second = {silo: two.second(held[silo], asked[silo]) for silo in held}
    second = travelled(parts, second, number, feedback)
    return {
        silo: first[silo] | asked[silo] | add(answer, two.second(starts[silo], asked[silo]))
        for silo, answer in second.items()
    }


def two_rounds(parts):
    """Run two rounds with the hub's own merge; return what a silo then holds and what was sent at all."""
    start = start_of(parts.strategy)
    cohort = cohorts.gather(SILOS, parts.strategy, sorted(start))
    groups = cohorts.renewed(cohorts.start(cohort, start), parts.strategy, 1, 1)
    outer = {g: parts.outer.init(a) for g, a in groups.items()}
    state = State(0, groups, outer, {g: parts.strategy.init(a) for g, a in groups.items()})
    raw = {silo.name: parts.weights.of(total(silo.counts)) for silo in SILOS}
    weights = {silo: weight / max(raw.values()) for silo, weight in raw.items()}
    columns = cohorts.sketch(cohort, parts.strategy, {silo.name: 2 for silo in SILOS}, len(SILOS))
    feedback, sent = {}, set()
    for number in (1, 2):
        names = [n for n in sorted(start) if parts.strategy.sent(n, number)]
        merged = merge.empty(parts, state, columns)
        came = updates(start, names, number)
        if parts.strategy.passes:
            came = in_two_passes(parts, cohort, state, came, weights, columns)
        else:
            came = travelled(parts, came, number, feedback)
        for silo, update in came.items():
            merged = merge.add(merged, parts, cohort.groups[silo], silo, weights[silo], update)
        if parts.buffered:  # of a silo that is in this commit already, and late
            groups, late = cohort.groups["s1"], weights["s1"] * 0.5
            merged = merge.add(merged, parts, groups, "s1", late, updates(start, names, 9)["s1"])
        state, _ = merge.close(merged, parts, state)
        renewed = cohorts.renewed(state.adapter, parts.strategy, 1, number + 1)
        state = state._replace(adapter=renewed)
        sent |= set(names)
    held = broadcast.groups(parts.strategy, state)
    return cohorts.adapter_of(cohort, SILOS[0], held, parts.strategy), sent


def runs(parts):
    held, sent = two_rounds(parts)
    shapes = layout(start_of(parts.strategy))
    merged = {name: held.pop(name) for name in list(held) if part(name) == "merged"}
    for name, x in (held | merged).items():
        assert (x.shape, x.dtype) == (shapes.get(name, x.shape), np.dtype(np.float32))
        assert np.isfinite(x).all()
    start = parts.strategy.renewed(start_of(parts.strategy), 1, 3)
    moved = {name for name, x in held.items() if np.any(x != start[name])}
    again = {name for name in sent if part(name) in parts.strategy.restarts}
    assert sent and moved <= sent - again
    # of tensors as small as these randk(0.05) sends one number, which may move no product
    assert moved == sent - again or parts.codec.feedback
    if parts.strategy.restarts:
        assert (merged[B_MERGED] @ merged[A_MERGED]).any()


def test_every_refusal_of_the_full_product_has_a_code_a_reason_and_an_alternative():
    refused, works, seen = 0, 0, set()
    turns = itertools.cycle(itertools.product(WEIGHTS, OUTERS))
    chains = [chain(links) for links in CHAINS[len(CODECS) :]]
    pairs = ((s, *next(turns), g, c) for s, g, c in itertools.product(STRATEGIES, GUARDS, chains))
    links = [chain([link]) for link in CODECS]
    singles = itertools.product(STRATEGIES, WEIGHTS, OUTERS, GUARDS, links)
    for strategy, weights, outer, guard, codec in itertools.chain(singles, pairs):
        found = refusals(Parts(strategy, weights, outer, codec, guard), COHORT)
        seen.update(found)
        refused, works = refused + bool(found), works + (not found)
    for strategy, weights, outer, guard, link in itertools.product(
        STRATEGIES, WEIGHTS, OUTERS, GUARDS, CODECS
    ):
        parts = Parts(strategy, weights, outer, chain([link]), guard, buffered=True)
        seen.update(refusals(parts, COHORT))
    assert {"C30", "C31", "C34", "C35", "C48", "C49"} <= {refusal.code for refusal in seen}
    assert refused > 1000 and works > 1000
    for refusal in seen:
        assert re.fullmatch(r"C\d\d", refusal.code)
        assert len(refusal.reason.split()) > 4 and len(refusal.instead.split()) > 4


def test_what_is_not_refused_runs_for_two_rounds(strategy):
    walked(strategy())


def test_what_is_not_refused_in_a_buffer_adds_late_updates_and_one_silo_twice(strategy):
    turns, ran = itertools.cycle(itertools.product(WEIGHTS, CODECS)), 0
    for outer, _ in itertools.product(OUTERS, WEIGHTS):
        weights, link = next(turns)
        parts = Parts(strategy(), weights, outer, chain([link]), buffered=True)
        if not refusals(parts, COHORT):
            runs(parts)
            ran += 1
    adds = not refusals(Parts(strategy(), uniform(), mean(), chain([]), buffered=True), COHORT)
    assert bool(ran) == adds


@pytest.mark.parametrize("init", ["orthonormal", "gradsketch"])
def test_what_is_not_refused_runs_from_every_start_of_ffa(init):
    walked(ffa(init=init))


def walked(method):
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
