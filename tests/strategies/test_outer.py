"""F15: every outer optimizer against another's: FedAvg, Torch's SGD, Flower's FedOpt family."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvgM, FedYogi

from strategies import accumulate
from strategies.adapter import layout
from strategies.codecs.codec import chain
from strategies.combine import Parts, refusals
from strategies.fedavg import fedavg
from strategies.outer.adagrad import adagrad
from strategies.outer.adam import adam
from strategies.outer.delayed_nesterov import delayed_nesterov
from strategies.outer.mean import mean
from strategies.outer.momentum import momentum
from strategies.outer.nesterov import nesterov
from strategies.outer.yogi import yogi
from strategies.weights.uniform import uniform

ROUNDS = 7
NAMES = ("x.lora_A.weight", "x.lora_B.weight")


def tensors(seed, scale=0.3):
    draw = np.random.default_rng(seed)
    return {name: draw.normal(0, scale, (3, 4)) for name in NAMES}


def run(outer, adapter, deltas):
    """Yield the adapter after each round."""
    memory = outer.init(adapter)
    for delta in deltas:
        adapter, memory = outer.step(adapter, delta, memory)
        yield adapter


def deltas():
    found = [tensors(seed, 10.0 ** (seed % 3 - 2)) for seed in range(1, ROUNDS + 1)]
    found[3] = {name: np.zeros_like(x) for name, x in found[3].items()}
    return found


def test_mean_at_rate_one_is_fedavg_of_the_models():
    start = {n: x.astype(np.float32) for n, x in tensors(0).items()}
    models, weights = [tensors(k) for k in (1, 2, 3)], [1.0, 0.5, 0.2]
    running = accumulate.empty(layout(start))
    for model, weight in zip(models, weights, strict=True):
        update = {n: (model[n] - start[n]).astype(np.float32) for n in start}
        running = accumulate.add(running, update, weight)
    (merged,) = run(mean(), start, [accumulate.mean(running)])
    for name in NAMES:
        slow = np.average([m[name] for m in models], axis=0, weights=weights)
        np.testing.assert_allclose(merged[name], slow, rtol=1e-6, atol=1e-7)


def test_mean_moves_by_its_rate_times_the_update():
    (moved,) = run(mean(lr=0.25), tensors(0), [tensors(1)])
    for name, x in moved.items():
        np.testing.assert_allclose(x, tensors(0)[name] + 0.25 * tensors(1)[name])


@pytest.mark.parametrize("lr", [1.0, 0.7])
@pytest.mark.parametrize("mu", [0.5, 0.9])
@pytest.mark.parametrize(("ours", "looks_ahead"), [(momentum, False), (nesterov, True)])
def test_momentum_is_torchs_sgd_on_the_update_with_its_sign_turned(ours, looks_ahead, lr, mu):
    theirs = {n: torch.nn.Parameter(torch.from_numpy(x.copy())) for n, x in tensors(0).items()}
    sgd = torch.optim.SGD(theirs.values(), lr=lr, momentum=mu, nesterov=looks_ahead)
    for delta, moved in zip(deltas(), run(ours(lr, mu), tensors(0), deltas()), strict=True):
        for name, parameter in theirs.items():
            parameter.grad = -torch.from_numpy(delta[name])
        sgd.step()
        for name, parameter in theirs.items():
            np.testing.assert_allclose(moved[name], parameter.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("ours", [momentum, nesterov])
def test_without_momentum_both_are_plain_averaging(ours):
    pairs = zip(
        run(ours(0.5, 0.0), tensors(0), deltas()),
        run(mean(0.5), tensors(0), deltas()),
        strict=True,
    )
    for moved, plain in pairs:
        for name in NAMES:
            np.testing.assert_allclose(moved[name], plain[name], rtol=1e-12)


def record(adapter):
    return ArrayRecord({name: Array(x) for name, x in adapter.items()})


def reply(adapter, examples):
    metrics = MetricRecord({"num-examples": examples})
    content = RecordDict({"arrays": record(adapter), "metrics": metrics})
    return SimpleNamespace(content=content, has_error=lambda: False, has_content=lambda: True)


def flower(strategy, adapter):
    """Yield Flower's own adapter after each round; two silos answer around the mean update."""
    apart = tensors(99)
    for number, delta in enumerate(deltas(), 1):
        if isinstance(strategy, FedAvgM):
            strategy.current_arrays = record(adapter)
        else:
            strategy.current_arrays = adapter
        models = [{n: x + delta[n] + s * apart[n] for n, x in adapter.items()} for s in (1, -1)]
        merged, _ = strategy.aggregate_train(number, [reply(m, 5) for m in models])
        adapter = {name: array.numpy() for name, array in merged.items()}
        yield adapter


FLOWER = {
    "adam": (adam(0.02, 0.8, 0.95, 1e-2), FedAdam(eta=0.02, beta_1=0.8, beta_2=0.95, tau=1e-2)),
    "yogi": (yogi(0.02, 0.8, 0.95, 1e-2), FedYogi(eta=0.02, beta_1=0.8, beta_2=0.95, tau=1e-2)),
    "adagrad": (adagrad(0.02, tau=1e-2), FedAdagrad(eta=0.02, tau=1e-2)),
    "adam as given": (adam(), FedAdam(eta=0.01)),
    "yogi as given": (yogi(), FedYogi(eta=0.01)),
    "adagrad as given": (adagrad(), FedAdagrad(eta=0.01)),
    "momentum": (momentum(0.5, 0.8), FedAvgM(server_learning_rate=0.5, server_momentum=0.8)),
}


