"""Training: the same bits twice, the moments carried over, frozen tensors still, a silo held near its anchor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client import gauge, machine, model, optimizer, step, train
from fl_client.config import ConfigError, Train
from fl_client.hooks import Hooks
from fl_client.train import Plan
from strategies.adapter import norm, part, pick, subtract
from strategies.fedavg import fedavg
from strategies.fedprox import fedprox
from strategies.ffa import ffa
from strategies.strategy import Local
from tasks import encode
from tasks.task import Example

quick = settings(deadline=None, derandomize=True, max_examples=60, database=None)
PLAN = Plan(0, 2, 10, 0.01, "7:silo")


pytestmark = pytest.mark.usefixtures("one_thread")


def fit(made, blocks, options, plan=PLAN, state=None, local=None, adapter=None):
    """Train from the start (or ``adapter``); return the adapter, the moments and the mean loss."""
    if adapter is not None or state is None:
        model.write(made, adapter or {})
    used = optimizer.start(made, state or {})
    hooks = Hooks(made, local, 1, {}) if local is not None else None
    fitted = train.fit(made, blocks, options, plan, used, hooks)
    return model.read(made), optimizer.moments(used), fitted.loss


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


@pytest.mark.parametrize("here", [True, False])
def test_by_itself_training_is_in_bfloat16_where_the_processor_multiplies_it(
    here, made, blocks, options, monkeypatch
):
    monkeypatch.setattr(machine, "multiplies_bfloat16", lambda: here)
    own, asked = (
        fit(made, blocks, options.model_copy(update={"dtype": dtype}))[0]
        for dtype in ("auto", "bfloat16" if here else "float32")
    )
    assert equal(own, asked)


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
    assert equal(optimizer.moments(optimizer.start(made, moments)), moments)
    assert optimizer.moments(optimizer.start(made, {})) == {}


def test_moments_are_found_among_other_memories(made, blocks, options):
    _, moments, _ = fit(made, blocks, options)
    more = moments | {"residual": np.zeros(3), "private/x": np.zeros(2)}
    assert equal(optimizer.moments(optimizer.start(made, more)), moments)


def test_two_keys_train_in_two_orders(made, blocks, options):
    def order(key):
        return encode.order(0, options.batch_size, len(blocks.ids), key).tolist()

    other = next(key for key in "bcdefgh" if sorted(order(key)) != sorted(order("a")))
    first, second = (Plan(0, 1, 10, 0.01, key) for key in ("a", other))
    assert not equal(fit(made, blocks, options, first)[0], fit(made, blocks, options, second)[0])


def test_sgd_steps_against_the_clipped_gradient_and_remembers_nothing(made, blocks, options):
    own = options.model_copy(update={"optimizer": "sgd", "clip": 0.5, "schedule": "linear"})
    plan = Plan(3, 4, 10, 0.2, "k")
    model.write(made, {})
    used = optimizer.start(made, {"optimizer/step/x": np.zeros(1)}, own.optimizer)
    train.fit(made, blocks, own, plan, used)
    fitted = model.read(made)
    assert optimizer.moments(used) == {} and used.averages() == []
    model.write(made, {})
    made.model.train()
    ids, labels = torch.from_numpy(blocks.ids), torch.from_numpy(blocks.labels)
    for number in range(plan.first, plan.first + plan.steps):
        at = torch.from_numpy(encode.order(number, own.batch_size, len(ids), plan.key))
        loss = made.model(input_ids=ids[at], labels=labels[at], use_cache=False).loss
        slopes = torch.autograd.grad(loss, used.parameters)
        size = float(torch.sqrt(sum((g.double() ** 2).sum() for g in slopes)))
        for weight, slope in zip(used.parameters, slopes, strict=True):
            weight.data -= train.rate(plan, number, own) * min(1, own.clip / size) * slope
    for name, x in model.read(made).items():
        np.testing.assert_allclose(fitted[name], x, atol=1e-6)


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
    hooks = Hooks(dual, ffa(private=3).local, 1, {})
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
    used = optimizer.start(made, carried)
    train.fit(made, blocks, options, PLAN, used, Hooks(made, odd, 1, {}))
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
    hooks = Hooks(made, fedprox(mu=mu).local, 1, {})
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


def decaying(decay: float, schedule: str = "linear") -> Train:
    return Train(decay=decay, schedule=schedule)


@quick
@given(st.floats(1e-6, 1), st.floats(0.01, 1), st.integers(2, 500), st.data())
def test_the_rate_falls_in_a_line_from_its_first_to_its_last_step(lr, decay, total, data):
    plan, own = Plan(0, 1, total, lr, ""), decaying(decay)
    assert train.rate(plan, 0, own) == lr
    assert np.isclose(train.rate(plan, total - 1, own), decay * lr, rtol=1e-9)
    number = data.draw(st.integers(0, total - 2))
    drop = train.rate(plan, number, own) - train.rate(plan, number + 1, own)
    assert np.isclose(drop, lr * (1 - decay) / (total - 1), rtol=1e-6, atol=1e-15)


@quick
@given(st.floats(1e-6, 1), st.floats(0.01, 1), st.integers(2, 500), st.data())
def test_the_rate_falls_in_half_a_cosine_where_the_study_says_so(lr, decay, total, data):
    plan, own = Plan(0, 1, total, lr, ""), decaying(decay, "cosine")
    assert train.rate(plan, 0, own) == lr
    assert np.isclose(train.rate(plan, total - 1, own), decay * lr, rtol=1e-9)
    number = data.draw(st.integers(0, total - 1))
    mirrored = train.rate(plan, number, own) + train.rate(plan, total - 1 - number, own)
    assert np.isclose(mirrored, lr * (1 + decay), rtol=1e-9)
    turned = lr * decay + lr * (1 - decay) * np.cos(np.pi / 2 * number / (total - 1)) ** 2
    assert np.isclose(train.rate(plan, number, own), turned, rtol=1e-6)


@quick
@given(st.floats(1e-6, 1), st.integers(1, 500), st.integers(0, 499))
def test_a_constant_rate_is_the_same_in_every_step(lr, total, number):
    assert train.rate(Plan(0, 1, total, lr, ""), number, decaying(0.1, "constant")) == lr


@quick
@given(first=st.integers(0, 90), ahead=st.integers(-90, 90), step=st.integers(0, 9))
def test_a_silo_that_trains_less_often_has_the_rates_of_the_study_and_its_own_text(
    first, ahead, step
):
    own, behind = decaying(0.1), Plan(first, 10, 100, 0.5, "", ahead)
    assert train.rate(behind, first + step, own) == train.rate(
        Plan(first + ahead, 10, 100, 0.5, ""), first + ahead + step, own
    )


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_a_study_of_one_step_has_a_rate(schedule):
    assert train.rate(Plan(0, 1, 1, 0.5, ""), 0, decaying(0.1, schedule)) == 0.5


def test_the_rate_of_the_step_is_the_one_used(made, blocks, options, monkeypatch):
    asked = []
    rate = train.rate
    monkeypatch.setattr(
        train, "rate", lambda plan, number, own: (asked.append(number), rate(plan, number, own))[1]
    )
    used = optimizer.start(made, {})
    model.write(made, {})
    train.fit(made, blocks, options, Plan(4, 3, 10, 0.01, "k"), used)
    assert asked == [4, 5, 6]
    assert used.inner.param_groups[0]["lr"] == rate(Plan(4, 3, 10, 0.01, "k"), 6, options)


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


def by_the_models_own_loss(made, blocks, options, plan):
    """The loop as one reads it: the mean loss that a causal model of Transformers returns itself."""
    model.write(made, {})
    made.model.train()
    used, losses = optimizer.start(made, {}), []
    ids, labels = torch.from_numpy(blocks.ids), torch.from_numpy(blocks.labels)
    for number in range(plan.first, plan.first + plan.steps):
        at = torch.from_numpy(encode.order(number, options.batch_size, len(ids), plan.key))
        with torch.autocast("cpu", torch.bfloat16, enabled=options.dtype == "bfloat16"):
            loss = made.model(input_ids=ids[at], labels=labels[at], use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(used.parameters, options.clip)
        for group in used.inner.param_groups:
            group["lr"] = train.rate(plan, number, options)
        used.inner.step()
        used.inner.zero_grad()
        losses.append(loss.item())
    return model.read(made), optimizer.moments(used), losses


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_one_rank_gives_the_bits_of_the_models_own_mean_loss(dtype, batch, made, blocks, options):
    own = options.model_copy(update={"dtype": dtype, "batch_size": batch})
    adapter, moments, losses = by_the_models_own_loss(made, blocks, own, PLAN)
    model.write(made, {})
    used = optimizer.start(made, {})
    fitted = train.fit(made, blocks, own, PLAN, used)
    assert fitted.losses == losses
    assert equal(model.read(made), adapter)
    assert equal(optimizer.moments(used), moments)


@pytest.fixture(scope="module")
def uneven(made):
    """Return text of which some blocks teach many tokens, some few and some none."""
    pairs = [("ক" * 30, "খ"), ("ক", "খগঘঙ" * 8), ("ক" * 60, "খ" * 9), ("ক", "ঙ" * 25)]
    spoken = [Example(text, "as", prompt=prompt) for prompt, text in pairs]
    packed = encode.pack(spoken, made.tokenize, made.end, 16)
    learned = (packed.labels != encode.IGNORED).sum(axis=1)
    assert learned.min() == 0 < learned.max() == 15
    return packed


@pytest.mark.parametrize("micro", [1, 2, 3, 5, 6, 99])
def test_a_batch_in_pieces_is_the_batch(micro, made, uneven):
    whole = Train(batch_size=6, dtype="float32")
    pieces = whole.model_copy(update={"micro_batch": micro})
    plan = Plan(0, 4, 10, 0.01, "k")
    once, twice = (fit(made, uneven, options, plan) for options in (whole, pieces))
    assert np.isclose(once[2], twice[2], rtol=1e-6)
    assert all(np.allclose(once[0][n], twice[0][n], atol=1e-4) for n in once[0])
    assert not micro < 6 or not equal(once[0], twice[0])  # it was not the same sum


def test_a_batch_of_which_nothing_is_learned_moves_nothing_and_is_no_failure(made, blocks):
    silent = blocks._replace(labels=np.full_like(blocks.labels, encode.IGNORED))
    trained, _, loss = fit(made, silent, Train(batch_size=2, dtype="float32"))
    assert loss == 0
    assert equal(trained, made.start)


def test_recomputed_activations_give_the_same_bits_and_leave_the_model_as_it_was(
    made, blocks, options
):
    own = options.model_copy(update={"checkpointing": True})
    base = made.model.get_base_model()
    kept, again = fit(made, blocks, options), fit(made, blocks, own)
    assert equal(kept[0], again[0])
    assert not any(getattr(m, "gradient_checkpointing", False) for m in base.modules())
    assert not base.get_input_embeddings()._forward_hooks


def test_activations_are_recomputed_only_where_the_study_says_so(made, blocks, options):
    passes = []
    layer = made.model.get_base_model().model.layers[0].mlp
    hook = layer.register_forward_pre_hook(lambda *_: passes.append(1))
    own = options.model_copy(update={"checkpointing": True})
    fit(made, blocks, options)
    assert len(passes) == PLAN.steps
    fit(made, blocks, own)
    hook.remove()
    assert len(passes) == 3 * PLAN.steps


def test_a_base_that_cannot_recompute_is_refused_in_one_sentence(
    made, blocks, options, monkeypatch
):
    base = made.model.get_base_model()
    monkeypatch.setattr(type(base), "supports_gradient_checkpointing", False)
    with pytest.raises(ConfigError, match=r"^train.checkpointing=true does not fit this base: "):
        fit(made, blocks, options.model_copy(update={"checkpointing": True}))


def test_a_base_with_dropout_repeats_itself_step_by_step(made, blocks, options, monkeypatch):
    whole = fit(made, blocks, options)
    for layer in made.model.get_base_model().model.layers:
        monkeypatch.setattr(layer.self_attn, "attention_dropout", 0.5)
    first, second = (fit(made, blocks, options) for _ in range(2))
    assert equal(first[0], second[0])
    assert not equal(first[0], whole[0])
    half = fit(made, blocks, options, PLAN._replace(steps=1))
    rest = fit(made, blocks, options, PLAN._replace(first=1, steps=1), half[1], adapter=half[0])
    assert equal(rest[0], first[0])


def test_the_loss_of_every_step_is_told_and_its_mean(made, blocks, options):
    model.write(made, {})
    fitted = train.fit(made, blocks, options, PLAN._replace(steps=5), optimizer.start(made, {}))
    assert len(fitted.losses) == 5
    assert np.isclose(fitted.loss, np.mean(fitted.losses), rtol=1e-6)


def test_one_rank_talks_to_nobody_and_says_how_fast_it_was(made, blocks, options):
    model.write(made, {})
    speed = train.fit(made, blocks, options, PLAN, optimizer.start(made, {})).speed
    assert set(speed) == {"efficiency/0", "tokens_s/0", "compute_s/0", "communication_s/0"}
    assert speed["efficiency/0"] == 1
    assert speed["communication_s/0"] == 0
    rows = np.concatenate([encode.order(n, 2, len(blocks.ids), PLAN.key) for n in (0, 1)])
    learned = (blocks.labels[rows][:, 1:] != encode.IGNORED).sum()
    assert np.isclose(speed["tokens_s/0"] * speed["compute_s/0"], learned)


def test_what_a_failed_step_left_in_the_gradients_does_not_reach_the_next_training(
    made, blocks, options, monkeypatch
):
    whole = fit(made, blocks, options)

    def fails(*_):
        raise RuntimeError("a step that fails")

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", fails)
    with pytest.raises(RuntimeError, match="a step that fails"):
        fit(made, blocks, options)
    monkeypatch.undo()
    assert equal(fit(made, blocks, options)[0], whole[0])


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore."),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError("no more"),
    ],
)
def test_memory_that_ran_out_is_one_error_whoever_ran_out_of_it(error):
    with pytest.raises(MemoryError) as caught, gauge.memory():
        raise error
    assert "\n" not in str(caught.value)


def test_another_runtime_error_is_no_lack_of_memory():
    with pytest.raises(RuntimeError, match="shapes differ"), gauge.memory():
        raise RuntimeError("shapes differ")


ranked = st.integers(1, 9), st.integers(1, 6), st.integers(0, 7)


@quick
@given(*ranked)
def test_all_ranks_together_take_every_row_once_in_as_many_pieces(rows, world, micro):
    taken, counts = [], set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step.ranks, "world", lambda: world)
        for rank in range(world):
            patch.setattr(step.ranks, "rank", lambda rank=rank: rank)
            own = step.pieces(np.arange(rows), micro)
            counts.add(len(own))
            assert all(len(piece) <= (micro or -(-rows // world)) for piece in own)
            taken += [row for piece in own for row in piece]
    assert sorted(taken) == list(range(rows))
    assert len(counts) == 1
