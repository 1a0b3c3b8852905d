"""The safety rail: the best point of a silo by itself, kept for the very study it belongs to, and what is served."""

from __future__ import annotations

import json
import logging
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from fl_client import alone, evaluate, model, optimizer, train
from fl_client.alone import Best
from fl_client.config import Model, Study, from_flat
from fl_client.score import best as choose

from .conftest import SCRIPTS, SUMS_ALIKE

quick = settings(deadline=None, derandomize=True, max_examples=100, database=None)

SMALL = {
    "rounds": 6,
    "train.steps": 1,
    "train.batch_size": 2,
    "train.length": 32,
    "train.dtype": "float32",
    "alone.rates": "0.01",
}


def study(**changes) -> Study:
    return from_flat(SMALL | {key.replace("__", "."): value for key, value in changes.items()})


@pytest.fixture(scope="module")
def valid(made, examples):
    """Return a little held-out text."""
    return evaluate.blocks(made, examples[:2], 32)


@pytest.fixture
def scripted(monkeypatch):
    """Return a function that lets validation give these bits per byte one after the other."""

    def script(*values):
        left = list(values)
        monkeypatch.setattr(
            evaluate, "bits", lambda *_: {"as": {"bits": left.pop(0), "bytes": 1.0}}
        )
        return left

    return script


def trained(made, blocks, of: Study, lr: float, steps: int):
    """Return the adapter after so many steps alone, trained here by hand in one go."""
    model.write(made, {})
    used = optimizer.start(made, {})
    total = of.rounds * of.train.steps
    plan = train.Plan(0, steps, total, lr, f"{of.seed}:silo")
    train.fit(made, blocks, of.train, plan, used)
    return model.read(made)


def equal(left, right) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[n], right[n]) for n in left)


def test_the_best_point_is_returned_not_the_last(made, blocks, valid, scripted):
    scripted(3.0, 2.0, 2.5, 1.9, 2.2, 2.0)
    best = alone.fit(made, blocks, valid, study(), "silo")
    assert best[1:] == (1.9, 0.01, 4)
    assert equal(best.adapter, trained(made, blocks, study(), 0.01, 4))


def test_alone_is_the_same_to_the_last_bits_where_the_study_trains_cores(made, blocks, valid):
    cored, of = (
        model.warm(Model(rank=2), 0, SCRIPTS, 7, core=True),
        study(rounds=2, train__dtype="bfloat16"),
    )
    plain, other = (alone.fit(one, blocks, valid, of, "silo") for one in (made, cored))
    assert other[2:] == plain[2:] and other.valid == pytest.approx(plain.valid, rel=1e-6)
    assert other.adapter.keys() == plain.adapter.keys()
    apart = [np.abs(other.adapter[n] - x).ravel() for n, x in plain.adapter.items()]
    assert np.quantile(np.concatenate(apart), 0.99) < 1e-6
    if SUMS_ALIKE:
        assert other[1:] == plain[1:] and equal(other.adapter, plain.adapter)


def test_a_rate_is_given_up_after_two_checks_without_progress(made, blocks, valid, scripted):
    left = scripted(3.0, 2.0, 2.5, 2.4, 1.0, 1.0)
    best = alone.fit(made, blocks, valid, study(), "silo")
    assert best[1:] == (2.0, 0.01, 2)
    assert left == [1.0, 1.0]


def test_one_check_without_progress_is_forgiven(made, blocks, valid, scripted):
    left = scripted(3.0, 3.5, 2.0, 2.5, 1.0, 1.5)
    assert alone.fit(made, blocks, valid, study(), "silo")[1:] == (1.0, 0.01, 5)
    assert left == []


def test_progress_is_less_and_not_as_much(made, blocks, valid, scripted):
    left = scripted(2.0, 2.0, 2.0, 1.0)
    assert alone.fit(made, blocks, valid, study(), "silo")[1:] == (2.0, 0.01, 1)
    assert left == [1.0]


def test_the_better_rate_wins_and_starts_from_the_start(made, blocks, valid, scripted):
    of = study(rounds=2, alone__rates="0.01,0.003")
    scripted(3.0, 2.0, 1.9, 1.8)
    best = alone.fit(made, blocks, valid, of, "silo")
    assert best[1:] == (1.8, 0.003, 2)
    assert equal(best.adapter, trained(made, blocks, of, 0.003, 2))


def test_the_first_of_two_rates_that_reach_as_much_is_taken(made, blocks, valid, scripted):
    scripted(3.0, 2.0, 3.0, 2.0)
    best = alone.fit(made, blocks, valid, study(rounds=2, alone__rates="0.01,0.003"), "silo")
    assert best.lr == 0.01


