"""Merging as the hub does it, over silos that are a line of NumPy each."""

from __future__ import annotations

import numpy as np
import pytest

from fl_server import cohort as cohorts
from fl_server import controls, journal, merge, weighing
from fl_server.journal import State
from fl_server.silos import Silo
from strategies.adapter import flatten
from strategies.codecs.codec import chain
from strategies.combine import Parts
from strategies.dual import dual
from strategies.fedavg import fedavg
from strategies.ffa import ffa
from strategies.flexlora import flexlora
from strategies.guards.bulyan import bulyan
from strategies.guards.guard import Guard
from strategies.guards.median import median
from strategies.guards.multi_krum import multi_krum
from strategies.guards.none import none
from strategies.guards.norm_clip import norm_clip
from strategies.guards.trimmed_mean import trimmed_mean
from strategies.outer.adam import adam
from strategies.outer.mean import mean
from strategies.partial_pool import partial_pool
from strategies.rolora import rolora
from strategies.scaffold import scaffold
from strategies.share_a import share_a
from strategies.weights.bytes import bytes as by_bytes
from strategies.weights.uniform import uniform
from strategies.weights.weight import Counts

A, B = "q.lora_A.weight", "q.lora_B.weight"
ROWS = "e.trainable_tokens_delta"
SHAPES = {A: (2, 5), B: (4, 2), ROWS: (3, 4)}
KIN = ("as", "bn", "hi", "ne")
STRANGERS = ("as", "ta", "sat", "brx")
WEIGHTS = (1.0, 0.37, 0.9, 0.611)


def start():
    draw = np.random.default_rng(0)
    return {n: draw.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}


def trained(adapter, silo):
    """Return a silo's change, which depends on every bit of what it received."""
    draw = np.random.default_rng(silo)
    return {
        n: np.sin(3 * x + draw.normal(size=x.shape)).astype(np.float32) for n, x in adapter.items()
    }


def run(strategy, languages, rounds=3, outer=None):
    """Return what each silo holds after some rounds, as bytes."""
    parts = Parts(strategy, uniform(), outer or mean(), chain([]))
    return [flatten(adapter).tobytes() for adapter in merged(parts, languages, rounds)[0]]


def merged(parts, languages, rounds=3, train=trained, order=1, answer=None):
    """Return what each silo holds after some rounds as the hub's own parts make it, and what the guard said."""
    strategy, said = parts.strategy, []
    silos = [Silo(i, f"s{i}", {lang: Counts(1, 1, 1, 1)}, "") for i, lang in enumerate(languages)]
    cohort = cohorts.gather(silos, strategy, sorted(SHAPES))
    state = first(parts, cohorts.start(cohort, start()))
    for number in range(1, rounds + 1):
        arrived = merge.empty(parts, state)
        for silo in [s for s in silos if s.name in (answer or s.name)][::order]:
            received = cohorts.adapter_of(cohort, silo, state.adapter, strategy)
            update = {
                n: x for n, x in train(received, silo.node).items() if strategy.sent(n, number)
            }
            groups = cohort.groups[silo.name]
            arrived = merge.add(arrived, parts, groups, silo.name, WEIGHTS[silo.node % 4], update)
        state, told = merge.close(arrived, parts, state)
        said.append(told)
    return [cohorts.adapter_of(cohort, silo, state.adapter, strategy) for silo in silos], said


def first(parts, groups):
    outer = {g: parts.outer.init(a) for g, a in groups.items()}
    return State(0, groups, outer, {g: parts.strategy.init(a) for g, a in groups.items()})


@pytest.mark.parametrize("outer", [mean(), adam()])
def test_no_pooling_is_everyones_run_to_the_last_bit(outer):
    everyone = run(fedavg("everyone"), STRANGERS, outer=outer)
    assert run(partial_pool(0.0), STRANGERS, outer=outer) == everyone


@pytest.mark.parametrize("outer", [mean(), adam()])
@pytest.mark.parametrize("pool", [0.0, 0.3, 0.5, 0.77, 1.0])
def test_one_family_is_everyones_run_to_the_last_bit(pool, outer):
    everyone = run(fedavg("everyone"), KIN, outer=outer)
    assert run(partial_pool(pool), KIN, outer=outer) == everyone


@pytest.mark.parametrize("languages", [STRANGERS, ("as", "bn", "ta", "te")])
def test_full_pooling_is_each_familys_run_to_the_last_bit(languages):
    families = run(fedavg("family"), languages)
    assert run(partial_pool(1.0), languages) == families
    assert families != run(fedavg("everyone"), languages)


