"""Step checkpoints: a round that was broken off ends in the bits of one that never was."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

from fl_client import alone, checkpoint, evaluate, model, optimizer, ranks, train, tries
from fl_client.checkpoint import Keeper, Left
from fl_client.config import Study, Train, from_flat
from fl_client.hooks import Hooks
from strategies.ffa import ffa

from . import team

STEPS = 5
PLAN = train.Plan(5, STEPS, 20, 0.01, "7:silo")
ALWAYS, NEVER = 0.0, 1e9


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def keeper(tmp_path):
    """Return a keeper that writes only when the group leaves."""
    return Keeper(tmp_path / "steps" / "round.safetensors", "key", NEVER)


@pytest.fixture
def leaving(monkeypatch):
    """Return a function after which the group is asked to leave from the next so many-th vote on; 0: not at all."""

    def at(vote):
        votes = []
        monkeypatch.setattr(ranks, "leaving", lambda: votes.append(1) or 0 < vote <= len(votes))

    return at


@pytest.fixture(scope="module")
def before(dual, blocks, options):
    """Return an adapter and moments from an earlier round."""
    return run(dual, blocks, options, plan=PLAN._replace(first=0))[:2]


def run(made, blocks, options, before=(None, None), keeper=None, plan=PLAN):
    """Train one round with frozen tensors and moments from before; return the adapter, the moments, what was told."""
    model.write(made, before[0] or {})
    used = optimizer.start(made, before[1] or {})
    around = Hooks(made, ffa(private=3).local, 1, {})
    fitted = train.fit(made, blocks, options, plan, used, around, keeper)
    return model.read(made), optimizer.moments(used), fitted


def equal(left, right) -> bool:
    return left.keys() == right.keys() and all(
        left[n].tobytes() == right[n].tobytes() for n in left
    )


WAYS = [
    {},
    {"dtype": "bfloat16", "micro_batch": 1},
    {"parallel": "local_sgd(sync_every=1, lr=0.7, momentum=0.5)"},
    {"schedule": "cosine", "checkpointing": True},
]


def test_a_round_that_comes_back_still_has_the_merged_part(
    dual, blocks, options, before, keeper, leaving
):
    own = (before[0] | team.merged(dual), before[1])
    whole = run(dual, blocks, options, own)
    leaving(2)
    with pytest.raises(Left):
        run(dual, blocks, options, own, keeper)
    leaving(0)
    back = run(dual, blocks, options, own, keeper)
    assert equal(back[0], whole[0]) and back[2].losses == whole[2].losses
    assert not equal(whole[0], run(dual, blocks, options, before)[0])
    model.write(dual, {})


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("step", [1, 2, STEPS - 1])
def test_a_round_that_left_and_came_back_gives_the_bits_of_one_that_stayed(
    way, step, dual, blocks, options, before, keeper, leaving
):
    own = options.model_copy(update=way)
    whole = run(dual, blocks, own, before)
    leaving(step)
    with pytest.raises(Left, match=f"step {step} of {STEPS}"):
        run(dual, blocks, own, before, keeper)
    leaving(0)
    back = run(dual, blocks, own, before, keeper)
    assert equal(back[0], whole[0])
    assert equal(back[1], whole[1])
    assert back[2][:2] == whole[2][:2]


def test_a_round_may_leave_and_come_back_often(dual, blocks, options, before, keeper, leaving):
    whole = run(dual, blocks, options, before)
    leaving(1)
    for _ in range(STEPS - 1):
        with pytest.raises(Left):
            run(dual, blocks, options, before, keeper)
    back = run(dual, blocks, options, before, keeper)
    assert equal(back[0], whole[0])
    assert back[2].losses == whole[2].losses


def test_where_ranks_meet_seldom_they_leave_where_they_meet(
    dual, blocks, options, before, keeper, leaving
):
    own = options.model_copy(update={"parallel": "local_sgd(sync_every=3, lr=0.7, momentum=0.5)"})
    whole = run(dual, blocks, own, before)
    leaving(1)
    with pytest.raises(Left, match=f"step 3 of {STEPS}"):
        run(dual, blocks, own, before, keeper)
    leaving(0)
    back = run(dual, blocks, own, before, keeper)
    assert equal(back[0], whole[0])
    assert back[2].losses == whole[2].losses


def test_after_the_last_step_a_round_ends_rather_than_leaves(
    dual, blocks, options, before, keeper, leaving
):
    leaving(STEPS)
    run(dual, blocks, options, before, keeper)
    assert not keeper.path.exists()


class Power(BaseException):
    """The power goes off."""


def test_a_checkpoint_is_kept_as_often_as_asked_and_the_rest_is_done_again(
    dual, blocks, options, before, keeper, monkeypatch
):
    """The power goes off in the fourth step; three are in the checkpoint."""
    whole = run(dual, blocks, options, before)
    own, done, update = keeper._replace(every_s=ALWAYS), [], optimizer.Optimizer.parameters.fget

    def off(self):
        done.append(1)
        if len(done) > 3:
            raise Power
        return update(self)

    with monkeypatch.context() as patch:
        patch.setattr(optimizer.Optimizer, "parameters", property(off))
        with pytest.raises(Power):
            run(dual, blocks, options, before, own)
    assert len(load_file(own.path)["losses"]) == 3
    back = run(dual, blocks, options, before, own)
    assert equal(back[0], whole[0])
    assert back[2].losses == whole[2].losses


def test_between_two_checkpoints_time_passes_whatever_the_work(
    dual, blocks, options, before, keeper, monkeypatch
):
    now, kept = [100.0], []
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(checkpoint, "_kept", [100.0])
    monkeypatch.setattr(checkpoint, "keep", lambda _, losses, __: kept.append(len(losses)))
    step = train.step.backward
    monkeypatch.setattr(
        train.step, "backward", lambda *given: (now.__setitem__(0, now[0] + 10), step(*given))[1]
    )
    for _ in range(2):
        run(dual, blocks, options, before, keeper._replace(every_s=25.0))
    assert kept == [4, 3]  # voted at 130 s and 170 s, each time before a step


def test_without_a_keeper_nothing_is_asked_and_nothing_kept(dual, blocks, options, monkeypatch):
    def asked():
        raise AssertionError("asked")

    monkeypatch.setattr(ranks, "leaving", asked)
    run(dual, blocks, options)


def test_the_checkpoint_of_other_work_is_left_aside(dual, blocks, options, before, keeper, leaving):
    leaving(2)
    with pytest.raises(Left):
        run(dual, blocks, options, before, keeper._replace(key="another"))
    leaving(0)
    whole = run(dual, blocks, options, before)
    assert equal(run(dual, blocks, options, before, keeper)[0], whole[0])


@pytest.mark.parametrize("content", [b"x", b"\0" * 64, b""])
def test_a_checkpoint_that_cannot_be_read_is_left_aside_and_told(
    content, dual, blocks, options, before, keeper, caplog
):
    keeper.path.parent.mkdir()
    keeper.path.write_bytes(content)
    whole = run(dual, blocks, options, before)
    assert equal(run(dual, blocks, options, before, keeper)[0], whole[0])
    assert not content or "left aside" in caplog.text


def test_what_was_kept_with_a_checkpoint_comes_back(keeper):
    arrays, carried = {"adapter/x": np.ones(2)}, {"best/x": np.zeros((1, 2), np.float32)}
    own = keeper._replace(key="work:1", carried=carried, note={"rate": 1, "best": [float("inf")]})
    checkpoint.keep(own, [1.5, 2.5], arrays)
    held = checkpoint.recall(own)
    assert held.losses == [1.5, 2.5]
    assert equal(held.arrays, arrays)
    assert equal(held.carried, carried)
    assert held.note == own.note
    assert checkpoint.recall(keeper._replace(key="work:")) is None
    assert checkpoint.recall(keeper._replace(key="work:"), whole=False).note == held.note
    assert checkpoint.recall(keeper._replace(key="ork:"), whole=False) is None


def test_the_key_of_a_round_changes_with_all_that_its_result_depends_on():
    x, y = {"x": np.zeros(2, np.float32)}, {"x": np.ones(2, np.float32)}
    works = [
        (Study(), 1, x),
        (Study(), 2, x),
        (Study(), 1, y),
        (Study(), 1, {}),
        (Study(seed=8), 1, x),
    ]
    assert len({checkpoint.round_key(*work) for work in works}) == len(works)
    assert checkpoint.round_key(Study(home="a"), 1, x) == checkpoint.round_key(Study(), 1, x)


ALONE = {
    "rounds": 4, "train.steps": 2, "train.batch_size": 2, "train.length": 32,
    "train.dtype": "float32", "alone.rates": "0.01,1e30,0.003",
}  # fmt: skip


@pytest.mark.parametrize("vote", [1, 2, 5, 9, 13])
@pytest.mark.parametrize("steps", [1, 2])
def test_training_alone_that_left_and_came_back_finds_the_same_point(
    vote, steps, made, blocks, examples, keeper, leaving
):
    study = from_flat(ALONE | {"train.steps": steps, "rounds": 8 // steps})
    returns(made, blocks, examples, study, keeper, leaving, vote)


@pytest.mark.parametrize("vote", [1, 3, 6, 9])
def test_a_silo_that_left_while_it_distilled_and_came_back_finds_the_same_point(
    vote, made, blocks, examples, keeper, leaving, noisy
):
    begins = tries.distilling(noisy(made, 1, 0.02), noisy(made, 2, 0.02), 0.003, [0.5, 0.9])
    returns(made, blocks, examples, from_flat(ALONE), keeper, leaving, vote, begins)


STAYED: dict[tuple[bool, int], alone.Point] = {}


def returns(made, blocks, examples, study, keeper, leaving, vote, begins=None):
    """Compare a run that is asked to leave twice with one that never was, which is run once for all votes."""
    valid = evaluate.blocks(made, examples[:2], 32)
    case = (begins is None, study.rounds)
    if case not in STAYED:
        STAYED[case] = alone.fit(made, blocks, valid, study, "silo", None, begins)
    whole = STAYED[case]
    for again in (vote, 3):
        leaving(again)
        with pytest.raises(Left):
            alone.fit(made, blocks, valid, study, "silo", keeper, begins)
    leaving(0)
    back = alone.fit(made, blocks, valid, study, "silo", keeper, begins)
    assert back[1:] == whole[1:]
    assert equal(back.adapter, whole.adapter)


def test_options_of_training_have_the_defaults_of_a_single_rank():
    assert Train().parallel == "ddp()"
    assert (Train().micro_batch, Train().checkpointing, Train().schedule) == (0, False, "linear")
