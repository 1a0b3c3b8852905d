"""Rounds of two passes in real runs: what comes of them, and who drops out between the passes (F26)."""

from __future__ import annotations

import numpy as np
import pytest

from fl_client import messages
from fl_client.app import app as client
from fl_server import cohort as cohorts
from fl_server import journal, passes, record, replies, silos
from fl_server.run import RoundFailed
from fl_server.silos import Silo
from strategies import accumulate
from strategies.flexlora import flexlora
from strategies.product import norm, pairs
from strategies.sketch import SPARE, sketch
from strategies.weights.weight import Counts

TWO = {
    "strategy": "sketch()",
    "codec": "float32()",
    "model__rank": 4,
    "model__targets": "q_proj,down_proj",
    "simulation__ranks": "4,2",
    "simulation__silos": 2,
    "train__steps": 1,
    "evaluate__characters": 100,
}
THREE = TWO | {"simulation__languages": "as", "simulation__silos": 3, "rounds": 1}
LOST = "as-2"


def adapters(folder, number=1):
    return journal.recall(folder / "journal", number).adapter


def same(left, right):
    assert left.keys() == right.keys()
    for group, own in left.items():
        assert all(x.tobytes() == right[group][name].tobytes() for name, x in own.items())


def failing(*kinds):
    """Return a client that lets everything through, but that ``LOST`` fails at these kinds of message."""

    def answer(message, context):
        if message.metadata.message_type in kinds and context.node_id == 2:
            return messages.fault(message, "internal")
        return client(message, context)

    return answer


def test_two_sums_come_to_what_flexlora_makes_of_each_silos_factors(small, simulate, tmp_path):
    for name in ("sketch", "flexlora"):
        # AdamW makes whole steps of gradients that are rounding alone; SGD does not.
        own = TWO | {"strategy": f"{name}()", "train__optimizer": "sgd", "train__lr": 0.5}
        study = small(tmp_path / name, **own)
        assert simulate(study)["adapters"] == ["as", "ne"]
    for number in (1, 2):
        own, slow = (adapters(tmp_path / name, number) for name in ("sketch", "flexlora"))
        assert own.keys() == slow.keys() == {"everyone", "as", "ne"}
        found = pairs(own["everyone"])
        for module, pair in pairs(slow["everyone"]).items():
            apart = np.linalg.norm(found[module].b @ found[module].a - pair.b @ pair.a)
            assert apart < 1e-5 * norm(pair)
        for group in slow:
            for name, x in slow[group].items():
                np.testing.assert_allclose(own[group][name], x, atol=1e-5)
    notes = record.lines(tmp_path / "sketch")[2]["silos"]
    assert all("loss" in note and "weight" in note and note["up"] for note in notes.values())


@pytest.fixture(scope="module")
def without(small, simulate, tmp_path_factory):
    """Return the folder of a round in which one of three silos never took part."""
    folder = tmp_path_factory.mktemp("without") / "run"
    study = small(folder, **THREE, schedule="sync(quorum=0.6)")
    simulate(study, app=failing("train"))
    return folder


@pytest.mark.parametrize("how", ["fails", "is silent"])
def test_a_silo_that_drops_out_between_the_passes_changes_not_one_bit(
    how, without, small, simulate, tmp_path, monkeypatch
):
    def heard(grid, kind, contents, closes=None):
        asked.append((kind, [silo.name for silo, _ in contents]))
        for silo, reply in ask(grid, kind, contents, closes):
            if how == "fails" or (kind, silo.name) != ("train.second", LOST):
                yield silo, reply

    ask, asked = silos.ask, []
    monkeypatch.setattr(silos, "ask", heard)
    app = failing("train.second") if how == "fails" else client
    study = small(tmp_path / "run", **THREE, schedule="sync(quorum=0.6)")
    simulate(study, 1 if how == "fails" else None, app)
    same(adapters(tmp_path / "run"), adapters(without))
    seconds = [set(names) for kind, names in asked if kind == "train.second"]
    assert seconds == [{"as-1", LOST, "as-3"}, {"as-1", "as-3"}]
    notes, others = (record.lines(f)[1]["silos"] for f in (tmp_path / "run", without))
    wanted = messages.CODES["internal"] if how == "fails" else passes.LOST
    assert notes[LOST]["refused"] == wanted and "weight" not in notes[LOST]
    assert notes["as-1"]["up"] > others["as-1"]["up"] > 0  # asked again, it answers again
    assert notes["as-1"]["down"] > others["as-1"]["down"]


