"""Test text as tasks of EleutherAI's lm-evaluation-harness, one for each language, so that others can check a score.

The harness reads such a folder with ``--include_path`` and needs no network. Test rows are a silo's private text: they
lie in the folder that the silo names, which only its owner can open, and nothing here sends them anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fl_client import fresh, spec
from fl_client.config import Study, from_flat
from fl_client.memory import write_whole
from fl_client.numbers import MOST
from fl_client.plain import errors
from tasks.task import ASSISTANT, Example, Site, Task

Table = dict[str, Any]
README = """# Test text, as tasks of lm-evaluation-harness

**This folder holds private text.** Leave it where it is: whoever can read it can read the text of the silo.

    lm_eval --model hf --model_args pretrained={base} \\
        --include_path {folder} --tasks {tag}

That scores the base. For an adapter give `pretrained=BASE,peft=ADAPTER`; where its token rows are trained on a base of
tied embeddings, which the harness cannot load, merge it first:
`PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder)`.

The files name the rows by where they lie now; write them again rather than move them.

The numbers come near those of a report and need not equal them: the harness puts other marks around a text, counts no
end mark after a label, and its chrf has letters only, where a report's chrF++ counts words as well.
"""
app = typer.Typer()
Out = Annotated[Path, typer.Option(help="A new folder for the tasks; it will hold private text.")]


@app.command()
def harness(
    out: Out,
    folder: Annotated[Path, typer.Option("--dir", help="The silo's folder, made by join.")] = Path(
        "silo"
    ),
    task: Annotated[str, typer.Option(help="What is tested, as a study writes it.")] = Study().task,
) -> None:
    """Write this silo's test text as tasks of lm-evaluation-harness. Nothing leaves this machine."""
    with errors():
        from fl_client import chat, site

        study = from_flat({"task": task, "evaluate.characters": MOST})
        own = chat.framed(site.own(study, site.Place(silo=str(folder.absolute()))))
        written = write(out, own.study, [own.site])
    typer.echo(f"{', '.join(written)} in {out}, which holds private text: see its README.md")


def write(out: Path, study: Study, sites: Sequence[Site]) -> list[str]:
    """Write the test text of silos, framed for their base, and return the names of the tasks.

    Raises ``ConfigError`` where the folder is not empty.
    """
    from fl_client.site import by_language

    task: Task = spec.build(study.task, "task")
    tag, end = f"bhasha_{spec.parse(study.task, 'task')[0].name}", closing(study, task)
    names = []
    with fresh.folder(out) as part:
        for lang, spoken in by_language(e for own in sites for e in own.test).items():
            rows, name = f"{lang}.jsonl", f"{tag}_{lang}"
            lines = (json.dumps(row(task, e, end), ensure_ascii=False) + "\n" for e in spoken)
            write_whole(part / rows, "".join(lines).encode())
            table = about(name, tag, out.absolute() / rows) | asks(task, study, end)
            text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in table.items())
            write_whole(part / f"{name}.yaml", text.encode())
            names.append(name)
        write_whole(part / "README.md", _page(out, tag, study.model.base).encode())
    return names


def _page(out: Path, tag: str, base: str) -> str:
    from fl_client import bases

    return README.format(folder=out.absolute(), tag=tag, base=bases.locate(base)[0])


def closing(study: Study, task: Task) -> str:
    """Return the text of the mark that closes an answer of the assistant, "" where the task has none."""
    if not task.chat:
        return ""
    from fl_client import bases, chat

    base = study.model.base
    return chat.frame(base, chat.FIRST).end or str(bases.tokenizer(base).eos_token or "")


def row(task: Task, example: Example, end: str) -> Table:
    """Return one test row as the harness reads it: a text, or what is given and what is wanted."""
    if task.score is None:
        return {"text": example.prompt + example.text}
    turns = (t.text + end if t.role == ASSISTANT else t.text for t in example.turns)
    asked = {"prompt": "".join(turns) + example.prompt, "response": example.text}
    return asked | ({"label": task.choices.index(example.text)} if task.choices else {})


def about(name: str, tag: str, rows: Path) -> Table:
    """Return the keys that every task has: JSON, which is YAML too."""
    return {
        "task": name,
        "tag": tag,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "num_fewshot": 0,
        "target_delimiter": "",
        "metadata": {"version": 1},
    }


def asks(task: Task, study: Study, end: str) -> Table:
    """Return how the harness tests this task: bits per byte, a choice among labels, or chrF of what is written."""
    if task.score is None:
        return {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [_metric("bits_per_byte", "bits_per_byte", better=False)],
        }
    if task.choices:
        return {
            "output_type": "multiple_choice",
            "doc_to_text": "{{prompt}}",
            "doc_to_target": "label",
            "doc_to_choice": list(task.choices),
            "metric_list": [_metric("acc", "mean")],
        }
    until = [end] if end else [] if task.chat else ["\n"]
    return {
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{response}}",
        "generation_kwargs": {
            "until": until,
            "do_sample": False,
            "max_gen_toks": study.evaluate.answer_tokens,
        },
        "metric_list": [_metric("chrf", "chrf")],
    }


def _metric(name: str, aggregation: str, better: bool = True) -> Table:
    return {"metric": name, "aggregation": aggregation, "higher_is_better": better}
