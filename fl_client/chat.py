"""A conversation as a base wants it written: its own chat template, put around what was said.

The template is rendered once for each order of roles, with marks where the turns go; what it prints between the marks
is kept. So no text ever goes through a template, however many rows there are, and where an answer begins and ends is
known and not guessed. transformers renders templates in a sandbox; no code of a model folder runs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import TemplateError

from fl_client import bases, spec
from fl_client.config import Study
from fl_client.corpus import CorpusError
from fl_client.model import Warm
from fl_client.site import Own
from tasks.task import ASSISTANT, Example, Task, Turn

# For a base without a template. Lines end before an answer, not spaces: an answer then begins as a word does.
PLAIN = (
    "{% for m in messages %}{{ m.role }}:\n{{ m.content }}"
    "{{ eos_token if m.role == 'assistant' else '\n' }}{% endfor %}"
)
# Some templates print today's date; a seed must mean the same tomorrow.
DATE = "{% macro strftime_now(format) %}01 Jan 2025{% endmacro %}"
FIRST = ("user", ASSISTANT)


class Frame(NamedTuple):
    """What a template prints before each turn, and the token that closes the last ("" if it is none of its own)."""

    before: tuple[str, ...]
    end: str


def framed(own: Own) -> Own:
    """Return a silo whose conversations are written as its base wants them; raises ``ConfigError``."""
    task: Task = spec.build(own.study.task, "task")
    if not task.chat:
        return own
    base = own.study.model.base
    train, valid, test = (tuple(_written(base, e) for e in split) for split in own.site[1:])
    return own._replace(site=own.site._replace(train=train, valid=valid, test=test))


def closed(made: Warm, study: Study) -> Warm:
    """Return a model whose end mark is the one that closes an answer in this study's task."""
    task: Task = spec.build(study.task, "task")
    end = frame(study.model.base, FIRST).end if task.chat else ""
    return made._replace(end=made.tokenizer.convert_tokens_to_ids(end)) if end else made


def _written(base: str, example: Example) -> Example:
    """Return a conversation as what is given and what is said, in turns, the frame around it in what is given."""
    before = frame(base, (*(turn.role for turn in example.turns), ASSISTANT)).before
    given, written = "", []
    for glue, turn in zip(before, example.turns, strict=False):
        given += glue
        if turn.role == ASSISTANT:
            written += [Turn("user", given), turn]
            given = ""
        else:
            given += turn.text
    return example._replace(turns=tuple(written), prompt=given + before[-1])


@lru_cache(maxsize=1024)
def frame(base: str, roles: tuple[str, ...]) -> Frame:
    """Return what the template of a base prints around turns of these roles, the last an assistant's.

    Raises ``CorpusError`` where the template refuses such a conversation, or leaves a turn out.
    """
    tokenizer = bases.tokenizer(base)
    marks = [f"\ue000{number}\ue001" for number in range(len(roles))]
    rest = _rendered(base, tokenizer, roles, marks)
    before: list[str] = []
    end = ""
    for role, mark in zip(roles, marks, strict=True):
        glue, found, rest = rest.partition(mark)
        if not found or mark in rest:
            raise CorpusError(
                f"the chat template of model.base={base!r} does not print each of {', '.join(roles)} once; "
                "choose another base, or other messages"
            )
        before.append(glue)
        if role == ASSISTANT:  # its end mark is learned with the answer, so the frame leaves it out
            end, rest = _end(tokenizer, rest)
    return Frame(tuple(before), end)


def _rendered(base: str, tokenizer: Any, roles: tuple[str, ...], marks: list[str]) -> str:
    messages = [{"role": r, "content": m} for r, m in zip(roles, marks, strict=True)]
    try:
        template = tokenizer.get_chat_template() if tokenizer.chat_template else PLAIN
        text: str = tokenizer.apply_chat_template(
            messages, chat_template=DATE + template, tokenize=False
        )
    except (TemplateError, ValueError, TypeError) as error:
        first = str(error).partition("\n")[0]
        raise CorpusError(
            f"the chat template of model.base={base!r} refuses messages of {', '.join(roles)}: {first}; "
            "choose another base, or other messages"
        ) from error
    return text


def _end(tokenizer: Any, text: str) -> tuple[str, str]:
    """Return the token of the tokenizer's own that a text begins with, and what follows it."""
    begun = text.lstrip()
    own = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    end = max((token for token in own if begun.startswith(token)), key=len, default="")
    return (end, begun.removeprefix(end)) if end else ("", text)
