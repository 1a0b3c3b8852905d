"""Silos that wait for nobody: what arrives counts once, by its staleness, in an order that can be replayed (F17).

Silos stand in virtual time and step towards targets of their own, with the codec, the memory on disk and the messages
of real ones.
"""

from __future__ import annotations

import shutil
from collections import Counter
from datetime import datetime
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client import memory, messages, parcels
from fl_client.app import app as client
from fl_client.config import flat, from_flat
from fl_server import buffer, config, intake, journal, record, rounds
from fl_server import run as runs
from fl_server.grid import Polled
from fl_server.run import RoundFailed
from fl_server.simulation import grid as local
from fl_server.simulation import scratch, standins
from fl_server.simulation.profiles import Place, checked
from fl_server.simulation.seats import Seat
from fl_server.simulation.virtual import VirtualGrid
from strategies import adapter as algebra
from strategies.codecs.codec import Key

START = datetime(2026, 11, 30, 8)
LINE = {"uplink_bytes_s": 1e9, "downlink_bytes_s": 1e9, "latency_s": 0}


def made(schedule: str, **changes):
    few = {
        "rounds": 6,
        "alone.enabled": False,
        "train.steps": 100,
        "train.batch_size": 10,
        "weights": "bytes()",
        "codec": "float32()",
        "strategy": "fedavg(lora='everyone', rows='language')",
        "simulation.languages": "as,ne",
    }
    own = {key.replace("__", "."): value for key, value in changes.items()}
    return from_flat(few | {"schedule": schedule} | own)


@pytest.fixture
def here():
    """Return a folder in memory, where writing durably costs nothing."""
    with scratch.folder("buffer-") as folder:
        yield folder


class Silos:
    """What answers for all silos: steps towards a target, with a memory in files; ``sent`` is all that they sent."""

    def __init__(self, cast, home: Path, failing=()) -> None:
        self.cast, self.home, self.failing = cast, home, failing
        self.sent: dict[tuple[str, int], algebra.Adapter] = {}
        self.orders: list[tuple[str, messages.Order]] = []
        self.lies = {}  # what the update of a silo is made before it is sent

    def __call__(self, silo: str, message):
        if message.metadata.message_type != "train":
            return self.cast.answer(silo, message)
        order, received = messages.read_order(message)
        self.orders.append((silo, order))
        if silo in self.failing:
            return messages.fault(message, "internal")
        start, turn = self.cast.start | received, order.turn
        draw = np.random.default_rng([turn, *silo.encode()])
        target = {
            n: np.full(x.shape, len(silo) + ord(silo[0]), np.float32) for n, x in start.items()
        }
        delta = {
            n: (
                1e-3 * (order.steps or 100) / 100 * (target[n] - x) + draw.normal(0, 1e-3, x.shape)
            ).astype("f4")
            for n, x in start.items()
        }
        codec, key = self.cast.parts.codec, Key(self.cast.study.seed, turn, silo)
        vector, home = algebra.flatten(delta), self.home / silo
        held = memory.agreed(home, turn, order.lost).get("residual", codec.init(vector.size))
        wire, residual = codec.encode(vector, held, key)
        memory.keep(home, turn, {"residual": residual}, order.best, order.lost)
        self.sent[silo, turn] = delta
        wire = {name: self.lies[silo](x) for name, x in wire.items()} if silo in self.lies else wire
        return messages.answer(message, {"loss": 1.0}, {"silo": silo, "round": turn}, wire)


class Killed(Exception):
    """The hub dies."""


