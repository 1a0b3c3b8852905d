"""The gateway as a program: what it prints, how it ends, and what a ``kill -9`` costs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp

from fl_server import hub as hubs

ROOT = Path(__file__).parents[3]


@contextlib.asynccontextmanager
async def started(hub, superlink):
    """Give a running gateway and its port; it is killed if it still runs at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fl_server.gateway", str(hub), "--superlink", str(superlink.port),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT,
    )  # fmt: skip
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        assert line.startswith(b"ready ")
        yield process, int(line.split()[1])
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def test_a_reply_goes_on_from_the_disk_after_the_gateway_was_killed(house, hub, joined, reply):
    r = reply("a", *[bytes([n]) * 300_000 for n in range(6)])
    chain, key = joined("one")

    async def run():
        async with house() as h:  # its SuperLink and its silo; the gateway here is another process
            silo = h.silo("one")

            async def enter(port):
                silo.url = f"https://127.0.0.1:{port}"
                await silo.activate()
                found = await silo.announce(r)
                return found.session_id, list(found.objects_to_push)

            async with started(hub, h.superlink) as (process, port):
                session, names = await enter(port)
                for name in names[:3]:
                    assert (await silo.bring(session, r.objects[name])).stored
                process.kill()
                await process.wait()
                with contextlib.suppress(aiohttp.ClientError):
                    await silo.bring(session, r.objects[names[3]])
            async with started(hub, h.superlink) as (process, port):
                again, missing = await enter(port)
                for name in missing:
                    assert (await silo.bring(again, r.objects[name])).stored
                process.send_signal(signal.SIGTERM)
                code = await process.wait()
            return session, names, again, missing, h.superlink, code

    session, names, again, missing, superlink, code = asyncio.run(run())
    assert (again, missing) == (session, names[3:])
    assert all(superlink.objects[name] == content for name, content in r.objects.items())
    assert superlink.calls.count("register_node") == 1
    assert code == 0
    assert not hubs.socket(hub).exists()


def test_what_keeps_it_from_starting_is_said_in_one_sentence(hub, tmp_path):
    def run(folder, *more):
        command = [sys.executable, "-m", "fl_server.gateway", str(folder), *more]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path = hub / "hub.toml"
        path.write_text(path.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
        found = [run(hub), run(tmp_path / "nothing")]
    for ran, said in zip(found, (str(port), "nothing"), strict=True):
        assert ran.returncode == 2
        assert ran.stderr.count("\n") == 1
        assert said in ran.stderr
