"""A hostile silo in a real run: it is set aside, named, and the run stays equal to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.clientapp import ClientApp

from fl_client import messages
from fl_client.app import app as client
from fl_server import record


def flipping(silo: int) -> ClientApp:
    """Return a client of which one silo sends the opposite of its change, ten times as large."""
    made = ClientApp()

    @made.train()
    def train(message, context):
        honest = client(message, context)
        if context.node_id != silo:
            return honest
        said = messages.read_reply(honest)
        arrays = {n: np.float32(-10) * x for n, x in said.arrays.items()}
        return messages.answer(message, said.metrics, said.facts, arrays)

    for kind, register in (("query", made.query), ("evaluate", made.evaluate)):
        register()(lambda message, context: client(message, context))
        if kind == "query":
            register("initial")(lambda message, context: client(message, context))
    return made


STUDY = {
    "strategy": "fedavg(lora='language', rows='language')",
    "codec": "float32()",
    "simulation__languages": "as",
    "simulation__silos": 5,
    "evaluate__every": 0,
}


@pytest.mark.parametrize("guard", ["multi_krum(f=1)", "trimmed_mean(0.2)", "norm_clip(1.0)"])
def test_a_hostile_silo_is_dealt_with_in_any_order_of_answers(guard, small, simulate, tmp_path):
    hashes = set()
    for order in (None, 1):
        folder = tmp_path / str(order)
        report = simulate(small(folder, guard=guard, **STUDY), order, app=flipping(3))
        hashes.add(report["adapter_sha256"])
        for line in record.lines(folder)[1:]:
            told = {name for name, note in line["silos"].items() if "guard" in note}
            if guard.startswith("multi_krum"):
                assert told == {"as-3"}
                assert "set aside" in line["silos"]["as-3"]["guard"]["as"]
            if guard.startswith("norm_clip"):
                assert "clipped" in line["silos"]["as-3"]["guard"]["as"]
    assert len(hashes) == 1


def test_a_run_under_a_guard_goes_on_from_the_journal_to_the_same_bits(
    small, damaged, simulate, tmp_path
):
    study = small(tmp_path / "whole", guard="norm_clip(1.0)", **STUDY)
    report = simulate(study)
    again = simulate(damaged(study, tmp_path / "run"))
    assert again["adapter_sha256"] == report["adapter_sha256"]