def begun(study, speeds, folder, failing=(), dies=None):
    """Return a study that is about to run over silos of these speeds, and its silos."""
    seats = [Seat(n, "own", checked("own", LINE | {"tokens_s": v})) for n, v in speeds.items()]
    cast, (_, schedule) = standins.cast(study, seats), config.build(study)
    answers = Silos(cast, folder / "homes", failing)
    places = {s.silo: Place(s.profile, s.silo, START) for s in seats}
    local.identify()
    grid = VirtualGrid(places, cast.costs.bill, answers)
    grid.lay_out = lambda *_: None  # arrays travel in messages
    if dies is not None:
        settled, grid.settle = grid.settle, lambda: settled() if next(dies) else stop()
    watched = {key: grid.watched(getattr(schedule, key)) for key in ("closes", "scored")}
    run = runs.join(grid, cast.study, cast.parts, schedule._replace(**watched), folder)
    # text in proportion to the place in line, so that silos weigh differently
    told = [
        silo._replace(counts={lang: own._replace(bytes=k) for lang, own in silo.counts.items()})
        for k, silo in enumerate(run.cohort.silos, 1)
    ]
    return run._replace(cohort=run.cohort._replace(silos=told)), answers


def stop():
    raise Killed


def arrivals(folder):
    return [one for line in record.lines(folder)[1:] for one in line["arrivals"]]


def same(left, right):
    assert left.round == right.round
    for kind in journal.KINDS:
        ours, theirs = getattr(left, kind), getattr(right, kind)
        assert ours.keys() == theirs.keys()
        for group in ours:
            assert ours[group].keys() == theirs[group].keys()
            assert all(ours[group][n].tobytes() == theirs[group][n].tobytes() for n in ours[group])


ALL = "fedavg(lora='everyone', rows='everyone')"
EQUAL = {"a": 1000, "b": 1000, "c": 1000}
MIXED = {"a": 1000, "b": 700, "c": 410, "slow": 100}


@pytest.mark.parametrize(
    "outer, codec",
    [("mean()", "topk(0.3) | int4()"), ("nesterov()", "int8()"), ("momentum()", "float32()")],
)
def test_a_buffer_of_all_silos_at_one_speed_is_synchronous_to_the_byte(outer, codec, here):
    states = []
    for schedule in ("sync()", "buffered(size=3)"):
        study = made(schedule, codec=codec, outer=outer)
        states.append(rounds.run(begun(study, EQUAL, here / schedule)[0])[1])
    same(*states)
    taken = arrivals(here / "buffered(size=3)")
    assert {one["staleness"] for one in taken} == {0} and len(taken) == 18


@settings(max_examples=6)
@given(
    speeds=st.lists(st.integers(50, 1000), min_size=2, max_size=5),
    size=st.integers(1, 5),
    most=st.integers(0, 4),
    scaled=st.booleans(),
    codec=st.sampled_from(["float32()", "topk(0.3) | int4()"]),
)
def test_the_order_of_arrival_in_the_record_makes_the_same_bytes_again(
    speeds, size, most, scaled, codec
):
    schedule = f"buffered(size={size}, max_staleness={most}, scale_steps={scaled})"
    study = made(schedule, codec=codec, outer="delayed_nesterov()")
    named = {f"s{k}": v for k, v in enumerate(speeds)}
    with scratch.folder("buffer-") as folder:
        run, _ = begun(study, named, folder / "run")
        _, state = rounds.run(run)
        again, _ = begun(study, named, folder / "again")
        recorded = record.lines(run.folder)[1:]
        made_again = buffer.replay(again, runs.first(again), run.schedule.buffer, recorded)
        same(state, made_again)
        assert [line["arrivals"] for line in record.lines(again.folder)] != []


def by_hand(start, sent, recorded, weights, longest):
    """Return the adapter after the weighted sum of each commit over all weights, in plain NumPy: one group, float64.

    A silo that was not heard for longer than an update may be late has no weight.
    """
    theta, heard = {n: x.astype(float) for n, x in start.items()}, dict.fromkeys(weights, 0)
    for at, line in enumerate(recorded):
        heard |= {one["silo"]: at for one in line["arrivals"]}
        there = sum(own for silo, own in weights.items() if at - heard[silo] <= longest)
        counted = [one for one in line["arrivals"] if one["staleness"] <= longest]
        late = [weights[one["silo"]] * (1 + one["staleness"]) ** -0.5 for one in counted]
        for n in theta:
            moved = [a * sent[o["silo"], o["visit"]][n] for a, o in zip(late, counted, strict=True)]
            theta[n] += sum(moved) / max(sum(late), there)
        heard |= {one["silo"]: at + 1 for one in line["arrivals"]}
    return theta


