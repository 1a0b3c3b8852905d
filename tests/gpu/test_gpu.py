"""What only a GPU can show: ``pytest -m gpu`` on a machine that has one. CI has none and leaves these out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.team import train
from fl_client import messages, workers
from fl_client.config import Study
from fl_client.messages import Fault, Order
from fl_client.site import Place
from fl_client.workers import Job
from strategies import adapter as algebra

pytestmark = pytest.mark.gpu
CPU = (("env", "CUDA_VISIBLE_DEVICES="),)


def test_a_gpu_learns_what_a_cpu_learns():
    there, here = (train(1, 20, places, dtype="float32")["losses"] for places in ((), CPU))
    np.testing.assert_allclose(there, here, atol=1e-2)
    assert there[-1] < there[0] - 1


def test_a_gpu_says_its_memory_and_how_busy_it_was():
    speed = train(1, 400, dtype="bfloat16")["speed"]
    assert speed["gpu_memory_bytes/0"] > 1e7
    assert 0 <= speed["gpu_utilisation/0"] <= 1


@pytest.mark.parametrize("quantization", ["bfloat16", "nf4"])
def test_an_adapter_learns_on_a_base_of_fewer_bits(quantization):
    losses = train(1, 20, model={"quantization": quantization})["losses"]
    assert losses[-1] < losses[0] - 1


def job(study: Study, home: object) -> Job:
    return Job(study, Place(home=str(home), number=0), Order(scripts="Beng"), {})


def started(asked: Job) -> Job:
    start = workers.run("initial", asked).arrays
    start.pop(messages.TOKENS, None)
    return asked._replace(order=asked.order._replace(start_sha256=algebra.sha256(start)))


def test_a_seed_fixes_a_round_on_a_gpu_to_the_bit(small, tmp_path):
    found = []
    for name in ("one", "two"):
        study = small(tmp_path / name, simulation__languages="as", simulation__silos=2)
        found.append(workers.run("fit", started(job(study, tmp_path / name))))
    assert found[0].arrays["values"].tobytes() == found[1].arrays["values"].tobytes()
    assert found[0].metrics["loss"] == found[1].metrics["loss"]


def test_a_gpu_without_room_is_a_code_that_says_which_setting_to_lower(small, tmp_path):
    study = small(
        tmp_path,
        simulation__languages="as",
        simulation__silos=2,
        train__length=96,
        train__batch_size=16,
    )
    asked = started(job(study, tmp_path))
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**23) / total)
    try:
        with pytest.raises(Fault) as caught:
            workers.run("fit", asked)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert caught.value.code == "out_of_memory"
    assert "train.micro_batch" in messages.CODES["out_of_memory"]
    workers.run("fit", asked)  # nothing was lost: the same work runs once there is room
