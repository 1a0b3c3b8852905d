"""The loop: determinism, resumption, quorum, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from flwr.clientapp import ClientApp

from fl_client import memory, messages
from fl_client.app import app as client
from fl_client.config import ConfigError, flat
from fl_server import app, estimates, introduction, journal, record
from fl_server.app import app as server
from fl_server.grid import Polled
from fl_server.run import RoundFailed
from fl_server.simulation import grid
from strategies import adapter as algebra
from strategies.scaffold import OWN


def test_a_seed_fixes_a_run_to_the_bit_whatever_the_order_of_answers(
    plain, small, simulate, tmp_path
):
    _, report = plain
    for order in (1, 2):
        run = simulate(small(tmp_path / str(order)), order)
        assert run["adapter_sha256"] == report["adapter_sha256"]


def test_another_seed_gives_another_adapter(plain, small, simulate, tmp_path):
    study, report = plain
    other = simulate(small(tmp_path / "run", seed=study.seed + 1))
    assert other["adapter_sha256"] != report["adapter_sha256"]


def test_a_run_killed_in_a_round_and_resumed_ends_with_the_same_bits(finished, tmp_path):
    study, report = finished
    own = study.model_copy(update={"home": str(tmp_path / "run")})
    record.claim(Path(own.home), own, resume=False)
    script = (
        "import sys; from fl_client.config import flat, Study; from fl_server.simulation import grid\n"
        "from fl_client.app import app as client; from fl_server.app import app as server\n"
        "study = Study.model_validate_json(sys.argv[1])\n"
        "grid.run(server, client, study.simulation.silos, flat(study))\n"
    )
    command = [sys.executable, "-c", script, own.model_dump_json()]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal_folder = Path(own.home) / "journal"
    while 2 not in journal.committed(journal_folder):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 3 not in journal.committed(journal_folder), "the kill came too late to prove anything"
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    resumed = json.loads((Path(own.home) / "report.json").read_text())
    assert resumed["adapter_sha256"] == report["adapter_sha256"]
    assert [line["round"] for line in record.lines(Path(own.home))] == [0, 1, 2, 3]


def test_a_damaged_last_round_is_done_again_to_the_same_bits(plain, damaged, simulate, tmp_path):
    study, report = plain
    again = simulate(damaged(study, tmp_path / "run"))
    assert again["adapter_sha256"] == report["adapter_sha256"]


def faulty(silo: int, rounds: set[int], reply) -> tuple[ClientApp, list[int]]:
    """Return a client whose silo ``silo`` answers some rounds of training with ``reply`` instead."""
    fired: list[int] = []
    made = ClientApp()

    @made.query()
    def query(message, context):
        return client(message, context)

    for kind in (made.query("initial"), made.train("alone"), made.evaluate()):
        kind(lambda message, context: client(message, context))

    @made.train()
    def train(message, context):
        number = messages.read_order(message)[0].round
        honest = client(message, context)
        if context.node_id != silo or number not in rounds:
            return honest
        fired.append(number)
        return reply(message, honest)

    return made, fired


def changed(**updates):
    """Return a reply that is honest but for some of its arrays or facts."""

    def reply(message, honest):
        said = messages.read_reply(honest)
        arrays = {n: updates.get(n, lambda x: x)(x) for n, x in said.arrays.items()}
        facts = said.facts | updates.get("facts", {})
        return messages.answer(message, said.metrics, facts, arrays)

    return reply


def nan(x):
    x = x.copy()
    x[0] = 0x7FC0  # a bfloat16 NaN
    return x


LIES = {
    "a NaN": changed(values=nan),
    "another length": changed(values=lambda x: x[:-1]),
    "another dtype": changed(values=lambda x: x.astype(np.float64)),
    "another silo's name": changed(facts={"silo": "ne-1"}),
    "an earlier round": changed(facts={"round": 1}),
    "an error code": lambda message, honest: messages.fault(message, "internal"),
    "an unknown code": lambda message, honest: messages.fault(message, "../../etc"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_bad_reply_is_not_counted_and_the_round_goes_on_at_quorum(lie, small, simulate, tmp_path):
    app, fired = faulty(1, {2}, LIES[lie])
    study = small(tmp_path / "run", schedule="sync(quorum=0.75)", evaluate__every=0)
    report = simulate(study, app=app)
    assert fired == [2]
    assert report["rounds_completed"] == 2
    line = record.lines(tmp_path / "run")[2]
    assert "refused" in line["silos"]["as-1"]
    assert all("refused" not in note for name, note in line["silos"].items() if name != "as-1")


def starting(silos: set[int]):
    """Return a client of which these silos make a first adapter of NaN."""

    def answer(message, context):
        honest = client(message, context)
        if message.metadata.message_type != "query.initial" or context.node_id not in silos:
            return honest
        said = messages.read_reply(honest)
        return messages.answer(
            message, {}, said.facts, {n: x * np.nan for n, x in said.arrays.items()}
        )

    return answer


def test_a_first_adapter_that_cannot_be_used_is_had_from_the_next_silo(
    plain, small, simulate, tmp_path, caplog
):
    _, report = plain
    run = simulate(small(tmp_path / "run"), app=starting({1}))
    assert run["adapter_sha256"] == report["adapter_sha256"]
    assert "the first adapter: silo as-1 made" in caplog.text


def test_where_no_silo_makes_a_first_adapter_the_study_says_so(small, simulate, tmp_path):
    with pytest.raises(ConfigError, match=r"there is no first adapter; silo ne-2 made .* with NaN"):
        simulate(small(tmp_path / "run"), app=starting({1, 2, 3, 4}))


def test_below_the_quorum_a_study_stops_and_can_be_resumed_to_the_same_bits(
    plain, small, simulate, tmp_path
):
    _, whole = plain
    app, fired = faulty(1, {2}, LIES["a NaN"])
    study = small(tmp_path / "run")
    with pytest.raises(
        RoundFailed, match=r"round 2 has 3 of 4 updates and needs 4; as-1: .*--resume"
    ):
        simulate(study, app=app)
    assert fired == [2]
    assert journal.committed(tmp_path / "run" / "journal")[-1] == 1
    assert simulate(study)["adapter_sha256"] == whole["adapter_sha256"]


def test_an_update_that_was_refused_changes_nothing(small, simulate, tmp_path):
    silent, _ = faulty(1, {1, 2}, LIES["an error code"])
    lying, _ = faulty(1, {1, 2}, LIES["a NaN"])
    half = {"schedule": "sync(quorum=0.5)", "evaluate__every": 0}
    runs = [
        simulate(small(tmp_path / str(n), **half), app=app) for n, app in enumerate((silent, lying))
    ]
    assert runs[0]["adapter_sha256"] == runs[1]["adapter_sha256"]


def joined(study, first: int, then: int):
    """Run a study for one round with its first silos, and then to its end; return its report."""
    app, fired = faulty(1, {2}, LIES["an error code"])
    with pytest.raises(RoundFailed):
        grid.run(server, app, first, flat(study))
    assert fired == [2]
    grid.run(server, client, then, flat(study))
    return json.loads((Path(study.home) / "report.json").read_text())


@pytest.mark.parametrize("best", ["as scored", "before it came"])
def test_a_silo_that_came_only_after_a_stop_takes_part_from_then_on(
    best, small, tmp_path, monkeypatch
):
    study = small(tmp_path / "run", rounds=3, simulation__silos=2)
    if best == "before it came":
        monkeypatch.setattr(record, "best", lambda recorded, silos: min(1, len(recorded) - 1))
    report = joined(study, 1, 2)
    lines = record.lines(tmp_path / "run")
    assert [sorted(line["silos"]) for line in lines] == [["as-1"]] * 2 + [["as-1", "ne-1"]] * 2
    assert all("loss" in note for line in lines[1:] for note in line["silos"].values())
    assert report["silos"] == ["as-1", "ne-1"] and set(report["languages"]) == {"as", "ne"}
    if best == "before it came":
        assert set(report["released_round"].values()) == {1}


class Late(Polled):
    """A way to silos of which the second comes after round 1."""

    home = Path()

    def __init__(self, grid):
        super().__init__(grid)
        self.get_node_ids = lambda: [1]

    def newcomers(self, known):
        return [2] if record.lines(self.home)[-1]["round"] == 1 else []


class Full(Polled):
    """A way to silos beside a disk that is full after round 1, until something of it is freed."""

    home, freed = Path(), False

    def roomy(self):
        return self.freed or record.lines(self.home)[-1]["round"] < 1


@pytest.mark.parametrize("schedule", ["sync()", "buffered(size=2)"])
def test_without_room_on_the_disk_no_round_is_begun_and_the_study_goes_on_when_there_is_some(
    schedule, small, tmp_path, monkeypatch
):
    more = {"rounds": 3, "simulation__silos": 2, "schedule": schedule, "evaluate__every": 0}
    grid.run(server, client, 2, flat(small(tmp_path / "whole", **more)))
    whole = json.loads((tmp_path / "whole" / "report.json").read_text())
    monkeypatch.setattr(app, "Polled", Full)
    monkeypatch.setattr(Full, "home", tmp_path / "run")
    study = small(tmp_path / "run", **more)
    with pytest.raises(RoundFailed, match="MiB of the hub's disk are free"):
        grid.run(server, client, 2, flat(study))
    assert [line["round"] for line in record.lines(tmp_path / "run")] == [0, 1]
    monkeypatch.setattr(Full, "freed", True)
    grid.run(server, client, 2, flat(study))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["adapter_sha256"] == whole["adapter_sha256"]


@pytest.mark.parametrize("rail", [False, True])
def test_a_silo_that_comes_between_two_rounds_takes_part_as_after_a_stop(
    rail, small, tmp_path, monkeypatch
):
    more = {"rounds": 3, "simulation__silos": 2, "alone__enabled": rail}
    stopped = joined(small(tmp_path / "stopped", **more), 1, 2)
    monkeypatch.setattr(app, "Polled", Late)
    monkeypatch.setattr(Late, "home", tmp_path / "run")
    study = small(tmp_path / "run", **more)
    grid.run(server, client, 2, flat(study))
    lines = record.lines(tmp_path / "run")
    assert [sorted(line["silos"]) for line in lines] == [["as-1"]] * 2 + [["as-1", "ne-1"]] * 2
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["adapter_sha256"] == stopped["adapter_sha256"]
    assert report["languages"].keys() == {"as", "ne"}
    assert all(bool(row["alone_lr"]) == rail for row in report["silo_scores"].values())


class Shy(Late):
    """The same, where the second does not say who it is the first time it is asked."""

    asked = 0

    def __init__(self, grid):
        super().__init__(grid)
        self.push_messages = self._push

    def newcomers(self, known):
        return {2} - known if record.lines(self.home)[-1]["round"] else []

    def _push(self, pushed):
        later = record.lines(self.home) and pushed[0].metadata.message_type == "query"
        Shy.asked += bool(later)
        return ["never"] if later and Shy.asked == 1 else self._grid.push_messages(pushed)


def test_a_silo_that_does_not_say_who_it_is_is_asked_again_before_the_next_round(
    small, tmp_path, monkeypatch
):
    monkeypatch.setattr(app, "Polled", Shy)
    monkeypatch.setattr(Shy, "asked", 0)
    monkeypatch.setattr(Late, "home", tmp_path / "run")
    monkeypatch.setattr(introduction, "SOON_S", 0.1)
    grid.run(server, client, 2, flat(small(tmp_path / "run", rounds=3, simulation__silos=2)))
    lines = record.lines(tmp_path / "run")
    assert Shy.asked == 2
    assert [sorted(line["silos"]) for line in lines] == [["as-1"]] * 3 + [["as-1", "ne-1"]]


@pytest.mark.parametrize("said", ["ne-2", "../ne", "as-1"])
def test_a_newcomer_that_does_not_fit_is_left_out_and_the_study_goes_on(
    said, small, tmp_path, monkeypatch, caplog
):
    """It is another silo's base, a name that climbs, or a name that is taken."""
    made, asked = ClientApp(), []

    @made.query()
    def query(message, context):
        found = client(message, context)
        if context.node_id == 2:
            asked.append(said)
            base = "another" if said == "ne-2" else ""
            facts = {"silo": said, "languages": {"ne": [1, 1, 1, 1]}, "base": base}
            return messages.answer(message, {}, facts)
        return found

    for kind in (made.query("initial"), made.train(), made.evaluate()):
        kind(lambda message, context: client(message, context))
    monkeypatch.setattr(app, "Polled", Late)
    monkeypatch.setattr(Late, "home", tmp_path / "run")
    grid.run(server, made, 2, flat(small(tmp_path / "run", simulation__silos=2)))
    assert asked and "cannot take part" in caplog.text
    assert {n for line in record.lines(tmp_path / "run") for n in line["silos"]} == {"as-1"}


