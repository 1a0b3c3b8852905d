"""The way to real silos: the gateway's own local side over its socket, and a grid of Flower's that is none."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from itertools import count

import numpy as np
import pytest
from flwr.app import Error, Message
from flwr.supercore.task_identity import TaskIdentity

from fl_client import messages, parcels
from fl_client.config import ConfigError
from fl_client.messages import Order
from fl_server import federation, introduction, queue, silos
from fl_server import hub as hubs
from fl_server.federation import Federation
from fl_server.freight import Freight
from fl_server.gateway import client, gate, local, seen, studies
from fl_server.gateway.client import Away, Gateway, Heard
from fl_server.grid import Polled
from fl_server.silos import Silo
from strategies.schedules.sync import sync
from strategies.weights.weight import Counts

RUN = 7
NODES = {"as-1": 1001, "ne-1": 1002}


class Local:
    """The local side of a hub's gateway in a thread of its own; what it hears of silos is told by the test."""

    def __init__(self, hub):
        self.hub, self.loop, self.gate = hub, asyncio.new_event_loop(), None
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.stack = contextlib.AsyncExitStack()

    def do(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def start(self):
        async def enter():
            self.gate = await self.stack.enter_async_context(gate.open_(self.hub, 1))
            await self.stack.enter_async_context(local.open_(self.gate, hubs.socket(self.hub)))

        self.do(enter())

    def stop(self):
        self.do(self.stack.aclose())

    def end(self):
        self.stop()
        self.do(self._rest())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def _rest(self):
        """End what still waits, and let connections close before their loop does."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for each in others:
            each.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.01)

    def tell(self, change, *arguments, **more):
        """Call something of the gateway's where the gateway runs."""

        async def call():
            return change(*arguments, **more)

        return self.do(call())

    def here(self, name, starts=1, **more):
        said = {"node": NODES.get(name, 1003), "contact": time.time(), "activations": starts}
        said |= {"left": False}
        self.tell(seen.note, self.gate.seen, name, **said | more)

    def delivered(self, key):
        """Say that a reply to this message lies at Flower."""
        self.tell(self.gate.answered.append, (self.gate.ready.count + 1, key))
        self.tell(self.gate.ready.ring)


class Flower:
    """What is used of Flower's grid. ``answers`` says what comes back, and when: after how many pushes to a node."""

    def __init__(self):
        self.pushed, self.replies, self.pulled = [], {}, []
        self.gone = set()
        self.on_push = lambda key, message: None

    def push_messages(self, pushed):
        keys = []
        for message in pushed:
            if message.metadata.dst_node_id in self.gone:
                keys.append("")  # Flower's key for a node it does not know
                continue
            keys.append(f"{message.metadata.dst_node_id}/{len(self.pushed)}")
            message.metadata.__dict__["_message_id"] = keys[-1]
            self.pushed.append((keys[-1], message))
            self.on_push(keys[-1], message)
        return keys

    def pull_messages(self, keys):
        self.pulled += keys
        return [self.replies.pop(key) for key in keys if key in self.replies]

    def fail(self, key, code):
        self.replies[key] = Message(Error(code, "why"), reply_to=dict(self.pushed)[key])

    def reply(self, key, loss=0.0):
        message = dict(self.pushed)[key]
        self.replies[key] = messages.answer(message, {"loss": loss}, {})


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, RUN)


@pytest.fixture
def gateway(hub, monkeypatch):
    """Return the local side of the gateway, which runs, with both silos connected."""
    monkeypatch.setattr(client, "AGAIN_S", 0.02)
    monkeypatch.setattr(federation, "AGAIN_S", 0.02)
    monkeypatch.setattr(federation, "JOIN_S", 20.0)
    monkeypatch.setattr(silos, "WAIT_S", 0.2)
    made = Local(hub)
    made.start()
    for name in NODES:
        made.here(name)
    yield made
    made.end()


@pytest.fixture
def flower():
    return Flower()


@pytest.fixture
def way(hub, gateway, flower):
    return Federation(flower, Gateway(hub, 10.0), RUN, list(NODES), Freight(hub))


def all_are_here(asked, answered, waiting, elapsed):
    assert elapsed < 20, "waited in vain"
    return waiting == 0


