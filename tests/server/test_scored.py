"""Scores in whole studies: a silo that tells none, or false ones, is left out of the numbers and holds nobody up."""

from __future__ import annotations

import io
import json
import math
import time
from pathlib import Path

import pytest
from rich.console import Console

from fl_client import messages
from fl_client.app import app as client
from fl_server import app, record, silos
from fl_server.grid import Polled
from fl_server.run import RoundFailed
from fl_server.simulation import screen
from fl_server.simulation.faults import study as studies
from strategies.schedules.schedule import by


class Telling:
    """A client of which some silos tell other scores than they have, or none, in some rounds or at the end."""

    def __init__(self, change, silos=(1,), final=False, rounds=range(99)):
        self.change, self.silos, self.final, self.rounds = change, silos, final, rounds
        self.told = []

    def __call__(self, message, context):
        honest = client(message, context)
        if message.metadata.message_type != "evaluate" or context.node_id not in self.silos:
            return honest
        order, _ = messages.read_order(message)
        if order.final != self.final or order.after not in self.rounds:
            return honest
        self.told.append((context.node_id, order.after))
        said = messages.read_reply(honest)
        changed = self.change(said.metrics, said.facts)
        return (
            messages.answer(message, *changed) if changed else messages.fault(message, "internal")
        )


def fails(metrics, facts):
    """Tell nothing: the silo fails."""


def told(**numbers):
    """Return a change of numbers: of each name that ends so, None to leave it out."""

    def change(metrics, facts):
        ends = {name: name.rpartition("/")[2] for name in metrics}
        found = {name: numbers.get(ends[name], number) for name, number in metrics.items()}
        return {name: number for name, number in found.items() if number is not None}, facts

    return change


def said(**changes):
    """Return a change of facts, None to leave one out."""

    def change(metrics, facts):
        found = facts | changes
        return metrics, {key: fact for key, fact in found.items() if fact is not None}

    return change


FEW = {"simulation__silos": 2, "rounds": 2}


@pytest.mark.parametrize(
    "lie", [{"bytes": None}, {"bytes": 0.0}, {"bits": math.nan}], ids=["none", "zero", "nan"]
)
def test_a_silo_that_tells_no_scores_is_not_counted_and_the_study_goes_on(
    lie, small, simulate, tmp_path, caplog
):
    client = Telling(told(**lie))
    report = simulate(small(tmp_path / "run", **FEW), app=client)
    assert client.told == [(1, 0), (1, 1), (1, 2)]
    assert report["rounds_completed"] == 2
    for line in record.lines(tmp_path / "run"):
        assert {name for name, note in line["silos"].items() if "valid" in note} == {"ne-1"}
    assert caplog.text.count("as-1 was not evaluated: it tells no scores of 'valid'") == 3
    assert set(report["curves"]) == {"ne"} and report["silo_scores"]["as-1"]["served"]


def test_bits_that_are_no_number_in_one_round_do_not_make_it_the_best(small, simulate, tmp_path):
    client = Telling(told(bits=math.nan), rounds=[1])
    report = simulate(small(tmp_path / "run", **FEW), app=client)
    assert client.told == [(1, 1)]
    assert report["released_round"]["as"] == 2


def shown(report):
    """Return the tables of a report as a person reads them."""
    out = io.StringIO()
    Console(file=out, width=160).print(screen.tables(report))
    return out.getvalue()


def of_the_others(report, folder):
    """Assert that a report of two silos is that of ne-1, and says that as-1 was not scored."""
    lost, kept = report["silo_scores"]["as-1"], report["silo_scores"]["ne-1"]
    stages = ("before", "alone", "together", "adapted", "blend", "served", "alone_lr")
    assert lost["language"] == "as" and {lost[stage] for stage in stages} == {None}
    assert report["summary"]["unscored"] == ["as-1"]
    assert report["summary"]["together"]["bits_per_byte"]["mean"] == kept["together"] > 0
    assert report["languages"]["as"]["after"] is None
    assert report["languages"]["ne"]["after"]["bits_per_byte"] == kept["together"]
    assert sorted(path.name for path in (folder / "adapter").iterdir()) == report["adapters"]
    page = (folder / "report.html").read_text()
    assert "Not scored: as-1." in page and "sent no final result" in page
    assert "as-1" in shown(report) and "NaN" not in (folder / "report.json").read_text()


