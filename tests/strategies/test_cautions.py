"""What a study is told as it begins, and whether it is true."""

from __future__ import annotations

import numpy as np
import pytest

from strategies import cautions
from strategies.codecs.codec import chain
from strategies.combine import Parts, refusals
from strategies.fedavg import fedavg
from strategies.outer.delayed_nesterov import delayed_nesterov
from strategies.outer.mean import mean
from strategies.outer.momentum import momentum
from strategies.outer.nesterov import nesterov
from strategies.weights.uniform import uniform

SILOS, SIZE = 8, 4


def parts(outer, buffered=True):
    return Parts(fedavg(), uniform(), outer, chain([]), buffered=buffered)


HEAVY = {
    "momentum": momentum(),
    "nesterov": nesterov(),
    "delayed by nothing": delayed_nesterov(every=1),
}
LIGHT = {
    "mean": mean(),
    "delayed": delayed_nesterov(),
    "no momentum": momentum(momentum=0.0),
    "delayed by nothing, no momentum": delayed_nesterov(momentum=0.0, every=1),
}


@pytest.mark.parametrize("outer", HEAVY.values(), ids=HEAVY.keys())
def test_momentum_over_a_buffer_is_no_refusal_but_a_caution_with_a_way_out(outer):
    assert refusals(parts(outer)) == []
    (said,) = cautions.cautions(parts(outer))
    assert "[C31]; choose outer='delayed_nesterov()'" in said
    assert cautions.cautions(parts(outer, buffered=False)) == []


@pytest.mark.parametrize("outer", LIGHT.values(), ids=LIGHT.keys())
def test_what_the_caution_advises_and_what_has_no_momentum_needs_none(outer):
    assert cautions.cautions(parts(outer)) == []


def furthest(outer, commits=100):
    """Return how far from the best an adapter was, at most, in the later half of a buffered study.

    Silos go half-way to targets of their own, one answers after the other, and four updates make a commit.
    """
    targets = np.random.default_rng(1).normal(0, 1, (SILOS, 50)).astype(np.float32)
    adapter = {"x": np.full(50, 3, np.float32)}
    memory, starts, far = outer.init(adapter), [adapter["x"]] * SILOS, []
    for commit in range(commits):
        who = [(SIZE * commit + k) % SILOS for k in range(SIZE)]
        change = sum((targets[k] - starts[k]) / 2 for k in who) / SILOS
        adapter, memory = outer.step(adapter, {"x": change}, memory)
        starts = [adapter["x"] if k in who else start for k, start in enumerate(starts)]
        far.append(float(np.abs(adapter["x"] - targets.mean(0)).mean()))
    return max(far[commits // 2 :])


def test_over_a_buffer_momentum_runs_away_or_strays_where_delayed_momentum_arrives():
    arrived = furthest(delayed_nesterov())
    assert max(arrived, furthest(mean())) < 0.1
    assert furthest(nesterov()) > 5 * arrived
    assert furthest(momentum()) > 100