@pytest.mark.parametrize(("ours", "theirs"), FLOWER.values(), ids=FLOWER.keys())
def test_an_outer_optimizer_is_flowers_on_the_same_replies(ours, theirs):
    pairs = zip(run(ours, tensors(0), deltas()), flower(theirs, tensors(0)), strict=True)
    for mine, flowers in pairs:
        for name in NAMES:
            np.testing.assert_allclose(mine[name], flowers[name], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("every", [1, 2, 5])
def test_delayed_nesterov_is_one_step_of_nesterov_over_so_many_commits(every):
    """F18: whatever comes in a window, after it the adapter and its momentum are those of one step on its sum."""
    slow, whole = delayed_nesterov(0.5, 0.8, every), nesterov(0.5, 0.8)
    ours, theirs = tensors(0), tensors(0)
    held, kept = slow.init(ours), whole.init(theirs)
    for window in range(3):
        came = [tensors(10 * window + k, 0.1) for k in range(1, every + 1)]
        for delta in came:
            ours, held = slow.step(ours, delta, held)
        sum_of = {n: sum(delta[n] for delta in came) for n in NAMES}
        theirs, kept = whole.step(theirs, sum_of, kept)
        for name in NAMES:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-9)
            np.testing.assert_allclose(
                held[f"momentum/{name}"], kept[f"momentum/{name}"], rtol=1e-9
            )


def test_delayed_nesterov_moves_by_a_commit_before_momentum_does():
    ours, delta = tensors(0), tensors(1)
    slow = delayed_nesterov(0.5, 0.8, 4)
    moved, held = slow.step(ours, delta, slow.init(ours))
    for name in NAMES:
        np.testing.assert_allclose(moved[name], ours[name] + 0.5 * delta[name])
        assert not held[f"momentum/{name}"].any()


@pytest.mark.parametrize("factory", [adam, yogi, adagrad])
def test_a_tensor_that_rests_every_second_round_steps_as_if_there_were_no_such_rounds(factory):
    made, (resting, other) = factory(), NAMES
    straight = list(
        run(made, {resting: tensors(0)[resting]}, [{resting: d[resting]} for d in deltas()])
    )
    adapter, memory = tensors(0), made.init(tensors(0))
    for delta, wanted in zip(deltas(), straight, strict=True):
        for name in (resting, other):  # one a round, in turn
            moved, kept = made.step({name: adapter[name]}, {name: delta[name]}, memory)
            adapter, memory = adapter | moved, memory | kept
        assert adapter[resting].tobytes() == wanted[resting].tobytes()


def test_a_study_whose_steps_were_counted_together_goes_on_from_that_count():
    made, found = adam(), []
    adapter, memory = tensors(0), made.init(tensors(0))
    for delta in deltas()[:3]:
        adapter, memory = made.step(adapter, delta, memory)
    old = {key: x for key, x in memory.items() if not key.startswith("count")}
    old["count"] = np.full(1, 3, np.int64)
    for held in (memory, old):
        ours = adapter
        for delta in deltas()[3:]:
            moved, kept = made.step(ours, delta, held)
            ours, held = moved, held | kept
        found.append(ours)
    assert all(found[0][n].tobytes() == found[1][n].tobytes() for n in NAMES)
    assert any(np.any(found[0][n] != adapter[n]) for n in NAMES)


@pytest.mark.parametrize(
    ("factory", "field", "value"),
    [
        (momentum, "momentum", 1.0),
        (nesterov, "momentum", -0.1),
        (delayed_nesterov, "momentum", 1.0),
        (delayed_nesterov, "every", 0),
        (adam, "beta1", 1.0),
        (adam, "beta2", 1.0),
        (adam, "tau", 0.0),
        (yogi, "beta1", float("nan")),
        (yogi, "beta2", -0.5),
        (adagrad, "beta1", 1.5),
        (adagrad, "tau", -1.0),
    ],
)
def test_a_setting_out_of_its_range_is_refused_by_name(factory, field, value):
    with pytest.raises(ValueError, match=f"{field}={value}"):
        factory(**{field: value})


@pytest.mark.parametrize(
    ("made", "keeps"),
    [
        (adam(), False),
        (yogi(), False),
        (adagrad(), False),
        (mean(0.5), True),
        (momentum(), True),
        (nesterov(), True),
        (delayed_nesterov(), True),
    ],
)
def test_an_optimizer_under_which_a_share_of_a_step_is_no_share_is_refused_in_a_buffer(made, keeps):
    def way(share):
        moved = list(
            run(made, tensors(0), [{n: share * x for n, x in d.items()} for d in deltas()])
        )
        return np.abs(moved[-1][NAMES[0]] - tensors(0)[NAMES[0]]).mean()

    ratio = way(0.2) / way(1.0)
    assert ratio == pytest.approx(0.2) if keeps else ratio > 0.5
    parts = Parts(fedavg(), uniform(), made, chain([]), buffered=True)
    assert bool(refusals(parts)) != keeps
