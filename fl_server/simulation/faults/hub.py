"""A hub's machine: its gateway, Flower's SuperLink, and the rounds, which die by themselves or all together.

To the rounds it answers as the gateway's socket does: the way there is the real ``federation``.
"""

from __future__ import annotations

from typing import Any

from fl_client.parcels import Parcel
from fl_server.gateway import seen
from fl_server.gateway.client import Away, Heard
from fl_server.simulation.faults.disk import Disk, Killed
from fl_server.simulation.faults.gateway import Anew, Call, Gateway, Over
from fl_server.simulation.faults.network import Network
from fl_server.simulation.faults.superlink import Superlink

BACK_S = 15.0  # after which what died is started again
PATIENCE_S = 300.0  # how long the rounds wait for a gateway


class Hub:
    """One machine. ``acknowledged`` are the updates that silos were told are here; ``gone`` those that were not."""

    def __init__(self, disk: Disk, network: Network, superlink: Superlink) -> None:
        self.disk, self._network, self.superlink = disk, network, superlink
        self._gateway: Gateway | None = None
        self._starts = 0
        self.acknowledged: set[tuple[str, Parcel]] = set()
        self.gone: list[str] = []

    @property
    def up(self) -> bool:
        """Whether the gateway answers."""
        return self._gateway is not None

    def start(self) -> None:
        """Start the gateway on what is on its disk."""
        self._starts += 1
        self._gateway = Gateway(self.disk.folder, self.superlink, self.acknowledged, self.gone)

    def down(self) -> None:
        """Let the gateway end; what it held in memory is gone."""
        self._gateway = None

    def answer(self, silo: str, call: Call) -> Any:
        """Return the gateway's answer to a silo, None where there is none; ``Over`` and ``Anew`` are answers too."""
        if self._gateway is None:
            return None
        try:
            return self._gateway.answer(silo, call)
        except (Over, Anew) as word:
            return word
        except OSError:  # 507: the disk is full
            return None
        except Killed:
            self.ended()
            return None

    def ended(self) -> None:
        """Have the gateway started again after it was killed alone; raises ``Killed`` where the power went."""
        if self.disk.dead == "power":
            raise Killed
        self.disk.revive()
        self.down()
        self._network.after(BACK_S, self._again)

    def _again(self) -> None:
        if not self.up and not self.disk.dead:
            try:
                self.start()
            except Killed:
                self.ended()

    # What the hub's own programs ask of the gateway, as ``fl_server.gateway.client.Gateway`` does.

    def status(self) -> dict[str, dict[str, Any]]:
        """Return what is known of each silo, once the gateway answers."""
        self._network.until(lambda: self.up, PATIENCE_S)
        if self._gateway is None:
            raise Away("the gateway does not run")
        return {name: seen.row(silo) for name, silo in self._gateway.seen.silos.items()}

    def kick(self) -> None:
        """Do nothing: silos ask every few seconds."""

    def news(self, heard: Heard, seconds: float) -> tuple[Heard, list[str]]:
        """Return how many replies were heard of, and the messages answered since; as soon as there are more."""
        self._network.until(lambda: self._gateway is None or self._now() != heard, seconds)
        if self._gateway is None:
            raise Away("the gateway does not run")
        now = self._now()
        return now, self._gateway.answered[heard.rings if heard.process == now.process else 0 :]

    def _now(self) -> Heard:
        return Heard(str(self._starts), len(self._gateway.answered) if self._gateway else 0)