def asked(way, names=tuple(NODES), closes=all_are_here):
    """Return the replies to a question, as pairs of name and loss or code."""
    content = messages.order(Order())
    them = [(Silo(NODES[name], name, {"as": Counts(1, 1, 1, 1)}, ""), content) for name in names]
    found = silos.ask(way, "train", them, closes)
    return [(silo.name, reply.code or reply.metrics["loss"]) for silo, reply in found]


# Who is there.


def test_the_nodes_are_those_of_the_studys_silos_alone(way, gateway):
    gateway.here("stranger")
    assert way.get_node_ids() == [1001, 1002]
    assert way.names() == {1001: "as-1", 1002: "ne-1"}


def test_a_study_waits_for_a_silo_that_is_not_there_yet(way, gateway, monkeypatch):
    gateway.here("ne-1", left=True)
    waits = []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            gateway.here("ne-1")

    monkeypatch.setattr(way, "wait", wait)
    assert way.get_node_ids() == [1001, 1002]
    assert len(waits) == 3


def test_a_study_goes_on_with_those_who_came_in_time(way, gateway, monkeypatch):
    gateway.here("ne-1", contact=time.time() - 3600)
    monkeypatch.setattr(federation, "JOIN_S", 0.0)
    monkeypatch.setattr(way, "wait", lambda seconds: None)
    assert way.get_node_ids() == [1001]


def test_a_silo_that_was_not_there_in_time_is_a_newcomer_when_it_comes_until_it_is_known(
    way, gateway, monkeypatch
):
    gateway.here("ne-1", contact=time.time() - 3600)
    monkeypatch.setattr(federation, "JOIN_S", 0.0)
    monkeypatch.setattr(way, "wait", lambda seconds: None)
    assert way.get_node_ids() == [1001]
    assert way.newcomers({1001}) == []
    gateway.here("ne-1")
    gateway.here("stranger")
    assert way.newcomers({1001}) == [1002]
    assert way.newcomers({1001}) == [1002]  # it may have been away as it was asked who it is
    assert way.newcomers({1001, 1002}) == []


def test_a_study_whose_silos_are_all_away_begins_when_one_comes_however_late(
    way, gateway, monkeypatch, caplog
):
    caplog.set_level("INFO")
    for name in NODES:
        gateway.here(name, left=True)
    monkeypatch.setattr(federation, "JOIN_S", 0.0)
    waits = []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 4:
            gateway.here("ne-1")

    monkeypatch.setattr(way, "wait", wait)
    assert way.get_node_ids() == [1002]
    assert len(waits) == 4
    assert "waiting for as-1, ne-1" in caplog.text and "goes on without as-1" in caplog.text


def test_a_silo_that_left_as_soon_as_it_had_answered_cannot_take_another_name(
    way, gateway, flower, monkeypatch
):
    def lie_and_leave(key, message):
        said = {"silo": "ne-1", "languages": {"as": [1, 1, 1, 1]}, "base": ""}
        flower.replies[key] = messages.answer(message, {}, said)
        gateway.here("as-1", left=True)
        gateway.delivered(key)

    way = Federation(flower, Gateway(gateway.hub), RUN, ["as-1"], Freight(gateway.hub))
    flower.on_push = lie_and_leave
    with pytest.raises(ConfigError, match="silo as-1 introduced itself as 'ne-1'"):
        introduction.introduce(way)


def answering(flower, gateway, cards):
    """Let silos answer who they are with these cards, by node; a text is a code, and None no answer at all."""

    def answer(key, message):
        card = cards[message.metadata.dst_node_id]
        if isinstance(card, str):
            flower.replies[key] = messages.fault(message, card)
        elif card is not None:
            flower.replies[key] = messages.answer(message, {}, card)
        if card is not None:
            gateway.delivered(key)

    flower.on_push = answer


def card(name, **changes):
    return {"silo": name, "languages": {name[:2]: [1, 1, 1, 1]}, "base": ""} | changes


NO_CARDS = {
    "a code": ("internal", "the silo failed; its own log says why"),
    "another's name": (card("as-1"), "introduced itself as 'as-1'"),
    "no languages": (card("ne-1", languages={}), "introduced itself as 'ne-1' with {}"),
    "nothing of use": ({"x": 1}, "in a way that cannot be read"),
}


