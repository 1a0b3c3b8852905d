"""Merging as the hub does it, over silos that are a line of NumPy each."""

from __future__ import annotations

import numpy as np
import pytest

from fl_server import cohort as cohorts
from fl_server import merge
from fl_server.journal import State
from fl_server.silos import Silo
from strategies.adapter import flatten
from strategies.codecs.codec import chain
from strategies.combine import Parts
from strategies.fedavg import fedavg
from strategies.outer.adam import adam
from strategies.outer.mean import mean
from strategies.partial_pool import partial_pool
from strategies.weights.uniform import uniform
from strategies.weights.weight import Counts

A, B = "q.lora_A.weight", "q.lora_B.weight"
ROWS = "e.trainable_tokens_delta"
SHAPES = {A: (2, 5), B: (4, 2), ROWS: (3, 4)}
KIN = ("as", "bn", "hi", "ne")
STRANGERS = ("as", "ta", "sat", "brx")
WEIGHTS = (1.0, 0.37, 0.9, 0.011)


def start():
    draw = np.random.default_rng(0)
    return {n: draw.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}


def trained(adapter, silo):
    """Return a silo's change, which depends on every bit of what it received."""
    draw = np.random.default_rng(silo)
    return {
        n: np.sin(3 * x + draw.normal(size=x.shape)).astype(np.float32) for n, x in adapter.items()
    }


def run(strategy, languages, rounds=3, outer=None):
    """Return what each silo holds after some rounds, as the hub's own parts make it."""
    parts = Parts(strategy, uniform(), outer or mean(), chain([]))
    silos = [Silo(i, f"s{i}", {lang: Counts(1, 1, 1, 1)}, "") for i, lang in enumerate(languages)]
    cohort = cohorts.gather(silos, strategy, sorted(SHAPES))
    groups = cohorts.start(cohort, start())
    state = State(
        0, groups, {g: parts.outer.init(a) for g, a in groups.items()}, {g: {} for g in groups}
    )
    for _ in range(rounds):
        merged = merge.empty(parts, state)
        for silo, weight in zip(silos, WEIGHTS, strict=True):
            update = trained(cohorts.adapter_of(cohort, silo, state.adapter, strategy), silo.node)
            merged = merge.add(merged, parts, cohort.groups[silo.name], silo.name, weight, update)
        state = merge.close(merged, parts, state)
    held = [cohorts.adapter_of(cohort, silo, state.adapter, strategy) for silo in silos]
    return [flatten(adapter).tobytes() for adapter in held]


@pytest.mark.parametrize("outer", [mean(), adam()])
def test_no_pooling_is_everyones_run_to_the_last_bit(outer):
    everyone = run(fedavg("everyone"), STRANGERS, outer=outer)
    assert run(partial_pool(0.0), STRANGERS, outer=outer) == everyone


@pytest.mark.parametrize("outer", [mean(), adam()])
@pytest.mark.parametrize("pool", [0.0, 0.3, 0.5, 0.77, 1.0])
def test_one_family_is_everyones_run_to_the_last_bit(pool, outer):
    everyone = run(fedavg("everyone"), KIN, outer=outer)
    assert run(partial_pool(pool), KIN, outer=outer) == everyone


@pytest.mark.parametrize("languages", [STRANGERS, ("as", "bn", "ta", "te")])
def test_full_pooling_is_each_familys_run_to_the_last_bit(languages):
    families = run(fedavg("family"), languages)
    assert run(partial_pool(1.0), languages) == families
    assert families != run(fedavg("everyone"), languages)


def test_half_pooling_is_neither_and_lies_half_way_after_one_round():
    languages = ("as", "bn", "ta", "te")
    wide, narrow, half = (
        [np.frombuffer(x, np.float32) for x in run(made, languages, rounds=1)]
        for made in (fedavg("everyone"), fedavg("family"), partial_pool(0.5))
    )
    for w, n, h in zip(wide, narrow, half, strict=True):
        np.testing.assert_allclose(h, (w + n) / 2, atol=1e-6)
        assert not np.array_equal(h, w) and not np.array_equal(h, n)


@pytest.mark.parametrize("pool", [-0.1, 1.1, float("nan")])
def test_a_share_outside_0_to_1_is_refused(pool):
    with pytest.raises(ValueError, match="pool="):
        partial_pool(pool)


@pytest.mark.parametrize("lora", ["everyone", "silo"])
def test_a_scope_that_leaves_nothing_to_pool_is_refused(lora):
    with pytest.raises(ValueError, match="nothing to pool"):
        partial_pool(lora=lora)
