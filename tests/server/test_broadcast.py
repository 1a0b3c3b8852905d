"""An encoded broadcast in a real run: bytes, what silos begin from, and what is released."""

import numpy as np
import pytest
from safetensors.numpy import save

from fl_client import messages
from fl_client.app import app as client
from fl_server import config, forecast, journal
from fl_server.simulation import study as simulation
from strategies import adapter as algebra
from strategies import broadcast
from strategies.codecs.bfloat16 import bfloat16
from strategies.codecs.codec import chain


class Tap:
    """A client that remembers what each silo was sent, by kind, round and whether it was the last time."""

    def __init__(self):
        self.sent = {}

    def __call__(self, message, context):
        if message.metadata.message_type in ("train", "evaluate"):
            order, received = messages.read_order(message)
            kind = "final" if order.final else message.metadata.message_type
            self.sent[kind, order.after, message.metadata.dst_node_id] = received
        return client(message, context)


@pytest.fixture(scope="module")
def ran(small, simulate, tmp_path_factory):
    folder, tap = tmp_path_factory.mktemp("encoded") / "run", Tap()
    study = small(folder, broadcast="bfloat16()", rounds=2)
    simulation.prepare(study)
    return study, simulate(study, app=tap), tap, folder


def test_what_silos_begin_from_is_the_committed_adapter_rounded(ran):
    study, _, tap, folder = ran
    codec = chain([bfloat16()])
    state = journal.recall(folder / "journal", 1)
    (group, adapter), *_ = state.adapter.items()
    wire = tap.sent["train", 1, 1]
    shapes = {n: s for n, s in algebra.layout(adapter).items() if f"values/{n}" in wire}
    assert len(shapes) == len(wire) > 0
    decoded = broadcast.decode(wire, shapes, codec, study.seed, 2)
    for name, x in decoded.items():
        assert np.allclose(x, adapter[name], rtol=2**-8, atol=0)
    assert any((adapter[name] != x).any() for name, x in decoded.items())


def test_scoring_a_round_and_training_the_next_send_the_same_bytes(ran):
    _, _, tap, _ = ran
    assert save(tap.sent["evaluate", 1, 1]) == save(tap.sent["train", 1, 1])


def test_what_is_served_is_the_released_adapter_itself(ran):
    _, report, tap, _ = ran
    last = [sent for (kind, _, _), sent in tap.sent.items() if kind == "final"]
    assert last and all(x.dtype == np.float32 for sent in last for x in sent.values())


def test_half_the_bytes_go_down_and_the_forecast_knows_it(ran):
    study, _, tap, _ = ran
    parts, _ = config.build(study)
    received = tap.sent["final", max(after for _, after, _ in tap.sent), 1]
    narrow, whole = (
        forecast.sent_down(algebra.layout(received), codec) for codec in ("bfloat16()", "float32()")
    )
    assert 0.5 < narrow / whole < 0.55
    assert len(save(tap.sent["train", 1, 1])) == narrow
    assert whole == len(save(received))
