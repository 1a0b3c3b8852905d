"""The programs that a hub or a silo consists of: started in order, started again when they end, stopped together.

One supervisor a folder. Each program leads a process group of its own, which is ended with it. On Linux nothing
outlives the supervisor, whatever ends it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

from fl_client import lock, logs, notice, processes, pulse
from fl_client.config import ConfigError

TICK_S = 0.1


class Child(NamedTuple):
    """One program: its command, what its environment has more than ours, if it started, for how long it was silent.

    Where that cannot be asked, a program beats by itself (see ``pulse``), or is not looked at.
    """

    name: str
    command: list[str]
    env: dict[str, str] = {}
    ready: Callable[[], bool] | None = None
    silence: Callable[[], float] | None = None
    longer_s: float = 0.0  # than others it may be silent


class Pace(NamedTuple):
    """How soon a program starts again, after which life that counts anew, how long it may take to stop or be silent.

    Until it was ready for the first time it may be silent for longer.
    """

    first_s: float = 1.0
    most_s: float = 60.0
    healthy_s: float = 60.0
    stop_s: float = 15.0
    silent_s: float = 120.0
    unready_s: float = 600.0


PACE = Pace()


class Kept:
    """A program under supervision."""

    def __init__(self, child: Child, log: Path, pace: Pace) -> None:
        self.child, self.log, self.delay_s = child, log, pace.first_s
        self.pulse = log.with_suffix(".pulse")
        self.process: subprocess.Popen[bytes] | None = None
        self.mute = False  # its log could not be opened, and that was said
        self.ready = child.ready is None
        self.began = self.due = 0.0


def supervise(
    folder: Path,
    children: Sequence[Child],
    on_event: Callable[[str], None] = notice.say,
    pace: Pace = PACE,
    held: bool = False,
) -> None:
    """Run programs until SIGTERM, SIGINT or SIGHUP, then stop them, the last first.

    Their output goes to ``logs/NAME.log``. Raises ``ConfigError`` where the folder is supervised already, unless
    the caller has ``held`` it since before.
    """
    place = folder / "logs"
    place.mkdir(parents=True, exist_ok=True)
    kept: list[Kept] = []
    ready = False
    with nullcontext() if held else lock.only_one(folder), processes.asked_to_stop() as stop:
        processes.adopt()
        try:
            while not stop:
                if len(kept) < len(children) and all(each.ready for each in kept):
                    child = children[len(kept)]
                    kept.append(Kept(child, place / f"{child.name}.log", pace))
                if any([_look_after(each, on_event, pace) for each in kept]):
                    processes.end_strays({each.process.pid for each in kept if each.process})
                if not ready and len(kept) == len(children) and all(each.ready for each in kept):
                    ready = True
                    notice.tell("READY=1")
                notice.tell("WATCHDOG=1")
                time.sleep(TICK_S)
        finally:
            notice.tell("STOPPING=1")
            for each in reversed(kept):
                _end(each, pace.stop_s)
            processes.end_strays(set())
    on_event("all is stopped")


def _look_after(kept: Kept, on_event: Callable[[str], None], pace: Pace) -> bool:
    """Do what is due for a program; return whether it has just ended."""
    now, name = time.monotonic(), kept.child.name
    if kept.process is None:
        if now >= kept.due:
            _start(kept, on_event, pace)
        return False
    code, lived = kept.process.poll(), now - kept.began
    why = processes.ended(code) if code is not None else _silent(kept, lived, pace)
    if why:
        kept.delay_s = pace.first_s if lived >= pace.healthy_s else kept.delay_s
        on_event(f"{name} {why}; it starts again in {kept.delay_s:g} s; see {kept.log}")
        _end(kept, 0)
        _put_off(kept, pace)
        return True
    if not kept.ready and kept.child.ready is not None and kept.child.ready():
        kept.ready = True
        on_event(f"{name} is ready")
    logs.rotate(kept.log)
    return False


def _silent(kept: Kept, lived: float, pace: Pace) -> str:
    silence = kept.child.silence() if kept.child.silence else pulse.silence(kept.pulse)
    since = min(silence, lived)
    most = (pace.silent_s if kept.ready else pace.unready_s) + kept.child.longer_s
    return f"was silent for {since:.0f} s" if since > most else ""


def _put_off(kept: Kept, pace: Pace) -> None:
    kept.due = time.monotonic() + kept.delay_s
    kept.delay_s = min(2 * kept.delay_s, pace.most_s)


def _start(kept: Kept, on_event: Callable[[str], None], pace: Pace) -> None:
    pulse.forget(kept.pulse)
    try:
        log = kept.log.open("ab")
    except OSError as error:
        if not kept.mute:
            on_event(f"{kept.child.name} waits: {kept.log} cannot be opened: {error.strerror}")
        kept.mute = True
        _put_off(kept, pace)
        return
    with log:
        try:
            kept.process = subprocess.Popen(
                kept.child.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | kept.child.env | {pulse.FILE: str(kept.pulse)},
                start_new_session=True,
                preexec_fn=processes.dies_with(os.getpid()),
            )
        except OSError as error:
            on_event(f"{kept.child.name} cannot start: {error.strerror}: {kept.child.command[0]}")
            _put_off(kept, pace)
            return
    kept.began, kept.mute = time.monotonic(), False
    on_event(f"{kept.child.name} runs (pid {kept.process.pid})")


def _end(kept: Kept, seconds: float) -> None:
    if kept.process is not None:
        processes.end_group(kept.process, seconds)
        kept.process = None


def running(folder: Path) -> int:
    """Return the pid of the supervisor of a folder, 0 where none runs."""
    return lock.holder(folder)


def stop(folder: Path, seconds: float = 120) -> bool:
    """Ask the supervisor of a folder to stop and wait until it has; return whether one ran.

    Raises ``ConfigError`` where it still runs after so many seconds.
    """
    pid = running(folder)
    if not pid:
        return False
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + seconds
    while running(folder) == pid:
        if time.monotonic() > until:
            raise ConfigError(f"{folder} still runs (pid {pid}) after {seconds:g} s; see its logs")
        time.sleep(TICK_S)
    return True
