"""Silos of several LoRA ranks in a real run: what each receives, sends and serves, and who is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from flwr.clientapp import ClientApp
from safetensors.numpy import load_file

from fl_client import messages
from fl_client.app import app as client
from fl_client.config import ConfigError
from fl_server import config, journal, record
from fl_server.run import RoundFailed
from fl_server.simulation import study as simulation
from strategies import widths
from strategies.adapter import layout, part, size

RANKS = {"as-1": 1, "as-2": 4, "ne-1": 2, "ne-2": 1}  # dealt in turn: see MIXED
MIXED = {
    "model__rank": 4,
    "model__alpha": 6,
    "simulation__ranks": "1,4,2",
    "codec": "float32()",
    "alone__enabled": True,
    "alone__rates": "0.01",
    "alone__distil": "",
}


class Tap:
    """A client that lets everything through and remembers what each silo received and sent in training."""

    def __init__(self):
        self.down, self.up = {}, {}

    def __call__(self, message, context):
        reply = client(message, context)
        if message.metadata.message_type == "train":
            order, received = messages.read_order(message)
            said = messages.read_reply(reply)
            key = (order.round, said.facts["silo"])
            self.down[key], self.up[key] = received, sum(x.size for x in said.arrays.values())
        return reply


@pytest.fixture(scope="module", params=["flexlora()", "hetlora()"])
def ran(request, small, simulate, tmp_path_factory):
    """Return a study of mixed ranks, its report, what crossed the wire, and its folder."""
    folder, tap = tmp_path_factory.mktemp("mixed") / "run", Tap()
    study = small(folder, strategy=request.param, **MIXED)
    simulation.prepare(study)
    return study, simulate(study, app=tap), tap, folder


def test_each_silo_receives_sends_and_serves_its_own_rank(ran):
    _, report, tap, folder = ran
    shapes = layout(load_file(folder / "adapter" / "as" / "adapter_model.safetensors"))
    for silo, rank in RANKS.items():
        own = widths.of(shapes, rank)
        assert layout(tap.down[2, silo]) == own
        assert {tap.up[number, silo] for number in (1, 2)} == {size(own)}
        served = folder / "silos" / silo / "served"
        wide = rank * (1 + (report["silo_scores"][silo]["served"] == "blend"))  # of two adapters
        assert layout(load_file(served / "adapter_model.safetensors")) == widths.of(shapes, wide)
        said = json.loads((served / "adapter_config.json").read_text())
        assert said["r"] == wide and said["lora_alpha"] / wide == pytest.approx(6 / 4)
    up = sum(size(widths.of(shapes, rank)) for rank in RANKS.values())
    assert report["bytes"]["dense_up"] == 2 * 4 * up


def test_what_is_released_has_the_studys_rank(ran):
    _, report, _, folder = ran
    assert report["adapters"] == ["as", "ne"]
    for name in report["adapters"]:
        held = load_file(folder / "adapter" / name / "adapter_model.safetensors")
        said = json.loads((folder / "adapter" / name / "adapter_config.json").read_text())
        assert said["r"] == widths.rank(held) == 4
        assert said["lora_alpha"] == pytest.approx(6)


def test_a_silo_of_the_studys_rank_receives_what_the_hub_holds_and_others_a_part(ran):
    study, _, tap, folder = ran
    held = journal.recall(folder / "journal", 1).adapter["everyone"]
    whole, narrow = tap.down[2, "as-2"], tap.down[2, "as-1"]
    assert all(np.array_equal(whole[n], x) for n, x in held.items())
    first = all(np.array_equal(narrow[n], widths.cut(held, 1)[n]) for n in held)
    assert first == (study.strategy == "hetlora()")
    assert {part(n) for n in narrow} == {"A", "B", "rows"}


def test_a_seed_fixes_a_run_of_mixed_ranks_whatever_the_order(ran, simulate, tmp_path):
    study, report, _, _ = ran
    alone = study.alone.model_copy(update={"enabled": False})
    again = study.model_copy(update={"home": str(tmp_path / "run"), "alone": alone})
    assert simulate(again, 2)["adapter_sha256"] == report["adapter_sha256"]


def test_silos_of_several_ranks_merge_one_stack_of_all_that_they_trained(small, simulate, tmp_path):
    changes = {"alone__enabled": False, "strategy": "flora()"}
    folder, tap = tmp_path / "run", Tap()
    study = small(folder, **(MIXED | changes))
    simulation.prepare(study)
    simulate(study, app=tap)
    held = journal.recall(folder / "journal", 1)
    stack = {n: x for n, x in held.strategy["everyone"].items() if part(n) == "merged"}
    assert stack
    shapes, rows = layout(held.adapter["everyone"]), set()
    for silo, rank in RANKS.items():
        merged = {n: x for n, x in tap.down[2, silo].items() if part(n) == "merged"}
        assert merged.keys() == stack.keys()
        assert all(np.array_equal(x, stack[n]) for n, x in merged.items())
        assert tap.up[1, silo] == tap.up[2, silo]
        rows.add((silo[:2], tap.up[1, silo] - size(widths.of(shapes, rank))))
    assert len(rows) == 2, (
        "silos of a language send as many token rows, and pairs of their own rank"
    )
    assert max(len(x) for n, x in stack.items() if "lora_A" in n) == sum(RANKS.values())


def test_where_training_alone_is_kept_it_is_found_at_each_silos_rank(ran):
    study, _, _, folder = ran
    assert not simulation.trains_alone(study, folder)


def test_other_strategies_are_refused_before_training_and_when_silos_introduce_themselves(
    small, simulate, tmp_path
):
    study = small(tmp_path / "run", strategy="fedavg()", **MIXED)
    for start in (simulation.prepare, simulate):
        with pytest.raises(ConfigError, match=r"as-1 \(rank 1\).*\[C20\]; choose .*flexlora"):
            start(study)


def test_ranks_that_are_all_the_studys_are_not_mixed(small, tmp_path):
    even = small(tmp_path, model__rank=4, simulation__ranks="4,4")
    assert simulation.prepare(even) == 4


def faulty(query=client, train=client):
    """Return a client that answers these two kinds in its own way."""
    made = ClientApp()
    for kind in (made.query("initial"), made.evaluate()):
        kind(lambda message, context: client(message, context))
    made.query()(lambda message, context: query(message, context))
    made.train()(lambda message, context: train(message, context))
    return made


def test_an_update_of_the_studys_rank_from_a_narrower_silo_is_refused(small, simulate, tmp_path):
    def train(message, context):
        said = messages.read_reply(client(message, context))
        arrays = said.arrays
        sizes[said.facts["silo"]] = arrays["values"].size
        if said.facts["silo"] == "ne-2":
            arrays = {"values": np.zeros(sizes["as-2"], np.float32)}
        return messages.answer(message, said.metrics, said.facts, arrays)

    sizes: dict[str, int] = {}
    changes = {
        "schedule": "sync(quorum=0.75)",
        "strategy": "hetlora()",
        "rounds": 1,
        "evaluate__every": 0,
    }
    study = small(tmp_path / "run", **(MIXED | {"alone__enabled": False} | changes))
    simulate(study, app=faulty(train=train))
    assert sizes["as-2"] > sizes["ne-1"] > sizes["ne-2"] == sizes["as-1"]
    notes = record.lines(tmp_path / "run")[1]["silos"]
    assert {name for name, note in notes.items() if "refused" in note} == {"ne-2"}


@pytest.mark.parametrize("rank", [2, 3])
def test_a_silo_that_trains_another_rank_than_it_said_is_not_counted(
    rank, small, simulate, tmp_path
):
    def query(message, context):
        said = messages.read_reply(client(message, context))
        rank_said = {"rank": rank} if said.facts["silo"] == "as-1" else {}
        return messages.answer(message, said.metrics, said.facts | rank_said)

    changes = {"strategy": "hetlora()", "rounds": 1, "evaluate__every": 0, "alone__enabled": False}
    study = small(tmp_path / "run", **(MIXED | changes))
    with pytest.raises(RoundFailed, match=r"has 3 of 4 .* as-1: .*another seeded adapter"):
        simulate(study, app=faulty(query=query))


@pytest.mark.parametrize("ranks", ["0", "4,,8", "-1", "two", "8", "4;2", " "])
def test_ranks_that_are_no_ranks_are_refused_in_one_sentence(ranks, small, tmp_path):
    with pytest.raises(ConfigError, match=r"simulation.ranks=.*from 1 to model.rank=4"):
        config.build(small(tmp_path, model__rank=4, simulation__ranks=ranks))


def test_pooled_text_is_trained_at_the_studys_rank(small, tmp_path):
    study = small(tmp_path, model__rank=4, simulation__ranks="1,2", simulation__pooled=True)
    assert study.simulation.dealt(4) == [4]
