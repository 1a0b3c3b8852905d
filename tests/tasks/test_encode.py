"""From examples to blocks: every token of the text is predicted once, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given as every
from hypothesis import settings
from hypothesis import strategies as st

from tasks.encode import IGNORED, given, order, pack
from tasks.task import Example, Turn

quick = settings(deadline=None, derandomize=True, max_examples=80, database=None)
END = 0  # the end mark; token ids say from where text, prompts and turns begin
TEXT, PROMPT, TURN = 1 << 21, 1 << 22, 1 << 23
WORDS = st.text("abcঅসমীয়ᱚ😀 \n", max_size=9)
TURNS = st.lists(st.builds(Turn, st.sampled_from(["user", "assistant"]), WORDS), max_size=3)
ONE = st.builds(Example, WORDS, st.just("as"), WORDS, turns=TURNS.map(tuple))
EXAMPLES = st.lists(ONE, min_size=1, max_size=6)


def tokenizer():
    """Return a tokenizer of code points: the lists it is given in turn are prompts, texts, turns."""
    calls = iter([PROMPT, TEXT, TURN])

    def tokenize(texts):
        first = next(calls)
        return [[first + ord(c) for c in text] for text in texts]

    return tokenize


def laid(example):
    """Return an example as pairs of token and whether it is learned, written out slowly."""
    pairs = []
    for turn in example.turns:
        said = turn.role == "assistant"
        pairs += [(TURN + ord(c), said) for c in turn.text] + [(END, True)] * said
    pairs += [(PROMPT + ord(c), False) for c in example.prompt]
    return [*pairs, *((TEXT + ord(c), True) for c in example.text), (END, True)]


def blocks_of(examples, length, learn_end=True):
    return pack(examples, tokenizer(), END, length, learn_end)


def learned(blocks):
    """Return the tokens that are predicted, in order; each must be the token it stands for."""
    at = blocks.labels != IGNORED
    np.testing.assert_array_equal(blocks.ids[at], blocks.labels[at])
    assert not at[:, 0].any()  # the first token of a block has nothing before it
    return blocks.labels[at].tolist()


@quick
@every(EXAMPLES, st.integers(2, 9))
def test_what_is_learned_and_its_end_marks_are_predicted_exactly_once_in_order(examples, length):
    expected = [token for e in examples for token, said in laid(e) if said]
    assert learned(blocks_of(examples, length)) == expected


@quick
@every(EXAMPLES, st.integers(2, 9))
def test_end_marks_are_learned_only_if_asked(examples, length):
    expected = [token for e in examples for token, said in laid(e) if said and token != END]
    assert learned(blocks_of(examples, length, learn_end=False)) == expected


@quick
@every(EXAMPLES, st.integers(2, 9), st.booleans())
def test_what_is_given_is_read_but_never_learned(examples, length, learn_end):
    blocks = blocks_of(examples, length, learn_end)
    asked = [token for e in examples for token, said in laid(e) if not said]
    at = blocks.labels[:, 1:] == IGNORED
    read = blocks.ids[:, 1:][at]
    assert read[read != END].tolist() == asked
    assert not np.any((blocks.labels >= PROMPT) & (blocks.labels < TURN))


@quick
@every(EXAMPLES, st.integers(2, 9))
def test_each_token_is_predicted_from_the_stream_right_before_it(examples, length):
    stream = [token for e in examples for token, _ in laid(e)]
    blocks = blocks_of(examples, length)
    assert (blocks.ids[:, 0] == END).all()
    body = blocks.ids[:, 1:].ravel().tolist()
    assert body[: len(stream)] == stream
    assert set(body[len(stream) :]) <= {END}
    assert (blocks.labels[:, 1:].ravel()[len(stream) :] == IGNORED).all()
    assert len(body) - len(stream) < length - 1


@quick
@every(EXAMPLES, st.integers(2, 9))
def test_bytes_and_tokens_are_those_of_what_is_learned(examples, length):
    blocks = blocks_of(examples, length)
    said = [t.text for e in examples for t in e.turns if t.role == "assistant"]
    said += [e.text for e in examples]
    assert blocks.bytes == len("".join(said).encode("utf-8"))
    assert blocks.tokens == len("".join(said))


@quick
@every(EXAMPLES)
def test_what_is_given_before_an_answer_is_what_training_puts_before_it(examples):
    found = given(examples, tokenizer(), END)
    for example, ids in zip(examples, found, strict=True):
        whole = [token for token, _ in laid(example)]
        assert ids == [END, *whole[: len(whole) - len(example.text) - 1]]


def test_blocks_are_int64_of_the_length_asked_for():
    blocks = blocks_of([Example("abcdefg", "as")], 4)
    assert blocks.ids.shape == blocks.labels.shape == (3, 4)
    assert blocks.ids.dtype == blocks.labels.dtype == np.int64


@pytest.mark.parametrize(("examples", "length"), [([], 8), ([Example("a", "as")], 1)])
def test_nothing_to_pack_is_refused(examples, length):
    with pytest.raises(ValueError, match=f"nothing to pack: {len(examples)} examples, {length=}"):
        blocks_of(examples, length)


@quick
@every(st.integers(1, 12), st.integers(1, 7), st.integers(1, 3), st.text(max_size=4))
def test_every_pass_covers_every_block_once(blocks, batch, passes, key):
    steps = -(-blocks * passes // batch)
    drawn = np.concatenate([order(step, batch, blocks, key) for step in range(steps)])
    for number in range(passes):
        once = drawn[number * blocks : (number + 1) * blocks]
        assert sorted(once.tolist()) == list(range(blocks))


def test_the_order_depends_on_its_arguments_alone():
    forth = [order(step, 4, 30, "silo:1").tolist() for step in range(20)]
    back = [order(step, 4, 30, "silo:1").tolist() for step in reversed(range(20))]
    assert forth == back[::-1]
    assert order(3, 4, 30, "silo:1").shape == (4,)
    assert order(3, 4, 30, "silo:1").dtype == np.int64


def test_the_order_does_not_depend_on_how_a_pass_is_cut_into_batches():
    singly = np.concatenate([order(step, 1, 10, "k") for step in range(24)])
    for batch in (2, 3, 8, 24):
        drawn = np.concatenate([order(step, batch, 10, "k") for step in range(24 // batch)])
        np.testing.assert_array_equal(drawn, singly)


def test_another_key_and_another_pass_have_another_order():
    first = order(0, 50, 50, "a").tolist()
    assert order(0, 50, 50, "b").tolist() != first
    assert order(1, 50, 50, "a").tolist() != first


def test_the_order_is_the_same_for_ever():
    assert order(0, 6, 6, "golden").tolist() == [0, 2, 1, 5, 3, 4]
