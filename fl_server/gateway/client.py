"""The hub gateway as this machine's own programs see it, over its Unix socket: ``local`` answers."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from fl_client import sockets
from fl_client.config import ConfigError
from fl_server import hub as hubs

ANSWER_S = 30.0  # how long it may take for anything
AGAIN_S = 0.5  # between two tries while it is started again
REMEDY = "see logs/gateway.log in the hub's folder"


class Heard(NamedTuple):
    """How much of a gateway's news were heard: of which process of it, and how many. Another one counts anew."""

    process: str = ""
    rings: int = 0


class Away(ConfigError):
    """The hub gateway does not answer."""


class Gateway:
    """The calls of the hub's own programs; each raises ``Away`` where there is no answer.

    A call is tried again for ``patience_s``: a gateway that ended is started again. ``news`` is asked once.
    """

    def __init__(self, hub: Path, patience_s: float = 0.0) -> None:
        self._socket, self._patience_s = hubs.socket(hub), patience_s
        # No connection outlives its call: one from before the gateway started anew would be of no use.
        transport = httpx.HTTPTransport(
            uds=str(self._socket), limits=httpx.Limits(max_keepalive_connections=0)
        )
        self._http = httpx.Client(transport=transport, base_url="http://gateway")

    def status(self) -> dict[str, dict[str, Any]]:
        """Return what is known of each silo, by name."""
        found: dict[str, dict[str, Any]] = self._ask("GET", "/status")["silos"]
        return found

    def register(self, run: int, envelope: bytes) -> None:
        """Let silos fetch the signed study of a Flower run."""
        self._ask("POST", "/runs", {"run": run, "envelope": base64.b64encode(envelope).decode()})

    def kick(self) -> None:
        """Say that there are messages to fetch."""
        self._ask("POST", "/kick")

    def news(self, heard: Heard, seconds: float) -> tuple[Heard, list[str]]:
        """Return what was heard now, and the messages answered since: of a process that is another one, all it knows.

        As soon as there is more than was ``heard``, or after so many seconds.
        """
        try:
            said = self._call("GET", f"/ready?process={heard.process}&since={heard.rings}", seconds)
        except httpx.TimeoutException:
            return heard, []
        return Heard(str(said["process"]), int(said["count"])), list(said["answered"])

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        until = time.monotonic() + self._patience_s
        while True:
            try:
                return self._call(method, path, ANSWER_S, body)
            except (Away, httpx.TimeoutException) as error:
                if time.monotonic() > until:
                    late = Away(f"the hub gateway takes longer than {ANSWER_S:g} s; {REMEDY}")
                    raise (error if isinstance(error, Away) else late) from None
            time.sleep(AGAIN_S)

    def _call(
        self, method: str, path: str, seconds: float, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return what is answered; raises ``Away``, and ``httpx.TimeoutException`` where that takes longer."""
        if not sockets.alive(self._socket):  # httpx would leave a socket open that is refused
            raise Away(f"the hub gateway does not run; {REMEDY}")
        try:
            answer = self._http.request(method, path, json=body, timeout=seconds)
            return dict(answer.raise_for_status().json())
        except httpx.TimeoutException:
            raise
        except httpx.HTTPError as error:
            raise Away(f"the hub gateway hangs up ({type(error).__name__}); {REMEDY}") from None
