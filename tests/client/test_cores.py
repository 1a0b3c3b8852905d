"""Cores in the model: what B R A gives, trained alone or not at all, and as PEFT loads it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import PeftModel

from fl_client import bases, export, hooks, model, optimizer, train
from fl_client.alone import PLAIN
from fl_client.config import Model
from strategies.adapter import part
from strategies.fedsb import fedsb, folded

from .conftest import SCRIPTS, SUMS_ALIKE

IDS = torch.arange(1, 49).reshape(2, 24) * 97 % 6143 + 1
PLAN = train.Plan(0, 2, 10, 0.01, "7:silo")


def logits(of) -> np.ndarray:
    of.eval()
    with torch.inference_mode():
        return of(input_ids=IDS, use_cache=False).logits.numpy()


@pytest.fixture(scope="module", params=[0, 3], ids=["shared", "with a private slice"])
def cored(request):
    """Return the tiny base with cores, alone and beside a private slice."""
    return model.warm(Model(rank=2), request.param, SCRIPTS, 7, core=True)


@pytest.fixture
def plain(cored, made, dual):
    """Return the same base without cores."""
    return dual if any(part(n) == "private" for n in cored.start) else made


def trained(made, blocks, options, local, start):
    model.write(made, start)
    used, around = optimizer.start(made, {}), hooks.Hooks(made, local, 1, {})
    train.fit(made, blocks, options, PLAN, used, around)
    return model.read(made)


def begun(made):
    """Return the start that a hub would send, here of a subspace by lot."""
    return fedsb().survey.found({}, made.start, "7")


def test_a_core_does_what_the_folded_pair_does_without(cored, plain, noisy):
    adapter = noisy(cored)
    model.write(cored, adapter)
    assert {n: x.tobytes() for n, x in model.read(cored).items()} == {
        n: x.tobytes() for n, x in adapter.items()
    }
    found = logits(cored.model)
    model.write(plain, folded(adapter))
    np.testing.assert_allclose(found, logits(plain.model), rtol=0, atol=1e-4)
    model.write(plain, {n: x for n, x in adapter.items() if part(n) != "core"})
    assert np.abs(found - logits(plain.model)).max() > 1e-3


def test_training_moves_the_core_and_neither_factor_that_it_stands_between(cored, blocks, options):
    start = begun(cored)
    found = trained(cored, blocks, options, fedsb().local, start)
    moved = {part(n) for n, x in found.items() if x.tobytes() != start[n].tobytes()}
    private = {part(n) for n in start} & {"private"}
    assert moved == {"core", "rows"} | private
    assert all(found[n].any() for n in found if part(n) == "core")


def test_training_without_the_core_is_that_of_a_plain_pair_to_the_bit_or_its_last(
    cored, plain, blocks, options
):
    found = trained(cored, blocks, options, PLAIN, {})
    want = trained(plain, blocks, options, PLAIN, {})
    cores = {n: x for n, x in found.items() if part(n) == "core"}
    assert cores and all(np.array_equal(x, np.eye(2)) for x in cores.values())
    assert found.keys() - cores.keys() == want.keys()
    apart = np.concatenate([np.abs(found[n] - want[n]).ravel() for n in want])
    assert np.quantile(apart, 0.999) < 1e-6 and apart.max() < 0.1 * PLAN.lr
    # Where a gradient is next to nothing AdamW makes more of another order of a sum, but never as much as one step.
    if SUMS_ALIKE:
        assert all(found[n].tobytes() == want[n].tobytes() for n in want)


def test_peft_loads_what_is_released_and_gives_what_was_trained(cored, blocks, options, tmp_path):
    adapter = trained(cored, blocks, options, fedsb().local, begun(cored))
    want = logits(cored.model)
    export.write(tmp_path, adapter, cored.peft_config, "builtin:tiny")
    base = bases.model("builtin:tiny")
    before = logits(base)
    found = logits(PeftModel.from_pretrained(base, tmp_path))
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-4)
    assert np.abs(found - before).max() > 1e-3