@pytest.mark.parametrize("case", NO_CARDS)
def test_a_study_begins_without_a_silo_that_cannot_say_who_it_is_and_names_it(
    case, way, gateway, flower, caplog
):
    told, why = NO_CARDS[case]
    cards = {1001: card("as-1"), 1002: told}
    answering(flower, gateway, cards)
    [present] = introduction.introduce(way)
    assert present.name == "as-1"
    assert "silo ne-1 cannot take part: silo ne-1 " in caplog.text and why in caplog.text
    cards[1002] = card("ne-1")
    assert [silo.name for silo in introduction.came(way, [present])] == ["ne-1"]


def test_a_silo_that_is_there_and_silent_is_asked_ever_less_often_until_it_starts_anew_or_comes_again(
    way, gateway, flower, monkeypatch
):
    cards = {1001: card("as-1"), 1002: None}
    answering(flower, gateway, cards)
    monkeypatch.setattr(introduction, "SOON_S", 0.0)
    known = [Silo(1001, "as-1", {"as": Counts(1, 1, 1, 1)}, "")]

    def looks(many):
        """Return at which of so many looks the silent silo was asked."""
        asked = []
        for look in range(1, many + 1):
            before = len(flower.pushed)
            assert introduction.came(way, known) == []
            asked += [look] * (len(flower.pushed) - before)
        return asked

    assert looks(100) == [1, 2, 4, 8, 16, 32, 64, 96]
    gateway.here("ne-1", starts=2)
    assert looks(4) == [1, 2, 4]
    gateway.here("ne-1", left=True)
    assert looks(1) == []
    gateway.here("ne-1")
    assert looks(3) == [1, 2]
    monkeypatch.setattr(introduction, "SOON_S", 20.0)
    cards[1002] = card("ne-1")
    assert [silo.name for silo in introduction.came(way, known)] == ["ne-1"]


def test_a_study_whose_silos_all_cannot_say_who_they_are_ends_and_names_them(way, gateway, flower):
    answering(flower, gateway, {1001: "internal", 1002: "internal"})
    said = "silo as-1 could not join: the silo failed; .*; silo ne-1 could not join"
    with pytest.raises(ConfigError, match=said):
        introduction.introduce(way)


def test_a_study_whose_silos_hold_different_bases_does_not_begin_and_names_them(
    way, gateway, flower
):
    answering(flower, gateway, {1001: card("as-1"), 1002: card("ne-1", base="another")})
    with pytest.raises(ConfigError, match=r"different base models \(as-1; ne-1\)"):
        introduction.introduce(way)


# Asking and hearing.


def test_a_push_wakes_the_pulls_that_the_gateway_holds(way, gateway, flower):
    before = gateway.gate.kicks.count
    flower.on_push = lambda key, message: (flower.reply(key, 0.5), gateway.delivered(key))
    assert sorted(asked(way)) == [("as-1", 0.5), ("ne-1", 0.5)]
    assert gateway.gate.kicks.count == before + 1


def test_flower_is_asked_for_whole_replies_alone(way, gateway, flower):
    flower.on_push = lambda key, message: flower.reply(key)  # both half there
    late = count()

    def closes(all_, answered, waiting, elapsed):
        if next(late) == 2:
            gateway.delivered("1001/0")
        return answered == 1

    assert asked(way, closes=closes) == [("as-1", 0.0)]
    assert set(flower.pulled) == {"1001/0"}


def test_every_so_often_flower_is_asked_for_all_as_it_may_have_errors_to_tell(
    way, flower, monkeypatch
):
    monkeypatch.setattr(federation, "LOOK_S", 0.0)
    flower.on_push = lambda key, message: flower.reply(key)
    assert len(asked(way)) == 2


