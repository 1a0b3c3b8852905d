"""FedProx on quadratics, where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from strategies.fedavg import fedavg
from strategies.fedprox import fedprox

NAME = "x.lora_A.weight"


def descend(strategy, curvature, optimum, anchor, steps=4000, lr=0.05):
    """Minimise curvature/2 (w - optimum)^2 by gradient descent as the strategy corrects it."""
    weight = anchor.copy()
    for _ in range(steps):
        gradient = curvature * (weight - optimum)
        weight = weight - lr * strategy.local.step(NAME, gradient, weight, anchor, {})
    return weight


@pytest.mark.parametrize("mu", [0.0, 0.01, 0.5, 3.0])
def test_a_silo_ends_between_its_optimum_and_the_start_as_the_formula_says(mu):
    curvature, optimum = np.array([0.5, 2.0, 1.0]), np.array([3.0, -1.0, 0.0])
    anchor = np.array([1.0, 1.0, -2.0])
    reached = descend(fedprox(mu=mu), curvature, optimum, anchor)
    expected = (curvature * optimum + mu * anchor) / (curvature + mu)
    np.testing.assert_allclose(reached, expected, rtol=1e-9, atol=1e-12)


def test_a_stronger_pull_keeps_a_silo_nearer_to_the_start():
    optimum, anchor = np.array([3.0]), np.array([1.0])
    away = [abs(descend(fedprox(mu=m), 1.0, optimum, anchor) - anchor)[0] for m in (0, 0.1, 1, 10)]
    assert away == sorted(away, reverse=True)
    assert len({round(a, 6) for a in away}) == 4


def test_at_the_start_of_a_round_nothing_pulls():
    at, gradient = np.float32([1, 2]), np.float32([0.1, -0.2])
    step = fedprox(mu=5.0).local.step
    np.testing.assert_array_equal(step(NAME, gradient, at, at, {}), gradient)


def test_all_but_the_local_step_is_fedavg():
    prox, plain = (
        fedprox(lora="family", rows="silo", private=3),
        fedavg("family", "silo", private=3),
    )
    assert prox.local.step is not plain.local.step
    assert prox._replace(local=plain.local) == plain
    assert prox.local._replace(step=plain.local.step) == plain.local


@pytest.mark.parametrize("mu", [-0.1, float("nan")])
def test_a_pull_away_from_the_start_is_refused(mu):
    with pytest.raises(ValueError, match="mu="):
        fedprox(mu=mu)