def test_half_pooling_is_neither_and_lies_half_way_after_one_round():
    languages = ("as", "bn", "ta", "te")
    wide, narrow, half = (
        [np.frombuffer(x, np.float32) for x in run(made, languages, rounds=1)]
        for made in (fedavg("everyone"), fedavg("family"), partial_pool(0.5))
    )
    for w, n, h in zip(wide, narrow, half, strict=True):
        np.testing.assert_allclose(h, (w + n) / 2, atol=1e-6)
        assert not np.array_equal(h, w) and not np.array_equal(h, n)


@pytest.mark.parametrize("pool", [-0.1, 1.1, float("nan")])
def test_a_share_outside_0_to_1_is_refused(pool):
    with pytest.raises(ValueError, match="pool="):
        partial_pool(pool)


@pytest.mark.parametrize("lora", ["everyone", "silo"])
def test_a_scope_that_leaves_nothing_to_pool_is_refused(lora):
    with pytest.raises(ValueError, match="nothing to pool"):
        partial_pool(lora=lora)


def target(silo):
    """Return what a silo learns: mostly what all learn, a little of its own."""
    common, own = np.random.default_rng(5), np.random.default_rng(silo)
    shapes = {"product": (4, 5), ROWS: SHAPES[ROWS]}
    return {n: common.normal(size=s) + 0.1 * own.normal(size=s) for n, s in shapes.items()}


def hostile(adapter, silo):
    """Return a silo's descent to its target; of silo 3 the opposite of it, ten times as large."""
    wanted, held = target(silo), {n: np.float64(adapter.get(n, start()[n])) for n in SHAPES}
    for _ in range(20):
        error = held[B] @ held[A] - wanted["product"]
        down, across = error @ held[A].T, held[B].T @ error
        held = {A: held[A] - 0.05 * across, B: held[B] - 0.05 * down, ROWS: held[ROWS]}
        held[ROWS] = held[ROWS] - 0.05 * (held[ROWS] - wanted[ROWS])
    factor = -10 if silo == 3 else 1
    return {n: np.float32(factor * (held[n] - x)) for n, x in adapter.items()}


def loss(held):
    """Return how far the adapter of silo 0 is from what all learn, and from the best of its rank."""
    common = np.random.default_rng(5)
    wanted, rows = common.normal(size=(4, 5)), common.normal(size=SHAPES[ROWS])
    best = np.sum(np.linalg.svd(wanted, compute_uv=False)[2:] ** 2)
    missed = np.sum((held[0][B] @ held[0][A] - wanted) ** 2) - best
    return missed + np.sum((held[0][ROWS] - rows) ** 2)


def guarded(guard, strategy=None):
    return Parts(strategy or fedavg(), uniform(), mean(), chain([]), guard)


SEVEN = ("as",) * 7
METHODS = [fedavg(), flexlora(), rolora(), ffa(), share_a(), dual(rows="language")]
GUARDS = [norm_clip(1.0), median(), trimmed_mean(), multi_krum(), bulyan()]


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("strategy", METHODS)
def test_every_guard_works_over_every_reduction_in_any_order_to_the_last_bit(strategy, guard):
    parts = guarded(guard, strategy)
    forth, said = merged(parts, SEVEN, train=hostile)
    back, other = merged(parts, SEVEN, train=hostile, order=-1)
    assert [flatten(x).tobytes() for x in forth] == [flatten(x).tobytes() for x in back]
    assert said == other


@pytest.mark.parametrize("guard", GUARDS)
def test_a_hostile_silo_of_seven_does_not_ruin_the_others(guard):
    rounds = 12
    clean = loss(merged(guarded(none()), SEVEN[:3], rounds, hostile)[0])
    bare = loss(merged(guarded(none()), SEVEN, 1, hostile)[0])
    under = loss(merged(guarded(guard), SEVEN, rounds, hostile)[0])
    assert bare > 100 * clean
    assert under < 1.5 * clean


def test_the_silo_that_was_set_aside_is_named_with_the_reason_by_group():
    _, said = merged(guarded(multi_krum(1), fedavg(rows="language")), SEVEN, train=hostile)
    for told in said:
        assert set(told) == {"s3"}
        assert set(told["s3"]["guard"]) == {"as", "everyone"}
        assert all(why.startswith("set aside: ") for why in told["s3"]["guard"].values())


def test_a_clipped_silo_is_named_in_the_first_round_and_when_each_is_judged_by_itself():
    _, said = merged(guarded(norm_clip(2.0)), SEVEN, train=hostile)
    assert all("clipped" in told["s3"]["guard"]["everyone"] for told in said)
    assert all("s0" not in told for told in said)