def test_a_study_goes_on_without_a_silo_that_did_not_come_back(small, tmp_path):
    study = small(tmp_path / "run", rounds=3, simulation__silos=2)
    report = joined(study, 2, 1)
    lines = record.lines(tmp_path / "run")
    assert [sorted(line["silos"]) for line in lines] == [["as-1", "ne-1"]] * 2 + [["as-1"]] * 2
    assert all("loss" in note for line in lines[1:] for note in line["silos"].values())
    assert report["silos"] == ["as-1"]
    assert set(report["languages"]) == set(report["curves"]) == {"as"}


def regrouped(small, folder, first, then, **choices):
    """Run a study of which silos left or came after round 1; return its last state and the memory of who is there."""
    few = {"simulation__silos": 2, "evaluate__every": 0}
    study = small(folder, weights="uniform()", rounds=3, **few, **choices)
    joined(study, first, then)
    names = ["as-1", "ne-1"][:then]
    return journal.recall(folder / "journal"), [
        memory.recall(folder / "silos" / name, 4) for name in names
    ]


regroups = pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)], ids=["left", "came"])


@regroups
def test_where_silos_left_or_came_the_hub_believes_of_those_that_are_there_alone(
    first, then, small, tmp_path
):
    state, homes = regrouped(
        small,
        tmp_path / "run",
        first,
        then,
        codec="ef21() | topk(0.3) | int4()",
        strategy="fedavg(lora='everyone', rows='everyone')",
    )
    (outer,) = state.outer.values()
    believed = algebra.flatten(algebra.under(estimates.PREFIX, outer))
    own = [home["residual"] for home in homes]
    assert np.abs(believed).max() > 0
    np.testing.assert_allclose(believed, np.mean(own, axis=0, dtype=np.float64), atol=1e-6)