def test_commits_are_shares_of_means_by_weight_and_staleness_and_what_is_too_stale_is_refused_and_told(
    here,
):
    study = made("buffered(size=2, max_staleness=2)", strategy=ALL, rounds=12)
    run, answers = begun(study, MIXED, here / "run")
    _, state = rounds.run(run)
    recorded = record.lines(run.folder)[1:]
    weights = {name: k / 4 for k, name in enumerate(MIXED, 1)}
    wanted = by_hand(run.start, answers.sent, recorded, weights, 2)
    for name, x in state.adapter["everyone"].items():
        np.testing.assert_allclose(x, wanted[name], rtol=1e-5, atol=1e-6)
    late = [one for one in arrivals(run.folder) if "refused" in one]
    assert late and "slow" in {one["silo"] for one in late}
    assert all(one["staleness"] > 2 and "weight" not in one for one in late)
    said = f"it is {late[0]['staleness']} commits behind, and 2 at most count"
    assert late[0]["refused"] == said
    assert all(sum("weight" in one for one in line["arrivals"]) == 2 for line in recorded)
    assert {one["staleness"] for one in arrivals(run.folder)} > {0, 1}


def test_all_that_arrived_is_in_the_record_once_and_in_order(here):
    run, answers = begun(made("buffered(size=3)", rounds=9), MIXED, here / "run")
    rounds.run(run)
    taken = [(one["silo"], one["visit"]) for one in arrivals(run.folder)]
    answered = [(silo, order.turn) for silo, order in answers.orders]
    assert taken == answered[: len(taken)]
    assert len(answered) - len(taken) <= len(
        MIXED
    )  # of the last visit of each, after the last commit
    for name in MIXED:
        visits = [visit for silo, visit in taken if silo == name]
        assert visits == list(range(1, len(visits) + 1))
    counted = Counter(silo for silo, _ in taken)
    assert counted["a"] > counted["slow"] >= 1


@pytest.mark.parametrize("longest", [2, 8])
def test_a_silo_that_dies_at_its_work_leaves_its_share_out_for_as_long_as_it_could_still_come(
    longest, here
):
    schedule = f"buffered(size=2, max_staleness={longest}, deadline_s=5000)"
    study = made(schedule, strategy=ALL, weights="uniform()")
    silos = {name: MIXED[name] for name in "abc"} | {"dead": 1e-3}
    dying, answers = begun(study, silos, here / "four")
    (_, state), recorded = rounds.run(dying), record.lines(here / "four")[1:]
    assert (len(recorded) > longest + 1) == (longest == 2)
    wanted = by_hand(dying.start, answers.sent, recorded, dict.fromkeys(silos, 1.0), longest)
    for name, x in state.adapter["everyone"].items():
        np.testing.assert_allclose(x, wanted[name], rtol=1e-5, atol=1e-6)
    assert not any(silo == "dead" for silo, _ in answers.orders)
    assert all(one["silo"] != "dead" for one in arrivals(here / "four"))


