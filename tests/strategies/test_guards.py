"""Each guard against its own definition, slowly and plainly (F12, F13)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.adapter import add
from strategies.gauge import distances, settle, sizes
from strategies.guards import guard
from strategies.guards.bulyan import bulyan, chosen
from strategies.guards.guard import judged, remembered
from strategies.guards.median import median
from strategies.guards.multi_krum import multi_krum, scores
from strategies.guards.norm_clip import norm_clip
from strategies.guards.trimmed_mean import trimmed_mean
from strategies.strategy import Weighted

quick = settings(deadline=None, derandomize=True, max_examples=40, database=None)
A, B, ROWS = "q.lora_A.weight", "q.lora_B.weight", "e.trainable_tokens_delta"
SHAPES = {A: (2, 6), B: (5, 2), ROWS: (3, 4)}


def tensors(seed, scale=0.2):
    draw = np.random.default_rng(seed)
    return {n: (scale * draw.normal(size=s)).astype(np.float32) for n, s in SHAPES.items()}


START = tensors(0, 1.0)


def sent(*updates):
    return [Weighted(f"s{k}", 1.0, u) for k, u in enumerate(updates)]


def moved(update):
    """Return by how much an update moves the product, and the rows."""
    b, a = (np.float64(START[n]) + update.get(n, 0) for n in (B, A))
    product = b @ a - np.float64(START[B]) @ START[A]
    return np.linalg.norm(product), np.linalg.norm(update[ROWS])


@quick
@given(st.integers(0, 10**6), st.floats(0.1, 3), st.floats(1, 50))
def test_a_clipped_update_moves_as_far_as_allowed_and_an_honest_one_as_far_as_it_did(
    seed, bound, scale
):
    updates = [tensors(seed + k) for k in range(4)] + [tensors(seed + 5, scale)]
    verdict = judged(norm_clip(bound), sent(*updates), START, {})
    sizes = np.array([moved(u) for u in updates])
    limits = bound * np.sort(sizes, axis=0)[2]
    for one, before in zip(verdict.kept, sizes, strict=True):
        np.testing.assert_allclose(moved(one.update), np.minimum(before, limits), rtol=1e-3)
    assert set(verdict.said) == {f"s{k}" for k in range(5) if np.any(sizes[k] > limits)}


def test_an_absolute_bound_needs_nobody_else():
    made = norm_clip(0.5, absolute=True)
    assert not made.gathers(START, START, {})
    (one,) = judged(made, sent(tensors(1, 5.0)), START, {}).kept
    np.testing.assert_allclose(moved(one.update), 0.5, rtol=1e-3)


def test_a_relative_bound_sees_all_once_and_then_each_by_itself():
    made, updates = norm_clip(1.0), [tensors(k) for k in range(5)]
    assert made.gathers(START, START, {})
    memory = remembered(judged(made, sent(*updates), START, {}).seen)
    assert not made.gathers(START, START, memory)
    assert made.gathers(START, START, {ROWS: memory[ROWS]})
    together = judged(made, sent(*updates), START, memory)
    for one, alone in zip(sent(*updates), together.kept, strict=True):
        (by_itself,) = judged(made, [one], START, memory).kept
        assert all(by_itself.update[n].tobytes() == alone.update[n].tobytes() for n in SHAPES)


def test_of_two_silos_the_smaller_change_sets_the_bound():
    small, large = tensors(1, 0.01), tensors(2, 5.0)
    kept = judged(norm_clip(1.0), sent(large, small), START, {}).kept
    np.testing.assert_allclose(moved(kept[0].update), moved(small), rtol=1e-3)


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bound_that_is_no_size_is_refused(bound):
    with pytest.raises(ValueError, match="bound="):
        norm_clip(bound)


def settled_stack(updates):
    return {n: np.stack([np.float64(settle(u, START)[n]) for u in updates]) for n in SHAPES}


@pytest.mark.parametrize("silos", [3, 4, 5, 8])
def test_the_median_is_that_of_each_coordinate(silos):
    updates = [tensors(k) for k in range(silos)]
    (one,) = judged(median(), sent(*updates), START, {}).kept
    for name, x in settled_stack(updates).items():
        np.testing.assert_allclose(one.update[name], np.median(x, axis=0), rtol=1e-6)


@pytest.mark.parametrize(
    ("share", "silos", "dropped"),
    [(0.2, 5, 1), (0.1, 30, 3), (0.4, 5, 2), (0.2, 3, 1), (0.0, 4, 0)],
)
def test_the_trimmed_mean_drops_the_share_at_both_ends_and_one_at_least(share, silos, dropped):
    updates = [tensors(k) for k in range(silos)]
    (one,) = judged(trimmed_mean(share), sent(*updates), START, {}).kept
    for name, x in settled_stack(updates).items():
        slow = np.sort(x, axis=0)[dropped : silos - dropped].mean(axis=0)
        np.testing.assert_allclose(one.update[name], slow, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("made", [median(), trimmed_mean(0.3), bulyan(1)])
def test_coordinates_are_the_same_however_many_are_looked_at_a_time(made, monkeypatch):
    updates = sent(*(tensors(k) for k in range(7)))
    (whole,) = judged(made, updates, START, {}).kept
    monkeypatch.setattr(guard, "AT_ONCE", 15)
    (parts,) = judged(made, updates, START, {}).kept
    assert all(parts.update[n].tobytes() == whole.update[n].tobytes() for n in SHAPES)


@pytest.mark.parametrize("share", [-0.1, 0.5, 1.0, float("nan")])
def test_a_share_that_leaves_nothing_is_refused(share):
    with pytest.raises(ValueError, match="share="):
        trimmed_mean(share)


def slow_score(squares, k, f):
    others = sorted(squares[k][j] for j in range(len(squares)) if j != k)
    return sum(others[: max(1, len(squares) - f - 2)])


SQUARES = st.integers(0, 10**6).map(
    lambda seed: np.round((lambda x: x + x.T)(np.random.default_rng(seed).uniform(0, 4, (9, 9))))
)


@quick
@given(SQUARES, st.integers(0, 3))
def test_a_krum_score_leaves_out_the_silo_itself_and_nobody_else(squares, f):
    np.fill_diagonal(squares, 0)
    slow = [slow_score(squares, k, f) for k in range(9)]
    np.testing.assert_allclose(scores(squares, f), slow)


def test_a_silo_that_sends_what_another_sent_is_at_no_distance_from_it_but_still_counts():
    squares = np.array([[0.0, 0.0, 9.0], [0.0, 0.0, 9.0], [9.0, 9.0, 0.0]])
    assert scores(squares, 0).tolist() == [0.0, 0.0, 9.0]


@pytest.mark.parametrize("f", [0, 1, 2])
def test_multi_krum_sets_aside_those_that_send_noise_and_says_so(f):
    honest = [add(tensors(50), tensors(k, 0.02)) for k in range(f + 3)]
    noise = [tensors(70 + k, 3.0) for k in range(f)]
    verdict = judged(multi_krum(f), sent(*noise, *honest), START, {})
    assert [one.silo for one in verdict.kept] == [f"s{k}" for k in range(f, 2 * f + 3)]
    assert set(verdict.said) == {f"s{k}" for k in range(f)}
    assert all("times as far" in why for why in verdict.said.values())


def test_multi_krum_keeps_the_weights_of_those_it_keeps():
    updates = [Weighted(f"s{k}", 1 / (k + 1), tensors(k)) for k in range(5)]
    kept = judged(multi_krum(0), updates, START, {}).kept
    assert [one.weight for one in kept] == [1 / (k + 1) for k in range(5)]


def slow_choice(squares, f):
    left, picked = list(range(len(squares))), []
    while len(picked) < len(squares) - 2 * f:
        table = [[squares[i][j] for j in left] for i in left]
        best = min(range(len(left)), key=lambda k: slow_score(table, k, f))  # noqa: B023
        picked.append(left.pop(best))
    return sorted(picked)


@quick
@given(SQUARES, st.integers(1, 2))
def test_bulyan_scores_anew_after_every_pick(squares, f):
    np.fill_diagonal(squares, 0)
    assert chosen(squares, f) == slow_choice(squares, f)


def test_scoring_once_would_choose_others():
    draw = np.random.default_rng(3)
    differ = 0
    for _ in range(20):
        points = draw.normal(size=(11, 2))
        squares = np.sum((points[:, None] - points[None]) ** 2, axis=2)
        once = sorted(np.argsort(scores(squares, 2), kind="stable")[:7])
        differ += chosen(squares, 2) != once
    assert differ


def test_bulyan_averages_what_lies_nearest_to_the_median_of_the_chosen():
    updates = [tensors(k) for k in range(7)]
    verdict = judged(bulyan(1), sent(*updates), START, {})
    told = [Weighted(f"s{k}", 1.0, settle(u, START)) for k, u in enumerate(updates)]
    names = slow_choice(distances(told, START), 1)
    assert set(verdict.said) == {f"s{k}" for k in range(7)} - {f"s{k}" for k in names}
    for name, x in settled_stack([updates[k] for k in names]).items():
        flat = x.reshape(len(names), -1)
        slow = [
            np.mean(sorted(column, key=lambda v, c=column: abs(v - np.median(c)))[:3])
            for column in flat.T
        ]
        (one,) = verdict.kept
        np.testing.assert_allclose(one.update[name].ravel(), slow, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("guard", [multi_krum, bulyan])
def test_fewer_than_no_hostile_silo_is_refused(guard):
    with pytest.raises(ValueError, match="f=-1"):
        guard(-1)


def in_turn(bound, rounds):
    """Return whom the guard named of honest silos that send B and A in turn, and what the hub remembers in the end."""
    start, memory, told = {B: 0.01 * START[B], A: 10 * START[A]}, {}, []
    for number in range(rounds):
        name = (B, A)[number % 2]
        updates = [{name: np.float32(1 + 0.05 * k) * tensors(1)[name]} for k in range(5)]
        if not norm_clip(bound).gathers(start, [name], memory):
            verdicts = [judged(norm_clip(bound), [one], start, memory) for one in sent(*updates)]
        else:
            verdicts = [judged(norm_clip(bound), sent(*updates), start, memory)]
        told.append({silo for verdict in verdicts for silo in verdict.said})
        memory = memory | remembered(size for verdict in verdicts for size in verdict.seen)
    return told, memory


def test_halves_that_are_sent_in_turn_are_each_bounded_by_what_was_sent_of_them_before():
    start = {B: 0.01 * START[B], A: 10 * START[A]}
    moved_b, moved_a = (sizes({n: tensors(1)[n]}, start)["q"] for n in (B, A))
    assert moved_b > 20 * moved_a  # so the bound of one would leave a few per cent of the other
    told, memory = in_turn(2.0, 4)
    assert told == [set()] * 4
    assert set(memory) == {A, B}


def test_a_half_is_judged_with_all_others_until_one_like_it_was_seen():
    memory = remembered(judged(norm_clip(), sent({B: tensors(1)[B]}), START, {}).seen)
    assert not norm_clip().gathers(START, [B], memory)
    assert norm_clip().gathers(START, [A], memory)
    assert norm_clip().gathers(START, [A, B], memory)
    older = {"q": np.ones(5)}  # of a study that was begun when halves were remembered as a pair is
    assert norm_clip().gathers(START, [B], older)


@quick
@given(st.integers(0, 10**6), st.sampled_from([A, B]))
def test_a_clipped_half_moves_as_far_as_allowed(seed, name):
    one = {name: tensors(seed, 5.0)[name], ROWS: tensors(seed)[ROWS]}
    (kept,) = judged(norm_clip(0.1, absolute=True), sent(one), START, {}).kept
    assert moved(one)[0] > 0.1
    np.testing.assert_allclose(moved(kept.update)[0], 0.1, rtol=1e-3)
