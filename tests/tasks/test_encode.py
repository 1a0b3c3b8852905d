"""From examples to blocks: every token of the text is predicted once, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.encode import IGNORED, order, pack
from tasks.task import Example

quick = settings(deadline=None, derandomize=True, max_examples=80, database=None)
END, TEXT, PROMPT = 0, 1 << 21, 1 << 22  # token ids: the end mark, and where text and prompts begin
WORDS = st.text("abcঅসমীয়ᱚ😀 \n", max_size=9)
EXAMPLES = st.lists(st.builds(Example, WORDS, st.just("as"), WORDS), min_size=1, max_size=6)


def tokenizer():
    """Return a tokenizer of code points that marks the first list it is given as prompts."""
    calls = iter([PROMPT, TEXT])

    def tokenize(texts):
        first = next(calls)
        return [[first + ord(c) for c in text] for text in texts]

    return tokenize


def blocks_of(examples, length, learn_end=True):
    return pack(examples, tokenizer(), END, length, learn_end)


def learned(blocks):
    """Return the tokens that are predicted, in order; each must be the token it stands for."""
    at = blocks.labels != IGNORED
    np.testing.assert_array_equal(blocks.ids[at], blocks.labels[at])
    assert not at[:, 0].any()  # the first token of a block has nothing before it
    return blocks.labels[at].tolist()


@quick
@given(EXAMPLES, st.integers(2, 9))
def test_every_text_token_and_end_mark_is_predicted_exactly_once_in_order(examples, length):
    expected = [t for e in examples for t in [*(TEXT + ord(c) for c in e.text), END]]
    assert learned(blocks_of(examples, length)) == expected


@quick
@given(EXAMPLES, st.integers(2, 9))
def test_end_marks_are_learned_only_if_asked(examples, length):
    expected = [TEXT + ord(c) for e in examples for c in e.text]
    assert learned(blocks_of(examples, length, learn_end=False)) == expected


@quick
@given(EXAMPLES, st.integers(2, 9), st.booleans())
def test_prompts_are_read_but_never_learned(examples, length, learn_end):
    blocks = blocks_of(examples, length, learn_end)
    read = blocks.ids[blocks.ids >= PROMPT].tolist()
    assert read == [PROMPT + ord(c) for e in examples for c in e.prompt]
    assert not np.any(blocks.labels >= PROMPT)


@quick
@given(EXAMPLES, st.integers(2, 9))
def test_each_token_is_predicted_from_the_stream_right_before_it(examples, length):
    stream = []
    for e in examples:
        stream += [*(PROMPT + ord(c) for c in e.prompt), *(TEXT + ord(c) for c in e.text), END]
    blocks = blocks_of(examples, length)
    assert (blocks.ids[:, 0] == END).all()
    body = blocks.ids[:, 1:].ravel().tolist()
    assert body[: len(stream)] == stream
    assert set(body[len(stream) :]) <= {END}
    assert (blocks.labels[:, 1:].ravel()[len(stream) :] == IGNORED).all()
    assert len(body) - len(stream) < length - 1


@quick
@given(EXAMPLES, st.integers(2, 9))
def test_bytes_are_utf8_bytes_of_the_text_and_tokens_are_the_tokens_of_the_text(examples, length):
    blocks = blocks_of(examples, length)
    assert blocks.bytes == len("".join(e.text for e in examples).encode("utf-8"))
    assert blocks.tokens == sum(len(e.text) for e in examples)
    assert blocks.tokens == np.sum(blocks.labels >= TEXT)


def test_blocks_are_int64_of_the_length_asked_for():
    blocks = blocks_of([Example("abcdefg", "as")], 4)
    assert blocks.ids.shape == blocks.labels.shape == (3, 4)
    assert blocks.ids.dtype == blocks.labels.dtype == np.int64


@pytest.mark.parametrize(("examples", "length"), [([], 8), ([Example("a", "as")], 1)])
def test_nothing_to_pack_is_refused(examples, length):
    with pytest.raises(ValueError, match=f"nothing to pack: {len(examples)} examples, {length=}"):
        blocks_of(examples, length)


@quick
@given(st.integers(1, 12), st.integers(1, 7), st.integers(1, 3), st.text(max_size=4))
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
