"""Sketches of a silo's first gradients: those of the weights themselves, without a trace in the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fl_client import model, step, survey
from strategies import adapter as algebra
from strategies import survey as surveys
from strategies.fedsb import fedsb
from strategies.product import modules
from tasks import encode

KEY, SEED = "7:silo", 7


def told(made, blocks, options):
    shapes = algebra.layout(made.start)
    names = surveys.sketched(fedsb().survey, shapes)
    model.write(made, {})
    return survey.sketches(made, blocks, options, names, shapes, SEED, KEY)


def gradients(made, blocks, options):
    """Return the gradient of each adapted weight over the first steps, the slow way: whole, by autograd."""
    model.write(made, {})
    weights = {m: made.model.get_submodule(m).base_layer.weight for m in modules(made.start)}
    for weight in weights.values():
        weight.requires_grad_(True)
    text = step.text(blocks, made.device)
    rows = [encode.order(n, options.batch_size, len(text.ids), KEY) for n in range(options.steps)]
    learned = sum(int(text.learned[own].sum()) for own in rows)
    nats = sum(step.loss(made.model, text, own, False) for own in rows)
    found = torch.autograd.grad(nats / learned, list(weights.values()))
    for weight in weights.values():
        weight.requires_grad_(False)
    return {m: g.double().numpy() for m, g in zip(weights, found, strict=True)}


def test_a_sketch_is_that_of_the_gradient_of_the_weights(made, blocks, options):
    whole, shapes = gradients(made, blocks, options), algebra.layout(made.start)
    found = told(made, blocks, options)
    assert len(found) == 2 * len(whole)
    for module, g in whole.items():
        a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
        p, q = (surveys.frame(name, shapes, SEED) for name in (a, b))
        assert g.any() and found[a].shape == (4, g.shape[1])
        for name, wanted in ((a, p.T @ g), (b, g @ q.T)):
            assert found[name].dtype == np.float32
            np.testing.assert_allclose(found[name], wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("changes", [{"micro_batch": 1}, {"checkpointing": True}])
def test_a_sketch_is_the_same_in_small_pieces_and_where_activations_are_computed_again(
    changes, made, blocks, options
):
    want = told(made, blocks, options)
    found = told(made, blocks, options.model_copy(update=changes))
    for name, x in want.items():
        np.testing.assert_allclose(found[name], x, atol=1e-4 * np.abs(x).max())


def test_a_sketch_comes_out_the_same_twice_and_in_bfloat16_nearly(made, blocks, options):
    one, two = (told(made, blocks, options) for _ in range(2))
    half = told(made, blocks, options.model_copy(update={"dtype": "bfloat16"}))
    for name, x in one.items():
        assert x.tobytes() == two[name].tobytes()
        assert np.linalg.norm(half[name] - x) < 0.1 * np.linalg.norm(x)


def test_nothing_of_a_sketch_stays_in_the_model(made, blocks, options, noisy):
    def hooks():
        return sum(len(m._forward_hooks) for m in made.model.modules())

    adapter = noisy(made)
    model.write(made, adapter)
    before = hooks(), {n: p.detach().clone() for n, p in made.model.named_parameters()}
    told(made, blocks, options)
    model.write(made, adapter)
    assert hooks() == before[0]
    assert all(torch.equal(p, before[1][n]) for n, p in made.model.named_parameters())
    assert all(p.grad is None for p in made.model.parameters())
