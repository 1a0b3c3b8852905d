"""The hub gateway as this machine's own programs see it, over its Unix socket: ``local`` answers."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

import httpx

from fl_client.config import ConfigError
from fl_server import hub as hubs

ANSWER_S = 30.0  # how long it may take for anything
AGAIN_S = 0.5  # between two tries while it is started again


class Away(ConfigError):
    """The hub gateway does not answer."""


class Gateway:
    """The calls of the hub's own programs; each raises ``Away`` where there is no answer.

    A call is tried again for ``patience_s``: a gateway that ended is started again. ``news`` is asked once.
    """

    def __init__(self, hub: Path, patience_s: float = 0.0) -> None:
        self._patience_s = patience_s
        # No connection outlives its call: one from before the gateway started anew would be of no use.
        transport = httpx.HTTPTransport(
            uds=str(hubs.socket(hub)), limits=httpx.Limits(max_keepalive_connections=0)
        )
        self._http = httpx.Client(transport=transport, base_url="http://gateway", timeout=ANSWER_S)

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

    def news(self, since: int, seconds: float) -> tuple[int, list[str]]:
        """Return the count of what has come in, and the messages answered since it was ``since``.

        As soon as there is more than that, or after so many seconds.
        """
        try:
            answer = self._http.get("/ready", params={"since": since}, timeout=seconds)
            said = answer.raise_for_status().json()
        except httpx.ReadTimeout:
            return since, []
        except httpx.HTTPError as error:
            raise Away(f"the hub gateway does not answer: {type(error).__name__}") from None
        return int(said["count"]), list(said["answered"])

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        until = time.monotonic() + self._patience_s
        while True:
            try:
                answer = self._http.request(method, path, json=body).raise_for_status()
                return dict(answer.json())
            except httpx.HTTPError as error:
                if time.monotonic() > until:
                    why = f"{type(error).__name__} at {path}"
                    raise Away(
                        f"the hub gateway does not answer ({why}); see logs/gateway.log in the hub's folder"
                    ) from None
            time.sleep(AGAIN_S)
