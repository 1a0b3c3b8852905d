"""Every path, seen by five callers: nobody, one of another authority, one whose time is up, one ejected, and a silo."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fl_client import certificates, fleet
from fl_server import authority, roster
from fl_server import hub as hubs
from fl_server.gateway import gate, server

BIN = Path(sys.executable).parent
CALLERS = ("none", "unknown", "expired", "ejected", "good")
STRANGERS = {"/v1/silo/enrol", "/v1/silo/certificate"}


@pytest.fixture
def shown(hub, joined, tmp_path):
    """Return a function: the certificate and key that a caller shows."""

    def of(who):
        if who == "none":
            return None, None
        chain, key = joined(who)
        if who == "unknown":
            other = tmp_path / "other"
            authority.create(other, hubs.read(hub))
            request = certificates.request(certificates.load_key(key), who)
            chain.write_bytes(authority.issue(other, request, who))
        if who == "expired":
            chain.write_bytes(_expired(hub, key, who))
        if who == "ejected":
            roster.eject(hub, who)
        return chain, key

    return of


def _expired(hub, key, name):
    ca_pem = (hub / "ca.pem").read_bytes()
    subject = x509.load_pem_x509_certificate(ca_pem).subject
    ca = authority.Issuer(subject, certificates.load_key(hub / "ca.key"))
    now = datetime.now(UTC)
    made = authority.build(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]),
        certificates.load_key(key).public_key(),
        ca,
        authority.Period(now - timedelta(days=9), now - timedelta(days=1)),
        authority.silo_only(name),
    )
    return made.public_bytes(Encoding.PEM) + ca_pem


async def walk(hub, port, shown, calls):
    """Return the status by caller, method and path; 0 where the connection does not come about."""
    found = {}
    for who in CALLERS:
        context = certificates.client_context(hub / "root.pem", *shown(who))
        async with aiohttp.ClientSession(f"https://127.0.0.1:{port}") as client:
            for method, path in calls:
                found[who, method, path] = 0
                with contextlib.suppress(aiohttp.ClientError):
                    async with client.request(method, path, ssl=context, data=b"") as back:
                        found[who, method, path] = back.status
    return found


def unexpected(found):
    """Return every 2xx but those of a silo on a path of ours; the two that strangers may call need a token."""
    return {
        call: status
        for call, status in found.items()
        if 200 <= status < 300 and not (call[0] == "good" and call[1:] in server.ROUTES)
    }


def test_only_a_silo_on_the_roster_gets_an_answer_and_only_on_our_paths(house, hub, shown):
    calls = [
        *server.ROUTES,
        ("GET", "/"),
        ("GET", "/openapi.json"),
        ("POST", "/v1/control/start-run"),
    ]
    calls += [("PUT", path) for _, path in server.ROUTES]

    async def run():
        async with house() as h:
            return await walk(hub, h.port, shown, calls)

    found = asyncio.run(run())
    assert unexpected(found) == {}
    assert {status for call, status in found.items() if call[0] in ("unknown", "expired")} == {0}
    for who in ("none", "ejected"):
        own = {
            status for call, status in found.items() if call[0] == who and call[1:] in server.ROUTES
        }
        assert own == {403}
    assert found["good", "GET", "/v1/silo/time"] == 200
    assert found["good", "POST", fleet.REGISTER] == 200
    assert found["good", "POST", "/v1/control/start-run"] == 404


@pytest.fixture
def superlink(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "FLWR_HOME": str(tmp_path / "flower"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    process = subprocess.Popen(
        [BIN / "flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port),
         "--disable-runtime-dependency-installation"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.superlink
def test_no_path_of_flowers_openapi_answers_whom_it_should_not(hub, shown, superlink):
    async def run():
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{superlink}") as client,
            client.get("/openapi.json") as back,
        ):
            served = (await back.json())["paths"]
        calls = [(m.upper(), path) for path, ways in served.items() for m in ways]
        calls += [("GET", "/openapi.json"), ("GET", "/docs")]
        async with gate.open_(hub, superlink) as own, server.open_(own) as (_, port):
            found = await walk(hub, port, shown, calls)
            silo = await _active(hub, port, shown("good"))
        return calls, found, silo

    calls, found, active = asyncio.run(run())
    assert len(calls) > 60
    assert unexpected(found) == {}
    inside = Counter(call[0] for call, status in found.items() if 200 <= status < 300)
    assert set(inside) <= {"good"}
    assert active == 200


async def _active(hub, port, shown):
    """Return the status of a silo's activation: the way through to the real SuperLink."""
    context = certificates.client_context(hub / "root.pem", *shown)
    body = fleet.asking(fleet.ACTIVATE, public_key=b"x", heartbeat_interval=30)
    async with (
        aiohttp.ClientSession(f"https://127.0.0.1:{port}") as client,
        client.post(fleet.ACTIVATE, data=body, ssl=context) as back,
    ):
        return back.status
