"""SCAFFOLD on quadratics, where the optimum is known (F16): the strategy's own functions over the hub's own merge."""

from __future__ import annotations

import numpy as np
import pytest

from fl_server import cohort as cohorts
from fl_server import controls, merge
from fl_server.journal import State
from fl_server.silos import Silo
from strategies.adapter import CONTROL, flatten, layout, trained, unflatten
from strategies.codecs.bfloat16 import bfloat16
from strategies.codecs.codec import Key, chain
from strategies.codecs.int4 import int4
from strategies.codecs.int8 import int8
from strategies.combine import Parts
from strategies.fedavg import fedavg
from strategies.outer.mean import mean
from strategies.scaffold import OWN, scaffold
from strategies.strategy import Local
from strategies.weights.uniform import uniform
from strategies.weights.weight import Counts

NAME = "q.lora_A.weight"
KEY = Key(7, 1, "s")
RATES = [0.1, 0.08, 0.06, 0.04, 0.02]  # of a round's steps; 20 of one rate would do as well
DRAW = np.random.default_rng(3)
CURVES = {f"s{k}": DRAW.uniform(0.2, 6, (2, 3)) for k in range(4)}
OPTIMA = {silo: DRAW.normal(0, 2, (2, 3)) for silo in CURVES}
START = {NAME: np.zeros((2, 3), np.float32)}


def silo_round(local: Local, silo, received, memory, codec=None):
    """Train one silo by gradient descent as the strategy corrects it; return what arrives and what it remembers."""
    anchor = received[NAME].astype(np.float64)
    memory = memory or local.init(START)
    memory = memory | {n: x for n, x in received.items() if n.endswith(CONTROL)}
    memory = memory | {"rates": np.array([sum(RATES)])}
    weight = anchor.copy()
    for rate in RATES:
        gradient = CURVES[silo] * (weight - OPTIMA[silo])
        weight = weight - rate * local.step(NAME, gradient, weight, anchor, memory)
    sent = local.finish({NAME: weight - anchor}, memory)
    if codec is not None:
        vector = codec.encode(flatten(sent), codec.init(0), KEY)[0]
        sent = unflatten(codec.decode(vector, 2 * weight.size, KEY), layout(sent))
    return sent, local.heard(memory, sent)


def federate(strategy, rounds, weights=None, silent=(), codec=None):
    """Return the group's tensors and each silo's memory after some rounds; ``silent`` holds (round, silo) pairs."""
    weights = weights or dict.fromkeys(CURVES, 1.0)
    parts = Parts(strategy, uniform(), mean(), chain([]))
    silos = [Silo(k, name, {"as": Counts(1, 1, 1, 1)}, "") for k, name in enumerate(CURVES)]
    start = controls.beside(strategy, START)
    cohort = cohorts.gather(silos, strategy, sorted(start))
    state = State(0, cohorts.start(cohort, start), {"everyone": {}}, {"everyone": {}})
    memories = dict.fromkeys(CURVES, {})
    for number in range(1, rounds + 1):
        arrived = merge.empty(parts, state)
        for silo in silos:
            own, groups = weights[silo.name], cohort.groups[silo.name]
            if (number, silo.name) in silent:
                arrived = merge.absent(arrived, groups, own)
                continue
            received = cohorts.adapter_of(cohort, silo, state.adapter, strategy)
            sent, memories[silo.name] = silo_round(
                strategy.local, silo.name, received, memories[silo.name], codec
            )
            arrived = merge.add(arrived, parts, groups, silo.name, own, sent)
        state, _ = merge.close(arrived, parts, state)
    return state.adapter["everyone"], memories


def optimum(weights=None):
    share = weights or dict.fromkeys(CURVES, 1.0)
    pull = sum(share[s] * CURVES[s] * OPTIMA[s] for s in CURVES)
    return pull / sum(share[s] * CURVES[s] for s in CURVES)


