"""Causal language modelling: every byte of the text is learned. The score is bits per byte."""

from __future__ import annotations

from tasks.task import Example, Row, Task, example


def causal_lm() -> Task:
    """Learn running text."""

    def read(row: Row) -> Example | None:
        text = row["text"].strip()
        return example(row, text) if text else None

    return Task(read)