def test_what_was_answered_before_the_gateway_started_anew_is_found_and_nothing_else_is_asked_for(
    way, gateway, flower, hub
):
    """Flower would give out a reply that the gateway has brought half of, and then wait for the rest in vain."""
    for _ in range(3):
        gateway.tell(gateway.gate.ready.ring)
    way.wait(1)

    def answered_and_gone(key, message):
        flower.reply(key, 0.25)
        if message.metadata.dst_node_id == 1001:
            gateway.stop()
            (hub / "spool" / "as-1").mkdir(exist_ok=True)
            (hub / "spool" / "as-1" / "reply.done").write_text(key)
            gateway.start()
        else:
            threading.Timer(1.0, gateway.delivered, [key]).start()

    flower.on_push = answered_and_gone
    assert asked(way) == [("as-1", 0.25), ("ne-1", 0.25)]
    first = next(at for at, key in enumerate(flower.pulled) if key.startswith("1001"))
    assert all(key.startswith("1001") for key in flower.pulled[: first + 1])


def test_a_study_waits_for_a_gateway_that_starts_anew(way, gateway, flower):
    gateway.stop()
    flower.on_push = lambda key, message: (flower.reply(key), gateway.delivered(key))
    threading.Timer(0.3, gateway.start).start()
    assert asked(way, ["as-1"]) == [("as-1", 0.0)]


def test_a_gateway_that_stays_away_is_an_error_in_one_sentence(way, gateway, hub):
    gateway.stop()
    with pytest.raises(Away, match="the hub gateway does not run; see logs/gateway.log"):
        Federation(None, Gateway(hub), RUN, ["as-1"], Freight(hub)).get_node_ids()
    way.wait(1)  # this one only looks, and the next look may find it
    gateway.start()


def test_a_gateway_that_does_not_answer_in_time_is_an_error_too(hub, gateway, monkeypatch):
    monkeypatch.setattr(client, "ANSWER_S", 0.05)
    free = threading.Event()
    gateway.loop.call_soon_threadsafe(free.wait, 20)
    with pytest.raises(Away, match="takes longer than 0.05 s; see logs/gateway.log"):
        Gateway(hub).status()
    free.set()
    monkeypatch.setattr(client, "ANSWER_S", 5.0)
    assert set(Gateway(hub, 10.0).status()) == set(NODES)  # and it is there again
    gateway.do(asyncio.sleep(0.1))  # the connection that was left is closed before the loop is


def test_silence_is_no_error(hub, gateway):
    here = Gateway(hub)
    heard, _ = here.news(Heard(), 5)
    assert here.news(heard, 0.05) == (heard, [])


def test_what_a_gateway_tells_after_a_start_is_heard_where_as_much_was_heard_of_the_one_before(
    way, gateway, flower, hub
):
    """Counts of two processes say nothing of each other: the news of the second are told whatever was heard."""
    gateway.tell(gateway.gate.ready.ring)
    gateway.tell(gateway.gate.ready.ring)
    way.wait(1)

    def answered(key, message):
        flower.reply(key)
        if message.metadata.dst_node_id == 1002:  # both lie at Flower when the rounds look again
            gateway.stop()
            gateway.start()
            gateway.delivered("1001/0")
            gateway.delivered("1002/1")

    flower.on_push = answered
    assert sorted(asked(way)) == [("as-1", 0.0), ("ne-1", 0.0)]
    assert gateway.gate.ready.count == 2


# Silos that start anew.


def test_a_silo_that_started_anew_is_asked_once_more_and_its_late_reply_is_not_counted(
    way, gateway, flower
):
    def restart(key, message):
        if len(flower.pushed) == 1:
            gateway.here("as-1", starts=2)

    looks = count()

    def closes(all_, answered, waiting, elapsed):
        if next(looks) == 4:  # long after it was asked again, both replies come
            for number, (key, _) in enumerate(list(flower.pushed)):
                flower.reply(key, float(number))
                gateway.delivered(key)
        return all_are_here(all_, answered, waiting, elapsed)

    flower.on_push = restart
    assert asked(way, ["as-1"], closes) == [("as-1", 1.0)]
    assert [key for key, _ in flower.pushed] == ["1001/0", "1001/1"]
    assert "1001/0" in flower.replies, "the late one was fetched"


def test_a_reply_that_came_before_its_silo_started_anew_is_taken_and_not_asked_for_again(
    way, gateway, flower
):
    looks = count()

    def closes(all_, answered, waiting, elapsed):
        if next(looks) == 1:
            flower.reply("1001/0", 0.5)
            gateway.delivered("1001/0")
            gateway.here("as-1", starts=2)
        return all_are_here(all_, answered, waiting, elapsed)

    assert asked(way, ["as-1"], closes) == [("as-1", 0.5)]
    assert len(flower.pushed) == 1


