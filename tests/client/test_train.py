"""Training: the same bits twice, the moments carried over, frozen tensors still, a silo held near its anchor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client import model, train
from fl_client.config import Train
from fl_client.train import Plan
from strategies.adapter import norm, part, pick, subtract
from strategies.fedavg import fedavg
from strategies.fedprox import fedprox
from strategies.ffa import ffa
from strategies.strategy import Local
from tasks import encode

quick = settings(deadline=None, derandomize=True, max_examples=60, database=None)
PLAN = Plan(0, 2, 10, 0.01, "7:silo")


@pytest.fixture(autouse=True)
def one_thread():
    """Sum in one order, as a study does by default."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def fit(made, blocks, options, plan=PLAN, state=None, local=None, adapter=None):
    """Train from the start (or ``adapter``); return the adapter, the moments and the loss."""
    if adapter is not None or state is None:
        model.write(made, adapter or {})
    used = train.optimizer(made, state or {})
    hooks = train.Hooks(made, local, 1, {}) if local is not None else None
    loss = train.fit(made, blocks, options, plan, used, hooks)
    return model.read(made), train.moments(used), loss


def equal(left, right) -> bool:
    return left.keys() == right.keys() and all(
        left[n].tobytes() == right[n].tobytes() for n in left
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_twice_from_the_same_state_gives_the_same_bits(dtype, made, blocks, options):
    own = options.model_copy(update={"dtype": dtype})
    first, second = (fit(made, blocks, own) for _ in range(2))
    assert equal(first[0], second[0])
    assert equal(first[1], second[1])
    assert first[2] == second[2] > 0


def test_training_lowers_the_loss(made, blocks, options):
    _, _, first = fit(made, blocks, options, Plan(0, 1, 20, 0.01, "k"))
    trained, _, _ = fit(made, blocks, options, Plan(0, 12, 20, 0.01, "k"))
    _, _, later = fit(made, blocks, options, Plan(0, 1, 20, 0.01, "k"), adapter=trained)
    assert later < first - 0.1


def test_every_tensor_moves_after_two_steps(dual, blocks, options):
    trained, _, _ = fit(dual, blocks, options)
    for name, value in trained.items():
        assert not np.array_equal(value, dual.start[name]), name
        assert np.all(np.isfinite(value))


def test_the_weights_of_the_base_never_move(made, blocks, options):
    frozen = {
        n: p.detach().clone() for n, p in made.model.named_parameters() if not p.requires_grad
    }
    assert frozen
    fit(made, blocks, options)
    now = dict(made.model.named_parameters())
    assert all(torch.equal(now[n], p) for n, p in frozen.items())


def test_ten_steps_are_five_and_five_with_the_moments_carried(made, blocks, options):
    whole, moments, _ = fit(made, blocks, options, Plan(0, 10, 10, 0.01, "k"))
    half, carried, _ = fit(made, blocks, options, Plan(0, 5, 10, 0.01, "k"))
    assert not equal(half, whole)
    rest, last, _ = fit(made, blocks, options, Plan(5, 5, 10, 0.01, "k"), carried, adapter=half)
    assert equal(rest, whole)
    assert equal(last, moments)


def test_without_the_moments_five_and_five_steps_are_other_bits(made, blocks, options):
    whole, _, _ = fit(made, blocks, options, Plan(0, 10, 10, 0.01, "k"))
    half, _, _ = fit(made, blocks, options, Plan(0, 5, 10, 0.01, "k"))
    rest, _, _ = fit(made, blocks, options, Plan(5, 5, 10, 0.01, "k"), adapter=half)
    assert not equal(rest, whole)


def test_moments_come_back_as_the_optimizer_gave_them(made, blocks, options):
    _, moments, _ = fit(made, blocks, options)
    assert len(moments) == 3 * len(made.parameters)
    assert all(name.startswith("optimizer/") for name in moments)
    assert equal(train.moments(train.optimizer(made, moments)), moments)
    assert train.moments(train.optimizer(made, {})) == {}


def test_moments_are_found_among_other_memories(made, blocks, options):
    _, moments, _ = fit(made, blocks, options)
    more = moments | {"residual": np.zeros(3), "private/x": np.zeros(2)}
    assert equal(train.moments(train.optimizer(made, more)), moments)


def test_two_keys_train_in_two_orders(made, blocks, options):
    def order(key):
        return encode.order(0, options.batch_size, len(blocks.ids), key).tolist()

    other = next(key for key in "bcdefgh" if sorted(order(key)) != sorted(order("a")))
    first, second = (Plan(0, 1, 10, 0.01, key) for key in ("a", other))
    assert not equal(fit(made, blocks, options, first)[0], fit(made, blocks, options, second)[0])


@pytest.mark.parametrize("private", [0, 3])
def test_frozen_tensors_do_not_move_although_private_slices_do(
    private, made, dual, blocks, options
):
    own = dual if private else made
    strategy = ffa(private=private)
    trained, _, _ = fit(own, blocks, options, local=strategy.local)
    still = {n for n, value in trained.items() if np.array_equal(value, own.start[n])}
    assert still == {n for n in own.tensors if part(n) == "A"}
    assert private == 0 or any(".lora_A.private" in n for n in set(trained) - still)


def test_gradients_of_frozen_tensors_are_zero_before_they_are_clipped(dual):
    model.write(dual, {})
    hooks = train.Hooks(dual, ffa(private=3).local, 1, {})
    for parameter in dual.parameters.values():
        parameter.grad = torch.ones_like(parameter)
    hooks.correct()
    for name, (parameter, where) in dual.tensors.items():
        gradient = dual.parameters[parameter].grad[where]
        assert torch.all(gradient == (0 if part(name) == "A" else 1)), name
    for parameter in dual.parameters.values():
        parameter.grad = None


def test_frozen_tensors_do_not_move_by_moments_of_earlier_rounds(made, blocks, options):
    """A strategy may freeze in one round what it trained in another."""
    odd = Local(trainable=lambda name, number: part(name) != "A" or number > 1)
    half, carried, _ = fit(made, blocks, options)
    used = train.optimizer(made, carried)
    train.fit(made, blocks, options, PLAN, used, train.Hooks(made, odd, 1, {}))
    moved = model.read(made)
    for name in (n for n in made.tensors if part(n) == "A"):
        assert np.array_equal(moved[name], half[name]), name


def test_a_strategy_that_corrects_nothing_gives_the_bits_of_none(made, blocks, options):
    plain = fit(made, blocks, options)[0]
    assert equal(fit(made, blocks, options, local=fedavg().local)[0], plain)
    assert equal(fit(made, blocks, options, local=fedprox(mu=0).local)[0], plain)


def test_a_huge_pull_holds_the_silo_near_its_anchor(dual, blocks, options, noisy):
    anchor = noisy(dual, size=0.01)
    plan = Plan(0, 30, 60, 0.001, "k")

    def moved(local):
        trained = fit(dual, blocks, options, plan, local=local, adapter=anchor)[0]
        return norm(subtract(trained, anchor))

    free = moved(fedprox(mu=0).local)
    held = moved(fedprox(mu=1e4).local)
    assert held < 0.5 * free
    assert held > 0


def test_the_pull_is_the_gradient_of_the_distance_to_the_anchor(made, blocks, options, noisy):
    """One step of plain descent by hand: hooks add ``mu (w - anchor)`` to every gradient."""
    anchor, mu = noisy(made, 1), 3.0
    model.write(made, anchor)
    hooks = train.Hooks(made, fedprox(mu=mu).local, 1, {})
    now = noisy(made, 2)
    model.write(made, now)
    for parameter in made.parameters.values():
        parameter.grad = torch.ones_like(parameter)
    hooks.correct()
    for name, (parameter, where) in made.tensors.items():
        found = made.parameters[parameter].grad[where].numpy()
        want = 1 + mu * (now[name].astype(np.float64) - anchor[name])
        assert np.allclose(found, want, atol=1e-5), name
    for parameter in made.parameters.values():
        parameter.grad = None


@quick
@given(st.floats(1e-6, 1), st.floats(0.01, 1), st.integers(2, 500), st.data())
def test_the_rate_falls_in_a_line_from_its_first_to_its_last_step(lr, decay, total, data):
    plan = Plan(0, 1, total, lr, "")
    assert train.rate(plan, 0, decay) == lr
    assert np.isclose(train.rate(plan, total - 1, decay), decay * lr, rtol=1e-9)
    step = data.draw(st.integers(0, total - 2))
    drop = train.rate(plan, step, decay) - train.rate(plan, step + 1, decay)
    assert np.isclose(drop, lr * (1 - decay) / (total - 1), rtol=1e-6, atol=1e-15)


def test_a_study_of_one_step_has_a_rate():
    assert train.rate(Plan(0, 1, 1, 0.5, ""), 0, 0.1) == 0.5


def test_the_rate_of_the_step_is_the_one_used(made, blocks, options, monkeypatch):
    asked = []
    rate = train.rate
    monkeypatch.setattr(
        train, "rate", lambda plan, step, decay: (asked.append(step), rate(plan, step, decay))[1]
    )
    used = train.optimizer(made, {})
    model.write(made, {})
    train.fit(made, blocks, options, Plan(4, 3, 10, 0.01, "k"), used)
    assert asked == [4, 5, 6]
    assert used.adamw.param_groups[0]["lr"] == rate(Plan(4, 3, 10, 0.01, "k"), 6, options.decay)


def test_a_rate_that_diverges_is_told(made, blocks, options):
    with pytest.raises(FloatingPointError, match="lr 1e\\+30"):
        fit(made, blocks, options, Plan(0, 4, 10, 1e30, "k"))


def test_a_model_that_holds_nan_is_told(made, blocks, options):
    broken = {n: np.full_like(x, np.nan) for n, x in made.start.items() if part(n) == "B"}
    with pytest.raises(FloatingPointError, match="loss became nan"):
        fit(made, blocks, options, adapter=broken)


def test_no_gradient_is_left_behind(made, blocks, options):
    fit(made, blocks, options)
    assert all(p.grad is None or not p.grad.any() for p in made.parameters.values())


def test_the_gradient_is_clipped_before_the_step(made, blocks):
    """Adam's second moment after one step is the squared clipped gradient, times 1 - beta2."""
    own = Train(steps=1, batch_size=2, length=32, dtype="float32", clip=1e-3)
    _, moments, _ = fit(made, blocks, own, Plan(0, 1, 10, 0.01, "k"))
    squared = pick(moments, [n for n in moments if n.startswith("optimizer/exp_avg_sq/")])
    total = sum(float(np.sum(x, dtype=np.float64)) for x in squared.values()) / 1e-3
    assert np.isclose(np.sqrt(total), 1e-3, rtol=1e-2)