ENDS = {
    "serves nothing": said(served=None),
    "serves what there is not": said(served="another"),
    "tells no bytes": told(bytes=None),
    "tells no number": told(bits=math.nan),
    "trained alone at no rate": said(alone_lr=math.nan),
    "fails": fails,
}


@pytest.mark.parametrize("end", ENDS)
def test_the_release_is_of_the_silos_that_were_scored_where_one_is_not(
    end, small, simulate, tmp_path, caplog
):
    client = Telling(ENDS[end], final=True)
    report = simulate(small(tmp_path / "run", **FEW | {"rounds": 1}), app=client)
    assert client.told == [(1, 1)]
    of_the_others(report, tmp_path / "run")
    assert "the report lacks silos; as-1: " in caplog.text


def test_a_silo_that_names_no_rate_is_scored_all_the_same(small, simulate, tmp_path):
    def change(metrics, facts):
        return metrics, {"served": facts["served"]}

    client = Telling(change, final=True)
    report = simulate(small(tmp_path / "run", **FEW | {"rounds": 1}), app=client)
    assert client.told == [(1, 1)]
    assert report["silo_scores"]["as-1"]["together"] and report["summary"]["unscored"] == []


def test_where_no_silo_is_scored_the_adapters_are_there_and_their_scores_can_be_had_later(
    small, simulate, tmp_path
):
    folder, client = tmp_path / "run", Telling(fails, silos=(1, 2), final=True)
    study = small(folder, **FEW | {"rounds": 1})
    with pytest.raises(RoundFailed, match="no silo could be scored; as-1: .*; ne-1: .*--resume"):
        simulate(study, app=client)
    assert client.told == [(1, 1), (2, 1)]
    assert {path.name for path in (folder / "adapter").iterdir()} == {"as", "ne"}
    assert not (folder / "report.json").exists()
    assert simulate(study)["summary"]["unscored"] == []


class Dying(Polled):
    """A way to silos of which the first dies after the last round; where nothing comes, ten minutes go by."""

    month, made = 30 * 86400, None

    def gone(self, kind, order):
        """Return whether the first silo is, when it is asked this."""
        return order.final

    def __init__(self, grid):
        super().__init__(grid)
        self.ahead, self.lost, Dying.made = 0.0, {}, self
        self.now = lambda: time.monotonic() + self.ahead
        self.push_messages, self.pull_messages = self._push, self._pull

    def _push(self, pushed):
        keys = self._grid.push_messages(pushed)
        for key, message in zip(keys, pushed, strict=True):
            kind, order = message.metadata.message_type, messages.read_order(message)[0]
            if message.metadata.dst_node_id == 1 and self.gone(kind, order):
                self.lost[key] = kind
        return keys

    def _pull(self, keys):
        there = [key for key in keys if key not in self.lost]
        return self._grid.pull_messages(there) if there else []

    def wait(self, seconds):
        self.ahead += 600
        assert self.ahead < self.month, "a silo that died is waited for"


def test_a_silo_that_dies_after_the_last_round_is_waited_for_no_longer_than_rounds_take(
    small, simulate, tmp_path, monkeypatch
):
    monkeypatch.setattr(app, "Polled", Dying)
    rail = {"alone__enabled": True, "alone__rates": "0.005"}
    report = simulate(small(tmp_path / "run", schedule="sync(deadline_s=7200)", **FEW, **rail))
    assert sorted(Dying.made.lost.values()) == ["evaluate", "train.alone"]
    # for training on at home as long as two rounds may take, for distilling twice that, for scores as long as one
    waits = 2 + 4 + 1
    assert waits * 7200 <= Dying.made.ahead <= waits * 7200 + 6 * 600
    of_the_others(report, tmp_path / "run")
    assert report["silo_scores"]["ne-1"]["adapted"]