@pytest.mark.parametrize("rates", ["1e30,0.01", "0.01,1e30"])
def test_a_rate_that_diverges_is_survived(rates, made, blocks, valid, caplog):
    of = study(rounds=2, train__steps=4)
    own = alone.fit(made, blocks, valid, of, "silo")
    both = alone.fit(
        made, blocks, valid, study(rounds=2, train__steps=4, alone__rates=rates), "silo"
    )
    assert both[1:] == own[1:]
    assert equal(both.adapter, own.adapter)
    assert "this rate is given up" in caplog.text


def test_where_every_rate_diverges_there_is_no_adapter(made, blocks, valid):
    of = study(rounds=2, train__steps=4, alone__rates="1e30")
    best = alone.fit(made, blocks, valid, of, "silo")
    assert best.adapter == {}
    assert best.valid == math.inf


def test_a_point_that_scores_nan_is_never_the_best(made, blocks, valid, scripted):
    scripted(math.nan, 3.0, math.nan, math.nan)
    assert alone.fit(made, blocks, valid, study(), "silo")[1:] == (3.0, 0.01, 2)


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ({}, [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]),
        ({}, [1.0, 2.0, 2.0]),
        ({"alone__rates": "0.01,0.02"}, [1.0, 2.0, 2.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.5]),
        ({"alone__rates": "1e30", "rounds": 3, "train__steps": 4}, [9.0] * 3),
    ],
)
def test_every_step_of_the_study_is_told_once_whether_trained_or_skipped(
    changes, values, made, blocks, valid, scripted, caplog
):
    caplog.set_level(logging.DEBUG, "bhasha_fl")
    of = study(**changes)
    scripted(*values)
    alone.fit(made, blocks, valid, of, "silo")
    told = [r.event.get("steps", 1) for r in caplog.records if hasattr(r, "event")]
    assert sum(told) == of.rounds * of.train.steps * len(of.alone.lrs())


def test_training_alone_twice_gives_the_same_bits(made, blocks, valid):
    first, second = (alone.fit(made, blocks, valid, study(rounds=2), "silo") for _ in range(2))
    assert first[1:] == second[1:]
    assert equal(first.adapter, second.adapter)


SAME = {
    "name": "other", "home": "elsewhere", "strategy": "ffa()", "weights": "uniform()",
    "outer": "adam()", "guard": "median()", "codec": "int8()", "schedule": "sync(0.5)",
    "train.optimizer": "sgd", "train.lr": 0.5, "alone.distil": "0.5", "alone.adapt_rates": "1",
}  # fmt: skip
OTHER = {
    "seed": 8, "rounds": 7, "task": "translate()", "model.rank": 3, "model.base": "x",
    "train.steps": 2, "train.batch_size": 3, "train.length": 33, "train.decay": 0.5,
    "train.clip": 2.0, "train.dtype": "bfloat16", "alone.rates": "0.02",
    "evaluate.characters": 200, "simulation.languages": "as", "simulation.silos": 3,
}  # fmt: skip


@pytest.mark.parametrize("key", SAME)
def test_who_trains_with_whom_does_not_change_the_key(key):
    assert alone.key(from_flat(SMALL | {key: SAME[key]}), 0) == alone.key(study(), 0)


@pytest.mark.parametrize("key", OTHER)
def test_what_training_alone_depends_on_changes_the_key(key):
    assert alone.key(from_flat(SMALL | {key: OTHER[key]}), 0) != alone.key(study(), 0)


def test_a_private_rank_changes_the_key():
    assert alone.key(study(), 0) != alone.key(study(), 3)


def best_of(made) -> Best:
    return Best(made.start, 2.5, 0.01, 4)


def test_what_is_kept_is_recalled_for_the_same_key_only(made, tmp_path):
    alone.keep(tmp_path, "key", best_of(made))
    found = alone.recall(tmp_path, "key")
    assert equal(found.adapter, made.start)
    assert found[1:] == best_of(made)[1:]
    assert alone.recall(tmp_path, "another") is None
    assert alone.recall(tmp_path, "key", "adapted") is None
    assert alone.recall(tmp_path / "elsewhere", "key") is None


def test_a_later_result_takes_the_place_of_the_one_before(made, tmp_path, noisy):
    alone.keep(tmp_path, "old", best_of(made))
    alone.keep(tmp_path, "new", best_of(made)._replace(adapter=noisy(made)))
    assert alone.recall(tmp_path, "old") is None
    assert equal(alone.recall(tmp_path, "new").adapter, noisy(made))


TINY = Best({"a": np.arange(4, dtype=np.float32), "b": np.ones(2, np.int8)}, 2.5, 0.01, 4)


