"""What a stranger or a slow one can cost the hub: refused before a body is read, cut off, or made to make room."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

import pytest

from fl_client import certificates, fleet
from fl_server.gateway import limits


async def connect(h, context):
    return await asyncio.open_connection("127.0.0.1", h.port, ssl=context)


async def status(reader):
    """Return the status of what comes back, 0 where the connection just ends."""
    with contextlib.suppress(OSError):
        line = await asyncio.wait_for(reader.readline(), 10)
        return int(line.split()[1]) if line else 0
    return 0


async def ends(reader):
    """Return whether the other side ends the connection within 10 s."""
    try:
        async with asyncio.timeout(10):
            while await reader.read(4096):
                pass
    except TimeoutError:
        return False
    except OSError:  # cut off
        return True
    return True


def head(path, *lines):
    return "\r\n".join([f"POST {path} HTTP/1.1", "host: x", *lines, "", ""]).encode()


def of(silo):
    return silo.context


@pytest.mark.parametrize(
    ("path", "line", "expected"),
    [
        (fleet.PUSH_OBJECT, f"content-length: {fleet.OBJECT + 1}", 413),
        (fleet.PUSH_OBJECT, "content-length: 99999999999999999999", 400),
        (fleet.PULL_MESSAGES, "content-length: 5000", 413),
        ("/v1/silo/probe", f"content-length: {(1 << 20) + 1}", 413),
        (fleet.PUSH_OBJECT, "transfer-encoding: chunked", 411),
        (fleet.PUSH_OBJECT, "content-length: 10\r\ncontent-encoding: gzip", 411),
        (fleet.PUSH_OBJECT, "x-nothing: 1", 411),
        (fleet.PUSH_OBJECT, "content-length: -1", 400),
        (fleet.PUSH_OBJECT, "content-length: 1\r\ntransfer-encoding: chunked", 400),
        ("/v1/fleet/..%2fcontrol/list-runs", "content-length: 10", 404),
        ("/v1/fleet/push-object/", "content-length: 10", 404),
        ("/v1/control/start-run", "content-length: 10", 404),
        ("/v1/silo/study", "content-length: 10", 404),
    ],
)
def test_a_body_that_is_too_large_or_not_measured_is_refused_unread(house, path, line, expected):
    async def run():
        async with house() as h:
            reader, writer = await connect(h, of(h.silo("one")))
            writer.write(head(path, line))  # and nothing more: who waits for a body, waits in vain
            got = await status(reader), await ends(reader)
            writer.close()
            return got

    assert asyncio.run(run()) == (expected, True)


def test_a_stranger_is_refused_before_its_body_is_read(house, silent):
    async def run():
        async with house() as h:
            found = []
            for path in [*fleet.PATHS, "/v1/silo/probe", "/v1/silo/hello", "/v1/silo/refuse"]:
                reader, writer = await connect(h, silent)
                writer.write(head(path, f"content-length: {512 << 20}"))
                found.append(await status(reader))
                writer.close()
            return found

    assert set(asyncio.run(run())) == {403}


def test_who_sends_a_body_too_slowly_is_cut_off_and_who_is_just_slow_is_not(house, monkeypatch):
    monkeypatch.setattr(limits, "GRACE_S", 0.3)
    body = fleet.asking(fleet.HEARTBEAT, node={"node_id": 1}, heartbeat_interval=30)

    async def run():
        async with house() as h:
            silo = h.silo("one")
            reader, writer = await connect(h, of(silo))
            writer.write(head(fleet.PUSH_OBJECT, "content-length: 4000"))
            slow = asyncio.create_task(status(reader))
            with contextlib.suppress(OSError):
                for _ in range(200):
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.sleep(0.01)
                    if slow.done():
                        break
            writer.close()
            reader, steady = await connect(h, of(silo))
            steady.write(head(fleet.HEARTBEAT, f"content-length: {len(body)}"))
            for byte in body:
                steady.write(bytes([byte]))
                await steady.drain()
                await asyncio.sleep(0.01)
            got = await status(reader)
            steady.close()
            return await slow, got

    slow, steady = asyncio.run(run())
    assert slow == 408
    assert steady == 401  # read to its end: a silo that is not active yet


def test_who_does_not_send_a_request_is_cut_off(house, monkeypatch):
    monkeypatch.setattr(limits, "HANDSHAKE_S", 0.5)
    monkeypatch.setattr(limits, "IDLE_S", 0.3)

    async def run():
        async with house() as h:
            context = of(h.silo("one"))
            quiet, dribbling = await connect(h, context), await connect(h, context)
            over = asyncio.create_task(ends(dribbling[0]))
            with contextlib.suppress(OSError):
                for byte in head(fleet.HEARTBEAT, *["x: y"] * 50):
                    dribbling[1].write(bytes([byte]))
                    await dribbling[1].drain()
                    await asyncio.sleep(0.01)
                    if over.done():
                        break
            got = await ends(quiet[0]), over.done()
            for _, writer in (quiet, dribbling):
                writer.close()
            return got

    assert asyncio.run(run()) == (True, True)


def test_who_never_finishes_the_handshake_is_cut_off(house, monkeypatch):
    monkeypatch.setattr(limits, "HANDSHAKE_S", 0.3)

    async def run():
        async with house() as h:
            reader, writer = await asyncio.open_connection("127.0.0.1", h.port)
            writer.write(b"\x16\x03\x01")
            over = await ends(reader)
            writer.close()
            return over

    assert asyncio.run(run())


def test_a_crowd_of_silent_connections_makes_room_for_a_silo(house, silent):
    async def run():
        async with house(max_connections=4) as h:
            crowd = [await connect(h, silent) for _ in range(12)]
            served = await h.silo("one").activate()
            more = [await connect(h, silent) for _ in range(12)]
            still = await h.silo("one").get("/v1/silo/time")
            gone = [await ends(reader) for reader, _ in crowd[:8]]
            strangers = [link for link in h.links() if not link.silo]
            for _, writer in crowd + more:
                writer.close()
            return served, still[0], all(gone), len(strangers)

    served, still, gone, strangers = asyncio.run(run())
    assert (served, still, gone) == (1000, 200, True)
    assert strangers <= 4


def test_a_silos_oldest_connection_makes_room_for_its_newest(house):
    async def run():
        async with house(max_connections=2) as h:
            context = of(h.silo("one"))
            open_ = []
            for _ in range(4):
                reader, writer = await connect(h, context)
                writer.write(b"GET /v1/silo/time HTTP/1.1\r\nhost: x\r\n\r\n")
                assert await status(reader) == 200
                open_.append((reader, writer))
            gone = [await ends(reader) for reader, _ in open_[:2]]
            open_[3][1].write(b"GET /v1/silo/time HTTP/1.1\r\nhost: x\r\n\r\n")
            again = await _until(open_[3][0], b"HTTP/1.1 200")
            for _, writer in open_:
                writer.close()
            return gone, again

    assert asyncio.run(run()) == ([True, True], True)


async def _until(reader, text):
    """Return whether a text comes before the end."""
    with contextlib.suppress(asyncio.IncompleteReadError):
        return bool(await asyncio.wait_for(reader.readuntil(text), 10))
    return False


async def asked_for_much(h):
    """Return a connection, with little room for what comes in, on which an object of 6 MB was asked for."""
    silo = h.silo("one")
    h.superlink.ask(await silo.activate(), "work")
    given = await silo.call(fleet.PULL_MESSAGES)
    name = given.messages_list[0].metadata.message_id
    h.superlink.objects[name] = bytes(6_000_000)
    await silo.client.close()
    body = fleet.asking(fleet.PULL_OBJECT, node={"node_id": silo.node}, run_id=7, object_id=name)
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.connect(("127.0.0.1", h.port))
    reader, writer = await asyncio.open_connection(
        sock=small, ssl=of(silo), server_hostname="127.0.0.1"
    )
    reader._transport.pause_reading()
    writer.write(head(fleet.PULL_OBJECT, f"content-length: {len(body)}") + body)
    while "pull_object" not in h.superlink.calls:
        await asyncio.sleep(0.01)
    return reader, writer


def test_who_does_not_take_an_answer_is_cut_off(house, monkeypatch):
    monkeypatch.setattr(limits, "GRACE_S", 0.0)
    monkeypatch.setattr(limits, "IDLE_S", 0.2)
    monkeypatch.setattr(limits, "RATE", 1e9)

    async def run():
        async with house() as h:
            _, writer = await asked_for_much(h)
            for _ in range(100):
                await asyncio.sleep(0.1)
                if not h.links():
                    break
            writer.transport.abort()
            return h.links()

    assert asyncio.run(run()) == []


def test_who_takes_an_answer_slowly_but_steadily_gets_all_of_it(house, monkeypatch):
    monkeypatch.setattr(limits, "IDLE_S", 0.2)
    monkeypatch.setattr(limits, "GRACE_S", 0.2)
    monkeypatch.setattr(limits, "RATE", 5e5)  # 12 s for 6 MB

    async def run():
        async with house() as h:
            reader, writer = await asked_for_much(h)
            await asyncio.sleep(2.5)
            reader._transport.resume_reading()
            headers = await reader.readuntil(b"\r\n\r\n")
            size = int(headers.lower().split(b"content-length: ")[1].split()[0])
            content = await asyncio.wait_for(reader.readexactly(size), 10)
            writer.close()
            return len(content)

    assert asyncio.run(run()) > 6_000_000


def test_tls_before_1_3_and_a_certificate_for_a_server_are_refused(house, hub, silent):
    async def refused(h, context):
        try:
            reader, writer = await connect(h, context)
        except (ssl.SSLError, OSError):
            return True
        writer.write(b"GET /v1/silo/time HTTP/1.1\r\nhost: x\r\n\r\n")
        got = await status(reader)
        writer.close()
        return got == 0

    async def run():
        old = ssl.create_default_context()
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        server = certificates.client_context(
            hub / "root.pem", hub / "server.pem", hub / "server.key"
        )
        async with house() as h:
            return await refused(h, old), await refused(h, server)

    assert asyncio.run(run()) == (True, True)
