"""Which token rows an update holds."""

from __future__ import annotations

import numpy as np

from fl_client import update
from strategies.adapter import part


def test_an_update_of_its_own_rows_has_those_of_tokens_in_the_text_and_no_others(
    made, blocks, noisy
):
    delta = noisy(made)
    sent = update.of_text(delta, made, blocks)
    held = set(np.unique(blocks.ids))
    (rows,) = (name for name in delta if part(name) == "rows")
    tokens = made.peft_config["trainable_token_indices"]
    assert len(tokens) == len(delta[rows]) and 0 < len(held & set(tokens)) < len(tokens)
    for token, before, after in zip(tokens, delta[rows], sent[rows], strict=True):
        np.testing.assert_array_equal(after, before if token in held else 0)
    assert all(sent[name] is delta[name] for name in delta if name != rows)
