"""What holds for every strategy, whoever wrote it."""

from __future__ import annotations

from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from strategies import accumulate
from strategies.adapter import PARTS, add, layout, part, pick
from strategies.scope import SCOPES
from strategies.strategy import Strategy, Weighted

A = "model.layers.0.q_proj.lora_A.weight"
B = "model.layers.0.q_proj.lora_B.weight"
ROWS = "model.embed_tokens.token_adapter.trainable_tokens_delta"
MERGED = ("model.layers.0.q_proj.lora_A.merged", "model.layers.0.q_proj.lora_B.merged")
PRIVATE = ("model.layers.0.q_proj.lora_A.private", "model.layers.0.q_proj.lora_B.private")
SHAPES = {A: (2, 3), B: (4, 2), ROWS: (2, 4)}


def adapter(seed):
    draw = np.random.default_rng(seed)
    return {n: draw.normal(0, 0.1, s).astype(np.float32) for n, s in SHAPES.items()}


def merge(strategy, sent, start, memory):
    if strategy.reduction == "gather":
        return strategy.aggregate(sent, start, memory)
    if strategy.passes:
        sent = in_two_passes(strategy.passes, sent, start)
    running = accumulate.empty(layout(sent[0].update))
    for one in sent:
        running = accumulate.add(running, one.update, one.weight)
    return strategy.aggregate(accumulate.mean(running), start, memory)


def in_two_passes(passes, sent, start):
    """Return what these updates of silos come to at a hub that asks twice."""
    held = {one.silo: passes.held(start, one.update) for one in sent}
    begun = passes.first(start, 3, "1:1")
    ends = [(one.weight, add(begun, passes.first(held[one.silo], 3, "1:1"))) for one in sent]
    asked = passes.ask(accumulate.mean_of(ends, layout(begun)))
    known = passes.second(start, asked)
    answers = [add(known, passes.second(held[one.silo], asked)) for one in sent]
    rest = SHAPES.keys() - asked.keys() - known.keys()
    return [
        one._replace(update=pick(one.update, rest) | asked | answer)
        for one, answer in zip(sent, answers, strict=True)
    ]


def silos(updates, weights=None):
    weights = weights or [1.0] * len(updates)
    return [Weighted(f"s{i}", w, u) for i, (w, u) in enumerate(zip(weights, updates, strict=True))]


def same(left, right):
    assert left.keys() == right.keys()
    assert all(left[n].tobytes() == right[n].tobytes() for n in left)


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0, 1.0], [1.0, 0.5, 0.3, 0.01]])
def test_where_all_silos_send_the_same_update_one_silo_more_changes_nothing(strategy, weights):
    made, start = strategy(), adapter(0)
    few, _ = merge(made, silos([adapter(1)] * 3, weights[:3]), start, made.init(start))
    more, _ = merge(made, silos([adapter(1)] * 4, weights), start, made.init(start))
    for name in start:
        np.testing.assert_allclose(more[name], few[name], rtol=1e-6, atol=1e-9)


def test_the_order_of_silos_does_not_matter_to_the_last_bit(strategy):
    made, start = strategy(), adapter(0)
    sent = silos([adapter(k) for k in range(1, 6)], [1.0, 0.7, 0.31, 0.003, 0.9])
    forth, memory = merge(made, sent, start, made.init(start))
    back, other_memory = merge(made, sent[::-1], start, made.init(start))
    same(forth, back)
    same(memory, other_memory)


def test_the_step_has_the_layout_and_the_type_of_the_adapter(strategy):
    made, start = strategy(), adapter(0)
    step, memory = merge(made, silos([adapter(1), adapter(2)]), start, made.init(start))
    assert layout(step) == layout(start)
    received = made.broadcast(start, memory)
    assert layout({n: x for n, x in received.items() if part(n) != "merged"}) == layout(start)
    assert made.mutates_base or received.keys() == start.keys()
    assert {x.dtype for x in step.values()} == {np.dtype(np.float32)}


