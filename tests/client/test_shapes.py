"""Shapes and token rows known from files alone are those of the real model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from fl_client import bases, basis, lora, model, rows, shapes
from fl_client.config import ConfigError, Model, from_flat
from strategies import adapter as algebra

TINY = Path(bases.__file__).parent / "tiny"
SMALL = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 128256, "head_dim": 16,
}  # fmt: skip


def bare(tmp_path: Path, **changes: object) -> Path:
    """Return a folder with the tiny base's configuration and tokenizer, without its weights."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, tmp_path)
    config = json.loads((TINY / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize(
    "options",
    [
        Model(rank=3),
        Model(rank=3, targets="q_proj,v_proj"),
        Model(rank=3, rows="none", targets="layers.1.mlp.up_proj"),
    ],
)
def test_an_adapter_has_the_shapes_that_peft_gives_it(options):
    scripts = "Beng,Deva"
    made = model.warm(options, 0, scripts, 7)
    known = shapes.adapter(shapes.read("builtin:tiny"), options, "builtin:tiny", scripts)
    assert known == algebra.layout(made.start)


def test_a_base_has_as_many_parameters_as_when_it_is_loaded():
    shape = shapes.read("builtin:tiny")
    assert shape.parameters == sum(p.numel() for p in bases.model("builtin:tiny").parameters())
    assert (shape.layers, shape.hidden, shape.heads, shape.vocabulary) == (4, 192, 6, 6144)
    assert shape.source == "the headers of its safetensors"


def test_config_json_alone_says_the_same_as_the_headers(tmp_path):
    with_weights, without = shapes.read("builtin:tiny"), shapes.read(str(bare(tmp_path)))
    assert without.source == "its config.json"
    assert without._replace(source="") == with_weights._replace(source="")


@pytest.mark.parametrize("kind", sorted(shapes.LIKE_LLAMA))
def test_a_family_that_is_known_from_its_configuration_is_built_like_that(kind, tmp_path):
    config = AutoConfig.for_model(kind, **SMALL)
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config)
    config.save_pretrained(tmp_path)
    shape = shapes.read(str(tmp_path))
    head = built.get_output_embeddings()
    linear = {
        name: tuple(layer.weight.shape)
        for name, layer in built.named_modules()
        if isinstance(layer, torch.nn.Linear) and layer is not head
    }
    assert shape.linear == linear
    assert shape.parameters == pytest.approx(built.num_parameters(), rel=0.001)


def test_weights_over_several_files_are_read_together(tmp_path):
    from safetensors.torch import load_file, save_file

    held = load_file(TINY / "model.safetensors")
    names = sorted(held)
    save_file({n: held[n] for n in names[:9]}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({n: held[n] for n in names[9:]}, tmp_path / "model-00002-of-00002.safetensors")
    shutil.copy(TINY / "config.json", tmp_path)
    assert shapes.read(str(tmp_path)) == shapes.read("builtin:tiny")


def test_an_output_of_its_own_is_no_layer_for_an_adapter(tmp_path):
    from safetensors.torch import load_file, save_file

    held = load_file(TINY / "model.safetensors")
    held["lm_head.weight"] = held["model.embed_tokens.weight"].clone()
    save_file(held, bare(tmp_path) / "model.safetensors")
    shape, tied = shapes.read(str(tmp_path)), shapes.read("builtin:tiny")
    assert shape.linear == tied.linear
    assert shape.parameters == tied.parameters + 6144 * 192
    assert (
        shapes.read(str(bare(tmp_path, tie_word_embeddings=False))).parameters == shape.parameters
    )


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("builtin:none", "has no config.json on this machine; give a folder"),
        ("no/such-model", "has no config.json on this machine; give a folder"),
        ("../ no name", "has no config.json on this machine; give a folder"),
    ],
)
def test_a_base_that_is_not_here_is_refused_in_plain_words(base, said):
    with pytest.raises(ConfigError, match=said):
        shapes.read(base)


