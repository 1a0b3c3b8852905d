"""Jobs and results between the ClientApp and rank 0 of the worker group: safetensors frames over a Unix socket.

A frame is its length, and then the length of a JSON header, the header, and one safetensors blob. One connection is one
job. Nothing that arrives is unpickled; what does not parse is a ``ValueError``. No Torch here.
"""

from __future__ import annotations

import json
import logging
import os
import socket as network
import struct
import time
from pathlib import Path
from typing import Any, get_args

from safetensors import SafetensorError
from safetensors.numpy import load, save

from fl_client import parcels, sockets
from fl_client.config import ConfigError, flat, from_flat
from fl_client.messages import CODES, Fault, Order
from fl_client.parcels import Parcel
from fl_client.site import Place
from fl_client.workers import Job, Kind, Result
from strategies.adapter import Adapter

LOG = logging.getLogger("bhasha_fl.silo")
LENGTH = struct.Struct(">Q")
HEADER = struct.Struct(">I")
LONGEST = 8 * 2**30  # bytes of a frame
LONGEST_HEADER = 16 * 2**20
PIECE = 2**20
STALLED_S = 60.0  # how long rank 0 waits for the next piece of a request
AGAIN = 5  # times that a job is sent again when the group goes away under it


def socket(silo: str | Path) -> Path:
    """Return where the worker group of a silo's folder listens; raises ``ConfigError``."""
    return sockets.path(Path(silo), "group")


def listen(path: Path) -> network.socket:
    """Return a listening socket at a path that only this user may open."""
    path.unlink(missing_ok=True)
    listener = network.socket(network.AF_UNIX, network.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen(16)
    return listener


def call(path: Path, kind: Kind, job: Job, wait_s: float = 300.0) -> Result:
    """Return what the worker group makes of a job; training may take days.

    The group may go away under it, to leave or because a rank died: the same job is then sent again, at most ``AGAIN``
    times, to the group that starts in its place within ``wait_s`` seconds. Raises ``Fault`` or ``ConfigError``.
    """
    content = of_job(kind, job)
    for _ in range(AGAIN + 1):
        with _connected(path, wait_s) as connection:
            try:
                send(connection, content)
                answer = receive(connection)
            except OSError as error:
                LOG.warning("the worker group went away (%s); it is asked again", error)
                continue
            except ValueError as error:
                raise Fault("internal", f"the worker group's answer: {error}") from error
        return result(answer)
    raise Fault("internal", f"the worker group went away {AGAIN + 1} times over one job")


def _connected(path: Path, wait_s: float) -> network.socket:
    until = time.monotonic() + wait_s
    while True:
        connection = network.socket(network.AF_UNIX, network.SOCK_STREAM)
        try:
            connection.connect(str(path))
        except OSError as error:
            connection.close()
            if time.monotonic() >= until:
                raise Fault("internal", f"no worker group at {path}: {error}") from error
            time.sleep(0.1)
        else:
            return connection


def send(connection: network.socket, content: bytes) -> None:
    """Send one frame; raises ``OSError``."""
    connection.sendall(LENGTH.pack(len(content)))
    connection.sendall(content)


def receive(connection: network.socket) -> bytes:
    """Return the content of one frame; raises ``ConnectionError`` if it ends early, ``ValueError`` if too long."""
    (size,) = LENGTH.unpack(_exactly(connection, LENGTH.size))
    if size > LONGEST:
        raise ValueError(f"a frame of {size} bytes is longer than {LONGEST}")
    return _exactly(connection, size)


def _exactly(connection: network.socket, size: int) -> bytes:
    held = bytearray()
    while len(held) < size:
        piece = connection.recv(min(PIECE, size - len(held)))
        if not piece:
            raise ConnectionError("the connection ended inside a frame")
        held += piece
    return bytes(held)


def write(header: dict[str, Any], arrays: Adapter) -> bytes:
    """Return the content of a frame."""
    said = json.dumps(header).encode()
    blob: bytes = save(arrays)
    return HEADER.pack(len(said)) + said + blob


def read(content: bytes) -> tuple[dict[str, Any], Adapter]:
    """Return the header and the arrays of a frame; raises ``ValueError``."""
    if len(content) < HEADER.size:
        raise ValueError("a frame without a header")
    (size,) = HEADER.unpack_from(content)
    end = HEADER.size + size
    if size > LONGEST_HEADER or end > len(content):
        raise ValueError(f"a frame with a header of {size} bytes")
    try:
        header = json.loads(content[HEADER.size : end])
        arrays = load(content[end:])
    except (SafetensorError, RecursionError) as error:
        raise ValueError(f"a frame that does not parse: {type(error).__name__}") from error
    if not isinstance(header, dict):
        raise ValueError("a frame whose header is no table")
    return header, arrays


def of_job(kind: Kind, job: Job) -> bytes:
    """Return a job as the content of a frame."""
    header = {"kind": kind, "study": flat(job.study), "parcel": job.parcel}
    return write(
        header | {"place": job.place._asdict(), "order": job.order._asdict()}, job.received
    )


def job(content: bytes) -> tuple[Kind, Job]:
    """Return the job of a frame; raises ``ValueError``."""
    header, received = read(content)
    try:
        kind, order, place = header["kind"], Order(**header["order"]), Place(**header["place"])
        study, parcel = from_flat(header["study"]), _parcel(header)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a frame that holds no job: {error}") from error
    pairs = [*zip(order, Order(), strict=True), *zip(place, Place(), strict=True)]
    if kind not in get_args(Kind) or any(type(given) is not type(kept) for given, kept in pairs):
        raise ValueError("a frame that holds no job")
    return kind, Job(study, place, order, received, parcel)


def _parcel(header: dict[str, Any]) -> Parcel | None:
    named = header.get("parcel")
    return None if named is None else parcels.parse(str(Parcel(*named)))


def of_result(found: Result) -> bytes:
    """Return a result as the content of a frame."""
    header = {"metrics": found.metrics, "facts": found.facts, "parcel": found.parcel}
    return write(header, found.arrays)


def of_error(error: Fault | ConfigError) -> bytes:
    """Return an error as the content of a frame; it stays on this machine, so that its text may travel."""
    if isinstance(error, Fault):
        said = str(error).removeprefix(CODES[error.code]).removeprefix(": ")
        return write({"fault": error.code, "said": said}, {})
    return write({"refused": str(error)}, {})


def result(content: bytes) -> Result:
    """Return the result of a frame; raises the ``Fault`` or ``ConfigError`` that it holds."""
    try:
        header, arrays = read(content)
    except ValueError as error:
        raise Fault("internal", f"the worker group's answer: {error}") from error
    if "refused" in header:
        raise ConfigError(str(header["refused"]))
    if "fault" in header:
        code = str(header["fault"])
        raise Fault(code if code in CODES else "internal", str(header.get("said", "")))
    return Result(
        arrays, dict(header.get("metrics", {})), dict(header.get("facts", {})), _parcel(header)
    )
