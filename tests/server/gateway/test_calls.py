"""Flower's calls through the gateway: one node for life, no speaking for others, answers handed out until confirmed."""

from __future__ import annotations

import asyncio
import time

import pytest

from fl_client import fleet
from fl_server import roster
from fl_server.gateway import calls, local


def test_a_silo_is_the_same_node_for_life_also_for_a_new_gateway(house, hub):
    async def first():
        async with house() as h:
            silo = h.silo("one")
            nodes = [await silo.activate(), await silo.activate()]
            return h.superlink, nodes

    async def second(superlink):
        async with house(superlink) as h:
            return await h.silo("one").activate()

    superlink, nodes = asyncio.run(first())
    again = asyncio.run(second(superlink))
    assert {*nodes, again} == {1000}
    assert superlink.calls.count("register_node") == 1


def test_a_node_whose_id_was_forgotten_is_found_again_by_its_key(house, hub):
    async def run():
        async with house() as h:
            await h.silo("one").activate()
            h.superlink.online.clear()
            h.gate.seen.silos.clear()
            return await h.silo("one").activate(), h.superlink.calls

    node, made = asyncio.run(run())
    assert node == 1000
    assert made.count("register_node") == 2


def test_flower_is_told_an_interval_that_a_bad_line_does_not_break(house):
    async def run():
        async with house() as h:
            silo = h.silo("one")
            await silo.activate()
            assert (await silo.call(fleet.HEARTBEAT, heartbeat_interval=30)).success
            return [
                a.heartbeat_interval for a in h.superlink.asked if hasattr(a, "heartbeat_interval")
            ]

    assert set(asyncio.run(run())) == {900.0}


def test_before_activation_a_silo_is_told_to_start_anew(house):
    async def run():
        async with house() as h:
            return await h.silo("one").call(fleet.PULL_MESSAGES, node={"node_id": 1000})

    assert asyncio.run(run()) == 401


@pytest.mark.parametrize("path", [fleet.HEARTBEAT, fleet.PULL_MESSAGES], ids=lambda p: p[10:])
def test_a_silo_whose_node_the_superlink_lost_starts_anew_as_another_node(house, path):
    async def run():
        async with house() as h:
            silo = h.silo("one")
            await silo.activate()
            h.superlink.nodes, h.superlink.online = {b"of another silo": 1}, set()
            lost, away = await silo.call(path), local.status(h.gate)["one"]
            await silo.activate()
            answer = await silo.call(fleet.HEARTBEAT)
            return lost, away, answer, local.status(h.gate)["one"]

    lost, away, answer, here = asyncio.run(run())
    assert lost == 401
    assert (away["node_id"], away["connected"]) == (1000, False)
    assert answer.success
    assert (here["node_id"], here["connected"], here["activations"]) == (1001, True, 2)


def test_a_superlink_that_is_away_is_no_reason_to_start_anew(house):
    async def run():
        async with house() as h:
            silo = h.silo("one")
            await silo.activate()
            h.superlink.down = True
            return await silo.call(fleet.HEARTBEAT), local.status(h.gate)["one"]["connected"]

    assert asyncio.run(run()) == (503, True)


def test_a_message_for_a_node_that_is_no_more_is_not_handed_out(house):
    async def run():
        async with house() as h:
            silo = h.silo("one")
            h.superlink.ask(await silo.activate(), "work of a run that is no more")
            assert (await silo.call(fleet.PULL_MESSAGES)).messages_list
            await silo.activate()
            again = (await silo.call(fleet.PULL_MESSAGES)).messages_list
            h.superlink.nodes, h.superlink.online = {b"of another silo": 1}, set()
            new = h.superlink.ask(await silo.activate(), "new work")
            found = await silo.call(fleet.PULL_MESSAGES)
            return again, new, found.messages_list[0].metadata.message_id

    again, new, found = asyncio.run(run())
    assert again, "the same node asks for the message that it did not confirm"
    assert found == new


def test_a_silo_is_asked_again_whose_message_may_have_gone_with_the_gateway_before(house):
    async def run():
        async with house() as h:
            one, two = h.silo("one"), h.silo("two")
            for silo in (one, two):
                h.superlink.ask(await silo.activate(), f"work of {silo.name}")
            h.superlink.waiting[one.node].clear()  # given out, once
            await two.call(fleet.PULL_MESSAGES)
            before = local.status(h.gate)
        async with house(h.superlink) as h:
            return before, local.status(h.gate)

    before, after = asyncio.run(run())
    assert {name: row["activations"] for name, row in before.items()} == {"one": 1, "two": 1}
    assert {name: row["activations"] for name, row in after.items()} == {"one": 2, "two": 1}
    assert after["two"]["pending"] == 1


