"""A hub with its certificates, silos on its roster, a SuperLink that is none, and the gateway between them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from fl_client import certificates, fleet
from fl_server import authority, roster
from fl_server import hub as hubs
from fl_server.gateway import gate, server

RUN = 7


class Superlink:
    """What the gateway needs of Flower's SuperLink, in memory: signed calls, pulls at most once, push sessions."""

    def __init__(self) -> None:
        self.nodes: dict[bytes, int] = {}
        self.online: set[int] = set()
        self.waiting: dict[int, list[bytes]] = {}
        self.objects: dict[str, bytes] = {}  # b"" where it is announced only
        self.replies: dict[str, fleet.Reply] = {}
        self.sessions: dict[str, str] = {}
        self.runs = {RUN}
        self.calls: list[str] = []
        self.asked: list[Any] = []
        self.down = False
        self.taken: set[str] = set()  # replies that the ServerApp has pulled
        self.hold: asyncio.Event | None = None
        self.port = self.arrived = 0

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Superlink]:
        runner = web.AppRunner(web.Application(client_max_size=8 << 20), access_log=None)
        runner.app.router.add_post("/v1/fleet/{name}", self.answer)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            await runner.cleanup()

    async def answer(self, request: web.Request) -> web.Response:
        if self.down:
            return web.Response(status=503)
        asked = fleet.request(request.path, await request.read())
        key = base64.b64decode(request.headers["flwr-public-key"])
        load_pem_public_key(key).verify(
            base64.b64decode(request.headers["flwr-signature"]),
            request.headers["flwr-timestamp"].encode(),
            ec.ECDSA(hashes.SHA256()),
        )
        name = request.path.removeprefix(fleet.BASE).replace("-", "_")
        ids = fleet.node_ids(asked)
        if ids and ids != {self.nodes.get(key)}:
            return web.Response(status=401)
        self.arrived += 1
        if self.hold is not None:
            await self.hold.wait()
        self.calls.append(name)
        self.asked.append(asked)
        if getattr(asked, "run_id", RUN) not in self.runs:
            return web.Response(status=403)
        found = getattr(self, name)(asked, key)
        if isinstance(found, int):
            return web.Response(status=found)
        return web.Response(body=fleet.answering(request.path, **found))

    def register_node(self, asked: Any, key: bytes) -> Any:
        assert asked.public_key == key
        if key in self.nodes:
            return 412
        self.nodes[key] = 1000 + len(self.nodes)
        return {"node_id": self.nodes[key]}

    def activate_node(self, asked: Any, key: bytes) -> Any:
        node = self.nodes.get(key)
        if node is None or node in self.online or not 10 <= asked.heartbeat_interval <= 1800:
            return 412
        self.online.add(node)
        return {"node_id": node}

    def send_node_heartbeat(self, asked: Any, key: bytes) -> Any:
        self.online.add(asked.node.node_id)
        return {"success": True}

    def pull_messages(self, asked: Any, key: bytes) -> Any:
        waiting = self.waiting.get(asked.node.node_id, [])
        if not waiting:
            return {}
        found = fleet.response(fleet.PULL_MESSAGES, waiting.pop(0))
        trees = list(found.message_object_trees)
        return {"messages_list": list(found.messages_list), "message_object_trees": trees}

    def get_run(self, asked: Any, key: bytes) -> Any:
        return {"run": {"run_id": asked.run_id, "fab_hash": "f" * 64}}

    def get_fab(self, asked: Any, key: bytes) -> Any:
        return {"fab": {"hash_str": asked.hash_str, "content": b"bundle"}}

    def pull_object(self, asked: Any, key: bytes) -> Any:
        content = self.objects.get(asked.object_id)
        if content is None:
            return {"object_found": False}
        return {"object_found": True, "object_available": content != b"", "object_content": content}

    def push_messages(self, asked: Any, key: bytes) -> Any:
        reply = fleet.reply(asked)
        if reply.run not in self.runs:
            return 403
        if reply.message in self.taken:
            return {"session_id": "of no use"}
        self.replies[reply.message] = reply
        session = f"session-{len(self.sessions)}"
        self.sessions[session] = reply.message
        missing = [each for each in reply.objects if not self.objects.get(each)]
        return {"objects_to_push": missing, "session_id": session}

    def push_object(self, asked: Any, key: bytes) -> Any:
        right = hashlib.sha256(asked.object_content).hexdigest() == asked.object_id
        if right and asked.session_id in self.sessions:
            self.objects[asked.object_id] = asked.object_content
            return {"stored": True}
        return {"stored": False}

    def confirm_message_received(self, asked: Any, key: bytes) -> Any:
        return {}

    def ask(self, node: int, text: str, run: int = RUN, ttl: float = 3600) -> str:
        """Lay a message out for a node; return its name."""
        content = text.encode()
        name = hashlib.sha256(content).hexdigest()
        self.objects[name] = content
        said = {"run_id": run, "message_id": name, "dst_node_id": node, "ttl": ttl}
        said |= {"created_at": time.time(), "message_type": "train", "group_id": "1"}
        body = fleet.answering(
            fleet.PULL_MESSAGES,
            messages_list=[{"metadata": said}],
            message_object_trees=[{"object_id": name}],
        )
        self.waiting.setdefault(node, []).append(body)
        return name


