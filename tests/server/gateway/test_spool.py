"""Replies on their way in: kept through cuts and restarts, delivered once whole, refused where they are not right."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from fl_client import fleet
from fl_server import room, roster
from fl_server.gateway import delivery, replies, spool

BIG = [bytes([n]) * 300_000 for n in range(5)]


async def announced(silo, reply):
    found = await silo.announce(reply)
    return found.session_id, list(found.objects_to_push)


async def send(silo, reply, session, names):
    return [(await silo.bring(session, reply.objects[name])).stored for name in names]


def files(hub, silo="one"):
    return sorted(p.relative_to(hub / "spool" / silo) for p in (hub / "spool" / silo).rglob("*"))


def test_a_reply_is_delivered_when_its_last_object_is_here_and_before_that_is_said(house, reply):
    async def run():
        async with house() as h:
            silo = h.silo("one")
            await silo.activate()
            r = reply("a", *BIG)
            session, names = await announced(silo, r)
            assert set(names) == set(r.objects)
            assert all(await send(silo, r, session, names[:-1]))
            assert not h.superlink.replies
            rings = h.gate.ready.count
            assert await send(silo, r, session, names[-1:]) == [True]
            assert h.gate.ready.count == rings + 1
            return r, h.superlink

    r, superlink = asyncio.run(run())
    assert (
        superlink.calls.count("get_run") == 1
    )  # whether the run goes on is not asked for each object
    assert {name: superlink.objects[name] for name in r.objects} == r.objects
    assert superlink.replies[list(r.objects)[-1]].answers == "a"


def test_what_was_delivered_is_off_the_disk_and_may_be_said_again(house, reply, hub):
    async def run():
        async with house() as h:
            silo = h.silo("one")
            await silo.activate()
            r = reply("a", *BIG)
            session, names = await announced(silo, r)
            await send(silo, r, session, names)
            assert spool.used(h.gate.spool, "one") == 0
            before = h.superlink.calls.count("push_messages")
            assert await send(silo, r, session, names[-1:]) == [True]  # its answer was lost
            assert await announced(silo, r) == (session, [])
            assert h.superlink.calls.count("push_messages") == before
            return session, r

    session, r = asyncio.run(run())
    assert [str(path) for path in files(hub)] == [f"{session}.done"]
    assert spool.answered(hub / "spool") == [r.answers]


def test_a_reply_cut_in_the_middle_of_an_object_goes_on_with_what_is_missing(house, reply):
    async def run():
        async with house() as h:
            silo = h.silo("one")
            await silo.activate()
            r = reply("a", *BIG)
            session, names = await announced(silo, r)
            sent = sum(len(r.objects[name]) for name in names[:2])
            await send(silo, r, session, names[:2])
            content = r.objects[names[2]]
            body = fleet.asking(
                fleet.PUSH_OBJECT, node={"node_id": silo.node}, run_id=7, session_id=session,
                object_id=names[2], object_content=content,
            )  # fmt: skip
            host, port = "127.0.0.1", h.port
            reader, writer = await asyncio.open_connection(host, port, ssl=silo.context)
            head = f"POST {fleet.PUSH_OBJECT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body[: len(body) // 2])
            await writer.drain()
            writer.transport.abort()
            sent += len(body) // 2
            again, missing = await announced(silo, r)
            assert (again, missing) == (session, names[2:])
            assert all(await send(silo, r, again, missing))
            sent += sum(len(r.objects[name]) for name in missing)
            whole = sum(map(len, r.objects.values()))
            return sent - whole, len(content), h.superlink.replies

    twice, one, delivered = asyncio.run(run())
    assert twice <= one // 2 + 200
    assert delivered


def test_a_reply_goes_on_after_the_gateway_was_restarted_and_damaged_objects_are_asked_for_again(
    house, reply, hub
):
    r = reply("a", *BIG)

    async def first():
        async with house() as h:
            silo = h.silo("one")
            await silo.activate()
            session, names = await announced(silo, r)
            await send(silo, r, session, names[:4])
            return h.superlink, session, names

    async def second(superlink):
        async with house(superlink) as h:
            silo = h.silo("one")
            await silo.activate()
            found = await announced(silo, r)
            await send(silo, r, *found)
            return found, superlink.replies

    superlink, session, names = asyncio.run(first())
    folder = hub / "spool" / "one" / session
    (folder / names[0]).write_bytes(b"torn by a power cut")
    (folder / "x.part").write_bytes(b"half an object")
    found, delivered = asyncio.run(second(superlink))
    assert found == (session, [names[0], *names[4:]])
    assert delivered


@pytest.mark.parametrize("content", [b"", b"\xff\xff", None], ids=["empty", "rubbish", "another's"])
def test_a_reply_whose_announcement_is_damaged_is_announced_anew(house, reply, hub, content):
    r = reply("a", *BIG)

    async def first():
        async with house() as h:
            silo = h.silo("one")
            await silo.activate()
            session, names = await announced(silo, r)
            await send(silo, r, session, names[:4])
            return h.superlink, session

    async def second(superlink):
        async with house(superlink) as h:
            silo = h.silo("one")
            await silo.activate()
            found = await announced(silo, r)
            return found[1], await send(silo, r, *found)

    superlink, session = asyncio.run(first())
    path = hub / "spool" / "one" / session / "request"
    other = fleet.request(fleet.PUSH_MESSAGES, path.read_bytes())
    other.messages_list[0].metadata.run_id = 8
    path.write_bytes(other.SerializeToString() if content is None else content)
    wanted, stored = asyncio.run(second(superlink))
    assert set(wanted) == set(r.objects)
    assert all(stored)


def test_what_an_ejected_silo_left_is_not_delivered(house, reply, hub):
    async def run():
        async with house() as h:
            silo = h.silo("one")
            await silo.activate()
            r = reply("a", b"x")
            session, names = await announced(silo, r)
            h.superlink.down = True
            for name in names:
                await silo.bring(session, r.objects[name])
            h.superlink.down = False
            roster.eject(hub, "one")
            await delivery.sweep(h.gate)
            return h.superlink.replies

    assert asyncio.run(run()) == {}
    assert not files(hub)


def test_a_disk_that_cannot_be_read_is_asked_again_and_does_not_hold_up_others(
    house, reply, monkeypatch
):
    async def run():
        async with house() as h:
            one, two = h.silo("one"), h.silo("two")
            for silo, text in ((one, "a"), (two, "b")):
                h.superlink.down = False
                await silo.activate()
                r = reply(text, b"x")
                session, names = await announced(silo, r)
                h.superlink.down = True
                for name in names:
                    await silo.bring(session, r.objects[name])
            h.superlink.down = False
            (first,) = h.gate.spool.sessions["one"].values()
            (first.folder / "request").rename(first.folder / "away")
            await delivery.sweep(h.gate)
            found = [each.answers for each in h.superlink.replies.values()]
            (first.folder / "away").rename(first.folder / "request")
            await delivery.sweep(h.gate)
            return found, [each.answers for each in h.superlink.replies.values()]

    assert asyncio.run(run()) == (["b"], ["b", "a"])


def test_an_object_is_kept_only_if_it_is_what_it_is_called_and_was_announced(house, reply):
    async def run():
        async with house() as h:
            one, two = h.silo("one"), h.silo("two")
            await one.activate()
            await two.activate()
            r = reply("a", *BIG)
            session, names = await announced(one, r)
            content = r.objects[names[0]]
            return [
                (await one.bring(session, content + b"x", names[0])).stored,
                (await one.bring(session, b"not announced")).stored,
                (await one.bring("0" * 64, content)).stored,
                (await one.bring("../" * 20 + "hub", content)).stored,
                (await one.bring(session, content, run=8)).stored,
                (await two.bring(session, content)).stored,
            ], (await announced(one, r))[1] == names

    assert asyncio.run(run()) == ([False] * 6, True)


@pytest.mark.parametrize(
    "changes",
    [{"reply_to_message_id": ""}, {"run_id": 8}],
    ids=["it answers nothing", "its run is over"],
)
def test_what_is_no_reply_to_a_run_that_goes_on_is_not_taken_in(house, reply, hub, changes):
    async def run():
        async with house() as h:
            silo = h.silo("one")
            await silo.activate()
            return await silo.announce(reply("a", b"x"), **changes)

    assert asyncio.run(run()) in (400, 403)
    assert not (hub / "spool" / "one").exists()


def test_a_reply_beyond_the_quota_is_refused_and_nothing_is_broken(house, reply):
    async def run():
        async with house(spool_bytes=1 << 20) as h:
            one, two = h.silo("one"), h.silo("two")
            await one.activate()
            await two.activate()
            r = reply("a", *BIG)
            session, names = await announced(one, r)
            assert all(await send(one, r, session, names[:3]))
            full = await one.bring(session, r.objects[names[3]])
            other, rest = await announced(two, r)
            assert all(await send(two, r, other, rest[:3]))  # each silo has its own
            small = reply("b", b"small")
            assert all(await send(one, small, *await announced(one, small)))
            return full, list(h.superlink.replies)

    full, delivered = asyncio.run(run())
    assert full == 507
    assert len(delivered) == 1


def test_a_full_quota_does_not_keep_the_next_reply_out(house, reply):
    async def run():
        async with house(spool_bytes=1 << 20) as h:
            silo = h.silo("one")
            await silo.activate()
            before, now = reply("a", *BIG), reply("b", b"x" * 200_000)
            session, names = await announced(silo, before)
            await send(silo, before, session, names[:3])
            assert await silo.bring(session, before.objects[names[3]]) == 507
            return await send(silo, now, *await announced(silo, now))

    assert asyncio.run(run()) == [True, True]


def test_a_full_disk_refuses_before_the_body_is_read_and_goes_on_when_there_is_room(
    house, reply, monkeypatch
):
    async def run():
        async with house() as h:
            silo = h.silo("one")
            await silo.activate()
            r = reply("a", *BIG)
            session, names = await announced(silo, r)
            await send(silo, r, session, names[:2])
            full = SimpleNamespace(f_bavail=room.SPARE // 4096, f_frsize=4096)
            monkeypatch.setattr(os, "statvfs", lambda path: full)
            refused = await silo.bring(session, r.objects[names[2]]), await silo.announce(r)
            monkeypatch.undo()
            assert all(await send(silo, r, session, names[2:]))
            return refused, h.superlink.replies

    refused, delivered = asyncio.run(run())
    assert refused == (507, 507)
    assert delivered


@pytest.mark.parametrize("where", ["store", "announce"])
def test_a_disk_that_is_full_at_the_write_is_said_so_and_the_next_try_works(
    house, reply, hub, monkeypatch, where
):
    def full(*_):
        raise OSError(errno.ENOSPC, "no space left")

    async def run():
        async with house() as h:
            silo = h.silo("one")
            await silo.activate()
            r = reply("a", *BIG)
            module = replies if where == "store" else spool
            monkeypatch.setattr(module, where, full)
            refused = await silo.announce(r)
            if where == "store":
                name = refused.objects_to_push[0]
                refused = await silo.bring(refused.session_id, r.objects[name])
            monkeypatch.undo()
            assert all(await send(silo, r, *await announced(silo, r)))
            return refused, h.superlink.replies

    refused, delivered = asyncio.run(run())
    assert refused == 507
    assert delivered


def test_a_write_that_fails_leaves_nothing_behind(reply, tmp_path, monkeypatch):
    session = replies.Session(tmp_path, "one", None, {})

    def full(_):
        raise OSError(errno.ENOSPC, "no space left")

    content = bytes(replies.LARGE)
    monkeypatch.setattr(os, "fdatasync", full)
    (name,) = list(reply("a", content).objects)[:1]
    with pytest.raises(OSError, match="no space"):
        replies.store(session, name, content)
    assert not list(tmp_path.iterdir())


def test_a_reply_that_stopped_coming_is_dropped_and_what_remembers_old_ones_too(house, reply, hub):
    async def run():
        async with house() as h:
            silo = h.silo("one")
            await silo.activate()
            done, half = reply("a", b"x"), reply("b", *BIG)
            await send(silo, done, *await announced(silo, done))
            session, names = await announced(silo, half)
            await send(silo, half, session, names[:2])
            await delivery.sweep(h.gate)
            assert len(files(hub)) == 5  # the tomb; the folder, its request and two objects
            for path in (hub / "spool" / "one").iterdir():
                os.utime(path, (0, 0))
            await delivery.sweep(h.gate)
            assert not files(hub)
            return (await silo.bring(session, half.objects[names[2]])).stored

    assert asyncio.run(run()) is False


def test_a_silos_next_reply_takes_over_what_is_left_of_an_unfinished_one(house, reply):
    async def run():
        async with house() as h:
            silo = h.silo("one")
            await silo.activate()
            before, now = reply("a", *BIG), reply("asked again", *BIG)
            session, names = await announced(silo, before)
            await send(silo, before, session, names[:4])
            then, missing = await announced(silo, now)
            late = await silo.bring(session, before.objects[names[4]])
            await send(silo, now, then, missing)
            return names, missing, late.stored, h.superlink.replies

    names, missing, late, delivered = asyncio.run(run())
    assert not set(missing) & set(names[:4])
    assert len(missing) == 2  # the fifth part, and the message itself
    assert late is False
    assert [each.answers for each in delivered.values()] == ["asked again"]


def test_a_reply_of_a_run_that_ended_leaves_the_disk_though_its_silo_is_silent(house, reply, hub):
    async def run():
        async with house() as h:
            silo = h.silo("one")
            await silo.activate()
            r = reply("a", *BIG)
            session, names = await announced(silo, r)
            await send(silo, r, session, names[:2])
            h.superlink.runs.clear()
            h.gate.relay.runs.clear()  # as after 10 s
            await delivery.sweep(h.gate)
            return spool.used(h.gate.spool, "one")

    assert asyncio.run(run()) == 0
    assert not files(hub)


def test_only_the_last_delivered_replies_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "TOMBS", 3)
    own = spool.Spool(tmp_path, 1, {}, {})
    for n in range(6):
        folder = tmp_path / "one" / f"{n:064}"
        folder.mkdir(parents=True)
        brought = fleet.Reply(7, f"reply-{n}", f"message-{n}", "1", ())
        spool.finish(own, replies.Session(folder, "one", brought, {}))
        os.utime(folder.with_name(folder.name + spool.DONE), (n, n))
    assert spool.answered(tmp_path) == [f"message-{n}" for n in (3, 4, 5)]
    assert [spool.delivered(own, "one", f"{n:064}") for n in range(6)] == [False] * 3 + [True] * 3


def test_a_reply_counts_as_delivered_where_the_disk_is_too_full_to_say_which(tmp_path, monkeypatch):
    def full(self, text):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(Path, "write_text", full)
    folder = tmp_path / "one" / f"{7:064}"
    folder.mkdir(parents=True)
    own = spool.Spool(tmp_path, 1, {}, {})
    brought = fleet.Reply(7, "reply", "message", "1", ())
    spool.finish(own, replies.Session(folder, "one", brought, {}))
    assert spool.delivered(own, "one", folder.name)
    assert spool.answered(tmp_path) == []


@pytest.mark.parametrize("known", [True, False], ids=["asked before", "at the delivery"])
def test_a_reply_of_a_run_that_ended_meanwhile_is_refused_and_dropped(house, reply, hub, known):
    async def run():
        async with house() as h:
            silo = h.silo("one")
            await silo.activate()
            r = reply("a", *BIG)
            session, names = await announced(silo, r)
            await send(silo, r, session, names[:-1])
            h.superlink.runs.clear()
            if known:
                h.gate.relay.runs.clear()  # as after 10 s
            return await silo.bring(session, r.objects[names[-1]])

    assert asyncio.run(run()) == 403
    assert not files(hub)


def test_a_superlink_that_is_away_is_waited_for_and_gets_the_reply_when_it_is_back(house, reply):
    async def run():
        async with house() as h:
            silo = h.silo("one")
            await silo.activate()
            r = reply("a", *BIG)
            session, names = await announced(silo, r)
            h.superlink.down = True
            assert all(await send(silo, r, session, names[:-1]))  # the spool needs no SuperLink
            later = await silo.bring(session, r.objects[names[-1]])
            h.superlink.down = False
            await delivery.sweep(h.gate)
            return later, h.superlink.replies, await send(silo, r, session, names[-1:])

    later, delivered, again = asyncio.run(run())
    assert later == 503
    assert delivered
    assert again == [True]


def test_a_whole_reply_that_waits_for_the_superlink_is_not_given_up_for_the_next_one(house, reply):
    async def run():
        async with house() as h:
            silo = h.silo("one")
            await silo.activate()
            whole, half = reply("a", *BIG), reply("b", *BIG)
            session, names = await announced(silo, whole)
            h.superlink.down = True
            await send(silo, whole, session, names[:-1])
            assert await silo.bring(session, whole.objects[names[-1]]) == 503
            await announced(silo, half)
            h.superlink.down = False
            await delivery.sweep(h.gate)
            return [each.answers for each in h.superlink.replies.values()]

    assert asyncio.run(run()) == ["a"]


def test_a_delivery_that_takes_long_goes_on_while_the_silo_asks_again(house, reply, monkeypatch):
    monkeypatch.setattr(delivery, "WAIT_S", 0.1)

    async def run():
        async with house() as h:
            silo = h.silo("one")
            await silo.activate()
            r = reply("a", b"x")
            session, names = await announced(silo, r)
            await send(silo, r, session, names[:-1])
            h.superlink.hold = asyncio.Event()
            later = await silo.bring(session, r.objects[names[-1]])
            h.superlink.hold.set()
            monkeypatch.setattr(delivery, "WAIT_S", 10)
            then = await send(silo, r, session, names[-1:])
            return later, then, h.superlink.calls.count("push_messages")

    assert asyncio.run(run()) == (503, [True], 1)


def test_a_delivery_broken_off_is_finished_though_the_reply_was_taken_already(
    house, reply, monkeypatch
):
    r = reply("a", *BIG)

    async def first():
        async with house() as h:
            silo = h.silo("one")
            await silo.activate()
            session, names = await announced(silo, r)
            await send(silo, r, session, names[:-1])
            pushing, pushed = h.superlink.push_object, []

            def two_then_away(asked, key):
                pushed.append(asked.object_id)
                return pushing(asked, key) if len(pushed) <= 2 else 503

            h.superlink.push_object = two_then_away
            monkeypatch.setattr(delivery, "TRIES", 1)
            assert await silo.bring(session, r.objects[names[-1]]) == 503
            h.superlink.push_object = pushing
            h.superlink.taken.add(list(r.objects)[-1])
            return h.superlink

    async def second(superlink):
        async with house(superlink):
            while not all(superlink.objects.get(name) for name in r.objects):
                await asyncio.sleep(0.02)

    superlink = asyncio.run(first())
    assert sum(bool(superlink.objects.get(name)) for name in r.objects) == 2
    asyncio.run(asyncio.wait_for(second(superlink), 10))


def test_many_small_objects_are_brought_to_disk_at_once(reply, tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "sync", lambda: synced.append("all"))
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append("one"))
    held = {}
    for n in range(3):
        (tmp_path / str(n)).touch()
        held[str(n)] = 10
    (tmp_path / "request").touch()
    replies.sync(replies.Session(tmp_path, "one", None, held))
    assert synced == ["one"] * 5  # three objects, the announcement and the folder
    synced.clear()
    replies.sync(replies.Session(tmp_path, "one", None, dict.fromkeys(map(str, range(65)), 10)))
    assert synced == ["all"]