@pytest.mark.parametrize(
    "path", sorted(set(fleet.PATHS) - {fleet.REGISTER, fleet.ACTIVATE}), ids=lambda p: p[10:]
)
def test_a_silo_that_speaks_for_another_node_is_refused(house, reply, path):
    async def run():
        async with house() as h:
            one, two = h.silo("one"), h.silo("two")
            await one.activate()
            await two.activate()
            before = len(h.superlink.calls)
            field = "node_id" if path in (fleet.DEACTIVATE, fleet.UNREGISTER) else "node"
            other = two.node if field == "node_id" else {"node_id": two.node}
            answer = await one.call(path, **{field: other})
            return answer, len(h.superlink.calls) - before

    assert asyncio.run(run()) == (403, 0)


def test_a_reply_in_the_name_of_another_node_is_refused(house, reply):
    async def run():
        async with house() as h:
            one, two = h.silo("one"), h.silo("two")
            await one.activate()
            await two.activate()
            spoofed = await one.announce(reply("a", b"x"), src_node_id=two.node)
            return spoofed, h.superlink.replies

    assert asyncio.run(run()) == (403, {})


def test_a_body_that_cannot_be_read_is_refused(house):
    async def run():
        async with house() as h:
            return [(await h.silo("one").post(path, b"\xff\xff\xff"))[0] for path in fleet.PATHS]

    assert set(asyncio.run(run())) == {400}


def test_a_message_is_handed_out_again_until_it_is_confirmed(house):
    async def run():
        async with house() as h:
            silo = h.silo("one")
            name = h.superlink.ask(await silo.activate(), "work")
            h.superlink.ask(silo.node, "more work")
            given = [await silo.call(fleet.PULL_MESSAGES) for _ in range(3)]
            pulls = h.superlink.calls.count("pull_messages")
            content = await silo.call(fleet.PULL_OBJECT, run_id=7, object_id=name)
            for _ in range(2):  # the answer to the first one may be lost
                await silo.call(fleet.CONFIRM, run_id=7, message_object_id=name)
            then = await silo.call(fleet.PULL_MESSAGES)
            return name, given, pulls, content.object_content, then

    name, given, pulls, content, then = asyncio.run(run())
    assert [each.messages_list[0].metadata.message_id for each in given] == [name] * 3
    assert pulls == 1
    assert content == b"work"
    assert then.messages_list[0].metadata.message_id != name


def test_two_pulls_of_a_silo_at_once_get_the_same_message(house):
    async def run():
        async with house() as h:
            silo = h.silo("one")
            for text in ("work", "more work"):
                h.superlink.ask(await silo.activate(), text)
            h.superlink.hold = asyncio.Event()
            both = [asyncio.create_task(silo.call(fleet.PULL_MESSAGES)) for _ in range(2)]
            await asyncio.sleep(0.2)
            h.superlink.hold.set()
            found = await asyncio.gather(*both)
            left = len(h.superlink.waiting[silo.node])
            return {each.messages_list[0].metadata.message_id for each in found}, left

    found, left = asyncio.run(run())
    assert (len(found), left) == (1, 1)


def test_a_newer_pull_ends_an_older_one(house, monkeypatch):
    monkeypatch.setattr(calls, "POLL_S", 0.1)

    async def run():
        async with house(hold_s=30) as h:
            silo = h.silo("one")
            await silo.activate()
            older = asyncio.create_task(silo.call(fleet.PULL_MESSAGES))
            while "pull_messages" not in h.superlink.calls:
                await asyncio.sleep(0.01)
            newer = asyncio.create_task(silo.call(fleet.PULL_MESSAGES))
            empty = await asyncio.wait_for(older, 10)
            h.superlink.ask(silo.node, "work")
            return empty.messages_list, (await asyncio.wait_for(newer, 10)).messages_list

    empty, work = asyncio.run(run())
    assert not empty
    assert work


def test_a_silo_confirms_nothing_but_what_it_was_given_and_that_for_good(house):
    async def first():
        async with house() as h:
            one, two = h.silo("one"), h.silo("two")
            own = h.superlink.ask(await one.activate(), "work")
            other = h.superlink.ask(await two.activate(), "other work")
            await one.call(fleet.PULL_MESSAGES)
            await one.call(fleet.CONFIRM, run_id=7, message_object_id=other)
            assert "confirm_message_received" not in h.superlink.calls
            assert (await one.call(fleet.PULL_MESSAGES)).messages_list
            await one.call(fleet.CONFIRM, run_id=7, message_object_id=own)
            assert h.superlink.calls.count("confirm_message_received") == 1
            return h.superlink

    async def second(superlink):
        async with house(superlink) as h:
            silo = h.silo("one")
            await silo.activate()
            return (await silo.call(fleet.PULL_MESSAGES)).messages_list

    assert not asyncio.run(second(asyncio.run(first())))