@regroups
def test_where_silos_left_or_came_control_variates_are_of_those_that_are_there_alone(
    first, then, small, tmp_path
):
    state, homes = regrouped(
        small,
        tmp_path / "run",
        first,
        then,
        codec="float32()",
        strategy="scaffold(lora='everyone', rows='everyone')",
        train__optimizer="sgd",
    )
    (held,) = state.adapter.values()
    own = [algebra.under("local/", home) for home in homes]
    common = {n: x for n, x in held.items() if n.endswith(algebra.CONTROL)}
    assert max(np.abs(x).max() for x in common.values()) > 0
    for name, x in common.items():
        mine = [each[name.removesuffix(algebra.CONTROL) + OWN] for each in own]
        np.testing.assert_allclose(x, np.mean(mine, axis=0), atol=1e-6 * np.abs(x).max() + 1e-9)


def forgetful(folder: Path) -> ClientApp:
    """Return a client whose first silo, as-1, loses its disk before round 2."""
    made = ClientApp()
    for kind in (made.query(), made.query("initial"), made.evaluate()):
        kind(lambda message, context: client(message, context))

    @made.train()
    def train(message, context):
        if context.node_id == 1 and messages.read_order(message)[0].round == 2:
            shutil.rmtree(folder / "silos" / "as-1" / "memory")
        return client(message, context)

    return made


