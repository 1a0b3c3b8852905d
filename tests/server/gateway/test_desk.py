"""The silo's own paths, and what the hub's own programs are told over the Unix socket."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import stat
import time

import aiohttp
import pytest

from fl_client import certificates, fleet
from fl_server import hub as hubs
from fl_server import roster
from fl_server.gateway import local


@contextlib.asynccontextmanager
async def inside(h):
    """Give a client of the Unix socket."""
    path = hubs.socket(h.hub)
    connector = aiohttp.UnixConnector(str(path))
    async with (
        local.open_(h.gate, path),
        aiohttp.ClientSession("http://hub", connector=connector) as client,
    ):
        yield client


async def status(client):
    async with client.get("/status") as back:
        return (await back.json())["silos"]


def test_a_silo_enrols_with_its_kit_and_fetches_its_certificate_once_approved(house, hub):
    kit = roster.invite(hub, "new", ("as",), 1.0)
    key = certificates.new_key()
    request = certificates.request(key, "new")

    async def run():
        async with house() as h:
            stranger = h.silo("")
            token = {"bhasha-token": kit.token}
            found = [
                await stranger.post("/v1/silo/enrol", request, **token),
                await stranger.get("/v1/silo/certificate", **token),
                await stranger.post("/v1/silo/enrol", request, **token),  # its answer was lost
            ]
            roster.approve(hub, "new")
            return [*found, await stranger.get("/v1/silo/certificate", **token)]

    *pending, (code, pem) = asyncio.run(run())
    assert pending == [(202, b"")] * 3
    assert code == 200
    assert certificates.fingerprint(pem) == certificates.fingerprint(request)


def test_whoever_is_turned_away_is_told_a_code(house, hub):
    kit = roster.invite(hub, "new", ("as",), 1.0)
    first, second = (certificates.request(certificates.new_key(), "new") for _ in range(2))

    async def run():
        async with house() as h:
            stranger = h.silo("")
            token = {"bhasha-token": kit.token}
            await stranger.post("/v1/silo/enrol", first, **token)
            answers = [
                await stranger.post("/v1/silo/enrol", second, **token),
                await stranger.post("/v1/silo/enrol", first, **{"bhasha-token": "guessed"}),
                await stranger.get("/v1/silo/certificate"),
            ]
            return [(code, json.loads(body)["code"]) for code, body in answers]

    codes = asyncio.run(run())
    assert codes == [(403, "used_kit"), (403, "unknown_kit"), (403, "unknown_kit")]


def test_a_run_that_a_silo_refuses_is_not_handed_out_again_and_the_hub_is_told(house):
    async def run():
        async with house() as h, inside(h) as client:
            silo = h.silo("one")
            h.superlink.ask(await silo.activate(), "work")
            await silo.call(fleet.PULL_MESSAGES)
            before = (await status(client))["one"]
            waiting = asyncio.create_task(
                client.get(f"/ready?process={h.gate.process}&since={h.gate.ready.count}")
            )
            no = json.dumps({"run": 7, "code": "bundle_differs"}).encode()
            assert (await silo.post("/v1/silo/refuse", no))[0] == 200
            count = (await (await waiting).json())["count"]
            then = await silo.call(fleet.PULL_MESSAGES)
            return before, count, then.messages_list, (await status(client))["one"]

    before, count, then, after = asyncio.run(run())
    assert (before["pending"], before["refused"]) == (1, {})
    assert (after["pending"], after["refused"]) == (0, {"7": "bundle_differs"})
    assert count == 1
    assert not then


def test_a_greeting_is_shown_less_what_does_not_belong_there_and_answered_with_the_time(house):
    said = {
        "version": "0.1.0",
        "languages": {"as": {"rows": 10, "bytes": 2000}},
        "gpus": 2,
        "uplink_bytes_s": 1e6,
        "node_id": 5,
        "note": "some text from the silo",
    }

    async def run():
        async with house() as h, inside(h) as client:
            silo = h.silo("one")
            node = await silo.activate()
            code, told = await silo.post("/v1/silo/hello", json.dumps(said).encode())
            assert code == 200
            assert abs(json.loads(told)["time"] - time.time()) < 60
            return node, (await status(client))["one"]

    node, row = asyncio.run(run())
    assert row["node_id"] == node
    assert "note" not in row
    shown = ("version", "languages", "gpus", "uplink_bytes_s")
    assert {key: row[key] for key in shown} == {key: said[key] for key in shown}
    assert row["connected"]
    assert row["activations"] == 1
    assert row["last_contact_s_ago"] < 10


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("hello", b"not JSON"),
        ("hello", b'{"version": "a text with spaces"}'),
        ("hello", b'{"languages": {"as": {"rows": -1, "bytes": 0}}}'),
        ("hello", b'{"languages": {"as": {"rows": 1, "bytes": 0, "sample": "text"}}}'),
        ("hello", b'{"uplink_bytes_s": "NaN"}'),
        ("hello", b'{"cpus": 1e400}'),
        ("hello", b'{"gpus": "two"}'),
        ("hello", b'{"gpus": 1125899906842624}'),
        ("hello", b'{"uplink_bytes_s": 5e-324}'),
        ("hello", b'{"uplink_bytes_s": 0.5}'),
        ("hello", b'{"update_hours": "99:00-06:00"}'),
        ("refuse", b"{}"),
        ("refuse", b'{"run": -1, "code": "bundle_differs"}'),
        ("refuse", b'{"run": 18446744073709551616, "code": "bundle_differs"}'),
        ("refuse", b'{"run": 7, "code": "a sentence of its own"}'),
        ("refuse", b'{"run": 7, "code": "bundle_differs", "why": "text"}'),
    ],
)
def test_what_is_no_greeting_and_no_refusal_is_turned_down(house, path, body):
    async def run():
        async with house() as h:
            return (await h.silo("one").post(f"/v1/silo/{path}", body))[0], h.gate.seen.silos["one"]

    code, kept = asyncio.run(run())
    assert code == 400
    assert (kept.hello, kept.refused) == ({}, {})


def test_a_registered_study_reaches_its_silos_also_after_a_restart(house):
    envelope = b'{"study": {}, "signature": "x"}'

    async def first():
        async with house() as h, inside(h) as client:
            body = {"run": 7, "envelope": base64.b64encode(envelope).decode()}
            async with client.post("/runs", json=body) as back:
                assert back.status == 200
            async with client.post("/runs", json={"run": 7, "envelope": "?"}) as back:
                assert back.status == 400

    async def second():
        async with house() as h:
            silo = h.silo("one")
            return [
                await silo.get(f"/v1/silo/study?run={run}")
                for run in ("7", "8", "", "..%2f7", "7.json")
            ]

    asyncio.run(first())
    found, *others = asyncio.run(second())
    assert found == (200, envelope)
    assert {code for code, _ in others} == {404}


def test_the_hubs_programs_wait_for_news_and_ring_for_work(house, monkeypatch):
    monkeypatch.setattr(local, "READY_S", 0.2)

    async def run():
        async with house() as h, inside(h) as client:
            own = f"/ready?process={h.gate.process}"
            async with client.get(f"{own}&since=0") as back:
                nothing = (await back.json())["count"]
            h.gate.ready.ring()
            async with client.get(f"{own}&since=0") as back:
                missed = (await back.json())["count"]
            async with client.get(f"{own}&since=rubbish") as back:
                assert back.status == 200
            async with client.post("/kick") as back:
                assert back.status == 200
            return nothing, missed, h.gate.kicks.count

    assert asyncio.run(run()) == (0, 1, 1)


def test_the_hubs_programs_are_told_which_messages_were_answered_since(house, reply):
    async def run():
        async with house() as h, inside(h) as client:
            silo = h.silo("one")
            await silo.activate()
            found = []
            for name in ("a", "b"):
                r = reply(name, b"x")
                session = (await silo.announce(r)).session_id
                for content in r.objects.values():
                    await silo.bring(session, content)
                async with client.get(f"/ready?process={h.gate.process}&since=0") as back:
                    found.append(await back.json())
            for process in (h.gate.process, "another"):
                async with client.get(f"/ready?process={process}&since=1") as back:
                    found.append(await back.json())
            return [(one["count"], one["answered"]) for one in found]

    assert asyncio.run(run()) == [(1, ["a"]), (2, ["a", "b"]), (2, ["b"]), (2, ["a", "b"])]


def test_the_socket_is_this_users_alone_and_goes_with_the_gateway(house, hub):
    path = hubs.socket(hub)
    path.touch()  # left by one that was killed

    async def run():
        async with house() as h, inside(h) as client:
            await status(client)
            return stat.S_IMODE(path.parent.stat().st_mode)

    assert asyncio.run(run()) == 0o700
    assert not path.exists()


def test_a_silo_measures_its_line_and_its_clock(house):
    async def run():
        async with house() as h:
            silo = h.silo("one")
            return await silo.post("/v1/silo/probe", bytes(1 << 20)), await silo.get(
                "/v1/silo/time"
            )

    (code, said), (_, clock) = asyncio.run(run())
    assert (code, json.loads(said)) == (200, {"bytes": 1 << 20})
    assert abs(json.loads(clock)["time"] - time.time()) < 60


def test_when_a_silo_was_last_heard_outlives_the_gateway(house):
    async def first():
        async with house() as h:
            await h.silo("one").get("/v1/silo/time")

    async def second():
        async with house() as h, inside(h) as client:
            return (await status(client))["one"]["last_contact_s_ago"]

    asyncio.run(first())
    assert asyncio.run(second()) < 60


def test_a_silo_that_left_or_is_silent_counts_as_not_connected(house, monkeypatch):
    async def run():
        async with house() as h, inside(h) as client:
            one, two = h.silo("one"), h.silo("two")
            await one.activate()
            await two.activate()
            await one.call(fleet.DEACTIVATE, node_id=one.node)
            left = await status(client)
            real = time.time
            monkeypatch.setattr(time, "time", lambda: real() + 100)
            return left, await status(client)

    left, silent = asyncio.run(run())
    assert {name: row["connected"] for name, row in left.items()} == {"one": False, "two": True}
    assert not silent["two"]["connected"]