def test_an_unconfirmed_message_outlives_the_gateway(house):
    async def first():
        async with house() as h:
            silo = h.silo("one")
            h.superlink.ask(await silo.activate(), "work")
            return h.superlink, await silo.call(fleet.PULL_MESSAGES)

    async def second(superlink):
        async with house(superlink) as h:
            silo = h.silo("one")
            await silo.activate()
            return await silo.call(fleet.PULL_MESSAGES)

    superlink, before = asyncio.run(first())
    assert asyncio.run(second(superlink)) == before
    assert before.messages_list


def test_a_message_of_a_run_that_is_over_is_not_handed_out_again(house):
    async def run():
        async with house() as h:
            silo = h.silo("one")
            h.superlink.ask(await silo.activate(), "work")
            await silo.call(fleet.PULL_MESSAGES)
            h.superlink.runs.clear()
            over = await silo.call(fleet.GET_RUN, run_id=7)
            return over, await silo.call(fleet.PULL_MESSAGES)

    over, then = asyncio.run(run())
    assert over == 403
    assert not then.messages_list


def test_a_message_whose_time_is_up_is_not_handed_out_again(house, monkeypatch):
    async def run():
        async with house() as h:
            silo = h.silo("one")
            h.superlink.ask(await silo.activate(), "work", ttl=100)
            first = await silo.call(fleet.PULL_MESSAGES)
            real = time.time
            monkeypatch.setattr(time, "time", lambda: real() + 101)
            return first, await silo.call(fleet.PULL_MESSAGES)

    first, then = asyncio.run(run())
    assert first.messages_list
    assert not then.messages_list


def test_a_silo_gets_runs_and_objects_only_of_the_message_it_was_given(house):
    async def run():
        async with house() as h:
            one, two = h.silo("one"), h.silo("two")
            h.superlink.runs.add(8)
            own = h.superlink.ask(await one.activate(), "work")
            other = h.superlink.ask(await two.activate(), "other work")
            await one.call(fleet.PULL_MESSAGES)
            await two.call(fleet.PULL_MESSAGES)
            return [
                await one.call(fleet.PULL_OBJECT, run_id=7, object_id=other),
                await one.call(fleet.GET_RUN, run_id=8),
                await one.call(fleet.GET_FAB, run_id=8, hash_str="f" * 64),
                (await one.call(fleet.PULL_OBJECT, run_id=7, object_id=own)).object_content,
                (await one.call(fleet.GET_RUN, run_id=7)).run.run_id,
                (await one.call(fleet.GET_FAB, run_id=7, hash_str="f" * 64)).fab.content,
            ]

    assert asyncio.run(run()) == [403, 403, 403, b"work", 7, b"bundle"]


def test_an_object_that_is_still_being_written_is_waited_for(house):
    async def run():
        async with house() as h:
            silo = h.silo("one")
            name = h.superlink.ask(await silo.activate(), "work")
            content = h.superlink.objects.pop(name)
            h.superlink.objects[name] = b""
            await silo.call(fleet.PULL_MESSAGES)
            asked = asyncio.create_task(silo.call(fleet.PULL_OBJECT, run_id=7, object_id=name))
            await asyncio.sleep(0.2)
            assert not asked.done()
            h.superlink.objects[name] = content
            return (await asked).object_content

    assert asyncio.run(run()) == b"work"


def test_a_held_pull_is_answered_when_it_is_rung_for(house, monkeypatch):
    monkeypatch.setattr(calls, "POLL_S", 60)

    async def run():
        async with house(hold_s=30) as h:
            one, two = h.silo("one"), h.silo("two")
            await one.activate()
            await two.activate()
            held = [asyncio.create_task(each.call(fleet.PULL_MESSAGES)) for each in (one, two)]
            while h.superlink.calls.count("pull_messages") < 2:
                await asyncio.sleep(0.01)
            # Two rings at once, one message each: neither silo's may get lost in the other's.
            first = h.superlink.ask(one.node, "for one")
            h.gate.kicks.ring()
            second = h.superlink.ask(two.node, "for two")
            h.gate.kicks.ring()
            found = await asyncio.wait_for(asyncio.gather(*held), 10)
            return [first, second], [each.messages_list[0].metadata.message_id for each in found]

    wanted, found = asyncio.run(run())
    assert found == wanted


