"""A SuperLink of the installed Flower on loopback, a run on it, and a node that signs its own calls."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fl_client import fleet

BIN = Path(sys.executable).parent
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "asking"
version = "1.0.0"
license = {{ file = "LICENSE" }}
dependencies = ["flwr>=1.41.0"]
[tool.flwr.app]
publisher = "test"
fab-format-version = 1
flwr-version-target = "1.41.0"
fab-include = ["LICENSE", "asking.py"]
[tool.flwr.app.components]
serverapp = "asking:app"
clientapp = "asking:client"
[tool.flwr.app.config]
folder = "{folder}"
count = 1
share = 0.5
wise = false
"""
ASKING = '''
import json, pathlib, time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

app = ServerApp()
client = ClientApp()

def tell(folder, name, said):
    (folder / f"{name}.part").write_text(json.dumps(said))
    (folder / f"{name}.part").rename(folder / name.replace("ask", "reply"))

@app.main()
def main(grid, context):
    """Ask what is asked for in the folder, until it says stop; write down what comes back."""
    folder = pathlib.Path(context.run_config["folder"])
    asked = {}
    while not (folder / "stop").exists():
        for path in folder.glob("ask-*"):
            content = RecordDict({"order": ConfigRecord({"text": path.read_text()})})
            message = Message(content, dst_node_id=int(path.name.split("-")[1]), message_type="train")
            (key,) = grid.push_messages([message])
            path.unlink()
            if key:
                asked[key] = path.name
            else:
                tell(folder, path.name, key)
        for reply in [] if (folder / "quiet").exists() else grid.pull_messages(list(asked)):
            name = asked.pop(reply.metadata.reply_to_message_id)
            said = reply.error.code if reply.has_error() else dict(reply.content.config_records["order"])
            tell(folder, name, said)
        time.sleep(0.05)
'''


class Superlink(NamedTuple):
    """A running SuperLink."""

    port: int
    home: Path

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        url = f"http://127.0.0.1:{self.port}{path}"
        return httpx.post(url, content=body, headers=headers, timeout=60)

    def flwr(self, *words: str) -> dict[str, Any]:
        ran = subprocess.run(
            [BIN / "flwr", *words, "--format", "json"],
            env=environment(self.home),
            capture_output=True,
            text=True,
            check=True,
        )
        return dict(json.loads(ran.stdout[ran.stdout.index("{") :]))


class Run(NamedTuple):
    """A run whose ServerApp asks what a test lays into its folder."""

    id: int
    folder: Path
    superlink: Superlink

    def ask(self, node: int, text: str) -> None:
        part = self.folder / "next"
        part.write_text(text)
        part.rename(self.folder / f"ask-{node}")

    def replied(self, node: int, seconds: float = 90) -> Any:
        path = self.folder / f"reply-{node}"
        until(path.exists, seconds)
        said = json.loads(path.read_text())
        path.unlink()
        return said

    def quiet(self, quiet: bool) -> None:
        (self.folder / "quiet").touch() if quiet else (self.folder / "quiet").unlink()

    def stop(self) -> None:
        (self.folder / "stop").touch()


class Node:
    """A node as a SuperNode would be: its own key, each call signed."""

    def __init__(self, superlink: Superlink) -> None:
        self.superlink, self.key, self.id = superlink, ec.generate_private_key(ec.SECP384R1()), 0
        self.public = self.key.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )

    def headers(self, late: float = 0.0) -> dict[str, str]:
        stamp = (datetime.now(UTC) - timedelta(seconds=late)).isoformat()
        signature = self.key.sign(stamp.encode(), ec.ECDSA(hashes.SHA256()))
        return {
            "content-type": fleet.MEDIA,
            "flwr-public-key": base64.b64encode(self.public).decode(),
            "flwr-timestamp": stamp,
            "flwr-signature": base64.b64encode(signature).decode(),
        }

    def call(self, path: str, **fields: Any) -> Any:
        """Return the answer, or the status where it is not 200."""
        if path in (fleet.REGISTER, fleet.ACTIVATE):
            fields.setdefault("public_key", self.public)
        elif path not in (fleet.DEACTIVATE, fleet.UNREGISTER):
            fields.setdefault("node", {"node_id": self.id})
        back = self.superlink.post(path, fleet.asking(path, **fields), self.headers())
        return fleet.response(path, back.content) if back.status_code == 200 else back.status_code

    def activate(self, interval: float = 900) -> Any:
        answer = self.call(fleet.ACTIVATE, heartbeat_interval=interval)
        self.id = answer.node_id if not isinstance(answer, int) else self.id
        return answer

    def pulled(self, seconds: float = 90) -> tuple[fleet.Pulled, Any]:
        """Wait for a message."""
        found: list[Any] = []

        def there() -> bool:
            found[:] = [self.call(fleet.PULL_MESSAGES)]
            return bool(found[0].messages_list)

        until(there, seconds)
        said = fleet.pulled(found[0])
        assert said is not None
        return said, found[0]


def until(true: Any, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.1)


def environment(home: Path) -> dict[str, str]:
    return os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }


@pytest.fixture(scope="session")
def superlink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Superlink]:
    """Return a SuperLink on a free port."""
    home = tmp_path_factory.mktemp("flower")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (home / "config.toml").write_text(
        f'[superlink]\ndefault="here"\n[superlink.here]\naddress="127.0.0.1:{port}"\ninsecure=true\n'
    )
    log = (home / "superlink.log").open("wb")
    process = subprocess.Popen(
        [BIN / "flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port),
         "--disable-runtime-dependency-installation", "--database", str(home / "superlink.db")],
        env=environment(home), stdout=log, stderr=log,
    )  # fmt: skip

    def answers() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    try:
        until(answers, 120)
        yield Superlink(port, home)
    finally:
        process.terminate()
        process.wait(timeout=30)
        log.close()


@pytest.fixture
def run(superlink: Superlink, tmp_path: Path) -> Iterator[Run]:
    """Return a run that asks what a test wants asked."""
    folder, app = tmp_path / "asked", tmp_path / "app"
    folder.mkdir()
    app.mkdir()
    (app / "pyproject.toml").write_text(PROJECT.format(folder=folder))
    (app / "asking.py").write_text(ASKING)
    (app / "LICENSE").write_text("none")
    made = superlink.flwr("run", str(app), "--run-config", "count=2 share=0.25 wise=true")
    assert "run-id" in made, made
    own = Run(int(made["run-id"]), folder, superlink)
    yield own
    own.stop()


@pytest.fixture
def stranger(superlink: Superlink) -> Node:
    """Return a node that the SuperLink does not know."""
    return Node(superlink)


@pytest.fixture
def node(superlink: Superlink) -> Node:
    """Return a registered and active node."""
    own = Node(superlink)
    own.call(fleet.REGISTER)
    own.activate()
    return own
