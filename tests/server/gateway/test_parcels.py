"""Parcels at the public port: only a silo's own, only of a run that goes on, kept across cuts, checked by hash."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
from types import SimpleNamespace

import aiohttp
import numpy as np
import pytest

from fl_client import memory, parcels
from fl_client.gateway import upload
from fl_client.gateway.egress import Meter
from fl_client.gateway.link import Link, Record
from fl_client.gateway.trip import Trip
from fl_client.parcels import Parcel
from fl_server import room
from fl_server.gateway import delivery, server, spool

RUN, UP, DOWN = 7, "/v1/silo/parcel", "/v1/silo/parcel/content"
CONTENT = os.urandom(300_000)
PARCEL = Parcel(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


def where(path=UP, parcel=PARCEL, run=RUN, **more):
    query = {"run": run, "parcel": parcel} | more
    return path + "?" + "&".join(f"{key}={value}" for key, value in query.items())


def file_of(h, name, parcel=PARCEL):
    return parcels.path(spool.updates(h.gate.spool.folder, name), parcel)


async def post(silo, parts):
    """Send an update in parts, from its beginning."""
    size = {"content-length": str(len(CONTENT))}
    async with silo.client.post(silo.url + where(at=0), data=parts, headers=size) as back:
        return back.status


async def held(silo):
    status, body = await silo.get(where())
    return json.loads(body)["held"] if status == 200 else status


def test_an_update_comes_in_and_is_on_disk_under_its_hash(house):
    async def run():
        async with house() as h:
            clinic = h.silo("clinic")
            await clinic.activate()
            before = await held(clinic)
            status, body = await clinic.post(where(at=0), CONTENT)
            return (
                before,
                status,
                json.loads(body),
                await held(clinic),
                file_of(h, "clinic").read_bytes(),
            )

    before, status, said, after, kept = asyncio.run(run())
    assert (before, status, said, after) == (0, 200, {"held": len(CONTENT)}, len(CONTENT))
    assert kept == CONTENT


def test_what_came_before_a_cut_stays_and_the_rest_is_taken(house):
    async def cut(silo):
        async def half():
            yield CONTENT[:100_000]
            await asyncio.sleep(0.3)
            raise ConnectionResetError

        with contextlib.suppress(aiohttp.ClientError, ConnectionResetError):
            await post(silo, half())

    async def run():
        async with house() as h:
            clinic = h.silo("clinic")
            await clinic.activate()
            await cut(clinic)
            stands = await held(clinic)
            wrong, _ = await clinic.post(where(at=5), CONTENT[5:])
            status, _ = await clinic.post(where(at=stands), CONTENT[stands:])
            return stands, wrong, status, file_of(h, "clinic").read_bytes()

    stands, wrong, status, kept = asyncio.run(run())
    assert stands == 100_000
    assert (wrong, status) == (409, 200)
    assert kept == CONTENT


def test_a_silo_that_comes_back_takes_over_from_its_own_dead_line(house):
    async def run():
        async with house() as h:
            clinic, again = h.silo("clinic"), h.silo("clinic")
            await clinic.activate()
            waiting = asyncio.Event()

            async def stuck():
                yield CONTENT[:100_000]
                await waiting.wait()
                yield CONTENT[100_000:]

            old = asyncio.create_task(post(clinic, stuck()))
            while await held(again) != 100_000:
                await asyncio.sleep(0.02)
            status, _ = await again.post(where(at=100_000), CONTENT[100_000:])
            waiting.set()
            with contextlib.suppress(aiohttp.ClientError):
                await old
            return status, file_of(h, "clinic").read_bytes()

    status, kept = asyncio.run(run())
    assert status == 200
    assert kept == CONTENT


def test_small_pieces_of_a_dead_line_are_counted_and_do_not_come_after_those_of_the_new_one(house):
    async def run():
        async with house() as h:
            clinic, again = h.silo("clinic"), h.silo("clinic")
            await clinic.activate()
            waiting = asyncio.Event()

            async def dripping():
                for at in range(0, 1000, 100):
                    yield CONTENT[at : at + 100]
                    await asyncio.sleep(0.01)
                await waiting.wait()
                yield CONTENT[1000:]

            old = asyncio.create_task(post(clinic, dripping()))
            for _ in range(100):
                stands = await held(again)
                if stands == 1000:
                    break
                await asyncio.sleep(0.02)
            status, _ = await again.post(where(at=stands), CONTENT[stands:])
            waiting.set()
            with contextlib.suppress(aiohttp.ClientError):
                await old
            return stands, status, file_of(h, "clinic").read_bytes()

    stands, status, kept = asyncio.run(run())
    assert (stands, status) == (1000, 200)
    assert kept == CONTENT


def test_what_is_not_what_it_was_called_is_dropped(house):
    async def run():
        async with house() as h:
            clinic = h.silo("clinic")
            await clinic.activate()
            status, _ = await clinic.post(where(at=0), CONTENT[::-1])
            return status, await held(clinic), list(file_of(h, "clinic").parent.iterdir())

    assert asyncio.run(run()) == (422, 0, [])


@pytest.mark.parametrize(("content", "stands"), [(CONTENT, len(CONTENT)), (CONTENT[::-1], 0)])
def test_what_had_all_come_when_the_gateway_was_killed_is_looked_at_before_it_counts(
    house, content, stands
):
    async def run():
        async with house() as h:
            clinic = h.silo("clinic")
            await clinic.activate()
            file = file_of(h, "clinic")
            file.parent.mkdir(parents=True)
            memory.part(file).write_bytes(content)
            return await held(clinic), file.exists(), memory.part(file).exists()

    assert asyncio.run(run()) == (stands, bool(stands), False)


def test_updates_that_nobody_collected_do_not_fill_a_silos_quota(house):
    made = [os.urandom(100_000) for _ in range(6)]
    named = [Parcel(hashlib.sha256(each).hexdigest(), len(each)) for each in made]

    async def run():
        async with house(spool_bytes=250_000) as h:
            clinic = h.silo("clinic")
            await clinic.activate()
            statuses = []
            for content, parcel in zip(made, named, strict=True):
                await clinic.get(where(parcel=parcel))
                statuses.append((await clinic.post(where(parcel=parcel, at=0), content))[0])
            return statuses, [file_of(h, "clinic", parcel).exists() for parcel in named]

    assert asyncio.run(run()) == ([200] * 6, [False] * 4 + [True] * 2)


def test_one_silo_can_neither_see_nor_touch_what_another_brought(house):
    async def run():
        async with house() as h:
            clinic, college = h.silo("clinic"), h.silo("college")
            await clinic.activate()
            await college.activate()
            await clinic.post(where(at=0), CONTENT)
            seen = await held(college)
            await college.post(where(at=0), CONTENT[::-1])
            return seen, file_of(h, "clinic").read_bytes()

    assert asyncio.run(run()) == (0, CONTENT)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"parcel": "../../etc"}, 400),
        ({"parcel": "0a" * 32}, 400),
        ({"run": "x"}, 400),
        ({"run": "-1"}, 400),
        ({"run": 1 << 64}, 400),
        ({"run": 1 << 70}, 400),
        ({"run": "9" * 5000}, 400),
        ({"at": 1 << 70}, 400),
        ({"parcel": "0a" * 32 + ":" + "9" * 30}, 400),
        ({"at": "-1"}, 400),
        ({"at": len(CONTENT) + 1}, 400),
        ({"run": 8}, 403),
        ({"parcel": Parcel("0a" * 32, 1 << 45)}, 507),
        ({"parcel": Parcel(PARCEL.sha256, 1000)}, 413),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_kept(house, changes, status):
    async def run():
        async with house() as h:
            clinic = h.silo("clinic")
            await clinic.activate()
            try:
                found, _ = await clinic.post(where(**({"at": 0} | changes)), CONTENT)
            except aiohttp.ClientError:  # the hub closed the door before the body was sent
                found = status
            left = [f for f in h.hub.rglob("*.safetensors*") if f.stat().st_size]
            return found, left

    assert asyncio.run(run()) == (status, [])


def test_a_silo_over_its_quota_is_turned_away(house):
    async def run():
        async with house(spool_bytes=200_000) as h:
            clinic = h.silo("clinic")
            await clinic.activate()
            with contextlib.suppress(aiohttp.ClientError):
                return (await clinic.post(where(at=0), CONTENT))[0]
            return 507

    assert asyncio.run(run()) == 507


class Slow:
    """An update of a silo that comes in two halves, the second one when it is told to go on."""

    def __init__(self, silo, size):
        content = os.urandom(size)
        self.silo, self.content = silo, content
        self.parcel = Parcel(hashlib.sha256(content).hexdigest(), size)
        self.goes_on = asyncio.Event()
        self.sent = asyncio.create_task(self._send())

    async def _halves(self):
        half = len(self.content) // 2
        yield self.content[:half]
        await self.goes_on.wait()
        yield self.content[half:]

    async def _send(self):
        url = self.silo.url + where(parcel=self.parcel, at=0)
        size = {"content-length": str(len(self.content))}
        async with self.silo.client.post(url, data=self._halves(), headers=size) as back:
            return back.status

    async def begun(self, h):
        """Return once half of it is on disk, or it was refused."""
        part = memory.part(file_of(h, self.silo.name, self.parcel))
        while not self.sent.done() and (not part.exists() or part.stat().st_size == 0):
            await asyncio.sleep(0.01)

    async def end(self):
        """Let the rest go; return the status, 507 where the hub closed the door before."""
        self.goes_on.set()
        try:
            return await self.sent
        except aiohttp.ClientError:
            return 507


async def begun(h, *updates):
    async with asyncio.timeout(10):
        for each in updates:
            await each.begun(h)


def test_updates_that_come_in_at_once_hold_a_silos_quota_together(house):
    async def run():
        async with house(spool_bytes=1 << 18, max_connections=16) as h:
            clinic = h.silo("clinic")
            await clinic.activate()
            sent = [Slow(clinic, 200_000) for _ in range(6)]
            await begun(h, *sent)
            under_way = [each for each in sent if not each.sent.done()]
            halves = spool.used(h.gate.spool, "clinic")
            statuses = [await each.end() for each in sent]
            return len(under_way), halves, sorted(statuses), spool.used(h.gate.spool, "clinic")

    assert asyncio.run(run()) == (1, 100_000, [200] + [507] * 5, 200_000)


def test_updates_that_fit_into_a_silos_quota_come_in_at_once(house):
    async def run():
        async with house(spool_bytes=500_000) as h:
            clinic = h.silo("clinic")
            await clinic.activate()
            sent = [Slow(clinic, 200_000) for _ in range(2)]
            await begun(h, *sent)
            under_way = [each for each in sent if not each.sent.done()]
            return len(under_way), [await each.end() for each in sent]

    assert asyncio.run(run()) == (2, [200, 200])


def test_the_next_update_gets_in_once_the_one_before_it_is_whole(house):
    async def run():
        async with house(spool_bytes=300_000) as h:
            clinic = h.silo("clinic")
            await clinic.activate()
            early = Slow(clinic, 200_000)
            await begun(h, early)
            refused, _ = Slow(clinic, 200_000), await clinic.get(where())
            before = await refused.end()
            assert not early.sent.done()
            whole = await early.end()
            file_of(h, "clinic", early.parcel).unlink()  # the hub has collected it
            after, _ = await clinic.post(where(parcel=refused.parcel, at=0), refused.content)
            return before, whole, after

    assert asyncio.run(run()) == (507, 200, 200)


def test_a_silos_gateway_brings_an_update_that_found_no_room_beside_an_early_one(
    house, tmp_path, caplog
):
    parcel = parcels.keep(tmp_path, {"values": np.zeros(50_000, np.float32)})

    async def run():
        async with house(spool_bytes=300_000) as h:
            clinic = h.silo("clinic")
            await clinic.activate()
            early = Slow(clinic, 200_000)
            await begun(h, early)
            record = Record(tmp_path, Meter(tmp_path))
            line = Link(clinic.url, clinic.client, {"holds": True}, record)
            sent = asyncio.create_task(upload.send(line, Trip(RUN, parcel, "study", "1", tmp_path)))
            async with asyncio.timeout(10):
                while f"no room for {parcel.bytes} bytes more" not in caplog.text:
                    await asyncio.sleep(0.01)
            assert not early.sent.done() and not sent.done()
            whole = await early.end()
            file_of(h, "clinic", early.parcel).unlink()  # the hub has collected it
            await asyncio.wait_for(sent, 20)
            return whole, parcels.whole(file_of(h, "clinic", parcel), parcel)

    assert asyncio.run(run()) == (200, True)


def test_a_silo_that_comes_back_needs_no_room_for_what_its_dead_line_announced(house):
    async def run():
        async with house(spool_bytes=300_000) as h:
            clinic = h.silo("clinic")
            await clinic.activate()
            dead = Slow(clinic, 200_000)
            await begun(h, dead)
            rest = dead.content[100_000:]
            assert not dead.sent.done()
            status, _ = await clinic.post(where(parcel=dead.parcel, at=100_000), rest)
            await dead.end()
            return status, file_of(h, "clinic", dead.parcel).read_bytes() == dead.content

    assert asyncio.run(run()) == (200, True)


def test_what_comes_in_is_not_removed_to_make_room(house):
    async def run():
        async with house(spool_bytes=500_000) as h:
            clinic = h.silo("clinic")
            await clinic.activate()
            early = Slow(clinic, 200_000)
            await begun(h, early)
            part = memory.part(file_of(h, "clinic", early.parcel))
            assert (await clinic.post(where(at=0), CONTENT))[0] == 200  # newer on disk
            os.utime(part, (1, 1))
            await clinic.get(where(parcel=Parcel("0a" * 32, 5)))
            return part.exists(), await early.end()

    assert asyncio.run(run()) == (True, 200)


def test_updates_of_all_silos_that_come_in_at_once_leave_the_disk_its_spare_room(
    house, monkeypatch
):
    async def run():
        async with house() as h:
            silos = [h.silo(name) for name in ("clinic", "college")]
            for each in silos:
                await each.activate()
            disk = SimpleNamespace(f_bavail=room.SPARE + 250_000, f_frsize=1)
            monkeypatch.setattr(os, "statvfs", lambda path: disk)
            first = Slow(silos[0], 200_000)
            await begun(h, first)
            second = Slow(silos[1], 200_000)
            await begun(h, second)
            assert not first.sent.done()
            return await second.end(), await first.end()

    assert asyncio.run(run()) == (507, 200)


@pytest.mark.parametrize("method", ["get", "post"])
def test_a_stranger_and_an_ejected_silo_are_turned_away(house, hub, method):
    from fl_server import roster

    async def run():
        async with house() as h:
            clinic, stranger = h.silo("clinic"), h.silo("")
            await clinic.activate()
            roster.eject(hub, "clinic")
            found = []
            for who in (clinic, stranger):
                try:
                    found.append((await getattr(who, method)(where()))[0])
                except aiohttp.ClientError:
                    found.append(403)
            return found

    assert asyncio.run(run()) == [403, 403]


def laid_out(h):
    arrays = {"x": np.arange(500_000, dtype=np.float32)}
    parcel = parcels.keep(h.hub / "parcels", arrays)
    return parcel, parcels.path(h.hub / "parcels", parcel).read_bytes()


def test_an_adapter_is_given_to_a_silo_that_works_on_its_run_from_any_byte_on(house):
    async def run():
        async with house() as h:
            clinic = h.silo("clinic")
            node = await clinic.activate()
            parcel, content = laid_out(h)
            early, _ = await clinic.get(where(DOWN, parcel))
            h.superlink.ask(node, "train")
            await clinic.call("/v1/fleet/pull-messages")
            whole = await clinic.get(where(DOWN, parcel))
            rest = await clinic.get(where(DOWN, parcel), range="bytes=1000000-")
            gone, _ = await clinic.get(where(DOWN))
            return early, whole == (200, content), rest == (206, content[1_000_000:]), gone

    assert asyncio.run(run()) == (403, True, True, 404)


def test_an_update_that_nobody_collects_expires_and_counts_until_then(house):
    async def run():
        async with house(spool_hours=1.0) as h:
            clinic = h.silo("clinic")
            await clinic.activate()
            await clinic.post(where(at=0), CONTENT)
            await delivery.sweep(h.gate)
            before = spool.used(h.gate.spool, "clinic")
            os.utime(file_of(h, "clinic"), (1, 1))
            await delivery.sweep(h.gate)
            return before, spool.used(h.gate.spool, "clinic")

    assert asyncio.run(run()) == (len(CONTENT), 0)


def test_the_walk_of_paths_knows_every_path_of_parcels():
    assert {path for _, path in server.ROUTES if "parcel" in path} == {UP, DOWN}
