"""A hub's folder: ``hub.toml``, the settings that the coordinator edits, and where its Unix socket lies."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from fl_client import settings as files
from fl_client import sockets
from fl_client.address import Listening, Public, is_loopback, split
from fl_client.config import Section
from fl_client.silo import Federation

# In the environment of a hub's programs: its folder. Not BHASHA_HUB, which a coordinator sets for the commands: what is
# simulated in that shell belongs to no hub.
WITHIN = "BHASHA_WITHIN_HUB"


class Hub(Section):
    """The settings of this hub. Change them here; they hold from the next `fl-server start` on."""

    name: Federation = Field(description="The federation's name. Silos have it in their kits.")
    address: Public = Field(
        description="Where silos reach this hub, host:port. The server's certificate names the host."
    )
    listen: Listening = Field(
        description="Where the gateway listens, host:port; 0.0.0.0 is every network card."
    )
    superlink_port: int = Field(
        0, ge=0, le=65535, description="Flower's port, on loopback only; 0 takes a free one."
    )
    spool_bytes: int = Field(
        2 << 30,
        ge=1 << 20,
        description="Bytes that the replies of one silo may hold on this disk while they come in.",
    )
    spool_hours: float = Field(
        72,
        gt=0,
        allow_inf_nan=False,
        description="Hours after which a reply that stopped coming in is dropped.",
    )
    hold_s: float = Field(
        20, gt=0, le=25, description="Seconds for which a silo's question for work is held open."
    )
    max_connections: int = Field(
        8, ge=1, le=1024, description="Connections that one address of a silo may hold at once."
    )


def new(name: str, public: str) -> Hub:
    """Return the settings of a new hub that listens on the port of its public address; raises ``ConfigError``.

    It listens on every network card, or on loopback alone where its address is loopback.
    """
    host, port = split(public)
    card = "::" if ":" in host else "0.0.0.0"
    if is_loopback(host):
        card = "127.0.0.1" if host == "localhost" else host
    card = f"[{card}]" if ":" in card else card
    return files.checked(Hub, name=name, address=public, listen=f"{card}:{port}")


def read(folder: Path) -> Hub:
    """Return a hub's settings; raises ``ConfigError``."""
    return files.read(path(folder), Hub, "`fl-server init DIR` makes a hub's folder")


def create(folder: Path, hub: Hub) -> None:
    """Write ``hub.toml`` with a comment for each key; raises ``ConfigError`` where there is one."""
    files.create(path(folder), hub)


def path(folder: Path) -> Path:
    """Return where a hub's settings lie."""
    return folder / "hub.toml"


def socket(folder: Path) -> Path:
    """Return where the gateway's Unix socket lies, in a folder for this user alone; raises ``ConfigError``."""
    return sockets.path(folder, "hub")