def test_a_family_whose_configuration_says_too_little_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is a phi3.*; put its safetensors beside it"):
        shapes.read(str(bare(tmp_path, model_type="phi3")))


@pytest.mark.parametrize(
    ("name", "content"), [("config.json", "{"), ("model.safetensors", "x" * 40)]
)
def test_a_damaged_file_is_named_in_plain_words(tmp_path, name, content):
    (bare(tmp_path) / name).write_text(content)
    with pytest.raises(ConfigError, match="cannot be understood .*; put back its config.json"):
        shapes.read(str(tmp_path))


def test_a_configuration_that_lacks_a_size_is_named(tmp_path):
    folder = bare(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    del config["intermediate_size"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="intermediate_size"):
        shapes.read(str(folder))


def test_targets_that_name_no_layer_are_refused_with_what_there_is():
    with pytest.raises(
        ConfigError, match="names no layer of this base; it has down_proj, gate_proj"
    ):
        shapes.adapter(shapes.read("builtin:tiny"), Model(targets="c_attn"), "builtin:tiny", "Beng")


# Token rows.


@pytest.mark.parametrize(
    "scripts", ["", "Beng", "Deva,Latn", "Olck,Orya", "Arab,Gujr,Guru,Mtei,Taml", "Xxxx"]
)
def test_token_rows_are_counted_as_the_model_chooses_them(scripts):
    chosen = lora.token_rows(bases.tokenizer("builtin:tiny"), scripts)
    assert rows.count(TINY, scripts) == len(chosen)


WORDS = [
    "<unk>",
    "<s>",
    "</s>",
    "<0x41>",
    "▁",
    "a",
    "▁ভাষা",
    "ভাষা",
    "▁the",
    "th",
    "é",
    "12",
    "▁ক1",
    "কa",
    "ো",
]


def sentencepiece(kind: str) -> tokenizers.Tokenizer:
    """Return a tokenizer whose symbols are their own text, as those from SentencePiece are."""
    if kind == "unigram":
        made = tokenizers.Tokenizer(
            models.Unigram([(w, -1.0) for w in WORDS], 0, byte_fallback=False)
        )
    else:
        vocabulary = {w: i for i, w in enumerate(WORDS)}
        made = tokenizers.Tokenizer(
            models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True)
        )
    made.normalizer = normalizers.Prepend("▁")
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return made


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("scripts", ["Beng", "Latn", "Beng,Latn", ""])
def test_token_rows_of_a_sentencepiece_tokenizer_are_counted_too(kind, scripts, tmp_path):
    held = PreTrainedTokenizerFast(
        tokenizer_object=sentencepiece(kind), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    held.add_tokens(["যোগ", "plus"])
    held.add_special_tokens({"additional_special_tokens": ["<extra>"]})
    held.save_pretrained(tmp_path)
    assert rows.count(tmp_path, scripts) == len(lora.token_rows(held, scripts))


def test_without_a_tokenizer_file_it_says_what_to_do(tmp_path):
    with pytest.raises(
        ConfigError, match="copy the base's tokenizer.json there, or train none with model.rows"
    ):
        rows.count(tmp_path, "Beng")


def test_a_tokenizer_file_that_is_none_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(ConfigError, match="tokenizer.json cannot be read"):
        rows.count(tmp_path, "Beng")


def test_a_block_longer_than_a_base_reads_is_refused_with_what_it_reads():
    places = shapes.read("builtin:tiny").places
    assert places == 512
    shapes.reads("builtin:tiny", places, 512)
    shapes.reads("unknown", 0, 1 << 20)
    with pytest.raises(
        ConfigError, match=r"^train.length=513 is more than the 512 tokens that 'builtin:tiny'"
    ):
        shapes.reads("builtin:tiny", places, 513)


def test_a_silo_refuses_a_block_longer_than_its_base_reads(made):
    study = from_flat({"train.length": 1024})
    with pytest.raises(ConfigError, match=r"^train.length=1024 is more than the 512 tokens"):
        basis.bounded(made, study)
