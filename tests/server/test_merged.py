"""Strategies that merge into the base, in real runs: to the bit in any order, resumed, and as PEFT loads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file

from fl_client import bases, messages, model
from fl_client.app import app as client
from fl_server import journal
from strategies.adapter import part

MERGING = ("merge_reset()", "flora()", "fedex()")
IDS = [[3, 17, 5, 99, 4, 28, 61, 7]]


def logits(made) -> np.ndarray:
    with torch.no_grad():
        return made(torch.tensor(IDS)).logits.numpy()


def study_of(small, folder, strategy, **changes):
    return small(
        folder, strategy=strategy, codec="float32()", simulation__languages="as", **changes
    )


class Tap:
    """A client that lets everything through and remembers what came down and how much went up."""

    def __init__(self) -> None:
        self.down: list[dict[str, tuple[int, ...]]] = []
        self.up: set[int] = set()

    def __call__(self, message, context):
        reply = client(message, context)
        arrived = messages.read_order(message)[1]
        self.down.append({n: x.shape for n, x in arrived.items()})
        sent = messages.read_reply(reply).arrays
        self.up.add(sum(x.size for name, x in sent.items() if name != messages.TOKENS))
        return reply


@pytest.fixture(scope="module", params=MERGING)
def ran(request, small, simulate, tmp_path_factory):
    """Return a run of two rounds of each: its study, its report, what travelled."""
    study = study_of(small, tmp_path_factory.mktemp("merged") / "run", request.param)
    tap = Tap()
    return study, simulate(study, app=tap), tap


def test_the_order_of_answers_changes_no_bit(ran, small, simulate, tmp_path):
    study, report, _ = ran
    other = simulate(study_of(small, tmp_path / "run", study.strategy), 1)
    assert other["adapter_sha256"] == report["adapter_sha256"]


def test_a_damaged_last_round_is_done_again_to_the_same_bits(ran, damaged, simulate, tmp_path):
    study, report, _ = ran
    again = simulate(damaged(study, tmp_path / "run"))
    assert again["adapter_sha256"] == report["adapter_sha256"]


def test_the_merged_part_grows_goes_down_and_never_up_and_what_restarts_never_travels_down(ran):
    study, _, tap = ran
    ranks = {
        max((s[0] for n, s in sent.items() if ".lora_A.merged" in n), default=0)
        for sent in tap.down
    }
    each = {"merge_reset()": 2, "flora()": 2 * 4, "fedex()": 2 * 3}[study.strategy]
    assert ranks == {0, each, 2 * each}
    down = {part(n) for sent in tap.down for n in sent}
    assert down == {"merged", "rows"} | ({"A", "B"} if study.strategy == "fedex()" else set())
    made = model.warm(study.model, 0, "Beng", study.seed)
    rows = sum(x.size for n, x in made.start.items() if part(n) == "rows")
    lora = sum(x.size for n, x in made.start.items() if part(n) in ("A", "B"))
    b = sum(x.size for n, x in made.start.items() if part(n) == "B")
    assert max(tap.up) in (rows + lora, rows + (b if each == 2 else lora))


def test_peft_loads_the_released_adapter_and_gives_what_the_silos_scored(ran):
    study, report, _ = ran
    (name,) = report["adapters"]
    folder = Path(study.home) / "adapter" / name
    state = journal.recall(Path(study.home) / "journal", report["released_round"][name])
    assert state is not None
    made = model.warm(study.model, 0, "Beng", study.seed)
    held = {n: x for group in state.adapter for n, x in state.adapter[group].items()}
    held |= {n: x for group in state.strategy for n, x in state.strategy[group].items()}
    model.write(made, held)
    want = logits(made.model)
    model.write(made, {})
    base = bases.model("builtin:tiny")
    plain = logits(base)
    found = logits(PeftModel.from_pretrained(base, folder))
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-4)
    assert np.abs(found - plain).max() > 0.01, "nothing was merged, so this shows nothing"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["lora_alpha"] / config["r"] == study.model.alpha / study.model.rank
    assert load_file(folder / "adapter_model.safetensors").keys() == {
        n for n in held if part(n) != "merged"
    }
