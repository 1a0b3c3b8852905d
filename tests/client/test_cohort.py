"""A cohort: what each silo trains is what it would have trained by itself, whoever trains beside it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import strategies
from fl_client import alone, model, optimizer, train, tries
from fl_client.cohort import buffers, layers, llama, rail, rounds, size, together
from fl_client.cohort import train as cohort
from fl_client.config import Model, Study, Train, from_flat
from fl_client.hooks import Hooks
from fl_client.messages import Fault
from fl_client.tries import Lesson
from strategies.adapter import CONTROL, flatten, norm, part, subtract
from strategies.fedavg import fedavg
from strategies.strategy import Local, Strategy
from tasks import encode
from tasks.encode import Blocks

SOME = "q_proj,up_proj,down_proj"
OPTIONS = Train(steps=5, batch_size=2, length=32, dtype="float32")
PLAN = train.Plan(0, 5, 20, 3e-4, "7:a")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def warm():
    """Return the tiny base with a LoRA adapter of rank 2 and nothing else."""
    return model.warm(Model(rank=2, rows="none", targets=SOME), 0, "", 7)


@pytest.fixture(scope="module")
def twofold():
    """Return the tiny base with an adapter of rank 2 and a private one of rank 3."""
    return model.warm(Model(rank=2, rows="none", targets=SOME), 3, "", 7)


def text(seed: int, rows: int = 5, length: int = 32) -> Blocks:
    ids = np.random.default_rng(seed).integers(1, 6000, (rows, length))
    labels = ids.copy()
    labels[:, : seed % 5] = encode.IGNORED
    return Blocks(ids, labels, 1, 1)


def member(made, noisy, seed, plan=PLAN, local=None, **text_of):
    """Return one silo of a cohort, from an adapter of its own."""
    memory = {}
    if local is not None:
        memory = local.init(made.start)
        memory |= {n + CONTROL: x * 0 + 0.001 * seed for n, x in made.start.items()}

    def hooks(own):
        return Hooks(own, local, 1, memory) if local is not None else None

    plan = plan._replace(key=f"7:{seed}")
    return cohort.Member(noisy(made, seed, 0.02), text(seed, **text_of), plan, {}, hooks)


def separate(made, one, options=OPTIONS):
    """Return what a silo trains by itself."""
    model.write(made, one.adapter)
    used = optimizer.start(made, one.moments, options.optimizer, options.rows_lr)
    losses = train.fit(made, one.blocks, options, one.plan, used, one.hooks(made)).losses
    return cohort.Trained(model.read(made), optimizer.moments(used), losses)


def close(silos, together, apart):
    """Compare all numbers but one in a thousand to 1e-6, and all by how far the silo moved.

    Where a gradient is zero but for rounding, AdamW makes a whole step of its sign: such a number is off by 1e-4 from
    what the same training gives in double precision, whichever way it is trained.
    """
    for one, found, wanted in zip(silos, together, apart, strict=True):
        off = flatten(subtract(found.adapter, wanted.adapter))
        assert np.quantile(np.abs(off), 0.999) < 1e-6
        assert np.linalg.norm(off) <= 1e-3 * norm(subtract(wanted.adapter, one.adapter))
        assert found.moments.keys() == wanted.moments.keys()
        for name, x in wanted.moments.items():
            np.testing.assert_allclose(found.moments[name], x, rtol=1e-3, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(found.losses, wanted.losses, rtol=1e-5)


def with_a_silo_half():
    """Return every strategy of the folder whose silo half is more than sending what changed, and the plainest."""
    modules = [
        importlib.import_module(f"strategies.{m.name}")
        for m in pkgutil.iter_modules(strategies.__path__)
    ]
    named = [getattr(module, module.__name__.rpartition(".")[2], None) for module in modules]
    found = [
        f
        for f in named
        if inspect.isfunction(f) and inspect.get_annotations(f)["return"] == "Strategy"
    ]
    return [f for f in found if f is fedavg or f().local != Local()]


@pytest.mark.parametrize("strategy", with_a_silo_half(), ids=lambda factory: factory.__name__)
def test_a_cohort_trains_what_its_silos_train_one_at_a_time(strategy, warm, twofold, noisy):
    made: Strategy = strategy()
    base = twofold if made.private_rank else warm
    options = OPTIONS.model_copy(update={"optimizer": "sgd"} if made.controls else {})
    silos = [member(base, noisy, seed, local=made.local) for seed in (1, 2, 3)]
    close(silos, cohort.fit(base, silos, options), [separate(base, one, options) for one in silos])


def test_a_base_of_another_kind_than_llama_trains_in_a_cohort_too(warm, noisy, monkeypatch):
    monkeypatch.setattr(llama, "known", lambda layer: False)
    silos = [member(warm, noisy, seed) for seed in (1, 2, 3)]
    close(silos, cohort.fit(warm, silos, OPTIONS), [separate(warm, one) for one in silos])


def test_silos_of_other_lengths_steps_and_places_in_the_study_train_as_by_themselves(warm, noisy):
    plans = [PLAN, PLAN._replace(first=5, steps=2), PLAN._replace(steps=4, lr=1e-4)]
    silos = [
        member(warm, noisy, seed, plan, length=length)
        for seed, plan, length in zip((1, 2, 3), plans, (32, 20, 27), strict=True)
    ]
    close(silos, cohort.fit(warm, silos, OPTIONS), [separate(warm, one) for one in silos])


@pytest.mark.parametrize("change", [{}, {"micro_batch": 1}, {"rows_lr": 0.25}])
def test_token_rows_are_trained_in_a_cohort_as_by_themselves(change, made, noisy):
    options = OPTIONS.model_copy(update=change)
    silos = [member(made, noisy, seed) for seed in (1, 2, 3)]
    close(silos, cohort.fit(made, silos, options), [separate(made, one, options) for one in silos])


def taught(made, noisy, seed: int, share: float) -> Lesson:
    """Return a lesson from two teachers."""
    return Lesson(share, (noisy(made, seed + 10, 0.02), noisy(made, seed + 20, 0.02)))


@pytest.mark.parametrize("change", [{}, {"micro_batch": 1}, {"checkpointing": True}])
@pytest.mark.parametrize("rows", [False, True])
def test_silos_are_taught_in_a_cohort_as_by_themselves(rows, change, warm, made, noisy):
    base, options = made if rows else warm, OPTIONS.model_copy(update=change)
    plans = [
        PLAN._replace(steps=steps, lesson=taught(base, noisy, steps, share))
        for steps, share in ((5, 0.9), (3, 0.5), (5, 0.2))
    ]
    silos = [member(base, noisy, seed, plan) for seed, plan in zip((1, 2, 3), plans, strict=True)]
    close(silos, cohort.fit(base, silos, options), [separate(base, one, options) for one in silos])


def test_moments_go_on_in_a_cohort_where_training_apart_left_them_and_back(warm, noisy):
    first = [member(warm, noisy, seed) for seed in (1, 2)]
    left = [separate(warm, one) for one in first]
    later = [
        one._replace(adapter=own.adapter, moments=own.moments, plan=one.plan._replace(first=5))
        for one, own in zip(first, left, strict=True)
    ]
    close(later, cohort.fit(warm, later, OPTIONS), [separate(warm, one) for one in later])


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_token_rows_move_by_their_share_of_the_rate_and_pairs_as_ever(kind, made, noisy):
    one, moved = member(made, noisy, 1, PLAN._replace(steps=1, lr=0.05)), []
    for share in (1.0, 0.25):
        options = OPTIONS.model_copy(update={"optimizer": kind, "rows_lr": share})
        both = [separate(made, one, options), *cohort.fit(made, [one], options)]
        moved.append([subtract(told.adapter, one.adapter) for told in both])
    for whole, quarter in zip(*moved, strict=True):
        assert any(part(name) == "rows" for name in whole)
        for name, x in whole.items():
            share = 0.25 if part(name) == "rows" else 1.0
            assert np.abs(x).max() > 0
            # what is moved is larger than the step, so the last bits of the step are lost
            np.testing.assert_allclose(quarter[name], share * x, atol=6e-8, rtol=1e-4)


def test_a_part_that_begins_anew_has_moments_of_its_own_age(warm, noisy):
    one = member(warm, noisy, 1)
    left = separate(warm, one).moments
    moments = {name: x for name, x in left.items() if "lora_B" not in name}
    assert 0 < len(moments) < len(left)
    silos = [one._replace(moments=moments), member(warm, noisy, 2)]
    close(silos, cohort.fit(warm, silos, OPTIONS), [separate(warm, own) for own in silos])


@pytest.mark.parametrize("change", [{"clip": 0.05}, {"micro_batch": 1}, {"checkpointing": True}])
def test_clipping_is_by_silo_and_a_batch_may_come_in_pieces(change, warm, noisy):
    options = OPTIONS.model_copy(update=change)
    silos = [member(warm, noisy, seed) for seed in (1, 2, 3)]
    close(silos, cohort.fit(warm, silos, options), [separate(warm, one, options) for one in silos])


def test_a_silo_whose_loss_is_no_number_leaves_the_others_bit_for_bit_as_they_are(warm, noisy):
    silos = [member(warm, noisy, seed) for seed in (1, 2, 3)]
    broken = {name: x * np.float32("nan") for name, x in silos[1].adapter.items()}
    well = cohort.fit(warm, silos, OPTIONS)
    ill = cohort.fit(warm, [silos[0], silos[1]._replace(adapter=broken), silos[2]], OPTIONS)
    for at in (0, 2):
        assert ill[at].losses == well[at].losses
        assert all(ill[at].adapter[n].tobytes() == x.tobytes() for n, x in well[at].adapter.items())
    with pytest.raises(FloatingPointError):
        _ = ill[1].loss


def test_half_precision_stays_near_what_silos_train_one_at_a_time(warm, noisy):
    options = OPTIONS.model_copy(update={"dtype": "bfloat16"})
    silos = [member(warm, noisy, seed) for seed in (1, 2)]
    for found, one in zip(cohort.fit(warm, silos, options), silos, strict=True):
        wanted = separate(warm, one, options)
        np.testing.assert_allclose(found.losses, wanted.losses, rtol=1e-2)
        apart = norm(subtract(found.adapter, wanted.adapter))
        assert 0 < apart < 0.2 * norm(subtract(wanted.adapter, one.adapter))


def test_a_model_is_left_as_it_was(warm, noisy):
    model.write(warm, {})
    silos = [member(warm, noisy, 1)]
    before = separate(warm, silos[0])
    cohort.fit(warm, silos, OPTIONS)
    assert separate(warm, silos[0]).losses == before.losses
    assert "forward" not in vars(warm.model.get_output_embeddings())


def test_a_cohort_trains_what_stock_peft_trains_to_1e_5(warm, noisy):
    silos = [member(warm, noisy, seed) for seed in (1, 2)]
    for one, found in zip(silos, cohort.fit(warm, silos, OPTIONS), strict=True):
        model.write(warm, one.adapter)
        inner = torch.optim.AdamW(warm.parameters.values(), weight_decay=0.0)
        ids, labels = (torch.from_numpy(x) for x in (one.blocks.ids, one.blocks.labels))
        for number in range(one.plan.steps):
            at = encode.order(number, OPTIONS.batch_size, len(ids), one.plan.key)
            warm.model(input_ids=ids[at], labels=labels[at], use_cache=False).loss.backward()
            torch.nn.utils.clip_grad_norm_(warm.parameters.values(), OPTIONS.clip)
            inner.param_groups[0]["lr"] = train.rate(one.plan, number, OPTIONS)
            inner.step()
            inner.zero_grad()
        off = flatten(subtract(found.adapter, model.read(warm)))
        assert np.quantile(np.abs(off), 0.999) < 1e-5


def test_a_silo_that_cannot_begin_leaves_the_others_to_train():
    def fails():
        raise Fault("text_missing")

    def breaks():
        raise ZeroDivisionError

    first, second = rounds.fits([fails, breaks])
    assert isinstance(first, Fault) and first.code == "text_missing"
    assert isinstance(second, ZeroDivisionError)


@pytest.mark.parametrize("rates", ["0.003,0.001", "0.001,1e30"])
def test_silos_alone_reach_in_a_cohort_what_they_reach_by_themselves(rates, warm, noisy):
    study = from_flat(
        {"rounds": 4, "train.steps": 2, "train.batch_size": 2, "train.dtype": "float32"}
        | {"alone.rates": rates, "train.schedule": "constant"}
    )
    lrs = study.alone.lrs()
    starts = [tries.Begins(lrs), tries.Begins(lrs[:1], noisy(warm, 5, 0.02)), tries.Begins(lrs)]
    reach_the_same(warm, study, starts)


def test_silos_distil_in_a_cohort_as_by_themselves(warm, noisy):
    study = from_flat(
        {"rounds": 4, "train.steps": 2, "train.batch_size": 2, "train.dtype": "float32"}
    )
    starts = [
        tries.distilling(noisy(warm, n, 0.02), noisy(warm, n + 9, 0.02), 0.002 / n, shares)
        for n, shares in ((1, [0.5, 0.9]), (2, [0.9]), (3, [0.3, 0.6]))
    ]
    reach_the_same(warm, study, starts)


def reach_the_same(warm, study, starts):
    """Compare silos that train alone in a cohort with those that do so by themselves."""
    silos = [
        rail.Silo(f"s{n}", text(n), {"as": text(n + 20, rows=1)}, begins)
        for n, begins in enumerate(starts, 1)
    ]
    together = rail.fit(warm, silos, study)
    apart = [alone.fit(warm, s.blocks, s.valid, study, s.name, begins=s.begins) for s in silos]
    for found, wanted in zip(together, apart, strict=True):
        assert (found.lr, found.step) == (wanted.lr, wanted.step)
        assert found.valid == pytest.approx(wanted.valid, rel=1e-5)
        off = flatten(subtract(found.adapter, wanted.adapter))
        assert np.quantile(np.abs(off), 0.999) < 1e-5


def test_a_silo_trains_by_itself_where_a_cohort_would_change_more_than_digits(warm, monkeypatch):
    work = SimpleNamespace(study=Study(), checkpoint_s=0.0)
    base = warm.model.get_base_model()
    plain = type(base).forward

    def capped(*args, **kwargs):
        out = plain(base, *args, **kwargs)
        out.logits = torch.tanh(out.logits)
        return out

    model.write(warm, {n: x * np.float32("nan") for n, x in warm.start.items()})
    assert together.of_base(warm) == ""  # whatever somebody trained before
    assert together.apart(work, warm) == "" and together.KNOWN[warm.model] == ""
    assert "checkpoints" in together.apart(SimpleNamespace(study=Study(), checkpoint_s=1.0), warm)
    with monkeypatch.context() as patch:
        patch.setattr(base.config, "attention_dropout", 0.1)
        assert together.of_base(warm) == "the base has dropout"
    with monkeypatch.context() as patch:
        patch.setattr(base, "forward", capped)
        assert together.of_base(warm) == "the logits of the base are more than a product"
    for changed in ({"model.quantization": "nf4"}, {"strategy": "fedsb()"}):
        assert size.apart(from_flat(changed))


def test_a_layer_that_sees_picked_tokens_is_refused_and_not_mixed_up(warm):
    held = buffers.make(warm, 2)
    layer = next(iter(layers.adapted(warm).values()))
    with layers.beside(warm, held.pairs(2, torch.float32), torch.float32):
        assert layer(torch.ones(4, 3, layer.in_features)).shape == (4, 3, layer.out_features)
        for odd in (torch.ones(4, layer.in_features), torch.ones(3, 3, layer.in_features)):
            with pytest.raises(layers.Unfit):
                layer(odd)
