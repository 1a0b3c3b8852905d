"""A decoder layer of a cohort in one step of autograd gives what its parts give one by one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from fl_client.cohort import attention, decoder, layers, llama

pytestmark = pytest.mark.usefixtures("one_thread")
SILOS, BLOCKS, LENGTH, RANK = 2, 4, 9, 3
SHAPE = {
    "vocab_size": 50, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 6, "num_key_value_heads": 2, "attn_implementation": "eager",
}  # fmt: skip


def base(config=LlamaConfig, kind=LlamaForCausalLM, targets="all-linear", **change):
    """Return a small base of random weights and norms with LoRA on it, as the cohort's parts ask for it."""
    torch.manual_seed(1)
    model = kind(config(**SHAPE, **change)).requires_grad_(False)
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.copy_(torch.rand_like(weight) + 0.5)
    chosen = targets if targets == "all-linear" else targets.split(",")
    adapted = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=5, target_modules=chosen))
    return SimpleNamespace(model=adapted, device=torch.device("cpu"))


def drawn(made, dtype=torch.float32):
    """Return a pair for each silo in each adapted layer."""
    draw = torch.Generator().manual_seed(2)
    found = {}
    for name, layer in layers.adapted(made).items():
        shapes = ((RANK, layer.in_features), (layer.out_features, RANK))
        a, b = (torch.randn(SILOS, *shape, generator=draw) * 0.2 for shape in shapes)
        found[name] = layers.Pair(
            a.to(dtype), b.to(dtype), torch.zeros_like(a), torch.zeros_like(b)
        )
    return found


def passed(made, whole, dtype=torch.float32, onward=True):
    """Return logits, the slope of what goes in, and the gradients of all pairs."""
    pairs, draw = drawn(made, dtype), torch.Generator().manual_seed(3)
    given = torch.randn(BLOCKS, LENGTH, SHAPE["hidden_size"], generator=draw)
    given.requires_grad_(onward)
    with (
        (llama if whole else layers).beside(made, pairs, dtype),
        torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16),
    ):
        logits = made.model(inputs_embeds=given, use_cache=False).logits.float()
        logits.square().sum().backward()
    slopes = {f"{n}.{k}": x for n, p in pairs.items() for k, x in zip("ab", p[2:], strict=True)}
    return {"logits": logits.detach(), **({"given": given.grad} if onward else {}), **slopes}


def alike(found, wanted, most=1e-5):
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
        assert torch.linalg.norm(found[name] - x) <= most * torch.linalg.norm(x), name


def counted(monkeypatch):
    """Return a list that grows with every layer that is computed whole."""
    seen, real = [], decoder.Whole.forward
    monkeypatch.setattr(
        decoder.Whole, "forward", lambda *args: seen.append(args[1].shape) or real(*args)
    )
    return seen


@pytest.mark.parametrize("targets", ["all-linear", "q_proj,up_proj,down_proj", "v_proj"])
@pytest.mark.parametrize("onward", [True, False])
@pytest.mark.parametrize("piece", [LENGTH, 4])
def test_a_whole_layer_gives_the_values_and_slopes_of_its_parts(
    targets, onward, piece, monkeypatch
):
    monkeypatch.setattr(attention, "PIECE", piece)
    made, seen = base(targets=targets), counted(monkeypatch)
    alike(passed(made, True, onward=onward), passed(made, False, onward=onward))
    assert len(seen) == SHAPE["num_hidden_layers"]


def test_in_half_precision_a_whole_layer_is_as_near_to_single_as_its_parts_are():
    made = base()
    exact = passed(made, False)
    for whole in (True, False):
        alike(passed(made, whole, torch.bfloat16), exact, most=0.05)


@pytest.mark.parametrize(
    "other",
    [
        {"attention_bias": True},
        {"hidden_act": "gelu"},
        {"config": MistralConfig, "kind": MistralForCausalLM},
    ],
)
def test_layers_of_another_kind_are_computed_part_by_part(other, monkeypatch):
    made, seen = base(**other), counted(monkeypatch)
    alike(passed(made, True), passed(made, False), most=0)
    assert not seen


def test_a_model_computes_by_itself_again_afterwards():
    made = base()
    passed(made, True)
    assert not any("forward" in vars(module) for module in made.model.modules())
