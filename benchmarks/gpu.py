"""The figures of a silo's worker on a GPU: how busy it is, how fast it trains, how much memory that takes.

``python -m benchmarks.gpu`` on a machine with an NVIDIA GPU. The base has the shape of a Llama of about a thousand
million parameters and random weights, made here: how busy a GPU is does not depend on what the weights say.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer

from benchmarks.figures import Figure, asked, at_least, at_most, report, write
from benchmarks.team import train
from fl_client import bases, footprint, shapes
from fl_client.config import Study, from_flat
from fl_client.footprint import Room

TOPIC = "gpu"
TINY = bases.BUILTIN["builtin:tiny"]
# hidden, intermediate, layers, heads, key-value heads
LARGE, SMALL = (2048, 5632, 22, 32, 8), (64, 128, 2, 2, 2)
WORK = {"batch_size": 16, "length": 512, "dtype": "bfloat16", "lr": 1e-4}


class Way(NamedTuple):
    """One way to hold the frozen base: what it is called, and the settings of the study that ask for it."""

    label: str
    model: dict[str, Any]
    options: dict[str, Any]
    goal: bool = False


WAYS = (
    Way("LoRA on a bfloat16 base", {"quantization": "bfloat16"}, {}, goal=True),
    Way("QLoRA, nf4 base", {"quantization": "nf4"}, {}, goal=True),
    Way("LoRA on a float32 base", {}, {}),
    Way("LoRA on a bfloat16 base, checkpointing", {"quantization": "bfloat16"}, {"checkpointing": True}),
)  # fmt: skip

app = typer.Typer()


@app.command()
def main(
    steps: Annotated[int, typer.Option(help="Steps of each training.")] = 120,
    small: Annotated[bool, typer.Option(help="A small base, to try the benchmark itself.")] = False,
) -> None:
    """Measure and write benchmarks/results/gpu.json."""
    if not torch.cuda.is_available():
        raise typer.BadParameter("this machine has no GPU that Torch can use")
    card = torch.cuda.get_device_name()
    with tempfile.TemporaryDirectory() as place:
        base = large(Path(place) / "base", SMALL if small else LARGE)
        shape = shapes.read(base)
        figures = [
            report("GPU", card, ""),
            report("base: parameters", shape.parameters / 1e6, "millions"),
        ]
        peak = matmul()
        figures.append(report("bfloat16 matrix product of 8192", peak / 1e12, "TFLOP/s"))
        for way in WAYS:
            figures += measured(way, base, shape, steps, peak)
    figures += agreement()
    write(TOPIC, figures, "python -m benchmarks.gpu", asked())


def large(folder: Path, sizes: tuple[int, ...]) -> str:
    """Write a Llama-shaped base of these sizes with random weights, and the tokenizer of the tiny one."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    hidden, wide, layers, heads, pairs = sizes
    config = LlamaConfig.from_pretrained(
        TINY, hidden_size=hidden, intermediate_size=wide, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=pairs, head_dim=hidden // heads, max_position_embeddings=4096,
    )  # fmt: skip
    torch.manual_seed(0)
    with bases.device():
        made = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    # Its row of the end mark is zero, which no trained base has: norms of zero blow gradients up.
    torch.nn.init.normal_(made.get_input_embeddings().weight, std=config.initializer_range)
    made.save_pretrained(folder)
    for file in TINY.glob("token*.json"):
        shutil.copy(file, folder)
    return str(folder)


def measured(way: Way, base: str, shape: shapes.Shape, steps: int, peak: float) -> list[Figure]:
    """Train one way and say how busy the GPU was, how fast it trained and how much memory it took."""
    began = time.monotonic()
    found = train(1, steps, model=way.model | {"base": base}, **(WORK | way.options))["speed"]
    print(json.dumps({"way": way.label, "s": time.monotonic() - began} | found), flush=True)
    busy, tokens = found.get("gpu_utilisation/0", float("nan")), found["tokens_s/0"]
    label = f"{way.label}, batch {WORK['batch_size']} x {WORK['length']}"
    study = from_flat(
        {f"model.{k}": v for k, v in (way.model | {"base": base}).items()}
        | {f"train.{k}": v for k, v in (WORK | way.options).items()}
    )
    said = f"{label}: GPU utilisation"
    return [
        at_least(said, busy, "", 0.8) if way.goal else report(said, busy, ""),
        report(f"{label}: tokens a second", tokens, ""),
        # forward and backward through a frozen base: twice 2 operations a parameter and token
        report(f"{label}: of the matrix peak", 4 * shape.worked * tokens / peak, ""),
        report(f"{label}: memory peak", found["gpu_memory_bytes/0"] / 1e9, "GB"),
        report(f"{label}: estimate over peak", estimate(shape, study) / found["gpu_memory_bytes/0"], "times"),
    ]  # fmt: skip


def estimate(shape: shapes.Shape, study: Study) -> float:
    """Return the bytes that ``fl-server plan`` and ``fl-client doctor`` would say, less the program's own."""
    tensors = shapes.adapter(shape, study.model, "builtin:tiny", "Beng")
    wanted = footprint.need(shape, tensors, study, Room(10**13, 1, True))
    return wanted.total - wanted.program


def matmul(size: int = 8192) -> float:
    """Return the operations a second of a bfloat16 matrix product on random numbers, the best of twenty."""
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    took = []
    for _ in range(23):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        left @ right
        ended.record()
        torch.cuda.synchronize()
        took.append(began.elapsed_time(ended) / 1000)
    return 2 * size**3 / min(took[3:])


def agreement(steps: int = 40) -> list[Figure]:
    """Train the tiny base on the GPU and on the CPU and compare every loss."""
    figures = []
    for dtype in ("float32", "bfloat16"):
        gpu = train(1, steps, dtype=dtype)["losses"]
        cpu = train(1, steps, places=(("env", "CUDA_VISIBLE_DEVICES="),), dtype=dtype)["losses"]
        apart = float(np.abs(np.subtract(gpu, cpu)).max())
        label = (
            f"tiny base, {dtype}, {steps} steps: largest difference of a loss between GPU and CPU"
        )
        figures.append(
            at_most(label, apart, "nats", 1e-2)
            if dtype == "float32"
            else report(label, apart, "nats")
        )
    return figures


if __name__ == "__main__":
    app()
