"""Translation by prompt: a source sentence is given, its translation is learned. Scored by chrF++ (sacrebleu)."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.task import Example, Row, Task, example, worded


def translate(source: str = "en") -> Task:
    """Learn to translate from the language whose text stands in the field ``source`` of each row."""

    def read(row: Row) -> Example | None:
        text, given = row["text"].strip(), worded(row, source)
        if not text or not given:
            return None
        # One sentence may have several translations.
        return example(row, text, prompt=f"{source}: {given}\n{row['lang']}: ", key=given)

    return Task(read, score)


def score(answers: Sequence[str], examples: Sequence[Example]) -> dict[str, float]:
    """Return ``chrf++`` of the answers' first lines against the examples' text: a translation is one line."""
    return chrf([answer.partition("\n")[0].strip() for answer in answers], examples)


def chrf(answers: Sequence[str], examples: Sequence[Example]) -> dict[str, float]:
    """Return ``chrf++``, from 0 to 100, of the answers against the examples' text."""
    from sacrebleu.metrics import CHRF

    if not examples or len(answers) != len(examples):
        raise ValueError(f"{len(answers)} answers to {len(examples)} examples; give one to each")
    corpus = CHRF(word_order=2).corpus_score(list(answers), [[e.text for e in examples]])
    return {"chrf++": float(corpus.score)}