class DyingFirst(Dying):
    """The same, where it dies as it trains alone before the first round."""

    def gone(self, kind, order):
        return self.lost or kind == "train.alone"


def test_a_silo_that_dies_as_it_trains_alone_is_waited_for_no_longer_than_all_rounds_may_take(
    small, simulate, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(app, "Polled", DyingFirst)
    rail = {"alone__enabled": True, "alone__rates": "0.005, 0.01", "alone__adapt": False}
    schedule = {"schedule": "sync(quorum=0.5, deadline_s=7200)"}
    report = simulate(small(tmp_path / "run", **FEW, **rail, **schedule))
    lost = [*Dying.made.lost.values()]
    assert lost[:2] == ["train.alone", "train"]
    assert "the study goes on while as-1 may train alone still" in caplog.text
    # for two rates of two rounds, for each round and its scores, and for the last ones
    waits = 2 * 2 + 2 + 2 + 1
    assert waits * 7200 <= Dying.made.ahead <= waits * 7200 + len(lost) * 600
    of_the_others(report, tmp_path / "run")


def test_silos_that_answer_one_after_the_other_are_all_waited_for():
    run = studies.run(studies.Shape(2, 2, "bfloat16()", studies.ALL))
    run = run._replace(schedule=run.schedule._replace(scored=by(10.0)))
    closes = silos.after_last(run.schedule.scored)
    assert not any(closes(9, answered, 9 - answered, 8.0 * answered) for answered in range(9))
    assert not closes(9, 8, 1, 64.0 + 9.9) and closes(9, 8, 1, 64.0 + 10.0)
    assert closes(9, 9, 0, 64.0)
    slower = silos.after_last(run.schedule.scored, rounds=3)
    assert not slower(9, 0, 9, 29.9) and slower(9, 0, 9, 30.0)


def test_a_silo_may_be_scored_in_a_language_in_which_it_has_nothing_to_train_on(
    small, simulate, tmp_path
):
    (tmp_path / "text").mkdir()
    splits = [("as", split) for split in ("train", "valid", "test")] + [("ne", "valid")]
    rows = [
        {
            "lang": lang,
            "split": split,
            "text": f"{lang} {split} {n} {'কথা' * n}",
            "doc": f"{lang}{n}{split}",
        }
        for lang, split in splits
        for n in range(30)
    ]
    (tmp_path / "text" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    study = small(
        tmp_path / "run",
        rounds=1,
        simulation__silos=1,
        simulation__data=str(tmp_path / "text"),
        simulation__partition="iid()",
    )
    study = study.model_copy(
        update={"simulation": study.simulation.model_copy(update={"languages": ""})}
    )
    report = simulate(study)
    (note,) = record.lines(Path(study.home))[1]["silos"].values()
    assert set(note["valid"]) == {"as", "ne"} and set(report["languages"]) == {"as"}


@pytest.mark.parametrize(("scored", "known"), [((), True), (("base",), False)])
def test_a_silo_with_a_few_lines_of_a_language_and_no_score_of_it_takes_nobodys_row_away(
    scored, known, small, simulate, tmp_path
):
    def few(message, context):
        honest, kind = client(message, context), message.metadata.message_type
        if context.node_id != 1 or kind not in ("query", "evaluate"):
            return honest
        said = messages.read_reply(honest)
        if kind == "query":
            lines = {"languages": said.facts["languages"] | {"ne": [1, 10, 10, 1]}}
            return messages.answer(message, said.metrics, said.facts | lines)
        told = {f"{what}/ne/{key}": 50.0 for what in scored for key in ("bits", "bytes")}
        return messages.answer(message, said.metrics | told, said.facts)

    row = simulate(small(tmp_path / "run", **FEW), app=few)["languages"]["ne"]
    assert (row["silos"], row["before"] is None) == (2, False)
    # what it tells of one candidate alone would make a mean over other silos than the next
    assert (row["after"] is not None) == known
