"""A real federation on this machine, driven by the commands that its people type. For benchmarks and tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from fl_client import ports, site
from fl_client.config import Study
from fl_server import config

BIN = Path(sys.executable).parent
SPLITS = ("train", "valid", "test")


class Place:
    """One machine of a federation: its commands run in its own folder, and through a prefix (a network namespace)."""

    def __init__(self, folder: Path, prefix: tuple[str, ...] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.prefix = folder, prefix
        self.started: list[subprocess.Popen[bytes]] = []
        self.typed: list[str] = []
        self.environment: dict[str, str] = {}  # of what is started, beside our own

    def type(self, command: str, code: int = 0, wait_s: float = 300) -> str:
        """Type a command to its end, which comes within so long, and return what it printed."""
        self.typed.append(command)
        words = command.split()
        ran = subprocess.run(
            [*self.prefix, str(BIN / words[0]), *words[1:]],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=wait_s,
            stdin=subprocess.DEVNULL,
        )
        if ran.returncode != code:
            raise AssertionError(f"{command}: {ran.returncode}\n{ran.stdout}\n{ran.stderr}")
        return ran.stdout + ran.stderr

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Type a command that stays."""
        self.typed.append(command)
        words = command.split()
        log = (self.folder / f"{words[0]}.out").open("ab")
        with log:
            process = subprocess.Popen(
                [*self.prefix, str(BIN / words[0]), *words[1:]],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONUNBUFFERED": "1"} | self.environment,
            )
        self.started.append(process)
        return process

    def reaches(self, address: str) -> bool:
        """Return whether something listens at an address, as seen from here."""
        host, _, port = address.rpartition(":")
        call = f"import socket; socket.create_connection(({host!r}, {port}), 5).close()"
        ran = subprocess.run([*self.prefix, sys.executable, "-c", call], capture_output=True)
        return ran.returncode == 0

    def out(self) -> int:
        """Kill all that was started, at once and with all its children, as a power cut would; return how many."""
        found = [psutil.Process(process.pid) for process in self.started if process.poll() is None]
        found += [child for one in found for child in one.children(recursive=True)]
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for started in self.started:
            started.wait()
        return len(found)

    def stop(self) -> None:
        """End what was started."""
        for process in reversed(self.started):
            process.terminate()
        for process in reversed(self.started):
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Federation:
    """A hub and silos, each with the text of one simulated silo of a study."""

    def __init__(
        self,
        folder: Path,
        study: Study,
        address: str,
        within: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        within = within or {}  # what runs a command on another machine, by silo; "hub" for the hub
        self.study, self.address = study, address
        self.hub = Place(folder / "hub-machine", within.get("hub", ()))
        self.silos: dict[str, Place] = {}
        for own in site.simulated(study):
            self.silos[own.name] = Place(folder / own.name, within.get(own.name, ()))
            rows = [e._asdict() | {"split": split} for split in SPLITS for e in getattr(own, split)]
            text = self.silos[own.name].folder / "text"
            text.mkdir()
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (text / "rows.jsonl").write_text(lines, "utf-8")
        (self.hub.folder / "study.toml").write_text(config.toml(study))

    def begin(self, listen: str = "") -> None:
        """Make the hub and start it, behind its public address where it listens elsewhere."""
        self.hub.type(f"fl-server init hub --name demo --address {self.address}")
        if listen:
            edit(self.hub.folder / "hub" / "hub.toml", listen=f'"{listen}"')
        self.hub.start("fl-server start")
        self.until(lambda: self.hub.reaches(listen or self.address), "the hub to listen")

    def join(self, name: str, **settings: str) -> None:
        """Invite a silo, join it, approve it and start it."""
        kit = self.silos[name].folder / "kit.zip"
        languages = name.split("-")[0]
        self.hub.type(f"fl-server invite {name} --languages {languages} --out {kit}")
        base = self.study.model.base
        self.silos[name].type(f"fl-client join kit.zip --data text --base {base}")
        self.hub.type(f"fl-server approve {name} --yes")
        edit(self.silos[name].folder / "silo" / "silo.toml", **settings)
        self.silos[name].start("fl-client start")

    def status(self) -> dict[str, Any]:
        """Return what ``fl-server status`` says."""
        found: dict[str, Any] = json.loads(self.hub.type("fl-server status --json"))
        return found

    def run(self) -> None:
        """Queue the study."""
        self.hub.type("fl-server run study.toml")

    def standing(self) -> dict[str, Any]:
        """Return how the study stands."""
        (found,) = (row for row in self.status()["studies"] if row["name"] == self.study.name)
        return dict(found)

    def finished(self, seconds: float = 300) -> dict[str, Any]:
        """Wait for the study's end and return its report."""
        self.until(lambda: self.standing()["state"] in {"finished", "failed"}, "the end", seconds)
        if self.standing()["state"] != "finished":
            raise AssertionError(self.logs())
        path = self.hub.folder / "hub" / "runs" / self.study.name / "report.json"
        report: dict[str, Any] = json.loads(path.read_text())
        return report

    def until(self, true: Callable[[], Any], what: str, seconds: float = 120) -> None:
        """Wait until something holds."""
        ends = time.monotonic() + seconds
        while not true():
            if time.monotonic() > ends:
                raise AssertionError(f"waited in vain for {what}\n{self.logs()}")
            time.sleep(0.5)

    def logs(self) -> str:
        """Return the end of every log."""
        places = [self.hub, *self.silos.values()]
        found = [p for place in places for p in sorted(place.folder.rglob("*"))]
        kept = [
            p
            for p in found
            if p.is_file() and (p.suffix in {".log", ".out"} or p.name == "log.txt")
        ]
        return "\n".join(f"== {p}\n{p.read_text(errors='replace')[-3000:]}" for p in kept)

    def end(self) -> None:
        """Stop everything."""
        for place in (*self.silos.values(), self.hub):
            place.stop()


def free_address() -> str:
    """Return an address of loopback that nobody uses."""
    return f"127.0.0.1:{ports.free()}"


def edit(path: Path, **settings: str) -> None:
    """Change lines of a settings file, as people would in an editor."""
    lines = path.read_text().splitlines()
    for key, value in settings.items():
        lines = [f"{key} = {value}" if line.startswith(f"{key} =") else line for line in lines]
    path.write_text("\n".join(lines) + "\n")
