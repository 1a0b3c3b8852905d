"""Losses as the hub reads them from its record: nothing invented, holes filled as told, the same on resumption."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fl_client import messages
from fl_client.app import app as client
from fl_client.config import ConfigError
from fl_server import config, journal, record, weighing
from fl_server.silos import Silo
from strategies.weights.loss_gap import loss_gap
from strategies.weights.qffl import qffl
from strategies.weights.uniform import uniform
from strategies.weights.weight import Counts

NAMES = ["a", "b", "c"]
SILOS = [Silo(n, name, {"as": Counts(1, 10, 9, 5)}, "") for n, name in enumerate(NAMES)]


def line(**losses):
    """Return a recorded round in which these silos told their validation bits per byte."""
    return {
        "round": 1,
        "silos": {
            name: {"valid": {"as": {"bits": loss * 50, "bytes": 50.0}}}
            for name, loss in losses.items()
        },
    }


def test_each_round_is_a_row_and_a_silo_that_was_not_scored_keeps_its_newest_loss():
    recorded = [line(a=3, b=2, c=1), line(a=2), {"round": 2, "silos": {"b": {"down": 0}}}]
    assert weighing.seen(NAMES, recorded, {}).losses == [[3, 2, 1], [2, 2, 1], [2, 2, 1]]


def test_a_silo_that_was_never_scored_counts_as_the_mean_of_the_others():
    assert weighing.seen(NAMES, [line(a=3, b=2)], {}).losses == [[3, 2, 2.5]]


def test_where_nothing_is_known_yet_there_are_no_losses_and_all_weigh_the_same():
    assert weighing.seen(NAMES, [], {}).losses == []
    nobody = [{"round": 0, "silos": {}}]
    assert weighing.weights(SILOS, qffl(), nobody, {}) == dict.fromkeys(NAMES, 1.0)


@pytest.mark.parametrize("lie", [float("nan"), float("inf"), -1.0])
def test_a_loss_that_is_no_loss_is_not_known(lie):
    seen = weighing.seen(NAMES, [line(a=3, b=2, c=1), line(a=lie, b=2, c=1)], {"b": lie, "c": 1.0})
    assert seen.losses[-1] == [3, 2, 1]
    assert seen.gaps == [0, 0, 0]


def test_a_gap_is_the_newest_loss_less_what_was_reached_alone_or_the_mean_of_the_known_gaps():
    recorded = [line(a=9, b=9, c=9), line(a=3.0, b=2.0)]
    assert weighing.seen(NAMES, recorded, {"a": 2.0, "b": 1.5}).gaps == [1.0, 0.5, 0.75]
    assert weighing.seen(NAMES, [], {"a": 2.0}).gaps == [0.0, 0.0, 0.0]


def test_a_silo_that_tells_nothing_weighs_between_those_that_do():
    made = weighing.weights(SILOS, loss_gap(2.0), [line(a=3, b=2, c=2)], {"a": 2.0, "b": 2.0})
    assert made["b"] < made["c"] < made["a"] == 1.0


def weights_of(folder: Path) -> list[dict[str, float]]:
    return [
        {name: note["weight"] for name, note in each["silos"].items()}
        for each in record.lines(folder)[1:]
    ]


@pytest.fixture(scope="module")
def weighed(small, simulate, tmp_path_factory):
    """Return a study whose weights follow the gap to training alone, and its report."""
    study = small(
        tmp_path_factory.mktemp("weighed") / "run",
        rounds=3,
        weights="loss_gap(rate=20.0)",
        alone__enabled=True,
        alone__rates="0.005",
    )
    return study, simulate(study)


def test_weights_follow_the_losses_and_stand_in_the_record(weighed):
    study, report = weighed
    told = weights_of(Path(study.home))
    assert all(max(row.values()) == 1 and min(row.values()) > 0 for row in told)
    assert len({tuple(row.values()) for row in told}) == 3, "they change from round to round"
    lowest, highest = report["weights"]["ne-1"]
    assert [lowest, highest] == [f([row["ne-1"] for row in told]) for f in (min, max)]


def test_a_resumed_study_weighs_as_it_would_have(weighed, simulate, tmp_path):
    study, report = weighed
    own = study.model_copy(update={"home": str(tmp_path / "run")})
    shutil.copytree(study.home, own.home)
    (tmp_path / "run" / "report.json").unlink()
    for lost in (tmp_path / "run" / "journal").glob("round-00003.*"):
        lost.unlink()
    assert journal.recall(tmp_path / "run" / "journal").round == 2
    assert simulate(own)["adapter_sha256"] == report["adapter_sha256"]
    assert weights_of(tmp_path / "run") == weights_of(Path(study.home))


def test_whose_update_counts_how_much_changes_what_is_learned(small, simulate, tmp_path):
    made = [
        simulate(small(tmp_path / spec, weights=spec, strategy="fedavg()", rounds=1))
        for spec in ("uniform()", "qffl(q=4.0)", "afl(rate=1.0)")
    ]
    assert len({report["adapter_sha256"] for report in made}) == 3


def test_a_silo_that_is_never_scored_does_not_stop_a_study_that_weighs_by_loss(
    small, simulate, tmp_path
):
    def silent(message, context):
        if context.node_id == 1 and message.metadata.message_type == "evaluate":
            order, _ = messages.read_order(message)
            if not order.final:
                return messages.fault(message, "internal")
        return client(message, context)

    report = simulate(small(tmp_path / "run", weights="qffl()"), app=silent)
    assert report["rounds_completed"] == 2
    assert 0 < report["weights"]["as-1"][0] < 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"weights": "loss_gap()", "alone__enabled": False}, "C16"),
        ({"weights": "afl()", "evaluate__every": 2}, "C17"),
        ({"weights": "qffl()", "evaluate__every": 0, "rounds": 1}, "C17"),
        ({"weights": "qffl()", "evaluate__every": 0, "rounds": 3}, "C17"),
    ],
)
def test_a_weight_that_nobody_tells_what_it_needs_is_refused_at_the_start(
    changes, code, small, tmp_path
):
    with pytest.raises(ConfigError, match=code):
        config.build(small(tmp_path, **changes))


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_weight_by_losses_is_accepted_as_its_refusal_advises(rounds, small, tmp_path):
    refused = {"weights": "qffl()", "rounds": rounds, "evaluate__every": 0}
    with pytest.raises(ConfigError, match=r"evaluate\.every=1.*weights='bytes\(\)'"):
        config.build(small(tmp_path, **refused))
    for cured in ({"evaluate__every": 1}, {"weights": "bytes()"}):
        assert config.build(small(tmp_path, **refused | cured))


def test_a_study_of_one_round_may_weigh_by_the_losses_of_the_base(small, tmp_path):
    parts, _ = config.build(small(tmp_path, weights="qffl()", rounds=1))
    assert parts.scored


def test_weights_by_text_alone_do_not_look_at_the_record():
    assert weighing.weights(SILOS, uniform(), [line(a=9, b=1, c=1)], {"a": 1.0}) == (
        dict.fromkeys(NAMES, 1.0)
    )
