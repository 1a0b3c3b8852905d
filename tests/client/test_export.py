"""An exported folder is what PEFT loads, and gives the logits of the warm model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.numpy import load_file

from fl_client import bases, export, model
from fl_client.config import Model, Study
from strategies.adapter import part

from .conftest import SCRIPTS

quick = settings(deadline=None, derandomize=True, max_examples=60, database=None)
IDS = torch.arange(1, 49).reshape(2, 24) * 97 % 6143 + 1


def logits(of) -> np.ndarray:
    of.eval()
    with torch.inference_mode():
        return of(input_ids=IDS, use_cache=False).logits.numpy()


def loaded(folder: Path) -> np.ndarray:
    return logits(PeftModel.from_pretrained(bases.model("builtin:tiny"), str(folder)))


def config(folder: Path) -> dict:
    return json.loads((folder / "adapter_config.json").read_text())


@quick
@given(
    st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.integers(0, 99)
)
def test_the_joined_product_is_the_sum_of_the_two_products(rank, own, rows, columns, seed):
    draw = np.random.default_rng(seed)
    a, b = draw.normal(size=(rank, columns)), draw.normal(size=(rows, rank))
    a2, b2 = draw.normal(size=(own, columns)), draw.normal(size=(rows, own))
    joined = export.joined(
        {"x.lora_A.weight": a, "x.lora_B.weight": b, "x.lora_A.private": a2, "x.lora_B.private": b2}
    )
    assert joined.keys() == {"x.lora_A.weight", "x.lora_B.weight"}
    found = joined["x.lora_B.weight"].astype(float) @ joined["x.lora_A.weight"].astype(float)
    assert np.allclose(found, b @ a + b2 @ a2, atol=1e-5)


def test_an_adapter_without_private_slices_is_joined_to_itself(made, noisy):
    adapter = noisy(made)
    joined = export.joined(adapter)
    assert joined.keys() == adapter.keys()
    for name, value in joined.items():
        assert np.array_equal(value, adapter[name])
        assert value.dtype == np.float32
        assert value.flags.c_contiguous


@pytest.mark.parametrize("rows", ["scripts", "none"])
@pytest.mark.parametrize("private", [0, 3])
def test_peft_loads_the_folder_and_gives_the_logits_of_the_warm_model(
    rows, private, noisy, tmp_path
):
    warm = model.warm(Model(rank=2, rows=rows), private, SCRIPTS, 7)
    assert any(part(n) == "rows" for n in warm.start) == (rows == "scripts")
    adapter = noisy(warm)
    model.write(warm, adapter)
    want = logits(warm.model)
    export.write(tmp_path / "adapter", adapter, warm.peft_config, "builtin:tiny")
    found = loaded(tmp_path / "adapter")
    assert np.allclose(found, want, rtol=0, atol=1e-5)
    base = logits(bases.model("builtin:tiny"))
    assert np.abs(found - base).max() > 0.1, "the adapter does nothing, so this shows nothing"


def test_the_shared_part_of_a_dual_adapter_loads_with_its_own_rank_and_scaling(
    made, dual, noisy, tmp_path
):
    shared = {n: x for n, x in noisy(dual).items() if part(n) != "private"}
    export.write(tmp_path, shared, dual.peft_config, "builtin:tiny")
    assert config(tmp_path)["r"] == 2
    assert config(tmp_path)["lora_alpha"] / 2 == 16
    model.write(made, shared)
    assert np.allclose(loaded(tmp_path), logits(made.model), rtol=0, atol=1e-5)


def test_an_adapter_without_rows_loads_though_rows_were_trained(made, noisy, tmp_path):
    lora = {n: x for n, x in noisy(made).items() if part(n) != "rows"}
    export.write(tmp_path, lora, made.peft_config, "builtin:tiny")
    assert config(tmp_path)["trainable_token_indices"] is None
    model.write(made, lora)
    assert np.allclose(loaded(tmp_path), logits(made.model), rtol=0, atol=1e-5)


def test_the_configuration_names_the_base_and_no_machine(made, noisy, tmp_path):
    export.write(tmp_path, noisy(made), made.peft_config, "builtin:tiny")
    held = config(tmp_path)
    assert held["base_model_name_or_path"] == "builtin:tiny"
    assert held["inference_mode"] is True
    text = (tmp_path / "adapter_config.json").read_text()
    assert str(bases.BUILTIN["builtin:tiny"].parent) not in text
    assert str(Path.home()) not in text


def test_no_private_name_is_in_the_folder(dual, noisy, tmp_path):
    export.write(tmp_path, noisy(dual), dual.peft_config, "builtin:tiny")
    names = load_file(tmp_path / "adapter_model.safetensors").keys()
    assert not [name for name in names if "private" in name]
    assert {path.name for path in tmp_path.iterdir()} == {
        "adapter_model.safetensors", "adapter_config.json",
    }  # fmt: skip


def test_the_same_adapter_is_written_to_the_same_bytes(dual, noisy, tmp_path):
    adapter = noisy(dual)
    for name, own in (("a", adapter), ("b", dict(reversed(adapter.items())))):
        export.write(tmp_path / name, own, dual.peft_config, "builtin:tiny")
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_an_empty_adapter_is_served_as_the_base_itself(made, tmp_path):
    export.served(tmp_path, made, Study(), {})
    base = logits(bases.model("builtin:tiny"))
    assert np.allclose(loaded(tmp_path), base, rtol=0, atol=1e-5)


def test_a_served_adapter_is_completed_from_the_start(dual, noisy, tmp_path):
    adapter = {n: x for n, x in noisy(dual).items() if part(n) == "B"}
    export.served(tmp_path, dual, Study(), adapter)
    model.write(dual, adapter)
    assert np.allclose(loaded(tmp_path), logits(dual.model), rtol=0, atol=1e-5)
