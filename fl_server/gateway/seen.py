"""What the gateway knows of each silo: its node, when it was last heard, what it said of itself, which runs it refused.

Kept in memory and in ``seen/NAME.json``. Liveness is the time of the last contact by the hub's own clock; Flower's
view of a node says little, as the gateway keeps it online over a bad line.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from pathlib import Path
from typing import Any, NamedTuple

from fl_client.memory import write_whole
from fl_client.silo import NAME

LOG = logging.getLogger("bhasha_fl.gateway")
CONTACT_S = 15.0  # how old the time of the last contact on disk may be
CONNECTED_S = 60.0  # a silo calls every 20 s at least
REFUSALS = 32  # runs whose refusal is remembered


class Silo(NamedTuple):
    """One silo. ``contact`` is in Unix seconds; ``refused`` gives the code by run."""

    node: int = 0
    contact: float = 0.0
    left: bool = False  # it said goodbye, or has to start anew
    activations: int = 0  # starts of its SuperNode, or of a gateway that may have lost its message
    refused: dict[str, str] = {}
    hello: dict[str, Any] = {}


class Seen(NamedTuple):
    """All silos that ever spoke, by name."""

    folder: Path
    silos: dict[str, Silo]
    written: dict[str, float]


def load(folder: Path) -> Seen:
    """Return what was kept; a file that cannot be read counts as a silo never seen."""
    silos = {}
    for path in sorted(folder.glob("*.json")):
        try:
            silos[path.stem] = Silo(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            LOG.warning("%s cannot be read (%s); the silo is met anew", path, error)
    return Seen(folder, {n: s for n, s in silos.items() if NAME.fullmatch(n)}, {})


def of(seen: Seen, name: str) -> Silo:
    """Return what is known of a silo."""
    return seen.silos.get(name, Silo())


def note(seen: Seen, name: str, **changes: Any) -> None:
    """Change what is known of a silo, durably."""
    seen.silos[name] = of(seen, name)._replace(**changes)
    write_whole(_path(seen, name), _content(seen, name))


def hear(seen: Seen, name: str) -> None:
    """Note that a silo was heard just now."""
    now = time.time()
    seen.silos[name] = of(seen, name)._replace(contact=now)
    if not 0 <= now - seen.written.get(name, 0.0) < CONTACT_S:
        seen.written[name] = now
        part = _path(seen, name).with_suffix(".part")  # no fsync: this may be lost in a power cut,
        with contextlib.suppress(OSError):  # and a full disk is no reason to turn a silo away
            part.write_bytes(_content(seen, name))
            part.replace(_path(seen, name))


def _path(seen: Seen, name: str) -> Path:
    return seen.folder / f"{name}.json"


def _content(seen: Seen, name: str) -> bytes:
    return json.dumps(seen.silos[name]._asdict(), sort_keys=True).encode()


def refuse(seen: Seen, name: str, run: int, code: str) -> None:
    """Note that a silo's own gateway refused a run."""
    refused = of(seen, name).refused | {str(run): code}
    note(seen, name, refused=dict(list(refused.items())[-REFUSALS:]))


def row(silo: Silo) -> dict[str, Any]:
    """Return what is known of a silo as the hub's own programs are told."""
    ago = max(0.0, time.time() - silo.contact)
    return silo.hello | {
        "node_id": silo.node,
        "connected": bool(silo.node) and not silo.left and ago < CONNECTED_S,
        "last_contact_s_ago": round(ago, 1) if silo.contact else None,
        "activations": silo.activations,
        "refused": silo.refused,
    }
