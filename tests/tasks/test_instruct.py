"""Conversations: what was asked is given, what was answered is learned, and no conversation is cut in two."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.encode import IGNORED, pack
from tasks.instruct import instruct
from tasks.task import Turn

quick = settings(deadline=None, derandomize=True, max_examples=80, database=None)
END = 0
PAIR = {"prompt": " কি খবৰ? ", "response": " ভাল।\nআৰু তোমাৰ? ", "lang": "as"}
SAID = st.text("abcঅসম ", min_size=1, max_size=8).filter(str.strip)


def read(*turns, **given_):
    messages = [{"role": role, "content": text} for role, text in turns]
    return instruct().read({"messages": messages, "lang": "as", **given_})


def tokenize(texts):
    return [[ord(c) for c in text] for text in texts]


def learned(example):
    blocks = pack([example], tokenize, END, 500)
    return "".join(chr(i) for i in blocks.labels[blocks.labels != IGNORED])


def test_a_response_is_learned_whole_and_its_prompt_is_given():
    made = instruct().read(PAIR)
    assert (made.text, made.prompt) == ("ভাল।\nআৰু তোমাৰ?", "")
    assert made.turns == (Turn("user", "কি খবৰ?"),)
    assert learned(made) == "ভাল।\nআৰু তোমাৰ?\0"


def test_every_turn_of_the_assistant_is_learned_and_no_other():
    made = read(
        ("system", "be brief"), ("user", "a"), ("assistant", "B"), ("user", "c"), ("assistant", "D")
    )
    assert made.text == "D"
    assert [turn.role for turn in made.turns] == ["system", "user", "assistant", "user"]
    assert learned(made) == "B\0D\0"
    assert made.learned == "BD"


def test_what_follows_the_last_answer_is_left_out():
    made = read(("user", "a"), ("assistant", "B"), ("user", "c"))
    assert (made.text, made.turns) == ("B", (Turn("user", "a"),))


@pytest.mark.parametrize(
    "turns",
    [
        [],
        [("user", "a")],
        [("assistant", "B")],
        [("user", "a"), ("assistant", " ")],
        [("user", ""), ("assistant", "B")],
    ],
)
def test_a_conversation_without_a_question_or_an_answer_gives_no_example(turns):
    assert read(*turns) is None


def test_messages_of_a_csv_file_are_json():
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "B"}]
    row = {"messages": json.dumps(messages), "lang": "as"}
    assert instruct().read(row) == read(("user", "a"), ("assistant", "B"))


def test_a_row_with_an_empty_cell_of_messages_is_read_as_prompt_and_response():
    assert instruct().read(PAIR | {"messages": ""}) == instruct().read(PAIR)
    assert instruct().read({"messages": "", "lang": "as"}) is None


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ("[{", "its messages are no JSON"),
        ("5", "its messages are 5; write a list"),
        ({"role": "user"}, "its messages are {'role': 'user'}; write a list"),
        (["hello"], "its message 1 has role=None; use system, user, assistant"),
        ([{"from": "human", "value": "a"}], "its message 1 has role=None"),
        (
            [{"role": "user", "content": "a"}, {"role": "gpt", "content": "b"}],
            "its message 2 has role='gpt'; use system, user, assistant",
        ),
        ([{"role": "user", "content": None}], "its message 1 has content=None; give it as a text"),
        ([{"role": "user", "content": [{"type": "image"}]}], "its message 1 has content="),
    ],
)
def test_messages_that_are_none_are_refused_in_plain_words(messages, said):
    with pytest.raises(ValueError) as caught:
        instruct().read({"messages": messages, "lang": "as"})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@quick
@given(st.lists(st.tuples(SAID, SAID), min_size=1, max_size=5), st.integers(0, 10**6))
def test_a_conversation_in_rows_that_grow_turn_by_turn_lies_in_one_split(exchanges, number):
    first = f"{chr(97 + number % 26)}{number}"
    exchanges[0] = (exchanges[0][0], first + exchanges[0][1])
    grown = [
        read(*(turn for q, a in exchanges[:n] for turn in (("user", q), ("assistant", a))))
        for n in range(1, len(exchanges) + 1)
    ]
    assert len({example.split for example in grown}) == 1
    assert len({example.doc for example in grown}) == 1


def test_one_answer_to_questions_put_differently_lies_in_one_split():
    for number in range(60):
        answer = f"{chr(97 + number % 26) * 15} {chr(97 + number // 26) * 15}"
        rows = [{"prompt": f"{i} why?", "response": answer, "lang": "as"} for i in range(4)]
        rows.append({"prompt": "Why!", "response": f"«{answer.upper()}».", "lang": "as"})
        assert len({instruct().read(row).split for row in rows}) == 1


def test_a_document_keeps_conversations_together_whatever_they_say():
    rows = [PAIR | {"doc": "leaflet", "response": f"{chr(97 + i) * 9}"} for i in range(20)]
    assert len({instruct().read(row).split for row in rows}) == 1


@pytest.mark.parametrize("name", ["prompt", "response"])
def test_a_prompt_or_response_that_is_no_text_is_named(name):
    row = {"prompt": "a", "response": "b", "lang": "as"} | {name: 5}
    with pytest.raises(ValueError, match=f"its {name} is 5; give it as a text"):
        instruct().read(row)
