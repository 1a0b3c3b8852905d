"""The warm model: plain arrays in and out, a start that is the base itself, PEFT's own names."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from fl_client import bases, lora, model, optimizer, train
from fl_client.config import ConfigError, Model, Train
from strategies import adapter as algebra
from strategies.adapter import part

from .conftest import SCRIPTS

IDS = torch.arange(1, 49).reshape(2, 24) * 97 % 6143 + 1


def logits(of) -> np.ndarray:
    of.eval()
    with torch.inference_mode():
        return of(input_ids=IDS, use_cache=False).logits.numpy()


@pytest.fixture(scope="module")
def base_logits():
    return logits(bases.model("builtin:tiny"))


@pytest.fixture(params=["made", "dual"])
def any_warm(request):
    """Return the warm model without and with a private slice."""
    return request.getfixturevalue(request.param)


def equal(left, right) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[n], right[n]) for n in left)


def test_what_is_read_is_what_was_written(any_warm, noisy):
    adapter = noisy(any_warm)
    model.write(any_warm, adapter)
    assert equal(model.read(any_warm), adapter)
    assert all(x.dtype == np.float32 for x in model.read(any_warm).values())


def test_what_was_read_does_not_change_with_the_model(any_warm, noisy):
    model.write(any_warm, {})
    held = model.read(any_warm)
    model.write(any_warm, noisy(any_warm))
    assert equal(held, any_warm.start)


def test_a_tensor_that_is_not_given_goes_back_to_the_start(any_warm, noisy):
    adapter = noisy(any_warm)
    model.write(any_warm, adapter)
    given = {name: x for name, x in adapter.items() if part(name) == "B"}
    model.write(any_warm, given)
    assert equal(model.read(any_warm), any_warm.start | given)


@pytest.mark.parametrize("shape", [(1, 192), (192,), (), (2, 191), (3, 192), (2, 192, 1)])
def test_a_tensor_of_another_shape_is_refused_and_never_stretched(made, shape):
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    assert made.start[name].shape == (2, 192)
    model.write(made, {})
    with pytest.raises(Exception, match="shape|size|expand|dimension"):
        model.write(made, {name: np.ones(shape, np.float32)})
    assert np.array_equal(model.read(made)[name], made.start[name])


def test_the_start_is_the_base_itself(any_warm, base_logits):
    model.write(any_warm, {})
    assert np.allclose(logits(any_warm.model), base_logits, rtol=0, atol=1e-5)


def test_a_moved_adapter_is_not_the_base(any_warm, base_logits, noisy):
    model.write(any_warm, noisy(any_warm))
    assert np.abs(logits(any_warm.model) - base_logits).max() > 0.1


def test_the_start_is_the_seeded_one_of_every_silo(any_warm):
    for name, value in any_warm.start.items():
        if part(name) == "rows":
            continue
        assert np.array_equal(value, algebra.initial(name, value.shape, 7))
        assert np.any(value) == (".lora_A." in name)


def test_another_seed_gives_another_start_of_the_same_layout(made):
    other = model.warm(Model(rank=2), 0, SCRIPTS, 8).start
    assert algebra.layout(other) == algebra.layout(made.start)
    assert algebra.sha256(other) != algebra.sha256(made.start)


def test_the_shared_start_does_not_depend_on_a_private_slice(made, dual):
    shared = {name: x for name, x in dual.start.items() if part(name) != "private"}
    assert equal(shared, made.start)


def test_private_slices_of_two_ranks_leave_the_shared_layout_as_it_is(made, dual):
    other = model.warm(Model(rank=2), 1, SCRIPTS, 7)
    for warm, rank in ((dual, 3), (other, 1)):
        own = {n: x for n, x in warm.start.items() if part(n) == "private"}
        assert len(own) == sum(part(n) in {"A", "B"} for n in made.start)
        for name, value in own.items():
            at = 0 if ".lora_A." in name else 1
            assert value.shape[at] == rank
            twin = made.start[name.removesuffix(".private") + ".weight"]
            assert value.shape[1 - at] == twin.shape[1 - at]
        shared = {n: x for n, x in warm.start.items() if part(n) != "private"}
        assert algebra.layout(shared) == algebra.layout(made.start)


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("private", [0, 3])
def test_the_scaling_of_the_update_is_that_of_the_study_whatever_the_private_rank(rank, private):
    warm = model.warm(Model(rank=rank, alpha=12, rows="none"), private, "", 7)
    layers = [m for m in warm.model.modules() if hasattr(m, "lora_A")]
    assert len(layers) == 28
    assert {m.scaling["default"] for m in layers} == {12 / rank}
    assert {m.lora_A["default"].out_features for m in layers} == {rank + private}


def test_the_product_is_the_sum_of_the_shared_and_the_private_product(dual, noisy):
    adapter = noisy(dual)
    model.write(dual, adapter)
    stem = "base_model.model.model.layers.1.mlp.up_proj"
    layer = dual.model.get_submodule(stem)
    a, b = f"{stem}.lora_A", f"{stem}.lora_B"
    wide = {n: adapter[n].astype(np.float64) for n in adapter if n.startswith(stem)}
    want = 16 * (
        wide[f"{b}.weight"] @ wide[f"{a}.weight"] + wide[f"{b}.private"] @ wide[f"{a}.private"]
    )
    assert np.allclose(layer.get_delta_weight("default").detach().numpy(), want, atol=1e-4)


def test_names_are_those_that_peft_saves(any_warm):
    saved = get_peft_model_state_dict(any_warm.model)
    shared = {name for name in any_warm.tensors if part(name) != "private"}
    assert shared == set(saved)
    assert set(any_warm.parameters) == set(saved)


def test_without_rows_only_lora_is_trained():
    bare = model.warm(Model(rank=2, rows="none"), 0, SCRIPTS, 7)
    assert {part(name) for name in bare.tensors} == {"A", "B"}
    assert set(get_peft_model_state_dict(bare.model)) == set(bare.tensors)


def test_only_the_adapter_has_gradients(made):
    trained = [n for n, p in made.model.named_parameters() if p.requires_grad]
    assert len(trained) == len(made.parameters) == len(made.tensors)


def rows_of(made) -> tuple[str, list[int]]:
    (name,) = [n for n in made.tensors if part(n) == "rows"]
    return name, made.peft_config["trainable_token_indices"]


def test_a_trained_row_changes_the_embedding_and_the_tied_output(made, base_logits):
    name, rows = rows_of(made)
    seen, unseen = rows[5], rows[9]
    assert unseen not in IDS
    value = made.start[name].copy()
    value[9] += 1.0
    model.write(made, {name: value})
    changed = logits(made.model)
    own = np.arange(6144) == unseen
    assert np.allclose(changed[..., ~own], base_logits[..., ~own], atol=1e-5)
    assert np.abs(changed[..., own] - base_logits[..., own]).min() > 1e-3
    value = made.start[name].copy()
    value[5] += 1.0
    model.write(made, {name: value})
    made.model.eval()
    ids = torch.tensor([[seen, 300]])
    with torch.inference_mode():
        with_row = made.model(input_ids=ids, use_cache=False).logits
        model.write(made, {})
        without = made.model(input_ids=ids, use_cache=False).logits
    assert (with_row - without).abs()[0, 0, unseen] > 1e-3


def test_the_rows_of_the_start_are_those_of_the_base(made):
    name, rows = rows_of(made)
    table = bases.model("builtin:tiny").get_input_embeddings().weight.detach().numpy()
    assert np.array_equal(made.start[name], table[rows])


def test_rows_are_chosen_by_tokenizer_and_scripts_alone():
    tokenizer = bases.tokenizer("builtin:tiny")
    wanted = lora.token_rows(tokenizer, SCRIPTS)
    assert wanted == lora.token_rows(bases.tokenizer("builtin:tiny"), "Deva,Beng")
    assert list(wanted) == sorted(set(wanted))
    assert not set(wanted) & set(tokenizer.all_special_ids)


def test_rows_are_single_bytes_and_the_tokens_of_the_scripts():
    tokenizer = bases.tokenizer("builtin:tiny")
    alone = lora.token_rows(tokenizer, "")
    assert all(len(tokenizer.convert_ids_to_tokens(token)) == 1 for token in alone)
    assert len(alone) == 256
    first, last = 0x0980, 0x09FF
    for token in set(lora.token_rows(tokenizer, "Beng")) - set(alone):
        letters = [c for c in tokenizer.decode([token]) if c.isalpha()]
        assert all(first <= ord(c) <= last for c in letters)
    latin = set(lora.token_rows(tokenizer, "Latn")) - set(alone)
    bengali = set(lora.token_rows(tokenizer, "Beng")) - set(alone)
    assert latin and bengali and not latin & bengali
    assert set(lora.token_rows(tokenizer, "Beng,Latn")) >= latin | bengali


def test_a_script_that_is_not_known_adds_no_rows():
    tokenizer = bases.tokenizer("builtin:tiny")
    assert lora.token_rows(tokenizer, "Zzzz,../x") == lora.token_rows(tokenizer, "")


def test_targets_that_the_base_does_not_have_are_refused_in_one_line():
    with pytest.raises(ConfigError) as caught:
        model.warm(Model(rank=2, targets="no_such_layer"), 0, "", 7)
    assert str(caught.value).startswith("model.targets='no_such_layer' does not fit this base: ")
    assert "\n" not in str(caught.value)


def test_named_targets_are_the_only_ones_adapted():
    warm = model.warm(Model(rank=2, targets="q_proj, v_proj", rows="none"), 0, "", 7)
    layers = {name.split(".")[-3] for name in warm.tensors}
    assert layers == {"q_proj", "v_proj"}
    assert len(warm.tensors) == 4 * 2 * 2


def test_the_same_choices_are_answered_with_the_same_warm_model():
    first = model.warm(Model(rank=3, rows="none"), 0, "", 7)
    assert model.warm(Model(rank=3, rows="none"), 0, "", 7) is first


@dataclass(frozen=True)
class Marks:
    """The marks of a tokenizer."""

    eos_token_id: int | None = None
    sep_token_id: int | None = None
    bos_token_id: int | None = None


def test_a_text_ends_with_the_best_mark_that_a_tokenizer_has_and_never_with_a_word():
    assert model._end(Marks(eos_token_id=0, bos_token_id=2), "b") == 0
    assert model._end(Marks(sep_token_id=5, bos_token_id=2), "b") == 5
    assert model._end(Marks(bos_token_id=2), "b") == 2
    with pytest.raises(ConfigError, match="'b' has a tokenizer without an end mark"):
        model._end(Marks(), "b")


@pytest.fixture
def bases_made(monkeypatch):
    """Return how many models are held after each that was made; none is held before."""
    held: list[int] = []
    monkeypatch.setattr(model, "HELD", {})
    monkeypatch.setattr(model, "_make", lambda *_: held.append(len(model.HELD)) or object())
    return held


def test_a_model_of_another_study_is_let_go_before_the_next_is_loaded(bases_made):
    for seed in (7, 8, 7):
        model.warm(Model(rank=2), 0, "", seed)
    assert bases_made == [0, 0, 0]


def test_models_of_all_ranks_of_a_study_are_held_at_once(bases_made):
    for rank in (2, 4, 2, 8, 4, 2):
        model.warm(Model(rank=rank, alpha=2 * rank), 0, "", 7)
    assert bases_made == [0, 1, 2]


@pytest.mark.parametrize("quantization", ["none", "bfloat16"])
def test_models_of_several_ranks_have_one_base_in_memory_and_compute_as_by_themselves(
    quantization, monkeypatch
):
    options = Model(rank=2, quantization=quantization)
    wider, ids = options.model_copy(update={"rank": 3}), torch.arange(6).reshape(1, 6)
    monkeypatch.setattr(model, "HELD", {})
    alone = model.warm(wider, 0, SCRIPTS, 7)
    whole = model.read(alone), alone.model(input_ids=ids).logits
    monkeypatch.setattr(model, "HELD", {})
    narrow, wide = (model.warm(each, 0, SCRIPTS, 7) for each in (options, wider))
    held = [
        {id(p) for p in made.model.parameters() if not p.requires_grad} for made in (narrow, wide)
    ]
    assert held[0] == held[1] == {id(p) for p in narrow.weights.values()}
    assert model.read(wide).keys() == whole[0].keys()
    assert torch.equal(wide.model(input_ids=ids).logits, whole[1])


def test_of_a_base_on_the_hub_only_what_is_read_is_fetched(monkeypatch):
    asked = {}

    def fetched(name, allow_patterns):
        asked[name] = allow_patterns
        return str(bases.BUILTIN["builtin:tiny"])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    assert bases.sha256.__wrapped__("someone/base") == bases.sha256("builtin:tiny")
    assert asked == {"someone/base": list(bases.FOLDER)}


@pytest.mark.parametrize("base", ["builtin:huge", "/no/such/folder", "./nowhere"])
def test_a_base_that_is_not_there_is_refused_in_one_line(base):
    with pytest.raises(ConfigError) as caught:
        bases.locate(base)
    assert f"model.base={base!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "lacks"),
    [
        ((), "config.json"),
        (("config.json",), "tokenizer"),
        (("config.json", "tokenizer.json"), "safetensors"),
        (("config.json", "tokenizer.json", "pytorch_model.bin"), "safetensors"),
    ],
)
def test_a_model_folder_that_is_not_whole_is_refused_with_what_it_lacks(files, lacks, tmp_path):
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ConfigError, match=lacks):
        bases.locate(str(tmp_path))


def test_the_hash_of_a_base_is_that_of_its_files_wherever_they_lie(tmp_path):
    for file in bases.BUILTIN["builtin:tiny"].iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    assert bases.sha256(str(tmp_path)) == bases.sha256("builtin:tiny")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    bases.sha256.cache_clear()
    assert bases.sha256(str(tmp_path)) != bases.sha256("builtin:tiny")


def in_shards(folder: Path) -> None:
    """Put a base's weights into two files, which an index names."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(weights)}
    for file in set(files.values()):
        held = {name: x for name, x in weights.items() if files[name] == file}
        save_file(held, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_whatever_file_of_a_base_is_opened_its_hash_tells_when_it_changes(tmp_path, monkeypatch):
    folder = shutil.copytree(bases.BUILTIN["builtin:tiny"], tmp_path / "base")
    in_shards(folder)
    (folder / "additional_chat_templates").mkdir()
    for name in ("chat_template.jinja", "additional_chat_templates/tool.jinja"):
        (folder / name).write_text("{{ messages }}")
    for name in ("special_tokens_map.json", "added_tokens.json"):
        (folder / name).write_text("{}")
    opened, really = set(), open

    def opens(file, *given, **named):
        opened.add(Path(str(file)))
        return really(file, *given, **named)

    monkeypatch.setattr("builtins.open", opens)
    bases.tokenizer(str(folder))
    bases.model(str(folder))
    monkeypatch.undo()
    read = {path for path in opened if path.is_relative_to(folder)}
    assert len(read) >= 9, "as of transformers 5.23"
    before = bases.sha256(str(folder))
    for path in read:
        held = path.read_bytes()
        path.write_bytes(held + b"\n")
        bases.sha256.cache_clear()
        assert bases.sha256(str(folder)) != before, path
        path.write_bytes(held)


@pytest.mark.parametrize(
    "name", ["tokenizer.model", "chat_template.jinja", "vocab.json", "merges.txt"]
)
def test_files_that_may_be_part_of_a_base_are_part_of_its_hash(name, tmp_path):
    folder = shutil.copytree(bases.BUILTIN["builtin:tiny"], tmp_path / "base")
    before = bases.sha256(str(folder))
    for content in ("one", "another"):
        (folder / name).write_text(content)
        bases.sha256.cache_clear()
        assert bases.sha256(str(folder)) != before
        before = bases.sha256(str(folder))


def test_notes_beside_a_base_are_not_part_of_its_hash(tmp_path):
    folder = shutil.copytree(bases.BUILTIN["builtin:tiny"], tmp_path / "base")
    (folder / "README.md").write_text("ours")
    (folder / "training.json").unlink()
    (folder / "original").mkdir()
    assert bases.sha256(str(folder)) == bases.sha256("builtin:tiny")


def test_the_hash_of_a_gguf_file_is_its_own_and_that_of_the_tokenizer_beside_it(tmp_path):
    base = tmp_path / "model[1].gguf"
    base.write_bytes(b"GGUF")
    before = bases.sha256(str(base))
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    (tmp_path / "config.json").write_text("{}")
    bases.sha256.cache_clear()
    assert bases.sha256(str(base)) == before
    for name, content in (("model[1].gguf", b"GGUG"), ("tokenizer_config.json", b"{}")):
        (tmp_path / name).write_bytes(content)
        bases.sha256.cache_clear()
        assert bases.sha256(str(base)) != before
        before = bases.sha256(str(base))


def test_an_adapter_on_a_16_bit_base_is_float32_and_learns_as_on_the_whole_one(made, blocks):
    options = Train(batch_size=4, length=32, dtype="bfloat16")
    half = model.warm(Model(rank=2, quantization="bfloat16"), 0, SCRIPTS, 7)
    base = half.model.get_base_model()
    assert {p.dtype for p in base.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert {p.dtype for p in half.parameters.values()} == {torch.float32}
    assert algebra.sha256(half.start) == algebra.sha256(made.start)
    losses = []
    for one in (made, half):
        model.write(one, {})
        plan = train.Plan(0, 4, 20, 0.01, "k")
        losses.append(train.fit(one, blocks, options, plan, optimizer.start(one, {})).losses)
    np.testing.assert_allclose(*losses, rtol=0.02)
    assert losses[0] != losses[1]


@pytest.fixture(scope="module")
def four_bits():
    """Return the tiny base with 4-bit layers and an adapter of rank 2."""
    return model.warm(Model(rank=2, quantization="nf4"), 0, SCRIPTS, 7)


def test_a_4_bit_base_holds_its_layers_in_4_bits_and_starts_from_the_same_adapter(four_bits, made):
    base = four_bits.model.get_base_model()
    layers = [m for m in base.modules() if isinstance(m, Linear4bit)]
    assert len(layers) == 4 * 7
    assert all(layer.weight.dtype == torch.uint8 for layer in layers)
    assert all(layer.weight.quant_state.quant_type == "nf4" for layer in layers)
    assert algebra.sha256(four_bits.start) == algebra.sha256(made.start)


def test_a_4_bit_base_is_nearly_the_base(four_bits, base_logits):
    model.write(four_bits, {})
    found = logits(four_bits.model)
    assert 0 < np.abs(found - base_logits).mean() < 0.2 * np.abs(base_logits).mean()


def test_an_adapter_learns_over_4_bit_layers_which_stay_as_they_are(four_bits, blocks):
    options = Train(batch_size=4, length=32, dtype="float32")
    frozen = {
        n: p.detach().clone() for n, p in four_bits.model.named_parameters() if not p.requires_grad
    }
    model.write(four_bits, {})
    logits(four_bits.model)  # evaluating comes before training too
    plan = train.Plan(0, 4, 20, 0.01, "k")
    fitted = train.fit(four_bits, blocks, options, plan, optimizer.start(four_bits, {}))
    assert fitted.losses[-1] < fitted.losses[0] - 0.2
    trained = model.read(four_bits)
    assert all(np.any(trained[n] != x) for n, x in four_bits.start.items())
    now = dict(four_bits.model.named_parameters())
    assert all(torch.equal(now[n], p) for n, p in frozen.items())


def refused(base: str = "builtin:tiny") -> str:
    with pytest.raises(ConfigError) as caught:
        bases.model(base, "nf4")
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith("model.quantization='nf4' ")
    assert said.endswith("choose 'none'")
    return said


def test_4_bits_of_a_gguf_file_are_refused(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    assert "GGUF" in refused(str(path))


def test_4_bits_without_bitsandbytes_do_not_blame_the_base(monkeypatch):
    monkeypatch.setattr(bases, "find_spec", lambda name: None)
    assert "pip install bitsandbytes" in refused()


@pytest.mark.parametrize(
    "error", [ImportError("no module named bitsandbytes"), RuntimeError("no such device\nmore")]
)
def test_a_machine_that_cannot_hold_4_bits_is_told_in_one_sentence(error, monkeypatch):
    def fails(**_):
        raise error

    monkeypatch.setattr(bases, "BitsAndBytesConfig", fails)
    assert str(error).partition("\n")[0] in refused()


def test_a_base_without_a_linear_layer_is_not_called_a_4_bit_one(monkeypatch):
    monkeypatch.setattr(bases, "_load", lambda *_, **__: torch.nn.Embedding(2, 2))
    assert "no linear layer" in refused()


def test_memory_that_runs_out_over_4_bits_is_no_fault_of_the_settings(monkeypatch):
    def fails(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(bases, "_load", fails)
    with pytest.raises(torch.OutOfMemoryError):
        bases.model("builtin:tiny", "nf4")


def test_a_4_bit_base_is_not_sharded(monkeypatch):
    monkeypatch.setattr(model.ranks, "world", lambda: 2)
    with pytest.raises(ConfigError, match="choose 'ddp\\(\\)', or quantization 'bfloat16'"):
        model.warm(Model(rank=2, quantization="nf4"), 0, "", 7, "fsdp()")