def test_the_record_says_in_which_round_a_silo_began_without_its_residual(
    small, simulate, tmp_path, caplog
):
    folder = tmp_path / "run"
    few = {"simulation__silos": 2, "evaluate__every": 0}
    study = small(folder, codec="topk(0.1) | int4()", rounds=3, **few)
    simulate(study, app=forgetful(folder))
    told = [
        (line["round"], name)
        for line in record.lines(folder)
        for name, note in line["silos"].items()
        if note.get("codec_reset")
    ]
    assert told == [(2, "as-1")]
    (warned,) = [r.getMessage() for r in caplog.records if "no longer held" in r.getMessage()]
    assert warned.startswith("round 2: as-1 no longer held what both sides know of its updates")


@pytest.mark.parametrize("codec", ["topk(0.1, decay=0.9) | qsgd(bits=4)", "randk(0.1) | int4()"])
def test_what_codecs_draw_and_remember_does_not_depend_on_the_order_of_answers_or_on_a_stop(
    codec, small, simulate, tmp_path
):
    options = {"codec": codec, "simulation__silos": 2, "evaluate__every": 0}
    whole = simulate(small(tmp_path / "0", **options), None)
    turned = simulate(small(tmp_path / "1", **options), 1)
    app, fired = faulty(1, {2}, LIES["an error code"])
    with pytest.raises(RoundFailed):
        simulate(small(tmp_path / "2", **options), app=app)
    assert fired == [2]
    resumed = simulate(small(tmp_path / "2", **options))
    assert len({run["adapter_sha256"] for run in (whole, turned, resumed)}) == 1