class Silo:
    """A silo's side of the line: its certificate, and the calls that a SuperNode makes."""

    def __init__(self, hub: Path, name: str, port: int, chain: Path | None, key: Path | None):
        self.name, self.url, self.node = name, f"https://127.0.0.1:{port}", 0
        self.context = certificates.client_context(hub / "root.pem", chain, key)
        self.client = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self.context))

    async def post(self, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        async with self.client.post(self.url + path, data=body, headers=headers) as back:
            return back.status, await back.read()

    async def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        async with self.client.get(self.url + path, headers=headers) as back:
            return back.status, await back.read()

    async def call(self, path: str, **fields: Any) -> Any:
        """Return the answer to one of Flower's calls, or its status where that is not 200."""
        if path not in (fleet.REGISTER, fleet.ACTIVATE, fleet.DEACTIVATE, fleet.UNREGISTER):
            fields.setdefault("node", {"node_id": self.node})
        status, body = await self.post(path, fleet.asking(path, **fields))
        return fleet.response(path, body) if status == 200 else status

    async def activate(self) -> int:
        await self.call(fleet.REGISTER, public_key=b"thrown away")
        answer = await self.call(fleet.ACTIVATE, public_key=b"thrown away", heartbeat_interval=30)
        self.node = answer if isinstance(answer, int) else answer.node_id
        return self.node

    async def announce(self, reply: Written, **changes: Any) -> Any:
        said = reply.metadata(self.node) | changes
        return await self.call(
            fleet.PUSH_MESSAGES,
            messages_list=[{"metadata": said}],
            message_object_trees=[reply.tree],
        )

    async def bring(self, session: str, content: bytes, name: str = "", run: int = RUN) -> Any:
        name = name or hashlib.sha256(content).hexdigest()
        said = {"object_id": name, "object_content": content, "session_id": session}
        return await self.call(fleet.PUSH_OBJECT, run_id=run, **said)


class Written(NamedTuple):
    """A reply that a silo has to send: its objects by name."""

    answers: str
    objects: dict[str, bytes]
    run: int = RUN

    @property
    def tree(self) -> dict[str, Any]:
        *children, root = self.objects
        return {"object_id": root, "children": [{"object_id": each} for each in children]}

    def metadata(self, node: int) -> dict[str, Any]:
        return {
            "run_id": self.run,
            "message_id": list(self.objects)[-1],
            "src_node_id": node,
            "dst_node_id": 1,
            "reply_to_message_id": self.answers,
        }


class House(NamedTuple):
    """All together."""

    hub: Path
    superlink: Superlink
    gate: gate.Gate
    port: int
    silo: Callable[[str], Silo]
    door: Any

    def links(self) -> list[Any]:
        return [link for link in self.door.links if not link.closed()]


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """Return a hub's folder with certificates and settings; it listens on a free port of loopback."""
    folder = tmp_path / "hub"
    settings = hubs.Hub(
        name="demo", address="127.0.0.1:8443", listen="127.0.0.1:0", superlink_port=1, hold_s=0.4
    )
    authority.create(folder, settings)
    hubs.create(folder, settings)
    return folder


@pytest.fixture
def joined(hub: Path) -> Callable[[str], tuple[Path, Path]]:
    """Return a function that puts a silo on the roster and returns its certificate and key."""

    def join(name: str) -> tuple[Path, Path]:
        chain, key = hub.parent / f"{name}.pem", hub.parent / f"{name}.key"
        if not chain.exists():
            own = certificates.new_key()
            certificates.save_key(key, own)
            kit = roster.invite(hub, name, ("as",), 1.0)
            roster.enrol(hub, kit.token, certificates.request(own, name))
            chain.write_text(roster.approve(hub, name).certificate)
        return chain, key

    return join


@pytest.fixture
def house(hub: Path, joined: Callable[[str], tuple[Path, Path]]) -> Callable[..., Any]:
    """Return a context of a running gateway: ``async with house() as h``; changes are settings of the hub."""

    @contextlib.asynccontextmanager
    async def running(superlink: Superlink | None = None, **changes: Any) -> AsyncIterator[House]:
        settings = hubs.read(hub).model_copy(update=changes)
        async with (
            (superlink or Superlink()).listening() as behind,
            contextlib.AsyncExitStack() as all_,
        ):
            own = await all_.enter_async_context(gate.open_(hub, behind.port))
            own = own._replace(
                settings=settings, spool=own.spool._replace(quota=settings.spool_bytes)
            )
            door, port = await all_.enter_async_context(server.open_(own))

            def silo(name: str) -> Silo:
                found = Silo(hub, name, port, *(joined(name) if name else (None, None)))
                all_.push_async_callback(found.client.close)
                return found

            yield House(hub, behind, own, port, silo, door)

    return running


@pytest.fixture
def reply() -> Callable[..., Written]:
    """Return a maker of replies: ``reply("answers", b"one", b"two")``; the last object is the message itself."""

    def make(answers: str, *contents: bytes, run: int = RUN) -> Written:
        made = (
            *contents,
            b"message:" + answers.encode() + hashlib.sha256(b"".join(contents)).digest(),
        )
        return Written(answers, {hashlib.sha256(each).hexdigest(): each for each in made}, run)

    return make


@pytest.fixture
def silent() -> ssl.SSLContext:
    """Return a client's TLS that trusts nobody and shows nothing."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
