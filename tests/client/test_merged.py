"""The merged part in the model: beside the layers, exactly, and without a trace once it is gone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fl_client import export, merged, model, optimizer, train
from fl_client.config import Model, Study
from strategies.adapter import initial, part
from strategies.merged import held

from .team import merged as slices


def logits(made: model.Warm) -> np.ndarray:
    ids = torch.tensor([[3, 17, 5, 99, 4, 28, 61, 7]], device=made.device)
    with torch.inference_mode():
        return made.model(input_ids=ids).logits.float().cpu().numpy()


@pytest.mark.parametrize("quantization", ["none", "bfloat16", "nf4"])
def test_a_merged_product_does_what_the_same_product_does_as_an_adapter(quantization):
    warm = model.warm(Model(rank=2, rows="none", quantization=quantization), 0, "", 7)
    extra = slices(warm, 2)
    model.write(warm, {n.removesuffix("merged") + "weight": x for n, x in extra.items()})
    want = logits(warm)
    model.write(warm, {})
    bare = logits(warm)
    model.write(warm, extra)
    exact = {"none": 1e-5, "nf4": 1e-5, "bfloat16": 0.1}[quantization]
    np.testing.assert_allclose(logits(warm), want, rtol=0, atol=exact)
    model.write(warm, {})
    assert logits(warm).tobytes() == bare.tobytes()
    assert np.abs(want - bare).max() > 5 * exact


def test_an_adapter_without_a_merged_part_leaves_every_weight_as_it_was(made, noisy):
    before = {n: p.detach().clone() for n, p in made.model.named_parameters()}
    model.write(made, {})
    start = logits(made)
    for rank in (3, 5):
        model.write(made, slices(made, rank, rank) | noisy(made))
        model.write(made, slices(made, rank, rank))
    frozen = {n: p for n, p in made.model.named_parameters() if not p.requires_grad}
    assert frozen and all(torch.equal(p, before[n]) for n, p in frozen.items())
    model.write(made, {})
    assert logits(made).tobytes() == start.tobytes()
    assert not made.merged.tensors and not made.merged.handles


def test_writing_twice_or_another_merged_part_first_changes_nothing(made):
    one, two = slices(made, 2, 1), slices(made, 4, 2)
    model.write(made, one)
    want = logits(made)
    model.write(made, one)
    assert logits(made).tobytes() == want.tobytes()
    model.write(made, two)
    assert not np.allclose(logits(made), want)
    model.write(made, one)
    assert logits(made).tobytes() == want.tobytes()
    model.write(made, {})


def test_training_moves_the_adapter_and_not_the_merged_part(made, blocks, options):
    extra = slices(made, 3)
    model.write(made, extra)
    plan = train.Plan(0, 2, 2, 0.01, "k")
    train.fit(made, blocks, options, plan, optimizer.start(made, {}))
    trained = model.read(made)
    assert trained.keys() == made.start.keys()
    assert all(np.any(trained[n] != x) for n, x in made.start.items())
    assert all(np.array_equal(made.merged.tensors[n], x) for n, x in extra.items())
    model.write(made, {})


def test_layers_of_which_less_is_merged_are_exported_at_one_rank(made, noisy, tmp_path):
    wide, narrow = slices(made, 5), slices(made, 3, 1)
    first = sorted(held(wide))[0]
    mixed = narrow | {n: x for n, x in wide.items() if n.startswith(f"{first}.")}
    joined = export.joined(noisy(made) | mixed)
    assert {x.shape[0] for n, x in joined.items() if part(n) == "A"} == {2 + 5}
    assert {x.shape[1] for n, x in joined.items() if part(n) == "B"} == {2 + 5}
    lora = noisy(made)
    for module, (b, a) in held(mixed).items():
        own_b, own_a = (lora[f"{module}.lora_{half}.weight"] for half in "BA")
        found = joined[f"{module}.lora_B.weight"] @ joined[f"{module}.lora_A.weight"]
        np.testing.assert_allclose(found, own_b @ own_a + b @ a, atol=1e-6)


START = {
    n: initial(n, s, 1) for n, s in {"q.lora_A.weight": (2, 5), "q.lora_B.weight": (4, 2)}.items()
}
FITS = {"q.lora_A.merged": np.zeros((4, 5)), "q.lora_B.merged": np.zeros((4, 4))}
BAD = {
    "half a pair": {"q.lora_A.merged": np.zeros((4, 5))},
    "another module": {n.replace("q.", "k."): x for n, x in FITS.items()},
    "wider than the matrix": {
        "q.lora_A.merged": np.zeros((5, 5)), "q.lora_B.merged": np.zeros((4, 5)),
    },
    "no rank": {"q.lora_A.merged": np.zeros((0, 5)), "q.lora_B.merged": np.zeros((4, 0))},
    "two ranks": FITS | {"q.lora_B.merged": np.zeros((4, 3))},
    "transposed": {n: x.T for n, x in FITS.items()},
    "a vector": FITS | {"q.lora_A.merged": np.zeros(5)},
    "no number of dimensions": FITS | {"q.lora_A.merged": np.zeros(())},
    "another kind of name": FITS | {"q.merged": np.zeros(1)},
}  # fmt: skip


def test_a_merged_part_of_the_right_shapes_fits_and_so_does_none():
    assert merged.fits(FITS, START)
    assert merged.fits({}, START)


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_merged_part_that_no_round_can_have_made_does_not_fit(bad):
    assert not merged.fits(bad, START)


def test_what_is_served_holds_the_merged_part(made, tmp_path):
    export.served(tmp_path, made, Study(), slices(made, 3))
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert {x.shape[0] for n, x in tensors.items() if part(n) == "A"} == {2 + 3}
