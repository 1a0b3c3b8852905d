"""A silo's gateway, a hub that answers as told, and the calls that a SuperNode makes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fl_client import (
    audit,
    bundle,
    certificates,
    fleet,
    messages,
    policy,
    ports,
    signed,
    silo,
)
from fl_client.config import Study
from fl_client.gateway import server, trip
from fl_client.silo import Folder, Settings
from fl_server import authority
from fl_server import hub as hubs

from .desk import Desk

RUN, NODE, NAME, FEDERATION, BASE = 7, 1001, "clinic-a", "Demo", "b" * 64
SMALL = Study(name="small", rounds=2)
PUSHES = {fleet.PUSH_MESSAGES, fleet.PUSH_OBJECT}
Answer = Callable[[bytes], "tuple[int, bytes]"]


class Got(NamedTuple):
    """What the hub got."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]  # names in lower case


class Hub:
    """A hub that records what it gets and answers as told, 200 and nothing if not told."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.key = signed.load(folder / "study.key")
        self.got: list[Got] = []
        self.answers: dict[str, Answer] = {}
        self.studies: dict[int, bytes] = {}
        self.silent = False
        self.location = "http://127.0.0.1:9/"
        self.respond = self.answer  # a test may put another in front
        self._runner: web.AppRunner | None = None

    async def open(self, folder: Path | None = None) -> None:
        of = folder or self.folder
        context = certificates.server_context(of / "server.pem", of / "server.key", of / "root.pem")
        runner = web.AppRunner(web.Application(client_max_size=8 << 20), shutdown_timeout=0.1)
        runner.app.router.add_route("*", "/{path:.*}", self._handle)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=context).start()
        self._runner = runner

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        self._runner = None

    async def _handle(self, request: web.Request) -> web.Response:
        return await self.respond(request)

    async def answer(self, request: web.Request) -> web.Response:
        path, body = request.path_qs, await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.got.append(Got(request.method, path, body, headers))
        if self.silent:
            await asyncio.sleep(60)
        if path.startswith("/v1/silo/study?run="):
            envelope = self.studies.get(int(path.partition("=")[2]))
            return web.Response(status=200 if envelope else 404, body=envelope or b"")
        status, content = self.answers.get(path, lambda _: (200, b""))(body)
        moved = {"location": self.location} if status in (302, 307) else {}
        return web.Response(status=status, body=content, headers=moved)

    def sign(self, study: Study = SMALL, run: int = RUN, **changes: Any) -> None:
        """Lay out the signed study of a run, and what get-run and get-fab say of it."""
        said = {"federation": FEDERATION, "bundle_sha256": bundle.sha256(), "silos": [NAME]}
        key = changes.pop("key", self.key)
        said |= changes
        self.studies[run] = signed.sign(key, said.pop("federation"), study, **said)
        self.tells_run(config=signed.carried(study), run_id=run)
        self.tells_bundle(bundle.sha256(), bundle.fab())

    def tells_run(self, config: dict[str, Any], **changes: Any) -> None:
        kinds = {str: "string", bool: "bool", int: "sint64", float: "double"}
        said = {
            "run_id": RUN,
            "fab_id": "bhasha-fl/bhasha",
            "fab_version": bundle.version(),
            "fab_hash": bundle.sha256(),
            "override_config": {k: {kinds[type(v)]: v} for k, v in config.items()},
            "primary_task_type": "flwr-serverapp",
        }
        body = fleet.answering(fleet.GET_RUN, run=said | changes)
        self.answers[fleet.GET_RUN] = lambda _: (200, body)

    def tells_bundle(self, sha256: str, content: bytes) -> None:
        body = fleet.answering(fleet.GET_FAB, fab={"hash_str": sha256, "content": content})
        self.answers[fleet.GET_FAB] = lambda _: (200, body)

    def paths(self) -> list[str]:
        return [each.path for each in self.got]

    def codes(self) -> list[str]:
        """Return the codes in replies that carry nothing else, as whoever waits for them reads them."""
        from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

        asked = [fleet.request(each.path, each.body) for each in self.got if each.path in PUSHES]
        held = {each.object_id: each.object_content for each in asked if hasattr(each, "object_id")}
        codes = {}
        for each in (each for each in asked if hasattr(each, "messages_list")):
            said = fleet.reply(each)
            if set(said.objects) <= set(held):
                reply = inflate_object_from_contents(said.message, dict(held))
                assert reply.object_id == said.message
                assert reply.metadata.reply_to_message_id == said.answers
                codes[said.message] = messages.read_reply(reply).code
        return [code for code in codes.values() if code]

    def told(self) -> list[tuple[int, str]]:
        """Return what silos told of runs that they refuse."""
        said = [json.loads(each.body) for each in self.got if each.path == "/v1/silo/refuse"]
        return [(each["run"], each["code"]) for each in said]


class Silo:
    """A silo's folder, its gateway, and the calls of its SuperNode."""

    def __init__(self, folder: Path, world: World) -> None:
        self.folder, self.world, self.port = folder, world, 0
        self.client = httpx.Client(timeout=30)
        self._stack = contextlib.AsyncExitStack()

    def start(self) -> None:
        async def enter() -> None:
            self.port = await self._stack.enter_async_context(server.open_(self.folder, self.port))

        self.world.run(enter())

    def stop(self) -> None:
        self.world.run(self._stack.aclose())

    def post(self, path: str, body: bytes = b"", **headers: str) -> httpx.Response:
        url = f"http://127.0.0.1:{self.port}{path}"
        return self.client.post(url, content=body, headers={"content-type": fleet.MEDIA} | headers)

    def call(self, path: str, **fields: Any) -> Any:
        """Return the answer to one of Flower's calls, or its status where that is not 200."""
        if path not in (fleet.REGISTER, fleet.ACTIVATE, fleet.DEACTIVATE, fleet.UNREGISTER):
            fields.setdefault("node", {"node_id": NODE})
        back = self.post(path, fleet.asking(path, **fields))
        return fleet.response(path, back.content) if back.status_code == 200 else back.status_code

    def get_run(self, run: int = RUN) -> Any:
        return self.call(fleet.GET_RUN, run_id=run)

    def get_fab(self, run: int = RUN) -> Any:
        return self.call(fleet.GET_FAB, run_id=run, hash_str=bundle.sha256())

    def allow(self, before: str, after: str) -> None:
        """Change a line of the policy, as the silo's people would."""
        path = Folder(self.folder).policy
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))

    def record(self) -> list[audit.Entry]:
        return list(audit.read(self.folder))


