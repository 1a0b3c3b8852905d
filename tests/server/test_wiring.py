"""Orderings that every seed keeps where parts are wired as they should be: checks of wiring, no claims of quality."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.slow
SHORT = {
    "rounds": 8,
    "model.rank": 8,
    "train.steps": 5,
    "train.batch_size": 4,
    "train.length": 48,
    "evaluate.every": 8,
    "evaluate.characters": 1000,
    "weights": "uniform()",
    "simulation.silos": 4,
    "simulation.languages": "as,or,ne,sat",
    "simulation.characters": 6000,
}
ONE = "fedavg(lora='everyone', rows='everyone')"


@pytest.fixture(scope="module", params=[1, 2])
def bits(request, small, simulate, tmp_path_factory) -> Callable[..., float]:
    """Return a function that runs a study with the seed and gives the mean test bits per byte of its languages."""

    def run(strategy: str, codec: str = "float32()") -> float:
        changes = {key.replace(".", "__"): value for key, value in SHORT.items()}
        changes |= {"strategy": strategy, "codec": codec, "seed": request.param}
        study = small(tmp_path_factory.mktemp("wiring") / "run", **changes)
        report = simulate(study, cohort=study.simulation.silos)
        rows = [row["after"]["bits_per_byte"] for row in report["languages"].values()]
        return sum(rows) / len(rows)

    return run


@pytest.fixture(scope="module")
def one_model(bits) -> float:
    return bits(ONE)


def test_error_feedback_brings_what_a_sparse_update_left_out(bits, one_model):
    # With decay 1 what waited long arrives as steps that later rounds have taken too.
    kept, forgotten = (bits(ONE, f"topk(0.05, {decay})") for decay in (0.7, 1e-6))
    assert one_model < kept < forgotten - 0.05


def test_a_frozen_seeded_a_costs_what_it_cannot_turn_to(bits, one_model):
    assert bits("ffa(lora='everyone', rows='everyone')") > one_model + 0.02


def test_token_rows_of_a_script_that_one_silo_has_are_better_at_home(bits, one_model):
    assert bits("fedavg(lora='everyone', rows='silo')") < one_model - 0.2
