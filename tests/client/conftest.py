"""One warm tiny model for every test here, and messages outside a Flower task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.supercore.task_identity import TaskIdentity

from fl_client import model
from fl_client.config import Model, Train
from strategies.adapter import Adapter
from tasks import encode
from tasks.task import Example

SCRIPTS = "Beng,Deva"
# Where a product with a core in between is summed as one without. MKL has paths of its own for Intel's processors, and
# vectors of AVX2 are short.
SUMS_ALIKE = "AVX512" in torch.backends.cpu.get_cpu_capability() and "GenuineIntel" not in (
    cpu.read_text() if (cpu := Path("/proc/cpuinfo")).exists() else ""
)

TEXTS = {
    "as": ("অসমীয়া ভাষা", "গুৱাহাটী মহানগৰ", "আজি দেওবাৰ", "মই ভাত খাওঁ"),
    "ne": ("नेपाली भाषा", "काठमाडौं उपत्यका", "आज आइतबार हो", "म भात खान्छु"),
}


@pytest.fixture
def one_thread():
    """Sum in one order, as a study does by default."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def made() -> model.Warm:
    """Return the tiny base with an adapter of rank 2. It is shared: a test writes before it reads."""
    return model.warm(Model(rank=2), 0, SCRIPTS, 7)


@pytest.fixture(scope="session")
def dual() -> model.Warm:
    """Return the tiny base with an adapter of rank 2 and a private one of rank 3."""
    return model.warm(Model(rank=2), 3, SCRIPTS, 7)


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    """Return a few short texts in two languages."""
    return [Example(text, lang) for lang, own in TEXTS.items() for text in own]


@pytest.fixture(scope="session")
def blocks(made, examples) -> encode.Blocks:
    """Return the texts packed for training."""
    return encode.pack(examples, made.tokenize, made.end, 32)


@pytest.fixture(scope="session")
def options() -> Train:
    """Return options of training that are small and exact."""
    return Train(steps=2, batch_size=2, length=32, dtype="float32")


@pytest.fixture(scope="session")
def noisy():
    """Return a function that moves every tensor of a model's start a little, by a seed."""

    def move(of: model.Warm, seed: int = 0, size: float = 0.05) -> Adapter:
        draw = np.random.default_rng(seed)
        return {
            name: (value + size * draw.standard_normal(value.shape)).astype(np.float32)
            for name, value in of.start.items()
        }

    return move


@pytest.fixture(scope="session")
def identity() -> None:
    """Let Flower's messages be made outside a task, as LocalGrid does."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
