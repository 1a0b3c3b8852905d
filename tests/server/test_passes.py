"""Rounds of two passes in real runs: what comes of them, and who drops out between the passes."""

from __future__ import annotations

import numpy as np
import pytest

from fl_client import messages
from fl_client.app import app as client
from fl_server import journal, passes, record, silos
from fl_server.run import RoundFailed
from strategies.product import norm, pairs

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
        study = small(tmp_path / name, **(TWO | {"strategy": f"{name}()"}))
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
