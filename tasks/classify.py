"""Classification by words: the model reads a text and says which label it has (Brown et al. 2020, arXiv 2005.14165).

A row holds ``text`` and ``label``. The labels are the study's, so they are public: a silo's own are never collected. A
text is given the label whose words, with the end mark after them, the model thinks likeliest. We do not divide by the
length, unlike the paper: with its end mark a label is a whole answer, its likelihood is what training raises, and the
most likely label is the one that errs least. Divided by length, a label would gain by being spelt in many tokens, which
in a badly tokenised language says nothing about the text.
"""

from __future__ import annotations

from collections.abc import Sequence

from tasks.task import Example, Row, Task, example

TEXT = "{text}"


def classify(labels: str = "negative,neutral,positive", prompt: str = "{text}\nlabel:\n") -> Task:
    """Learn which of ``labels`` (commas between) a text has; ``prompt`` is what is read, with ``{text}`` in it."""
    known = tuple(label.strip() for label in labels.split(","))
    if len(known) < 2 or not all(known) or len(set(known)) < len(known):
        raise ValueError(f"{labels=} must be two different words or more, with commas between")
    if prompt.count(TEXT) != 1:
        raise ValueError(f"{prompt=} must hold {TEXT} once, where a row's text goes")

    def read(row: Row) -> Example | None:
        text, label = row["text"].strip(), str(row["label"]).strip()
        if not text:
            return None
        if label not in known:
            raise ValueError(
                f"label={label!r} is unknown; the study knows {', '.join(known)}: correct the row or the study's task"
            )
        return example(row, label, prompt=prompt.replace(TEXT, text), key=text)

    return Task(read, score, fields=(("text", "label"),), choices=known)


def score(answers: Sequence[str], examples: Sequence[Example]) -> dict[str, float]:
    """Return ``accuracy`` and ``macro_f1``, from 0 to 100.

    Macro-F1 is the mean over the labels that occur in the examples or among the answers.
    """
    if not examples or len(answers) != len(examples):
        raise ValueError(f"{len(answers)} answers to {len(examples)} examples; give one to each")
    wanted = [e.text for e in examples]
    right = sum(a == w for a, w in zip(answers, wanted, strict=True))
    each = [_f1(label, answers, wanted) for label in sorted({*answers, *wanted})]
    return {"accuracy": 100 * right / len(wanted), "macro_f1": 100 * sum(each) / len(each)}


def _f1(label: str, answers: Sequence[str], wanted: Sequence[str]) -> float:
    both = sum(a == w == label for a, w in zip(answers, wanted, strict=True))
    return 2 * both / (answers.count(label) + wanted.count(label))
