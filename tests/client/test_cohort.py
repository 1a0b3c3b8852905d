"""A cohort: what each silo trains is what it would have trained by itself, whoever trains beside it."""

from __future__ import annotations

import importlib
import pkgutil

import numpy as np
import pytest
import torch

import strategies
from fl_client import model, optimizer, train
from fl_client.cohort import train as cohort
from fl_client.config import Model, Train
from fl_client.hooks import Hooks
from strategies.adapter import CONTROL, part
from strategies.strategy import Strategy
from tasks import encode
from tasks.encode import Blocks

OPTIONS = Train(steps=5, batch_size=2, length=32, dtype="float32")
PLAN = train.Plan(0, 5, 20, 0.01, "7:a")


@pytest.fixture(autouse=True)
def one_thread():
    """Sum in one order, as a study does by default."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def warm():
    """Return the tiny base with a LoRA adapter of rank 2 and nothing else."""
    return model.warm(Model(rank=2, rows="none"), 0, "", 7)


@pytest.fixture(scope="module")
def twofold():
    """Return the tiny base with an adapter of rank 2 and a private one of rank 3."""
    return model.warm(Model(rank=2, rows="none"), 3, "", 7)


def text(seed: int, rows: int = 5, length: int = 32) -> Blocks:
    ids = np.random.default_rng(seed).integers(1, 6000, (rows, length))
    labels = ids.copy()
    labels[:, : seed % 5] = encode.IGNORED
    return Blocks(ids, labels, 1, 1)


def member(made, noisy, seed, plan=PLAN, local=None, **text_of):
    """Return one silo of a cohort, from an adapter of its own."""
    memory = {}
    if local is not None:
        memory = local.init(made.start)
        memory |= {n + CONTROL: x * 0 + 0.001 * seed for n, x in made.start.items()}

    def hooks(own):
        return Hooks(own, local, 1, memory) if local is not None else None

    plan = plan._replace(key=f"7:{seed}")
    return cohort.Member(noisy(made, seed, 0.02), text(seed, **text_of), plan, {}, hooks)


def separate(made, one, options=OPTIONS):
    """Return what a silo trains by itself."""
    model.write(made, one.adapter)
    used = optimizer.start(made, one.moments, options.optimizer)
    losses = train.fit(made, one.blocks, options, one.plan, used, one.hooks(made)).losses
    return cohort.Trained(model.read(made), optimizer.moments(used), losses)


def close(together, apart, atol=1e-6):
    for found, wanted in zip(together, apart, strict=True):
        assert found.adapter.keys() == wanted.adapter.keys()
        assert found.moments.keys() == wanted.moments.keys()
        for name, x in wanted.adapter.items():
            np.testing.assert_allclose(found.adapter[name], x, rtol=0, atol=atol, err_msg=name)
        for name, x in wanted.moments.items():
            np.testing.assert_allclose(found.moments[name], x, rtol=1e-3, atol=atol, err_msg=name)
        np.testing.assert_allclose(found.losses, wanted.losses, rtol=1e-5)


def with_a_silo_half():
    """Return every strategy of the folder, by walking it."""
    for found in pkgutil.iter_modules(strategies.__path__):
        module = importlib.import_module(f"strategies.{found.name}")
        factory = getattr(module, found.name, None)
        if callable(factory) and getattr(factory, "__annotations__", {}).get("return") == "Strategy":
            yield factory


@pytest.mark.parametrize("strategy", with_a_silo_half(), ids=lambda factory: factory.__name__)
def test_a_cohort_trains_what_its_silos_train_one_at_a_time(strategy, warm, twofold, noisy):
    made: Strategy = strategy()
    base = twofold if made.private_rank else warm
    options = OPTIONS.model_copy(update={"optimizer": "sgd"} if made.controls else {})
    silos = [member(base, noisy, seed, local=made.local) for seed in (1, 2, 3)]
    close(cohort.fit(base, silos, options), [separate(base, one, options) for one in silos])


def test_silos_of_other_lengths_steps_and_places_in_the_study_train_as_by_themselves(warm, noisy):
    plans = [PLAN, PLAN._replace(first=5, steps=2), PLAN._replace(steps=4, lr=0.003)]
    silos = [
        member(warm, noisy, seed, plan, length=length)
        for seed, plan, length in zip((1, 2, 3), plans, (32, 20, 27), strict=True)
    ]
    close(cohort.fit(warm, silos, OPTIONS), [separate(warm, one) for one in silos])