CARDS = {
    "no name": {"silo": None, "languages": {"as": [1, 1, 1, 1]}, "base": ""},
    "a name that climbs": {"silo": "../as", "languages": {"as": [1, 1, 1, 1]}, "base": ""},
    "no languages": {"silo": "as-1", "languages": {}, "base": ""},
    "counts below zero": {"silo": "as-1", "languages": {"as": [1, -1, 1, 1]}, "base": ""},
    "counts that are no numbers": {"silo": "as-1", "languages": {"as": "many"}, "base": ""},
    "a language that climbs": {"silo": "as-1", "languages": {"../as": [1, 1, 1, 1]}, "base": ""},
    "a language that divides": {"silo": "as-1", "languages": {"as|b": [1, 1, 1, 1]}, "base": ""},
    "no end of text": {"silo": "as-1", "languages": {"as": [1, float("inf"), 1, 1]}, "base": ""},
    "too much text": {"silo": "as-1", "languages": {"as": [1, 10**400, 1, 1]}, "base": ""},
    "nothing": {},
    "two of one name": {"silo": "as-1", "languages": {"as": [1, 1, 1, 1]}, "base": ""},
}


@pytest.mark.parametrize("card", CARDS)
def test_silos_that_do_not_introduce_themselves_are_refused_before_anything_is_trained(
    card, small, simulate, tmp_path
):
    made = ClientApp()

    @made.query()
    def query(message, context):
        return messages.answer(message, {}, CARDS[card])

    with pytest.raises(ConfigError, match="silo"):
        simulate(small(tmp_path / "run"), app=made)
    assert not (tmp_path / "run" / "rounds.jsonl").exists()


def test_a_round_that_asks_few_hears_those_alone_and_scores_all(small, simulate, tmp_path):
    study = small(tmp_path / "few", schedule="sync(sample=2)", evaluate__every=2)
    report = simulate(study)
    _, first, second = record.lines(tmp_path / "few")
    heard = [{name for name, n in line["silos"].items() if "up" in n} for line in (first, second)]
    assert [len(names) for names in heard] == [2, 2]
    assert len(second["silos"]) == 4 and all("valid" in note for note in second["silos"].values())
    assert not any("refused" in n for line in (first, second) for n in line["silos"].values())
    assert (
        simulate(small(tmp_path / "again", schedule="sync(sample=2)", evaluate__every=2), 3)[
            "adapter_sha256"
        ]
        == report["adapter_sha256"]
    )
