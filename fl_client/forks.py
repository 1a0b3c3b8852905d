"""A resident ``flwr-clientapp``: ``python -m fl_client.forks SILO_FOLDER``.

Flower starts a new process for each message and looks for it by name in PATH. There it finds a shim that hands over to
this server, which has imported everything once and forks: 1.7 s less a message.

What runs is in memory before Flower puts the bundle's folder in front of the import path. That folder is put there
here, whole, holds nothing that could be imported, and is looked at before each task: where anything else lies there,
no task is started.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import logging
import os
import shlex
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import NoReturn

from fl_client import bundle, processes, pulse, shim, sockets
from fl_client.config import ConfigError
from fl_client.memory import write_whole

LOG = logging.getLogger("bhasha_fl.forks")
NAME = "flwr-clientapp"
PACKAGES = ("fl_client.app", "fl_client.frames")  # what a task needs; no Torch
LONGEST = 1 << 16  # bytes of all arguments
REAP_S, READ_S = 1.0, 5.0
Run = Callable[[], object]


def path(folder: Path) -> Path:
    """Return where the server of a silo's folder listens; raises ``ConfigError``."""
    return sockets.path(folder, "forks")


def home(folder: Path) -> Path:
    """Return the folder in which Flower's part of this silo keeps its own files."""
    return folder / "flower"


def programs(folder: Path) -> Path:
    """Write the programs that Flower starts by name, and return their folder: it is the SuperNode's whole PATH."""
    place = folder / "bin"
    place.mkdir(mode=0o700, exist_ok=True)
    python = [sys.executable, "-IS", shim.__file__, str(path(folder))]
    superexec = [str(Path(sys.executable).parent / "flower-superexec")]
    for name, command in ((NAME, python), ("flower-superexec", superexec)):
        write_whole(place / name, f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n'.encode())
        (place / name).chmod(0o700)
    return place


def load() -> Run:
    """Import all that a task needs and return Flower's own program; raises ``ConfigError``."""
    found = metadata.entry_points(group="console_scripts", name=NAME)
    own = [entry for entry in found if entry.dist is not None and entry.dist.name == "flwr"]
    if not own:
        raise ConfigError(f"Flower's {NAME} is not installed; install bhasha-fl anew")
    for package in PACKAGES:
        importlib.import_module(package)
    run: Run = own[0].load()
    return run


def trouble(folder: Path) -> str:
    """Return what forbids to start a task, '' if nothing does. The bundle is put in its place where it is not yet."""
    try:
        bundle.unpack(home(folder))
        planted = bundle.planted(home(folder))
    except OSError as error:
        return f"the app's folder cannot be used: {error}"
    if planted is None:
        return ""
    return f"{planted} is not what this installation put there; look at it, then remove it"


def serve(folder: Path, run: Run) -> NoReturn:
    """Start tasks until this process is ended."""
    place = path(folder)
    place.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        place.chmod(0o600)
        listener.listen(16)
        listener.settimeout(REAP_S)
        while True:
            _reap()
            pulse.beat()
            with suppress(TimeoutError):
                line, _ = listener.accept()
                with line:
                    _answer(folder, run, (line, listener))


def _answer(folder: Path, run: Run, held: tuple[socket.socket, socket.socket]) -> None:
    line, _ = held
    try:
        arguments = _read(line)
        if not arguments:
            return  # someone who only looks whether this runs
        why = trouble(folder)
        if why:
            LOG.error("no task is started: %s", why)
        elif _fork(run, arguments, held):
            line.sendall(shim.STARTED)
    except (OSError, ValueError) as error:
        LOG.error("no task is started: %s", error)


def _read(line: socket.socket) -> list[str]:
    line.settimeout(READ_S)
    held = b""
    while part := line.recv(LONGEST):
        held += part
        if len(held) > LONGEST:
            raise ValueError(f"more than {LONGEST} bytes of arguments")
    return held.decode().split("\0") if held else []


def _fork(run: Run, arguments: list[str], held: tuple[socket.socket, socket.socket]) -> int:
    server = os.getpid()
    pid = os.fork()
    if pid:
        LOG.info("a task runs (pid %d)", pid)
        return pid
    code = 1
    try:
        processes.dies_with(server)()
        for each in held:
            each.close()
        sys.argv = [NAME, *arguments]
        code = _outcome(run)
    finally:  # whatever happens, a copy of the server never goes on as one
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _outcome(run: Run) -> int:
    try:
        run()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # its words stay in this silo's log
        traceback.print_exc()
        return 1
    return 0


def _reap() -> None:
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            code = os.waitstatus_to_exitcode(status)
            LOG.log(logging.WARNING if code else logging.INFO, "task %d ended (%d)", pid, code)


def _speak() -> None:
    # Only our own words: a handler for all would repeat Flower's, and the calls of its HTTP client.
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    own = logging.getLogger("bhasha_fl")
    own.setLevel(logging.INFO)
    own.addHandler(handler)


def main() -> int:
    """Run, and return the exit code: 2 where it cannot start as things are."""
    parser = argparse.ArgumentParser(prog="python -m fl_client.forks")
    parser.add_argument("silo", type=Path, help="the silo's folder")
    folder: Path = parser.parse_args().silo.absolute()
    _speak()
    os.environ["FLWR_HOME"] = str(home(folder))
    try:
        run = load()
        programs(folder)
        why = trouble(folder)
        if why:
            LOG.error("no task will be started: %s", why)
        gc.freeze()  # what tasks only read stays shared with them
        serve(folder, run)
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
