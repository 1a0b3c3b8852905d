"""Conversations as a base's template wants them: what training sees is what the template prints, answers marked."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client import bases, chat
from fl_client.config import ConfigError, from_flat
from fl_client.merged import Slices
from fl_client.model import Warm
from fl_client.site import Own
from tasks import encode
from tasks.encode import IGNORED
from tasks.instruct import instruct
from tasks.task import ASSISTANT, Example, Site

quick = settings(deadline=None, derandomize=True, max_examples=40, database=None)
TINY = bases.BUILTIN["builtin:tiny"]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('no role ' + m['role']) }}{% endif %}{% endfor %}"
)
BARE = "{% for m in messages %}{{ m['role'][0] }}> {{ m['content'] }}\n{% endfor %}"
DATED = "{{ strftime_now('%d %B %Y') }}\n" + CHATML
TEMPLATES = {"chatml": CHATML, "llama": LLAMA, "bare": BARE, "dated": DATED}
SAID = st.text("abcঅসম<|>{}% \n", min_size=1, max_size=12).filter(lambda s: s.strip() == s and s)


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """Return a function that gives the folder of a base with this template, or with none."""
    where = tmp_path_factory.mktemp("bases")

    def make(template: str) -> str:
        folder = where / str(abs(hash(template)))
        if not folder.exists():
            folder.mkdir()
            for path in TINY.glob("*"):
                (folder / path.name).symlink_to(path)
            tokenizer = bases.tokenizer("builtin:tiny").__class__.from_pretrained(TINY)
            (folder / "tokenizer.json").unlink()
            (folder / "tokenizer_config.json").unlink()
            if "im_end" in template:
                marks = ["<|im_start|>", "<|im_end|>"]
                tokenizer.add_special_tokens({"additional_special_tokens": marks})
            tokenizer.chat_template = template or None
            tokenizer.save_pretrained(folder)
        return str(folder)

    return make


def own(base: str, *examples: Example) -> Own:
    study = from_flat({"task": "instruct()", "model.base": base})
    return Own(Site("as-1", tuple(examples), tuple(examples), ()), Path(), study)


def conversation(*turns: tuple[str, str]) -> Example:
    messages = [{"role": role, "content": text} for role, text in turns]
    made = instruct().read({"messages": messages, "lang": "as"})
    assert made is not None
    return made


def packed(base: str, example: Example) -> tuple[str, list[str], int]:
    """Return the stream that is trained on, what of it is learned, and the end mark."""
    (framed,) = chat.framed(own(base, example)).site.train
    tokenizer = bases.tokenizer(base)
    warm = Warm(None, tokenizer, {}, {}, {}, {}, tokenizer.eos_token_id, Slices({}, []), {})
    end = chat.closed(warm, own(base).study).end
    blocks = encode.pack([framed], warm.tokenize, end, 4000)
    learned: list[list[int]] = [[]]
    for token, label in zip(blocks.ids[0, 1:], blocks.labels[0, 1:], strict=True):
        if label != IGNORED:
            learned[-1].append(int(token))
        elif learned[-1]:
            learned.append([])
    stream = blocks.ids[0, 1:].tolist()
    last = max(i for i, label in enumerate(blocks.labels[0, 1:]) if label != IGNORED)
    return (
        tokenizer.decode(stream[: last + 1]),
        [tokenizer.decode(part) for part in learned if part],
        end,
    )


def whole(base: str, *turns: tuple[str, str]) -> str:
    """Return what the template itself prints."""
    messages = [{"role": role, "content": text} for role, text in turns]
    text = bases.tokenizer(base).apply_chat_template(messages, tokenize=False)
    assert isinstance(text, str)
    return text


@quick
@given(questions=st.lists(st.tuples(SAID, SAID), min_size=1, max_size=3))
@pytest.mark.parametrize("name", ["chatml", "llama"])
def test_training_reads_what_the_template_prints_and_learns_the_answers(name, questions, base):
    where = base(TEMPLATES[name])
    turns = [turn for q, a in questions for turn in (("user", q), (ASSISTANT, a))]
    stream, learned, end = packed(where, conversation(*turns))
    mark = bases.tokenizer(where).decode([end])
    squeezed = whole(where, *turns).replace(f" {mark}", mark).strip()
    assert stream == squeezed
    assert learned == [f"{answer}{mark}" for _, answer in questions]


def test_the_end_mark_is_the_template_s_own_where_it_prints_a_token(base):
    for name, mark in (("chatml", "<|im_end|>"), ("llama", "<|endoftext|>")):
        *_, end = packed(base(TEMPLATES[name]), conversation(("user", "a"), (ASSISTANT, "b")))
        assert bases.tokenizer(base(TEMPLATES[name])).decode([end]) == mark


def test_where_the_template_prints_no_token_the_base_s_own_end_mark_closes_an_answer(base):
    turns = [("user", "a"), (ASSISTANT, "b"), ("user", "c"), (ASSISTANT, "d")]
    stream, learned, _ = packed(base(BARE), conversation(*turns))
    assert stream == "u> a\na> b<|endoftext|>\nu> c\na> d<|endoftext|>"
    assert learned == ["b<|endoftext|>", "d<|endoftext|>"]


def test_a_base_without_a_template_gets_a_plain_one(base):
    turns = [("system", "x"), ("user", "a"), (ASSISTANT, "b"), ("user", "c"), (ASSISTANT, "d")]
    stream, learned, _ = packed(base(""), conversation(*turns))
    assert stream == (
        "system:\nx\nuser:\na\nassistant:\nb<|endoftext|>user:\nc\nassistant:\nd<|endoftext|>"
    )
    assert learned == ["b<|endoftext|>", "d<|endoftext|>"]


def test_a_system_turn_is_given(base):
    turns = [("system", "x"), ("user", "a"), (ASSISTANT, "b")]
    stream, learned, _ = packed(base(CHATML), conversation(*turns))
    assert stream.startswith("<|im_start|>system\nx<|im_end|>\n")
    assert learned == ["b<|im_end|>"]


def test_what_was_said_never_goes_through_the_template(base):
    said = "{{ 7 * 7 }}{% for %}"
    stream, learned, _ = packed(base(CHATML), conversation(("user", said), (ASSISTANT, said)))
    assert said in stream
    assert learned == [f"{said}<|im_end|>"]


def test_a_template_that_prints_the_date_prints_the_same_every_day(base):
    stream, *_ = packed(base(DATED), conversation(("user", "a"), (ASSISTANT, "b")))
    assert stream.startswith("01 Jan 2025\n<|im_start|>user")


@pytest.mark.parametrize(
    ("template", "turns", "words"),
    [
        (LLAMA, [("system", "x"), ("user", "a")], ["refuses messages of system, user, assistant"]),
        (LLAMA, [("system", "x"), ("user", "a")], ["no role system", "other messages"]),
        ("{{ messages[-1]['content'] }}", [("user", "a")], ["does not print each of user"]),
        ("{% for m in messages %}{{ m.content * 2 }}{% endfor %}", [("user", "a")], ["once"]),
        ("{% for %}", [("user", "a")], ["refuses"]),
        ("{{ messages.__class__.__mro__ }}", [("user", "a")], ["refuses", "unsafe"]),
    ],
)
def test_a_template_that_does_not_take_a_conversation_is_named_in_plain_words(
    template, turns, words, base
):
    where = base(template)
    with pytest.raises(ConfigError) as caught:
        chat.framed(own(where, conversation(*turns, (ASSISTANT, "b"))))
    for word in (*words, f"model.base={where!r}"):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_tasks_are_left_as_they_are(base):
    study = from_flat({"task": "translate()", "model.base": base(CHATML)})
    held = Own(Site("as-1", (Example("a", "as", "b"),), (), ()), Path(), study)
    assert chat.framed(held) is held
    warm = Warm(None, bases.tokenizer(study.model.base), {}, {}, {}, {}, 5, Slices({}, []), {})
    assert chat.closed(warm, study) is warm


def test_what_is_counted_is_what_the_assistant_said(base):
    turns = [("user", "প্ৰশ্ন"), (ASSISTANT, "উত্তৰ"), ("user", "আৰু"), (ASSISTANT, "শেষ")]
    (framed,) = chat.framed(own(base(CHATML), conversation(*turns))).site.train
    assert framed.learned == "উত্তৰশেষ"
