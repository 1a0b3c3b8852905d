"""Studies that begin at what first gradients show: asked once, in any order, without who is away, and released."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.clientapp import ClientApp
from peft import PeftModel

from fl_client import bases, messages, model
from fl_client.app import app as client
from fl_client.messages import Reply
from fl_server import cohort as cohorts
from fl_server import config, journal, record, survey, weighing
from fl_server import run as runs
from fl_server.replies import Refused
from fl_server.run import RoundFailed, Run
from fl_server.silos import Silo
from strategies import accumulate
from strategies.adapter import initial, part
from strategies.weights.weight import Counts

IDS = [[3, 17, 5, 99, 4, 28, 61, 7]]
SURVEYS = ("ffa(init='gradsketch')", "fedsb(lora='language')")
RANK = 2


def study_of(small, folder, strategy, **changes):
    given = {"simulation__languages": "as", "simulation__silos": 3, "model__rows": "none"}
    given |= {"codec": "float32()", "train__steps": 2, "train__lr": 0.004, "model__rank": RANK}
    return small(folder, strategy=strategy, **(given | changes))


class Tap:
    """A client that counts what is asked and what goes up; a silo in ``away`` fails when it is surveyed."""

    def __init__(self, away: int = 0) -> None:
        self.asked: Counter[str] = Counter()
        self.up: dict[str, set[int]] = {}
        self.away = away

    def __call__(self, message, context):
        kind = message.metadata.message_type
        self.asked[kind] += 1
        if kind == "query.gradient" and context.node_id == self.away:
            return messages.fault(message, "text_missing")
        reply = client(message, context)
        size = sum(x.size for x in messages.read_reply(reply).arrays.values())
        self.up.setdefault(kind, set()).add(size)
        return reply


@pytest.fixture(scope="module", params=SURVEYS)
def ran(request, small, simulate, tmp_path_factory):
    """Return a run of two rounds of each: its study, its report, what travelled."""
    study = study_of(small, tmp_path_factory.mktemp("surveyed") / "run", request.param)
    tap = Tap()
    return study, simulate(study, app=tap), tap


def test_two_rounds_learn(ran):
    (curve,) = ran[1]["curves"].values()
    assert curve[0][1] > curve[1][1] + 0.01 and curve[1][1] > curve[2][1]


def test_each_silo_is_asked_once_and_sends_what_the_strategy_says(ran):
    study, report, tap = ran
    made = model.warm(study.model, 0, "", study.seed, core=study.strategy in SURVEYS[1:])
    sizes = Counter()
    for name, x in made.start.items():
        sizes[part(name)] += x.size
    modules = sum(part(n) == "A" for n in made.start)
    assert tap.asked["query.gradient"] == 3
    if study.strategy in SURVEYS[1:]:
        assert tap.up["train"] == {RANK**2 * modules}
        assert tap.up["query.gradient"] == {2 * (sizes["A"] + sizes["B"])}
    else:
        assert tap.up["train"] == {sizes["B"]}
        assert tap.up["query.gradient"] == {2 * sizes["A"]}
    sent = tap.up["train"].pop() * 2 + tap.up["query.gradient"].pop()
    assert report["bytes"]["up"] == pytest.approx(3 * 4 * sent, rel=0.1)


def test_what_was_found_is_committed_and_a_study_goes_on_in_another_order_without_asking_again(
    ran, simulate, small, tmp_path
):
    study, report, _ = ran
    again = study_of(small, tmp_path / "run", study.strategy)
    broken = ClientApp()
    for kind in (broken.query(), broken.query("initial"), broken.query("gradient")):
        kind(lambda message, context: client(message, context))
    broken.evaluate()(lambda message, context: client(message, context))
    broken.train()(lambda message, context: messages.fault(message, "internal"))
    with pytest.raises(RoundFailed, match="round 1 has 0 of 3"):
        simulate(again, 1, app=broken)
    begun = journal.recall(Path(again.home) / "journal", 0)
    a = next(x for n, x in begun.adapter[next(iter(begun.adapter))].items() if part(n) == "A")
    np.testing.assert_allclose(a.astype(float) @ a.T, np.eye(RANK) / 3, atol=1e-5)
    tap = Tap()
    assert simulate(again, 1, app=tap)["adapter_sha256"] == report["adapter_sha256"]
    assert not tap.asked["query.gradient"]


def test_peft_loads_the_released_adapter_and_gives_what_the_silos_scored(ran):
    study, report, _ = ran
    (name,) = report["adapters"]
    home = Path(study.home)
    state = journal.recall(home / "journal", report["released_round"][name])
    made = model.warm(study.model, 0, "", study.seed, core=study.strategy in SURVEYS[1:])
    model.write(made, {n: x for held in state.adapter.values() for n, x in held.items()})

    def logits(of):
        with torch.no_grad():
            return of(torch.tensor(IDS)).logits.numpy()

    want, base = logits(made.model), bases.model("builtin:tiny")
    plain = logits(base)
    found = logits(PeftModel.from_pretrained(base, home / "adapter" / name))
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-4)
    assert np.abs(found - plain).max() > 0.01


def test_a_silo_that_cannot_tell_is_left_out_and_below_the_quorum_nothing_begins(
    small, simulate, tmp_path
):
    study = study_of(small, tmp_path / "run", SURVEYS[0], rounds=1, schedule="sync(quorum=0.6)")
    report = simulate(study, app=Tap(away=2))
    notes = record.lines(tmp_path / "run")[0]["silos"]
    assert [name for name, note in notes.items() if "refused" in note] == ["as-2"]
    assert report["rounds_completed"] == 1
    strict = study_of(small, tmp_path / "strict", SURVEYS[0], rounds=1)
    with pytest.raises(RoundFailed, match=r"2 of 3 silos told .* 3 must; as-2: the silo has no"):
        simulate(strict, app=Tap(away=2))
    assert not journal.committed(tmp_path / "strict" / "journal")


A, B = "q.lora_A.weight", "q.lora_B.weight"
SILO = Silo(1, "as-1", {"as": Counts(1, 9, 8, 3)}, "")
GOOD = Reply({A: np.ones((4, 5), np.float32)}, {}, {"silo": "as-1", "round": 0}, "", 80)
BAD = {
    "a code": (GOOD._replace(code="out_of_memory"), "ran out of memory"),
    "another silo": (GOOD._replace(facts={"silo": "x", "round": 0}), "answers for 'x'"),
    "an update": (GOOD._replace(facts={"silo": "as-1", "round": 1}), "not before round 1"),
    "another shape": (GOOD._replace(arrays={A: np.ones((5, 4), np.float32)}), "other tensors"),
    "one tensor more": (GOOD._replace(arrays=GOOD.arrays | {B: np.ones((2, 2))}), "other tensors"),
    "nothing": (GOOD._replace(arrays={}), "other tensors"),
    "a NaN": (GOOD._replace(arrays={A: np.full((4, 5), np.nan, np.float32)}), "NaN"),
    "too much": (GOOD._replace(arrays={A: np.full((4, 5), 2e4, np.float32)}), "beyond 16384"),
    "another type": (GOOD._replace(arrays={A: np.ones((4, 5))}), "not float32"),
}


@pytest.mark.parametrize(("reply", "said"), BAD.values(), ids=BAD.keys())
def test_sketches_that_are_not_what_was_asked_for_are_refused(reply, said):
    assert survey._checked(SILO, GOOD, {A: (4, 5)}) is GOOD.arrays
    with pytest.raises(Refused, match=said):
        survey._checked(SILO, reply, {A: (4, 5)})


def test_sketches_that_answer_for_another_silo_in_very_many_words_are_refused_in_few():
    reply = GOOD._replace(facts={"silo": "x" * 5_000_000, "round": 0})
    with pytest.raises(Refused, match="answers for 'x{50,}, not before round 1$") as refused:
        survey._checked(SILO, reply, {A: (4, 5)})
    assert len(str(refused.value)) <= 300


def test_a_group_whose_silos_all_came_later_begins_at_a_subspace_of_the_seed(small, tmp_path):
    study = small(tmp_path, strategy="ffa(lora='language', init='gradsketch')")
    parts, schedule = config.build(study)
    start = {n: initial(n, s, 7) for n, s in {A: (2, 5), B: (4, 2)}.items()}
    cohort = cohorts.gather([SILO], parts.strategy, sorted(start))
    run = Run(None, study, parts, schedule, tmp_path, cohort, {}, start, None, {}, {})
    state = runs.first(run, number=3)
    assert state.round == 3 and state.adapter.keys() == {"as"}
    a = state.adapter["as"][A]
    np.testing.assert_allclose(a @ a.T, np.eye(2) / 3, atol=1e-6)
    assert not np.array_equal(a, start[A]) and not state.adapter["as"][B].any()


def test_a_group_with_little_text_begins_at_its_own_sketch_beside_a_group_with_much(
    small, tmp_path, monkeypatch
):
    study = small(
        tmp_path, strategy="ffa(lora='language', init='gradsketch')", weights="bytes(0.5)"
    )
    parts, schedule = config.build(study)
    start = {n: initial(n, s, 7) for n, s in {A: (2, 5), B: (4, 2)}.items()}
    here = [
        Silo(k, name, {name: Counts(1, size, 1, 1)}, "")
        for k, (name, size) in enumerate((("as", 10**9), ("ta", 10**5)))
    ]
    told = {A: np.random.default_rng(0).normal(0, 1e-3, (4, 5)).astype(np.float32)}
    answers = [(silo, Reply(told, {}, {"silo": silo.name, "round": 0}, "", 80)) for silo in here]
    monkeypatch.setattr(survey.silos, "ask", lambda *_: answers)
    monkeypatch.setattr(survey.messages, "order", lambda _: None)
    cohort = cohorts.gather(here, parts.strategy, sorted(start))
    run = Run(None, study, parts, schedule, tmp_path, cohort, {}, start, None, {}, {})
    sums = {group: accumulate.empty({A: (4, 5)}) for group in ("as", "ta")}
    assert all("refused" not in note for note in survey._gathered(run, {A: (4, 5)}, sums).values())
    weight = weighing.weights(here, parts.weights, [], {})["ta"]
    bare = accumulate.mean_of([(weight, told)], {A: (4, 5)})
    assert np.abs(bare[A] - told[A]).max() > 1e-3  # what the study's weight would leave
    np.testing.assert_allclose(accumulate.mean(sums["ta"])[A], told[A], atol=1e-9)
