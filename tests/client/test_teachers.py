"""Teachers: what is learned beside the text, against the same written out slowly, and what stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fl_client import model, optimizer, ranks, step, teachers, train, tries
from fl_client.tries import Lesson
from tasks import encode

pytestmark = pytest.mark.usefixtures("one_thread")
PLAN = train.Plan(0, 3, 10, 0.003, "7:silo")


def equal(left, right) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[n], right[n]) for n in left)


def odds(made, adapter, ids) -> np.ndarray:
    """Return the odds of a model under an adapter, in double precision."""
    model.write(made, adapter)
    made.model.eval()
    with torch.no_grad():
        logits = made.model(input_ids=ids, use_cache=False).logits.double().numpy()
    made.model.train()
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def fitted(made, blocks, options, lesson, begun, plan=PLAN):
    model.write(made, begun)
    losses = train.fit(
        made, blocks, options, plan._replace(lesson=lesson), optimizer.start(made, {})
    )
    return model.read(made), losses.losses


@pytest.fixture
def pair(made, noisy):
    return noisy(made, 1, 0.02), noisy(made, 2, 0.02)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_what_is_learned_is_the_text_and_the_mean_of_what_teachers_expect(
    share, made, blocks, pair, noisy
):
    ids, labels = (torch.from_numpy(x[:3]) for x in blocks[:2])
    wanted = torch.nn.functional.pad(labels, (0, 1), value=encode.IGNORED)[:, 1:].numpy()
    first, second = (odds(made, adapter, ids) for adapter in pair)
    came = np.eye(first.shape[-1])[np.maximum(wanted, 0)]
    target = (share * (first + second) / 2 + (1 - share) * came)[wanted != encode.IGNORED]
    begun = noisy(made, 3, 0.02)
    cost = -(target * np.log(odds(made, begun, ids)[wanted != encode.IGNORED])).sum()

    model.write(made, begun)
    taught = teachers.of(made, Lesson(share, pair))
    held = step.text(blocks, made.device)
    with torch.no_grad():
        loss = step.loss(made.model, held, np.arange(3), False, taught)
    assert loss.item() == pytest.approx(cost, rel=1e-5)
    assert equal(model.read(made), begun)  # whoever was heard in between


def test_the_gradient_is_that_of_the_loss(made, blocks, pair, noisy):
    model.write(made, noisy(made, 3, 0.02))
    taught, held = (
        teachers.of(made, Lesson(0.7, pair)),
        step.text(blocks, made.device),
    )
    made.model.zero_grad()
    step.loss(made.model, held, np.arange(2), False, taught).backward()
    name = next(n for n in made.parameters if ".lora_B." in n)
    slope = made.parameters[name].grad.clone()
    towards, size = torch.sign(slope), 1e-3
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            made.parameters[name].add_(sign * size * towards)
            losses.append(step.loss(made.model, held, np.arange(2), False, taught).item())
            made.parameters[name].sub_(sign * size * towards)
    made.model.zero_grad()
    assert (losses[0] - losses[1]) / (2 * size) == pytest.approx(slope.abs().sum().item(), rel=0.01)


def test_teachers_who_have_no_share_leave_what_the_text_alone_teaches(
    made, blocks, options, pair, noisy
):
    begun = noisy(made, 3, 0.02)
    plain, losses = fitted(made, blocks, options, Lesson(), begun)
    silent, others = fitted(made, blocks, options, Lesson(0.0, pair), begun)
    assert others == pytest.approx(losses, rel=1e-5)
    assert all(np.allclose(silent[n], plain[n], atol=1e-4) for n in plain)


def test_one_who_is_taught_by_himself_alone_stays_where_he_is(made, blocks, options, noisy):
    begun = noisy(made, 3, 0.02)
    sgd = options.model_copy(update={"optimizer": "sgd"})
    model.write(made, begun)
    used = optimizer.start(made, {}, "sgd")
    train.fit(made, blocks, sgd, PLAN._replace(lesson=Lesson(1.0, (begun, begun))), used)
    own = model.read(made)
    assert all(np.allclose(own[n], begun[n], atol=1e-5) for n in begun)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_lesson_gives_the_same_bits_twice_and_others_than_another_share(
    dtype, made, blocks, options, pair, noisy
):
    begun, own = noisy(made, 3, 0.02), options.model_copy(update={"dtype": dtype})
    first, again, other = (
        fitted(made, blocks, own, Lesson(share, pair), begun)[0] for share in (0.5, 0.5, 0.6)
    )
    assert equal(first, again) and not equal(first, other)


def test_in_half_precision_no_teacher_is_read_with_the_weights_of_another(made, blocks, pair):
    ids = torch.from_numpy(blocks.ids[:2])
    taught = teachers.of(made, Lesson(0.5, pair))
    both = teachers.expected(taught, ids, half=True)
    one, other = (
        teachers.expected(taught._replace(weights=[w]), ids, True) for w in taught.weights
    )
    assert not torch.allclose(one, other, atol=1e-4)
    assert torch.equal(both, (one + other) / 2)


def test_a_lesson_in_pieces_is_the_lesson(made, blocks, options, pair, noisy):
    begun, whole = noisy(made, 3, 0.02), options.model_copy(update={"batch_size": 5})
    pieces = whole.model_copy(update={"micro_batch": 2, "checkpointing": True})
    (once, losses), (twice, others) = (
        fitted(made, blocks, own, Lesson(0.5, pair), begun) for own in (whole, pieces)
    )
    assert others == pytest.approx(losses, rel=1e-5)
    assert all(np.allclose(once[n], twice[n], atol=1e-4) for n in once)


def test_a_rank_without_text_of_its_own_takes_part_and_adds_nothing(made, blocks, pair):
    taught, held = teachers.of(made, Lesson(0.5, pair)), step.text(blocks, made.device)
    made.model.zero_grad()
    nats = step.loss(made.model, held, ranks.share(np.arange(0)), False, taught)
    nats.backward()
    assert nats.item() == 0
    assert all(not p.grad.any() for p in made.parameters.values() if p.grad is not None)
    made.model.zero_grad()


def test_a_silo_distils_from_the_middle_of_both_at_rates_of_its_shares(made, pair):
    begins = tries.distilling(*pair, 0.004, [0.5, 0.9])
    assert begins.lrs == pytest.approx([0.002, 0.0036])
    assert [begins.lesson(n) for n in (0, 1)] == [Lesson(0.5, pair), Lesson(0.9, pair)]
    middle = {n: (pair[0][n] + pair[1][n]) / 2 for n in pair[0]}
    assert equal(begins.adapter, middle)
    assert all(x.dtype == np.float32 for x in begins.adapter.values())
    assert tries.Begins([0.1]).lesson(0).teachers == ()
