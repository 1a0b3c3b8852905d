"""What a silo says to its hub directly, beside Flower: who it is, how fast its line is, what time it is there.

What goes wrong is told apart: no way to the hub, a hub that does not prove itself, one that does not let this silo in.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from fl_client import audit, certificates, greeting, silo
from fl_client.config import ConfigError
from fl_client.silo import Folder

CONNECT_S, ANSWER_S = 10.0, 60.0
PIECE = 1 << 20  # what the hub takes in one body
EXPIRED = {9: "is not valid yet", 10: "has expired"}  # X509_V_ERR_*: what a wrong clock looks like


class Unreachable(ConfigError):
    """There is no way to the hub now; later there may be one."""


class Unproven(ConfigError):
    """Whoever answers does not prove that it is this federation's hub."""


class Excluded(ConfigError):
    """The hub does not let this silo in."""


def hello(folder: Path, facts: dict[str, Any]) -> None:
    """Tell the hub what this silo is; ``machine.greeting`` makes the facts. Raises ``ConfigError``.

    Where they do not say it, what ``silo.toml`` and the doctor's count of the text say is added.
    """
    said = greeting.whole(folder, facts)
    with _line(folder) as line:
        line.post("/v1/silo/hello", json=said).raise_for_status()


def probe(folder: Path, size: int) -> float:
    """Return the bytes a second of this silo's way to the hub, by sending ``size`` zeros. Raises ``ConfigError``."""
    with _line(folder) as line:
        _ask(line)  # the handshake is not part of the measure
        pause = min(_timed(lambda: _ask(line)) for _ in range(3))
        sizes = [PIECE] * (size // PIECE) + [size % PIECE] * bool(size % PIECE)
        took = sum(_timed(lambda n=each: _send(line, n)) for each in sizes)
    return size / max(took - pause * len(sizes), 1e-6)


def clock(folder: Path, patience_s: float = ANSWER_S) -> float:
    """Return by how many seconds this machine's clock is ahead of the hub's. Raises ``ConfigError``.

    ``Unreachable`` also where the hub takes longer than ``patience_s`` for anything.
    """
    with _line(folder, patience_s) as line:
        _ask(line)
        before = time.time()
        there = _ask(line)
        return (before + time.time()) / 2 - there


def _ask(line: httpx.Client) -> float:
    return float(line.get("/v1/silo/time").raise_for_status().json()["time"])


def _send(line: httpx.Client, size: int) -> None:
    line.post("/v1/silo/probe", content=bytes(size)).raise_for_status()


def _timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@contextmanager
def _line(folder: Path, patience_s: float = ANSWER_S) -> Iterator[httpx.Client]:
    settings, at = silo.read(folder), Folder(folder)
    if not at.certificate.exists():
        raise Excluded(
            f"there is no {at.certificate}, so the hub does not know this silo; "
            "wait until the coordinator has approved it, then `fl-client start` fetches it"
        )
    with _open(settings.address, at, known=True, patience_s=patience_s) as line:
        try:
            yield line
        except httpx.HTTPStatusError as error:
            raise _refused(settings.address, error.response.status_code) from None
        except (httpx.RemoteProtocolError, httpx.ReadError) as error:
            if _turned_down(settings.address, at):
                raise Excluded(
                    f"the hub at {settings.address} hangs up as soon as it sees this silo's certificate; "
                    "check its dates, then ask the coordinator for a new kit"
                ) from None
            raise _broken(settings.address, error) from None
        except httpx.TransportError as error:
            raise _broken(settings.address, error) from None
        except (ValueError, KeyError, TypeError):
            raise Unproven(
                f"what answers at {settings.address} speaks otherwise than a hub; check address in silo.toml"
            ) from None


def _open(address: str, at: Folder, known: bool, patience_s: float = ANSWER_S) -> httpx.Client:
    """Return a line to the hub, with this silo's certificate or as a stranger; nothing is sent yet."""
    pair = (at.certificate, at.key) if known else (None, None)
    return httpx.Client(
        verify=certificates.client_context(at.root, *pair),
        base_url=f"https://{address}",
        timeout=httpx.Timeout(patience_s, connect=min(patience_s, CONNECT_S)),
        trust_env=False,  # no proxy: the hub must see this very connection's certificate
        event_hooks={"request": [lambda request: _note(at.path, request)]},
    )


def _note(folder: Path, request: httpx.Request) -> None:
    """Write what leaves into the silo's record, before it does."""
    audit.append(folder, audit.entry(request.url.path, request.content))


def _turned_down(address: str, at: Folder) -> bool:
    """Return whether the hub answers strangers but hangs up on this silo, as it does in the handshake."""
    heard = []
    for known in (False, True):
        with _open(address, at, known) as line:
            try:
                line.get("/v1/silo/time")
                heard.append(known)
            except httpx.TransportError:
                continue
    return heard == [False]


def _refused(address: str, status: int) -> ConfigError:
    if status == 403:
        return Excluded(
            f"the hub at {address} does not let this silo in: it is ejected, or holds another certificate "
            "than the roster; ask the coordinator"
        )
    if status == 404:
        return Unproven(
            f"what answers at {address} does not know a hub's paths; check address in silo.toml"
        )
    return Unreachable(f"the hub at {address} answered {status}; try again later")


def _broken(address: str, error: httpx.TransportError) -> ConfigError:
    found = _cause(error)
    if isinstance(found, ssl.SSLCertVerificationError):
        if found.verify_code in EXPIRED:
            now = datetime.now(UTC).isoformat(timespec="minutes")
            why = f"its certificate {EXPIRED[found.verify_code]}, by this machine's clock ({now})"
            return Unproven(f"the hub at {address} cannot be trusted: {why}; check the clock first")
        return Unproven(
            f"what answers at {address} does not prove that it is this federation's hub "
            f"({found.verify_message}); check address in silo.toml, then ask the coordinator"
        )
    if isinstance(found, ssl.SSLError):
        return Unproven(f"what answers at {address} speaks no TLS 1.3; check address in silo.toml")
    why = getattr(found, "strerror", None) or type(error).__name__
    return Unreachable(
        f"the hub at {address} cannot be reached ({why}); check this machine's network and firewall, "
        "then ask the coordinator whether the hub runs"
    )


def _cause(error: BaseException) -> BaseException:
    """Return the innermost error of TLS or the network that led to this one."""
    found, now = error, error.__cause__ or error.__context__
    while now is not None:
        found = now if isinstance(now, OSError) else found
        now = now.__cause__ or now.__context__
    return found
