"""Scores of several silos at once are those of each by itself; alone is left only for a lead that is no chance."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_client import evaluate, export, model, score, scoring
from fl_client.blend import blended
from fl_client.cohort import layers, llama, scores
from fl_client.config import Alone, Model
from fl_client.evaluate import Asked
from fl_client.messages import Fault
from fl_client.workers import Result
from tasks import encode
from tasks.encode import Blocks

from .team import merged as slices

pytestmark = pytest.mark.usefixtures("one_thread")
SOME = "q_proj,down_proj"


@pytest.fixture(scope="module")
def twofold():
    """Return the tiny base with an adapter of rank 2 and a private one of rank 3."""
    return model.warm(Model(rank=2, rows="none", targets=SOME), 3, "", 7)


def text(seed: int, rows: int = 2, length: int = 16) -> Blocks:
    ids = np.random.default_rng(seed).integers(1, 6000, (rows, length))
    labels = ids.copy()
    labels[:, : seed % 5] = encode.IGNORED
    return Blocks(ids, labels, 100, 1)


def alike(made, asked):
    """Compare the bits of every block with those found one adapter at a time; return them."""
    found, apart = scores.each(made, asked), evaluate.each(made, asked)
    for one, wanted in zip(found, apart, strict=True):
        assert list(one) == list(wanted)
        for lang, bits in wanted.items():
            np.testing.assert_allclose(one[lang], bits, rtol=1e-5)
    return found


def test_each_silo_has_the_scores_that_it_has_by_itself(made, noisy):
    one, two = (noisy(made, seed, 0.02) for seed in (1, 2))
    asked = [
        Asked(one, {"as": text(1, 3), "ne": text(2, 1)}),
        Asked({}, {"as": text(3, 2)}),
        Asked(two, {"or": text(4, 5)}),
        Asked(dict(one), {"as": text(5, 70)}),  # more than one forward reads
        Asked(two, {}),
    ]
    found = alike(made, asked)
    assert found[-1] == {} and len(found[3]["as"]) == 70
    assert not np.allclose(
        found[0]["as"], evaluate.each(made, [Asked(two, asked[0].text)])[0]["as"]
    )


def test_private_and_blended_adapters_of_several_ranks_are_scored_together(twofold, noisy):
    one, two = (noisy(twofold, seed, 0.05) for seed in (1, 2))
    mixed = blended(one, two, 0.25)
    assert any(name.endswith(".merged") for name in mixed)
    alike(twofold, [Asked(x, {"as": text(n)}) for n, x in enumerate((one, mixed, {}, two))])


@pytest.mark.parametrize("whole_layers", [True, False])
def test_what_another_silo_has_merged_into_the_base_is_in_no_score(
    made, noisy, monkeypatch, whole_layers
):
    if not whole_layers:  # as of a base that is built otherwise, or on a GPU
        monkeypatch.setattr(llama, "known", lambda *_: False)
    merged = slices(made, 3) | noisy(made, 1, 0.02)
    asked = [Asked(x, {"as": text(n)}) for n, x in enumerate((merged, {}, noisy(made, 2, 0.02)))]
    evaluate.each(made, asked[:1])
    assert made.merged.handles
    alike(made, asked)


def test_the_model_is_as_before_when_scores_are_told(made, noisy):
    asked = [Asked(noisy(made, 1, 0.02), {"as": text(1)})]
    before = evaluate.each(made, asked)
    scores.each(made, asked)
    assert made.model.training
    np.testing.assert_array_equal(evaluate.each(made, asked)[0]["as"], before[0]["as"])


def test_adapters_of_the_same_bytes_are_read_as_one(made, noisy, monkeypatch):
    joined, seen = export.joined, []
    monkeypatch.setattr(export, "joined", lambda adapter: seen.append(1) or joined(adapter))
    same = [noisy(made, 1, 0.02) for _ in range(3)]
    scores.each(made, [Asked(adapter, {"as": text(n)}) for n, adapter in enumerate(same)])
    assert len(seen) == 1


def asking(own):
    """Ask for one score after the other; the sums are the result."""
    found = []
    for one in own:
        (bits,) = yield [one]
        found.append(float(sum(map(np.sum, bits.values()))))
    if not own:
        raise Fault("text_missing")
    return Result({}, {str(n): bits for n, bits in enumerate(found)}, {})


def begun(made, *asked):
    """Return silos that ask so, each with what it asks for in the place of its work."""
    return [scores.Begun(own, made, asking(own)) for own in asked]


@pytest.mark.parametrize("broken", [False, True])
def test_silos_ask_in_turns_and_one_that_fails_leaves_the_others(made, noisy, monkeypatch, broken):
    def unfit(*_):
        raise layers.Unfit

    monkeypatch.setattr(scores, "apart", lambda work, made: "")
    if broken:
        monkeypatch.setattr(scores, "each", unfit)
    asked = [Asked(noisy(made, seed, 0.02), {"as": text(seed)}) for seed in (1, 2, 3)]
    wanted = [float(bits["as"].sum()) for bits in evaluate.each(made, asked)]
    first, second, third = scores._group(begun(made, asked[:2], [], asked[2:]))
    assert list(first.metrics.values()) == pytest.approx(wanted[:2], rel=1e-5)
    assert isinstance(second, Fault) and second.code == "text_missing"
    assert list(third.metrics.values()) == pytest.approx(wanted[2:], rel=1e-5)


def test_where_one_cannot_be_scored_the_others_are_scored_as_each_by_itself(
    made, noisy, monkeypatch
):
    single = lambda own: evaluate.told(asking(own), partial(evaluate.each, made))  # noqa: E731
    monkeypatch.setattr(scores, "apart", lambda work, made: "")
    monkeypatch.setattr(scoring, "single", single)
    asked = [Asked(noisy(made, seed, 0.02), {"as": text(seed)}) for seed in (1, 2, 3, 4)]
    beyond = text(5)
    beyond.ids[0, 0] = 1 << 20
    broken = [asked[0], Asked(asked[0].adapter, {"as": beyond})]  # its first score can be told
    first, second, third = scores._group(begun(made, asked[:2], broken, asked[2:]))
    assert isinstance(second, IndexError)
    assert (first, third) == (single(asked[:2]), single(asked[2:]))
    assert made.model.training


LEAD = st.lists(st.floats(-9, 9), min_size=2, max_size=30).map(np.array)


@given(LEAD, st.floats(0, 3))
def test_a_lead_is_sure_where_its_sum_is_so_many_standard_errors_of_it(lead, errors):
    mean = lead.sum() / len(lead)
    spread = math.sqrt(sum((x - mean) ** 2 for x in lead) / (len(lead) - 1))
    noise = errors * spread * math.sqrt(len(lead))
    if abs(lead.sum() - noise) > 1e-9:
        assert score.sure(lead, errors) == (lead.sum() > noise)


def served(lead, errors=1.0, name="together"):
    """Return what is served where a candidate is ahead of alone by ``lead``, block by block."""
    alone = np.full(len(lead), 50.0)
    bits = {"base": {"as": alone + 9}, "together": {"as": alone + 9}, "alone": {"as": alone}}
    bits[name] = {"as": alone - np.array(lead)}
    return score.served(bits, {"as": text(1)}, Alone(errors=errors))


@pytest.mark.parametrize("name", ["together", "base"])
def test_alone_is_left_for_a_lead_over_most_of_the_text_and_not_for_one_of_a_single_block(name):
    assert served([1.0, 2.0, 1.5, 1.0], name=name) == name
    assert served([9.0, -1.0, -1.0, -1.0], name=name) == "alone"
    assert served([9.0, -1.0, -1.0, -1.0], errors=0.0, name=name) == name
    assert served([0.1], name=name) == name  # a single block tells nothing of errors


def test_the_best_is_served_where_there_is_no_result_alone_or_none_that_is_a_number():
    bits = {"base": {"as": np.array([9.0, 9.0])}, "together": {"as": np.array([1.0, 9.0])}}
    for alone in ({}, {"alone": {"as": np.array([math.nan, 1.0])}}):
        assert score.served(bits | alone, {"as": text(1)}, Alone(errors=9)) == "together"
