"""EF21: hub and silos believe the same of every update, whoever is away, loses a reply or its memory (F22)."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_client import memory, messages
from fl_client.app import app as client
from fl_server import estimates, journal
from fl_server.simulation import study as simulation
from strategies import adapter as algebra
from strategies.codecs.codec import Key, chain
from strategies.codecs.ef21 import ef21
from strategies.codecs.int4 import int4
from strategies.codecs.topk import topk
from strategies.scaffold import OWN

CHAIN = chain([ef21(), topk(0.2), int4()])
SIZE, WEIGHTS = 40, (1.0, 0.5, 0.25)


def line(number, counted, reset=()):
    notes = {name: {"weight": 1.0} for name in counted} | {"away": {"refused": "late"}}
    for name in reset:
        notes[name]["codec_reset"] = True
    return {"round": number, "silos": notes}


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=8))
def test_the_hub_moves_by_the_mean_of_what_all_silos_have_told_it(rounds):
    own = {k: CHAIN.init(SIZE) for k in range(3)}
    held, random = {}, np.random.default_rng(0)
    for number, present in enumerate(rounds, 1):
        sent, weight = np.zeros(SIZE), 0.0
        for k in (k for k in range(3) if present[k]):
            x, key = random.normal(size=SIZE).astype(np.float32), Key(7, number, str(k))
            wire, own[k] = CHAIN.encode(x, own[k], key)
            sent, weight = sent + WEIGHTS[k] * CHAIN.decode(wire, SIZE, key), weight + WEIGHTS[k]
        if not weight:
            continue
        delta = {"x": (sent / weight).astype(np.float32)}
        moved, held = estimates.moved(delta, held, weight / sum(WEIGHTS))
        exact = sum(WEIGHTS[k] * own[k].astype(np.float64) for k in range(3)) / sum(WEIGHTS)
        assert np.allclose(moved["x"], exact, atol=1e-5)


def test_an_update_that_does_not_change_is_known_to_the_hub_in_the_end():
    x, known = np.random.default_rng(1).normal(size=SIZE).astype(np.float32), CHAIN.init(SIZE)
    for number in range(60):
        _, known = CHAIN.encode(x, known, Key(7, number, "a"))
    assert np.abs(known - x).max() < 0.05 * np.abs(x).max()


@pytest.mark.parametrize(
    ("recorded", "first", "expected"),
    [
        ([], 1, 0),
        ([line(0, []), line(1, ["as"])], 1, 0),
        ([line(0, []), line(1, ["as"]), line(2, ["ne"])], 1, 2),
        ([line(0, []), line(1, []), line(2, [])], 1, 1),
        ([line(0, []), line(1, ["as"]), line(2, ["as"])], 3, 1),
        ([line(0, []), line(1, ["as"]), line(2, ["as"]), line(3, ["as"])], 3, 0),
    ],
)
def test_a_silo_is_told_from_which_round_on_its_updates_did_not_count(recorded, first, expected):
    assert estimates.lost(recorded, first)("as") == expected


def test_everyone_begins_anew_after_a_silo_that_lost_its_memory():
    recorded = [line(0, ["as", "ne"]), line(1, ["as", "ne"]), line(2, ["as", "ne"], reset=["ne"])]
    there = ["as", "ne", "away"]
    assert estimates.begun(recorded, there) == 3
    assert estimates.begun(recorded[:2], there) == 1
    assert estimates.lost(recorded, 3)("as") == 1
    assert estimates.forgotten({"estimate/x": 1, "count": 2}) == {"count": 2}


@pytest.mark.parametrize(
    ("cohort", "first"),
    [(["as", "ne", "away"], 2), (["as", "ne"], 3), (["as", "ne", "away", "or"], 3)],
)
def test_everyone_begins_anew_where_silos_came_or_left(cohort, first):
    recorded = [line(0, ["as"]), line(1, ["as"]), line(2, ["as", "ne"])]
    assert estimates.begun(recorded, cohort) == first


def test_an_update_that_did_not_count_leaves_no_trace_in_the_codec(tmp_path):
    for number in (1, 2, 3):
        own = {"residual": np.full(2, number, np.float32), "private/p": np.float32([number])}
        memory.keep(tmp_path, number, own, best=0, lost=2 if number == 3 else 0)
    agreed = memory.agreed(tmp_path, 4, lost=2)
    assert agreed["residual"][0] == 1
    assert agreed["private/p"][0] == 3
    assert memory.agreed(tmp_path, 4, lost=0)["residual"][0] == 3
    assert "residual" not in memory.agreed(tmp_path, 4, lost=1)


class Losing:
    """A client one of whose replies is lost, and one of whose silos loses its memory, each before a round.

    Its memory is gone, or comes ``back`` from a copy that was made before the round before.
    """

    def __init__(self, folder, lost=0, forgets=0, back=0):
        self.folder, self.lost, self.forgets, self.back = folder, lost, forgets, back
        self.fired = []

    def __call__(self, message, context):
        if message.metadata.message_type != "train" or message.metadata.dst_node_id != 1:
            return client(message, context)
        number = messages.read_order(message)[0].round
        home = self.folder / "silos" / "as-1"
        if number == self.back - 1:
            shutil.copytree(home / "memory", home / "copy")
        if number in (self.forgets, self.back):
            shutil.rmtree(home / "memory")
            self.fired.append("forgot")
        if number == self.back:
            (home / "copy").rename(home / "memory")
        reply = client(message, context)
        if number == self.lost:
            self.fired.append("lost")
            return messages.fault(message, "internal")
        return reply


ROUNDS = 4
losses = pytest.mark.parametrize(
    "faults",
    [{}, {"lost": 2}, {"lost": ROUNDS}, {"forgets": 2}, {"back": 3}],
    ids=["none", "lost", "last", "forgets", "an old copy"],
)


def ended(small, simulate, folder, faults, **choices):
    """Run a study through losses; return its last state, and what each silo remembers of its last that counted."""
    few = {"simulation__silos": 2, "evaluate__every": 0}
    study = small(
        folder, weights="uniform()", schedule="sync(quorum=0.5)", rounds=ROUNDS, **few, **choices
    )
    app = Losing(folder, **faults)
    simulation.prepare(study)
    simulate(study, app=app)
    assert len(app.fired) == len(faults)
    homes = sorted(home for home in (folder / "silos").iterdir())
    assert len(homes) > 1
    last = {"as-1": ROUNDS - 1} if faults.get("lost") == ROUNDS else {}
    return journal.recall(folder / "journal", ROUNDS), [
        memory.held(home, last.get(home.name, ROUNDS)) for home in homes
    ]


@losses
def test_hub_and_silos_of_a_study_believe_the_same_to_the_end(small, simulate, tmp_path, faults):
    state, homes = ended(
        small,
        simulate,
        tmp_path / "run",
        faults,
        codec="ef21() | topk(0.3) | int4()",
        strategy="fedavg(lora='everyone', rows='everyone')",
    )
    (outer,) = state.outer.values()
    held = algebra.flatten(algebra.under(estimates.PREFIX, outer))
    own = [home["residual"] for home in homes]
    assert np.abs(held).max() > 0
    assert np.allclose(held, np.mean(own, axis=0, dtype=np.float64), atol=1e-6)


@losses
def test_control_variates_of_the_hub_are_the_mean_of_the_silos_own_to_the_end(
    small, simulate, tmp_path, faults
):
    state, homes = ended(
        small,
        simulate,
        tmp_path / "run",
        faults,
        codec="float32()",
        strategy="scaffold(lora='everyone', rows='everyone')",
        train__optimizer="sgd",
    )
    (held,) = state.adapter.values()
    common = {n: x for n, x in held.items() if n.endswith(algebra.CONTROL)}
    assert max(np.abs(x).max() for x in common.values()) > 0
    for name, x in common.items():
        own = [home["local/" + name.removesuffix(algebra.CONTROL) + OWN] for home in homes]
        np.testing.assert_allclose(x, np.mean(own, axis=0), atol=1e-6 * np.abs(x).max() + 1e-9)
