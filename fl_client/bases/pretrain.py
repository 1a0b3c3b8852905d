"""Train ``builtin:tiny``, the demonstration base, from a folder of text.

``python -m fl_client.bases.pretrain --data FOLDER --out FOLDER`` trains the tokenizer and a
Llama-style causal LM of 2.75 M parameters, seeded, on one core in about ten minutes. Rows whose
licence is not permissive, rows of the test split and the languages that the demonstration federates
are left out, so that those languages are new to the base.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.progress import track
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fl_client import corpus
from fl_client.bases import card
from fl_client.formats import Row

HELD_OUT = frozenset({"as", "or", "ne", "sat", "brx", "mai", "kok", "ks", "kha", "lus"})
PERMISSIVE = frozenset({"CC0-1.0", "CC-BY", "UDHR", "MPL-2.0"})
# The GPT-2 expression cuts Indic words at every vowel sign; this one keeps letters and marks together.
WORDS = r" ?[\p{L}\p{M}\u200c\u200d]+| ?\p{N}| ?[^\s\p{L}\p{M}\p{N}]+|\s+"
VOCABULARY = 6144
END = "<|endoftext|>"
BLOCK, BATCH = 128, 8
# One text in so many is spelt byte by byte (BPE-dropout of 1, Provilkov et al. 2020, arXiv 1910.13267), so that
# the base knows how UTF-8 goes on and a script it never saw does not take it by surprise.
SPELT = 16


def main(
    data: Annotated[Path, typer.Option(help="Folder of text; its subfolders are languages.")],
    out: Annotated[Path, typer.Option(help="Where the model folder is written.")],
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 3300,
    cap: Annotated[int, typer.Option(help="Characters taken per language at most.")] = 800_000,
    seed: int = 7,
) -> None:
    """Train the demonstration base and write it as a Hugging Face folder."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    texts, sources = select(data, cap, seed)
    tokenizer = train_tokenizer(texts)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    model = new_model(len(tokenizer))
    loss = fit(model, blocks(texts, tokenizer, seed), steps, seed)
    model.to(torch.bfloat16).save_pretrained(out)
    (out / "training.json").write_text(
        json.dumps({"seed": seed, "steps": steps, "loss": loss, "characters": sources}, indent=1)
    )
    card.write(out, model.num_parameters(), sorted(HELD_OUT))


def select(data: Path, cap: int, seed: int) -> tuple[list[str], dict[str, dict[str, int]]]:
    """Return the texts to train on, shuffled, and the characters taken by language and source."""
    folders = [data, data / "permissive-40"] if (data / "permissive-40").is_dir() else [data]
    kept: list[str] = []
    sources: dict[str, Counter[str]] = {}
    for folder in folders:
        have = set(sources)
        for row in _shuffled(_allowed(folder), seed):
            lang, text = row["lang"], row["text"]
            taken = sources.setdefault(lang, Counter())
            if lang in have or taken.total() > cap:
                continue
            taken[f"{row['source']} ({row['licence']})"] += len(text)
            kept.append(text)
    order = np.random.default_rng(seed).permutation(len(kept))
    return [kept[i] for i in order], {k: dict(v) for k, v in sorted(sources.items())}


def _allowed(folder: Path) -> list[Row]:
    paths = corpus.files(folder)
    if folder.name == "permissive-40":
        paths = [p for p in paths if p.parent == folder]
    elif (folder / "permissive-40").is_dir():  # which lies, with credits, beside the languages
        paths = [p for p in paths if corpus.is_language(p.parent.name)]
    rows = (row for path in paths for row in corpus.rows(path))
    return [
        row
        for row in rows
        if row["lang"] not in HELD_OUT
        and row.get("licence") in PERMISSIVE
        and row.get("split") != "test"
    ]


def _shuffled(rows: list[Row], seed: int) -> list[Row]:
    def key(row: Row) -> bytes:
        return hashlib.sha256(f"{seed}{row['text']}".encode()).digest()

    return sorted(rows, key=key)


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of ``VOCABULARY`` entries over NFC text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END
    )


def blocks(texts: list[str], tokenizer: Any, seed: int) -> torch.Tensor:
    """Return packed training blocks as int64 of shape (n, BLOCK), shuffled."""
    spelling = tokenizer.backend_tokenizer.model
    stream: list[int] = []
    for number, text in enumerate(texts):
        spelling.dropout = 1.0 if number % SPELT == 0 else None
        stream += [tokenizer.bos_token_id, *tokenizer.backend_tokenizer.encode(text).ids]
    spelling.dropout = None
    usable = len(stream) // BLOCK * BLOCK
    packed = torch.tensor(stream[:usable]).view(-1, BLOCK)
    return packed[np.random.default_rng(seed).permutation(len(packed))]


def new_model(vocabulary: int) -> LlamaForCausalLM:
    """Return the untrained model: 4 layers, width 192, tied embeddings."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


def fit(model: LlamaForCausalLM, data: torch.Tensor, steps: int, seed: int) -> float:
    """Train in place with AdamW under a cosine; return the mean loss (nats a token) of the last tenth."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: _rate(i, steps))
    last: list[float] = []
    for step in track(range(steps), description="training the base"):
        at = [(step * BATCH + k) % len(data) for k in range(BATCH)]
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=data[at], labels=data[at]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        last.append(loss.item())
    return float(np.mean(last[-max(1, steps // 10) :]))


def _rate(step: int, steps: int, top: float = 3e-3, warm: int = 100) -> float:
    if step < warm:
        return top * (step + 1) / warm
    return top * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm))))


if __name__ == "__main__":
    typer.run(main)