def test_a_silo_that_started_anew_before_it_was_asked_is_asked_once(way, gateway, flower):
    gateway.here("as-1", starts=5)
    flower.on_push = lambda key, message: (flower.reply(key), gateway.delivered(key))
    assert asked(way) and asked(way)
    assert len(flower.pushed) == 4
    gateway.here("ne-1", starts=2)
    assert way.restarted() == {1002}


# Messages that are lost.


def fails(flower, gateway, code, times):
    """Let a silo fail with an error of Flower's the first so many times that it is asked."""

    def failing(key, message):
        if len(flower.pushed) <= times:
            flower.fail(key, code)
        else:
            flower.reply(key)
        gateway.delivered(key)

    flower.on_push = failing


@pytest.mark.parametrize("code", sorted(silos.LOST))
def test_a_silo_whose_process_died_at_its_work_or_whose_message_is_lost_is_asked_again(
    code, way, gateway, flower, monkeypatch
):
    monkeypatch.setattr(silos, "LOST_S", 0.0)
    fails(flower, gateway, code, times=silos.TRIES)
    assert asked(way, ["as-1"]) == [("as-1", 0.0)]
    first, *again = [message for _, message in flower.pushed]
    assert len(again) == silos.TRIES
    assert all(message.content == first.content for message in again)


def test_a_silo_whose_process_dies_whenever_it_is_asked_fails_in_the_end(
    way, gateway, flower, monkeypatch
):
    monkeypatch.setattr(silos, "LOST_S", 0.0)
    fails(flower, gateway, code=8, times=99)
    assert asked(way, ["as-1"]) == [("as-1", "lost")]
    assert len(flower.pushed) == 1 + silos.TRIES