def test_a_ring_between_two_questions_is_not_lost(house, monkeypatch):
    monkeypatch.setattr(calls, "POLL_S", 60)

    async def run():
        async with house(hold_s=30) as h:
            silo = h.silo("one")
            await silo.activate()
            h.superlink.hold = asyncio.Event()  # the SuperLink has the question and takes its time
            held = asyncio.create_task(silo.call(fleet.PULL_MESSAGES))
            await asyncio.sleep(0.2)
            answering = h.superlink.pull_messages

            def empty_then_rung(asked, key):
                h.superlink.pull_messages = answering
                h.superlink.ask(silo.node, "work")
                h.gate.kicks.ring()
                return {}

            h.superlink.pull_messages = empty_then_rung
            h.superlink.hold.set()
            return await asyncio.wait_for(held, 10)

    assert asyncio.run(run()).messages_list


def test_an_idle_pull_is_held_and_then_answered_empty_also_while_the_superlink_is_away(house):
    async def run(down):
        async with house() as h:
            silo = h.silo("one")
            await silo.activate()
            h.superlink.down = down
            began = time.monotonic()
            answer = await silo.call(fleet.PULL_MESSAGES)
            return len(answer.messages_list), time.monotonic() - began >= 0.4

    assert asyncio.run(run(False)) == (0, True)
    assert asyncio.run(run(True)) == (0, True)


def test_a_message_that_arrives_for_a_silo_that_hung_up_is_there_for_its_next_pull(
    house, monkeypatch
):
    monkeypatch.setattr(calls, "POLL_S", 60)

    async def run():
        async with house(hold_s=30) as h:
            silo = h.silo("one")
            await silo.activate()
            held = asyncio.create_task(silo.call(fleet.PULL_MESSAGES))
            while "pull_messages" not in h.superlink.calls:
                await asyncio.sleep(0.01)
            held.cancel()
            await asyncio.sleep(0.1)
            name = h.superlink.ask(silo.node, "work")
            h.gate.kicks.ring()
            found = await asyncio.wait_for(silo.call(fleet.PULL_MESSAGES), 10)
            return name, found.messages_list[0].metadata.message_id

    name, found = asyncio.run(run())
    assert name == found


def test_a_message_on_its_way_when_the_gateway_ends_is_kept(house):
    async def first():
        async with house() as h:
            silo = h.silo("one")
            h.superlink.ask(await silo.activate(), "work")
            h.superlink.hold = asyncio.Event()
            asked = h.superlink.arrived
            # A connection that is still there when the gateway ends: what waits on it is cancelled.
            _, writer = await asyncio.open_connection("127.0.0.1", h.port, ssl=silo.context)
            body = fleet.asking(fleet.PULL_MESSAGES, node={"node_id": silo.node})
            head = f"POST {fleet.PULL_MESSAGES} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            while h.superlink.arrived == asked:
                await asyncio.sleep(0.01)
            asyncio.get_running_loop().call_later(2.0, h.superlink.hold.set)
        writer.close()
        return h.superlink

    async def second(superlink):
        async with house(superlink) as h:
            silo = h.silo("one")
            await silo.activate()
            return (await silo.call(fleet.PULL_MESSAGES)).messages_list

    superlink = asyncio.run(first())
    assert not superlink.waiting[1000]  # it was given out
    assert asyncio.run(second(superlink))


def test_the_next_request_of_an_ejected_silo_is_refused_and_so_is_its_held_pull(
    house, hub, monkeypatch
):
    monkeypatch.setattr(calls, "POLL_S", 60)

    async def run():
        async with house(hold_s=30) as h:
            silo = h.silo("one")
            await silo.activate()
            held = asyncio.create_task(silo.call(fleet.PULL_MESSAGES))
            while "pull_messages" not in h.superlink.calls:
                await asyncio.sleep(0.01)
            h.superlink.ask(silo.node, "work")
            roster.eject(hub, "one")
            next_one = await silo.call(fleet.HEARTBEAT, heartbeat_interval=30)
            h.gate.kicks.ring()
            return next_one, await asyncio.wait_for(held, 10)

    assert asyncio.run(run()) == (403, 403)


def test_goodbye_is_answered_here_and_the_node_stays(house):
    async def run():
        async with house() as h:
            silo = h.silo("one")
            node = await silo.activate()
            await silo.call(fleet.DEACTIVATE, node_id=node)
            await silo.call(fleet.UNREGISTER, node_id=node)
            return h.superlink.online, h.gate.seen.silos["one"].left, await silo.activate()

    online, left, again = asyncio.run(run())
    assert online == {1000}
    assert left
    assert again == 1000
