"""One rank of one talks to nobody; what several tell each other is tried by two of them in test_parallel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client import ranks

quick = settings(deadline=None, derandomize=True, max_examples=100, database=None)


def test_where_nothing_was_joined_there_is_one_rank_which_is_the_first():
    assert (ranks.world(), ranks.rank(), ranks.first()) == (1, 0, True)


def test_one_rank_by_environment_joins_nobody(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    ranks.join()
    assert not torch.distributed.is_initialized()
    ranks.part()


def test_one_rank_is_told_what_it_says_itself():
    x = torch.tensor([1.5, 2.5])
    ranks.add([x])
    assert x.tolist() == [1.5, 2.5]
    assert ranks.total(x).tolist() == [1.5, 2.5]
    assert ranks.gathered([1.0, 2.0]) == [[1.0, 2.0]]
    assert ranks.told(lambda: 3.5) == 3.5
    assert ranks.spread(b"bytes") == b"bytes"
    assert ranks.Ballot([True, False]).result() == [True, False]


def test_a_total_is_no_view_of_what_was_summed():
    x = torch.ones(2)
    ranks.total(x).add_(1)
    assert x.tolist() == [1, 1]


@quick
@given(st.integers(0, 40), st.integers(1, 9))
def test_shares_differ_by_one_at_most_and_hold_everything_once(rows, world):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "world", lambda: world)
        shares = []
        for rank in range(world):
            patch.setattr(ranks, "rank", lambda rank=rank: rank)
            shares.append(ranks.share(np.arange(rows)))
    assert sorted(np.concatenate(shares)) == list(range(rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_rank_that_was_asked_to_leave_stays_asked(monkeypatch):
    monkeypatch.setattr(ranks, "_leaving", ranks.threading.Event())
    assert not ranks.leaving()
    ranks.leave()
    ranks.leave()
    assert ranks.leaving()