def test_where_lora_pairs_stay_at_home_there_is_one_pass(small, simulate, tmp_path):
    ran = []
    for name in ("sketch", "fedavg"):
        rows = {"strategy": f"{name}(lora='silo', rows='everyone')", "rounds": 1}
        simulate(small(tmp_path / name, **(THREE | rows | {"simulation__ranks": "4"})))
        ran.append(adapters(tmp_path / name))
    same(*ran)


def test_each_group_is_asked_in_a_basis_of_its_own():
    two, up = sketch().passes, "x.lora_B.weight"
    tensors = [up, "x.lora_A.weight"]
    here = [
        Silo(k, f"s{k}", {lang: Counts(1, 1, 1, 1)}, "")
        for k, lang in enumerate(("as", "ne", "as"))
    ]
    cohort = cohorts.gather(here, sketch(lora="language"), tensors)
    draw = np.random.default_rng(0)
    sent = {f"s{k}": {up: draw.normal(size=(6, 3)).astype(np.float32)} for k in range(3)}
    asked = passes.bases(two, cohort, sent, {"s0": 1.0, "s1": 0.3, "s2": 0.5})
    np.testing.assert_array_equal(asked["s0"][up], asked["s2"][up])
    for basis, wanted in (
        (asked["s0"][up], sent["s0"][up] + 0.5 * sent["s2"][up]),
        (asked["s1"][up], sent["s1"][up]),
    ):
        np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-6)
        np.testing.assert_allclose(basis @ (basis.T @ wanted), wanted, atol=1e-5)
    ranks, by_language = {"s0": 4, "s1": 2, "s2": 1}, sketch(lora="language")
    assert cohorts.sketch(cohort, by_language, ranks, 3) == 5 + SPARE
    assert cohorts.sketch(cohort, by_language, ranks, 1) == 4 + SPARE, "one is asked in a round"
    assert cohorts.sketch(cohort, flexlora(), ranks, 3) == 0


def test_a_group_with_little_text_is_asked_as_exactly_as_one_with_much():
    two, up = sketch().passes, "x.lora_B.weight"
    here = [Silo(k, f"s{k}", {lang: Counts(1, 1, 1, 1)}, "") for k, lang in enumerate(("as", "ne"))]
    cohort = cohorts.gather(here, sketch(lora="language"), [up, "x.lora_A.weight"])
    sent = {up: np.random.default_rng(0).normal(0, 1e-3, (6, 3)).astype(np.float32)}
    weights = {"s0": 1.0, "s1": 1e-7}
    basis = passes.bases(two, cohort, dict.fromkeys(weights, sent), weights)["s1"][up]
    bare = two.ask(accumulate.mean_of([(weights["s1"], sent)], {up: (6, 3)}))[up]

    def missed(basis):
        return np.linalg.norm(basis @ (basis.T @ sent[up]) - sent[up]) / np.linalg.norm(sent[up])

    assert missed(bare) > 0.1  # what the study's weight would leave
    assert missed(basis) < 1e-5


def test_what_is_too_large_only_with_its_start_is_refused_and_not_summed():
    largest = {"x": np.full(2, np.nextafter(np.float32(accumulate.LIMIT), np.float32(0)))}
    assert passes._added(largest, {}) == largest
    with pytest.raises(replies.Refused, match="with its start it holds a number beyond 16384"):
        passes._added(largest, {"x": np.float32([0, 1])})


def test_below_the_quorum_between_the_passes_a_round_fails_and_is_done_again_to_the_same_bits(
    small, simulate, tmp_path
):
    study = small(tmp_path / "run", **THREE)
    with pytest.raises(
        RoundFailed, match=r"round 1 has 2 of 3 updates and needs 3; as-2: .*failed"
    ):
        simulate(study, app=failing("train.second"))
    simulate(study)
    simulate(small(tmp_path / "whole", **THREE), 2)
    same(adapters(tmp_path / "run"), adapters(tmp_path / "whole"))