def test_silos_that_differ_reach_the_common_optimum_where_fedavg_keeps_a_bias():
    corrected, _ = federate(scaffold(), 150)
    plain, _ = federate(fedavg(), 150)
    np.testing.assert_allclose(corrected[NAME], optimum(), atol=1e-4)
    assert np.abs(plain[NAME] - optimum()).max() > 0.1


@pytest.mark.parametrize("link", [bfloat16, int8, int4])
def test_a_codec_that_rounds_leads_nowhere_else(link):
    """What is rounded away is neither in everyone's control variate nor in a silo's own."""
    corrected, memories = federate(scaffold(), 150, codec=chain([link()]))
    np.testing.assert_allclose(corrected[NAME], optimum(), atol=1e-4)
    owns = [memory[NAME + OWN] for memory in memories.values()]
    np.testing.assert_allclose(corrected[NAME + CONTROL], np.mean(owns, axis=0), atol=1e-6)


def test_the_common_optimum_is_that_of_the_studys_weights():
    weights = dict(zip(CURVES, (1.0, 0.5, 0.25, 0.1), strict=True))
    corrected, _ = federate(scaffold(), 250, weights)
    np.testing.assert_allclose(corrected[NAME], optimum(weights), atol=1e-3)
    assert np.abs(optimum(weights) - optimum()).max() > 0.1


@pytest.mark.parametrize("silent", [(), ((2, "s1"), (3, "s0"), (3, "s3"), (4, "s1"))])
def test_everyones_control_variate_is_the_mean_of_all_silos_own_whoever_answered(silent):
    held, memories = federate(scaffold(), 5, silent=silent)
    owns = [memory[NAME + OWN] for memory in memories.values()]
    assert np.abs(np.mean(owns, axis=0)).max() > 0.01
    np.testing.assert_allclose(held[NAME + CONTROL], np.mean(owns, axis=0), atol=1e-6)


def test_a_silos_control_variate_is_its_mean_gradient_weighted_by_the_rates():
    local, received = scaffold().local, START | {NAME + CONTROL: np.full((2, 3), 0.5)}
    memory = local.init(START) | {NAME + OWN: DRAW.normal(size=(2, 3))}
    weight, seen = np.zeros((2, 3)), []
    told = memory | {NAME + CONTROL: received[NAME + CONTROL]}
    for rate in RATES:
        seen.append(CURVES["s0"] * (weight - OPTIMA["s0"]))
        weight = weight - rate * local.step(NAME, seen[-1], weight, START[NAME], told)
    _, after = silo_round(local, "s0", received, memory)
    slow = np.average(seen, axis=0, weights=RATES)
    np.testing.assert_allclose(after[NAME + OWN], slow, rtol=1e-9)


def test_of_token_rows_the_sum_of_the_rates_is_their_own():
    local, rows = scaffold().local, "embed.trainable_tokens_delta"
    start = {NAME: np.zeros((2, 3)), rows: np.zeros((2, 3))}
    memory = local.init(start) | {n + CONTROL: np.zeros((2, 3)) for n in start}
    moved = {n: np.full((2, 3), -0.5) for n in start}
    held = memory | {"rates": np.array([0.5, 0.1])}
    after = local.heard(held, local.finish(moved, held))
    assert np.all(after[NAME + OWN] == 1) and np.all(after[rows + OWN] == 5)


def test_in_the_first_round_nothing_is_corrected():
    first, _ = federate(scaffold(), 1)
    np.testing.assert_array_equal(trained(first)[NAME], federate(fedavg(), 1)[0][NAME])


def test_a_private_tensor_is_trained_as_it_is():
    local, gradient = scaffold(private=2).local, np.float32([[1, 2]])
    memory = local.init(START)
    assert local.step("q.lora_A.private", gradient, gradient, gradient, memory) is gradient


def test_all_but_the_silo_half_and_the_declaration_is_fedavg():
    made = scaffold(lora="family", rows="silo", private=3)
    assert made._replace(local=Local(), controls=False) == fedavg("family", "silo", private=3)
    assert made.beside([NAME]) == {NAME + CONTROL: NAME} and fedavg().beside([NAME]) == {}
