"""Flower alone, as it comes: a SuperLink and a SuperNode on loopback, and an app whose replies are large arrays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from fl_client import ports

BIN = Path(sys.executable).parent
PROJECT = """[project]
name = "peer"
version = "1.0.0"
license = { file = "LICENSE" }
dependencies = ["flwr>=1.41.0"]
[tool.flwr.app]
publisher = "peer"
fab-format-version = 1
flwr-version-target = "1.41.0"
fab-include = ["peer_app.py", "LICENSE"]
[tool.flwr.app.components]
serverapp = "peer_app:server"
clientapp = "peer_app:client"
[tool.flwr.app.config]
size = 1
rounds = 1
out = ""
"""
APP = """
import json, time
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()


@client.train()
def train(message, context):
    arrays = ArrayRecord({"x": Array(np.random.default_rng(0).integers(0, 255, context.run_config["size"], np.uint8))})
    said = {"arrays": arrays, "at": MetricRecord({"ended": time.time()})}
    return Message(RecordDict(said), reply_to=message)


@server.main()
def main(grid, context):
    config, took = context.run_config, []
    while not list(grid.get_node_ids()):
        time.sleep(0.5)
    for _ in range(config["rounds"]):
        node = list(grid.get_node_ids())[0]
        asked = Message(RecordDict({"x": ConfigRecord({"x": 1})}), dst_node_id=node, message_type="train")
        (reply,) = grid.send_and_receive([asked], timeout=900)
        if reply.has_error():
            raise RuntimeError(reply.error.reason)
        assert reply.content["arrays"]["x"].numpy().nbytes == config["size"]
        took.append(time.time() - reply.content["at"]["ended"])
    open(config["out"], "w").write(json.dumps(took))
"""


def seconds(size: int, rounds: int = 4) -> list[float]:
    """Return the seconds from the making of each large reply to the ServerApp's hands, without the first."""
    with tempfile.TemporaryDirectory(prefix="peer-") as place:
        folder = Path(place)
        app, told = folder / "app", folder / "told.json"
        app.mkdir()
        (app / "pyproject.toml").write_text(PROJECT)
        (app / "peer_app.py").write_text(APP)
        (app / "LICENSE").write_text("none")
        with flower(folder) as environment:
            config = f"size={size} rounds={rounds} out='{told}'"
            command = [str(BIN / "flwr"), "run", str(app), "peer", "--run-config", config]
            ran = subprocess.run(command, env=environment, capture_output=True, text=True)
            if ran.returncode:
                raise RuntimeError(f"flwr run: {ran.stdout}{ran.stderr}")
            ends = time.monotonic() + 1500
            while not told.exists():
                if time.monotonic() > ends:
                    raise TimeoutError(f"Flower did not finish {rounds} rounds of {size} bytes")
                time.sleep(0.5)
            time.sleep(0.5)
            found: list[float] = json.loads(told.read_text())
    return found[1:]


@contextmanager
def flower(folder: Path) -> Iterator[dict[str, str]]:
    """Run a SuperLink with its database and a SuperNode as Flower's documents say; give the environment."""
    port = ports.free()
    home = folder / "home"
    home.mkdir()
    address = f"127.0.0.1:{port}"
    told = (
        f'[superlink]\ndefault = "peer"\n[superlink.peer]\naddress = "{address}"\ninsecure = true\n'
    )
    (home / "config.toml").write_text(told)
    own = {"FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    environment = os.environ | own | {"PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"}
    link = [
        str(BIN / "flower-superlink"), "--insecure", "--host", "127.0.0.1", "--port", str(port),
        "--disable-runtime-dependency-installation", "--database", str(folder / "link.db"),
    ]  # fmt: skip
    node = [
        str(BIN / "flower-supernode"), "--insecure", "--superlink", address,
        "--host", "127.0.0.1", "--port", str(ports.free()),
    ]  # fmt: skip
    running = []
    with (folder / "flower.log").open("wb") as log:
        try:
            for command in (link, node):
                running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
                until_there(f"http://{address}")
            yield environment
        finally:
            for process in reversed(running):
                process.terminate()
            for process in running:
                process.wait(30)


def until_there(url: str) -> None:
    """Wait until a SuperLink answers; raises ``TimeoutError``."""
    for _ in range(240):
        try:
            httpx.get(url, timeout=1)
            return
        except httpx.HTTPError:
            time.sleep(0.25)
    raise TimeoutError("Flower's SuperLink did not start")