@pytest.fixture
def tiny(tmp_path):
    """Return the file of a small result."""
    alone.keep(tmp_path, "key", TINY)
    return tmp_path / "alone" / alone.FILE


def test_a_flipped_bit_is_never_taken_for_a_result(tiny, tmp_path, caplog):
    whole, taken = tiny.read_bytes(), 0
    for at in range(8 * len(whole)):
        content = bytearray(whole)
        content[at // 8] ^= 1 << at % 8
        tiny.write_bytes(content)
        found = alone.recall(tmp_path, "key")
        taken += found is not None
        assert found is None or equal(found.adapter, TINY.adapter)
    assert not taken and len(caplog.records) == 8 * len(whole)
    assert f"{tiny} cannot be read and counts as no result" in caplog.text


@pytest.mark.parametrize("size", [0, 1, 7, 8, 100, -1])
def test_a_file_that_was_cut_off_is_no_result(size, tiny, tmp_path, caplog):
    tiny.write_bytes(tiny.read_bytes()[:size])
    assert alone.recall(tmp_path, "key") is None
    assert "counts as no result" in caplog.text


@pytest.mark.parametrize("metadata", [None, {"note": json.dumps({"key": "key", "valid": 2.5})}])
def test_a_file_without_a_seal_as_it_was_written_before_is_no_result(metadata, tiny, tmp_path):
    tiny.write_bytes(save(TINY.adapter, metadata))
    assert alone.recall(tmp_path, "key") is None


def test_a_result_that_the_disk_cannot_read_is_none(tiny, tmp_path, monkeypatch, caplog):
    def bad(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(type(tiny), "read_bytes", bad)
    assert alone.recall(tmp_path, "key") is None
    assert "Input/output error" in caplog.text


@pytest.mark.parametrize("calls", [1])
def test_a_crash_while_keeping_never_gives_one_study_the_adapter_of_another(
    calls, made, tmp_path, monkeypatch, noisy
):
    alone.keep(tmp_path, "old", best_of(made))
    left = [None] * (calls - 1)
    write = alone.write_whole

    def crash(target, content):
        if not left:
            raise OSError("crash")
        left.pop()
        write(target, content)

    monkeypatch.setattr(alone, "write_whole", crash)
    with pytest.raises(OSError, match="crash"):
        alone.keep(tmp_path, "new", best_of(made)._replace(adapter=noisy(made)))
    held = alone.recall(tmp_path, "old")
    assert held is None or equal(held.adapter, made.start)
    assert alone.recall(tmp_path, "new") is None


def test_alone_is_served_unless_together_is_better_by_the_margin():
    assert choose({"base": 3.0, "together": 1.9, "alone": 2.0}, 0.0) == "together"
    assert choose({"base": 3.0, "together": 1.96, "alone": 2.0}, 0.05) == "alone"
    assert choose({"base": 3.0, "together": 1.9, "alone": 2.0}, 0.05) == "together"
    assert choose({"base": 3.0, "together": 2.1, "alone": 2.0}, 0.0) == "alone"


def test_the_base_is_served_where_it_is_best():
    assert choose({"base": 1.0, "together": 1.9, "alone": 2.0}, 0.0) == "base"
    assert choose({"base": 1.0, "together": 1.9}, 0.0) == "base"


def test_a_tie_goes_to_together_then_to_alone():
    assert choose({"base": 2.0, "together": 2.0, "alone": 2.0}, 0.0) == "together"
    assert choose({"base": 2.0, "together": 2.1, "alone": 2.0}, 0.0) == "alone"
    assert choose({"base": 2.0, "together": 2.0}, 0.0) == "together"


def test_the_margin_counts_only_against_a_result_alone():
    assert choose({"base": 2.0, "together": 1.99}, 0.5) == "together"


@pytest.mark.parametrize("broken", ["together", "alone", "base"])
def test_a_candidate_that_scores_nan_is_never_served(broken):
    reached = {"base": 3.0, "together": 2.0, "alone": 2.5} | {broken: math.nan}
    assert choose(reached, 0.0) != broken
    assert choose({"base": 3.0, "together": math.nan}, 0.0) == "base"


reached = st.fixed_dictionaries(
    {"base": st.floats(0.1, 9), "together": st.floats(0.1, 9)},
    optional={"alone": st.floats(0.1, 9)},
)


@quick
@given(reached)
def test_without_a_margin_the_best_is_served(found):
    assert found[choose(found, 0.0)] == min(found.values())


@quick
@given(reached, st.floats(0, 0.9))
def test_with_a_margin_a_silo_never_does_much_worse_than_alone(found, margin):
    served = choose(found, margin)
    if "alone" in found:
        assert found[served] <= found["alone"]
    assert found[served] <= found["base"]
