"""``fl-client served`` and ``fl-client export``: what a silo gets of a study, shown and written to a folder."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fl_client import fresh, silo
from fl_client import served as held
from fl_client.config import ConfigError
from fl_client.plain import errors
from fl_client.served import Served
from fl_client.start import Dir, Json

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
BITS = {"base": "before", "alone": "alone", "together": "together"}  # columns beside what is served
app = typer.Typer()


@app.command()
def served(folder: Dir = Path("silo"), as_json: Json = False) -> None:
    """Show what this silo serves of each study, and what its test text says of it. Nothing leaves this machine."""
    with errors():
        silo.read(folder)  # that there is a silo
        found, damaged = held.every(folder)
    for error in damaged:
        typer.echo(str(error), err=True)
    if as_json:
        print(json.dumps([one._asdict() | {"folder": str(one.folder)} for one in found]))  # noqa: T201
        return
    table = Table("study", "serves", "language", *BITS.values(), "served", "less than before")
    for one in found:
        for lang in sorted(one.scores.get(one.served, {"": {}})):
            now, before = one.bits(one.served, lang), one.bits("base", lang)
            less = f"{100 * (1 - now / before):.1f} %" if now and before else ""
            bits = [_cell(one.bits(name, lang)) for name in BITS]
            table.add_row(one.study, one.served, lang, *bits, _cell(now), less)
    Console().print(table)
    Console().print(
        "bits per byte on this silo's test text; for one of these: fl-client export STUDY --out FOLDER"
        if found
        else "no study has been scored here yet"
    )


def _cell(bits: float | None) -> str:
    return "" if bits is None else f"{bits:.4f}"


@app.command()
def export(
    study: Annotated[str, typer.Argument(help="A study's name, as `fl-client served` shows it.")],
    out: Annotated[Path, typer.Option(help="A new folder for the model.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="Write a whole model, which needs no PEFT to load.")
    ] = False,
    folder: Dir = Path("silo"),
) -> None:
    """Write what this silo serves of a study to a folder, with a page that says what it is and how to load it.

    It was trained on this silo's text and may give some of it away: who gets it is for the silo to decide.
    """
    with errors():
        own, one, out = silo.read(folder), held.chosen(folder, study), out.absolute()
        with fresh.folder(out) as part:
            if merge:
                _merged(one, own, part)
            else:
                for name in ADAPTER:
                    shutil.copyfile(one.folder / name, part / name)
            (part / "README.md").write_text(card(one, own, merge))
    typer.echo(f"{out}: {held.WORDS[one.served]}; its README.md says how to load it")


def _merged(one: Served, own: silo.Settings, out: Path) -> None:
    """Write a whole model: the base with the adapter in its weights, float32, and the tokenizer."""
    from peft import PeftModel

    from fl_client import bases
    from fl_client.checks import pinned

    if not (check := pinned.base(own)).ok:
        raise ConfigError(f"{check.found}; {check.remedy}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of token rows, which PEFT misses where none were trained
        tuned = PeftModel.from_pretrained(bases.model(own.base), str(one.folder))
    model: Any = tuned.merge_and_unload()
    size, free = 4 * model.num_parameters(), shutil.disk_usage(out).free
    if size > free:
        raise ConfigError(
            f"the model takes {size / 1e6:,.0f} MB and {out.parent} has {free / 1e6:,.0f} MB left;"
            " make room, choose another --out or leave --merge away"
        )
    if bases.locate(own.base)[1]:  # a GGUF file was opened into floats, and is saved as these
        model.hf_quantizer = None
        vars(model.config).pop("quantization_config", None)
    model.save_pretrained(out)
    bases.tokenizer(own.base).save_pretrained(out)


def card(one: Served, own: silo.Settings, merged: bool) -> str:
    """Return the page of an exported model: what it is, how good it is, how it is loaded."""
    rows = []
    for lang in sorted(one.scores.get(one.served, {})):
        cells = (_cell(one.bits(name, lang)) for name in ("base", "alone", one.served))
        rows.append(f"| {lang} | {' | '.join(cells)} |")
    table = "\n".join(["| language | before | alone | served |", "|---|---|---|---|", *rows])
    load = MERGED if merged else PEFT.format(base=_where(own.base))
    return CARD.format(
        study=one.study,
        silo=own.name,
        federation=own.federation,
        what=held.WORDS[one.served],
        base=one.base,
        sha256=own.base_sha256,
        table=table if rows else "This study scored nothing.",
        load=load,
    )


def _where(base: str) -> str:
    """Return the arguments with which Transformers loads a base."""
    from fl_client import bases

    folder, gguf = bases.locate(base)
    return f'"{folder}", gguf_file="{gguf}"' if gguf else f'"{folder}"'


CARD = """# {study}, as {silo} serves it

This is {what}, chosen on {silo}'s own validation text in the study {study} of the federation {federation}.
The base is `{base}` (SHA-256 {sha256}); its licence holds for this model too.

Bits per byte on {silo}'s own test text, less is better:

{table}

{load}
**It was trained on private text.** What a model learned can sometimes be read out of it again: give it to nobody who
may not see the text.
"""
PEFT = """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

# in float32, as it was trained and scored
base = AutoModelForCausalLM.from_pretrained({base}, dtype="float32")
model = PeftModel.from_pretrained(base, "FOLDER")  # this folder
tokenizer = AutoTokenizer.from_pretrained({base})
```
"""
MERGED = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER")  # this folder
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```
"""