@pytest.mark.parametrize("size", [1, 2])
def test_a_commit_goes_as_much_of_the_mean_as_its_silos_weigh_in_their_group(size, here):
    study = made(f"buffered(size={size})", strategy=ALL, rounds=1, weights="uniform()")
    run, answers = begun(study, {"a": 1000, "b": 900}, here / "run")
    end = rounds.run(run)[1].adapter["everyone"]
    [line] = record.lines(run.folder)[1:]
    came = [answers.sent[one["silo"], 1] for one in line["arrivals"]]
    assert len(came) == size
    for name, x in run.start.items():
        moved = size / 2 * np.mean([update[name] for update in came], axis=0)
        np.testing.assert_allclose(end[name], x + moved, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("after", [1, 3])
def test_after_the_death_of_a_hub_committed_updates_stay_and_others_are_asked_again(after, here):
    study = made("buffered(size=3, max_staleness=2)", codec="topk(0.3) | int4()", rounds=7)
    alive = (number < after for number in count())
    run, before = begun(study, MIXED, here / "run", dies=alive)
    with pytest.raises(Killed):
        rounds.run(run)
    assert [line["round"] for line in record.lines(run.folder)] == list(range(after + 1))
    committed = arrivals(run.folder)
    again, answers = begun(study, MIXED, here / "run")
    assert rounds.run(again)[1].round == 7
    assert arrivals(run.folder)[: len(committed)] == committed
    for name in MIXED:
        visits = [one["visit"] for one in arrivals(run.folder) if one["silo"] == name]
        assert visits == list(range(1, len(visits) + 1))
        done = max((one["visit"] for one in committed if one["silo"] == name), default=0)
        first = next((order for silo, order in answers.orders if silo == name), None)
        assert first is None or first.turn == done + 1
        # who was at work when the hub died is asked for the very same
        earlier = dict(((silo, order.turn), order) for silo, order in before.orders)
        assert first is None or first == earlier.get((name, done + 1), first)
        assert first is None or first.after <= after
    # and the whole, with the break in it, can be replayed
    shutil.rmtree(here / "run" / "homes")
    other, _ = begun(study, MIXED, here / "again")
    lines = record.lines(run.folder)[1:]
    same(runs.recall(again), buffer.replay(other, runs.first(other), run.schedule.buffer, lines))


class Bringing(Silos):
    """The same silos with an outbox, and a hub on whose disk their updates lie; ``dies`` after so many trainings."""

    def __init__(self, cast, home, spool, dies=None):
        super().__init__(cast, home)
        self.spool, self.dies, self.outbox = spool, dies, {}

    def __call__(self, silo, message):
        if message.metadata.message_type != "train":
            return super().__call__(silo, message)
        key = (silo, messages.read_order(message)[0])
        if key not in self.outbox:
            if len(self.orders) == self.dies:
                raise Killed
            reply = messages.read_reply(super().__call__(silo, message))
            parcel = parcels.keep(self.spool / silo, reply.arrays)
            self.outbox = {k: v for k, v in self.outbox.items() if k[0] != silo} | {
                key: (reply, parcel)
            }
        reply, parcel = self.outbox[key]
        return messages.answer(message, reply.metrics, reply.facts, None, parcel)


def brought(study, folder, spool, dies=None, outbox=None):
    run, answers = begun(study, MIXED, folder)
    bringing = Bringing(answers.cast, folder / "homes", spool, dies)
    bringing.outbox = outbox or {}
    grid, names = run.grid, {silo.node: silo.name for silo in run.cohort.silos}
    grid._answer = bringing
    grid.collect = lambda node, parcel: parcels.read(spool / names[node], parcel)
    return run, bringing


def away(run, *names):
    """Return the run while these silos are not there, and their nodes."""
    nodes = [silo.node for silo in run.cohort.silos if silo.name in names]
    here = {silo.name for silo in run.cohort.silos} - {*names}
    return runs.among(run, here), nodes


def coming(run, names, after):
    """Return the run without these silos, which come as its hub looks for them after so many commits."""
    less, nodes = away(run, *names)
    run.grid.newcomers = lambda known: {*nodes} - known if len(run.grid.commits) > after else []
    return less


@pytest.mark.parametrize("strategy", [ALL, "fedavg(lora='everyone', rows='language')"])
def test_silos_that_come_take_part_from_the_next_commit_on_and_the_others_wait_for_nobody(
    strategy, here
):
    study = made("buffered(size=2, max_staleness=4)", strategy=strategy, rounds=9)
    whole, _ = begun(study, MIXED, here / "run")
    run = coming(whole, ["b", "slow"], 3)
    more, state = rounds.run(run)
    assert [silo.name for silo in more.cohort.silos] == ["a", "b", "c", "slow"]
    lines = record.lines(run.folder)
    assert [set(line["silos"]) for line in lines] == [{"a", "c"}] * 4 + [set(MIXED)] * 6
    took = [{one["silo"] for one in line["arrivals"]} for line in lines[1:]]
    assert "b" not in set().union(*took[:3]) and "b" in set().union(*took[3:6])
    again, _ = begun(study, MIXED, here / "again")
    # those who came said so themselves, without the text that the test gave the others
    told = {silo.name: silo for silo in more.cohort.silos}
    again = again._replace(
        cohort=again.cohort._replace(silos=[told[silo.name] for silo in again.cohort.silos])
    )
    first = runs.first(runs.among(again, {"a", "c"}))
    same(state, buffer.replay(again, first, run.schedule.buffer, lines[1:]))


def test_silos_that_come_to_a_study_without_rounds_train_alone_when_it_is_over(here):
    study = made("buffered(size=2)", alone__enabled=True, alone__rates="0.01")
    whole, _ = begun(study, MIXED, here / "run")
    rounds.run(coming(whole, ["b"], 2))
    trained = [(silo, when) for kind, _, silo, when in whole.grid.asked if kind == "train.alone"]
    assert sorted(silo for silo, _ in trained) == sorted(MIXED)
    assert dict(trained)["b"] >= whole.grid.commits[-1] > dict(trained)["a"]


def test_who_was_at_work_when_a_hub_died_is_asked_for_the_very_same_when_it_comes_later(here):
    study = made("buffered(size=3)", codec="topk(0.3) | int4()", rounds=14)
    run, before = brought(study, here / "run", here / "spool", 5)
    with pytest.raises(Killed):
        rounds.run(run)
    at_work = intake.read(run.folder, 1).asked["slow"]
    assert "slow" not in {silo for silo, _ in before.orders}
    again, after = brought(study, here / "run", here / "spool", outbox=before.outbox)
    rounds.run(coming(again, ["slow"], 1))
    first = next(order for silo, order in after.orders if silo == "slow")
    assert (first.turn, first.after) == (at_work.visit, at_work.after) == (1, 0)
    assert [one["silo"] for one in arrivals(run.folder)].count("slow") >= 1


def test_what_a_silo_brought_that_is_not_there_when_its_hub_is_back_costs_the_others_nothing(here):
    study = made("buffered(size=3, max_staleness=2)", rounds=4)
    run, before = brought(study, here / "run", here / "spool", 5)
    with pytest.raises(Killed):
        rounds.run(run)
    first, *others = [one.silo for one in intake.read(run.folder, 1).taken]
    assert first not in others and others
    again, after = brought(study, here / "run", here / "spool", outbox=before.outbox)
    rounds.run(away(again, first)[0])
    assert first not in {silo for silo, _ in after.orders}
    assert [one["silo"] for one in record.lines(run.folder)[2]["arrivals"]][: len(others)] == others
    trained = Counter((silo, order.turn) for silo, order in before.orders + after.orders)
    assert set(trained.values()) == {1}


@pytest.mark.parametrize("twice", [False, True])
def test_what_a_silo_brought_that_comes_later_counts_then_and_is_not_trained_again(twice, here):
    study = made("buffered(size=3, max_staleness=4)", rounds=6, weights="uniform()")
    run, before = brought(study, here / "run", here / "spool", 5)
    with pytest.raises(Killed):
        rounds.run(run)
    first, *_ = [one.silo for one in intake.read(run.folder, 1).taken]
    if twice:  # the hub that went on without the silo dies as well
        again, between = brought(study, here / "run", here / "spool", 4, before.outbox)
        with pytest.raises(Killed):
            rounds.run(away(again, first)[0])
        before.orders.extend(between.orders)
        before.outbox = between.outbox
    again, after = brought(study, here / "run", here / "spool", outbox=before.outbox)
    _, state = rounds.run(coming(again, [first], 1))
    trained = Counter((silo, order.turn) for silo, order in before.orders + after.orders)
    assert set(trained.values()) == {1}
    lines = record.lines(run.folder)
    [late] = [
        line["round"]
        for line in lines
        for one in line.get("arrivals", ())
        if one["silo"] == first and one["visit"] == 2
    ]
    assert late > 2 and first not in lines[2]["silos"]
    shutil.rmtree(here / "run" / "homes")
    other, _ = begun(study, MIXED, here / "again")
    same(state, buffer.replay(other, runs.first(other), run.schedule.buffer, lines[1:]))


@pytest.mark.parametrize("dies", [3, 5, 8, 14])
def test_no_silo_trains_again_what_a_hub_that_died_had_or_what_it_was_at_work_on(dies, here):
    study = made("buffered(size=3, max_staleness=2)", codec="topk(0.3) | int4()", rounds=7)
    run, before = brought(study, here / "run", here / "spool", dies)
    with pytest.raises(Killed):
        rounds.run(run)
    assert len(before.orders) == dies
    again, after = brought(study, here / "run", here / "spool", outbox=before.outbox)
    assert rounds.run(again)[1].round == 7
    trained = Counter((silo, order.turn) for silo, order in before.orders + after.orders)
    assert set(trained.values()) == {1}
    taken = arrivals(run.folder)
    for name in MIXED:
        visits = [one["visit"] for one in taken if one["silo"] == name]
        assert visits == list(range(1, len(visits) + 1))
    assert (
        sum(note["down"] for line in record.lines(run.folder) for note in line["silos"].values())
        > 0
    )


def test_an_update_that_was_damaged_after_it_came_is_asked_for_again(here):
    study = made("buffered(size=3, max_staleness=2)", rounds=3)
    run, before = brought(study, here / "run", here / "spool", 5)
    with pytest.raises(Killed):
        rounds.run(run)
    had = intake.read(run.folder, 1).taken
    assert had
    parcels.path(here / "spool" / had[0].silo, had[0].reply.parcel).write_bytes(b"torn")
    again, after = brought(study, here / "run", here / "spool")
    assert rounds.run(again)[1].round == 3
    assert (had[0].silo, had[0].asked.visit) in {(s, order.turn) for s, order in after.orders}
    counted = Counter((one["silo"], one["visit"]) for one in arrivals(run.folder))
    assert set(counted.values()) == {1}


def test_what_a_silo_left_out_of_a_refused_update_is_that_of_the_last_one_that_counted(here):
    study = made("buffered(size=1, max_staleness=1)", codec="topk(0.2)", rounds=14)
    run, answers = begun(study, {"a": 1000, "b": 330}, here / "run")
    rounds.run(run)
    refused = [one["visit"] for one in arrivals(run.folder) if "refused" in one]
    assert refused
    told = {order.turn: order.lost for silo, order in answers.orders if silo == "b"}
    counted = {one["visit"] for one in arrivals(run.folder) if one["silo"] == "b"} - set(refused)
    for turn, lost in told.items():
        sound = max((visit for visit in counted if visit < turn), default=0)
        assert lost == (0 if sound == turn - 1 else sound + 1)


def test_a_silo_that_fails_is_asked_again_after_the_next_commit_and_the_others_go_on(here):
    run, answers = begun(made("buffered(size=2)"), MIXED, here / "run", failing=("b",))
    rounds.run(run)
    failed = [one for one in arrivals(run.folder) if one["silo"] == "b"]
    assert 2 <= len(failed) <= 6 and all("internal" not in one["refused"] for one in failed)
    afters = [order.after for silo, order in answers.orders if silo == "b"]
    assert all(later > earlier for earlier, later in pairwise(afters))
    assert not any("weight" in one for one in failed)


LIES = {"a NaN": lambda x: x * np.nan, "another shape": lambda x: x[:-1]}


@pytest.mark.parametrize("lie", LIES)
def test_a_silo_whose_update_is_refused_rests_until_the_next_commit_and_the_others_go_on(lie, here):
    run, answers = begun(made("buffered(size=2)"), MIXED | {"b": 50_000}, here / "run")
    answers.lies["b"] = LIES[lie]
    rounds.run(run)
    refused = [line["arrivals"] for line in record.lines(run.folder)[1:]]
    told = [[one for one in line if one["silo"] == "b"] for line in refused]
    assert [len(ones) for ones in told] == [1] * 6
    assert all("refused" in one and not one["staleness"] for ones in told for one in ones)
    afters = [order.after for silo, order in answers.orders if silo == "b"]
    assert all(later > earlier for earlier, later in pairwise(afters))


def test_where_the_updates_of_all_silos_are_refused_the_study_stops_and_says_who(here):
    run, answers = begun(made("buffered(size=2)"), EQUAL, here / "run")
    answers.lies = dict.fromkeys(EQUAL, LIES["a NaN"])
    with pytest.raises(RoundFailed, match=r"commit 1 has 0 of 2 updates .* a: .*NaN.*--resume"):
        rounds.run(run)
    assert run.grid.now() < 3600


def test_a_silo_that_is_only_late_is_asked_again_at_once(here):
    study = made("buffered(size=1, max_staleness=1)", rounds=14)
    run, answers = begun(study, {"a": 1000, "b": 330}, here / "run")
    rounds.run(run)
    late = [one["visit"] for one in arrivals(run.folder) if "refused" in one]
    told = {order.turn: order.after for silo, order in answers.orders if silo == "b"}
    heard = {
        one["visit"]: line["round"] - 1
        for line in record.lines(run.folder)[1:]
        for one in line["arrivals"]
        if one["silo"] == "b"
    }
    assert late and all(told[visit + 1] == heard[visit] for visit in late if visit + 1 in told)


def test_where_all_silos_fail_the_study_stops_and_says_who(here):
    run, _ = begun(made("buffered(size=2)"), EQUAL, here / "run", failing=tuple(EQUAL))
    with pytest.raises(
        RoundFailed, match=r"commit 1 has 0 of 2 updates .* a: the silo failed.*--resume"
    ):
        rounds.run(run)


def test_where_updates_come_too_slowly_the_study_stops_at_the_deadline(here):
    run, _ = begun(made("buffered(size=2, deadline_s=50)"), EQUAL, here / "run")
    with pytest.raises(RoundFailed, match=r"commit 1 has 0 of 2 updates .* no answer from a, b, c"):
        rounds.run(run)
    assert 50 <= run.grid.now() < 100


def test_steps_follow_the_speed_that_silos_showed(here):
    study = made("buffered(size=3, max_staleness=20, scale_steps=True)", rounds=12)
    run, answers = begun(study, {"a": 1000, "b": 500, "slow": 100}, here / "run")
    rounds.run(run)
    steps = {name: [o.steps for silo, o in answers.orders if silo == name] for name in MIXED}
    assert set(steps["a"]) == {100}
    assert steps["b"][0] == 100 and set(steps["b"][1:]) <= {50, 51}
    assert steps["slow"][0] == 100 and 10 <= min(steps["slow"][1:]) <= max(steps["slow"][1:]) <= 12
    assert [one["steps"] for one in arrivals(run.folder) if one["silo"] == "b"][:2] == steps["b"][
        :2
    ]


def test_silos_are_scored_before_the_first_commit_and_after_the_last_alone(here):
    run, _ = begun(made("buffered(size=2)"), MIXED, here / "run")
    rounds.run(run)
    asked = [number for kind, number, _, _ in run.grid.asked if kind == "evaluate"]
    assert Counter(asked) == {0: 4, 6: 4}


def test_a_round_that_asks_more_than_it_waits_for_closes_with_the_fastest(here):
    study = made("sync(sample=2, over_sample=2)", rounds=2)
    run, _ = begun(study, MIXED, here / "run")
    rounds.run(run)
    first, second = record.lines(run.folder)[1:]
    for line in (first, second):
        late = {name for name, note in line["silos"].items() if note.get("late")}
        assert late == {"c", "slow"}
        assert {name for name, note in line["silos"].items() if "weight" in note} == {"a", "b"}
    # nobody waits for the scores of those who are late, but for the last ones
    asked = [(number, silo) for kind, number, silo, _ in run.grid.asked if kind == "evaluate"]
    assert {silo for number, silo in asked if number == 1} == {"a", "b"}
    assert {silo for number, silo in asked if number == 2} == set(MIXED)
    assert first["seconds"] < 200


@pytest.mark.parametrize("liar", "ab")
@pytest.mark.parametrize("lie", LIES)
def test_a_round_waits_for_those_asked_to_spare_where_a_reply_is_refused(liar, lie, here):
    study = made("sync(sample=2, over_sample=2)", rounds=2)
    run, answers = begun(study, MIXED, here / "run")
    answers.lies[liar] = LIES[lie]
    rounds.run(run)
    honest = {"a", "b", "c"} - {liar}
    for line in record.lines(run.folder)[1:]:
        assert {name for name, note in line["silos"].items() if "weight" in note} == honest
        assert [name for name, note in line["silos"].items() if "refused" in note] == [liar]
        assert [name for name, note in line["silos"].items() if note.get("late")] == ["slow"]
    # nobody waits for the scores of the one that is late, but for the last ones
    asked = [(number, silo) for kind, number, silo, _ in run.grid.asked if kind == "evaluate"]
    assert {silo for number, silo in asked if number == 1} == {"a", "b", "c"}


def test_a_round_that_too_many_refused_replies_leave_short_fails_when_all_have_answered(here):
    study = made("sync(sample=2, over_sample=2)", rounds=2)
    run, answers = begun(study, MIXED, here / "run")
    answers.lies = dict.fromkeys(("a", "b", "c"), LIES["a NaN"])
    with pytest.raises(RoundFailed, match="round 1 has 1 of 4 updates and needs 2; a: "):
        rounds.run(run)
    assert run.grid.now() < 3600


def test_real_silos_that_do_not_wait_can_be_replayed_to_the_byte(small, simulate, here):
    options = {"schedule": "buffered(size=1, max_staleness=3)", "codec": "topk(0.2) | int8()"}
    study = small(here / "run", rounds=4, simulation__silos=2, **options)
    report = simulate(study, 1)
    taken = arrivals(here / "run")
    assert {one["staleness"] for one in taken} - {0} and report["rounds_completed"] == 4
    other = study.model_copy(update={"home": str(here / "again")})
    Path(other.home).mkdir()
    way = Polled(local.LocalGrid(client, 2, flat(other)))
    run = runs.join(way, other, *config.build(other), Path(other.home))
    lines = record.lines(here / "run")[1:]
    same(
        runs.recall(run._replace(folder=here / "run")),
        buffer.replay(run, runs.first(run), run.schedule.buffer, lines),
    )


def test_a_grid_passes_over_a_silo_for_which_nobody_waits_any_more():
    grid = local.LocalGrid(lambda message, context: messages.fault(message, "internal"), 3, {})
    asked = [messages.to(n, "train", messages.order(messages.Order())) for n in (1, 2, 3)]
    grid.push_messages(asked[:2])
    (key,) = grid.push_messages(asked[2:])
    looks = [grid.pull_messages([key]) for _ in range(3)]
    assert [len(found) for found in looks] == [0, 1, 0] or [len(f) for f in looks] == [0, 0, 1]


@pytest.mark.parametrize("schedule", ["sync()", "buffered(size=3)"])
def test_a_group_with_little_text_moves_by_its_own_mean_beside_one_with_much(schedule, here):
    study = made(schedule, rounds=1, strategy="fedavg(lora='language')", weights="bytes(0.5)")
    run, answers = begun(study, EQUAL, here)
    told = [
        silo._replace(
            counts={
                lang: own._replace(bytes=10**9 if lang == "as" else 10**5)
                for lang, own in silo.counts.items()
            }
        )
        for silo in run.cohort.silos
    ]
    rounds.run(run._replace(cohort=run.cohort._replace(silos=told)))
    first, after = (journal.recall(run.folder / "journal", n).adapter["ne"] for n in (0, 1))
    members = [silo.name for silo in told if silo.language == "ne"]
    assert 0 < len(members) < len(told)
    for name, x in after.items():
        mean = np.mean([answers.sent[silo, 1][name] for silo in members], axis=0)
        assert np.abs(mean).max() > 1e-4
        np.testing.assert_allclose(x - first[name], mean, atol=2e-6)
