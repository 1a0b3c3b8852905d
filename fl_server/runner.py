"""Runs the queued studies of a hub one after another: ``python -m fl_server.runner HUB --superlink PORT``.

A Flower run is disposable, a study is not: where a run ends before its study did, another one takes the study up
from its last committed round. None is begun while the disk is nearly full.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from fl_client import bundle, pulse, signed
from fl_client.config import ConfigError, Study
from fl_client.memory import write_whole
from fl_client.settings import toml_value
from fl_server import claims, hub, journal, queue, room
from fl_server.queue import Ticket

LOG = logging.getLogger("bhasha_fl.hub")
ATTEMPTS = 5  # Flower runs that one study may use up without a round
START_S = 120.0  # how long Flower may take to start the rounds
FLWR_S = 60.0  # how long its command line may take
LOOK_S = 0.5
FLWR = Path(sys.executable).parent / "flwr"
CONNECTION = """[superlink]
default = "hub"
[superlink.hub]
address = "127.0.0.1:{port}"
insecure = true
"""


def main(
    folder: Annotated[Path, typer.Argument(help="The hub's folder.")],
    superlink: Annotated[int, typer.Option(help="The port of the SuperLink on loopback.")],
) -> None:
    """Run queued studies until stopped."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    app = prepare(folder, superlink)
    while True:
        pulse.beat()
        step(folder, app)
        time.sleep(LOOK_S)


def prepare(folder: Path, port: int) -> Path:
    """Write what Flower's command line needs; return the folder of the app."""
    home = folder / "flower"
    home.mkdir(exist_ok=True)
    write_whole(home / "config.toml", CONNECTION.format(port=port).encode())
    return bundle.write(folder / "bundle")


def step(folder: Path, app: Path) -> None:
    """Bring the first study of the queue that has not ended one step on; one that cannot run holds nobody up."""
    due = [ticket for ticket in queue.tickets(folder) if ticket.state not in queue.ENDED]
    for ticket in due[:1]:
        try:
            advance(folder, app, ticket)
        except ConfigError as error:
            queue.move(folder, ticket.name, "failed", {"queued", "running"}, error=str(error))


def advance(folder: Path, app: Path, ticket: Ticket) -> None:
    """Bring a study one step on."""
    name = ticket.name
    if ticket.state == "stopping":
        stop(folder, ticket)
    elif not claims.held(folder, name) and not room.fits(folder):
        with suppress(OSError):  # what only shows may not fit either
            queue.note(folder, name, error=room.WAITS)
    elif not claims.held(folder, name):
        done = max(journal.committed(folder / "runs" / name / "journal"), default=-1)
        if done > ticket.round:  # each run may fail, as long as the study gets on
            ticket = ticket.model_copy(update={"attempts": 0, "round": done})
        if ticket.attempts >= ATTEMPTS:
            why = f"{ATTEMPTS} runs ended early; {ticket.error or 'see its log'}"
            queue.move(folder, name, "failed", {"queued", "running"}, error=why)
        else:
            start(folder, app, ticket)


def stop(folder: Path, ticket: Ticket) -> None:
    """Stop the newest run of a study, also where its rounds have not begun yet."""
    name = ticket.name
    if ticket.run:
        flwr(folder, "stop", ticket.run)
    _wait(lambda: not claims.held(folder, name), START_S)
    if not claims.held(folder, name):
        queue.move(folder, name, "stopped", {"stopping"})
        LOG.info("%s is stopped", name)


def start(folder: Path, app: Path, ticket: Ticket) -> None:
    """Start a Flower run for a study and wait until its rounds have begun; they may have ended by then."""
    name, study = ticket.name, queue.study_of(folder, ticket.name)
    here = queue.folder(folder, name)
    write_whole(here / "signed.json", sign(folder, study, ticket.silos))
    write_whole(here / "run.toml", run_config(study).encode())
    began = {"attempts": ticket.attempts + 1, "round": ticket.round}
    if queue.move(folder, name, "running", {"queued", "running"}, **began).state != "running":
        return  # it was stopped meanwhile
    before = claims.count(folder, name)
    made = flwr(folder, "run", str(app), "hub", "--run-config", str(here / "run.toml"))
    if not made.get("success"):  # the SuperLink may be starting anew: no run, and no attempt
        why = str(made.get("error-message", "Flower refused"))
        queue.note(folder, name, attempts=ticket.attempts, error=why)
        return
    queue.change(folder, name, lambda held: _numbered(held, ticket.run, str(made["run-id"])))
    LOG.info("%s runs as Flower's run %s", name, made["run-id"])
    _wait(lambda: claims.count(folder, name) != before, START_S)


def _numbered(held: Ticket, before: str, run: str) -> Ticket:
    """Return the ticket with the number of its newest run; one whose rounds have begun meanwhile has noted its own."""
    return held.model_copy(update={"run": run if held.run == before else held.run, "error": ""})


def sign(folder: Path, study: Study, silos: tuple[str, ...]) -> bytes:
    """Return the study as silos accept it: signed by this hub, with the bundle that runs it."""
    key = signed.load(folder / "study.key")
    return signed.sign(key, hub.read(folder).name, study, bundle.sha256(), silos)


def run_config(study: Study) -> str:
    """Return every key of a study as the flat TOML in which Flower takes a run's configuration."""
    return "".join(f'"{key}" = {toml_value(v)}\n' for key, v in signed.carried(study).items())


def flwr(folder: Path, *arguments: str) -> dict[str, Any]:
    """Return what Flower's own command line answers, as JSON."""
    command = [str(FLWR), *arguments, "--format", "json"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=FLWR_S)
        return dict(json.loads(ran.stdout[ran.stdout.index("{") :]))
    except subprocess.TimeoutExpired:
        LOG.error("flwr %s gave no answer in %g s", arguments[0], FLWR_S)
        return {"error-message": f"flwr {arguments[0]} gave no answer in {FLWR_S:g} s"}
    except ValueError:
        LOG.error("flwr %s: %s", arguments[0], (ran.stderr or ran.stdout).strip())
        return {"error-message": f"flwr {arguments[0]} failed; see the log"}


def _wait(until: Any, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while not until() and time.monotonic() < ends:
        pulse.beat()
        time.sleep(LOOK_S)


if __name__ == "__main__":
    try:
        typer.run(main)
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from None
