"""What ours and the peers work on: a base of random weights, text of made-up words, and the study that says it all."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from benchmarks.gpu import large
from benchmarks.speed.peers import plain

# hidden, intermediate, layers, heads, key-value heads
BASES = {"6.5M": (256, 704, 7, 8, 2), "80M": (768, 2048, 12, 12, 4), "tiny": (64, 128, 2, 2, 2)}
LENGTH, RANK = 128, 8
LETTERS = "कखगचजटडतदनपबमयरलवसह"


class Place(NamedTuple):
    """Where a benchmark works, and on what."""

    folder: Path
    base: str
    data: str
    silos: int
    rounds: int
    steps: int
    bf16: bool

    def asked(self) -> dict[str, Any]:
        """Return all of it as plain values, for a peer."""
        found = {"base": self.base, "data": self.data, "length": LENGTH, "bf16": self.bf16}
        return found | {"silos": self.silos, "rounds": self.rounds, "steps": self.steps}

    def study(self, **changes: object) -> Path:
        """Write the same work as a study of ours and return its file; the folder is its own."""
        dtype = "bfloat16" if self.bf16 else "float32"
        tables: dict[str, dict[str, object]] = {
            "study": {
                "name": "speed", "strategy": "fedavg(lora='everyone', rows='everyone')",
                "codec": "float32()", "rounds": self.rounds,
            },
            "model": {"base": self.base, "rank": RANK, "alpha": 2 * RANK, "rows": "none"},
            "train": {"steps": self.steps, "batch_size": 1, "length": LENGTH, "lr": 1e-3, "dtype": dtype,
                "keep_optimizer": False},  # nor do the peers: a visit begins with a new one
            "alone": {"enabled": False},
            "evaluate": {"every": 0},  # nor do the peers
            "simulation": {
                "data": self.data, "languages": "hi", "silos": self.silos, "partition": "by_source()",
            },
        }  # fmt: skip
        for key, value in changes.items():
            table, _, name = key.partition("__")
            tables[table][name] = value
        text = "".join(
            f"[{table}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in rows.items())
            for table, rows in tables.items()
        )
        file = self.folder / "study.toml"
        file.write_text(text)
        return file

    def own(self, name: str) -> Path:
        """Return a new folder of this name."""
        folder = self.folder / name
        number = sum(1 for _ in self.folder.glob(f"{name}*"))
        folder = folder.with_name(f"{name}-{number}")
        folder.mkdir()
        return folder


@contextmanager
def place(base: str, silos: int, rounds: int, steps: int, bf16: bool = False) -> Iterator[Place]:
    """Give a temporary place with a base of this size and text for so many silos."""
    with TemporaryDirectory(prefix="speed-") as held:
        folder = Path(held)
        data = folder / "text"
        data.mkdir()
        for silo in range(silos):
            (data / f"{plain.name(silo)}.jsonl").write_text(_text(silo))
        made = large(folder / "base", BASES[base])
        yield Place(folder, made, str(data), silos, rounds, steps, bf16)


def _text(silo: int) -> str:
    """Return the text of a silo as JSON lines: enough for a few blocks of training.

    Ours takes a tenth of the documents for validation: they are short, and so many that none of a thousand silos is
    left without.
    """
    draw, rows = random.Random(silo), []
    splits = [("train", 10)] * 150 + [("test", 10)] * 2
    for number, (split, words) in enumerate(splits):
        said = ["".join(draw.choices(LETTERS, k=draw.randint(2, 6))) for _ in range(words)]
        doc = f"{plain.name(silo)}-{number}"
        named = {"lang": "hi", "source": plain.name(silo), "split": split, "doc": doc}
        rows.append(json.dumps(named | {"text": " ".join(said)}, ensure_ascii=False))
    return "\n".join(rows) + "\n"
