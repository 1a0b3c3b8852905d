"""Ours and the peers, each run as its users run it, on one place."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.peer import until_there
from benchmarks.speed.measure import BIN, Cost, measured, noted, ran
from benchmarks.speed.place import Place
from fl_client import ports

ROOT = Path(__file__).parents[2]
PEERS = Path(__file__).parent / "peers"
PROJECT = """[project]
name = "peer"
version = "1.0.0"
license = {{ file = "LICENSE" }}
dependencies = ["flwr>=1.41.0"]
[tool.flwr.app]
publisher = "peer"
fab-format-version = 1
flwr-version-target = "1.41.0"
fab-include = ["flower_app.py", "plain.py", "LICENSE"]
[tool.flwr.app.components]
serverapp = "flower_app:server"
clientapp = "flower_app:client"
[tool.flwr.app.config]
{config}
"""
LINK = '[superlink]\ndefault = "sim"\n[superlink.sim]\naddress = "{address}"\ninsecure = true\n'
FLARE = "nvflare==2.9.0"
ROUNDS, SPENT = "rounds.jsonl", "spent.json"
# What importing this project sets, and no peer's users do.
OURS = {"TORCHDYNAMO_DISABLE", "OMP_WAIT_POLICY"}


def bare() -> dict[str, str]:
    """Return the environment of a peer: this one without what is ours."""
    return {name: value for name, value in os.environ.items() if name not in OURS}


def ours(place: Place, processes: int = 0, cohort: int = 0, **changes: object) -> tuple[Cost, Path]:
    """Run ``fl-sim run``, start-up included; return its cost and its run folder."""
    folder = place.own("ours")
    study, out = place.study(**changes), folder / "run"
    command = [str(BIN / "fl-sim"), "run", str(study), "--out", str(out)]
    command += ["--processes", str(processes), "--cohort", str(cohort)]
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    with noted(out / ROUNDS) as seen:
        cost = ran(command, folder, os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"})
    out.with_name(SPENT).write_text(json.dumps(seen))
    return cost, out


def round_s(folder: Path) -> list[float]:
    """Return the seconds of the rounds of a run but the first, which warms up, and the last."""
    lines = [json.loads(line) for line in (folder / ROUNDS).read_text().splitlines()]
    return [line["seconds"] for line in lines[2:-1]]


def round_cpu_s(folder: Path) -> float:
    """Return the processor seconds of the same rounds, their mean; those of all processes, the hub's with them."""
    count = len(round_s(folder))
    seen = json.loads(folder.with_name(SPENT).read_text())
    began, ended = (next(cpu for n, cpu in seen if n >= lines) for lines in (2, 2 + count))
    return float(ended - began) / count


def flower(place: Place, actors: int) -> Cost:
    """Run the same under Flower's simulation on Ray: SuperLink and all, as ``flwr run`` does it, start-up included."""
    folder = place.own("flower")
    told, home = folder / "told.txt", folder / "home"
    home.mkdir()
    for name in ("flower_app.py", "plain.py"):
        shutil.copy(PEERS / name, folder)
    config = place.asked() | {"out": str(told)}
    rows = "".join(f"{key} = {json.dumps(value)}\n" for key, value in config.items())
    (folder / "pyproject.toml").write_text(PROJECT.format(config=rows))
    (folder / "LICENSE").write_text("none")
    port, control = ports.free(), ports.free()
    address = f"127.0.0.1:{port}"
    (home / "config.toml").write_text(LINK.format(address=address))
    environment = bare() | {
        "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_OFFLINE": "1", "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
    }  # fmt: skip
    link = [
        str(BIN / "flower-superlink"), "--insecure", "--simulation", "--isolation", "subprocess",
        "--disable-runtime-dependency-installation", "--host", "127.0.0.1", "--port", str(port),
        "--control-api-address", f"127.0.0.1:{control}",
    ]  # fmt: skip
    options = (
        f"num-supernodes={place.silos} client-resources-num-cpus=1 init-args-num-cpus={actors}"
    )
    command = [str(BIN / "flwr"), "run", str(folder), "sim", "--stream"]
    command += ["--federation-config", options]
    with measured() as found, (folder / "log.txt").open("wb") as log:
        superlink = subprocess.Popen(link, env=environment, stdout=log, stderr=log)
        try:
            until_there(f"http://{address}")
            subprocess.run(command, env=environment, stdout=log, stderr=log)
        finally:
            superlink.terminate()
            superlink.wait(60)
    _heard(folder, place, told)
    return found[0]


def _heard(folder: Path, place: Place, told: Path) -> None:
    said = (folder / "log.txt").read_text(errors="replace")
    heard = said.count(f"Received {place.silos} results and 0 failures")
    if not told.exists() or heard < place.rounds:
        raise SystemExit(f"Flower did not hear all silos in each round:\n{said[-4000:]}")


def ideal(place: Place, threads: int) -> dict[str, list[float]]:
    """Run the one-process ideal in a process of its own; return its seconds by round, and its memory."""
    folder = place.own("ideal")
    asked = json.dumps(place.asked() | {"threads": threads, "out": str(folder / "told.json")})
    cost = ran([sys.executable, str(PEERS / "ideal.py"), asked], folder, bare())
    found: dict[str, list[float]] = json.loads((folder / "told.json").read_text())
    return found | {"peak_bytes": [cost.peak_bytes]}


def nvflare(place: Place, python: Path) -> Cost:
    """Run the same in NVFlare's simulator, a process a client."""
    folder = place.own("nvflare")
    for name in ("nvflare_job.py", "nvflare_client.py", "plain.py"):
        shutil.copy(PEERS / name, folder)
    workspace = folder / "workspace"
    workspace.mkdir()
    asked = json.dumps(place.asked() | {"workspace": str(workspace)})
    own = {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "SPEED": asked}
    environment = bare() | own
    made = "import sys, plain, torch; torch.save(plain.read(plain.load(sys.argv[1])), sys.argv[2])"
    start = [sys.executable, "-c", made, place.base, str(workspace / "start.pt")]
    subprocess.run(start, env=environment, check=True, capture_output=True)
    cost = ran([str(python), "nvflare_job.py"], folder, environment)
    told = [file.read_text().count("a round") for file in workspace.glob("told-*.txt")]
    said = (folder / "log.txt").read_text(errors="replace")
    if told != [place.rounds] * place.silos or "vars excluded" in said:
        raise SystemExit(f"NVFlare trained {told} rounds by client:\n{said[-4000:]}")
    return cost


def flare(cache: Path) -> Path:
    """Return the Python of an environment with NVFlare that sees this one's Torch; make it where there is none."""
    folder = cache / FLARE.replace("==", "-")
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        packages = next(folder.glob("lib/python*/site-packages"))
        subprocess.run([str(python), "-m", "pip", "install", "-q", FLARE], check=True)
        # This environment's packages behind its own: Torch is never installed a second time.
        seen = next(p for p in sys.path if p.endswith("site-packages"))
        (packages / "torch-of-the-benchmark.pth").write_text(seen + "\n")
        (folder / "ready").write_text(time.strftime("%F"))
    return python