class World:
    """An event loop in a thread of its own, for the hub and the gateway."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def end(self) -> None:
        self.run(self._cancel())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def _cancel(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for each in others:
            each.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def found_hub(folder: Path, port: int) -> Hub:
    authority.create(folder, hubs.new(FEDERATION, f"127.0.0.1:{port}"))
    return Hub(folder, port)


def found_silo(folder: Path, hub: Hub, **changes: Any) -> Path:
    """Make a silo's folder as joining does."""
    at = Folder(folder)
    folder.mkdir()
    key = certificates.new_key()
    certificates.save_key(at.key, key)
    at.certificate.write_bytes(
        authority.issue(hub.folder, certificates.request(key, NAME), NAME, 30)
    )
    at.root.write_bytes((hub.folder / "root.pem").read_bytes())
    public = hub.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    at.study_key.write_bytes(public)
    said = {"name": NAME, "federation": FEDERATION, "address": f"127.0.0.1:{hub.port}"}
    said |= {"data": "text", "base": "builtin:tiny", "base_sha256": BASE}
    silo.create(folder, Settings(**said | changes))
    policy.create(folder, BASE, FEDERATION)
    return folder


@pytest.fixture(scope="session")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a hub's folder with its keys, which take a moment to make."""
    folder = tmp_path_factory.mktemp("authority") / "hub"
    found_hub(folder, 1)
    return folder


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.end()


@pytest.fixture
def hub(world: World, authorities: Path) -> Iterator[Hub]:
    made = Hub(authorities, ports.free())
    world.run(made.open())
    yield made
    world.run(made.close())


@pytest.fixture
def clinic(world: World, hub: Hub, tmp_path: Path) -> Iterator[Silo]:
    """Return a silo whose gateway runs; the hub has a signed study for the run."""
    hub.sign()
    made = Silo(found_silo(tmp_path / "silo", hub), world)
    made.start()
    yield made
    made.client.close()
    made.stop()


@pytest.fixture
def found() -> Callable[..., Path]:
    """Return a maker of silo folders: ``found(folder, hub)``."""
    return found_silo


class Written(NamedTuple):
    """A reply as Flower writes it: the request that announces it, and its objects by name."""

    request: dict[str, Any]
    objects: dict[str, bytes]


@pytest.fixture
def write() -> Callable[..., Written]:
    """Return a maker of replies: ``write(content_or_error, kind="train", group="1", run=RUN)``."""
    from flwr.app import Message, RecordDict
    from flwr.common.serde import message_to_proto
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = RUN, 1, NODE

    def make(said: Any, kind: str = "train", group: str = "1", run: int = RUN) -> Written:
        TaskIdentity.run_id = run
        asked = Message(RecordDict(), dst_node_id=NODE, message_type=kind, group_id=group)
        asked.metadata.__dict__["_message_id"] = "a" * 64
        reply = Message(said, reply_to=asked)
        objects = {name: each.deflate() for name, each in get_all_nested_objects(reply).items()}
        reply.metadata.__dict__["_message_id"] = reply.object_id
        tree = get_object_tree(reply)
        proto = message_to_proto(reply)
        proto.ClearField("content")
        return Written({"messages_list": [proto], "message_object_trees": [tree]}, objects)

    return make


@pytest.fixture
def desk(hub, monkeypatch):
    monkeypatch.setattr(trip, "PAUSE_S", 0.05)
    made = Desk(hub)

    def announced(body):
        reply = fleet.reply(fleet.request(fleet.PUSH_MESSAGES, body))
        said = {"objects_to_push": reply.objects, "session_id": reply.message}
        return 200, fleet.answering(fleet.PUSH_MESSAGES, **said)

    hub.answers |= {
        fleet.PUSH_MESSAGES: announced,
        fleet.PUSH_OBJECT: lambda _: (200, fleet.answering(fleet.PUSH_OBJECT, stored=True)),
    }
    return made


@pytest.fixture
def asked(hub, desk):
    """Return a function that lets the hub hand out one message of a kind, as the SuperNode pulls it."""

    def ask(clinic, kind="train", run=RUN, round="3", message="1" * 64):
        said = {"run_id": run, "message_id": message, "dst_node_id": NODE, "message_type": kind}
        body = fleet.answering(
            fleet.PULL_MESSAGES,
            messages_list=[{"metadata": said | {"group_id": round}}],
            message_object_trees=[{"object_id": message}],
        )
        hub.answers[fleet.PULL_MESSAGES] = lambda _: (200, body)
        hub.answers[fleet.PULL_OBJECT] = lambda _: (403, b"")
        return clinic.call(fleet.PULL_MESSAGES)

    return ask
