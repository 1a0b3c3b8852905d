"""Instruction tuning: what the assistant says is learned, what it was asked is given (Wei et al., arXiv 2109.01652).

A row holds ``prompt`` and ``response``, or ``messages``: a list of ``{"role", "content"}`` in several turns, in a csv
file as JSON. All turns of the assistant are learned, in one pass over the conversation; how a base marks turns is its
own affair and is put around them where its tokenizer is. We depart from the paper in taking rows as they are: no
templates are mixed in. Scored by chrF++ of the last response.
"""

from __future__ import annotations

import json
from typing import Any

from tasks.task import ASSISTANT, Example, Row, Task, Turn, example, worded
from tasks.translate import chrf

ROLES = ("system", "user", ASSISTANT)


def instruct() -> Task:
    """Learn to answer: rows of prompt and response, or of messages in several turns."""
    return Task(read, chrf, fields=(("messages",), ("prompt", "response")), chat=True)


def read(row: Row) -> Example | None:
    """Return the conversation of a row up to the assistant's last turn; None where a turn is empty or none answers.

    Raises ``ValueError`` where ``messages`` are not messages.
    """
    turns = _messages(row["messages"]) if row.get("messages") else _pair(row)
    while turns and turns[-1].role != ASSISTANT:  # a question that nobody answered
        turns.pop()
    if len(turns) < 2 or not all(turn.text for turn in turns):
        return None
    # A conversation may stand in several rows, each a turn longer: they share their first answer.
    first = next(turn.text for turn in turns if turn.role == ASSISTANT)
    return example(row, turns[-1].text, turns=tuple(turns[:-1]), key=first)


def _pair(row: Row) -> list[Turn]:
    asked, answered = (worded(row, name) for name in ("prompt", "response"))
    return [Turn("user", asked), Turn(ASSISTANT, answered)]


def _messages(given: Any) -> list[Turn]:
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            raise ValueError("its messages are no JSON; write a list of role and content") from None
    if not isinstance(given, list):
        raise ValueError(f"its messages are {given!r:.60}; write a list of role and content")
    return [_turn(number, message) for number, message in enumerate(given, 1)]


def _turn(number: int, message: Any) -> Turn:
    role, text = (
        (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
    )
    if role not in ROLES:
        raise ValueError(f"its message {number} has role={role!r}; use {', '.join(ROLES)}")
    if not isinstance(text, str):
        raise ValueError(f"its message {number} has content={text!r:.60}; give it as a text")
    return Turn(role, text.strip())
