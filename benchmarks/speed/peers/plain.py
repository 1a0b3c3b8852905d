"""A silo's work in plain Torch and PEFT, with nothing of this project: what every peer does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

State = dict[str, torch.Tensor]


def load(base: str, rank: int = 8) -> Any:
    """Return the base with a fresh seeded LoRA adapter on all its projections."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)


def read(model: Any) -> State:
    """Return a copy of the adapter."""
    from peft import get_peft_model_state_dict

    return {name: x.detach().clone() for name, x in get_peft_model_state_dict(model).items()}


def write(model: Any, state: State) -> None:
    """Set the adapter."""
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, state)


def blocks(base: str, data: str, silo: int, length: int) -> torch.Tensor:
    """Return a silo's training text as token ids, one block a row."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    lines = (Path(data) / f"{name(silo)}.jsonl").read_text().splitlines()
    texts = [row["text"] for row in map(json.loads, lines) if row["split"] == "train"]
    ids = [i for found in tokenizer(texts, add_special_tokens=False)["input_ids"] for i in found]
    count = len(ids) // length
    return torch.tensor(ids[: count * length]).reshape(count, length)


def name(silo: int) -> str:
    """Return the name of a silo, and of its text."""
    return f"s{silo:04d}"


def train(model: Any, text: torch.Tensor, steps: int, bf16: bool, lr: float = 1e-3) -> None:
    """Take steps of AdamW, one block each."""
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    for step in range(steps):
        batch = text[step % len(text)][None]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()


class Adapter(torch.nn.Module):
    """An adapter as a module, for peers that want one: the tensors of a file, with ``__`` for each dot."""

    def __init__(self, file: str) -> None:
        super().__init__()
        for name, x in torch.load(file, weights_only=True).items():
            self.register_parameter(name.replace(".", "__"), torch.nn.Parameter(x))