def test_hub_memory_survives_a_checkpoint(strategy):
    made, start = strategy(), adapter(0)
    _, memory = merge(made, silos([adapter(1), adapter(2)]), start, made.init(start))
    restored = load(save(memory))
    same(restored, memory)
    later = silos([adapter(3), adapter(4)])
    same(merge(made, later, start, memory)[0], merge(made, later, start, restored)[0])


def test_silo_memory_survives_a_checkpoint(strategy):
    made, start = strategy(), adapter(0)
    local, beside = made.local, {own: SHAPES[name] for own, name in made.beside(start).items()}
    begun = local.init(start)
    delta = local.finish(adapter(1), begun)
    memory = local.heard(begun, delta)
    assert layout(delta) == dict(sorted((SHAPES | beside).items()))
    restored = load(save(memory))
    same(restored, memory)
    same(local.finish(adapter(2), memory), local.finish(adapter(2), restored))
    same(local.heard(memory, delta), local.heard(restored, delta))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_nan_update_is_refused_before_it_arrives(strategy, bad):
    made, start = strategy(), adapter(0)
    broken = adapter(2)
    broken[B][1, 1] = bad
    with pytest.raises(ValueError, match="NaN"), np.errstate(invalid="ignore"):
        merge(made, silos([adapter(1), broken]), start, made.init(start))


@pytest.mark.parametrize("name", list(SHAPES))
def test_a_local_step_gives_numpy_and_torch_equal_numbers(strategy, name):
    local = strategy().local
    gradient, weight, anchor = (adapter(k)[name] for k in (1, 2, 3))
    memory = local.init(adapter(0))
    plain = local.step(name, gradient, weight, anchor, memory)
    tensors = [torch.from_numpy(x.copy()) for x in (gradient, weight, anchor)]
    remembered = {key: torch.from_numpy(np.array(x)) for key, x in memory.items()}
    tensor = local.step(name, *tensors, remembered)
    assert isinstance(tensor, torch.Tensor)
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor.numpy(), plain)


def test_every_part_has_a_scope_and_private_and_merged_parts_never_leave_the_silo(strategy):
    made = strategy()
    assert set(made.scopes) == set(PARTS)
    assert set(made.scopes.values()) <= set(SCOPES)
    assert set(made.wider) <= set(PARTS) - {"private"}
    assert all(wide != made.scopes[part] for part, wide in made.wider.items())
    assert not any(made.sent(name, r) for name in PRIVATE + MERGED for r in range(1, 6))


def test_something_is_sent_and_all_that_is_sent_is_trained(strategy):
    made = strategy()
    sent = [(name, r) for name in SHAPES for r in range(1, 6) if made.sent(name, r)]
    assert sent
    assert all(made.local.trainable(name, r) for name, r in sent)


def test_a_tensor_has_changed_only_after_a_round_that_sent_it_or_by_a_survey(strategy):
    made = strategy()
    for name in SHAPES:
        if made.survey and part(name) in made.survey.parts:
            assert all(made.changed(name, r) and not made.sent(name, r) for r in range(1, 6))
            continue
        assert not made.changed(name, 1)
        first = next((r for r in range(1, 9) if made.sent(name, r)), 9)
        assert not made.changed(name, first)
        travels = part(name) not in made.restarts
        assert made.changed(name, first + 1) == (made.sent(name, first) and travels)


def test_what_restarts_does_so_at_a_product_of_zero_that_depends_on_seed_and_round_alone(strategy):
    made = strategy()
    one, two, elsewhere = (
        made.renewed(adapter(k), seed, r) for k, seed, r in ((0, 7, 1), (0, 7, 2), (1, 7, 1))
    )
    for name, before in adapter(0).items():
        assert one[name].shape == before.shape and one[name].dtype == np.float32
        if part(name) not in made.restarts:
            assert one[name].tobytes() == two[name].tobytes() == before.tobytes()
            continue
        assert one[name].tobytes() == elsewhere[name].tobytes()
        assert one[name].any() == (name == A)
        assert np.array_equal(one[name], two[name]) == (name == B)


@pytest.mark.parametrize("field", ["reduction", "domain"])
def test_a_strategy_declares_one_of_the_words_that_a_hub_knows(strategy, field):
    assert getattr(strategy(), field) in get_args(get_type_hints(Strategy)[field])