def test_after_the_first_try_a_silo_is_given_time_to_come_back(way, gateway, flower, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(way, "now", lambda: now[0])
    monkeypatch.setattr(way, "wait", lambda seconds: now.__setitem__(0, now[0] + seconds))
    at = []

    def failing(key, message):
        at.append(now[0])
        flower.fail(key, 5) if now[0] < 80 else flower.reply(key)

    flower.on_push = failing
    monkeypatch.setattr(way, "pull_messages", lambda keys: flower.pull_messages(list(keys)))
    assert asked(way, ["as-1"], lambda asked, answered, waiting, elapsed: not waiting) == [
        ("as-1", 0.0)
    ]
    assert at[:2] == [0.0, 0.0]
    assert [later - before >= silos.LOST_S for before, later in zip(at[1:], at[2:], strict=False)] == [
        True, True,
    ]  # fmt: skip


def test_a_round_that_asks_more_than_it_needs_does_not_close_on_an_error(way, gateway, flower):
    def answer(key, message):
        node = message.metadata.dst_node_id
        flower.fail(key, 2) if node == 1001 else flower.reply(key)
        gateway.delivered(key)

    flower.on_push = answer
    closes = sync(sample=1, over_sample=1).closes
    assert sorted(asked(way, closes=closes)) == [("as-1", "internal"), ("ne-1", 0.0)]


def test_a_silo_that_the_hub_no_longer_knows_counts_as_failed_at_once(way, gateway, flower):
    flower.gone.add(1002)
    flower.on_push = lambda key, message: (flower.reply(key), gateway.delivered(key))
    assert sorted(asked(way)) == [("as-1", 0.0), ("ne-1", "lost")]


def test_a_silo_whose_lost_message_cannot_be_sent_again_counts_as_failed(way, gateway, flower):
    def failing(key, message):
        flower.fail(key, 8)
        flower.gone.add(1001)
        gateway.delivered(key)

    flower.on_push = failing
    assert asked(way, ["as-1"]) == [("as-1", "lost")]
    assert len(flower.pushed) == 1


def test_a_silo_whose_app_raised_is_not_asked_again(way, gateway, flower):
    fails(flower, gateway, code=2, times=99)
    assert asked(way, ["as-1"]) == [("as-1", "internal")]
    assert len(flower.pushed) == 1


# Refusals.


def test_a_refusal_by_a_silos_own_gateway_is_its_answer(way, gateway, flower):
    flower.on_push = lambda key, message: (
        message.metadata.dst_node_id == 1001 and (flower.reply(key), gateway.delivered(key))
    )
    gateway.tell(seen.refuse, gateway.gate.seen, "ne-1", RUN, "not_invited")
    assert sorted(asked(way)) == [("as-1", 0.0), ("ne-1", "not_invited")]


def test_a_refusal_counts_for_its_run_and_for_the_studys_silos_alone(way, gateway):
    gateway.here("stranger")
    gateway.tell(seen.refuse, gateway.gate.seen, "stranger", RUN, "not_invited")
    gateway.tell(seen.refuse, gateway.gate.seen, "as-1", RUN - 1, "not_invited")
    assert way.refused() == {}
    gateway.tell(seen.refuse, gateway.gate.seen, "as-1", RUN, "base_not_allowed")
    assert way.refused() == {1001: "base_not_allowed"}


# Joining.


def test_the_signed_study_is_laid_out_for_the_silos_of_its_ticket(hub, gateway, flower, study):
    ticket = queue.add(hub, study("one"), ("as-1",))
    (queue.folder(hub, "one") / "signed.json").write_bytes(b"signed")
    assert federation.join(flower, hub, RUN, ticket).get_node_ids() == [1001]
    assert studies.find(hub, str(RUN)) == b"signed"


def test_any_other_grid_is_asked_every_so_often_and_has_nothing_to_tell(flower):
    flower.get_node_ids = lambda: [1]
    polled = Polled(flower, every_s=0.0)
    polled.wait(60)
    assert (polled.refused(), polled.restarted(), polled.names()) == ({}, set(), {})
    assert not list(polled.newcomers({1}))
    assert polled.get_node_ids() == [1]


def test_a_parcel_is_collected_from_the_silo_that_the_node_is_and_from_nobody_else(hub, way):
    arrays = {"x": np.arange(9, dtype=np.float32)}
    parcel = parcels.keep(hub / "spool" / "as-1" / "parcels", arrays)
    np.testing.assert_array_equal(way.collect(1001, parcel)["x"], arrays["x"])
    with pytest.raises(ValueError, match="is not there"):
        way.collect(1002, parcel)
    with pytest.raises(ValueError, match="no silo of this study"):
        way.collect(1003, parcel)
    way.settle()
    with pytest.raises(ValueError, match="is not there"):
        way.collect(1001, parcel)


def test_who_brought_how_much_is_told_by_name(hub, way, gateway, flower, caplog):
    arrays = {"x": np.zeros(30_000, np.float32)}
    parcel = parcels.keep(hub / "spool" / "as-1" / "parcels", arrays)

    def answer(key, message):
        own = parcel if key.startswith("1001/") else None
        flower.replies[key] = messages.answer(message, {"loss": 0.0}, {}, parcel=own)
        gateway.delivered(key)

    flower.on_push = answer
    with caplog.at_level("INFO", "bhasha_fl.hub"):
        assert len(asked(way)) == 2
    assert [line for line in caplog.messages if "brought" in line] == ["as-1 brought 120 kB"]


def test_a_plain_grid_lays_nothing_out_and_takes_no_parcel(flower):
    flower.get_node_ids = list
    polled = Polled(flower)
    assert polled.lay_out({"x": np.zeros(9, np.float32)}) is None
    polled.settle()
    with pytest.raises(ValueError, match="through a gateway"):
        polled.collect(1, parcels.Parcel("0" * 64, 1))


def test_what_a_silo_was_sent_before_does_not_cross_its_line_again(way, flower):
    flower.get_node_ids = list
    arrays = {"x": np.arange(9, dtype=np.float32)}
    content = messages.order(Order(), arrays, way.lay_out(arrays))
    size = messages.size(content)
    assert [way.down("as-1", content) for _ in range(2)] == [size, 0]
    assert way.down("as-2", content) == size
    inline, nothing = messages.order(Order(), arrays), messages.order(Order())
    assert way.down("as-1", inline) == Polled(flower).down("as-1", inline) == messages.size(inline)
    assert way.down("as-1", nothing) == 0