def test_a_group_from_which_too_few_answer_stays_as_it_was():
    held, said = merged(guarded(multi_krum(1)), SEVEN, 1, answer={"s0", "s1", "s2", "s4"})
    assert all(held[0][n].tobytes() == start()[n].tobytes() for n in SHAPES)
    assert set(said[0]) == {"s0", "s1", "s2", "s4"}
    assert "4 updates can be compared here, and the guard needs 5" in str(said[0]["s0"])


def test_no_guard_says_nothing_and_changes_nothing():
    assert none() == Guard()
    assert merged(guarded(none()), SEVEN)[1] == [{}, {}, {}]


def test_what_a_guard_remembers_is_in_the_journal(tmp_path):
    parts = guarded(norm_clip())
    state = first(parts, {"everyone": start()})
    arrived = merge.empty(parts, state)
    for silo in range(5):
        names = {"everyone": sorted(SHAPES)}
        arrived = merge.add(arrived, parts, names, f"s{silo}", 1.0, hostile(start(), silo))
    after, _ = merge.close(arrived, parts, state)
    journal.commit(tmp_path, after, set())
    back = journal.recall(tmp_path).guard["everyone"]
    assert set(back) == {"q", ROWS}
    assert all(x.tobytes() == after.guard["everyone"][u].tobytes() for u, x in back.items())
    assert all(len(x) == 5 for x in back.values())


def worst(weight, small, divided, strategy=None):
    """Return by how much the step of a silo by itself differs from its update, relative to its largest number.

    Its group stands beside one with a gigabyte; ``divided`` is whether weights are divided by the largest of a group.
    """
    parts = Parts(strategy or fedavg("language"), weight, mean(), chain([]))
    silos = [
        Silo(k, f"s{k}", {lang: Counts(1, size, 1, 1)}, "")
        for k, (lang, size) in enumerate((("as", 10**9), ("ta", small)))
    ]
    begun = {n: np.zeros_like(x) for n, x in start().items()}
    begun = controls.beside(parts.strategy, begun)
    cohort = cohorts.gather(silos, parts.strategy, sorted(begun))
    weights = weighing.weights(silos, weight, [], {})
    largest = weighing.largest(weights, cohort.groups) if divided else {}
    state = first(parts, cohorts.start(cohort, begun))
    arrived, update = merge.empty(parts, state, largest=largest), trained(begun, 1)
    update = {n: np.float32(1e-3) * x for n, x in update.items()}
    for silo in silos:
        groups = cohort.groups[silo.name]
        arrived = merge.add(arrived, parts, groups, silo.name, weights[silo.name], update)
    moved = merge.close(arrived, parts, state)[0].adapter["ta"]
    return max(np.abs(moved[n] - update[n]).max() / np.abs(update[n]).max() for n in update)


@pytest.mark.parametrize(
    ("weight", "small", "lost"), [(by_bytes(), 10**4, 1e-3), (by_bytes(0.5), 10**5, 0.5)]
)
@pytest.mark.parametrize("strategy", [fedavg("language"), scaffold("language")])
def test_a_silo_with_little_text_is_its_own_mean_beside_a_group_with_much(
    weight, small, lost, strategy
):
    assert (
        worst(weight, small, False, strategy) > lost
    )  # what the study's weights would leave of it
    assert worst(weight, small, True, strategy) < 1e-6


def test_weights_divided_by_the_largest_of_their_group_keep_their_ratios_and_who_is_away_counts():
    parts, groups = guarded(none()), {f"s{k}": {"ta": sorted(SHAPES)} for k in range(3)}
    state = first(parts, {"ta": start()})
    largest = weighing.largest({"s0": 2e-6, "s1": 8e-6, "s2": 4e-6}, groups)
    arrived = merge.empty(parts, state, largest=largest)
    ones = {n: np.ones_like(x) for n, x in start().items()}
    arrived = merge.add(arrived, parts, groups["s0"], "s0", 2e-6, ones)
    nothing = {n: 0 * x for n, x in ones.items()}
    arrived = merge.add(arrived, parts, groups["s1"], "s1", 8e-6, nothing)
    arrived = merge.absent(arrived, groups["s2"], 4e-6)
    assert largest == {"ta": 8e-6} and arrived.absent == {"ta": 0.5}
    moved = merge.close(arrived, parts, state)[0].adapter["ta"]
    for name, x in start().items():
        np.testing.assert_allclose(moved[name] - x, 0.2, rtol=1e-5)
