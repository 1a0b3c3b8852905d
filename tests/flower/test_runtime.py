"""The same apps under ``flwr run``: Flower's own simulation runtime, on Ray."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fl_client.config import Study, flat

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
CONNECTION = """
[superlink]
default = "sim"
[superlink.sim]
address = "127.0.0.1:{port}"
insecure = true
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for(port: int) -> None:
    for _ in range(300):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    raise TimeoutError("the SuperLink did not start")


@pytest.mark.superlink
def test_flower_runs_a_study_to_the_same_bits_as_the_local_grid(small, simulate, tmp_path):
    study = small(tmp_path / "local", simulation__silos=2)
    report = simulate(study)
    port, control = free_ports(2)
    home = tmp_path / "flower"
    home.mkdir()
    (home / "config.toml").write_text(CONNECTION.format(port=port))
    environment = os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    given = flat(study) | {"home": str(tmp_path / "ray")}
    usual = flat(Study())
    changed = {key: value for key, value in given.items() if value != usual[key]}
    overrides = " ".join(f"{key}={json.dumps(value)}" for key, value in changed.items())
    superlink = subprocess.Popen(
        [BIN / "flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess",
         "--disable-runtime-dependency-installation", "--host", "127.0.0.1", "--port", str(port),
         "--control-api-address", f"127.0.0.1:{control}"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(port)
        ran = subprocess.run(
            [BIN / "flwr", "run", str(ROOT), "sim", "--stream", "--run-config", overrides],
            env=environment, capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
    finally:
        superlink.terminate()
        superlink.wait(timeout=30)
    made = tmp_path / "ray" / "report.json"
    assert made.exists(), ran.stdout[-3000:] + ran.stderr[-3000:]
    assert json.loads(made.read_text())["adapter_sha256"] == report["adapter_sha256"]
