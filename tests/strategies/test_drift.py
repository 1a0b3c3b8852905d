"""Least squares over silos that differ: what merging gains, how the unguarded rest drifts (F4), what A does (F9)."""

from __future__ import annotations

from functools import cache

import numpy as np

from strategies import accumulate, survey
from strategies.adapter import layout
from strategies.fedavg import fedavg
from strategies.fedex import fedex
from strategies.ffa import ffa
from strategies.flora import flora
from strategies.merge_reset import merge_reset
from strategies.strategy import Weighted

A, B = "q.lora_A.weight", "q.lora_B.weight"
A_MERGED, B_MERGED = "q.lora_A.merged", "q.lora_B.merged"
SILOS, SIZE, RANK, STEPS, SCALING, RATE = 8, 24, 4, 10, 2.0, 0.03


@cache
def problem():
    """Return what each silo should learn, half in common and half its own, and the covariance of its inputs."""
    draw = np.random.default_rng(0)

    def of_rank(rank):
        b, a = draw.normal(size=(SIZE, rank)), draw.normal(size=(rank, SIZE))
        return b @ a / np.sqrt(SIZE * rank)

    common = of_rank(6)
    wanted = [common + 1.2 * of_rank(2) for _ in range(SILOS)]
    turns = [np.linalg.qr(draw.normal(size=(SIZE, SIZE)))[0] for _ in range(SILOS)]
    return wanted, [q * np.linspace(0.2, 2, SIZE) @ q.T for q in turns]


def loss(weights):
    wanted, inputs = problem()
    return np.mean(
        [np.sum((weights - d) @ h * (weights - d)) / 2 for d, h in zip(wanted, inputs, strict=True)]
    )


def base(held):
    if B_MERGED not in held:
        return np.zeros((SIZE, SIZE))
    return SCALING * held[B_MERGED].astype(np.float64) @ held[A_MERGED]


def trained(strategy, held, number):
    for wanted, inputs in zip(*problem(), strict=True):
        a, b = held[A].astype(np.float64), held[B].astype(np.float64)
        for _ in range(STEPS):
            slope = SCALING * (base(held) + SCALING * b @ a - wanted) @ inputs
            down = b.T @ slope if strategy.local.trainable(A, number) else 0.0
            b, a = b - RATE * slope @ a.T, a - RATE * down
        yield {A: (a - held[A]).astype(np.float32), B: (b - held[B]).astype(np.float32)}


def begun(strategy, adapter):
    """Return the adapter with what is found in the sum of the silos' sketches, where a strategy asks for them."""
    if strategy.survey is None:
        return adapter
    frame = survey.frame(A, layout(adapter), 0)
    told = [{A: (frame.T @ (-d @ h)).astype(np.float32)} for d, h in zip(*problem(), strict=True)]
    mean = accumulate.mean_of(
        [(1.0, z) for z in told], survey.sketched(strategy.survey, layout(adapter))
    )
    return strategy.survey.found(mean, adapter, "0")


@cache
def excess(strategy_of, rounds=120):
    """Return the loss above the best common weights after so many rounds."""
    strategy, memory = strategy_of(), {}
    adapter = {A: np.zeros((RANK, SIZE), np.float32), B: np.zeros((SIZE, RANK), np.float32)}
    first = np.random.default_rng(1).uniform(-1, 1, (RANK, SIZE)) / np.sqrt(SIZE)
    adapter[A] = first.astype(np.float32)
    adapter = begun(strategy, adapter)
    for number in range(1, rounds + 1):
        adapter = strategy.renewed(adapter, 0, number)
        held = strategy.broadcast(adapter, memory)
        sent = [Weighted(f"s{k}", 1.0, u) for k, u in enumerate(trained(strategy, held, number))]
        if strategy.reduction == "sum":
            sent = accumulate.mean_of([(one.weight, one.update) for one in sent], layout(adapter))
        step, memory = strategy.aggregate(sent, adapter, memory)
        adapter = {name: x + step[name] for name, x in adapter.items()}
        memory = strategy.merge(adapter, memory)
    adapter = strategy.renewed(adapter, 0, rounds + 1)  # a restart takes nothing away
    held = strategy.broadcast(adapter, memory)
    wanted, inputs = problem()
    best = sum(d @ h for d, h in zip(wanted, inputs, strict=True)) @ np.linalg.inv(sum(inputs))
    return loss(base(held) + SCALING * held[B].astype(np.float64) @ held[A]) - loss(best)


def unguarded():
    return fedex(kappa=float("inf"))


def test_the_unguarded_rest_drifts_and_the_guarded_one_stays_below_plain_averaging():
    assert excess(unguarded) > 2 * excess(fedavg)
    assert excess(fedex) <= excess(fedavg)


def test_a_rank_that_grows_with_the_rounds_learns_what_one_adapter_cannot_hold():
    assert excess(merge_reset) < 0.05 * excess(fedavg)
    assert excess(flora) < excess(fedavg)


def chosen():
    return ffa(init="gradsketch")


def test_a_subspace_chosen_from_data_reaches_what_one_by_lot_cannot():
    assert excess(chosen) <= excess(ffa) / 3
